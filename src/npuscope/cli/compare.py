"""`npuscope compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from npuscope.cli.output import JsonFlag, console, print_json, say, tell
from npuscope.errors import UsageError


def compare(
    paths: Annotated[
        list[Path], typer.Argument(help="Two or more profiles, or results folders; the first is the baseline.")
    ],
    allow_different_work: Annotated[
        bool,
        typer.Option("--allow-different-work", help="Compare although the work differs or is unknown, and say so."),
    ] = False,
    across_devices: Annotated[
        bool, typer.Option("--across-devices", help="Compare although the devices differ, and say so.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """What a change in time is made of; refused where work, method or number of runs do not allow it."""
    from npuscope.formats.results import PARQUET_NAME

    if len(paths) < 2:
        raise UsageError("a comparison needs two paths or more; npuscope compare BASELINE OTHER")
    results = [(path / PARQUET_NAME).is_file() for path in paths]
    if any(results) and not all(results):
        raise UsageError(f"{paths[results.index(False)]} is no results folder, and {paths[results.index(True)]} is one")
    if all(results):
        from npuscope.analysis.compare_results import compare_results
        from npuscope.report.comparison_tables import results_lines, results_table

        measured = compare_results(paths, across_devices=across_devices)
        if json:
            print_json(measured)
            return
        tell(results_lines(measured))
        console().print(results_table(measured))
        return
    from npuscope.analysis.compare import compare_profiles
    from npuscope.formats.artifact import read_profile
    from npuscope.report.comparison_tables import changes_table, difference_lines, sides_table

    comparison = compare_profiles(
        [read_profile(path) for path in paths], different_work=allow_different_work, across_devices=across_devices
    )
    if json:
        print_json(comparison)
        return
    console().print(sides_table(comparison))
    for difference in comparison.differences:
        say("")
        tell(difference_lines(difference))
        changes = changes_table(difference)
        if changes is not None:
            console().print(changes)
    tell(f"note: {note}" for note in comparison.notes)
