"""`npuscope inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from npuscope.cli.output import JsonFlag, console, print_json, say, tell, text_width


def inspect(
    path: Annotated[
        Path,
        typer.Argument(help="A capture, profile, trace, compiled graph, compile cache, compiler's work folder or log."),
    ],
    json: JsonFlag = False,
) -> None:
    """What any artifact of an NPU run is, and what is in it."""
    from npuscope.formats.artifact import inspect_artifact

    inspection = inspect_artifact(path)
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
