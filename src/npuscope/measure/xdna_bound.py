"""How far the result of an XDNA design may lie from float64, and whether it does.

Judged against accumulated mass |A||B|, never against the result, which cancellation can bring near zero. With u = 2^-8, the unit roundoff
of bfloat16 to nearest, and S_t the exact sum after the t-th k tile:

    operands      (2u + u²) |A||B|      the host rounds A and B to nearest
    accumulators  K 2^-24 |A||B|        float32 within a tile, and on the host for partial results
    write-back    w Σ_t |S_t + e_t|     C is rounded after every k tile: w = u to nearest, 2u toward zero or minus infinity; 0 for float32

where e_t is what has gone wrong until then; below bfloat16's normal range a rounding moves by up to a fixed step. In bfp16 blocks an
operand moves by less than one step of its block. The bound on each element grows until a lost k tile would pass, so that the root
mean square must also stay within what errors without a common sign make of it, u sqrt(2 A² B²) from the operands; where rounding
has a direction, its bias counts in full. That holds for the whole and for every 64 columns of a row: one wrong tile is little in all of
a result. It is meant for operands of random sign; what is constant or has one direction may be refused. Integers must be exact.
(N. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 3.1 and 4.2.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.backends.xdna.rounding import to_bfloat16, to_bfp16
from npuscope.measure.numerics import BLOCK_ELEMENTS, rows_to_check
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.workloads.dtypes import ELEMENT_TYPES, numpy_dtype

Doubles = npt.NDArray[np.float64]
_FLOAT32: Final = 2.0**-24
_FEW: Final = 4.0  # a root mean square of few elements strays: by this much over the root of their number
_SMALLEST: Final = 2.0**-133  # step of bfloat16 below its normal range
_SEGMENT: Final = 64  # columns of a tile
_BLOCK: Final = 8  # values of a bfp16 block
_STEP: Final = 2.0**-6  # of the largest value's power of two
_DRAWN: Final = 1 << 17  # elements, or products, that are drawn to tell what to expect
_MOST_DRAWS: Final = 1 << 23


@dataclass(frozen=True, slots=True)
class DesignCheck:
    """How far a result lies from float64, and what it may."""

    max_abs_error: float
    error_over_mass: float
    """Largest |C - AB| / |A||B| of any element."""
    bound_over_mass: float
    """Largest allowance of any element over its mass."""
    bias_over_mass: float
    """Mean signed error over mean mass: below 0 where rounding leans down."""
    rms_error: float
    rms_allowed: float
    within_bound: bool
    method: str
    """Which elements were compared."""
    error_over_result: float = 0.0
    """Root mean square of the error over that of the exact result."""
    can_tell: bool = True
    """The allowance is less than the result itself: a result of zeros would not pass."""


def check_design_result(
    c: npt.NDArray[Any],
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    design: XdnaDesign,
    *,
    seed: int = 0,
) -> DesignCheck:
    """Compare a result with A @ B in float64.

    Args:
        c: [M, N] as the strategy returned it.
        a: [M, K] as the user gave it: float32, or integers.
        b: [K, N].
        design: Of one dispatch; where its K is less than the problem's, the host added partial results.
        seed: Chooses the rows of a partial check.
    """
    M, K = a.shape
    N = b.shape[1]
    rows, method = rows_to_check(M, 4 * M * K * N, seed)
    if design.dtype != "bfloat16":
        return _check_integers(c, a, b, rows, method, design)
    rules = _Rules.of(design)
    worst_error = worst_ratio = worst_bound = 0.0
    within = True
    sums = np.zeros(6)
    signed = 0.0
    step = max(1, BLOCK_ELEMENTS // max(K, N))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        found = _reference(a[block].astype(np.float64), b.astype(np.float64), design, rules)
        difference = c[block].astype(np.float64) - found.product
        error = np.abs(difference)
        finite = bool(np.isfinite(error).all())
        within = within and finite and bool(np.all(error <= found.allowed)) and _segments_pass(error, found, K)
        mass = np.maximum(found.mass, np.finfo(np.float64).tiny)
        worst_error = max(worst_error, float(error.max()) if finite else float("inf"))
        worst_ratio = max(worst_ratio, float((error / mass).max()) if finite else float("inf"))
        worst_bound = max(worst_bound, float((found.allowed / mass).max()))
        signed += float(difference.sum())
        squared = (error, found.mass, found.typical, found.product, found.scale)
        sums += [*(float(np.sum(values**2)) for values in squared), float(found.mass.sum())]
    count = len(rows) * N
    error_rms, mass_rms, typical_rms, result_rms, scale_rms = np.sqrt(sums[:5] / count)
    can_tell = bool(typical_rms < max(result_rms, scale_rms) or not mass_rms)  # one result may be near zero by chance
    rms_allowed = float(K**0.5 * _FLOAT32 * mass_rms + (1 + _FEW / count**0.5) * typical_rms)
    return DesignCheck(
        max_abs_error=worst_error,
        error_over_mass=worst_ratio,
        bound_over_mass=worst_bound,
        bias_over_mass=signed / float(sums[5]) if sums[5] else 0.0,
        rms_error=float(error_rms),
        rms_allowed=rms_allowed,
        within_bound=within and can_tell and bool(error_rms <= rms_allowed),
        method=method,
        error_over_result=float(error_rms / result_rms) if result_rms else 0.0,
        can_tell=can_tell,
    )


@dataclass(frozen=True, slots=True)
class _Rules:
    """Unit roundoffs of a design."""

    operand: float
    write_back: float
    is_directed: bool
    in_blocks: bool

    @classmethod
    def of(cls, design: XdnaDesign) -> _Rules:
        u = ELEMENT_TYPES["bfloat16"].unit_roundoff
        directed = design.rounding != "even"
        write_back = 0.0 if design.out_dtype == "float32" else 2 * u if directed else u
        return cls(u, write_back, directed, design.multiplication == "bfp16")


@dataclass(frozen=True, slots=True)
class _Reference:
    product: Doubles
    mass: Doubles
    allowed: Doubles
    """Largest error of each element."""
    typical: Doubles
    """What rounding makes of an element's error where its errors share no sign."""
    scale: Doubles
    """What an element is where its products share no sign."""


def _reference(a: Doubles, b: Doubles, design: XdnaDesign, rules: _Rules) -> _Reference:
    """The exact product, its mass, and both allowances, k tile by k tile as the kernel goes."""
    shape = a.shape[0], b.shape[1]
    product, mass, allowed, typical, squares, moved_squares, moved_mean = (np.zeros(shape) for _ in range(7))
    for first in range(0, a.shape[1], design.K):  # one dispatch along K
        part, error, written = (np.zeros(shape) for _ in range(3))
        for start in range(first, min(first + design.K, a.shape[1]), design.tile_k):
            stop = min(start + design.tile_k, first + design.K, a.shape[1])
            tile_a, tile_b = a[:, start:stop], b[start:stop]
            tile_mass = np.abs(tile_a) @ np.abs(tile_b)
            part += tile_a @ tile_b
            mass += tile_mass
            squares += tile_a**2 @ tile_b**2
            error += (2 * rules.operand + rules.operand**2 + (a.shape[1] + 1) * _FLOAT32) * tile_mass
            if rules.in_blocks:
                error += _moved_by_blocks(tile_a, tile_b, tile_mass, design, moved_squares, moved_mean)
            if rules.write_back:
                error += rules.write_back * (np.abs(part) + error) + _SMALLEST
                written += np.abs(part) if rules.is_directed else part**2
        product += part
        allowed += error
        typical += rules.write_back * (written if rules.is_directed else np.sqrt(written))
    typical += np.sqrt(moved_squares) + np.abs(moved_mean)
    typical += 2**0.5 * rules.operand * np.sqrt(squares) + _SMALLEST * (1 + a.shape[1] / design.tile_k)
    tiny = (
        _SMALLEST / 2 * (np.abs(a).sum(axis=1)[:, None] + np.abs(b).sum(axis=0)[None, :])
    )  # operands below the normal range
    return _Reference(product, mass, allowed + tiny + _SMALLEST, typical + tiny, np.sqrt(squares))


def _segments_pass(error: Doubles, found: _Reference, K: int) -> bool:
    """Whether the root mean square holds in every segment of a row, too: one wrong tile is little in all of a result."""
    starts = np.arange(0, error.shape[1], _SEGMENT)
    counts = np.diff(np.append(starts, error.shape[1]))
    sums = [np.sqrt(np.add.reduceat(values**2, starts, axis=1)) for values in (error, found.mass, found.typical)]
    return bool(np.all(sums[0] <= K**0.5 * _FLOAT32 * sums[1] + (1 + _FEW / counts**0.5) * sums[2]))


def _moved_by_blocks(
    a: Doubles, b: Doubles, mass: Doubles, design: XdnaDesign, squares: Doubles, mean: Doubles
) -> Doubles:
    """What quantising A and B to bfp16 may move a tile's products by, at most.

    What it typically does is added to `squares`, for errors that share no sign, and to `mean`, for the half step by which rounding
    in one direction moves every value.
    """
    grown = (1 + ELEMENT_TYPES["bfloat16"].unit_roundoff) ** 2  # the values that are quantised are rounded already
    step_a, step_b = grown * _steps(a, 1), grown * _steps(b, 0)
    squares += step_a**2 @ b**2 + a**2 @ step_b**2
    if design.rounding != "even":
        sign_a, sign_b = (np.sign(a), np.sign(b)) if design.rounding == "truncate" else (1.0, 1.0)
        mean += (sign_a * step_a) @ b + a @ (sign_b * step_b)
    return np.asarray(grown * ((np.abs(a) + step_a) @ (np.abs(b) + step_b) - mass))


def _steps(values: Doubles, axis: int) -> Doubles:
    """One step of the bfp16 block that each value is in."""
    length = values.shape[axis]
    moved = np.moveaxis(np.abs(values), axis, -1)
    padded = np.zeros((*moved.shape[:-1], -(-length // _BLOCK) * _BLOCK))
    padded[..., :length] = moved
    largest = padded.reshape(*moved.shape[:-1], -1, _BLOCK).max(axis=-1)
    _, exponent = np.frexp(largest)
    step = np.where(largest > 0, np.ldexp(_STEP, exponent), 0.0)  # up to twice the step: rounding may lift the exponent
    return np.moveaxis(np.repeat(step, _BLOCK, axis=-1)[..., :length], -1, axis)


def _check_integers(
    c: npt.NDArray[Any],
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    rows: npt.NDArray[np.int64],
    method: str,
    design: XdnaDesign,
) -> DesignCheck:
    """The exact sums, as the result's type holds them: what does not fit wraps, as it does in the kernel."""
    worst = 0.0
    step = max(1, BLOCK_ELEMENTS // max(b.shape))
    wide_b = b.astype(np.float64)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        exact = a[block].astype(np.float64) @ wide_b  # exact: products below 2^30, sums below 2^53
        held = exact.astype(np.int64).astype(numpy_dtype(design.out_dtype))
        worst = max(worst, float(np.abs(c[block].astype(np.float64) - held.astype(np.float64)).max()))
    return DesignCheck(worst, 0.0, 0.0, 0.0, worst, 0.0, worst == 0, method)


@dataclass(frozen=True, slots=True)
class FixedTolerance:
    """At which scale of the data a kernel's largest error stays below a fixed number, whatever else may be wrong with it."""

    expected_max_error: float
    """Mean of the largest error of a product of standard normal A and B; errors follow the data's scale."""
    largest_scale: float
    """Deviation of B, with A of deviation 1, at which that mean is the tolerance; infinite for integers, which are exact."""


def fixed_tolerance(design: XdnaDesign, M: int, K: int, N: int, tolerance: float = 0.004) -> FixedTolerance:
    """Where `max_error < tolerance` can hold for a right result.

    No matrices are multiplied: sums of many products are normal, and so are those of their errors, so that single elements are
    drawn, with both sums of each k tile, and written back as the kernel does. Within 15 % of the emulated kernel.

    Args:
        design: Of one dispatch; where its K is less than the problem's, the host adds partial results.
        M: Rows of the problem.
        K: Its contraction.
        N: Its columns.
        tolerance: What the batched-tiling scripts asked for, when not given.
    """
    if design.dtype != "bfloat16":
        return FixedTolerance(0.0, float("inf"))
    rng = np.random.default_rng(0)
    covariance = _product_covariance(design, rng)
    tiles = [min(design.tile_k, min(design.K, K - first) - start) for first, start in _tiles(design, K)]
    elements = max(2, min(M * N, _DRAWN // 4, _MOST_DRAWS // len(tiles)))
    groups = max(1, min(_DRAWN, _MOST_DRAWS // len(tiles)) // elements)
    exact, added, stored = np.zeros((3, groups, elements))
    for (_, start), k in zip(_tiles(design, K), tiles, strict=True):
        if start == 0:
            added, stored = added + stored, np.zeros((groups, elements))
        drawn = rng.multivariate_normal(np.zeros(2), k * covariance, (groups, elements))
        exact += drawn[..., 0]
        written = (stored + drawn[..., 0] + drawn[..., 1]).astype(np.float32)
        if design.out_dtype == "bfloat16":
            written = to_bfloat16(written, design.rounding).astype(np.float32)
        stored = written.astype(np.float64)
    largest = np.abs(added + stored - exact).max(axis=1).mean()
    grown = float(
        np.sqrt(np.log(2 * M * N) / np.log(2 * elements))
    )  # the largest of more normal values than were drawn
    expected = float(largest) * grown
    return FixedTolerance(expected, tolerance / expected)


def _tiles(design: XdnaDesign, K: int) -> list[tuple[int, int]]:
    """Each k tile of a problem: where its dispatch begins, and where in that it does."""
    return [
        (first, start) for first in range(0, K, design.K) for start in range(0, min(design.K, K - first), design.tile_k)
    ]


def _product_covariance(design: XdnaDesign, rng: np.random.Generator) -> Doubles:
    """Of a product of two standard normal values, and of its error after both were converted; its mean is next to nothing."""
    factors = []
    for _ in range(2):
        values = rng.standard_normal((_DRAWN // _BLOCK, _BLOCK)).astype(np.float32)
        converted = to_bfloat16(values, "even").astype(np.float32)
        if design.multiplication == "bfp16":
            converted = to_bfp16(converted, 1, design.rounding)
        factors.append((values.astype(np.float64), converted.astype(np.float64)))
    (a, a_converted), (b, b_converted) = factors
    error = (a_converted * b_converted - a * b).reshape(-1)
    return np.cov((a * b).reshape(-1), error)
