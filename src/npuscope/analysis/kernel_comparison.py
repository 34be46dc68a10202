"""Which of two implementations is faster, by how much, and what makes the difference; or why that cannot be told.

Compared is only what is comparable: the same inputs by their hash, the same method, the same hardware, results that were found
right, and at least five rounds of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from npuscope.analysis.compare import compare_profiles
from npuscope.analysis.hlo_diff import diff_modules
from npuscope.analysis.kernel_row import DEVICE, SIMULATED, WALL_CLOCK, KernelRun
from npuscope.analysis.pattern_ranking import MODEL_SHARE
from npuscope.errors import ComparisonError
from npuscope.measure.statistics import ratio_of_rounds
from npuscope.units import format_ns

MIN_ROUNDS: Final = 5
FASTER: Final = "faster"
NO_DIFFERENCE: Final = "no difference shown"
REFUSED: Final = "refused"
_CLOCKS: Final = {
    WALL_CLOCK: "a wall-clock figure of the host (dispatch is in it)",
    DEVICE: "a figure of the device's own clock",
    SIMULATED: "a prediction",
}
_MOST_PARTS: Final = 12
_LEAST_SHARE: Final = 0.005


@dataclass(frozen=True, slots=True)
class Contribution:
    """A part of the time of both, and what it adds to the difference."""

    part: str
    first_ms: float
    second_ms: float
    change_ms: float
    """Second less first."""
    share: float | None
    """Of the difference; None where there is none."""


@dataclass(frozen=True, slots=True)
class EngineDifference:
    """How long one engine, or the DMA engines, were active in each."""

    engine: str
    first_us: float
    second_us: float
    change_us: float


@dataclass(frozen=True, slots=True)
class KernelComparison:
    """Two implementations for one set of sizes."""

    config: str
    dtype: str
    first: str
    second: str
    method: str
    verdict: str
    """`faster`, `no difference shown` or `refused`."""
    faster: str
    """The one with the lower time; '' where it is refused."""
    slower: str
    ratio: float | None
    """Time of the slower over that of the faster, at least 1; None where it is refused."""
    ci_low: float | None
    """95 % interval of the ratio; below 1 where rounds contradict each other. None of a prediction."""
    ci_high: float | None
    sentence: str
    reason: str
    """What the verdict follows from, or why it is refused."""
    contributions: tuple[Contribution, ...] = ()
    """What makes the difference, the largest first."""
    engines: tuple[EngineDifference, ...] = ()
    remarks: tuple[str, ...] = ()


def compare_runs(runs: Sequence[KernelRun], *, seed: int = 0) -> tuple[KernelComparison, ...]:
    """Every two implementations for the same sizes and type, in their order; those that failed are left out."""
    compared = []
    for first, second in combinations([run for run in runs if run.row.status == "ok"], 2):
        if (first.row.config, first.row.dtype) == (second.row.config, second.row.dtype):
            compared.append(compare_two(first, second, seed=seed))
    return tuple(compared)


def compare_two(first: KernelRun, second: KernelRun, *, seed: int = 0) -> KernelComparison:
    """Compare two implementations, or say why not."""
    reason = refusal(first, second)
    if reason:
        sentence = f"{first.row.implementation} and {second.row.implementation} are not compared: {reason}"
        return _comparison(first, second, REFUSED, (None, None, None), sentence, reason)
    quick, slow = sorted((first, second), key=_steady_ms)
    ratio = _steady_ms(slow) / _steady_ms(quick) if _steady_ms(quick) > 0 else float("inf")
    low = high = None
    if first.row.method == SIMULATED:
        apart = ratio > 1 + MODEL_SHARE
        reason = f"predicted times; differences of up to {MODEL_SHARE:.0%} are within the model's error"
    else:
        rounds = [dict(enumerate(run.row.round_medians_ms)) for run in (quick, slow)]
        found = ratio_of_rounds(rounds[0], rounds[1], seed=seed)
        ratio, low, high = found.value, found.low, found.high
        reason = f"bootstrap over the {found.rounds} rounds that both were sampled in"
        apart = low > 1
    verdict = FASTER if apart else NO_DIFFERENCE
    sentence = _sentence(quick, slow, verdict, ratio, low, high)
    made = _comparison(first, second, verdict, (ratio, low, high), sentence, reason)
    return _explained(made, first, second)


def refusal(first: KernelRun, second: KernelRun) -> str:
    """Why two implementations are not comparable; '' where they are."""
    left, right = first.row, second.row
    if left.method != right.method:
        clocks = [_CLOCKS[row.method] for row in sorted((left, right), key=lambda row: list(_CLOCKS).index(row.method))]
        return f"{clocks[0]} is not compared with {clocks[1]}; take figures of one method"
    if first.hardware != second.hardware:
        return f"they ran on different devices, {first.hardware} and {second.hardware}"
    if left.inputs_sha256 != right.inputs_sha256:
        return "their inputs differ"
    if left.lnc != right.lnc:
        return f"one used {left.lnc} physical cores and the other {right.lnc}"
    for row in (left, right):
        if not row.is_checked:
            return f"no result of {row.implementation} could be compared with float64"
    fewest = min(left.rounds, right.rounds)
    if left.method != SIMULATED and fewest < MIN_ROUNDS:
        return f"fewer than {MIN_ROUNDS} {'captures' if left.method == DEVICE else 'rounds'} ({fewest}); use --rounds {MIN_ROUNDS}"
    return ""


def _steady_ms(run: KernelRun) -> float:
    return run.row.steady_ms or 0.0


def _comparison(
    first: KernelRun,
    second: KernelRun,
    verdict: str,
    figures: tuple[float | None, float | None, float | None],
    sentence: str,
    reason: str,
) -> KernelComparison:
    ratio, low, high = figures
    ordered = sorted((first, second), key=_steady_ms) if verdict != REFUSED else []
    names = [run.row.implementation for run in ordered]
    method = first.row.method if first.row.method == second.row.method else ""
    return KernelComparison(
        config=first.row.config,
        dtype=first.row.dtype,
        first=first.row.implementation,
        second=second.row.implementation,
        method=method,
        verdict=verdict,
        faster=names[0] if names else "",
        slower=names[1] if names else "",
        ratio=ratio,
        ci_low=low,
        ci_high=high,
        sentence=sentence,
        reason=reason,
    )


def _sentence(
    quick: KernelRun, slow: KernelRun, verdict: str, ratio: float, low: float | None, high: float | None
) -> str:
    """`jax is 1.10x [1.07, 1.13] faster than numpy (39.36 µs against 43.22 µs)`."""
    interval = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    times = f"({format_ns(1e6 * _steady_ms(quick))} against {format_ns(1e6 * _steady_ms(slow))})"
    predicted = ", PREDICTED" if quick.row.method == SIMULATED else ""
    if verdict == FASTER:
        return f"{quick.row.implementation} is {ratio:.2f}x{interval} faster than {slow.row.implementation} {times}{predicted}"
    return f"{quick.row.implementation} and {slow.row.implementation}: no difference shown, {ratio:.2f}x{interval} {times}{predicted}"


def _explained(made: KernelComparison, first: KernelRun, second: KernelRun) -> KernelComparison:
    """With what makes the difference: parts of the profiles, else dispatch and the rest."""
    from dataclasses import replace

    remarks = _remarks(first, second)
    if first.profile is None or second.profile is None:
        return replace(made, contributions=_of_clocks(first, second), remarks=remarks)
    try:
        (difference,) = compare_profiles([first.profile, second.profile]).differences
    except ComparisonError as error:
        return replace(made, remarks=(*remarks, f"their profiles are not compared: {error}"))
    parts = tuple(
        Contribution(
            f"{change.resource} {change.part}".strip(),
            change.before_ns / 1e6,
            change.after_ns / 1e6,
            change.change_ns / 1e6,
            change.share_of_change,
        )
        for change in difference.changes[:_MOST_PARTS]
        if abs(change.change_ns) > _LEAST_SHARE * 1e6 * min(_steady_ms(first), _steady_ms(second))
    )
    return replace(made, contributions=parts, engines=_engines(first, second), remarks=remarks)


def _engines(first: KernelRun, second: KernelRun) -> tuple[EngineDifference, ...]:
    """Active times of both, the largest difference first."""
    found = []
    for name in ("tensor", "vector", "scalar", "gpsimd", "sync", "dma"):
        left, right = getattr(first.row, f"{name}_us"), getattr(second.row, f"{name}_us")
        if left is not None and right is not None:
            found.append(EngineDifference(name, left, right, right - left))
    return tuple(sorted(found, key=lambda item: -abs(item.change_us)))


def _of_clocks(first: KernelRun, second: KernelRun) -> tuple[Contribution, ...]:
    """What the host's clock can tell apart: starting the programs, as an empty one takes, and everything else."""
    times = _steady_ms(first), _steady_ms(second)
    floors = [(run.row.dispatch_floor_ms or 0.0) * (run.row.dispatches or 1.0) for run in (first, second)]
    starts = [min(floor, time) for floor, time in zip(floors, times, strict=True)]
    rest = [time - start for time, start in zip(times, starts, strict=True)]
    change = times[1] - times[0]
    parts = (("dispatch", starts), ("execution", rest))
    made = [
        Contribution(name, left, right, right - left, (right - left) / change if change else None)
        for name, (left, right) in parts
    ]
    return tuple(sorted(made, key=lambda part: -abs(part.change_ms)))


def _remarks(first: KernelRun, second: KernelRun) -> tuple[str, ...]:
    """What else differs between the two."""
    left, right = first.row, second.row
    found = []
    if left.compute_dtype and right.compute_dtype and left.compute_dtype != right.compute_dtype:
        found.append(
            f"{left.implementation} multiplies in {left.compute_dtype}, {right.implementation} in {right.compute_dtype}"
        )
    if left.dispatches and right.dispatches and left.dispatches != right.dispatches:
        found.append(
            f"{left.implementation} runs {left.dispatches:g} compiled programs per execution, {right.implementation}"
            f" {right.dispatches:g}"
        )
    if first.program is not None and second.program is not None:
        difference = diff_modules(first.program, second.program)
        same = difference.kind in ("identical", "names")
        found.append(
            "their XLA programs are the same" if same else f"their XLA {difference.told().removeprefix('the ')}"
        )
    if left.compiler_version != right.compiler_version and left.method == DEVICE:
        found.append(f"compiled by {left.compiler_version} and by {right.compiler_version}")
    return tuple(found)
