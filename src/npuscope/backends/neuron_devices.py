"""Who holds the Neuron devices of this machine: a NeuronCore serves one process at a time.

A process keeps `/dev/neuronN` open from the initialisation of its runtime until it ends, so what Linux shows of open files
tells who holds a device. It does not tell which of the device's cores: only the runtime knows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from npuscope.errors import UnavailableError, shorten
from npuscope.units import printable

VISIBLE_CORES: Final = "NEURON_RT_VISIBLE_CORES"
"""Which cores a process may take (Neuron Runtime Configuration)."""
_DEVICE: Final = re.compile(r"/dev/neuron[0-9]+")
_TOLD: Final = 3


@dataclass(frozen=True, slots=True)
class DeviceHolder:
    """A process that has Neuron devices open."""

    pid: int
    command: str
    """Its words, shortened; '' where they cannot be read."""
    devices: tuple[str, ...]
    """Such as `/dev/neuron0`, sorted by number."""


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """What can be seen of the processes that hold Neuron devices."""

    holders: tuple[DeviceHolder, ...]
    """By process number."""
    hidden_processes: int
    """Processes whose open files may not be read: those of other users, unless one is root."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be seen."""
        if not self.hidden_processes:
            return ()
        return (f"{self.hidden_processes} processes of other users could not be checked for open Neuron devices",)


def device_holders(proc: Path = Path("/proc")) -> DeviceUse:
    """The processes that have a `/dev/neuron*` open.

    Args:
        proc: Where Linux shows its processes; what is no such folder shows none.
    """
    holders, hidden = [], 0
    for number in sorted(int(name) for name in _names(proc) if name.isascii() and name.isdigit()):
        folder = proc / str(number)
        try:
            descriptors = os.listdir(folder / "fd")  # noqa: PTH208 - an iterator would not fail here but later
        except PermissionError:
            hidden += 1
            continue
        except OSError:
            continue  # it has ended since
        devices = {target for name in descriptors if _DEVICE.fullmatch(target := _target(folder / "fd" / name))}
        if devices:
            holders.append(DeviceHolder(number, _command(folder), tuple(sorted(devices, key=lambda at: int(at[11:])))))
    return DeviceUse(tuple(holders), hidden)


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def _target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:
        return ""


def _command(folder: Path) -> str:
    try:
        words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""
    return shorten(printable(words.strip()))


def require_free_devices(proc: Path = Path("/proc"), environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Check that nobody holds a Neuron device, and return notes on what could not be checked.

    Where `NEURON_RT_VISIBLE_CORES` is set, the cores were chosen on purpose: holders are then a note, because the runtime alone
    can tell whether theirs are others. Nothing is ever ended.

    Raises:
        UnavailableError: A device is held; the message names the process and what to do.
    """
    use = device_holders(proc)
    if not use.holders:
        return use.notes
    told = "; ".join(_told(holder) for holder in use.holders[:_TOLD])
    more = f"; and {len(use.holders) - _TOLD} more processes" if len(use.holders) > _TOLD else ""
    if environ.get(VISIBLE_CORES):
        chosen = f"{VISIBLE_CORES}={printable(environ[VISIBLE_CORES])}"
        return (f"{told}{more}: going on with {chosen}, which must leave out their cores", *use.notes)
    raise UnavailableError(
        "exclusive use of the Neuron devices",
        missing=f"{told}{more}",
        remedy=f"end it, wait for it, or choose cores that it does not use with {VISIBLE_CORES}",
    )


def _told(holder: DeviceHolder) -> str:
    who = "this very process" if holder.pid == os.getpid() else f"process {holder.pid}"
    named = f" ({holder.command})" if holder.command else ""
    return f"{who}{named} holds {', '.join(holder.devices[:4])}{', …' if len(holder.devices) > 4 else ''}"
