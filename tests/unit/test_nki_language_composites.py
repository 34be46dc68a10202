"""Products, softmax, norms, selection, random numbers, loops and launch grids of `neuronxcc.nki.language`."""

from typing import Any

import numpy as np
import pytest

from npuscope.simulate.neuroncore.program import ACCUMULATES
from npuscope.simulate.nki import classic_language as nl
from npuscope.simulate.nki import classic_typing as nt
from npuscope.simulate.nki.trace import KernelError
from tests.nki_kernels import only_program, opcodes, result, run

RNG = np.random.default_rng(9)
A = RNG.standard_normal((128, 512)).astype(np.float32)
B = RNG.standard_normal((512, 256)).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    grown = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(grown / grown.sum(-1, keepdims=True))


def one_tile(function: Any) -> Any:
    """A kernel that stores what `function` makes of a tile."""

    def kernel(x: Any) -> Any:
        tile = function(nl.load(x))
        out = nl.ndarray(tile.shape, dtype=tile.dtype, buffer=nl.shared_hbm)
        nl.store(out, tile)
        return out

    return kernel


def product(is_transposed: bool) -> Any:
    """A kernel for `x @ y` with its sum over K in PSUM."""

    def kernel(x: nt.tensor, y: nt.tensor) -> Any:
        out = nl.ndarray((128, 256), dtype=nl.float32, buffer=nl.shared_hbm)
        total = nl.zeros((128, 256), dtype=nl.float32, buffer=nl.psum)
        for k in nl.affine_range(4):
            part = slice(k * 128, k * 128 + 128)
            left = nl.load(x[part, :] if is_transposed else x[:, part])
            total += nl.matmul(left, nl.load(y[part, :]), transpose_x=is_transposed)
        nl.store(out, nl.copy(total))
        return out

    return kernel


def test_a_transposed_matmul_is_one_instruction_that_sums_in_psum() -> None:
    traced = run(product(is_transposed=True), A.T.copy(), B)
    np.testing.assert_allclose(traced.outputs[0], A @ B, rtol=1e-4, atol=1e-4)
    assert opcodes(traced) == {"dma": 9, "nc_matmul": 4, "tensor_copy": 1}
    flags = only_program(traced).flags
    # The first of the group overwrites, the other three add.
    assert int((flags & ACCUMULATES != 0).sum()) == 3


def test_a_matmul_of_what_is_not_transposed_costs_a_transpose_and_a_copy_more() -> None:
    traced = run(product(is_transposed=False), A, B)
    np.testing.assert_allclose(traced.outputs[0], A @ B, rtol=1e-4, atol=1e-4)
    assert opcodes(traced) == {"dma": 9, "nc_transpose": 4, "nc_matmul": 4, "tensor_copy": 5}


def test_transpose_swaps_partitions_and_columns() -> None:
    np.testing.assert_array_equal(result(one_tile(nl.transpose), A[:, :96].copy()), A[:, :96].T)
    with pytest.raises(KernelError, match="transpose: x has 512 columns, at most 128"):
        run(one_tile(nl.transpose), A)


def test_softmax_is_four_instructions() -> None:
    traced = run(one_tile(lambda x: nl.softmax(x, axis=1)), A)
    np.testing.assert_allclose(traced.outputs[0], softmax(A), rtol=1e-5, atol=1e-7)
    assert opcodes(traced) == {
        "dma": 2,
        "tensor_reduce": 1,
        "activation_reduce": 1,
        "reciprocal": 1,
        "tensor_scalar": 1,
    }


def test_softmax_over_the_last_of_two_free_axes() -> None:
    x = RNG.standard_normal((16, 3, 20)).astype(np.float32)
    np.testing.assert_allclose(result(one_tile(lambda t: nl.softmax(t, axis=2)), x), softmax(x), rtol=1e-5, atol=1e-7)


def test_rms_norm_divides_by_the_root_mean_square_and_scales() -> None:
    def kernel(x: Any, w: Any) -> Any:
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        weight = nl.load(w.reshape((1, 512)))
        nl.store(out, nl.rms_norm(nl.load(x), weight, axis=1, n=512, epsilon=1e-5))
        return out

    w = RNG.standard_normal(512).astype(np.float32)
    expected = A / np.sqrt((A * A).mean(1, keepdims=True) + 1e-5) * w
    np.testing.assert_allclose(result(kernel, A, w), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("other", [-1.0, 0])
def test_where_takes_a_tile_or_a_number_where_the_condition_fails(other: float) -> None:
    traced = run(one_tile(lambda x: nl.where(x > 0.5, x, other)), A)
    np.testing.assert_array_equal(traced.outputs[0], np.where(A > 0.5, A, other))
    assert opcodes(traced) == {"dma": 2, "tensor_scalar": 1, "memset": 1, "tensor_copy_predicated": 1}
    chosen = result(one_tile(lambda x: nl.where(nl.less(x, 0), nl.exp(x), x)), A)
    np.testing.assert_allclose(chosen, np.where(A < 0, np.exp(A), A), rtol=1e-5)


def test_random_numbers_follow_the_seed_and_lie_between_0_and_1() -> None:
    def kernel(x: Any, seed: int) -> Any:
        out = nl.ndarray((64, 256), dtype=nl.float32, buffer=nl.shared_hbm)
        nl.random_seed(seed)
        nl.store(out, nl.rand((64, 256), dtype=nl.float32))
        return out

    first = result(kernel, A, 1)
    np.testing.assert_array_equal(first, result(kernel, A, 1))
    assert not np.array_equal(first, result(kernel, A, 2))
    assert first.min() >= 0
    assert first.max() < 1
    assert abs(float(first.mean()) - 0.5) < 0.02


def test_dropout_zeroes_about_as_many_elements_as_the_rate_says() -> None:
    found = result(one_tile(lambda x: nl.dropout(x, 0.25)), A)
    assert abs(float((found == 0).mean()) - 0.25) < 0.02
    assert np.array_equal(found[found != 0], A[found != 0])


def blocked_sum(reduction: Any, make: Any) -> Any:
    """A kernel that reduces column blocks over the outer of two loops, into one destination per row block."""

    def kernel(x: Any) -> Any:
        out = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.shared_hbm)
        total = make()
        for k in nl.affine_range(4):
            for m in nl.affine_range(2):
                tile = nl.load(x[64 * m : 64 * m + 64, 128 * k : 128 * k + 128])
                total[m] = nl.loop_reduce(tile, op=reduction, loop_indices=[k], dtype=nl.float32)
        for m in nl.affine_range(2):
            nl.store(out[64 * m : 64 * m + 64], total[m])
        return out

    return kernel


@pytest.mark.parametrize("op", [np.add, np.max, nl.minimum])
def test_loop_reduce_into_a_new_tile_reduces_over_its_loop(op: Any) -> None:
    traced = run(blocked_sum(op, lambda: nl.ndarray((2, nl.par_dim(64), 128), dtype=nl.float32)), A)
    blocks = A.reshape(128, 4, 128)
    function = {np.add: np.sum, np.max: np.max, nl.minimum: np.min}[op]
    np.testing.assert_allclose(traced.outputs[0], function(blocks, axis=1), rtol=1e-5, atol=1e-5)
    # The first iteration copies, the others combine.
    assert opcodes(traced) == {"dma": 10, "tensor_copy": 2, "tensor_tensor": 6}


def test_loop_reduce_into_a_filled_tile_starts_with_its_value() -> None:
    traced = run(blocked_sum(np.add, lambda: nl.full((2, nl.par_dim(64), 128), fill_value=100.0, dtype=nl.float32)), A)
    np.testing.assert_allclose(traced.outputs[0], A.reshape(128, 4, 128).sum(1) + 100, rtol=1e-5, atol=1e-4)
    assert opcodes(traced)["tensor_tensor"] == 8


def test_loop_reduce_bound_to_a_name_has_the_reduction_after_the_loop() -> None:
    def kernel(x: Any) -> Any:
        out = nl.ndarray((2, 128, 128), dtype=nl.float32, buffer=nl.shared_hbm)
        for i in nl.affine_range(2):
            for k in nl.affine_range(2):
                tile = nl.load(x[:, nl.ds((2 * i + k) * 128, 128)])
                total = nl.loop_reduce(tile, op=np.add, loop_indices=[k])
            nl.store(out[i], total)
        return out

    blocks = A.reshape(128, 2, 2, 128)
    np.testing.assert_allclose(result(kernel, A), blocks.sum(2).swapaxes(0, 1), rtol=1e-5, atol=1e-5)


def test_a_sum_over_a_loop_in_sbuf_is_an_addition_in_place() -> None:
    def kernel(x: Any) -> Any:
        out = nl.ndarray((128, 128), dtype=nl.float32, buffer=nl.shared_hbm)
        total = nl.zeros((128, 128), dtype=nl.float32)
        for k in nl.sequential_range(4):
            total += nl.load(x[:, nl.ds(k * 128, 128)])
        nl.store(out, total)
        return out

    traced = run(kernel, A)
    np.testing.assert_allclose(traced.outputs[0], A.reshape(128, 4, 128).sum(1), rtol=1e-5, atol=1e-5)
    assert opcodes(traced) == {"dma": 5, "memset": 1, "tensor_tensor": 4}


@pytest.mark.parametrize("loop", [nl.affine_range, nl.sequential_range, nl.static_range])
@pytest.mark.parametrize("bounds", [(4,), (1, 5), (0, 9, 3), (0,)])
def test_ranges_yield_the_integers_of_pythons_range(loop: Any, bounds: tuple[int, ...]) -> None:
    seen = []

    def kernel(x: Any) -> None:
        seen.extend(loop(*bounds))

    run(kernel, A)
    assert seen == list(range(*bounds))


def test_programs_of_a_launch_grid_know_where_they_are() -> None:
    def kernel(x: Any) -> Any:
        out = nl.ndarray((4, 8), dtype=nl.int32, buffer=nl.shared_hbm)
        i, j = nl.program_id(0), nl.program_id(1)
        assert (nl.num_programs(), nl.num_programs(0), nl.num_programs(axes=(0, 1))) == (8, 4, 8)
        assert nl.program_ndim() == 2
        nl.store(out[i : i + 1, 4 * j : 4 * j + 4], 10 * i + j)
        return out

    expected = 10 * np.arange(4)[:, None] + np.repeat([[0, 1]], 4, axis=1).reshape(1, 8)
    np.testing.assert_array_equal(result(kernel, A, grid=(4, 2)), expected)


def test_axes_of_a_grid_say_which_core_runs_a_program() -> None:
    blocked, alternating = nl.nc(2) * 3, 3 * nl.nc(2)
    assert (blocked.size, alternating.size) == (6, 6)
    assert [blocked.core_of(i) for i in range(6)] == [0, 0, 0, 1, 1, 1]
    assert [alternating.core_of(i) for i in range(6)] == [0, 1, 0, 1, 0, 1]
    assert nl.spmd_dim(nl.nc(2), 3) == blocked
    assert nl.spmd_dim(3, nl.nc(2)) == alternating


def test_all_reduce_over_several_programs_is_refused() -> None:
    kernel = one_tile(lambda x: nl.all_reduce(x, op=np.add, program_axes=0))
    np.testing.assert_array_equal(result(kernel, A), A)
    with pytest.raises(KernelError, match="all_reduce over more than one program is not supported"):
        run(kernel, A, grid=(2,))
