"""One self-contained HTML file for a comparison of kernels: verdicts, tables, bars with intervals. No script, no request."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from string import Template
from typing import Final

from npuscope.analysis.kernel_row import KernelRow
from npuscope.analysis.kernel_study import KernelStudy
from npuscope.report.kernel_tables import Sheet, comparison_lines, sheets
from npuscope.report.page import STYLE
from npuscope.units import format_ns

_METHODS: Final = {
    "wall-clock": "wall clock of the host",
    "device": "device time, captured",
    "simulated": "device time, SIMULATED",
}
_BAR_STYLE: Final = """
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: 6px 12px; align-items: center; font-size: 13px; }
.bar { position: relative; height: 16px; background: var(--card); border-radius: 3px; }
.bar i { position: absolute; inset: 0 auto 0 0; background: #4878a8; border-radius: 3px; }
.bar.simulated i { background: repeating-linear-gradient(45deg, #a87848 0 6px, #c79a6b 6px 12px); }
.bar b { position: absolute; top: 6px; height: 4px; background: var(--ink); opacity: .75; border-radius: 2px; }
.verdict { font-size: 16px; margin: 6px 0 2px; } .refused { color: var(--soft); }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; overflow-x: auto; font-size: 12.5px; white-space: pre-wrap; }
td:last-child { min-width: 0; } td.text, th.text { text-align: left; } td.text { white-space: normal; }
.group { margin: 14px 0 6px; }
@media print { .bar i, .bar b { print-color-adjust: exact; } }
"""
_PAGE: Final = Template(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title><style>$style</style></head><body>
<h1>$title</h1><p class="sub">$subtitle</p>
$warnings
<h2>Comparison</h2>
$comparison
<h2>Time of one execution</h2>
$bars
$tables
$notes
</body></html>
"""
)


def kernel_page(study: KernelStudy, provenance: dict[str, object]) -> str:
    """The page."""
    rows = [run.row for run in study.runs]
    names = ", ".join(dict.fromkeys(row.implementation for row in rows))
    warnings = [f"{row.implementation}, {row.config}: {text}" for row in rows for text in row.warnings]
    host = provenance.get("host")
    place = f"{host.get('model', '')}; " if isinstance(host, dict) else ""
    return _PAGE.substitute(
        title=escape(f"MLP kernels: {names}"),
        subtitle=escape(f"{place}npuscope {provenance.get('npuscope', '')}, {provenance.get('started_at', '')}"),
        style=STYLE + _BAR_STYLE,
        warnings=_list("Warnings", warnings),
        comparison=_comparison(study),
        bars=_bars(rows),
        tables="".join(_table(sheet) for sheet in sheets(rows)),
        notes=_list(
            "Notes",
            [*study.notes, *_own_notes(rows), *dict.fromkeys(row.model_error for row in rows if row.model_error)],
        ),
    )


def _own_notes(rows: Sequence[KernelRow]) -> list[str]:
    return [f"{row.implementation}, {row.config}: {text}" for row in rows for text in row.notes]


def _list(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    return f"<h2>{title}</h2><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _comparison(study: KernelStudy) -> str:
    """Sentences, each followed by what makes the difference."""
    made: list[str] = []
    for line in comparison_lines(study.comparisons):
        if line.startswith("  "):
            made.append(f"<li>{escape(line.strip())}</li>")
        elif line.startswith("not compared"):
            made.append(f'<p class="refused">{escape(line)}</p>')
        else:
            made.append(f'<p class="verdict">{escape(line)}</p>')
    text = "".join(made) or "<p>There are no two results to compare.</p>"
    return text.replace("</p><li>", "</p><ul><li>").replace("</li><p", "</li></ul><p")


def _bars(rows: Sequence[KernelRow]) -> str:
    """Bars of one scale for each set of sizes and each method, since figures of different methods are not compared."""
    groups: dict[tuple[str, str, str], list[KernelRow]] = {}
    for row in rows:
        if row.steady_ms is not None:
            groups.setdefault((row.config, row.dtype, row.method), []).append(row)
    made = []
    for (config, dtype, method), members in groups.items():
        most = max(row.steady_ci_high_ms or row.steady_ms or 0.0 for row in members) or 1.0
        made.append(f'<p class="sub group">{escape(f"{config}, {dtype}: {_METHODS[method]}")}</p><div class="bars">')
        made += [_bar(row, most) for row in members]
        made.append("</div>")
    return "".join(made) or "<p>Nothing was measured.</p>"


def _bar(row: KernelRow, most: float) -> str:
    steady = row.steady_ms or 0.0
    whisker = ""
    if row.steady_ci_low_ms is not None and row.steady_ci_high_ms is not None:
        left, right = (100 * value / most for value in (row.steady_ci_low_ms, row.steady_ci_high_ms))
        whisker = f'<b style="left:{left:.2f}%;width:{max(0.2, right - left):.2f}%"></b>'
    kind = " simulated" if row.is_simulated else ""
    bar = f'<i style="width:{100 * steady / most:.2f}%"></i>{whisker}'
    name = f"{row.implementation} on {row.device}"
    return (
        f'<span>{escape(name)}</span><span class="bar{kind}">{bar}</span><span>{escape(format_ns(1e6 * steady))}</span>'
    )


def _table(sheet: Sheet) -> str:
    kinds = ["text" if heading.startswith("<") else "figure" for heading in sheet.headings]
    names = [heading.removeprefix("<") for heading in sheet.headings]
    body = "".join(f"<tr>{_cells('td', kinds, row)}</tr>" for row in sheet.rows)
    head = f"<thead><tr>{_cells('th', kinds, names)}</tr></thead>"
    return f'<h2>{escape(sheet.title)}</h2><div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def _cells(tag: str, kinds: Sequence[str], texts: Sequence[str]) -> str:
    return "".join(f'<{tag} class="{kind}">{escape(text)}</{tag}>' for kind, text in zip(kinds, texts, strict=True))
