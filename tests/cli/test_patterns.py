"""`npuscope patterns`: what it prints and writes, what it compares and what it refuses to, and traces that somebody left."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from npuscope.formats.artifact import read_profile
from npuscope.formats.hlo_reader import read_hlo
from npuscope.formats.pattern_folder import BY_MAPPING, BY_NAME, BY_ORDER, MAPPING_NAME, find_profile, read_mapping
from npuscope.formats.perfetto_processor import TraceProcessor
from npuscope.measure.programs import TRACED_RUNS
from tests.cli.conftest import command, environment, is_share, strict_json

pytest.importorskip("jax")

DEVICES = ("jax:cpu", "sim:trn2")
PATTERNS = ("vmap", "scan", "loop")
TINY = ("--batch", 4, "--features", 8)
LENGTHS = {"n2": 2, "small": 3}
STEMS = [f"{device.replace(':', '-')}_{p}_{size}" for device in DEVICES for size in LENGTHS for p in PATTERNS]
PUBLISHED = ("--as-published", "--device", "sim:trn2", "--sizes", "", "--iterations", 2, *TINY)
FOREIGN = "/tmp/neuron_hardware_profiles_x"


def run_patterns(folder, *arguments):
    """The JSON that a run in a folder of its own prints."""
    answer = subprocess.run(
        command("patterns", *arguments, "--json"),
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return strict_json(answer.stdout)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The issue's command at the smallest sizes: the document, and the folder."""
    folder = tmp_path_factory.mktemp("study")
    devices = [word for device in DEVICES for word in ("--device", device)]
    quick = ("--max-seconds", 0.1, "--processes", 3, "--sizes", "2,3")
    return run_patterns(folder, *devices, *quick, *TINY, "--out", "out"), folder / "out"


@pytest.fixture
def foreign(study, tmp_path):
    """A folder as the public script leaves it, with traces under names that tell nothing."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    for pattern, name in (("vmap", "1.pftrace"), ("scan", "2.pftrace"), ("loop", "my_for_loop.pftrace")):
        shutil.copy(study[1] / f"sim-trn2_{pattern}_n2.pftrace", folder / name)
    document = {
        "pattern_execution_order": [["vmap_hardware_deep", f"{FOREIGN}/gone.pftrace"], ["vmap_hardware_deep", f"{FOREIGN}/1.pftrace"]],
        "pattern_profile_mapping": {
            f"{FOREIGN}/1.pftrace": "vmap_hardware_deep",
            f"{FOREIGN}/2.pftrace": "scan_hardware_deep",
        },
        "perfetto_files": [],
        "generated_timestamp": "2025-09-01T00:00:00",
    }  # fmt: skip
    (folder / MAPPING_NAME).write_text(json.dumps(document))
    return folder


class TestContract:
    def test_every_device_pattern_and_length_has_a_row(self, study):
        rows = [(row["device"], row["pattern"], row["size"], row["iterations"]) for row in study[0]["results"]]
        assert rows == [(d, p, size, LENGTHS[size]) for d in DEVICES for size in LENGTHS for p in PATTERNS]

    def test_rows_have_the_keys_of_the_contract(self, study):
        for row in study[0]["results"]:
            simulated = row["device"].startswith("sim:")
            assert (row["status"], row["error"], row["same_work"]) == ("ok", "", True)
            assert row["is_simulated"] is simulated
            assert row["steady_ms"] > 0
            assert row["hlo_ops"] > 10
            assert 0 <= row["max_abs_error"] < 1e-5
            assert row["bound"] not in {"", "unknown"}
            assert all(is_share(float(share)) for share in row["engines"].values())

    def test_what_was_measured_is_only_told_of_devices_that_ran(self, study):
        for row in study[0]["results"]:
            told = ("compile_ms", "first_run_ms", "steady_ci_low_ms", "dispatch_floor_ms", "dispatches")
            assert all((row[key] is None) == row["is_simulated"] for key in told), row
            if row["is_simulated"]:
                assert (row["compile_cache"], row["samples"]) == ("not-compiled", 0)
                assert "jax:cpu" in row["error_basis"]
                assert {"Tensor", "Vector"} <= set(row["engines"])
                assert row["instruction_count"] > 0
            else:
                assert (row["dispatches"], row["rounds"], row["traced_runs"]) == (1, 3, TRACED_RUNS)
                assert row["steady_ci_low_ms"] <= row["steady_ms"] <= row["steady_ci_high_ms"]
                assert row["compile_ms"] > row["steady_ms"]

    def test_an_unrolled_loop_grows_and_a_scan_does_not(self, study):
        ops = {(row["device"], row["pattern"], row["size"]): row["hlo_ops"] for row in study[0]["results"]}
        for device in DEVICES:
            assert ops[device, "loop", "small"] > ops[device, "loop", "n2"]
            assert ops[device, "scan", "small"] == ops[device, "scan", "n2"]

    def test_comparisons_are_of_one_device_and_length_each(self, study):
        found = [(item["device"], item["iterations"], item["refused"]) for item in study[0]["comparisons"]]
        assert found == [(device, [length], "") for device in DEVICES for length in LENGTHS.values()]
        for item in study[0]["comparisons"]:
            assert {row["pattern"] for row in item["rows"]} == set(PATTERNS)
            assert item["rows"][0]["rank"] == 1

    def test_the_document_says_what_was_asked_and_what_is_no_measurement(self, study):
        document, _ = study
        assert document["same_work"] is True
        assert document["conditions"]["lengths"] == LENGTHS
        assert any("predictions" in note for note in document["notes"])
        assert document["scaling"]["series"]


class TestFiles:
    def test_each_program_has_its_own(self, study):
        document, out = study
        assert set(document["files"]["programs"]) == set(STEMS)
        for stem in STEMS:
            assert (out / f"{stem}.pftrace").stat().st_size > 0
            assert read_profile(out / "profiles" / stem).is_simulation is stem.startswith("sim-")
            analysis = strict_json((out / f"{stem}_analysis.json").read_text())
            row = analysis["result"]
            assert f"{row['device'].replace(':', '-')}_{row['pattern']}_{row['size']}" == stem
            assert row["is_simulated"] is stem.startswith("sim-")
            assert {"total_slices", "unknown_operations", "operations", "tracks", "bound"} <= set(analysis)
            assert analysis["total_slices"] == row["total_slices"]
            assert read_hlo(out / f"{stem}.hlo").op_count == row["hlo_ops"]

    def test_the_report_is_what_was_printed_with_provenance(self, study):
        document, out = study
        report = strict_json((out / "report.json").read_text())
        assert report["results"] == document["results"]
        assert "npuscope" in json.dumps(report["provenance"])
        assert strict_json((out / "run.json").read_text())["sessions"]

    def test_the_table_names_the_device_and_whether_it_is_simulated(self, study):
        with (study[1] / "comparison.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(STEMS)
        assert {(row["device"], row["is_simulated"]) for row in rows} == {("jax:cpu", "False"), ("sim:trn2", "True")}

    def test_the_mapping_is_read_back(self, study):
        _, out = study
        mapping = read_mapping(out)
        assert mapping.execution_order == tuple((stem, f"{stem}.pftrace") for stem in STEMS)
        assert mapping.patterns == tuple(STEMS)
        assert mapping.perfetto_files == tuple(f"{stem}.pftrace" for stem in STEMS)
        assert find_profile(out, STEMS[1]) == (out / f"{STEMS[1]}.pftrace", BY_ORDER)

    def test_every_trace_loads_in_the_trace_processor_without_errors(self, study):
        document, out = study
        slices = {f"{row['device'].replace(':', '-')}_{row['pattern']}_{row['size']}": row["total_slices"] for row in document["results"]}  # fmt: skip
        for stem in STEMS:
            with TraceProcessor() as processor:
                processor.load(out / f"{stem}.pftrace")
                assert processor.error_stats() == {}
                assert processor.query("SELECT count(*) AS n FROM slice").to_pylist() == [{"n": slices[stem]}]

    def test_the_program_is_simulated_to_the_same_time(self, study, call_cli):
        document, out = study
        (row,) = (
            r for r in document["results"] if (r["device"], r["pattern"], r["size"]) == ("sim:trn2", "scan", "n2")
        )
        answer = call_cli("simulate", out / "jax-cpu_scan_n2.hlo", "--device", "sim:trn2", "--json")
        assert strict_json(answer.stdout)["total_time_ns"] == pytest.approx(row["steady_ms"] * 1e6)


class TestAsPublished:
    def test_is_told_as_different_work_and_not_compared(self, call_cli, tmp_path):
        answer = call_cli("patterns", *PUBLISHED, "--out", "out", "--json")
        assert answer.returncode == 0, answer.stderr
        document = strict_json(answer.stdout)
        assert document["same_work"] is False
        assert [row["same_work"] for row in document["results"]] == [False] * 3
        assert len({row["work"] for row in document["results"]}) == 3
        (comparison,) = document["comparisons"]
        assert comparison["is_comparable"] is False
        assert comparison["refused"].startswith("different work")
        assert [row["rank"] for row in comparison["rows"]] == [None] * 3
        assert comparison["pairs"] == []
        again = strict_json(call_cli("patterns", "--from", "out", "--json").stdout)
        assert [item["refused"] for item in again["comparisons"]] == [comparison["refused"]]

    def test_the_screen_says_so(self, call_cli):
        answer = call_cli("patterns", *PUBLISHED, "--out", "out")
        assert answer.returncode == 0, answer.stderr
        assert "AS PUBLISHED: the patterns compute different functions and are not compared" in answer.stdout
        assert "SIMULATED" in answer.stdout

    def test_one_pattern_alone_is_no_comparison(self, call_cli):
        arguments = ("--pattern", "scan", "--device", "sim:trn1", "--sizes", "", "--iterations", 2, *TINY)
        document = strict_json(call_cli("patterns", *arguments, "--json").stdout)
        assert (document["comparisons"], document["same_work"]) == ([], True)
        assert re.fullmatch(r"results/\d{8}-\d{6}-patterns", document["out"])


class TestFromFolder:
    def test_of_ours_has_the_times_and_the_work_of_the_report(self, study, call_cli):
        document, out = study
        answer = call_cli("patterns", "--from", out, "--json")
        assert answer.returncode == 0, answer.stderr
        found = strict_json(answer.stdout)
        assert found["notes"] == []
        for trace, row in zip(found["traces"], document["results"], strict=True):
            for key in ("device", "pattern", "size", "iterations", "is_simulated", "total_slices"):
                assert trace[key] == row[key]
            assert (trace["found_by"], trace["runs"]) == (BY_ORDER, row["traced_runs"])
            assert trace["time_ns"] == pytest.approx(row["steady_ms"] * 1e6)
        ranks = [
            [(row["pattern"], row["rank"]) for row in item["rows"]]
            for told in (document, found)
            for item in told["comparisons"]
            if item["device"] == "sim:trn2"
        ]
        assert ranks[:2] == ranks[2:]
        measured = [row for item in found["comparisons"] if item["device"] == "jax:cpu" for row in item["rows"]]
        assert [row["rank"] for row in measured] == [None] * 6  # the samples that tell noise are not in the folder

    def test_of_others_is_found_in_three_steps_and_not_ranked(self, foreign, call_cli):
        names = "vmap_hardware_deep,scan_hardware_deep,loop"
        answer = call_cli("patterns", "--from", foreign, "--pattern", names, "--json")
        assert answer.returncode == 0, answer.stderr
        found = strict_json(answer.stdout)
        told = [(trace["pattern"], Path(trace["path"]).name, trace["found_by"]) for trace in found["traces"]]
        assert told == [
            ("vmap_hardware_deep", "1.pftrace", BY_ORDER),
            ("scan_hardware_deep", "2.pftrace", BY_MAPPING),
            ("loop", "my_for_loop.pftrace", BY_NAME),
        ]
        assert all(trace["is_simulated"] for trace in found["traces"])
        assert [item["is_comparable"] for item in found["comparisons"]] == [False]
        assert len(found["notes"]) == 3
        assert "what it computes is not known" in found["notes"][0]

    def test_the_screen_tells_the_file_of_each(self, foreign, call_cli):
        answer = call_cli("patterns", "--from", foreign)
        assert answer.returncode == 0, answer.stderr
        assert f"vmap_hardware_deep: {foreign}/1.pftrace ({BY_ORDER})" in answer.stdout
        assert "different work" in answer.stdout

    @pytest.mark.parametrize(
        ("mapping", "code", "told"),
        [
            (None, 2, "no perfetto_pattern_mapping.json that names patterns; give --pattern"),
            ("{", 3, "perfetto_pattern_mapping.json"),
            ('{"pattern_execution_order": [["scan"]]}', 3, "a pair of pattern and file"),
            ('{"pattern_execution_order": [["scan", "/etc/passwd"]]}', 2, "no profile of pattern 'scan'"),
        ],
    )
    def test_a_folder_without_traces_is_one_line(self, call_cli, assert_one_line_error, tmp_path, mapping, code, told):
        if mapping is not None:
            (tmp_path / MAPPING_NAME).write_text(mapping)
        assert_one_line_error(call_cli("patterns", "--from", tmp_path), code, told)

    def test_no_folder_is_one_line(self, call_cli, assert_one_line_error):
        assert_one_line_error(call_cli("patterns", "--from", "nowhere"), 2, "nowhere is no folder")

    def test_a_damaged_trace_is_one_line(self, foreign, call_cli, assert_one_line_error):
        path = foreign / "1.pftrace"
        path.write_bytes(path.read_bytes()[:-7])
        assert_one_line_error(call_cli("patterns", "--from", foreign), 3, "1.pftrace")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--iterations", "-3"], "iterations = -3 must be a positive whole number"),
        (["--batch", "0"], "batch = 0 must be a positive whole number"),
        (["--features", "-1"], "features = -1 must be a positive whole number"),
        (["--sizes", "-1"], "--sizes '-1' is no length"),
        (["--sizes", "huge"], "--sizes 'huge' is no length"),
        (["--pattern", "vmp"], "did you mean 'vmap'"),
        (["--pattern", ","], "--pattern names none"),
        (["--dtype", "int8"], "unknown dtype of a pattern 'int8'"),
        (["--device", "jaxx"], "unknown device for programs 'jaxx'; known: jax:cpu"),
        (["--device", "cpu"], "did you mean 'jax:cpu'"),
        (["--device", "sim:trn9"], "trn9"),
        (["--processes", "1"], "--processes 1: from 3, since fewer have no interval"),
        (["--processes", "51"], "to 50"),
        (["--time-limit", "0"], "--time-limit 0.0 must lie between"),
        (["--max-seconds", "-1"], "--max-seconds"),
        (["--seed", "-1"], "--seed"),
        (["--same-work", "--as-published"], "exclude each other"),
        (["--from", "."], "it takes no --out"),
        (["--as-published", "--pattern", "nested-vmap"], "no published computation"),
    ],
)
def test_wrong_use_is_one_line_before_anything_is_made(call_cli, assert_one_line_error, tmp_path, arguments, told):
    assert_one_line_error(call_cli("patterns", *arguments, "--out", "out"), 2, told)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pattern", ["vmap", "nested-vmap"])
def test_a_device_that_is_not_here_is_never_replaced(call_cli, pattern):
    answer = call_cli("patterns", "--device", "jax:nowhere", "--pattern", pattern, "--sizes", "", "--json")
    assert (answer.returncode, answer.stdout) == (4, "")
    assert answer.stderr.splitlines()[-1].startswith("npuscope: error: jax:nowhere is not available: JAX says: ")


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(call_cli, assert_one_line_error, tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    assert_one_line_error(call_cli("patterns", "--out", tmp_path), 2, "is not empty; choose another --out")
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_a_program_that_takes_the_compiler_too_long_fails_alone(call_cli):
    arguments = ("--device", "sim:trn2", "--pattern", "vmap,nested-vmap", "--sizes", "", "--time-limit", 0.2)
    document = strict_json(call_cli("patterns", *arguments, *TINY, "--json").stdout)
    assert [(row["pattern"], row["status"]) for row in document["results"]] == [
        ("vmap", "ok"),
        ("nested-vmap", "failed"),
    ]
    assert "--time-limit" in document["results"][1]["error"]
    assert document["results"][1]["steady_ms"] is None


def test_where_no_program_runs_the_exit_code_is_1(call_cli):
    arguments = ("--device", "sim:trn2", "--pattern", "nested-vmap", "--sizes", "", "--time-limit", 0.2)
    answer = call_cli("patterns", *arguments, *TINY, "--json")
    assert answer.returncode == 1
    assert [row["status"] for row in strict_json(answer.stdout)["results"]] == ["failed"]
