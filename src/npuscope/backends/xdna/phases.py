"""Where a strategy's time goes on the host, by phase."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

PHASES: Final = ("convert", "allocate", "pack", "sync_to", "run", "sync_from", "unpack")
"""Converting types, creating buffers, filling them, handing them to the device, submitting and waiting, taking results back, and
putting them where they belong (with sums of partial results)."""
OPEN: Final = "open"
"""Opening the device, loading the xclbin, making the context; once per session."""


class PhaseTimer:
    """Adds the time since the last lap to a phase."""

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        """Start.

        Args:
            clock_ns: The host's time. On an emulated device this leaves out what the emulator itself takes.
        """
        self._clock_ns = clock_ns
        self.spent_ns: dict[str, int] = dict.fromkeys((OPEN, *PHASES), 0)
        self._last_ns = clock_ns()

    def lap(self, phase: str) -> None:
        """What passed since the last lap belongs to `phase`."""
        now_ns = self._clock_ns()
        self.spent_ns[phase] += now_ns - self._last_ns
        self._last_ns = now_ns

    def skip(self) -> None:
        """What passed since the last lap belongs to none."""
        self._last_ns = self._clock_ns()

    def phases_us(self) -> dict[str, float]:
        """Microseconds by phase; opening left out."""
        return {phase: self.spent_ns[phase] / 1e3 for phase in PHASES}
