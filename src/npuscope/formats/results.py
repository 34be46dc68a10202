"""The results of a matmul sweep on disk: results.csv, results.parquet.

`results.csv` begins with the columns of the public matmul profiler's CSVs, so that their readers keep working.
`results.parquet` has the same columns and, per row, every sample. Where device times were predicted too, their columns
follow in both: `predicted_trn2_device_time_ms` and so on.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from npuscope._files import replaced_atomically
from npuscope.errors import FormatError

CSV_NAME = "results.csv"
PARQUET_NAME = "results.parquet"
PREDICTED = "predicted_"
"""Start of the name of each column that was not measured."""
UNMEASURED = "not-measured"
"""Status of a row that holds predictions alone."""
_INT64 = 1 << 63
PredictedColumns = Mapping[str, Sequence[float | str]]
"""Predicted columns by name: one value per row, texts or numbers."""
_SAMPLE_FIELDS = ("samples_ns", "sample_round", "warmup_ns", "floor_samples_ns")


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One matmul on one device; a field that does not apply is None. Latencies are medians of the steady state."""

    M: int
    K: int
    N: int
    latency_ms: float | None
    """Median of one execution in steady state; None where the row failed."""
    num_tiles_M: int
    num_tiles_K: int
    num_tiles_N: int
    total_tiles: int
    device: str
    """What ran it; no row ever holds a figure from another device."""
    is_simulated: bool
    status: str
    """`ok`, `failed`, or `not-measured` where only a prediction was asked for."""
    dtype: str
    compute_dtype: str = ""
    """What the device multiplies in, as far as it tells."""
    out_dtype: str = ""
    name: str = ""
    error: str = ""
    """Why the row failed."""
    latency_ci_low_ms: float | None = None
    latency_ci_high_ms: float | None = None
    latency_mean_ms: float | None = None
    latency_stdev_ms: float | None = None
    latency_min_ms: float | None = None
    latency_p05_ms: float | None = None
    latency_p25_ms: float | None = None
    latency_p75_ms: float | None = None
    latency_p95_ms: float | None = None
    latency_p99_ms: float | None = None
    latency_max_ms: float | None = None
    samples: int = 0
    rounds: int = 0
    compile_ms: float | None = None
    """None where nothing is compiled."""
    compile_cache: str = ""
    """`hit` or `miss` as the framework counted, `disabled`, `uncounted` or `not-compiled`."""
    first_run_ms: float | None = None
    warmup_runs: int = 0
    warmup_steady: bool | None = None
    """None where the count was fixed."""
    rewarm_runs: int = 0
    """Runs that were not counted at the start of chunks, after another workload had run."""
    other_cores_busy: float | None = None
    """Cores that other processes kept busy on average while the block of this row was sampled."""
    dispatch_floor_ms: float | None = None
    """Median of a 1x1x1 matmul on the same path, interleaved with this row."""
    dispatch_share: float | None = None
    """The floor over the latency, at most 1."""
    includes_transfers: bool = False
    """Each execution also moves A and B to the device and C back."""
    model_flops: int = 0
    gflop_per_s: float | None = None
    operand_bytes: int = 0
    tile_model: str = ""
    tile_array_utilisation: float | None = None
    """Model FLOPs over what the tile model's grid spends."""
    max_abs_error: float | None = None
    error_over_mass: float | None = None
    tolerance_over_mass: float | None = None
    check_method: str = ""
    warnings: str = ""
    """Codes, separated by `;`."""
    warning_details: str = ""
    """One sentence per code with the next command to run, separated by ` | `."""
    sessions: int = 1
    """Processes that took the samples: more than 1 after a resume."""
    seed: int = 0
    measured_at: str = ""
    samples_ns: tuple[int, ...] = field(default=(), repr=False)
    sample_round: tuple[int, ...] = field(default=(), repr=False)
    warmup_ns: tuple[int, ...] = field(default=(), repr=False)
    floor_samples_ns: tuple[int, ...] = field(default=(), repr=False)

    def summary(self) -> dict[str, Any]:
        """Every column but the samples."""
        return {key: value for key, value in asdict(self).items() if key not in _SAMPLE_FIELDS}


CSV_COLUMNS = tuple(item.name for item in fields(ResultRow) if item.name not in _SAMPLE_FIELDS)


def format_csv_line(values: Iterable[object]) -> str:
    """One CSV line; None is empty, floats keep every digit, and no text starts a spreadsheet formula."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([_cell(value) for value in values])
    return buffer.getvalue()


def csv_line(row: ResultRow, predicted: Iterable[object] = ()) -> str:
    """One row as a line of results.csv, with the values of its predicted columns."""
    return format_csv_line([*(getattr(row, name) for name in CSV_COLUMNS), *predicted])


def csv_text(rows: Sequence[ResultRow], predicted: PredictedColumns | None = None) -> str:
    """results.csv as a whole; predicted columns hold one value per row."""
    columns = predicted or {}
    values = zip(*columns.values(), strict=True) if columns else [()] * len(rows)
    lines = (csv_line(row, cells) for row, cells in zip(rows, values, strict=True))
    return format_csv_line([*CSV_COLUMNS, *columns]) + "".join(lines)


def write_parquet(path: Path, rows: Sequence[ResultRow], predicted: PredictedColumns | None = None) -> None:
    """Write results.parquet atomically: the old file, if any, stays until the new one is whole."""
    import pyarrow.parquet as pq

    with replaced_atomically(path) as file:
        pq.write_table(to_arrow(rows, predicted), file, compression="zstd")


def to_arrow(rows: Sequence[ResultRow], predicted: PredictedColumns | None = None) -> Any:
    """The rows as an Arrow table with the types of `ResultRow`, then the predicted columns."""
    import pyarrow as pa

    types = {"int": pa.int64(), "float": pa.float64(), "str": pa.string(), "bool": pa.bool_()}
    columns = []
    for item in fields(ResultRow):
        kind = str(item.type).replace(" | None", "")
        columns.append((item.name, pa.list_(pa.int64()) if kind.startswith("tuple") else types[kind]))
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=pa.schema(columns))
    for name, values in (predicted or {}).items():
        kind = pa.string() if any(isinstance(value, str) for value in values) else pa.float64()
        table = table.append_column(name, pa.array(values, kind))
    return table


def read_parquet(path: Path) -> list[ResultRow]:
    """Read results.parquet back.

    Raises:
        FormatError: Not a Parquet file, or without the columns of `ResultRow`.
    """
    from npuscope.formats import parquet_file

    return [row_from_mapping(record, path) for record in parquet_file.read_parquet(path).to_pylist()]


def row_from_mapping(record: Mapping[str, Any], source: object) -> ResultRow:
    """A row from named values; unknown names are left out, lists become tuples.

    Raises:
        FormatError: A column without a default is missing, or a value is not of its column's type.
    """
    values: dict[str, Any] = {}
    for item in fields(ResultRow):
        if item.name in record:
            value = record[item.name]
            if not _fits(value, str(item.type)):
                raise FormatError(source, where=f"column {item.name}", expected=str(item.type), found=repr(value))
            values[item.name] = tuple(value) if isinstance(value, list) else value
    try:
        row = ResultRow(**values)
    except TypeError as error:
        raise FormatError(source, expected="the columns of a results file", found=str(error)) from error
    known = {"ok", "failed", UNMEASURED}
    if row.status not in known or (row.status == "ok") != (row.latency_ms is not None):
        found = f"status {row.status!r} with latency_ms {row.latency_ms}"
        raise FormatError(source, where="column status", expected="ok with a latency, or another without", found=found)
    return row


def _fits(value: object, kind: str) -> bool:
    """Whether a value is of a field's annotated type."""
    if value is None:
        return kind.endswith("| None")
    if kind.startswith("tuple"):
        return isinstance(value, list | tuple) and all(_is_count(entry) and entry >= 0 for entry in value)
    base = kind.removesuffix(" | None")
    if base == "float":
        return isinstance(value, float) or _is_count(value)
    return _is_count(value) if base == "int" else type(value).__name__ == base


def _is_count(value: object) -> bool:
    """A whole number that an int64 column holds."""
    return type(value) is int and -_INT64 <= value < _INT64


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        return "'" + value
    return value
