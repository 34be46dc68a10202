"""`npuscope capture`: a program on stand-ins for the Neuron runtime and AWS's profiler, as scripts meet it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from npuscope.backends import neuron_devices, neuron_tools, registry
from npuscope.backends.neuron_devices import DeviceUse
from npuscope.backends.registry import NpuNode
from tests.cli.conftest import command, environment, strict_json
from tests.standins.neuron_capture import install_profiler, install_program, make_shelf, path_with

WAIT_S = 60
"""Most time for a process to do what a test waits for."""


@pytest.fixture
def bin_folder(tmp_path, monkeypatch):
    """A folder first on PATH with the program; no profiler of this machine is found."""
    folder = tmp_path / "bin"
    install_program(folder, make_shelf(tmp_path / "shelf"))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(neuron_tools, "TOOL_FOLDER", str(folder / "none"))
    monkeypatch.setattr(neuron_devices, "device_holders", lambda proc: DeviceUse((), 0))  # whoever runs here
    return folder


@pytest.fixture
def captured(bin_folder, call_cli):
    """Run `npuscope capture OPTIONS -- program ...` and give its document."""

    def run(*program, options=(), code=0):
        answer = call_cli("capture", "--out", "out", "--json", *options, "--", "program", *program)
        assert answer.returncode == code, answer.stderr
        return strict_json(answer.stdout)

    return run


# the runtime's own captures


def test_a_runtime_that_skips_executions_gives_the_second_one(captured):
    document = captured(35, 2)
    (run,) = document["captures"]
    assert (run["execution"], run["execution_source"], run["verdict"]) == (2, "asked for", "match")
    assert Path(run["neff"]).parent == Path(run["ntff"]).parent
    assert document["neffs"] == [run["neff"]]
    assert [Path(path).name for path in document["other_files"]] == ["ntrace.pb"]
    assert document["environment"]["NEURON_RT_INSPECT_DEVICE_PROFILE_NUM_WARMUP"] == "1"
    assert (document["is_complete"], document["is_simulated"], document["nth_execution"]) == (True, False, 2)
    assert document["next"] == f"npuscope analyze {run['ntff']}"


def test_the_record_beside_the_captures_says_what_was_run(captured):
    document = captured(35, 2)
    record = strict_json(Path("out/capture.json").read_text(encoding="utf-8"))
    assert {key: value for key, value in record.items() if key != "sessions"} == document
    assert record["command"] == ["program", "35", "2"]


def test_the_next_command_works(captured, call_cli):
    words = captured(35, 2)["next"].split()
    answer = call_cli(*words[1:], "--json")
    assert answer.returncode == 0, answer.stderr
    assert any("paired by UUID" in note for note in strict_json(answer.stdout)["notes"])


@pytest.mark.parametrize("option", ["--nth-exec", "--profile-nth-exec"])
def test_a_later_execution_is_asked_for_by_its_number(option, captured):
    """The second name is that of AWS's own profiler."""
    document = captured(35, 5, options=(option, "5"))
    assert document["captures"][0]["execution"] == 5
    assert document["environment"]["NEURON_RT_INSPECT_DEVICE_PROFILE_NUM_WARMUP"] == "4"


def test_first_executions_of_an_older_runtime_do_not_pass_for_what_was_asked(captured):
    document = captured(29, 2, code=1)
    assert document["captures"][0]["execution"] == 1
    assert document["captures"][0]["execution_source"] == "runtime 2.29.40 skips none"
    assert not document["is_complete"]
    assert any("--method neff" in note for note in document["notes"])


def test_first_executions_that_were_asked_for_are_told_to_hold_start_up(captured):
    document = captured(29, 1, options=("--nth-exec", "1"))
    assert document["is_complete"]
    assert document["notes"] == ["first executions were asked for: start-up is in them, and they are not steady state"]


def test_a_table_shows_each_capture_with_its_graph_and_the_next_command(bin_folder, call_cli):
    answer = call_cli("capture", "--out", "out", "--", "program", 35, 2, "graph", "other")
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert lines[0] == "2 captures in out"
    assert lines[1].split("  ")[0] == "capture"
    rows = [line for line in lines if "_instid_0_vnc_0.ntff" in line and "neff_" in line]
    assert len(rows) == 2
    assert all("2 (asked for)" in row and "inf2.xlarge" in row and "KiB" in row for row in rows)
    assert lines[-1].startswith("next: npuscope analyze out/i-0ade06f0_pid_")


def test_a_capture_that_cannot_be_read_is_shown_and_told(captured, call_cli):
    document = captured(35, 2, "damaged", code=1)
    assert document["captures"][0]["verdict"] == "unreadable"
    assert any("version 7" in note for note in document["notes"])
    folder = Path(document["captures"][0]["ntff"]).parent
    assert document["next"] == f"npuscope inspect {folder}"
    assert strict_json(call_cli("inspect", folder, "--json").stdout)["kind"] == "captures"


def test_the_default_folder_is_named_after_the_time(bin_folder, call_cli):
    answer = call_cli("capture", "--json", "--", "program", 35, 2)
    assert answer.returncode == 0, answer.stderr
    (folder,) = Path("results").iterdir()
    assert folder.name.endswith("-capture")
    assert strict_json(answer.stdout)["out"] == f"results/{folder.name}"


def test_npuscopes_own_environment_is_not_changed(captured):
    before = dict(os.environ)
    captured(35, 2)
    assert dict(os.environ) == before


# the profiler's captures


def test_each_graph_is_run_again_by_the_profiler(captured, bin_folder, tmp_path):
    install_profiler(bin_folder, tmp_path / "shelf")
    document = captured(29, 1, "graph", "other", "graph", options=("--method", "neff"))
    late = [run for run in document["captures"] if run["execution"] == 2]
    assert len(late) == 2  # the third NEFF is a copy of the first
    assert {run["execution_source"] for run in late} == {"profiler"}
    assert all(run["verdict"] == "match" and Path(run["ntff"]).name.endswith("_exec_2.ntff") for run in late)
    assert document["is_complete"]
    assert document["next"].endswith("_exec_2.ntff")
    assert document["environment"]["NEURON_RT_INSPECT_DEVICE_PROFILE_NUM_WARMUP"] == "0"
    calls = [json.loads(line) for line in (tmp_path / "shelf" / "calls.jsonl").read_text().splitlines()]
    assert [call[-2:] for call in calls] == [["--num-exec=2", "--profile-nth-exec=2"]] * 2


def test_a_graph_that_the_profiler_fails_on_does_not_lose_the_others(captured, bin_folder, tmp_path):
    install_profiler(bin_folder, tmp_path / "shelf", mode="damaged")
    document = captured(29, 1, "graph", "other", options=("--method", "neff"), code=1)
    assert [run["execution"] for run in document["captures"]].count(2) == 1
    assert any("NRT_UNINITIALIZED" in note for note in document["notes"])
    assert not document["is_complete"]


def test_a_profiler_that_fails_on_every_graph_is_one_error(bin_folder, call_cli, tmp_path):
    install_profiler(bin_folder, tmp_path / "shelf", mode="fail")
    answer = call_cli("capture", "--out", "out", "--method", "neff", "--json", "--", "program", 29, 1)
    assert answer.returncode == 1
    assert not answer.stdout
    assert "ended with status 1: level=fatal" in answer.stderr.splitlines()[-1]


def test_a_file_whose_name_tells_no_execution_is_shown_without_one(captured, bin_folder, tmp_path):
    install_profiler(bin_folder, tmp_path / "shelf", mode="verbatim")
    document = captured(29, 1, options=("--method", "neff"))
    told = {Path(run["ntff"]).name: run["execution"] for run in document["captures"]}
    assert [told[name] for name in told if name.startswith("neff_")] == [None]


def test_a_missing_profiler_is_told_before_the_program_runs(bin_folder, call_cli, assert_one_line_error):
    answer = call_cli("capture", "--out", "out", "--method", "neff", "--", "program", 29, 1)
    assert_one_line_error(answer, 4, "neither neuron-explorer nor neuron-profile", "aws-neuronx-tools")
    assert not Path("out").exists()


# what goes wrong


def test_a_program_without_captures_on_a_machine_without_neuron_is_a_missing_device(
    bin_folder, call_cli, assert_one_line_error, monkeypatch
):
    monkeypatch.setattr(registry, "find_npu_nodes", list)
    answer = call_cli("capture", "--out", "out", "--", sys.executable, "-c", "pass")
    assert_one_line_error(answer, 4, "made no capture", "no /dev/neuron* here", "Neuron instance")


def test_a_program_without_captures_on_a_neuron_instance_is_told_what_to_check(
    bin_folder, call_cli, assert_one_line_error, monkeypatch
):
    monkeypatch.setattr(registry, "find_npu_nodes", lambda: [NpuNode("/dev/neuron0", "neuron", "AWS Neuron device")])
    answer = call_cli("capture", "--out", "out", "--", sys.executable, "-c", "pass")
    assert_one_line_error(answer, 1, "loads the Neuron runtime", "at least 2 times", "torch.profiler")


def test_graphs_that_run_once_only_are_told_with_the_way_out(bin_folder, call_cli, assert_one_line_error):
    answer = call_cli("capture", "--out", "out", "--json", "--", sys.executable, bin_folder / "program", 35, 1)
    assert answer.returncode == 1
    assert not answer.stdout
    assert "1 compiled graphs" in answer.stderr
    assert "--method neff" in answer.stderr


def test_the_programs_failure_is_one_line_with_its_status(bin_folder, call_cli, assert_one_line_error):
    answer = call_cli("capture", "--out", "out", "--json", "--", sys.executable, "-c", "raise SystemExit(3)")
    assert_one_line_error(answer, 1, "ended with status 3")


def test_a_program_that_is_killed_is_told_by_the_signal(bin_folder, call_cli, assert_one_line_error):
    code = "import os; os.kill(os.getpid(), 11)"
    answer = call_cli("capture", "--out", "out", "--", sys.executable, "-c", code)
    assert_one_line_error(answer, 1, "was killed by SIGSEGV")


def test_a_program_that_takes_too_long_is_ended(bin_folder, call_cli, assert_one_line_error):
    code = "import time; time.sleep(600)"
    answer = call_cli("capture", "--out", "out", "--time-limit", "0.5", "--", sys.executable, "-c", code)
    assert_one_line_error(answer, 1, "took longer than 0.5 s and was ended")


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (("--", "no-such-program"), ("there is no command 'no-such-program'",)),
        (("--nth-exec", "0", "--", "program"), ("--nth-exec 0 must lie between 1 and",)),
        (("--time-limit", "0", "--", "program"), ("--time-limit 0 must be",)),
        (("--time-limit", "nan", "--", "program"), ("--time-limit nan must be",)),
        (("--method", "nef", "--", "program"), ("unknown --method 'nef'; did you mean 'neff'?",)),
        (("--",), ("either a command, after --, or a compiled graph, with --neff", "see npuscope capture --help")),
        ((), ("either a command, after --, or a compiled graph, with --neff", "see npuscope capture --help")),
        (("--", ""), ("there is no command ''",)),
        (("--out", "file", "--", "program"), ("file cannot be used for captures",)),
        (("--out", "file/out", "--", "program"), ("file/out cannot be used for captures",)),
        (("--out", "full", "--", "program"), ("full is not empty",)),
    ],
)
def test_wrong_use_is_one_line_and_nothing_runs(words, texts, bin_folder, call_cli, assert_one_line_error, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old.ntff").write_bytes(b"old")
    assert_one_line_error(call_cli("capture", *words), 2, *texts)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["old.ntff"]
    assert not (tmp_path / "results").exists()


# the command's own words and streams


@pytest.mark.parametrize("separator", [("--",), ()])
def test_the_commands_options_are_its_own(separator, bin_folder, call_cli, monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "find_npu_nodes", list)
    code = f"import json, sys; open({str(tmp_path / 'words.json')!r}, 'w').write(json.dumps(sys.argv[1:]))"
    own = ["--json", "--out", "x", "-- a comment", "--help"]
    own += ["--debug", "--", "last"] if separator else []
    call_cli("capture", "--out", "out", *separator, sys.executable, "-c", code, *own)
    if separator:
        assert json.loads((tmp_path / "words.json").read_text()) == own
    else:
        assert json.loads((tmp_path / "words.json").read_text())[:3] == own[:3]


def test_what_the_program_prints_goes_to_standard_error(run_cli, tmp_path):
    install_program(tmp_path / "bin", make_shelf(tmp_path / "shelf"))
    answer = run_cli(
        "capture", "--out", "out", "--json", "--", "program", 35, 2, env={"PATH": path_with(tmp_path / "bin")}
    )
    assert answer.returncode == 0, answer.stderr
    assert strict_json(answer.stdout)["is_complete"]
    assert answer.stderr == "hello from the program\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_program_too(number, tmp_path):
    code = (
        "import os, time; from pathlib import Path; "
        "Path('part').write_text(str(os.getpid())); Path('part').rename('pid'); time.sleep(600)"
    )
    process = subprocess.Popen(
        command("capture", "--out", "out", "--", sys.executable, "-c", code),
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    deadline = time.monotonic() + WAIT_S
    while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[-1].endswith("was ended, what it left is in out")
    assert "npuscope/cli" not in stderr  # the traceback is the program's own
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()
