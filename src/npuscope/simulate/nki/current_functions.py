"""Functions of the current `nki.language` that make new tiles, each as the instructions it lowers to.

They are conveniences over `nki.isa`, and lower as those of the classic dialect do, from which they are made here.
Differences: results are `NkiTensor`s, comparisons have the type of their input, `matmul` and `transpose` leave their
result in PSUM, `shared_identity_matrix` is loaded into SBUF.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from npuscope.simulate.neuroncore.program import Space
from npuscope.simulate.nki import (
    classic_buffers,
    classic_composites,
    classic_language,
    classic_loops,
    classic_math,
    classic_memory,
)
from npuscope.simulate.nki import classic_isa as isa
from npuscope.simulate.nki import current_isa as nisa
from npuscope.simulate.nki.current_memory import empty_like, ndarray
from npuscope.simulate.nki.current_operands import reads
from npuscope.simulate.nki.current_tensor import MemoryRegion, NkiTensor, as_nki
from npuscope.simulate.nki.dtypes import as_dtype
from npuscope.simulate.nki.tensors import Tensor
from npuscope.simulate.nki.trace import KernelError, current

Function = Callable[..., Any]
_IN_SBUF: Final = MemoryRegion.sbuf


class Operator:
    """An operator or function of an engine that is only named, never called."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __repr__(self) -> str:
        return f"nki.language.{self.__name__}"


bypass: Final = Operator("bypass")
prelu: Final = Operator("prelu")
average: Final = Operator("average")


def _named(function: Function, name: str, summary: str | None) -> Function:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = summary
    return function


def _adopted(name: str) -> Function:
    """The classic function of that name, with results of the current dialect."""
    original: Function = getattr(classic_language, name)

    def function(*operands: Any, **options: Any) -> Any:
        reads(name, *operands)
        return as_nki(original(*operands, **options))

    return _named(function, name, original.__doc__)


def _unary(name: str) -> Function:
    """A classic function `f(x, dtype=None)`."""
    original: Function = getattr(classic_language, name)

    def function(x: Any, dtype: Any = None) -> Any:
        reads(name, x)
        return as_nki(original(x, dtype=_type_like(x, dtype)))

    return _named(function, name, original.__doc__)


def _binary(name: str) -> Function:
    """A classic function `f(x, y, dtype=None)`, whose result has the type of its input."""
    original: Function = getattr(classic_language, name)

    def function(x: Any, y: Any, dtype: Any = None) -> Any:
        reads(name, x, y)
        if dtype is None and original.__name__ in _TRUTHS:
            dtype = _type_like(x if isinstance(x, Tensor) else y, None)
        return as_nki(original(x, y, dtype=dtype))

    return _named(function, name, original.__doc__)


def _type_like(x: Any, dtype: Any) -> Any:
    return x.dtype if dtype is None and isinstance(x, Tensor) else dtype


_TRUTHS: Final = frozenset(
    {
        "equal",
        "not_equal",
        "less",
        "less_equal",
        "greater",
        "greater_equal",
        "logical_and",
        "logical_or",
        "logical_xor",
    }
)
UNARY: Final = [
    "abs",
    "arctan",
    "ceil",
    "copy",
    "cos",
    "erf",
    "erf_dx",
    "exp",
    "floor",
    "gelu",
    "gelu_apprx_sigmoid",
    "gelu_apprx_tanh",
    "gelu_dx",
    "invert",
    "log",
    "logical_not",
    "mish",
    "negative",
    "reciprocal",
    "relu",
    "rsqrt",
    "sigmoid",
    "sign",
    "silu",
    "silu_dx",
    "sin",
    "softplus",
    "sqrt",
    "square",
    "tan",
    "tanh",
    "trunc",
]
BINARY: Final = [
    "add",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "divide",
    "equal",
    "fmod",
    "greater",
    "greater_equal",
    "left_shift",
    "less",
    "less_equal",
    "logical_and",
    "logical_or",
    "logical_xor",
    "maximum",
    "minimum",
    "mod",
    "multiply",
    "not_equal",
    "power",
    "right_shift",
    "subtract",
]
ADOPTED: Final = [
    "dropout",
    "gather_flattened",
    "load_transpose2d",
    "max",
    "mean",
    "min",
    "prod",
    "random_seed",
    "softmax",
    "sum",
    "var",
]


def elementwise() -> dict[str, Function]:
    """All functions that are made from classic ones, by name."""
    found = {name: _unary(name) for name in UNARY} | {name: _binary(name) for name in BINARY}
    return found | {name: _adopted(name) for name in ADOPTED}


def gelu_apprx_sigmoid_dx(x: Any, dtype: Any = None) -> Any:
    """Derivative of the approximated Gaussian error linear unit: one `activation` on the Scalar engine."""
    reads("gelu_apprx_sigmoid_dx", x)
    return as_nki(isa.activation("gelu_apprx_sigmoid_dx", x, dtype=dtype))


def _absolute(name: str) -> Function:
    def function(x: Any, y: Any, dtype: Any = None) -> Any:
        reads(name, x, y)
        return as_nki(classic_math.binary(name, x, y, dtype))

    return _named(function, name, f"The {name[4:]} of the absolute values: one instruction.")


abs_max = _absolute("abs_max")
abs_min = _absolute("abs_min")


def all(x: Any, axis: Any, dtype: Any = None) -> Any:  # noqa: A001 - the documented name
    """Whether all elements along free axes are true: one `tensor_reduce`."""
    reads("all", x)
    return as_nki(classic_math.all(x, axis, dtype=_type_like(x, dtype)))


def rms_norm(
    x: Any, w: Any, axis: Any, n: Any, epsilon: float = 1e-06, dtype: Any = None, compute_dtype: Any = None
) -> Any:
    """`x / RMS(x) * w` along free axes; see the classic function for the instructions."""
    reads("rms_norm", x, w)
    return as_nki(classic_composites.rms_norm(x, w, axis, n, epsilon=epsilon, dtype=dtype, compute_dtype=compute_dtype))


def where(condition: Any, x: Any, y: Any, dtype: Any = None) -> Any:
    """`x` where `condition` is not zero, else `y`."""
    reads("where", condition, x, y)
    return as_nki(classic_composites.where(condition, x, y, dtype=dtype))


def load(src: Any, dtype: Any = None) -> NkiTensor:
    """A new SBUF tile with the values of an HBM tensor: one DMA."""
    found: NkiTensor = as_nki(classic_memory.load(src, dtype=dtype))
    return found


def store(dst: Any, value: Any) -> None:
    """Store a tile into an HBM tensor: one DMA, after a copy to SBUF where it is in PSUM."""
    reads("store", value)
    classic_memory.store(dst, value)


def broadcast_to(x: Any, shape: Any, dtype: Any = None) -> Any:
    """A tile repeated to a shape: along free axes at no cost, across partitions by the Tensor engine."""
    reads("broadcast_to", x)
    result = as_nki(classic_memory.broadcast_to(x, shape=tuple(shape)))
    return result if dtype is None or as_dtype(dtype) == result.dtype else as_nki(isa.tensor_copy(result, dtype=dtype))


def expand_dims(x: NkiTensor, axis: int) -> NkiTensor:
    """A view with a new axis of size 1."""
    return x.expand_dim(axis if axis >= 0 else axis + x.ndim + 1)


def transpose(x: NkiTensor, dtype: Any = None) -> NkiTensor:
    """Partitions and elements of a 2-D tile swapped, in PSUM: one `nc_transpose`."""
    if x.ndim != 2:
        raise KernelError(f"transpose: x has {x.ndim} axes; it must have 2")
    result = ndarray((x.shape[1], x.shape[0]), x.dtype, MemoryRegion.psum)
    nisa.nc_transpose(result, x, engine=nisa.engine.tensor)
    if dtype is None or as_dtype(dtype) == x.dtype:
        return result
    converted = ndarray(result.shape, dtype, MemoryRegion.psum)
    nisa.tensor_copy(converted, result)
    return converted


def matmul(x: NkiTensor, y: NkiTensor, transpose_x: bool = False) -> NkiTensor:
    """`x @ y`, or `x.T @ y`, in PSUM: a transpose unless `transpose_x`, and one `nc_matmul`."""
    if not transpose_x:
        turned = ndarray((x.shape[1], x.shape[0]), x.dtype)
        nisa.tensor_copy(turned, transpose(x))
        x = turned
    result = ndarray((x.shape[1], *y.shape[1:]), np.float32, MemoryRegion.psum)
    nisa.nc_matmul(result, x, y)
    return result


def full(shape: Any, fill_value: Any, dtype: Any, buffer: Any = _IN_SBUF, name: str = "") -> NkiTensor:
    """A new tensor filled with one value: one `memset`, and for HBM the DMAs that spread it."""
    tensor = ndarray(shape, dtype, buffer, name)
    if tensor.space is not Space.HBM:
        nisa.memset(tensor, fill_value)
        return tensor
    flat = tensor.reshape((-1, tensor.shape[-1]))
    rows = min(flat.shape[0], 128)
    tile = ndarray((rows, flat.shape[1]), dtype)
    nisa.memset(tile, fill_value)
    for start in range(0, flat.shape[0], rows):
        stop = min(start + rows, flat.shape[0])
        nisa.dma_copy(flat[start:stop], tile[: stop - start])
    return tensor


def zeros(shape: Any, dtype: Any, buffer: Any = _IN_SBUF, name: str = "") -> NkiTensor:
    """A new tensor of zeros."""
    return full(shape, 0, dtype, buffer, name)


def ones(shape: Any, dtype: Any, buffer: Any = _IN_SBUF, name: str = "") -> NkiTensor:
    """A new tensor of ones."""
    return full(shape, 1, dtype, buffer, name)


def zeros_like(x: NkiTensor, dtype: Any = None, buffer: Any = None, name: str = "") -> NkiTensor:
    """A new tensor of zeros of the shape, and by default the type and memory, of another."""
    like = empty_like(x, dtype, buffer, name)
    if like.space is Space.HBM:
        return full(x.shape, 0, like.dtype, like.buffer, name)
    nisa.memset(like, 0)
    return like


def rand(shape: Any, dtype: Any, buffer: Any = _IN_SBUF, name: str = "") -> NkiTensor:  # noqa: ARG001
    """A new tensor of uniform random numbers in [0, 1)."""
    if buffer is not _IN_SBUF:
        raise KernelError("rand: only buffer=nl.sbuf is supported by the simulator")
    found: NkiTensor = as_nki(classic_composites.rand(shape, dtype))
    return found


def shared_constant(constant: Any) -> NkiTensor:
    """A constant in HBM, there before the kernel starts: an array, or the path of a `.npy` file."""
    values = np.load(constant, allow_pickle=False) if isinstance(constant, str) else constant
    found: NkiTensor = as_nki(classic_buffers.shared_constant(values))
    return found


def shared_identity_matrix(n: int, dtype: Any = np.uint8, dst: NkiTensor | None = None) -> NkiTensor:
    """An identity matrix in SBUF, loaded from HBM by one DMA."""
    target = ndarray((int(n), int(n)), dtype) if dst is None else dst
    nisa.dma_copy(target, as_nki(classic_buffers.shared_identity_matrix(n, dtype=target.dtype)))
    return target


def program_id(axis: int = 0) -> int:
    """Number of the core that runs now, of those that the kernel was launched on."""
    return classic_loops.program_id(axis)


def num_programs(axes: Any = 0) -> int:
    """On how many cores the kernel was launched."""
    return classic_loops.num_programs(axes)


def device_print(print_prefix: str, tensor: Any) -> None:
    """Print the values of a tile on standard error, where values are computed."""
    classic_memory.device_print(print_prefix, tensor)


@contextmanager
def no_reorder() -> Iterator[None]:
    """A block in program order; how far instructions move is an option of the simulation (`--window`)."""
    current()
    yield
