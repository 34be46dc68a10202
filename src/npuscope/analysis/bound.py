"""What limits the kernel: time on the critical resources, which sums to the whole.

Every instant of the kernel's window goes to one resource: to the one that is, over the window, the busiest of those
active at that instant; what overlaps with a busier resource is hidden behind it and does not limit. Instants in which
nothing is active, or only the Sync engine, wait for a dependency. Over the whole capture, what lies outside of the window
is launch: start-up, the runtime's barriers and its clean-up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np

from npuscope.analysis.kernel_time import KernelTime
from npuscope.analysis.overlap import Overlap, idle_gaps
from npuscope.analysis.timeline import DMA, Resource, spans
from npuscope.profile.tables import Profile

KINDS: Final = ("tensor", "vector", "scalar", "gpsimd", "dma", "launch", "dependency")
_AWAITED: Final = re.compile(r"\$?[SE]\[\d+\](?: \(([^)]*)\))?(?:>=|==)")
BARRIER: Final = "a barrier of the runtime"
_HIGH, _LOW = 0.25, 0.10
_SAMPLED_GAPS = 1000


@dataclass(frozen=True, slots=True)
class BoundKind:
    """The classification of a kernel."""

    kind: str
    """The largest share: one of `KINDS`, `collective`, the name of a track, or `unknown` without events."""
    share: float
    runner_up: str
    runner_up_share: float
    confidence: str
    """`high` where the kind leads the runner-up by 25 points or more, `low` below 10, else `medium`."""
    shares: dict[str, float]
    """Kind to share of the kernel's time; fractions that sum to 1."""
    busy: dict[str, float]
    """Resource to its share of the window, overlaps counted for each."""
    dependency_ns: dict[str, int]
    """Time with nothing active by what ended it: a DMA's first packet, the completion of a DMA, an engine's result."""
    capture_kind: str
    """The kind over the whole capture, start-up included."""
    capture_shares: dict[str, float]
    """As `shares`, over the whole capture."""
    basis: str


def classify(
    profile: Profile, resources: tuple[Resource, ...], kernel: KernelTime | None, overlap: Overlap
) -> BoundKind:
    """Attribute the kernel's time to what limits it."""
    if kernel is None or kernel.window_ns == 0:
        return BoundKind("unknown", 0.0, "", 0.0, "low", {}, {}, {}, "unknown", {}, "no events")
    inside = attribute(overlap, kernel.window_ns)
    outside = max(0, kernel.total_ns - kernel.window_ns)
    capture = {**inside, "launch": inside.get("launch", 0) + outside}
    of_kernel = inside if kernel.is_cold else capture
    shares, capture_shares = _fractions(of_kernel), _fractions(capture)
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    (kind, share), (second, second_share) = ranked[0], ranked[1] if len(ranked) > 1 else ("", 0.0)
    lead = share - second_share
    busy = {
        name: float(overlap.mask_ns[(overlap.masks >> bit) & 1 == 1].sum() / kernel.window_ns)
        for bit, name in enumerate(overlap.resources)
    }
    return BoundKind(
        kind=kind,
        share=share,
        runner_up=second,
        runner_up_share=second_share,
        confidence="high" if lead >= _HIGH else "medium" if lead >= _LOW else "low",
        shares=shares,
        busy=busy,
        dependency_ns=dependency_causes(profile, resources, kernel),
        capture_kind=max(capture_shares, key=lambda name: capture_shares[name]),
        capture_shares=capture_shares,
        basis="active window" if kernel.is_cold else "whole execution",
    )


def attribute(overlap: Overlap, window_ns: int) -> dict[str, int]:
    """Time of the window by kind, ns; sums to `window_ns`."""
    on = [(overlap.masks >> bit) & 1 == 1 for bit in range(len(overlap.resources))]
    busy = [int(overlap.mask_ns[mask].sum()) for mask in on]
    on_core = any(name in {"Tensor", "Vector", "Scalar", "GpSimd", DMA} for name in overlap.resources)
    found = dict.fromkeys(KINDS if on_core else ("dependency",), 0)
    left = np.ones(overlap.masks.size, bool)
    for index in sorted(range(len(busy)), key=lambda index: -busy[index]):
        name = overlap.resources[index]
        if name == "Sync":
            continue
        mine = left & on[index]
        kind = _kind(name)
        found[kind] = found.get(kind, 0) + int(overlap.mask_ns[mine].sum())
        left &= ~on[index]
    found["dependency"] += window_ns - sum(found.values())
    return found


def _kind(name: str) -> str:
    lowered = name.lower()
    return lowered if lowered in KINDS else "collective" if name == "Collectives" else name


def _fractions(times: dict[str, int]) -> dict[str, float]:
    total = sum(times.values())
    return {name: value / total if total else 0.0 for name, value in times.items()}


def dependency_causes(profile: Profile, resources: tuple[Resource, ...], kernel: KernelTime) -> dict[str, int]:
    """Time with nothing active within the window by what ended it, most first.

    The event that starts when a gap ends tells what was waited for: a DMA packet, that a DMA was on its way; an
    instruction, what the semaphore in its operands stands for. Gaps beyond the longest 1,000 are `not looked at`.
    """
    start, end = idle_gaps(resources, kernel)
    if start.size == 0 or not profile.rows("Instruction"):
        return {}
    order = np.argsort(start - end, kind="stable")
    looked = order[:_SAMPLED_GAPS]
    packets = np.unique(spans(profile, "DmaPacket")[0])
    starts = spans(profile, "Instruction")[0]
    by_start = np.argsort(starts, kind="stable")
    engines, engine_names = profile.codes("Instruction", "engine")
    operands = profile.tables["Instruction"].column("operands") if profile.has("Instruction", "operands") else None
    found: dict[str, int] = {}
    for index in looked.tolist():
        at = int(end[index])
        cause = "not known"
        position = int(np.searchsorted(packets, at))
        if position < packets.size and packets[position] == at:
            cause = "DMA on its way: until its first packet"
        else:
            row = int(np.searchsorted(starts, at, sorter=by_start))
            if row < by_start.size and starts[by_start[row]] == at:
                which = int(by_start[row])
                text = operands[which].as_py() or "" if operands is not None else ""
                cause = awaited_text(text) or f"issue of {engine_names[engines[which]]}"
        found[cause] = found.get(cause, 0) + int(end[index] - start[index])
    rest = order[_SAMPLED_GAPS:]
    if rest.size:
        found["not looked at"] = int((end[rest] - start[rest]).sum())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def awaited_text(operands: str) -> str:
    """What an instruction waits for, from `S[24] (qGpSimdDynamic)>=16 ...` or `S[5] (Tensor)>=1 ...`; '' if nothing."""
    match = _AWAITED.search(operands)
    if match is None:
        return ""
    name = match.group(1) or ""
    if name.startswith("q"):
        return f"completion of a DMA on {name}"
    return f"result of {name}" if name else BARRIER
