"""How latency follows the tile grid in a file of latencies, and how much of it is dispatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from npuscope.analysis.boundary import SIGNIFICANT, UNKNOWN, UNSTEADY, BoundaryEffect, Crossing, find_crossings, judge
from npuscope.analysis.floor import LatencyFit, fit_latency, predict_ms
from npuscope.formats.latency_csv import LatencyRows
from npuscope.measure.diagnose import DISPATCH_SHARE_LIMIT
from npuscope.tiling.model import TENSOR_ENGINE, TILE_MODELS, TileModel
from npuscope.tiling.work import work_columns
from npuscope.units import format_percent

JUMP_FACTOR = 1.5
"""Latency over that of the row before, above which the row is marked; the older tool's figure."""
_MIN_QUIET_PAIRS = 4
_NORMAL_95 = 1.96


@dataclass(frozen=True, slots=True)
class TilingRow:
    """One row of the file."""

    M: int
    K: int
    N: int
    num_tiles_M: int
    num_tiles_K: int
    num_tiles_N: int
    total_tiles: int
    latency_ms: float
    latency_per_tile_ms: float
    dispatch_share: float | None
    """Floor over latency, 0 to 1; None where the file leaves the floor open."""
    boundary: bool
    """A dimension fills its tiles exactly: the next size up takes one more."""
    boundary_axes: str
    """Which: `MKN`, `M`, ..."""
    jump: bool
    """More than 1.5 times the row before."""
    group: str


@dataclass(frozen=True, slots=True)
class FileBoundary:
    """A boundary that two rows of the file straddle."""

    axis: str
    before: int
    after: int
    others: str
    """The two dimensions that stay, as `K=128 N=512`."""
    delta_ms: float
    delta_fraction: float
    expected_ms: float
    """What a fit that knows no tiles says that the added work costs."""
    noise_ms: float | None
    """95 % of what such a step shows without a boundary; None where the file cannot tell."""
    verdict: str
    """As in `boundary.VERDICTS`."""


@dataclass(frozen=True, slots=True)
class FloorEstimate:
    """The dispatch floor of one group of rows."""

    group: str
    dispatch_floor_ms: float | None
    low_ms: float | None
    high_ms: float | None
    method: str
    fit: LatencyFit | None
    rows_of_dispatch: int
    """Rows of which at least 80 % is floor."""
    rows: int


@dataclass(frozen=True, slots=True)
class TilingStudy:
    """What `npuscope tiling` shows; the fields that stand alone are those of the first group."""

    source: str
    tile_model: str
    tile_shape: str
    tile_evidence: str
    file_tile_model: str | None
    """Which tile model the file's own tile columns follow; None where it has none, `unknown` where no model fits."""
    dispatch_floor_ms: float | None
    floor_method: str
    floors: tuple[FloorEstimate, ...]
    rows: tuple[TilingRow, ...]
    boundaries: tuple[FileBoundary, ...]
    best_per_tile: int
    """Index of the row with the lowest latency per tile."""
    worst_per_tile: int
    per_tile_ratio: float
    skipped_rows: int
    findings: tuple[str, ...]
    """Sentences, the most important first."""


def tiling_study(
    data: LatencyRows, model: TileModel = TENSOR_ENGINE, effects: Sequence[BoundaryEffect] | None = None
) -> TilingStudy:
    """Tiles, latency per tile, boundaries and the dispatch floor of a file of latencies.

    Args:
        data: The latencies.
        model: Counts the tiles.
        effects: Boundaries judged from the samples, where the results folder has them; else the latencies are judged.
    """
    columns = work_columns(data.shapes, 1, model)
    floors: list[FloorEstimate] = []
    shares = np.full(len(data.shapes), np.nan)
    boundaries: list[FileBoundary] = []
    names = list(dict.fromkeys(data.group))
    membership = np.array(data.group)
    for name in names:
        inside = np.flatnonzero(membership == name)
        floor, shares[inside] = _estimate_floor(data, inside, name, model)
        floors.append(floor)
        boundaries += _boundaries(data, inside, model) if effects is None else []
    boundaries += [_from_effect(effect) for effect in effects or ()]
    rows = _rows(data, columns, shares, model)
    per_tile = [row.latency_per_tile_ms for row in rows]
    best, worst = int(np.argmin(per_tile)), int(np.argmax(per_tile))
    file_model = _file_tile_model(data)
    return TilingStudy(
        source=str(data.source),
        tile_model=model.name,
        tile_shape=model.shape_text,
        tile_evidence=model.evidence,
        file_tile_model=file_model,
        dispatch_floor_ms=floors[0].dispatch_floor_ms,
        floor_method=floors[0].method,
        floors=tuple(floors),
        rows=tuple(rows),
        boundaries=tuple(boundaries),
        best_per_tile=best,
        worst_per_tile=worst,
        per_tile_ratio=per_tile[worst] / per_tile[best],
        skipped_rows=data.skipped,
        findings=tuple(_findings(data, floors, boundaries, file_model, model)),
    )


def _estimate_floor(
    data: LatencyRows, inside: npt.NDArray[np.intp], name: str, model: TileModel
) -> tuple[FloorEstimate, npt.NDArray[np.float64]]:
    """The floor of one group and the dispatch share of each of its rows."""
    latency = data.latency_ms[inside]
    recorded = data.floor_ms[inside]
    fit = fit_latency(data.shapes[inside], latency, model)
    low: float | None
    high: float | None
    if np.isfinite(recorded).any():
        floor = float(np.nanmedian(recorded))
        low, high = float(np.nanmin(recorded)), float(np.nanmax(recorded))
        method = "recorded in the file: a 1x1x1 matmul on the same path, in the same run"
        shares = np.minimum(1.0, np.where(np.isfinite(recorded), recorded, floor) / latency)
    elif fit is None:
        shares = np.full(len(latency), np.nan)
        method = "open: the file records no floor, and has too few distinct shapes to estimate one"
        return FloorEstimate(name, None, None, None, method, None, 0, len(inside)), shares
    else:
        floor, low, high = fit.floor_ms, fit.floor_low_ms, fit.floor_high_ms
        method = (
            f"estimated from the file's own shapes: latency = floor + {fit.work} / rate, robust fit of {fit.shapes} rows, "
            f"rms {format_percent(fit.relative_rms)}"
        )
        if low <= 0:
            method += "; not distinguishable from zero, no shape in the file is small enough"
        shares = np.minimum(1.0, floor / latency)
    of_dispatch = int(np.count_nonzero(shares >= DISPATCH_SHARE_LIMIT))
    return FloorEstimate(name, floor, low, high, method, fit, of_dispatch, len(inside)), shares


def _rows(
    data: LatencyRows, columns: dict[str, npt.NDArray[np.generic]], shares: npt.NDArray[np.float64], model: TileModel
) -> list[TilingRow]:
    rows = []
    previous: tuple[str, float] | None = None
    for index, (shape, latency) in enumerate(zip(data.shapes.tolist(), data.latency_ms.tolist(), strict=True)):
        M, K, N = shape
        edges = zip("MKN", shape, model.edges, strict=True)
        axes = "".join(axis for axis, size, edge in edges if size % edge == 0)
        total = int(columns["total_tiles"][index])
        group = data.group[index]
        rows.append(
            TilingRow(
                M,
                K,
                N,
                int(columns["num_tiles_M"][index]),
                int(columns["num_tiles_K"][index]),
                int(columns["num_tiles_N"][index]),
                total,
                latency,
                latency / total,
                float(shares[index]) if np.isfinite(shares[index]) else None,
                bool(axes),
                axes,
                previous is not None and previous[0] == group and latency > JUMP_FACTOR * previous[1],
                group,
            )
        )
        previous = group, latency
    return rows


def _boundaries(data: LatencyRows, inside: npt.NDArray[np.intp], model: TileModel) -> list[FileBoundary]:
    shapes = data.shapes[inside]
    latency = data.latency_ms[inside]
    fit = fit_latency(shapes, latency, model, smooth=True)
    expected = predict_ms(fit, shapes, model) if fit is not None else np.zeros(len(shapes))
    as_tuples = [(int(M), int(K), int(N)) for M, K, N in shapes]
    crossings = find_crossings(as_tuples, [""] * len(as_tuples), model)
    noise = _noise_ms(data, inside, expected, crossings, model)
    found = []
    for crossing in crossings:
        first, second = crossing.first, crossing.second
        delta = float(latency[second] - latency[first])
        grown = float(expected[second] - expected[first])
        limit = noise.get((first, second)) if isinstance(noise, dict) else noise and noise * float(latency[first])
        verdict = UNKNOWN if limit is None else judge(delta - limit, delta + limit, grown)
        kept = " ".join(
            f"{axis}={size}" for axis, size in zip("MKN", as_tuples[first], strict=True) if axis != crossing.axis
        )
        found.append(
            FileBoundary(
                crossing.axis,
                crossing.before,
                crossing.after,
                kept,
                delta,
                delta / float(latency[first]),
                grown,
                limit,
                verdict,
            )
        )
    return found


def _from_effect(effect: BoundaryEffect) -> FileBoundary:
    sizes = zip("MKN", effect.shape_before.split("x"), strict=True)
    return FileBoundary(
        axis=effect.axis,
        before=effect.before,
        after=effect.after,
        others=" ".join(f"{axis}={size}" for axis, size in sizes if axis != effect.axis),
        delta_ms=effect.delta_ms,
        delta_fraction=effect.delta_fraction,
        expected_ms=effect.work_ms,
        noise_ms=(effect.delta_high_ms - effect.delta_low_ms) / 2,
        verdict=effect.verdict,
    )


def _noise_ms(
    data: LatencyRows,
    inside: npt.NDArray[np.intp],
    expected: npt.NDArray[np.float64],
    crossings: list[Crossing],
    model: TileModel,
) -> dict[tuple[int, int], float] | float | None:
    """What a step shows without a boundary: from the rows' own intervals, else from steps that cross none.

    Returns:
        One figure in ms per crossing, one fraction of the latency for all, or None where neither is in the file.
    """
    half = (data.ci_high_ms[inside] - data.ci_low_ms[inside]) / 2
    if crossings and np.isfinite(half).all():
        return {(c.first, c.second): float(np.hypot(half[c.first], half[c.second])) for c in crossings}
    shapes = data.shapes[inside]
    left = (data.latency_ms[inside] - expected) / data.latency_ms[inside]
    steps = np.concatenate([_quiet_steps(shapes, left, axis, edge) for axis, edge in enumerate(model.edges)])
    if len(steps) < _MIN_QUIET_PAIRS:
        return None
    return float(_NORMAL_95 * 1.4826 * np.median(np.abs(steps - np.median(steps))))


def _quiet_steps(
    shapes: npt.NDArray[np.int64], left: npt.NDArray[np.float64], axis: int, edge: int
) -> npt.NDArray[np.float64]:
    """What is left unexplained of each step along one axis that stays within its tile."""
    others = np.delete(shapes, axis, axis=1)
    order = np.lexsort((shapes[:, axis], others[:, 1], others[:, 0]))
    sizes = shapes[order, axis]
    same_line = (others[order][1:] == others[order][:-1]).all(axis=1) & (sizes[1:] != sizes[:-1])
    same_tile = -(-sizes[1:] // edge) == -(-sizes[:-1] // edge)
    steps: npt.NDArray[np.float64] = np.diff(left[order])[same_line & same_tile]
    return steps


def _file_tile_model(data: LatencyRows) -> str | None:
    if data.file_tiles is None:
        return None
    for name, model in TILE_MODELS.items():
        columns = work_columns(data.shapes, 1, model)
        ours = np.stack([columns[f"num_tiles_{axis}"] for axis in "MKN"], axis=1)
        if np.array_equal(ours, data.file_tiles):
            return name
    return "unknown"


def _findings(
    data: LatencyRows,
    floors: list[FloorEstimate],
    boundaries: list[FileBoundary],
    file_model: str | None,
    model: TileModel,
) -> list[str]:
    found = []
    for floor in floors:
        label = f"{floor.group}: " if floor.group else ""
        if floor.dispatch_floor_ms is None:
            found.append(f"{label}the dispatch floor is {floor.method}")
        elif floor.rows_of_dispatch:
            found.append(
                f"{label}the small shapes measure dispatch, not the matmul: in {floor.rows_of_dispatch} of {floor.rows} rows "
                f"at least {format_percent(DISPATCH_SHARE_LIMIT, 0)} of the latency is the floor of "
                f"{floor.dispatch_floor_ms:.4g} ms ({floor.low_ms:.4g} to {floor.high_ms:.4g}); latency per tile says "
                "nothing there"
            )
    larger = sum(boundary.verdict in SIGNIFICANT for boundary in boundaries)
    if boundaries:
        unjudged = sum(boundary.verdict in {UNSTEADY, UNKNOWN} for boundary in boundaries)
        rest = f", {unjudged} cannot be judged" if unjudged else ""
        found.append(f"{larger} of {len(boundaries)} boundary crossings show more than noise{rest}")
    else:
        found.append(
            f"no two rows straddle a tile boundary of {model.shape_text} closely: the file says nothing about boundaries"
        )
    if file_model == "legacy" and model.name != "legacy":
        found.append(f"the file's own tile counts follow the legacy model: {TILE_MODELS['legacy'].evidence}")
    elif file_model == "unknown":
        found.append("the file's own tile counts follow no tile model known here; they are not used")
    found += data.notes
    if data.skipped:
        found.append(f"{data.skipped} failed rows are left out")
    return found
