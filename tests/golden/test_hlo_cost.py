"""Our counts of FLOPs, transcendentals and bytes against XLA's own analysis of the same program, made on the spot.

XLA counts every loop once, so that `loops_once` compares like with like; custom calls count -1 there, which is added.
"""

import math
from functools import partial

import pytest

from npuscope.formats.hlo import HloModule
from npuscope.formats.hlo_cost import program_cost
from npuscope.formats.hlo_reader import parse_hlo

jax = pytest.importorskip("jax")
jnp, lax = jax.numpy, jax.lax


def spec(*shape: int, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


def attention(q, k, v):
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1])
    return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores), v)


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)


def network(weights, x):
    return (jax.nn.gelu(layer_norm(x @ weights[0])) @ weights[1]).sum()


def cell(weights, rows):
    return lax.scan(lambda h, row: (jnp.tanh(h @ weights + row), h), jnp.zeros((4, 8)), rows)


def pool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")


def conv(x, w, *, strides=(1, 1), padding="SAME", spread=(1, 1), dilation=(1, 1), groups=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, strides, padding, spread, dilation, numbers, feature_group_count=groups)


def gradient(function, *arguments):
    return jax.grad(lambda *given: function(*given).sum(), arguments)


IMAGE, KERNEL = spec(2, 13, 11, 8), spec(3, 5, 8, 16)
ODD = {"strides": (2, 3), "padding": ((2, 5), (1, 3)), "spread": (4, 3), "dilation": (2, 1), "groups": 2}
CROPPED = {"padding": ((-1, 1), (0, 3)), "groups": 4}
X, ROWS, INDEX = spec(6, 4), spec(12, 8), spec(3, dtype="int32")
HEADS = (spec(2, 4, 16, 8),) * 3
SCALAR = spec(dtype="int32")
WEIGHTS = [spec(8, 16), spec(16, 4)]

PROGRAMS = {
    "matmul": (jnp.dot, spec(64, 128), spec(128, 32)),
    "matmul of vectors": (jnp.dot, spec(128), spec(128)),
    "batched matmul": (jnp.matmul, spec(3, 64, 128), spec(3, 128, 32)),
    "two contracted dimensions": (partial(jnp.einsum, "abcd,ecbd->ae"), spec(4, 5, 6, 7), spec(3, 6, 5, 7)),
    "bf16 matmul": (jnp.dot, spec(64, 128, dtype="bfloat16"), spec(128, 32, dtype="bfloat16")),
    "elementwise": (lambda x, y: jnp.where(x > y, jnp.exp(x) * y + 1, jnp.sqrt(jnp.abs(x)) / y), X, X),
    "transcendentals": (lambda x: lax.erf(x) + lax.tan(x) + lax.pow(x, x) + lax.cbrt(jnp.sin(x)), X),
    "converts": (lambda x: x.astype("bfloat16").astype("int32").astype("float8_e4m3fn"), X),
    "bits": (lambda x: lax.bitcast_convert_type(x, jnp.int32) & 3, X),
    "complex": (lambda x: jnp.abs(lax.complex(x, x)), X),
    "reductions": (lambda x: (x.sum(0), x.max(1), x.mean(), x.var(1), jnp.argmax(x, 1)), X),
    "softmax": (jax.nn.softmax, spec(32, 64)),
    "layer norm": (layer_norm, spec(32, 64)),
    "gelu": (jax.nn.gelu, spec(32, 64)),
    "attention": (attention, *HEADS),
    "attention, gradient": (gradient(attention, 0, 1, 2), *HEADS),
    "network, gradient": (jax.grad(network), WEIGHTS, spec(5, 8)),
    "moves": (lambda x: jnp.concatenate([x[::-1], jnp.pad(x, 1)[1:3, 1:5], jnp.tile(x, (2, 1))]), X),
    "transposes": (lambda x: jnp.transpose(x, (2, 0, 1)).reshape(5, -1) @ jnp.ones((12, 3)), spec(3, 4, 5)),
    "gather": (lambda x, i: x[i], X, INDEX),
    "take along": (lambda x, i: jnp.take_along_axis(x, i, 1), X, spec(6, 2, dtype="int32")),
    "scatter": (lambda x, i: x.at[i].add(1.0), X, INDEX),
    "scatter of maxima": (lambda x, i: x.at[i].max(x[i] * 2), X, INDEX),
    "dynamic slice": (lambda x, i: lax.dynamic_slice(x, (i, i), (2, 2)), X, SCALAR),
    "dynamic update": (lambda x, i: lax.dynamic_update_slice(x, x[:2, :2], (i, i)), X, SCALAR),
    "one-hot": (lambda i: jax.nn.one_hot(i, 10), INDEX),
    "sort": (lambda x: jnp.sort(x, 0), X),
    "sort by key": (lambda x: lax.sort((x, x)), spec(33)),
    "argsort": (lambda x: jnp.argsort(x, 1), X),
    "cumsum": (lambda x: jnp.cumsum(x, 1), spec(4, 300)),
    "cumulative log-sum-exp": (lambda x: lax.cumlogsumexp(x, 1), X),
    "max pool": (pool, spec(2, 9, 9, 3)),
    "max pool, gradient": (gradient(pool, 0), spec(2, 9, 9, 3)),
    "fft": (lambda x: jnp.fft.irfft(jnp.fft.rfft(x)), spec(6, 8)),
    "random bits": (lambda key: lax.rng_bit_generator(key, (8,)), spec(4, dtype="uint32")),
    "conv": (conv, IMAGE, KERNEL),
    "conv, gradient": (gradient(conv, 0, 1), IMAGE, KERNEL),
    "conv with strides": (partial(conv, strides=(2, 2)), IMAGE, KERNEL),
    "conv with strides, gradient": (gradient(partial(conv, strides=(2, 2)), 0, 1), IMAGE, KERNEL),
    "conv with all": (partial(conv, **ODD), IMAGE, spec(3, 5, 4, 16)),
    "conv with all, gradient": (gradient(partial(conv, **ODD), 0, 1), IMAGE, spec(3, 5, 4, 16)),
    "cropped grouped conv": (partial(conv, **CROPPED), IMAGE, spec(3, 5, 2, 16)),
    "convolve": (jnp.convolve, spec(200), spec(31)),
    "scan": (cell, spec(8, 8), spec(6, 4, 8)),
    "scan, gradient": (gradient(lambda w, r: cell(w, r)[0], 0), spec(8, 8), spec(6, 4, 8)),
    "map": (lambda x: lax.map(lambda row: row.sum(), x), ROWS),
    "fori": (lambda x, n: lax.fori_loop(0, n, lambda i, c: c * i, x), X, SCALAR),
    "nested loops": (
        lambda x: lax.scan(lambda c, r: (lax.fori_loop(0, 7, lambda i, q: q + r, c), 0.0), x[0], x),
        ROWS,
    ),
    "while": (lambda x: lax.while_loop(lambda c: c.sum() < 9, lambda c: c * 2, x), X),
    "cond": (lambda x: lax.cond(x.sum() > 0, jnp.exp, lambda y: y * 2 + 1, x), X),
    "switch": (lambda x, i: lax.switch(i, [jnp.exp, lambda y: y * 2 + 1, lambda y: y], x), X, SCALAR),
    "barrier": (lambda x: lax.optimization_barrier((x, x * 2)), X),
    "vmap": (jax.vmap(lambda x, y: jnp.tanh(x) @ y), spec(32, 8), spec(32, 8)),
    "constants": (lambda x: x * jnp.arange(64 * 64, dtype="float32").reshape(64, 64).T, spec(64, 64)),
    "cholesky": (lambda x: lax.linalg.cholesky(x @ x.T), X),
    "nothing": (lambda x: x[:0].sum(), X),
}


def modules(name: str):
    """The program as it was lowered and as it was compiled, each with XLA's analysis."""
    function, *arguments = PROGRAMS[name]
    lowered = jax.jit(function).lower(*arguments)
    compiled = lowered.compile()
    yield lowered.compiler_ir("hlo"), lowered.cost_analysis()
    yield compiled.runtime_executable().hlo_modules()[0], compiled.cost_analysis()


def custom_calls(module: HloModule) -> tuple[int, int]:
    """How many there are, and their bytes by our count."""
    cost = program_cost(module, loops_once=True)
    works = [
        work
        for computation, works in zip(module.computations, cost.ops, strict=True)
        for op, work in zip(computation.ops, works, strict=True)
        if op.opcode == "custom-call"
    ]
    return len(works), sum(work.accessed_bytes for work in works)


@pytest.mark.parametrize("name", PROGRAMS)
def test_work_equals_xlas_own_analysis(name):
    for serialized, expected in modules(name):
        module = parse_hlo(serialized.as_serialized_hlo_module_proto(), source=name)
        found = program_cost(module, loops_once=True).total
        calls, call_bytes = custom_calls(module)
        assert found.flops - calls == expected.get("flops", 0)
        assert found.transcendentals == expected.get("transcendentals", 0)
        assert found.accessed_bytes - call_bytes - calls == expected.get("bytes accessed", 0)


def test_a_loop_is_more_than_xla_says_by_its_trip_count():
    """XLA's number for a scan is that of one step: the difference that `loops_once` hides."""
    function, *arguments = PROGRAMS["scan"]
    lowered = jax.jit(function).lower(*arguments)
    module = parse_hlo(lowered.compiler_ir("hlo").as_serialized_hlo_module_proto(), source="scan")
    cost = program_cost(module)
    step = 2 * 4 * 8 * 8
    assert cost.total.model_flops == 6 * step
    assert step < lowered.cost_analysis()["flops"] < 2 * step
    assert [loop.trip_count for loop in cost.loops] == [6]


def test_a_scan_costs_what_the_same_loop_in_python_costs():
    def unrolled(weights, rows):
        state = jnp.zeros((4, 8))
        for row in rows:
            state = jnp.tanh(state @ weights + row)
        return state

    specs = PROGRAMS["scan"][1:]
    costs = []
    for function in (unrolled, lambda weights, rows: cell(weights, rows)[0]):
        lowered = jax.jit(function).lower(*specs)
        module = parse_hlo(lowered.compiler_ir("hlo").as_serialized_hlo_module_proto(), source="x")
        costs.append(program_cost(module).total)
    assert costs[0].model_flops == costs[1].model_flops == 6 * 2 * 4 * 8 * 8
    assert costs[0].transcendentals == costs[1].transcendentals == 6 * 4 * 8
