"""How an instruction reads an operand that is broadcast: by an access pattern, without a copy, wherever one will do.

The result is rows x columns. A broadcast array gives each row one of its own rows, and each column one of its columns. Columns
that repeat are a stride of 0 along the free axis. For rows it depends on how they fall on partitions:

- each row has its own: the same row tile is read;
- all rows of a row tile have one: that row is spread over the partitions, and each row tile reads its part of it;
- rows of row tiles come round again, as a mask for all heads does: the row tile that it is the turn of is read;
- else one number per row is moved to a column of its own, and more than that is worked out in full.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

from npuscope.formats.hlo import Shape
from npuscope.simulate.hlo.layout import PARTITIONS, PIECE_COLUMNS, Grid, grid_of, row_dimensions
from npuscope.simulate.hlo.recorder import DMA, Recorder
from npuscope.simulate.hlo.values import Value
from npuscope.simulate.neuroncore.program import Box, Space

_ANY: Final = 1 << 30
_MOST_SPREAD_BYTES: Final = 1 << 15
"""Of a partition, for rows that are spread over all of them at once."""


class Access(NamedTuple):
    """How an operand is read."""

    value: Value
    read: Callable[[int, int, int], Box]
    """What is read for some row tiles of the result (first, last, piece)."""
    scalar_tiles: int = 0
    """So many row tiles at once see one number per partition."""
    most_tiles: int = _ANY
    """Row tiles that one instruction may take."""
    follows_rows: bool = True
    """Read row tile by row tile of the result, so that it may be made in one group with it."""


def access(rec: Recorder, value: Value, result: Value) -> Access:
    """How an instruction reads an operand of the shape of its result, which is on the chip."""
    grid = result.grid
    if value.view == "broadcast" and value.base is not None:
        if value.base.shape.elements == 1:
            spread, size = rec.spread(value.base), value.base.itemsize
            return Access(
                value.base, lambda first, *_: Box(spread, 0, grid.partitions(first), 0, size), _ANY, follows_rows=False
            )
        pattern = _pattern(value, grid)
        if pattern is not None:
            return _broadcast(rec, value, grid, pattern)
    brought = rec.regrid(value, grid)
    return Access(brought, lambda first, last, piece: rec.box(brought, first, last, piece))


def friendly_grid(shape: Shape, broadcast: list[Value], usual: Grid) -> Grid:
    """The grid for arrays in HBM in which all that is broadcast to their shape can be read by access patterns.

    That is the usual one, or one with fewer dimensions along the rows: cosines per position and lane, for heads of which each
    has all lanes, take the heads along the free axis.
    """
    splits = range(len(shape.dimensions) - 1, 0, -1)
    grids = (grid_of(math.prod(shape.dimensions[:split]), math.prod(shape.dimensions[split:])) for split in splits)
    filled = (grid for grid in grids if grid.rows >= min(usual.rows, PARTITIONS))
    return next((grid for grid in (usual, *filled) if all(has_pattern(value, grid) for value in broadcast)), usual)


def has_pattern(value: Value, grid: Grid) -> bool:
    """Whether a broadcast array can be read by an access pattern in a grid."""
    found = _pattern(value, grid)
    return found is not None and not found.is_moved


class _Pattern(NamedTuple):
    """Of a broadcast array in a grid."""

    rows: int
    """Of its base."""
    columns: int
    run: int
    """Rows of the result in a row that read one row of the base."""
    row_of: Callable[[int], int]
    comes_round: bool
    """Whether rows of the base come round again, all of them in turn."""
    is_moved: bool
    """No access pattern: numbers have to be moved to their rows first."""


def _pattern(value: Value, grid: Grid) -> _Pattern | None:
    """How a broadcast falls on the rows and columns of a grid; None where it has to be worked out in full."""
    base, dimensions = value.base, value.shape.dimensions
    split = row_dimensions(dimensions, grid)
    assert base is not None  # noqa: S101  # a broadcast has one
    if split is None or list(value.dimensions) != sorted(value.dimensions):
        return None
    own = [kept for kept in value.dimensions if kept < split]
    rows = math.prod(dimensions[kept] for kept in own)
    columns = math.prod(dimensions[kept] for kept in value.dimensions if kept >= split)
    if rows * columns != base.shape.elements:
        return None
    if 1 < columns < grid.columns and grid.pieces > 1:  # each piece has to see the same columns
        lanes = tuple([kept - split for kept in value.dimensions if kept >= split])
        if PIECE_COLUMNS % columns or not _comes_round(dimensions[split:], lanes, columns):
            return None
    run, row_of = _row_pattern(dimensions[:split], own)
    comes_round = rows % PARTITIONS == 0 and _comes_round(dimensions[:split], value.dimensions, rows)
    is_moved = not (rows == grid.rows or rows == 1 or run % PARTITIONS == 0 or comes_round)
    return None if is_moved and columns > 1 else _Pattern(rows, columns, run, row_of, comes_round, is_moved)


def _broadcast(rec: Recorder, value: Value, grid: Grid, pattern: _Pattern) -> Access:
    """By an access pattern."""
    base = value.base
    assert base is not None  # noqa: S101  # a broadcast has one
    rows, columns = pattern.rows, pattern.columns
    one_column = int(columns == 1 and grid.columns > 1)

    def part(piece: int) -> int:
        return piece if columns == grid.columns else 0

    if rows == grid.rows:
        own = rec.regrid(base, grid_of(rows, columns))
        return Access(own, lambda first, last, piece: rec.box(own, first, last, part(piece)), one_column)
    if pattern.is_moved:
        column = _as_column(rec, value, base, grid.rows)
        return Access(column, lambda first, last, _: rec.box(column, first, last), one_column, follows_rows=False)
    if rows == 1 or pattern.run % PARTITIONS == 0:
        row_at, size = _spread_rows(rec, base, rows, columns), base.itemsize

        def read_spread(first: int, _: int, piece: int) -> Box:
            tile, start = row_at(pattern.row_of(first * PARTITIONS))
            start += part(piece) * PIECE_COLUMNS * size
            width = grid.piece_width(piece) if columns == grid.columns and grid.pieces > 1 else columns
            return Box(tile, 0, grid.partitions(first), start, start + width * size)

        most = _ANY if rows == 1 else _power_of_two(pattern.run // PARTITIONS)
        return Access(base, read_spread, _ANY if one_column else 0, most, follows_rows=False)
    turn = rec.regrid(base, grid_of(rows, columns))
    if turn.pending:
        rec.flush()
    tiles = rows // PARTITIONS

    def read_turn(first: int, last: int, piece: int) -> Box:
        return rec.box(turn, first % tiles, first % tiles + last - first, part(piece))

    most = min(_power_of_two(tiles), turn.grid.tiles_per_chunk)
    return Access(turn, read_turn, one_column, most, follows_rows=False)


def _spread_rows(rec: Recorder, base: Value, rows: int, columns: int) -> Callable[[int], tuple[int, int]]:
    """Where each row of an array is on all partitions: tile and first byte; one by one where all are too much for SBUF."""
    from npuscope.simulate.hlo.addressed import to_hbm

    size = base.itemsize
    if rows == 1 or base.bytes <= _MOST_SPREAD_BYTES:
        spread = rec.spread(base)
        return lambda row: (spread, row * columns * size)
    base = to_hbm(rec, base, "spread")
    tiles: dict[int, int] = {}
    transfer = rec.transfer(PARTITIONS, columns * size, Space.HBM, Space.SBUF)

    def row_at(row: int) -> tuple[int, int]:
        if row not in tiles:
            tiles[row] = rec.tile(Space.SBUF, PARTITIONS, columns * size, "spread")
            target = Box(tiles[row], 0, PARTITIONS, 0, columns * size)
            rec.emit(transfer, DMA, [rec.hbm_box(base), *base.addresses], [target])
        return tiles[row], 0

    return row_at


def _row_pattern(extents: tuple[int, ...], kept: list[int]) -> tuple[int, Callable[[int], int]]:
    """Rows in a row that have the same row of the base, and which one a row has."""
    strides = [math.prod(extents[number + 1 :]) for number in range(len(extents))]
    kept = [number for number in kept if extents[number] > 1]
    own = [math.prod(extents[other] for other in kept if other > number) for number in kept]
    parts = [(strides[number], extents[number], size) for number, size in zip(kept, own, strict=True)]

    def row_of(row: int) -> int:
        return sum(row // stride % extent * size for stride, extent, size in parts)

    return strides[kept[-1]] if kept else math.prod(extents), row_of


def _comes_round(extents: tuple[int, ...], kept: tuple[int, ...], rows: int) -> bool:
    """Whether the kept dimensions are the last of these, but for those of one element."""
    inner = 1
    for number in range(len(extents) - 1, -1, -1):
        if inner == rows:
            return True
        if number not in kept and extents[number] > 1:
            return False
        inner *= extents[number]
    return inner == rows


def _power_of_two(number: int) -> int:
    """The largest that divides it."""
    return number & -number


def _as_column(rec: Recorder, value: Value, base: Value, rows: int) -> Value:
    """One number per row, moved to where the rows lie; kept with the broadcast, whose other readers need it, too."""
    from npuscope.simulate.hlo.movement import move

    grid = grid_of(rows, 1)
    if value.elsewhere is None:
        value.elsewhere = {}
    column = value.elsewhere.get(grid)
    if column is None:
        rec.flush()
        column = rec.on_chip(Shape(base.shape.element_type, (rows,), (), rows, rows * base.itemsize), grid)
        move(rec, column, rec.ready(base))
        value.elsewhere[grid] = column
    return column
