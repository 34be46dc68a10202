"""Patterns compared: ranked only where that is allowed, fastest first, and tied where they cannot be told apart."""

import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npuscope.analysis.pattern_comparison import compare_groups, compare_patterns, compare_two
from npuscope.analysis.pattern_ranking import judge_pair, rank_groups
from npuscope.analysis.pattern_trace import Latency, PatternTrace
from npuscope.errors import ComparisonError, UsageError
from npuscope.report.document import to_json
from tests.profiles import instruction, small_profile


def profile(time_ns, *, simulated=False, gap_ns=0):
    rows = [
        instruction("Tensor", "MATMUL", 0, time_ns // 4, timeline_track="TensorMatrix"),
        instruction("Vector", "TENSOR_TENSOR", time_ns // 4 + gap_ns, time_ns - time_ns // 4),
    ]
    return small_profile(rows, metadata={"is_simulation": simulated}, summary={"total_time": (time_ns + gap_ns) / 1e9})


def predicted(pattern, time_ns, **more):
    given = {"size": "small", "iterations": 3, "device": "sim:trn2", "is_simulated": True, "work": "w"}
    given |= {"profile": profile(int(time_ns), simulated=True), "latency": Latency(time_ns)}
    return PatternTrace(pattern, **{**given, **more})


def measured(pattern, median_ns, *, seed=0, spread=0.005, rounds=12, weather=None, **more):
    """Samples of rounds that share what the machine did: `weather` multiplies a whole round."""
    rng = np.random.default_rng(seed)
    factor = np.ones(rounds) if weather is None else weather
    samples = [
        int(median_ns * factor[at] * (1 + spread * rng.standard_normal())) for at in range(rounds) for _ in range(8)
    ]
    given = {"size": "small", "iterations": 3, "device": "jax:cpu", "is_simulated": False, "work": "w"}
    latency = Latency(float(np.median(samples)), 0.99 * median_ns, 1.01 * median_ns)
    numbers = tuple(at for at in range(rounds) for _ in range(8))
    return PatternTrace(
        pattern, **{**given, "latency": latency, **more}, samples_ns=tuple(samples), sample_round=numbers
    )


# the ranks


def test_the_fastest_comes_first_and_has_rank_one():
    found = compare_patterns([predicted("loop", 9_000), predicted("vmap", 2_000), predicted("scan", 4_000)])
    assert [(row.pattern, row.rank) for row in found.rows] == [("vmap", 1), ("scan", 2), ("loop", 3)]
    assert found.refused == ""


def test_predictions_within_the_models_error_share_a_rank():
    found = compare_patterns([predicted("vmap", 2_000.0), predicted("scan", 2_150.0), predicted("loop", 2_400.0)])
    assert [row.rank for row in found.rows] == [1, 1, 3]
    assert found.rows[0].remark == "within the model's error: scan_3"


def test_measured_ones_within_five_percent_are_within_noise_however_narrow_the_interval():
    found = compare_patterns(
        [measured("vmap", 100_000), measured("scan", 103_000, seed=1), measured("loop", 130_000, seed=2)]
    )
    assert [(row.pattern, row.rank) for row in found.rows] == [("vmap", 1), ("scan", 1), ("loop", 3)]
    near = next(pair for pair in found.pairs if {pair.first, pair.second} == {"vmap_3", "scan_3"})
    assert near.ratio_low > 1
    assert near.verdict == "within noise"


def test_what_a_round_did_to_both_falls_out_of_the_ratio():
    weather = np.random.default_rng(5).uniform(1, 3, 12)
    pair = compare_two(measured("vmap", 100_000, weather=weather), measured("scan", 130_000, seed=1, weather=weather))
    assert pair.verdict == "slower"
    assert pair.ratio_high - pair.ratio_low < 0.3


def test_a_wide_interval_is_within_noise_whatever_the_medians():
    assert compare_two(measured("vmap", 100_000, spread=0.9, rounds=5), measured("scan", 112_000, seed=1, spread=0.9, rounds=5)).verdict == "within noise"  # fmt: skip


def test_verdict_and_interval_turn_round_with_the_order():
    vmap, loop = measured("vmap", 100_000), measured("loop", 150_000, seed=1)
    forth, back = compare_two(vmap, loop), compare_two(loop, vmap)
    assert (forth.verdict, back.verdict) == ("slower", "faster")
    assert forth.ratio == pytest.approx(1 / back.ratio)


@pytest.mark.parametrize("seed", range(5))
def test_the_same_programs_are_ranked_alike_in_five_runs(seed):
    traces = [
        measured(name, ns, seed=10 * seed + at)
        for at, (name, ns) in enumerate([("vmap", 1e5), ("scan", 1.02e5), ("loop", 2e5)])
    ]
    ranks = {row.pattern: row.rank for row in compare_patterns(traces, seed=seed).rows}
    assert ranks == {"vmap": 1, "scan": 1, "loop": 3}


def test_too_few_rounds_give_no_rank_but_leave_the_others_theirs():
    found = compare_patterns([measured("vmap", 100_000), measured("loop", 200_000), measured("scan", 50_000, rounds=2)])
    assert [(row.pattern, row.rank) for row in found.rows] == [("scan", None), ("vmap", 1), ("loop", 2)]
    assert "too few rounds" in found.rows[0].remark


def test_captures_of_one_execution_are_ordered_and_not_ranked():
    slow, fast = (
        predicted(name, 1, is_simulated=False, latency=None, profile=profile(ns))
        for name, ns in (("loop", 8_000), ("vmap", 4_000))
    )
    found = compare_patterns([slow, fast])
    assert [(row.pattern, row.rank) for row in found.rows] == [("vmap", None), ("loop", None)]
    assert all("one execution" in row.remark for row in found.rows)
    assert not any("Fastest" in line for line in found.insights)


@given(count=st.integers(1, 7), data=st.data())
def test_different_ranks_are_always_told_apart_and_a_rank_is_a_chain(count, data):
    apart = {pair: data.draw(st.booleans()) for pair in itertools.combinations(range(count), 2)}
    ranks = rank_groups(count, [(*pair, told) for pair, told in apart.items()])
    assert ranks[0] == 1
    assert ranks == sorted(ranks)
    for (first, second), told in apart.items():
        assert ranks[first] == ranks[second] or told
    for at in range(1, count):
        crosses = any(not told for (a, b), told in apart.items() if a < at <= b)
        assert (ranks[at] == ranks[at - 1]) == crosses
        if not crosses:
            assert ranks[at] == at + 1


# refusals


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"work": "v"}, "different work"),
        ({"device": "sim:trn1"}, "different devices"),
        ({"is_simulated": False, "profile": profile(4_000)}, "times of different kinds"),
    ],
)
def test_other_work_another_device_or_another_method_is_refused(other, why):
    traces = [predicted("vmap", 2_000), predicted("scan", 4_000, **other)]
    found = compare_patterns(traces)
    assert why in found.refused
    assert [(row.pattern, row.rank) for row in found.rows] == [("vmap", None), ("scan", None)]
    assert all(row.remark == f"not comparable: {why}" for row in found.rows)
    assert found.rows[0].time_ms == pytest.approx(0.002)
    assert found.pairs == ()
    assert not any(re.search(r"Fastest|Slowest|ratio \d", line) for line in found.insights)
    with pytest.raises(ComparisonError, match=why):
        compare_two(*traces)


def test_a_cold_capture_is_not_compared_with_a_warm_one():
    warm = predicted("vmap", 1, is_simulated=False, latency=None, profile=profile(400_000))
    cold = predicted("scan", 1, is_simulated=False, latency=None, profile=profile(400_000, gap_ns=1_860_000))
    assert "scan_3: cold capture" in compare_patterns([warm, cold]).refused


def test_a_trace_without_a_time_does_not_stop_the_others():
    failed = PatternTrace("nested-vmap", "small", 3, "sim:trn2", is_simulated=True, work="w")
    found = compare_patterns([failed, predicted("vmap", 2_000), predicted("scan", 4_000)])
    assert [(row.pattern, row.rank) for row in found.rows] == [("vmap", 1), ("scan", 2), ("nested-vmap", None)]


def test_one_trace_or_one_twice_is_no_comparison():
    with pytest.raises(UsageError, match="two traces"):
        compare_patterns([predicted("vmap", 2_000)])
    with pytest.raises(UsageError, match="given twice"):
        compare_patterns([predicted("vmap", 2_000)] * 2)


def test_groups_are_one_per_device_method_and_length():
    traces = [
        predicted(name, ns * n, iterations=n, work=f"w{n}")
        for n in (3, 10)
        for name, ns in (("vmap", 1_000), ("loop", 2_000))
    ]
    traces += [measured("vmap", 100_000), predicted("scan", 1_000, iterations=30)]
    groups = compare_groups(traces)
    assert [(group.device, group.iterations, group.refused) for group in groups] == [
        ("sim:trn2", (3,), ""),
        ("sim:trn2", (10,), ""),
    ]


# words


def test_every_calculation_comes_out_as_it_says():
    found = compare_patterns([predicted("vmap", 2_253), predicted("loop", 128_017)])
    checked = 0
    for line in found.insights:
        for told, a, sign, b in re.findall(r"([\d.]+)(?:x| [mµn]s) \(calculation: ([\d.]+) ([-/]) ([\d.]+)", line):
            result = float(a) - float(b) if sign == "-" else float(a) / float(b)
            assert float(told) == pytest.approx(result, rel=1e-3)
            checked += 1
        for share, a, b in re.findall(
            r"TensorMatrix ([\d.]+) % .*\(calculation: ([\d.]+) / ([\d.]+) [mµn]s x 100\)", line
        ):
            assert float(share) == pytest.approx(100 * float(a) / float(b), abs=0.06)
            checked += 1
    assert checked == 4
    assert "Fastest pattern: vmap_3 (2.253 µs)" in found.insights


def test_findings_count_by_engine():
    found = compare_patterns([predicted("vmap", 2_000), predicted("loop", 4_000)])
    assert "vmap_3: TensorMatrix operations 1, 0.0005 ms" in found.findings
    assert "vmap_3: other operations 1, 0.0015 ms (Vector 1)" in found.findings


def test_ties_have_no_fastest_pattern():
    found = compare_patterns([measured("vmap", 100_000), measured("scan", 100_500, seed=1)])
    assert any(line.startswith("No fastest pattern: ") for line in found.insights)


def test_a_comparison_is_a_document_without_nan():
    found = compare_patterns([predicted("vmap", 2_000), predicted("loop", 4_000)])
    document = json.loads(to_json(found.document()))
    assert document["is_comparable"] is True
    assert document["pairs"][0]["ratio_low"] is None
    assert document["rows"][0]["rank"] == 1


def test_a_single_sample_is_not_judged():
    one = measured("vmap", 100_000, rounds=1)
    assert judge_pair(one, one, (1.0, 2.0)).verdict == "not judged"
