"""float32 to bfloat16 and to bfp16 blocks and back, as an AIE core rounds: to nearest even, toward minus infinity, toward zero.

A core's stores round by a mode register that every program sets for itself; after power-up it is floor (Xilinx/mlir-aie issues 2983
and 3481). Conversions work on the bits, block by block so that a block stays in cache.
"""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

from npuscope.errors import unknown_name
from npuscope.tiling.xdna_design import ROUNDINGS

Floats = npt.NDArray[np.float32]
_BLOCK: Final = 1 << 15
BFP16_BLOCK: Final = 8
"""Values that share an exponent in bfp16ebs8."""
_BFP16_MANTISSA_BITS: Final = 7  # and a sign: eight-bit two's complement


def to_bfloat16(values: Floats, mode: str, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
    """Round float32 to bfloat16.

    Args:
        values: float32, any shape.
        mode: `even`, `floor` or `truncate`.
        out: Where to put the result: bfloat16, C-contiguous, of the same shape; a new array when None.

    Raises:
        UsageError: No such mode.
    """
    if mode not in ROUNDINGS:
        raise unknown_name("rounding", mode, ROUNDINGS)
    source = np.ascontiguousarray(values, np.float32)
    result = np.empty(source.shape, ml_dtypes.bfloat16) if out is None else out
    if mode == "even":
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # what is beyond the largest becomes infinite, as on the core
            np.copyto(result, source, casting="unsafe")
        return result
    bits, halves = source.reshape(-1).view(np.uint32), result.reshape(-1).view(np.uint16)
    held = np.empty(min(_BLOCK, bits.size), np.uint32)
    for start in range(0, bits.size, _BLOCK):
        part, place = bits[start : start + _BLOCK], halves[start : start + _BLOCK]
        rounded = held[: part.size]
        if mode == "floor":  # away from zero where negative
            np.right_shift(part, 31, out=rounded)
            rounded *= 0xFFFF
            rounded += part
            rounded >>= 16
        else:
            np.right_shift(part, 16, out=rounded)
        np.copyto(place, rounded, casting="unsafe")
        _keep_nans(part, place)
    return result


def _keep_nans(bits: npt.NDArray[np.uint32], halves: npt.NDArray[np.uint16]) -> None:
    """A NaN whose mark lies in the lower half would become infinite, or zero: it stays a (quiet) NaN."""
    nan = np.isnan(bits.view(np.float32))
    if nan.any():
        halves[nan] = ((bits[nan] >> 16) | 0x40).astype(np.uint16)


def from_bfloat16(values: npt.NDArray[Any]) -> Floats:
    """bfloat16 as float32: exact."""
    wide = np.asarray(values).view(np.uint16).astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def to_bfp16(values: npt.NDArray[Any], axis: int, mode: str = "even") -> Floats:
    """Quantise to bfp16ebs8 blocks along an axis, as float32 values.

    Eight values share the exponent of the largest; each keeps eight bits in two's complement, so that one step is 2^-6 of the
    largest value's power of two. The last block is filled with zeros where the axis is no multiple of 8.

    Args:
        values: Numbers that float32 holds.
        axis: Along which values share an exponent.
        mode: How a value becomes a multiple of the step.
    """
    if mode not in ROUNDINGS:
        raise unknown_name("rounding", mode, ROUNDINGS)
    moved = np.moveaxis(np.asarray(values, np.float32), axis, -1)
    length = moved.shape[-1]
    blocks = -(-length // BFP16_BLOCK)
    padded = np.zeros((*moved.shape[:-1], blocks * BFP16_BLOCK), np.float32)
    padded[..., :length] = moved
    grouped = padded.reshape(*moved.shape[:-1], blocks, BFP16_BLOCK)
    largest = np.abs(grouped).max(axis=-1, keepdims=True)
    _, exponent = np.frexp(largest)  # largest = f 2^e with 0.5 <= f < 1
    step = np.ldexp(np.float32(1), exponent - _BFP16_MANTISSA_BITS)
    scaled = grouped / step
    rounded = {"even": np.rint, "floor": np.floor, "truncate": np.trunc}[mode](scaled)
    limit = 1 << _BFP16_MANTISSA_BITS
    np.clip(rounded, -limit, limit - 1, out=rounded)
    result = (rounded * step).reshape(padded.shape)[..., :length]
    return np.ascontiguousarray(np.moveaxis(result, -1, axis), np.float32)
