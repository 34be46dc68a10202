"""Durations of single instructions in real captures of inf2 against the cost model."""

import numpy as np
import pytest

from npuscope.simulate.validation.captures import captured_durations, captured_points


@pytest.fixture(scope="module")
def points(samples):
    return captured_points(samples / "inf2-matmul")


def test_matmuls_and_copies_of_many_sizes_are_found(samples):
    durations = captured_durations(samples / "inf2-matmul")
    for opcode in ("MATMUL", "ACTIVATE"):
        sizes = [columns for name, columns in durations if name == opcode]
        assert len(sizes) >= 10
        assert {128, 320, 512} <= set(sizes)
    assert all(50 < duration < 700 for duration in durations.values())


@pytest.mark.parametrize("family", ["instruction-matmul", "instruction-activate"])
def test_predicted_durations_are_near_those_of_the_captures(points, family):
    errors = [abs(point.error(predicted)) for point, predicted in points if point.family == family]
    assert np.median(errors) < 0.12
    assert max(errors) < 0.20


def test_durations_grow_with_the_columns_as_in_the_captures(points):
    for family in ("instruction-matmul", "instruction-activate"):
        rows = [
            (int(point.name.split()[0]), point.low, predicted) for point, predicted in points if point.family == family
        ]
        columns, measured, predicted = np.array(sorted(rows)).T
        large = columns >= 128
        slopes = [np.polyfit(columns[large], values[large], 1)[0] for values in (measured, predicted)]
        assert slopes[1] == pytest.approx(slopes[0], rel=0.25)
