"""One computation written in several ways: `vmap`, `scan`, a Python loop, and a vmap within a vmap.

Same work, the default: every pattern computes one function of xs [iterations, batch, features],

    step(x) = relu(sum(x * x, -1)) + 0.1 + sum(x @ x.T, -1)     x [batch, features] -> [batch]
    ys      = step of each x                                    [iterations, batch]
    total   = sum of ys over the iterations                     [batch]

As published: the computations of a public study of these patterns on NeuronCores, which its report compares although they
are different work. Each takes data [batch, features] and repeats it itself:

    vmap    relu(sum(x * x, -1)) + 0.1                          [iterations, batch]
    scan    carry + sum(x); ys: the new carry + sum(x @ x.T)    [] and [iterations]
    loop    zeros(features) + mean(data[i % batch]) for each i  [features]

Nothing here runs on a device: the backends write the same definitions in their frameworks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.errors import UsageError, shorten, unknown_name
from npuscope.workloads.dtypes import ALIASES, ELEMENT_TYPES, numpy_dtype
from npuscope.workloads.random_values import random_array

PATTERNS: Final = ("vmap", "scan", "loop", "nested-vmap")
PUBLISHED_PATTERNS: Final = ("vmap", "scan", "loop")
"""Those that have a published computation."""
SIZES: Final = {"small": 3, "medium": 10, "large": 30}
"""Loop lengths by name, as the public study has them."""
PATTERN_DTYPES: Final = ("float32", "float16", "bfloat16")
OFFSET: Final = 0.1
"""What the step adds; rounded to the element type as every other value."""
MAX_ELEMENTS: Final = 1 << 31
"""Of the inputs, and of all products x @ x.T: XLA's indices are int32 on several platforms."""
MAX_UNROLLED: Final = 10_000
"""Iterations of a Python loop: tracing takes time and memory with each."""
_ACCUMULATION: Final = 2.0**-24
_ROUNDINGS: Final = 5
"""To the element type on the longest way through the step: product, sum, constant, its addition, the last addition."""
_HALF_SMALLEST: Final = {"float32": 2.0**-150, "float16": 2.0**-25, "bfloat16": 2.0**-134}

Array = npt.NDArray[Any]
Wide = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PatternConfig:
    """One program: a pattern, its sizes, and which computation it writes.

    Raises:
        UsageError: An unknown name, or a size that is not a positive whole number or is beyond any use.
    """

    pattern: str
    iterations: int
    batch: int = 32
    features: int = 128
    dtype: str = "float32"
    as_published: bool = False
    """The published computation of this pattern, which is other work than that of the other patterns."""

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise unknown_name("pattern", str(self.pattern), PATTERNS)
        for axis in ("iterations", "batch", "features"):
            value = getattr(self, axis)
            if type(value) is not int or value <= 0:
                raise UsageError(f"{axis} = {_told(value)} must be a positive whole number")
            if value > MAX_ELEMENTS:
                raise UsageError(f"{axis} = {_told(value)} is too large; at most {MAX_ELEMENTS}")
        dtype = ALIASES.get(str(self.dtype).lower(), str(self.dtype).lower())
        if dtype not in PATTERN_DTYPES:
            raise unknown_name("dtype of a pattern", str(self.dtype), PATTERN_DTYPES)
        object.__setattr__(self, "dtype", dtype)
        if self.as_published and self.pattern not in PUBLISHED_PATTERNS:
            raise UsageError(
                f"pattern {self.pattern} has no published computation; {', '.join(PUBLISHED_PATTERNS)} have"
            )
        if self.iterations * self.batch * max(self.features, self.batch) > MAX_ELEMENTS:
            raise UsageError(
                f"{self.size_text} is too large: more than {MAX_ELEMENTS} elements of xs or of x @ x.T; choose smaller sizes"
            )
        if self.pattern == "loop" and self.iterations > MAX_UNROLLED:
            raise UsageError(
                f"a Python loop of {self.iterations} iterations is traced as as many copies of its body; "
                f"at most {MAX_UNROLLED}, or use scan"
            )

    @property
    def name(self) -> str:
        """`scan_3`; `scan_3_as-published`."""
        return f"{self.pattern}_{self.iterations}{'_as-published' if self.as_published else ''}"

    @property
    def size_text(self) -> str:
        """`3x32x128`: iterations, batch, features."""
        return f"{self.iterations}x{self.batch}x{self.features}"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of the one input: xs, or data where it is as published."""
        sizes = (self.iterations, self.batch, self.features)
        return sizes[1:] if self.as_published else sizes

    @property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the results, in order: ys and total, or what was published."""
        if not self.as_published:
            return (self.iterations, self.batch), (self.batch,)
        return {
            "vmap": ((self.iterations, self.batch),),
            "scan": ((), (self.iterations,)),
            "loop": ((self.features,),),
        }[self.pattern]


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """How far the results of a program lie from the float64 reference."""

    passed: bool
    max_abs_error: float
    """Of any element of any result; infinite where a shape is wrong or a value is NaN."""
    error_over_mass: float
    """Largest error of an element over the sum of the absolute values that make it up."""
    tolerance_over_mass: float
    """What is allowed of it, for the result with the longest sums."""
    method: str
    """What was compared, or why nothing could be."""
    rms_share: float = 0.0
    """Root mean square of the errors over what is allowed of it, of the worst result."""

    @property
    def reason(self) -> str:
        """What the check failed by, in words."""
        if not self.tolerance_over_mass:
            return self.method
        largest = f"largest absolute error {self.max_abs_error:.3g} ({self.method})"
        if self.error_over_mass > self.tolerance_over_mass:
            return (
                f"error of {self.error_over_mass:.3g} of the accumulated mass, at most {self.tolerance_over_mass:.3g} allowed;"
                f" {largest}"
            )
        return (
            f"root mean square of the errors is {self.rms_share:.3g} times what is allowed where rounding errors have no common"
            f" sign; {largest}"
        )


@dataclass(frozen=True, slots=True)
class _Expected:
    """One result as it should be."""

    value: Wide
    mass: Wide
    """The same expression with every value made positive."""
    terms: int
    """Additions on the longest way to an element."""
    roundings: int
    """Roundings to the element type on that way."""


def work_key(config: PatternConfig) -> str:
    """What a program computes, in words: equal keys are the same work, others must not be compared."""
    what = f"published {config.pattern}" if config.as_published else "relu(sum(x*x)) + 0.1 + sum(x @ x.T)"
    return f"{what}, {config.size_text} {config.dtype}"


def make_inputs(config: PatternConfig, seed: int) -> tuple[Array, ...]:
    """The inputs of a program in its type; equal for all patterns of the same sizes.

    Values are normal with a deviation of 1 / sqrt(features), so that no sum leaves the range of float16.
    """
    rng = np.random.default_rng([seed, config.iterations, config.batch, config.features])
    return (random_array(rng, config.input_shape, numpy_dtype(config.dtype), deviation=config.features**-0.5),)


def reference(config: PatternConfig, inputs: Sequence[Array]) -> tuple[Wide, ...]:
    """The results in float64: ys and total, or those of the published computation."""
    return tuple(expected.value for expected in _expected(config, inputs))


def check_outputs(config: PatternConfig, inputs: Sequence[Array], outputs: Sequence[Array]) -> OutputCheck:
    """Compare all results of a program with the reference, every element of them.

    The allowance is of the mass of an element, the same expression with every value made positive, never of the element,
    which cancellation can bring near zero. With u the unit roundoff of the element type, r the roundings to it on the
    longest way to the element and n the additions on that way,

        |y - reference|       <=  (r u + n 2^-24) mass + n s          for each element
        rms(y - reference)    <=  (sqrt(r) u + sqrt(n) 2^-24) rms(mass) + n s

    where s is half of the smallest value of the type, which products may underflow to. This is the standard bound of sums
    and inner products in any order (N. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 3.1 and
    4.2) for accumulation in float32; the second line assumes that rounding errors of random inputs have no common sign, and
    finds what the first lets pass in long sums. r is 5 for the step and grows by one with each addition to a carry.

    Args:
        config: The program.
        inputs: As `make_inputs` made them.
        outputs: As fetched from the device.
    """
    expected = _expected(config, inputs)
    shapes = tuple(np.shape(output) for output in outputs)
    if shapes != config.output_shapes:
        return _refused(f"shapes {shapes} are not {config.output_shapes}")
    names = {np.asarray(output).dtype.name for output in outputs}
    if names != {config.dtype}:
        return _refused(f"type {', '.join(sorted(names))} is not {config.dtype}")
    unit, smallest = ELEMENT_TYPES[config.dtype].unit_roundoff, _HALF_SMALLEST[config.dtype]
    passed, worst_error, worst_ratio, tolerance, rms_share = True, 0.0, 0.0, 0.0, 0.0
    with np.errstate(all="ignore"):
        for output, item in zip(outputs, expected, strict=True):
            error = np.abs(np.asarray(output).astype(np.float64) - item.value)
            per_mass, underflow = item.roundings * unit + item.terms * _ACCUMULATION, item.terms * smallest
            typical = item.roundings**0.5 * unit + item.terms**0.5 * _ACCUMULATION
            passed &= bool(np.all(error <= per_mass * item.mass + underflow))
            allowed = typical * _rms(item.mass) + underflow
            passed &= bool(_rms(error) <= allowed)
            rms_share = max(rms_share, _rms(error) / allowed)
            worst_error = max(worst_error, _largest(error))
            worst_ratio = max(worst_ratio, _largest(np.where(error == 0, 0.0, error / item.mass)))
            tolerance = max(tolerance, per_mass)
    return OutputCheck(passed, worst_error, worst_ratio, tolerance, "every element", rms_share)


def _expected(config: PatternConfig, inputs: Sequence[Array]) -> tuple[_Expected, ...]:
    (given,) = inputs
    wide = given.astype(np.float64)
    if config.as_published:
        return {"vmap": _published_vmap, "scan": _published_scan, "loop": _published_loop}[config.pattern](config, wide)
    value, mass = _steps(wide), _steps(np.abs(wide))
    terms, length = config.features + config.batch + 3, config.iterations
    return (
        _Expected(value, mass, terms, _ROUNDINGS),
        _Expected(value.sum(axis=0), mass.sum(axis=0), terms + length, _ROUNDINGS + length),
    )


def _steps(xs: Wide) -> Wide:
    """step(x) of each x; sum(x @ x.T, -1) is x @ sum of the rows, which needs no [batch, batch] product."""
    rows = xs.sum(axis=1)
    return np.asarray(np.maximum((xs * xs).sum(axis=-1), 0.0) + OFFSET + np.einsum("ibf,if->ib", xs, rows))


def _published_vmap(config: PatternConfig, data: Wide) -> tuple[_Expected, ...]:
    value = np.maximum((data * data).sum(axis=-1), 0.0) + OFFSET
    repeated = np.tile(value, (config.iterations, 1))
    return (_Expected(repeated, repeated, config.features + 2, _ROUNDINGS),)


def _published_scan(config: PatternConfig, data: Wide) -> tuple[_Expected, ...]:
    steps = np.arange(1, config.iterations + 1)
    carry, carry_mass = steps * data.sum(), steps * np.abs(data).sum()
    square, square_mass = (float((values.sum(axis=0) ** 2).sum()) for values in (data, np.abs(data)))
    carry_terms = config.batch * config.features + config.iterations
    product_terms = config.features + config.batch * config.batch
    roundings = config.iterations + 1
    return (
        _Expected(carry[-1], carry_mass[-1], carry_terms, roundings),
        _Expected(carry + square, carry_mass + square_mass, max(carry_terms, product_terms) + 1, roundings + 3),
    )


def _published_loop(config: PatternConfig, data: Wide) -> tuple[_Expected, ...]:
    rows = data[np.arange(config.iterations) % config.batch]
    value, mass = rows.mean(axis=1).sum(), np.abs(rows).mean(axis=1).sum()
    terms, roundings = config.features + config.iterations, config.iterations + 2
    return (_Expected(np.full(config.features, value), np.full(config.features, mass), terms, roundings),)


def _refused(method: str) -> OutputCheck:
    infinite = float("inf")
    return OutputCheck(
        passed=False, max_abs_error=infinite, error_over_mass=infinite, tolerance_over_mass=0.0, method=method
    )


def _rms(values: Wide) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _largest(values: Wide) -> float:
    """The largest value, infinite where any is NaN: a NaN result must not look small."""
    largest = float(np.max(values))
    return float("inf") if np.isnan(largest) else largest


def _told(value: object) -> str:
    """A number however long, as short text."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    return shorten(repr(value))
