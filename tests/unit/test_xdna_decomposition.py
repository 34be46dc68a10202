"""A reported time per call taken apart: what is explained, what is not, and no claim beyond that."""

import pytest

from npuscope.analysis.xdna_decomposition import (
    INFERRED,
    MEASURED,
    MODELLED,
    PUBLISHED,
    SEED_CALL_MS,
    SEED_CONVERSION_MS,
    decompose_call,
    seed_call_lines,
)
from npuscope.errors import UsageError
from npuscope.hardware.model import load_hardware
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.tiling.xdna_time import calibration_for, dispatch_time

NPU1, STOCK = load_hardware("xdna1"), calibration_for("npu1", "stock")
TILE = XdnaDesign(64, 64, 64, 64, 64, 64)


def seed_call(conversion_ms=SEED_CONVERSION_MS):
    return decompose_call(SEED_CALL_MS, TILE, NPU1, STOCK, conversion_ms)


def test_the_reported_call_is_the_reported_total_over_the_counted_calls():
    assert pytest.approx(163.7e3 / 3008, rel=1e-3) == SEED_CALL_MS


def test_compute_is_less_than_a_thousandth_of_the_reported_call():
    assert 0 < seed_call().compute_share[0] < seed_call().compute_share[1] < 1e-3


def test_conversion_and_dispatch_explain_less_than_a_tenth_of_the_reported_call():
    found = seed_call()
    assert 0.9 * SEED_CALL_MS < found.rest_ms[0] <= found.rest_ms[1]


def test_parts_and_rest_add_up_to_the_observed_time():
    found = seed_call()
    explained = [part for part in found.parts if part.is_explained]
    assert sum(part.high_ms for part in explained) + found.rest_ms[0] == pytest.approx(SEED_CALL_MS)
    assert sum(part.low_ms for part in explained) + found.rest_ms[1] == pytest.approx(SEED_CALL_MS)


def test_each_part_says_how_it_is_known():
    kinds = {part.name: part.kind for part in seed_call().parts}
    assert kinds == {
        "compute": MODELLED,
        "data between DRAM and the array": MODELLED,
        "dispatch": PUBLISHED,
        "conversion of the operands by the host": MEASURED,
        "not explained": INFERRED,
        "a session per call would take": PUBLISHED,
    }
    assert all(part.source for part in seed_call().parts)


def test_a_conversion_that_nobody_measured_is_no_part():
    assert MEASURED not in {part.kind for part in seed_call(None).parts}
    assert seed_call(None).rest_ms[0] == pytest.approx(seed_call().rest_ms[0] + SEED_CONVERSION_MS)


def test_the_cause_is_called_an_inference_and_what_would_refute_it_is_said():
    found = seed_call()
    assert "inference, not shown" in found.conclusion
    assert "one session" in found.falsified_by
    assert "xdna bench" in found.next_step


def test_a_call_that_its_parts_explain_has_no_rest_and_no_suspect():
    design = XdnaDesign(2048, 2048, 2048, 64, 64, 64, 4, 4)
    predicted_ms = dispatch_time(design, NPU1, STOCK).total_us / 1e3
    found = decompose_call(predicted_ms, design, NPU1, STOCK)
    assert found.rest_ms[0] == 0
    assert all(part.is_explained for part in found.parts)
    assert "explain all" in found.conclusion


def test_a_rest_far_from_a_session_is_not_put_down_to_one():
    found = decompose_call(2_000, TILE, NPU1, STOCK)
    assert "No published figure" in found.conclusion
    assert "session" not in found.conclusion


@pytest.mark.parametrize(("observed", "conversion"), [(0, None), (-1, None), (float("nan"), None), (5, -1.0)])
def test_times_that_cannot_be_are_refused(observed, conversion):
    with pytest.raises(UsageError, match="cannot be decomposed"):
        decompose_call(observed, TILE, NPU1, STOCK, conversion)


def test_the_page_gives_the_counter_evidence_too():
    text = "\n".join(seed_call_lines())
    assert "Speaking against it" in text
    assert "another machine" in text
