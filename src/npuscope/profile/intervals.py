"""Sets of time intervals as sorted arrays: union, intersection, gaps. Any integer unit; half-open `[start, end)`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ticks = npt.NDArray[np.int64]
Intervals = tuple[Ticks, Ticks]
"""Starts and ends; after `merge`, sorted and disjoint."""


def merge(start: Ticks, end: Ticks, *, touching: bool = True) -> Intervals:
    """The union of intervals as sorted, disjoint ones; empty and inverted intervals are left out.

    Args:
        start: Starts, in any order.
        end: Ends, one for each start.
        touching: Join intervals of which one ends where the next begins.
    """
    start, end = np.asarray(start, np.int64), np.asarray(end, np.int64)
    kept = end > start
    if not kept.all():
        start, end = start[kept], end[kept]
    if start.size == 0:
        return start, end
    if not (start[1:] >= start[:-1]).all():  # most tables come sorted
        order = np.argsort(start, kind="stable")
        start, end = start[order], end[order]
    reach = np.maximum.accumulate(end)
    begins = np.empty(start.size, bool)
    begins[0] = True
    begins[1:] = start[1:] > reach[:-1] if touching else start[1:] >= reach[:-1]
    first = np.flatnonzero(begins)
    last = np.append(first[1:], start.size) - 1
    return start[first], reach[last]


def union_length(start: Ticks, end: Ticks) -> int:
    """How much time at least one interval covers."""
    first, last = merge(start, end)
    return int((last - first).sum())


def intersection_length(left: Intervals, right: Intervals) -> int:
    """How much time two merged sets share; O((n + m) log)."""
    return int(covered(left, *right).sum()) if left[0].size and right[0].size else 0


def covered(merged: Intervals, start: Ticks, end: Ticks) -> Ticks:
    """How much of each interval `[start, end)` a merged set covers."""
    first, last = merged
    if first.size == 0:
        return np.zeros(start.size, np.int64)
    total = np.concatenate([[0], np.cumsum(last - first)])
    return _measure_before(first, last, total, end) - _measure_before(first, last, total, start)


def _measure_before(first: Ticks, last: Ticks, total: Ticks, at: Ticks) -> Ticks:
    """Covered time before each instant of `at`."""
    index = np.searchsorted(first, at, side="right")
    inside = np.maximum(index - 1, 0)
    partial = np.minimum(at, last[inside]) - first[inside]
    return np.where(index > 0, total[inside] + np.maximum(partial, 0), 0)


def gaps(merged: Intervals, begin: int, end: int) -> Intervals:
    """The parts of `[begin, end)` that a merged set leaves uncovered."""
    first, last = merged
    start = np.concatenate([[begin], last])
    stop = np.concatenate([first, [end]])
    start, stop = np.clip(start, begin, end), np.clip(stop, begin, end)
    kept = stop > start
    return start[kept], stop[kept]
