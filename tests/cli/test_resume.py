"""A sweep that stopped, for whatever reason, goes on where it was; what was finished stays as it is."""

import csv
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from npuscope.backends.base import BackendOptions
from npuscope.backends.cpu import NumpyBackend
from npuscope.formats.results import ResultRow, read_parquet
from npuscope.measure.session import Plan, create_session
from npuscope.measure.settings import Settings
from npuscope.measure.sweep import BLOCK_SIZE, run_sweep
from npuscope.workloads.matmul import MatmulConfig
from tests.cli.conftest import QUICK, strict_json

QUICK_ONES = [(m, 8, 8) for m in range(1, BLOCK_SIZE + 1)]  # one block, whose rows are finished together
SLOW_ONES = [(128, 128, 128), (129, 128, 128)]
SHAPES = QUICK_ONES + SLOW_ONES
SLOW = ("--dtype", "float16", "--device", "cpu", "--warmup", "1", "--iterations", "15")
RESULT_FILES = {"results.csv", "results.parquet", "run.json"}


def flags(shapes) -> list[str]:
    return [word for m, k, n in shapes for word in ("--shape", f"{m}x{k}x{n}")]


def events(folder: Path) -> list[dict]:
    """The whole lines of the journal."""
    journal = folder / "journal.jsonl"
    if not journal.exists():
        return []
    return [json.loads(line) for line in journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def count(folder: Path, kind: str) -> int:
    return sum(event["event"] == kind for event in events(folder))


def sampling_the_slow(folder: Path) -> bool:
    return any(event["event"] == "chunk" and event["index"] >= BLOCK_SIZE for event in events(folder))


def wait_for(process: subprocess.Popen, condition) -> None:
    deadline = time.monotonic() + 50
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the sweep did not come so far"
        time.sleep(0.005)


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def shapes_in(folder: Path) -> list[tuple[int, ...]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return [tuple(int(row[axis]) for axis in "MKN") for row in csv.DictReader(file)]


def by_shape(folder: Path) -> dict[tuple[int, int, int], ResultRow]:
    return {(row.M, row.K, row.N): row for row in read_parquet(folder / "results.parquet")}


HALF = [(2, 3, 4), (4, 3, 2)]


@pytest.fixture(scope="module")
def half_done(tmp_path_factory):
    """A folder that was interrupted: one row finished, the samples of the other in the journal but for its last line.

    It is measured in this process, as `call_cli` resumes it: a resume checks that the libraries are the same.
    """
    folder = tmp_path_factory.mktemp("half") / "run"
    backend = NumpyBackend("cpu", BackendOptions())
    plan = Plan("cpu", tuple(MatmulConfig(*shape) for shape in HALF), Settings(warmup=1, iterations=5))
    session = create_session(folder, plan, backend.describe(), {})
    assert len(list(run_sweep(backend, session, lambda _: None))) == 2
    session.close(complete=False)
    journal = folder / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    return folder


@pytest.fixture
def halved(half_done, tmp_path):
    """A copy of it, for a test to spoil."""
    return Path(shutil.copytree(half_done, tmp_path / "halved"))


@pytest.fixture
def resume_ends_cleanly(call_cli, assert_one_line_error):
    """Resume a folder with a spoilt file: all rows of the plan are measured, or one line names the file."""

    def check(folder: Path, name: str) -> int:
        spoilt = snapshot(folder)
        answer = call_cli("matmul", "--resume", folder, "--json")
        if answer.returncode:
            assert_one_line_error(answer, 3, name)
            assert snapshot(folder) == spoilt
        else:
            assert answer.stderr == ""
            assert shapes_in(folder) == HALF
            for row in read_parquet(folder / "results.parquet"):
                assert row.status == "ok"
                assert row.samples == len(row.samples_ns) == 5
                assert min(row.samples_ns) > 0
                assert row.latency_min_ms <= row.latency_ms <= row.latency_max_ms
        return answer.returncode

    return check


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# killed


def test_a_killed_sweep_goes_on_and_keeps_finished_rows_to_the_byte(start_cli, run_cli, tmp_path):
    folder = tmp_path / "run"
    process = start_cli("matmul", *flags(SHAPES), *SLOW, "--out", folder)
    wait_for(process, lambda: sampling_the_slow(folder))
    kill(process)
    before = (folder / "results.csv").read_bytes().splitlines(keepends=True)
    taken = {shape: [] for shape in SLOW_ONES}
    for event in events(folder):
        if event["event"] == "chunk" and event["index"] >= BLOCK_SIZE:
            taken[SHAPES[event["index"]]] += event["samples_ns"]
    assert any(taken.values())
    assert count(folder, "row") == BLOCK_SIZE

    answer = run_cli("matmul", "--resume", folder, "--json")
    assert answer.returncode == 0, answer.stderr
    after = (folder / "results.csv").read_bytes().splitlines(keepends=True)
    assert after[: BLOCK_SIZE + 1] == before
    assert shapes_in(folder) == SHAPES
    rows = by_shape(folder)
    assert [row["sessions"] for row in strict_json(answer.stdout)["rows"]] == [1] * BLOCK_SIZE + [2, 2]
    for shape, samples in taken.items():
        row = rows[shape]
        assert list(row.samples_ns[: len(samples)]) == samples
        assert row.samples == len(row.samples_ns) == 15
    assert {path.name for path in folder.iterdir()} == RESULT_FILES
    run = strict_json((folder / "run.json").read_text(encoding="utf-8"))
    assert run["status"] == "complete"
    assert len(run["sessions"]) == 2


def test_a_sweep_killed_early_loses_at_most_the_chunk_in_flight(start_cli, run_cli, tmp_path):
    folder = tmp_path / "run"
    process = start_cli("matmul", *flags(SLOW_ONES), *SLOW, "--out", folder)
    wait_for(process, lambda: count(folder, "chunk") >= 1)
    kill(process)
    kept = {shape: [] for shape in SLOW_ONES}
    for event in events(folder):
        kept[SLOW_ONES[event["index"]]] += event.get("samples_ns", [])
    assert any(kept.values())
    answer = run_cli("matmul", "--resume", folder, "--json")
    assert answer.returncode == 0, answer.stderr
    assert shapes_in(folder) == SLOW_ONES
    for shape, samples in kept.items():
        row = by_shape(folder)[shape]
        assert list(row.samples_ns[: len(samples)]) == samples
        assert row.samples == 15


def test_a_sweep_may_be_killed_again_and_again(start_cli, run_cli, tmp_path):
    folder = tmp_path / "run"
    process = start_cli("matmul", *flags(SHAPES), *SLOW, "--out", folder)
    for _ in range(2):
        seen = count(folder, "chunk")
        wait_for(process, lambda seen=seen: count(folder, "chunk") > seen + 3)
        kill(process)
        process = start_cli("matmul", "--resume", folder, "--json")
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert shapes_in(folder) == SHAPES
    run = strict_json((folder / "run.json").read_text(encoding="utf-8"))
    assert len(run["sessions"]) == 3


def test_results_csv_is_made_anew_from_the_journal(start_cli, run_cli, tmp_path):
    """A kill may come between the journal's line and that of results.csv, or within the latter."""
    folder = tmp_path / "run"
    process = start_cli("matmul", *flags(SHAPES), *SLOW, "--out", folder)
    wait_for(process, lambda: sampling_the_slow(folder))
    kill(process)
    table = folder / "results.csv"
    whole = table.read_bytes().splitlines(keepends=True)
    table.write_bytes(b"".join(whole)[: -len(whole[-1]) // 2])
    assert run_cli("matmul", "--resume", folder, "--json").returncode == 0
    assert table.read_bytes().splitlines(keepends=True)[: BLOCK_SIZE + 1] == whole


# interrupted


def test_an_interrupted_sweep_says_how_to_go_on_and_does(start_cli, run_cli, tmp_path):
    folder = tmp_path / "run"
    process = start_cli("matmul", *flags(SHAPES), *SLOW, "--out", folder)
    wait_for(process, lambda: sampling_the_slow(folder))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "results:" not in out
    assert (
        f"npuscope: {BLOCK_SIZE} of {len(SHAPES)} rows finished, samples of the others kept; go on with: npuscope matmul --resume {folder}"
        in err.splitlines()
    )
    assert "Traceback" not in err
    assert shapes_in(folder) == QUICK_ONES
    assert len(read_parquet(folder / "results.parquet")) == BLOCK_SIZE
    run = strict_json((folder / "run.json").read_text(encoding="utf-8"))
    assert run["status"] == "interrupted"
    assert run["rows"] == {"planned": len(SHAPES), "measured": BLOCK_SIZE, "failed": 0}
    before = (folder / "results.csv").read_bytes()
    study = strict_json(run_cli("tiling", folder, "--json").stdout)
    assert len(study["rows"]) == BLOCK_SIZE

    answer = run_cli("matmul", "--resume", folder)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    assert f"resuming {folder}: {BLOCK_SIZE} of {len(SHAPES)} rows are there\n" in answer.stdout
    assert (folder / "results.csv").read_bytes().startswith(before)
    assert shapes_in(folder) == SHAPES


# a full disk


@pytest.mark.parametrize("size", [6_000, 15_000])
def test_a_disk_that_fills_up_keeps_what_is_measured_and_the_sweep_goes_on_later(
    size, run_cli, tmp_path, assert_one_line_error
):
    folder = tmp_path / "run"
    shapes = [(m, 8, 8) for m in range(1, 13)]
    answer = run_cli("matmul", *flags(shapes), *QUICK, "--out", folder, "--json", largest_file=size)
    assert_one_line_error(answer, 2, str(folder), "cannot be written", f"npuscope matmul --resume {folder}")
    kept = [list(event["row"].items()) for event in events(folder) if event["event"] == "row"]
    if size >= 15_000:
        assert kept

    answer = run_cli("matmul", "--resume", folder, "--json")
    assert answer.returncode == 0, answer.stderr
    assert shapes_in(folder) == shapes
    rows = [row.summary() for row in read_parquet(folder / "results.parquet")]
    for row in kept:
        assert dict(row) in rows


def test_a_disk_that_is_full_at_the_end_keeps_every_row(run_cli, tmp_path, assert_one_line_error):
    """results.parquet is larger than the journal of two rows: all is measured when the disk is full."""
    folder = tmp_path / "run"
    answer = run_cli("matmul", *flags(QUICK_ONES[:2]), *QUICK, "--out", folder, "--json", largest_file=16_000)
    assert_one_line_error(answer, 2, "results.parquet cannot be written")
    assert count(folder, "row") == 2
    table = (folder / "results.csv").read_bytes()
    assert not list(folder.glob("*.partial"))
    answer = run_cli("matmul", "--resume", folder, "--json")
    assert answer.returncode == 0, answer.stderr
    assert (folder / "results.csv").read_bytes() == table
    assert {path.name for path in folder.iterdir()} == RESULT_FILES


def test_a_disk_that_is_full_at_the_start_is_one_line(run_cli, assert_one_line_error):
    answer = run_cli("matmul", "--shape", "8x8x8", *QUICK, "--out", "run", "--json", largest_file=100)
    assert_one_line_error(answer, 2, "run.json cannot be written")


# two at once


def test_a_folder_in_use_is_refused_to_a_second_process(start_cli, run_cli, tmp_path, assert_one_line_error):
    folder = tmp_path / "run"
    first = start_cli(
        "matmul",
        *flags(QUICK_ONES[:2]),
        "--device",
        "cpu",
        "--warmup",
        "1",
        "--max-seconds",
        "600",
        "--precision",
        "1e-9",
        "--out",
        folder,
    )
    wait_for(first, lambda: count(folder, "chunk") > 0)
    second = run_cli("matmul", "--resume", folder, "--json")
    third = run_cli("matmul", *flags(QUICK_ONES[:2]), *QUICK, "--out", folder, "--json")
    assert_one_line_error(second, 2, f"{folder} is in use by another npuscope")
    assert_one_line_error(third, 2, f"{folder} is not empty")
    seen = count(folder, "chunk")
    wait_for(first, lambda: count(folder, "chunk") > seen)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    assert first.returncode == 130
    run = strict_json((folder / "run.json").read_text(encoding="utf-8"))
    assert (run["status"], len(run["sessions"])) == ("interrupted", 1)


# a folder that is complete


def test_a_complete_folder_is_shown_again_and_not_measured_again(run_cli, copied):
    before = {name: (copied / name).read_bytes() for name in ("results.csv", "results.parquet")}
    answer = run_cli("matmul", "--resume", copied, "--json")
    assert answer.returncode == 0, answer.stderr
    assert len(strict_json(answer.stdout)["rows"]) == 2
    assert (copied / "results.csv").read_bytes() == before["results.csv"]
    assert {path.name for path in copied.iterdir()} == RESULT_FILES


def test_a_failed_row_is_not_tried_again_and_still_fails_the_command(run_cli, tmp_path):
    shapes = ("--shape", "8x8x8", "--shape", "1000000x1000000x1000")
    assert run_cli("matmul", *shapes, *QUICK, "--out", "run", "--json").returncode == 1
    before = (tmp_path / "run" / "results.csv").read_bytes()
    answer = run_cli("matmul", "--resume", "run", "--json")
    assert answer.returncode == 1
    assert [row["status"] for row in strict_json(answer.stdout)["rows"]] == ["ok", "failed"]
    assert (tmp_path / "run" / "results.csv").read_bytes() == before


@pytest.mark.parametrize("spoil", ["delete", "empty", "garble"])
def test_a_complete_folder_whose_parquet_is_lost_keeps_its_csv(spoil, run_cli, copied, assert_one_line_error):
    before = (copied / "results.csv").read_bytes()
    parquet = copied / "results.parquet"
    if spoil == "delete":
        parquet.unlink()
    else:
        parquet.write_bytes(b"" if spoil == "empty" else bytes(reversed(parquet.read_bytes())))
    answer = run_cli("matmul", "--resume", copied, "--json")
    assert_one_line_error(answer, 3, "results.parquet")
    assert (copied / "results.csv").read_bytes() == before


# what cannot be resumed


@pytest.mark.parametrize("name", ["nowhere", "file", "empty"])
def test_what_is_no_results_folder_cannot_be_resumed(name, call_cli, tmp_path, assert_one_line_error):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    assert_one_line_error(
        call_cli("matmul", "--resume", name, "--json"), 2, f"{name} has no run.json: nothing to resume"
    )
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize(
    "conflict",
    [
        ("--shape", "8x8x8"),
        ("--shapes", "shapes.csv"),
        ("--suite", "quick"),
        ("--model", "llama-3.1-8b"),
        ("--model-dims", "hidden=128"),
        ("--out", "elsewhere"),
        ("--dtype", "int8"),
        ("--warmup", "1"),
        ("--iterations", "5"),
        ("--precision", "5%"),
        ("--max-seconds", "1"),
        ("--seed", "7"),
        ("--tile", "legacy"),
        ("--batch", "2"),
        ("--sequence", "64"),
        ("--plan",),
    ],
    ids=lambda words: words[0],
)
def test_a_flag_that_the_folders_plan_settles_is_refused_with_resume(conflict, call_cli, halved, assert_one_line_error):
    before = snapshot(halved)
    assert_one_line_error(call_cli("matmul", "--resume", halved, *conflict, "--json"), 2, "--resume")
    assert snapshot(halved) == before


def test_another_device_cannot_go_on_with_a_folder_and_leaves_it_as_it_was(run_cli, copied, assert_one_line_error):
    before = snapshot(copied)
    answer = run_cli("matmul", "--resume", copied, "--device", "jax:cpu", "--json")
    assert_one_line_error(answer, 2, "was measured on cpu; it cannot go on on jax:cpu")
    assert snapshot(copied) == before


def test_another_version_of_the_library_cannot_go_on_and_says_which(run_cli, copied, assert_one_line_error):
    run = json.loads((copied / "run.json").read_text(encoding="utf-8"))
    run["device"]["versions"]["numpy"] = "1.0.0"
    (copied / "run.json").write_text(json.dumps(run), encoding="utf-8")
    before = snapshot(copied)
    answer = run_cli("matmul", "--resume", copied, "--json")
    assert_one_line_error(answer, 2, "was measured on another set-up", "1.0.0")
    assert snapshot(copied) == before


# spoilt records; tests/fuzz has all the other ways


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_run_json_that_was_cut_is_exit_code_3(share, call_cli, halved, assert_one_line_error):
    path = halved / "run.json"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert_one_line_error(call_cli("matmul", "--resume", halved, "--json"), 3, "run.json", "expected a JSON document")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (("configs", 1, "dtype"), 5),
        (("configs", 1, "M"), "128"),
        (("configs", 1, "name"), 5),
        (("configs", 1, "name"), None),
        (("configs", 1, "colour"), "red"),
        (("configs",), None),
        (("configs",), 5),
        (("configs",), {}),
        (("settings", "seed"), 1.5),
        (("settings", "warmup"), 1.5),
        (("settings", "warmup"), True),
        (("settings", "iterations"), "5"),
        (("settings", "max_seconds"), float("nan")),
        (("settings", "tile_model"), 5),
        (("settings",), []),
        (("device",), None),
        (("device", "name"), 5),
        (("device", "name"), "abacus"),
        (("sessions",), 5),
        (("sessions",), None),
        (("suite",), None),
        (("removed_duplicates",), "many"),
        (("rows",), 5),
        (("status",), []),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else repr(value),
)
def test_a_run_json_with_a_value_that_npuscope_never_wrote_is_told_or_harmless(key, value, halved, resume_ends_cleanly):
    path = halved / "run.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    inner = document
    for part in key[:-1]:
        inner = inner[part]
    inner[key[-1]] = value
    path.write_text(json.dumps(document), encoding="utf-8")
    resume_ends_cleanly(halved, "run.json")


def test_a_run_json_of_a_later_schema_is_not_guessed_at(halved, call_cli, assert_one_line_error):
    path = halved / "run.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"schema": 1', '"schema": 2'), encoding="utf-8")
    assert_one_line_error(call_cli("matmul", "--resume", halved, "--json"), 3, "run.json")


def test_a_run_json_nested_without_end_is_exit_code_3(call_cli, halved, assert_one_line_error):
    (halved / "run.json").write_bytes(b"[" * 100_000)
    assert_one_line_error(call_cli("matmul", "--resume", halved, "--json"), 3, "run.json")


def test_samples_in_the_journal_are_not_taken_again(halved, resume_ends_cleanly):
    taken = [event["samples_ns"] for event in events(halved) if event["event"] == "chunk" and event["index"] == 1]
    assert resume_ends_cleanly(halved, "") == 0
    assert list(by_shape(halved)[HALF[1]].samples_ns) == [sample for chunk in taken for sample in chunk]


@pytest.mark.parametrize("cut", [1, 2, 20, 200])
def test_the_last_line_of_a_journal_may_be_cut_anywhere(cut, halved, resume_ends_cleanly):
    journal = halved / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-cut])
    assert resume_ends_cleanly(halved, "journal.jsonl") == 0


@pytest.mark.parametrize("content", [b"", b"{", b"\n", b"\0" * 4096])
def test_a_journal_without_a_whole_line_is_told_or_the_sweep_begins_anew(content, halved, resume_ends_cleanly):
    (halved / "journal.jsonl").write_bytes(content)
    resume_ends_cleanly(halved, "journal.jsonl")


@pytest.mark.parametrize(
    "line",
    [
        b"\0\0\0\0",
        b"not json",
        b"[]",
        b'"row"',
        b"{}",
        b'{"event":"row"}',
        b'{"event":"chunk","index":1,"round":0,"samples_ns":["fast"]}',
        b'{"event":"chunk","index":1,"round":0,"samples_ns":"fast"}',
        b'{"event":"chunk","index":1,"round":0,"samples_ns":[-5]}',
        b'{"event":"chunk","index":1,"round":0,"samples_ns":[0.5]}',
        b'{"event":"chunk","index":1,"round":0,"samples_ns":[9223372036854775808]}',
        b'{"event":"chunk","index":1,"round":9223372036854775808,"samples_ns":[5]}',
        b'{"event":"chunk","index":1,"round":0,"samples_ns":[1e999]}',
        b'{"event":"chunk","index":1,"round":"x","samples_ns":[5]}',
        b'{"event":"chunk","index":99,"round":0,"samples_ns":[5]}',
        b'{"event":"chunk","index":"1","round":0,"samples_ns":[5]}',
        b'{"event":"chunk","index":[1],"round":0,"samples_ns":[5]}',
        b'{"event":"prepared","index":1}',
        b'{"event":"prepared","index":1,"compile_ns":0,"cache":"lost","first_run_ns":1,"warmup_ns":[],"steady":true}',
        b'{"event":"unheard-of","index":1}',
        b'{"event":"row","index":1,"row":{},"floor_samples_ns":[],"warmup_ns":[]}',
        b'{"event":"row","index":1,"row":[],"floor_samples_ns":[],"warmup_ns":[]}',
        b"\xff\xfe",
        b"[" * 100_000,
        b"9" * 5000,
    ],
    ids=lambda line: line[:70].decode("latin-1"),
)
def test_a_line_that_npuscope_never_wrote_is_told_or_harmless(line, halved, resume_ends_cleanly):
    journal = halved / "journal.jsonl"
    whole = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([line + b"\n", *whole]))
    resume_ends_cleanly(halved, "journal.jsonl")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"M":2,', b'"M":20,'),
        (b'"M":2,', b'"M":"2",'),
        (b'"dtype":"float32"', b'"dtype":"int8"'),
        (b'"device":"cpu"', b'"device":"neuron"'),
        (b'"status":"ok"', b'"status":5'),
        (b'"latency_ms":', b'"latency_ms":"fast","x":'),
        (b'"latency_ms":', b'"latency_ms":null,"x":'),
        (b'"warnings":"', b'"warnings":5,"x":"'),
        (b'"floor_samples_ns":[', b'"floor_samples_ns":["x",'),
        (b'"floor_samples_ns":[', b'"floor_samples_ns":[9223372036854775808,'),
        (b'"rounds":5', b'"rounds":9223372036854775808'),
        (b'"latency_max_ms":', b'"latency_max_ms":1' + b"0" * 400 + b',"x":'),
        (b'"event":"row","index":0', b'"event":"row","index":1'),
        (b'"event":"row","index":0', b'"event":"row","index":7'),
        (b'"event":"row","index":0', b'"event":"row","index":-1'),
        (b'"event":"row","index":0', b'"event":"row","index":"0"'),
    ],
)
def test_a_row_in_the_journal_that_is_not_the_plans_is_told(old, new, halved, resume_ends_cleanly):
    journal = halved / "journal.jsonl"
    content = journal.read_bytes()
    assert old in content
    journal.write_bytes(content.replace(old, new))
    assert resume_ends_cleanly(halved, "journal.jsonl") == 3
