"""Instructions on tiles of any shape and type: results are finite in number, of the right shape and type, or refused."""

import math
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.simulate.neuroncore.program import Space
from npuscope.simulate.nki import classic_isa as nisa
from npuscope.simulate.nki.activations import ACTIVATIONS
from npuscope.simulate.nki.numerics import cast_to, operators, promote
from npuscope.simulate.nki.tensors import Tensor, new_tile
from npuscope.simulate.nki.trace import KernelError, Trace, tracing

DTYPES = [
    np.dtype(one)
    for one in (
        "float32",
        "float16",
        ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3,
        ml_dtypes.float8_e5m2,
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
    )
]
TYPES = st.sampled_from(DTYPES)
SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 9)) | st.tuples(*[st.integers(1, 4)] * 3)
VALUES = st.floats(width=32) | st.integers(-300, 300).map(float)


@st.composite
def tiles(draw: Any, shape: tuple[int, ...] | None = None) -> Tensor:
    """A tile of any type; to be drawn inside a trace."""
    sizes = draw(SHAPES) if shape is None else shape
    numbers = draw(st.lists(VALUES, min_size=math.prod(sizes), max_size=math.prod(sizes)))
    made = new_tile(sizes, draw(TYPES), draw(st.sampled_from([Space.SBUF, Space.PSUM])))
    made.assign(cast_to(np.array(numbers, np.float32).reshape(sizes), made.dtype))
    return made


@settings(max_examples=60, deadline=None)
@given(data=st.data(), op=st.sampled_from(operators()))
def test_tensor_tensor_has_the_promoted_type_or_is_refused(data: st.DataObject, op: Any) -> None:
    with tracing(Trace()) as trace:
        first = data.draw(tiles())
        second = data.draw(tiles(first.shape))
        try:
            result = nisa.tensor_tensor(first, second, op.name)
        except KernelError:
            assert len(trace.builder) == 0
            return
        assert result.dtype == promote(first.dtype, second.dtype)
        assert result.value().shape == first.shape
        assert len(trace.builder) == 1


@settings(max_examples=60, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(ACTIVATIONS)), dtype=st.none() | TYPES)
def test_any_activation_of_any_tile_is_recorded_once(data: st.DataObject, name: str, dtype: Any) -> None:
    with tracing(Trace()) as trace:
        source = data.draw(tiles())
        result = nisa.activation(name, source, scale=2.0, dtype=dtype)
        assert result.dtype == (source.dtype if dtype is None else dtype)
        assert result.value().shape == source.shape
        assert len(trace.builder) == 1


@settings(max_examples=60, deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=20), dtype=TYPES)
def test_a_value_is_written_once_and_then_stays(values: list[float], dtype: Any) -> None:
    written = cast_to(np.array(values, np.float32), dtype)
    assert written.dtype == dtype
    again = cast_to(written.astype(np.float32), dtype)
    exact = dtype.itemsize < 4 or dtype.kind == "f"
    # 32-bit integers beyond 2**24 do not all pass through float32.
    small = np.ones(written.shape, np.bool_) if exact else np.abs(written.astype(np.float64)) <= 2**24
    np.testing.assert_array_equal(written[small].astype(np.float64), again[small].astype(np.float64))


@settings(max_examples=60, deadline=None)
@given(k=st.integers(1, 130), m=st.integers(1, 130), n=st.integers(1, 520), dtype=st.sampled_from(DTYPES))
def test_a_matmul_fits_the_pe_array_or_is_refused(k: int, m: int, n: int, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    with tracing(Trace()) as trace:
        left, right = (new_tile((min(k, 128), size), dtype, Space.SBUF) for size in (m, n))
        fits = m <= 128 and n <= 512 and dtype.kind not in "iu"
        for one in (left, right):
            one.assign(rng.integers(-2, 3, size=one.shape).astype(np.float32).astype(dtype))
        try:
            result = nisa.nc_matmul(left, right)
        except KernelError:
            assert not fits
            return
        assert fits
        expected = left.value().T.astype(np.float64) @ right.value().astype(np.float64)
        np.testing.assert_array_equal(result.value(), expected)
        assert len(trace.builder) == 1


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 40),
    data=st.data(),
    ops=st.sampled_from([("multiply", "add"), ("add", "maximum"), ("subtract", "minimum")]),
)
def test_a_scan_of_small_integers_is_exact(rows: int, columns: int, data: st.DataObject, ops: tuple[str, str]) -> None:
    numbers = st.lists(st.integers(-1, 1), min_size=rows * columns, max_size=rows * columns)
    first, second = (np.array(data.draw(numbers), np.int64).reshape(rows, columns) for _ in range(2))
    functions = {
        "multiply": np.multiply,
        "add": np.add,
        "subtract": np.subtract,
        "maximum": np.maximum,
        "minimum": np.minimum,
    }
    with tracing(Trace()):
        pair = [new_tile((rows, columns), "float32", Space.SBUF) for _ in range(2)]
        for one, values in zip(pair, (first, second), strict=True):
            one.assign(values)
        result = nisa.tensor_tensor_scan(*pair, 1.0, ops[0], ops[1]).value()
    state = np.ones(rows, np.int64)
    for i in range(columns):
        state = functions[ops[1]](functions[ops[0]](first[:, i], state), second[:, i])
        np.testing.assert_array_equal(result[:, i], state)
