"""Implementations of a kernel side by side, as tables: wall clock, device time, comparison. One value feeds text, CSV and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from npuscope.analysis.kernel_row import DEVICE, SIMULATED, WALL_CLOCK, KernelRow
from npuscope.report.grid import Grid, table
from npuscope.units import format_ns, format_percent

if TYPE_CHECKING:
    from npuscope.analysis.kernel_comparison import KernelComparison

_LISTS: Final = frozenset({"warnings", "notes", "round_medians_ms", "remarks"})
_MOST_PARTS: Final = 6


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table without its rendering."""

    title: str
    headings: tuple[str, ...]
    """`<` before a heading: a column of text."""
    rows: tuple[tuple[str, ...], ...]

    def grid(self) -> Grid:
        """For a terminal."""
        return table(self.headings, self.rows, self.title)


def sheets(rows: Sequence[KernelRow]) -> tuple[Sheet, ...]:
    """The tables that these rows fill, for each set of sizes: wall clock, device time, calls, predictions; then failures."""
    made: list[Sheet | None] = []
    groups: dict[str, list[KernelRow]] = {}
    for row in rows:
        groups.setdefault(_config(row), []).append(row)
    for config, members in groups.items():
        able = [row for row in members if row.status == "ok"]
        captured, predicted = ([row for row in able if row.method == method] for method in (DEVICE, SIMULATED))
        made += [
            _wall_clock(config, [row for row in able if row.method == WALL_CLOCK]),
            _device(f"{config}: device time, captured, of the kernel alone", captured),
            _framework(config, [row for row in able if row.host_ms is not None]),
            _device(f"{config}: device time, SIMULATED, no device ran these", predicted),
        ]
    made.append(_failed([row for row in rows if row.status != "ok"]))
    return tuple(_without_empty_columns(sheet) for sheet in made if sheet is not None)


def _without_empty_columns(sheet: Sheet) -> Sheet:
    """Without columns in which no row has anything."""
    kept = [at for at in range(len(sheet.headings)) if any(row[at] != "-" for row in sheet.rows)]
    rows = tuple(tuple(row[at] for at in kept) for row in sheet.rows)
    return Sheet(sheet.title, tuple(sheet.headings[at] for at in kept), rows)


def _wall_clock(config: str, rows: Sequence[KernelRow]) -> Sheet | None:
    if not rows:
        return None
    return Sheet(
        f"{config}: wall clock of an execution, by the host; dispatch is in it, compiling is not",
        (
            "<kernel",
            "<device",
            "compile",
            "first run",
            "steady",
            "95 %",
            "empty program",
            "programs",
            "max abs error",
        ),
        tuple(
            (
                row.implementation,
                row.device,
                _ms(row.compile_ms),
                _ms(row.first_ms),
                _ms(row.steady_ms),
                _interval(row),
                _ms(row.dispatch_floor_ms),
                "-" if row.dispatches is None else f"{row.dispatches:g}",
                _error(row),
            )
            for row in rows
        ),
    )


def _device(title: str, rows: Sequence[KernelRow]) -> Sheet | None:
    if not rows:
        return None
    return Sheet(
        title,
        (
            "<kernel",
            "<device",
            "total µs",
            "95 %",
            "tensor µs",
            "DMA µs",
            "MFU",
            "<bound",
            "compile",
            "max abs error",
        ),
        tuple(
            (
                row.implementation,
                row.device + (f", {row.lnc} cores as one" if row.lnc > 1 else ""),
                _us(None if row.steady_ms is None else 1e3 * row.steady_ms),
                _interval(row),
                _us(row.tensor_us),
                _us(row.dma_us),
                "-" if row.mfu is None else format_percent(row.mfu),
                row.bound or "-",
                _ms(row.compile_ms),
                _error(row),
            )
            for row in rows
        ),
    )


def _framework(config: str, rows: Sequence[KernelRow]) -> Sheet | None:
    """Calls through torch-xla: what the seed of this comparison called torch time."""
    if not rows:
        return None
    return Sheet(
        f"{config}: calls through torch-xla, by the host; dispatch is in them, and compiling where they compile again",
        ("<kernel", "torch time", "first call", "compile", "<notes"),
        tuple(
            (
                row.implementation,
                _ms(row.host_ms),
                _ms(row.first_ms),
                _ms(row.compile_ms),
                f"COMPILES AGAIN {row.host_recompilations:g} TIMES PER CALL"
                if row.host_recompilations
                else "compiled once",
            )
            for row in rows
        ),
    )


def _failed(rows: Sequence[KernelRow]) -> Sheet | None:
    if not rows:
        return None
    return Sheet(
        "Failed",
        ("<kernel", "<config", "<device", "<why"),
        tuple((row.implementation, _config(row), row.device, row.error) for row in rows),
    )


def comparison_lines(comparisons: Sequence[KernelComparison]) -> list[str]:
    """Each comparison in a sentence, with what makes the difference; what is refused stands last, each reason once."""
    lines = []
    several = len({(item.config, item.dtype) for item in comparisons}) > 1
    for item in comparisons:
        if item.verdict == "refused":
            continue
        lines.append((f"{item.config} {item.dtype}: " if several else "") + item.sentence)
        lines += [f"  {line}" for line in _why(item)]
    refused: dict[str, list[str]] = {}
    for item in comparisons:
        if item.verdict == "refused":
            pair = f"{item.first} and {item.second}"
            if pair not in refused.setdefault(item.reason, []):
                refused[item.reason].append(pair)
    return lines + [f"not compared: {', '.join(pairs)}: {reason}" for reason, pairs in refused.items()]


def _why(item: KernelComparison) -> list[str]:
    lines = [
        f"{part.part}: {format_ns(1e6 * part.first_ms)} in {item.first}, {format_ns(1e6 * part.second_ms)} in {item.second}"
        + (
            ""
            if part.share is None or abs(part.share) > 9.995
            else f" ({format_percent(part.share)} of the difference)"
        )
        for part in item.contributions[:_MOST_PARTS]
    ]
    if item.engines and item.contributions:
        lines[0] = f"time not hidden behind a busier engine: {lines[0]}"
    if item.engines:
        told = [
            f"{each.engine} {each.first_us:.2f} µs against {each.second_us:.2f} µs"
            for each in item.engines
            if abs(each.change_us) >= 0.005
        ]
        lines.append("active: " + ("; ".join(told) if told else "every engine as long in both"))
    return [*lines, *(f"also: {remark}" for remark in item.remarks)]


def comparisons_csv(comparisons: Sequence[KernelComparison]) -> str:
    """`comparisons.csv`: every pair, with its ratio, interval, verdict and reason."""
    from npuscope.analysis.kernel_comparison import KernelComparison

    return _csv(KernelComparison, comparisons, without=("contributions", "engines"))


def csv_text(rows: Sequence[KernelRow]) -> str:
    """`results.csv`: every field of every row."""
    return _csv(KernelRow, rows)


def _csv(kind: Any, rows: Sequence[Any], without: Sequence[str] = ()) -> str:
    """Fields as columns; texts never start a spreadsheet formula."""
    from npuscope.formats.results import format_csv_line

    names = [item.name for item in fields(kind) if item.name not in without]
    lines = [format_csv_line(names)]
    for row in rows:
        values = [getattr(row, name) for name in names]
        lines.append(
            format_csv_line(
                " | ".join(map(str, value)) if name in _LISTS else value
                for name, value in zip(names, values, strict=True)
            )
        )
    return "".join(lines)


def _config(row: KernelRow) -> str:
    return f"{row.config}, {row.dtype}"


def _ms(value: float | None) -> str:
    return "-" if value is None else format_ns(1e6 * value)


def _us(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _interval(row: KernelRow) -> str:
    if row.steady_ci_low_ms is None or row.steady_ci_high_ms is None:
        return "-"
    return f"{_ms(row.steady_ci_low_ms)} to {_ms(row.steady_ci_high_ms)}"


def _error(row: KernelRow) -> str:
    return "not checked" if row.max_abs_error is None else f"{row.max_abs_error:.2g}"
