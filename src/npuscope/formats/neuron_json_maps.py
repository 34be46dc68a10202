"""Where each key of the vendor's profile JSON (data_version 8) goes: table and column names of the schema 7.4.0.

Verified on 28 real files. Keys that are not named here keep their name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

DATA_VERSION = 8
UI_KEYS = frozenset({"terminology", "summary_groups", "summary_group_order"})
"""Texts and grouping of the vendor's user interface; no data of the run. Dropped."""
EXPECTED_KEYS = ("summary", "metadata", "instruction")
"""A JSON object with none of these is no profile."""
THROTTLE_TYPES = MappingProxyType({0: "activity_0", 99: "unknown"})
_EVENT = MappingProxyType({"timestamp": "start_ts", "duration": "duration_ns"})


@dataclass(frozen=True, slots=True)
class KeyMap:
    """One top-level array: the table of its rows, and the columns that have another name there."""

    table: str
    columns: Mapping[str, str] = field(default_factory=dict)
    skipped: frozenset[str] = frozenset()
    """Keys that are read in another way, such as a list of edges."""


_DMA_COLUMNS = {
    **_EVENT,
    "transfer_size": "transfer_bytes",
    "read_size": "read_bytes",
    "write_size": "write_bytes",
    "transfer_rate": "throughput",
    "dma_engine": "engine_idx",
    "dma_queue": "queue_idx",
    "subgroup": "queue_name",
    "duplicate": "is_duplicate",
    "source_offset": "read_offset",
    "source_steps": "read_steps",
    "source_sb_partitions": "read_sbuf_partitions",
    "source_num_sb_partitions": "read_num_sbuf_partitions",
    "dest_offset": "write_offset",
    "dest_steps": "write_steps",
    "dest_sb_partitions": "write_sbuf_partitions",
    "dest_num_sb_partitions": "write_num_sbuf_partitions",
}
_ENGINES = ("tensor", "vector", "scalar", "gpsimd", "sync")
_LAYER_TIMES = {
    f"{engine}_engine_{kind}_time": f"{engine}_engine_{kind}_time_ns"
    for engine in _ENGINES
    for kind in ("active", "instruction")
}

MAPS: Mapping[str, KeyMap] = MappingProxyType(
    {
        "instruction": KeyMap(
            "Instruction",
            {
                **_EVENT,
                "label": "timeline_track",
                "subgroup": "engine",
                "instruction_type": "tensor_instruction_type",
                "elements": "tensor_elements",
                "activation_fn": "scalar_activation_fn",
                "evt_wait_time": "evt_wait_time_ns",
                "fully_qualified_subgraph": "subgraph",
                "trigger": "dma_trigger_start_ts",
            },
            frozenset({"predecessors"}),
        ),
        "dma": KeyMap("DmaPacket", _DMA_COLUMNS, frozenset({"aggregated"})),
        "dma_queues_info": KeyMap(
            "DmaQueuesInfo",
            {
                "q_name": "name",
                "q_type": "type",
                "q_idx": "idx",
                "q_eng_idx": "engine_idx",
                "q_axi_port": "axi_port",
                "q_dram_channel": "dram_channel",
                "q_event_id": "event_id",
            },
        ),
        "dma_throughput": KeyMap(
            "DmaUsage",
            {"transfer_rate": "current_throughput"},
            frozenset({"hbm_transfer_rate", "hbm_total_transfer_bytes", "uses_hbm"}),
        ),
        "pending_dma": KeyMap("PendingDma"),
        "semaphore_update": KeyMap("SemaphoreUpdate"),
        "active_time": KeyMap("ActiveTime"),
        "ham": KeyMap("Throttle"),
        "nc_mem_usage": KeyMap(
            "HbmUsageSummaryByType",
            {"nd": "neuron_device_idx", "nc": "neuroncore_idx", "amount_bytes": "usage_bytes"},
        ),
        "neff_node": KeyMap("TensorInfo", {"sg_name": "subgraph"}),
        "layer_summary": KeyMap(
            "LayerSummary",
            {
                "start": "start_ts",
                "end": "end_ts",
                "duration": "duration_ns",
                "fully_qualified_subgraph": "subgraph",
                **_LAYER_TIMES,
            },
        ),
        "model_info": KeyMap(
            "SubgraphSummary", {"sg_name": "subgraph", "nd_idx": "neuron_device_idx", "nc_idx": "neuroncore_idx"}
        ),
        "warnings": KeyMap("Warning"),
        "neff_header": KeyMap(
            "NeffHeader",
            {
                "number_of_logical_neuroncores": "logical_neuroncore_count",
                "number_of_neuroncores_per_lnc": "pcore_count_per_lnc",
            },
        ),
    }
)
"""Arrays that become a table row by row. `dma`, `dma_throughput` and `instruction_usage` become two."""
HBM_COLUMNS = MappingProxyType(
    {"hbm_transfer_rate": "current_throughput", "hbm_total_transfer_bytes": "total_transfer_bytes"}
)
USAGE_TABLES = MappingProxyType({"sb": "SbufUsage", "psum": "PsumUsage"})
"""`instruction_usage.type` to the table of the row."""
USAGE_COLUMNS = MappingProxyType(
    {
        "usage_avg": "avg_util_percent",
        **{f"partition_{index}_usage": f"partition_{index}_util_percent" for index in (0, 32, 64, 96)},
        **{f"bank_{index}_usage": f"bank_{index}_util_percent" for index in range(8)},
    }
)
METADATA_COLUMNS = MappingProxyType(
    {
        "pe_num_rows": "tensor_engine_num_rows",
        "pe_num_cols": "tensor_engine_num_cols",
        "pe_clock_freq": "tensor_engine_clock_freq",
        "pe_clock_others": "neuroncore_clock_freq",
        "neff_name": "neff_path",
        "ntff_filename": "ntff_path",
        "profiler_version": "explorer_version",
        "profiler_build_time": "explorer_build_time",
        "nd_idx": "neuron_device_idx",
        "nc_idx": "neuroncore_idx",
    }
)
"""Keys of `metadata`, `profile_info` and `summary` to columns of `Metadata`."""
SUMMARY_METADATA = (
    "instance_type",
    "profiler_version",
    "runtime_version",
    "driver_version",
    "collectives_version",
    "compiler_version",
    "nd_idx",
    "nc_idx",
)
"""What `summary` tells of the machine and not of the run; it is copied to `Metadata`, and stays in `VendorSummary`."""
OTHER_CLOCKS = ("vector_engine_clock_freq", "scalar_engine_clock_freq", "gpsimd_engine_clock_freq")
"""The engines that `pe_clock_others` speaks of."""
