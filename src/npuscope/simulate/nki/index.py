"""Index expressions of a kernel: sums of loop variables and `arange` axes, and the masks that compare them.

An expression is kept as `const + sum(coefficient[axis] * position[axis])` and needs no array. What is not affine (`//`,
`%`, products of two expressions) becomes a NumPy array of integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


_ALL = slice(None)


class Slice(NamedTuple):
    """`nl.ds(start, size)`: `size` positions from `start` on, which may be a register or a scalar tile."""

    start: Any
    size: int


_new_slice = tuple.__new__
"""Without the detour of a named tuple's own constructor."""


def ds(start: Any, size: int) -> Slice:
    """A slice of `size` positions that begins at `start`."""
    return _new_slice(Slice, (start, size))


class Index:
    """An affine integer expression over the axes of a tile."""

    __slots__ = ("coefficients", "const", "shape")
    __array_ufunc__ = None

    def __init__(self, shape: tuple[int, ...], const: int, coefficients: tuple[int, ...]) -> None:
        self.shape = shape
        self.const = const
        self.coefficients = coefficients

    def __repr__(self) -> str:
        return f"Index(shape={self.shape}, const={self.const}, coefficients={self.coefficients})"

    @property
    def ndim(self) -> int:
        """Axes."""
        return len(self.shape)

    def extent(self) -> tuple[int, int]:
        """The smallest and the largest value; of an empty expression, those of its first position."""
        low = high = self.const
        for size, coefficient in zip(self.shape, self.coefficients, strict=True):
            if coefficient > 0 and size > 1:
                high += coefficient * (size - 1)
            elif coefficient and size > 1:
                low += coefficient * (size - 1)
        return low, high

    def array(self) -> IntArray:
        """All values, as an array of `shape`."""
        values = np.full(self.shape, self.const, dtype=np.int64)
        for axis, (size, coefficient) in enumerate(zip(self.shape, self.coefficients, strict=True)):
            if coefficient:
                steps = np.arange(size, dtype=np.int64) * coefficient
                values += steps.reshape([size if i == axis else 1 for i in range(len(self.shape))])
        return values

    def __getitem__(self, key: Any) -> Any:
        if type(key) is tuple and len(self.shape) == 1 and len(key) == 2:
            if key[1] is None and key[0] == _ALL:
                return Index((self.shape[0], 1), self.const, (self.coefficients[0], 0))
            if key[0] is None and key[1] == _ALL:
                return Index((1, self.shape[0]), self.const, (0, self.coefficients[0]))
        return _reindex(self, key if isinstance(key, tuple) else (key,))

    def __len__(self) -> int:
        return self.shape[0]

    def __add__(self, other: Any) -> Any:
        if type(other) is int:
            return Index(self.shape, self.const + other, self.coefficients)
        if isinstance(other, Index):
            return _sum(self, other)
        if isinstance(other, (int, np.integer)):
            return Index(self.shape, self.const + int(other), self.coefficients)
        return self.array() + other if isinstance(other, np.ndarray) else NotImplemented

    __radd__ = __add__

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, (int, np.integer)):
            factor = int(other)
            return Index(self.shape, self.const * factor, tuple([c * factor for c in self.coefficients]))
        if isinstance(other, Index):
            return self.array() * other.array()
        return self.array() * other if isinstance(other, np.ndarray) else NotImplemented

    __rmul__ = __mul__

    def __neg__(self) -> Index:
        return Index(self.shape, -self.const, tuple([-c for c in self.coefficients]))

    def __pos__(self) -> Index:
        return self

    def __sub__(self, other: Any) -> Any:
        if isinstance(other, (int, np.integer)):
            return Index(self.shape, self.const - int(other), self.coefficients)
        if isinstance(other, Index):
            return _sum(self, -other)
        return self.array() - other if isinstance(other, np.ndarray) else NotImplemented

    def __rsub__(self, other: Any) -> Any:
        if isinstance(other, (int, np.integer)):
            return Index(self.shape, int(other) - self.const, tuple([-c for c in self.coefficients]))
        return other - self.array() if isinstance(other, np.ndarray) else NotImplemented

    def __floordiv__(self, other: Any) -> Any:
        divisor = _plain(other)
        return NotImplemented if divisor is None else self.array() // divisor

    def __mod__(self, other: Any) -> Any:
        divisor = _plain(other)
        return NotImplemented if divisor is None else self.array() % divisor

    def __rfloordiv__(self, other: Any) -> Any:
        return NotImplemented if _plain(other) is None else other // self.array()

    def __rmod__(self, other: Any) -> Any:
        return NotImplemented if _plain(other) is None else other % self.array()

    def __lt__(self, other: Any) -> Any:
        return _at_least(other, self, 1)

    def __le__(self, other: Any) -> Any:
        return _at_least(other, self, 0)

    def __gt__(self, other: Any) -> Any:
        return _at_least(self, other, 1)

    def __ge__(self, other: Any) -> Any:
        return _at_least(self, other, 0)

    def __eq__(self, other: object) -> Any:
        low = _at_least(self, other, 0)
        return NotImplemented if low is NotImplemented else low & _at_least(other, self, 0)

    def __ne__(self, other: object) -> Any:
        equal = self.__eq__(other)
        return NotImplemented if equal is NotImplemented else ~equal

    __hash__ = None  # type: ignore[assignment]


def _plain(value: Any) -> Any:
    """`value` as something that NumPy computes with; None for other things."""
    if isinstance(value, Index):
        return value.array()
    return value if isinstance(value, (int, np.integer, np.ndarray)) else None


def _sum(left: Index, right: Index) -> Index:
    shape, added = left.shape, right.shape
    if shape == added:
        total = tuple([a + b for a, b in zip(left.coefficients, right.coefficients, strict=True)])
        return Index(shape, left.const + right.const, total)
    rank = max(len(shape), len(added))
    a = (0,) * (rank - len(shape)) + left.coefficients
    b = (0,) * (rank - len(added)) + right.coefficients
    return Index(
        broadcast_shapes(shape, added),
        left.const + right.const,
        tuple([x + y for x, y in zip(a, b, strict=True)]),
    )


def broadcast_shapes(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of two shapes broadcast against each other, as NumPy does it.

    Raises:
        ValueError: They do not fit.
    """
    if left == right:
        return left
    if len(left) < len(right):
        left = (1,) * (len(right) - len(left)) + left
    elif len(right) < len(left):
        right = (1,) * (len(left) - len(right)) + right
    sizes = []
    for a, b in zip(left, right, strict=True):
        if a != b and a != 1 and b != 1:
            raise ValueError(f"shapes {left} and {right} do not broadcast")
        sizes.append(b if a == 1 else a)
    return tuple(sizes)


def _reindex(index: Index, items: tuple[Any, ...]) -> Index:
    """`index[:, None]` and its like: new axes, and slices of those there are."""
    missing = len(index.shape) - sum(item is not None and item is not Ellipsis for item in items)
    if missing < 0:
        raise IndexError(f"an index of {len(index.shape)} axes takes no {len(items)} subscripts")
    expanded: list[Any] = []
    for item in items:
        expanded.extend([slice(None)] * missing if item is Ellipsis else [item])
    if Ellipsis not in items:
        expanded.extend([slice(None)] * missing)
    shape, coefficients, const, axis = [], [], index.const, 0
    for item in expanded:
        if item is None:
            shape.append(1)
            coefficients.append(0)
            continue
        size, coefficient = index.shape[axis], index.coefficients[axis]
        axis += 1
        if isinstance(item, slice):
            start, stop, step = item.indices(size)
            shape.append(len(range(start, stop, step)))
            coefficients.append(coefficient * step)
            const += coefficient * start
        else:
            const += coefficient * range(size)[item]
    return Index(tuple(shape), const, tuple(coefficients))


@lru_cache(maxsize=4096)
def _arange(start: int, stop: int, step: int) -> Index:
    return Index((len(range(start, stop, step)),), start, (step,))


def arange(*bounds: int) -> Index:
    """Positions `start, start + step, ...` below `stop`, as one axis: the arguments of `range`."""
    if len(bounds) == 1 and type(bounds[0]) is int:
        return _arange(0, bounds[0], 1)
    steps = range(*[int(bound) for bound in bounds])
    return _arange(steps.start, steps.stop, steps.step)


class Grid(tuple[Index, ...]):
    """What `mgrid[...]` gives: one expression per axis, by number or as `.p .x .y .z .w`."""

    p: Index
    x: Index
    y: Index
    z: Index
    w: Index

    def __init__(self, axes: Iterable[Index]) -> None:
        self.__dict__.update(zip("pxyzw", self, strict=False))

    def __getattr__(self, name: str) -> Index:
        raise AttributeError(f"mgrid of {len(self)} axes has no axis {name!r}")


class _MeshGrid:
    """`nl.mgrid`: subscripted with slices, one per axis."""

    def __getitem__(self, key: Any) -> Grid:
        slices = key if isinstance(key, tuple) else (key,)
        return _mesh(tuple([range(item.start or 0, item.stop, item.step or 1) for item in slices]))


@lru_cache(maxsize=1024)
def _mesh(ranges: tuple[range, ...]) -> Grid:
    shape = tuple([len(steps) for steps in ranges])
    return Grid(
        [
            Index(shape, steps.start, tuple([steps.step if i == axis else 0 for i in range(len(shape))]))
            for axis, steps in enumerate(ranges)
        ]
    )


mgrid = _MeshGrid()


class Mask:
    """Which positions of a tile take part: all `conditions` are >= 0, and `dense` holds where there is one."""

    __slots__ = ("conditions", "dense", "shape")
    __array_ufunc__ = None

    def __init__(
        self, shape: tuple[int, ...], conditions: tuple[Index, ...] = (), dense: BoolArray | None = None
    ) -> None:
        self.shape = shape
        self.conditions = conditions
        self.dense = dense

    def __repr__(self) -> str:
        return f"Mask(shape={self.shape}, conditions={self.conditions}, dense={self.dense is not None})"

    def __bool__(self) -> bool:
        raise TypeError("a mask has no truth value: join masks with &, | and ~")

    def __and__(self, other: Any) -> Any:
        if isinstance(other, (bool, np.bool_)):
            return self if other else Mask(self.shape, dense=np.zeros(self.shape, np.bool_))
        if isinstance(other, np.ndarray):
            other = Mask(other.shape, dense=other.astype(np.bool_))
        if not isinstance(other, Mask):
            return NotImplemented
        dense = self.dense if other.dense is None else other.dense
        if self.dense is not None and other.dense is not None:
            dense = self.dense & other.dense
        return Mask(broadcast_shapes(self.shape, other.shape), self.conditions + other.conditions, dense)

    __rand__ = __and__

    def __or__(self, other: Any) -> Any:
        if isinstance(other, (bool, np.bool_)):
            return Mask(self.shape) if other else self
        values = other.array() if isinstance(other, Mask) else other
        if not isinstance(values, np.ndarray):
            return NotImplemented
        joined = self.array() | values
        return Mask(joined.shape, dense=joined)

    __ror__ = __or__

    def __invert__(self) -> Mask:
        if self.dense is None and len(self.conditions) == 1:
            return Mask(self.shape, (-self.conditions[0] - 1,))
        return Mask(self.shape, dense=~self.array())

    def array(self, shape: Sequence[int] | None = None) -> BoolArray:
        """True where a position takes part, broadcast to `shape` (by default the mask's own)."""
        values = np.ones(self.shape, np.bool_)
        for condition in self.conditions:
            values &= condition.array() >= 0
        if self.dense is not None:
            values &= self.dense
        return values if shape is None else np.broadcast_to(values, shape)

    def box(self, shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """The smallest start and stop per axis of a tile of `shape` outside which no position takes part."""
        ranges = [[0, size] for size in shape]
        for _ in range(2 if len(self.conditions) > 1 else 1):
            for condition in self.conditions:
                _shrink(ranges, condition)
        if self.dense is not None:
            _shrink_dense(ranges, self.dense)
        if any(start >= stop for start, stop in ranges):
            return tuple((0, 0) for _ in shape)
        return tuple((start, stop) for start, stop in ranges)

    def fills_box(self) -> bool:
        """Whether every position of `box` takes part: each condition constrains one axis alone."""
        return self.dense is None and all(sum(map(bool, c.coefficients)) <= 1 for c in self.conditions)


def _shrink(ranges: list[list[int]], condition: Index) -> None:
    """Narrow `ranges` to where `condition` can be >= 0, one axis at a time."""
    first = len(ranges) - len(condition.coefficients)
    terms = [(axis + first, c) for axis, c in enumerate(condition.coefficients) if c and condition.shape[axis] > 1]
    best = condition.const + sum(c * (ranges[axis][1] - 1 if c > 0 else ranges[axis][0]) for axis, c in terms)
    if best < 0:
        for bounds in ranges:
            bounds[1] = bounds[0]
        return
    for axis, coefficient in terms:
        start, stop = ranges[axis]
        if coefficient > 0:
            ranges[axis][0] = max(start, stop - 1 - best // coefficient)
        else:
            ranges[axis][1] = min(stop, start + best // -coefficient + 1)


def _shrink_dense(ranges: list[list[int]], dense: BoolArray) -> None:
    """Narrow `ranges` to where `dense`, broadcast to the tile, is true."""
    if not dense.any():
        for bounds in ranges:
            bounds[1] = bounds[0]
        return
    first = len(ranges) - dense.ndim
    for axis, size in enumerate(dense.shape):
        if size > 1:
            active = np.flatnonzero(dense.any(axis=tuple(i for i in range(dense.ndim) if i != axis)))
            bounds = ranges[axis + first]
            bounds[0], bounds[1] = max(bounds[0], int(active[0])), min(bounds[1], int(active[-1]) + 1)


def _at_least(left: Any, right: Any, margin: int) -> Any:
    """The mask `left - right >= margin`."""
    if type(left) is Index and type(right) is int:
        return Mask(left.shape, (Index(left.shape, left.const - right - margin, left.coefficients),))
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        values = _plain(left) - _plain(right) >= margin
        return Mask(values.shape, dense=values)
    if not isinstance(left, (Index, int, np.integer)) or not isinstance(right, (Index, int, np.integer)):
        return NotImplemented
    condition: Index = left - right - margin  # type: ignore[assignment]
    return Mask(condition.shape, (condition,))
