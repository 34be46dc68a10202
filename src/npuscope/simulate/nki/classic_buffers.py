"""Tensors that a kernel creates, the memories that they live in, and the constants of `neuronxcc.nki.language`.

SBUF and PSUM tensors have block dimensions, one dimension of partitions (the first, unless `par_dim` marks another) and
free dimensions; each block is a logical tile of its own. Filling a tile costs a `memset`, except that zeros in PSUM cost
nothing (the first matmul into it overwrites) and that `lazy_initialization=True` leaves the fill to the first write.
"""
# ruff: noqa: ARG001 - keywords that the documented signatures have and that change nothing here

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import ml_dtypes
import numpy as np

from npuscope.simulate.neuroncore.program import Space
from npuscope.simulate.nki import classic_compiler as ncc
from npuscope.simulate.nki import classic_isa as isa
from npuscope.simulate.nki import trace as tracing
from npuscope.simulate.nki.classic_compiler import Buffer
from npuscope.simulate.nki.classic_loops import in_first_iterations
from npuscope.simulate.nki.classic_memory import fill
from npuscope.simulate.nki.dtypes import TFLOAT32, Dtype, as_dtype
from npuscope.simulate.nki.tensors import Tensor, hbm_tensor, new_tile
from npuscope.simulate.nki.trace import KernelError, current

bool_ = np.bool_
int8, int16, int32 = np.int8, np.int16, np.int32
uint8, uint16, uint32 = np.uint8, np.uint16, np.uint32
float16, float32 = np.float16, np.float32
bfloat16 = as_dtype("bfloat16")
float8_e4m3 = as_dtype("float8_e4m3")
float8_e5m2 = as_dtype("float8_e5m2")
tfloat32 = TFLOAT32

sbuf = ncc.sbuf
psum = ncc.psum
private_hbm: Final = Buffer(Space.HBM, "private_hbm")
hbm: Final = private_hbm
shared_hbm: Final = Buffer(Space.HBM, "shared_hbm", is_shared=True)

_FILLED = "classic.filled"
"""Key of `Trace.state`: numbers of the tiles that were filled when they were created."""
_CONSTANTS = "classic.constants"
"""Key of `Trace.state`: identity matrices that exist already, by size and type."""


class _Limits:
    """Bounds of a float type."""

    def __init__(self, smallest: float) -> None:
        self.min = smallest


fp32: Final = _Limits(float(np.finfo(np.float32).min))
bfp16: Final = _Limits(float(ml_dtypes.finfo(ml_dtypes.bfloat16).min))


class _TileSize:
    """`nl.tile_size`: limits of a tile (AWS Neuron documentation, "Tile size considerations")."""

    pmax: Final = 128
    """Partitions."""
    psum_fmax: Final = 512
    """float32 elements of a PSUM bank, per partition."""
    gemm_stationary_fmax: Final = 128
    gemm_moving_fmax: Final = 512
    bn_stats_fmax: Final = 512
    psum_min_align: Final = 4
    """Bytes."""
    sbuf_min_align: Final = 1
    """Bytes."""

    @property
    def total_available_sbuf_size(self) -> int:
        """Bytes per partition that kernels may use."""
        return int(getattr(current().device, "sbuf_usable_bytes", ncc.SBUF_USABLE_BYTES))


tile_size: Final = _TileSize()


class ParDim(int):
    """A size of a shape that is marked as the dimension of partitions."""


def par_dim(size: int) -> ParDim:
    """Mark a size of a shape as the dimension of partitions; the dimensions before it are blocks."""
    return ParDim(size)


def finfo(dtype: Any) -> Any:
    """Limits of a float type, as `numpy.finfo`."""
    return ml_dtypes.finfo(as_dtype(dtype))


def sizeinbytes(dtype: Any) -> int:
    """Bytes of one element."""
    return int(as_dtype(dtype).itemsize)


def gemm_grid() -> Any:
    """Indices of a full moving tile, and of the result, of a matmul: [128, 512]."""
    from npuscope.simulate.nki.index import mgrid

    return mgrid[0 : tile_size.pmax, 0 : tile_size.gemm_moving_fmax]


def gemm_stationary_grid() -> Any:
    """Indices of a full stationary tile of a matmul: [128, 128]."""
    from npuscope.simulate.nki.index import mgrid

    return mgrid[0 : tile_size.pmax, 0 : tile_size.gemm_stationary_fmax]


def static_cast(input_data: Any, dtype: Any) -> Any:
    """A scalar or array as another type; a tile is copied."""
    if isinstance(input_data, Tensor):
        return isa.tensor_copy(input_data, dtype=dtype)
    return np.asarray(input_data).astype(as_dtype(dtype))[()]


def _space_of(buffer: Any, default: Buffer) -> Buffer:
    if buffer is None:
        return default
    if isinstance(buffer, Buffer):
        return buffer
    if isinstance(buffer, Space):
        return {Space.HBM: hbm, Space.SBUF: sbuf, Space.PSUM: psum}[buffer]
    raise KernelError(f"buffer={buffer!r} is no memory; use nl.sbuf, nl.psum or nl.hbm")


def _sizes(shape: Any) -> tuple[tuple[int, ...], int]:
    """A shape as plain integers, and the axis of its partitions."""
    if type(shape) is tuple and set(map(type, shape)) == {int}:
        return shape, 0
    sizes = tuple(shape) if isinstance(shape, (Sequence, np.ndarray)) else (shape,)
    par = next((axis for axis, size in enumerate(sizes) if isinstance(size, ParDim)), 0)
    try:
        return tuple([size.__index__() for size in sizes]), par
    except AttributeError:
        raise KernelError(f"shape {sizes} has a size that is no integer") from None


def _make(
    function: str, shape: Any, dtype: Any, buffer: Any, name: str, *, is_zeroed: bool = False, options: dict[str, Any]
) -> Tensor:
    """A new tensor without values."""
    where = buffer if type(buffer) is Buffer else _space_of(buffer, sbuf)
    sizes, par = _sizes(shape)
    if sizes and min(sizes) < 1:
        raise KernelError(f"{function}: shape {list(sizes)} has an empty dimension")
    element = as_dtype(dtype)
    if where.space is Space.HBM:
        return _hbm(sizes, element, name, is_shared=where.is_shared)
    if not sizes:
        raise KernelError(f"{function}: a tile needs a dimension of partitions")
    partitions = sizes[par]
    if partitions > tile_size.pmax:
        raise KernelError(f"{function}: tile has {partitions} partitions, at most {tile_size.pmax}")
    if where.placement is not None and in_first_iterations():
        # Later iterations may have counted addresses on in Python, which NKI does once.
        ncc.place(where, sizes[:par], partitions, math.prod(sizes[par + 1 :]) * element.itemsize)
    return new_tile(sizes, element, where.space, name=name, par=par, is_zeroed=is_zeroed)


def _hbm(shape: tuple[int, ...], dtype: Dtype, name: str, *, is_shared: bool) -> Tensor:
    """A tensor in HBM; a shared one is the same for all programs of the launch grid."""
    trace = current()
    if not is_shared:
        return hbm_tensor(shape, dtype, name or tracing.current_line(2))
    number = trace.allocated
    trace.allocated += 1
    if number < len(trace.shared):
        known: Tensor = trace.shared[number]
        if known.shape == shape and known.dtype == dtype:
            return known
        raise KernelError("programs of one launch grid create different shared_hbm tensors")
    tensor = hbm_tensor(shape, dtype, name or tracing.current_line(2), is_external=True)
    trace.shared.append(tensor)
    return tensor


def _fill(tensor: Tensor, value: Any, *, is_lazy: bool) -> Tensor:
    """Give a new tensor its first value."""
    if tensor.space is Space.HBM:
        raise KernelError("an HBM tensor cannot be created with a value; store it")
    if value == 0 and (tensor.space is Space.PSUM or is_lazy):
        return tensor
    filled: set[int] = current().state.setdefault(_FILLED, set())
    for block in _blocks(tensor):
        fill(block, value)
        filled.update(box.tile for box in block.boxes())
    return tensor


def _blocks(tensor: Tensor) -> list[Tensor]:
    """Each block of a tensor."""
    blocks = [tensor]
    for _ in range(tensor.par):
        blocks = [block[i] for block in blocks for i in range(block.shape[0])]
    return blocks


def was_filled(tile: int) -> bool:
    """Whether the tile of that number was created with a value that an instruction wrote."""
    return tile in current().state.get(_FILLED, ())


def ndarray(shape: Any, dtype: Any, *, buffer: Any = None, name: str = "", **kwargs: Any) -> Tensor:
    """A new tensor without values.

    Args:
        shape: Its sizes; `par_dim` marks the partitions.
        dtype: Element type.
        buffer: Its memory; SBUF by default.
        name: For messages and the timeline.
        **kwargs: Hints for the compiler; ignored.
    """
    return _make("ndarray", shape, dtype, buffer, name, options=kwargs)


def full(shape: Any, fill_value: Any, dtype: Any, *, buffer: Any = None, name: str = "", **kwargs: Any) -> Tensor:
    """A new tensor filled with one value; arguments as of `ndarray`."""
    is_zeroed = fill_value == 0
    tensor = _make("full", shape, dtype, buffer, name, is_zeroed=is_zeroed, options=kwargs)
    return _fill(tensor, fill_value, is_lazy=bool(kwargs.get("lazy_initialization")))


def zeros(shape: Any, dtype: Any, *, buffer: Any = None, name: str = "", **kwargs: Any) -> Tensor:
    """A new tensor of zeros; arguments as of `ndarray`. In PSUM the zeros cost no instruction."""
    tensor = _make("zeros", shape, dtype, buffer, name, is_zeroed=True, options=kwargs)
    return _fill(tensor, 0, is_lazy=bool(kwargs.get("lazy_initialization")))


def ones(shape: Any, dtype: Any, *, buffer: Any = None, name: str = "", **kwargs: Any) -> Tensor:
    """A new tensor of ones; arguments as of `ndarray`."""
    tensor = _make("ones", shape, dtype, buffer, name, options=kwargs)
    return _fill(tensor, 1, is_lazy=False)


def _shape_like(a: Tensor) -> tuple[int, ...]:
    return tuple(par_dim(size) if axis == a.par and axis else size for axis, size in enumerate(a.shape))


def empty_like(a: Tensor, dtype: Any = None, *, buffer: Any = None, name: str = "", **kwargs: Any) -> Tensor:
    """A new tensor of the shape, and by default the type, of another."""
    return ndarray(_shape_like(a), a.dtype if dtype is None else dtype, buffer=buffer, name=name, **kwargs)


def zeros_like(a: Tensor, dtype: Any = None, *, buffer: Any = None, name: str = "", **kwargs: Any) -> Tensor:
    """A new tensor of zeros of the shape, and by default the type, of another."""
    return zeros(_shape_like(a), a.dtype if dtype is None else dtype, buffer=buffer, name=name, **kwargs)


def shared_constant(constant: Any, dtype: Any = None, **kwargs: Any) -> Tensor:
    """A constant in HBM, there before the kernel starts; load it to use it.

    Args:
        constant: A NumPy array.
        dtype: Element type; by default the array's.
        **kwargs: Hints for the compiler; ignored.
    """
    array = np.asarray(constant)
    element = as_dtype(array.dtype if dtype is None else dtype)
    name = str(kwargs.get("name", "")) or "constant"
    return hbm_tensor(np.ascontiguousarray(array.astype(element)), element, name, is_external=True)


def shared_identity_matrix(n: int, dtype: Any = np.uint8, **kwargs: Any) -> Tensor:
    """An identity matrix in HBM; one of a size and type serves the whole kernel."""
    known: dict[Any, Tensor] = current().state.setdefault(_CONSTANTS, {})
    key = (int(n), as_dtype(dtype).name)
    if key not in known:
        known[key] = shared_constant(np.identity(int(n)), dtype=dtype, name="identity")
    return known[key]
