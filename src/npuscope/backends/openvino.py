"""`openvino:cpu` and `openvino:npu`: Intel's runtime. The CPU path is tested here; the NPU path has not met the hardware."""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.backends.base import (
    BackendOptions,
    CacheStatus,
    CompileReport,
    DeviceInfo,
    already_finished,
    require_dtype,
)
from npuscope.errors import MeasurementError, UnavailableError, shorten
from npuscope.workloads.dtypes import numpy_dtype
from npuscope.workloads.matmul import MatmulConfig

DTYPES = ("float32", "float16", "bfloat16")
OV_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_FROM_OV = {short: full for full, short in OV_TYPES.items()}
_MATMUL_LAYERS = ("MatMul", "FullyConnected")


class OpenvinoMatmul:
    """A compiled model of one MatMul with one infer request."""

    synchronise = staticmethod(already_finished)

    def __init__(self, compiled: Any, config: MatmulConfig, report: CompileReport) -> None:
        self._request = compiled.create_infer_request()
        self._dtype = numpy_dtype(config.dtype)
        self._ov_type = compiled.input(0).element_type
        self.report = report

    def place(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Any:
        """Bind both operands to the request; they stay bound, so that a run copies nothing in Python."""
        import openvino as ov

        tensors = []
        for index, array in enumerate((a, b)):
            tensor = ov.Tensor(self._ov_type, ov.Shape(array.shape))
            bytes_of(tensor.data)[:] = bytes_of(array)
            self._request.set_input_tensor(index, tensor)
            tensors.append(tensor)
        return tensors

    def run(self, inputs: Any) -> Any:
        """One inference; `infer` returns when the device has finished."""
        self._request.infer()
        return self._request

    def fetch(self, output: Any) -> npt.NDArray[Any]:
        """A copy of the output tensor in the operands' type."""
        data = output.get_output_tensor(0).data
        copied: npt.NDArray[Any] = np.array(data, copy=True)
        result: npt.NDArray[Any] = copied.view(self._dtype)
        return result


class OpenvinoBackend:
    """One OpenVINO device; AUTO and HETERO are never used, since they may move work elsewhere."""

    def __init__(self, device: str, options: BackendOptions) -> None:
        self.name = device
        self._plugin = device.partition(":")[2].upper()
        ov = _import_openvino(device)
        self._core = ov.Core()
        if options.compile_cache is not None:
            self._core.set_property({"CACHE_DIR": str(options.compile_cache.resolve())})
        available = self._core.available_devices
        if not any(name.split(".")[0] == self._plugin for name in available):
            remedy = (
                "install Intel's NPU driver (intel_vpu kernel module and user-space driver) on a machine with an Intel NPU"
                if self._plugin == "NPU"
                else f"OpenVINO has here: {', '.join(name.lower() for name in available) or 'nothing'}"
            )
            raise UnavailableError(device, missing=f"OpenVINO finds no {self._plugin} device", remedy=remedy)

    def describe(self) -> DeviceInfo:
        """The device as its plugin names it."""
        import openvino as ov

        description = str(self._core.get_property(self._plugin, "FULL_DEVICE_NAME"))
        notes = ("the NPU plugin multiplies in float16 whatever the operands' type",) if self._plugin == "NPU" else ()
        return DeviceInfo(
            self.name,
            description,
            is_simulated=False,
            dtypes=DTYPES,
            versions={"openvino": ov.__version__},
            notes=notes,
        )

    def compile(self, config: MatmulConfig) -> OpenvinoMatmul:
        """Build a model of one static-shape MatMul and compile it with its own precision as the hint."""
        import openvino as ov
        from openvino import opset13 as ops

        require_dtype(self.name, config.dtype, DTYPES)
        ov_type = getattr(ov.Type, OV_TYPES[config.dtype])
        a = ops.parameter([config.M, config.K], ov_type)
        b = ops.parameter([config.K, config.N], ov_type)
        product = ops.matmul(a, b, False, False)  # noqa: FBT003  # OpenVINO's signature
        result = ops.result(product)
        for node, name in ((a, "a"), (b, "b"), (product, "product"), (result, "result")):
            node.set_friendly_name(name)  # generated names enter the cache key, and would never hit
        model = ov.Model([result], [a, b], "matmul")
        compiled, report = self.compile_model(model, config.dtype, config.shape_text)
        return OpenvinoMatmul(compiled, config, report)

    def compile_model(self, model: Any, dtype: str, described: str) -> tuple[Any, CompileReport]:
        """Compile a model for this device alone, with its own precision as the hint.

        Args:
            model: `openvino.Model`.
            dtype: Of its inputs and results.
            described: What to call it in an error.

        Returns:
            `openvino.CompiledModel`, and how it went.

        Raises:
            MeasurementError: OpenVINO refuses it, or compiled it for another device.
        """
        hints = {"PERFORMANCE_HINT": "LATENCY"}
        if self._plugin == "CPU":
            hints["INFERENCE_PRECISION_HINT"] = OV_TYPES[dtype]
        start_ns = time.perf_counter_ns()
        try:
            compiled = self._core.compile_model(model, self._plugin, hints)
        except RuntimeError as error:
            raise MeasurementError(
                f"{self.name} cannot compile {described} {dtype}: {shorten(str(error), 160)}"
            ) from error
        duration_ns = time.perf_counter_ns() - start_ns
        ran_on = [str(name).split(".")[0] for name in compiled.get_property("EXECUTION_DEVICES")]
        if ran_on != [self._plugin]:
            raise MeasurementError(f"{self.name}: OpenVINO compiled {described} for {', '.join(ran_on)} instead")
        return compiled, CompileReport(
            duration_ns, self._cache_status(compiled), _compute_dtype(compiled, dtype), dtype
        )

    def compile_count(self) -> int | None:
        """OpenVINO does not count; a compiled model never recompiles itself."""
        return None

    def _cache_status(self, compiled: Any) -> CacheStatus:
        if not self._core.get_property("CACHE_DIR"):
            return CacheStatus.DISABLED
        return CacheStatus.HIT if compiled.get_property("LOADED_FROM_CACHE") else CacheStatus.MISS


def _import_openvino(device: str) -> Any:
    """Import OpenVINO without its telemetry.

    The import reports usage over the network from a forked process; a process that measures should do neither. OpenVINO
    goes on without when the telemetry package cannot be imported.

    Raises:
        UnavailableError: OpenVINO is not installed.
    """
    silenced = "openvino_telemetry" not in sys.modules
    if silenced:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # how Python blocks an import
    try:
        return importlib.import_module("openvino")
    except (ImportError, OSError) as error:
        missing = f"OpenVINO cannot be imported ({shorten(str(error))})"
        raise UnavailableError(device, missing=missing, remedy="pip install 'npuscope[openvino]'") from None
    finally:
        if silenced:
            del sys.modules["openvino_telemetry"]


def _compute_dtype(compiled: Any, dtype: str) -> str:
    """The precision that the executed graph names for its MatMul; the NPU plugin documents float16."""
    if compiled.get_property("EXECUTION_DEVICES")[0].startswith("NPU"):
        return "float16"
    for op in compiled.get_runtime_model().get_ops():
        info = op.get_rt_info()
        if str(info["layerType"].astype(str)) in _MATMUL_LAYERS:
            return _FROM_OV.get(str(info["runtimePrecision"].astype(str)), dtype)
    return dtype


def bytes_of(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The memory of a contiguous array, whatever its type: OpenVINO and ml_dtypes name bfloat16 differently."""
    return array.reshape(-1).view(np.uint8)
