"""`npuscope analyze` and `npuscope compare` as their users meet them."""

import json

import pytest

from npuscope.profile.folder import write_profile
from tests.cli.conftest import strict_json
from tests.profiles import instruction, packet, small_profile

KEYS = ["device", "is_simulated", "summary", "bound", "engines", "overlap", "findings"]


@pytest.fixture
def profile_folder(tmp_path):
    """Write a profile as a folder of tables; `matmul_ns` tells two of them apart."""

    def write(name="warm", matmul_ns=4_000, gap_ns=0, **more):
        profile = small_profile(
            [
                instruction("Tensor", "DRAIN", 0, 100),
                instruction(
                    "Tensor", "MATMUL", 3_000 + gap_ns, matmul_ns, operands="S[5] (Tensor)++ src=fp32@0x1 64*128"
                ),
                instruction("Scalar", "ACTIVATE", 3_000 + gap_ns + matmul_ns, 600),
            ],
            [packet(gap_ns + 100, 2_000)],
            TensorInfo=[{"variable_name": "x", "type": "IN", "shape": "128 128", "size": 32768}],
            **more,
        )
        write_profile(profile, tmp_path / name)
        return tmp_path / name

    return write


def test_json_has_the_keys_that_scripts_rely_on(call_cli, profile_folder):
    answer = call_cli("analyze", profile_folder(), "--json")
    assert answer.returncode == 0, answer.stderr
    document = strict_json(answer.stdout)
    assert set(KEYS) <= set(document)
    assert document["device"] == "inf2.xlarge"
    assert document["is_simulated"] is False
    assert {use["name"] for use in document["engines"]} == {"Tensor", "Scalar", "DMA"}
    assert abs(sum(document["bound"]["shares"].values()) - 1) < 1e-9


def test_the_device_and_a_cold_capture_come_first(call_cli, profile_folder):
    answer = call_cli("analyze", profile_folder(gap_ns=2_000_000))
    lines = answer.stdout.splitlines()
    assert lines[0].startswith("inf2.xlarge, measured: ")
    assert lines[1].startswith("COLD CAPTURE: 2 ms of total_time 2.0")
    assert any(line.startswith("1. [high] cold-capture") for line in lines)
    kernel = next(line for line in lines if line.startswith("kernel time"))
    assert "µs" in kernel
    assert "active window" in kernel


def test_a_simulation_is_called_one_in_the_heading(call_cli, profile_folder):
    answer = call_cli("analyze", profile_folder(metadata={"is_simulation": True}))
    assert answer.stdout.splitlines()[0].startswith("inf2.xlarge, SIMULATED: ")
    assert "simulated: no device ran this" in answer.stdout


def test_a_trace_of_python_threads_is_not_explained_as_an_npu(call_cli, tmp_path):
    names = ["python", "tf_XLAEigen/1", "tf_XLAEigen/2"]
    events = [
        {"ph": "M", "name": "thread_name", "pid": 7, "tid": tid, "args": {"name": name}}
        for tid, name in enumerate(names)
    ]
    for tid in range(3):
        events += [{"ph": "X", "pid": 7, "tid": tid, "name": f"f{d}", "ts": 100 * tid, "dur": d} for d in (50, 20, 5)]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}))
    document = strict_json(call_cli("analyze", path, "--json").stdout)
    assert document["is_trace"] is True
    assert document["bound"]["kind"] == "unknown"
    assert [use["active_ns"] for use in document["engines"]] == [50_000] * 3
    assert [finding["rule"] for finding in document["findings"]] == ["idle-gaps"]
    shown = call_cli("analyze", path).stdout
    assert "a trace without NPU engines" in shown.splitlines()[0]
    for word in ("limited by", "SBUF", "DMA", "measured", "kernel", "dependency"):
        assert word not in shown


def test_thresholds_and_rules_can_be_chosen(call_cli, profile_folder):
    path = profile_folder()
    few = strict_json(call_cli("analyze", path, "--rules", "idle-gaps,fp32-matmul", "--json").stdout)
    assert {finding["rule"] for finding in few["findings"]} == {"idle-gaps", "fp32-matmul"}
    none = strict_json(
        call_cli("analyze", path, "--rules", "idle-gaps", "--threshold", "idle_share=90%", "--json").stdout
    )
    assert none["findings"] == []
    assert none["thresholds"]["idle_share"] == 0.9


def test_the_list_of_rules_needs_no_artifact(call_cli):
    rows = strict_json(call_cli("analyze", "--rules", "list", "--json").stdout)
    assert {"cold-capture", "spills"} <= {row["rule"] for row in rows}
    assert "cold-capture" in call_cli("analyze", "--rules", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["analyze"], 2, "no artifact given"),
        (["analyze", "gone.ntff"], 3, "gone.ntff"),
        (["analyze", "gone.ntff", "--rules", "cold"], 2, "cold-capture"),
        (["analyze", "gone.ntff", "--threshold", "idle=1"], 2, "unknown threshold"),
        (["analyze", "gone.ntff", "--threshold", "transpose_share=30"], 2, "between 0 and 1"),
        (["compare", "one"], 2, "two paths"),
    ],
)
def test_wrong_use_is_one_line(call_cli, assert_one_line_error, arguments, code, text):
    assert_one_line_error(call_cli(*arguments), code, text)


def test_a_comparison_tells_what_the_change_is_made_of(call_cli, profile_folder):
    first, second = profile_folder("a"), profile_folder("b", matmul_ns=5_000)
    document = strict_json(call_cli("compare", first, second, "--json").stdout)
    (difference,) = document["differences"]
    assert difference["change_ns"] == 1_000
    assert [(change["resource"], change["part"]) for change in difference["changes"]] == [("Tensor", "MATMUL")]
    shown = call_cli("compare", first, second).stdout
    assert "+1 µs" in shown
    assert "MATMUL" in shown


def test_a_refused_comparison_is_exit_code_1_with_the_reason(call_cli, assert_one_line_error, profile_folder):
    warm, cold = profile_folder("warm"), profile_folder("cold", gap_ns=2_000_000)
    assert_one_line_error(call_cli("compare", warm, cold), 1, "cold capture")
    assert_one_line_error(call_cli("compare", warm, cold, "--json"), 1, "cold capture")


def test_folders_of_results_are_compared_by_ratio(call_cli, measured):
    document = strict_json(call_cli("compare", measured, measured, "--json").stdout)
    assert document["kind"] == "results"
    assert {row["ratio"] for row in document["rows"]} == {1.0}
    assert {row["verdict"] for row in document["rows"]} == {"within noise"}
    assert "within noise" in call_cli("compare", measured, measured).stdout


def test_a_results_folder_and_a_profile_are_not_compared(call_cli, assert_one_line_error, measured, profile_folder):
    assert_one_line_error(call_cli("compare", measured, profile_folder()), 2, "results folder")
