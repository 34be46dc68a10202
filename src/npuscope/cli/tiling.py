"""`npuscope tiling`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from npuscope.cli.output import JsonFlag, console, print_json, say


def tiling(
    results: Annotated[Path, typer.Argument(help="A CSV with M, K, N and latency_ms, or a results folder.")],
    tile: Annotated[str, typer.Option(help="Tile model: tensor-engine, legacy, or MxKxN.")] = "tensor-engine",
    columns: Annotated[
        str,
        typer.Option(
            help="For other headers: M=COLUMN,K=COLUMN,N=COLUMN,latency_ms=COLUMN; a number stands for all rows."
        ),
    ] = "",
    json: JsonFlag = False,
) -> None:
    """How latency follows the tile grid, and how much of it is dispatch."""
    from npuscope.analysis.boundary import boundary_study
    from npuscope.analysis.tiling_study import tiling_study
    from npuscope.formats.latency_csv import parse_column_mapping, read_latency_csv
    from npuscope.formats.results import PARQUET_NAME, read_parquet
    from npuscope.formats.text_table import results_or_file
    from npuscope.tiling.model import tile_model

    mapping = parse_column_mapping(columns) if columns else {}
    model = tile_model(tile)
    samples = results / PARQUET_NAME
    effects = (
        boundary_study(read_parquet(samples), model)
        if results_or_file(results) != results and samples.is_file()
        else None
    )
    study = tiling_study(read_latency_csv(results, mapping), model, effects)
    if json:
        print_json(study)
        return
    from npuscope.report.tables import finding_lines, tiling_lines, tiling_table

    for line in finding_lines(study):
        say(line)
    say("")
    console().print(tiling_table(study))
    say("")
    for line in tiling_lines(study):
        say(line)
