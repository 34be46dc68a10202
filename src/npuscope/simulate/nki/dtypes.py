"""Element types of tensors: NumPy's and those of ml_dtypes, by the names that NKI gives them."""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np

Dtype = np.dtype[Any]

TFLOAT32: Final[Dtype] = np.dtype(np.float32, metadata={"name": "tfloat32"})
"""Stored as float32; told apart by its metadata, because NumPy has no such type."""

_NAMED: Final[dict[str, Dtype]] = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "tfloat32": TFLOAT32,
    "float32r": TFLOAT32,
    "float8_e3m4": np.dtype(ml_dtypes.float8_e3m4),
    "float8_e4m3": np.dtype(ml_dtypes.float8_e4m3),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float4_e2m1fn": np.dtype(ml_dtypes.float4_e2m1fn),
    "float8_e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu),
    "bool_": np.dtype(np.bool_),
}

_known: dict[Any, Dtype] = {}
_names: dict[Dtype, str] = {}
"""NumPy composes a name anew at every call."""


def as_dtype(value: Any) -> Dtype:
    """The element type that `value` stands for: a NumPy type, a name, or anything with a `dtype`.

    Raises:
        TypeError: It stands for none.
    """
    if isinstance(value, np.dtype):
        return value
    known = _known.get(value)
    if known is not None:
        return known
    dtype: Dtype | None = _NAMED.get(value) if isinstance(value, str) else None
    if dtype is None:
        dtype = np.dtype(value)
    _known[value] = dtype
    return dtype


def dtype_name(dtype: Dtype) -> str:
    """The name that costs are kept by, such as `bfloat16`."""
    if dtype.metadata:
        return str(dtype.metadata.get("name", dtype.name))
    name = _names.get(dtype)
    if name is None:
        name = _names[dtype] = str(dtype.name)
    return name


def is_tfloat32(dtype: Dtype) -> bool:
    """Whether `dtype` is `TFLOAT32`, which NumPy takes for float32."""
    return bool(dtype.metadata) and dtype_name(dtype) == "tfloat32"
