"""Latencies per shape from a CSV: our results.csv, a foreign file with M, K, N and latency_ms, or a known layout."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from npuscope.errors import FormatError, UsageError, shorten
from npuscope.formats.results import PREDICTED
from npuscope.formats.text_table import LARGEST, TextTable, read_text_table, results_or_file
from npuscope.workloads.matmul import LARGEST_TILE_EDGE, OPERATIONS_LIMIT

Floats = npt.NDArray[np.float64]

_ROLES = ("M", "K", "N", "latency_ms")
_TILE_COLUMNS = ("num_tiles_M", "num_tiles_K", "num_tiles_N")
# Layouts of bucket experiments that go with the public matmul profiler: how their columns read as a matmul.
_LAYOUTS: tuple[tuple[tuple[str, ...], dict[str, str], str], ...] = (
    (
        ("bucket_N", "npu_only_ms"),
        {"M": "128", "K": "128", "N": "bucket_N", "latency_ms": "npu_only_ms"},
        "bucket experiment: read as 128x128xbucket_N; M and K are assumed, the file does not tell them",
    ),
    (
        ("batch_seq_bucket", "hidden_dim", "intermediate_dim", "npu_only_ms"),
        {"M": "batch_seq_bucket", "K": "hidden_dim", "N": "intermediate_dim", "latency_ms": "npu_only_ms"},
        "feed-forward experiment: read as batch_seq_bucket x hidden_dim x intermediate_dim; the latency is of the "
        "whole block, so that rates per FLOP are low by the number of its matmuls",
    ),
)


@dataclass(frozen=True, slots=True)
class LatencyRows:
    """Shapes and their latencies, in file order; float columns hold NaN where the file has nothing."""

    source: Path
    shapes: npt.NDArray[np.int64]
    """[n, 3]: M, K, N."""
    latency_ms: Floats
    ci_low_ms: Floats
    ci_high_ms: Floats
    floor_ms: Floats
    """The dispatch floor that was recorded with the row."""
    group: tuple[str, ...]
    """Device and dtype where the file names them: rows of different groups are not compared."""
    file_tiles: npt.NDArray[np.int64] | None
    """[n, 3]: tile counts as the file has them."""
    skipped: int
    """Rows without a latency: they failed."""
    notes: tuple[str, ...]


def read_latency_csv(path: Path, columns: Mapping[str, str] | None = None) -> LatencyRows:
    """Read a CSV of latencies, or the results.csv of a results folder.

    Args:
        path: The file or folder.
        columns: For other headers: role (`M`, `K`, `N`, `latency_ms`) to a column name or a constant.

    Raises:
        FormatError: A column is missing, or a cell is not what its column holds.
        UsageError: `columns` names an unknown role.
    """
    whole = read_text_table(results_or_file(path))
    mapping, notes = _mapping(whole, columns or {})
    whole.require(mapping["latency_ms"])
    is_predicted = mapping["latency_ms"].startswith(PREDICTED)
    if is_predicted:
        notes.append(f"{mapping['latency_ms']}: predicted device times, not measured latencies")
    table = whole.without_failures(unmeasured=is_predicted)
    recorded = replace(table, columns=()) if is_predicted else table  # intervals and floor are of what was measured
    shapes = np.array([_dimension(table, mapping[role]) for role in ("M", "K", "N")], dtype=np.int64).T
    _check_range(table, shapes)
    tiles = None
    if all(name in table.columns for name in _TILE_COLUMNS):
        tiles = np.array([table.integers(name) for name in _TILE_COLUMNS], dtype=np.int64).T
    return LatencyRows(
        source=table.source,
        shapes=shapes,
        latency_ms=np.array(table.floats(mapping["latency_ms"], minimum=1e-9, maximum=1e12)),
        ci_low_ms=_optional(recorded, "latency_ci_low_ms"),
        ci_high_ms=_optional(recorded, "latency_ci_high_ms"),
        floor_ms=_optional(recorded, "dispatch_floor_ms", minimum=0),
        group=_groups(table),
        file_tiles=tiles,
        skipped=len(whole.rows) - len(table.rows),
        notes=tuple(notes),
    )


def parse_column_mapping(text: str) -> dict[str, str]:
    """`M=128,K=128,N=bucket_N,latency_ms=npu_only_ms` as a mapping.

    Raises:
        UsageError: Not of that form, or an unknown role.
    """
    mapping = {}
    for part in text.split(","):
        role, equals, name = part.partition("=")
        if not equals or role.strip() not in _ROLES or not name.strip():
            raise UsageError(f"--columns {shorten(part)!r}: write role=column with a role of {', '.join(_ROLES)}")
        mapping[role.strip()] = name.strip()
    return mapping


def _mapping(table: TextTable, columns: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    for needed, layout, note in _LAYOUTS:
        if not columns and "latency_ms" not in table.columns and all(name in table.columns for name in needed):
            return dict(layout), [note]
    mapping = {role: columns.get(role, role) for role in _ROLES}
    missing = [name for name in mapping.values() if name not in table.columns and not _is_constant(name)]
    if missing:
        raise FormatError(
            table.source,
            where="header",
            expected=f"column{'s' if len(missing) > 1 else ''} {', '.join(missing)}",
            found=", ".join(table.columns),
            remedy="name them: --columns M=COLUMN,K=COLUMN,N=COLUMN,latency_ms=COLUMN (a number stands for all rows)",
        )
    return mapping, []


def _dimension(table: TextTable, name: str) -> Sequence[int]:
    return (
        [int(name)] * len(table.rows)
        if _is_constant(name) and name not in table.columns
        else table.integers(name, minimum=1)
    )


def _check_range(table: TextTable, shapes: npt.NDArray[np.int64]) -> None:
    large = np.flatnonzero(2 * np.prod(shapes.astype(np.float64) + LARGEST_TILE_EDGE, axis=1) >= OPERATIONS_LIMIT)
    if len(large):
        found = "x".join(str(edge) for edge in shapes[large[0]])
        raise FormatError(
            table.source,
            where=f"row {table.lines[large[0]]}",
            expected="a shape whose operation count fits 62 bits",
            found=found,
        )


def _optional(table: TextTable, name: str, minimum: float = -LARGEST) -> Floats:
    if name not in table.columns:
        return np.full(len(table.rows), math.nan)
    return np.array(table.floats(name, minimum=minimum, optional=True))


def _groups(table: TextTable) -> tuple[str, ...]:
    parts = [table.text(name) for name in ("device", "dtype") if name in table.columns]
    return tuple(" ".join(cells) for cells in zip(*parts, strict=True)) if parts else ("",) * len(table.rows)


def _is_constant(name: str) -> bool:
    return re.fullmatch(r"[1-9][0-9]{0,9}", name) is not None
