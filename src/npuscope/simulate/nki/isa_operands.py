"""Operands of `nki.isa` calls: what the documentation asks of them, and their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from npuscope.simulate.neuroncore.program import Engine, Space
from npuscope.simulate.nki.access import as_mask
from npuscope.simulate.nki.activations import activation_name
from npuscope.simulate.nki.dtypes import Dtype, as_dtype, dtype_name
from npuscope.simulate.nki.emit import GPSIMD, VECTOR, VECTOR_GPSIMD
from npuscope.simulate.nki.numerics import Array, Op, canonical_op, cast_to, function_name, is_exact_integer
from npuscope.simulate.nki.tensors import Tensor
from npuscope.simulate.nki.trace import KernelError, current


def alu_op(opcode: str, op: Any) -> Op:
    """The ALU operator that the kernel names.

    Raises:
        KernelError: There is none of that name.
    """
    try:
        return canonical_op(op)
    except (KeyError, TypeError):
        raise KernelError(f"{opcode}: {function_name(op)} is not an operator of the ALU") from None


def activation_function(opcode: str, op: Any) -> str:
    """The name of the activation function that the kernel asks for.

    Raises:
        KernelError: There is none of that name.
    """
    try:
        return activation_name(op)
    except (KeyError, TypeError):
        raise KernelError(f"{opcode}: {function_name(op)} is not an activation function") from None


def reduction_op(opcode: str, op: Any) -> Op:
    """The operator to reduce with.

    Raises:
        KernelError: It cannot be reduced with.
    """
    found = alu_op(opcode, op)
    if found.reduces is None:
        raise KernelError(f"{opcode}: {found.name} is not a reduction operator")
    return found


def result_dtype(dtype: Any, default: Dtype) -> Dtype:
    """What the kernel asks for, else the default of the instruction."""
    return default if dtype is None else as_dtype(dtype)


def need_integers(opcode: str, op: Op, *tiles: Tensor) -> None:
    """Check that a bitwise operator meets integers.

    Raises:
        KernelError: It meets something else.
    """
    for tile in tiles:
        if op.is_bitwise and tile.dtype.kind not in "iub":
            raise KernelError(f"{opcode}: {op.name} needs integers, not {dtype_name(tile.dtype)}")


def same_size(opcode: str, **tiles: Tensor) -> None:
    """Check that tiles have as many partitions, and as many elements in each, as the first.

    Raises:
        KernelError: One differs.
    """
    (name, first), *others = tiles.items()
    for other_name, other in others:
        if other.shape != first.shape and (other.partitions, other.elements) != (first.partitions, first.elements):
            raise KernelError(f"{opcode}: {name} has shape {list(first.shape)}, {other_name} {list(other.shape)}")


def not_both_in_psum(opcode: str, first: Tensor, second: Tensor) -> None:
    """Check that at most one of two inputs is in PSUM.

    Raises:
        KernelError: Both are.
    """
    if first.storage.space is Space.PSUM and second.storage.space is Space.PSUM:
        raise KernelError(f"{opcode}: both inputs are in PSUM, at most one may be")


def scalar_tiles(opcode: str, data: Tensor, **operands: Any) -> list[Tensor]:
    """Those of the operands that are tiles, each of one element per partition of `data`.

    Raises:
        KernelError: One has another shape, or is in HBM.
    """
    tiles: list[Tensor] = []
    for name, operand in operands.items():
        if isinstance(operand, Tensor):
            if operand.storage.space is Space.HBM:
                raise KernelError(f"{opcode}: {name} is in HBM; load it into SBUF first")
            if operand.size != data.partitions:
                expected = [data.partitions, 1]
                raise KernelError(f"{opcode}: {name} has shape {list(operand.shape)}, expected a scalar or {expected}")
            tiles.append(operand)
        elif operand is not None and not isinstance(operand, (int, float, np.generic)) and np.ndim(operand):
            raise KernelError(f"{opcode}: {name} must be a scalar or a tile, not {type(operand).__name__}")
    return tiles


def scalar_value(operand: Any, data: Tensor, mask: Any = None) -> Any:
    """The value of a scalar operand, shaped to broadcast along the free axes of `data`."""
    if not isinstance(operand, Tensor):
        return operand
    values = operand.value(mask if operand.bounds else None)
    return values.reshape((data.partitions,) + (1,) * (data.ndim - 1 - data.par))


def flat_value(tile: Tensor, mask: Any = None) -> Array:
    """Values as [P, F]."""
    values = tile.value(mask)
    return values if values.ndim == 2 else values.reshape(values.shape[0], -1)


def write(target: Tensor, values: Array, mask: Any = None) -> None:
    """Store an engine's result: rounded once to the type of `target`, where `mask` is true."""
    if values.shape != target.shape and values.size == target.size:
        values = values.reshape(target.shape)
    target.assign(cast_to(values, target.dtype), mask)


def reduced(
    data: Tensor, values: Array, mask: Any, function: Callable[[Array], Array], neutral: float
) -> tuple[slice, Array]:
    """Reduce the part of `values` that a mask keeps.

    Args:
        data: The tile that the mask belongs to.
        values: Its values, or what was made of them.
        mask: Positions to take; None for all.
        function: Reduces an array whose first axis is the partitions.
        neutral: Stands in for masked positions inside the smallest box.

    Returns:
        The partitions that take part, and what `function` made of them.
    """
    if mask is None:
        return slice(0, data.shape[0]), function(values)
    found = as_mask(mask)
    region = tuple(slice(*bounds) for bounds in found.box(data.shape))
    part = values[region]
    if part.size and not found.fills_box():
        part = np.where(found.array(data.shape)[region], part, np.asarray(neutral).astype(part.dtype))
    return region[0], function(part) if part.size else part[:0]


NEUTRAL = {"add": 0.0, "subtract": 0.0, "multiply": 1.0, "maximum": -math.inf, "minimum": math.inf}
"""What changes nothing in a reduction."""


def tensor_tensor_engines(op: Op, *dtypes: Dtype) -> tuple[Engine, ...]:
    """Where the documentation lets an operator on two tiles run.

    Power and 32-bit integer arithmetic are GpSimd's; add and multiply can run on both; all else is Vector's.
    """
    if op.name == "power" or is_exact_integer(op, *dtypes[:2]):
        return GPSIMD
    if op.name in ("add", "multiply") and not op.is_bitwise:
        return VECTOR_GPSIMD
    return VECTOR


def tensor_scalar_engines(ops: Sequence[Op], *tiles: Tensor) -> tuple[Engine, ...]:
    """Where the documentation lets a chain of one or two operators run.

    Reciprocal square root and power are GpSimd's, unless a tile is in PSUM, which it cannot reach. Scalar knows multiply
    then add, multiply, and add, from v3 on. Everything that is not rsqrt or power runs on Vector.
    """
    names = tuple([op.name for op in ops])
    if "rsqrt" in names or "power" in names:
        in_psum = any(tile.storage.space is Space.PSUM for tile in tiles)
        return (Engine.VECTOR, Engine.SCALAR) if in_psum else GPSIMD
    if current().nc_version >= 3 and names in (("multiply", "add"), ("multiply",), ("add",)):
        return (Engine.VECTOR, Engine.SCALAR)
    return VECTOR
