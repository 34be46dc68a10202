"""What each op of HLO becomes that calls no other computation: one method per kind."""

from __future__ import annotations

from typing import Final

from npuscope.formats.hlo import HloModule, Op
from npuscope.simulate.hlo import addressed, elementwise, movement, reductions
from npuscope.simulate.hlo.conservative import conservative
from npuscope.simulate.hlo.dots import convolution, dot
from npuscope.simulate.hlo.layout import INTEGERS
from npuscope.simulate.hlo.recorder import Recorder
from npuscope.simulate.hlo.values import Value, in_hbm, parts_of, tuple_of, uniform, value_of
from npuscope.simulate.neuroncore.program import Space

_PASSED_ON: Final = frozenset(
    {b"Sharding", b"SPMDFullToShardShape", b"SPMDShardToFullShape", b"annotate_device_placement"}
)
"""Custom calls that say where a value belongs, and compute nothing."""


class Ops:
    """Lowerings by kind of op; each takes the op, its operands, and whether its value is used once."""

    def __init__(self, module: HloModule, recorder: Recorder) -> None:
        self.module = module
        self.rec = recorder

    def tuple_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`tuple`."""
        return tuple_of(op.shape, operands)

    def element_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`element`."""
        parts = parts_of(operands[0])
        index = op.attributes.tuple_index
        return parts[index] if 0 <= index < len(parts) else value_of(op.shape)

    def constant_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`constant`."""
        if op.shape.parts:
            return tuple_of(op.shape, [uniform(part) for part in op.shape.parts])
        if op.shape.elements <= 1:
            value = self.rec.new(op.shape)
            value.is_uniform = True
            return value
        value = value_of(op.shape)
        tile = self.rec.tile(Space.HBM, max(1, value.grid.rows), value.grid.columns * value.itemsize, op.name)
        return in_hbm(op.shape, tile, op.shape.elements, is_input=True)

    def binary_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`binary`."""
        rec = self.rec
        if elementwise.is_scalar_integer(operands[0].shape):
            return elementwise.register(rec, op, operands)
        return elementwise.binary(
            rec, op, operands[0], operands[1], elementwise.BINARY[op.opcode], is_only_use=is_only_use
        )

    def activation_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`activation`."""
        return elementwise.activation(self.rec, op, operands[0], elementwise.ACTIVATIONS[op.opcode])

    def unary_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`unary`."""
        value = operands[0]
        if elementwise.is_scalar_integer(value.shape):
            return elementwise.register(self.rec, op, operands)
        if value.is_uniform:
            return movement.reshape(self.rec, op.shape, value)
        return elementwise.scalar_operator(
            self.rec, op.shape, value, elementwise.UNARY[op.opcode], is_only_use=is_only_use
        )

    def copy_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`copy`."""
        value = operands[0]
        if elementwise.is_scalar_integer(value.shape) and op.shape.element_type in INTEGERS:
            return value
        return elementwise.copy_of(self.rec, op, value)

    def select_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`select`."""
        if all(elementwise.is_scalar_integer(value.shape) for value in operands):
            return elementwise.register(self.rec, op, operands)
        return elementwise.select(self.rec, op, operands)

    def clamp_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`clamp`."""
        if elementwise.is_scalar_integer(op.shape):
            return elementwise.register(self.rec, op, operands)
        return elementwise.clamp(self.rec, op, operands)

    def iota_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`iota`."""
        return elementwise.fill(self.rec, op, "iota")

    def random_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`random`."""
        if not op.shape.parts:
            return elementwise.fill(self.rec, op, "rng")
        bits = elementwise.fill(self.rec, op._replace(shape=op.shape.parts[-1]), "rng")
        return tuple_of(op.shape, [*operands[: len(op.shape.parts) - 1], bits])

    def reshape_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`reshape`."""
        return movement.reshape(self.rec, op.shape, operands[0])

    def broadcast_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`broadcast`."""
        return movement.broadcast(self.rec, op, operands[0])

    def transpose_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`transpose`."""
        return movement.transpose(self.rec, op, operands[0])

    def same_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`same`."""
        return operands[0] if operands else value_of(op.shape)

    def nothing_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`nothing`."""
        return tuple_of(op.shape, [uniform(part) for part in op.shape.parts]) if op.shape.parts else uniform(op.shape)

    def dot_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`dot`."""
        if operands[0].shape.element_type in INTEGERS:
            self.rec.notes["matmuls of whole numbers are counted as float32: TensorE has none for them"] = None
        if operands[0].shape.element_type.startswith("f8"):
            self.rec.notes[
                "matmuls of 8-bit floats are counted at the rate of bf16: no performance mode is assumed"
            ] = None
        return dot(self.rec, op, operands[0], operands[1])

    def convolution_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`convolution`; one in groups, such as a depthwise one, has no lowering."""
        if max(op.attributes.feature_group_count, op.attributes.batch_group_count) > 1:
            return conservative(self.rec, op, operands)
        return convolution(self.rec, op, operands[0], operands[1])

    def reduce_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`reduce`."""
        if not op.shape.parts:
            return reductions.reduce(self.rec, self.module, op, operands)
        first = reductions.reduce(self.rec, self.module, op._replace(shape=op.shape.parts[0]), operands)
        others = [movement.reshape(self.rec, part, first) for part in op.shape.parts[1:]]
        return tuple_of(op.shape, [first, *others])

    def reduce_window_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`reduce-window`."""
        if op.shape.parts:
            return conservative(self.rec, op, operands)
        return reductions.reduce_window(self.rec, self.module, op, operands)

    def slice_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`slice`."""
        return movement.slice_of(self.rec, op, operands[0])

    def concatenate_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`concatenate`."""
        return movement.concatenate(self.rec, op, operands)

    def pad_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`pad`."""
        return movement.pad(self.rec, op, operands)

    def reverse_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`reverse`."""
        return movement.reverse(self.rec, op, operands[0])

    def dynamic_slice_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`dynamic-slice`."""
        return addressed.dynamic_slice(self.rec, op, operands)

    def dynamic_update_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`dynamic-update`."""
        return addressed.dynamic_update_slice(self.rec, op, operands)

    def gather_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`gather`."""
        return addressed.gather(self.rec, op, operands)

    def scatter_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`scatter`."""
        if op.shape.parts:
            return conservative(self.rec, op, operands)
        return addressed.scatter(self.rec, op, operands)

    def custom_call_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """`custom-call`."""
        if op.attributes.custom_call_target in _PASSED_ON and operands:
            return operands[0]
        return conservative(self.rec, op, operands)

    def unknown_(self, op: Op, operands: list[Value], is_only_use: bool) -> Value:
        """No lowering."""
        return conservative(self.rec, op, operands)
