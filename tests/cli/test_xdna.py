"""`npuscope xdna` and XDNA devices of `npuscope matmul`: the contract, what people read, wrong use."""

import csv
import json
import subprocess

import pytest

from tests.cli.conftest import command, environment, strict_json

PHASES = {"convert", "allocate", "pack", "sync_to", "run", "sync_from", "unpack"}
COUNTS = {
    "per-tile": (3008, 3008),
    "batched-loop": (376, 3008),
    "row": (376, 376),
    "k-on-device": (47, 47),
    "several-rows": (12, 12),
    "packed": (47, 47),
    "run-list": (126, 126),
    "whole-array": (1, 1),
}


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    """The contract's command."""
    answer = subprocess.run(
        command("xdna", "bench", 3001, 512, 512, "--strategy", "all", "--device", "sim:npu1", "--runs", 1, "--json"),
        cwd=tmp_path_factory.mktemp("bench"),
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return strict_json(answer.stdout)


class TestPlan:
    def test_the_contract(self, run_cli):
        answer = run_cli("xdna", "plan", 3001, 512, 512, "--dtype", "bfloat16", "--device", "sim:npu1", "--json")
        assert answer.returncode == 0, answer.stderr
        document = strict_json(answer.stdout)
        assert document["is_simulated"] is True
        assert document["fewest_dispatches"] == 1
        for plan in document["plans"]:
            assert len(plan["tile"]) == 3
            assert [plan["m"], plan["k"], plan["n"]] == plan["tile"]
            assert plan["l1_bytes"] <= 65536
            assert plan["predicted_us"] > 0
            assert plan["bound"] in {"compute", "dram", "stream", "dispatch"}
            assert plan["dispatches"] >= 1
            assert plan["cores"] in {1, 4, 8, 16}
        reasons = " ".join(item["reason"] for item in document["rejected"])
        assert "64x64x512 bfloat16 on one core needs 136 KB of 64 KB" in reasons
        assert "on 8 cores (64 columns each) 40 KB" in reasons
        assert {rung["strategy"]: rung["dispatches"] for rung in document["ladder"]} == {
            name: sent for name, (_, sent) in COUNTS.items()
        }

    def test_text_says_that_nothing_ran_why_and_how_wrong(self, run_cli):
        answer = run_cli("xdna", "plan", 3001, 512, 512)
        assert "PREDICTED, nothing ran" in answer.stdout
        assert "why 1 dispatch: K runs through on the device" in answer.stdout
        assert "on average and" in answer.stdout
        assert "rejected: 64x64x512 on 1x1" in answer.stdout

    def test_a_tile_of_ones_own_is_judged(self, run_cli):
        answer = run_cli("xdna", "plan", 3001, 512, 512, "--tile", "64x64x512@1", "--tile", "64x64x64", "--json")
        refused, taken = strict_json(answer.stdout)["asked"]
        assert refused["constraint"] == "core-memory"
        assert (taken["dispatches"], taken["cores"]) == (1, 16)

    def test_an_observed_time_is_taken_apart_and_called_an_inference(self, run_cli):
        answer = run_cli("xdna", "plan", 3001, 512, 512, "--observed", "54.4ms")
        assert "54.4 ms for a call of 64x64x64" in answer.stdout
        assert "inference" in answer.stdout
        document = strict_json(run_cli("xdna", "plan", 64, 64, 64, "--observed", "54.4ms", "--json").stdout)
        assert document["explained"]["compute_share"][1] < 0.001

    def test_sixty_five_thousand_in_each_dimension_are_planned(self, run_cli):
        document = strict_json(run_cli("xdna", "plan", 65536, 65536, 65536, "--device", "npu2", "--json").stdout)
        assert document["fewest_dispatches"] > 1
        assert "a command must end well before 2,000 ms" in document["why_fewest"]

    def test_power_mode_and_clock_change_the_time(self, run_cli):
        def best(*options):
            return strict_json(run_cli("xdna", "plan", 3001, 512, 512, *options, "--json").stdout)["plans"][0][
                "predicted_us"
            ]

        assert best("--power-mode", "powersaver") > best("--power-mode", "turbo") == best("--clock-ghz", 1.6)

    @pytest.mark.parametrize(
        ("arguments", "part"),
        [
            (("0", 512, 512), "M = 0 must be a positive whole number"),
            (("-3", 512, 512), "M = -3 must be a positive whole number"),
            (("x", 512, 512), "M = 'x' is no whole number"),
            (("99999999999", "99999999999", 1), "too large"),
            ((64, 64, 64, "--device", "sim:npu3"), "did you mean 'sim:npu"),
            ((64, 64, 64, "--dtype", "float32"), "unknown dtype of an XDNA kernel"),
            ((64, 64, 64, "--out-dtype", "int8"), "unknown result type of bfloat16"),
            ((64, 64, 64, "--cores", 5), "use 1, 4, 8, 16"),
            ((64, 64, 64, "--kernel-set", "best"), "unknown kernel set"),
            ((64, 64, 64, "--clock-ghz", 1, "--power-mode", "turbo"), "both set the clock"),
            ((64, 64, 64, "--clock-ghz", 0), "must lie between"),
            ((64, 64, 64, "--tile", "64x64"), "--tile"),
            ((64, 64, 64, "--tile", "64x64x64@3"), "cores must be one of 1, 4, 8, 16"),
            ((64, 64, 64, "--buffers", "3,2,1"), "--buffers"),
            ((64, 64, 64, "--bfp16"), "--bfp16 is for bfloat16 on sim:npu2"),
            ((64, 64, 64, "--observed", "soon"), "--observed 'soon' is no time"),
            ((64, 64, 64, "--top", 0), "--top 0"),
        ],
    )
    def test_wrong_use_is_one_line(self, run_cli, assert_one_line_error, arguments, part):
        assert_one_line_error(run_cli("xdna", "plan", *arguments), 2, part)


class TestBench:
    def test_every_strategy_sends_what_the_research_says(self, document):
        sent = {
            row["strategy"]: (row["claimed_dispatches"], row["counted_dispatches"]) for row in document["strategies"]
        }
        assert sent == COUNTS

    def test_every_row_has_the_keys_of_the_contract(self, document):
        for row in document["strategies"]:
            assert row["is_simulated"] is True
            assert set(row["host_us"]) == PHASES
            assert all(value >= 0 for value in row["host_us"].values())
            assert row["device_us"] > 0
            assert row["within_bound"] is True
            assert 0 < row["max_abs_error"] < 5

    def test_fewer_dispatches_take_less_device_time(self, document):
        times = {row["strategy"]: row["device_us"] for row in document["strategies"]}
        assert times["per-tile"] > times["row"] > times["k-on-device"] > times["several-rows"] > times["whole-array"]

    def test_cold_warm_and_woken_are_apart(self, document):
        for row in document["strategies"]:
            assert row["cold_open_us"] >= 67_000
            assert row["cold_device_us"] - row["device_us"] == pytest.approx(3400, rel=1e-6)  # the array is configured
            assert row["idle_wake_us"] > 100_000

    def test_a_run_list_carries_every_tile(self, document):
        (row,) = [row for row in document["strategies"] if row["strategy"] == "run-list"]
        assert row["counted_commands"] == 3008

    def test_the_seeds_table_divides_by_both_counts(self, document):
        (line,) = document["batched_tables"]
        assert (line["claimed_calls"], line["counted_calls"]) == (376, 3008)
        assert line["per_claimed_call_us"] == pytest.approx(8 * line["per_counted_call_us"])

    def test_batches_and_sizes_of_the_seeds_scripts(self, run_cli):
        answer = run_cli(
            "xdna",
            "bench",
            "130,64",
            64,
            128,
            "--strategy",
            "batched-loop",
            "--batch",
            1,
            "--batch",
            2,
            "--runs",
            1,
            "--json",
        )
        lines = strict_json(answer.stdout)["batched_tables"]
        assert [(line["size"], line["batch"], line["claimed_calls"], line["counted_calls"]) for line in lines] == [
            ("130x64x128", 1, 6, 6),
            ("130x64x128", 2, 3, 6),
            ("64x64x128", 1, 2, 2),
            ("64x64x128", 2, 1, 2),
        ]

    def test_text_marks_what_is_claimed_and_not_sent(self, run_cli):
        answer = run_cli("xdna", "bench", 130, 64, 512, "--runs", 1, env={"COLUMNS": "200"})
        assert "device times are SIMULATED, host times measured" in answer.stdout
        assert "24 !" in answer.stdout
        assert "batched-loop: claims 3 dispatches and sends 24" in answer.stdout

    @pytest.mark.parametrize("dtype", ["int8", "int16"])
    def test_integers_are_exact(self, run_cli, dtype):
        answer = run_cli("xdna", "bench", 65, 130, 33, "--dtype", dtype, "--runs", 1, "--json")
        assert answer.returncode == 0, answer.stderr
        for row in strict_json(answer.stdout)["strategies"]:
            assert row["max_abs_error"] == 0
            assert row["within_bound"] is True

    def test_shapes_of_one_are_padded_and_right(self, run_cli):
        answer = run_cli("xdna", "bench", 1, 1, 1, "--runs", 1, "--json")
        assert answer.returncode == 0, answer.stderr
        assert all(row["counted_dispatches"] == 1 for row in strict_json(answer.stdout)["strategies"])

    def test_what_does_not_fit_this_machine_is_refused_with_what_it_needs(self, run_cli, assert_one_line_error):
        answer = run_cli("xdna", "bench", 65536, 65536, 65536)
        assert_one_line_error(answer, 2, "npuscope xdna plan predicts it without running it")

    @pytest.mark.parametrize(
        ("arguments", "part"),
        [
            (("--strategy", "rows"), "did you mean 'row'"),
            (("--runs", 0), "--runs 0"),
            (("--scale", "nan"), "--scale nan"),
            (("--batch", 0), "--batch must be at least 1"),
            (("--rounding", "up"), "unknown rounding"),
            (("--device", "cpu"), "unknown XDNA device"),
            (("--kernels", "nowhere"), "--kernels is for device xdna"),
        ],
    )
    def test_wrong_use_is_one_line(self, run_cli, assert_one_line_error, arguments, part):
        answer = run_cli("xdna", "bench", 64, 64, 64, *arguments)
        assert_one_line_error(answer, 2, part)

    def test_without_pyxrt_the_real_device_is_missing_not_replaced(self, run_cli, assert_one_line_error):
        answer = run_cli("xdna", "bench", 64, 64, 64, "--device", "xdna")
        assert_one_line_error(answer, 4, "pyxrt cannot be imported")


class TestMatmul:
    def test_a_row_is_one_prediction_and_says_so(self, run_cli, tmp_path):
        answer = run_cli(
            "matmul",
            "--shape",
            "3001x512x512",
            "--shape",
            "1x1x1",
            "--dtype",
            "bf16",
            "--device",
            "sim:npu1",
            "--out",
            "r",
            "--json",
        )
        assert answer.returncode == 0, answer.stderr
        first, smallest = strict_json(answer.stdout)["rows"]
        assert first["is_simulated"] is True
        assert first["device"] == "sim:npu1"
        assert first["samples"] == 1
        assert first["latency_ci_low_ms"] is None
        assert first["first_run_ms"] - first["latency_ms"] == pytest.approx(3.4)
        assert smallest["dispatch_share"] == 1
        assert first["error_over_mass"] <= first["tolerance_over_mass"]
        with (tmp_path / "r" / "results.csv").open() as file:
            assert {row["is_simulated"] for row in csv.DictReader(file)} == {"true"}

    def test_the_contracts_command_needs_no_type(self, run_cli):
        answer = run_cli("matmul", "--shape", "48x48x48", "--device", "sim:npu1", "--json")
        assert answer.returncode == 0, answer.stderr
        (row,) = strict_json(answer.stdout)["rows"]
        assert (row["dtype"], row["status"]) == ("bfloat16", "ok")

    def test_more_kernels_than_hardware_contexts_take_turns(self, run_cli):
        shapes = [option for size in range(1, 10) for option in ("--shape", f"{40 * size}x{24 * size}x{56 * size}")]
        answer = run_cli("matmul", *shapes, "--dtype", "int8", "--device", "sim:npu1", "--json")
        assert answer.returncode == 0, answer.stderr
        assert {row["status"] for row in strict_json(answer.stdout)["rows"]} == {"ok"}

    def test_plan_bench_and_matmul_agree(self, run_cli):
        types = ("--out-dtype", "float32")
        planned = strict_json(run_cli("xdna", "plan", 300, 128, 192, *types, "--json").stdout)
        benched = run_cli("xdna", "bench", 300, 128, 192, *types, "--strategy", "whole-array", "--runs", 1, "--json")
        measured = run_cli("matmul", "--shape", "300x128x192", "--device", "sim:npu1", "--json")
        times = [
            planned["plans"][0]["predicted_us"],
            planned["ladder"][-1]["predicted_us"],
            strict_json(benched.stdout)["strategies"][0]["device_us"],
            1e3 * strict_json(measured.stdout)["rows"][0]["latency_ms"],
        ]
        assert times == pytest.approx([times[0]] * 4, abs=0.01)

    def test_text_says_simulated(self, run_cli):
        answer = run_cli("matmul", "--shape", "64x64x64", "--dtype", "int8", "--device", "sim:npu2")
        assert answer.returncode == 0, answer.stderr
        assert "matmul on sim:npu2 (simulated)" in answer.stdout

    def test_a_type_that_the_array_lacks_is_refused(self, run_cli, assert_one_line_error):
        answer = run_cli("matmul", "--shape", "64x64x64", "--dtype", "float32", "--device", "sim:npu1")
        assert_one_line_error(answer, 2, "device sim:npu1 has no float32 matmul; it has bfloat16, int8")

    @pytest.mark.parametrize("name", ["patterns", "mlp"])
    def test_commands_without_xdna_refuse_it(self, run_cli, name):
        arguments = {"patterns": ("patterns",), "mlp": ("mlp", "run")}[name]
        answer = run_cli(*arguments, "--device", "sim:npu1")
        assert answer.returncode == 2
        assert len(answer.stderr.strip().splitlines()) == 1


class TestKernels:
    def test_a_build_command_and_a_manifest_are_printed(self, run_cli):
        answer = run_cli("xdna", "kernels", "--build", "3072x512x512", "--tile", "64x64x64")
        assert answer.returncode == 0, answer.stderr
        for part in ("whole_array", "M=3072", "K=512", "N=512", "m=64", "k=64", "n=64", "n_aie_cols=4", "xclbin = "):
            assert part in answer.stdout

    def test_what_was_printed_is_a_manifest_whose_files_are_missed(self, run_cli, tmp_path):
        printed = json.loads(run_cli("xdna", "kernels", "--build", "3072x512x512", "--json").stdout)
        (tmp_path / "kernels").mkdir()
        (tmp_path / "kernels" / "mm.toml").write_text(printed["manifest"])
        answer = run_cli("xdna", "kernels", "kernels", "--json")
        assert answer.returncode == 1
        (kernel,) = strict_json(answer.stdout)["kernels"]
        assert any("xclbin" in text for text in kernel["check"]["problems"])

    def test_no_folder_is_told_what_to_do(self, run_cli, assert_one_line_error):
        assert_one_line_error(run_cli("xdna", "kernels"), 2, "--build MxKxN")
