"""`npuscope inspect` in a terminal: facts as lines, tables as tables, notes last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from npuscope.errors import shorten
from npuscope.formats.inspection import Inspection
from npuscope.report.tables import table
from npuscope.units import format_bytes, format_ns, printable

_MAX_ROWS = 40
_MAX_CELL = 72


def fact_lines(inspection: Inspection) -> Iterator[str]:
    """The title, then one line a fact, aligned."""
    yield f"{printable(inspection.path)}: {inspection.title}"
    width = max((len(_label(name)) for name in inspection.facts), default=0)
    for name, value in inspection.facts.items():
        if value not in ("", None):
            yield f"  {_label(name):<{width}}  {_value(name, value)}"


def inspection_tables(inspection: Inspection) -> Iterator[Table]:
    """One table each, cut at 40 rows with the number left out in its title."""
    for title, rows in inspection.tables.items():
        if not rows:
            continue
        names = list(rows[0])
        numeric = {name: all(isinstance(row.get(name), int | float | None) for row in rows) for name in names}
        headings = [_label(name) if numeric[name] else f"<{_label(name)}" for name in names]
        left_out = len(rows) - _MAX_ROWS
        more = f" ({left_out} more with --json)" if left_out > 0 else ""
        yield table(headings, [_cells(names, row) for row in rows[:_MAX_ROWS]], title=f"{title}{more}")


def _cells(names: list[str], row: Mapping[str, Any]) -> list[str]:
    return [shorten(_value(name, row.get(name)), _MAX_CELL) for name in names]


def _label(name: str) -> str:
    """A name without the unit that its value will carry."""
    for suffix in ("_bytes", "_ns"):
        name = name.removesuffix(suffix)
    return name.replace("_", " ")


def _value(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_bytes") and isinstance(value, int | float):
        return f"{value:,} B" if value < 1 << 20 else f"{format_bytes(value)} ({value:,} B)"
    if name.endswith("_ns") and isinstance(value, int | float):
        return format_ns(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return printable(str(value))
