"""Small profiles for tests: instructions and packets as tuples, everything else as it comes."""

from typing import Any

from npuscope.profile.tables import Profile, make_profile

INF2 = {
    "is_simulation": False,
    "source_format": "profile",
    "device": "inf2.xlarge",
    "instance_type": "inf2.xlarge",
    "hbm_ddr_bandwidth": 410e9,
    "dma_ddr_bandwidth": 435e9,
    "tensor_engine_num_rows": 128,
    "tensor_engine_num_cols": 128,
    "tensor_engine_clock_freq": 2.8,
}


def instruction(engine: str, opcode: str, start: int, duration: int, **more: Any) -> dict[str, Any]:
    return {
        "engine": engine,
        "opcode": opcode,
        "start_ts": start,
        "duration_ns": duration,
        "end_ts": start + duration,
        "operands": "",
        **more,
    }


def packet(start: int, duration: int, size: int = 4096, **more: Any) -> dict[str, Any]:
    return {
        "start_ts": start,
        "duration_ns": duration,
        "end_ts": start + duration,
        "transfer_bytes": size,
        "read_bytes": size,
        "write_bytes": size,
        "engine_idx": 0,
        "queue_name": "qLoad-Q1-E0",
        "queue_type": "data",
        **more,
    }


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def small_profile(
    instructions: list[dict[str, Any]] | None = None,
    packets: list[dict[str, Any]] | None = None,
    *,
    metadata: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
    source: str = "small",
    **tables: list[dict[str, Any]],
) -> Profile:
    """A profile of an inf2.xlarge from rows; tables without rows are left out."""
    given = {
        "Metadata": columns([{**INF2, **(metadata or {})}]),
        "Instruction": columns(instructions or []),
        "DmaPacket": columns(packets or []),
        "Summary": columns([summary] if summary else []),
        **{name: columns(rows) for name, rows in tables.items()},
    }
    return make_profile({name: data for name, data in given.items() if data}, source=source)
