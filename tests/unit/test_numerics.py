"""Inputs, the float64 reference, and what counts as a wrong result."""

import numpy as np
import pytest

from npuscope.measure.numerics import check_result, make_inputs
from npuscope.workloads.dtypes import OPERAND_TYPES
from npuscope.workloads.matmul import MatmulConfig


def check(result, a, b, dtype="float32", compute=None, seed=0):
    return check_result(result, a, b, compute_dtype=compute or dtype, in_dtype=dtype, seed=seed)


def inputs(M=64, K=96, N=48, dtype="float32", seed=0):
    return make_inputs(MatmulConfig(M, K, N, dtype), seed)


@pytest.mark.parametrize("dtype", OPERAND_TYPES)
def test_inputs_are_seeded_and_never_all_zero(dtype):
    a, b = inputs(dtype=dtype)
    again, _ = inputs(dtype=dtype)
    other, _ = inputs(dtype=dtype, seed=1)
    assert a.dtype.name == dtype
    assert np.array_equal(a, again)
    assert not np.array_equal(a, other)
    assert np.count_nonzero(a) > 0.9 * a.size
    assert np.count_nonzero(b) > 0.9 * b.size


def test_a_float32_product_passes_with_its_error_measured_against_the_mass():
    a, b = inputs(K=512)
    found = check(a @ b, a, b)
    assert found.passed
    assert 0 < found.error_over_mass < 1e-6
    assert found.method == "every element"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_product_rounded_to_its_type_passes(dtype):
    a, b = inputs(dtype=dtype)
    result = (a.astype(np.float32) @ b.astype(np.float32)).astype(a.dtype)
    assert check(result, a, b, dtype).passed


def test_a_product_in_a_shorter_type_fails_as_float32_and_passes_when_the_device_says_so():
    a, b = inputs(dtype="float32", K=256)
    import ml_dtypes

    short_a, short_b = (array.astype(ml_dtypes.bfloat16).astype(np.float32) for array in (a, b))
    result = short_a @ short_b
    assert not check(result, a, b).passed
    assert check(result, a, b, compute="bfloat16").passed


def test_one_wrong_element_fails():
    a, b = inputs()
    result = a @ b
    result[17, 5] += 0.5
    assert not check(result, a, b).passed


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_fails_with_an_infinite_error(value):
    a, b = inputs()
    result = a @ b
    result[0, 0] = value
    found = check(result, a, b)
    assert not found.passed
    assert found.max_abs_error == np.inf


def test_zeros_in_place_of_a_result_fail():
    a, b = inputs()
    assert not check(np.zeros((64, 48), np.float32), a, b).passed


def test_a_result_of_another_shape_fails():
    a, b = inputs()
    assert not check((a @ b).T, a, b).passed


def test_an_integer_result_must_be_exact():
    a, b = inputs(dtype="int8")
    result = np.matmul(a, b, dtype=np.int32)
    assert check(result, a, b, "int8").passed
    result[3, 3] += 1
    assert not check(result, a, b, "int8").passed


def test_a_large_product_is_checked_in_every_tile_of_128_rows():
    """One random row in each stratum: a wrong tile of 128 rows cannot be missed, whichever it is."""
    a, b = inputs(M=2048, K=1536, N=2048)
    result = a @ b
    assert check(result, a, b).method.startswith("one random row in each")
    for tile in range(0, 2048, 128):
        broken = result.copy()
        broken[tile : tile + 128, :64] = 0
        assert not check(broken, a, b, seed=tile).passed


def test_products_of_zero_mass_pass_when_exact():
    a = np.zeros((2, 2), np.float32)
    found = check(a @ a, a, a)
    assert found.passed
    assert found.error_over_mass == 0


@pytest.mark.parametrize("shape", [(64, 1, 64), (512, 2, 512)])
def test_float16_results_below_its_normal_range_are_right_when_rounded_to_nearest(shape):
    M, K, N = shape
    a, b = inputs(M, K, N, "float16")
    exact = a.astype(np.float64) @ b.astype(np.float64)
    assert check(exact.astype(np.float16), a, b, "float16").passed


@pytest.mark.parametrize("K", [65536, 262144])
def test_a_missing_tile_of_a_long_contraction_is_wrong_though_the_worst_case_bound_would_allow_it(K):
    a, b = inputs(16, K, 16)
    assert check(a @ b, a, b).passed
    assert not check(a[:, :-128] @ b[:-128], a, b).passed
    assert not check(np.zeros((16, 16), np.float32), a, b).passed


@pytest.mark.parametrize("K", [64, 1024, 16384])
def test_sequential_float32_accumulation_is_right(K):
    a, b = inputs(4, K, 4)
    result = np.zeros((4, 4), np.float32)
    for k in range(K):
        result += a[:, k, None] * b[None, k]
    assert check(result, a, b).passed


@pytest.mark.parametrize("flops", [2**34, 2**36, 11 * 2**36, 2**40, 2**44])
def test_every_tile_of_128_rows_holds_a_checked_row(flops):
    from npuscope.measure.numerics import rows_to_check

    for seed in range(20):
        rows, _ = rows_to_check(8192, flops, seed)
        assert set(rows // 128) == set(range(64))


def test_a_failure_names_the_criterion_that_failed():
    a, b = inputs(K=4096)
    mass = np.abs(a).astype(np.float64) @ np.abs(b)
    far = check((a @ b + mass).astype(np.float32), a, b)
    assert not far.passed
    assert far.reason.startswith("error of 1 of the accumulated mass |A||B| (at most 0.000244 allowed; every element)")
    # Within the bound of every element, but all on one side: no rounding of random inputs does that.
    sided = check((a @ b + mass * 4096 * 2.0**-25).astype(np.float32), a, b)
    assert not sided.passed
    assert sided.error_over_mass < sided.tolerance_over_mass
    assert sided.reason.startswith(
        f"root mean square error of {sided.rms_error:.3g} (at most {sided.rms_allowed:.3g} allowed"
    )
    assert sided.rms_error > sided.rms_allowed > 0


def test_a_wrong_shape_is_the_reason_by_itself():
    a, b = inputs()
    assert check((a @ b)[:1], a, b).reason == "shape (1, 48) is not (64, 48)"
