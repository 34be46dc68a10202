"""What each track of a timeline did: operations by name, and the time in which the track was active.

An operation belongs to the track that its slice lies on, which the source of the trace tells, and never to the engine
that its name brings to mind: TENSOR_TENSOR and TENSOR_REDUCE are instructions of the Vector engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from npuscope.analysis.timeline import PS_PER_NS, WAIT_OPCODE, spans, to_ns
from npuscope.profile.intervals import Ticks, merge
from npuscope.profile.timeline import Timeline
from npuscope.profile.timeline_sources import SLICES

ENGINE_KIND: Final = "engine"
_FINER: Final = ("Instruction", "DmaPacket")
"""Tables whose times may be known in picoseconds; the slices that a viewer shows have whole nanoseconds."""


@dataclass(frozen=True, slots=True)
class OperationUse:
    """All slices of one name on one track."""

    track: str
    kind: str
    """Of the track: `engine`, `dma-queue`, `thread` and so on."""
    name: str
    """The opcode, or what a thread was doing."""
    count: int
    time_ns: float
    """Sum of their durations, as `SUM(dur)` of the trace gives it."""
    self_ns: float
    """The same without the slices that lie within them."""


@dataclass(frozen=True, slots=True)
class TrackUse:
    """One engine, queue or thread; tracks of one name on several cores count together."""

    name: str
    kind: str
    slices: int
    active_ns: float
    """Union of its slices, without those that only wait on a semaphore; of several cores, the sum."""


def track_uses(timeline: Timeline) -> tuple[tuple[TrackUse, ...], tuple[OperationUse, ...]]:
    """Tracks in the order of the timeline, and operations by track, most time first.

    Args:
        timeline: Of a Profile, as a viewer shows it.
    """
    if not timeline.slices.num_rows:
        return (), ()
    labels, kinds, label_of_thread = _labels(timeline)
    thread = _thread_of_slice(timeline)
    label = label_of_thread[thread]
    start, end = _spans_ps(timeline)
    codes, names = _names(timeline)
    self_ps = _without_children(timeline, end - start)
    is_wait = np.array([name == WAIT_OPCODE for name in names], bool)[codes]
    is_wait &= np.array([kind == ENGINE_KIND for kind in kinds], bool)[label]
    active = _active_ps(thread, start, end, ~is_wait)
    slices = np.bincount(label, minlength=len(labels))
    spent = np.zeros(len(labels), np.int64)
    np.add.at(spent, label_of_thread[: active.size], active)
    tracks = tuple(
        TrackUse(name, kind, count, to_ns(ps))
        for name, kind, count, ps in zip(labels, kinds, slices.tolist(), spent.tolist(), strict=True)
        if count
    )
    keys, inverse = np.unique(label * len(names) + codes, return_inverse=True)
    counts = np.bincount(inverse).tolist()
    total, own = (np.zeros(keys.size, np.int64) for _ in range(2))
    np.add.at(total, inverse, end - start)
    np.add.at(own, inverse, self_ps)
    found = [
        OperationUse(labels[key // len(names)], kinds[key // len(names)], names[key % len(names)], count, to_ns(a), to_ns(b))
        for key, count, a, b in zip(keys.tolist(), counts, total.tolist(), own.tolist(), strict=True)
    ]  # fmt: skip
    order = {name: index for index, name in enumerate(labels)}
    return tracks, tuple(sorted(found, key=lambda use: (order[use.track], -use.time_ns, use.name)))


def _labels(timeline: Timeline) -> tuple[list[str], list[str], npt.NDArray[np.int64]]:
    """Names of tracks, each once, their kinds, and the name's index of every thread by its utid.

    A thread of the host has its process before its name, since every process has a thread of such a name.
    """
    processes = {row["upid"]: row for row in timeline.processes.to_pylist()}
    found: dict[tuple[str, str], int] = {}
    rows = timeline.threads.to_pylist()
    place = np.zeros(1 + max((row["utid"] for row in rows), default=0), np.int64)
    for row in rows:
        name = row["name"] or ""
        if row["kind"] == "thread":
            process = processes.get(row["upid"], {})
            owner = process.get("name") or f"pid {process.get('pid')}"
            name = f"{owner} / {name or 'tid ' + str(row['tid'])}"
        place[row["utid"]] = found.setdefault((name, row["kind"]), len(found))
    return [name for name, _ in found], [kind for _, kind in found], place


def _thread_of_slice(timeline: Timeline) -> Ticks:
    thread_of_track = np.asarray(timeline.tracks.column("utid").fill_null(0).to_numpy())
    return np.asarray(thread_of_track[timeline.slices.column("track_id").to_numpy()], np.int64)


def _names(timeline: Timeline) -> tuple[Ticks, list[str]]:
    names = timeline.slices.column("name").combine_chunks()
    if isinstance(names, pa.ChunkedArray):
        names = pa.concat_arrays(names.chunks)
    coded = names if pa.types.is_dictionary(names.type) else names.dictionary_encode()
    known: list[str] = [name or "" for name in coded.dictionary.to_pylist()]
    return np.asarray(coded.indices.to_numpy(zero_copy_only=False), np.int64), known


def _spans_ps(timeline: Timeline) -> tuple[Ticks, Ticks]:
    """Start and end of every slice in picoseconds: as finely as the Profile knows them."""
    slices = timeline.slices
    start = np.asarray(slices.column("ts").to_numpy(), np.int64) * PS_PER_NS
    end = start + np.asarray(slices.column("dur").to_numpy(), np.int64) * PS_PER_NS
    source, row = (np.asarray(slices.column(name).to_numpy()) for name in ("source", "row"))
    for index, table in enumerate(item.table for item in SLICES):
        mine = np.flatnonzero(source == index) if table in _FINER else np.zeros(0, np.int64)
        if mine.size:
            fine_start, fine_end = spans(timeline.profile, table)
            start[mine], end[mine] = fine_start[row[mine]], fine_end[row[mine]]
    return start, end


def _without_children(timeline: Timeline, duration: Ticks) -> Ticks:
    """Durations less those of the slices that lie directly within."""
    parent = np.asarray(timeline.slices.column("parent_id").fill_null(-1).to_numpy(), np.int64)
    inner = parent >= 0
    within = np.zeros(duration.size, np.int64)
    np.add.at(within, parent[inner], duration[inner])
    return np.asarray(np.maximum(duration - within, 0), np.int64)


def _active_ps(thread: Ticks, start: Ticks, end: Ticks, counts: npt.NDArray[np.bool_]) -> Ticks:
    """Per thread by its utid, the length of the union of its slices that count."""
    chosen = np.flatnonzero(counts)
    chosen = chosen[np.argsort(thread[chosen], kind="stable")]
    found = np.zeros(1 + int(thread.max()), np.int64)
    opens = np.flatnonzero(np.diff(thread[chosen], prepend=-1))
    for mine in np.split(chosen, opens[1:]) if chosen.size else []:
        first, last = merge(start[mine], end[mine])
        found[thread[mine[0]]] = int((last - first).sum())
    return found
