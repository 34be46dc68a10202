"""`cpu`: NumPy on the host, with ml_dtypes for bfloat16. The device where no NPU is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import threadpoolctl

from npuscope.backends.base import (
    BackendOptions,
    CacheStatus,
    CompileReport,
    DeviceInfo,
    already_finished,
    require_dtype,
)
from npuscope.hardware.host import detect_host_cpu
from npuscope.workloads.matmul import MatmulConfig

DTYPES = ("float32", "float16", "bfloat16", "int8")

# What np.matmul does with each type: (computes in, returns). bfloat16 is widened to float32 and goes to BLAS;
# float16 and int8 take NumPy's own loops, which accumulate in float32 and int32.
_NUMERICS = {
    "float32": ("float32", "float32"),
    "float16": ("float16", "float16"),
    "bfloat16": ("float32", "float32"),
    "int8": ("int8", "int32"),
}


class NumpyMatmul:
    """`np.matmul` into a preallocated result."""

    synchronise = staticmethod(already_finished)

    def __init__(self, config: MatmulConfig) -> None:
        compute_dtype, out_dtype = _NUMERICS[config.dtype]
        self._out_dtype = np.dtype(out_dtype)
        self.run: Callable[[Any], Any] = _multiply_integers if config.dtype == "int8" else _multiply
        self.report = CompileReport(0, CacheStatus.NOT_COMPILED, compute_dtype, out_dtype)

    def place(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Any:
        """The arrays themselves, and a result to write into."""
        return a, b, np.empty((a.shape[0], b.shape[1]), self._out_dtype)

    def fetch(self, output: Any) -> npt.NDArray[Any]:
        """A copy, since the next run writes into the same array."""
        return np.array(output, copy=True)


def _multiply(inputs: Any) -> Any:
    a, b, out = inputs
    return np.matmul(a, b, out)


def _multiply_integers(inputs: Any) -> Any:
    a, b, out = inputs
    return np.matmul(a, b, out, dtype=np.int32)


class NumpyBackend:
    """The host processor through NumPy."""

    name = "cpu"

    def __init__(self, device: str, options: BackendOptions) -> None:
        if device != "cpu":
            from npuscope.errors import unknown_name

            raise unknown_name("device", device, ["cpu"])

    def describe(self) -> DeviceInfo:
        """The processor, and the BLAS that NumPy calls with its thread count."""
        host = detect_host_cpu()
        versions = {"numpy": np.__version__}
        for pool in threadpoolctl.threadpool_info():
            if pool["user_api"] == "blas":
                versions["blas"] = f"{pool['internal_api']} {pool['version']}, {pool['num_threads']} threads"
        return DeviceInfo("cpu", host.model, is_simulated=False, dtypes=DTYPES, versions=versions)

    def compile(self, config: MatmulConfig) -> NumpyMatmul:
        """Nothing is compiled; the type is checked."""
        require_dtype(self.name, config.dtype, DTYPES)
        return NumpyMatmul(config)

    def compile_count(self) -> int | None:
        """Always 0: NumPy compiles nothing."""
        return 0
