"""The Protocol between measuring programs and a device: a matmul's, for programs of several inputs and results.

A device that runs programs compiles a pattern, traces runs of it with its framework's own profiler, and counts from the
trace how many compiled programs a run dispatched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol, cast

import numpy.typing as npt

from npuscope.backends.base import BackendOptions, CompileReport, DeviceInfo
from npuscope.backends.registry import check_device_name
from npuscope.errors import UsageError
from npuscope.workloads.patterns import PatternConfig

RUN_ANNOTATION: Final = "npuscope_run"
"""Name of the annotation around each run in a trace."""
_BACKENDS: Final = {
    "jax": ("npuscope.backends.jax_programs", "JaxProgramBackend"),
    "neuron": ("npuscope.backends.neuron_programs", "NeuronProgramBackend"),
}
PROGRAM_DEVICES: Final = ("jax:cpu", "jax:neuron", "neuron", "neuron:xla")
"""Devices that run programs; `jax:PLATFORM` takes any other platform of JAX too."""


class ProgramExecutable(Protocol):
    """A compiled program."""

    @property
    def report(self) -> CompileReport:
        """How the compilation went."""
        ...

    @property
    def hlo(self) -> bytes | None:
        """Serialized HloModuleProto as the framework lowered it, before the device's compiler; None where it is not told."""
        ...

    def place(self, inputs: Sequence[npt.NDArray[Any]]) -> Any:
        """Put the inputs on the device; outside every timed region."""
        ...

    def run(self, placed: Any) -> Any:
        """Start one execution; it may still be running on return."""
        ...

    def synchronise(self, output: Any) -> None:
        """Return only when the device has finished `output`."""
        ...

    def fetch(self, output: Any) -> tuple[npt.NDArray[Any], ...]:
        """Copy the results to the host."""
        ...

    def recording_ns(self, placed: Any) -> int | None:
        """Host time of recording one run, where each run records its program anew, and of nothing else; else None."""
        ...


class ProgramBackend(Protocol):
    """One device that runs programs."""

    @property
    def name(self) -> str:
        """The device name: `jax:cpu`, `neuron`."""
        ...

    def describe(self) -> DeviceInfo:
        """What the device is."""
        ...

    def compile_program(self, config: PatternConfig) -> ProgramExecutable:
        """Compile one program.

        Raises:
            MeasurementError: The device or its compiler refuses it.
        """
        ...

    def compile_floor(self, dtype: str) -> ProgramExecutable:
        """Compile the dispatch floor: x + 1 on one element, on the same path as every program."""
        ...

    def compile_count(self) -> int | None:
        """Compilations so far in this process, as the framework counts them; None where it does not count."""
        ...

    def device_executions(self) -> int | None:
        """Executions that the device has finished in this process, as the framework counts them; None where it does not."""
        ...

    def trace(self, step: Callable[[], object], folder: Path, runs: int) -> Path | None:
        """Run `step` so many times under the framework's profiler; None where it has none that can be used here.

        Args:
            step: One execution, to its end; warmed up before, so that no first run is traced.
            folder: Where the profiler may write.
            runs: How many times.

        Returns:
            The trace file.
        """
        ...

    def execution_count(self, path: Path) -> int | None:
        """Executions of compiled programs within the runs of a trace; None where the trace does not tell."""
        ...


def check_program_device(name: str) -> str:
    """Return `name` in the form that `open_program_device` takes.

    Raises:
        UsageError: No such device, or it runs only matmuls; the message names those that run programs.
    """
    device = check_device_name(name)
    if device.partition(":")[0] not in _BACKENDS:
        raise UsageError(f"device {device} runs no programs; {', '.join(PROGRAM_DEVICES)} and any jax:PLATFORM do")
    return device


def open_program_device(name: str, options: BackendOptions | None = None) -> ProgramBackend:
    """Open one device by name, never another in its place.

    Raises:
        UsageError: No such device, it runs only matmuls, or an option that it does not take.
        UnavailableError: The device cannot be had here.
    """
    device = check_program_device(name)
    chosen = options or BackendOptions()
    if chosen.compiler_log is not None:
        raise UsageError("--compiler-log is for matmuls on device neuron; capture a run with npuscope capture instead")
    if chosen.compile_cache is not None and not device.startswith("jax:"):
        raise UsageError(f"--compile-cache is for jax devices; {device} keeps no compiled programs there")
    module, attribute = _BACKENDS[device.partition(":")[0]]
    factory = cast("Callable[[str, BackendOptions], ProgramBackend]", getattr(import_module(module), attribute))
    return factory(device, chosen)
