"""What this machine offers for measuring, found by looking and by opening each device."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from npuscope._version import __version__
from npuscope.backends.registry import DEVICES, Availability, NpuNode, check_device, find_npu_nodes, open_auto
from npuscope.errors import shorten
from npuscope.hardware.host import HostCpu, available_memory_bytes, detect_host_cpu
from npuscope.measure.provenance import package_versions

_TOOLS = ("neuron-ls", "neuron-explorer", "neuron-profile", "neuronx-cc", "xrt-smi", "nvidia-smi")
_DRIVERS = {"neuron": "AWS Neuron", "intel_vpu": "Intel NPU", "amdxdna": "AMD XDNA", "nvidia": "NVIDIA GPU"}
_TOOL_FOLDERS = ("/opt/aws/neuron/bin", "/opt/xilinx/xrt/bin")


@dataclass(frozen=True, slots=True)
class Tool:
    """A vendor's command-line tool."""

    name: str
    path: str | None
    version: str
    """What it prints of its version; empty where it is not here or does not tell."""


@dataclass(frozen=True, slots=True)
class Driver:
    """A kernel driver."""

    name: str
    module: str
    version: str | None
    """`loaded` where the module tells no version; None where it is not loaded."""


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything that `npuscope doctor` shows."""

    npuscope: str
    python: str
    host: HostCpu
    available_memory_bytes: int
    auto: str
    """What `--device auto` takes here, and why."""
    npu_nodes: tuple[NpuNode, ...]
    devices: tuple[Availability, ...]
    packages: dict[str, str]
    tools: tuple[Tool, ...]
    drivers: tuple[Driver, ...]
    missing: tuple[str, ...]
    """Devices that cannot be had here."""


def examine() -> Examination:
    """Look at the host, open every device, ask every tool for its version."""
    devices = tuple(check_device(name) for name in DEVICES)
    return Examination(
        npuscope=__version__,
        python=platform.python_version(),
        host=detect_host_cpu(),
        available_memory_bytes=available_memory_bytes(),
        auto=open_auto()[1],
        npu_nodes=tuple(find_npu_nodes()),
        devices=devices,
        packages=package_versions(),
        tools=tuple(_find_tool(name) for name in _TOOLS),
        drivers=tuple(Driver(label, module, _driver_version(module)) for module, label in _DRIVERS.items()),
        missing=tuple(device.device for device in devices if not device.available),
    )


def _find_tool(name: str) -> Tool:
    path = shutil.which(name) or next(
        (found for folder in _TOOL_FOLDERS if (found := shutil.which(name, path=folder))), None
    )
    if path is None:
        return Tool(name, None, "")
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return Tool(name, path, "")
    return Tool(name, path, shorten(answer.stdout or answer.stderr) if answer.returncode == 0 else "")


def _driver_version(module: str, sys: Path = Path("/sys")) -> str | None:
    folder = sys / "module" / module
    if not folder.is_dir():
        return None
    try:
        return (folder / "version").read_text(encoding="utf-8", errors="replace").strip() or "loaded"
    except OSError:
        return "loaded"
