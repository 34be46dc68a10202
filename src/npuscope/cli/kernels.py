"""`npuscope kernels list`."""

from __future__ import annotations

import typer

from npuscope.cli.output import JsonFlag, console, print_json, tell

kernels = typer.Typer(
    name="kernels", help="Implementations that npuscope knows, and how to add your own.", rich_markup_mode=None
)


@kernels.command("list")
def list_kernels(json: JsonFlag = False) -> None:
    """Every implementation: its devices, inputs, where it is from, and what it is checked against."""
    from npuscope.workloads.kernels import ENTRIES, installed_entries

    installed = installed_entries()
    entries = (*ENTRIES, *installed.entries)
    if json:
        print_json({"kernels": entries, "refused": installed.refused})
        return
    from npuscope.report.grid import table

    rows = [
        [entry.name, entry.family, ", ".join(entry.devices), entry.default_device, entry.target, entry.origin]
        for entry in entries
    ]
    console().print(table(["<name", "<kernel", "<runs on", "<by default on", "<target", "<from"], rows))
    tell(
        [
            f"all take {', '.join(ENTRIES[0].input_names)}, and are checked against {ENTRIES[0].reference} in float64",
            *(f"left out: {text}" for text in installed.refused),
            "your own: npuscope mlp run --impl numpy --impl PATH.py:FUNC; what its file imports tells the device, @DEVICE names it",
        ]
    )
