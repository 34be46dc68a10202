"""Tables for a terminal of any width: no figure is ever cropped, and nothing is left out without a word.

What does not fit gets narrower: headings break, text breaks at words, then words break; what still does not fit is shown
row by row, one line a column. That would be too long for many rows: their words lose the middle instead (their ends tell
them apart), and their last columns go, with a line that names them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.text import Text

from npuscope.units import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_GAP: Final = 2
_TEXT_WIDTH: Final = 14
"""Narrower than this no text gets."""
_HEADING_WORD: Final = 16
"""Longer words of a heading are broken."""
_MAX_LINES: Final = 3
"""Of one cell whose text is wanted whole; a table of higher rows is hard to follow."""
_MOST_LINES: Final = 6
"""Of any other cell."""
_MANY_ROWS: Final = 15
"""More would be too long with cells of several lines, or row by row: their words lose the middle, their last columns go."""
_LEAST_WIDTH: Final = 40
_SEPARATORS: Final = "/_-+=,.:;"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table that takes the width it is printed with."""

    headings: tuple[str, ...]
    is_text: tuple[bool, ...]
    """Per column: text, to the left, may break; figures, to the right, may not."""
    rows: tuple[tuple[str, ...], ...]
    title: str | None = None
    whole: bool = False
    """Text may break but not lose its middle, and no column may go: rather row by row."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Print through Rich, which knows the width and whether there are colours."""
        for line, style in self.lines(options.max_width):
            yield Text(line, style, no_wrap=True, overflow="ignore")

    def lines(self, width: int) -> Iterator[tuple[str, str]]:
        """The lines of the table for a width in characters, each with its style: '', `bold` or `dim`."""
        width = max(width, _LEAST_WIDTH)
        if self.title:
            yield printable(self.title), "bold"
        shown: Grid = self
        left_out: tuple[str, ...] = ()
        widths = shown._widths(width)
        if widths is None and not self.whole and len(self.rows) > _MANY_ROWS:
            shown, left_out = self._without_last_columns(width)
            widths = shown._widths(width)
        if widths is None:
            yield from self._records(width)
            return
        yield from shown._drawn(widths)
        if left_out:
            told = ", ".join(name or "(no name)" for name in left_out)
            yield f"left out, for lack of width: {told}; --json has all", "dim"

    def _widths(self, width: int) -> list[int] | None:
        """Widths of the columns that fit into `width`; None where none do."""
        columns = range(len(self.headings))
        cells = [max((_length(row[at]) for row in self.rows), default=0) for at in columns]
        wanted = [max(cells[at], _length(self.headings[at])) for at in columns]
        room = width - _GAP * (len(columns) - 1)
        if sum(wanted) <= room:
            return wanted
        words = [min(max(map(_length, name.split()), default=0), _HEADING_WORD) for name in self.headings]
        least = [max(min(cells[at], _TEXT_WIDTH) if self.is_text[at] else cells[at], words[at], 1) for at in columns]
        if sum(least) > room:
            return None
        widths = [max(low, min(cells[at], width)) for at, low in enumerate(least)]
        longest = [max((_length(word) for row in self.rows for word in row[at].split()), default=0) for at in columns]
        for floor in ([max(pair) for pair in zip(least, longest, strict=True)], least):  # break at words before within
            while sum(widths) > room and (wide := [at for at in columns if widths[at] > floor[at]]):
                widths[max(wide, key=widths.__getitem__)] -= 1
        for at in sorted(columns, key=lambda at: wanted[at] - widths[at]):  # what is left goes to headings that broke
            if wanted[at] - widths[at] <= room - sum(widths):
                widths[at] = max(widths[at], wanted[at])
        highest = _MAX_LINES if self.whole else _MOST_LINES
        if self._is_whole and any(
            len(fold(row[at], widths[at], whole=True)) > highest for row in self.rows for at in columns
        ):
            return None
        return widths

    @property
    def _is_whole(self) -> bool:
        """Whether text keeps its middle: few rows have room below one another."""
        return self.whole or len(self.rows) <= _MANY_ROWS

    def _without_last_columns(self, width: int) -> tuple[Grid, tuple[str, ...]]:
        """This table with as many columns as fit, at least two, and the names of the others."""
        for kept in range(len(self.headings) - 1, 1, -1):
            less = replace(
                self,
                headings=self.headings[:kept],
                is_text=self.is_text[:kept],
                rows=tuple(row[:kept] for row in self.rows),
            )
            if less._widths(width) is not None:
                return less, self.headings[kept:]
        return self, ()

    def _drawn(self, widths: list[int]) -> Iterator[tuple[str, str]]:
        heads = [fold(name, size, whole=True) for name, size in zip(self.headings, widths, strict=True)]
        for line in self._joined(heads, widths):
            yield line, "dim"
        for row in self.rows:
            cells = [
                _few_lines(cell, size, whole=self._is_whole) if text else [cell]
                for cell, size, text in zip(row, widths, self.is_text, strict=True)
            ]
            for line in self._joined(cells, widths):
                yield line, ""

    def _joined(self, cells: Sequence[Sequence[str]], widths: Sequence[int]) -> Iterator[str]:
        """One row of cells, each of some lines, as lines."""
        for index in range(max(map(len, cells), default=0)):
            parts = []
            for lines, size, text in zip(cells, widths, self.is_text, strict=True):
                line = lines[index] if index < len(lines) else ""
                space = " " * (size - _length(line))
                parts.append(line + space if text else space + line)
            yield (" " * _GAP).join(parts).rstrip()

    def _records(self, width: int) -> Iterator[tuple[str, str]]:
        """Row by row: a line `name value` a column; columns without a value are left out of a row."""
        lead = min(max(map(_length, self.headings), default=0), width // 2)
        for number, row in enumerate(self.rows, 1):
            yield f"row {number}", "dim"
            for name, cell in zip(self.headings, row, strict=True):
                if cell in ("", "-"):
                    continue
                names = fold(name, lead, whole=True)
                values = fold(cell, width - lead - 2 * _GAP, whole=True)
                for index in range(max(len(names), len(values))):
                    left = names[index] if index < len(names) else ""
                    right = values[index] if index < len(values) else ""
                    yield f"  {left}{' ' * (lead - _length(left))}  {right}".rstrip(), ""
        yield f"too wide for {width} characters: shown row by row, without empty values", "dim"


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None, *, whole: bool = False
) -> Grid:
    """A plain table that takes the width it is printed with; no text is read as markup.

    Args:
        headings: One a column; with `<` before it the column holds text, else figures, which are never cropped.
        rows: As many cells each.
        title: A line above it.
        whole: Every character of the text counts, as where two texts differ in their middle.
    """
    return Grid(
        headings=tuple(printable(heading.removeprefix("<")) for heading in headings),
        is_text=tuple(heading.startswith("<") for heading in headings),
        rows=tuple(tuple(printable(cell) for cell in row) for row in rows),
        title=title,
        whole=whole,
    )


def fold(text: str, width: int, *, whole: bool) -> list[str]:
    """`text` in lines of at most `width` characters.

    Args:
        text: On one line.
        width: At least 1.
        whole: Break words that are longer, after a separator where one is near; else they lose their middle.
    """
    if _length(text) <= width:
        return [text]
    lines: list[str] = []
    current = ""
    for word in text.split():
        pieces = list(_pieces(word, width)) if whole else [without_middle(word, width)]
        for piece in pieces:
            if current and _length(current) + 1 + _length(piece) <= width and piece is pieces[0]:
                current = f"{current} {piece}"
            else:
                lines += [current] if current else []
                current = piece
    return [*lines, current]


def without_middle(text: str, width: int) -> str:
    """`text` in at most `width` characters: its beginning and, longer, its end."""
    if _length(text) <= width:
        return text
    if width < 2:
        return "…"[:width]
    head = (width - 1) // 3
    return f"{_beginning(text, head)}…{_beginning(text[::-1], width - 1 - head)[::-1]}"


def _few_lines(text: str, width: int, *, whole: bool) -> list[str]:
    """As `fold`, in at most six lines unless the whole text is wanted."""
    lines = fold(text, width, whole=whole)
    size = _MOST_LINES * width
    while len(lines) > _MOST_LINES and not whole:
        lines = fold(without_middle(text, size), width, whole=False)
        size -= max(1, width // 4)
    return lines


def _pieces(word: str, width: int) -> Iterator[str]:
    while _length(word) > width:
        piece = _beginning(word, width) or word[0]
        cut = 1 + max(piece.rfind(mark) for mark in _SEPARATORS)
        piece = piece[:cut] if cut >= width // 2 else piece
        yield piece
        word = word[len(piece) :]
    if word:
        yield word


def _beginning(text: str, width: int) -> str:
    """As many characters as fit into `width`; some take two places."""
    if text.isascii():
        return text[:width]
    taken, used = 0, 0
    for character in text:
        used += cell_len(character)
        if used > width:
            break
        taken += 1
    return text[:taken]


def _length(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)
