"""What an XLA program costs: by hand, and bounded whatever the file says."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.errors import FormatError
from npuscope.formats.hlo_cost import opcode_histogram, program_cost
from npuscope.formats.hlo_reader import parse_hlo
from tests.writers import hlo as writer
from tests.writers.hlo import Function, counting_loop, shape, tuple_of


def cost_of(*functions: Function, **options):
    return program_cost(parse_hlo(writer.module_bytes(*functions), source="a.hlo"), **options)


def work_of_last(*functions: Function):
    """Of the last op of the entry."""
    return cost_of(*functions).ops[-1][-1]


def test_a_matmul_is_two_flops_a_product():
    cost = cost_of(writer.matmul(4, 8, 2))
    dot, tanh = cost.ops[0][2:]
    assert dot == (2 * 4 * 8 * 2, 0, 4 * (32 + 16 + 8), 128)
    assert tanh == (0, 8, 64, 0)
    assert cost.total == (128, 8, 288, 128)
    assert cost.executions == (1,)
    assert cost.uncounted == {}


def test_a_batched_dot_with_two_contracted_dimensions():
    main = Function("main")
    left, right = main.parameter(shape("bf16", 3, 4, 5, 6)), main.parameter(shape("bf16", 3, 6, 5, 7))
    dimensions = {"lhs_contracting": [2, 3], "rhs_contracting": [2, 1], "lhs_batch": [0], "rhs_batch": [0]}
    main.op("dot", shape("f32", 3, 4, 7), left, right, dot=dimensions)
    assert work_of_last(main)[:3] == (2 * 3 * 4 * 7 * 30, 0, 2 * (360 + 630) + 4 * 84)


def test_a_loop_counts_as_often_as_it_runs():
    functions = counting_loop(0, 5, 1)
    cost = cost_of(*functions)
    body, condition, _ = cost.computations
    assert (body.flops, condition.flops) == (9, 1)
    assert cost.total.flops == 5 * 9 + 6 * 1
    assert (cost.executions, cost.unknown_loops) == ((5, 6, 1), 0)
    (loop,) = cost.loops
    assert (loop.computation, loop.op, loop.trip_count, loop.body) == (2, 4, 5, body)
    assert cost_of(*functions, loops_once=True).total.flops == 10
    assert cost_of(*functions, assumed_trip_count=100).total == cost.total


def test_a_loop_of_unknown_length_counts_as_assumed():
    functions = counting_loop(stop=None)
    cost = cost_of(*functions)
    assert (cost.total.flops, cost.unknown_loops, cost.assumed_trip_count) == (9 + 2, 1, 1)
    assert cost.loops[0].trip_count is None
    assert cost_of(*functions, assumed_trip_count=7).total.flops == 7 * 9 + 8
    assert cost_of(*functions, assumed_trip_count=0).executions == (0, 1, 1)


def test_a_histogram_counts_ops_and_executions():
    module = parse_hlo(writer.module_bytes(*counting_loop(0, 5, 1)), source="a")
    rows = opcode_histogram(module, program_cost(module))
    assert rows[0] == ("get-tuple-element", 5, 3 * 5 + 6 + 1)
    assert {row.opcode: row.executed for row in rows}["while"] == 1
    assert sum(row.ops for row in rows) == module.op_count


def reduction(*dimensions: int, opcode: str = "reduce", result=None, functions=("add",), operands=2, **fields):
    """An op that applies functions to elements."""
    applied = []
    for name in functions:
        function = Function(name)
        function.op(name, shape("f32"), function.parameter(shape("f32")), function.parameter(shape("f32")))
        applied.append(function)
    main = Function("main")
    given = [main.parameter(shape("f32", *dimensions)), main.constant("f32", 0)]
    main.op(opcode, result or shape("f32"), *given[:operands], calls=tuple(applied), **fields)
    return (*applied, main)


def test_a_reduction_applies_its_function_to_what_disappears():
    functions = reduction(6, 4, result=shape("f32", 6))
    assert work_of_last(*functions) == (18, 0, 4 * (24 + 1 + 6), 0)
    assert cost_of(*functions).executions == (0, 1)


def test_a_window_applies_its_function_once_less_than_it_is_large():
    window = {"dimensions": [{"size": 2, "stride": 2}, {"size": 3, "stride": 1}]}
    functions = reduction(6, 4, opcode="reduce-window", result=shape("f32", 3, 2), window=window)
    assert work_of_last(*functions).flops == 5 * 6


def test_a_window_over_the_whole_dimension_is_one_reduction():
    """XLA's rule for a reduction whose result is repeated: 6 sums of nothing and 3 of one dimension of 4."""
    window = {"dimensions": [{"size": 1}, {"size": 7, "padding_low": 3, "padding_high": 3}]}
    functions = reduction(6, 4, opcode="reduce-window", result=shape("f32", 6, 4), window=window)
    assert work_of_last(*functions).flops == 24 // 4 + 3


def test_slices_and_updates_count_what_they_touch():
    main = Function("main")
    x, at = main.parameter(shape("f32", 100, 100)), main.parameter(shape("s32"))
    piece = main.op("slice", shape("f32", 2, 3), x)
    main.op("dynamic-slice", shape("f32", 2, 3), x, at, at)
    main.op("dynamic-update-slice", shape("f32", 100, 100), x, piece, at, at)
    main.op("gather", shape("f32", 5), x, main.parameter(shape("s32", 5, 2)))
    works = cost_of(main).ops[0]
    assert [works[place].accessed_bytes for place in (2, 3, 4, 6)] == [48, 52, 52, 2 * 20 + 40]
    assert all(work.flops == 0 for work in works)


def transposed(layout):
    main = Function("main")
    result = shape("f32", 4, 6)
    result.layout.minor_to_major[:] = layout
    main.op("transpose", result, main.parameter(shape("f32", 6, 4)), dimensions=[1, 0])
    return main


def test_a_transpose_that_only_relabels_moves_nothing():
    assert work_of_last(transposed([0, 1])).accessed_bytes == 0
    assert work_of_last(transposed([1, 0])).accessed_bytes == 192


def test_a_fusion_reads_what_it_uses_and_writes_what_it_changes():
    fused, main = Function("fused"), Function("main")
    x, y = fused.parameter(shape("f32", 100)), fused.parameter(shape("f32", 4))
    total = fused.op("add", shape("f32", 4), fused.op("slice", shape("f32", 4), x), y)
    total = fused.op("multiply", shape("f32", 4), total, fused.constant("f32", 1, 2, 3, 4))
    fused.op("dynamic-update-slice", shape("f32", 100), x, total, fused.constant("s32", 0))
    given = main.parameter(shape("f32", 100)), main.parameter(shape("f32", 4))
    main.op("fusion", shape("f32", 100), *given, calls=(fused,))
    assert work_of_last(fused, main) == (8, 0, 16 + 16 + 16 + 16, 0)


def test_of_a_conditional_the_branch_with_most_counts():
    one, two, main = Function("one"), Function("two"), Function("main")
    given = one.parameter(shape("f32", 8))
    one.op("tanh", shape("f32", 8), given)
    given = two.parameter(shape("f32", 8))
    two.op("add", shape("f32", 8), two.op("add", shape("f32", 8), given, given), given)
    chosen, given = main.parameter(shape("s32")), main.parameter(shape("f32", 8))
    main.op("conditional", shape("f32", 8), chosen, given, given, calls=(one, two))
    cost = cost_of(one, two, main)
    assert cost.total == (16, 8, 192, 0)
    assert cost.executions == (1, 1, 1)


def test_what_has_no_rule_is_named_and_never_counted_as_nothing():
    main = Function("main")
    x = main.parameter(shape("f32", 8))
    x = main.op("custom-call", shape("f32", 8), x, custom_call_target=b"kernel\x1b")
    main.op("tuple", tuple_of(shape("f32", 8)), main.op("teleport", shape("f32", 8), x))
    cost = cost_of(main)
    assert cost.uncounted == {"custom-call kernel?": 1, "teleport": 1}
    assert cost.total == (0, 0, 64 + 64 + 8, 0)


def convolution(image, kernel, output, *, groups=1, batches=1, **window):
    """One spatial dimension; image and output as batch, width, features; kernel as width, in, out."""
    main = Function("main")
    window = {"size": kernel[0], "stride": 1, "window_dilation": 1, "base_dilation": 1, **window}
    numbers = {
        "input_batch": 0,
        "input_spatial": [1],
        "input_feature": 2,
        "kernel_spatial": [0],
        "kernel_input_feature": 1,
        "kernel_output_feature": 2,
        "output_batch": 0,
        "output_spatial": [1],
        "output_feature": 2,
    }
    main.op(
        "convolution",
        shape("f32", *output),
        main.parameter(shape("f32", *image)),
        main.parameter(shape("f32", *kernel)),
        convolution=numbers,
        window={"dimensions": [window]},
        feature_group_count=groups,
        batch_group_count=batches,
    )
    return main


def test_a_convolution_leaves_out_taps_on_padding():
    same = convolution((2, 10, 4), (3, 4, 8), (2, 10, 8), padding_low=1, padding_high=1)
    assert work_of_last(same).model_flops == 2 * 2 * 4 * 8 * (3 * 10 - 2)
    assert work_of_last(convolution((2, 10, 4), (3, 4, 8), (2, 8, 8))).flops == 2 * 2 * 4 * 8 * 24
    assert work_of_last(convolution((2, 10, 4), (3, 2, 8), (2, 8, 8), groups=2)).flops == 2 * 2 * 2 * 8 * 24


@settings(max_examples=300, deadline=None)
@given(
    image=st.integers(1, 9),
    kernel=st.integers(1, 5),
    output=st.integers(1, 12),
    stride=st.integers(1, 4),
    low=st.integers(-3, 5),
    dilation=st.integers(1, 3),
    spread=st.integers(1, 4),
)
def test_taps_are_those_that_meet_an_input(image, kernel, output, stride, low, dilation, spread):
    main = convolution(
        (1, image, 1),
        (kernel, 1, 1),
        (1, output, 1),
        stride=stride,
        padding_low=low,
        window_dilation=dilation,
        base_dilation=spread,
    )
    places = [place * stride - low + tap * dilation for place in range(output) for tap in range(kernel)]
    met = sum(place % spread == 0 and 0 <= place // spread < image for place in places)
    assert work_of_last(main).flops == 2 * met


def nested_loops(depth: int) -> list[Function]:
    """Loops of 2^31 - 1 iterations in one another."""
    functions: list[Function] = []
    state = tuple_of(shape("s32"), shape("f32", 8), shape("s32"))
    for level in range(depth):
        body, condition, main = counting_loop(0, 2**31 - 1, 1)
        for function in (body, condition, main):
            function.name += str(level)
        if functions:
            inner, condition_of_inner = functions[-2:]
            zero = body.constant("s32", 0)
            initial = body.op("tuple", state, zero, body.ops[4], zero)
            loop = body.while_loop(state, initial, body=inner, condition=condition_of_inner)
            counter = body.element(shape("s32"), body.ops[0], 0)
            following = body.op("add", shape("s32"), counter, body.constant("s32", 1))
            body.op("tuple", state, following, body.element(shape("f32", 8), loop, 1), following)
        functions += [body, condition]
    return [*functions, main]


def test_work_beyond_all_bounds_is_refused():
    assert cost_of(*nested_loops(2)).total.flops > 2**64
    with pytest.raises(FormatError, match=r"work that a machine could do, found more than 2\^96"):
        cost_of(*nested_loops(5))


def test_calls_that_double_at_every_level_are_refused_at_once():
    functions = [Function("f0")]
    functions[0].parameter(shape("f32"))
    for level in range(1, 200):
        function = Function(f"f{level}")
        value = function.parameter(shape("f32"))
        for _ in range(2):
            value = function.op("call", shape("f32"), value, calls=(functions[-1],))
        functions.append(function)
    with pytest.raises(FormatError, match=r"call call\.2: expected work that a machine could do"):
        cost_of(*functions)


def wrong_dot(*dimensions):
    main = writer.matmul()
    main.ops[2].dot.lhs_contracting[:] = dimensions
    return main


def wrong_layout():
    main = transposed([0, 1])
    result = shape("f32", 4, 6)
    result.layout.minor_to_major[:] = [0, 5]
    main.ops[-1].shape = result.SerializeToString()
    return main


@pytest.mark.parametrize(
    "main",
    [
        wrong_dot(2),
        wrong_dot(0, 1, 0),
        wrong_dot(-1),
        convolution((2, 4), (3, 4, 8), (2, 8, 8)),
        convolution((2, 10, 4), (1 << 36, 4, 8), (2, 10, 8)),
        wrong_layout(),
    ],
)
def test_attributes_that_do_not_fit_are_one_error(main):
    with pytest.raises(FormatError, match="attributes that fit its operands"):
        cost_of(main)
