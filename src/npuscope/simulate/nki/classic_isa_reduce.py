"""Reductions, scans and statistics of `neuronxcc.nki.isa`: Vector and GpSimd engines.

Each call records one instruction and returns a fresh tile. Names, defaults and limits: AWS Neuron documentation of SDK
2.26, `nki.isa`. `dtype` is the type of the result, by default that of the input; `mask` restricts the instruction to the
positions where it is true; other keywords are accepted and have no effect, as there.
"""
# ruff: noqa: ARG001 - keywords that the documented signatures have and that change nothing here

from __future__ import annotations

from typing import Any

import numpy as np

from npuscope.simulate.neuroncore.program import Space
from npuscope.simulate.nki import instruction_math as im
from npuscope.simulate.nki import isa_operands as operands
from npuscope.simulate.nki.access import as_mask
from npuscope.simulate.nki.emit import GPSIMD, VECTOR, fresh, instruction, on_chip, pick
from npuscope.simulate.nki.isa_enums import engine as engines
from npuscope.simulate.nki.isa_operands import flat_value, result_dtype, same_size, scalar_tiles, scalar_value, write
from npuscope.simulate.nki.numerics import Op, apply_op, promote, reduce_values
from npuscope.simulate.nki.tensors import Tensor
from npuscope.simulate.nki.trace import KernelError, current, current_line

BN_STATS_MAX_ELEMENTS = 512


def tensor_scalar_reduce(
    *,
    data: Any,
    op0: Any,
    operand0: Any,
    reduce_op: Any,
    reduce_res: Any,
    reverse0: bool = False,
    dtype: Any = None,
    mask: Any = None,
    **kwargs: Any,
) -> Tensor:
    """`data op0 operand0`, and its reduction along all free axes in `reduce_res`, on Vector."""
    opcode = "tensor_scalar_reduce"
    on_chip(opcode, data=data, reduce_res=reduce_res)
    operator, reducer = operands.alu_op(opcode, op0), operands.reduction_op(opcode, reduce_op)
    if operator.is_bitwise or reducer.is_bitwise:
        raise KernelError(f"{opcode}: bitwise operators are not supported")
    scalars = scalar_tiles(opcode, data, operand0=operand0)
    scalar_tiles(opcode, data, reduce_res=reduce_res)
    line = current_line()
    result = fresh(data.shape, result_dtype(dtype, data.dtype), Space.SBUF, line, opcode, data.par)
    instruction(
        opcode,
        VECTOR,
        (data,),
        result,
        scalars=scalars,
        function=f"{operator.name}+{reducer.name}",
        also_writes=(reduce_res,),
        mask=mask,
        line=line,
        is_fresh=True,
    )
    if current().compute:
        values = apply_op(operator, data.value(mask), scalar_value(operand0, data, mask), reverse=reverse0)
        write(result, values, mask)
        store_reduction(reduce_res, *reduce_free(data, values, mask, reducer))
    return result


def reduce_free(data: Tensor, values: Any, mask: Any, op: Op) -> tuple[slice, Any]:
    """Reduce `values` along all free axes, without what `mask` leaves out: the partitions, and [P, 1] of them."""

    def function(part: Any) -> Any:
        return reduce_values(op, part.reshape(part.shape[0], -1), (1,))

    return operands.reduced(data, values, mask, function, operands.NEUTRAL.get(op.name, 0.0))


def store_reduction(target: Tensor, rows: slice, values: Any) -> None:
    """Store [P, 1] into the partitions `rows` of a tile of one element per partition."""
    part = target[rows] if rows != slice(0, target.shape[0]) else target
    write(part, values)


def tensor_reduce(
    op: Any,
    data: Any,
    axis: Any,
    *,
    mask: Any = None,
    dtype: Any = None,
    negate: bool = False,
    keepdims: bool = False,
    **kwargs: Any,
) -> Tensor:
    """Reduce along the last free axes, on Vector; `negate` multiplies the result by -1."""
    on_chip("tensor_reduce", data=data)
    operator = operands.reduction_op("tensor_reduce", op)
    operands.need_integers("tensor_reduce", operator, data)
    if negate and operator.is_bitwise:
        raise KernelError("tensor_reduce: a bitwise reduction cannot be negated")
    axes = reduction_axes(data, axis)
    kept = data.shape[: data.ndim - len(axes)]
    shape = kept + (1,) * len(axes) if keepdims or len(kept) == 1 else kept
    if len(kept) == 1 and not keepdims:
        shape = (*kept, 1)
    line = current_line()
    result = fresh(shape, result_dtype(dtype, data.dtype), Space.SBUF, line, "tensor_reduce")
    instruction("tensor_reduce", VECTOR, (data,), result, function=operator.name, mask=mask, line=line, is_fresh=True)
    if current().compute:
        neutral = operands.NEUTRAL.get(operator.name, 0.0)
        rows, values = operands.reduced(
            data, data.value(mask), mask, lambda part: reduce_values(operator, part, axes, negate=negate), neutral
        )
        write_rows(result, rows, values, mask)
    return result


def write_rows(result: Tensor, rows: slice, values: Any, mask: Any) -> None:
    """Store a reduction whose mask may have left out partitions or kept axes."""
    if mask is None:
        write(result, values)
    elif values.size:
        target = result[rows]
        flat = values.reshape(values.shape[0], -1)
        if flat.size == target.size:
            write(target, values)
        else:
            full = np.zeros((values.shape[0], target.elements), values.dtype)
            full[:, : flat.shape[1]] = flat
            write(target, full)


def reduction_axes(data: Tensor, axis: Any) -> tuple[int, ...]:
    """The axes to reduce, ascending.

    Raises:
        KernelError: They are not the last free axes.
    """
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = tuple(sorted(int(one) % data.ndim for one in given))
    if not axes or 0 in axes:
        raise KernelError("tensor_reduce: the partition axis 0 cannot be reduced, only free axes")
    if axes != tuple(range(data.ndim - len(axes), data.ndim)):
        raise KernelError(f"tensor_reduce: axes {list(given)} of {data.ndim} are not the last consecutive ones")
    return axes


def tensor_partition_reduce(op: Any, data: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Tensor:
    """Reduce across partitions into partition 0, on GpSimd."""
    opcode = "tensor_partition_reduce"
    on_chip(opcode, data=data)
    operator = operands.reduction_op(opcode, op)
    if operator.name not in ("add", "maximum", "bitwise_or", "bitwise_and"):
        raise KernelError(f"{opcode}: {operator.name} is not one of add, max, bitwise_or and bitwise_and")
    operands.need_integers(opcode, operator, data)
    line = current_line()
    chosen = pick(engines.gpsimd, GPSIMD, opcode, data)
    result = fresh((1, *data.shape[1:]), result_dtype(dtype, data.dtype), Space.SBUF, line, opcode)
    instruction(opcode, chosen, (data,), result, function=operator.name, mask=mask, line=line, is_fresh=True)
    if current().compute:
        neutral = operands.NEUTRAL.get(operator.name, 0.0)
        values = data.value(mask)
        if mask is not None:
            values = np.where(as_mask(mask).array(data.shape), values, np.asarray(neutral).astype(values.dtype))
        write(result, reduce_values(operator, values, (0,)))
    return result


def tensor_tensor_scan(
    data0: Any,
    data1: Any,
    initial: Any,
    op0: Any,
    op1: Any,
    reverse0: bool = False,
    reverse1: bool = False,
    *,
    dtype: Any = None,
    mask: Any = None,
    **kwargs: Any,
) -> Tensor:
    """result[i] = (data0[i] op0 result[i - 1]) op1 data1[i] along the free axis, on Vector."""
    opcode = "tensor_tensor_scan"
    on_chip(opcode, data0=data0, data1=data1)
    same_size(opcode, data0=data0, data1=data1)
    operands.not_both_in_psum(opcode, data0, data1)
    first, second = (operands.alu_op(opcode, op) for op in (op0, op1))
    if first.is_bitwise or second.is_bitwise:
        raise KernelError(f"{opcode}: bitwise operators are not supported")
    scalars = scalar_tiles(opcode, data0, initial=initial)
    line = current_line()
    default = data0.dtype if data0.dtype is data1.dtype else promote(data0.dtype, data1.dtype)
    result = fresh(data0.shape, result_dtype(dtype, default), Space.SBUF, line, opcode, data0.par)
    instruction(
        opcode,
        VECTOR,
        (data0, data1),
        result,
        scalars=scalars,
        function=f"{first.name}+{second.name}",
        mask=mask,
        line=line,
        is_fresh=True,
    )
    if current().compute:
        start = scalar_value(initial, data0, mask)
        left, right = flat_value(data0, mask), flat_value(data1, mask)
        write(
            result,
            im.tensor_tensor_scan(left, right, start, first, second, reverse0=reverse0, reverse1=reverse1),
            mask,
        )
    return result


def bn_stats(data: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Tensor:
    """Count, mean and variance * count of the even and of the odd elements: [P, 6], on Vector."""
    on_chip("bn_stats", data=data)
    if data.elements > BN_STATS_MAX_ELEMENTS:
        raise KernelError(f"bn_stats: data has {data.elements} elements, at most {BN_STATS_MAX_ELEMENTS} per partition")
    return _statistics("bn_stats", data, 6, im.bn_stats, dtype, mask)


def bn_aggr(data: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Tensor:
    """Mean and variance of what several `bn_stats` counted: [P, 2], on Vector."""
    on_chip("bn_aggr", data=data)
    if data.elements % 3:
        raise KernelError(f"bn_aggr: data has {data.elements} elements per partition, not a multiple of 3")
    return _statistics("bn_aggr", data, 2, im.bn_aggr, dtype, mask)


def _statistics(opcode: str, data: Tensor, columns: int, function: Any, dtype: Any, mask: Any) -> Tensor:
    line = current_line()
    result = fresh((data.shape[0], columns), result_dtype(dtype, data.dtype), Space.SBUF, line, opcode)
    instruction(opcode, VECTOR, (data,), result, mask=mask, line=line, is_fresh=True)
    if current().compute:

        def flat(part: Any) -> Any:
            return function(part.reshape(part.shape[0], -1))

        rows, values = operands.reduced(data, data.value(mask), mask, flat, 0.0)
        write_rows(result, rows, values, mask)
    return result
