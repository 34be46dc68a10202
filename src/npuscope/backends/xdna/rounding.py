"""float32 to bfloat16 and to bfp16 blocks and back, as an AIE core rounds: to nearest even, toward minus infinity, toward zero.

A core's stores round by a mode register that a program sets for itself and that nothing resets; after power-up it is floor
(Xilinx/mlir-aie, issues 2983 and 3481). Blocks of bfp16ebs8 are as mlir-aie encodes them on the host (python/utils/bfp.py
@2c2b7e4): one exponent, that of the largest value, and mantissas in eight-bit two's complement, of which 64 stands for that
exponent's power of two. There, mantissas are rounded down. How a core rounds up a mantissa beyond 127, and what it makes of
values that are not finite, is published nowhere: here the mantissa stays at 127, and such a block becomes NaN.

Conversions work on the bits, in compiled loops. Importing this module imports numba.
"""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

from npuscope._compiled import compiled
from npuscope.errors import unknown_name
from npuscope.tiling.xdna_design import ROUNDINGS

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]
Halves = npt.NDArray[np.uint16]
_UPPER: Final = np.uint32(0xFFFF_0000)
_EXPONENT: Final = np.uint32(0x7F80_0000)
_CACHED: Final = 1 << 15  # values that are quantised at once: they stay in cache
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
    source = np.ascontiguousarray(values, np.float32)
    if not source.flags.writeable:  # the compiled loops are of arrays that could be written
        source = source.copy()
    target = result if result.flags.c_contiguous else np.empty(result.shape, result.dtype)
    _LOOPS[mode](source.reshape(-1).view(np.uint32), target.reshape(-1).view(np.uint16))
    if target is not result:
        np.copyto(result, target)
    return result


def _half(bits: Any, rounded: Any) -> Any:
    """The upper half of a rounded word; a NaN, whose mark may lie in the lower half, stays a (quiet) one."""
    is_nan = (bits & np.uint32(0x7FFF_FFFF)) > np.uint32(0x7F80_0000)
    return np.uint16(((bits | np.uint32(0x40_0000)) if is_nan else rounded) >> np.uint32(16))


_half = compiled(_half)


def _even(bits: Words, halves: Halves) -> None:
    for index in range(bits.size):
        word = bits[index]
        halves[index] = _half(word, word + np.uint32(0x7FFF) + ((word >> np.uint32(16)) & np.uint32(1)))


def _floor(bits: Words, halves: Halves) -> None:
    for index in range(bits.size):
        word = bits[index]
        halves[index] = _half(word, word + (word >> np.uint32(31)) * np.uint32(0xFFFF))  # away from zero where negative


def _truncate(bits: Words, halves: Halves) -> None:
    for index in range(bits.size):
        halves[index] = _half(bits[index], bits[index])


_SIGNATURE: Final = "void(uint32[::1], uint16[::1])"
_LOOPS: Final = {
    "even": compiled(_even, _SIGNATURE),
    "floor": compiled(_floor, _SIGNATURE),
    "truncate": compiled(_truncate, _SIGNATURE),
}


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
    count = _CACHED // BFP16_BLOCK
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
