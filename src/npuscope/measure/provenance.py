"""What a result must carry to be believed later: versions, host, load, command, commit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

from npuscope._version import __version__
from npuscope.hardware.host import available_memory_bytes, detect_host_cpu

_PACKAGES = (
    "numpy",
    "ml-dtypes",
    "pyarrow",
    "jax",
    "jaxlib",
    "openvino",
    "torch",
    "torch-neuronx",
    "torch-xla",
    "neuronx-cc",
    "libneuronxla",
)
_ENVIRONMENT = (
    "NEURON_",
    "NEURONX_",
    "XLA_",
    "JAX_",
    "PJRT_",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "OV_",
    "CUDA_VISIBLE_DEVICES",
)


def now() -> str:
    """UTC, to the second, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def package_versions(names: tuple[str, ...] = _PACKAGES) -> dict[str, str]:
    """Versions of installed packages, without importing them."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def collect() -> dict[str, Any]:
    """One session's provenance, for run.json."""
    return {
        "started_at": now(),
        "npuscope": __version__,
        "python": platform.python_version(),
        "packages": package_versions(),
        "argv": sys.argv,
        "host": {"name": platform.node(), "system": platform.platform(), **asdict(detect_host_cpu())},
        "available_memory_bytes": available_memory_bytes(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "clock": "time.perf_counter_ns",
        "environment": {key: value for key, value in sorted(os.environ.items()) if key.startswith(_ENVIRONMENT)},
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """The commit of the working folder, with `-dirty` where it has changes; None outside a repository."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
