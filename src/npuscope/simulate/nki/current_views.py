"""Subscripts and access patterns of the current dialect, as offsets, strides and indirect terms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index as as_index
from typing import Any, NamedTuple

from npuscope.simulate.neuroncore.program import Space
from npuscope.simulate.nki.current_registers import VirtualRegister, address_of
from npuscope.simulate.nki.index import Slice
from npuscope.simulate.nki.storage import Storage
from npuscope.simulate.nki.subscripts import Term
from npuscope.simulate.nki.tensors import Tensor
from npuscope.simulate.nki.trace import KernelError


class Layout(NamedTuple):
    """Where the elements of a view lie."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    terms: tuple[Term, ...]


def subscript(tensor: Tensor, key: Any) -> Layout:
    """What `key` selects of `tensor`: integers, slices, `...` and `ds`.

    A tile on the chip keeps its axis of partitions and at least two axes, a tensor in HBM at least one.

    Raises:
        KernelError: A position is out of range, or the subscript is of another kind.
    """
    shape, rank = tensor.shape, len(tensor.shape)
    items = key if type(key) is tuple else (key,)
    if len(items) != rank or any(item is Ellipsis for item in items):
        items = _fill(items, rank)
    on_chip = tensor.storage.space is not Space.HBM
    kept = 1 if on_chip else 0
    for item in items[kept:]:
        if type(item) is slice or type(item) is Slice:
            kept += 1
    last_kept = rank - 1 if kept < (2 if on_chip else 1) else -1
    offset, sizes, steps, terms = tensor.offset, [], [], tensor.terms
    axes: list[int] = []
    for axis, item in enumerate(items):
        size, stride = shape[axis], tensor.strides[axis]
        if type(item) is slice:
            start, count, step = _span(item, size, axis)
        elif type(item) is Slice:
            start, count, step = item.start, int(item.size), 1
            if isinstance(start, Tensor):
                terms, start = (*terms, scalar_term(start, stride, size - count + 1)), 0
            else:
                start = position(start, size - count + 1, axis)
        else:
            start, count, step = position(item, size, axis), 1, 1
            if not (on_chip and axis == 0) and axis != last_kept:
                offset += start * stride
                check_direct(tensor.terms, axis)
                continue
        if terms and count != size:
            check_direct(tensor.terms, axis)
        offset += start * stride
        sizes.append(count)
        steps.append(stride * step)
        axes.append(axis)
    if terms and len(axes) != rank:
        terms = moved(terms, axes)
    return Layout(offset, tuple(sizes), tuple(steps), terms)


def _fill(items: tuple[Any, ...], rank: int) -> tuple[Any, ...]:
    """One item per axis: `...` and what is missing at the end become full slices."""
    dots = [i for i, item in enumerate(items) if item is Ellipsis]
    missing = rank - len(items) + len(dots)
    if missing < 0 or len(dots) > 1:
        raise KernelError(f"{len(items)} subscripts for a tensor of {rank} dimensions")
    place = dots[0] if dots else len(items)
    return (*items[:place], *[slice(None)] * missing, *items[place + len(dots) :])


def _span(item: slice, size: int, axis: int) -> tuple[int, int, int]:
    """Start, count and step of a slice that has to stay inside."""
    start, stop, step = item.start, item.stop, item.step
    if start is None and stop is None and step is None:
        return 0, size, 1
    first = 0 if start is None else start if type(start) is int else address_of(start)
    end = size if stop is None else stop if type(stop) is int else address_of(stop)
    pace = 1 if step is None else as_index(step)
    if first < 0:
        first += size
    if end < 0:
        end += size
    if not 0 <= first < end <= size or pace < 1:
        raise KernelError(f"slice {first}:{end}:{pace} of axis {axis}, which has {size} positions")
    return first, -(-(end - first) // pace), pace


def position(item: Any, size: int, axis: int) -> int:
    """An integer or a register as a position along an axis of `size`."""
    if type(item) is not int:
        try:
            item = address_of(item) if isinstance(item, VirtualRegister) else as_index(item)
        except TypeError:
            raise KernelError(f"a tensor cannot be indexed with {type(item).__name__}") from None
    found: int = item + size if item < 0 else item
    if not 0 <= found < size:
        raise KernelError(f"index {item} is out of range for axis {axis}, which has {size} positions")
    return found


def scalar_term(index: Tensor, stride: int, limit: int) -> Term:
    """A tile of one element that counts positions of `stride` elements, below `limit`."""
    if index.size != 1:
        raise KernelError(f"a dynamic index needs a tile of one element, not {list(index.shape)}")
    return Term(index, stride, limit, 0, ())


def vector_term(index: Tensor, stride: int, limit: int, shape: Sequence[int]) -> Term:
    """A tile [P, n] of row numbers for the first axis of `shape`, column after column."""
    rows, columns = index.shape[0], math.prod(index.shape[1:])
    if columns == 1 and rows > shape[0]:
        index = index[: shape[0]]
    elif rows * columns != shape[0]:
        raise KernelError(f"a vector_offset of shape {list(index.shape)} does not give {shape[0]} row numbers")
    elif columns > 1:
        flat = index.reshape((rows, columns))
        swapped = (flat.strides[1], flat.strides[0])
        index = Tensor(flat.storage, flat.dtype, (columns, rows), swapped, flat.offset, 1)
    return Term(index, stride, limit, 0, (shape[0], *(1,) * (len(shape) - 1)))


def check_direct(terms: tuple[Term, ...], axis: int) -> None:
    """Raise where `axis` is one that an indirect index runs along."""
    for term in terms:
        place = axis - term.position
        if 0 <= place < len(term.shape) and term.shape[place] > 1:
            raise KernelError(f"axis {axis} is indexed while the kernel runs and cannot be subscripted again")


def moved(terms: tuple[Term, ...], axes: Sequence[int]) -> tuple[Term, ...]:
    """`terms` of a view that keeps the given old axes; -1 is a new axis of size 1."""
    result = []
    for term in terms:
        if term.shape:
            sizes = [0 if axis < 0 else axis - term.position for axis in axes]
            shape = [
                1 if axis < 0 or not 0 <= place < len(term.shape) else term.shape[place]
                for axis, place in zip(axes, sizes, strict=True)
            ]
            term = term._replace(position=0, shape=tuple(shape))
        result.append(term)
    return tuple(result)


def check_extent(storage: Storage, layout: Layout) -> None:
    """Raise where an access pattern leaves its memory.

    Raises:
        KernelError: It does: the memory of one partition on the chip, the whole tensor in HBM.
    """
    first = 0 if storage.space is Space.HBM else 1
    reach = sum((size - 1) * step for size, step in zip(layout.shape[first:], layout.strides[first:], strict=True))
    if first:
        row, column = divmod(layout.offset, storage.row_elements)
        if column + reach >= storage.row_elements or row + layout.shape[0] > storage.rows:
            raise KernelError(
                f"ap: reaches partition {row + layout.shape[0] - 1}, element {column + reach} of a tile of"
                f" {storage.rows} partitions with {storage.row_elements} elements"
            )
    elif layout.offset + reach >= storage.rows * storage.row_elements:
        raise KernelError(
            f"ap: reaches element {layout.offset + reach:,} of a tensor of {storage.rows * storage.row_elements:,}"
        )
