"""`npuscope matmul --predict`: predictions beside measurements, or alone."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from npuscope.cli import main
from npuscope.simulate.neuroncore.closed_form import CLOSED_FORM

Call = Callable[..., subprocess.CompletedProcess[str]]
QUICK = ("--device", "cpu", "--iterations", "5", "--warmup", "1")
TIME = "predicted_trn2_device_time_ms"


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def predicted(call_cli: Call, tmp_path: Path) -> Path:
    """A folder of predictions alone."""
    assert call_cli("matmul", "--device", "none", "--predict", "trn2", "--out", "predicted").returncode == 0
    return tmp_path / "predicted"


def test_csv_parquet_and_json_hold_the_same_predictions(call_cli: Call, tmp_path: Path) -> None:
    result = call_cli("matmul", *QUICK, "--predict", "trn2", "--predict", "inf2", "--out", "out", "--json")
    assert result.returncode == 0
    document = json.loads(result.stdout)
    times = [row[TIME] for row in document["rows"]]
    assert all(time > 0 for time in times)
    assert [float(row[TIME]) for row in rows_of(tmp_path / "out")] == times
    table = pq.read_table(tmp_path / "out" / "results.parquet")
    assert table[TIME].to_pylist() == times
    assert set(table["predicted_inf2_model"].to_pylist()) == {CLOSED_FORM}
    assert all(row["latency_ms"] > 0 for row in document["rows"])
    assert any(CLOSED_FORM in note for note in document["notes"])


def test_headings_say_predicted_and_name_the_model(call_cli: Call) -> None:
    text = call_cli("matmul", *QUICK, "--shape", "64x64x64", "--predict", "trn2", "--out", "out").stdout
    assert "predicted trn2 device time" in text
    assert f"model: {CLOSED_FORM} (trn2)" in text
    assert "measured latency is wall clock" in text


def test_device_none_measures_nothing_and_says_so(call_cli: Call, tmp_path: Path) -> None:
    result = call_cli("matmul", "--device", "none", "--predict", "trn2", "--out", "out")
    assert result.returncode == 0
    assert "matmul on none (nothing is measured)" in result.stdout
    assert "latency  " not in result.stdout
    rows = rows_of(tmp_path / "out")
    assert {(row["status"], row["device"], row["latency_ms"]) for row in rows} == {("not-measured", "none", "")}
    assert json.loads((tmp_path / "out" / "run.json").read_text())["rows"] == {"planned": 4, "measured": 0, "failed": 0}


def test_a_folder_with_predictions_is_read_by_tiling_compare_and_resume(call_cli: Call, tmp_path: Path) -> None:
    assert call_cli("matmul", *QUICK, "--predict", "trn2", "--out", "one").returncode == 0
    before = rows_of(tmp_path / "one")
    assert call_cli("tiling", "one").returncode == 0
    assert call_cli("compare", "one", "one").returncode == 0
    resumed = call_cli("matmul", "--resume", "one", "--json")
    assert resumed.returncode == 0
    assert [str(row[TIME]) for row in json.loads(resumed.stdout)["rows"]] == [row[TIME] for row in before]
    assert rows_of(tmp_path / "one") == before


def test_an_interrupted_folder_keeps_its_predictions(call_cli: Call, tmp_path: Path) -> None:
    assert call_cli("matmul", *QUICK, "--predict", "trn2", "--out", "out").returncode == 0
    before = [row[TIME] for row in rows_of(tmp_path / "out")]
    path = tmp_path / "out" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "interrupted"}))
    assert call_cli("matmul", "--resume", "out").returncode == 0  # no journal: all is measured again
    assert [row[TIME] for row in rows_of(tmp_path / "out")] == before


def test_predictions_alone_are_no_latencies_unless_they_are_named(
    predicted: Path, call_cli: Call, assert_one_line_error: Callable[..., str]
) -> None:
    assert_one_line_error(call_cli("tiling", predicted), 3, "predictions alone", "--device DEVICE")
    named = call_cli("tiling", predicted, "--columns", f"latency_ms={TIME}")
    assert named.returncode == 0
    assert "predicted device times, not measured latencies" in named.stdout
    assert call_cli("matmul", "--resume", predicted).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("--device", "none"), ("--predict trn2",)),
        (("--device", "none", "--predict", "trn22"), ("trn22", "sim:trn2")),
        (("--device", "cpu", "--predict", "cpu"), ("cpu",)),
        (("--device", "none", "--predict", "trn2", "--dtype", "int8"), ("int8",)),
        (("--plan", "--predict", "trn2"), ("--device none --predict",)),
        (("--device", "none", "--predict", "trn2", "--compile-cache", "x"), ("--compile-cache",)),
    ],
)
def test_wrong_use_is_one_line(
    arguments: tuple[str, ...], texts: tuple[str, ...], call_cli: Call, assert_one_line_error: Callable[..., str]
) -> None:
    assert_one_line_error(call_cli("matmul", *arguments), 2, *texts)


@pytest.mark.parametrize("damage", [{"predicted_x": [1.0]}, {"predicted_x": "ab"}, {"x": [1.0] * 4}, ["a"]])
def test_damaged_predictions_in_run_json_are_one_line(
    damage: object, predicted: Path, call_cli: Call, assert_one_line_error: Callable[..., str]
) -> None:
    path = predicted / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"predicted": damage}))
    assert_one_line_error(call_cli("matmul", "--resume", predicted), 3, "run.json", "predicted")


def test_what_was_only_predicted_counts_as_simulated_everywhere(call_cli: Call, tmp_path: Path) -> None:
    result = call_cli("matmul", "--device", "none", "--predict", "trn2", "--out", "out", "--json")
    document = json.loads(result.stdout)
    assert document["device"]["is_simulated"] is True
    assert {row["is_simulated"] for row in document["rows"]} == {True}
    assert json.loads((tmp_path / "out" / "run.json").read_text())["device"]["is_simulated"] is True
    assert {row["is_simulated"].lower() for row in rows_of(tmp_path / "out")} == {"true"}


def test_on_a_terminal_the_workloads_are_counted_once_and_notes_break_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    assert main(["matmul", "--device", "none", "--predict", "trn2", "--out", str(tmp_path / "out")]) == 0

    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("suite quick: 4 workloads") == 1
    notes = shown.out[shown.out.index("note: ") : shown.out.index("docs/validation.md")]
    assert max(map(len, notes.splitlines())) < 80
    assert "measured latency is wall clock" in " ".join(notes.split())
