"""A run as a Profile: the same tables as a capture's, with `is_simulation` set.

Conventions that follow real captures of inf2 (profiler 2.27): a matmul is a row LDWEIGHTS and a row MATMUL; durations
include the drain of the pipeline, so that instructions of one engine overlap; bytes of a compute instruction are those
of one partition, bytes of a DMA all that it moves, and stand on the instruction that triggers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.profile.summary import with_summary
from npuscope.profile.tables import Profile, make_profile
from npuscope.simulate.neuroncore.costs import stationary_columns, weight_load_ns
from npuscope.simulate.neuroncore.devices import MODEL_NAME, SimDevice
from npuscope.simulate.neuroncore.machine import Run
from npuscope.simulate.neuroncore.program import ENGINE_NAMES, IS_RELOAD, IS_SPILL, Engine, Space, Transfer, Work
from npuscope.simulate.neuroncore.schedule import LOADS

_PS_PER_NS = 1000
_OPCODES = {
    "activation": "ACTIVATE",
    "activation_reduce": "ACTIVATE",
    "tensor_copy": "TENSOR_COPY",
}
_TRIGGER = "DMA_DIRECT2D"
_TRIGGER_PS = 1000  # in captures the trigger itself takes about a nanosecond of its engine
_RAMP_LIMIT = 0.5
_THROTTLE_GAP_PS = 3_000_000
"""Throttled matmuls closer than the limiter's window are one stretch."""

Columns = dict[str, Any]


def run_profile(runs: Sequence[Run], *, kernel: str = "", source_path: str = "") -> Profile:
    """One Profile of the physical cores that a kernel ran on.

    Args:
        runs: One per physical core, in order.
        kernel: Name of the kernel, shown as the profile's name.
        source_path: The kernel's file.
    """
    device = runs[0].device
    launch_ps = round(launch_ns(device, len(runs)) * _PS_PER_NS)
    total_ps = max(run.total_ps for run in runs) + launch_ps
    tables: dict[str, list[Columns]] = {"Instruction": [], "DmaPacket": [], "Throttle": []}
    for core, run in enumerate(runs):
        tables["Instruction"].append(_instructions(run, core))
        tables["DmaPacket"].append(_packets(run, core))
        tables["Throttle"].append(_throttles(run, core))
    made: dict[str, Any] = {name: _joined(parts) for name, parts in tables.items()}
    made["Metadata"] = _metadata(runs[0], len(runs), total_ps, kernel, source_path)
    notes = [f"simulated by npuscope, model {MODEL_NAME}, {device.name}: a prediction, not a measurement"]
    return with_summary(make_profile(made, source=source_path or kernel or device.name, notes=notes))


def predicted_total_ns(runs: Sequence[Run]) -> float:
    """Device time of a kernel on its cores: the slowest core, and the fixed cost of a launch."""
    return max(run.total_ps for run in runs) / _PS_PER_NS + launch_ns(runs[0].device, len(runs))


def launch_ns(device: SimDevice, cores: int) -> float:
    """What the execution of a kernel takes besides its instructions, on one or two physical cores."""
    return device.constants["launch_ns"] + (device.constants["lnc_launch_ns"] if cores > 1 else 0.0)


def _joined(parts: list[Columns]) -> Columns:
    return {key: np.concatenate([part[key] for part in parts]) if len(parts) > 1 else parts[0][key] for key in parts[0]}


def _per_signature(run: Run, values: dict[str, list[Any]]) -> Columns:
    """Columns of one value per instruction from one value per signature."""
    return {key: np.array(column)[run.program.signature] for key, column in values.items()}


def _instructions(run: Run, core: int) -> Columns:
    program, schedule = run.program, run.schedule
    facts = _per_signature(run, _signature_facts(run))
    is_dma = run.engine >= LOADS
    is_matmul = facts["opcode"] == "MATMUL"
    start = schedule.start_ps
    duration = np.where(is_dma, _TRIGGER_PS, schedule.done_ps - start)
    names = np.array([*ENGINE_NAMES, ENGINE_NAMES[Engine.SYNC], ENGINE_NAMES[Engine.SYNC]])
    columns: Columns = {
        **facts,
        "start_ps": start,
        "duration_ps": duration,
        "engine": names[run.engine],
        "timeline_track": np.where(is_matmul, "TensorMatrix", names[run.engine]),
        "evt_wait_time_ns": _waits(run) // _PS_PER_NS,
        "pc": np.arange(len(program)),
        "nki_source_location": np.array(program.lines or ("",))[program.line],
        "spill_save_bytes": np.where(program.flags & IS_SPILL, facts["hbm_write_bytes"], 0),
        "spill_reload_bytes": np.where(program.flags & IS_RELOAD, facts["hbm_read_bytes"], 0),
    }
    loads = _weight_loads(run, columns, np.flatnonzero(is_matmul))
    columns["evt_wait_time_ns"] = np.where(is_matmul, 0, columns["evt_wait_time_ns"])  # its weight load waited
    columns = {key: np.concatenate([values, loads[key]]) for key, values in columns.items()}
    order = np.argsort(columns["start_ps"], kind="stable")
    columns = {key: values[order] for key, values in columns.items()}
    count = len(order)
    return {
        **columns,
        **_nanoseconds(columns["start_ps"], columns["duration_ps"]),
        "pcore_idx": np.full(count, core),
        "id": np.arange(count) + (core << 40),
    }


def _signature_facts(run: Run) -> dict[str, list[Any]]:
    """What the signature alone says about an instruction."""
    on_tensor = np.zeros(len(run.program.signatures), np.bool_)
    on_tensor[run.program.signature[run.engine == Engine.TENSOR]] = True
    rows = [
        _work_facts(work, is_matmul=bool(on_tensor[number])) if isinstance(work, Work) else _transfer_facts(work)
        for number, work in enumerate(run.program.signatures)
    ]
    return {key: [row[key] for row in rows] for key in rows[0]} if rows else {key: [] for key in _NO_FACTS}


_NO_FACTS: dict[str, Any] = {
    "opcode": "",
    "operands": "",
    "tensor_instruction_type": "",
    "scalar_activation_fn": "",
    "tensor_elements": 0,
    "hbm_read_bytes": 0,
    "hbm_write_bytes": 0,
    "sbuf_read_bytes": 0,
    "sbuf_write_bytes": 0,
    "psum_read_bytes": 0,
    "psum_write_bytes": 0,
    "psum_read_sbuf_write_bytes": 0,
}


def _work_facts(work: Work, *, is_matmul: bool) -> dict[str, Any]:
    opcode = "MATMUL" if is_matmul else _OPCODES.get(work.opcode, work.opcode.upper())
    in_bytes, out_bytes = _itemsize(work.dtype) * work.elements, _itemsize(work.out_dtype) * work.elements
    reads_psum = Space.PSUM in work.sources
    to_psum = work.destination is Space.PSUM
    evacuates = reads_psum and not to_psum and not is_matmul
    return _NO_FACTS | {
        "opcode": opcode,
        "operands": f"{work.partitions}x{work.elements} {work.dtype} -> {work.out_dtype} {work.function}".strip(),
        "tensor_instruction_type": _matmul_type(work) if is_matmul else "REGULAR",
        "scalar_activation_fn": work.function if opcode == "ACTIVATE" else "",
        "tensor_elements": work.array_flops // 2 if is_matmul else 0,
        "sbuf_read_bytes": in_bytes * sum(space is Space.SBUF for space in work.sources),
        "sbuf_write_bytes": 0 if to_psum else out_bytes,
        "psum_read_bytes": in_bytes * sum(space is Space.PSUM for space in work.sources),
        "psum_write_bytes": (in_bytes if is_matmul else out_bytes) if to_psum else 0,
        "psum_read_sbuf_write_bytes": out_bytes if evacuates else 0,
    }


def _matmul_type(work: Work) -> str:
    return "TRANSPOSE" if work.is_transpose or work.opcode == "nc_transpose" else "REGULAR"


def _transfer_facts(transfer: Transfer) -> dict[str, Any]:
    def moved(space: Space, size: int, end: Space) -> int:
        return size if end is space else 0

    return _NO_FACTS | {
        "opcode": _TRIGGER,
        "operands": f"{transfer.runs} x {transfer.run_bytes} B {transfer.source.name} -> {transfer.destination.name}",
        "tensor_instruction_type": "REGULAR",
        "hbm_read_bytes": moved(Space.HBM, transfer.read_bytes, transfer.source),
        "hbm_write_bytes": moved(Space.HBM, transfer.write_bytes, transfer.destination),
        "sbuf_read_bytes": moved(Space.SBUF, transfer.read_bytes, transfer.source),
        "sbuf_write_bytes": moved(Space.SBUF, transfer.write_bytes, transfer.destination),
    }


def _itemsize(dtype: str) -> int:
    if dtype.startswith(("float8", "int8", "uint8", "bool")):
        return 1
    return 2 if dtype.endswith("16") else 4


def _weight_loads(run: Run, columns: Columns, matmuls: npt.NDArray[np.int64]) -> Columns:
    """The LDWEIGHTS of each matmul: it opens the interval of its matmul, as in captures."""
    works = run.program.signatures
    weights = [work if isinstance(work, Work) else None for work in works] or [None]
    stationary = np.array([stationary_columns(work) if work else 0 for work in weights], np.int64)
    load_ns = np.array([weight_load_ns(work, run.device) if work else 0.0 for work in weights])
    itemsize = np.array([_itemsize(getattr(work, "dtype", "")) for work in works] or [0], np.int64)
    signature = run.program.signature[matmuls]
    loads = {key: values[matmuls].copy() for key, values in columns.items()}
    loads["opcode"] = np.full(len(matmuls), "LDWEIGHTS")
    loads["timeline_track"] = np.full(len(matmuls), ENGINE_NAMES[Engine.TENSOR])
    loads["duration_ps"] = np.minimum(
        np.round(load_ns[signature] * _PS_PER_NS).astype(np.int64), columns["duration_ps"][matmuls]
    )
    for key in ("tensor_elements", "psum_read_bytes", "psum_write_bytes", "psum_read_sbuf_write_bytes"):
        loads[key] = np.zeros(len(matmuls), np.int64)
    loads["sbuf_read_bytes"] = stationary[signature] * itemsize[signature]
    return loads


def _waits(run: Run) -> npt.NDArray[np.int64]:
    """Time that an engine stood idle before an instruction because its operands were not ready."""
    waits = np.zeros(len(run.engine), np.int64)
    for queue in np.unique(run.engine[run.engine < LOADS]):
        mine = np.flatnonzero(run.engine == queue)
        mine = mine[np.argsort(run.schedule.start_ps[mine], kind="stable")]
        idle_from = np.concatenate([[0], run.schedule.end_ps[mine][:-1]])
        waits[mine] = np.maximum(0, run.schedule.start_ps[mine] - idle_from)
    return waits


def _nanoseconds(start: npt.NDArray[np.int64], duration: npt.NDArray[np.int64]) -> Columns:
    first, last = start // _PS_PER_NS, (start + duration) // _PS_PER_NS
    return {"start_ts": first, "end_ts": last, "duration_ns": last - first}


def _packets(run: Run, core: int) -> Columns:
    """One row per DMA and DMA engine: its share of the runs, in one piece."""
    schedule, program = run.schedule, run.program
    owner = schedule.packet_instruction
    transfers = [work if isinstance(work, Transfer) else None for work in program.signatures]
    facts = np.array([(t.runs, t.read_bytes, t.write_bytes) if t else (1, 0, 0) for t in transfers], np.int64)
    facts = facts.reshape(-1, 3)[program.signature[owner]]
    # Bytes are shared out by the running count of runs, so that they add up exactly.
    opens = np.flatnonzero(np.diff(owner, prepend=-1))
    running = np.cumsum(schedule.packet_runs)
    before = running - schedule.packet_runs
    base = np.repeat(before[opens], np.diff(np.append(opens, len(owner))))
    runs = np.maximum(1, facts[:, 0])
    read, written = (
        size * (running - base) // runs - size * (before - base) // runs for size in (facts[:, 1], facts[:, 2])
    )
    duration = schedule.packet_end_ps - schedule.packet_start_ps
    is_store = run.engine[owner] > LOADS
    kinds = np.where(program.flags[owner] & (IS_SPILL | IS_RELOAD), "data", np.where(is_store, "output", "input"))
    count = len(owner)
    return {
        "start_ps": schedule.packet_start_ps,
        "duration_ps": duration,
        **_nanoseconds(schedule.packet_start_ps, duration),
        "pcore_idx": np.full(count, core),
        "id": np.arange(count) + (core << 40),
        "engine_idx": schedule.packet_engine,
        "read_bytes": read,
        "write_bytes": written,
        "transfer_bytes": np.maximum(read, written),
        "throughput": np.maximum(read, written) / np.maximum(1, duration) * 1e12,
        "queue_type": kinds,
        "queue_name": np.where(is_store, "qStore", "qLoad"),
        "queue_idx": is_store.astype(np.int64),
    }


def _throttles(run: Run, core: int) -> Columns:
    """Stretches in which the power limiter holds TensorE below its rate: 7/8 (v2) or 1/2 at first (v3, v4)."""
    limit = run.device.constants["tensor_rate_limit"]
    if not run.options.has("power-limit"):
        starts = np.zeros(0, np.int64)
    elif limit < 1:
        starts = np.sort(run.schedule.start_ps[run.engine == Engine.TENSOR])
    else:
        starts, limit = run.schedule.throttle_start_ps, _RAMP_LIMIT
    opens = np.flatnonzero(np.diff(starts, prepend=-_THROTTLE_GAP_PS - 1) > _THROTTLE_GAP_PS)
    closes = np.append(opens[1:], len(starts))[: len(opens)] - 1
    first, last = starts[opens], starts[closes]
    count = len(opens)
    share = Fraction(limit).limit_denominator(64)
    return {
        "timestamp": first // _PS_PER_NS,
        "duration": np.maximum(1, (last - first) // _PS_PER_NS),
        "k": np.full(count, share.numerator),
        "n": np.full(count, share.denominator),
        "type": np.full(count, "activity_0"),
        "pcore_idx": np.full(count, core),
    }


def _metadata(run: Run, cores: int, total_ps: int, kernel: str, source_path: str) -> Columns:
    device = run.device
    core = device.core
    row = {
        "is_simulation": True,
        "source_format": "simulation",
        "source_path": source_path,
        "device": device.name,
        "profile_name": kernel,
        "explorer_version": f"npuscope model {MODEL_NAME}",
        "num_physical_cores": cores,
        "vnc_enabled": cores > 1,
        "first_hw_timestamp": 0,
        "last_hw_timestamp": total_ps // _PS_PER_NS,
        "total_time_ps": total_ps,
        "dma_ddr_bandwidth": core.dma_engines * core.dma_engine_gb_s * 1e9,
        "num_dma_engines_per_neuroncore": core.dma_engines,
        "hbm_ddr_bandwidth": device.chip.hbm_gb_s_per_chip * 1e9 / device.chip.cores_per_chip,
        "tensor_engine_num_rows": core.pe_rows,
        "tensor_engine_num_cols": core.pe_columns,
        "tensor_engine_clock_freq": core.tensor_clock_ghz,
        "vector_engine_clock_freq": core.vector_clock_ghz,
        "scalar_engine_clock_freq": core.scalar_clock_ghz,
        "gpsimd_engine_clock_freq": core.gpsimd_clock_ghz,
        "neuroncore_clock_freq": core.tensor_clock_ghz / 2,
        "ticks_per_nanosec": 1000,
    }
    return {key: [value] for key, value in row.items()}
