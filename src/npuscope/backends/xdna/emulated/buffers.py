"""The emulated `bo` of pyxrt: memory of the host and memory of the device, which are not the same.

Source: Xilinx/XRT @963c58e, src/python/pybind11/src/pyxrt.cpp and src/runtime_src/core/common/api/xrt_bo.cpp. Where the real one goes on,
this one refuses: a sub-buffer of a sub-buffer, and handing over a buffer that a command is still reading.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.backends.xdna.emulated.binding import (
    Flags,
    refuse_no_int,
    refuse_no_size,
    refuse_types,
    timed,
    xclBOSyncDirection,
)
from npuscope.backends.xdna.emulated.contexts import Context, Device
from npuscope.backends.xdna.emulated.device import NEVER_WRITTEN, EmulatedDevice
from npuscope.tiling.xdna_design import XdnaDesign

_TO_DEVICE = xclBOSyncDirection.XCL_BO_SYNC_BO_TO_DEVICE
_FROM_DEVICE = xclBOSyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE


@dataclass(slots=True)
class Use:
    """What is known of the memory of a buffer and of its sub-buffers."""

    version: int = 0
    """How often anything was handed to the device."""
    commands: int = 0
    """Commands that were given it and have not been waited for."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the instructions in a buffer mean to a context."""

    built: dict[str, Any]
    version: int
    design: XdnaDesign | None
    size_bytes: int


class Buffer:
    """`pyxrt.bo(device or context, size, flags, group)`, `bo(context, size, group)` or `bo(parent, size, offset)`."""

    _emulated: EmulatedDevice
    flags = Flags
    normal, cacheable, device_only, host_only, p2p, svm = Flags

    @timed
    def __init__(self, device: Device | Context | Buffer, size: int, flags: Any, group: int | None = None) -> None:
        refuse_no_size("bo", size)
        self.decoded: Decoded | None = None
        if isinstance(device, Buffer):
            if group is not None:
                raise TypeError("bo(): incompatible function arguments: a group of a sub-buffer")
            self._part_of(device, size, flags)
            return
        if isinstance(device, Context):
            flags, group = (Flags.normal, flags) if group is None else (flags, group)
        else:
            refuse_types("bo", (device, Device))
        refuse_types("bo", (flags, Flags))
        refuse_no_int("bo", group)
        self._allocate(size)
        self.group, self._flags, self._is_part, self.use = group, flags, False, Use()

    def _allocate(self, size: int) -> None:
        emulated = self._emulated
        if size == 0:
            raise RuntimeError("failed to allocate buffer object of size 0: Invalid argument (err=22)")
        emulated.counters.buffers += 1
        if emulated.counters.buffers == emulated.faults.refuse_buffer:
            raise RuntimeError("failed to allocate buffer object: Cannot allocate memory (err=12)")
        try:
            self._host_memory = np.zeros(size, np.uint8)
            self.device_memory = np.full(size, NEVER_WRITTEN, np.uint8)
        except (MemoryError, ValueError):
            raise RuntimeError("failed to allocate buffer object: Cannot allocate memory (err=12)") from None

    def _part_of(self, parent: Buffer, size: int, offset: int) -> None:
        refuse_no_size("bo", offset)
        if parent._is_part:
            raise RuntimeError("a sub-buffer of a sub-buffer: host and device would see different bytes")
        if size == 0 or offset + size > parent.size():
            raise RuntimeError(
                f"sub-buffer of {size} bytes at {offset} of a buffer of {parent.size()}: Invalid argument (err=22)"
            )
        self._host_memory = parent._host_memory[offset : offset + size]
        self.device_memory = parent.device_memory[offset : offset + size]
        self.group, self._flags, self._is_part, self.use = parent.group, parent._flags, True, parent.use

    def size(self) -> int:
        """In bytes."""
        return self._host_memory.size

    def address(self) -> int:
        """Of the device's memory."""
        return int(self.device_memory.ctypes.data)

    @timed
    def map(self) -> memoryview:
        """The host's memory, to read and to write."""
        return memoryview(self._host())  # type: ignore[arg-type]  # arrays are buffers

    def _host(self) -> npt.NDArray[np.uint8]:
        if self._flags is Flags.device_only:
            raise RuntimeError("device only buffer has no host buffer: Invalid argument")
        return self._host_memory

    @timed
    def write(self, data: Any, seek: int, /) -> None:
        """Copy into the host's memory."""
        refuse_no_size("write", seek)
        view = np.frombuffer(memoryview(data).cast("B"), np.uint8)
        memory = self._host()
        if seek + view.size > memory.size:
            raise RuntimeError(f"write of {view.size} bytes at {seek} past a buffer of {memory.size}: Invalid argument")
        memory[seek : seek + view.size] = view

    @timed
    def read(self, size: int, skip: int, /) -> npt.NDArray[np.int8]:
        """A copy of the host's memory."""
        refuse_no_size("read", size, skip)
        memory = self._host()
        if skip + size > memory.size:
            raise RuntimeError(f"read of {size} bytes at {skip} past a buffer of {memory.size}: Invalid argument")
        return np.array(memory[skip : skip + size].view(np.int8))

    @timed
    def sync(self, direction: xclBOSyncDirection, /, *part: int) -> None:
        """Copy between the two memories: all of it, or `size` bytes from `offset`."""
        refuse_types("sync", (direction, xclBOSyncDirection))
        size, offset = self._host_memory.size, 0
        if part:
            if len(part) != 2:
                raise TypeError("sync(): incompatible function arguments: a size without an offset")
            refuse_no_size("sync", *part)
            size, offset = part
            if offset + size > self._host_memory.size:
                raise RuntimeError(
                    f"sync of {size} bytes at {offset} past a buffer of {self._host_memory.size}: Invalid argument"
                )
        host, device = self._host()[offset : offset + size], self.device_memory[offset : offset + size]
        if direction is _TO_DEVICE:
            if self.use.commands:
                raise RuntimeError(
                    "the buffer is handed over while a command that was given it has not been waited for"
                )
            device[:] = host
            self.use.version += 1
            self._emulated.counters.synced_to_bytes += size
        elif direction is _FROM_DEVICE:
            host[:] = device
            self._emulated.counters.synced_from_bytes += size
        else:
            raise RuntimeError("this direction is for graphs")
