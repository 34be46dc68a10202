"""The gated MLP in NumPy. bfloat16, which BLAS does not have, is computed in float32; weights are widened before the clock starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.backends.kernels import HostFunction, KernelRequest
from npuscope.workloads.dtypes import numpy_dtype


def mlp(request: KernelRequest) -> HostFunction:
    """The implementation for one set of sizes."""
    out_dtype = numpy_dtype(request.config.dtype)

    def compute(hidden: Any, gate: Any, up: Any, down: Any) -> Any:
        wide = hidden.astype(np.float32, copy=False)
        gated = wide @ gate
        with np.errstate(over="ignore"):  # exp of a very negative gate is infinite, and silu of it 0
            active = gated / (1 + np.exp(-gated)) * (wide @ up)
        return (active @ down).astype(out_dtype, copy=False)

    def widened(inputs: Sequence[npt.NDArray[Any]]) -> Sequence[npt.NDArray[Any]]:
        hidden, *weights = inputs
        return hidden, *(array.astype(np.float32) for array in weights)

    return HostFunction(compute, request, prepare=widened, compute_dtype="float32")
