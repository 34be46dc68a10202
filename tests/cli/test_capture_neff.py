"""`npuscope capture --neff`: one compiled graph on a stand-in for AWS's profiler, as scripts meet it."""

import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from npuscope.backends import neuron_devices, neuron_tools
from npuscope.backends.neuron_devices import DeviceHolder, DeviceUse
from tests.cli.conftest import command, environment, strict_json
from tests.standins.neuron_capture import add_views, install_profiler, make_shelf

A = np.arange(128 * 128, dtype=np.float16).reshape(128, 128)
B = np.arange(128 * 512, dtype=np.float16).reshape(128, 512)
WAIT_S = 60


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder with graphs, and one first on PATH without a profiler; none of this machine is found, nor a device."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(neuron_tools, "TOOL_FOLDER", "/nothing")
    monkeypatch.setattr(neuron_devices, "device_holders", lambda proc: DeviceUse((), 0))
    for name in [name for name in os.environ if name.startswith("NEURON_")]:
        monkeypatch.delenv(name)
    return make_shelf(tmp_path / "shelf")


@pytest.fixture
def install(tmp_path, shelf):
    def run(**options):
        return install_profiler(tmp_path / "bin", shelf, **options)

    return run


@pytest.fixture
def captured(install, shelf, call_cli):
    """Run `npuscope capture --neff graph.neff OPTIONS` and give its document."""

    def run(*options, mode="exec", name="neuron-explorer", code=0, version="2.33.38.0"):
        install(mode=mode, name=name, version=version)
        answer = call_cli("capture", "--neff", shelf / "graph.neff", "--out", "out", "--json", *options)
        assert answer.returncode == code, answer.stderr
        return strict_json(answer.stdout)

    return run


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "inputs"
    folder.mkdir()
    np.save(folder / "input0.npy", A)
    (folder / "inp-input1-000.bin").write_bytes(B.tobytes())
    return folder


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def last_call(shelf):
    return json.loads((shelf / "calls.jsonl").read_text().splitlines()[-1])


@pytest.mark.parametrize("name", ["neuron-explorer", "neuron-profile"])
def test_a_graph_is_captured_on_zeros_and_that_is_said(name, captured, shelf):
    document = captured(name=name)
    (run,) = document["captures"]
    assert (run["ntff"], run["neff"]) == ("out/graph_exec_2.ntff", "out/graph.neff")
    assert (run["execution"], run["execution_source"], run["verdict"]) == (2, "profiler", "match")
    assert (document["is_complete"], document["is_simulated"], document["method"]) == (True, False, "neff")
    assert (document["is_zero_filled"], document["inputs"]) == (True, [])
    (note,) = document["notes"]
    assert note.startswith("the inputs (2 of them) are zeros")
    assert document["neff"] == {
        "path": "out/graph.neff",
        "source": str(shelf / "graph.neff"),
        "sha256": sha256(shelf / "graph.neff"),
    }
    assert sha256("out/graph.neff") == document["neff"]["sha256"]
    assert Path(document["profiler"]).name == name
    assert document["profiler_version"] == ("2.33.38.0" if name == "neuron-explorer" else "")
    assert sorted(path.name for path in Path("out").iterdir()) == ["capture.json", "graph.neff", "graph_exec_2.ntff"]


def test_inputs_are_laid_out_by_the_graphs_table_and_recorded_with_their_hashes(captured, inputs, shelf):
    document = captured("--inputs", inputs, "--num-exec", 5, "--nth-exec", 3)
    first, second = document["inputs"]
    raw = "out/inputs/inp-input0-000.bin"
    assert (first["name"], first["path"], first["source"]) == ("input0", raw, str(inputs / "input0.npy"))
    assert first["sha256"] == sha256(raw) == hashlib.sha256(A.tobytes()).hexdigest()
    assert second["path"] == second["source"] == str(inputs / "inp-input1-000.bin")
    assert second["size_bytes"] == B.nbytes
    assert not document["is_zero_filled"]
    assert document["notes"] == []
    assert (document["nth_execution"], document["num_executions"]) == (3, 5)
    call = last_call(shelf)
    assert call[-6:] == [
        "--num-exec=5",
        "--profile-nth-exec=3",
        *("input0", str(Path(raw).absolute())),
        *("input1", second["path"]),
    ]
    record = strict_json(Path("out/capture.json").read_text(encoding="utf-8"))
    assert {key: value for key, value in record.items() if key != "sessions"} == document
    assert record["sessions"][0]["npuscope"]


def test_the_next_command_works_and_finds_the_graph_beside_its_capture(captured, call_cli):
    answer = call_cli(*captured()["next"].split()[1:], "--json")
    assert answer.returncode == 0, answer.stderr
    assert any("paired by UUID with out/graph.neff" in note for note in strict_json(answer.stdout)["notes"])


def test_outputs_are_saved_and_told_by_name(captured):
    document = captured("--save-output", "--num-exec", 3)
    assert [(item["path"], item["tensor"], item["execution"]) for item in document["outputs"]] == [
        ("out/graph_outputs/output0", "output0", 1),
        ("out/graph_outputs/output0.2", "output0", 2),
        ("out/graph_outputs/output0.3", "output0", 3),
    ]


def test_the_vendors_own_flags_are_passed_on(captured, shelf):
    captured("--ignore-exec-errors", "--enable-dge-notifs", "--ranks", 4, "--profile-rank", 1)
    assert {"--ignore-exec-errors", "--enable-dge-notifs", "--collectives-profile-id=1"} <= set(last_call(shelf))


def test_each_rank_is_a_capture_and_a_missing_one_is_no_success(captured):
    document = captured("--ranks", 2)
    assert [Path(run["ntff"]).name for run in document["captures"]] == [f"graph_rank_{n}_exec_2.ntff" for n in (0, 1)]
    assert [item["rank"] for item in document["ranks_captured"]] == [0, 1]


def test_a_missing_rank_is_told_by_the_exit_code(captured):
    document = captured("--ranks", 2, mode="lost-rank", code=1)
    assert not document["is_complete"]
    assert "there is no capture of rank 1" in document["notes"]


@pytest.mark.parametrize(("view", "name"), [("parquet", "graph_exec_2_view_parquet"), ("json", "graph_exec_2_view.json"), ("perfetto", "graph_exec_2_view.pftrace")])  # fmt: skip
def test_the_profilers_own_view_lies_beside_the_capture(view, name, captured, shelf):
    add_views(shelf)
    document = captured("--view", view)
    assert document["view"] == f"out/{name}"
    assert Path(document["view"]).exists()
    assert document["next"] == "npuscope analyze out/graph_exec_2.ntff"  # ours, as long as it can be read


def test_a_capture_that_we_cannot_read_is_analyzed_by_the_profilers_view(captured, shelf, call_cli):
    add_views(shelf)
    ntff = bytearray((shelf / "graph.ntff").read_bytes())
    ntff[0] = 7
    (shelf / "graph.ntff").write_bytes(ntff)
    document = captured("--view", "parquet")
    assert document["captures"][0]["verdict"] == "unreadable"
    assert document["is_complete"]
    answer = call_cli(*document["next"].split()[1:], "--json")
    assert answer.returncode == 0, answer.stderr


def test_without_a_view_it_says_how_to_get_one(captured, shelf):
    ntff = bytearray((shelf / "graph.ntff").read_bytes())
    ntff[0] = 7
    (shelf / "graph.ntff").write_bytes(ntff)
    document = captured(code=1)
    assert "captures that npuscope cannot read are read by the profiler: --view parquet" in document["notes"]
    assert document["next"] == "npuscope inspect out"


@pytest.mark.parametrize("mode", ["partial", "garbage"])
def test_a_capture_that_is_none_is_kept_told_and_no_success(mode, captured):
    document = captured(mode=mode, code=1)
    assert document["captures"][0]["verdict"] == "unreadable"
    assert not document["is_complete"]
    assert any(note.startswith("graph_exec_2.ntff: ") for note in document["notes"])


def test_a_view_that_fails_does_not_lose_the_capture(captured, shelf):
    document = captured("--view", "json", version="2.34.0", code=1)
    assert document["view"] is None
    assert any("2.34.0 has no full profile as JSON" in note for note in document["notes"])
    assert Path(document["captures"][0]["ntff"]).is_file()


def test_a_file_whose_name_tells_no_execution_is_shown_without_one(captured):
    document = captured(mode="verbatim")
    assert document["captures"][0]["execution"] is None
    assert any("nothing tells which one it holds" in note for note in document["notes"])


def test_the_first_execution_is_told_to_hold_start_up(captured):
    document = captured("--nth-exec", 1)
    assert document["captures"][0]["execution"] == 1
    assert any("start-up is in them" in note for note in document["notes"])


def test_a_table_names_the_capture_the_tool_and_the_next_command(install, shelf, call_cli):
    install()
    answer = call_cli("capture", "--neff", shelf / "graph.neff", "--out", "out", "--save-output")
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert lines[0] == "1 captures in out, by neuron-explorer 2.33.38.0"
    assert "2 (profiler)" in answer.stdout
    assert "2 outputs in out/graph_outputs" in lines
    assert lines[-1] == "next: npuscope analyze out/graph_exec_2.ntff"
    assert "are zeros" in answer.stderr


# what goes wrong


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (("--", "program"), ("give either a command, after --, or a compiled graph, with --neff",)),
        (("--nth-exec", "0"), ("--nth-exec 0 must lie between 1 and",)),
        (("--num-exec", "1"), ("--num-exec 1 must be at least the execution to capture, 2",)),
        (("--view", "parket"), ("unknown --view 'parket'; did you mean 'parquet'?",)),
        (("--profile-rank", "1"), ("give their number with --ranks",)),
        (("--ranks", "2", "--profile-rank", "2"), ("rank 2 cannot be captured: there are ranks 0 to 1",)),
        (("--ranks", "0"), ("0 ranks from rank 0 on cannot be executed",)),
        (("--out", "full"), ("full is not empty",)),
        (("--time-limit", "0"), ("--time-limit 0 must be",)),
    ],
)
def test_wrong_use_is_one_line_and_nothing_runs(
    words, texts, install, shelf, call_cli, assert_one_line_error, tmp_path
):
    install()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old.ntff").write_bytes(b"old")
    assert_one_line_error(call_cli("capture", "--neff", shelf / "graph.neff", *words), 2, *texts)
    assert not (shelf / "calls.jsonl").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["old.ntff"]
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "option", [("--inputs", "x"), ("--num-exec", "2"), ("--save-output",), ("--ranks", "2"), ("--view", "json"), ("--ignore-exec-errors",)]
)  # fmt: skip
def test_options_of_one_graph_are_refused_with_a_command(option, shelf, call_cli, assert_one_line_error):
    answer = call_cli("capture", *option, "--", "true")
    assert_one_line_error(answer, 2, f"{option[0]} is for one compiled graph; give it with --neff")


def test_a_missing_tool_a_held_device_and_a_file_that_is_no_graph_are_told_before_anything_is_made(
    install, shelf, call_cli, assert_one_line_error, monkeypatch
):
    words = ("capture", "--neff", shelf / "graph.neff", "--out", "out")
    assert_one_line_error(call_cli(*words), 4, "neither neuron-explorer nor neuron-profile", "aws-neuronx-tools")
    install()
    answer = call_cli("capture", "--neff", shelf / "graph.ntff", "--out", "out")
    assert_one_line_error(answer, 3, "graph.ntff")
    use = DeviceUse((DeviceHolder(42, "python serve.py", ("/dev/neuron0",)),), 0)
    monkeypatch.setattr(neuron_devices, "device_holders", lambda proc: use)
    assert_one_line_error(
        call_cli(*words), 4, "process 42 (python serve.py) holds /dev/neuron0", "NEURON_RT_VISIBLE_CORES"
    )
    assert not Path("out").exists()


def test_processes_that_cannot_be_seen_are_a_note_but_no_failure(captured, monkeypatch):
    monkeypatch.setattr(neuron_devices, "device_holders", lambda proc: DeviceUse((), 3))
    document = captured()
    assert document["is_complete"]
    assert document["notes"][0] == "3 processes of other users could not be checked for open Neuron devices"


def test_inputs_that_do_not_fit_are_one_line_and_leave_nothing(install, inputs, shelf, call_cli, assert_one_line_error):
    install()
    np.save(inputs / "input0.npy", A.astype(ml_dtypes.bfloat16))
    words = ("capture", "--neff", shelf / "graph.neff", "--inputs", inputs, "--out", "out")
    line = assert_one_line_error(
        call_cli(*words), 3, "input input0: expected 32,768 bytes, shape 128×128, float16", "void16"
    )
    assert "save its raw bytes as input0.bin" in line
    assert not Path("out").exists()
    assert not (shelf / "calls.jsonl").exists()
    assert sorted(path.name for path in inputs.iterdir()) == ["inp-input1-000.bin", "input0.npy"]


def test_an_empty_folder_that_was_there_stays(install, inputs, shelf, call_cli):
    install()
    (inputs / "input0.npy").unlink()
    Path("out").mkdir()
    answer = call_cli("capture", "--neff", shelf / "graph.neff", "--inputs", inputs, "--out", "out")
    assert answer.returncode == 3
    assert Path("out").is_dir()


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("fail", "ended with status 1: level=fatal"),
        ("silent", "ended well but wrote no capture"),
        ("killed", "was killed by SIGKILL"),
        ("hang", "took longer than 0.5 s"),
    ],
)
def test_a_profiler_that_fails_is_one_line_with_its_last_words(mode, told, install, shelf, call_cli):
    install(mode=mode)
    limit = ("--time-limit", "0.5") if mode == "hang" else ()
    answer = call_cli("capture", "--neff", shelf / "graph.neff", "--out", "out", "--json", *limit)
    assert answer.returncode == 1
    assert not answer.stdout
    assert told in answer.stderr.splitlines()[-1]
    assert answer.stderr.splitlines()[-1].startswith("npuscope: error: neuron-explorer capture of ")
    assert (shelf / "graph.neff").is_file()


def test_an_interrupt_ends_the_profiler_too(install, shelf, tmp_path):
    tool = install(mode="hang")
    waiting = tool.read_text().replace(
        "from tests",
        f"import os; at = Path({str(tmp_path)!r}); (at / 'part').write_text(str(os.getpid())); (at / 'part').rename(at / 'pid')\nfrom tests",
    )
    tool.write_text(waiting.replace("import sys\n", "import sys\nif sys.argv[1] == '--version': sys.exit(1)\n", 1))
    process = subprocess.Popen(
        command("capture", "--neff", shelf / "graph.neff", "--out", "out"),
        cwd=tmp_path,
        env=environment({"PATH": str(tmp_path / "bin"), "NEURON_RT_VISIBLE_CORES": "0"}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    deadline = time.monotonic() + WAIT_S
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=WAIT_S)
    assert (process.returncode, stdout) == (130, "")
    assert "neuron-explorer was ended, what it left is in out" in stderr
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()
