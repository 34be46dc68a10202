"""Moving data in `neuronxcc.nki.language`: loads, stores, copies, fills and broadcasts, as the instructions they become.

- `load` and `store` are one DMA; the type may change on the way. A tile in PSUM is copied to SBUF before it is stored.
- `a[...] = tile` is a `tensor_copy`, unless the tile is the fresh result of an instruction, which then writes to `a`.
- `a[...] = number` is a `memset`.
- Spreading one partition over many is a matmul with a row of ones on the Tensor engine and a copy from PSUM to SBUF
  (AWS Neuron documentation, architecture guide of Trainium and Inferentia2, "Tensor Engine").
"""
# ruff: noqa: ARG001 - keywords that the documented signatures have and that change nothing here

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np

from npuscope.simulate.neuroncore.program import Space, Transfer
from npuscope.simulate.nki import access, emit
from npuscope.simulate.nki import classic_isa as isa
from npuscope.simulate.nki.dtypes import as_dtype
from npuscope.simulate.nki.geometry import Geometry
from npuscope.simulate.nki.index import Mask
from npuscope.simulate.nki.numerics import canonical_op, cast_to, is_float
from npuscope.simulate.nki.storage import NOTHING
from npuscope.simulate.nki.tensors import Tensor, new_tile, take_over
from npuscope.simulate.nki.trace import KernelError, current, current_line, of_one_trace

MOVING_COLUMNS: Final = 512
"""Widest moving tile of a matmul, which is also what one PSUM bank holds in float32."""
PE_SIDE: Final = 128
"""Rows and columns of the Tensor engine."""
_ONES: Final = "classic.ones"
"""Key of `Trace.state`: the row of ones that partitions are spread with, by type."""


def _hbm(name: str, what: str, tensor: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise KernelError(f"{name}: {what} must be an HBM tensor, not {type(tensor).__name__}")
    if tensor.space is not Space.HBM:
        raise KernelError(f"{name}: {what} must be in HBM, not in {tensor.space.name}")
    return tensor


def load(src: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Tensor:
    """Load a tensor from HBM into a new SBUF tile: one DMA.

    Args:
        src: HBM tensor, its first axis the partitions; an index tile makes the DMA an indirect one.
        mask: Positions that are loaded.
        dtype: Of the tile; by default that of `src`.
        **kwargs: Hints for the compiler; ignored.
    """
    line, trace = current_line(2), current()
    element = None if dtype is None else as_dtype(dtype)
    plain = mask is None and not trace.compute and type(src) is Tensor and not src.terms and not src.bounds
    known = _loads.get((src.geometry, id(element))) if plain else None
    if known is not None:
        return emit.fetch(src, *known, line)
    source = _hbm("load", "src", src)
    shape, asked = source.shape, id(element)
    element = element or source.dtype
    tile = emit.fresh(shape + (1,) * (2 - len(shape)), element, Space.SBUF, line, "load")
    if len(shape) < 2 and mask is not None:
        raise KernelError("load: a mask needs a source of at least two dimensions")
    number = emit.transfer(tile if mask is None else tile.masked(mask), source.masked(mask), line=line)
    tile.storage.writer = NOTHING if number < 0 else number
    tile.storage.mask = mask
    if plain and number >= 0:
        _loads[source.geometry, asked] = tile.geometry, emit.transfer_work(tile, source)
    if trace.compute:
        tile.assign(cast_to(source.value(mask), element).reshape(tile.shape), mask if len(shape) > 1 else None)
    return tile


_loads: dict[tuple[Geometry, int], tuple[Geometry, Transfer]] = of_one_trace({})
"""Tile and DMA of a load without a mask, by what is loaded and the identity of the type asked for, which the tile keeps."""


def load_transpose2d(src: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Tensor:
    """Load a 2-D tensor and transpose it: [F, P] in HBM becomes a tile [P, F].

    Lowers to a DMA per 128 rows, a transpose of each 128 x 128 block on the Tensor engine and a copy from PSUM to SBUF;
    `nisa.dma_transpose` transposes on the way.
    """
    source = _hbm("load_transpose2d", "src", src)
    if source.ndim != 2:
        raise KernelError(f"load_transpose2d: src has {source.ndim} dimensions, not 2")
    if mask is not None:
        raise KernelError("load_transpose2d: a mask is not supported by the simulator")
    rows, columns = source.shape
    if columns > PE_SIDE:
        raise KernelError(f"load_transpose2d: the result has {columns} partitions, at most {PE_SIDE}")
    element = source.dtype if dtype is None else as_dtype(dtype)
    line = current_line()
    result = new_tile((columns, rows), element, Space.SBUF, name=line, site=(line, "load_transpose2d", rows, columns))
    for start in range(0, rows, PE_SIDE):
        stop = min(start + PE_SIDE, rows)
        block = load(source[start:stop, :], dtype=element)
        copy_into(result[:, start:stop], isa.nc_transpose(block))
    return result


def store(dst: Any, value: Any, *, mask: Any = None, **kwargs: Any) -> None:
    """Store a tile, or a number, into HBM: one DMA, after a copy to SBUF where the tile is in PSUM.

    Args:
        dst: HBM tensor; an index tile makes the DMA an indirect one.
        value: SBUF or PSUM tile of as many elements, or a number.
        mask: Positions that are stored.
        **kwargs: Hints for the compiler; ignored.
    """
    goal = _hbm("store", "dst", dst)
    tile = _to_store(goal, value)
    if tile.size != goal.size:
        try:
            tile = tile.broadcast_to(goal.shape)
        except KernelError:
            raise KernelError(f"store: value has shape {list(tile.shape)}, dst {list(goal.shape)}") from None
    small = tile.masked(mask) if tile.shape == goal.shape else tile
    emit.transfer(goal.masked(mask), small)
    goal.storage.root.is_stored = True
    if current().compute:
        values = tile.value(mask if tile.shape == goal.shape else None)
        goal.assign(cast_to(values.reshape(goal.shape), goal.dtype), mask)


def _to_store(goal: Tensor, value: Any) -> Tensor:
    """What a store moves, as a tile in SBUF."""
    if not isinstance(value, Tensor):
        shape = goal.shape if goal.ndim > 1 else (*goal.shape, *(1,) * (2 - goal.ndim))
        return isa.memset(shape, value, goal.dtype)
    if value.space is Space.PSUM:
        return isa.tensor_copy(value, dtype=goal.dtype)
    if value.space is Space.HBM:
        raise KernelError("store: value is in HBM; load it first, or use nisa.dma_copy")
    return value


def atomic_rmw(dst: Any, value: Any, op: Any, *, mask: Any = None, **kwargs: Any) -> None:
    """Add a tile to elements of HBM that an index tile names: one DMA that reads, adds and writes.

    Raises:
        KernelError: `op` is no addition.
    """
    goal = _hbm("atomic_rmw", "dst", dst)
    if canonical_op(op).name != "add":
        raise KernelError("atomic_rmw: only np.add is supported")
    tile = _to_store(goal, value)
    emit.transfer(goal.masked(mask), tile.masked(mask), adds=True)
    goal.storage.root.is_stored = True
    if current().compute:
        total = goal.value(mask).astype(np.float32) + tile.value(mask).astype(np.float32).reshape(goal.shape)
        goal.assign(cast_to(total, goal.dtype), mask)


def copy(src: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Tensor:
    """A new SBUF tile with the values of a tile: one `tensor_copy`."""
    return isa.tensor_copy(src, dtype=dtype, mask=mask)


def astype(src: Tensor, dtype: Any) -> Tensor:
    """`tile.astype(dtype)`: one `tensor_copy`."""
    return isa.tensor_copy(src, dtype=dtype)


def _fit(target: Tensor, value: Tensor) -> Tensor:
    """`value` seen in the shape of `target`."""
    if value.shape == target.shape:
        return value
    if value.size == target.size:
        return value.reshape(target.shape)
    try:
        return value.broadcast_to(target.shape)
    except KernelError:
        raise KernelError(
            f"assignment: a value of shape {list(value.shape)} does not fit {list(target.shape)}"
        ) from None


def copy_into(target: Tensor, value: Tensor) -> None:
    """`target[...] = value` where `value` is no fresh result: a `tensor_copy` per block."""
    if target.space is Space.HBM or value.space is Space.HBM:
        raise KernelError("assignment between HBM and a tile; use nl.load, nl.store or nisa.dma_copy")
    settle = getattr(value, "settle", None)
    if settle is not None:
        settle(target)
        return
    value = spread_partitions(_fit(target, value), target.partitions)
    if target.par:
        for i in range(target.shape[0]):
            copy_into(target[i], value[i])
        return
    if not take_over(target, isa.tensor_copy(value, dtype=target.dtype)):
        emit.instruction("tensor_copy", emit.VECTOR_SCALAR, (value,), target)
        if current().compute:
            target.assign(cast_to(value.value(), target.dtype))


def fill(target: Tensor, value: Any) -> None:
    """`target[...] = number`: a `memset` per block."""
    if target.space is Space.HBM:
        raise KernelError("assignment to an HBM tensor; use nl.store")
    if isinstance(value, Mask) or not np.isscalar(value):
        raise KernelError(f"assignment: a tile takes tiles and numbers, not {type(value).__name__}")
    if target.par:
        for i in range(target.shape[0]):
            fill(target[i], value)
        return
    engines = emit.VECTOR if target.space is Space.PSUM else emit.VECTOR_GPSIMD
    emit.instruction("memset", engines, (), target, function="zero" if value == 0 else "")
    if current().compute:
        target.assign(np.asarray(value).astype(target.dtype))


def spread_partitions(tile: Tensor, partitions: int) -> Tensor:
    """A tile of one partition repeated over many; any other tile as it is.

    A matmul per 512 columns with a row of ones as the stationary tile, and a copy from PSUM to SBUF. Integers go through
    the Tensor engine as float32.
    """
    if tile.shape[0] == partitions or tile.strides[0] == 0 or tile.shape[0] != 1:
        return _respread(tile, partitions) if tile.strides[0] == 0 and partitions > 1 else tile
    line = current_line()
    element = tile.dtype
    moving = tile.reshape((1, tile.elements)) if tile.contiguous else isa.tensor_copy(tile)
    moving = moving.reshape((1, tile.elements))
    if not is_float(element):
        moving = isa.tensor_copy(moving, dtype=np.float32)
    ones = _row_of_ones(partitions, moving.dtype)
    site = (line, "spread", partitions, tile.elements)
    result = new_tile((partitions, tile.elements), element, Space.SBUF, name=line, site=site)
    for start in range(0, tile.elements, MOVING_COLUMNS):
        stop = min(start + MOVING_COLUMNS, tile.elements)
        product = isa.nc_matmul(ones, moving[:, start:stop], is_stationary_onezero=True)
        copy_into(result[:, start:stop], product)
        current().builder.mark_inserted_copy(len(current().builder) - 1)
    return result.reshape((partitions, *tile.shape[1:]))


def _respread(tile: Tensor, partitions: int) -> Tensor:
    """A view that repeats one partition, made real."""
    single = tile[0:1]
    narrow = Tensor(single.storage, single.dtype, single.shape, (1, *single.strides[1:]), single.offset, single.par)
    return spread_partitions(narrow, partitions)


def _row_of_ones(partitions: int, dtype: Any) -> Tensor:
    known: dict[Any, Tensor] = current().state.setdefault(_ONES, {})
    key = (partitions, dtype.name)
    if key not in known:
        known[key] = isa.memset((1, partitions), 1.0, dtype)
    return known[key]


def broadcast_to(src: Any, *, shape: Any, **kwargs: Any) -> Tensor:
    """A tile repeated to a larger shape; along the free dimensions that is a view, along the partitions see the module.

    Args:
        src: A tile, or an HBM tensor, which is loaded.
        shape: The shape of the result.
        **kwargs: Hints for the compiler; ignored.
    """
    tile = load(src) if isinstance(src, Tensor) and src.space is Space.HBM else src
    if not isinstance(tile, Tensor):
        raise KernelError(f"broadcast_to: takes a tile, not {type(src).__name__}")
    sizes = tuple(int(size) for size in shape)
    return tile if sizes == tile.shape else spread_to(tile, sizes)


def spread_to(tile: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`tile.broadcast_to(shape)` with partitions that are really there."""
    rank = len(shape)
    wide = tile
    if tile.ndim < rank:
        added = (1,) * (rank - tile.ndim)
        strides = (1,) * len(added) + tile.strides
        wide = Tensor(tile.storage, tile.dtype, added + tile.shape, strides, tile.offset, 0)
    return access.broadcast_to(spread_partitions(wide, shape[0]), shape)


def expand_dims(data: Tensor, axis: Any) -> Tensor:
    """A view with new axes of size 1; never before the partitions."""
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    rank = data.ndim + len(axes)
    for position in sorted(int(a) + rank if a < 0 else int(a) for a in axes):
        if position == 0:
            raise KernelError("expand_dims: no axis goes before the partitions")
        data = data.expand_dims(position)
    return data


def gather_flattened(data: Tensor, indices: Tensor, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Tensor:
    """Per partition, the elements of `data` that `indices` counts in row-major order: one instruction on GpSimd.

    Args:
        data: Tile of 2 to 4 dimensions.
        indices: uint32 tile on as many partitions; the result has its shape.
        mask: Positions of `indices` that are looked up.
        dtype: Of the result; by default that of `data`.
        **kwargs: Hints for the compiler; ignored.
    """
    emit.on_chip("gather_flattened", data=data, indices=indices)
    line = current_line()
    element = data.dtype if dtype is None else as_dtype(dtype)
    result = emit.fresh(indices.shape, element, Space.SBUF, line, "gather_flattened")
    emit.instruction(
        "gather_flattened", emit.GPSIMD, (indices,), result, scalars=(data,), mask=mask, line=line, is_fresh=True
    )
    if current().compute:
        rows = data.value().reshape(data.shape[0], -1)
        places = indices.value(mask).reshape(indices.shape[0], -1).astype(np.int64)
        found = np.take_along_axis(rows, np.clip(places, 0, rows.shape[1] - 1), axis=1)
        result.assign(cast_to(found.reshape(indices.shape), element), mask)
    return result


def device_print(prefix: str, x: Any, *, mask: Any = None, **kwargs: Any) -> None:
    """Print a tile's values on standard error, where values are computed; costs nothing."""
    if current().compute:
        values = x.value(mask) if isinstance(x, Tensor) else x
        sys.stderr.write(f"{prefix}{values}\n")
