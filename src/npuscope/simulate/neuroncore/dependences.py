"""Data dependences between the instructions of a program, from the boxes of memory they read and write.

Importing this module imports numba; only the simulator's machine does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope._compiled import compiled
from npuscope.simulate.neuroncore.program import Program, Space

RAW = 0
"""Reads (or overwrites) what another wrote: waits for its result."""
WAR = 1
"""Overwrites what another reads: waits until that one has read it."""
ORDER = 2
"""The next matmul of an accumulation group: only after the one before."""

_COLUMNS_PER_BUCKET = 2048
_ROWS_PER_BUCKET = 128
_MAX_BUCKETS = 1024


def dependences(program: Program) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int8]]:
    """Predecessors of every instruction.

    Returns:
        (start, predecessor, kind): those of instruction i are entries start[i] to start[i + 1]; `kind` is `RAW`, `WAR`
        or `ORDER`. A tile in HBM that is only read, or only written, orders nothing.
    """
    tracked = _tracked_tiles(program)
    space, rows, row_bytes, _ = program.tile_table.T
    by_rows = space == Space.HBM
    extent = np.where(by_rows, -(-rows // _ROWS_PER_BUCKET), -(-row_bytes // _COLUMNS_PER_BUCKET))
    buckets = np.clip(extent, 1, _MAX_BUCKETS) * tracked
    sizes = np.where(by_rows, _ROWS_PER_BUCKET, _COLUMNS_PER_BUCKET) * -(-np.maximum(extent, 1) // _MAX_BUCKETS)
    first = np.concatenate([[0], np.cumsum(buckets)]).astype(np.int64)
    result: Any = _find(
        program.access_start,
        program.access,
        program.flags,
        program.tile_table,
        tracked,
        by_rows,
        sizes.astype(np.int64),
        first,
    )
    return result  # type: ignore[no-any-return]


def _tracked_tiles(program: Program) -> npt.NDArray[np.bool_]:
    count = len(program.tiles)
    writes = program.access[:, 5] == 1
    tiles = program.access[:, 0]
    written = np.bincount(tiles[writes], minlength=count) > 0
    read = np.bincount(tiles[~writes], minlength=count) > 0
    tracked: npt.NDArray[np.bool_] = (program.tile_table[:, 0] != Space.HBM) | (written & read)
    return tracked


@compiled
def grown(values: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:  # pragma: no cover - compiled
    """`values`, or a copy with twice the rows where row `length` would lie outside."""
    if length < values.shape[0]:
        return values
    larger = np.empty((2 * values.shape[0], values.shape[1]), values.dtype)
    larger[: values.shape[0]] = values
    return larger


# Columns of a segment: a box as last written (rows, bytes), its writer or -1, the readers since (head of a list in
# `readers`), and the next segment of the same bucket.
_ROW0, _ROW1, _BYTE0, _BYTE1, _WRITER, _READERS, _NEXT = range(7)


@compiled
def split(segments: Any, count: int, s: int, r0: int, r1: int, b0: int, b1: int) -> Any:  # pragma: no cover - compiled
    """Shrink segment `s` to its part within the box; what is left of it follows it as new segments."""
    for side in range(4):
        row0, row1, byte0, byte1 = segments[s, 0], segments[s, 1], segments[s, 2], segments[s, 3]
        rest = (row0, row1, byte0, byte1)
        if side == 0 and row0 < r0:
            rest = (row0, r0, byte0, byte1)
            segments[s, _ROW0] = r0
        elif side == 1 and row1 > r1:
            rest = (r1, row1, byte0, byte1)
            segments[s, _ROW1] = r1
        elif side == 2 and byte0 < b0:
            rest = (row0, row1, byte0, b0)
            segments[s, _BYTE0] = b0
        elif side == 3 and byte1 > b1:
            rest = (row0, row1, b1, byte1)
            segments[s, _BYTE1] = b1
        else:
            continue
        segments = grown(segments, count)
        segments[count, :] = segments[s, :]
        segments[count, 0], segments[count, 1], segments[count, 2], segments[count, 3] = rest
        segments[s, _NEXT] = count
        count += 1
    return segments, count


@compiled
def _found(
    found: Any, total: int, seen: Any, place: Any, i: int, other: int, kind: int
) -> Any:  # pragma: no cover - compiled
    """Note that instruction `i` follows `other`; of several reasons the strongest is kept."""
    if other == i:
        return found, total
    if seen[other] == i:
        found[place[other], 1] = min(found[place[other], 1], kind)
        return found, total
    found = grown(found, total)
    found[total, 0], found[total, 1] = other, kind
    seen[other], place[other] = i, total
    return found, total + 1


@compiled
def _find(
    access_start: Any,
    access: Any,
    flags: Any,
    table: Any,
    tracked: Any,
    by_rows: Any,
    bucket_size: Any,
    bucket_first: Any,
) -> Any:  # pragma: no cover - compiled
    count = access_start.shape[0] - 1
    head = np.full(bucket_first[-1] + 1, -1, np.int64)
    segments, segment_count = np.empty((1024, 7), np.int64), 0
    readers, reader_count = np.empty((1024, 2), np.int64), 0  # instruction, next
    start = np.zeros(count + 1, np.int64)
    found, total = np.empty((4096, 2), np.int64), 0
    seen, place = np.full(count, -1, np.int64), np.zeros(count, np.int64)
    for i in range(count):
        for a in range(access_start[i], access_start[i + 1]):
            tile, is_write = access[a, 0], access[a, 5] == 1
            if not tracked[tile]:
                continue
            r0, r1, b0, b1 = access[a, 1], access[a, 2], access[a, 3], access[a, 4]
            axis = 1 if by_rows[tile] else 3
            size, last = bucket_size[tile], bucket_first[tile + 1] - bucket_first[tile] - 1
            high = access[a, axis + 1]
            for bucket in range(min(access[a, axis] // size, last), min((high - 1) // size, last) + 1):
                # Each bucket sees the part of the box that lies in it.
                low_edge, high_edge = bucket * size, high if bucket == last else (bucket + 1) * size
                if axis == 1:
                    r0, r1 = max(access[a, 1], low_edge), min(access[a, 2], high_edge)
                else:
                    b0, b1 = max(access[a, 3], low_edge), min(access[a, 4], high_edge)
                at = bucket_first[tile] + bucket
                if head[at] < 0:  # at first, one segment that nobody has written or read
                    segments = grown(segments, segment_count)
                    segments[segment_count, :] = (0, table[tile, 1], 0, table[tile, 2], -1, -1, -1)
                    segments[segment_count, axis - 1] = low_edge
                    if bucket < last:
                        segments[segment_count, axis] = low_edge + size
                    head[at] = segment_count
                    segment_count += 1
                previous, s = -1, head[at]
                while s >= 0:
                    inside = segments[s, 0] < r1 and r0 < segments[s, 1] and segments[s, 2] < b1 and b0 < segments[s, 3]
                    if not inside:
                        previous, s = s, segments[s, _NEXT]
                        continue
                    after = segments[s, _NEXT]
                    segments, segment_count = split(segments, segment_count, s, r0, r1, b0, b1)
                    w = segments[s, _WRITER]
                    if w >= 0:
                        same_group = is_write and (flags[i] & 1) == 1 and (flags[w] & 8) == 8
                        found, total = _found(found, total, seen, place, i, w, 2 if same_group else 0)
                    if is_write:
                        r = segments[s, _READERS]
                        while r >= 0:
                            found, total = _found(found, total, seen, place, i, readers[r, 0], 1)
                            r = readers[r, 1]
                        if previous < 0:
                            head[at] = segments[s, _NEXT]
                        else:
                            segments[previous, _NEXT] = segments[s, _NEXT]
                    else:
                        readers = grown(readers, reader_count)
                        readers[reader_count, 0], readers[reader_count, 1] = i, segments[s, _READERS]
                        segments[s, _READERS] = reader_count
                        reader_count += 1
                        previous = s
                    # The new segments of the split lie outside the box: they need no second look.
                    s = segments[s, _NEXT]
                    while s != after:
                        previous, s = s, segments[s, _NEXT]
                if is_write:
                    segments = grown(segments, segment_count)
                    segments[segment_count, :] = (r0, r1, b0, b1, i, -1, head[at])
                    head[at] = segment_count
                    segment_count += 1
        start[i + 1] = total
    return start, found[:total, 0].copy(), found[:total, 1].astype(np.int8)
