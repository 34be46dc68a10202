"""What `npuscope compare` shows a person."""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import TYPE_CHECKING

from npuscope.report.grid import Grid, table
from npuscope.report.quantities import label, quantity
from npuscope.units import format_ns, format_percent

if TYPE_CHECKING:
    from npuscope.analysis.compare import Comparison, Difference
    from npuscope.analysis.compare_results import ResultsComparison

_MAX_CHANGES = 25
_LEAST_NS = 0.5
"""Less than the clock of a device tells apart."""
_UTILISATION = ("mfu", "hfu", "mbu")


def sides_table(comparison: Comparison) -> Grid:
    """One column a profile."""
    sides = comparison.profiles
    rows = [
        ["device", *(f"{side.device}, {'SIMULATED' if side.is_simulated else 'measured'}" for side in sides)],
        ["execution", *("simulated" if side.is_simulated else "cold" if side.is_cold else "warm" for side in sides)],
        ["kernel time", *(format_ns(side.kernel_time_ns) for side in sides)],
        ["of the baseline's", *(f"{side.ratio:.3f} x" for side in sides)],
        ["total_time", *(format_ns(side.total_ns) for side in sides)],
        ["limited by", *(side.bound for side in sides)],
    ]
    for name in sides[0].figures:
        values = [side.figures[name] for side in sides]
        if any(value is not None for value in values):
            rows.append([_title(name), *(_figure(name, value) for value in values)])
    names = [PurePath(side.source).name or side.source for side in sides]
    return table(["<", *(f"{name} (baseline)" if index == 0 else name for index, name in enumerate(names))], rows)


def _title(name: str) -> str:
    return name.upper() if name in _UTILISATION else label(name)


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return format_percent(value) if name in _UTILISATION else quantity(name, value)


def difference_lines(difference: Difference) -> list[str]:
    """The change in one sentence, what allows or taints it, and how to read its parts."""
    name = PurePath(difference.source).name or difference.source
    lines = [
        f"{name}: kernel time {_signed(difference.change_ns)} ({difference.ratio:.3f} x the baseline's)",
        *(f"  {remark}" for remark in difference.remarks),
    ]
    if not _is_changed(difference):
        return [*lines, "  no difference in any part of the kernel's time"]
    if abs(difference.unexplained_ns) >= _LEAST_NS:
        lines.append(f"  {_signed(difference.unexplained_ns)} of the change is in none of the parts below")
    if abs(difference.change_ns) < _LEAST_NS:
        lines.append("  the parts below cancel one another")
    elif _cancels(difference):
        lines.append("  parts below go both ways and cancel in part, so they are given in time and not as shares")
    return [*lines, "  of what runs at once only the busiest resource counts; what it hides does not limit the kernel"]


def _signed(duration_ns: float) -> str:
    return f"{'+' if duration_ns >= 0 else '-'}{format_ns(abs(duration_ns))}"


def _is_changed(difference: Difference) -> bool:
    return any(abs(change.change_ns) >= _LEAST_NS for change in difference.changes)


def _cancels(difference: Difference) -> bool:
    """Whether a part changed by more than the whole: its share would exceed 100 %."""
    return any(abs(change.share_of_change or 0.0) > 1 for change in difference.changes)


def changes_table(difference: Difference) -> Grid | None:
    """Contributions, the largest first, from half a nanosecond; None where there are none."""
    if not _is_changed(difference):
        return None
    shares = abs(difference.change_ns) >= _LEAST_NS and not _cancels(difference)
    rows = [
        [
            change.resource,
            change.part,
            format_ns(change.before_ns),
            format_ns(change.after_ns),
            _signed(change.change_ns),
            *(["-" if change.share_of_change is None else format_percent(change.share_of_change)] if shares else []),
        ]
        for change in difference.changes[:_MAX_CHANGES]
        if abs(change.change_ns) >= _LEAST_NS
    ]
    left = len(difference.changes) - len(rows)
    title = f"the largest {len(rows)} of {len(difference.changes)} parts; --json has all" if left > 0 else None
    headings = ["<where", "<what", "before", "after", "change", *(["share of the change"] if shares else [])]
    return table(headings, rows, title)


def results_lines(comparison: ResultsComparison) -> list[str]:
    """Which devices, the mean ratio, and what is not compared."""
    lines = [f"baseline {comparison.baseline}: {comparison.devices[0]}"]
    others = zip(comparison.sources[1:], comparison.devices[1:], strict=True)
    lines += [f"against {source}: {device}" for source, device in others]
    if comparison.geometric_mean_ratio is not None:
        lines.append(f"geometric mean of the judged ratios: {comparison.geometric_mean_ratio:.3f} x")
    lines += [f"note: {note}" for note in comparison.notes]
    return lines + [f"not compared: {text}" for text in comparison.only_in_one[:10]]


def results_table(comparison: ResultsComparison) -> Grid:
    """One row per workload, the largest change in time first."""
    several = len(comparison.sources) > 2
    rows = [
        [
            *([row.source] if several else []),
            row.shape,
            row.dtype,
            format_ns(1e6 * row.before_ms),
            format_ns(1e6 * row.after_ms),
            f"{row.ratio:.3f} x",
            "-" if math.isnan(row.ratio_low) else f"{row.ratio_low:.3f} to {row.ratio_high:.3f}",
            row.verdict,
            row.remark,
        ]
        for row in comparison.rows
    ]
    headings = [
        *(["<folder"] if several else []),
        "<shape",
        "<dtype",
        "before",
        "after",
        "ratio",
        "95 %",
        "<verdict",
        "<remark",
    ]
    return table(headings, rows)
