"""Where a command's value goes: JSON or tables to standard output, progress and remarks to standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from npuscope.units import printable

if TYPE_CHECKING:
    from rich.console import Console

JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else there.")
]
_PIPE_WIDTH = 240
_ANY_WIDTH = 1 << 30
_WIDEST = 110
"""Longer lines of text are hard to read."""


def print_json(value: Any) -> None:
    """One JSON document."""
    from npuscope.report.document import to_json

    text = to_json(value, ascii_only=(sys.stdout.encoding or "").lower().replace("-", "") != "utf8")
    sys.stdout.write(text + "\n")


def console() -> Console:
    """A console on standard output; wide in a pipe, so that no column is cut."""
    from rich.console import Console

    return Console(
        width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False, emoji=False, soft_wrap=sys.stdout.isatty()
    )


def say(text: str) -> None:
    """A line on standard output."""
    sys.stdout.write(printable(text) + "\n")


def text_width(*, of_remarks: bool = False) -> int:
    """Characters of a line of text: what a terminal has, within reason; a pipe takes any line whole.

    Args:
        of_remarks: On standard error; else on standard output.
    """
    import shutil

    is_terminal = (sys.stderr if of_remarks else sys.stdout).isatty()
    return min(shutil.get_terminal_size().columns, _WIDEST) - 1 if is_terminal else _ANY_WIDTH


def paragraph_width() -> int:
    """Of paragraphs with indented parts, such as findings: they are broken in a pipe, too."""
    return min(text_width(), _WIDEST)


def tell(lines: Iterable[str]) -> None:
    """Lines on standard output; on a terminal broken at words, what follows further in."""
    for line in lines:
        for part in _broken(line, text_width()):
            say(part)


def note(text: str) -> None:
    """A remark that begins with `note: `, broken as `tell` breaks lines."""
    for part in _broken(f"note: {text}", text_width(of_remarks=True)):
        remark(part)


def _broken(line: str, width: int) -> list[str]:
    import textwrap

    further = " " * (len(line) - len(line.lstrip()) + 4)
    parts = textwrap.wrap(line, width, subsequent_indent=further, break_on_hyphens=False, break_long_words=False)
    return parts or [line]


def remark(text: str) -> None:
    """A line on standard error, so that standard output stays one document."""
    sys.stderr.write(printable(text) + "\n")


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A status line on a terminal, silence in a pipe."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("starting") as status:
        yield lambda text: status.update(escape(text))
