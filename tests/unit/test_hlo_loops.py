"""Trip counts: exact, or not told; on loops written by hand, and on those that JAX and XLA write."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.formats.hlo_loops import iterations, trip_count
from npuscope.formats.hlo_reader import parse_hlo
from tests.writers import hlo as writer
from tests.writers.hlo import Function, counting_loop, shape, tuple_of

S32, F32 = shape("s32"), shape("f32", 8)


def trips(*functions: Function) -> list[int | None]:
    return trips_of(parse_hlo(writer.module_bytes(*functions), source="test"))


def trips_of(module) -> list[int | None]:
    """Of all loops, the innermost first."""
    return [
        trip_count(module, computation, op)
        for computation in module.computations
        for op in computation.ops
        if op.opcode == "while"
    ]


@pytest.mark.parametrize(
    ("start", "direction", "stop", "step", "expected"),
    [
        (0, "LT", 5, 1, 5),
        (0, "LE", 5, 1, 6),
        (3, "LT", 17, 4, 4),
        (3, "LT", 19, 4, 4),
        (3, "LT", 20, 4, 5),
        (20, "GT", 0, -3, 7),
        (20, "GE", 2, -3, 7),
        (-7, "LT", -2, 2, 3),
        (0, "NE", 30, 3, 10),
        (30, "NE", 0, -3, 10),
        (4, "EQ", 4, 1, 1),
        # None at all.
        (5, "LT", 5, 1, 0),
        (6, "LT", 5, 1, 0),
        (5, "GE", 6, -1, 0),
        (7, "NE", 7, 1, 0),
        (4, "EQ", 5, 1, 0),
        # No end, or one only after the counter wraps.
        (0, "NE", 31, 3, None),
        (0, "NE", -3, 3, None),
        (0, "LT", 5, 0, None),
        (0, "LT", 5, -1, None),
        (4, "EQ", 4, 0, None),
        (0, "LE", 2**31 - 1, 1, None),
        (0, "LT", 2**31 - 1, 2, None),
        (0, "LT", 2**31 - 1, 1, 2**31 - 1),
    ],
)
@pytest.mark.parametrize("stop_is_carried", [False, True])
def test_a_counter_is_followed(start, direction, stop, step, expected, stop_is_carried):
    loop = counting_loop(start, stop, step, direction=direction, stop_is_carried=stop_is_carried)
    assert trips(*loop) == [expected]


@settings(max_examples=300, deadline=None)
@given(
    start=st.integers(-20, 20),
    stop=st.integers(-20, 20),
    step=st.integers(-6, 6),
    direction=st.sampled_from(["LT", "LE", "GT", "GE", "EQ", "NE"]),
)
def test_the_formula_counts_as_the_loop_would(start, stop, step, direction):
    test = {
        "LT": lambda d: d < 0,
        "LE": lambda d: d <= 0,
        "GT": lambda d: d > 0,
        "GE": lambda d: d >= 0,
        "EQ": lambda d: d == 0,
        "NE": lambda d: d != 0,
    }[direction]
    counter, count = start - stop, 0
    while test(counter) and count < 100:
        counter, count = counter + step, count + 1
    assert iterations(direction, start - stop, step) == (count if count < 100 else None)


@settings(max_examples=200, deadline=None)
@given(
    element_type=st.sampled_from(["s8", "u8"]),
    start=st.integers(-128, 255),
    stop=st.integers(-128, 255),
    step=st.integers(-128, 255),
    direction=st.sampled_from(["LT", "LE", "GT", "GE", "NE"]),
)
def test_a_counter_of_a_byte_agrees_with_the_machine_or_is_not_told(element_type, start, stop, step, direction):
    low, high = (-128, 127) if element_type == "s8" else (0, 255)
    start, stop, step = ((value - low) % 256 + low for value in (start, stop, step))
    (found,) = trips(*counting_loop(start, stop, step, direction=direction, element_type=element_type))
    test = {"LT": "__lt__", "LE": "__le__", "GT": "__gt__", "GE": "__ge__", "NE": "__ne__"}[direction]
    counter, count, wraps = start, 0, False
    while getattr(counter, test)(stop) and count < 300:
        # What is added to an unsigned counter may be a subtraction: the nearer way round.
        nearest = (step + 128) % 256 - 128
        wraps = wraps or not low <= counter + nearest <= high
        counter, count = (counter + step - low) % 256 + low, count + 1
    if wraps or count == 300:
        assert found in (None, count)
    else:
        assert found == count


def test_a_bound_from_outside_is_not_told():
    assert trips(*counting_loop(stop=None)) == [None]


def through_functions():
    """The counter goes through a call, a fusion, converts, copies and a barrier; the start is in a caller."""
    state = tuple_of(S32, F32)
    add_two = Function("add_two")
    add_two.op("add", S32, add_two.parameter(S32), add_two.constant("s32", 2))
    below = Function("below")
    left, right = below.parameter(S32), below.parameter(S32)
    below.compare(left, "LT", right)
    body, condition, run, main = (Function(name) for name in ("body", "condition", "run", "main"))
    carried = body.op("opt-barrier", state, body.parameter(state))
    wide = body.op("convert", shape("s64"), body.element(S32, carried, 0))
    narrow = body.op("reshape", S32, body.op("convert", S32, wide))
    following = body.op("copy", S32, body.op("call", S32, narrow, calls=(add_two,)))
    body.op("tuple", state, following, body.element(F32, carried, 1))
    counter = condition.element(S32, condition.op("copy", state, condition.parameter(state)), 0)
    condition.op("fusion", shape("pred"), counter, condition.constant("s32", 11), calls=(below,))
    run.while_loop(state, run.parameter(state), body=body, condition=condition)
    given = main.parameter(F32)
    initial = main.op("tuple", state, main.op("copy", S32, main.constant("s32", 1)), given)
    main.op("call", state, initial, calls=(run,))
    return add_two, below, body, condition, run, main


def test_a_counter_is_followed_through_functions_and_copies():
    assert trips(*through_functions()) == [5]


def test_a_function_called_with_two_starts_is_not_told():
    *functions, main = through_functions()
    run = functions[-1]
    state = tuple_of(S32, F32)
    other = main.op("tuple", state, main.constant("s32", 3), main.ops[0])
    main.op("call", state, other, calls=(run,))
    assert trips(*functions, main) == [None]
    main.operands[-2] = (main.ops[2], main.ops[0])  # the same start again
    assert trips(*functions, main) == [5]


def test_a_narrowing_that_would_wrap_on_the_way_is_not_told():
    body, condition, main = counting_loop(0, 300, 1)
    small = condition.op("convert", shape("s8"), condition.ops[1])
    wide = condition.op("convert", S32, small)
    condition.compare(wide, "LT", condition.ops[2])
    assert trips(body, condition, main) == [None]
    body, condition, main = counting_loop(0, 100, 1)
    small = condition.op("convert", shape("s8"), condition.ops[1])
    condition.compare(condition.op("convert", S32, small), "LT", condition.ops[2])
    assert trips(body, condition, main) == [100]


def test_a_negated_condition_and_a_constant_one():
    body, condition, main = counting_loop(0, 5, 1, direction="GE")
    condition.op("not", shape("pred"), condition.ops[-1])
    assert trips(body, condition, main) == [5]
    body, condition, main = counting_loop()
    condition.constant("pred", False)
    assert trips(body, condition, main) == [0]
    condition.constant("pred", True)
    assert trips(body, condition, main) == [None]


def test_a_linear_function_of_the_counter_is_followed():
    """What XLA makes of two counters: i < 10 - 2 i."""
    body, condition, main = counting_loop(0, 0, 1)
    doubled = condition.op("multiply", S32, condition.ops[1], condition.constant("s32", -2))
    condition.compare(condition.ops[1], "LT", condition.op("add", S32, doubled, condition.constant("s32", 10)))
    assert trips(body, condition, main) == [4]


CLAIM = b'{"known_trip_count":{"n":"%s"},"other":[]}'


def test_the_compilers_claim_counts_where_the_loop_itself_does_not_tell():
    assert trips(*counting_loop(0, 31, 3, direction="NE", config=CLAIM % b"7")) == [7]
    assert trips(*counting_loop(config=CLAIM % b"7")) == [5]


@pytest.mark.parametrize(
    "config", [CLAIM % b"-1", CLAIM % b"x", b'{"known_trip_count":7}', b"known_trip_count", b'["known_trip_count"]']
)
def test_a_claim_that_is_none_is_passed_over(config):
    assert trips(*counting_loop(0, 31, 3, direction="NE", config=config)) == [None]


def test_an_element_that_is_not_there_is_not_told():
    body, condition, main = counting_loop()
    condition.ops[1].tuple_index = 9
    assert trips(body, condition, main) == [None]
    condition.ops[1].tuple_index = -1
    assert trips(body, condition, main) == [None]


def test_a_long_chain_ends():
    body, condition, main = counting_loop()
    value = condition.ops[1]
    for _ in range(5_000):
        value = condition.op("copy", S32, value)
    condition.compare(value, "LT", condition.ops[2])
    assert trips(body, condition, main) == [None]


def test_a_chain_that_doubles_at_every_step_ends():
    body, condition, main = counting_loop()
    value = condition.ops[1]
    for _ in range(60):
        value = condition.op("add", S32, value, value)
    condition.compare(value, "LT", condition.ops[2])
    assert trips(body, condition, main) == [None]


# As JAX lowers them, and as XLA compiles them.


def jax_trips(function, *arguments) -> tuple[list[int | None], list[int | None]]:
    jax = pytest.importorskip("jax")
    lowered = jax.jit(function).lower(*arguments)
    compiled = lowered.compile().runtime_executable().hlo_modules()[0]
    found = [
        sorted(trips_of(parse_hlo(module.as_serialized_hlo_module_proto(), source="jax")), key=str)
        for module in (lowered.compiler_ir("hlo"), compiled)
    ]
    return found[0], found[1]


def _programs():
    import jax
    from jax import lax

    vector, rows = jax.numpy.ones(8), jax.numpy.ones((12, 8))
    byte = jax.numpy.uint8

    def step(carry, row):
        return carry * 1.5 + row, carry.sum()

    def count(low, high, state):
        return lax.fori_loop(low, high, lambda i, c: c * i, state)

    def loop(test, change, *state):
        return lax.while_loop(lambda c: test(*c), lambda c: change(*c), state)

    return {
        "scan": (lambda a, b: lax.scan(step, a, b), (vector, rows), [12]),
        "scan in reverse": (lambda a, b: lax.scan(step, a, b, reverse=True), (vector, rows), [12]),
        "scan unrolled by 2": (lambda a, b: lax.scan(step, a, b, unroll=2), (vector, rows), [6]),
        "scan unrolled by 5": (lambda a, b: lax.scan(step, a, b, unroll=5), (vector, rows), [2]),
        "gradient": (jax.grad(lambda a, b: lax.scan(step, a, b)[0].sum()), (vector, rows), [12]),
        "for": (lambda a: count(3, 17, a), (vector,), [14]),
        "for of array bounds": (lambda a: count(jax.numpy.int32(2), jax.numpy.int32(9), a), (vector,), [7]),
        "for of traced bound": (lambda a, n: count(0, n, a), (vector, 4), [None]),
        "vmapped for": (jax.vmap(lambda a: lax.fori_loop(0, 4, lambda i, c: c * 2, a)), (rows,), [4]),
        "on data": (lambda a: lax.while_loop(lambda c: c.sum() < 100, lambda c: c * 2, a), (vector,), [None]),
        "down": (lambda a: loop(lambda i, c: i > 0, lambda i, c: (i - 3, c * 2), 20, a), (vector,), [7]),
        "byte": (
            lambda a: loop(lambda i, c: i >= byte(5), lambda i, c: (i - byte(5), c * 2), byte(200), a),
            (vector,),
            [40],
        ),
        "two counters": (
            lambda a: loop(lambda i, j, c: i < j, lambda i, j, c: (i + 1, j - 2, c * 2), 0, 10, a),
            (vector,),
            [4],
        ),
        "nested": (
            lambda a, b: lax.scan(lambda c, r: (lax.fori_loop(0, 7, lambda i, q: q + r, c), 0.0), a, b),
            (vector, rows),
            [12, 7],
        ),
        "triangle": (
            lambda a: lax.fori_loop(0, 5, lambda i, c: lax.fori_loop(0, i, lambda j, q: q * 2, c), a),
            (vector,),
            [5, None],
        ),
        "in a branch": (
            lambda a, b: lax.scan(
                lambda c, r: (lax.cond(r.sum() > 0, lambda q: count(0, 3, q), lambda q: q, c), 0.0), a, b
            ),
            (vector, rows),
            [12, 3],
        ),
    }


PROGRAMS = (
    "scan",
    "scan in reverse",
    "scan unrolled by 2",
    "scan unrolled by 5",
    "gradient",
    "for",
    "for of array bounds",
    "for of traced bound",
    "vmapped for",
    "on data",
    "down",
    "byte",
    "two counters",
    "nested",
    "triangle",
    "in a branch",
)


@pytest.mark.parametrize("name", PROGRAMS)
def test_loops_of_jax_are_told_before_and_after_optimisation(name):
    pytest.importorskip("jax")
    function, arguments, expected = _programs()[name]
    assert jax_trips(function, *arguments) == (expected, expected)


def test_every_program_is_tested():
    pytest.importorskip("jax")
    assert set(_programs()) == set(PROGRAMS)


def test_xlas_own_count_of_the_byte_loop_is_wrong():
    """The reason why ours comes first: the loop runs 40 times, as the value shows, and XLA 0.10.2 writes 1."""
    jax = pytest.importorskip("jax")
    function, arguments, _ = _programs()["byte"]
    _, values = jax.jit(function)(*arguments)
    assert float(values[0]) == 2.0**40
