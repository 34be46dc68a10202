"""What may be wrong with a set of samples, and the next command to run."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from npuscope.measure.statistics import Samples, Statistics
from npuscope.units import format_ns, format_percent
from npuscope.workloads.matmul import MatmulConfig

BUSY_HOST_CORES = 0.25
DISPATCH_SHARE_LIMIT = 0.8
"""Above this share of dispatch floor a latency says little about the matmul."""
_DRIFT_MIN_ROUNDS = 5
_DRIFT_MIN_CHANGE = 0.03
_DRIFT_P_VALUE = 0.05
_MODE_MIN_SHARE = 0.1
_MODE_MIN_DISTANCE = 0.03
_MODE_SEPARATION = 4.5  # pooled standard deviations between modes; a split normal shows 2.6, a split uniform 3.5
_VALLEY_SHARE = 0.05  # share of samples in the middle third between two modes
_MODE_MIN_SAMPLES = 30
_TAIL_SHARE = 0.02  # slowest samples left out of the search: an interrupt is no mode
_FIRST_RUN_FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class MeasurementWarning:
    """A reason to distrust a figure."""

    code: str
    message: str
    next_command: str


def diagnose(
    config: MatmulConfig,
    device: str,
    samples_ns: Samples,
    round_of: Samples,
    statistics: Statistics,
    *,
    precision: float,
    max_seconds: float,
    floor: Statistics | None,
    compiles_while_timed: int,
    steady: bool,
    other_cores_busy: float = 0.0,
) -> list[MeasurementWarning]:
    """Every warning that a measurement deserves.

    Args:
        config: The workload; names it in the next command.
        device: Likewise.
        samples_ns: int64 [n], in the order taken.
        round_of: int64 [n].
        statistics: Of the samples.
        precision: Wanted half interval over median.
        max_seconds: What was allowed; the next command asks for more.
        floor: The device's dispatch floor of the same run.
        compiles_while_timed: Compilations that the framework counted during timed chunks.
        steady: Whether the warm-up ended steady.
        other_cores_busy: Cores that other processes kept busy meanwhile.
    """
    command = f"npuscope matmul --shape {config.shape_text} --dtype {config.dtype} --device {device}"
    longer = f"{command} --max-seconds {_round_up(max_seconds * 4)}"
    found = []
    if compiles_while_timed:
        message = f"{compiles_while_timed} compilation(s) happened inside the timed region"
        found.append(MeasurementWarning("compile-in-timed-region", message, f"{command} --warmup 20"))
    if first_run_in_samples(samples_ns):
        message = f"the first sample, {format_ns(float(samples_ns[0]))}, looks like a first run, not like the rest"
        found.append(MeasurementWarning("first-run-in-samples", message, command))
    if other_cores_busy >= BUSY_HOST_CORES:
        message = (
            f"other processes kept {other_cores_busy:.1f} cores busy meanwhile; a library with as many threads as cores "
            "then waits for whole scheduler slices, steadily; run it once the machine is idle"
        )
        found.append(MeasurementWarning("busy-host", message, command))
    if not steady:
        message = "the warm-up ended before latency was steady"
        found.append(MeasurementWarning("not-steady", message, longer))
    if drift := drift_fraction(samples_ns, round_of):
        message = f"latency drifted by {format_percent(drift)} from the first round to the last"
        found.append(MeasurementWarning("drift", message, longer))
    if modes := find_modes(samples_ns):
        message = f"two modes, {format_ns(modes[0])} and {format_ns(modes[1])}: the median may sit in either"
        found.append(MeasurementWarning("bimodal", message, longer))
    if statistics.precision > precision:
        reached = format_percent(statistics.precision) if np.isfinite(statistics.precision) else "no interval"
        needed = max_seconds * min(100.0, max(4.0, (statistics.precision / precision) ** 2))
        message = f"precision {reached} is short of the wanted {format_percent(precision)}"
        found.append(MeasurementWarning("noisy", message, f"{command} --max-seconds {_round_up(needed)}"))
    if floor is not None and within_dispatch_floor(statistics, floor):
        message = (
            f"you are timing dispatch, not the matmul: {format_ns(statistics.median_ns)} against a floor of "
            f"{format_ns(floor.median_ns)}"
        )
        larger = f"{4 * config.M}x{4 * config.K}x{4 * config.N}"
        found.append(MeasurementWarning("dispatch-floor", message, command.replace(config.shape_text, larger)))
    return found


def within_dispatch_floor(statistics: Statistics, floor: Statistics) -> bool:
    """The middle halves of both overlap, or the steady state is mostly floor.

    Noise of the workload alone is no reason: a disturbed matmul is not a dispatch.
    """
    return statistics.p25_ns <= floor.p75_ns or floor.median_ns >= DISPATCH_SHARE_LIMIT * statistics.median_ns


def first_run_in_samples(samples_ns: Samples) -> bool:
    """The very first sample stands out of all others: a start-up cost was sampled."""
    if len(samples_ns) < 5:
        return False
    rest = samples_ns[1:]
    return bool(samples_ns[0] > rest.max() and samples_ns[0] > _FIRST_RUN_FACTOR * np.median(rest))


def drift_fraction(samples_ns: Samples, round_of: Samples) -> float | None:
    """Change of the round medians from first to last along a Theil-Sen line of their logarithms; None where none shows.

    A drift shows when a Mann-Kendall test rejects "no trend" at 5 % and the change is at least 3 %.
    """
    medians = np.array([np.median(samples_ns[round_of == number]) for number in np.unique(round_of)])
    count = len(medians)
    if count < _DRIFT_MIN_ROUNDS:
        return None
    pairs = np.array(list(combinations(range(count), 2)))
    rises = np.log(medians[pairs[:, 1]] / medians[pairs[:, 0]])
    change = float(np.expm1(np.median(rises / (pairs[:, 1] - pairs[:, 0])) * (count - 1)))
    significant = _mann_kendall_p(int(np.sign(rises).sum()), count) < _DRIFT_P_VALUE
    return change if significant and abs(change) >= _DRIFT_MIN_CHANGE else None


def find_modes(samples_ns: Samples) -> tuple[float, float] | None:
    """The centres of two separate modes in ns, or None.

    The split is the one of least variance within (Otsu). It counts as two modes when each holds a tenth of the
    samples, they lie 4.5 pooled deviations and 3 % apart, and next to nothing lies half way.
    """
    if len(samples_ns) < _MODE_MIN_SAMPLES:
        return None
    ordered = np.sort(samples_ns).astype(np.float64)[: int((1 - _TAIL_SHARE) * len(samples_ns))]
    count = len(ordered)
    edge = max(2, int(_MODE_MIN_SHARE * count))
    splits = np.arange(edge, count - edge + 1)
    sums = np.cumsum(ordered)
    left_mean = sums[splits - 1] / splits
    right_mean = (sums[-1] - sums[splits - 1]) / (count - splits)
    best = int(splits[np.argmax(splits * (count - splits) * (right_mean - left_mean) ** 2)])
    left, right = ordered[:best], ordered[best:]
    low, high = float(np.median(left)), float(np.median(right))
    pooled = float(np.sqrt((left.var() + right.var()) / 2))
    third = (high - low) / 3
    valley = np.count_nonzero((ordered > low + third) & (ordered < high - third)) / count
    apart = high - low > max(_MODE_SEPARATION * pooled, _MODE_MIN_DISTANCE * low)
    return (low, high) if apart and valley <= _VALLEY_SHARE else None


def _mann_kendall_p(score: int, count: int) -> float:
    """Two-sided p of a Mann-Kendall score; exact for the small counts that rounds come in."""
    ways = np.ones(1)
    for size in range(2, count + 1):  # distribution of the number of inversions of a random permutation
        ways = np.convolve(ways, np.ones(size)) / size
    pairs = count * (count - 1) // 2
    inversions = (pairs - abs(score)) // 2
    return float(min(1.0, 2 * ways[: inversions + 1].sum()))


def _round_up(seconds: float) -> int:
    return max(1, int(np.ceil(seconds)))
