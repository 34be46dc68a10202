"""Patterns: what each computes, which of them are the same work, and which results of a device are wrong."""

import numpy as np
import pytest

from npuscope.errors import UsageError
from npuscope.workloads.dtypes import numpy_dtype
from npuscope.workloads.patterns import (
    MAX_UNROLLED,
    OFFSET,
    PATTERN_DTYPES,
    PATTERNS,
    PUBLISHED_PATTERNS,
    PatternConfig,
    check_outputs,
    make_inputs,
    reference,
    work_key,
)

SIZES = (5, 3, 4)
"""Three different edges, and more iterations than rows: an index that wraps cannot go unseen."""


def step(x):
    """What the page says of one item, written as loops."""
    rows, columns = x.shape
    result = []
    for i in range(rows):
        square = sum(x[i, c] * x[i, c] for c in range(columns))
        product = sum(x[i, c] * x[j, c] for j in range(rows) for c in range(columns))
        result.append(max(square, 0.0) + OFFSET + product)
    return np.array(result)


def published_vmap(data, iterations):
    row = [max(sum(value * value for value in line), 0.0) + OFFSET for line in data]
    return (np.array([row for _ in range(iterations)]),)


def published_scan(data, iterations):
    carry, ys = 0.0, []
    for _ in range(iterations):
        carry += sum(value for line in data for value in line)
        ys.append(carry + sum(float(a @ b) for a in data for b in data))
    return np.array(carry), np.array(ys)


def published_loop(data, iterations):
    result = np.zeros(data.shape[1])
    for i in range(iterations):
        result += sum(data[i % len(data)]) / data.shape[1]
    return (result,)


PUBLISHED = {"vmap": published_vmap, "scan": published_scan, "loop": published_loop}


def result_of(config, inputs):
    return [value.astype(numpy_dtype(config.dtype)) for value in reference(config, inputs)]


@pytest.fixture
def program():
    """A program, its inputs, and a right result that a test may spoil."""
    config = PatternConfig("vmap", *SIZES)
    inputs = make_inputs(config, 1)
    return config, inputs, result_of(config, inputs)


class TestReference:
    @pytest.mark.parametrize("pattern", PATTERNS)
    def test_same_work_is_a_step_of_each_item_and_their_sum(self, pattern):
        config = PatternConfig(pattern, *SIZES)
        (xs,) = make_inputs(config, 1)
        ys = np.array([step(x) for x in xs.astype(np.float64)])
        found = reference(config, (xs,))
        assert tuple(value.shape for value in found) == config.output_shapes
        np.testing.assert_allclose(found[0], ys, rtol=1e-12)
        np.testing.assert_allclose(found[1], ys.sum(axis=0), rtol=1e-12)

    @pytest.mark.parametrize("pattern", PUBLISHED_PATTERNS)
    def test_as_published_is_the_published_computation(self, pattern):
        config = PatternConfig(pattern, *SIZES, as_published=True)
        (data,) = make_inputs(config, 1)
        found = reference(config, (data,))
        assert data.shape == SIZES[1:]
        assert tuple(value.shape for value in found) == config.output_shapes
        for one, other in zip(found, PUBLISHED[pattern](data.astype(np.float64), SIZES[0]), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)

    def test_all_patterns_of_a_size_get_equal_inputs(self):
        inputs = [make_inputs(PatternConfig(pattern, *SIZES), 7)[0] for pattern in PATTERNS]
        assert all(np.array_equal(inputs[0], other) for other in inputs)
        assert not np.array_equal(inputs[0], make_inputs(PatternConfig("vmap", *SIZES), 8)[0])


class TestWork:
    def test_patterns_of_one_size_are_the_same_work(self):
        assert len({work_key(PatternConfig(pattern, *SIZES)) for pattern in PATTERNS}) == 1

    @pytest.mark.parametrize("other", [(4, 3, 4), (5, 2, 4), (5, 3, 5), (5, 3, 4, "bfloat16")])
    def test_other_sizes_and_types_are_other_work(self, other):
        assert work_key(PatternConfig("vmap", *SIZES)) != work_key(PatternConfig("vmap", *other))

    def test_published_computations_are_different_work_from_all_others(self):
        published = [PatternConfig(pattern, *SIZES, as_published=True) for pattern in PUBLISHED_PATTERNS]
        assert len({work_key(config) for config in [*published, PatternConfig("vmap", *SIZES)]}) == 4

    def test_names_tell_what_is_published(self):
        assert PatternConfig("scan", 3).name == "scan_3"
        assert PatternConfig("scan", 3, as_published=True).name == "scan_3_as-published"


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (("vmp", 3), "did you mean 'vmap'"),
            (("scan", 0), "iterations = 0 must be a positive whole number"),
            (("scan", 3, -1), "batch = -1 must be a positive whole number"),
            (("scan", 3, 4, 2.5), "features = 2.5 must be a positive whole number"),
            (("scan", True), "iterations = True must be a positive whole number"),
            (("scan", 10**60), "a number of 200 bits is too large"),
            (("scan", 3, 4, 8, "int8"), "unknown dtype of a pattern 'int8'"),
            (("scan", 1 << 16, 1 << 10, 1 << 10), "is too large"),
            (("scan", 1 << 11, 1 << 11, 1), "is too large"),  # of x @ x.T, not of xs
            (("loop", MAX_UNROLLED + 1, 1, 1), "or use scan"),
        ],
    )
    def test_each_is_one_line(self, arguments, text):
        with pytest.raises(UsageError) as caught:
            PatternConfig(*arguments)
        assert text in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1

    def test_nested_vmap_was_not_published(self):
        with pytest.raises(UsageError, match="no published computation"):
            PatternConfig("nested-vmap", 3, as_published=True)

    def test_a_scan_may_be_longer_than_a_loop(self):
        assert PatternConfig("scan", MAX_UNROLLED + 1, 1, 1).iterations == MAX_UNROLLED + 1

    def test_types_have_aliases(self):
        assert PatternConfig("scan", 3, dtype="bf16") == PatternConfig("scan", 3, dtype="bfloat16")


class TestCheck:
    @pytest.mark.parametrize("dtype", PATTERN_DTYPES)
    @pytest.mark.parametrize("pattern", PATTERNS)
    def test_a_right_result_passes(self, pattern, dtype):
        config = PatternConfig(pattern, *SIZES, dtype)
        inputs = make_inputs(config, 1)
        check = check_outputs(config, inputs, result_of(config, inputs))
        assert check.passed
        assert check.error_over_mass <= check.tolerance_over_mass
        assert check.max_abs_error < 0.1

    @pytest.mark.parametrize("pattern", PUBLISHED_PATTERNS)
    def test_a_right_published_result_passes(self, pattern):
        config = PatternConfig(pattern, *SIZES, as_published=True)
        inputs = make_inputs(config, 1)
        assert check_outputs(config, inputs, result_of(config, inputs)).passed

    @pytest.mark.parametrize("which", [0, 1])
    def test_one_wrong_element_is_found(self, program, which):
        config, inputs, outputs = program
        outputs[which][..., -1] *= 1.001
        check = check_outputs(config, inputs, outputs)
        assert not check.passed
        assert check.max_abs_error > 1e-4

    def test_a_failure_names_the_criterion_that_failed(self, program):
        config, inputs, (ys, total) = program
        far = check_outputs(config, inputs, (ys * 1.5, total))
        assert far.reason.startswith("error of ")
        long = PatternConfig("scan", 3, batch=4, features=20_000)
        given = make_inputs(long, 1)
        ys, total = (value.astype(np.float32) for value in reference(long, given))
        sided = check_outputs(long, given, (ys * np.float32(1 + 1e-4), total))
        assert not sided.passed
        assert sided.error_over_mass < sided.tolerance_over_mass
        assert sided.reason.startswith(f"root mean square of the errors is {sided.rms_share:.3g} times what is allowed")
        assert sided.rms_share > 1

    def test_a_sum_that_lacks_an_item_is_found(self, program):
        config, inputs, (ys, _) = program
        assert not check_outputs(config, inputs, (ys, ys[:-1].sum(axis=0))).passed

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_a_value_that_is_no_number_has_an_infinite_error(self, program, value):
        config, inputs, outputs = program
        outputs[0][0, 0] = value
        check = check_outputs(config, inputs, outputs)
        assert not check.passed
        assert check.max_abs_error == float("inf")

    def test_a_wrong_shape_is_refused_and_not_broadcast(self, program):
        config, inputs, (ys, total) = program
        for outputs in ((ys[:1], total), (ys, total[None]), (ys,)):
            check = check_outputs(config, inputs, outputs)
            assert (check.passed, check.max_abs_error) == (False, float("inf"))
            assert "shapes" in check.method

    def test_a_result_in_too_short_a_type_is_refused(self, program):
        config, inputs, outputs = program
        check = check_outputs(config, inputs, [value.astype(np.float16) for value in outputs])
        assert (check.passed, check.method) == (False, "type float16 is not float32")

    def test_a_result_that_was_computed_in_a_shorter_type_is_found(self, program):
        config, inputs, outputs = program
        shorter = [value.astype(np.float16).astype(np.float32) for value in outputs]
        assert not check_outputs(config, inputs, shorter).passed
