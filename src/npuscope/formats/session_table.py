"""The table that `neuron-profile show-session` prints, drawn with `|` and `+---+`, box characters, or blanks alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from npuscope.errors import FormatError

MAX_ROWS = 100_000
_BARS = str.maketrans("│┃║", "|||")
_RULE = re.compile(r"[\s|+\-=_\u2500-\u257f]*")
_CELL = re.compile(r"\S+(?: \S+)*")
_EXECUTOR = re.compile(r"ND\s*(\d{1,9})\s+NC\s*(\d{1,9})")
_EXEC_TIME = re.compile(r"EXEC TIME \((NS|US|µS|MS|S)\)")
_NS = {"NS": 1, "US": 10**3, "µS": 10**3, "MS": 10**6, "S": 10**9}
_REQUIRED = ("NODE ID", "CYCLES")
_INT64_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One core of one node; None where the cell is empty."""

    node_id: int | None
    exec_time_ns: int | None
    executor: str
    """Such as `ND 0 NC 4`."""
    device_idx: int | None
    core_idx: int | None
    name: str
    trace_count: int | None
    ticks: int | None
    """The column CYCLES: picoseconds."""
    event_count: int | None
    error_count: int | None

    @property
    def duration_ns(self) -> float | None:
        """The time of one execution on this core: CYCLES counts picoseconds, not cycles of a core.

        In the one table that is public beside the profile of the same capture, CYCLES 45,256,596 is `total_time`
        4.5256596e-05 s, while that profile's cycle count is 54,307.
        """
        return None if self.ticks is None else self.ticks / 1000


def parse_session_table(text: str, *, source: object) -> list[SessionRow]:
    """The rows of the first table in a text; what stands before and behind it is passed over.

    Raises:
        FormatError: There is no such table or no row in it, or a cell holds no number.
    """
    lines = text.translate(_BARS).splitlines()
    start = next(
        (at for at, line in enumerate(lines) if "NODE ID" in line.upper() and "EXEC TIME" in line.upper()), None
    )
    if start is None:
        raise FormatError(source, expected="a show-session table (NODE ID, EXEC TIME, ...)", found="no such header")
    header = lines[start].upper()
    ruled = "|" in header
    names = _cells(header) if ruled else [match.group() for match in _CELL.finditer(header)]
    spans = [match.span() for match in _CELL.finditer(header)]
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        place = f"line {start + 1}"
        raise FormatError(source, where=place, expected=f"a column {missing[0]}", found=lines[start].strip())
    rows: list[SessionRow] = []
    node: Mapping[str, str] = {}
    for number, line in enumerate(lines[start + 1 :], start + 2):
        if _RULE.fullmatch(line):
            if rows and not ruled and not line.strip():
                break
            continue
        if ruled and "|" not in line:
            break
        cells = _cells(line) if ruled else _aligned(line, spans)
        if len(cells) != len(names):
            found = f"{len(cells)}"
            raise FormatError(source, where=f"line {number}", expected=f"{len(names)} cells", found=found)
        found_cells = dict(zip(names, cells, strict=True))
        if not found_cells["NODE ID"]:
            found_cells["NODE ID"] = node.get("NODE ID", "")
            time = next((name for name in names if name.startswith("EXEC TIME")), "")
            found_cells[time] = found_cells.get(time) or node.get(time, "")
        node = found_cells
        rows.append(_row(found_cells, number, source))
        if len(rows) > MAX_ROWS:
            raise FormatError(source, where=f"line {number}", expected=f"at most {MAX_ROWS} rows", found="more")
    if not rows:
        raise FormatError(source, where=f"line {start + 1}", expected="rows below the header", found="none")
    return rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _aligned(line: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    """The cells of a line without rules: each text belongs to the column whose middle is the nearest."""
    cells = [""] * len(spans)
    for match in _CELL.finditer(line):
        middle = (match.start() + match.end()) / 2
        distances = [abs((start + end) / 2 - middle) for start, end in spans]
        at = distances.index(min(distances))
        cells[at] = f"{cells[at]} {match.group()}".strip()
    return cells


def _row(cells: Mapping[str, str], number: int, source: object) -> SessionRow:
    executor = cells.get("EXECUTOR", "")
    indices = _EXECUTOR.fullmatch(executor.upper())
    time, factor = None, 1
    for name, cell in cells.items():
        unit = _EXEC_TIME.fullmatch(name)
        if unit:
            factor = _NS[unit.group(1)]
            time = _integer(cell, name, number, source, factor)

    def count(name: str) -> int | None:
        return _integer(cells.get(name, ""), name, number, source, 1)

    return SessionRow(
        node_id=count("NODE ID"),
        exec_time_ns=time,
        executor=executor,
        device_idx=int(indices.group(1)) if indices else None,
        core_idx=int(indices.group(2)) if indices else None,
        name=cells.get("NAME", ""),
        trace_count=count("TRACE"),
        ticks=count("CYCLES"),
        event_count=count("EVENTS"),
        error_count=count("ERRORS"),
    )


def _integer(cell: str, name: str, number: int, source: object, factor: int) -> int | None:
    text = cell.replace(",", "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > 19 or int(text) * factor > _INT64_MAX:
        place = f"line {number}, column {name}"
        raise FormatError(source, where=place, expected="a whole number that int64 holds", found=cell)
    return int(text) * factor
