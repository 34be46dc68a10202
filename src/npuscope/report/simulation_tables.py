"""What `npuscope simulate` shows a person beside what `analyze` shows of any profile: prediction, results, lines, effects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from npuscope.report.grid import Grid, table
from npuscope.report.quantities import bar
from npuscope.units import format_ns, format_percent

if TYPE_CHECKING:
    from npuscope.analysis.analyze import Analysis
    from npuscope.simulate.checking import OutputCheck
    from npuscope.simulate.neuroncore.options import ModelOptions
    from npuscope.simulate.simulation import EffectWorth, Simulation
    from npuscope.simulate.source_lines import LineUse

_MAX_LINES = 12
_LEAST_SHARE = 0.005
"""Of the longest line; what is below it is not worth a row."""
_LEAST_NS = 0.5


def headline(simulation: Simulation, analysis: Analysis) -> str:
    """The prediction in one line: time, device, that no device ran it, and what holds it back."""
    grid = f", grid {'x'.join(map(str, simulation.grid))}" if simulation.grid else ""
    cores = f", {simulation.lnc} physical cores as one" if simulation.lnc > 1 else ""
    bound = analysis.bound
    held = f"; {bound.kind} bound ({format_percent(bound.share, 0)} of the time)" if bound.share else ""
    what = "study, not predicted," if simulation.options.disabled else "predicted"
    return (
        f"{simulation.kernel} on {simulation.device}{grid}{cores}: {what} {format_ns(simulation.total_time_ns)}"
        f"{held}; {simulation.instruction_count:,} instructions; SIMULATED by {simulation.model}, no device ran it"
    )


def check_lines(simulation: Simulation, reference: str) -> list[str]:
    """Whether each result is right, or why that is not known."""
    if simulation.checks:
        return [_check_line(check, reference) for check in simulation.checks]
    if not simulation.computed:
        return ["results were not computed (--no-compute)"]
    count = len(simulation.outputs)
    return [f"{count} result{'s' * (count != 1)} computed and not compared: no --reference given"]


def _check_line(check: OutputCheck, reference: str) -> str:
    verdict = "right" if check.passed else f"WRONG in {check.wrong_elements:,} of {math.prod(check.shape):,} elements"
    allowed = "exact" if check.tolerance == 0 else f"allowed {check.tolerance:.2g}"
    return (
        f"result {check.index}, {check.dtype}{list(check.shape)}: {verdict}; largest error {check.max_abs_error:.3g},"
        f" relative {check.max_relative_error:.2g} ({allowed}), against {reference}"
    )


def bounding_engine(analysis: Analysis) -> str:
    """The engine, or DMA, that is busy for most of the kernel's time; "" without events."""
    busiest = max(analysis.engines, key=lambda use: use.active_in_kernel_ns, default=None)
    return "" if busiest is None else busiest.name


def lines_table(lines: Sequence[LineUse], bounding: str, what: str = "source lines") -> Grid | None:
    """The kernel's source lines by the time of the engine that holds the kernel back; the others' after it."""
    longest = max((use.busy_ns for use in lines), default=0.0)
    if longest <= 0:
        return None
    ranked = sorted(lines, key=lambda use: (use.engine != bounding, -use.busy_ns))
    worth = [use for use in ranked if use.busy_ns >= _LEAST_SHARE * longest]
    rows = [
        [
            use.line or "(no line)",
            use.engine + " *" * (use.engine == bounding),
            ", ".join(use.opcodes[:2]) + ", ..." * (len(use.opcodes) > 2),
            f"{use.instruction_count:,}",
            format_ns(use.busy_ns),
            bar(use.share_of_engine),
            format_percent(use.share_of_engine),
        ]
        for use in worth[:_MAX_LINES]
    ]
    left = len(lines) - len(rows)
    title = (
        f"{what}, those of {bounding} first (*); durations summed, also of what runs at once"
        + f"; {left} more with --json" * (left > 0)
    )
    return table(
        ["<line" if what == "source lines" else "<op", "<engine", "<what", "count", "summed", "<", "of the engine's"],
        rows,
        title,
    )


def assumption_lines(options: ModelOptions) -> list[str]:
    """What the model assumes of the compiler where a kernel leaves it the choice."""
    buffers = f"at most {options.buffers} buffers" if options.buffers else "as many buffers as the memory holds"
    buffers = f"{buffers} per tile (--buffers)" if options.has("buffers") else "one buffer per tile (--without buffers)"
    order = f"reordered within {options.window} instructions of an engine (--window)"
    if not options.has("reorder"):
        order = "program order (--without reorder)"
    elif options.window == 1:
        order = "program order (--window)"
    lines = [f"assumed of the compiler: {order}, {buffers}"]
    if options.disabled:
        lines.append(f"switched off, so this is a study and no prediction: {', '.join(sorted(options.disabled))}")
    return lines


def core_lines(lnc: int, instruction_counts: Sequence[int], launch_ns: float) -> list[str]:
    """Of several physical cores: which part of the time is their launch, and whether one has nothing to do.

    Args:
        lnc: Physical cores per logical core; of one, nothing is told.
        instruction_counts: Of each core that was given a program.
        launch_ns: What their launch takes.
    """
    if lnc < 2:
        return []
    launched = len(instruction_counts)
    cores = f"{launched} cores" if launched > 1 else "one core"
    lines = [f"the launch of {cores} is {format_ns(launch_ns)} of the time"]
    idle = lnc - sum(1 for count in instruction_counts if count)
    if idle:
        lines.append(f"{idle} of {lnc} cores has no work: give a --grid whose programs are shared out among them")
    return lines


def effects_table(effects: Sequence[EffectWorth], total_ns: float) -> Grid | None:
    """Each effect without which the time changes, the largest change first; None where there is none."""
    ranked = sorted(effects, key=lambda item: -abs(item.total_time_ns - total_ns))
    rows = [
        [
            item.effect,
            format_ns(item.total_time_ns),
            f"{'+' if item.total_time_ns >= total_ns else '-'}{format_ns(abs(item.total_time_ns - total_ns))}",
            f"{'+' if item.total_time_ns >= total_ns else ''}{format_percent((item.total_time_ns - total_ns) / total_ns)}",
            item.description,
        ]
        for item in ranked
        if _is_worth(item, total_ns)
    ]
    return table(["<without", "time", "change", "of time", "<what it stands for"], rows) if rows else None


def effect_lines(effects: Sequence[EffectWorth], total_ns: float) -> list[str]:
    """The effects that change nothing in this kernel."""
    idle = [item.effect for item in effects if not _is_worth(item, total_ns)]
    return [f"without these the time is the same: {', '.join(idle)}"] if idle else []


def _is_worth(item: EffectWorth, total_ns: float) -> bool:
    return total_ns > 0 and abs(item.total_time_ns - total_ns) >= _LEAST_NS
