"""Writes profile JSON as the vendor's tool does (data_version 8): any number of rows, made up from a seed.

The layout is that of the format; every value is made up here. `document` makes a small one as Python values,
`write_document` streams one of any size to a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ENGINES = ("Tensor", "Vector", "Scalar", "GpSimd", "Sync")
OPCODES = {
    "Tensor": ("MATMUL", "LDWEIGHTS"),
    "Vector": ("TENSOR_TENSOR", "EVENT_SEMAPHORE"),
    "Scalar": ("ACTIVATE", "DRAIN"),
    "GpSimd": ("TENSOR_LOAD", "DMA_DIRECT2D"),
    "Sync": ("WRITE", "NOTIFY"),
}
BIG_ID = (1 << 62) + 1
PACKET_BYTES = 2048
PACKETS_PER_TRANSFER = 8


def _id(index: int) -> int:
    """A 63-bit id that a float64 cannot hold."""
    return BIG_ID + 2 * index


def instruction(index: int) -> dict[str, Any]:
    """One row of `instruction`; each seventh has what only some rows of real files have."""
    engine = ENGINES[index % 5]
    opcode = OPCODES[engine][index % 2]
    row: dict[str, Any] = {
        "timestamp": 10 + 40 * index,
        "duration": 20 + index % 13,
        "id": _id(index),
        "pc": index % 997,
        "label": "TensorMatrix" if opcode == "MATMUL" else engine,
        "subgroup": engine,
        "opcode": opcode,
        "operands": f" src=fp16@0x{index:x}[1,0,0][128,1,1] dst=0x2000000 128*128 ",
        "hlo_name": "%dot.1 = dot(%p0, %p1)",
        "hlo_attrs": '[{"op_type":"","source_file":"","source_line":"0"}]',
        "layer": "_dot.1",
        "bir_id": f"sg0000:{index}",
        "bir_instruction_name": f"I-{index}-0",
        "penguin_id": "",
        "raw_bir_id": index,
        "raw_penguin_id": 0,
        "fully_qualified_subgraph": "/sg00",
        "instruction_type": "REGULAR" if opcode == "MATMUL" else "",
        "activation_fn": "",
        "evt_wait_time": index % 3,
        "crc_in": 65535,
        "crc_out": 0,
    }
    if opcode == "MATMUL":
        row |= {"elements": 128 * 128 * 128, "psum_write_bytes": 256, "sbuf_read_bytes": 256}
    if index % 7 == 3:
        row |= {
            "predecessors": [{"id": _id(index - 1), "type": "FLOW_DEPENDENCE"}],
            "raw_framework_id": [5],
            "raw_hlo_id": 3,
            "compiler_pc": index % 11,
            "psum_read_sbuf_write_bytes": 256,
            "is_psum_read_sbuf_write": True,
        }
    return row


def packet(index: int) -> dict[str, Any]:
    """One row of `dma` that stands for one packet."""
    engine = index % 16
    duration = 70 + index % 31
    return {
        "timestamp": 50 + 25 * index,
        "duration": duration,
        "id": _id(index) + 1,
        "transfer_size": PACKET_BYTES,
        "read_size": PACKET_BYTES,
        "write_size": PACKET_BYTES,
        "transfer_rate": PACKET_BYTES * 1_000_000_000 // duration,
        "dma_engine": str(engine),
        "dma_queue": "1",
        "subgroup": f"qSyncSpillReload0-Q1-E{engine}",
        "queue_type": "data",
        "op": "copy",
        "variable": "weight_1",
        "source": [["WEIGHT"]],
        "dest": ["SB"],
        "aggregated": "no",
        "duplicate": "no",
        "is_cc_dma": "no",
        "packet_idx": index % PACKETS_PER_TRANSFER,
        "packet_aggregation_id": _id(index // PACKETS_PER_TRANSFER) + (1 << 40),
        "block_id": index // PACKETS_PER_TRANSFER,
        "semaphore_id": "S[8] (qSyncSpillReload0)",
        "crc": index % 65536,
    }


def transfer(index: int) -> dict[str, Any]:
    """One row of `dma` that repeats `PACKETS_PER_TRANSFER` packets as one."""
    size = PACKET_BYTES * PACKETS_PER_TRANSFER
    row = packet(index * PACKETS_PER_TRANSFER)
    del row["packet_idx"], row["packet_aggregation_id"]
    return row | {
        "id": _id(index) + (1 << 40),
        "subgroup": "qSyncSpillReload0",
        "aggregated": "yes",
        "transfer_size": size,
        "read_size": size,
        "write_size": size,
        "trigger": 10,
        "read_shape": [[64, 128]],
        "write_shape": [[64, 128]],
        "source_offset": "[[0x0]]",
        "source_steps": "[[1, 256]]",
        "source_sb_partitions": "",
        "source_num_sb_partitions": 0,
        "dest_offset": "[0x2f000]",
        "dest_steps": "[1, 262144]",
        "dest_sb_partitions": "0-127",
        "dest_num_sb_partitions": 128,
    }


def _dma(packets: int) -> Iterator[dict[str, Any]]:
    for index in range(packets):
        yield packet(index)
        if index % PACKETS_PER_TRANSFER == PACKETS_PER_TRANSFER - 1:
            yield transfer(index // PACKETS_PER_TRANSFER)


def arrays(instructions: int, packets: int) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """Every top-level array of a document with its rows, large ones as they are made."""
    last = max(10 + 40 * instructions, 50 + 25 * packets) + 200
    engine_time = sum(20 + index % 13 for index in range(0, instructions, 5))
    summary = {
        "total_time": last / 1e9,
        "neuroncore_cycle_count": round(last * 1.4),
        "hardware_flops": 2 * 128**3 * sum(1 for index in range(instructions) if index % 10 == 0),
        "tensor_engine_active_time": engine_time / 1e9,
        "tensor_engine_active_time_percent": engine_time / last,
        "dma_active_time_percent": 0,
        "instance_type": "inf2.xlarge",
        "nd_idx": 0,
        "nc_idx": 0,
        "throttle_active_nc0_time_ns": 7,
    }
    metadata = {
        "data_version": 8,
        "ntff_version": 5,
        "first_hw_timestamp": 0,
        "last_hw_timestamp": last,
        "ticks_per_nanosec": 1000,
        "pe_clock_freq": 2.8,
        "pe_clock_others": 1.4,
        "pe_num_rows": 128,
        "pe_num_cols": 128,
        "hbm_ddr_bandwidth": 410000000000,
        "dma_ddr_bandwidth": 435000000000,
        "num_physical_cores": 1,
        "vnc_enabled": False,
        "is_simulation": False,
    }
    header = {"uuid": "0f" * 16, "data_size": "30720", "header_size": "1024", "number_of_neuroncores_per_lnc": "1"}
    queue = {"q_name": "qSyncSpillReload0", "q_type": "weights", "q_idx": 1, "q_eng_idx": 15, "q_axi_port": 0}
    throughput = {"transfer_rate": 5.5e9, "hbm_transfer_rate": 0, "hbm_total_transfer_bytes": 0, "uses_hbm": "false"}
    sbuf = {"type": "sb", "usage_avg": 0.25, "partition_0_usage": 0.25, "partition_96_usage": 0}
    psum = {"type": "psum", "usage_avg": 0.125, "bank_0_usage": 1}
    busy = {"start_ts": 10, "end_ts": 31, "duration_ns": 20, "engine": "tensor", "pcore_idx": 0}
    weight = {"variable_name": "weight_1", "type": "WEIGHT", "shape": "[128 128 1 1]", "size": "32768", "sg_name": ""}
    samples = min(instructions, 50)
    yield "terminology", iter([{"total_time": "Time from first to last event."}])
    yield "summary_groups", iter([{"total_time": "overall_stats"}])
    yield "summary", iter([summary])
    yield "instruction", map(instruction, range(instructions))
    yield "metadata", iter([metadata])
    yield "dma", _dma(packets)
    yield "neff_header", iter([header])
    yield "profile_info", iter([{"neff_name": "/x/graph.neff", "ntff_filename": "/x/a.ntff", "profile_type": "normal"}])
    yield "model_info", iter([{"sg_name": "sg00", "trace_count": instructions, "nd_idx": 0, "nc_idx": 0}])
    yield "dma_queues_info", iter([queue | {"q_dram_channel": 0, "q_event_id": -1, "subgraph": "sg00"}])
    yield "dma_throughput", iter([throughput | {"timestamp": 60, "total_transfer_bytes": 2048}])
    yield "pending_dma", iter([{"timestamp": 50, "value": 1}])
    yield "semaphore_update", ({"timestamp": 5 * n, "id": str(n % 4), "value": n % 3} for n in range(samples))
    yield "instruction_usage", iter([sbuf | {"timestamp": 90}, psum | {"timestamp": 80}, sbuf | {"timestamp": 30}])
    yield "active_time", iter([busy])
    yield "ham", iter([{"timestamp": 9, "duration": 22, "k": 7, "n": 8, "type": kind} for kind in (0, 99, 4)])
    yield "nc_mem_usage", iter([{"nd": 0, "nc": 0, "usage_type": "Generic", "amount_bytes": 25600}])
    yield "neff_node", iter([weight])
    layer = {"name": "/sg00", "fully_qualified_subgraph": "/sg00", "start": 7, "end": 900, "duration": 893}
    yield "layer_summary", iter([layer | {"tensor_engine_active_time": 60, "vector_engine_active_percent": 0}])
    yield "warnings", iter([{"category": "Missing Data", "message": "Something was not captured."}])
    yield "summary_group_order", iter([{"overall_stats": 0}])


def document(instructions: int = 12, packets: int = 16) -> dict[str, Any]:
    """A whole small document as Python values."""
    return {key: list(rows) for key, rows in arrays(instructions, packets)}


def write_document(path: Path, instructions: int, packets: int) -> int:
    """Write a document of any size without holding it; returns its bytes."""
    with path.open("w", encoding="utf-8") as file:
        for number, (key, rows) in enumerate(arrays(instructions, packets)):
            file.write(("{" if number == 0 else ",") + json.dumps(key) + ":[")
            file.writelines(("," if n else "") + json.dumps(row, separators=(",", ":")) for n, row in enumerate(rows))
            file.write("]")
        file.write("}")
    return path.stat().st_size
