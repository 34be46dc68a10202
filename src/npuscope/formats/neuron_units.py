"""Units of the vendor's figures, which drift between its versions and outputs: told from evidence inside the file.

A `*_percent` is a fraction in every real file, though the schema says percent; a time is seconds in a summary and
nanoseconds in an event. A file that contradicts that is converted, and a note says by which evidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from npuscope.profile.schema import columns_of

_CLOCK_RANGE_HZ = (0.5e9, 4e9)
"""A NeuronCore counts cycles at 1.0 to 2.8 GHz, by the generation and by the engine."""
_SECONDS_PER = (
    ("seconds", 1.0),
    ("milliseconds", 1e-3),
    ("microseconds", 1e-6),
    ("nanoseconds", 1e-9),
    ("picoseconds", 1e-12),
)
_NS_PER = (("nanoseconds", 1.0), ("picoseconds", 1e-3), ("microseconds", 1e3), ("milliseconds", 1e6), ("seconds", 1e9))
_TOLERANCE = 8.0
"""How far a span of events may be from the summary's total time before another unit explains it better."""


def is_number(value: Any) -> bool:
    """Whether a value is a finite number and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _unit_of(key: str) -> str:
    known = columns_of("Summary").get(key)
    if known is not None:
        return known.unit
    return "percent" if key.endswith("_percent") else ""


def normalise_summary(
    rows: Sequence[Mapping[str, Any]], total_s: float | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Summary rows with times in seconds and `*_percent` as fractions.

    Args:
        rows: One per node or core.
        total_s: How long the profile is by other evidence, such as its last timestamp.

    Returns:
        The rows, and a note for each conversion.
    """
    made, notes = [], dict[str, None]()
    for row in rows:
        seconds, unit = _summary_seconds(row, total_s)
        fraction = percent_scale(row)
        if seconds != 1:
            notes[f"summary times are {unit} here; converted to seconds"] = None
        if fraction != 1:
            notes["summary percentages run from 0 to 100 here; converted to fractions"] = None
        made.append({key: _scaled(key, value, seconds, fraction) for key, value in row.items()})
    return made, list(notes)


def _scaled(key: str, value: Any, seconds: float, fraction: float) -> Any:
    if not is_number(value) or (seconds == 1 and fraction == 1):
        return value
    unit = _unit_of(key)
    factor = seconds if unit == "seconds" else fraction if unit == "percent" else 1
    return value if factor == 1 else value * factor


def _summary_seconds(row: Mapping[str, Any], total_s: float | None) -> tuple[float, str]:
    """Seconds per unit of the summary's times, judged by its cycle count, else by the length of the profile."""
    total, cycles = row.get("total_time"), row.get("neuroncore_cycle_count")
    if not is_number(total) or total is None or total <= 0:
        return 1.0, "seconds"
    for unit, scale in _SECONDS_PER:
        if is_number(cycles) and cycles is not None and cycles > 0:
            if _CLOCK_RANGE_HZ[0] <= cycles / (total * scale) <= _CLOCK_RANGE_HZ[1]:
                return scale, unit
        elif total_s and 1 / _TOLERANCE <= total * scale / total_s <= _TOLERANCE:
            return scale, unit
    return 1.0, "seconds"


def percent_scale(row: Mapping[str, Any]) -> float:
    """What turns the `*_percent` of a summary into fractions: 1 or 0.01.

    Every `X_percent` beside `X` and `total_time` votes; where none can, a value above 1 decides.
    """
    total = row.get("total_time")
    votes: list[float] = []
    for key, value in row.items():
        part = row.get(key.removesuffix("_percent"))
        if not key.endswith("_active_time_percent") or not all(map(is_number, (value, part, total))):
            continue
        if "_dma_active" in key and not key.startswith("dma_"):
            continue  # a share of dma_active_time, and of nothing else
        if value and part and total:
            votes.append(float(value) * float(total) / float(part))
    if votes:
        return 0.01 if sum(50 < vote < 200 for vote in votes) > len(votes) / 2 else 1.0
    values = [value for key, value in row.items() if _unit_of(key) == "percent" and is_number(value)]
    return 0.01 if any(value > 1.5 for value in values) else 1.0


def event_time_unit(span: float, total_s: Iterable[Any]) -> tuple[str, float]:
    """The unit of event times and its nanoseconds, from the last event's end and what is known of the total time.

    Nanoseconds where the evidence fits them or is missing; events end before the total time, never much after it.
    """
    known = [float(value) * 1e9 for value in total_s if is_number(value) and value > 0]
    if not known or span <= 0:
        return _NS_PER[0]
    for unit, scale in _NS_PER:
        if any(1 / _TOLERANCE <= span * scale / total <= _TOLERANCE for total in known):
            return unit, scale
    return _NS_PER[0]
