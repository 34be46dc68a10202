"""Element types by name: their size, precision and NumPy equivalent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from npuscope.errors import unknown_name


@dataclass(frozen=True, slots=True)
class ElementType:
    """An element type of matmul operands."""

    name: str
    itemsize: int
    """Bytes per element."""
    significand_bits: int | None
    """Bits of precision with the hidden one; None for integers, which are exact."""

    @property
    def unit_roundoff(self) -> float:
        """Largest relative error of rounding to nearest: 2^-p; 0 for integers."""
        return 0.0 if self.significand_bits is None else 2.0**-self.significand_bits


ELEMENT_TYPES = {
    kind.name: kind
    for kind in (
        ElementType("float32", 4, 24),
        ElementType("float16", 2, 11),
        ElementType("bfloat16", 2, 8),
        ElementType("int8", 1, None),
        ElementType("int16", 2, None),
        ElementType("int32", 4, None),
    )
}
OPERAND_TYPES = ("float32", "float16", "bfloat16", "int8")
ALIASES = {
    "fp32": "float32",
    "f32": "float32",
    "fp16": "float16",
    "f16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "i8": "int8",
}
"""Common short forms of type names."""


def operand_type(name: str) -> str:
    """The full name of an operand type; common short forms (`bf16`, `fp32`) are accepted.

    Raises:
        UsageError: No such type.
    """
    full = ALIASES.get(str(name).lower(), str(name).lower())
    if full not in OPERAND_TYPES:
        raise unknown_name("dtype", str(name), OPERAND_TYPES)
    return full


def numpy_dtype(name: str) -> Any:
    """The NumPy dtype of an element type; bfloat16 comes from ml_dtypes."""
    import numpy as np

    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
