"""Predictions beside what memory allows: everyday ops are not far above it, and broadcasts cost no more than whole arrays."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.simulate.hlo.broadcasts import _comes_round, _row_pattern
from npuscope.simulate.hlo.simulation import predict

jax = pytest.importorskip("jax")
jnp = jax.numpy

HBM_BYTES_PER_NS = 362.5
"""Of one core of trn2, as `npuscope.hardware` has it."""


def f32(*shape: int):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def b16(*shape: int):
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def boolean(*shape: int):
    return jax.ShapeDtypeStruct(shape, jnp.bool_)


def predicted_ns(function, *specs) -> float:
    return predict(function, *specs, device="trn2").total_time_ns


def memory_ns(function, *specs) -> float:
    arrays = [*specs, *jax.tree.leaves(jax.eval_shape(function, *specs))]
    return sum(array.size * array.dtype.itemsize for array in arrays) / HBM_BYTES_PER_NS


def rotated(x, cosines, sines):
    """Rotary position embedding of x [positions, heads, lanes]."""
    half = x.shape[-1] // 2
    turned = jnp.concatenate([-x[..., half:], x[..., :half]], -1)
    return x * cosines[:, None] + turned * sines[:, None]


NEAR_MEMORY = {
    "a gate per sample": (lambda x, g: x * jax.nn.sigmoid(g), b16(8, 512, 1024), b16(8, 1, 1)),
    "a mean per sample": (lambda x: x * x.mean((1, 2), keepdims=True), b16(8, 512, 1024)),
    "a slope per head": (lambda s, m: s * m[:, None, None], f32(16, 512, 512), f32(16)),
    "a number per row": (lambda x, g: x * g, b16(8, 512, 1024), b16(8, 512, 1)),
    "a row for all": (lambda x, g: x + g, b16(8, 512, 1024), b16(1024)),
    "a mask for all heads": (lambda s, m: s + m, f32(16, 1024, 1024), f32(1024, 1024)),
    "a row per head": (lambda s, m: s + m, f32(16, 1024, 1024), f32(16, 1, 1024)),
    "long rows per head": (lambda s, m: s + m, f32(4, 2048, 2048), f32(4, 1, 2048)),
    "a choice for all heads": (lambda s, m: jnp.where(m, s, -1e9), f32(8, 1024, 1024), boolean(1024, 1024)),
    "cosines for all heads": (lambda x, c: x * c[:, None], b16(2048, 16, 64), b16(2048, 64)),
    "halves joined": (lambda x: jnp.concatenate([-x[..., 32:], x[..., :32]], -1), b16(2048, 16, 64)),
    "every other row": (lambda x: x[::2], f32(2048, 2048)),
    "padded": (lambda x: jnp.pad(x, 1), f32(2048, 2048)),
    "rolled": (lambda x: jnp.roll(x, 1, 0), f32(2048, 2048)),
    "channels last": (lambda x: jnp.transpose(x, (0, 2, 3, 1)) + 0, f32(8, 64, 56, 56)),
    "running sums of rows": (lambda x: jnp.cumsum(x, 1), f32(1024, 2048)),
    "running sums of columns": (lambda x: jnp.cumsum(x, 0), f32(1024, 2048)),
    "sums of rows": (lambda x: x.sum(1), f32(8192, 2048)),
    "largest of columns": (lambda x: x.max(0), f32(8192, 2048)),
    "repeated heads": (lambda k: jnp.repeat(k, 4, 1) * 1.5, b16(2048, 4, 64)),
    "a bias per channel": (lambda x, c: x + c[:, None, None], f32(16, 256, 32, 32), f32(256)),
    "numbers of a group": (lambda q, s: (q.reshape(4096, 32, 128) * s[..., None]).reshape(4096, 4096), b16(4096, 4096), b16(4096, 32)),
}  # fmt: skip
SEVERAL_PASSES = {
    "batch normalisation": (lambda x: (x - x.mean((0, 2, 3), keepdims=True)) * jax.lax.rsqrt(x.var((0, 2, 3), keepdims=True) + 1e-5), f32(16, 256, 32, 32)),
    "group normalisation": (lambda x: (x - x.mean((2, 3), keepdims=True)) / jnp.sqrt(x.var((2, 3), keepdims=True) + 1e-5), f32(8, 32, 8, 1024)),
    "layer normalisation": (lambda x, g: (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * g, b16(4096, 1024), b16(1024)),
    "cross entropy": (lambda x: -jax.nn.log_softmax(x).mean(), f32(512, 32_000)),
}  # fmt: skip


@pytest.mark.parametrize("name", NEAR_MEMORY)
def test_what_moves_data_costs_little_more_than_memory(name):
    assert predicted_ns(*NEAR_MEMORY[name]) < 1.7 * memory_ns(*NEAR_MEMORY[name]) + 10_000


@pytest.mark.parametrize("name", SEVERAL_PASSES)
def test_what_goes_over_data_several_times_costs_a_few_times_memory(name):
    assert predicted_ns(*SEVERAL_PASSES[name]) < 5 * memory_ns(*SEVERAL_PASSES[name]) + 10_000


@pytest.mark.parametrize("shape", [(512, 512), (16, 1, 512), (16, 512, 1), (1, 512, 1), (16, 1, 1), (512,), ()])
def test_a_broadcast_operand_is_no_dearer_than_one_in_full(shape):
    full = predicted_ns(lambda s, m: s + m, f32(16, 512, 512), f32(16, 512, 512))
    assert predicted_ns(lambda s, m: s + m, f32(16, 512, 512), f32(*shape)) <= full


def test_wider_rows_take_no_less_time():
    times = [
        predicted_ns(lambda x: jax.nn.softmax(x, -1), f32(4096, width))
        for width in (128, 256, 384, 500, 512, 640, 768, 1024)
    ]
    assert times == sorted(times)


def test_a_rotation_of_what_was_projected_stays_within_partitions():
    def projected(h, w):
        return (h @ w).reshape(len(h), 16, 64)

    alone = predicted_ns(projected, b16(512, 1024), b16(1024, 1024))
    both = predicted_ns(
        lambda h, w, c, s: rotated(projected(h, w), c, s), b16(512, 1024), b16(1024, 1024), b16(512, 64), b16(512, 64)
    )
    assert both < 1.3 * alone


@settings(deadline=None, max_examples=200)
@given(extents=st.lists(st.integers(1, 6), min_size=1, max_size=4), data=st.data())
def test_rows_read_the_row_that_broadcasting_gives_them(extents, data):
    kept = sorted(data.draw(st.sets(st.integers(0, len(extents) - 1))))
    shape = [extent if number in kept else 1 for number, extent in enumerate(extents)]
    base = np.arange(math.prod(shape)).reshape(shape)
    expected = np.broadcast_to(base, extents).ravel().tolist()
    run, row_of = _row_pattern(tuple(extents), kept)
    assert [row_of(row) for row in range(len(expected))] == expected
    assert all(len(set(expected[start : start + run])) == 1 for start in range(0, len(expected), run))
    if _comes_round(tuple(extents), tuple(kept), base.size):
        assert expected == [row % base.size for row in range(len(expected))]


def test_rows_that_fill_no_row_tile_do_not_change_how_all_else_lies():
    """A mask of 513 rows has no access pattern; that is no reason to lay its 16 heads over 16 of 128 partitions."""

    def masked(scores, mask):
        return jax.nn.softmax(jnp.where(mask, scores, -1e9), -1)

    even, odd = (predicted_ns(masked, f32(16, n, n), boolean(n, n)) for n in (512, 513))
    assert odd < 2 * even
