"""`torch:cpu` and `torch:cuda`: eager PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.backends.base import BackendOptions, CacheStatus, CompileReport, DeviceInfo, require_dtype
from npuscope.errors import UnavailableError, shorten
from npuscope.hardware.host import detect_host_cpu
from npuscope.workloads.dtypes import numpy_dtype
from npuscope.workloads.matmul import MatmulConfig

DTYPES = ("float32", "float16", "bfloat16")


class TorchMatmul:
    """`torch.mm` into a preallocated result."""

    def __init__(self, device: Any, config: MatmulConfig) -> None:
        self._device = device
        self._dtype = numpy_dtype(config.dtype)
        self.report = CompileReport(0, CacheStatus.NOT_COMPILED, config.dtype, config.dtype)

    def place(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Any:
        """Copy both operands to the device and allocate the result there."""
        import torch

        placed = [tensor_from_numpy(torch, array).to(self._device) for array in (a, b)]
        out = torch.empty((a.shape[0], b.shape[1]), dtype=placed[0].dtype, device=self._device)
        self._wait()
        return placed[0], placed[1], out

    def run(self, inputs: Any) -> Any:
        """Multiply; on a GPU this returns once the kernel is queued."""
        import torch

        a, b, out = inputs
        return torch.mm(a, b, out=out)

    def synchronise(self, output: Any) -> None:
        """Wait for the GPU; the CPU has finished already."""
        self._wait()

    def fetch(self, output: Any) -> npt.NDArray[Any]:
        """Copy to the host in the operands' type."""
        return numpy_from_tensor(output, self._dtype)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)


class TorchBackend:
    """One torch device."""

    def __init__(self, device: str, options: BackendOptions) -> None:
        self.name = device
        kind = device.partition(":")[2]
        try:
            import torch
        except (ImportError, OSError) as error:
            missing = f"PyTorch cannot be imported ({shorten(str(error))})"
            raise UnavailableError(device, missing=missing, remedy="pip install 'npuscope[torch]'") from None
        if kind == "cuda" and not torch.cuda.is_available():
            remedy = "install a CUDA build of PyTorch and NVIDIA's driver on a machine with such a GPU"
            raise UnavailableError(device, missing="torch.cuda.is_available() is False", remedy=remedy)
        self._device = torch.device(kind)

    def describe(self) -> DeviceInfo:
        """The processor or GPU as PyTorch names it."""
        import torch

        versions = {"torch": str(torch.__version__)}
        description = detect_host_cpu().model
        if self._device.type == "cuda":
            description = str(torch.cuda.get_device_name(self._device))
            versions["cuda"] = str(torch.version.cuda)
        else:
            versions["threads"] = str(torch.get_num_threads())
        return DeviceInfo(self.name, description, is_simulated=False, dtypes=DTYPES, versions=versions)

    def compile(self, config: MatmulConfig) -> TorchMatmul:
        """Nothing is compiled; TF32 is off, so that float32 is float32."""
        import torch

        require_dtype(self.name, config.dtype, DTYPES)
        torch.set_float32_matmul_precision("highest")
        return TorchMatmul(self._device, config)

    def compile_count(self) -> int | None:
        """Always 0: eager PyTorch compiles nothing."""
        return 0


def tensor_from_numpy(torch: Any, array: npt.NDArray[Any]) -> Any:
    """A tensor with the array's values; bfloat16 travels as its bits, which torch.from_numpy cannot take as they are."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def numpy_from_tensor(tensor: Any, dtype: Any) -> npt.NDArray[Any]:
    """A copy of a tensor as NumPy, bfloat16 as its bits."""
    import torch

    host = tensor.detach().to("cpu")
    bits = host.view(torch.int16).numpy() if host.dtype == torch.bfloat16 else host.numpy()
    return np.array(bits, copy=True).view(dtype)
