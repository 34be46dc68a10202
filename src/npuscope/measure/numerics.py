"""Seeded inputs, the float64 reference, and whether a device's result is right.

The criterion is per element and against the accumulated mass |A||B|, never against the result itself, which
cancellation can bring near zero:

    |C - AB| <= (2u + u²) |A||B|  +  u_out |AB|  +  K 2⁻²⁴ |A||B|

with u the unit roundoff of the type that the device multiplies in (0 where it is the operands' own type, since the
inputs are made in it) and u_out that of the result. Integer results must be exact. The bound is the standard one for
inner products (N. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1) with float32
accumulation. It grows with K until a missing tile would pass, so that the root mean square must also satisfy

    rms(C - AB)  <=  (8 u / sqrt(K) + sqrt(K) 2⁻²⁴) rms(|A||B|)  +  u_out rms(AB)

which assumes that rounding errors of random inputs have no common sign. Below float16's normal range half of its
smallest step is allowed as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.workloads.dtypes import ELEMENT_TYPES, numpy_dtype
from npuscope.workloads.matmul import MatmulConfig
from npuscope.workloads.random_values import random_array

_ACCUMULATION = 2.0**-24
_TYPICAL = 8.0
_HALF_SMALLEST = {"float16": 2.0**-25, "bfloat16": 2.0**-134, "float32": 2.0**-150}
_FULL_CHECK_FLOPS = 10_000_000_000  # two float64 products of this size take a few tenths of a second on two cores
_STRATUM = 128  # rows of which at least one is checked: no wrong 128-row tile goes unseen
BLOCK_ELEMENTS = 1 << 22
"""float64 elements of one block of the reference, or one column of B where that is longer."""


@dataclass(frozen=True, slots=True)
class NumericalCheck:
    """How far a result lies from the float64 reference."""

    passed: bool
    max_abs_error: float
    error_over_mass: float
    """Largest |C - AB| / (|A||B|) of any element."""
    tolerance_over_mass: float
    """What the criterion allows, for an element without cancellation."""
    method: str
    """Which elements were compared."""
    rms_error: float = 0.0
    """Root mean square of all errors."""
    rms_allowed: float = 0.0

    @property
    def reason(self) -> str:
        """What the check failed by, in words."""
        if not self.tolerance_over_mass and self.method.startswith("shape"):
            return self.method
        largest = f"largest absolute error {self.max_abs_error:.3g}"
        if self.error_over_mass > self.tolerance_over_mass:
            return (
                f"error of {self.error_over_mass:.3g} of the accumulated mass |A||B| (at most {self.tolerance_over_mass:.3g}"
                f" allowed; {self.method}), {largest}"
            )
        return (
            f"root mean square error of {self.rms_error:.3g} (at most {self.rms_allowed:.3g} allowed where rounding errors have"
            f" no common sign; {self.method}), {largest}: it rounds more often, or coarser, than it says"
        )


def make_inputs(config: MatmulConfig, seed: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """A [M, K] and B [K, N] in the config's type: standard normal, or uniform -127..127 for int8; never zeros only."""
    rng = np.random.default_rng([seed, config.M, config.K, config.N])
    dtype = numpy_dtype(config.dtype)
    return random_array(rng, (config.M, config.K), dtype), random_array(rng, (config.K, config.N), dtype)


def check_result(
    result: npt.NDArray[Any], a: npt.NDArray[Any], b: npt.NDArray[Any], *, compute_dtype: str, in_dtype: str, seed: int
) -> NumericalCheck:
    """Compare a device's C with A @ B in float64.

    Every element is compared while two float64 products stay under about 10 GFLOP; beyond that one random row in each
    128, so that every tile of 128 rows is still looked at.

    Args:
        result: C [M, N] as fetched.
        a: A [M, K], in the type that the device was given.
        b: B [K, N], likewise.
        compute_dtype: What the device multiplies in.
        in_dtype: The operands' type.
        seed: Chooses the rows of a partial check.
    """
    M, K = a.shape
    N = b.shape[1]
    rows, method = rows_to_check(M, 4 * M * K * N, seed)
    if result.shape != (M, N):
        infinite = float("inf")
        found = f"shape {result.shape} is not {(M, N)}"
        return NumericalCheck(
            passed=False, max_abs_error=infinite, error_over_mass=infinite, tolerance_over_mass=0.0, method=found
        )
    integer = in_dtype == "int8"
    rounding = 0.0 if compute_dtype == in_dtype else ELEMENT_TYPES[compute_dtype].unit_roundoff
    out_name = result.dtype.name
    out_rounding = ELEMENT_TYPES[out_name].unit_roundoff if out_name in ELEMENT_TYPES else 0.0
    per_mass = 0.0 if integer else 2 * rounding + rounding**2 + K * _ACCUMULATION
    underflow = _HALF_SMALLEST.get(out_name, 0.0)  # results below the normal range round to a fixed step
    worst_error = worst_ratio = 0.0
    squares = np.zeros(3)
    passed = True
    with np.errstate(all="ignore"):
        for block, columns, reference, mass in _reference_blocks(a, b, rows):
            error = np.abs(result[block, columns].astype(np.float64) - reference)
            allowed = per_mass * mass + out_rounding * np.abs(reference) + underflow
            passed = passed and bool(np.all(error <= allowed))
            worst_error = max(worst_error, _largest(error))
            worst_ratio = max(worst_ratio, _largest(np.where(error == 0, 0.0, error / mass)))
            squares += [float(np.sum(values**2)) for values in (error, mass, reference)]
        error_rms, mass_rms, reference_rms = np.sqrt(squares / max(1, len(rows) * N))
        typical = (_TYPICAL * rounding / K**0.5 + K**0.5 * _ACCUMULATION) * mass_rms + out_rounding * reference_rms
        rms_allowed = 0.0 if integer else float(typical + underflow)
        passed = passed and bool(error_rms <= rms_allowed)
    return NumericalCheck(
        passed, worst_error, worst_ratio, per_mass + out_rounding, method, float(error_rms), rms_allowed
    )


def _reference_blocks(a: npt.NDArray[Any], b: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> Any:
    """Yield (rows, columns, A @ B, |A| @ |B|) in float64, in blocks that bound the memory."""
    K, N = b.shape
    column_step = max(1, BLOCK_ELEMENTS // K)
    row_step = max(1, min(BLOCK_ELEMENTS // K, BLOCK_ELEMENTS // min(N, column_step)))
    for left in range(0, N, column_step):
        columns = slice(left, min(N, left + column_step))
        wide_b = b[:, columns].astype(np.float64)
        for start in range(0, len(rows), row_step):
            block = rows[start : start + row_step]
            wide_a = a[block].astype(np.float64)
            yield block, columns, wide_a @ wide_b, np.abs(wide_a) @ np.abs(wide_b)


def rows_to_check(M: int, flops: int, seed: int) -> tuple[npt.NDArray[np.int64], str]:
    """Rows of a result to compare, and how that is called: all while the reference is cheap, else one in each stratum."""
    if flops <= _FULL_CHECK_FLOPS or M <= 8:
        return np.arange(M), "every element"
    wanted = min(_STRATUM, max(2, -(-flops // _FULL_CHECK_FLOPS)))
    stratum = 1 << (wanted.bit_length() - 1)  # a power of two divides the 128 rows of a tile
    starts = np.arange(0, M, stratum)
    offsets = np.random.default_rng(seed).integers(0, np.minimum(stratum, M - starts))
    return starts + offsets, f"one random row in each {stratum}"


def _largest(values: npt.NDArray[np.float64]) -> float:
    """The largest value, infinite where any is NaN: a NaN result must not look small."""
    largest = float(np.max(values))
    return float("inf") if np.isnan(largest) else largest
