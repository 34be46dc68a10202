"""`NkiTensor`: a tensor as the current dialect sees it, with views by method and raw access patterns.

It differs from the classic dialect in its subscripts: a tile on the chip keeps its axis of partitions and at least two
axes, there are no index expressions or masks, and what leaves the tensor is an error at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, cast

from npuscope.simulate.neuroncore.program import Space
from npuscope.simulate.nki import access
from npuscope.simulate.nki.current_registers import address_of
from npuscope.simulate.nki.current_views import (
    Layout,
    check_direct,
    check_extent,
    moved,
    position,
    scalar_term,
    subscript,
    vector_term,
)
from npuscope.simulate.nki.dtypes import as_dtype
from npuscope.simulate.nki.geometry import row_major
from npuscope.simulate.nki.storage import Storage
from npuscope.simulate.nki.subscripts import Term
from npuscope.simulate.nki.tensors import Tensor
from npuscope.simulate.nki.trace import KernelError, current, is_tracing

_ALL = slice(None)
_SHARED = "current.shared"
"""Key of `Trace.state`: identities of the HBM allocations that all cores see."""


class MemoryRegion(Enum):
    """Where a kernel asks for a tensor to lie."""

    sbuf = "sbuf"
    psum = "psum"
    private_hbm = "private_hbm"
    shared_hbm = "shared_hbm"


SPACES = {
    MemoryRegion.sbuf: Space.SBUF,
    MemoryRegion.psum: Space.PSUM,
    MemoryRegion.private_hbm: Space.HBM,
    MemoryRegion.shared_hbm: Space.HBM,
}
_REGIONS = {
    Space.SBUF: MemoryRegion.sbuf,
    Space.PSUM: MemoryRegion.psum,
    Space.HBM: MemoryRegion.private_hbm,
    Space.REGISTER: MemoryRegion.sbuf,
}


class _Answer(int):
    """A truth value that is read as an attribute by the parts both dialects share, and called by kernels."""

    def __call__(self) -> bool:
        return bool(self)


def _shared() -> set[int]:
    found: set[int] = current().state.setdefault(_SHARED, set())
    return found


def mark_shared(storage: Storage) -> None:
    """Remember that all cores see `storage`."""
    _shared().add(id(storage))


class NkiTensor(Tensor):
    """A tensor in HBM, a tile on the chip, or a view of either."""

    __slots__ = ()

    @property
    def buffer(self) -> MemoryRegion:  # type: ignore[override]
        """The region that it was allocated in; arguments of a kernel lie in private HBM."""
        if self.storage.space is Space.HBM and is_tracing() and id(self.storage.root) in _shared():
            return MemoryRegion.shared_hbm
        return _REGIONS[self.storage.space]

    @property
    def is_indirect(self) -> Any:
        """Whether an address is known only when the kernel runs; `is_indirect` and `is_indirect()` are the same."""
        return _Answer(bool(self.terms))

    def is_contiguous(self) -> bool:
        """Whether it lies in one piece, or in one piece per partition on the chip."""
        piece = 1
        for axis in range(len(self.shape) - 1, 0 if self.storage.space is not Space.HBM else -1, -1):
            if self.shape[axis] > 1 and self.strides[axis] != piece:
                return False
            piece *= self.shape[axis]
        return True

    def get_pattern(self) -> list[list[int]]:
        """Stride and count of each axis, in elements, as `ap` takes them."""
        return [[stride, size] for stride, size in zip(self.strides, self.shape, strict=True)]

    def __getitem__(self, key: Any) -> NkiTensor:
        offset, shape, strides, terms = subscript(self, key)
        return NkiTensor(self.storage, self.dtype, shape, strides, offset, 0, terms)

    def slice(self, dim: int, start: int, end: int, step: int = 1) -> NkiTensor:
        """Positions `start`, `start + step`, ... below `end` of one axis."""
        dim = self._axis(dim, "slice")
        if not 0 <= start < end <= self.shape[dim] or step < 1:
            raise KernelError(f"slice: {start}:{end}:{step} of an axis of {self.shape[dim]} positions")
        key = (*[_ALL] * dim, slice(start, end, step))
        return self[key]

    def select(self, dim: int, index: Any) -> NkiTensor:
        """One position of an axis, which goes; a tile or a register gives it while the kernel runs."""
        dim = self._axis(dim, "select")
        if isinstance(index, Tensor):
            self._check_dynamic("select")
            terms: tuple[Term, ...] = (scalar_term(index, self.strides[dim], self.shape[dim]),)
        else:
            terms = self.terms
            check_direct(terms, dim)
        if self.storage.space is not Space.HBM and dim == 0:
            raise KernelError("select: the axis of partitions (0) cannot be selected away")
        start = 0 if isinstance(index, Tensor) else position(index, self.shape[dim], dim)
        axes = [axis for axis in range(len(self.shape)) if axis != dim]
        return self._with(axes, offset=self.offset + start * self.strides[dim], terms=moved(terms, axes))

    def vector_select(self, dim: int, vector_offset: Tensor) -> NkiTensor:
        """Row `vector_offset[p]` for each partition p: shape [P, the other axes]."""
        if dim != 0 or self.storage.space is not Space.HBM:
            raise KernelError("vector_select: works along axis 0 of a tensor in HBM")
        self._check_dynamic("vector_select")
        rows = vector_offset.shape[0]
        term = Term(vector_offset, self.strides[0], self.shape[0], 0, (rows, *(1,) * (len(self.shape) - 1)))
        shape, strides = (rows, *self.shape[1:]), (0, *self.strides[1:])
        return NkiTensor(self.storage, self.dtype, shape, strides, self.offset, 0, (term,))

    def ap(
        self,
        pattern: Sequence[Sequence[int]],
        offset: int | None = None,
        scalar_offset: Any = None,
        vector_offset: Tensor | None = None,
        indirect_dim: int = 0,
        dtype: Any = None,
    ) -> NkiTensor:
        """A raw access pattern over the memory beneath, whatever view it is called on.

        Args:
            pattern: (stride, count) per axis, in elements of `dtype`, the partitions first.
            offset: First element; by default where this view begins.
            scalar_offset: A tile of one element or a register: added along `indirect_dim` while the kernel runs.
            vector_offset: A tile [P, n] of row numbers: partition p reads row `vector_offset[p]`.
            indirect_dim: Axis of this view whose stride the dynamic offset counts in.
            dtype: Reads the bytes as another type.
        """
        if scalar_offset is not None and vector_offset is not None:
            raise KernelError("ap: takes a scalar_offset or a vector_offset, not both")
        element = self.dtype if dtype is None else as_dtype(dtype)
        storage, stride, factor = self.storage, 0, (self.dtype.itemsize, element.itemsize)
        if factor[0] != factor[1]:
            whole = NkiTensor(storage, self.dtype, storage.shape, row_major(storage.shape))
            storage = access.reinterpret(whole, element).storage
        start = self.offset * factor[0] // factor[1] if offset is None else int(offset)
        strides, shape = [int(step) for step, _ in pattern], [int(count) for _, count in pattern]
        if scalar_offset is not None or vector_offset is not None:
            stride = self.strides[self._axis(indirect_dim, "ap")] * factor[0] // factor[1]
        if storage.space is not Space.HBM and shape[0] > 1 and strides[0] != storage.row_elements:
            raise KernelError(
                f"ap: the partition stride is {strides[0]}; a tile of {storage.row_elements} elements per partition"
                f" needs {storage.row_elements}"
            )
        terms: tuple[Term, ...] = ()
        limit = self.shape[indirect_dim] if stride else 0
        if isinstance(scalar_offset, Tensor):
            terms = (scalar_term(scalar_offset, stride, limit),)
        elif scalar_offset is not None:
            start += address_of(scalar_offset) * stride
        elif vector_offset is not None:
            strides[0] = 0
            terms = (vector_term(vector_offset, stride, limit, shape),)
        check_extent(storage, Layout(start, tuple(shape), tuple(strides), terms))
        return NkiTensor(storage, element, tuple(shape), tuple(strides), start, 0, terms)

    def permute(self, dims: Sequence[int]) -> NkiTensor:
        """The axes in another order."""
        axes = [int(dim) for dim in dims]
        if sorted(axes) != list(range(len(self.shape))):
            raise KernelError(f"permute: {tuple(axes)} is no order of {len(self.shape)} axes")
        if axes[0] != 0 and (self.storage.space is not Space.HBM or self.terms):
            raise KernelError("permute: the axis of partitions (0) stays first")
        return self._with(axes)

    def broadcast(self, dim: int, size: int) -> NkiTensor:
        """An axis of size 1 repeated `size` times."""
        dim = self._axis(dim, "broadcast", free=True)
        if self.shape[dim] != 1:
            raise KernelError(f"broadcast: axis {dim} has {self.shape[dim]} positions, not 1")
        shape = (*self.shape[:dim], int(size), *self.shape[dim + 1 :])
        strides = (*self.strides[:dim], 0, *self.strides[dim + 1 :])
        return NkiTensor(self.storage, self.dtype, shape, strides, self.offset, 0, self.terms)

    def expand_dim(self, dim: int) -> NkiTensor:
        """A new axis of size 1 at `dim`."""
        if dim == 0 and (self.storage.space is not Space.HBM or self.terms):
            raise KernelError("expand_dim: nothing comes before the axis of partitions (0)")
        axes: list[int] = list(range(len(self.shape)))
        axes.insert(dim if dim >= 0 else dim + len(axes) + 1, -1)
        return self._with(axes)

    def squeeze_dim(self, dim: int) -> NkiTensor:
        """Without an axis of size 1."""
        dim = self._axis(dim, "squeeze_dim", free=True)
        if self.shape[dim] != 1:
            raise KernelError(f"squeeze_dim: axis {dim} has {self.shape[dim]} positions, not 1")
        return self._with([axis for axis in range(len(self.shape)) if axis != dim])

    def reshape_dim(self, dim: int, shape: Sequence[int]) -> NkiTensor:
        """One axis split into several; one size may be -1."""
        dim = self._axis(dim, "reshape_dim")
        sizes = [int(size) for size in shape]
        if -1 in sizes:
            sizes[sizes.index(-1)] = self.shape[dim] // max(1, -math.prod(sizes))
        if math.prod(sizes) != self.shape[dim]:
            raise KernelError(f"reshape_dim: an axis of {self.shape[dim]} positions cannot become {tuple(shape)}")
        if dim == 0 and len(sizes) != 1 and (self.storage.space is not Space.HBM or self.terms):
            raise KernelError("reshape_dim: the axis of partitions (0) cannot be split")
        steps = [step * self.strides[dim] for step in row_major(tuple(sizes))]
        new_shape = (*self.shape[:dim], *sizes, *self.shape[dim + 1 :])
        strides = (*self.strides[:dim], *steps, *self.strides[dim + 1 :])
        return NkiTensor(self.storage, self.dtype, new_shape, strides, self.offset, 0, self.terms)

    def flatten_dims(self, start_dim: int, end_dim: int) -> NkiTensor:
        """Axes `start_dim` to `end_dim`, both included, as one."""
        first, last = self._axis(start_dim, "flatten_dims", free=True), self._axis(end_dim, "flatten_dims")
        for axis in range(first, last):
            if self.strides[axis] != self.strides[axis + 1] * self.shape[axis + 1]:
                raise KernelError(f"flatten_dims: axes {first} to {last} do not lie in one piece")
        shape = (*self.shape[:first], math.prod(self.shape[first : last + 1]), *self.shape[last + 1 :])
        strides = (*self.strides[:first], self.strides[last], *self.strides[last + 1 :])
        return NkiTensor(self.storage, self.dtype, shape, strides, self.offset, 0, self.terms)

    def reshape(self, *shape: Any) -> NkiTensor:
        """The same elements in another shape; partitions stay partitions."""
        sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        if self.storage.space is not Space.HBM and int(sizes[0]) not in (self.shape[0], -1):
            raise KernelError(f"reshape: {self.shape[0]} partitions cannot become {sizes[0]} without a copy")
        return _adopted(access.reshape(self, tuple(sizes)))

    def rearrange(
        self, src_pattern: Sequence[Any], dst_pattern: Sequence[Any], fixed_sizes: Mapping[str, int] | None = None
    ) -> NkiTensor:
        """Axes split, reordered and merged by name: `(("b", ("h", "w")), ("b", "w", "h"), {"h": 4})`."""
        sizes, view = dict(fixed_sizes or {}), self
        names: list[str] = []
        for item in src_pattern:
            group = (item,) if isinstance(item, str) else tuple(item)
            parts = [sizes.get(name, -1) for name in group]
            if len(group) > 1:
                view = view.reshape_dim(len(names), parts)
            names.extend(group)
        wanted = [name for item in dst_pattern for name in ((item,) if isinstance(item, str) else item)]
        if sorted(wanted) != sorted(names):
            raise KernelError(f"rearrange: {tuple(wanted)} does not name the axes {tuple(names)}")
        view = view.permute([names.index(name) for name in wanted])
        for place, item in enumerate(dst_pattern):
            if not isinstance(item, str) and len(item) > 1:
                view = view.flatten_dims(place, place + len(item) - 1)
        return view

    def view(self, dtype: Any) -> NkiTensor:
        """The same bytes as another type; the last axis changes its size with the type's."""
        return _adopted(access.reinterpret(self, as_dtype(dtype)))

    def reinterpret_cast(self, dtype: Any) -> NkiTensor:
        """Another name of `view`."""
        return self.view(dtype)

    def indirect(self, index: Any, num_elem: int | None = None) -> NkiTensor:
        """Tensor indirection of NeuronCore-v4: not supported.

        Raises:
            KernelError: Always.
        """
        raise KernelError("NkiTensor.indirect is not supported by the simulator")

    indirect.is_unsupported = True  # type: ignore[attr-defined]

    def _axis(self, dim: int, method: str, *, free: bool = False) -> int:
        """`dim` counted from the front; not the partitions where `free` is asked for."""
        rank = len(self.shape)
        axis = dim + rank if dim < 0 else dim
        if not 0 <= axis < rank:
            raise KernelError(f"{method}: there is no axis {dim} in a tensor of {rank}")
        if free and axis == 0 and (self.storage.space is not Space.HBM or self.terms):
            raise KernelError(f"{method}: not for the axis of partitions (0)")
        return axis

    def _check_dynamic(self, method: str) -> None:
        if self.terms:
            raise KernelError(f"{method}: a view has one dynamic index at most")

    def _with(self, axes: Sequence[int], **changes: Any) -> NkiTensor:
        """A view with the given axes, where -1 is a new one of size 1."""
        shape = tuple([self.shape[axis] if axis >= 0 else 1 for axis in axes])
        strides = tuple([self.strides[axis] if axis >= 0 else 0 for axis in axes])
        terms = changes.get("terms", self.terms)
        return NkiTensor(self.storage, self.dtype, shape, strides, changes.get("offset", self.offset), 0, terms)


def _adopted(tensor: Tensor) -> NkiTensor:
    tensor.__class__ = NkiTensor
    return cast("NkiTensor", tensor)


def as_nki(value: Any) -> Any:
    """`value` as the current dialect sees it: tensors, and those in tuples, lists and dictionaries."""
    if type(value) is Tensor:
        return _adopted(value)
    if isinstance(value, tuple):
        return tuple(as_nki(item) for item in value)
    if isinstance(value, list):
        return [as_nki(item) for item in value]
    if isinstance(value, dict):
        return {key: as_nki(item) for key, item in value.items()}
    return value
