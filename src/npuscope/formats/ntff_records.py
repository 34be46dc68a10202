"""The trace records of an NTFF: 16 bytes each, turned into arrays, clocked and paired. No loop over records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.errors import FormatError
from npuscope.formats.ntff import DMA_ENGINES, ENGINES, RECORD_BYTES, Clock, Ntff, SubGraph

RECORD = np.dtype([("b0", "u1"), ("b1", "u1"), ("b2", "u1"), ("stream", "u1"), ("payload", "<u4"), ("ticks", "<u8")])
"""One record. What b0, b1, b2 and payload mean depends on the kind of its block."""
INSTRUCTIONS, SEMAPHORES, DMA, THROTTLE = 0, 1, 4, 5
_KNOWN_KINDS = {INSTRUCTIONS, SEMAPHORES, 2, DMA, THROTTLE}
_INSTRUCTION_STREAM, _SEMAPHORE_STREAM, _DMA_STREAM = 0x84, 0x87, 0x80
_DMA_OPEN, _DMA_END, _DMA_ACKNOWLEDGED = 1, 5, 6
_SEMAPHORE_CLOCK, _THROTTLE_CLOCK, _DMA_CLOCK = 6, 7, 8
_PS_LIMIT = 1 << 62
"""53 days; a time beyond it comes from a damaged record or clock."""

Int64s = npt.NDArray[np.int64]
Records = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Spans:
    """Paired records: one start and one end each, in picoseconds of the common time axis, ordered by start."""

    engine: Int64s
    key: Int64s
    """16-bit pc of an instruction, queue index of a DMA packet."""
    start_ps: Int64s
    end_ps: Int64s
    start_payload: Int64s
    end_payload: Int64s
    end_bytes: Int64s
    """b0 + b1 << 8 + b2 << 16 of the end record: the size of a DMA packet."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """Records that were read and could not be used, by reason; nothing is dropped without being counted here."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, reason: str, count: int) -> None:
        """Count `count` more records under `reason`."""
        if count:
            self.counts[reason] = self.counts.get(reason, 0) + int(count)


def records_of(capture: Ntff, graph: SubGraph, kind: int) -> Records:
    """All records of one kind of a sub-graph, in file order; a view where one block holds them."""
    parts = [
        np.frombuffer(capture.trace, RECORD, block.length // RECORD_BYTES, block.offset)
        for block in graph.blocks
        if block.kind == kind and block.length
    ]
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, RECORD), *parts])


def unknown_blocks(graph: SubGraph, leftover: Leftover) -> None:
    """Count the records of block kinds that were never seen to hold any."""
    for block in graph.blocks:
        if block.length and (block.kind not in _KNOWN_KINDS or block.kind == 2):
            leftover.add(f"in blocks of unknown kind {block.kind}", block.length // RECORD_BYTES)


def to_ps(ticks: npt.NDArray[np.uint64], clock: Clock, source: str) -> Int64s:
    """Ticks as picoseconds of the common axis: `(ticks - base) * q // p`, exact in 64-bit integers.

    Raises:
        FormatError: A time lies more than 53 days from the base.
    """
    delta = ticks.astype(np.uint64, copy=False).view(np.int64) - np.int64(_signed(clock.base))
    limit = _PS_LIMIT * clock.p // clock.q
    if delta.size and (int(delta.max()) > limit or int(delta.min()) < -limit):
        worst = int(delta.max()) if int(delta.max()) > limit else int(delta.min())
        where = f"clock base {clock.base}"
        raise FormatError(
            source, where=where, expected="a time stamp near the base of its clock", found=f"{worst} ticks off"
        )
    if int(np.abs(delta).max(initial=0)) < (1 << 62) // clock.q:
        return np.asarray(delta * clock.q // clock.p, np.int64)
    whole = delta // clock.p
    return np.asarray(whole * clock.q + (delta - whole * clock.p) * clock.q // clock.p, np.int64)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _clock(graph: SubGraph, number: int, index: int, source: str) -> Clock:
    entries = graph.clocks.get(number, ())
    if index >= len(entries):
        expected = f"clock entry {number}" + (f" of DMA engine {index}" if number == _DMA_CLOCK else "")
        raise FormatError(source, where=f"sub-graph {graph.name}", expected=expected, found="none in the metadata")
    return entries[index]


def engine_clock(graph: SubGraph, engine: int, source: str) -> Clock:
    """The clock of an engine's instruction records.

    Raises:
        FormatError: The metadata hold none.
    """
    field_number = {2: 4, 3: 3}.get(engine, engine + 1)  # GpSimd and Vector stand swapped in the clock block
    return _clock(graph, field_number, 0, source)


def instruction_spans(records: Records, graph: SubGraph, source: str, leftover: Leftover) -> Spans:
    """Starts and ends of instructions, paired first in first out per engine and 16-bit pc.

    FIFO and LIFO cannot be told apart by the captures at hand: no pc is ever open twice in them.
    """
    stream = records["stream"].astype(np.int16) - _INSTRUCTION_STREAM
    engine, role = stream >> 2, stream & 3
    usable = (stream >= 0) & (engine < len(ENGINES)) & (role < 2)
    leftover.add("instruction records of unknown streams", records.size - int(usable.sum()))
    parts = []
    for index in np.unique(engine[usable]).tolist():
        rows = np.flatnonzero(usable & (engine == index))
        mine = records[rows]
        pc = mine["b0"].astype(np.uint16) | (mine["b1"].astype(np.uint16) << 8)
        times = to_ps(mine["ticks"], engine_clock(graph, index, source), source)
        name = ENGINES[index]
        pairs = _pair(pc, role[rows] == 0, f"of {name} instructions", leftover)
        parts.append(_spans(mine, times, pairs, index, pc))
    return _joined(parts)


def dma_spans(records: Records, graph: SubGraph, source: str, leftover: Leftover) -> Spans:
    """DMA packets: step 1 opens one, step 5 ends it, first in first out per DMA engine and queue."""
    engine = records["stream"].astype(np.int16) - _DMA_STREAM
    step = records["payload"] & 0xF
    usable = (engine >= 0) & (engine < DMA_ENGINES)
    leftover.add("DMA records of unknown streams", records.size - int(usable.sum()))
    other = usable & (step != _DMA_OPEN) & (step != _DMA_END) & (step != _DMA_ACKNOWLEDGED)
    leftover.add("DMA records of unknown steps", int(other.sum()))
    paired = usable & ((step == _DMA_OPEN) | (step == _DMA_END))
    parts = []
    for index in np.unique(engine[paired]).tolist():
        rows = np.flatnonzero(paired & (engine == index))
        mine = records[rows]
        queue = ((mine["payload"] >> 4) & 0xF).astype(np.uint8)
        times = to_ps(mine["ticks"], _clock(graph, _DMA_CLOCK, index, source), source)
        pairs = _pair(queue, step[rows] == _DMA_OPEN, "of DMA packets", leftover)
        parts.append(_spans(mine, times, pairs, index, queue))
    return _joined(parts)


def _spans(mine: Records, times: Int64s, pairs: tuple[Int64s, Int64s], engine: int, key: Records) -> Spans:
    first, last = pairs
    ends = mine[last]
    size = ends["b0"].astype(np.int64) | (ends["b1"].astype(np.int64) << 8) | (ends["b2"].astype(np.int64) << 16)
    return Spans(
        engine=np.full(first.size, engine, np.int64),
        key=key[first].astype(np.int64),
        start_ps=times[first],
        end_ps=times[last],
        start_payload=mine["payload"][first].astype(np.int64),
        end_payload=ends["payload"].astype(np.int64),
        end_bytes=size,
    )


def _joined(parts: list[Spans]) -> Spans:
    def column(name: str) -> Int64s:
        return np.concatenate([np.zeros(0, np.int64), *(getattr(part, name) for part in parts)])

    start = column("start_ps")
    order = np.argsort(start, kind="stable")
    names = ("engine", "key", "start_ps", "end_ps", "start_payload", "end_payload", "end_bytes")
    return Spans(**{name: column(name)[order] for name in names})


def select(spans: Spans, kept: npt.NDArray[np.bool_]) -> Spans:
    """The spans of a mask."""
    return Spans(**{name: getattr(spans, name)[kept] for name in Spans.__slots__})


def _pair(key: Records, is_start: npt.NDArray[np.bool_], what: str, leftover: Leftover) -> tuple[Int64s, Int64s]:
    """Match the k-th start of a key with its k-th end that has a start before it; indices in record order.

    A key of at most 16 bits keeps the sort a radix sort, which is what makes this fast.
    """
    order = np.argsort(key, kind="stable")
    sorted_key, opens = key[order], is_start[order]
    balance = np.cumsum(np.where(opens, 1, -1), dtype=np.int64)
    group_begins = np.flatnonzero(np.concatenate([[True], sorted_key[1:] != sorted_key[:-1]])) if key.size else order
    sizes = np.diff(np.append(group_begins, key.size))
    before = np.concatenate([[0], balance])[group_begins]
    balance -= np.repeat(before, sizes)
    orphan = np.zeros(key.size, bool)
    if balance.size and int(balance.min()) < 0:
        orphan = _orphan_ends(balance, opens, sizes)
    starts, ends = order[opens], order[~opens & ~orphan]
    # Both lists run through the groups in one order: keep, of each group, as many starts as it has ends.
    group = np.repeat(np.arange(sizes.size), sizes)
    start_group = group[opens]
    end_counts = np.bincount(group[~opens & ~orphan], minlength=sizes.size)
    start_counts = np.bincount(start_group, minlength=sizes.size)
    rank = np.arange(starts.size) - np.repeat(np.cumsum(start_counts) - start_counts, start_counts)
    matched = rank < end_counts[start_group]
    leftover.add(f"starts {what} without an end", starts.size - int(matched.sum()))
    leftover.add(f"ends {what} without a start", int(orphan.sum()))
    return starts[matched], ends


def _orphan_ends(balance: Int64s, opens: npt.NDArray[np.bool_], sizes: Int64s) -> npt.NDArray[np.bool_]:
    """Ends at which the running count of open starts of their key falls to a new low below zero."""
    step = np.int64(2 * balance.size + 1)  # wider than any two balances differ, so groups cannot mix
    shifted = balance - step * np.repeat(np.arange(sizes.size, dtype=np.int64), sizes)
    lowest = np.minimum.accumulate(shifted)
    first = np.zeros(balance.size, bool)
    first[np.concatenate([[0], np.cumsum(sizes)[:-1]])] = True
    previous = np.concatenate([[0], lowest[:-1]])
    previous = np.where(first, np.int64(0), previous + step * np.repeat(np.arange(sizes.size, dtype=np.int64), sizes))
    return np.asarray(~opens & (balance < np.minimum(previous, 0)), bool)


def semaphore_times(records: Records, graph: SubGraph, source: str) -> Int64s:
    """All semaphore and event records run on one clock, whatever their stream."""
    return to_ps(records["ticks"], _clock(graph, _SEMAPHORE_CLOCK, 0, source), source) if records.size else _NO_TIMES


def semaphore_engine(records: Records) -> Int64s:
    """Engine index of a semaphore record; 5 is a DMA engine, others were never seen."""
    return ((records["stream"].astype(np.int64) & 0x3F) - (_SEMAPHORE_STREAM & 0x3F)) >> 2


def throttle_times(records: Records, graph: SubGraph, source: str) -> Int64s:
    """Time of each throttle record."""
    return to_ps(records["ticks"], _clock(graph, _THROTTLE_CLOCK, 0, source), source) if records.size else _NO_TIMES


_NO_TIMES = np.zeros(0, np.int64)
