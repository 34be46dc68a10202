"""What holds of every lowered program: it reads what it uses, writes what it returns, and is not faster than the hardware."""

import pytest

from npuscope.analysis.analyze import analyze
from npuscope.formats.hlo_reader import parse_hlo
from npuscope.simulate.hlo.simulation import simulate_module

jax = pytest.importorskip("jax")
jnp = jax.numpy
lax = jax.lax


def f32(*shape: int):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def b16(*shape: int):
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def layer(x, w):
    return x + jnp.tanh(x @ w), None


PROGRAMS = {
    "itself": (lambda x: x, f32(1024, 512)),
    "odd-copy": (lambda x: x, f32(8193)),
    "chain": (lambda x, y: jnp.tanh(x * 2 + y) - x, f32(1000, 700), f32(1000, 700)),
    "one-row": (lambda x: jnp.exp(x) * x, f32(1, 1 << 18)),
    "softmax": (lambda x: jax.nn.softmax(x, -1), f32(512, 1000)),
    "layernorm": (lambda x, g: (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * g, f32(256, 768), f32(768)),
    "sum-first": (lambda x: jnp.sum(x, 0), f32(8, 256, 512)),
    "sum-first-and-add": (lambda x, y: jnp.sum(x, 0) + y, f32(8, 256, 512), f32(256, 512)),
    "sum-middle": (lambda x: jnp.sum(x, 1), f32(6, 40, 300)),
    "max-first": (lambda x: jnp.max(x, 0), f32(8, 130, 64)),
    "sum-last-two": (lambda x: jnp.sum(x, (1, 2)), f32(256, 64, 64)),
    "sum-few-last-two": (lambda x: jnp.sum(x * x, (1, 2)), f32(4, 64, 64)),
    "sum-columns": (lambda x: jnp.sum(x, 0), f32(640, 300)),
    "sum-all": (lambda x: jnp.sum(x), f32(64, 64, 64)),
    "bias-gradient": (jax.grad(lambda b, x: jnp.sum(jnp.tanh(x + b) ** 2)), f32(128, 64), f32(8, 128, 64)),
    "dot": (lambda a, b: a @ b, b16(300, 500), b16(500, 700)),
    "square": (lambda x: x @ x, b16(1024, 1024)),
    "square-in-blocks": (lambda x: x @ x, b16(4096, 4096)),
    "with-its-transpose": (lambda x: x @ x.T, b16(1024, 512)),
    "dot-twice": (lambda a, b: (a @ b, a @ b), b16(256, 256), b16(256, 256)),
    "part-of-a-dot": (lambda a, b: (a @ b)[:, :128], b16(4096, 4096), b16(4096, 4096)),
    "attention": (lambda q, k, v: jax.nn.softmax(q @ k.T, -1) @ v, b16(256, 64), b16(256, 64), b16(256, 64)),
    "joined": (lambda x, y: jnp.concatenate([x, y], 0), f32(100, 64), f32(60, 64)),
    "stacked": (lambda x, y: jnp.stack([x, y]) * 2, f32(128, 64), f32(128, 64)),
    "turned": (lambda x: x.T * 1.5, f32(300, 200)),
    "gathered": (lambda t, i: t[i], f32(1000, 64), jax.ShapeDtypeStruct((512,), jnp.int32)),
    "scan": (lambda x, w: lax.scan(layer, x, w)[0], f32(128, 256), f32(3, 256, 256)),
    "scan-of-computed": (lambda x: lax.scan(lambda c, v: (c + v, c * v), jnp.zeros(64), jnp.exp(x)), f32(20, 64)),
    "grouped-convolution": (
        lambda x, w: lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=32),
        f32(1, 28, 28, 32),
        f32(3, 3, 1, 32),
    ),
    "sorted": (lambda x: jnp.sort(x, -1), f32(2048, 2048)),
}  # fmt: skip
READS_PART = {"gathered", "part-of-a-dot"}


def size(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("device", ["trn1", "trn2"])
def test_a_program_reads_its_parameters_writes_its_results_and_keeps_the_bounds(name, device):
    function, *shapes = PROGRAMS[name]
    data = jax.jit(function).lower(*shapes).compiler_ir("hlo").as_serialized_hlo_module_proto()
    simulation = simulate_module(parse_hlo(data, source=name), device=device)
    summary = simulation.profile.summary
    if name not in READS_PART:
        assert summary["hbm_read_bytes"] >= size(shapes)
    assert summary["hbm_write_bytes"] >= size(jax.eval_shape(function, *shapes))
    bounds = {one.name: one.total_ns for one in analyze(simulation.profile, rules=()).bounds if one.total_ns}
    for bound, limit_ns in bounds.items():
        if "ideal" in bound.lower():
            assert simulation.total_time_ns >= 0.99 * limit_ns, bound


@pytest.mark.parametrize("name", ["sum-first", "sum-last-two", "square-in-blocks", "scan-of-computed"])
def test_no_more_is_moved_than_a_few_times_what_the_program_has(name):
    function, *shapes = PROGRAMS[name]
    data = jax.jit(function).lower(*shapes).compiler_ir("hlo").as_serialized_hlo_module_proto()
    summary = simulate_module(parse_hlo(data, source=name), device="trn2").profile.summary
    whole = size(shapes) + size(jax.eval_shape(function, *shapes))
    assert summary["hbm_read_bytes"] + summary["hbm_write_bytes"] <= 8 * whole


def test_a_matmul_of_an_array_with_itself_is_as_long_as_of_two():
    times = []
    for function, shapes in ((lambda x: x @ x, 1), (lambda a, b: a @ b, 2)):
        data = jax.jit(function).lower(*[b16(4096, 4096)] * shapes).compiler_ir("hlo")
        module = parse_hlo(data.as_serialized_hlo_module_proto(), source="test")
        times.append(simulate_module(module).total_time_ns)
    assert times[0] == pytest.approx(times[1], rel=0.05)


def test_the_branch_with_the_most_work_stands_for_a_conditional():
    def small(x):
        return x + 1 + 2 * x - 3 * x * x

    def long(x):
        return lax.fori_loop(0, 50, lambda i, s: jnp.tanh(s) * 2, x)

    def either(p, x):
        return lax.cond(p, long, small, x)

    flag = jax.ShapeDtypeStruct((), jnp.bool_)
    both = jax.jit(either).lower(flag, f32(128, 512)).compiler_ir("hlo").as_serialized_hlo_module_proto()
    alone = jax.jit(long).lower(f32(128, 512)).compiler_ir("hlo").as_serialized_hlo_module_proto()
    times = [simulate_module(parse_hlo(data, source="test")).total_time_ns for data in (both, alone)]
    assert times[0] == pytest.approx(times[1], rel=0.05)


def test_a_slice_that_others_still_need_is_copied_before_it_is_updated():
    def update(x, v):
        whole = x @ (x.T + 1)
        return lax.dynamic_update_slice(whole[:512], v, (3, 3)), whole.sum()

    data = jax.jit(update).lower(b16(4096, 4096), b16(1, 8)).compiler_ir("hlo").as_serialized_hlo_module_proto()
    simulation = simulate_module(parse_hlo(data, source="test"))
    table = simulation.profile.tables["Instruction"].to_pydict()
    copied = sum(
        read
        for read, written in zip(table["hbm_read_bytes"], table["hbm_write_bytes"], strict=True)
        if read and written
    )
    assert copied >= 512 * 4096 * 2
