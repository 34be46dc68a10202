"""The dispatch floor of a set of latencies, from the latencies alone: latency = floor + work / rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from npuscope.formats.text_table import LARGEST
from npuscope.tiling.model import TileModel
from npuscope.tiling.work import work_columns

Floats = npt.NDArray[np.float64]

_RESAMPLES = 400
_HUBER = 1.345  # residuals beyond this many robust deviations count less; 95 % efficient on normal noise
_ITERATIONS = 10
_AS_GOOD = 1.02  # a work measure whose residual is this close to the best one's explains the data as well


@dataclass(frozen=True, slots=True)
class LatencyFit:
    """latency_ms = floor_ms + work / rate_per_ms, by robust relative least squares."""

    work: str
    """What stands for the work: `model_flops`, `operand_elements`, `output_elements` or `total_tiles`."""
    floor_ms: float
    floor_low_ms: float
    """95 % bootstrap interval; it also spans the other work measures that fit as well."""
    floor_high_ms: float
    rate_per_ms: float | None
    """Work per ms; None where latency does not grow with work."""
    relative_rms: float
    """Root mean square of (fit - latency) / latency."""
    shapes: int


def fit_latency(
    shapes: npt.NDArray[np.int64], latency_ms: Floats, model: TileModel, *, smooth: bool = False, seed: int = 0
) -> LatencyFit | None:
    """Fit the two-term model with the work measure that explains the latencies best.

    Args:
        shapes: int64 [n, 3]: M, K, N.
        latency_ms: float64 [n], positive.
        model: Counts the tiles.
        smooth: Leave out the tile count as a measure of work: what is to show a step must not explain it.
        seed: Of the bootstrap.

    Returns:
        The fit, or None where fewer than three rows or a single amount of work leave the floor open.
    """
    fits = [
        fit
        for name, work in work_measures(shapes, model).items()
        if not (smooth and name == "total_tiles") and (fit := _fit_one(name, work, latency_ms, seed)) is not None
    ]
    if not fits:
        return None
    best = min(fits, key=lambda fit: fit.relative_rms)
    equals = [fit for fit in fits if fit.relative_rms <= _AS_GOOD * best.relative_rms]
    chosen = equals[0]  # the measures stand in order of preference
    return LatencyFit(
        chosen.work,
        chosen.floor_ms,
        min(fit.floor_low_ms for fit in equals),
        max(fit.floor_high_ms for fit in equals),
        chosen.rate_per_ms,
        chosen.relative_rms,
        chosen.shapes,
    )


def work_measures(shapes: npt.NDArray[np.int64], model: TileModel) -> dict[str, Floats]:
    """Candidates for the work of a matmul, each float64 [n], the preferred first."""
    columns = work_columns(shapes, 1, model)
    M, N = shapes[:, 0].astype(np.float64), shapes[:, 2].astype(np.float64)
    return {
        "model_flops": columns["model_flops"].astype(np.float64),
        "operand_elements": columns["operand_bytes"].astype(np.float64),
        "output_elements": M * N,
        "total_tiles": columns["total_tiles"].astype(np.float64),
    }


def predict_ms(fit: LatencyFit, shapes: npt.NDArray[np.int64], model: TileModel) -> Floats:
    """The fitted latency of shapes, float64 [n]."""
    slope = 0.0 if fit.rate_per_ms is None else 1 / fit.rate_per_ms
    return fit.floor_ms + slope * work_measures(shapes, model)[fit.work]


def _fit_one(name: str, work: Floats, latency_ms: Floats, seed: int) -> LatencyFit | None:
    if len(work) < 3 or np.ptp(work) <= 1e-9 * work.max():
        return None
    with np.errstate(all="ignore"):
        fit = _robust_line(name, work, latency_ms, seed)
    return fit if np.isfinite((fit.floor_ms, fit.floor_high_ms, fit.relative_rms)).all() else None


def _robust_line(name: str, work: Floats, latency_ms: Floats, seed: int) -> LatencyFit:
    """Iteratively reweighted relative least squares, and a bootstrap over the rows."""
    scaled = work / work.max()
    weights = 1 / latency_ms**2
    for _ in range(_ITERATIONS):
        floor, slope = _solve(scaled, latency_ms, weights[None, :])
        relative = (floor + slope * scaled - latency_ms) / latency_ms
        scale = max(1e-12, 1.4826 * float(np.median(np.abs(relative))))
        weights = np.minimum(1.0, _HUBER * scale / np.maximum(np.abs(relative), 1e-300)) / latency_ms**2
    floor, slope = _solve(scaled, latency_ms, weights[None, :])
    relative = (floor + slope * scaled - latency_ms) / latency_ms
    draws = np.random.default_rng(seed).multinomial(len(work), np.full(len(work), 1 / len(work)), _RESAMPLES)
    floors, _slopes = _solve(scaled, latency_ms, draws * weights)
    low, high = np.percentile(floors, (2.5, 97.5))
    return LatencyFit(
        name,
        float(floor[0]),
        float(low),
        float(high),
        float(work.max() / slope[0]) if work.max() / LARGEST < slope[0] else None,
        float(np.sqrt(np.mean(relative**2))),
        len(work),
    )


def _solve(work: Floats, latency: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weighted line fits with floor >= 0 and slope >= 0, one per row of `weights` [b, n]."""
    total = weights.sum(axis=1)
    mean_x, mean_y = weights @ work / total, weights @ latency / total
    spread = weights @ work**2 / total - mean_x**2
    shared = weights @ (work * latency) / total - mean_x * mean_y
    flat = spread <= 1e-15
    slope = np.maximum(0.0, np.where(flat, 0.0, shared / np.where(flat, 1.0, spread)))
    floor = mean_y - slope * mean_x
    through_origin = mean_y / np.where(mean_x > 0, mean_x, 1.0)
    return np.maximum(0.0, floor), np.where(floor < 0, through_origin, slope)
