"""summary-json, show-session tables and system profiles: shapes, units, what is refused."""

import json

import pytest

from npuscope.errors import FormatError
from npuscope.formats.summary_json import (
    inspect_show_session,
    inspect_summary_json,
    read_show_session,
    read_summary_json,
)
from npuscope.formats.system_profile import inspect_system_profile, read_system_profile

FLAT = {
    "total_time": 0.5,
    "neuroncore_cycle_count": 700_000_000,
    "mfu_estimated_percent": 0.25,
    "instance_type": "trn1.2xlarge",
}
ASCII = """\
$ neuron-profile show-session -s profile.ntff
+---------+----------------+-----------+------+-------+----------+--------+--------+
| NODE ID | EXEC TIME (NS) | EXECUTOR  | NAME | TRACE |  CYCLES  | EVENTS | ERRORS |
+---------+----------------+-----------+------+-------+----------+--------+--------+
|       0 |           1700 | ND 0 NC 4 | sg00 |   873 | 42002434 |    513 |      0 |
|         |                | ND 0 NC 5 | sg01 |   873 | 45256596 |    512 |      1 |
+---------+----------------+-----------+------+-------+----------+--------+--------+
"""
BOXES = ASCII.replace("|", "│").replace("-+-", "─┼─").replace("---", "───")
PLAIN = "\n".join(line.replace("|", " ") for line in ASCII.splitlines() if not line.startswith("+"))


def save(tmp_path, value):
    path = tmp_path / "file.txt"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ({"node0": FLAT, "node1": FLAT}, ["node0", "node1"]),
        ([FLAT, FLAT], ["", ""]),
        ({"summary": [FLAT]}, [""]),
        ({"summary": FLAT}, [""]),
        ({"model": {"summary": [FLAT]}}, ["model"]),
        (FLAT, [""]),
    ],
)
def test_every_shape_of_a_summary_holds_its_nodes(tmp_path, shape, names):
    profile = read_summary_json(save(tmp_path, shape))
    rows = profile.tables["VendorSummary"].to_pylist()
    assert [row["name"] for row in rows] == names
    assert {row["total_time"] for row in rows} == {0.5}
    assert profile.device == "trn1.2xlarge"
    assert profile.rows("Summary") == 0


def test_a_summary_in_milliseconds_and_percent_is_normalised(tmp_path):
    drifted = FLAT | {"total_time": 500.0, "mfu_estimated_percent": 25.0}
    profile = read_summary_json(save(tmp_path, drifted))
    assert profile.vendor_summary["total_time"] == pytest.approx(0.5)
    assert profile.vendor_summary["mfu_estimated_percent"] == pytest.approx(0.25)
    assert sum("converted" in note for note in profile.notes) == 2


def test_inspecting_several_nodes_lists_them(tmp_path):
    told = inspect_summary_json(save(tmp_path, {"a": FLAT, "b": FLAT}))
    assert told.facts["nodes"] == 2
    assert [row["name"] for row in told.tables["Nodes"]] == ["a", "b"]


@pytest.mark.parametrize(
    "value", ["", "{", "[]", "{}", "5", '{"a": 1}', '{"a": {"b": 2}}', '{"total_time": "long"}', "[" * 500]
)
def test_what_is_no_summary_is_refused(tmp_path, value):
    with pytest.raises(FormatError, match=r"file\.txt"):
        read_summary_json(save(tmp_path, value))


@pytest.mark.parametrize("text", [ASCII, BOXES, PLAIN], ids=["ascii", "boxes", "plain"])
def test_a_session_table_is_read_however_it_is_drawn(tmp_path, text):
    profile = read_show_session(save(tmp_path, text))
    first, second = profile.tables["VendorSummary"].to_pylist()
    assert (first["name"], first["node_id"], first["nd_idx"], first["nc_idx"]) == ("sg00", 0, 0, 4)
    assert (second["name"], second["node_id"], second["exec_time_ns"], second["error_count"]) == ("sg01", 0, 1700, 1)
    assert (first["trace_count"], first["event_count"]) == (873, 513)
    assert profile.tables["ExecutionInfo"].column("num_subgraphs").to_pylist() == [2]


def test_cycles_of_a_session_table_are_picoseconds(tmp_path):
    times = read_show_session(save(tmp_path, ASCII)).tables["VendorSummary"].column("total_time").to_pylist()
    assert times == [4.2002434e-05, 4.5256596e-05]


def test_an_execution_time_in_microseconds_becomes_nanoseconds(tmp_path):
    profile = read_show_session(save(tmp_path, ASCII.replace("(NS)", "(US)")))
    assert profile.vendor_summary["exec_time_ns"] == 1_700_000


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nothing", "no such header"),
        (ASCII.replace("42002434", "42.5    "), "line 5, column CYCLES"),
        (ASCII.replace("42002434", "9" * 25), "line 5, column CYCLES"),
        (ASCII.replace("|   873 | 42002434", "|   873   42002434"), "line 5"),
        (ASCII.replace("CYCLES", "CLOCKS"), "a column CYCLES"),
        ("\n".join(ASCII.splitlines()[:4]), "rows below the header"),
    ],
)
def test_a_damaged_session_table_is_an_error_with_its_line(tmp_path, text, told):
    with pytest.raises(FormatError, match=told):
        read_show_session(save(tmp_path, text))


def test_inspecting_a_session_counts_cores(tmp_path):
    assert inspect_show_session(save(tmp_path, ASCII)).facts["cores"] == 2


UNIX = 1_729_888_371_056_597_613
SYSTEM = {
    "trace_events": [
        {
            "name": "nrt_tensor_write", "group": "nrt-nc-003", "timestamp": UNIX + 100, "duration": 27094, "id": 1,
            "parent_id": 0, "instance_id": "i-0", "lnc_idx": "0", "process_id": "16277", "thread_id": 16278, "type": 11,
        },
        {
            "name": "PjitFunction(f)", "group": "framework-80375131", "timestamp": UNIX + 50, "duration": 7,
            "instance_id": "i-0", "process_id": "701", "thread_id": 80375131, "type": 99999,
        },
    ],
    "mem_usage": [{"timestamp": UNIX, "usage": 51805806592, "percent_usage": 9.728, "instance_id": "i-0", "duration": 1}],
    "cpu_util": [{"timestamp": UNIX + 7, "cpu_id": "47", "util": 0.5, "instance_id": "i-0", "duration": 1}],
}  # fmt: skip


def test_a_system_profile_starts_at_0_and_keeps_its_unix_time(tmp_path):
    profile = read_system_profile(save(tmp_path, SYSTEM))
    assert profile.metadata["start_unix_ns"] == UNIX
    first, second = profile.tables["SystemProfileEvents"].to_pylist()
    assert (first["start_ts"], first["end_ts"], first["trace_event_source"]) == (50, 57, "framework")
    assert (second["start_ts"], second["process_id"], second["nc_idx"]) == (100, 16277, 0)
    assert json.loads(second["extra_attributes_json"])["type"] == 11


def test_percentages_of_the_host_become_fractions_however_small(tmp_path):
    profile = read_system_profile(save(tmp_path, SYSTEM))
    assert profile.numbers("HostMemUsage", "used_percent").tolist() == pytest.approx([0.09728])
    assert profile.numbers("CpuUsage", "util_percent").tolist() == pytest.approx([0.005])


def test_inspecting_a_system_profile_counts_rows(tmp_path):
    told = inspect_system_profile(save(tmp_path, SYSTEM))
    assert {row["table"]: row["rows"] for row in told.tables["Tables"]} == {
        "SystemProfileEvents": 2,
        "CpuUsage": 1,
        "HostMemUsage": 1,
    }


@pytest.mark.parametrize(
    "value", ["{}", '{"trace_events": 5}', '{"cpu_util": [{"util": 3}]}', '{"mem_usage": [{"timestamp": "x"}]}', "[1]"]
)
def test_what_is_no_system_profile_is_refused(tmp_path, value):
    with pytest.raises(FormatError, match=r"file\.txt"):
        read_system_profile(save(tmp_path, value))
