"""What a study of patterns shows a person: results, the comparison, scaling, insights, bottlenecks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from npuscope.report.grid import Grid, table
from npuscope.report.quantities import bar
from npuscope.units import format_ns, format_percent

if TYPE_CHECKING:
    from npuscope.analysis.pattern_comparison import PatternComparison
    from npuscope.analysis.pattern_scaling import ScalingStudy
    from npuscope.analysis.questions import Bottlenecks

_MAX_BOTTLENECKS = 15
_MS = 1e6


@dataclass(frozen=True, slots=True)
class PatternResult:
    """One program on one device, as the result table shows it; what is not known is None."""

    device: str
    is_simulated: bool
    pattern: str
    iterations: int
    compile_ms: float | None = None
    first_run_ms: float | None = None
    steady_ms: float | None = None
    """Median of steady-state runs; of a simulation, the predicted time."""
    steady_low_ms: float | None = None
    """95 % interval of the median."""
    steady_high_ms: float | None = None
    total_slices: int | None = None
    bound: str | None = None
    max_abs_error: float | None = None
    """Against the float64 reference."""
    failure: str = ""
    """Why there are no figures; '' where there are."""


def result_table(results: Sequence[PatternResult]) -> Grid:
    """One row a program and device; a failed one has its reason and no figures."""
    failed = any(result.failure for result in results)
    rows = [
        [
            result.device,
            result.pattern,
            f"{result.iterations:,}",
            "SIMULATED" if result.is_simulated else "measured",
            _duration(result.compile_ms),
            _duration(result.first_run_ms),
            _duration(result.steady_ms),
            _interval(result.steady_low_ms, result.steady_high_ms),
            _count(result.total_slices),
            result.bound or "-",
            "-" if result.max_abs_error is None else f"{result.max_abs_error:.2g}",
            *([result.failure] if failed else []),
        ]
        for result in results
    ]
    headings = [
        "<device",
        "<pattern",
        "iterations",
        "<how",
        "compile",
        "first run",
        "steady",
        "95 %",
        "slices",
        "<bound",
        "max abs error",
        *(["<failed"] if failed else []),
    ]
    return table(headings, rows)


def comparison_table(comparison: PatternComparison) -> Grid:
    """Total slices, TensorMatrix and other time, and the rank: 1 is the fastest."""
    how = "SIMULATED" if all(row.is_simulated for row in comparison.rows) else comparison.method
    remarks = any(row.remark for row in comparison.rows)
    rows = [
        [
            row.name,
            f"{row.iterations:,}",
            _count(row.traced_runs),
            _count(row.total_slices),
            _figure(row.tensor_matrix_ms),
            _figure(row.other_ms),
            _figure(row.time_ms),
            "-" if row.rank is None else str(row.rank),
            *([row.remark] if remarks else []),
        ]
        for row in comparison.rows
    ]
    headings = [
        "<Pattern",
        "Iterations",
        "Traced Runs",
        "Total Slices",
        "TensorMatrix ms",
        "Other ms",
        "Time ms",
        "Rank",
    ]
    title = f"{comparison.device}, {how}: " + ("fastest first" if comparison.is_comparable else comparison.refused)
    return table([*headings, *(["<Remark"] if remarks else [])], rows, title)


def finding_lines(comparison: PatternComparison) -> list[str]:
    """What each trace shows, under a heading."""
    return ["STATISTICAL FINDINGS", *(f"  {line}" for line in comparison.findings)] if comparison.findings else []


def insight_lines(comparison: PatternComparison) -> list[str]:
    """What follows, with the calculations, and what it is worth."""
    lines = ["INSIGHTS", *(f"  {line}" for line in comparison.insights)] if comparison.insights else []
    return [*lines, *(f"note: {note}" for note in comparison.notes)]


def scaling_lines(study: ScalingStudy) -> list[str]:
    """In words, with the calculation, where a line does not hold; and the notes."""
    doubted = [fit.sentence for series in study.series for fit in series.fits if fit.holds is False]
    return [*doubted, *(f"note: {note}" for note in study.notes)]


def scaling_table(study: ScalingStudy) -> Grid | None:
    """Every fit in figures; None where there is none."""
    rows = [
        [
            series.device,
            series.pattern,
            "SIMULATED" if series.is_simulated else series.method,
            fit.quantity,
            ", ".join(str(length) for length in fit.iterations),
            format_ns(fit.fixed) if fit.unit else f"{fit.fixed:.4g}",
            format_ns(fit.per_iteration) if fit.unit else f"{fit.per_iteration:.4g}",
            "-" if fit.r_squared is None else f"{fit.r_squared:.4f}",
            "-" if fit.holds is None else format_percent(fit.largest_residual),
            "not judged" if fit.holds is None else "yes" if fit.holds else "NO",
        ]
        for series in study.series
        for fit in series.fits
    ]
    headings = [
        "<device",
        "<pattern",
        "<how",
        "<what",
        "<iterations",
        "fixed",
        "per iteration",
        "R²",
        "largest residual",
        "<holds",
    ]
    return table(headings, rows) if rows else None


def occupation_table(answer: Bottlenecks) -> Grid:
    """What each trace kept busy."""
    rows = [
        [
            item.trace,
            f"{item.device}{', SIMULATED' * item.is_simulated}",
            item.bound,
            item.busiest or "-",
            bar(item.busiest_share) if item.busiest_share is not None else "-",
            _share(item.busiest_share),
            _share(item.idle_share),
            ", ".join(item.idle) or "-",
        ]
        for item in answer.traces
    ]
    headings = ["<trace", "<device", "<bound", "<busiest", "<", "active", "nothing active", "<idle"]
    return table(headings, rows)


def bottleneck_table(answer: Bottlenecks) -> Grid | None:
    """Findings over all traces, the most severe and largest first; None where no rule applies."""
    if not answer.bottlenecks:
        return None
    shown = answer.bottlenecks[:_MAX_BOTTLENECKS]
    rows = [
        [
            item.finding.severity,
            f"{item.trace} on {item.device}",
            item.finding.rule,
            "-" if item.finding.gain.ns is None else f"up to {format_ns(item.finding.gain.ns)}",
            item.finding.action,
        ]
        for item in shown
    ]
    left = len(answer.bottlenecks) - len(shown)
    title = f"the first {len(shown)} of {len(answer.bottlenecks)} findings; --json has all" if left > 0 else None
    return table(["<severity", "<trace", "<finding", "gain", "<what to do"], rows, title)


def _duration(value_ms: float | None) -> str:
    return "-" if value_ms is None else format_ns(_MS * value_ms)


def _interval(low_ms: float | None, high_ms: float | None) -> str:
    return "-" if low_ms is None or high_ms is None else f"{_duration(low_ms)} to {_duration(high_ms)}"


def _figure(value_ms: float | None) -> str:
    """Milliseconds with as many digits as count, without an exponent that a column of figures hides."""
    return "-" if value_ms is None else f"{value_ms:.6f}" if value_ms < 1 else f"{value_ms:.3f}"


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _share(value: float | None) -> str:
    return "-" if value is None else format_percent(value)
