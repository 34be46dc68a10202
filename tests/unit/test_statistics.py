"""Summaries and their bootstrap intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.measure.statistics import median_of_rounds, ratio_of_rounds, summarise


def rounds_of(rng, *, rounds, per_round, between, within=0.05, centre=1e6):
    """Samples of rounds whose level varies by `between`, and within by `within`, as fractions of the centre."""
    levels = centre * (1 + between * rng.standard_normal(rounds))
    samples = levels[:, None] * (1 + within * rng.standard_normal((rounds, per_round)))
    return samples.reshape(-1).astype(np.int64), np.repeat(np.arange(rounds), per_round)


def test_quantiles_are_those_of_the_samples():
    samples = np.arange(1, 101) * 1000
    found = summarise(samples, np.repeat(np.arange(5), 20))
    assert found.median_ns == np.median(samples)
    assert (found.min_ns, found.max_ns) == (1000, 100000)
    assert found.p95_ns == pytest.approx(np.quantile(samples, 0.95))
    assert (found.samples, found.rounds) == (100, 5)


@pytest.mark.parametrize("between", [0.0, 0.03])
def test_the_interval_covers_the_true_median_about_as_often_as_it_says(between):
    """Levels that vary between rounds must widen it: resampling single samples alone would cover a tenth of them."""
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        samples, numbers = rounds_of(rng, rounds=8, per_round=60, between=between)
        found = summarise(samples, numbers, resamples=300, seed=trial)
        covered += found.ci_low_ns <= 1e6 <= found.ci_high_ns
    assert covered >= 0.92 * 200


def test_more_rounds_narrow_the_interval():
    rng = np.random.default_rng(2)
    few = summarise(*rounds_of(rng, rounds=5, per_round=50, between=0.03))
    many = summarise(*rounds_of(rng, rounds=80, per_round=50, between=0.03))
    assert many.precision < few.precision / 2


def test_a_single_sample_has_no_interval():
    found = summarise(np.array([5]), np.array([0]))
    assert np.isnan(found.ci_low_ns)
    assert found.precision == np.inf


def test_one_or_two_rounds_have_no_interval():
    """Samples of one disturbed round agree with each other, and with nothing else."""
    assert summarise(np.full(100, 36_000_000), np.zeros(100, int)).precision == np.inf
    assert summarise(np.full(100, 36_000_000), np.repeat([0, 1], 50)).precision == np.inf


def test_the_interval_lies_within_the_samples():
    rng = np.random.default_rng(8)
    samples = np.where(rng.random(100) < 0.5, 250, 36_000)
    found = summarise(samples, np.repeat(np.arange(5), 20))
    assert 250 <= found.ci_low_ns <= found.ci_high_ns <= 36_000


def test_the_interval_holds_the_median():
    rng = np.random.default_rng(3)
    for _ in range(20):
        samples, numbers = rounds_of(rng, rounds=5, per_round=3, between=0.2, within=0.3)
        found = summarise(np.abs(samples) + 1, numbers)
        assert found.ci_low_ns <= found.median_ns <= found.ci_high_ns


def test_the_same_seed_gives_the_same_interval():
    samples, numbers = rounds_of(np.random.default_rng(4), rounds=6, per_round=30, between=0.05)
    assert summarise(samples, numbers, seed=7) == summarise(samples, numbers, seed=7)


levels = st.lists(st.floats(1e2, 1e10), min_size=3, max_size=12)


@given(first=levels, second=levels)
@settings(max_examples=60, deadline=None)
def test_a_ratio_has_positive_ends_around_it_and_none_beyond_what_any_round_shows(first, second):
    count = min(len(first), len(second))
    left, right = (dict(enumerate(values[:count])) for values in (first, second))
    found = ratio_of_rounds(left, right)
    assert 0 < found.low <= found.value <= found.high
    each = [right[number] / left[number] for number in left]
    assert found.high <= max(found.value, *each) * (1 + 1e-12) or max(each) < 1
    assert found.low >= min(found.value, *each) * (1 - 1e-12) or min(each) > 1


@given(values=levels)
@settings(max_examples=60, deadline=None)
def test_the_median_of_rounds_lies_within_its_interval_and_that_within_the_rounds(values):
    found = median_of_rounds(values)
    assert min(values) <= found.low <= found.value <= found.high <= max(values)


def test_fewer_than_three_rounds_have_no_interval():
    assert np.isnan(median_of_rounds([1.0, 2.0]).low)
    assert np.isnan(ratio_of_rounds({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).high)
    assert np.isnan(ratio_of_rounds({0: 1.0}, {1: 1.0}).value)


@pytest.mark.parametrize("spread", [0.02, 0.3, 2.0])
def test_two_series_of_one_program_are_rarely_told_apart(spread):
    """Rounds of lognormal noise, also far heavier than a quiet machine's."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(400):
        sides = [dict(enumerate(np.exp(spread * rng.standard_normal(5)))) for _ in range(2)]
        found = ratio_of_rounds(*sides)
        alarms += not found.low <= 1 <= found.high
    assert alarms <= 0.06 * 400


def test_a_true_difference_beyond_the_noise_is_found():
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(100):
        first = dict(enumerate(np.exp(0.02 * rng.standard_normal(5))))
        second = {number: 1.15 * value for number, value in enumerate(np.exp(0.02 * rng.standard_normal(5)))}
        found += ratio_of_rounds(first, second).low > 1
    assert found >= 90
