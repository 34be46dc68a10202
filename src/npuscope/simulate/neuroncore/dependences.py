"""Data dependences between the instructions of a program, from the boxes of memory they read and write.

Importing this module imports numba; only the simulator's machine does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.simulate.neuroncore.compiled import compiled
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
        program.access_start, program.access, program.flags, tracked, by_rows, sizes.astype(np.int64), first
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
def _grown(values: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    if length < values.shape[0]:
        return values
    larger = np.empty(2 * values.shape[0], values.dtype)
    larger[: values.shape[0]] = values
    return larger


@compiled
def _find(
    access_start: Any, access: Any, flags: Any, tracked: Any, by_rows: Any, bucket_size: Any, bucket_first: Any
) -> Any:  # pragma: no cover - compiled
    count = access_start.shape[0] - 1
    head = np.full(bucket_first[-1] + 1, -1, np.int64)
    # A segment is a box as last written, with the readers since; segments of one bucket form a linked list.
    row0, row1 = np.empty(1024, np.int64), np.empty(1024, np.int64)
    byte0, byte1 = np.empty(1024, np.int64), np.empty(1024, np.int64)
    writer, readers, following = np.empty(1024, np.int64), np.empty(1024, np.int64), np.empty(1024, np.int64)
    segments = 0
    reader, next_reader = np.empty(1024, np.int64), np.empty(1024, np.int64)
    reader_count = 0
    start = np.zeros(count + 1, np.int64)
    found, kinds = np.empty(4096, np.int64), np.empty(4096, np.int8)
    total = 0
    seen = np.full(count, -1, np.int64)
    place = np.zeros(count, np.int64)
    for i in range(count):
        for a in range(access_start[i], access_start[i + 1]):
            tile = access[a, 0]
            if not tracked[tile]:
                continue
            r0, r1, b0, b1 = access[a, 1], access[a, 2], access[a, 3], access[a, 4]
            is_write = access[a, 5] == 1
            low, high = (r0, r1) if by_rows[tile] else (b0, b1)
            size = bucket_size[tile]
            last_bucket = bucket_first[tile + 1] - bucket_first[tile] - 1
            for bucket in range(min(low // size, last_bucket), min(max(high - 1, low) // size, last_bucket) + 1):
                at = bucket_first[tile] + bucket
                covered = False
                previous = -1
                s = head[at]
                while s >= 0:
                    after = following[s]
                    overlaps = row0[s] < r1 and r0 < row1[s] and byte0[s] < b1 and b0 < byte1[s]
                    removed = False
                    if overlaps:
                        w = writer[s]
                        if w >= 0 and w != i:
                            same_group = is_write and (flags[i] & 1) == 1 and (flags[w] & 8) == 8
                            kind = 2 if same_group else 0
                            if seen[w] != i:
                                found, kinds = _grown(found, total), _grown(kinds, total)
                                found[total], kinds[total] = w, kind
                                seen[w], place[w] = i, total
                                total += 1
                            elif kind < kinds[place[w]]:
                                kinds[place[w]] = kind
                        if is_write:
                            r = readers[s]
                            while r >= 0:
                                other = reader[r]
                                if other != i and seen[other] != i:
                                    found, kinds = _grown(found, total), _grown(kinds, total)
                                    found[total], kinds[total] = other, 1
                                    seen[other], place[other] = i, total
                                    total += 1
                                r = next_reader[r]
                            if r0 <= row0[s] and row1[s] <= r1 and b0 <= byte0[s] and byte1[s] <= b1:
                                if previous < 0:
                                    head[at] = after
                                else:
                                    following[previous] = after
                                removed = True
                        else:
                            if r0 >= row0[s] and r1 <= row1[s] and b0 >= byte0[s] and b1 <= byte1[s]:
                                covered = True
                            reader, next_reader = _grown(reader, reader_count), _grown(next_reader, reader_count)
                            reader[reader_count], next_reader[reader_count] = i, readers[s]
                            readers[s] = reader_count
                            reader_count += 1
                    if not removed:
                        previous = s
                    s = after
                if is_write or (not covered and previous < 0):
                    row0, row1 = _grown(row0, segments), _grown(row1, segments)
                    byte0, byte1 = _grown(byte0, segments), _grown(byte1, segments)
                    writer, readers = _grown(writer, segments), _grown(readers, segments)
                    following = _grown(following, segments)
                    row0[segments], row1[segments], byte0[segments], byte1[segments] = r0, r1, b0, b1
                    writer[segments] = i if is_write else -1
                    readers[segments] = -1
                    if not is_write:
                        reader, next_reader = _grown(reader, reader_count), _grown(next_reader, reader_count)
                        reader[reader_count], next_reader[reader_count] = i, -1
                        readers[segments] = reader_count
                        reader_count += 1
                    following[segments] = head[at]
                    head[at] = segments
                    segments += 1
        start[i + 1] = total
    return start, found[:total].copy(), kinds[:total].copy()
