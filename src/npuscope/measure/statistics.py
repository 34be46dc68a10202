"""Summaries of latency samples: quantiles, and a bootstrap interval that knows about rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.int64]

CONFIDENCE = 0.95
MIN_INTERVAL_ROUNDS = 3
_NORMAL = 1.96
_STUDENT = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # 97.5 % by freedom
_BOOTSTRAP_SIZE = 1000  # samples per resample; more add nothing that the spread between rounds does not dwarf
_RATIO_RESAMPLES = 2000
_MIN_SHARED_ROUNDS = 5
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Steady-state latency of one workload, in ns; the interval is of the median, at 95 %."""

    samples: int
    rounds: int
    median_ns: float
    ci_low_ns: float
    ci_high_ns: float
    mean_ns: float
    stdev_ns: float
    min_ns: float
    p05_ns: float
    p25_ns: float
    p75_ns: float
    p95_ns: float
    p99_ns: float
    max_ns: float

    @property
    def precision(self) -> float:
        """Half of the interval over the median; infinite where there is no interval."""
        half = (self.ci_high_ns - self.ci_low_ns) / 2
        return half / self.median_ns if np.isfinite(half) and self.median_ns > 0 else float("inf")


def summarise(samples_ns: Samples, round_of: Samples, *, resamples: int = 1000, seed: int = 0) -> Statistics:
    """Summarise samples that were taken in rounds.

    Args:
        samples_ns: int64 [n], n >= 1.
        round_of: int64 [n]: the round of each sample, in the order taken.
        resamples: Bootstrap resamples.
        seed: Of the bootstrap.
    """
    rounds = np.split(samples_ns, np.flatnonzero(np.diff(round_of)) + 1)
    medians = bootstrap_medians(rounds, resamples=resamples, seed=seed)
    p05, p25, p50, p75, p95, p99 = (float(q) for q in np.quantile(samples_ns, _QUANTILES))
    low, high = interval(p50, medians, len(rounds))
    low, high = (float(np.clip(end, samples_ns.min(), samples_ns.max())) for end in (low, high))
    return Statistics(
        samples=len(samples_ns),
        rounds=len(rounds),
        median_ns=p50,
        ci_low_ns=low,
        ci_high_ns=high,
        mean_ns=float(np.mean(samples_ns)),
        stdev_ns=float(np.std(samples_ns, ddof=1)) if len(samples_ns) > 1 else 0.0,
        min_ns=float(np.min(samples_ns)),
        p05_ns=p05,
        p25_ns=p25,
        p75_ns=p75,
        p95_ns=p95,
        p99_ns=p99,
        max_ns=float(np.max(samples_ns)),
    )


def bootstrap_medians(rounds: list[Samples], *, resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """Medians of two-level resamples: rounds with replacement, then samples within each with replacement.

    Samples of one round share what the machine did at that time, so that resampling them alone would promise more
    than they hold.

    Returns:
        float64 [resamples]; empty where one sample leaves nothing to resample.
    """
    if sum(len(samples) for samples in rounds) < 2:
        return np.empty(0)
    rng = np.random.default_rng(seed)
    per_round = max(1, min(_BOOTSTRAP_SIZE // len(rounds), max(len(samples) for samples in rounds)))
    thinned = np.stack([_resize(np.sort(samples), per_round) for samples in rounds])
    picked_rounds = rng.integers(0, len(rounds), (resamples, len(rounds)))
    picked = rng.integers(0, per_round, (resamples, len(rounds), per_round))
    drawn = thinned[picked_rounds[:, :, None], picked].reshape(resamples, -1)
    return np.asarray(np.median(drawn, axis=1), dtype=np.float64)


def interval(estimate: float, resampled: npt.NDArray[np.float64], rounds: int) -> tuple[float, float]:
    """The percentile interval at 95 %, widened for few rounds; NaN below three.

    The widening for r rounds is sqrt(r / (r - 1)), as for a variance, times Student's t over the normal quantile.

    One or two rounds say nothing of how rounds differ, and an interval of theirs would look certain.
    """
    if len(resampled) == 0 or rounds < MIN_INTERVAL_ROUNDS:
        return float("nan"), float("nan")
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(resampled, (tail, 100 - tail))
    freedom = rounds - 1
    student = _STUDENT.get(freedom, _NORMAL + 2.4 / freedom)
    widen = (rounds / freedom) ** 0.5 * student / _NORMAL
    return min(estimate, estimate - widen * (estimate - low)), max(estimate, estimate + widen * (high - estimate))


def ratio_interval(
    first: tuple[Samples, Samples], second: tuple[Samples, Samples], ratio: float, *, seed: int = 0
) -> tuple[float, float, str]:
    """95 % interval of the ratio of two medians, second over first, and what it is from.

    Rounds that both share are drawn together: what the machine did in a round falls out of the ratio.

    Args:
        first: Samples in ns, and the round of each: int64 [n] both.
        second: Likewise.
        ratio: Of the medians.
        seed: Of the bootstrap.

    Returns:
        The ends, NaN with fewer than three rounds on a side, and a few words.
    """
    rounds = [{int(of): samples[numbers == of] for of in np.unique(numbers)} for samples, numbers in (first, second)]
    shared = sorted(set(rounds[0]) & set(rounds[1]))
    fewest = min(len(side) for side in rounds)
    if fewest < MIN_INTERVAL_ROUNDS:
        return float("nan"), float("nan"), f"fewer than {MIN_INTERVAL_ROUNDS} rounds: no interval"
    if len(shared) >= _MIN_SHARED_ROUNDS:
        medians = [np.array([np.median(side[number]) for number in shared]) for side in rounds]
        picked = np.random.default_rng(seed).integers(0, len(shared), (_RATIO_RESAMPLES, len(shared)))
        spread = np.median(medians[1][picked], axis=1) / np.maximum(np.median(medians[0][picked], axis=1), 1e-9)
        low, high = _log_interval(ratio, spread, len(shared))
        return low, high, f"bootstrap over {len(shared)} rounds that both were sampled in"
    drawn = [
        bootstrap_medians(list(side.values()), resamples=_RATIO_RESAMPLES, seed=seed + number)
        for number, side in enumerate(rounds)
    ]
    low, high = _log_interval(ratio, drawn[1] / np.maximum(drawn[0], 1e-9), fewest)
    return low, high, f"bootstrap over the rounds of each, {fewest} or more; fewer than {_MIN_SHARED_ROUNDS} are shared"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A positive figure over rounds, with its 95 % interval."""

    value: float
    low: float
    """NaN with fewer than three rounds."""
    high: float
    rounds: int


def round_medians(samples_ns: Samples, round_of: Samples) -> dict[int, float]:
    """The median of each round, by its number."""
    return {int(number): float(np.median(samples_ns[round_of == number])) for number in np.unique(round_of)}


def median_of_rounds(medians: Sequence[float], *, seed: int = 0) -> Estimate:
    """The median of the rounds' medians: each round counts once, however many samples it has.

    A slow round has fewer samples in the same time, and would hardly count among all samples.
    """
    values = np.array(medians, np.float64)
    value = float(np.median(values))
    drawn = values[np.random.default_rng(seed).integers(0, len(values), (_RATIO_RESAMPLES, len(values)))]
    low, high = _log_interval(value, np.median(drawn, axis=1), len(values))
    return Estimate(value, max(low, float(values.min())), min(high, float(values.max())), len(values))


def ratio_of_rounds(first: Mapping[int, float], second: Mapping[int, float], *, seed: int = 0) -> Estimate:
    """The ratio of the medians of two sets of rounds, second over first, by the rounds that both have.

    A round is drawn for both at once, so that what the machine did in it falls out. Ends are those of `interval` for the
    logarithm of the ratio. An end that lies farther from 1 than the ratio of any single round is drawn back to that one, since
    the widening for few rounds supposes errors without outliers; the other end, which decides, is left as it is.

    Args:
        first: Medians in ns by round.
        second: Likewise.
        seed: Of the bootstrap.

    Returns:
        The ratio of the medians over the shared rounds; NaN without any.
    """
    shared = sorted(set(first) & set(second))
    if not shared:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    left, right = (np.maximum([side[number] for number in shared], 1e-9) for side in (first, second))
    value = float(np.median(right) / np.median(left))
    picked = np.random.default_rng(seed).integers(0, len(shared), (_RATIO_RESAMPLES, len(shared)))
    spread = np.median(right[picked], axis=1) / np.median(left[picked], axis=1)
    low, high = _log_interval(value, spread, len(shared))
    each = right / left
    if np.isnan(low):
        return Estimate(value, low, high, len(shared))
    if each.min() <= 1:
        low = min(value, max(low, float(each.min())))
    if each.max() >= 1:
        high = max(value, min(high, float(each.max())))
    return Estimate(value, low, high, len(shared))


def _log_interval(value: float, resampled: npt.NDArray[np.float64], rounds: int) -> tuple[float, float]:
    """`interval` of the logarithm: ends of a positive figure are positive."""
    low, high = np.exp(interval(float(np.log(value)), np.log(resampled), rounds))
    if np.isnan(low):
        return float("nan"), float("nan")
    return min(value, float(low)), max(value, float(high))  # the logarithm and back may be off by a rounding


def _resize(ordered: Samples, size: int) -> Samples:
    """`size` evenly spaced order statistics of sorted samples."""
    return ordered[np.round(np.linspace(0, len(ordered) - 1, size)).astype(np.int64)]
