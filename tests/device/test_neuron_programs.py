"""Programs on `neuron` and `neuron:xla` on a stand-in for AWS's SDK: what is asked of it, and what is made of the answers."""

import sys

import numpy as np
import pytest

from npuscope.backends.programs import open_program_device
from npuscope.errors import MeasurementError, UsageError
from npuscope.measure.programs import measure_programs
from npuscope.workloads.dtypes import numpy_dtype
from npuscope.workloads.patterns import (
    PATTERN_DTYPES,
    PATTERNS,
    PUBLISHED_PATTERNS,
    PatternConfig,
    check_outputs,
    make_inputs,
    reference,
)
from tests.device import QUICK
from tests.standins.neuron import CPU
from tests.standins.neuron_programs import (
    REFUSAL,
    SCAN_MODULE,
    ProgramSdk,
    min_cut_rematerialization_partition,
)

DEVICES = ("neuron", "neuron:xla")
SIZES = (3, 5, 7)
"""Three different edges: a mapped or reduced dimension in the place of another cannot go unseen."""
PROGRAMS = [
    *(pytest.param(pattern, False, id=pattern) for pattern in PATTERNS),
    *(pytest.param(pattern, True, id=f"{pattern}-as-published") for pattern in PUBLISHED_PATTERNS),
]


@pytest.fixture
def sdk(monkeypatch):
    """The stand-in in place of the SDK."""
    stand_in = ProgramSdk()
    stand_in.install(monkeypatch)
    return stand_in


def program(pattern="vmap", dtype="float32", as_published=False):
    return PatternConfig(pattern, *SIZES, dtype, as_published=as_published)


def run(executable, inputs):
    output = executable.run(executable.place(inputs))
    executable.synchronise(output)
    return executable.fetch(output)


class TestResults:
    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize(("pattern", "as_published"), PROGRAMS)
    def test_equal_the_reference(self, sdk, device, pattern, as_published):
        config = program(pattern, as_published=as_published)
        executable = open_program_device(device).compile_program(config)
        for seed in (1, 2):
            inputs = make_inputs(config, seed)
            outputs, expected = run(executable, inputs), reference(config, inputs)
            assert [output.shape for output in outputs] == [value.shape for value in expected]
            for output, value in zip(outputs, expected, strict=True):
                assert np.allclose(output, value, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("dtype", PATTERN_DTYPES)
    @pytest.mark.parametrize(("pattern", "as_published"), PROGRAMS)
    def test_pass_the_check_of_their_type(self, sdk, pattern, as_published, dtype):
        config = program(pattern, dtype, as_published)
        inputs = make_inputs(config, 3)
        outputs = run(open_program_device("neuron").compile_program(config), inputs)
        assert {output.dtype for output in outputs} == {numpy_dtype(dtype)}
        assert check_outputs(config, inputs, outputs).passed

    @pytest.mark.parametrize(("pattern", "as_published"), PROGRAMS)
    def test_come_from_the_device_alone(self, sdk, pattern, as_published):
        config = program(pattern, as_published=as_published)
        run(open_program_device("neuron").compile_program(config), make_inputs(config, 1))
        assert (sdk.host_operations, sdk.host_products, sdk.implicit_syncs) == (0, 0, 0)

    def test_of_two_runs_both_survive(self, sdk):
        config = program("loop")
        executable = open_program_device("neuron").compile_program(config)
        inputs = [make_inputs(config, seed) for seed in (1, 2)]
        outputs = [executable.run(executable.place(given)) for given in inputs]
        executable.synchronise(outputs[-1])
        for given, output in zip(inputs, outputs, strict=True):
            assert check_outputs(config, given, executable.fetch(output)).passed

    def test_wrong_on_the_device_fail_the_measurement(self, sdk):
        sdk.spoil = lambda array: array + array.dtype.type(1)
        (measured,) = measure_programs(open_program_device("neuron"), [program()], QUICK)
        assert measured.status == "failed"
        assert measured.error.startswith("wrong result: ")

    @pytest.mark.parametrize("dtype", PATTERN_DTYPES)
    def test_floor_adds_one(self, sdk, dtype):
        floor = open_program_device("neuron").compile_floor(dtype)
        (result,) = run(floor, (np.full(1, 2, numpy_dtype(dtype)),))
        assert (result.dtype, result.tolist()) == (numpy_dtype(dtype), [3])


class TestCompilation:
    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize(("pattern", "as_published"), PROGRAMS)
    def test_is_a_miss_once_and_then_a_hit(self, sdk, device, pattern, as_published):
        backend, config = open_program_device(device), program(pattern, as_published=as_published)
        assert backend.compile_count() == 0
        reports = [backend.compile_program(config).report for _ in range(2)]
        assert [report.cache.value for report in reports] == ["miss", "hit"]
        assert all(report.duration_ns > 0 for report in reports)
        assert backend.compile_count() == 1

    @pytest.mark.parametrize(("pattern", "as_published"), PROGRAMS)
    def test_is_never_part_of_a_run(self, sdk, pattern, as_published):
        backend, config = open_program_device("neuron"), program(pattern, as_published=as_published)
        executable = backend.compile_program(config)
        placed = executable.place(make_inputs(config, 1))
        compiled, executed, traced = backend.compile_count(), sdk.executions, sdk.scan_traces
        for _ in range(3):
            executable.synchronise(executable.run(placed))
        assert (backend.compile_count() - compiled, sdk.executions - executed) == (0, 3)
        assert sdk.scan_traces == traced, "the body of a scan is traced again in every run"

    @pytest.mark.parametrize("other", [("vmap", "float16"), ("loop", "float32"), ("scan", "float32")])
    def test_of_another_program_is_a_miss(self, sdk, other):
        backend = open_program_device("neuron")
        backend.compile_program(program("vmap"))
        assert backend.compile_program(program(*other)).report.cache.value == "miss"

    def test_that_no_counter_shows_is_uncounted(self, sdk, monkeypatch):
        monkeypatch.setattr(sys.modules["torch_xla.debug.metrics"], "counter_value", lambda _: None)
        assert open_program_device("neuron").compile_program(program()).report.cache.value == "uncounted"

    def test_while_timed_is_counted_and_warned_of(self, sdk):
        backend, config = open_program_device("neuron"), program()
        (before,) = measure_programs(backend, [config], QUICK)
        assert (before.status, before.compiles_while_timed) == ("ok", 0)
        sdk.forgets_from = sdk.executions + 6  # compiled, first run and warm-up of the program and of the floor
        (after,) = measure_programs(backend, [config], QUICK)
        assert after.compiles_while_timed > 0
        assert any("while it was timed" in warning for warning in after.warnings)

    def test_of_a_scan_keeps_nothing_for_a_backward_pass(self, sdk):
        config = program("scan")
        run(open_program_device("neuron").compile_program(config), make_inputs(config, 1))
        assert set(sdk.partitions) == {min_cut_rematerialization_partition}
        assert sdk.kept_for_backward == 0


class TestRuns:
    def test_leave_the_input_on_the_device(self, sdk):
        config = program("scan")
        executable = open_program_device("neuron").compile_program(config)
        placed = executable.place(make_inputs(config, 1))
        moved = sdk.uploads, sdk.downloads
        for _ in range(3):
            executable.synchronise(executable.run(placed))
        assert (sdk.uploads, sdk.downloads) == moved

    def test_are_one_step_and_one_wait_each(self, sdk):
        config = program("loop")
        executable = open_program_device("neuron").compile_program(config)
        placed = executable.place(make_inputs(config, 1))
        steps, waits = sdk.mark_steps, sdk.waits
        for _ in range(3):
            executable.synchronise(executable.run(placed))
        assert (sdk.mark_steps - steps, sdk.waits - waits) == (3, 3)

    def test_are_counted_as_torch_xla_counts_executions(self, sdk):
        backend, config = open_program_device("neuron"), program()
        assert backend.device_executions() == 0
        executable = backend.compile_program(config)
        placed = executable.place(make_inputs(config, 1))
        before = backend.device_executions()
        for _ in range(4):
            executable.synchronise(executable.run(placed))
        assert backend.device_executions() - before == 4

    @pytest.mark.parametrize(("pattern", "as_published"), PROGRAMS)
    def test_are_recorded_alone_without_an_execution(self, sdk, pattern, as_published):
        config = program(pattern, as_published=as_published)
        executable = open_program_device("neuron").compile_program(config)
        placed = executable.place(make_inputs(config, 1))
        before = sdk.executions, dict(sdk.counters)
        assert executable.recording_ns(placed) > 0
        sdk.sync()
        assert (sdk.executions, dict(sdk.counters)) == before

    def test_are_not_counted_by_a_torch_xla_without_the_metric(self, monkeypatch):
        older = ProgramSdk()
        older.has_metric_data = False
        older.install(monkeypatch)
        assert open_program_device("neuron").device_executions() is None

    @pytest.mark.parametrize(
        "inputs",
        [
            pytest.param((np.ones((3, 7, 5), np.float32),), id="shape"),
            pytest.param((np.ones(SIZES, np.float16),), id="type"),
            pytest.param((np.ones(SIZES, np.float32),) * 2, id="number"),
        ],
    )
    def test_refuse_inputs_that_would_be_another_graph(self, sdk, inputs):
        executable = open_program_device("neuron").compile_program(program())
        with pytest.raises(MeasurementError, match=r"compiled for, float32 \(3, 5, 7\)"):
            executable.place(inputs)


class TestDescription:
    @pytest.mark.parametrize("device", DEVICES)
    def test_says_that_a_run_includes_recording_and_no_transfers(self, sdk, device):
        info = open_program_device(device).describe()
        assert (info.name, info.is_simulated, info.includes_transfers) == (device, False, False)
        assert any("records its lazy graph on the host again" in note for note in info.notes)
        assert any("traced module would move" in note for note in info.notes) is (device == "neuron")

    def test_claims_no_trace_and_no_hlo(self, sdk, tmp_path):
        backend = open_program_device("neuron")
        ran = []
        assert backend.trace(lambda: ran.append(1), tmp_path, 3) is None
        assert (backend.execution_count(tmp_path / "none"), ran) == (None, [])
        assert backend.compile_program(program()).hlo is None


class TestFailures:
    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize(("pattern", "operation"), [("vmap", "vmap"), ("nested-vmap", "vmap"), ("scan", "scan")])
    def test_of_the_compiler_are_one_line_with_its_code(self, sdk, device, pattern, operation):
        sdk.refused_operations = {operation}
        config = program(pattern)
        with pytest.raises(MeasurementError) as caught:
            open_program_device(device).compile_program(config)
        message = str(caught.value)
        assert message.startswith(
            f"{device} cannot compile {config.name} float32: [TEN404] (_dot.12) Internal tensorizer"
        )
        assert "\n" not in message
        assert "starfish" not in message

    def test_of_one_program_stop_no_other(self, sdk):
        sdk.refused_operations = {"scan"}
        configs = [program(pattern) for pattern in ("vmap", "scan", "loop")]
        measured = measure_programs(open_program_device("neuron"), configs, QUICK)
        assert [item.status for item in measured] == ["ok", "failed", "ok"]
        assert measured[1].statistics is None
        assert sdk.host_operations == 0

    def test_while_recording_leave_nothing_to_run(self, sdk, monkeypatch):
        def refuse(fn, init, xs, partition_fn=None, is_fn_pure=False):
            raise AssertionError("no rule")

        monkeypatch.setattr(sys.modules[SCAN_MODULE], "scan", refuse)
        with pytest.raises(MeasurementError, match="scan_3 float32: AssertionError: no rule") as caught:
            open_program_device("neuron").compile_program(program("scan"))
        sdk.sync()
        assert caught.value.__cause__ is not None
        assert (sdk.executions, sdk.counters) == (0, {})

    def test_of_the_device_end_the_measurement(self, sdk):
        sdk.fails_from = 12
        (measured,) = measure_programs(open_program_device("neuron"), [program()], QUICK)
        assert measured.status == "failed"
        assert "NRT_EXEC_HW_ERR" in measured.error

    def test_without_scan_name_what_is_missing(self, monkeypatch):
        older = ProgramSdk()
        older.has_scan = False
        older.install(monkeypatch)
        backend = open_program_device("neuron")
        with pytest.raises(MeasurementError, match=rf"needs {SCAN_MODULE}\.scan.*choose --pattern vmap,loop"):
            backend.compile_program(program("scan"))
        assert backend.compile_program(program("vmap")).report.cache.value == "miss"

    def test_of_the_type_are_told_before_anything_is_compiled(self, sdk):
        with pytest.raises(UsageError, match="int8"):
            open_program_device("neuron").compile_floor("int8")
        assert sdk.counters == {}


class TestStandIn:
    @pytest.fixture
    def tensors(self):
        self.sdk = ProgramSdk()
        self.torch = self.sdk.modules()["torch"]
        self.device = self.sdk.device()
        return [self.torch.from_numpy(np.full((3, 2), value, np.float32)).to(self.device) for value in (2, 3)]

    def test_records_until_the_step_and_computes_only_what_is_kept(self, tensors):
        left, right = tensors
        kept, _ = left + right, self.torch.relu(left)
        del _
        assert self.sdk.executions == 0
        self.sdk.sync()
        assert self.sdk.executions == 1
        assert kept.to("cpu").numpy().tolist() == [[5, 5]] * 3
        left * right
        self.sdk.sync()
        assert self.sdk.executions == 1

    def test_other_constants_are_other_graphs(self, tensors):
        for constant in (1.0, 2.0, 1.0):
            kept = tensors[0] + constant
            self.sdk.sync()
            assert kept.shape == (3, 2)
        assert self.sdk.counters == {"UncachedCompile": 2, "CachedCompile": 1}

    def test_refuses_host_beside_device_tensors_other_types_and_shapes(self, tensors):
        left, _ = tensors
        with pytest.raises(RuntimeError, match="same device"):
            left + self.torch.zeros((3, 2), dtype=left.dtype)
        with pytest.raises(RuntimeError, match="promotes no types"):
            left + self.torch.zeros((3, 2), dtype=self.torch.float16).to(self.device)
        with pytest.raises(RuntimeError, match="do not fit"):
            left + self.torch.zeros((5,), dtype=left.dtype, device=self.device)
        with pytest.raises(RuntimeError, match="do not fit"):
            self.torch.matmul(left, left)
        with pytest.raises(TypeError, match="Tensor or Number"):
            left + "1"
        with pytest.raises(IndexError, match="out of"):
            left[3]
        with pytest.raises(IndexError, match="out of range"):
            self.torch.sum(left, dim=2)
        with pytest.raises(RuntimeError, match="non-empty"):
            self.torch.stack([])

    def test_refuses_unknown_keywords(self, tensors):
        left, _ = tensors
        for call in (
            lambda: self.torch.zeros((2,), dtype=left.dtype, devise=self.device),
            lambda: self.torch.sum(left, axes=0),
            lambda: self.torch.func.vmap(self.torch.relu, in_axes=0),
            lambda: self.sdk.scan(lambda carry, x: (carry, x), left, left, length=3),
        ):
            with pytest.raises(TypeError, match="unexpected keyword"):
                call()

    def test_refuses_maps_that_do_not_fit(self, tensors):
        left, right = tensors
        with pytest.raises(ValueError, match="in_dims is not compatible"):
            self.torch.func.vmap(self.torch.relu, in_dims=(0, None))(left)
        with pytest.raises(ValueError, match="same size in the mapped dimension"):
            self.torch.func.vmap(lambda a, b: a + b)(left, right[0])
        with pytest.raises(ValueError, match="must only return Tensors"):
            self.torch.func.vmap(lambda a: 3)(left)

    def test_refuses_scans_as_torch_xla_does(self, tensors):
        xs, init = tensors[0].detach().requires_grad_(), tensors[1][0]
        with pytest.raises(ValueError, match="must be callable"):
            self.sdk.scan(3, init, xs)
        with pytest.raises(RuntimeError, match="element 1 of tensors does not require grad"):
            self.sdk.scan(lambda carry, x: (carry + x, x + x), init, tensors[0])
        with pytest.raises(AssertionError, match="must keep the `carry` shape unchanged"):
            self.sdk.scan(lambda carry, x: (self.torch.stack([carry, carry]), carry + x), init, xs)
        with pytest.raises(RuntimeError, match="same device"):
            self.sdk.scan(lambda carry, x: (carry + x, x + x), self.torch.zeros((2,), dtype=xs.dtype), xs)
        with pytest.raises(RuntimeError, match="not an XLA tensor"):
            self.sdk.scan(lambda carry, x: (carry + x, x + x), init.to("cpu"), xs.to("cpu"))

    def test_has_no_scan_in_torch(self, tensors):
        assert not hasattr(self.torch, "scan")
        assert not hasattr(self.torch.func, "scan")

    def test_counts_no_execution_before_the_first_and_none_of_another_name(self, tensors):
        assert self.sdk.metric_data("ExecuteTime") is None
        kept = tensors[0] + 1
        self.sdk.sync(wait=True)
        assert self.sdk.metric_data("ExecuteTime")[0] == 1
        assert self.sdk.metric_data("ExecutionTime") is None
        assert kept.device != CPU

    def test_refusal_has_the_code_on_a_line_of_its_own(self):
        assert [line.partition(" ")[2].startswith("[TEN404]") for line in REFUSAL.splitlines()[:2]] == [False, True]
