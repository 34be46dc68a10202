"""Builds a kernel's NEFF, or what the compiler makes one of: the child process of `neuron_build`. It has not met the hardware.

KLIR, two ways, the first that is installed:

- of the public comparison of 2026-01-26 (SDK 2.27): `TraceKernel.trace(func, platform_target)`, called on its cores with the
  inputs, and `IRWriter.run(cu, output, save_weights, weights_dir)` of what `IRBuilder` collected. That text is the only source;
  none of it is documented by AWS.
- its successor in aws-neuron/nki-library, test/utils/kernel_tracer.py of 2026-04-13 (days after SDK 2.29): `ParserFrontend().compile(...)`
  and `CompiledKernel.from_frontend(result, CompileOptions(...))`, which runs the compiler itself. The tests there also turn off
  optimisations of its back end; we do not.

`framework-debug` is a lazy graph of torch_xla: the first call compiles, and the plugin saves what it compiled to the current
folder, which is the build's own.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.backends.neuron import Sdk
from npuscope.backends.neuron_capture import list_files
from npuscope.backends.neuron_kernels import (
    FRAMEWORK_DEBUG,
    NeuronKernel,
    framework_call,
    keywords_of,
    load_kernel,
    shaped_result,
    told,
)
from npuscope.backends.neuron_programs import compiler_words
from npuscope.backends.neuron_torch_run import CALLS_DONE, FIRST_CALL, OUTPUT_NAME, TIMED_CALLS
from npuscope.backends.torch import numpy_from_tensor, tensor_from_numpy
from npuscope.errors import MeasurementError, NpuscopeError, UnavailableError, shorten
from npuscope.workloads.dtypes import numpy_dtype

Inputs = dict[str, npt.NDArray[Any]]
_TRACE_KERNEL: Final = "nki.compiler.backends.neuron.TraceKernel"
_IR_BUILDER: Final = "neuronxcc.starfish.penguin.ir.IRBuilder"
_IR_WRITER: Final = "neuronxcc.starfish.penguin.ir.IRWriter"
_FRONTEND: Final = "nki.compiler.frontend"
_DRIVER: Final = "nki.compiler.ncc_driver"
_NKI_REMEDY: Final = "pip install nki neuronx-cc --extra-index-url https://pip.repos.neuron.amazonaws.com"


def main(arguments: list[str]) -> int:
    """Read the request, build in the current folder, write the answer; 1 where it could not be done, with the reason."""
    request = json.loads(Path(arguments[0]).read_text("utf-8"))
    answer = Path(arguments[1])
    _log_to(Path(request["log"]))
    status = 1
    try:
        inputs = _read_inputs(request["inputs"], answer.parent)
        kernel = NeuronKernel(**{**request["kernel"], "methods": tuple(request["kernel"]["methods"])})
        build = _framework_debug if request["method"] == FRAMEWORK_DEBUG else _klir
        document, status = build(kernel, inputs, request), 0
    except UnavailableError as error:
        what = str(error).partition(" is not available: ")[0]
        document = {"what": what, "missing": error.missing, "remedy": error.remedy}
    except NpuscopeError as error:
        document = {"error": str(error)}
    except Exception as error:  # noqa: BLE001  # the kernel is a user's, the compilers are others': they raise anything
        traceback.print_exc()
        place = request["kernel"]["target"].rpartition(":")[0]
        document = {"error": compiler_words(error) if isinstance(error, RuntimeError) else told(error, place)}
    whole = answer.with_suffix(".part")
    whole.write_text(json.dumps(document), "utf-8")
    whole.replace(answer)
    return status


def _log_to(path: Path) -> None:
    """Send standard output and error, those of compilers among them, to a file: the whole of it is needed, not its end."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _say(line: str) -> None:
    sys.stdout.flush()
    os.write(2, f"{line}\n".encode())


def _read_inputs(listed: list[dict[str, Any]], folder: Path) -> Inputs:
    """The inputs, writeable: torch warns of arrays that are not."""
    return {
        item["name"]: np.frombuffer(
            bytearray((folder / f"{index}.bin").read_bytes()), numpy_dtype(item["dtype"])
        ).reshape(item["shape"])
        for index, item in enumerate(listed)
    }


def _klir(kernel: NeuronKernel, inputs: Inputs, request: Mapping[str, Any]) -> dict[str, Any]:
    """Trace; then either `penguin.py` is left for the compiler, or the SDK's own driver compiles."""
    modules = _klir_modules()
    function = load_kernel(kernel)
    keywords = keywords_of(kernel, function, inputs)
    named = dict(zip(keywords, inputs.values(), strict=True))
    answer: dict[str, Any] = {"keywords": keywords, "notes": [], "compile_ms": None}
    if _TRACE_KERNEL in modules:
        _say("npuscope: tracing to KLIR")
        _write_penguin(modules, function, named, request)
        return answer
    _say("npuscope: compiling through nki.compiler.ncc_driver")
    answer |= _compile_through_driver(modules, function, named, request)
    answer["notes"] = [
        "this nki has no TraceKernel: its own driver compiled, as nki-library's tests do since SDK 2.29; the compile time is the"
        " driver's, passes over MLIR included"
    ]
    return answer


def _klir_modules() -> dict[str, Any]:
    """What is needed of the SDK, before anything is done.

    Raises:
        UnavailableError: Neither way is installed.
    """
    refusals = []
    for names in ((_TRACE_KERNEL, _IR_BUILDER, _IR_WRITER), (_FRONTEND, _DRIVER)):
        try:
            return {name: importlib.import_module(name) for name in names}
        except (ImportError, OSError) as error:
            refusals.append(shorten(str(error), 100))
    missing = f"neither {_TRACE_KERNEL} ({refusals[0]}) nor {_DRIVER} ({refusals[1]}) can be imported"
    raise UnavailableError("--method klir", missing=missing, remedy=_NKI_REMEDY)


def _write_penguin(modules: Mapping[str, Any], function: Any, inputs: Inputs, request: Mapping[str, Any]) -> None:
    builder = modules[_IR_BUILDER].IRBuilder()
    for name, array in inputs.items():
        builder.tensor(shape=array.shape, dtype=array.dtype, name=name)
    traced = modules[_TRACE_KERNEL].TraceKernel.trace(func=function, platform_target=request["target"])
    traced[request["lnc"]](**inputs)
    with Path("penguin.py").open("w", encoding="utf-8") as output:
        modules[_IR_WRITER].IRWriter.run(cu=builder.cu, output=output, save_weights=True, weights_dir=str(Path.cwd()))
    if not Path("penguin.py").stat().st_size:
        raise MeasurementError("the trace left penguin.py empty")


def _compile_through_driver(
    modules: Mapping[str, Any], function: Any, inputs: Inputs, request: Mapping[str, Any]
) -> dict[str, Any]:
    driver = modules[_DRIVER]
    folder, target, lnc = Path.cwd(), request["target"], request["lnc"]
    result = (
        modules[_FRONTEND]
        .ParserFrontend()
        .compile(
            function,
            inputs=inputs,
            target=target,
            lnc=lnc,
            artifacts_dir=str(folder),
            dump_python_ast=False,
            output_names=None,
        )
    )
    options = driver.CompileOptions(
        target=target,
        lnc=lnc,
        output_path=str(folder / "file.neff"),
        artifacts_dir=str(folder / "artifacts"),
        neuronx_cc_args=(),
    )
    start_ns = time.perf_counter_ns()
    compiled = driver.CompiledKernel.from_frontend(result, options)
    duration_ns = time.perf_counter_ns() - start_ns
    if Path(compiled.neff_path) != folder / "file.neff":
        raise MeasurementError(f"the compiler wrote {compiled.neff_path}, not the file.neff that it was asked for")
    words = (f"{_DRIVER}.CompiledKernel.from_frontend", f"target={target}", f"lnc={lnc}", "output_path=file.neff")
    return {"compile_ms": duration_ns / 1e6, "command": words, "version": _version("neuronxcc")}


def _framework_debug(kernel: NeuronKernel, inputs: Inputs, request: Mapping[str, Any]) -> dict[str, Any]:
    """Compile by a first call, warm up, time calls, fetch the result."""
    sdk = Sdk("neuron:xla")
    function = load_kernel(kernel)
    placed = {name: tensor_from_numpy(sdk.torch, array).to(sdk.device) for name, array in inputs.items()}
    call = framework_call(kernel, function, sdk, placed, request["lnc"])
    for name, tensor in placed.items():
        _require_device(tensor, name)
    sdk.barrier()
    folder = Path.cwd()
    before = list_files(folder)
    _say(FIRST_CALL)
    first_call_ns, output = _timed(sdk, call)
    _require_device(output, "the result")
    saved = [str(path.relative_to(folder)) for path, state in list_files(folder).items() if before.get(path) != state]
    for _ in range(request["warmup"]):
        _timed(sdk, call)
    _say(TIMED_CALLS)
    counted = sdk.counted()
    samples_ns = []
    for _ in range(request["executions"]):
        duration_ns, output = _timed(sdk, call)
        samples_ns.append(duration_ns)
    counted = {name: count - counted[name] for name, count in sdk.counted().items()}
    _say(CALLS_DONE)
    output_dtype = _save_output(output, inputs)
    return {
        "output_dtype": output_dtype,
        "saved": sorted(saved),
        "first_call_ns": first_call_ns,
        "warmup": request["warmup"],
        "samples_ns": samples_ns,
        "counted": counted,
        "device": str(sdk.device),
        "version": _version("neuronxcc"),
        "versions": {name: _version(name) for name in ("torch", "torch_xla", "torch_neuronx", "neuronxcc")},
        "notes": ["each call's time includes that the host records its graph anew"],
    }


def _timed(sdk: Sdk, call: Callable[[], Any]) -> tuple[int, Any]:
    start_ns = time.perf_counter_ns()
    output = call()
    sdk.cut_graph()
    sdk.xla_model.wait_device_ops()
    return time.perf_counter_ns() - start_ns, output


def _require_device(tensor: Any, name: str) -> None:
    """A tensor on the host would be computed with there.

    Raises:
        MeasurementError: It is none of the device's.
    """
    kind = getattr(getattr(tensor, "device", None), "type", None)
    if kind != "xla":
        where = f"on {kind}" if kind else f"a {type(tensor).__name__}, no tensor"
        raise MeasurementError(f"{name} is {where}; it has to be on the NeuronCore")


def _save_output(output: Any, inputs: Inputs) -> str:
    """Write the result as float32, which holds bfloat16 exactly; the type that it had."""
    name = str(output.dtype).removeprefix("torch.")
    array = shaped_result(numpy_from_tensor(output, numpy_dtype(name)), inputs)
    np.save(OUTPUT_NAME, array.astype(np.float32), allow_pickle=False)
    return name


def _version(package: str) -> str:
    try:
        return str(getattr(importlib.import_module(package), "__version__", "unknown"))
    except (ImportError, OSError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
