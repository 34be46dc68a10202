"""Elementwise math and reductions of `neuronxcc.nki.language`, each as the instructions it lowers to.

- Functions that the Scalar engine has a table for become one `activation`.
- Two tiles of one shape become one `tensor_tensor`; a tile and a number, or a tile and one element per partition, one
  `tensor_scalar`.
- Broadcasting along the free dimensions costs nothing: the access pattern repeats. Broadcasting a single partition to
  many needs the Tensor engine (see `spread_partitions`), as the architecture guide describes for `broadcast_to`.
- Reductions become one `tensor_reduce`.

Sources: AWS Neuron documentation, `nki.language`, "NKI API Common Fields" (types of results, engines per operator).
"""
# ruff: noqa: ARG001, A001 - keywords that the documented signatures have and that change nothing here

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from npuscope.simulate.nki import classic_isa as isa
from npuscope.simulate.nki.access import as_mask
from npuscope.simulate.nki.classic_memory import spread_partitions
from npuscope.simulate.nki.index import Index, Mask, broadcast_shapes
from npuscope.simulate.nki.numerics import is_float, promote, scalar_dtype
from npuscope.simulate.nki.tensors import Tensor
from npuscope.simulate.nki.trace import KernelError

Function = Callable[..., Any]
_FLOAT32: Final = np.dtype(np.float32)


def _named(function: Function, name: str, summary: str) -> Function:
    """Give a function that a table made its own name and docstring."""
    function.__name__ = function.__qualname__ = name
    function.__doc__ = summary
    return function


def _need_tile(name: str, x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        raise KernelError(f"{name}: takes a tile, not {type(x).__name__}")
    return x


def _activation(name: str, what: str) -> Function:
    """A function that the Scalar engine computes in one instruction."""

    def function(x: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
        return isa.activation(name, _need_tile(name, x), dtype=dtype, mask=mask)

    return _named(function, name, f"{what}, element by element: one `activation` on the Scalar engine.")


def _vector(name: str, what: str, op: str, operand: float, *, reverse: bool = False) -> Function:
    """A function of one tile that is one `tensor_scalar`."""

    def function(x: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
        return isa.tensor_scalar(_need_tile(name, x), op, operand, reverse0=reverse, dtype=dtype, mask=mask)

    return _named(function, name, f"{what}, element by element: one `tensor_scalar` ({op}).")


arctan = _activation("arctan", "Inverse tangent")
erf = _activation("erf", "Error function")
erf_dx = _activation("erf_dx", "Derivative of the error function")
exp = _activation("exp", "Exponential")
gelu = _activation("gelu", "Gaussian error linear unit")
gelu_apprx_sigmoid = _activation("gelu_apprx_sigmoid", "Gaussian error linear unit, approximated with a sigmoid")
gelu_apprx_tanh = _activation("gelu_apprx_tanh", "Gaussian error linear unit, approximated with tanh")
gelu_dx = _activation("gelu_dx", "Derivative of the Gaussian error linear unit")
log = _activation("log", "Natural logarithm")
mish = _activation("mish", "Mish, x * tanh(softplus(x))")
relu = _activation("relu", "Rectified linear unit")
rsqrt = _activation("rsqrt", "Reciprocal of the square root")
sigmoid = _activation("sigmoid", "Logistic sigmoid")
sign = _activation("sign", "Sign")
silu = _activation("silu", "Sigmoid linear unit")
silu_dx = _activation("silu_dx", "Derivative of the sigmoid linear unit")
sin = _activation("sin", "Sine")
softplus = _activation("softplus", "Softplus, log(1 + exp(x))")
sqrt = _activation("sqrt", "Square root")
square = _activation("square", "Square")
tanh = _activation("tanh", "Hyperbolic tangent")
ceil = _activation("ceil", "Smallest integer at or above")
floor = _activation("floor", "Largest integer at or below")
trunc = _activation("trunc", "Integer part")
cos = _activation("cos", "Cosine")
tan = _activation("tan", "Tangent")
abs = _vector("abs", "Absolute value", "abs", 0.0)
negative = _vector("negative", "Negative", "multiply", -1.0)


def invert(x: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
    """Bitwise NOT of integers: one `tensor_scalar` on the Vector engine."""
    return isa.tensor_scalar(_need_tile("invert", x), "invert", 0, dtype=dtype, mask=mask)


def logical_not(x: Any, *, dtype: Any = bool, mask: Any = None, **kwargs: Any) -> Any:
    """Whether an element is zero: one `tensor_scalar`."""
    return isa.tensor_scalar(_need_tile("logical_not", x), "equal", 0.0, dtype=dtype, mask=mask)


def reciprocal(x: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
    """1 / x: one `reciprocal` on the Vector engine."""
    return isa.reciprocal(_need_tile("reciprocal", x), dtype=dtype, mask=mask)


def _operand(name: str, value: Any) -> Any:
    """An operand as a tile or a plain number."""
    if isinstance(value, (Tensor, int, float, np.generic)):
        return value
    if isinstance(value, np.ndarray) and value.size == 1:
        return value.reshape(())[()]
    raise KernelError(f"{name}: takes tiles and numbers, not {type(value).__name__}")


def result_dtype(x: Any, y: Any) -> Any:
    """The type of an operation's result where none is asked for."""
    first = x.dtype if isinstance(x, Tensor) else scalar_dtype(x)
    second = y.dtype if isinstance(y, Tensor) else scalar_dtype(y)
    return first if first == second else promote(first, second)


def binary(name: str, x: Any, y: Any, dtype: Any = None, mask: Any = None) -> Tensor:
    """One operator of the ALU on two operands, of which at least one is a tile.

    Args:
        name: The operator, as `nki.language` spells it.
        x: Tile or number.
        y: Tile or number.
        dtype: Of the result; by default the promoted type.
        mask: Positions that take part.

    Raises:
        KernelError: The shapes do not broadcast.
    """
    x, y = _operand(name, x), _operand(name, y)
    if dtype is None:
        dtype = result_dtype(x, y)
    if not isinstance(y, Tensor):
        if not isinstance(x, Tensor):
            raise KernelError(f"{name}: needs a tile among its operands")
        return isa.tensor_scalar(x, name, y, dtype=dtype, mask=mask)
    if not isinstance(x, Tensor):
        return isa.tensor_scalar(y, name, x, reverse0=True, dtype=dtype, mask=mask)
    if x.shape != y.shape:
        x, y = _same_partitions(name, x, y)
        if y.elements == 1 and x.elements > 1:
            return isa.tensor_scalar(x, name, _column(y), dtype=dtype, mask=mask)
        if x.elements == 1 and y.elements > 1:
            return isa.tensor_scalar(y, name, _column(x), reverse0=True, dtype=dtype, mask=mask)
        shape = broadcast_shapes(x.shape, y.shape)
        x, y = x.broadcast_to(shape), y.broadcast_to(shape)
    return isa.tensor_tensor(x, y, name, dtype=dtype, mask=mask)


def _column(tile: Tensor) -> Tensor:
    """A tile of one element per partition as shape [P, 1]."""
    if tile.ndim == 2:
        return tile
    key: tuple[Any, ...] = (slice(None), *[0] * (tile.ndim - 2))
    return tile[key]


def _same_partitions(name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both tiles on as many partitions: one of a single partition is spread over those of the other."""
    try:
        partitions = broadcast_shapes(x.shape, y.shape)[0]
    except ValueError:
        raise KernelError(f"{name}: shapes {list(x.shape)} and {list(y.shape)} do not broadcast") from None
    if x.ndim != y.ndim:
        rank = max(x.ndim, y.ndim)
        x = x.broadcast_to((1,) * (rank - x.ndim) + x.shape)
        y = y.broadcast_to((1,) * (rank - y.ndim) + y.shape)
    return spread_partitions(x, partitions), spread_partitions(y, partitions)


def _arithmetic(name: str, what: str) -> Function:
    def function(x: Any, y: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
        return binary(name, x, y, dtype, mask)

    return _named(function, name, f"{what}, element by element, of tiles and numbers that broadcast.")


def _comparison(name: str, what: str) -> Function:
    def function(x: Any, y: Any, *, dtype: Any = bool, mask: Any = None, **kwargs: Any) -> Any:
        return binary(name, x, y, dtype, mask)

    return _named(function, name, f"Whether {what}, element by element; booleans unless `dtype` says otherwise.")


add = _arithmetic("add", "Sum")
subtract = _arithmetic("subtract", "Difference")
multiply = _arithmetic("multiply", "Product")
power = _arithmetic("power", "x to the power of y")
maximum = _arithmetic("maximum", "The larger one")
minimum = _arithmetic("minimum", "The smaller one")
bitwise_and = _arithmetic("bitwise_and", "AND of the bits")
bitwise_or = _arithmetic("bitwise_or", "OR of the bits")
bitwise_xor = _arithmetic("bitwise_xor", "Exclusive OR of the bits")
left_shift = _arithmetic("left_shift", "Bits of x moved left by y")
right_shift = _arithmetic("right_shift", "Bits of x moved right by y")
equal = _comparison("equal", "x == y")
not_equal = _comparison("not_equal", "x != y")
greater = _comparison("greater", "x > y")
greater_equal = _comparison("greater_equal", "x >= y")
less = _comparison("less", "x < y")
less_equal = _comparison("less_equal", "x <= y")
logical_and = _comparison("logical_and", "both are true")
logical_or = _comparison("logical_or", "one is true")
logical_xor = _comparison("logical_xor", "exactly one is true")


def divide(x: Any, y: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
    """x / y, element by element: one instruction, which is `reciprocal` where x is the number 1."""
    if isinstance(y, Tensor) and not isinstance(x, Tensor) and _operand("divide", x) == 1:
        return isa.reciprocal(y, dtype=result_dtype(x, y) if dtype is None else dtype, mask=mask)
    return binary("divide", x, y, dtype, mask)


def mod(x: Any, y: Any, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
    """Remainder with the sign of y, element by element."""
    return binary("mod", x, y, dtype, mask)


def fmod(x: Any, y: Any, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
    """Remainder with the sign of x, element by element."""
    return binary("fmod", x, y, dtype, mask)


def _axes(name: str, x: Tensor, axis: Any) -> tuple[int, ...]:
    """The axes of a reduction, in order."""
    given = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    axes = tuple(sorted(int(a) + x.ndim if a < 0 else int(a) for a in given))
    if not axes or axes[0] == 0:
        raise KernelError(f"{name}: cannot reduce over axis 0, the partitions")
    if axes[-1] >= x.ndim or len(set(axes)) < len(axes):
        raise KernelError(f"{name}: a tile of shape {list(x.shape)} has no axes {axis}")
    return axes


def reduce_tile(name: str, op: str, x: Any, axis: Any, dtype: Any, mask: Any, *, keepdims: bool) -> Any:
    """One `tensor_reduce`; axes that are not last are moved there by the access pattern, at no cost."""
    tile = _need_tile(name, x)
    axes = _axes(name, tile, axis)
    rank = tile.ndim
    if axes != tuple(range(rank - len(axes), rank)):
        kept = [a for a in range(rank) if a not in axes]
        order = (*kept, *axes)
        shape = tuple(1 if a in axes else size for a, size in enumerate(tile.shape))
        mask = None if mask is None else _permuted_mask(mask, tile.shape, order)
        tile = _permuted(tile, order)
        axes = tuple(range(len(kept), rank))
        result = isa.tensor_reduce(op, tile, axis=axes, dtype=dtype, mask=mask, keepdims=False)
        return result.reshape(shape) if keepdims else result
    return isa.tensor_reduce(op, tile, axis=axes, dtype=dtype, mask=mask, keepdims=keepdims)


def _permuted(tile: Tensor, order: tuple[int, ...]) -> Tensor:
    """A view with its axes in another order; the partitions stay first."""
    shape = tuple(tile.shape[axis] for axis in order)
    strides = tuple(tile.strides[axis] for axis in order)
    return Tensor(tile.storage, tile.dtype, shape, strides, tile.offset, tile.par)


def _permuted_mask(mask: Any, shape: tuple[int, ...], order: tuple[int, ...]) -> Mask:
    """The mask of a tile of `shape`, for the tile with its axes in another order."""
    found = as_mask(mask)
    missing = len(shape) - len(found.shape)
    conditions = []
    for condition in found.conditions:
        rank = (0,) * (len(shape) - len(condition.shape))
        coefficients, sizes = rank + condition.coefficients, (1,) * len(rank) + condition.shape
        conditions.append(
            Index(tuple([sizes[a] for a in order]), condition.const, tuple([coefficients[a] for a in order]))
        )
    dense = found.dense
    if dense is not None:
        dense = dense.reshape((1,) * (len(shape) - dense.ndim) + dense.shape).transpose(order)
    sizes = (1,) * missing + found.shape
    return Mask(tuple([sizes[a] for a in order]), tuple(conditions), dense)


def _reduction(name: str, what: str, op: str) -> Function:
    def function(
        x: Any, axis: Any, *, dtype: Any = None, mask: Any = None, keepdims: bool = False, **kwargs: Any
    ) -> Any:
        return reduce_tile(name, op, x, axis, dtype, mask, keepdims=keepdims)

    return _named(function, name, f"{what} along free axes: one `tensor_reduce` on the Vector engine.")


max = _reduction("max", "Maximum", "maximum")
min = _reduction("min", "Minimum", "minimum")
sum = _reduction("sum", "Sum", "add")
prod = _reduction("prod", "Product", "multiply")


def all(x: Any, axis: Any, *, dtype: Any = bool, mask: Any = None, **kwargs: Any) -> Any:
    """Whether all elements along free axes are true: one `tensor_reduce`."""
    return reduce_tile("all", "logical_and", x, axis, dtype, mask, keepdims=bool(kwargs.get("keepdims", False)))


def mean(x: Any, axis: Any, *, dtype: Any = None, mask: Any = None, keepdims: bool = False, **kwargs: Any) -> Any:
    """Mean along free axes: a `tensor_reduce` in float32, then a `tensor_scalar` that divides by the count."""
    tile = _need_tile("mean", x)
    count = 1
    for a in _axes("mean", tile, axis):
        count *= tile.shape[a]
    if dtype is None:
        dtype = tile.dtype if is_float(tile.dtype) else _FLOAT32
    total = reduce_tile("mean", "add", tile, axis, _FLOAT32, mask, keepdims=keepdims)
    return isa.tensor_scalar(total, "multiply", 1.0 / count, dtype=dtype)


def var(x: Any, axis: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Any:
    """Variance along free axes: the mean of the squared distances from the mean.

    Lowers to a `mean`, a `tensor_scalar` that subtracts it, an `activation` that squares, and another `mean`.
    """
    tile = _need_tile("var", x)
    centre = mean(tile, axis, dtype=_FLOAT32, mask=mask, keepdims=True)
    distance = binary("subtract", tile, centre, _FLOAT32, mask)
    return mean(square(distance), axis, dtype=tile.dtype if dtype is None else dtype, mask=mask, **kwargs)
