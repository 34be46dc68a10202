"""How a kernel on Neuron is called: where it is imported from, with what, on how many cores. It has not met the hardware.

Three conventions:

- `named`: the inputs by keyword, the result returned: `kernel[lnc](hidden_tensor=..., ...)`. So is `nkilib.core.mlp.mlp.mlp`
  called: weights as [hidden, intermediate] and [intermediate, hidden], activation SiLU and no normalisation by default, a list
  of results (aws-neuron/nki-library, GETTING_STARTED.md and core/mlp/mlp.py of 2026-04-13; AWS Neuron documentation, MLP Kernel
  API Reference of 2026-08-21). Its users take the result both as a list and as a tensor, and its token generation mode drops
  the batch axis.
- `mlp-isa`: `nki_jit()(mlp_isa_kernel)[(nc(lnc),)](hidden, ln_w, gate, up, down, out, kernel_name="MLP", fused_rmsnorm=False)`
  with a result that the caller allocates and weights that are laid out as above (aws-neuron/neuronx-distributed-inference,
  models/llama/modeling_llama.py of SDK 2.22 to 2.28; 2.29 of 2026-04-09 calls nki-library in its place). It is a private
  module of the compiler. `torch_neuronx.nki_jit` ended with SDK 2.23; `torch_neuronx.xla_impl.ops.nki_jit` is what that code
  imports to 2.28.
- A user's own kernel is `named` where its parameters have the inputs' names, and else takes them in order.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.errors import MeasurementError, UnavailableError, UsageError, shorten
from npuscope.workloads.mlp import INPUT_NAMES

Arrays = Mapping[str, npt.NDArray[Any]]
KLIR: Final = "klir"
FRAMEWORK_DEBUG: Final = "framework-debug"
METHODS: Final = (KLIR, FRAMEWORK_DEBUG)
DTYPES: Final = ("bfloat16", "float32")
NAMED: Final = "named"
MLP_ISA: Final = "mlp-isa"
_PARTITIONS: Final = 128


@dataclass(frozen=True, slots=True)
class NeuronKernel:
    """A kernel and the way to call it; it is imported only in the child process that runs it."""

    name: str
    """What messages call it."""
    target: str
    """`package.module:FUNCTION`, or `FILE.py:FUNCTION` with the whole path."""
    convention: str = NAMED
    """`named` or `mlp-isa`."""
    methods: tuple[str, ...] = METHODS
    """The ways to a NEFF that it can go."""
    remedy: str = "install it beside the Neuron SDK"
    """How to get it where it cannot be imported."""

    @property
    def is_file(self) -> bool:
        """Whether it is a function of a user's file."""
        return self.target.rpartition(":")[0].endswith(".py")

    @property
    def is_vendors(self) -> bool:
        """Whether it is one of the two that are known by name."""
        return any(self.target == known.target for known in VENDOR_KERNELS)


VENDOR_KERNELS: Final = (
    NeuronKernel(
        name="nkilib",
        target="nkilib.core.mlp.mlp:mlp",
        remedy="neuronx-cc bundles it since SDK 2.27; or install aws-neuron/nki-library beside it",
    ),
    NeuronKernel(
        name="neuronxcc",
        target="neuronxcc.nki._private_kernels.mlp:mlp_isa_kernel",
        convention=MLP_ISA,
        methods=(FRAMEWORK_DEBUG,),  # compiled Cython: there is no Python source to trace
        remedy="it is private to neuronx-cc; AWS's own code imports it in SDK 2.22 to 2.28",
    ),
)


def neuron_kernel(target: str, name: str = "") -> NeuronKernel:
    """A kernel by name (`nkilib`, `neuronxcc`), import path (`package.module:FUNCTION`) or file (`PATH.py:FUNCTION`).

    Args:
        target: As given.
        name: What messages are to call it.

    Raises:
        UsageError: It is none of these, or there is no such file.
    """
    for kernel in VENDOR_KERNELS:
        if target in (kernel.name, kernel.target):
            return kernel
    place, separator, function = target.rpartition(":")
    if not separator or not function.isidentifier():
        raise UsageError(f"kernel {shorten(target)!r} names no function; expected PATH.py:FUNC or package.module:FUNC")
    if place.endswith(".py"):
        path = Path(place).absolute()  # the child has another current folder
        if not path.is_file():
            raise UsageError(f"kernel {shorten(target)!r}: there is no file {shorten(place)!r}")
        return NeuronKernel(name or f"{path.stem}:{function}", f"{path}:{function}", remedy="see its imports")
    if not all(part.isidentifier() for part in place.split(".")):
        raise UsageError(f"kernel {shorten(target)!r} is neither PATH.py:FUNC nor package.module:FUNC")
    return NeuronKernel(name or target, target)


def check_kernel(kernel: NeuronKernel, inputs: Arrays, method: str) -> None:
    """Whether a kernel can go one way to a NEFF with these inputs, as far as that is known beforehand.

    Raises:
        UsageError: The method cannot be used for it, or an input has a type, number or size that it does not take.
    """
    if method not in kernel.methods:
        raise UsageError(
            f"kernel {kernel.name} has no Python source that could be traced; use --method {kernel.methods[0]} for it"
        )
    for name, array in inputs.items():
        if array.dtype.name not in DTYPES:
            raise UsageError(f"{name} of kernel {kernel.name} is {array.dtype}; expected {' or '.join(DTYPES)}")
        if not array.size:
            raise UsageError(f"{name} of kernel {kernel.name} has no elements")
    if len({array.dtype.name for array in inputs.values()}) > 1:
        raise UsageError(f"inputs of kernel {kernel.name} differ in type; give all of them in one")
    if not kernel.is_vendors:
        return
    if tuple(inputs) != INPUT_NAMES:
        raise UsageError(f"kernel {kernel.name} takes {', '.join(INPUT_NAMES)}, in this order")
    hidden, gate, up, down = inputs.values()
    inward = (hidden.shape[-1], gate.shape[-1])
    if hidden.ndim != 3 or (gate.shape, up.shape, down.shape) != (inward, inward, inward[::-1]):
        raise UsageError(
            f"kernel {kernel.name} takes [batch, sequence, hidden], [hidden, intermediate] twice and [intermediate, hidden],"
            f" not {', '.join(str(array.shape) for array in inputs.values())}"
        )
    if hidden.shape[-1] % _PARTITIONS:  # nki-library asserts it, NxD Inference does for the other
        raise UsageError(
            f"hidden = {hidden.shape[-1]} is no multiple of {_PARTITIONS}, which kernel {kernel.name} needs"
        )


def extra_input_sizes(kernel: NeuronKernel, inputs: Arrays) -> tuple[int, ...]:
    """Bytes of what a compiled graph may take beside the inputs: tensors that the caller of the kernel allocates."""
    if kernel.convention != MLP_ISA:
        return ()
    hidden = inputs[INPUT_NAMES[0]]
    return hidden.shape[-1] * hidden.dtype.itemsize, hidden.nbytes


def load_kernel(kernel: NeuronKernel) -> Any:
    """Import the kernel; for the child process only, as a user's file is run by it.

    Raises:
        UnavailableError: It, or what it imports, is not installed.
        MeasurementError: Its module fails, or has no such function.
    """
    place, _, function = kernel.target.rpartition(":")
    try:
        module = _load_file(Path(place)) if kernel.is_file else importlib.import_module(place)
    except ImportError as error:
        missing = f"{place} cannot be imported ({shorten(str(error), 120)})"
        raise UnavailableError(f"kernel {kernel.name}", missing=missing, remedy=kernel.remedy) from None
    except Exception as error:
        raise MeasurementError(f"kernel {kernel.name}: {place} cannot be loaded: {told(error, place)}") from error
    found = getattr(module, function, None)
    if found is None and kernel.is_vendors:
        raise UnavailableError(f"kernel {kernel.name}", missing=f"{place} has no {function}", remedy=kernel.remedy)
    if not callable(found):
        raise MeasurementError(f"kernel {kernel.name}: {place} has no function {function}")
    return found


def _load_file(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"npuscope_kernel_{path.stem}", path)
    if specification is None or specification.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # a frontend may look for a function's source by its module
    sys.path.append(str(path.parent))  # what lies beside it can be imported, but never stands in for another package
    specification.loader.exec_module(module)
    return module


def keywords_of(kernel: NeuronKernel, function: Any, inputs: Arrays) -> tuple[str, ...]:
    """The keywords of a `named` kernel, one for each input, in order.

    Raises:
        MeasurementError: A user's kernel has other parameters, and too few.
    """
    names = tuple(inputs)
    parameters = None if kernel.is_vendors else _parameters(kernel, function)
    if parameters is None or set(names) <= set(parameters):
        return names
    if len(parameters) < len(names):
        raise MeasurementError(
            f"kernel {kernel.name} has parameters {', '.join(parameters) or 'none'}; it needs one for each of {', '.join(names)}"
        )
    return parameters[: len(names)]


def _parameters(kernel: NeuronKernel, function: Any) -> tuple[str, ...] | None:
    """Parameters that can be given by keyword; None where they cannot be told, or any keyword is taken."""
    place, _, name = kernel.target.rpartition(":")
    if kernel.is_file:  # of the source: what a decorator makes of a function need not tell
        found = [node for node in ast.parse(Path(place).read_bytes()).body if isinstance(node, ast.FunctionDef)]
        given = next((node.args for node in found if node.name == name), None)
        if given is not None:
            return None if given.kwarg else tuple(each.arg for each in (*given.args, *given.kwonlyargs))
    try:
        parameters = inspect.signature(inspect.unwrap(function)).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return None
    return tuple(each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY))


def framework_call(
    kernel: NeuronKernel, function: Any, sdk: Any, placed: Mapping[str, Any], lnc: int
) -> Callable[[], Any]:
    """One call of a kernel on tensors of the device, without arguments; it returns the result.

    Args:
        kernel: The kernel.
        function: What `load_kernel` returned.
        sdk: The modules of torch and torch_xla, as `backends.neuron.Sdk` has them.
        placed: The inputs on the device, by name.
        lnc: Cores to launch it on.

    Raises:
        UnavailableError: What it is called through is not installed.
    """
    if kernel.convention == MLP_ISA:
        return _mlp_isa_call(kernel, function, sdk.torch, tuple(placed.values()), lnc)
    if not hasattr(function, "__getitem__"):
        function = _imported("nki", "jit", kernel)(function)
    arguments = dict(zip(keywords_of(kernel, function, placed), placed.values(), strict=True))

    def call() -> Any:
        result = function[lnc](**arguments)
        return result[0] if isinstance(result, (list, tuple)) else result

    return call


def _mlp_isa_call(
    kernel: NeuronKernel, function: Any, torch: Any, placed: tuple[Any, ...], lnc: int
) -> Callable[[], Any]:
    nki_jit = _imported("torch_neuronx.xla_impl.ops", "nki_jit", kernel)
    cores = _imported("neuronxcc.nki.language", "nc", kernel)
    hidden, gate, up, down = placed

    def call() -> Any:
        # Within the graph, as AWS's caller has it. The weight of a norm that is not asked for; of ones, it would change nothing.
        weight = torch.ones((1, hidden.shape[-1]), dtype=hidden.dtype, device=hidden.device)
        out = torch.zeros(tuple(hidden.shape), dtype=hidden.dtype, device=hidden.device)
        launched = nki_jit()(function)[(cores(lnc),)]
        launched(hidden, weight, gate, up, down, out, kernel_name="MLP", fused_rmsnorm=False)
        return out

    return call


def _imported(module: str, attribute: str, kernel: NeuronKernel) -> Any:
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, OSError) as error:
        missing = f"{module}.{attribute} cannot be imported ({shorten(str(error), 120)})"
        raise UnavailableError(f"kernel {kernel.name}", missing=missing, remedy=kernel.remedy) from None


def shaped_result(array: npt.NDArray[Any], inputs: Arrays) -> npt.NDArray[Any]:
    """The result in the shape of the hidden states, where it has their size: nki-library's token generation drops the batch."""
    hidden = inputs.get(INPUT_NAMES[0])
    return array.reshape(hidden.shape) if hidden is not None and hidden.size == array.size else np.asarray(array)


def told(error: BaseException, file: str = "") -> str:
    """An exception in one line, with its place: the last one in `file`, else the last one."""
    stack = list(traceback.extract_tb(error.__traceback__))
    frames = [frame for frame in stack if file and frame.filename == file] or stack[-1:]
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    text = next((line for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {shorten(text, 200)}{place}"
