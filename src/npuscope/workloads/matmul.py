"""One matrix multiplication: C[M, N] = A[M, K] @ B[K, N]."""

from __future__ import annotations

import operator
from dataclasses import dataclass

from npuscope.errors import UsageError, shorten
from npuscope.units import parse_integers
from npuscope.workloads.dtypes import ELEMENT_TYPES, OPERAND_TYPES, operand_type

OPERATIONS_LIMIT = 1 << 62
"""2MKN of tiles padded to the largest edge stays below this, so that no int64 count overflows."""
_DIMENSION_BITS = 62
LARGEST_TILE_EDGE = 4096
"""Of any tile model."""


@dataclass(frozen=True, slots=True)
class MatmulConfig:
    """A matmul by its dimensions; `A[M, K] @ B[K, N] -> C[M, N]`.

    Raises:
        UsageError: A dimension is not a whole number, not positive, or so large that 2MKN leaves 63 bits.
    """

    M: int
    """Rows of A and of the result."""
    K: int
    """Contraction."""
    N: int
    """Columns of B and of the result."""
    dtype: str = "float32"
    name: str = ""
    """A label such as `ffn-up, prefill b1 s512`; no part of what is measured."""

    def __post_init__(self) -> None:
        for axis in ("M", "K", "N"):
            value = getattr(self, axis)
            if type(value) is not int or not 0 < value < OPERATIONS_LIMIT:  # suites are thousands of plain integers
                object.__setattr__(self, axis, _dimension(axis, value))
        if self.dtype not in OPERAND_TYPES:
            object.__setattr__(self, "dtype", operand_type(self.dtype))
        if (
            2 * (self.M + LARGEST_TILE_EDGE) * (self.K + LARGEST_TILE_EDGE) * (self.N + LARGEST_TILE_EDGE)
            >= OPERATIONS_LIMIT
        ):
            raise UsageError(f"shape {self.shape_text} is too large: its operation count leaves 63 bits")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, K, N)."""
        return self.M, self.K, self.N

    @property
    def shape_text(self) -> str:
        """`MxKxN`."""
        return f"{self.M}x{self.K}x{self.N}"

    @property
    def model_flops(self) -> int:
        """2MKN: one multiplication and one addition per product."""
        return 2 * self.M * self.K * self.N

    @property
    def operand_bytes(self) -> int:
        """Bytes of A, B and C when C has the operands' type (int32 for int8)."""
        itemsize = ELEMENT_TYPES[self.dtype].itemsize
        out_itemsize = 4 if self.dtype == "int8" else itemsize
        return itemsize * (self.M * self.K + self.K * self.N) + out_itemsize * self.M * self.N


def parse_shape(text: str, dtype: str = "float32") -> MatmulConfig:
    """`MxKxN` as a config.

    Raises:
        UsageError: Not three positive whole numbers, or too large.
    """
    M, K, N = parse_integers(text, "shape", 3)
    return MatmulConfig(M, K, N, dtype)


def _dimension(axis: str, value: object) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # what cannot be an index is the error below
    except TypeError:
        raise UsageError(f"{axis} = {shorten(repr(value))} is not a whole number") from None
    if number.bit_length() > _DIMENSION_BITS:
        raise UsageError(f"{axis} is too large: a number of {number.bit_length()} bits")
    if isinstance(value, bool) or number <= 0:
        raise UsageError(f"{axis} = {shorten(str(number))} must be a positive whole number")
    return number
