"""The four questions of agents, answered with structured results."""

import json

import pytest

from npuscope.analysis.pattern_trace import Latency, PatternTrace, explain_trace
from npuscope.analysis.questions import analyze, bottlenecks, compare, scaling
from npuscope.errors import UsageError
from npuscope.report.document import to_json
from tests.profiles import instruction, packet, small_profile


def trace(pattern, iterations=3, *, vector_ns=6_000, work="w", **more):
    rows = [
        instruction("Tensor", "MATMUL", 3_000, 1_000, timeline_track="TensorMatrix"),
        instruction("Vector", "TENSOR_TENSOR", 4_000, vector_ns * iterations),
        instruction("Sync", "DRAIN", 0, 9_000 * iterations),
    ]
    made = small_profile(rows, [packet(0, 3_000, 128)], metadata={"is_simulation": True})
    given = {"size": "", "device": "sim:trn2", "is_simulated": True, "work": f"{work}{iterations}", "profile": made}
    return PatternTrace(pattern, iterations=iterations, **{**given, **more})


TRACES = [trace(name, n, vector_ns=ns) for n in (3, 10, 30) for name, ns in (("vmap", 2_000), ("loop", 6_000))]


def test_analyze_explains_one_trace():
    assert analyze(TRACES[0]).document() == explain_trace(TRACES[0]).document()


def test_compare_answers_per_length():
    answer = compare(TRACES)
    assert [one.iterations for one in answer.comparisons] == [(3,), (10,), (30,)]
    assert all(one.rows[0].pattern == "vmap" for one in answer.comparisons)


def test_two_traces_are_compared_or_refused_whatever_they_are():
    (refused,) = compare([TRACES[0], TRACES[2]]).comparisons
    assert "different work" in refused.refused


def test_several_traces_without_a_pair_are_no_comparison():
    with pytest.raises(UsageError, match="nothing to compare"):
        compare([trace("vmap", n) for n in (3, 10, 30)])


def test_scaling_answers_per_pattern():
    assert [series.pattern for series in scaling(TRACES).series] == ["vmap", "loop"]


def test_bottlenecks_are_ranked_by_severity_and_then_by_gain_over_all_traces():
    found = bottlenecks(TRACES).bottlenecks
    assert len({item.trace for item in found}) == len(TRACES)
    order = {"high": 0, "medium": 1, "low": 2}
    keys = [(order[b.finding.severity], b.finding.gain.ns is None, -(b.finding.gain.ns or 0)) for b in found]
    assert keys == sorted(keys)
    assert len(found) == sum(len(explain_trace(one).findings) for one in TRACES)


def test_each_trace_is_told_its_busiest_resource_which_is_never_sync():
    (told,) = bottlenecks([trace("loop")]).traces
    assert told.busiest == "Vector"
    assert told.busiest_share == pytest.approx(18_000 / 27_000)
    assert told.idle_share == pytest.approx(0)


def test_a_trace_without_a_profile_says_so():
    answer = bottlenecks([PatternTrace("vmap", "", 3, "jax:cpu", is_simulated=False, work="w", latency=Latency(5))])
    assert answer.bottlenecks == ()
    assert answer.traces[0].busiest_share is None
    assert "no profile" in answer.notes[0]


def test_every_answer_is_a_document_with_its_evidence():
    for answer in (analyze(TRACES[0]), compare(TRACES), scaling(TRACES), bottlenecks(TRACES)):
        json.loads(to_json(answer.document()))
    first = json.loads(to_json(bottlenecks(TRACES).document()))["bottlenecks"][0]
    assert {"trace", "rule", "severity", "evidence", "action", "gain", "is_simulated"} <= set(first)
    assert first["is_simulated"] is True


@pytest.mark.parametrize(
    "ask", [analyze, lambda one: compare([one, one]), lambda one: scaling([one]), lambda one: bottlenecks([one])]
)
def test_a_path_is_no_trace(ask):
    with pytest.raises(
        UsageError, match=r"'results' is no PatternTrace; pattern_folder.study_folder\(DIR\).traces reads those"
    ):
        ask("results")
