"""DMA throughput and pending transfers over time, from the packets and instructions of an NTFF."""

from __future__ import annotations

import numpy as np

from npuscope.formats.ntff_program import Program
from npuscope.formats.ntff_records import Int64s, Spans
from npuscope.profile.tables import Columns


def throughput_table(packets: Spans, begin: int, core: int) -> Columns:
    """`DmaUsage`: rate of all open packets and bytes of all begun ones, after each change.

    The vendor's tool writes a thinned-out selection of these rows; each of its rows equals one of these.
    """
    start, end = packets.start_ps - begin, packets.end_ps - begin
    rate = packets.end_bytes / np.maximum(end - start, 1) * 1e12
    at = np.concatenate([start, end])
    order = np.argsort(at, kind="stable")
    rates = np.cumsum(np.concatenate([rate, -rate])[order])
    moved = np.cumsum(np.concatenate([packets.end_bytes, np.zeros_like(packets.end_bytes)])[order])
    open_packets = np.cumsum(np.concatenate([np.ones_like(start), -np.ones_like(start)])[order])
    stamps = at[order] // 1000
    last = np.append(stamps[1:] != stamps[:-1], True) if stamps.size else np.zeros(0, bool)
    return {
        "timestamp": stamps[last],
        "current_throughput": np.where(open_packets[last] == 0, 0.0, np.maximum(rates[last], 0.0)),
        "total_transfer_bytes": moved[last],
        "pcore_idx": np.full(int(last.sum()), core, np.int64),
    }


def pending_table(
    program: Program, spans: Spans, rows: Int64s, moved: Int64s, transfer_ends_ps: list[int], begin: int, core: int
) -> Columns:
    """`PendingDma`: one more when an instruction triggers a transfer, one less when a static queue's transfer ends.

    Args:
        program: The decoded images.
        spans: Executed instructions.
        rows: Their index in the program.
        moved: Bytes of a static queue that each instruction triggers; 0 for all others.
        transfer_ends_ps: When the transfers of static queues end, from `begin`.
        begin: Time zero.
        core: Physical core.
    """
    is_dynamic = np.array([item.opcode == "DMA_DIRECT2D" for item in program.instructions] + [False])
    begun = spans.start_ps[is_dynamic[rows] | (moved > 0)] - begin
    at = np.concatenate([begun, np.array(transfer_ends_ps, np.int64)])
    order = np.argsort(at, kind="stable")
    change = np.concatenate([np.ones(begun.size, np.int64), -np.ones(len(transfer_ends_ps), np.int64)])[order]
    return {
        "timestamp": at[order] // 1000,
        "value": np.cumsum(change).astype(np.int32),
        "pcore_idx": np.full(at.size, core, np.int64),
    }
