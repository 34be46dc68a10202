"""What a capture on Neuron sets, restores, collects and pairs; and AWS's profiler on one NEFF, by a stand-in."""

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from npuscope.backends import neuron_devices, neuron_tools
from npuscope.backends.neff_capture import capture_neff
from npuscope.backends.neuron_capture import (
    METHODS,
    _notes_on_runtime,
    capture_environment,
    collect_captures,
    neuron_capture,
    sort_files,
)
from npuscope.backends.neuron_devices import DeviceUse
from npuscope.backends.neuron_tools import Profiler, find_profiler
from npuscope.backends.processes import run_child
from npuscope.errors import FormatError, MeasurementError, OutputError, UnavailableError, UsageError
from tests.standins.neuron_capture import OTHER_UUID, install_profiler, make_shelf, ntff
from tests.writers.neff import UUID, neff_bytes

NAMES = (
    "NEURON_RT_INSPECT_ENABLE",
    "NEURON_RT_INSPECT_OUTPUT_DIR",
    "NEURON_RT_INSPECT_SYSTEM_PROFILE",
    "NEURON_RT_INSPECT_DEVICE_PROFILE",
    "NEURON_RT_INSPECT_DEVICE_PROFILE_NUM_WARMUP",
    "NEURON_FRAMEWORK_DEBUG",
    "XLA_IR_DEBUG",
    "XLA_HLO_DEBUG",
)


@pytest.fixture(autouse=True)
def no_neuron_variables(monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that what the code sets is taken back
        monkeypatch.delenv(name)


@pytest.fixture
def shelf(tmp_path):
    return make_shelf(tmp_path / "shelf")


# environment


def test_the_environment_is_the_documented_one_key_by_key(tmp_path):
    assert capture_environment(tmp_path / "out") == {
        "NEURON_RT_INSPECT_ENABLE": "1",
        "NEURON_RT_INSPECT_OUTPUT_DIR": str(tmp_path / "out"),
        "NEURON_RT_INSPECT_SYSTEM_PROFILE": "1",
        "NEURON_RT_INSPECT_DEVICE_PROFILE": "1",
        "NEURON_RT_INSPECT_DEVICE_PROFILE_NUM_WARMUP": "1",
        "NEURON_FRAMEWORK_DEBUG": "1",
        "XLA_IR_DEBUG": "1",
        "XLA_HLO_DEBUG": "1",
    }


@pytest.mark.parametrize(("method", "warmup", "skipped"), [("inspect", 5, "5"), ("inspect", 0, "0"), ("neff", 1, "0")])
def test_executions_are_skipped_as_asked_and_never_where_only_the_neff_is_wanted(method, warmup, skipped, tmp_path):
    made = capture_environment(tmp_path, method=method, warmup_executions=warmup)
    assert made["NEURON_RT_INSPECT_DEVICE_PROFILE_NUM_WARMUP"] == skipped


def test_a_relative_folder_becomes_absolute_because_a_program_may_change_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = capture_environment(Path("out"))
    assert made["NEURON_RT_INSPECT_OUTPUT_DIR"] == str(tmp_path / "out")


def test_unknown_methods_and_negative_warm_up_are_refused(tmp_path):
    with pytest.raises(UsageError, match="unknown capture method 'inspekt'; did you mean 'inspect'"):
        capture_environment(tmp_path, method="inspekt")
    with pytest.raises(UsageError, match="0 or more"):
        capture_environment(tmp_path, warmup_executions=-1)


# the context manager


def test_the_variables_are_set_inside_and_as_before_afterwards(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_IR_DEBUG", "0")
    before = dict(os.environ)
    with neuron_capture(tmp_path / "out", warmup_executions=3) as capture:
        assert {name: os.environ[name] for name in NAMES} == capture.environment
        assert capture.environment == capture_environment(tmp_path / "out", warmup_executions=3)
        assert capture.output_dir.is_dir()
    assert dict(os.environ) == before


def test_the_variables_are_as_before_after_an_exception_and_the_next_capture_works(tmp_path, monkeypatch):
    monkeypatch.setenv("NEURON_RT_INSPECT_ENABLE", "0")
    before = dict(os.environ)
    with suppress(ZeroDivisionError), neuron_capture(tmp_path / "a") as capture:
        (tmp_path / "a" / "1.ntff").write_bytes(b"x")
        raise ZeroDivisionError
    assert dict(os.environ) == before
    assert capture.files.ntffs == (tmp_path / "a" / "1.ntff",)
    with neuron_capture(tmp_path / "b"):
        assert os.environ["NEURON_RT_INSPECT_ENABLE"] == "1"


def test_what_the_block_itself_sets_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("NPUSCOPE_TEST", "before")
    with neuron_capture(tmp_path / "out"):
        os.environ["NPUSCOPE_TEST"] = "inside"
    assert os.environ["NPUSCOPE_TEST"] == "inside"


def test_captures_cannot_be_nested_and_the_outer_one_goes_on(tmp_path):
    with neuron_capture(tmp_path / "outer"):
        with pytest.raises(UsageError, match="cannot be nested"), neuron_capture(tmp_path / "inner"):
            pass
        assert os.environ["NEURON_RT_INSPECT_OUTPUT_DIR"] == str(tmp_path / "outer")
        assert not (tmp_path / "inner").exists()


def test_a_second_thread_is_refused_too(tmp_path):
    refused = []

    def other():
        try:
            with neuron_capture(tmp_path / "inner"):
                pass
        except UsageError as error:
            refused.append(error)

    with neuron_capture(tmp_path / "outer"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1


def test_a_folder_with_files_is_refused_and_nothing_is_set(tmp_path):
    (tmp_path / "old.ntff").write_bytes(b"x")
    with pytest.raises(UsageError, match="is not empty"), neuron_capture(tmp_path):
        pass
    assert not set(NAMES) & set(os.environ)
    with neuron_capture(tmp_path / "new"):
        pass  # the refusal left nothing locked


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="cannot be used for captures"), neuron_capture(tmp_path / "file" / "out"):
        pass


def test_only_files_that_the_run_made_or_changed_are_its_own(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "old.neff").write_bytes(b"old")
    (cache / "changed.neff").write_bytes(b"old")
    with neuron_capture(tmp_path / "out", watch=(cache,)) as capture:
        below = tmp_path / "out" / "i-0_pid_7"
        below.mkdir()
        for name in ("7_instid_0_vnc_0.ntff", "neff_7.neff", "ntrace.pb"):
            (below / name).write_bytes(b"x")
        (cache / "changed.neff").write_bytes(b"new and longer")
        (cache / "model.hlo_module.pb").write_bytes(b"x")
        (below / "link.ntff").symlink_to(below / "7_instid_0_vnc_0.ntff")
    assert capture.files.ntffs == (below / "7_instid_0_vnc_0.ntff",)
    assert capture.files.neffs == (cache / "changed.neff", below / "neff_7.neff")
    assert capture.files.hlos == (cache / "model.hlo_module.pb",)
    assert capture.files.others == (below / "ntrace.pb",)


def test_files_are_unknown_while_the_run_goes_on(tmp_path):
    with neuron_capture(tmp_path / "out") as capture, pytest.raises(UsageError, match="not over"):
        _ = capture.files
    assert capture.files.ntffs == ()


@pytest.mark.parametrize(
    "name", ["graph.hlo", "model.hlo_module.pb", "model.hlo_module.pb.gz", "model.hlo.pb", "a.b.hlo_module.pb"]
)
def test_hlo_is_known_by_its_name(name, tmp_path):
    assert sort_files([tmp_path / name]).hlos == (tmp_path / name,)


@pytest.mark.parametrize("name", ["ntrace.pb", "graph.hlo.txt", "hlo_metrics.json", ".hlo.pb"])
def test_other_files_are_no_hlo(name, tmp_path):
    assert sort_files([tmp_path / name]).others == (tmp_path / name,)


def test_a_runtime_package_imported_before_is_a_note(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "libneuronxla", object())
    with neuron_capture(tmp_path / "out") as capture:
        assert len(capture.notes) == 1
        assert "libneuronxla was imported before the capture" in capture.notes[0]


def test_a_runtime_that_holds_a_device_open_is_refused(tmp_path):
    (tmp_path / "fd").mkdir()
    (tmp_path / "fd" / "0").symlink_to("/dev/null")
    assert _notes_on_runtime(tmp_path) == ()
    (tmp_path / "fd" / "7").symlink_to("/dev/neuron0")
    with pytest.raises(UsageError, match=r"initialised already \(/dev/neuron0 is open\)"):
        _notes_on_runtime(tmp_path)


# pairing


def test_captures_are_paired_by_uuid_whatever_their_names_say(tmp_path):
    (tmp_path / "neff_1.neff").write_bytes(neff_bytes(uuid=UUID))
    (tmp_path / "neff_2.neff").write_bytes(neff_bytes(uuid=OTHER_UUID))
    (tmp_path / "below").mkdir()
    (tmp_path / "1_vnc_0.ntff").write_bytes(ntff(OTHER_UUID))
    (tmp_path / "below" / "2_vnc_0.ntff").write_bytes(ntff(UUID))
    (tmp_path / "below" / "3_vnc_0.ntff").write_bytes(ntff(bytes(range(50, 66))))
    runs = {run.ntff.name: run for run in collect_captures(tmp_path)}
    assert runs["1_vnc_0.ntff"].neff == tmp_path / "neff_2.neff"
    assert runs["2_vnc_0.ntff"].neff == tmp_path / "neff_1.neff"
    assert (runs["3_vnc_0.ntff"].neff, runs["3_vnc_0.ntff"].verdict) == (None, "mismatch")
    assert runs["1_vnc_0.ntff"].size_bytes == len(ntff(OTHER_UUID))
    assert runs["1_vnc_0.ntff"].instance_type == "inf2.xlarge"


@pytest.mark.parametrize(
    ("name", "minor", "warmup", "execution", "source"),
    [
        ("g_exec_2.ntff", 29, None, 2, "file name"),
        ("g_rank_0_exec_12.ntff", 35, 1, 12, "file name"),
        ("7_instid_0_vnc_0.ntff", 29, 1, 1, "runtime 2.29.40 skips none"),
        ("7_instid_0_vnc_0.ntff", 35, 1, 2, "asked for"),
        ("7_instid_0_vnc_0.ntff", 35, 0, 1, "asked for"),
        ("7_instid_0_vnc_0.ntff", 35, None, None, ""),
        ("profile_nc_0_session_0.ntff", 29, None, None, ""),
        ("pre_exec_2nd.ntff", 29, None, None, ""),
    ],
)
def test_the_execution_is_told_by_the_name_or_by_the_runtime_that_wrote_the_capture(
    name, minor, warmup, execution, source, tmp_path
):
    (tmp_path / name).write_bytes(ntff(minor=minor))
    (run,) = collect_captures(tmp_path, warmup_executions=warmup)
    assert (run.execution, run.execution_source) == (execution, source)


def test_a_capture_of_a_version_that_nobody_here_reads_is_kept_and_told(tmp_path):
    (tmp_path / "a.ntff").write_bytes(b"\x07" + ntff()[1:])
    (run,) = collect_captures(tmp_path, warmup_executions=1)
    assert (run.verdict, run.neff, run.execution) == ("unreadable", None, None)
    assert "version 7" in run.remark


# the profiler on one NEFF


@pytest.fixture
def bin_folder(tmp_path, monkeypatch):
    """A folder that is all of PATH, so that no tool of this machine answers."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(neuron_tools, "TOOL_FOLDER", str(folder / "none"))
    monkeypatch.setattr(neuron_devices, "device_holders", lambda proc: DeviceUse((), 0))  # whoever runs here
    return folder


@pytest.mark.parametrize(("mode", "name"), [("exec", "graph_exec_3.ntff"), ("rank", "graph_rank_0_exec_3.ntff")])
def test_the_profiler_is_asked_as_documented_and_its_file_found_by_its_real_name(
    mode, name, bin_folder, shelf, tmp_path, monkeypatch
):
    monkeypatch.setenv("NEURON_RT_INSPECT_ENABLE", "1")  # the stand-in refuses to run with it
    monkeypatch.chdir(tmp_path)
    install_profiler(bin_folder, shelf, mode=mode)
    made = capture_neff(shelf / "graph.neff", tmp_path / "out", nth_execution=3)
    assert made.ntff == tmp_path / "out" / name
    assert made.execution == 3
    (call,) = (json.loads(line) for line in (shelf / "calls.jsonl").read_text().splitlines())
    neff, session = str(shelf / "graph.neff"), call[4]
    assert call == ["capture", "-n", neff, "-s", session, "--num-exec=3", "--profile-nth-exec=3"]
    assert Path(session).name == "graph.ntff"
    assert Path(session).parent.parent == tmp_path / "out"  # a folder of its own, which is gone
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [name]
    assert [run.execution for run in collect_captures(tmp_path / "out")] == [3]


def test_the_second_execution_is_the_default(bin_folder, shelf, tmp_path):
    install_profiler(bin_folder, shelf)
    assert capture_neff(shelf / "graph.neff", tmp_path / "out").ntff.name == "graph_exec_2.ntff"


def test_the_first_execution_is_captured_where_the_caller_insists(bin_folder, shelf, tmp_path):
    install_profiler(bin_folder, shelf)
    made = capture_neff(shelf / "graph.neff", tmp_path / "out", nth_execution=1)
    assert (made.ntff.name, made.execution) == ("graph.ntff", 1)


def test_a_file_named_as_given_does_not_pass_for_the_execution_that_was_asked_for(bin_folder, shelf, tmp_path):
    install_profiler(bin_folder, shelf, mode="verbatim")
    made = capture_neff(shelf / "graph.neff", tmp_path / "out")
    assert (made.ntff.name, made.execution) == ("graph.ntff", None)


def test_the_older_profiler_serves_where_the_newer_is_missing(bin_folder, shelf):
    older = install_profiler(bin_folder, shelf, name="neuron-profile")
    assert find_profiler() == Profiler(str(older), "neuron-profile", "")
    newer = install_profiler(bin_folder, shelf)
    assert find_profiler() == Profiler(str(newer), "neuron-explorer", "2.33.38.0")


def test_a_machine_without_the_profilers_says_so(bin_folder, shelf, tmp_path):
    with pytest.raises(UnavailableError, match="neither neuron-explorer nor neuron-profile is on PATH"):
        capture_neff(shelf / "graph.neff", tmp_path / "out")


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("fail", "ended with status 1: level=fatal msg=.nrt_init failed: NRT_UNINITIALIZED"),
        ("silent", "wrote no capture, no file: loading the model"),
        ("hang", "took longer than 0.5 s and was ended; allow more time"),
    ],
)
def test_a_profiler_that_captures_nothing_is_one_line_with_its_last_words(mode, words, bin_folder, shelf, tmp_path):
    install_profiler(bin_folder, shelf, mode=mode)
    with pytest.raises(MeasurementError, match=words) as raised:
        capture_neff(shelf / "graph.neff", tmp_path / "out", timeout_s=0.5 if mode == "hang" else 60)
    assert "\n" not in str(raised.value)


def test_captures_that_are_there_are_not_mistaken_for_new_ones(bin_folder, shelf, tmp_path):
    install_profiler(bin_folder, shelf, mode="silent")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "graph_exec_2.ntff").write_bytes(b"old")
    with pytest.raises(UsageError, match=r"graph_exec_2\.ntff exists"):
        capture_neff(shelf / "graph.neff", tmp_path / "out")


def test_bad_arguments_of_the_profiler_are_refused(bin_folder, shelf, tmp_path):
    install_profiler(bin_folder, shelf)
    with pytest.raises(UsageError, match="execution 0 must lie between 1 and"):
        capture_neff(shelf / "graph.neff", tmp_path / "out", nth_execution=0)
    with pytest.raises(FormatError, match="NEFF"):
        capture_neff(shelf / "damaged.neff", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# children


def test_a_child_killed_by_a_signal_is_told_by_its_name():
    ended = run_child([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], env={})
    assert ended.status == -signal.SIGKILL
    assert ended.told() == "was killed by SIGKILL"
    assert ended.last_words() == "it printed nothing"


def test_a_child_that_takes_too_long_is_ended_with_the_children_that_it_started(tmp_path):
    code = (
        "import subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid)); print('working', flush=True); time.sleep(600)"
    )
    with pytest.raises(MeasurementError, match="took longer than 6 s"):
        run_child([sys.executable, "-c", code], env=dict(os.environ), timeout_s=6)
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 20  # a signal that was sent need not have been acted on yet
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(child)


def is_running(pid):
    """Whether a process exists that is no zombie, which nobody may have collected here."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except FileNotFoundError:
        return False


def test_a_command_that_is_not_there_is_wrong_use():
    with pytest.raises(UsageError, match="no-such-command cannot be run: No such file or directory"):
        run_child(["no-such-command"], env={})


def test_every_method_has_an_environment(tmp_path):
    assert [set(capture_environment(tmp_path, method=method)) for method in METHODS] == [set(NAMES)] * len(METHODS)
