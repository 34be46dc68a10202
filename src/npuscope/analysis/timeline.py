"""What kept a device busy, and when: one set of intervals per engine, for the DMA engines, or per track of a trace.

An engine is active while it runs an instruction other than EVENT_SEMAPHORE, which only waits: the vendor's rule for
`ActiveTime` (tests/golden compares every row of 28 captures). All times in whole picoseconds from the start of the profile, so
that an NTFF's cycles are not rounded; `to_ns` turns a length into the nanoseconds that figures are told in.

Of a time in whole nanoseconds, start and duration were each rounded down, and so was the end where it is stated. Their
sum is therefore up to a nanosecond short of the end, and `end_ts - start_ts` up to one longer than `duration_ns`. No
figure here mixes them: an interval has the picoseconds where they exist, else start and duration (`span_ps`), with half
a nanosecond added to an instruction of the vendor's JSON (`lost_ps`); `ActiveTime` without picoseconds has its `end_ts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from npuscope.profile.derive import lost_ps, span_ps
from npuscope.profile.intervals import Intervals, Ticks, merge
from npuscope.profile.schema import ENGINES
from npuscope.profile.tables import Profile

WAIT_OPCODE: Final = "EVENT_SEMAPHORE"
DMA: Final = "DMA"
COLLECTIVES: Final = "Collectives"
MAX_TRACKS: Final = 40
"""Tracks of a foreign trace that are kept apart; a set of 64-bit masks holds no more than 62."""

PS_PER_NS: Final = 1000


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
    summed_ps: int
    """Sum of their durations, overlaps counted as often as they occur; of slices of a track, which nest, the union."""
    basis: str
    """Where the busy intervals come from."""


def to_ns(length_ps: float) -> float:
    """A length in nanoseconds; exact to the picosecond up to half an hour."""
    return float(length_ps) / PS_PER_NS


def read_resources(profile: Profile) -> tuple[Resource, ...]:
    """The engines, the DMA engines together, and collectives; or the tracks of a trace without engines."""
    found = [*_engines(profile)]
    if profile.rows("DmaPacket"):
        start, end = spans(profile, "DmaPacket")
        total = int((end - start).sum()) + lost_ps(profile) * start.size
        found.append(Resource(DMA, "dma", merge(start, end), _nothing(), start.size, total, "union of DmaPacket"))
    if profile.rows("CcOp"):
        start, end = spans(profile, "CcOp")
        total = int((end - start).sum())
        found.append(
            Resource(COLLECTIVES, "collective", merge(start, end), _nothing(), start.size, total, "union of CcOp")
        )
    return tuple(found) or _tracks(profile)


def is_trace(resources: Sequence[Resource]) -> bool:
    """Whether all that was busy are tracks of a trace, so that nothing of an NPU is known."""
    return bool(resources) and all(resource.kind == "track" for resource in resources)


def spans(profile: Profile, table: str) -> Intervals:
    """Start and end of every row of an event table, ps; an end before its start counts as the start.

    An instruction of the vendor's JSON ends half a nanosecond later than its rounded duration says. A DMA packet does
    not: most packets overlap others, whose rounded starts and ends bound the union without bias.
    """
    start, end = (side.astype(np.int64) for side in span_ps(profile, table))
    duration = np.maximum(end - start, 0)
    if table == "Instruction" and (lost := lost_ps(profile)):
        duration += lost * (duration > 0)
    return start, start + duration


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
    waited, lost = wait_ps(profile), lost_ps(profile)
    raw_end = end - lost * (end > start)
    until = np.where(waiting, end, start)
    found = []
    for name in sorted((name for name in names if name), key=lambda name: (_rank(name), name)):
        mine = codes == names.index(name)
        working = np.flatnonzero(mine & ~waiting)
        summed = int((raw_end - start)[working].sum()) + lost * working.size
        busy, basis = _active(profile, name)
        if not basis:
            busy, basis = merge(start[working], end[working]), f"union of Instruction without {WAIT_OPCODE}"
        elif lost and not _overlap(start[working], raw_end[working]):
            summed = _length(busy)  # of instructions that do not overlap, the sum is the union
        waits = merge((start - waited)[mine], until[mine])
        found.append(Resource(name, "engine", busy, waits, int(mine.sum()), summed, basis))
    return found


def _active(profile: Profile, engine: str) -> tuple[Intervals, str]:
    """The vendor's own intervals, where the table is there and has this engine."""
    mine = profile.equals("ActiveTime", "engine", engine.lower())
    if not mine.any():
        return _nothing(), ""
    start, end = spans(profile, "ActiveTime")
    if profile.has("ActiveTime", "end_ts") and not profile.has("ActiveTime", "start_ps"):
        end = profile.numbers("ActiveTime", "end_ts").astype(np.int64) * PS_PER_NS
    return merge(start[mine], end[mine]), "ActiveTime"


def wait_ps(profile: Profile) -> Ticks:
    """How long each instruction waited on a semaphore or event before its start, ps."""
    waited = profile.numbers("Instruction", "evt_wait_time_ns").astype(np.int64)
    return np.maximum(waited, 0) * PS_PER_NS


def _tracks(profile: Profile) -> tuple[Resource, ...]:
    """Threads of a trace; those beyond `MAX_TRACKS` with the least work are put together."""
    if not profile.rows("SystemProfileEvents"):
        return ()
    codes, names = track_codes(profile)
    start, end = spans(profile, "SystemProfileEvents")
    if len(names) <= MAX_TRACKS:
        found = [_track_resource(name, codes == index, start, end) for index, name in enumerate(names)]
        return tuple(sorted(found, key=lambda track: -_length(track.busy)))
    order = np.argsort(-_busy_per_track(codes, start, end, len(names)), kind="stable")
    place = np.empty(len(names), np.int64)
    place[order] = np.minimum(np.arange(len(names)), MAX_TRACKS - 1)
    found = []
    for index in range(MAX_TRACKS):
        last = index == MAX_TRACKS - 1
        name = f"{len(names) - MAX_TRACKS + 1} other tracks" if last else names[order[index]]
        found.append(_track_resource(name, place[codes] == index, start, end))
    return tuple(found)


def _track_resource(name: str, mine: npt.NDArray[np.bool_], start: Ticks, end: Ticks) -> Resource:
    busy = merge(start[mine], end[mine])
    count = int(mine.sum())
    return Resource(name, "track", busy, _nothing(), count, _length(busy), "union of SystemProfileEvents")


def _busy_per_track(codes: Ticks, start: Ticks, end: Ticks, count: int) -> npt.NDArray[np.float64]:
    """Length of the union of each track's slices: a slice within another one adds nothing.

    One running maximum over all tracks: an end becomes its rank, and a track's number goes before it.
    """
    order = np.lexsort((start, codes))
    codes, start = codes[order], start[order]
    ends, rank = np.unique(end[order], return_inverse=True)
    reach = ends[np.maximum.accumulate(codes * ends.size + rank.reshape(-1)) % ends.size]
    before = np.concatenate([start[:1], reach[:-1]])
    fresh = np.concatenate([[True], codes[1:] != codes[:-1]])
    added = (reach - np.where(fresh, start, np.maximum(start, before))).astype(np.float64)
    return np.asarray(np.bincount(codes, weights=added, minlength=count), np.float64)


def track_codes(profile: Profile) -> tuple[npt.NDArray[np.int64], list[str]]:
    """The track of every event of a trace as a number, and their names, each once.

    A name is `process / thread`, or `pid 1 / tid 2`; where several tracks have one, their numbers follow.
    """
    texts: dict[str, list[str]] = {}
    codes, keys = np.zeros(profile.rows("SystemProfileEvents"), np.int32), np.zeros((0, 1), np.int64)
    for column in ("process_name", "thread_name", "process_id", "thread_id"):  # one by one: less memory, faster sorts
        if column.endswith("_name"):
            values, texts[column] = profile.codes("SystemProfileEvents", column)
        else:
            values = profile.numbers("SystemProfileEvents", column).astype(np.int64)
        known, values = np.unique(values, return_inverse=True)
        values = values.reshape(-1).astype(np.int32)
        both, codes = np.unique(codes.astype(np.int64) * max(known.size, 1) + values, return_inverse=True)
        codes = codes.reshape(-1).astype(np.int32)
        keys = np.vstack([keys[:, both // max(known.size, 1)], known[both % max(known.size, 1)]])
    process_names, thread_names = texts["process_name"], texts["thread_name"]
    names = []
    for process, thread, process_id, thread_id in keys.T.tolist():
        owner = process_names[process] or f"pid {process_id}"
        names.append(f"{owner} / {thread_names[thread] or f'tid {thread_id}'}")
    numbers = [f" ({process_id}:{thread_id})" for process_id, thread_id in keys[2:].T.tolist()]
    for suffixes in (numbers, [f" #{index}" for index in range(len(names))]):
        often = Counter(names)
        names = [name + suffix * (often[name] > 1) for name, suffix in zip(names, suffixes, strict=True)]
    return codes.astype(np.int64), names


def _rank(name: str) -> int:
    return ENGINES.index(name) if name in ENGINES else len(ENGINES)


def _overlap(start: Ticks, end: Ticks) -> bool:
    """Whether any two intervals overlap."""
    return int((end - start).sum()) > _length(merge(start, end))


def _length(merged: Intervals) -> int:
    return int((merged[1] - merged[0]).sum())


def _nothing() -> Intervals:
    return np.zeros(0, np.int64), np.zeros(0, np.int64)
