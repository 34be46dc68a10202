"""A figure as text, with the unit that its name carries: `idle_ns` as a time, `hbm_read_bytes` in KiB, a share in percent.

A `*_time` is in seconds and a `*_percent` is a fraction, as in the vendor's summary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from npuscope.units import format_bytes, format_ns, format_percent, format_rate, printable

_SHARES = ("share", "fill", "coverage", "limit", "percent")
_SECONDS = ("_time", "_s", "seconds")
_LABEL_ENDINGS = ("_ns", "_bytes", "_flops", "_percent", "_s", "_h")
_SMALL_SHARE = 0.005
_WIDTH = 12


def quantity(name: str, value: Any) -> str:
    """One figure as text; the unit comes from the name.

    Args:
        name: Such as `idle_ns`, `total_time`, `hbm_read_bytes`, `transpose_share`, `model_flops`.
        value: A number, a text, or a mapping of names to numbers of that unit.
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{printable(str(key))} {quantity(name, item)}" for key, item in list(value.items())[:4])
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if not isinstance(value, int | float):
        return printable(str(value))
    if name.endswith("_per_s"):
        return format_rate(value, "FLOP/s" if "flops" in name else "B/s")
    if name.endswith("_ns"):
        return format_ns(value)
    if name.endswith(_SECONDS) and "share" not in name.split("_"):
        return format_ns(1e9 * value)
    if name.endswith("_h"):
        return f"{value:.4g} h"
    if "bytes" in name or name.endswith("_dma_size"):
        return format_bytes(value)
    if name.startswith("model_to_") or any(part in name.split("_") for part in _SHARES):
        return _share(value)
    if name.endswith("flops"):
        return format_rate(value, "FLOP")
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"


def _share(fraction: float) -> str:
    """As percent; below half of one, with two digits that count rather than as 0.0 %."""
    small = 0 < abs(fraction) < _SMALL_SHARE
    return f"{100 * fraction:.2g} %" if small else format_percent(fraction)


def label(name: str) -> str:
    """A name without its unit, in words: `idle_share_of_window` as `idle share of window`."""
    if name == "seconds":
        return "time"
    for ending in _LABEL_ENDINGS:
        if name.endswith(ending) and name != ending[1:] and not name.endswith("_per_s"):
            bare = name.removesuffix(ending)
            return (bare + " flops" if ending == "_flops" else bare).replace("_", " ")
    return name.replace("_", " ")


def bar(share: float, width: int = _WIDTH) -> str:
    """A share from 0 to 1 as a bar of eighths; `.` fills the rest so that its end is seen."""
    eighths = round(8 * width * min(max(share, 0.0), 1.0))
    full, rest = divmod(eighths, 8)
    drawn = "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
    return drawn.ljust(width, "·")
