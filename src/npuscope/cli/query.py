"""`npuscope query`."""

from __future__ import annotations

import atexit
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from npuscope.cli.output import JsonFlag, console, print_json, remark, say
from npuscope.errors import UsageError, unknown_name

if TYPE_CHECKING:
    import pyarrow as pa

    from npuscope.report.grid import Grid

_FORMATS = ("table", "csv", "json", "parquet")
_ENGINES = ("duckdb", "perfetto")
_ROWS = 60
_WIDTH = 1 << 30


def query(
    path: Annotated[Path, typer.Argument(help="Any artifact that holds a profile: NTFF, JSON, Parquet, trace.")],
    sql: Annotated[str | None, typer.Argument(help="One statement that reads; - takes it from standard input.")] = None,
    engine: Annotated[
        str, typer.Option(help="duckdb, or perfetto: Perfetto's own trace processor, on the trace itself.")
    ] = "duckdb",
    dialect: Annotated[
        str, typer.Option(help="For duckdb: auto, duckdb, or sqlite, which auto takes for Perfetto's views and REGEXP.")
    ] = "auto",
    format: Annotated[str, typer.Option(help="table, csv, json or parquet.")] = "table",  # noqa: A002
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the rows to a file.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds after which the query is stopped.")] = 60.0,
    limit: Annotated[int, typer.Option(help="Rows of a printed table; the other formats have all.")] = _ROWS,
    tables: Annotated[bool, typer.Option("--tables", help="List the tables and views.")] = False,
    schema: Annotated[str | None, typer.Option(help="List the columns of one table or view.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --output.")] = False,
    json: JsonFlag = False,
) -> None:
    """SQL over a profile: the vendor's tables, and Perfetto's slice, thread, track, counter, args."""
    from npuscope._files import refuse_overwriting

    shape = "json" if json else format
    _check(engine, dialect, shape, output, timeout, limit)
    if (sql is not None) + tables + (schema is not None) != 1:
        raise UsageError("give one of: a statement, --tables, --schema TABLE")
    if output is not None:
        refuse_overwriting(output, force=force)
    if sql is None:
        from npuscope.formats.artifact import read_profile
        from npuscope.profile.sql import list_columns, list_tables

        profile = read_profile(path)
        rows = list_tables(profile) if schema is None else list_columns(profile, schema)
    else:
        rows = _rows(path, sys.stdin.read() if sql == "-" else sql, engine, dialect, timeout)
    _emit(rows, shape, output, rows.num_rows if tables or schema else limit)


def _check(engine: str, dialect: str, shape: str, output: Path | None, timeout: float, limit: int) -> None:
    from npuscope.profile.sql_statement import DIALECTS

    for what, given, known in (
        ("engine", engine, _ENGINES),
        ("dialect", dialect, DIALECTS),
        ("format", shape, _FORMATS),
    ):
        if given not in known:
            raise unknown_name(what, given, known)
    if shape == "parquet" and output is None:
        raise UsageError("--format parquet needs a file: -o FILE.parquet")
    if not 0 < timeout <= 1e6:
        raise UsageError(f"--timeout {timeout:g} must lie between 0 and 1000000 seconds")
    if limit < 0:
        raise UsageError(f"--limit {limit} must not be negative")


def _rows(path: Path, sql: str, engine: str, dialect: str, timeout_s: float) -> pa.Table:
    from npuscope.formats.artifact import read_profile

    if engine == "perfetto":
        return _perfetto_rows(path, sql, timeout_s)
    from npuscope.profile.sql import QueryAbandonedError, query_profile

    try:
        return query_profile(read_profile(path), sql, dialect=dialect, timeout_s=timeout_s)
    except QueryAbandonedError as error:
        atexit.register(os._exit, error.exit_code)  # leave without waiting for DuckDB, which is still at work
        raise


def _perfetto_rows(path: Path, sql: str, timeout_s: float) -> pa.Table:
    """The rows that Perfetto's trace processor gives, on the trace itself or on our export of another artifact."""
    from npuscope.formats.artifact import identify, read_profile
    from npuscope.formats.perfetto_packets import check_packets
    from npuscope.formats.perfetto_processor import TraceProcessor
    from npuscope.formats.perfetto_writer import write_perfetto
    from npuscope.profile.sql_statement import check_length

    text = check_length(sql)
    with TraceProcessor(query_limit_s=timeout_s) as processor, tempfile.TemporaryDirectory() as folder:
        trace, kind = path, identify(path).name
        if kind == "perfetto":
            check_packets(path)  # the processor takes a cut-off trace without a word
        elif kind != "chrome-trace":
            trace = Path(folder) / "profile.pftrace"
            write_perfetto(read_profile(path), trace)
        processor.load(trace)
        return processor.query(text)


def _emit(rows: pa.Table, shape: str, output: Path | None, limit: int) -> None:
    if output is not None:
        _write(rows, shape, output, limit)
        remark(f"{rows.num_rows} rows written to {output}")
    elif shape == "json":
        from npuscope.report.rows import plain_rows

        print_json(list(plain_rows(rows)))
    elif shape == "csv":
        from npuscope.report.rows import csv_lines

        sys.stdout.writelines(csv_lines(rows))
    else:
        if sys.stdout.isatty():
            console().print(_grid(rows, limit))
        else:
            sys.stdout.write(_plain(rows, limit))
        if rows.num_rows > limit:
            say(f"first {limit} of {rows.num_rows} rows; --limit N shows more, --format csv or json has all")


def _write(rows: pa.Table, shape: str, output: Path, limit: int) -> None:
    from npuscope._files import replaced_atomically

    with replaced_atomically(output) as file:
        if shape == "parquet":
            import pyarrow.parquet as pq

            pq.write_table(rows, file, compression="zstd")
        elif shape == "csv":
            from npuscope.report.rows import csv_lines

            file.writelines(line.encode("utf-8", "backslashreplace") for line in csv_lines(rows))
        elif shape == "json":
            from npuscope.report.document import to_json
            from npuscope.report.rows import plain_rows

            file.write((to_json(list(plain_rows(rows))) + "\n").encode("utf-8", "backslashreplace"))
        else:
            file.write(_plain(rows, rows.num_rows if limit == _ROWS else limit).encode("utf-8", "backslashreplace"))


def _plain(rows: pa.Table, limit: int) -> str:
    """The table as text that no width cuts."""
    return "".join(f"{line}\n" for line, _ in _grid(rows, limit).lines(_WIDTH))


def _grid(rows: pa.Table, limit: int) -> Grid:
    """The first rows as a table that gives way to row by row on a terminal that is too narrow for it."""
    import pyarrow as pa

    from npuscope.report.grid import Grid
    from npuscope.report.rows import cells
    from npuscope.units import printable

    return Grid(
        headings=tuple(map(printable, rows.column_names)),
        is_text=tuple(not pa.types.is_integer(kind) and not pa.types.is_floating(kind) for kind in rows.schema.types),
        rows=tuple(map(tuple, cells(rows, limit))),
        whole=True,
    )
