"""`npuscope inspect` and `npuscope ingest` as scripts meet them."""

import pytest

from tests.cli.conftest import strict_json
from tests.writers.ntff import small_capture


@pytest.fixture
def capture(tmp_path):
    path = tmp_path / "a.ntff"
    path.write_bytes(small_capture().data())
    return path


def test_inspect_tells_what_it_is(call_cli, capture):
    answer = call_cli("inspect", capture)
    assert answer.returncode == 0
    assert answer.stdout.startswith(f"{capture}: NTFF version 5, a capture on inf2.xlarge\n")
    document = strict_json(call_cli("inspect", capture, "--json").stdout)
    assert document["kind"] == "ntff"
    assert document["facts"]["ntff_version"] == 5


def test_ingest_writes_one_profile_into_the_folder_itself(call_cli, capture, tmp_path):
    answer = call_cli("ingest", capture, "-o", tmp_path / "p")
    assert answer.returncode == 0
    assert (tmp_path / "p" / "Instruction.parquet").is_file()
    assert f"next: npuscope analyze {tmp_path / 'p'}" in answer.stdout
    rows = strict_json(call_cli("query", tmp_path / "p", "SELECT count(*) AS n FROM Instruction", "--json").stdout)
    assert rows == [{"n": 9}]


def test_ingest_of_several_makes_a_folder_each(call_cli, capture, tmp_path):
    other = tmp_path / "b.ntff"
    other.write_bytes(capture.read_bytes())
    document = strict_json(call_cli("ingest", capture, other, "-o", tmp_path / "p", "--json").stdout)
    assert [item["folder"] for item in document["profiles"]] == [str(tmp_path / "p" / "a"), str(tmp_path / "p" / "b")]


def test_a_damaged_one_among_several_does_not_lose_the_others(call_cli, capture, tmp_path):
    bad = tmp_path / "bad.ntff"
    bad.write_bytes(capture.read_bytes()[:300])
    answer = call_cli("ingest", bad, capture, "-o", tmp_path / "p")
    assert answer.returncode == 3
    assert "bad.ntff" in answer.stderr
    assert (tmp_path / "p" / "a" / "Summary.parquet").is_file()
    assert not (tmp_path / "p" / "bad").exists()


def test_ingest_keeps_what_is_there_unless_told(call_cli, capture, tmp_path, assert_one_line_error):
    assert call_cli("ingest", capture, "-o", tmp_path / "p").returncode == 0
    assert_one_line_error(call_cli("ingest", capture, "-o", tmp_path / "p"), 2, "--force")
    assert call_cli("ingest", capture, "-o", tmp_path / "p", "--force").returncode == 0


def test_ingest_into_a_file_is_one_error(call_cli, capture, tmp_path, assert_one_line_error):
    (tmp_path / "file").write_text("x")
    assert_one_line_error(call_cli("ingest", capture, "-o", tmp_path / "file"), 2, "file")


def test_ingest_of_nothing_with_a_profile_says_so(call_cli, tmp_path, assert_one_line_error):
    log = tmp_path / "cc.log"
    log.write_text("INFO neuronx-cc: Compiler status PASS\n")
    assert_one_line_error(call_cli("ingest", log, "-o", tmp_path / "p"), 2, "npuscope inspect")


@pytest.mark.parametrize("command", ["inspect", "analyze", "query", "export", "compare", "ingest"])
def test_a_version_that_nobody_knows_is_one_line(call_cli, capture, tmp_path, command, assert_one_line_error):
    capture.write_bytes(b"\x07" + capture.read_bytes()[1:])
    extra = {
        "query": ["SELECT 1"],
        "export": ["--perfetto", tmp_path / "x.pftrace"],
        "compare": [capture],
        "ingest": ["-o", tmp_path / "p"],
    }.get(command, [])
    assert_one_line_error(call_cli(command, capture, *extra), 3, "version 7", "a.ntff", "byte 0")
