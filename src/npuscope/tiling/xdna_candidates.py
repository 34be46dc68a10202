"""Candidates of a plan: every tile shape and mapping of cores that a problem can use, as columns, with what the rules say of each.

A candidate is cut into dispatches: as far as the shim's descriptors step, and so that none comes near the driver's time limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.hardware.model import XdnaArray
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.tiling.xdna_legality import (
    core_memory_bytes,
    descriptor_limits,
    joined_c_bytes,
    mappings,
    memory_tile_bytes,
    unit,
)
from npuscope.tiling.xdna_time import Calibration, times
from npuscope.workloads.dtypes import ELEMENT_TYPES

Ints = npt.NDArray[np.int64]
TUNED_STACK_BYTES: Final = 1024
"""Of the hand-optimised kernels (arXiv:2512.13282, section 4)."""
_LONGEST_EDGE: Final = 512
_TIMEOUT_SHARE: Final = 0.5
"""Of the driver's time limit that a dispatch is planned to take at most: a prediction may be wrong by half."""
_NEAR: Final = 1.5
"""Of a core's memory: tiles that need more are not worth telling why they do not fit."""
_LATEST_SHARE: Final = 0.75
"""Of the limit: what is longer even in its smallest cut is no plan."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What is to be planned."""

    M: int
    K: int
    N: int
    dtype: str = "bfloat16"
    out_dtype: str = "bfloat16"
    multiplication: str = "native"
    rounding: str = "floor"
    cores: int | None = None
    """Exactly so many cores; any of the stock mappings when None."""
    buffers: tuple[int, int, int] = (2, 2, 2)
    """Of A, B and C in a core."""
    stack_bytes: int = 3328
    joined: bool = True
    """The stock designs' memory tiles, which join the C of a column."""

    def design(self, call: tuple[int, int, int], tile: tuple[int, int, int], mapping: tuple[int, int]) -> XdnaDesign:
        """A design with these types and buffers.

        Args:
            call: M, K and N of a dispatch.
            tile: m, k and n.
            mapping: Rows and columns of cores.
        """
        a, b, c = self.buffers
        return XdnaDesign(
            *call,
            *tile,
            *mapping,
            dtype=self.dtype,
            out_dtype=self.out_dtype,
            buffers_a=a,
            buffers_b=b,
            buffers_c=c,
            multiplication=self.multiplication,
            rounding=self.rounding,
        )


class Candidates:
    """Columns of designs, with the attributes of an `XdnaDesign`."""

    def __init__(self, request: PlanRequest, array: XdnaArray, edges: Sequence[Ints], mapping: Ints) -> None:
        """Combine.

        Args:
            request: The problem.
            array: Where.
            edges: m, k and n of each candidate.
            mapping: [n, 2]: rows and columns of each.
        """
        self.tile_m, self.tile_k, self.tile_n = edges
        self.rows, self.columns = mapping.T
        self.buffers_a, self.buffers_b, self.buffers_c = request.buffers
        self.dtype, self.out_dtype = request.dtype, request.out_dtype
        self.multiplication = request.multiplication
        self.batch = 1
        sample = XdnaDesign(1, 1, 1, 1, 1, 1, dtype=request.dtype, out_dtype=request.out_dtype)
        self.itemsize, self.out_itemsize = sample.itemsize, sample.out_itemsize
        step_m, step_n = self.tile_m * self.rows, self.tile_n * self.columns
        self.splits_n, self.N = _split(request.N, step_n, _most_n(self, request, array))
        self.splits_k, self.K = _split(request.K, self.tile_k, _most_k(self, array))
        self.splits_m = np.ones_like(self.tile_m)
        self.M = -(-request.M // step_m) * step_m

    def take(self, chosen: Any) -> Candidates:
        """The candidates at some places."""
        other = object.__new__(Candidates)
        for name, value in vars(self).items():
            setattr(other, name, value[chosen] if isinstance(value, np.ndarray) else value)
        return other

    def __len__(self) -> int:
        return len(self.tile_m)

    @property
    def dispatches(self) -> Ints:
        """Of each candidate."""
        return np.asarray(self.splits_m * self.splits_n * self.splits_k)

    def design(self, index: int, request: PlanRequest) -> XdnaDesign:
        """One of them."""

        def at(*names: str) -> tuple[int, ...]:
            return tuple(int(getattr(self, name)[index]) for name in names)

        M, K, N, m, k, n = at("M", "K", "N", "tile_m", "tile_k", "tile_n")
        rows, columns = at("rows", "columns")
        return request.design((M, K, N), (m, k, n), (rows, columns))


def _most_n(of: Candidates, request: PlanRequest, array: XdnaArray) -> Ints:
    """Largest N of a dispatch that the shim's descriptors hold."""
    words = array.descriptor_stride_words * 4
    by_repeat = array.descriptor_repeats * of.tile_n * of.columns
    one_row = of.tile_m * of.rows >= request.M  # of C tiles: no step from one to the next
    by_c = np.where(one_row, request.N + words, words // (of.tile_m * of.rows * of.out_itemsize))
    by_b = words // (of.tile_k * of.itemsize)
    return np.asarray(np.minimum(np.minimum(by_repeat, by_c), by_b))


def _most_k(of: Candidates, array: XdnaArray) -> Ints:
    return np.full_like(of.tile_k, array.descriptor_stride_words * 4 // of.itemsize)


def _split(size: int, step: Ints, most: Ints) -> tuple[Ints, Ints]:
    """Equal parts of at most `most`, each a multiple of `step`: how many, and how long; one part where even a step is too long."""
    steps = -(-size // step)
    parts = -(-steps // np.maximum(1, most // step))
    length = -(-steps // parts) * step
    return -(-steps * step // length), length


def candidate_edges(request: PlanRequest, array: XdnaArray) -> tuple[list[Ints], Ints, int]:
    """Every m, k, n and mapping of multiples of the kernel's unit that the problem can use, and how many there are in all.

    What is far beyond a core's memory is counted, and not looked at further.
    """
    of = unit(array, request.dtype, request.multiplication)
    item, out = ELEMENT_TYPES[request.dtype].itemsize, ELEMENT_TYPES[request.out_dtype].itemsize
    a, b, c = request.buffers

    def edges(size: int, multiple: int) -> Ints:
        longest = min(_LONGEST_EDGE, -(-size // multiple) * multiple)
        return np.arange(multiple, max(multiple, longest) + 1, multiple, dtype=np.int64)

    kept_edges: list[list[Ints]] = [[], [], []]
    kept_mappings: list[Ints] = []
    count = 0
    for rows, columns in mappings(array):
        if request.cores is not None and rows * columns != request.cores:
            continue
        m = edges(-(-request.M // rows), of.m)[:, None, None]
        k = edges(request.K, of.k)[None, :, None]
        n = edges(-(-request.N // columns), of.n)[None, None, :]
        places = np.nonzero(item * k * (a * m + b * n) + c * out * m * n <= _NEAR * array.core_memory_bytes)
        count += m.size * k.size * n.size
        for kept, axis, at in zip(kept_edges, (m, k, n), places, strict=True):
            kept.append(axis.ravel()[at])
        kept_mappings.append(np.tile(np.array([[rows, columns]], np.int64), (len(places[0]), 1)))
    if not kept_mappings:
        return [np.empty(0, np.int64)] * 3, np.empty((0, 2), np.int64), 0
    return [np.concatenate(kept) for kept in kept_edges], np.concatenate(kept_mappings), count


def rule_masks(of: Candidates, request: PlanRequest, array: XdnaArray) -> dict[str, npt.NDArray[np.bool_]]:
    """Which candidates each rule rejects."""
    masks = {
        "core-memory": core_memory_bytes(of, request.stack_bytes) > array.core_memory_bytes,
        "memory-tile": memory_tile_bytes(of) > array.memory_tile_bytes,
    }
    if request.joined:
        masks["memory-tile-bank"] = joined_c_bytes(of) > array.memory_tile_bank_bytes
    for constraint, needed, limit, _ in descriptor_limits(of, array):
        masks[constraint] = masks.get(constraint, False) | (needed > limit)
    return masks


def split_by_time(
    of: Candidates, request: PlanRequest, array: XdnaArray, calibration: Calibration, clock_ghz: float | None
) -> None:
    """Cut M, then N, then K so that no dispatch comes near the driver's time limit for a command."""
    limit_us = _TIMEOUT_SHARE * 1e3 * array.job_timeout_ms
    steps = {"M": of.tile_m * of.rows, "N": of.tile_n * of.columns, "K": of.tile_k}
    for axis, step in steps.items():
        total_us = times(of, array, calibration, clock_ghz).total_us
        longest = getattr(of, axis)
        share = np.minimum(1.0, limit_us / np.maximum(total_us, 1e-9))
        most = np.maximum(step, np.where(share < 1, longest * share, longest).astype(np.int64) // step * step)
        parts, length = _split(getattr(request, axis), step, most)
        setattr(of, f"splits_{axis.lower()}", parts)
        setattr(of, axis, length)


def in_time(
    of: Candidates, array: XdnaArray, calibration: Calibration, clock_ghz: float | None
) -> npt.NDArray[np.bool_]:
    """Which designs, cut as far as they go, end well before the driver's limit."""
    return np.asarray(times(of, array, calibration, clock_ghz).total_us < 1e3 * array.job_timeout_ms * _LATEST_SHARE)
