"""npuscope's median beside pyperf's for the same np.matmul call, and the seconds that each takes.

Run as `python -m benchmarks.against_pyperf [--repeats 5] [--shape 512x512x512 ...]`.

The two tools run in turn, each in a fresh process and each with its defaults. They estimate different things: npuscope
gives the median of single calls, pyperf the median over 60 values of the mean of the calls in 100 ms. They agree as
far as single calls scatter symmetrically; a busy host moves the means and not the median. What pyperf says of itself
from one run to the next, in the last lines, is the measure of how far any two runs here can agree.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.common import BUSY_CORES, Figure, Load, LoadWatch, print_figures, spread_text

SHAPES = ("256x256x256", "512x512x512", "384x1024x384", "1024x1024x1024")
LIMIT = 0.02
_WORKER = Path(__file__).with_name("pyperf_worker.py")
_THREADS = "OPENBLAS_NUM_THREADS,OMP_NUM_THREADS,MKL_NUM_THREADS"  # pyperf drops the environment unless told

_OURS = """
import json, sys
from npuscope.measure.profiler import MatmulProfiler
from npuscope.workloads.matmul import parse_shape
profiler, configs = MatmulProfiler("cpu"), [parse_shape(text) for text in sys.argv[1:]]
rows = [profiler.profile_single_matmul(configs[0])] if len(configs) == 1 else profiler.profile(configs)
print(json.dumps([[row.latency_ms * 1e3, row.latency_mean_ms * 1e3, row.warnings] for row in rows]))
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one tool on one shape."""

    median_us: float
    mean_us: float
    seconds: float
    """The whole process, start and imports included; of a sweep, its share."""
    warnings: str
    load: Load


@dataclass(frozen=True, slots=True)
class Pairs:
    """The alternating runs of one shape."""

    shape: str
    npuscope: list[Run]
    sweep: list[Run]
    """The same shape measured together with all others, interleaved."""
    pyperf: list[Run]

    @property
    def ratios(self) -> list[float]:
        """npuscope over pyperf, run by run."""
        return [ours.median_us / theirs.median_us for ours, theirs in zip(self.npuscope, self.pyperf, strict=True)]

    @property
    def sweep_ratios(self) -> list[float]:
        """The same for the sweep."""
        return [ours.median_us / theirs.median_us for ours, theirs in zip(self.sweep, self.pyperf, strict=True)]

    @property
    def apart(self) -> list[float]:
        """|later / earlier - 1| of neighbouring pyperf runs: A against A."""
        return [abs(b.median_us / a.median_us - 1) for a, b in itertools.pairwise(self.pyperf)]


def compare(shapes: Sequence[str] = SHAPES, repeats: int = 3, *, talk: bool = True) -> list[Pairs]:
    """Sweep once, then npuscope and pyperf for each shape; all of that `repeats` times."""
    found = {shape: Pairs(shape, [], [], []) for shape in shapes}
    for repeat in range(repeats):
        sweep = run_npuscope(shapes)
        for shape, swept in zip(shapes, sweep, strict=True):
            pairs = found[shape]
            pairs.sweep.append(swept)
            pairs.npuscope.append(run_npuscope([shape])[0])
            pairs.pyperf.append(run_pyperf(shape))
            if talk:
                print(_pair_line(repeat, pairs), flush=True)
    return list(found.values())


def run_npuscope(shapes: Sequence[str]) -> list[Run]:
    """A fresh process that measures the shapes with default settings: one by profile_single_matmul, more as a sweep."""
    watch, start = LoadWatch(), perf_counter()
    answer = subprocess.run([sys.executable, "-c", _OURS, *shapes], check=True, capture_output=True, text=True)
    seconds, load = perf_counter() - start, watch.load()
    return [Run(middle, mean, seconds / len(shapes), notes, load) for middle, mean, notes in json.loads(answer.stdout)]


def run_pyperf(shape: str) -> Run:
    """pyperf's Runner with its defaults: 20 processes of 3 values, each a mean over at least 100 ms."""
    import pyperf

    with tempfile.TemporaryDirectory(prefix="npuscope-pyperf-") as scratch:
        output = Path(scratch) / "result.json"
        command = [sys.executable, str(_WORKER), "--quiet", "-o", str(output), "--inherit-environ", _THREADS]
        watch, start = LoadWatch(), perf_counter()
        subprocess.run([*command, "--shape", shape], check=True, capture_output=True)
        seconds, load = perf_counter() - start, watch.load()
        result = pyperf.Benchmark.load(str(output))
    return Run(1e6 * result.median(), 1e6 * result.mean(), seconds, "", load)


def figures_of(found: Sequence[Pairs]) -> list[Figure]:
    """Per shape the ratio of medians and the share of seconds, with pyperf against itself."""
    figures = []
    for pairs in found:
        ratio = median(pairs.ratios)
        swept = median(pairs.sweep_ratios)
        share = median(ours.seconds / theirs.seconds for ours, theirs in zip(pairs.npuscope, pairs.pyperf, strict=True))
        sweep_share = median(
            ours.seconds / theirs.seconds for ours, theirs in zip(pairs.sweep, pairs.pyperf, strict=True)
        )
        within = f"1 ± {LIMIT:g}"
        figures += [
            Figure(
                f"{pairs.shape}: median, npuscope over pyperf",
                ratio,
                "x",
                within,
                abs(ratio - 1) <= LIMIT,
                spread_text(pairs.ratios, 4),
            ),
            Figure(
                f"{pairs.shape}: median, npuscope's sweep over pyperf",
                swept,
                "x",
                within,
                abs(swept - 1) <= LIMIT,
                spread_text(pairs.sweep_ratios, 4),
            ),
            Figure(f"{pairs.shape}: seconds, npuscope over pyperf", share, "x", "< 0.5", share < 0.5),
            Figure(
                f"{pairs.shape}: seconds, the sweep's share over pyperf", sweep_share, "x", "< 0.5", sweep_share < 0.5
            ),
            Figure(f"{pairs.shape}: seconds of npuscope", median(run.seconds for run in pairs.npuscope), "s"),
            Figure(f"{pairs.shape}: seconds of pyperf", median(run.seconds for run in pairs.pyperf), "s"),
        ]
        if pairs.apart:
            figures.append(Figure(f"{pairs.shape}: pyperf against pyperf, apart by", 100 * median(pairs.apart), "%"))
    return figures


def measure(repeats: int = 3, shapes: Sequence[str] = SHAPES) -> list[Figure]:
    """Compare and summarise."""
    return figures_of(compare(shapes, repeats))


def _pair_line(repeat: int, pairs: Pairs) -> str:
    ours, swept, theirs = pairs.npuscope[-1], pairs.sweep[-1], pairs.pyperf[-1]
    busy = max(ours.load.foreign_cores, theirs.load.foreign_cores, swept.load.foreign_cores)
    return (
        f"  {repeat + 1}: {pairs.shape:<15} npuscope {ours.median_us:9.1f} µs in {ours.seconds:5.1f} s, sweep "
        f"{swept.median_us:9.1f} µs, pyperf {theirs.median_us:9.1f} µs in {theirs.seconds:5.1f} s; "
        f"ratios {pairs.ratios[-1]:.3f} {pairs.sweep_ratios[-1]:.3f}"
        f"{f'; UNDER LOAD {busy:.2f} cores' if busy > BUSY_CORES else ''}{f'; {ours.warnings}' if ours.warnings else ''}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shape", action="append", help=f"MxKxN; repeatable; default {' '.join(SHAPES)}")
    arguments = parser.parse_args()
    watch = LoadWatch()
    figures = measure(arguments.repeats, tuple(arguments.shape or SHAPES))
    print_figures("Against pyperf", figures, watch.load())


if __name__ == "__main__":
    main()
