"""DMA by queue, by kind, by engine and by size; throughput achieved beside the peak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.analysis.constants import Constants
from npuscope.analysis.kernel_time import KernelTime
from npuscope.analysis.timeline import spans, to_ns
from npuscope.profile.derive import lost_ps
from npuscope.profile.intervals import intersection_length, merge
from npuscope.profile.tables import Profile

SEMAPHORE_BYTES: Final = 4
"""A packet of up to 4 bytes updates a semaphore and moves no data."""
_EDGES: Final = (0, SEMAPHORE_BYTES + 1, 64, 512, 2048, 4096)
_CLASSES: Final = ("<= 4 B (semaphore)", "5-63 B", "64-511 B", "512-2047 B", "2-4 KiB", ">= 4 KiB")


@dataclass(frozen=True, slots=True)
class DmaGroup:
    """Packets that share a queue, a kind, an engine or a size class."""

    name: str
    packets: int
    bytes: int
    packet_time_ns: float
    """Sum of durations; overlaps counted as often as they occur."""
    share_of_bytes: float
    share_of_packet_time: float


@dataclass(frozen=True, slots=True)
class DmaUse:
    """All DMA of a capture."""

    packets: int
    data_packets: int
    """Larger than 4 bytes and no instruction fetch."""
    bytes: int
    data_bytes: int
    mean_data_packet_bytes: float
    active_ns: float
    """Union of all packets."""
    active_in_kernel_ns: float
    throughput_bytes_per_s: float
    """Data bytes over the union of data packets."""
    peak_bytes_per_s: float | None
    peak_source: str
    throughput_share: float | None
    """Of the peak; a fraction."""
    engines_used: int
    engine_imbalance: float
    """Data bytes of the busiest DMA engine over the mean of those used; 1 is even."""
    hbm_read_bytes: int | None
    hbm_write_bytes: int | None
    sbuf_read_bytes: int | None
    sbuf_write_bytes: int | None
    psum_read_bytes: int | None
    psum_write_bytes: int | None
    spill_reload_bytes: int | None
    spill_save_bytes: int | None
    by_queue: tuple[DmaGroup, ...]
    by_queue_type: tuple[DmaGroup, ...]
    by_engine: tuple[DmaGroup, ...]
    by_size: tuple[DmaGroup, ...]


def dma_use(profile: Profile, kernel: KernelTime | None, constants: Constants) -> DmaUse | None:
    """Describe the DMA packets; None where there are none."""
    if not profile.rows("DmaPacket") or kernel is None:
        return None
    start, end = spans(profile, "DmaPacket")
    size = profile.numbers("DmaPacket", "transfer_bytes").astype(np.int64)
    data = data_packets(profile)
    union = merge(start, end)
    moving = merge(start[data], end[data])
    moving_ps = int((moving[1] - moving[0]).sum())
    data_bytes = int(size[data].sum())
    throughput = 1e12 * data_bytes / moving_ps if moving_ps else 0.0
    engine = profile.numbers("DmaPacket", "engine_idx").astype(np.int64)
    used, position = np.unique(engine[data], return_inverse=True)
    per_engine = np.bincount(position, weights=size[data]) if used.size else np.zeros(0)
    peak = constants.dma_bytes_per_s
    weighed = size, end - start + lost_ps(profile)
    return DmaUse(
        packets=size.size,
        data_packets=int(data.sum()),
        bytes=int(size.sum()),
        data_bytes=data_bytes,
        mean_data_packet_bytes=data_bytes / int(data.sum()) if data.any() else 0.0,
        active_ns=to_ns((union[1] - union[0]).sum()),
        active_in_kernel_ns=to_ns(intersection_length(union, kernel.window)),
        throughput_bytes_per_s=throughput,
        peak_bytes_per_s=peak,
        peak_source=constants.sources.get("dma_bytes_per_s", ""),
        throughput_share=throughput / peak if peak else None,
        engines_used=int(used.size),
        engine_imbalance=float(per_engine.max() / per_engine.mean()) if per_engine.sum() else 1.0,
        **{name: _count(profile, name) for name in _BYTE_FIELDS},
        by_queue=_groups(*_queues(profile), *weighed),
        by_queue_type=_groups(*profile.codes("DmaPacket", "queue_type"), *weighed),
        by_engine=_groups(*_engines(engine), *weighed),
        by_size=_groups(np.searchsorted(_EDGES[1:], size, side="right"), list(_CLASSES), *weighed, ranked=False),
    )


_BYTE_FIELDS: Final = (
    "hbm_read_bytes",
    "hbm_write_bytes",
    "sbuf_read_bytes",
    "sbuf_write_bytes",
    "psum_read_bytes",
    "psum_write_bytes",
    "spill_reload_bytes",
    "spill_save_bytes",
)


def data_packets(profile: Profile) -> npt.NDArray[np.bool_]:
    """Which packets move data: no instruction fetch, and more than a semaphore update."""
    size = profile.numbers("DmaPacket", "transfer_bytes")
    return (size > SEMAPHORE_BYTES) & ~profile.equals("DmaPacket", "queue_type", "instruction")


def _count(profile: Profile, name: str) -> Any:
    value = profile.summary.get(name)
    return None if value is None else int(value)


def _queues(profile: Profile) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Queues without the DMA engine in their name: one queue is spread over up to 16 engines."""
    codes, names = profile.codes("DmaPacket", "queue_name")
    bare = [name.rpartition("-E")[0] if name.rpartition("-E")[2].isdigit() else name for name in names]
    distinct = sorted(set(bare))
    return np.array([distinct.index(name) for name in bare], np.int64)[codes], distinct


def _engines(engine: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], list[str]]:
    used, codes = np.unique(engine, return_inverse=True)
    return codes.astype(np.int64), [f"DMA engine {index}" for index in used.tolist()]


def _groups(
    codes: npt.NDArray[Any],
    names: list[str],
    size: npt.NDArray[np.int64],
    duration_ps: npt.NDArray[np.int64],
    *,
    ranked: bool = True,
) -> tuple[DmaGroup, ...]:
    """Sums by group, most bytes first; groups without packets are left out."""
    count = np.bincount(codes, minlength=len(names)).tolist()
    moved = np.bincount(codes, weights=size, minlength=len(names))
    took = np.bincount(codes, weights=duration_ps, minlength=len(names))
    all_moved, all_took = float(size.sum()) or 1.0, float(duration_ps.sum()) or 1.0
    found = [
        DmaGroup(
            name or "(unnamed)",
            count[i],
            int(moved[i]),
            to_ns(took[i]),
            float(moved[i] / all_moved),
            float(took[i] / all_took),
        )
        for i, name in enumerate(names)
        if count[i]
    ]
    return tuple(sorted(found, key=lambda group: -group.bytes) if ranked else found)
