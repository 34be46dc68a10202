"""Programs on `jax:cpu` for real: results, what was compiled and executed as JAX counts, and modules from functions and text."""

import gzip
import json

import numpy as np
import pytest

from npuscope.backends.base import BackendOptions
from npuscope.backends.jax_programs import module_from_function, module_from_text, pattern_function
from npuscope.backends.programs import RUN_ANNOTATION, check_program_device, open_program_device
from npuscope.errors import FormatError, UsageError
from npuscope.formats.hlo_reader import parse_hlo
from npuscope.workloads.patterns import PATTERNS, PUBLISHED_PATTERNS, PatternConfig, check_outputs, make_inputs
from tests.device.test_jax import CACHE_SETTINGS

jax = pytest.importorskip("jax")

SIZES = (3, 5, 7)
"""Three different edges: a mapped or reduced dimension in the place of another cannot go unseen."""
PROGRAMS = [
    *(pytest.param(pattern, False, id=pattern) for pattern in PATTERNS),
    *(pytest.param(pattern, True, id=f"{pattern}-as-published") for pattern in PUBLISHED_PATTERNS),
]
HLO_TEXT = """HloModule jit_f

ENTRY main {
  a = f32[4,8] parameter(0)
  b = f32[8,2] parameter(1)
  ROOT c = f32[4,2] dot(a, b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""


@pytest.fixture(scope="module")
def backend():
    return open_program_device("jax:cpu")


@pytest.fixture
def jax_settings():
    """JAX's cache settings as they were before, after the test."""
    from jax.experimental.compilation_cache import compilation_cache

    before = {name: getattr(jax.config, name) for name in CACHE_SETTINGS}
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    jax.clear_caches()


def outputs_of(executable, inputs):
    output = executable.run(executable.place(inputs))
    executable.synchronise(output)
    return executable.fetch(output)


def opcodes(module):
    return {op.opcode for computation in module.computations for op in computation.ops}


class TestProgram:
    @pytest.mark.parametrize(("pattern", "as_published"), PROGRAMS)
    def test_equals_the_reference_and_tells_its_hlo(self, backend, pattern, as_published):
        config = PatternConfig(pattern, *SIZES, as_published=as_published)
        inputs = make_inputs(config, 1)
        executable = backend.compile_program(config)
        check = check_outputs(config, inputs, outputs_of(executable, inputs))
        assert check.passed, check
        module = parse_hlo(executable.hlo, source=config.name)
        entry = module.entry_computation
        assert [entry.ops[place].shape.dimensions for place in entry.parameters] == [config.input_shape]
        result = entry.ops[entry.root].shape
        assert tuple(part.dimensions for part in result.parts or (result,)) == config.output_shapes
        assert ("while" in opcodes(module)) == (pattern == "scan")
        assert module.name == f"jit_{config.name.replace('-', '_')}"

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_short_types_stay_short(self, backend, dtype):
        config = PatternConfig("scan", *SIZES, dtype)
        inputs = make_inputs(config, 1)
        outputs = outputs_of(backend.compile_program(config), inputs)
        assert {output.dtype.name for output in outputs} == {dtype}
        assert check_outputs(config, inputs, outputs).passed

    def test_a_loop_is_unrolled_and_a_scan_is_not(self, backend):
        def ops(pattern, iterations):
            return parse_hlo(backend.compile_program(PatternConfig(pattern, iterations, 2, 2)).hlo, source="x").op_count

        assert ops("scan", 2) == ops("scan", 6)
        assert ops("loop", 6) > ops("loop", 2)

    def test_the_floor_adds_one(self, backend):
        (output,) = outputs_of(backend.compile_floor("float32"), (np.ones(1, np.float32),))
        assert output == [2.0]


class TestCompilations:
    def test_are_counted_and_timed(self, backend):
        before = backend.compile_count()
        executable = backend.compile_program(PatternConfig("vmap", 2, 2, 3))
        assert backend.compile_count() == before + 1
        assert executable.report.duration_ns > 0
        outputs_of(executable, make_inputs(PatternConfig("vmap", 2, 2, 3), 1))
        assert backend.compile_count() == before + 1

    def test_miss_a_new_cache_and_hit_it_then(self, jax_settings, tmp_path):
        config = PatternConfig("scan", *SIZES)
        cached = open_program_device("jax:cpu", BackendOptions(compile_cache=tmp_path))
        statuses = []
        for _ in range(2):
            jax.clear_caches()
            executable = cached.compile_program(config)
            statuses.append(executable.report.cache.value)
        assert statuses == ["miss", "hit"]
        assert any(tmp_path.iterdir())
        inputs = make_inputs(config, 1)
        assert check_outputs(config, inputs, outputs_of(executable, inputs)).passed


class TestExecutions:
    @pytest.mark.parametrize("programs", [1, 5])
    def test_are_counted_in_the_trace(self, backend, tmp_path, programs):
        config = PatternConfig("vmap", *SIZES)
        executable = backend.compile_program(config)
        placed = executable.place(make_inputs(config, 1))

        def step():
            for _ in range(programs):
                executable.synchronise(executable.run(placed))

        step()
        trace = backend.trace(step, tmp_path, 2)
        assert backend.execution_count(trace) == 2 * programs
        step()  # outside of every trace
        names = [event.get("name") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]]
        assert names.count(RUN_ANNOTATION) == 2

    def test_a_step_that_executes_nothing_has_no_count(self, backend, tmp_path):
        assert backend.execution_count(backend.trace(lambda: None, tmp_path, 2)) is None

    def test_a_second_trace_of_one_folder_is_its_own(self, backend, tmp_path):
        executable = backend.compile_program(PatternConfig("vmap", *SIZES))
        placed = executable.place(make_inputs(PatternConfig("vmap", *SIZES), 1))
        for runs in (1, 2):  # in one second, after which JAX names the trace
            trace = backend.trace(lambda: executable.synchronise(executable.run(placed)), tmp_path, runs)
            assert backend.execution_count(trace) == runs

    def test_a_damaged_trace_is_one_line(self, backend, tmp_path):
        path = tmp_path / "x.trace.json.gz"
        path.write_bytes(gzip.compress(b'{"traceEvents": ['))
        with pytest.raises(FormatError) as caught:
            backend.execution_count(path)
        assert len(str(caught.value).splitlines()) == 1


class TestModule:
    def test_from_a_function_has_its_ops(self):
        shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((4, 8), (8, 2))]
        module = parse_hlo(module_from_function(lambda a, b: jax.numpy.tanh(a @ b), *shapes), source="f")
        assert {"dot", "tanh"} <= opcodes(module)

    def test_from_a_jitted_function_is_the_same(self):
        xs = np.zeros(SIZES, np.float32)
        function = pattern_function(PatternConfig("scan", *SIZES))
        first, second = (parse_hlo(module_from_function(one, xs), source="f") for one in (function, jax.jit(function)))
        assert (first.name, first.op_count) == (second.name, second.op_count)

    def test_from_hlo_text_has_its_ops(self):
        module = parse_hlo(module_from_text(HLO_TEXT, "f.txt"), source="f.txt")
        assert module.name == "jit_f"
        assert [op.opcode for op in module.entry_computation.ops] == ["parameter", "parameter", "dot"]

    def test_from_stablehlo_text_and_bytes_has_its_ops(self):
        lowered = jax.jit(lambda a, b: jax.numpy.tanh(a @ b)).lower(np.ones((4, 8)), np.ones((8, 2)))
        text = lowered.as_text()
        assert "stablehlo" in text
        for given in (text, text.encode()):
            assert {"dot", "tanh"} <= opcodes(parse_hlo(module_from_text(given, "f.mlir"), source="f.mlir"))

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            (HLO_TEXT.replace("f32[4,8]", "f32[4,8"), "f.txt, line 4, column 15: expected HLO text"),
            ("module { oops }", "f.txt, line 1, column 10: expected a StableHLO module"),
            ("", "expected a StableHLO module with a main function"),
            (HLO_TEXT + "\0", "found a NUL"),
            (b"HloModule \xff", "byte 10: expected HLO or MLIR as UTF-8 text"),
            (b"ML\xefR\x00", "expected a StableHLO module"),
        ],
    )
    def test_bad_text_is_one_line(self, text, told):
        with pytest.raises(FormatError) as caught:
            module_from_text(text, "f.txt")
        assert told in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1

    def test_a_function_that_does_not_trace_is_one_line(self):
        def square(x):
            return x @ x

        with pytest.raises(UsageError) as caught:
            module_from_function(square, np.zeros((2, 3)))
        assert str(caught.value).startswith("square does not trace with these arguments: TypeError: dot_general")
        assert len(str(caught.value).splitlines()) == 1

    def test_a_function_that_looks_at_values_is_one_line(self):
        with pytest.raises(UsageError, match="does not trace") as caught:
            module_from_function(lambda x: x if x.sum() > 0 else -x, np.zeros(3))
        assert len(str(caught.value).splitlines()) == 1

    def test_what_is_no_function_is_refused(self):
        with pytest.raises(UsageError, match="7 is no function"):
            module_from_function(7)


def test_devices_that_run_only_matmuls_are_refused():
    with pytest.raises(UsageError, match="runs no programs"):
        check_program_device("torch:cpu")


def test_options_of_matmuls_are_refused(tmp_path):
    with pytest.raises(UsageError, match="--compiler-log is for matmuls"):
        open_program_device("jax:cpu", BackendOptions(compiler_log=tmp_path))
