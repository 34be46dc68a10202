"""The Perfetto traces that npuscope writes, judged by Perfetto's own trace processor."""

import numpy as np
import pytest

from npuscope.errors import OutputError
from npuscope.formats.perfetto_encoding import Text, Varint, encode, integer, tag, varint
from npuscope.formats.perfetto_processor import TraceProcessor
from npuscope.formats.perfetto_writer import write_perfetto
from npuscope.profile.tables import make_profile
from npuscope.profile.timeline import build_timeline
from npuscope.profile.timeline_sources import SLICES
from tests.writers.profiles import synthetic_profile

PROFILES = {
    "measured": lambda: synthetic_profile(),
    "simulated, two cores": lambda: synthetic_profile(120, 1, simulated=True, cores=2),
}


@pytest.fixture(scope="module", params=PROFILES)
def loaded(request, tmp_path_factory):
    """A timeline, and its trace in the processor."""
    profile = PROFILES[request.param]()
    path = tmp_path_factory.mktemp("trace") / "profile.pftrace"
    write_perfetto(profile, path)
    with TraceProcessor() as processor:
        processor.load(path)
        yield build_timeline(profile), processor


def column(processor, sql):
    return processor.query(sql).column(0).to_pylist()


def test_the_processor_finds_no_error(loaded):
    assert loaded[1].error_stats() == {}


@pytest.mark.parametrize("name", ["id", "ts", "dur", "name", "category", "depth", "parent_id"])
def test_every_slice_arrives_with_its(name, loaded):
    timeline, processor = loaded
    assert column(processor, f"SELECT {name} FROM slice ORDER BY id") == timeline.slices.column(name).to_pylist()


def test_slices_are_on_the_threads_and_tracks_of_the_timeline(loaded):
    timeline, processor = loaded
    utids = dict(zip(*(timeline.tracks.column(key).to_pylist() for key in ("id", "utid")), strict=True))
    tracks = timeline.slices.column("track_id").to_pylist()
    joined = processor.query(
        "SELECT utid, track_id FROM slice JOIN thread_track ON track_id = thread_track.id ORDER BY slice.id"
    )
    assert joined.column("utid").to_pylist() == [utids[track] for track in tracks]
    pairs = set(zip(joined.column("track_id").to_pylist(), tracks, strict=True))
    assert len(pairs) == len({first for first, _ in pairs}) == len({second for _, second in pairs})


def test_threads_and_processes_keep_their_numbers_and_names(loaded):
    timeline, processor = loaded
    theirs = processor.query(
        "SELECT utid, tid, upid, name FROM thread WHERE name != 'swapper' ORDER BY utid"
    ).to_pylist()
    assert theirs == timeline.threads.drop_columns("kind").to_pylist()
    theirs = processor.query("SELECT upid, pid, name FROM process WHERE upid > 0 ORDER BY upid").to_pylist()
    assert theirs == timeline.processes.to_pylist()


def test_counters_arrive_sample_by_sample(loaded):
    timeline, processor = loaded
    theirs = processor.query(
        "SELECT upid, t.name, ts, value FROM counter JOIN process_counter_track t ON track_id = t.id"
    )
    tracks = timeline.tracks.to_pylist()
    ours = [
        (tracks[row["track_id"]]["upid"], tracks[row["track_id"]]["name"], row["ts"], row["value"])
        for row in timeline.counters.to_pylist()
    ]
    assert sorted(tuple(row.values()) for row in theirs.to_pylist()) == sorted(ours)


def test_arguments_arrive_exactly_and_without_nulls(loaded):
    timeline, processor = loaded
    theirs = processor.query(
        "SELECT slice.id AS id, key, coalesce(int_value, string_value) AS value, real_value"
        " FROM slice JOIN args USING (arg_set_id)"
    )
    found = {(row["id"], row["key"]): row["real_value"] or str(row["value"]) for row in theirs.to_pylist()}
    expected = {}
    for table in timeline.arguments().values():
        for row in table.to_pylist():
            for key, value in row.items():
                if key != "slice_id" and value is not None:
                    value = int(value) if isinstance(value, bool) else value
                    expected[row["slice_id"], f"debug.{key}"] = value if isinstance(value, float) else str(value)
    assert found == expected


def test_dependencies_arrive_as_flows(loaded):
    timeline, processor = loaded
    theirs = processor.query("SELECT slice_out, slice_in FROM flow ORDER BY slice_in, slice_out").to_pylist()
    assert timeline.flows.num_rows > 100
    assert theirs == timeline.flows.to_pylist()


def test_the_process_says_what_ran_and_whether_it_was_measured(loaded):
    timeline, processor = loaded
    origin = "simulated" if timeline.profile.is_simulation else "measured"
    names = column(processor, "SELECT name FROM process WHERE name LIKE 'trn1%'")
    assert names
    assert all(name.startswith(f"trn1.2xlarge ({origin})") for name in names)


def test_the_same_profile_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_perfetto(synthetic_profile(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_trace_without_events_loads(tmp_path):
    write_perfetto(make_profile({"Metadata": {"is_simulation": [False]}}, source="empty"), tmp_path / "empty.pftrace")
    with TraceProcessor() as processor:
        processor.load(tmp_path / "empty.pftrace")
        assert column(processor, "SELECT count(*) FROM slice") == [0]
        assert processor.error_stats() == {}


def test_a_folder_that_is_not_there_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_perfetto(synthetic_profile(8), tmp_path / "missing" / "x.pftrace")
    assert not list(tmp_path.iterdir())


def test_rows_that_cannot_be_drawn_are_counted():
    profile = make_profile(
        {
            "Instruction": {
                "start_ts": [None, 5, 10, 1 << 63 - 1],
                "end_ts": [3, 4, 12, 0],
                "duration_ns": [3, -1, None, 1],
                "engine": ["Tensor"] * 4,
                "opcode": ["A", "B", None, "D"],
            },
            "Flow": {"in_id": [1], "out_id": [2], "in_table": ["instruction"], "out_table": ["instruction"]},
        },
        source="odd",
    )
    timeline = build_timeline(profile)
    assert [(row["name"], row["ts"], row["dur"]) for row in timeline.slices.to_pylist()] == [
        ("B", 5, 0),
        ("unknown", 10, 2),
    ]
    assert [note.split(":")[0] for note in timeline.notes] == ["Instruction", "Instruction", "Flow"]
    assert timeline.flows.num_rows == 0


def test_aggregated_transfers_are_drawn_only_without_packets():
    rows = {"start_ts": [1], "end_ts": [2], "duration_ns": [1], "id": [7], "queue_name": ["q"], "queue_type": ["data"]}
    aggregated = make_profile({"DmaPacketAggregated": rows}, source="x")
    both = make_profile({"DmaPacketAggregated": rows, "DmaPacket": rows}, source="x")
    for profile, table in ((aggregated, "DmaPacketAggregated"), (both, "DmaPacket")):
        sources = build_timeline(profile).slices.column("source").to_pylist()
        assert [SLICES[source].table for source in sources] == [table]


def test_utilisation_is_the_share_of_a_window_in_which_matmuls_run():
    start = [0, 500, 4000]
    profile = make_profile(
        {
            "Instruction": {
                "start_ts": start,
                "end_ts": [250, 1000, 5000],
                "duration_ns": [250, 500, 1000],
                "engine": ["Tensor"] * 3,
                "opcode": ["MATMUL"] * 3,
            }
        },
        source="x",
    )
    timeline = build_timeline(profile)
    rows = timeline.counters.to_pylist()
    steps = np.array([(row["ts"], row["value"]) for row in rows])
    assert timeline.tracks.to_pylist()[-1]["name"] == "Tensor Utilization"
    area = float((np.diff(steps[:, 0]) * steps[:-1, 1]).sum())
    assert area == pytest.approx(250 + 500 + 1000)
    assert steps[-1, 1] == 0


@pytest.mark.parametrize("value", [0, 1, 127, 128, (1 << 32) - 1, 1 << 63, (1 << 64) - 1])
def test_varints_by_columns_equal_those_one_by_one(value):
    values = np.array([value, 5, value], np.uint64)
    assert encode([Varint(tag(3, 0), values)]) == b"".join(integer(3, int(item)) for item in values)


def test_texts_by_columns_equal_those_one_by_one():
    import pyarrow as pa

    values = ["", "a", "µ" * 100, "b"]
    expected = b"".join(tag(2, 2) + varint(len(item.encode())) + item.encode() for item in values[1:])
    assert encode([Text(tag(2, 2), pa.array(values).slice(1))]) == expected
