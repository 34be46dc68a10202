"""Whatever a query says and a Profile holds, there is a result or one error of npuscope, and no file is touched."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npuscope.errors import NpuscopeError
from npuscope.formats.perfetto_processor import TraceProcessor
from npuscope.formats.perfetto_writer import write_perfetto
from npuscope.profile.sql import query_profile
from npuscope.profile.tables import make_profile
from npuscope.profile.timeline import build_timeline
from tests.writers.profiles import synthetic_profile

fuzz = settings(
    deadline=None,
    max_examples=80,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
SEEDS = (
    "SELECT name, count(*) FROM slice WHERE name REGEXP 'A|B' GROUP BY name ORDER BY 2 DESC LIMIT 3",
    "SELECT * FROM Instruction i JOIN Flow f ON i.id = f.in_id WHERE opcode LIKE '%MAT%'",
    'WITH t AS (SELECT ts / 7 AS x FROM slice) SELECT max(x), "x" FROM t GROUP BY x HAVING x IS NOT NULL',
    "EXPLAIN SELECT extract_arg(arg_set_id, 'debug.pc') FROM slice",
    "COPY slice TO 'out.csv'; ATTACH 'x.db'; SELECT * FROM read_text('secret')",
)
WORDS = (
    " ( ) , ; * ' \" -- /* */ . :: = < || 0 1e9 NULL SELECT FROM WHERE slice args Throttle Flow count( read_csv( 'x' REGEXP"
    " LIKE IS CAST( AS INT ) COPY TO ATTACH SET PRAGMA EXPLAIN UNION ALL WITH RECURSIVE VALUES CASE WHEN END [ ] { } $1 ? @"
    " # \\ é \ud7ff"
)
TOKENS = st.sampled_from(WORDS.split())
PROFILE = synthetic_profile(20)


@st.composite
def statements(draw):
    """Random tokens, random text, or a valid statement with a part cut out, doubled or replaced."""
    kind = draw(st.integers(0, 2))
    if kind == 0:
        return " ".join(draw(st.lists(TOKENS, max_size=20)))
    if kind == 1:
        return draw(st.text(max_size=60))
    seed = draw(st.sampled_from(SEEDS))
    start = draw(st.integers(0, len(seed)))
    stop = draw(st.integers(start, min(len(seed), start + 12)))
    return seed[:start] + draw(st.one_of(TOKENS, st.just(seed[start:stop] * 2))) + seed[stop:]


@fuzz
@given(sql=statements(), dialect=st.sampled_from(["auto", "duckdb", "sqlite"]))
def test_any_text_ends_in_rows_or_one_error(sql, dialect, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = ""
    try:
        query_profile(PROFILE, sql, dialect=dialect, timeout_s=10)
    except NpuscopeError as error:
        told = str(error)
    assert "\n" not in told
    assert len(told) < 2500
    assert not list(Path(tmp_path).iterdir())


TIMES = st.one_of(st.none(), st.integers(0, 300), st.integers(-(1 << 63), (1 << 63) - 1))
NAMES = st.one_of(st.none(), st.sampled_from(["", "Tensor", "Vector", "TensorMatrix"]), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5))  # fmt: skip


@st.composite
def profiles(draw):
    """Instructions, packets and host events with any times, names, ids and cores."""
    count = draw(st.integers(1, 12))

    def column(values):
        return draw(st.lists(values, min_size=count, max_size=count))

    small = st.one_of(st.none(), st.integers(0, 2))
    whole = st.one_of(st.none(), st.integers(-(1 << 63), (1 << 63) - 1))
    spans = {"start_ts": TIMES, "end_ts": TIMES, "duration_ns": TIMES, "pcore_idx": small}
    made = {
        "Instruction": {**spans, "engine": NAMES, "opcode": NAMES, "id": small, "timeline_track": NAMES, "pc": whole},
        "DmaPacket": {**spans, "queue_name": NAMES, "queue_idx": whole, "id": small, "throughput": st.floats()},
        "SystemProfileEvents": {**spans, "name": NAMES, "process_id": whole, "thread_id": whole, "thread_name": NAMES},
        "Flow": {"in_id": small, "out_id": small, "in_table": st.just("instruction"), "out_table": st.just("dma")},
        "SemaphoreUpdate": {"timestamp": TIMES, "id": NAMES, "value": st.integers(-9, 9)},
        "CounterSample": {"timestamp": TIMES, "name": NAMES, "value": st.floats()},
    }
    kept = draw(st.sets(st.sampled_from(sorted(made)), min_size=1))
    tables = {name: {key: column(values) for key, values in made[name].items()} for name in sorted(kept)}
    device = {"is_simulation": [draw(st.booleans())], "device": [draw(NAMES)]}
    return make_profile({"Metadata": device, **tables}, source="fuzz")


@settings(fuzz, max_examples=20)
@given(profile=profiles())
def test_any_profile_is_a_trace_that_the_real_processor_reads_whole(profile, tmp_path):
    timeline = build_timeline(profile)
    assert query_profile(profile, "SELECT count(*) AS n FROM slice").to_pylist() == [{"n": timeline.slices.num_rows}]
    write_perfetto(profile, tmp_path / "x.pftrace")
    starts = timeline.slices.column("ts").to_pylist() + timeline.counters.column("ts").to_pylist()
    later = max(0, -min(starts, default=0))  # Perfetto has no time before its clock's start
    with TraceProcessor() as processor:
        processor.load(tmp_path / "x.pftrace")
        rows = processor.query(f"SELECT ts - {later} AS ts, dur, name FROM slice ORDER BY id").to_pylist()
        assert rows == timeline.slices.select(["ts", "dur", "name"]).to_pylist()
        assert processor.error_stats() == {}


@pytest.mark.parametrize("sql", SEEDS)
def test_the_statements_to_mutate_are_what_they_should_be(sql):
    try:
        query_profile(PROFILE, sql)
    except NpuscopeError:
        assert sql.startswith("COPY")
