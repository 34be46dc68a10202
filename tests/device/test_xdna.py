"""The XDNA driver against the emulated pyxrt: what goes wrong ends in one line, and nothing is returned as a result."""

import gc
import re
import sys
import types
from dataclasses import replace
from pathlib import Path
from time import perf_counter_ns

import numpy as np
import pytest

from npuscope import open_device
from npuscope.backends.base import BackendOptions
from npuscope.backends.xdna.backend import XdnaBackend
from npuscope.backends.xdna.emulated import EmulatedRuntime, build_emulated
from npuscope.backends.xdna.execution import Execution
from npuscope.backends.xdna.phases import PhaseTimer
from npuscope.backends.xdna.platform import KERNELS_VARIABLE, open_platform
from npuscope.backends.xdna.session import DispatchError, XdnaSession
from npuscope.backends.xdna.strategies import STRATEGIES
from npuscope.errors import FormatError, MeasurementError, UnavailableError, UsageError
from npuscope.formats.xdna_manifest import manifest_text, read_manifest
from npuscope.measure.xdna_bench import BenchRequest, run_bench
from npuscope.tiling.xdna_candidates import PlanRequest
from npuscope.tiling.xdna_design import XdnaDesign
from tests.device import WORST_ERROR, config, multiply

PROBLEM = PlanRequest(130, 128, 128, dtype="int8", out_dtype="int32")
"""Twelve tiles of 64, the last rows padded."""
BATCHES = {"per-tile": 0, "batched-loop": 2, "row": 0, "packed": 4, "run-list": 0}
"""Strategies that send at least three commands for it."""
SMALL = XdnaDesign(64, 64, 64, 64, 64, 64, dtype="int8", out_dtype="int32")


@pytest.fixture
def platform():
    return open_platform("sim:npu1")


def live_contexts(runtime):
    gc.collect()
    return runtime.device._emulated.live_contexts


def operands(problem=PROBLEM, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(-99, 100, (problem.M, problem.K), np.int8),
        rng.integers(-99, 100, (problem.K, problem.N), np.int8),
    )


def product(a, b):
    return a.astype(np.int64) @ b.astype(np.int64)


def execute(platform, strategy="per-tile", a=None, b=None, passes=1, problem=PROBLEM):
    """The result of the last pass, in a session of its own."""
    tiling = STRATEGIES[strategy].tile(problem, platform, BATCHES[strategy])
    if a is None:
        a, b = operands(problem)
    with XdnaSession(platform.runtime, platform.array, platform.name) as session:
        kernel = session.load(platform.kernel_for(tiling.design))
        execution = Execution(session, kernel, tiling, PhaseTimer(perf_counter_ns))
        for _ in range(passes):
            result = execution.multiply(a, b)
    return result


def failure(call, error=DispatchError):
    """The line that a call ends in; with it goes whatever its frames held."""
    with pytest.raises(error) as caught:
        call()
    line = str(caught.value)
    assert line.isprintable()
    return line


def built(folder, design=SMALL, array="npu1", name="kernel", emulated=True, edit=("", ""), **said):
    """The manifest of a kernel that is built in a folder; `edit` replaces a line of it."""
    files = build_emulated(design, array, folder, name)
    path = folder / f"{name}.toml"
    text = manifest_text(design, files.xclbin.name, files.instructions.name, array=array, emulated=emulated, **said)
    assert edit[0] in text
    path.write_text(text.replace(*edit) if edit[0] else text)
    return read_manifest(path)


def run_once(platform, manifest):
    """One dispatch of a kernel."""
    with XdnaSession(platform.runtime, platform.array, platform.name) as session:
        buffers = session.load(manifest).buffer_set()
        for view, buffer in ((buffers.a_view, buffers.a), (buffers.b_view, buffers.b)):
            view[...] = 1
            session.sync_to(buffer)
        session.start(buffers.run)
        session.wait(buffers.run)
        session.sync_from(buffers.c)
        return buffers.c_view.copy()


@pytest.mark.parametrize("strategy", BATCHES)
class TestFailingCommands:
    def test_without_a_fault_every_pass_is_right(self, platform, strategy):
        assert np.array_equal(execute(platform, strategy, passes=2), product(*operands()))
        assert live_contexts(platform.runtime) == 0
        assert platform.runtime.counters.abandoned == 0

    @pytest.mark.parametrize(
        ("fault", "says"),
        [
            ("error_at_command", "ERROR"),
            ("hang_at_command", "TIMEOUT"),
        ],
    )
    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_a_command_that_fails_ends_the_multiplication_and_not_the_device(
        self, platform, strategy, fault, says, number
    ):
        setattr(platform.runtime.faults, fault, number)
        line = failure(lambda: execute(platform, strategy))
        assert f"ERT_CMD_STATE_{says}" in line or f"ended as {says}" in line
        assert "discarded" in line
        assert live_contexts(platform.runtime) == 0
        assert platform.runtime.counters.abandoned == 0, "XRT ends the process of who lets go of a running command"
        assert np.array_equal(execute(platform, strategy), product(*operands()))

    @pytest.mark.parametrize("number", [1, 3])
    def test_a_lost_device_ends_every_session(self, platform, strategy, number):
        platform.runtime.faults.lost_at_command = number
        line = failure(lambda: execute(platform, strategy))
        assert "device is lost" in line
        assert "discarded" in line
        assert live_contexts(platform.runtime) == 0
        assert "opens no device" in failure(lambda: execute(platform, strategy), UnavailableError)

    @pytest.mark.parametrize("number", [1, 2, 4])
    def test_a_refused_buffer_is_told_with_what_it_was_for(self, platform, strategy, number):
        platform.runtime.faults.refuse_buffer = number
        line = failure(lambda: execute(platform, strategy))
        expected = r"refuses the instructions of mm_" if number == 1 else r"refuses a buffer of .+B for [ABC]:"
        assert re.search(expected, line)
        assert live_contexts(platform.runtime) == 0
        assert np.array_equal(execute(platform, strategy), product(*operands()))


class TestLoading:
    def test_a_device_without_a_free_context_refuses_and_says_so(self, platform, tmp_path):
        platform.runtime.faults.context_limit = 0
        line = failure(lambda: run_once(platform, built(tmp_path)))
        assert "refuses a hardware context for" in line
        platform.runtime.faults.context_limit = 1
        assert (run_once(platform, built(tmp_path)) == 64).all()

    def test_kernels_beyond_the_contexts_take_the_place_of_the_oldest(self, platform, tmp_path):
        manifests = [
            built(tmp_path, replace(SMALL, tile_m=8 * (index + 1), M=8 * (index + 1)), name=f"k{index}")
            for index in range(platform.array.hardware_contexts + 1)
        ]
        with XdnaSession(platform.runtime, platform.array, "sim:npu1") as session:
            for manifest in manifests:
                session.load(manifest)
            assert live_contexts(platform.runtime) == platform.array.hardware_contexts
            opened = platform.runtime.counters.contexts
            session.load(manifests[-1])
            assert platform.runtime.counters.contexts == opened, "the last one is loaded still"
            session.load(manifests[0])
            assert platform.runtime.counters.contexts == opened + 1, "the first one was let go of"
        assert live_contexts(platform.runtime) == 0

    def test_a_context_that_another_kernel_came_to_share_is_not_the_oldest(self, platform, tmp_path):
        count = platform.array.hardware_contexts
        with XdnaSession(platform.runtime, platform.array, "sim:npu1") as session:
            manifests = [
                built(tmp_path, replace(SMALL, tile_m=8 * (index + 1), M=8 * (index + 1)), name=f"k{index}")
                for index in range(count + 1)
            ]
            for manifest in manifests[:-1]:
                session.load(manifest)
            session.load(built(tmp_path, replace(SMALL, tile_m=8, M=16), name="shares"))
            session.load(manifests[-1])
            opened = platform.runtime.counters.contexts
            session.load(manifests[0])
            assert platform.runtime.counters.contexts == opened
            session.load(manifests[1])
            assert platform.runtime.counters.contexts == opened + 1

    def test_a_context_whose_buffers_are_in_use_cannot_go(self, platform, tmp_path):
        manifests = [
            built(tmp_path, replace(SMALL, tile_m=8 * (index + 1), M=8 * (index + 1)), name=f"k{index}")
            for index in range(platform.array.hardware_contexts + 1)
        ]
        with XdnaSession(platform.runtime, platform.array, "sim:npu1") as session:
            held = [session.load(manifest).buffer_set() for manifest in manifests[:-1]]
            assert "refuses a hardware context" in failure(lambda: session.load(manifests[-1]))
            del held
            gc.collect()
            session.load(manifests[-1])

    def test_kernels_of_one_xclbin_share_a_context(self, platform, tmp_path):
        with XdnaSession(platform.runtime, platform.array, "sim:npu1") as session:
            session.load(built(tmp_path, name="one"))
            session.load(built(tmp_path, replace(SMALL, M=128), name="two"))
            assert live_contexts(platform.runtime) == 1

    @pytest.mark.parametrize("which", ["xclbin_path", "instructions_path"])
    def test_a_missing_file_is_named_with_its_manifest(self, platform, tmp_path, which):
        manifest = built(tmp_path)
        path = getattr(manifest, which)
        path.unlink()
        line = failure(lambda: run_once(platform, manifest), FormatError)
        assert path.name in line
        assert "build it again" in line
        assert live_contexts(platform.runtime) == 0

    @pytest.mark.parametrize("which", ["xclbin_path", "instructions_path"])
    def test_a_broken_file_is_named(self, platform, tmp_path, which):
        manifest = built(tmp_path)
        path = getattr(manifest, which)
        path.write_bytes(path.read_bytes()[:-5])
        assert path.name in failure(lambda: run_once(platform, manifest), (FormatError, DispatchError))
        assert live_contexts(platform.runtime) == 0

    def test_a_kernel_that_the_xclbin_has_not_is_told_with_those_that_it_has(self, platform, tmp_path):
        manifest = built(tmp_path, edit=('kernel_name = "MLIR_AIE"', 'kernel_name = "mm"'))
        assert failure(lambda: run_once(platform, manifest)).endswith("has no kernel 'mm'; it has MLIR_AIE")

    def test_a_kernel_of_too_few_buffers_is_refused_before_xrt_would_crash(self, platform, tmp_path):
        manifest = built(tmp_path)
        data = manifest.xclbin_path.read_bytes()
        assert data.count(b'<arg name="bo2"') == 1
        manifest.xclbin_path.write_bytes(data.replace(b'<arg name="bo2"', b'<gra name="bo2"'))
        line = failure(lambda: run_once(platform, manifest))
        assert f"takes 2 buffers, and {manifest.name} names 3: it is another kernel" in line
        assert live_contexts(platform.runtime) == 0

    def test_a_group_that_xrt_refuses_by_its_index_is_one_line_too(self, platform, tmp_path):
        def group_id(kernel, argument):
            raise IndexError("vector::_M_range_check")  # what pybind11 makes of std::out_of_range

        platform.runtime.kernel = type("kernel", (platform.runtime.kernel,), {"group_id": group_id})
        line = failure(lambda: run_once(platform, built(tmp_path)))
        assert line.endswith(": vector::_M_range_check")

    def test_a_kernel_of_another_array_is_refused(self, platform, tmp_path):
        manifest = built(tmp_path, array="npu2")
        assert "is for npu2; the device is npu1" in failure(lambda: run_once(platform, manifest))

    def test_instructions_of_another_array_end_as_an_error(self, platform, tmp_path):
        manifest = built(tmp_path)
        other = built(tmp_path, array="npu2", name="other")
        manifest.instructions_path.write_bytes(other.instructions_path.read_bytes())
        assert "ended as ERROR" in failure(lambda: run_once(platform, manifest))

    def test_instructions_that_are_counted_in_another_unit_are_no_result(self, platform, tmp_path):
        manifest = built(tmp_path, instruction_count="words")
        line = failure(lambda: run_once(platform, manifest))
        assert line == (
            "dispatch 1 on sim:npu1 ended as ABORT, not COMPLETED; its result buffer holds old data and is discarded"
        )
        assert (run_once(platform, built(tmp_path)) == 64).all()

    def test_buffers_in_another_order_reach_the_arguments_that_the_manifest_names(self, platform, tmp_path):
        order = ('["a", "b", "c"]', '["b", "a", "c"]')
        manifest = built(tmp_path, replace(SMALL, M=128, N=192), edit=order)
        with XdnaSession(platform.runtime, platform.array, "sim:npu1") as session:
            buffers = session.load(manifest).buffer_set()
            assert (buffers.a_view.shape, buffers.b_view.shape) == ((1, 128, 64), (1, 64, 192))
            session.start(buffers.run)
            # This kernel takes A first: A of 128 rows does not fit where B of 192 columns would be read.
            assert "ended as ERROR" in failure(lambda: session.wait(buffers.run))

    def test_a_device_of_another_number_is_not_there(self, platform):
        line = failure(lambda: XdnaSession(platform.runtime, platform.array, "xdna", index=1), UnavailableError)
        assert "XRT opens no device 1" in line


class TestInputs:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("which", [0, 1])
    def test_an_element_that_is_not_finite_is_named(self, platform, bad, which):
        problem = PlanRequest(64, 64, 64)
        values = [np.ones((64, 64), np.float32), np.ones((64, 64), np.float32)]
        values[which][3, 5] = bad
        line = failure(lambda: execute(platform, "per-tile", *values, problem=problem), UsageError)
        assert line.startswith(f"{'AB'[which]}[3, 5] is {bad}")
        assert platform.runtime.counters.commands == 0

    @pytest.mark.parametrize("values", [np.full((130, 128), 128), np.full((130, 128), -129), np.ones((130, 128))])
    def test_what_is_no_integer_of_the_type_is_never_cut(self, platform, values):
        line = failure(lambda: execute(platform, "per-tile", values, operands()[1]), UsageError)
        assert line.startswith("A does not hold int8")

    def test_integers_of_a_wider_type_are_taken_where_they_fit(self, platform):
        a, b = operands()
        assert np.array_equal(execute(platform, "per-tile", a.astype(np.int64), b.astype(np.int16)), product(a, b))

    @pytest.mark.parametrize(
        ("a", "b"),
        [((130, 128), (130, 128)), ((130,), (128, 128)), ((0, 128), (128, 128)), ((1, 130, 128), (128, 128))],
    )
    def test_shapes_that_cannot_be_multiplied_are_told(self, platform, a, b):
        line = failure(lambda: execute(platform, "per-tile", np.ones(a, np.int8), np.ones(b, np.int8)), UsageError)
        assert line == f"A {a} and B {b} cannot be multiplied"


class TestBench:
    """Twelve commands a pass, four of them for rows that are not padded: a cold pass, a warm one, one after idling."""

    REQUEST = BenchRequest(PROBLEM, (STRATEGIES["per-tile"],), runs=1)

    def test_without_a_fault_a_row_is_right_and_counted(self, platform):
        (row,) = run_bench(self.REQUEST, platform)
        assert (row.status, row.within_bound, row.max_abs_error) == ("ok", True, 0)
        assert (row.claimed_dispatches, row.counted_dispatches) == (12, 12)

    @pytest.mark.parametrize("number", [13, 16, 25, 28])
    def test_one_wrong_bit_is_no_result(self, platform, number):
        platform.runtime.faults.corrupt_at_command = number
        (row,) = run_bench(self.REQUEST, platform)
        assert row.status == "failed"
        assert row.error.endswith(
            "two passes over the same inputs gave different results; the device is not to be trusted"
        )

    def test_a_kernel_that_is_always_wrong_is_outside_of_the_bound(self, platform):
        def one_less(a, b, design):
            result = product(a, b)
            result[..., -1, -1] -= 1
            return result.astype(np.int32)

        wrong = replace(platform, runtime=EmulatedRuntime("npu1", multiply=one_less))
        (row,) = run_bench(self.REQUEST, wrong)
        assert row.within_bound is False
        assert row.max_abs_error >= 1

    @pytest.mark.parametrize("number", [1, 12, 20, 30])
    @pytest.mark.parametrize("fault", ["error_at_command", "hang_at_command"])
    def test_a_row_that_failed_does_not_end_the_others(self, platform, fault, number):
        setattr(platform.runtime.faults, fault, number)
        first, second = run_bench(
            replace(self.REQUEST, strategies=(STRATEGIES["per-tile"], STRATEGIES["row"])), platform
        )
        assert (first.status, first.elapsed_us, first.max_abs_error) == ("failed", None, None)
        assert "discarded" in first.error
        assert (second.status, second.within_bound) == ("ok", True)


@pytest.fixture
def pyxrt(monkeypatch):
    """What `import pyxrt` gives: the emulated module, as if XRT were installed."""
    monkeypatch.delenv(KERNELS_VARIABLE, raising=False)
    runtime = EmulatedRuntime("npu1")
    monkeypatch.setitem(sys.modules, "pyxrt", runtime)
    return runtime


class TestRealDevice:
    FLOAT = XdnaDesign(64, 64, 64, 64, 32, 64, out_dtype="float32")

    def test_the_device_is_the_one_that_xrt_names(self, pyxrt):
        platform = open_platform("xdna")
        assert (platform.array_name, platform.description) == ("npu1", "RyzenAI-npu1")
        assert platform.runtime is pyxrt
        assert not platform.is_simulated
        assert platform.busy_ns is None

    def test_an_array_of_the_second_generation_is_known_by_its_name(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyxrt", EmulatedRuntime("npu2"))
        assert open_platform("xdna").array_name == "npu2"

    def test_a_matmul_runs_on_kernels_of_the_folder(self, pyxrt, tmp_path, monkeypatch):
        built(tmp_path, self.FLOAT, emulated=False)
        monkeypatch.setenv(KERNELS_VARIABLE, str(tmp_path))
        backend = open_device("xdna")
        assert isinstance(backend, XdnaBackend)
        assert not backend.describe().is_simulated
        workload = config("bfloat16", (100, 70, 65))
        assert multiply(backend.compile(workload), workload) < WORST_ERROR["bfloat16"]
        assert pyxrt.counters.commands == 8, "two by two by two tiles of 64"
        with pytest.raises(MeasurementError, match="no simulated device"):
            backend.clock_ns()

    def test_the_kernel_that_wastes_least_is_taken(self, pyxrt, tmp_path, monkeypatch):
        built(tmp_path, self.FLOAT, emulated=False, name="small")
        built(tmp_path, replace(self.FLOAT, M=128, N=128), emulated=False, name="large")
        monkeypatch.setenv(KERNELS_VARIABLE, str(tmp_path))
        for shape, commands in (((128, 64, 128), 1), ((64, 64, 64), 1), ((192, 64, 64), 3)):
            before = pyxrt.counters.commands
            workload = config("bfloat16", shape)
            assert multiply(XdnaBackend("xdna", BackendOptions()).compile(workload), workload) < 1e-5
            assert pyxrt.counters.commands - before == commands

    def test_emulated_kernels_are_not_run(self, pyxrt, tmp_path, monkeypatch):
        built(tmp_path, self.FLOAT, emulated=True)
        monkeypatch.setenv(KERNELS_VARIABLE, str(tmp_path))
        backend = XdnaBackend("xdna", BackendOptions())
        line = failure(lambda: backend.compile(config("bfloat16")), MeasurementError)
        assert line.startswith("no built kernel multiplies bfloat16 into float32")
        line = failure(lambda: backend.platform.kernel_for(self.FLOAT), MeasurementError)
        assert line.startswith("no built kernel of 64x64x64 bfloat16 to float32")
        assert pyxrt.counters.contexts == 0

    @pytest.mark.parametrize(
        "change", [{"M": 128}, {"tile_k": 64}, {"out_dtype": "bfloat16"}, {"multiplication": "bfp16"}]
    )
    def test_a_kernel_of_another_call_is_not_taken(self, pyxrt, tmp_path, change):
        manifest = built(tmp_path, self.FLOAT, emulated=False)
        platform = open_platform("xdna", kernels=tmp_path)
        assert platform.kernel_for(replace(self.FLOAT, rounding="even", buffers_c=1)).path == manifest.path
        assert "no built kernel" in failure(
            lambda: platform.kernel_for(replace(self.FLOAT, **change)), MeasurementError
        )

    def test_a_manifest_that_cannot_be_read_hides_no_other(self, pyxrt, tmp_path):
        built(tmp_path, self.FLOAT, emulated=False)
        (tmp_path / "broken.toml").write_text("name =")
        platform = open_platform("xdna", kernels=tmp_path)
        assert len(platform.kernels) == 1
        assert len(platform.refused) == 1
        assert "broken.toml" in platform.refused[0]

    def test_without_kernels_it_says_how_to_have_them(self, pyxrt, tmp_path, monkeypatch):
        assert KERNELS_VARIABLE in failure(lambda: XdnaBackend("xdna", BackendOptions()), UnavailableError)
        monkeypatch.setenv(KERNELS_VARIABLE, str(tmp_path))
        assert "no built kernels" in failure(lambda: XdnaBackend("xdna", BackendOptions()), UnavailableError)

    def test_a_folder_that_is_not_there_is_told(self, pyxrt, tmp_path):
        failure(lambda: open_platform("xdna", kernels=tmp_path / "none"), FormatError)

    def test_a_device_of_another_name_is_refused(self, pyxrt):
        pyxrt.device = type("device", (pyxrt.device,), {"get_info": lambda self, key: "xilinx_u250_gen3x16"})
        assert "'xilinx_u250_gen3x16', which is no XDNA NPU" in failure(lambda: open_platform("xdna"), UnavailableError)

    def test_a_device_that_does_not_open_is_told_with_xrts_reason(self, pyxrt):
        pyxrt.faults.is_lost = True
        line = failure(lambda: open_platform("xdna"), UnavailableError)
        assert "XRT opens no device" in line
        assert "No such device" in line

    def test_no_pyxrt_and_another_package_of_its_name_are_told_apart(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyxrt", None)
        assert "cannot be imported" in failure(lambda: open_platform("xdna"), UnavailableError)
        monkeypatch.setitem(sys.modules, "pyxrt", types.ModuleType("pyxrt"))
        assert "hw_context" in failure(lambda: open_platform("xdna"), UnavailableError)

    def test_a_simulated_device_imports_no_pyxrt(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyxrt", None)
        assert open_platform("sim:npu1").is_simulated

    def test_options_of_the_other_kind_of_device_are_refused(self, pyxrt):
        with pytest.raises(UsageError, match="runs at its own clock"):
            open_platform("xdna", clock_ghz=1.0)
        with pytest.raises(UsageError, match="emulated builds of its own"):
            open_platform("sim:npu1", kernels=Path())
