"""Findings: what a rule saw in a profile, with its evidence, cause, action and an estimate of the gain.

A rule is data and one predicate. The rules themselves are in `rules/`; `docs/analyze.md` lists them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

from npuscope.analysis.bound import BoundKind
from npuscope.analysis.bounds import Bound, Roofline
from npuscope.analysis.constants import Constants
from npuscope.analysis.dma import DmaUse
from npuscope.analysis.engines import EngineUse
from npuscope.analysis.kernel_time import COLD_GAP_NS, COLD_GAP_SHARE, KernelTime
from npuscope.analysis.overlap import Overlap
from npuscope.analysis.timeline import Resource, is_trace
from npuscope.errors import UsageError, shorten, unknown_name
from npuscope.profile.tables import Profile
from npuscope.units import parse_fraction

Severity = Literal["high", "medium", "low"]
SEVERITIES: Final = ("high", "medium", "low")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Every number that a rule compares with; shares are fractions."""

    cold_gap_ns: float = COLD_GAP_NS
    """Shortest gap that can be start-up."""
    cold_gap_share: float = COLD_GAP_SHARE
    """Least share of the capture that start-up must take."""
    idle_share: float = 0.10
    """Of the kernel's window with nothing active."""
    launch_share: float = 0.50
    """Of the execution outside of the kernel's own instructions, or of a call from the host."""
    launch_floor_ns: float = 289_000
    """What a call from the host takes at least: the smallest torch-neuronx matmuls on an inf2.xlarge, as published."""
    small_dma_bytes: float = 512
    """Packets below it are small: throughput falls in proportion below 2 KiB, to a fifth at 512 B."""
    small_dma_share: float = 0.20
    """Of the time of data packets."""
    transpose_share: float = 0.10
    """Transpose FLOPs of hardware FLOPs; the vendor's."""
    spill_reload_share: float = 0.25
    """Spill reloads of bytes read from HBM; the vendor's."""
    tile_fill: float = 0.75
    """Used share of the PE array (rows x columns), by time."""
    moving_fill: float = 0.50
    """Columns of a moving tile, of 512, by time."""
    fp32_share: float = 0.10
    """Of the time of matmul instructions with fp32 operands."""
    overlap_share: float = 0.25
    """Of active time with two or more resources active."""
    overlap_busy: float = 0.80
    """A kernel whose busiest resource is busier needs no more overlap."""
    starved_share: float = 0.30
    """Of the window in which the engine waits for DMA or another engine."""
    throttle_share: float = 0.05
    """Of the window with a limit below full rate."""
    dma_imbalance: float = 1.5
    """Data bytes of the busiest DMA engine over the mean."""
    model_to_active_flops: float = 0.50
    """Model FLOPs of what the TensorEngine could do while active; the vendor's."""
    nki_coverage: float = 0.50
    """Of instructions per engine that carry an NKI source location; the vendor's."""
    reload_factor: float = 1.5
    """Bytes read from HBM, without spill reloads, over the size of inputs and weights."""
    limiter_busy: float = 0.60
    """Of the window, from which on a busy resource is what the kernel's time goes to."""
    at_limit_busy: float = 0.90
    """Of the window, from which on nothing but less work for the resource makes the kernel faster."""
    attained_rate: float = 0.70
    """DMA throughput of what it can reach."""
    collective_factor: float = 2.0
    """Duration of a collective over the median of its group."""

    def with_values(self, assignments: Sequence[str]) -> Thresholds:
        """These thresholds with some replaced.

        Args:
            assignments: `name=value` each; a share as 0.3 or 30%.

        Raises:
            UsageError: An unknown name, a value that is no number or negative, or a share above 1.
        """
        values: dict[str, float] = {}
        known = [item.name for item in fields(Thresholds)]
        for text in assignments:
            name, sign, number = text.partition("=")
            if not sign:
                raise UsageError(f"threshold {shorten(text)!r} has no value; write it as name=value")
            if name.strip() not in known:
                raise unknown_name("threshold", name.strip(), known)
            values[name.strip()] = _number(name.strip(), number.strip())
        return replace(self, **values)


def _number(name: str, text: str) -> float:
    if name in SHARES:
        return parse_fraction(text, f"threshold {name}", with_ends=True)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"threshold {name}={shorten(text)!r} is not a number of at least 0")
    return value


SHARES: Final = frozenset(
    item.name
    for item in fields(Thresholds)
    if item.name.endswith(("_share", "_fill"))
    or item.name
    in {"overlap_busy", "limiter_busy", "at_limit_busy", "attained_rate", "model_to_active_flops", "nki_coverage"}
)
"""Thresholds that are fractions from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that rules look at; computed once."""

    profile: Profile
    resources: tuple[Resource, ...]
    kernel: KernelTime
    engines: tuple[EngineUse, ...]
    overlap: Overlap
    dma: DmaUse | None
    bounds: tuple[Bound, ...]
    roofline: Roofline
    bound: BoundKind
    constants: Constants
    thresholds: Thresholds

    @property
    def has_engines(self) -> bool:
        """Whether the profile is one of an NPU: what rules say of engines, DMA and SBUF holds for no other."""
        return not is_trace(self.resources)

    @property
    def origin_column(self) -> str:
        """Where instructions say what they come from: the op of a simulated XLA program, else the kernel's line."""
        is_program = self.profile.is_simulation and self.profile.has("Instruction", "hlo_name")
        return "hlo_name" if is_program else "nki_source_location"

    @property
    def limiter(self) -> EngineUse | None:
        """The engine, DMA or collectives, without Sync, that are active longest in the window."""
        return max(self._units(), key=lambda use: use.active_in_kernel_ns, default=None)

    def slack_ns(self, name: str = "") -> float:
        """What the window would lose if `name` took no time and all else ran at once: the rest of the busiest other."""
        others = (use.active_in_kernel_ns for use in self._units() if use.name != name)
        return max(0.0, self.kernel.window_ns - max(others, default=0.0))

    def _units(self) -> list[EngineUse]:
        return [use for use in self.engines if use.kind in {"engine", "dma", "collective"} and use.name != "Sync"]

    def use(self, name: str) -> EngineUse | None:
        """The row of one engine or of `DMA`."""
        return next((use for use in self.engines if use.name == name), None)


@dataclass(frozen=True, slots=True)
class Gain:
    """What acting on a finding could save; an upper limit, and not additive with others."""

    ns: float | None
    """None where no estimate is possible."""
    share_of_kernel: float | None
    """Of the kernel's time; a fraction."""
    basis: str
    """How it was estimated."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a predicate returns when its rule applies."""

    numbers: Mapping[str, Any]
    """Name with the unit to figure."""
    cause: str
    action: str
    gain_ns: float | None
    gain_basis: str
    severity: Severity | None = None
    """Where this case differs from the rule's."""
    resource: str = ""
    """The engine or `DMA` that gets less work where this differs from the rule's."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule."""

    name: str
    severity: Severity
    statement: str
    """When it applies, in words."""
    thresholds: tuple[str, ...]
    """Fields of `Thresholds` that it compares with."""
    predicate: Callable[[Facts], Evidence | None]
    vendor: bool = False
    """One of the rules of the vendor's summary page."""
    resource: str = ""
    """The engine or `DMA` that would have less to do; '' where nothing would, only at another time."""
    about_capture: bool = False
    """It says what the other figures are worth, and comes before rules of its severity that say what to change."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a user can act on."""

    rule: str
    severity: Severity
    evidence: Mapping[str, Any]
    cause: str
    action: str
    gain: Gain
    is_on_limiter: bool = False
    """It takes work from the resource that is busiest in the window."""


def find(facts: Facts, rules: Sequence[Rule]) -> tuple[Finding, ...]:
    """Apply rules, but those about the capture to a simulation.

    The most severe come first, then what is about the capture, then what relieves the busiest resource, then by gain.
    """
    found = []
    capture = {rule.name for rule in rules if rule.about_capture}
    for rule in rules:
        if rule.about_capture and facts.profile.is_simulation:
            continue
        seen = rule.predicate(facts)
        if seen is None:
            continue
        resource = seen.resource or rule.resource
        limiter = facts.limiter
        on_limiter = limiter is not None and bool(resource) and resource == limiter.name
        gain = _bounded_gain(facts, seen, resource)
        severity = seen.severity or rule.severity
        if (
            resource
            and limiter is not None
            and not on_limiter
            and limiter.share_of_kernel >= facts.thresholds.overlap_busy
        ):
            severity = "low"  # true, and of little use while something else is busy nearly all the time
        found.append(Finding(rule.name, severity, seen.numbers, seen.cause, seen.action, gain, on_limiter))

    def place(finding: Finding) -> tuple[int, bool, bool, float]:
        ranked = SEVERITIES.index(finding.severity), finding.rule not in capture, not finding.is_on_limiter
        return *ranked, -(finding.gain.ns or 0.0)

    return tuple(sorted(found, key=place))


def _bounded_gain(facts: Facts, seen: Evidence, resource: str) -> Gain:
    """The estimate, and not more than the busiest other resource leaves of the window."""
    ns, basis = seen.gain_ns, seen.gain_basis
    if ns is not None and facts.has_engines and ns > (slack := facts.slack_ns(resource)):
        ns, basis = slack, f"{basis}; no more than the busiest other resource leaves of the window"
        if ns < 1:
            ns, basis = None, "none: another resource is busy for the whole window"
    return Gain(ns, None if ns is None or not facts.kernel.ns else ns / facts.kernel.ns, basis)
