"""Tensors as raw files: `NAME.bin`, the elements in row-major order and nothing else, and `NAME.npy` beside it.

Raw files are what the vendor's profiler takes as inputs. NumPy has no bfloat16: a `.npy` of it holds elements of two bytes (`V2`).
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope._files import replaced_atomically
from npuscope.errors import FormatError, shorten
from npuscope.workloads.dtypes import numpy_dtype


def write_tensor(folder: Path, name: str, array: npt.NDArray[Any]) -> tuple[Path, Path]:
    """Write `NAME.bin` and `NAME.npy`.

    Raises:
        OutputError: The folder cannot be written to.
    """
    raw, boxed = folder / f"{name}.bin", folder / f"{name}.npy"
    with replaced_atomically(raw) as file:
        file.write(np.ascontiguousarray(array).tobytes())
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    with replaced_atomically(boxed) as file:
        file.write(buffer.getvalue())
    return raw, boxed


def read_tensor(path: Path, dtype: str, shape: Sequence[int]) -> npt.NDArray[Any]:
    """The tensor of a raw file.

    Args:
        path: Of the elements.
        dtype: Name of the element type.
        shape: As many elements as the file must hold.

    Raises:
        FormatError: It cannot be read, or is of another size.
    """
    kind = numpy_dtype(dtype)
    wanted = math.prod(shape) * kind.itemsize
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size == wanted else b""
    except OSError as error:
        raise FormatError(path, expected="a raw tensor", found=shorten(error.strerror or str(error))) from error
    if len(data) != wanted:
        expected = f"{wanted:,} bytes for {list(shape)} of {dtype}"
        raise FormatError(path, expected=expected, found=f"{size:,} bytes")
    return np.frombuffer(data, kind).reshape(shape)
