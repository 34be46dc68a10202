"""What other processes take from the machine while samples are taken."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import psutil

_IDLE = ("idle", "iowait", "guest", "guest_nice")  # guest time is counted in user time already


@dataclass(frozen=True, slots=True)
class LoadMark:
    """Processor time spent so far, in s."""

    wall_s: float
    machine_s: float
    """All processes on all cores, stolen time included."""
    own_s: float
    """This process, all threads."""


def mark_load() -> LoadMark:
    """Read the counters."""
    times = psutil.cpu_times()._asdict()
    own = psutil.Process().cpu_times()
    machine = sum(seconds for name, seconds in times.items() if name not in _IDLE)
    return LoadMark(perf_counter(), machine, own.user + own.system)


def cores_of_others(before: LoadMark, after: LoadMark) -> float:
    """How many cores other processes kept busy on average between two marks; 0 for less than 0.1 s, too short to tell."""
    wall_s = after.wall_s - before.wall_s
    if wall_s < 0.1:
        return 0.0
    return max(0.0, ((after.machine_s - before.machine_s) - (after.own_s - before.own_s)) / wall_s)
