"""Terminal tables and sentences; every figure is one that a function returned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from npuscope.analysis.boundary import BoundaryEffect, crossing_sentence
from npuscope.analysis.buckets import BucketPlan, PaddingRow
from npuscope.analysis.tiling_study import TilingStudy
from npuscope.errors import shorten
from npuscope.formats.results import UNMEASURED, PredictedColumns, ResultRow
from npuscope.report.grid import Grid, table
from npuscope.report.page import interval_text, summarise_warnings
from npuscope.report.predictions import prediction_cells, prediction_headings
from npuscope.units import format_bytes, format_ns, format_percent, format_rate

_MAX_ROWS = 60


def matmul_table(rows: Sequence[ResultRow], predicted: PredictedColumns | None = None) -> Grid:
    """Latencies of a sweep, and predictions per row, where there are any; rows without either have no such columns."""
    columns = predicted or {}
    named = any(row.name for row in rows)
    measured = any(row.status != UNMEASURED for row in rows)
    headings = [*(["<name"] if named else []), "M", "K", "N", "<dtype", "tiles"]
    headings += ["latency", "± 95 %", "floor"] if measured else []
    headings += prediction_headings(columns)
    headings += ["rate", "compile", "first run", "err/mass", "<notes"] if measured else []
    shown = rows if measured else rows[:_MAX_ROWS]
    cells = (
        [*_shape_cells(row, named), *latency[:3], *prediction_cells(columns, index), *latency[3:]]
        for index, row in enumerate(shown)
        for latency in [_latency_cells(row) if measured else []]
    )
    title = f"first {len(shown)} of {len(rows)} rows; results.csv has all" if len(shown) < len(rows) else None
    return table(headings, cells, title)


def _shape_cells(row: ResultRow, named: bool) -> list[str]:
    tiles = f"{row.total_tiles} ({row.num_tiles_M}·{row.num_tiles_K}·{row.num_tiles_N})"
    return [*([row.name] if named else []), str(row.M), str(row.K), str(row.N), row.dtype, tiles]


def _latency_cells(row: ResultRow) -> list[str]:
    if row.latency_ms is None:
        return ["failed", "", "", "", "", "", "", shorten(row.error, 70)]
    return [
        format_ns(1e6 * row.latency_ms),
        interval_text(row),
        "-" if row.dispatch_share is None else format_percent(row.dispatch_share, 0),
        format_rate(1e9 * (row.gflop_per_s or 0.0), "FLOP/s"),
        "-" if row.compile_ms is None else format_ns(1e6 * row.compile_ms),
        "-" if row.first_run_ms is None else format_ns(1e6 * row.first_run_ms),
        "-" if row.error_over_mass is None else f"{row.error_over_mass:.0e}",
        row.warnings.replace(";", ", "),
    ]


def warning_lines(rows: Sequence[ResultRow]) -> list[str]:
    """Two lines per kind of warning: how often and the first sentence, then the next command."""
    lines = []
    for code, (count, detail) in summarise_warnings(rows).items():
        sentence, _, command = detail.partition("; next: ")
        lines += [f"warning: {code} ({count} row{'s' if count > 1 else ''}): {sentence}", f"  next: {command}"]
    return lines


def boundary_lines(effects: Sequence[BoundaryEffect]) -> list[str]:
    """One sentence per boundary crossing."""
    return [f"{effect.sentence}  [{effect.shape_before} -> {effect.shape_after}, {effect.group}]" for effect in effects]


def plan_table(columns: dict[str, Any], labels: Sequence[tuple[str, str]]) -> Grid:
    """Workloads without measuring them: tiles, FLOPs, bytes, and the TensorEngine's counts where they are its tiles.

    Args:
        columns: As from `tiling.work.plan`, perhaps with those of `tensor_engine_columns`.
        labels: Element type and name of each workload.
    """
    named = any(name for _, name in labels)
    counted = "hardware_flops" in columns
    headings = ["M", "K", "N", "<dtype", "tiles M", "tiles K", "tiles N", "total", "work", "operands", "array used"]
    headings += ["matmul instr.", "transposes", "hardware work", "HBM read", "HBM write"] if counted else []

    def cells(i: int) -> list[str]:
        dtype, name = labels[i]
        row = [*([name] if named else []), *(str(columns[axis][i]) for axis in "MKN"), dtype]
        row += [str(columns[f"num_tiles_{axis}"][i]) for axis in "MKN"]
        row += [
            str(columns["total_tiles"][i]),
            format_rate(float(columns["model_flops"][i]), "FLOP"),
            format_bytes(float(columns["operand_bytes"][i])),
            format_percent(float(columns["array_utilisation"][i])),
        ]
        if counted:
            row += [
                str(columns["matmul_instruction_count"][i]),
                str(columns["transpose_instruction_count"][i]),
                format_rate(float(columns["hardware_flops"][i]), "FLOP"),
                format_bytes(float(columns["hbm_read_bytes"][i])),
                format_bytes(float(columns["hbm_write_bytes"][i])),
            ]
        return row

    title = f"first {_MAX_ROWS} of {len(labels)} rows; --json has all" if len(labels) > _MAX_ROWS else None
    rows = (cells(i) for i in range(min(len(labels), _MAX_ROWS)))
    return table([*(["<name"] if named else []), *headings], rows, title)


def tiling_table(study: TilingStudy) -> Grid:
    """The rows of a tiling study."""
    grouped = len(study.floors) > 1
    rows = [
        [
            *([row.group] if grouped else []),
            str(row.M),
            str(row.K),
            str(row.N),
            f"{row.num_tiles_M}·{row.num_tiles_K}·{row.num_tiles_N}",
            str(row.total_tiles),
            f"{row.latency_ms:.4f}",
            f"{row.latency_per_tile_ms:.4f}",
            "-" if row.dispatch_share is None else format_percent(row.dispatch_share, 0),
            ("<- " + row.boundary_axes if row.boundary else "") + (" jump" if row.jump else ""),
        ]
        for row in study.rows[:_MAX_ROWS]
    ]
    headings = ["M", "K", "N", "tiles", "total", "ms", "ms/tile", "dispatch", "<full tiles"]
    title = f"first {_MAX_ROWS} of {len(study.rows)} rows; --json has all" if len(study.rows) > _MAX_ROWS else None
    return table([*(["<group"] if grouped else []), *headings], rows, title)


def finding_lines(study: TilingStudy) -> list[str]:
    """What a tiling study found, the most important first."""
    return [f"finding: {sentence}" for sentence in study.findings]


def tiling_lines(study: TilingStudy) -> list[str]:
    """The sentences of a tiling study."""
    lines = [f"tile model: {study.tile_model} {study.tile_shape} ({study.tile_evidence})"]
    for floor in study.floors:
        label = f" of {floor.group}" if floor.group else ""
        if floor.dispatch_floor_ms is not None:
            lines.append(
                f"dispatch floor{label}: {floor.dispatch_floor_ms:.4g} ms, {floor.low_ms:.4g} to {floor.high_ms:.4g} ({floor.method})"
            )
        if floor.fit is not None:
            rate = (
                "no growth with work"
                if floor.fit.rate_per_ms is None
                else f"{floor.fit.rate_per_ms:.4g} {floor.fit.work} per ms"
            )
            lines.append(
                f"fit{label}: latency = {floor.fit.floor_ms:.4g} ms + work / ({rate}), rms {format_percent(floor.fit.relative_rms)}"
            )
    lines += [
        crossing_sentence(
            f"{boundary.axis}: crossing {boundary.before} -> {boundary.after} at {boundary.others}",
            boundary.delta_ms,
            boundary.delta_fraction,
            boundary.expected_ms,
            boundary.verdict,
        )
        for boundary in study.boundaries[:20]
    ]
    best, worst = study.rows[study.best_per_tile], study.rows[study.worst_per_tile]
    lines.append(
        f"latency per tile: best {best.latency_per_tile_ms:.4g} ms ({best.M}x{best.K}x{best.N}), worst {worst.latency_per_tile_ms:.4g} ms "
        f"({worst.M}x{worst.K}x{worst.N}), ratio {study.per_tile_ratio:.3g}"
    )
    return lines


def bucket_table(plans: Sequence[BucketPlan]) -> Grid:
    """Bucket sets side by side, the planned one first."""
    rows = [
        [
            plan.name,
            str(len(plan.buckets)),
            f"{plan.expected_latency_ms:.4g}",
            f"{plan.compile_cost_ms:.4g}",
            f"{plan.expected_cost_ms:.4g}",
            format_percent(plan.time_waste),
            format_percent(plan.padding_waste),
            _bucket_list(plan.buckets),
        ]
        for plan in plans
    ]
    return table(
        ["<buckets of", "number", "latency ms", "compile ms", "cost ms", "time waste", "padding", "<lengths"], rows
    )


def padding_rows_table(rows: Sequence[PaddingRow]) -> Grid:
    """The padding table."""
    cells = [[str(row.actual_N), str(row.bucket_N), str(row.padding_size), f"{row.padding_pct:.1f} %"] for row in rows]
    return table(["actual", "bucket", "padding", "over actual"], cells)


def _bucket_list(buckets: Sequence[int]) -> str:
    shown = ", ".join(str(bucket) for bucket in buckets[:12])
    return shown if len(buckets) <= 12 else f"{shown}, … {buckets[-1]}"
