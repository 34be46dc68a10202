"""`activation` and the instructions that select and reduce into accumulator registers, of `neuronxcc.nki.isa`.

The Scalar and the Vector engine have one accumulator per partition each, which live from one instruction to the next.
Names, defaults and limits: AWS Neuron documentation of SDK 2.26, `nki.isa`.
"""
# ruff: noqa: ARG001 - keywords that the documented signatures have and that change nothing here

from __future__ import annotations

from typing import Any

import numpy as np

from npuscope.simulate.neuroncore.program import Space
from npuscope.simulate.nki import instruction_math as im
from npuscope.simulate.nki import isa_operands as operands
from npuscope.simulate.nki.activations import activate
from npuscope.simulate.nki.classic_isa_reduce import reduce_free, store_reduction
from npuscope.simulate.nki.dtypes import dtype_name
from npuscope.simulate.nki.emit import MAX_PARTITIONS, SCALAR, VECTOR, fresh, instruction, on_chip
from npuscope.simulate.nki.isa_enums import FP32_MIN
from npuscope.simulate.nki.isa_enums import reduce_cmd as commands
from npuscope.simulate.nki.isa_operands import flat_value, result_dtype, same_size, scalar_tiles, scalar_value, write
from npuscope.simulate.nki.numerics import Array, Op, apply_op, is_float
from npuscope.simulate.nki.tensors import Tensor, new_tile
from npuscope.simulate.nki.trace import KernelError, current, current_line

_BIAS_TYPES = ("float32", "float16", "bfloat16", "tfloat32")
_RESETS = (commands.reset, commands.reset_reduce)
_REDUCES = (commands.reduce, commands.reset_reduce)


def activation(
    op: Any,
    data: Any,
    *,
    bias: Any = None,
    scale: Any = 1.0,
    reduce_op: Any = None,
    reduce_res: Any = None,
    reduce_cmd: Any = commands.idle,
    mask: Any = None,
    dtype: Any = None,
    **kwargs: Any,
) -> Tensor:
    """`op(data * scale + bias)` on Scalar, and where asked for its reduction along the free axes."""
    return _activation("activation", op, data, bias, scale, reduce_op, reduce_res, reduce_cmd, mask, dtype)


def activation_reduce(
    op: Any,
    data: Any,
    *,
    reduce_op: Any,
    reduce_res: Any,
    bias: Any = None,
    scale: Any = 1.0,
    mask: Any = None,
    dtype: Any = None,
    **kwargs: Any,
) -> Tensor:
    """`activation` with `reduce_cmd.reset_reduce`, the sum of each partition going to `reduce_res`."""
    return _activation(
        "activation_reduce", op, data, bias, scale, reduce_op, reduce_res, commands.reset_reduce, mask, dtype
    )


def _activation(
    opcode: str,
    op: Any,
    data: Any,
    bias: Any,
    scale: Any,
    reduce_op: Any,
    reduce_res: Any,
    reduce_cmd: Any,
    mask: Any,
    dtype: Any,
) -> Tensor:
    on_chip(opcode, data=data)
    name = operands.activation_function(opcode, op)
    scalars = scalar_tiles(opcode, data, bias=bias, scale=scale)
    _check_types(opcode, bias, scale)
    reducer = _reducer(opcode, reduce_op, reduce_res, reduce_cmd, data)
    line = current_line()
    result = fresh(data.shape, result_dtype(dtype, data.dtype), Space.SBUF, line, opcode, data.par)
    writes = _register_writes("activation", data, reduce_cmd, reduce_res)
    # Reading the registers out is what costs, whatever the call is named.
    recorded = "activation_reduce" if reduce_res is not None else "activation"
    instruction(
        recorded,
        SCALAR,
        (data,),
        result,
        scalars=scalars,
        function=name,
        also_writes=writes,
        mask=mask,
        line=line,
        is_fresh=True,
    )
    if current().compute:
        bias_value = None if bias is None else scalar_value(bias, data, mask)
        values = activate(name, data.value(mask), scalar_value(scale, data, mask), bias_value)
        write(result, values, mask)
        if reducer is not None:
            _accumulate("activation", data, values, mask, reducer, reduce_cmd, reduce_res)
    return result


def _check_types(opcode: str, bias: Any, scale: Any) -> None:
    if isinstance(bias, Tensor) and dtype_name(bias.dtype) not in _BIAS_TYPES:
        raise KernelError(f"{opcode}: bias is {dtype_name(bias.dtype)}, expected float32, float16 or bfloat16")
    if isinstance(scale, Tensor) and dtype_name(scale.dtype) not in ("float32", "tfloat32"):
        raise KernelError(f"{opcode}: scale is {dtype_name(scale.dtype)}, expected float32")


def _reducer(opcode: str, reduce_op: Any, reduce_res: Any, reduce_cmd: Any, data: Tensor) -> Op | None:
    """The operator that reduces; None where the call uses no accumulators."""
    if reduce_res is not None:
        on_chip(opcode, reduce_res=reduce_res)
        scalar_tiles(opcode, data, reduce_res=reduce_res)
    if reduce_cmd == commands.idle and reduce_res is None:
        return None
    if reduce_op is None and reduce_cmd != commands.reset:
        raise KernelError(f"{opcode}: reduce_op is missing")
    reducer = operands.reduction_op(opcode, "add" if reduce_op is None else reduce_op)
    if opcode.startswith("activation") and current().nc_version == 2 and reducer.name != "add":
        raise KernelError(f"{opcode}: reduce_op {reducer.name} is not supported on NeuronCore-v2, only add")
    return reducer


def _registers(engine: str) -> Tensor:
    """The accumulators of an engine, one per partition, for as long as the trace runs."""
    state = current().state
    key = f"isa.registers.{engine}"
    if key not in state:
        state[key] = new_tile((MAX_PARTITIONS, 1), np.float32, Space.REGISTER, name=key, site=key)
    registers: Tensor = state[key]
    return registers


def _register_writes(engine: str, data: Tensor, reduce_cmd: Any, reduce_res: Any) -> tuple[Tensor, ...]:
    """What an instruction writes beside its result; registers only where a later instruction goes on with them."""
    found: list[Tensor] = []
    if reduce_cmd != commands.idle and not (reduce_cmd == commands.reset_reduce and reduce_res is not None):
        found.append(_registers(engine)[: data.partitions])
    if reduce_res is not None:
        found.append(reduce_res)
    return tuple(found)


def _accumulate(
    engine: str, data: Tensor, values: Array, mask: Any, op: Op, reduce_cmd: Any, reduce_res: Tensor | None
) -> None:
    """Update the accumulators with `values`, and read them out where there is a place for it."""
    rows, reduced = reduce_free(data, values, mask, op)
    state = _registers(engine)[rows]
    # Scalar's registers start from zero; Vector's, which only take maxima, from -inf.
    start = 0.0 if engine == "activation" and op.name == "add" else operands.NEUTRAL.get(op.name, 0.0)
    if reduce_cmd in _RESETS:
        write(state, np.full(state.shape, start, np.float32))
    if reduce_cmd in _REDUCES:
        write(state, apply_op(op, state.value(), reduced))
    if reduce_res is not None:
        store_reduction(reduce_res, rows, reduced if reduce_cmd == commands.idle else state.value())


_COMPARISONS = ("equal", "less", "less_equal", "greater", "greater_equal")


def range_select(
    *,
    on_true_tile: Any,
    comp_op0: Any,
    comp_op1: Any,
    bound0: Any,
    bound1: Any,
    reduce_cmd: Any = commands.idle,
    reduce_res: Any = None,
    reduce_op: Any = np.amax,
    range_start: Any = 0,
    on_false_value: Any = FP32_MIN,
    mask: Any = None,
    dtype: Any = None,
    **kwargs: Any,
) -> Tensor:
    """Keep elements whose position satisfies both comparisons, on Vector of NeuronCore-v3 and later."""
    opcode = "range_select"
    on_chip(opcode, on_true_tile=on_true_tile, bound0=bound0, bound1=bound1)
    if current().nc_version < 3:
        raise KernelError(f"{opcode} needs NeuronCore-v3 or later (trn2)")
    tests = [operands.alu_op(opcode, op) for op in (comp_op0, comp_op1)]
    for test in tests:
        if test.name not in _COMPARISONS:
            raise KernelError(f"{opcode}: {test.name} is not one of {', '.join(_COMPARISONS)}")
    scalars = scalar_tiles(opcode, on_true_tile, bound0=bound0, bound1=bound1)
    if not is_float(on_true_tile.dtype):
        raise KernelError(f"{opcode}: on_true_tile is {dtype_name(on_true_tile.dtype)}, expected a float")
    if any(dtype_name(tile.dtype) != "float32" for tile in scalars):
        raise KernelError(f"{opcode}: bounds must be float32")
    reducer = _maximum(opcode, reduce_op, reduce_res, reduce_cmd, on_true_tile)
    line = current_line()
    default = result_dtype(dtype, on_true_tile.dtype)
    result = fresh(on_true_tile.shape, default, Space.SBUF, line, opcode, on_true_tile.par)
    writes = _register_writes("vector", on_true_tile, reduce_cmd, reduce_res)
    instruction(
        opcode,
        VECTOR,
        (on_true_tile,),
        result,
        scalars=scalars,
        also_writes=writes,
        mask=mask,
        line=line,
        is_fresh=True,
    )
    if current().compute:
        bounds = [tile.value().reshape(-1, 1) for tile in (bound0, bound1)]
        values = im.range_select(
            flat_value(on_true_tile, mask), list(zip(tests, bounds, strict=True)), int(range_start), on_false_value
        ).reshape(on_true_tile.shape)
        write(result, values, mask)
        if reducer is not None:
            _accumulate("vector", on_true_tile, values, mask, reducer, reduce_cmd, reduce_res)
    return result


def _maximum(opcode: str, reduce_op: Any, reduce_res: Any, reduce_cmd: Any, data: Tensor) -> Op | None:
    reducer = _reducer(opcode, reduce_op, reduce_res, reduce_cmd, data)
    if reducer is not None and reducer.name != "maximum":
        raise KernelError(f"{opcode}: reduce_op {reducer.name} is not supported, only max")
    return reducer


def select_reduce(
    *,
    dst: Any,
    predicate: Any,
    on_true: Any,
    on_false: Any,
    reduce_res: Any = None,
    reduce_cmd: Any = commands.idle,
    reduce_op: Any = np.amax,
    reverse_pred: bool = False,
    mask: Any = None,
    dtype: Any = None,
    **kwargs: Any,
) -> None:
    """Copy `on_true` or `on_false` to `dst` by `predicate`, on Vector; where asked for with the maximum."""
    opcode = "select_reduce"
    on_chip(opcode, dst=dst, predicate=predicate, on_true=on_true)
    same_size(opcode, on_true=on_true, predicate=predicate, dst=dst)
    operands.not_both_in_psum(opcode, on_true, predicate)
    if predicate.dtype.kind not in "iub" or predicate.dtype.itemsize > 2:
        raise KernelError(f"{opcode}: predicate is {dtype_name(predicate.dtype)}, expected an 8- or 16-bit integer")
    if dtype_name(on_true.dtype) in ("tfloat32", "int32", "uint32"):
        raise KernelError(f"{opcode}: on_true may not be {dtype_name(on_true.dtype)}")
    scalars = scalar_tiles(opcode, on_true, on_false=on_false)
    reducer = _maximum(opcode, reduce_op, reduce_res, reduce_cmd, on_true)
    writes = _register_writes("vector", on_true, reduce_cmd, reduce_res)
    instruction(opcode, VECTOR, (on_true, predicate), dst, scalars=scalars, also_writes=writes, mask=mask)
    if current().compute:
        holds = predicate.value(mask).reshape(on_true.shape) != 0
        other = scalar_value(on_false, on_true, mask)
        chosen = holds != bool(reverse_pred)
        values = np.where(chosen, on_true.value(mask).astype(np.float32), np.asarray(other, dtype=np.float32))
        write(dst, values, mask)
        if reducer is not None:
            _accumulate("vector", on_true, values, mask, reducer, reduce_cmd, reduce_res)


def tensor_copy_predicated(
    *,
    src: Any,
    dst: Any,
    predicate: Any,
    reverse_pred: bool = False,
    mask: Any = None,
    dtype: Any = None,
    **kwargs: Any,
) -> None:
    """Copy `src`, a tile or a number, to `dst` where `predicate` is true, on Vector."""
    opcode = "tensor_copy_predicated"
    on_chip(opcode, dst=dst, predicate=predicate)
    same_size(opcode, dst=dst, predicate=predicate)
    if predicate.dtype.kind not in "ub":
        raise KernelError(
            f"{opcode}: predicate is {dtype_name(predicate.dtype)}, expected uint8, uint16, uint32 or bool"
        )
    streams: tuple[Tensor, ...] = (predicate,)
    if isinstance(src, Tensor):
        on_chip(opcode, src=src)
        same_size(opcode, dst=dst, src=src)
        operands.not_both_in_psum(opcode, src, predicate)
        if src.dtype != dst.dtype:
            raise KernelError(f"{opcode}: src is {dtype_name(src.dtype)}, dst is {dtype_name(dst.dtype)}")
        streams = (src, predicate)
    # Elements that stay are part of the result, so the destination is read too.
    instruction(opcode, VECTOR, streams, dst, scalars=(dst,), mask=mask)
    if current().compute:
        holds = (predicate.value(mask).reshape(dst.shape) != 0) != bool(reverse_pred)
        given = src.value(mask).reshape(dst.shape) if isinstance(src, Tensor) else src
        old = dst.value(mask)
        write(dst, np.where(holds, np.asarray(given).astype(old.dtype), old), mask)
