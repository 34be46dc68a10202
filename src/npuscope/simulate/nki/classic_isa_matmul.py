"""Matrix products and transposes of `neuronxcc.nki.isa`.

Names, defaults and limits: AWS Neuron documentation of SDK 2.26, `nki.isa`.
"""
# ruff: noqa: ARG001 - keywords that the documented signatures have and that change nothing here

from __future__ import annotations

from typing import Any

import numpy as np

from npuscope.simulate.neuroncore.program import Engine, Space
from npuscope.simulate.nki import instruction_math as im
from npuscope.simulate.nki.classic_isa_vector import tensor_copy
from npuscope.simulate.nki.dtypes import dtype_name
from npuscope.simulate.nki.emit import DOUBLE_ROW, TENSOR, VECTOR, fresh, fresh_of, instruction, matmul, on_chip
from npuscope.simulate.nki.geometry import Geometry
from npuscope.simulate.nki.index import arange
from npuscope.simulate.nki.isa_enums import CORE_ENGINES
from npuscope.simulate.nki.isa_enums import engine as engines
from npuscope.simulate.nki.isa_operands import flat_value, result_dtype, write
from npuscope.simulate.nki.numerics import FLOAT32, Array
from npuscope.simulate.nki.storage import NOTHING
from npuscope.simulate.nki.tensors import Tensor
from npuscope.simulate.nki.trace import KernelError, current, current_line, of_one_trace

MAX_CONTRACTION = 128
MAX_STATIONARY_COLUMNS = 128
MAX_MOVING_COLUMNS = 512
VECTOR_TRANSPOSE = 32
"""Vector transposes tiles of at most 32 by 32."""
_MATMUL_TYPES = (
    "float32",
    "bfloat16",
    "float16",
    "tfloat32",
    "float8_e4m3",
    "float8_e5m2",
    "float8_e4m3fn",
    "float8_e3m4",
)


def nc_matmul(
    stationary: Any,
    moving: Any,
    *,
    is_stationary_onezero: bool = False,
    is_moving_onezero: bool = False,
    is_transpose: bool = False,
    tile_position: Any = (),
    tile_size: Any = (),
    mask: Any = None,
    **kwargs: Any,
) -> Tensor:
    """`stationary.T @ moving` on Tensor, in a fresh tile in PSUM.

    The result is float32; in transpose mode from NeuronCore-v3 on it has the type of `stationary`.
    """
    if not isinstance(stationary, Tensor) or not isinstance(moving, Tensor):
        on_chip("nc_matmul", stationary=stationary, moving=moving)
    trace, line = current(), current_line(2)
    key = (stationary.geometry, moving.geometry, is_transpose, trace.nc_version)
    whole = _results.get(key) if mask is None and not tile_size and not tile_position and not kwargs else None
    hint = "onezero" if is_stationary_onezero or is_moving_onezero else ""
    if whole is not None:
        # Tiles of these kinds have been checked.
        result = fresh_of(whole, line, "nc_matmul")
        matmul(stationary, moving, result, is_transpose=is_transpose, line=line, function=hint)
        if trace.compute:
            write(result, im.matmul(flat_value(stationary), flat_value(moving)))
        return result
    stationary, moving = from_psum(stationary), from_psum(moving)
    if kwargs and str(kwargs.get("perf_mode", "")).startswith(DOUBLE_ROW):
        return _double_row(stationary, moving)
    left, right = stationary, moving
    if mask is not None:
        left, right = (_within(tile, mask) for tile in (stationary, moving))
    check_matmul(left, right)
    if tile_position or tile_size:
        check_pe_tile(left, tile_position, tile_size)
    dtype = stationary.dtype if is_transpose and trace.nc_version >= 3 else FLOAT32
    shape = (stationary.elements, *moving.shape[1:]) if moving.ndim > 1 else (stationary.elements, 1)
    result = fresh(shape, dtype, Space.PSUM, line, "nc_matmul")
    if mask is None:
        _results[stationary.geometry, moving.geometry, is_transpose, trace.nc_version] = result.geometry
    part = result
    if mask is not None:
        if not left.size or not right.size:
            result.storage.writer = NOTHING
            return result
        if right.shape[1:] == moving.shape[1:]:
            part = result[: left.elements]
        elif moving.ndim == 2:
            part = result[: left.elements, : right.elements]
    matmul(left, right, part, is_transpose=is_transpose, line=line, function=hint)
    if part.size != result.size:
        kept = arange(result.shape[0])[:, None] < part.shape[0]
        if result.ndim == 2:
            kept = kept & (arange(result.shape[1])[None, :] < part.shape[1])
        result.storage.mask = kept
    if trace.compute:
        write(part, im.matmul(flat_value(left), flat_value(right)))
    return result


_results: dict[tuple[Any, ...], Geometry] = of_one_trace({})
"""What a matmul makes of two tiles in SBUF that were found to fit, by their geometry."""


def from_psum(tile: Tensor) -> Tensor:
    """What the Tensor engine can read: the fresh result of an instruction that wrote PSUM is copied to SBUF.

    The compiler places such a result itself; published kernels hand that of nc_transpose to nc_matmul.
    """
    return tensor_copy(tile) if tile.storage.space is Space.PSUM and tile.writer >= 0 else tile


def _within(tile: Tensor, mask: Any) -> Tensor:
    """The part of an operand that a mask over axes of its size leaves."""
    if isinstance(mask, (bool, np.bool_)):
        return tile.masked(mask)
    shape = getattr(mask, "shape", ())
    fits = len(shape) == tile.ndim and all(one in (1, size) for one, size in zip(shape, tile.shape, strict=True))
    return tile.masked(mask if fits else None)


def _double_row(stationary: Tensor, moving: Tensor) -> Tensor:
    """A float8 matmul of [K, 2, M] and [K, 2, N], contracted along K and the pair; an undocumented `perf_mode`."""
    if current().nc_version < 3:
        raise KernelError("nc_matmul: perf_mode double_row needs NeuronCore-v3 or later (trn2)")
    for name, tile in (("stationary", stationary), ("moving", moving)):
        if tile.ndim != 3 or tile.shape[1] != 2:
            raise KernelError(f"nc_matmul: {name} has shape {list(tile.shape)}; perf_mode double_row needs [K, 2, ...]")
        if tile.dtype.itemsize != 1:
            raise KernelError(f"nc_matmul: {name} is {dtype_name(tile.dtype)}; perf_mode double_row needs float8")
    check_matmul(stationary[:, 0], moving[:, 0])
    line = current_line()
    result = fresh((stationary.shape[2], moving.shape[2]), FLOAT32, Space.PSUM, line, "nc_matmul")
    matmul(stationary, moving, result, is_transpose=False, line=line, function=DOUBLE_ROW)
    if current().compute:
        left, right = stationary.value(), moving.value()
        write(result, im.matmul(left[:, 0], right[:, 0]) + im.matmul(left[:, 1], right[:, 1]))
    return result


def check_matmul(stationary: Tensor, moving: Tensor) -> None:
    """Check memory, types and sizes of a matmul's inputs.

    Raises:
        KernelError: One does not fit the PE array, or is not in SBUF.
    """
    for name, tile in (("stationary", stationary), ("moving", moving)):
        if tile.storage.space is not Space.SBUF:
            raise KernelError(f"nc_matmul: {name} is in {tile.storage.space.name}, expected SBUF")
        if tile.dtype is not FLOAT32 and dtype_name(tile.dtype) not in _MATMUL_TYPES:
            raise KernelError(f"nc_matmul: {name} is {dtype_name(tile.dtype)}, expected a float")
    key = (stationary.shape, moving.shape)
    if key in _fitting:
        return
    rows, columns = stationary.shape[0], stationary.elements
    if rows > MAX_CONTRACTION:
        raise KernelError(f"nc_matmul: stationary tile has {rows} partitions, at most {MAX_CONTRACTION}")
    if moving.shape[0] != rows:
        raise KernelError(
            f"nc_matmul: stationary tile has {rows} partitions, moving tile {moving.shape[0]}; they must be equal"
        )
    if columns > MAX_STATIONARY_COLUMNS:
        raise KernelError(f"nc_matmul: stationary tile has {columns} columns, at most {MAX_STATIONARY_COLUMNS}")
    if moving.elements > MAX_MOVING_COLUMNS:
        raise KernelError(f"nc_matmul: moving tile has {moving.elements} columns, at most {MAX_MOVING_COLUMNS}")
    _fitting.add(key)


_fitting: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()
"""Shapes of both tiles that were found to fit."""


def check_pe_tile(stationary: Tensor, tile_position: Any, tile_size: Any) -> None:
    """Check a tile of the PE array.

    Raises:
        KernelError: Only one of the two is given, or their numbers are not as documented.
    """
    if not tile_position or not tile_size:
        raise KernelError("nc_matmul: tile_position and tile_size must both be given")
    position, size = tuple(map(int, tile_position)), tuple(map(int, tile_size))
    if any(number % 32 for number in position + size):
        raise KernelError(f"nc_matmul: tile_position {position} and tile_size {size} must be multiples of 32")
    if stationary.shape[0] > size[0] or stationary.elements > size[1]:
        shape = [stationary.shape[0], stationary.elements]
        raise KernelError(f"nc_matmul: stationary tile {shape} is larger than tile_size {list(size)}")
    if size == (32, 32) and current().nc_version == 2:
        raise KernelError("nc_matmul: tile_size (32, 32) is not supported on NeuronCore-v2")


def nc_transpose(
    data: Any, *, mask: Any = None, dtype: Any = None, engine: Any = engines.unknown, **kwargs: Any
) -> Tensor:
    """Swap partitions and free elements: on Tensor from SBUF into PSUM, or on Vector up to 32 by 32.

    Where the engine is left open, tiles that Vector can take go there.
    """
    on_chip("nc_transpose", data=data)
    data = from_psum(data)
    source = data.masked(mask) if mask is not None else data
    chosen = transpose_engine(source, engine)
    line = current_line()
    space = Space.PSUM if chosen is Engine.TENSOR else Space.SBUF
    result = fresh((data.elements, data.shape[0]), result_dtype(dtype, data.dtype), space, line, "nc_transpose")
    if not source.size:
        result.storage.writer = NOTHING
        return result
    part = result if source is data else result[: source.elements, : source.shape[0]]
    record_transpose(source, part, chosen, line, is_fresh=part.size == result.size)
    if current().compute:
        write(part, transposed(source))
    return result


def transpose_engine(data: Tensor, engine: Any) -> Engine:
    """Which engine transposes `data`.

    Raises:
        KernelError: The one that the kernel chose cannot, or none can.
    """
    rows, columns = data.shape[0], data.elements
    is_small = rows <= VECTOR_TRANSPOSE and columns <= VECTOR_TRANSPOSE
    chosen = CORE_ENGINES.get(engine)
    if chosen is None:
        chosen = Engine.VECTOR if is_small else Engine.TENSOR
    if chosen is Engine.VECTOR:
        if not is_small:
            raise KernelError(f"nc_transpose: tile of shape [{rows}, {columns}], at most [32, 32] on the Vector engine")
        return chosen
    if chosen is not Engine.TENSOR:
        raise KernelError(f"nc_transpose: engine {chosen.name.lower()} cannot run it; Tensor or Vector can")
    if rows > MAX_CONTRACTION or columns > MAX_STATIONARY_COLUMNS:
        raise KernelError(f"nc_transpose: tile of shape [{rows}, {columns}], at most [128, 128] on the Tensor engine")
    if data.storage.space is not Space.SBUF:
        raise KernelError(f"nc_transpose: data is in {data.storage.space.name}; the Tensor engine reads SBUF only")
    return chosen


def record_transpose(data: Tensor, dst: Tensor, chosen: Engine, line: str, *, is_fresh: bool) -> None:
    """Record a transpose of `data` into `dst` on Tensor or Vector."""
    engine = TENSOR if chosen is Engine.TENSOR else VECTOR
    instruction("nc_transpose", engine, (data,), dst, line=line, is_fresh=is_fresh)


def transposed(data: Tensor) -> Array:
    """The values of `data` as [F, P]."""
    values: Array = flat_value(data).T
    return values
