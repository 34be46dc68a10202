"""Overlap of every pair of six tracks over a million slices, beside the SQL self-join of a public analyser.

Run as `python -m benchmarks.overlap`. The self-join counts pairs of overlapping slices; ours measures the time for which
two tracks were busy at once. These are two questions, and only the second says what overlap is worth; the ratio compares
what each costs. Where slices of one track do not overlap one another, the join can sum the time too (`SUM` below), and the
two must agree.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from itertools import combinations
from statistics import median
from time import perf_counter

import numpy as np
import numpy.typing as npt

from benchmarks.common import Figure, at_most, run_with_repeats, spread_text
from npuscope.analysis.kernel_time import KernelTime
from npuscope.analysis.overlap import Overlap, overlap_of
from npuscope.analysis.timeline import PS_PER_NS, Resource
from npuscope.profile.intervals import merge

SLICES = 1_000_000
TARGET_S = 1.0
_TRACKS = ("TENSOR", "VECTOR", "SCALAR", "GPSIMD", "SYNC", "DMA")
_SQLITE_SLICES = 4_000  # the join is quadratic there: a few seconds
_COUNT_PAIRS = """
SELECT s1.name AS engine1, s2.name AS engine2, COUNT(*) AS overlap_count
FROM slice s1, slice s2
WHERE s1.ts < s2.ts + s2.dur AND s2.ts < s1.ts + s1.dur AND s1.name != s2.name
GROUP BY s1.name, s2.name
"""
_SUM_TIME = """
SELECT s1.name, s2.name, SUM(MIN(s1.ts + s1.dur, s2.ts + s2.dur) - MAX(s1.ts, s2.ts))
FROM slice s1, slice s2
WHERE s1.ts < s2.ts + s2.dur AND s2.ts < s1.ts + s1.dur AND s1.name != s2.name
GROUP BY s1.name, s2.name
"""
Columns = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]


def slices(count: int) -> Columns:
    """Track, start and duration: six tracks of busy and idle times of 20 to 200 ns that do not overlap themselves."""
    rng = np.random.default_rng(0)
    tracks, starts, durations = [], [], []
    for track in range(len(_TRACKS)):
        number = count // len(_TRACKS) + (track < count % len(_TRACKS))
        busy = rng.integers(20, 200, number)
        idle = rng.integers(1, 200, number)
        starts.append(np.cumsum(busy + idle) - busy)
        tracks.append(np.full(number, track))
        durations.append(busy)
    return np.concatenate(tracks), np.concatenate(starts), np.concatenate(durations)


def ours(columns: Columns) -> Overlap:
    """From unsorted slices to every pair and the time with 0 to 6 tracks busy."""
    track, start, duration = columns
    resources = []
    for index, name in enumerate(_TRACKS):
        mine = track == index
        busy = merge(start[mine] * PS_PER_NS, (start + duration)[mine] * PS_PER_NS)
        none = np.zeros(0, np.int64), np.zeros(0, np.int64)
        resources.append(Resource(name, "track", busy, none, int(mine.sum()), 0, "benchmark"))
    end = int((start + duration).max())
    kernel = KernelTime(
        ns=end,
        basis="benchmark",
        is_cold=False,
        total_ns=end,
        active_ns=end,
        window_ns=end,
        segments=((0, end),),
        startup_ns=0,
        longest_gap_ns=0,
        longest_gap_start_ns=0,
        program_instructions=0,
    )
    return overlap_of(tuple(resources), kernel)


def sqlite_join(columns: Columns, query: str) -> list[tuple[str, str, int]]:
    """The self-join in SQLite, the engine behind the Perfetto trace processor's SQL."""
    base = sqlite3.connect(":memory:")
    base.execute("CREATE TABLE slice (name TEXT, ts INTEGER, dur INTEGER)")
    track, start, duration = columns
    names = [_TRACKS[index] for index in track.tolist()]
    base.executemany("INSERT INTO slice VALUES (?, ?, ?)", zip(names, start.tolist(), duration.tolist(), strict=True))
    rows = base.execute(query).fetchall()
    base.close()
    return rows


def duckdb_join(columns: Columns) -> list[tuple[str, str, int]]:
    """The same self-join in DuckDB, over Arrow."""
    import duckdb
    import pyarrow as pa

    track, start, duration = columns
    table = pa.table({"name": np.array(_TRACKS, object)[track], "ts": start, "dur": duration})
    connection = duckdb.connect()
    connection.register("slice", table)
    rows: list[tuple[str, str, int]] = connection.execute(_COUNT_PAIRS).fetchall()
    connection.close()
    return rows


def measure(repeats: int = 7) -> list[Figure]:
    """Seconds of each, and how the join grows."""
    _check()
    million = slices(SLICES)
    fast = _seconds(lambda: ours(million), repeats)
    duck = _seconds(lambda: duckdb_join(million), max(1, repeats // 3))
    small = slices(_SQLITE_SLICES)
    small_fast = _seconds(lambda: ours(small), repeats)
    lite = _seconds(lambda: sqlite_join(small, _COUNT_PAIRS), 1)
    whole, part = f"{SLICES:,} slices", f"{_SQLITE_SLICES:,} slices"
    hours = median(lite) * (SLICES / _SQLITE_SLICES) ** 2 / 3600
    return [
        at_most(f"{whole}, 6 tracks: time of every pair", median(fast), TARGET_S, "s", spread_text(fast)),
        Figure(f"{whole}: self-join in DuckDB, pairs counted", median(duck), "s", spread=spread_text(duck)),
        Figure(f"{whole}: DuckDB over ours", median(duck) / median(fast), "x"),
        Figure(f"{part}: time of every pair", median(small_fast), "s", spread=spread_text(small_fast)),
        Figure(f"{part}: self-join in SQLite, pairs counted", median(lite), "s", spread="one run"),
        Figure(f"{part}: SQLite over ours", median(lite) / median(small_fast), "x"),
        Figure(f"{whole}: SQLite, extrapolated as quadratic", hours, "h", spread="not run"),
    ]


def _check() -> None:
    """Ours against the join that sums time, where the two answer the same question."""
    columns = slices(_SQLITE_SLICES)
    theirs = {(a, b): value for a, b, value in sqlite_join(columns, _SUM_TIME)}
    found = ours(columns)
    mine = {(pair.first, pair.second): pair.overlap_ns for pair in found.pairs}
    for first, second in combinations(_TRACKS, 2):
        if mine[first, second] != theirs[first, second]:
            raise AssertionError(f"{first} and {second}: {mine[first, second]} is not {theirs[first, second]}")


def _seconds(call: Callable[[], object], repeats: int) -> list[float]:
    """Wall clock of each of `repeats` calls; the first is not counted where there are more."""
    taken = []
    for repeat in range(repeats + (repeats > 1)):
        start = perf_counter()
        call()
        if repeat or repeats == 1:
            taken.append(perf_counter() - start)
    return taken


if __name__ == "__main__":
    run_with_repeats("Overlap of engines", measure, __doc__, repeats=7)
