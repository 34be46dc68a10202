"""Vendor profile JSON of 200 MB to a Profile with its summary, beside `json.load`, which makes Python objects only.

Run as `python -m benchmarks.neuron_json`. Each reader runs in a fresh process, which reports its own peak memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import Figure, at_most, run_with_repeats, spread_text
from tests.writers.neuron_json import write_document

INSTRUCTIONS = 170_000
PACKETS = 180_000
PEAK_TARGET_MIB = 300.0
"""Of the whole process, interpreter and libraries included."""
_REPORT = (
    "import json, resource; "
    "print(json.dumps({'s': s, 'events': events, 'mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))"
)
_OURS = f"""
import sys, time
from pathlib import Path
start = time.perf_counter()
from npuscope.formats.neuron_json import read_neuron_json
profile = read_neuron_json(Path(sys.argv[1]))
s = time.perf_counter() - start
events = profile.rows("Instruction") + profile.rows("DmaPacket") + profile.rows("DmaPacketAggregated")
{_REPORT}
"""
_PEER = f"""
import json, sys, time
start = time.perf_counter()
with open(sys.argv[1], "rb") as file:
    made = json.load(file)
s = time.perf_counter() - start
events = len(made["instruction"]) + len(made["dma"])
{_REPORT}
"""


def _run(script: str, path: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def measure(repeats: int) -> list[Figure]:
    """Write the file, read it `repeats` times with each reader, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile.json"
        size = write_document(path, INSTRUCTIONS, PACKETS)
        ours, peer = [], []
        for _ in range(repeats):
            ours.append(_run(_OURS, path))
            peer.append(_run(_PEER, path))
    events = ours[0]["events"]
    if events != peer[0]["events"]:
        raise RuntimeError(f"{events} events read, {peer[0]['events']} in the file")
    seconds, peer_seconds = [run["s"] for run in ours], [run["s"] for run in peer]
    return [
        Figure("file", size / 1e6, "MB"),
        Figure("rows of instruction and dma", events, ""),
        Figure("npuscope", median(seconds), "s", spread=spread_text(seconds)),
        Figure("npuscope", events / median(seconds), "rows/s"),
        at_most("npuscope, peak memory", max(run["mib"] for run in ours), PEAK_TARGET_MIB, "MiB"),
        Figure("json.load", median(peer_seconds), "s", spread=spread_text(peer_seconds)),
        Figure("json.load", events / median(peer_seconds), "rows/s"),
        Figure("json.load, peak memory", max(run["mib"] for run in peer), "MiB"),
    ]


if __name__ == "__main__":
    run_with_repeats("Vendor profile JSON", measure, __doc__, repeats=3)
