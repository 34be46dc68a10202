"""Creating, loading, storing, assigning and broadcasting tensors in `neuronxcc.nki.language`."""

from typing import Any

import numpy as np
import pytest

from npuscope.simulate.neuroncore.program import Engine, Transfer
from npuscope.simulate.nki import classic_compiler as ncc
from npuscope.simulate.nki import classic_isa as nisa
from npuscope.simulate.nki import classic_language as nl
from npuscope.simulate.nki.trace import KernelError
from tests.nki_kernels import engines, only_program, opcodes, result, run

RNG = np.random.default_rng(5)
X = RNG.standard_normal((128, 256)).astype(np.float32)


def copied(body: Any) -> Any:
    """A kernel that stores what `body` makes of its argument."""

    def kernel(x: Any) -> Any:
        tile = body(x)
        out = nl.ndarray(tile.shape, dtype=tile.dtype, buffer=nl.shared_hbm)
        nl.store(out, tile)
        return out

    return kernel


def test_a_load_into_a_tile_of_the_kernel_is_one_dma_and_no_copy() -> None:
    def body(x: Any) -> Any:
        tile = nl.ndarray((2, nl.par_dim(128), 128), dtype=nl.float32, buffer=nl.sbuf)
        for i in nl.affine_range(2):
            tile[i] = nl.load(x[:, nl.ds(i * 128, 128)])
        return tile[1]

    traced = run(copied(body), X)
    np.testing.assert_array_equal(traced.outputs[0], X[:, 128:])
    assert opcodes(traced) == {"dma": 3}


def test_blocks_are_tiles_of_their_own() -> None:
    def kernel(x: Any) -> Any:
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        tile = nl.ndarray((4, nl.par_dim(32), 256), dtype=nl.float32)
        for i in nl.affine_range(4):
            tile[i] = nl.load(x[32 * i : 32 * i + 32])
            nl.store(out[32 * i : 32 * i + 32], tile[i])
        return out

    traced = run(kernel, X)
    np.testing.assert_array_equal(traced.outputs[0], X)
    program = only_program(traced)
    touched = [program.tiles[number] for number in sorted({int(row[0]) for row in program.access})]
    assert [tile.rows for tile in touched if not tile.is_external] == [32] * 4


def test_zeros_in_sbuf_are_a_memset_and_in_psum_or_lazily_none() -> None:
    def kernel(x: Any, buffer: Any, is_lazy: bool) -> Any:
        out = nl.ndarray((128, 8), dtype=nl.float32, buffer=nl.shared_hbm)
        nl.store(out, nl.zeros((128, 8), dtype=nl.float32, buffer=buffer, lazy_initialization=is_lazy))
        return out

    assert opcodes(run(kernel, X, nl.sbuf, False)) == {"memset": 1, "dma": 1}
    assert opcodes(run(kernel, X, nl.sbuf, True)) == {"dma": 1}
    # A tile in PSUM is copied to SBUF before it is stored.
    assert opcodes(run(kernel, X, nl.psum, False)) == {"tensor_copy": 1, "dma": 1}
    assert result(kernel, X, nl.psum, False).sum() == 0


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: nl.full((4, 8), fill_value=2.5, dtype=nl.float32), 2.5),
        (lambda: nl.ones((4, 8), dtype=nl.bfloat16), 1),
        (lambda: nl.zeros_like(nl.ones((4, 8), dtype=nl.int32)), 0),
        (lambda: nl.zeros((3, nl.par_dim(4), 8), dtype=np.float32)[2], 0),
    ],
)
def test_tiles_are_created_with_their_value(make: Any, expected: float) -> None:
    np.testing.assert_array_equal(result(copied(lambda x: make()), X).astype(np.float64), np.full((4, 8), expected))


def test_numbers_and_tiles_are_assigned_by_memset_and_copy() -> None:
    def body(x: Any) -> Any:
        tile = nl.load(x)
        other = nl.ndarray((128, 256), dtype=nl.float16)
        other[:, 0:200] = tile[:, 0:200]
        other[:, 200:256] = 0
        other[0:32, 10:20] = 7
        return other

    traced = run(copied(body), X)
    expected = X.astype(np.float16)
    expected[:, 200:] = 0
    expected[:32, 10:20] = 7
    np.testing.assert_array_equal(traced.outputs[0], expected)
    assert opcodes(traced) == {"dma": 2, "tensor_copy": 1, "memset": 2}


def test_a_value_of_one_column_is_repeated_over_the_columns_it_is_assigned_to() -> None:
    def body(x: Any) -> Any:
        tile = nl.ndarray((128, 16), dtype=nl.float32)
        column = nl.load(x[:, 0:1])
        tile[:, :] = column.broadcast_to((128, 16))
        return tile

    np.testing.assert_array_equal(result(copied(body), X), np.repeat(X[:, :1], 16, axis=1))


def test_an_integer_along_the_free_dimension_leaves_one_column() -> None:
    def body(x: Any) -> Any:
        tile = nl.load(x)
        sums = nl.ndarray((128, 4), dtype=nl.float32)
        for i in nl.affine_range(4):
            sums[:, i] = nl.sum(tile[:, nl.ds(i * 64, 64)], axis=1)
        part = sums[:, 2]
        assert part.shape == (128, 1)
        return part[:, 0] * 1.0

    np.testing.assert_allclose(result(copied(body), X), X[:, 128:192].sum(1, keepdims=True), rtol=1e-5, atol=1e-5)


def test_a_masked_load_reads_only_what_the_tensor_has() -> None:
    def kernel(x: Any) -> Any:
        rows, columns = x.shape
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        for i in nl.affine_range(2):
            p = i * 128 + nl.arange(128)[:, None]
            f = nl.arange(columns)[None, :]
            tile = nl.load(x[p, f], mask=p < rows)
            nl.store(out[p, f], nl.exp(tile, mask=p < rows), mask=p < rows)
        return out

    x = RNG.standard_normal((200, 30)).astype(np.float32)
    traced = run(kernel, x)
    np.testing.assert_allclose(traced.outputs[0], np.exp(x), rtol=1e-6)
    moved = [s.read_bytes for s in only_program(traced).signatures if isinstance(s, Transfer)]
    assert max(moved) == 128 * 30 * 4
    assert min(moved) == 72 * 30 * 4


def test_an_access_outside_a_tensor_without_a_mask_is_an_error() -> None:
    def kernel(x: Any) -> Any:
        return nl.load(x[0:128, nl.arange(257)[None, :]])

    with pytest.raises(KernelError, match="out of bounds"):
        run(kernel, X)


def test_what_a_mask_leaves_out_entirely_is_neither_computed_nor_assigned() -> None:
    def body(x: Any) -> Any:
        tile = nl.load(x)
        total = nl.zeros((128, 256), dtype=nl.float32, buffer=nl.psum)
        square = nl.load(x[:, 0:128])
        tile[...] = nl.multiply(tile, 3.0, mask=False)
        total += nisa.nc_matmul(square, tile, mask=False)
        total += nisa.nc_matmul(square, tile, mask=True)
        return nl.copy(total)

    traced = run(copied(body), X)
    np.testing.assert_allclose(traced.outputs[0], X[:, :128].T @ X, rtol=1e-4, atol=1e-4)
    assert opcodes(traced) == {"dma": 3, "nc_matmul": 1, "tensor_copy": 1}


def test_rows_are_gathered_and_scattered_by_a_tile_of_indices() -> None:
    def kernel(x: Any, rows: Any) -> Any:
        out = nl.ndarray((128, 256), dtype=x.dtype, buffer=nl.shared_hbm)
        p, f = nl.arange(64)[:, None], nl.arange(256)[None, :]
        chosen = nl.load(rows[p])
        tile = nl.load(x[chosen[p, 0], f])
        nl.store(out[nisa.iota(2 * p, dtype=np.int32), f], tile)
        return out

    rows = RNG.permutation(128)[:64].astype(np.int32)
    traced = run(kernel, X, rows)
    np.testing.assert_array_equal(np.asarray(traced.outputs[0])[0:128:2], X[rows])
    assert sum(s.is_indirect for s in only_program(traced).signatures if isinstance(s, Transfer)) == 2


def test_atomic_rmw_adds_to_the_rows_that_a_tile_names() -> None:
    def kernel(x: Any, rows: Any) -> Any:
        out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)
        tile = nl.load(x)
        nl.store(out, tile)
        nl.atomic_rmw(out[nl.load(rows), nl.arange(256)[None, :]], value=tile, op=np.add)
        return out

    rows = np.arange(128, dtype=np.int32)[::-1].reshape(128, 1).copy()
    np.testing.assert_allclose(result(kernel, X, rows), X + X[::-1], rtol=1e-6)


def test_load_transpose2d_transposes_blocks_on_the_tensor_engine() -> None:
    x = RNG.standard_normal((300, 64)).astype(np.float32)
    traced = run(copied(nl.load_transpose2d), x)
    np.testing.assert_array_equal(traced.outputs[0], x.T)
    # 300 rows are three blocks of at most 128.
    assert opcodes(traced) == {"dma": 4, "nc_transpose": 3, "tensor_copy": 3}


def test_broadcast_to_spreads_a_partition_and_copies_it_to_sbuf() -> None:
    row = RNG.integers(0, 100, (1, 64)).astype(np.int32)
    traced = run(copied(lambda x: nl.broadcast_to(nl.load(x), shape=(128, 64))), row)
    np.testing.assert_array_equal(traced.outputs[0], np.repeat(row, 128, axis=0))
    # Integers pass the Tensor engine as float32.
    assert opcodes(traced) == {"dma": 2, "memset": 1, "nc_matmul": 1, "tensor_copy": 2}
    assert engines(traced, "nc_matmul") == {Engine.TENSOR}


def test_gather_flattened_counts_all_free_elements() -> None:
    data = np.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], np.float32)
    indices = np.array([[[0, 1], [1, 3]], [[3, 3], [1, 0]]], np.uint32)

    def kernel(d: Any, i: Any) -> Any:
        out = nl.ndarray((2, 2, 2), dtype=nl.float32, buffer=nl.shared_hbm)
        nl.store(out, nl.gather_flattened(nl.load(d), nl.load(i)))
        return out

    np.testing.assert_array_equal(result(kernel, data, indices), [[[1, 2], [2, 4]], [[8, 8], [6, 5]]])


def test_constants_in_hbm_are_there_before_the_kernel_starts() -> None:
    def body(x: Any) -> Any:
        first = nl.shared_identity_matrix(64, dtype=nl.float32)
        assert nl.shared_identity_matrix(64, dtype=nl.float32) is first
        return nl.add(nl.load(first), nl.load(nl.shared_constant(np.identity(64), dtype=nl.float32)))

    traced = run(copied(body), X)
    np.testing.assert_array_equal(traced.outputs[0], 2 * np.identity(64))
    assert opcodes(traced) == {"dma": 3, "tensor_tensor": 1}


def test_device_print_writes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    def body(x: Any) -> Any:
        tile = nl.full((1, 2), fill_value=4, dtype=nl.float32)
        nl.device_print("value of a:", tile)
        return tile

    run(copied(body), X)
    printed = capsys.readouterr()
    assert printed.err == "value of a:[[4. 4.]]\n"
    assert not printed.out


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda x: nl.ndarray((129, 4), dtype=nl.float32), "ndarray: tile has 129 partitions, at most 128"),
        (lambda x: nl.load(nl.ones((4, 4), dtype=nl.float32)), "load: src must be in HBM, not in SBUF"),
        (lambda x: nl.store(nl.ones((4, 4), dtype=nl.float32), 0), "store: dst must be in HBM, not in SBUF"),
        (lambda x: nl.full((4, 4), 1.0, nl.float32, buffer=nl.hbm), "cannot be created with a value"),
        (lambda x: nl.ndarray((4, 4), nl.float32, buffer="sbuf"), "buffer='sbuf' is no memory"),
        (lambda x: nl.program_id(3), r"the launch grid \(\) has no axis 3"),
        (lambda x: list(nl.affine_range("4")), "affine_range: takes one to three integers"),
    ],
)
def test_what_nki_does_not_allow_is_refused_at_the_kernels_line(body: Any, message: str) -> None:
    with pytest.raises(KernelError, match=rf"test_nki_language_memory\.py:\d+: .*{message}"):
        run(copied(body), X)


def test_a_placement_gets_block_partitions_and_bytes() -> None:
    asked = []

    def place(idx: tuple[int, ...], pdim_size: int, fdim_size: int) -> tuple[int, int]:
        asked.append((idx, pdim_size, fdim_size))
        return 0, idx[0] * fdim_size

    def body(x: Any) -> Any:
        return nl.load(x) + nl.ndarray((3, nl.par_dim(128), 256), nl.bfloat16, buffer=ncc.sbuf.alloc(place))[0]

    run(copied(body), X)
    assert asked == [((i,), 128, 512) for i in range(3)]


@pytest.mark.parametrize(
    ("buffer", "shape", "message"),
    [
        (ncc.sbuf.mod_alloc(base_addr=180_000), (128, 256), "kernels may use 180,224"),
        (ncc.sbuf.mod_alloc(base_addr=0, base_partition=32), (128, 256), "cannot start at partition 32"),
        (ncc.psum.mod_alloc(base_bank=8), (128, 16), "placed in bank 8"),
        (ncc.psum.mod_alloc(base_bank=0), (128, 1024), "ends at byte 4,096 of its bank"),
    ],
)
def test_a_placement_outside_the_memory_is_an_error(buffer: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(KernelError, match=message):
        run(copied(lambda x: nl.ndarray(shape, dtype=nl.float32, buffer=buffer)), X)


def test_modulo_allocation_gives_blocks_turns() -> None:
    buffer = ncc.psum.mod_alloc(base_bank=1, num_bank_tiles=(2,))
    assert buffer.placement is not None
    assert [buffer.placement((i,), 128, 2048)[0] for i in range(4)] == [1, 2, 1, 2]


def test_addresses_that_python_counts_on_in_a_loop_are_those_of_the_first_iteration() -> None:
    def kernel(x: Any) -> Any:
        out = nl.ndarray((128, 256), dtype=x.dtype, buffer=nl.shared_hbm)
        address = 0
        for _ in nl.affine_range(200):
            tile = nl.ndarray((128, 256), dtype=nl.float32, buffer=ncc.sbuf.mod_alloc(base_addr=address))
            address += 1024
            tile[...] = nl.load(x)
            nl.store(out, tile)
        return out

    np.testing.assert_array_equal(result(kernel, X), X)
