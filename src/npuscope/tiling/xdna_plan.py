"""The best matmul designs for a problem on an XDNA array: every tile shape and mapping tried, what is illegal told with its bytes.

The search is exhaustive over the stock designs' parameters: m, k and n in multiples of what the kernel computes at once, one core
or four rows of 1, 2, 4 or 8 columns. The legality of each candidate is that of `xdna_legality`, its time that of `xdna_time`,
both evaluated for all candidates at once. How many dispatches a design needs follows from the shim's descriptors and from
the driver's time limit for a command; nothing else forces a second one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.hardware.model import XdnaArray
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.tiling.xdna_legality import (
    Violation,
    core_memory_bytes,
    descriptor_limits,
    descriptors_in_flight,
    joined_c_bytes,
    kernel_calls_in_program,
    mappings,
    memory_tile_bytes,
    reported_overflows,
    unit,
    violations,
)
from npuscope.tiling.xdna_time import Calibration, dispatch_time, times
from npuscope.workloads.dtypes import ELEMENT_TYPES

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_LONGEST_EDGE: Final = 512
_TIMEOUT_SHARE: Final = 0.5
"""Of the driver's time limit that a dispatch is planned to take at most: a prediction may be wrong by half."""
_NEAR: Final = 1.5
"""Of a core's memory: tiles that need more are not worth telling why they do not fit."""
_ALIKE: Final = 0.05
"""Times that differ by less are the same to any model; padding decides then."""
_LATEST_SHARE: Final = 0.75
"""Of the limit: what is longer even in its smallest cut is no plan."""
TUNED_STACK_BYTES: Final = 1024
"""Of the hand-optimised kernels (arXiv:2512.13282, section 4)."""


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


@dataclass(frozen=True, slots=True)
class Plan:
    """One legal design for the problem."""

    tile_m: int
    tile_k: int
    tile_n: int
    rows: int
    columns: int
    cores: int
    dispatches: int
    call_M: int
    call_K: int
    call_N: int
    """M, K and N of one dispatch, padded."""
    l1_bytes: int
    """Of a core's memory, stack included."""
    memory_tile_bytes: int
    descriptors: int
    """Shim descriptors in flight."""
    predicted_us: float
    compute_us: float
    dram_us: float
    stream_us: float
    dispatch_us: float
    """Of all dispatches together, as the other times are."""
    bound: str
    padding: float
    """Multiplications of padding over those of the problem."""
    dram_bytes: int
    kernel_calls: int
    """Copies of the kernel's call in the core's program: 4 is usual; most reported overflows of program memory had 6."""
    pareto: bool = False
    """No other plan is as good in dispatches, time and L1 alike, and better in one."""

    def design(self, request: PlanRequest) -> XdnaDesign:
        """What is to be built for it."""
        a, b, c = request.buffers
        return XdnaDesign(
            self.call_M,
            self.call_K,
            self.call_N,
            self.tile_m,
            self.tile_k,
            self.tile_n,
            self.rows,
            self.columns,
            dtype=request.dtype,
            out_dtype=request.out_dtype,
            buffers_a=a,
            buffers_b=b,
            buffers_c=c,
            multiplication=request.multiplication,
            rounding=request.rounding,
        )


@dataclass(frozen=True, slots=True)
class Rejected:
    """A design that cannot be, and why."""

    tile_m: int
    tile_k: int
    tile_n: int
    rows: int
    columns: int
    cores: int
    constraint: str
    reason: str
    needed: int
    limit: int
    predicted_us: float | None
    """What it would take if it were legal."""
    why_shown: str
    """Why this one, of all that are rejected, is listed."""


@dataclass(frozen=True, slots=True)
class PlanSet:
    """What planning found."""

    request: PlanRequest
    plans: tuple[Plan, ...]
    """Best first: within 5 % of the fastest the least padding goes first, for no model tells such times apart."""
    pareto: tuple[Plan, ...]
    rejected: tuple[Rejected, ...]
    candidates: int
    legal: int
    fewest_dispatches: int | None
    why_fewest: str


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
        names = ("M", "K", "N", "tile_m", "tile_k", "tile_n", "rows", "columns")
        a, b, c = request.buffers
        numbers = (int(getattr(self, name)[index]) for name in names)
        M, K, N, tile_m, tile_k, tile_n, rows, columns = numbers
        return XdnaDesign(
            M,
            K,
            N,
            tile_m,
            tile_k,
            tile_n,
            rows,
            columns,
            dtype=request.dtype,
            out_dtype=request.out_dtype,
            buffers_a=a,
            buffers_b=b,
            buffers_c=c,
            multiplication=request.multiplication,
            rounding=request.rounding,
        )


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


def _masks(of: Candidates, request: PlanRequest, array: XdnaArray) -> dict[str, npt.NDArray[np.bool_]]:
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


def plan_matmul(
    request: PlanRequest, array: XdnaArray, calibration: Calibration, clock_ghz: float | None = None, *, top: int = 10
) -> PlanSet:
    """Search all designs.

    Args:
        request: The problem and its types.
        array: The device.
        calibration: How fast its kernels and its memory are.
        clock_ghz: Of the array, GHz; the calibration's when None.
        top: Most plans to return.
    """
    edges, mapping, count = candidate_edges(request, array)
    everything = Candidates(request, array, edges, mapping)
    masks = _masks(everything, request, array)
    illegal = np.zeros(len(everything), bool)
    for mask in masks.values():
        illegal |= mask
    legal = everything.take(~illegal)
    _split_by_time(legal, request, array, calibration, clock_ghz)
    legal = legal.take(_in_time(legal, array, calibration, clock_ghz) & ~reported_overflows(legal, array))
    plans, front, fewest = _rank(legal, request, array, calibration, clock_ghz, top)
    return PlanSet(
        request=request,
        plans=plans,
        pareto=front,
        rejected=_notable(everything, masks, request, array, calibration, clock_ghz),
        candidates=count,
        legal=len(legal),
        fewest_dispatches=None if fewest is None else fewest.dispatches,
        why_fewest=_why_fewest(fewest, plans[0] if plans else None, request, array),
    )


def _split_by_time(
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


def _in_time(
    of: Candidates, array: XdnaArray, calibration: Calibration, clock_ghz: float | None
) -> npt.NDArray[np.bool_]:
    """Which designs, cut as far as they go, end well before the driver's limit."""
    return np.asarray(times(of, array, calibration, clock_ghz).total_us < 1e3 * array.job_timeout_ms * _LATEST_SHARE)


def _rank(
    of: Candidates, request: PlanRequest, array: XdnaArray, calibration: Calibration, clock_ghz: float | None, top: int
) -> tuple[tuple[Plan, ...], tuple[Plan, ...], Plan | None]:
    """The best plans, those that none beats in dispatches, time and L1 alike, and the fastest of the fewest dispatches."""
    if not len(of):
        return (), (), None
    total_us = times(of, array, calibration, clock_ghz).total_us * of.dispatches
    l1 = np.asarray(core_memory_bytes(of, request.stack_bytes))
    order = np.lexsort((l1, of.dispatches, np.round(total_us, 3)))
    padded = of.M * of.K * of.N * of.dispatches
    alike = np.floor(np.log(total_us / total_us.min()) / np.log(1 + _ALIKE) + 1e-9)
    ranked = np.lexsort((np.round(total_us, 3), padded, alike))
    front = _front(of.dispatches, l1, order)
    on_front = set(front.tolist())

    def made(index: int) -> Plan:
        design = of.design(index, request)
        return plan_of(
            design, int(of.dispatches[index]), request, array, calibration, clock_ghz, pareto=index in on_front
        )

    fewest = int(order[np.argmin(of.dispatches[order])])
    return (
        tuple(made(index) for index in ranked[:top].tolist()),
        tuple(made(index) for index in front.tolist()),
        made(fewest),
    )


def _front(dispatches: Ints, l1: Ints, order: Ints) -> Ints:
    """Places of the Pareto front, fastest first: along increasing time, those with fewer dispatches or less L1 than all before."""
    kept: list[int] = []
    best: dict[int, int] = {}
    least = np.minimum.accumulate(l1[order])
    fewest = np.minimum.accumulate(dispatches[order])
    worth = np.append(True, (l1[order][1:] < least[:-1]) | (dispatches[order][1:] < fewest[:-1]))
    for index in order[worth].tolist():
        count, size = int(dispatches[index]), int(l1[index])
        if all(size < other for known, other in best.items() if known <= count):
            kept.append(index)
            best[count] = size
    return np.array(kept, np.int64)


def plan_of(
    design: XdnaDesign,
    dispatches: int,
    request: PlanRequest,
    array: XdnaArray,
    calibration: Calibration,
    clock_ghz: float | None = None,
    *,
    pareto: bool = False,
) -> Plan:
    """A design with what it needs and what it takes, all dispatches together."""
    time = dispatch_time(design, array, calibration, clock_ghz)
    return Plan(
        tile_m=design.tile_m,
        tile_k=design.tile_k,
        tile_n=design.tile_n,
        rows=design.rows,
        columns=design.columns,
        cores=design.cores,
        dispatches=dispatches,
        call_M=design.M,
        call_K=design.K,
        call_N=design.N,
        l1_bytes=int(core_memory_bytes(design, request.stack_bytes)),
        memory_tile_bytes=int(memory_tile_bytes(design)),
        descriptors=int(descriptors_in_flight(design.M // (design.tile_m * design.rows))),
        predicted_us=time.total_us * dispatches,
        compute_us=time.compute_us * dispatches,
        dram_us=time.dram_us * dispatches,
        stream_us=time.stream_us * dispatches,
        dispatch_us=time.overhead_us * dispatches,
        bound=time.bound,
        padding=design.macs * dispatches / (request.M * request.K * request.N) - 1,
        dram_bytes=time.dram_bytes * dispatches,
        kernel_calls=kernel_calls_in_program(design),
        pareto=pareto,
    )


def judge(
    tile: tuple[int, int, int],
    mapping: tuple[int, int],
    request: PlanRequest,
    array: XdnaArray,
    calibration: Calibration,
    clock_ghz: float | None = None,
) -> Plan | Rejected:
    """One design that somebody asks about: its plan, or why it cannot be."""
    edges = [np.array([value], np.int64) for value in tile]
    of = Candidates(request, array, edges, np.array([mapping], np.int64))
    design = of.design(0, request)
    found = violations(design, array, stack_bytes=request.stack_bytes, joined=request.joined)
    if found:
        return _rejected(design, found[0], None, "asked for")
    _split_by_time(of, request, array, calibration, clock_ghz)
    return plan_of(of.design(0, request), int(of.dispatches[0]), request, array, calibration, clock_ghz)


def _rejected(design: XdnaDesign, violation: Violation, predicted_us: float | None, why: str) -> Rejected:
    return Rejected(
        design.tile_m,
        design.tile_k,
        design.tile_n,
        design.rows,
        design.columns,
        design.cores,
        violation.constraint,
        violation.reason,
        violation.needed,
        violation.limit,
        predicted_us,
        why,
    )


def _notable(
    of: Candidates,
    masks: dict[str, npt.NDArray[np.bool_]],
    request: PlanRequest,
    array: XdnaArray,
    calibration: Calibration,
    clock_ghz: float | None,
) -> tuple[Rejected, ...]:
    """Tiles that keep all of N in one core, which are often proposed, and the fastest candidate that each rule alone rejects."""
    shown = []
    for rows_of_tile in (64, 128):
        tile = (rows_of_tile, 64, -(-request.N // 64) * 64)
        found = judge(tile, (1, 1), request, array, calibration, clock_ghz)
        if isinstance(found, Rejected):
            shown.append(replace(found, why_shown=f"{rows_of_tile} rows by all of N, held in one core"))
    total_us = times(of, array, calibration, clock_ghz).total_us * of.dispatches if len(of) else np.empty(0)
    for constraint, mask in masks.items():
        alone = mask.copy()
        for other, its in masks.items():
            if other != constraint:
                alone &= ~its
        places = np.nonzero(alone)[0]
        if len(places):
            index = int(places[np.argmin(total_us[places])])
            design = of.design(index, request)
            found_here = violations(design, array, stack_bytes=request.stack_bytes, joined=request.joined)
            wanted = [item for item in found_here if item.constraint == constraint]
            if wanted:
                shown.append(
                    _rejected(design, wanted[0], float(total_us[index]), f"the fastest that {constraint} alone rejects")
                )
    return tuple(shown)


def _why_fewest(best: Plan | None, fastest: Plan | None, request: PlanRequest, array: XdnaArray) -> str:
    """What forces the fewest dispatches, or that nothing forces a second one."""
    if best is None or fastest is None:
        return "no design is legal"
    held = (
        f"K runs through on the device (a core keeps its C tile), M and N are streamed; {best.descriptors} of {array.shim_descriptors}"
        " descriptors of a shim are in flight"
    )
    longest_ms = best.predicted_us / best.dispatches / 1e3
    limit = f"a dispatch takes {longest_ms:.3g} ms of the {array.job_timeout_ms:,} ms after which the driver takes a command for hung"
    parts = []
    if best.call_N < request.N:
        repeats, stride = array.descriptor_repeats, array.descriptor_stride_words
        parts.append(
            f"N in parts of {best.call_N:,} (a descriptor repeats {repeats} times and steps {stride:,} words at most)"
        )
    if best.call_K < request.K:
        parts.append(
            f"K in parts of {best.call_K:,} (a descriptor steps {array.descriptor_stride_words:,} words at most)"
        )
    if best.call_M < request.M:
        parts.append(f"M in parts of {best.call_M:,} (a command must end well before {array.job_timeout_ms:,} ms)")
    count = "1 dispatch" if best.dispatches == 1 else f"{best.dispatches:,} dispatches"
    text = f"{count}: {'; '.join([*parts, held, limit])}"
    if fastest.dispatches == best.dispatches:
        return text
    tile = f"{best.tile_m}x{best.tile_k}x{best.tile_n} on {best.rows}x{best.columns}"
    return f"{text}; that is with {tile}: the best plan's {fastest.dispatches:,} are faster in all"
