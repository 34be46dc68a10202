"""`npuscope mlp` and `npuscope kernels`: the contract, both steps, what is written, and wrong use."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from npuscope.formats.hlo_reader import read_hlo
from npuscope.formats.kernel_folder import read_manifest
from tests.cli.conftest import command, environment, strict_json

ROOT = Path(__file__).parents[2]
USERS = ROOT / "tests" / "kernels_of_users" / "implementations.py"
EXAMPLE = ROOT / "examples" / "nki_library_benchmarks" / "mlp"
TINY = ("--config", "b=1,s=8,h=128,i=128")
QUICK = ("--max-seconds", 0.1)
NKI = ("--impl", "nki-tokens", "--impl", "nki-columns")


def run_in(folder, *arguments, code=0):
    answer = subprocess.run(
        command("mlp", *arguments),
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert answer.returncode == code, answer.stderr
    return answer


@pytest.fixture(scope="module")
def contract(tmp_path_factory):
    """The issue's command at a small size: the document and the folder."""
    pytest.importorskip("jax")
    folder = tmp_path_factory.mktemp("contract")
    answer = run_in(folder, "run", "--impl", "numpy", "--impl", "jax", *TINY, *QUICK, "--out", "out", "--json")
    return strict_json(answer.stdout), folder / "out"


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """Both NKI variants on a simulated device, in two steps; the folder."""
    folder = tmp_path_factory.mktemp("predicted")
    run_in(folder, "build", *NKI, *TINY, "--out", "out")
    run_in(folder, "profile", "out")
    return folder / "out"


class TestContract:
    def test_every_implementation_has_the_keys_of_the_contract(self, contract):
        for row in contract[0]["results"]:
            assert {"compile_ms", "first_ms", "steady_ms", "steady_ci_low_ms", "steady_ci_high_ms", "max_abs_error", "device", "is_simulated"} <= set(row)  # fmt: skip
            assert row["is_simulated"] is False
            assert row["steady_ci_low_ms"] <= row["steady_ms"] <= row["steady_ci_high_ms"]
            assert 0 < row["max_abs_error"] < 0.01
        assert [(row["implementation"], row["device"]) for row in contract[0]["results"]] == [
            ("numpy", "cpu"),
            ("jax", "jax:cpu"),
        ]

    def test_compiling_is_told_apart_from_running_and_null_where_nothing_is_compiled(self, contract):
        numpy, jax = contract[0]["results"]
        assert numpy["compile_ms"] is None
        assert jax["compile_ms"] > jax["steady_ms"]
        assert jax["first_ms"] > 0

    def test_the_comparison_has_the_keys_of_the_contract(self, contract):
        made = contract[0]["comparison"]
        assert made["ci_low"] <= made["ratio"] <= made["ci_high"]
        assert made["ratio"] >= 1
        assert made["verdict"] in {"faster", "no difference shown"}
        assert {made["faster"], made["slower"]} == {"numpy", "jax"}
        assert made == contract[0]["comparisons"][0]

    def test_what_is_written_says_the_same_as_the_document(self, contract):
        document, folder = contract
        assert strict_json((folder / "results.json").read_text())["results"] == document["results"]
        rows = list(csv.DictReader((folder / "results.csv").open(encoding="utf-8")))
        assert [float(row["steady_ms"]) for row in rows] == [row["steady_ms"] for row in document["results"]]
        assert document["comparison"]["sentence"] in (folder / "comparison.txt").read_text()
        assert set(document["files"].values()) <= {path.name for path in folder.iterdir()}

    def test_the_page_needs_nothing_from_elsewhere(self, contract):
        page = (contract[1] / "report.html").read_text()
        assert not re.search(r"(?:src|href)\s*=|@import|url\(|<script", page)
        assert contract[0]["comparison"]["sentence"].replace("'", "&#x27;") in page

    def test_the_program_that_was_compiled_is_kept_and_can_be_read(self, contract):
        built = read_manifest(contract[1]).builds[1]
        assert built.hlo == "graph.hlo"
        assert read_hlo(contract[1] / built.folder / built.hlo).op_count > 5


class TestTwoSteps:
    def test_a_prediction_has_a_profile_that_can_be_analysed(self, predicted, run_cli):
        rows = strict_json((predicted / "results.json").read_text())["results"]
        for row in rows:
            assert row["is_simulated"] is True
            assert (row["compile_ms"], row["first_ms"], row["steady_ci_low_ms"]) == (None, None, None)
            assert row["tensor_us"] > 0
            assert row["dma_us"] > 0
            assert "median error" in row["model_error"]
            told = strict_json(run_cli("analyze", predicted / row["profile"], "--json").stdout)
            assert told["is_simulated"] is True
            assert told["kernel_time"]["ns"] == pytest.approx(1e6 * row["steady_ms"], rel=1e-3)

    def test_predictions_are_compared_with_predictions_and_called_so(self, predicted):
        (made,) = strict_json((predicted / "results.json").read_text())["comparisons"]
        assert made["method"] == "simulated"
        assert made["sentence"].endswith("PREDICTED")
        assert made["engines"]
        assert made["contributions"]

    def test_profiling_again_needs_another_folder(self, predicted, run_cli, assert_one_line_error):
        assert_one_line_error(run_cli("mlp", "profile", predicted), 2, "is there already", "--out")

    @pytest.mark.parametrize("name", ["comparison.txt", "results.csv", "report.html", "run.json", "results.json"])
    def test_a_file_that_is_there_is_never_replaced(self, name, predicted, tmp_path, run_cli, assert_one_line_error):
        copied = Path(shutil.copytree(predicted, tmp_path / "copy", ignore=lambda *_: ["profiles"]))
        for written in ("results.json", "results.csv", "comparisons.csv", "comparison.txt", "report.html", "run.json"):
            (copied / written).unlink()
        (copied / name).write_text("mine")
        assert_one_line_error(run_cli("mlp", "profile", copied), 2, f"{name} is there already", "--out")
        assert (copied / name).read_text() == "mine"

    def test_a_build_that_was_changed_is_refused(self, predicted, tmp_path, run_cli, assert_one_line_error):
        copied = Path(shutil.copytree(predicted, tmp_path / "copy"))
        (path,) = copied.glob("inputs/*/hidden_tensor.bin")
        path.write_bytes(bytes(path.stat().st_size))
        assert_one_line_error(
            run_cli("mlp", "profile", copied, "--out", "new"), 3, "hidden_tensor.bin", "build it again"
        )

    def test_a_users_source_that_changed_since_is_refused(self, tmp_path, run_cli, assert_one_line_error):
        source = tmp_path / "mine.py"
        shutil.copy(USERS, source)
        assert run_cli("mlp", "build", "--impl", "mine.py:right", *TINY, "--out", "out").returncode == 0
        source.write_text(source.read_text() + "\n")
        assert_one_line_error(run_cli("mlp", "profile", "out"), 3, "mine.py", "build it again")

    def test_the_two_scripts_for_nki_library_call_the_two_steps(self, tmp_path):
        for words in (
            ["benchmark_mlp_step1_generate_neff.py", *NKI, *TINY, "--out", "sim"],
            ["benchmark_mlp_step2_profile.py", "sim"],
        ):
            answer = subprocess.run(
                [sys.executable, EXAMPLE / words[0], *map(str, words[1:])],
                cwd=tmp_path, env=environment(), capture_output=True, encoding="utf-8", timeout=120, check=False,
            )  # fmt: skip
            assert answer.returncode == 0, answer.stderr
        rows = strict_json((tmp_path / "sim" / "results.json").read_text())["results"]
        assert {row["lnc"] for row in rows} == {2}


class TestMixed:
    def test_a_wall_clock_figure_and_a_prediction_stand_side_by_side_and_are_not_compared(self, tmp_path):
        answer = run_in(tmp_path, "run", "--impl", "numpy", "--impl", "nki-tokens", *TINY, *QUICK, "--out", "out")
        assert (
            "not compared: numpy and nki-tokens: a wall-clock figure of the host (dispatch is in it) is not compared with a prediction"
            in answer.stdout
        )
        (made,) = strict_json((tmp_path / "out" / "results.json").read_text())["comparisons"]
        assert (made["verdict"], made["ratio"], made["ci_low"]) == ("refused", None, None)

    def test_one_that_fails_is_a_row_and_the_exit_code_says_so(self, tmp_path):
        words = (
            "--impl",
            "numpy",
            "--impl",
            f"{USERS}:swapped",
            *TINY,
            *QUICK,
            "--rounds",
            3,
            "--out",
            "out",
            "--json",
        )
        document = strict_json(run_in(tmp_path, "run", *words, code=1).stdout)
        assert [row["status"] for row in document["results"]] == ["ok", "failed"]
        assert document["comparison"] is None

    def test_a_name_with_markup_stays_text(self, tmp_path):
        folder = tmp_path / "<b>x"
        folder.mkdir()
        shutil.copy(USERS, folder / "<script>alert(1)<.py")
        words = ("--impl", f"{folder}/<script>alert(1)<.py:right", *TINY, "--rounds", 3, *QUICK, "--out", "out")
        run_in(tmp_path, "run", *words)
        assert "<script" not in (tmp_path / "out" / "report.html").read_text()


class TestWrongUse:
    @pytest.mark.parametrize(
        ("words", "code", "told"),
        [
            (("run", "--impl", "nonesuch"), 2, "unknown implementation"),
            (("run", "--impl", "numpy", "--config", "b=1"), 2, "lacks sequence"),
            (("run", "--impl", "numpy", "--rounds", "2"), 2, "--rounds 2"),
            (("run", "--impl", "numpy", "--device", "sim:trn2"), 2, "runs on cpu"),
            (("run", "--device", "sim:trn9"), 2, "trn9"),
            (("run", "--impl", "numpy", "--time-limit", "0"), 2, "--time-limit"),
            (("run", "--impl", "numpy", "--nth-exec", "0"), 2, "--nth-exec"),
            (("run", "--impl", "numpy", "--seed", "-1"), 2, "--seed"),
            (("run", "--impl", "nki-tokens", "--lnc", "3"), 2, "--lnc 3"),
            (("run", "--impl", "numpy", "--method", "magic"), 2, "--method"),
            (("build", "--impl", "nkilib"), 4, "not available"),
            (("profile", "gone"), 2, "holds no manifest.json"),
            (("profil",), 2, "did you mean 'profile'"),
        ],
    )
    def test_is_one_line_and_leaves_nothing(self, words, code, told, run_cli, assert_one_line_error, tmp_path):
        out = () if words[0] != "run" else ("--out", "out")
        assert_one_line_error(run_cli("mlp", *words, *out), code, told)
        assert not (tmp_path / "out").exists()

    def test_a_missing_sdk_is_told_before_another_implementation_is_built(
        self, run_cli, assert_one_line_error, tmp_path
    ):
        words = ("mlp", "run", "--impl", "numpy", "--impl", "nkilib", *TINY, "--out", "out")
        assert_one_line_error(run_cli(*words), 4, "not available")
        assert not (tmp_path / "out").exists()

    def test_a_folder_that_is_not_empty_is_refused(self, tmp_path, run_cli, assert_one_line_error):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("keep me")
        assert_one_line_error(run_cli("mlp", "run", "--impl", "numpy", "--out", "out"), 2, "not empty")
        assert (tmp_path / "out" / "mine.txt").read_text() == "keep me"


@pytest.fixture
def package(tmp_path):
    """An installed package with an entry point that is right, and others that are not; what to put on PYTHONPATH."""
    folder = tmp_path / "site"
    (folder / "mine-1.0.dist-info").mkdir(parents=True)
    (folder / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    points = "good = mine:GOOD\ntaken = mine:TAKEN\nnone = mine:mlp\ngone = mine:GONE\n"
    (folder / "mine-1.0.dist-info" / "entry_points.txt").write_text(f"[npuscope.kernels]\n{points}")
    (folder / "mine.py").write_text(
        USERS.read_text()
        + """
from npuscope.workloads.kernels import KernelEntry
mlp = right
GOOD = KernelEntry("good", "mine:mlp", ("cpu",), "cpu", "as ours", "a test")
TAKEN = KernelEntry("numpy", "mine:mlp", ("cpu",), "cpu", "as ours", "a test")
"""
    )
    return {"PYTHONPATH": str(folder)}


class TestPackages:
    def test_an_entry_of_an_installed_package_is_listed_and_measured(self, package, run_cli):
        told = strict_json(run_cli("kernels", "list", "--json", env=package).stdout)
        assert told["kernels"][-1]["name"] == "good"
        answer = run_cli(
            "mlp", "run", "--impl", "good", *TINY, "--rounds", 3, *QUICK, "--out", "out", "--json", env=package
        )
        assert [row["status"] for row in strict_json(answer.stdout)["results"]] == ["ok"]

    def test_entry_points_that_give_none_are_told_and_stop_nothing(self, package, run_cli):
        answer = run_cli("kernels", "list", env=package)
        assert answer.returncode == 0
        left_out = [line for line in answer.stdout.splitlines() if line.startswith("left out: ")]
        assert len(left_out) == 3
        assert "the name numpy is taken" in "".join(left_out)
        assert "cannot be loaded: AttributeError" in "".join(left_out)
        assert "is no KernelEntry" in "".join(left_out)


def test_the_list_of_kernels_names_devices_targets_and_the_reference(call_cli):
    document = json.loads(call_cli("kernels", "list", "--json").stdout)
    names = [entry["name"] for entry in document["kernels"]]
    assert names == ["numpy", "jax", "jax-naive", "openvino", "nki-tokens", "nki-columns", "nkilib", "neuronxcc"]
    shown = call_cli("kernels", "list").stdout
    for entry in document["kernels"]:
        assert entry["target"] in shown
        assert entry["devices"]
