"""Subscripts of a tensor: integers, slices, index expressions and indirect indices, turned into strides."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from npuscope.simulate.nki.index import Grid, Index, Slice, broadcast_shapes
from npuscope.simulate.nki.trace import KernelError


class Term(NamedTuple):
    """An indirect index along one axis of a tensor."""

    index: Any
    """A NumPy array of integers, or a tile that holds them while the kernel runs."""
    stride: int
    """Elements of memory per step of the index."""
    size: int
    """Positions along the axis."""
    position: int
    """First axis of the view that the index's own shape lies along."""
    shape: tuple[int, ...]


class Bound(NamedTuple):
    """An axis that a view may leave: the access is an error unless a mask keeps it inside."""

    size: int
    const: int
    coefficients: tuple[int, ...]
    """Per axis of the view."""


class View(NamedTuple):
    """What a subscript leads to."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    terms: tuple[Term, ...]
    bounds: tuple[Bound, ...]
    par: int
    """Axis of the view that holds the partitions."""


_ALL = slice(None)
_new_view = tuple.__new__
"""Without the detour of a named tuple's own constructor."""


def subscript(shape: tuple[int, ...], strides: tuple[int, ...], offset: int, par: int, key: Any) -> View:
    """The view that `key` selects of a view.

    Args:
        shape: Of the tensor that is subscripted.
        strides: Elements of memory per step, one per axis.
        offset: Element of memory that the tensor begins at.
        par: Its axis of partitions.
        key: What stands between the brackets.

    Raises:
        KernelError: More subscripts than axes, an integer out of range, or shapes that do not fit.
    """
    items = key if type(key) is tuple or type(key) is Grid else (key,)
    rank = len(shape)
    if len(items) != rank:
        items = _expand(items, rank)
    is_basic = is_affine = True
    for item in items:
        kind = type(item)
        if kind is slice:
            is_affine = False
        elif kind is Index:
            is_basic = False
        elif kind is not int:
            if item is None or item is Ellipsis:
                items = _expand(items, rank)
            is_basic = is_affine = False
    if is_affine and not is_basic:
        return _affine(shape, strides, offset, par, items)
    return (_basic if is_basic or not any(map(_is_advanced, items)) else _mixed)(shape, strides, offset, par, items)


def _is_advanced(item: Any) -> bool:
    return type(item) is not int and type(item) is not slice


_plans: dict[Any, tuple[View, tuple[tuple[int, int], ...]]] = {}
"""Views of index expressions, and how far each expression reaches from its constant, by shapes and coefficients."""
_MAX_PLANS = 65536


def _affine(shape: tuple[int, ...], strides: tuple[int, ...], offset: int, par: int, items: tuple[Any, ...]) -> View:
    """A view by integers and index expressions, most of which differ from earlier ones in their constants alone."""
    key: list[Any] = [strides, par]
    for item in items:
        if type(item) is int:
            key.append(None)
        else:
            key.append(item.shape)
            key.append(item.coefficients)
    plan = _plans.get(tuple(key))
    if plan is None:
        if len(_plans) > _MAX_PLANS:
            _plans.clear()
        plan = _plans[tuple(key)] = _plan(strides, par, items)
    view, reaches = plan
    start = offset
    for axis, item in enumerate(items):
        if type(item) is int:
            if item < 0 or item >= shape[axis]:
                item = _integer(item, shape[axis], axis)
            offset += item * strides[axis]
        else:
            const = item.const
            low, high = reaches[axis]
            if const + low < 0 or const + high >= shape[axis]:
                return _mixed(shape, strides, start, par, items)
            offset += const * strides[axis]
    return _new_view(View, (offset, view.shape, view.strides, (), (), view.par))


def keep_partitions(shape: tuple[int, ...], par: int, key: Any) -> Any:
    """`key` with an integer along the partitions made a slice, so that what it selects is a tile still."""
    if type(key) is int:
        return slice(key % shape[0], key % shape[0] + 1) if par == 0 and -shape[0] <= key < shape[0] else key
    if type(key) is not tuple or len(key) <= par or type(key[par]) is not int:
        return key
    position, size = key[par], shape[par]
    if not -size <= position < size or not all(type(item) is int or type(item) is slice for item in key):
        return key
    position %= size
    return (*key[:par], slice(position, position + 1), *key[par + 1 :])


def _plan(strides: tuple[int, ...], par: int, items: tuple[Any, ...]) -> tuple[View, tuple[tuple[int, int], ...]]:
    """What `_affine` remembers: a view without its offset, and the reach of each expression."""
    reaches = []
    centred: list[Any] = []
    for item in items:
        if type(item) is int:
            reaches.append((0, 0))
            centred.append(0)
        else:
            index = Index(item.shape, 0, item.coefficients)
            reaches.append(index.extent() if 0 not in item.shape else (0, -1))
            centred.append(index)
    sizes = tuple([1 << 62] * len(items))
    view = _mixed(sizes, strides, 0, par, tuple(centred))
    return view, tuple(reaches)


def _expand(items: tuple[Any, ...], rank: int) -> tuple[Any, ...]:
    """One subscript per axis: `...` and what is missing at the end become full slices."""
    used = sum(item is not None and item is not Ellipsis for item in items)
    if used > rank:
        raise KernelError(f"{used} subscripts for a tensor of {rank} dimensions")
    if used == len(items):
        return items + (_ALL,) * (rank - used)
    full = [_ALL] * (rank - used)
    expanded: list[Any] = []
    found = False
    for item in items:
        if item is Ellipsis and not found:
            found = True
            expanded.extend(full)
        elif item is not Ellipsis:
            expanded.append(item)
    return tuple(expanded if found else expanded + full)


def _integer(item: int, size: int, axis: int) -> int:
    """`item` as a position along an axis of `size`."""
    if item < 0:
        item += size
    if item < 0 or item >= size:
        raise KernelError(f"index {item} is out of range for axis {axis} of size {size}")
    return item


def _span(item: slice, size: int, axis: int) -> tuple[int, int, int]:
    """Start, count and step of a slice; it may reach beyond `size`, where a mask has to keep it inside."""
    step = 1 if item.step is None else int(item.step)
    if step < 1:
        raise KernelError(f"slice of axis {axis} has step {step}; it must be positive")
    start = 0 if item.start is None else int(item.start)
    stop = size if item.stop is None else int(item.stop)
    if start < 0:
        start += size
    if stop < 0:
        stop += size
    return start, max(0, -(-(stop - start) // step)), step


def _basic(shape: tuple[int, ...], strides: tuple[int, ...], offset: int, par: int, items: tuple[Any, ...]) -> View:
    """A view by integers and slices alone."""
    sizes: list[int] = []
    steps: list[int] = []
    new_par, outside = 0, False
    for axis, item in enumerate(items):
        size, stride = shape[axis], strides[axis]
        if axis == par:
            new_par = len(sizes)
        if type(item) is int:
            if item < 0 or item >= size:
                item = _integer(item, size, axis)
            offset += item * stride
            continue
        first, last = item.start, item.stop
        if item.step is None:
            if first is None and last is None:
                sizes.append(size)
                steps.append(stride)
                continue
            if type(first) is int and type(last) is int and 0 <= first < last <= size:
                offset += first * stride
                sizes.append(last - first)
                steps.append(stride)
                continue
        start, count, step = _span(item, size, axis)
        outside = outside or start < 0 or start + (count - 1) * step >= size
        offset += start * stride
        sizes.append(count)
        steps.append(stride * step)
    bounds = _slice_bounds(shape, items, len(sizes)) if outside else ()
    return _new_view(View, (offset, tuple(sizes), tuple(steps), (), bounds, new_par))


def _slice_bounds(shape: tuple[int, ...], items: tuple[Any, ...], rank: int) -> tuple[Bound, ...]:
    bounds, position = [], 0
    for axis, item in enumerate(items):
        if type(item) is int:
            continue
        start, count, step = _span(item, shape[axis], axis)
        if start < 0 or start + (count - 1) * step >= shape[axis]:
            coefficients = tuple(step if i == position else 0 for i in range(rank))
            bounds.append(Bound(shape[axis], start, coefficients))
        position += 1
    return tuple(bounds)


def _common_shape(items: tuple[Any, ...]) -> tuple[int, ...]:
    """The shape that all index expressions and indirect indices have together."""
    common: tuple[int, ...] = ()
    for item in items:
        if type(item) is Index or _is_indirect(item):
            try:
                common = broadcast_shapes(common, tuple(item.shape))
            except ValueError as error:
                raise KernelError(f"index expressions: {error}") from None
    return common


def _is_indirect(item: Any) -> bool:
    return not isinstance(item, (int, np.integer, slice, Slice)) and hasattr(item, "shape")


class _Parts:
    """A view in the making: axes of slices, and the axes that all index expressions share."""

    __slots__ = ("bounds", "inner", "offset", "par", "position", "sizes", "steps", "terms")

    def __init__(self, offset: int, rank: int) -> None:
        self.offset = offset
        self.sizes: list[int] = []
        self.steps: list[int] = []
        self.inner = [0] * rank
        self.position = -1
        self.par: tuple[bool, int] | None = None
        """Whether the partitions lie along the shared axes, and along which of its kind."""
        self.terms: list[tuple[Any, int, int]] = []
        self.bounds: list[tuple[int, int, Any]] = []
        """Size, constant, and either the axis and step of a slice or an index expression."""

    def add_index(self, item: Index, size: int, stride: int, is_par: bool) -> None:
        if self.position < 0:
            self.position = len(self.sizes)
        self.offset += item.const * stride
        first = len(self.inner) - len(item.shape)
        low = high = item.const
        par = 0
        for axis in range(len(item.shape) - 1, -1, -1):
            coefficient = item.coefficients[axis]
            if coefficient:
                par = axis + first
                self.inner[par] += coefficient * stride
                if coefficient > 0:
                    high += coefficient * (item.shape[axis] - 1)
                else:
                    low += coefficient * (item.shape[axis] - 1)
        if low < 0 or high >= size:
            self.bounds.append((size, item.const, item))
        if is_par:
            self.par = (True, par)

    def add_slice(self, item: Any, size: int, stride: int, axis: int) -> None:
        if type(item) is Slice:
            if _is_indirect(item.start):
                self.terms.append((item.start, stride, size))
                start, count, step = 0, int(item.size), 1
            else:
                start, count, step = int(item.start), int(item.size), 1
        else:
            start, count, step = _span(item, size, axis)
        self.offset += start * stride
        if start < 0 or start + (count - 1) * step >= size:
            self.bounds.append((size, start, (len(self.sizes), step)))
        self.sizes.append(count)
        self.steps.append(stride * step)

    def view(self, common: tuple[int, ...]) -> View:
        position, width = max(self.position, 0), len(common)
        if not common:
            position = 0
        shape = (*self.sizes[:position], *common, *self.sizes[position:])
        strides = (*self.steps[:position], *self.inner, *self.steps[position:])
        terms = tuple(
            Term(index, stride, size, position + width - len(index.shape), tuple(index.shape))
            for index, stride, size in self.terms
        )
        bounds = []
        for size, const, what in self.bounds:
            coefficients = [0] * len(shape)
            if isinstance(what, Index):
                first = position + width - len(what.shape)
                coefficients[first : first + len(what.shape)] = what.coefficients
            else:
                coefficients[what[0] if what[0] < position else what[0] + width] = what[1]
            bounds.append(Bound(size, const, tuple(coefficients)))
        par = 0
        if self.par is not None:
            along_common, par = self.par
            par += position if along_common else (width if par >= position else 0)
        return View(self.offset, shape, strides, terms, tuple(bounds), par)


def _mixed(shape: tuple[int, ...], strides: tuple[int, ...], offset: int, par: int, items: tuple[Any, ...]) -> View:
    """A view by any subscripts: those with a shape of their own lie along common axes, as in NumPy."""
    common = _common_shape(items)
    parts = _Parts(offset, len(common))
    axis = 0
    for item in items:
        kind = type(item)
        if item is None:
            parts.sizes.append(1)
            parts.steps.append(0)
            continue
        size, stride = shape[axis], strides[axis]
        if kind is Index:
            parts.add_index(item, size, stride, axis == par)
        elif kind is slice or kind is Slice:
            if axis == par:
                parts.par = (False, len(parts.sizes))
            parts.add_slice(item, size, stride, axis)
        elif isinstance(item, (int, np.integer)):
            parts.offset += _integer(int(item), size, axis) * stride
        elif _is_indirect(item):
            if parts.position < 0:
                parts.position = len(parts.sizes)
            if axis == par:
                parts.par = (True, 0)
            parts.terms.append((item, stride, size))
        else:
            raise KernelError(f"a tensor cannot be indexed with {kind.__name__}")
        axis += 1
    return parts.view(common)
