"""What npuscope's timed loop adds to each sample, against a bare loop around the same np.matmul call.

Run as `python -m benchmarks.harness_overhead`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import Figure, LoadWatch, at_most, print_figures, spread_text
from npuscope.backends.base import BackendOptions
from npuscope.backends.cpu import NumpyBackend
from npuscope.measure.numerics import make_inputs
from npuscope.measure.sampling import make_step, sample
from npuscope.workloads.matmul import MatmulConfig

TARGET_US = 1.0
Array = npt.NDArray[Any]


def bare_loop(a: Array, b: Array, out: Array, count: int) -> list[int]:
    """The least that times each call: two clock readings around it."""
    samples = [0] * count
    clock = perf_counter_ns
    matmul = np.matmul
    for index in range(count):
        start = clock()
        matmul(a, b, out=out)
        samples[index] = clock() - start
    return samples


def untimed_loop(a: Array, b: Array, out: Array, count: int) -> list[int]:
    """The calls alone, no clock within."""
    matmul = np.matmul
    for _ in range(count):
        matmul(a, b, out=out)
    return []


def measure(config: MatmulConfig = MatmulConfig(8, 8, 8), repeats: int = 1000, count: int = 200) -> list[Figure]:  # noqa: B008  # frozen
    """Overhead per sample, in µs: medians over repeats of differences within a repeat.

    A repeat runs the three loops one after another, in an order that rotates, so that a change of the clock rate or of
    the load hits all of them. The shape is small on purpose: OpenBLAS runs it on the calling thread, and a constant
    overhead shows best on a short call.
    """
    executable = NumpyBackend("cpu", BackendOptions()).compile(config)
    inputs = executable.place(*make_inputs(config, seed=0))
    a, b, out = inputs
    step = make_step(executable, inputs)
    loops: dict[str, Callable[[], list[int]]] = {
        "npuscope": lambda: sample(step, count),
        "bare": lambda: bare_loop(a, b, out, count),
        "untimed": lambda: untimed_loop(a, b, out, count),
    }
    for loop in loops.values():
        loop()
    per_iteration: dict[str, list[float]] = {name: [] for name in loops}
    reported: dict[str, list[float]] = {name: [] for name in loops}
    names = list(loops)
    for repeat in range(repeats):
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            start = perf_counter_ns()
            samples = loops[name]()
            per_iteration[name].append((perf_counter_ns() - start) / count / 1e3)
            if samples:
                reported[name].append(median(samples) / 1e3)
    over_bare = _differences(per_iteration["npuscope"], per_iteration["bare"])
    over_untimed = _differences(per_iteration["npuscope"], per_iteration["untimed"])
    in_sample = _differences(reported["npuscope"], reported["bare"])
    ratio = median(per_iteration["npuscope"]) / median(per_iteration["bare"])
    shape = config.shape_text
    return [
        Figure(f"{shape}: npuscope's loop, wall clock per iteration", median(per_iteration["npuscope"]), "µs"),
        Figure(f"{shape}: bare loop, wall clock per iteration", median(per_iteration["bare"]), "µs"),
        Figure(f"{shape}: untimed loop, wall clock per iteration", median(per_iteration["untimed"]), "µs"),
        at_most("overhead per sample over the bare loop", median(over_bare), TARGET_US, "µs", spread_text(over_bare)),
        Figure("ratio of the two", ratio, "x"),
        Figure("overhead over the untimed loop", median(over_untimed), "µs", spread=spread_text(over_untimed)),
        at_most("of it within the reported latency", median(in_sample), TARGET_US, "µs", spread_text(in_sample)),
    ]


def _differences(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [mine - other for mine, other in zip(ours, theirs, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    arguments = parser.parse_args()
    watch = LoadWatch()
    figures = measure(repeats=arguments.repeats)
    print_figures("Overhead of the timed loop", figures, watch.load())


if __name__ == "__main__":
    main()
