"""The tables of an NTFF capture: decoded spans and records as columns of the vendor's schema."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from npuscope.formats.ntff import DMA_ENGINES, ENGINES, SubGraph
from npuscope.formats.ntff_isa import Decoded, SemaphoreNames
from npuscope.formats.ntff_program import Program
from npuscope.formats.ntff_records import Int64s, Spans, semaphore_engine
from npuscope.profile.tables import Columns

UNKNOWN_OPCODE = "OP_UNKNOWN"
"""Opcode of an instruction that runs outside every image of the file."""
_SMALLEST_PAYLOAD = 4
"""A DMA packet of so many bytes writes a semaphore and carries no data."""
_SEMAPHORE_OPERATIONS = {243: "increment", 244: "decrement", 249: "clear"}
_RINGS = 16
_SYSTOLIC = frozenset({"MATMUL", "LDWEIGHTS"})
"""Opcodes of the PE array, whose kind, regular or transpose, is a guess."""


@dataclass(frozen=True, slots=True)
class _Spread:
    """Columns of the static program, spread over the executed instructions."""

    program: Program
    slots: Int64s
    """Per executed instruction, its index in the program; one more slot an engine for what no image holds."""

    def texts(self, value: Callable[[Decoded], str | None], missing: Sequence[str | None]) -> pa.Array:
        """A text column; `missing` per engine, for instructions outside every image."""
        static = pa.array([*map(value, self.program.instructions), *missing], pa.string())
        return static.take(pa.array(self.slots))

    def numbers(self, value: Callable[[Decoded], int]) -> Int64s:
        """A numeric column; 0 outside every image."""
        static = [*map(value, self.program.instructions), *[0] * len(ENGINES)]
        return np.array(static, np.int64).take(self.slots)


def instruction_table(
    program: Program, spans: Spans, rows: Int64s, begin: int, core: int, graph: SubGraph, moved: Int64s
) -> Columns:
    """`Instruction`: one row an executed instruction; times count from `begin`, in picoseconds."""
    start, end = spans.start_ps - begin, spans.end_ps - begin
    count = start.size
    spread = _Spread(program, np.where(rows < 0, len(program.instructions) + spans.engine, rows))
    compiler = np.append(program.compiler_pc, -1)[rows]
    elements = spread.numbers(lambda item: item.elements)
    systolic = spread.numbers(lambda item: int(item.opcode in _SYSTOLIC)).astype(bool)
    return {
        "start_ts": start // 1000,
        "end_ts": end // 1000,
        "duration_ns": (end - start) // 1000,
        "engine": pa.array(ENGINES).take(pa.array(spans.engine)),
        "timeline_track": spread.texts(_track, ENGINES),
        "pcore_idx": np.full(count, core, np.int64),
        "opcode": spread.texts(lambda item: item.opcode, [UNKNOWN_OPCODE] * len(ENGINES)),
        "operands": spread.texts(lambda item: item.operands, [""] * len(ENGINES)),
        "id": np.arange(count, dtype=np.int64),
        "pc": np.where(rows < 0, spans.key, spread.numbers(lambda item: item.pc)),
        "compiler_pc": pa.array(compiler, mask=compiler < 0),
        "bir_id": pa.repeat("", count),
        "crc_in": spans.end_payload & 0xFFFF,
        "crc_out": spans.end_payload >> 16,
        "evt_wait_time_ns": _wait_ns(spans.start_payload),
        "hbm_read_bytes": spread.numbers(lambda item: item.hbm_read_bytes) + moved,
        "hbm_write_bytes": spread.numbers(lambda item: item.hbm_write_bytes),
        "sbuf_read_bytes": spread.numbers(lambda item: item.sbuf_read_bytes),
        "sbuf_write_bytes": spread.numbers(lambda item: item.sbuf_write_bytes) + moved,
        "psum_read_bytes": spread.numbers(lambda item: item.psum_read_bytes),
        "psum_write_bytes": spread.numbers(lambda item: item.psum_write_bytes),
        "psum_read_sbuf_write_bytes": spread.numbers(lambda item: item.psum_read_sbuf_write_bytes),
        "weight_queue_bytes": moved,
        "tensor_instruction_type": _instruction_types(spread, compiler),
        "tensor_elements": pa.array(elements, mask=elements == 0),
        "scalar_activation_fn": spread.texts(lambda item: item.activation_fn, [""] * len(ENGINES)),
        "subgraph": pa.repeat(f"/{graph.name}", count),
        "is_estimated": pa.array(systolic, mask=rows < 0),
        "start_ps": start,
        "duration_ps": end - start,
    }


def _track(item: Decoded) -> str:
    return "TensorMatrix" if item.opcode == "MATMUL" else ENGINES[item.engine]


def _instruction_types(spread: _Spread, compiler: Int64s) -> pa.Array:
    """The vendor's type: REGULAR or TRANSPOSE for what the compiler issued, nothing for code of the runtime.

    The vendor gives SET_ORDERING_MODE none either, although it has a compiler pc.
    """
    kind = spread.numbers(lambda item: 2 if item.is_transpose else int(item.opcode != "SET_ORDERING_MODE"))
    return pa.array(["", "REGULAR", "TRANSPOSE"]).take(pa.array(np.where(compiler < 0, 0, kind)))


def _wait_ns(payload: Int64s) -> Int64s:
    """High half of the start record: cycles waited, at 1.4 per nanosecond on every engine."""
    return (payload >> 16) * 5 // 7


def trigger_bytes(program: Program, rows: Int64s, graph: SubGraph, packets: Spans) -> Int64s:
    """Bytes of a static queue, on the WRITE of the compiler that stores the queue's trigger value (a guess that fits)."""
    moved = np.zeros(rows.size, np.int64)
    compiler = np.append(program.compiler_pc, -1)[rows]
    data = np.array([item.write_data if item.opcode == "WRITE" else 0 for item in program.instructions] + [0], object)
    for trigger, members in _static_queues(graph).values():
        writes = np.flatnonzero((compiler >= 0) & (data[rows] == trigger).astype(bool)) if trigger else rows[:0]
        if writes.size:  # a loop triggers its queue more than once; nothing tells which packets are whose
            moved[writes] += _payload_bytes(packets, members) // writes.size
    return moved


def _static_queues(graph: SubGraph) -> dict[str, tuple[int, set[tuple[int, int]]]]:
    """Name to trigger value and (DMA engine, queue index) of its rings; queues that run descriptors of the compiler."""
    found: dict[str, tuple[int, set[tuple[int, int]]]] = {}
    for queue in graph.queues:
        if queue.type and not queue.is_dynamic:
            found.setdefault(queue.name, (queue.trigger_data, set()))[1].add((queue.engine, queue.index))
    return found


def _members(packets: Spans, members: set[tuple[int, int]]) -> Any:
    """Packets of these rings."""
    wanted = np.array(sorted(engine * _RINGS + index for engine, index in members), np.int64)
    return np.isin(packets.engine * _RINGS + packets.key, wanted)


def _payload_bytes(packets: Spans, members: set[tuple[int, int]]) -> int:
    """Bytes of these rings without the packets that only write a semaphore."""
    mine = _members(packets, members) & (packets.end_bytes > _SMALLEST_PAYLOAD)
    return int(packets.end_bytes[mine].sum())


def packet_table(graph: SubGraph, packets: Spans, begin: int, core: int) -> Columns:
    """`DmaPacket`: the queue type follows from whether and how the file lists the packet's ring."""
    start, end = packets.start_ps - begin, packets.end_ps - begin
    labels, kinds = [], []
    listed = {(queue.engine, queue.index): queue for queue in graph.queues}
    for engine in range(DMA_ENGINES):
        for index in range(_RINGS):
            queue = listed.get((engine, index))
            kind = "instruction" if queue is None else "software_dynamic" if queue.is_dynamic else "data"
            kinds.append(kind)
            labels.append(f"{queue.name}-Q{index}-E{engine}" if queue and kind == "data" else f"Q{index}-E{engine}")
    ring = pa.array(packets.engine * _RINGS + packets.key)
    duration = end - start
    size = packets.end_bytes
    return {
        "start_ts": start // 1000,
        "end_ts": end // 1000,
        "duration_ns": duration // 1000,
        "pcore_idx": np.full(start.size, core, np.int64),
        "id": np.arange(start.size, dtype=np.int64),
        "packet_idx": np.zeros(start.size, np.int32),
        "packet_aggregation_id": np.full(start.size, -1, np.int64),
        "engine_idx": packets.engine,
        "read_bytes": size,
        "write_bytes": size,
        "transfer_bytes": size,
        "throughput": size / np.maximum(duration, 1) * 1e12,
        "queue_type": pa.array(kinds).take(ring),
        "queue_name": pa.array(labels).take(ring),
        "queue_idx": packets.key,
        "crc": packets.end_payload >> 16,
        "start_ps": start,
        "duration_ps": duration,
    }


def transfer_table(graph: SubGraph, packets: Spans, begin: int, core: int) -> Columns:
    """One row a static queue: from its first packet's start to its last one's end."""
    rows: list[dict[str, Any]] = []
    for name, (_, members) in _static_queues(graph).items():
        mine = _members(packets, members)
        if not mine.any():
            continue
        start, end = int(packets.start_ps[mine].min()) - begin, int(packets.end_ps[mine].max()) - begin
        size = _payload_bytes(packets, members)
        rows.append(
            {
                "start_ts": start // 1000,
                "end_ts": end // 1000,
                "duration_ns": (end - start) // 1000,
                "id": len(rows),
                "pcore_idx": core,
                "queue_idx": min(index for _, index in members),
                "queue_name": name,
                "queue_type": "data",
                "read_bytes": size,
                "write_bytes": size,
                "transfer_bytes": size,
                "throughput": size / max(end - start, 1) * 1e12,
                "start_ps": start,
                "duration_ps": end - start,
            }
        )
    keys = rows[0].keys() if rows else ("start_ts", "end_ts", "duration_ns", "start_ps", "duration_ps")
    return {key: [row[key] for row in rows] for key in keys}


def semaphore_table(changes: Any, time_ps: Int64s, names: SemaphoreNames, core: int) -> Columns:
    """`SemaphoreUpdate`: changes of semaphores; those of events are only counted."""
    kept = changes["b1"] == 1
    mine, times = changes[kept], time_ps[kept]
    order = np.argsort(times, kind="stable")
    mine, times = mine[order], times[order]
    identities = pa.array([names.identity(index) for index in range(256)])
    operations = pa.array([_SEMAPHORE_OPERATIONS.get(code, f"operation_{code}") for code in range(256)])
    engines = pa.array([*ENGINES, "DMA"])
    index = semaphore_engine(mine)
    value = mine["payload"].astype(np.int64)
    return {
        "timestamp": times // 1000,
        "id": identities.take(pa.array(mine["b0"])),
        "value": pa.array(np.where(value < 1 << 31, value, 0).astype(np.int32), mask=value >= 1 << 31),
        "update_operation_type": operations.take(pa.array(mine["b2"])),
        "engine": engines.take(pa.array(np.where((index < 0) | (index > 5), 0, index), mask=(index < 0) | (index > 5))),
        "pcore_idx": np.full(times.size, core, np.int64),
    }


def throttle_table(records: Any, time_ps: Int64s, ends_ps: Int64s, core: int) -> Columns:
    """Each limit holds until the next record, the last one until the last instruction ends."""
    order = np.argsort(time_ps, kind="stable")
    records, time_ps = records[order], time_ps[order]
    last = int(ends_ps.max(initial=0))
    until = np.append(time_ps[1:], max(last, int(time_ps[-1]))) if time_ps.size else time_ps
    k = (records["payload"] & 0xFF).astype(np.int32)
    n = records["b2"].astype(np.int32)
    unlimited = n == 0
    kinds = pa.array(["unknown", "activity_0"])
    return {
        "timestamp": time_ps // 1000,
        "duration": (until - time_ps) // 1000,
        "k": np.where(unlimited, 1, k).astype(np.int32),
        "n": np.where(unlimited, 1, n).astype(np.int32),
        "type": kinds.take(pa.array((records["b0"] != 0).astype(np.int64))),
        "pcore_idx": np.full(time_ps.size, core, np.int64),
    }


def queue_table(graph: SubGraph, core: int) -> Columns:
    """One row a name; its DMA engine is the last one that the file lists."""
    last = {queue.name: queue for queue in graph.queues}
    queues = list(last.values())
    return {
        "name": [queue.name for queue in queues],
        "type": ["weights" if queue.type == 2 else "unknown" for queue in queues],
        "pcore_idx": [core] * len(queues),
        "idx": [queue.index for queue in queues],
        "engine_idx": [queue.engine for queue in queues],
    }


def memory_table(graph: SubGraph, core: int) -> Columns:
    """`HbmUsageSummaryByType`: device memory by use, and their sum."""
    total = [("Total", sum(size for _, size in graph.memory))] if graph.memory else []
    rows = [*graph.memory, *total]
    return {
        "neuron_device_idx": [0] * len(rows),
        "neuroncore_idx": [core] * len(rows),
        "usage_type": [label for label, _ in rows],
        "usage_bytes": [min(size, (1 << 63) - 1) for _, size in rows],
    }
