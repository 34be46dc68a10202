"""Text for quantities and quantities from text. Imports nothing from the package but its errors."""

from __future__ import annotations

import math
import re

from npuscope.errors import UsageError, shorten

_TIME_STEPS = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))
_BYTE_STEPS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_RATE_STEPS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def printable(text: str) -> str:
    """`text` without control characters: a name from a file must not steer the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def format_ns(duration_ns: float) -> str:
    """Four significant digits with the unit that fits: `12.34 µs`."""
    if not math.isfinite(duration_ns):
        return "-"
    for scale, unit in _TIME_STEPS:
        if abs(duration_ns) >= scale:
            return f"{duration_ns / scale:.4g} {unit}"
    return f"{duration_ns:.3g} ns"


def format_bytes(count: float) -> str:
    """Bytes in binary units: `1.5 GiB`."""
    for scale, unit in _BYTE_STEPS:
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"


def format_rate(value: float, unit: str) -> str:
    """A rate in decimal units: `282.0 GFLOP/s`."""
    if not math.isfinite(value):
        return "-"
    for scale, prefix in _RATE_STEPS:
        if value >= scale:
            return f"{value / scale:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


def format_percent(fraction: float, digits: int = 1) -> str:
    """A fraction as percent: `12.3 %`."""
    return f"{100 * fraction:.{digits}f} %" if math.isfinite(fraction) else "-"


def parse_fraction(text: str, what: str, *, with_ends: bool = False) -> float:
    """`1%` or `0.01` as a fraction strictly between 0 and 1.

    Args:
        text: What the user wrote.
        what: How to call it in an error.
        with_ends: 0 and 1 are allowed, too.

    Raises:
        UsageError: It is neither, or out of range.
    """
    body = text.strip()
    try:
        value = float(body[:-1]) / 100 if body.endswith("%") else float(body)
    except ValueError:
        raise UsageError(f"{what} {shorten(text)!r} is not a number; write it as 1% or 0.01") from None
    if not (0 < value < 1 or (with_ends and value in {0, 1})):
        raise UsageError(f"{what} {shorten(text)!r} must lie between 0 and 1 (100 %)")
    return value


def parse_integers(text: str, what: str, count: int) -> tuple[int, ...]:
    """`128x128x512` as `count` integers; `×` and `X` also separate.

    Raises:
        UsageError: Another number of parts, or a part that is not a whole number.
    """
    parts = re.split(r"[xX×]", text.strip())
    if len(parts) != count or not all(re.fullmatch(r"[+-]?[0-9]{1,30}", part.strip()) for part in parts):
        example = "x".join(["128"] * count)
        raise UsageError(f"{what} {shorten(text)!r} is not {count} whole numbers; write it as {example}")
    return tuple(int(part) for part in parts)
