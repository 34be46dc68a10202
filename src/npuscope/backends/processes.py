"""A user's command or a vendor's tool as a child process: with a time limit, and ended with us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from npuscope.errors import MeasurementError, UsageError, shorten

_STDERR: Final = 2
"""The descriptor, not `sys.stderr`: a child writes there whatever that name stands for here."""
_KEPT_BYTES: Final = 1 << 16
"""Of a child's output: enough for its last words."""
_PATIENCE_S: Final = 5.0
"""Between one signal and the next, stronger one."""


def module_words(module: str, *arguments: str) -> list[str]:
    """A command that runs `main` of one of our modules with this Python.

    As `python -m` does, but the current folder is no place to import from: what lies there is the user's, and may have the
    name of any module.
    """
    code = (
        "import sys; sys.path[:] = [place for place in sys.path if place]; "
        f"from {module} import main; sys.exit(main(sys.argv[1:]))"
    )
    return [sys.executable, "-c", code, *arguments]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended."""

    status: int
    """Its exit status; -N where signal N killed it."""
    output: str
    """The end of what it printed; '' where that went to our standard error."""

    def told(self) -> str:
        """`ended with status 3`, or `was killed by SIGSEGV`."""
        if self.status >= 0:
            return f"ended with status {self.status}"
        try:
            return f"was killed by {signal.Signals(-self.status).name}"
        except ValueError:
            return f"was killed by signal {-self.status}"

    def last_words(self) -> str:
        """Its last line, shortened."""
        lines = [line for line in self.output.splitlines() if line.strip()]
        return shorten(lines[-1], 300) if lines else "it printed nothing"


def run_child(
    words: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    timeout_s: float | None = None,
    is_shown: bool = False,
    stdout: BinaryIO | None = None,
) -> Ended:
    """Run a command to its end, in a process group of its own.

    Args:
        words: The command and its arguments; no shell reads them.
        env: Its whole environment.
        cwd: Its folder; None is ours.
        timeout_s: Most time that it may take; None is any.
        is_shown: Its output goes to our standard error as it comes, and it may read our standard input. Else the output is
            kept, and it has no input.
        stdout: A file for its standard output, for a command whose result that is; its standard error alone is kept then.

    Raises:
        UsageError: There is no such command, or it cannot be executed.
        MeasurementError: It took longer than `timeout_s`; it and its own children are ended then.
    """
    with tempfile.TemporaryFile() as kept:
        try:
            child = subprocess.Popen(
                list(words),
                env=dict(env),
                cwd=cwd,
                stdin=None if is_shown else subprocess.DEVNULL,
                stdout=stdout or (_STDERR if is_shown else kept),
                stderr=_STDERR if is_shown else kept,
                start_new_session=True,  # so that it can be ended with the workers that it started
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"{shorten(words[0])} cannot be run: {reason}") from error
        try:
            with interrupted_by_termination():
                status = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            end_group(child)
            said = "" if is_shown else f"; its last words: {Ended(0, end_of(kept)).last_words()}"
            raise MeasurementError(
                f"{shorten(words[0])} took longer than {timeout_s:g} s and was ended; allow more time{said}"
            ) from None
        except BaseException:
            end_group(child)
            raise
        return Ended(status, "" if is_shown else end_of(kept))


def end_of(file: BinaryIO) -> str:
    """The last of what a child printed."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _KEPT_BYTES))
    return file.read().decode("utf-8", "replace")


def end_group(child: subprocess.Popen[bytes]) -> None:
    """Ask the group to stop, so that a runtime can release its cores; then make it."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            with suppress(subprocess.TimeoutExpired):
                child.wait(_PATIENCE_S)
                break
    finally:  # also upon a second interrupt
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # the child, or what it left behind
        with suppress(subprocess.TimeoutExpired):
            child.wait(_PATIENCE_S)


@contextmanager
def interrupted_by_termination() -> Iterator[None]:
    """SIGTERM and SIGHUP as SIGINT: a child in a group of its own would outlive us and hold the device's cores."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
