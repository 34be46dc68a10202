"""float32 to bfloat16 and to bfp16 blocks and back, as an AIE core rounds: to nearest even, toward minus infinity, toward zero.

A core's stores round by a mode register that a program sets for itself and that nothing resets; after power-up it is floor
(Xilinx/mlir-aie, issues 2983 and 3481). Blocks of bfp16ebs8 are as mlir-aie encodes them on the host (python/utils/bfp.py
@2c2b7e4): one exponent, that of the largest value, and mantissas in eight-bit two's complement, of which 64 stands for that
exponent's power of two. There, mantissas are rounded down. How a core rounds up a mantissa beyond 127, and what it makes of
values that are not finite, is published nowhere: here the mantissa stays at 127, and such a block becomes NaN.

Conversions work on the bits, block by block so that a block stays in cache.
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
_UPPER: Final = np.uint32(0xFFFF_0000)
_EXPONENT: Final = np.uint32(0x7F80_0000)
_QUIET: Final = 0x40
BFP16_BLOCK: Final = 8
"""Values that share an exponent in bfp16ebs8."""
_BFP16_STEP: Final = np.float32(2.0**-6)  # of the block's power of two: a mantissa has a sign and seven bits
_BFP16_LARGEST: Final = np.float32(127)
_SMALLEST_NORMAL: Final = np.float32(2.0**-126)  # the power of two of exponent 0
_TO_INTEGER: Final = {"even": np.rint, "floor": np.floor, "truncate": np.trunc}


def to_bfloat16(values: Floats, mode: str, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
    """Round float32 to bfloat16.

    Args:
        values: float32, any shape.
        mode: `even`, `floor` or `truncate`.
        out: Where to put the result: bfloat16 of the same shape; a new array when None.

    Raises:
        UsageError: No such mode.
    """
    _require_mode(mode)
    result = np.empty(np.shape(values), ml_dtypes.bfloat16) if out is None else out
    if mode == "even":
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # what is beyond the largest becomes infinite, as on the core
            np.copyto(result, values, casting="unsafe")
        return result
    source = np.ascontiguousarray(values, np.float32)
    target = result if result.flags.c_contiguous else np.empty(result.shape, result.dtype)
    bits, halves = source.reshape(-1).view(np.uint32), target.reshape(-1).view(np.uint16)
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
    if target is not result:
        np.copyto(result, target)
    return result


def _keep_nans(bits: npt.NDArray[np.uint32], halves: npt.NDArray[np.uint16]) -> None:
    """A NaN whose mark lies in the lower half would become infinite, or zero: it stays a (quiet) NaN."""
    values = bits.view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        some = np.isnan(values.sum())  # cheap, and NaN wherever one is NaN
    if some:
        nan = np.isnan(values)
        halves[nan] = ((bits[nan] >> 16) | _QUIET).astype(np.uint16)


def from_bfloat16(values: npt.NDArray[Any]) -> Floats:
    """bfloat16 as float32: exact."""
    return np.asarray(values).astype(np.float32)


def round_in_place(values: Floats, mode: str, held: npt.NDArray[np.uint32]) -> None:
    """Round float32 to values that bfloat16 holds, and leave them float32: an accumulator that is written back and loaded again.

    Args:
        values: C-contiguous. A NaN among them stays one where arithmetic on bfloat16 made it: its mark is in the upper half.
        mode: `even`, `floor` or `truncate`.
        held: Room for as many words.
    """
    bits = values.view(np.uint32)
    if mode == "even":
        np.right_shift(bits, 16, out=held)
        held &= 1
        held += 0x7FFF
        bits += held
    elif mode == "floor":
        np.right_shift(bits, 31, out=held)
        held *= 0xFFFF
        bits += held
    bits &= _UPPER


def to_bfp16(values: npt.NDArray[Any], axis: int, mode: str = "even") -> Floats:
    """Quantise to bfp16ebs8 blocks along an axis, as float32 values.

    The last block is filled with zeros where the axis is no multiple of 8.

    Args:
        values: Numbers that float32 holds.
        axis: Along which eight values share an exponent.
        mode: How a value becomes a multiple of the block's step.

    Raises:
        UsageError: No such mode.
    """
    _require_mode(mode)
    moved = np.moveaxis(np.asarray(values, np.float32), axis, -1)
    length = moved.shape[-1]
    padding = -length % BFP16_BLOCK
    if padding:
        moved = np.concatenate([moved, np.zeros((*moved.shape[:-1], padding), np.float32)], axis=-1)
    blocks = np.ascontiguousarray(moved).reshape(-1, BFP16_BLOCK)
    result = np.empty_like(blocks)
    count = _BLOCK // BFP16_BLOCK
    for start in range(0, len(blocks), count):
        _quantise(blocks[start : start + count], result[start : start + count], mode)
    quantised = result.reshape(moved.shape)[..., :length]
    return np.ascontiguousarray(np.moveaxis(quantised, -1, axis))


def _quantise(blocks: Floats, out: Floats, mode: str) -> None:
    """Blocks of eight, a row each."""
    magnitudes = blocks.view(np.uint32) & 0x7FFF_FFFF  # as integers they are in order, infinite and NaN above all
    largest = np.maximum(magnitudes[:, :4], magnitudes[:, 4:])
    largest = np.maximum(largest[:, :2], largest[:, 2:])
    power = np.maximum(largest[:, :1], largest[:, 1:]) & _EXPONENT
    step = np.maximum(power.view(np.float32), _SMALLEST_NORMAL) * _BFP16_STEP
    with np.errstate(invalid="ignore"):  # an infinite step, of a value that is not finite, makes all of its block NaN
        np.divide(blocks, step, out=out)
        _TO_INTEGER[mode](out, out=out)
        np.minimum(out, _BFP16_LARGEST, out=out)
        out *= step


def _require_mode(mode: str) -> None:
    if mode not in ROUNDINGS:
        raise unknown_name("rounding", mode, ROUNDINGS)
