"""The emulated `device`, `xclbin`, `uuid` and `hw_context` of pyxrt.

Source: Xilinx/XRT @963c58e, src/python/pybind11/src/pyxrt.cpp. What XRT binds and makes an empty object of, which then crashes,
is refused here: `device()`, `xclbin()`, `hw_context()`.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from npuscope.backends.xdna.emulated.binding import refuse_no_size, refuse_types, timed, xrt_info_device
from npuscope.backends.xdna.emulated.build import built_design
from npuscope.backends.xdna.emulated.device import EmulatedDevice
from npuscope.errors import FormatError
from npuscope.formats.xclbin import parse_xclbin, read_bytes

ADDRESS: Final = "0000:00:00.0"
"""Of the one device."""
_NAMES: Final = MappingProxyType({"npu1": "RyzenAI-npu1", "npu2": "RyzenAI-npu4"})
"""What amdxdna calls a Phoenix, and a Strix whose firmware tells it no revision (npu1_regs.c, npu4_regs.c)."""


class Uuid:
    """`pyxrt.uuid`."""

    def __init__(self, text: str) -> None:
        refuse_types("uuid", (text, str))
        self._text = text

    def to_string(self) -> str:
        """As it is written."""
        return self._text


class XclbinKernel:
    """One of `xclbin.get_kernels()`."""

    def __init__(self, name: str, arguments: int) -> None:
        self._name, self._arguments = name, arguments

    def get_name(self) -> str:
        """As a `kernel` is asked for."""
        return self._name

    def get_num_args(self) -> int:
        """Scalars and buffers."""
        return self._arguments


class Xclbin:
    """`pyxrt.xclbin(path)`."""

    _emulated: EmulatedDevice

    @timed
    def __init__(self, filename: str, /) -> None:
        refuse_types("xclbin", (filename, str))
        try:
            self.data = read_bytes(Path(filename))
            self._parsed = parse_xclbin(self.data, source=filename)
        except FormatError as error:
            raise RuntimeError(str(error)) from None
        self.source = filename

    def get_kernels(self) -> list[XclbinKernel]:
        """What it declares."""
        return [XclbinKernel(kernel.name, kernel.arguments or 0) for kernel in self._parsed.kernels]

    def get_uuid(self) -> Uuid:
        """By which a device knows it."""
        return Uuid(self._parsed.uuid)

    def get_xsa_name(self) -> str:
        """Platform that it was built for."""
        return self._parsed.platform


class Device:
    """`pyxrt.device(index)`, or by its address."""

    _emulated: EmulatedDevice

    @timed
    def __init__(self, index: int | str) -> None:
        if not isinstance(index, str):
            refuse_no_size("device", index)
        if index not in {0, ADDRESS}:
            raise RuntimeError(f"Could not open device with index '{index}'")
        self.registered: dict[str, Xclbin] = {}

    @timed
    def get_info(self, key: xrt_info_device, /) -> str:
        """One property, as text."""
        refuse_types("get_info", (key, xrt_info_device))
        array = self._emulated.array
        known = {
            xrt_info_device["name"]: _NAMES[self._emulated.array_name],
            xrt_info_device["bdf"]: ADDRESS,
            xrt_info_device["max_clock_frequency_mhz"]: str(round(1e3 * array.clock_ghz)),
        }
        if key not in known:
            raise RuntimeError(f"query request ({key}) is not supported by the device")
        return known[key]

    @timed
    def register_xclbin(self, xclbin: Xclbin) -> Uuid:
        """Make it known, which a context needs."""
        refuse_types("register_xclbin", (xclbin, Xclbin))
        uuid = xclbin.get_uuid()
        self.registered[uuid.to_string()] = xclbin
        return uuid


class Context:
    """`pyxrt.hw_context(device, uuid)`; by an xclbin or its path, which are then registered."""

    _emulated: EmulatedDevice
    _is_counted = False

    @timed
    def __init__(self, device: Device, uuid: Uuid | Xclbin | str, /) -> None:
        refuse_types("hw_context", (device, Device))
        xclbin = self._registered(device, uuid)
        if xclbin is None:
            raise RuntimeError("no xclbin with this uuid is registered with the device")
        self._uuid = xclbin.get_uuid()
        self.built = self._design_of(xclbin)
        self.kernels = {kernel.get_name(): kernel.get_num_args() for kernel in xclbin.get_kernels()}
        self.is_hung = False
        """A command of it runs that will never end; what is submitted behind it is aborted."""
        self.is_dead = False
        """The driver has reset it."""
        self._take_a_place()

    def _registered(self, device: Device, which: Uuid | Xclbin | str) -> Xclbin | None:
        if isinstance(which, Uuid):
            return device.registered.get(which.to_string())
        xclbin: Any = which
        if isinstance(which, str):
            xclbin = type("xclbin", (Xclbin,), {"_emulated": self._emulated})(which)
        refuse_types("hw_context", (xclbin, Xclbin))
        device.register_xclbin(xclbin)
        return device.registered[xclbin.get_uuid().to_string()]

    def _design_of(self, xclbin: Xclbin) -> dict[str, Any]:
        try:
            array, built = built_design(xclbin.data, xclbin.source)
        except FormatError as error:
            raise RuntimeError(str(error)) from None
        if array != self._emulated.array_name:
            raise RuntimeError(
                f"the xclbin is for {array}; the device is {self._emulated.array_name}: Invalid argument (err=22)"
            )
        return built

    def _take_a_place(self) -> None:
        emulated = self._emulated
        limit = emulated.faults.context_limit
        limit = emulated.array.hardware_contexts if limit is None else limit
        if emulated.live_contexts >= limit:
            raise RuntimeError(
                f"failed to create hardware context: {limit} are in use: No space left on device (err=28)"
            )
        emulated.live_contexts += 1
        self._is_counted = True
        emulated.counters.contexts += 1
        self.number = emulated.counters.contexts
        emulated.clock.now_ns += round(1e6 * emulated.array.context_ms)

    def get_xclbin_uuid(self) -> Uuid:
        """Of the xclbin that it was made for."""
        return self._uuid

    def __del__(self) -> None:
        if self._is_counted:
            self._emulated.live_contexts -= 1
            self._is_counted = False
