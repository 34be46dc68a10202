"""npuscope's median beside pyperf's for the same np.matmul call, and the seconds that each takes.

Run as `python -m benchmarks.against_pyperf [--repeats 5] [--shape 512x512x512 ...] [--threads 1] [--wait 600]`.

The two tools run in turn, each in a fresh process and each with its defaults. They estimate different things: npuscope
gives the median of single calls, pyperf the median over 60 values of the mean of the calls in 100 ms. They agree as
far as single calls scatter symmetrically; a busy host moves the means and not the median. What pyperf says of itself
from one run to the next is the measure of how far any two runs here can agree.

A pair counts only where other processes left the host alone in both of its runs: with two BLAS threads on two cores, one
busy neighbour makes each call wait for the end of a scheduler slice (16 ms on Linux at 250 Hz). Without a single
such pair the ratios are shown and not judged.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median
from time import perf_counter, perf_counter_ns, sleep

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.common import Figure, Load, LoadWatch, print_figures, spread_text
from npuscope.backends.base import BackendOptions
from npuscope.backends.cpu import NumpyBackend
from npuscope.measure.numerics import make_inputs
from npuscope.measure.sampling import make_step, sample
from npuscope.workloads.matmul import parse_shape

SHAPES = ("256x256x256", "512x512x512", "384x1024x384", "1024x1024x1024")
LIMIT = 0.02
_IDLE_CHECKS = 4
_SLICE_NS = 20_000_000
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
class Pair:
    """Neighbouring runs of both tools on one shape."""

    npuscope: Run
    sweep: Run
    """The same shape measured together with all others, interleaved."""
    pyperf: Run

    @property
    def ratio(self) -> float:
        """Ratio of the medians, npuscope over pyperf."""
        return self.npuscope.median_us / self.pyperf.median_us

    @property
    def sweep_ratio(self) -> float:
        """The same for the sweep."""
        return self.sweep.median_us / self.pyperf.median_us

    @property
    def quiet(self) -> bool:
        """Other processes left the host alone."""
        return all(run.load.quiet for run in (self.npuscope, self.sweep, self.pyperf))


def compare(
    shapes: Sequence[str] = SHAPES, repeats: int = 3, *, wait_s: float = 0.0, talk: bool = True
) -> dict[str, list[Pair]]:
    """Sweep once, then npuscope and pyperf for each shape; all of that `repeats` times.

    Args:
        shapes: MxKxN each.
        repeats: Pairs per shape.
        wait_s: Wait at most so long for a quiet host before each run.
        talk: Print each pair.
    """
    found: dict[str, list[Pair]] = {shape: [] for shape in shapes}
    for repeat in range(repeats):
        wait_until_quiet(wait_s)
        sweep = run_npuscope(shapes)
        for shape, swept in zip(shapes, sweep, strict=True):
            wait_until_quiet(wait_s)
            ours = run_npuscope([shape])[0]
            pair = Pair(ours, swept, run_pyperf(shape))
            found[shape].append(pair)
            if talk:
                print(_pair_line(repeat, shape, pair), flush=True)
    return found


def run_npuscope(shapes: Sequence[str]) -> list[Run]:
    """A fresh process that measures the shapes with default settings: one by profile_single_matmul, more as a sweep."""
    watch, start = LoadWatch(), perf_counter()
    answer = subprocess.run([sys.executable, "-c", _OURS, *shapes], check=True, capture_output=True, text=True)
    seconds, load = perf_counter() - start, watch.load()
    return [Run(middle, mean, seconds / len(shapes), notes, load) for middle, mean, notes in json.loads(answer.stdout)]


def run_pyperf(shape: str) -> Run:
    """The Runner of pyperf with its defaults: 20 processes of 3 values, each a mean over at least 100 ms."""
    import pyperf

    with tempfile.TemporaryDirectory(prefix="npuscope-pyperf-") as scratch:
        output = Path(scratch) / "result.json"
        command = [sys.executable, str(_WORKER), "--quiet", "-o", str(output), "--inherit-environ", _THREADS]
        watch, start = LoadWatch(), perf_counter()
        subprocess.run([*command, "--shape", shape], check=True, capture_output=True)
        seconds, load = perf_counter() - start, watch.load()
        result = pyperf.Benchmark.load(str(output))
    return Run(1e6 * result.median(), 1e6 * result.mean(), seconds, "", load)


def interleave(shape: str, pairs: int = 200) -> list[Figure]:
    """Both ways of timing on the same arrays in one process, in slices of 20 ms by turns.

    A change of the host hits neighbouring slices alike, so that this shows a bias of a loop or of an estimator where
    the runs of whole processes only show the host.
    """
    config = parse_shape(shape)
    executable = NumpyBackend("cpu", BackendOptions()).compile(config)
    inputs = executable.place(*make_inputs(config, seed=0))
    a, b, out = inputs
    step, call = make_step(executable, inputs), partial(np.matmul, a, b, out=out)
    count = max(1, round(_SLICE_NS / median(sample(step, 30))))
    ours: list[list[int]] = []
    theirs: list[float] = []
    watch = LoadWatch()
    for number in range(pairs):
        if number % 2:
            ours.append(sample(step, count))
        theirs.append(_loop_mean_ns(call, count))
        if not number % 2:
            ours.append(sample(step, count))
    load = watch.load()
    loop = [fmean(samples) / mean for samples, mean in zip(ours, theirs, strict=True)]
    middle = [median(samples) / mean for samples, mean in zip(ours, theirs, strict=True)]
    return [
        _ratio(f"{shape}: by turns, mean of npuscope's samples over pyperf's loop", loop, load.quiet),
        _ratio(f"{shape}: by turns, median of npuscope's samples over pyperf's loop", middle, load.quiet),
    ]


def _loop_mean_ns(call: Callable[[], object], count: int) -> float:
    """The loop of pyperf's bench_func: one reading of the clock before, one after."""
    counter = range(count)
    start = perf_counter_ns()
    for _ in counter:
        call()
    return (perf_counter_ns() - start) / count


def figures_of(found: dict[str, list[Pair]]) -> list[Figure]:
    """Per shape the ratio of medians and of seconds, with pyperf against itself."""
    return [figure for shape, pairs in found.items() for figure in _shape_figures(shape, pairs)]


def _shape_figures(shape: str, all_pairs: list[Pair]) -> list[Figure]:
    quiet = [pair for pair in all_pairs if pair.quiet]
    pairs = quiet or all_pairs
    counted = f"{len(quiet)} of {len(all_pairs)} pairs quiet"
    figures = [
        _ratio(f"{shape}: median, npuscope over pyperf ({counted})", [pair.ratio for pair in pairs], bool(quiet)),
        _ratio(f"{shape}: median, npuscope's sweep over pyperf", [pair.sweep_ratio for pair in pairs], bool(quiet)),
    ]
    for name, shares in (
        ("npuscope over pyperf", [pair.npuscope.seconds / pair.pyperf.seconds for pair in pairs]),
        ("the sweep's share over pyperf", [pair.sweep.seconds / pair.pyperf.seconds for pair in pairs]),
    ):
        share = median(shares)
        figures.append(Figure(f"{shape}: seconds, {name}", share, "x", "< 0.5", share < 0.5, spread_text(shares)))
    figures += [
        Figure(f"{shape}: seconds of npuscope", median(pair.npuscope.seconds for pair in pairs), "s"),
        Figure(f"{shape}: seconds of pyperf", median(pair.pyperf.seconds for pair in pairs), "s"),
    ]
    for name, medians in (
        ("pyperf against pyperf", [pair.pyperf.median_us for pair in pairs]),
        ("npuscope against npuscope", [pair.npuscope.median_us for pair in pairs]),
    ):
        apart = [100 * abs(later / earlier - 1) for earlier, later in itertools.pairwise(medians)]
        if apart:
            figures.append(Figure(f"{shape}: {name}, apart by", median(apart), "%", spread=spread_text(apart)))
    return figures


def _ratio(name: str, ratios: list[float], judged: bool) -> Figure:  # private
    ratio = median(ratios)
    met = abs(ratio - 1) <= LIMIT if judged else None
    return Figure(name, ratio, "x", f"1 ± {LIMIT:g}", met, spread_text(ratios, 4))


def wait_until_quiet(limit_s: float) -> None:
    """Return once the host was idle for two seconds, or after `limit_s`."""
    end, idle = perf_counter() + limit_s, 0
    while perf_counter() < end and idle < _IDLE_CHECKS:
        watch = LoadWatch()
        sleep(0.5)
        idle = idle + 1 if watch.load().quiet else 0


def measure(repeats: int = 3, shapes: Sequence[str] = SHAPES, wait_s: float = 60.0) -> list[Figure]:
    """Compare and summarise."""
    by_turns = []
    for shape in shapes:
        wait_until_quiet(wait_s)
        by_turns += interleave(shape)
    return [*by_turns, *figures_of(compare(shapes, repeats, wait_s=wait_s))] if repeats else by_turns


def _pair_line(repeat: int, shape: str, pair: Pair) -> str:
    ours, swept, theirs = pair.npuscope, pair.sweep, pair.pyperf
    busy = max(run.load.foreign_cores + run.load.steal_cores for run in (ours, swept, theirs))
    return (
        f"  {repeat + 1}: {shape:<15} npuscope {ours.median_us:9.1f} µs (mean {ours.mean_us:9.1f}) in "
        f"{ours.seconds:5.1f} s, sweep {swept.median_us:9.1f} µs, pyperf {theirs.median_us:9.1f} µs in "
        f"{theirs.seconds:5.1f} s; ratios {pair.ratio:.3f} {pair.sweep_ratio:.3f}"
        f"{'' if pair.quiet else f'; UNDER LOAD {busy:.2f} cores'}{f'; {ours.warnings}' if ours.warnings else ''}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--shape", action="append", help=f"MxKxN; repeatable; default {' '.join(SHAPES)}")
    parser.add_argument("--threads", type=int, help="BLAS threads of both tools; default: as BLAS chooses")
    parser.add_argument("--wait", type=float, default=60.0, help="seconds to wait for a quiet host before each run")
    arguments = parser.parse_args()
    if arguments.threads:
        os.environ.update(dict.fromkeys(_THREADS.split(","), str(arguments.threads)))
        threadpool_limits(arguments.threads)
    watch = LoadWatch()
    figures = measure(arguments.repeats, tuple(arguments.shape or SHAPES), arguments.wait)
    print_figures("Against pyperf", figures, watch.load())


if __name__ == "__main__":
    main()
