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

from npuscope.simulate.neuroncore.compiled import compiled
from npuscope.simulate.neuroncore.heap import pop, push

Integers = npt.NDArray[np.int64]

TENSOR, VECTOR, SCALAR, GPSIMD, SYNC, LOADS, STORES = range(7)
QUEUES = 7
PSUM_PORT = 1
SBUF_PORT = 2


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
def run(queued: Any, memory: Any, machine: Any) -> Any:  # pragma: no cover - compiled
    """Schedule `queued` on `machine`; see `Schedule`."""
    queue, occupancy, latency, runs = queued.queue, queued.occupancy_ps, queued.latency_ps, queued.runs
    count = queue.shape[0]
    tiles = memory.size.shape[0]
    after, successor, successor_kind = _transposed(
        count, queued.predecessor_start, queued.predecessor, queued.predecessor_kind
    )
    start, end, done = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64)
    ready = np.zeros(count, np.int64)
    waiting = np.diff(queued.predecessor_start)
    for tile in range(tiles):
        waiting[memory.first_user[tile]] += 1

    position, length = np.zeros(count, np.int64), np.zeros(QUEUES, np.int64)
    for i in range(count):
        position[i] = length[queue[i]]
        length[queue[i]] += 1
    base = np.zeros(QUEUES + 1, np.int64)
    for q in range(QUEUES):
        base[q + 1] = base[q] + length[q]
    heap_keys, heap_values = np.empty(count + 1, np.int64), np.empty(count + 1, np.int64)
    heap_size = np.zeros(QUEUES, np.int64)
    issued = np.zeros(count, np.bool_)  # by base[queue] + position
    head = np.zeros(QUEUES, np.int64)
    free_at = np.zeros(QUEUES, np.int64)
    woken = np.full(QUEUES, -1, np.int64)

    # Events: value = 3 * index + kind, kind 0 = a tile released, 1 = operands ready, 2 = look at a queue again.
    event_keys, event_values = np.empty(2 * count + tiles + 64, np.int64), np.empty(2 * count + tiles + 64, np.int64)
    events = 0
    for i in range(count):
        if waiting[i] == 0:
            events = push(event_keys, event_values, events, 0, 3 * i + 1)

    users, released = memory.users.copy(), np.zeros(tiles, np.int64)
    alive = np.zeros(memory.site_limit.shape[0], np.int64)
    used = np.zeros(2, np.int64)
    capacity = np.array([machine.sbuf_bytes, machine.psum_banks])
    next_tile = np.zeros(2, np.int64)  # per memory, the first tile in program order without space

    packets = 0
    for i in range(count):
        packets += min(runs[i], machine.dma_engines)
    packet_instruction, packet_engine = np.empty(packets, np.int64), np.empty(packets, np.int64)
    packet_runs = np.empty(packets, np.int64)
    packet_start, packet_end = np.empty(packets, np.int64), np.empty(packets, np.int64)
    packets = 0
    dma_free = np.zeros(machine.dma_engines, np.int64)
    rotation = 0
    port_free = np.zeros(4, np.int64)  # end of the last access: PSUM by Vector, Scalar; SBUF by Vector, GpSimd
    throttled = np.empty(count, np.int64)
    throttles = 0
    ramp_start, ramp_busy, full_rate = 0, 0, machine.ramp_ps == 0
    finished = 0
    now = 0
    allocate = True
    while True:
        if allocate:
            allocate = False
            for kind in range(2):
                t = next_tile[kind]
                while t < tiles:
                    if memory.is_psum[t] != kind:
                        t += 1
                        continue
                    fits = capacity[kind] <= 0 or used[kind] + memory.size[t] <= capacity[kind]
                    site = memory.site[t]
                    if not fits or alive[site] >= memory.site_limit[site]:
                        break
                    used[kind] += memory.size[t]
                    alive[site] += 1
                    i = memory.first_user[t]
                    waiting[i] -= 1
                    if waiting[i] == 0:
                        ready[i] = max(ready[i], now)
                        events = push(event_keys, event_values, events, ready[i], 3 * i + 1)
                    t += 1
                next_tile[kind] = t
        if events == 0:
            break
        now = event_keys[0]
        index, kind = event_values[0] // 3, event_values[0] % 3
        events = pop(event_keys, event_values, events)
        if kind == 0:
            used[memory.is_psum[index]] -= memory.size[index]
            alive[memory.site[index]] -= 1
            allocate = True
            continue
        if kind == 1:
            q = queue[index]
            low = base[q]
            heap_size[q] = push(heap_keys[low:], heap_values[low:], heap_size[q], index, index)
            if free_at[q] > now:
                if woken[q] != free_at[q]:
                    woken[q] = free_at[q]
                    events = push(event_keys, event_values, events, free_at[q], 3 * q + 2)
                continue
        else:
            q = index
            low = base[q]
        while heap_size[q] > 0 and free_at[q] <= now:
            i = heap_keys[low]
            if position[i] >= head[q] + queued.window[q]:
                break
            blocked = 0
            if machine.shares_psum_port and q in (VECTOR, SCALAR) and queued.ports[i] & PSUM_PORT:
                blocked = max(blocked, port_free[1 if q == VECTOR else 0])
            if machine.shares_sbuf_port and q in (VECTOR, GPSIMD) and queued.ports[i] & SBUF_PORT:
                blocked = max(blocked, port_free[3 if q == VECTOR else 2])
            if blocked > now:
                free_at[q] = blocked
                break
            heap_size[q] = pop(heap_keys[low:], heap_values[low:], heap_size[q])
            issued[low + position[i]] = True
            while head[q] < length[q] and issued[low + head[q]]:
                head[q] += 1
            start[i] = now
            if runs[i] > 0:
                share, extra = runs[i] // machine.dma_engines, runs[i] % machine.dma_engines
                last = now + machine.dma_start_ps
                for k in range(min(runs[i], machine.dma_engines)):
                    e = (rotation + k) % machine.dma_engines
                    own = share + (1 if k < extra else 0)
                    begin = max(dma_free[e], now + machine.dma_start_ps)
                    dma_free[e] = begin + machine.dma_fixed_ps + own * queued.run_ps[i]
                    last = max(last, dma_free[e])
                    packet_instruction[packets], packet_engine[packets], packet_runs[packets] = i, e, own
                    packet_start[packets], packet_end[packets] = begin, dma_free[e]
                    packets += 1
                rotation = (rotation + extra) % machine.dma_engines
                end[i] = last
                done[i] = last + latency[i]
                # The next DMA is started in time to follow without a gap, but not long before.
                free_at[q] = max(now + machine.dma_issue_ps, dma_free.min() - machine.dma_start_ps)
            else:
                busy = occupancy[i]
                if q == TENSOR and machine.ramp_ps > 0:
                    while now >= ramp_start + machine.ramp_ps:
                        full_rate = 2 * ramp_busy >= machine.ramp_ps
                        ramp_busy = max(0, ramp_busy - machine.ramp_ps)
                        ramp_start += machine.ramp_ps
                        if ramp_busy == 0 and now - ramp_start > 4 * machine.ramp_ps:
                            ramp_start = now - (now - ramp_start) % machine.ramp_ps
                            full_rate = False
                    if not full_rate:
                        busy *= 2
                        throttled[throttles] = now
                        throttles += 1
                    ramp_busy += busy
                end[i] = now + busy
                done[i] = end[i] + latency[i]
                free_at[q] = end[i]
                if q == VECTOR:
                    if queued.ports[i] & PSUM_PORT:
                        port_free[0] = end[i]
                    if queued.ports[i] & SBUF_PORT:
                        port_free[2] = end[i]
                elif q == SCALAR and queued.ports[i] & PSUM_PORT:
                    port_free[1] = end[i]
                elif q == GPSIMD and queued.ports[i] & SBUF_PORT:
                    port_free[3] = end[i]
            for s in range(after[i], after[i + 1]):
                other = successor[s]
                if successor_kind[s] == 0:
                    at = done[i] if queue[other] == q and runs[i] == 0 else done[i] + machine.semaphore_ps
                else:
                    at = end[i]
                    if successor_kind[s] == 1 and queue[other] != q:
                        at += machine.semaphore_ps
                ready[other] = max(ready[other], at)
                waiting[other] -= 1
                if waiting[other] == 0:
                    events = push(event_keys, event_values, events, max(ready[other], now), 3 * other + 1)
            finished += 1
            for u in range(queued.use_start[i], queued.use_start[i + 1]):
                t = queued.use[u]
                users[t] -= 1
                released[t] = max(released[t], done[i])
                if users[t] == 0:
                    events = push(event_keys, event_values, events, released[t], 3 * t)
        if heap_size[q] > 0 and free_at[q] > now and woken[q] != free_at[q]:
            woken[q] = free_at[q]
            events = push(event_keys, event_values, events, free_at[q], 3 * q + 2)
    return Schedule(
        start,
        end,
        done,
        ready,
        packet_instruction[:packets].copy(),
        packet_engine[:packets].copy(),
        packet_runs[:packets].copy(),
        packet_start[:packets].copy(),
        packet_end[:packets].copy(),
        throttled[:throttles].copy(),
        finished,
    )
