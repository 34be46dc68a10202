"""Traces of patterns in a folder that somebody left: which is of which pattern, what each shows, and how far they compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npuscope.analysis import pattern_scaling
from npuscope.analysis.pattern_comparison import PatternComparison, compare_groups
from npuscope.analysis.pattern_scaling import ScalingStudy
from npuscope.analysis.pattern_trace import Latency, PatternTrace, TraceAnalysis
from npuscope.analysis.questions import Bottlenecks, analyze, bottlenecks
from npuscope.errors import FormatError, UsageError
from npuscope.formats.limited_json import as_count, as_list, parse_limited_json
from npuscope.formats.pattern_folder import find_profile, read_mapping, read_pattern

_REPORT = "report.json"
_MOST_PATTERNS = 100
_REPORT_BYTES = 64 << 20
_LONGEST_MS = 1e12
"""Beyond any run: a figure of a damaged report."""


@dataclass(frozen=True, slots=True)
class FolderStudy:
    """What the traces of a folder show."""

    folder: str
    traces: tuple[PatternTrace, ...]
    found_by: tuple[str, ...]
    """Per trace, which step found its file."""
    analyses: tuple[TraceAnalysis, ...]
    comparisons: tuple[PatternComparison, ...]
    scaling: ScalingStudy
    bottlenecks: Bottlenecks
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "folder": self.folder,
            "traces": [
                {"found_by": how, **analysis.document()}
                for how, analysis in zip(self.found_by, self.analyses, strict=True)
            ],
            "comparisons": [comparison.document() for comparison in self.comparisons],
            "scaling": self.scaling.document(),
            "bottlenecks": self.bottlenecks.document(),
            "notes": self.notes,
        }


def study_folder(
    folder: Path, names: Sequence[str] | None = None, tell: Callable[[str], None] = lambda _: None
) -> FolderStudy:
    """Explain and compare the traces of a folder.

    A folder that `npuscope patterns` wrote tells what each program computes; of a foreign one that is not known, so that its
    traces stand side by side and are not ranked.

    Args:
        folder: Ours, or one with `perfetto_pattern_mapping.json`, or with traces named after their patterns.
        names: Patterns to look for; None takes those of the mapping.
        tell: Is called with a line about what is done now.

    Raises:
        UsageError: No folder, or no trace of a pattern in it.
        FormatError: The mapping or a trace is damaged.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; --from takes one with traces of patterns")
    if names is None:
        try:
            names = read_mapping(folder).patterns
        except FormatError:
            if (folder / "perfetto_pattern_mapping.json").exists():
                raise
            names = ()
        if not names:
            raise UsageError(
                f"{folder} has no perfetto_pattern_mapping.json that names patterns; give --pattern NAME,NAME"
            )
    names = tuple(dict.fromkeys(names))
    if len(names) > _MOST_PATTERNS:
        raise UsageError(
            f"{folder} names {len(names):,} patterns, more than {_MOST_PATTERNS}; choose some with --pattern"
        )
    places: dict[Path, str] = {}
    for name in names:
        place = find_profile(folder, name)[0].resolve()
        if place in places:
            raise UsageError(
                f"{name} and {places[place]} are one file, {place.name}; choose one of them with --pattern"
            )
        places[place] = name
    known = _own_results(folder)
    traces, found_by, notes = [], [], []
    for name in names:
        tell(f"reading the trace of {name}")
        profile, how = read_pattern(folder, name)
        facts = known.get(Path(profile.source).name, {})
        if not facts:
            notes.append(f"{name}: what it computes is not known; its trace is not ranked against others")
        traces.append(
            PatternTrace(
                pattern=str(facts.get("pattern") or name),
                size=str(facts.get("size") or ""),
                iterations=as_count(facts.get("iterations")) or 1,
                device=str(facts.get("device") or profile.device or "unknown device"),
                is_simulated=profile.is_simulation,
                work=str(facts.get("work") or f"unknown work of {name}"),
                profile=profile,
                latency=_latency(facts),
                runs=as_count(facts.get("traced_runs")) or 1,
                path=profile.source,
            )
        )
        found_by.append(how)
    analyses = [analyze(trace) for trace in traces]
    return FolderStudy(
        folder=str(folder),
        traces=tuple(traces),
        found_by=tuple(found_by),
        analyses=tuple(analyses),
        comparisons=compare_groups(traces, analyses=analyses) if len(traces) > 1 else (),
        scaling=pattern_scaling.scaling(traces, analyses=analyses),
        bottlenecks=bottlenecks(traces, analyses=analyses),
        notes=tuple(dict.fromkeys(notes)),
    )


def _latency(facts: dict[str, Any]) -> Latency | None:
    """The time that the study told: its trace holds other runs, and of a prediction no launch."""
    median, low, high = (
        value * 1e6 if isinstance(value, int | float) and 0 <= value < _LONGEST_MS else None
        for value in (facts.get(name) for name in ("steady_ms", "steady_ci_low_ms", "steady_ci_high_ms"))
    )
    return None if median is None else Latency(median, low, high)


def _own_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Trace file to its row, of a folder that `npuscope patterns` wrote; {} of others."""
    path = folder / _REPORT
    if not path.is_file() or path.stat().st_size > _REPORT_BYTES:
        return {}
    report = parse_limited_json(path.read_bytes(), path)
    if not isinstance(report, dict):
        return {}
    rows = [row for row in as_list(report.get("results")) if isinstance(row, dict)]
    return {
        f"{str(row.get('device')).replace(':', '-')}_{row.get('pattern')}_{row.get('size')}.pftrace": row
        for row in rows
    }
