"""The emulated device behind the emulated pyxrt: its clock, its counters, its faults, and what a command does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from npuscope.hardware.model import XdnaArray
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.workloads.dtypes import numpy_dtype

NEVER_WRITTEN = 0xFF
"""Every byte of fresh device memory: NaN in float32 and bfloat16, so that what nobody filled is seen."""


class CommandTime(Protocol):
    """How long a command of a design takes, in ns."""

    def __call__(self, design: XdnaDesign, *, in_list: bool = False) -> int:
        """Of one command; within a run list it is not sent alone."""
        ...


@dataclass(slots=True)
class Counters:
    """What the device itself did."""

    commands: int = 0
    submissions: int = 0
    contexts: int = 0
    """Opened so far."""
    buffers: int = 0
    runs: int = 0
    synced_to_bytes: int = 0
    synced_from_bytes: int = 0
    abandoned: int = 0
    """Runs that were let go of while their command was in progress, at which XRT ends the process."""


@dataclass(slots=True)
class Faults:
    """What goes wrong, for tests; commands and buffers are counted from 1, and 0 is never."""

    lost_at_command: int = 0
    """From then on every call fails."""
    hang_at_command: int = 0
    """The driver kills it after its time limit."""
    error_at_command: int = 0
    corrupt_at_command: int = 0
    """It completes, with one bit of its result wrong."""
    refuse_buffer: int = 0
    context_limit: int | None = None
    is_lost: bool = False


class Clock:
    """Virtual time: the host's as it passes between calls, the device's as the model says, the emulator's own left out."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.busy_ns = 0
        """In which the device worked on commands."""
        self.emulation_ns = 0
        """What the emulator itself took of the host's time."""
        self.free_at_ns = 0
        """When the device has finished all that was submitted."""
        self.waking_ns = 0
        """What commands waited for the device to wake."""
        self._left_ns = time.perf_counter_ns()
        self._is_inside = False

    def enter(self) -> bool:
        """A call into the emulator begins: what passed since the last one is the host's. False within another call."""
        if self._is_inside:
            return False
        self._is_inside = True
        now = time.perf_counter_ns()
        self.now_ns += now - self._left_ns
        self._left_ns = now
        return True

    def leave(self) -> None:
        """The outermost call ends: what it took is the emulator's."""
        now = time.perf_counter_ns()
        self.emulation_ns += now - self._left_ns
        self._left_ns = now
        self._is_inside = False

    def current_ns(self) -> int:
        """Virtual time now, with what passed on the host since the last call."""
        return self.now_ns + (0 if self._is_inside else time.perf_counter_ns() - self._left_ns)

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.now_ns += round(seconds * 1e9)


@dataclass(slots=True)
class Command:
    """A submitted command."""

    done_at_ns: int
    state: str
    """In which it ends: the name behind ERT_CMD_STATE_."""
    result: npt.NDArray[np.uint8] | None = None
    """What it leaves in the buffer of C, if it completes."""
    target: npt.NDArray[np.uint8] | None = None


@dataclass(slots=True)
class EmulatedDevice:
    """One array."""

    array_name: str
    array: XdnaArray
    command_ns: CommandTime
    submission_ns: int
    multiply: Callable[[Any, Any, XdnaDesign], Any]
    instruction_count_unit: str
    clock: Clock = field(default_factory=Clock)
    counters: Counters = field(default_factory=Counters)
    faults: Faults = field(default_factory=Faults)
    live_contexts: int = 0
    configured_for: int | None = None
    """Number of the context whose design the array holds: the context itself would never go."""
    durations: dict[tuple[XdnaDesign, bool], int] = field(default_factory=dict)
    lost_because: str = "device is lost: No such device (err=19)"

    def lose(self, why: str) -> None:
        """Refuse every call from now on."""
        self.faults.is_lost, self.lost_because = True, why

    def check_alive(self) -> None:
        """Refuse everything once the device is lost.

        Raises:
            RuntimeError: It is.
        """
        if self.faults.is_lost:
            raise RuntimeError(self.lost_because)

    def begin_ns(self, context: int) -> int:
        """When the next command can begin: after those before it, waking, and configuring the array for the context of this number."""
        clock, begin = self.clock, max(self.clock.now_ns, self.clock.free_at_ns)
        if begin - clock.free_at_ns > 1_000_000 * self.array.autosuspend_ms and self.configured_for is not None:
            waking = round(1e6 * self.array.idle_wake_ms)
            clock.waking_ns += waking
            begin += waking
        if self.configured_for != context:
            configuring = round(1e6 * self.array.reconfigure_ms)
            clock.busy_ns += configuring
            begin += configuring
            self.configured_for = context
        return begin

    def run(
        self,
        design: XdnaDesign | None,
        refused: str,
        memories: list[npt.NDArray[np.uint8]],
        begin_ns: int,
        *,
        in_list: bool,
    ) -> Command:
        """Execute one command that begins at a time.

        Args:
            design: What it computes; None where `refused` says how it ends at once.
            refused: State in which a command that the array cannot run ends; empty for one that it can.
            memories: Device memory of A, B and C.
            begin_ns: When.
            in_list: It is one of a chain.

        Raises:
            RuntimeError: The device is lost.
            ValueError: What multiplies gave a result of another size or type.
        """
        self.counters.commands += 1
        number, faults = self.counters.commands, self.faults
        if faults.lost_at_command and number >= faults.lost_at_command:
            faults.is_lost = True
        self.check_alive()
        limit_ns = 1_000_000 * self.array.job_timeout_ms
        if design is None or refused:
            return self._ended(begin_ns, 0, refused or "ERROR")
        if number == faults.error_at_command:
            return self._ended(begin_ns, 0, "ERROR")
        key = design, in_list
        if key not in self.durations:
            self.durations[key] = self.command_ns(design, in_list=in_list)
        duration = self.durations[key]
        if number == faults.hang_at_command or duration > limit_ns:
            return self._ended(begin_ns, limit_ns, "TIMEOUT")
        result = np.ascontiguousarray(self.multiply(*_operands(design, memories), design)).reshape(-1).view(np.uint8)
        if result.size != design.c_bytes:
            raise ValueError(f"the kernel of {design.call_text} gave {result.size} bytes, not {design.c_bytes}")
        if number == faults.corrupt_at_command:
            result = result.copy()
            result[-1] ^= 0x40  # a high bit of the last element
        command = self._ended(begin_ns, duration, "COMPLETED")
        command.result, command.target = result, memories[2]
        return command

    def _ended(self, begin_ns: int, duration_ns: int, state: str) -> Command:
        self.clock.busy_ns += duration_ns
        self.clock.free_at_ns = begin_ns + duration_ns
        return Command(begin_ns + duration_ns, state)

    def finish(self, command: Command) -> None:
        """Let time pass to the end of a command, and its result be seen in device memory."""
        self.clock.now_ns = max(self.clock.now_ns, command.done_at_ns)
        if command.result is not None and command.target is not None:
            command.target[: command.result.size] = command.result
            command.result = command.target = None


def _operands(design: XdnaDesign, memories: list[npt.NDArray[np.uint8]]) -> tuple[Any, Any]:
    dtype = numpy_dtype(design.dtype)
    a = memories[0][: design.a_bytes].view(dtype).reshape(design.batch, design.M, design.K)
    flat = memories[1][: design.b_bytes].view(dtype)
    if design.b_column_major:
        return a, flat.reshape(design.batch, design.N, design.K).transpose(0, 2, 1)
    return a, flat.reshape(design.batch, design.K, design.N)
