"""Serialized HLO: what is read, and how what is damaged is refused."""

import struct

import pytest

from npuscope.errors import FormatError
from npuscope.formats.hlo import collection_paused, literal_values
from npuscope.formats.hlo_envelope import OPS_LIMIT
from npuscope.formats.hlo_inspection import inspect_hlo, inspect_module
from npuscope.formats.hlo_reader import parse_hlo, read_hlo, read_hlo_bytes
from npuscope.formats.hlo_schema import message_class
from tests.writers import hlo as writer
from tests.writers.hlo import Function, shape, tuple_of

MATMUL = writer.module_bytes(writer.matmul(4, 8, 2), name="jit_f")
LOOP = writer.module_bytes(*writer.counting_loop())


def refused(data: bytes, match: str) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        parse_hlo(data, source="a.hlo")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("a.hlo")


def damaged(edit, *functions: Function) -> bytes:
    message = writer.module(*(functions or writer.counting_loop()))
    edit(message)
    return message.SerializeToString()


def test_a_module_is_read_op_by_op():
    module = parse_hlo(MATMUL, source="a.hlo")
    assert (module.name, module.op_count, module.size_bytes) == ("jit_f", 4, len(MATMUL))
    main = module.entry_computation
    assert [op.opcode for op in main.ops] == ["parameter", "parameter", "dot", "tanh"]
    assert [op.operands for op in main.ops] == [(), (), (0, 1), (2,)]
    assert (main.root, main.parameters) == (3, (0, 1))
    assert [str(op.shape) for op in main.ops] == ["f32[4,8]", "f32[8,2]", "f32[4,2]", "f32[4,2]"]
    assert main.ops[0].shape[3:] == (32, 128)
    assert list(main.ops[2].attributes.dot.lhs_contracting) == [1]


def test_functions_are_places_before_those_that_call_them():
    module = parse_hlo(LOOP, source="a.hlo")
    assert [c.name for c in module.computations] == ["body", "condition", "main"]
    loop = module.entry_computation.ops[4]
    assert (loop.opcode, loop.called) == ("while", (0, 1))
    assert module.callers == (((2, 4),), ((2, 4),), ())
    assert [module.place_of(computation) for computation in module.computations] == [0, 1, 2]


@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_module_is_found_in_its_wrappers_and_in_gzip(tmp_path, levels, is_packed):
    data = LOOP
    for _ in range(levels):
        data = writer.wrapped(data)
    path = tmp_path / "a.bin"
    path.write_bytes(writer.packed(data) if is_packed else data)
    module = read_hlo(path)
    assert (module.op_count, module.source) == (18, str(path))


@pytest.mark.parametrize(
    ("element_type", "dimensions", "elements", "size"),
    [
        ("f32", (), 1, 4),
        ("bf16", (3, 5), 15, 30),
        ("pred", (7,), 7, 7),
        ("s4", (3,), 3, 2),
        ("u2", (5,), 5, 2),
        ("c128", (2,), 2, 32),
        ("f32", (4, 0), 0, 0),
        ("token", (), 0, 0),
        ("f8e4m3fn", (9,), 9, 9),
    ],
)
def test_sizes_of_arrays(element_type, dimensions, elements, size):
    main = Function("main")
    main.parameter(shape(element_type, *dimensions))
    found = parse_hlo(writer.module_bytes(main), source="a").entry_computation.ops[0].shape
    assert (found.element_type, found.dimensions, found.elements, found.bytes) == (
        element_type,
        dimensions,
        elements,
        size,
    )


def test_a_tuple_is_as_large_as_its_parts():
    main = Function("main")
    main.parameter(tuple_of(shape("f32", 4), tuple_of(shape("s8", 3), shape("token"))))
    found = parse_hlo(writer.module_bytes(main), source="a").entry_computation.ops[0].shape
    assert (found.elements, found.bytes, str(found)) == (0, 19, "(f32[4], (s8[3], token[]))")


def test_unknown_opcodes_and_element_types_are_kept():
    main = Function("main")
    strange = shape("f32", 2)
    strange.element_type = 77
    main.op("teleport", strange, main.parameter(strange))
    op = parse_hlo(writer.module_bytes(main), source="a").entry_computation.ops[1]
    assert (op.opcode, str(op.shape), op.shape.bytes) == ("teleport", "unknown(77)[2]", 8)


def test_control_characters_of_a_file_reach_no_name():
    main = Function("main\x1b[31m")
    main.op("tele\x07port", shape("f32"))
    module = parse_hlo(writer.module_bytes(main, name="a\nb"), source="a")
    assert (module.name, module.entry_computation.name) == ("a?b", "main?[31m")
    assert module.entry_computation.ops[0].opcode == "tele port"


@pytest.mark.parametrize("data", [MATMUL, LOOP, writer.wrapped(LOOP), writer.wrapped(writer.wrapped(MATMUL))])
def test_a_file_cut_anywhere_is_refused(data):
    for end in range(len(data)):
        with pytest.raises(FormatError, match="expected"):
            parse_hlo(data[:end], source="a.hlo")


def test_a_file_cut_between_two_fields_is_told_to_be_cut_off():
    message = writer.module(*writer.counting_loop())
    message.ClearField("entry_computation_id")
    refused(message.SerializeToString(), "main: expected it among the computations, found none with id 0; .*cut off")
    message.ClearField("computations")
    refused(message.SerializeToString(), "another message")


def test_id_0_is_an_entry_only_under_its_name():
    message = writer.module(writer.matmul())
    message.computations[0].id = message.entry_computation_id = 0
    assert parse_hlo(message.SerializeToString(), source="a").entry_computation.name == "main"
    message.entry_computation_name = b"other"
    refused(message.SerializeToString(), "entry computation other: .* found another name under its id")


@pytest.mark.parametrize("data", [b"", b"\0", b"hello world", b"\x0a\x02\x08\x00", b"\x1f\x8b", b"\xff" * 40])
def test_what_is_no_module_is_refused(data):
    refused(data, "expected a serialized HLO module")


def swap_first_two(message):
    items = message.computations[0].instructions
    first, second = items[1], items[2]
    copy = message_class("Instruction")()
    copy.CopyFrom(first)
    first.CopyFrom(second)
    second.CopyFrom(copy)
    items[3].operand_ids[:] = [items[4].id, items[4].id]


def edit_op(place, number, **fields):
    def edit(message):
        item = message.computations[place].instructions[number]
        for name, value in fields.items():
            if isinstance(value, list):
                getattr(item, name)[:] = value
            else:
                setattr(item, name, value)

    return edit


def set_computation(place, **fields):
    def edit(message):
        for name, value in fields.items():
            setattr(message.computations[place], name, value)

    return edit


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (swap_first_two, "operands before it, found one that comes after it: the ops form a cycle"),
        (edit_op(0, 3, operand_ids=[999, 102]), "add.3 of body: expected operands before it, found no op with id 999"),
        (edit_op(0, 3, operand_ids=[104, 102]), "the ops form a cycle"),
        (edit_op(0, 3, operand_ids=[102]), "add add.3 of body: expected 2 operands, found 1"),
        (edit_op(0, 3, operand_ids=[102, 102, 102]), "expected 2 operands, found 3"),
        (edit_op(2, 5, id=117), "computation main: expected one id per op, found two with the same id"),
        (edit_op(2, 4, called_computation_ids=[1, 3]), "found one that comes after it: they form a cycle"),
        (edit_op(2, 4, called_computation_ids=[1, 77]), "found no computation with id 77"),
        (edit_op(2, 4, called_computation_ids=[1]), "while while.4 of main: expected 2 functions, found 1"),
        (edit_op(2, 4, called_computation_ids=[2, 1]), "expected what its body returns to be"),
        (edit_op(2, 0, parameter_number=1), "parameters 0, 1, 2, ..., found a gap"),
        (edit_op(2, 0, parameter_number=-1), "parameters 0, 1, 2, ..., found a gap"),
        (edit_op(2, 1, opcode=b"parameter"), "expected one of each parameter, found two with number 0"),
        (set_computation(0, id=2), "computations: expected one id each"),
        (set_computation(1, root_id=5), "computation condition: expected its root, found no op with id 5"),
    ],
)
def test_a_module_that_contradicts_itself_is_refused(edit, match):
    refused(damaged(edit), match)


@pytest.mark.parametrize(
    ("dimensions", "match"),
    [
        ((-3,), r"a static shape of at most 17,592,186,044,416 elements, found f32\[-3\]"),
        ((-(1 << 63),), "a static shape"),
        ((1 << 23, 1 << 22), "a static shape"),
        ((0, 1 << 62), "a static shape"),
        ((1,) * 65, "at most 64 dimensions, found 65"),
    ],
)
def test_absurd_shapes_are_refused(dimensions, match):
    main = Function("main")
    main.parameter(shape("f32", *dimensions))
    refused(writer.module_bytes(main), match)


def test_the_largest_shape_is_read():
    main = Function("main")
    main.parameter(shape("f32", 1 << 22, 1 << 22))
    assert parse_hlo(writer.module_bytes(main), source="a").entry_computation.ops[0].shape.bytes == 1 << 46


@pytest.mark.parametrize(("depth", "match"), [(65, "at most 64 tuples in one another"), (5_000, "expected a shape")])
def test_tuples_nested_too_deeply_are_refused(depth, match):
    data = shape("f32").SerializeToString()
    for _ in range(depth):
        data = b"\x10\x0d\x22" + varint(len(data)) + data
    message = writer.module(writer.matmul())
    message.computations[0].instructions[0].shape = data
    refused(message.SerializeToString(), match)


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def call_with_too_few_arguments():
    callee, main = writer.matmul(), Function("entry")
    main.op("call", shape("f32", 4, 2), main.parameter(shape("f32", 4, 8)), calls=(callee,))
    return callee, main


def conditional_without_operands():
    branch, main = Function("branch"), Function("entry")
    branch.parameter(shape("f32"))
    chosen, given = main.parameter(shape("s32")), main.parameter(shape("f32"))
    main.op("conditional", shape("f32"), chosen, given, calls=(branch, branch))
    return branch, main


def loop_on_a_number():
    body, condition, main = writer.counting_loop()
    condition.op("convert", shape("s32"), condition.ops[-1])
    return body, condition, main


def uneven_reduction():
    add, main = Function("add"), Function("entry")
    add.op("add", shape("f32"), add.parameter(shape("f32")), add.parameter(shape("f32")))
    x = main.parameter(shape("f32", 4))
    main.op("reduce", shape("f32"), x, x, x, calls=(add,))
    return add, main


@pytest.mark.parametrize(
    ("functions", "match"),
    [
        (call_with_too_few_arguments(), "call call.1 of entry: expected 1 parameters of main, found 2"),
        (conditional_without_operands(), "a selector and an operand for each branch, found 2 operands"),
        (loop_on_a_number(), r"expected a condition that is pred\[\], found s32\[\]"),
        (uneven_reduction(), "as many initial values or updates as inputs, found 3 operands"),
    ],
)
def test_calls_fit_what_they_call(functions, match):
    refused(writer.module_bytes(*functions), match)


def test_a_long_name_does_not_make_a_long_error():
    message = writer.module(writer.matmul())
    message.computations[0].name = message.entry_computation_name = b"n" * 100_000
    message.computations[0].instructions[3].operand_ids[:] = [7]
    with pytest.raises(FormatError) as caught:
        parse_hlo(message.SerializeToString(), source="a")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("functions", "each", "match"),
    [(2, OPS_LIMIT * 2 // 3, "computations: expected at most 1,000,000 ops"), (1, OPS_LIMIT + 1, "1000000 fields")],
)
def test_more_ops_than_memory_holds_are_refused_before_they_are_decoded(functions, each, match):
    body = b"\x12\x00" * each
    refused(b"\x0a\x01m\x12\x01e" + (b"\x1a" + varint(len(body)) + body) * functions + b"\x30\x01", match)


def test_gzip_is_whole_and_unpacks_within_bounds(tmp_path, monkeypatch):
    path = tmp_path / "a.gz"
    whole = writer.packed(LOOP)
    path.write_bytes(whole[:-9])
    with pytest.raises(FormatError, match="a whole gzip file, found it is cut off after"):
        read_hlo(path)
    path.write_bytes(whole[:12] + b"\xff\xff\xff" + whole[15:])
    with pytest.raises(FormatError, match="expected gzip data"):
        read_hlo(path)
    monkeypatch.setattr("npuscope.formats.hlo_reader._EXPANSION_FLOOR", 1 << 16)
    path.write_bytes(writer.packed(bytes(1 << 20)))
    with pytest.raises(FormatError, match=r"less than \d+\.\d KiB, found more; unpack it yourself"):
        read_hlo_bytes(path)


def test_a_file_that_is_not_there_is_one_error(tmp_path):
    with pytest.raises(FormatError, match="a readable file, found No such file"):
        read_hlo(tmp_path / "nowhere.hlo")


@pytest.mark.parametrize(
    ("element_type", "values"),
    [("s32", (-5,)), ("u8", (200, 3)), ("s16", (-2, 7)), ("pred", (True, False)), ("f32", (1.5,)), ("s64", (1 << 40,))],
)
def test_numbers_of_a_constant(element_type, values):
    main = Function("main")
    main.constant(element_type, *values)
    op = parse_hlo(writer.module_bytes(main), source="a").entry_computation.ops[0]
    assert literal_values(op.attributes.literal, element_type) == values
    assert literal_values(op.attributes.literal, "bf16") == ()


def test_a_packed_constant_of_odd_length_gives_its_whole_numbers():
    literal = message_class("Literal")(u16s=struct.pack("<H", 9) + b"\1")
    assert literal_values(literal, "u16") == (9,)


def test_the_line_of_an_op_comes_from_its_metadata_or_its_stack():
    message = writer.module(writer.matmul())
    items = message.computations[0].instructions
    items[2].metadata.source_file, items[2].metadata.source_line = b"/home/me/model.py", 12
    items[3].metadata.stack_frame_id = 1
    message.stack_frames.file_names.append(b"/x/train.py")
    message.stack_frames.file_locations.add(file_name_id=1, line=7)
    message.stack_frames.stack_frames.add(file_location_id=1)
    module = parse_hlo(message.SerializeToString(), source="a")
    lines = [module.source_line(op) for op in module.entry_computation.ops]
    assert lines == ["", "", "model.py:12", "train.py:7"]


def test_the_collector_is_as_it_was():
    import gc

    with collection_paused():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_inspection_tells_loops_work_and_shapes(tmp_path):
    path = tmp_path / "a.hlo"
    path.write_bytes(LOOP)
    inspection = inspect_hlo(path)
    facts = inspection.facts
    assert inspection.kind == "hlo"
    assert inspection.title == "XLA program of 18 op(s), 1 loop(s), 1 parameter(s), result f32[8]"
    assert (facts["ops"], facts["loops"], facts["loops_of_unknown_trip_count"]) == (18, 1, 0)
    assert (facts["parameters_bytes"], facts["results_bytes"], facts["constants_bytes"]) == (32, 32, 16)
    assert facts["has_fusions"] is False
    # 5 x (1 + 8) of the body, 6 comparisons.
    assert (facts["counted_flops"], facts["model_flops"], facts["transcendentals"]) == (51, 0, 0)
    (loop,) = inspection.tables["loops"]
    assert (loop["loop"], loop["in"], loop["trip_count"], loop["body_ops"]) == ("while.4", "main", 5, 8)
    rows = {row["opcode"]: (row["ops"], row["executed"]) for row in inspection.tables["ops by opcode"]}
    assert (rows["add"], rows["compare"], rows["while"]) == ((2, 10), (1, 6), (1, 1))
    assert facts["executed_ops"] == sum(executed for _, executed in rows.values()) == 6 + 5 * 8 + 6 * 4
    assert inspection.tables["parameters"] == [
        {"parameter": 0, "shape": "f32[8]", "size_bytes": 32, "name": "parameter.0"}
    ]
    assert inspection.notes == ()


def test_an_inspection_says_what_it_does_not_know():
    inner, main = Function("inner"), Function("main")
    inner.op("negate", shape("f32"), inner.parameter(shape("f32")))
    value = main.op("fusion", shape("f32"), main.parameter(shape("f32")), calls=(inner,))
    main.op("custom-call", shape("f32"), value, custom_call_target=b"AwsNeuronSoftmax")
    inspection = inspect_module(parse_hlo(writer.module_bytes(inner, main), source="a"), kind="hlo-text")
    assert (inspection.kind, inspection.facts["has_fusions"]) == ("hlo-text", True)
    assert inspection.tables["custom calls"] == [{"target": "AwsNeuronSoftmax", "ops": 1}]
    assert "optimised for one device" in inspection.notes[0]
    assert inspection.notes[1] == "the FLOPs of these ops are not counted: custom-call AwsNeuronSoftmax (1)"


def test_so_many_operands_are_refused_before_they_are_looked_up():
    message = writer.module(writer.matmul())
    message.computations[0].instructions[-1].operand_ids.extend([102] * 100_001)
    refused(message.SerializeToString(), "of main: expected at most 100,000 operands, found 100,002|100,001")


def test_so_many_parts_of_tuples_are_refused():
    main = writer.Function("main")
    x = main.parameter(writer.tuple_of(*[writer.shape("f32")] * 1_000_001))
    main.element(writer.shape("f32"), x, 0)
    refused(writer.module_bytes(main), "parameter.0 of main: expected at most 1,000,000 parts of tuples")


def test_ops_that_differ_in_what_is_not_read_are_not_equal():
    """Field 51 of the second dot: its precision."""
    message = writer.module(writer.matmul())
    message.computations[0].instructions[2].MergeFromString(b"\x9a\x03\x04\x0a\x02\x02\x02")
    plain = parse_hlo(writer.module_bytes(writer.matmul()), source="a").entry_computation.ops[2]
    precise = parse_hlo(message.SerializeToString(), source="a").entry_computation.ops[2]
    assert plain.opcode == precise.opcode == "dot"
    assert plain.attributes != precise.attributes
