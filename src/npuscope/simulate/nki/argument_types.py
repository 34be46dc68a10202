"""Element types that arrays given to a kernel may have, whichever way they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from npuscope.errors import UsageError, shorten
from npuscope.simulate.nki.dtypes import Dtype

_FLOATS = (
    *("float32", "bfloat16", "float16", "float8_e3m4", "float8_e4m3", "float8_e4m3fn", "float8_e5m2"),
    *("float8_e8m0fnu", "float4_e2m1fn"),
)
_WIDE = np.dtype(np.float64)
_SUPPORTED = "float32, bfloat16, float16, float8, integers of 8 to 64 bits, bool; float64 is cast to float32"


def engine_dtype(dtype: Dtype, name: str) -> Dtype:
    """The type, in this machine's byte order, in which an argument stands in HBM: its own, but float32 for float64.

    Raises:
        UsageError: No tensor can have the type; the message names the argument.
    """
    if dtype.kind in "iub" or dtype.name in _FLOATS:
        return dtype if dtype.isnative else dtype.newbyteorder("=")
    if dtype.kind == "f" and dtype.itemsize == _WIDE.itemsize:
        return np.dtype(np.float32)
    raise UsageError(f"argument {name} has elements of type {shorten(str(dtype))}; a tensor's are {_SUPPORTED}")


def cast_note(dtype: Dtype, name: str) -> str:
    """What was done to an argument of a type that no engine has; "" where nothing was."""
    is_cast = dtype.kind == "f" and dtype.itemsize == _WIDE.itemsize
    return f"argument {name} is float64, which no engine has: cast to float32" if is_cast else ""


def check_types(positional: Sequence[Any], named: Mapping[str, Any]) -> None:
    """Refuse arrays that no kernel can be given, before anything is done with them.

    Raises:
        UsageError: One has such elements.
    """
    for name, value in (*((str(number), value) for number, value in enumerate(positional, 1)), *named.items()):
        if isinstance(value, np.ndarray):
            engine_dtype(value.dtype, name)
