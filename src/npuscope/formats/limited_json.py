"""JSON from a file that nobody vouches for: bounded in bytes, values and depth before anything is built."""

from __future__ import annotations

import json
from typing import Any, Final

from npuscope.errors import FormatError
from npuscope.units import printable

BYTES_LIMIT: Final = 32 << 20
TEXT_LIMIT: Final = 4_096
"""Characters that are kept of one string."""
VALUES_LIMIT: Final = 1_000_000
"""An empty container costs Python about 72 bytes and JSON two: this bounds the memory, not the size of the text."""


def too_large(data: bytes) -> str:
    """Why a document is refused unread, or ''."""
    if len(data) > BYTES_LIMIT:
        return f"{len(data)} bytes, more than {BYTES_LIMIT}"
    return f"more than {VALUES_LIMIT} values" if count_values(data) > VALUES_LIMIT else ""


def count_values(data: bytes) -> int:
    """At least as many as the values of a document, without parsing it."""
    return data.count(b",") + data.count(b"[") + data.count(b"{")


def parse_limited_json(data: bytes, source: object, where: str = "") -> Any:
    """Decode a JSON document.

    Args:
        data: UTF-8, or UTF-16 or 32 as RFC 4627 tells them apart; a byte-order mark is skipped.
        source: The file, for an error.
        where: The member or key in it.

    Raises:
        FormatError: It is no JSON, or beyond a limit.
    """
    reason = too_large(data)
    if reason:
        raise FormatError(source, where=where, expected="a JSON document within the limits", found=reason)
    try:
        return json.loads(data)
    except RecursionError:
        raise FormatError(source, where=where, expected="JSON", found="nesting too deep") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, an integer of thousands of digits
        place = f"{where}, byte {error.pos}" if isinstance(error, json.JSONDecodeError) else where
        raise FormatError(source, where=place.lstrip(", "), expected="JSON", found=str(error)) from None


def as_object(value: Any) -> dict[str, Any]:
    """`value` if it is a JSON object, else {}."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """`value` if it is a JSON array, else []."""
    return value if isinstance(value, list) else []


def as_text(value: Any) -> str:
    """The beginning of a string with `?` for what cannot be printed or encoded, lone surrogates included; else ''."""
    return printable(value[:TEXT_LIMIT]) if isinstance(value, str) else ""


def as_count(value: Any) -> int | None:
    """A whole number from 0 to 2^63 - 1, written as a number or as digits; else None."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < 1 << 63 else None


def as_shape(value: Any) -> tuple[int, ...] | None:
    """An array of whole numbers, or text such as `[128 128]`; else None."""
    if isinstance(value, str):
        value = value.strip("[]() ").replace(",", " ").split()
    if not isinstance(value, list) or len(value) > 16:
        return None
    edges = [as_count(edge) for edge in value]
    return tuple(edge for edge in edges if edge is not None) if None not in edges else None
