"""One pattern's trace explained: time by track and never by an opcode's name, and nothing that the trace does not hold."""

import json
from pathlib import Path

import pytest

from npuscope.analysis.pattern_trace import BY_ENGINE, BY_TRACK, Latency, PatternTrace, explain_trace
from npuscope.errors import UsageError
from npuscope.formats.chrome_trace import read_chrome_trace
from npuscope.formats.perfetto_processor import TraceProcessor
from npuscope.formats.perfetto_writer import write_perfetto
from npuscope.profile.timeline import build_timeline
from npuscope.report.document import to_json
from npuscope.simulate.neuroncore.devices import load_device
from npuscope.simulate.neuroncore.machine import run_program
from npuscope.simulate.neuroncore.profile import run_profile
from tests.profiles import instruction, packet, small_profile
from tests.programs import Recorder
from tests.writers.profiles import synthetic_profile


def trace(profile=None, **more):
    given = {
        "pattern": "vmap",
        "size": "small",
        "iterations": 3,
        "device": "trn1.2xlarge",
        "is_simulated": False,
        "work": "w",
    }
    return PatternTrace(**{**given, **more}, profile=profile)


def captured(*, tracks=True):
    rows = [
        instruction("Tensor", "LDWEIGHTS", 0, 100, timeline_track="Tensor"),
        instruction("Tensor", "MATMUL", 100, 400, timeline_track="TensorMatrix"),
        instruction("Tensor", "MATMUL", 300, 400, timeline_track="TensorMatrix"),
        instruction("Vector", "TENSOR_TENSOR", 500, 300, timeline_track="Vector"),
        instruction("Vector", "TENSOR_REDUCE", 800, 50, timeline_track="Vector"),
        instruction("Vector", "EVENT_SEMAPHORE", 0, 500, timeline_track="Vector"),
        instruction("Scalar", "", 900, 20, timeline_track="Scalar"),
        instruction("GpSimd", "WRITE", 0, 10, timeline_track="GpSimd"),
        instruction("GpSimd", "DMA_DIRECT2D", 10, 1, timeline_track="GpSimd"),
        instruction("Scalar", "COPY", 930, 5, timeline_track="Scalar"),
    ]
    if not tracks:
        rows = [{**row, "timeline_track": None} for row in rows]
    return small_profile(rows, [packet(0, 300), packet(100, 300)])


def simulated(count=3):
    record = Recorder()
    for _ in range(count):
        tile, out = record.sbuf(), record.psum()
        record.dma(tile, record.hbm())
        record.matmul(out, tile, tile)
        record.add(tile, tile, tile)
    return run_profile([run_program(record.build(), load_device("trn2"))], kernel="k")


def test_tensor_tensor_and_tensor_reduce_are_the_vector_engines():
    found = explain_trace(trace(captured()))
    assert (found.tensor_matrix_count, found.tensor_matrix_ns, found.tensor_matrix_basis) == (2, 600, BY_TRACK)
    place = {use.name: use.track for use in found.operations}
    assert place["TENSOR_TENSOR"] == place["TENSOR_REDUCE"] == "Vector"
    assert place["MATMUL"] == "TensorMatrix"


def test_time_of_an_operation_is_its_sum_and_of_a_track_its_union():
    found = explain_trace(trace(captured()))
    assert {(use.name, use.time_ns) for use in found.operations if use.track == "TensorMatrix"} == {("MATMUL", 800)}
    assert {track.name: track.active_ns for track in found.tracks}["TensorMatrix"] == 600


def test_waits_are_no_work_of_an_engine():
    found = explain_trace(trace(captured()))
    # Tensor 100, Vector 300 + 50 without its semaphore, Scalar 20 + 5, GpSimd 10 + 1
    assert found.other_ns == 486
    assert found.other_count == 8
    assert found.tensor_matrix_share == pytest.approx(600 / 1086)


def test_counts_by_name():
    found = explain_trace(trace(captured()))
    counts = (found.write_count, found.copy_count, found.semaphore_count, found.dma_count, found.dma_packets)
    assert counts == (1, 1, 1, 1, 2)
    assert found.unknown_operations == 1


def test_total_slices_are_what_the_timeline_shows():
    profile = synthetic_profile(150)
    found = explain_trace(trace(profile))
    assert found.total_slices == build_timeline(profile).slices.num_rows == sum(track.slices for track in found.tracks)
    assert found.total_slices == sum(use.count for use in found.operations)


@pytest.mark.parametrize("profile", [captured(), synthetic_profile(120, seed=3)], ids=["small", "synthetic"])
def test_slices_names_and_times_equal_those_of_the_trace_processor(profile, tmp_path: Path):
    pytest.importorskip("wasmtime")
    path = tmp_path / "x.pftrace"
    write_perfetto(profile, path)
    found = explain_trace(trace(profile))
    with TraceProcessor() as processor:
        processor.load(path)
        table = processor.query("SELECT name, count(*) AS n, sum(dur) AS d FROM slice GROUP BY name")
    rows = table.to_pylist()
    assert sum(row["n"] for row in rows) == found.total_slices
    assert len(rows) == found.unique_operations
    assert sum(row["n"] for row in rows if row["name"] == "unknown") == found.unknown_operations
    assert {row["name"]: row["d"] for row in rows} == {
        name: sum(use.time_ns for use in found.operations if use.name == name)
        for name in {u.name for u in found.operations}
    }


def test_without_tracks_the_matmuls_of_the_tensor_engine_count_and_it_is_said():
    found, tracked = explain_trace(trace(captured(tracks=False))), explain_trace(trace(captured()))
    assert (found.tensor_matrix_count, found.tensor_matrix_ns, found.tensor_matrix_basis) == (2, 800, BY_ENGINE)
    assert found.other_count == tracked.other_count


def test_an_npu_that_multiplies_nothing_has_spent_no_time_on_it():
    found = explain_trace(trace(small_profile([instruction("Vector", "TENSOR_TENSOR", 0, 10)])))
    assert (found.tensor_matrix_count, found.tensor_matrix_ns, found.tensor_matrix_share) == (0, 0.0, 0.0)


def test_a_cpu_has_no_tensor_matrix_and_the_time_of_a_slice_is_told_without_those_within_it(tmp_path: Path):
    common = {"ph": "X", "pid": 1, "tid": 1}
    events = [{**common, "name": "dot", "ts": 1, "dur": 4}, {**common, "name": "inner", "ts": 2, "dur": 1}]
    events.append({"ph": "M", "name": "thread_name", "pid": 1, "tid": 1, "args": {"name": "worker"}})
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"traceEvents": events}))
    found = explain_trace(trace(read_chrome_trace(path), device="jax:cpu"))
    assert (found.tensor_matrix_ns, found.tensor_matrix_share, found.dma_count) == (None, None, None)
    assert found.other_ns == 4_000
    told = [(use.track, use.name, use.time_ns, use.self_ns) for use in found.operations]
    assert told == [
        ("host process 1 / worker", "dot", 4_000, 3_000),
        ("host process 1 / worker", "inner", 1_000, 1_000),
    ]
    assert found.bound == "unknown"


def test_a_simulated_trace_keeps_picoseconds():
    profile = simulated()
    found = explain_trace(trace(profile, is_simulated=True, device="sim:trn2"))
    matmul = profile.equals("Instruction", "opcode", "MATMUL")
    summed = profile.numbers("Instruction", "duration_ps")[matmul].sum() / 1000
    assert next(use.time_ns for use in found.operations if use.name == "MATMUL") == pytest.approx(summed, abs=1e-9)
    assert found.tensor_matrix_count == 3
    assert found.method == "simulated"
    assert found.time_ns == pytest.approx(found.analysis.kernel_time.ns)


def test_the_time_is_the_hosts_where_it_was_measured_and_the_captures_where_not():
    assert explain_trace(trace(captured(), latency=Latency(5_000))).time_ns == 5_000
    alone = explain_trace(trace(captured()))
    assert (alone.method, alone.time_ns) == ("captured", alone.analysis.kernel_time.ns)


def test_a_profile_of_several_runs_has_no_time_of_one():
    found = explain_trace(trace(captured(), runs=5))
    assert found.time_ns is None
    assert any("5 runs" in note for note in found.notes)


def test_without_a_profile_nothing_is_told_but_the_time():
    found = explain_trace(trace(latency=Latency(7.0, 6.0, 8.0)))
    assert (found.time_ns, found.total_slices, found.tensor_matrix_ns, found.bound) == (7.0, None, None, "unknown")
    document = json.loads(to_json(found.document()))
    assert document["total_slices"] is None


def test_the_document_has_counts_operations_bound_and_findings():
    document = json.loads(to_json(explain_trace(trace(captured())).document()))
    assert {
        "total_slices",
        "unknown_operations",
        "operations",
        "tensor_matrix_ns",
        "engine_shares",
        "bound",
        "findings",
    } <= set(document)
    assert document["operations"][0].keys() == {"track", "kind", "name", "count", "time_ns", "self_ns"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"iterations": 0}, "at least 1"),
        ({"runs": 0}, "at least 1"),
        ({"latency": Latency(float("nan"))}, "no time"),
        ({"latency": Latency(-1.0)}, "no time"),
        ({"samples_ns": (1, 2), "sample_round": (0,)}, "a round for each"),
        ({"is_simulated": True, "profile": captured()}, "not simulated"),
    ],
)
def test_a_trace_that_contradicts_itself_is_refused(more, words):
    with pytest.raises(UsageError, match=words):
        trace(**more)
