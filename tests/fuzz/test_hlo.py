"""Whatever a file of HLO holds, it is read and counted, or refused by one error of npuscope."""

import contextlib
import json
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npuscope.errors import FormatError
from npuscope.formats.artifact import identify
from npuscope.formats.hlo_cost import program_cost
from npuscope.formats.hlo_inspection import inspect_module
from npuscope.formats.hlo_loops import trip_count
from npuscope.formats.hlo_reader import parse_hlo, read_hlo
from npuscope.formats.hlo_schema import MESSAGES
from npuscope.formats.hlo_text import begins_as_text_program, looks_like_hlo, looks_like_text_program
from tests.strategies import mutations
from tests.writers import hlo as writer

fuzz = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.large_base_example],
)
WRITTEN = {
    "matmul": writer.module_bytes(writer.matmul()),
    "loop": writer.module_bytes(*writer.counting_loop()),
    "wrapped": writer.wrapped(writer.module_bytes(*writer.counting_loop())),
}


@cache
def real(name: str) -> bytes:
    """A module of JAX: lowered or compiled."""
    jax = pytest.importorskip("jax")
    jnp, lax = jax.numpy, jax.lax

    def step(carry, row):
        scores = jax.nn.softmax(carry @ row)
        image = lax.conv_general_dilated(scores[None, None], scores[None, None, :3, :3], (1, 2), "SAME")
        return carry.at[0].add(image[0, 0, 0, 0]) + jnp.cumsum(jnp.sort(scores, 0), 1), scores[jnp.argmax(row[0])]

    lowered = jax.jit(lambda x, rows: lax.scan(step, x, rows)).lower(jnp.ones((8, 8)), jnp.ones((5, 8, 8)))
    module = lowered.compiler_ir("hlo")
    if name == "compiled":
        module = lowered.compile().runtime_executable().hlo_modules()[0]
    return module.as_serialized_hlo_module_proto()


def read_or_refuse(data: bytes) -> None:
    """Read a module in every way; whatever comes out must hold together."""
    with contextlib.suppress(FormatError):
        module = parse_hlo(data, source="fuzz")
        for computation in module.computations:
            for op in computation.ops:
                assert all(0 <= operand < len(computation.ops) for operand in op.operands)
                assert op.shape.bytes >= 0
                module.source_line(op)
                if op.opcode == "while":
                    assert (trip_count(module, computation, op) or 0) >= 0
        cost = program_cost(module)
        assert all(value >= 0 for value in cost.total)
        assert program_cost(module, loops_once=True).total.flops >= 0
        inspection = inspect_module(module)
        json.dumps([inspection.facts, inspection.tables, inspection.notes])
        assert inspection.title.isprintable()


@fuzz
@given(data=st.one_of(*map(mutations, WRITTEN.values())))
def test_a_mutated_module_is_read_or_refused(data):
    read_or_refuse(data)


@pytest.mark.parametrize("name", ["lowered", "compiled"])
@fuzz
@given(data=st.data())
def test_a_mutated_module_of_jax_is_read_or_refused(name, data):
    read_or_refuse(data.draw(mutations(real(name))))


numbers = st.one_of(st.integers(-3, 12), st.sampled_from([1 << 31, 1 << 44, (1 << 63) - 1, -(1 << 63), 1 << 20]))
texts = st.sampled_from(
    [
        "add",
        "dot",
        "while",
        "call",
        "fusion",
        "convolution",
        "reduce",
        "reduce-window",
        "scatter",
        "gather",
        "sort",
        "transpose",
        "fft",
        "conditional",
        "tuple",
        "get-tuple-element",
        "parameter",
        "constant",
        "dynamic-slice",
        "dynamic-update-slice",
        "custom-call",
        "teleport",
        "LT",
        "GE",
        "NE",
    ]
).map(str.encode) | st.binary(max_size=6)
LIMITS = {"int32": (-(1 << 31), (1 << 31) - 1), "int64": (-(1 << 63), (1 << 63) - 1), "uint32": (0, (1 << 32) - 1)}


def edited(draw, message, kind: str, depth: int = 0) -> None:
    """Change one field of a message, however deep: a sound file that says what it should not."""
    name, _, declared = draw(st.sampled_from(MESSAGES[kind]))
    base, is_repeated = declared.removesuffix("*"), declared.endswith("*")
    if base in MESSAGES:
        if is_repeated:
            items = getattr(message, name)
            if not items or draw(st.integers(0, 5)) == 0:
                items.add()
            edited(draw, items[draw(st.integers(0, len(items) - 1))], base, depth + 1)
        else:
            edited(draw, getattr(message, name), base, depth + 1)
        return
    if base == "bytes":
        value = draw(texts)
    elif base == "bool":
        value = draw(st.booleans())
    elif base in LIMITS:
        value = max(LIMITS[base][0], min(LIMITS[base][1], draw(numbers)))
    else:
        value = abs(draw(numbers))
    if not is_repeated:
        setattr(message, name, value)
        return
    values = list(getattr(message, name))
    place = draw(st.integers(0, len(values)))
    values[place : place + draw(st.integers(0, 1))] = [value] * draw(st.integers(0, 2))
    getattr(message, name)[:] = values


@st.composite
def edited_modules(draw, data: bytes) -> bytes:
    from npuscope.formats.hlo_schema import message_class

    message = message_class("Module").FromString(data)
    for _ in range(draw(st.integers(1, 3))):
        computation = draw(st.sampled_from(list(message.computations)))
        place = draw(st.integers(0, len(computation.instructions) - 1))
        edited(draw, computation.instructions[place], "Instruction")
    return message.SerializeToString()


@fuzz
@given(data=st.one_of(edited_modules(WRITTEN["matmul"]), edited_modules(WRITTEN["loop"])))
def test_a_module_that_says_what_it_should_not_is_read_or_refused(data):
    read_or_refuse(data)


@pytest.mark.parametrize("name", ["lowered", "compiled"])
@fuzz
@given(data=st.data())
def test_a_module_of_jax_that_says_what_it_should_not_is_read_or_refused(name, data):
    read_or_refuse(data.draw(edited_modules(real(name))))


@fuzz
@given(data=mutations(writer.packed(WRITTEN["loop"])))
def test_a_mutated_gzip_file_is_read_or_refused(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.hlo.gz")
        path.write_bytes(data)
        with contextlib.suppress(FormatError):
            assert read_hlo(path).op_count >= 0


@fuzz
@given(data=st.one_of(st.binary(max_size=300), *map(mutations, WRITTEN.values())))
def test_any_first_bytes_are_told_or_refused(data):
    for tell in (looks_like_hlo, begins_as_text_program, looks_like_text_program):
        assert tell(data) in (True, False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.bin")
        path.write_bytes(data)
        with contextlib.suppress(FormatError):
            identify(path)
