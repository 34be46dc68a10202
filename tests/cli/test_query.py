"""`npuscope query` and `npuscope export` as their users meet them."""

import csv
import io
import json

import pyarrow.parquet as pq
import pytest

from npuscope.formats.perfetto_processor import TraceProcessor
from npuscope.profile.folder import write_profile
from npuscope.profile.tables import make_profile
from tests.cli.conftest import strict_json
from tests.writers.ntff import small_capture
from tests.writers.profiles import synthetic_profile


@pytest.fixture
def profile(tmp_path):
    """A profile folder, as `npuscope ingest` writes one."""
    write_profile(synthetic_profile(90), tmp_path / "profile")
    return "profile"


def test_json_is_a_list_of_row_objects_with_exact_ids(call_cli, profile):
    answer = call_cli("query", profile, "SELECT id, pc, hlo_name, engine FROM Instruction ORDER BY pc", "--json")
    assert answer.returncode == 0, answer.stderr
    rows = strict_json(answer.stdout)
    assert [row["id"] for row in rows] == synthetic_profile(90).tables["Instruction"].column("id").to_pylist()
    assert rows[0].keys() == {"id", "pc", "hlo_name", "engine"}
    assert rows[0]["hlo_name"] is None
    assert answer.stderr == ""


def test_json_has_no_number_that_json_does_not_know(call_cli, profile):
    answer = call_cli("query", profile, "SELECT 'nan'::DOUBLE AS a, 1::HUGEINT << 100 AS b, 'x'::BLOB AS c", "--json")
    assert strict_json(answer.stdout) == [{"a": None, "b": 1 << 100, "c": "78"}]


def test_a_table_is_cut_and_says_by_how_much(call_cli, profile):
    answer = call_cli("query", profile, "SELECT pc FROM Instruction ORDER BY pc", "--limit", "5")
    assert answer.stdout.split()[:6] == ["pc", "0", "1", "2", "3", "4"]
    assert answer.stdout.endswith("first 5 of 90 rows; --limit N shows more, --format csv or json has all\n")


def test_csv_has_every_row(call_cli, profile):
    answer = call_cli("query", profile, "SELECT pc, operands FROM Instruction", "--format", "csv", "--limit", "5")
    rows = list(csv.DictReader(io.StringIO(answer.stdout)))
    assert [int(row["pc"]) for row in rows] == list(range(90))


def test_rows_are_written_once(call_cli, profile, tmp_path, assert_one_line_error):
    words = ("query", profile, "SELECT pc FROM Instruction", "--format", "parquet", "-o", "rows.parquet")
    assert call_cli(*words).returncode == 0
    assert pq.read_table(tmp_path / "rows.parquet").num_rows == 90
    assert_one_line_error(call_cli(*words), 2, "rows.parquet exists", "--force")
    assert call_cli(*words, "--force").returncode == 0
    assert call_cli("query", profile, "SELECT 1 AS x", "--json", "-o", "x.json").stdout == ""
    assert strict_json((tmp_path / "x.json").read_text(encoding="utf-8")) == [{"x": 1}]
    assert not list(tmp_path.glob("*.partial"))


def test_both_engines_give_the_same_rows(call_cli, profile):
    sql = "SELECT name, count(*) AS n, sum(dur) AS ns FROM slice WHERE name REGEXP 'TENSOR|DMA' GROUP BY name ORDER BY name"
    ours = strict_json(call_cli("query", profile, sql, "--json").stdout)
    assert ours
    assert strict_json(call_cli("query", profile, sql, "--engine", "perfetto", "--json").stdout) == ours
    assert call_cli("export", profile, "--perfetto", "x.pftrace").returncode == 0
    assert strict_json(call_cli("query", "x.pftrace", sql, "--engine", "perfetto", "--json").stdout) == ours


def test_a_statement_comes_from_standard_input(tmp_path, profile, monkeypatch, call_cli):
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT 1 AS x"))
    assert strict_json(call_cli("query", profile, "-", "--json").stdout) == [{"x": 1}]


def test_tables_and_columns_are_listed(call_cli, profile):
    names = [row["name"] for row in strict_json(call_cli("query", profile, "--tables", "--json").stdout)]
    assert {"slice", "args", "Instruction", "HloInstruction"} <= set(names)
    columns = strict_json(call_cli("query", profile, "--schema", "Instruction", "--json").stdout)
    assert {"column": "pc", "type": "int64", "unit": "", "origin": "7.4.0", "values": 90} in columns


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("SELECT * FROM Instructon",), 2, "did you mean 'Instruction'?"),
        (("COPY slice TO 'x.csv'",), 2, "only reads"),
        (("SELECT * FROM read_text('profile/profile.json')",), 2, "not allowed"),
        (("SELECT 1; SELECT 2",), 2, "one statement"),
        (("",), 2, "empty"),
        ((), 2, "give one of"),
        (("SELECT 1", "--tables"), 2, "give one of"),
        (("SELECT 1", "--engine", "duckbd"), 2, "did you mean 'duckdb'?"),
        (("SELECT 1", "--format", "xml"), 2, "format"),
        (("SELECT 1", "--format", "parquet"), 2, "-o FILE"),
        (("SELECT 1", "--dialect", "mysql"), 2, "dialect"),
        (("SELECT 1", "--timeout", "0"), 2, "--timeout"),
        (("SELECT 1", "--timeout", "nan"), 2, "--timeout"),
        (("SELECT 1", "--limit", "-1"), 2, "--limit"),
        (("SELECT 1", "-o", "missing/x"), 2, "missing"),
        (("SELECT 1", "-o", "profile"), 2, "folder"),
        (("--schema", "slic"), 2, "did you mean 'slice'?"),
        (("SELECT count(*) FROM range(1000000000000)", "--timeout", "0.2"), 2, "longer than 0.2 s"),
        (("SELEC 1", "--engine", "perfetto"), 2, "Perfetto refuses"),
    ],
)
def test_wrong_use_is_one_line(words, code, text, call_cli, profile, tmp_path, assert_one_line_error):
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert_one_line_error(call_cli("query", profile, *words), code, text)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_query_that_does_not_stop_does_not_hold_the_command(run_cli, profile, assert_one_line_error):
    sql = "SELECT levenshtein(repeat('ab', 60000), repeat('ba', 60000))"
    answer = run_cli("query", profile, sql, "--timeout", "0.3", timeout=30)
    assert_one_line_error(answer, 2, "longer than 0.3 s")


def test_a_missing_artifact_is_told(call_cli, assert_one_line_error):
    assert_one_line_error(call_cli("query", "missing.ntff", "SELECT 1"), 3, "missing.ntff")
    assert_one_line_error(call_cli("export", "missing.ntff", "--perfetto", "x"), 3, "missing.ntff")


def test_an_exported_trace_holds_every_slice(call_cli, profile, tmp_path):
    answer = call_cli("export", profile, "--perfetto", "x.pftrace", "--json")
    document = strict_json(answer.stdout)
    with TraceProcessor() as processor:
        processor.load(tmp_path / "x.pftrace")
        assert processor.error_stats() == {}
        counts = processor.query("SELECT (SELECT count(*) FROM slice) s, (SELECT count(*) FROM flow) f")
    assert counts.to_pylist() == [{"s": document["perfetto"]["slices"], "f": document["perfetto"]["flows"]}]
    assert document["perfetto"]["size_bytes"] == (tmp_path / "x.pftrace").stat().st_size
    assert document["is_simulated"] is False


def test_an_export_replaces_nothing_unasked(call_cli, profile, tmp_path, assert_one_line_error):
    (tmp_path / "x.pftrace").write_text("mine", encoding="utf-8")
    assert_one_line_error(call_cli("export", profile, "--perfetto", "x.pftrace"), 2, "exists", "--force")
    assert (tmp_path / "x.pftrace").read_text(encoding="utf-8") == "mine"
    assert call_cli("export", profile, "--perfetto", "x.pftrace", "--force").returncode == 0
    assert_one_line_error(call_cli("export", profile), 2, "--perfetto FILE")


def test_tables_are_exported_as_parquet_and_csv(call_cli, tmp_path):
    write_profile(
        make_profile({"Instruction": {"pc": [1, None], "operands": ["=x", "a,b"]}}, source="x"), tmp_path / "p"
    )
    assert call_cli("export", "p", "--parquet", "tables", "--csv", "texts").returncode == 0
    assert pq.read_table(tmp_path / "tables" / "Instruction.parquet").column("pc").to_pylist() == [1, None]
    lines = (tmp_path / "texts" / "Instruction.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].split(",")[:2] == ["operands", "pc"]
    assert lines[1:] == ["'=x,1", '"a,b",'] or len(lines[0].split(",")) > 2
    assert call_cli("export", "p", "--csv", "texts").returncode == 2


def test_sql_that_begins_with_a_comment_is_no_option(call_cli, tmp_path):
    capture = tmp_path / "a.ntff"
    capture.write_bytes(small_capture().data())
    answer = call_cli("query", capture, "-- engines\nSELECT count(*) AS n FROM Instruction", "--json")
    assert json.loads(answer.stdout) == [{"n": 9}]
