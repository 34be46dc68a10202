"""Matrix products, transposes and microscaling of the current `nki.isa`.

Semantics and limits: AWS Neuron documentation of NKI 0.6, `nki.isa`.
"""
# ruff: noqa: ARG001 - keywords that the documented signatures have and that change nothing here

from __future__ import annotations

from enum import Enum
from typing import Any, Final

import numpy as np

from npuscope.simulate.neuroncore.program import Box, Engine, Space, Work
from npuscope.simulate.nki import emit, mx
from npuscope.simulate.nki import instruction_math as im
from npuscope.simulate.nki.classic_isa_matmul import (
    MAX_CONTRACTION,
    MAX_MOVING_COLUMNS,
    MAX_STATIONARY_COLUMNS,
    check_matmul,
    check_pe_tile,
    record_transpose,
    transpose_engine,
    transposed,
)
from npuscope.simulate.nki.current_memory import note_write
from npuscope.simulate.nki.current_operands import (
    ISSUED,
    NkiInstruction,
    issue,
    needs_dtype,
    needs_generation,
    needs_space,
    reads,
)
from npuscope.simulate.nki.isa_enums import engine as engines
from npuscope.simulate.nki.isa_operands import flat_value, write
from npuscope.simulate.nki.numerics import Array, to_float32
from npuscope.simulate.nki.tensors import Tensor
from npuscope.simulate.nki.trace import KernelError, current, current_line

_WIDE_COLUMNS: Final = {"float32": 4096, "bfloat16": 8192}
"""Widest moving tile from v4 on, by the type of `dst`: all of PSUM."""
_DOUBLED: Final = ("float8_e4m3", "float8_e5m2", "float8_e4m3fn")
_SCALES: Final = ("uint8", "float8_e8m0fnu")


class matmul_perf_mode(Enum):  # noqa: N801 - the name that kernels use
    """How the Tensor engine runs a matmul."""

    none = "none"
    double_row = "double_row"


def nc_matmul(
    dst: Tensor,
    stationary: Tensor,
    moving: Tensor,
    is_stationary_onezero: bool = False,
    is_moving_onezero: bool = False,
    is_transpose: bool = False,
    accumulate: bool | None = None,
    tile_position: Any = (),
    tile_size: Any = (),
    perf_mode: Any = matmul_perf_mode.none,
    name: Any = None,
) -> NkiInstruction:
    """`stationary.T @ moving` into PSUM; the first matmul of a location writes, later ones add unless told otherwise."""
    if perf_mode in (matmul_perf_mode.double_row, "double_row"):
        return _double_row(dst, stationary, moving, accumulate)
    trace = current()
    reads("nc_matmul", stationary, moving)
    if trace.nc_version >= 4 and moving.elements > MAX_MOVING_COLUMNS:
        one_column = (slice(None), *[slice(0, 1)] * (moving.ndim - 1))
        check_matmul(stationary, moving[one_column])
        _needs_columns("nc_matmul", moving, _WIDE_COLUMNS.get(emit.name_of(dst.dtype), MAX_MOVING_COLUMNS))
    else:
        check_matmul(stationary, moving)
    if tile_position or tile_size:
        check_pe_tile(stationary, tile_position, tile_size)
    _check_result("nc_matmul", dst, stationary.elements, moving.elements)
    _check_result_type(dst, stationary, is_transpose=is_transpose)
    box, adds = _accumulates("nc_matmul", dst, accumulate)
    hint = "onezero" if is_stationary_onezero or is_moving_onezero else ""
    number = emit.matmul(stationary, moving, dst, is_transpose=is_transpose, line=current_line(), function=hint)
    dst.storage.root.writer = -1
    if adds:
        trace.builder.retarget(number, box, accumulates=True)
    if trace.compute:
        _store(dst, im.matmul(flat_value(stationary), flat_value(moving)), adds=adds)
    return ISSUED


def _check_result(opcode: str, dst: Any, rows: int, columns: int) -> None:
    if not isinstance(dst, Tensor) or dst.space is not Space.PSUM:
        raise KernelError(f"{opcode}: dst must be a tile in PSUM")
    if dst.partitions != rows or dst.elements != columns:
        raise KernelError(f"{opcode}: dst has shape {list(dst.shape)}, the product [{rows}, {columns}]")


def _check_result_type(dst: Tensor, stationary: Tensor, *, is_transpose: bool) -> None:
    version = current().nc_version
    allowed = {"float32"} if version < 4 else {"float32", "bfloat16"}
    if is_transpose and version >= 3:
        allowed = {emit.name_of(stationary.dtype)}
    if emit.name_of(dst.dtype) not in allowed:
        raise KernelError(f"nc_matmul: dst is {emit.name_of(dst.dtype)}; it must be {' or '.join(sorted(allowed))}")


def _needs_columns(opcode: str, moving: Tensor, limit: int) -> None:
    if moving.elements > limit:
        raise KernelError(f"{opcode}: moving tile has {moving.elements} columns, at most {limit}")


def _accumulates(opcode: str, dst: Tensor, accumulate: bool | None) -> tuple[Box, bool]:
    """The box that a matmul writes, and whether it adds to what is there.

    Raises:
        KernelError: The kernel asks to add where no matmul wrote, which is undefined on hardware.
    """
    box = dst.boxes()[0]
    root = dst.storage.root
    if root.summed is None:
        root.summed = set()
    written = box in root.summed or any(_holds(other, box) for other in root.summed)
    if accumulate and not written and current().nc_version < 4:
        raise KernelError(f"{opcode}: accumulate=True, but no matmul wrote this part of PSUM before")
    if not written:
        root.summed.add(box)
    note_write(dst)
    return box, written if accumulate is None else bool(accumulate)


def _holds(outer: Any, inner: Box) -> bool:
    """Whether a box lies inside another."""
    return bool(
        outer[1] <= inner.row_start
        and inner.row_stop <= outer[2]
        and outer[3] <= inner.byte_start
        and inner.byte_stop <= outer[4]
    )


def _store(dst: Tensor, product: Array, *, adds: bool) -> None:
    values = product.reshape(dst.shape)
    write(dst, to_float32(dst.value()) + values if adds else values)


def _double_row(dst: Tensor, stationary: Tensor, moving: Tensor, accumulate: bool | None) -> NkiInstruction:
    """A float8 matmul of twice the contraction: the first free axis, of size 2, is contracted, too."""
    opcode = "nc_matmul"
    needs_generation(f"{opcode} with perf_mode double_row", 3)
    reads(opcode, stationary, moving)
    for label, tile in (("stationary", stationary), ("moving", moving)):
        needs_space(opcode, label, tile, Space.SBUF)
        needs_dtype(opcode, label, tile, *_DOUBLED)
        if tile.ndim < 3 or tile.shape[1] != 2:
            raise KernelError(f"{opcode}: {label} has shape {list(tile.shape)}; double_row needs [K, 2, ...]")
    rows, columns = stationary.elements // 2, moving.elements // 2
    _check_sizes(opcode, stationary, moving, rows)
    _needs_columns(opcode, moving[:, 0], MAX_MOVING_COLUMNS)
    _check_result(opcode, dst, rows, columns)
    adds = _record(opcode, dst, (stationary, moving), (rows, columns, 2), accumulate, function="double_row")
    if current().compute:
        pair = [tile.value().reshape(tile.shape[0], 2, -1) for tile in (stationary, moving)]
        product = im.matmul(pair[0][:, 0], pair[1][:, 0]) + im.matmul(pair[0][:, 1], pair[1][:, 1])
        _store(dst, product, adds=adds)
    return ISSUED


def _check_sizes(opcode: str, stationary: Tensor, moving: Tensor, columns: int) -> None:
    if stationary.shape[0] != moving.shape[0] or stationary.shape[0] > MAX_CONTRACTION:
        raise KernelError(
            f"{opcode}: stationary tile has {stationary.shape[0]} partitions, moving tile {moving.shape[0]};"
            f" they must be equal and at most {MAX_CONTRACTION}"
        )
    if columns > MAX_STATIONARY_COLUMNS:
        raise KernelError(f"{opcode}: stationary tile has {columns} columns, at most {MAX_STATIONARY_COLUMNS}")


def _record(
    opcode: str,
    dst: Tensor,
    inputs: tuple[Tensor, ...],
    sizes: tuple[int, int, int],
    accumulate: bool | None,
    function: str = "",
) -> bool:
    """Record a matmul that contracts more than its partitions; whether it adds to `dst`.

    Args:
        opcode: As `nki.isa` calls it.
        dst: [M, N] in PSUM.
        inputs: Stationary and moving tile, then what else is read.
        sizes: M, N, and how many elements of a partition are contracted.
        accumulate: As the kernel asks.
        function: For the cost.
    """
    box, adds = _accumulates(opcode, dst, accumulate)
    rows, columns, depth = sizes
    stationary, moving = inputs[:2]
    work = Work(
        "nc_matmul",
        elements=columns,
        partitions=stationary.shape[0],
        dtype=emit.name_of(moving.dtype),
        out_dtype=emit.name_of(dst.dtype),
        sources=(Space.SBUF, Space.SBUF),
        destination=Space.PSUM,
        contiguous=stationary.contiguous and moving.contiguous,
        function=function,
        columns=rows,
        flops=2 * depth * stationary.shape[0] * rows * columns,
    )
    builder = current().builder
    builder.instruction(work, emit.TENSOR, emit.reads_of(inputs), (box,), current_line(), accumulates=adds)
    return adds


def nc_transpose(dst: Tensor, data: Tensor, engine: Any = engines.unknown, name: Any = None) -> NkiInstruction:
    """Swap partitions and free elements, on Tensor from SBUF into PSUM, or on Vector up to 32 by 32."""
    emit.on_chip("nc_transpose", dst=dst, data=data)
    reads("nc_transpose", data)
    if dst.partitions != data.elements or dst.elements != data.partitions:
        raise KernelError(f"nc_transpose: dst has shape {list(dst.shape)}, the transpose of {list(data.shape)} not")
    if dst.dtype != data.dtype:
        raise KernelError(f"nc_transpose: dst is {emit.name_of(dst.dtype)}, data {emit.name_of(data.dtype)}")
    chosen = transpose_engine(data, engine)
    if chosen is Engine.TENSOR and dst.space is not Space.PSUM:
        raise KernelError("nc_transpose: dst is in SBUF; the Tensor engine writes PSUM only")
    record_transpose(data, dst, chosen, current_line(), is_fresh=False)
    note_write(dst)
    if current().compute:
        write(dst, transposed(data))
    return ISSUED


def _check_scale(opcode: str, label: str, scale: Tensor, data: Tensor) -> None:
    """Check that a tile of scales has a place for every group of `data`."""
    needs_space(opcode, label, scale, Space.SBUF)
    needs_dtype(opcode, label, scale, *_SCALES)
    rows = int(mx.scale_rows(data.partitions)[-1]) + 1
    if scale.partitions < rows or scale.elements < data.elements:
        raise KernelError(f"{opcode}: {label} has shape {list(scale.shape)}; it must have [{rows}, {data.elements}]")


def nc_matmul_mx(
    dst: Tensor,
    stationary: Tensor,
    moving: Tensor,
    stationary_scale: Tensor,
    moving_scale: Tensor,
    tile_position: Any = (),
    tile_size: Any = (),
    accumulate: bool | None = None,
    name: Any = None,
) -> NkiInstruction:
    """A matmul of MXFP8 or MXFP4 tiles that applies their scales, on the Tensor engine of v4."""
    opcode = "nc_matmul_mx"
    needs_generation(opcode, 4)
    inputs = (stationary, moving, stationary_scale, moving_scale)
    reads(opcode, *inputs)
    for label, tile, scale in (("stationary", stationary, stationary_scale), ("moving", moving, moving_scale)):
        needs_space(opcode, label, tile, Space.SBUF)
        if not mx.is_packed(tile.dtype):
            raise KernelError(f"{opcode}: {label} is {emit.name_of(tile.dtype)}; it must be a packed _x4 type")
        if tile.partitions % mx.QUADRANT:
            raise KernelError(f"{opcode}: {label} has {tile.partitions} partitions; expected a multiple of 32")
        _check_scale(opcode, f"{label}_scale", scale, tile)
    rows, columns = stationary.elements, moving.elements
    _check_sizes(opcode, stationary, moving, rows)
    _needs_columns(opcode, moving, _WIDE_COLUMNS.get(emit.name_of(dst.dtype), 0))
    _check_result(opcode, dst, rows, columns)
    adds = _record(opcode, dst, inputs, (rows, columns, mx.GROUP_ELEMENTS), accumulate, function="mx")
    if current().compute:
        left = mx.dequantize(flat_value(stationary), flat_value(stationary_scale))
        right = mx.dequantize(flat_value(moving), flat_value(moving_scale))
        _store(dst, mx.multiply(left, right), adds=adds)
    return ISSUED


def quantize_mx(dst: Tensor, src: Tensor, dst_scale: Tensor, name: Any = None) -> NkiInstruction:
    """Quantize a float16 or bfloat16 tile to MXFP8, on the Vector engine of v4."""
    opcode = "quantize_mx"
    needs_generation(opcode, 4)
    emit.on_chip(opcode, dst=dst, src=src, dst_scale=dst_scale)
    needs_dtype(opcode, "src", src, "float16", "bfloat16")
    if not mx.is_quantizable(dst.dtype):
        raise KernelError(f"{opcode}: dst is {emit.name_of(dst.dtype)}; it must be float8_e5m2_x4 or float8_e4m3fn_x4")
    for label, tile in (("src", src), ("dst", dst)):
        needs_space(opcode, label, tile, Space.SBUF)
    if src.partitions % mx.QUADRANT or src.elements % mx.GROUP_ELEMENTS or dst.partitions != src.partitions:
        raise KernelError(
            f"{opcode}: src has shape {list(src.shape)}; expected multiples of 32 and 4, partitions as dst"
        )
    if dst.elements * mx.GROUP_ELEMENTS != src.elements:
        raise KernelError(f"{opcode}: dst has {dst.elements} elements per partition; expected {src.elements // 4}")
    _check_scale(opcode, "dst_scale", dst_scale, dst)

    def compute() -> Array:
        values, scales = mx.quantize(flat_value(src), dst.dtype)
        found = flat_value(dst_scale).view(np.uint8).copy()
        found[mx.scale_rows(src.partitions), : dst.elements] = scales
        dst_scale.assign(found.view(dst_scale.dtype).reshape(dst_scale.shape))
        return values

    note_write(dst_scale)
    return issue(opcode, emit.VECTOR, (src,), dst, compute, also_writes=(dst_scale,))
