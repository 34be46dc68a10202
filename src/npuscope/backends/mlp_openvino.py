"""The gated MLP as one OpenVINO model. Weights are inputs, as everywhere here: constant ones would be repacked ahead of time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.backends.base import already_finished, require_dtype
from npuscope.backends.kernels import KernelRequest
from npuscope.backends.openvino import DTYPES, OV_TYPES, OpenvinoBackend, bytes_of
from npuscope.workloads.dtypes import numpy_dtype
from npuscope.workloads.mlp import INPUT_NAMES, OUTPUT_NAME


class OpenvinoKernel:
    """A compiled model with one infer request."""

    synchronise = staticmethod(already_finished)

    def __init__(self, backend: OpenvinoBackend, request: KernelRequest) -> None:
        require_dtype(backend.name, request.config.dtype, DTYPES)
        self._request = request
        self._model = _model(request)
        compiled, self.report = backend.compile_model(self._model, request.config.dtype, request.config.text)
        self._infer = compiled.create_infer_request()
        self._ov_type = compiled.input(0).element_type

    def place(self, inputs: Sequence[npt.NDArray[Any]]) -> Any:
        """Bind copies of all inputs to the request; they stay bound, so that a run copies nothing in Python."""
        import openvino as ov

        tensors = []
        for index, array in enumerate(self._request.arrange(inputs)):
            tensor = ov.Tensor(self._ov_type, ov.Shape(array.shape))
            bytes_of(tensor.data)[:] = bytes_of(np.ascontiguousarray(array))
            self._infer.set_input_tensor(index, tensor)
            tensors.append(tensor)
        return tensors

    def run(self, placed: Any) -> Any:
        """One inference; `infer` returns when the device has finished."""
        self._infer.infer()
        return self._infer

    def fetch(self, output: Any) -> npt.NDArray[Any]:
        """A copy of the output tensor."""
        copied: npt.NDArray[Any] = np.array(output.get_output_tensor(0).data, copy=True)
        return copied.view(numpy_dtype(self._request.config.dtype))

    def save(self, folder: Path) -> None:
        """`model.xml` and `model.bin`, before the plugin compiles anything."""
        import openvino as ov

        ov.save_model(self._model, folder / "model.xml", compress_to_fp16=False)


def model(request: KernelRequest) -> OpenvinoKernel:
    """The implementation for one set of sizes."""
    return OpenvinoKernel(OpenvinoBackend(request.device, request.options), request)


def _model(request: KernelRequest) -> Any:
    import openvino as ov
    from openvino import opset13 as ops

    ov_type = getattr(ov.Type, OV_TYPES[request.config.dtype])
    inputs = [
        ops.parameter(list(shape), ov_type, name=name) for shape, name in zip(request.shapes, INPUT_NAMES, strict=True)
    ]
    hidden, gate, up, down = inputs
    gated = ops.matmul(hidden, gate, False, False, name="gate")  # noqa: FBT003  # OpenVINO's signature
    raised = ops.matmul(hidden, up, False, False, name="up")  # noqa: FBT003
    curved = ops.multiply(gated, ops.sigmoid(gated), name="silu")  # the plugin fuses the two
    active = ops.multiply(curved, raised, name="active")
    result = ops.result(ops.matmul(active, down, False, False, name="down"), name=OUTPUT_NAME)  # noqa: FBT003
    return ov.Model([result], inputs, "mlp")
