"""NTFF version 5, the capture file of the Neuron runtime: header, metadata, and where the trace records lie.

Nobody documents the format; these rules were worked out from captures with the vendor's own decoding beside them.
docs/formats/ntff.md lists every one of them, with the number of files it was verified on. Little-endian:

    byte 0 version, bytes 1-8 length L of a protobuf message, byte 128 the message, byte 128 + L 16-byte trace records
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from npuscope.errors import FormatError
from npuscope.formats.protobuf_wire import Message, parse_message

VERSION = 5
HEADER_BYTES = 128
RECORD_BYTES = 16
ENGINES = ("Tensor", "Scalar", "GpSimd", "Vector", "Sync")
"""By engine index, as images and record streams use it."""
DMA_ENGINES = 16
MEMORY_LABELS = {
    "generic": "Generic",
    "pe": "Tensor Instructions",
    "act": "Scalar Instructions",
    "pool": "GpSimd Instructions",
    "dve": "Vector Instructions",
    "sp": "Sync Instructions",
    "io": "IO",
    "spill": "DRAM Spill",
    "weight": "Weights",
    "profiler buffers": "Profiler Buffers",
    "act table": "Scalar Table",
    "shared scratchpad": "Shared Scratchpad",
    "tensor": "Tensors",
    "ucode": "Ucode lib",
    "pool stdio": "GpSimd STDIO",
    "collectives": "Collectives",
    "scratchpad": "Scratchpad",
    "xt cc": "XT CC (unused)",
    "dma rings runtime": "DMA Rings Runtime",
    "dma rings spill": "DMA Rings Spill",
    "dma rings io": "DMA Rings IO",
    "dma rings collectives": "DMA Rings Collectives",
}
_QUEUE_PREFIXES = (("qSP", "qSync"), ("qPool", "qGpSimd"), ("qAct", "qScalar"))
_INT64 = 1 << 63


@dataclass(frozen=True, slots=True)
class Clock:
    """Ticks to picoseconds: `(t - base) * q // p`."""

    base: int
    p: int
    q: int


@dataclass(frozen=True, slots=True)
class Edit:
    """Instructions that the runtime inserted into an image, or the compiler's that it removed."""

    start: int
    """First pc it applies to."""
    count: int
    kind: int
    """0 inserted, 2 removed; others were never seen."""


@dataclass(frozen=True, slots=True)
class Image:
    """The instructions of one engine as loaded: 64 bytes each."""

    engine: int
    address: int
    """Device address of the first instruction."""
    code: memoryview
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """A run of trace records of one kind, as bytes of the trace area."""

    kind: int
    """0 instructions, 1 semaphores and events, 4 DMA, 5 throttling."""
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Queue:
    """One DMA queue on one DMA engine."""

    engine: int
    index: int
    type: int
    name: str
    """As the vendor's tool prints it."""
    trigger_data: int
    """What a WRITE stores to trigger a static queue (a guess that fits); 0 where the queue is dynamic."""

    @property
    def is_dynamic(self) -> bool:
        """Fed by descriptors that software makes while the program runs."""
        return self.name.endswith("Dynamic")


@dataclass(frozen=True, slots=True)
class SubGraph:
    """One program on one physical core: images, queues, clocks, memory and its trace blocks."""

    name: str
    images: tuple[Image, ...]
    blocks: tuple[Block, ...]
    queues: tuple[Queue, ...]
    clocks: dict[int, tuple[Clock, ...]]
    """By field number: 1-5 engines, 6 semaphores, 7 throttling, 8 one per DMA engine."""
    memory: tuple[tuple[str, int], ...]
    """Label as the vendor prints it, bytes; in file order."""
    total_time_ps: int


@dataclass(frozen=True, slots=True)
class Ntff:
    """One capture, parsed but not decoded; `trace` is a view of the file."""

    source: str
    size_bytes: int
    version: int
    neff_path: str
    uuid: bytes
    """The NEFF's UUID up to its first NUL, and up to 6 bytes of junk after it."""
    runtime_version: str
    runtime_hash: str
    driver_version: str
    collectives_version: str
    instance_type: str
    subgraphs: tuple[SubGraph, ...]
    trace: memoryview
    notes: tuple[str, ...]


def load_ntff(path: Path) -> Ntff:
    """Read and parse one capture.

    Raises:
        FormatError: No NTFF, another version, or damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FormatError(path, expected="a readable NTFF file", found=error.strerror or str(error)) from error
    return parse_ntff(data, source=str(path))


def parse_ntff(data: bytes, *, source: str) -> Ntff:
    """Split a capture into metadata and trace blocks.

    Args:
        data: The whole file.
        source: What to call it in an error.

    Raises:
        FormatError: Too short, a version other than 5, or parts that contradict each other.
    """
    message_length = _message_length(data, source)
    view = memoryview(data)
    top = parse_message(view[HEADER_BYTES : HEADER_BYTES + message_length], source, HEADER_BYTES)
    trace = view[HEADER_BYTES + message_length :]
    graphs = [
        _subgraph(graph, source)
        for outer in top.messages(4)
        for model in outer.messages(4)
        for graph in model.messages(1)
    ]
    if not graphs:
        where = f"byte {HEADER_BYTES}"
        raise FormatError(source, where=where, expected="at least one sub-graph in the metadata", found="none")
    notes = _check_blocks(graphs, trace, source, HEADER_BYTES + message_length)
    runtime = top.message(8)
    return Ntff(
        source=source,
        size_bytes=len(data),
        version=data[0],
        neff_path=top.text(1),
        uuid=top.bytes(2),
        runtime_version=_dotted(runtime),
        runtime_hash=runtime.text(5),
        driver_version=_dotted(top.message(11)),
        collectives_version=_dotted(top.message(12)),
        instance_type=top.text(9),
        subgraphs=tuple(graphs),
        trace=trace,
        notes=tuple(notes),
    )


def _message_length(data: bytes, source: str) -> int:
    if not data:
        raise FormatError(source, expected="an NTFF file", found="an empty file")
    version = data[0]
    if version != VERSION:
        raise FormatError(
            source,
            where="byte 0",
            expected=f"NTFF version {VERSION}, the only one that is known",
            found=f"version {version}",
            remedy="export it with the vendor's tool (neuron-explorer view --output-format parquet) and read that",
        )
    if len(data) < HEADER_BYTES:
        where = f"byte {len(data)}"
        raise FormatError(source, where=where, expected=f"a {HEADER_BYTES}-byte header", found=f"{len(data)} bytes")
    length = int(struct.unpack_from("<Q", data, 1)[0])
    if length > len(data) - HEADER_BYTES:
        found = f"{len(data) - HEADER_BYTES} bytes; the file is truncated or no NTFF"
        raise FormatError(source, where="byte 1", expected=f"{length} bytes of metadata", found=found)
    return length


def _subgraph(message: Message, source: str) -> SubGraph:
    edits: dict[int, list[Edit]] = {}
    for entry in message.messages(5):
        for edit in entry.messages(2):
            made = Edit(edit.integer(1) // 64, edit.integer(2), edit.integer(3))
            edits.setdefault(entry.integer(1), []).append(made)
    images: list[Image] = []
    for entry in message.messages(4):
        engine = entry.integer(1)
        if engine >= len(ENGINES) or any(image.engine == engine for image in images):
            where = f"byte {entry.offset}"
            expected = f"one instruction image for each of the engines 0 to {len(ENGINES) - 1}"
            found = f"a second image of engine {engine}" if engine < len(ENGINES) else f"engine {engine}"
            raise FormatError(source, where=where, expected=expected, found=found)
        code = entry.payloads.get(3, [(0, memoryview(b""))])[-1][1]
        images.append(Image(engine, entry.integer(2), code, tuple(edits.get(engine, ()))))
    blocks = [Block(m.integer(1), m.integer(5), m.integer(6)) for m in message.messages(6)]
    queues = [_queue(m) for m in message.messages(7)]
    total = message.integer(14)
    if total >= _INT64:
        where = f"byte {message.offset}"
        raise FormatError(source, where=where, expected="a total time below 2^63 ps", found=str(total))
    memory = tuple((_memory_label(m.text(3)), min(m.integer(2), _INT64 - 1)) for m in message.messages(11))
    return SubGraph(
        name=message.text(1),
        images=tuple(images),
        blocks=tuple(blocks),
        queues=tuple(queues),
        clocks=_clocks(message.message(10), source),
        memory=memory,
        total_time_ps=total,
    )


def _clocks(message: Message, source: str) -> dict[int, tuple[Clock, ...]]:
    clocks: dict[int, tuple[Clock, ...]] = {}
    for number in message.payloads:
        entries = [Clock(m.integer(1), m.integer(2), m.integer(3)) for m in message.messages(number)]
        for clock in entries:
            if not (0 < clock.p < 1 << 31 and 0 < clock.q < 1 << 31):
                found = f"{clock.q}/{clock.p} in entry {number}"
                where = f"byte {message.offset}"
                raise FormatError(source, where=where, expected="a clock ratio of two positive numbers", found=found)
        clocks[number] = tuple(entries)
    return clocks


def _queue(message: Message) -> Queue:
    name = message.text(4)
    for short, long in _QUEUE_PREFIXES:
        if name.startswith(short):
            name = long + name[len(short) :]
            break
    trigger = message.message(8).integer(3)
    return Queue(message.integer(1), message.integer(2), message.integer(3), name, trigger)


def _memory_label(label: str) -> str:
    return MEMORY_LABELS.get(label, label)


def _dotted(message: Message) -> str:
    """Major, minor, patch of a version message; a part that is 0 is left out of the file."""
    return f"{message.integer(1)}.{message.integer(2)}.{message.integer(3)}" if message.integers else ""


def _check_blocks(graphs: list[SubGraph], trace: memoryview, source: str, base: int) -> list[str]:
    """Blocks must lie inside the trace area and hold whole records; what none of them covers is told."""
    covered = 0
    for graph in graphs:
        for block in graph.blocks:
            if block.offset + block.length > len(trace):
                found = f"the end of the file after {len(trace)} bytes of trace; it is truncated"
                where = f"byte {base + min(block.offset, len(trace))}"
                expected = f"{block.length} bytes of trace block {block.kind}"
                raise FormatError(source, where=where, expected=expected, found=found)
            if block.length % RECORD_BYTES:
                where = f"byte {base + block.offset}"
                expected = f"a block of whole {RECORD_BYTES}-byte records"
                raise FormatError(source, where=where, expected=expected, found=f"{block.length} bytes")
            covered += block.length
    rest = len(trace) - covered
    if rest > 0:
        return [f"{rest} bytes of the trace area belong to no block and were not read"]
    if rest < 0:
        where = f"byte {base}"
        raise FormatError(
            source, where=where, expected="trace blocks that do not overlap", found=f"{-rest} bytes twice"
        )
    return []
