"""What a track of a foreign trace stands for, by its name: an engine, a DMA queue, a counter, or just a thread.

No public trace of the vendor's exporter exists to check against; the names are those of its documentation, screenshots
and users' reports, and those that npuscope's own exporter writes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class TrackRole:
    """Where the rows of one track belong."""

    table: str
    """Table of the Profile."""
    engine: str = ""
    """Tensor, Vector, Scalar, GpSimd or Sync; '' where the track is no engine."""
    timeline_track: str = ""
    """The vendor's name of an engine's row: TensorMatrix holds the matmuls of Tensor."""
    queue_name: str = ""
    queue_idx: int | None = None
    engine_idx: int | None = None
    """Number of the DMA engine."""
    number: str = ""
    """Of a CC-core or a semaphore."""


OTHER = TrackRole("SystemProfileEvents")
_CORE = r"(?:(?:neuron[ _-]?core|nc|pcore|core)[ _-]?\d+[ :/._-]*)?"
_ENGINE_END = r"(?:[ _-]?\(e\)|[ _-]?e(?:ngine)?)?"
_ENGINES: Final = (  # name, as it may be written, Instruction.engine, Instruction.timeline_track
    (r"tensor[ _-]?matrix", "Tensor", "TensorMatrix"),
    (r"tensor", "Tensor", "Tensor"),
    (r"vector", "Vector", "Vector"),
    (r"scalar", "Scalar", "Scalar"),
    (r"gp[ _-]?simd", "GpSimd", "GpSimd"),
    (r"sync", "Sync", "Sync"),
)
_ENGINE_TRACKS = tuple(
    (re.compile(f"{_CORE}(?:{pattern}){_ENGINE_END}", re.IGNORECASE), TrackRole("Instruction", engine, track))
    for pattern, engine, track in _ENGINES
)
_QUEUE: Final = re.compile(
    rf"(?i:{_CORE})(?P<queue>(?:q[A-Z]\w*?|Q(?P<bare>\d+)|q[A-Z]\w*?-Q(?P<index>\d+))(?:-E(?P<engine>\d+))?"
    r"|DMA[ _-]?(?:[Qq]ueue|[Ee]ngine|[Rr]ing)[ _-]?\w*)"
)
_SLICE_TRACKS: Final = (
    (re.compile(rf"{_CORE}CC[ _-]?cores?[ _-]?(?P<number>\d*)", re.IGNORECASE), "CcInstruction"),
    (re.compile(rf"{_CORE}(?:Throttl(?:ing|e)|HAM|activity_\d+)", re.IGNORECASE), "Throttle"),
)
_COUNTER_TRACKS: Final = (
    (re.compile(rf"{_CORE}DMA[ _-]?Throughput.*", re.IGNORECASE), "DmaUsage"),
    (re.compile(rf"{_CORE}HBM[ _-]?Throughput.*", re.IGNORECASE), "HbmUsage"),
    (re.compile(rf"{_CORE}Pending[ _-]?DMA.*", re.IGNORECASE), "PendingDma"),
    (re.compile(rf"{_CORE}Semaphores?[ _-]?(?P<number>.*)", re.IGNORECASE), "SemaphoreUpdate"),
)

OPCODE_TRACKS: Final = MappingProxyType(
    {
        "MATMUL": TrackRole("Instruction", "Tensor", "TensorMatrix"),
        "MULTIPLY_MOVING": TrackRole("Instruction", "Tensor", "TensorMatrix"),
        "LDWEIGHTS": TrackRole("Instruction", "Tensor", "Tensor"),
        "LOAD_STATIONARY": TrackRole("Instruction", "Tensor", "Tensor"),
        "ACTIVATE": TrackRole("Instruction", "Scalar", "Scalar"),
        "ACT_TABLE_LOAD": TrackRole("Instruction", "Scalar", "Scalar"),
        "TENSOR_TENSOR": TrackRole("Instruction", "Vector", "Vector"),
        "TENSOR_REDUCE": TrackRole("Instruction", "Vector", "Vector"),
        "TENSOR_SCALAR": TrackRole("Instruction", "Vector", "Vector"),
        "TENSOR_SCALAR_PTR": TrackRole("Instruction", "Vector", "Vector"),
        "BN_STATS": TrackRole("Instruction", "Vector", "Vector"),
        "BN_AGGR": TrackRole("Instruction", "Vector", "Vector"),
        "TENSOR_LOAD": TrackRole("Instruction", "GpSimd", "GpSimd"),
        "TENSOR_STORE": TrackRole("Instruction", "GpSimd", "GpSimd"),
        "DMA_DIRECT2D": TrackRole("Instruction", "GpSimd", "GpSimd"),
    }
)
"""Opcodes that tell their engine where no track does. TENSOR_TENSOR and TENSOR_REDUCE are instructions of the Vector
engine, in spite of their names; opcodes that several engines share (WRITE, EVENT_SEMAPHORE, DRAIN) tell nothing."""


def slice_role(name: str) -> TrackRole:
    """What a track of slices holds; `OTHER` where the name says nothing."""
    name = name.strip()
    for pattern, role in _ENGINE_TRACKS:
        if pattern.fullmatch(name):
            return role
    if match := _QUEUE.fullmatch(name):
        index = match["index"] or match["bare"] or _number_after(r"-Q(\d+)", name)
        engine = match["engine"] or _number_after(r"-E(\d+)$", name)
        return TrackRole("DmaPacket", queue_name=match["queue"], queue_idx=_small(index), engine_idx=_small(engine))
    for pattern, table in _SLICE_TRACKS:
        if match := pattern.fullmatch(name):
            return TrackRole(table, number=match.groupdict().get("number") or "")
    return OTHER


def counter_role(name: str) -> TrackRole:
    """What a counter counts; table `Counter` where the name says nothing."""
    for pattern, table in _COUNTER_TRACKS:
        if match := pattern.fullmatch(name.strip()):
            return TrackRole(table, number=match.groupdict().get("number") or "")
    return TrackRole("CounterSample")


def _number_after(pattern: str, name: str) -> str | None:
    match = re.search(pattern, name)
    return match[1] if match else None


def _small(digits: str | None) -> int | None:
    return int(digits) if digits and len(digits) < 10 else None
