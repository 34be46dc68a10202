"""Published points: complete, assigned to their roles by rule, and predicted without a hand on the result."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npuscope.report.document import to_json
from npuscope.simulate.neuroncore.options import ModelOptions
from npuscope.simulate.validation import captures, validate
from npuscope.simulate.validation.measures import MEASURES
from npuscope.simulate.validation.points import BUCKETS, CHECK, FIT, digest, load_points, role_of
from npuscope.simulate.validation.report import compare, kernel_file

POINTS = load_points()
PAGE = Path(__file__).parents[2] / "docs" / "validation.md"


def test_every_point_has_a_source_a_known_bucket_and_a_known_quantity():
    for point in POINTS:
        assert point.source
        assert point.bucket in BUCKETS
        assert point.quantity in MEASURES
        assert 0 < point.low <= point.high
        assert bool(point.kernel) != bool(point.shape)


def test_names_are_unique_within_a_family():
    assert len({(point.family, point.name) for point in POINTS}) == len(POINTS)


def test_every_kernel_of_a_point_is_there():
    for kernel in {point.kernel for point in POINTS if point.kernel}:
        assert Path(kernel_file(kernel).rpartition(":")[0]).is_file(), kernel


def test_more_than_a_third_of_the_points_are_kept_for_checking():
    checked = [point for point in POINTS if point.role == CHECK]
    assert len(checked) > len(POINTS) / 3
    assert {point.bucket for point in checked} >= {"pe-bound", "dma-bound", "vector-bound", "latency-bound"}


def test_at_least_a_third_of_the_points_is_only_checked():
    assert sum(point.role == CHECK for point in POINTS) >= len(POINTS) / 3


@given(count=st.integers(1, 100))
def test_the_middle_point_of_a_family_is_for_fitting_and_no_other(count):
    roles = [role_of(index, count, check_only=False) for index in range(count)]
    assert roles.count(FIT) == 1
    assert roles[(count - 1) // 2] == FIT


@given(count=st.integers(1, 20))
def test_a_family_of_inferred_structure_is_only_checked(count):
    assert {role_of(index, count, check_only=True) for index in range(count)} == {CHECK}


@pytest.mark.parametrize(("predicted", "error"), [(9.0, -0.1), (10.0, 0.0), (15.0, 0.0), (20.0, 0.0), (22.0, 0.1)])
def test_the_error_is_zero_within_a_published_range_and_relative_to_its_nearer_end_outside(predicted, error):
    point = replace(POINTS[0], low=10.0, high=20.0)
    assert point.error(predicted) == pytest.approx(error)


def test_a_report_has_the_worst_first_and_its_medians_by_role_and_bucket():
    report = validate(families=["^(scalar-chain|dma-one-engine|mlp-counts)$"])
    errors = [abs(result.error) for result in report.comparisons]
    assert len(errors) == 6
    assert errors == sorted(errors, reverse=True)
    assert report.of("fit").count == 2
    assert report.of("check", "counts").count == 4
    assert report.of("check") is None
    assert report.of("fit").max_percent == pytest.approx(100 * max(e for e in errors))


def test_a_report_is_a_document_of_json():
    report = validate(families=["scalar-chain"])
    document = json.loads(to_json(report.document()))
    assert document["digest"] == digest()
    assert document["is_simulated"] is True
    assert [point["case"] for point in document["points"]] == ["1 element"]
    assert document["points"][0]["error_percent"] == pytest.approx(100 * report.comparisons[0].error)


def test_counts_of_the_mlp_are_exact():
    report = validate(families=["mlp-counts"])
    assert [result.error for result in report.comparisons] == [0.0] * 4


def test_a_kernel_that_fails_is_a_result_that_says_why():
    point = next(point for point in POINTS if point.family == "scalar-chain")
    result = compare(replace(point, arguments=("float32[129,1]", "4")), ModelOptions())
    assert result.predicted is None
    assert result.error is None
    assert "micro.py" in result.failure


def test_without_a_folder_of_captures_no_instruction_is_compared(monkeypatch):
    monkeypatch.delenv("NPUSCOPE_SAMPLES", raising=False)
    assert captures.samples_folder() is None
    assert validate(families=["^instruction"]).comparisons == ()


def test_a_folder_of_captures_must_exist(monkeypatch, tmp_path):
    monkeypatch.setenv("NPUSCOPE_SAMPLES", str(tmp_path))
    assert captures.samples_folder() is None


def test_the_committed_page_was_made_from_these_constants_and_points():
    assert digest() in PAGE.read_text(encoding="utf-8"), "docs/validation.md is old; run docs/generate.py"
