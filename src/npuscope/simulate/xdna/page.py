"""The report on the XDNA timing model as text: a page of documentation and lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from npuscope.simulate.xdna.points import load_sets
from npuscope.simulate.xdna.validation import XdnaReport

HEADING = "# Validation of the XDNA timing model"
RULE = (
    "A point that took part in a fit is predicted by a fit to the others (`left out`). DRAM's rate is fitted per generation to"
    " the tuned points; kernel rates per generation and types, as 1 / rate = a + c / k; dispatch and rate of the stock kernels on"
    " npu1 to seven shapes. Every other set is only checked, with the calibrations as they are. A few of those gave a stock"
    " kernel of npu2 its rate, as their notes say: such points test the form, not the number."
)


def report_lines(report: XdnaReport) -> list[str]:
    """The errors, worst first, for a terminal."""
    lines = [f"XDNA timing model ({report.digest}) against {len(report.comparisons)} published figures; SIMULATED"]
    lines += [
        f"{line.group}, {line.array}: {line.count} points{', left out' if line.left_out else ''}:"
        f" mean {100 * line.mean:.1f} %, largest {100 * line.max:.1f} %"
        for line in report.errors
    ]
    worst = report.comparisons[0]
    lines.append(f"worst point: {worst.group}, {worst.name}: {100 * worst.error:+.1f} %")
    return lines


def validation_part(report: XdnaReport, call: Sequence[str]) -> str:
    """The part of the validation page on XDNA.

    Args:
        report: What `validate_xdna` found.
        call: Lines that take one reported time per call apart.
    """
    parts = [
        HEADING,
        "",
        f"Made by `npuscope.simulate.xdna.validate_xdna()` with calibrations and points `{report.digest}`:"
        f" {len(report.comparisons)} figures. Every predicted figure is simulated; every published one was measured by its source.",
        "",
        RULE,
        "",
        "| set | array | points | left out | mean error | largest error |",
        "|---|---|---:|---|---:|---:|",
    ]
    parts += [
        f"| {line.group} | {line.array} | {line.count} | {'yes' if line.left_out else 'no'} | {100 * line.mean:.1f} % | {100 * line.max:.1f} % |"
        for line in report.errors
    ]
    parts += ["", *_clock(report), "", *_dram(report), "", *_overlap(report), "", *_thin(), ""]
    parts += ["## XDNA points, worst first", "", "| set | array | case | published | predicted | error |"]
    parts += ["|---|---|---|---:|---:|---:|"]
    parts += [
        f"| {item.group} | {item.array} | {item.name} | {item.published:,.5g} {item.unit} | {item.predicted:,.5g} {item.unit}"
        f" | {100 * item.error:+.1f} % |"
        for item in report.comparisons
    ]
    parts += ["", "## XDNA sets", "", "| set | use | source | doubts |", "|---|---|---|---|"]
    parts += [f"| {found.name} | {found.use} | {found.source} | {found.note} |" for found in load_sets()]
    return "\n".join([*parts, "", *call]) + "\n"


def _clock(report: XdnaReport) -> list[str]:
    lines = [
        "## The clock of a Phoenix",
        "",
        "The driver's table of npu1 ends at 1.6 GHz, while arXiv:2512.13282 says that a Phoenix computes at 1 GHz at most. Its rates"
        " in TOPS decide: with the published kernel rates, each point left out, the mean error is",
        "",
        "| array | clock | mean error |",
        "|---|---:|---:|",
    ]
    lines += [
        f"| {array} | {clock:g} GHz | {100 * error:.1f} % |"
        for array, clocks in report.clock_errors.items()
        for clock, error in clocks.items()
    ]
    return [
        *lines,
        "",
        "So `tuned` and `stock` of npu1 hold at 1.0 GHz: a Phoenix. The marketed 10 TOPS of a Phoenix and 16 of a Hawk Point are 20"
        " cores of 512 operations per cycle at 1.0 and 1.6 GHz, and an audit of an 8700G measured 1.80 GHz. For a Hawk Point, give"
        " the clock; what a Phoenix's hardware clock has to do with the driver's table, nothing that we read says.",
    ]


def _dram(report: XdnaReport) -> list[str]:
    rates = report.dram_gb_s
    per_column = {"npu1": rates["npu1"] / 4 / 1.0, "npu2": rates["npu2"] / 8 / 1.8}
    return [
        "## What DRAM gives",
        "",
        f"Fitted: {rates['npu1']:.1f} GB/s for 4 columns at 1.0 GHz and {rates['npu2']:.1f} GB/s for 8 columns at 1.8 GHz. That is"
        f" {per_column['npu1']:.2f} and {per_column['npu2']:.2f} bytes per column and cycle. That a design gets the share of its columns,"
        " and that the share follows the clock, is our inference; the one-column designs of amd/IRON's continuous integration,"
        " which no fit saw, are its test. Against it: a matrix times a vector on one column of a Krackan moved 12.8 GB/s"
        " (krackan/small/latest.csv), so it is what these matmuls reach, not what a column can.",
    ]


def _overlap(report: XdnaReport) -> list[str]:
    stock = report.of("stock on npu1", "npu1")
    low, high = report.serial_dram_gb_s
    interval = (
        f"{low:.0f} GB/s and more, without an upper end" if high == float("inf") else f"{low:.0f} to {high:.0f} GB/s"
    )
    dispatch, rate = report.stock_dispatch_us, report.stock_gmacs_per_core
    return [
        "## Stock kernels: no sign of time for memory",
        "",
        f"Seven shapes of iron.GEMM follow dispatch + compute with two numbers: {dispatch[0]:.0f} ± {dispatch[1]:.0f} µs and"
        f" {rate[0]:.1f} ± {rate[1]:.1f} G multiplications per second and core (95 %), each shape left out in turn: mean error"
        f" {100 * stock.mean:.1f} %, largest {100 * stock.max:.1f} %. A third term for memory, added to them, makes the prediction of a left-out shape worse:"
        f" mean {100 * report.serial_mean_error:.1f} %, largest {100 * report.serial_max_error:.1f} %. The rate of DRAM is not"
        f" identified by them: its 95 % interval is {interval}. So compute and data overlap in the model of stock kernels too.",
    ]


def _thin() -> list[str]:
    return [
        "## Where the evidence is thin",
        "",
        "- One int8 design took 2.59 ms on a Strix and 4.02 ms on a Strix Halo; bfloat16 2048^3 took 7.9 ms on a Krackan and 24.7 ms"
        " on a Strix Halo in its default power mode. No model without the power mode can be right on both.",
        "- Stock kernels on npu2 and all of int16 rest on one or two points per type, or on a relative's numbers: their `source` says so.",
        "- Small designs of the continuous integration scatter by a factor of two from day to day, and the model, which has the floor of a"
        " kernel in a loop, is below them.",
        "- That contiguous runs below 128 bytes slow the stock designs in proportion follows from three designs on one Strix.",
    ]
