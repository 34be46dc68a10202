"""Instructions of the current `nki.isa` that go on with the accumulators of an engine: activations, running reductions.

The Scalar and the Vector engine have one accumulator per partition each, which both dialects share and which live from
one instruction to the next. Semantics: AWS Neuron documentation of NKI 0.6, `nki.isa`.
"""
# ruff: noqa: ARG001 - keywords that the documented signatures have and that change nothing here

from __future__ import annotations

from typing import Any, Final

import numpy as np

from npuscope.simulate.nki import classic_isa as classic
from npuscope.simulate.nki import current_math, emit
from npuscope.simulate.nki.activations import activate
from npuscope.simulate.nki.classic_isa_activation import _register_writes as register_writes
from npuscope.simulate.nki.classic_isa_activation import _registers as registers_of
from npuscope.simulate.nki.current_operands import NkiInstruction, into, issue, needs_generation, reads
from npuscope.simulate.nki.isa_enums import FP32_MIN
from npuscope.simulate.nki.isa_enums import reduce_cmd as commands
from npuscope.simulate.nki.isa_operands import (
    activation_function,
    alu_op,
    flat_value,
    reduction_op,
    same_size,
    scalar_tiles,
    scalar_value,
    write,
)
from npuscope.simulate.nki.numerics import Array, Op, apply_op, function_name, reduce_values, to_float32
from npuscope.simulate.nki.tensors import Tensor
from npuscope.simulate.nki.trace import KernelError

_STARTS: Final = (commands.reset_reduce, commands.load_reduce)
_BYPASS: Final = "bypass"
_ACTIVATE2_STEPS: Final = frozenset(
    {
        ("multiply", "add"),
        ("multiply", "subtract"),
        ("multiply", _BYPASS),
        ("add", _BYPASS),
        ("subtract", _BYPASS),
        (_BYPASS, _BYPASS),
    }
)


def accumulate(
    engine: str, command: Any, op: Op, values: Array, initial: Any, reduce_res: Tensor | None, *, negate: bool = False
) -> None:
    """What the accumulators of an engine do beside an elementwise result.

    Args:
        engine: `vector` or `activation`.
        command: A member of `reduce_cmd`.
        op: ALU operator that reduces.
        values: Elementwise result, [P, F].
        initial: Scalar or [P, 1], for `load_reduce`.
        reduce_res: Takes the accumulators; None leaves them in the engine.
        negate: Change the sign on the way to `reduce_res`.
    """
    state = registers_of(engine)[: len(values)]
    start: Any = initial if command == commands.load_reduce else current_math.identity_of(op)
    if command == commands.reset or command in _STARTS:
        write(state, np.broadcast_to(np.asarray(start, np.float32), state.shape))
    if command == commands.reduce or command in _STARTS:
        write(state, apply_op(op, state.value(), reduce_values(op, to_float32(values), (1,))))
    if reduce_res is not None:
        write(reduce_res, -state.value() if negate else state.value())


def activation(
    dst: Tensor,
    op: Any,
    data: Tensor,
    bias: Any = None,
    scale: Any = 1.0,
    reduce_op: Any = None,
    reduce_res: Tensor | None = None,
    reduce_cmd: Any = commands.idle,
    name: Any = None,
) -> NkiInstruction:
    """`op(data * scale + bias)`, and where asked for its sum along the free axes, on Scalar."""
    reads("activation", data, bias, scale)
    result = classic.activation(
        op,
        data,
        bias=bias,
        scale=scale,
        reduce_op=reduce_op,
        reduce_res=reduce_res,
        reduce_cmd=reduce_cmd,
        dtype=dst.dtype,
    )
    return into("activation", dst, result)


def activation_reduce(
    dst: Tensor,
    op: Any,
    data: Tensor,
    reduce_op: Any,
    reduce_res: Tensor | None,
    bias: Any = None,
    scale: Any = 1.0,
    name: Any = None,
) -> NkiInstruction:
    """`activation` whose sum along the free axes starts from zero and goes to `reduce_res`, on Scalar."""
    return activation(dst, op, data, bias, scale, reduce_op, reduce_res, commands.reset_reduce)


def activate2(
    dst: Tensor,
    op: Any,
    data: Tensor,
    imm0: Any,
    imm1: Any,
    op0: Any,
    op1: Any,
    relu_param: Any = 0.0,
    reverse0: bool = False,
    reverse1: bool = False,
    reduce_op: Any = None,
    reduce_res: Tensor | None = None,
    reduce_cmd: Any = commands.idle,
    name: Any = None,
) -> NkiInstruction:
    """`op((data op0 imm0) op1 imm1)`, and where asked for its reduction, on the Scalar engine of v4."""
    needs_generation("activate2", 4)
    emit.on_chip("activate2", data=data)
    same_size("activate2", dst=dst, data=data)
    names = (function_name(op0), function_name(op1))
    if names not in _ACTIVATE2_STEPS:
        raise KernelError(f"activate2: {names[0]} followed by {names[1]} is not supported")
    function = "prelu" if function_name(op) == "prelu" else activation_function("activate2", op)
    reducer = alu_op("activate2", "add" if reduce_op is None else reduce_op)
    operands = [(names[0], imm0, reverse0), (names[1], imm1, reverse1)]

    def compute() -> Array:
        values: Array = to_float32(data.value())
        for step, operand, reverse in operands:
            if step != _BYPASS:
                values = apply_op(alu_op("activate2", step), values, scalar_value(operand, data), reverse=reverse)
        if function == "prelu":
            values = np.where(values > 0, values, values * np.float32(1) * scalar_value(relu_param, data))
        else:
            values = activate(function, values, 1.0, None)
        accumulate("activation", reduce_cmd, reducer, values.reshape(data.partitions, -1), 0.0, reduce_res)
        return values

    return issue(
        "activation" if reduce_res is None else "activation_reduce",
        emit.SCALAR,
        (data,),
        dst,
        compute,
        scalars=scalar_tiles("activate2", data, imm0=imm0, imm1=imm1, relu_param=relu_param),
        function=function,
        also_writes=register_writes("activation", data, reduce_cmd, reduce_res),
    )


def range_select(
    dst: Tensor,
    on_true_tile: Tensor,
    comp_op0: Any,
    comp_op1: Any,
    bound0: Tensor,
    bound1: Tensor,
    reduce_cmd: Any = commands.reset_reduce,
    reduce_res: Tensor | None = None,
    reduce_op: Any = "maximum",
    range_start: int = 0,
    on_false_value: float = FP32_MIN,
    name: Any = None,
) -> NkiInstruction:
    """Keep elements whose position satisfies both comparisons, on Vector of v3 and later."""
    needs_generation("range_select", 3)
    reads("range_select", on_true_tile, bound0, bound1)
    result = classic.range_select(
        on_true_tile=on_true_tile,
        comp_op0=comp_op0,
        comp_op1=comp_op1,
        bound0=bound0,
        bound1=bound1,
        reduce_cmd=reduce_cmd,
        reduce_res=reduce_res,
        reduce_op=reduce_op,
        range_start=range_start,
        on_false_value=on_false_value,
        dtype=dst.dtype,
    )
    return into("range_select", dst, result)


def tensor_scalar_reduce(
    dst: Tensor,
    data: Tensor,
    op0: Any,
    operand0: Any,
    reduce_op: Any,
    reduce_res: Tensor | None = None,
    reverse0: bool = False,
    reduce_cmd: Any = commands.reset_reduce,
    reduce_init: Any = None,
    reduce_res_negate: bool = False,
    name: Any = None,
) -> NkiInstruction:
    """`data op0 operand0`, and its reduction along all free axes in the Vector engine's accumulators."""
    opcode = "tensor_scalar_reduce"
    emit.on_chip(opcode, data=data)
    same_size(opcode, dst=dst, data=data)
    operator, reducer = alu_op(opcode, op0), reduction_op(opcode, reduce_op)
    if operator.is_bitwise or reducer.is_bitwise:
        raise KernelError(f"{opcode}: bitwise operators are not supported")
    if (reduce_init is not None) != (reduce_cmd == commands.load_reduce):
        raise KernelError(f"{opcode}: reduce_init belongs to reduce_cmd.load_reduce")

    def compute() -> Array:
        values = apply_op(operator, data.value(), scalar_value(operand0, data), reverse=reverse0)
        flat = values.reshape(data.partitions, -1)
        initial = 0.0 if reduce_init is None else scalar_value(reduce_init, data)
        accumulate("vector", reduce_cmd, reducer, flat, initial, reduce_res, negate=reduce_res_negate)
        return values

    return issue(
        opcode,
        emit.VECTOR,
        (data,),
        dst,
        compute,
        scalars=scalar_tiles(opcode, data, operand0=operand0, reduce_init=reduce_init),
        function=f"{operator.name}+{reducer.name}",
        also_writes=register_writes("vector", data, reduce_cmd, reduce_res),
    )


def tensor_scalar_cumulative(
    dst: Tensor,
    src: Tensor,
    op0: Any,
    op1: Any,
    imm0: Any,
    imm1: Any = None,
    reduce_cmd: Any = commands.reset_reduce,
    name: Any = None,
) -> NkiInstruction:
    """`dst[i] = (src[i] op0 imm0) op1 dst[i - 1]` along the free axis, on Vector."""
    opcode = "tensor_scalar_cumulative"
    emit.on_chip(opcode, src=src)
    same_size(opcode, dst=dst, src=src)
    first, second = alu_op(opcode, op0), alu_op(opcode, op1)
    if second.name not in ("add", "subtract", "multiply", "maximum", "minimum"):
        raise KernelError(f"{opcode}: op1 {second.name} is not one of add, subtract, multiply, max and min")
    if first.is_bitwise or any(tile.dtype.kind in "iu" and tile.itemsize == 4 for tile in (src, dst)):
        raise KernelError(f"{opcode}: 32-bit integers and bitwise operators are not supported")
    if reduce_cmd not in (commands.reset_reduce, commands.reduce, commands.load_reduce):
        raise KernelError(f"{opcode}: reduce_cmd must be reset_reduce, reduce or load_reduce")

    def compute() -> Array:
        state = registers_of("vector")[: src.partitions]
        start: Any = state.value()
        if reduce_cmd == commands.reset_reduce:
            start = current_math.identity_of(second)
        elif reduce_cmd == commands.load_reduce:
            start = scalar_value(imm1, src)
        operand = imm0 if not isinstance(imm0, Tensor) else flat_value(imm0)
        values = current_math.cumulative(flat_value(src), (first, second), operand, start)
        write(state, values[:, -1:])
        return values

    scalars = scalar_tiles(opcode, src, imm0=imm0, imm1=imm1)
    return issue(
        opcode,
        emit.VECTOR,
        (src,),
        dst,
        compute,
        scalars=scalars,
        function=f"{first.name}+{second.name}",
        also_writes=register_writes("vector", src, commands.reduce, None),
    )


def exponential(
    dst: Tensor,
    src: Tensor,
    max_value: Any = 0.0,
    reduce_res: Tensor | None = None,
    reduce_cmd: Any = commands.idle,
    reduce_init: Any = 0.0,
    name: Any = None,
) -> NkiInstruction:
    """`exp(src - max_value)`, and its sum in the accumulators, on the Vector engine of v4."""
    needs_generation("exponential", 4)
    emit.on_chip("exponential", src=src)
    same_size("exponential", dst=dst, src=src)

    def compute() -> Array:
        with np.errstate(all="ignore"):
            values: Array = np.exp(to_float32(src.value()) - np.asarray(scalar_value(max_value, src), np.float32))
        initial = scalar_value(reduce_init, src)
        add = alu_op("exponential", "add")
        accumulate("vector", reduce_cmd, add, values.reshape(src.partitions, -1), initial, reduce_res)
        return values

    return issue(
        "exponential",
        emit.VECTOR,
        (src,),
        dst,
        compute,
        scalars=scalar_tiles("exponential", src, max_value=max_value, reduce_init=reduce_init),
        function="exp",
        also_writes=register_writes("vector", src, reduce_cmd, reduce_res),
    )
