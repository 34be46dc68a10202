"""`neuron` and `neuron:xla` on a stand-in for AWS's SDK: what npuscope asks of it, and what it makes of the answers."""

import importlib.util
import os
import sys
import tempfile
import warnings

import ml_dtypes
import numpy as np
import pytest

from npuscope import MatmulProfiler, open_device
from npuscope.errors import MeasurementError, UnavailableError, UsageError
from tests.device import QUICK, SHAPE, WORST_ERROR, config, multiply
from tests.standins.neuron import CPU, MODULES, NO_DEVICE, NeuronSdk

DTYPES = ("float32", "float16", "bfloat16")
DEVICES = ("neuron", "neuron:xla")
WORK_FILES = {"graph.neff", "command.txt", "model/graph.hlo", "model/metadata.json"}
VARIABLES = ("NEURON_CC_FLAGS", "NEURONX_DUMP_TO")


@pytest.fixture
def sdk(monkeypatch, tmp_path):
    """The stand-in in place of the SDK, no Neuron variables, and a temporary folder of the test's own."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what the backend sets is taken back
        monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stand_in = NeuronSdk()
    stand_in.install(monkeypatch)
    return stand_in


def profile(device, *configs, settings=QUICK, compiler_log=None):
    return MatmulProfiler(device, compiler_log=compiler_log).profile(configs or [config()], settings)


def files_under(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


class TestResults:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("device", DEVICES)
    def test_are_right(self, sdk, device, dtype):
        workload = config(dtype)
        executable = open_device(device).compile(workload)
        assert [multiply(executable, workload, seed) <= WORST_ERROR[dtype] for seed in (1, 2)] == [True, True]

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("device", DEVICES)
    def test_row_says_what_ran(self, sdk, device, dtype):
        (row,) = profile(device, config(dtype))
        assert (row.status, row.error, row.device, row.is_simulated) == ("ok", "", device, False)
        assert (row.M, row.K, row.N, row.dtype) == (*SHAPE, dtype)
        assert (row.compute_dtype, row.out_dtype) == (dtype, dtype)
        assert row.samples == 5
        assert row.latency_ms > 0
        assert row.compile_ms > 0
        assert row.error_over_mass <= row.tolerance_over_mass

    @pytest.mark.parametrize("device", DEVICES)
    def test_come_from_the_device_alone(self, sdk, device):
        (row,) = profile(device)
        runs_of_row = 1 + row.warmup_runs + row.samples
        assert sdk.host_products == 0
        assert sdk.executions > runs_of_row

    @pytest.mark.parametrize("device", DEVICES)
    def test_are_checked(self, sdk, device):
        sdk.spoil = lambda array: array + array.dtype.type(1)
        (row,) = profile(device)
        assert row.status == "failed"
        assert row.error.startswith("wrong result: ")
        assert row.latency_ms is None

    @pytest.mark.parametrize("device", DEVICES)
    def test_tell_whether_a_run_includes_transfers(self, sdk, device):
        (row,) = profile(device)
        assert row.includes_transfers is (device == "neuron")
        assert any("transfers" in note for note in open_device(device).describe().notes) is (device == "neuron")

    @pytest.mark.parametrize("device", DEVICES)
    def test_equal_edges_do_not_merge_the_operands(self, sdk, device):
        workload = config(shape=(8, 8, 8))
        assert multiply(open_device(device).compile(workload), workload) <= WORST_ERROR["float32"]

    @pytest.mark.parametrize("device", DEVICES)
    def test_description_names_device_and_versions(self, sdk, device):
        info = open_device(device).describe()
        assert (info.name, info.dtypes) == (device, DTYPES)
        assert "xla:0" in info.description
        assert info.versions == {"torch": "2.9.0+cpu", "torch_neuronx": "2.9.0.2.11.0"}

    def test_older_spelling_of_the_public_profiler_takes_the_same_device(self, sdk):
        assert MatmulProfiler(use_neuron=True).device == "neuron"


class TestTrace:
    def test_happens_once_per_shape_and_type_and_never_while_sampling(self, sdk):
        profile("neuron", config("float32"), config("bfloat16"), config(shape=(8, 16, 4)))
        names = [workdir.name for workdir, _ in sdk.traces]
        assert sorted(names) == [
            "matmul_17x33x9_bfloat16",
            "matmul_17x33x9_float32",
            "matmul_1x1x1_bfloat16",
            "matmul_1x1x1_float32",
            "matmul_8x16x4_float32",
        ]
        assert sdk.loads == len(names)

    def test_is_counted(self, sdk):
        backend = open_device("neuron")
        assert backend.compile_count() == 0
        backend.compile(config())
        backend.compile(config("float16"))
        assert backend.compile_count() == 2

    def test_never_casts_operands(self, sdk):
        profile("neuron")
        assert [arguments for _, arguments in sdk.traces] == [("--auto-cast=none",)] * 2

    def test_uses_no_persistent_cache(self, sdk):
        (row,) = profile("neuron")
        assert row.compile_cache == "disabled"

    def test_works_in_a_folder_per_shape_and_type_of_the_compiler_log(self, sdk, tmp_path):
        log = tmp_path / "deep" / "log"
        profile("neuron", config("float32"), config("float16"), compiler_log=log)
        assert {path.name for path in log.iterdir()} == {
            "matmul_17x33x9_float32",
            "matmul_17x33x9_float16",
            "matmul_1x1x1_float32",
            "matmul_1x1x1_float16",
        }
        for folder in log.iterdir():
            assert files_under(folder) == WORK_FILES | {"log-neuron-cc.txt"}

    def test_works_in_a_folder_of_its_own_without_a_compiler_log(self, sdk):
        backend = open_device("neuron")
        assert backend.compile(config()).report.log_dir is None
        ((workdir, _),) = sdk.traces
        assert workdir.parent.stat().st_mode & 0o077 == 0

    def test_is_verbose_with_a_compiler_log(self, sdk, tmp_path):
        executable = MatmulProfiler("neuron", compiler_log=tmp_path / "log")._backend.compile(config())
        ((workdir, arguments),) = sdk.traces
        assert workdir == executable.report.log_dir == tmp_path / "log" / "matmul_17x33x9_float32"
        assert arguments == ("--auto-cast=none", "--verbose=info", f"--logfile={workdir}/log-neuron-cc.txt")
        assert sdk.compiler_environments == [{"NEURON_CC_FLAGS": "--verbose=info", "NEURONX_DUMP_TO": str(workdir)}]

    def test_leaves_the_environment_alone_without_a_compiler_log(self, sdk):
        profile("neuron")
        assert not os.environ.keys() & set(VARIABLES)

    def test_keeps_the_compiler_flags_that_the_user_set(self, sdk, tmp_path, monkeypatch):
        monkeypatch.setenv("NEURON_CC_FLAGS", "--optlevel=1")
        profile("neuron", compiler_log=tmp_path / "log")
        assert {seen["NEURON_CC_FLAGS"] for seen in sdk.compiler_environments} == {"--optlevel=1 --verbose=info"}
        assert os.environ["NEURON_CC_FLAGS"] == "--optlevel=1"

    def test_runs_leave_no_lazy_graph(self, sdk):
        profile("neuron")
        assert sdk.counters == {}
        assert sdk.uploads == sdk.downloads == 0

    def test_compiler_log_is_refused_for_the_lazy_device(self, sdk, tmp_path):
        with pytest.raises(UsageError, match="--compiler-log is for device neuron"):
            MatmulProfiler("neuron:xla", compiler_log=tmp_path)


class TestLazy:
    def test_first_compilation_is_a_miss_and_the_next_a_hit(self, sdk):
        rows = [profile("neuron:xla")[0] for _ in range(2)]
        assert [row.compile_cache for row in rows] == ["miss", "hit"]

    def test_another_type_of_the_same_shape_is_a_miss(self, sdk):
        rows = profile("neuron:xla", *(config(dtype) for dtype in DTYPES))
        assert [row.compile_cache for row in rows] == ["miss"] * 3

    def test_run_after_compile_is_no_further_compilation(self, sdk):
        workload = config()
        executable = open_device("neuron:xla").compile(workload)
        multiply(executable, workload)
        assert sdk.counters == {"UncachedCompile": 1, "CachedCompile": 1}

    def test_compilation_that_no_counter_shows_is_uncounted(self, sdk, monkeypatch):
        monkeypatch.setattr(sys.modules["torch_xla.debug.metrics"], "counter_value", lambda _: None)
        assert open_device("neuron:xla").compile(config()).report.cache.value == "uncounted"

    def test_device_is_waited_for_before_a_run_counts_as_done(self, sdk):
        """A read that had to wait would be counted: none is, so every run was over when it was read."""
        profile("neuron:xla")
        assert sdk.implicit_syncs == 0
        assert sdk.waits >= sdk.executions

    def test_every_run_is_one_execution_and_one_step(self, sdk):
        workload = config()
        executable = open_device("neuron:xla").compile(workload)
        inputs = executable.place(*(np.ones(shape, np.float32) for shape in ((17, 33), (33, 9))))
        executions, steps, waits = sdk.executions, sdk.mark_steps, sdk.waits
        for _ in range(3):
            executable.synchronise(executable.run(inputs))
        assert (sdk.executions - executions, sdk.mark_steps - steps, sdk.waits - waits) == (3, 3, 3)

    def test_operands_stay_on_the_device(self, sdk):
        uploads = []
        for iterations in (5, 50):
            before = sdk.uploads
            profile("neuron:xla", settings=type(QUICK)(iterations=iterations, warmup=1))
            uploads.append(sdk.uploads - before)
        assert uploads[0] == uploads[1] > 0

    def test_compilation_while_sampling_is_warned_of(self, sdk):
        sdk.forgets_from = 6  # compile, first run and warm-up of the row and of the dispatch floor
        (row,) = profile("neuron:xla")
        assert row.status == "ok"
        assert "compile-in-timed-region" in row.warnings.split(";")
        assert "5 compilation(s) happened inside the timed region" in row.warning_details

    def test_no_compilation_while_sampling_is_not_warned_of(self, sdk):
        (row,) = profile("neuron:xla")
        assert "compile-in-timed-region" not in row.warnings


class TestFailures:
    @pytest.mark.parametrize(
        ("device", "words"), [("neuron", "neuronx-cc failed with 70"), ("neuron:xla", "RunNeuronCCImpl")]
    )
    def test_compile_error_fails_its_row_and_never_becomes_a_host_figure(self, sdk, device, words):
        sdk.refused = {(8, 16, 32)}
        rows = profile(device, config(), config(shape=(8, 16, 32)), config(shape=(4, 4, 4)))
        assert [row.status for row in rows] == ["ok", "failed", "ok"]
        assert {row.device for row in rows} == {device}
        assert rows[1].error.startswith(f"{device} cannot compile 8x16x32 float32: ")
        assert words in rows[1].error
        assert (rows[1].latency_ms, rows[1].gflop_per_s, rows[1].samples_ns) == (None, None, ())
        assert sdk.host_products == 0

    @pytest.mark.parametrize("device", DEVICES)
    def test_compile_error_of_a_single_matmul_is_raised(self, sdk, device):
        sdk.refused = {SHAPE}
        with pytest.raises(MeasurementError, match=f"{device} cannot compile 17x33x9") as caught:
            MatmulProfiler(device).profile_single_matmul(config(), warmup=1, iterations=5)
        assert caught.value.exit_code == 1

    @pytest.mark.parametrize("device", DEVICES)
    def test_device_lost_while_sampling_fails_the_row(self, sdk, device):
        sdk.fails_from = 20
        (row,) = profile(device)
        assert row.status == "failed"
        assert "NRT_EXEC_HW_ERR" in row.error
        assert row.latency_ms is None

    @pytest.mark.parametrize("device", DEVICES)
    def test_int8_is_refused_with_the_types_that_there_are(self, sdk, device):
        with pytest.raises(UsageError, match=f"{device} has no int8 matmul; it has float32, float16, bfloat16"):
            open_device(device).compile(config("int8"))
        assert sdk.traces == []


class TestUnavailable:
    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.skipif(importlib.util.find_spec("torch_neuronx") is not None, reason="the Neuron SDK is here")
    def test_without_the_sdk(self, device):
        with pytest.raises(UnavailableError, match=f"{device} is not available: .* cannot be imported") as caught:
            open_device(device)
        assert caught.value.exit_code == 4
        assert "pip.repos.neuron.amazonaws.com" in caught.value.remedy

    @pytest.mark.parametrize("name", MODULES)
    def test_with_a_part_of_the_sdk_missing(self, sdk, name, monkeypatch):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UnavailableError, match=rf"{name} cannot be imported \(import of {name} halted"):
            open_device("neuron")

    @pytest.mark.parametrize("device", DEVICES)
    def test_on_the_later_product_of_the_same_package_name(self, monkeypatch, device):
        later = NeuronSdk()
        later.has_trace = False
        later.install(monkeypatch)
        with pytest.raises(UnavailableError, match="this torch_neuronx has no trace") as caught:
            open_device(device)
        assert "torch-neuronx==2.9" in caught.value.remedy

    @pytest.mark.parametrize("device", DEVICES)
    def test_without_a_device_in_the_words_of_the_runtime(self, sdk, device):
        sdk.devices = 0
        with pytest.raises(UnavailableError) as caught:
            open_device(device)
        assert caught.value.exit_code == 4
        assert NO_DEVICE.strip() in caught.value.missing
        assert "neuron-ls" in caught.value.remedy

    @pytest.mark.parametrize("hardware", ["CPU", "TPU"])
    @pytest.mark.parametrize("device", DEVICES)
    def test_on_other_hardware(self, sdk, device, hardware):
        sdk.hardware = hardware
        with pytest.raises(UnavailableError, match=f"torch_xla runs on {hardware}, not on a NeuronCore") as caught:
            open_device(device)
        assert "PJRT_DEVICE" in caught.value.remedy
        assert sdk.executions == 0

    @pytest.mark.parametrize("device", ["torch:cpu", "neuron"])
    def test_with_a_library_that_cannot_be_loaded(self, device, tmp_path, monkeypatch):
        (tmp_path / "torch.py").write_text("raise OSError('libtorch_cpu.so: cannot open shared object file')")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "torch", raising=False)
        with pytest.raises(UnavailableError, match=r"libtorch_cpu\.so"):
            open_device(device)


@pytest.mark.parametrize("device", DEVICES)
def test_calls_of_torch_xla_are_not_deprecated(sdk, device):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        workload = config()
        assert multiply(open_device(device).compile(workload), workload) <= WORST_ERROR["float32"]


def torch_modules():
    real = importlib.util.find_spec("torch") is None
    missing = pytest.mark.skipif(real, reason="torch is not installed")
    return ["stand-in", pytest.param("real", marks=missing)]


@pytest.fixture(params=torch_modules())
def torch(request):
    """The stand-in's torch, and the real one: both must refuse alike."""
    return NeuronSdk().modules()["torch"] if request.param == "stand-in" else pytest.importorskip("torch")


class TestTorchOfTheStandInAndTheRealOne:
    def test_agree_on_a_product(self, torch):
        a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(12, dtype=np.float32).reshape(3, 4)
        assert np.array_equal(torch.mm(torch.from_numpy(a), torch.from_numpy(b)).numpy(), a @ b)

    def test_refuse_a_bfloat16_array(self, torch):
        with pytest.raises(TypeError, match=r"can't convert np.ndarray of type ml_dtypes\.bfloat16"):
            torch.from_numpy(np.zeros((2, 2), ml_dtypes.bfloat16))

    def test_refuse_to_make_a_bfloat16_array(self, torch):
        with pytest.raises(TypeError, match="unsupported ScalarType BFloat16"):
            torch.zeros((2, 2), dtype=torch.bfloat16).numpy()

    def test_pass_bfloat16_as_its_bits(self, torch):
        bits = np.array([[0x3F80, 0x4000]], np.int16)
        tensor = torch.from_numpy(bits).view(torch.bfloat16)
        assert tensor.dtype == torch.bfloat16
        assert tensor.view(torch.int16).numpy().tolist() == bits.tolist()

    def test_share_memory_with_the_array(self, torch):
        array = np.zeros((2, 2), np.float32)
        tensor = torch.from_numpy(array)
        array[0, 0] = 5
        assert tensor.detach().to("cpu").numpy()[0, 0] == 5

    def test_refuse_lists_and_reversed_arrays(self, torch):
        with pytest.raises(TypeError, match=r"expected np\.ndarray"):
            torch.from_numpy([[1.0]])
        with pytest.raises(ValueError, match="strides"):
            torch.from_numpy(np.zeros((4, 4), np.float32)[::-1])

    def test_warn_of_an_array_that_is_not_writable(self, torch):
        array = np.zeros((2, 2), np.float32)
        array.flags.writeable = False
        with pytest.warns(UserWarning, match="not writable"):
            torch.from_numpy(array)

    def test_refuse_operands_that_do_not_fit(self, torch):
        zeros = torch.zeros((2, 3), dtype=torch.float32)
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            torch.mm(zeros, zeros)
        with pytest.raises(RuntimeError, match="same dtype"):
            torch.mm(zeros, torch.zeros((3, 2), dtype=torch.float16))
        with pytest.raises(RuntimeError, match="must be a matrix"):
            torch.mm(torch.zeros((2, 3, 4), dtype=torch.float32), torch.zeros((4, 2), dtype=torch.float32))


class TestStandInTraces:
    @pytest.fixture
    def modules(self):
        self.sdk = NeuronSdk()
        return self.sdk.modules()

    def tensors(self, modules, *shapes, dtype="float32"):
        torch = modules["torch"]
        return tuple(torch.zeros(shape, dtype=getattr(torch, dtype)) for shape in shapes)

    def trace(self, modules, *, shapes=((2, 3), (3, 4)), **options):
        return modules["torch_neuronx"].trace(modules["torch"].mm, self.tensors(modules, *shapes), **options)

    def test_refuses_an_unknown_keyword(self, modules, tmp_path):
        with pytest.raises(TypeError, match="workdir"):
            self.trace(modules, workdir=tmp_path)

    @pytest.mark.parametrize("flags", [["--auto-cast=no"], ["--fast-math=none"], "--verbose=loud", ["--autocast=none"]])
    def test_refuses_unknown_compiler_flags(self, modules, flags, tmp_path):
        with pytest.raises(RuntimeError, match="neuronx-cc failed with 1"):
            self.trace(modules, compiler_args=flags, compiler_workdir=tmp_path)
        assert files_under(tmp_path) == set()

    def test_takes_flags_as_text(self, modules, tmp_path):
        self.trace(modules, compiler_args="--auto-cast none -O 1", compiler_workdir=tmp_path)
        assert self.sdk.traces == [(tmp_path, ("--auto-cast", "none", "-O", "1"))]

    def test_refuses_the_same_tensor_twice(self, modules):
        (tensor,) = self.tensors(modules, (3, 3))
        with pytest.raises(RuntimeError, match="twice"):
            modules["torch_neuronx"].trace(modules["torch"].mm, (tensor, tensor))

    def test_refuses_a_list_and_device_tensors(self, modules):
        tensors = self.tensors(modules, (2, 3), (3, 4))
        with pytest.raises(TypeError, match="tuple"):
            modules["torch_neuronx"].trace(modules["torch"].mm, list(tensors))
        device = modules["torch_xla"].device()
        with pytest.raises(RuntimeError, match="CPU tensors"):
            modules["torch_neuronx"].trace(modules["torch"].mm, tuple(tensor.to(device) for tensor in tensors))

    def test_module_refuses_device_tensors_and_other_shapes_types_and_counts(self, modules, tmp_path):
        traced = self.trace(modules, compiler_workdir=tmp_path)
        a, b = self.tensors(modules, (2, 3), (3, 4))
        with pytest.raises(RuntimeError, match="takes CPU tensors"):
            traced(a.to(modules["torch_xla"].device()), b)
        with pytest.raises(RuntimeError, match=r"traced were torch.float32 \(3, 4\)"):
            traced(a, *self.tensors(modules, (3, 5)))
        with pytest.raises(RuntimeError, match=r"input 0 is torch\.float16"):
            traced(*self.tensors(modules, (2, 3), dtype="float16"), b)
        with pytest.raises(RuntimeError, match="expected 2 inputs"):
            traced(a)
        assert (self.sdk.executions, self.sdk.loads) == (0, 0)

    def test_module_loads_once_and_returns_host_tensors(self, modules, tmp_path):
        traced = self.trace(modules, compiler_workdir=tmp_path)
        operands = self.tensors(modules, (2, 3), (3, 4))
        outputs = [traced(*operands) for _ in range(3)]
        assert {output.device for output in outputs} == {CPU}
        assert (self.sdk.executions, self.sdk.loads) == (3, 1)

    def test_leaves_nothing_for_the_next_step(self, modules, tmp_path):
        traced = self.trace(modules, compiler_workdir=tmp_path)
        modules["torch_xla"].sync()
        assert self.sdk.executions == 0
        assert traced is not None


class TestStandInLazyTensors:
    @pytest.fixture
    def operands(self):
        self.sdk = NeuronSdk()
        self.modules = self.sdk.modules()
        torch, device = self.modules["torch"], self.modules["torch_xla"].device()
        return [torch.from_numpy(np.full((2, 2), value, np.float32)).to(device) for value in (2, 3)]

    def product(self, operands):
        return self.modules["torch"].mm(*operands)

    def test_product_is_only_recorded_until_the_step(self, operands):
        kept = self.product(operands)
        assert (self.sdk.executions, self.sdk.counters) == (0, {})
        self.modules["torch_xla"].sync()
        assert (self.sdk.executions, self.sdk.counters) == (1, {"UncachedCompile": 1})
        assert kept.shape == (2, 2)

    def test_dropped_product_leaves_an_empty_graph(self, operands):
        self.product(operands)
        self.modules["torch_xla"].sync()
        assert (self.sdk.executions, self.sdk.counters) == (0, {})

    @pytest.mark.parametrize("step", [False, True])
    def test_read_before_the_wait_is_counted(self, operands, step):
        output = self.product(operands)
        if step:
            self.modules["torch_xla"].sync()
        assert output.to("cpu").numpy().tolist() == [[12, 12], [12, 12]]
        assert self.sdk.implicit_syncs == 1

    def test_read_after_the_wait_is_not_counted(self, operands):
        output = self.product(operands)
        self.modules["torch_xla"].sync()
        self.modules["torch_xla.core.xla_model"].wait_device_ops()
        assert output.to("cpu").numpy().tolist() == [[12, 12], [12, 12]]
        assert self.sdk.implicit_syncs == 0

    def test_device_tensor_is_no_array(self, operands):
        with pytest.raises(TypeError, match="can't convert xla:0 device type tensor to numpy"):
            operands[0].numpy()

    def test_host_and_device_tensors_do_not_mix(self, operands):
        with pytest.raises(RuntimeError, match="same device"):
            self.product([operands[0], operands[1].to("cpu")])

    def test_counters_are_none_before_they_are_raised(self, operands):
        counter = self.modules["torch_xla.debug.metrics"].counter_value
        assert (counter("UncachedCompile"), counter("CachedCompile")) == (None, None)
        for _ in range(3):
            kept = self.product(operands)
            self.modules["torch_xla"].sync()
            assert kept.shape == (2, 2)
        assert (counter("UncachedCompile"), counter("CachedCompile")) == (1, 2)

    def test_failed_execution_is_raised_by_the_wait_and_by_the_read(self, operands):
        self.sdk.fails_from = 0
        output = self.product(operands)
        self.modules["torch_xla"].sync()
        with pytest.raises(RuntimeError, match="NRT_EXEC_HW_ERR"):
            self.modules["torch_xla.core.xla_model"].wait_device_ops()
        with pytest.raises(RuntimeError, match="failed"):
            output.to("cpu")

    def test_no_device_is_an_error_of_the_runtime(self, operands):
        self.sdk.devices = 0
        with pytest.raises(RuntimeError, match="num_devices > 0"):
            self.modules["torch_xla"].device()

    def test_deprecated_calls_warn(self, operands):
        xla_model = self.modules["torch_xla.core.xla_model"]
        with pytest.warns(DeprecationWarning, match=r"Use torch_xla\.device instead"):
            device = xla_model.xla_device()
        with pytest.warns(DeprecationWarning, match=r"Use torch_xla\.sync instead"):
            xla_model.mark_step()
        assert (str(device), xla_model.xla_device_hw(device)) == ("xla:0", "NEURON")

    def test_hardware_of_a_host_device_is_refused(self, operands):
        with pytest.raises(RuntimeError, match="Invalid device format"):
            self.modules["torch_xla.core.xla_model"].xla_device_hw(CPU)
