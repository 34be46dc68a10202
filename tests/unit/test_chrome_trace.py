"""Facts about Chrome traces as Profiles: times, pairs, names, engines, and what is told of the rest."""

import gzip
import json

import numpy as np
import pytest

from npuscope.errors import FormatError
from npuscope.formats.chrome_trace import inspect_chrome_trace, match_pairs, read_chrome_trace


@pytest.fixture
def trace(tmp_path):
    def write(*events, **beside):
        path = tmp_path / "trace.json"
        path.write_text(json.dumps({**beside, "traceEvents": list(events)}))
        return path

    return write


def event(ph, name="a", pid=1, tid=2, **more):
    return {"ph": ph, "name": name, "pid": pid, "tid": tid, **more}


def rows(profile, table="SystemProfileEvents", columns=("name", "start_ts", "duration_ns")):
    found = profile.table(table).select(list(columns)).to_pylist()
    return [tuple(row.values()) for row in found]


def test_microseconds_become_exact_nanoseconds_from_the_first_event(trace):
    path = trace(event("X", "b", ts=5_310_033_563_123.457, dur=1.001), event("X", "a", ts=5_310_033_563_122.006, dur=0))
    profile = read_chrome_trace(path)
    assert rows(profile) == [("b", 1451, 1001), ("a", 0, 0)]
    assert profile.metadata["first_hw_timestamp"] == 5_310_033_563_122_006


def test_times_since_1970_keep_their_nanoseconds_though_float64_does_not(tmp_path):
    path = tmp_path / "trace.json"
    text = '[{"ph":"X","name":"a","pid":1,"tid":1,"ts":1700000000000000.001,"dur":0.002},'
    path.write_text(text + '{"ph":"X","name":"b","pid":1,"tid":1,"ts":1700000000000000.004,"dur":3}]')
    profile = read_chrome_trace(path)
    assert rows(profile) == [("a", 0, 2), ("b", 3, 3000)]
    assert profile.metadata["first_hw_timestamp"] == 1_700_000_000_000_000_001


def test_times_may_be_text_and_negative(trace):
    profile = read_chrome_trace(trace(event("X", "a", ts="-1.5", dur="2"), event("X", "b", ts=0, dur=1)))
    assert rows(profile) == [("a", 0, 2000), ("b", 1500, 1000)]


def test_a_trace_that_starts_near_zero_keeps_its_times(trace):
    assert rows(read_chrome_trace(trace(event("X", ts=7, dur=1)))) == [("a", 7000, 1000)]


def test_an_end_closes_the_last_open_begin_of_its_thread(trace):
    profile = read_chrome_trace(
        trace(
            event("B", "outer", ts=1),
            event("B", "other", tid=3, ts=1.5),
            event("B", "inner", ts=2),
            event("E", None, ts=3),
            event("E", None, ts=5),
            event("E", None, tid=3, ts=9),
        )
    )
    assert rows(profile) == [("outer", 1000, 4000), ("other", 1500, 7500), ("inner", 2000, 1000)]


def test_begins_and_ends_without_partner_are_counted(trace):
    path = trace(
        event("E", ts=1), event("B", "open", ts=2), event("B", "x", ts=3), event("E", ts=4), event("X", ts=5, dur=1)
    )
    profile = read_chrome_trace(path)
    assert rows(profile) == [("x", 3000, 1000), ("a", 5000, 1000)]
    assert "1 end events have no begin; they are left out" in profile.notes
    assert "1 begin events have no end; they are left out" in profile.notes


def test_asynchronous_events_pair_by_id(trace):
    profile = read_chrome_trace(
        trace(
            event("b", "one", cat="io", id="0x1", ts=1),
            event("b", "two", cat="io", id="0x2", ts=2),
            event("e", "one", cat="io", id="0x1", ts=5),
            event("e", "two", cat="io", id="0x2", ts=9),
            event("n", "now", cat="io", id="0x1", ts=3),
        )
    )
    assert rows(profile) == [("one", 1000, 4000), ("two", 2000, 7000), ("now", 3000, 0)]
    assert set(profile.texts("SystemProfileEvents", "thread_name")) == {"async io"}


def test_threads_carry_the_names_that_metadata_gives_wherever_it_stands(trace):
    path = trace(
        event("X", ts=1, dur=1),
        event("X", pid="Spans", tid="main", ts=1, dur=1),
        event("M", "process_name", args={"name": "python"}),
        event("M", "process_labels", args={"labels": "GPU 0"}),
        event("M", "thread_name", args={"name": "stream 7"}),
    )
    names = ("process_name", "thread_name", "process_id", "thread_id")
    assert rows(read_chrome_trace(path), columns=names) == [
        ("python (GPU 0)", "stream 7", 1, 2),
        ("Spans", "main", None, None),
    ]


def test_tracks_of_engines_and_queues_become_instructions_and_packets_with_their_arguments(trace):
    path = trace(
        event("M", "thread_name", tid=1, args={"name": "TensorMatrix(E)"}),
        event("M", "thread_name", tid=2, args={"name": "qSyncSpillReload0-Q1-E5"}),
        event("X", "MATMUL", tid=1, ts=1, dur=2, args={"pc": "77", "operands": "x", "mystery": [1]}),
        event("X", "MATMUL", tid=1, ts=4, dur=2),
        event("X", "DMA data", tid=2, ts=1, dur=3, args={"transfer_size": 4096, "queue_type": "data"}),
    )
    profile = read_chrome_trace(path)
    columns = ("engine", "timeline_track", "opcode", "start_ts", "duration_ns", "pc", "operands")
    assert rows(profile, "Instruction", columns) == [
        ("Tensor", "TensorMatrix", "MATMUL", 1000, 2000, 77, "x"),
        ("Tensor", "TensorMatrix", "MATMUL", 4000, 2000, None, None),
    ]
    packet = ("queue_name", "queue_idx", "engine_idx", "transfer_bytes", "queue_type")
    assert rows(profile, "DmaPacket", packet) == [("qSyncSpillReload0-Q1-E5", 1, 5, 4096, "data")]
    assert "Instruction: arguments without a column of their own are left out: mystery" in profile.notes
    assert profile.summary["tensor_engine_instruction_count"] == 2


def test_opcodes_tell_the_engine_only_where_no_track_does(trace):
    slices = [
        event("X", name, ts=at, dur=1) for at, name in enumerate(["MATMUL", "TENSOR_TENSOR", "TENSOR_REDUCE", "WRITE"])
    ]
    profile = read_chrome_trace(trace(*slices))
    assert rows(profile, "Instruction", ("engine", "opcode")) == [
        ("Tensor", "MATMUL"),
        ("Vector", "TENSOR_TENSOR"),
        ("Vector", "TENSOR_REDUCE"),
    ]
    assert rows(profile) == [("WRITE", 3000, 1000)]
    assert any("by opcode where it tells the engine: Tensor 1, Vector 2" in note for note in profile.notes)
    named = event("M", "thread_name", tid=9, args={"name": "Vector"})
    profile = read_chrome_trace(trace(named, event("X", "DRAIN", tid=9, ts=0, dur=1), *slices))
    assert rows(profile, "Instruction", ("engine", "opcode")) == [("Vector", "DRAIN")]


def test_counters_go_to_the_table_that_their_name_tells(trace):
    path = trace(
        event("C", "DMA Throughput (GB/s)", ts=1, args={"value": 2.5}),
        event("C", "Pending DMA Count", ts=2, args={"value": 7}),
        event("C", "memory", ts=3, args={"used": 10, "free": 20, "text": "x"}),
    )
    profile = read_chrome_trace(path)
    assert rows(profile, "DmaUsage", ("timestamp", "current_throughput")) == [(1000, 2.5e9)]
    assert rows(profile, "PendingDma", ("timestamp", "value")) == [(2000, 7)]
    assert rows(profile, "CounterSample", ("name", "value")) == [("memory used", 10.0), ("memory free", 20.0)]
    assert "1 events are samples that are no number; they are left out" in profile.notes


def test_what_is_not_taken_over_is_told(trace):
    path = trace(
        event("X", ts=1, dur=1, args={"k": 1}),
        event("X", ts=1, dur=-1),
        event("X", ts=1),
        event("s", id=1, ts=1),
        event("f", id=1, ts=2),
        event("v", ts=2),
        {},
    )
    assert set(read_chrome_trace(path).notes) == {
        "1 events have a negative duration; they are left out",
        "1 events are complete events without a duration; they are left out",
        "2 flow events (arrows between slices) are not kept",
        "events of phases that no table holds are left out: 'v' 1",
        "arguments of slices on threads are not kept",
    }


def test_arguments_are_kept_as_json_on_request(trace):
    path = trace(event("X", ts=1, dur=1, args={"id": 2**63 - 1}), event("X", ts=2, dur=1))
    profile = read_chrome_trace(path, with_args=True)
    kept = profile.table("SystemProfileEvents").column("extra_attributes_json").to_pylist()
    assert [text and json.loads(text) for text in kept] == [{"id": 2**63 - 1}, None]
    assert "arguments of slices on threads are not kept" not in profile.notes


def test_an_event_days_before_all_others_is_left_out(trace):
    profile = read_chrome_trace(trace(event("X", "stray", ts=0, dur=1), event("X", ts=1.7e15, dur=1)))
    assert rows(profile) == [("a", 0, 1000)]
    assert any("104 days" in note for note in profile.notes)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"a": 1}', "key traceEvents: expected an array of events, found a"),
        ('{"traceEvents": 5}', "key traceEvents: expected an array of events"),
        ('{"traceEvents": [{"ph": "X", "ts": [1]}]}', "key 'traceEvents[0].ts'"),
        ('{"traceEvents": [{"ph": "X", "ts": "soon", "dur": 1}]}', "traceEvents[0].ts: expected microseconds"),
        ('{"traceEvents": [{"ph": "X", "ts": 1e300, "dur": 1}]}', "traceEvents[0].ts: expected microseconds"),
        ('{"traceEvents": [{"ph": "X", "ts": 1, "dur": 1}', "found the end of the file"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path, content, told):
    path = tmp_path / "trace.json"
    path.write_text(content)
    with pytest.raises(FormatError) as caught:
        read_chrome_trace(path)
    assert told in str(caught.value)


def test_gzip_is_read_like_the_text(trace, tmp_path):
    path = trace(event("X", ts=1, dur=1))
    packed = tmp_path / "trace.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert rows(read_chrome_trace(packed)) == rows(read_chrome_trace(path))


def test_the_inspection_tells_tracks_and_phases(trace):
    path = trace(
        event("X", ts=1, dur=4),
        event("X", ts=2, dur=4),
        event("M", "process_name", args={"name": "p"}),
        schemaVersion=1,
    )
    found = inspect_chrome_trace(path)
    assert found.kind == "chrome-trace"
    assert found.facts["events_by_phase"] == {"M": 1, "X": 2}
    assert found.facts["schema_version"] == 1
    assert found.tables["threads"] == [{"process": "p", "thread": 2, "slices": 2, "duration_ns": 8000, "busy_ns": 5000}]


def test_busy_time_counts_overlaps_once_and_gaps_not(trace):
    path = trace(
        event("X", ts=0, dur=4), event("X", ts=2, dur=4), event("X", ts=10, dur=1), event("X", tid=3, ts=0, dur=1)
    )
    told = {
        row["thread"]: (row["slices"], row["duration_ns"], row["busy_ns"])
        for row in inspect_chrome_trace(path).tables["threads"]
    }
    assert told == {2: (3, 9000, 7000), 3: (1, 1000, 1000)}


def test_pairs_equal_those_of_a_stack():
    generator = np.random.default_rng(5)
    for _ in range(200):
        size = int(generator.integers(0, 30))
        group = np.sort(generator.integers(0, 4, size))
        begins = generator.random(size) < 0.5
        stacks: dict[int, list[int]] = {}
        pairs, lonely = [], 0
        for at in range(size):
            stack = stacks.setdefault(int(group[at]), [])
            if begins[at]:
                stack.append(at)
            elif stack:
                pairs.append((stack.pop(), at))
            else:
                lonely += 1
        first, last, open_ends, open_begins = match_pairs(group, begins)
        assert list(zip(first.tolist(), last.tolist(), strict=True)) == sorted(pairs)
        assert (open_ends, open_begins) == (lonely, sum(map(len, stacks.values())))
