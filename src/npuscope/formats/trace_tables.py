"""From slices and counters on tracks, as foreign traces hold them, to the tables of a Profile."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from npuscope.formats.neuron_json_maps import MAPS
from npuscope.formats.trace_tracks import OPCODE_TRACKS, OTHER, TrackRole
from npuscope.profile.intervals import union_length
from npuscope.profile.schema import columns_of

Ticks = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]
Arguments = Callable[[Indices], Mapping[str, "pa.Array"]]
"""For slices by index: the columns of their arguments, by name, null where a slice has none of it."""
MAX_SPAN_NS = 1 << 53
"""104 days; Profiles also count picoseconds, in 64 bits."""
_ALIASES = {
    "Instruction": MAPS["instruction"].columns,
    "DmaPacket": {**MAPS["dma"].columns, "bytes": "transfer_bytes", "queue": "queue_name"},
}
_OWN_ZERO_NS = 1_000_000_000
"""A trace whose first event lies in its first second counts from its own start, and its times stay as they are."""
_GIVEN = frozenset({"start_ts", "end_ts", "duration_ns", "engine", "timeline_track", "opcode"})
"""Columns that a slice and its track tell; its arguments do not change them."""
_WHOLE = r"^[+-]?\d{1,18}$"
_FLOAT = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$"
_THROTTLE = re.compile(r"(?P<type>.*?)\s*\(?(?P<k>\d{1,6})\s*/\s*(?P<n>\d{1,6})\)?")
_RATE_UNITS = {"gb/s": 1e9, "mb/s": 1e6, "kb/s": 1e3, "gib/s": 2.0**30, "mib/s": 2.0**20}


@dataclass(frozen=True, slots=True)
class Track:
    """One row of a trace viewer."""

    process_name: str
    thread_name: str
    process_id: int | None
    thread_id: int | None
    role: TrackRole = OTHER


@dataclass(frozen=True, slots=True)
class Slices:
    """Slices in the order of the trace."""

    start_ns: Ticks
    duration_ns: Ticks
    track: Indices
    """Index into the tracks."""
    name: pa.Array
    """Text, or text as a dictionary."""
    category: pa.Array
    extra_json: pa.Array | None = None
    """Arguments as JSON, where they were asked for."""


@dataclass(frozen=True, slots=True)
class Counters:
    """Samples of counters."""

    time_ns: Ticks
    value: npt.NDArray[np.float64]
    counter: Indices
    """Index into `names`, `processes` and `roles`."""
    names: Sequence[str]
    processes: Sequence[str]
    roles: Sequence[TrackRole]


def trace_tables(
    slices: Slices, tracks: Sequence[Track], counters: Counters, arguments: Arguments, *, event_source: str
) -> tuple[dict[str, Any], int, list[str]]:
    """Sort slices and samples into tables, their times counted from the first.

    Returns:
        The tables, the time in nanoseconds from which they count, and what to tell the user.
    """
    notes: list[str] = []
    slices, counters, offset_ns = _from_zero(slices, counters, notes)
    tracks, slices = _by_opcode(slices, tracks, notes)
    tables: dict[str, Any] = {}
    table_of_track = np.array([track.role.table for track in tracks] or [""], object)
    builders = {
        "Instruction": _instructions,
        "DmaPacket": _packets,
        "CcInstruction": _collectives,
        "Throttle": _throttling,
    }
    for table, build in builders.items():
        rows = np.flatnonzero((table_of_track == table)[slices.track])
        if rows.size:
            derived = build(slices, tracks, rows)
            tables[table] = _with_arguments(table, derived, arguments(rows), notes)
    others = (table_of_track == OTHER.table)[slices.track]
    if others.any():
        chosen = slices if others.all() else take_slices(slices, np.flatnonzero(others))
        tables[OTHER.table] = _system_events(chosen, tracks, event_source)
    tables.update(_counter_tables(counters))
    return tables, offset_ns, notes


def _from_zero(slices: Slices, counters: Counters, notes: list[str]) -> tuple[Slices, Counters, int]:
    """Shift all times so that the first is 0, unless they start near it already; drop what lies too long before the last."""
    sane = (np.abs(slices.start_ns) < 1 << 62) & (slices.duration_ns < 1 << 61)
    if not sane.all():
        notes.append(f"{int((~sane).sum())} slices have times beyond 146 years; they are left out")
        slices = take_slices(slices, np.flatnonzero(sane))
    ends = [(slices.start_ns + slices.duration_ns).max(initial=-(1 << 62)), counters.time_ns.max(initial=-(1 << 62))]
    oldest = int(max(ends)) - MAX_SPAN_NS
    kept, sampled = slices.start_ns >= oldest, counters.time_ns >= oldest
    lost = int((~kept).sum() + (~sampled).sum())
    if lost:
        notes.append(f"{lost} events lie more than 104 days before the last one; they are left out")
        slices = take_slices(slices, np.flatnonzero(kept))
        counters = replace(
            counters,
            time_ns=counters.time_ns[sampled],
            value=counters.value[sampled],
            counter=counters.counter[sampled],
        )
    first = min((int(times.min()) for times in (slices.start_ns, counters.time_ns) if times.size), default=0)
    if 0 <= first < _OWN_ZERO_NS:
        return slices, counters, 0
    return (
        replace(slices, start_ns=slices.start_ns - first),
        replace(counters, time_ns=counters.time_ns - first),
        first,
    )


def take_slices(slices: Slices, rows: Indices) -> Slices:
    """Some of the slices, by index."""
    return Slices(
        slices.start_ns[rows],
        slices.duration_ns[rows],
        slices.track[rows],
        slices.name.take(pa.array(rows)),
        slices.category.take(pa.array(rows)),
        None if slices.extra_json is None else slices.extra_json.take(pa.array(rows)),
    )


def _by_opcode(slices: Slices, tracks: Sequence[Track], notes: list[str]) -> tuple[list[Track], Slices]:
    """Where no track is an engine: put slices that are named like an opcode of one engine on tracks of their own."""
    if any(track.role.table == "Instruction" for track in tracks):
        return list(tracks), slices
    texts = slices.name.cast(pa.string())
    names = pc.unique(texts).to_pylist()
    known = [name for name in names if name in OPCODE_TRACKS]
    if not known:
        return list(tracks), slices
    made, track = list(tracks), slices.track.copy()
    counts: dict[str, int] = {}
    others = np.array([item.role == OTHER for item in tracks], bool)[slices.track]
    for name in known:
        role = OPCODE_TRACKS[name]
        rows = np.flatnonzero(np.asarray(pc.fill_null(pc.equal(texts, name), fill_value=False)) & others)
        track[rows] = len(made)
        made.append(Track("", role.timeline_track, None, None, role))
        counts[role.engine] = counts.get(role.engine, 0) + int(rows.size)
    told = ", ".join(f"{engine} {count}" for engine, count in sorted(counts.items()))
    notes.append(f"no track is named like an engine; slices were assigned by opcode where it tells the engine: {told}")
    return made, replace(slices, track=track)


def _of_tracks(slices: Slices, tracks: Sequence[Track], rows: Indices, get: Callable[[Track], Any], kind: Any) -> Any:
    """One value per slice that its track tells."""
    return pa.array([get(track) for track in tracks], type=kind).take(pa.array(slices.track[rows]))


def _spans(slices: Slices, rows: Indices) -> dict[str, Any]:
    start, duration = slices.start_ns[rows], slices.duration_ns[rows]
    return {"start_ts": start, "end_ts": start + duration, "duration_ns": duration}


def _names(slices: Slices, rows: Indices) -> pa.Array:
    return slices.name.take(pa.array(rows)).cast(pa.string())


def _instructions(slices: Slices, tracks: Sequence[Track], rows: Indices) -> dict[str, Any]:
    return {
        **_spans(slices, rows),
        "engine": _of_tracks(slices, tracks, rows, lambda track: track.role.engine, pa.string()),
        "timeline_track": _of_tracks(slices, tracks, rows, lambda track: track.role.timeline_track, pa.string()),
        "opcode": _names(slices, rows),
        "id": np.arange(1, rows.size + 1),
    }


def _packets(slices: Slices, tracks: Sequence[Track], rows: Indices) -> dict[str, Any]:
    return {
        **_spans(slices, rows),
        "id": np.arange(1, rows.size + 1),
        "queue_name": _of_tracks(slices, tracks, rows, lambda track: track.role.queue_name, pa.string()),
        "queue_idx": _of_tracks(slices, tracks, rows, lambda track: track.role.queue_idx, pa.int64()),
        "engine_idx": _of_tracks(slices, tracks, rows, lambda track: track.role.engine_idx, pa.int64()),
    }


def _collectives(slices: Slices, tracks: Sequence[Track], rows: Indices) -> dict[str, Any]:
    def number(track: Track) -> int | None:
        return int(track.role.number) if track.role.number[:18].isdecimal() else None

    core = _of_tracks(slices, tracks, rows, number, pa.int64())
    return {**_spans(slices, rows), "core_idx": core, "description": _names(slices, rows)}


def _throttling(slices: Slices, _: Sequence[Track], rows: Indices) -> dict[str, Any]:
    """`activity_0 7/8`: the cause, and the share of clocks that it lets through."""
    names = _names(slices, rows).dictionary_encode()
    parsed = [_THROTTLE.fullmatch(name) for name in names.dictionary.to_pylist()]
    columns = {
        "type": [
            match["type"] if match else name for match, name in zip(parsed, names.dictionary.to_pylist(), strict=True)
        ],
        "k": [int(match["k"]) if match else None for match in parsed],
        "n": [int(match["n"]) if match else None for match in parsed],
    }
    types = {"type": pa.string(), "k": pa.int32(), "n": pa.int32()}
    told = {key: pa.array(values, type=types[key]).take(names.indices) for key, values in columns.items()}
    return {"timestamp": slices.start_ns[rows], "duration": slices.duration_ns[rows], **told}


def _system_events(slices: Slices, tracks: Sequence[Track], event_source: str) -> dict[str, Any]:
    index = pa.array(slices.track)

    def told(get: Callable[[Track], Any], kind: Any) -> Any:
        return pa.array([get(track) for track in tracks], type=kind).take(index)

    columns = {
        "start_ts": slices.start_ns,
        "end_ts": slices.start_ns + slices.duration_ns,
        "duration_ns": slices.duration_ns,
        "id": np.arange(1, slices.start_ns.size + 1),
        "name": slices.name,
        "category": slices.category,
        "trace_event_source": pa.repeat(event_source, slices.start_ns.size),
        "process_id": told(lambda track: track.process_id, pa.int64()),
        "thread_id": told(lambda track: track.thread_id, pa.int64()),
        "process_name": told(lambda track: track.process_name, pa.string()),
        "thread_name": told(lambda track: track.thread_name, pa.string()),
    }
    return columns if slices.extra_json is None else {**columns, "extra_attributes_json": slices.extra_json}


def _with_arguments(
    table: str, derived: dict[str, Any], given: Mapping[str, pa.Array], notes: list[str]
) -> dict[str, Any]:
    """What the slices and tracks tell, completed and corrected by what the arguments say."""
    known, aliases = columns_of(table), _ALIASES.get(table, {})
    columns = dict(derived)
    unused: list[str] = []
    for key, values in given.items():
        column = key if key in known else aliases.get(key, key)
        if column in _GIVEN or (column != key and column in given):
            continue
        if column not in known:
            unused.append(key)
            continue
        cast, lost = _cast_argument(values, known[column].type)
        if lost:
            notes.append(f"{table}.{column}: {lost} arguments {key!r} are no {known[column].type} and are left out")
        if column in columns:
            base = pa.array(columns[column]) if isinstance(columns[column], np.ndarray) else columns[column]
            columns[column] = pc.coalesce(cast, base.cast(known[column].type))
        else:
            columns[column] = cast
    if unused:
        shown = ", ".join(sorted(unused)[:8]) + (" and more" if len(unused) > 8 else "")
        notes.append(f"{table}: arguments without a column of their own are left out: {shown}")
    return columns


def _cast_argument(values: pa.Array, wanted: pa.DataType) -> tuple[pa.Array, int]:
    """Arguments in the type of their column, and how many could not be had in it."""
    if pa.types.is_string(values.type) and not pa.types.is_string(wanted):
        if pa.types.is_boolean(wanted):
            truth = {"true": True, "false": False, "1": True, "0": False}
            parsed = pa.array([truth.get(str(value).lower()) for value in values.to_pylist()], type=pa.bool_())
            return parsed, parsed.null_count - values.null_count
        pattern = _FLOAT if pa.types.is_floating(wanted) else _WHOLE
        numeric = pc.match_substring_regex(values, pattern)
        values, before = pc.if_else(numeric, values, None), values.null_count
        lost = values.null_count - before
    else:
        lost = 0
    try:
        return values.cast(wanted), lost
    except pa.ArrowException:
        return pa.nulls(len(values), wanted), len(values) - values.null_count + lost


def _counter_tables(counters: Counters) -> dict[str, Any]:
    """Samples by the table that their counter's name tells; others go to `Counter`."""
    tables: dict[str, Any] = {}
    kinds = np.array([role.table for role in counters.roles], object)
    for table in dict.fromkeys(kinds.tolist()):
        rows = np.flatnonzero(kinds[counters.counter] == table)
        if not rows.size:
            continue
        index, value, time = counters.counter[rows], counters.value[rows], counters.time_ns[rows]
        if table in ("DmaUsage", "HbmUsage"):
            scale = np.array([_rate_scale(name) for name in counters.names])[index]
            tables[table] = {"timestamp": time, "current_throughput": value * scale}
        elif table == "PendingDma":
            tables[table] = {"timestamp": time, "value": _int32(value)}
        elif table == "SemaphoreUpdate":
            number = pa.array([role.number for role in counters.roles]).take(pa.array(index))
            tables[table] = {"timestamp": time, "id": number, "value": _int32(value)}
        else:
            name = pa.array(list(counters.names), type=pa.string()).take(pa.array(index))
            process = pa.array(list(counters.processes), type=pa.string()).take(pa.array(index))
            tables[table] = {"timestamp": time, "name": name, "value": value, "process_name": process}
    return tables


def _rate_scale(name: str) -> float:
    """Bytes per second that 1 stands for: `DMA Throughput (GB/s)`; plain bytes per second where no unit stands."""
    return next((scale for unit, scale in _RATE_UNITS.items() if unit in name.lower()), 1.0)


def _int32(values: npt.NDArray[np.float64]) -> pa.Array:
    """Whole numbers; null where a sample is none that int32 holds."""
    held = np.isfinite(values) & (np.abs(values) < 1 << 31)
    return pa.array(np.where(held, np.rint(np.where(held, values, 0)), 0).astype(np.int32), mask=~held)


def track_rows(slices: Slices, tracks: Sequence[Track]) -> list[dict[str, Any]]:
    """Per thread, or track without one: its slices, the sum of their durations, and the time that at least one covers.

    Slices of one thread that overlap may lie on several tracks; they come as one row.

    Returns:
        Rows with keys process, thread, slices, duration_ns, busy_ns; the busiest first.
    """
    names: dict[tuple[Any, Any], int] = {}
    row_of_track = np.array(
        [
            names.setdefault(
                (
                    track.process_name or ("" if track.process_id is None else track.process_id),
                    track.thread_name or ("" if track.thread_id is None else track.thread_id),
                ),
                len(names),
            )
            for track in tracks
        ]
        or [0]
    )
    groups = row_of_track[slices.track]
    order = np.argsort(groups, kind="stable")
    told = list(names)
    rows = []
    for part in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if order.size else []:
        start, duration = slices.start_ns[part], slices.duration_ns[part]
        process, thread = told[int(groups[part[0]])]
        rows.append(
            {
                "process": process,
                "thread": thread,
                "slices": int(part.size),
                "duration_ns": int(duration.sum()),
                "busy_ns": union_length(start, start + duration),
            }
        )
    return sorted(rows, key=lambda row: (-int(row["busy_ns"]), str(row["process"]), str(row["thread"])))
