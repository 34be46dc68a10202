"""`npuscope mlp` on Neuron, against stand-ins for the SDK and for AWS's profiler: captures in turns, results checked, device time."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from npuscope.analysis.kernel_neff import assignments
from npuscope.backends.neff_inputs import InputTensor
from npuscope.formats.kernel_folder import read_manifest
from npuscope.workloads.mlp import MlpConfig, make_inputs, reference
from tests.cli.conftest import command, environment, strict_json
from tests.standins.neuron_build import install
from tests.standins.neuron_capture import install_profiler, make_shelf
from tests.standins.neuronx_cc import SETTINGS_VARIABLE

CONFIG = MlpConfig(1, 8, 128, 128)
ONE = ("--impl", "nkilib", "--config", "b=1,s=8,h=128,i=128", "--rounds", 3)
BOTH = ("--impl", "nkilib", "--impl", "neuronxcc", "--config", "b=1,s=8,h=128,i=128", "--lnc", 2)


class Bench:
    """A folder, the stand-ins, and the results that the profiler is to save."""

    def __init__(self, folder):
        self.folder = folder
        packages, self.commands = install(folder / "sdk")
        self.shelf = make_shelf(folder / "shelf")
        self.environment = {"PYTHONPATH": packages, "PATH": f"{self.commands}{os.pathsep}{os.environ['PATH']}"}
        inputs = make_inputs(CONFIG, 0)
        self.saves(reference(inputs).astype(inputs[0].dtype).tobytes())

    def saves(self, data):
        (self.shelf / "result.bin").write_bytes(data)

    def profiler(self, **settings):
        install_profiler(Path(self.commands), self.shelf, **settings)

    def sdk(self, **settings):
        self.environment[SETTINGS_VARIABLE] = json.dumps(settings)

    def run(self, *words, code=0):
        answer = subprocess.run(
            command("mlp", *words),
            cwd=self.folder,
            env=environment(self.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            check=False,
        )
        assert answer.returncode == code, answer.stderr + answer.stdout
        return answer

    def results(self, out="out"):
        return strict_json((self.folder / out / "results.json").read_text())

    def calls(self):
        return [json.loads(line) for line in (self.shelf / "calls.jsonl").read_text().splitlines()]


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    made.profiler()
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    made = Bench(tmp_path_factory.mktemp("neuron"))
    made.profiler()
    made.run("run", *BOTH, "--out", "out")
    return made


class TestRun:
    def test_rows_have_the_devices_own_time_and_the_hosts_apart(self, finished):
        rows = finished.results()["results"]
        assert [row["implementation"] for row in rows] == ["nkilib", "neuronxcc"]
        for row in rows:
            assert (row["method"], row["device"], row["is_simulated"]) == ("device", "neuron", False)
            assert row["steady_ms"] < row["host_ms"] < row["compile_ms"]
            assert row["host_recompilations"] == 0
            assert row["tensor_us"] > 0
            assert row["mfu"] > 0

    def test_each_neff_is_captured_five_times_in_turns_on_the_same_inputs(self, finished):
        rounds = [call for call in finished.calls() if "-round" in call[call.index("-s") + 1]]
        kernels = ["nkilib" if "nkilib" in call[call.index("-n") + 1] else "neuronxcc" for call in rounds]
        assert len(rounds) == 10
        assert all(set(kernels[at : at + 2]) == {"nkilib", "neuronxcc"} for at in range(0, 10, 2))
        files = {word for call in rounds for word in call if word.endswith(".bin")}
        assert {Path(file).name for file in files} >= {"hidden_tensor.bin", "down_proj_weights_tensor.bin"}
        assert {str(Path(file).parent) for file in files} == {str(finished.folder / "out/inputs" / CONFIG.stem)}

    def test_each_captures_the_second_execution_and_the_first_round_saves_outputs(self, finished):
        rounds = [call for call in finished.calls() if "-round" in call[call.index("-s") + 1]]
        assert all("--profile-nth-exec=2" in call for call in rounds)
        assert ["--save-output" in call for call in rounds] == [True, True] + [False] * 8

    def test_a_tool_without_show_session_is_not_asked_for_it(self, finished):
        assert {capture["session_duration_ns"] for capture in finished.results()["captures"]} == {None}

    def test_equal_captures_show_no_difference(self, finished):
        (made,) = finished.results()["comparisons"]
        assert (made["verdict"], made["ratio"]) == ("no difference shown", 1.0)
        assert made["method"] == "device"

    def test_results_are_those_that_the_profiler_saved(self, finished):
        for row in finished.results()["results"]:
            assert row["is_checked"] is True
            assert "saved by the profiler" in row["check_of"]
            assert row["max_abs_error"] < 0.01

    def test_which_input_is_which_is_told_by_the_result(self, finished):
        for row in finished.results()["results"]:
            assert any("input2 is up_proj_weights_tensor" in note for note in row["notes"])

    def test_the_seeds_tables_come_out(self, finished):
        text = (finished.folder / "out" / "comparison.txt").read_text()
        for word in ("total µs", "tensor µs", "DMA µs", "MFU", "torch time", "compile", "compiled once"):
            assert word in text

    def test_the_manifest_has_the_compilers_command_and_version(self, finished):
        for built in read_manifest(finished.folder / "out").builds:
            assert built.compiler_command
            assert built.compiler_version
            assert built.neff in built.files
            assert built.method == "framework-debug"

    def test_the_median_capture_can_be_analysed(self, finished):
        row = finished.results()["results"][0]
        answer = subprocess.run(
            command("analyze", finished.folder / "out" / row["profile"], "--json"), capture_output=True, encoding="utf-8", timeout=60, check=True
        )  # fmt: skip
        assert strict_json(answer.stdout)["kernel_time"]["ns"] == pytest.approx(1e6 * row["steady_ms"])


class TestWhichInputIsWhich:
    def test_another_order_than_the_tables_is_found_by_the_result(self, bench):
        wanted = {
            "input1": "down_proj_weights_tensor",
            "input2": "gate_proj_weights_tensor",
            "input3": "up_proj_weights_tensor",
        }
        (bench.shelf / "order.json").write_text(json.dumps(wanted))
        bench.run("run", *ONE, "--out", "out")
        (row,) = bench.results()["results"]
        assert row["is_checked"] is True
        (note,) = [note for note in row["notes"] if "which input is which" in note]
        assert "input1 is down_proj_weights_tensor" in note
        assert "of assignment 1:" not in note
        rounds = [call for call in bench.calls() if "-round" in call[call.index("-s") + 1]]
        assert all(Path(call[call.index("input1") + 1]).stem == "down_proj_weights_tensor" for call in rounds)


def test_all_assignments_of_inputs_of_one_size_are_tried_each_once():
    tensors = [InputTensor(f"p{number}", 8, None, "") for number in range(5)]
    sizes = dict.fromkeys(("hidden", "gate", "up", "down"), 8)
    found = [tuple(made.values()) for made in assignments({}, tensors, sizes)]
    assert len(found) == len(set(found)) == 120
    assert found[0] == ("p0", "p1", "p2", "p3")
    assert ("p1", "p2", "p3", "p4") in found
    settled = [made["up"] for made in assignments({"hidden": "p0", "gate": "p1", "down": "p4"}, tensors, sizes)]
    assert settled == ["p2", "p3"]
    assert list(assignments({}, tensors[:3], sizes)) == []


class TestWhatGoesWrong:
    def test_calls_that_compile_again_are_counted_and_told(self, bench):
        bench.sdk(mode="recompiles")
        answer = bench.run("run", *ONE, "--out", "out", code=0)
        (row,) = bench.results()["results"]
        assert row["host_recompilations"] >= 1
        assert "COMPILES AGAIN" in answer.stdout
        assert "npuscope cache doctor" in answer.stdout
        words = command("cache", "doctor", bench.folder / "out", "--json")
        told = strict_json(subprocess.run(words, capture_output=True, encoding="utf-8", timeout=60, check=True).stdout)
        assert told["recompiles"] >= row["host_recompilations"]
        assert any("at each call" in text for finding in told["findings"] for text in finding["evidence"])

    def test_a_wrong_result_is_no_figure(self, bench):
        bench.saves(bytes(2 * 8 * 128))
        bench.run("run", *ONE, "--out", "out", code=1)
        for row in bench.results()["results"]:
            assert (row["status"], row["steady_ms"]) == ("failed", None)
            assert "none of 6 ways to assign" in row["error"]

    def test_unsaved_outputs_leave_the_result_unknown_unless_the_call_through_torch_gave_it(self, bench):
        (bench.shelf / "result.bin").unlink()
        bench.profiler(mode="short-output")
        bench.run("run", *ONE, "--out", "out")
        for row in bench.results()["results"]:
            assert "of the last call through the framework" in row["check_of"]
            assert row["max_abs_error"] < 0.01

    def test_a_profiler_that_fails_fails_its_row_in_one_line(self, bench):
        bench.profiler(mode="fail")
        bench.run("run", *ONE, "--out", "out", code=1)
        for row in bench.results()["results"]:
            assert "nrt_init failed: NRT_UNINITIALIZED" in row["error"]

    @pytest.mark.parametrize(("mode", "told"), [("partial", "truncated"), ("garbage", ".ntff"), ("killed", "SIGKILL")])
    def test_captures_that_are_none_are_told(self, bench, mode, told):
        bench.profiler(mode=mode)
        bench.run("run", *ONE, "--out", "out", code=1)
        (row,) = bench.results()["results"]
        assert (row["status"], row["steady_ms"]) == ("failed", None)
        assert told in row["error"]

    def test_without_a_profiler_what_was_built_stays_for_later(self, bench):
        (Path(bench.commands) / "neuron-explorer").unlink()
        answer = bench.run("run", *ONE, "--out", "out", code=4)
        assert "neuron-explorer" in answer.stderr
        assert len(answer.stderr.splitlines()) == 1
        bench.profiler(name="neuron-profile")
        bench.run("profile", "out", "--out", "new", "--rounds", 3)
        assert [row["status"] for row in bench.results("new")["results"]] == ["ok"]
        assert {capture["session_duration_ns"] for capture in bench.results("new")["captures"]} == {7654.321}

    def test_a_hanging_compiler_is_ended(self, bench):
        bench.sdk(mode="hangs")
        bench.run("build", *ONE[:4], "--lnc", 2, "--method", "klir", "--time-limit", 3, "--out", "out", code=1)
        (built,) = read_manifest(bench.folder / "out").builds
        assert "took longer than" in built.error


def test_klir_traces_and_compiles_without_a_run_through_torch(bench):
    bench.run("run", *ONE[:4], "--lnc", 2, "--method", "klir", "--out", "out")
    (row,) = bench.results()["results"]
    (built,) = read_manifest(bench.folder / "out").builds
    assert (built.method, row["host_ms"], row["first_ms"]) == ("klir", None, None)
    assert row["steady_ms"] > 0
    words = " ".join(built.compiler_command)
    assert "compile --framework XLA penguin.py --target trn2 --lnc 2" in words
