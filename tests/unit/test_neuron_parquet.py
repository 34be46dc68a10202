"""Reading folders of Parquet tables: names, types, units, versions, layouts, and files that promise too much."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from npuscope.errors import FormatError
from npuscope.formats.neuron_json import read_neuron_json
from npuscope.formats.neuron_parquet import inspect_neuron_parquet, read_neuron_parquet, read_profile_folder
from npuscope.formats.parquet_file import Limits, read_footer, read_parquet
from npuscope.profile.folder import write_profile
from tests.writers.neuron_json import document
from tests.writers.neuron_parquet import BIG_ID, schema_fields, vendor_tables, write_folder


@pytest.fixture
def folder(tmp_path):
    def written(tables=None, **kwargs):
        return write_folder(tmp_path / "profile", tables or vendor_tables(), **kwargs)

    return written


def replaced(table, name, values):
    return table.set_column(table.column_names.index(name), name, values)


def test_a_folder_of_the_known_schema_is_read_without_remarks(folder):
    profile = read_neuron_parquet(folder())
    assert profile.notes == ()
    assert profile.tables["Instruction"].column("id").to_pylist()[0] == BIG_ID
    assert profile.metadata["source_format"] == "neuron-parquet"
    assert profile.device == "trn1.2xlarge"
    assert profile.vendor_summary["tensor_engine_active_time_percent"] == 0.1
    assert profile.summary["tensor_engine_instruction_count"] == 2


def test_split_tables_are_joined_in_the_order_of_their_numbers(folder):
    profile = read_neuron_parquet(folder(vendor_tables(instructions=24), split={"Instruction": 12}))
    assert profile.numbers("Instruction", "start_ts").tolist() == [10 + 40 * n for n in range(24)]


def test_parts_of_a_split_table_may_lack_columns_and_differ_in_width(tmp_path):
    write_folder(tmp_path, {"Metadata": vendor_tables()["Metadata"]})
    pq.write_table(pa.table({"start_ts": pa.array([1], pa.int32()), "pc": [5]}), tmp_path / "Instruction_0.parquet")
    pq.write_table(pa.table({"start_ts": pa.array([2], pa.int64())}), tmp_path / "Instruction_1.parquet")
    table = read_neuron_parquet(tmp_path).tables["Instruction"]
    assert table.select(["start_ts", "pc"]).to_pylist() == [{"start_ts": 1, "pc": 5}, {"start_ts": 2, "pc": None}]


@pytest.mark.parametrize(
    "kind", [pa.int32(), pa.uint64(), pa.float64(), pa.timestamp("ns"), pa.duration("ns"), pa.string()], ids=str
)
def test_a_time_of_any_integral_type_is_the_same_time(folder, kind):
    made = vendor_tables()
    column = made["Instruction"].column("start_ts")
    other = column.cast(pa.int64()).cast(kind)
    made["Instruction"] = replaced(made["Instruction"], "start_ts", other)
    assert read_neuron_parquet(folder(made)).tables["Instruction"].column("start_ts").equals(column)


def test_dictionaries_and_long_texts_are_texts(folder):
    made = vendor_tables()
    table = made["Instruction"]
    table = replaced(table, "engine", table.column("engine").dictionary_encode())
    made["Instruction"] = replaced(table, "opcode", table.column("opcode").cast(pa.large_string()))
    read = read_neuron_parquet(folder(made)).tables["Instruction"]
    assert read.schema.field("engine").type == read.schema.field("opcode").type == pa.string()
    assert read.column("engine").to_pylist()[:2] == ["Tensor", "Vector"]


@pytest.mark.parametrize(
    ("unit", "factor"), [("microseconds", 1000), ("picoseconds", 0.001), ("seconds", 1_000_000_000)]
)
def test_a_declared_unit_that_differs_is_converted_and_noted(folder, unit, factor):
    made = vendor_tables()
    times = made["Instruction"].column("start_ts").to_numpy()
    made["Instruction"] = replaced(made["Instruction"], "start_ts", pa.array(times / factor))
    made["SchemaFields"] = schema_fields(made, {("Instruction", "start_ts"): unit})
    profile = read_neuron_parquet(folder(made))
    assert profile.numbers("Instruction", "start_ts").tolist() == times.tolist()
    assert any(unit in note for note in profile.notes)


def test_picoseconds_are_rounded_to_the_nearest_nanosecond(folder):
    made = vendor_tables(instructions=4)
    picoseconds = pa.array([499, 500, 1499, 2**61])
    made["Instruction"] = replaced(made["Instruction"], "start_ts", picoseconds)
    made["SchemaFields"] = schema_fields(made, {("Instruction", "start_ts"): "picoseconds"})
    read = read_neuron_parquet(folder(made)).numbers("Instruction", "start_ts").tolist()
    assert read == [0, 1, 1, (2**61 + 500) // 1000]


def test_an_unknown_unit_is_left_alone_and_noted(folder):
    made = vendor_tables()
    made["SchemaFields"] = schema_fields(made, {("Instruction", "start_ts"): "fortnights"})
    profile = read_neuron_parquet(folder(made))
    assert profile.numbers("Instruction", "start_ts")[0] == 10
    assert any("fortnights" in note for note in profile.notes)


def test_percentages_of_the_device_follow_the_evidence_of_the_summary(folder):
    made = vendor_tables()
    made["Summary"] = replaced(made["Summary"], "tensor_engine_active_time_percent", pa.array([10.0]))
    made["SbufUsage"] = replaced(made["SbufUsage"], "avg_util_percent", pa.array([25.0, 50.0]))
    profile = read_neuron_parquet(folder(made))
    assert profile.vendor_summary["tensor_engine_active_time_percent"] == pytest.approx(0.1)
    assert profile.numbers("SbufUsage", "avg_util_percent").tolist() == pytest.approx([0.25, 0.5])


def test_percentages_of_the_host_run_to_100_and_its_clock_is_shifted_to_0(folder):
    unix = 1_729_888_371_056_597_613
    made = vendor_tables()
    made["CpuUsage"] = pa.table({"timestamp": [unix + 5, unix], "util_percent": [0.5, 25.0], "cpu_id": ["0", "1"]})
    profile = read_neuron_parquet(folder(made))
    assert profile.numbers("CpuUsage", "util_percent").tolist() == pytest.approx([0.005, 0.25])
    assert profile.numbers("CpuUsage", "timestamp").tolist() == [5, 0]
    assert profile.metadata["start_unix_ns"] == unix


def test_a_newer_major_is_read_where_names_match_and_told_where_not(folder):
    made = vendor_tables(version="12.0.1")
    made["Instruction"] = made["Instruction"].append_column("brand_new", pa.array([1] * 10)).drop_columns(["pc"])
    made["Instruction"] = replaced(made["Instruction"], "bir_id", pa.array([{"a": 1}] * 10))
    made["HoloTable"] = pa.table({"x": [1, 2]})
    profile = read_neuron_parquet(folder(made))
    notes = "\n".join(profile.notes)
    assert profile.rows("Instruction") == 10
    assert profile.rows("HoloTable") == 2
    for told in ("12.0.1", "HoloTable", "brand_new", "requires: pc", "bir_id_as_written"):
        assert told in notes


def test_any_subset_of_tables_will_do(tmp_path):
    made = vendor_tables()
    for name in ("Instruction", "DmaPacket", "Summary"):
        profile = read_neuron_parquet(write_folder(tmp_path / name, {name: made[name]}))
        assert profile.rows("VendorSummary" if name == "Summary" else name) == made[name].num_rows


def test_one_file_is_the_table_that_it_is_named_after(folder):
    profile = read_neuron_parquet(folder() / "DmaPacket.parquet")
    assert profile.rows("DmaPacket") == 8
    assert profile.rows("Instruction") == 0


def test_the_one_profile_below_a_folder_is_found_through_links(tmp_path):
    place = tmp_path / "data" / "profiles" / "global"
    write_folder(place / "run@3", vendor_tables())
    (place / "run@latest").symlink_to("run@3")
    (place / "loop").symlink_to(tmp_path)
    assert read_neuron_parquet(tmp_path / "data").rows("Instruction") == 10


def test_several_profiles_below_a_folder_are_listed(tmp_path):
    for name in ("a@latest", "b@latest"):
        write_folder(tmp_path / "profiles" / "global" / name, vendor_tables())
    with pytest.raises(FormatError, match=r"2 profiles: profiles/global/a@latest, profiles/global/b@latest"):
        read_neuron_parquet(tmp_path)


def test_a_folder_that_npuscope_wrote_is_read_back_as_it_was(tmp_path):
    path = tmp_path / "p.json"
    made = document()
    made["new_table"] = [{"a": [1, 2], "b": None}]
    path.write_text(json.dumps(made))
    profile = read_neuron_json(path)
    write_profile(profile, tmp_path / "out")
    again = read_profile_folder(tmp_path / "out")
    assert again.notes == profile.notes != ()
    assert {name: table.schema for name, table in again.tables.items()} == {
        n: t.schema for n, t in profile.tables.items()
    }
    assert all(table.equals(profile.tables[name]) for name, table in again.tables.items())
    assert inspect_neuron_parquet(tmp_path / "out").kind == "profile"


def test_a_folder_of_another_writer_is_not_ours(folder):
    with pytest.raises(FormatError, match="npuscope wrote"):
        read_profile_folder(folder())


def test_inspection_counts_rows_from_the_footers(folder):
    told = inspect_neuron_parquet(folder(split={"Instruction": 2}))
    rows = {row["table"]: (row["rows"], row["files"]) for row in told.tables["Tables"]}
    assert rows["Instruction"] == (10, 2)
    assert rows["DmaPacket"] == (8, 1)


def test_a_billion_equal_values_are_refused_from_the_footer(tmp_path):
    path = tmp_path / "Instruction.parquet"
    pq.write_table(pa.table({"start_ts": np.zeros(40_000_000, np.int64)}), path, compression="zstd")
    assert path.stat().st_size < 256_000
    with pytest.raises(FormatError, match="40000000 rows"):
        read_parquet(path)


@pytest.mark.parametrize("nested", [False, True])
def test_a_long_text_repeated_by_its_dictionary_is_refused_before_it_is_written_out(tmp_path, nested):
    path = tmp_path / "Instruction.parquet"
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(100_000, np.int32)), pa.array(["x" * 1_000_000]))
    column = pa.ListArray.from_arrays(pa.array([0, 100_000]), texts) if nested else texts
    pq.write_table(pa.table({"operands": column}), path, compression="zstd")
    assert path.stat().st_size < 2000
    with pytest.raises(FormatError, match="100000000000 bytes"):
        read_parquet(path)


def test_limits_hold_for_columns_too(tmp_path):
    path = tmp_path / "wide.parquet"
    pq.write_table(pa.table({f"c{n}": [1] for n in range(20)}), path)
    with pytest.raises(FormatError, match="at most 10 columns"):
        read_footer(path, Limits(columns=10))


def test_a_text_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "Instruction.parquet"
    broken = pa.array([b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"opcode": broken}), path)
    with pytest.raises(FormatError):
        read_parquet(path)


def test_a_column_that_cannot_be_what_its_name_means_is_an_error(folder):
    made = vendor_tables()
    made["Instruction"] = replaced(made["Instruction"], "start_ts", pa.array(["soon"] * 10))
    with pytest.raises(FormatError, match=r"Instruction\.start_ts"):
        read_neuron_parquet(folder(made))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(20) + b"PAR1", b"not parquet at all", b"PAR1PAR1"])
def test_a_damaged_file_is_an_error_with_its_place(tmp_path, content):
    path = tmp_path / "Instruction.parquet"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"Instruction\.parquet"):
        read_neuron_parquet(tmp_path)


@pytest.mark.parametrize("content", ["{", '{"a": 1}', "[1]", '{"complete": true, "tables": [1], "notes": []}'])
def test_a_damaged_manifest_is_an_error(tmp_path, content):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(document()))
    write_profile(read_neuron_json(path), tmp_path / "out")
    (tmp_path / "out" / "profile.json").write_text(content)
    with pytest.raises(FormatError, match="manifest of a profile"):
        read_neuron_parquet(tmp_path / "out")


def test_a_folder_without_tables_is_an_error(tmp_path):
    (tmp_path / "results.parquet").write_bytes(b"PAR1")
    with pytest.raises(FormatError, match=r"Instruction\.parquet"):
        read_neuron_parquet(tmp_path)
