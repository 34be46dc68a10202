"""Whatever an XLA program is, it becomes instructions or one clear error."""

from contextlib import suppress
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npuscope.errors import NpuscopeError
from npuscope.formats.hlo_reader import parse_hlo
from npuscope.simulate.hlo.lowering import lower_module
from npuscope.simulate.neuroncore.devices import load_device
from npuscope.simulate.neuroncore.machine import run_program
from npuscope.simulate.neuroncore.program import Work

jax = pytest.importorskip("jax")
jnp = jax.numpy
LIMIT = 20_000


def lower(data: bytes):
    return lower_module(parse_hlo(data, source="fuzz"), nc_version=3, sbuf_usable_bytes=212_984, max_instructions=LIMIT)


def serialized(function, *shapes) -> bytes:
    specs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*specs).compiler_ir("hlo").as_serialized_hlo_module_proto()


UNARY = {
    "exp": jnp.exp,
    "relu": lambda x: jnp.maximum(x, 0),
    "double": lambda x: x * 2 + 1,
    "softmax": lambda x: jax.nn.softmax(x, -1),
    "transpose": lambda x: x.T,
    "sum0": lambda x: x - x.sum(0),
    "sum1": lambda x: x - x.sum(1, keepdims=True),
    "max": lambda x: x / x.max(),
    "gram": lambda x: (x @ x.T) @ x,
    "flip": lambda x: x[::-1],
    "shift": lambda x: jnp.roll(x, 1, axis=1),
    "reshape": lambda x: x.reshape(-1)[: x.size].reshape(x.shape),
    "swap": lambda x: x.reshape(x.shape[::-1]).T,
    "pad": lambda x: jnp.pad(x, ((1, 0), (0, 2)))[1:, : x.shape[1]],
    "cumsum": lambda x: jnp.cumsum(x, 1),
    "sort": lambda x: jnp.sort(x, 0),
    "gather": lambda x: x[jnp.arange(x.shape[0]) // 2],
    "update": lambda x: x.at[0].set(1.0),
    "loop": lambda x: jax.lax.fori_loop(0, 3, lambda i, c: c * x + i, x),
    "rows": lambda x: jax.lax.map(lambda row: row * row.sum(), x),
    "where": lambda x: jnp.where(x > 0, x, 0.5 * x),
    "concat": lambda x: jnp.concatenate([x, x], 1)[:, : x.shape[1]],
    "bf16": lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
    "cond": lambda x: jax.lax.cond(x[0, 0] > 0, jnp.sin, lambda y: y * y, x),
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    names=st.lists(st.sampled_from(sorted(UNARY)), min_size=1, max_size=5),
    rows=st.sampled_from([1, 3, 32, 127, 128, 129, 300]),
    columns=st.sampled_from([1, 2, 64, 128, 200, 1500]),
)
def test_any_chain_of_ops_becomes_a_program_that_ends(names, rows, columns):
    def chain(x):
        for name in names:
            x = UNARY[name](x)
        return x

    made = lower_module(
        parse_hlo(serialized(chain, (rows, columns)), source="fuzz"), nc_version=2, sbuf_usable_bytes=180_224
    )
    assert len(made.program) >= 1
    core = load_device("trn1")
    run = run_program(made.program, core)
    assert run.schedule.finished == len(run.program)
    assert run.total_ps > 0
    kinds = {work.opcode for work in made.program.signatures if isinstance(work, Work)}
    assert ("unlowered" in kinds) == bool(made.unlowered)
    assert (len(made.unlowered) > 0) == ("sort" in names)


@cache
def corpus() -> tuple[bytes, ...]:
    def attention(q, k, v):
        return jax.nn.softmax(q @ k.T, -1) @ v

    def scan(xs):
        return jax.lax.scan(lambda carry, x: (carry + x.sum(), x @ x.T), 0.0, xs)

    def moves(x, y):
        z = jnp.concatenate([x, y], 0)[5:, ::2]
        return jnp.pad(z, ((1, 1), (0, 0))).T[jnp.array([3, 1])], jnp.einsum("ij,kj->ik", x, y)

    def image(x, w):
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME")

    return (
        serialized(attention, (64, 32), (64, 32), (64, 32)),
        serialized(scan, (4, 16, 32)),
        serialized(moves, (16, 24), (8, 24)),
        serialized(image, (1, 4, 8, 8), (8, 4, 3, 3)),
        serialized(lambda x: jnp.sort(jnp.cumsum(x, 0), -1), (32, 16)),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_bytes_end_in_a_program_or_one_line(data):
    original = data.draw(st.sampled_from(corpus()))
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    chosen = bytes(damaged[:cut]) if data.draw(st.booleans()) else bytes(damaged)
    with suppress(NpuscopeError):
        made = lower(chosen)
        assert np.all(made.program.access[:, 2] > made.program.access[:, 1])
