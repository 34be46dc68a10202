"""Write the pages that follow from the code: the command reference and the table of hardware facts."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from npuscope.hardware.model import hardware_names, load_hardware
from npuscope.simulate.nki.coverage import coverage_page
from npuscope.simulate.nki.modules import simulated_modules

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
)


def command_reference() -> str:
    """Each command's help as it stands."""
    parts = ["# Commands", "", "Made from `npuscope COMMAND --help` by `make docs`."]
    for command in COMMANDS:
        answer = subprocess.run(
            [sys.executable, "-m", "npuscope", command, "--help"],
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


if __name__ == "__main__":
    (DOCS / "commands.md").write_text(command_reference(), encoding="utf-8")
    (DOCS / "hardware.md").write_text(hardware_facts(), encoding="utf-8")
    (DOCS / "nki.md").write_text(coverage_page(simulated_modules()), encoding="utf-8")
