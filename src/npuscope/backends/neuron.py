"""`neuron` and `neuron:xla`: AWS NeuronCores through torch-neuronx. Neither has met the hardware.

`neuron` compiles with `torch_neuronx.trace` into a work folder per (shape, dtype). A traced module takes host tensors
and returns host tensors (AWS Neuron documentation, torch_neuronx.trace), so each run also moves A, B and C.
`neuron:xla` keeps the operands on the device and runs the lazy graph, so that a run is the execution alone; there
`CachedCompile` and `UncachedCompile` of torch_xla's metrics tell whether its in-process cache held the graph; a graph that
it lacked may still have come from the persistent NEFF cache, which neither counter tells.

Written against torch-neuronx 2.9 (Neuron SDK 2.31). From SDK 2.33 on the same package name is another product without
`trace`; it is refused.
"""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt

from npuscope.backends.base import BackendOptions, CacheStatus, CompileReport, DeviceInfo, require_dtype
from npuscope.backends.torch import numpy_from_tensor, tensor_from_numpy
from npuscope.errors import MeasurementError, UnavailableError, shorten
from npuscope.workloads.dtypes import numpy_dtype
from npuscope.workloads.matmul import MatmulConfig

DTYPES = ("float32", "float16", "bfloat16")
_INSTALL = (
    "on a Neuron instance: pip install torch-neuronx==2.9.* neuronx-cc "
    "--extra-index-url https://pip.repos.neuron.amazonaws.com (the PyPI projects of these names are placeholders)"
)
_COUNTERS = ("UncachedCompile", "CachedCompile")


class TracedMatmul:
    """A traced module: host tensors in, host tensor out, back when the device has finished."""

    def __init__(self, sdk: Sdk, traced: Any, config: MatmulConfig, report: CompileReport) -> None:
        self._sdk = sdk
        self._traced = traced
        self._dtype = numpy_dtype(config.dtype)
        self.report = report

    def place(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Any:
        """Host tensors: the traced module itself moves them."""
        return tensor_from_numpy(self._sdk.torch, a), tensor_from_numpy(self._sdk.torch, b)

    def run(self, inputs: Any) -> Any:
        """Execute."""
        return self._traced(*inputs)

    def synchronise(self, output: Any) -> None:
        """Close any open lazy graph and wait for the device, so that nothing of this run is left for the next."""
        self._sdk.barrier()

    def fetch(self, output: Any) -> npt.NDArray[Any]:
        """The result as NumPy."""
        return numpy_from_tensor(output, self._dtype)


class LazyMatmul:
    """The lazy graph of one `torch.mm` with operands that stay on the device."""

    def __init__(self, sdk: Sdk, config: MatmulConfig, report: CompileReport) -> None:
        self._sdk = sdk
        self._dtype = numpy_dtype(config.dtype)
        self.report = report

    def place(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Any:
        """Move both operands to the device and wait for the move."""
        placed = [tensor_from_numpy(self._sdk.torch, array).to(self._sdk.device) for array in (a, b)]
        self._sdk.barrier()
        return placed

    def run(self, inputs: Any) -> Any:
        """Record the multiplication and cut the graph; the result is kept, or the graph would be empty."""
        output = self._sdk.torch.mm(*inputs)
        self._sdk.cut_graph()
        return output

    def synchronise(self, output: Any) -> None:
        """Wait for the device."""
        self._sdk.xla_model.wait_device_ops()

    def fetch(self, output: Any) -> npt.NDArray[Any]:
        """Copy to the host."""
        return numpy_from_tensor(output, self._dtype)


class Sdk:
    """The modules of the SDK and the XLA device, imported once a Neuron device was asked for."""

    def __init__(self, device_name: str) -> None:
        modules = {}
        for name in ("torch", "torch_xla", "torch_xla.core.xla_model", "torch_xla.debug.metrics", "torch_neuronx"):
            try:
                modules[name] = importlib.import_module(name)
            except (ImportError, OSError) as error:
                raise UnavailableError(
                    device_name, missing=f"{name} cannot be imported ({shorten(str(error))})", remedy=_INSTALL
                ) from None
        self.torch = modules["torch"]
        torch_xla = modules["torch_xla"]
        self.xla_model = modules["torch_xla.core.xla_model"]
        # mark_step() under the name that torch_xla 2.8 and later do not warn about: a warning would be timed too.
        self.cut_graph = getattr(torch_xla, "sync", None) or self.xla_model.mark_step
        self.metrics = modules["torch_xla.debug.metrics"]
        self.torch_neuronx = modules["torch_neuronx"]
        if not hasattr(self.torch_neuronx, "trace"):
            missing = "this torch_neuronx has no trace (SDK 2.33 and later reuse the name)"
            raise UnavailableError(device_name, missing=missing, remedy=_INSTALL)
        try:
            self.device = getattr(torch_xla, "device", self.xla_model.xla_device)()
        except RuntimeError as error:
            remedy = "check neuron-ls for a device and for another process that holds it"
            raise UnavailableError(
                device_name, missing=f"the runtime says: {shorten(str(error), 160)}", remedy=remedy
            ) from None
        if str(self.xla_model.xla_device_hw(self.device)).upper() != "NEURON":
            missing = f"torch_xla runs on {self.xla_model.xla_device_hw(self.device)}, not on a NeuronCore"
            raise UnavailableError(device_name, missing=missing, remedy="unset PJRT_DEVICE, or set it to NEURON")

    def barrier(self) -> None:
        """Cut the lazy graph and wait until the device has finished it."""
        self.cut_graph()
        self.xla_model.wait_device_ops()

    def counted(self) -> dict[str, int]:
        """torch_xla's compile counters; a counter that was never raised reads None and means 0."""
        return {name: self.metrics.counter_value(name) or 0 for name in _COUNTERS}


class NeuronBackend:
    """One NeuronCore through torch-neuronx."""

    def __init__(self, device: str, options: BackendOptions) -> None:
        self.name = device
        self._lazy = device == "neuron:xla"
        self._log = options.compiler_log.resolve() if options.compiler_log is not None else None
        self._scratch = Path(tempfile.mkdtemp(prefix="npuscope-neuron-"))
        weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        self._sdk = Sdk(device)
        self._traces = 0

    def describe(self) -> DeviceInfo:
        """The NeuronCore kind and the versions of the SDK."""
        sdk = self._sdk
        versions = {
            "torch": str(sdk.torch.__version__),
            "torch_neuronx": str(getattr(sdk.torch_neuronx, "__version__", "unknown")),
        }
        notes = (
            () if self._lazy else ("a traced module takes and returns host tensors: every run includes the transfers",)
        )
        return DeviceInfo(
            self.name,
            f"AWS NeuronCore, torch_xla device {sdk.device}",
            is_simulated=False,
            dtypes=DTYPES,
            versions=versions,
            includes_transfers=not self._lazy,
            notes=notes,
        )

    def compile(self, config: MatmulConfig) -> TracedMatmul | LazyMatmul:
        """Compile one matmul; there is no fallback: a compile error fails the row."""
        require_dtype(self.name, config.dtype, DTYPES)
        try:
            return self._compile_lazy(config) if self._lazy else self._trace(config)
        except RuntimeError as error:
            raise MeasurementError(
                f"{self.name} cannot compile {config.shape_text} {config.dtype}: {shorten(str(error), 160)}"
            ) from error

    def compile_count(self) -> int | None:
        """Traces made, plus the graphs that torch_xla compiled because its own cache lacked them."""
        return self._traces + self._sdk.counted()["UncachedCompile"]

    def _trace(self, config: MatmulConfig) -> TracedMatmul:
        torch = self._sdk.torch
        workdir = self._workdir(config)
        arguments = ["--auto-cast=none"]  # older compilers cast float32 to bfloat16 by default
        if self._log is not None:
            arguments += ["--verbose=info", f"--logfile={workdir / 'log-neuron-cc.txt'}"]
        dtype = getattr(torch, config.dtype)
        # Two distinct tensors: trace() merges inputs that are the same object.
        example = (torch.zeros((config.M, config.K), dtype=dtype), torch.zeros((config.K, config.N), dtype=dtype))
        with _verbose_compiler(workdir if self._log is not None else None):
            start_ns = time.perf_counter_ns()
            traced = self._sdk.torch_neuronx.trace(
                torch.mm, example, compiler_workdir=str(workdir), compiler_args=arguments
            )
            duration_ns = time.perf_counter_ns() - start_ns
        self._traces += 1
        # The persistent cache does not apply to trace() (AWS Neuron documentation, neuron-caching).
        log_dir = workdir if self._log is not None else None
        report = CompileReport(duration_ns, CacheStatus.DISABLED, config.dtype, config.dtype, log_dir)
        return TracedMatmul(self._sdk, traced, config, report)

    def _compile_lazy(self, config: MatmulConfig) -> LazyMatmul:
        torch = self._sdk.torch
        dtype = getattr(torch, config.dtype)
        operands = [
            torch.zeros(shape, dtype=dtype).to(self._sdk.device)
            for shape in ((config.M, config.K), (config.K, config.N))
        ]
        self._sdk.barrier()
        before = self._sdk.counted()
        start_ns = time.perf_counter_ns()
        kept = torch.mm(*operands)
        self._sdk.barrier()
        duration_ns = time.perf_counter_ns() - start_ns
        del kept
        after = self._sdk.counted()
        cache = CacheStatus.UNCOUNTED
        if after["UncachedCompile"] > before["UncachedCompile"]:
            cache = CacheStatus.MISS
        elif after["CachedCompile"] > before["CachedCompile"]:
            cache = CacheStatus.HIT
        return LazyMatmul(self._sdk, config, CompileReport(duration_ns, cache, config.dtype, config.dtype))

    def _workdir(self, config: MatmulConfig) -> Path:
        workdir = (self._log or self._scratch) / f"matmul_{config.shape_text}_{config.dtype}"
        workdir.mkdir(parents=True, exist_ok=True)
        return workdir


@contextmanager
def _verbose_compiler(dump_to: Path | None) -> Iterator[None]:
    """Add verbose output and a dump folder to the compiler's environment while it runs; then put back what was there."""
    if dump_to is None:
        yield
        return
    names = ("NEURON_CC_FLAGS", "NEURONX_DUMP_TO")
    before = {name: os.environ.get(name) for name in names}
    os.environ["NEURON_CC_FLAGS"] = f"{before['NEURON_CC_FLAGS'] or ''} --verbose=info".strip()
    os.environ["NEURONX_DUMP_TO"] = str(dump_to)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
