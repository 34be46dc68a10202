"""Comparisons of kernels: which are made, what they say, and which are refused and why."""

from dataclasses import replace

import numpy as np
import pytest

from npuscope.analysis.kernel_comparison import FASTER, NO_DIFFERENCE, REFUSED, compare_runs, compare_two
from npuscope.analysis.kernel_row import DEVICE, SIMULATED, WALL_CLOCK, KernelRow, KernelRun
from npuscope.formats.hlo_reader import parse_hlo
from npuscope.report.kernel_tables import comparison_lines, csv_text, sheets
from tests.writers.hlo import Function, module_bytes, shape


def run(name="a", ns=1000.0, *, spread=0.01, rounds=5, seed=0, **fields):
    """An implementation whose rounds lie around `ns`."""
    levels = ns * (1 + spread * np.random.default_rng(seed).standard_normal(rounds))
    values = {
        "implementation": name, "device": "cpu", "is_simulated": False, "method": WALL_CLOCK, "config": "b=1, s=2, h=3, i=4",
        "batch": 1, "sequence": 2, "hidden": 3, "intermediate": 4, "dtype": "float32", "status": "ok",
        "steady_ms": float(np.median(levels)) / 1e6, "rounds": rounds, "is_checked": True, "inputs_sha256": "x",
        "round_medians_ms": tuple(levels / 1e6), "device_description": "a processor", **fields,
    }  # fmt: skip
    return KernelRun(KernelRow(**values))


def program(opcode):
    """An XLA program of one op on two parameters."""
    main, result = Function("main"), shape("f32", 8)
    main.op(opcode, result, main.parameter(result), main.parameter(result))
    return parse_hlo(module_bytes(main), source=opcode)


def with_row(item, **fields):
    return replace(item, row=replace(item.row, **fields))


class TestVerdicts:
    def test_a_clear_difference_is_told_with_its_interval(self):
        made = compare_two(run("a", 1000, seed=1), run("b", 1500, seed=2))
        assert (made.verdict, made.faster, made.slower) == (FASTER, "a", "b")
        assert made.ci_low < made.ratio < made.ci_high
        assert made.ratio == pytest.approx(1.5, rel=0.05)
        assert made.sentence.startswith(
            f"a is {made.ratio:.2f}x [{made.ci_low:.2f}, {made.ci_high:.2f}] faster than b ("
        )

    def test_the_order_of_the_two_changes_nothing_but_names(self):
        one, other = run("a", 1000, seed=1), run("b", 1500, seed=2)
        forth, back = compare_two(one, other), compare_two(other, one)
        assert (forth.faster, forth.ratio, forth.ci_low) == (back.faster, back.ratio, back.ci_low)
        assert [part.change_ms for part in forth.contributions] == [-part.change_ms for part in back.contributions]

    def test_the_same_program_twice_shows_no_difference(self):
        shown = [compare_two(run("a", seed=2 * n), run("b", seed=2 * n + 1)).verdict for n in range(40)]
        assert shown.count(NO_DIFFERENCE) >= 36

    def test_a_small_difference_between_wide_rounds_is_not_shown(self):
        made = compare_two(run("a", 1000, spread=0.2, seed=1), run("b", 1050, spread=0.2, seed=5))
        assert made.verdict == NO_DIFFERENCE
        assert "no difference shown" in made.sentence
        assert made.ci_low <= 1 <= made.ci_high

    def test_a_drift_that_hits_both_alike_does_not_hide_a_difference(self):
        drift = np.array([1.0, 1.5, 2.0, 3.0, 4.0])
        drifted = []
        for name, ns in (("a", 1000), ("b", 1100)):
            levels = tuple(ns * drift / 1e6)
            drifted.append(run(name, ns, round_medians_ms=levels, steady_ms=float(np.median(levels))))
        assert compare_two(*drifted).verdict == FASTER

    def test_predictions_have_no_interval_and_are_called_so(self):
        fields = {"method": SIMULATED, "is_simulated": True, "device": "sim:trn2", "rounds": 1}
        made = compare_two(run("a", 1000, **fields), run("b", 1500, **fields))
        assert (made.verdict, made.ci_low, made.ci_high) == (FASTER, None, None)
        assert made.sentence.endswith("PREDICTED")
        assert compare_two(run("a", 1000, **fields), run("b", 1080, **fields)).verdict == NO_DIFFERENCE


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "told"),
        [
            ({"method": DEVICE, "device": "neuron"}, "the device's own clock"),
            ({"method": SIMULATED, "device": "sim:trn2", "is_simulated": True}, "a prediction"),
            ({"device": "jax:cuda"}, "different devices"),
            ({"device_description": "another processor"}, "different devices"),
            ({"inputs_sha256": "y"}, "inputs differ"),
            ({"lnc": 2}, "physical cores"),
            ({"is_checked": False}, "could be compared with float64"),
            ({"rounds": 4}, "fewer than 5 rounds (4)"),
        ],
    )
    def test_what_is_not_comparable_is_refused_with_the_reason(self, fields, told):
        made = compare_two(run("a"), with_row(run("b", 2000), **fields))
        assert (made.verdict, made.ratio, made.faster, made.slower) == (REFUSED, None, "", "")
        assert told in made.reason
        assert made.reason in made.sentence

    def test_frameworks_of_one_processor_are_one_device(self):
        made = compare_two(run("a"), with_row(run("b", 2000), device="jax:cpu"))
        assert made.verdict == FASTER

    def test_failed_rows_and_other_sizes_are_left_out(self):
        runs = [run("a"), with_row(run("b"), status="failed"), with_row(run("c"), config="other"), run("d")]
        assert [(item.first, item.second) for item in compare_runs(runs)] == [("a", "d")]


class TestExplanation:
    def test_what_the_host_spends_on_starting_programs_is_told_apart(self):
        one = with_row(run("a", 10_000, spread=0), dispatch_floor_ms=0.001, dispatches=1.0)
        five = with_row(run("b", 14_000, spread=0, seed=1), dispatch_floor_ms=0.001, dispatches=5.0)
        made = compare_two(one, five)
        parts = {part.part: part for part in made.contributions}
        assert parts["dispatch"].change_ms == pytest.approx(0.004)
        assert sum(part.change_ms for part in made.contributions) == pytest.approx(
            five.row.steady_ms - one.row.steady_ms
        )
        assert "a runs 1 compiled programs per execution, b 5" in made.remarks

    def test_what_the_programs_of_two_differ_in_is_told(self):
        one, other = (program(opcode) for opcode in ("add", "multiply"))
        made = compare_two(replace(run("a"), program=one), replace(run("b", 2000), program=other))
        assert made.remarks[0].startswith("their XLA programs differ in what they do")
        same = compare_two(replace(run("a"), program=one), replace(run("b", 2000), program=one))
        assert same.remarks == ("their XLA programs are the same",)

    def test_another_type_to_multiply_in_is_remarked(self):
        made = compare_two(with_row(run("a"), compute_dtype="float32"), with_row(run("b"), compute_dtype="bfloat16"))
        assert made.remarks == ("a multiplies in float32, b in bfloat16",)


class TestTables:
    def test_wall_clock_device_time_and_predictions_never_share_a_table(self):
        captured = with_row(
            run("c", method=DEVICE, device="neuron"),
            tensor_us=1.0,
            dma_us=2.0,
            mfu=0.0566,
            host_ms=4039.86,
            host_recompilations=1.0,
        )
        predicted = run("s", method=SIMULATED, device="sim:trn2", is_simulated=True)
        failed = with_row(run("f"), status="failed", error="it broke")
        made = sheets([run("a").row, captured.row, predicted.row, failed.row])
        names = [[row[0] for row in sheet.rows] for sheet in made]
        assert names == [["a"], ["c"], ["c"], ["s"], ["f"]]
        assert "SIMULATED" in made[3].title
        assert dict(zip(made[1].headings, made[1].rows[0], strict=True))["MFU"] == "5.7 %"
        assert dict(zip(made[2].headings, made[2].rows[0], strict=True))["torch time"] == "4.04 s"
        assert "COMPILES AGAIN 1 TIMES PER CALL" in made[2].rows[0]

    def test_every_pair_has_a_line_and_every_refusal_its_reason(self):
        runs = [run("a"), run("b", 2000, seed=1), run("s", method=SIMULATED, device="sim:trn2", is_simulated=True)]
        lines = comparison_lines(compare_runs(runs))
        assert sum("faster than" in line for line in lines) == 1
        assert sum(line.startswith("not compared: a and s, b and s: ") for line in lines) == 1

    def test_names_in_a_csv_start_no_formula(self):
        text = csv_text([with_row(run("=cmd()"), warnings=("one", "two")).row])
        assert text.splitlines()[1].startswith("'=cmd()")
        assert "one | two" in text
