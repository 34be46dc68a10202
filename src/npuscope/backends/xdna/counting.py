"""Dispatches counted where they happen: pyxrt's own `start`, `execute` and call, wrapped.

What a strategy claims to send is arithmetic; what was sent is counted here, by subclasses of the three pyxrt classes that can
submit a command. The driver is handed the wrapped module and cannot submit past it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class DispatchCount:
    """What was submitted since the runtime was wrapped."""

    dispatches: int = 0
    """Submissions to the device: one per started run, one per chain of a run list."""
    commands: int = 0
    """Commands in them: a chain holds several."""

    def copy(self) -> DispatchCount:
        """The count now."""
        return DispatchCount(self.dispatches, self.commands)

    def since(self, earlier: DispatchCount) -> DispatchCount:
        """What came after `earlier`."""
        return DispatchCount(self.dispatches - earlier.dispatches, self.commands - earlier.commands)


class CountedRuntime:
    """The pyxrt module with counting `run`, `runlist` and `kernel`; everything else is the module's own."""

    def __init__(self, runtime: Any, commands_per_submission: int) -> None:
        """Wrap.

        Args:
            runtime: The module `pyxrt`, or an emulated one.
            commands_per_submission: Most commands that a run list chains; XRT splits longer lists.
        """
        count = DispatchCount()

        class CountedRun(runtime.run):  # type: ignore[misc]
            def start(self, *arguments: Any) -> Any:
                count.dispatches += 1
                count.commands += 1
                return super().start(*arguments)

        class CountedRunList(runtime.runlist):  # type: ignore[misc]
            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                self.held = 0

            def add(self, run: Any) -> Any:
                result = super().add(run)
                self.held += 1
                return result

            def execute(self) -> Any:
                count.dispatches += -(-self.held // commands_per_submission)
                count.commands += self.held
                return super().execute()

        class CountedKernel(runtime.kernel):  # type: ignore[misc]
            def __call__(self, *arguments: Any) -> Any:
                count.dispatches += 1
                count.commands += 1
                return super().__call__(*arguments)

        self.count = count
        self.run = CountedRun
        self.runlist = CountedRunList
        self.kernel = CountedKernel
        self._runtime = runtime

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)
