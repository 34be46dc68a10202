"""Elementwise functions, broadcasting and reductions of `neuronxcc.nki.language`, against NumPy."""

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.simulate.neuroncore.program import Engine
from npuscope.simulate.nki import classic_language as nl
from npuscope.simulate.nki.trace import KernelError
from tests.nki_kernels import engines, opcodes, result, run

RNG = np.random.default_rng(3)
LEFT = RNG.standard_normal((128, 96)).astype(np.float32)
RIGHT = RNG.standard_normal((128, 96)).astype(np.float32)
POSITIVE = np.abs(LEFT) + np.float32(0.5)
WHOLE = RNG.integers(1, 100, (128, 96)).astype(np.int32)
erf = np.vectorize(math.erf)


def unary(function: Callable[..., Any], dtype: Any = None, **options: Any) -> Callable[..., Any]:
    """A kernel that applies `function` to a tile."""

    def kernel(x: Any) -> Any:
        tile = function(nl.load(x), dtype=dtype, **options) if dtype else function(nl.load(x), **options)
        out = nl.ndarray(tile.shape, dtype=tile.dtype, buffer=nl.shared_hbm)
        nl.store(out, tile)
        return out

    return kernel


def binary(function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel that applies `function` to two tiles."""

    def kernel(x: Any, y: Any) -> Any:
        left, right = (nl.load(a) if isinstance(a, nl.Tensor) else a for a in (x, y))
        tile = function(left, right)
        out = nl.ndarray(tile.shape, dtype=tile.dtype, buffer=nl.shared_hbm)
        nl.store(out, tile)
        return out

    return kernel


ON_SCALAR = {
    "exp": np.exp,
    "tanh": np.tanh,
    "sin": np.sin,
    "arctan": np.arctan,
    "sign": np.sign,
    "square": np.square,
    "erf": erf,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "gelu": lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2))),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
}


@pytest.mark.parametrize("name", ON_SCALAR)
def test_a_function_of_the_scalar_engine_is_one_activation(name: str) -> None:
    traced = run(unary(getattr(nl, name)), LEFT)
    np.testing.assert_allclose(traced.outputs[0], ON_SCALAR[name](LEFT.astype(np.float64)), rtol=2e-5, atol=2e-6)
    assert opcodes(traced) == {"dma": 2, "activation": 1}
    assert engines(traced, "activation") == {Engine.SCALAR}


@pytest.mark.parametrize(
    ("name", "reference"), [("log", np.log), ("sqrt", np.sqrt), ("rsqrt", lambda x: 1 / np.sqrt(x))]
)
def test_functions_of_positive_numbers_agree_with_numpy(name: str, reference: Callable[..., Any]) -> None:
    np.testing.assert_allclose(result(unary(getattr(nl, name)), POSITIVE), reference(POSITIVE), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["abs", "negative", "ceil", "floor", "trunc", "cos", "tan"])
def test_other_functions_of_one_tile_agree_with_numpy(name: str) -> None:
    np.testing.assert_allclose(result(unary(getattr(nl, name)), LEFT), getattr(np, name)(LEFT), rtol=1e-5, atol=1e-6)


def test_reciprocal_runs_on_vector_and_one_over_x_is_the_same_instruction() -> None:
    direct, divided = run(unary(nl.reciprocal), POSITIVE), run(unary(lambda x: 1.0 / x), POSITIVE)
    np.testing.assert_allclose(direct.outputs[0], 1 / POSITIVE, rtol=1e-6)
    assert opcodes(direct) == opcodes(divided) == {"dma": 2, "reciprocal": 1}
    assert engines(direct, "reciprocal") == {Engine.VECTOR}


BINARY = ["add", "subtract", "multiply", "divide", "maximum", "minimum", "mod", "fmod"]


@pytest.mark.parametrize("name", BINARY)
def test_two_tiles_of_one_shape_are_one_tensor_tensor(name: str) -> None:
    traced = run(binary(getattr(nl, name)), LEFT, RIGHT)
    np.testing.assert_allclose(traced.outputs[0], getattr(np, name)(LEFT, RIGHT), rtol=1e-5, atol=1e-6)
    assert opcodes(traced) == {"dma": 3, "tensor_tensor": 1}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("number", [1.5, np.float32(-2.25), 3])
def test_a_tile_and_a_number_are_one_tensor_scalar_on_either_side(name: str, number: Any) -> None:
    function = getattr(nl, name)
    traced = run(binary(function), LEFT, number)
    np.testing.assert_allclose(traced.outputs[0], getattr(np, name)(LEFT, np.float32(number)), rtol=1e-5, atol=1e-6)
    assert opcodes(traced) == {"dma": 2, "tensor_scalar": 1}
    swapped = result(binary(function), number, LEFT)
    np.testing.assert_allclose(swapped, getattr(np, name)(np.float32(number), LEFT), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["less", "less_equal", "greater", "greater_equal", "equal", "not_equal"])
def test_comparisons_give_booleans(name: str) -> None:
    rounded, other = np.rint(LEFT), np.rint(RIGHT)
    found = result(binary(getattr(nl, name)), rounded, other)
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, getattr(np, name)(rounded, other))


@pytest.mark.parametrize("name", ["bitwise_and", "bitwise_or", "bitwise_xor"])
def test_bitwise_functions_see_bits_on_the_vector_engine(name: str) -> None:
    traced = run(binary(getattr(nl, name)), WHOLE, WHOLE[::-1].copy())
    np.testing.assert_array_equal(traced.outputs[0], getattr(np, name)(WHOLE, WHOLE[::-1]))
    assert engines(traced, "tensor_tensor") == {Engine.VECTOR}


def test_shifts_and_inversion_of_integers_agree_with_numpy() -> None:
    np.testing.assert_array_equal(result(binary(nl.left_shift), WHOLE, 3), WHOLE << 3)
    np.testing.assert_array_equal(result(binary(nl.right_shift), WHOLE, 2), WHOLE >> 2)
    np.testing.assert_array_equal(result(unary(nl.invert), WHOLE), ~WHOLE)


@pytest.mark.parametrize(
    ("first", "second", "promoted"),
    [
        (np.float16, np.int32, np.float16),
        (np.float16, ml_dtypes.bfloat16, np.float32),
        (np.int8, np.uint8, np.int16),
        (np.int32, np.uint32, np.float32),
        (np.uint16, np.int32, np.int32),
    ],
)
def test_the_result_has_the_promoted_type(first: Any, second: Any, promoted: Any) -> None:
    ones = np.ones((4, 4))
    assert result(binary(nl.add), ones.astype(first), ones.astype(second)).dtype == np.dtype(promoted)


def test_an_untyped_number_widens_the_result_and_a_typed_one_does_not() -> None:
    half = np.ones((4, 4), np.float16)
    assert result(binary(nl.add), half, 1.5).dtype == np.float32
    assert result(binary(nl.add), half, np.float16(1.5)).dtype == np.float16


def test_one_element_per_partition_is_a_scalar_operand_on_either_side() -> None:
    column = RIGHT[:, :1].copy()
    traced = run(binary(nl.subtract), LEFT, column)
    np.testing.assert_allclose(traced.outputs[0], LEFT - column)
    assert opcodes(traced) == {"dma": 3, "tensor_scalar": 1}
    np.testing.assert_allclose(result(binary(nl.subtract), column, LEFT), column - LEFT)


def test_one_partition_is_spread_by_a_matmul_with_ones_and_a_copy_out_of_psum() -> None:
    row = RNG.standard_normal((1, 700)).astype(np.float32)
    wide = RNG.standard_normal((128, 700)).astype(np.float32)
    traced = run(binary(nl.add), wide, row)
    np.testing.assert_allclose(traced.outputs[0], wide + row, rtol=1e-6)
    # 700 columns are two moving tiles; the row of ones is made once.
    assert opcodes(traced) == {"dma": 3, "memset": 1, "nc_matmul": 2, "tensor_copy": 2, "tensor_tensor": 1}


def test_free_dimensions_broadcast_at_no_cost() -> None:
    left = RNG.standard_normal((16, 4, 8)).astype(np.float32)
    right = RNG.standard_normal((16, 1, 8)).astype(np.float32)
    traced = run(binary(nl.multiply), left, right)
    np.testing.assert_allclose(traced.outputs[0], left * right)
    assert opcodes(traced) == {"dma": 3, "tensor_tensor": 1}


def test_shapes_that_do_not_broadcast_are_an_error_at_the_kernels_line() -> None:
    with pytest.raises(KernelError, match=r"test_nki_language_math\.py:\d+: add: shapes \[128, 96\] and \[128, 4\]"):
        run(binary(nl.add), LEFT, LEFT[:, :4].copy())


@given(
    left=st.sampled_from([(8, 1), (8, 6), (1, 6), (1, 1)]),
    right=st.sampled_from([(8, 1), (8, 6), (1, 6), (1, 1)]),
    name=st.sampled_from(["add", "subtract", "maximum"]),
)
@settings(max_examples=40, deadline=None)
def test_any_two_shapes_that_broadcast_give_what_numpy_gives(
    left: tuple[int, ...], right: tuple[int, ...], name: str
) -> None:
    x = np.arange(math.prod(left), dtype=np.float32).reshape(left)
    y = np.arange(math.prod(right), dtype=np.float32).reshape(right) * 3
    np.testing.assert_array_equal(result(binary(getattr(nl, name)), x, y), getattr(np, name)(x, y))


REDUCTIONS = {"sum": np.sum, "max": np.max, "min": np.min, "mean": np.mean, "prod": np.prod, "var": np.var}


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("axis", [1, [1], (1,), -1])
def test_reductions_over_the_free_axis_leave_one_element_per_partition(name: str, axis: Any) -> None:
    found = result(unary(getattr(nl, name), axis=axis), LEFT[:, :8].copy())
    np.testing.assert_allclose(found, REDUCTIONS[name](LEFT[:, :8], axis=1, keepdims=True), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["sum", "max", "mean"])
@pytest.mark.parametrize(("axis", "keepdims"), [((2, 3), False), ((2, 3), True), ([1, 3], False), ([1, 3], True)])
def test_axes_need_not_be_the_last_ones(name: str, axis: Any, keepdims: bool) -> None:
    x = RNG.standard_normal((8, 3, 4, 5)).astype(np.float32)
    found = result(unary(getattr(nl, name), axis=axis, keepdims=keepdims), x)
    expected = REDUCTIONS[name](x, axis=tuple(axis), keepdims=keepdims)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_reduction_is_one_tensor_reduce_on_vector() -> None:
    traced = run(unary(nl.sum, axis=1), LEFT)
    assert opcodes(traced) == {"dma": 2, "tensor_reduce": 1}
    assert engines(traced, "tensor_reduce") == {Engine.VECTOR}


def test_all_says_whether_no_element_is_zero() -> None:
    x = np.ones((4, 5), np.float32)
    x[2, 3] = 0
    np.testing.assert_array_equal(result(unary(nl.all, axis=1), x), [[True], [True], [False], [True]])


def test_partitions_cannot_be_reduced() -> None:
    with pytest.raises(KernelError, match="sum: cannot reduce over axis 0, the partitions"):
        run(unary(nl.sum, axis=0), LEFT)


def test_a_mask_limits_a_function_to_its_box() -> None:
    def kernel(x: Any) -> Any:
        out = nl.ndarray((128, 96), dtype=nl.float32, buffer=nl.shared_hbm)
        p, f = nl.arange(128)[:, None], nl.arange(96)[None, :]
        tile = nl.load(x)
        tile[p, f] = nl.square(tile, mask=(p < 64) & (f < 32))
        nl.store(out, tile)
        return out

    traced = run(kernel, LEFT)
    expected = LEFT.copy()
    expected[:64, :32] **= 2
    np.testing.assert_allclose(traced.outputs[0], expected, rtol=1e-6)
    assert opcodes(traced) == {"dma": 2, "activation": 1}


def test_a_function_of_an_hbm_tensor_is_an_error() -> None:
    def kernel(x: Any) -> Any:
        return nl.exp(x)

    with pytest.raises(KernelError, match="is in HBM; load it"):
        run(kernel, LEFT)


@pytest.mark.parametrize("divisor", [3, -3, 7])
@pytest.mark.parametrize(("operator", "expected"), [("//", np.floor_divide), ("%", np.mod)])
def test_whole_numbers_divide_and_leave_a_rest_as_in_numpy(
    operator: str, expected: Callable[..., Any], divisor: int
) -> None:
    dividends = np.arange(-64, 64, dtype=np.int32).reshape(128, 1) * np.ones((1, 4), np.int32)
    dividends[0, :2] = 23, -23

    divide = binary(lambda x, y: x // y if operator == "//" else x % y)
    by_number = result(divide, dividends, divisor)
    by_tile = result(divide, dividends, np.full_like(dividends, divisor))

    assert np.array_equal(by_number, expected(dividends, divisor))
    assert np.array_equal(by_tile, expected(dividends, divisor))
    assert by_number.dtype == np.int32


def test_a_number_is_divided_by_a_tile_and_rounded_down() -> None:
    kernel = unary(lambda tile: 23 // tile)

    assert np.array_equal(result(kernel, WHOLE), 23 // WHOLE)
