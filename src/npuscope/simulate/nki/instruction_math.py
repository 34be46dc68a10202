"""What single instructions compute, on NumPy arrays whose first axis is the partition axis.

Semantics: AWS Neuron documentation, `nki.isa`. Results are float32 unless stated; the caller casts them once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.simulate.nki.numerics import Array, Op, apply_op, to_float32

Float32 = npt.NDArray[np.float32]

GPSIMD_CORE_PARTITIONS: Final = 16
QUADRANT_PARTITIONS: Final = 32
UNMODIFIED: Final = 255
"""In a shuffle mask: leave this partition of the destination as it is."""


def matmul(stationary: Array, moving: Array) -> Float32:
    """`stationary.T @ moving`, accumulated in float32.

    Args:
        stationary: Shape [K, M]; inputs keep the value that their type gave them.
        moving: Shape [K, N].
    """
    with np.errstate(all="ignore"):
        product: Float32 = to_float32(stationary).T @ to_float32(moving)
    return product


def flatten(values: Array) -> Array:
    """Shape [P, F]: all free axes as one."""
    return values if values.ndim == 2 else values.reshape(values.shape[0], -1)


def tensor_tensor_scan(
    first: Array, second: Array, initial: Any, op0: Op, op1: Op, *, reverse0: bool = False, reverse1: bool = False
) -> Float32:
    """result[:, i] = (first[:, i] op0 result[:, i - 1]) op1 second[:, i], from `initial` on.

    Args:
        first: Shape [P, F].
        second: Shape [P, F].
        initial: Scalar, or shape [P, 1].
        op0: Between `first` and the state.
        op1: Between the outcome of `op0` and `second`.
        reverse0: Swap the sides of `op0`.
        reverse1: Swap the sides of `op1`.
    """
    columns = np.ascontiguousarray(to_float32(first).T)
    addends = np.ascontiguousarray(to_float32(second).T)
    result: Float32 = np.empty(columns.shape, dtype=np.float32)
    state: Array = np.empty(columns.shape[1], dtype=np.float32)
    state[:] = np.asarray(initial, dtype=np.float32).reshape(-1)
    with np.errstate(all="ignore"):
        for i in range(len(columns)):
            step = op0.apply(state, columns[i]) if reverse0 else op0.apply(columns[i], state)
            state = op1.apply(addends[i], step) if reverse1 else op1.apply(step, addends[i])
            result[i] = state
    transposed: Float32 = result.T
    return transposed


def scalar_chain(values: Array, steps: Sequence[tuple[Op, Any, bool]]) -> Array:
    """Apply (operator, operand, reverse) one after the other, without rounding in between."""
    for op, operand, reverse in steps:
        values = apply_op(op, values, operand, reverse=reverse)
    return values


def bn_stats(values: Array) -> Float32:
    """Count, mean and variance * count of the even and then of the odd elements.

    Args:
        values: Shape [P, F].

    Returns:
        Shape [P, 6]. Odd statistics are zero where there is one element.
    """
    wide = to_float32(values)
    result = np.zeros((len(wide), 6), dtype=np.float32)
    for start in (0, 1):
        part = wide[:, start::2]
        if part.shape[1]:
            result[:, 3 * start] = part.shape[1]
            result[:, 3 * start + 1] = part.mean(axis=1)
            result[:, 3 * start + 2] = part.var(axis=1) * np.float32(part.shape[1])
    return result


def bn_aggr(stats: Array) -> Float32:
    """Mean and variance of all elements behind triples of count, mean and variance * count.

    Args:
        stats: Shape [P, 3 * n].

    Returns:
        Shape [P, 2].
    """
    triples = to_float32(stats).reshape(len(stats), -1, 3)
    count, mean, scatter = triples[..., 0], triples[..., 1], triples[..., 2]
    with np.errstate(all="ignore"):
        total = count.sum(axis=1)
        overall = (count * mean).sum(axis=1) / total
        between = count * np.square(mean - overall[:, None])
        variance = (scatter + between).sum(axis=1) / total
    return np.stack([overall, variance], axis=1).astype(np.float32)


def max8(values: Array) -> Float32:
    """The eight largest of each partition, descending: shape [P, 8] from [P, F]."""
    wide = to_float32(values)
    return -np.sort(-wide, axis=1)[:, :8]


def match_replace8(values: Array, wanted: Array, replacement: float) -> tuple[Float32, npt.NDArray[np.uint32]]:
    """Replace the first occurrence of each wanted value, one after the other.

    Args:
        values: Shape [P, F].
        wanted: Shape [P, 8].
        replacement: Written over each match before the next value is looked for.

    Returns:
        The replaced values, and the positions of the matches (0 where there is none), shape [P, 8].
    """
    result = to_float32(values).copy()
    keys = to_float32(wanted)
    rows = np.arange(len(result))
    places = np.zeros(keys.shape, dtype=np.uint32)
    for i in range(keys.shape[1]):
        hit = result == keys[:, i : i + 1]
        place = hit.argmax(axis=1)
        found = hit[rows, place]
        places[found, i] = place[found]
        result[rows[found], place[found]] = replacement
    return result, places


def find_index8(values: Array, wanted: Array) -> npt.NDArray[np.uint32]:
    """Position of the first occurrence of each wanted value: shape [P, 8].

    A value that is wanted twice gives its second position the second time. The documentation leaves that open.
    """
    return match_replace8(values, wanted, float("nan"))[1]


def range_select(
    values: Array, tests: Sequence[tuple[Op, Array]], range_start: int, on_false: float
) -> npt.NDArray[np.float32]:
    """`values` where every test of the position against a bound holds, elsewhere `on_false`.

    Args:
        values: Shape [P, F].
        tests: Comparison, and bounds of shape [P, 1].
        range_start: Position of the first element.
        on_false: Fill value.
    """
    position = (range_start + np.arange(values.shape[1])).astype(np.float32)[None, :]
    holds = np.ones(values.shape, dtype=np.bool_)
    for op, bound in tests:
        holds &= op.apply(position, to_float32(bound)) != 0
    return np.where(holds, to_float32(values), np.float32(on_false))


def local_gather(source: Array, index: Array, elements_per_index: int, valid: int | None = None) -> Array:
    """Gather along the free axis, with indices shared by each group of 16 partitions.

    Args:
        source: Shape [P, F], P a multiple of 16.
        index: Shape [P, n], unsigned: offsets in elements.
        elements_per_index: Consecutive elements read per index.
        valid: Indices used per group, which are flattened with partitions first; all by default.

    Returns:
        Shape [P, valid * elements_per_index] in the type of `source`. An index beyond the end, which the documentation
        leaves undefined, reads the last element.
    """
    group = GPSIMD_CORE_PARTITIONS
    used = group * index.shape[1] if valid is None else valid
    result = np.empty((len(source), used * elements_per_index), dtype=source.dtype)
    offsets = np.arange(elements_per_index)
    for start in range(0, len(source), group):
        rows = slice(start, start + group)
        wanted = index[rows].astype(np.int64).flatten(order="F")[:used, None] + offsets
        result[rows] = source[rows][:, np.minimum(wanted.reshape(-1), source.shape[1] - 1)]
    return result


def stream_shuffle(source: Array, destination: Array, mask: Sequence[int]) -> Array:
    """Partition i of each 32 becomes partition mask[i] of the source's 32; 255 leaves it as it is.

    Args:
        source: Shape [P, F]; one quadrant is shuffled into every quadrant of a larger destination.
        destination: Values before the shuffle; not changed.
        mask: 32 numbers.
    """
    result: Array = destination.copy()
    for row in range(len(result)):
        wanted = int(mask[row % QUADRANT_PARTITIONS])
        if wanted != UNMODIFIED:
            base = row - row % QUADRANT_PARTITIONS
            result[row] = source[(base if base < len(source) else 0) + wanted]
    return result


def sequence_bounds(segments: Array) -> npt.NDArray[np.int64]:
    """Start (inclusive) and end (exclusive) of the run of equal numbers around each element.

    Args:
        segments: Shape [P, n]; 0 is padding, which gets start n and end -1.

    Returns:
        Shape [P, 2, n].
    """
    length = segments.shape[1]
    position = np.arange(length)
    changes = segments[:, 1:] != segments[:, :-1]
    edge = np.ones((len(segments), 1), dtype=np.bool_)
    starts = np.maximum.accumulate(np.where(np.concatenate([edge, changes], axis=1), position, 0), axis=1)
    last = np.where(np.concatenate([changes, edge], axis=1), position + 1, length)
    ends = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    padding = segments == 0
    return np.stack([np.where(padding, length, starts), np.where(padding, -1, ends)], axis=1)


def dropout(values: Array, probability: Any, generator: np.random.Generator) -> Float32:
    """Zero each element with its probability; the others stay as they are.

    Args:
        values: Shape [P, F].
        probability: Scalar, or shape [P, 1].
        generator: Source of randomness: the engine's own sequence is not published.
    """
    drawn = generator.random(values.shape, dtype=np.float32)
    return np.where(drawn < np.asarray(probability, dtype=np.float32), np.float32(0), to_float32(values))
