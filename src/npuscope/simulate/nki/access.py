"""What a view of a tensor touches: boxes of memory, contiguous pieces for DMA, and values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from npuscope.simulate.neuroncore.program import Box, Space
from npuscope.simulate.nki.dtypes import Dtype
from npuscope.simulate.nki.geometry import whole_of
from npuscope.simulate.nki.index import Index, IntArray, Mask
from npuscope.simulate.nki.numerics import cast_to
from npuscope.simulate.nki.storage import Storage
from npuscope.simulate.nki.subscripts import Bound, Term
from npuscope.simulate.nki.trace import KernelError

if TYPE_CHECKING:
    from npuscope.simulate.nki.tensors import Tensor

Array = npt.NDArray[Any]
_new_box = tuple.__new__
"""Without the detour of a named tuple's own constructor, which takes three times as long."""
_SPACE_NAMES = {Space.HBM: "HBM tensor", Space.SBUF: "SBUF tile", Space.PSUM: "PSUM tile", Space.REGISTER: "register"}


def boxes(view: Tensor) -> tuple[Box, ...]:
    """The smallest boxes around what `view` touches, one per block; the memory ends being fresh."""
    storage = view.storage
    root = storage.owner or storage
    root.writer = -1
    if root.alias is not None:
        return root.alias
    if view.bounds:
        check_bounds(view)
    geometry = view.geometry
    if view.terms:
        reach = geometry.reach(view.offset)
        return () if reach is None else _term_boxes(view, reach[:4])
    pieces = geometry.pieces.get(view.offset)
    if pieces is None:
        pieces = geometry.find_pieces(view.offset)
    if len(pieces) == 1:
        ((block, row, row_stop, byte, byte_stop),) = pieces
        number = root.tiles.get(block)
        if number is None:
            number = root.tile(block)
        return (_new_box(Box, (number, row, row_stop, byte, byte_stop)),)
    return tuple([_box(root, *piece) for piece in pieces])


def _box(root: Storage, block: int, row: int, row_stop: int, byte: int, byte_stop: int) -> Box:
    return Box(root.tile(block), row, row_stop, byte, byte_stop)


def _term_boxes(view: Tensor, spans: tuple[int, int, int, int]) -> tuple[Box, ...]:
    """Boxes of an indirect access: exact where the indices are known, else the axis in full."""
    storage = view.storage
    row_low, row_high, low, high = spans
    for term in view.terms:
        least, most = 0, term.size - 1
        if isinstance(term.index, np.ndarray) and term.index.size:
            least, most = int(term.index.min()), int(term.index.max())
        rows, columns = divmod(term.stride, storage.row_elements)
        row_low, row_high = row_low + least * rows, row_high + most * rows
        low, high = low + least * columns, high + most * columns
    if high >= storage.row_elements:
        row_high += high // storage.row_elements
        low, high = 0, storage.row_elements - 1
    itemsize = view.dtype.itemsize
    first, last = row_low // storage.rows, min(row_high // storage.rows, storage.blocks - 1)
    if first == last:
        base = first * storage.rows
        stop = min(row_high + 1 - base, storage.rows)
        return (_box(storage.root, first, row_low - base, stop, low * itemsize, (high + 1) * itemsize),)
    return tuple(
        [_box(storage.root, n, 0, storage.rows, low * itemsize, (high + 1) * itemsize) for n in range(first, last + 1)]
    )


def check_bounds(view: Tensor) -> None:
    """Raise where the view leaves its tensor.

    Raises:
        KernelError: It does.
    """
    for bound in view.bounds:
        low, high = _extent(bound, view.shape)
        if low < 0 or high >= bound.size:
            _raise_outside(view, bound, low, high)


def _extent(bound: Bound, shape: tuple[int, ...]) -> tuple[int, int]:
    if 0 in shape:
        return 0, 0
    return Index(shape, bound.const, bound.coefficients).extent()


def _raise_outside(view: Tensor, bound: Bound, low: int, high: int) -> None:
    what = _SPACE_NAMES[view.storage.space]
    name = f" {view.name!r}" if view.name and view.storage.space is Space.HBM else ""
    reached = f"{low}" if low < 0 else f"{high}"
    raise KernelError(
        f"access out of bounds: {what}{name} of shape {list(view.storage.shape)} has {bound.size} positions along an"
        f" axis that is indexed up to {reached}; a mask must keep the access inside"
    )


def runs(view: Tensor, max_bytes: int = 0) -> tuple[int, int]:
    """Contiguous pieces of memory, and the bytes of each.

    Args:
        view: The side whose strides decide.
        max_bytes: No piece is longer: bytes of one partition's row on the other side. By default a piece ends with
            each step of the first axis, on the chip and in HBM.
    """
    total = math.prod(view.shape)
    if not total:
        return 0, 0
    indirect = {term.position + axis for term in view.terms for axis, size in enumerate(term.shape) if size > 1}
    piece = 1
    first = 1 if not max_bytes or view.storage.space is not Space.HBM else 0
    for axis in range(len(view.shape) - 1, first - 1, -1):
        size = view.shape[axis]
        if size > 1:
            if view.strides[axis] != piece or axis in indirect:
                break
            piece *= size
    if max_bytes:
        piece = max(1, math.gcd(piece, max_bytes // view.dtype.itemsize))
    return total // piece, piece * view.dtype.itemsize


def masked(view: Tensor, mask: Any) -> Tensor:
    """The smallest view that holds all positions of `view` where `mask` is true, inside its tensor.

    Raises:
        KernelError: The mask lets the access leave the tensor.
    """
    if mask is None or mask is True:
        if view.bounds:
            check_bounds(view)
        return view
    mask = as_mask(mask)
    box = mask.box(view.shape)
    if not view.terms and not view.bounds:
        shape, offset = view.shape, view.offset
        sizes = tuple([stop - start for start, stop in box])
        if sizes == shape:
            return view
        for (start, _), stride in zip(box, view.strides, strict=True):
            offset += start * stride
        return type(view)(view.storage, view.dtype, sizes, view.strides, offset, view.par)
    small = _cut(view, box)
    if not small.bounds:
        return small
    outside = [bound for bound in small.bounds if not _is_inside(bound, small.shape)]
    if outside and not mask.fills_box():
        active = mask.array(view.shape)[tuple(slice(*bounds) for bounds in box)]
        outside = [bound for bound in outside if not _is_inside_where(bound, small.shape, active)]
    for bound in outside:
        _raise_outside(small, bound, *_extent(bound, small.shape))
    return _with(small, bounds=())


def as_mask(mask: Any) -> Mask:
    """A mask as such: an array of booleans, `True` and `False` are masks, too."""
    if isinstance(mask, Mask):
        return mask
    if isinstance(mask, (bool, np.bool_)):
        return Mask((1,), dense=np.array([mask]))
    values = np.asarray(mask, dtype=np.bool_)
    return Mask(values.shape, dense=values)


def _is_inside(bound: Bound, shape: tuple[int, ...]) -> bool:
    low, high = _extent(bound, shape)
    return low >= 0 and high < bound.size


def _is_inside_where(bound: Bound, shape: tuple[int, ...], active: npt.NDArray[np.bool_]) -> bool:
    positions = Index(shape, bound.const, bound.coefficients).array()[active]
    return not positions.size or bool(positions.min() >= 0 and positions.max() < bound.size)


def _with(view: Tensor, **changes: Any) -> Tensor:
    values = {name: getattr(view, name) for name in ("shape", "strides", "offset", "par", "terms", "bounds")}
    return type(view)(view.storage, view.dtype, **{**values, **changes})


def _cut(view: Tensor, box: tuple[tuple[int, int], ...]) -> Tensor:
    """The part of `view` inside `box`: a start and a stop per axis."""
    offset = view.offset
    for (start, _), stride in zip(box, view.strides, strict=True):
        offset += start * stride
    bounds = tuple(
        Bound(
            b.size, b.const + sum(c * start for c, (start, _) in zip(b.coefficients, box, strict=True)), b.coefficients
        )
        for b in view.bounds
    )
    terms = tuple(_cut_term(term, box) for term in view.terms)
    return _with(view, shape=tuple(stop - start for start, stop in box), offset=offset, bounds=bounds, terms=terms)


def _cut_term(term: Term, box: tuple[tuple[int, int], ...]) -> Term:
    axes = box[term.position : term.position + len(term.shape)]
    key = tuple(slice(None) if size == 1 else slice(*bounds) for size, bounds in zip(term.shape, axes, strict=True))
    index = term.index[key] if term.shape else term.index
    return Term(index, term.stride, term.size, term.position, tuple(index.shape) if term.shape else ())


def addresses(view: Tensor) -> IntArray:
    """Element of memory per position, of `view.shape`; positions outside the tensor are as the strides have it."""
    values = Index(view.shape, view.offset, view.strides).array()
    for term in view.terms:
        index = np.asarray(term.index.value() if not isinstance(term.index, np.ndarray) else term.index, dtype=np.int64)
        if index.size and (index.min() < 0 or index.max() >= term.size):
            worst = int(index.min() if index.min() < 0 else index.max())
            raise KernelError(f"indirect index {worst} is out of range for an axis of size {term.size}")
        rank = len(view.shape) - term.position
        values = values + index.reshape(term.shape + (1,) * (rank - len(term.shape))) * term.stride
    return values


def array_of(view: Tensor) -> Array:
    """The view's memory as an array that shares it; no indirect indices, nothing outside."""
    if 0 in view.shape:
        return np.zeros(view.shape, view.dtype)
    itemsize = view.dtype.itemsize
    shared: Array = np.ndarray(
        view.shape,
        view.dtype,
        view.storage.bytes(),
        view.offset * itemsize,
        tuple([stride * itemsize for stride in view.strides]),
    )
    return shared


def value(view: Tensor, mask: Any = None) -> Array:
    """Values of `view`, with zeros where `mask` is false."""
    if mask is None and not view.bounds:
        if not view.terms:
            return array_of(view)
        gathered: Array = view.storage.bytes().view(view.dtype)[addresses(view)]
        return gathered
    small = masked(view, mask)
    if mask is None:
        return value(small)
    mask = as_mask(mask)
    result = np.zeros(view.shape, view.dtype)
    region = tuple(slice(*bounds) for bounds in mask.box(view.shape))
    if mask.fills_box():
        result[region] = value(small)
    else:
        active = mask.array(view.shape)[region]
        found = np.where(active, addresses(small), 0)
        result[region] = np.where(active, small.storage.bytes().view(view.dtype)[found], result[region])
    return result


def assign(view: Tensor, values: Any, mask: Any = None) -> None:
    """Store `values`, broadcast to the shape of `view`, where `mask` is true."""
    values = np.asarray(values)
    if values.dtype != view.dtype:
        values = cast_to(values, view.dtype)
    if mask is None and not view.bounds and not view.terms:
        array_of(view)[...] = values
        return
    small = masked(view, mask)
    if mask is None:
        view.storage.bytes().view(view.dtype)[addresses(small)] = values
        return
    mask = as_mask(mask)
    region = tuple(slice(*bounds) for bounds in mask.box(view.shape))
    part = np.broadcast_to(values, view.shape)[region]
    if mask.fills_box():
        assign(small, part)
        return
    active = mask.array(view.shape)[region]
    small.storage.bytes().view(view.dtype)[addresses(small)[active]] = part[active]


def nested(view: Tensor, key: Any) -> Tensor:
    """A subscript of a view that has indirect indices or leaves its tensor."""
    items = key if isinstance(key, tuple) else (key,)
    if all(item is Ellipsis or (isinstance(item, slice) and item == slice(None)) for item in items):
        return view
    if view.terms:
        raise KernelError("a tensor with indirect indices cannot be subscripted again")
    check_bounds(view)
    return _with(view, bounds=())[key]


def reshape(view: Tensor, shape: Any) -> Tensor:
    """`view` in another shape of as many elements; one size may be -1."""
    sizes = [int(size) for size in (shape if isinstance(shape, (tuple, list)) else (shape,))]
    total = math.prod(view.shape)
    if sizes.count(-1) == 1:
        rest = -math.prod(sizes)
        sizes[sizes.index(-1)] = total // rest if rest else 0
    if math.prod(sizes) != total:
        raise KernelError(f"reshape: {list(view.shape)} has {total} elements, {sizes} has {math.prod(sizes)}")
    if view.terms or view.bounds:
        raise KernelError("reshape: the view has indirect indices or leaves its tensor")
    strides = _reshaped_strides(view, sizes)
    if strides is None:
        raise KernelError(f"reshape: a strided view of shape {list(view.shape)} cannot become {sizes} without a copy")
    par = view.par if view.storage.space is not Space.HBM and view.par < len(sizes) else 0
    return _with(view, shape=tuple(sizes), strides=strides, par=par)


def _reshaped_strides(view: Tensor, sizes: list[int]) -> tuple[int, ...] | None:
    """Strides of the new axes; None where some axis of them would need two."""
    old = [(size, stride) for size, stride in zip(view.shape, view.strides, strict=True) if size != 1]
    strides = [0] * len(sizes)
    axis = len(sizes) - 1
    while old:
        size, step = old.pop()
        while axis >= 0 and size > 1:
            wanted = sizes[axis]
            if wanted == 1:
                axis -= 1
                continue
            while size % wanted and old and old[-1][1] == size * step:
                size *= old.pop()[0]
            while size < wanted and old and old[-1][1] == size * step:
                size *= old.pop()[0]
            if size % wanted:
                return None
            strides[axis] = step
            size, step, axis = size // wanted, step * wanted, axis - 1
    return tuple(strides)


def broadcast_to(view: Tensor, shape: Any) -> Tensor:
    """`view` with axes of size 1 repeated and new ones put in front."""
    sizes = tuple(int(size) for size in (shape if isinstance(shape, (tuple, list)) else (shape,)))
    added = len(sizes) - len(view.shape)
    fits = added >= 0 and all(old in (1, new) for old, new in zip(view.shape, sizes[added:], strict=True))
    if not fits:
        raise KernelError(f"broadcast_to: {list(view.shape)} does not broadcast to {list(sizes)}")
    strides = [0] * added
    for old, new, stride in zip(view.shape, sizes[added:], view.strides, strict=True):
        strides.append(stride if old == new else 0)
    terms = tuple(term._replace(position=term.position + added) for term in view.terms)
    bounds = tuple(b._replace(coefficients=(0,) * added + b.coefficients) for b in view.bounds)
    return _with(
        view, shape=sizes, strides=tuple(strides), terms=terms, bounds=bounds, par=view.par if not added else 0
    )


def reinterpret(view: Tensor, dtype: Dtype) -> Tensor:
    """The same bytes as `dtype`."""
    old, new = view.dtype.itemsize, dtype.itemsize
    if old == new:
        return type(view)(view.storage, dtype, view.shape, view.strides, view.offset, view.par, view.terms, view.bounds)
    last = view.shape[-1] * old if view.shape else 0
    if not view.shape or last % new or view.strides[-1] != 1 or view.offset * old % new or view.terms or view.bounds:
        raise KernelError(f"view: {list(view.shape)} {view.dtype.name} cannot be seen as {dtype.name}")
    root = view.storage.root
    shape = (*view.storage.shape[:-1], view.storage.shape[-1] * view.storage.dtype.itemsize // new)
    storage = Storage(whole_of(shape, dtype, root.space, root.par), root.name, root.site, owner=root)
    strides = (*[stride * old // new for stride in view.strides[:-1]], 1)
    return type(view)(storage, dtype, (*view.shape[:-1], last // new), strides, view.offset * old // new, view.par)
