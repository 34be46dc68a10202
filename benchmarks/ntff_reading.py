"""Records per second of the NTFF reader, on a synthetic capture, beside the plainest reader: one record at a time.

    python -m benchmarks.ntff_reading [--megabytes 100] [--repeats 3]

Decoding ends with arrays of paired instructions and packets; reading ends with the whole Profile, summary included.
The peer unpacks each record with `struct` and pairs through dictionaries of queues, on a part of the same file.
"""

from __future__ import annotations

import argparse
import struct
from collections import defaultdict, deque
from time import perf_counter

import numpy as np

from benchmarks.common import Figure, LoadWatch, print_figures
from npuscope.formats.ntff import parse_ntff
from npuscope.formats.ntff_profile import ntff_profile
from npuscope.formats.ntff_records import RECORD, Leftover, decode_spans
from tests.writers.ntff import Capture, activate, instruction, ldweights, matmul

PEER_RECORDS = 400_000


def synthetic(records: int) -> bytes:
    """A loop of matmuls and copies on three engines with DMA beside them; two thirds instructions, one third DMA."""
    capture = Capture(
        images={
            0: [instruction(0xA6, b36=2), *[ldweights(0x1000), matmul(0x2000, 0x2000000, 512)] * 30],
            1: [activate(0x2000000, 0x4000, 512)] * 60,
            3: [instruction(0xA4)] * 60,
        },
        queues=[(engine, queue, 2, f"qPoolDynamic{queue}", 0) for engine in range(16) for queue in range(4)],
        total_time_ps=10**12,
    )
    capture.run(0, 0, 0, 1)
    marker = capture.arrays()[0]
    return capture.data(
        {0: np.concatenate([marker, _instructions(records * 2 // 3, capture)]), 4: _packets(records // 3, capture)}
    )


def _instructions(count: int, capture: Capture) -> np.ndarray:
    made = np.zeros(count // 2 * 2, RECORD)
    index = np.arange(made.size // 2)
    engine = np.array([0, 1, 3])[index % 3]
    pc = 1 + (index // 3) % 59
    bases = np.array([(capture.address(e) >> 6) & 0xFFFF for e in range(5)])
    pc16 = (bases[engine] + pc) & 0xFFFF
    for offset in (0, 1):
        rows = made[offset::2]
        rows["b0"], rows["b1"] = pc16 & 0xFF, pc16 >> 8
        rows["stream"] = 0x84 + 4 * engine + offset
        rows["payload"] = 1 << 16 if offset == 0 else 0xFFFF
        rows["ticks"] = capture.base + 10 + index * 40 + offset * 25
    return made


def _packets(count: int, capture: Capture) -> np.ndarray:
    made = np.zeros(count // 2 * 2, RECORD)
    index = np.arange(made.size // 2)
    for offset, step in ((0, 1), (1, 5)):
        rows = made[offset::2]
        rows["stream"] = 0x80 + index % 16
        rows["payload"] = step | ((index // 16) % 4) << 4
        rows["b1"] = 8 if step == 5 else 0
        rows["ticks"] = capture.base + 10 + index * 80 + offset * 60
    return made


def decode_vectorised(data: bytes) -> int:
    capture = parse_ntff(data, source="synthetic")
    decode_spans(capture, capture.subgraphs[0], Leftover())
    return len(capture.trace) // 16


def read_whole(data: bytes) -> int:
    profile = ntff_profile(parse_ntff(data, source="synthetic"))
    return 2 * (profile.rows("Instruction") + profile.rows("DmaPacket"))


def decode_one_by_one(data: bytes) -> int:
    capture = parse_ntff(data, source="synthetic")
    clock = capture.subgraphs[0].clocks[1][0]
    waiting: dict[tuple[int, int], deque[int]] = defaultdict(deque)
    spans = []
    seen = 0
    for b0, b1, _, stream, _, ticks in struct.iter_unpack("<BBBBIQ", capture.trace[: 16 * PEER_RECORDS]):
        seen += 1
        key, at = (stream >> 2, b0 | b1 << 8), (ticks - clock.base) * clock.q // clock.p
        if stream & 1 == 0:
            waiting[key].append(at)
        elif waiting[key]:
            spans.append((*key, waiting[key].popleft(), at))
    return seen


def measure(repeats: int = 3, megabytes: int = 100) -> list[Figure]:
    """Best of `repeats` of each way to read one capture, and the ratio to the plainest one."""
    data = synthetic(megabytes * 1_000_000 // 16)
    rates = {}
    for name, function in (("one by one", decode_one_by_one), ("decode", decode_vectorised), ("profile", read_whole)):
        seconds = []
        for _ in range(repeats):
            started = perf_counter()
            count = function(data)
            seconds.append((perf_counter() - started) / count)
        rates[name] = 1e-6 / min(seconds)
    size = f"{len(data) / 1e6:.0f} MB"
    return [
        Figure(f"records decoded and paired, {size}", rates["decode"], "million/s", ">= 10", rates["decode"] >= 10),
        Figure("the same through dictionaries, one by one", rates["one by one"], "million/s"),
        Figure("ratio", rates["decode"] / rates["one by one"], "times"),
        Figure("records into a whole Profile with its summary", rates["profile"], "million/s"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    watch = LoadWatch()
    figures = measure(options.repeats, options.megabytes)
    print_figures("NTFF reading", figures, watch.load())


if __name__ == "__main__":
    main()
