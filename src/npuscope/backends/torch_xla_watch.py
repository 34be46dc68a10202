"""What torch_xla counts itself: graphs that it had not compiled yet, those that it had, and the time of its compilations.

Names are from the source of torch_xla 2.9: `UncachedCompile` and `CachedCompile` (xla_graph_executor.cpp, one look-up of its
in-process cache each), `PersistentCacheHit` and `PersistentCacheMiss` (cache.h), the metrics `CompileTime` and `ExecuteTime` in
nanoseconds. A graph that AWS's wrapper then takes from the NEFF cache counts as uncached here. It has not met the hardware.
"""

from __future__ import annotations

import sys
from typing import Any, Final

COUNTERS: Final = ("UncachedCompile", "CachedCompile", "PersistentCacheHit", "PersistentCacheMiss")
METRICS: Final = ("CompileTime", "ExecuteTime")


class TorchXlaWatch:
    """Reads the counters of a process in which the program has imported torch_xla."""

    def __init__(self) -> None:
        self._is_there = False

    def begin(self) -> None:
        """The program has imported torch_xla; its counters run by themselves."""
        self._is_there = True

    def count(self) -> int | None:
        """Graphs compiled so far; None without torch_xla."""
        if not self._is_there:
            return None
        metrics = _metrics()
        return None if metrics is None else int(metrics.counter_value("UncachedCompile") or 0)

    def end(self) -> dict[str, Any] | None:
        """All counters; one that was never raised is 0. None without torch_xla."""
        metrics = _metrics() if self._is_there else None
        if metrics is None:
            return None
        told: dict[str, Any] = {name: int(metrics.counter_value(name) or 0) for name in COUNTERS}
        for name in METRICS:
            read = getattr(metrics, "metric_data", None)
            data = read(name) if read else None  # (samples, their sum, the last of them)
            told[name] = None if read is None else {"samples": int(data[0]), "sum_ns": float(data[1])} if data else None
        told["version"] = str(getattr(sys.modules["torch_xla"], "__version__", ""))
        return told


def _metrics() -> Any:
    try:
        import torch_xla.debug.metrics as metrics
    except (ImportError, OSError):
        return None
    return metrics
