"""What `npuscope simulate` says of any prediction, of a kernel's as of an XLA program's: JSON, folder and screen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npuscope.cli.output import console, paragraph_width, say, tell

if TYPE_CHECKING:
    from rich.console import RenderableType

    from npuscope.analysis.analyze import Analysis
    from npuscope.simulate.hlo.simulation import HloSimulation
    from npuscope.simulate.simulation import EffectWorth, Simulation


def document(
    prediction: Simulation | HloSimulation,
    analysis: Analysis,
    worth: tuple[EffectWorth, ...],
    out: Path | None,
    subject: dict[str, Any],
    own: dict[str, Any],
) -> dict[str, Any]:
    """For JSON, with the keys that scripts rely on first.

    Args:
        prediction: Of either kind.
        analysis: Of its profile.
        worth: Of each effect of the model; () where nobody asked.
        out: The folder that it is written to.
        subject: Keys that say what was simulated.
        own: Keys of this kind of prediction.
    """
    explained = analysis.document()
    return {
        "total_time_ns": prediction.total_time_ns,
        "is_simulated": True,
        "device": prediction.device,
        **subject,
        "model": prediction.model,
        "model_error": model_error(analysis),
        "instruction_count": prediction.instruction_count,
        "bound": explained["bound"],
        "summary": explained["summary"],
        **own,
        "options": {
            "window": prediction.options.window,
            "buffers": prediction.options.buffers,
            "without": sorted(prediction.options.disabled),
        },
        "effects": worth,
        "profile": out,
        **{key: explained[key] for key in ("engines", "dma", "bounds", "roofline", "findings")},
        "notes": [*prediction.notes, *explained["notes"]],
    }


def write(prediction: Simulation | HloSimulation, told: dict[str, Any], out: Path) -> None:
    """The profile as a folder that every reading command takes, and run.json beside its tables."""
    from npuscope._files import write_text_atomically
    from npuscope.measure.provenance import collect
    from npuscope.profile.folder import write_profile
    from npuscope.report.document import to_json

    profile = prediction.profile
    write_profile(replace(profile, notes=(*profile.notes, *prediction.notes, told["model_error"])), out)
    write_text_atomically(out / "run.json", to_json({**told, "sessions": [collect()]}) + "\n")


def show(
    prediction: Simulation | HloSimulation,
    analysis: Analysis,
    worth: tuple[EffectWorth, ...],
    out: Path | None,
    *,
    headline: str,
    head: Iterable[str],
    tables: Sequence[RenderableType | None],
    foot: Iterable[str] = (),
    told: Sequence[str] = (),
    is_advised: bool = True,
) -> None:
    """On the screen: what it comes to, why, what to do about it, and what the model assumes.

    Args:
        prediction: Of either kind.
        analysis: Of its profile.
        worth: Of each effect of the model.
        out: The folder that it was written to.
        headline: Its first line.
        head: Lines behind the model's error.
        tables: Behind that of the engines.
        foot: Lines behind the model's assumptions.
        told: Notes that stand elsewhere.
        is_advised: Whether to say what to do first.
    """
    from npuscope.report import profile_tables, simulation_tables
    from npuscope.report.notes import telling

    screen, width = console(), paragraph_width()
    tell([headline, f"  {model_error(analysis)}"])
    tell(head)
    tell(profile_tables.advice_lines(analysis) if is_advised else [])
    tell(profile_tables.bound_lines(analysis))
    tell(profile_tables.roofline_lines(analysis))
    for made in (profile_tables.engine_table(analysis) if analysis.engines else None, *tables):
        if made is not None:
            say("")
            screen.print(made)
    tell(["", *profile_tables.dma_lines(analysis)] if analysis.dma else [])
    tell(["", profile_tables.findings_line(analysis)])
    for number, finding in enumerate(analysis.findings, 1):
        for line in profile_tables.finding_lines(finding, number, width):
            say(line)
    if worth:
        made = simulation_tables.effects_table(worth, prediction.total_time_ns)
        say("")
        if made is not None:
            screen.print(made)
        tell(simulation_tables.effect_lines(worth, prediction.total_time_ns))
    tell(["", *simulation_tables.assumption_lines(prediction.options)])
    tell(foot)
    tell(
        f"note: {note}" for note in telling([note for note in (*prediction.notes, *analysis.notes) if note not in told])
    )
    if out is not None:
        tell([f"profile: {out}; npuscope analyze {out}, query, compare, or export --perfetto for ui.perfetto.dev"])


def model_error(analysis: Analysis) -> str:
    """How far this model has been off, so that no figure stands without it."""
    from npuscope.simulate.validation.stored import error_statement

    return error_statement(analysis.bound.kind)
