"""What the commands promise to scripts: files, columns, JSON and exit codes."""

import csv
import json
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from npuscope import __version__
from npuscope.formats.results import read_parquet
from npuscope.hardware.host import available_memory_bytes
from npuscope.workloads.suites import SUITES
from tests.cli.conftest import QUICK, command, is_share, strict_json

PUBLIC_COLUMNS = ["M", "K", "N", "latency_ms", "num_tiles_M", "num_tiles_K", "num_tiles_N", "total_tiles"]
RESULT_FILES = {"results.csv", "results.parquet", "run.json"}


def csv_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# matmul: the files of a sweep


def test_a_sweep_writes_three_files_and_leaves_no_journal(measured):
    assert {path.name for path in measured.iterdir()} == RESULT_FILES
    run = strict_json((measured / "run.json").read_text(encoding="utf-8"))
    assert run["status"] == "complete"
    assert run["rows"] == {"planned": 2, "measured": 2, "failed": 0}
    assert run["device"]["name"] == "cpu"


def test_the_csv_begins_with_the_public_profilers_columns(measured):
    header = (measured / "results.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.split(",")[:8] == PUBLIC_COLUMNS


def test_tiles_are_counted_as_the_tensor_engine_cuts_them(measured):
    tiles = [[row[name] for name in PUBLIC_COLUMNS[4:]] for row in csv_rows(measured)]
    assert tiles == [["1", "1", "2", "2"], ["2", "1", "1", "2"]]


def test_csv_and_parquet_hold_the_same_rows_and_parquet_every_sample(measured):
    rows = read_parquet(measured / "results.parquet")
    for row, cells in zip(rows, csv_rows(measured), strict=True):
        assert float(cells["latency_ms"]) == row.latency_ms
        assert float(cells["dispatch_floor_ms"]) == row.dispatch_floor_ms
        assert cells["device"] == row.device == "cpu"
        assert len(row.samples_ns) == row.samples == 5
        assert np.median(row.samples_ns) / 1e6 == pytest.approx(row.latency_ms)
        assert np.median(row.floor_samples_ns) / 1e6 == pytest.approx(row.dispatch_floor_ms)


def test_run_json_tells_who_measured_what_and_with_which_arguments(measured):
    run = strict_json((measured / "run.json").read_text(encoding="utf-8"))
    (session,) = run["sessions"]
    assert session["npuscope"] == __version__
    assert session["packages"]["numpy"] == np.__version__
    assert session["argv"][1:3] == ["matmul", "--shape"]
    assert session["environment"]["OPENBLAS_NUM_THREADS"] == "1"
    assert run["settings"]["iterations"] == 5


def test_every_dtype_of_cpu_is_measured_and_checked_against_a_reference(run_cli):
    types = ("float32", "float16", "bfloat16", "int8")
    options = [part for name in types for part in ("--dtype", name)]
    answer = run_cli("matmul", "--shape", "33x17x65", *options, *QUICK, "--out", "run", "--json")
    assert answer.returncode == 0, answer.stderr
    rows = strict_json(answer.stdout)["rows"]
    assert [row["dtype"] for row in rows] == list(types)
    for row in rows:
        assert row["error_over_mass"] <= row["tolerance_over_mass"]
        assert row["check_method"]


def test_a_sweep_in_json_is_one_document_and_silence_on_standard_error(run_cli, tmp_path):
    answer = run_cli(
        "matmul", "--shape", "64x32x16", "--shape", "8x8x8", "--dtype", "fp32,bf16", *QUICK, "--out", "run", "--json"
    )
    assert answer.returncode == 0
    assert answer.stderr == ""
    document = strict_json(answer.stdout)
    assert document["folder"] == "run"
    assert document["device"]["name"] == "cpu"
    seen = [(row["M"], row["dtype"], row["status"]) for row in document["rows"]]
    assert seen == [(64, "float32", "ok"), (64, "bfloat16", "ok"), (8, "float32", "ok"), (8, "bfloat16", "ok")]
    written = csv_rows(tmp_path / "run")
    assert [row["latency_ms"] for row in document["rows"]] == [float(cells["latency_ms"]) for cells in written]
    assert all(is_share(row["dispatch_share"]) for row in document["rows"])


def test_the_table_names_device_floor_tile_model_and_files(run_cli):
    answer = run_cli("matmul", "--shape", "16x16x16", *QUICK, "--out", "run")
    assert answer.returncode == 0
    lines = answer.stdout.splitlines()
    for start in ("matmul on cpu (measured): ", "dispatch floor: ", "tiles: tensor-engine 128x128x512 "):
        assert sum(line.startswith(start) for line in lines) == 1, start
    assert lines[-1].startswith("results: run/results.csv")


def test_equal_shapes_are_measured_once(run_cli):
    answer = run_cli("matmul", "--shape", "8x8x8", "--shape", "8X8×8", *QUICK, "--out", "run", "--json")
    document = strict_json(answer.stdout)
    assert document["removed_duplicates"] == 1
    assert len(document["rows"]) == 1


def test_another_tile_model_counts_other_tiles(call_cli):
    answer = call_cli("matmul", "--shape", "128x512x256", "--tile", "legacy", "--plan", "--json")
    (row,) = strict_json(answer.stdout)["rows"]
    assert [row[name] for name in PUBLIC_COLUMNS[4:]] == [1, 1, 2, 2]
    answer = call_cli("matmul", "--shape", "128x512x256", "--tile", "64x100x256", "--plan", "--json")
    (row,) = strict_json(answer.stdout)["rows"]
    assert [row[name] for name in PUBLIC_COLUMNS[4:]] == [2, 6, 1, 12]


def test_a_chart_is_asked_for_and_written_beside_the_results(run_cli, tmp_path):
    answer = run_cli("matmul", "--shape", "8x8x8", "--shape", "16x8x8", *QUICK, "--out", "run", "--chart")
    assert answer.returncode == 0, answer.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()} == RESULT_FILES | {"chart.html", "chart.svg"}


def test_names_from_a_shapes_file_do_not_become_spreadsheet_formulas(run_cli, tmp_path):
    (tmp_path / "shapes.csv").write_text("M,K,N,name\n8,8,8,=1+1\n", encoding="utf-8")
    answer = run_cli("matmul", "--shapes", "shapes.csv", *QUICK, "--out", "run")
    assert answer.returncode == 0
    assert [row["name"] for row in csv_rows(tmp_path / "run")] == ["'=1+1"]


def test_without_out_results_go_to_a_dated_folder(run_cli, tmp_path):
    answer = run_cli("matmul", "--shape", "8x8x8", *QUICK, "--json")
    folder = Path(strict_json(answer.stdout)["folder"])
    assert folder.parent == Path("results")
    assert folder.name.endswith("-matmul")
    assert {path.name for path in (tmp_path / folder).iterdir()} == RESULT_FILES


# matmul: a failing row


def test_a_shape_beyond_memory_is_a_failed_row_and_the_sweep_goes_on(run_cli, tmp_path):
    shapes = ("--shape", "8x8x8", "--shape", "1000000x1000000x1000", "--shape", "16x16x16")
    answer = run_cli("matmul", *shapes, *QUICK, "--out", "run", "--json")
    assert answer.returncode == 1
    rows = strict_json(answer.stdout)["rows"]
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert rows[1]["latency_ms"] is None
    needed = 2 * 4 * (10**12 + 2 * 10**9)
    assert f"{needed + (256 << 20)} bytes" in rows[1]["error"]
    assert "are available" in rows[1]["error"]
    assert [cells["latency_ms"] == "" for cells in csv_rows(tmp_path / "run")] == [False, True, False]
    run = strict_json((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert run["status"] == "complete"
    assert run["rows"] == {"planned": 3, "measured": 2, "failed": 1}


def test_a_shape_beyond_memory_is_refused_before_anything_is_allocated(weigh_cli):
    cost = weigh_cli("matmul", "--shape", "300000x300000x300000", *QUICK, "--out", "run", "--json")
    assert cost.code == 1
    assert cost.seconds < 10
    assert cost.peak_bytes < 500e6


@pytest.mark.skipif(available_memory_bytes() < 5 << 30, reason="the shape would be refused beforehand")
def test_a_shape_that_runs_out_of_memory_after_all_is_a_failed_row_and_the_sweep_goes_on(run_cli):
    shapes = ("--shape", "8x8x8", "--shape", "22000x22000x1", "--shape", "16x16x16")
    answer = run_cli("matmul", *shapes, *QUICK, "--out", "run", "--json", largest_memory=1_600_000_000)
    assert answer.returncode == 1, answer.stderr
    rows = strict_json(answer.stdout)["rows"]
    assert [row["status"] for row in rows] == ["ok", "failed", "ok"]
    assert rows[1]["error"].startswith("MemoryError")


def test_a_failed_row_is_told_in_one_line_on_standard_error(run_cli):
    answer = run_cli("matmul", "--shape", "1000000x1000000x1000", *QUICK, "--out", "run")
    assert answer.returncode == 1
    (line,) = [line for line in answer.stderr.splitlines() if line.startswith("npuscope:")]
    assert line.startswith("npuscope: failed: 1000000x1000000x1000 float32: ")
    assert "choose a smaller shape" in line


# matmul: plans


@pytest.mark.parametrize("suite", SUITES)
def test_a_plan_lists_a_whole_suite_and_measures_nothing(suite, call_cli, tmp_path):
    answer = call_cli("matmul", "--suite", suite, "--plan", "--json")
    assert answer.returncode == 0
    document = strict_json(answer.stdout)
    listed = SUITES[suite]()
    assert len(document["rows"]) + document["removed_duplicates"] == len(listed)
    assert [document["rows"][0][axis] for axis in "MKN"] == list(listed[0])
    assert not list(tmp_path.iterdir())


def test_a_plan_of_the_largest_suite_shows_its_first_rows_and_says_so(call_cli):
    answer = call_cli("matmul", "--suite", "tiling", "--plan")
    assert answer.returncode == 0
    assert "first 60 of 8000 rows; --json has all" in answer.stdout


def test_a_models_projections_are_planned_by_batch_and_sequence(call_cli):
    answer = call_cli(
        "matmul", "--model", "llama-3.1-8b", "--batch", "2", "--sequence", "64", "--dtype", "bf16", "--plan", "--json"
    )
    shapes = [(row["M"], row["K"], row["N"]) for row in strict_json(answer.stdout)["rows"]]
    assert (2 * 64, 4096, 2 * 14336) in shapes  # prefill, ffn-up with the gate
    assert (2, 14336, 4096) in shapes  # decode, ffn-down


def test_shapes_come_from_toml_with_their_own_dtypes(call_cli, tmp_path):
    text = '[[shape]]\nM = 8\nK = 16\nN = 32\n[[shape]]\nM = 1\nK = 1\nN = 1\ndtype = "int8"\n'
    (tmp_path / "shapes.toml").write_text(text, encoding="utf-8")
    answer = call_cli("matmul", "--shapes", "shapes.toml", "--dtype", "fp16", "--plan", "--json")
    rows = strict_json(answer.stdout)["rows"]
    assert [(row["M"], row["dtype"]) for row in rows] == [(8, "float16"), (1, "int8")]


# tiling


def test_tiling_of_a_foreign_file_finds_its_floor_tiles_and_shares(run_cli, sweep_csv):
    answer = run_cli("tiling", sweep_csv, "--json")
    assert answer.returncode == 0
    assert answer.stderr == ""
    study = strict_json(answer.stdout)
    assert study["dispatch_floor_ms"] == pytest.approx(0.25, rel=0.05)
    assert study["floor_method"].startswith("estimated")
    for row in study["rows"]:
        tiles = [-(-row["M"] // 128), -(-row["K"] // 128), -(-row["N"] // 512)]
        assert [row["num_tiles_M"], row["num_tiles_K"], row["num_tiles_N"]] == tiles
        assert row["total_tiles"] == np.prod(tiles)
        assert row["latency_per_tile_ms"] == pytest.approx(row["latency_ms"] / row["total_tiles"])
        assert is_share(row["dispatch_share"])
        assert row["dispatch_share"] == pytest.approx(study["dispatch_floor_ms"] / row["latency_ms"])
        assert row["boundary"] == (row["M"] % 128 == 0 or row["K"] % 128 == 0 or row["N"] % 512 == 0)


def test_tiling_of_a_results_folder_takes_the_floor_that_was_measured(run_cli, measured):
    answer = run_cli("tiling", measured, "--json")
    assert answer.returncode == 0, answer.stderr
    study = strict_json(answer.stdout)
    assert study["floor_method"].startswith("recorded")
    rows = csv_rows(measured)
    assert study["dispatch_floor_ms"] == pytest.approx(np.median([float(row["dispatch_floor_ms"]) for row in rows]))
    assert [row["latency_ms"] for row in study["rows"]] == [float(row["latency_ms"]) for row in rows]


def test_a_results_folder_with_an_interval_below_zero_can_be_studied(run_cli, copied):
    """Two rounds that differ by much widen the interval past zero; npuscope wrote that file and must read it."""
    rows = csv_rows(copied)
    rows[0]["latency_ci_low_ms"] = "-1.5"
    with (copied / "results.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    answer = run_cli("tiling", copied, "--json")
    assert answer.returncode == 0, answer.stderr


def test_tiling_leaves_failed_rows_out_and_counts_them(run_cli):
    run_cli("matmul", "--shape", "8x8x8", "--shape", "1000000x1000000x1000", *QUICK, "--out", "run", "--json")
    study = strict_json(run_cli("tiling", "run", "--json").stdout)
    assert [row["M"] for row in study["rows"]] == [8]
    assert study["skipped_rows"] == 1


def test_tiling_reads_other_headers_and_constants_by_name(run_cli, tmp_path):
    (tmp_path / "other.csv").write_text("width,ms\n128,1.0\n1024,2.0\n", encoding="utf-8")
    answer = run_cli("tiling", "other.csv", "--columns", "M=128,K=256,N=width,latency_ms=ms", "--json")
    rows = strict_json(answer.stdout)["rows"]
    assert [(row["M"], row["K"], row["N"], row["total_tiles"]) for row in rows] == [
        (128, 256, 128, 2),
        (128, 256, 1024, 4),
    ]


def test_tiling_in_words_begins_with_its_findings(run_cli, sweep_csv):
    answer = run_cli("tiling", sweep_csv)
    assert answer.returncode == 0
    assert any(line.startswith("dispatch floor: 0.25 ms") for line in answer.stdout.splitlines())
    assert answer.stdout.splitlines()[0].startswith("finding: ")


# buckets


@pytest.fixture
def served(tmp_path):
    """Requests of two lengths, and a latency that grows with length."""
    (tmp_path / "lengths.csv").write_text("length,count\n100,90\n700,10\n", encoding="utf-8")
    curve = "".join(f"{length},{length / 100}\n" for length in (1, 100, 128, 256, 512, 700, 1024))
    (tmp_path / "latency.csv").write_text("length,latency_ms\n" + curve, encoding="utf-8")
    return "--histogram", "lengths.csv", "--latency", "latency.csv"


def test_planned_buckets_are_the_cheapest_set_for_the_requests(served, run_cli):
    answer = run_cli("buckets", *served, "--json")
    assert answer.returncode == 0
    assert answer.stderr == ""
    document = strict_json(answer.stdout)
    assert document["planned"]["buckets"] == [100, 700]
    assert document["planned"]["expected_cost_ms"] == pytest.approx(0.9 * 1 + 0.1 * 7)
    assert document["default"]["expected_cost_ms"] == pytest.approx(0.9 * 1.28 + 0.1 * 7)  # 128, 256, 512, 700
    assert document["saving"] == pytest.approx(1 - 1.6 / 1.852)
    assert document["latency_source"] == "measured: latency.csv"


def test_a_price_per_bucket_leaves_fewer_of_them(served, call_cli):
    document = strict_json(call_cli("buckets", *served, "--compile-cost-ms", "6", "--json").stdout)
    assert document["planned"]["buckets"] == [700]
    assert document["planned"]["expected_cost_ms"] == pytest.approx(7 + 6)
    document = strict_json(call_cli("buckets", *served, "--max-buckets", "1", "--json").stdout)
    assert document["planned"]["buckets"] == [700]


def test_a_results_folder_in_which_one_dimension_varies_is_a_latency_curve(run_cli):
    run_cli("matmul", "--shape", "8x8x16", "--shape", "8x8x64", *QUICK, "--out", "run", "--json")
    answer = run_cli("buckets", "--distribution", "uniform:high=64", "--max-length", "64", "--latency", "run", "--json")
    assert answer.returncode == 0, answer.stderr
    document = strict_json(answer.stdout)
    assert document["latency_source"] == "measured: run"
    assert document["planned"]["buckets"][-1] == 64


@pytest.mark.parametrize("scheme", ["vllm", "nxdi", "vllm-tpu", "vllm-gaudi"])
def test_the_default_buckets_of_a_scheme_hold_every_length(scheme, call_cli):
    document = strict_json(call_cli("buckets", "--scheme", scheme, "--max-length", "1000", "--json").stdout)
    assert document["scheme"] == scheme
    assert all(low < high for low, high in pairwise(document["default_buckets"]))
    assert document["default_buckets"][-1] >= 1000
    assert document["default_batch_buckets"] == [1, 2, 4, 8, 16, 32]
    for row in document["padding"]:
        assert row["bucket_N"] == min(bucket for bucket in document["default_buckets"] if bucket >= row["actual_N"])
        assert row["padding_size"] == row["bucket_N"] - row["actual_N"]


# doctor and the commands themselves


@pytest.fixture(scope="module")
def examined(tmp_path_factory):
    """`npuscope doctor --json`, which opens every device."""
    return subprocess.run(
        command("doctor", "--json"),
        cwd=tmp_path_factory.mktemp("doctor"),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def test_doctor_tells_what_is_here_and_how_to_get_the_rest(examined):
    assert examined.returncode == 0
    report = strict_json(examined.stdout)
    assert report["npuscope"] == __version__
    assert report["host"]["usable_cores"] >= 1
    assert report["available_memory_bytes"] > 0
    devices = {device["device"]: device for device in report["devices"]}
    assert devices["cpu"]["available"]
    assert set(report["missing"]) == {name for name, device in devices.items() if not device["available"]}
    for device in devices.values():
        assert (device["info"] is not None) == device["available"]
        assert bool(device["missing"]) == bool(device["remedy"]) == (not device["available"])
    assert {"neuron-ls", "neuronx-cc", "xrt-smi"} <= {tool["name"] for tool in report["tools"]}


def test_doctor_writes_nothing_to_standard_error(examined):
    assert examined.stderr == ""


def test_doctor_in_words_tells_what_auto_takes(run_cli):
    answer = run_cli("doctor")
    assert answer.returncode == 0
    assert any(line.startswith("auto: ") for line in answer.stdout.splitlines())


def test_the_version_is_that_of_the_package(run_cli):
    answer = run_cli("--version")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, f"npuscope {__version__}\n", "")


@pytest.mark.parametrize(
    "words", [(), ("--help",), *((name, "--help") for name in ("doctor", "matmul", "tiling", "buckets"))]
)
def test_help_is_no_error(words, call_cli):
    answer = call_cli(*words)
    assert answer.returncode == 0
    assert answer.stdout.startswith("Usage: npuscope")
    assert answer.stderr == ""


def test_results_written_under_a_narrow_encoding_are_still_shown(run_cli):
    answer = run_cli("matmul", "--shape", "8x8x8", *QUICK, "--out", "run", env={"PYTHONIOENCODING": "ascii"})
    assert answer.returncode == 0, answer.stderr
    assert "Traceback" not in answer.stderr


def test_json_of_a_folder_whose_name_is_no_text_is_still_json(run_cli, measured, tmp_path):
    (tmp_path / "odd\udcff.csv").write_bytes((measured / "results.csv").read_bytes())
    answer = run_cli("tiling", tmp_path / "odd\udcff.csv", "--json", env={"PYTHONIOENCODING": "utf-8:strict"})
    assert answer.returncode == 0, answer.stderr
    answer.stdout.encode("utf-8")
    assert len(json.loads(answer.stdout)["rows"]) == 2
