"""What kept a device busy, and when: one set of intervals per engine, for the DMA engines, or per track of a trace.

An engine is active while it runs an instruction other than EVENT_SEMAPHORE, which only waits: the vendor's rule for
`ActiveTime` (checked on 10,062 rows of 117 captures). All times in nanoseconds from the start of the profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from npuscope.profile.intervals import Intervals, Ticks, merge
from npuscope.profile.schema import ENGINES
from npuscope.profile.tables import Profile

WAIT_OPCODE: Final = "EVENT_SEMAPHORE"
DMA: Final = "DMA"
COLLECTIVES: Final = "Collectives"
MAX_TRACKS: Final = 40
"""Tracks of a foreign trace that are kept apart; a set of 64-bit masks holds no more than 62."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Resource:
    """One thing that can be busy."""

    name: str
    """`Tensor`, `Vector`, `Scalar`, `GpSimd`, `Sync`, `DMA`, `Collectives`, or the name of a track."""
    kind: str
    """`engine`, `dma`, `collective` or `track`."""
    busy: Intervals
    """Merged intervals in which it worked."""
    wait: Intervals
    """Merged intervals in which it waited on a semaphore or event; empty where that is not recorded."""
    count: int
    """Instructions, packets, operations or slices."""
    summed_ns: int
    """Sum of their durations, overlaps counted as often as they occur."""
    basis: str
    """Where the busy intervals come from."""


def read_resources(profile: Profile) -> tuple[Resource, ...]:
    """The engines, the DMA engines together, and collectives; or the tracks of a trace without engines."""
    found = [*_engines(profile)]
    if profile.rows("DmaPacket"):
        start, end = spans(profile, "DmaPacket")
        merged = merge(start, end)
        found.append(
            Resource(DMA, "dma", merged, _nothing(), start.size, int((end - start).sum()), "union of DmaPacket")
        )
    if profile.rows("CcOp"):
        start, end = spans(profile, "CcOp")
        total = int((end - start).sum())
        found.append(
            Resource(COLLECTIVES, "collective", merge(start, end), _nothing(), start.size, total, "union of CcOp")
        )
    return tuple(found) or _tracks(profile)


def spans(profile: Profile, table: str) -> Intervals:
    """Start and end of every row of an event table; an end before its start counts as the start."""
    start = profile.numbers(table, "start_ts").astype(np.int64)
    duration = profile.numbers(table, "duration_ns").astype(np.int64)
    if not profile.has(table, "duration_ns"):
        duration = profile.numbers(table, "end_ts").astype(np.int64) - start
    return start, start + np.maximum(duration, 0)


def busy_sets(sets: Sequence[Intervals]) -> tuple[npt.NDArray[np.int64], Ticks]:
    """How long each combination of sets was busy at the same time: one sweep over all boundaries.

    Args:
        sets: At most 62 merged sets.

    Returns:
        Bit masks (bit i: set i was busy), each once, and the time of each; time with nothing busy is not in it,
        except between the first and the last boundary.
    """
    edges = [edge for pair in sets for edge in pair]
    if not edges or not any(edge.size for edge in edges):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    times = np.concatenate(edges)
    bits = np.repeat(np.repeat(np.int64(1) << np.arange(len(sets)), 2), [edge.size for edge in edges])
    order = np.argsort(times, kind="stable")  # the edges are sorted runs, which a stable sort merges
    times = times[order]
    masks = np.bitwise_xor.accumulate(bits[order])[:-1]
    lengths = np.diff(times)
    if len(sets) <= 16:
        total = np.bincount(masks, weights=lengths, minlength=1 << len(sets))
        seen = np.flatnonzero(total)
        return seen.astype(np.int64), np.rint(total[seen]).astype(np.int64)
    seen, inverse = np.unique(masks[lengths > 0], return_inverse=True)
    total = np.bincount(inverse, weights=lengths[lengths > 0], minlength=seen.size)
    return seen.astype(np.int64), np.rint(total).astype(np.int64)


def _engines(profile: Profile) -> list[Resource]:
    if not profile.rows("Instruction"):
        return []
    codes, names = profile.codes("Instruction", "engine")
    start, end = spans(profile, "Instruction")
    waiting = profile.equals("Instruction", "opcode", WAIT_OPCODE)
    waited = profile.numbers("Instruction", "evt_wait_time_ns").astype(np.int64)
    ordered = sorted((name for name in names if name), key=lambda name: (_rank(name), name))
    found = []
    for name in ordered:
        mine = codes == names.index(name)
        working = mine & ~waiting
        busy, basis = _active(profile, name)
        if basis == "":
            busy = merge(start[working], end[working])
            basis = f"union of Instruction without {WAIT_OPCODE}"
        until = np.where(waiting, end, start)[mine]
        summed = int((end - start)[working].sum())
        found.append(
            Resource(
                name,
                "engine",
                busy,
                merge((start - np.maximum(waited, 0))[mine], until),
                int(mine.sum()),
                summed,
                basis,
            )
        )
    return found


def _active(profile: Profile, engine: str) -> tuple[Intervals, str]:
    """The vendor's own intervals, where the table is there and has this engine."""
    mine = profile.equals("ActiveTime", "engine", engine.lower())
    if not mine.any():
        return _nothing(), ""
    start, end = spans(profile, "ActiveTime")
    return merge(start[mine], end[mine]), "ActiveTime"


def _tracks(profile: Profile) -> tuple[Resource, ...]:
    """Threads of a trace; those beyond `MAX_TRACKS` with the least work are put together."""
    if not profile.rows("SystemProfileEvents"):
        return ()
    codes, names = track_codes(profile)
    start, end = spans(profile, "SystemProfileEvents")
    work = np.bincount(codes, weights=end - start, minlength=len(names))
    order = np.argsort(-work, kind="stable")
    place = np.empty(len(names), np.int64)
    place[order] = np.minimum(np.arange(len(names)), MAX_TRACKS - 1)
    found = []
    for index in range(min(len(names), MAX_TRACKS)):
        mine = place[codes] == index
        last = index == MAX_TRACKS - 1 and len(names) > MAX_TRACKS
        name = f"{len(names) - MAX_TRACKS + 1} other tracks" if last else names[order[index]]
        total = int((end - start)[mine].sum())
        busy = merge(start[mine], end[mine])
        found.append(Resource(name, "track", busy, _nothing(), int(mine.sum()), total, "union of SystemProfileEvents"))
    return tuple(found)


def track_codes(profile: Profile) -> tuple[npt.NDArray[np.int64], list[str]]:
    """The track of every event of a trace as a number, and the names: `process / thread`, or `pid 1 / tid 2`."""
    processes, process_names = profile.codes("SystemProfileEvents", "process_name")
    threads, thread_names = profile.codes("SystemProfileEvents", "thread_name")
    pid = profile.numbers("SystemProfileEvents", "process_id").astype(np.int64)
    tid = profile.numbers("SystemProfileEvents", "thread_id").astype(np.int64)
    keys, codes = np.unique(np.stack([processes, threads, pid, tid]), axis=1, return_inverse=True)
    names = []
    for process, thread, process_id, thread_id in keys.T.tolist():
        owner = process_names[process] or f"pid {process_id}"
        names.append(f"{owner} / {thread_names[thread] or f'tid {thread_id}'}")
    for index, name in enumerate(names):
        if names.count(name) > 1:
            names[index] = f"{name} ({keys[2, index]}:{keys[3, index]})"
    return codes.reshape(-1).astype(np.int64), names


def _rank(name: str) -> int:
    return ENGINES.index(name) if name in ENGINES else len(ENGINES)


def _nothing() -> Intervals:
    return np.zeros(0, np.int64), np.zeros(0, np.int64)
