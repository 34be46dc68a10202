"""What the emulated classes share: the enumerations of pyxrt, its TypeErrors, and the emulator's own time kept apart.

Source: Xilinx/XRT @963c58e, src/python/pybind11/src/pyxrt.cpp. The state of a command that runs has no member of its own there; the
driver leaves it at NEW until the command ends (amd/xdna-driver @856409c, aie2_ctx.c).
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from npuscope.backends.xdna.emulated.device import EmulatedDevice

_INT_LIMIT: Final = 1 << 31
_SIZE_LIMIT: Final = 1 << 64


class BoundEnum(enum.Enum):
    """An enumeration as pybind11 binds one: it converts to an int, and is equal to its own members alone."""

    def __int__(self) -> int:
        return int(self.value)


class xclBOSyncDirection(BoundEnum):  # noqa: N801  # pyxrt's names
    """Which way a sync goes."""

    XCL_BO_SYNC_BO_TO_DEVICE = 0
    XCL_BO_SYNC_BO_FROM_DEVICE = 1
    XCL_BO_SYNC_BO_GMIO_TO_AIE = 2
    XCL_BO_SYNC_BO_AIE_TO_GMIO = 3


class ert_cmd_state(BoundEnum):  # noqa: N801
    """State of a command; RUNNING (3) is not bound."""

    ERT_CMD_STATE_NEW = 1
    ERT_CMD_STATE_QUEUED = 2
    ERT_CMD_STATE_COMPLETED = 4
    ERT_CMD_STATE_ERROR = 5
    ERT_CMD_STATE_ABORT = 6
    ERT_CMD_STATE_SUBMITTED = 7
    ERT_CMD_STATE_TIMEOUT = 8
    ERT_CMD_STATE_NORESPONSE = 9
    ERT_CMD_STATE_SKERROR = 10
    ERT_CMD_STATE_SKCRASHED = 11


# By the functional form, in which a member may be called `name`.
xrt_info_device = enum.Enum(
    "xrt_info_device",
    {
        "bdf": 0,
        "interface_uuid": 1,
        "kdma": 2,
        "max_clock_frequency_mhz": 3,
        "m2m": 4,
        "name": 5,
        "nodma": 6,
        "offline": 7,
        "electrical": 8,
        "thermal": 9,
        "mechanical": 10,
        "memory": 11,
        "platform": 12,
        "pcie_info": 13,
        "host": 14,
        "dynamic_regions": 17,
        "vmr": 18,
    },
)


class Flags(BoundEnum):
    """Kinds of buffer objects."""

    normal = 0
    cacheable = 1 << 24
    device_only = 1 << 28
    host_only = 1 << 29
    p2p = 1 << 30
    svm = 1 << 27


def timed(method: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the time inside a method apart from the host's, and refuse it on a lost device."""

    @functools.wraps(method)
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        emulated: EmulatedDevice = self._emulated
        clock = emulated.clock
        is_outermost = clock.enter()
        try:
            if emulated.faults.is_lost:
                emulated.check_alive()
            return method(self, *arguments, **named)
        finally:
            if is_outermost:
                clock.leave()

    return call


def refuse_types(name: str, *wanted: tuple[object, type]) -> None:
    """As pybind11 does where no overload takes the arguments.

    Raises:
        TypeError: A value is not of its type; True is no integer here.
    """
    for value, kind in wanted:
        if type(value) is not kind and (not isinstance(value, kind) or isinstance(value, bool)):
            _no_overload(name, value, kind.__name__)


def refuse_no_size(name: str, *values: object) -> None:
    """As pybind11 does for a size_t or an unsigned int.

    Raises:
        TypeError: A value is no integer, negative, or of more than 64 bits.
    """
    for value in values:
        if type(value) is not int or not 0 <= value < _SIZE_LIMIT:
            _no_overload(name, value, "an unsigned integer")


def refuse_no_int(name: str, value: object) -> None:
    """As pybind11 does for an int.

    Raises:
        TypeError: It is no integer, or does not fit 32 bits.
    """
    if type(value) is not int or not -_INT_LIMIT <= value < _INT_LIMIT:
        _no_overload(name, value, "an integer of 32 bits")


def _no_overload(name: str, value: object, wanted: str) -> NoReturn:
    shown = repr(value) if type(value) is int else type(value).__name__
    raise TypeError(f"{name}(): incompatible function arguments: {shown} where {wanted} is taken")
