"""Every instruction of the current `nki.isa`: its result against NumPy, what it records, and what it refuses."""

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from npuscope.simulate.neuroncore.devices import load_device
from npuscope.simulate.neuroncore.program import ACCUMULATES, Engine, Program, Space, Work
from npuscope.simulate.nki import current_isa as nisa
from npuscope.simulate.nki import current_language as language
from npuscope.simulate.nki.current_tensor import NkiTensor
from npuscope.simulate.nki.trace import KernelError, Trace, current, tracing

nl: Any = language
RNG = np.random.default_rng(11)


@pytest.fixture
def trn1() -> Iterator[Trace]:
    with tracing(Trace(device=load_device("trn1"))) as running:
        yield running


@pytest.fixture
def trn2() -> Iterator[Trace]:
    with tracing(Trace(device=load_device("trn2"))) as running:
        yield running


@pytest.fixture
def trn3() -> Iterator[Trace]:
    with tracing(Trace(device=load_device("trn3"))) as running:
        yield running


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def tile(values: Any, dtype: Any = None, buffer: Any = nl.sbuf) -> NkiTensor:
    """A tile that holds `values`."""
    array = np.asarray(values)
    found = nl.ndarray(array.shape, array.dtype if dtype is None else dtype, buffer)
    found.assign(array.astype(found.dtype))
    return found


def empty(*shape: int, dtype: Any = nl.float32, buffer: Any = nl.sbuf) -> NkiTensor:
    return nl.ndarray(shape, dtype, buffer)


def program() -> Program:
    return current().builder.build()


def last_work() -> Work:
    found = program()
    work = found.signatures[found.signature[-1]]
    assert isinstance(work, Work)
    return work


@pytest.mark.usefixtures("trn1")
def test_an_instruction_writes_its_destination_and_nothing_else_is_recorded() -> None:
    a, b, dst = tile(normal(128, 64)), tile(normal(128, 64)), empty(128, 64)
    nisa.tensor_tensor(dst=dst, data1=a, data2=b, op=nl.subtract)
    assert np.array_equal(dst.value(), a.value() - b.value())
    assert len(program()) == 1
    assert last_work().opcode == "tensor_tensor"


@pytest.mark.usefixtures("trn1")
def test_an_instruction_may_write_what_it_reads() -> None:
    a, b = tile(normal(16, 8)), tile(normal(16, 8))
    expected = a.value() + b.value()
    nisa.tensor_tensor(a, a, b, nl.add)
    assert np.array_equal(a.value(), expected)


@pytest.mark.usefixtures("trn1")
def test_the_result_is_rounded_once_to_the_type_of_the_destination() -> None:
    values = normal(8, 32)
    dst = empty(8, 32, dtype=nl.bfloat16)
    nisa.tensor_scalar(dst, tile(values), nl.multiply, 3.0, op1=nl.add, operand1=1.0)
    assert np.array_equal(dst.value(), (values * np.float32(3) + np.float32(1)).astype(ml_dtypes.bfloat16))
    assert last_work().out_dtype == "bfloat16"


@pytest.mark.usefixtures("trn1")
def test_a_destination_of_another_size_is_refused() -> None:
    with pytest.raises(KernelError, match=r"tensor_copy: dst has shape \[16, 4\], the result \[16, 8\]"):
        nisa.tensor_copy(empty(16, 4), tile(normal(16, 8)))


@pytest.mark.usefixtures("trn1")
def test_a_destination_may_be_a_strided_part_of_a_tile() -> None:
    values, dst = normal(4, 3), empty(4, 6)
    nisa.memset(dst, 0.0)
    nisa.tensor_copy(dst[:, 1:6:2], tile(values))
    assert np.array_equal(dst.value()[:, 1::2], values)
    assert not dst.value()[:, ::2].any()


@pytest.mark.usefixtures("trn1")
def test_simple_instructions_compute_what_numpy_does() -> None:
    values = normal(32, 16)
    data = tile(values)
    column = tile(np.abs(normal(32, 1)) + 1)
    cases: dict[str, tuple[NkiTensor, np.ndarray[Any, Any]]] = {}

    def check(name: str, expected: Any, *shape: int) -> NkiTensor:
        dst = empty(*shape)
        cases[name] = (dst, np.asarray(expected, np.float32))
        return dst

    nisa.tensor_copy(check("copy", values, 32, 16), data)
    nisa.reciprocal(check("reciprocal", 1 / values, 32, 16), data)
    nisa.tensor_reduce(check("reduce", values.sum(1, keepdims=True), 32, 1), nl.add, data, axis=1)
    nisa.tensor_partition_reduce(check("across", values.sum(0, keepdims=True), 1, 16), nl.add, data)
    nisa.tensor_scalar(check("column", values * column.value(), 32, 16), data, nl.multiply, column)
    nisa.scalar_tensor_tensor(check("fused", values * 2 + values, 32, 16), data, nl.multiply, 2.0, nl.add, data)
    nisa.activation(
        check("activation", np.exp(values * column.value() + 1), 32, 16),
        nl.exp,
        data,
        tile(np.ones((32, 1), np.float32)),
        column,
    )
    nisa.tensor_tensor_scan(
        check("scan", np.cumsum(values, axis=1), 32, 16),
        tile(np.ones((32, 16), np.float32)),
        data,
        0.0,
        nl.multiply,
        nl.add,
    )
    statistics = empty(32, 6)
    nisa.bn_stats(statistics, data)
    moments = np.stack([values.mean(1), values.var(1)], 1)
    nisa.bn_aggr(check("moments", moments, 32, 2), statistics)
    nisa.max8(check("max8", -np.sort(-values, axis=1)[:, :8], 32, 8), data)
    for name, (dst, expected) in cases.items():
        np.testing.assert_allclose(dst.value(), expected, rtol=2e-5, atol=2e-5, err_msg=name)


@pytest.mark.usefixtures("trn1")
def test_the_first_matmul_of_a_location_writes_and_later_ones_add() -> None:
    left, right = [normal(128, 32) for _ in range(3)], [normal(128, 64) for _ in range(3)]
    dst = empty(32, 64, buffer=nl.psum)
    for a, b in zip(left, right, strict=True):
        nisa.nc_matmul(dst, tile(a), tile(b))
    np.testing.assert_allclose(
        dst.value(), sum(a.T @ b for a, b in zip(left, right, strict=True)), rtol=1e-4, atol=1e-4
    )
    assert [bool(flag & ACCUMULATES) for flag in program().flags] == [False, True, True]


@pytest.mark.usefixtures("trn1")
def test_accumulate_says_whether_a_matmul_adds() -> None:
    a, b = normal(64, 16), normal(64, 8)
    dst = empty(16, 8, buffer=nl.psum)
    nisa.nc_matmul(dst, tile(a), tile(b), accumulate=False)
    nisa.nc_matmul(dst, tile(a), tile(b), accumulate=False)
    np.testing.assert_allclose(dst.value(), a.T @ b, rtol=1e-5, atol=1e-5)
    nisa.nc_matmul(dst, tile(a), tile(b), accumulate=True)
    np.testing.assert_allclose(dst.value(), 2 * (a.T @ b), rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("trn1")
def test_a_part_of_a_written_location_is_written_too() -> None:
    a, b = normal(64, 16), normal(64, 8)
    dst = empty(16, 8, buffer=nl.psum)
    nisa.nc_matmul(dst, tile(a), tile(b))
    nisa.nc_matmul(dst[:, 0:4], tile(a), tile(b[:, 0:4].copy()))
    np.testing.assert_allclose(dst.value()[:, :4], 2 * (a.T @ b)[:, :4], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("trn1")
def test_adding_where_no_matmul_wrote_is_refused() -> None:
    with pytest.raises(KernelError, match="no matmul wrote this part of PSUM before"):
        nisa.nc_matmul(empty(16, 8, buffer=nl.psum), tile(normal(64, 16)), tile(normal(64, 8)), accumulate=True)


@pytest.mark.usefixtures("trn1")
@pytest.mark.parametrize(
    ("shape", "match"),
    [((128, 513), "moving tile has 513 columns, at most 512"), ((64, 512), "they must be equal")],
)
def test_matmul_operands_beyond_the_array_are_refused(shape: tuple[int, int], match: str) -> None:
    with pytest.raises(KernelError, match=match):
        nisa.nc_matmul(empty(128, shape[1], buffer=nl.psum), tile(normal(128, 128)), tile(normal(*shape)))


@pytest.mark.usefixtures("trn1")
def test_a_product_goes_to_psum_alone() -> None:
    with pytest.raises(KernelError, match="dst must be a tile in PSUM"):
        nisa.nc_matmul(empty(16, 8), tile(normal(64, 16)), tile(normal(64, 8)))


@pytest.mark.usefixtures("trn2")
def test_double_row_contracts_two_rows_per_partition_in_the_time_of_one() -> None:
    a = normal(128, 2, 16).astype(ml_dtypes.float8_e5m2)
    b = normal(128, 2, 64).astype(ml_dtypes.float8_e5m2)
    dst = empty(16, 64, buffer=nl.psum)
    nisa.nc_matmul(dst, tile(a), tile(b), perf_mode=nisa.matmul_perf_mode.double_row)
    expected = np.einsum("kim,kin->mn", a.astype(np.float32), b.astype(np.float32))
    np.testing.assert_allclose(dst.value(), expected, rtol=1e-4, atol=1e-3)
    assert (last_work().elements, last_work().flops) == (64, 2 * 256 * 16 * 64)


@pytest.mark.usefixtures("trn1")
def test_double_row_is_refused_on_v2() -> None:
    operand = tile(normal(128, 2, 16).astype(ml_dtypes.float8_e5m2))
    with pytest.raises(KernelError, match="needs NeuronCore-v3"):
        nisa.nc_matmul(empty(16, 16, buffer=nl.psum), operand, operand, perf_mode=nisa.matmul_perf_mode.double_row)


@pytest.mark.usefixtures("trn3")
def test_a_wide_moving_tile_is_allowed_from_v4_on() -> None:
    a, b = normal(128, 16), normal(128, 1024)
    dst = empty(16, 1024, buffer=nl.psum)
    nisa.nc_matmul(dst, tile(a), tile(b))
    np.testing.assert_allclose(dst.value(), a.T @ b, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("trn1")
def test_transposes_swap_partitions_and_elements() -> None:
    large, small = normal(128, 64), normal(32, 16)
    on_tensor, on_vector = empty(64, 128, buffer=nl.psum), empty(16, 32)
    nisa.nc_transpose(on_tensor, tile(large))
    nisa.nc_transpose(on_vector, tile(small), engine=nisa.engine.vector)
    assert np.array_equal(on_tensor.value(), large.T)
    assert np.array_equal(on_vector.value(), small.T)
    with pytest.raises(KernelError, match="the Tensor engine writes PSUM only"):
        nisa.nc_transpose(empty(64, 128), tile(large))


@pytest.mark.usefixtures("trn3")
def test_a_quantized_product_comes_close_to_the_exact_one() -> None:
    a, b = (RNG.uniform(-1, 1, (128, 4 * n)).astype(ml_dtypes.bfloat16) for n in (32, 64))
    packed = []
    for values in (a, b):
        data = empty(128, values.shape[1] // 4, dtype=nl.float8_e4m3fn_x4)
        scale = empty(128, values.shape[1] // 4, dtype=nl.uint8)
        nisa.quantize_mx(data, tile(values), scale)
        packed.append((data, scale))
    dst = empty(32, 64, buffer=nl.psum)
    nisa.nc_matmul_mx(dst, packed[0][0], packed[1][0], packed[0][1], packed[1][1])
    left, right = (values.astype(np.float32).reshape(128, -1, 4) for values in (a, b))
    exact = np.einsum("kmq,knq->mn", left, right)
    assert np.abs(dst.value() - exact).max() < 0.05 * np.abs(exact).max()
    assert last_work().flops == 2 * 512 * 32 * 64


@pytest.mark.usefixtures("trn3")
def test_an_all_zero_group_has_the_smallest_scale() -> None:
    scale = empty(4, 1, dtype=nl.uint8)
    nisa.quantize_mx(empty(32, 1, dtype=nl.float8_e5m2_x4), tile(np.zeros((32, 4)), nl.bfloat16), scale)
    assert scale.value().tolist() == [[0]] * 4


@pytest.mark.usefixtures("trn2")
@pytest.mark.parametrize("name", ["exponential", "activate2", "quantize_mx", "nc_matmul_mx", "rand2"])
def test_instructions_of_v4_are_refused_on_v3(name: str) -> None:
    arguments = {"exponential": 2, "activate2": 7, "quantize_mx": 3, "nc_matmul_mx": 5, "rand2": 3}[name]
    operand = tile(normal(32, 8))
    with pytest.raises(KernelError, match=f"{name}: needs NeuronCore-v4"):
        getattr(nisa, name)(*[operand] * arguments)


@pytest.mark.usefixtures("trn3")
def test_exponentials_add_up_in_the_accumulators() -> None:
    first, second = normal(16, 8), normal(16, 8)
    highest = np.maximum(first.max(1), second.max(1))[:, None]
    dst, total = empty(16, 8), empty(16, 1)
    nisa.exponential(dst, tile(first), tile(highest), reduce_cmd=nisa.reduce_cmd.reset_reduce)
    nisa.exponential(dst, tile(second), tile(highest), total, nisa.reduce_cmd.reduce)
    np.testing.assert_allclose(dst.value(), np.exp(second - highest), rtol=1e-5)
    expected = np.exp(np.concatenate([first, second], 1) - highest).sum(1, keepdims=True)
    np.testing.assert_allclose(total.value(), expected, rtol=1e-5)


@pytest.mark.usefixtures("trn3")
def test_activate2_runs_two_operators_before_the_function() -> None:
    values, dst, largest = normal(16, 8), empty(16, 8), empty(16, 1)
    nisa.activate2(
        dst,
        nl.prelu,
        tile(values),
        2.0,
        0.5,
        nl.multiply,
        nl.subtract,
        relu_param=0.25,
        reduce_op=nl.maximum,
        reduce_res=largest,
        reduce_cmd=nisa.reduce_cmd.reset_reduce,
    )
    shifted = values * 2 - 0.5
    expected = np.where(shifted > 0, shifted, shifted * 0.25)
    np.testing.assert_allclose(dst.value(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(largest.value(), expected.max(1, keepdims=True), rtol=1e-5, atol=1e-6)
    with pytest.raises(KernelError, match="add followed by add is not supported"):
        nisa.activate2(dst, nl.exp, tile(values), 1.0, 1.0, nl.add, nl.add)


@pytest.mark.usefixtures("trn1")
def test_a_reduction_starts_from_what_load_reduce_loads() -> None:
    values, dst, total = normal(16, 8), empty(16, 8), empty(16, 1)
    nisa.tensor_scalar_reduce(
        dst,
        tile(values),
        nl.multiply,
        2.0,
        nl.add,
        total,
        reduce_cmd=nisa.reduce_cmd.load_reduce,
        reduce_init=10.0,
        reduce_res_negate=True,
    )
    np.testing.assert_allclose(dst.value(), values * 2, rtol=1e-6)
    np.testing.assert_allclose(total.value(), -(10 + values.sum(1, keepdims=True) * 2), rtol=1e-5)


@pytest.mark.usefixtures("trn1")
def test_a_cumulative_sum_goes_on_in_the_next_instruction() -> None:
    values, dst = normal(8, 12), empty(8, 12)
    data = tile(values)
    nisa.tensor_scalar_cumulative(dst[:, 0:6], data[:, 0:6], nl.multiply, nl.add, 3.0)
    nisa.tensor_scalar_cumulative(
        dst[:, 6:12], data[:, 6:12], nl.multiply, nl.add, 3.0, reduce_cmd=nisa.reduce_cmd.reduce
    )
    np.testing.assert_allclose(dst.value(), np.cumsum(values * 3, axis=1), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("trn1")
def test_patterns_count_partitions_and_loops() -> None:
    dst = empty(4, 2, 3, dtype=nl.int32)
    nisa.iota(dst, [[10, 2], [1, 3]], offset=5, channel_multiplier=100)
    expected = 5 + 100 * np.arange(4)[:, None, None] + 10 * np.arange(2)[:, None] + np.arange(3)
    assert np.array_equal(dst.value(), expected)
    values, causal = normal(8, 8), empty(8, 8)
    nisa.affine_select(causal, [[-1, 8]], 1, tile(values), -9.0, cmp_op=nl.greater_equal)
    assert np.array_equal(causal.value(), np.where(np.tri(8) > 0, values, np.float32(-9)))
    with pytest.raises(KernelError, match="the pattern gives 5 elements, dst has 6"):
        nisa.iota(dst, [[1, 5]])


@pytest.mark.usefixtures("trn2")
def test_selection_by_range_and_predicate() -> None:
    values, dst, highest = normal(8, 16), empty(8, 16), empty(8, 1)
    low, high = tile(np.full((8, 1), 3, np.float32)), tile(np.full((8, 1), 9, np.float32))
    nisa.range_select(dst, tile(values), nl.greater_equal, nl.less, low, high, reduce_res=highest)
    kept = np.where((np.arange(16) >= 3) & (np.arange(16) < 9), values, np.finfo(np.float32).min)
    assert np.array_equal(dst.value(), kept)
    assert np.array_equal(highest.value(), kept.max(1, keepdims=True))
    holds = (RNG.random((8, 16)) < 0.5).astype(np.uint8)
    nisa.select_reduce(dst, tile(holds), tile(values), 7.0)
    assert np.array_equal(dst.value(), np.where(holds, values, np.float32(7)))
    nisa.tensor_copy_predicated(dst, tile(-values), tile(holds))
    assert np.array_equal(dst.value(), np.where(holds, -values, np.float32(7)))


@pytest.mark.usefixtures("trn1")
def test_searching_follows_the_documented_ties() -> None:
    data = np.array([[1, 2, 3, 4, 8, 8, 8, 8, 8, 8, 8]], np.float32)
    wanted = np.array([[3, 8, 8, 8, 8, 8, 8, 99]], np.float32)
    found = empty(1, 8, dtype=nl.uint32)
    nisa.nc_find_index8(found, tile(data), tile(wanted))
    assert found.value().tolist() == [[2, 4, 5, 6, 7, 8, 9, 0xFFFFFFFF]]
    wanted[0, 7] = 8
    replaced, places = empty(1, 11), empty(1, 8, dtype=nl.uint32)
    nisa.nc_match_replace8(replaced, tile(data), tile(wanted), -1.0, places)
    assert places.value().tolist() == [[2, 10, 9, 8, 7, 6, 5, 4]]
    assert replaced.value().tolist() == [[1, 2, -1, 4, -1, -1, -1, -1, -1, -1, -1]]


@pytest.mark.usefixtures("trn2")
def test_gathers_and_counts() -> None:
    values = normal(4, 6)
    index = RNG.integers(0, 6, (4, 9)).astype(np.uint32)
    dst = empty(4, 9)
    nisa.nc_n_gather(dst, tile(values), tile(index))
    assert np.array_equal(dst.value(), np.take_along_axis(values, index.astype(int), 1))
    marks = np.zeros((32, 8), np.int32)
    marks[0, [1, 2, 5]] = 1
    marks[16, 7] = 4
    counted = empty(32, 9, dtype=nl.int32)
    nisa.memset(counted, 77)
    nisa.nonzero_with_count(counted, tile(marks), index_offset=16, padding_val=-1)
    assert counted.value()[0].tolist() == [17, 18, 21, -1, -1, -1, -1, -1, 3]
    assert counted.value()[16].tolist() == [23, *[-1] * 7, 1]
    assert (counted.value()[1:16] == 77).all()


@pytest.mark.usefixtures("trn1")
def test_topk_takes_the_largest_of_a_snake_ascending() -> None:
    snake = RNG.permutation(40).astype(np.float32)
    laid = np.full(48, 1000, np.float32)
    laid[:40] = snake
    values, places = empty(16, 5, dtype=nl.bfloat16), empty(16, 5, dtype=nl.uint32)
    nisa.topk(values, places, tile(laid.reshape(3, 16).T.copy(), nl.bfloat16), 40)
    assert values.value()[3].astype(int).tolist() == [35, 36, 37, 38, 39]
    assert np.array_equal(snake[places.value()[3]], np.arange(35, 40, dtype=np.float32))


@pytest.mark.usefixtures("trn3")
def test_random_numbers_repeat_after_the_same_seed() -> None:
    drawn = []
    for _ in range(2):
        nisa.set_rng_seed(tile(np.array([[5]], np.int32)))
        bits, uniform = empty(8, 64, dtype=nl.uint16), empty(8, 64)
        nisa.rng(bits)
        nisa.rand2(uniform, 2.0, 3.0)
        drawn.append((bits.value().copy(), uniform.value().copy()))
    assert np.array_equal(drawn[0][0], drawn[1][0])
    assert np.array_equal(drawn[0][1], drawn[1][1])
    assert ((uniform.value() >= 2) & (uniform.value() <= 3)).all()
    assert uniform.value().std() > 0.1


@pytest.mark.usefixtures("trn1")
def test_a_dma_moves_between_hbm_and_sbuf_and_never_from_psum() -> None:
    source = nl.shared_constant(normal(16, 8))
    there, back = empty(16, 8), nl.ndarray((16, 8), nl.float32, nl.shared_hbm)
    nisa.dma_copy(there, source)
    nisa.dma_copy(back, there)
    assert np.array_equal(back.value(), source.value())
    with pytest.raises(KernelError, match="src is in PSUM; copy it to SBUF"):
        nisa.dma_copy(back, empty(16, 8, buffer=nl.psum))


@pytest.mark.usefixtures("trn2")
def test_rows_are_gathered_and_scattered_by_index() -> None:
    values, rows = normal(32, 8), np.array([[7], [0], [31], [7]], np.uint32)
    source, index, there = nl.shared_constant(values), tile(rows), empty(4, 8)
    nisa.dma_copy(there, source.ap([[8, 4], [1, 8]], vector_offset=index, indirect_dim=0))
    assert np.array_equal(there.value(), values[rows[:, 0]])
    assert program().signatures[-1].is_indirect
    nisa.dma_copy(there, source.vector_select(0, index))
    assert np.array_equal(there.value(), values[rows[:, 0]])
    target = nl.zeros((32, 8), nl.float32, nl.private_hbm)
    where = tile(np.array([[4], [1], [9], [2]], np.uint32))
    nisa.dma_copy(target.ap([[8, 4], [1, 8]], vector_offset=where), there)
    assert np.array_equal(target.value()[[4, 1, 9, 2]], there.value())
    nisa.dma_compute(
        target.ap([[8, 4], [1, 8]], vector_offset=where),
        [target.ap([[8, 4], [1, 8]], vector_offset=where), there],
        nl.add,
    )
    assert np.array_equal(target.value()[[4, 1, 9, 2]], 2 * there.value())


@pytest.mark.usefixtures("trn2")
def test_a_dma_transposes_gathered_rows() -> None:
    values, index = normal(64, 32).astype(ml_dtypes.bfloat16), RNG.permutation(64)[:16].astype(np.uint32)
    dst = empty(32, 16, dtype=nl.bfloat16)
    source = nl.shared_constant(values).ap([[32, 16], [1, 32]], vector_offset=tile(index[:, None]))
    nisa.dma_transpose(dst, source, axes=(1, 0))
    assert np.array_equal(dst.value(), values[index].T)


@pytest.mark.usefixtures("trn1")
def test_sources_are_added_up_by_dma() -> None:
    parts = [normal(8, 4) for _ in range(3)]
    dst = empty(8, 4)
    nisa.dma_compute(dst, [tile(part) for part in parts], nl.add)
    np.testing.assert_allclose(dst.value(), sum(parts), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("trn1")
def test_gpsimd_is_not_offered_a_destination_in_psum() -> None:
    a = tile(normal(16, 8))
    nisa.tensor_tensor(empty(16, 8, buffer=nl.psum), a, a, nl.add)
    assert int(program().engines[-1]) == 1 << Engine.VECTOR
    nisa.tensor_copy(empty(16, 8, buffer=nl.psum), a)
    assert int(program().engines[-1]) == 1 << Engine.VECTOR | 1 << Engine.SCALAR
    assert last_work().destination is Space.PSUM
