"""Charts as Vega-Lite specifications: latency against shape, along each dimension, and boundary effects.

A specification is data; `vl-convert` turns it into SVG and brings the scripts that draw it in a page.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from npuscope.analysis.boundary import VERDICTS, BoundaryEffect
from npuscope.errors import UnavailableError
from npuscope.formats.results import ResultRow
from npuscope.tiling.model import TileModel

VEGA_LITE = "https://vega.github.io/schema/vega-lite/v6.json"
_WIDTH = 940
_COLOURS = ["#4f86f7", "#e08a1e", "#1fa774", "#ec5050", "#9a6bff", "#1eaec4"]  # legible on light and dark
_MUTED = "#8b93a1"
_CONFIG = {
    "font": "system-ui, -apple-system, Segoe UI, sans-serif",
    "background": None,
    "view": {"stroke": None},
    "range": {"category": _COLOURS},
    "axis": {"gridOpacity": 0.25, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": 500},
    "legend": {"labelFontSize": 12, "titleFontSize": 12, "orient": "top", "labelLimit": 400},
    "title": {"fontSize": 15, "anchor": "start", "subtitleFontSize": 12, "subtitleColor": _MUTED, "offset": 12},
}
Specification = dict[str, Any]


def latency_chart(rows: Sequence[ResultRow]) -> Specification:
    """Latency against FLOPs on logarithmic axes, with intervals and the dispatch floor."""
    values = [_point(row) for row in rows if row.latency_ms is not None]
    tooltip = [
        {"field": name, "type": "nominal"}
        for name in ("shape", "series", "latency", "tiles", "floor share", "rate", "warnings")
    ]
    x = {
        "field": "flops",
        "type": "quantitative",
        "scale": {"type": "log"},
        "title": "work of one matmul, FLOP",
        "axis": {"format": "~s"},
    }
    y_scale = {"type": "log"}
    colour = {"field": "series", "type": "nominal", "title": None}
    layers: list[Specification] = [
        {
            "mark": {"type": "rule", "opacity": 0.8, "strokeWidth": 1.5, "clip": True},
            "encoding": {
                "x": x,
                "y": {"field": "low", "type": "quantitative", "scale": y_scale, "title": "latency, µs"},
                "y2": {"field": "high"},
                "color": colour,
            },
        },
        {
            "mark": {"type": "point", "filled": True, "size": 60, "opacity": 0.9},
            "encoding": {
                "x": x,
                "y": {"field": "latency_us", "type": "quantitative", "scale": y_scale},
                "color": colour,
                "tooltip": tooltip,
            },
        },
    ]
    floors = {(value["series"], value["floor_us"]) for value in values if value["floor_us"] is not None}
    by_series: dict[str, list[float]] = defaultdict(list)
    for series, floor in floors:
        by_series[series].append(floor)
    marks = [
        {"series": series, "floor_us": min(found), "label": "dispatch floor"}
        for series, found in sorted(by_series.items())
    ]
    if marks:
        encoding = {"y": {"field": "floor_us", "type": "quantitative", "scale": y_scale}, "color": colour}
        layers.append({"data": {"values": marks}, "mark": {"type": "rule", "strokeDash": [5, 4]}, "encoding": encoding})
        layers.append(
            {
                "data": {"values": marks[:1]},
                "mark": {"type": "text", "align": "left", "dy": -7, "x": 4, "fontSize": 11},
                "encoding": {**encoding, "text": {"field": "label"}},
            }
        )
    return _chart(
        "Latency against work",
        "median of the steady state, 95 % interval; the dashed line is the dispatch floor of the same run",
        {"data": {"values": values}, "layer": layers, "width": _WIDTH, "height": 320},
    )


def axis_charts(rows: Sequence[ResultRow], model: TileModel) -> list[Specification]:
    """Latency along M, K or N wherever at least three shapes differ in that dimension alone; tile edges are marked."""
    charts = []
    for axis, edge in (("M", model.tile_m), ("K", model.tile_k), ("N", model.tile_n)):
        lines: dict[str, list[ResultRow]] = defaultdict(list)
        for row in rows:
            if row.latency_ms is not None:
                others = " ".join(f"{name}={getattr(row, name)}" for name in "MKN" if name != axis)
                lines[f"{others}, {_series(row)}"].append(row)
        lines = {name: line for name, line in lines.items() if len({getattr(row, axis) for row in line}) >= 3}
        if not 0 < len(lines) <= len(_COLOURS):
            continue
        values = [
            {**_point(row), "size": getattr(row, axis), "line": name}
            for name, line in sorted(lines.items())
            for row in line
        ]
        sizes = [value["size"] for value in values]
        span = max(sizes) - min(sizes)
        edges = [{"edge": number * edge} for number in range(1, max(sizes) // edge + 1) if number * edge >= min(sizes)]
        x_scale = {"zero": False} if span <= 20 * edge else {"type": "log"}
        x = {"field": "size", "type": "quantitative", "scale": x_scale, "title": axis}
        y = {
            "field": "latency_us",
            "type": "quantitative",
            "scale": {"domain": _span(values), "nice": False},
            "title": "latency, µs",
        }
        colour = {
            "field": "line",
            "type": "nominal",
            "title": None,
            "legend": {"orient": "top", "labelLimit": 400, "columns": 2},
        }
        tooltip = [{"field": name, "type": "nominal"} for name in ("shape", "latency", "tiles", "warnings")]
        layers: list[Specification] = [
            {"mark": {"type": "line", "strokeWidth": 1.5}, "encoding": {"x": x, "y": y, "color": colour}},
            {
                "mark": {"type": "rule", "opacity": 0.8, "strokeWidth": 1.5, "clip": True},
                "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": colour},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 50},
                "encoding": {"x": x, "y": y, "color": colour, "tooltip": tooltip},
            },
        ]
        if len(edges) <= 40:
            rule = {"data": {"values": edges}, "mark": {"type": "rule", "strokeDash": [2, 3], "color": _MUTED}}
            layers.insert(0, {**rule, "encoding": {"x": {"field": "edge", "type": "quantitative", "scale": x_scale}}})
        charts.append(
            _chart(
                f"Latency along {axis}",
                f"dotted lines: multiples of {edge}, the tile edge of {model.name} in {axis}",
                {"data": {"values": values}, "layer": layers, "width": _WIDTH, "height": 240},
            )
        )
    return charts


def boundary_chart(effects: Sequence[BoundaryEffect], limit: int = 40) -> Specification:
    """Each boundary crossing as a bar with its interval; the tick is what the added work explains."""
    order = sorted(effects, key=lambda effect: abs(effect.delta_fraction), reverse=True)[:limit]
    values: list[dict[str, Any]] = [
        {
            "crossing": f"{effect.axis} {effect.before} → {effect.after}  ({effect.shape_after}, {effect.group})",
            "percent": 100 * effect.delta_fraction,
            "low": 100 * effect.delta_low_ms / effect.latency_before_ms,
            "high": 100 * effect.delta_high_ms / effect.latency_before_ms,
            "work": 100 * effect.work_ms / effect.latency_before_ms,
            "verdict": effect.verdict,
        }
        for effect in order
    ]
    y = {"field": "crossing", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 380}}
    palette = [_MUTED, _COLOURS[0], _COLOURS[3], _COLOURS[5], _COLOURS[2], "#c8ccd2", "#c8ccd2"]
    colour = {"field": "verdict", "type": "nominal", "title": None, "scale": {"domain": VERDICTS, "range": palette}}
    reach = 1.2 * max(5.0, *(abs(value[key]) for value in values for key in ("percent", "work")))
    tooltip = [
        {"field": name, "type": "nominal" if name in {"crossing", "verdict"} else "quantitative", "format": ".2f"}
        for name in ("crossing", "percent", "low", "high", "work", "verdict")
    ]
    for entry in tooltip:
        if entry["type"] == "nominal":
            del entry["format"]
    percent = {
        "type": "quantitative",
        "title": "change of latency across the boundary, % (intervals are cut at the edge)",
        "scale": {"domain": [-reach, reach]},
    }
    layers = [
        {
            "mark": {"type": "bar", "opacity": 0.75, "height": 14, "clip": True},
            "encoding": {"y": y, "x": {"field": "percent", **percent}, "color": colour, "tooltip": tooltip},
        },
        {
            "mark": {"type": "rule", "strokeWidth": 1.5, "color": _MUTED, "clip": True},
            "encoding": {"y": y, "x": {"field": "low", **percent}, "x2": {"field": "high"}},
        },
        {
            "mark": {"type": "tick", "thickness": 2, "size": 18, "color": _COLOURS[1]},
            "encoding": {"y": y, "x": {"field": "work", **percent}},
        },
    ]
    return _chart(
        "Crossing a tile boundary",
        "bar: measured change; grey line: 95 % interval; orange tick: what the added work explains",
        {"data": {"values": values}, "layer": layers, "width": _WIDTH - 320, "height": {"step": 24}},
    )


def to_svg(specification: Specification) -> str:
    """The chart as SVG, without a browser.

    Raises:
        UnavailableError: vl-convert is not installed.
    """
    return str(_converter().vegalite_to_svg(json.dumps(specification)))


def chart_scripts() -> str:
    """The scripts that draw Vega-Lite charts, as one text for an offline page.

    Raises:
        UnavailableError: vl-convert is not installed.
    """
    return str(_converter().javascript_bundle())


def require_charts() -> None:
    """Check that charts can be drawn, before hours of measuring.

    Raises:
        UnavailableError: vl-convert is not installed.
    """
    _converter()


def _converter() -> Any:
    try:
        import vl_convert
    except ImportError:
        raise UnavailableError(
            "the chart", missing="vl-convert-python is not installed", remedy="pip install 'npuscope[charts]'"
        ) from None
    return vl_convert


def _chart(title: str, subtitle: str, body: Specification) -> Specification:
    return {"$schema": VEGA_LITE, "title": {"text": title, "subtitle": subtitle}, "config": _CONFIG, **body}


def _series(row: ResultRow) -> str:
    simulated = " (simulated)" if row.is_simulated else ""
    return f"{row.device}{simulated} {row.dtype}"


def _point(row: ResultRow) -> dict[str, Any]:
    latency_us = 1e3 * (row.latency_ms or 0.0)
    low = row.latency_ci_low_ms if row.latency_ci_low_ms is not None else row.latency_ms
    high = row.latency_ci_high_ms if row.latency_ci_high_ms is not None else row.latency_ms
    return {
        "shape": f"{row.M}x{row.K}x{row.N}" + (f" {row.name}" if row.name else ""),
        "series": _series(row),
        "flops": row.model_flops,
        "latency_us": latency_us,
        "low": max(1e-6, 1e3 * (low or 0.0)),
        "high": 1e3 * (high or 0.0),
        "latency": f"{latency_us:.4g} µs",
        "tiles": f"{row.total_tiles} = {row.num_tiles_M} x {row.num_tiles_K} x {row.num_tiles_N} ({row.tile_model})",
        "floor_us": None if row.dispatch_floor_ms is None else round(1e3 * row.dispatch_floor_ms, 3),
        "floor share": "-" if row.dispatch_share is None else f"{100 * row.dispatch_share:.1f} %",
        "rate": "-" if row.gflop_per_s is None else f"{row.gflop_per_s:.4g} GFLOP/s",
        "warnings": row.warnings or "none",
    }


def _span(values: Sequence[Mapping[str, Any]]) -> list[float]:
    """The latencies with a margin; an interval of a disturbed row is cut rather than flattening all others."""
    latencies = [float(value["latency_us"]) for value in values]
    return [0.8 * min(latencies), 1.25 * max(latencies)]
