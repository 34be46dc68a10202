"""Ops without a lowering: GpSimd stands for them, conservatively, and they are listed."""

from __future__ import annotations

import math

from npuscope.formats.hlo import Op, Shape
from npuscope.simulate.hlo.layout import PARTITIONS
from npuscope.simulate.hlo.recorder import GPSIMD, Recorder
from npuscope.simulate.hlo.values import Value, flat, tuple_of
from npuscope.simulate.neuroncore.program import Space


def conservative(rec: Recorder, op: Op, operands: list[Value]) -> Value:
    """An op that has no lowering: GpSimd goes over all operands and results, as often as a plain algorithm would."""
    rec.unlowered[op.name] = op.opcode
    arrays = [
        rec.natural(value)
        for operand in operands
        for value in flat(operand)
        if value.shape.elements and not value.is_uniform
    ]
    rec.flush()
    shapes = op.shape.parts or (op.shape,)
    results = [rec.on_chip(shape) for shape in shapes]
    reads = [
        rec.box(value, start, min(start + value.grid.tiles_per_chunk, value.grid.row_tiles), piece)
        for value in arrays
        for start in range(0, value.grid.row_tiles, value.grid.tiles_per_chunk)
        for piece in range(value.grid.pieces)
    ]
    largest = max((*arrays, *results), key=lambda value: value.shape.elements)
    elements = -(-largest.shape.elements // PARTITIONS) * _passes(op, largest.shape)
    first = True
    for result in results:
        grid = result.grid
        for start in range(0, grid.row_tiles, grid.tiles_per_chunk):
            for piece in range(grid.pieces):
                write = rec.write_box(result, start, min(start + grid.tiles_per_chunk, grid.row_tiles), piece)
                work = rec.work(
                    "unlowered",
                    elements if first else 1,
                    write.row_stop,
                    largest.dtype,
                    result.dtype,
                    function=op.opcode,
                )
                rec.emit(work, GPSIMD, list(reads) if first else [], [write])
                first = False
    if first and reads:  # no result to write: a sink
        work = rec.work(
            "unlowered", elements, 1, largest.dtype, largest.dtype, (Space.SBUF,), Space.REGISTER, op.opcode
        )
        rec.emit(work, GPSIMD, reads, [])
    return tuple_of(op.shape, results) if op.shape.parts else results[0]


def _passes(op: Op, shape: Shape) -> int:
    """Passes over the data of a plain algorithm: a bitonic network for sorts, butterflies for Fourier transforms."""
    size = max(2, max(shape.dimensions, default=2))
    steps = math.ceil(math.log2(size))
    if op.opcode in ("sort", "topk"):
        return steps * (steps + 1) // 2
    if op.opcode == "fft":
        return 5 * steps  # 5 n log2(n) operations of real numbers
    if op.opcode in ("cholesky", "triangular-solve", "custom-call"):
        return size  # a custom call may be a factorisation; what it does is not known
    return 1
