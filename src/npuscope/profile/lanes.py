"""Overlapping intervals on lanes: a track of a trace viewer holds slices that are apart, or that nest."""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

Ticks = npt.NDArray[np.int64]
_NESTING_LANES = 32
"""Lanes of one run in which intervals nest; what fits in none of them is put side by side, so that time stays linear."""


def assign_lanes(start: Ticks, end: Ticks, group: Ticks) -> Ticks:
    """The lowest lane of its group in which each interval meets no other.

    Touching intervals share a lane. Only runs of overlapping intervals are walked one by one.

    Args:
        start: Starts [n], ascending.
        end: Ends [n], none before its start.
        group: Group of each interval [n]; groups do not see each other.

    Returns:
        Lane of each interval [n], int64, from 0.
    """
    lanes = np.zeros(start.size, np.int64)
    order = np.argsort(group, kind="stable")
    for first, last in _crowded_runs(start[order], end[order], group[order]):
        members = order[first:last]
        run = _Lanes()
        lanes[members] = [
            run.take(*interval) for interval in zip(start[members].tolist(), end[members].tolist(), strict=True)
        ]
    return lanes


def nest_lanes(start: Ticks, end: Ticks, group: Ticks) -> tuple[Ticks, Ticks, Ticks]:
    """As `assign_lanes`, but an interval may lie within another of its lane.

    Args:
        start: Starts [n], ascending; of equal starts the longer first.
        end: Ends [n], none before its start.
        group: Group of each interval [n].

    Returns:
        Lane [n], depth in its lane [n], and index of the enclosing interval [n] or -1.
    """
    lanes, depths = np.zeros(start.size, np.int64), np.zeros(start.size, np.int64)
    parents = np.full(start.size, -1, np.int64)
    order = np.argsort(group, kind="stable")
    for first, last in _crowded_runs(start[order], end[order], group[order]):
        members = order[first:last]
        stacks: list[list[int]] = []
        beyond = _Lanes()
        ends = end[members].tolist()
        for index, begin in enumerate(start[members].tolist()):
            lane = _nesting_lane(stacks, ends, begin, ends[index])
            if lane == _NESTING_LANES:
                lanes[members[index]] = lane + beyond.take(begin, ends[index])
                continue
            stack = stacks[lane]
            lanes[members[index]], depths[members[index]] = lane, len(stack)
            parents[members[index]] = members[stack[-1]] if stack else -1
            stack.append(index)
    return lanes, depths, parents


def _nesting_lane(stacks: list[list[int]], ends: list[int], begin: int, end: int) -> int:
    """The first lane whose innermost open interval encloses `[begin, end)`, or that is free, or a new one, if any."""
    for lane, stack in enumerate(stacks):
        while stack and ends[stack[-1]] <= begin:
            stack.pop()
        if not stack or ends[stack[-1]] >= end:
            return lane
    if len(stacks) < _NESTING_LANES:
        stacks.append([])
        return len(stacks) - 1
    return _NESTING_LANES


def _crowded_runs(start: Ticks, end: Ticks, group: Ticks) -> list[tuple[int, int]]:
    """Index ranges, within one group each, whose intervals overlap one another; intervals alone are left out."""
    if start.size < 2:
        return []
    reach = _running_end(end, group)
    begins = np.empty(start.size, bool)
    begins[0] = True
    begins[1:] = (start[1:] >= reach[:-1]) | (group[1:] != group[:-1])
    first = np.flatnonzero(begins)
    last = np.append(first[1:], start.size)
    crowded = last - first > 1
    return list(zip(first[crowded].tolist(), last[crowded].tolist(), strict=True))


def _running_end(end: Ticks, group: Ticks) -> Ticks:
    """The latest end so far within each group; groups are contiguous."""
    reach = np.empty_like(end)
    edges = np.flatnonzero(group[1:] != group[:-1]) + 1
    for part, into in zip(np.split(end, edges), np.split(reach, edges), strict=True):
        np.maximum.accumulate(part, out=into)
    return reach


class _Lanes:
    """Lanes of which the lowest free one is taken; O(log n) an interval."""

    def __init__(self) -> None:
        self._busy: list[tuple[int, int]] = []
        self._free: list[int] = []
        self._count = 0

    def take(self, begin: int, end: int) -> int:
        """The lowest lane that is free from `begin` on, kept until `end`; `begin` must not fall."""
        while self._busy and self._busy[0][0] <= begin:
            heapq.heappush(self._free, heapq.heappop(self._busy)[1])
        if self._free:
            lane = heapq.heappop(self._free)
        else:
            lane = self._count
            self._count += 1
        heapq.heappush(self._busy, (end, lane))
        return lane
