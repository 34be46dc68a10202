"""The trace records of an NTFF: 16 bytes each, turned into arrays, clocked and paired. No loop over records."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.errors import FormatError
from npuscope.formats.ntff import DMA_ENGINES, ENGINES, RECORD_BYTES, Clock, Ntff, SubGraph

RECORD = np.dtype([("b0", "u1"), ("b1", "u1"), ("b2", "u1"), ("stream", "u1"), ("payload", "<u4"), ("ticks", "<u8")])
"""One record. What b0, b1, b2 and payload mean depends on the kind of its block."""
_WIDE = np.dtype(
    {"names": ["pc", "head", "ticks"], "formats": ["<u2", "<u8", "<u8"], "offsets": [0, 0, 8], "itemsize": RECORD_BYTES}
)
"""The same record in wider pieces: b0 and b1 as one number, the first half as one."""
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
    stream = np.ascontiguousarray(records["stream"])
    usable = (stream >= _INSTRUCTION_STREAM) & (stream < _INSTRUCTION_STREAM + 4 * len(ENGINES)) & (stream & 2 == 0)
    mine, stream = _kept(records, usable, stream, "instruction records of unknown streams", leftover)
    pc = _column(mine, "pc")
    engine = (stream - np.uint8(_INSTRUCTION_STREAM)) >> 2
    names = [f"of {name} instructions" for name in ENGINES]
    first, last = _pair((pc, engine), stream & 1 == 0, names, leftover)
    clocks = [(index, engine_clock(graph, index, source)) for index in np.flatnonzero(np.bincount(engine)).tolist()]
    return _spans(mine, first, last, engine, pc, clocks, source)


def decode_spans(capture: Ntff, graph: SubGraph, leftover: Leftover) -> tuple[Spans, Spans]:
    """Instructions and DMA packets of a sub-graph, decoded at the same time in two threads: NumPy lets both run."""
    counts = Leftover(), Leftover()
    with ThreadPoolExecutor(2) as pool:
        instructions = pool.submit(
            instruction_spans, records_of(capture, graph, INSTRUCTIONS), graph, capture.source, counts[0]
        )
        packets = pool.submit(dma_spans, records_of(capture, graph, DMA), graph, capture.source, counts[1])
        spans = instructions.result(), packets.result()
    for part in counts:
        for reason, count in part.counts.items():
            leftover.add(reason, count)
    return spans


def dma_spans(records: Records, graph: SubGraph, source: str, leftover: Leftover) -> Spans:
    """DMA packets: step 1 opens one, step 5 ends it, first in first out per DMA engine and queue."""
    stream = np.ascontiguousarray(records["stream"])
    known = (stream >= _DMA_STREAM) & (stream < _DMA_STREAM + DMA_ENGINES)
    mine, stream = _kept(records, known, stream, "DMA records of unknown streams", leftover)
    payload = np.ascontiguousarray(mine["payload"])
    step = (payload & 0xF).astype(np.uint8)
    paired = (step == _DMA_OPEN) | (step == _DMA_END)
    leftover.add("DMA records of unknown steps", int((~paired & (step != _DMA_ACKNOWLEDGED)).sum()))
    if not paired.all():
        mine, stream, payload, step = mine[paired], stream[paired], payload[paired], step[paired]
    engine = stream - np.uint8(_DMA_STREAM)
    queue = ((payload >> 4) & 0xF).astype(np.uint8)
    first, last = _pair((queue | (engine << 4),), step == _DMA_OPEN, ["of DMA packets"], leftover)
    indices = np.flatnonzero(np.bincount(engine)).tolist()
    clocks = [(index, _clock(graph, _DMA_CLOCK, index, source)) for index in indices]
    return _spans(mine, first, last, engine, queue, clocks, source)


def _kept(
    records: Records, usable: npt.NDArray[np.bool_], stream: Records, reason: str, leftover: Leftover
) -> tuple[Records, Records]:
    """The records of known streams and those streams; no copy where all are known."""
    if usable.all():
        return records, stream
    leftover.add(reason, records.size - int(usable.sum()))
    return records[usable], stream[usable]


def _column(records: Records, name: str) -> Records:
    """A field of `_WIDE`, copied into one piece: every later pass over it is faster for it."""
    return np.ascontiguousarray(np.ascontiguousarray(records).view(_WIDE)[name])


def _spans(
    mine: Records,
    first: Int64s,
    last: Int64s,
    engine: Records,
    key: Records,
    clocks: list[tuple[int, Clock]],
    source: str,
) -> Spans:
    """Paired records as spans, ordered by start."""
    ticks = _column(mine, "ticks")
    heads = _column(mine, "head")
    owner = engine.take(first)
    start, end = ticks.take(first), ticks.take(last)
    start_ps, end_ps = np.empty(first.size, np.int64), np.empty(first.size, np.int64)
    for index, clock in clocks:
        rows = slice(None) if len(clocks) == 1 else np.flatnonzero(owner == index)
        start_ps[rows], end_ps[rows] = to_ps(start[rows], clock, source), to_ps(end[rows], clock, source)
    end_head = heads.take(last)
    made = Spans(
        engine=owner.astype(np.int64),
        key=key.take(first).astype(np.int64),
        start_ps=start_ps,
        end_ps=end_ps,
        start_payload=(heads.take(first) >> 32).view(np.int64),
        end_payload=(end_head >> 32).view(np.int64),
        end_bytes=(end_head & 0xFF_FFFF).view(np.int64),
    )
    if (start_ps[1:] >= start_ps[:-1]).all():
        return made
    return select(made, np.argsort(start_ps, kind="stable"))


def select(spans: Spans, kept: npt.NDArray[Any]) -> Spans:
    """The spans of a mask, or in the order of indices."""
    if kept.dtype == np.bool_ and kept.all():
        return spans
    return Spans(**{name: getattr(spans, name)[kept] for name in Spans.__slots__})


def _pair(
    keys: tuple[Records, ...], is_start: npt.NDArray[np.bool_], names: list[str], leftover: Leftover
) -> tuple[Int64s, Int64s]:
    """Match the k-th start of a key with its k-th end that has a start before it.

    Args:
        keys: The parts of the key, least significant first, each of at most 16 bits: that keeps every sort a radix
            sort, which is what makes this fast.
        is_start: Start or end, per record.
        names: What the records are of, by the value of the last part of the key, or one for all.
        leftover: Takes the count of records without a partner.

    Returns:
        Indices of starts, ascending, and of the end of each.
    """
    order = np.argsort(keys[0], kind="stable")
    for part in keys[1:]:
        order = order.take(np.argsort(part.take(order), kind="stable"))
    opens = is_start.take(order)
    fresh = np.zeros(order.size, bool)
    fresh[:1] = True
    for part in keys:
        ordered = part.take(order)
        fresh[1:] |= ordered[1:] != ordered[:-1]
    if order.size % 2 == 0 and opens[::2].all() and not opens[1::2].any() and not fresh[1::2].any():
        starts, ends = order[::2], order[1::2]  # each start is followed by its own end, as in all known captures
    else:
        starts, ends = _pair_by_rank(order, opens, fresh, keys[-1], names, leftover)
    partner = np.full(order.size, -1, np.int64)
    partner[starts] = ends
    first = np.flatnonzero(partner >= 0)
    return first, partner[first]


def _pair_by_rank(
    order: Int64s,
    opens: npt.NDArray[np.bool_],
    fresh: npt.NDArray[np.bool_],
    owner: Records,
    names: list[str],
    leftover: Leftover,
) -> tuple[Int64s, Int64s]:
    """Pairs where a key is open twice, or records are missing. `fresh` marks the first record of each key."""
    begins = np.flatnonzero(fresh)
    sizes = np.diff(np.append(begins, order.size))
    balance = np.cumsum(np.where(opens, 1, -1), dtype=np.int64)
    balance -= np.repeat(np.concatenate([[0], balance])[begins], sizes)
    orphan = np.zeros(order.size, bool)
    if balance.size and int(balance.min()) < 0:
        orphan = _orphan_ends(balance, opens, sizes)
    closes = ~opens & ~orphan
    # Both lists run through the keys in one order: keep, of each key, as many starts as it has ends.
    group = np.repeat(np.arange(sizes.size), sizes)
    start_group = group[opens]
    end_counts = np.bincount(group[closes], minlength=sizes.size)
    start_counts = np.bincount(start_group, minlength=sizes.size)
    rank = np.arange(start_group.size) - np.repeat(np.cumsum(start_counts) - start_counts, start_counts)
    matched = rank < end_counts[start_group]
    for index, name in enumerate(names):
        mine = np.ones(order.size, bool) if len(names) == 1 else owner[order] == index
        leftover.add(f"starts {name} without an end", int((~matched & mine[opens]).sum()))
        leftover.add(f"ends {name} without a start", int((orphan & mine).sum()))
    return order[opens][matched], order[closes]


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
