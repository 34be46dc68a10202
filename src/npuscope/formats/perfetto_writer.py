"""A Profile as a Perfetto trace (`.pftrace`), for ui.perfetto.dev and the trace processor.

Sources: the message types TracePacket, TrackDescriptor, TrackEvent, InternedData and DebugAnnotation of Perfetto's
public protos (field numbers beside the constants), and its page "Synthetic track events". Times are written as they
are, in nanoseconds on the trace clock. Equal Profiles give equal bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from npuscope._files import replaced_atomically
from npuscope.formats.perfetto_encoding import (
    Bytes,
    Constant,
    Field,
    Fixed64,
    Mask,
    Nested,
    Repeated,
    Sizes,
    Text,
    Varint,
    encode,
    integer,
    message,
    tag,
    text,
    varint_sizes,
    write_varints,
)
from npuscope.profile.tables import Profile
from npuscope.profile.timeline import Timeline, build_timeline
from npuscope.profile.timeline_sources import SLICES

_CHUNK = 1 << 16
"""Messages encoded at a time; bounds the memory and fits a cache."""
_PACKET = 1  # Trace.packet
_TIMESTAMP, _SEQUENCE, _TRACK_EVENT, _INTERNED, _FLAGS, _TRACK_DESCRIPTOR = 8, 10, 11, 12, 13, 60  # TracePacket
_CLEARED, _NEEDED = 1, 2  # TracePacket.SequenceFlags
_UUID, _NAME, _PROCESS, _THREAD, _PARENT, _COUNTER = 1, 2, 3, 4, 5, 8  # TrackDescriptor
_BEGIN, _END, _VALUE = 1, 2, 4  # TrackEvent.Type
_CATEGORY_IIDS, _ANNOTATIONS, _TYPE, _NAME_IID, _TRACK_UUID, _DOUBLE_VALUE = 3, 4, 9, 10, 11, 44  # TrackEvent
_FLOW_IDS, _TERMINATING_FLOW_IDS = 47, 48  # TrackEvent
_CATEGORIES, _EVENT_NAMES, _ARGUMENT_NAMES, _ARGUMENT_TEXTS = 1, 2, 3, 29  # InternedData
_BOOL, _INT, _DOUBLE, _TEXT_IID = 2, 4, 5, 17  # DebugAnnotation
_COMMON = integer(_SEQUENCE, 1) + integer(_FLAGS, _NEEDED)


@dataclass(frozen=True, slots=True)
class Written:
    """What a trace holds."""

    slices: int
    counters: int
    """Samples."""
    flows: int
    tracks: int
    size_bytes: int
    notes: tuple[str, ...]
    """What could not be drawn."""


def write_perfetto(profile: Profile, path: Path) -> Written:
    """Write a Profile as a Perfetto trace, atomically.

    Raises:
        OutputError: The file cannot be written.
    """
    timeline = _from_zero(build_timeline(profile))
    with replaced_atomically(path) as file:
        size = write_timeline(timeline, file)
    return Written(
        timeline.slices.num_rows,
        timeline.counters.num_rows,
        timeline.flows.num_rows,
        timeline.tracks.num_rows,
        size,
        timeline.notes,
    )


def _from_zero(timeline: Timeline) -> Timeline:
    """The timeline as it is; moved where it begins before 0, since Perfetto drops events there."""
    starts = [pc.min(table.column("ts")).as_py() for table in (timeline.slices, timeline.counters)]
    first = min((start for start in starts if start is not None), default=0)
    if first >= 0:
        return timeline
    note = f"times begin at {first} ns; in the trace all are later by {-first} ns, since Perfetto has none before 0"
    return replace(
        timeline,
        slices=_moved(timeline.slices, -first),
        counters=_moved(timeline.counters, -first),
        notes=(*timeline.notes, note),
    )


def _moved(table: pa.Table, by: int) -> pa.Table:
    return table.set_column(table.column_names.index("ts"), "ts", pc.add(table.column("ts"), by))


def write_timeline(timeline: Timeline, file: BinaryIO) -> int:
    """Write the packets of a trace; returns how many bytes."""
    return sum(file.write(block) for block in _blocks(timeline))


def _blocks(timeline: Timeline) -> Iterator[bytes]:
    yield message(_PACKET, integer(_SEQUENCE, 1), integer(_FLAGS, _CLEARED))
    track_uuids, descriptors = _descriptors(timeline)
    yield descriptors
    names = timeline.slices.column("name").combine_chunks()
    names = names if pa.types.is_dictionary(names.type) else names.dictionary_encode()
    yield from _interned(_EVENT_NAMES, names.dictionary)
    yield from _interned(_CATEGORIES, pa.array([source.kind for source in SLICES]))
    arguments = timeline.arguments()
    columns = sorted({name for table in arguments.values() for name in table.column_names[1:]})
    yield from _interned(_ARGUMENT_NAMES, pa.array(columns, pa.string()))
    texts = 0
    for table in arguments.values():
        annotations: list[_Annotation] = []
        for name in table.column_names[1:]:
            annotation, dictionary = _annotation(columns.index(name) + 1, table.column(name), texts)
            annotations.append(annotation)
            if dictionary is not None:
                yield from _interned(_ARGUMENT_TEXTS, dictionary, texts)
                texts += len(dictionary)
        yield from _slice_packets(
            timeline, table.column("slice_id").to_numpy(), annotations, names.indices.to_numpy(), track_uuids
        )
    yield from _counter_packets(timeline, track_uuids)


def _descriptors(timeline: Timeline) -> tuple[npt.NDArray[np.uint64], bytes]:
    """The uuid of every track by its id, and the packets that declare processes, threads and tracks."""
    packets: list[bytes] = []
    tracks = timeline.tracks.to_pylist()
    pids = dict(zip(*(timeline.processes.column(name).to_pylist() for name in ("upid", "pid")), strict=True))
    titles = dict(zip(*(timeline.processes.column(name).to_pylist() for name in ("upid", "name")), strict=True))
    threads = timeline.threads.to_pylist()
    thread_uuids = {thread["utid"]: len(pids) + index for index, thread in enumerate(threads, 1)}
    for upid, pid in pids.items():
        process = message(_PROCESS, integer(1, pid), text(6, titles[upid]))  # pid, process_name
        packets.append(_descriptor(upid, process))
        for thread in threads:
            if thread["upid"] == upid:
                inner = message(_THREAD, integer(1, pid), integer(2, thread["tid"]), text(5, thread["name"]))
                packets.append(_descriptor(thread_uuids[thread["utid"]], integer(_PARENT, upid), inner))
    free = len(pids) + len(threads) + 1
    uuids = np.zeros(len(tracks), np.uint64)
    for track in tracks:
        number = track["id"]
        if track["lane"] == 0:
            uuids[number] = thread_uuids[track["utid"]]
            continue
        uuids[number] = free + number
        parent = track["upid"] if track["utid"] is None else thread_uuids[track["utid"]]
        parts = [integer(_PARENT, parent), text(_NAME, track["name"])]
        if track["utid"] is None:
            parts.append(message(_COUNTER, text(6, track["unit"]) if track["unit"] else b""))  # unit_name
        packets.append(_descriptor(free + number, *parts))
    return uuids, b"".join(packets)


def _descriptor(uuid: int, *parts: bytes) -> bytes:
    return message(_PACKET, integer(_SEQUENCE, 1), message(_TRACK_DESCRIPTOR, integer(_UUID, uuid), *parts))


def _interned(number: int, values: pa.Array, first: int = 0) -> Iterator[bytes]:
    """Packets that give texts the numbers from `first` + 1 on."""
    cleaned = pc.replace_substring(values.cast(pa.string()), "\0", "?")
    for start in range(0, len(cleaned), _CHUNK):
        part = cleaned.slice(start, _CHUNK)
        iids = np.arange(start, start + len(part), dtype=np.uint64) + np.uint64(first + 1)
        entries = encode([Nested(tag(number, 2), [Varint(tag(1, 0), iids), Text(tag(2, 2), part)])])
        yield message(_PACKET, _COMMON, message(_INTERNED, entries))


class _Annotation:
    """One argument of many slices, as a DebugAnnotation; its length fits one byte."""

    def __init__(self, head: bytes, values: npt.NDArray[Any], present: Mask) -> None:
        self._head = head
        self._values = values
        self._present = present
        fixed = values.dtype == np.float64
        self._widths = np.full(values.size, 8, np.int64) if fixed else varint_sizes(values)

    def part(self, start: int, stop: int) -> _Annotation:
        """The same of some slices."""
        return _Annotation(self._head, self._values[start:stop], self._present[start:stop])

    def sizes(self) -> Sizes:
        """See `Field`."""
        return np.where(self._present, self._widths + len(self._head) + 2, 0)

    def write(self, out: Bytes, at: Sizes) -> None:
        """See `Field`."""
        at, values, widths = at[self._present], self._values[self._present], self._widths[self._present]
        out[at] = _ANNOTATIONS << 3 | 2
        out[at + 1] = widths + len(self._head)
        at = at + 2
        if values.dtype == np.float64:
            Fixed64(self._head, values).write(out, at)
            return
        for index, byte in enumerate(self._head):
            out[at + index] = byte
        write_varints(out, at + len(self._head), values, widths)


def _annotation(name: int, column: pa.ChunkedArray, texts: int) -> tuple[_Annotation, pa.Array | None]:
    """A column as arguments; of a text column also its distinct values, which are numbered from `texts` + 1."""
    present = np.asarray(pc.is_valid(column).to_numpy())
    head = integer(1, name)
    if pa.types.is_string(column.type):
        encoded = column.combine_chunks().dictionary_encode()
        codes = pc.fill_null(encoded.indices, 0).to_numpy().astype(np.uint64) + np.uint64(texts + 1)
        return _Annotation(head + tag(_TEXT_IID, 0), codes, present), encoded.dictionary
    if pa.types.is_floating(column.type):
        values = pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy().astype(np.float64)
        return _Annotation(head + tag(_DOUBLE, 1), values, present), None
    wire = _BOOL if pa.types.is_boolean(column.type) else _INT
    whole = pc.fill_null(column.cast(pa.int64(), safe=False), 0).to_numpy().astype(np.int64)
    return _Annotation(head + tag(wire, 0), whole.view(np.uint64), present), None


def _slice_packets(
    timeline: Timeline,
    members: Sizes,
    annotations: list[_Annotation],
    names: npt.NDArray[Any],
    track_uuids: npt.NDArray[np.uint64],
) -> Iterator[bytes]:
    """Begin and end of the slices of one table, in the order of their start; the processor sorts by time."""
    columns = {key: np.asarray(timeline.slices.column(key).to_numpy()) for key in ("ts", "dur", "track_id", "source")}
    flows = _flows(timeline)
    for start in range(0, members.size, _CHUNK):
        own = members[start : start + _CHUNK]
        first, last = columns["ts"][own], columns["ts"][own] + columns["dur"][own]
        uuids = track_uuids[columns["track_id"][own]]
        track = Varint(tag(_TRACK_UUID, 0), uuids)
        begin: list[Field] = [
            Constant(integer(_TYPE, _BEGIN), own.size),
            track,
            Varint(tag(_NAME_IID, 0), names[own].astype(np.uint64) + np.uint64(1)),
            Constant(integer(_CATEGORY_IIDS, int(columns["source"][own[0]]) + 1), own.size),
            *(annotation.part(start, start + own.size) for annotation in annotations),
            *_flow_fields(flows, own),
        ]
        end: list[Field] = [Constant(integer(_TYPE, _END), own.size), track]
        yield encode([_packet(first, begin, own.size), _packet(last, end, own.size)])


def _packet(time: Sizes, event: list[Field], count: int) -> Field:
    stamp = Varint(tag(_TIMESTAMP, 0), time.view(np.uint64))
    return Nested(tag(_PACKET, 2), [stamp, Constant(_COMMON, count), Nested(tag(_TRACK_EVENT, 2), event)])


def _flows(timeline: Timeline) -> tuple[tuple[Sizes, Bytes], ...]:
    """For both ends of the flows: the slice, ascending, and the field that holds the number of the flow."""
    made = []
    for column, number in (("slice_out", _FLOW_IDS), ("slice_in", _TERMINATING_FLOW_IDS)):
        slices = np.asarray(timeline.flows.column(column).to_numpy())
        order = np.argsort(slices, kind="stable")
        ids = (order + 1).astype("<u8").view(np.uint8).reshape(-1, 8)
        key = np.frombuffer(tag(number, 1), np.uint8)
        made.append((slices[order], np.concatenate([np.broadcast_to(key, (order.size, key.size)), ids], axis=1)))
    return tuple(made)


def _flow_fields(flows: tuple[tuple[Sizes, Bytes], ...], own: Sizes) -> list[Field]:
    """The flows that begin or end at some slices, whose ids ascend."""
    fields: list[Field] = []
    for slices, rows in flows:
        place = np.minimum(np.searchsorted(own, slices), own.size - 1)
        here = own[place] == slices
        if here.any():
            fields.append(Repeated(rows[here], place[here], own.size))
    return fields


def _counter_packets(timeline: Timeline, track_uuids: npt.NDArray[np.uint64]) -> Iterator[bytes]:
    columns = {key: np.asarray(timeline.counters.column(key).to_numpy()) for key in ("track_id", "ts", "value")}
    for start in range(0, timeline.counters.num_rows, _CHUNK):
        track, ts, value = (columns[key][start : start + _CHUNK] for key in ("track_id", "ts", "value"))
        event: list[Field] = [
            Constant(integer(_TYPE, _VALUE), ts.size),
            Varint(tag(_TRACK_UUID, 0), track_uuids[track]),
            Fixed64(tag(_DOUBLE_VALUE, 1), value),
        ]
        yield encode([_packet(ts, event, ts.size)])
