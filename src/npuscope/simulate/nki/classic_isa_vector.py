"""Elementwise instructions of `neuronxcc.nki.isa`: Vector, Scalar and GpSimd engines.

Each call records one instruction and returns a fresh tile. Names, defaults and limits: AWS Neuron documentation of SDK
2.26, `nki.isa`. `dtype` is the type of the result, by default that of the input; `mask` restricts the instruction to the
positions where it is true; other keywords are accepted and have no effect, as there.
"""
# ruff: noqa: ARG001 - keywords that the documented signatures have and that change nothing here

from __future__ import annotations

from typing import Any

import numpy as np

from npuscope.simulate.neuroncore.program import Engine, Space
from npuscope.simulate.nki import instruction_math as im
from npuscope.simulate.nki import isa_operands as operands
from npuscope.simulate.nki.dtypes import as_dtype
from npuscope.simulate.nki.emit import VECTOR, VECTOR_GPSIMD, VECTOR_SCALAR_GPSIMD, fresh, instruction, on_chip, pick
from npuscope.simulate.nki.isa_enums import engine as engines
from npuscope.simulate.nki.isa_operands import result_dtype, same_size, scalar_tiles, scalar_value, write
from npuscope.simulate.nki.numerics import apply_op, cast_to, promote
from npuscope.simulate.nki.numerics import tensor_tensor as compute_tensor_tensor
from npuscope.simulate.nki.tensors import Tensor
from npuscope.simulate.nki.trace import KernelError, current, current_line


def tensor_tensor(
    data1: Any,
    data2: Any,
    op: Any,
    *,
    dtype: Any = None,
    mask: Any = None,
    engine: Any = engines.unknown,
    **kwargs: Any,
) -> Tensor:
    """`data1 op data2`, element by element, on Vector or GpSimd."""
    on_chip("tensor_tensor", data1=data1, data2=data2)
    same_size("tensor_tensor", data1=data1, data2=data2)
    operator = operands.alu_op("tensor_tensor", op)
    operands.need_integers("tensor_tensor", operator, data1, data2)
    operands.not_both_in_psum("tensor_tensor", data1, data2)
    line = current_line()
    default = data1.dtype if data1.dtype is data2.dtype else promote(data1.dtype, data2.dtype)
    result = fresh(data1.shape, result_dtype(dtype, default), Space.SBUF, line, "tensor_tensor", data1.par)
    allowed = operands.tensor_tensor_engines(operator, data1.dtype, data2.dtype)
    if engine != engines.unknown:
        allowed = VECTOR_GPSIMD
    chosen = pick(engine, allowed, "tensor_tensor", data1, data2)
    instruction(
        "tensor_tensor", chosen, (data1, data2), result, function=operator.name, mask=mask, line=line, is_fresh=True
    )
    if current().compute:
        right = data2.value(mask)
        write(result, compute_tensor_tensor(operator, data1.value(mask), right.reshape(data1.shape)), mask)
    return result


def tensor_scalar(
    data: Any,
    op0: Any,
    operand0: Any,
    reverse0: bool = False,
    op1: Any = None,
    operand1: Any = None,
    reverse1: bool = False,
    *,
    dtype: Any = None,
    mask: Any = None,
    engine: Any = engines.unknown,
    **kwargs: Any,
) -> Tensor:
    """`(data op0 operand0) op1 operand1`, operands being scalars or one element per partition."""
    on_chip("tensor_scalar", data=data)
    ops = [operands.alu_op("tensor_scalar", op0)]
    if op1 is not None:
        ops.append(operands.alu_op("tensor_scalar", op1))
        if ops[0].is_bitwise != ops[1].is_bitwise:
            raise KernelError(f"tensor_scalar: {ops[0].name} and {ops[1].name} are not both bitwise or both arithmetic")
    operands.need_integers("tensor_scalar", ops[0], data)
    scalars = scalar_tiles("tensor_scalar", data, operand0=operand0, operand1=operand1)
    line = current_line()
    result = fresh(data.shape, result_dtype(dtype, data.dtype), Space.SBUF, line, "tensor_scalar", data.par)
    allowed = operands.tensor_scalar_engines(ops, data)
    if engine != engines.unknown:
        allowed = VECTOR if ops[0].is_bitwise else VECTOR_SCALAR_GPSIMD
    chosen = pick(engine, allowed, "tensor_scalar", data, *scalars)
    name = ops[0].name if op1 is None else f"{ops[0].name}+{ops[1].name}"
    instruction(
        "tensor_scalar", chosen, (data,), result, scalars=scalars, function=name, mask=mask, line=line, is_fresh=True
    )
    if current().compute:
        steps = [(ops[0], scalar_value(operand0, data, mask), reverse0)]
        if op1 is not None:
            steps.append((ops[1], scalar_value(operand1, data, mask), reverse1))
        write(result, im.scalar_chain(data.value(mask), steps), mask)
    return result


def scalar_tensor_tensor(
    *,
    data: Any,
    op0: Any,
    operand0: Any,
    op1: Any,
    operand1: Any,
    reverse0: bool = False,
    reverse1: bool = False,
    dtype: Any = None,
    mask: Any = None,
    **kwargs: Any,
) -> Tensor:
    """`(data op0 operand0) op1 operand1`, `operand0` being scalar and `operand1` a tile, on Vector."""
    on_chip("scalar_tensor_tensor", data=data, operand1=operand1)
    same_size("scalar_tensor_tensor", data=data, operand1=operand1)
    operands.not_both_in_psum("scalar_tensor_tensor", data, operand1)
    first, second = (operands.alu_op("scalar_tensor_tensor", op) for op in (op0, op1))
    scalars = scalar_tiles("scalar_tensor_tensor", data, operand0=operand0)
    line = current_line()
    result = fresh(data.shape, result_dtype(dtype, data.dtype), Space.SBUF, line, "scalar_tensor_tensor", data.par)
    instruction(
        "scalar_tensor_tensor",
        VECTOR,
        (data, operand1),
        result,
        scalars=scalars,
        function=f"{first.name}+{second.name}",
        mask=mask,
        line=line,
        is_fresh=True,
    )
    if current().compute:
        values = apply_op(first, data.value(mask), scalar_value(operand0, data, mask), reverse=reverse0)
        other = operand1.value(mask).reshape(data.shape)
        write(result, apply_op(second, values, other, reverse=reverse1), mask)
    return result


def reciprocal(data: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Tensor:
    """1 / data, on Vector."""
    on_chip("reciprocal", data=data)
    line = current_line()
    result = fresh(data.shape, result_dtype(dtype, data.dtype), Space.SBUF, line, "reciprocal", data.par)
    instruction("reciprocal", VECTOR, (data,), result, mask=mask, line=line, is_fresh=True)
    if current().compute:
        write(result, apply_op(operands.alu_op("reciprocal", "reciprocal"), data.value(mask), 0.0), mask)
    return result


def dropout(data: Any, prob: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Tensor:
    """Zero each element with probability `prob`, on Vector; the sequence of random numbers is the simulator's own."""
    on_chip("dropout", data=data)
    scalars = scalar_tiles("dropout", data, prob=prob)
    line = current_line()
    result = fresh(data.shape, result_dtype(dtype, data.dtype), Space.SBUF, line, "dropout", data.par)
    instruction("dropout", VECTOR, (data,), result, scalars=scalars, mask=mask, line=line, is_fresh=True)
    trace = current()
    if trace.compute:
        generator = trace.state.setdefault("isa.random", np.random.default_rng(0))
        write(result, im.dropout(data.value(mask), scalar_value(prob, data, mask), generator), mask)
    return result


def tensor_copy(
    src: Any, *, mask: Any = None, dtype: Any = None, engine: Any = engines.unknown, **kwargs: Any
) -> Tensor:
    """A copy of a tile, on Vector, Scalar or GpSimd."""
    on_chip("tensor_copy", src=src)
    line = current_line()
    result = fresh(src.shape, result_dtype(dtype, src.dtype), Space.SBUF, line, "tensor_copy", src.par)
    chosen = copy_engines("tensor_copy", engine, src, result)
    instruction("tensor_copy", chosen, (src,), result, mask=mask, line=line, is_fresh=True)
    if current().compute:
        write(result, src.value(mask), mask)
    return result


def copy_engines(opcode: str, engine: Any, src: Tensor, dst: Tensor) -> tuple[Engine, ...]:
    """Where a copy may run: Scalar converts to float32 on the way on v2, so it gets no 32-bit integers unasked."""
    chosen = pick(engine, VECTOR_SCALAR_GPSIMD, opcode, src, dst)
    if len(chosen) > 1 and src.dtype.kind in "iu" and src.dtype.itemsize == 4 and current().nc_version == 2:
        return tuple([one for one in chosen if one is not Engine.SCALAR])
    return chosen


def tensor_copy_dynamic_src(
    src: Any, *, mask: Any = None, dtype: Any = None, engine: Any = engines.unknown, **kwargs: Any
) -> Tensor:
    """A copy from an offset that a tile holds."""
    opcode = "tensor_copy_dynamic_src"
    on_chip(opcode, src=src)
    line = current_line()
    result = fresh(src.shape, result_dtype(dtype, src.dtype), Space.SBUF, line, opcode, src.par)
    chosen = copy_engines(opcode, engine, src, result)
    instruction(opcode, chosen, (src,), result, mask=mask, line=line, is_fresh=True)
    if current().compute:
        write(result, src.value(mask), mask)
    return result


def tensor_copy_dynamic_dst(
    *, dst: Any, src: Any, mask: Any = None, dtype: Any = None, engine: Any = engines.unknown, **kwargs: Any
) -> None:
    """A copy to an offset that a tile holds."""
    opcode = "tensor_copy_dynamic_dst"
    on_chip(opcode, dst=dst, src=src)
    same_size(opcode, src=src, dst=dst)
    instruction(opcode, copy_engines(opcode, engine, src, dst), (src,), dst, mask=mask)
    if current().compute:
        write(dst, src.value(mask), mask)


def memset(
    shape: Any, value: Any, dtype: Any, *, mask: Any = None, engine: Any = engines.unknown, **kwargs: Any
) -> Tensor:
    """A tile filled with one value, on Vector or GpSimd."""
    line = current_line()
    sizes = tuple(int(size) for size in shape)
    result = fresh(sizes, as_dtype(dtype), Space.SBUF, line, "memset")
    chosen = pick(engine, VECTOR_GPSIMD, "memset", result)
    function = "zero" if value == 0 else ""
    instruction("memset", chosen, (), result, function=function, mask=mask, line=line, is_fresh=True)
    if current().compute:
        write(result, np.full(sizes, cast_to(np.asarray(value), result.dtype)), mask)
    return result
