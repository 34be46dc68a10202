"""Structural differences of programs: what is told apart, and what is not a difference."""

import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from npuscope.analysis.hlo_diff import KINDS, diff_modules, structure_of
from npuscope.formats.hlo_reader import parse_hlo
from tests.writers import hlo as writer
from tests.writers.hlo import Function, shape

BINARY = ("add", "multiply", "maximum")
UNARY = ("tanh", "negate")


def build(recipe, *, dims=(8, 4), dtype="f32", scale=1.0, order=0, prefix="", identity=100, name="jit_f"):
    """A program from a list of (opcode number, operand numbers); names, ids, and the order of the file as asked for."""
    result = shape(dtype, *dims)
    main = Function("main")
    values = [main.parameter(result), main.parameter(result)]
    constant = main.constant("f32", scale)
    values.append(main.op("broadcast", result, constant))
    for kind, left, right in recipe:
        operands = values[left % len(values)], values[right % len(values)]
        opcode = (*BINARY, *UNARY)[kind % 5]
        values.append(main.op(opcode, result, *(operands if opcode in BINARY else operands[:1])))
    root = main.op("tuple", writer.tuple_of(*[result] * len(values)), *values)
    assert root is main.ops[-1]
    message = writer.module(main, name=name)
    renumbered(message.computations[0], order, prefix, identity)
    return parse_hlo(message.SerializeToString(), source=name)


def renumbered(computation, order, prefix, identity):
    """Put the ops into another order that keeps operands before users, with other names and ids."""
    ops = list(computation.instructions)
    chance = random.Random(order)
    placed, left = [], list(ops)
    while left:
        ready = [op for op in left if set(op.operand_ids) <= {done.id for done in placed}]
        chosen = ready[0] if order == 0 else chance.choice(ready)
        placed.append(chosen)
        left = [op for op in left if op is not chosen]
    numbers = {op.id: identity + at for at, op in enumerate(placed)}
    copies = []
    for op in placed:
        copy = type(op)()
        copy.CopyFrom(op)
        copy.id = numbers[op.id]
        copy.name = prefix.encode() + op.name
        copy.ClearField("operand_ids")
        copy.operand_ids.extend(numbers[operand] for operand in op.operand_ids)
        copies.append(copy)
    computation.root_id = numbers[computation.root_id]
    computation.ClearField("instructions")
    computation.instructions.extend(copies)


recipes = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=12)
quick = settings(deadline=None, max_examples=60)


@quick
@given(recipe=recipes)
def test_a_program_is_identical_to_itself(recipe):
    assert diff_modules(build(recipe), build(recipe)).kind == "identical"


@quick
@given(recipe=recipes, order=st.integers(1, 999), identity=st.integers(1, 10**6))
def test_names_ids_and_order_are_differences_in_names_only(recipe, order, identity):
    before, after = build(recipe), build(recipe, order=order, prefix="other.", identity=identity, name="jit_g")
    diff = diff_modules(before, after)
    assert (diff.kind, diff.names) == ("names", ("jit_f", "jit_g"))
    assert diff.parameters == diff.ops == ()
    assert structure_of(before) == structure_of(after)


@quick
@given(recipe=recipes, order=st.integers(0, 999), scale=st.sampled_from([0.5, 2.0, -1.0]))
def test_another_constant_is_found_whatever_the_order(recipe, order, scale):
    before, after = build(recipe), build(recipe, order=order, scale=scale)
    diff = diff_modules(before, after)
    assert diff.kind == "constants"
    assert [(one.before, one.after) for one in diff.ops] == [("f32[] 1", f"f32[] {scale:g}")]
    assert structure_of(before) != structure_of(after)
    assert structure_of(before, "constants") == structure_of(after, "constants")


@quick
@given(recipe=recipes, order=st.integers(0, 999), dims=st.tuples(st.integers(1, 99), st.integers(1, 99)))
def test_other_shapes_are_told_with_the_parameters(recipe, order, dims):
    assume(dims != (8, 4))
    diff = diff_modules(build(recipe), build(recipe, order=order, dims=dims))
    assert diff.kind == "shapes"
    assert {(one.before, one.after) for one in diff.parameters} == {("f32[8,4]", f"f32[{dims[0]},{dims[1]}]")}
    assert len(diff.parameters) == 2


@quick
@given(recipe=recipes, order=st.integers(0, 999))
def test_other_types_are_told_apart_from_other_shapes(recipe, order):
    diff = diff_modules(build(recipe), build(recipe, order=order, dtype="f16"))
    assert diff.kind == "types"
    assert diff.parameters[0].after == "f16[8,4]"
    both = diff_modules(build(recipe), build(recipe, order=order, dtype="f16", dims=(3, 3)))
    assert both.kind == "shapes and types"


@quick
@given(recipe=recipes, order=st.integers(0, 999), more=st.integers(0, 4))
def test_one_op_more_is_named(recipe, order, more):
    added = (*BINARY, *UNARY)[more]
    diff = diff_modules(build(recipe), build([*recipe, (more, 0, 1)], order=order))
    assert diff.kind == "ops"
    assert diff.ops[0].what == f"1 more {added}"
    back = diff_modules(build([*recipe, (more, 0, 1)]), build(recipe))
    assert back.ops[0].what == f"1 fewer {added}"


@quick
@given(first=recipes, second=recipes)
def test_any_two_programs_have_one_kind_of_difference_and_a_sentence(first, second):
    diff = diff_modules(build(first), build(second))
    assert diff.kind in KINDS
    assert (diff.kind == "identical") == (diff_modules(build(second), build(first)).kind == "identical")
    assert diff.told()
    assert "\n" not in diff.told()


def test_swapped_operands_are_another_program():
    def subtract(order):
        main = Function("main")
        values = [main.parameter(shape("f32", 4)), main.parameter(shape("f32", 4))]
        main.op("subtract", shape("f32", 4), *values[::order])
        return parse_hlo(writer.module_bytes(main), source="s")

    assert diff_modules(subtract(1), subtract(-1)).kind == "ops"


def test_a_field_that_nobody_reads_is_a_difference():
    def with_precision(data):
        main = writer.matmul()
        message = writer.module(main)
        op = message.computations[0].instructions[2]
        op.MergeFromString(data)
        return parse_hlo(message.SerializeToString(), source="s")

    highest = b"\xba\x03\x04\x0a\x02\x02\x02"  # field 55, precision_config: highest for both operands
    assert diff_modules(with_precision(b""), with_precision(highest)).kind == "ops"
    assert diff_modules(with_precision(highest), with_precision(highest)).kind == "identical"


def test_a_loop_is_compared_with_its_functions():
    before, after = (parse_hlo(writer.module_bytes(*writer.counting_loop(stop=n)), source="s") for n in (5, 6))
    diff = diff_modules(before, after)
    assert (diff.kind, diff.changed_ops) == ("constants", 2)  # where the loop begins, and where it ends
    assert {(one.before, one.after) for one in diff.ops} == {("s32[] 5", "s32[] 6")}
    assert diff.told().startswith("the programs differ in the values of constants: constant.")


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_parameters_is_told(count):
    def summing(parameters):
        main = Function("main")
        values = [main.parameter(shape("f32", 4)) for _ in range(parameters)]
        main.op("tuple", writer.tuple_of(*[shape("f32", 4)] * parameters), *values)
        return parse_hlo(writer.module_bytes(main), source="s")

    diff = diff_modules(summing(2), summing(count))
    assert diff.kind == "ops"
    assert len(diff.parameters) == 1
    assert "" in (diff.parameters[0].before, diff.parameters[0].after)


def test_an_op_that_nothing_uses_is_part_of_the_program():
    def with_effect(target):
        main = Function("main")
        x = main.parameter(shape("f32", 4))
        main.op("custom-call", shape("f32", 4), x, custom_call_target=target)
        main.op("tanh", shape("f32", 4), x)
        return parse_hlo(writer.module_bytes(main), source="s")

    assert diff_modules(with_effect(b"print"), with_effect(b"print")).kind == "identical"
    assert diff_modules(with_effect(b"print"), with_effect(b"log")).kind == "ops"
    assert structure_of(with_effect(b"print")) != structure_of(with_effect(b"log"))
