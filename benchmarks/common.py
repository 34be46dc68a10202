"""What every benchmark shares: a figure with its target, the load of the host meanwhile, and the table."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter

import psutil

BUSY_CORES = 0.1
"""Other processes or machines that used more than this many cores make a figure one that was taken under load."""


_VERDICTS = {True: "met", False: "MISSED", None: "not judged, under load"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value."""

    name: str
    value: float
    unit: str
    target: str = ""
    """What the value should be, such as `<= 1`; empty where it only gives context."""
    met: bool | None = None
    """Whether the target is met; None without one, or where the host was too busy to tell."""
    spread: str = ""
    """Interquartile range or the like, in the figure's unit."""


@dataclass(frozen=True, slots=True)
class Load:
    """What other processes did to the host while a benchmark ran."""

    foreign_cores: float
    """Cores that processes outside this one's tree kept busy, on average."""
    steal_cores: float
    """Cores that the hypervisor gave to other machines."""
    cores: int
    load_average: float

    @property
    def quiet(self) -> bool:
        """Nobody else took a noticeable share of a core."""
        return self.foreign_cores <= BUSY_CORES and self.steal_cores <= BUSY_CORES

    @property
    def text(self) -> str:
        """One line for a reader."""
        verdict = "quiet" if self.quiet else "UNDER LOAD"
        return (
            f"{verdict}: other processes kept {self.foreign_cores:.2f} of {self.cores} cores busy, "
            f"stolen {self.steal_cores:.2f}, load average {self.load_average:.2f}"
        )


class LoadWatch:
    """Counts the CPU time of everything but this process and the children that it has waited for."""

    def __init__(self) -> None:
        self._start = _counters()

    def load(self) -> Load:
        """Since this watch was made."""
        wall, busy, own, steal = (now - before for now, before in zip(_counters(), self._start, strict=True))
        wall = max(wall, 1e-9)
        cores = psutil.cpu_count() or 1
        return Load(max(0.0, (busy - own) / wall), steal / wall, cores, os.getloadavg()[0])


def _counters() -> tuple[float, float, float, float]:
    """Seconds: wall clock, busy on all cores, own and waited-for children's, stolen."""
    times = psutil.cpu_times()
    busy = sum(getattr(times, name, 0.0) for name in ("user", "system", "nice", "irq", "softirq"))
    return perf_counter(), busy, sum(os.times()[:4]), getattr(times, "steal", 0.0)


def at_most(name: str, value: float, limit: float, unit: str, spread: str = "") -> Figure:
    """A figure that should not exceed `limit`."""
    return Figure(name, value, unit, f"<= {limit:g}", value <= limit, spread)


def at_least(name: str, value: float, limit: float, unit: str, spread: str = "") -> Figure:
    """A figure that should not fall below `limit`."""
    return Figure(name, value, unit, f">= {limit:g}", value >= limit, spread)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """25 %, 50 % and 75 %."""
    ordered = sorted(values)
    low, high = ordered[: (len(ordered) + 1) // 2], ordered[len(ordered) // 2 :]
    return median(low), median(ordered), median(high)


def spread_text(values: Sequence[float], digits: int = 3) -> str:
    """`low to high`: the interquartile range."""
    low, _, high = quartiles(values)
    return f"{low:.{digits}g} to {high:.{digits}g}"


def run_with_repeats(title: str, measure: Callable[[int], Sequence[Figure]], doc: str | None, repeats: int) -> None:
    """The command line of a benchmark that takes nothing but how often to repeat."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--repeats", type=int, default=repeats)
    arguments = parser.parse_args()
    watch = LoadWatch()
    figures = measure(arguments.repeats)
    print_figures(title, figures, watch.load())


def print_figures(title: str, figures: Sequence[Figure], load: Load) -> None:
    """The figures as a table, then the load under which they were taken."""
    print(f"\n{title}")
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        verdict = "" if not figure.target else f"target {figure.target}: {_VERDICTS[figure.met]}"
        spread = f"({figure.spread})" if figure.spread else ""
        print(f"  {figure.name:<{width}}  {figure.value:>10.4g} {figure.unit:<7} {spread:<22} {verdict}".rstrip())
    print(f"  host {load.text}")
    sys.stdout.flush()


def as_document(figures: Sequence[Figure], load: Load) -> dict[str, object]:
    """For the JSON file."""
    return {"figures": [asdict(figure) for figure in figures], "load": asdict(load) | {"text": load.text}}
