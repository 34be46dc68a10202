"""Default buckets of the serving stacks, and the planner against brute force."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.analysis.buckets import (
    LatencyCurve,
    LengthHistogram,
    batch_buckets,
    default_buckets,
    evaluate_buckets,
    modelled_curve,
    nxdi_buckets,
    padding_table,
    plan_buckets,
    vllm_gaudi_buckets,
    vllm_neuron_buckets,
    vllm_tpu_buckets,
)
from npuscope.errors import UsageError


def histogram(lengths, weights=None):
    return LengthHistogram(np.array(lengths), np.array(weights or [1.0] * len(lengths), dtype=float))


def curve(lengths, latency):
    return LatencyCurve(np.array(lengths), np.array(latency, dtype=float), "test")


@pytest.mark.parametrize(
    ("function", "longest", "buckets"),
    [
        (vllm_neuron_buckets, 2048, (128, 256, 512, 1024, 2048)),
        (vllm_neuron_buckets, 1500, (128, 256, 512, 1024, 1500)),
        (vllm_neuron_buckets, 129, (128, 129)),
        (vllm_neuron_buckets, 64, (64,)),
        (nxdi_buckets, 2048, (128, 256, 512, 1024, 2048)),
        (nxdi_buckets, 513, (128, 256, 513)),
        (nxdi_buckets, 1448, (128, 256, 512, 1448)),
        (nxdi_buckets, 1449, (128, 256, 512, 1024, 1449)),
        (nxdi_buckets, 5000, (128, 256, 512, 1024, 2048, 5000)),
        (nxdi_buckets, 181, (181,)),
        (nxdi_buckets, 128, (128,)),
        (vllm_tpu_buckets, 3000, (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)),
        (vllm_tpu_buckets, 16, (16,)),
        (vllm_gaudi_buckets, 2048, (128, 256, 384, 512, 768, 896, 1280, 1664, 2048)),
        (vllm_gaudi_buckets, 4096, (128, 256, 384, 512, 640, 896, 1280, 1664, 2304, 3072, 4096)),
        (batch_buckets, 6, (1, 2, 4, 6)),
        (batch_buckets, 32, (1, 2, 4, 8, 16, 32)),
        (batch_buckets, 1, (1,)),
    ],
)
def test_defaults_are_those_of_the_serving_stacks(function, longest, buckets):
    assert function(longest) == buckets


def test_an_unknown_scheme_is_told_with_the_nearest_name():
    with pytest.raises(UsageError, match="did you mean 'nxdi'"):
        default_buckets("nxdii", 128)


def test_padding_is_counted_over_the_actual_length():
    row = padding_table([115], [128, 256])[0]
    assert (row.bucket_N, row.padding_size) == (128, 13)
    assert row.padding_pct == pytest.approx(100 * 13 / 115)


def test_a_length_above_every_bucket_is_refused():
    with pytest.raises(UsageError, match="fits no bucket"):
        padding_table([300], [128, 256])


def cheapest_by_brute_force(lengths, weights, latency_curve, cost, limit):
    """Every subset of every length at which an optimal bucket can lie."""
    options = sorted({*lengths, *(int(x) for x in latency_curve.lengths if x >= lengths[0])})
    best = np.inf
    for size in range(1, limit + 1):
        for subset in combinations(options, size):
            if subset[-1] >= lengths[-1]:
                plan = evaluate_buckets("x", subset, histogram(lengths, weights), latency_curve, cost)
                best = min(best, plan.expected_cost_ms)
    return best


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_no_set_of_buckets_is_cheaper_than_the_planned_one(data):
    lengths = sorted(data.draw(st.sets(st.integers(1, 40), min_size=1, max_size=6)))
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(lengths), max_size=len(lengths)))
    points = sorted({*data.draw(st.sets(st.integers(1, 40), min_size=1, max_size=3)), 41})
    latency = data.draw(st.lists(st.floats(0.1, 10), min_size=len(points), max_size=len(points)))
    cost = data.draw(st.sampled_from([0.0, 0.05, 0.5, 3.0]))
    limit = data.draw(st.sampled_from([None, 1, 2, 3]))
    measured = curve(points, latency)
    plan = plan_buckets(histogram(lengths, weights), measured, compile_cost_ms=cost, max_buckets=limit)
    expected = cheapest_by_brute_force(lengths, weights, measured, cost, limit or 6)
    assert plan.expected_cost_ms == pytest.approx(expected, rel=1e-9)
    assert len(plan.buckets) <= (limit or 6)
    assert plan.buckets[-1] >= lengths[-1]


def test_free_buckets_are_one_per_length_and_dear_ones_are_one_in_all():
    lengths, linear = list(range(1, 101)), curve([1, 100], [1.0, 100.0])
    assert len(plan_buckets(histogram(lengths), linear).buckets) == 100
    assert plan_buckets(histogram(lengths), linear, compile_cost_ms=1e6).buckets == (100,)


def test_latency_that_does_not_grow_needs_one_bucket():
    plan = plan_buckets(histogram([1, 50, 100]), curve([1, 100], [2.0, 2.0]), compile_cost_ms=0.001)
    assert plan.buckets == (100,)
    assert plan.time_waste == 0


def test_a_longer_bucket_that_runs_faster_is_taken():
    plan = plan_buckets(histogram([100]), curve([1, 100, 128], [1.0, 5.0, 3.0]))
    assert plan.buckets == (128,)


def test_buckets_are_multiples_where_asked():
    plan = plan_buckets(histogram(list(range(1, 1000))), curve([1, 2048], [1.0, 100.0]), multiple_of=128)
    assert all(bucket % 128 == 0 for bucket in plan.buckets)


def test_the_largest_bucket_holds_max_length_though_no_request_is_that_long():
    plan = plan_buckets(histogram([10, 20]), curve([1, 2048], [1.0, 100.0]), max_length=2048, compile_cost_ms=0.01)
    assert plan.buckets[-1] == 2048


def test_staircase_latency_puts_buckets_at_the_tile_edges():
    stairs = modelled_curve(floor_ms=0.3, per_token_ms=0.01, per_token2_ms=0, tile=128)
    plan = plan_buckets(histogram(list(range(1, 513))), stairs, compile_cost_ms=1e-6)
    assert plan.buckets == (128, 256, 384, 512)
    assert plan.time_waste == pytest.approx(0)
    assert plan.padding_waste > 0


def test_latencies_are_never_extrapolated():
    with pytest.raises(UsageError, match="end at length 100"):
        plan_buckets(histogram([101]), curve([1, 100], [1.0, 2.0]))


def test_the_plan_never_costs_more_than_the_default():
    rng = np.random.default_rng(0)
    lengths = np.unique(np.minimum(2048, rng.lognormal(6, 1, 3000)).astype(int) + 1)
    measured = curve([1, 128, 512, 2048, 2049], [0.3, 0.35, 0.9, 4.0, 4.01])
    sample = histogram(lengths.tolist())
    default = evaluate_buckets("default", vllm_neuron_buckets(int(lengths[-1])), sample, measured, 0.01)
    assert plan_buckets(sample, measured, compile_cost_ms=0.01).expected_cost_ms <= default.expected_cost_ms


@pytest.mark.parametrize(
    "wrong",
    [
        {"compile_cost_ms": -1},
        {"compile_cost_ms": float("nan")},
        {"max_buckets": 0},
        {"multiple_of": 0},
        {"max_length": 5},
    ],
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        plan_buckets(histogram([10]), curve([1, 100], [1.0, 2.0]), **wrong)


def test_of_plans_that_cost_the_same_the_one_with_fewer_buckets_is_taken():
    stairs = modelled_curve(floor_ms=0.3, per_token_ms=0.002, per_token2_ms=0, tile=128)
    assert plan_buckets(histogram(list(range(1, 1025))), stairs).buckets == tuple(range(128, 1025, 128))


def test_max_length_may_be_the_last_bucket_though_it_is_no_multiple():
    plan = plan_buckets(histogram([100, 900]), curve([1, 1000], [1.0, 100.0]), multiple_of=128, max_length=950)
    assert plan.buckets == (128, 950)


def test_waste_is_never_negative():
    plan = plan_buckets(histogram([100, 900]), curve([100, 900, 1000], [5.0, 6.0, 1.0]))
    assert plan.buckets == (1000,)
    assert plan.time_waste == 0
