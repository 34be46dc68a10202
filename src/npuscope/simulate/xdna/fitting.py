"""Fits of the XDNA timing model's few numbers: kernel rates, DRAM rate, dispatch; each by least relative squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np

from npuscope.hardware.model import load_xdna
from npuscope.simulate.xdna.points import Point
from npuscope.tiling.xdna_time import Calibration, Kernel, calibration_for, dispatch_time

_PEAKS: Final = {("npu1", "int8"): 256, ("npu1", "bfloat16"): 128, ("npu2", "int8"): 512, ("npu2", "bfloat16"): 256}
"""Multiplications per cycle of one core that no fit may exceed: arXiv:2512.13282; for bfloat16 on XDNA2 half of int8's."""
DRAM_GB_S: Final = np.arange(8.0, 110.0, 0.1)
"""Rates that are tried."""


def fit_kernel(points: Sequence[Point]) -> Kernel:
    """Cycles per multiplication and per element of C from the rates of one array and pair of types.

    1 / rate = per_mac + per_element / k, with 1 / per_mac no more than the core's peak.
    """
    peak = _PEAKS[points[0].array, points[0].dtype]
    rates = np.array([point.rate for point in points], np.float64)
    columns = np.stack([rates, rates / np.array([point.tile[1] for point in points])], axis=1)
    per_mac, per_element = np.linalg.lstsq(columns, np.ones(len(rates)), rcond=None)[0].tolist()
    if len(points) < 2 or per_mac < 1 / peak:
        per_mac = 1 / peak
        left, over_k = 1 - rates * per_mac, columns[:, 1]
        per_element = float(left @ over_k / (over_k @ over_k))
    return Kernel(per_mac, per_element, 0.0, len(points), "fitted")


def with_rate(calibration: Calibration, point: Point, kernel: Kernel | None = None) -> Calibration:
    """The calibration with another kernel for a point's types: one with its published rate if none is given."""
    if kernel is None:
        if point.rate is None:
            raise ValueError(point.name)
        kernel = Kernel(1 / point.rate, 0.0, 0.0, 1, point.source)
    key = f"{point.dtype}-{point.out_dtype}"
    return replace(calibration, kernels=MappingProxyType({**calibration.kernels, key: kernel}))


def predicted_us(point: Point, calibration: Calibration) -> float:
    """What the model says for a point."""
    return dispatch_time(point.design, load_xdna(point.array), calibration, point.clock_ghz).total_us


def fit_dram(points: Sequence[Point], calibrations: Sequence[Calibration], clock_ghz: float | None = None) -> float:
    """GB/s of the whole array that fit some points best, each with its own calibration, at the clock of that or another one."""
    costs = np.zeros(len(DRAM_GB_S))
    for point, calibration in zip(points, calibrations, strict=True):
        costs += dram_errors(point, calibration, clock_ghz) ** 2
    return float(DRAM_GB_S[int(np.argmin(costs))])


def dram_errors(point: Point, calibration: Calibration, clock_ghz: float | None = None) -> np.ndarray:
    """Signed relative errors of a whole-array point at each of `DRAM_GB_S`: the model is linear in its reciprocal.

    A clock other than the calibration's changes compute; the rate of DRAM is what is fitted, so it stays as it is tried.
    """
    clock = calibration.clock_ghz if clock_ghz is None else clock_ghz
    base = dispatch_time(point.design, load_xdna(point.array), calibration, clock)
    at_clock = base.dram_us * calibration.dram_gb_s * clock / calibration.clock_ghz
    inside = max(base.compute_us, base.stream_us) + base.drain_us
    total = base.overhead_us + np.maximum(inside, at_clock / DRAM_GB_S)
    return np.asarray(total / _measured(point) - 1)


def fit_stock(points: Sequence[Point], *, with_memory: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Dispatch in us, us per 1e6 multiplications of a core and, if asked for, us per MB of DRAM traffic: values and 95 % half-widths.

    The form is serial where memory is in it, and that of compute-bound overlap where it is not.
    """
    rows = [_stock_row(point, with_memory=with_memory) for point in points]
    measured = np.array([_measured(point) for point in points])
    matrix = np.array(rows) / measured[:, None]
    values = np.linalg.lstsq(matrix, np.ones(len(points)), rcond=None)[0]
    left = 1 - matrix @ values
    freedom = max(1, len(points) - matrix.shape[1])
    variance = float(left @ left) / freedom * np.linalg.pinv(matrix.T @ matrix)
    return values, _T95[freedom] * np.sqrt(np.diag(variance))


_T95: Final = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45}
"""Two-sided 95 % quantiles of Student's t by degrees of freedom."""


def stock_error(point: Point, values: np.ndarray, *, with_memory: bool = False) -> float:
    """Signed relative error of a point under `fit_stock`'s values."""
    return float(np.array(_stock_row(point, with_memory=with_memory)) @ values / _measured(point) - 1)


def _stock_row(point: Point, *, with_memory: bool) -> list[float]:
    design = point.design
    time = dispatch_time(design, load_xdna(point.array), calibration_for(point.array, "stock"))
    row = [1.0, design.macs / design.cores / 1e6]
    return [*row, time.dram_bytes / 1e6] if with_memory else row


def _measured(point: Point) -> float:
    if point.measured_us is None:
        raise ValueError(point.name)
    return point.measured_us
