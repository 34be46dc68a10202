"""Seeded random tensors of any element type, made in blocks so that nothing but the tensor takes memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_BLOCK = 1 << 22


def random_array(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    deviation: float = 1.0,
    integers: tuple[int, int] = (-127, 128),
) -> npt.NDArray[Any]:
    """A tensor of normal values, or of uniform integers where `dtype` is an integer type; truth values are a coin's.

    Args:
        rng: Where the values come from.
        shape: Of the tensor.
        dtype: NumPy's or one of ml_dtypes.
        deviation: Standard deviation of floating-point values.
        integers: Least value, and the one above the largest; what is below 0 becomes 0 for unsigned types.
    """
    array = np.empty(shape, dtype)
    flat = array.reshape(-1)
    low, high = (max(0, integers[0]) if dtype.kind == "u" else integers[0]), integers[1]
    for start in range(0, flat.size, _BLOCK):
        part = flat[start : start + _BLOCK]
        if dtype.kind in "iu":
            part[:] = rng.integers(low, high, part.size)
        elif dtype.kind == "b":
            part[:] = rng.integers(0, 2, part.size)
        else:
            part[:] = rng.standard_normal(part.size, np.float32) * np.float32(deviation)
    return array
