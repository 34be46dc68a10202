"""Tables that follow from others: active time from instructions, counts and times by opcode."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from npuscope.profile.intervals import Intervals, merge
from npuscope.profile.schema import ENGINES
from npuscope.profile.tables import Profile, conform

WAITING_OPCODE = "EVENT_SEMAPHORE"
"""An instruction that only waits; the vendor counts none of its time as active."""
_PS_PER_NS = 1000


def span_ps(profile: Profile, table: str) -> Intervals:
    """Start and end of every row in picoseconds; from the nanosecond columns where the finer ones are missing."""
    if profile.has(table, "start_ps"):
        start = profile.numbers(table, "start_ps")
        return start, start + profile.numbers(table, "duration_ps")
    start = profile.numbers(table, "start_ts") * _PS_PER_NS
    if profile.has(table, "duration_ns"):
        return start, start + profile.numbers(table, "duration_ns") * _PS_PER_NS
    return start, profile.numbers(table, "end_ts") * _PS_PER_NS


def works(profile: Profile) -> npt.NDArray[np.bool_]:
    """Per instruction, whether its time counts as active: all but EVENT_SEMAPHORE."""
    return np.asarray(profile.texts("Instruction", "opcode") != WAITING_OPCODE, bool)


def active_intervals(profile: Profile) -> dict[str, Intervals]:
    """Per engine, the merged intervals in which it works, in picoseconds.

    From `Instruction`; from `ActiveTime` where there are no instructions.
    """
    if profile.rows("Instruction"):
        start, end = span_ps(profile, "Instruction")
        engine, active = profile.texts("Instruction", "engine"), works(profile)
    else:
        start, end = span_ps(profile, "ActiveTime")
        engine = np.array([_engine_name(name) for name in profile.texts("ActiveTime", "engine").tolist()], object)
        active = np.ones(start.size, bool)
    found = {name: active & (engine == name) for name in ENGINES}
    return {name: merge(start[mask], end[mask]) for name, mask in found.items() if mask.any()}


def _engine_name(text: str) -> str:
    return next((name for name in ENGINES if name.lower() == text.lower()), text)


def active_time(profile: Profile) -> pa.Table:
    """`ActiveTime` as the vendor writes it: merged intervals per engine, each time rounded down by itself."""
    columns: dict[str, list[Any]] = {"engine": [], "start_ps": [], "duration_ps": []}
    for name, (start, end) in active_intervals(profile).items():
        columns["engine"].append(np.full(start.size, name.lower(), object))
        columns["start_ps"].append(start)
        columns["duration_ps"].append(end - start)
    start, duration = (_concatenated(columns[key]) for key in ("start_ps", "duration_ps"))
    engine = np.concatenate([np.zeros(0, object), *columns["engine"]])
    return conform(
        "ActiveTime",
        {
            "start_ts": start // _PS_PER_NS,
            "end_ts": (start + duration) // _PS_PER_NS,
            "engine": pa.array(engine, pa.string()),
            "pcore_idx": np.zeros(start.size, np.int64),
            "duration_ns": duration // _PS_PER_NS,
            "start_ps": start,
            "duration_ps": duration,
        },
        source=profile.source,
    )


def _concatenated(parts: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def opcode_summary(profile: Profile) -> pa.Table:
    """`OpcodeSummary`: count, time and active time of every opcode on every engine; percent is a share of the engine's."""
    start, end = span_ps(profile, "Instruction")
    engine, opcode = profile.texts("Instruction", "engine"), profile.texts("Instruction", "opcode")
    rows: list[dict[str, Any]] = []
    for name in ENGINES:
        mine = engine == name
        times = [(code, mine & (opcode == code)) for code in sorted(set(opcode[mine].tolist()))]
        unions = {code: _length(merge(start[mask], end[mask])) for code, mask in times}
        busy = max(_length(merge(start[mine & works(profile)], end[mine & works(profile)])), 1) if times else 1
        rows += [
            {
                "engine": name,
                "opcode": code,
                "instruction_count": int(mask.sum()),
                "instruction_time_ns": int((end[mask] - start[mask]).sum()) // _PS_PER_NS,
                "active_time_ns": unions[code] // _PS_PER_NS,
                "active_time_percent": 0.0 if code == WAITING_OPCODE else unions[code] / busy,
            }
            for code, mask in times
        ]
    empty: dict[str, list[Any]] = {"engine": [], "opcode": []}
    return conform("OpcodeSummary", pa.Table.from_pylist(rows) if rows else empty, source=profile.source)


def _length(intervals: Intervals) -> int:
    return int((intervals[1] - intervals[0]).sum())
