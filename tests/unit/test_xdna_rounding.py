"""Roundings of single values against exact neighbours, and bfp16 blocks against the encoder that mlir-aie publishes."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from npuscope.backends.xdna.rounding import from_bfloat16, round_in_place, to_bfloat16, to_bfp16
from npuscope.errors import UsageError

MODES = ("even", "floor", "truncate")
RNG = np.random.default_rng(11)


def of_bits(*words):
    return np.array(words, np.uint32).view(np.float32)


@pytest.mark.parametrize(
    ("mode", "positive", "negative"),
    [("even", 0x3F80, 0xBF80), ("floor", 0x3F80, 0xBF81), ("truncate", 0x3F80, 0xBF80)],
)
def test_a_tie_above_an_even_value_goes_where_the_mode_says(mode, positive, negative):
    found = to_bfloat16(of_bits(0x3F808000, 0xBF808000), mode).view(np.uint16)
    assert found.tolist() == [positive, negative]


@pytest.mark.parametrize(("mode", "expected"), [("even", 0x3F82), ("floor", 0x3F81), ("truncate", 0x3F81)])
def test_a_tie_above_an_odd_value_goes_up_to_the_even_one(mode, expected):
    assert to_bfloat16(of_bits(0x3F818000), mode).view(np.uint16)[0] == expected


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("even", [0x7F80, 0xFF80, 0x0000, 0x8000]),
        ("floor", [0x7F7F, 0xFF80, 0x0000, 0x8001]),
        ("truncate", [0x7F7F, 0xFF7F, 0x0000, 0x8000]),
    ],
)
def test_the_largest_and_the_smallest_round_in_the_direction_of_the_mode(mode, expected):
    assert (
        to_bfloat16(of_bits(0x7F7FFFFF, 0xFF7FFFFF, 0x00000001, 0x80000001), mode).view(np.uint16).tolist() == expected
    )


@pytest.mark.parametrize("mode", MODES)
def test_minus_zero_and_subnormal_values_that_bfloat16_holds_stay(mode):
    values = of_bits(0x80000000, 0x00010000, 0x807F0000)
    assert (to_bfloat16(values, mode).view(np.uint16) == values.view(np.uint32) >> 16).all()


@pytest.mark.parametrize("mode", MODES)
def test_in_place_it_is_the_same_rounding_and_infinities_and_nans_stay(mode):
    values = np.concatenate(
        [
            RNG.standard_normal(70_000, np.float32),
            of_bits(0xBF800001, 0x3F80FFFF, 0x7F800000, 0xFF800000, 0x7FFF0000, 0xFFC00000),
        ]
    )
    expected = from_bfloat16(to_bfloat16(values, mode))
    round_in_place(values, mode, np.empty(values.size, np.uint32))
    assert np.array_equal(values, expected, equal_nan=True)
    assert np.isnan(values[-2:]).all()


@pytest.mark.parametrize("mode", MODES)
def test_a_result_reaches_memory_that_is_not_contiguous(mode):
    source = RNG.standard_normal((300, 200), np.float32)
    target = np.zeros((300, 256), ml_dtypes.bfloat16)
    to_bfloat16(source, mode, out=target[:, :200])
    assert np.array_equal(target[:, :200], to_bfloat16(source, mode))
    assert not target[:, 200:].any()


@pytest.mark.parametrize("mode", MODES)
def test_a_source_that_is_not_contiguous_is_read_in_its_order(mode):
    source = RNG.standard_normal((300, 200), np.float32).T
    assert np.array_equal(to_bfloat16(source, mode), to_bfloat16(source.copy(), mode))


@pytest.mark.parametrize(
    "call", [lambda: to_bfloat16(np.zeros(1, np.float32), "up"), lambda: to_bfp16(np.zeros(8), 0, "up")]
)
def test_a_mode_that_no_core_has_is_refused(call):
    with pytest.raises(UsageError, match="rounding"):
        call()


def encoded(values):
    """bfp16ebs8 by mlir-aie's host encoder and decoder, python/utils/bfp.py: what eight normal float32 become, in integers."""
    words = [int(word) for word in np.asarray(values, np.float32).view(np.uint32)]
    largest = max(word >> 23 & 0xFF for word in words)
    mantissas = []
    for word in words:
        exponent = word >> 23 & 0xFF
        magnitude = (word & 0x7FFFFF | 0x800000) if exponent else 0
        signed = -magnitude if word >> 31 else magnitude
        mantissas.append(
            signed >> 17 >> min(31, largest - exponent)
        )  # Python's shift rounds down, as the encoder's does
    return [float(Fraction(mantissa, 64) * Fraction(2) ** (largest - 127)) for mantissa in mantissas]


def test_rounded_down_blocks_are_those_of_the_published_encoder():
    for _ in range(300):
        values = (RNG.standard_normal(8) * 2.0 ** RNG.integers(-12, 12, 8)).astype(np.float32)
        assert to_bfp16(values, 0, "floor").tolist() == encoded(values)


@pytest.mark.parametrize(("mode", "share"), [("even", Fraction(1, 2)), ("floor", 1), ("truncate", 1)])
def test_a_value_moves_by_at_most_its_share_of_the_step_unless_it_is_the_largest(mode, share):
    values = RNG.standard_normal((2000, 8)).astype(np.float32)
    _, exponent = np.frexp(np.abs(values).max(axis=1, keepdims=True))
    step = np.ldexp(1.0, exponent - 7)
    moved = (to_bfp16(values, 1, mode).astype(np.float64) - values) / step
    held = values < 127.5 * step  # above, to nearest stays at 127
    assert (np.abs(moved[held]) <= float(share)).all()
    if mode == "floor":
        assert (moved <= 0).all()
    if mode == "truncate":
        assert (moved * values <= 0).all()


def test_to_nearest_a_mantissa_never_exceeds_seven_bits():
    values = np.full(8, np.float32(2 - 2.0**-20))
    assert to_bfp16(values, 0).tolist() == [127 / 64] * 8
    assert to_bfp16(-values, 0).tolist() == [-2.0] * 8


def test_one_value_that_is_not_finite_makes_its_block_nan_and_no_other():
    values = np.ones((3, 8), np.float32)
    values[0, 3], values[1, 0] = np.inf, np.nan
    found = to_bfp16(values, 1)
    assert np.isnan(found[:2]).all()
    assert (found[2] == 1).all()


@pytest.mark.parametrize("mode", MODES)
def test_blocks_of_zeros_and_of_subnormal_values_are_finite(mode):
    values = np.zeros((2, 8), np.float32)
    values[1] = of_bits(*range(1, 9))
    found = to_bfp16(values, 1, mode)
    assert not found[0].any()
    assert (np.abs(found[1] - values[1]) <= 2.0**-132).all()


EVERY = np.arange(1 << 16, dtype=np.uint32) << 16
GRID = np.unique(EVERY.view(np.float32)[np.isfinite(EVERY.view(np.float32))].astype(np.float64))


@pytest.mark.parametrize("low", [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
def test_beside_every_bfloat16_value_directed_rounding_takes_the_next_one_on_its_side(low):
    values = (EVERY | np.uint32(low)).view(np.float32)
    values = values[np.isfinite(values)]
    exact = values.astype(np.float64)
    at = np.searchsorted(GRID, exact, side="right")
    below = np.concatenate([[-np.inf], GRID])[at]
    above = np.concatenate([GRID, [np.inf]])[np.searchsorted(GRID, exact)]
    assert (below <= exact).all()
    assert (exact <= above).all()
    assert np.array_equal(to_bfloat16(values, "floor").astype(np.float64), below)
    assert np.array_equal(to_bfloat16(values, "truncate").astype(np.float64), np.where(exact < 0, above, below))


@pytest.mark.parametrize("mode", MODES)
def test_a_nan_far_behind_whose_mark_is_in_its_lowest_bits_stays_one_and_alone(mode):
    """Beyond what is converted at once, and among values whose sum overflows."""
    values = np.full(100_001, np.float32(3e38))
    values[[5, 70_000, 100_000]] = of_bits(0x7F800001, 0xFF800001, 0xFF80FFFF)
    found = from_bfloat16(to_bfloat16(values, mode))
    assert np.flatnonzero(np.isnan(found)).tolist() == [5, 70_000, 100_000]


@pytest.mark.parametrize("mode", MODES)
def test_what_is_quantised_already_stays_unless_a_mantissa_is_minus_128(mode):
    values = np.abs(RNG.standard_normal((500, 8)).astype(np.float32))
    values[:, 0] += 4  # negative ones do not become the largest
    values[:, 1:] *= np.where(np.arange(7) % 2, 1, -1)
    once = to_bfp16(values, 1, mode)
    assert np.array_equal(to_bfp16(once, 1, mode), once)
    lifted = np.array([-127.9, 1, 0, 0, 0, 0, 0, 0], np.float32)
    lowest = -127 if mode == "truncate" else -128
    assert to_bfp16(lifted, 0, mode)[:2].tolist() == [lowest, 1]
    again = 0 if mode == "even" or mode == "floor" else 1  # -128 is the next power of two: the step doubles
    assert to_bfp16(to_bfp16(lifted, 0, mode), 0, mode)[1] == again
