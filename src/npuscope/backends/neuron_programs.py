"""Programs on `neuron` and `neuron:xla`: lazy graphs of torch_xla on a NeuronCore. It has not met the hardware.

Both names run the same here. A module of `torch_neuronx.trace` takes and returns host tensors, so that each of its runs would
move the inputs and the results; a lazy graph keeps them on the device. What a run is, in torch_xla's terms: the pattern's
function records its operations, `sync` cuts the graph there, looks its hash up and dispatches what was compiled for it. The
recording is done by the host in every run, and grows with the operations: a Python loop has the most.

`scan` is `torch_xla.experimental.scan.scan(fn, init, xs, partition_fn, is_fn_pure)` of torch_xla 2.9, which lowers to one
XLA While; neither `torch` nor `torch.func` has one that does. It traces `fn` with AOTAutograd, so `fn` must be traceable and
must keep the shape of its carry.

Captures of a NeuronCore are `npuscope capture`'s: the runtime reads NEURON_RT_INSPECT_* before it starts, and by the time
that a program is compiled it has started.
"""

from __future__ import annotations

import importlib
import re
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from npuscope.backends.base import BackendOptions, CacheStatus, CompileReport, DeviceInfo, require_dtype
from npuscope.backends.neuron import Sdk
from npuscope.backends.torch import numpy_from_tensor, tensor_from_numpy
from npuscope.errors import MeasurementError, shorten
from npuscope.workloads.dtypes import numpy_dtype
from npuscope.workloads.patterns import OFFSET, PATTERN_DTYPES, PatternConfig

Pattern = Callable[[Any], tuple[Any, ...]]
_SCAN_MODULE: Final = "torch_xla.experimental.scan"
_PARTITION_MODULE: Final = "functorch.compile"
_COMPILER_CODE: Final = re.compile(r"\[[A-Z]{2,6}\d{3,4}\].*")
"""An error of neuronx-cc with its code: `[TEN404] (_dot.12) Internal tensorizer error: ...`, a time may stand before it."""
_EXECUTE_METRIC: Final = "ExecuteTime"
"""torch_xla posts a sample to it when an execution is over (pjrt_computation_client.cpp, v2.9.0)."""
_NOTES: Final = (
    "every run records its lazy graph on the host again, and its time includes that: most of all for a Python loop",
    "compile time includes the recording and the first execution",
    "torch_xla's scan has no form without a backward pass: its loop may also write what such a pass would need",
    "cache hit or miss is of torch_xla's cache in this process; a miss may have come from the persistent NEFF cache",
)
_TRACE_NOTE: Final = (
    "programs run as lazy graphs, as on neuron:xla: a traced module would move inputs and results in every run"
)


@dataclass(frozen=True, slots=True)
class _Signature:
    """What a program was compiled for; other inputs would be another graph, compiled within a run."""

    shape: tuple[int, ...]
    dtype: str


class NeuronProgram:
    """A pattern whose lazy graph has been compiled for its one input."""

    def __init__(self, sdk: Sdk, function: Pattern, signature: _Signature, report: CompileReport) -> None:
        self._sdk = sdk
        self._function = function
        self._signature = signature
        self._dtype = numpy_dtype(signature.dtype)
        self.report = report
        self.hlo: bytes | None = None  # no public interface of torch_xla gives the HLO of a lazy graph

    def place(self, inputs: Sequence[npt.NDArray[Any]]) -> Any:
        """Move the input to the device and wait for the move.

        Raises:
            MeasurementError: It is not what the program was compiled for.
        """
        given = [_Signature(tuple(array.shape), array.dtype.name) for array in inputs]
        if given != [self._signature]:
            told = ", ".join(f"{item.dtype} {item.shape}" for item in given)
            raise MeasurementError(
                f"inputs {told} are not the one that the program was compiled for,"
                f" {self._signature.dtype} {self._signature.shape}; compile it for these"
            )
        placed = tuple(tensor_from_numpy(self._sdk.torch, array).to(self._sdk.device) for array in inputs)
        self._sdk.barrier()
        return placed

    def run(self, placed: Any) -> Any:
        """Record the pattern and cut the graph; the results are kept, or there would be nothing to compute."""
        results = self._function(*placed)
        self._sdk.cut_graph()
        return results

    def recording_ns(self, placed: Any) -> int:
        """Host time of recording one run and of nothing else: what it records is dropped before the graph is cut.

        A run whose time is little more than this tells of the host, whatever the device did meanwhile; the dispatch floor,
        which records one operation, does not show it.
        """
        start_ns = time.perf_counter_ns()
        results = self._function(*placed)
        duration_ns = time.perf_counter_ns() - start_ns
        del results
        return duration_ns

    def synchronise(self, output: Any) -> None:
        """Wait for the device."""
        self._sdk.xla_model.wait_device_ops()

    def fetch(self, output: Any) -> tuple[npt.NDArray[Any], ...]:
        """Copy to the host."""
        return tuple(numpy_from_tensor(result, self._dtype) for result in output)


class NeuronProgramBackend:
    """One NeuronCore through torch_xla's lazy graphs."""

    def __init__(self, device: str, options: BackendOptions) -> None:
        self.name = device
        self._sdk = Sdk(device)

    def describe(self) -> DeviceInfo:
        """The NeuronCore, the versions of the SDK, and what a run's time includes."""
        sdk = self._sdk
        return DeviceInfo(
            self.name,
            f"AWS NeuronCore, torch_xla device {sdk.device}",
            is_simulated=False,
            dtypes=PATTERN_DTYPES,
            versions={
                "torch": str(sdk.torch.__version__),
                "torch_neuronx": str(getattr(sdk.torch_neuronx, "__version__", "unknown")),
            },
            notes=_NOTES if self.name == "neuron:xla" else (_TRACE_NOTE, *_NOTES),
        )

    def compile_program(self, config: PatternConfig) -> NeuronProgram:
        """Compile the lazy graph of one pattern; there is no fallback to the host.

        Raises:
            MeasurementError: torch cannot trace it, or the compiler refuses it; with the compiler's own words.
        """
        require_dtype(self.name, config.dtype, PATTERN_DTYPES)
        function = pattern_function(config, self._sdk.torch)
        return self._compiled(function, _Signature(config.input_shape, config.dtype), config.name)

    def compile_floor(self, dtype: str) -> NeuronProgram:
        """x + 1 on one element."""
        require_dtype(self.name, dtype, PATTERN_DTYPES)
        return self._compiled(lambda x: (x + 1,), _Signature((1,), dtype), "the dispatch floor")

    def compile_count(self) -> int | None:
        """Graphs that torch_xla compiled because its own cache lacked them."""
        return self._sdk.counted()["UncachedCompile"]

    def device_executions(self) -> int | None:
        """Executions that the device has finished in this process, as torch_xla counts them; None where it does not."""
        metric_data = getattr(self._sdk.metrics, "metric_data", None)
        if metric_data is None:
            return None
        data = metric_data(_EXECUTE_METRIC)
        return 0 if data is None else int(data[0])  # a metric without a sample reads None

    def trace(self, step: Callable[[], object], folder: Path, runs: int) -> Path | None:
        """None: the runtime must be told to capture before it starts, as `npuscope capture` does."""
        return None

    def execution_count(self, path: Path) -> int | None:
        """None: there is no trace to count in."""
        return None

    def _compiled(self, function: Pattern, signature: _Signature, described: str) -> NeuronProgram:
        try:
            report = self._compile_report(function, signature)
        except Exception as error:
            # What was recorded before the error is pending as long as its tensors live, here in the frames of the traceback:
            # the next barrier would compile and run it on another program's account.
            traceback.clear_frames(error.__traceback__)
            raise MeasurementError(
                f"{self.name} cannot compile {described} {signature.dtype}: {compiler_words(error)}"
            ) from error
        return NeuronProgram(self._sdk, function, signature, report)

    def _compile_report(self, function: Pattern, signature: _Signature) -> CompileReport:
        """Run the pattern once on zeros: the first barrier after the recording compiles."""
        sdk = self._sdk
        zeros = sdk.torch.zeros(signature.shape, dtype=getattr(sdk.torch, signature.dtype)).to(sdk.device)
        sdk.barrier()
        before = sdk.counted()
        start_ns = time.perf_counter_ns()
        results = function(zeros)
        sdk.barrier()
        duration_ns = time.perf_counter_ns() - start_ns
        del results  # kept until now: a result that is dropped before the barrier leaves no graph
        after = sdk.counted()
        cache = CacheStatus.UNCOUNTED
        if after["UncachedCompile"] > before["UncachedCompile"]:
            cache = CacheStatus.MISS
        elif after["CachedCompile"] > before["CachedCompile"]:
            cache = CacheStatus.HIT
        return CompileReport(duration_ns, cache, signature.dtype, signature.dtype)


def pattern_function(config: PatternConfig, torch: Any) -> Pattern:
    """The torch function of a pattern: its one input to a tuple of its results, as `workloads.patterns` defines them.

    Args:
        config: The pattern; its sizes are needed where a Python loop is unrolled.
        torch: The module.

    Raises:
        MeasurementError: It is a scan, and the installed torch_xla has none.
    """
    scan = _xla_scan(torch) if config.pattern == "scan" else None
    return (_published if config.as_published else _same_work)(config, torch, scan)


def _same_work(config: PatternConfig, torch: Any, xla_scan: Any) -> Pattern:
    def step(x: Any) -> Any:
        return torch.relu(torch.sum(x * x, dim=-1)) + OFFSET + torch.sum(torch.matmul(x, x.T), dim=-1)

    def row_step(row: Any, x: Any) -> Any:
        return torch.relu(torch.sum(row * row, dim=-1)) + OFFSET + torch.sum(torch.matmul(x, row), dim=-1)

    def body(carry: Any, x: Any) -> tuple[Any, Any]:
        y = step(x)
        return carry + y, y

    def vmap(xs: Any) -> tuple[Any, ...]:
        ys = torch.func.vmap(step)(xs)
        return ys, torch.sum(ys, dim=0)

    def scan(xs: Any) -> tuple[Any, ...]:
        total, ys = xla_scan(body, _zeros(torch, (config.batch,), xs), xs)
        return ys, total

    def loop(xs: Any) -> tuple[Any, ...]:
        total, ys = _zeros(torch, (config.batch,), xs), []
        for index in range(config.iterations):
            total, y = body(total, xs[index])
            ys.append(y)
        return torch.stack(ys), total

    def nested_vmap(xs: Any) -> tuple[Any, ...]:
        rows = torch.func.vmap(row_step, in_dims=(0, None))
        ys = torch.func.vmap(lambda x: rows(x, x))(xs)
        return ys, torch.sum(ys, dim=0)

    return {"vmap": vmap, "scan": scan, "loop": loop, "nested-vmap": nested_vmap}[config.pattern]


def _published(config: PatternConfig, torch: Any, xla_scan: Any) -> Pattern:
    def repeated(data: Any) -> Any:
        return data.unsqueeze(0).repeat(config.iterations, 1, 1)

    def vmap(data: Any) -> tuple[Any, ...]:
        return (torch.func.vmap(lambda x: torch.relu(torch.sum(x * x, dim=-1)) + OFFSET)(repeated(data)),)

    def body(carry: Any, x: Any) -> tuple[Any, Any]:
        carry = carry + torch.sum(x)
        return carry, carry + torch.sum(torch.matmul(x, x.T))

    def scan(data: Any) -> tuple[Any, ...]:
        return tuple(xla_scan(body, _zeros(torch, (), data), repeated(data)))

    def loop(data: Any) -> tuple[Any, ...]:
        result = _zeros(torch, (config.features,), data)
        for index in range(config.iterations):
            result = result + torch.mean(data[index % config.batch])
        return (result,)

    return {"vmap": vmap, "scan": scan, "loop": loop}[config.pattern]


def _zeros(torch: Any, shape: tuple[int, ...], like: Any) -> Any:
    return torch.zeros(shape, dtype=like.dtype, device=like.device)


def _xla_scan(torch: Any) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """torch_xla's scan, asked for nothing but the forward pass, as far as it can be asked.

    It always traces a backward pass too, and refuses a body with a result that depends on nothing that requires a gradient:
    xs is said to require one, where gradients are off, so that nothing is kept for a backward pass after the scan. Within it
    the loop still writes what that pass would need; the min-cut partition computes most of that again instead (seen in the
    lowering of torch_xla 2.9: relu's result stays, the transposed x goes). A pure body is traced once, not in every run.

    Raises:
        MeasurementError: The installed torch_xla or torch lacks it.
    """
    try:
        scan = importlib.import_module(_SCAN_MODULE).scan
        partition = importlib.import_module(_PARTITION_MODULE).min_cut_rematerialization_partition
    except (ImportError, AttributeError, OSError) as error:
        raise MeasurementError(
            f"pattern scan needs {_SCAN_MODULE}.scan, which cannot be imported ({shorten(str(error), 120)});"
            " choose --pattern vmap,loop or torch_xla 2.9"
        ) from None

    def forward_scan(fn: Any, init: Any, xs: Any) -> tuple[Any, Any]:
        with torch.no_grad():
            carry, ys = scan(fn, init, xs.detach().requires_grad_(), partition_fn=partition, is_fn_pure=True)
        return carry, ys

    return forward_scan


def compiler_words(error: Exception) -> str:
    """What the compiler says is wrong: the line with its error code, else the first line of the exception."""
    text = str(error)
    coded = _COMPILER_CODE.search(text)
    first = next((line for line in text.splitlines() if line.strip()), "no message")
    words = shorten(coded.group() if coded else first, 200)
    return words if isinstance(error, RuntimeError) else f"{type(error).__name__}: {words}"
