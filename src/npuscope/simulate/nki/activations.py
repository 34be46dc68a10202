"""Activation functions of the Scalar engine, and the other elementwise functions of `nki.language`.

The engine approximates them by piecewise polynomials whose error is not published; here they are exact to float32. The
documented ranges of valid input (`log` 2^-64 to 2^64, `sin` -pi to pi, ...) are not enforced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.simulate.nki.numerics import Array, function_name, to_float32

Unary = Callable[[Array], Array]

_ERF_STEPS: Final = 256
"""Knots per unit of the table behind `erf`."""
_ERF_END: Final = 4.5
"""From here on erf is 1 in float32, and closer than 2e-10."""
_knots = [i / _ERF_STEPS for i in range(round(_ERF_END * _ERF_STEPS) + 2)]
_ERF: Final[npt.NDArray[np.float64]] = np.array([math.erf(x) for x in _knots])
_SLOPE: Final[npt.NDArray[np.float64]] = np.array(
    [2 / math.sqrt(math.pi) * math.exp(-x * x) / _ERF_STEPS for x in _knots]
)


def erf(x: Array) -> Array:
    """The error function, by cubic Hermite interpolation between exact values and slopes.

    The interpolation error is at most h^4 / 384 times the fourth derivative (about 10): under 1e-11 for h = 1/256.
    """
    size = np.minimum(np.abs(x), _ERF_END).astype(np.float64) * _ERF_STEPS
    size = np.nan_to_num(size, nan=0.0)
    left = size.astype(np.intp)
    t = size - left
    start, stop = _ERF[left], _ERF[left + 1]
    rise, fall = _SLOPE[left], _SLOPE[left + 1]
    jump = stop - start
    value = start + t * (rise + t * ((3 * jump - 2 * rise - fall) + t * (rise + fall - 2 * jump)))
    return np.where(np.isnan(x), x, np.copysign(value, x)).astype(np.float32)


def _sigmoid(x: Array) -> Array:
    # The branch on the sign keeps exp from overflowing.
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)


def _softplus(x: Array) -> Array:
    softened: Array = np.logaddexp(np.float32(0), to_float32(x))
    return softened


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1 + erf(x / math.sqrt(2)))


def _times(x: Array, factor: Array) -> Array:
    """x * factor, with 0 where factor is 0: the limit of x * sigmoid(x) at -inf."""
    return np.where(factor == 0, np.float32(0), x * factor)


def _gelu(x: Array) -> Array:
    return _times(x, _normal_cdf(x))


def _gelu_dx(x: Array) -> Array:
    return _normal_cdf(x) + _times(x, np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))


def _gelu_tanh(x: Array) -> Array:
    return _times(x, 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))))


def _gelu_sigmoid(x: Array) -> Array:
    return _times(x, _sigmoid(1.702 * x))


def _gelu_sigmoid_dx(x: Array) -> Array:
    gate = _sigmoid(1.702 * x)
    return gate + _times(1.702 * x, gate * (1 - gate))


def _silu(x: Array) -> Array:
    return _times(x, _sigmoid(x))


def _silu_dx(x: Array) -> Array:
    gate = _sigmoid(x)
    return gate + _times(x, gate * (1 - gate))


def _mish(x: Array) -> Array:
    return _times(x, np.tanh(_softplus(x)))


ACTIVATIONS: Final[dict[str, Unary]] = {
    "copy": lambda x: x,
    "square": np.square,
    "sigmoid": _sigmoid,
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "gelu": _gelu,
    "gelu_dx": _gelu_dx,
    "gelu_apprx_tanh": _gelu_tanh,
    "gelu_apprx_sigmoid": _gelu_sigmoid,
    "gelu_apprx_sigmoid_dx": _gelu_sigmoid_dx,
    "silu": _silu,
    "silu_dx": _silu_dx,
    "tanh": np.tanh,
    "softplus": _softplus,
    "mish": _mish,
    "erf": erf,
    "erf_dx": lambda x: np.exp(-x * x) * np.float32(2 / math.sqrt(math.pi)),
    "exp": np.exp,
    "log": np.log,
    "sin": np.sin,
    "arctan": np.arctan,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: np.float32(1) / np.sqrt(x),
    "reciprocal": lambda x: np.float32(1) / x,
    "sign": np.sign,
    "abs": np.abs,
}
"""Those that the documentation lists for `nki.isa.activation`."""

ELEMENTWISE: Final[dict[str, Unary]] = {
    **ACTIVATIONS,
    "cos": np.cos,
    "tan": np.tan,
    "negative": np.negative,
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "logical_not": lambda x: (x == 0).astype(np.float32),
}
"""Activation functions and the other functions of one tile in `nki.language`."""

_ALIASES: Final = {
    "identity": "copy",
    "absolute": "abs",
    "fabs": "abs",
    "swish": "silu",
    "gelu_tanh": "gelu_apprx_tanh",
    "gelu_sigmoid": "gelu_apprx_sigmoid",
    "logistic": "sigmoid",
}
_found: dict[Hashable, str] = {}


def activation_name(op: Any) -> str:
    """The name of an activation function given as a NumPy function, one of `nki.language`, or a name.

    Raises:
        KeyError: It is none; the key is its name.
    """
    name = _found.get(op)
    if name is None:
        given = function_name(op)
        name = _ALIASES.get(given, given)
        if name not in ELEMENTWISE:
            raise KeyError(given)
        _found[op] = name
    return name


def activate(name: str, values: Array, scale: Any = 1.0, bias: Any = None) -> Array:
    """`f(values * scale + bias)` in float32.

    Args:
        name: Key of `ELEMENTWISE`.
        values: Array of any type.
        scale: Scalar or array that broadcasts against `values`.
        bias: Scalar, array or None.
    """
    with np.errstate(all="ignore"):
        wide = to_float32(values)
        if isinstance(scale, np.ndarray):
            wide = wide * to_float32(scale)
        elif scale != 1.0:
            wide = wide * np.float32(scale)
        if bias is not None:
            wide = wide + (to_float32(bias) if isinstance(bias, np.ndarray) else np.float32(bias))
        result = ELEMENTWISE[name](wide)
        return result if result.dtype == np.float32 else result.astype(np.float32)
