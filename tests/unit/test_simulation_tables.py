"""What a terminal is told of a simulation and of its assumptions."""

from dataclasses import replace

import pytest

from npuscope.analysis.analyze import analyze
from npuscope.report.profile_tables import dma_lines, engine_table, findings_line
from npuscope.report.simulation_tables import assumption_lines, core_lines, effects_table
from npuscope.simulate.neuroncore.options import ModelOptions
from npuscope.simulate.simulation import EffectWorth
from tests.profiles import instruction, packet, small_profile


def explained(is_simulation):
    rows = [instruction("Vector", "TENSOR_COPY", 0, 1_000)]
    return analyze(small_profile(rows, [packet(0, 1_000)], metadata={"is_simulation": is_simulation}))


@pytest.mark.parametrize(
    ("off", "stated"),
    [
        ((), "reordered within"),
        (("reorder",), "program order (--without reorder)"),
        (("buffers",), "one buffer per tile (--without buffers)"),
    ],
)
def test_what_is_switched_off_is_not_told_as_assumed(off, stated):
    lines = assumption_lines(ModelOptions().without(off))
    assert stated in lines[0]
    assert ("reordered" in lines[0]) == ("reorder" not in off)
    assert any("a study and no prediction" in line for line in lines) == bool(off)


def test_changes_of_effects_have_their_signs():
    made = effects_table([EffectWorth("a", "slower", 109.0), EffectWorth("b", "faster", 77.0)], 100.0)
    shown = str(made.rows)
    assert "+9.0 %" in shown
    assert "-23.0 %" in shown


@pytest.mark.parametrize(
    ("is_simulation", "word", "other"), [(True, "simulation", "capture"), (False, "capture", "simulation")]
)
def test_a_simulation_is_not_called_a_capture(is_simulation, word, other):
    headings = engine_table(explained(is_simulation)).headings
    assert f"in {word}" in headings
    assert f"in {other}" not in headings


def test_a_dma_rate_says_of_what_it_is_a_share():
    assert "B/s attainable by the model (" in dma_lines(explained(True))[0]
    assert "peak, as the capture states (" in dma_lines(explained(False))[0]


def test_one_finding_is_told_in_the_singular():
    analysis = explained(True)
    counted = [findings_line(replace(analysis, findings=analysis.findings[:1] * count)) for count in (0, 1, 2)]
    assert counted == ["no rule applies", "1 finding", "2 findings"]


@pytest.mark.parametrize(
    ("lnc", "counts", "count", "idle"),
    [(1, [5], 0, False), (2, [5, 5], 1, False), (2, [5, 0], 2, True), (2, [5], 2, True)],
)
def test_a_core_without_work_is_told_and_the_launch_of_two(lnc, counts, count, idle):
    lines = core_lines(lnc, counts, 16_000.0)
    assert len(lines) == count
    assert any("1 of 2 cores has no work" in line for line in lines) == idle
    assert not lines or "16 µs" in lines[0]


@pytest.mark.parametrize(("engine", "told"), [("Tensor", True), ("Vector", False)])
def test_the_count_of_instructions_says_that_weight_loads_are_in_it(engine, told):
    profile = small_profile([instruction(engine, "MATMUL", 0, 1_000)], metadata={"is_simulation": True})
    assert ("its weight load counts too" in str(engine_table(analyze(profile)).title)) == told
