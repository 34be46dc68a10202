"""Functions of `neuronxcc.nki.language` that become several instructions: products, softmax, norms, selection, loops.

Each docstring names the instructions. Where the documentation leaves the lowering open, the shortest sequence of
documented `nki.isa` instructions is taken.
"""
# ruff: noqa: ARG001 - keywords that the documented signatures have and that change nothing here

from __future__ import annotations

from typing import Any, Final

import numpy as np

from npuscope.simulate.neuroncore.program import Space
from npuscope.simulate.nki import classic_isa as isa
from npuscope.simulate.nki import emit
from npuscope.simulate.nki.classic_loops import num_programs
from npuscope.simulate.nki.classic_math import binary, reduce_tile, result_dtype
from npuscope.simulate.nki.classic_memory import PE_SIDE, copy_into, fill
from npuscope.simulate.nki.dtypes import as_dtype
from npuscope.simulate.nki.numerics import cast_to
from npuscope.simulate.nki.tensors import Tensor, new_tile
from npuscope.simulate.nki.trace import KernelError, current, current_line

_FLOAT32: Final = np.dtype(np.float32)
_RANDOM: Final = "classic.random"
"""Key of `Trace.state`: the generator behind `rand`, seeded with 0 until `random_seed` says otherwise."""


def matmul(x: Tensor, y: Tensor, *, transpose_x: bool = False, mask: Any = None, **kwargs: Any) -> Tensor:
    """`x @ y`, or `x.T @ y`: one `nc_matmul` with the result in PSUM.

    An `x` that is not transposed yet costs an `nc_transpose` on the Tensor engine and a copy from PSUM to SBUF before.

    Args:
        x: [M, K] tile, or [K, M] with `transpose_x`; at most 128 x 128.
        y: [K, N] tile, N at most 512.
        transpose_x: `x` is transposed already.
        mask: Positions of the result's operands that take part.
        **kwargs: Hints for the compiler; ignored.
    """
    if not transpose_x:
        emit.on_chip("matmul", x=x, y=y)
        if x.elements > PE_SIDE:
            raise KernelError(f"matmul: x has {x.elements} columns, at most {PE_SIDE}")
        x = isa.tensor_copy(isa.nc_transpose(x, engine=isa.tensor_engine), dtype=x.dtype)
    return isa.nc_matmul(x, y, mask=mask)


def transpose(x: Tensor, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Tensor:
    """A 2-D tile with partitions and free dimension swapped: one `nc_transpose`."""
    emit.on_chip("transpose", x=x)
    if x.ndim != 2:
        raise KernelError(f"transpose: x has {x.ndim} dimensions, at most 2")
    if x.shape[1] > PE_SIDE:
        raise KernelError(f"transpose: x has {x.shape[1]} columns, at most {PE_SIDE}")
    return isa.nc_transpose(x, dtype=dtype, mask=mask)


def _all_free(x: Tensor, axis: Any) -> bool:
    """Whether `axis` names all free axes of a tile."""
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    return sorted(a % x.ndim for a in axes) == list(range(1, x.ndim))


def softmax(
    x: Tensor, axis: Any, *, dtype: Any = None, compute_dtype: Any = None, mask: Any = None, **kwargs: Any
) -> Tensor:
    """exp(x - max) / sum(exp(x - max)) along free axes.

    Lowers to `tensor_reduce` (the negative maximum), `activation_reduce` (exponential and its sum), `reciprocal` and
    `tensor_scalar`; over some of several free axes to `tensor_reduce`, `tensor_tensor`, `activation`, `tensor_reduce`,
    `reciprocal` and `tensor_tensor`.
    """
    emit.on_chip("softmax", x=x)
    element = x.dtype if dtype is None and compute_dtype is None else as_dtype(dtype or compute_dtype)
    if _all_free(x, axis):
        lowest = isa.tensor_reduce("maximum", x, axis=tuple(range(1, x.ndim)), dtype=_FLOAT32, negate=True, mask=mask)
        line = current_line()
        total = new_tile((x.shape[0], 1), _FLOAT32, Space.SBUF, name=line, site=(line, "softmax", x.shape[0]))
        grown = isa.activation_reduce(
            "exp", x, reduce_op="add", reduce_res=total, bias=lowest, dtype=_FLOAT32, mask=mask
        )
        return isa.tensor_scalar(grown, "multiply", isa.reciprocal(total), dtype=element, mask=mask)
    highest = reduce_tile("softmax", "maximum", x, axis, _FLOAT32, mask, keepdims=True)
    grown = isa.activation("exp", binary("subtract", x, highest, _FLOAT32, mask), dtype=_FLOAT32, mask=mask)
    total = reduce_tile("softmax", "add", grown, axis, _FLOAT32, mask, keepdims=True)
    return binary("multiply", grown, isa.reciprocal(total), element, mask)


def rms_norm(
    x: Tensor,
    w: Tensor,
    axis: Any,
    n: int,
    epsilon: float = 1e-06,
    *,
    dtype: Any = None,
    compute_dtype: Any = None,
    mask: Any = None,
    **kwargs: Any,
) -> Tensor:
    """x / sqrt(sum(x^2) / n + epsilon) * w along all free axes.

    Lowers to `activation_reduce` (squares and their sum), `tensor_scalar` (mean plus epsilon), `activation` (rsqrt),
    `tensor_scalar` (x times that) and `tensor_tensor` (times w, which is spread over the partitions if it has one).
    """
    emit.on_chip("rms_norm", x=x, w=w)
    if not _all_free(x, axis):
        raise KernelError(f"rms_norm: axis {axis} is not all free axes of a tile of shape {list(x.shape)}")
    element = x.dtype if dtype is None and compute_dtype is None else as_dtype(dtype or compute_dtype)
    line = current_line()
    total = new_tile((x.shape[0], 1), _FLOAT32, Space.SBUF, name=line, site=(line, "rms_norm", x.shape[0]))
    isa.activation_reduce("square", x, reduce_op="add", reduce_res=total, dtype=_FLOAT32, mask=mask)
    mean = isa.tensor_scalar(total, "multiply", 1.0 / n, op1="add", operand1=float(epsilon))
    scaled = isa.tensor_scalar(x, "multiply", isa.activation("rsqrt", mean), dtype=_FLOAT32, mask=mask)
    return binary("multiply", scaled, w, element, mask)


def where(condition: Tensor, x: Any, y: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Tensor:
    """`x` where `condition` is true, else `y`: a copy (`tensor_copy` or `memset`) of `y`, then `tensor_copy_predicated`.

    Args:
        condition: Tile, true where it is not 0.
        x: Tile or number.
        y: Tile or number.
        dtype: Of the result; by default the promoted type.
        mask: Positions that are selected.
        **kwargs: Hints for the compiler; ignored.
    """
    emit.on_chip("where", condition=condition)
    tiles = [operand for operand in (condition, x, y) if isinstance(operand, Tensor)]
    shape = tuple(int(size) for size in np.broadcast_shapes(*[tile.shape for tile in tiles]))
    element = result_dtype(x, y) if dtype is None else as_dtype(dtype)
    line = current_line()
    result = new_tile(shape, element, Space.SBUF, name=line, site=(line, "where", shape))
    if isinstance(y, Tensor):
        copy_into(result, y)
    else:
        fill(result, y)
    chosen = [_spread(condition, shape)]
    if isinstance(x, Tensor):
        chosen.append(_spread(x, shape))
    number = emit.instruction("tensor_copy_predicated", emit.VECTOR, chosen, result, mask=mask, line=line)
    if current().compute and number >= 0:
        values = chosen[1].value() if len(chosen) > 1 else np.asarray(x)
        picked = np.where(chosen[0].value() != 0, cast_to(np.asarray(values), element), result.value())
        result.assign(picked, mask)
    return result


def _spread(tile: Tensor, shape: tuple[int, ...]) -> Tensor:
    return tile if tile.shape == shape else tile.broadcast_to(shape)


def dropout(x: Tensor, rate: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Tensor:
    """Zero elements at random, each with probability `rate`, without scaling the others: one `dropout`."""
    return isa.dropout(x, rate, dtype=dtype, mask=mask)


def _generator() -> np.random.Generator:
    found: np.random.Generator = current().state.setdefault(_RANDOM, np.random.default_rng(0))
    return found


def random_seed(seed: Any, *, mask: Any = None, **kwargs: Any) -> None:
    """Seed the random numbers of `rand`, with a number or a tile of one element; the instruction itself is not modelled."""
    value = seed
    if isinstance(seed, Tensor):
        value = seed.value().reshape(-1)[0] if current().compute else 0
    current().state[_RANDOM] = np.random.default_rng(int(value) & 0xFFFFFFFF)


def rand(shape: Any, dtype: Any = np.float32, **kwargs: Any) -> Tensor:
    """A new SBUF tile of uniform random numbers in [0, 1): one instruction `rand` on the Vector engine."""
    sizes, element, line = tuple(int(size) for size in shape), as_dtype(dtype), current_line()
    result = emit.fresh(sizes, element, Space.SBUF, line, "rand")
    emit.instruction("rand", emit.VECTOR, (), result, line=line, is_fresh=True)
    if current().compute:
        result.assign(cast_to(_generator().random(sizes, dtype=np.float32), element))
    return result


def all_reduce(
    x: Tensor,
    op: Any,
    program_axes: Any,
    *,
    dtype: Any = None,
    mask: Any = None,
    parallel_reduce: bool = True,
    asynchronous: bool = False,
    **kwargs: Any,
) -> Tensor:
    """Reduce a tile over programs of the launch grid; the simulator runs it along axes of one program: a `tensor_copy`.

    Raises:
        KernelError: There is more than one program: they run one after the other here.
    """
    if num_programs(program_axes) != 1:
        raise KernelError("nl.all_reduce over more than one program is not supported by the simulator")
    return isa.tensor_copy(x, dtype=dtype, mask=mask)
