"""A stand-in for the Neuron SDK, built on NumPy: `torch`, `torch_xla` and `torch_neuronx` as far as npuscope calls them.

It is written from AWS's documentation of torch-neuronx 2.9 and the source of torch_xla 2.9, and is never more lenient
than they are: an unknown keyword or compiler flag, a device tensor given to a traced module, another shape or type than
was traced, one tensor object passed twice, a bfloat16 array given to `from_numpy` or asked of `numpy()` are all refused,
and `xm.xla_device` and `xm.mark_step` warn that they are deprecated. It counts what it does, so that a test can tell a
device execution from a host one.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import warnings
import weakref
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType

import ml_dtypes
import numpy as np

NO_DEVICE = (
    "Bad StatusOr access: INVALID_ARGUMENT: PJRT_Client_Create: error condition nullptr != (args)->client: "
    "Init: error condition !(num_devices > 0): "
)
MODULES = ("torch", "torch_xla", "torch_xla.core.xla_model", "torch_xla.debug.metrics", "torch_neuronx")


COMPILER_VARIABLES = ("NEURON_CC_FLAGS", "NEURONX_DUMP_TO")
"""What the compiler reads from the environment."""


@dataclass(frozen=True)
class DType:
    name: str
    numpy: np.dtype

    def __repr__(self):
        return f"torch.{self.name}"


@dataclass(frozen=True)
class Device:
    type: str
    index: int | None = None

    def __str__(self):
        return self.type if self.index is None else f"{self.type}:{self.index}"


CPU = Device("cpu")
DTYPES = {
    name: DType(name, np.dtype(kind))
    for name, kind in (
        ("float32", np.float32),
        ("float16", np.float16),
        ("bfloat16", ml_dtypes.bfloat16),
        ("int16", np.int16),
    )
}
_FROM_NUMPY = {kind.numpy: kind for kind in DTYPES.values() if kind.name != "bfloat16"}


class State(Enum):
    RECORDED = "recorded"
    RUNNING = "running"
    READY = "ready"
    LOST = "lost"


class Value:
    """What a tensor holds: an array, or a product of two values that a device still owes."""

    def __init__(self, dtype, shape, array=None, operands=()):
        self.dtype, self.shape, self.array, self.operands = dtype, shape, array, operands
        self.state = State.RECORDED if array is None else State.READY

    def signature(self):
        """What torch_xla hashes: operations with the types and shapes of their inputs, never the data."""
        graph = tuple(operand.signature() for operand in self.operands) if self.state is State.RECORDED else ()
        return self.dtype.name, self.shape, graph


class Tensor:
    def __init__(self, sdk, value, device):
        self._sdk, self._value, self.device = sdk, value, device

    @property
    def dtype(self):
        return self._value.dtype

    @property
    def shape(self):
        return self._value.shape

    def detach(self):
        return Tensor(self._sdk, self._value, self.device)

    def to(self, device):
        target = CPU if device == "cpu" else device
        if not isinstance(target, Device):
            raise TypeError(f"to(): the stand-in takes a device, not {device!r}")
        if target == self.device:
            return self
        array = np.array(self._sdk.read(self), copy=True)
        self._sdk.uploads += target.type == "xla"
        self._sdk.downloads += self.device.type == "xla"
        return Tensor(self._sdk, Value(self.dtype, self.shape, array), target)

    def view(self, dtype):
        if self.device != CPU:
            raise RuntimeError("the stand-in reinterprets host tensors only")
        if dtype.numpy.itemsize != self.dtype.numpy.itemsize:
            raise RuntimeError(f"the stand-in does not view {self.dtype} as {dtype}: other element size")
        return Tensor(self._sdk, Value(dtype, self.shape, self._value.array.view(dtype.numpy)), CPU)

    def numpy(self):
        if self.device != CPU:
            raise TypeError(
                f"can't convert {self.device} device type tensor to numpy. "
                "Use Tensor.cpu() to copy the tensor to host memory first."
            )
        if self.dtype.name == "bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self._value.array


class TracedModule:
    """What `trace` returns: host tensors of the traced shapes and types in, a host tensor out."""

    def __init__(self, sdk, result, placeholders):
        self._sdk, self._result, self._placeholders = sdk, result, placeholders
        self._loaded = False

    def __call__(self, *inputs):
        if len(inputs) != len(self._placeholders):
            raise RuntimeError(f"expected {len(self._placeholders)} inputs, got {len(inputs)}")
        for index, (tensor, traced) in enumerate(zip(inputs, self._placeholders, strict=True)):
            if tensor.device != CPU:
                raise RuntimeError(f"input {index} is on {tensor.device}; a traced module takes CPU tensors")
            if (tensor.shape, tensor.dtype) != (traced.shape, traced.dtype):
                raise RuntimeError(
                    f"input {index} is {tensor.dtype} {tensor.shape}; traced were {traced.dtype} {traced.shape}"
                )
        self._sdk.loads += not self._loaded
        self._loaded = True
        self._sdk.executions += 1
        if self._sdk.is_failing():
            raise RuntimeError("The PyTorch Neuron Runtime could not execute the model: NRT_EXEC_HW_ERR (1202)")
        bound = {id(traced): tensor._value.array for tensor, traced in zip(inputs, self._placeholders, strict=True)}
        return Tensor(
            self._sdk, Value(self._result.dtype, self._result.shape, self._sdk.evaluate(self._result, bound)), CPU
        )


class NeuronSdk:
    """One fake installation: its settings, its counts, and its modules for `sys.modules`.

    Settings:
        devices: NeuronCores; 0 makes `xla_device` fail as the runtime does.
        hardware: What `xla_device_hw` answers.
        has_trace: False is the product that reuses the package name from SDK 2.33 on.
        refused: Products (M, K, N) that the compiler fails on.
        forgets_from: From this execution on no compiled graph is found again.
        fails_from: From this execution on the device reports an error.
        spoil: Applied to every product that the device computes.
    """

    def __init__(self):
        self.devices, self.hardware, self.has_trace = 1, "NEURON", True
        self.refused = set()
        self.forgets_from = self.fails_from = None
        self.spoil = lambda array: array
        self.traces = []
        self.compiler_environments = []
        self.executions = self.loads = self.mark_steps = self.waits = 0
        self.implicit_syncs = self.host_products = self.uploads = self.downloads = 0
        self.counters = Counter()
        self._recorded, self._running, self._graphs = [], [], set()
        self._error = None

    def install(self, monkeypatch):
        """Put the fake modules where `import` finds them, until the test ends."""
        monkeypatch.setitem(sys.modules, "torch_xla.core", ModuleType("torch_xla.core"))
        monkeypatch.setitem(sys.modules, "torch_xla.debug", ModuleType("torch_xla.debug"))
        for name, module in self.modules().items():
            monkeypatch.setitem(sys.modules, name, module)

    def modules(self):
        """The fake modules by name."""
        contents = {
            "torch": {
                "__version__": "2.9.0+cpu",
                "zeros": self.zeros,
                "from_numpy": self.from_numpy,
                "mm": self.mm,
                **DTYPES,
            },
            "torch_xla": {"__version__": "2.9.0", "device": self.device, "sync": self.sync},
            "torch_xla.core.xla_model": {
                "xla_device": self.xla_device,
                "xla_device_hw": self.xla_device_hw,
                "mark_step": self.mark_step,
                "wait_device_ops": self.wait_device_ops,
            },
            "torch_xla.debug.metrics": {"counter_value": self.counter_value},
            "torch_neuronx": {"__version__": "2.9.0.2.11.0", **({"trace": self.trace} if self.has_trace else {})},
        }
        assert tuple(contents) == MODULES
        modules = {}
        for name, attributes in contents.items():
            modules[name] = ModuleType(name)
            vars(modules[name]).update(attributes)
        return modules

    # torch

    def zeros(self, size, *, dtype):
        return Tensor(self, Value(dtype, tuple(size), np.zeros(size, dtype.numpy)), CPU)

    def from_numpy(self, array):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"expected np.ndarray (got {type(array).__name__})")
        if array.dtype not in _FROM_NUMPY:
            raise TypeError(f"can't convert np.ndarray of type {array.dtype.type.__module__}.{array.dtype}.")
        if any(stride < 0 for stride in array.strides):
            raise ValueError("At least one of the strides of the NumPy array is negative")
        if not array.flags.writeable:
            warnings.warn("The given NumPy array is not writable", UserWarning, stacklevel=2)
        return Tensor(self, Value(_FROM_NUMPY[array.dtype], array.shape, array), CPU)

    def mm(self, left, right):
        if left.device != right.device:
            raise RuntimeError(f"Expected all tensors to be on the same device, found {left.device}, {right.device}")
        if len(left.shape) != 2 or len(right.shape) != 2:
            raise RuntimeError("self must be a matrix")
        if left.shape[1] != right.shape[0]:
            raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({left.shape} and {right.shape})")
        if left.dtype != right.dtype:
            raise RuntimeError(f"expected m1 and m2 to have the same dtype, but got: {left.dtype} != {right.dtype}")
        shape = left.shape[0], right.shape[1]
        if left.device == CPU:
            self.host_products += 1
            return Tensor(self, Value(left.dtype, shape, _multiply(left._value.array, right._value.array)), CPU)
        value = Value(left.dtype, shape, operands=(left._value, right._value))
        self._recorded.append(weakref.ref(value))
        return Tensor(self, value, left.device)

    # torch_xla

    def device(self, index=None):
        if not self.devices:
            raise RuntimeError(NO_DEVICE)
        return Device("xla", index or 0)

    def xla_device(self, n=None, devkind=None):
        warnings.warn("Use torch_xla.device instead", DeprecationWarning, stacklevel=2)
        return self.device(n)

    def xla_device_hw(self, device):
        if not str(device).startswith("xla:"):
            raise RuntimeError(f"Invalid device format: {device}")
        return self.hardware

    def mark_step(self, wait=False, reset_scope=True):
        warnings.warn("Use torch_xla.sync instead", DeprecationWarning, stacklevel=2)
        self.sync(wait, reset_scope)

    def sync(self, wait=False, reset_scope=True):
        """Compile and start what was recorded and is still referenced; a dropped result leaves nothing to do."""
        self.mark_steps += 1
        live = [value for reference in self._recorded if (value := reference()) is not None]
        self._recorded.clear()
        if live:
            self._start(live)
        if wait:
            self._finish()

    def wait_device_ops(self, devices=()):
        self.waits += 1
        self._finish()

    def counter_value(self, name):
        return self.counters.get(name)

    def read(self, tensor):
        """The array of a tensor; one that the device still owes is waited for first, and that is counted."""
        value = tensor._value
        if value.state in {State.RECORDED, State.RUNNING}:
            self.implicit_syncs += 1
            if value.state is State.RECORDED:
                self.sync()
            self._finish()
        if value.state is State.LOST:
            raise RuntimeError("Check failed: handle->HasValue(): the computation of this tensor failed")
        return value.array

    def is_failing(self):
        return self.fails_from is not None and self.executions >= self.fails_from

    def evaluate(self, value, bound):
        """Compute on the device; `bound` holds arrays for the placeholders of a trace."""
        if id(value) in bound:
            return bound[id(value)]
        if value.array is not None:
            return value.array
        left, right = (self.evaluate(operand, bound) for operand in value.operands)
        return self.spoil(_multiply(left, right))

    def _start(self, live):
        if self.forgets_from is not None and self.executions >= self.forgets_from:
            self._graphs.clear()
        graph = tuple(value.signature() for value in live)
        known = graph in self._graphs
        self.counters["CachedCompile" if known else "UncachedCompile"] += 1
        if not known and any(self._refuses(value) for value in live):
            for value in live:
                value.state = State.LOST
            raise RuntimeError("Bad StatusOr access: INTERNAL: RunNeuronCCImpl: error condition error != 0: ")
        self._graphs.add(graph)
        self.executions += 1
        for value in live:
            if self.is_failing():
                value.state = State.LOST
                self._error = "Bad StatusOr access: INTERNAL: nrt_execute: NRT_EXEC_HW_ERR (1202)"
                continue
            value.array = self.evaluate(value, {})
            value.state, value.operands = State.RUNNING, ()
            self._running.append(value)

    def _finish(self):
        for value in self._running:
            value.state = State.READY
        self._running.clear()
        if self._error is not None:
            error, self._error = self._error, None
            raise RuntimeError(error)

    def _refuses(self, value):
        return bool(value.operands) and (*value.operands[0].shape, value.operands[1].shape[1]) in self.refused

    # torch_neuronx

    def trace(
        self,
        func,
        example_inputs,
        *_,
        input_output_aliases=None,
        compiler_workdir=None,
        compiler_args=None,
        partitioner_config=None,
        inline_weights_to_neff=True,
        cpu_backend=False,
    ):
        """Record `func` on placeholders, run the compiler, write its work folder."""
        examples = (example_inputs,) if isinstance(example_inputs, Tensor) else example_inputs
        if not isinstance(examples, tuple) or not all(isinstance(example, Tensor) for example in examples):
            raise TypeError(f"example_inputs must be a tensor or a tuple of tensors, not {type(examples).__name__}")
        if any(example.device != CPU for example in examples):
            raise RuntimeError("example inputs must be CPU tensors")
        if len({id(example) for example in examples}) != len(examples):
            raise RuntimeError("the same tensor object is passed twice; trace would merge the two inputs")
        arguments = shlex.split(compiler_args) if isinstance(compiler_args, str) else list(compiler_args or ())
        options = _compiler_options().parse_args(arguments)
        placeholders = [Value(example.dtype, example.shape) for example in examples]
        before = len(self._recorded)
        result = func(*(Tensor(self, placeholder, self.device()) for placeholder in placeholders))._value
        del self._recorded[before:]  # the traced graph is the module's, not the next mark_step's
        if self._refuses(result):
            raise RuntimeError("neuronx-cc failed with 70")
        workdir = Path(tempfile.mkdtemp() if compiler_workdir is None else compiler_workdir)
        (workdir / "model").mkdir(parents=True, exist_ok=True)
        (workdir / "model" / "graph.hlo").write_text(repr(result.signature()), encoding="utf-8")
        (workdir / "model" / "metadata.json").write_text(json.dumps({"inputs": len(examples)}), encoding="utf-8")
        (workdir / "command.txt").write_text(shlex.join(["neuronx-cc", "compile", *arguments]), encoding="utf-8")
        (workdir / "graph.neff").write_bytes(b"NEFF")
        if options.logfile is not None:
            Path(options.logfile).write_text("Compiler status PASS\n", encoding="utf-8")
        self.traces.append((workdir, tuple(arguments)))
        self.compiler_environments.append({name: os.environ.get(name) for name in COMPILER_VARIABLES})
        return TracedModule(self, result, placeholders)


def _multiply(left, right):
    """Accumulated in float32, rounded to the operands' type."""
    return np.matmul(left.astype(np.float32), right.astype(np.float32)).astype(left.dtype)


class _Options(argparse.ArgumentParser):
    def error(self, message):
        raise RuntimeError("neuronx-cc failed with 1")


def _compiler_options():
    """The flags of the Neuron Compiler CLI Reference Guide that a user may pass through a framework."""
    options = _Options(allow_abbrev=False, add_help=False)
    options.add_argument("--auto-cast", choices=("none", "matmult", "all"))
    options.add_argument("--auto-cast-type", choices=("bf16", "fp16", "tf32", "fp8_e4m3"))
    options.add_argument("--verbose", choices=("debug", "info", "warning", "error", "critical"))
    options.add_argument("--logfile")
    options.add_argument("--model-type", choices=("generic", "transformer", "unet-inference"))
    options.add_argument("--optlevel", "-O", choices=("1", "2", "3"))
    options.add_argument("--target", choices=("inf2", "trn1", "trn1n", "trn2"))
    options.add_argument("--lnc", "--logical-nc-config", choices=("1", "2"))
    for flag in (
        "--enable-saturate-infinity",
        "--enable-mixed-precision-accumulation",
        "--enable-fast-context-switch",
        "--enable-fast-loading-neuron-binaries",
    ):
        options.add_argument(flag, action="store_true")
    return options
