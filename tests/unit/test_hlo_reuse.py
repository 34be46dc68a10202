"""A program is the same whether ops like earlier ones are replayed or lowered again."""

import numpy as np
import pytest

from npuscope.errors import NpuscopeError
from npuscope.formats.hlo_reader import parse_hlo
from npuscope.simulate.hlo.lowering import lower_module
from npuscope.simulate.hlo.recorder import ProgramTooLargeError
from npuscope.simulate.hlo.reuse import Reuse
from npuscope.simulate.neuroncore.program import Program
from tests.unit.test_hlo_invariants import PROGRAMS, f32
from tests.writers import hlo as writer

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
    assert [found.lines[line] for line in found.line] == [expected.lines[line] for line in expected.line]
    assert found.tiles == expected.tiles
    for name in ("signature", "engines", "flags", "iteration", "access_start", "access", "tile_table"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def without_reuse(monkeypatch) -> None:
    monkeypatch.setattr(Reuse, "_key", lambda *_: (None, [], []))


@pytest.mark.parametrize("name", sorted({**PROGRAMS, **MORE}))
def test_replayed_ops_are_those_that_lowering_makes(name, monkeypatch):
    function, *specs = {**PROGRAMS, **MORE}[name]
    program = several(function, *specs)
    replayed = lowered(*program)
    without_reuse(monkeypatch)
    assert_same(replayed, lowered(*program))


def test_a_loop_that_makes_more_than_there_was_room_for_is_the_same(monkeypatch):
    def loops(x, w):
        return lax.fori_loop(0, 400, lambda i, y: decoder_layer(y, w) * i, x)

    replayed = lowered(loops, f32(32, 64), f32(64, 192))
    assert len(replayed) > 10_000
    without_reuse(monkeypatch)
    assert_same(replayed, lowered(loops, f32(32, 64), f32(64, 192)))


def nested_calls(depth: int) -> bytes:
    square = writer.shape("f32", 16, 16)
    functions = []
    for level in range(depth):
        function = writer.Function(f"level{level}")
        x = function.parameter(square)
        inner = function.op("call", square, x, calls=(functions[-1],)) if functions else x
        function.op("add", square, inner, x)
        functions.append(function)
    return writer.module_bytes(*functions)


def test_calls_within_calls_are_followed():
    program = lower_module(
        parse_hlo(nested_calls(3000), source="test"), nc_version=3, sbuf_usable_bytes=212_984
    ).program
    assert (
        sum(
            getattr(work, "opcode", "") == "tensor_tensor"
            for work in np.array(program.signatures, object)[program.signature]
        )
        == 3000
    )


def test_functions_that_compute_the_same_are_told_by_what_they_do():
    """XLA has one reduction function per reduction: of the same array, with the same operator, it is one reduction."""

    def program(x):
        return [x.sum(-1) * index for index in range(6)] + [x.max(-1)]

    found = lowered(program, f32(128, 64))
    reductions = [
        work
        for work in np.array(found.signatures, object)[found.signature]
        if getattr(work, "opcode", "") == "tensor_reduce"
    ]
    assert sorted(work.function for work in reductions) == ["add", "max"]


def test_what_nobody_needs_is_left_out():
    function = writer.Function("main")
    x = function.parameter(writer.shape("f32", 8, 8))
    unused = function.op("tanh", writer.shape("f32", 8, 8), x)
    function.op("exponential", writer.shape("f32", 8, 8), unused)
    function.op("negate", writer.shape("f32", 8, 8), x)
    lowering = lower_module(
        parse_hlo(writer.module_bytes(function), source="test"), nc_version=3, sbuf_usable_bytes=212_984
    )
    assert lowering.executed_op_count == 2
    assert not any(getattr(work, "opcode", "") == "activation" for work in lowering.program.signatures)


def test_ops_are_replayed(monkeypatch):
    names = []
    lower = Reuse.lowered
    monkeypatch.setattr(Reuse, "lowered", lambda reuse, number, how: names.append(number) or lower(reuse, number, how))

    def layers(x, w):
        for _ in range(20):
            x = decoder_layer(x, w)
        return x

    lowered(layers, f32(64, 64), f32(64, 192))
    assert len(names) < 300  # of 900


def square(*, is_boolean: bool = False):
    return writer.shape("pred") if is_boolean else writer.shape("f32", 16, 16)


def loop_over_one_array() -> bytes:
    """Its state is no tuple, and its body ends with a transpose, which the end of the iteration works out."""
    body, condition, main = (writer.Function(name) for name in ("body", "condition", "main"))
    x = body.parameter(square())
    body.op("transpose", square(), body.op("exponential", square(), x), dimensions=[1, 0])
    condition.parameter(square())
    condition.constant("pred", True)
    config = b'{"known_trip_count":{"n":"8"}}'
    main.while_loop(square(), main.parameter(square()), body=body, condition=condition, config=config)
    return writer.module_bytes(condition, body, main)


def test_instructions_belong_to_the_op_that_makes_them(monkeypatch):
    def recorded() -> Program:
        return lower_module(
            parse_hlo(loop_over_one_array(), source="test"), nc_version=3, sbuf_usable_bytes=212_984
        ).program

    replayed = recorded()
    without_reuse(monkeypatch)
    assert_same(replayed, recorded())


def test_equal_arrays_are_not_overwritten_by_one_of_their_readers():
    """Two equal products are one; each of two updates in place needs a copy of it, as if the program had made it once."""

    def updated(is_one):
        def program(a, b, update):
            products = [a @ b] * 2 if is_one else [a @ b, a @ b]
            return [lax.dynamic_update_slice(product, update * n, (0, n)).sum(0) for n, product in enumerate(products)]

        return program

    specs = f32(6144, 6144), f32(6144, 6144), f32(2, 2)
    once, twice = (lowered(updated(is_one), *specs) for is_one in (True, False))
    copies = [
        sum(getattr(work, "write_bytes", 0) for work in np.array(program.signatures, object)[program.signature])
        for program in (once, twice)
    ]
    assert copies[0] == copies[1] > 6144 * 6144 * 4


def test_calls_that_call_each_other_over_and_over_are_one_clear_line(recwarn):
    functions = []
    for level in range(1_200):
        function = writer.Function(f"level{level}")
        x = function.parameter(square())
        calls = (functions[-1],) if functions else ()
        one = function.op("call", square(), x, calls=calls) if calls else function.op("tanh", square(), x)
        function.op("call", square(), one, calls=calls) if calls else function.op("tanh", square(), one)
        functions.append(function)
    module = parse_hlo(writer.module_bytes(*functions), source="test")
    with pytest.raises(ProgramTooLargeError, match=r"the program runs more than 10\^18 ops"):
        lower_module(module, nc_version=3, sbuf_usable_bytes=212_984)
    assert not recwarn.list


def test_conditionals_too_deep_in_one_another_are_told():
    functions = []
    for level in range(600):
        function = writer.Function(f"level{level}")
        x = function.parameter(square())
        if functions:
            chosen = function.constant("pred", True)
            function.op("conditional", square(), chosen, x, x, calls=(functions[-1], functions[-1]))
        else:
            function.op("tanh", square(), x)
        functions.append(function)
    module = parse_hlo(writer.module_bytes(*functions), source="test")
    with pytest.raises(NpuscopeError) as caught:
        lower_module(module, nc_version=3, sbuf_usable_bytes=212_984)
    assert len(str(caught.value).splitlines()) == 1
