"""Native Perfetto traces (`.pftrace`) to a Profile, through Perfetto's own trace processor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from npuscope.errors import FormatError, UsageError
from npuscope.formats.inspection import Inspection
from npuscope.formats.perfetto_packets import Packets, check_packets
from npuscope.formats.perfetto_processor import TraceProcessor
from npuscope.formats.trace_tables import Counters, Indices, Slices, Ticks, Track, trace_tables, track_rows
from npuscope.formats.trace_tracks import counter_role, slice_role
from npuscope.profile.summary import with_summary
from npuscope.profile.tables import Profile, make_profile, one_row

_TRACKS_SQL = """
SELECT track.id AS id,
       coalesce(thread.name, track.name, parent.name, '') AS name,
       coalesce(thread.tid, 0) AS tid, thread.tid IS NULL AS no_tid,
       coalesce(p1.name, p2.name, '') AS process_name, coalesce(p1.pid, p2.pid) AS pid
FROM track
LEFT JOIN track AS parent ON parent.id = track.parent_id
LEFT JOIN thread_track ON thread_track.id = track.id
LEFT JOIN thread ON thread.utid = thread_track.utid
LEFT JOIN process AS p1 ON p1.upid = thread.upid
LEFT JOIN process_track ON process_track.id = track.id
LEFT JOIN process AS p2 ON p2.upid = process_track.upid
WHERE track.id IN (SELECT DISTINCT track_id FROM slice) ORDER BY track.id
"""
_COUNTS_SQL = """
SELECT (SELECT count(*) FROM slice) AS slices, (SELECT count(*) FROM counter) AS counter_samples,
       (SELECT count(DISTINCT track_id) FROM slice) AS tracks_with_slices,
       (SELECT count(DISTINCT track_id) FROM counter) AS tracks_with_samples
"""
_SLICES_SQL = "SELECT id, ts, dur, track_id, coalesce(name, '') AS name, category, arg_set_id FROM slice ORDER BY id"
_COUNTERS_SQL = """
SELECT counter.ts AS ts, counter.value AS value, counter.track_id AS track_id, counter_track.name AS name,
       coalesce(process.name, '') AS process
FROM counter JOIN counter_track ON counter_track.id = counter.track_id
LEFT JOIN process_counter_track ON process_counter_track.id = counter.track_id
LEFT JOIN process ON process.upid = process_counter_track.upid
ORDER BY counter.track_id, counter.ts, counter.id
"""
_ARGUMENTS_SQL = """
SELECT slice.id AS slice_id, args.key AS key, args.int_value AS int_value, args.real_value AS real_value,
       args.string_value AS string_value, args.value_type AS value_type
FROM slice JOIN args USING (arg_set_id) WHERE slice.track_id IN ({tracks}) ORDER BY slice.id
"""
_OWN_PROCESS = re.compile(r"(?P<device>.*) \((?P<origin>measured|simulated)\)(?:, core \d+)?")
_PREFIXES = ("debug.", "args.")


def read_perfetto(path: Path) -> Profile:
    """Read a native Perfetto trace.

    Slices of tracks that are named like an engine or a DMA queue become `Instruction` and `DmaPacket` rows, their
    arguments columns; slices of other tracks `SystemProfileEvents`. Times are exact nanoseconds from the first event.

    Args:
        path: `.pftrace`, or gzip of it.

    Raises:
        FormatError: The file is cut off, is no such trace, or is beyond the processor's limits.
        UnavailableError: The packages of the extra `perfetto` are not installed.
    """
    return with_summary(_read(path, check_packets(path)).profile)


@dataclass(frozen=True, slots=True)
class _Trace:
    """A trace as a Profile, and as Perfetto holds it."""

    profile: Profile
    slices: Slices
    tracks: list[Track]
    counts: dict[str, int]
    """Rows of Perfetto's tables, by what to call them."""


def _read(path: Path, packets: Packets) -> _Trace:
    try:
        return _through_processor(path, packets)
    except UsageError as error:  # the queries are ours: what fails is the trace
        raise FormatError(path, expected="a trace that Perfetto can query", found=str(error)) from error


def _through_processor(path: Path, packets: Packets) -> _Trace:
    with TraceProcessor() as processor:
        processor.load(path)
        notes = _remarks(processor, packets)
        counts = processor.query(_COUNTS_SQL).to_pylist()[0]
        tracks, index = _tracks(processor.query(_TRACKS_SQL))
        slices, ids = _slices(processor.query(_SLICES_SQL), index, notes)

        def arguments(rows: Indices) -> Mapping[str, pa.Array]:
            return _arguments(processor, ids[rows])

        tables, offset_ns, more = trace_tables(
            slices, tracks, _counters(processor.query(_COUNTERS_SQL)), arguments, event_source="perfetto"
        )
    tables["Metadata"] = one_row(
        {
            **_origin(tracks),
            "source_format": "perfetto",
            "source_path": str(path),
            "first_hw_timestamp": offset_ns,
        }
    )
    return _Trace(make_profile(tables, source=str(path), notes=[*notes, *more]), slices, tracks, counts)


def inspect_perfetto(path: Path) -> Inspection:
    """What a native Perfetto trace holds.

    Raises:
        FormatError: See `read_perfetto`.
        UnavailableError: See `read_perfetto`.
    """
    packets = check_packets(path)
    trace = _read(path, packets)
    profile, count = trace.profile, trace.counts["slices"]
    facts = {
        "size_bytes": path.stat().st_size,
        "packets": packets.count,
        "compressed_packets": packets.compressed,
        **trace.counts,
        "tracks": trace.counts["tracks_with_slices"] + trace.counts["tracks_with_samples"],
        "first_timestamp_ns": profile.metadata.get("first_hw_timestamp", 0),
        **{f"rows_{name}": profile.rows(name) for name in sorted(profile.tables) if name != "Metadata"},
    }
    rows = track_rows(trace.slices, trace.tracks)
    title = f"Perfetto trace with {count:,} slices in {len(rows):,} threads"
    return Inspection("perfetto", str(path), title, facts, {"threads": rows[:100]}, profile.notes)


def _remarks(processor: TraceProcessor, packets: Packets) -> list[str]:
    notes = [
        f"Perfetto counts {value} of {name} while loading: part of the trace is lost or contradicts itself"
        for name, value in processor.error_stats().items()
    ]
    if packets.other_fields:
        told = ", ".join(str(number) for number in sorted(packets.other_fields)[:8])
        notes.append(f"the file holds fields besides packets that are not read: {told}")
    flows = processor.query("SELECT count(*) AS n FROM flow").column("n")[0].as_py()
    if flows:
        notes.append(f"{flows} flows (arrows between slices) are not kept")
    return notes


def _tracks(table: pa.Table) -> tuple[list[Track], npt.NDArray[np.int64]]:
    """The tracks that hold slices, and per track id of the processor the index of its track."""
    rows = table.to_pylist()
    index = np.zeros(max((row["id"] for row in rows), default=0) + 1, np.int64)
    tracks = []
    for at, row in enumerate(rows):
        index[row["id"]] = at
        thread, process = row["name"] or "", row["process_name"] or ""
        tracks.append(
            Track(process, thread, row["pid"], None if row["no_tid"] else row["tid"], slice_role(thread or process))
        )
    return tracks, index


def _origin(tracks: list[Track]) -> dict[str, Any]:
    """The device, and whether it was simulated, as npuscope's own exporter names its process; else unknown."""
    for track in tracks:
        if match := _OWN_PROCESS.fullmatch(track.process_name):
            return {"device": match["device"], "is_simulation": match["origin"] == "simulated"}
    return {"device": "unknown device", "is_simulation": False}


def _integers(table: pa.Table, column: str) -> Ticks:
    return np.asarray(pc.fill_null(table.column(column).cast(pa.int64()), 0).to_numpy())


def _slices(table: pa.Table, index: npt.NDArray[np.int64], notes: list[str]) -> tuple[Slices, Ticks]:
    """All finished slices, and their ids in the processor."""
    duration = _integers(table, "dur")
    unfinished = int((duration < 0).sum())
    if unfinished:
        notes.append(f"{unfinished} slices have a begin and no end; they are left out")
        table = table.filter(pa.array(duration >= 0))
        duration = duration[duration >= 0]
    text = {name: table.column(name).cast(pa.string()).combine_chunks() for name in ("name", "category")}
    slices = Slices(
        _integers(table, "ts"), duration, index[_integers(table, "track_id")], text["name"], text["category"]
    )
    return slices, _integers(table, "id")


def _counters(table: pa.Table) -> Counters:
    track = _integers(table, "track_id")
    _, first, index = np.unique(track, return_index=True, return_inverse=True)
    names = [table.column("name")[int(at)].as_py() or "" for at in first]
    processes = [table.column("process")[int(at)].as_py() or "" for at in first]
    values = np.asarray(pc.fill_null(table.column("value").cast(pa.float64()), 0.0).to_numpy())
    return Counters(
        _integers(table, "ts"), values, index.reshape(-1), names, processes, [counter_role(name) for name in names]
    )


def _arguments(processor: TraceProcessor, ids: Ticks) -> dict[str, pa.Array]:
    """The arguments of some slices, one column for each name.

    The slices are those of whole tracks, so the tracks are asked for, not each slice.
    """
    known = pa.array(ids)
    tracks = processor.query("SELECT id, track_id FROM slice ORDER BY id")
    chosen = tracks.filter(pc.is_in(tracks.column("id"), value_set=known)).column("track_id").unique().to_pylist()
    table = processor.query(_ARGUMENTS_SQL.format(tracks=", ".join(str(track) for track in chosen)))
    row_of = pc.index_in(table.column("slice_id"), value_set=known)
    table = table.append_column("row", row_of).filter(pc.is_valid(row_of))
    columns: dict[str, pa.Array] = {}
    keys = table.column("key").dictionary_encode().combine_chunks() if table.num_rows else None
    for code, key in enumerate(keys.dictionary.to_pylist() if keys is not None else []):
        own = table.filter(pc.equal(keys.indices, code)) if keys is not None else table
        values = _argument_values(own)
        rows = _integers(own, "row")
        spread = np.full(ids.size, -1, np.int64)
        spread[rows] = np.arange(rows.size)
        taken = values.take(pa.array(spread, mask=spread < 0))
        columns[next((key[len(prefix) :] for prefix in _PREFIXES if key.startswith(prefix)), key)] = taken
    return columns


def _argument_values(table: pa.Table) -> pa.Array:
    """The values of one argument; as text where they are of several kinds."""
    kinds = [
        (name, table.column(name).combine_chunks())
        for name in ("int_value", "real_value", "string_value")
        if table.column(name).null_count < table.num_rows
    ]
    if not kinds:
        return pa.nulls(table.num_rows, pa.string())
    if len(kinds) == 1:
        return kinds[0][1]
    return pc.coalesce(*(values.cast(pa.string()) for _, values in reversed(kinds)))
