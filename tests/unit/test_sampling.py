"""The timed loop and the warm-up rule, on steps whose behaviour is known."""

import gc
import time

from npuscope.measure.sampling import sample, warm_up


class Steps:
    """A step that sleeps as told; the last delay stays."""

    def __init__(self, delays_s):
        self.delays_s = delays_s
        self.calls = 0

    def __call__(self):
        time.sleep(self.delays_s[min(self.calls, len(self.delays_s) - 1)])
        self.calls += 1


def test_each_execution_is_one_sample_of_at_least_its_duration():
    step = Steps([0.002])
    samples = sample(step, 5)
    assert step.calls == len(samples) == 5
    assert min(samples) >= 2_000_000


def test_no_garbage_is_collected_while_timing_and_it_goes_on_after():
    seen = []
    sample(lambda: seen.append(gc.isenabled()), 3)
    assert seen == [False] * 3
    assert gc.isenabled()


def test_garbage_collection_goes_on_after_a_failing_step():
    try:
        sample(lambda: 1 / 0, 1)
    except ZeroDivisionError:
        pass
    assert gc.isenabled()


def test_the_warm_up_outlasts_a_slow_start(monkeypatch):
    """Twenty slow runs, then fast ones: a fixed count of ten would have ended inside the slow part."""
    step = Steps([0.006 - 0.00025 * i for i in range(20)] + [0.001])
    now_ns = [0]  # a clock of its own: the jitter of a busy machine can look like steadiness

    def sleep(seconds):
        now_ns[0] += round(1e9 * seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr("npuscope.measure.sampling.perf_counter_ns", lambda: now_ns[0])
    warm = warm_up(step, first_run_ns=6_000_000, max_seconds=5.0, runs=None)
    assert warm.steady
    assert step.calls > 20
    assert warm.samples_ns[-1] < 2_500_000


def test_the_warm_up_of_a_steady_device_is_short():
    step = Steps([0.002])
    warm = warm_up(step, first_run_ns=2_000_000, max_seconds=5.0, runs=None)
    assert warm.steady
    assert step.calls <= 20


def test_a_device_that_never_settles_is_given_up_on_and_said_so():
    step = Steps([0.001 * 1.3**i for i in range(40)])
    warm = warm_up(step, first_run_ns=1_000_000, max_seconds=0.2, runs=None)
    assert not warm.steady


def test_a_fixed_count_is_kept_to():
    step = Steps([0.0])
    assert len(warm_up(step, first_run_ns=1, max_seconds=1.0, runs=7).samples_ns) == step.calls == 7
