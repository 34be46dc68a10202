"""The XDNA timing model against published measurements: how wrong it is, and that what ships is what was fitted."""

import json
from pathlib import Path

import pytest

from npuscope.analysis.xdna_decomposition import seed_call_lines
from npuscope.report.document import to_json
from npuscope.simulate.xdna import validate_xdna
from npuscope.simulate.xdna.fitting import fit_kernel, fit_stock
from npuscope.simulate.xdna.page import HEADING, report_lines, validation_part
from npuscope.simulate.xdna.points import load_sets, points_of
from npuscope.simulate.xdna.validation import OWN_RATE, PUBLISHED_RATE, STOCK_FIT, calibration_errors
from npuscope.tiling.xdna_time import calibration_for

REPORT = validate_xdna()
PAGE = Path(__file__).parents[2] / "docs" / "validation.md"
NPU1, NPU2 = "npu1", "npu2"


def mean_of(group):
    errors = [abs(item.error) for item in REPORT.comparisons if item.group == group]
    return len(errors), sum(errors) / len(errors)


@pytest.mark.parametrize("group", [PUBLISHED_RATE, OWN_RATE])
def test_the_sixteen_published_gemms_are_predicted_within_five_percent_on_average_each_left_out(group):
    count, mean = mean_of(group)
    assert count == 16
    assert mean < 0.05


def test_the_eight_gemms_of_xdna1_are_predicted_within_three_percent_each():
    assert REPORT.of(PUBLISHED_RATE, NPU1).max < 0.03


def test_the_seven_stock_shapes_are_predicted_within_seven_percent_each_left_out():
    found = REPORT.of(STOCK_FIT, NPU1)
    assert (found.count, found.left_out) == (7, True)
    assert found.mean < 0.025
    assert found.max < 0.07


def test_a_term_for_memory_makes_left_out_stock_shapes_worse_and_its_rate_has_no_upper_end():
    assert REPORT.serial_mean_error > REPORT.of(STOCK_FIT, NPU1).mean
    assert REPORT.serial_max_error > 2 * REPORT.of(STOCK_FIT, NPU1).max
    assert REPORT.serial_dram_gb_s[1] == float("inf")


def test_one_gigahertz_explains_the_published_rates_of_xdna1_better_than_any_clock_of_the_driver():
    errors = REPORT.clock_errors[NPU1]
    assert min(errors, key=errors.get) == 1.0
    assert all(error > 2 * errors[1.0] for clock, error in errors.items() if clock > 1.0)


def test_the_worst_point_comes_first():
    errors = [abs(item.error) for item in REPORT.comparisons]
    assert errors == sorted(errors, reverse=True)
    assert max(line.max for line in REPORT.errors) == errors[0]


def test_the_one_column_designs_that_no_fit_saw_are_predicted_within_three_percent():
    found = [item for item in REPORT.comparisons if item.array == NPU1 and item.name.endswith("64x64x64 on 1 columns")]
    assert len(found) == 2
    assert all(not item.left_out and abs(item.error) < 0.03 for item in found)


@pytest.mark.parametrize("array", [NPU1, NPU2])
def test_the_shipped_dram_rate_is_the_fitted_one(array):
    for name in ("tuned", "stock"):
        assert calibration_for(array, name).dram_gb_s == pytest.approx(REPORT.dram_gb_s[array], abs=0.051)


@pytest.mark.parametrize("array", [NPU1, NPU2])
def test_the_shipped_tuned_kernels_are_fitted_to_three_rates_each(array):
    rated = (*points_of("tuned"), *points_of("rate"))
    for key in ("int8-int8", "int8-int16", "int8-int32", "bfloat16-bfloat16"):
        points = [point for point in rated if point.array == array and f"{point.dtype}-{point.out_dtype}" == key]
        kernel, fitted = calibration_for(array, "tuned").kernels[key], fit_kernel(points)
        assert kernel.points == len(points) == 3
        assert kernel.per_mac == pytest.approx(fitted.per_mac, rel=1e-3)
        assert kernel.per_element == pytest.approx(fitted.per_element, rel=2e-3)


def test_the_shipped_stock_calibration_of_npu1_is_the_fit_to_seven_shapes():
    values, _ = fit_stock(points_of("stock"))
    stock = calibration_for(NPU1, "stock")
    assert stock.dispatch_us == pytest.approx(values[0], abs=0.1)
    per_core = stock.kernels["bfloat16-bfloat16"].macs_per_cycle(64, 64, 64) * stock.clock_ghz
    assert per_core == pytest.approx(1e3 / values[1], rel=1e-3)


@pytest.mark.parametrize("array", [NPU1, NPU2])
@pytest.mark.parametrize("name", ["tuned", "stock"])
def test_the_error_that_a_calibration_shows_is_the_one_that_validation_found(array, name):
    count, mean, largest = calibration_errors(REPORT, array, name)
    found = calibration_for(array, name)
    assert found.points == count
    assert found.error_mean == pytest.approx(mean, abs=6e-4)
    assert found.error_max == pytest.approx(largest, abs=6e-4)


def test_every_set_has_a_source_and_every_point_a_figure_and_a_name_of_its_own():
    for found in load_sets():
        assert found.source
        assert len({(point.array, point.name) for point in found.points}) == len(found.points)
        assert all(point.rate or point.measured_us for point in found.points)


def test_the_design_of_a_point_is_what_ran_with_no_padding_for_the_sixteen():
    for point in points_of("tuned"):
        design = point.design
        assert point.shape == (design.M, design.K, design.N), point.name


def test_a_report_is_a_document_of_json_that_says_it_is_simulated():
    document = json.loads(to_json(REPORT.document()))
    assert document["is_simulated"] is True
    assert document["digest"] == REPORT.digest
    assert len(document["points"]) == len(REPORT.comparisons)


def test_the_lines_for_a_terminal_name_every_set_and_the_worst_point():
    lines = report_lines(REPORT)
    assert "SIMULATED" in lines[0]
    assert len(lines) == len(REPORT.errors) + 2
    assert REPORT.comparisons[0].name in lines[-1]


def test_the_committed_page_is_what_the_model_says_now():
    page = PAGE.read_text(encoding="utf-8")
    assert page.count(HEADING) == 1
    assert page[page.index(HEADING) :] == validation_part(REPORT, seed_call_lines()), "run docs/generate.py"
