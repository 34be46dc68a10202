"""The emulated pyxrt as a whole: what the module has, and nothing more, for one emulated device.

Source: Xilinx/XRT @963c58e, src/python/pybind11/src/pyxrt.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from npuscope.backends.xdna.emulated.binding import ert_cmd_state, xclBOSyncDirection, xrt_info_device
from npuscope.backends.xdna.emulated.buffers import Buffer
from npuscope.backends.xdna.emulated.commands import Kernel, Run, RunList
from npuscope.backends.xdna.emulated.contexts import Context, Device, Uuid, Xclbin
from npuscope.backends.xdna.emulated.device import Clock, CommandTime, Counters, EmulatedDevice, Faults
from npuscope.backends.xdna.numerics import multiply as cores_multiply
from npuscope.hardware.model import load_xdna
from npuscope.tiling.xdna_design import XdnaDesign


class EmulatedRuntime:
    """What `import pyxrt` would give, of one emulated device; with its clock, counters and faults beside."""

    XCL_BO_FLAGS_NONE = 0

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
        self.uuid = Uuid
        self.device = type("device", (Device,), own)
        self.xclbin = type("xclbin", (Xclbin,), own)
        self.hw_context = type("hw_context", (Context,), own)
        self.bo = type("bo", (Buffer,), own)
        self.run = type("run", (Run,), own)
        self.kernel = type("kernel", (Kernel,), {**own, "_run_class": self.run})
        self.runlist = type("runlist", (RunList,), own)
        self.xclBOSyncDirection = xclBOSyncDirection
        self.ert_cmd_state = ert_cmd_state
        self.xrt_info_device = xrt_info_device

    @staticmethod
    def enumerate_devices() -> int:
        """How many devices there are."""
        return 1


def _any_command(design: XdnaDesign, *, in_list: bool = False) -> int:
    del design, in_list
    return 100_000
