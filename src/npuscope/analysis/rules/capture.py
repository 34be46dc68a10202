"""Rules about the capture itself: whether its figures are those of the kernel."""

from __future__ import annotations

from typing import Final

import numpy as np

from npuscope.analysis.findings import Evidence, Facts, Rule
from npuscope.formats.neff_uuid import match_uuid
from npuscope.units import format_ns


def cold_capture(facts: Facts) -> Evidence | None:
    """The capture holds a first execution: most of its time is start-up, not the kernel."""
    kernel = facts.kernel
    if not kernel.is_cold:
        return None
    return Evidence(
        numbers={
            "total_time_ns": kernel.total_ns,
            "kernel_time_ns": kernel.ns,
            "startup_ns": kernel.startup_ns,
            "startup_share_of_total": kernel.startup_ns / kernel.total_ns,
            "longest_gap_ns": kernel.longest_gap_ns,
            "longest_gap_start_ns": kernel.longest_gap_start_ns,
        },
        cause=f"the first execution loads libraries and tables: engines wait {format_ns(kernel.startup_ns)} on semaphores, "
        "whatever the kernel",
        action="capture a later execution: neuron-explorer capture --num-exec 2 --profile-nth-exec 2; until then trust "
        "kernel_time and not total_time, mfu or any *_percent of the summary",
        gain_ns=None,
        gain_basis="none for the kernel: a warm execution does not have this gap",
    )


def missing_notifications(facts: Facts) -> Evidence | None:
    """The vendor's tool, or the tables, say that DMA events were not recorded."""
    messages = facts.profile.texts("Warning", "message").tolist()
    lost = [
        text for text in messages if "dge" in text.lower() or "dynamic dma" in text.lower() or "dropped" in text.lower()
    ]
    issues = _dynamic_issues(facts)
    named = int(np.count_nonzero(~facts.profile.equals("DmaPacket", "variable", "")))
    named = named if facts.profile.has("DmaPacket", "variable") else 0
    unexplained = facts.dma is not None and issues > 0 and named == 0 and not lost
    without = facts.dma is None and issues > 0
    if not (lost or without or unexplained):
        return None
    return Evidence(
        numbers={
            "dynamic_dma_instructions": issues,
            "dma_packets": facts.dma.packets if facts.dma else 0,
            "dma_packets_with_variable": named,
            "vendor_message": lost[0] if lost else "",
        },
        cause="DGE notifications were off: dynamic DMA packets cannot be traced to tensors or instructions",
        action="capture with --enable-dge-notifs or NEURON_RT_ENABLE_DGE_NOTIFICATIONS=1, for one kernel rather than a "
        "whole model, whose notifications can overflow",
        gain_ns=None,
        gain_basis="none: what is known of DMA gets better, not the kernel",
    )


def _dynamic_issues(facts: Facts) -> int:
    """Instructions that make DMA descriptors on the device."""
    codes, names = facts.profile.codes("Instruction", "opcode")
    count = np.bincount(codes, minlength=len(names)).tolist()
    return sum(n for n, name in zip(count, names, strict=True) if name.startswith("DMA_"))


def neff_mismatch(facts: Facts) -> Evidence | None:
    """The capture carries another UUID than the NEFF beside it."""
    capture, neff = (
        _bytes(value)
        for value in (facts.profile.metadata.get("capture_uuid"), facts.profile.first("NeffHeader").get("uuid"))
    )
    if not capture or not neff or match_uuid(neff, capture) != "mismatch":
        return None
    return Evidence(
        numbers={"capture_uuid": capture.hex(), "neff_uuid": neff.hex()},
        cause="this NEFF did not run when the capture was made: names, tensors and FLOPs from it belong to another program",
        action="give the NEFF that ran; npuscope inspect shows the UUID of each",
        gain_ns=None,
        gain_basis="none: the figures are wrong until the pair is right",
    )


def _bytes(value: object) -> bytes:
    try:
        return bytes.fromhex(str(value or "").replace("-", ""))
    except ValueError:
        return b""


RULES: Final = (
    Rule(
        "cold-capture",
        "high",
        "one long gap before most of the kernel's work in which engines only wait",
        ("cold_gap_ns", "cold_gap_share"),
        cold_capture,
        about_capture=True,
    ),
    Rule(
        "neff-mismatch",
        "high",
        "the UUID in the capture is not that of the NEFF",
        (),
        neff_mismatch,
        about_capture=True,
    ),
    Rule(
        "missing-notifications",
        "low",
        "a warning of the vendor's tool says so, or dynamic DMA instructions have no packets, or none with a tensor",
        (),
        missing_notifications,
        about_capture=True,
    ),
)
