"""Chrome traces as JSON, which PyTorch's Kineto, JAX and many others write: to a Profile, streaming.

Perfetto's trace processor reads them too, but takes two to three times as long, and drops a slice that overlaps another of its
thread without lying within it, as kernels on a GPU stream do. This reader keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from npuscope.formats.chrome_events import EVENT_KEYS, Event, Events, read_events, stream_events
from npuscope.formats.inspection import Inspection
from npuscope.formats.trace_tables import Counters, Indices, Slices, Ticks, Track, trace_tables, track_rows
from npuscope.formats.trace_tracks import counter_role, slice_role
from npuscope.profile.summary import with_summary
from npuscope.profile.tables import Profile, make_profile, one_row

_FLOWS = "stf"
_BEGIN, _END = frozenset("BbS"), frozenset("EeF")
_TITLES = {"schemaVersion": "schema_version", "displayTimeUnit": "display_time_unit", "trace_name": "trace_name"}


def read_chrome_trace(path: Path, *, with_args: bool = False) -> Profile:
    """Read a Chrome, Kineto or JAX trace.

    Slices of tracks that are named like an engine or a DMA queue become `Instruction` and `DmaPacket`, all others
    `SystemProfileEvents` with the names of their process and thread. Times are nanoseconds from the first event.

    Args:
        path: `.json` or `.json.gz`.
        with_args: Keep the arguments of every slice as JSON in `extra_attributes_json`; doubles the memory or more.

    Raises:
        FormatError: It is no trace, is cut off, or holds an event of another shape; with the byte or the event.
    """
    return with_summary(_read(path, with_args=with_args))


def _read(path: Path, *, with_args: bool) -> Profile:
    """A function of its own, so that the events are gone before the summary is made."""
    events = read_events(path, with_args=with_args)
    slices, ordinals, tracks, notes = _slices(events)

    def arguments(rows: Indices) -> Mapping[str, pa.Array]:
        return _arguments(path, ordinals[rows])

    tables, offset_ns, more = trace_tables(slices, tracks, _counters(events), arguments, event_source="chrome-trace")
    notes += more + _remarks(events, with_args=with_args)
    tables["Metadata"] = one_row(
        {
            "is_simulation": False,
            "source_format": "chrome-trace",
            "source_path": str(path),
            "device": _device(events),
            "first_hw_timestamp": offset_ns,
        }
    )
    return make_profile(tables, source=str(path), notes=notes)


def inspect_chrome_trace(path: Path) -> Inspection:
    """What a Chrome trace holds.

    Raises:
        FormatError: See `read_chrome_trace`.
    """
    events = read_events(path)
    slices, _, tracks, _ = _slices(events)
    profile = read_from(slices, tracks, path)
    rows = track_rows(slices, tracks)
    count = sum(row["slices"] for row in rows)
    facts: dict[str, Any] = {
        "size_bytes": path.stat().st_size,
        "slices": count,
        "threads": len(rows),
        "events_by_phase": dict(sorted(events.phases.items())),
        "device": _device(events),
    }
    facts |= {
        name: events.values[key] for key, name in _TITLES.items() if isinstance(events.values.get(key), str | int)
    }
    return Inspection(
        "chrome-trace",
        str(path),
        f"Chrome trace with {count:,} slices in {len(rows):,} threads",
        facts,
        {"threads": rows[:100]},
        tuple(profile.notes) + tuple(_remarks(events, with_args=True)),
    )


def read_from(slices: Slices, tracks: Sequence[Track], path: Path) -> Profile:
    """A Profile of slices alone, without arguments and summary: for a quick look."""
    empty = Counters(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64), (), (), ())
    tables, _, notes = trace_tables(slices, tracks, empty, lambda _: {}, event_source="chrome-trace")
    return make_profile(tables, source=str(path), notes=notes)


def _device(events: Events) -> str:
    """The name that Kineto gives the first device."""
    found = events.values.get("deviceProperties")
    first = found[0] if isinstance(found, list) and found else None
    name = first.get("name") if isinstance(first, dict) else None
    return name if isinstance(name, str) and name else "unknown device"


def _slices(events: Events) -> tuple[Slices, Ticks, list[Track], list[str]]:
    """Complete events, instants, and begins with their ends; with the ordinal of the event that names each."""
    notes: list[str] = []
    phase_of_kind = np.array([kind[0] for kind in events.kinds] or [""], object)
    begins = np.isin(phase_of_kind, list(_BEGIN))[events.kind]
    ends = np.isin(phase_of_kind, list(_END))[events.kind]
    tracks, track_of_kind = _tracks(events)
    start, duration = events.time_ns, events.duration_ns
    chosen: Any = slice(None)
    if begins.any() or ends.any():
        alone = np.flatnonzero(~begins & ~ends)
        first, last, lonely = _matched(events, np.flatnonzero(begins | ends), begins, track_of_kind)
        duration[first] = start[last] - start[first]
        chosen = np.sort(np.concatenate([alone, first]))
        for text, number in lonely.items():
            if number:
                notes.append(f"{number} {text}; they are left out")
    kinds = events.kind[chosen]
    names = pa.array([_text(kind[2]) for kind in events.kinds], type=pa.string())
    categories = pa.array([None if kind[1] is None else _text(kind[1]) for kind in events.kinds], type=pa.string())
    extra = None
    if events.arguments is not None:
        extra = pa.array(
            [events.arguments[at].decode("utf-8", "replace") or None for at in np.arange(start.size)[chosen].tolist()]
        )
    index = pa.array(kinds)
    slices = Slices(
        start[chosen],
        duration[chosen],
        track_of_kind[kinds],
        names.take(index),
        categories.take(index),
        extra,
    )
    return slices, events.ordinal[chosen], tracks, notes


def _matched(
    events: Events, rows: Indices, begins: npt.NDArray[np.bool_], track_of_kind: Indices
) -> tuple[Indices, Indices, dict[str, int]]:
    """Begin and end events that belong together, as indices, and how many have no partner."""
    groups: dict[Any, int] = {}
    group = track_of_kind[events.kind[rows]].astype(np.int64)
    for at, ordinal in enumerate(events.ordinal[rows].tolist()):
        if ordinal in events.async_key:
            group[at] = -1 - groups.setdefault(events.async_key[ordinal], len(groups))
    order = np.lexsort((rows, events.time_ns[rows], group))
    rows, group = rows[order], group[order]
    first, last, open_ends, open_begins = match_pairs(group, begins[rows])
    lonely = {"end events have no begin": open_ends, "begin events have no end": open_begins}
    return rows[first], rows[last], lonely


def match_pairs(group: Indices, begins: npt.NDArray[np.bool_]) -> tuple[Indices, Indices, int, int]:
    """Pair each end with the last open begin of its group, as brackets are.

    Args:
        group: Group of each event [n], ascending; in a group the events are in order of time.
        begins: Whether each is a begin [n], else it is an end.

    Returns:
        Index of the begin and of the end of each pair, in order of the begins; how many ends have no begin, and how
        many begins no end.
    """
    positions = np.arange(group.size)
    step = np.where(begins, 1, -1)
    rank = np.unique(group, return_inverse=True)[1].astype(np.int64)
    if group.size:
        depth = _within(step, rank) - rank * (group.size + 1)
        lowest = np.minimum.accumulate(np.minimum(depth, -rank * (group.size + 1)))
        before = np.append(0, lowest[:-1])
        before = np.minimum(before, -rank * (group.size + 1))
        lonely_end = ~begins & (lowest < before)
    else:
        lonely_end = np.zeros(0, bool)
    kept = positions[~lonely_end]
    level = _within(step[kept], rank[kept]) + ~begins[kept]
    order = np.lexsort((kept, level, rank[kept]))
    sorted_at, sorted_level = kept[order], level[order]
    follows = begins[sorted_at[:-1]] & ~begins[sorted_at[1:]]
    follows &= (sorted_level[:-1] == sorted_level[1:]) & (rank[sorted_at[:-1]] == rank[sorted_at[1:]])
    at = np.flatnonzero(follows)
    first, last = sorted_at[at], sorted_at[at + 1]
    by_begin = np.argsort(first, kind="stable")
    return first[by_begin], last[by_begin], int(lonely_end.sum()), int(begins.sum() - first.size)


def _within(step: Indices, rank: Indices) -> Indices:
    """Running sum of `step` that starts anew with each rank; ranks ascend."""
    total = np.cumsum(step)
    starts = np.searchsorted(rank, rank, side="left")
    return np.asarray(total - np.where(starts > 0, total[np.maximum(starts - 1, 0)], 0))


def _tracks(events: Events) -> tuple[list[Track], Indices]:
    """The tracks, and for each kind of event the index of its track."""
    processes: dict[Any, str] = {}
    labels: dict[Any, str] = {}
    threads: dict[tuple[Any, Any], str] = {}
    for title, pid, tid, values in events.metadata:
        if title == "process_name":
            processes[pid] = _text(values.get("name"))
        elif title == "process_labels":
            labels[pid] = _text(values.get("labels"))
        elif title == "thread_name":
            threads[pid, tid] = _text(values.get("name"))
    index: dict[Any, int] = {}
    tracks: list[Track] = []
    track_of_kind = np.zeros(max(len(events.kinds), 1), np.int64)
    for at, (phase, category, name, pid, tid) in enumerate(events.kinds):
        is_async = phase in "benSF" and phase != ""
        key = (pid, None, _text(category) or _text(name)) if is_async else (pid, tid, None)
        if key not in index:
            index[key] = len(tracks)
            process = processes.get(pid, "" if _number(pid) is not None else _text(pid))
            label = labels.get(pid, "")
            process = f"{process} ({label})" if label and process else process or label
            plain = "" if _number(tid) is not None else _text(tid)
            thread = f"async {key[2]}" if is_async else threads.get((pid, tid), plain)
            role = slice_role(thread or process)
            tracks.append(Track(process, thread, _number(pid), None if is_async else _number(tid), role))
        track_of_kind[at] = index[key]
    return tracks, track_of_kind


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _number(value: Any) -> int | None:
    """A process or thread id as a number, where it is one that int64 holds."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19:
        return int(value)
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(value) if whole and -(1 << 63) <= value < 1 << 63 else None


def _counters(events: Events) -> Counters:
    names: dict[tuple[Any, str], int] = {}
    index = [names.setdefault((pid, name), len(names)) for pid, name, _, _ in events.samples]
    processes = {pid: _text(values.get("name")) for name, pid, _, values in events.metadata if name == "process_name"}
    return Counters(
        np.array([time for _, _, time, _ in events.samples], np.int64),
        np.array([value for *_, value in events.samples], np.float64),
        np.array(index, np.int64),
        [name for _, name in names],
        [processes.get(pid, _text(pid)) for pid, _ in names],
        [counter_role(name) for _, name in names],
    )


def _arguments(path: Path, ordinals: Ticks) -> dict[str, pa.Array]:
    """The arguments of some events, by reading the file again: only tracks of engines and queues need them."""
    wanted = np.sort(ordinals)
    found: dict[int, dict[str, Any]] = {}
    first = 0
    for key, value in stream_events(path, Event):
        if key not in EVENT_KEYS or not isinstance(value, list):
            continue
        here = wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, first + len(value))]
        for ordinal in here.tolist():
            raw = bytes(value[ordinal - first].args)
            decoded = msgspec.json.decode(raw) if raw else None
            if isinstance(decoded, dict):
                found[ordinal] = decoded
        first += len(value)
    keys = dict.fromkeys(key for values in found.values() for key in values)
    rows = [found.get(ordinal, {}) for ordinal in ordinals.tolist()]
    return {key: _argument_column([row.get(key) for row in rows]) for key in keys}


def _argument_column(values: list[Any]) -> pa.Array:
    """Values of one argument; of mixed kinds, as text."""
    try:
        column = pa.array(values)
        if not pa.types.is_nested(column.type):
            return column
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass
    told = [
        None if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for value in values
    ]
    return pa.array(told, type=pa.string())


def _remarks(events: Events, *, with_args: bool) -> list[str]:
    """What was not taken over."""
    notes = [f"{number} events {what}; they are left out" for what, number in sorted(events.problems.items())]
    flows = sum(events.phases[phase] for phase in _FLOWS)
    if flows:
        notes.append(f"{flows} flow events (arrows between slices) are not kept")
    known = set("XBEiIRbenSFMC") | set(_FLOWS)
    other = {phase: number for phase, number in events.phases.items() if phase not in known}
    if other:
        told = ", ".join(f"{phase!r} {number}" for phase, number in sorted(other.items()))
        notes.append(f"events of phases that no table holds are left out: {told}")
    if not with_args:
        notes.append("arguments of slices on threads are not kept")
    return notes
