"""Chrome traces for tests: properly nested slices on threads and streams, as Perfetto's processor can hold them all."""

from __future__ import annotations

import random
from typing import Any


def nested_events(seed: int, slices: int) -> list[dict[str, Any]]:
    """Complete events, begins with ends, and instants on some threads; no two overlap without nesting."""
    draw = random.Random(seed)
    events: list[dict[str, Any]] = []
    for pid, tids in ((1, (1, 2)), (7, (30, 31, 32))):
        events.append({"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": f"process {pid}"}})
        for tid in tids:
            events.append(
                {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": f"thread {pid}.{tid}"}}
            )
            now_ns = draw.randrange(10**6, 10**9)
            for _ in range(slices):
                now_ns += draw.randrange(1, 5000)
                now_ns = _nest(events, draw, pid, tid, now_ns, depth=0)
    return events


def _nest(events: list[dict[str, Any]], draw: random.Random, pid: int, tid: int, start_ns: int, depth: int) -> int:
    """One slice, and perhaps others within it; its end."""
    at = len(events)
    now_ns = start_ns + draw.randrange(1, 3000)
    for _ in range(draw.randrange(3) if depth < 4 else 0):
        now_ns = _nest(events, draw, pid, tid, now_ns, depth + 1) + draw.randrange(1, 500)
    name = draw.choice(["aten::mm", "memcpy", 'quoted "},{" name', "Größe", "step"])
    common = {"name": f"{name} {depth}", "cat": draw.choice(["cpu_op", "kernel"]), "pid": pid, "tid": tid}
    if draw.random() < 0.5:
        duration = {"ph": "X", "ts": start_ns / 1000, "dur": (now_ns - start_ns) / 1000}
        events.insert(at, {**common, **duration, "args": {"depth": depth, "big": (1 << 62) + 1}})
    else:
        events.insert(at, {**common, "ph": "B", "ts": start_ns / 1000})
        events.append({"ph": "E", "pid": pid, "tid": tid, "ts": now_ns / 1000})
    return now_ns
