"""What one pattern's trace shows, in sentences of which each shows its calculation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from npuscope.analysis.pattern_trace import TraceAnalysis
from npuscope.analysis.timeline import WAIT_OPCODE
from npuscope.analysis.track_uses import ENGINE_KIND
from npuscope.profile.timeline_sources import TENSOR_MATRIX
from npuscope.units import format_percent

_STEPS: Final = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))
_MOST_TRACKS: Final = 5


def working(duration_ns: float) -> tuple[float, str]:
    """The unit to calculate in, and how many ns it has."""
    return next((step for step in _STEPS if abs(duration_ns) >= step[0]), _STEPS[-1])


def trace_findings(found: TraceAnalysis) -> list[str]:
    """Counts and times of one trace, each with where it is from."""
    if found.total_slices is None:
        return [f"{found.name}: no trace"]
    lines = []
    if found.tensor_matrix_ns is not None and found.other_ns is not None:
        lines.append(
            f"{found.name}: TensorMatrix operations {found.tensor_matrix_count:,}, {_ms(found.tensor_matrix_ns)}"
        )
        lines.append(f"{found.name}: other operations {found.other_count:,}, {_ms(found.other_ns)}{_by_track(found)}")
        lines.append(
            f"{found.name}: WRITE {found.write_count:,}, COPY {found.copy_count:,}, {WAIT_OPCODE} {found.semaphore_count:,}, "
            f"DMA instructions {found.dma_count:,}, DMA packets {found.dma_packets or 0:,}"
        )
    else:
        told = f", {_ms(found.other_ns)}" if found.other_ns is not None else ""
        lines.append(
            f"{found.name}: {found.total_slices:,} slices on {len(found.tracks):,} tracks{told}{_by_track(found)}"
        )
    return lines


def unknown_range(explained: Sequence[TraceAnalysis]) -> list[str]:
    """Slices without a name, fewest to most; nothing where no trace is at hand."""
    counted = sorted(
        (found.unknown_operations, found.name) for found in explained if found.unknown_operations is not None
    )
    if not counted:
        return []
    (fewest, least), (most, largest) = counted[0], counted[-1]
    if most == 0:
        return ["unknown operations: none; every slice has a name"]
    if fewest == most:
        return [f"unknown operations: {most:,} in each trace"]
    return [f"unknown operations: {fewest:,} ({least}) to {most:,} ({largest})"]


def trace_insights(found: TraceAnalysis) -> list[str]:
    """What part of the engines' time TensorMatrix has."""
    share, whole, part = found.tensor_matrix_share, found.engine_ns, found.tensor_matrix_ns
    if share is None or whole is None or part is None:
        return []
    scale, unit = working(whole)
    return [
        f"{found.name}: TensorMatrix {format_percent(share)} of the engines' active time "
        f"(calculation: {part / scale:.6g} / {whole / scale:.6g} {unit} x 100)"
    ]


def _by_track(found: TraceAnalysis) -> str:
    """` (Vector 10, Scalar 5)`: slices by track, of engines without TensorMatrix, most active first."""
    engines = found.tensor_matrix_ns is not None
    mine = [track for track in found.tracks if (track.kind == ENGINE_KIND) == engines and track.name != TENSOR_MATRIX]
    ranked = sorted(mine, key=lambda track: -track.active_ns)
    shown = _joined(f"{track.name} {track.slices:,}" for track in ranked[:_MOST_TRACKS])
    more = f", {len(ranked) - _MOST_TRACKS} more" if len(ranked) > _MOST_TRACKS else ""
    return f" ({shown}{more})" if shown else ""


def _joined(texts: Iterable[str]) -> str:
    return ", ".join(texts)


def _ms(duration_ns: float) -> str:
    return f"{duration_ns / 1e6:.6g} ms"
