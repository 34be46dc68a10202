"""`npuscope inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from npuscope.cli.output import JsonFlag, console, print_json, say, tell, text_width

if TYPE_CHECKING:
    from npuscope.formats.inspection import Inspection


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            help="A capture, profile, trace, compiled graph, XLA program, compile cache, compiler's work folder or log."
        ),
    ],
    json: JsonFlag = False,
) -> None:
    """What any artifact of an NPU run is, and what is in it."""
    inspection = _inspection(path)
    if json:
        print_json(inspection)
        return
    from npuscope.report.inspection_tables import fact_lines, inspection_tables

    title, *facts = fact_lines(inspection, text_width())
    tell([title])
    for fact in facts:
        say(fact)
    for made in inspection_tables(inspection):
        say("")
        console().print(made)
    if inspection.notes:
        say("")
    tell(f"note: {note}" for note in inspection.notes)


def _inspection(path: Path) -> Inspection:
    from npuscope.formats.artifact import identify, inspect_artifact

    if identify(path).name != "hlo-text":
        return inspect_artifact(path)
    from npuscope.formats.hlo_inspection import inspect_module
    from npuscope.simulate.hlo.simulation import read_program

    return inspect_module(read_program(path), kind="hlo-text")
