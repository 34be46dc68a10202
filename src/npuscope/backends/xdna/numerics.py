"""What a matmul kernel on AIE cores computes, in NumPy: the arithmetic of the core, not of the host.

For each k tile the kernel loads C, multiplies and adds in its float32 (or int32) accumulators, and stores C in the result's type
(Xilinx/mlir-aie, aie_kernels/aie2/mm.cc and aie2p/mm.cc): bfloat16 results are rounded once for every k tile. How M and N are tiled
makes no difference, so that whole matrices are multiplied here.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.backends.xdna.rounding import from_bfloat16, to_bfloat16, to_bfp16
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.workloads.dtypes import numpy_dtype

Array = npt.NDArray[Any]
_EXACT_FLOAT32: Final = 1 << 24


def multiply(a: Array, b: Array, design: XdnaDesign) -> Array:
    """C of one dispatch.

    Args:
        a: [batch, M, K] in the design's operand type.
        b: [batch, K, N], likewise, row-major.
        design: Tile edge along K, types, rounding.

    Returns:
        [batch, M, N] in the design's result type.
    """
    if design.dtype == "bfloat16":
        return _multiply_floats(a, b, design)
    return _multiply_integers(a, b, design)


def _multiply_floats(a: Array, b: Array, design: XdnaDesign) -> Array:
    wide_a, wide_b = from_bfloat16(a), from_bfloat16(b)
    if design.multiplication == "bfp16":
        wide_a, wide_b = to_bfp16(wide_a, -1, design.rounding), to_bfp16(wide_b, -2, design.rounding)
    depth, step = a.shape[-1], design.tile_k
    if design.out_dtype == "float32":
        total: Array = np.matmul(wide_a[..., :step], wide_b[..., :step, :])
        for start in range(step, depth, step):
            total += np.matmul(wide_a[..., start : start + step], wide_b[..., start : start + step, :])
        return total
    stored = to_bfloat16(np.matmul(wide_a[..., :step], wide_b[..., :step, :]), design.rounding)
    for start in range(step, depth, step):
        total = np.matmul(wide_a[..., start : start + step], wide_b[..., start : start + step, :])
        total += from_bfloat16(stored)
        to_bfloat16(total, design.rounding, out=stored)
    return stored


def _multiply_integers(a: Array, b: Array, design: XdnaDesign) -> Array:
    """Exact sums, in a float type that holds them, which BLAS multiplies fast; stored in the result's type.

    A core stores what does not fit by its low bits: the kernels set no saturation (aie_api: saturation_mode none is the default). Low
    bits of sums are sums of low bits, so that storing after every k tile changes nothing.
    """
    depth = a.shape[-1]
    largest = (
        float(np.abs(a.astype(np.int32)).max(initial=0)) * float(np.abs(b.astype(np.int32)).max(initial=0)) * depth
    )
    wide = np.float32 if largest < _EXACT_FLOAT32 else np.float64  # 2^31 K stays below 2^53 for any K that a matrix has
    exact: Array = np.matmul(a.astype(wide), b.astype(wide)).astype(np.int64)
    return np.asarray(exact.astype(numpy_dtype(design.out_dtype)))
