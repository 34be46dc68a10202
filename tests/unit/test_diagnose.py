"""Each warning on a case that triggers it and on one that does not, and how often it cries wolf."""

import numpy as np
import pytest

from npuscope.measure.diagnose import (
    diagnose,
    drift_fraction,
    find_modes,
    first_run_in_samples,
    within_dispatch_floor,
)
from npuscope.measure.statistics import summarise
from npuscope.workloads.matmul import MatmulConfig

ROUNDS = np.repeat(np.arange(8), 25)


def quiet(rng, centre=1e6, spread=0.01):
    return (centre * (1 + spread * rng.standard_normal(200))).astype(np.int64)


def codes(samples, *, floor=None, compiles=0, steady=True, precision=0.5, busy=0.0):
    found = diagnose(
        MatmulConfig(128, 128, 128),
        "cpu",
        samples,
        ROUNDS[: len(samples)],
        summarise(samples, ROUNDS[: len(samples)]),
        precision=precision,
        max_seconds=2.0,
        floor=floor,
        compiles_while_timed=compiles,
        steady=steady,
        other_cores_busy=busy,
    )
    return {warning.code: warning for warning in found}


def floor_of(rng, centre):
    return summarise(quiet(rng, centre), ROUNDS)


def test_quiet_samples_far_above_the_floor_deserve_no_warning():
    rng = np.random.default_rng(0)
    assert codes(quiet(rng), floor=floor_of(rng, 1e4)) == {}


def test_a_steady_rise_over_the_rounds_is_drift():
    rng = np.random.default_rng(0)
    rising = (quiet(rng) * (1 + 0.02 * ROUNDS)).astype(np.int64)
    assert drift_fraction(rising, ROUNDS) == pytest.approx(0.14, abs=0.02)
    assert "drift" in codes(rising)


def test_drift_is_found_in_few_of_many_driftless_series():
    rng = np.random.default_rng(1)
    found = sum(drift_fraction(quiet(rng, spread=0.2), ROUNDS) is not None for _ in range(400))
    assert found <= 0.06 * 400


def test_a_drift_below_three_percent_is_none():
    rng = np.random.default_rng(2)
    assert drift_fraction((quiet(rng, spread=0.001) * (1 + 0.002 * ROUNDS)).astype(np.int64), ROUNDS) is None


def test_four_rounds_cannot_show_a_drift():
    samples = (np.arange(100) + 100).astype(np.int64)
    assert drift_fraction(samples, np.repeat(np.arange(4), 25)) is None


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_two_modes_six_percent_apart_are_found(share):
    rng = np.random.default_rng(3)
    slow = rng.random(200) < share
    samples = (quiet(rng, spread=0.005) * np.where(slow, 1.06, 1.0)).astype(np.int64)
    low, high = find_modes(samples)
    assert low == pytest.approx(1e6, rel=0.01)
    assert high == pytest.approx(1.06e6, rel=0.01)
    assert "bimodal" in codes(samples)


@pytest.mark.parametrize("shape", ["normal", "uniform", "lognormal", "exponential", "spiky"])
def test_one_mode_is_rarely_taken_for_two(shape):
    rng = np.random.default_rng(4)
    draws = {
        "normal": lambda: 1 + 0.05 * rng.standard_normal(200),
        "uniform": lambda: rng.uniform(1, 2, 200),
        "lognormal": lambda: rng.lognormal(0, 0.5, 200),
        "exponential": lambda: 1 + rng.exponential(0.3, 200),
        "spiky": lambda: np.where(rng.random(200) < 0.03, 5.0, 1 + 0.01 * rng.standard_normal(200)),
    }
    found = sum(find_modes((1e6 * draws[shape]()).astype(np.int64)) is not None for _ in range(200))
    assert found <= 0.02 * 200


def test_samples_short_of_the_precision_are_noisy_and_the_next_command_asks_for_more_time():
    rng = np.random.default_rng(5)
    warning = codes(quiet(rng, spread=0.3), precision=0.01)["noisy"]
    assert "--max-seconds" in warning.next_command
    assert float(warning.next_command.rsplit(" ", 1)[1]) >= 8
    assert "noisy" not in codes(quiet(rng, spread=0.001), precision=0.01)


def test_a_latency_near_the_floor_times_dispatch():
    rng = np.random.default_rng(6)
    warning = codes(quiet(rng, 1.05e6), floor=floor_of(rng, 1e6))["dispatch-floor"]
    assert "you are timing dispatch, not the matmul" in warning.message
    assert "512x512x512" in warning.next_command


def test_a_latency_within_the_floors_noise_times_dispatch_whatever_its_share():
    rng = np.random.default_rng(7)
    noisy_floor = summarise(quiet(rng, 1e6, spread=0.9), ROUNDS)
    assert within_dispatch_floor(summarise(quiet(rng, 1.4e6), ROUNDS), noisy_floor)
    assert not within_dispatch_floor(summarise(quiet(rng, 1.4e6), ROUNDS), floor_of(rng, 1e6))


def test_noise_of_the_workload_alone_makes_it_no_dispatch():
    rng = np.random.default_rng(7)
    disturbed = summarise((quiet(rng) * rng.choice([1, 20], 200)).astype(np.int64), ROUNDS)
    assert not within_dispatch_floor(disturbed, floor_of(rng, 4e3))


def test_a_compilation_in_the_timed_region_is_told():
    rng = np.random.default_rng(8)
    assert "2 compilation(s)" in codes(quiet(rng), compiles=2)["compile-in-timed-region"].message


def test_a_first_run_among_the_samples_is_told():
    samples = quiet(np.random.default_rng(9))
    samples[0] = 5e6
    assert first_run_in_samples(samples)
    assert "first-run-in-samples" in codes(samples)


def test_an_outlier_elsewhere_is_no_first_run():
    samples = quiet(np.random.default_rng(9))
    samples[50] = 5e6
    assert not first_run_in_samples(samples)


def test_a_warm_up_that_never_settled_is_told():
    assert "not-steady" in codes(quiet(np.random.default_rng(10)), steady=False)


def test_every_warning_names_the_next_command():
    rng = np.random.default_rng(11)
    samples = quiet(rng, spread=0.3)
    samples[0] = 1e8
    found = codes(samples, floor=floor_of(rng, 1e6), compiles=1, steady=False, precision=0.001)
    assert len(found) >= 5
    assert all(warning.next_command.startswith("npuscope matmul --shape ") for warning in found.values())


def test_a_busy_host_is_told_though_the_samples_agree():
    """Two BLAS threads that wait for the same neighbour each time are steady, and wrong."""
    samples = quiet(np.random.default_rng(12), spread=0.0001)
    assert "busy-host" in codes(samples, busy=1.0)
    assert "busy-host" not in codes(samples, busy=0.05)


def test_what_another_process_takes_is_counted_and_what_this_one_takes_is_not():
    import subprocess
    import sys
    import time

    from npuscope.measure.load import cores_of_others, mark_load

    before = mark_load()
    spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    time.sleep(1.0)
    after = mark_load()
    spinner.kill()
    spinner.wait()
    assert cores_of_others(before, after) > 0.3
    assert cores_of_others(before, before) == 0
