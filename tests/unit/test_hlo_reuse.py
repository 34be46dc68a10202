"""A program is the same whether ops like earlier ones are replayed or lowered again."""

import numpy as np
import pytest

from npuscope.formats.hlo_reader import parse_hlo
from npuscope.simulate.hlo.lowering import lower_module
from npuscope.simulate.hlo.reuse import Reuse
from npuscope.simulate.neuroncore.program import Program
from tests.unit.test_hlo_invariants import PROGRAMS, f32

jax = pytest.importorskip("jax")
jnp = jax.numpy
lax = jax.lax


def decoder_layer(x, w):
    """As `benchmarks.hlo_lowering` has it, with a mask, a rotation and a softmax."""
    scale = lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
    q, k, v = (x * scale @ part for part in jnp.split(w, 3, 1))
    scores = jnp.where(jnp.tril(jnp.ones((len(x), len(x)), bool)), q @ k.T * 0.125, -1e9)
    rotated = jnp.concatenate([-v[:, 32:], v[:, :32]], -1)
    return x + jax.nn.softmax(scores, -1) @ (jax.nn.silu(rotated) * v)


def convolved(image, kernel):
    return jax.nn.relu(lax.conv_general_dilated(image, kernel, (1, 1), "SAME"))


MORE = {
    "decoder-layer": (decoder_layer, f32(64, 64), f32(64, 192)),
    "two-tiles": (decoder_layer, f32(256, 64), f32(64, 192)),
    "vectors": (lambda x, y: jnp.clip(x, y, 2.0) / (1 + jnp.abs(x - y)) ** 1.5, f32(100), f32(100)),
    "rows-and-columns": (lambda x, r, c: (x - r) * c[:, None] + x.sum(0), f32(100, 32), f32(32), f32(100)),
    "scalars": (lambda x, s: jnp.where(s > 0, x * s, x.max() - x), f32(96, 64), f32()),
    "integers": (lambda x: (x << 2 | 1) % 7 + jnp.arange(64), jax.ShapeDtypeStruct((64,), jnp.int32)),
    "normalised": (lambda x: (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5), f32(128, 16)),
    "image": (convolved, f32(1, 4, 16, 16), f32(4, 4, 3, 3)),
    "loop": (lambda x: lax.fori_loop(0, 4, lambda i, y: jnp.tanh(y @ y) * i, x), f32(32, 32)),
    "index": (lambda x, i: x[i] * x[i + 1], f32(50, 64), jax.ShapeDtypeStruct((), jnp.int32)),
    "cast": (lambda x: (x.astype(jnp.bfloat16) @ x.T.astype(jnp.bfloat16)).astype(jnp.float32) + x @ x.T, f32(64, 128)),
}


def several(function, *specs):
    """The function of several parameters each, then of what was computed from them, and of the same ones again."""

    def program(rows):
        results = [function(*row) for row in rows]
        results += [
            function(*[(leaf * (index + 2)).astype(leaf.dtype) for leaf in row]) for index, row in enumerate(rows)
        ]
        return [*results, *[function(*row) for row in rows]]

    return program, [specs] * 5


def lowered(function, *specs) -> Program:
    data = jax.jit(function).lower(*specs).compiler_ir("hlo").as_serialized_hlo_module_proto()
    return lower_module(parse_hlo(data, source="test"), nc_version=3, sbuf_usable_bytes=212_984).program


def assert_same(found: Program, expected: Program) -> None:
    assert found.signatures == expected.signatures
    assert found.lines == expected.lines
    assert found.tiles == expected.tiles
    for name in ("signature", "engines", "flags", "line", "iteration", "access_start", "access", "tile_table"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


@pytest.mark.parametrize("name", sorted({**PROGRAMS, **MORE}))
def test_replayed_ops_are_those_that_lowering_makes(name, monkeypatch):
    function, *specs = {**PROGRAMS, **MORE}[name]
    program = several(function, *specs)
    replayed = lowered(*program)
    monkeypatch.setattr(Reuse, "lowered", lambda reuse, *given: reuse._anew(*given[:-1], given[-1][0]))
    assert_same(replayed, lowered(*program))


def test_ops_are_replayed(monkeypatch):
    counts = {"lowered": 0, "all": 0}

    def count(method, key):
        def counted(*arguments):
            counts[key] += 1
            return method(*arguments)

        return counted

    monkeypatch.setattr(Reuse, "_anew", count(Reuse._anew, "lowered"))
    monkeypatch.setattr(Reuse, "lowered", count(Reuse.lowered, "all"))

    def layers(x, w):
        for _ in range(20):
            x = decoder_layer(x, w)
        return x

    lowered(layers, f32(64, 64), f32(64, 192))
    assert counts["lowered"] / counts["all"] < 0.3
