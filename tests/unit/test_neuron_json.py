"""Reading the vendor's profile JSON: where rows go, what drifts, what is refused."""

import json

import pytest

from npuscope.errors import FormatError
from npuscope.formats.neuron_json import inspect_neuron_json, read_neuron_json
from npuscope.profile.tables import unknown_columns
from tests.writers.neuron_json import BIG_ID, PACKETS_PER_TRANSFER, document, write_document


@pytest.fixture
def save(tmp_path):
    def saved(value):
        path = tmp_path / "profile.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return path

    return saved


def test_every_row_of_a_document_has_a_table_and_every_column_a_name(save):
    made = document(instructions=12, packets=16)
    profile = read_neuron_json(save(made))
    assert profile.rows("Instruction") == 12
    assert profile.rows("DmaPacket") == 16
    assert profile.rows("DmaPacketAggregated") == 16 // PACKETS_PER_TRANSFER
    assert profile.rows("SbufUsage") + profile.rows("PsumUsage") == len(made["instruction_usage"])
    assert profile.rows("DmaUsage") == profile.rows("HbmUsage") == len(made["dma_throughput"])
    assert unknown_columns(profile) == {}
    assert profile.notes == ()


def test_ids_of_63_bits_stay_exact(save):
    profile = read_neuron_json(save(document()))
    assert profile.tables["Instruction"].column("id").to_pylist() == [BIG_ID + 2 * n for n in range(12)]


def test_a_dependency_runs_from_the_end_of_the_first_to_the_start_of_the_second(save):
    flow = read_neuron_json(save(document())).tables["Flow"].to_pylist()[0]
    assert (flow["in_id"], flow["out_id"]) == (BIG_ID + 4, BIG_ID + 6)
    before, after = 10 + 40 * 2 + 22, 10 + 40 * 3
    assert flow["gap_time"] == after - before
    assert flow["dependency_type"] == "FLOW_DEPENDENCE"


def test_aggregated_transfers_are_not_counted_again(save):
    profile = read_neuron_json(save(document()))
    assert int(profile.numbers("DmaPacket", "transfer_bytes").sum()) == 16 * 2048
    assert profile.summary["software_dynamic_dma_size"] == 0
    assert profile.summary["static_dma_size"] == 16 * 2048


def test_throttle_types_have_their_names(save):
    assert read_neuron_json(save(document())).tables["Throttle"].column("type").to_pylist() == [
        "activity_0",
        "unknown",
        "type_4",
    ]


def test_the_vendors_summary_keeps_keys_that_nobody_knows(save):
    made = document()
    made["summary"][0]["brand_new_figure"] = 3.5
    assert read_neuron_json(save(made)).vendor_summary["brand_new_figure"] == 3.5


def test_numbers_written_as_text_or_float_are_the_same_numbers(save):
    plain, drifted = document(), document()
    for row in drifted["instruction"]:
        row["pc"], row["crc_in"] = str(row["pc"]), float(row["crc_in"])
    first, second = read_neuron_json(save(plain)), read_neuron_json(save(drifted))
    assert first.tables["Instruction"].equals(second.tables["Instruction"])


@pytest.mark.parametrize(("divisor", "unit"), [(1e-3, "picoseconds"), (1e3, "microseconds"), (1e9, "seconds")])
def test_event_times_in_another_unit_are_told_from_the_total_time(save, divisor, unit):
    made = document()
    for key in ("instruction", "dma"):
        for row in made[key]:
            row["timestamp"], row["duration"] = row["timestamp"] / divisor, row["duration"] / divisor
    profile = read_neuron_json(save(made))
    assert profile.numbers("Instruction", "start_ts").tolist() == [10 + 40 * n for n in range(12)]
    assert any(unit in note for note in profile.notes)


def test_percentages_up_to_100_become_fractions_by_the_evidence_of_the_times(save):
    made = document()
    for key in made["summary"][0]:
        if key.endswith("_percent"):
            made["summary"][0][key] *= 100
    fraction = document()["summary"][0]["tensor_engine_active_time_percent"]
    profile = read_neuron_json(save(made))
    assert profile.vendor_summary["tensor_engine_active_time_percent"] == pytest.approx(fraction)
    assert any("0 to 100" in note for note in profile.notes)


def test_a_summary_in_nanoseconds_is_told_from_the_cycle_count(save):
    made = document()
    seconds = made["summary"][0]["total_time"]
    made["summary"][0]["total_time"] = seconds * 1e9
    made["summary"][0]["tensor_engine_active_time"] *= 1e9
    profile = read_neuron_json(save(made))
    assert profile.vendor_summary["total_time"] == pytest.approx(seconds)
    assert any("nanoseconds" in note for note in profile.notes)


def test_unknown_keys_and_rows_are_kept_and_noted(save):
    made = document()
    made["instruction"][3]["surprise"] = 7
    made["new_table"] = [{"a": 1}, {"a": 2.5, "b": "x"}]
    made["../../evil"] = [{"a": 1}]
    profile = read_neuron_json(save(made))
    assert unknown_columns(profile)["Instruction"] == ["surprise"]
    assert profile.tables["new_table"].to_pylist() == [{"a": 1.0, "b": None}, {"a": 2.5, "b": "x"}]
    assert "______evil" in profile.tables
    assert sum("unknown to this version" in note for note in profile.notes) == 2


def test_a_profile_without_optional_arrays_is_a_profile(save):
    profile = read_neuron_json(save({"summary": document()["summary"]}))
    assert profile.rows("Instruction") == 0
    assert "key instruction is missing" in profile.notes


def test_another_data_version_is_read_with_a_note(save):
    made = document()
    made["metadata"][0]["data_version"] = 9
    assert any("data_version 9" in note for note in read_neuron_json(save(made)).notes)


@pytest.mark.parametrize(
    ("key", "row", "field", "value", "place"),
    [
        ("instruction", 7, "pc", "many", "key instruction[7].pc"),
        ("instruction", 5, "id", 2**63, "key instruction[5].id"),
        ("instruction", 3, "predecessors", "none", "key instruction[3].predecessors"),
        ("dma", 9, "transfer_size", {}, "key dma[9].transfer_size"),
        ("dma", 8, "is_cc_dma", "perhaps", "key dma[8].is_cc_dma"),
        ("ham", 1, "k", 1.5, "key ham[1].k"),
        ("summary", 0, "total_time", "long", "key summary[0].total_time"),
        ("metadata", 0, "pe_num_rows", [1, 2], "key metadata[0].tensor_engine_num_rows"),
    ],
)
def test_a_wrong_type_is_an_error_with_key_and_row(save, key, row, field, value, place):
    made = document()
    made[key][row][field] = value
    with pytest.raises(FormatError) as caught:
        read_neuron_json(save(made))
    assert place in str(caught.value)


def test_an_event_without_a_time_is_an_error(save):
    made = document()
    del made["instruction"][2]["timestamp"]
    with pytest.raises(FormatError, match="timestamp in every row"):
        read_neuron_json(save(made))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"traceEvents": []}', "Chrome trace"),
        ('{"trace_events": []}', "system profile"),
        ("[1, 2]", "an array of int"),
        ('{"a": {"total_time": 1}}', "keys a"),
        ("{}", "no keys"),
        ('{"instruction": 5}', "array of rows"),
        ('{"instruction": [5]}', "instruction"),
        ('{"summary": [{"total_time": NaN}]}', "JSON"),
        ('{"instruction": [], "dma": [], "instruction": []}', "the key again"),
    ],
)
def test_what_is_no_profile_is_refused_with_what_it_looks_like(save, text, told):
    with pytest.raises(FormatError, match=told):
        read_neuron_json(save(text))


def test_blocks_do_not_show(tmp_path, monkeypatch):
    path = tmp_path / "big.json"
    write_document(path, 3000, 3000)
    whole = read_neuron_json(path)
    monkeypatch.setattr("npuscope.formats.neuron_json.BLOCK_BYTES", 20_000)
    parts = read_neuron_json(path)
    for name, table in whole.tables.items():
        assert table.equals(parts.tables[name]), name


def test_inspection_counts_the_rows_of_every_key(save):
    made = document()
    told = inspect_neuron_json(save(made))
    assert {row["key"]: row["rows"] for row in told.tables["Keys"]} == {key: len(rows) for key, rows in made.items()}
    assert told.facts["data_version"] == 8
