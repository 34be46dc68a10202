"""Length histograms and latencies by length, from CSV files and from short descriptions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from npuscope.errors import FormatError, UsageError, shorten, unknown_name
from npuscope.formats.text_table import TextTable, read_text_table, results_or_file

Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]

MAX_LENGTH = 1 << 24
_LENGTH_COLUMNS = ("length", "actual_N", "batch_seq_actual")
_CURVE_COLUMNS = (("length", "latency_ms"), ("bucket_N", "npu_only_ms"), ("batch_seq_bucket", "npu_only_ms"))


def read_histogram(path: Path) -> Pairs:
    """Lengths and counts from a CSV: columns `length` and `count`, or a list of lengths, one a line, no header.

    Returns:
        Distinct lengths, ascending, int64 [n]; their counts, float64 [n].

    Raises:
        FormatError: Not such a file, or no positive count.
    """
    table = read_text_table(path)
    column = next((name for name in _LENGTH_COLUMNS if name in table.columns), None)
    if column is None and len(table.columns) == 1:
        table, column = read_text_table(path, header=False), "column_1"
    if column is None:
        table.require("length", "count")
        raise AssertionError("unreachable")
    if column == "length" and len(table.columns) > 1:
        table.require("count")  # a misspelt one must not count every length once
    lengths = _lengths(table, column)
    counts = np.array(table.floats("count", minimum=0)) if "count" in table.columns else np.ones(len(lengths))
    distinct, inverse = np.unique(lengths, return_inverse=True)
    weights = np.bincount(inverse, weights=counts).astype(np.float64)
    if not weights.sum() > 0 or not math.isfinite(weights.sum()):
        raise FormatError(path, where="column count", expected="counts with a positive sum", found=f"{weights.sum():g}")
    return distinct[weights > 0], weights[weights > 0]


def read_latency_curve(path: Path) -> Pairs:
    """Latency by length from a CSV or a results folder; several rows of one length count by their median.

    Accepted are columns `length, latency_ms`; those of the public bucket experiments; and a file of matmuls (`M`, `K`,
    `N`, `latency_ms`) in which exactly one dimension varies, which is then the length.

    Raises:
        FormatError: Not such a file.
    """
    table = read_text_table(results_or_file(path)).without_failures()
    for length, latency in _CURVE_COLUMNS:
        if length in table.columns and latency in table.columns:
            return _median_by_length(
                _lengths(table, length), np.array(table.floats(latency, minimum=1e-9, maximum=1e12))
            )
    if all(name in table.columns for name in ("M", "K", "N", "latency_ms")):
        return _median_by_length(*_matmul_curve(table))
    table.require("length", "latency_ms")
    raise AssertionError("unreachable")


def named_distribution(text: str, max_length: int) -> Pairs:
    """Lengths 1 to `max_length` with the probabilities of a named distribution, cut off there.

    `uniform`, `uniform:low=64,high=2048`, `lognormal:median=512,sigma=1`, `geometric:mean=256`.

    Raises:
        UsageError: Unknown name or parameter, or a value out of range.
    """
    name, _, rest = text.partition(":")
    if name not in _DISTRIBUTIONS:
        raise unknown_name("distribution", name, _DISTRIBUTIONS)
    function, defaults = _DISTRIBUTIONS[name]
    parameters = parse_parameters(
        rest, {key: max_length if value is None else value for key, value in defaults.items()}, f"distribution {name}"
    )
    if not 1 <= max_length <= MAX_LENGTH:
        raise UsageError(f"--max-length {max_length} must lie between 1 and {MAX_LENGTH}")
    lengths = np.arange(1, max_length + 1, dtype=np.int64)
    with np.errstate(all="ignore"):
        weights = function(lengths.astype(np.float64), parameters)
    usable = np.isfinite(weights) & (weights > 0)
    if not usable.any():
        raise UsageError(f"distribution {shorten(text)!r} gives no length between 1 and {max_length} any weight")
    return lengths[usable], weights[usable] / weights[usable].sum()


def parse_parameters(text: str, defaults: Mapping[str, float], what: str) -> dict[str, float]:
    """`a=1,b=2` over defaults.

    Raises:
        UsageError: Not of that form, an unknown key, or a value that is no positive number.
    """
    values = dict(defaults)
    for part in filter(None, text.split(",")):
        key, equals, number = part.partition("=")
        if key.strip() not in values:
            raise unknown_name(f"{what} parameter", key.strip(), values)
        try:
            values[key.strip()] = float(number) if equals else math.nan
        except ValueError:
            values[key.strip()] = math.nan
        if not (math.isfinite(values[key.strip()]) and values[key.strip()] >= 0):
            raise UsageError(f"{what}: {shorten(part)!r} must be {key.strip()}=NUMBER with a number of at least 0")
    return values


def _uniform(lengths: npt.NDArray[np.float64], p: Mapping[str, float]) -> npt.NDArray[np.float64]:
    return ((lengths >= p["low"]) & (lengths <= p["high"])).astype(np.float64)


def _lognormal(lengths: npt.NDArray[np.float64], p: Mapping[str, float]) -> npt.NDArray[np.float64]:
    return np.asarray(np.exp(-0.5 * ((np.log(lengths) - math.log(max(p["median"], 1e-9))) / p["sigma"]) ** 2) / lengths)


def _geometric(lengths: npt.NDArray[np.float64], p: Mapping[str, float]) -> npt.NDArray[np.float64]:
    return np.asarray((1 - 1 / max(1.0, p["mean"])) ** (lengths - 1))


_Weigher = Callable[[npt.NDArray[np.float64], Mapping[str, float]], npt.NDArray[np.float64]]
_DISTRIBUTIONS: dict[str, tuple[_Weigher, dict[str, float | None]]] = {
    "uniform": (_uniform, {"low": 1, "high": None}),  # None: the longest length
    "lognormal": (_lognormal, {"median": 512, "sigma": 1}),
    "geometric": (_geometric, {"mean": 256}),
}


def _lengths(table: TextTable, column: str) -> npt.NDArray[np.int64]:
    return np.array(table.integers(column, minimum=1, maximum=MAX_LENGTH), dtype=np.int64)


def _matmul_curve(table: TextTable) -> Pairs:
    dims = {axis: _lengths(table, axis) for axis in ("M", "K", "N")}
    varying = [axis for axis, values in dims.items() if len(np.unique(values)) > 1]
    if len(varying) != 1:
        found = f"{' and '.join(varying)} varying" if varying else "a single shape"
        raise FormatError(
            table.source,
            where="columns M, K, N",
            expected="matmuls in which one dimension varies: the length",
            found=found,
        )
    for name in ("device", "dtype"):
        if name in table.columns and len(set(table.text(name))) > 1:
            raise FormatError(
                table.source,
                where=f"column {name}",
                expected=f"one {name}: latencies of several are no one curve",
                found=", ".join(sorted(set(table.text(name)))),
            )
    return dims[varying[0]], np.array(table.floats("latency_ms", minimum=1e-9, maximum=1e12))


def _median_by_length(lengths: npt.NDArray[np.int64], latency_ms: npt.NDArray[np.float64]) -> Pairs:
    order = np.argsort(lengths, kind="stable")
    distinct, starts = np.unique(lengths[order], return_index=True)
    return distinct, np.array([np.median(part) for part in np.split(latency_ms[order], starts[1:])])
