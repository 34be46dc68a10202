"""What a path is told to hold, and which capture belongs to which compiled graph."""

import gzip
import json
import os
from dataclasses import replace

import pytest

from npuscope._files import write_text_atomically
from npuscope.errors import FormatError, OutputError, UsageError
from npuscope.formats.artifact import identify, inspect_artifact, read_profile
from npuscope.formats.capture import pair, read_capture
from npuscope.formats.ingest import plan_ingest
from npuscope.formats.ntff import parse_ntff
from npuscope.profile.folder import write_profile
from tests.writers.neff import matmul_members, neff_bytes
from tests.writers.ntff import small_capture

UUID = bytes.fromhex("5ee240ec1e134d12b7b0ccdf8eff1e5e")
OTHER = bytes.fromhex("aabbccdd1e134d12b7b0ccdf8eff1e5e")


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def capture(path, uuid=UUID):
    made = small_capture()
    made.uuid = uuid
    return write(path, made.data())


def neff(path, uuid=UUID):
    return write(path, neff_bytes(matmul_members(), uuid=uuid))


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.json", '{"instruction": [], "summary": []}', "neuron-json"),
        ("a.json", '{"summary": [{"total_time": 1}], "instruction": []}', "neuron-json"),
        ("a.json", '{"summary": [{"total_time": 1}]}', "summary-json"),
        ("a.json", '{"node": {"total_time": 1}}', "summary-json"),
        ("a.json", '{"trace_events": []}', "system-profile"),
        ("a.json", '{"schemaVersion": 1, "traceEvents": []}', "chrome-trace"),
        ("a.json", '[{"ph": "X", "ts": 1}]', "chrome-trace"),
        ("a.json.gz", gzip.compress(b'{"traceEvents": []}', mtime=0), "chrome-trace"),
        ("a.json.gz", gzip.compress(b'{"instruction": []}', mtime=0), "neuron-json"),
        ("a.pftrace", b"\x0a\x02\x08\x00", "perfetto"),
        ("a.txt", "NODE ID|EXEC TIME (NS)\n1|2\n", "show-session"),
        ("a.log", "2026-01-01 INFO neuronx-cc: Compiler status PASS\n", "neuron-log"),
        ("a.bin", small_capture().data(), "ntff"),
        ("a.bin", neff_bytes(matmul_members()), "neff"),
        ("results/results.csv", "M,K,N,latency_ms\n", "results"),
    ],
)
def test_a_file_is_told_by_its_content(tmp_path, name, data, kind):
    path = write(tmp_path / name, data)
    assert identify(path.parent if kind == "results" else path).name == kind


@pytest.mark.parametrize("data", [b"", b"hello", b"\x00" * 200, b"PAR2", b"\x1f\x8bjunk"])
def test_what_no_reader_knows_is_one_error(tmp_path, data):
    with pytest.raises(FormatError, match=r"a\.bin"):
        read_profile(write(tmp_path / "a.bin", data))


def test_a_missing_path_a_pipe_and_an_empty_folder_are_errors(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    for name, found in (("nowhere", "nothing there"), ("pipe", "something else"), ("empty", "an empty folder")):
        with pytest.raises(FormatError, match=found):
            identify(tmp_path / name)


def test_an_artifact_without_a_profile_names_the_command_that_reads_it(tmp_path):
    with pytest.raises(UsageError, match="npuscope inspect"):
        read_profile(neff(tmp_path / "graph.neff"))
    write(tmp_path / "results" / "results.csv", "M\n")
    with pytest.raises(UsageError, match="npuscope tiling"):
        inspect_artifact(tmp_path / "results")


def test_a_folder_of_ours_reads_back_as_it_was_written(tmp_path):
    written = read_profile(capture(tmp_path / "a.ntff"))
    write_profile(written, tmp_path / "profile")
    found = read_profile(tmp_path / "profile")
    assert set(found.tables) == set(written.tables)
    for name, table in written.tables.items():
        assert found.tables[name].to_pylist() == table.to_pylist(), name
    assert found.notes == written.notes


def test_a_capture_takes_the_neff_with_its_uuid_and_not_the_first(tmp_path):
    path = capture(tmp_path / "a.ntff", UUID + b"\x07junk")
    neff(tmp_path / "a.neff", OTHER)
    right = neff(tmp_path / "z.neff")
    profile = read_profile(path)
    assert f"paired by UUID with {right}" in profile.notes
    assert profile.first("NeffHeader")["uuid"] == UUID.hex()
    assert set(profile.texts("TensorInfo", "type")) >= {"IN", "OUT"}


def test_tensor_sizes_of_the_neff_replace_the_guess(tmp_path):
    path = capture(tmp_path / "a.ntff")
    alone = read_capture(path, [])
    paired = read_capture(path, [neff(tmp_path / "b" / "a.neff")])
    assert "inputs_and_weights_size_bytes" in alone.summary
    sizes = paired.table("TensorInfo").to_pylist()
    expected = sum(row["size"] for row in sizes if row["type"] in {"IN", "WEIGHT"})
    assert paired.summary["inputs_and_weights_size_bytes"] == expected


@pytest.mark.parametrize(
    ("uuids", "verdict", "words"),
    [
        ([], "none", ""),
        ([OTHER], "mismatch", "of another graph than the capture: its UUID differs"),
        ([OTHER, OTHER], "mismatch", "none of 2 NEFFs"),
        ([UUID, OTHER], "match", ""),
        ([UUID, UUID], "match", "2 copies of one NEFF"),
        ([b"\x5e\x00" + UUID[2:]], "undecidable", "too few bytes"),
    ],
)
def test_verdicts_of_pairing(tmp_path, uuids, verdict, words):
    made = small_capture()
    made.uuid = UUID
    parsed = parse_ntff(made.data(), source="a.ntff")
    pairing = pair(parsed, [neff(tmp_path / f"{index}.neff", uuid) for index, uuid in enumerate(uuids)])
    assert pairing.verdict == verdict
    assert words in pairing.remark
    assert (pairing.neff is not None) == (verdict == "match")


def test_different_neffs_with_one_uuid_are_not_decided(tmp_path):
    made = small_capture()
    made.uuid = UUID
    graphs = [write(tmp_path / f"{n}.neff", neff_bytes(matmul_members(N=n), uuid=UUID)) for n in (128, 256)]
    pairing = pair(parse_ntff(made.data(), source="a.ntff"), graphs)
    assert (pairing.verdict, pairing.neff) == ("undecidable", None)
    assert "2 NEFFs have the capture's UUID" in pairing.remark


def test_the_only_neff_of_another_graph_is_kept_as_evidence(tmp_path):
    path = capture(tmp_path / "a.ntff")
    neff(tmp_path / "a.neff", OTHER)
    profile = read_profile(path)
    assert profile.first("NeffHeader")["uuid"] == OTHER.hex()
    assert profile.metadata["capture_uuid"].startswith(UUID.hex())
    assert profile.rows("TensorInfo") == 0


def test_ingest_looks_for_neffs_in_compile_caches_and_plain_folders(tmp_path):
    path = capture(tmp_path / "a" / "1.ntff")
    cached = neff(tmp_path / "cache" / "neuronxcc-2.22+abc" / "MODULE_1+d41d8cd9" / "model.neff")
    loose = neff(tmp_path / "loose" / "graph.neff")
    plan = plan_ingest([path, tmp_path / "cache", tmp_path / "loose"])
    assert [item.neffs for item in plan] == [(cached, loose)]
    assert plan[0].read().rows("TensorInfo")


def test_a_damaged_neff_beside_is_told_and_passed_over(tmp_path):
    path = capture(tmp_path / "a.ntff")
    write(tmp_path / "a.neff", b"damaged")
    neff(tmp_path / "b.neff")
    assert any("1 NEFFs could not be read" in note for note in read_profile(path).notes)


def test_a_folder_of_several_captures_asks_for_one(tmp_path):
    capture(tmp_path / "a.ntff")
    capture(tmp_path / "b.ntff")
    with pytest.raises(UsageError, match="2 captures"):
        read_profile(tmp_path)
    assert [row["capture"] for row in inspect_artifact(tmp_path).tables["Captures"]] == ["a.ntff", "b.ntff"]


def test_ingest_plans_captures_once_with_all_neffs_of_the_call(tmp_path):
    first, second = capture(tmp_path / "a" / "1.ntff"), capture(tmp_path / "a" / "2.ntff")
    graph = neff(tmp_path / "graph.neff")
    trace = write(tmp_path / "t.json", json.dumps({"traceEvents": []}))
    plan = plan_ingest([tmp_path / "a", first, graph, trace])
    assert [item.path for item in plan] == [first, second, trace]
    assert [item.neffs for item in plan] == [(graph,), (graph,), None]


def test_an_inspection_of_a_capture_counts_its_records(tmp_path):
    inspection = inspect_artifact(capture(tmp_path / "a.ntff"))
    records = {row["kind"]: row["records"] for row in inspection.tables["Trace blocks"]}
    assert records == {"instruction starts and ends": 22, "semaphores and events": 3, "DMA": 15, "throttling": 2}
    assert inspection.facts["instance_type"] == "inf2.xlarge"


def test_a_profile_whose_writer_was_stopped_is_refused(tmp_path):
    folder = tmp_path / "p"
    write_profile(read_profile(capture(tmp_path / "a.ntff")), folder)
    manifest = json.loads((folder / "profile.json").read_text())
    (folder / "profile.json").write_text(json.dumps({**manifest, "complete": False}))
    with pytest.raises(FormatError, match="stopped before its end"):
        read_profile(folder)
    (folder / "profile.json").write_text(json.dumps(manifest))
    (folder / "Instruction.parquet").unlink()
    with pytest.raises(FormatError, match=r"Instruction\.parquet"):
        read_profile(folder)


def test_a_writer_that_fails_leaves_a_folder_that_says_so(tmp_path, monkeypatch):
    folder = tmp_path / "p"
    profile = read_profile(capture(tmp_path / "a.ntff"))

    def full(table, file, **options):
        if table.num_rows == profile.rows("Summary"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("npuscope.profile.folder.pq.write_table", full)
    with pytest.raises(OutputError, match="No space left"):
        write_profile(profile, folder)
    monkeypatch.undo()
    with pytest.raises(FormatError, match="stopped before its end"):
        read_profile(folder)
    write_profile(profile, folder, overwrite=True)
    assert read_profile(folder).rows("Instruction") == 9


def test_overwriting_removes_our_tables_and_never_a_file_of_anyone_else(tmp_path):
    folder = tmp_path / "p"
    profile = read_profile(capture(tmp_path / "a.ntff"))
    write_profile(profile, folder)
    (folder / "mine.txt").write_text("keep")
    fewer = replace(profile, tables={name: table for name, table in profile.tables.items() if name != "Throttle"})
    write_profile(fewer, folder, overwrite=True)
    assert not (folder / "Throttle.parquet").exists()
    assert (folder / "mine.txt").read_text() == "keep"
    (folder / "precious.parquet").write_bytes(b"data")
    with pytest.raises(OutputError, match="precious"):
        write_profile(profile, folder, overwrite=True)
    assert (folder / "precious.parquet").read_bytes() == b"data"


def test_a_file_is_written_through_a_link_and_never_over_a_device(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text_atomically(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="no regular file"):
        write_text_atomically(tmp_path / "pipe", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe", "real"]
