"""An NTFF as a Profile: trace records and instruction images become the vendor's tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from npuscope.errors import NpuscopeError
from npuscope.formats.ntff import Ntff, SubGraph, load_ntff, parse_ntff
from npuscope.formats.ntff_isa import NOTIFY_BEGIN, NOTIFY_END
from npuscope.formats.ntff_program import Program, program_rows, read_program
from npuscope.formats.ntff_records import (
    SEMAPHORES,
    THROTTLE,
    Int64s,
    Leftover,
    Spans,
    decode_spans,
    records_of,
    select,
    semaphore_times,
    throttle_times,
    unknown_blocks,
)
from npuscope.formats.ntff_tables import (
    UNKNOWN_OPCODE,
    instruction_table,
    memory_table,
    packet_table,
    queue_table,
    semaphore_table,
    throttle_table,
    transfer_table,
    trigger_bytes,
)
from npuscope.formats.ntff_usage import pending_table, throughput_table
from npuscope.hardware.model import NeuronChip, load_hardware, neuron_core_of
from npuscope.profile.schema import SCHEMA_VERSION
from npuscope.profile.summary import with_summary
from npuscope.profile.tables import Columns, Profile, make_profile, one_row

ESTIMATED_FIELDS = (
    "transpose_flops",
    "model_flops",
    "mfu_estimated_percent",
    "mfu_hlo_estimated_percent",
    "mfu_inst_estimated_percent",
    "mfu_max_achievable_estimated_percent",
    "mfu_hlo_max_achievable_estimated_percent",
    "mfu_inst_max_achievable_estimated_percent",
    "mm_arithmetic_intensity",
    "inputs_and_weights_size_bytes",
    "mbu_min_read_util_percent",
)
"""Summary fields that rest on a guess about the format: which matmuls are transposes, that inputs are read once."""


def read_ntff(path: Path) -> Profile:
    """A capture file as a Profile.

    Raises:
        FormatError: No NTFF, another version than 5, or damaged.
    """
    return ntff_profile(load_ntff(path))


def profile_of_bytes(data: bytes, *, source: str) -> Profile:
    """The same for a file in memory."""
    return ntff_profile(parse_ntff(data, source=source))


def ntff_profile(capture: Ntff) -> Profile:
    """Decode every sub-graph of a parsed capture into one Profile."""
    leftover = Leftover()
    parts: dict[str, list[Columns]] = {}
    totals: dict[str, int] = {"event_count": 0, "dma_queue_count": 0, "last_hw_timestamp": 0, "total_time_ps": 0}
    notes = list(capture.notes)
    for index, graph in enumerate(capture.subgraphs):
        tables, figures, remarks = _decode_graph(capture, graph, index, leftover)
        for name, columns in tables.items():
            parts.setdefault(name, []).append(columns)
        for key in ("event_count", "dma_queue_count"):
            totals[key] += figures[key]
        for key in ("last_hw_timestamp", "total_time_ps"):
            totals[key] = max(totals[key], figures[key])
        notes += remarks
    if len(capture.subgraphs) > 1:
        notes.append(f"{len(capture.subgraphs)} sub-graphs: no capture with more than one was at hand to verify this")
    notes += [f"{count} trace records were left over: {reason}" for reason, count in sorted(leftover.counts.items())]
    tables_made = {name: _stacked(columns) for name, columns in parts.items()}
    tables_made["Metadata"] = one_row(_metadata(capture, totals, notes))
    tables_made["NeffHeader"] = one_row({"network_name": capture.neff_path})
    return with_summary(make_profile(tables_made, source=capture.source, notes=notes))


def _stacked(parts: list[Columns]) -> Columns:
    if len(parts) == 1:
        return parts[0]
    return {key: pa.chunked_array([pa.array(part[key]) for part in parts]) for key in parts[0]}


def _decode_graph(
    capture: Ntff, graph: SubGraph, core: int, leftover: Leftover
) -> tuple[dict[str, Columns], dict[str, int], list[str]]:
    source = capture.source
    program = read_program(graph)
    spans, packets = decode_spans(capture, graph, leftover)
    rows = program_rows(program, spans)
    begin, end_marker, remarks = _window(program, spans, rows, graph)
    kept = _after(spans, begin, "instructions", leftover, remarks)
    rows, spans = rows[kept], select(spans, kept)
    packets = select(packets, _after(packets, begin, "DMA packets", leftover, remarks))
    changes = records_of(capture, graph, SEMAPHORES)
    unknown_blocks(graph, leftover)
    last_ns = int(((spans.end_ps - begin) // 1000).max(initial=0))
    moved = trigger_bytes(program, rows, graph, packets)
    instructions = instruction_table(program, spans, rows, begin, core, graph, moved)
    transfers = transfer_table(graph, packets, begin, core)
    transfer_ends = [a + b for a, b in zip(transfers["start_ps"], transfers["duration_ps"], strict=True)]
    tables: dict[str, Columns] = {
        "Instruction": instructions,
        "DmaPacket": packet_table(graph, packets, begin, core),
        "DmaPacketAggregated": transfers,
        "DmaUsage": throughput_table(packets, begin, core),
        "PendingDma": pending_table(program, spans, rows, moved, transfer_ends, begin, core),
        "SemaphoreUpdate": semaphore_table(
            changes, semaphore_times(changes, graph, source) - begin, program.names, core
        ),
        "DmaQueuesInfo": queue_table(graph, core),
        "HbmUsageSummaryByType": memory_table(graph, core),
    }
    throttle = records_of(capture, graph, THROTTLE)
    tables["Throttle"] = throttle_table(
        throttle, throttle_times(throttle, graph, source) - begin, spans.end_ps - begin, core
    )
    unplaced = int((rows < 0).sum())
    if unplaced:
        remarks.append(f"{unplaced} instructions run outside the images of the file; their opcode is {UNKNOWN_OPCODE}")
    if graph.total_time_ps == 0 and end_marker is not None:
        remarks.append("the file states no total time; the end marker's is used")
    figures = {
        "event_count": changes.size,
        "dma_queue_count": len(graph.queues),
        "last_hw_timestamp": last_ns,
        "total_time_ps": graph.total_time_ps or (end_marker or 0),
    }
    return tables, figures, remarks


def _window(program: Program, spans: Spans, rows: Int64s, graph: SubGraph) -> tuple[int, int | None, list[str]]:
    """Time zero, the total time by the markers, and remarks.

    Zero is the latest end of a NOTIFY with hint 2. Total time is the latest start of one with hint 3 less the
    earliest start of one with hint 2.
    """
    hints = np.array([item.notify_hint for item in program.instructions] + [0])
    hint = hints[rows]
    begins, ends = hint == NOTIFY_BEGIN, hint == NOTIFY_END
    if not begins.any():
        first = int(spans.start_ps.min(initial=0)) if spans.start_ps.size else 0
        remark = f"no begin marker in sub-graph {graph.name}: time zero is its first record, and set-up is included"
        return first, None, [remark]
    total = int(spans.start_ps[ends].max() - spans.start_ps[begins].min()) if ends.any() else None
    return int(spans.end_ps[begins].max()), total, []


def _after(spans: Spans, begin: int, what: str, leftover: Leftover, remarks: list[str]) -> Any:
    """What starts at time zero or later and does not end before it starts."""
    sound = spans.end_ps >= spans.start_ps
    leftover.add(f"{what} that end before they start", int((~sound).sum()))
    late = spans.start_ps >= begin
    early = int((sound & ~late).sum())
    if early:
        remarks.append(f"{early} {what} before the begin marker are left out, as the vendor's tool leaves them out")
    return sound & late


def _metadata(capture: Ntff, totals: dict[str, int], notes: list[str]) -> dict[str, Any]:
    known: dict[str, Any] = {
        "profile_schema_version": SCHEMA_VERSION,
        "ntff_version": capture.version,
        "num_physical_cores": len(capture.subgraphs),
        "vnc_enabled": False,
        "first_hw_timestamp": 0,
        "ticks_per_nanosec": 1000,
        "instance_type": capture.instance_type or None,
        "runtime_version": f"{capture.runtime_version} ({capture.runtime_hash[:5]})",
        "driver_version": f"{capture.driver_version} ()",
        "collectives_version": f"{capture.collectives_version} ()",
        "neuroncore_idx": 0,
        "neuron_device_idx": 0,
        "is_simulation": False,
        "source_format": "ntff",
        "source_path": capture.source,
        "device": capture.instance_type or "unknown Neuron instance",
        "capture_uuid": capture.uuid.hex(),
        "estimated_fields": ",".join(ESTIMATED_FIELDS),
        **totals,
    }
    return known | _hardware_facts(capture.instance_type, notes)


def _hardware_facts(instance_type: str, notes: list[str]) -> dict[str, Any]:
    """Clocks and rates that the file does not hold, from the facts of the instance's chip."""
    family = instance_type.partition(".")[0].removesuffix("n")
    try:
        chip = load_hardware(family)
        core = neuron_core_of(family)
    except NpuscopeError:
        notes.append(f"no hardware facts for instance type {instance_type!r}: utilisation cannot be computed")
        return {}
    assert isinstance(chip, NeuronChip)  # noqa: S101  neuron_core_of has refused anything else
    return {
        "dma_ddr_bandwidth": core.dma_engines * core.dma_engine_gb_s * 1e9,
        "num_dma_engines_per_neuroncore": core.dma_engines,
        "hbm_ddr_bandwidth": chip.hbm_gb_s_per_chip / chip.cores_per_chip * 1e9,
        "tensor_engine_num_rows": core.pe_rows,
        "tensor_engine_num_cols": core.pe_columns,
        "tensor_engine_clock_freq": core.tensor_clock_ghz,
        "vector_engine_clock_freq": core.vector_clock_ghz,
        "scalar_engine_clock_freq": core.scalar_clock_ghz,
        "gpsimd_engine_clock_freq": core.gpsimd_clock_ghz,
        "neuroncore_clock_freq": core.scalar_clock_ghz,
    }
