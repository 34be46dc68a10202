"""What an XDNA array lets a matmul design be: memory of cores and memory tiles, instruction sizes, shim descriptors.

Each rule is one formula over a design's numbers, for one design or, as arrays, for many. The rules are those of mlir-aie's
designs (programming_examples/basic/matrix_multiplication, single_core and whole_array) and of its checks of shim descriptors
(lib/Dialect/AIEX, NpuDmaMemcpyNdOp), with the sizes of the array from `hardware`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from npuscope._toml import tomllib
from npuscope.hardware.model import XDNA_ARRAYS, XdnaArray, load_xdna
from npuscope.tiling.xdna_design import XdnaDesign

Shape: TypeAlias = Any
"""An `XdnaDesign`, or anything whose attributes of the same names are arrays of int64: many designs at once."""
_WORD: Final = 4
KB: Final = 1024


class Unit(NamedTuple):
    """What a tile's edges are multiples of: the multiplication instruction times the kernel's unrolling."""

    m: int
    k: int
    n: int


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that a design breaks."""

    constraint: str
    """`intrinsic`, `array`, `core-memory`, `memory-tile`, `memory-tile-bank`, `divisibility`, `descriptor-repeat`,
    `descriptor-stride`, `descriptor-size`, `program-memory`."""
    reason: str
    """A sentence with the bytes or sizes."""
    needed: int
    """In bytes for memories, in the rule's own unit else."""
    limit: int


_UNROLLED: Final = {
    ("npu1", "bfloat16"): (4, 4),
    ("npu1", "int8"): (4, 2),
    ("npu1", "int16"): (2, 2),
}
"""Blocks of m and n that the stock kernel computes at once (aie_kernels/aie2/mm.cc); aie2p/mm.cc: 2 and 2 for all types."""


def array_name(array: XdnaArray) -> str:
    """`npu1` or `npu2`, as mlir-aie calls it."""
    return next(name for name in XDNA_ARRAYS if load_xdna(name).name == array.name)


def unit(array: XdnaArray, dtype: str, multiplication: str = "native") -> Unit:
    """The multiples of m, k and n.

    bfloat16 on XDNA2 has 4 x 8 x 8 instructions as it is, and 8 x 8 x 8 in bfp16 blocks (aie_kernels/aie2p/mm.cc).
    """
    m, k, n = {
        "bfloat16": (array.bf16_block_m, array.bf16_block_k, array.bf16_block_n),
        "int8": (array.int8_block_m, array.int8_block_k, array.int8_block_n),
        "int16": (array.int16_block_m, array.int16_block_k, array.int16_block_n),
    }[dtype]
    if array_name(array) == "npu2" and dtype == "bfloat16" and multiplication == "native":
        m = 4
    unrolled_m, unrolled_n = _UNROLLED.get((array_name(array), dtype), (2, 2))
    return Unit(m * unrolled_m, k, n * unrolled_n)


def mappings(array: XdnaArray) -> tuple[tuple[int, int], ...]:
    """Rows and columns of cores that the stock designs use: one core, or four rows of 1, 2, 4 or 8 columns."""
    columns = [count for count in (1, 2, 4, 8) if count <= array.core_columns]
    return ((1, 1), *((array.core_rows, count) for count in columns))


def tile_buffers_bytes(shape: Shape, buffers: tuple[Any, Any, Any] | None = None) -> tuple[Any, Any, Any]:
    """Bytes that A, B and C take in one core's memory.

    Args:
        shape: The design, or columns.
        buffers: How many of each; the design's own when None.
    """
    a, b, c = buffers or (shape.buffers_a, shape.buffers_b, shape.buffers_c)
    return (
        a * shape.tile_m * shape.tile_k * shape.itemsize,
        b * shape.tile_k * shape.tile_n * shape.itemsize,
        c * shape.tile_m * shape.tile_n * shape.out_itemsize,
    )


def core_memory_bytes(shape: Shape, stack_bytes: int) -> Any:
    """Bytes of a core's data memory: tiles and stack."""
    return sum(tile_buffers_bytes(shape)) + stack_bytes


def memory_tile_bytes(shape: Shape) -> Any:
    """Bytes of a memory tile: two of what a shim column brings of A and B, and two of what its cores leave of C.

    With fewer than four columns a memory tile holds A for several rows of cores; C of a column's cores is joined there.
    """
    rows_of_a = np.maximum(1, shape.rows // np.maximum(1, shape.columns))
    a = rows_of_a * shape.tile_m * shape.tile_k * shape.itemsize
    b = shape.tile_k * shape.tile_n * shape.itemsize
    return 2 * (a + b + joined_c_bytes(shape))


def joined_c_bytes(shape: Shape) -> Any:
    """Bytes of the C of one column's cores, which a memory tile joins: its largest single buffer."""
    return shape.rows * shape.tile_m * shape.tile_n * shape.out_itemsize


def descriptor_limits(shape: Shape, array: XdnaArray) -> tuple[tuple[str, Any, int, str], ...]:
    """What the shim's descriptors must hold: (constraint, needed, limit, what it is) of each field that can overflow.

    Sizes and strides as `whole_array.py` and `single_core.py` write them, in 32-bit words: C [rows of tiles, N/(n cols), m rows, n]
    with strides [m rows N, n cols, N], A [N/(n cols), K/k, m, k] with [0, k, K], B [N/(n cols), K/k, k, n] with [n cols, k N, N].
    """
    item, out = shape.itemsize, shape.out_itemsize
    several_rows = np.minimum(
        shape.M // (shape.tile_m * shape.rows) - 1, 1
    )  # one row of tiles needs no stride between rows
    repeat, stride = array.descriptor_repeats, array.descriptor_stride_words
    return (
        ("descriptor-repeat", shape.N // (shape.tile_n * shape.columns), repeat, "tiles of N of a column"),
        (
            "descriptor-stride",
            several_rows * (shape.tile_m * shape.rows * shape.N * out // _WORD),
            stride,
            "words from one row of C tiles to the next",
        ),
        ("descriptor-stride", shape.tile_k * shape.N * item // _WORD, stride, "words from one k of B to the next"),
        ("descriptor-stride", shape.K * item // _WORD, stride, "words from one row of A to the next"),
        ("descriptor-size", shape.tile_m * shape.rows, array.descriptor_words, "rows of C tiles of a column"),
        ("descriptor-size", shape.tile_k * item // _WORD, array.descriptor_words, "words of a row of an A tile"),
        ("descriptor-size", shape.tile_k * 1, array.descriptor_words, "rows of a B tile"),
        ("descriptor-size", shape.tile_n * out // _WORD, array.descriptor_words, "words of a row of a C tile"),
    )


def descriptors_in_flight(rows_of_tiles: Any) -> Any:
    """Shim descriptors that `whole_array.py` has queued at once: one of C and two for each row of tiles, in two halves."""
    return 2 * (1 + 2 * np.minimum(rows_of_tiles, 2))


@cache
def _overflows() -> tuple[dict[str, Any], ...]:
    text = files("npuscope.tiling").joinpath("data").joinpath("xdna_program_overflows.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)["overflow"])


def reported_overflow(design: XdnaDesign, array: XdnaArray) -> str:
    """Where an overflow of program memory of this very design was reported; empty where none was."""
    name = array_name(array)
    for item in _overflows():
        if (
            item["array"] == name
            and (item["M"], item["K"], item["N"]) == (design.M, design.K, design.N)
            and item["tile"] == [design.tile_m, design.tile_k, design.tile_n]
            and item["cores"] == [design.rows, design.columns]
        ):
            return str(item["source"])
    return ""


def reported_overflows(designs: Shape, array: XdnaArray) -> Any:
    """Which of many designs are ones whose program users saw overflow."""
    name = array_name(array)
    found = np.zeros(len(designs.tile_m), bool)
    for item in _overflows():
        if item["array"] == name:
            wanted = (item["M"], item["K"], item["N"], *item["tile"], *item["cores"])
            columns = (
                designs.M,
                designs.K,
                designs.N,
                designs.tile_m,
                designs.tile_k,
                designs.tile_n,
                designs.rows,
                designs.columns,
            )
            found |= np.logical_and.reduce([column == value for column, value in zip(columns, wanted, strict=True)])
    return found


def kernel_calls_in_program(design: XdnaDesign) -> int:
    """Copies of the kernel's call in a core's program: its class of program size.

    Loops over buffers are unrolled by their number, 2, and an odd count leaves a remainder: 1, 2 or 3 copies each of the loop
    over C tiles and of that over k. Inferred from the designs; four of the six overflows that users reported have 6 copies, two
    have 4, and so has nearly every design that works.
    """

    def copies(count: int) -> int:
        return 1 if count == 1 else 2 + count % 2

    tiles = (design.M // design.tile_m) * (design.N // design.tile_n) // design.cores * design.batch
    return copies(max(1, tiles)) * copies(max(1, design.K // design.tile_k))


def violations(
    design: XdnaDesign, array: XdnaArray, *, stack_bytes: int | None = None, joined: bool = True
) -> tuple[Violation, ...]:
    """Every rule that a design breaks, in the order in which one would mend them; empty for a legal one.

    Args:
        design: What would be built.
        array: Where.
        stack_bytes: Of a core; that of the stock designs when None.
        joined: A memory tile joins the C of its column in one buffer, as the stock designs do.
    """
    checks: tuple[Callable[[], list[Violation]], ...] = (
        lambda: _array_violations(design, array),
        lambda: _intrinsic_violations(design, array),
        lambda: _memory_violations(
            design, array, array.core_stack_bytes if stack_bytes is None else stack_bytes, joined=joined
        ),
        lambda: _divisibility_violations(design),
        lambda: _descriptor_violations(design, array),
        lambda: _program_violations(design, array),
    )
    return tuple(found for check in checks for found in check())


def _array_violations(design: XdnaDesign, array: XdnaArray) -> list[Violation]:
    allowed = mappings(array)
    if (design.rows, design.columns) in allowed:
        return []
    text = ", ".join(f"{rows}x{columns}" for rows, columns in allowed)
    reason = f"{design.rows} rows x {design.columns} columns of cores: the designs for this array use {text}"
    return [Violation("array", reason, design.cores, array.core_rows * array.core_columns)]


def _intrinsic_violations(design: XdnaDesign, array: XdnaArray) -> list[Violation]:
    of = unit(array, design.dtype, design.multiplication)
    found = []
    for axis, edge, multiple in (("m", design.tile_m, of.m), ("k", design.tile_k, of.k), ("n", design.tile_n, of.n)):
        if edge % multiple:
            reason = f"{axis} = {edge} is no multiple of {multiple}, what the {design.dtype} kernel computes at once"
            found.append(Violation("intrinsic", reason, edge, multiple))
    if design.multiplication == "bfp16" and (array_name(array) == "npu1" or design.dtype != "bfloat16"):
        found.append(Violation("intrinsic", "bfp16 blocks are for bfloat16 on XDNA2 only", 1, 0))
    return found


def _memory_violations(design: XdnaDesign, array: XdnaArray, stack_bytes: int, *, joined: bool) -> list[Violation]:
    found = []
    needed = int(core_memory_bytes(design, stack_bytes))
    if needed > array.core_memory_bytes:
        found.append(
            Violation("core-memory", core_memory_reason(design, array, stack_bytes), needed, array.core_memory_bytes)
        )
    in_tile = int(memory_tile_bytes(design))
    if in_tile > array.memory_tile_bytes:
        reason = (
            f"a memory tile needs {kb(in_tile)} of {kb(array.memory_tile_bytes)}: two each of A for its rows of cores, of B, and of"
            f" {kb(int(joined_c_bytes(design)))} of C"
        )
        found.append(Violation("memory-tile", reason, in_tile, array.memory_tile_bytes))
    largest = int(joined_c_bytes(design))
    if joined and largest > array.memory_tile_bank_bytes:
        reason = (
            f"the C of one column, joined in the memory tile, is one buffer of {kb(largest)}, and a bank has"
            f" {kb(array.memory_tile_bank_bytes)}: bank-aware allocation refuses it"
        )
        found.append(Violation("memory-tile-bank", reason, largest, array.memory_tile_bank_bytes))
    return found


def core_memory_reason(design: XdnaDesign, array: XdnaArray, stack_bytes: int) -> str:
    """Why a tile does not fit a core, with the bytes, and on how many cores that share its columns it would."""
    single = tile_buffers_bytes(design, (1, 1, 1))
    chosen = tile_buffers_bytes(design)
    least, planned = sum(single), sum(chosen)
    cores = "one core" if design.cores == 1 else f"each of {design.cores} cores"
    head = f"{design.tile_text} {design.dtype} on {cores} needs"
    limit = kb(array.core_memory_bytes)
    parts = ", ".join(f"{name} {kb(size)}" for name, size in zip("ABC", single, strict=True))
    if least + stack_bytes > array.core_memory_bytes:
        text = f"{head} {kb(least)} of {limit} even without double buffering ({parts}; and {kb(stack_bytes)} of stack)"
        if planned != least:
            text += f", {kb(planned)} with it"
    else:
        counts = f"{design.buffers_a}, {design.buffers_b} and {design.buffers_c} buffers of A, B and C"
        text = f"{head} {kb(planned)} of {limit} with {counts}, and {kb(stack_bytes)} of stack ({parts} each)"
    fit = _cores_that_fit(design, array, stack_bytes)
    if fit is not None:
        shared, columns, size = fit
        text += f"; on {shared} cores ({columns} columns each) {kb(size)}"
    return text


def _cores_that_fit(design: XdnaDesign, array: XdnaArray, stack_bytes: int) -> tuple[int, int, int] | None:
    """Fewest cores that, sharing the tile's columns, hold it with A and B double-buffered: cores, columns each, bytes."""
    of = unit(array, design.dtype, design.multiplication).n
    most = array.core_rows * array.core_columns
    shared = 2
    while shared * design.cores <= most:
        if design.tile_n % (shared * of) == 0:
            columns = design.tile_n // shared
            size = (
                2 * (design.tile_m + columns) * design.tile_k * design.itemsize
                + design.tile_m * columns * design.out_itemsize
            )
            if size + stack_bytes <= array.core_memory_bytes:
                return shared * design.cores, columns, size
        shared *= 2
    return None


def _divisibility_violations(design: XdnaDesign) -> list[Violation]:
    found = []
    for axis, size, multiple, what in (
        ("M", design.M, design.tile_m * design.rows, "m x rows"),
        ("K", design.K, design.tile_k, "k"),
        ("N", design.N, design.tile_n * design.columns, "n x columns"),
    ):
        if size % multiple:
            reason = f"{axis} = {size} of a dispatch is no multiple of {what} = {multiple}; pad it to {-(-size // multiple) * multiple}"
            found.append(Violation("divisibility", reason, size, multiple))
    for axis, edge in (("k", design.tile_k), ("n", design.tile_n)):
        if edge * design.itemsize % _WORD:
            reason = f"a row of {axis} = {edge} {design.dtype} is {edge * design.itemsize} bytes; DMA moves whole words of {_WORD}"
            found.append(Violation("divisibility", reason, edge * design.itemsize, _WORD))
    return found


def _descriptor_violations(design: XdnaDesign, array: XdnaArray) -> list[Violation]:
    if design.batch > 1:
        return []  # packed tiles follow one another: a descriptor of one run
    return [
        Violation(constraint, f"{int(needed):,} {what}, and a shim descriptor holds {limit:,}", int(needed), limit)
        for constraint, needed, limit, what in descriptor_limits(design, array)
        if needed > limit
    ]


def _program_violations(design: XdnaDesign, array: XdnaArray) -> list[Violation]:
    source = reported_overflow(design, array)
    if not source:
        return []
    reason = f"the core's program did not fit {kb(array.core_program_bytes)} of program memory: {source}"
    return [Violation("program-memory", reason, array.core_program_bytes + 1, array.core_program_bytes)]


def kb(size: int) -> str:
    """Bytes as KB of 1,024, as the vendor's documents count: `40 KB`, `3.25 KB`."""
    return f"{size / KB:.4g} KB" if size < 10_000 * KB else f"{size / KB / KB:.4g} MB"
