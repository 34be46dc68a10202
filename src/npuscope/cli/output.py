"""Where a command's value goes: JSON or tables to standard output, progress and remarks to standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
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
