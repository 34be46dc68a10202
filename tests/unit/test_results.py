"""results.csv, results.parquet and the JSON document."""

import csv
import io
import json
import math
from dataclasses import dataclass

import pytest

from npuscope._files import write_text_atomically
from npuscope.errors import FormatError, OutputError
from npuscope.formats.results import (
    CSV_COLUMNS,
    ResultRow,
    csv_text,
    read_parquet,
    write_parquet,
)
from npuscope.report.document import to_json
from tests.unit.test_boundary import row

SEED_COLUMNS = ("M", "K", "N", "latency_ms", "num_tiles_M", "num_tiles_K", "num_tiles_N", "total_tiles")


def failed():
    return ResultRow(1, 2, 3, None, 1, 1, 1, 1, "cpu", False, "failed", "int8", error="no, really")


def test_the_csv_begins_with_the_public_tools_columns():
    assert CSV_COLUMNS[:8] == SEED_COLUMNS


def test_the_csv_reads_back_as_it_was():
    read = list(csv.DictReader(io.StringIO(csv_text([row(128, 1.0), failed()]))))
    assert float(read[0]["latency_ms"]) == row(128, 1.0).latency_ms
    assert read[1]["latency_ms"] == ""
    assert read[1]["error"] == "no, really"
    assert "samples_ns" not in read[0]


def test_no_text_becomes_a_spreadsheet_formula():
    read = next(csv.DictReader(io.StringIO(csv_text([row(1, 1.0, name="=cmd()")]))))
    assert read["name"] == "'=cmd()"


def test_parquet_keeps_every_sample(tmp_path):
    rows = [row(128, 1.0), failed()]
    write_parquet(tmp_path / "r.parquet", rows)
    assert read_parquet(tmp_path / "r.parquet") == rows


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "r.parquet").write_bytes(b"PAR1 but not really PAR1")
    with pytest.raises(FormatError):
        read_parquet(tmp_path / "r.parquet")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text_atomically(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("npuscope._files.os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_text_atomically(path, "new")
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]


def test_a_missing_folder_is_one_clear_error(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_text_atomically(tmp_path / "nowhere" / "a.txt", "x")


def test_numbers_that_json_does_not_know_become_null():
    @dataclass
    class Value:
        number: float

    assert json.loads(to_json([Value(math.inf), Value(math.nan), Value(1.5)])) == [
        {"number": None},
        {"number": None},
        {"number": 1.5},
    ]
