"""NTFF version 5 files for tests: headers, metadata and records from what a test wants them to say."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from npuscope.formats.ntff_records import RECORD

TENSOR, SCALAR, GPSIMD, VECTOR, SYNC = range(5)
LDWEIGHTS, MATMUL, ACTIVATE, EVENT_SEMAPHORE, DRAIN, WRITE, NOTIFY = 0x01, 0x02, 0x21, 0xA0, 0xA2, 0xA5, 0xA6
PC_BASE = 0x3C0228000
TICK = (1024, 1024 * 500)
"""p and q of clocks by which one tick is 500 ps."""


def varint(value: int) -> bytes:
    made = bytearray()
    while True:
        low, value = value & 0x7F, value >> 7
        made.append(low | (0x80 if value else 0))
        if not value:
            return bytes(made)


def integer(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value) if value else b""


def payload(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def instruction(opcode: int, **at: int) -> bytes:
    """64 bytes with an opcode; `b13=7` puts a byte, `w16=7` a 16-bit, `d8=7` a 32-bit, `q32=7` a 64-bit number."""
    word = bytearray(64)
    word[0], word[1] = opcode, 0x10
    for place, value in at.items():
        code = {"b": "<B", "w": "<H", "s": "<h", "d": "<I", "q": "<Q"}[place[0]]
        struct.pack_into(code, word, int(place[1:]), value)
    return bytes(word)


def matmul(source: int, target: int, columns: int, dtype: int = 7) -> bytes:
    moving = {"d16": source, "s20": 1, "w26": columns, "w28": 1, "w30": 1, "b32": dtype, "b38": 128, "b39": 128}
    return instruction(MATMUL, **moving, d48=target, s52=1, w58=columns, w60=1, w62=1)


def ldweights(source: int, columns: int = 128, dtype: int = 7) -> bytes:
    return instruction(LDWEIGHTS, d16=source, s20=1, w26=columns, w28=1, w30=1, b32=dtype, b38=128, b39=128)


def activate(source: int, target: int, columns: int, dtypes: tuple[int, int] = (10, 7)) -> bytes:
    places = {"d16": source, "s20": 1, "w26": columns, "w28": 1, "w30": 1, "b32": dtypes[0], "b33": dtypes[1]}
    return instruction(ACTIVATE, **places, b34=128, d48=target, s52=1, w58=columns, w60=1, w62=1)


@dataclass
class Capture:
    """What one NTFF is to hold. Times are ticks of 500 ps after each clock's base."""

    images: dict[int, list[bytes]] = field(default_factory=dict)
    records: dict[int, list[tuple[int, int, int, int, int, int]]] = field(default_factory=dict)
    """Per block kind: b0, b1, b2, stream, payload, ticks."""
    queues: list[tuple[int, int, int, str, int]] = field(default_factory=list)
    """DMA engine, index, type, name, trigger value."""
    memory: list[tuple[str, int]] = field(default_factory=list)
    edits: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    uuid: bytes = bytes(range(1, 17))
    instance_type: str = "inf2.xlarge"
    total_time_ps: int = 0
    base: int = 1 << 40
    clock: tuple[int, int] = TICK
    version: int = 5

    def run(self, engine: int, pc: int, start: int, end: int, wait: int = 1) -> None:
        """Start and end records of one instruction."""
        pc16 = ((self.address(engine) >> 6) + pc) & 0xFFFF
        low, high = pc16 & 0xFF, pc16 >> 8
        self._add(0, low, high, 0, 0x84 + 4 * engine, wait << 16, start)
        self._add(0, low, high, 0, 0x85 + 4 * engine, 0xFFFF_FFFF, end)

    def transfer(self, engine: int, queue: int, start: int, end: int, size: int, crc: int = 7) -> None:
        """Records of one DMA packet: begun, ended, acknowledged."""
        self._add(4, 0, 0, 0, 0x80 + engine, queue << 4 | 1, start)
        self._add(4, size & 0xFF, size >> 8 & 0xFF, size >> 16, 0x80 + engine, crc << 16 | queue << 4 | 5, end)
        self._add(4, 0, 0, 0, 0x80 + engine, queue << 4 | 6, end + 1)

    def semaphore(self, index: int, value: int, at: int, operation: int = 243, kind: int = 1) -> None:
        """One change of a semaphore (kind 1) or event (kind 0)."""
        self._add(1, index, kind, operation, 0x87, value, at)

    def throttle(self, k: int, n: int, at: int) -> None:
        """A limit of k of n; n = 0 lifts it."""
        self._add(5, 1 if n else 0, 0, n, 0x9E, k, at)

    def _add(self, kind: int, b0: int, b1: int, b2: int, stream: int, value: int, ticks: int) -> None:
        self.records.setdefault(kind, []).append((b0, b1, b2, stream, value, self.base + ticks))

    @staticmethod
    def address(engine: int) -> int:
        return PC_BASE + 0x10000 * engine

    def arrays(self) -> dict[int, np.ndarray]:
        return {kind: np.array(rows, RECORD) for kind, rows in self.records.items()}

    def data(self, arrays: dict[int, np.ndarray] | None = None, others: tuple[Capture, ...] = ()) -> bytes:
        """The file; `arrays` replaces the records that were added one by one, `others` are further sub-graphs."""
        trace: list[bytes] = []
        graphs = b""
        for capture in (self, *others):
            blocks = capture.arrays() if arrays is None else arrays
            places = []
            for kind in sorted(blocks):
                raw = blocks[kind].tobytes()
                offset = sum(map(len, trace))
                places.append(payload(6, integer(1, kind) + integer(5, offset) + integer(6, len(raw))))
                trace.append(raw)
            graphs += payload(1, capture._graph(b"".join(places)))
        message = b"".join(
            (
                payload(1, b"/tmp/work/graph.neff"),
                payload(2, self.uuid),
                integer(3, 10001),
                payload(4, payload(4, graphs)),
                payload(8, integer(1, 2) + integer(2, 29) + integer(3, 40) + payload(5, b"0123456789")),
                payload(9, self.instance_type.encode()),
                payload(11, integer(1, 2) + integer(2, 25)),
                payload(12, integer(1, 2) + integer(2, 29) + integer(3, 41)),
            )
        )
        header = struct.pack("<BQQ", self.version, len(message), 25959).ljust(128, b"\0")
        return header + message + b"".join(trace)

    def _graph(self, blocks: bytes) -> bytes:
        parts = [payload(1, b"sg00")]
        for engine, words in self.images.items():
            parts.append(
                payload(4, integer(1, engine) + integer(2, self.address(engine)) + payload(3, b"".join(words)))
            )
        for engine, edits in self.edits.items():
            made = b"".join(
                payload(2, integer(1, 64 * at) + integer(2, count) + integer(3, kind)) for at, count, kind in edits
            )
            parts.append(payload(5, integer(1, engine) + made))
        parts.append(blocks)
        for engine, index, kind, name, trigger in self.queues:
            entry = integer(1, engine) + integer(2, index) + integer(3, kind) + payload(4, name.encode())
            parts.append(payload(7, entry + (payload(8, integer(3, trigger)) if trigger else b"")))
        clock = integer(1, self.base) + integer(2, self.clock[0]) + integer(3, self.clock[1])
        numbers = [1, 2, 3, 4, 5, 6, 7, *[8] * 16, 9]
        parts.append(payload(10, b"".join(payload(number, clock) for number in numbers)))
        parts += [payload(11, integer(2, size) + payload(3, label.encode())) for label, size in self.memory]
        parts.append(integer(14, self.total_time_ps))
        return b"".join(parts)


def small_capture() -> Capture:
    """Two matmuls of which the first is a transpose, their copies to SBUF, a loop of DMA packets, a throttle.

    Time zero is tick 100, where the begin marker ends; a tick is 500 ps.
    """
    made = Capture(
        images={
            TENSOR: [
                instruction(NOTIFY, b36=2),
                ldweights(0x1000),
                matmul(0x2000, 0x2000000, 128),
                ldweights(0x4000),
                matmul(0x5000, 0x2001000, 512),
                instruction(NOTIFY, b36=3),
            ],
            SCALAR: [activate(0x2000000, 0x4000, 128), activate(0x2001000, 0x6000, 512)],
            SYNC: [instruction(EVENT_SEMAPHORE, b32=1, b33=2, d36=1), instruction(0x7F), instruction(DRAIN)],
        },
        queues=[(engine, 1, 2, "qSPSpillReload0", 3) for engine in range(2)] + [(0, 0, 2, "qPoolDynamic", 0)],
        memory=[("weight", 4096), ("tensor", 8192), ("pe", 384)],
        total_time_ps=1_000_000,
    )
    made.run(SYNC, 2, 10, 20)  # before the begin marker
    made.run(TENSOR, 0, 90, 100)
    for pc, (start, end) in enumerate([(200, 260), (264, 400), (600, 660), (664, 1200), (1900, 1910)], start=1):
        made.run(TENSOR, pc, start, end, wait=14)
    made.run(SCALAR, 0, 410, 580)
    made.run(SCALAR, 1, 1210, 1800)
    made.run(SYNC, 0, 110, 190)
    made.run(SYNC, 1, 1850, 1860)
    for engine, queue, start, end, size in (
        (0, 1, 120, 180, 2048),
        (1, 1, 125, 170, 2048),
        (0, 1, 130, 186, 4),
        (0, 0, 1800, 1890, 65536),
        (3, 14, 150, 160, 64),
    ):
        made.transfer(engine, queue, start, end, size)
    made.semaphore(5, 1, 300)
    made.semaphore(2, 1, 150)
    made.semaphore(9, 1, 160, kind=0)
    made.throttle(0x80, 0, 105)
    made.throttle(7, 8, 500)
    return made
