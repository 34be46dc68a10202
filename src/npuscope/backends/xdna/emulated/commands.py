"""The emulated `kernel`, `run` and `runlist` of pyxrt.

Source: Xilinx/XRT @963c58e, src/python/pybind11/src/pyxrt.cpp; states and limits of runs and run lists from
src/runtime_src/core/common/api/xrt_kernel.cpp. Of a run list only the chain has a state: its runs stay NEW when it completes
(amd/xdna-driver @856409c, aie2_ctx.c), and XRT marks the first that failed and those behind it. Where the real one would crash or go
on in silence, this one refuses: a buffer more than the kernel declares, a set_arg of another type, a wrong memory group, the group of
a scalar, an argument that was not set, one run in two lists.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from npuscope.backends.xdna.emulated.binding import (
    ert_cmd_state,
    refuse_no_int,
    refuse_no_size,
    refuse_types,
    timed,
)
from npuscope.backends.xdna.emulated.buffers import Buffer, Decoded, Use
from npuscope.backends.xdna.emulated.build import dispatched
from npuscope.backends.xdna.emulated.contexts import Context
from npuscope.backends.xdna.emulated.device import Command, EmulatedDevice
from npuscope.errors import FormatError, UsageError
from npuscope.formats.npu_instructions import parse_instructions
from npuscope.tiling.xdna_design import XdnaDesign

_OPCODE: Final = 3
_OPCODE_AT, _INSTRUCTIONS_AT, _COUNT_AT, _FIRST_BUFFER = range(4)
_NEW: Final = ert_cmd_state.ERT_CMD_STATE_NEW
_COMPLETED: Final = ert_cmd_state.ERT_CMD_STATE_COMPLETED
_TIMEOUT: Final = ert_cmd_state.ERT_CMD_STATE_TIMEOUT


class Kernel:
    """`pyxrt.kernel(context, name)`."""

    _emulated: EmulatedDevice
    _run_class: type[Run]

    @timed
    def __init__(self, hw_context: Context, name: str) -> None:
        refuse_types("kernel", (hw_context, Context), (name, str))
        if name not in hw_context.kernels:
            raise RuntimeError(f"No such kernel '{name}'")
        self.context = hw_context
        self.arguments = hw_context.kernels[name]
        self.groups = [
            None if argument in {_OPCODE_AT, _COUNT_AT} else 0x1_0000 | argument for argument in range(self.arguments)
        ]
        """Memory group by argument; None for a scalar."""

    def group_id(self, argument: int, /) -> int:
        """Memory group of a buffer argument."""
        refuse_no_int("group_id", argument)
        if not 0 <= argument < self.arguments:
            raise IndexError(f"argument {argument} of a kernel of {self.arguments}")
        group = self.groups[argument]
        if group is None:
            raise RuntimeError(f"argument {argument} is a scalar and has no memory group")
        return group

    def __call__(self, *arguments: Any) -> Any:
        """A new run of it, with these arguments, started."""
        run = self._run_class(self)
        for index, value in enumerate(arguments):
            run.set_arg(index, value)
        run.start()
        return run

    def dispatch(self, instructions: Buffer, count: int) -> tuple[XdnaDesign | None, str]:
        """The design that a command runs, and the state that one ends in which the array cannot run."""
        decoded = instructions.decoded
        if decoded is None or decoded.built is not self.context.built or decoded.version != instructions.use.version:
            decoded = instructions.decoded = self._decode(instructions)
        in_bytes = self._emulated.instruction_count_unit == "bytes"
        if count != (decoded.size_bytes if in_bytes else decoded.size_bytes // 4):
            return None, "ABORT"  # the controller reads half of them, or what lies behind
        return decoded.design, "" if decoded.design is not None else "ERROR"

    def _decode(self, instructions: Buffer) -> Decoded:
        built, version = self.context.built, instructions.use.version
        try:
            parsed = parse_instructions(instructions.device_memory.tobytes(), source="instructions")
            call: Any = dispatched(parsed.words) if parsed.is_for(self._emulated.array_name) else None
            return Decoded(built, version, XdnaDesign(**call, **built) if call else None, parsed.words.nbytes)
        except (FormatError, UsageError, TypeError):
            return Decoded(built, version, None, 0)


class Run:
    """`pyxrt.run(kernel)`."""

    _emulated: EmulatedDevice
    _command: Command | None = None
    is_listed = False
    """It belongs to a run list."""

    @timed
    def __init__(self, kernel: Kernel, /) -> None:
        refuse_types("run", (kernel, Kernel))
        self.kernel = kernel
        self._values: dict[int, Any] = {}
        self._uses: list[Use] = []
        self._state = _NEW
        self._emulated.counters.runs += 1

    @timed
    def set_arg(self, index: int, value: int | Buffer, /) -> None:
        """Give it one argument."""
        refuse_no_int("set_arg", index)
        kernel = self.kernel
        if not 0 <= index < kernel.arguments:
            raise IndexError(f"argument {index} of a kernel of {kernel.arguments}")
        group = kernel.groups[index]
        if group is None:
            refuse_no_int("set_arg", value)
        elif not isinstance(value, Buffer):
            refuse_types("set_arg", (value, Buffer))
        elif value.group != group:
            raise RuntimeError(f"buffer of group {value.group} for argument {index} of group {group}")
        if self._command is not None:
            raise RuntimeError("xrt::run::set_arg called while command is still in progress")
        self._values[index] = value

    @timed
    def start(self) -> None:
        """Submit it."""
        if self.is_listed:
            raise RuntimeError("Run object belongs to a runlist and cannot be explicitly started")
        if self._command is not None:
            raise RuntimeError("bad command state, can't launch")
        self.check_arguments()
        emulated = self._emulated
        emulated.counters.submissions += 1
        self.submit(emulated.begin_ns(self.kernel.context.number), in_list=False)

    def check_arguments(self) -> None:
        """Refuse a run that cannot be submitted.

        Raises:
            RuntimeError: An argument is not set, or its context was reset.
        """
        kernel = self.kernel
        if len(self._values) != kernel.arguments:
            missing = next(index for index in range(kernel.arguments) if index not in self._values)
            raise RuntimeError(f"argument {missing} of the run is not set")
        if kernel.context.is_dead:
            raise RuntimeError("the hardware context was reset after a hung command: Input/output error (err=5)")

    def submit(self, begin_ns: int, *, in_list: bool) -> Command:
        """Have the device execute it, from `begin_ns` on."""
        context, values = self.kernel.context, self._values
        if context.is_hung:
            command = Command(begin_ns, "ABORT")
            self._emulated.counters.commands += 1
        else:
            design, refused = self.kernel.dispatch(values[_INSTRUCTIONS_AT], values[_COUNT_AT])
            if values[_OPCODE_AT] != _OPCODE:
                design, refused = None, "ERROR"
            memories = [values[index].device_memory for index in range(_FIRST_BUFFER, _FIRST_BUFFER + 3)]
            if design is not None:
                wanted = (design.a_bytes, design.b_bytes, design.c_bytes)
                if any(memory.size < size for memory, size in zip(memories, wanted, strict=True)):
                    refused = "ERROR"  # the array would leave its memory: the IOMMU ends the command
            command = self._emulated.run(design, refused, memories, begin_ns, in_list=in_list)
            context.is_hung = command.state == "TIMEOUT"
        self.hold(command)
        return command

    def hold(self, command: Command) -> None:
        """Be in progress, with the buffers, until somebody waits."""
        self._command, self._state = command, _NEW
        self._uses = [value.use for value in self._values.values() if isinstance(value, Buffer)]
        for use in self._uses:
            use.commands += 1

    @property
    def is_in_progress(self) -> bool:
        """Submitted, and not waited for."""
        return self._command is not None

    @timed
    def wait(self, timeout_ms: int = 0, /) -> ert_cmd_state:
        """Until it has ended, or for so long where the time is not 0; a command that goes on is not stopped."""
        refuse_no_size("wait", timeout_ms)
        if self._command is None or self.is_listed:  # of a run in a list XRT knows nothing
            return self._state
        clock = self._emulated.clock
        if timeout_ms and self._command.done_at_ns > clock.now_ns + 1_000_000 * timeout_ms:
            clock.now_ns += 1_000_000 * timeout_ms
            return _TIMEOUT
        self.finish()
        return self._state

    def finish(self) -> None:
        """Let time pass to its end."""
        command = self._command
        if command is None:
            return
        self._emulated.finish(command)
        self._state = ert_cmd_state[f"ERT_CMD_STATE_{command.state}"]
        if command.state == "TIMEOUT":
            self.kernel.context.is_dead = True
        self.release()

    def release(self) -> None:
        """Be no longer in progress."""
        self._command = None
        for use in self._uses:
            use.commands -= 1
        self._uses = []

    def wait2(self, *timeout: timedelta) -> None:
        """As `wait`, and raise where it did not complete."""
        if timeout:
            refuse_timeout("wait2")
        if self.wait() is not _COMPLETED:
            raise RuntimeError(f"Command failed to complete successfully ({self._state.name})")

    @timed
    def state(self) -> ert_cmd_state:
        """NEW until somebody has waited for it; of one in a list, until the list has failed at it or before it."""
        return self._state

    def __del__(self) -> None:
        if self._command is None:
            return
        self.release()
        if not self.is_listed and not self._emulated.faults.is_lost:
            self._emulated.counters.abandoned += 1
            self._emulated.lose("xrt::run destructed while command is still in progress: XRT ends the process here")


class RunList:
    """`pyxrt.runlist(context)`: chains of at most 24 commands."""

    _emulated: EmulatedDevice

    @timed
    def __init__(self, hwctx: Context) -> None:
        refuse_types("runlist", (hwctx, Context))
        self._context = hwctx
        self._runs: list[Run] = []
        self._is_running = False

    def _refuse_running(self, what: str) -> None:
        if self._is_running:
            raise RuntimeError(f"runlist must be idle before {what}, current state: running")

    @timed
    def add(self, run: Run) -> None:
        """Put a run at its end; it cannot be started singly from then on."""
        refuse_types("add", (run, Run))
        self._refuse_running("adding run objects")
        if run.kernel.context is not self._context:
            raise RuntimeError("the run is of another hardware context")
        if run.is_listed:
            raise RuntimeError("the run belongs to a run list already")
        if run.is_in_progress:
            raise RuntimeError("the run is in progress")
        run.is_listed = True
        self._runs.append(run)

    @timed
    def execute(self) -> None:
        """Submit all runs, in order."""
        self._refuse_running("submitting for execution")
        for run in self._runs:
            run.check_arguments()
        emulated = self._emulated
        size = emulated.array.run_list_commands
        failed = False
        self._is_running = bool(self._runs)
        for start in range(0, len(self._runs), size):
            emulated.counters.submissions += 1
            begin_ns = emulated.begin_ns(self._context.number) + emulated.submission_ns
            emulated.clock.busy_ns += emulated.submission_ns
            for run in self._runs[start : start + size]:
                if failed:  # XRT aborts what stands behind a failed command
                    run.hold(Command(begin_ns, "ABORT"))
                else:
                    command = run.submit(begin_ns, in_list=True)
                    begin_ns = command.done_at_ns
                    failed = command.state != "COMPLETED"

    @timed
    def wait(self, *timeout: timedelta) -> None:
        """Until all have ended; raises where one did not complete, once."""
        if timeout:
            refuse_timeout("wait")
        if not self._is_running:
            return
        self._is_running = False
        failed: Run | None = None
        for run in self._runs:
            run.finish()
            if failed is not None:
                continue
            if run._state is _COMPLETED:
                run._state = _NEW
            else:
                failed = run
        if failed is not None:
            raise RuntimeError(f"runlist failed execution ({failed._state.name})")

    def __del__(self) -> None:
        for run in getattr(self, "_runs", ()):
            run.release()
            run.is_listed = False


def refuse_timeout(name: str) -> None:
    """What a wait with a timedelta ends in: the binding returns std::cv_status, which it does not register with pybind11.

    Raises:
        TypeError: Always.
    """
    raise TypeError(
        f"Unable to convert function return value to a Python type! The signature was {name}(timeout) -> std::cv_status"
    )
