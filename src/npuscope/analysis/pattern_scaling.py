"""How time, slices and compile time of a pattern follow the length of its loop: a fixed part and a part per iteration.

Ordinary least squares over the lengths: value = fixed + per_iteration x iterations. Two lengths always fit; from three on
the residuals tell whether the line holds. Where it does not, the sentence says so, and the line is no prediction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from npuscope.analysis.pattern_ranking import NOISE_SHARE
from npuscope.analysis.pattern_trace import PatternTrace, TraceAnalysis, explain_trace
from npuscope.analysis.pattern_wording import working

RESIDUAL_SHARE: Final = 0.10
"""Of a value; where a residual exceeds it, the line does not hold."""
_MIN_LENGTHS: Final = 2
_MIN_JUDGED: Final = 3
_SHOWN: Final = 6
TIME, SLICES, COMPILE = "time", "slices", "compile time"


@dataclass(frozen=True, slots=True)
class Fit:
    """One quantity against the loop length."""

    quantity: str
    """`time` (of one run), `slices` (of one run) or `compile time`."""
    unit: str
    """`ns`, or '' for a count."""
    iterations: tuple[int, ...]
    """Ascending."""
    values: tuple[float, ...]
    """In the unit, one per length."""
    fixed: float
    per_iteration: float
    r_squared: float | None
    """None with two lengths, or where all values are equal."""
    largest_residual: float
    """Of the value at that length; a fraction."""
    largest_residual_at: int
    """The loop length with that residual."""
    holds: bool | None
    """Whether the line describes the values within `RESIDUAL_SHARE`; None with two lengths, which any line fits."""
    sentence: str

    def at(self, iterations: int) -> float:
        """The line's value at a length."""
        return self.fixed + self.per_iteration * iterations


@dataclass(frozen=True, slots=True)
class PatternScaling:
    """One pattern on one device."""

    pattern: str
    device: str
    is_simulated: bool
    method: str
    iterations: tuple[int, ...]
    fits: tuple[Fit, ...]
    """Empty where there is one length."""
    refused: str
    """Why nothing is fitted; '' where something is."""

    @property
    def name(self) -> str:
        """`loop on sim:trn2`."""
        return f"{self.pattern} on {self.device}"

    def fit(self, quantity: str) -> Fit | None:
        """The fit of one quantity, where there is one."""
        return next((fit for fit in self.fits if fit.quantity == quantity), None)


@dataclass(frozen=True, slots=True)
class ScalingStudy:
    """Every pattern on every device."""

    series: tuple[PatternScaling, ...]
    notes: tuple[str, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        """All that is said, in the order of the series."""
        return tuple(
            line
            for one in self.series
            for line in ([f"{one.name}: {one.refused}"] if one.refused else [fit.sentence for fit in one.fits])
        )

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {"residual_share": RESIDUAL_SHARE, "series": self.series, "notes": self.notes}


def scaling(traces: Sequence[PatternTrace], *, analyses: Sequence[TraceAnalysis] | None = None) -> ScalingStudy:
    """Fit time, slices and compile time against the loop length, per device, kind of time and pattern.

    Args:
        traces: Of any number of patterns, devices and lengths, which differ in nothing else.
        analyses: Of the traces, where they are at hand.
    """
    explained = list(analyses) if analyses is not None else [explain_trace(trace) for trace in traces]
    groups: dict[tuple[str, str, str], list[int]] = {}
    for at, trace in enumerate(traces):
        groups.setdefault((trace.device, trace.method, trace.pattern), []).append(at)
    series = tuple(_series([traces[at] for at in group], [explained[at] for at in group]) for group in groups.values())
    notes = []
    if any(one.method == "measured" for one in series):
        notes.append("compile times are of one compilation each")
    if any(one.is_simulated for one in series):
        notes.append("simulated: no device ran this; times are predictions of a model")
    return ScalingStudy(series, tuple(notes))


def _series(traces: Sequence[PatternTrace], explained: Sequence[TraceAnalysis]) -> PatternScaling:
    first = traces[0]
    order = sorted(range(len(traces)), key=lambda at: traces[at].iterations)
    lengths = [traces[at].iterations for at in order]
    refused, fits = "", []
    if len(set(lengths)) < len(lengths):
        twice = next(length for length in lengths if lengths.count(length) > 1)
        refused = f"several traces of {twice} iterations: give one per length, all else equal"
    elif len(lengths) < _MIN_LENGTHS:
        refused = f"one length ({lengths[0]}): a fit needs {_MIN_LENGTHS}, and {_MIN_JUDGED} to tell whether it holds"
    else:
        for quantity, unit, values in _quantities([traces[at] for at in order], [explained[at] for at in order]):
            known = [(length, value) for length, value in zip(lengths, values, strict=True) if value is not None]
            if len(known) >= _MIN_LENGTHS:
                fits.append(
                    fit_line(quantity, unit, known, name=f"{first.pattern} on {first.device}", method=first.method)
                )
        refused = "" if fits else f"no quantity is known at {_MIN_LENGTHS} lengths"
    return PatternScaling(
        first.pattern, first.device, first.is_simulated, first.method, tuple(lengths), tuple(fits), refused
    )


def _quantities(
    traces: Sequence[PatternTrace], explained: Sequence[TraceAnalysis]
) -> list[tuple[str, str, list[float | None]]]:
    slices = [found.slices_per_run for found in explained]
    compiled = [None if trace.compile_ms is None else 1e6 * trace.compile_ms for trace in traces]
    return [(TIME, "ns", [found.time_ns for found in explained]), (SLICES, "", slices), (COMPILE, "ns", compiled)]


def fit_line(quantity: str, unit: str, points: Sequence[tuple[int, float]], *, name: str = "", method: str = "") -> Fit:
    """Least squares of values against loop lengths.

    Args:
        quantity: What is fitted.
        unit: `ns` or ''.
        points: Length and value, of two different lengths or more, ascending.
        name: What it is of, for the sentence.
        method: `measured` values within noise of one another are not told to grow.
    """
    x, y = np.array([length for length, _ in points], np.float64), np.array([value for _, value in points])
    away = x - x.mean()
    slope = float((away * (y - y.mean())).sum() / (away**2).sum())
    fixed = float(y.mean() - slope * x.mean())
    residual = np.abs(y - (fixed + slope * x))
    # Values that are equal leave rounding errors, which are no residual.
    residual[residual <= 1e-9 * np.abs(y).max(initial=0.0)] = 0.0
    with np.errstate(over="ignore"):  # a residual over a value next to nothing
        share = np.divide(residual, np.abs(y), out=np.where(residual > 0, np.inf, 0.0), where=y != 0)
    worst = int(share.argmax())
    spread = float(((y - y.mean()) ** 2).sum())
    is_judged = len(points) >= _MIN_JUDGED
    r_squared = 1 - float((residual**2).sum()) / spread if is_judged and spread > 0 else None
    holds = bool(share[worst] <= RESIDUAL_SHARE) if is_judged else None
    lengths, values = tuple(int(length) for length in x), tuple(float(value) for value in y)
    made = Fit(quantity, unit, lengths, values, fixed, slope, r_squared, float(share[worst]), lengths[worst], holds, "")
    return Fit(
        **{item: getattr(made, item) for item in made.__dataclass_fields__}
        | {"sentence": _sentence(made, name, method)}
    )


def _sentence(fit: Fit, name: str, method: str) -> str:
    """The line, what it was calculated from, and whether it holds."""
    largest = max(abs(value) for value in fit.values)
    scale, unit = working(largest) if fit.unit else (1.0, "")

    def told(value: float) -> str:
        return f"{value / scale:.4g} {unit}".rstrip()

    sign = "-" if fit.per_iteration < 0 else "+"
    line = f"{told(fit.fixed)} {sign} {told(abs(fit.per_iteration))} per iteration"
    points = list(zip(fit.iterations, fit.values, strict=True))
    shown = points if len(points) <= _SHOWN else [*points[: _SHOWN - 1], points[-1]]
    values = ", ".join(f"{length} iterations {told(value)}" for length, value in shown)
    more = f", {len(points)} lengths in all" if len(shown) < len(points) else ""
    grown = _growth(points)
    text = f"{name}: {fit.quantity} = {line} (calculation: least squares of {values}{more}{grown})"
    return f"{text}; {_judgement(fit, method)}"


def _growth(points: Sequence[tuple[int, float]]) -> str:
    (shortest, low), (longest, high) = points[0], points[-1]
    if low <= 0 or high <= 0:
        return ""
    return f"; {longest / shortest:.4g}x the iterations, {high / low:.4g}x the value"


def _judgement(fit: Fit, method: str) -> str:
    smallest, largest = min(fit.values), max(fit.values)
    if method == "measured" and fit.quantity == TIME and smallest > 0 and largest / smallest <= 1 + NOISE_SHARE:
        return f"no growth beyond noise: all values within {100 * NOISE_SHARE:.0f} % of one another"
    if smallest == largest:
        return "the same at every length"
    if fit.holds is None:
        return f"not judged: two lengths fit any line, {_MIN_JUDGED} would tell"
    quality = "" if fit.r_squared is None else f"R² {fit.r_squared:.4f}, "
    residual = f"{quality}largest residual {_percent(fit.largest_residual)} at {fit.largest_residual_at} iterations"
    if fit.holds:
        return f"the line holds: {residual}"
    return f"THE LINE DOES NOT HOLD: {residual}, more than {100 * RESIDUAL_SHARE:.0f} %"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if math.isfinite(share) and share < 1 else f"{100 * share:.0f} %"
