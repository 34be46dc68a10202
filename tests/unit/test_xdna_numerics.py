"""The kernel's arithmetic element by element in exact fractions, and the scale at which a fixed tolerance can hold."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from npuscope.backends.xdna.numerics import multiply
from npuscope.backends.xdna.rounding import to_bfloat16, to_bfp16
from npuscope.measure.xdna_bound import check_design_result, fixed_tolerance
from npuscope.tiling.xdna_design import XdnaDesign

RNG = np.random.default_rng(5)


def bfloat16(*shape):
    return to_bfloat16(RNG.standard_normal(shape, np.float32), "even")


def element(a, b, design):
    """One element of C in fractions: exact within a k tile, rounded to bfloat16 after each."""
    held = Fraction(0)
    for start in range(0, len(a), design.tile_k):
        pairs = zip(a[start : start + design.tile_k], b[start : start + design.tile_k], strict=True)
        held += sum(Fraction(float(left)) * Fraction(float(right)) for left, right in pairs)
        held = Fraction(float(to_bfloat16(np.array([float(held)], np.float32), design.rounding)[0]))
    return float(held)


@pytest.mark.parametrize("tile_k", [8, 16, 32])
@pytest.mark.parametrize("rounding", ["even", "floor", "truncate"])
def test_c_is_rounded_after_every_k_tile_and_not_within(rounding, tile_k):
    """Small integers: float32 sums are exact, so that only the write-backs round."""
    a = RNG.integers(-15, 16, (1, 6, 32)).astype(ml_dtypes.bfloat16)
    b = RNG.integers(-127, 128, (1, 32, 5)).astype(ml_dtypes.bfloat16)
    design = XdnaDesign(6, 32, 5, 6, tile_k, 5, rounding=rounding)
    found = multiply(a, b, design)[0].astype(np.float64)
    expected = [[element(row, column, design) for column in b[0].T] for row in a[0]]
    assert found.tolist() == expected


def test_each_product_of_a_batch_is_what_it_is_alone():
    a, b = bfloat16(70, 16, 48), bfloat16(70, 48, 24)
    design = XdnaDesign(16, 48, 24, 16, 16, 24, batch=70, rounding="floor")
    together = multiply(a, b, design)
    for index in (0, 33, 69):
        alone = multiply(a[index : index + 1], b[index : index + 1], design)
        assert np.array_equal(together[index], alone[0])


def test_a_result_larger_than_what_is_computed_at_once_is_that_of_its_rows():
    a, b = bfloat16(1, 4000, 24), bfloat16(1, 24, 1100)
    design = XdnaDesign(4000, 24, 1100, 4, 8, 4)
    whole = multiply(a, b, design)
    for rows in (slice(0, 8), slice(1900, 1912), slice(3804, 3816), slice(3996, 4000)):  # 1,906 rows at once
        assert np.array_equal(whole[:, rows], multiply(a[:, rows], b, design))


def test_operands_of_bfp16_share_exponents_along_k():
    a, b = bfloat16(1, 8, 32), bfloat16(1, 32, 8)
    design = XdnaDesign(8, 32, 8, 8, 32, 8, multiplication="bfp16", out_dtype="float32", rounding="even")
    wide_a, wide_b = a.astype(np.float32), b.astype(np.float32)
    expected = to_bfp16(wide_a, 2).astype(np.float64) @ to_bfp16(wide_b, 1).astype(np.float64)
    assert multiply(a, b, design) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    across = to_bfp16(wide_a, 1).astype(np.float64) @ to_bfp16(wide_b, 2).astype(np.float64)
    assert np.abs(multiply(a, b, design) - across).max() > 1e-2


@pytest.mark.parametrize("K", [64, 1200])
@pytest.mark.parametrize(
    ("dtype", "out"), [("int8", "int8"), ("int8", "int16"), ("int16", "int16"), ("int16", "int32")]
)
def test_integers_that_do_not_fit_keep_their_low_bits_as_exact_sums_do(dtype, out, K):
    limits = np.iinfo(dtype)
    a = RNG.integers(limits.min, limits.max + 1, (2, 5, K)).astype(dtype)
    b = RNG.integers(limits.min, limits.max + 1, (2, K, 4)).astype(dtype)
    design = XdnaDesign(5, K, 4, 5, 8, 4, batch=2, dtype=dtype, out_dtype=out)
    expected = [
        [[sum(int(x) * int(y) for x, y in zip(row, column, strict=True)) for column in two.T] for row in one]
        for one, two in zip(a, b, strict=True)
    ]
    bits = 8 * np.dtype(out).itemsize
    wrapped = (np.array(expected, object) + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)
    assert multiply(a, b, design).tolist() == wrapped.tolist()


def test_an_overflow_is_infinite_and_no_warning():
    a = np.full((1, 1, 8), 3e38, np.float32).astype(ml_dtypes.bfloat16)
    assert multiply(a, a.transpose(0, 2, 1), XdnaDesign(1, 8, 1, 1, 8, 1))[0, 0, 0] == np.inf


def emulated_error(design, M, K, N, runs):
    """Mean of the largest error of the whole product, with partial results of dispatches added in float32."""
    largest = []
    for seed in range(runs):
        rng = np.random.default_rng([seed, 1])
        a, b = rng.standard_normal((M, K), np.float32), rng.standard_normal((K, N), np.float32)
        total = np.zeros((M, N), np.float32)
        for first in range(0, K, design.K):
            part_a, part_b = a[:, first : first + design.K], b[first : first + design.K]
            total += multiply(to_bfloat16(part_a, "even")[None], to_bfloat16(part_b, "even")[None], design)[0].astype(
                np.float32
            )
        largest.append(np.abs(total - a.astype(np.float64) @ b.astype(np.float64)).max())
    return np.mean(largest)


@pytest.mark.parametrize("multiplication", ["native", "bfp16"])
@pytest.mark.parametrize(("K", "dispatch_k"), [(64, 64), (512, 512), (512, 64)])
@pytest.mark.parametrize("rounding", ["even", "floor", "truncate"])
def test_the_expected_largest_error_is_that_of_the_emulated_kernel(K, dispatch_k, rounding, multiplication):
    design = XdnaDesign(64, dispatch_k, 512, 64, 64, 64, rounding=rounding, multiplication=multiplication)
    expected = fixed_tolerance(design, 64, K, 512).expected_max_error
    assert expected == pytest.approx(emulated_error(design, 64, K, 512, 4), rel=0.15)


def test_at_the_scale_that_is_told_the_largest_error_is_the_tolerance():
    design = XdnaDesign(64, 64, 512, 64, 64, 64, rounding="even")
    scale = fixed_tolerance(design, 64, 512, 512).largest_scale
    a, b = RNG.standard_normal((64, 512), np.float32), (scale * RNG.standard_normal((512, 512))).astype(np.float32)
    parts = [
        multiply(to_bfloat16(a[:, k : k + 64], "even")[None], to_bfloat16(b[k : k + 64], "even")[None], design)[
            0
        ].astype(np.float32)
        for k in range(0, 512, 64)
    ]
    error = np.abs(sum(parts) - a.astype(np.float64) @ b.astype(np.float64)).max()
    assert error == pytest.approx(0.004, rel=0.35)
    assert 0.01 < scale < 0.02


def test_integers_meet_a_fixed_tolerance_at_every_scale():
    assert (
        fixed_tolerance(XdnaDesign(8, 8, 8, 8, 8, 8, dtype="int8", out_dtype="int32"), 8, 8, 8).largest_scale == np.inf
    )


def test_zeros_times_anything_are_right_as_zeros_alone():
    design = XdnaDesign(8, 64, 8, 8, 8, 8)
    a, b = np.zeros((8, 64), np.float32), RNG.standard_normal((64, 8), np.float32)
    assert check_design_result(np.zeros((8, 8), np.float32), a, b, design).within_bound
    assert not check_design_result(np.full((8, 8), 1e-6, np.float32), a, b, design).within_bound


@pytest.mark.parametrize("rounding", ["even", "floor", "truncate"])
@pytest.mark.parametrize("multiplication", ["native", "bfp16"])
def test_what_the_kernel_computes_is_within_the_bound_and_its_negative_is_not(rounding, multiplication):
    a, b = RNG.standard_normal((48, 256), np.float32), RNG.standard_normal((256, 40), np.float32)
    design = XdnaDesign(48, 256, 40, 16, 64, 8, rounding=rounding, multiplication=multiplication)
    found = multiply(to_bfloat16(a, "even")[None], to_bfloat16(b, "even")[None], design)[0].astype(np.float32)
    assert check_design_result(found, a, b, design).within_bound
    assert not check_design_result(-found, a, b, design).within_bound


def test_rounding_down_is_seen_in_the_bias_where_the_bound_alone_would_pass():
    a, b = (RNG.standard_normal((128, 512), np.float32) for _ in range(2))
    said = XdnaDesign(128, 512, 128, 64, 64, 64, rounding="even")
    did = XdnaDesign(128, 512, 128, 64, 64, 64, rounding="floor")
    result = multiply(to_bfloat16(a, "even")[None], to_bfloat16(b.T, "even")[None], did)[0].astype(np.float32)
    found = check_design_result(result, a, b.T, said)
    assert found.bias_over_mass < -5e-4
    assert not found.within_bound


@pytest.mark.parametrize(("K", "published"), [(64, 0.384), (512, 1.00)])
def test_the_largest_error_of_truncated_operands_and_partial_sums_is_what_others_found(K, published):
    """Research notes on a batched-tiling analysis, by emulation: 64xK times Kx512, normal data, k = 64 partials added on the host."""
    design = XdnaDesign(64, 64, 512, 64, 64, 64, rounding="truncate")
    largest = []
    for seed in range(4):
        rng = np.random.default_rng([seed, K])
        a, b = rng.standard_normal((64, K), np.float32), rng.standard_normal((K, 512), np.float32)
        short_a, short_b = to_bfloat16(a, "truncate"), to_bfloat16(b, "truncate")
        parts = [multiply(short_a[None, :, k : k + 64], short_b[None, k : k + 64], design)[0] for k in range(0, K, 64)]
        total = sum(part.astype(np.float32) for part in parts)
        largest.append(np.abs(total - a.astype(np.float64) @ b.astype(np.float64)).max())
    assert np.mean(largest) == pytest.approx(published, rel=0.3)


@pytest.mark.parametrize("out_dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("rounding", ["even", "floor", "truncate"])
def test_one_transposed_block_or_one_k_tile_too_few_is_not_right(rounding, out_dtype):
    a, b = RNG.standard_normal((128, 256), np.float32), RNG.standard_normal((256, 128), np.float32)
    design = XdnaDesign(128, 256, 128, 64, 64, 64, rounding=rounding, out_dtype=out_dtype)
    short_a, short_b = to_bfloat16(a, "even"), to_bfloat16(b, "even")
    right = multiply(short_a[None], short_b[None], design)[0].astype(np.float32)
    assert check_design_result(right, a, b, design).within_bound
    transposed = right.copy()
    transposed[64:, :64] = right[64:, :64].T
    assert not check_design_result(transposed, a, b, design).within_bound
    short_a[:, 192:] = 0
    dropped = multiply(short_a[None], short_b[None], design)[0].astype(np.float32)
    assert not check_design_result(dropped, a, b, design).within_bound
