"""Chrome JSON traces: 900,002 events to a Profile and busy time per track, beside HolisticTraceAnalysis 0.5.0.

Run as `python -m benchmarks.chrome_traces`. The peer needs other versions of other packages, so it lives in an
environment of its own: `python -m venv DIR; DIR/bin/pip install HolisticTraceAnalysis==0.5.0 'pandas<3'`, then set
`NPUSCOPE_HTA_PYTHON=DIR/bin/python`; without it the peer is skipped. Each reader runs in a fresh process, which reports
its own peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import Figure, LoadWatch, at_most, print_figures

EVENTS = 900_002
SPEED_TARGET = 10.0
MEMORY_TARGET = 0.2
VENDOR_BYTES = 200 << 20
VENDOR_TARGET_MIB = 300.0
PEER_VARIABLE = "NPUSCOPE_HTA_PYTHON"
_LIMITS = (
    "totalGlobalMem",
    "computeMajor",
    "computeMinor",
    "maxThreadsPerBlock",
    "maxThreadsPerMultiprocessor",
    "regsPerBlock",
    "regsPerMultiprocessor",
    "warpSize",
    "sharedMemPerBlock",
    "sharedMemPerMultiprocessor",
    "numSms",
    "sharedMemPerBlockOptin",
)
_REPORT = "import json, resource; print(json.dumps({**result, 'mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))"
_OURS = f"""
import sys, time
from pathlib import Path
start = time.perf_counter()
from npuscope.formats.chrome_trace import read_chrome_trace
from npuscope.analysis.timeline import read_resources
profile = read_chrome_trace(Path(sys.argv[1]))
busy = [(track.name, track.count, int((track.busy[1] - track.busy[0]).sum())) for track in read_resources(profile)]
result = {{"s": time.perf_counter() - start, "events": sum(count for _, count, _ in busy), "busy_ns": busy[0][2] / 1000}}
{_REPORT}
"""
_PEER = f"""
import logging, sys, time
logging.disable(50)
from hta.trace_analysis import TraceAnalysis
start = time.perf_counter()
analysis = TraceAnalysis(trace_files={{0: sys.argv[1]}})
analysis.get_temporal_breakdown(visualize=False)
result = {{"s": time.perf_counter() - start}}
{_REPORT}
"""
_PROCESSOR = f"""
import sys, time
from pathlib import Path
from npuscope.formats.perfetto_processor import TraceProcessor
with TraceProcessor() as processor:
    start = time.perf_counter()
    processor.load(Path(sys.argv[1]))
    rows = processor.query("SELECT track_id, count(*) AS slices, sum(dur) AS dur FROM slice GROUP BY track_id")
    result = {{"s": time.perf_counter() - start, "events": sum(rows.column("slices").to_pylist())}}
{_REPORT}
"""
_VENDOR = f"""
import sys, time
from pathlib import Path
from npuscope.formats.json_stream import iterate_document
start = time.perf_counter()
rows = sum(len(value) for _, value in iterate_document(Path(sys.argv[1]), {{"instruction": dict, "dma": dict}}))
result = {{"s": time.perf_counter() - start, "events": rows}}
{_REPORT}
"""


def write_kineto_like(path: Path, launches: int, seed: int = 1) -> None:
    """A trace as PyTorch's profiler writes it: per launch an operator, the runtime's call, and a kernel on a stream."""
    draw = random.Random(seed)
    head = {
        "schemaVersion": 1,
        "distributedInfo": {"backend": "nccl", "rank": 0, "world_size": 1},
        "deviceProperties": [{"id": 0, "name": "Made-up GPU", **dict.fromkeys(_LIMITS, 64)}],
    }
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(head)[:-1] + ', "traceEvents": [\n')
        for at, event in enumerate(_kineto_events(launches, draw)):  # one by one: a child's peak begins at ours
            file.write((",\n" if at else "") + json.dumps(event, separators=(",", ":")))
        file.write("\n]}\n")


def _kineto_events(launches: int, draw: random.Random) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": "python"}}
    yield {"ph": "M", "name": "process_labels", "pid": 0, "tid": 0, "args": {"labels": "GPU 0"}}
    host_us, device_us = 1000.0, 2000.0
    for launch in range(1, launches + 1):
        host_us += draw.uniform(5.0, 9.0)
        duration = round(draw.uniform(2.0, 12.0), 3)
        common = {"External id": launch}
        operator = {**common, "Record function id": 0, "Input Dims": [[128, 128], [128, 512]], "Ev Idx": launch - 1}
        operator["Input type"] = ["c10::BFloat16", "c10::BFloat16"]
        yield _complete("cpu_op", "aten::mm", 1, 1, host_us, 4.1, operator)
        call = {**common, "cbid": 211, "correlation": launch}
        yield _complete("cuda_runtime", "cudaLaunchKernel", 1, 1, host_us + 1, 2.0, call)
        stream = 7 + draw.randrange(4)
        kernel = {**common, "queued": 0, "device": 0, "context": 1, "stream": stream, "correlation": launch}
        kernel |= {"registers per thread": 64, "grid": [1, 1, 1], "block": [128, 1, 1], "est. achieved occupancy %": 30}
        yield _complete("kernel", f"gemm_{launch % 50}", 0, stream, device_us, duration, kernel)
        device_us += duration


def _complete(
    category: str, name: str, pid: int, tid: int, ts: float, dur: float, args: dict[str, Any]
) -> dict[str, Any]:
    where = {"pid": pid, "tid": tid, "ts": round(ts, 3), "dur": dur}
    return {"ph": "X", "cat": category, "name": name, **where, "args": args}


def write_vendor_like(path: Path, size_bytes: int) -> None:
    """A profile JSON of the vendor's shape: arrays of instructions and DMA packets with nested lists and texts."""
    instruction = {
        "timestamp": 0,
        "duration": 64,
        "pc": 1,
        "opcode": "MATMUL",
        "subgroup": "Tensor",
        "operands": 'src=fp16@0x2000[1,0,0][512,1,1] "}, {" 128*128',
        "id": (1 << 62) + 1,
        "predecessors": [{"id": 1, "type": "data"}, {"id": 2, "type": "semaphore"}],
    }
    packet = {"timestamp": 0, "duration": 1500, "transfer_size": 4096, "subgroup": "Q14-E9", "source": [["INPUT", "0"]]}
    with path.open("w", encoding="utf-8") as file:
        file.write('{"metadata": [{"data_version": 8}]')
        for key, row in (("instruction", instruction), ("dma", packet)):
            text = json.dumps(row)
            file.write(f', "{key}": [{text}')
            for at in range(size_bytes // 2 // len(text)):
                file.write("," + text.replace('"timestamp": 0', f'"timestamp": {at}', 1))
            file.write("]")
        file.write("}")


def measure(launches: int = (EVENTS - 2) // 3, vendor_bytes: int = VENDOR_BYTES) -> list[Figure]:
    """Seconds, events per second and peak memory of each reader on one file."""
    with tempfile.TemporaryDirectory() as folder:
        trace, vendor = Path(folder) / "kineto.json", Path(folder) / "profile.json"
        write_kineto_like(trace, launches)
        events = 3 * launches + 2
        figures = _figures("npuscope, to a Profile and busy time per track", _run(sys.executable, _OURS, trace), events)
        figures += _against_peer(figures, trace, events)
        processor = _run(sys.executable, _PROCESSOR, trace)
        figures += _figures("Perfetto's processor (WebAssembly), load and one query", processor, events)
        kept = 100 * float(processor["events"]) / (events - 2)
        figures.append(Figure("slices of the trace that Perfetto's processor keeps", kept, "%"))
        trace.unlink()
        write_vendor_like(vendor, vendor_bytes)
        told = _run(sys.executable, _VENDOR, vendor)
        name = f"vendor-like JSON of {vendor_bytes >> 20} MB, streamed"
        figures.append(Figure(f"{name}: speed", vendor.stat().st_size / 1e6 / told["s"], "MB/s"))
        figures.append(at_most(f"{name}: peak memory", told["mib"], VENDOR_TARGET_MIB, "MiB"))
    return figures


def _against_peer(ours: list[Figure], trace: Path, events: int) -> list[Figure]:
    peer = os.environ.get(PEER_VARIABLE, "")
    if not peer:
        print(f"HolisticTraceAnalysis is skipped: {PEER_VARIABLE} names no Python that has it")
        return []
    figures = _figures("HolisticTraceAnalysis 0.5.0, load and temporal breakdown", _run(peer, _PEER, trace), events)
    faster = ours[0].value / figures[0].value
    share = ours[1].value / figures[1].value
    return [
        *figures,
        Figure("npuscope's speed over the peer's", faster, "x", f">= {SPEED_TARGET:g}", faster >= SPEED_TARGET),
        at_most("npuscope's peak memory over the peer's", share, MEMORY_TARGET, "x"),
    ]


def _run(python: str, code: str, path: Path) -> dict[str, float]:
    done = subprocess.run([python, "-c", code, str(path)], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _figures(name: str, told: dict[str, float], events: int) -> list[Figure]:
    rate = Figure(f"{name}: speed", events / told["s"] / 1e3, "k ev/s", spread=f"{told['s']:.2f} s")
    return [rate, Figure(f"{name}: peak memory", told["mib"], "MiB")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the events and bytes")
    arguments = parser.parse_args()
    scale = 10 if arguments.quick else 1
    watch = LoadWatch()
    figures = measure((EVENTS - 2) // 3 // scale, VENDOR_BYTES // scale)
    print_figures("Chrome JSON traces", figures, watch.load())


if __name__ == "__main__":
    main()
