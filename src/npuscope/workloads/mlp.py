"""The gated MLP of a transformer layer: gate, up, SiLU, down. Sizes, seeded inputs, float64 reference, and who is right.

    out = (silu(hidden @ gate) * (hidden @ up)) @ down        silu(t) = t / (1 + exp(-t))

    hidden_tensor               [batch, sequence, hidden]      standard normal
    gate_proj_weights_tensor    [hidden, intermediate]         normal, deviation 0.02
    up_proj_weights_tensor      [hidden, intermediate]         likewise
    down_proj_weights_tensor    [intermediate, hidden]         likewise
    out                         [batch, sequence, hidden]      in the type of the inputs

Names and order of the inputs, the deviation of the weights and the two default sizes are those of a public comparison of two
MLP kernels on trn2.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.errors import UsageError, shorten, unknown_name
from npuscope.workloads.dtypes import ALIASES, ELEMENT_TYPES, numpy_dtype
from npuscope.workloads.random_values import random_array

MLP_DTYPES: Final = ("bfloat16", "float32")
INPUT_NAMES: Final = (
    "hidden_tensor",
    "gate_proj_weights_tensor",
    "up_proj_weights_tensor",
    "down_proj_weights_tensor",
)
OUTPUT_NAME: Final = "out"
WEIGHT_DEVIATION: Final = 0.02
MAX_ELEMENTS: Final = 1 << 28
"""Of each tensor: the float64 reference takes eight bytes for each."""
_KEYS: Final = {"b": "batch", "s": "sequence", "h": "hidden", "i": "intermediate", "dtype": "dtype"}
_ACCUMULATION: Final = 2.0**-24
_SILU_ROUNDINGS: Final = 4
"""Of silu: exponential, sum, quotient or product, and its argument, or the error of a table."""
_FAR: Final = 10.0
"""Times what independent roundings come to at an element; of a normal error, ten standard deviations never occur."""
_SILU_SLOPE: Final = 1.1
"""The steepest that silu is: 1.0998, at 2.4."""
_SMALLEST: Final = {"float32": 2.0**-149, "bfloat16": 2.0**-133}
"""The smallest number above zero: results below the normal range round to a multiple of it."""

Array = npt.NDArray[Any]
Wide = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MlpConfig:
    """The sizes and type of one gated MLP.

    Raises:
        UsageError: A size that is not a positive whole number or is beyond any use, or an unknown type.
    """

    batch: int
    sequence: int
    hidden: int
    intermediate: int
    dtype: str = "bfloat16"

    def __post_init__(self) -> None:
        for axis in ("batch", "sequence", "hidden", "intermediate"):
            value = getattr(self, axis)
            if type(value) is not int or value <= 0:
                raise UsageError(f"{axis} = {shorten(str(value))} must be a positive whole number")
        dtype = ALIASES.get(str(self.dtype).lower(), str(self.dtype).lower())
        if dtype not in MLP_DTYPES:
            raise unknown_name("dtype of an MLP", str(self.dtype), MLP_DTYPES)
        object.__setattr__(self, "dtype", dtype)
        shapes = dict(zip(INPUT_NAMES, self.input_shapes, strict=True))
        shapes["silu(gate) * up"] = (self.tokens, self.intermediate)
        for name, shape in shapes.items():
            count = 1
            for size in shape:
                count *= size
            if count > MAX_ELEMENTS:
                raise UsageError(f"{self.text} is too large: {name} has more than {MAX_ELEMENTS:,} elements")

    @property
    def tokens(self) -> int:
        """Rows that pass through the weights: batch times sequence."""
        return self.batch * self.sequence

    @property
    def text(self) -> str:
        """`b=1, s=128, h=1024, i=512`, as the public comparison writes it."""
        return f"b={self.batch}, s={self.sequence}, h={self.hidden}, i={self.intermediate}"

    @property
    def stem(self) -> str:
        """Of file names: `b1_s128_h1024_i512_bfloat16`."""
        return f"b{self.batch}_s{self.sequence}_h{self.hidden}_i{self.intermediate}_{self.dtype}"

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """In the order of `INPUT_NAMES`."""
        inward = (self.hidden, self.intermediate)
        return (self.batch, self.sequence, self.hidden), inward, inward, inward[::-1]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of `out`: as the hidden states."""
        return self.batch, self.sequence, self.hidden

    def shapes_for(self, *, flat_tokens: bool) -> tuple[tuple[int, ...], ...]:
        """Of the inputs as an implementation takes them: hidden states as they are, or as [batch * sequence, hidden]."""
        hidden, *weights = self.input_shapes
        return ((self.tokens, self.hidden) if flat_tokens else hidden), *weights

    def arrange(self, inputs: Sequence[Array], *, flat_tokens: bool) -> tuple[Array, ...]:
        """The inputs in those shapes."""
        shapes = self.shapes_for(flat_tokens=flat_tokens)
        return tuple(array.reshape(shape) for array, shape in zip(inputs, shapes, strict=True))

    def result_of(self, output: Array, *, flat_tokens: bool) -> Array:
        """A result of flat tokens in the shape of the hidden states; any other as it is."""
        is_flat = flat_tokens and output.shape == (self.tokens, self.hidden)
        return output.reshape(self.output_shape) if is_flat else output

    @property
    def model_flops(self) -> int:
        """Of the three matmuls, 2 M K N each; what is done element by element does not count."""
        return 6 * self.tokens * self.hidden * self.intermediate


DEFAULT_CONFIGS: Final = (MlpConfig(1, 128, 1024, 512), MlpConfig(1, 256, 2048, 1024))
"""The two of the public comparison."""


@dataclass(frozen=True, slots=True)
class MlpCheck:
    """How far a result lies from the float64 reference."""

    passed: bool
    max_abs_error: float
    """Infinite where a value is no number, or the shape or type is another."""
    error_over_mass: float
    """Largest error over the mass of its element: the same expression with every value made positive."""
    error_over_allowed: float
    """Largest error over what rounding may come to at that element; above 1 it is wrong."""
    rms_over_allowed: float
    """Root mean square of the errors over what independent roundings come to; above 1 it is wrong."""
    reason: str
    """Why it failed; '' where it passed."""


def parse_mlp_config(text: str, dtype: str = "bfloat16") -> MlpConfig:
    """`b=1,s=128,h=1024,i=512`, in any order, with or without blanks; `dtype=float32` may be among them.

    Args:
        text: As given.
        dtype: Where the text names none.

    Raises:
        UsageError: A key that is unknown, missing or there twice, or a value that is none.
    """
    values: dict[str, Any] = {}
    example = "expected b=1,s=128,h=1024,i=512"
    for part in filter(None, re.split(r"[,\s]+", text.strip())):
        key, separator, value = part.partition("=")
        name = _KEYS.get(key, key)
        if not separator or name not in _KEYS.values():
            raise UsageError(f"--config {shorten(text)!r}: {shorten(part)!r} is no size; {example}")
        if name in values:
            raise UsageError(f"--config {shorten(text)!r}: {name} is there twice; {example}")
        if name != "dtype" and not (value.isascii() and value.isdigit() and len(value) < 12):
            raise UsageError(f"--config {shorten(text)!r}: {name} is {shorten(value)!r}; {example}")
        values[name] = value if name == "dtype" else int(value)
    missing = [name for name in _KEYS.values() if name not in values and name != "dtype"]
    if missing:
        raise UsageError(f"--config {shorten(text)!r} lacks {', '.join(missing)}; {example}")
    return MlpConfig(**{"dtype": dtype, **values})


def make_inputs(config: MlpConfig, seed: int) -> tuple[Array, ...]:
    """The four tensors in their type, in the order of `INPUT_NAMES`; equal for equal sizes, type and seed."""
    rng = np.random.default_rng([seed, config.batch, config.sequence, config.hidden, config.intermediate])
    dtype = numpy_dtype(config.dtype)
    deviations = (1.0, WEIGHT_DEVIATION, WEIGHT_DEVIATION, WEIGHT_DEVIATION)
    return tuple(
        random_array(rng, shape, dtype, deviation=deviation)
        for shape, deviation in zip(config.input_shapes, deviations, strict=True)
    )


def inputs_sha256(inputs: Sequence[Array]) -> str:
    """One hash of all inputs: names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name, array in zip(INPUT_NAMES, inputs, strict=True):
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def reference(inputs: Sequence[Array]) -> Wide:
    """The result in float64, [batch, sequence, hidden]."""
    hidden, gate, up, down = (array.astype(np.float64) for array in inputs)
    gated = hidden @ gate
    return np.asarray(_silu(gated) * (hidden @ up) @ down)


def _silu(values: Wide) -> Wide:
    with np.errstate(over="ignore"):
        return np.asarray(values / (1 + np.exp(-values)))


def check_mlp(config: MlpConfig, inputs: Sequence[Array], output: Any, *, compute_dtype: str = "") -> MlpCheck:
    """Compare every element of a result with the float64 reference.

    Each element may be as far off as rounding takes it. With u the unit roundoff of the type that is computed in, products of n
    terms that are summed in float32 are off by at most (r + n 2^-24) times the sum of the terms' sizes, where r is 2u + u^2 if
    operands are rounded to a type shorter than their own and else 0 (N. Higham, Accuracy and Stability of Numerical Algorithms,
    2nd ed., section 3.1). Every intermediate result may be rounded once to u, silu's four times, since it is made of operations or looked up, and the
    errors are carried on to first order: silu is at most 1.1 times as steep as its argument. Independent errors add as squares: the
    root mean square of them, over all elements, over each token and over each column, may not exceed what these come to, nor any
    error ten times that, which finds one wrong token among many.

    Args:
        config: Sizes and type.
        inputs: As the implementation was given them.
        output: What it returned.
        compute_dtype: What it multiplies in, where that is a shorter type than the inputs'.
    """
    return expect_mlp(config, inputs, compute_dtype=compute_dtype).check(output)


def expect_mlp(config: MlpConfig, inputs: Sequence[Array], *, compute_dtype: str = "") -> ExpectedMlp:
    """What `check_mlp` compares with, worked out once for several results; arguments are its own."""
    unit = max(ELEMENT_TYPES[name].unit_roundoff for name in (config.dtype, compute_dtype or config.dtype))
    shorter = unit > ELEMENT_TYPES[config.dtype].unit_roundoff
    bounds = _bounds([each.astype(np.float64) for each in inputs], unit, 2 * unit + unit**2 if shorter else 0.0)
    return ExpectedMlp(config, bounds.value, bounds.mass, bounds.allowed, bounds.typical)


@dataclass(frozen=True, slots=True)
class ExpectedMlp:
    """A result in float64, and how far others may be from it; all [batch, sequence, hidden]."""

    config: MlpConfig
    value: Wide
    mass: Wide
    allowed: Wide
    typical: Wide

    def check(self, output: Any) -> MlpCheck:
        """Compare every element of a result."""
        config, array = self.config, np.asarray(output)
        if array.shape != config.output_shape:
            return _refused(f"shape {array.shape} is not {config.output_shape}")
        if array.dtype.name != config.dtype:
            return _refused(f"type {array.dtype.name} is not {config.dtype}, which the inputs have")
        floor = _SMALLEST[config.dtype]
        with np.errstate(all="ignore"):
            error = np.abs(array.astype(np.float64) - self.value)
            worst = _largest(error)
            over_mass = _largest(np.where(error == 0, 0.0, error / self.mass))
            over_allowed = _largest(error / (np.minimum(self.allowed, _FAR * self.typical) + floor))
            over_typical = max(_over_typical(error, self.typical, floor, axis) for axis in (None, -1, (0, 1)))
        reason = ""
        if not np.isfinite(worst):
            reason = f"{np.count_nonzero(~np.isfinite(array.astype(np.float64)))} values are NaN or infinite"
        elif over_allowed > 1:
            reason = (
                f"an error is {over_allowed:.3g} times what rounding may come to there ({over_mass:.3g} of its mass,"
                f" {worst:.3g} absolute)"
            )
        elif not over_typical <= 1:
            reason = (
                f"errors, of all or of one token or column, are {over_typical:.3g} times what independent roundings come to"
                f" (largest {worst:.3g} absolute): it rounds more often, or coarser, than it says, or leaves something out"
            )
        return MlpCheck(not reason, worst, over_mass, over_allowed, over_typical, reason)


def other_inputs(inputs: Sequence[Array]) -> tuple[Array, ...]:
    """The same weights with other hidden states: negated, in reverse order. What returns an earlier result is wrong for them."""
    hidden, *weights = inputs
    return -hidden[:, ::-1, :], *weights


@dataclass(frozen=True, slots=True)
class _Bounds:
    value: Wide
    mass: Wide
    allowed: Wide
    typical: Wide


def _bounds(inputs: Sequence[Wide], unit: float, operand: float) -> _Bounds:
    """Value, mass and allowed errors of each element; `operand` is the relative error of a product of rounded operands."""
    hidden, gate, up, down = inputs
    size, inner = hidden.shape[-1], down.shape[0]
    g, u = hidden @ gate, hidden @ up
    mass_g, mass_u = np.abs(hidden) @ np.abs(gate), np.abs(hidden) @ np.abs(up)
    s = _silu(g)
    p = s * u
    value = p @ down
    mass = (mass_g * mass_u) @ np.abs(down)

    per_mass = operand + size * _ACCUMULATION
    error_s = _SILU_SLOPE * (per_mass * mass_g + unit * np.abs(g)) + _SILU_ROUNDINGS * unit * np.abs(s)
    error_u = per_mass * mass_u + unit * np.abs(u)
    error_p = np.abs(u) * error_s + np.abs(s) * error_u + error_s * error_u + unit * np.abs(p)
    carried = error_p @ np.abs(down)
    allowed = (
        carried + (operand + inner * _ACCUMULATION) * ((np.abs(p) + error_p) @ np.abs(down)) + unit * np.abs(value)
    )

    # Independent errors: a sum of n terms of like size is off by sqrt(n) roundings of its root of squares.
    square = np.square
    spread_g, spread_u = square(hidden) @ square(gate), square(hidden) @ square(up)
    product = square(operand) + size * _ACCUMULATION**2
    variance_s = square(_SILU_SLOPE) * (product * spread_g + square(unit * g)) + _SILU_ROUNDINGS * square(unit * s)
    variance_u = product * spread_u + square(unit * u)
    variance_p = square(u) * variance_s + square(s) * variance_u + square(unit * p)
    variance = variance_p @ square(down) + (square(operand) + inner * _ACCUMULATION**2) * (square(p) @ square(down))
    return _Bounds(value, mass, allowed, np.sqrt(variance + square(unit * value)))


def _refused(reason: str) -> MlpCheck:
    infinite = float("inf")
    return MlpCheck(
        passed=False,
        max_abs_error=infinite,
        error_over_mass=infinite,
        error_over_allowed=infinite,
        rms_over_allowed=infinite,
        reason=reason,
    )


def _over_typical(error: Wide, typical: Wide, floor: float, axis: int | tuple[int, ...] | None) -> float:
    """Root mean square of the errors over that of independent roundings: of all elements, or the worst token or column.

    Of n elements the root mean square of independent errors varies by about 1 / sqrt(2 n) of itself; four times that is allowed
    beyond 1, so that few elements are not refused by chance.
    """
    squares, wanted = (np.mean(np.square(values), axis=axis) for values in (error, typical))
    count = error.size / np.size(squares)
    return _largest(np.asarray(np.sqrt(squares) / (np.sqrt(wanted) + floor))) / float(1 + 4 / np.sqrt(2 * count))


def _largest(values: Wide) -> float:
    """The largest value, infinite where any is NaN: a NaN result must not look small."""
    largest = float(np.max(values))
    return float("inf") if np.isnan(largest) else largest
