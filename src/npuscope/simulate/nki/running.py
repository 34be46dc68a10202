"""How user code is run: one kernel of a process at a time, and none for ever."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from npuscope.simulate.nki.trace import KernelError, frame_line

STALL_LIMIT_S = 60.0
"""A kernel that runs this long without a new instruction is taken for an endless loop."""
_CHECKS = 60
"""Looks at a kernel within that time. One that is late because NumPy computes is one look, however long that takes."""

one_at_a_time = threading.RLock()
"""Held while user code runs: the current trace, `sys.modules`, `sys.path` and standard output are the process's own."""


@contextmanager
def watched(progress: Callable[[], Any]) -> Iterator[None]:
    """End what runs in the block with one line once `progress` has said the same for `STALL_LIMIT_S`.

    Only the main thread of a POSIX process can be watched, and only where no alarm of the caller's own is set; elsewhere
    the block runs unwatched.

    Args:
        progress: Another value whenever an instruction was recorded.

    Raises:
        KernelError: Nothing was recorded for so long.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    if signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return
    limit_s = STALL_LIMIT_S
    seen: list[Any] = [progress(), 0]

    def look(_: int, frame: FrameType | None) -> None:
        now = progress()
        seen[:] = (now, 0) if now != seen[0] else (now, seen[1] + 1)
        if seen[1] > _CHECKS:
            seen[1] = 0  # the next alarm must not hit what cleans up after this one
            raise KernelError(
                f"no instruction was recorded for {limit_s:g} s: an endless loop, or one with too much Python in it",
                frame_line(frame),
            )

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, limit_s / _CHECKS, limit_s / _CHECKS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)
