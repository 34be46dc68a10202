"""Sampling in interleaved rounds: how much of each workload a round takes, and when one has enough.

Interleaving makes a drift of the machine hit all workloads of a round alike, so that it cannot pass for a difference
between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import numpy as np

from npuscope.errors import MeasurementError, shorten
from npuscope.measure.sampling import Step, sample
from npuscope.measure.settings import Settings
from npuscope.measure.statistics import Statistics

MIN_ROUNDS: Final = 5
MIN_SAMPLES: Final = 3
FIRST_SLICE_NS: Final = 20_000_000
"""Of one workload in the first round; later rounds take longer."""
SLICE_GROWTH: Final = 1.5
FLOOR_CHUNK: Final = 100
"""Samples of the dispatch floor per round."""
_OVERTIME: Final = 4.0  # times the budget, for workloads whose single run is a large part of it
_PRECISE_SAMPLES: Final = 15  # fewer cannot show a precision, however alike they are
_MAX_CHUNK: Final = 500
_REWARM_NS: Final = 1_000_000  # after another workload: caches and clocks are not this one's
_REWARM_LIMIT_NS: Final = 100_000_000


class Sampled(Protocol):
    """A workload while it is sampled."""

    step: Step
    estimate_ns: float
    samples_ns: list[int]
    sample_round: list[int]
    spent_ns: int
    rewarm_runs: int
    next_check: int
    """The round in which its precision is looked at next."""
    compiles_while_timed: int
    failure: str

    def statistics(self, *, resamples: int, seed: int) -> Statistics:
        """Of the samples so far."""
        ...


def sample_chunk(compile_count: Callable[[], int | None], item: Sampled, round_number: int, count: int) -> None:
    """Re-warm, then take `count` samples; an error of the device fails the workload, not the study."""
    if item.failure or count <= 0:
        return
    try:
        if item.estimate_ns < _REWARM_LIMIT_NS:
            rewarm = sample(item.step, max(1, min(20, int(_REWARM_NS / max(1.0, item.estimate_ns)))))
            item.rewarm_runs += len(rewarm)
            item.spent_ns += sum(rewarm)
        compiles = compile_count()
        samples = sample(item.step, count)
        item.compiles_while_timed += (compile_count() or 0) - (compiles or 0)
    except Exception as error:  # noqa: BLE001  # SDKs raise what they like; each means that this row failed
        item.failure = describe_failure(error)
        return
    item.samples_ns += samples
    item.sample_round += [round_number] * len(samples)
    item.spent_ns += sum(samples)
    item.estimate_ns = float(np.median(samples))


def chunk_size(item: Sampled, settings: Settings, rounds_done: int, slice_ns: float) -> int:
    """How many samples of a workload this round takes."""
    if settings.iterations is not None:
        left = settings.iterations - len(item.samples_ns)
        return -(-left // max(1, MIN_ROUNDS - rounds_done))
    budget_ns = min(slice_ns, settings.max_seconds * 1e9 / MIN_ROUNDS)
    most = _MAX_CHUNK * max(1, rounds_done // 5)
    return max(1, min(most, int(budget_ns / max(1.0, item.estimate_ns))))


def is_done(item: Sampled, settings: Settings) -> bool:
    """Whether a workload has the samples that were asked for, the precision, or has spent its time."""
    count = len(item.samples_ns)
    if settings.iterations is not None:
        return count >= settings.iterations
    if count < MIN_SAMPLES:
        return False
    rounds = len(set(item.sample_round))
    if rounds < MIN_ROUNDS:  # a budget that one disturbed chunk used up must not make it the whole story
        return item.spent_ns >= _OVERTIME * settings.max_seconds * 1e9
    if item.spent_ns >= settings.max_seconds * 1e9:
        return True
    if count < _PRECISE_SAMPLES or rounds < item.next_check:
        return False
    item.next_check = rounds + 1 + rounds // 4  # an interval costs milliseconds, and looking often stops on luck
    return item.statistics(resamples=200, seed=settings.seed).precision <= settings.precision


def describe_failure(error: Exception) -> str:
    """One line of what a device raised."""
    if isinstance(error, MeasurementError):
        return str(error)
    text = shorten(str(error), 200)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
