"""Samples of a Profile as counter tracks, and the share of time in which the tensor engine works."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from npuscope.errors import shorten
from npuscope.profile.intervals import covered, merge
from npuscope.profile.tables import Profile
from npuscope.profile.timeline_sources import COUNTERS, TENSOR_MATRIX, CounterSource, column
from npuscope.profile.timeline_threads import ProcessKey, Threads

Ticks = npt.NDArray[np.int64]
_WINDOWS = 1000
"""Into how many windows utilisation cuts the span of the instructions."""
_MAX_TIME_NS = 1 << 61


@dataclass(slots=True)
class CounterTracks:
    """Every counter, and its samples."""

    tracks: list[tuple[str, str, ProcessKey]] = field(default_factory=list)
    """Name, unit and process."""
    track: Ticks = field(default_factory=lambda: np.zeros(0, np.int64))
    """Index into `tracks` [n]."""
    ts: Ticks = field(default_factory=lambda: np.zeros(0, np.int64))
    value: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def append(self, track: Ticks, ts: Ticks, value: npt.NDArray[np.float64]) -> None:
        """Add samples, which are sorted by track and time."""
        order = np.lexsort((ts, track))
        self.track = np.concatenate([self.track, track[order]])
        self.ts = np.concatenate([self.ts, ts[order]])
        self.value = np.concatenate([self.value, value[order]])


def counter_tracks(profile: Profile, threads: Threads, notes: list[str]) -> CounterTracks:
    """The counters of a Profile."""
    made = CounterTracks()
    for source in COUNTERS:
        if profile.rows(source.table):
            _sampled(profile, source, threads, made, notes)
    _utilisation(profile, threads, made)
    return made


def _sampled(profile: Profile, source: CounterSource, threads: Threads, made: CounterTracks, notes: list[str]) -> None:
    time, value = profile.numbers(source.table, source.time), profile.numbers(source.table, source.value)
    known = pc.and_(*(pc.is_valid(column(profile, source.table, name)) for name in (source.time, source.value)))
    usable = np.asarray(known.to_numpy()) & (time < _MAX_TIME_NS) & (time > -_MAX_TIME_NS) & np.isfinite(value)
    if not usable.all():
        notes.append(f"{source.table}: {int((~usable).sum())} samples without a time or a value are not drawn")
    core = profile.numbers(source.table, "pcore_idx")
    keys = [core, *(_codes(column(profile, source.table, name)) for name in source.by)]
    distinct, inverse = np.unique(np.stack(keys)[:, usable], axis=1, return_inverse=True)
    labels = [column(profile, source.table, name).cast(pa.string()).unique().to_pylist() for name in source.by]
    first = len(made.tracks)
    for code in distinct.T.tolist():
        words = [labels[index][part] or "" for index, part in enumerate(code[1:])]
        name = " ".join(shorten(word, 200) for word in (source.name, *words) if word) or source.table
        made.tracks.append((name, source.unit, threads.core(code[0])))
    made.append(inverse.reshape(-1) + first, time[usable], value[usable].astype(np.float64))


def _codes(values: pa.ChunkedArray) -> Ticks:
    """The index of each value among the distinct ones, in the order of `unique`."""
    encoded = values.cast(pa.string()).combine_chunks().dictionary_encode(null_encoding="encode")
    return np.asarray(encoded.indices.to_numpy(), np.int64)


def _utilisation(profile: Profile, threads: Threads, made: CounterTracks) -> None:
    """Per core, the share of each of up to 1,000 equal windows in which a matmul runs; only where it changes."""
    start, end = profile.numbers("Instruction", "start_ts"), profile.numbers("Instruction", "end_ts")
    by_track = profile.has("Instruction", "timeline_track")
    works = np.zeros(start.size, bool)
    for wanted, key in ((TENSOR_MATRIX, "timeline_track"), ("Tensor", "engine")):
        if not works.any() and (key == "engine" or by_track) and start.size:
            name = f"{wanted} Utilization"
            works = np.array(pc.fill_null(pc.equal(column(profile, "Instruction", key), wanted), fill_value=False))
    works &= end > start
    works &= (start > -_MAX_TIME_NS) & (end < _MAX_TIME_NS)
    core = profile.numbers("Instruction", "pcore_idx")
    for index in np.unique(core[works]).tolist():
        own = works & (core == index)
        begin, finish = int(start[own].min()), int(end[own].max())
        width = max(1, -((begin - finish) // _WINDOWS))
        edges = begin + width * np.arange((finish - begin) // width + 2, dtype=np.int64)
        busy = covered(merge(start[own], end[own]), edges[:-1], edges[1:]) / width
        share = np.append(busy, 0.0)
        changes = np.append(True, share[1:] != share[:-1])
        made.tracks.append((name, "fraction", threads.core(index)))
        number = np.full(int(changes.sum()), len(made.tracks) - 1, np.int64)
        made.append(number, edges[changes], share[changes])
