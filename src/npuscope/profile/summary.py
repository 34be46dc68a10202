"""The summary of a Profile, recomputed from its events by the vendor's documented formulas.

Names and units are the vendor's: `*_time` in seconds, `*_percent` a fraction from 0 to 1, sizes in bytes. Every
formula was checked against the vendor's own summary of real captures; tests/golden lists them field by field.
Source of the definitions: aws-neuron/aws-neuron-sdk @81ce03ae, tools/neuron-explorer, and the captures themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from npuscope.profile.derive import (
    Work,
    active_intervals,
    active_time,
    length,
    lost_ps,
    opcode_summary,
    read_work,
    span_ps,
    stated_active_ps,
)
from npuscope.profile.intervals import Intervals, merge
from npuscope.profile.schema import ENGINES
from npuscope.profile.tables import Profile, conform, one_row

_PS = 1e-12
_SUMS = (
    "hbm_read_bytes",
    "hbm_write_bytes",
    "sbuf_read_bytes",
    "sbuf_write_bytes",
    "psum_read_bytes",
    "psum_write_bytes",
    "psum_read_sbuf_write_bytes",
    "spill_save_bytes",
    "spill_reload_bytes",
    "input_queue_bytes",
    "output_queue_bytes",
    "weight_queue_bytes",
)
_DYNAMIC = ("software_dynamic", "hardware_dynamic")


def with_summary(profile: Profile) -> Profile:
    """The Profile with `ActiveTime` and `OpcodeSummary` where they are missing, and `Summary` made anew."""
    tables = dict(profile.tables)
    work = read_work(profile)
    active = active_intervals(work)
    if profile.rows("Instruction"):
        if not profile.rows("ActiveTime"):
            tables["ActiveTime"] = active_time(active, source=profile.source)
        if not profile.rows("OpcodeSummary"):
            tables["OpcodeSummary"] = opcode_summary(work, active, source=profile.source)
    figures = _figures(profile, work, active)
    tables["Summary"] = conform("Summary", one_row(figures), source=profile.source)
    return replace(profile, tables=MappingProxyType(tables))


def _figures(profile: Profile, work: Work, active: dict[str, Intervals]) -> dict[str, Any]:
    """Every figure of the summary that the tables allow; one that they do not allow is missing, not 0."""
    total = total_time(profile)
    packets = span_ps(profile, "DmaPacket")
    figures: dict[str, Any] = {}
    if total is not None:
        figures["total_time"] = total
    if profile.rows("Instruction"):
        figures |= _engines(profile, work, active, total) | _flops(profile) | _bytes(profile)
    if profile.rows("DmaPacket"):
        figures |= _dma(profile, packets, total)
    figures |= _collectives(profile, total)
    figures |= _active(profile, active, packets, total)
    figures |= _sizes(profile, figures)
    figures |= _counts(profile)
    figures |= _utilisation(profile, figures)
    figures |= _throttling(profile)
    figures |= _identity(profile)
    return figures


def total_time(profile: Profile) -> float | None:
    """Seconds of the whole capture: as the source states it, else from the first start to the last end of any event.

    The events of a vendor's file begin after the marker from which it counts, so its own figure cannot be recomputed
    from them; it is taken over.
    """
    stated = profile.metadata.get("total_time_ps")
    if stated is not None:
        return float(stated) * _PS
    vendor = profile.vendor_summary.get("total_time")
    if isinstance(vendor, int | float):
        return float(vendor)
    spans = [span_ps(profile, name) for name in ("Instruction", "DmaPacket", "SystemProfileEvents", "CcOp")]
    kept = [(start, end) for start, end in spans if start.size]
    if not kept:
        return None
    return (max(int(end.max()) for _, end in kept) - min(int(start.min()) for start, _ in kept)) * _PS


def _share(part: float, whole: float | None) -> float:
    return part / whole if whole else 0.0


def _engines(profile: Profile, work: Work, active: dict[str, Intervals], total: float | None) -> dict[str, Any]:
    counts = np.bincount(work.engine[work.engine >= 0], minlength=len(ENGINES))
    lost = lost_ps(profile)
    stated = stated_active_ps(profile) if lost and profile.rows("ActiveTime") else {}
    figures: dict[str, Any] = {}
    for index, name in enumerate(ENGINES):
        key = f"{name.lower()}_engine"
        mine = work.active & (work.engine == index)
        summed, union = int(work.duration[mine].sum()), length(active[name]) if name in active else 0
        overlap, summed = summed - union, summed + lost * int(mine.sum())
        if stated:
            union = stated[name]
            summed = union if overlap == 0 else summed  # of instructions that do not overlap, the sum is the union
        seconds = union * _PS
        figures[f"{key}_instruction_count"] = int(counts[index])
        figures[f"{key}_instruction_time"] = summed * _PS
        figures[f"{key}_active_time"] = seconds
        figures[f"{key}_active_time_percent"] = _share(seconds, total)
    activate = work.runs("ACTIVATE")
    figures["activate_instruction_count"] = int(activate.sum())
    figures["activate_instruction_time"] = float(work.duration[activate].sum() + lost * activate.sum()) * _PS
    figures["matmul_instruction_count"] = int(work.runs("MATMUL").sum())
    return figures


def _flops(profile: Profile) -> dict[str, Any]:
    elements = profile.numbers("Instruction", "tensor_elements")
    transposes = profile.equals("Instruction", "tensor_instruction_type", "TRANSPOSE")
    hardware, transpose = 2 * int(elements.sum()), 2 * int(elements[transposes].sum())
    figures = {
        "hardware_flops": hardware,
        "transpose_flops": transpose,
        "model_flops": hardware - transpose,
    }
    for column, key in (
        ("adjusted_flops", "adjusted_hardware_flops"),
        ("adjusted_flops_transpose", "adjusted_transpose_flops"),
    ):
        if profile.has("Instruction", column):
            figures[key] = int(profile.numbers("Instruction", column).sum())
    return figures


def _bytes(profile: Profile) -> dict[str, Any]:
    figures: dict[str, Any] = {name: int(profile.numbers("Instruction", name).sum()) for name in _SUMS}
    copies = profile.numbers("Instruction", "psum_read_sbuf_write_bytes")
    figures["psum_read_sbuf_write_count"] = int((copies > 0).sum())
    return figures


def _dma(profile: Profile, packets: Intervals, total: float | None) -> dict[str, Any]:
    start, end = packets
    size = profile.numbers("DmaPacket", "transfer_bytes")
    seconds = _union(start, end)
    clock_ghz = profile.metadata.get("neuroncore_clock_freq")
    figures: dict[str, Any] = {
        "dma_active_time": seconds,
        "dma_active_time_percent": _share(seconds, total),
        "dma_packet_time": float((end - start).sum() + lost_ps(profile) * start.size) * _PS,
    }
    if clock_ghz:
        figures["dma_active_cycles"] = int(seconds * float(clock_ghz) * 1e9 + 1e-6)
    masks = {name: profile.equals("DmaPacket", "queue_type", name) for name in _DYNAMIC}
    dynamic = masks[_DYNAMIC[0]] | masks[_DYNAMIC[1]]
    for name, mask in {**masks, "static": ~dynamic, "dynamic": dynamic}.items():
        mine = _union(start[mask], end[mask])
        if name != "dynamic":
            figures[f"{name}_dma_active_time"] = mine
            figures[f"{name}_dma_packet_count"] = int(mask.sum())
            figures[f"{name}_dma_size"] = int(size[mask].sum())
        figures[f"{name}_dma_active_time_percent"] = _share(mine, seconds)
        figures[f"{name}_dma_packet_percent"] = _share(float(mask.sum()), float(mask.size))
        figures[f"{name}_dma_size_percent"] = _share(float(size[mask].sum()), float(size.sum()))
    return figures | _transfers(profile)


def _transfers(profile: Profile) -> dict[str, Any]:
    """Whole transfers, of which the packets are parts; only static queues have them."""
    start, end = span_ps(profile, "DmaPacketAggregated")
    size = profile.numbers("DmaPacketAggregated", "transfer_bytes")
    count = start.size
    return {
        "dma_transfer_count": count,
        "dma_transfer_time": float((end - start).sum() + lost_ps(profile) * count) * _PS,
        "dma_transfer_total_bytes": int(size.sum()),
        "dma_transfer_average_bytes": _share(float(size.sum()), float(count)),
    }


def _union(start: Any, end: Any) -> float:
    return length(merge(start, end)) * _PS


def _collectives(profile: Profile, total: float | None) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for table, key, active in (
        ("CcOp", "cc_op", "cc_op_active_time"),
        ("CcInstruction", "cc_cores_instruction", "cc_cores_instruction_active_time"),
    ):
        start, end = span_ps(profile, table)
        busy = _union(start, end)
        figures[f"{key}_count"] = start.size
        figures[f"{key}_time"] = float((end - start).sum()) * _PS
        figures[active] = busy
        figures[f"{active}_percent"] = _share(busy, total)
    return figures


def _active(profile: Profile, active: dict[str, Intervals], packets: Intervals, total: float | None) -> dict[str, Any]:
    """Time in which anything works: engines, DMA, collectives, or the slices of a foreign trace."""
    others = [span_ps(profile, name) for name in ("CcOp", "CcInstruction", "SystemProfileEvents")]
    intervals = [*active.values(), merge(*packets), *(merge(*pair) for pair in others)]
    start = np.concatenate([np.zeros(0, np.int64), *(first for first, _ in intervals)])
    end = np.concatenate([np.zeros(0, np.int64), *(last for _, last in intervals)])
    if start.size == 0:
        return {}
    seconds = _union(start, end)
    return {"total_active_time": seconds, "total_active_time_percent": _share(seconds, total)}


def _sizes(profile: Profile, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Tensor sizes from the tensor table; from the memory table and the bytes read where there is none."""
    kinds, sizes = profile.texts("TensorInfo", "type"), profile.numbers("TensorInfo", "size")
    usage = dict(
        zip(
            profile.texts("HbmUsageSummaryByType", "usage_type").tolist(),
            profile.numbers("HbmUsageSummaryByType", "usage_bytes").tolist(),
            strict=True,
        )
    )
    found: dict[str, Any] = {}
    if sizes.any():
        weights, inputs, outputs = (int(sizes[kinds == kind].sum()) for kind in ("WEIGHT", "IN", "OUT"))
        found["inputs_and_weights_size_bytes"] = inputs + weights
        found["weight_size_bytes"] = weights
        found["inputs_outputs_weights_size_bytes"] = inputs + outputs + weights
        return found
    if "Weights" in usage:
        found["weight_size_bytes"] = usage["Weights"]
        found["inputs_outputs_weights_size_bytes"] = usage["Weights"] + usage.get("Tensors", 0)
        if "hbm_read_bytes" in figures:
            found["inputs_and_weights_size_bytes"] = figures["hbm_read_bytes"]
    return found


def _counts(profile: Profile) -> dict[str, Any]:
    known, vendor = profile.metadata, profile.vendor_summary
    figures = {name: known.get(name, vendor.get(name)) for name in ("event_count", "dma_queue_count")}
    if figures["event_count"] is not None:
        tables = ("Instruction", "DmaPacket", "DmaPacketAggregated")
        figures["trace_count"] = sum(profile.rows(name) for name in tables) + int(figures["event_count"])
    return {name: int(value) for name, value in figures.items() if value is not None}


def peak_flops(profile: Profile) -> float | None:
    """FLOP/s of the PE array in bf16: 2 x rows x columns x clock; None where the capture does not say."""
    known = profile.metadata
    names = ("tensor_engine_num_rows", "tensor_engine_num_cols", "tensor_engine_clock_freq")
    rows, columns, clock_ghz = (known.get(name) for name in names)
    return 2.0 * rows * columns * clock_ghz * 1e9 if rows and columns and clock_ghz else None


def _utilisation(profile: Profile, figures: Mapping[str, Any]) -> dict[str, Any]:
    """MFU, HFU, MBU and the roofline's two coordinates."""
    peak, bandwidth = peak_flops(profile), profile.metadata.get("hbm_ddr_bandwidth")
    total = figures.get("total_time")
    made: dict[str, Any] = {}
    clock_ghz = profile.metadata.get("neuroncore_clock_freq")
    if total and clock_ghz:
        made["neuroncore_cycle_count"] = int(total * float(clock_ghz) * 1e9 + 1e-6)
    if "hardware_flops" not in figures:
        return made
    hardware, transpose, model = (figures[f"{name}_flops"] for name in ("hardware", "transpose", "model"))
    moved = figures["hbm_read_bytes"] + figures["hbm_write_bytes"]
    useful = hardware - transpose
    made["mm_arithmetic_intensity"] = _share(useful, moved)
    if total and peak:
        made["mfu_estimated_percent"] = made["mfu_hlo_estimated_percent"] = model / (peak * total)
        made["mfu_inst_estimated_percent"] = useful / (peak * total)
        made["hfu_estimated_percent"] = hardware / (peak * total)
    if total and bandwidth:
        made["mbu_estimated_percent"] = moved / total / bandwidth
        read_once = figures.get("inputs_and_weights_size_bytes")
        if read_once is not None:
            made["mbu_min_read_util_percent"] = read_once / total / bandwidth
    if peak and bandwidth:
        ratio = made["peak_flops_bandwidth_ratio"] = peak / bandwidth
        for name, flops in (("mfu", model), ("mfu_hlo", model), ("mfu_inst", useful)):
            made[f"{name}_max_achievable_estimated_percent"] = min(_share(flops, moved) / ratio, 1.0)
    return made


def _throttling(profile: Profile) -> dict[str, Any]:
    """Per cause and overall: share of the capture, and the limit on utilisation it set (k of n)."""
    duration = profile.numbers("Throttle", "duration")
    end = profile.metadata.get("last_hw_timestamp")
    if duration.size == 0 or not end:
        return {}
    k, n = profile.numbers("Throttle", "k"), profile.numbers("Throttle", "n")
    limit = k / np.where(n == 0, 1, n)
    kind = profile.texts("Throttle", "type")
    figures: dict[str, Any] = {"throttle_avg_util_limit_nc0_percent": float((duration * limit).sum()) / end}
    active = (kind != "unknown") & (limit < 1)
    figures["throttle_active_nc0_time_ns"] = int(duration[active].sum())
    for name in sorted(set(kind.tolist())):
        mine = kind == name
        time = int(duration[mine].sum())
        figures[f"throttle_{name}_active_time_nc0_percent"] = time / end
        figures[f"throttle_{name}_avg_util_limit_nc0_percent"] = _share(float((duration * limit)[mine].sum()), time)
    return figures


def _identity(profile: Profile) -> dict[str, Any]:
    known = profile.metadata
    names = ("instance_type", "runtime_version", "driver_version", "collectives_version", "compiler_version")
    found = {name: known[name] for name in names if known.get(name)}
    if known.get("explorer_version"):
        found["profiler_version"] = known["explorer_version"]
    if "neuroncore_idx" in known:
        found["nc_idx"] = known["neuroncore_idx"]
    if "neuron_device_idx" in known:
        found["nd_idx"] = known["neuron_device_idx"]
    return found
