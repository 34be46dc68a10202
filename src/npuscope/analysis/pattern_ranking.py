"""Which of several programs is faster, and which cannot be told apart.

Two measured programs are told apart only where the whole 95 % interval of the ratio of their medians lies beyond
`NOISE_SHARE` of 1: an interval within a process does not hold what differs between processes. Predictions have no noise but
an error: they are told apart from `MODEL_SHARE` on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from npuscope.analysis.pattern_trace import PatternTrace
from npuscope.measure.statistics import MIN_INTERVAL_ROUNDS, ratio_interval

NOISE_SHARE: Final = 0.05
"""By which medians of one and the same program differ from one process to the next."""
MODEL_SHARE: Final = 0.10
"""By which two predictions must differ at least: more than the median error of the timing model against published figures
that only checked it (4 %, see docs/validation.md), on each side, since how a compiler lowers a program is not known."""

FASTER: Final = "faster"
SLOWER: Final = "slower"
WITHIN_NOISE: Final = "within noise"
WITHIN_ERROR: Final = "within the model's error"
NOT_JUDGED: Final = "not judged"


@dataclass(frozen=True, slots=True)
class PairRatio:
    """One program against another."""

    first: str
    second: str
    first_ns: float
    second_ns: float
    ratio: float
    """Second over first."""
    ratio_low: float
    """95 % bootstrap interval; NaN where there is none, as of a prediction."""
    ratio_high: float
    verdict: str
    """Of the second: `faster`, `slower`, `within noise` (measured), `within the model's error` (predicted), or `not judged`."""
    reason: str
    """What the verdict follows from, in words."""

    @property
    def is_told_apart(self) -> bool:
        """Whether one of the two is faster."""
        return self.verdict in {FASTER, SLOWER}


def judge_pair(first: PatternTrace, second: PatternTrace, times_ns: tuple[float, float], *, seed: int = 0) -> PairRatio:
    """How two programs of the same work, device and method compare.

    Args:
        first: The one to compare with.
        second: The other.
        times_ns: Of one run of each.
        seed: Of the bootstrap.
    """
    before, after = times_ns
    ratio = after / before if before else float("nan")
    low = high = float("nan")
    verdict, reason = NOT_JUDGED, "one execution each: no interval"
    if first.method == second.method == "simulated":
        apart = max(before, after) > (1 + MODEL_SHARE) * min(before, after)
        verdict = (SLOWER if after > before else FASTER) if apart else WITHIN_ERROR
        reason = f"predicted times; differences of up to {MODEL_SHARE:.0%} are within the model's error"
    elif first.method == second.method == "measured":
        sampled = [
            (np.array(item.samples_ns, np.int64), np.array(item.sample_round, np.int64)) for item in (first, second)
        ]
        low, high, reason = ratio_interval(sampled[0], sampled[1], ratio, seed=seed)
        if np.isfinite(low) and np.isfinite(high):
            verdict = SLOWER if low > 1 + NOISE_SHARE else FASTER if high < 1 / (1 + NOISE_SHARE) else WITHIN_NOISE
    return PairRatio(first.name, second.name, before, after, ratio, low, high, verdict, reason)


def has_interval(trace: PatternTrace) -> bool:
    """Whether the noise of a time is known: of a prediction, which has none, or from three rounds on."""
    return trace.method == "simulated" or len(set(trace.sample_round)) >= MIN_INTERVAL_ROUNDS


def rank_groups(count: int, pairs: Sequence[tuple[int, int, bool]]) -> list[int]:
    """Ranks of things in ascending order of time, equal where they cannot be told apart.

    A new rank begins only where everything before is told apart from everything after. So two of different ranks are
    always told apart; two of one rank are linked by a chain of pairs that are not, and ties are transitive: of a, b and
    c, where a and b as well as b and c are within noise, all three share a rank although a and c may be told apart.

    Args:
        count: How many there are.
        pairs: First, second (the slower) and whether they are told apart.

    Returns:
        The rank of each: 1, and of every other group one more than there are faster things.
    """
    reach = list(range(count))
    for first, second, is_told_apart in pairs:
        if not is_told_apart:
            reach[first] = max(reach[first], second)
    ranks: list[int] = []
    last = -1
    for index in range(count):
        if index > last:
            rank = index + 1
        last = max(last, reach[index])
        ranks.append(rank)
    return ranks
