"""What the engines compute: data types, casts and ALU operators, on NumPy arrays.

Vector, Scalar and GpSimd engines convert every input to float32, compute in float32 and round once when they write
(AWS Neuron documentation, `nki.isa` and "NKI API Common Fields"). Bitwise operators see the bits of integers. 32-bit
integer add, subtract and multiply stay integers on GpSimd and wrap. A float that is too large for a narrower float
becomes infinite (documented at `range_select`); a float written as an integer is rounded to the nearest even and
clipped to its range, which the documentation leaves open and is an assumption here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, cast

import ml_dtypes
import numpy as np
import numpy.typing as npt

from npuscope.simulate.nki.dtypes import TFLOAT32, dtype_name, is_tfloat32

Array = npt.NDArray[Any]

FLOAT32: Final = np.dtype(np.float32)
BFLOAT16: Final = np.dtype(ml_dtypes.bfloat16)


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether the type is one of the floating point types, 8-bit ones and tfloat32 included."""
    return dtype.kind not in "iub"


def is_integer(dtype: np.dtype[Any]) -> bool:
    """Whether the type is an integer; bool counts, as it is stored as uint8."""
    return dtype.kind in "iub"


def to_float32(values: Array) -> npt.NDArray[np.float32]:
    """The float32 that an engine makes of its input; no copy where it is float32 already."""
    return values if values.dtype == FLOAT32 else values.astype(np.float32)


def _to_tfloat32(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Round to 10 mantissa bits, ties to even; infinities and NaN stay."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))
    kept = (rounded & np.uint32(0xFFFFE000)).view(np.float32)
    return cast("npt.NDArray[np.float32]", np.where(np.isfinite(values), kept, values))


def cast_to(values: Array, dtype: np.dtype[Any]) -> Array:
    """Write `values` as `dtype`: bit-exact for the same type, else through float32, rounded once.

    Args:
        values: Any array; often the float32 result of an engine, or exact integers.
        dtype: Type of the destination.

    Returns:
        An array of the same shape; `values` itself where nothing has to change.
    """
    if is_tfloat32(dtype):
        return _to_tfloat32(to_float32(values))
    if values.dtype == dtype:
        return values
    if dtype.kind == "b":
        return cast("Array", values != 0)
    with np.errstate(all="ignore"):
        if dtype.kind not in "iu":
            return to_float32(values).astype(dtype)
        limits = np.iinfo(dtype)
        if values.dtype.kind in "iub" and values.dtype.itemsize in (1, 2, 8):
            # 64-bit integers are no engine's: they hold what was computed exactly.
            return np.clip(values.astype(np.int64), limits.min, limits.max).astype(dtype)
        wide = np.rint(np.nan_to_num(to_float32(values).astype(np.float64), nan=0.0))
        return np.clip(wide, limits.min, limits.max).astype(dtype)


_WIDENED: Final = {
    frozenset({"float16", "bfloat16"}): FLOAT32,
    frozenset({"float8_e4m3", "float8_e5m2"}): BFLOAT16,
    frozenset({"int32", "uint32"}): FLOAT32,
}
"""Pairs for which neither type holds the other's range."""
_promoted: dict[tuple[str, str], np.dtype[Any]] = {}


def promote(first: np.dtype[Any], second: np.dtype[Any]) -> np.dtype[Any]:
    """The type that an operation on two types writes where none is asked for ("NKI Type Promotion")."""
    key = (dtype_name(first), dtype_name(second))
    found = _promoted.get(key)
    if found is None:
        found = _promoted[key] = _promote(first, second)
    return found


def _promote(first: np.dtype[Any], second: np.dtype[Any]) -> np.dtype[Any]:
    names = frozenset({dtype_name(first), dtype_name(second)})
    if len(names) == 1:
        return first
    if names in _WIDENED:
        widened: np.dtype[Any] = _WIDENED[names]
        return widened
    if is_float(first) != is_float(second):
        return first if is_float(first) else second
    if is_float(first):
        if "tfloat32" in names:
            return FLOAT32 if "float32" in names else TFLOAT32
        return first if first.itemsize > second.itemsize else second
    return np.promote_types(first, second)


def scalar_dtype(value: object) -> np.dtype[Any]:
    """The type of a scalar operand: its own where it is typed, else uint8, int32 or float32."""
    if isinstance(value, np.generic):
        return value.dtype
    if isinstance(value, bool):
        return np.dtype(np.uint8)
    return np.dtype(np.int32) if isinstance(value, int) else FLOAT32


Binary = Callable[[Array, Array], Array]


@dataclass(frozen=True, slots=True)
class Op:
    """One operator of the ALU."""

    name: str
    """As `nki.language` spells it."""
    apply: Callable[..., Array]
    """On float32 arrays, or on integers for a bitwise operator."""
    is_bitwise: bool = False
    """Sees integers as bits."""
    is_unary: bool = False
    """Ignores its operand."""
    reduces: np.ufunc | None = None
    """How to reduce with it; None where the documentation does not allow a reduction."""


def _truth(function: Callable[..., Any]) -> Callable[..., Array]:
    """A comparison or logical function that gives 0.0 and 1.0."""

    def apply(*values: Array) -> Array:
        return cast("Array", function(*values).astype(np.float32))

    return apply


def _divide(first: Array, second: Array) -> Array:
    return np.true_divide(first, second, dtype=np.float32)


def _shift_right(first: Array, second: Array) -> Array:
    """Logical: zeros come in from the left whatever the sign."""
    bits = np.dtype(f"u{first.dtype.itemsize}")
    return cast("Array", np.right_shift(first.view(bits), np.asarray(second).astype(bits)).view(first.dtype))


_COMPARE: Final = ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")
_OPS: Final[dict[str, Op]] = {
    op.name: op
    for op in (
        Op("add", np.add, reduces=np.add),
        Op("subtract", np.subtract, reduces=np.subtract),
        Op("multiply", np.multiply, reduces=np.multiply),
        Op("maximum", np.maximum, reduces=np.maximum),
        Op("minimum", np.minimum, reduces=np.minimum),
        Op("divide", _divide),
        Op("power", np.power),
        Op("mod", np.mod),
        Op("fmod", np.fmod),
        Op("abs_max", lambda a, b: np.maximum(np.abs(a), np.abs(b))),
        Op("abs_min", lambda a, b: np.minimum(np.abs(a), np.abs(b))),
        *(Op(name, _truth(getattr(np, name))) for name in _COMPARE),
        Op("logical_and", _truth(np.logical_and), reduces=np.logical_and),
        Op("logical_or", _truth(np.logical_or), reduces=np.logical_or),
        Op("logical_xor", _truth(np.logical_xor), reduces=np.logical_xor),
        Op("logical_not", _truth(np.logical_not), is_unary=True),
        Op("rsqrt", lambda a: np.float32(1) / np.sqrt(a), is_unary=True),
        Op("reciprocal", lambda a: np.float32(1) / a, is_unary=True),
        Op("abs", np.abs, is_unary=True),
        Op("square", np.square, is_unary=True),
        Op("relu", lambda a: np.maximum(a, np.float32(0)), is_unary=True),
        Op("invert", np.invert, is_bitwise=True, is_unary=True),
        Op("bitwise_and", np.bitwise_and, is_bitwise=True, reduces=np.bitwise_and),
        Op("bitwise_or", np.bitwise_or, is_bitwise=True, reduces=np.bitwise_or),
        Op("bitwise_xor", np.bitwise_xor, is_bitwise=True, reduces=np.bitwise_xor),
        Op("left_shift", np.left_shift, is_bitwise=True),
        Op("right_shift", _shift_right, is_bitwise=True),
    )
}
_ALIASES: Final = {
    "max": "maximum",
    "amax": "maximum",
    "fmax": "maximum",
    "min": "minimum",
    "amin": "minimum",
    "fmin": "minimum",
    "sum": "add",
    "prod": "multiply",
    "mul": "multiply",
    "sub": "subtract",
    "true_divide": "divide",
    "truediv": "divide",
    "pow": "power",
    "float_power": "power",
    "remainder": "mod",
    "absolute": "abs",
    "fabs": "abs",
    "all": "logical_and",
    "any": "logical_or",
    "bitwise_not": "invert",
    "bitwise_invert": "invert",
    "bitwise_left_shift": "left_shift",
    "bitwise_right_shift": "right_shift",
    "logical_shift_left": "left_shift",
    "logical_shift_right": "right_shift",
    "lshift": "left_shift",
    "rshift": "right_shift",
    "eq": "equal",
    "ne": "not_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "lt": "less",
    "le": "less_equal",
}
_found: dict[Hashable, Op] = {}


def function_name(function: object) -> str:
    """The name of an operator given as a NumPy ufunc, a function of `nki.language` or a name."""
    if isinstance(function, str):
        return function
    return str(getattr(function, "__name__", getattr(function, "name", function)))


def canonical_op(op: Any) -> Op:
    """The ALU operator that a NumPy ufunc, a function of `nki.language` or a name stands for.

    Raises:
        KeyError: It is none; the key is its name.
    """
    if isinstance(op, Op):
        return op
    found = _found.get(op)
    if found is None:
        name = function_name(op)
        found = _found[op] = _OPS[_ALIASES.get(name, name)]
    return found


def operators() -> tuple[Op, ...]:
    """All ALU operators, in the order of the documentation's table."""
    return tuple(_OPS.values())


_EXACT_INTEGER_OPS: Final = frozenset({"add", "subtract", "multiply"})


def is_exact_integer(op: Op, first: np.dtype[Any], second: np.dtype[Any]) -> bool:
    """Whether GpSimd runs the operation as 32-bit integer arithmetic, without float32."""
    return op.name in _EXACT_INTEGER_OPS and all(d.kind in "iu" and d.itemsize == 4 for d in (first, second))


def apply_op(op: Op, first: Array, second: Any, *, reverse: bool = False) -> Array:
    """One ALU operation: `first op second`, or `second op first`.

    Args:
        op: The operator.
        first: Array of any type.
        second: Array that broadcasts against `first`, or a scalar; ignored by unary operators.
        reverse: Swap the two.

    Returns:
        float32, or for a bitwise operator the type of `first`.

    Raises:
        TypeError: A bitwise operator meets a float.
    """
    if op.is_bitwise:
        return _apply_bitwise(op, first, second, reverse=reverse)
    left = to_float32(first)
    with np.errstate(all="ignore"):
        if op.is_unary:
            return op.apply(left)
        right = to_float32(np.asarray(second))
        return op.apply(right, left) if reverse else op.apply(left, right)


def _apply_bitwise(op: Op, first: Array, second: Any, *, reverse: bool) -> Array:
    if first.dtype.kind not in "iub":
        raise TypeError(f"{op.name} needs integers, not {dtype_name(first.dtype)}")
    left = first.view(np.uint8) if first.dtype.kind == "b" else first
    if op.is_unary:
        return op.apply(left)
    operand = np.asarray(second)
    if operand.dtype.kind == "f" and np.all(operand == np.rint(operand)):
        operand = operand.astype(np.int64)
    if operand.dtype.kind not in "iub":
        raise TypeError(f"{op.name} needs integers, not {dtype_name(operand.dtype)}")
    right = operand.astype(left.dtype)
    return op.apply(right, left) if reverse else op.apply(left, right)


def tensor_tensor(op: Op, first: Array, second: Array) -> Array:
    """Elementwise on two tiles: as `apply_op`, but 32-bit integers stay exact and wrap."""
    if is_exact_integer(op, first.dtype, second.dtype):
        dtype = first.dtype if first.dtype == second.dtype else np.dtype(np.int64)
        return op.apply(first.astype(dtype), second.astype(dtype))
    return apply_op(op, first, second)


def reduce_values(op: Op, values: Array, axes: tuple[int, ...], *, negate: bool = False) -> Array:
    """Reduce `values` along `axes`, kept as axes of size one.

    Args:
        op: An operator with `reduces`.
        values: Array of any type.
        axes: Axes to reduce, consecutive and last.
        negate: Multiply the result by -1.

    Returns:
        float32, or the type of `values` for a bitwise operator.
    """
    ufunc = op.reduces
    if ufunc is None:
        raise TypeError(f"{op.name} is not a reduction operator")
    if op.is_bitwise:
        return cast("Array", ufunc.reduce(values, axis=axes, keepdims=True))
    wide = to_float32(values)
    with np.errstate(all="ignore"):
        if ufunc is np.subtract:
            # First minus all others, in order of the flattened axes.
            flat = wide.reshape(*wide.shape[: -len(axes)], -1)
            result = np.float32(2) * flat[..., :1] - flat.sum(axis=-1, keepdims=True, dtype=np.float32)
            result = result.reshape(*wide.shape[: -len(axes)], *(1,) * len(axes))
        else:
            result = ufunc.reduce(wide, axis=axes, keepdims=True).astype(np.float32)
        return cast("Array", -result if negate else result)
