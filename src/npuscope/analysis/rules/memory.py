"""Rules about data movement: small descriptors, spills, uneven DMA engines."""

from __future__ import annotations

from typing import Final

import numpy as np

from npuscope.analysis.dma import data_packets
from npuscope.analysis.findings import Evidence, Facts, Rule
from npuscope.analysis.timeline import spans, to_ns
from npuscope.profile.intervals import union_length
from npuscope.units import format_bytes, format_ns, format_percent

_FULL_RATE_BYTES: Final = 2048
"""Below it, throughput falls in proportion to the size: the vendor's DMA figures."""


def small_dma(facts: Facts) -> Evidence | None:
    """DMA spends its time on packets too small to be worth their overhead."""
    if facts.dma is None:
        return None
    start, end = spans(facts.profile, "DmaPacket")
    size = facts.profile.numbers("DmaPacket", "transfer_bytes").astype(np.int64)
    data = data_packets(facts.profile)
    small = data & (size < facts.thresholds.small_dma_bytes)
    total = int((end - start)[data].sum())
    took = int((end - start)[small].sum())
    if not total or took / total < facts.thresholds.small_dma_share:
        return None
    union_ns = to_ns(union_length(start[small], end[small]))
    needed = float((size[small] / _FULL_RATE_BYTES).sum() / max(int(small.sum()), 1))
    return Evidence(
        numbers={
            "small_packets": int(small.sum()),
            "data_packets": int(data.sum()),
            "small_below_bytes": facts.thresholds.small_dma_bytes,
            "small_share_of_packet_time": took / total,
            "mean_small_bytes": float(size[small].mean()),
            "mean_data_packet_bytes": facts.dma.mean_data_packet_bytes,
            "small_active_ns": union_ns,
        },
        cause=f"{format_percent(took / total)} of the DMA time goes to packets below {format_bytes(facts.thresholds.small_dma_bytes)}, "
        f"{format_bytes(float(size[small].mean()))} on average: a descriptor costs about the same up to 2 KiB",
        action="move contiguous rows of 2 KiB or more per partition: lay the innermost dimension out contiguously, load "
        "several tiles per DMA; 4 KiB saturates",
        gain_ns=union_ns * max(0.0, 1 - needed),
        gain_basis="active time of the small packets, if the same bytes moved in packets of 2 KiB",
    )


def spills(facts: Facts) -> Evidence | None:
    """Intermediate results leave SBUF and come back."""
    known = facts.profile.summary
    read, reloaded = known.get("hbm_read_bytes") or 0, known.get("spill_reload_bytes") or 0
    if not read or reloaded / read <= facts.thresholds.spill_reload_share:
        return None
    saved = known.get("spill_save_bytes") or 0
    rate = facts.dma.throughput_bytes_per_s if facts.dma else 0.0
    return Evidence(
        numbers={
            "spill_reload_bytes": reloaded,
            "spill_save_bytes": saved,
            "hbm_read_bytes": read,
            "spill_reload_share_of_hbm_read": reloaded / read,
        },
        cause=f"{format_percent(reloaded / read)} of the bytes read from HBM are reloads of what had been spilled: live tiles do "
        "not fit into SBUF",
        action="use smaller tiles or shorten the time between making and using a tile; fuse the consumer into the producer",
        gain_ns=1e9 * (reloaded + saved) / rate if rate else None,
        gain_basis="spilled bytes, both ways, at the DMA throughput that this profile reached",
    )


def unbalanced_queues(facts: Facts) -> Evidence | None:
    """One DMA engine moves far more than the others."""
    dma = facts.dma
    if (
        dma is None
        or dma.engine_imbalance <= facts.thresholds.dma_imbalance
        or not facts.profile.has("DmaPacket", "engine_idx")
    ):
        return None
    ranked = dma.by_engine
    share = 1 - 1 / dma.engine_imbalance
    return Evidence(
        numbers={
            "engine_imbalance": dma.engine_imbalance,
            "engines_used": dma.engines_used,
            "busiest": ranked[0].name,
            "busiest_bytes": ranked[0].bytes,
            "least": ranked[-1].name,
            "least_bytes": ranked[-1].bytes,
            "dma_active_ns": dma.active_in_kernel_ns,
        },
        cause=f"{ranked[0].name} moves {dma.engine_imbalance:.2g} times the mean of the {dma.engines_used} engines used; the "
        "others wait for it",
        action="spread transfers over all 128 partitions, so that each of the 16 DMA engines gets 8 of them",
        gain_ns=dma.active_in_kernel_ns * share,
        gain_basis=f"DMA active time in the window ({format_ns(dma.active_in_kernel_ns)}), if all engines moved the same",
    )


RULES: Final = (
    Rule(
        "small-dma",
        "medium",
        "packets below a size, of the time of all data packets",
        ("small_dma_bytes", "small_dma_share"),
        small_dma,
        resource="DMA",
    ),
    Rule(
        "spills",
        "high",
        "spill reloads of bytes read from HBM",
        ("spill_reload_share",),
        spills,
        vendor=True,
        resource="DMA",
    ),
    Rule(
        "unbalanced-queues",
        "medium",
        "data bytes of the busiest DMA engine over the mean",
        ("dma_imbalance",),
        unbalanced_queues,
        resource="DMA",
    ),
)
