"""What a terminal is told of patterns: every value as it was computed, with the device and what it is worth."""

from npuscope.analysis.pattern_comparison import compare_patterns
from npuscope.analysis.pattern_scaling import scaling
from npuscope.analysis.pattern_trace import Latency, PatternTrace
from npuscope.analysis.questions import bottlenecks
from npuscope.report.pattern_tables import (
    PatternResult,
    bottleneck_table,
    comparison_table,
    finding_lines,
    insight_lines,
    occupation_table,
    result_table,
    scaling_lines,
    scaling_table,
)
from tests.profiles import instruction, packet, small_profile


def trace(pattern, iterations=3, time_ns=4_000, **more):
    rows = [
        instruction("Tensor", "MATMUL", 0, time_ns // 4, timeline_track="TensorMatrix"),
        instruction("Vector", "TENSOR_TENSOR", time_ns // 4, time_ns - time_ns // 4),
    ]
    made = small_profile(rows, [packet(0, 100, 64)], metadata={"is_simulation": True})
    given = {"size": "", "device": "sim:trn2", "is_simulated": True, "work": "w", "profile": made}
    return PatternTrace(pattern, iterations=iterations, **{**given, "latency": Latency(time_ns), **more})


def cells(grid, row):
    return dict(zip(grid.headings, grid.rows[row], strict=True))


def test_the_comparison_has_the_seeds_columns_and_the_fastest_first():
    grid = comparison_table(compare_patterns([trace("loop", time_ns=8_000), trace("vmap")]))
    first = cells(grid, 0)
    assert [first[name] for name in ("Pattern", "Total Slices", "TensorMatrix ms", "Other ms", "Rank")] == [
        "vmap_3", "3", "0.001000", "0.003000", "1",
    ]  # fmt: skip
    assert grid.title == "sim:trn2, SIMULATED: fastest first"


def test_a_refused_comparison_says_why_above_and_beside_the_numbers():
    grid = comparison_table(compare_patterns([trace("vmap"), trace("scan", work="v")]))
    assert "different work" in grid.title
    assert cells(grid, 1)["Rank"] == "-"
    assert cells(grid, 1)["Remark"] == "not comparable: different work"


def test_a_cpu_has_a_dash_for_tensor_matrix_time():
    cpu = [
        PatternTrace(name, "", 3, "jax:cpu", is_simulated=False, work="w", latency=Latency(ns))
        for name, ns in (("vmap", 5_000), ("scan", 6_000))
    ]
    assert cells(comparison_table(compare_patterns(cpu)), 0)["TensorMatrix ms"] == "-"


def test_results_name_the_device_and_whether_it_was_one():
    made = PatternResult("jax:cpu", False, "vmap", 3, 5.0, 0.2, 0.1, 0.09, 0.11, 100, "unknown", 1e-6)
    grid = result_table([made, PatternResult("sim:trn2", True, "nested-vmap", 3, failure="timed out after 60 s")])
    measured, failed = cells(grid, 0), cells(grid, 1)
    assert list(measured.values()) == [
        "jax:cpu", "vmap", "3", "measured", "5 ms", "200 µs", "100 µs", "90 µs to 110 µs", "100", "unknown", "1e-06", "",
    ]  # fmt: skip
    assert (failed["how"], failed["steady"], failed["failed"]) == ("SIMULATED", "-", "timed out after 60 s")
    assert "failed" not in result_table([made]).headings


def test_a_line_that_does_not_hold_is_marked():
    study = scaling([trace("loop", n, n**2 * 100) for n in (3, 10, 30)])
    row = cells(scaling_table(study), 0)
    assert (row["what"], row["holds"], row["iterations"]) == ("time", "NO", "3, 10, 30")
    first, *notes = scaling_lines(study)
    assert first.startswith("loop on sim:trn2: time = ")
    assert "THE LINE DOES NOT HOLD" in first
    assert notes == [f"note: {note}" for note in study.notes]
    assert scaling_lines(scaling([trace("loop", n, n * 100) for n in (3, 10, 30)])) == notes
    assert scaling_table(scaling([trace("loop")])) is None


def test_lines_are_those_of_the_comparison():
    found = compare_patterns([trace("vmap"), trace("scan", time_ns=5_000)])
    assert finding_lines(found) == ["STATISTICAL FINDINGS", *(f"  {line}" for line in found.findings)]
    assert [line.strip() for line in insight_lines(found)[1:]] == [
        *found.insights,
        *(f"note: {n}" for n in found.notes),
    ]


def test_bottlenecks_have_their_trace_and_device():
    answer = bottlenecks([trace("vmap"), trace("scan")])
    assert len(bottleneck_table(answer).rows) == len(answer.bottlenecks) > 0
    assert {row[1] for row in bottleneck_table(answer).rows} == {"vmap_3 on sim:trn2", "scan_3 on sim:trn2"}
    assert cells(occupation_table(answer), 0)["busiest"] == "Vector"
    assert bottleneck_table(bottlenecks([trace("vmap", profile=None)])) is None
