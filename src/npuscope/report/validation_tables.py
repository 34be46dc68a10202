"""What `npuscope simulate --validate` shows a person: the model's errors first, then every point, the worst first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npuscope.report.grid import Grid, table

if TYPE_CHECKING:
    from npuscope.simulate.validation import Comparison, Report


def validation_lines(report: Report) -> list[str]:
    """The model, and what could not be predicted."""
    failed = [result for result in report.comparisons if result.error is None]
    lines = [f"model {report.model} ({report.digest}) against {len(report.comparisons)} published figures; SIMULATED"]
    lines += [f"not predicted: {item.point.family}, {item.point.name}: {item.failure}" for item in failed]
    return lines


def errors_table(report: Report) -> Grid:
    """Median and largest error by role and kind."""
    rows = [
        [line.role, line.bucket, str(line.count), f"{line.median_percent:.1f} %", f"{line.max_percent:.1f} %"]
        for line in report.errors
    ]
    return table(["<used to", "<kind", "points", "median error", "largest"], rows)


def points_table(report: Report) -> Grid:
    """One row per point."""
    rows = [
        [
            f"{result.point.family}: {result.point.name}",
            result.point.device,
            result.point.role,
            _published(result),
            "-" if result.predicted is None else f"{result.predicted:,.5g}",
            result.unit,
            "-" if result.error is None else f"{100 * result.error:+.1f} %",
        ]
        for result in report.comparisons
    ]
    return table(["<what", "<device", "<used to", "published", "predicted", "<unit", "error"], rows, whole=True)


def _published(result: Comparison) -> str:
    low, high = (f"{value:,.5g}" for value in (result.point.low, result.point.high))
    return low if low == high else f"{low} to {high}"
