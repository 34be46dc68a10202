"""What a query may say: one statement that reads, in DuckDB's SQL or, over Perfetto's views, as SQLite reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from npuscope.errors import UsageError, shorten
from npuscope.profile.sql_views import PERFETTO_VIEWS

DIALECTS = ("auto", "duckdb", "sqlite")
MAX_STATEMENT = 1 << 18
"""Characters of a statement."""
_WORDS = re.compile(r"'(?:[^']|'')*'|--[^\n]*|/\*.*?\*/|[A-Za-z_][A-Za-z0-9_]*", re.DOTALL)
_EXPLAIN = re.compile(r"\s*explain\s+(?:analyze\s+)?", re.IGNORECASE)
_TABLE_FUNCTIONS = frozenset(
    {"range", "generate_series", "unnest", "repeat", "repeat_row", "json_each", "json_tree", "pragma_table_info"}
)
"""Table functions that only make rows from their arguments, or tell the columns of a table."""
_CATALOGUE = re.compile(r"(pg|duckdb|sqlite)_", re.IGNORECASE)
"""DuckDB's tables about itself, which tell the user's home and settings."""
_REFUSED_FUNCTIONS = frozenset({"current_setting", "getenv", "write_log", "setseed", "nextval", "currval", "sleep_ms"})


def words_of(sql: str) -> set[str]:
    """Every word of a statement outside of text and comments, in lower case."""
    found = (match.group().lower() for match in _WORDS.finditer(sql))
    return {word for word in found if word[0].isalpha() or (word[0] == "_" and word[:2] != "--")}


def choose_dialect(sql: str, wanted: str) -> str:
    """`sqlite` where a statement names a Perfetto view or uses REGEXP, else `duckdb`; or what was asked for."""
    if wanted != "auto":
        return wanted
    words = words_of(sql)
    return "sqlite" if "regexp" in words or words & PERFETTO_VIEWS.keys() else "duckdb"


def check_length(sql: str) -> str:
    """The statement without blanks and semicolons around it.

    Raises:
        UsageError: It is empty, or longer than 256 KiB.
    """
    text = sql.strip().rstrip("; \t\r\n")
    if not text:
        raise UsageError('the query is empty; write one such as "SELECT name, sum(dur) FROM slice GROUP BY name"')
    if len(text) > MAX_STATEMENT:
        raise UsageError(f"the query has {len(text)} characters; at most {MAX_STATEMENT} are read")
    if "\0" in text:
        raise UsageError("the query holds a NUL character")
    return text


def as_duckdb(sql: str, columns: Collection[str], macros: Mapping[str, str]) -> str:
    """A statement with SQLite's meanings in DuckDB's words.

    REGEXP becomes a function; LIKE ignores case; a whole number that is cast has 64 bits and loses its fraction; `IS`
    compares; text in double quotes that names no column is a text. Division of whole numbers and the place of nulls
    are settings of the connection.

    Args:
        sql: One statement.
        columns: Names that double quotes may hold, in lower case.
        macros: Key of an argument to the macro that `extract_arg` means for it.

    Returns:
        The translation; the statement itself where it cannot be read so, for DuckDB to judge.
    """
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    try:
        parsed = sqlglot.parse(sql, read="duckdb")
        if len(parsed) != 1 or not isinstance(parsed[0], exp.Query):
            return sql
        names = {*columns, *(alias.alias.lower() for alias in parsed[0].find_all(exp.Alias, exp.TableAlias))}
        names |= {column.name.lower() for alias in parsed[0].find_all(exp.TableAlias) for column in alias.columns}
        made: str = parsed[0].transform(_sqlite_node, names, macros).sql(dialect="duckdb")
    except SqlglotError:
        return sql
    except RecursionError:
        raise UsageError("the query is nested too deeply") from None
    return made


def _sqlite_node(node: Any, names: Collection[str], macros: Mapping[str, str]) -> Any:
    from sqlglot import exp

    if isinstance(node, exp.Anonymous) and node.name.lower() == "extract_arg" and len(node.expressions) == 2:
        key = node.expressions[1]
        made = macros.get(key.name, "extract_arg") if isinstance(key, exp.Literal) else "extract_arg"
        return exp.Anonymous(this=made, expressions=node.expressions)

    if type(node) is exp.Like:
        return exp.ILike(**node.args)
    if isinstance(node, exp.Is) and not isinstance(node.expression, exp.Null | exp.Boolean):
        compared = exp.NullSafeNEQ if node.args.get("negate") else exp.NullSafeEQ
        return compared(this=node.this, expression=node.expression)
    if isinstance(node, exp.Cast) and node.to.is_type("int", "bigint"):
        return exp.Anonymous(this="_sqlite_integer", expressions=[node.this])
    if isinstance(node, exp.Column) and not node.table and node.this.args.get("quoted"):
        return node if node.name.lower() in names else exp.Literal.string(node.name)
    return node


def check_statement(connection: Any, sql: str) -> None:
    """Check, with DuckDB's own parser, that a statement is one and only reads.

    Raises:
        UsageError: It does not parse, is several, is of another kind than SELECT, DESCRIBE, SHOW, SUMMARIZE or
            EXPLAIN, or calls a function that reaches out of the Profile.
    """
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise UsageError(f"one statement is run, not {len(statements)}")
    kind = statements[0].type.name
    body = sql
    if kind == "EXPLAIN":
        body = _EXPLAIN.sub("", sql, count=1)
        kind = "SELECT" if body != sql else kind
    if kind != "SELECT":
        raise UsageError(f"a query only reads: SELECT, WITH, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN, not {kind}")
    try:
        tree = json.loads(connection.execute("SELECT json_serialize_sql(?)", [body]).fetchall()[0][0])
    except RecursionError:
        raise UsageError("the query is nested too deeply") from None
    if tree.get("error"):
        raise UsageError(f"the query is refused: {shorten(str(tree.get('error_message')), 200)}")
    for node in _nodes(tree):
        name = str(node.get("function_name", "")).lower()
        if node.get("type") == "TABLE_FUNCTION":
            called = str(node.get("function", {}).get("function_name", "")).lower()
            if called not in _TABLE_FUNCTIONS:
                raise UsageError(
                    f"the table function {shorten(called)!r} is not allowed; a query reads the Profile only"
                )
        elif node.get("type") == "BASE_TABLE" and _CATALOGUE.match(str(node.get("table_name", ""))):
            raise UsageError("DuckDB's own catalogue is not readable; --tables and --schema TABLE tell what there is")
        elif name in _REFUSED_FUNCTIONS:
            raise UsageError(f"the function {name!r} is not allowed; a query reads the Profile only")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of a JSON tree, without recursion."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
