"""The four questions that agents ask of pattern traces, as functions with structured results.

They are the example prompts of a public guide to profiling Neuron patterns with Perfetto and a language model. Each answer is
a value with `document()` for JSON; sentences in it show how their numbers were calculated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from npuscope.analysis import pattern_comparison, pattern_scaling
from npuscope.analysis.findings import SEVERITIES, Finding
from npuscope.analysis.pattern_comparison import PatternComparison
from npuscope.analysis.pattern_scaling import ScalingStudy
from npuscope.analysis.pattern_trace import PatternTrace, TraceAnalysis, explain_trace
from npuscope.errors import UsageError, shorten
from npuscope.units import format_percent


@dataclass(frozen=True, slots=True)
class PatternAnswer:
    """Comparisons, one per device, kind of time and loop length."""

    comparisons: tuple[PatternComparison, ...]

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {"comparisons": [comparison.document() for comparison in self.comparisons]}


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """One finding, with the trace that it is of."""

    trace: str
    device: str
    is_simulated: bool
    finding: Finding


@dataclass(frozen=True, slots=True)
class Occupation:
    """What one trace kept busy."""

    trace: str
    device: str
    is_simulated: bool
    bound: str
    busiest: str
    """Engine but Sync, DMA or track; '' where nothing is known."""
    busiest_share: float | None
    """Active, of the kernel's window or the span of the trace; a fraction."""
    idle: tuple[str, ...]
    """Engines that the trace names and that did nothing in the window."""
    idle_share: float | None
    """Of the window with nothing active."""
    statement: str


@dataclass(frozen=True, slots=True)
class Bottlenecks:
    """Everything that rules found, over all traces."""

    bottlenecks: tuple[Bottleneck, ...]
    """The most severe first, then by gain; what gives no estimate comes after what does."""
    traces: tuple[Occupation, ...]
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """For JSON: the finding's fields beside its trace."""
        return {
            "bottlenecks": [
                {
                    "trace": item.trace,
                    "device": item.device,
                    "is_simulated": item.is_simulated,
                    "rule": item.finding.rule,
                    "severity": item.finding.severity,
                    "cause": item.finding.cause,
                    "evidence": item.finding.evidence,
                    "action": item.finding.action,
                    "gain": item.finding.gain,
                }
                for item in self.bottlenecks
            ],
            "traces": self.traces,
            "notes": self.notes,
        }


def analyze(trace: PatternTrace) -> TraceAnalysis:
    """What one trace shows: "Analyze vmap hardware utilization patterns in neuron execution".

    Args:
        trace: One program on one device.
    """
    _require_traces([trace])
    return explain_trace(trace)


def _require_traces(traces: Sequence[object]) -> None:
    """Refuse what is not a trace, such as the path of one, which callers without types hand in.

    Raises:
        UsageError: It is something else.
    """
    for trace in traces:
        if not isinstance(trace, PatternTrace):
            raise UsageError(
                f"{shorten(repr(trace))} is no PatternTrace; pattern_folder.study_folder(DIR).traces reads those of a folder"
            )


def compare(traces: Sequence[PatternTrace], *, seed: int = 0) -> PatternAnswer:
    """Which pattern is faster: "Compare vmap vs scan hardware utilization patterns using the respective pftrace files".

    Two traces are compared, or refused with the reason, whatever they are; more are first put into groups of one device
    and loop length.

    Args:
        traces: Two or more.
        seed: Of the bootstrap.

    Raises:
        UsageError: Fewer than two traces, or one given twice, or no two of one device and loop length.
    """
    _require_traces(traces)
    if len(traces) <= 2:
        return PatternAnswer((pattern_comparison.compare_patterns(traces, seed=seed),))
    comparisons = pattern_comparison.compare_groups(traces, seed=seed)
    if not comparisons:
        raise UsageError("no two traces are of one device and one loop length: there is nothing to compare")
    return PatternAnswer(comparisons)


def scaling(traces: Sequence[PatternTrace]) -> ScalingStudy:
    """How a pattern grows: "Analyze for-loop size scaling performance differences comparing small, medium, and large [..] traces".

    Args:
        traces: Of two loop lengths or more per pattern; three tell whether the fit holds.
    """
    _require_traces(traces)
    return pattern_scaling.scaling(traces)


def bottlenecks(traces: Sequence[PatternTrace], *, analyses: Sequence[TraceAnalysis] | None = None) -> Bottlenecks:
    """What to act on: "Find performance bottlenecks in neuron hardware timeline across all patterns".

    Args:
        traces: Of any devices; findings on a simulation are marked as such.
        analyses: Of the traces, where they are at hand.
    """
    _require_traces(traces)
    explained = list(analyses) if analyses is not None else [explain_trace(trace) for trace in traces]
    found = [
        Bottleneck(one.name, one.device, one.is_simulated, finding) for one in explained for finding in one.findings
    ]

    def place(item: Bottleneck) -> tuple[int, bool, float]:
        gain = item.finding.gain.ns
        return SEVERITIES.index(item.finding.severity), gain is None, -(gain or 0.0)

    notes = [f"{one.name} on {one.device}: {one.bound_statement}" for one in explained if one.total_slices is None]
    if any(one.analysis is not None and one.analysis.is_trace for one in explained):
        notes.append("a trace of threads tells what was busy, not what limits: most rules are of NPU engines and DMA")
    return Bottlenecks(tuple(sorted(found, key=place)), tuple(_occupation(one) for one in explained), tuple(notes))


def _occupation(found: TraceAnalysis) -> Occupation:
    analysis = found.analysis
    # Sync only passes signals on: an engine that is busy with it limits nothing.
    shares = sorted(found.engine_shares.items(), key=lambda item: (item[0] == "Sync", -item[1]))
    busiest, share = shares[0] if shares else ("", None)
    idle_share = None
    if analysis is not None and analysis.overlap.window_ns:
        idle_share = analysis.overlap.concurrency_ns[0] / analysis.overlap.window_ns
    told = found.bound_statement
    if share is not None and idle_share is not None:
        told += f"; {busiest} is active in {format_percent(share)} of the time, nothing in {format_percent(idle_share)}"
    return Occupation(
        trace=found.name,
        device=found.device,
        is_simulated=found.is_simulated,
        bound=found.bound,
        busiest=busiest,
        busiest_share=share,
        idle=tuple(name for name, active in shares if active == 0),
        idle_share=idle_share,
        statement=told,
    )
