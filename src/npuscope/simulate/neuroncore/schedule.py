"""The schedule of a program: when each instruction runs, on in-order engines, DMA engines and limited memories.

A discrete-event simulation. Each engine issues, among the first `window` instructions of its queue that have not been
issued, the first in program order whose operands are ready: what a list-scheduling compiler followed by in-order
hardware comes to. Tiles are given memory in program order, when there is room. Times are integer picoseconds.

Importing this module imports numba; only the simulator's machine does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from npuscope._compiled import compiled
from npuscope.simulate.neuroncore.dependences import ORDER, RAW
from npuscope.simulate.neuroncore.heap import pop, pop_number, push, push_number

Integers = npt.NDArray[np.int64]

TENSOR, VECTOR, SCALAR, GPSIMD, SYNC, LOADS, STORES = range(7)
QUEUES = 7
PSUM_PORT = 1
SBUF_PORT = 2
TILE_RELEASED, OPERANDS_READY, QUEUE_FREE = range(3)
"""Kinds of events: of a tile, of an instruction, of a queue."""


class Machine(NamedTuple):
    """What the schedule needs to know about the device; times in ps."""

    sbuf_bytes: int
    """Per partition; 0 or less: unlimited."""
    psum_banks: int
    semaphore_ps: int
    dma_engines: int
    dma_start_ps: int
    dma_issue_ps: int
    dma_fixed_ps: int
    """Time of each DMA engine that takes part in a DMA, besides its runs."""
    ramp_ps: int
    """Window of the power limiter; 0: none."""
    shares_psum_port: int
    shares_sbuf_port: int


class Queued(NamedTuple):
    """The program as the schedule sees it: one entry per instruction unless said otherwise."""

    queue: Integers
    occupancy_ps: Integers
    latency_ps: Integers
    runs: Integers
    """DMA: contiguous runs; 0 elsewhere."""
    run_ps: Integers
    """DMA: time of one engine for one run."""
    ports: Integers
    """Bit set of `PSUM_PORT`, `SBUF_PORT`."""
    predecessor_start: Integers
    predecessor: Integers
    predecessor_kind: npt.NDArray[np.int8]
    use_start: Integers
    """On-chip tiles that an instruction touches: use[use_start[i] : use_start[i + 1]]."""
    use: Integers
    window: Integers
    """Per queue."""


class Memory(NamedTuple):
    """On-chip tiles in the order of their first use; one entry per such tile unless said otherwise."""

    is_psum: Integers
    size: Integers
    """SBUF: bytes per partition; PSUM: banks."""
    site: Integers
    site_limit: Integers
    """Per site: instances that may be alive at once."""
    users: Integers
    """Instructions that touch the tile."""
    first_user: Integers
    psum_reserve: int
    """Banks that are kept for tiles in program order: the most that are alive at once in that order."""


class Banks(NamedTuple):
    """PSUM banks that tiles got ahead of their turn."""

    owed: Integers
    """Per instruction, PSUM tiles that it is the first to write and that have no bank yet."""
    first_tile: Integers
    """Per instruction, the first tile in program order that it is the first to use; and one more entry."""
    given: Integers
    """Per tile: 0 none yet, 1 in its turn, 2 ahead of it."""
    ahead: Integers
    """One element: banks of tiles that got them ahead of their turn."""
    hungry: Integers
    """A heap of instructions that wait for nothing but a bank."""
    hungry_size: Integers


class Schedule(NamedTuple):
    """When everything happened, in ps from the start of the program."""

    start_ps: Integers
    end_ps: Integers
    """The engine is free again; for a DMA, its last byte has arrived."""
    done_ps: Integers
    """The result can be read."""
    ready_ps: Integers
    """Its operands were ready."""
    packet_instruction: Integers
    """Per DMA packet (one engine's share of a DMA): the instruction."""
    packet_engine: Integers
    packet_runs: Integers
    packet_start_ps: Integers
    packet_end_ps: Integers
    throttle_start_ps: Integers
    """Starts of matmuls that ran at half rate."""
    finished: int
    """Instructions that ran; fewer than all means that the program can never end."""


class Times(NamedTuple):
    """Per instruction, as in `Schedule`."""

    start: Integers
    end: Integers
    done: Integers
    ready: Integers


class Events(NamedTuple):
    """What will happen, as a heap."""

    keys: Integers
    """Times."""
    values: Integers
    """index << 2 | kind."""
    size: Integers
    """One element."""


class Dma(NamedTuple):
    """The DMA engines."""

    free: Integers
    """Per engine, the end of its last share."""
    counters: Integers
    """The engine that gets the first odd run of the next DMA, and the packets so far."""
    packets: Integers
    """Shape [packets, 5]: instruction, engine, runs, start, end."""


@compiled
def _transposed(count: int, start: Any, predecessor: Any, kind: Any) -> Any:  # pragma: no cover - compiled
    successors = np.zeros(count + 1, np.int64)
    for p in predecessor:
        successors[p + 1] += 1
    for i in range(count):
        successors[i + 1] += successors[i]
    at = successors[:-1].copy()
    successor = np.empty(predecessor.shape[0], np.int64)
    successor_kind = np.empty(predecessor.shape[0], np.int8)
    for i in range(count):
        for d in range(start[i], start[i + 1]):
            p = predecessor[d]
            successor[at[p]], successor_kind[at[p]] = i, kind[d]
            at[p] += 1
    return successors, successor, successor_kind


@compiled
def _queues(queue: Any) -> Any:  # pragma: no cover - compiled
    """Per instruction its position in its queue; per queue its first place in arrays of all queues, and its length."""
    position, length = np.zeros(queue.shape[0], np.int64), np.zeros(QUEUES, np.int64)
    for i in range(queue.shape[0]):
        position[i] = length[queue[i]]
        length[queue[i]] += 1
    base = np.zeros(QUEUES + 1, np.int64)
    for q in range(QUEUES):
        base[q + 1] = base[q] + length[q]
    return position, base, length


@compiled
def _give_memory(
    memory: Any,
    capacity: Any,
    used: Any,
    alive: Any,
    next_tile: Any,
    waiting: Any,
    ready: Any,
    now: int,
    events: Any,
    banks: Any,
) -> None:  # pragma: no cover - compiled
    """Give room to tiles in program order, per memory, as far as there is some."""
    tiles = memory.size.shape[0]
    for kind in range(2):
        t = next_tile[kind]
        while t < tiles:
            if memory.is_psum[t] != kind:
                t += 1
                continue
            if banks.given[t]:  # got its bank ahead of its turn, which has come now
                if banks.given[t] == 2:
                    banks.ahead[0] -= memory.size[t]
                    banks.given[t] = 1
                t += 1
                continue
            site = memory.site[t]
            fits = capacity[kind] <= 0 or used[kind] + memory.size[t] <= capacity[kind]
            if kind == 1 and capacity[1] > 0:  # unready tiles hold no more banks than program order needs
                fits = fits and used[1] - banks.ahead[0] + memory.size[t] <= memory.psum_reserve
            if not fits or alive[site] >= memory.site_limit[site]:
                break
            used[kind] += memory.size[t]
            alive[site] += 1
            banks.given[t] = 1
            i = memory.first_user[t]
            banks.owed[i] -= kind
            waiting[i] -= 1
            if waiting[i] == 0:
                ready[i] = max(ready[i], now)
                _post(events, ready[i], i << 2 | OPERANDS_READY)
            elif waiting[i] == banks.owed[i]:
                banks.hungry_size[0] = push_number(banks.hungry, 0, banks.hungry_size[0], i)
            t += 1
        next_tile[kind] = t


@compiled
def _lend_banks(
    memory: Any,
    capacity: Any,
    used: Any,
    alive: Any,
    waiting: Any,
    times: Any,
    near: Any,
    now: int,
    events: Any,
    banks: Any,
) -> None:  # pragma: no cover - compiled
    """Give PSUM banks to instructions that wait for nothing else, ahead of the turn of their tiles.

    The banks that program order needs are never lent, so that it always goes on.
    """
    position, head, window, queue = near
    while banks.hungry_size[0] > 0:
        i = banks.hungry[0]
        if banks.owed[i] > 0:
            if position[i] >= head[queue[i]] + window[queue[i]]:
                return
            size = 0
            for t in range(banks.first_tile[i], banks.first_tile[i + 1]):
                if memory.is_psum[t] and not banks.given[t]:
                    size += memory.size[t]
                    if alive[memory.site[t]] >= memory.site_limit[memory.site[t]]:
                        return
            if used[1] + size > capacity[1] or banks.ahead[0] + size > capacity[1] - memory.psum_reserve:
                return
            for t in range(banks.first_tile[i], banks.first_tile[i + 1]):
                if memory.is_psum[t] and not banks.given[t]:
                    banks.given[t] = 2
                    alive[memory.site[t]] += 1
            used[1] += size
            banks.ahead[0] += size
            waiting[i] -= banks.owed[i]
            banks.owed[i] = 0
            if waiting[i] == 0:
                times.ready[i] = max(times.ready[i], now)
                _post(events, times.ready[i], i << 2 | OPERANDS_READY)
        banks.hungry_size[0] = pop_number(banks.hungry, 0, banks.hungry_size[0])


@compiled
def _post(events: Any, at: int, value: int) -> None:  # pragma: no cover - compiled
    """Add an event: index << 2 | kind."""
    events.size[0] = push(events.keys, events.values, events.size[0], at, value)


@compiled
def _dma(i: int, now: int, queued: Any, machine: Any, dma: Any) -> int:  # pragma: no cover - compiled
    """Share the runs of a DMA out among the engines; returns when its last byte arrives."""
    engines = machine.dma_engines
    share, extra = queued.runs[i] // engines, queued.runs[i] % engines
    last = now + machine.dma_start_ps
    for k in range(min(queued.runs[i], engines)):
        e = (dma.counters[0] + k) % engines
        own = share + (1 if k < extra else 0)
        begin = max(dma.free[e], now + machine.dma_start_ps)
        dma.free[e] = begin + machine.dma_fixed_ps + own * queued.run_ps[i]
        last = max(last, dma.free[e])
        p = dma.counters[1]
        dma.packets[p, 0], dma.packets[p, 1], dma.packets[p, 2] = i, e, own
        dma.packets[p, 3], dma.packets[p, 4] = begin, dma.free[e]
        dma.counters[1] = p + 1
    dma.counters[0] = (dma.counters[0] + extra) % engines
    return int(last)


@compiled
def _ramped(now: int, busy: int, ramp_ps: int, ramp: Any) -> int:  # pragma: no cover - compiled
    """Time of a matmul under the power limiter: twice as long until half of a window was busy.

    `ramp` holds the start of the window, the busy time within it, and whether the full rate is allowed.
    """
    while now >= ramp[0] + ramp_ps:
        ramp[2] = 2 * ramp[1] >= ramp_ps
        ramp[1] = max(0, ramp[1] - ramp_ps)
        ramp[0] += ramp_ps
        if ramp[1] == 0 and now - ramp[0] > 4 * ramp_ps:
            ramp[0] = now - (now - ramp[0]) % ramp_ps
            ramp[2] = 0
    if not ramp[2]:
        busy *= 2
    ramp[1] += busy
    return busy


@compiled
def _port_free(q: int, ports: int, machine: Any, port_free: Any) -> int:  # pragma: no cover - compiled
    """When the other engine of a shared port is done with it: PSUM of Vector, Scalar; SBUF of Vector, GpSimd."""
    at = 0
    if machine.shares_psum_port and ports & PSUM_PORT and q in (VECTOR, SCALAR):
        at = max(at, port_free[1 if q == VECTOR else 0])
    if machine.shares_sbuf_port and ports & SBUF_PORT and q in (VECTOR, GPSIMD):
        at = max(at, port_free[3 if q == VECTOR else 2])
    return at


@compiled
def _take_ports(q: int, ports: int, end: int, port_free: Any) -> None:  # pragma: no cover - compiled
    if ports & PSUM_PORT and q in (VECTOR, SCALAR):
        port_free[0 if q == VECTOR else 1] = end
    if ports & SBUF_PORT and q in (VECTOR, GPSIMD):
        port_free[2 if q == VECTOR else 3] = end


@compiled
def _release(
    i: int,
    now: int,
    queue: Any,
    times: Any,
    waiting: Any,
    graph: Any,
    machine: Any,
    is_dma: bool,
    events: Any,
    banks: Any,
) -> None:  # pragma: no cover - compiled
    """Tell those that wait for instruction `i` when they may go on."""
    after, successor, kinds = graph
    for s in range(after[i], after[i + 1]):
        other = successor[s]
        is_near = queue[other] == queue[i]
        if kinds[s] == RAW:
            at = times.done[i] if is_near and not is_dma else times.done[i] + machine.semaphore_ps
        else:
            at = times.end[i] if is_near or kinds[s] == ORDER else times.end[i] + machine.semaphore_ps
        times.ready[other] = max(times.ready[other], at)
        waiting[other] -= 1
        if waiting[other] == 0:
            _post(events, max(times.ready[other], now), other << 2 | OPERANDS_READY)
        elif waiting[other] == banks.owed[other]:
            banks.hungry_size[0] = push_number(banks.hungry, 0, banks.hungry_size[0], other)


@compiled
def run(queued: Any, memory: Any, machine: Any) -> Any:  # pragma: no cover - compiled
    """Schedule `queued` on `machine`; see `Schedule`."""
    queue, runs = queued.queue, queued.runs
    count, tiles = queue.shape[0], memory.size.shape[0]
    graph = _transposed(count, queued.predecessor_start, queued.predecessor, queued.predecessor_kind)
    times = Times(
        np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64)
    )
    waiting = np.diff(queued.predecessor_start)
    banks = Banks(
        np.zeros(count, np.int64),
        np.searchsorted(memory.first_user, np.arange(count + 1)),
        np.zeros(tiles, np.int64),
        np.zeros(1, np.int64),
        np.empty(2 * count + tiles + 1, np.int64),
        np.zeros(1, np.int64),
    )
    for tile in range(tiles):
        waiting[memory.first_user[tile]] += 1
        banks.owed[memory.first_user[tile]] += memory.is_psum[tile]
    room = 2 * count + tiles + 64
    events = Events(np.empty(room, np.int64), np.empty(room, np.int64), np.zeros(1, np.int64))
    for i in range(count):
        if waiting[i] == 0:
            _post(events, 0, i << 2 | OPERANDS_READY)
        elif waiting[i] == banks.owed[i]:
            banks.hungry_size[0] = push_number(banks.hungry, 0, banks.hungry_size[0], i)

    position, base, length = _queues(queue)
    able = np.empty(count + 1, np.int64)  # a heap per queue: its instructions whose operands are ready
    issued = np.zeros(count, np.bool_)  # by base + position
    heap_size, head = np.zeros(QUEUES, np.int64), np.zeros(QUEUES, np.int64)
    free_at, woken = np.zeros(QUEUES, np.int64), np.full(QUEUES, -1, np.int64)
    users, released = memory.users.copy(), np.zeros(tiles, np.int64)
    alive, used = np.zeros(memory.site_limit.shape[0], np.int64), np.zeros(2, np.int64)
    capacity, next_tile = np.array([machine.sbuf_bytes, machine.psum_banks]), np.zeros(2, np.int64)
    packets = 0
    for i in range(count):
        packets += min(runs[i], machine.dma_engines)
    dma = Dma(np.zeros(machine.dma_engines, np.int64), np.zeros(2, np.int64), np.empty((packets, 5), np.int64))
    port_free, ramp = np.zeros(4, np.int64), np.zeros(3, np.int64)
    throttled, throttles = np.empty(count, np.int64), 0
    finished = 0
    _give_memory(memory, capacity, used, alive, next_tile, waiting, times.ready, 0, events, banks)
    near = (position, head, queued.window, queue)
    _lend_banks(memory, capacity, used, alive, waiting, times, near, 0, events, banks)
    while events.size[0] > 0:
        now, index, kind = events.keys[0], events.values[0] >> 2, events.values[0] & 3
        events.size[0] = pop(events.keys, events.values, events.size[0])
        if kind == TILE_RELEASED:
            used[memory.is_psum[index]] -= memory.size[index]
            alive[memory.site[index]] -= 1
            if banks.given[index] == 2:
                banks.ahead[0] -= memory.size[index]
                banks.given[index] = 1
            _give_memory(memory, capacity, used, alive, next_tile, waiting, times.ready, now, events, banks)
            _lend_banks(memory, capacity, used, alive, waiting, times, near, now, events, banks)
            continue
        q = queue[index] if kind == OPERANDS_READY else index
        low = base[q]
        if kind == OPERANDS_READY:
            heap_size[q] = push_number(able, low, heap_size[q], index)
        while heap_size[q] > 0 and free_at[q] <= now:
            i = able[low]
            if position[i] >= head[q] + queued.window[q]:
                break
            blocked = _port_free(q, queued.ports[i], machine, port_free)
            if blocked > now:
                free_at[q] = blocked
                break
            heap_size[q] = pop_number(able, low, heap_size[q])
            issued[low + position[i]] = True
            while head[q] < length[q] and issued[low + head[q]]:
                head[q] += 1
            times.start[i] = now
            if runs[i] > 0:
                times.end[i] = _dma(i, now, queued, machine, dma)
                # The next DMA is started in time to follow without a gap, but not long before.
                free_at[q] = max(now + machine.dma_issue_ps, dma.free.min() - machine.dma_start_ps)
            else:
                busy = queued.occupancy_ps[i]
                if q == TENSOR and machine.ramp_ps > 0:
                    busy = _ramped(now, busy, machine.ramp_ps, ramp)
                    throttled[throttles] = now
                    throttles += not ramp[2]
                free_at[q] = times.end[i] = now + busy
                _take_ports(q, queued.ports[i], times.end[i], port_free)
            times.done[i] = times.end[i] + queued.latency_ps[i]
            finished += 1
            _release(i, now, queue, times, waiting, graph, machine, runs[i] > 0, events, banks)
            for u in range(queued.use_start[i], queued.use_start[i + 1]):
                t = queued.use[u]
                users[t] -= 1
                released[t] = max(released[t], times.done[i])
                if users[t] == 0:
                    _post(events, released[t], t << 2 | TILE_RELEASED)
        if heap_size[q] > 0 and free_at[q] > now and woken[q] != free_at[q]:
            woken[q] = free_at[q]
            _post(events, free_at[q], q << 2 | QUEUE_FREE)
        if banks.hungry_size[0] > 0 and capacity[1] > memory.psum_reserve:
            _lend_banks(memory, capacity, used, alive, waiting, times, near, now, events, banks)
    shares = dma.packets[: dma.counters[1]]
    return Schedule(
        times.start,
        times.end,
        times.done,
        times.ready,
        shares[:, 0].copy(),
        shares[:, 1].copy(),
        shares[:, 2].copy(),
        shares[:, 3].copy(),
        shares[:, 4].copy(),
        throttled[:throttles].copy(),
        finished,
    )
