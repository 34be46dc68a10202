"""Processes that a user's program starts of its own, counted: what they compile, nobody here sees.

| how it is started | heard from |
|---|---|
| `os.fork`, `subprocess`, `os.system`, `os.posix_spawn` | Python's audit events |
| `multiprocessing`, which starts processes by itself | its own number of them (private) |
| anything else | what is still a child in the end, and the processor time of those that ended |

Tools that compilers, Python and shells use, such as `uname` or `neuronx-cc`, are no part of a program.
"""

from __future__ import annotations

import os
import re
import resource
import shlex
import sys
from contextlib import suppress
from typing import Any, Final

TOOLS: Final = frozenset(
    [
        "as",
        "c++",
        "cat",
        "cc",
        "clang",
        "g++",
        "gcc",
        "git",
        "hostname",
        "ldconfig",
        "ld",
        "lscpu",
        "ls",
        "lspci",
        "neuron-cc",
        "neuron-ls",
        "neuron-monitor",
        "neuron-top",
        "neuronx-cc",
        "numactl",
        "nvcc",
        "nvidia-smi",
        "nvlink",
        "objdump",
        "ps",
        "ptxas",
        "rocminfo",
        "rocm-smi",
        "sysctl",
        "tput",
        "true",
        "uname",
        "which",
    ]
)
_LEAST_CPU_S: Final = 0.5
"""Of processes that ended unheard; one that compiles needs more to import its framework."""
_HELPERS: Final = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Processes of Python's own."""


class ProcessWatch:
    """Counts from its making to the end of the program."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._heard_count = self._tools = 0
        self._made_before = _multiprocessing_count()
        self._cpu_before_s = _children_cpu_s()
        sys.addaudithook(self._heard)

    def end(self) -> int:
        """How many there were; of those that were started unheard, at least so many."""
        count = self._heard_count + _multiprocessing_count() - self._made_before
        if count or self._tools:  # what those took cannot be told from what others took
            return count
        return _living() or int(_children_cpu_s() - self._cpu_before_s > _LEAST_CPU_S)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        """One audit event; an exception here would be raised in the program."""
        if not event.startswith(("os.", "subprocess.")) or os.getpid() != self._owner:
            return
        with suppress(Exception):
            words = _command(event, arguments, str(sys._getframe(1).f_globals.get("__name__")))
            if words is None:
                return
            if words and _program(words) in TOOLS:
                self._tools += 1
            else:
                self._heard_count += 1


def _command(event: str, arguments: tuple[Any, ...], caller: str) -> list[str] | None:
    """Words of the command that an event starts, empty for a fork; None where it starts none, or one that is counted otherwise."""
    if event in ("os.fork", "os.forkpty"):
        return None if caller.startswith("multiprocessing.") else []
    if event == "subprocess.Popen":
        return _words(arguments[1])
    if event == "os.posix_spawn":
        return None if caller == "subprocess" else _words(arguments[1])
    return _words(arguments[0]) if event == "os.system" else None


def _words(command: Any) -> list[str]:
    if isinstance(command, (str, bytes)):
        return shlex.split(os.fsdecode(command))
    return [os.fsdecode(word) for word in command]


def _program(words: list[str]) -> str:
    """The name of what is run, also by a shell."""
    name = os.path.basename(words[0])  # noqa: PTH119 - of a command, not of a file here
    if name in ("sh", "bash", "dash") and len(words) > 2 and words[1] == "-c":
        inner = shlex.split(words[2])
        return os.path.basename(inner[0]) if inner else ""  # noqa: PTH119
    return name


def _multiprocessing_count() -> int:
    """Processes that `multiprocessing` has made; 0 where it is not used, or this Python keeps no such number."""
    counter = getattr(sys.modules.get("multiprocessing.process"), "_process_counter", None)
    found = re.fullmatch(r"count\((\d+)\)", repr(counter))
    return int(found[1]) - 1 if found else 0


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _living() -> int:
    """Children that there still are, without helpers and tools."""
    count = 0
    with suppress(Exception):  # what was seen must be told even where the program has a psutil of its own
        import psutil

        for child in psutil.Process().children():
            with suppress(psutil.Error):  # it ended meanwhile
                words = child.cmdline()
                is_helper = any(name in " ".join(words) for name in _HELPERS)
                count += bool(words) and not is_helper and _program(words) not in TOOLS
    return count
