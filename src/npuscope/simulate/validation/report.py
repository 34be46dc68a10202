"""Predictions beside published values: one row per point, worst first, and errors by role and bucket."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from npuscope.errors import NpuscopeError
from npuscope.simulate.arguments import make_values, parse_argument
from npuscope.simulate.neuroncore.devices import MODEL_NAME, SimDevice, load_device
from npuscope.simulate.neuroncore.machine import Run, run_program
from npuscope.simulate.neuroncore.matmul_program import matmul_program
from npuscope.simulate.neuroncore.options import ModelOptions
from npuscope.simulate.neuroncore.program import Program
from npuscope.simulate.nki.loader import load_kernel, trace_kernel
from npuscope.simulate.validation.captures import captured_points, samples_folder
from npuscope.simulate.validation.measures import MEASURES
from npuscope.simulate.validation.points import CHECK, RULE, Point, digest, load_points
from npuscope.workloads.matmul import MatmulConfig

_HERE = Path(__file__).parent
KERNEL_FOLDERS = (_HERE / "kernels", _HERE / "kernels" / "examples", _HERE.parents[3] / "examples" / "nki")
"""Kernels of the package, the examples as a wheel carries them, the examples of a checkout."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One point and what the model predicts for it."""

    point: Point
    unit: str
    predicted: float | None
    """None where the model fails: `failure` says why."""
    error: float | None
    """Signed, relative to the nearer end of what was published."""
    failure: str = ""

    def row(self) -> dict[str, Any]:
        """As a row of a table or an object of JSON."""
        point = self.point
        return {
            "family": point.family,
            "case": point.name,
            "device": point.device,
            "bucket": point.bucket,
            "role": point.role,
            "quantity": point.quantity,
            "unit": self.unit,
            "published_low": point.low,
            "published_high": point.high,
            "predicted": self.predicted,
            "error_percent": None if self.error is None else 100 * self.error,
            "source": point.source,
            "note": point.note,
            "failure": self.failure,
        }


@dataclass(frozen=True, slots=True)
class Errors:
    """Absolute relative errors of some points."""

    role: str
    """`fit`, `check`, or `all`."""
    bucket: str
    """One of `points.BUCKETS`, or `all`."""
    count: int
    median_percent: float
    max_percent: float


@dataclass(frozen=True, slots=True)
class Report:
    """The model against published measurements."""

    model: str
    digest: str
    """Of the constants and the points that the report was made from."""
    comparisons: tuple[Comparison, ...]
    """Worst first."""
    errors: tuple[Errors, ...]

    def of(self, role: str, bucket: str = "all") -> Errors | None:
        """The errors of one role and bucket, if there are such points."""
        return next((line for line in self.errors if (line.role, line.bucket) == (role, bucket)), None)

    def document(self) -> dict[str, Any]:
        """As one object of JSON."""
        return {
            "model": self.model,
            "digest": self.digest,
            "is_simulated": True,
            "rule": RULE,
            "errors": [{field: getattr(line, field) for field in Errors.__slots__} for line in self.errors],
            "points": [comparison.row() for comparison in self.comparisons],
        }


def validate(
    options: ModelOptions | None = None,
    *,
    families: Iterable[str] = (),
    tell: Callable[[str], None] | None = None,
) -> Report:
    """Predict every published point.

    Args:
        options: Assumptions of the model; the shipped ones by default.
        families: Regular expressions of the families to take; all by default.
        tell: Gets a line per point before it is predicted.
    """
    patterns = [re.compile(pattern) for pattern in families]
    options = options or ModelOptions()
    results = []
    for point in load_points():
        if patterns and not any(pattern.search(point.family) for pattern in patterns):
            continue
        if tell is not None:
            tell(f"{point.family}: {point.name}")
        results.append(compare(point, options))
    folder = samples_folder()
    if folder is not None:
        results += [
            Comparison(point, "ns", predicted, point.error(predicted))
            for point, predicted in captured_points(folder)
            if not patterns or any(pattern.search(point.family) for pattern in patterns)
        ]
    _runs_of.cache_clear()
    results.sort(key=lambda result: -abs(result.error) if result.error is not None else float("-inf"))
    return Report(MODEL_NAME, digest(), tuple(results), tuple(_errors(results)))


def compare(point: Point, options: ModelOptions) -> Comparison:
    """One point; a failure of the model is a result too."""
    measure = MEASURES[point.quantity]
    unit = "of 1" if point.relative_to else measure.unit
    try:
        predicted = measure.read(_runs_of(point.kernel, point.arguments, point.shape, *_launch(point), options))
        if point.relative_to:
            predicted /= measure.read(_runs_of(point.kernel, point.relative_to, (), *_launch(point), options))
    except NpuscopeError as error:
        return Comparison(point, unit, None, None, str(error))
    return Comparison(point, unit, predicted, point.error(predicted))


def _launch(point: Point) -> tuple[str, tuple[int, ...], int]:
    return point.device, point.grid, point.lnc


@lru_cache(maxsize=4)
def _runs_of(
    kernel: str,
    arguments: tuple[str, ...],
    shape: tuple[int, ...],
    device_name: str,
    grid: tuple[int, ...],
    lnc: int,
    options: ModelOptions,
) -> tuple[Run, ...]:
    """Schedule a kernel, or the compiler's program of a matmul; one run per physical core."""
    device = load_device(device_name)
    programs = _traced(kernel, arguments, grid, lnc, device) if kernel else (_compiled(shape, device),)
    return tuple(run_program(program, device, options) for program in programs)


def _compiled(shape: Sequence[int], device: SimDevice) -> Program:
    M, K, N = shape
    return matmul_program(MatmulConfig(M, K, N, "bfloat16"), device.sbuf_usable_bytes)


def _traced(
    kernel: str, arguments: Sequence[str], grid: tuple[int, ...], lnc: int, device: SimDevice
) -> tuple[Program, ...]:
    positional, named = make_values([parse_argument(text) for text in arguments], compute=False)
    function = load_kernel(kernel_file(kernel))
    traced = trace_kernel(function, positional, kwargs=named, device=device, grid=grid, lnc=lnc, compute=False)
    return traced.programs


def kernel_file(kernel: str) -> str:
    """`FILE.py:NAME` with the folder in which the file lies."""
    file = kernel.rpartition(":")[0]
    folder = next((folder for folder in KERNEL_FOLDERS if (folder / file).is_file()), KERNEL_FOLDERS[0])
    return str(folder / kernel)


def _errors(results: Sequence[Comparison]) -> Iterable[Errors]:
    """By role and bucket, and over all buckets; points that are exact by counting stand for themselves."""
    groups: dict[tuple[str, str], list[float]] = {}
    for result in results:
        if result.error is None:
            continue
        buckets = [result.point.bucket] if result.point.bucket == "counts" else ["all", result.point.bucket]
        for bucket in buckets:
            groups.setdefault((result.point.role, bucket), []).append(100 * abs(result.error))
    order = sorted(groups, key=lambda key: (key[0] != CHECK, key[1] != "all", key[1]))
    return [Errors(*key, len(groups[key]), median(groups[key]), max(groups[key])) for key in order]
