"""The timed loop, and when a device has warmed up."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter_ns
from typing import Any, Protocol

from npuscope.backends.base import already_finished

Step = Callable[[], object]
"""One execution, back when the device has finished."""


class Runnable(Protocol):
    """Anything compiled that runs on placed inputs."""

    def run(self, inputs: Any, /) -> Any:
        """Start one execution."""
        ...

    def synchronise(self, output: Any, /) -> None:
        """Return only when the device has finished `output`."""
        ...


_WINDOW_NS = 5_000_000
_MIN_WINDOW = 3
_MAX_WINDOW = 200
_STEADY = 0.02


@dataclass(frozen=True, slots=True)
class WarmUp:
    """The runs before steady state."""

    samples_ns: tuple[int, ...]
    steady: bool | None
    """Latency had stopped changing when the warm-up ended; None for a fixed count, where nobody looked."""


def make_step(executable: Runnable, inputs: object) -> Step:
    """Run and synchronise as one call, with as little Python around the device's own as can be."""
    run, synchronise = executable.run, executable.synchronise
    if synchronise is already_finished:
        return partial(run, inputs)

    def step() -> object:
        output = run(inputs)
        synchronise(output)
        return output

    return step


def sample(step: Step, count: int) -> list[int]:
    """Time `count` executions one by one, in ns, with the garbage collector held back."""
    samples = [0] * count
    clock = perf_counter_ns
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for index in range(count):
            start = clock()
            step()
            samples[index] = clock() - start
    finally:
        if was_enabled:
            gc.enable()
    return samples


def warm_up(step: Step, *, first_run_ns: int, max_seconds: float, runs: int | None) -> WarmUp:
    """Run until latency is steady, or exactly `runs` times.

    Steady means that the medians of two windows in a row differ by less than 2 %, or by less than the spread within
    the later one. A window lasts 5 ms or 3 runs, the longer.

    Args:
        step: One execution.
        first_run_ns: How long the first execution took; bounds the first window.
        max_seconds: Give up after this long; `steady` is then False.
        runs: A fixed count in place of the rule.
    """
    if runs is not None:
        return WarmUp(tuple(sample(step, runs)), steady=None)
    samples = sample(step, 1)
    limit_ns = max_seconds * 1e9
    estimate = min(first_run_ns, samples[0])
    previous: list[int] = []
    while sum(samples) < limit_ns:
        window = sample(step, max(_MIN_WINDOW, min(_MAX_WINDOW, _WINDOW_NS // max(1, estimate))))
        samples += window
        estimate = int(median(window))
        if previous and _settled(previous, window):
            return WarmUp(tuple(samples), steady=True)
        previous = window
    slow_but_even = not previous and _settled([first_run_ns], samples)  # one run outlasts the limit
    return WarmUp(tuple(samples), steady=slow_but_even)


def _settled(earlier: list[int], later: list[int]) -> bool:
    before, after = median(earlier), median(later)
    spread = median(abs(value - after) for value in later)
    return abs(after - before) <= max(_STEADY * after, spread)
