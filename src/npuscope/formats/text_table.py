"""Comma-separated files from anywhere: read line by line, with limits, into columns of numbers or text.

Errors name the file, the row (1 is the header) and the column.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from npuscope.errors import FormatError
from npuscope.formats.results import UNMEASURED

MAX_LINE_BYTES = 1 << 16
MAX_ROWS = 1_000_000
LARGEST = 1e18
"""Numbers beyond this are no measurement of anything, and their squares leave the range of float64."""
_NUMBER = re.compile(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?|nan|inf|NaN|Inf|NAN|INF)")
_BOMS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))


@dataclass(frozen=True, slots=True)
class TextTable:
    """A CSV file as text."""

    source: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    """The line on which each row ends, as an editor counts."""

    def require(self, *names: str) -> None:
        """Check that columns are there.

        Raises:
            FormatError: One is missing.
        """
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise FormatError(
                self.source,
                where="header",
                expected=f"column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
                found=", ".join(self.columns),
            )

    def without_failures(self, *, unmeasured: bool = False) -> TextTable:
        """The rows that did not fail, where a column `status` tells; else all.

        Args:
            unmeasured: Keep rows that hold only predictions, too.

        Raises:
            FormatError: Every row failed, or holds only predictions.
        """
        if "status" not in self.columns:
            return self
        statuses = self.text("status")
        wanted = {"ok", UNMEASURED} if unmeasured else {"ok"}
        kept = [index for index, status in enumerate(statuses) if status in wanted]
        if not kept and UNMEASURED in statuses:
            remedy = "measure them: npuscope matmul --device DEVICE"
            found = "predictions alone"
            raise FormatError(
                self.source, where="column status", expected="a row that was measured", found=found, remedy=remedy
            )
        if not kept:
            raise FormatError(self.source, where="column status", expected="a row that did not fail", found="none")
        rows, lines = tuple(self.rows[index] for index in kept), tuple(self.lines[index] for index in kept)
        return TextTable(self.source, self.columns, rows, lines)

    def text(self, name: str) -> list[str]:
        """A column as it stands."""
        index = self.columns.index(name)
        return [row[index] for row in self.rows]

    def floats(
        self, name: str, *, minimum: float = -LARGEST, maximum: float = LARGEST, optional: bool = False
    ) -> list[float]:
        """A column as numbers from `minimum` to `maximum`; an empty cell is NaN where `optional`.

        Raises:
            FormatError: A cell is no such number.
        """
        cells = zip(self.lines, self.text(name), strict=True)
        return [
            math.nan if optional and not cell else self._number(line, name, cell, minimum, maximum)
            for line, cell in cells
        ]

    def integers(self, name: str, *, minimum: int = 0, maximum: int = 1 << 62) -> list[int]:
        """A column as whole numbers from `minimum` to `maximum`; `128.0` is one.

        Raises:
            FormatError: A cell is no such number.
        """
        values = self.floats(name, minimum=minimum, maximum=math.inf)
        for line, cell, value in zip(self.lines, self.text(name), values, strict=True):
            if value != int(value) or value >= 1 << 62:
                raise self._bad_cell(line, name, "a whole number", cell)
            if value > maximum:
                raise self._bad_cell(line, name, f"a {name} of at most {maximum}", cell)
        return [int(value) for value in values]

    def _number(self, line: int, name: str, cell: str, minimum: float, maximum: float) -> float:
        if not _NUMBER.fullmatch(cell):
            raise self._bad_cell(line, name, "a number", cell)
        value = float(cell)
        if not math.isfinite(value) or value < minimum:
            bound = f" of at least {minimum:g}" if minimum > -LARGEST else ""
            raise self._bad_cell(line, name, f"a finite number{bound}", cell)
        if value > maximum:
            raise self._bad_cell(line, name, f"a number of at most {maximum:g}", cell)
        return value

    def _bad_cell(self, line: int, name: str, expected: str, cell: str) -> FormatError:
        return FormatError(self.source, where=f"row {line}, column {name}", expected=expected, found=repr(cell))


def results_or_file(path: Path) -> Path:
    """The results.csv of a results folder; any other path as it is."""
    try:
        return path / "results.csv" if path.is_dir() else path
    except OSError:  # a name that no file can have: opening it will say so
        return path


def read_text_table(path: Path, *, header: bool = True) -> TextTable:
    """Read a CSV file.

    Args:
        path: The file; UTF-8, with or without a byte-order mark.
        header: The first line names the columns; else they are `column_1`, `column_2` and so on.

    Raises:
        FormatError: Unreadable, empty, not text, a line over 64 KiB, over a million rows, or rows of unequal length.
    """
    try:
        with path.open("rb") as file:
            return _parse(path, file, header)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        if isinstance(error, FormatError):
            raise
        raise FormatError(
            path, expected="a readable file", found=getattr(error, "strerror", None) or str(error)
        ) from error


def _parse(path: Path, file: BinaryIO, header: bool) -> TextTable:
    reader = csv.reader(_lines(path, file))
    rows: list[tuple[str, ...]] = []
    lines: list[int] = []
    columns: tuple[str, ...] = ()
    try:
        for row in reader:
            if not row or all(not cell.strip() for cell in row):
                continue
            cells = tuple(cell.strip() for cell in row)
            if not columns:
                columns = cells if header else tuple(f"column_{i + 1}" for i in range(len(cells)))
                if len(set(columns)) != len(columns):
                    raise FormatError(path, where="header", expected="distinct column names", found=", ".join(columns))
                if header:
                    continue
            if len(cells) != len(columns):
                raise FormatError(
                    path, where=f"row {reader.line_num}", expected=f"{len(columns)} cells", found=f"{len(cells)}"
                )
            rows.append(cells)
            lines.append(reader.line_num)
            if len(rows) > MAX_ROWS:
                raise FormatError(
                    path, where=f"row {reader.line_num}", expected=f"at most {MAX_ROWS} rows", found="more"
                )
    except csv.Error as error:
        raise FormatError(
            path, where=f"row {reader.line_num}", expected="comma-separated cells", found=str(error)
        ) from error
    if not rows:
        raise FormatError(path, expected="at least one row of data", found="none" if columns else "an empty file")
    return TextTable(path, columns, tuple(rows), tuple(lines))


def _lines(path: Path, file: BinaryIO) -> Iterator[str]:
    """Decoded lines, none longer than the limit: a huge line is refused before it is held."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise FormatError(
                path, where=f"row {number}", expected=f"lines of at most {MAX_LINE_BYTES} bytes", found="a longer one"
            )
        if number == 1:
            for mark, encoding in _BOMS:
                if line.startswith(mark):
                    raise FormatError(
                        path,
                        where="byte 0",
                        expected="UTF-8 text",
                        found=encoding,
                        remedy=f"convert it: iconv -f {encoding} -t UTF-8",
                    )
            line = line.removeprefix(b"\xef\xbb\xbf")
        if b"\0" in line:
            raise FormatError(path, where=f"row {number}", expected="text", found="a NUL byte")
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(
                path,
                where=f"row {number}, byte {error.start} of the line",
                expected="UTF-8 text",
                found=repr(line[error.start : error.start + 1]),
                remedy="convert it: iconv -t UTF-8",
            ) from error
