"""Which tables of a Profile are drawn, as slices of a thread each or as samples of a counter each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from npuscope.profile.schema import ENGINES, columns_of
from npuscope.profile.tables import Profile

Texts = Any
"""An Arrow array of text, chunked or not."""
TENSOR_MATRIX = "TensorMatrix"
_ENGINE_ORDER = ("Tensor", TENSOR_MATRIX, *ENGINES[1:])


@dataclass(frozen=True, slots=True)
class SliceSource:
    """A table whose rows are slices."""

    table: str
    kind: str
    """What a thread of it stands for: engine, dma-queue, throttle, collective, barrier, or thread (on the host)."""
    threads: Callable[[Profile], Texts]
    """Name of the thread of each row."""
    names: Callable[[Profile], Texts]
    """Name of each slice."""
    start: str = "start_ts"
    duration: str = "duration_ns"
    end: str = "end_ts"
    nested: bool = False
    """Slices of a thread may lie within one another; else each overlap gets a lane of its own."""
    instead_of: str = ""
    """Only drawn where this table has no rows."""


@dataclass(frozen=True, slots=True)
class CounterSource:
    """A table whose rows are samples of a counter, one counter for each distinct value of `by`."""

    table: str
    value: str
    name: str
    """What the track is called; the values of `by` follow it."""
    unit: str
    by: tuple[str, ...] = ()
    time: str = "timestamp"


def column(profile: Profile, table: str, name: str) -> pa.ChunkedArray:
    """A column of a table with rows; null throughout where it is missing."""
    found = profile.tables[table]
    if name in found.column_names:
        return found.column(name)
    known = columns_of(table).get(name)
    return pa.chunked_array([pa.nulls(found.num_rows, known.type if known else pa.int64())])


def texts(profile: Profile, table: str, name: str, otherwise: str = "unknown") -> Texts:
    """A column as text in which null and '' read as `otherwise`; coded, since names repeat."""
    encoded = column(profile, table, name).cast(pa.string()).combine_chunks().dictionary_encode()
    values = pc.if_else(pc.equal(encoded.dictionary, ""), otherwise, encoded.dictionary)
    return pc.fill_null(values.take(encoded.indices), otherwise)


def _engine_threads(profile: Profile) -> Texts:
    """The timeline track where the vendor gives one, which splits matmuls from weight loads; else the engine."""
    engine = texts(profile, "Instruction", "engine")
    if not profile.has("Instruction", "timeline_track"):
        return engine
    track = texts(profile, "Instruction", "timeline_track", "")
    return pc.if_else(pc.equal(track, ""), engine, track)


def _queue_threads(table: str) -> Callable[[Profile], Texts]:
    """The queue's name, or `Q<queue>-E<engine>` where it has none."""

    def threads(profile: Profile) -> Texts:
        names = texts(profile, table, "queue_name", "")
        bare = pc.equal(names, "")
        if not pc.any(bare).as_py():
            return names
        queue, engine = profile.numbers(table, "queue_idx"), profile.numbers(table, "engine_idx")
        pairs, inverse = np.unique(np.stack([queue, engine]), axis=1, return_inverse=True)
        made = pa.array([f"Q{first}-E{second}" for first, second in pairs.T.tolist()], pa.string())
        return pc.if_else(bare, made.take(pa.array(inverse.reshape(-1))), names)

    return threads


def _constant(table: str, name: str) -> Callable[[Profile], Texts]:
    return lambda profile: pa.repeat(name, profile.rows(table))


def _column(table: str, name: str, prefix: str = "", otherwise: str = "unknown") -> Callable[[Profile], Texts]:
    def values(profile: Profile) -> Texts:
        found = texts(profile, table, name, otherwise)
        return pc.binary_join_element_wise(prefix, found, "") if prefix else found

    return values


def _throttle_names(profile: Profile) -> Texts:
    """`activity_0 1/2`: the kind of throttling and the share of clocks that it lets through."""
    share = [pc.fill_null(column(profile, "Throttle", name).cast(pa.string()), "?") for name in ("k", "n")]
    return pc.binary_join_element_wise(
        texts(profile, "Throttle", "type"), pc.binary_join_element_wise(*share, "/"), " "
    )


SLICES = (
    SliceSource("Instruction", "engine", _engine_threads, _column("Instruction", "opcode")),
    SliceSource("DmaPacket", "dma-queue", _queue_threads("DmaPacket"), _column("DmaPacket", "queue_type", "DMA ")),
    SliceSource(
        "DmaPacketAggregated",
        "dma-queue",
        _queue_threads("DmaPacketAggregated"),
        _column("DmaPacketAggregated", "queue_type", "DMA "),
        instead_of="DmaPacket",
    ),
    SliceSource(
        "CcOp", "collective", _column("CcOp", "stream_index", "Collectives stream "), _column("CcOp", "operation")
    ),
    SliceSource(
        "CcInstruction",
        "collective",
        _column("CcInstruction", "core_idx", "CC-core "),
        _column("CcInstruction", "description"),
    ),
    SliceSource(
        "CoreBarriers",
        "barrier",
        _column("CoreBarriers", "engine_name", "Barriers "),
        _column("CoreBarriers", "compiler_opcode"),
    ),
    SliceSource(
        "Throttle",
        "throttle",
        _constant("Throttle", "Throttling"),
        _throttle_names,
        start="timestamp",
        duration="duration",
        end="",
    ),
    SliceSource(
        "SystemProfileEvents",
        "thread",
        _column("SystemProfileEvents", "thread_name", otherwise=""),
        _column("SystemProfileEvents", "name"),
        nested=True,
    ),
)
COUNTERS = (
    CounterSource("DmaUsage", "current_throughput", "DMA Throughput", "B/s"),
    CounterSource("HbmUsage", "current_throughput", "HBM Throughput", "B/s"),
    CounterSource("PendingDma", "value", "Pending DMA Count", "transfers"),
    CounterSource("SbufUsage", "avg_util_percent", "SBUF Usage", "fraction"),
    CounterSource("PsumUsage", "avg_util_percent", "PSUM Usage", "fraction"),
    CounterSource("SemaphoreUpdate", "value", "Semaphore", "", by=("id",)),
    CounterSource("SystemProfileHbmUsage", "total_bytes", "HBM Allocated", "B", by=("device_idx", "hbm_idx")),
    CounterSource("HostMemUsage", "used_bytes", "Host Memory", "B", by=("instance_id",)),
    CounterSource("CounterSample", "value", "", "", by=("name", "process_name")),
    CounterSource("CpuUsage", "util_percent", "CPU", "fraction", by=("instance_id", "cpu_id")),
)
DRAWN = tuple(dict.fromkeys(source.table for source in (*SLICES, *COUNTERS)))
_NO_ARGUMENTS = {
    "Instruction": {"opcode", "timeline_track"},
    "SystemProfileEvents": {"name", "process_name", "thread_name", "process_id", "thread_id"},
    "Throttle": {"timestamp", "duration"},
    "CcOp": {"operation"},
    "CcInstruction": {"description"},
}
_TIMES = {"start_ts", "end_ts", "duration_ns", "start_ps", "duration_ps"}
ARGUMENT_PREFIX = "debug."
"""What Perfetto puts before the name of an argument of a slice."""


def argument_columns(table: pa.Table, name: str) -> list[str]:
    """The columns of a drawn table that become arguments of its slices: scalars that are neither time nor name."""
    hidden = _TIMES | _NO_ARGUMENTS.get(name, set())
    return [
        field.name
        for field in table.schema
        if field.name not in hidden
        and (
            pa.types.is_integer(field.type)
            or pa.types.is_floating(field.type)
            or pa.types.is_boolean(field.type)
            or pa.types.is_string(field.type)
        )
    ]


def thread_rank(kind: str, name: str) -> tuple[Any, ...]:
    """Order of threads on a screen: engines as the vendor lists them, then the rest by kind and by number."""
    kinds = ("engine", "dma-queue", "collective", "barrier", "throttle", "thread")
    engine = _ENGINE_ORDER.index(name) if kind == "engine" and name in _ENGINE_ORDER else len(_ENGINE_ORDER)
    digits = "".join(character if character.isdecimal() and character.isascii() else " " for character in name).split()
    return kinds.index(kind), engine, name.rstrip("0123456789"), [int(digit[:18]) for digit in digits], name
