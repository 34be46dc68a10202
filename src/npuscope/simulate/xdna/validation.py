"""How wrong the XDNA timing model is: every published point predicted, without itself where its set takes part in a fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from npuscope.simulate.xdna.fitting import (
    dram_errors,
    fit_dram,
    fit_kernel,
    fit_stock,
    predicted_us,
    stock_error,
    with_rate,
)
from npuscope.simulate.xdna.points import Point, digest, load_sets, points_of
from npuscope.tiling.xdna_time import Calibration, calibration_for

PUBLISHED_RATE, OWN_RATE, STOCK_FIT, RATE_FIT = (
    "tuned, published kernel rates",
    "tuned, own kernel rates",
    "stock on npu1",
    "kernel rates",
)
CLOCKS_GHZ: Final = {"npu1": (1.0, 1.024, 1.309, 1.6), "npu2": (1.584, 1.8)}
"""At which the published compute rates are tried: the driver's table, and the 1 GHz that the paper names for npu1."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One point and its prediction."""

    group: str
    """What was compared: one of the constants above, or the name of a set that is only checked."""
    array: str
    name: str
    unit: str
    published: float
    predicted: float
    left_out: bool
    """The point took no part in the fit that predicts it, but others of its set did."""

    @property
    def error(self) -> float:
        """Signed, relative."""
        return self.predicted / self.published - 1


@dataclass(frozen=True, slots=True)
class SetErrors:
    """Absolute relative errors of a group on one array."""

    group: str
    array: str
    count: int
    mean: float
    max: float
    left_out: bool


@dataclass(frozen=True, slots=True)
class XdnaReport:
    """The model against published measurements."""

    digest: str
    """Of the calibrations and the points."""
    comparisons: tuple[Comparison, ...]
    """Worst first."""
    errors: tuple[SetErrors, ...]
    """Worst mean first."""
    dram_gb_s: dict[str, float]
    """Fitted to all tuned points of an array, with their published kernel rates."""
    clock_errors: dict[str, dict[float, float]]
    """Mean leave-one-out error by array and by the clock that its measurements would have been made at."""
    stock_dispatch_us: tuple[float, float]
    """Value and 95 % half-width, without memory."""
    stock_gmacs_per_core: tuple[float, float]
    serial_mean_error: float
    """Leave-one-out, of the form dispatch + compute + memory."""
    serial_max_error: float
    serial_dram_gb_s: tuple[float, float]
    """95 % interval of the DRAM rate in that form; infinite where no rate can be excluded, from the low end up."""

    def of(self, group: str, array: str) -> SetErrors:
        """The errors of one group on one array.

        Raises:
            KeyError: No such group.
        """
        for line in self.errors:
            if (line.group, line.array) == (group, array):
                return line
        raise KeyError((group, array))

    def document(self) -> dict[str, Any]:
        """As one object of JSON."""
        return {
            "digest": self.digest,
            "is_simulated": True,
            "errors": [{field: getattr(line, field) for field in SetErrors.__slots__} for line in self.errors],
            "points": [
                {
                    "group": item.group,
                    "array": item.array,
                    "name": item.name,
                    "unit": item.unit,
                    "published": item.published,
                    "predicted": item.predicted,
                    "left_out": item.left_out,
                    "error": item.error,
                }
                for item in self.comparisons
            ],
        }


def validate_xdna() -> XdnaReport:
    """Predict every published point; some tens of milliseconds."""
    comparisons = [*_tuned(), *_kernel_rates(), *_stock(), *_checks()]
    comparisons.sort(key=lambda item: -abs(item.error))
    dispatch, per_mac = _stock_values(points_of("stock"))
    serial = [abs(error) for error in _stock_errors(points_of("stock"), with_memory=True)]
    return XdnaReport(
        digest=digest(),
        comparisons=tuple(comparisons),
        errors=tuple(_errors(comparisons)),
        dram_gb_s={array: fit_dram(*_with_rates(array)) for array in CLOCKS_GHZ},
        clock_errors={
            array: {clock: _clock_error(array, clock) for clock in clocks} for array, clocks in CLOCKS_GHZ.items()
        },
        stock_dispatch_us=dispatch,
        stock_gmacs_per_core=(1e3 / per_mac[0], 1e3 * per_mac[1] / per_mac[0] ** 2),
        serial_mean_error=sum(serial) / len(serial),
        serial_max_error=max(serial),
        serial_dram_gb_s=_serial_dram(),
    )


def _tuned() -> Iterable[Comparison]:
    """The published points of tuned kernels, DRAM's rate from the others: with published kernel rates, and with ours."""
    for array in CLOCKS_GHZ:
        points, known = _with_rates(array)
        for index, point in enumerate(points):
            others = [*points[:index], *points[index + 1 :]]
            for group in (PUBLISHED_RATE, OWN_RATE):
                calibration = known[index]
                if group == OWN_RATE:
                    calibration = with_rate(calibration, point, fit_kernel(_rated_like(point)))
                dram = fit_dram(others, [*known[:index], *known[index + 1 :]])
                predicted = predicted_us(point, replace(calibration, dram_gb_s=dram))
                yield _comparison(group, point, predicted, left_out=True)


def _with_rates(array: str) -> tuple[list[Point], list[Calibration]]:
    points = [point for point in points_of("tuned") if point.array == array]
    return points, [with_rate(calibration_for(array, "tuned"), point) for point in points]


def _rated_like(point: Point) -> list[Point]:
    """All points with the array and the types of one, but not itself: what its kernel's rate is fitted to."""
    rated = (*points_of("tuned"), *points_of("rate"))
    key = (point.array, point.dtype, point.out_dtype)
    return [item for item in rated if (item.array, item.dtype, item.out_dtype) == key and item is not point]


def _clock_error(array: str, clock_ghz: float) -> float:
    """Mean leave-one-out error if the measurements had been made at some clock."""
    points, known = _with_rates(array)
    errors = np.stack([dram_errors(*pair, clock_ghz) for pair in zip(points, known, strict=True)])
    costs = (errors**2).sum(axis=0) - errors**2
    return float(np.abs(errors[np.arange(len(points)), costs.argmin(axis=1)]).mean())


def _kernel_rates() -> Iterable[Comparison]:
    for point in (*points_of("tuned"), *points_of("rate")):
        yield _rate(RATE_FIT, point, fit_kernel(_rated_like(point)).macs_per_cycle(*point.tile), left_out=True)
    for point in points_of("check-rate"):
        kernel = calibration_for(point.array, "stock").kernel(point.dtype, point.out_dtype)
        yield _rate(point.set_name, point, kernel.macs_per_cycle(*point.tile), left_out=False)


def _rate(group: str, point: Point, predicted: float, *, left_out: bool) -> Comparison:
    return Comparison(group, point.array, point.name, "MAC/cycle", point.rate or 0.0, predicted, left_out)


def _stock() -> Iterable[Comparison]:
    points = points_of("stock")
    for point, error in zip(points, _stock_errors(points, with_memory=False), strict=True):
        yield _comparison(STOCK_FIT, point, (point.measured_us or 0.0) * (1 + error), left_out=True)


def _stock_errors(points: Sequence[Point], *, with_memory: bool) -> list[float]:
    """Of each point, by a fit to the others."""
    errors = []
    for index, point in enumerate(points):
        values, _ = fit_stock([*points[:index], *points[index + 1 :]], with_memory=with_memory)
        errors.append(stock_error(point, values, with_memory=with_memory))
    return errors


def _stock_values(points: Sequence[Point]) -> tuple[tuple[float, float], tuple[float, float]]:
    values, widths = fit_stock(points)
    return (float(values[0]), float(widths[0])), (float(values[1]), float(widths[1]))


def _serial_dram() -> tuple[float, float]:
    """GB/s that the serial form allows: an interval of the reciprocal that reaches zero bounds it from below only."""
    values, widths = fit_stock(points_of("stock"), with_memory=True)
    low, high = values[2] - widths[2], values[2] + widths[2]
    return (1e3 / high if high > 0 else float("inf"), 1e3 / low if low > 0 else float("inf"))


def _checks() -> Iterable[Comparison]:
    """Points that no fit saw as a set, by the calibrations as they are."""
    for point in points_of("check"):
        calibration = calibration_for(point.array, "stock")
        yield _comparison(point.set_name, point, predicted_us(point, calibration), left_out=False)


def _comparison(group: str, point: Point, predicted: float, *, left_out: bool) -> Comparison:
    return Comparison(group, point.array, point.name, "µs", point.measured_us or 0.0, predicted, left_out)


def _errors(comparisons: Sequence[Comparison]) -> list[SetErrors]:
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for item in comparisons:
        groups.setdefault((item.group, item.array), []).append(item)
    lines = []
    for (group, array), items in groups.items():
        errors = [abs(item.error) for item in items]
        lines.append(SetErrors(group, array, len(errors), sum(errors) / len(errors), max(errors), items[0].left_out))
    return sorted(lines, key=lambda line: -line.mean)


def calibration_errors(report: XdnaReport, array: str, name: str) -> tuple[int, float, float]:
    """Points, mean and largest error of what a user of one calibration gets: of whole designs, the kernel's rate by our formula.

    For stock kernels these are all published designs that use them, the checked ones too.
    """
    others = {found.name for found in load_sets() if found.use == "check" and not found.is_other_kernel}
    groups = {OWN_RATE} if name == "tuned" else {STOCK_FIT, *others}
    errors = [abs(item.error) for item in report.comparisons if item.array == array and item.group in groups]
    return len(errors), sum(errors) / len(errors), max(errors)
