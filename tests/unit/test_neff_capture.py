"""AWS's profiler on one NEFF, by a stand-in that checks its arguments: what is asked, what is taken, what is kept."""

import json
import os
import re

import pytest

from npuscope.backends import neuron_devices, neuron_tools
from npuscope.backends.neff_capture import RankCapture, RankOptions, capture_neff
from npuscope.backends.neff_inputs import NamedInput
from npuscope.backends.neuron_devices import DeviceHolder, DeviceUse
from npuscope.backends.neuron_tools import Profiler, find_profiler, identify_profiler
from npuscope.errors import FormatError, MeasurementError, OutputError, UnavailableError, UsageError
from tests.standins.neuron_capture import install_profiler, make_shelf
from tests.writers.neff import matmul_members, neff_bytes

BOTH = ("neuron-explorer", "neuron-profile")
SIZES = {"input0": 32768, "input1": 131072}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No tool and no device of this machine is seen."""
    for name in [name for name in os.environ if name.startswith("NEURON_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(neuron_tools, "TOOL_FOLDER", "/nothing")
    monkeypatch.setattr(neuron_devices, "device_holders", lambda proc: DeviceUse((), 0))


@pytest.fixture
def shelf(tmp_path):
    return make_shelf(tmp_path / "shelf")


@pytest.fixture
def capture(tmp_path, shelf):
    """Capture `graph.neff` by a stand-in into the folder `out`."""

    def run(*, name="neuron-explorer", mode="exec", neff="graph", **options):
        tool = install_profiler(tmp_path / "bin", shelf, name=name, mode=mode)
        return capture_neff(shelf / f"{neff}.neff", tmp_path / "out", tool=tool, **options)

    return run


@pytest.fixture
def inputs(tmp_path):
    for name, size in SIZES.items():
        (tmp_path / f"{name}.raw").write_bytes(b"\1" * size)
    return [NamedInput(name, tmp_path / f"{name}.raw") for name in SIZES]


def last_call(shelf):
    return json.loads((shelf / "calls.jsonl").read_text().splitlines()[-1])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# what is asked


@pytest.mark.parametrize("name", BOTH)
def test_every_option_is_a_documented_flag_and_inputs_come_last_by_name(name, capture, inputs, shelf, tmp_path):
    made = capture(
        name=name,
        inputs=inputs,
        num_executions=4,
        nth_execution=3,
        save_output=True,
        ignore_errors=True,
        dge_notifications=True,
        ranks=RankOptions(1, profile_id=0),
    )
    call = last_call(shelf)
    assert call[:4] == ["capture", "-n", str(shelf / "graph.neff"), "-s"]
    assert call[5:] == [
        "--save-output",
        "--ignore-exec-errors",
        "--enable-dge-notifs",
        "--collectives-workers-per-node=1",
        "--collectives-profile-id=0",
        "--num-exec=4",
        "--profile-nth-exec=3",
        *("input0", str(tmp_path / "input0.raw"), "input1", str(tmp_path / "input1.raw")),
    ]
    assert made.command == (made.profiler.path, *call)
    assert made.profiler.interface == name
    assert made.ntffs == (RankCapture(tmp_path / "out" / "graph_exec_3.ntff", None, 3),)
    assert (made.ntff, made.execution, made.notes) == (made.ntffs[0].path, 3, ())


def test_the_tool_and_its_version_are_told_where_it_tells_one(tmp_path, shelf):
    newer = install_profiler(tmp_path / "bin", shelf, version="2.32.0.498-b1f3998")
    older = install_profiler(tmp_path / "bin", shelf, name="neuron-profile")
    made = identify_profiler(newer)
    assert made == Profiler(str(newer), "neuron-explorer", "2.32.0.498-b1f3998")
    assert (made.release, made.told) == ((2, 32), "neuron-explorer 2.32.0.498-b1f3998")
    assert identify_profiler(older) == Profiler(str(older), "neuron-profile", "")
    assert identify_profiler(older).release is None


def test_a_tool_of_another_name_is_refused_and_one_without_an_answer_has_no_version(tmp_path):
    tool = tmp_path / "neuron-explorer"
    for text in ("#!/bin/sh\nexit 1\n", "#!/bin/sh\necho no number here\n", "no program"):
        tool.write_text(text)
        tool.chmod(0o755)
        assert identify_profiler(tool).version == ""
    with pytest.raises(
        UsageError, match="is none of AWS's profilers, which are named neuron-explorer and neuron-profile"
    ):
        identify_profiler(tmp_path / "neuron-top")


def test_the_older_tool_alone_can_be_asked_for(tmp_path, shelf, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    install_profiler(tmp_path / "bin", shelf)
    with pytest.raises(UnavailableError, match="neuron-profile is not on PATH or in /nothing"):
        find_profiler(("neuron-profile",))
    older = install_profiler(tmp_path / "bin", shelf, name="neuron-profile")
    assert find_profiler(("neuron-profile",)).path == str(older)


# several captures


def test_captures_of_one_graph_into_one_folder_have_names_of_their_own(capture, tmp_path):
    made = [capture(tag=f"-r{number}", save_output=True) for number in range(3)]
    assert names(tmp_path / "out") == [
        name for number in range(3) for name in (f"graph-r{number}_exec_2.ntff", f"graph-r{number}_outputs")
    ]
    assert [item.ntff.name for item in made] == [f"graph-r{number}_exec_2.ntff" for number in range(3)]
    assert all(item.outputs[0].path.parent.name == f"graph-r{number}_outputs" for number, item in enumerate(made))


@pytest.mark.parametrize("there", ["graph.ntff", "graph_exec_7.ntff", "graph_rank_1_exec_2.ntff", "graph_outputs"])
def test_a_capture_of_that_name_is_refused_before_the_tool_runs_and_left_alone(there, capture, shelf, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / there).write_bytes(b"mine")
    with pytest.raises(UsageError, match=f"{re.escape(there)} exists; choose another folder or tag"):
        capture()
    assert (tmp_path / "out" / there).read_bytes() == b"mine"
    assert names(tmp_path / "out") == [there]
    assert not (shelf / "calls.jsonl").exists()
    assert capture(tag="-again").ntff.name == "graph-again_exec_2.ntff"


def test_what_else_is_in_the_folder_is_not_touched_and_not_taken(capture, tmp_path):
    (tmp_path / "out").mkdir()
    mine = ("output0", "profile.ntff", "graph2_exec_2.ntff", "ucode.log")
    for name in mine:
        (tmp_path / "out" / name).write_bytes(b"mine")
    made = capture(save_output=True)
    assert [item.path.name for item in made.ntffs] == ["graph_exec_2.ntff"]
    assert all((tmp_path / "out" / name).read_bytes() == b"mine" for name in mine)


def test_a_file_that_comes_to_be_meanwhile_is_not_replaced(capture, tmp_path, monkeypatch):
    real = neuron_tools.run_child

    def run_and_write(words, **options):
        ended = real(words, **options)
        (tmp_path / "out" / "graph_exec_2.ntff").write_bytes(b"mine")
        return ended

    tool = identify_profiler(install_profiler(tmp_path / "bin", tmp_path / "shelf"))
    monkeypatch.setattr(neuron_tools, "run_child", run_and_write)
    with pytest.raises(OutputError, match=r"graph_exec_2\.ntff cannot be written: .*; the new file is .*unfinished"):
        capture_neff(tmp_path / "shelf" / "graph.neff", tmp_path / "out", tool=tool)
    assert (tmp_path / "out" / "graph_exec_2.ntff").read_bytes() == b"mine"
    (left,) = (path for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert names(left) == ["graph_exec_2.ntff"]


# ranks


@pytest.mark.parametrize("name", BOTH)
def test_each_rank_has_its_capture(name, capture, shelf, tmp_path):
    made = capture(name=name, ranks=RankOptions(2, worker_count=12, first_rank=9))
    assert made.ntffs == tuple(
        RankCapture(tmp_path / "out" / f"graph_rank_{rank}_exec_2.ntff", rank, 2) for rank in (9, 10)
    )
    assert [word for word in last_call(shelf) if word.startswith("--collectives")] == [
        "--collectives-workers-per-node=2",
        "--collectives-worker-count=12",
        "--collectives-worker-start-id=9",
        "--collectives-profile-id=all",
    ]


def test_one_rank_of_several_is_captured_and_the_first_execution_has_no_number(capture):
    made = capture(ranks=RankOptions(4, profile_id=2), nth_execution=1)
    assert [(item.path.name, item.rank, item.execution) for item in made.ntffs] == [("graph_rank_2.ntff", 2, 1)]
    assert made.notes == ()


def test_a_rank_without_a_capture_is_a_note(capture):
    assert capture(mode="lost-rank", ranks=RankOptions(3)).notes == ("there is no capture of rank 2",)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (RankOptions(0), "0 ranks from rank 0 on cannot be executed"),
        (RankOptions(2, first_rank=-1), "cannot be executed"),
        (RankOptions(4, worker_count=3), "ranks up to 3 need a worker count above 3, not 3"),
        (RankOptions(4, profile_id=4), "rank 4 cannot be captured: there are ranks 0 to 3"),
        (RankOptions(4, profile_id=-1), "rank -1 cannot be captured"),
    ],
)
def test_numbers_of_ranks_that_contradict_each_other_are_refused(options, told, capture):
    with pytest.raises(UsageError, match=told):
        capture(ranks=options)


# outputs


@pytest.mark.parametrize("mode", ["exec", "quiet"])
def test_outputs_are_told_by_tensor_and_execution(mode, capture, tmp_path):
    made = capture(mode=mode, save_output=True, num_executions=3)
    assert [(item.path.name, item.tensor, item.execution) for item in made.outputs] == [
        ("output0", "output0", 1),
        ("output0.2", "output0", 2),
        ("output0.3", "output0", 3),
    ]
    assert [item.path.read_bytes()[:1] for item in made.outputs] == [b"\1", b"\2", b"\3"]
    assert {item.size_bytes for item in made.outputs} == {2 * 128 * 512}


@pytest.mark.parametrize(("mode", "expected"), [("exec", ("out", 2)), ("quiet", ("", None))])
def test_a_name_that_is_two_outputs_is_told_by_the_tool_alone(mode, expected, capture, shelf):
    """`out.2` is the second execution of `out`, or a tensor of that name."""
    made = {
        name: data.replace(b'"output0"', b'"out"').replace(b'"input1"', b'"out.2"').replace(b'"type": "input", "var_id": 1', b'"type": "output", "var_id": 1')
        for name, data in matmul_members().items()
    }  # fmt: skip
    (shelf / "graph.neff").write_bytes(neff_bytes(made))
    found = {item.path.name: (item.tensor, item.execution) for item in capture(mode=mode, save_output=True).outputs}
    assert found["out"] == ("out", 1)
    assert found["out.2.2"] == ("out.2", 2)
    assert found["out.2"] == (expected if mode == "quiet" else ("out", 2))


def test_a_file_that_nobody_asked_for_is_kept_apart(capture, tmp_path):
    made = capture(mode="litter")
    assert (made.outputs, [path.name for path in made.other_files]) == ((), ["ucode.log"])
    assert made.other_files[0].parent == tmp_path / "out" / "graph_outputs"


def test_outputs_that_are_not_saved_are_a_note(capture, shelf):
    members = matmul_members()
    members["sg00/def.json"] = members["sg00/def.json"].replace(b'"type": "output"', b'"type": "virtual"')
    (shelf / "graph.neff").write_bytes(neff_bytes(members))
    assert capture(save_output=True).notes == ("outputs were to be saved, and the profiler saved none",)


def test_an_output_of_another_size_than_the_graphs_is_a_note(capture):
    assert capture(mode="short-output", save_output=True, num_executions=2).notes == (
        "output output0 has 131,071 bytes, where the NEFF's table has 131,072",
        "output output0.2 has 131,071 bytes, where the NEFF's table has 131,072",
    )


# bad input


def test_inputs_that_do_not_fit_are_refused_before_the_tool_runs(capture, inputs, shelf, tmp_path):
    with pytest.raises(FormatError, match="input input1: expected a file of 131,072 bytes"):
        capture(inputs=inputs[:1])
    inputs[0].path.write_bytes(b"short")
    with pytest.raises(FormatError, match="input input0: expected raw bytes: 32,768 bytes"):
        capture(inputs=inputs)
    assert not (shelf / "calls.jsonl").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"nth_execution": 0}, "execution 0 must lie between 1 and"),
        ({"nth_execution": 3, "num_executions": 2}, "2 executions must be between the one to capture, 3, and"),
        ({"tag": "a/b"}, "tag 'a/b' must be letters, digits"),
        ({"tag": "_exec_9"}, "without '_exec_' and '_rank_'"),
        ({"tag": "x" * 101}, "must be letters"),
        ({"tag": "a\n"}, "must be letters"),
    ],
)
def test_wrong_use_is_refused_and_nothing_is_made(options, told, capture, tmp_path):
    with pytest.raises(UsageError, match=told):
        capture(**options)
    assert not (tmp_path / "out").exists()


def test_a_held_device_is_told_before_the_tool_runs(capture, shelf, monkeypatch):
    use = DeviceUse((DeviceHolder(42, "python serve.py", ("/dev/neuron0",)),), 0)
    monkeypatch.setattr(neuron_devices, "device_holders", lambda proc: use)
    with pytest.raises(UnavailableError, match=r"process 42 \(python serve\.py\) holds /dev/neuron0; end it"):
        capture()
    assert not (shelf / "calls.jsonl").exists()
    assert capture(check_devices=False).execution == 2
    monkeypatch.setenv("NEURON_RT_VISIBLE_CORES", "4")
    assert "going on with NEURON_RT_VISIBLE_CORES=4" in capture(tag="-2").notes[0]


# what goes wrong


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("fail", "graph.neff ended with status 1: level=fatal msg=.nrt_init failed: NRT_UNINITIALIZED"),
        ("silent", "ended well but wrote no capture, no file: loading the model"),
        ("hang", "took longer than 0.5 s and was ended; allow more time"),
    ],
)
def test_a_run_without_a_capture_is_one_line_and_leaves_nothing(mode, told, name, capture, tmp_path):
    with pytest.raises(MeasurementError, match=f"{name} capture of .*{told}") as raised:
        capture(name=name, mode=mode, timeout_s=0.5 if mode == "hang" else 60)
    assert "\n" not in str(raised.value)
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("mode", "told", "left"),
    [
        ("killed", "graph.neff was killed by SIGKILL: loading the model", "graph_exec_2.ntff"),
        ("empty", "ended well but graph_exec_2.ntff is empty", "graph_exec_2.ntff"),
        ("other", "captured execution 3 where 2 was asked for: graph_exec_3.ntff", "graph_exec_3.ntff"),
    ],
)
def test_what_a_failed_run_left_is_kept_and_named_but_is_no_capture(mode, told, left, capture, tmp_path):
    with pytest.raises(MeasurementError, match=told) as raised:
        capture(mode=mode)
    (kept,) = (tmp_path / "out").iterdir()
    assert str(raised.value).endswith(f"; what it left is in {kept}")
    assert names(kept) == [left]
    assert capture().ntff.name == "graph_exec_2.ntff"  # and is in nobody's way


def test_a_tool_that_vanishes_is_a_missing_tool(shelf, tmp_path):
    tool = install_profiler(tmp_path / "bin", shelf)
    profiler = identify_profiler(tool)
    tool.unlink()
    with pytest.raises(UnavailableError, match="No such file or directory; reinstall aws-neuronx-tools"):
        capture_neff(shelf / "graph.neff", tmp_path / "out", tool=profiler)
    assert names(tmp_path / "out") == []


def test_a_folder_that_cannot_be_made_is_told(capture, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="out cannot be used for captures"):
        capture()
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("mode", ["replaced", "removed"])
def test_a_tool_that_replaces_its_folder_makes_nothing_of_others_its_own(mode, capture, shelf):
    (shelf / "victim.txt").write_text("somebody's")
    before = names(shelf)
    with pytest.raises(MeasurementError, match="neuron-explorer replaced the folder that it was given"):
        capture(mode=mode, save_output=True)
    assert set(before) <= set(names(shelf))
    assert (shelf / "victim.txt").read_text() == "somebody's"
