"""Every error that npuscope raises on purpose: one sentence that says what, where and what to do.

The command line turns each into one line and `exit_code`; a traceback appears only with `--debug`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NpuscopeError(Exception):
    """What all errors of this package share: a one-line message and an exit code."""

    exit_code = 2


class UsageError(NpuscopeError, ValueError):
    """A flag, a shape or a name cannot be used as given."""


class OutputError(NpuscopeError):
    """A result cannot be written where the user asked for it."""


class FormatError(NpuscopeError, ValueError):
    """An input file is not what it should be."""

    exit_code = 3

    def __init__(self, source: object, *, where: str = "", expected: str, found: str, remedy: str = "") -> None:
        """Compose the sentence.

        Args:
            source: The file, as the user named it.
            where: Byte, row, column or key.
            expected: What would have been right.
            found: What stood there instead; shortened if long.
            remedy: What to do about it.
        """
        place = f"{source}, {where}" if where else f"{source}"
        message = f"{place}: expected {expected}, found {shorten(found)}"
        super().__init__(f"{message}; {remedy}" if remedy else message)


class UnavailableError(NpuscopeError, RuntimeError):
    """A device, an SDK or a tool that was asked for is not here."""

    exit_code = 4

    def __init__(self, what: str, *, missing: str, remedy: str) -> None:
        """Compose the sentence.

        Args:
            what: The device or tool that was asked for.
            missing: What it lacks.
            remedy: How to get it.
        """
        super().__init__(f"{what} is not available: {missing}; {remedy}")
        self.missing = missing
        self.remedy = remedy


class MeasurementError(NpuscopeError, RuntimeError):
    """One workload cannot be measured; a sweep records it and goes on."""

    exit_code = 1


class ComparisonError(NpuscopeError, ValueError):
    """Two results are not comparable: other work, another method or too few runs."""

    exit_code = 1


def shorten(text: str, limit: int = 80) -> str:
    """Return `text` on one line with no control characters, cut to `limit` characters."""
    line = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(line.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """An unknown name, with the nearest known one if there is one near, and else all of them."""
    choices = list(known)
    near = difflib.get_close_matches(name.lower(), choices, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(choices)}"
    return UsageError(f"unknown {kind} {shorten(name)!r}; {hint}")
