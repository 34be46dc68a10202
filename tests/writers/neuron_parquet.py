"""Writes folders of Parquet tables as Neuron Explorer does (schema 7.4.0): made-up rows in the documented layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from npuscope.profile.schema import tables as schema_tables

BIG_ID = (1 << 62) + 1


def _rows(table: str, values: Mapping[str, Any]) -> pa.Table:
    """Columns in the types of the schema; every required column that is not given holds zeros or empty texts."""
    count = len(next(iter(values.values())))
    arrays = {}
    for column in schema_tables()[table]:
        if column.origin != "7.4.0" and table != "Summary":
            continue
        if column.name in values:
            arrays[column.name] = pa.array(values[column.name], column.type)
        elif column.required:
            empty = [] if pa.types.is_list(column.type) else "" if pa.types.is_string(column.type) else 0
            value = False if pa.types.is_boolean(column.type) else empty
            arrays[column.name] = pa.array([value] * count, column.type)
    return pa.table(arrays)


def vendor_tables(instructions: int = 10, packets: int = 8, version: str = "7.4.0") -> dict[str, pa.Table]:
    """A small profile; ids of 63 bits, times in ns, percentages as fractions."""
    rows = range(instructions)
    engines = ("Tensor", "Vector", "Scalar", "GpSimd", "Sync")
    start = [10 + 40 * n for n in rows]
    made = {
        "Instruction": _rows(
            "Instruction",
            {
                "start_ts": start,
                "end_ts": [at + 30 for at in start],
                "duration_ns": [30] * instructions,
                "engine": [engines[n % 5] for n in rows],
                "opcode": ["MATMUL" if n % 5 == 0 else "DRAIN" for n in rows],
                "id": [BIG_ID + 2 * n for n in rows],
                "pc": [n % 7 for n in rows],
            },
        ),
        "DmaPacket": _rows(
            "DmaPacket",
            {
                "start_ts": [50 + 25 * n for n in range(packets)],
                "end_ts": [130 + 25 * n for n in range(packets)],
                "duration_ns": [80] * packets,
                "id": [BIG_ID + 2 * n + 1 for n in range(packets)],
                "transfer_bytes": [2048] * packets,
                "queue_type": ["data"] * packets,
                "queue_name": ["qSyncSpillReload0-Q1-E0"] * packets,
            },
        ),
        "SbufUsage": _rows("SbufUsage", {"timestamp": [30, 60], "avg_util_percent": [0.25, 0.5]}),
        "Summary": pa.table(
            {
                "total_time": [600e-9],
                "neuroncore_cycle_count": [840],
                "tensor_engine_active_time": [60e-9],
                "tensor_engine_active_time_percent": [0.1],
            }
        ),
        "Metadata": _rows(
            "Metadata",
            {"profile_schema_version": [version], "ntff_version": [5], "instance_type": ["trn1.2xlarge"],
             "last_hw_timestamp": [600], "tensor_engine_clock_freq": [2.8], "neuroncore_clock_freq": [1.4]},
        ),
    }  # fmt: skip
    made["SchemaFields"] = schema_fields(made)
    return made


def schema_fields(made: Mapping[str, pa.Table], units: Mapping[tuple[str, str], str] | None = None) -> pa.Table:
    """`SchemaFields` as the vendor writes it, with other units where `units` says so."""
    told = dict(units or {})
    rows = [
        (table, column.name, told.get((table, column.name), column.unit))
        for table in made
        for column in schema_tables().get(table, ())
    ]
    names, fields, values = zip(*rows, strict=True)
    return _rows("SchemaFields", {"table_name": names, "field_name": fields, "field_unit": values})


def write_folder(folder: Path, tables: Mapping[str, pa.Table], *, split: Mapping[str, int] | None = None) -> Path:
    """One file a table; a table named in `split` as that many numbered files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        parts = (split or {}).get(name, 0)
        if not parts:
            pq.write_table(table, folder / f"{name}.parquet", compression="snappy")
            continue
        size = -(-table.num_rows // parts)
        for number in range(parts):
            pq.write_table(table.slice(number * size, size), folder / f"{name}_{number}.parquet", compression="snappy")
    return folder
