"""An NTFF as a Profile: trace records and instruction images become the vendor's tables."""

from __future__ import annotations

from dataclasses import dataclass
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
_WITHHELD = frozenset({"tensor_engine_clock_freq", "hbm_ddr_bandwidth"})
"""Facts from which utilisation would follow."""


def read_ntff(path: Path) -> Profile:
    """A capture file as a Profile.

    Raises:
        FormatError: No NTFF, another version than 5, or damaged.
    """
    return ntff_profile(load_ntff(path))


def profile_of_bytes(data: bytes, *, source: str) -> Profile:
    """The same for a file in memory."""
    return ntff_profile(parse_ntff(data, source=source))


@dataclass(frozen=True, slots=True)
class _Decoding:
    """One sub-graph, decoded; times on the common axis of the capture."""

    graph: SubGraph
    program: Program
    spans: Spans
    rows: Int64s
    """Index in the program of each executed instruction."""
    packets: Spans
    begin_ps: int
    """Latest end of a begin marker."""
    marked_ps: tuple[int, int] | None
    """Earliest start of a begin marker and latest start of an end marker."""
    remarks: tuple[str, ...]


def ntff_profile(capture: Ntff) -> Profile:
    """Decode every sub-graph of a parsed capture into one Profile."""
    leftover = Leftover()
    decodings = [_decode_graph(capture, graph, leftover) for graph in capture.subgraphs]
    zero = min(item.begin_ps for item in decodings)
    parts: dict[str, list[Columns]] = {}
    for core, item in enumerate(decodings):
        for name, columns in _tables(capture, item, zero, core).items():
            parts.setdefault(name, []).append(columns)
    notes = [*capture.notes, *(remark for item in decodings for remark in item.remarks)]
    if len(decodings) > 1:
        notes.append(
            f"{len(decodings)} sub-graphs: no capture with more than one was at hand, so that their common time axis "
            "is unverified; utilisation is withheld, because whether they share a core is not known"
        )
    notes += [f"{count} trace records were left over: {reason}" for reason, count in sorted(leftover.counts.items())]
    made = {name: _stacked(columns) for name, columns in parts.items()}
    made["Metadata"] = one_row(_metadata(capture, _totals(capture, decodings, zero), notes))
    made["NeffHeader"] = one_row({"network_name": capture.neff_path})
    return with_summary(make_profile(made, source=capture.source, notes=notes))


def _totals(capture: Ntff, decodings: list[_Decoding], zero: int) -> dict[str, int]:
    """Counts, the last instruction's end, and the total time: as stated, or by the markers of all sub-graphs."""
    last = max((int(item.spans.end_ps.max(initial=zero)) for item in decodings), default=zero)
    marked = [item.marked_ps for item in decodings if item.marked_ps]
    stated = max(graph.total_time_ps for graph in capture.subgraphs)
    by_markers = max(end for _, end in marked) - min(begin for begin, _ in marked) if marked else 0
    return {
        "event_count": sum(records_of(capture, graph, SEMAPHORES).size for graph in capture.subgraphs),
        "dma_queue_count": sum(len(graph.queues) for graph in capture.subgraphs),
        "last_hw_timestamp": (last - zero) // 1000,
        "total_time_ps": stated if len(decodings) == 1 and stated else max(by_markers, stated),
    }


def _stacked(parts: list[Columns]) -> Columns:
    """Rows of all sub-graphs; their numbers go on from one to the next."""
    if len(parts) == 1:
        return parts[0]
    made: dict[str, Any] = {}
    for key in parts[0]:
        arrays = [pa.array(part[key]) for part in parts]
        if key == "id" and pa.types.is_integer(arrays[0].type):
            arrays = [pa.array(np.arange(sum(map(len, arrays)), dtype=np.int64))]
        made[key] = pa.chunked_array(arrays)
    return made


def _decode_graph(capture: Ntff, graph: SubGraph, leftover: Leftover) -> _Decoding:
    program = read_program(graph)
    spans, packets = decode_spans(capture, graph, leftover)
    rows = program_rows(program, spans)
    begin, marked, remarks = _window(program, spans, rows, graph)
    kept = _after(spans, begin, "instructions", leftover, remarks)
    rows, spans = rows[kept], select(spans, kept)
    packets = select(packets, _after(packets, begin, "DMA packets", leftover, remarks))
    unknown_blocks(graph, leftover)
    unplaced = int((rows < 0).sum())
    if unplaced:
        remarks.append(f"{unplaced} instructions run outside the images of the file; their opcode is {UNKNOWN_OPCODE}")
    if graph.total_time_ps == 0 and marked is not None:
        remarks.append(f"the file states no total time of sub-graph {graph.name}; its markers' is used")
    return _Decoding(graph, program, spans, rows, packets, begin, marked, tuple(remarks))


def _tables(capture: Ntff, item: _Decoding, zero: int, core: int) -> dict[str, Columns]:
    """All tables of one sub-graph; times count from `zero`."""
    graph, program, packets = item.graph, item.program, item.packets
    moved = trigger_bytes(program, item.rows, graph, packets)
    transfers = transfer_table(graph, packets, zero, core)
    transfer_ends = [a + b for a, b in zip(transfers["start_ps"], transfers["duration_ps"], strict=True)]
    changes = records_of(capture, graph, SEMAPHORES)
    changed = semaphore_times(changes, graph, capture.source)
    late = changed >= item.begin_ps
    throttle = records_of(capture, graph, THROTTLE)
    limited = throttle_times(throttle, graph, capture.source) - zero
    return {
        "Instruction": instruction_table(program, item.spans, item.rows, zero, core, graph, moved),
        "DmaPacket": packet_table(graph, packets, zero, core),
        "DmaPacketAggregated": transfers,
        "DmaUsage": throughput_table(packets, zero, core),
        "PendingDma": pending_table(program, item.spans, item.rows, moved, transfer_ends, zero, core),
        "SemaphoreUpdate": semaphore_table(changes[late], changed[late] - zero, program.names, core),
        "DmaQueuesInfo": queue_table(graph, core),
        "HbmUsageSummaryByType": memory_table(graph, core),
        "Throttle": throttle_table(throttle, limited, item.spans.end_ps - zero, core),
    }


def _window(
    program: Program, spans: Spans, rows: Int64s, graph: SubGraph
) -> tuple[int, tuple[int, int] | None, list[str]]:
    """Where the sub-graph's execution begins, its markers, and remarks.

    It begins at the latest end of a NOTIFY with hint 2; the markers are the earliest start of one with hint 2 and the
    latest start of one with hint 3.
    """
    hints = np.array([item.notify_hint for item in program.instructions] + [0])
    hint = hints[rows]
    begins, ends = hint == NOTIFY_BEGIN, hint == NOTIFY_END
    if not begins.any():
        first = int(spans.start_ps.min()) if spans.start_ps.size else 0
        remark = f"no begin marker in sub-graph {graph.name}: it begins at its first record, and set-up is included"
        return first, None, [remark]
    marked = (int(spans.start_ps[begins].min()), int(spans.start_ps[ends].max())) if ends.any() else None
    return int(spans.end_ps[begins].max()), marked, []


def _after(spans: Spans, begin: int, what: str, leftover: Leftover, remarks: list[str]) -> Any:
    """What starts at `begin` or later and does not end before it starts."""
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
    facts = _hardware_facts(capture.instance_type, notes)
    if len(capture.subgraphs) > 1:
        facts = {key: value for key, value in facts.items() if key not in _WITHHELD}
    return known | facts


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
