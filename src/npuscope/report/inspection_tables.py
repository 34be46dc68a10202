"""`npuscope inspect` in a terminal: facts as lines, tables as tables, notes last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from npuscope.formats.inspection import Inspection
from npuscope.report.grid import Grid, fold, table
from npuscope.report.quantities import label, quantity
from npuscope.units import format_bytes, printable

_MAX_ROWS = 40
_LEAST_WIDTH = 20
_SPELLED_OUT = frozenset({"what differs", "warnings and errors"})
"""Tables whose texts differ, or matter, in their middle."""
_FIGURES = ["figure", "value"]
"""Columns of a table that holds a figure a row: the name in the first tells the unit of the second."""


def fact_lines(inspection: Inspection, width: int) -> Iterator[str]:
    """The title, then one line a fact, aligned; values longer than `width` go on below themselves."""
    yield f"{printable(inspection.path)}: {inspection.title}"
    lead = max((len(label(name)) for name in inspection.facts), default=0)
    for name, value in inspection.facts.items():
        if value not in ("", None):
            parts = fold(_value(name, value), max(width - lead - 4, _LEAST_WIDTH), whole=True)
            yield f"  {label(name):<{lead}}  {parts[0]}"
            yield from (f"{' ' * (lead + 4)}{part}" for part in parts[1:])


def inspection_tables(inspection: Inspection) -> Iterator[Grid]:
    """One table each, cut at 40 rows with the number left out in its title."""
    for title, rows in inspection.tables.items():
        if not rows:
            continue
        names = list(rows[0])
        headings = [label(name) if _is_numeric(rows, name) else f"<{label(name)}" for name in names]
        left_out = len(rows) - _MAX_ROWS
        more = f" ({left_out} more with --json)" if left_out > 0 else ""
        cells = [_cells(names, row) for row in rows[:_MAX_ROWS]]
        yield table(headings, cells, title=f"{title}{more}", whole=title in _SPELLED_OUT)


def _is_numeric(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    values = [row.get(name) for row in rows]
    return all(isinstance(value, int | float | None) for value in values) and any(value is not None for value in values)


def _cells(names: list[str], row: Mapping[str, Any]) -> list[str]:
    if names == _FIGURES:
        return [label(str(row["figure"])), _value(str(row["figure"]), row["value"])]
    return [_value(name, row.get(name)) for name in names]


def _value(name: str, value: Any) -> str:
    """As `quantity`, with sizes to the byte."""
    if name.endswith("_bytes") and isinstance(value, int):
        return f"{value:,} B" if value < 1 << 20 else f"{format_bytes(value)} ({value:,} B)"
    if isinstance(value, Mapping):
        return ", ".join(f"{printable(str(key))} {quantity(name, item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(printable(str(item)) for item in value)
    return quantity(name, value)
