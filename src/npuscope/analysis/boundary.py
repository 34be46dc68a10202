"""What crossing a tile boundary costs, and whether that is more than noise and more than the added work."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from npuscope.formats.results import ResultRow
from npuscope.measure.statistics import interval
from npuscope.tiling.model import TENSOR_ENGINE, TileModel
from npuscope.units import format_ns

AXES = ("M", "K", "N")
_NEAR = 0.5  # of a tile edge: a wider step is no look at the boundary
_RESAMPLES = 1000
_MIN_SHARED_ROUNDS = 5
_UNSTEADY = 0.25  # half interval over median

WITHIN_NOISE = "within noise"
AS_WORK = "significant, as much as the added work"
BEYOND_WORK = "significant, beyond the added work"
LESS_THAN_WORK = "significant, less than the added work"
FASTER = "significant, faster"
UNSTEADY = "not judged: one side is unsteady"
UNKNOWN = "not judged: the noise is unknown"
VERDICTS = (WITHIN_NOISE, AS_WORK, BEYOND_WORK, LESS_THAN_WORK, FASTER, UNSTEADY, UNKNOWN)
SIGNIFICANT = (AS_WORK, BEYOND_WORK, LESS_THAN_WORK, FASTER)


@dataclass(frozen=True, slots=True)
class Crossing:
    """Two neighbouring shapes that differ in one dimension and lie on both sides of a tile boundary."""

    axis: str
    """`M`, `K` or `N`."""
    before: int
    """The dimension before the boundary; index `first`."""
    after: int
    first: int
    """Row of the shape before, in the order given."""
    second: int


@dataclass(frozen=True, slots=True)
class BoundaryEffect:
    """One crossing, measured."""

    axis: str
    before: int
    after: int
    shape_before: str
    shape_after: str
    group: str
    """Device and dtype."""
    latency_before_ms: float
    latency_after_ms: float
    delta_ms: float
    """Median over the rounds of the difference within a round; of the medians where they share too few rounds."""
    delta_fraction: float
    """delta_ms over latency_before_ms."""
    delta_low_ms: float
    """95 % interval of the difference."""
    delta_high_ms: float
    work_ms: float
    """The part of the difference that the added work explains: latency above the floor times growth of the work."""
    verdict: str
    """One of `VERDICTS`."""

    @property
    def sentence(self) -> str:
        """`M: crossing 128 -> 136: +1.2 µs (+3.4 %; added work explains +1 µs), within noise`."""
        return crossing_sentence(
            f"{self.axis}: crossing {self.before} -> {self.after}",
            self.delta_ms,
            self.delta_fraction,
            self.work_ms,
            self.verdict,
        )


def judge(delta_low_ms: float, delta_high_ms: float, work_ms: float) -> str:
    """What the interval of a difference says, beside the part that the added work explains."""
    if not (np.isfinite(delta_low_ms) and np.isfinite(delta_high_ms)):
        return UNKNOWN
    if delta_low_ms <= 0 <= delta_high_ms:
        return WITHIN_NOISE
    if delta_high_ms < 0:
        return FASTER
    if delta_low_ms > work_ms:
        return BEYOND_WORK
    return LESS_THAN_WORK if delta_high_ms < work_ms else AS_WORK


def crossing_sentence(what: str, delta_ms: float, delta_fraction: float, work_ms: float, verdict: str) -> str:
    """A crossing in words."""
    delta, work = (("+" if value >= 0 else "-") + format_ns(1e6 * abs(value)) for value in (delta_ms, work_ms))
    return f"{what}: {delta} ({100 * delta_fraction:+.1f} %; added work explains {work}), {verdict}"


def find_crossings(shapes: Sequence[tuple[int, int, int]], groups: Sequence[str], model: TileModel) -> list[Crossing]:
    """Pairs of neighbouring shapes that straddle one tile boundary closely: at most half a tile edge apart."""
    found = []
    for axis, name in enumerate(AXES):
        lines: dict[tuple[object, ...], list[tuple[int, int]]] = defaultdict(list)
        for index, shape in enumerate(shapes):
            others = tuple(edge for position, edge in enumerate(shape) if position != axis)
            line: tuple[object, ...] = (groups[index], *others)
            lines[line].append((shape[axis], index))
        for members in lines.values():
            ordered = sorted(members)
            for (before, first), (after, second) in itertools.pairwise(ordered):
                edge = model.edges[axis]
                crosses = -(-after // edge) - -(-before // edge) == 1
                if crosses and after - before <= _NEAR * edge:
                    found.append(Crossing(name, before, after, first, second))
    return found


def boundary_study(rows: Iterable[ResultRow], model: TileModel = TENSOR_ENGINE) -> list[BoundaryEffect]:
    """Every boundary that measured rows straddle, each with the bootstrap interval of its difference.

    Rows of different devices or dtypes are never compared; failed rows are left out.
    """
    usable = [row for row in rows if row.status == "ok" and row.samples_ns]
    groups = [f"{row.device} {row.dtype}" for row in usable]
    crossings = find_crossings([(row.M, row.K, row.N) for row in usable], groups, model)
    return [_effect(crossing, usable[crossing.first], usable[crossing.second]) for crossing in crossings]


def _effect(crossing: Crossing, first: ResultRow, second: ResultRow) -> BoundaryEffect:
    before_ms, after_ms = first.latency_ms or 0.0, second.latency_ms or 0.0
    delta_ms, low, high = _difference(first, second)
    floor_ms = min(first.dispatch_floor_ms or 0.0, before_ms)
    work_ms = (before_ms - floor_ms) * (second.model_flops / first.model_flops - 1)
    return BoundaryEffect(
        axis=crossing.axis,
        before=crossing.before,
        after=crossing.after,
        shape_before=f"{first.M}x{first.K}x{first.N}",
        shape_after=f"{second.M}x{second.K}x{second.N}",
        group=f"{first.device} {first.dtype}",
        latency_before_ms=before_ms,
        latency_after_ms=after_ms,
        delta_ms=delta_ms,
        delta_fraction=delta_ms / before_ms,
        delta_low_ms=low,
        delta_high_ms=high,
        work_ms=work_ms,
        verdict=UNSTEADY if _unsteady(first) or _unsteady(second) else judge(low, high, work_ms),
    )


def _unsteady(row: ResultRow) -> bool:
    """The row's own interval is too wide for its median to stand for anything."""
    return _half_interval_ms(row) > _UNSTEADY * (row.latency_ms or 0.0)


def _difference(first: ResultRow, second: ResultRow) -> tuple[float, float, float]:
    """The difference of latencies and its 95 % interval, in ms; rounds of the same number are taken together.

    Both shapes were sampled in each round, so that what the machine did in a round falls out of the difference.
    """
    rounds_a, rounds_b = _by_round(first), _by_round(second)
    shared = sorted(set(rounds_a) & set(rounds_b))
    if len(shared) >= _MIN_SHARED_ROUNDS:
        pairs = np.array([np.median(rounds_b[number]) - np.median(rounds_a[number]) for number in shared])
        picked = np.random.default_rng(0).integers(0, len(shared), (_RESAMPLES, len(shared)))
        estimate = float(np.median(pairs))
        low, high = interval(estimate, np.median(pairs[picked], axis=1), len(shared))
        return estimate / 1e6, low / 1e6, high / 1e6
    estimate_ms = (second.latency_ms or 0.0) - (first.latency_ms or 0.0)
    half_ms = float(np.hypot(_half_interval_ms(first), _half_interval_ms(second)))
    return estimate_ms, estimate_ms - half_ms, estimate_ms + half_ms


def _half_interval_ms(row: ResultRow) -> float:
    if row.latency_ci_low_ms is None or row.latency_ci_high_ms is None:
        return float("inf")
    return (row.latency_ci_high_ms - row.latency_ci_low_ms) / 2


def _by_round(row: ResultRow) -> dict[int, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    samples, rounds = np.array(row.samples_ns), np.array(row.sample_round)
    return {int(number): samples[rounds == number] for number in np.unique(rounds)}
