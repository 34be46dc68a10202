"""Every instruction of `neuronxcc.nki.isa`: its result against NumPy, what it records, and what it refuses."""

import inspect
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from npuscope.simulate.neuroncore.program import Engine, Program, Space, Transfer, Work
from npuscope.simulate.nki import classic_isa as nisa
from npuscope.simulate.nki.index import arange, mgrid
from npuscope.simulate.nki.tensors import Tensor, hbm_tensor, new_tile
from npuscope.simulate.nki.trace import KernelError, Trace, tracing

RNG = np.random.default_rng(7)
BF16 = ml_dtypes.bfloat16
FP32 = np.dtype(np.float32)


class Device:
    """Stands in for a simulated device: only its generation matters here."""

    def __init__(self, nc_version: int) -> None:
        self.nc_version = nc_version


@pytest.fixture
def trace() -> Iterator[Trace]:
    with tracing(Trace(device=Device(2))) as running:
        yield running


@pytest.fixture
def trn2() -> Iterator[Trace]:
    with tracing(Trace(device=Device(3))) as running:
        yield running


def tile(values: Any, dtype: Any = None, space: Space = Space.SBUF) -> Tensor:
    array = np.asarray(values, dtype=dtype)
    made = new_tile(array.shape, array.dtype, space)
    made.assign(array)
    return made


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RNG.normal(size=shape).astype(dtype)


def last(trace: Trace) -> tuple[Any, set[Engine]]:
    """What was recorded last, and the engines that may run it."""
    program: Program = trace.builder.build()
    mask = int(program.engines[-1])
    return program.signatures[program.signature[-1]], {one for one in Engine if mask >> one & 1}


def touched(trace: Trace) -> tuple[set[int], set[int]]:
    """Tiles that the last instruction reads, and those it writes."""
    program = trace.builder.build()
    rows = program.access[program.access_start[-2] :]
    return {int(r[0]) for r in rows if not r[5]}, {int(r[0]) for r in rows if r[5]}


def refused(message: str) -> Any:
    return pytest.raises(KernelError, match=message)


def test_nc_matmul_is_transposed_stationary_times_moving_in_psum(trace: Trace) -> None:
    a, b = normal(128, 64, dtype=BF16), normal(128, 512, dtype=BF16)
    result = nisa.nc_matmul(tile(a), tile(b))
    assert (result.shape, result.dtype, result.space) == ((64, 512), FP32, Space.PSUM)
    np.testing.assert_allclose(result.value(), a.T.astype(np.float64) @ b.astype(np.float64), atol=1e-4)
    work, engines = last(trace)
    expected = Work(
        "nc_matmul",
        512,
        128,
        "bfloat16",
        "float32",
        (Space.SBUF,) * 2,
        Space.PSUM,
        columns=64,
        flops=2 * 128 * 64 * 512,
    )
    assert work == expected
    assert engines == {Engine.TENSOR}


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        ((128, 128), (128, 513), r"nc_matmul: moving tile has 513 columns, at most 512"),
        ((128, 129), (128, 4), r"nc_matmul: stationary tile has 129 columns, at most 128"),
        ((64, 8), (128, 8), r"nc_matmul: stationary tile has 64 partitions, moving tile 128; they must be equal"),
    ],
)
def test_nc_matmul_refuses_what_the_pe_array_cannot_hold(
    trace: Trace, left: tuple[int, ...], right: tuple[int, ...], message: str
) -> None:
    with refused(message) as caught:
        nisa.nc_matmul(tile(np.zeros(left, BF16)), tile(np.zeros(right, BF16)))
    assert str(caught.value).startswith("test_nki_classic_isa.py:")
    assert len(trace.builder) == 0


def test_nc_matmul_refuses_psum_integers_and_half_a_pe_tile(trace: Trace) -> None:
    good = tile(np.zeros((64, 64), BF16))
    with refused("moving is in PSUM, expected SBUF"):
        nisa.nc_matmul(good, tile(np.zeros((64, 64), np.float32), space=Space.PSUM))
    with refused("stationary is int32, expected a float"):
        nisa.nc_matmul(tile(np.zeros((64, 64), np.int32)), good)
    with refused("tile_position and tile_size must both be given"):
        nisa.nc_matmul(good, good, tile_position=(0, 0))
    with refused("must be multiples of 32"):
        nisa.nc_matmul(good, good, tile_position=(0, 16), tile_size=(64, 64))
    with refused(r"stationary tile \[64, 64\] is larger than tile_size \[32, 64\]"):
        nisa.nc_matmul(good, good, tile_position=(0, 0), tile_size=(32, 64))
    small = tile(np.zeros((32, 32), BF16))
    with refused(r"tile_size \(32, 32\) is not supported on NeuronCore-v2"):
        nisa.nc_matmul(small, small, tile_position=(0, 0), tile_size=(32, 32))
    nisa.nc_matmul(good, good, tile_position=(64, 0), tile_size=(64, 64), is_stationary_onezero=True, name="x")
    assert len(trace.builder) == 1


@pytest.mark.parametrize(("version", "dtype"), [(2, "float32"), (3, "bfloat16")])
def test_transpose_mode_of_a_matmul_keeps_the_type_from_v3_on(version: int, dtype: str) -> None:
    with tracing(Trace(device=Device(version))) as trace:
        a = normal(32, 64, dtype=BF16)
        result = nisa.nc_matmul(tile(a), tile(np.eye(32, dtype=BF16)), is_transpose=True)
        assert result.dtype.name == dtype
        np.testing.assert_array_equal(result.value().astype(BF16), a.T)
        assert last(trace)[0].is_transpose


def test_double_row_contracts_two_rows_per_partition_from_v3_on(trn2: Trace) -> None:
    a = RNG.integers(-2, 3, size=(16, 2, 8)).astype(ml_dtypes.float8_e5m2)
    b = RNG.integers(-2, 3, size=(16, 2, 512)).astype(ml_dtypes.float8_e5m2)
    result = nisa.nc_matmul(tile(a), tile(b), perf_mode="double_row_gen3")
    expected = a.astype(np.float32).reshape(32, 8).T @ b.astype(np.float32).reshape(32, 512)
    np.testing.assert_array_equal(result.value(), expected)
    work = last(trn2)[0]
    assert (work.elements, work.columns, work.flops) == (512, 8, 2 * 32 * 8 * 512)
    with refused(r"perf_mode double_row needs \[K, 2, ...\]"):
        nisa.nc_matmul(tile(a[:, 0]), tile(b), perf_mode="double_row_gen3")


def test_tfloat32_matmul_is_not_taken_for_float32(trace: Trace) -> None:
    for dtype in ("float32", "tfloat32"):
        one = new_tile((8, 8), dtype, Space.SBUF)
        nisa.nc_matmul(one, one)
        assert last(trace)[0].dtype == dtype


def test_nc_transpose_goes_to_the_engine_that_can(trace: Trace) -> None:
    small, large = normal(32, 2), normal(128, 64)
    result = nisa.nc_transpose(tile(small))
    np.testing.assert_array_equal(result.value(), small.T)
    assert result.space == Space.SBUF
    assert last(trace)[1] == {Engine.VECTOR}
    result = nisa.nc_transpose(tile(large))
    np.testing.assert_array_equal(result.value(), large.T)
    assert result.space == Space.PSUM
    work, engines = last(trace)
    assert (work.elements, work.partitions, engines) == (64, 128, {Engine.TENSOR})
    assert nisa.nc_transpose(tile(small), engine=nisa.tensor_engine).space == Space.PSUM
    with refused(r"tile of shape \[128, 64\], at most \[32, 32\] on the Vector engine"):
        nisa.nc_transpose(tile(large), engine=nisa.vector_engine)
    with refused("the Tensor engine reads SBUF only"):
        nisa.nc_transpose(tile(large, space=Space.PSUM))
    with refused(r"at most \[128, 128\] on the Tensor engine"):
        nisa.nc_transpose(tile(normal(128, 129)))


def test_nc_transpose_collapses_free_axes_and_casts(trace: Trace) -> None:
    values = normal(16, 2, 3)
    result = nisa.nc_transpose(tile(values), dtype=BF16)
    np.testing.assert_array_equal(result.value(), values.reshape(16, 6).T.astype(BF16))


def test_tensor_tensor_promotes_types_and_rounds_once(trace: Trace) -> None:
    a, b = normal(16, 8, dtype=BF16), normal(16, 8, dtype=np.float16)
    result = nisa.tensor_tensor(tile(a), tile(b), np.subtract)
    assert result.dtype == FP32
    np.testing.assert_array_equal(result.value(), a.astype(np.float32) - b.astype(np.float32))
    narrow = nisa.tensor_tensor(tile(a), tile(b), op=np.multiply, dtype=BF16)
    np.testing.assert_array_equal(narrow.value(), (a.astype(np.float32) * b.astype(np.float32)).astype(BF16))
    work, engines = last(trace)
    assert (work.function, work.sources, work.elements, work.dtype) == ("multiply", (Space.SBUF,) * 2, 8, "bfloat16")
    assert engines == {Engine.VECTOR, Engine.GPSIMD}


def test_engines_of_tensor_tensor_follow_operator_type_and_memory(trace: Trace) -> None:
    floats, ints = tile(normal(4, 4)), tile(np.ones((4, 4), np.int32))
    nisa.tensor_tensor(floats, floats, np.maximum)
    assert last(trace)[1] == {Engine.VECTOR}
    nisa.tensor_tensor(floats, floats, np.power)
    assert last(trace)[1] == {Engine.GPSIMD}
    nisa.tensor_tensor(ints, ints, np.add)
    assert last(trace)[1] == {Engine.GPSIMD}
    nisa.tensor_tensor(ints, ints, np.bitwise_and)
    assert last(trace)[1] == {Engine.VECTOR}
    psum = tile(normal(4, 4), space=Space.PSUM)
    nisa.tensor_tensor(floats, psum, np.add)
    assert last(trace)[1] == {Engine.VECTOR}
    nisa.tensor_tensor(floats, floats, np.maximum, engine=nisa.gpsimd_engine)
    assert last(trace)[1] == {Engine.GPSIMD}
    with refused("both inputs are in PSUM, at most one may be"):
        nisa.tensor_tensor(psum, psum, np.add)
    with refused("engine gpsimd cannot access PSUM"):
        nisa.tensor_tensor(floats, psum, np.add, engine=nisa.gpsimd_engine)
    with refused("engine scalar cannot run it; Vector or Gpsimd can"):
        nisa.tensor_tensor(floats, floats, np.add, engine=nisa.scalar_engine)
    with refused("bitwise_or needs integers, not float32"):
        nisa.tensor_tensor(floats, floats, np.bitwise_or)
    with refused(r"data1 has shape \[4, 4\], data2 \[4, 2\]"):
        nisa.tensor_tensor(floats, tile(normal(4, 2)), np.add)


def test_operand_in_hbm_is_refused_by_name(trace: Trace) -> None:
    with refused("activation: data is in HBM; load it into SBUF first"):
        nisa.activation(np.exp, hbm_tensor(normal(4, 4), name="x"))
    with refused("tensor_copy: src must be a tile, not ndarray"):
        nisa.tensor_copy(normal(4, 4))


def test_tensor_scalar_chains_two_operators_with_scalars_or_vectors(trace: Trace) -> None:
    e, f = normal(64, 100), normal(64, 1)
    result = nisa.tensor_scalar(tile(e), op0=np.multiply, operand0=tile(f), op1=np.add, operand1=2.5)
    np.testing.assert_array_equal(result.value(), e * f + np.float32(2.5))
    assert last(trace)[0].function == "multiply+add"
    reverse = nisa.tensor_scalar(tile(e), np.subtract, 1.0, True, np.subtract, tile(f), True)
    np.testing.assert_array_equal(reverse.value(), f - (1 - e))
    assert nisa.tensor_scalar(tile(e), np.less, 0.0, dtype=np.uint8).value().sum() == (e < 0).sum()


def test_tensor_scalar_reads_its_vectors(trace: Trace) -> None:
    data, vector = tile(normal(8, 8)), tile(normal(8, 1))
    nisa.tensor_scalar(data, np.add, vector)
    reads, writes = touched(trace)
    assert reads == {data.boxes()[0].tile, vector.boxes()[0].tile}
    assert not reads & writes
    assert last(trace)[0].sources == (Space.SBUF,)


def test_tensor_scalar_engines_by_generation(trn2: Trace) -> None:
    data = tile(normal(8, 8))
    nisa.tensor_scalar(data, np.multiply, 2.0, op1=np.add, operand1=1.0)
    assert last(trn2)[1] == {Engine.VECTOR, Engine.SCALAR}
    nisa.tensor_scalar(data, np.subtract, 2.0)
    assert last(trn2)[1] == {Engine.VECTOR}
    nisa.tensor_scalar(data, np.add, 1e-6, op1="rsqrt", operand1=0.0)
    assert last(trn2)[1] == {Engine.GPSIMD}
    with tracing(Trace(device=Device(2))) as trn1:
        nisa.tensor_scalar(tile(normal(8, 8)), np.multiply, 2.0)
        assert last(trn1)[1] == {Engine.VECTOR}


def test_tensor_scalar_refuses_mixed_operators_and_wrong_vectors(trace: Trace) -> None:
    data, ints = tile(normal(8, 8)), tile(np.ones((8, 8), np.int32))
    with refused("bitwise_and and add are not both bitwise or both arithmetic"):
        nisa.tensor_scalar(ints, np.bitwise_and, 1, op1=np.add, operand1=1)
    with refused(r"operand0 has shape \[8, 2\], expected a scalar or \[8, 1\]"):
        nisa.tensor_scalar(data, np.add, tile(normal(8, 2)))
    with refused("arccosh is not an operator of the ALU"):
        nisa.tensor_scalar(data, np.arccosh, 1.0)


def test_scalar_tensor_tensor_uses_a_scalar_and_then_a_tile(trace: Trace) -> None:
    a, b, v = normal(16, 10), normal(16, 10), normal(16, 1)
    result = nisa.scalar_tensor_tensor(
        data=tile(a), op0=np.subtract, operand0=tile(v), op1=np.multiply, operand1=tile(b), reverse0=True
    )
    np.testing.assert_array_equal(result.value(), (v - a) * b)
    assert last(trace)[0].function == "subtract+multiply"


def test_tensor_scalar_reduce_gives_both_results(trace: Trace) -> None:
    a = normal(16, 3, 4)
    total = tile(np.zeros((16, 1), np.float32))
    result = nisa.tensor_scalar_reduce(data=tile(a), op0=np.multiply, operand0=2.0, reduce_op=np.add, reduce_res=total)
    np.testing.assert_array_equal(result.value(), a * 2)
    np.testing.assert_allclose(total.value()[:, 0], 2 * a.sum((1, 2)), rtol=1e-5, atol=1e-5)
    assert total.boxes()[0].tile in touched(trace)[1]


@pytest.mark.parametrize("keepdims", [False, True])
def test_tensor_reduce_along_the_last_axes(trace: Trace, *, keepdims: bool) -> None:
    a = normal(16, 3, 5)
    result = nisa.tensor_reduce(np.max, tile(a), axis=[2], keepdims=keepdims)
    np.testing.assert_array_equal(result.value(), a.max(axis=2, keepdims=keepdims))
    negated = nisa.tensor_reduce(np.add, tile(a), axis=(1, 2), negate=True)
    np.testing.assert_allclose(negated.value().reshape(-1), -a.sum((1, 2)), rtol=1e-5, atol=1e-5)
    assert last(trace)[0].function == "add"
    assert last(trace)[0].elements == 15


def test_tensor_reduce_refuses_partitions_gaps_and_operators_that_do_not_reduce(trace: Trace) -> None:
    data = tile(normal(4, 3, 5))
    with refused("the partition axis 0 cannot be reduced"):
        nisa.tensor_reduce(np.add, data, axis=[0])
    with refused("are not the last consecutive ones"):
        nisa.tensor_reduce(np.add, data, axis=[1])
    with refused("less is not a reduction operator"):
        nisa.tensor_reduce(np.less, data, axis=[2])


def test_tensor_partition_reduce_sums_across_partitions(trace: Trace) -> None:
    a = normal(128, 32, 4)
    result = nisa.tensor_partition_reduce(np.add, tile(a))
    np.testing.assert_allclose(result.value(), a.sum(axis=0, keepdims=True), rtol=1e-4, atol=1e-4)
    assert last(trace)[1] == {Engine.GPSIMD}
    with refused("multiply is not one of add, max, bitwise_or and bitwise_and"):
        nisa.tensor_partition_reduce(np.multiply, tile(a))


def test_scan_starts_from_a_scalar_or_a_vector(trace: Trace) -> None:
    a, b, start = normal(8, 12), normal(8, 12), normal(8, 1)
    result = nisa.tensor_tensor_scan(tile(a), tile(b), tile(start), op0=np.multiply, op1=np.add)
    state = start[:, 0].astype(np.float64)
    for i in range(12):
        state = a[:, i] * state + b[:, i]
        np.testing.assert_allclose(result.value()[:, i], state, rtol=1e-4, atol=1e-5)
    zero = nisa.tensor_tensor_scan(tile(a), tile(b), 0, np.multiply, np.add)
    np.testing.assert_array_equal(zero.value()[:, 0], b[:, 0])


def test_bn_stats_of_two_halves_aggregate_to_mean_and_variance(trace: Trace) -> None:
    values = normal(16, 1024)
    stats = new_tile((16, 12), "float32", Space.SBUF)
    data = tile(values)
    for i in range(2):
        stats[:, i * 6 : i * 6 + 6] = nisa.bn_stats(data[:, i * 512 : i * 512 + 512])
    result = nisa.bn_aggr(stats).value()
    np.testing.assert_allclose(result[:, 0], values.mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(result[:, 1], values.var(axis=1), rtol=1e-4)
    assert len(trace.builder) == 3
    with refused("bn_stats: data has 513 elements, at most 512 per partition"):
        nisa.bn_stats(tile(normal(4, 513)))
    with refused("not a multiple of 3"):
        nisa.bn_aggr(tile(normal(4, 4)))


def test_activation_scales_adds_and_casts(trace: Trace) -> None:
    a, bias = normal(16, 9), normal(16, 1)
    result = nisa.activation(op=np.square, data=tile(a), bias=tile(bias), scale=2.0, dtype=BF16)
    np.testing.assert_array_equal(result.value(), np.square(a * 2 + bias).astype(BF16))
    work, engines = last(trace)
    assert (work.opcode, work.function, work.out_dtype, engines) == (
        "activation",
        "square",
        "bfloat16",
        {Engine.SCALAR},
    )
    with refused("arccosh is not an activation function"):
        nisa.activation(np.arccosh, tile(a))
    with refused("scale is bfloat16, expected float32"):
        nisa.activation(np.exp, tile(a), scale=tile(bias.astype(BF16)))
    with refused("bias is int32, expected float32, float16 or bfloat16"):
        nisa.activation(np.exp, tile(a), bias=tile(np.ones((16, 1), np.int32)))


def test_activation_registers_add_up_over_calls_until_they_are_read(trace: Trace) -> None:
    parts = [normal(16, 9) for _ in range(3)]
    total = tile(np.zeros((16, 1), np.float32))
    for i, part in enumerate(parts):
        nisa.activation(
            np.exp,
            tile(part),
            reduce_op=np.add,
            reduce_cmd=nisa.reduce_cmd.reset_reduce if i == 0 else nisa.reduce_cmd.reduce,
            reduce_res=total if i == 2 else None,
        )
        assert last(trace)[0].opcode == ("activation_reduce" if i == 2 else "activation")
    np.testing.assert_allclose(total.value()[:, 0], sum(np.exp(p).sum(1) for p in parts), rtol=1e-5)


def test_activation_reduce_starts_anew_each_time(trace: Trace) -> None:
    a, total = normal(16, 9), tile(np.zeros((16, 1), np.float32))
    for _ in range(2):
        result = nisa.activation_reduce(np.exp, tile(a), reduce_op=np.add, reduce_res=total)
    np.testing.assert_allclose(result.value(), np.exp(a), rtol=1e-6)
    np.testing.assert_allclose(total.value()[:, 0], np.exp(a).sum(1), rtol=1e-5)
    with refused("reduce_op maximum is not supported on NeuronCore-v2, only add"):
        nisa.activation_reduce(np.exp, tile(a), reduce_op=np.max, reduce_res=total)


def test_reciprocal_and_tensor_copy(trace: Trace) -> None:
    a = np.abs(normal(16, 9)) + 1
    np.testing.assert_allclose(nisa.reciprocal(tile(a)).value(), 1 / a, rtol=1e-6)
    np.testing.assert_array_equal(nisa.tensor_copy(tile(a), dtype=np.float16).value(), a.astype(np.float16))
    assert last(trace)[1] == {Engine.VECTOR, Engine.SCALAR, Engine.GPSIMD}
    nisa.tensor_copy(tile(a, space=Space.PSUM))
    assert last(trace)[1] == {Engine.VECTOR, Engine.SCALAR}
    nisa.tensor_copy(tile(np.ones((4, 4), np.int32)))
    assert last(trace)[1] == {Engine.VECTOR, Engine.GPSIMD}


def test_fresh_results_are_written_where_they_are_assigned_without_a_copy(trace: Trace) -> None:
    out = new_tile((16, 18), BF16, Space.SBUF)
    a = normal(16, 9)
    out[:, 9:18] = nisa.activation(np.exp, tile(a))
    np.testing.assert_array_equal(out.value()[:, 9:], np.exp(a).astype(BF16))
    assert len(trace.builder) == 1
    assert last(trace)[0].out_dtype == "bfloat16"
    assert touched(trace)[1] == {out.boxes()[0].tile}


def test_a_float_assigned_to_integers_rounds_as_the_engines_do(trace: Trace) -> None:
    out = new_tile((1, 4), np.int8, Space.SBUF)
    out[...] = nisa.tensor_scalar(tile([[1.5, 2.5, -0.6, 400.0]], np.float32), np.add, 0.0)
    assert out.value().tolist() == [[2, 2, -1, 127]]


def test_products_accumulate_in_psum(trace: Trace) -> None:
    a, b = normal(64, 16), normal(64, 32)
    out = new_tile((16, 32), "float32", Space.PSUM, is_zeroed=True)
    for _ in range(3):
        out += nisa.nc_matmul(tile(a), tile(b))
    np.testing.assert_allclose(out.value(), 3 * (a.T @ b), rtol=1e-4, atol=1e-4)
    assert trace.builder.build().flags.tolist() == [0, 1, 1]


def test_memset_and_iota_make_tiles(trace: Trace) -> None:
    zeros = nisa.memset((8, 6), 0, BF16)
    assert zeros.value().tolist() == np.zeros((8, 6)).tolist()
    assert (last(trace)[0].function, last(trace)[1]) == ("zero", {Engine.VECTOR, Engine.GPSIMD})
    assert np.all(nisa.memset(shape=(8, 6), value=-1, dtype=np.float32).value() == -1)
    row, column = arange(512)[None, :], arange(128)[:, None]
    np.testing.assert_array_equal(nisa.iota(row * -1, dtype=np.int32).value(), -np.arange(512)[None])
    np.testing.assert_array_equal(nisa.iota(5 + column * 2, np.int32).value()[:, 0], np.arange(5, 261, 2))
    both = nisa.iota(row + column, dtype=np.float32)
    np.testing.assert_array_equal(both.value(), np.arange(512)[None] + np.arange(128)[:, None])
    assert last(trace)[1] == {Engine.GPSIMD}
    with refused("at most 128"):
        nisa.memset((129, 1), 0, np.float32)


def test_affine_select_masks_the_upper_triangle(trace: Trace) -> None:
    a = normal(32, 32)
    ix, iy = mgrid[0:32, 0:32]
    result = nisa.affine_select(pred=(iy < ix), on_true_tile=tile(a)[ix, iy], on_false_value=nisa.fp32.min)
    expected = np.where(np.tri(32, k=-1, dtype=bool), a, np.finfo(np.float32).min)
    np.testing.assert_array_equal(result.value(), expected)
    assert last(trace)[1] == {Engine.GPSIMD}


def test_range_select_chains_its_maximum(trn2: Trace) -> None:
    a = normal(8, 20)
    low, high = np.full((8, 1), 3, np.float32), np.full((8, 1), 9, np.float32)
    best = tile(np.zeros((8, 1), np.float32))
    bounds = {"bound0": tile(low), "bound1": tile(high), "comp_op0": np.greater_equal, "comp_op1": np.less}
    first = nisa.range_select(on_true_tile=tile(a), **bounds, reduce_cmd=nisa.reduce_cmd.reset_reduce)
    nisa.range_select(on_true_tile=tile(a), **bounds, range_start=2, reduce_cmd=nisa.reduce_cmd.reduce, reduce_res=best)
    np.testing.assert_array_equal(first.value()[:, 3:9], a[:, 3:9])
    assert np.all(first.value()[:, 9:] == np.finfo(np.float32).min)
    np.testing.assert_array_equal(best.value()[:, 0], a[:, 1:9].max(axis=1))
    with refused("only max"):
        nisa.range_select(on_true_tile=tile(a), **bounds, reduce_op=np.add, reduce_res=best)


def test_range_select_needs_trn2(trace: Trace) -> None:
    bound = tile(np.zeros((8, 1), np.float32))
    with refused("range_select needs NeuronCore-v3 or later"):
        nisa.range_select(
            on_true_tile=tile(normal(8, 4)), comp_op0=np.less, comp_op1=np.less, bound0=bound, bound1=bound
        )


@pytest.mark.parametrize("reverse", [False, True])
def test_select_reduce_and_copy_predicated_choose_by_predicate(trace: Trace, *, reverse: bool) -> None:
    a, holds = normal(8, 20), RNG.integers(0, 2, size=(8, 20)).astype(np.uint8)
    dst, best = tile(np.zeros((8, 20), np.float32)), tile(np.zeros((8, 1), np.float32))
    nisa.select_reduce(
        dst=dst,
        predicate=tile(holds),
        on_true=tile(a),
        on_false=-7.0,
        reduce_res=best,
        reduce_cmd=nisa.reduce_cmd.reset_reduce,
        reverse_pred=reverse,
    )
    kept = (holds != 0) != reverse
    expected = np.where(kept, a, np.float32(-7))
    np.testing.assert_array_equal(dst.value(), expected)
    np.testing.assert_array_equal(best.value()[:, 0], expected.max(axis=1))
    nisa.tensor_copy_predicated(src=tile(a + 1), dst=dst, predicate=tile(holds), reverse_pred=reverse)
    np.testing.assert_array_equal(dst.value(), np.where(kept, a + 1, np.float32(-7)))
    nisa.tensor_copy_predicated(src=3.0, dst=dst, predicate=tile(holds), reverse_pred=not reverse)
    assert np.all(dst.value()[~kept] == 3)
    with refused("src is bfloat16, dst is float32"):
        nisa.tensor_copy_predicated(src=tile(a.astype(BF16)), dst=dst, predicate=tile(holds))


def test_local_gather_gives_the_documented_shape(trace: Trace) -> None:
    source = normal(128, 512, 4)
    per_core = RNG.integers(0, 512, size=(16, 4)).astype(np.uint16)
    index = np.tile(per_core, (8, 1))
    result = nisa.local_gather(tile(source), tile(index * np.uint16(4)), 4, 64)
    assert result.shape == (128, 4, 16, 4)
    flat = per_core.flatten(order="F")
    np.testing.assert_array_equal(result.value().reshape(128, 64, 4), source[:, flat])
    with refused("index is int32, expected uint16"):
        nisa.local_gather(tile(source), tile(index.astype(np.int32)), 4)
    with refused("num_elem_per_idx is 3, expected one of 1, 2, 4, 8, 16, 32"):
        nisa.local_gather(tile(source), tile(index), 3)


def test_search_instructions_find_and_replace_the_eight_largest(trace: Trace) -> None:
    a = normal(16, 4, 10)
    flat = a.reshape(16, 40)
    best = nisa.max8(src=tile(a))
    np.testing.assert_array_equal(best.value(), -np.sort(-flat, axis=1)[:, :8])
    places = nisa.nc_find_index8(data=tile(a), vals=best)
    assert places.dtype == np.uint32
    np.testing.assert_array_equal(places.value(), np.argsort(-flat, axis=1)[:, :8])
    index = new_tile((16, 8), np.uint32, Space.SBUF)
    replaced = nisa.nc_match_replace8(data=tile(a), vals=best, imm=float("-inf"), dst_idx=index)
    assert replaced.shape == a.shape
    np.testing.assert_array_equal(np.isneginf(replaced.value()).sum((1, 2)), 8)
    np.testing.assert_array_equal(index.value(), places.value())
    with refused("7 elements per partition, expected 8 to 16384"):
        nisa.max8(src=tile(normal(4, 7)))


def test_stream_shuffle_in_place_and_from_one_partition(trace: Trace) -> None:
    a = normal(32, 5)
    data = tile(a)
    nisa.nc_stream_shuffle(src=data, dst=data, shuffle_mask=[(i - 1) % 32 for i in range(32)])
    np.testing.assert_array_equal(data.value(), np.roll(a, 1, axis=0))
    out = tile(np.zeros((32, 5), np.float32))
    nisa.nc_stream_shuffle(tile(a[:1]), out, [0] * 32)
    np.testing.assert_array_equal(out.value(), np.broadcast_to(a[:1], (32, 5)))
    with refused("shuffle_mask has 4 elements, expected 32"):
        nisa.nc_stream_shuffle(data, out, [0] * 4)


def test_sequence_bounds_has_two_rows_per_sequence(trace: Trace) -> None:
    result = nisa.sequence_bounds(segment_ids=tile([[0, 1, 1, 2]], np.int32))
    assert result.value().tolist() == [[[4, 1, 1, 3], [-1, 3, 3, 4]]]
    assert last(trace)[1] == {Engine.GPSIMD}


def test_dropout_takes_a_chance_per_partition(trace: Trace) -> None:
    a, chance = normal(2, 50), np.array([[0.0], [1.0]], np.float32)
    result = nisa.dropout(tile(a), prob=tile(chance)).value()
    np.testing.assert_array_equal(result, a * [[1], [0]])


def test_dynamic_copies_take_their_offset_from_a_tile(trace: Trace) -> None:
    a, offsets = normal(128, 64), tile([[4, 9]], np.int32)
    ix, _ = mgrid[0:128, 0:1]
    source = tile(a)
    result = nisa.tensor_copy_dynamic_src(source[ix, offsets[0, 1]])
    np.testing.assert_array_equal(result.value()[:, 0], a[:, 9])
    assert last(trace)[0].opcode == "tensor_copy_dynamic_src"
    assert offsets.boxes()[0].tile in touched(trace)[0]


def test_mask_leaves_out_partitions_and_columns(trace: Trace) -> None:
    a = np.abs(normal(16, 8))
    ip, ix = mgrid[0:16, 0:8]
    result = nisa.activation(np.sqrt, tile(a)[ip, ix], mask=(ip < 5) & (ix < 3))
    np.testing.assert_allclose(result.value()[:5, :3], np.sqrt(a)[:5, :3], rtol=1e-6)
    work = last(trace)[0]
    assert (work.partitions, work.elements) == (5, 3)
    total = nisa.tensor_reduce(np.add, tile(a)[ip, ix], axis=[1], mask=(ip < 5) & (ix < 3))
    np.testing.assert_allclose(total.value()[:5, 0], a[:5, :3].sum(1), rtol=1e-6)
    count = len(trace.builder)
    nisa.activation(np.sqrt, tile(a)[ip, ix], mask=ip < 0)
    assert len(trace.builder) == count


def test_masked_matmul_contracts_fewer_rows_and_gives_fewer_columns(trace: Trace) -> None:
    a, b = normal(16, 8), normal(16, 12)
    rows, columns = arange(16)[:, None], arange(12)[None, :]
    result = nisa.nc_matmul(tile(a), tile(b), mask=rows < 10)
    np.testing.assert_allclose(result.value(), a[:10].T @ b[:10], rtol=1e-5, atol=1e-5)
    assert last(trace)[0].partitions == 10
    narrow = nisa.nc_matmul(tile(a), tile(b), mask=columns < 5)
    np.testing.assert_allclose(narrow.value()[:, :5], a.T @ b[:, :5], rtol=1e-5, atol=1e-5)
    assert (last(trace)[0].elements, narrow.shape) == (5, (8, 12))
    out = tile(np.ones((8, 12), np.float32), space=Space.PSUM)
    count = len(trace.builder)
    out += nisa.nc_matmul(tile(a), tile(b), mask=columns < 5)
    np.testing.assert_allclose(out.value()[:, :5], 1 + a.T @ b[:, :5], rtol=1e-5, atol=1e-5)
    assert np.all(out.value()[:, 5:] == 1)
    assert len(trace.builder) == count + 1


def test_masked_result_leaves_the_rest_of_its_destination_as_it_was(trace: Trace) -> None:
    a = np.abs(normal(16, 8))
    out = tile(np.full((16, 8), -1, np.float32))
    ip, ix = mgrid[0:16, 0:8]
    out[ip, ix] = nisa.activation(np.sqrt, tile(a)[ip, ix], mask=ip < 5)
    np.testing.assert_allclose(out.value()[:5], np.sqrt(a[:5]), rtol=1e-6)
    assert np.all(out.value()[5:] == -1)
    assert len(trace.builder) == 1


def test_dma_copy_between_memories_counts_rows_and_bytes(trace: Trace) -> None:
    values = normal(128, 1024, dtype=BF16)
    source, out = hbm_tensor(values, name="x"), new_tile((128, 512), "float32", Space.SBUF)
    nisa.dma_copy(dst=out, src=source[:, 0:512])
    np.testing.assert_array_equal(out.value(), values[:, :512].astype(np.float32))
    work, engines = last(trace)
    assert engines == {Engine.DMA}
    assert work == Transfer(128, 1024, 128 * 1024, 128 * 2048, Space.HBM, Space.SBUF)
    back = hbm_tensor((128, 512), "float32", "y")
    nisa.dma_copy(dst=back, src=out, dst_rmw_op=np.add)
    nisa.dma_copy(dst=back, src=out, dst_rmw_op=np.add)
    np.testing.assert_array_equal(back.value(), 2 * out.value())
    assert last(trace)[0].read_bytes == 2 * 128 * 2048
    with refused("hardware DGE needs NeuronCore-v3"):
        nisa.dma_copy(dst=out, src=source[:, 0:512], dge_mode=nisa.dge_mode.hwdge)
    with refused(r"dst has shape \[128, 512\], src \[128, 1024\]"):
        nisa.dma_copy(dst=out, src=source)


def test_indirect_dma_gathers_scatters_and_skips_what_is_outside(trace: Trace) -> None:
    values = normal(12, 5)
    table = hbm_tensor(values, name="table")
    rows = tile(np.arange(0, 18, 3)[:, None], np.int32)
    _, iy = mgrid[0:6, 0:5]
    out = tile(np.full((6, 5), -1, np.float32))
    nisa.dma_copy(dst=out, src=table[rows, iy], oob_mode=nisa.oob_mode.skip)
    np.testing.assert_array_equal(out.value()[:4], values[[0, 3, 6, 9]])
    assert np.all(out.value()[4:] == -1)
    assert last(trace)[0].is_indirect
    target = hbm_tensor(np.full((12, 5), 2, np.float32), name="target")
    nisa.dma_copy(dst=target[rows, iy], src=tile(values[:6]), oob_mode=nisa.oob_mode.skip)
    np.testing.assert_array_equal(target.value()[[0, 3, 6, 9]], values[:4])
    assert np.all(target.value()[[1, 2, 4, 5, 7, 8, 10, 11]] == 2)
    with refused("out of range|out of bounds"):
        nisa.dma_copy(dst=out, src=table[rows, iy])


@pytest.mark.parametrize("shape", [(100, 48), (4, 6, 8), (2, 3, 4, 5)])
def test_dma_transpose_follows_the_documented_permutation(trace: Trace, shape: tuple[int, ...]) -> None:
    values = normal(*shape)
    order = {2: (1, 0), 3: (2, 1, 0), 4: (3, 1, 2, 0)}[len(shape)]
    result = nisa.dma_transpose(hbm_tensor(values, name="x"), axes=order)
    np.testing.assert_array_equal(result.value(), values.transpose(order))
    assert last(trace)[0].is_transpose
    with refused("are not supported"):
        nisa.dma_transpose(hbm_tensor(values, name="x"), axes=tuple(range(len(shape))))


def test_generation_of_the_device_is_told(trace: Trace) -> None:
    assert nisa.get_nc_version() == nisa.nc_version.gen2
    with tracing(Trace(device=Device(3))):
        assert nisa.get_nc_version() == nisa.nc_version.gen3


def test_nothing_is_computed_where_only_time_is_asked_for() -> None:
    with tracing(Trace(compute=False, device=Device(2))) as trace:
        a = new_tile((128, 128), BF16, Space.SBUF)
        nisa.nc_matmul(a, a)
        nisa.activation(np.exp, a)
        assert a.storage.data is None
        assert len(trace.builder) == 2


DOCUMENTED = {
    "activation": "op, data, *, bias, scale, reduce_op, reduce_res, reduce_cmd, mask, dtype, **kwargs",
    "dma_copy": "*, dst, src, mask, dst_rmw_op, oob_mode, dge_mode, **kwargs",
    "local_gather": "src_buffer, index, num_elem_per_idx, num_valid_indices, *, mask",
    "nc_matmul": "stationary, moving, *, is_stationary_onezero, is_moving_onezero, is_transpose, tile_position,"
    " tile_size, mask, **kwargs",
    "tensor_scalar": "data, op0, operand0, reverse0, op1, operand1, reverse1, *, dtype, mask, engine, **kwargs",
    "tensor_tensor_scan": "data0, data1, initial, op0, op1, reverse0, reverse1, *, dtype, mask, **kwargs",
}


@pytest.mark.parametrize("name", sorted(DOCUMENTED))
def test_parameters_stand_in_the_documented_order(name: str) -> None:
    shown: list[str] = []
    for one in inspect.signature(getattr(nisa, name)).parameters.values():
        if one.kind is one.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        shown.append(f"**{one.name}" if one.kind is one.VAR_KEYWORD else one.name)
    assert ", ".join(shown) == DOCUMENTED[name]
