"""One program of a pattern study explained: what its trace shows, by track, beside what was measured of it.

The counts are those of a public analyser of Perfetto traces, by what they should have been: time belongs to the track that
a slice lies on, TensorMatrix is the row that holds the matmuls, and a trace without engines has no TensorMatrix time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from npuscope.analysis.analyze import Analysis, analyze
from npuscope.analysis.findings import Finding
from npuscope.analysis.timeline import WAIT_OPCODE
from npuscope.analysis.track_uses import ENGINE_KIND, OperationUse, TrackUse, track_uses
from npuscope.errors import UsageError
from npuscope.profile.tables import Profile
from npuscope.profile.timeline import build_timeline
from npuscope.profile.timeline_sources import TENSOR_MATRIX

Method = Literal["simulated", "measured", "captured", "none"]
_UNKNOWN_NAMES: Final = frozenset({"", "unknown"})
_MATMULS: Final = frozenset({"MATMUL", "MULTIPLY_MOVING"})
"""Opcodes of the Tensor engine that the vendor draws on its TensorMatrix row; the others load weights."""
_COPIES: Final = frozenset({"COPY", "TENSOR_COPY"})
BY_TRACK: Final = "the TensorMatrix track"
BY_ENGINE: Final = "matmul instructions of the Tensor engine; the trace has no TensorMatrix track"
NO_ENGINES: Final = "the trace has no TensorMatrix engine"
NO_PROFILE: Final = "the device gave no profile: nothing is known of what it did"


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of one run, in ns: measured in steady state on the host, or predicted."""

    median_ns: float
    ci_low_ns: float | None = None
    """95 % interval of the median; None where there is none, as of a prediction."""
    ci_high_ns: float | None = None


@dataclass(frozen=True, slots=True)
class PatternTrace:
    """One program on one device: how it was written, what it computes, what was seen of it."""

    pattern: str
    """How the computation is written: `vmap`, `scan`, `loop`."""
    size: str
    """Name of its length: `small`, `medium`, `large`."""
    iterations: int
    device: str
    is_simulated: bool
    work: str
    """What it computes, as a key: equal keys are the same work."""
    profile: Profile | None = None
    latency: Latency | None = None
    compile_ms: float | None = None
    samples_ns: tuple[int, ...] = ()
    """Steady-state samples in the order taken; empty where there are none."""
    sample_round: tuple[int, ...] = ()
    """The round of each sample; rounds of one number were interleaved with those of the other programs."""
    path: str = ""
    """The trace's file."""
    runs: int = 1
    """Runs of the program that the profile holds."""

    def __post_init__(self) -> None:
        """Check what all of the analysis relies on.

        Raises:
            UsageError: No iterations or runs, a time that is none, samples without rounds, or a profile of the other kind.
        """
        if self.iterations < 1 or self.runs < 1:
            raise UsageError(f"{self.name}: iterations and runs of a trace are whole numbers of at least 1")
        if self.latency is not None and not (math.isfinite(self.latency.median_ns) and self.latency.median_ns >= 0):
            raise UsageError(f"{self.name}: {self.latency.median_ns} ns is no time of a run")
        if len(self.samples_ns) != len(self.sample_round):
            raise UsageError(
                f"{self.name}: {len(self.samples_ns)} samples with the rounds of {len(self.sample_round)}; give a round for each"
            )
        if self.profile is not None and self.profile.is_simulation != self.is_simulated:
            told = "simulated" if self.profile.is_simulation else "not simulated"
            raise UsageError(f"{self.name}: its profile {self.profile.source} is {told}, and the trace says otherwise")

    @property
    def name(self) -> str:
        """`scan_10`."""
        return f"{self.pattern}_{self.iterations}"

    @property
    def method(self) -> Method:
        """Where its time comes from: a model, the host's clock, or the device's own in a capture; `none` without one."""
        if self.latency is None and self.profile is None:
            return "none"
        if self.is_simulated:
            return "simulated"
        return "measured" if self.latency is not None else "captured"


@dataclass(frozen=True, slots=True)
class TraceAnalysis:
    """Everything that is said of one pattern's trace. Counts are of the whole trace, all of its runs."""

    name: str
    pattern: str
    size: str
    iterations: int
    device: str
    is_simulated: bool
    method: Method
    path: str
    runs: int
    time_ns: float | None
    """Of one run."""
    time_basis: str
    total_slices: int | None
    """What Perfetto shows; None without a profile, as all that follows from one."""
    unknown_operations: int | None
    """Slices whose name is empty or `unknown`."""
    unique_operations: int | None
    """Distinct names."""
    tensor_matrix_count: int | None
    tensor_matrix_ns: float | None
    """Active time of the TensorMatrix track; None where the trace has no such engine."""
    tensor_matrix_basis: str
    other_count: int | None
    other_ns: float | None
    """Active time of the other engines, summed over them, waits left out; of a trace without engines, of its threads."""
    other_basis: str
    write_count: int | None
    copy_count: int | None
    """Instructions named COPY or TENSOR_COPY."""
    semaphore_count: int | None
    dma_count: int | None
    """Instructions that issue a DMA, such as DMA_DIRECT2D."""
    dma_packets: int | None
    tracks: tuple[TrackUse, ...]
    operations: tuple[OperationUse, ...]
    """Per track and name, most time first within a track."""
    engine_shares: dict[str, float]
    """Engine, DMA or track to its active share of the kernel's window."""
    bound: str
    """`unknown` for a trace without engines."""
    bound_statement: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    analysis: Analysis | None = field(repr=False)
    """The analysis that bound and findings are from."""

    @property
    def slices_per_run(self) -> float | None:
        """Total slices over the runs that the trace holds: a mean."""
        return None if self.total_slices is None else self.total_slices / self.runs

    @property
    def engine_ns(self) -> float | None:
        """TensorMatrix and other engines together; None where the trace has no engines."""
        if self.tensor_matrix_ns is None or self.other_ns is None:
            return None
        return self.tensor_matrix_ns + self.other_ns

    @property
    def tensor_matrix_share(self) -> float | None:
        """TensorMatrix of all engines' time; None where there is none."""
        return self.tensor_matrix_ns / self.engine_ns if self.engine_ns and self.tensor_matrix_ns is not None else None

    @property
    def is_cold(self) -> bool:
        """The profile holds the start-up of a first execution."""
        kernel = self.analysis.kernel_time if self.analysis else None
        return kernel is not None and kernel.is_cold

    def document(self) -> dict[str, Any]:
        """For JSON."""
        hidden = {"analysis", "tracks", "operations", "findings", "notes"}
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in hidden}
        return {
            **plain,
            "engine_ns": self.engine_ns,
            "tensor_matrix_share": self.tensor_matrix_share,
            "is_cold": self.is_cold,
            "kernel_time": self.analysis.kernel_time if self.analysis else None,
            "tracks": self.tracks,
            "operations": self.operations,
            "findings": self.findings,
            "notes": self.notes,
        }


def explain_trace(trace: PatternTrace) -> TraceAnalysis:
    """Slices, operations by track, engine time, bound and findings of one trace.

    Args:
        trace: With or without a profile; without one only its time is told.
    """
    if trace.profile is None:
        return _without_profile(trace)
    profile = trace.profile
    timeline = build_timeline(profile)
    tracks, operations = track_uses(timeline)
    analysis = analyze(profile)
    has_engines = profile.rows("Instruction") > 0
    matmul_count, matmul_ns, basis = _tensor_matrix(tracks, operations) if has_engines else (None, None, NO_ENGINES)
    others = [track for track in tracks if (track.kind == ENGINE_KIND) == has_engines and track.name != TENSOR_MATRIX]
    other_count, other_ns = sum(track.slices for track in others), sum(track.active_ns for track in others)
    if has_engines and basis == BY_ENGINE:  # the matmuls are on one of the other tracks
        other_count, other_ns = other_count - (matmul_count or 0), max(0.0, other_ns - (matmul_ns or 0.0))
    time_ns, time_basis = time_of(trace, analysis)
    return TraceAnalysis(
        **_identity(trace),
        time_ns=time_ns,
        time_basis=time_basis,
        total_slices=timeline.slices.num_rows,
        unknown_operations=sum(use.count for use in operations if use.name in _UNKNOWN_NAMES),
        unique_operations=len({use.name for use in operations}),
        tensor_matrix_count=matmul_count,
        tensor_matrix_ns=matmul_ns,
        tensor_matrix_basis=basis,
        other_count=other_count,
        other_ns=other_ns,
        other_basis="the other engines, summed, without waits" if has_engines else "all tracks of the trace, summed",
        **_instruction_counts(profile, operations),
        dma_packets=profile.rows("DmaPacket") if has_engines or profile.rows("DmaPacket") else None,
        tracks=tracks,
        operations=operations,
        engine_shares={use.name: use.share_of_kernel for use in analysis.engines},
        bound=analysis.bound.kind,
        bound_statement=analysis.bound.statement,
        findings=analysis.findings,
        notes=(*_notes(trace), *timeline.notes, *analysis.notes),
        analysis=analysis,
    )


def time_of(trace: PatternTrace, analysis: Analysis | None) -> tuple[float | None, str]:
    """Time of one run, and where it comes from."""
    if trace.latency is not None:
        return (
            trace.latency.median_ns,
            "predicted" if trace.is_simulated else "median of steady-state runs, on the host",
        )
    kernel = analysis.kernel_time if analysis else None
    if kernel is None:
        return None, "none"
    if trace.runs > 1:
        return None, f"none: the profile holds {trace.runs} runs, which it does not tell apart"
    return kernel.ns, f"predicted: {kernel.basis}" if trace.is_simulated else f"the profile's: {kernel.basis}"


def _identity(trace: PatternTrace) -> dict[str, Any]:
    names = ("name", "pattern", "size", "iterations", "device", "is_simulated", "method", "path", "runs")
    return {name: getattr(trace, name) for name in names}


def _without_profile(trace: PatternTrace) -> TraceAnalysis:
    time_ns, basis = time_of(trace, None)
    return TraceAnalysis(
        **_identity(trace),
        time_ns=time_ns,
        time_basis=basis,
        total_slices=None,
        unknown_operations=None,
        unique_operations=None,
        tensor_matrix_count=None,
        tensor_matrix_ns=None,
        tensor_matrix_basis=NO_PROFILE,
        other_count=None,
        other_ns=None,
        other_basis=NO_PROFILE,
        write_count=None,
        copy_count=None,
        semaphore_count=None,
        dma_count=None,
        dma_packets=None,
        tracks=(),
        operations=(),
        engine_shares={},
        bound="unknown",
        bound_statement=NO_PROFILE,
        findings=(),
        notes=(NO_PROFILE,),
        analysis=None,
    )


def _tensor_matrix(tracks: tuple[TrackUse, ...], operations: tuple[OperationUse, ...]) -> tuple[int, float, str]:
    """Slices and active time of the matmuls of a trace with engines, and what tells them."""
    found = [track for track in tracks if track.kind == ENGINE_KIND and track.name == TENSOR_MATRIX]
    tensor = [use for use in operations if use.kind == ENGINE_KIND and use.track == "Tensor" and use.name in _MATMULS]
    if found or not tensor:  # an engine that did nothing has no row, and took no time
        return sum(track.slices for track in found), sum(track.active_ns for track in found), BY_TRACK
    return sum(use.count for use in tensor), sum(use.time_ns for use in tensor), BY_ENGINE


def _instruction_counts(profile: Profile, operations: tuple[OperationUse, ...]) -> dict[str, Any]:
    """How many instructions have a name, on whatever engine; None without instructions."""
    names = ("write_count", "copy_count", "semaphore_count", "dma_count")
    if not profile.rows("Instruction"):
        return dict.fromkeys(names)

    def count(wanted: frozenset[str], prefix: str = "\0") -> int:
        mine = (use for use in operations if use.kind == ENGINE_KIND)
        return sum(use.count for use in mine if use.name in wanted or use.name.startswith(prefix))

    counted = (
        count(frozenset({"WRITE"})),
        count(_COPIES),
        count(frozenset({WAIT_OPCODE})),
        count(frozenset(), "DMA_"),
    )
    return dict(zip(names, counted, strict=True))


def _notes(trace: PatternTrace) -> list[str]:
    return [f"the trace holds {trace.runs} runs; its counts and times are of all of them"] if trace.runs > 1 else []
