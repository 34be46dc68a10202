"""SQL over a Profile, by DuckDB: read-only, offline, with limits on time, memory and the size of the result."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from npuscope.errors import FormatError, NpuscopeError, UsageError, shorten, unknown_name
from npuscope.profile.schema import columns_of
from npuscope.profile.sql_statement import (
    DIALECTS,
    as_duckdb,
    check_length,
    check_statement,
    choose_dialect,
    words_of,
)
from npuscope.profile.sql_views import (
    PERFETTO_VIEWS,
    args_tables,
    argument_macros,
    perfetto_tables,
    table_named,
    table_names,
)
from npuscope.profile.tables import Profile
from npuscope.profile.timeline import build_timeline

TIMEOUT_S = 60.0
MEMORY_BYTES = 4 << 30
"""What DuckDB may keep of its own; and, apart from it, what a result may take."""
_GRACE_S = 2.0
"""How long an interrupted query has to stop before it is left behind."""
_BATCH_ROWS = 1 << 16
_CONFIG = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
}
_MACROS = (
    "CREATE MACRO _sqlite_integer(x) AS CASE WHEN typeof(x) IN ('DOUBLE', 'FLOAT') OR typeof(x) LIKE 'DECIMAL%'"
    " THEN CAST(trunc(CAST(x AS DOUBLE)) AS BIGINT) ELSE CAST(x AS BIGINT) END",
    "CREATE MACRO total(x) AS CAST(coalesce(sum(x), 0) AS DOUBLE)",
    "CREATE MACRO iif(a, b, c) AS CASE WHEN a THEN b ELSE c END",
)
_EXTRACT_ARG = """CREATE MACRO {name}(wanted, name) AS
(SELECT any_value({column}) FROM args WHERE args.arg_set_id = wanted AND args.key = name)"""
_EXTRACTED = {"extract_arg": "display_value", "_extract_int": "int_value", "_extract_real": "real_value"}


class QueryAbandonedError(UsageError):
    """A query passed its time limit and does not stop when told to: a thread of this process still runs it."""


def query_profile(
    profile: Profile,
    sql: str,
    *,
    dialect: str = "auto",
    timeout_s: float = TIMEOUT_S,
    memory_bytes: int = MEMORY_BYTES,
) -> pa.Table:
    """Run one reading statement over the tables of a Profile and over Perfetto's views of it.

    Args:
        profile: What to ask.
        sql: One SELECT, WITH, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN.
        dialect: `duckdb` as it stands; `sqlite` with SQLite's meanings; `auto`: `sqlite` where the statement names a
            Perfetto view or uses REGEXP.
        timeout_s: Seconds after which the query is stopped.
        memory_bytes: See `MEMORY_BYTES`.

    Returns:
        The rows. Whole numbers are int64 where they fit; equal column names are told apart by a number.

    Raises:
        UsageError: The statement is wrong, not allowed, too slow or too large.
        FormatError: A table of the Profile is not of the schema's types.
    """
    if dialect not in DIALECTS:
        raise unknown_name("dialect", dialect, DIALECTS)
    if not timeout_s > 0:
        raise UsageError(f"a time limit of {timeout_s:g} s leaves no time")
    text = check_length(sql)
    is_sqlite = choose_dialect(text, dialect) == "sqlite"
    connection = _connect(is_sqlite, memory_bytes)
    try:
        macros, columns = _register(connection, profile, words_of(text))
        statement = as_duckdb(text, columns, macros) if is_sqlite else text
        connection.execute("SET lock_configuration = true")
    except pa.ArrowException as error:
        raise _unusable(profile, error) from error
    except Exception as error:
        raise _told(error, profile) from error
    run = _Run(connection, statement, memory_bytes)
    return _tidy(run.result(timeout_s, profile))


def _connect(sqlite: bool, memory_bytes: int) -> Any:
    import duckdb

    config = {**_CONFIG, "memory_limit": f"{memory_bytes}B"}
    connection = duckdb.connect(":memory:", config=config)
    if sqlite:
        connection.execute("SET integer_division = true")
        connection.execute("SET default_null_order = 'sqlite'")
        with suppress(duckdb.Error):  # before DuckDB 2 division by zero is null anyhow
            connection.execute("SET error_on_division_by_zero = false")
        for macro in _MACROS:
            connection.execute(macro)
    return connection


def _register(connection: Any, profile: Profile, words: set[str]) -> tuple[Mapping[str, str], set[str]]:
    """Show the connection the tables that a word of the statement names.

    Returns:
        What `as_duckdb` wants to know: macros by key of an argument, and names of columns.
    """
    columns: set[str] = set()
    listing = bool({"show", "describe", "summarize", "information_schema", "duckdb_tables", "sqlite_master"} & words)
    for name in table_names(profile):
        if not listing and not words_of(name) <= words:
            continue
        table = table_named(profile, name)
        connection.register(name, table if table.num_columns else pa.table({"nothing": pa.array([], pa.int64())}))
        columns |= {column.lower() for column in table.column_names}
    if not listing and not words & {*PERFETTO_VIEWS, "extract_arg"}:
        return {}, columns
    timeline = build_timeline(profile)
    for name, table in perfetto_tables(timeline).items():
        connection.register(name, table)
        columns |= {column.lower() for column in table.column_names}
    hidden, view = args_tables(timeline)
    for name, table in hidden.items():
        connection.register(name, table)
    connection.execute(f"CREATE VIEW args AS {view}")
    for macro, column in _EXTRACTED.items():
        connection.execute(_EXTRACT_ARG.format(name=macro, column=column))
    return argument_macros(hidden), columns | {
        "flat_key",
        "key",
        "int_value",
        "string_value",
        "real_value",
        "value_type",
        "display_value",
    }


class _Run:
    """One query in a thread of its own, so that it can be stopped, or left behind where DuckDB does not stop."""

    def __init__(self, connection: Any, sql: str, memory_bytes: int) -> None:
        self._connection = connection
        self._sql = sql
        self._memory_bytes = memory_bytes
        self._table: pa.Table | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def result(self, timeout_s: float, profile: Profile) -> pa.Table:
        """Wait for the rows.

        Raises:
            UsageError: See `query_profile`.
        """
        self._thread.start()
        try:
            self._thread.join(min(timeout_s, threading.TIMEOUT_MAX))
            late = self._thread.is_alive()
        except BaseException:
            self._connection.interrupt()
            raise
        if late:
            self._connection.interrupt()
            self._thread.join(_GRACE_S)
            kind = QueryAbandonedError if self._thread.is_alive() else UsageError
            raise kind(f"the query took longer than {timeout_s:g} s; narrow it, or raise --timeout")
        if self._error is not None:
            raise _told(self._error, profile) from self._error
        assert self._table is not None  # noqa: S101
        return self._table

    def _run(self) -> None:
        try:
            check_statement(self._connection, self._sql)
            relation = self._connection.sql(self._sql)
            reader = (
                relation.to_arrow_reader(_BATCH_ROWS)
                if hasattr(relation, "to_arrow_reader")
                else relation.fetch_arrow_reader(_BATCH_ROWS)  # before DuckDB 2
            )
            batches, size = [], 0
            for batch in reader:
                size += batch.nbytes
                if size > self._memory_bytes:
                    raise UsageError(f"the result is larger than {self._memory_bytes:,} bytes; add LIMIT")
                batches.append(batch)
            self._table = pa.Table.from_batches(batches, reader.schema)
        except BaseException as error:  # noqa: BLE001  # told by the thread that waits
            self._error = error


def _unusable(profile: Profile, error: Exception) -> FormatError:
    return FormatError(profile.source, expected="tables with the types of the schema", found=str(error))


def _told(error: BaseException, profile: Profile) -> BaseException:
    """DuckDB's error as one sentence with the nearest name."""
    import duckdb

    if isinstance(error, NpuscopeError) or not isinstance(error, duckdb.Error | MemoryError | RuntimeError):
        return error
    message = str(error)
    table = re.search(r"Table with name (.+?) does not exist", message)
    if table:
        return unknown_name("table", table.group(1).split(".")[-1], [*table_names(profile), *PERFETTO_VIEWS])
    column = re.search(r'Referenced column "(.+?)" not found|does not have a column named "(.+?)"', message)
    if column:
        name = column.group(1) or column.group(2)
        near = re.findall(r'"([^"\n]+)"', message.partition("Candidate bindings:")[2].partition("\n")[0])
        every = [*_columns_named(profile, name), *(candidate.split(".")[-1] for candidate in near)]
        return unknown_name("column", name, dict.fromkeys(every)) if every else UsageError(f"unknown column {name!r}")
    if "INCLUDE" in message.upper() and "PERFETTO" in message.upper():
        return UsageError("INCLUDE PERFETTO MODULE needs Perfetto's own processor: pass --engine perfetto")
    lines = [line.strip() for line in message.split("\n\nLINE ")[0].splitlines() if line.strip()]
    hint = "; SQLite allows it: pass --engine perfetto" if "must appear in the GROUP BY clause" in message else ""
    return UsageError(f"the query fails: {shorten(' '.join(lines), 300)}{hint}")


def _columns_named(profile: Profile, name: str) -> list[str]:
    """Known columns near a name."""
    import difflib

    known: Iterable[str] = {column for table in table_names(profile) for column in columns_of(table)}
    return difflib.get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.75)


def _written_times(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Dates and times as text: DuckDB knows more of them than Python does."""
    try:
        return values.cast(pa.string())
    except pa.ArrowException as error:
        raise UsageError(f"column {name!r} holds a time that cannot be written; cast it to VARCHAR") from error


def _tidy(table: pa.Table) -> pa.Table:
    """Whole decimals as int64 where they fit, coded texts as texts, every column with a name of its own."""
    columns, names = [], []
    for index, field in enumerate(table.schema):
        values = table.column(index)
        if pa.types.is_decimal(field.type) and field.type.scale == 0:
            with suppress(pa.ArrowInvalid):
                values = values.cast(pa.int64())
        elif pa.types.is_temporal(field.type):
            values = _written_times(values, field.name)
        elif pa.types.is_dictionary(field.type):
            values = values.cast(field.type.value_type)
        elif pa.types.is_string_view(field.type) or pa.types.is_large_string(field.type):
            values = pc.cast(values, pa.string())
        earlier = table.column_names[:index].count(field.name)
        names.append(f"{field.name}_{earlier + 1}" if earlier else field.name)
        columns.append(values)
    return pa.table(columns, names=names)


def list_tables(profile: Profile) -> pa.Table:
    """Every table and view with how many rows and columns it has; tables with rows first."""
    known = [
        {"name": name, "rows": table.num_rows, "columns": table.num_columns, "about": "table"}
        for name in table_names(profile)
        for table in (table_named(profile, name),)
    ]
    timeline = build_timeline(profile)
    views = perfetto_tables(timeline)
    for name, about in PERFETTO_VIEWS.items():
        table = query_profile(profile, "SELECT * FROM args LIMIT 0") if name == "args" else views[name]
        rows = (
            query_profile(profile, "SELECT count(*) FROM args").column(0)[0].as_py()
            if name == "args"
            else table.num_rows
        )
        known.append({"name": name, "rows": rows, "columns": table.num_columns, "about": f"view: {about}"})
    return pa.Table.from_pylist(sorted(known, key=lambda row: (row["about"] == "table", row["rows"] == 0)))


def list_columns(profile: Profile, name: str) -> pa.Table:
    """The columns of one table or view: type, unit, origin and how many rows have a value.

    Raises:
        UsageError: There is no table of that name.
    """
    names = {known.lower(): known for known in (*PERFETTO_VIEWS, *table_names(profile))}
    found = names.get(name.lower())
    if found is None:
        raise unknown_name("table", name, names.values())
    quoted = found.replace('"', '""')
    table = table_named(profile, found) if found not in PERFETTO_VIEWS else query_profile(profile, f'FROM "{quoted}"')
    columns = columns_of(found)
    return pa.Table.from_pylist(
        [
            {
                "column": field.name,
                "type": str(field.type),
                "unit": columns[field.name].unit if field.name in columns else "",
                "origin": columns[field.name].origin if field.name in columns else "",
                "values": table.num_rows - table.column(field.name).null_count,
            }
            for field in table.schema
        ]
    )
