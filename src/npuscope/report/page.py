"""One self-contained HTML file for the results of a matmul sweep: figures, warnings, charts, rows. No request leaves it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from npuscope.analysis.boundary import BoundaryEffect
from npuscope.formats.results import ResultRow
from npuscope.report.charts import axis_charts, boundary_chart, chart_scripts, latency_chart
from npuscope.tiling.model import TileModel
from npuscope.units import format_ns, format_percent, format_rate

_MAX_TABLE_ROWS = 2000
_HEADINGS = (
    "M×K×N",
    "type",
    "tiles",
    "latency",
    "± 95 %",
    "floor share",
    "rate",
    "compile",
    "first run",
    "error / mass",
    "notes",
)
STYLE = """
:root { color-scheme: light dark; --ink: #1b2430; --soft: #5b6675; --line: #dde2e9; --page: #fff; --card: #f6f8fa; --warn: #9a5b00; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #a0aab8; --line: #2f3743; --page: #12161c; --card: #1a2028; --warn: #f0b45b; --bad: #ff8a80; } }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: var(--ink); background: var(--page); margin: 0 auto; max-width: 1060px; padding: 28px 20px 60px; }
h1 { font-size: 22px; margin: 0 0 2px; } h2 { font-size: 17px; margin: 34px 0 8px; }
p.sub { color: var(--soft); margin: 0 0 18px; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 10px; margin: 0; }
dl div { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; }
dt { color: var(--soft); font-size: 12px; } dd { margin: 0; font-size: 18px; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
dd.text { font-size: 13px; line-height: 1.35; padding-top: 3px; }
ul { padding-left: 20px; } li { margin: 3px 0; } li b { color: var(--warn); font-weight: 600; }
code { font-size: 12.5px; background: var(--card); padding: 1px 4px; border-radius: 4px; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 9px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; } td:first-child, th:first-child, td:last-child, th:last-child { text-align: left; }
td:last-child { white-space: normal; min-width: 150px; } tr.failed td { color: var(--bad); }
.chart { margin: 14px 0 6px; overflow-x: auto; }
@media print { body { max-width: none; } .chart { break-inside: avoid; } }
"""
"""Of every page: light and dark, for screens and for print."""
_PAGE = Template(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style></head><body>
<h1>$title</h1><p class="sub">$subtitle</p>
<dl>$facts</dl>
$warnings
$boundaries
<h2>Charts</h2>
$charts
<h2>Rows</h2>$cut
<div class="scroll"><table><thead><tr>$headings</tr></thead><tbody>$rows</tbody></table></div>
<script type="application/json" id="charts">$specifications</script>
<script type="module">$scripts</script>
<script type="module">
const specifications = JSON.parse(document.getElementById("charts").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const ink = dark ? "#e6eaf0" : "#1b2430", line = dark ? "#3a4452" : "#c9d0da";
for (const [index, specification] of specifications.entries()) {
  const c = specification.config;
  c.axis = {...c.axis, labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line};
  c.legend = {...c.legend, labelColor: ink, titleColor: ink};
  c.title = {...c.title, color: ink};
  c.text = {color: ink};
  await window.vegaEmbed("#chart" + index, specification, {actions: false, renderer: "svg"});
}
document.body.dataset.ready = "true";
</script></body></html>
"""
)


def matmul_page(
    rows: Sequence[ResultRow], effects: Sequence[BoundaryEffect], model: TileModel, device: Mapping[str, Any]
) -> str:
    """The page.

    Args:
        rows: In the order to show them.
        effects: Boundary crossings among them.
        model: The tile model of the counts.
        device: run.json's `device`.

    Raises:
        UnavailableError: vl-convert is not installed.
    """
    measured = [row for row in rows if row.status == "ok"]
    specifications = [latency_chart(measured)] if measured else []
    specifications += axis_charts(measured, model)
    if effects:
        specifications.append(boundary_chart(effects))
    kind = "simulated" if device.get("is_simulated") else "measured"
    versions = ", ".join(f"{name} {version}" for name, version in dict(device.get("versions", {})).items())
    when = f", {rows[0].measured_at}" if rows else ""
    return _PAGE.substitute(
        style=STYLE,
        title=escape(f"Matmul on {device.get('name', 'unknown')}, {kind}"),
        subtitle=escape(f"{device.get('description', '')}; {versions}{when}"),
        facts="".join(_fact(name, value) for name, value in _facts(rows, measured, model)),
        warnings=_warnings(measured),
        boundaries=_boundaries(effects),
        charts="".join(f'<div class="chart" id="chart{index}"></div>' for index in range(len(specifications))),
        cut=f"<p class='sub'>the first {_MAX_TABLE_ROWS} of {len(rows)}; results.csv has all</p>"
        if len(rows) > _MAX_TABLE_ROWS
        else "",
        headings="".join(f"<th>{escape(heading)}</th>" for heading in _HEADINGS),
        rows="".join(_table_row(row) for row in rows[:_MAX_TABLE_ROWS]),
        specifications=_script_safe(json.dumps(specifications)),
        scripts=chart_scripts().replace("</script", "<\\/script"),
    )


def _script_safe(text: str) -> str:
    """JSON that cannot close its script element, whatever strings it holds."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _fact(name: str, value: str) -> str:
    kind = ' class="text"' if len(value) > 24 else ""
    return f"<div><dt>{escape(name)}</dt><dd{kind}>{escape(value)}</dd></div>"


def _facts(rows: Sequence[ResultRow], measured: Sequence[ResultRow], model: TileModel) -> list[tuple[str, str]]:
    facts = [("rows", f"{len(measured)} measured, {len(rows) - len(measured)} failed")]
    floors = [row.dispatch_floor_ms for row in measured if row.dispatch_floor_ms is not None]
    if floors:
        facts.append(("dispatch floor", format_ns(1e6 * min(floors))))
    if measured:
        fastest = max(measured, key=lambda row: row.gflop_per_s or 0.0)
        facts.append(("highest rate", format_rate(1e9 * (fastest.gflop_per_s or 0.0), "FLOP/s")))
        facts.append(("samples kept", str(sum(row.samples for row in measured))))
    facts.append((f"tiles: {model.name} {model.shape_text}", model.evidence))
    return facts


def _warnings(rows: Sequence[ResultRow]) -> str:
    items = []
    for code, (count, detail) in summarise_warnings(rows).items():
        sentence, _, command = detail.partition("; next: ")
        items.append(
            f"<li><b>{escape(code)}</b>, {count} row(s): {escape(sentence)}. Next: <code>{escape(command)}</code></li>"
        )
    return f"<h2>Warnings</h2><ul>{''.join(items)}</ul>" if items else ""


def summarise_warnings(rows: Sequence[ResultRow]) -> dict[str, tuple[int, str]]:
    """Per warning code: how many rows have it, and the first one's sentence with its next command."""
    found: dict[str, tuple[int, str]] = {}
    for row in rows:
        codes = filter(None, row.warnings.split(";"))
        for code, detail in zip(codes, row.warning_details.split(" | "), strict=False):
            count, kept = found.get(code, (0, detail))
            found[code] = count + 1, kept
    return found


def _boundaries(effects: Sequence[BoundaryEffect]) -> str:
    if not effects:
        return ""
    items = "".join(
        f"<li>{escape(effect.sentence)} <code>{escape(effect.shape_before)} → {escape(effect.shape_after)}</code></li>"
        for effect in effects[:60]
    )
    return f"<h2>Tile boundaries</h2><ul>{items}</ul>"


def _table_row(row: ResultRow) -> str:
    shape = f"{row.M}×{row.K}×{row.N}"
    tiles = f"{row.total_tiles} ({row.num_tiles_M}·{row.num_tiles_K}·{row.num_tiles_N})"
    if row.status != "ok" or row.latency_ms is None:
        cells = [shape, row.dtype, tiles, "failed", *[""] * 6, row.error]
        return "<tr class='failed'>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    cells = [
        shape,
        row.dtype,
        tiles,
        format_ns(1e6 * row.latency_ms),
        interval_text(row),
        "-" if row.dispatch_share is None else format_percent(row.dispatch_share),
        format_rate(1e9 * (row.gflop_per_s or 0.0), "FLOP/s"),
        "-" if row.compile_ms is None else f"{format_ns(1e6 * row.compile_ms)} ({row.compile_cache})",
        "-" if row.first_run_ms is None else format_ns(1e6 * row.first_run_ms),
        "-" if row.error_over_mass is None else f"{row.error_over_mass:.1e}",
        ", ".join(filter(None, [row.name, *row.warnings.split(";")])),
    ]
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"


def interval_text(row: ResultRow) -> str:
    """Half of the 95 % interval, as percent of the median."""
    if row.latency_ci_low_ms is None or row.latency_ci_high_ms is None or not row.latency_ms:
        return "-"
    return format_percent((row.latency_ci_high_ms - row.latency_ci_low_ms) / 2 / row.latency_ms)
