"""The kernel that is being traced: where its instructions go, and which line of it runs now."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeVar

import numpy as np

from npuscope.errors import NpuscopeError, shorten
from npuscope.simulate.neuroncore.program import ProgramBuilder

_PACKAGE = Path(__file__).resolve().parents[2]
_KERNELS = str(_PACKAGE / "simulate" / "validation") + "/"
"""Kernels that come with the package are kernels all the same."""
_LIBRARY = Path(sysconfig.get_paths()["stdlib"])
_FOREIGN = (
    f"{_PACKAGE}/",
    f"{Path(np.__file__).parent}/",
    str(_LIBRARY / "functools.py"),
    str(_LIBRARY / "contextlib.py"),
    "<frozen",
)
"""Code that a kernel runs through but that is not the kernel: this package, NumPy, wrappers of the library."""


_LONGEST = 1000
"""Characters of a message that had to be cleaned."""


class KernelError(NpuscopeError):
    """A kernel does what the hardware, NKI or this simulator does not allow."""

    exit_code = 3

    def __init__(self, message: str, line: str | None = None) -> None:
        """Compose the sentence.

        Args:
            message: What is wrong, such as `nc_matmul: moving tile has 513 columns, at most 512`.
            line: `file.py:12`; by default the line of the kernel that runs now.
        """
        place = current_line() if line is None else line
        text = f"{place}: {message}" if place else message
        super().__init__(text if text.isprintable() else shorten(text, _LONGEST))
        self.line = place


class Trace:
    """A kernel on its way into a program; one per physical core at a time."""

    __slots__ = (
        "allocated",
        "builder",
        "compute",
        "device",
        "grid",
        "lnc",
        "nc_version",
        "program_id",
        "shared",
        "state",
    )

    def __init__(
        self,
        builder: ProgramBuilder | None = None,
        *,
        compute: bool = True,
        device: Any = None,
        grid: tuple[int, ...] = (),
        program_id: tuple[int, ...] = (),
        lnc: int = 1,
    ) -> None:
        """Start a trace.

        Args:
            builder: Takes the instructions; a fresh one by default.
            compute: Whether values are computed as well.
            device: The `SimDevice` that the kernel is traced for; None in tests of the front end alone.
            grid: Programs per axis of the launch grid.
            program_id: Which of them runs now; one number per axis.
            lnc: Physical cores per logical core.
        """
        self.builder = ProgramBuilder() if builder is None else builder
        self.compute = compute
        self.device = device
        self.nc_version: int = getattr(device, "nc_version", 2)
        self.grid = grid
        self.program_id = program_id
        self.lnc = lnc
        self.shared: list[Any] = []
        """HBM tensors that programs of one grid have in common, in the order of their allocation."""
        self.allocated = 0
        """How many of `shared` the program that runs now has asked for."""
        self.state: dict[str, Any] = {}
        """Whatever a dialect keeps for the time of one trace, by its own name."""

    def line(self) -> str:
        """The innermost line of the kernel that runs now, as `file.py:12`."""
        return current_line(2)


_stack: list[Trace] = []


def current() -> Trace:
    """The trace that runs now.

    Raises:
        KernelError: None does: an NKI function was called outside a kernel.
    """
    if not _stack:
        raise KernelError("NKI functions work only inside a kernel that is being simulated", line=_line_of(1))
    return _stack[-1]


def check_iterations(name: str, indices: range) -> range:
    """`indices`, unless a loop over them would run longer than any kernel may be.

    Raises:
        KernelError: There are more of them than instructions that the trace may record.
    """
    most = current().builder.max_instructions
    count = max(0, (indices.stop - indices.start + indices.step - (1 if indices.step > 0 else -1)) // indices.step)
    if count > most:
        raise KernelError(f"{name}: {count:,} iterations, more than the {most:,} instructions that a kernel may issue")
    return indices


def is_tracing() -> bool:
    """Whether a kernel runs now."""
    return bool(_stack)


@contextmanager
def tracing(trace: Trace) -> Iterator[Trace]:
    """Make `trace` the current one inside the block, also when it ends in an error."""
    depth = len(_stack)
    _stack.append(trace)
    try:
        yield trace
    finally:
        del _stack[depth:]


_Cache = TypeVar("_Cache", bound="dict[Any, Any]")
_caches: list[dict[Any, Any]] = []


def of_one_trace(cache: _Cache) -> _Cache:
    """Have a cache emptied when a trace ends: a process that simulates many kernels must not grow with each."""
    _caches.append(cache)
    return cache


def forget_caches() -> None:
    """Empty the caches of traces, unless a kernel still runs."""
    if not _stack:
        for cache in _caches:
            cache.clear()


_own: dict[int, tuple[str, CodeType]] = of_one_trace({})
"""Name of the file for code of a kernel, "" for other code, by the code's identity: its hash would read all of it."""
_names: dict[tuple[int, int], str] = of_one_trace({})
"""Lines by the identity of the code and the position in it: to find a line number, Python reads a table."""


def file_name(code: CodeType) -> str:
    """How to call the file of `code` in a message; "" where it is not a kernel's."""
    known = _own.get(id(code))
    if known is None:
        path = code.co_filename
        is_foreign = path.startswith(_FOREIGN) and not path.startswith(_KERNELS)
        known = _own[id(code)] = "" if is_foreign else Path(path).name, code
    return known[0]


def frame_line(frame: FrameType | None) -> str:
    """The innermost line of a kernel at or above `frame`; "" if there is none."""
    while frame is not None:
        code = frame.f_code
        known = _own.get(id(code))
        name = known[0] if known is not None else file_name(code)
        if name:
            key = (id(code), frame.f_lasti)
            line = _names.get(key)
            if line is None:
                line = _names[key] = f"{name}:{frame.f_lineno}"
            return line
        frame = frame.f_back
    return ""


def current_line(depth: int = 1) -> str:
    """The kernel's line that runs now, `depth` frames up or further; "" where no kernel runs."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        code = id(frame.f_code)
        known = _own.get(code)
        if known is None or known[0]:
            return _names.get((code, frame.f_lasti)) or frame_line(frame)
        frame = frame.f_back
    return ""


def _line_of(depth: int) -> str:
    return frame_line(sys._getframe(depth + 1))
