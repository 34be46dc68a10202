"""Tensors of a kernel and their views.

A view is an offset and a stride per axis, in elements, over the memory as it lies: block dimensions, then partitions,
then the free dimensions. It touches a NumPy array only when values are computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.simulate.neuroncore.program import Space
from npuscope.simulate.nki import access
from npuscope.simulate.nki import trace as tracing
from npuscope.simulate.nki.dtypes import Dtype, as_dtype
from npuscope.simulate.nki.geometry import Geometry, geometry_of, whole_of
from npuscope.simulate.nki.index import Grid, Mask
from npuscope.simulate.nki.operators import add_operators, operate, operations
from npuscope.simulate.nki.plans import plan_of
from npuscope.simulate.nki.storage import NOTHING, Storage, check_size
from npuscope.simulate.nki.subscripts import Bound, Term, keep_partitions, subscript
from npuscope.simulate.nki.trace import KernelError

Array = npt.NDArray[Any]


class Tensor:
    """A tensor in HBM, a tile on the chip, or a view of either."""

    __slots__ = ("bounds", "dtype", "geometry", "offset", "par", "shape", "storage", "strides", "terms")
    __array_ufunc__ = None
    __hash__ = object.__hash__

    def __init__(
        self,
        storage: Storage,
        dtype: Dtype,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        offset: int = 0,
        par: int = 0,
        terms: tuple[Term, ...] = (),
        bounds: tuple[Bound, ...] = (),
    ) -> None:
        self.storage = storage
        self.dtype = dtype
        self.shape = shape
        self.strides = strides
        """Elements of memory per step of each axis; 0 where the view repeats."""
        self.offset = offset
        self.par = par
        """Axis of the partitions; those before it are block dimensions."""
        self.terms = terms
        """Indirect indices; the strides hold for the rest."""
        self.bounds = bounds
        """Axes that the view leaves unless a mask keeps it inside."""
        self.geometry = geometry_of(shape, strides, par, dtype, storage.space, storage.geometry.memory)

    def __repr__(self) -> str:
        return f"Tensor({self.storage.space.name} {list(self.shape)} {self.dtype.name} {self.storage.name!r})"

    @property
    def space(self) -> Space:
        """Memory that it lies in."""
        return self.storage.space

    @property
    def buffer(self) -> Space:
        """The same, by NKI's name."""
        return self.storage.space

    @property
    def name(self) -> str:
        """Name of the allocation, or the line that made it."""
        return self.storage.root.name

    @property
    def ndim(self) -> int:
        """Axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Elements in all."""
        return self.geometry.size

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return int(self.dtype.itemsize)

    @property
    def partitions(self) -> int:
        """Rows along the axis of partitions."""
        return self.shape[self.par] if self.shape else 1

    @property
    def elements(self) -> int:
        """Elements per partition, of one block."""
        return self.geometry.elements

    @property
    def is_indirect(self) -> bool:
        """Whether a tile, known only when the kernel runs, says which elements it has."""
        return any(isinstance(term.index, Tensor) for term in self.terms)

    @property
    def indices(self) -> tuple[Tensor, ...]:
        """The tiles that an access reads its addresses from."""
        return tuple(term.index for term in self.terms if isinstance(term.index, Tensor))

    @property
    def contiguous(self) -> bool:
        """Whether the innermost stride is one element."""
        return self.geometry.contiguous

    @property
    def is_whole(self) -> bool:
        """Whether it covers all memory of its allocation, in order."""
        return not self.offset and not self.terms and self.geometry.is_full

    @property
    def writer(self) -> int:
        """Number of the instruction that wrote it, as long as it is fresh: nothing has read it; NOTHING or else -1."""
        number = self.storage.root.writer
        return number if number != -1 and self.is_whole else -1

    @writer.setter
    def writer(self, number: int) -> None:
        self.storage.root.writer = number

    def __iter__(self) -> Iterator[Any]:
        raise KernelError(
            "a tensor cannot be iterated over; loop over indices, for i in nl.affine_range(n), and take [i]"
        )

    boxes = access.boxes

    def runs(self, max_bytes: int = 0) -> tuple[int, int]:
        """Contiguous pieces in memory and the bytes of each, at most `max_bytes` where that is not 0."""
        return access.runs(self, max_bytes)

    def masked(self, mask: Any) -> Tensor:
        """The smallest view that holds all positions at which `mask` (None: all) is true."""
        return access.masked(self, mask)

    def value(self, mask: Any = None) -> Array:
        """Values of the view, an array of `shape` that must not be written to; 0 where `mask` is false."""
        return access.value(self, mask)

    def assign(self, values: Any, mask: Any = None) -> None:
        """Store `values`, broadcast to `shape` and cast to `dtype`, where `mask` is true."""
        access.assign(self, values, mask)

    def __getitem__(self, key: Any) -> Tensor:
        if self.terms or self.bounds:
            return access.nested(self, key)
        geometry = self.geometry
        if key is Ellipsis and len(geometry.shape) > 1:
            return self
        planned = plan_of(geometry, key if type(key) is tuple or type(key) is Grid else (key,))
        if planned is None:
            return self._select(key)
        plan, offset = planned
        found = plan.geometry
        if found is None:
            found = plan.geometry = self._select(plan.example).geometry
        return view_at(self.storage, found, self.offset + offset)

    def _select(self, key: Any) -> Tensor:
        """`self[key]` for any key."""
        is_tile = self.storage.space is not Space.HBM
        if is_tile:
            key = keep_partitions(self.shape, self.par, key)
        offset, shape, strides, terms, bounds, par = subscript(self.shape, self.strides, self.offset, self.par, key)
        if is_tile and len(shape) < 2:
            # A tile has partitions and a free dimension, whatever integers leave of it.
            shape, strides = (shape or (1,)) + (1,), (strides or (1,)) + (1,)
            bounds = tuple([bound._replace(coefficients=(*bound.coefficients, 0)) for bound in bounds])
        return Tensor(self.storage, self.dtype, shape, strides, offset, par, terms, bounds)

    def __setitem__(self, key: Any, value: Any) -> None:
        target = self[key]
        if type(value) is not Tensor or not take_over(target, value):
            store(target, value)

    def __len__(self) -> int:
        return self.shape[0]

    def __bool__(self) -> bool:
        return bool(self._scalar())

    def __int__(self) -> int:
        return int(self._scalar())

    def __float__(self) -> float:
        return float(self._scalar())

    def _scalar(self) -> Any:
        """The value, for Python's own control flow."""
        if self.size != 1:
            raise KernelError(
                f"a tensor of shape {list(self.shape)} has no truth value; Python control flow needs one number"
            )
        if not tracing.current().compute:
            raise KernelError("Python control flow depends on a tensor's value, and no values are computed")
        return self.value().reshape(())[()]

    def reshape(self, shape: Any, *more: Any) -> Tensor:
        """The same elements in another shape; the axis of partitions stays."""
        return access.reshape(self, (shape, *more) if more else shape)

    def broadcast_to(self, shape: Any, *more: Any) -> Tensor:
        """A view that repeats axes of size 1; a dialect may have one partition spread over many by instructions."""
        sizes = (shape, *more) if more or isinstance(shape, int) else tuple(shape)
        spread = operations.get("spread")
        if spread is not None and self.storage.space is not Space.HBM and type(self) is Tensor and self.shape != sizes:
            spread_view: Tensor = spread(self, sizes)
            return spread_view
        return access.broadcast_to(self, sizes)

    def expand_dims(self, axis: int) -> Tensor:
        """A view with a new axis of size 1 before `axis`."""
        axis = axis if axis >= 0 else axis + self.ndim + 1
        key: tuple[Any, ...] = (*[slice(None)] * axis, None)
        return self[key]

    def view(self, dtype: Any) -> Tensor:
        """The same bytes as another type; the last axis changes its size with the type's."""
        return access.reinterpret(self, as_dtype(dtype))

    def astype(self, dtype: Any, **options: Any) -> Any:
        """A copy, cast to `dtype`."""
        return operate("astype", self, as_dtype(dtype))


_new_tensor = object.__new__


def view_at(storage: Storage, geometry: Geometry, offset: int) -> Tensor:
    """A view without indirect indices that stays inside its tensor, of a geometry that is known already."""
    view = _new_tensor(Tensor)
    view.storage = storage
    view.geometry = geometry
    view.offset = offset
    view.dtype = geometry.dtype
    view.shape = geometry.shape
    view.strides = geometry.strides
    view.par = geometry.par
    view.terms = view.bounds = ()
    return view


def store(target: Tensor, value: Any) -> None:
    """`target[...] = value`: what wrote a fresh `value` is made to write `target` instead, else it is a copy."""
    if isinstance(value, Tensor):
        if value is target or (value.storage is target.storage and _same_view(value, target)):
            return
        if not take_over(target, value):
            operate("copy", target, value)
    else:
        operate("fill", target, value)


def _same_view(left: Tensor, right: Tensor) -> bool:
    return left.offset == right.offset and left.shape == right.shape and left.strides == right.strides


def take_over(target: Tensor, value: Tensor, *, accumulates: bool = False) -> bool:
    """Let the instruction that wrote `value` write `target`; False where that cannot be.

    Args:
        target: One box on the chip.
        value: A fresh tensor of the same size.
        accumulates: It adds to `target`, in PSUM.
    """
    source = value.storage.owner or value.storage
    number = source.writer
    if number == -1 or value.offset or value.terms or not value.geometry.is_full:
        return False
    if number == NOTHING:
        return True
    goal = target.storage.owner or target.storage
    mask, geometry = source.mask, target.geometry
    if mask is not None and target.shape != value.shape:
        return False
    if goal.space is Space.HBM or geometry.size != value.geometry.size or target.terms:
        return False
    if source.space is Space.PSUM and goal.space is not Space.PSUM:
        return False
    found = (target if mask is None else target.masked(mask)).boxes()
    if len(found) != 1:
        return False
    trace = tracing.current()
    trace.builder.retarget(number, found[0], accumulates=accumulates, out_dtype=geometry.type_name)
    if trace.compute:
        values = value.value().reshape(target.shape)
        target.assign(np.add(target.value(), values, dtype=np.float32) if accumulates else values, mask)
    source.writer = -1
    source.alias = found if mask is None else None
    is_whole = not target.offset and geometry.is_full
    goal.writer = number if mask is None and not accumulates and is_whole else -1
    return True


def accumulate(target: Tensor, value: Any) -> Tensor:
    """`target += value`: a fresh product of the tensor engine is summed inside PSUM, all else is an addition."""
    if not isinstance(value, Tensor):
        store(target, operate("add", target, value))
        return target
    if value.storage.writer == NOTHING and value.writer == NOTHING:
        return target
    if target.storage.space is Space.PSUM and value.storage.space is Space.PSUM:
        summed = (target.storage.owner or target.storage).summed
        key = (target.offset, target.shape, target.strides)
        is_first = summed is not None and key not in summed
        if take_over(target, value, accumulates=not is_first):
            if summed is not None:
                summed.add(key)
            return target
    store(target, operate("add", target, value))
    return target


add_operators(Tensor, store, accumulate)


def new_tile(
    shape: tuple[int, ...],
    dtype: Any,
    space: Space,
    *,
    name: str = "",
    site: Any = None,
    par: int = 0,
    is_zeroed: bool = False,
) -> Tensor:
    """A new tensor on the chip, one logical tile per block.

    Args:
        shape: Block dimensions, partitions, free dimensions.
        dtype: Element type, or its name.
        space: SBUF, PSUM or REGISTER.
        name: As the kernel calls it; by default the line it is made at.
        site: Stands for the place of allocation; by default the kernel's line and the shape.
        par: Axis of the partitions.
        is_zeroed: PSUM that `+=` may sum into; the first sum simply writes.
    """
    line = tracing.current_line(2) if site is None or not name else ""
    geometry = whole_of(shape, as_dtype(dtype), space, par)
    storage = Storage(geometry, name or line, (line, shape) if site is None else site)
    if is_zeroed:
        storage.summed = set()
    return view_at(storage, geometry, 0)


def hbm_tensor(array_or_shape: Any, dtype: Any = None, name: str = "", *, is_external: bool = False) -> Tensor:
    """A tensor in HBM: with an array's shape, type and values, or with `shape` and `dtype` alone.

    The array is copied: the kernel may write to it.
    """
    if isinstance(array_or_shape, np.ndarray):
        array = array_or_shape
        element = as_dtype(array.dtype if dtype is None else dtype)
        geometry = whole_of(array.shape, element, Space.HBM, 0)
        storage = Storage(geometry, name, None)
        storage.data = np.array(array, dtype=element, order="C").reshape(-1).view(np.uint8)
    else:
        geometry = whole_of(tuple(int(size) for size in array_or_shape), as_dtype(dtype), Space.HBM, 0)
        check_size(geometry)
        storage = Storage(geometry, name, None)
    storage.is_external = is_external
    return view_at(storage, geometry, 0)


__all__ = [
    "Array",
    "Mask",
    "Tensor",
    "accumulate",
    "hbm_tensor",
    "new_tile",
    "store",
    "take_over",
]
