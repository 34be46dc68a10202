"""The Protocol between measuring and a device.

A backend describes its device and compiles a matmul; the executable places inputs on the device, runs, synchronises
and fetches. No backend ever falls back to another device: what cannot be had is an `UnavailableError`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from npuscope.workloads.matmul import MatmulConfig


class CacheStatus(str, Enum):
    """Whether a compilation came from a cache, as the framework itself counted it."""

    HIT = "hit"
    MISS = "miss"
    NOT_COMPILED = "not-compiled"
    """The device runs library code; there is nothing to compile."""
    DISABLED = "disabled"
    """The framework compiles, and no persistent cache is set up."""
    UNCOUNTED = "uncounted"
    """The framework does not tell."""


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """What ran, in words and versions; goes into run.json and every row."""

    name: str
    """The device name as given: `jax:cpu`."""
    description: str
    """The device as its SDK or the operating system names it."""
    is_simulated: bool
    dtypes: tuple[str, ...]
    """Operand types that it multiplies."""
    versions: dict[str, str] = field(default_factory=dict)
    includes_transfers: bool = False
    """Every execution also moves A and B to the device and C back; no interface separates them."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CompileReport:
    """One compilation."""

    duration_ns: int
    """Wall clock of the framework's compile call; 0 where nothing is compiled."""
    cache: CacheStatus
    compute_dtype: str
    """The type that the device multiplies in, as far as it tells; the tolerance follows from it."""
    out_dtype: str
    log_dir: Path | None = None
    """Where the compiler left its log and work files, if it was asked to."""


def already_finished(output: Any) -> None:
    """`synchronise` of an executable whose `run` returns when the device has finished; the timed loop leaves it out."""


class Executable(Protocol):
    """A compiled matmul."""

    @property
    def report(self) -> CompileReport:
        """How the compilation went."""
        ...

    def place(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Any:
        """Put A [M, K] and B [K, N] on the device; outside every timed region."""
        ...

    def run(self, inputs: Any) -> Any:
        """Start one execution; it may still be running on return."""
        ...

    def synchronise(self, output: Any) -> None:
        """Return only when the device has finished `output`."""
        ...

    def fetch(self, output: Any) -> npt.NDArray[Any]:
        """Copy the result [M, N] to the host."""
        ...


class Backend(Protocol):
    """One device."""

    @property
    def name(self) -> str:
        """The device name: `cpu`, `jax:cpu`, `openvino:npu`."""
        ...

    def describe(self) -> DeviceInfo:
        """What the device is."""
        ...

    def compile(self, config: MatmulConfig) -> Executable:
        """Compile one matmul.

        Raises:
            MeasurementError: The device refuses this shape or type.
        """
        ...

    def compile_count(self) -> int | None:
        """Compilations so far in this process, as the framework counts them; None where it does not count."""
        ...


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """What the user may ask of a backend."""

    compiler_log: Path | None = None
    """Keep the compiler's verbose output and work folder here (`neuron` only)."""
    compile_cache: Path | None = None
    """Keep compiled programs here, and count hits and misses (`jax:*` and `openvino:*`)."""


def require_dtype(name: str, dtype: str, supported: tuple[str, ...]) -> None:
    """Refuse a type that a device lacks, naming what it has.

    Raises:
        UsageError: `dtype` is not in `supported`.
    """
    from npuscope.errors import UsageError

    if dtype not in supported:
        raise UsageError(f"device {name} has no {dtype} matmul; it has {', '.join(supported)}")
