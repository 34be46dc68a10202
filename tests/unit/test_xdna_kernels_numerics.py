"""Roundings, write-backs, blocks and the criterion: against exact values, and against figures that others published."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from npuscope.backends.xdna.numerics import multiply
from npuscope.backends.xdna.packing import crop, pad_into
from npuscope.backends.xdna.rounding import from_bfloat16, to_bfloat16, to_bfp16
from npuscope.measure.xdna_bound import check_design_result
from npuscope.tiling.xdna_design import XdnaDesign

RNG = np.random.default_rng(7)


def bits_of_everything():
    """float32 of random bits, with the special ones: NaNs of every kind, infinities, subnormals, zeros, ties, the largest."""
    specials = (
        "0 1 8000 80000000 7F800000 FF800000 7FC00000 7F800001 FF80FFFF 7F7FFFFF FF7FFFFF"
        " 3F808000 3F818000 BF808000 3F808001 3F80FFFF 00008000 00018000"
    )
    special = np.array([int(word, 16) for word in specials.split()], np.uint32)
    return np.concatenate([special, RNG.integers(0, 1 << 32, 200_000, np.uint32)]).view(np.float32)


def neighbours(values):
    """The largest bfloat16 not above and the least not below each finite float32, as float64."""
    near = values.astype(ml_dtypes.bfloat16)
    as_double = near.astype(np.float64)
    exact = values.astype(np.float64)
    below = np.where(as_double <= exact, as_double, np.nextafter(near, ml_dtypes.bfloat16(-np.inf)).astype(np.float64))
    above = np.where(as_double >= exact, as_double, np.nextafter(near, ml_dtypes.bfloat16(np.inf)).astype(np.float64))
    return below, above


class TestRounding:
    def test_to_nearest_even_is_that_of_ml_dtypes(self):
        values = bits_of_everything()
        with np.errstate(over="ignore", invalid="ignore"):
            expected = values.astype(ml_dtypes.bfloat16)
        found = to_bfloat16(values, "even")
        nan = np.isnan(values)
        assert (found.view(np.uint16)[~nan] == expected.view(np.uint16)[~nan]).all()
        assert np.isnan(found[nan]).all()

    @pytest.mark.parametrize("mode", ["floor", "truncate"])
    def test_directed_rounding_takes_the_neighbour_in_its_direction(self, mode):
        values = bits_of_everything()
        values = values[np.isfinite(values)]
        with np.errstate(over="ignore"):
            below, above = neighbours(values)
        wanted = below if mode == "floor" else np.where(values > 0, below, above)
        assert (to_bfloat16(values, mode).astype(np.float64) == wanted).all()

    @pytest.mark.parametrize("mode", ["even", "floor", "truncate"])
    def test_no_nan_becomes_a_number_and_infinities_stay(self, mode):
        values = np.array([0x7F800001, 0xFF80FFFF, 0x7FC00000, 0x7F800000, 0xFF800000], np.uint32).view(np.float32)
        found = to_bfloat16(values, mode).astype(np.float32)
        assert np.isnan(found[:3]).all()
        assert found[3:].tolist() == [np.inf, -np.inf]

    def test_widening_is_exact_and_a_result_goes_where_it_is_asked(self):
        every = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
        wide = from_bfloat16(every)
        assert np.array_equal(wide, every.astype(np.float32), equal_nan=True)
        target = np.zeros(70_000, ml_dtypes.bfloat16)
        source = RNG.standard_normal(70_000).astype(np.float32)
        assert to_bfloat16(source, "floor", out=target) is target
        assert (target.astype(np.float32) <= source).all()


class TestBlocks:
    def test_values_of_a_block_become_multiples_of_its_step(self):
        values = np.array([[1.0, 0.51, 0.26, 1 / 64, 1 / 128, -1.0, 0.0, 1.99]], np.float32)
        found = to_bfp16(values, 1)
        assert found.tolist() == [[1.0, 33 / 64, 17 / 64, 1 / 64, 0.0, -1.0, 0.0, 127 / 64]]

    def test_blocks_do_not_share_an_exponent(self):
        values = np.concatenate([np.full(8, 1000.0), np.full(8, 0.001)]).astype(np.float32)
        found = to_bfp16(values, 0)
        assert np.allclose(found, values, rtol=1 / 64)
        assert (to_bfp16(found, 0) == found).all()

    @pytest.mark.parametrize("length", [1, 7, 9, 20])
    def test_the_last_block_may_be_short(self, length):
        values = RNG.standard_normal((3, length)).astype(np.float32)
        assert np.abs(to_bfp16(values, 1) - values).max() <= np.abs(values).max() / 32

    def test_they_lie_along_the_axis_that_is_named(self):
        values = np.ones((8, 2), np.float32)
        values[0, 0] = 128.0
        assert (to_bfp16(values, 0)[1:, 0] == 0).all() or (to_bfp16(values, 0)[1:, 0] == 2).all()
        assert (to_bfp16(values, 0)[:, 1] == 1).all()


def product(a, b, design):
    wide = multiply(to_bfloat16(a, "even")[None], to_bfloat16(b, "even")[None], design)[0]
    return wide.astype(np.float32)


class TestWriteBack:
    def test_small_terms_are_lost_only_where_c_is_rounded_between_them(self):
        a, b = np.ones((1, 64), np.float32), np.full((64, 1), 2.0**-9, np.float32)
        b[0] = 1.0

        def design(k, out="bfloat16"):
            return XdnaDesign(1, 64, 1, 1, k, 1, rounding="even", out_dtype=out)

        exact = 1 + 63 * 2.0**-9
        assert product(a, b, design(1))[0, 0] == 1.0
        assert product(a, b, design(64))[0, 0] == pytest.approx(exact, rel=2.0**-8)
        assert product(a, b, design(1, "float32"))[0, 0] == exact

    def test_floor_leans_down_and_even_does_not(self):
        a, b = (RNG.standard_normal((200, 512)).astype(np.float32) for _ in range(2))
        bias = {}
        for mode in ("even", "floor"):
            design = XdnaDesign(200, 512, 200, 200, 64, 200, rounding=mode)
            bias[mode] = check_design_result(product(a, b.T, design), a, b.T, design).bias_over_mass
        assert bias["floor"] < -5e-4
        assert abs(bias["even"]) < 2e-5

    @pytest.mark.parametrize(("K", "published"), [(64, 0.131), (512, 0.309)])
    def test_the_largest_error_with_partial_sums_on_the_host_is_what_others_found(self, K, published):
        """Research notes on a batched-tiling analysis: 64xK times Kx512, normal data, to nearest, k = 64 partials on the host."""
        rng = np.random.default_rng(0)
        a, b = rng.standard_normal((64, K)).astype(np.float32), rng.standard_normal((K, 512)).astype(np.float32)
        design = XdnaDesign(64, 64, 512, 64, 64, 64, rounding="even")
        parts = [product(a[:, k : k + 64], b[k : k + 64], design) for k in range(0, K, 64)]
        error = np.abs(sum(parts) - a.astype(np.float64) @ b.astype(np.float64)).max()
        assert error == pytest.approx(published, rel=0.3)


class TestIntegers:
    @pytest.mark.parametrize(("dtype", "largest"), [("int8", 127), ("int16", 32_767)])
    def test_sums_are_exact(self, dtype, largest):
        a = RNG.integers(-largest, largest + 1, (2, 30, 40)).astype(dtype)
        b = RNG.integers(-largest // 300 - 1, largest // 300 + 2, (2, 40, 20)).astype(dtype)
        design = XdnaDesign(30, 40, 20, 30, 8, 20, batch=2, dtype=dtype, out_dtype="int32")
        assert (multiply(a, b, design) == a.astype(np.int64) @ b.astype(np.int64)).all()

    def test_what_does_not_fit_keeps_its_low_bits(self):
        a, b = np.full((1, 1, 16), 100, np.int8), np.full((1, 16, 1), 100, np.int8)
        design = XdnaDesign(1, 16, 1, 1, 8, 1, dtype="int8", out_dtype="int8")
        assert multiply(a, b, design)[0, 0, 0] == np.int64(160_000).astype(np.int8)


class TestCriterion:
    DESIGN = XdnaDesign(128, 512, 128, 64, 64, 64, rounding="even")
    A = np.random.default_rng(1).standard_normal((128, 512)).astype(np.float32)
    B = np.random.default_rng(2).standard_normal((512, 128)).astype(np.float32)

    def right(self):
        return product(self.A, self.B, self.DESIGN)

    def passes(self, result, design=DESIGN):
        return check_design_result(result, self.A, self.B, design).within_bound

    def test_a_right_result_passes(self):
        assert self.passes(self.right())

    def test_a_lost_k_tile_fails(self):
        assert not self.passes(self.right() - self.A[:, 64:128] @ self.B[64:128])

    def test_one_wrong_element_fails(self):
        result = self.right()
        result[17, 3] += 12
        assert not self.passes(result)

    def test_swapped_tiles_and_a_shifted_row_fail(self):
        swapped = np.roll(self.right(), 64, axis=0)
        assert not self.passes(swapped)
        shifted = self.right()
        shifted[64:] = np.roll(shifted[64:], 1, axis=0)
        assert not self.passes(shifted)

    def test_not_a_number_fails(self):
        result = self.right()
        result[0, 0] = np.nan
        assert not self.passes(result)

    def test_rounding_to_fewer_bits_than_said_fails(self):
        coarse = (self.right().view(np.uint32) & np.uint32(0xFFF80000)).view(np.float32)
        assert not self.passes(coarse)

    def test_one_wrong_tile_of_many_fails(self):
        result = self.right()
        result[64:, 64:] -= self.A[64:, 64:128] @ self.B[64:128, 64:]
        assert not self.passes(result)

    def test_a_single_product_of_two_ties_is_right(self):
        """1 + 2^-8 lies in the middle between two bfloat16 values; a bound by 2^-9 would refuse this."""
        a = b = np.full((1, 1), 1 + 2.0**-8, np.float32)
        design = XdnaDesign(1, 8, 1, 1, 8, 1, rounding="even", out_dtype="float32")
        padded = product(np.pad(a, ((0, 0), (0, 7))), np.pad(b, ((0, 7), (0, 0))), design)
        found = check_design_result(padded, a, b, design)
        assert found.within_bound
        assert found.error_over_mass > 2 * 2.0**-9 + 2.0**-18

    def test_where_rounding_may_lose_everything_no_result_is_called_right(self):
        a, b = (
            np.ones((1, 1 << 14), np.float32),
            np.random.default_rng(0).standard_normal((1 << 14, 1)).astype(np.float32),
        )
        design = XdnaDesign(1, 1 << 14, 1, 1, 8, 1)
        found = check_design_result(np.zeros((1, 1), np.float32), a, b, design)
        assert not found.can_tell
        assert not found.within_bound

    def test_wrong_integers_fail_by_one(self):
        a, b = np.ones((4, 4), np.int8), np.ones((4, 4), np.int8)
        design = XdnaDesign(4, 4, 4, 4, 4, 4, dtype="int8", out_dtype="int32")
        exact = np.full((4, 4), 4, np.int32)
        assert check_design_result(exact, a, b, design).within_bound
        exact[3, 3] = 5
        assert not check_design_result(exact, a, b, design).within_bound


class TestPacking:
    @pytest.mark.parametrize(("rows", "columns"), [(64, 64), (57, 64), (64, 1), (1, 1)])
    def test_what_lies_beyond_a_matrix_becomes_zero_whatever_was_there(self, rows, columns):
        out = np.full((64, 64), np.nan, np.float32)
        source = RNG.standard_normal((rows, columns)).astype(np.float32)
        pad_into(out, source)
        assert (out[:rows, :columns] == source).all()
        assert np.count_nonzero(out) == np.count_nonzero(source)

    def test_cropping_gives_the_corner(self):
        values = np.arange(12).reshape(3, 4)
        assert crop(values, 2, 3).tolist() == [[0, 1, 2], [4, 5, 6]]
        assert crop(values, 2, 3).flags.c_contiguous
