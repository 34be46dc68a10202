"""Rows of an Arrow table as plain values, CSV and cells of a terminal table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from npuscope.formats.results import format_csv_line
from npuscope.units import printable

_BATCH_ROWS = 1 << 14
_CELL_CHARACTERS = 120


def plain_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Row by row, values as JSON knows them: whole numbers exact, times as text, bytes as hexadecimal digits."""
    for batch in table.to_batches(_BATCH_ROWS):
        for row in batch.to_pylist():
            yield {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, int | float | str):
        return value
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)


def csv_lines(table: pa.Table) -> Iterator[str]:
    """A header, then a line a row; null is empty."""
    yield format_csv_line(table.column_names)
    for row in plain_rows(table):
        yield format_csv_line(row.values())


def cells(table: pa.Table, limit: int) -> list[list[str]]:
    """The first rows as short texts for a terminal."""
    return [[_cell(value) for value in row.values()] for row in plain_rows(table.slice(0, limit))]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    text = printable(" ".join(text.split()) if "\n" in text and len(text) < _CELL_CHARACTERS else text)
    return text if len(text) <= _CELL_CHARACTERS else text[: _CELL_CHARACTERS - 1] + "…"
