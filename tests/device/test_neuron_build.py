"""NEFFs of kernels, both ways, on a stand-in for what AWS's SDK does in a child process: what is asked of it, what is taken of it."""

import ast
import json
import os
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

from npuscope.backends.neuron_build import build_framework_debug, build_klir
from npuscope.backends.neuron_kernels import METHODS, VENDOR_KERNELS, neuron_kernel
from npuscope.errors import MeasurementError, UnavailableError, UsageError
from npuscope.workloads.mlp import INPUT_NAMES, MlpConfig, check_mlp, make_inputs
from tests.standins.neuron_build import TRACE_KERNEL, install
from tests.standins.neuronx_cc import SETTINGS_VARIABLE, VERSION

CONFIG = MlpConfig(1, 4, 128, 256)
BUILDS = dict(zip(METHODS, (build_klir, build_framework_debug), strict=True))
NUMBER = 7_180_866_674_807_936_198
STEM = f"MODULE_0_SyncTensorsGraph.209_{NUMBER}"
CACHED = f"neuron-compile-cache/neuronxcc-{VERSION}/MODULE_{NUMBER}+d41d8cd9"


def named_inputs(config=CONFIG, seed=1):
    return dict(zip(INPUT_NAMES, make_inputs(config, seed), strict=True))


def relative(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class Bench:
    """The stand-in's SDK, and a folder to build in."""

    def __init__(self, monkeypatch, tmp_path):
        self._monkeypatch, self._tmp_path, self.folder = monkeypatch, tmp_path, tmp_path / "build"
        self.without()

    def without(self, *names):
        packages, commands = install(self._tmp_path / f"sdk without {' '.join(names)}", without=names)
        self._monkeypatch.setenv("PYTHONPATH", packages)
        self._monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.defpath}")

    def set(self, **settings):
        self._monkeypatch.setenv(SETTINGS_VARIABLE, json.dumps(settings))

    def build(self, method, kernel="nkilib", *, inputs=None, timeout_s=60.0, **options):
        given = named_inputs() if inputs is None else inputs
        described = neuron_kernel(kernel) if isinstance(kernel, str) else kernel
        return BUILDS[method](described, given, self.folder, timeout_s=timeout_s, **options)

    def refused(self, method, error, *args, **options):
        with pytest.raises(error) as raised:
            self.build(method, *args, **options)
        message = str(raised.value)
        assert "\n" not in message
        return message

    def user_kernel(self, text, name="mine.py", function="kernel"):
        source = "import nki\nfrom tests.standins.neuron_build import gated_mlp\n" + textwrap.dedent(text)
        (self._tmp_path / name).write_text(source, encoding="utf-8")
        return f"{self._tmp_path / name}:{function}"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """One build by each method, for tests that only look at it."""
    with pytest.MonkeyPatch.context() as patch:
        made = {}
        for method in METHODS:
            bench = Bench(patch, tmp_path_factory.mktemp(method))
            made[method] = bench.build(method), bench.folder
        yield made


@pytest.fixture
def bench(monkeypatch, tmp_path):
    for name in ("NEURON_CC_FLAGS", "NEURON_COMPILE_CACHE_URL", "NEURON_LOGICAL_NC_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name in ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"):
        monkeypatch.delenv(name, raising=False)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    yield Bench(monkeypatch, tmp_path)
    assert not list(here.iterdir()), "something was left in the current folder"


class TestKlir:
    def test_compiles_what_the_trace_wrote(self, built):
        build, folder = built["klir"]
        assert relative(folder) == ["build-log.txt", "file.neff", "log-neuron-cc.txt", "penguin.py"]
        assert build.neff == folder / "file.neff"
        assert build.files == tuple(folder / name for name in relative(folder))
        assert (build.method, build.compiler_version, build.torch_run, build.hlo) == ("klir", VERSION, None, None)
        assert build.input_names == INPUT_NAMES
        assert dict(build.bindings) == dict(zip(INPUT_NAMES, INPUT_NAMES, strict=True))
        assert build.notes == ()
        assert build.compile_ms > 0

    def test_keeps_to_the_folder_as_it_was_given(self, bench, monkeypatch):
        monkeypatch.chdir(bench.folder.parent)
        bench.folder = Path("build")
        assert bench.build("klir").neff == Path("build/file.neff")

    def test_finds_a_compiler_on_a_path_that_is_relative(self, bench, monkeypatch):
        monkeypatch.setenv("PATH", os.path.relpath(os.environ["PATH"].partition(os.pathsep)[0]))
        bench.folder = bench.folder / "deeper"
        assert bench.build("klir").neff.is_file()

    def test_calls_the_compiler_as_the_comparison_does(self, built):
        compiler, *words = built["klir"][0].command
        assert compiler.endswith("/neuronx-cc")
        assert words == [
            *("compile", "--framework", "XLA", "penguin.py"),
            *("--target", "trn2", "--lnc", "2", "--output", "file.neff"),
        ]

    @pytest.mark.parametrize(("target", "lnc"), [("trn1", 1), ("trn2", 1)])
    def test_traces_for_the_target_and_cores_that_it_compiles_for(self, bench, target, lnc):
        build = bench.build("klir", target=target, lnc=lnc)  # the stand-in's compiler refuses a trace for others
        assert json.loads((bench.folder / "penguin.py").read_text())["lnc"] == lnc
        assert build.command[build.command.index("--target") + 1] == target

    def test_takes_float32(self, bench):
        config = MlpConfig(1, 4, 128, 256, "float32")
        bench.build("klir", inputs=named_inputs(config))
        traced = json.loads((bench.folder / "penguin.py").read_text())
        assert {dtype for _, dtype in traced["inputs"].values()} == {"float32"}

    def test_goes_through_the_driver_where_trace_kernel_is_gone(self, bench):
        bench.without(TRACE_KERNEL)
        build = bench.build("klir")
        assert relative(bench.folder) == ["build-log.txt", "file.neff"]
        assert build.command[0] == "nki.compiler.ncc_driver.CompiledKernel.from_frontend"
        assert (build.compiler_version, build.input_names) == (VERSION, INPUT_NAMES)
        assert "no TraceKernel" in build.notes[0]

    def test_keeps_what_the_compiler_printed(self, built):
        log = (built["klir"][1] / "build-log.txt").read_text()
        assert "/neuronx-cc' compile --framework XLA penguin.py" in log
        assert "Compiler status PASS" in log

    def test_names_the_neff_that_it_asked_for_where_another_lies_beside_it(self, bench):
        bench.set(mode="two")
        build = bench.build("klir")
        assert build.neff.name == "file.neff"
        assert "1 more NEFF" in " ".join(build.notes)

    @pytest.mark.parametrize(
        ("mode", "expected"),
        [
            ("fails", r"neuronx-cc compile ended with status 70: .*\[NCC_ITEN404\] Internal tensorizer error: mlp"),
            ("killed", r"neuronx-cc compile was killed by SIGKILL: Compiling"),
            ("silent", r"the compiler ended well but wrote no file\.neff"),
            ("garbage", r"wrote a NEFF that cannot be read: .*file\.neff, byte 8"),
            (
                "other",
                r"wrote no NEFF that takes 4 inputs of 1,024, 65,536, 65,536, 65,536 bytes; it wrote file\.neff$",
            ),
        ],
    )
    def test_tells_in_a_line_how_the_compiler_failed(self, bench, mode, expected):
        bench.set(mode=mode)
        message = bench.refused("klir", MeasurementError)
        assert message.startswith("--method klir of kernel nkilib")
        assert re.search(expected, message)

    def test_ends_a_compiler_that_hangs(self, bench):
        bench.set(mode="hangs")
        message = bench.refused("klir", MeasurementError, timeout_s=3.0)
        assert "neuronx-cc took longer than 3 s and was ended; allow more time" in message
        assert "KeyboardInterrupt" not in message

    def test_needs_the_compiler_before_anything_is_written(self, bench):
        bench.without("neuronx-cc")
        message = bench.refused("klir", UnavailableError)
        assert "neuronx-cc is not on PATH; pip install neuronx-cc" in message
        assert not bench.folder.exists()

    def test_needs_one_of_the_two_ways_to_trace(self, bench):
        bench.without(TRACE_KERNEL, "nki.compiler.ncc_driver")
        message = bench.refused("klir", UnavailableError)
        assert TRACE_KERNEL in message
        assert "nki.compiler.ncc_driver" in message
        assert not list(bench.folder.iterdir())

    def test_refuses_the_compilers_own_kernel_which_has_no_source(self, bench):
        message = bench.refused("klir", UsageError, "neuronxcc")
        assert "use --method framework-debug" in message
        assert not bench.folder.exists()


class TestFrameworkDebug:
    @pytest.mark.parametrize(
        ("kernel", "dtype", "sequence"),
        [
            ("nkilib", "bfloat16", 4),
            ("nkilib", "float32", 128),
            ("neuronxcc", "bfloat16", 128),
            ("neuronxcc", "float32", 4),
        ],
    )
    def test_result_is_the_mlps(self, bench, kernel, dtype, sequence):
        """On 4 tokens nki-library's kernel returns no batch axis, on 128 it does."""
        config = MlpConfig(1, sequence, 128, 256, dtype)
        inputs = named_inputs(config)
        run = bench.build("framework-debug", kernel, inputs=inputs, executions=2, warmup=0).torch_run
        output = np.load(run.output)
        assert (run.output_dtype, output.dtype.name) == (dtype, "float32")
        check = check_mlp(config, tuple(inputs.values()), output.astype(inputs[INPUT_NAMES[0]].dtype))
        assert check.passed, check.reason

    def test_takes_the_neff_and_hlo_that_its_run_saved(self, built):
        build, folder = built["framework-debug"]
        assert (build.neff, build.hlo) == (folder / f"{STEM}.neff", folder / f"{STEM}.hlo.pb")
        assert relative(folder) == [
            f"{STEM}.hlo.pb",
            f"{STEM}.neff",
            f"{STEM}.pbtxt",
            f"{STEM}_compile_flags.txt",
            "build-log.txt",
            f"{CACHED}/model.done",
            f"{CACHED}/model.neff",
            "output.npy",
        ]
        assert {str(path.relative_to(folder)) for path in build.files} == set(relative(folder))

    def test_keeps_to_the_folder_as_it_was_given(self, bench, monkeypatch):
        monkeypatch.chdir(bench.folder.parent)
        bench.folder = Path("build")
        build = bench.build("framework-debug", executions=1, warmup=0)
        assert (build.neff, build.torch_run.output) == (Path(f"build/{STEM}.neff"), Path("build/output.npy"))
        assert f"{CACHED}/model.neff" in relative(bench.folder)

    def test_times_the_compiler_by_the_log_and_never_the_run(self, built):
        build, _ = built["framework-debug"]
        assert build.compile_ms == pytest.approx(1500.0)  # the stand-in's log: from 10:00:00.250 to 10:00:01.750
        assert build.command[:2] == ("neuronx-cc", "compile")
        assert build.command[3] == f"/tmp/model.MODULE_{NUMBER}+d41d8cd9.hlo_module.pb"

    def test_has_no_compile_time_where_the_log_tells_none(self, bench):
        bench.set(mode="quiet")
        build = bench.build("framework-debug")
        assert (build.compile_ms, build.command) == (None, ())
        assert "does not tell how long the compiler took" in " ".join(build.notes)
        assert build.torch_run.first_call_ms > 0

    def test_counts_calls_and_compilations(self, bench):
        run = bench.build("framework-debug", executions=5, warmup=2).torch_run
        assert (len(run.samples_ns), run.warmup_calls) == (5, 2)
        assert (run.uncached_compiles, run.cached_compiles, run.compiler_starts, run.cache_hits) == (0, 5, 0, 0)
        assert run.recompiles_per_call == 0
        assert all(sample > 0 for sample in run.samples_ns)
        assert run.device == "xla:0"
        assert dict(run.versions)["torch_neuronx"] == "2.9.0.2.11.0"

    def test_tells_of_a_kernel_that_is_compiled_again_in_every_call(self, bench):
        bench.set(mode="recompiles")
        build = bench.build("framework-debug", executions=4, warmup=1)
        run = build.torch_run
        assert (run.uncached_compiles, run.compiler_starts, run.recompiles_per_call) == (4, 4, 1.0)
        assert "4 graphs were compiled again in 4 timed calls" in " ".join(build.notes)
        assert build.neff.name == f"{STEM}.neff"  # of the first call, whatever came later

    def test_chooses_by_inputs_among_the_graphs_of_the_first_call(self, bench):
        bench.set(mode="transfers")
        build = bench.build("framework-debug")
        assert build.neff.name == f"{STEM}.neff"
        assert "1 other NEFF of this run take" in " ".join(build.notes)
        assert build.compile_ms == pytest.approx(1500.0)

    def test_passes_over_a_graph_of_before_the_call_though_it_takes_the_same(self, bench):
        inputs = named_inputs()
        told = {f"input{index}": (array.shape, array.dtype.name) for index, array in enumerate(inputs.values())}
        bench.set(early=told)
        assert bench.build("framework-debug", inputs=inputs).neff.name.startswith("MODULE_1_")

    def test_refuses_two_graphs_that_take_the_same(self, bench):
        bench.set(mode="twice")
        message = bench.refused("framework-debug", MeasurementError)
        assert (
            f"wrote 2 NEFFs that take 4 inputs of 1,024, 65,536, 65,536, 65,536 bytes, and nothing tells which: {STEM}.neff, MODULE_1_"
            in message
        )

    def test_refuses_a_graph_that_takes_something_else(self, bench):
        bench.set(mode="foreign")
        assert "wrote no NEFF that takes" in bench.refused("framework-debug", MeasurementError)

    def test_takes_the_cached_neff_where_none_was_saved(self, bench):
        bench.set(mode="unsaved")
        build = bench.build("framework-debug")
        assert (build.neff, build.hlo) == (bench.folder / CACHED / "model.neff", None)

    def test_never_takes_a_result_from_the_host(self, bench):
        bench.set(mode="host")
        message = bench.refused("framework-debug", MeasurementError)
        assert "the result is on cpu; it has to be on the NeuronCore" in message

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"hardware": "CPU"}, "torch_xla runs on CPU, not on a NeuronCore"),
            ({"devices": 0}, "the runtime says: .* check neuron-ls"),
        ],
    )
    def test_needs_a_neuroncore(self, bench, settings, expected):
        bench.set(**settings)
        assert re.search(expected, bench.refused("framework-debug", UnavailableError))
        assert not list(bench.folder.iterdir())

    def test_says_what_the_compiler_says(self, bench):
        bench.set(mode="refuses")
        assert "[TEN404] (_dot.12) Internal tensorizer error" in bench.refused("framework-debug", MeasurementError)

    @pytest.mark.parametrize("module", ["torch", "torch_neuronx"])
    def test_needs_the_framework(self, bench, module):
        bench.without(module, "torch_neuronx.xla_impl.ops")  # which would be a package of that name, too
        message = bench.refused("framework-debug", UnavailableError)
        assert f"{module} cannot be imported" in message
        assert not list(bench.folder.iterdir())

    def test_needs_what_the_compilers_kernel_is_called_through(self, bench):
        bench.without("torch_neuronx.xla_impl.ops")
        message = bench.refused("framework-debug", UnavailableError, "neuronxcc")
        assert "torch_neuronx.xla_impl.ops.nki_jit cannot be imported" in message

    def test_sets_the_documented_environment_and_no_other_profiler(self, bench, monkeypatch):
        monkeypatch.setenv("NEURON_RT_INSPECT_ENABLE", "1")
        monkeypatch.setenv(
            "NEURON_CC_FLAGS", "--model-type transformer --cache_dir /elsewhere --cache_dir=/else --retry"
        )
        bench.build("framework-debug", executions=1, warmup=0)
        seen = json.loads((bench.folder / f"{STEM}.pbtxt").read_text())
        wanted = {
            "NEURON_FRAMEWORK_DEBUG": "1",
            "XLA_IR_DEBUG": "1",
            "XLA_HLO_DEBUG": "1",
            "NEURON_COMPILE_CACHE_URL": str(bench.folder / "neuron-compile-cache"),
            "NEURON_PLATFORM_TARGET_OVERRIDE": "trn2",
            "NEURON_LOGICAL_NC_CONFIG": "2",
            "NEURON_CC_FLAGS": "--model-type transformer --retry",
        }
        assert {name: seen.get(name) for name in wanted} == wanted
        assert "NEURON_RT_INSPECT_ENABLE" not in seen
        assert os.environ["NEURON_CC_FLAGS"].count("cache_dir") == 2  # ours stay as they are

    @pytest.mark.parametrize("kernel", [kernel.name for kernel in VENDOR_KERNELS])
    def test_launches_on_the_cores_that_it_names(self, bench, kernel):
        bench.build("framework-debug", kernel, target="trn1", lnc=1, executions=1, warmup=0)  # other cores are refused
        assert json.loads((bench.folder / f"{STEM}.pbtxt").read_text())["NEURON_LOGICAL_NC_CONFIG"] == "1"


class TestBoth:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("raises", "ValueError: tile of 256 partitions at neuron_build.py:"),
            ("dies", "was killed by SIGKILL and left no result; its last words: about to fall"),
            ("exits", "ended with status 0 and left no result"),
        ],
    )
    def test_a_kernel_that_fails_ends_in_one_line(self, bench, method, kind, expected):
        bench.set(kernel=kind)
        message = bench.refused(method, MeasurementError)
        assert message.startswith(f"--method {method} of kernel nkilib")
        assert expected in message
        assert message.endswith(f"see {bench.folder / 'build-log.txt'}")

    @pytest.mark.parametrize("method", METHODS)
    def test_a_kernel_that_hangs_is_ended(self, bench, method):
        bench.set(kernel="hangs")
        message = bench.refused(method, MeasurementError, timeout_s=3.0)
        assert "took longer than 3 s and was ended; allow more time; its last words: thinking" in message

    @pytest.mark.parametrize("method", METHODS)
    def test_a_folder_with_something_in_it_is_refused_and_stays_as_it_is(self, bench, method):
        bench.folder.mkdir()
        (bench.folder / "old.neff").write_bytes(b"another run's")
        assert "is not empty" in bench.refused(method, UsageError)
        assert relative(bench.folder) == ["old.neff"]

    @pytest.mark.parametrize("method", METHODS)
    def test_needs_the_kernels_package(self, bench, method):
        bench.without("nkilib.core.mlp.mlp")
        message = bench.refused(method, UnavailableError)
        assert "nkilib.core.mlp.mlp cannot be imported" in message
        assert not list(bench.folder.iterdir())

    @pytest.mark.parametrize("method", METHODS)
    def test_a_users_kernel_takes_the_inputs_by_name(self, bench, method):
        kernel = bench.user_kernel(
            f"""
            @nki.jit
            def kernel({", ".join(reversed(INPUT_NAMES))}):
                return gated_mlp({", ".join(INPUT_NAMES)})
            """
        )
        inputs = named_inputs()
        build = bench.build(method, kernel, inputs=inputs)
        if method == "klir":
            assert set(build.input_names) == set(INPUT_NAMES)
        else:
            output = np.load(build.torch_run.output).astype(inputs[INPUT_NAMES[0]].dtype)
            assert check_mlp(CONFIG, tuple(inputs.values()), output).passed

    @pytest.mark.parametrize("method", METHODS)
    def test_a_users_kernel_with_names_of_its_own_takes_them_in_order(self, bench, method):
        kernel = bench.user_kernel(
            """
            @nki.jit
            def kernel(x, gate, up, down, unused=None):
                return gated_mlp(x, gate, up, down)
            """
        )
        build = bench.build(method, kernel)
        if method == "klir":
            assert build.input_names == ("x", "gate", "up", "down")
            assert build.bindings == tuple(zip(INPUT_NAMES, ("x", "gate", "up", "down"), strict=True))
        else:
            assert build.bindings == ((INPUT_NAMES[0], "input0"),)

    def test_a_users_plain_function_is_given_to_nki_jit(self, bench):
        kernel = bench.user_kernel(
            """
            def kernel(x, gate, up, down):
                return gated_mlp(x, gate, up, down)
            """
        )
        assert bench.build("framework-debug", kernel, executions=1, warmup=0).torch_run.samples_ns

    @pytest.mark.parametrize("method", METHODS)
    def test_a_users_error_is_told_with_its_line(self, bench, method):
        kernel = bench.user_kernel(
            """
            @nki.jit
            def kernel(x, gate, up, down):
                raise TypeError("no such tile")
            """
        )
        assert "TypeError: no such tile at mine.py:6" in bench.refused(method, MeasurementError, kernel)

    @pytest.mark.parametrize(
        ("text", "error", "expected"),
        [
            ("def other(): pass", MeasurementError, "has no function kernel"),
            ("import no_such_package", UnavailableError, "No module named 'no_such_package'"),
            ("1 / 0", MeasurementError, "cannot be loaded: ZeroDivisionError: division by zero at mine.py:3"),
            ("def kernel(x): pass", MeasurementError, "has parameters x; it needs one for each of hidden_tensor"),
        ],
    )
    def test_a_users_file_that_is_no_kernels_is_told(self, bench, text, error, expected):
        assert expected in bench.refused("klir", error, bench.user_kernel(text))

    def test_what_lies_beside_a_users_file_can_be_imported_but_takes_no_other_modules_place(self, bench, tmp_path):
        (tmp_path / "tiles.py").write_text("from statistics import mean\n", encoding="utf-8")
        (tmp_path / "statistics.py").write_text("raise RuntimeError('not this one')\n", encoding="utf-8")
        kernel = bench.user_kernel(
            """
            import tiles
            @nki.jit
            def kernel(x, gate, up, down):
                assert tiles.mean([1, 3]) == 2
                return gated_mlp(x, gate, up, down)
            """
        )
        bench.build("klir", kernel)

    def test_nothing_is_left_beside_a_users_file(self, bench, tmp_path):
        kernel = bench.user_kernel(
            "@nki.jit\ndef kernel(x, gate, up, down):\n    return gated_mlp(x, gate, up, down)\n"
        )
        before = sorted(path.name for path in tmp_path.iterdir())
        bench.build("klir", kernel)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "build"])

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"target": "trn9"}, "unknown target 'trn9'"),
            ({"target": "trn1", "lnc": 2}, "lnc 2 cannot be had on trn1"),
            ({"lnc": 3}, "lnc 3 cannot be had on trn2"),
        ],
    )
    @pytest.mark.parametrize("method", METHODS)
    def test_refuses_a_target_and_cores_that_do_not_fit(self, bench, method, options, expected):
        assert expected in bench.refused(method, UsageError, **options)
        assert not bench.folder.exists()

    def test_refuses_no_timed_calls(self, bench):
        assert "0 timed calls" in bench.refused("framework-debug", UsageError, executions=0)


def test_the_child_imports_the_sdk_and_this_process_never_does():
    """No module of ours imports an SDK outside of a function."""
    from npuscope.backends import neuron_build, neuron_build_child, neuron_build_worker, neuron_kernels, neuron_neffs

    sdks = {"torch", "torch_xla", "torch_neuronx", "nki", "neuronxcc", "nkilib"}
    for module in (neuron_build, neuron_build_child, neuron_build_worker, neuron_kernels, neuron_neffs):
        tree = ast.parse(Path(module.__file__).read_text("utf-8"))
        for node in tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & sdks
