"""What limits the kernel: time on the critical resources, which sums to the whole.

Every instant of the kernel's window goes to one resource: to the one that is, over the window, the busiest of those
active at that instant; what overlaps with a busier resource is hidden behind it and does not limit. Instants in which
nothing is active, or only the Sync engine, wait for a dependency. Over the whole capture, what lies outside of the window
is launch: start-up, the runtime's barriers and its clean-up.

A trace of threads and streams, without engines or DMA, tells what was busy and not what limits: its kind is `unknown`,
and its shares are the tracks, each without what hides behind a busier one, and `idle`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np

from npuscope.analysis.kernel_time import KernelTime
from npuscope.analysis.overlap import Overlap, idle_gaps
from npuscope.analysis.timeline import DMA, PS_PER_NS, WAIT_OPCODE, Resource, is_trace, spans, to_ns
from npuscope.profile.intervals import Intervals, Ticks
from npuscope.profile.tables import Profile
from npuscope.units import format_percent

KINDS: Final = ("tensor", "vector", "scalar", "gpsimd", "dma", "launch", "dependency")
_AWAITED: Final = re.compile(r"\$?[SE]\[\d+\](?: \(([^)]*)\))?(?:>=|==)")
BARRIER: Final = "a barrier of the runtime"
_HIGH, _LOW = 0.25, 0.10
_SAMPLED_GAPS = 1000
UNKNOWN: Final = "unknown"
IDLE: Final = "idle"


@dataclass(frozen=True, slots=True)
class BoundKind:
    """The classification of a kernel."""

    kind: str
    """The largest share: one of `KINDS` or `collective`; `unknown` without events, and for a trace without engines."""
    share: float
    runner_up: str
    runner_up_share: float
    confidence: str
    """`high` where the kind leads the runner-up by 25 points or more, `low` below 10, else `medium`; `none` where the
    kind is unknown."""
    shares: dict[str, float]
    """Kind to share of the kernel's time; of a trace, track to share of its span, and `idle`. Fractions that sum to 1."""
    busy: dict[str, float]
    """Resource to its share of the window, overlaps counted for each."""
    dependency_ns: dict[str, float]
    """Time with nothing active by what ended it: a DMA's first packet, the completion of a DMA, an engine's result."""
    capture_kind: str
    """The kind over the whole capture, start-up included."""
    capture_shares: dict[str, float]
    """As `shares`, over the whole capture."""
    basis: str
    statement: str
    """The classification as a sentence without a full stop; says of a trace which track is busiest."""


def classify(
    profile: Profile, resources: tuple[Resource, ...], kernel: KernelTime | None, overlap: Overlap
) -> BoundKind:
    """Attribute the kernel's time to what limits it."""
    if kernel is None or kernel.window_ps == 0:
        return _unknown({}, {}, "no events", "no events")
    inside = attribute(overlap, kernel.window_ps)
    busy = {
        name: float(overlap.mask_ps[(overlap.masks >> bit) & 1 == 1].sum() / kernel.window_ps)
        for bit, name in enumerate(overlap.resources)
    }
    if is_trace(resources):
        return _of_tracks(_fractions(inside), busy, resources[0].name)
    outside = max(0, kernel.total_ps - kernel.window_ps)
    capture = {**inside, "launch": inside.get("launch", 0) + outside}
    of_kernel = inside if kernel.is_cold else capture
    shares, capture_shares = _fractions(of_kernel), _fractions(capture)
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    (kind, share), (second, second_share) = ranked[0], ranked[1] if len(ranked) > 1 else ("", 0.0)
    lead = share - second_share
    confidence = "high" if lead >= _HIGH else "medium" if lead >= _LOW else "low"
    return BoundKind(
        kind=kind,
        share=share,
        runner_up=second,
        runner_up_share=second_share,
        confidence=confidence,
        shares=shares,
        busy=busy,
        dependency_ns=dependency_causes(profile, resources, kernel),
        capture_kind=max(capture_shares, key=lambda name: capture_shares[name]),
        capture_shares=capture_shares,
        basis="active window" if kernel.is_cold else "whole execution",
        statement=f"limited by {kind} ({confidence} confidence)",
    )


def _of_tracks(shares: dict[str, float], busy: dict[str, float], busiest: str) -> BoundKind:
    """A trace without engines: `dependency`, as `attribute` calls time with nothing active, is idle time here."""
    told = {name: share for name, share in shares.items() if name != "dependency"} | {IDLE: shares["dependency"]}
    statement = f"busiest track: {busiest}, {format_percent(busy[busiest])} of the time; what limits is not recorded"
    return _unknown(told, busy, "tracks of a trace, which holds no engines and no DMA", statement)


def _unknown(shares: dict[str, float], busy: dict[str, float], basis: str, statement: str) -> BoundKind:
    return BoundKind(UNKNOWN, 0.0, "", 0.0, "none", shares, busy, {}, UNKNOWN, shares, basis, statement)


def attribute(overlap: Overlap, window_ps: int) -> dict[str, int]:
    """Time of the window by kind, ps; sums to `window_ps`."""
    on = [(overlap.masks >> bit) & 1 == 1 for bit in range(len(overlap.resources))]
    busy = [int(overlap.mask_ps[mask].sum()) for mask in on]
    on_core = any(name in {"Tensor", "Vector", "Scalar", "GpSimd", DMA} for name in overlap.resources)
    found = dict.fromkeys(KINDS if on_core else ("dependency",), 0)
    left = np.ones(overlap.masks.size, bool)
    for index in sorted(range(len(busy)), key=lambda index: -busy[index]):
        name = overlap.resources[index]
        if name == "Sync":
            continue
        mine = left & on[index]
        kind = _kind(name)
        found[kind] = found.get(kind, 0) + int(overlap.mask_ps[mine].sum())
        left &= ~on[index]
    found["dependency"] += window_ps - sum(found.values())
    return found


def _kind(name: str) -> str:
    lowered = name.lower()
    return lowered if lowered in KINDS else "collective" if name == "Collectives" else name


def _fractions(times: dict[str, int]) -> dict[str, float]:
    total = sum(times.values())
    return {name: value / total if total else 0.0 for name, value in times.items()}


def dependency_causes(profile: Profile, resources: tuple[Resource, ...], kernel: KernelTime) -> dict[str, float]:
    """Time in ns with nothing active within the window by what ended it, most first.

    The event that starts when a gap ends tells what was waited for: a DMA packet, that a DMA was on its way; an
    instruction, what the semaphore in its operands stands for. An instruction of no recorded length, such as the
    DMA_DIRECT2D that issues a DMA, divides a gap. Gaps beyond the longest 1,000 are `not looked at`.
    """
    start, end = idle_gaps(resources, kernel)
    if start.size == 0 or not profile.rows("Instruction"):
        return {}
    begun, until = spans(profile, "Instruction")
    working = np.flatnonzero(~profile.equals("Instruction", "opcode", WAIT_OPCODE))
    start, end = _divided(start, end, begun[working][until[working] - begun[working] < PS_PER_NS])
    order = np.argsort(start - end, kind="stable")
    looked, rest = order[:_SAMPLED_GAPS], order[_SAMPLED_GAPS:]
    packets = np.unique(spans(profile, "DmaPacket")[0])
    by_start = working[np.argsort(begun[working], kind="stable")]
    starts = begun[by_start]
    engines, engine_names = profile.codes("Instruction", "engine")
    operands = profile.tables["Instruction"].column("operands") if profile.has("Instruction", "operands") else None
    found: dict[str, int] = {}
    for index in looked.tolist():
        at = int(end[index])
        cause = "not known"
        position = int(np.searchsorted(packets, at))
        row = int(np.searchsorted(starts, at))
        if position < packets.size and packets[position] == at:
            cause = "DMA on its way: until its first packet"
        elif row < starts.size and starts[row] == at:
            which = int(by_start[row])
            text = operands[which].as_py() or "" if operands is not None else ""
            cause = awaited_text(text) or f"issue of {engine_names[engines[which]]}"
        found[cause] = found.get(cause, 0) + int(end[index] - start[index])
    if rest.size:
        found["not looked at"] = int((end[rest] - start[rest]).sum())
    return {name: to_ns(spent) for name, spent in sorted(found.items(), key=lambda item: -item[1])}


def _divided(start: Ticks, end: Ticks, marks: Ticks) -> Intervals:
    """Disjoint intervals in order of time, each divided at the instants that lie within it."""
    marks = np.unique(marks)
    place = np.searchsorted(start, marks, side="right") - 1
    inside = marks[(place >= 0) & (marks > start[place]) & (marks < end[place])]
    return np.sort(np.concatenate([start, inside])), np.sort(np.concatenate([end, inside]))


def awaited_text(operands: str) -> str:
    """What an instruction waits for, from `S[24] (qGpSimdDynamic)>=16 ...` or `S[5] (Tensor)>=1 ...`; '' if nothing."""
    match = _AWAITED.search(operands)
    if match is None:
        return ""
    name = match.group(1) or ""
    if name.startswith("q"):
        return f"completion of a DMA on {name}"
    return f"result of {name}" if name else BARRIER
