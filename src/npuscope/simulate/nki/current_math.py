"""What instructions compute that only the current dialect has, on arrays whose first axis is the partition axis.

Semantics: AWS Neuron documentation, `nki.isa` of NKI 0.6. Results are float32 unless stated; the caller casts them once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.simulate.nki.instruction_math import GPSIMD_CORE_PARTITIONS, Float32
from npuscope.simulate.nki.numerics import Array, Op, apply_op, to_float32

IntArray = npt.NDArray[np.int64]

SEARCHED_VALUES: Final = 8
"""How many values `max8`, `nc_find_index8` and `nc_match_replace8` handle at once."""
_IDENTITY: Final = {"add": 0.0, "subtract": 0.0, "multiply": 1.0, "maximum": -math.inf, "minimum": math.inf}


def identity_of(op: Op) -> float:
    """What an accumulator starts from: 0 for operators that have no neutral element."""
    return _IDENTITY.get(op.name, 0.0)


def pattern_values(pattern: Sequence[Sequence[int]], offset: int, per_partition: int, partitions: int) -> IntArray:
    """`offset + partition * per_partition +` the steps of nested loops.

    Args:
        pattern: (step, count) per loop, outermost first.
        offset: Added to every value.
        per_partition: Added once per partition.
        partitions: How many there are.

    Returns:
        Shape [partitions, product of the counts].
    """
    values: IntArray = np.zeros(1, dtype=np.int64)
    for step, count in pattern:
        values = (values[:, None] + np.arange(count, dtype=np.int64) * step).reshape(-1)
    result: IntArray = offset + np.arange(partitions, dtype=np.int64)[:, None] * per_partition + values[None, :]
    return result


def cumulative(values: Array, steps: tuple[Op, Op], operand: Any, initial: Any) -> Float32:
    """result[:, i] = (values[:, i] op0 operand) op1 result[:, i - 1], from `initial` on.

    Args:
        values: Shape [P, F].
        steps: op0 and op1.
        operand: Scalar, or shape [P, 1].
        initial: Scalar, or shape [P, 1].
    """
    op0, op1 = steps
    columns = np.ascontiguousarray(apply_op(op0, values, operand).T)
    result = np.empty(columns.shape, dtype=np.float32)
    state: Array = np.empty(columns.shape[1], dtype=np.float32)
    state[:] = np.asarray(initial, dtype=np.float32).reshape(-1)
    with np.errstate(all="ignore"):
        for i in range(len(columns)):
            state = op1.apply(columns[i], state)
            result[i] = state
    turned: Float32 = result.T
    return turned


def find_index8(values: Array, wanted: Array, dtype: np.dtype[Any]) -> Array:
    """Position of the first occurrence of each wanted value, all ones where there is none: shape [P, 8].

    A value that is wanted n times gives its first n positions, ascending.
    """
    data, keys = to_float32(values), to_float32(wanted)
    found = np.full(keys.shape, np.iinfo(dtype).max, dtype=dtype)
    for row in range(len(data)):
        seen: dict[float, int] = {}
        for column, key in enumerate(keys[row].tolist()):
            places = np.flatnonzero(data[row] == np.float32(key))
            turn = seen.get(key, 0)
            if turn < len(places):
                found[row, column] = places[turn]
                seen[key] = turn + 1
    return found


def match_replace8(values: Array, wanted: Array, replacement: float) -> tuple[Float32, Array]:
    """Replace the first occurrence of each wanted value, the last of them first.

    Returns:
        The replaced values, and the positions of the matches, shape [P, 8]; all ones where there is none.
    """
    result = to_float32(values).copy()
    keys = to_float32(wanted)
    places = np.full(keys.shape, np.iinfo(np.uint32).max, dtype=np.uint32)
    rows = np.arange(len(result))
    for i in range(keys.shape[1] - 1, -1, -1):
        hit = result == keys[:, i : i + 1]
        place = hit.argmax(axis=1)
        found = hit[rows, place]
        places[found, i] = place[found]
        result[rows[found], place[found]] = replacement
    return result, places


def gather(values: Array, indices: Array) -> Array:
    """Elements of each partition by flat index, in the type of `values`.

    Args:
        values: Shape [P, F].
        indices: Shape [P, n], each within F.
    """
    return np.take_along_axis(values, indices.astype(np.int64), axis=1)


def nonzero_with_count(values: Array, destination: Array, offset: int, padding: int) -> Array:
    """Positions of what is not zero, padding, and their count, in every 16th partition.

    Args:
        values: Shape [P, F].
        destination: Shape [P, F + 1], int32; the other partitions stay as they are.
        offset: Added to each position.
        padding: Fills the places between the last position and the count.
    """
    result: Array = destination.copy()
    for row in range(0, len(values), GPSIMD_CORE_PARTITIONS):
        places = np.flatnonzero(values[row])
        result[row, :-1] = padding
        result[row, : len(places)] = places + offset
        result[row, -1] = len(places)
    return result


def topk(values: Array, count: int, size: int) -> tuple[Array, npt.NDArray[np.uint32]]:
    """The `size` largest of `count` elements that lie across 16 partitions, column by column, ascending.

    Args:
        values: Shape [P, F], P a multiple of 16.
        count: Elements in use per 16 partitions.
        size: How many are wanted.

    Returns:
        Values and their indices, shape [P, size]; all partitions of a 16 get the same, an assumption.
    """
    group = GPSIMD_CORE_PARTITIONS
    best = np.empty((len(values), size), dtype=values.dtype)
    index = np.empty((len(values), size), dtype=np.uint32)
    for start in range(0, len(values), group):
        flat = values[start : start + group].flatten(order="F")[:count]
        order = np.argsort(to_float32(flat), kind="stable")[-size:]
        best[start : start + group] = flat[order]
        index[start : start + group] = order
    return best, index
