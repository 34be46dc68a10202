"""One Profile explained: time, engines, overlap, DMA, bounds, findings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from npuscope.analysis.bound import BoundKind, classify
from npuscope.analysis.bounds import Bound, EngineBound, Roofline, bounds_of, roofline
from npuscope.analysis.constants import Constants, constants_of
from npuscope.analysis.dma import DmaUse, dma_use
from npuscope.analysis.engines import EngineUse, engine_uses
from npuscope.analysis.findings import Facts, Finding, Rule, Thresholds, find
from npuscope.analysis.instruction_mix import InstructionMix, instruction_mix
from npuscope.analysis.kernel_time import KernelTime, kernel_time
from npuscope.analysis.overlap import Overlap, overlap_of
from npuscope.analysis.rules import RULES
from npuscope.analysis.timeline import MAX_TRACKS, is_trace, read_resources
from npuscope.profile.tables import Profile

_AGREE = 1e-6
_AGREE_UNIONS = 0.01  # unions of intervals in whole nanoseconds


RECOMPUTED = "recomputed from events"
TAKEN_OVER = "the artifact's own figures: it holds no events to recompute them from"


@dataclass(frozen=True, slots=True)
class Difference:
    """A field of the summary in which the vendor's figure and ours differ."""

    field: str
    ours: float
    vendor: float
    relative: float
    """(Ours - vendor) / vendor."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything `npuscope analyze` says of one profile."""

    source: str
    source_format: str
    device: str
    is_simulated: bool
    is_trace: bool
    """Events of threads or streams only, no engine and no DMA: nothing that is said of an NPU's kernel holds."""
    kernel_time: KernelTime | None
    """None for a profile without events."""
    summary: dict[str, Any]
    """The vendor's field names: seconds, bytes, fractions; over the whole capture."""
    summary_basis: str
    """Whether `summary` was recomputed from events, or taken over from an artifact that holds none."""
    bound: BoundKind
    engines: tuple[EngineUse, ...]
    overlap: Overlap
    dma: DmaUse | None
    bounds: tuple[Bound, ...]
    engine_bounds: tuple[EngineBound, ...]
    roofline: Roofline
    constants: Constants
    instruction_mix: InstructionMix | None
    findings: tuple[Finding, ...]
    vendor_difference: tuple[Difference, ...] | None
    """None where the artifact carries no summary of the vendor's."""
    thresholds: Thresholds
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """For JSON, with the keys that scripts rely on first."""
        return {
            "device": self.device,
            "is_simulated": self.is_simulated,
            "is_trace": self.is_trace,
            "source": self.source,
            "source_format": self.source_format,
            "kernel_time": self.kernel_time,
            "summary": self.summary,
            "summary_basis": self.summary_basis,
            "bound": self.bound,
            "engines": self.engines,
            "overlap": self.overlap.document(),
            "findings": self.findings,
            "dma": self.dma,
            "bounds": self.bounds,
            "engine_bounds": self.engine_bounds,
            "roofline": self.roofline,
            "constants": self.constants,
            "instruction_mix": self.instruction_mix,
            "vendor_difference": self.vendor_difference,
            "thresholds": self.thresholds,
            "notes": self.notes,
        }


def analyze(profile: Profile, thresholds: Thresholds | None = None, rules: Sequence[Rule] = RULES) -> Analysis:
    """Explain a profile.

    Args:
        profile: From any reader or simulator.
        thresholds: What the rules compare with.
        rules: Which rules to apply.
    """
    limits = thresholds or Thresholds()
    resources = read_resources(profile)
    kernel = kernel_time(profile, resources, cold_gap_ns=limits.cold_gap_ns, cold_gap_share=limits.cold_gap_share)
    constants = constants_of(profile)
    engines = engine_uses(resources, kernel)
    overlap = overlap_of(resources, kernel)
    dma = dma_use(profile, kernel, constants)
    bounds, engine_bounds = bounds_of(profile, kernel, engines, dma, constants)
    roof = roofline(profile, kernel, constants)
    bound = classify(profile, resources, kernel, overlap)
    findings: tuple[Finding, ...] = ()
    if kernel is not None:
        facts = Facts(profile, resources, kernel, engines, overlap, dma, bounds, roof, bound, constants, limits)
        findings = find(facts, rules)
    return Analysis(
        source=profile.source,
        source_format=str(profile.metadata.get("source_format", "")),
        device=profile.device,
        is_simulated=profile.is_simulation,
        is_trace=is_trace(resources),
        kernel_time=kernel,
        summary=dict(profile.summary) if kernel is not None else dict(profile.summary) or dict(profile.vendor_summary),
        summary_basis=RECOMPUTED if kernel is not None else TAKEN_OVER,
        bound=bound,
        engines=engines,
        overlap=overlap,
        dma=dma,
        bounds=bounds,
        engine_bounds=engine_bounds,
        roofline=roof,
        constants=constants,
        instruction_mix=instruction_mix(profile, bound.kind),
        findings=findings,
        vendor_difference=vendor_difference(profile) if kernel is not None else None,
        thresholds=limits,
        notes=(*_notes(profile, kernel), *profile.notes),
    )


def vendor_difference(profile: Profile) -> tuple[Difference, ...] | None:
    """Numeric fields of the vendor's summary that ours does not equal, largest first.

    Equal is 1e-6; for times 1 %, or a nanosecond per event, which is what records in whole nanoseconds lose.
    """
    vendor = profile.vendor_summary
    if not vendor:
        return None
    ours = profile.summary
    lost_s = 1e-9 * (profile.rows("Instruction") + profile.rows("DmaPacket"))
    total_s = vendor.get("total_time") or math.inf
    found = []
    for name, theirs in vendor.items():
        mine = ours.get(name)
        if isinstance(theirs, bool | str) or mine is None or isinstance(mine, str):
            continue
        allowed = _AGREE * abs(theirs)
        if "time" in name or "cycles" in name:
            allowed = max(_AGREE_UNIONS * abs(theirs), lost_s / total_s if name.endswith("_percent") else lost_s)
        if abs(mine - theirs) > allowed:
            relative = (mine - theirs) / theirs if theirs else float("inf")
            found.append(Difference(name, float(mine), float(theirs), float(relative)))
    return tuple(sorted(found, key=lambda item: -abs(item.relative)))


def _notes(profile: Profile, kernel: KernelTime | None) -> list[str]:
    notes = []
    if kernel is None:
        notes.append("the profile holds no events with a duration: nothing but its summary and metadata can be told")
    cores = (
        set(profile.numbers("Instruction", "pcore_idx").tolist()) if profile.has("Instruction", "pcore_idx") else set()
    )
    if len(cores) > 1:
        notes.append(f"{len(cores)} physical cores are shown as one: an engine is active when it is on any of them")
    if profile.is_simulation:
        notes.append("simulated: no device ran this")
    if kernel is not None and not profile.rows("Instruction") and profile.rows("SystemProfileEvents"):
        notes.append(f"the trace names no engines: figures are per track, the {MAX_TRACKS} busiest kept apart")
    return notes
