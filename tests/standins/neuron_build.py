"""A stand-in for what builds a kernel's NEFF, for a child process: packages as files of a folder, and a `neuronx-cc`.

The packages hold as much of the Neuron SDK as `neuron_build` uses: `nki` with TraceKernel or with its compiler's driver, the
private IR modules and the private MLP kernel of `neuronxcc`, `nkilib`'s MLP, `torch_neuronx.xla_impl.ops.nki_jit`, and the
`torch` and `torch_xla` of the other stand-ins. Each refuses an unknown keyword, another type, shape, device or number of cores
than it documents.

Sources: aws-neuron/nki-library (GETTING_STARTED.md, core/mlp, test/utils/kernel_tracer.py; 2026-04-13), NxD Inference's
modeling_llama.py (SDK 2.28), the public MLP comparison of 2026-01-26, error code EVRF066, aws-neuron-sdk issue 781 and
optimum-neuron issue 407 (names of saved graphs, lines of the log).
"""

import inspect
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np

from tests.standins.neuron import CPU
from tests.standins.neuron_programs import Node, ProgramSdk, ProgramTensor
from tests.standins.neuronx_cc import ROOT, VERSION, neff_of, settings
from tests.standins.neuronx_cc import install as install_compiler

TRACE_KERNEL = "nki.compiler.backends.neuron.TraceKernel"
MODULES = (
    "torch",
    "torch_xla",
    "torch_xla.core.xla_model",
    "torch_xla.debug.metrics",
    "torch_neuronx",
    "torch_neuronx.xla_impl.ops",
    "neuronxcc",
    "neuronxcc.nki.language",
    "neuronxcc.nki._private_kernels.mlp",
    "neuronxcc.starfish.penguin.ir.IRBuilder",
    "neuronxcc.starfish.penguin.ir.IRWriter",
    "nki",
    "nki.compiler.frontend",
    "nki.compiler.ncc_driver",
    TRACE_KERNEL,
    "nkilib.core.mlp.mlp",
)
PARTITIONS = 128
TOKEN_GENERATION = 96
"""Tokens up to which nki-library's kernel takes its other way, whose result has no batch axis."""


def install(folder, *, without=()):
    """Write the packages and the compiler; what to put on PYTHONPATH and on PATH."""
    packages, commands = folder / "packages", folder / "commands"
    for name in MODULES:
        if name in without:
            continue
        parts = name.split(".")
        for depth in range(1, len(parts) + 1):
            place = packages.joinpath(*parts[:depth])
            place.mkdir(parents=True, exist_ok=True)
            (place / "__init__.py").touch()
        source = f"from tests.standins.neuron_build import contents\nglobals().update(contents({name!r}))\n"
        (packages.joinpath(*parts) / "__init__.py").write_text(source, encoding="utf-8")
    commands.mkdir(parents=True)
    if "neuronx-cc" not in without:
        install_compiler(commands)
    return f"{packages}{os.pathsep}{ROOT}", str(commands)


def contents(name):
    """What a module holds."""
    torch_modules = SDK.modules()
    if name in torch_modules:
        return {key: value for key, value in vars(torch_modules[name]).items() if not key.startswith("__")} | {
            "__version__": getattr(torch_modules[name], "__version__", "2.9.0")
        }
    return {
        "torch_neuronx.xla_impl.ops": {"nki_jit": nki_jit},
        "neuronxcc": {"__version__": VERSION},
        "neuronxcc.nki.language": {"nc": Cores},
        "neuronxcc.nki._private_kernels.mlp": {"mlp_isa_kernel": Compiled()},
        "neuronxcc.starfish.penguin.ir.IRBuilder": {"IRBuilder": IRBuilder},
        "neuronxcc.starfish.penguin.ir.IRWriter": {"IRWriter": IRWriter},
        "nki": {"jit": Jit},
        "nki.compiler.frontend": {"ParserFrontend": ParserFrontend},
        "nki.compiler.ncc_driver": {"CompileOptions": CompileOptions, "CompiledKernel": CompiledKernel},
        TRACE_KERNEL: {"TraceKernel": TraceKernel},
        "nkilib.core.mlp.mlp": {"mlp": Jit(mlp)},
    }[name]


# Kernels: `mlp` is nki-library's, `Compiled` is the compiler's own.


def gated_mlp(x, gate, up, down, lnc=1):
    """The product of an MLP: at once of arrays, recorded of tensors."""
    if not isinstance(x, ProgramTensor):
        return _product(x, gate, up, down)
    return SDK.custom_call("MLP", (x, gate, up, down), lnc)


def _product(x, gate, up, down):
    wide = [array.astype(np.float32) for array in (x, gate, up, down)]
    gated = wide[0] @ wide[1]
    return ((gated / (1 + np.exp(-gated)) * (wide[0] @ wide[2])) @ wide[3]).astype(x.dtype)


def mlp(
    hidden_tensor,
    gate_proj_weights_tensor,
    up_proj_weights_tensor,
    down_proj_weights_tensor,
    normalization_weights_tensor=None,
    *,
    lnc=1,
):
    """nki-library's kernel, with the parameters that come first; further ones are refused here."""
    tensors = hidden_tensor, gate_proj_weights_tensor, up_proj_weights_tensor, down_proj_weights_tensor
    if normalization_weights_tensor is not None:
        raise TypeError("the stand-in normalises nothing")
    _check_mlp(tensors)
    result = gated_mlp(*tensors, lnc=lnc)
    if isinstance(result, ProgramTensor) and np.prod(result.shape[:2]) <= TOKEN_GENERATION:
        result = SDK.operation("squeeze", [result], lambda array: array.reshape(-1, array.shape[-1]))
    return [result]


def _check_mlp(tensors):
    hidden, gate, up, down = (tuple(tensor.shape) for tensor in tensors)
    for tensor in tensors:
        name = getattr(tensor.dtype, "name", str(tensor.dtype))
        assert name in ("bfloat16", "float16", "float32"), f"Unsupported dtype: got {name}"
    assert len(hidden) == 3, f"Unsupported rank {len(hidden)}"
    assert hidden[-1] % PARTITIONS == 0, f"Unsupported hidden dimension {hidden[-1]}; expected H % 128 == 0."
    assert gate == up == down[::-1], f"weights {gate}, {up}, {down} do not fit"
    assert gate[0] == hidden[-1], f"weights {gate} do not fit {hidden}"


class Jit:
    """What `nki.jit` makes of a function: launched on the cores in brackets, on 1 without them."""

    def __init__(self, func):
        if not inspect.isfunction(func):
            raise TypeError("nki.jit takes a Python function")
        self.func = func

    def __getitem__(self, lnc):
        if lnc not in (1, 2):
            raise ValueError(f"LNC {lnc!r} is not supported on the current architecture")
        return lambda *args, **kwargs: self._call(lnc, *args, **kwargs)

    def __call__(self, *args, **kwargs):
        return self._call(1, *args, **kwargs)

    def _call(self, lnc, *args, **kwargs):
        bound = inspect.signature(self.func).bind(*args, **kwargs)
        _misbehave()
        if not all(isinstance(tensor, ProgramTensor) for tensor in bound.arguments.values()):
            raise TypeError("the stand-in runs no NumPy arrays on a device")
        SDK.launched_on = lnc
        return self.func(*bound.args, **bound.kwargs)


class Compiled:
    """The private kernel: no Python function, and nothing that could be called without `nki_jit`."""

    def __call__(self, *_, **__):
        raise TypeError("mlp_isa_kernel has to be launched through nki_jit on a grid")

    def run(self, hidden, ln_w, gate_w, up_w, down_w, out, kernel_name="MLP", fused_rmsnorm=False, eps=1e-6):
        """Compute into `out`."""
        if fused_rmsnorm or kernel_name != "MLP":
            raise ValueError("the stand-in has the MLP without a norm only")
        tensors = hidden, gate_w, up_w, down_w
        _check_mlp(tensors)
        for tensor, shape in ((ln_w, (1, hidden.shape[-1])), (out, hidden.shape)):
            if (tensor.shape, tensor.dtype) != (tuple(shape), hidden.dtype):
                raise ValueError(f"{tensor.dtype} {tensor.shape} is not {hidden.dtype} {shape}")
            SDK._common_device([hidden, tensor])
        SDK.store(out, gated_mlp(*tensors))


@dataclass(frozen=True)
class Cores:
    """`nc(2)`: a dimension of a grid that lies along the physical cores."""

    count: int


def nki_jit():
    """A decorator; what it makes is launched on a grid, and not without."""

    def decorate(kernel):
        if not isinstance(kernel, Compiled):
            raise TypeError("nki_jit: not a kernel that writes into its arguments")
        return _Gridded(kernel)

    return decorate


class _Gridded:
    def __init__(self, kernel):
        self._kernel = kernel

    def __call__(self, *_, **__):
        raise RuntimeError("the kernel has no grid")

    def __getitem__(self, grid):
        if not (isinstance(grid, tuple) and len(grid) == 1 and isinstance(grid[0], Cores)):
            raise TypeError(f"grid {grid!r} is not (nc(cores),)")

        def launch(*args, **kwargs):
            _misbehave()
            SDK.launched_on = grid[0].count
            self._kernel.run(*args, **kwargs)

        return launch


def _misbehave():
    """What a kernel may do to the process that it runs in."""
    kind = settings().get("kernel")
    if kind == "raises":
        raise ValueError("tile of 256 partitions\nis too large")
    if kind == "hangs":
        print("thinking", flush=True)
        time.sleep(600)
    if kind == "dies":
        print("about to fall", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "exits":
        os._exit(0)


# KLIR, as the public comparison has it


class IRBuilder:
    """Collects what is declared."""

    last = None

    def __init__(self):
        self.cu = SimpleNamespace(tensors={}, traced=None)
        IRBuilder.last = self

    def tensor(self, *, shape, dtype, name):
        """Declare a tensor."""
        if name in self.cu.tensors:
            raise ValueError(f"{name} is declared twice")
        self.cu.tensors[name] = (tuple(shape), np.dtype(dtype).name)
        return SimpleNamespace(shape=shape, dtype=dtype, name=name)


class TraceKernel:
    """Traces a Python function."""

    def __init__(self, func, platform_target):
        self._func, self._target = func, platform_target

    @classmethod
    def trace(cls, *, func, platform_target):
        """A kernel that can be launched on cores."""
        if not isinstance(func, Jit):
            raise TypeError(f"{type(func).__name__} is no kernel with Python source")
        if platform_target not in ("trn1", "trn1n", "inf2", "trn2", "trn3"):
            raise ValueError(f"unknown platform {platform_target}")
        return cls(func.func, platform_target)

    def __call__(self, **_):
        raise RuntimeError("the kernel was traced without a grid")

    def __getitem__(self, lnc):
        def call(**inputs):
            output = _traced(self._func, inputs)
            declared = IRBuilder.last.cu.tensors
            given = {name: (array.shape, array.dtype.name) for name, array in inputs.items()}
            if given != declared:
                raise ValueError(f"inputs {given} are not what was declared: {declared}")
            IRBuilder.last.cu.traced = {"target": self._target, "lnc": lnc, "output": output, "inputs": given}

        return call


def _traced(func, inputs):
    """Run a kernel's function on arrays: its result's shape and type."""
    bound = inspect.signature(func).bind(**inputs)
    _misbehave()
    if not all(isinstance(array, np.ndarray) for array in inputs.values()):
        raise TypeError("KLIR is traced with arrays")
    result = func(*bound.args, **bound.kwargs)
    result = result[0] if isinstance(result, list) else result
    return result.shape, result.dtype.name


class IRWriter:
    """Writes what was traced."""

    @staticmethod
    def run(*, cu, output, save_weights, weights_dir):
        """Write `penguin.py`."""
        if cu.traced is None:
            raise ValueError("nothing was traced")
        if save_weights and not Path(weights_dir).is_dir():
            raise NotADirectoryError(weights_dir)
        output.write(json.dumps(cu.traced))


class ParserFrontend:
    """The successor's frontend."""

    def compile(self, kernel, *, inputs, target, lnc, artifacts_dir, dump_python_ast=False, output_names=None):
        """A function in MLIR."""
        if not Path(artifacts_dir).is_dir():
            raise NotADirectoryError(artifacts_dir)
        shapes = {name: (array.shape, array.dtype.name) for name, array in inputs.items()}
        return {"target": target, "lnc": lnc, "output": _traced(kernel.func, inputs), "inputs": shapes}


@dataclass(frozen=True)
class CompileOptions:
    """Of the successor's driver."""

    target: str
    lnc: int
    output_path: str
    artifacts_dir: str
    neuronx_cc_args: tuple = ()


class CompiledKernel:
    """Of the successor's driver."""

    def __init__(self, neff_path):
        self.neff_path = neff_path

    @classmethod
    def from_frontend(cls, result, options):
        """Compile."""
        if (options.target, options.lnc) != (result["target"], result["lnc"]):
            raise ValueError("the options are of another target")
        Path(options.output_path).write_bytes(neff_of(result["inputs"], result["output"], "driver"))
        return cls(options.output_path)


# The framework


class BuildSdk(ProgramSdk):
    """torch_xla with the Neuron plugin, which saves graphs to the current folder where the environment asks for it.

    Modes: twice (a second graph of the same inputs), foreign (the saved graphs take other inputs), unsaved (saves nothing),
    quiet (prints no log), recompiles (never finds a graph again), host (the result comes from the host), transfers (the inputs'
    transfers are graphs, too), refuses (the compiler fails). `early` in the settings: inputs of a graph that is compiled before
    the kernel is called.
    """

    def __init__(self):
        super().__init__()
        told = settings()
        self.mode = told.get("mode", "")
        self.devices, self.hardware = told.get("devices", 1), told.get("hardware", "NEURON")
        self.launched_on, self.compiled, self.calls = 0, 0, 0
        self._early = told.get("early")
        if self.mode == "refuses":
            self.refused_operations = {"MLP"}

    def modules(self):
        modules = super().modules()
        modules["torch"].ones = self.ones
        return modules

    def sync(self, wait=False, reset_scope=True):
        early, self._early = self._early, None
        if early:
            self._write(early, early["input0"])
        super().sync(wait, reset_scope)

    def ones(self, size, *, dtype, device=CPU):
        """Of the device's, as a constant of the graph."""
        if device == CPU:
            raise RuntimeError("the stand-in has no use for ones on the host")
        return self._record(Node("ones", dtype, tuple(size), (), lambda: np.ones(size, dtype.numpy)), device)

    def custom_call(self, name, tensors, lnc):
        """Record a kernel."""
        device = self._common_device(tensors)
        if device == CPU:
            raise RuntimeError("a custom call runs on the device only")
        self.calls += 1
        salt = self.calls if self.mode == "recompiles" else 0
        operands = tuple(tensor._value for tensor in tensors)
        node = Node(name, tensors[0].dtype, tensors[0].shape, operands, _product, static=(self.launched_on, salt))
        if self.mode == "host":
            arrays = [self.read(tensor) for tensor in tensors]
            return ProgramTensor(self, ProgramTensor.to(tensors[0], CPU)._value, CPU) if arrays else None
        return self._record(node, device)

    def store(self, out, result):
        """Replace what a tensor holds, as a kernel that writes into its argument does."""
        out._value = result._value

    def _start(self, live):
        before = self.counters["UncachedCompile"]
        super()._start(live)
        if self.counters["UncachedCompile"] > before:
            self._save(live)

    def _save(self, live):
        """What the plugin does with a graph that it compiled: the log, the cache, and the saved files."""
        if str(self.launched_on) != os.environ.get("NEURON_LOGICAL_NC_CONFIG", "1"):
            raise RuntimeError(f"[NCC_EVRF066] NKI kernel 'mlp' is configured with LNC={self.launched_on}")
        leaves = list(self._leaves)
        inputs = {f"input{index}": (value.shape, value.dtype.name) for index, value in enumerate(leaves)}
        self._write(inputs, (live[0].shape, live[0].dtype.name))
        if self.mode == "twice":
            self._write(inputs, (live[0].shape, live[0].dtype.name))
        if self.mode == "transfers":
            self._write({"input0": inputs["input1"]}, inputs["input1"])

    def evaluate(self, value, bound):
        """Compute, and remember the inputs of the graph in the order in which they are met."""
        if not bound and isinstance(value, Node) and value.array is None:
            self._leaves = {}
            self._collect(value)
        return super().evaluate(value, bound)

    def _collect(self, value):
        if value.array is not None:
            self._leaves.setdefault(value)
        for operand in value.operands:
            self._collect(operand)

    def _write(self, inputs, output):
        if self.mode == "foreign":
            inputs = {"input0": ((7,), "float32")}
        number = 7_180_866_674_807_936_198 + self.compiled
        module, second = f"MODULE_{number}+d41d8cd9", 2 * self.compiled
        self.compiled += 1
        neff = neff_of(inputs, output, module)
        cache = Path(os.environ["NEURON_COMPILE_CACHE_URL"]) / f"neuronxcc-{VERSION}" / module
        cache.mkdir(parents=True)
        (cache / "model.neff").write_bytes(neff)
        (cache / "model.done").touch()
        if self.mode != "quiet":
            command = [
                "neuronx-cc",
                "compile",
                "--framework=XLA",
                f"/tmp/model.{module}.hlo_module.pb",
                "--target=trn2",
            ]
            print(
                f"2026-03-01 10:00:{second:02}.000250:  4818  INFO ||NEURON_CC_WRAPPER||: Call compiler with cmd: {command}"
            )
            print(".\nCompiler status PASS")
            done = f"INFO ||NEURON_CC_WRAPPER||: Compilation Successfully Completed for model.{module}.hlo_module.pb"
            print(f"2026-03-01 10:00:{second + 1:02}.000750:  4818  {done}")
        if os.environ.get("NEURON_FRAMEWORK_DEBUG") != "1" or self.mode == "unsaved":
            return
        stem = f"MODULE_{self.compiled - 1}_SyncTensorsGraph.209_{number}"
        Path(f"{stem}.neff").write_bytes(neff)
        Path(f"{stem}.hlo.pb").write_bytes(b"hlo")
        Path(f"{stem}.pbtxt").write_text(json.dumps(dict(os.environ)), encoding="utf-8")
        Path(f"{stem}_compile_flags.txt").write_text(os.environ.get("NEURON_CC_FLAGS", ""), encoding="utf-8")


SDK = BuildSdk()
assert ml_dtypes.bfloat16 is not None  # NumPy knows `bfloat16` by name only once it is imported
