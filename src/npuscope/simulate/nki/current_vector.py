"""Elementwise instructions and reductions of the current `nki.isa`: each writes a destination that is passed in.

What an instruction computes, which engines may run it and what it asks of its operands is shared with the classic
dialect: the result of the classic call is made to be written to `dst`. Names and defaults: AWS Neuron documentation of
NKI 0.6, `nki.isa`.
"""
# ruff: noqa: ARG001 - keywords that the documented signatures have and that change nothing here

from __future__ import annotations

from typing import Any

import numpy as np

from npuscope.simulate.nki import classic_isa as classic
from npuscope.simulate.nki import emit, mx
from npuscope.simulate.nki.current_operands import (
    ISSUED,
    NkiInstruction,
    into,
    issue,
    reads,
)
from npuscope.simulate.nki.isa_enums import engine as engines
from npuscope.simulate.nki.tensors import Tensor
from npuscope.simulate.nki.trace import KernelError


def tensor_copy(dst: Tensor, src: Tensor, engine: Any = engines.unknown, name: Any = None, **kwargs: Any) -> Any:
    """`dst = src`, on Vector, Scalar or GpSimd."""
    reads("tensor_copy", src)
    return into("tensor_copy", dst, classic.tensor_copy(src, dtype=dst.dtype, engine=engine))


def memset(dst: Tensor, value: Any, engine: Any = engines.unknown, name: Any = None) -> NkiInstruction:
    """Fill `dst`, on Vector or GpSimd."""
    if mx.is_packed(dst.dtype):
        if value != 0:
            raise KernelError("memset: a packed type can only be filled with 0")
        dst = dst.view(np.uint32 if dst.itemsize == 4 else np.uint16)
    elif dst.dtype.kind in "iu" and not float(value).is_integer():
        raise KernelError(f"memset: value {value} does not fit the {dst.dtype.name} of dst")
    chosen = emit.pick(engine, emit.VECTOR_GPSIMD, "memset", dst)
    function = "zero" if value == 0 else ""
    return issue("memset", chosen, (), dst, lambda: np.full(dst.shape, value, np.float64), function=function)


def tensor_copy_predicated(
    dst: Tensor, src: Any, predicate: Tensor, reverse_pred: bool = False, name: Any = None
) -> NkiInstruction:
    """`dst = src` where `predicate` holds, on Vector."""
    reads("tensor_copy_predicated", src, predicate)
    classic.tensor_copy_predicated(src=src, dst=dst, predicate=predicate, reverse_pred=reverse_pred)
    return ISSUED


def tensor_tensor(
    dst: Tensor, data1: Tensor, data2: Tensor, op: Any, engine: Any = engines.unknown, name: Any = None
) -> NkiInstruction:
    """`data1 op data2`, element by element, on Vector or GpSimd."""
    reads("tensor_tensor", data1, data2)
    return into("tensor_tensor", dst, classic.tensor_tensor(data1, data2, op, dtype=dst.dtype, engine=engine))


def tensor_scalar(
    dst: Tensor,
    data: Tensor,
    op0: Any,
    operand0: Any,
    reverse0: bool = False,
    op1: Any = None,
    operand1: Any = None,
    reverse1: bool = False,
    engine: Any = engines.unknown,
    name: Any = None,
) -> NkiInstruction:
    """`(data op0 operand0) op1 operand1`, operands being scalars or one element per partition."""
    reads("tensor_scalar", data, operand0, operand1)
    result = classic.tensor_scalar(
        data, op0, operand0, reverse0, op1, operand1, reverse1, dtype=dst.dtype, engine=engine
    )
    return into("tensor_scalar", dst, result)


def tensor_reduce(
    dst: Tensor, op: Any, data: Tensor, axis: Any, negate: bool = False, keepdims: bool = False, name: Any = None
) -> NkiInstruction:
    """Reduce along the last free axes, on Vector."""
    reads("tensor_reduce", data)
    return into("tensor_reduce", dst, classic.tensor_reduce(op, data, axis, dtype=dst.dtype, negate=negate))


def tensor_partition_reduce(dst: Tensor, op: Any, data: Tensor, name: Any = None) -> NkiInstruction:
    """Reduce across partitions into one, on GpSimd; an average is not supported."""
    reads("tensor_partition_reduce", data)
    return into("tensor_partition_reduce", dst, classic.tensor_partition_reduce(op, data, dtype=dst.dtype))


def tensor_tensor_scan(
    dst: Tensor,
    data0: Tensor,
    data1: Tensor,
    initial: Any,
    op0: Any,
    op1: Any,
    reverse0: bool = False,
    reverse1: bool = False,
    name: Any = None,
) -> NkiInstruction:
    """`dst[i] = (data0[i] op0 dst[i - 1]) op1 data1[i]` along the free axis, on Vector."""
    reads("tensor_tensor_scan", data0, data1, initial)
    result = classic.tensor_tensor_scan(data0, data1, initial, op0, op1, reverse0, reverse1, dtype=dst.dtype)
    return into("tensor_tensor_scan", dst, result)


def scalar_tensor_tensor(
    dst: Tensor,
    data: Tensor,
    op0: Any,
    operand0: Any,
    op1: Any,
    operand1: Tensor,
    reverse0: bool = False,
    reverse1: bool = False,
    name: Any = None,
) -> NkiInstruction:
    """`(data op0 operand0) op1 operand1`, `operand0` being scalar and `operand1` a tile, on Vector."""
    reads("scalar_tensor_tensor", data, operand0, operand1)
    result = classic.scalar_tensor_tensor(
        data=data,
        op0=op0,
        operand0=operand0,
        op1=op1,
        operand1=operand1,
        reverse0=reverse0,
        reverse1=reverse1,
        dtype=dst.dtype,
    )
    return into("scalar_tensor_tensor", dst, result)


def reciprocal(dst: Tensor, data: Tensor, name: Any = None) -> NkiInstruction:
    """`1 / data`, on Vector."""
    reads("reciprocal", data)
    return into("reciprocal", dst, classic.reciprocal(data, dtype=dst.dtype))


def bn_stats(dst: Tensor, data: Tensor, name: Any = None) -> NkiInstruction:
    """Count, mean and variance * count of the even and of the odd elements, on Vector."""
    reads("bn_stats", data)
    return into("bn_stats", dst, classic.bn_stats(data, dtype=dst.dtype))


def bn_aggr(dst: Tensor, data: Tensor, name: Any = None) -> NkiInstruction:
    """Mean and variance of what several `bn_stats` counted, on Vector."""
    reads("bn_aggr", data)
    return into("bn_aggr", dst, classic.bn_aggr(data, dtype=dst.dtype))


def dropout(dst: Tensor, data: Tensor, prob: Any, name: Any = None) -> NkiInstruction:
    """Zero each element with probability `prob`, on Vector; the random numbers are the simulator's own."""
    reads("dropout", data, prob)
    return into("dropout", dst, classic.dropout(data, prob, dtype=dst.dtype))
