"""Matrices into buffers and back: padded to whole dispatches, cut into tiles that follow one another, cropped, added.

Everything goes straight into memory that the caller gives, as a rule that of a buffer object; float32 becomes bfloat16 on the way
where that memory is bfloat16, rounded to nearest even.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def pad_into(out: Array, source: Array) -> None:
    """Copy a matrix into the corner of a larger one; what lies beyond it becomes zero.

    Args:
        out: [rows, columns], a view of a buffer.
        source: At most as large, of the same type or float32.
    """
    if source.shape == out.shape and source.dtype == out.dtype:  # most tiles: saves two views and a look at types
        np.copyto(out, source)
        return
    rows, columns = source.shape
    if rows < out.shape[0]:
        out[rows:] = 0
    if columns < out.shape[1]:
        out[:rows, columns:] = 0
    _copy(out[:rows, :columns], source)


def crop(values: Array, rows: int, columns: int) -> Array:
    """The corner of a matrix, contiguous."""
    return values if values.shape == (rows, columns) else np.ascontiguousarray(values[:rows, :columns])


def pack_tiles(out: Array, source: Array) -> None:
    """Cut a matrix into tiles, row by row of the grid, each contiguous; tiles at the edges are filled with zeros.

    Args:
        out: [tiles, m, k], a view of a buffer: as many tiles as cover the matrix.
        source: [rows, columns], of the same type or float32.
    """
    grid = _grid(out, source.shape)
    for tiles, part in _pieces(grid, source):
        _copy(tiles, part)
    rest_m, rest_k = source.shape[0] % out.shape[1], source.shape[1] % out.shape[2]
    if rest_m:
        grid[-1, :, rest_m:] = 0
    if rest_k:
        grid[:, -1, :, rest_k:] = 0


def unpack_tiles(out: Array, packed: Array, *, add: bool = False) -> None:
    """Put tiles, row by row of the grid, back into a matrix, without what they were padded with.

    Args:
        out: [rows, columns]: float32 for tiles of bfloat16 or float32, or integers.
        packed: [tiles, m, n]: as many as cover the matrix.
        add: Add to what is there: partial results over K.
    """
    for tiles, part in _pieces(_grid(packed, out.shape), out):
        if not add:
            np.copyto(part, tiles)
            continue
        held = np.empty_like(part[0])  # of a row of tiles, laid out as the matrix: adding runs along whole rows then
        for row, place in zip(tiles, part, strict=True):
            np.copyto(held, row)
            np.add(place, held, out=place)


def _grid(tiles: Array, shape: tuple[int, ...]) -> Array:
    """Tiles by their place: [down, across, m, k].

    Raises:
        ValueError: They do not cover a matrix of this shape, or are too many.
    """
    count, m, k = tiles.shape
    down, across = -(-shape[0] // m), -(-shape[1] // k)
    if count != down * across:
        raise ValueError(f"{count} tiles of {m}x{k} for a matrix of {shape[0]}x{shape[1]}, which takes {down * across}")
    return tiles.reshape(down, across, m, k)


def _pieces(grid: Array, matrix: Array) -> Iterator[tuple[Array, Array]]:
    """Views of the tiles and of the matrix, of one shape, [down, across, m, k], that correspond: whole tiles, and each ragged edge."""
    for down, height, rows in _bands(matrix.shape[0], grid.shape[2]):
        for across, width, columns in _bands(matrix.shape[1], grid.shape[3]):
            part = matrix[rows, columns].reshape(down.stop - down.start, height, across.stop - across.start, width)
            yield grid[down, across, :height, :width], part.transpose(0, 2, 1, 3)


def _bands(length: int, edge: int) -> Iterator[tuple[slice, int, slice]]:
    """Whole tiles along an axis, then what is left: (which tiles, how much of each, where in the matrix)."""
    whole, rest = divmod(length, edge)
    if whole:
        yield slice(0, whole), edge, slice(0, whole * edge)
    if rest:
        yield slice(whole, whole + 1), rest, slice(whole * edge, length)


def _copy(out: Array, source: Array) -> None:
    """Copy, rounding float32 to nearest even where bfloat16 is wanted; any other change of type must lose nothing."""
    if source.dtype == out.dtype and source.strides[-1] == out.strides[-1] == out.itemsize:
        row = f"V{out.shape[-1] * out.itemsize}"  # a row of a tile is one item: moved at once, not element by element
        np.copyto(out.view(row), source.view(row))
        return
    if source.dtype != np.float32 or out.dtype.name != "bfloat16":
        np.copyto(out, source, casting="safe")
        return
    with np.errstate(over="ignore", invalid="ignore"):
        if source.ndim == 2:
            np.copyto(out, source, casting="unsafe")
            return
        for place, part in zip(
            out, source, strict=True
        ):  # a row of tiles at a time: converted along whole rows, then cut
            np.copyto(place, part.astype(out.dtype))
