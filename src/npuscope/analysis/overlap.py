"""Overlap of engines and DMA as time: one sweep over their merged intervals, not a count of overlapping pairs.

A count of pairs grows with the number of slices and says nothing of how long two engines worked at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import numpy.typing as npt

from npuscope.analysis.kernel_time import KernelTime
from npuscope.analysis.timeline import Resource, busy_sets, to_ns
from npuscope.profile.intervals import Intervals, Ticks, gaps, merge

MAX_SETS = 12
"""Resources in the matrix: 66 pairs are what a person can read. The least busy beyond that are put together."""


@dataclass(frozen=True, slots=True)
class PairOverlap:
    """Two resources within the kernel's window."""

    first: str
    second: str
    overlap_ns: float
    """Both active."""
    share_of_first: float
    """Of the first one's active time; a fraction."""
    share_of_second: float
    share_of_kernel: float
    """Of the window."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """What ran at the same time within the kernel's window."""

    resources: tuple[str, ...]
    """Those in the matrix, in the order of the bits of `masks`."""
    window_ns: float
    pairs: tuple[PairOverlap, ...]
    """Every pair, most overlap first."""
    concurrency_ns: tuple[float, ...]
    """Time with exactly 0, 1, 2, ... resources active; sums to the window."""
    alone_ns: dict[str, float]
    """Time in which nothing else was active."""
    overlapped_share: float
    """Two or more active, of the time with any active."""
    masks: npt.NDArray[np.int64] = field(repr=False)
    """Each combination of busy resources that occurred, as bits."""
    mask_ps: Ticks = field(repr=False)
    """The time of each combination."""

    def document(self) -> dict[str, object]:
        """For JSON: without the masks."""
        return {
            "resources": self.resources,
            "window_ns": self.window_ns,
            "pairs": self.pairs,
            "concurrency_ns": self.concurrency_ns,
            "alone_ns": self.alone_ns,
            "overlapped_share": self.overlapped_share,
        }


def overlap_of(resources: tuple[Resource, ...], kernel: KernelTime | None) -> Overlap:
    """Overlap of every pair within the kernel's window.

    Args:
        resources: Merged busy intervals each.
        kernel: Its window; None gives an empty result.
    """
    active = [resource for resource in resources if resource.busy[0].size]
    if kernel is None or not active:
        return Overlap((), 0.0, (), (), {}, 0.0, np.zeros(0, np.int64), np.zeros(0, np.int64))
    active = _readable(active)
    masks, times = busy_sets([*(resource.busy for resource in active), kernel.window])
    inside = (masks >> len(active)) & 1 == 1
    masks, times = masks[inside] & ((1 << len(active)) - 1), times[inside]
    names = tuple(resource.name for resource in active)
    on = np.array([(masks >> bit) & 1 for bit in range(len(names))], np.int64).reshape(len(names), -1)
    busy = on @ times
    both = (on * times) @ on.T
    pairs = [
        PairOverlap(
            names[i],
            names[j],
            to_ns(both[i, j]),
            _share(both[i, j], busy[i]),
            _share(both[i, j], busy[j]),
            _share(both[i, j], kernel.window_ps),
        )
        for i, j in combinations(range(len(names)), 2)
    ]
    level = on.sum(axis=0)
    concurrency = np.bincount(level, weights=times, minlength=2).astype(np.int64)
    alone = on @ np.where(level == 1, times, 0)
    worked = int(concurrency[1:].sum())
    return Overlap(
        resources=names,
        window_ns=kernel.window_ns,
        pairs=tuple(sorted(pairs, key=lambda pair: -pair.overlap_ns)),
        concurrency_ns=tuple(to_ns(spent) for spent in concurrency),
        alone_ns={name: to_ns(spent) for name, spent in zip(names, alone, strict=True)},
        overlapped_share=_share(int(concurrency[2:].sum()), worked),
        masks=masks,
        mask_ps=times,
    )


def _readable(active: list[Resource]) -> list[Resource]:
    """At most `MAX_SETS` resources: the least busy ones as one, so that no activity is lost."""
    if len(active) <= MAX_SETS:
        return active
    ranked = sorted(active, key=lambda resource: -int((resource.busy[1] - resource.busy[0]).sum()))
    kept, rest = ranked[: MAX_SETS - 1], ranked[MAX_SETS - 1 :]
    name = f"{len(rest)} others"
    total = sum(resource.summed_ps for resource in rest)
    count = sum(resource.count for resource in rest)
    return [*kept, Resource(name, rest[0].kind, union_of(rest), rest[0].wait, count, total, rest[0].basis)]


def union_of(resources: Sequence[Resource]) -> Intervals:
    """When any of several resources was active."""
    return merge(
        np.concatenate([np.zeros(0, np.int64), *(resource.busy[0] for resource in resources)]),
        np.concatenate([np.zeros(0, np.int64), *(resource.busy[1] for resource in resources)]),
    )


def idle_gaps(resources: tuple[Resource, ...], kernel: KernelTime) -> tuple[Ticks, Ticks]:
    """Starts and ends of the times within the window in which nothing was active, in order of time, ps."""
    union = union_of(resources)
    nothing = np.zeros(0, np.int64)
    parts = [gaps(union, int(begin), int(end)) for begin, end in zip(*kernel.window, strict=True)]
    return np.concatenate([nothing, *(part[0] for part in parts)]), np.concatenate(
        [nothing, *(part[1] for part in parts)]
    )


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
