"""How an array of HLO lies on the chip: rows over partitions, row tiles side by side, columns in pieces.

An array [d0, ..., dn] is rows x columns: all leading dimensions by the last one. An array of one dimension is a column: one
element per row. 128 rows make a row tile; as many row tiles as fill 1,024 columns share one on-chip tile, and longer rows
are cut into pieces of 1,024 columns, which is what compiled matmuls load and store at a time. Reshapes that keep rows and
columns cost nothing.

This is a model of the compiler's choice; no public source documents the real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from npuscope.formats.hlo import Shape

PARTITIONS: Final = 128
PIECE_COLUMNS: Final = 1024
"""Most elements of a partition that one instruction or load takes."""


class Grid(NamedTuple):
    """How rows and columns are cut; one for all arrays of that size, whatever their type."""

    rows: int
    columns: int
    row_tiles: int
    tiles_per_chunk: int
    """Row tiles that share an on-chip tile: a power of two, so that all grids of equal rows align."""
    pieces: int
    """Pieces of a row; 1 wherever `tiles_per_chunk` is more than 1."""

    @property
    def chunks(self) -> int:
        """On-chip tiles per piece."""
        return -(-self.row_tiles // self.tiles_per_chunk)

    def parts(self) -> Iterator[tuple[int, int, int]]:
        """Every on-chip tile: its first and its last row tile, and its piece."""
        for start in range(0, self.row_tiles, self.tiles_per_chunk):
            for piece in range(self.pieces):
                yield start, min(start + self.tiles_per_chunk, self.row_tiles), piece

    def piece_width(self, piece: int) -> int:
        """Columns of a piece."""
        return min(PIECE_COLUMNS, self.columns - piece * PIECE_COLUMNS)

    def partitions(self, row_tile: int) -> int:
        """Rows of a row tile: partitions that take part."""
        return min(PARTITIONS, self.rows - row_tile * PARTITIONS)


@lru_cache(65536)
def grid_of(rows: int, columns: int) -> Grid:
    """The grid of rows x columns; empty arrays have no tiles."""
    row_tiles = -(-rows // PARTITIONS) if columns else 0
    if columns > PIECE_COLUMNS:
        return Grid(rows, columns, row_tiles, 1, -(-columns // PIECE_COLUMNS))
    per_chunk = PIECE_COLUMNS // columns if columns else 1
    return Grid(rows, columns, row_tiles, 1 << (per_chunk.bit_length() - 1), 1)


_grids: dict[tuple[int, ...], Grid] = {}
_MOST_GRIDS: Final = 65536


def natural_grid(shape: Shape) -> Grid:
    """Rows and columns of an array as it lies on the chip."""
    dimensions = shape.dimensions
    grid = _grids.get(dimensions)
    if grid is None:
        if not dimensions:
            grid = grid_of(1, 1)
        elif len(dimensions) == 1:
            grid = grid_of(dimensions[0], 1)
        else:
            columns = dimensions[-1]
            grid = grid_of(shape.elements // columns if columns else 0, columns)
        if len(_grids) < _MOST_GRIDS:
            _grids[dimensions] = grid
    return grid


def row_dimensions(dimensions: tuple[int, ...], grid: Grid) -> int | None:
    """How many leading dimensions are the rows of a grid; None where its rows are cut otherwise."""
    rows = 1
    for number, extent in enumerate(dimensions):
        if rows == grid.rows:
            return number
        rows *= extent
    return len(dimensions) if rows == grid.rows and grid.columns == 1 else None


_FEW_ROWS: Final = 8
_LONG_COLUMNS: Final = 16_384


def elementwise_grid(grid: Grid) -> Grid:
    """The grid for elementwise ops of an array in HBM: over all partitions where its few rows would leave most of them idle."""
    elements = grid.rows * grid.columns
    if grid.rows < _FEW_ROWS and grid.columns >= _LONG_COLUMNS and elements % PARTITIONS == 0:
        return grid_of(PARTITIONS, elements // PARTITIONS)
    return grid


_DTYPES: Final = {
    "f32": ("float32", 4), "bf16": ("bfloat16", 2), "f16": ("float16", 2), "pred": ("uint8", 1),
    "s8": ("int8", 1), "u8": ("uint8", 1), "s16": ("int16", 2), "u16": ("uint16", 2), "s32": ("int32", 4), "u32": ("uint32", 4),
    "s64": ("int32", 4), "u64": ("uint32", 4), "f64": ("float32", 4), "c64": ("float32", 8), "c128": ("float32", 8),
}  # fmt: skip
NARROWED: Final = frozenset({"s64", "u64", "f64", "c128"})
"""Types that no engine has: counted as their half."""


def device_type(element_type: str) -> tuple[str, int]:
    """Name and bytes per element of a type as the engines have it; 8-bit and smaller floats count as one byte."""
    known = _DTYPES.get(element_type)
    if known is not None:
        return known
    return (
        ("float8", 1)
        if element_type.startswith(("f8", "f4"))
        else ("int8", 1)
        if element_type[1:].isdigit()
        else ("float32", 4)
    )


INTEGERS: Final = frozenset(
    {"pred", "s1", "s2", "s4", "s8", "s16", "s32", "s64", "u1", "u2", "u4", "u8", "u16", "u32", "u64"}
)
