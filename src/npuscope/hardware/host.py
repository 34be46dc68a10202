"""The machine that runs npuscope, detected at run time."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class HostCpu:
    """The host processor and its memory, as the process may use them."""

    model: str
    architecture: str
    physical_cores: int
    usable_cores: int
    """Cores that this process may run on (affinity counted in)."""
    memory_bytes: int
    frequency_mhz: float | None
    governor: str | None
    """The frequency governor, where the kernel tells; `performance` gives the steadiest figures."""
    vector_extensions: tuple[str, ...]
    hypervisor: bool
    """A virtual machine: neighbours may take time from it."""


def detect_host_cpu() -> HostCpu:
    """Read what the operating system tells about the processor; never raises for a missing figure."""
    info = _cpuinfo()
    flags = set(info.get("flags", info.get("Features", "")).split())
    return HostCpu(
        model=info.get("model name", platform.processor() or "unknown"),
        architecture=platform.machine(),
        physical_cores=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=_memory_limit(psutil.virtual_memory().total),
        frequency_mhz=_frequency_mhz(info),
        governor=_read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        vector_extensions=tuple(
            name
            for name in ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "asimd", "sve")
            if name in flags
        ),
        hypervisor="hypervisor" in flags,
    )


def available_memory_bytes() -> int:
    """Memory that can still be allocated: the system's figure, or less where a control group says so."""
    available = psutil.virtual_memory().available
    used = _read(Path("/sys/fs/cgroup/memory.current"))
    limit = _memory_limit(0)
    if limit and used and used.isdigit():
        return max(0, min(available, limit - int(used)))
    return available


def _memory_limit(total_bytes: int) -> int:
    limit = _read(Path("/sys/fs/cgroup/memory.max"))
    if limit and limit.isdigit():
        return min(int(limit), total_bytes) if total_bytes else int(limit)
    return total_bytes


def _frequency_mhz(info: dict[str, str]) -> float | None:
    try:
        return float(info["cpu MHz"])
    except (KeyError, ValueError):
        return None


def _cpuinfo() -> dict[str, str]:
    text = _read(Path("/proc/cpuinfo")) or ""
    first = text.split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None
