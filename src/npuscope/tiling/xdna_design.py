"""A matmul design for an XDNA array: what one dispatch computes, and how the cores share it.

A design is built once into an xclbin (tile, cores, types, buffers) and an instruction file (M, K and N of a dispatch). As in
mlir-aie's `single_core` and `whole_array` designs, A is cut into tiles of m x k that are broadcast along a row of cores, B
into k x n along a column, and each core keeps its m x n of C while K is run through. So M is a multiple of m x rows, N of
n x columns, K of k.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from npuscope.errors import UsageError, unknown_name
from npuscope.workloads.dtypes import ALIASES, ELEMENT_TYPES

OPERAND_TYPES: Final = ("bfloat16", "int8", "int16")
OUT_TYPES: Final = {
    "bfloat16": ("bfloat16", "float32"),
    "int8": ("int8", "int16", "int32"),
    "int16": ("int16", "int32"),
}
"""Result types by operand type, the default first for floats and last for integers (which must not wrap)."""
DEFAULT_OUT_TYPE: Final = {"bfloat16": "bfloat16", "int8": "int32", "int16": "int32"}
ROUNDINGS: Final = ("even", "floor", "truncate")
"""float32 to bfloat16: to nearest even, toward minus infinity (a core's mode after power-up), toward zero."""
MULTIPLICATIONS: Final = ("native", "bfp16")
"""How bfloat16 operands are multiplied: as they are, or in blocks of eight that share an exponent (XDNA2)."""


@dataclass(frozen=True, slots=True)
class XdnaDesign:
    """One matmul design as it is built.

    Raises:
        UsageError: A size is not positive, or a name is unknown.
    """

    M: int
    """Rows of A of one dispatch."""
    K: int
    """Contraction of one dispatch."""
    N: int
    """Columns of B of one dispatch."""
    tile_m: int
    tile_k: int
    tile_n: int
    """One core's share of A is tile_m x tile_k at a time, of B tile_k x tile_n."""
    rows: int = 1
    columns: int = 1
    """Cores: rows x columns."""
    dtype: str = "bfloat16"
    out_dtype: str = "bfloat16"
    batch: int = 1
    """Independent products of one dispatch, one after another in each buffer."""
    buffers_a: int = 2
    buffers_b: int = 2
    buffers_c: int = 2
    """Copies of a tile in a core's memory: 2 where data moves while the core computes."""
    b_column_major: bool = False
    multiplication: str = "native"
    rounding: str = "floor"

    def __post_init__(self) -> None:
        for axis in ("M", "K", "N", "tile_m", "tile_k", "tile_n", "rows", "columns", "batch"):
            if getattr(self, axis) < 1:
                raise UsageError(f"{axis} = {getattr(self, axis)} of an XDNA design must be positive")
        if not {self.buffers_a, self.buffers_b, self.buffers_c} <= {1, 2}:
            raise UsageError("an XDNA design has one or two buffers for each of A, B and C")
        if self.dtype not in OUT_TYPES:
            raise unknown_name("dtype of an XDNA design", self.dtype, OPERAND_TYPES)
        for kind, name, known in (
            (f"result type of {self.dtype}", self.out_dtype, OUT_TYPES[self.dtype]),
            ("rounding", self.rounding, ROUNDINGS),
            ("multiplication", self.multiplication, MULTIPLICATIONS),
        ):
            if name not in known:
                raise unknown_name(kind, name, known)

    @property
    def cores(self) -> int:
        """Cores that compute."""
        return self.rows * self.columns

    @property
    def itemsize(self) -> int:
        """Bytes of an element of A or B."""
        return ELEMENT_TYPES[self.dtype].itemsize

    @property
    def out_itemsize(self) -> int:
        """Bytes of an element of C."""
        return ELEMENT_TYPES[self.out_dtype].itemsize

    @property
    def macs(self) -> int:
        """Multiplications of one dispatch, padding included."""
        return self.batch * self.M * self.K * self.N

    @property
    def a_bytes(self) -> int:
        """Of the buffer object of A: [batch, M, K], row-major."""
        return self.batch * self.M * self.K * self.itemsize

    @property
    def b_bytes(self) -> int:
        """Of the buffer object of B: [batch, K, N], row-major, or [batch, N, K] where B is column-major."""
        return self.batch * self.K * self.N * self.itemsize

    @property
    def c_bytes(self) -> int:
        """Of the buffer object of C: [batch, M, N], row-major."""
        return self.batch * self.M * self.N * self.out_itemsize

    @property
    def tile_text(self) -> str:
        """`64x64x64`: m, k and n of one core's tile."""
        return f"{self.tile_m}x{self.tile_k}x{self.tile_n}"

    @property
    def call_text(self) -> str:
        """`64x512x512`: M, K and N of a dispatch, with the batch where there is one."""
        return (f"{self.batch} of " if self.batch > 1 else "") + f"{self.M}x{self.K}x{self.N}"


def operand_type(name: str) -> str:
    """The full name of a type that XDNA kernels multiply; short forms (`bf16`, `i8`, `i16`) are accepted.

    Raises:
        UsageError: No such type.
    """
    lowered = name.lower()
    full = ALIASES.get(lowered, {"i16": "int16"}.get(lowered, lowered))
    if full not in OPERAND_TYPES:
        raise unknown_name("dtype of an XDNA kernel", name, OPERAND_TYPES)
    return full


def result_type(dtype: str, name: str | None) -> str:
    """The result type of a design; the usual one where none is named.

    Raises:
        UsageError: The kernels have no such result of this operand type.
    """
    if name is None:
        return DEFAULT_OUT_TYPE[dtype]
    lowered = name.lower()
    full = ALIASES.get(lowered, {"i16": "int16", "i32": "int32"}.get(lowered, lowered))
    if full not in OUT_TYPES[dtype]:
        raise unknown_name(f"result type of {dtype}", name, OUT_TYPES[dtype])
    return full
