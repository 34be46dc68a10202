"""Any bytes given as a vendor's profile end in a Profile or in one FormatError that names the file."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npuscope.errors import FormatError
from npuscope.formats.neuron_json import inspect_neuron_json, read_neuron_json
from npuscope.formats.neuron_parquet import inspect_neuron_parquet, read_neuron_parquet
from npuscope.formats.summary_json import read_show_session, read_summary_json
from npuscope.formats.system_profile import read_system_profile
from npuscope.profile.tables import Profile
from tests.writers.neuron_json import document
from tests.writers.neuron_parquet import vendor_tables

fuzz = settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
SESSION = """\
+---------+----------------+-----------+------+-------+----------+--------+--------+
| NODE ID | EXEC TIME (NS) | EXECUTOR  | NAME | TRACE |  CYCLES  | EVENTS | ERRORS |
+---------+----------------+-----------+------+-------+----------+--------+--------+
|       3 |             17 | ND 1 NC 2 | sg00 |   100 | 12345678 |     40 |      0 |
|         |                | ND 1 NC 3 | sg01 |   101 | 22345678 |     41 |      0 |
+---------+----------------+-----------+------+-------+----------+--------+--------+
"""
SYSTEM = {
    "trace_events": [
        {"name": "nrt_execute", "group": "nrt-nc-000", "timestamp": 1_700_000_000_000_000_000, "duration": 5, "id": 1}
    ],
    "mem_usage": [{"timestamp": 1_700_000_000_000_000_007, "usage": 1 << 33, "percent_usage": 9.5}],
    "cpu_util": [{"timestamp": 1_700_000_000_000_000_009, "cpu_id": "4", "util": 2.5}],
}
SUMMARY = {"node0": {"total_time": 0.5, "mfu_estimated_percent": 0.25}, "node1": {"total_time": 0.6}}
TEXTS = {
    read_neuron_json: json.dumps(document(6, 8)).encode(),
    inspect_neuron_json: json.dumps(document(6, 8)).encode(),
    read_system_profile: json.dumps(SYSTEM).encode(),
    read_summary_json: json.dumps(SUMMARY).encode(),
    read_show_session: SESSION.encode(),
}
READERS = pytest.mark.parametrize("reader", TEXTS, ids=lambda reader: reader.__name__)
odd = st.sampled_from(
    [None, True, -1, 2**63, 2**64, 10**30, -(2**63), 1.5, 1e308, "", "7", "nan", "é\n\x1b[31m", [], [[]], {}, {"a": {}}]
)


def attempt(reader, path: Path) -> None:
    try:
        made = reader(path)
    except FormatError as error:
        text = str(error)
        assert path.name in text and "\n" not in text  # noqa: PT018  the other outcome is as good
    else:
        if isinstance(made, Profile):
            for table in made.tables.values():
                table.to_pylist()


def mutated(data: bytes, changes, length) -> bytes:
    made = bytearray(data)
    for at, value in changes:
        made[at % len(made)] = value
    return bytes(made[: max(1, int(len(made) * length))])


@READERS
@given(
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.sampled_from([*b'"{}[],:0-9e\\n', 0, 255])), max_size=4),
    length=st.sampled_from([1.0, 1.0, 1.0, 0.9, 0.5, 0.1]),
)
@fuzz
def test_mutated_and_truncated_texts(reader, changes, length, tmp_path):
    path = tmp_path / "text.json"
    path.write_bytes(mutated(TEXTS[reader], changes, length))
    attempt(reader, path)


@READERS
@given(data=st.binary(max_size=60))
@fuzz
def test_random_bytes(reader, data, tmp_path):
    path = tmp_path / "text.json"
    for head in (b"", b'{"summary": [', b'{"instruction": [{'):
        path.write_bytes(head + data)
        attempt(reader, path)


@given(seed=st.integers(0, 2**32), value=odd, count=st.integers(1, 4))
@fuzz
def test_values_of_any_other_type(seed, value, count, tmp_path):
    """Values of a valid document are replaced, in any rows and keys."""
    made, chance = document(6, 8), random.Random(seed)
    for _ in range(count):
        rows = made[chance.choice(list(made))]
        row = chance.choice(rows)
        row[chance.choice(list(row))] = value
    path = tmp_path / "typed.json"
    path.write_text(json.dumps(made))
    attempt(read_neuron_json, path)


@given(
    rows=st.recursive(
        odd, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    )
)
@settings(fuzz, max_examples=25)
def test_any_value_under_any_key(rows, tmp_path):
    path = tmp_path / "any.json"
    for key in (*document(1, 1), "unknown", "", "../up"):
        path.write_text(json.dumps({"summary": [], key: rows}))
        attempt(read_neuron_json, path)
    path.write_text(json.dumps(rows))
    attempt(read_summary_json, path)


def test_a_thousand_keys_a_row_stay_within_bounds(tmp_path):
    rows = [{f"k{row}_{key}": 1 for key in range(40)} | {"timestamp": row} for row in range(300)]
    path = tmp_path / "wide.json"
    path.write_text(json.dumps({"summary": [], "instruction": rows}))
    profile = read_neuron_json(path)
    assert len(profile.tables["Instruction"].column_names) < 300
    assert any("left out" in note for note in profile.notes)


def _files(folder):
    made = vendor_tables(30)["Instruction"]
    made = made.append_column("l", pa.array([[1, 2], None, []] * 10)).append_column(
        "t", pa.array([["a"], ["b", "c"]] * 15)
    )
    for number, codec in enumerate(("snappy", "zstd", "none", "gzip")):
        path = folder / f"{codec}.parquet"
        pq.write_table(made, path, compression=codec, write_page_checksum=number % 2 == 0, use_dictionary=number != 2)
        yield path.read_bytes()


@pytest.fixture(scope="module")
def parquet_files(tmp_path_factory):
    return list(_files(tmp_path_factory.mktemp("valid")))


@given(seed=st.integers(0, 2**32))
@settings(fuzz, max_examples=400)
def test_mutated_and_truncated_parquet(parquet_files, seed, tmp_path):
    """Most changes hit the footer: its fields decide where pages lie and how long they are."""
    chance = random.Random(seed)
    data = bytearray(chance.choice(parquet_files))
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    if chance.random() < 0.15:
        data = data[: chance.randrange(len(data))]
    else:
        for _ in range(chance.choice((1, 1, 2, 6))):
            at = chance.randrange(footer if chance.random() < 0.6 else 0, len(data))
            data[at] = chance.choice((0, 255, 127, 128, data[at] ^ (1 << chance.randrange(8))))
    path = tmp_path / "Instruction.parquet"
    path.write_bytes(data)
    attempt(read_neuron_parquet, path)
    attempt(inspect_neuron_parquet, path)
