"""What the engines compute, against definitions written out in float64 with Python's own math."""

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from npuscope.simulate.nki import instruction_math as im
from npuscope.simulate.nki.activations import ACTIVATIONS, activate, activation_name, erf
from npuscope.simulate.nki.dtypes import TFLOAT32, as_dtype, dtype_name
from npuscope.simulate.nki.numerics import (
    apply_op,
    canonical_op,
    cast_to,
    operators,
    promote,
    reduce_values,
    scalar_dtype,
    tensor_tensor,
)

LEFT = np.array([[3.5, -2.0, 0.0, 7.25], [-1.5, 4.0, 1.0, -8.0]], np.float32)
RIGHT = np.array([[2.0, -2.0, 1.5, 0.5], [3.0, 0.25, -1.0, 2.0]], np.float32)
SCALAR: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "maximum": max,
    "minimum": min,
    "divide": lambda a, b: a / b,
    "mod": lambda a, b: a % b,
    "fmod": math.fmod,
    "abs_max": lambda a, b: max(abs(a), abs(b)),
    "abs_min": lambda a, b: min(abs(a), abs(b)),
    "equal": lambda a, b: float(a == b),
    "not_equal": lambda a, b: float(a != b),
    "greater": lambda a, b: float(a > b),
    "greater_equal": lambda a, b: float(a >= b),
    "less": lambda a, b: float(a < b),
    "less_equal": lambda a, b: float(a <= b),
    "logical_and": lambda a, b: float(bool(a) and bool(b)),
    "logical_or": lambda a, b: float(bool(a) or bool(b)),
    "logical_xor": lambda a, b: float(bool(a) != bool(b)),
}
UNARY: dict[str, Any] = {
    "logical_not": lambda a: float(not a),
    "abs": abs,
    "square": lambda a: a * a,
    "relu": lambda a: max(a, 0.0),
}


def elementwise(function: Any, *arrays: np.ndarray) -> np.ndarray:
    flat = [[float(x) for x in a.reshape(-1)] for a in arrays]
    return np.array([function(*row) for row in zip(*flat, strict=True)]).reshape(arrays[0].shape)


@pytest.mark.parametrize("name", sorted(SCALAR))
def test_binary_operator_is_pythons(name: str) -> None:
    result = apply_op(canonical_op(name), LEFT, RIGHT)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, elementwise(SCALAR[name], LEFT, RIGHT), rtol=1e-6)


@pytest.mark.parametrize("name", sorted(UNARY))
def test_unary_operator_ignores_its_operand(name: str) -> None:
    np.testing.assert_allclose(apply_op(canonical_op(name), LEFT, 123.0), elementwise(UNARY[name], LEFT))


def test_reciprocal_and_rsqrt_and_power() -> None:
    positive = np.array([0.25, 2.0, 9.0], np.float32)
    np.testing.assert_allclose(apply_op(canonical_op("rsqrt"), positive, 0.0), [2.0, 2**-0.5, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(apply_op(canonical_op("reciprocal"), positive, 0.0), [4.0, 0.5, 1 / 9], rtol=1e-6)
    np.testing.assert_allclose(apply_op(canonical_op(np.power), positive, -0.5), [2.0, 2**-0.5, 1 / 3], rtol=1e-6)


def test_every_documented_operator_is_tested_here() -> None:
    bitwise = {"invert", "bitwise_and", "bitwise_or", "bitwise_xor", "left_shift", "right_shift"}
    assert {op.name for op in operators()} == {*SCALAR, *UNARY, *bitwise, "rsqrt", "reciprocal", "power"}


def test_reversed_operands_swap_sides() -> None:
    np.testing.assert_array_equal(apply_op(canonical_op(np.subtract), LEFT, 1.0, reverse=True), 1 - LEFT)


def test_operator_by_ufunc_by_numpy_function_by_name_and_by_any_function_of_that_name() -> None:
    def maximum() -> None: ...

    assert canonical_op(np.maximum) is canonical_op(np.max) is canonical_op("max") is canonical_op(maximum)
    assert canonical_op(np.add) is canonical_op(np.sum)
    with pytest.raises(KeyError, match="arccosh"):
        canonical_op(np.arccosh)


def test_bitwise_operators_see_bits_and_refuse_floats() -> None:
    values = np.array([-1, 6, 5], np.int8)
    np.testing.assert_array_equal(apply_op(canonical_op("invert"), values, 0), [0, -7, -6])
    np.testing.assert_array_equal(apply_op(canonical_op(np.bitwise_and), values, 3), [3, 2, 1])
    np.testing.assert_array_equal(apply_op(canonical_op(np.bitwise_xor), values, 1), [-2, 7, 4])
    np.testing.assert_array_equal(apply_op(canonical_op("left_shift"), values, 1), [-2, 12, 10])
    np.testing.assert_array_equal(apply_op(canonical_op("left_shift"), values, 1, reverse=True)[1:], [64, 32])
    with pytest.raises(TypeError, match="bitwise_and needs integers, not float32"):
        apply_op(canonical_op("bitwise_and"), LEFT, 1)


def test_shift_to_the_right_is_logical() -> None:
    values = np.array([-2, 8], np.int32)
    np.testing.assert_array_equal(apply_op(canonical_op("right_shift"), values, 1), [2**31 - 1, 4])


def test_arithmetic_on_narrow_types_is_done_in_float32_without_rounding_between() -> None:
    values = np.array([1.0], ml_dtypes.bfloat16)
    op = canonical_op("add")
    chain = im.scalar_chain(values, [(op, 2.0**-12, False), (canonical_op("multiply"), 4096.0, False)])
    assert chain[0] == 4097.0


def test_32_bit_integers_stay_exact_and_wrap_between_tiles_only() -> None:
    big = np.array([2**24 + 1, 2**31 - 1], np.int32)
    one = np.ones(2, np.int32)
    np.testing.assert_array_equal(tensor_tensor(canonical_op("add"), big, one), [2**24 + 2, -(2**31)])
    assert apply_op(canonical_op("add"), big, 1.0)[0] == 2**24
    assert tensor_tensor(canonical_op("maximum"), big, one).dtype == np.float32


def test_float_to_integer_rounds_to_even_and_saturates() -> None:
    values = np.array([0.5, 1.5, -2.5, 300.0, -300.0, np.nan, np.inf], np.float32)
    np.testing.assert_array_equal(cast_to(values, np.dtype(np.int8)), [0, 2, -2, 127, -128, 0, 127])
    np.testing.assert_array_equal(cast_to(values, np.dtype(np.uint8)), [0, 2, 0, 255, 0, 0, 255])
    huge = np.array([3e9, -3e9], np.float32)
    np.testing.assert_array_equal(cast_to(huge, np.dtype(np.int32)), [2**31 - 1, -(2**31)])


def test_a_float_too_large_for_a_narrower_float_becomes_infinite() -> None:
    lowest = np.array([np.finfo(np.float32).min], np.float32)
    for dtype in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3, ml_dtypes.float8_e5m2):
        assert float(cast_to(lowest, np.dtype(dtype))[0]) == -math.inf


def test_same_type_is_copied_bit_by_bit() -> None:
    exact = np.array([2**31 - 1], np.int32)
    assert cast_to(exact, exact.dtype) is exact


def test_tfloat32_keeps_ten_mantissa_bits() -> None:
    values = np.array([1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, -np.inf], np.float32)
    np.testing.assert_array_equal(cast_to(values, TFLOAT32), [1 + 2**-10, 1.0, 1 + 2**-9, -np.inf])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("int32", "float16", "float16"),
        ("uint16", "tfloat32", "tfloat32"),
        ("float32", "tfloat32", "float32"),
        ("float32", "bfloat16", "float32"),
        ("float16", "bfloat16", "float32"),
        ("float8_e4m3", "float16", "float16"),
        ("float8_e4m3", "bfloat16", "bfloat16"),
        ("float8_e4m3", "float8_e5m2", "bfloat16"),
        ("int16", "int32", "int32"),
        ("uint8", "uint16", "uint16"),
        ("uint16", "int32", "int32"),
        ("int8", "uint8", "int16"),
        ("int8", "uint16", "int32"),
        ("int32", "uint32", "float32"),
    ],
)
def test_promotion_table_of_the_documentation(first: str, second: str, expected: str) -> None:
    for pair in ((first, second), (second, first)):
        assert dtype_name(promote(*map(as_dtype, pair))) == expected


def test_untyped_scalars_are_as_wide_as_the_hardware_has() -> None:
    assert [scalar_dtype(x).name for x in (True, 2, 1.2, np.int8(2))] == ["uint8", "int32", "float32", "int8"]


@pytest.mark.parametrize("op", ["add", "multiply", "maximum", "minimum"])
def test_reduction_is_numpys_in_float32(op: str) -> None:
    values = np.random.default_rng(1).normal(size=(3, 4, 5)).astype(ml_dtypes.bfloat16)
    ufunc = getattr(np, op)
    expected = ufunc.reduce(ufunc.reduce(values.astype(np.float64), axis=2), axis=1)
    result = reduce_values(canonical_op(op), values, (1, 2))
    assert (result.shape, result.dtype) == ((3, 1, 1), np.float32)
    np.testing.assert_allclose(result[:, 0, 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(reduce_values(canonical_op(op), values, (1, 2), negate=True), -result)


def test_subtract_reduction_takes_the_rest_from_the_first() -> None:
    values = np.array([[10.0, 1.0, 2.0, 3.0]], np.float32)
    assert reduce_values(canonical_op("subtract"), values, (1,))[0, 0] == 4.0
    with pytest.raises(TypeError, match="power is not a reduction operator"):
        reduce_values(canonical_op("power"), values, (1,))


def phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slope(function: Any) -> Any:
    return lambda x: (function(x + 1e-5) - function(x - 1e-5)) / 2e-5


ON_THE_LINE: dict[str, Any] = {
    "copy": lambda x: x,
    "square": lambda x: x * x,
    "sigmoid": logistic,
    "relu": lambda x: max(x, 0),
    "gelu": lambda x: x * phi(x),
    "gelu_dx": slope(lambda x: x * phi(x)),
    "gelu_apprx_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu_apprx_sigmoid": lambda x: x * logistic(1.702 * x),
    "gelu_apprx_sigmoid_dx": slope(lambda x: x * logistic(1.702 * x)),
    "silu": lambda x: x * logistic(x),
    "silu_dx": slope(lambda x: x * logistic(x)),
    "tanh": math.tanh,
    "softplus": lambda x: math.log(1 + math.exp(x)),
    "mish": lambda x: x * math.tanh(math.log(1 + math.exp(x))),
    "erf": math.erf,
    "erf_dx": slope(math.erf),
    "exp": math.exp,
    "sin": math.sin,
    "arctan": math.atan,
    "sign": lambda x: (x > 0) - (x < 0),
    "abs": abs,
}
ABOVE_ZERO: dict[str, Any] = {
    "log": math.log,
    "sqrt": math.sqrt,
    "rsqrt": lambda x: x**-0.5,
    "reciprocal": lambda x: 1 / x,
}


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activation_function_is_its_definition(name: str) -> None:
    function, low = (ON_THE_LINE[name], -6.0) if name in ON_THE_LINE else (ABOVE_ZERO[name], 0.01)
    x = np.linspace(low, 6.0, 601, dtype=np.float32)
    result = activate(name, x)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, elementwise(function, x), rtol=3e-6, atol=2e-6)


@pytest.mark.parametrize("name", sorted(set(ON_THE_LINE) - {"exp", "square", "sin"}))
def test_activation_functions_have_their_limits_at_both_ends(name: str) -> None:
    ends = activate(name, np.array([-1e30, 1e30], np.float32))
    assert np.all(np.isfinite(ends)), ends


def test_erf_table_is_exact_to_float32() -> None:
    x = np.concatenate([np.linspace(-6, 6, 5003), [1e-20, -1e-20]]).astype(np.float32)
    np.testing.assert_allclose(erf(x), elementwise(math.erf, x), rtol=1.2e-7)
    assert np.isnan(erf(np.array([np.nan], np.float32))[0])


def test_scale_and_bias_come_before_the_function() -> None:
    values = np.array([[1.0, 2.0], [3.0, 4.0]], ml_dtypes.bfloat16)
    bias = np.array([[10.0], [20.0]], np.float32)
    np.testing.assert_array_equal(activate("square", values, 2.0, bias), [[144.0, 196.0], [676.0, 784.0]])


def test_activation_by_numpy_function_and_by_name() -> None:
    assert activation_name(np.copy) == activation_name("identity") == "copy"
    assert activation_name(np.abs) == "abs"
    with pytest.raises(KeyError):
        activation_name(np.arccosh)


def test_matmul_accumulates_narrow_inputs_in_float32() -> None:
    rng = np.random.default_rng(0)
    stationary = rng.normal(size=(128, 16)).astype(ml_dtypes.bfloat16)
    moving = rng.normal(size=(128, 40)).astype(ml_dtypes.bfloat16)
    result = im.matmul(stationary, moving)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, stationary.T.astype(np.float64) @ moving.astype(np.float64), atol=1e-4)


@pytest.mark.parametrize("reverse0", [False, True])
@pytest.mark.parametrize("reverse1", [False, True])
@pytest.mark.parametrize("names", [("multiply", "add"), ("subtract", "maximum"), ("minimum", "subtract")])
def test_scan_carries_its_state_from_column_to_column(
    names: tuple[str, str], *, reverse0: bool, reverse1: bool
) -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(2, 5, 9)).astype(np.float32)
    initial = rng.normal(size=(5, 1)).astype(np.float32)
    result = im.tensor_tensor_scan(
        first, second, initial, *map(canonical_op, names), reverse0=reverse0, reverse1=reverse1
    )
    op0, op1 = SCALAR[names[0]], SCALAR[names[1]]
    for row in range(5):
        state = float(initial[row, 0])
        for i in range(9):
            a, b = float(first[row, i]), float(second[row, i])
            step = op0(state, a) if reverse0 else op0(a, state)
            state = op1(b, step) if reverse1 else op1(step, b)
            assert result[row, i] == pytest.approx(state, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("columns", [1, 2, 7, 512])
def test_bn_stats_then_bn_aggr_are_mean_and_variance(columns: int) -> None:
    values = np.random.default_rng(5).normal(3.0, 2.0, size=(4, columns)).astype(np.float32)
    stats = im.bn_stats(values)
    assert stats.shape == (4, 6)
    np.testing.assert_array_equal(stats[:, 0] + stats[:, 3], columns)
    np.testing.assert_allclose(stats[:, 1], values[:, 0::2].mean(axis=1), rtol=1e-5)
    both = im.bn_aggr(np.concatenate([stats, im.bn_stats(values + 1)], axis=1))
    joined = np.concatenate([values, values + 1], axis=1).astype(np.float64)
    np.testing.assert_allclose(both, np.stack([joined.mean(1), joined.var(1)], 1), rtol=1e-4)


def test_max8_is_descending_and_match_replace_takes_the_first_of_equals() -> None:
    values = np.array([[5, 1, 5, 2, 9, 3, 0, 4, 7, 6]], np.float32)
    best = im.max8(values)
    np.testing.assert_array_equal(best, [[9, 7, 6, 5, 5, 4, 3, 2]])
    replaced, places = im.match_replace8(values, best, -1.0)
    np.testing.assert_array_equal(places, [[4, 8, 9, 0, 2, 7, 5, 3]])
    np.testing.assert_array_equal(replaced, [[-1, 1, -1, -1, -1, -1, 0, -1, -1, -1]])
    np.testing.assert_array_equal(im.find_index8(values, best), places)


def test_range_select_keeps_positions_between_the_bounds() -> None:
    values = np.arange(12, dtype=np.float32).reshape(2, 6)
    low, high = np.array([[11.0], [10.0]], np.float32), np.array([[13.0], [11.0]], np.float32)
    tests = [(canonical_op(np.greater_equal), low), (canonical_op(np.less), high)]
    result = im.range_select(values, tests, 10, -1.0)
    np.testing.assert_array_equal(result, [[-1, 1, 2, -1, -1, -1], [6, -1, -1, -1, -1, -1]])


def test_local_gather_reads_each_group_of_16_partitions_by_its_own_indices() -> None:
    source = np.arange(32 * 40, dtype=np.float32).reshape(32, 40)
    index = np.zeros((32, 2), np.uint16)
    index[:16, 0], index[16:, 1] = np.arange(16), 7
    result = im.local_gather(source, index, 2, 20)
    assert result.shape == (32, 40)
    wanted = [*range(16), 0, 0, 0, 0]
    np.testing.assert_array_equal(result[3], [source[3, i + e] for i in wanted for e in (0, 1)])
    np.testing.assert_array_equal(result[20, 32:], np.tile(source[20, 7:9], 4))


def test_stream_shuffle_moves_partitions_within_each_quadrant() -> None:
    source = np.arange(64, dtype=np.float32).reshape(64, 1)
    before = np.full((64, 1), -5.0, np.float32)
    mask = [(i - 1) % 32 for i in range(32)]
    mask[3] = 255
    result = im.stream_shuffle(source, before, mask)
    assert [float(result[i, 0]) for i in (0, 1, 3, 32, 33, 35)] == [31, 0, -5, 63, 32, -5]
    one = im.stream_shuffle(source[:1] + 9, before[:32], [0] * 32)
    assert np.all(one == 9)


def test_sequence_bounds_of_the_documented_example() -> None:
    segments = np.array([[0, 1, 1, 2, 2, 2, 0, 3, 3]], np.int32)
    expected = [[[9, 1, 1, 3, 3, 3, 9, 7, 7], [-1, 3, 3, 6, 6, 6, -1, 9, 9]]]
    np.testing.assert_array_equal(im.sequence_bounds(segments), expected)


def test_dropout_keeps_all_at_0_none_at_1_and_leaves_the_kept_unscaled() -> None:
    values = np.full((2, 1000), 3.0, np.float32)
    chance = np.array([[0.0], [1.0]], np.float32)
    result = im.dropout(values, chance, np.random.default_rng(0))
    assert np.all(result[0] == 3)
    assert np.all(result[1] == 0)
    half = im.dropout(values, 0.5, np.random.default_rng(0))
    assert 800 < np.count_nonzero(half) < 1200
