"""`npuscope simulate`: an unmodified kernel file in, a predicted time out; what goes wrong is one line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import npuscope
from npuscope.errors import UsageError
from npuscope.formats.artifact import read_profile
from tests.cli.conftest import strict_json

KERNEL = """
from neuronxcc import nki
import neuronxcc.nki.language as nl
import numpy as np


@nki.jit
def add(a, b, scale=1.0):
    out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
    for tile in nl.affine_range(a.shape[0] // 128):
        rows = nl.ds(tile * 128, 128)
        left = nl.load(a[rows, :])
        right = nl.load(b[rows, :])
        nl.store(out[rows, :], nl.multiply(left + right, scale))
    return out


def reference(a, b, scale=1.0):
    return (a + b) * scale


def inputs():
    return [np.ones((128, 64), np.float32), np.full((128, 64), 2, np.float32)]


def named_inputs():
    return {"b": np.ones((128, 64), np.float32), "a": np.ones((128, 64), np.float32), "scale": 3.0}


def wrong(a, b, scale=1.0):
    return a - b


def other_shape(a, b, scale=1.0):
    return (a + b)[:1]


def two(a, b, scale=1.0):
    return a, b


def raising(a, b, scale=1.0):
    raise ValueError("not today\\nnor tomorrow")


def no_list():
    return 7


def no_array(a, b, scale=1.0):
    return "text"


def spoiling(a, b, scale=1.0):
    a += 1
    return (a - 1 + b) * scale


@nki.jit
def printing(a, b):
    import os, sys
    print("from print")
    os.write(1, b"from write\\n")
    sys.__stdout__.write("from the stream\\n")
    os.system("echo from a child")
    return add(a, b)


@nki.jit
def exiting(a):
    raise SystemExit(0)


@nki.jit
def endless(a):
    while True:
        tile = nl.load(a[0:128, 0:8])


@nki.jit
def failing(a):
    return 1 / 0


@nki.jit
def unsupported(a):
    return nl.no_such_function(a)


@nki.jit
def too_wide(a):
    tile = nl.load(a[0:256, 0:8])
"""
TENSORS = ("--arg", "float32[256,64]", "--arg", "float32[256,64]")


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "k.py"
    path.write_text(KERNEL, encoding="utf-8")
    return path


def test_json_has_the_keys_that_scripts_rely_on(call_cli, kernel):
    answer = call_cli(
        "simulate", "k.py:add", "--device", "sim:trn1", *TENSORS, "--reference", "k.py:reference", "--json"
    )
    assert answer.returncode == 0, answer.stderr
    document = strict_json(answer.stdout)
    assert document["total_time_ns"] > 0
    assert document["summary"]["total_time"] == pytest.approx(document["total_time_ns"] * 1e-9, rel=1e-3)
    assert document["summary"]["hbm_read_bytes"] == 2 * 256 * 64 * 4
    assert document["summary"]["hbm_write_bytes"] == 256 * 64 * 4
    assert document["is_simulated"] is True
    assert (document["device"], document["kernel"]) == ("sim:trn1", "k.py:add")
    assert document["bound"]["kind"] in {"dma", "launch", "dependency"}
    assert document["instruction_count"] >= 8
    assert 0 <= document["max_abs_error"] < 1e-6
    assert document["is_right"] is True
    assert "published figures" in document["model_error"]
    assert {"findings", "engines", "lines", "options"} <= document.keys()


def test_the_heading_says_device_time_and_that_no_device_ran_it(call_cli, kernel):
    answer = call_cli("simulate", "k.py:add", "--device", "trn1", *TENSORS, "--reference", "reference")
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert lines[0].startswith("k.py:add on sim:trn1: predicted ")
    assert lines[0].endswith("no device ran it")
    assert "SIMULATED" in lines[0]
    assert any(line.startswith("result 0, float32[256, 64]: right; ") for line in lines)
    assert any(line.startswith("k.py:12") and " DMA " in line for line in lines)
    assert any(line.startswith("assumed of the compiler: ") for line in lines)
    assert "capture with" not in answer.stdout


def test_a_wrong_result_is_said_plainly_and_is_exit_code_1(call_cli, kernel):
    answer = call_cli("simulate", "k.py:add", *TENSORS, "--reference", "wrong")
    assert answer.returncode == 1
    assert "result 0, float32[256, 64]: WRONG in " in answer.stdout
    answer = call_cli("simulate", "k.py:add", *TENSORS, "--reference", "wrong", "--json")
    assert answer.returncode == 1
    assert strict_json(answer.stdout)["is_right"] is False


def test_arguments_come_by_name_from_a_file_or_from_a_function(call_cli, kernel, tmp_path):
    def time_of(*arguments):
        answer = call_cli("simulate", "k.py:add", *arguments, "--reference", "reference", "--json")
        assert answer.returncode == 0, answer.stderr
        return strict_json(answer.stdout)["total_time_ns"]

    np.save(tmp_path / "x.npy", np.zeros((128, 64), np.float32))
    same = ("--arg", "float32[128,64]", "--arg", "x.npy")
    reference = time_of(*same)
    assert time_of("--inputs", "inputs") == reference
    assert time_of("--inputs", "k.py:named_inputs") == reference
    assert time_of("--arg", "b=x.npy", "--arg", "scale=2.5", "--arg", "a=float32[128,64]") == reference


def test_a_reference_cannot_change_what_the_kernel_is_given(call_cli, kernel):
    answer = call_cli("simulate", "k.py:add", *TENSORS, "--reference", "spoiling")
    assert answer.returncode == 0, answer.stdout


def test_without_results_the_time_is_the_same(call_cli, kernel):
    documents = [
        strict_json(call_cli("simulate", "k.py:add", *TENSORS, *more, "--json").stdout)
        for more in ((), ("--no-compute",))
    ]
    assert documents[0]["total_time_ns"] == documents[1]["total_time_ns"]
    assert documents[1]["max_abs_error"] is None


def test_what_a_kernel_prints_does_not_spoil_the_json(run_cli, kernel):
    answer = run_cli("simulate", "k.py:printing", "--inputs", "inputs", "--json")
    assert answer.returncode == 0, answer.stderr
    assert strict_json(answer.stdout)["kernel"] == "k.py:printing"
    for text in ("from print", "from write", "from the stream", "from a child"):
        assert text in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "texts"),
    [
        ((), 2, ["no kernel given"]),
        (("k.py",), 2, ["FILE.py:NAME"]),
        (("none.py:add",), 2, ["none.py"]),
        (("k.py:ad", *TENSORS), 2, ["did you mean 'add'?"]),
        (("k.py:add", "--arg", "float32[128,64]"), 2, ["add takes (a, b, scale=1.0)", "'b'"]),
        (("k.py:add", *TENSORS, "--arg", "1", "--arg", "2"), 2, ["add takes (a, b, scale=1.0)", "too many"]),
        (("k.py:add", *TENSORS, "--arg", "scal=2"), 2, ["add takes (a, b, scale=1.0)", "'scal'"]),
        (("k.py:add", "--arg", "float31[4]"), 2, ["did you mean 'float32'?"]),
        (("k.py:add", "--arg", "x.npz"), 2, ["one .npy file per argument"]),
        (("k.py:add", "--arg", "x.npy"), 3, ["x.npy", "no such file"]),
        (("k.py:add", *TENSORS, "--inputs", "inputs"), 2, ["leave out --arg"]),
        (("k.py:add", *TENSORS, "--reference", "reference", "--no-compute"), 2, ["leave out --no-compute"]),
        (("k.py:add", *TENSORS, "--reference", "other_shape"), 3, ["k.py:other_shape, output 0", "[256, 64]", "[1, 64]"]),
        (("k.py:add", *TENSORS, "--reference", "two"), 3, ["expected 1 array, found 2 arrays"]),
        (("k.py:add", *TENSORS, "--reference", "raising"), 3, ["k.py:43", "ValueError: not today nor tomorrow"]),
        (("k.py:add", *TENSORS, "--reference", "no_array"), 3, ["no_array", "found str"]),
        (("k.py:add", "--inputs", "no_list"), 3, ["no_list", "found int"]),
        (("k.py:add", *TENSORS, "--device", "sim:trn9"), 2, ["unknown simulated device"]),
        (("k.py:add", *TENSORS, "--device", "trn1", "--lnc", "2"), 2, ["1 physical core at most"]),
        (("k.py:add", *TENSORS, "--grid", "0"), 2, ["--grid '0'", "as in 2,4"]),
        (("k.py:add", *TENSORS, "--grid", "a"), 2, ["--grid 'a'"]),
        (("k.py:add", *TENSORS, "--seed", "-1"), 2, ["--seed -1"]),
        (("k.py:add", *TENSORS, "--tolerance", "2"), 2, ["--tolerance"]),
        (("k.py:add", *TENSORS, "--window", "0"), 2, ["--window 0"]),
        (("k.py:add", *TENSORS, "--buffers", "-1"), 2, ["--buffers -1"]),
        (("k.py:add", *TENSORS, "--without", "bufers"), 2, ["did you mean 'buffers'?"]),
        (("k.py:add", *TENSORS, "--max-instructions", "0"), 2, ["--max-instructions 0"]),
        (("k.py:add", "--validate"), 2, ["leave out the kernel"]),
        (("k.py:exiting", "--arg", "1"), 3, ["SystemExit"]),
        (("k.py:endless", "--arg", "float32[128,8]", "--max-instructions", "500"), 3, ["more than 500 instructions", "k.py:77"]),
        (("k.py:failing", "--arg", "1"), 3, ["k.py:", "ZeroDivisionError"]),
        (("k.py:unsupported", "--arg", "1"), 3, ["nki.language.no_such_function is not supported"]),
        (("k.py:too_wide", "--arg", "float32[256,8]"), 3, ["k.py:", "128"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(call_cli, assert_one_line_error, kernel, arguments, code, texts):
    assert_one_line_error(call_cli("simulate", *arguments), code, *texts)


def test_a_syntax_error_names_its_line(call_cli, assert_one_line_error, tmp_path):
    (tmp_path / "bad.py").write_text("def f(a):\n    return (\n", encoding="utf-8")
    assert_one_line_error(call_cli("simulate", "bad.py:f", "--arg", "1"), 3, "bad.py:2", "syntax error")


def test_a_traceback_is_shown_with_debug_only(run_cli, kernel):
    answer = run_cli("simulate", "k.py:failing", "--arg", "1", "--debug")
    assert "Traceback" in answer.stderr
    assert "return 1 / 0" in answer.stderr


# --out


@pytest.fixture
def written(call_cli, kernel, tmp_path) -> Path:
    answer = call_cli("simulate", "k.py:add", "--device", "trn1", *TENSORS, "--out", "run")
    assert answer.returncode == 0, answer.stderr
    return tmp_path / "run"


def test_a_written_simulation_is_analysed_queried_exported_and_compared(call_cli, written, tmp_path):
    assert read_profile(written).is_simulation
    run = strict_json((written / "run.json").read_text(encoding="utf-8"))
    analysis = strict_json(call_cli("analyze", "run", "--json").stdout)
    assert analysis["is_simulated"] is True
    assert run["model_error"] in analysis["notes"]
    assert analysis["kernel_time"]["total_ns"] == pytest.approx(run["total_time_ns"], abs=1)
    sql = "SELECT count(*) AS n FROM Instruction WHERE engine = 'Vector'"
    assert strict_json(call_cli("query", "run", sql, "--json").stdout)[0]["n"] > 0
    assert call_cli("export", "run", "--perfetto", "t.pftrace").returncode == 0
    assert (tmp_path / "t.pftrace").stat().st_size > 0
    assert (
        call_cli("simulate", "k.py:add", "--device", "trn1", *TENSORS, "--buffers", "1", "--out", "other").returncode
        == 0
    )
    compared = call_cli("compare", "run", "other", "--json")
    assert compared.returncode == 0, compared.stderr
    assert len(strict_json(compared.stdout)["profiles"]) == 2


def test_a_folder_with_something_in_it_is_refused_before_the_kernel_runs(call_cli, assert_one_line_error, written):
    (written.parent / "k.py").write_text("raise SystemError", encoding="utf-8")
    assert_one_line_error(call_cli("simulate", "k.py:add", *TENSORS, "--out", "run"), 2, "run is not empty")


# the model


def test_each_effect_can_be_switched_off_and_is_told(call_cli, kernel):
    listed = strict_json(call_cli("simulate", "--without", "list", "--json").stdout)
    answer = call_cli("simulate", "k.py:add", "--device", "trn1", *TENSORS, "--effects", "--json")
    document = strict_json(answer.stdout)
    assert {effect["effect"] for effect in document["effects"]} == set(listed)
    worth = {effect["effect"]: effect["total_time_ns"] for effect in document["effects"]}
    assert worth["dma-start"] < document["total_time_ns"]
    answer = call_cli("simulate", "k.py:add", "--device", "trn1", *TENSORS, "--without", "dma-start", "--json")
    assert strict_json(answer.stdout)["total_time_ns"] == worth["dma-start"]
    answer = call_cli("simulate", "k.py:add", *TENSORS, "--without", "dma-start")
    assert "switched off, so this is a study and no prediction: dma-start" in answer.stdout


# the Python function


def test_the_python_function_takes_a_file_or_a_function(kernel):
    array = np.ones((128, 64), np.float32)
    simulation = npuscope.simulate_kernel(f"{kernel}:add", array, array, keywords={"scale": 2.0}, device="trn1")
    assert simulation.is_simulated
    assert simulation.profile.is_simulation
    np.testing.assert_array_equal(simulation.outputs[0], np.full((128, 64), 4, np.float32))
    assert sum(line.share_of_engine for line in simulation.lines if line.engine == "DMA") == pytest.approx(1)
    with pytest.raises(UsageError, match="a reference needs results"):
        npuscope.simulate_kernel(f"{kernel}:add", array, array, compute=False, reference=lambda a, b: a)


def test_help_needs_neither_numba_nor_numpy():
    code = (
        "import sys; from npuscope.cli import main; main(['simulate', '--help']); "
        "sys.exit(bool({'numba', 'numpy', 'npuscope.simulate'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0
    assert "A kernel's file is run: trust it first" in " ".join(answer.stdout.split())


def test_run_json_is_plain_json(written):
    assert (
        json.loads((written / "run.json").read_text(encoding="utf-8"))["sessions"][0]["npuscope"]
        == npuscope.__version__
    )


HARDENING = """
import neuronxcc.nki.language as nl
import numpy as np

def objects():
    return [np.full((128, 64), None)]

def idle(a):
    return nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)

def colourful(a):
    raise ValueError("\\x1b[31mred")

def copy(a):
    out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
    nl.store(out, nl.load(a))
    return out
"""
ONE_TENSOR = ("--arg", "float32[128,64]")


@pytest.fixture
def hardening(tmp_path, kernel):
    (tmp_path / "h.py").write_text(HARDENING)
    return tmp_path


def test_object_arrays_from_inputs_are_refused_in_one_line(call_cli, hardening):
    answer = call_cli("simulate", "h.py:copy", "--inputs", "h.py:objects")
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert "elements of type object" in answer.stderr


@pytest.mark.parametrize("option", ["--window", "--buffers"])
def test_options_of_the_model_beyond_any_use_are_refused(call_cli, hardening, option):
    answer = call_cli("simulate", "h.py:copy", *ONE_TENSOR, option, str(10**18))
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1
    assert f"{option} {10**18}" in answer.stderr


@pytest.mark.parametrize(("out", "reason"), [("h.py", "is a file, not a folder"), ("h.py/below/it", "h.py is a file")])
def test_results_that_cannot_be_written_are_refused_before_the_kernel_runs(call_cli, hardening, out, reason):
    answer = call_cli("simulate", "h.py:colourful", *ONE_TENSOR, "--out", out)
    assert answer.returncode == 2
    assert reason in answer.stderr
    assert "red" not in answer.stderr


def test_words_of_a_kernel_do_not_steer_the_terminal(call_cli, hardening):
    answer = call_cli("simulate", "h.py:colourful", *ONE_TENSOR)
    assert answer.returncode == 3
    assert "red" in answer.stderr
    assert "\x1b" not in answer.stderr


def test_a_kernel_that_issues_nothing_is_noted_in_text_and_json(call_cli, hardening):
    note = "the kernel issues no instruction"
    assert f"note: {note}" in call_cli("simulate", "h.py:idle", *ONE_TENSOR).stdout
    document = strict_json(call_cli("simulate", "h.py:idle", *ONE_TENSOR, "--json").stdout)
    assert any(text.startswith(note) for text in document["notes"])


def test_debug_keeps_the_exit_code_and_is_in_the_help(run_cli, call_cli, hardening):
    answer = run_cli("simulate", "h.py:colourful", *ONE_TENSOR, "--debug")
    assert answer.returncode == 3
    assert answer.stderr.startswith("Traceback")
    assert "--debug" in call_cli("simulate", "--help").stdout


def test_a_grid_of_too_many_programs_is_one_line(call_cli, hardening):
    answer = call_cli("simulate", "h.py:copy", *ONE_TENSOR, "--grid", "100000,100000")
    assert answer.returncode == 2
    assert "at most 1,000,000" in answer.stderr
