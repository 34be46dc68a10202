"""A Profile as a trace: processes, threads, tracks, slices, counters and flows, shaped and numbered as Perfetto does.

The SQL views and the Perfetto writer both show this one value, so that they agree. A process is a physical core of the
device, or a process of the host; a thread is an engine, a DMA queue, throttling or a thread of the host. Slices that
overlap on one thread get lanes: the first lane is the thread's own track, the others are child tracks of its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from npuscope.profile.lanes import assign_lanes, nest_lanes
from npuscope.profile.tables import Profile
from npuscope.profile.timeline_counters import CounterTracks, counter_tracks
from npuscope.profile.timeline_flows import flow_edges
from npuscope.profile.timeline_sources import SLICES, SliceSource, argument_columns, column
from npuscope.profile.timeline_threads import Thread, Threads, device_process_names, thread_codes

Ticks = npt.NDArray[np.int64]
MAX_TIME_NS = 1 << 61
"""Times beyond this, either way, are no times: sums of three of them leave int64."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Arrow tables of one trace; ids as Perfetto's trace processor gives them to processes, threads and slices."""

    processes: pa.Table
    """upid, pid, name."""
    threads: pa.Table
    """utid, tid, upid, name, kind."""
    tracks: pa.Table
    """id, name, kind, upid, utid (null for a counter), unit, lane (null for a counter)."""
    slices: pa.Table
    """id (the row number), ts, dur, track_id, name, category, depth, parent_id, arg_set_id, source, row: `row` of
    `profile.tables[SLICES[source].table]`; sorted by ts."""
    counters: pa.Table
    """track_id, ts, value; sorted by ts within a track."""
    flows: pa.Table
    """slice_out, slice_in: ids of slices, the earlier first."""
    profile: Profile
    notes: tuple[str, ...] = field(default=())
    """What could not be drawn."""

    def arguments(self) -> Mapping[str, pa.Table]:
        """Per table with slices: `slice_id` and the columns that are arguments; null where there is none."""
        sources = np.asarray(self.slices.column("source").to_numpy())
        rows = np.asarray(self.slices.column("row").to_numpy())
        found = {}
        for index, source in enumerate(SLICES):
            members = np.flatnonzero(sources == index)
            if members.size:
                picked = arguments_of(self.profile, source.table).take(pa.array(rows[members]))
                found[source.table] = picked.add_column(0, "slice_id", pa.array(members.astype(np.int64)))
        return MappingProxyType(found)


def arguments_of(profile: Profile, table: str) -> pa.Table:
    """The argument columns of a table, one row a row of it; '' reads as null, and so does NaN."""
    found = profile.tables[table]
    names = argument_columns(found, table)
    return pa.table({name: _without_blanks(found.column(name)) for name in names}) if names else found.select([])


def _without_blanks(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_string(values.type):
        return pc.if_else(pc.equal(values, ""), pa.scalar(None, values.type), values)
    if pa.types.is_floating(values.type):
        return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    return values


@dataclass(slots=True)
class _Part:
    """The slices of one source, sorted by start."""

    start: Ticks
    duration: Ticks
    row: Ticks
    thread: Ticks
    lane: Ticks
    depth: Ticks
    parent: Ticks
    names: pa.Array
    source: int


def build_timeline(profile: Profile) -> Timeline:
    """Lay a Profile out as a trace.

    Rows without a start are left out, negative durations read as 0; both are noted.
    """
    notes: list[str] = []
    cores = device_process_names(profile)
    threads = Threads(cores)
    parts = []
    for index, source in enumerate(SLICES):
        if profile.rows(source.table) and not profile.rows(source.instead_of):
            parts.append(_part(profile, index, source, threads, notes))
    counters = counter_tracks(profile, threads, notes)
    renumbered = threads.number()
    for part in parts:
        part.thread = renumbered[part.thread]
    tracks, track_ids = _tracks(threads, parts, counters)
    slices = _slices(profile, parts, track_ids)
    flows = flow_edges(profile, slices, notes)
    return Timeline(
        threads.process_table(), threads.table(), tracks, slices, _counter_table(counters, tracks), flows, profile,
        tuple(notes),
    )  # fmt: skip


def _part(profile: Profile, index: int, source: SliceSource, threads: Threads, notes: list[str]) -> _Part:
    start, duration, known = _spans(profile, source)
    strange = int((duration[known] < 0).sum())
    if strange:
        notes.append(f"{source.table}: {strange} rows end before they start; drawn without a length")
        duration = np.maximum(duration, 0)
    if not known.all():
        notes.append(f"{source.table}: {int((~known).sum())} rows without a usable start are not drawn")
    row = np.flatnonzero(known)
    start, duration = start[row], duration[row]
    order = np.lexsort((-duration, start)) if source.nested else np.argsort(start, kind="stable")
    row, start, duration = row[order], start[order], duration[order]
    thread = thread_codes(profile, source, threads)[row]
    nothing = np.zeros(row.size, np.int64)
    if source.nested:
        lane, depth, parent = nest_lanes(start, start + duration, thread)
    else:
        lane, depth, parent = assign_lanes(start, start + duration, thread), nothing, nothing - 1
    names = source.names(profile)
    names = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
    return _Part(start, duration, row, thread, lane, depth, parent, names.take(pa.array(row)), index)


def _spans(profile: Profile, source: SliceSource) -> tuple[Ticks, Ticks, npt.NDArray[np.bool_]]:
    """Start and duration of every row, and whether it has a start; the end stands in for a missing duration."""
    start = profile.numbers(source.table, source.start)
    duration = profile.numbers(source.table, source.duration)
    known = np.asarray(pc.is_valid(column(profile, source.table, source.start)).to_numpy())
    if source.end:
        missing = np.asarray(pc.is_null(column(profile, source.table, source.duration)).to_numpy())
        has_end = np.asarray(pc.is_valid(column(profile, source.table, source.end)).to_numpy())
        ends = np.clip(profile.numbers(source.table, source.end), -MAX_TIME_NS, MAX_TIME_NS)
        inside = np.clip(start, -MAX_TIME_NS, MAX_TIME_NS)
        duration = np.where(missing & has_end, ends - inside, duration)
    known = known & (start < MAX_TIME_NS) & (start > -MAX_TIME_NS)
    return start, np.clip(duration, -MAX_TIME_NS, MAX_TIME_NS), known


def _tracks(threads: Threads, parts: list[_Part], counters: CounterTracks) -> tuple[pa.Table, list[Ticks]]:
    """The track table, and the track of every slice of every part."""
    rows: list[dict[str, Any]] = []
    track_ids = []
    for part in parts:
        lanes = int(part.lane.max(initial=0)) + 1
        keys, inverse = np.unique(part.thread * lanes + part.lane, return_inverse=True)
        track_ids.append(inverse.astype(np.int64) + len(rows))
        for thread, lane in (divmod(key, lanes) for key in keys.tolist()):
            found: Thread = threads.by_utid(thread)
            rows.append(
                {"name": found.name, "kind": found.kind, "upid": found.upid, "utid": thread, "unit": None, "lane": lane}
            )
    for name, unit, process in counters.tracks:
        rows.append(
            {
                "name": name,
                "kind": "counter",
                "upid": threads.upid(process),
                "utid": None,
                "unit": unit or None,
                "lane": None,
            }
        )
    schema = pa.schema(
        [("name", pa.string()), ("kind", pa.string()), ("upid", pa.int64()), ("utid", pa.int64()), ("unit", pa.string()),
         ("lane", pa.int64())]
    )  # fmt: skip
    table = pa.Table.from_pylist(rows, schema=schema)
    return table.add_column(0, "id", pa.array(range(len(rows)), pa.int64())), track_ids


def _slices(profile: Profile, parts: list[_Part], track_ids: list[Ticks]) -> pa.Table:
    """All slices in the order of their start, equal starts in the order of the sources."""
    offsets = np.cumsum([0, *(part.row.size for part in parts)])
    start = _joined([part.start for part in parts])
    order = np.argsort(start, kind="stable")
    ids = np.empty_like(order)
    ids[order] = np.arange(order.size)
    own = [ids[first:last] for first, last in pairwise(offsets.tolist())]
    parents = [np.where(part.parent >= 0, mine[part.parent], -1) for part, mine in zip(parts, own, strict=True)]
    parent = _joined(parents)[order]
    has_arguments = _joined([_with_arguments(profile, part) for part in parts]).astype(bool)[order]
    numbers = np.arange(order.size, dtype=np.int64)
    names = pa.chunked_array([part.names.dictionary_encode() for part in parts], pa.dictionary(pa.int32(), pa.string()))
    source = _joined([np.full(part.row.size, part.source, np.int64) for part in parts])[order]
    kinds = pa.DictionaryArray.from_arrays(pa.array(source, pa.int32()), pa.array([item.kind for item in SLICES]))
    columns = {
        "id": numbers,
        "ts": start[order],
        "dur": _joined([part.duration for part in parts])[order],
        "track_id": _joined(track_ids)[order],
        "name": names.unify_dictionaries().combine_chunks().take(pa.array(order))
        if parts
        else pa.array([], pa.string()),
        "category": kinds,
        "depth": _joined([part.depth for part in parts])[order],
        "parent_id": pa.array(parent, mask=parent < 0),
        "arg_set_id": pa.array(numbers, mask=~has_arguments),
        "source": source,
        "row": _joined([part.row for part in parts])[order],
    }
    return pa.table(columns)


def _with_arguments(profile: Profile, part: _Part) -> npt.NDArray[np.int64]:
    """1 where a slice has an argument that is not null."""
    table = arguments_of(profile, SLICES[part.source].table)
    found = np.zeros(table.num_rows, bool)
    for values in table.columns:
        if found.all():
            break
        found |= np.asarray(pc.is_valid(values).to_numpy())
    return (found if table.num_columns else np.zeros(profile.rows(SLICES[part.source].table), bool))[part.row].astype(
        np.int64
    )


def _joined(parts: list[Ticks]) -> Ticks:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _counter_table(counters: CounterTracks, tracks: pa.Table) -> pa.Table:
    first = tracks.num_rows - len(counters.tracks)
    return pa.table({"track_id": counters.track + first, "ts": counters.ts, "value": counters.value})
