"""The vendor's profile JSON of real captures: every row of every key, and the way through a folder of Parquet."""

import json

import pytest

from npuscope.formats.neuron_json import read_neuron_json
from npuscope.formats.neuron_parquet import read_neuron_parquet
from npuscope.profile.folder import write_profile
from npuscope.profile.tables import unknown_columns
from tests.conftest import samples_folder

TABLES = {
    "instruction": "Instruction",
    "dma_queues_info": "DmaQueuesInfo",
    "dma_throughput": "DmaUsage",
    "pending_dma": "PendingDma",
    "semaphore_update": "SemaphoreUpdate",
    "active_time": "ActiveTime",
    "ham": "Throttle",
    "nc_mem_usage": "HbmUsageSummaryByType",
    "neff_node": "TensorInfo",
    "layer_summary": "LayerSummary",
    "model_info": "SubgraphSummary",
    "warnings": "Warning",
    "neff_header": "NeffHeader",
    "summary": "VendorSummary",
    "metadata": "Metadata",
    "profile_info": "Metadata",
}
SEMAPHORE_BYTES = 4
ELSEWHERE = {"dma", "instruction_usage", "terminology", "summary_groups", "summary_group_order"}


def captures():
    folder = samples_folder()
    found = sorted((folder / "inf2-matmul").glob("*.json")) if folder else []
    return found or [None]


everywhere = pytest.mark.parametrize("path", captures(), ids=lambda path: path.stem if path else "no-captures")


@everywhere
def test_every_row_of_every_key_is_in_a_table(path, samples):
    made = json.loads(path.read_text())
    profile = read_neuron_json(path)
    assert set(made) == set(TABLES) | ELSEWHERE
    assert {key: profile.rows(table) for key, table in TABLES.items()} == {key: len(made[key]) for key in TABLES}
    assert profile.rows("HbmUsage") == len(made["dma_throughput"])
    assert profile.rows("DmaPacket") == sum(row["aggregated"] == "no" for row in made["dma"])
    assert profile.rows("DmaPacketAggregated") == sum(row["aggregated"] == "yes" for row in made["dma"])
    assert profile.rows("SbufUsage") == sum(row["type"] == "sb" for row in made["instruction_usage"])
    assert profile.rows("PsumUsage") == sum(row["type"] == "psum" for row in made["instruction_usage"])
    assert profile.rows("Flow") == sum(len(row.get("predecessors", ())) for row in made["instruction"])
    assert unknown_columns(profile) == {}
    assert profile.notes == ()


@everywhere
def test_events_hold_the_values_of_the_file(path, samples):
    made = json.loads(path.read_text())
    profile = read_neuron_json(path)
    ours = profile.tables["Instruction"].select(["id", "start_ts", "duration_ns", "engine", "opcode", "pc"]).to_pylist()
    theirs = [
        (row["id"], row["timestamp"], row["duration"], row["subgroup"], row["opcode"], row["pc"])
        for row in made["instruction"]
    ]
    assert sorted(tuple(row.values()) for row in ours) == sorted(theirs)
    ours = (
        profile.tables["DmaPacket"]
        .select(["id", "start_ts", "duration_ns", "transfer_bytes", "engine_idx"])
        .to_pylist()
    )
    theirs = [
        (row["id"], row["timestamp"], row["duration"], row["transfer_size"], int(row["dma_engine"]))
        for row in made["dma"]
        if row["aggregated"] == "no"
    ]
    assert sorted(tuple(row.values()) for row in ours) == sorted(theirs)


@everywhere
def test_the_vendors_summary_is_kept_to_the_last_digit(path, samples):
    made = json.loads(path.read_text())["summary"][0]
    kept = read_neuron_json(path).vendor_summary
    assert {key: kept[key] for key in made} == made


@everywhere
def test_an_aggregated_transfer_repeats_its_packets_but_for_semaphore_writes(path, samples):
    profile = read_neuron_json(path)
    start, end, size = (profile.numbers("DmaPacket", name) for name in ("start_ts", "end_ts", "transfer_bytes"))
    for row in profile.tables["DmaPacketAggregated"].to_pylist():
        mine = profile.numbers("DmaPacket", "packet_aggregation_id") == row["id"]
        assert int(size[mine & (size > SEMAPHORE_BYTES)].sum()) == row["transfer_bytes"] < int(size[mine].sum())
        assert int(start[mine].min()) == row["start_ts"]
        assert 0 <= int(end[mine].max()) - row["end_ts"] <= 1  # start and duration are rounded one by one
        assert row["trigger"] in profile.numbers("Instruction", "start_ts")


@everywhere
def test_a_folder_of_parquet_keeps_everything(path, samples, tmp_path):
    profile = read_neuron_json(path)
    write_profile(profile, tmp_path / "p")
    again = read_neuron_parquet(tmp_path / "p")
    assert set(again.tables) == set(profile.tables)
    assert again.notes == profile.notes
    for name, table in profile.tables.items():
        assert again.tables[name].equals(table), name
