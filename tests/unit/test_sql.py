"""SQL over a Profile: the vendor's tables, Perfetto's views as the real trace processor answers, and nothing else."""

import time
from pathlib import Path

import pyarrow as pa
import pytest

from npuscope.errors import NpuscopeError, UsageError
from npuscope.formats.perfetto_processor import TraceProcessor
from npuscope.formats.perfetto_writer import write_perfetto
from npuscope.profile.schema import tables
from npuscope.profile.sql import list_columns, list_tables, query_profile
from npuscope.profile.sql_statement import choose_dialect, words_of
from npuscope.profile.tables import make_profile
from tests.writers.profiles import synthetic_profile

OVERLAP = """SELECT s1.name as engine1, s2.name as engine2, COUNT(*) as overlap_count
FROM slice s1, slice s2
WHERE s1.ts < s2.ts + s2.dur AND s2.ts < s1.ts + s1.dur
  AND s1.name != s2.name
  AND s1.name REGEXP 'TENSOR|VECTOR|SCALAR|GPSIMD'
  AND s2.name REGEXP 'TENSOR|VECTOR|SCALAR|GPSIMD'
GROUP BY s1.name, s2.name;"""
SAME_ANSWER = {
    "tensor share by opcode": """-- by name
SELECT name, COUNT(*) as count, AVG(dur)/1e6 as avg_ms
FROM slice
WHERE name REGEXP 'TENSOR_TENSOR|TENSOR_REDUCE|MATMUL'
GROUP BY name ORDER BY count DESC;""",
    "vector share by opcode": """SELECT name, COUNT(*) as count, AVG(dur)/1e6 as avg_ms
FROM slice WHERE name REGEXP 'RELU|ADD|MUL|SIGMOID' GROUP BY name ORDER BY count DESC;""",
    "transfers": """SELECT name, COUNT(*) as transfers, SUM(dur)/1e6 as total_ms
FROM slice
WHERE name IN ('WRITE', 'READ', 'DMA_DIRECT2D', 'COPY')
GROUP BY name ORDER BY total_ms DESC;""",
    "memory or compute": """SELECT
  (SELECT SUM(dur) FROM slice WHERE name LIKE '%DMA%') as dma_time,
  (SELECT SUM(dur) FROM slice WHERE name REGEXP 'TENSOR|VECTOR') as compute_time;""",
    "overlap of engines": OVERLAP,
    "LIKE ignores case": "SELECT count(*) AS n FROM slice WHERE name LIKE '%matmul%' AND name NOT LIKE 'x%'",
    "whole numbers divide to whole numbers": "SELECT ts / 7 AS a, -ts / 7 AS b, ts / 7.0 AS c, ts % 7 AS d FROM slice",
    "division by zero": "SELECT 1 / 0 AS a, 1.0 / 0 AS b FROM slice LIMIT 1",
    "a cast cuts the fraction off": "SELECT CAST(dur / 3.0 AS INT) AS a, CAST('12' AS INTEGER) AS b FROM slice",
    "double quotes may hold text": 'SELECT count(*) AS n FROM slice WHERE "name" = "MATMUL"',
    "nulls come first": "SELECT parent_id, id FROM slice ORDER BY parent_id, id",
    "nulls come last, descending": "SELECT parent_id, id FROM slice ORDER BY parent_id DESC, id",
    "threads": """SELECT utid, tid, upid, thread.name AS thread, process.name AS process, count(*) AS n, sum(dur) AS ns
FROM slice JOIN thread_track ON slice.track_id = thread_track.id JOIN thread USING (utid) JOIN process USING (upid)
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1""",
    "counters": """SELECT t.name, t.unit, count(*) AS n, sum(value) AS total FROM counter
JOIN counter_track t ON track_id = t.id GROUP BY t.name, t.unit ORDER BY t.name""",
    "arguments": """SELECT slice.id, key, int_value, string_value, real_value, value_type FROM slice
JOIN args USING (arg_set_id) ORDER BY slice.id, key""",
    "an argument by name": "SELECT sum(extract_arg(arg_set_id, 'debug.pc') + 0) AS n FROM slice WHERE category = 'engine'",
    "windows": "SELECT id, ts - lag(ts) OVER (PARTITION BY track_id ORDER BY id) AS gap FROM slice WHERE name = 'ADD'",
    "recursion": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 9) SELECT x FROM c, slice WHERE id=0",
    "null-safe IS": "SELECT count(*) AS n FROM slice WHERE parent_id IS NULL AND name IS 'ADD'",
    "null-safe IS NOT": "SELECT count(*) AS n FROM slice WHERE parent_id IS NOT NULL OR name IS NOT 'ADD'",
    "NOT REGEXP": "SELECT count(*) AS n FROM slice WHERE name NOT REGEXP 'A' AND NOT name GLOB 'W*'",
    "GLOB": "SELECT count(*) AS n FROM slice WHERE name GLOB 'MAT*'",
}  # fmt: skip


@pytest.fixture(scope="module")
def profile():
    return synthetic_profile(150, 2)


@pytest.fixture(scope="module")
def processor(profile, tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "profile.pftrace"
    write_perfetto(profile, path)
    with TraceProcessor() as loaded:
        loaded.load(path)
        yield loaded


def comparable(table: pa.Table) -> list[tuple]:
    rows = [
        tuple(float(f"{value:.9g}") if isinstance(value, float) else value for value in row.values())
        for row in table.to_pylist()
    ]
    return sorted(rows, key=repr)


@pytest.mark.parametrize("name", SAME_ANSWER)
def test_duckdb_answers_as_the_real_trace_processor(name, profile, processor):
    ours, theirs = query_profile(profile, SAME_ANSWER[name]), processor.query(SAME_ANSWER[name])
    assert theirs.num_rows
    assert comparable(ours) == comparable(theirs)


def test_the_vendors_tables_have_all_columns_and_duckdbs_meanings(profile):
    rows = query_profile(profile, "SELECT count(*) AS n, count(hlo_name) AS h, 7 / 2 AS half FROM Instruction")
    assert rows.to_pylist() == [{"n": 150, "h": 0, "half": 3.5}]
    for name in tables():
        columns = query_profile(profile, f"SELECT * FROM {name}").column_names
        assert columns[: len(tables()[name])] == [column.name for column in tables()[name]]


def test_a_63_bit_id_stays_exact(profile):
    ids = query_profile(profile, "SELECT id FROM Instruction").column("id")
    assert ids.type == pa.int64()
    assert ids.to_pylist() == profile.tables["Instruction"].column("id").to_pylist()
    total = query_profile(profile, "SELECT sum(dur) AS n FROM slice").column("n")
    assert total.type == pa.int64()


def test_a_dialect_can_be_named(profile):
    assert query_profile(profile, "SELECT 7 / 2 AS x", dialect="sqlite").to_pylist() == [{"x": 3}]
    assert query_profile(profile, "SELECT 7 / 2 AS x FROM slice LIMIT 1", dialect="duckdb").to_pylist() == [{"x": 3.5}]
    assert query_profile(profile, "SELECT opcode FROM Instruction WHERE opcode REGEXP '^MAT'").num_rows


@pytest.mark.parametrize(
    ("sql", "dialect"),
    [
        ("SELECT * FROM Instruction WHERE opcode LIKE 'slice'", "duckdb"),
        ("SELECT * FROM Instruction -- slice", "duckdb"),
        ("SELECT * FROM Instruction /* slice */", "duckdb"),
        ('SELECT * FROM "slice"', "sqlite"),
        ("select 1 from Instruction where opcode regexp 'A'", "sqlite"),
    ],
)
def test_the_dialect_follows_the_words_outside_of_text_and_comments(sql, dialect):
    assert choose_dialect(sql, "auto") == dialect


def test_words_leave_text_and_comments_out():
    assert words_of("SELECT 'it''s a' -- b\n, c /* d\n */ FROM _e") == {"select", "c", "from", "_e"}


def test_equal_column_names_are_told_apart(profile):
    names = query_profile(profile, "SELECT a.id, b.id FROM slice a JOIN slice b ON a.id = b.id").column_names
    assert names == ["id", "id_2"]


@pytest.mark.parametrize("sql", ["DESCRIBE slice", "SHOW TABLES", "SUMMARIZE Throttle", "EXPLAIN SELECT * FROM slice", "FROM Throttle", "VALUES (1)", "WITH t AS (SELECT 1 AS x) SELECT x FROM t;"])  # fmt: skip
def test_statements_that_read_are_run(sql, profile):
    assert query_profile(profile, sql).num_rows


WRITES = [
    "COPY slice TO '{folder}/x.csv'",
    "COPY (SELECT 1) TO '{folder}/x.parquet' (FORMAT parquet)",
    "EXPORT DATABASE '{folder}/db'",
    "ATTACH '{folder}/x.db'",
    "CREATE TABLE t AS SELECT 1",
    "CREATE VIEW v AS SELECT 1",
    "CREATE MACRO m(x) AS x",
    "INSERT INTO Throttle VALUES (1)",
    "DELETE FROM Throttle",
    "UPDATE Throttle SET k = 1",
    "DROP TABLE Throttle",
    "DROP VIEW args",
    "WITH x AS (INSERT INTO Throttle VALUES (1) RETURNING *) SELECT * FROM x",
    "INSTALL httpfs",
    "LOAD httpfs",
    "FORCE INSTALL json FROM '{folder}'",
    "SET threads = 1",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "PRAGMA enable_profiling",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CHECKPOINT",
    "VACUUM",
    "USE memory",
    "BEGIN TRANSACTION",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "EXPLAIN COPY slice TO '{folder}/x.csv'",
    "EXPLAIN ANALYZE COPY slice TO '{folder}/x.csv'",
    "EXPLAIN CREATE TABLE t AS SELECT 1",
    "EXPLAIN ANALYZE SELECT * FROM read_text('{secret}')",
    "CREATE SECRET s (TYPE s3)",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY slice TO '{folder}/x.csv'",
    "SELECT * FROM slice; ATTACH '{folder}/x.db'",
]
READS = [
    "SELECT * FROM read_text('{secret}')",
    "SELECT * FROM read_blob('{secret}')",
    "SELECT * FROM read_csv('{secret}')",
    "SELECT * FROM read_csv_auto('{secret}')",
    "SELECT * FROM read_json('{secret}')",
    "SELECT * FROM read_parquet('{secret}')",
    "SELECT * FROM parquet_scan('{secret}')",
    "SELECT * FROM parquet_metadata('{secret}')",
    "SELECT * FROM sniff_csv('{secret}')",
    "SELECT * FROM glob('{folder}/*')",
    "SELECT * FROM '{secret}'",
    "FROM '{secret}'",
    "SELECT (SELECT content FROM read_text('{secret}'))",
    "SELECT * FROM slice WHERE name IN (SELECT content FROM read_text('{secret}'))",
    "WITH t AS (SELECT * FROM read_text('{secret}')) SELECT * FROM t",
    "SELECT * FROM query('SELECT * FROM read_text(''{secret}'')')",
    "SELECT * FROM query_table(['hidden_frame'])",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM read_text(''{secret}'')'))",
    "SELECT * FROM hidden_frame",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM pandas_scan(1)",
    "SELECT * FROM python_map_function(1)",
    "SELECT * FROM sqlite_scan('{secret}', 't')",
    "SELECT * FROM iceberg_scan('{secret}')",
    "SELECT getenv('HOME')",
    "SELECT getenv('HOME') FROM slice",
    "SELECT * FROM enable_logging()",
    "SELECT write_log('x')",
    "SUMMARIZE FROM read_text('{secret}')",
    "DESCRIBE SELECT * FROM read_text('{secret}')",
    "SELECT * FROM slice, LATERAL (SELECT * FROM read_text('{secret}'))",
    "SELECT unnest(list_transform([1], x -> (SELECT content FROM read_text('{secret}'))))",
]


@pytest.mark.parametrize("sql", WRITES + READS)
def test_a_query_reaches_nothing_but_the_profile(sql, profile, tmp_path, monkeypatch):
    hidden_frame = pa.table({"secret": ["hidden"]})
    assert hidden_frame.num_rows
    secret = tmp_path / "secret.csv"
    secret.write_text("word\nxyzzy\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        query_profile(profile, sql.format(folder=tmp_path, secret=secret), timeout_s=20)
    assert "xyzzy" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["secret.csv"]
    assert secret.read_text(encoding="utf-8") == "word\nxyzzy\n"


def test_deep_nesting_is_answered_or_refused(profile):
    try:
        assert query_profile(profile, "SELECT " + "(" * 5000 + "1" + ")" * 5000).num_rows == 1  # DuckDB 1
    except UsageError as error:
        assert "\n" not in str(error)  # noqa: PT017  # DuckDB 2


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT * FROM Instructon", "did you mean 'Instruction'?"),
        ("SELECT * FROM slices", "did you mean 'slice'?"),
        ("SELECT opcod FROM Instruction", "unknown column 'opcod'; did you mean 'opcode'?"),
        ("SELECT s.nme FROM slice s", "did you mean 'name'?"),
        ("SELEC 1", "syntax error"),
        ("", "the query is empty"),
        (" ;; ", "the query is empty"),
        ("SELECT '\0'", "NUL"),
        ("SELECT name, max(dur) FROM slice", "--engine perfetto"),
        ("INCLUDE PERFETTO MODULE slices.slices; SELECT 1 FROM slice", "--engine perfetto"),
        ("SELECT error('told')", "told"),
        ("SELECT 1 FROM slice WHERE name REGEXP '('", "query fails"),
    ],
)
def test_a_wrong_query_is_told_in_one_line(sql, words, profile):
    with pytest.raises(UsageError) as caught:
        query_profile(profile, sql)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM range(1000000000000)",
        "SELECT * FROM range(1000000000000)",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
        "SELECT sum(a.dur * b.dur * c.dur * d.dur * e.dur) FROM slice a, slice b, slice c, slice d, slice e",
        "SELECT levenshtein(repeat('ab', 30000), repeat('ba', 30000))",
    ],
)
def test_a_query_ends_at_its_time_limit(sql, profile):
    started = time.monotonic()
    with pytest.raises(UsageError, match=r"longer than 0\.5 s"):
        query_profile(profile, sql, timeout_s=0.5)
    assert time.monotonic() - started < 8


def test_a_query_stays_within_its_memory(profile):
    with pytest.raises(UsageError, match=r"larger than|Out of Memory"):
        query_profile(profile, "SELECT range, repeat('x', 100) FROM range(100000000)", memory_bytes=64 << 20)
    with pytest.raises(UsageError, match=r"[Mm]emory"):
        query_profile(profile, "SELECT * FROM range(900000000) ORDER BY range DESC", memory_bytes=64 << 20)


def test_every_table_and_view_is_listed_with_its_rows(profile):
    rows = {row["name"]: row for row in list_tables(profile).to_pylist()}
    assert rows["Instruction"]["rows"] == 150
    assert rows["slice"]["rows"] == 150 + 150 + 2 + 4
    assert rows["HloInstruction"]["rows"] == 0
    assert set(tables()) <= set(rows)
    for name in rows:
        assert list_columns(profile, name).num_rows == rows[name]["columns"]
    with pytest.raises(UsageError, match="did you mean"):
        list_columns(profile, "Instructions")


def test_counters_that_no_other_table_holds_are_counter_tracks():
    counters = {"timestamp": [1, 2], "name": ["clock", "clock"], "value": [1.5, 2.5]}
    profile = make_profile({"CounterSample": counters}, source="x")
    rows = query_profile(
        profile, "SELECT name, ts, value FROM counter JOIN counter_track t ON track_id = t.id ORDER BY ts"
    )
    assert rows.to_pylist() == [{"name": "clock", "ts": 1, "value": 1.5}, {"name": "clock", "ts": 2, "value": 2.5}]
    assert query_profile(profile, "SELECT timestamp FROM CounterSample").num_rows == 2


def test_columns_and_tables_with_odd_names_can_be_asked():
    odd = "a \"b'c"
    profile = make_profile(
        {"Instruction": {"start_ts": [1], "duration_ns": [1], odd: [7]}, odd: {"x": [1]}}, source="x"
    )
    assert query_profile(profile, "SELECT int_value FROM args").column(0).to_pylist() == [7]
    assert query_profile(profile, 'SELECT "a ""b\'c" AS v FROM Instruction').to_pylist() == [{"v": 7}]
    assert odd in list_tables(profile).column("name").to_pylist()


def test_a_table_of_another_type_is_one_error_or_an_answer():
    profile = make_profile({"Instruction": {"start_ts": ["x"], "opcode": ["A"]}}, source="odd", strict=False)
    with pytest.raises(NpuscopeError, match="odd"):
        query_profile(profile, "SELECT * FROM slice")
    assert query_profile(profile, "SELECT opcode FROM Instruction").num_rows == 1


def test_the_query_leaves_no_file_behind(profile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    query_profile(profile, OVERLAP)
    assert not list(Path(tmp_path).iterdir())


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT current_setting('secret_directory')",
        "SELECT * FROM pg_catalog.pg_settings",
        "SELECT * FROM duckdb_settings",
        "SELECT * FROM sqlite_master",
    ],
)
def test_settings_of_the_host_are_not_told(profile, sql):
    with pytest.raises(UsageError):
        query_profile(profile, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT DATE '294247-01-10' AS d",
        "SELECT TIMESTAMP 'infinity' AS d",
        "SELECT TIMESTAMP_NS '2262-04-11 23:47:16.854775806' AS d",
        "SELECT INTERVAL 3 MONTH AS d",
        "SELECT TIME '12:00:01' AS d",
    ],
)
def test_a_time_that_python_lacks_is_a_text_or_one_error(profile, sql):
    try:
        value = query_profile(profile, sql).column("d")[0].as_py()
    except UsageError as error:
        assert "VARCHAR" in str(error)  # noqa: PT017
    else:
        assert isinstance(value, str)
