"""Write the pages that follow from the code: the command reference and the table of hardware facts."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from npuscope.analysis.xdna_decomposition import seed_call_lines
from npuscope.hardware.model import hardware_names, load_hardware
from npuscope.simulate.nki.coverage import coverage_page
from npuscope.simulate.nki.modules import simulated_modules
from npuscope.simulate.validation import Comparison, Report, stored, validate
from npuscope.simulate.validation.measures import MEASURES
from npuscope.simulate.validation.points import RULE, digest
from npuscope.simulate.validation.stored import store_errors
from npuscope.simulate.xdna import validate_xdna
from npuscope.simulate.xdna.page import HEADING, validation_part

DOCS = Path(__file__).parent
COMMANDS = (
    "doctor",
    "inspect",
    "ingest",
    "analyze",
    "query",
    "export",
    "compare",
    "matmul",
    "tiling",
    "buckets",
    "simulate",
    "patterns",
    "capture",
    "mlp build",
    "mlp profile",
    "mlp run",
    "kernels list",
    "xdna plan",
    "xdna bench",
    "xdna kernels",
    "cache doctor",
    "cache ls",
    "cache du",
    "cache prune",
)
"""In the order of the page; a command of a group is named with its group."""


def command_reference() -> str:
    """Each command's help as it stands."""
    parts = ["# Commands", "", "Made from `npuscope COMMAND --help` by `make docs`."]
    for command in COMMANDS:
        answer = subprocess.run(
            [sys.executable, "-m", "npuscope", *command.split(), "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100"},
        )
        parts += ["", f"## npuscope {command}", "", "```text", answer.stdout.strip(), "```"]
    return "\n".join(parts) + "\n"


def hardware_facts() -> str:
    """Every number with its source."""
    parts = ["# Hardware facts", "", "Made from `src/npuscope/hardware/data` by `make docs`."]
    for name in hardware_names():
        facts = load_hardware(name)
        parts += ["", f"## {name}", "", f"{facts.name}", "", "| fact | value | source |", "|---|---|---|"]
        parts += [
            f"| `{item.name}` | {getattr(facts, item.name)} | {facts.sources[item.name]} |"
            for item in fields(facts)
            if item.name not in {"name", "sources"}
        ]
    return "\n".join(parts) + "\n"


def validation_page(report: Report) -> str:
    """The timing model against published measurements, worst first."""
    parts = [
        "# Validation of the NeuronCore timing model",
        "",
        f"Made by `npuscope.simulate.validation.validate()` with model `{report.model}`, constants and points"
        f" `{report.digest}`: {len(report.comparisons)} figures. Every predicted figure is simulated; every published one was"
        " measured by its source.",
        "",
        RULE,
        "",
        "The error is relative to the published figure, or to the nearer end of a published range. Bucket `counts` holds"
        " figures that are exact by counting; it is no part of `all`.",
        "",
        "| role | bucket | points | median error | largest error |",
        "|---|---|---:|---:|---:|",
    ]
    parts += [
        f"| {line.role} | {line.bucket} | {line.count} | {line.median_percent:.1f} % | {line.max_percent:.1f} % |"
        for line in report.errors
    ]
    parts += ["", "## Points, worst first", ""]
    parts += ["| family | case | device | bucket | role | quantity | published | predicted | error |"]
    parts += ["|---|---|---|---|---|---|---:|---:|---:|"]
    parts += [_validation_row(result) for result in report.comparisons]
    parts += ["", "## Families", "", "| family | kernel | source | doubts |", "|---|---|---|---|"]
    families = {result.point.family: result.point for result in report.comparisons}
    parts += [
        f"| {name} | {point.kernel or 'the program of a compiler'} | {point.source} | {point.note} |"
        for name, point in sorted(families.items())
    ]
    return "\n".join(parts) + "\n"


def _validation_row(result: Comparison) -> str:
    point = result.point
    low, high = (f"{value:,.6g}" for value in (point.low, point.high))
    published = low if low == high else f"{low} to {high}"
    predicted = "-" if result.predicted is None else f"{result.predicted:,.4g}"
    error = result.failure if result.error is None else f"{100 * result.error:+.1f} %"
    quantity = f"{MEASURES[point.quantity].label}, {result.unit}" if point.quantity in MEASURES else result.unit
    head = f"| {point.family} | {point.name} | {point.device} | {point.bucket} | {point.role} | {quantity} "
    return head + f"| {published} | {predicted} | {error} |"


if __name__ == "__main__":
    (DOCS / "commands.md").write_text(command_reference(), encoding="utf-8")
    (DOCS / "hardware.md").write_text(hardware_facts(), encoding="utf-8")
    (DOCS / "nki.md").write_text(coverage_page(simulated_modules()), encoding="utf-8")
    page = DOCS / "validation.md"
    first = page.read_text(encoding="utf-8").split(HEADING)[0].rstrip() + "\n"
    if "--validate" in sys.argv or digest() not in first:  # some minutes of simulation
        report = validate(tell=print)
        first = validation_page(report)
        store_errors(report, Path(stored.__file__).parent / "data")
    second = validation_part(validate_xdna(), seed_call_lines())
    page.write_text(f"{first}\n{second}", encoding="utf-8")
