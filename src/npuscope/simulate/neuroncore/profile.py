"""A run as a Profile: the same tables as a capture's, with `is_simulation` set.

Conventions that follow real captures of inf2 (profiler 2.27): a matmul is a row LDWEIGHTS and a row MATMUL; durations
include the drain of the pipeline, so that instructions of one engine overlap; bytes of a compute instruction are those
of one partition, bytes of a DMA all that it moves, and stand on the instruction that triggers it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from npuscope.profile.summary import with_summary
from npuscope.profile.tables import Profile, make_profile
from npuscope.simulate.neuroncore.costs import itemsize_of, stationary_columns, weight_load_ns
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


def run_profile(
    runs: Sequence[Run], *, kernel: str = "", source_path: str = "", labels: Mapping[str, Sequence[str]] | None = None
) -> Profile:
    """One Profile of the physical cores that a kernel ran on.

    Args:
        runs: One per physical core, in order.
        kernel: Name of the kernel, shown as the profile's name.
        source_path: The kernel's file.
        labels: Text columns of the instruction table, with a value per entry of `Program.lines`, which are the same for all
            runs; None puts the lines themselves into `nki_source_location`.
    """
    device = runs[0].device
    launch_ps = round(launch_ns(device, len(runs)) * _PS_PER_NS)
    total_ps = max(run.total_ps for run in runs) + launch_ps
    tables: dict[str, list[Columns]] = {"Instruction": [], "DmaPacket": [], "Throttle": []}
    for core, run in enumerate(runs):
        tables["Instruction"].append(_instructions(run, core, labels))
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
    return {key: _concatenated([part[key] for part in parts]) for key in parts[0]}


def _concatenated(arrays: list[Any]) -> Any:
    if len(arrays) == 1:
        return arrays[0]
    return pa.concat_arrays(arrays) if isinstance(arrays[0], pa.Array) else np.concatenate(arrays)


def _texts(names: Sequence[str], index: npt.NDArray[Any]) -> pa.Array:
    """`names[index]` as Arrow text, without a string of Python per row."""
    return pa.array(names, pa.string()).take(pa.array(index, pa.int64()))


def _instructions(run: Run, core: int, labels: Mapping[str, Sequence[str]] | None) -> Columns:
    """A row per instruction, and one more for the weight load of each matmul, which opens its interval."""
    program, schedule = run.program, run.schedule
    count, kinds = len(program), len(program.signatures)
    matmuls = np.flatnonzero(run.engine == Engine.TENSOR)
    duration = np.where(run.engine >= LOADS, _TRIGGER_PS, schedule.done_ps - schedule.start_ps)
    waits = _waits(run) // _PS_PER_NS
    loading = _weight_load_ps(run)[program.signature[matmuls]]
    source = np.concatenate([np.arange(count), matmuls])
    duration = np.concatenate([duration, np.minimum(loading, duration[matmuls])])
    order = np.argsort(schedule.start_ps[source], kind="stable")
    source, duration, is_load = source[order], duration[order], order >= count
    kind = program.signature[source] + kinds * is_load
    rows = _signature_facts(run)
    facts: Columns = {
        key: _texts([row[key] for row in rows], kind)
        if isinstance(empty, str)
        else np.array([row[key] for row in rows], np.int64)[kind]
        for key, empty in _NO_FACTS.items()
    }
    start, flags, engine = schedule.start_ps[source], program.flags[source], np.minimum(run.engine[source], LOADS)
    is_matmul = (engine == Engine.TENSOR) & ~is_load
    track = np.where(is_matmul, len(ENGINE_NAMES), np.minimum(engine, Engine.SYNC))
    return {
        **facts,
        "start_ps": start,
        "duration_ps": duration,
        **_nanoseconds(start, duration),
        "engine": _texts(ENGINE_NAMES, np.minimum(engine, Engine.SYNC)),
        "timeline_track": _texts((*ENGINE_NAMES, "TensorMatrix"), track),
        "evt_wait_time_ns": np.where(is_matmul, 0, waits[source]),  # the weight load of a matmul waited for it
        "pc": source,
        **{
            name: _texts(texts or ("",), program.line[source])
            for name, texts in (labels or {"nki_source_location": program.lines}).items()
        },
        "spill_save_bytes": np.where(flags & IS_SPILL, facts["hbm_write_bytes"], 0),
        "spill_reload_bytes": np.where(flags & IS_RELOAD, facts["hbm_read_bytes"], 0),
        "pcore_idx": np.full(len(source), core),
        "id": np.arange(len(source)) + (core << 40),
    }


def _signature_facts(run: Run) -> list[dict[str, Any]]:
    """What the signature alone says: of each signature's instructions, then of the weight loads before them."""
    works = run.program.signatures
    on_tensor = np.zeros(len(works), np.bool_)
    on_tensor[run.program.signature[run.engine == Engine.TENSOR]] = True
    rows = [
        _work_facts(work, is_matmul=bool(on_tensor[number])) if isinstance(work, Work) else _transfer_facts(work)
        for number, work in enumerate(works)
    ]
    loads = [_weight_load_facts(work) if isinstance(work, Work) else _NO_FACTS for work in works]
    return [*rows, *loads] or [_NO_FACTS]


def _weight_load_facts(work: Work) -> dict[str, Any]:
    return _NO_FACTS | {
        "opcode": "LDWEIGHTS",
        "operands": f"{work.partitions}x{stationary_columns(work)} {work.dtype}",
        "tensor_instruction_type": _matmul_type(work),
        "sbuf_read_bytes": stationary_columns(work) * itemsize_of(work.dtype),
    }


def _weight_load_ps(run: Run) -> npt.NDArray[np.int64]:
    """Per signature, the time to load the weights of a matmul."""
    works = run.program.signatures
    taken = [weight_load_ns(work, run.device) if isinstance(work, Work) else 0.0 for work in works]
    return np.round(np.array(taken or [0.0]) * _PS_PER_NS).astype(np.int64)


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
    in_bytes, out_bytes = itemsize_of(work.dtype) * work.elements, itemsize_of(work.out_dtype) * work.elements
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
    moves_tile = (program.flags[owner] & (IS_SPILL | IS_RELOAD)) != 0
    kind = np.where(moves_tile, 2, is_store)
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
        "queue_type": _texts(("input", "output", "data"), kind),
        "queue_name": _texts(("qLoad", "qStore"), is_store),
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
        # What DMA can reach in the model; captures state the theoretical rate of the engines here.
        "dma_ddr_bandwidth": core.dma_engines * core.dma_engine_practical_gb_s * 1e9,
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
