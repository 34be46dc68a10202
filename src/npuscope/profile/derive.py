"""Tables that follow from others: active time from instructions, counts and times by opcode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from npuscope.profile.intervals import Intervals, Ticks, merge
from npuscope.profile.schema import ENGINES
from npuscope.profile.tables import Profile, conform

WAITING_OPCODE = "EVENT_SEMAPHORE"
"""An instruction that only waits; the vendor counts none of its time as active."""
_PS_PER_NS = 1000
_ROUNDED_DOWN = frozenset({"neuron-json"})


@dataclass(frozen=True, slots=True)
class Work:
    """The instructions of a Profile as arrays, read once for all figures; times in picoseconds."""

    start: Ticks
    end: Ticks
    engine: npt.NDArray[np.int64]
    """Index into `ENGINES`; -1 for another name."""
    opcode: npt.NDArray[np.int64]
    """Index into `opcodes`."""
    opcodes: list[str]
    active: npt.NDArray[np.bool_]
    """Whether its time counts as active: all but EVENT_SEMAPHORE."""

    @property
    def duration(self) -> Ticks:
        """End less start."""
        return self.end - self.start

    def runs(self, opcode: str) -> npt.NDArray[np.bool_]:
        """Which instructions have one opcode."""
        index = self.opcodes.index(opcode) if opcode in self.opcodes else -1
        return np.asarray(self.opcode == index, bool)


def span_ps(profile: Profile, table: str) -> Intervals:
    """Start and end of every row in picoseconds; from the nanosecond columns where the finer ones are missing."""
    if profile.has(table, "start_ps"):
        start = profile.numbers(table, "start_ps")
        return start, start + profile.numbers(table, "duration_ps")
    start = profile.numbers(table, "start_ts") * _PS_PER_NS
    if profile.has(table, "duration_ns"):
        return start, start + profile.numbers(table, "duration_ns") * _PS_PER_NS
    return start, profile.numbers(table, "end_ts") * _PS_PER_NS


def lost_ps(profile: Profile) -> int:
    """What rounding takes from a duration on average: half a nanosecond in the vendor's JSON, which rounds down.

    Without it, the summed time of short instructions comes out up to 3 % too small there.
    """
    return _PS_PER_NS // 2 if profile.metadata.get("source_format") in _ROUNDED_DOWN else 0


def stated_active_ps(profile: Profile) -> dict[str, int]:
    """Active time per engine from `ActiveTime`, whose ends are rounded like its starts, so that no time is lost."""
    start, end = profile.numbers("ActiveTime", "start_ts"), profile.numbers("ActiveTime", "end_ts")
    codes, names = profile.codes("ActiveTime", "engine")
    index = np.array([_engine_index(name) for name in names] or [-1])[codes]
    return {name: int((end - start)[index == at].sum()) * _PS_PER_NS for at, name in enumerate(ENGINES)}


def read_work(profile: Profile) -> Work:
    """The instructions; where there are none, the rows of `ActiveTime`, all of them active and without an opcode."""
    table = "Instruction" if profile.rows("Instruction") else "ActiveTime"
    start, end = span_ps(profile, table)
    codes, names = profile.codes(table, "engine")
    index = np.array([_engine_index(name) for name in names] or [-1])
    opcode, opcodes = profile.codes(table, "opcode")
    waiting = opcodes.index(WAITING_OPCODE) if WAITING_OPCODE in opcodes else -1
    return Work(start, end, index[codes], opcode, opcodes, opcode != waiting)


def _engine_index(text: str) -> int:
    """`ActiveTime` writes engines in lower case."""
    return next((index for index, name in enumerate(ENGINES) if name.lower() == text.lower()), -1)


def active_intervals(work: Work) -> dict[str, Intervals]:
    """Per engine, the merged intervals in which it works, in picoseconds."""
    found = {name: np.flatnonzero(work.active & (work.engine == index)) for index, name in enumerate(ENGINES)}
    return {name: merge(work.start[rows], work.end[rows]) for name, rows in found.items() if rows.size}


def active_time(active: dict[str, Intervals], *, source: str) -> pa.Table:
    """`ActiveTime` as the vendor writes it: merged intervals per engine, each time rounded down by itself."""
    start, end = (np.concatenate([np.zeros(0, np.int64), *(pair[side] for pair in active.values())]) for side in (0, 1))
    names = pa.array([name.lower() for name in active], pa.string())
    engine = np.repeat(np.arange(len(active)), [pair[0].size for pair in active.values()])
    return conform(
        "ActiveTime",
        {
            "start_ts": start // _PS_PER_NS,
            "end_ts": end // _PS_PER_NS,
            "engine": names.take(pa.array(engine, pa.int64())),
            "pcore_idx": np.zeros(start.size, np.int64),
            "duration_ns": (end - start) // _PS_PER_NS,
            "start_ps": start,
            "duration_ps": end - start,
        },
        source=source,
    )


def opcode_summary(work: Work, active: dict[str, Intervals], *, source: str) -> pa.Table:
    """`OpcodeSummary`: count, time and active time of every opcode on every engine; percent is a share of the engine's."""
    group = work.engine * len(work.opcodes) + work.opcode
    known = np.flatnonzero(work.engine >= 0)
    order = known[
        np.argsort(group[known].astype(np.uint16 if group.max(initial=0) < 1 << 16 else np.int64), kind="stable")
    ]
    ends = np.append(np.flatnonzero(np.diff(group[order])) + 1, order.size) if order.size else np.zeros(0, np.int64)
    rows: list[dict[str, Any]] = []
    for begin, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=False):
        mine = order[begin:end]
        engine, opcode = divmod(int(group[mine[0]]), len(work.opcodes))
        name, code = ENGINES[engine], work.opcodes[opcode]
        union = length(merge(work.start[mine], work.end[mine]))
        busy = length(active[name]) if name in active else 0
        rows.append(
            {
                "engine": name,
                "opcode": code,
                "instruction_count": int(mine.size),
                "instruction_time_ns": int(work.duration[mine].sum()) // _PS_PER_NS,
                "active_time_ns": union // _PS_PER_NS,
                "active_time_percent": union / busy if busy and code != WAITING_OPCODE else 0.0,
            }
        )
    rows.sort(key=lambda row: (ENGINES.index(row["engine"]), row["opcode"]))
    empty: dict[str, list[Any]] = {"engine": [], "opcode": []}
    return conform("OpcodeSummary", pa.Table.from_pylist(rows) if rows else empty, source=source)


def length(intervals: Intervals) -> int:
    """How much time merged intervals cover."""
    return int((intervals[1] - intervals[0]).sum())
