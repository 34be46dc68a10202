"""Elementwise ops: one `tensor_tensor`, `tensor_scalar`, `activation` or copy per chunk, as NKI's language lowers them.

- Two arrays: `tensor_tensor`. An array and a constant, or one number per row: `tensor_scalar`.
- A function that ScalarE has a table for: `activation`, which takes a constant factor or summand before it along.
- A constant operation whose only reader takes a second one joins it: `tensor_scalar` has two operators, and
  `scalar_tensor_tensor` one with a constant and one with an array.

Sources: AWS Neuron documentation, `nki.language` and `nki.isa` (engines per operator). Which of them the compiler joins is
a model.
"""

from __future__ import annotations

from typing import Final

from npuscope.formats.hlo import Op, Shape
from npuscope.simulate.hlo.broadcasts import Access, access, friendly_grid
from npuscope.simulate.hlo.layout import INTEGERS, Grid, elementwise_grid
from npuscope.simulate.hlo.recorder import SCALAR, SYNC, VECTOR, VECTOR_GPSIMD, VECTOR_SCALAR_GPSIMD, Recorder
from npuscope.simulate.hlo.values import Value
from npuscope.simulate.neuroncore.program import Box, Engine, Space

BINARY: Final = {
    "add": "add", "subtract": "subtract", "multiply": "multiply", "divide": "divide", "maximum": "max", "minimum": "min",
    "power": "power", "remainder": "mod", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
    "shift-left": "left_shift", "shift-right-logical": "right_shift", "shift-right-arithmetic": "arith_shift_right",
    "compare": "compare", "atan2": "atan2",
}  # fmt: skip
ACTIVATIONS: Final = {
    "exponential": "exp", "exponential-minus-one": "exp", "log": "log", "log-plus-one": "log", "logistic": "sigmoid", "tanh": "tanh",
    "rsqrt": "rsqrt", "sqrt": "sqrt", "cbrt": "cbrt", "sine": "sin", "cosine": "cos", "tan": "tan", "erf": "erf", "sign": "sign",
    "floor": "floor", "ceil": "ceil", "round-nearest-afz": "round", "round-nearest-even": "round", "is-finite": "is_finite",
    "acos": "acos", "asin": "asin", "atan": "arctan", "acosh": "acosh", "asinh": "asinh", "atanh": "atanh", "sinh": "sinh", "cosh": "cosh",
}  # fmt: skip
UNARY: Final = {
    "negate": "multiply", "abs": "abs", "not": "bitwise_not", "real": "copy", "imag": "copy", "popcnt": "popcnt",
    "count-leading-zeros": "clz",
}  # fmt: skip
COPIES: Final = frozenset({"convert", "copy", "reduce-precision", "copy-start", "stochastic-convert"})
_JOINED_BY_ACTIVATION: Final = frozenset({"multiply", "add", "subtract"})
_ONE: Final = (Space.SBUF,)
_TWO: Final = (Space.SBUF, Space.SBUF)
_WIDE: Final = 128
"""Columns from which on an instruction per row tile takes no longer than one for several with a second stream."""


def is_scalar_integer(shape: Shape) -> bool:
    """Whether a value is one whole number, which engines keep in registers: loop counters and indices."""
    return not shape.dimensions and shape.element_type in INTEGERS


def register(rec: Recorder, op: Op, operands: list[Value]) -> Value:
    """An operation on whole numbers in registers; nothing where all of them are known."""
    result = rec.new(op.shape)
    if all(value.is_uniform for value in operands):
        result.is_uniform = True
        return result
    result.is_register = True
    result.tiles = [rec.tile(Space.REGISTER, 1, 4, "")]
    reads = [rec.box(rec.ready(value), 0, 1) for value in operands if not value.is_uniform]
    work = rec.work("register_alu", 1, 1, "int32", "int32", (Space.REGISTER,), Space.REGISTER)
    rec.emit(work, SYNC, reads, [Box(result.tiles[0], 0, 1, 0, 4)])
    return result


def binary(rec: Recorder, op: Op, left: Value, right: Value, function: str, *, is_only_use: bool) -> Value:
    """An operator on two operands of one shape."""
    if left.is_uniform:
        if right.is_uniform:
            return _uniform(rec, op.shape)
        return scalar_operator(rec, op.shape, right, function, is_only_use=is_only_use)
    if right.is_uniform:
        return scalar_operator(rec, op.shape, left, function, is_only_use=is_only_use)
    opcode = "tensor_tensor"
    for one, other in ((left, right), (right, left)):
        if one.deferred and "+" not in one.deferred and one.base is not None:
            # An operator with a constant before one with an array: one instruction has both.
            opcode, function, left, right = "scalar_tensor_tensor", f"{one.deferred}+{function}", one.base, other
            break
    for operand in (left, right):
        if operand.deferred:
            apply_deferred(rec, operand)
    whole, second = left.whole, right.whole
    if whole is not None and second is not None and (left.grid is right.grid or left.grid == right.grid):
        dtype = left.dtype if left.itemsize >= right.itemsize else right.dtype
        sources = [whole] if left is right else [whole, second]
        engines = VECTOR_GPSIMD if opcode == "tensor_tensor" else VECTOR
        return rec.whole(opcode, function, rec.new(op.shape), left.grid, sources, dtype, engines)
    return _any_binary(rec, op, left, right, opcode, function)


def _any_binary(rec: Recorder, op: Op, left: Value, right: Value, opcode: str, function: str) -> Value:
    """An operator on two operands wherever they are."""
    result = rec.on_chip(op.shape, grid_for(rec, left, right))
    first, second = access(rec, left, result), access(rec, right, result)
    if first.scalar_tiles > second.scalar_tiles:
        first, second = second, first
    _two_operands(rec, result, first, second, opcode, function)
    return result


def grid_for(rec: Recorder, *operands: Value) -> Grid:
    """The grid of the first operand that lies on the chip, to which the others are brought; else the natural one.

    Another one where broadcasts would be moved number by number, and the arrays can be loaded so that they need not be.
    """
    shape = operands[0].shape
    broadcast = [value for value in operands if value.view == "broadcast" and value.base is not None]
    others = [value for value in operands if value not in broadcast and not value.is_uniform]
    grid = rec.new(shape).grid
    for value in others:
        ready = rec.ready(value) if value.base is not None else value
        if ready.tiles is not None:
            grid = ready.grid
            break
    else:
        in_memory = all(value.hbm is not None for value in operands)
        grid = elementwise_grid(grid) if in_memory else grid
    if broadcast and all(value.hbm is not None for value in others):
        return friendly_grid(shape, broadcast, grid)
    return grid


def _uniform(rec: Recorder, shape: Shape) -> Value:
    result = rec.new(shape)
    result.is_uniform = True
    return result


def _two_operands(rec: Recorder, result: Value, first: Access, second: Access, opcode: str, function: str) -> None:
    """Record an operator whose first operand is streamed."""
    left, right = first.value, second.value
    dtype = left.dtype if left.itemsize >= right.itemsize else right.dtype
    grid, out_dtype = result.grid, result.dtype
    most = min(first.most_tiles, second.most_tiles)
    if second.scalar_tiles == 1 and grid.columns >= _WIDE:
        most = 1  # one number per partition and row tile is an operand of `tensor_scalar`; several need a second stream

    def emit(start: int, stop: int) -> None:
        for low in range(start, stop, most):
            high = min(low + most, stop)
            for piece in range(grid.pieces):
                write = rec.write_box(result, low, high, piece)
                elements = (write.byte_stop - write.byte_start) // result.itemsize
                reads = [first.read(low, high, piece)]
                other = second.read(low, high, piece)
                if other != reads[0]:
                    reads.append(other)
                if high - low <= second.scalar_tiles:
                    work = rec.work(
                        "tensor_scalar", elements, write.row_stop, dtype, out_dtype, _ONE, function=function
                    )
                    rec.emit(work, rec.scalar_engines, reads, [write])
                else:
                    work = rec.work(opcode, elements, write.row_stop, dtype, out_dtype, _TWO, function=function)
                    rec.emit(work, VECTOR_GPSIMD if opcode == "tensor_tensor" else VECTOR, reads, [write])

    rec.by_rows(result, emit, [one.value for one in (first, second) if one.follows_rows])


def _engines(rec: Recorder, opcode: str) -> tuple[Engine, ...]:
    """Engines of an instruction with one stream."""
    if opcode == "activation":
        return SCALAR
    return VECTOR_SCALAR_GPSIMD if opcode == "tensor_copy" else rec.scalar_engines


def scalar_operator(rec: Recorder, shape: Shape, value: Value, function: str, *, is_only_use: bool) -> Value:
    """An operator with a constant; put off where its only reader may take it along."""
    if value.deferred and value.base is not None and "+" not in value.deferred:
        # Two operators of one `tensor_scalar`.
        return one_operand(rec, shape, value.base, "tensor_scalar", f"{value.deferred}+{function}")
    if is_only_use:
        result = rec.new(shape)
        base = value if value.whole is not None else rec.ready(value)
        result.base, result.deferred, result.grid = base, function, base.grid
        return result
    return one_operand(rec, shape, value, "tensor_scalar", function)


def apply_deferred(rec: Recorder, value: Value) -> None:
    """Record what was put off: its reader could not take it along."""
    base, function = value.base, value.deferred
    assert base is not None  # noqa: S101  # a deferred value has one
    value.base, value.deferred = None, ""
    if base.whole is not None:
        rec.whole("tensor_scalar", function, value, base.grid, [base.whole], base.dtype, rec.scalar_engines)
        return
    value.grid = base.grid
    value.tiles = rec.empty_tiles(value.grid)
    _one_operand_into(rec, value, base, "tensor_scalar", function)


def activation(rec: Recorder, op: Op, value: Value, function: str) -> Value:
    """A function of ScalarE, with a constant factor or summand before it."""
    if value.is_uniform:
        return _uniform(rec, op.shape)
    if value.deferred in _JOINED_BY_ACTIVATION and value.base is not None:
        value = value.base
    return one_operand(rec, op.shape, value, "activation", function)


def copy_of(rec: Recorder, op: Op, value: Value) -> Value:
    """A change of type, or a copy."""
    if value.is_uniform:
        return _uniform(rec, op.shape)
    if value.dtype == rec.new(op.shape).dtype and value.shape.dimensions == op.shape.dimensions and not value.deferred:
        return value  # the engines have one type for both
    return one_operand(rec, op.shape, value, "tensor_copy", "copy")


def one_operand(rec: Recorder, shape: Shape, value: Value, opcode: str, function: str) -> Value:
    """One instruction per chunk that streams one operand of the same shape."""
    value = rec.ready(value)
    if value.whole is not None:
        return rec.whole(
            opcode, function, rec.new(shape), value.grid, [value.whole], value.dtype, _engines(rec, opcode)
        )
    result = rec.on_chip(shape, value.grid)
    _one_operand_into(rec, result, value, opcode, function)
    return result


def _one_operand_into(rec: Recorder, result: Value, value: Value, opcode: str, function: str) -> None:
    value = rec.ready(value)
    grid = result.grid
    engines = _engines(rec, opcode)

    def emit(start: int, stop: int) -> None:
        for piece in range(grid.pieces):
            write = rec.write_box(result, start, stop, piece)
            elements = (write.byte_stop - write.byte_start) // result.itemsize
            work = rec.work(opcode, elements, write.row_stop, value.dtype, result.dtype, _ONE, function=function)
            rec.emit(work, engines, [rec.box(value, start, stop, piece)], [write])

    rec.by_rows(result, emit, (value,))


def select(rec: Recorder, op: Op, operands: list[Value]) -> Value:
    """A copy of one choice, and a predicated copy of the other over it."""
    predicate, chosen, other = operands
    if predicate.is_uniform:
        return chosen
    if chosen.is_uniform and other.is_uniform:
        return one_operand(rec, op.shape, predicate, "tensor_scalar", "multiply+add")
    if predicate.shape.dimensions != op.shape.dimensions:  # one truth value for all elements
        spread = rec.new(op.shape)
        spread.base, spread.view, spread.dimensions = predicate, "broadcast", ()
        predicate = spread
    result = rec.on_chip(op.shape, grid_for(rec, predicate, chosen, other))
    mask, first, second = (
        None if value.is_uniform else access(rec, value, result) for value in (predicate, chosen, other)
    )
    grid = result.grid
    accesses = [one for one in (mask, first, second) if one is not None]
    most = min(one.most_tiles for one in accesses)

    def emit(start: int, stop: int) -> None:
        for low in range(start, stop, most):
            high = min(low + most, stop)
            for piece in range(grid.pieces):
                write = rec.write_box(result, low, high, piece)
                elements = (write.byte_stop - write.byte_start) // result.itemsize
                if second is None:
                    fill = rec.work("memset", elements, write.row_stop, result.dtype, result.dtype, (), function="fill")
                    rec.emit(fill, VECTOR_GPSIMD, [], [write])
                else:
                    copy = rec.work(
                        "tensor_copy", elements, write.row_stop, second.value.dtype, result.dtype, _ONE, function="copy"
                    )
                    rec.emit(copy, VECTOR_SCALAR_GPSIMD, [second.read(low, high, piece)], [write])
                reads = [one.read(low, high, piece) for one in (mask, first) if one is not None]
                sources = _TWO if first is not None else _ONE
                work = rec.work("tensor_copy_predicated", elements, write.row_stop, result.dtype, result.dtype, sources)
                rec.emit(work, VECTOR_GPSIMD[:1], reads, [write])

    rec.by_rows(result, emit, [one.value for one in accesses if one.follows_rows])
    return result


def clamp(rec: Recorder, op: Op, operands: list[Value]) -> Value:
    """Between two bounds: one `tensor_scalar` where they are constants."""
    low, value, high = operands
    if low.is_uniform and high.is_uniform:
        return value if value.is_uniform else one_operand(rec, op.shape, value, "tensor_scalar", "max+min")
    for bound, function in ((low, "max"), (high, "min")):
        if bound.shape.dimensions != op.shape.dimensions and not bound.is_uniform:
            spread = rec.new(op.shape)
            spread.base, spread.view, spread.dimensions = bound, "broadcast", ()
            bound = spread
        value = binary(rec, op, value, bound, function, is_only_use=False)
    return value


def fill(rec: Recorder, op: Op, opcode: str) -> Value:
    """An array that follows from nothing: `iota` on GpSimd, random bits."""
    from npuscope.simulate.hlo.recorder import GPSIMD

    result = rec.on_chip(op.shape)
    grid = result.grid

    def emit(start: int, stop: int) -> None:
        for piece in range(grid.pieces):
            write = rec.write_box(result, start, stop, piece)
            elements = (write.byte_stop - write.byte_start) // result.itemsize
            work = rec.work(opcode, elements, write.row_stop, result.dtype, result.dtype, ())
            rec.emit(work, GPSIMD if opcode == "iota" else VECTOR, [], [write])

    rec.by_rows(result, emit)
    return result
