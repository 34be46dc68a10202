"""Two or more folders of measured latencies: same shapes, ratio of medians with an interval that knows about rounds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from npuscope.errors import ComparisonError, FormatError, UsageError, shorten
from npuscope.formats.results import PARQUET_NAME, ResultRow, read_parquet
from npuscope.measure.session import RUN_NAME
from npuscope.measure.statistics import MIN_INTERVAL_ROUNDS, bootstrap_medians, interval

_RESAMPLES = 2000
_DISPATCH = 0.5
_METHOD = ("is_simulated", "includes_transfers", "compute_dtype", "out_dtype")


@dataclass(frozen=True, slots=True)
class RatioRow:
    """One workload in the baseline and in another folder."""

    source: str
    shape: str
    dtype: str
    before_ms: float
    after_ms: float
    ratio: float
    """After over before."""
    ratio_low: float
    """95 % bootstrap interval over rounds; NaN with fewer than three rounds on a side."""
    ratio_high: float
    change_ms: float
    verdict: str
    """`faster`, `slower`, `within noise`, or `not judged`."""
    remark: str


@dataclass(frozen=True, slots=True)
class ResultsComparison:
    """Folders of `npuscope matmul`; the first is the baseline."""

    kind: str
    baseline: str
    sources: tuple[str, ...]
    devices: tuple[str, ...]
    rows: tuple[RatioRow, ...]
    """Largest change in time first."""
    geometric_mean_ratio: float | None
    """Of the judged rows; None where there is none."""
    only_in_one: tuple[str, ...]
    """Workloads that another folder lacks."""
    notes: tuple[str, ...]


def compare_results(folders: Sequence[Path], *, across_devices: bool = False) -> ResultsComparison:
    """Compare folders of results with the first of them.

    Raises:
        ComparisonError: Other devices, another method, no workload in common, or too few rounds in every row.
        FormatError: A folder cannot be read.
        UsageError: Fewer than two.
    """
    if len(folders) < 2:
        raise UsageError("a comparison needs two results folders or more")
    loaded = [_rows(folder) for folder in folders]
    devices = tuple(_device(folder, rows) for folder, rows in zip(folders, loaded, strict=True))
    rows: list[RatioRow] = []
    alone: list[str] = []
    notes: list[str] = []
    for folder, device, other in zip(folders[1:], devices[1:], loaded[1:], strict=True):
        names = f"{folders[0]} and {folder}"
        if device != devices[0]:
            if not across_devices:
                raise ComparisonError(
                    f"{names} are not comparable: {devices[0]} against {device}; --across-devices compares them"
                )
            notes.append(f"DIFFERENT DEVICES: {devices[0]} against {device}")
        common = [key for key in loaded[0] if key in other]
        if not common:
            raise ComparisonError(f"{names} are not comparable: they have no shape and type in common")
        for key in common:
            _require_method(names, key, loaded[0][key], other[key])
        alone += [f"{key[0]} {key[1]}: {place}" for key, place in _missing(loaded[0], other, folders[0], folder)]
        rows += [_ratio(str(folder), key, loaded[0][key], other[key]) for key in common]
    judged = [row.ratio for row in rows if row.verdict != "not judged"]
    if not judged:
        raise ComparisonError(
            f"no row of {folders[0]} has {MIN_INTERVAL_ROUNDS} rounds on both sides: too few runs to compare; measure with more "
            "--iterations"
        )
    return ResultsComparison(
        kind="results",
        baseline=str(folders[0]),
        sources=tuple(str(folder) for folder in folders),
        devices=devices,
        rows=tuple(sorted(rows, key=lambda row: -abs(row.change_ms))),
        geometric_mean_ratio=float(np.exp(np.mean(np.log(judged)))),
        only_in_one=tuple(alone),
        notes=tuple(notes),
    )


Key = tuple[str, str]


def _rows(folder: Path) -> dict[Key, ResultRow]:
    """The rows that did not fail, by shape and type."""
    rows = read_parquet(folder / PARQUET_NAME)
    return {(f"{row.M}x{row.K}x{row.N}", row.dtype): row for row in rows if row.status == "ok" and row.samples_ns}


def _device(folder: Path, rows: dict[Key, ResultRow]) -> str:
    """The device of the rows and, from run.json, what it was in words."""
    names = sorted({row.device for row in rows.values()})
    path = folder / RUN_NAME
    description = ""
    if path.is_file():
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            description = str(document.get("device", {}).get("description", ""))
        except (OSError, ValueError, AttributeError) as error:
            raise FormatError(path, expected="the run.json of a sweep", found=shorten(str(error))) from error
    name = ", ".join(names) or "no measured row"
    return f"{name} ({description})" if description else name


def _require_method(names: str, key: Key, left: ResultRow, right: ResultRow) -> None:
    for field in _METHOD:
        before, after = getattr(left, field), getattr(right, field)
        if before != after:
            raise ComparisonError(f"{names} are not comparable: {key[0]} {key[1]} has {field} {before} against {after}")


def _missing(
    left: dict[Key, ResultRow], right: dict[Key, ResultRow], first: Path, second: Path
) -> list[tuple[Key, str]]:
    return [(key, f"only in {first}") for key in left if key not in right] + [
        (key, f"only in {second}") for key in right if key not in left
    ]


def _ratio(source: str, key: Key, left: ResultRow, right: ResultRow) -> RatioRow:
    before, after = _resampled(left, 0), _resampled(right, 1)
    medians = [float(np.median(row.samples_ns)) for row in (left, right)]
    ratio = medians[1] / medians[0] if medians[0] else float("nan")
    size = min(len(before), len(after))
    spread = after[:size] / np.maximum(before[:size], 1e-9)
    low, high = interval(ratio, spread, min(_rounds(left), _rounds(right)))
    verdict = "not judged"
    if np.isfinite(low):
        verdict = "faster" if high < 1 else "slower" if low > 1 else "within noise"
    remarks = [f"fewer than {MIN_INTERVAL_ROUNDS} rounds"] if verdict == "not judged" else []
    if min(row.dispatch_share or 0.0 for row in (left, right)) >= _DISPATCH:
        remarks.append("mostly dispatch: says little of the matmul")
    codes = sorted({code for row in (left, right) for code in row.warnings.split(";") if code})
    remarks += [f"measured with warnings: {', '.join(codes)}"] if codes else []
    return RatioRow(
        source=source,
        shape=key[0],
        dtype=key[1],
        before_ms=medians[0] / 1e6,
        after_ms=medians[1] / 1e6,
        ratio=ratio,
        ratio_low=low,
        ratio_high=high,
        change_ms=(medians[1] - medians[0]) / 1e6,
        verdict=verdict,
        remark="; ".join(remarks),
    )


def _rounds(row: ResultRow) -> int:
    return len(set(row.sample_round)) if row.sample_round else 1


def _resampled(row: ResultRow, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    samples = np.array(row.samples_ns, np.int64)
    numbers = np.array(row.sample_round or (0,) * len(samples), np.int64)
    rounds = np.split(samples, np.flatnonzero(np.diff(numbers)) + 1)
    return bootstrap_medians(rounds, resamples=_RESAMPLES, seed=seed)
