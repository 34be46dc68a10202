"""What `npuscope cache` shows a person."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from npuscope.report.grid import Grid, table
from npuscope.units import format_bytes, format_ns

if TYPE_CHECKING:
    from npuscope.analysis.cache_selection import Selection
    from npuscope.analysis.recompile import Diagnosis, Finding, FunctionRow
    from npuscope.formats.cache_listing import Listing, StoredEntry

_ROWS: Final = 14
"""Functions that are shown one by one."""
_CALLS: Final = 12
_NOUNS: Final = {
    "cache-not-shared": "other folder",
    "cache-not-writable": "program",
    "failed-compile-cached": "failure",
    "cache-off": "compilation",
    "not-seen": "process",
}
"""What a finding counts that is no recompilation, where it does not count entries."""


def verdict_lines(diagnosis: Diagnosis) -> list[str]:
    """Whether calls recompile, in two or three lines."""
    is_folder = diagnosis.calls is None and not diagnosis.framework
    again, never = (
        ("programs were compiled again", "no program was compiled again")
        if is_folder
        else ("calls recompile", "calls do not recompile")
    )
    head = f"not known whether {again}" if diagnosis.recompiles is None else again if diagnosis.recompiles else never
    lines = [f"{head}: {diagnosis.summary}"]
    if diagnosis.counted:
        lines.append(f"counted: {diagnosis.counted}")
    return lines


def cause_lines(diagnosis: Diagnosis) -> list[str]:
    """Each finding: cause and cost, meaning, evidence, and what to do."""
    from npuscope.analysis.recompile_causes import CAUSES

    lines: list[str] = []
    for finding in diagnosis.findings:
        cause = CAUSES[finding.cause]
        lines += ["", f"{finding.cause}: {_amount(finding)}: {cause.meaning}"]
        if finding.functions:
            more = f" and {len(finding.functions) - 3} more" if len(finding.functions) > 3 else ""
            lines.append(f"  where: {', '.join(finding.functions[:3])}{more}")
        lines += [f"  seen: {text}" for text in finding.evidence]
        lines.append(f"  fix: {cause.fix}")
    return lines


def _amount(finding: Finding) -> str:
    from npuscope.analysis.recompile import counted_words

    cost = "" if finding.cost_ms is None else f", {format_ns(1e6 * finding.cost_ms)}"
    noun = (
        "compilation"
        if finding.is_recompile or finding.cause in ("eager", "unexplained")
        else _NOUNS.get(finding.cause, "entry")
    )
    return counted_words(finding.count, noun) + cost


def functions_table(diagnosis: Diagnosis) -> Grid | None:
    """Functions, those of the framework in one row where others are shown; None without any."""
    rows = list(diagnosis.functions)
    if not rows:
        return None
    users = [row for row in rows if not row.is_own]
    own = [row for row in rows if row.is_own]
    shown = users[:_ROWS] if users else own[:_ROWS]
    cells = [_function_cells(row) for row in shown]
    hidden = (users if users else own)[_ROWS:]
    if hidden:
        cells.append(_summed_cells(f"{len(hidden)} more", hidden))
    if users and own:
        cells.append(_summed_cells("JAX's own", own))
    headings = ["<function", "<defined", "calls", "compiled", "disk", "again", "time", "<why again"]
    if not users:
        headings[1] = "<called in"
    if not any(row.disk_hits for row in rows):
        disk = headings.index("disk")
        headings = [*headings[:disk], *headings[disk + 1 :]]
        cells = [[*row[:disk], *row[disk + 1 :]] for row in cells]
    return table(headings, cells)


def _function_cells(row: FunctionRow) -> list[str]:
    calls = "?" if row.calls is None else f"{row.calls:,}"
    why = row.cause if row.recompiles else ""
    figures = [f"{row.compiles:,}", f"{row.disk_hits:,}", f"{row.recompiles:,}", format_ns(1e6 * row.compile_ms)]
    return [row.name, _place(row.defined), calls, *figures, why]


def _place(text: str) -> str:
    """File and line without its folders."""
    return text.rpartition("/")[2]


def _summed_cells(name: str, rows: Sequence[FunctionRow]) -> list[str]:
    known = [row.calls for row in rows]
    calls = "?" if any(count is None for count in known) else f"{sum(count or 0 for count in known):,}"
    compiles, hits, again = (
        sum(values) for values in zip(*((row.compiles, row.disk_hits, row.recompiles) for row in rows), strict=True)
    )
    return [
        name,
        "",
        calls,
        f"{compiles:,}",
        f"{hits:,}",
        f"{again:,}",
        format_ns(1e6 * sum(row.compile_ms for row in rows)),
        "",
    ]


def calls_table(diagnosis: Diagnosis) -> Grid | None:
    """The calls of a function that was asked for; None where none was."""
    if not diagnosis.calls_detail:
        return None
    cells = [
        [str(number), f"{call['compiles']:.0f}", format_ns(1e6 * call["duration_ms"])]
        for number, call in enumerate(diagnosis.calls_detail, 1)
    ]
    if len(cells) > _CALLS:
        cells = [*cells[: _CALLS - 1], ["...", "", ""], cells[-1]]
    return table(["<call", "programs compiled or loaded", "time of the call"], cells)


def listing_table(listing: Listing, entries: Sequence[StoredEntry], shapes: dict[str, str]) -> Grid:
    """Entries one a row."""
    rows = [
        [
            _key(entry),
            entry.status,
            _compiler(entry),
            shapes.get(entry.key, entry.shape),
            format_bytes(entry.size_bytes),
            age_text(listing.read_s - entry.used_s),
        ]
        for entry in entries
    ]
    return table(["<key", "<status", "<compiler", "<program or shape", "size", "age"], rows)


def usage_table(listing: Listing) -> Grid:
    """Bytes by compiler and state."""
    groups: dict[tuple[str, str], list[StoredEntry]] = defaultdict(list)
    for entry in listing.entries:
        groups[entry.compiler or {"jax": "JAX", "vllm": "vLLM"}.get(entry.layout, "unknown"), entry.status].append(
            entry
        )
    rows = [
        [
            compiler,
            status,
            f"{len(group):,}",
            format_bytes(sum(entry.size_bytes for entry in group)),
            age_text(listing.read_s - max(entry.used_s for entry in group)),
        ]
        for (compiler, status), group in sorted(groups.items())
    ]
    rows.append(["all", "", f"{len(listing.entries):,}", format_bytes(listing.size_bytes), ""])
    return table(["<compiler", "<status", "entries", "size", "last used"], rows)


def selection_table(selection: Selection, read_s: float) -> Grid:
    """What would be deleted, with its whole key, which names the compiler, and the reason."""
    rows = [
        [
            one.entry.key,
            one.entry.status,
            format_bytes(one.entry.size_bytes),
            age_text(read_s - one.entry.used_s),
            one.reason,
        ]
        for one in selection.chosen
    ]
    return table(["<key", "<status", "size", "age", "<why"], rows, whole=True)


def _key(entry: StoredEntry) -> str:
    if entry.layout == "jax":
        name, _, digest = entry.key.rpartition("-")
        return f"{name}-{digest[:12]}"
    return entry.key.rpartition("/")[2] if entry.compiler else entry.key


def _compiler(entry: StoredEntry) -> str:
    return entry.compiler.partition("+")[0].removeprefix("neuronxcc-")


def age_text(seconds: float) -> str:
    """`12 s`, `3 min`, `5.1 h`, `40 days`."""
    seconds = max(0.0, seconds)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"
