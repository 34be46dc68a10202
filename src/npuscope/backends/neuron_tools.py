"""AWS's command-line profiler: which one is installed, and how it is run. It has not met the hardware; tested with stand-ins.

There are two, with nearly the same interface. `neuron-profile` was shipped up to SDK 2.29; `neuron-explorer` from 2.27 on, and
alone since 2.30. What each can do is in `neff_capture` (`capture`) and `neuron_view` (`view`, `show-session`).

Source: AWS Neuron documentation, Neuron Profiler User Guide (2.28.1), Get Started with Neuron Explorer (2.32: `neuron-explorer
--version`; what it prints is not documented), Migration Guide from Neuron Profiler to Neuron Explorer.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from npuscope.backends.processes import Ended, run_child
from npuscope.errors import MeasurementError, NpuscopeError, OutputError, UnavailableError, UsageError, shorten

EXPLORER: Final = "neuron-explorer"
PROFILE: Final = "neuron-profile"
PROFILERS: Final = (EXPLORER, PROFILE)
"""The newer first; SDK 2.30 ceased to ship the older."""
TOOL_FOLDER: Final = "/opt/aws/neuron/bin"
"""Where aws-neuronx-tools installs them (Neuron Profiler User Guide); login shells have it on PATH, services may not."""
DEFAULT_TIMEOUT_S: Final = 600.0
_VERSION_TIMEOUT_S: Final = 30.0
_VERSION: Final = re.compile(r"(?<![0-9.])([0-9]{1,4}(?:\.[0-9]{1,9}){1,4}(?:-[0-9a-f]{6,40})?)(?![0-9.])")


@dataclass(frozen=True, slots=True)
class Profiler:
    """An installed profiler."""

    path: str
    interface: str
    """`neuron-explorer` or `neuron-profile`: by its name, whatever folder it is in."""
    version: str
    """Such as `2.33.38.0`; '' where it does not tell. The older tool has no documented way to ask."""

    @property
    def release(self) -> tuple[int, int] | None:
        """The first two numbers of the version, which are those of the SDK; None where it is not known."""
        numbers = re.match(r"([0-9]+)\.([0-9]+)", self.version)
        return (int(numbers[1]), int(numbers[2])) if numbers else None

    @property
    def told(self) -> str:
        """Its name with its version, for a message."""
        return f"{self.interface} {self.version}".strip()


def find_profiler(names: Iterable[str] = PROFILERS) -> Profiler:
    """The newest profiler that is installed.

    Args:
        names: Those that will do, the best first.

    Raises:
        UnavailableError: None of them is.
    """
    wanted = tuple(names)
    for name in wanted:
        found = shutil.which(name) or shutil.which(name, path=TOOL_FOLDER)
        if found is not None:
            return identify_profiler(found)
    which = f"neither {' nor '.join(wanted)} is" if len(wanted) > 1 else f"{wanted[0]} is not"
    raise UnavailableError(
        "AWS's profiler",
        missing=f"{which} on PATH or in {TOOL_FOLDER}",
        remedy="install aws-neuronx-tools on a Neuron instance"
        if EXPLORER in wanted
        else "aws-neuronx-tools of SDK 2.29 was the last with it",
    )


def identify_profiler(path: str | os.PathLike[str]) -> Profiler:
    """Which interface a profiler has, by its name, and its version if it tells one.

    Raises:
        UsageError: It has another name than AWS's profilers.
    """
    name = Path(path).name
    if name not in PROFILERS:
        raise UsageError(f"{shorten(str(path))} is none of AWS's profilers, which are named {' and '.join(PROFILERS)}")
    return Profiler(os.fspath(path), name, _version(os.fspath(path)) if name == EXPLORER else "")


def as_profiler(tool: Profiler | str | os.PathLike[str] | None) -> Profiler:
    """A profiler as given, by its path, or the one that is found."""
    if isinstance(tool, Profiler):
        return tool
    return find_profiler() if tool is None else identify_profiler(tool)


def _version(path: str) -> str:
    """What looks like a version in the answer to `--version`; a tool that does not answer is no error yet."""
    try:
        ended = run_child((path, "--version"), env=tool_environment(), timeout_s=_VERSION_TIMEOUT_S)
    except NpuscopeError:
        return ""
    found = _VERSION.search(ended.output) if ended.status == 0 else None
    return found[1] if found else ""


def tool_environment() -> dict[str, str]:
    """Ours without the runtime's own capturing, which would be a second profiler on the same execution."""
    return {name: value for name, value in os.environ.items() if not name.startswith("NEURON_RT_INSPECT_")}


def run_tool(
    profiler: Profiler,
    words: Sequence[str],
    *,
    what: str,
    cwd: Path,
    timeout_s: float | None,
    stdout: BinaryIO | None = None,
) -> Ended:
    """Run a profiler to a good end.

    Args:
        profiler: Which.
        words: Its subcommand and what follows.
        what: What it is asked for, for a message: `capture of graph.neff`.
        cwd: Its folder, in which it may leave files.
        timeout_s: Most time; None is any.
        stdout: A file for its standard output, where that is the result.

    Raises:
        UnavailableError: It has gone, or cannot be executed.
        MeasurementError: It failed or took too long; in one line, with its own last words.
    """
    name = f"{profiler.interface} {what}"
    try:
        ended = run_child((profiler.path, *words), env=tool_environment(), cwd=cwd, timeout_s=timeout_s, stdout=stdout)
    except UsageError as error:
        raise UnavailableError(name, missing=str(error), remedy="reinstall aws-neuronx-tools") from error
    except MeasurementError as error:
        raise MeasurementError(f"{shorten(name, 200)}: {error}") from error
    if ended.status != 0:
        raise MeasurementError(f"{shorten(name, 200)} {ended.told()}: {_last_words(ended, stdout)}")
    return ended


def _last_words(ended: Ended, stdout: BinaryIO | None) -> str:
    """Of standard error; where that is silent, of the standard output that went to a file."""
    if ended.output.strip() or stdout is None:
        return ended.last_words()
    stdout.seek(max(0, stdout.seek(0, os.SEEK_END) - 4096))
    return Ended(ended.status, stdout.read().decode("utf-8", "replace")).last_words()


def make_folder(folder: Path) -> None:
    """Make a folder for what a profiler writes.

    Raises:
        OutputError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{shorten(str(folder), 200)} cannot be used for captures: {reason}") from error


def move_new(source: Path, target: Path) -> None:
    """Give a file or folder another name on the same file system, never in the place of something that is there.

    Raises:
        OutputError: Something is there, or it cannot be moved.
    """
    try:
        if target.is_symlink() or target.exists():
            raise FileExistsError(17, "it exists")
        if source.is_dir():
            source.rename(target)  # replaces an empty folder at most
            return
        try:
            os.link(source, target)  # unlike a renaming, this fails where something has come to be meanwhile
        except FileExistsError:
            raise
        except OSError:
            source.rename(target)  # a file system without hard links
        else:
            source.unlink()
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}; the new file is {source}") from error
