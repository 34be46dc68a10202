"""The emulated pyxrt: classes and enumerations as XRT's Python binding has them, and its refusals.

Source: Xilinx/XRT @963c58e, src/python/pybind11/src/pyxrt.cpp; states and limits of runs and run lists from
src/runtime_src/core/common/api/xrt_kernel.cpp. Where the real one would crash or go on in silence, this one refuses: a buffer more
than the kernel declares, a sub-buffer of a sub-buffer, a set_arg of another type, a wrong memory group.
Host and device have memories of their own: what is not synced is not there.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.backends.xdna.emulated.build import built_design, dispatched
from npuscope.backends.xdna.emulated.device import (
    NEVER_WRITTEN,
    Clock,
    Command,
    CommandTime,
    Counters,
    EmulatedDevice,
    Faults,
)
from npuscope.backends.xdna.numerics import multiply as cores_multiply
from npuscope.errors import FormatError, UsageError
from npuscope.formats.npu_instructions import parse_instructions
from npuscope.formats.xclbin import parse_xclbin, read_bytes
from npuscope.hardware.model import load_xdna
from npuscope.tiling.xdna_design import XdnaDesign

_OPCODE = 3
_NAME = 3  # of the information about a device
_OPCODE_AT, _INSTRUCTIONS_AT, _COUNT_AT, _FIRST_BUFFER = range(4)


class xclBOSyncDirection(enum.Enum):  # noqa: N801  # pyxrt's names
    """Which way a sync goes."""

    XCL_BO_SYNC_BO_TO_DEVICE = 0
    XCL_BO_SYNC_BO_FROM_DEVICE = 1
    XCL_BO_SYNC_BO_GMIO_TO_AIE = 2
    XCL_BO_SYNC_BO_AIE_TO_GMIO = 3


class ert_cmd_state(enum.Enum):  # noqa: N801
    """State of a command."""

    ERT_CMD_STATE_NEW = 1
    ERT_CMD_STATE_QUEUED = 2
    ERT_CMD_STATE_RUNNING = 3
    ERT_CMD_STATE_COMPLETED = 4
    ERT_CMD_STATE_ERROR = 5
    ERT_CMD_STATE_ABORT = 6
    ERT_CMD_STATE_SUBMITTED = 7
    ERT_CMD_STATE_TIMEOUT = 8
    ERT_CMD_STATE_NORESPONSE = 9


xrt_info_device = enum.Enum("xrt_info_device", {"bdf": 0, "name": _NAME})


class _Flags(enum.Enum):
    normal = 0
    cacheable = 1 << 24
    device_only = 1 << 28
    host_only = 1 << 29
    p2p = 1 << 30


def _timed(method: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the time inside a method apart from the host's, and refuse it on a lost device."""

    @functools.wraps(method)
    def call(self: Any, *arguments: Any) -> Any:
        emulated: EmulatedDevice = self._emulated
        clock = emulated.clock
        is_outermost = clock.enter()
        try:
            if emulated.faults.is_lost:
                emulated.check_alive()
            return method(self, *arguments)
        finally:
            if is_outermost:
                clock.leave()

    return call


def _refuse_types(name: str, *wanted: tuple[object, type]) -> None:
    """As pybind11 does: TypeError where no overload takes the arguments."""
    for value, kind in wanted:
        if type(value) is kind:
            continue
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise TypeError(
                f"{name}(): incompatible function arguments: {type(value).__name__} where {kind.__name__} is taken"
            )


class _Uuid:
    def __init__(self, text: str) -> None:
        self._text = text

    def to_string(self) -> str:
        return self._text


class _XclbinKernel:
    def __init__(self, name: str, arguments: int) -> None:
        self._name, self._arguments = name, arguments

    def get_name(self) -> str:
        return self._name

    def get_num_args(self) -> int:
        return self._arguments


class _Xclbin:
    """`pyxrt.xclbin(path)`."""

    _emulated: EmulatedDevice

    def __init__(self, filename: str) -> None:
        _refuse_types("xclbin", (filename, str))
        try:
            self._data = read_bytes(Path(filename))
            self._parsed = parse_xclbin(self._data, source=filename)
        except FormatError as error:
            raise RuntimeError(str(error)) from None
        self._source = filename

    def get_kernels(self) -> list[_XclbinKernel]:
        return [_XclbinKernel(kernel.name, kernel.arguments or 0) for kernel in self._parsed.kernels]

    def get_uuid(self) -> _Uuid:
        return _Uuid(self._parsed.uuid)

    def get_xsa_name(self) -> str:
        return self._parsed.platform


class _Device:
    """`pyxrt.device(index)`, or by its address."""

    _emulated: EmulatedDevice

    def __init__(self, which: int | str = 0) -> None:
        self._emulated.check_alive()
        if isinstance(which, bool) or not isinstance(which, int | str):
            _refuse_types("device", (which, int))
        if which not in {0, "0000:00:00.0"}:
            raise RuntimeError(f"Could not open device with index '{which}'")
        self._registered: dict[str, _Xclbin] = {}

    @_timed
    def get_info(self, key: xrt_info_device) -> str:
        _refuse_types("get_info", (key, xrt_info_device))
        return f"RyzenAI-{self._emulated.array_name}" if key.value == _NAME else "0000:00:00.0"

    @_timed
    def register_xclbin(self, xclbin: _Xclbin) -> _Uuid:
        _refuse_types("register_xclbin", (xclbin, _Xclbin))
        uuid = xclbin.get_uuid()
        self._registered[uuid.to_string()] = xclbin
        return uuid


class _Context:
    """`pyxrt.hw_context(device, uuid)`."""

    _emulated: EmulatedDevice

    @_timed
    def __init__(self, device: _Device, uuid: _Uuid) -> None:
        _refuse_types("hw_context", (device, _Device), (uuid, _Uuid))
        emulated = self._emulated
        self._counted = False
        xclbin = device._registered.get(uuid.to_string())
        if xclbin is None:
            raise RuntimeError("no xclbin with this uuid is registered with the device")
        array, self._built = _design_of(xclbin)
        if array != emulated.array_name:
            raise RuntimeError(
                f"the xclbin is for {array}; the device is {emulated.array_name}: Invalid argument (err=22)"
            )
        limit = emulated.faults.context_limit
        limit = emulated.array.hardware_contexts if limit is None else limit
        if emulated.live_contexts >= limit:
            raise RuntimeError(
                f"failed to create hardware context: {limit} are in use: No space left on device (err=28)"
            )
        emulated.live_contexts += 1
        self._counted = True
        emulated.counters.contexts += 1
        emulated.clock.now_ns += round(1e6 * emulated.array.context_ms)
        self._kernels = {kernel.get_name(): kernel.get_num_args() for kernel in xclbin.get_kernels()}
        self._dead = False

    def __del__(self) -> None:
        if getattr(self, "_counted", False):
            self._emulated.live_contexts -= 1
            self._counted = False


def _design_of(xclbin: _Xclbin) -> tuple[str, dict[str, Any]]:
    try:
        return built_design(xclbin._data, xclbin._source)
    except FormatError as error:
        raise RuntimeError(str(error)) from None


class _Kernel:
    """`pyxrt.kernel(context, name)`."""

    _emulated: EmulatedDevice

    def __init__(self, context: _Context, name: str) -> None:
        _refuse_types("kernel", (context, _Context), (name, str))
        if name not in context._kernels:
            raise RuntimeError(f"No such kernel '{name}'")
        self._context = context
        self._arguments = context._kernels[name]
        self._designs: dict[tuple[int, int], tuple[XdnaDesign | None, int]] = {}
        self._groups = [
            None if argument in {_OPCODE_AT, _COUNT_AT} else 0x1_0000 | argument for argument in range(self._arguments)
        ]

    def group_id(self, argument: int) -> int:
        _refuse_types("group_id", (argument, int))
        if not 0 <= argument < self._arguments:
            raise IndexError(f"argument {argument} of a kernel of {self._arguments}")
        group = self._groups[argument]
        if group is None:
            raise RuntimeError(f"argument {argument} is a scalar and has no memory group")
        return group

    def __call__(self, *arguments: Any) -> Any:
        run = self._run_class(self)  # type: ignore[attr-defined]
        for index, value in enumerate(arguments):
            run.set_arg(index, value)
        run.start()
        return run

    def _dispatch(self, instructions: _Buffer, count: int) -> tuple[XdnaDesign | None, str]:
        """The design that a command runs, and the state that one ends in which the array cannot run."""
        key = id(instructions), instructions._version
        if key not in self._designs:
            self._designs[key] = self._decode(instructions)
        design, size = self._designs[key]
        expected = size if self._emulated.instruction_count_unit == "bytes" else size // 4
        if count != expected:
            return None, "ABORT"  # the controller reads half of them, or what lies behind
        return design, "" if design is not None else "ERROR"

    def _decode(self, instructions: _Buffer) -> tuple[XdnaDesign | None, int]:
        try:
            parsed = parse_instructions(instructions._device_memory.tobytes(), source="instructions")
            call: Any = dispatched(parsed.words) if parsed.array == self._emulated.array_name else None
            return (XdnaDesign(**call, **self._context._built) if call else None), parsed.words.nbytes
        except (FormatError, UsageError, TypeError):
            return None, 0


class _Buffer:
    """`pyxrt.bo(device, size, flags, group)`, or `bo(parent, size, offset)`."""

    _emulated: EmulatedDevice
    flags = _Flags
    normal, cacheable, device_only, host_only, p2p = _Flags

    @_timed
    def __init__(self, parent: _Device | _Buffer, size: int, third: Any, group: int | None = None) -> None:
        emulated = self._emulated
        if isinstance(parent, _Buffer):
            self._part_of(parent, size, third)
            return
        _refuse_types("bo", (parent, _Device), (size, int), (third, _Flags), (group, int))
        if size <= 0:
            raise RuntimeError("failed to allocate buffer object of size 0: Invalid argument (err=22)")
        emulated.counters.buffers += 1
        if emulated.counters.buffers == emulated.faults.refuse_buffer:
            raise RuntimeError("failed to allocate buffer object: Cannot allocate memory (err=12)")
        try:
            self._host_memory = np.zeros(size, np.uint8)
            self._device_memory = np.full(size, NEVER_WRITTEN, np.uint8)
        except (MemoryError, ValueError):
            raise RuntimeError("failed to allocate buffer object: Cannot allocate memory (err=12)") from None
        self._group, self._is_part, self._version = group, False, 0

    def _part_of(self, parent: _Buffer, size: int, offset: int) -> None:
        _refuse_types("bo", (size, int), (offset, int))
        if parent._is_part:
            raise RuntimeError("a sub-buffer of a sub-buffer: host and device would see different bytes")
        if size <= 0 or offset < 0 or offset + size > parent.size():
            raise RuntimeError(
                f"sub-buffer of {size} bytes at {offset} of a buffer of {parent.size()}: Invalid argument (err=22)"
            )
        self._host_memory = parent._host_memory[offset : offset + size]
        self._device_memory = parent._device_memory[offset : offset + size]
        self._group, self._is_part, self._version = parent._group, True, 0

    def size(self) -> int:
        return self._host_memory.size

    def address(self) -> int:
        return self._device_memory.ctypes.data

    def map(self) -> memoryview:
        return memoryview(self._host_memory)  # type: ignore[arg-type]  # arrays are buffers

    @_timed
    def write(self, data: Any, seek: int = 0) -> None:
        view = np.frombuffer(memoryview(data).cast("B"), np.uint8)
        if seek < 0 or seek + view.size > self._host_memory.size:
            raise RuntimeError(
                f"write of {view.size} bytes at {seek} of a buffer of {self._host_memory.size}: Invalid argument"
            )
        self._host_memory[seek : seek + view.size] = view

    @_timed
    def read(self, size: int, skip: int = 0) -> npt.NDArray[np.int8]:
        _refuse_types("read", (size, int), (skip, int))
        if size < 0 or skip < 0 or skip + size > self._host_memory.size:
            raise RuntimeError(
                f"read of {size} bytes at {skip} of a buffer of {self._host_memory.size}: Invalid argument"
            )
        return np.array(self._host_memory[skip : skip + size].view(np.int8))

    @_timed
    def sync(self, direction: xclBOSyncDirection, size: int | None = None, offset: int = 0) -> None:
        _refuse_types("sync", (direction, xclBOSyncDirection))
        length = self._host_memory.size if size is None else size
        if offset < 0 or length < 0 or offset + length > self._host_memory.size:
            raise RuntimeError(
                f"sync of {length} bytes at {offset} of a buffer of {self._host_memory.size}: Invalid argument"
            )
        part = slice(offset, offset + length)
        if direction is xclBOSyncDirection.XCL_BO_SYNC_BO_TO_DEVICE:
            self._device_memory[part] = self._host_memory[part]
            self._version += 1
            self._emulated.counters.synced_to_bytes += length
        elif direction is xclBOSyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE:
            self._host_memory[part] = self._device_memory[part]
            self._emulated.counters.synced_from_bytes += length
        else:
            raise RuntimeError("this direction is for graphs")


class _Run:
    """`pyxrt.run(kernel)`."""

    _emulated: EmulatedDevice

    def __init__(self, kernel: _Kernel) -> None:
        _refuse_types("run", (kernel, _Kernel))
        self._kernel = kernel
        self._values: dict[int, Any] = {}
        self._command: Command | None = None
        self._state = ert_cmd_state.ERT_CMD_STATE_NEW
        self._list: object = None
        self._emulated.counters.runs += 1

    @_timed
    def set_arg(self, index: int, value: int | _Buffer) -> None:
        if type(index) is not int:
            _refuse_types("set_arg", (index, int))
        kernel = self._kernel
        if not 0 <= index < kernel._arguments:
            raise RuntimeError(f"Bad argument index '{index}'")
        group = kernel._groups[index]
        if group is None:
            _refuse_types("set_arg", (value, int))
        elif not isinstance(value, _Buffer):
            _refuse_types("set_arg", (value, _Buffer))
        elif value._group != group:
            raise RuntimeError(f"buffer of group {value._group} for argument {index} of group {group}")
        if self._command is not None:
            raise RuntimeError("a run's arguments cannot be set while it runs")
        self._values[index] = value

    @_timed
    def start(self) -> None:
        if self._list is not None:
            raise RuntimeError("cannot start a run that belongs to a run list")
        if self._command is not None:
            raise RuntimeError("the run is running")
        emulated = self._emulated
        emulated.counters.submissions += 1
        self._command = self._submitted(emulated.begin_ns(self._kernel._context), in_list=False)
        self._state = ert_cmd_state.ERT_CMD_STATE_RUNNING

    def _submitted(self, begin_ns: int, *, in_list: bool) -> Command:
        kernel = self._kernel
        missing = [index for index in range(kernel._arguments) if index not in self._values]
        if missing:
            raise RuntimeError(f"argument {missing[0]} of the run is not set")
        if kernel._context._dead:
            raise RuntimeError("the hardware context was reset after a hung command: Input/output error (err=5)")
        design, refused = kernel._dispatch(self._values[_INSTRUCTIONS_AT], self._values[_COUNT_AT])
        if self._values[_OPCODE_AT] != _OPCODE:
            design, refused = None, "ERROR"
        memories = [self._values[index]._device_memory for index in range(_FIRST_BUFFER, _FIRST_BUFFER + 3)]
        if design is not None:
            wanted = (design.a_bytes, design.b_bytes, design.c_bytes)
            if any(memory.size < size for memory, size in zip(memories, wanted, strict=True)):
                refused = "ERROR"  # the array would leave its memory: the IOMMU ends the command
        return self._emulated.run(design, refused, memories, begin_ns, in_list=in_list)

    @_timed
    def wait(self, timeout_ms: int = 0) -> ert_cmd_state:
        _refuse_types("wait", (timeout_ms, int))
        if timeout_ms < 0:
            raise TypeError("wait(): incompatible function arguments: a negative number where an unsigned one is taken")
        if self._command is None:
            return self._state
        clock = self._emulated.clock
        if timeout_ms and self._command.done_at_ns > clock.now_ns + 1_000_000 * timeout_ms:
            clock.now_ns += 1_000_000 * timeout_ms
            return ert_cmd_state.ERT_CMD_STATE_TIMEOUT
        self._finish()
        return self._state

    def _finish(self) -> None:
        assert self._command is not None  # noqa: S101  # the callers look
        self._emulated.finish(self._command)
        self._state = ert_cmd_state[f"ERT_CMD_STATE_{self._command.state}"]
        if self._command.state == "TIMEOUT":
            self._kernel._context._dead = True
        self._command = None

    def wait2(self, timeout: timedelta | None = None) -> None:
        del timeout
        if self.wait() is not ert_cmd_state.ERT_CMD_STATE_COMPLETED:
            raise RuntimeError(f"Command failed to complete successfully ({self._state.name})")

    def state(self) -> ert_cmd_state:
        return self._state


class _RunList:
    """`pyxrt.runlist(context)`: chains of at most 24 commands."""

    _emulated: EmulatedDevice

    def __init__(self, context: _Context) -> None:
        _refuse_types("runlist", (context, _Context))
        self._context = context
        self._runs: list[_Run] = []
        self._is_running = False

    @_timed
    def add(self, run: _Run) -> None:
        _refuse_types("add", (run, _Run))
        if self._is_running:
            raise RuntimeError("runlist must be idle before adding run objects, current state: running")
        if run._kernel._context is not self._context:
            raise RuntimeError("the run is of another hardware context")
        if run._list is not None:
            raise RuntimeError("the run belongs to a run list already")
        run._list = self
        self._runs.append(run)

    @_timed
    def execute(self) -> None:
        if self._is_running:
            raise RuntimeError("runlist must be idle before submitting for execution, current state: running")
        emulated = self._emulated
        size = emulated.array.run_list_commands
        failed = False
        self._is_running = bool(self._runs)
        for start in range(0, len(self._runs), size):
            emulated.counters.submissions += 1
            begin_ns = emulated.begin_ns(self._context) + emulated.submission_ns
            emulated.clock.busy_ns += emulated.submission_ns
            for run in self._runs[start : start + size]:
                if failed:  # XRT aborts what stands behind a failed command
                    run._command = Command(begin_ns, "ABORT")
                else:
                    run._command = run._submitted(begin_ns, in_list=True)
                    begin_ns = run._command.done_at_ns
                    failed = run._command.state != "COMPLETED"
                run._state = ert_cmd_state.ERT_CMD_STATE_RUNNING

    @_timed
    def wait(self, timeout: timedelta | None = None) -> None:
        if timeout is not None:
            # The binding returns std::cv_status, which it does not register with pybind11.
            raise TypeError(
                "Unable to convert function return value to a Python type! The signature was wait(timeout) -> std::cv_status"
            )
        self._is_running = False
        for run in self._runs:
            if run._command is not None:
                run._finish()
        for run in self._runs:
            if run._state is not ert_cmd_state.ERT_CMD_STATE_COMPLETED:
                raise RuntimeError(f"runlist failed execution ({run._state.name})")

    def __del__(self) -> None:
        for run in getattr(self, "_runs", []):
            run._list = None


class EmulatedRuntime:
    """What `import pyxrt` would give, of one emulated device; with its clock, counters and faults beside."""

    def __init__(
        self,
        array_name: str,
        *,
        command_ns: CommandTime | None = None,
        submission_ns: int = 0,
        multiply: Callable[[Any, Any, XdnaDesign], Any] | None = None,
        instruction_count_unit: str = "bytes",
    ) -> None:
        """Make the device.

        Args:
            array_name: `npu1` or `npu2`.
            command_ns: How long a command takes; 100 µs when None.
            submission_ns: What a chain of commands costs once.
            multiply: What a kernel computes; that of the cores when None.
            instruction_count_unit: What the controller takes the count of instructions for: `bytes` or `words`.
        """
        emulated = EmulatedDevice(
            array_name,
            load_xdna(array_name),
            command_ns or _any_command,
            submission_ns,
            multiply or cores_multiply,
            instruction_count_unit,
        )
        self.clock: Clock = emulated.clock
        self.counters: Counters = emulated.counters
        self.faults: Faults = emulated.faults
        own: dict[str, Any] = {"_emulated": emulated}
        self.device = type("device", (_Device,), own)
        self.xclbin = type("xclbin", (_Xclbin,), own)
        self.hw_context = type("hw_context", (_Context,), own)
        self.bo = type("bo", (_Buffer,), own)
        self.run = type("run", (_Run,), own)
        self.kernel = type("kernel", (_Kernel,), {**own, "_run_class": self.run})
        self.runlist = type("runlist", (_RunList,), own)
        self.xclBOSyncDirection = xclBOSyncDirection
        self.ert_cmd_state = ert_cmd_state
        self.xrt_info_device = xrt_info_device


def _any_command(design: XdnaDesign, *, in_list: bool = False) -> int:
    del design, in_list
    return 100_000
