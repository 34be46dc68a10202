"""The best matmul designs for a problem on an XDNA array: every tile shape and mapping tried, what is illegal told with its bytes.

The search is exhaustive over the stock designs' parameters: m, k and n in multiples of what the kernel computes at once, one core
or four rows of 1, 2, 4 or 8 columns. The legality of each candidate is that of `xdna_legality`, its time that of `xdna_time`,
both evaluated for all candidates at once. How many dispatches a design needs follows from the shim's descriptors and from
the driver's time limit for a command; nothing else forces a second one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from npuscope.hardware.model import XdnaArray
from npuscope.tiling.xdna_candidates import (
    Candidates,
    Ints,
    PlanRequest,
    candidate_edges,
    in_time,
    rule_masks,
    split_by_time,
)
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.tiling.xdna_legality import (
    Violation,
    core_memory_bytes,
    descriptors_in_flight,
    kernel_calls_in_program,
    memory_tile_bytes,
    reported_overflows,
    violations,
)
from npuscope.tiling.xdna_time import Calibration, dispatch_time, times

_ALIKE: Final = 0.05
"""Times that differ by less are the same to any model; padding decides then."""


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
        call = self.call_M, self.call_K, self.call_N
        return request.design(call, (self.tile_m, self.tile_k, self.tile_n), (self.rows, self.columns))


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
    masks = rule_masks(everything, request, array)
    illegal = np.zeros(len(everything), bool)
    for mask in masks.values():
        illegal |= mask
    legal = everything.take(~illegal)
    split_by_time(legal, request, array, calibration, clock_ghz)
    legal = legal.take(in_time(legal, array, calibration, clock_ghz) & ~reported_overflows(legal, array))
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
    split_by_time(of, request, array, calibration, clock_ghz)
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
