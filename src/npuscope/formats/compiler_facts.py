"""What the JSON files of the Neuron compiler say, wherever they lie: in its work folder, or in a NEFF.

Nothing of this is documented; each rule was read off one real work folder (neuronx-cc 2.22.12471, `docs/formats`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from npuscope.formats.limited_json import as_object, as_shape, as_text

DTYPE_BYTES: Final = {
    "bool": 1,
    "float8e3": 1,
    "float8e4": 1,
    "float8e5": 1,
    "int8": 1,
    "uint8": 1,
    "bfloat16": 2,
    "float16": 2,
    "int16": 2,
    "uint16": 2,
    "float32": 4,
    "float32r": 4,
    "int32": 4,
    "uint32": 4,
    "float64": 8,
    "int64": 8,
    "uint64": 8,
}
"""Bytes per element of the compiler's dtypes."""


@dataclass(frozen=True, slots=True)
class MappedTensor:
    """One entry of `tensor_map.json`."""

    name: str
    kind: str
    """`input`, `output`, or `file` for a constant."""
    dtype: str
    shape: tuple[int, ...] | None
    format: str
    """Axis letters, such as NC or CRSM."""

    @property
    def size_bytes(self) -> int | None:
        """Elements times bytes per element; None where either is unknown."""
        width = DTYPE_BYTES.get(self.dtype)
        if self.shape is None or width is None:
            return None
        size = math.prod(self.shape) * width
        return size if size < 1 << 63 else None


def read_tensor_map(document: Any) -> Iterator[MappedTensor]:
    """The tensors of a `tensor_map.json`, in file order; what is no such entry is left out."""
    for name, body in as_object(document).items():
        fields = as_object(body)
        kind = "file" if fields.get("is_const") is True else as_text(fields.get("kind"))
        shape = as_shape(fields.get("tf_shape"))
        if kind or shape is not None:
            layout = as_text(fields.get("tf_format"))
            yield MappedTensor(as_text(name), kind or "other", as_text(fields.get("dtype")), shape, layout)


def number(value: Any) -> int | float | None:
    """A finite JSON number; a float that is whole becomes an integer."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() and abs(value) < 1 << 63 else value
    return value if -(1 << 63) <= value < 1 << 63 else None
