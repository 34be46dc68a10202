"""Time, slices and compile time against the loop length: the line, and whether it holds."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npuscope.analysis.pattern_scaling import COMPILE, SLICES, TIME, fit_line, scaling
from npuscope.analysis.pattern_trace import Latency, PatternTrace
from npuscope.report.document import to_json
from tests.profiles import instruction, small_profile


def trace(pattern, iterations, time_ns, **more):
    given = {
        "size": "",
        "device": "sim:trn2",
        "is_simulated": True,
        "work": f"w{iterations}",
        "latency": Latency(time_ns),
    }
    return PatternTrace(pattern, iterations=iterations, **{**given, **more})


def profile(slices):
    return small_profile(
        [instruction("Vector", "TENSOR_TENSOR", 10 * at, 5) for at in range(slices)], metadata={"is_simulation": True}
    )


def test_a_line_is_found_and_holds():
    study = scaling([trace("loop", n, 500 + 40 * n, compile_ms=1 + 2 * n) for n in (30, 3, 10)])
    (series,) = study.series
    time, compiled = series.fit(TIME), series.fit(COMPILE)
    assert (time.iterations, time.values) == ((3, 10, 30), (620.0, 900.0, 1700.0))
    assert (time.fixed, time.per_iteration) == (pytest.approx(500), pytest.approx(40))
    assert time.holds is True
    assert time.r_squared == pytest.approx(1)
    assert (compiled.fixed, compiled.per_iteration) == (pytest.approx(1e6), pytest.approx(2e6))
    assert series.fit(SLICES) is None


def test_slices_are_of_one_run():
    traces = [trace("loop", n, n, is_simulated=True, profile=profile(2 * (4 + 5 * n)), runs=2) for n in (3, 10, 30)]
    fit = scaling(traces).series[0].fit(SLICES)
    assert (fit.fixed, fit.per_iteration) == (pytest.approx(4), pytest.approx(5))


def test_where_the_line_does_not_hold_it_is_said():
    fit = scaling([trace("loop", n, n**2) for n in (3, 10, 30)]).series[0].fit(TIME)
    assert fit.holds is False
    assert fit.largest_residual > 1
    assert fit.largest_residual_at == 3
    assert "THE LINE DOES NOT HOLD" in fit.sentence


def test_two_lengths_fit_any_line_and_are_not_judged():
    fit = scaling([trace("loop", 3, 100), trace("loop", 10, 800)]).series[0].fit(TIME)
    assert (fit.per_iteration, fit.holds, fit.r_squared) == (pytest.approx(100), None, None)
    assert "not judged" in fit.sentence


def test_one_length_or_two_traces_of_one_length_are_no_series():
    alone = scaling([trace("loop", 3, 100)]).series[0]
    assert alone.fits == ()
    assert "a fit needs 2" in alone.refused
    twice = scaling([trace("loop", 3, 100), trace("loop", 3, 200, work="other"), trace("loop", 10, 5)]).series[0]
    assert twice.fits == ()
    assert "several traces of 3 iterations" in twice.refused


def test_series_are_one_per_pattern_device_and_method():
    traces = [trace(p, n, n, device=d) for p in ("scan", "loop") for d in ("sim:trn1", "sim:trn2") for n in (3, 10)]
    traces += [trace("scan", n, n, is_simulated=False, device="sim:trn1") for n in (3, 10)]
    names = [(series.pattern, series.device, series.method) for series in scaling(traces).series]
    assert len(names) == len(set(names)) == 5


def test_what_does_not_grow_is_not_told_to():
    constant = scaling([trace("scan", n, 7_000) for n in (3, 10, 30)]).series[0].fit(TIME)
    assert (constant.per_iteration, constant.r_squared, constant.holds) == (0, None, True)
    assert "the same at every length" in constant.sentence
    noisy = [trace("scan", n, t, is_simulated=False) for n, t in ((3, 100_000), (10, 102_000), (30, 104_000))]
    assert "no growth beyond noise" in scaling(noisy).series[0].fit(TIME).sentence


def test_the_sentence_has_the_values_that_it_was_calculated_from():
    (sentence,) = scaling([trace("loop", n, 6_000 + 1_000 * n) for n in (3, 10, 30)]).sentences
    assert sentence == (
        "loop on sim:trn2: time = 6 µs + 1 µs per iteration (calculation: least squares of 3 iterations 9 µs, "
        "10 iterations 16 µs, 30 iterations 36 µs; 10x the iterations, 4x the value); the line holds: R² 1.0000, "
        "largest residual 0 % at 3 iterations"
    )


lengths = st.lists(st.integers(1, 10_000), min_size=3, max_size=12, unique=True).map(sorted)


@given(lengths, st.floats(0, 1e9), st.floats(0.01, 1e6))
def test_any_line_is_recovered(counts, fixed, slope):
    fit = fit_line(TIME, "ns", [(n, fixed + slope * n) for n in counts])
    assert fit.holds
    for n in counts:
        assert fit.at(n) == pytest.approx(fixed + slope * n, rel=1e-6)


@given(lengths, st.data())
def test_any_values_give_a_fit_and_a_sentence(counts, data):
    values = [data.draw(st.one_of(st.just(0.0), st.floats(0, 1e15))) for _ in counts]
    fit = fit_line(SLICES, "", list(zip(counts, values, strict=True)), name="x")
    assert fit.sentence.startswith("x: slices = ")
    assert fit.holds == (fit.largest_residual <= 0.1)
    json.loads(to_json(fit))


def test_the_study_is_a_document():
    document = json.loads(to_json(scaling([trace("loop", n, n**2) for n in (3, 10, 30)]).document()))
    assert document["series"][0]["fits"][0]["holds"] is False
