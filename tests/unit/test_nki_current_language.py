"""Kernels of the current dialect: memory with and without addresses, loops, cores, and what a device has not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npuscope.simulate.neuroncore.devices import load_device
from npuscope.simulate.nki.loader import Traced, load_kernel, trace_kernel
from npuscope.simulate.nki.trace import KernelError

HEAD = "import nki\nimport nki.isa as nisa\nimport nki.language as nl\n\n\n@nki.jit\n"
RNG = np.random.default_rng(3)


def run(folder: Path, body: str, *arguments: Any, device: str = "trn1", **options: Any) -> Traced:
    """Trace a kernel whose source is `body`, from a file as a user has it."""
    path = folder / "kernel.py"
    path.write_text(HEAD + body, encoding="utf-8")
    return trace_kernel(load_kernel(f"{path}:kernel"), arguments, device=load_device(device), **options)


COPY = """def kernel(x):
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    tile = nl.ndarray(x.shape, x.dtype, buffer=nl.sbuf{address})
    nisa.dma_copy(dst=tile, src=x)
    nisa.dma_copy(dst=out, src=tile)
    return out
"""


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (", address=(0, 500000)", "bytes 500,000 to 500,256 of each SBUF partition; kernels may use"),
        (", address=(64, 0)", "tile takes partitions 64 to 192; there are 128"),
        (", address=5", "is no .partition, byte."),
    ],
)
def test_an_address_outside_sbuf_is_told_with_the_kernels_line(tmp_path: Path, address: str, message: str) -> None:
    x = np.zeros((128, 64), np.float32)
    with pytest.raises(KernelError, match=rf"kernel\.py:9: ndarray: .*{message}"):
        run(tmp_path, COPY.format(address=address), x)


def test_a_tile_of_psum_begins_with_a_bank(tmp_path: Path) -> None:
    body = "def kernel(x):\n    nl.ndarray((128, 8), nl.float32, buffer=nl.psum, address=(0, {}))\n    return x\n"
    x = np.zeros((8, 8), np.float32)
    run(tmp_path, body.format(3 * 2048), x)
    with pytest.raises(KernelError, match=r"kernel\.py:8: ndarray: byte 100 of PSUM is not the start of a bank"):
        run(tmp_path, body.format(100), x)
    with pytest.raises(KernelError, match="bytes 16,384 to 16,416 of each PSUM partition"):
        run(tmp_path, body.format(8 * 2048), x)


def test_a_tile_larger_than_sbuf_is_refused_and_many_that_fit_are_spilled(tmp_path: Path) -> None:
    body = "def kernel(x):\n    tiles = [nl.ndarray((128, {}), nl.float32) for _ in range(20)]\n    return x\n"
    x = np.zeros((8, 8), np.float32)
    run(tmp_path, body.format(20_000), x)
    with pytest.raises(KernelError, match="tile has 400,000 bytes per partition; kernels may use"):
        run(tmp_path, body.format(100_000), x)


OVERLAP = """def kernel(x):
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    first = nl.ndarray(x.shape, x.dtype, name="first", address=(0, 0))
    nisa.dma_copy(dst=first, src=x)
    second = nl.ndarray(x.shape, x.dtype, name="second", address=(0, {address}))
    nisa.memset(second, 0.0)
    nisa.dma_copy(dst=out, src={read})
    return out
"""


@pytest.mark.parametrize("address", [0, 128])
def test_reading_a_tile_after_another_was_written_over_it_is_an_error(tmp_path: Path, address: int) -> None:
    x = RNG.standard_normal((128, 64)).astype(np.float32)
    with pytest.raises(
        KernelError, match=r"kernel\.py:13: dma_copy: tile 'first' .* after 'second' was written over it"
    ):
        run(tmp_path, OVERLAP.format(address=address, read="first"), x)


def test_tiles_of_one_address_are_one_piece_of_memory(tmp_path: Path) -> None:
    x = RNG.standard_normal((128, 64)).astype(np.float32)
    reused = run(tmp_path, OVERLAP.format(address=0, read="second"), x)
    apart = run(tmp_path, OVERLAP.format(address=256, read="second"), x)
    on_chip = [
        {int(tile) for tile in t.programs[0].access[:, 0] if t.programs[0].tiles[tile].space} for t in (reused, apart)
    ]
    assert [len(tiles) for tiles in on_chip] == [1, 2]
    assert not reused.outputs[0].any()
    run(tmp_path, OVERLAP.format(address=256, read="first"), x)


DYNAMIC = """def kernel(x, count):
    out = nl.ndarray((1, 8), nl.float32, buffer=nl.shared_hbm)
    total = nl.zeros((1, 8), nl.float32)
    row = nl.ndarray((1, 8), nl.float32)
    left = nl.ndarray((1, 1), nl.int32)
    nisa.dma_copy(dst=left, src=count)
    register = nisa.register_alloc()
    nisa.register_load(register, left)

    def body(i):
        nisa.dma_copy(dst=row, src=x.ap([[8, 1], [1, 8]], scalar_offset=i, indirect_dim=0))
        nisa.tensor_tensor(total, total, row, nl.add)

    {loop}
    nisa.dma_copy(dst=out, src=total)
    return out
"""
LOOPS = {
    "fori_loop": "nl.fori_loop(0, register, body)",
    "dynamic_range": "for i in nl.dynamic_range(register):\n        body(i)",
    "while_loop": """def step(r):
        body(nisa.register_alloc(0))
        nisa.tensor_scalar(left, left, nl.add, -1)
        nisa.register_load(r, left)
        return r
    nl.while_loop(register, step)""",
    "while": """while register:
        body(nisa.register_alloc(0))
        nisa.tensor_scalar(left, left, nl.add, -1)
        nisa.register_load(register, left)""",
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_dynamic_loop_runs_as_often_as_its_register_says(tmp_path: Path, name: str) -> None:
    x, count = RNG.standard_normal((6, 8)).astype(np.float32), np.array([[4]], np.int32)
    traced = run(tmp_path, DYNAMIC.format(loop=LOOPS[name]), x, count, device="trn2")
    rows = x[:4] if "while" not in name else np.repeat(x[:1], 4, axis=0)
    np.testing.assert_allclose(traced.outputs[0][0], rows.sum(0), rtol=1e-5, atol=1e-5)


def test_a_loop_bound_that_is_not_computed_is_one_line(tmp_path: Path) -> None:
    x, count = np.zeros((6, 8), np.float32), np.array([[4]], np.int32)
    with pytest.raises(KernelError, match=r"kernel\.py:20: .*values are not computed \(--no-compute\)"):
        run(tmp_path, DYNAMIC.format(loop=LOOPS["fori_loop"]), x, count, compute=False)


def test_two_cores_share_what_is_in_shared_hbm(tmp_path: Path) -> None:
    body = """def kernel(x):
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    rows = x.shape[0] // nl.num_programs()
    start = nl.program_id() * rows
    nl.store(out[start:start + rows], nl.add(nl.load(x[start:start + rows]), 1.0 + nl.program_id()))
    return out
"""
    x = RNG.standard_normal((128, 16)).astype(np.float32)
    traced = run(tmp_path, body, x, device="trn2", grid=(2,), lnc=2)
    assert len(traced.programs) == 2
    assert np.array_equal(traced.outputs[0], x + np.repeat([1, 2], 64)[:, None].astype(np.float32))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("nisa.core_barrier(x, (0, 1))", "nki.isa.core_barrier is not supported by the simulator"),
        ("nisa.sendrecv(x, x, 0, 1, 0)", "nki.isa.sendrecv is not supported by the simulator"),
        ("nisa.range_select(t, t, nl.less, nl.less, t, t)", "range_select: needs NeuronCore-v3 .Trn2. or newer"),
        ("nl.ndarray((129, 4), nl.float32)", "tile has 129 partitions, at most 128"),
        ("nl.ndarray((8, 4), nl.float32, buffer='sbuf')", "is no memory; use nl.sbuf"),
        ("nisa.tensor_tensor(t, t, x, nl.add)", "data2 is in HBM; load it into SBUF first"),
        ("nisa.memset(nl.ndarray((8, 4), nl.int32), 2.5)", "memset: value 2.5 does not fit the int32 of dst"),
    ],
)
def test_what_cannot_be_done_is_one_line_with_the_kernels_place(tmp_path: Path, call: str, message: str) -> None:
    body = f"def kernel(x):\n    t = nl.ones(x.shape, x.dtype)\n    {call}\n    return x\n"
    with pytest.raises(KernelError, match=rf"kernel\.py:9: .*{message}") as caught:
        run(tmp_path, body, np.zeros((8, 4), np.float32))
    assert "\n" not in str(caught.value)


def test_collectives_are_one_line_when_called(tmp_path: Path) -> None:
    body = "def kernel(x):\n    import nki.collectives as cc\n    cc.all_reduce([x], [x], None, nl.add)\n    return x\n"
    with pytest.raises(KernelError, match=r"kernel\.py:9: nki\.collectives\.all_reduce is not supported"):
        run(tmp_path, body, np.zeros((8, 4), np.float32))


FUNCTIONS: dict[str, Any] = {
    "exp": np.exp,
    "square": np.square,
    "tanh": np.tanh,
    "negative": np.negative,
    "abs": np.abs,
    "floor": np.floor,
    "sign": np.sign,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_one_tile_agree_with_numpy(tmp_path: Path, name: str) -> None:
    body = f"""def kernel(x):
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    nl.store(out, nl.{name}(nl.load(x)))
    return out
"""
    x = RNG.standard_normal((16, 8)).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path, body, x).outputs[0], FUNCTIONS[name](x), rtol=1e-5, atol=1e-6)


def test_products_transposes_and_norms_of_the_language(tmp_path: Path) -> None:
    body = """def kernel(x, y, w):
    product = nl.ndarray((16, 32), nl.float32, buffer=nl.shared_hbm)
    turned = nl.ndarray((8, 16), nl.float32, buffer=nl.shared_hbm)
    chances = nl.ndarray(x.shape, nl.float32, buffer=nl.shared_hbm)
    normed = nl.ndarray(x.shape, nl.float32, buffer=nl.shared_hbm)
    tile = nl.load(x)
    nl.store(product, nl.matmul(tile, nl.load(y)))
    nl.store(turned, nl.transpose(tile))
    nl.store(chances, nl.softmax(tile, axis=1))
    nl.store(normed, nl.rms_norm(tile, nl.load(w), axis=1, n=8))
    return product, turned, chances, normed
"""
    x, y, w = (RNG.standard_normal(shape).astype(np.float32) for shape in ((16, 8), (8, 32), (1, 8)))
    powers = np.exp(x - x.max(1, keepdims=True))
    expected = (
        x @ y,
        x.T,
        powers / powers.sum(1, keepdims=True),
        x / np.sqrt(np.square(x).mean(1, keepdims=True) + 1e-6) * w,
    )
    for found, wanted in zip(run(tmp_path, body, x, y, w).outputs, expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_an_identity_matrix_lies_in_sbuf_and_where_selects(tmp_path: Path) -> None:
    body = """def kernel(x):
    out = nl.ndarray((8, 8), nl.float32, buffer=nl.shared_hbm)
    eye = nl.shared_identity_matrix(8, dtype=nl.float32)
    assert eye.buffer == nl.sbuf
    tile = nl.load(x)
    nl.store(out, nl.where(nl.equal(eye, 1.0), tile, nl.multiply(tile, 0.0)))
    return out
"""
    x = RNG.standard_normal((8, 8)).astype(np.float32)
    assert np.array_equal(run(tmp_path, body, x).outputs[0], np.diag(np.diag(x)))
