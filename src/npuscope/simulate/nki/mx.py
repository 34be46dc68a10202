"""Microscaling formats (MXFP8, MXFP4): elements packed by four, and a shared power-of-two scale per 32 of them.

A group is 8 partitions by 4 elements; its scale is one byte, the exponent plus 127 (OCP Microscaling Formats v1.0).
Where the scales of a tile lie, and how large they are, follows the AWS Neuron documentation of `nki.isa.quantize_mx`.
"""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

from npuscope.simulate.nki.dtypes import dtype_name

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

GROUP_PARTITIONS: Final = 8
GROUP_ELEMENTS: Final = 4
"""Elements of one partition in a group; as many are packed into one element of an `_x4` type."""
QUADRANT: Final = 32
"""Partitions whose scales lie together, in the first four of them."""
_SCALE_BIAS: Final = 127
_MIN_EXPONENT: Final = -127
_MAX_EXPONENT: Final = 127


def _packed(name: str, bits: str) -> np.dtype[Any]:
    return np.dtype([(name, bits)], metadata={"name": name})


FLOAT8_E5M2_X4: Final = _packed("float8_e5m2_x4", "<u4")
FLOAT8_E4M3FN_X4: Final = _packed("float8_e4m3fn_x4", "<u4")
FLOAT4_E2M1FN_X4: Final = _packed("float4_e2m1fn_x4", "<u2")

_ELEMENTS: Final[dict[str, np.dtype[Any]]] = {
    "float8_e5m2_x4": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e4m3fn_x4": np.dtype(ml_dtypes.float8_e4m3fn),
    "float4_e2m1fn_x4": np.dtype(ml_dtypes.float4_e2m1fn),
}
_LARGEST_EXPONENT: Final = {"float8_e5m2_x4": 15, "float8_e4m3fn_x4": 8}
"""Of the types that the hardware quantizes to."""


def is_packed(dtype: np.dtype[Any]) -> bool:
    """Whether `dtype` packs four elements into one."""
    return dtype_name(dtype) in _ELEMENTS


def is_quantizable(dtype: np.dtype[Any]) -> bool:
    """Whether `quantize_mx` writes `dtype`: the hardware does not quantize to MXFP4."""
    return dtype_name(dtype) in _LARGEST_EXPONENT


def scale_rows(partitions: int) -> npt.NDArray[np.intp]:
    """The partition that holds the scales of each group, for a tile of `partitions` partitions."""
    groups = np.arange(partitions // GROUP_PARTITIONS)
    per_quadrant = QUADRANT // GROUP_PARTITIONS
    return groups // per_quadrant * QUADRANT + groups % per_quadrant


def unpack(packed: Array) -> Float32:
    """The elements of an `_x4` array of shape [P, F], as float32 of shape [P, F, 4]."""
    element = _ELEMENTS[dtype_name(packed.dtype)]
    shape = (*packed.shape, GROUP_ELEMENTS)
    if packed.dtype.itemsize == GROUP_ELEMENTS:
        return np.ascontiguousarray(packed).view(element).reshape(shape).astype(np.float32)
    bits = np.ascontiguousarray(packed).view(np.uint16)[..., None] >> np.arange(0, 16, 4, dtype=np.uint16)
    return (bits & 0xF).astype(np.uint8).view(element).astype(np.float32).reshape(shape)


def dequantize(packed: Array, scales: Array) -> Float32:
    """What the Tensor engine multiplies with.

    Args:
        packed: Elements of an `_x4` type, shape [P, F].
        scales: Bytes as they lie beside the data: shape [rows, at least F], groups found by `scale_rows`.

    Returns:
        Shape [P, F, 4].
    """
    exponents = scales.view(np.uint8)[scale_rows(packed.shape[0]), : packed.shape[1]].astype(np.int32) - _SCALE_BIAS
    factors = np.ldexp(np.float32(1), exponents).astype(np.float32)
    values: Float32 = unpack(packed) * np.repeat(factors, GROUP_PARTITIONS, axis=0)[:, :, None]
    return values


def quantize(values: Array, dtype: np.dtype[Any]) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Quantize a tile to MXFP8.

    Args:
        values: Shape [P, F], P a multiple of 32 and F of 4.
        dtype: One of the types that `is_quantizable`.

    Returns:
        Elements of `dtype`, shape [P, F / 4], and the scales, shape [P / 8, F / 4], one row per group.
    """
    name = dtype_name(dtype)
    element = _ELEMENTS[name]
    wide = values.astype(np.float32)
    partitions, size = wide.shape
    groups = wide.reshape(partitions // GROUP_PARTITIONS, GROUP_PARTITIONS, size // GROUP_ELEMENTS, GROUP_ELEMENTS)
    largest = np.abs(groups).max(axis=(1, 3))
    # One less than the format's largest exponent: twice the scale of OCP's example, room to round up in.
    exponents = np.frexp(largest)[1] - 1 - (_LARGEST_EXPONENT[name] - 1)
    exponents = np.where(largest == 0, _MIN_EXPONENT, np.clip(exponents, _MIN_EXPONENT, _MAX_EXPONENT))
    scaled = np.ldexp(groups, -exponents[:, None, :, None]).reshape(partitions, size)
    limit = float(ml_dtypes.finfo(element).max)
    bits = np.clip(scaled, -limit, limit).astype(element).view(np.uint32)
    return bits.view(dtype), (exponents + _SCALE_BIAS).astype(np.uint8)


def multiply(stationary: Float32, moving: Float32) -> Float32:
    """`[K, M, 4]` by `[K, N, 4]`: contracts partitions and packed elements, result [M, N]."""
    rows, columns, _ = stationary.shape
    left = stationary.transpose(1, 0, 2).reshape(columns, rows * GROUP_ELEMENTS)
    right = moving.transpose(0, 2, 1).reshape(rows * GROUP_ELEMENTS, moving.shape[1])
    product: Float32 = left @ right
    return product
