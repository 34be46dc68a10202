"""Boundary effects of measured rows, on samples whose differences are known."""

from dataclasses import replace

import numpy as np
import pytest

from npuscope.analysis.boundary import (
    AS_WORK,
    BEYOND_WORK,
    SIGNIFICANT,
    UNSTEADY,
    WITHIN_NOISE,
    boundary_study,
    find_crossings,
    judge,
)
from npuscope.formats.results import ResultRow
from npuscope.tiling.model import TENSOR_ENGINE, tile_model

ROUNDS = 10
LEVELS = 1 + 0.2 * np.random.default_rng(9).standard_normal(ROUNDS)  # what the machine does, the same for all shapes


def row(M, latency_ms, K=128, N=512, spread=0.002, seed=0, **changes):
    rng = np.random.default_rng([seed, M, K, N])
    samples = 1e6 * latency_ms * LEVELS[:, None] * (1 + spread * rng.standard_normal((ROUNDS, 20)))
    made = ResultRow(
        M, K, N, float(np.median(samples)) / 1e6, 1, 1, 1, 1, "cpu", False, "ok", "float32",
        latency_ci_low_ms=0.9 * latency_ms,
        latency_ci_high_ms=1.1 * latency_ms,
        dispatch_floor_ms=0.01, model_flops=2 * M * K * N,
        samples_ns=tuple(samples.reshape(-1).astype(int)), sample_round=tuple(np.repeat(range(ROUNDS), 20)),
    )  # fmt: skip
    return replace(made, **changes)


def test_a_step_shows_through_a_drift_that_both_shapes_share():
    """The rounds' levels vary by 20 %, the step is 10 %: only pairing by round can see it."""
    (effect,) = boundary_study([row(128, 1.0), row(136, 1.17)])
    assert (effect.axis, effect.before, effect.after) == ("M", 128, 136)
    assert effect.verdict == BEYOND_WORK  # 6 % more rows explain 0.06 of the 0.17 ms
    assert effect.work_ms == pytest.approx(0.99 * 8 / 128, rel=0.2)
    assert "significant, beyond the added work" in effect.sentence


def test_the_added_work_alone_is_not_called_a_boundary_cost():
    (effect,) = boundary_study([row(128, 1.0), row(136, 1.055)])
    assert effect.verdict == AS_WORK


def test_no_step_is_within_noise():
    (effect,) = boundary_study([row(128, 1.0, spread=0.05), row(136, 1.0, spread=0.05)])
    assert effect.verdict == WITHIN_NOISE
    assert "within noise" in effect.sentence


def test_false_alarms_are_rare():
    alarms = sum(
        boundary_study([row(128, 1.0, spread=0.05, seed=s), row(136, 1.0, spread=0.05, seed=s)])[0].verdict
        in SIGNIFICANT
        for s in range(200)
    )
    assert alarms <= 0.1 * 200


def test_a_faster_shape_after_the_boundary_is_said_to_be_faster():
    assert "significant, faster" in boundary_study([row(128, 1.0), row(136, 0.8)])[0].sentence


def test_a_row_that_is_all_over_the_place_is_not_judged_against_its_neighbour():
    disturbed = row(136, 30.0, latency_ci_low_ms=1.0, latency_ci_high_ms=60.0)
    assert boundary_study([row(128, 1.0), disturbed])[0].verdict == UNSTEADY


def test_less_than_the_added_work_is_not_called_as_much():
    assert judge(1.0, 3.0, 20.0) == "significant, less than the added work"


def test_shapes_that_shared_no_round_are_compared_by_their_own_intervals():
    other = row(136, 1.3, sample_round=tuple(np.repeat(range(100, 100 + ROUNDS), 20)))
    (effect,) = boundary_study([row(128, 1.0), other])
    assert effect.delta_ms == pytest.approx(other.latency_ms - row(128, 1.0).latency_ms)
    assert effect.delta_high_ms - effect.delta_low_ms == pytest.approx(2 * np.hypot(0.1, 0.13))


def test_rows_of_other_devices_or_types_are_not_compared():
    assert boundary_study([row(128, 1.0), row(136, 2.0, device="jax:cpu")]) == []
    assert boundary_study([row(128, 1.0), row(136, 2.0, dtype="float16")]) == []


def test_failed_rows_are_left_out():
    assert boundary_study([row(128, 1.0), row(136, 1.0, status="failed", samples_ns=())]) == []


@pytest.mark.parametrize(
    ("first", "second", "crosses"),
    [
        ((128, 1, 1), (129, 1, 1), True),
        ((120, 1, 1), (128, 1, 1), False),
        ((128, 1, 1), (256, 1, 1), False),  # a whole tile apart: no look at the boundary
        ((1, 128, 1), (1, 136, 1), True),
        ((1, 1, 512), (1, 1, 520), True),
        ((1, 1, 128), (1, 1, 136), False),
        ((128, 1, 1), (136, 2, 1), False),
    ],
)
def test_a_crossing_lies_between_close_neighbours_in_one_dimension(first, second, crosses):
    assert bool(find_crossings([second, first], ["", ""], TENSOR_ENGINE)) == crosses


def test_another_tile_shape_has_other_boundaries():
    assert find_crossings([(1, 64, 1), (1, 72, 1)], ["", ""], tile_model("64x64x64"))[0].axis == "K"
