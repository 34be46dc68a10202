"""How a view lies in its memory, apart from where it begins: made once, shared by all views that look alike.

A kernel makes hundreds of thousands of views of a few dozen kinds. What depends on the kind alone (sizes, whether it is
contiguous, which boxes it touches) is found once; caches elsewhere are keyed by the object's identity.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import Any

from npuscope.simulate.neuroncore.program import Space
from npuscope.simulate.nki.dtypes import Dtype, dtype_name

_MOST = 65536
"""Entries of a cache before it starts anew."""


@lru_cache(maxsize=4096)
def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Elements per step of each axis of a tensor that lies in one piece."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


@lru_cache(maxsize=4096)
def memory_of(shape: tuple[int, ...], space: Space, par: int) -> tuple[int, int, int]:
    """Blocks of an allocation, rows of a block, and elements of a row."""
    if space is Space.HBM:
        return 1, math.prod(shape[:-1]), shape[-1] if shape else 1
    return math.prod(shape[:par]), shape[par], math.prod(shape[par + 1 :])


class Geometry:
    """Shape, strides and element type of a view, and the memory that it is a view of."""

    __slots__ = (
        "blocks",
        "contiguous",
        "dtype",
        "elements",
        "is_full",
        "memory",
        "par",
        "pieces",
        "plans",
        "row_elements",
        "rows",
        "shape",
        "size",
        "space",
        "strides",
        "type_name",
    )

    def __init__(
        self,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        par: int,
        dtype: Dtype,
        space: Space,
        memory: tuple[int, int, int],
    ) -> None:
        """Describe a view.

        Args:
            shape: Of the view.
            strides: In elements, one per axis.
            par: Its axis of partitions.
            dtype: Of its elements.
            space: Where the memory is.
            memory: Blocks, rows of a block and elements of a row.
        """
        self.shape = shape
        self.strides = strides
        self.par = par
        self.dtype = dtype
        self.type_name = dtype_name(dtype)
        self.space = space
        self.memory = memory
        self.blocks, self.rows, self.row_elements = memory
        self.size = math.prod(shape)
        """Elements in all."""
        self.elements = math.prod(shape[par + 1 :])
        """Elements per partition, of one block."""
        steps = [stride for size, stride in zip(shape, strides, strict=True) if size > 1]
        self.contiguous = not steps or steps[-1] == 1
        """Whether the innermost stride is one element."""
        self.is_full = self.size == math.prod(memory) and strides == row_major(shape)
        """Whether it covers all memory in order, if it begins where the memory does."""
        self.pieces: dict[int, tuple[tuple[int, int, int, int, int], ...]] = {}
        """What `find_pieces` found, by offset."""
        self.plans: dict[Any, Any] = {}
        """Geometry of what a subscript selects, by the kind of the subscript; see `Tensor`."""

    def reach(self, offset: int) -> tuple[int, int, int, int, tuple[int, ...]] | None:
        """First and last row, first and last element within a row, and the further blocks; None for an empty view.

        Rows are counted through all blocks.
        """
        row_elements = self.row_elements
        span = span_of(self.shape, self.strides, row_elements, self.rows if self.blocks > 1 else 0)
        if span is None:
            return None
        row, column = divmod(offset, row_elements)
        rows_before, rows_after, low, high, far = span
        row_low, row_high, low, high = row - rows_before, row + rows_after, column - low, column + high
        if high >= row_elements or low < 0:
            row_low += low // row_elements
            row_high += high // row_elements
            low, high = 0, row_elements - 1
        return row_low, row_high, low, high, far

    def find_pieces(self, offset: int) -> tuple[tuple[int, int, int, int, int], ...]:
        """The smallest boxes around a view, one per block: block, first and last row + 1, first and last byte + 1.

        Args:
            offset: Element of memory that the view begins at.
        """
        reach = self.reach(offset)
        if reach is None:
            return ()
        row_low, row_high, low, high, far = reach
        block = 0
        if self.blocks > 1:
            block, row_low = divmod(row_low, self.rows)
            row_high -= block * self.rows
        start, stop = low * self.dtype.itemsize, (high + 1) * self.dtype.itemsize
        if len(self.pieces) >= _MOST:
            self.pieces.clear()
        found = tuple([(block + step, row_low, row_high + 1, start, stop) for step in far])
        self.pieces[offset] = found
        return found


@lru_cache(maxsize=16384)
def span_of(
    shape: tuple[int, ...], strides: tuple[int, ...], row_elements: int, block_rows: int
) -> tuple[int, int, int, int, tuple[int, ...]] | None:
    """How far a view reaches from its offset: rows before and after, elements before and after, blocks.

    Args:
        shape: Of the view.
        strides: In elements.
        row_elements: Elements of a row of memory.
        block_rows: Rows of a block; 0 where there is one block alone.
    """
    before = after = low = high = 0
    far: list[range] = []
    for size, stride in zip(shape, strides, strict=True):
        if not size:
            return None
        rows, columns = divmod(abs(stride), row_elements)
        if block_rows and rows >= block_rows and size > 1:
            rows //= block_rows
            far.append(range(0, size * rows, rows))
        elif stride < 0:
            before += (size - 1) * rows
            low += (size - 1) * columns
        else:
            after += (size - 1) * rows
            high += (size - 1) * columns
    return before, after, low, high, tuple([sum(steps) for steps in itertools.product(*far)])


_known: dict[tuple[Any, ...], Geometry] = {}


def geometry_of(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    par: int,
    dtype: Dtype,
    space: Space,
    memory: tuple[int, int, int],
) -> Geometry:
    """The geometry of a view; arguments as of `Geometry`."""
    # By identity of the type: tfloat32 equals float32. The geometry keeps the type, so that no other takes its place.
    key = (shape, strides, par, id(dtype), space, memory)
    found = _known.get(key)
    if found is None:
        if len(_known) >= _MOST:
            _known.clear()
        found = _known[key] = Geometry(shape, strides, par, dtype, space, memory)
    return found


_wholes: dict[tuple[Any, ...], Geometry] = {}


def whole_of(shape: tuple[int, ...], dtype: Dtype, space: Space, par: int) -> Geometry:
    """The geometry of all memory of an allocation."""
    key = (shape, id(dtype), space, par)
    found = _wholes.get(key)
    if found is None:
        if len(_wholes) >= _MOST:
            _wholes.clear()
        found = geometry_of(shape, row_major(shape), par, dtype, space, memory_of(shape, space, par))
        _wholes[key] = found
    return found
