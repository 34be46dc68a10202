"""Matrices into buffers and back: padded to whole dispatches, cropped to what was asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def pad_into(out: Array, source: Array) -> None:
    """Copy a matrix into the corner of a larger one; what lies beyond it becomes zero.

    Args:
        out: [rows, columns], a view of a buffer.
        source: At most as large, of the same type.
    """
    rows, columns = source.shape
    if rows < out.shape[0]:
        out[rows:] = 0
    if columns < out.shape[1]:
        out[:rows, columns:] = 0
    np.copyto(out[:rows, :columns], source)


def crop(values: Array, rows: int, columns: int) -> Array:
    """The corner of a matrix, contiguous."""
    return values if values.shape == (rows, columns) else np.ascontiguousarray(values[:rows, :columns])
