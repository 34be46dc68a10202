"""How much of a workload a round takes, when it has enough, and what the failure of one means for the others."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from npuscope.errors import MeasurementError
from npuscope.measure.rounds import MIN_ROUNDS, MIN_SAMPLES, chunk_size, describe_failure, is_done, sample_chunk
from npuscope.measure.settings import Settings
from npuscope.measure.statistics import summarise

MILLISECOND = 1_000_000


def nothing():
    return None


@dataclass
class Item:
    """A workload of a step that does nothing."""

    step: object = nothing
    estimate_ns: float = MILLISECOND
    samples_ns: list = field(default_factory=list)
    sample_round: list = field(default_factory=list)
    spent_ns: int = 0
    rewarm_runs: int = 0
    next_check: int = MIN_ROUNDS
    compiles_while_timed: int = 0
    failure: str = ""

    def statistics(self, *, resamples, seed):
        return summarise(np.array(self.samples_ns), np.array(self.sample_round), resamples=resamples, seed=seed)


def sampled(per_round, rounds=MIN_ROUNDS, value=MILLISECOND, spread=0, **fields):
    """A workload that has samples of so many rounds; `spread` sets the rounds apart."""
    item = Item(**fields)
    for number in range(rounds):
        item.samples_ns += [value + spread * number] * per_round
        item.sample_round += [number] * per_round
    return item


class TestFixedCount:
    @pytest.mark.parametrize("wanted", [1, 4, 5, 7, 100])
    def test_is_taken_exactly_and_in_no_more_than_five_rounds(self, wanted):
        settings, item, taken = Settings(iterations=wanted), Item(), []
        for number in range(MIN_ROUNDS):
            taken.append(chunk_size(item, settings, number, 1e9))
            sample_chunk(lambda: 0, item, number, taken[-1])
        assert sum(taken) == len(item.samples_ns) == wanted
        assert is_done(item, settings)

    def test_is_spread_over_the_rounds(self):
        assert chunk_size(Item(), Settings(iterations=100), 0, 1e9) == 20

    def test_is_not_done_one_short_of_it(self):
        assert not is_done(sampled(1, 4, spent_ns=1 << 60), Settings(iterations=5))


class TestTime:
    def test_a_chunk_fills_the_slice_of_the_round(self):
        assert chunk_size(Item(), Settings(max_seconds=10), 0, 20e6) == 20

    def test_a_chunk_is_at_most_a_fifth_of_the_budget(self):
        assert chunk_size(Item(), Settings(max_seconds=0.05), 9, 1e9) == 10

    def test_a_run_longer_than_the_slice_is_one_sample(self):
        assert chunk_size(Item(estimate_ns=1e12), Settings(), 0, 20e6) == 1

    def test_very_short_runs_are_limited_and_the_limit_grows(self):
        assert [chunk_size(Item(estimate_ns=0), Settings(), done, 1e12) for done in (0, 9, 10)] == [500, 500, 1000]

    def test_the_budget_ends_it(self):
        settings = Settings(max_seconds=1, precision=1e-9)
        assert not is_done(sampled(2, spread=1000, spent_ns=10**9 - 1), settings)
        assert is_done(sampled(2, spread=1000, spent_ns=10**9), settings)

    def test_a_budget_that_few_rounds_used_up_does_not(self):
        settings = Settings(max_seconds=1)
        assert not is_done(sampled(5, MIN_ROUNDS - 1, spent_ns=10**9), settings)
        assert is_done(sampled(5, MIN_ROUNDS - 1, spent_ns=4 * 10**9), settings)

    def test_fewer_than_three_samples_are_never_enough(self):
        assert not is_done(sampled(1, MIN_SAMPLES - 1, spent_ns=1 << 60), Settings())


class TestPrecision:
    def test_alike_rounds_are_enough(self):
        assert is_done(sampled(3), Settings(precision=0.01))

    def test_rounds_apart_are_not(self):
        item = sampled(3, spread=MILLISECOND // 10)
        assert item.statistics(resamples=200, seed=0).precision > 0.01
        assert not is_done(item, Settings(precision=0.01))

    def test_few_samples_cannot_show_it_however_alike_they_are(self):
        assert not is_done(sampled(2), Settings(precision=0.01))

    def test_is_not_looked_at_in_every_round(self):
        item = sampled(3, spread=MILLISECOND // 10)
        is_done(item, Settings(precision=0.01))
        item.samples_ns = [MILLISECOND] * len(item.samples_ns)
        assert item.next_check == MIN_ROUNDS + 2
        assert not is_done(item, Settings(precision=0.01))
        assert is_done(sampled(3, MIN_ROUNDS + 2, next_check=item.next_check), Settings(precision=0.01))


class TestChunk:
    def test_samples_carry_their_round_and_runs_before_them_do_not_count(self):
        calls = []
        item = Item(step=lambda: calls.append(1), estimate_ns=MILLISECOND / 4)
        sample_chunk(lambda: 0, item, 7, 6)
        assert (len(item.samples_ns), item.sample_round, item.rewarm_runs) == (6, [7] * 6, 4)
        assert len(calls) == 10
        assert item.estimate_ns == np.median(item.samples_ns)
        assert item.spent_ns >= sum(item.samples_ns)

    def test_a_very_long_run_is_not_repeated_only_to_warm_up(self):
        item = Item(estimate_ns=1e9)
        sample_chunk(lambda: 0, item, 0, 1)
        assert (item.rewarm_runs, len(item.samples_ns)) == (0, 1)

    def test_compilations_between_first_and_last_sample_are_counted(self):
        counts = iter([3, 5])
        item = Item()
        sample_chunk(lambda: next(counts), item, 0, 2)
        assert item.compiles_while_timed == 2

    def test_a_device_that_does_not_count_has_none(self):
        item = Item()
        sample_chunk(lambda: None, item, 0, 2)
        assert item.compiles_while_timed == 0

    def test_a_failing_step_fails_its_workload_alone(self):
        def fail():
            raise ValueError("out of\nmemory")

        broken, whole = Item(step=fail), Item()
        for item in (broken, whole):
            sample_chunk(lambda: 0, item, 0, 3)
        assert (broken.failure, broken.samples_ns) == ("ValueError: out of memory", [])
        assert (whole.failure, len(whole.samples_ns)) == ("", 3)

    def test_what_failed_is_not_run_again(self):
        calls = []
        item = Item(step=lambda: calls.append(1), failure="gone")
        sample_chunk(lambda: 0, item, 0, 3)
        assert calls == item.samples_ns == []


def test_an_error_of_ours_is_told_as_it_is():
    assert describe_failure(MeasurementError("jax:cpu refuses it")) == "jax:cpu refuses it"
    assert describe_failure(KeyError()) == "KeyError"


def test_two_rounds_have_no_precision():
    assert math.isinf(sampled(20, 2).statistics(resamples=50, seed=0).precision)
