"""Time to write a Perfetto trace of a million slices, beside the official builder's streaming interface.

Run as `python -m benchmarks.perfetto_export`. Both write the same slices (name, track, start, end, one argument) in
one process; npuscope's figure begins with the Profile and ends with the file on the disk.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.common import Figure, LoadWatch, at_most, print_figures, spread_text
from npuscope.formats.perfetto_processor import TraceProcessor
from npuscope.formats.perfetto_writer import write_perfetto
from npuscope.profile.tables import Profile, make_profile

SLICES = 1_000_000
TARGET_S = 3.0
_ENGINES = ("Vector", "Scalar", "GpSimd", "Sync")
_OPCODES = ("TENSOR_TENSOR", "ACTIVATE", "WRITE", "DRAIN", "COPY", "TENSOR_REDUCE")
_BEGIN, _END = 1, 2


def made_profile(count: int) -> Profile:
    """Slices on four engines; those of one engine do not overlap, which the official builder could not write."""
    rng = np.random.default_rng(0)
    start = 25 * np.arange(count) + rng.integers(0, 5, count)
    duration = rng.integers(1, 90, count)
    instructions = {
        "start_ts": start,
        "end_ts": start + duration,
        "duration_ns": duration,
        "engine": np.array(_ENGINES, object)[np.arange(count) % len(_ENGINES)],
        "opcode": np.array(_OPCODES, object)[rng.integers(0, len(_OPCODES), count)],
        "pc": np.arange(count),
    }
    return make_profile({"Metadata": {"is_simulation": [False]}, "Instruction": instructions}, source="benchmark")


def write_officially(profile: Profile, path: Path) -> None:
    """The same slices by `StreamingTraceProtoBuilder`, with interned names."""
    from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

    table = profile.tables["Instruction"]
    columns = [table.column(name).to_pylist() for name in ("start_ts", "end_ts", "engine", "opcode", "pc")]
    tracks = {engine: index for index, engine in enumerate(_ENGINES, 2)}
    names = {opcode: index for index, opcode in enumerate(_OPCODES, 1)}
    with path.open("wb") as file:
        builder = StreamingTraceProtoBuilder(file)
        _declare(builder, tracks, names)
        for start, end, engine, opcode, pc in zip(*columns, strict=True):
            packet = builder.create_packet()
            packet.timestamp = start
            packet.trusted_packet_sequence_id = 1
            packet.sequence_flags = 2
            event = packet.track_event
            event.type = _BEGIN
            event.track_uuid = tracks[engine]
            event.name_iid = names[opcode]
            argument = event.debug_annotations.add()
            argument.name_iid = 1
            argument.int_value = pc
            builder.write_packet(packet)
            packet = builder.create_packet()
            packet.timestamp = end
            packet.trusted_packet_sequence_id = 1
            packet.sequence_flags = 2
            packet.track_event.type = _END
            packet.track_event.track_uuid = tracks[engine]
            builder.write_packet(packet)


def _declare(builder: Any, tracks: dict[str, int], names: dict[str, int]) -> None:
    packet = builder.create_packet()
    packet.trusted_packet_sequence_id = 1
    packet.sequence_flags = 1
    for name, number in names.items():
        entry = packet.interned_data.event_names.add()
        entry.iid, entry.name = number, name
    entry = packet.interned_data.debug_annotation_names.add()
    entry.iid, entry.name = 1, "pc"
    builder.write_packet(packet)
    for engine, uuid in tracks.items():
        packet = builder.create_packet()
        packet.track_descriptor.uuid = uuid
        packet.track_descriptor.name = engine
        builder.write_packet(packet)


def measure(repeats: int = 3, count: int = SLICES) -> list[Figure]:
    """Seconds each, in turn; the real trace processor must count the same slices and the same time in both."""
    profile = made_profile(count)
    taken: dict[str, list[float]] = {"npuscope": [], "official": []}
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours.pftrace", Path(folder) / "theirs.pftrace"
        for _ in range(repeats):
            for name, write, path in (("npuscope", write_perfetto, ours), ("official", write_officially, theirs)):
                start = perf_counter()
                write(profile, path)
                taken[name].append(perf_counter() - start)
        if _counted(ours) != _counted(theirs):
            raise AssertionError("the two traces differ")
        sizes = [path.stat().st_size / 1e6 for path in (ours, theirs)]
    label = f"{count:,} slices"
    return [
        at_most(f"{label}: npuscope", median(taken["npuscope"]), TARGET_S, "s", spread_text(taken["npuscope"])),
        Figure(
            f"{label}: official streaming builder",
            median(taken["official"]),
            "s",
            spread=spread_text(taken["official"]),
        ),
        Figure("how much faster", median(taken["official"]) / median(taken["npuscope"]), "x"),
        Figure("file: npuscope, with categories, counters and one more argument", sizes[0], "MB"),
        Figure("file: official builder", sizes[1], "MB"),
    ]


def _counted(path: Path) -> list[dict[str, Any]]:
    with TraceProcessor() as processor:
        processor.load(path)
        if processor.error_stats():
            raise AssertionError(f"{path.name}: {processor.error_stats()}")
        rows: list[dict[str, Any]] = processor.query(
            "SELECT name, count(*) AS n, sum(dur) AS ns FROM slice GROUP BY name ORDER BY name"
        ).to_pylist()
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--slices", type=int, default=SLICES)
    arguments = parser.parse_args()
    watch = LoadWatch()
    figures = measure(arguments.repeats, arguments.slices)
    print_figures("Writing a Perfetto trace", figures, watch.load())


if __name__ == "__main__":
    main()
