"""The value of an HLO op while a program is recorded: where it lies, or how it follows from another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from npuscope.formats.hlo import Shape
from npuscope.simulate.hlo.layout import Grid, device_type, natural_grid
from npuscope.simulate.neuroncore.program import Box


class HbmView(NamedTuple):
    """An array in HBM, or a part of one."""

    tile: int
    run_elements: int
    """Elements that lie together: the most that one descriptor moves."""
    is_input: bool
    """A parameter or constant: nothing writes it, so that any order of reads will do."""
    is_whole: bool = True
    """Not a part of an array."""


class Value:
    """An array: on the chip, in HBM, the same constant everywhere, or a view of another value; or a tuple.

    At most one of `hbm`, `is_uniform`, `base`, `parts` and `deferred` says what it is; without any of them it is made on
    the chip, in `tiles`. A value with `hbm` gets tiles as it is loaded.

    One is made per op, and programs have a hundred thousand: what most of them lack stands once, in the class.
    """

    tiles: list[int] | None = None
    """On-chip tile by chunk * pieces + piece, -1 where it is not there yet; None where nothing is."""
    whole: Box | None = None
    """All of it, where it is one tile on the chip that has been written."""
    hbm: HbmView | None = None
    addresses: tuple[Box, ...] = ()
    """Of a part of an array in HBM whose place is computed: the registers that hold it."""
    is_uniform: bool = False
    base: Value | None = None
    """What this is a view of."""
    view: str = ""
    """`broadcast`, `transpose`, or `reshape` of one of them."""
    dimensions: tuple[int, ...] = ()
    """Of a broadcast, those that the base's become; of a transpose, the permutation."""
    parts: Sequence[Value] | None = None
    deferred: str = ""
    """A function of `base` and a constant, which the next instruction takes along if it can."""
    pending: bool = False
    """Belongs to the group of row-wise instructions that is not recorded yet."""
    spread: int = -1
    """Tile with this row vector, or scalar, on every partition."""
    turned: dict[int, int] | None = None
    """Row tile and first block of columns to the tile that holds them transposed."""
    is_shared: bool = False
    """Someone else may still read it: it must not be overwritten in place."""
    is_register: bool = False
    """A whole number in a register of an engine."""

    row_run_elements: int = 0
    """Of an operand of a matmul, whose rows must lie on successive partitions: what follows each of them in memory and goes to
    the same partition. 0 where consecutive rows may share a partition, and be loaded in longer runs."""
    stored: Value | None = None
    """Its copy in HBM, for those that read it at computed places."""
    elsewhere: dict[Grid, Value] | None = None
    """Copies of it in other grids."""
    handle: int = -1
    """Its number in `reuse`; -1 where it has none."""

    def __init__(self, shape: Shape, grid: Grid, dtype: str, itemsize: int) -> None:
        self.shape = shape
        self.grid = grid
        """Rows and columns as they lie: the elements in row-major order, whatever the shape, so that reshapes are free."""
        self.dtype = dtype
        self.itemsize = itemsize

    @property
    def bytes(self) -> int:
        """As the engines hold it."""
        return self.shape.elements * self.itemsize


def value_of(shape: Shape) -> Value:
    """A value that is nowhere yet."""
    return Value(shape, natural_grid(shape), *device_type(shape.element_type))


def uniform(shape: Shape) -> Value:
    """A constant that is the same everywhere: an immediate operand."""
    value = value_of(shape)
    value.is_uniform = True
    return value


def tuple_of(shape: Shape, parts: Sequence[Value]) -> Value:
    """A tuple."""
    value = value_of(shape)
    value.parts = parts
    return value


def view_of(shape: Shape, base: Value, view: str, dimensions: tuple[int, ...] = ()) -> Value:
    """A view, which costs nothing until someone needs it another way than its base lies."""
    value = value_of(shape)
    value.base, value.view, value.dimensions = base, view, dimensions
    return value


def in_hbm(shape: Shape, tile: int, run_elements: int, *, is_input: bool) -> Value:
    """An array in HBM."""
    value = value_of(shape)
    value.hbm = HbmView(tile, max(1, run_elements), is_input)
    return value


def flat(value: Value) -> list[Value]:
    """The arrays of a tuple, nested ones too; one that is no tuple by itself."""
    if value.parts is None:
        return [value]
    return [leaf for part in value.parts for leaf in flat(part)]


def parts_of(value: Value) -> Sequence[Value]:
    """The elements of a tuple; of what is none, itself."""
    return value.parts if value.parts is not None else [value]
