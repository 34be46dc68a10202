"""Runs a recorded program on a simulated NeuronCore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope._compiled import compiled
from npuscope.errors import NpuscopeError
from npuscope.simulate.neuroncore.copies import without_inserted_copies
from npuscope.simulate.neuroncore.costs import cost_of, run_ns, weight_load_ns
from npuscope.simulate.neuroncore.dependences import dependences
from npuscope.simulate.neuroncore.devices import SimDevice
from npuscope.simulate.neuroncore.invariants import without_invariants
from npuscope.simulate.neuroncore.memory import peak_live, tile_uses, with_spills
from npuscope.simulate.neuroncore.options import ModelOptions
from npuscope.simulate.neuroncore.program import IS_INSERTED_COPY, Engine, Program, Space, Transfer, Work
from npuscope.simulate.neuroncore.renaming import renamed
from npuscope.simulate.neuroncore.schedule import (
    LOADS,
    PSUM_PORT,
    QUEUES,
    SBUF_PORT,
    STORES,
    Machine,
    Memory,
    Queued,
    Schedule,
    run,
)

_IS_MATMUL = 8  # flag used by `dependences`: writes PSUM from the TensorE
_PS_PER_NS = 1000
_NO_COST = np.iinfo(np.int64).max // 4
_UNLIMITED = np.iinfo(np.int64).max


class ScheduleError(NpuscopeError):
    """The program can never finish: a defect of the model or of the program."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Run:
    """A program as it ran."""

    device: SimDevice
    options: ModelOptions
    program: Program
    """With the spills and reloads that the memory model inserted."""
    engine: npt.NDArray[np.int64]
    """The queue of each instruction: an `Engine` below DMA, or one of the DMA queues."""
    schedule: Schedule
    instruction_count: int
    """Instructions that the kernel recorded, without spills and reloads."""

    @property
    def total_ps(self) -> int:
        """From the start of the program until its last result has arrived."""
        return int(self.schedule.done_ps.max(initial=0))


def run_program(program: Program, device: SimDevice, options: ModelOptions | None = None) -> Run:
    """Schedule `program` on one core of `device`.

    Raises:
        MemoryOverflowError: One instruction's operands exceed SBUF.
        UsageError: An instruction has no cost on any engine that it names.
        ScheduleError: The program cannot finish.
    """
    options = options or ModelOptions()
    count = len(program)
    if options.has("loop-invariants"):
        program = without_invariants(program)
    if options.has("copy-elimination"):
        program = without_inserted_copies(program)
    if options.has("renaming"):
        program = renamed(program)
    uses = tile_uses(program)
    if options.has("sbuf-capacity"):
        spilled = with_spills(program, device.sbuf_partition_bytes, uses)
        uses = uses if spilled is program else tile_uses(spilled)
        program = spilled
    queue, occupancy, latency = _engines(program, device, options)
    is_matmul = (queue == Engine.TENSOR).astype(np.int8) * _IS_MATMUL
    program = replace(program, flags=program.flags | is_matmul)
    runs, per_run = _transfers(program, device, options)
    start, predecessor, kind = dependences(program)
    memory, use = _memory(program, device, options, *uses.lifetimes(len(program.tiles)), uses.tile)
    window = np.full(QUEUES, options.window if options.has("reorder") else 1, np.int64)
    window[[LOADS, STORES]] = _UNLIMITED // 2 if options.has("reorder") else 1
    queued = Queued(
        queue, occupancy, latency, runs, per_run, _ports(program), start, predecessor, kind, uses.start, use, window
    )
    schedule = Schedule(*run(queued, memory, _machine(device, options)))
    if schedule.finished < len(program):
        first = int(np.flatnonzero(schedule.done_ps == 0)[0]) if len(program) else 0
        raise ScheduleError(f"{program.lines[program.line[first]]}: this instruction never gets what it waits for")
    return Run(device, options, program, queue, schedule, count)


def _machine(device: SimDevice, options: ModelOptions) -> Machine:
    constants = device.constants
    sharing = options.has("port-sharing")
    return Machine(
        sbuf_bytes=device.sbuf_partition_bytes if options.has("sbuf-capacity") else 0,
        psum_banks=device.core.psum_banks if options.has("psum-banks") else 0,
        semaphore_ps=_ps(constants["semaphore_ns"]) if options.has("dependency-latency") else 0,
        dma_engines=device.core.dma_engines,
        dma_start_ps=_ps(constants["dma_start_ns"]) if options.has("dma-start") else 0,
        dma_issue_ps=_ps(constants["dma_issue_ns"]),
        dma_fixed_ps=_ps(constants["dma_fixed_ns"]) if options.has("dma-start") else 0,
        ramp_ps=_ps(constants["power_ramp_ns"]) if options.has("power-limit") else 0,
        shares_psum_port=int(constants["shares_psum_port"]) if sharing else 0,
        shares_sbuf_port=int(constants["shares_sbuf_port"]) if sharing else 0,
    )


def _ps(nanoseconds: float) -> int:
    return round(nanoseconds * _PS_PER_NS)


def _engines(program: Program, device: SimDevice, options: ModelOptions) -> tuple[npt.NDArray[np.int64], Any, Any]:
    """Queue, occupancy and latency of each instruction."""
    engines = len(Engine) - 1
    works = program.signatures
    occupancy = np.full((len(works), engines), _NO_COST, np.int64)
    latency = np.zeros((len(works), engines), np.int64)
    masks = np.zeros(len(works), np.int64)
    np.bitwise_or.at(masks, program.signature, program.engines.astype(np.int64))
    for number, work in enumerate(works):
        for engine in range(engines if isinstance(work, Work) else 0):
            if masks[number] >> engine & 1 and isinstance(work, Work):
                cost = cost_of(work, Engine(engine), device, limited=options.has("power-limit"))
                exposed_ns = (
                    0.0 if options.has("weight-load") else weight_load_ns(work, device) * (engine == Engine.TENSOR)
                )
                occupancy[number, engine] = _ps(cost.occupancy_ns + exposed_ns)
                latency[number, engine] = _ps(cost.latency_ns) if options.has("dependency-latency") else 0
    is_store = np.array([isinstance(work, Transfer) and work.destination is Space.HBM for work in works], np.bool_)
    inserted = (program.flags & IS_INSERTED_COPY) != 0
    masks_each = program.engines.astype(np.int64)
    queue = _choose(program.signature, masks_each, occupancy, is_store, inserted, options.has("engine-choice"))
    engine = np.minimum(queue, engines - 1)
    is_dma = queue >= LOADS
    return (
        queue,
        np.where(is_dma, 0, occupancy[program.signature, engine]),
        np.where(is_dma, 0, latency[program.signature, engine]),
    )


@compiled
def _choose(
    signature: Any, masks: Any, occupancy: Any, is_store: Any, inserted: Any, balance: bool
) -> Any:  # pragma: no cover - compiled
    """The least busy engine so far among those that may run an instruction; GpSimd only where nothing else may.

    Copies that the compiler inserts alternate between Vector and Scalar.
    """
    scalar_next = False
    busy = np.zeros(occupancy.shape[1], np.int64)
    queue = np.empty(signature.shape[0], np.int64)
    for i in range(signature.shape[0]):
        mask = masks[i]
        if mask & 32:
            queue[i] = STORES if is_store[signature[i]] else LOADS
            continue
        if mask & ~8 & 31:
            mask &= ~8
        if balance and inserted[i] and mask & 6 == 6:
            mask = 4 if scalar_next else 2
            scalar_next = not scalar_next
        best = -1
        for engine in range(occupancy.shape[1]):
            if mask >> engine & 1:
                cost = occupancy[signature[i], engine]
                if best < 0 or (balance and busy[engine] + cost < busy[best] + occupancy[signature[i], best]):
                    best = engine
        busy[best] += occupancy[signature[i], best]
        queue[i] = best
    return queue


def _transfers(program: Program, device: SimDevice, options: ModelOptions) -> tuple[Any, Any]:
    """Runs, and the time of one run in ps, of each instruction; 0 for those that are no DMA."""
    runs = np.zeros(len(program.signatures), np.int64)
    per_run = np.zeros(len(program.signatures), np.int64)
    for number, work in enumerate(program.signatures):
        if isinstance(work, Transfer):
            runs[number] = max(1, work.runs)
            streaming = work.run_bytes / device.core.dma_engine_practical_gb_s
            per_run[number] = _ps(run_ns(work, device) if options.has("dma-rows") else streaming)
    return runs[program.signature], per_run[program.signature]


def _ports(program: Program) -> npt.NDArray[np.int64]:
    ports = np.zeros(len(program.signatures), np.int64)
    for number, work in enumerate(program.signatures):
        if isinstance(work, Work):
            touched: Sequence[Space] = (*work.sources, work.destination)
            ports[number] = PSUM_PORT * (Space.PSUM in touched) | SBUF_PORT * (Space.SBUF in touched)
    return ports[program.signature]


def _memory(
    program: Program, device: SimDevice, options: ModelOptions, first: Any, last: Any, touched: Any
) -> tuple[Memory, Any]:
    """On-chip tiles in order of first use, and `touched` in terms of them."""
    space, _, row_bytes, tile_site = program.tile_table.T
    used = np.flatnonzero(first >= 0)
    order = used[np.argsort(first[used], kind="stable")]
    place = np.full(len(program.tiles), -1, np.int64)
    place[order] = np.arange(len(order))
    bank = device.psum_bank_bytes
    is_psum = (space[order] == Space.PSUM).astype(np.int64)
    size = np.where(is_psum, -(-row_bytes[order] // bank), row_bytes[order])
    sites, site = np.unique(tile_site[order], return_inverse=True)
    limit = np.full(len(sites), _UNLIMITED, np.int64)
    buffers = options.buffers if options.has("buffers") else 1
    if buffers:
        peak = peak_live(first[order], last[order], np.ones(len(order), np.int64), site)
        limit = np.array([max(buffers, peak[s]) for s in range(len(sites))], np.int64)
    users = np.bincount(place[touched], minlength=len(order)).astype(np.int64)
    in_turn = peak_live(first[order], last[order], size, is_psum).get(1, 0)
    memory = Memory(is_psum, size, site.astype(np.int64), limit, users, first[order], in_turn)
    return memory, place[touched]
