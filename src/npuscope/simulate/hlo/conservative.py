"""Ops without a lowering: GpSimd stands for them, conservatively, and they are listed."""

from __future__ import annotations

import math

from npuscope.formats.hlo import Op, Shape
from npuscope.simulate.hlo.layout import PARTITIONS
from npuscope.simulate.hlo.recorder import GPSIMD, Recorder
from npuscope.simulate.hlo.values import Value, flat, tuple_of
from npuscope.simulate.neuroncore.program import Box, Space


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
    results = [rec.on_chip(shape) for shape in op.shape.parts or (op.shape,)]
    largest = max((*arrays, *results), key=lambda value: value.shape.elements)
    elements = -(-largest.shape.elements // PARTITIONS) * _passes(op, largest.shape)
    places = [(value, *place) for value in arrays for place in value.grid.parts()]
    # All of the operands come before any of the results; each instruction touches one tile, so that no size is too large.
    seen = Box(rec.tile(Space.REGISTER, 1, 4, ""), 0, 1, 0, 4)
    share = -(-elements // max(1, len(places)))
    for value, start, stop, piece in places:
        read = rec.box(value, start, stop, piece)
        work = rec.work(
            "unlowered", share, read.row_stop, largest.dtype, largest.dtype, (Space.SBUF,), Space.REGISTER, op.opcode
        )
        rec.emit(work, GPSIMD, [read], [seen])
    for result in results:
        for start, stop, piece in result.grid.parts():
            write = rec.write_box(result, start, stop, piece)
            count = 1 if places else (write.byte_stop - write.byte_start) // result.itemsize
            work = rec.work(
                "unlowered", count, write.row_stop, largest.dtype, result.dtype, (Space.REGISTER,), function=op.opcode
            )
            rec.emit(work, GPSIMD, [seen] if places else [], [write])
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
