"""What a matmul kernel on AIE cores computes, in NumPy: the arithmetic of the core, not of the host.

For each k tile the kernel loads C, multiplies and adds in its accumulators, and stores C in the result's type (Xilinx/mlir-aie,
aie_kernels/aie2/mm.cc @f121d60 and linalg/mm_aie2p.h @0f7f898): bfloat16 results are rounded once for every k tile, float32
results never. Accumulators are float32, or integers of 32 bits for int8 and 64 for int16 (python/iron/kernels/linalg.py
@02ee6dc). In which order a core adds within a tile is its own; here it is BLAS's. How M and N are tiled makes no difference.

Integers that do not fit the result's type are stored by their low bits: the kernels set no saturation, and aie_api's mode `none`
(0) lets values overflow. That 0 is the mode after power-up is inferred, as it is for rounding; no document says so. Low bits of sums
are sums of low bits, so that storing after every k tile changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

from npuscope.backends.xdna.rounding import from_bfloat16, round_in_place, to_bfloat16, to_bfp16
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.workloads.dtypes import numpy_dtype

Array = npt.NDArray[Any]
_TOGETHER: Final = 1 << 21  # elements of C that BLAS is given at once: few calls, since each waits for all its threads
_CACHED: Final = 1 << 15  # elements of C that are added and rounded at once: they stay in cache
_EXACT_FLOAT32: Final = 1 << 24
_INT32: Final = 1 << 31


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
    with np.errstate(all="ignore"):  # what overflows becomes infinite, as on the core
        if design.out_dtype == "float32":
            return np.asarray(np.matmul(wide_a, wide_b))
        result = np.empty((*a.shape[:2], b.shape[-1]), ml_dtypes.bfloat16)
        for items, rows in _blocks(result.shape):
            _write_back(wide_a[items, rows], wide_b[items], design, result[items, rows])
    return result


def _write_back(a: Array, b: Array, design: XdnaDesign, out: Array) -> None:
    """Products whose C is rounded to bfloat16 after every k tile, and stays float32 until the last."""
    stored = np.empty(out.shape, np.float32)
    step = design.tile_k
    np.matmul(a[..., :step], b[..., :step, :], out=stored)
    if step < a.shape[-1]:
        added, held = np.empty_like(stored), np.empty(min(_CACHED, stored.size), np.uint32)
        for start in range(step, a.shape[-1], step):
            np.matmul(a[..., start : start + step], b[..., start : start + step, :], out=added)
            for first in range(0, stored.size, _CACHED):
                part = stored.reshape(-1)[first : first + _CACHED]
                round_in_place(part, design.rounding, held[: part.size])
                part += added.reshape(-1)[first : first + _CACHED]
    to_bfloat16(stored, design.rounding, out=out)


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Items and rows of C that are computed together."""
    batch, rows, columns = shape
    together = max(1, _TOGETHER // (rows * columns))
    height = rows if together > 1 else max(1, _TOGETHER // columns)
    for item in range(0, batch, together):
        for row in range(0, rows, height):
            yield slice(item, item + together), slice(row, row + height)


def _multiply_integers(a: Array, b: Array, design: XdnaDesign) -> Array:
    """Exact sums, in a float type that holds them, which BLAS multiplies fast; stored in the result's type."""
    largest = _largest(a) * _largest(b) * a.shape[-1]
    # Sums of 2^30 K stay below 2^53 for any K that fits a memory.
    wide = np.float32 if largest <= _EXACT_FLOAT32 else np.float64
    sums = np.matmul(a.astype(wide), b.astype(wide))
    exact = sums.astype(np.int32 if largest < _INT32 else np.int64)
    return np.asarray(exact.astype(numpy_dtype(design.out_dtype), copy=False))


def _largest(values: Array) -> int:
    """Largest magnitude."""
    return max(int(values.max(initial=0)), -int(values.min(initial=0)))
