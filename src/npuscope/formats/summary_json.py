"""The vendor's summaries without events: `view --output-format summary-json`, and the table of `show-session`.

summary-json occurs in four shapes: an object of one flat object a node, an array of flat objects, either under the key
`summary`, and one flat object. No real file is public: the shapes are those that its users' scripts read. The table is
drawn with ASCII or box characters, or aligned with blanks; a node of several cores leaves cells of its later rows empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from npuscope.errors import FormatError, shorten
from npuscope.formats.inspection import Inspection
from npuscope.formats.json_columns import ColumnBuilder, value_text
from npuscope.formats.neuron_json_maps import METADATA_COLUMNS, SUMMARY_METADATA
from npuscope.formats.neuron_units import normalise_summary
from npuscope.formats.session_table import SessionRow, parse_session_table
from npuscope.profile.schema import arrow_schema, columns_of
from npuscope.profile.tables import Profile, make_profile, one_row

MAX_BYTES = 64 << 20
MAX_NODES = 65_536
_MAX_DEPTH = 4
_PS_PER_S = 1e12


@dataclass(frozen=True, slots=True)
class Node:
    """The summary of one node or model."""

    name: str
    """Its key in the file; '' where it has none."""
    figures: Mapping[str, Any]


def read_summary_json(path: Path) -> Profile:
    """Read a summary-json of any shape.

    Returns:
        `VendorSummary` with a row a node (column `name`), seconds and fractions, and `Metadata`. There are no events,
        so there is no `Summary`.

    Raises:
        FormatError: It is no JSON, or holds no summary figures.
    """
    nodes = list(_nodes(_decoded(path), "", path, 0))
    known = columns_of("Summary")
    nodes = [node for node in nodes if any(key in known for key in node.figures)]
    if not nodes:
        expected = "summary figures such as total_time"
        raise FormatError(path, expected=expected, found="none in this JSON")
    rows, notes = normalise_summary([{"name": node.name, **node.figures} for node in nodes])
    if len(rows) > 1:
        names = ", ".join(shorten(str(row["name"]), 30) for row in rows[:6])
        notes.append(f"{len(rows)} nodes: {names}")
    notes.append("a summary without events: nothing here can be recomputed")
    first = {METADATA_COLUMNS.get(key, key): rows[0].get(key) for key in SUMMARY_METADATA}
    return _profile(_summary_table(rows, path), first, "summary-json", path, notes)


def _decoded(path: Path) -> Any:
    try:
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no such file"
            raise FormatError(path, expected="a summary-json file", found=found)
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise FormatError(path, expected=f"a summary of at most {MAX_BYTES} bytes", found=f"{size} bytes")
        return msgspec.json.decode(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except OSError as error:
        raise FormatError(path, expected="a readable file", found=error.strerror or str(error)) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        found = "too many levels" if isinstance(error, RecursionError) else str(error)
        raise FormatError(path, expected="valid JSON", found=found) from error


def _nodes(value: Any, name: str, path: Path, depth: int) -> Iterator[Node]:
    """Flat objects, wherever they lie; the keys on the way are their names."""
    if depth > _MAX_DEPTH:
        raise FormatError(path, where=f"key {shorten(name)}", expected="an object of figures", found="deeper nesting")
    if isinstance(value, list):
        for index, part in enumerate(value[: MAX_NODES + 1]):
            if index == MAX_NODES:
                raise FormatError(path, expected=f"at most {MAX_NODES} nodes", found=f"{len(value)}")
            yield from _nodes(part, name, path, depth + 1)
    elif isinstance(value, dict) and value and all(isinstance(part, dict | list) for part in value.values()):
        for key, part in value.items():
            yield from _nodes(part, name if key == "summary" else key, path, depth + 1)
    elif isinstance(value, dict):
        yield Node(name, value)
    else:
        place = f"key {shorten(name)}" if name else ""
        raise FormatError(path, where=place, expected="an object of figures", found=value_text(value))


def _summary_table(rows: list[dict[str, Any]], path: Path) -> pa.Table:
    schema = {field.name: field.type for field in arrow_schema("VendorSummary")}
    builder = ColumnBuilder(path, "summary", schema | {"name": pa.string()}, flexible=frozenset(schema))
    builder.add(rows)
    return builder.table()


def _profile(summary: pa.Table, known: Mapping[str, Any], kind: str, path: Path, notes: list[str]) -> Profile:
    values = {key: value for key, value in known.items() if value is not None}
    values |= {"is_simulation": False, "source_format": kind, "source_path": str(path)}
    values |= {"device": values["instance_type"]} if values.get("instance_type") else {}
    schema = {field.name: field.type for field in arrow_schema("Metadata")}
    builder = ColumnBuilder(path, "summary", schema)
    builder.add([values])
    tables = {"VendorSummary": summary, "Metadata": builder.table()}
    return make_profile(tables, source=str(path), notes=notes, strict=False)


def inspect_summary_json(path: Path) -> Inspection:
    """What a summary-json holds: its nodes with their main figures.

    Raises:
        FormatError: See `read_summary_json`.
    """
    profile = read_summary_json(path)
    shown = ("name", "nd_idx", "nc_idx", "total_time", "total_active_time", "mfu_estimated_percent", "hardware_flops")
    table = profile.tables["VendorSummary"]
    columns = [name for name in shown if name in table.column_names]
    rows = table.select(columns).to_pylist()
    facts = {"size_bytes": path.stat().st_size, "nodes": len(rows), "figures": len(table.column_names) - 1}
    title = f"summary-json, {len(rows)} node{'s' if len(rows) != 1 else ''}"
    return Inspection("summary-json", str(path), title, facts, {"Nodes": rows}, profile.notes)


def read_show_session(path: Path) -> Profile:
    """Read the table that `neuron-profile show-session` printed.

    Returns:
        `VendorSummary` with a row a core: `total_time` in seconds from the column CYCLES, which counts picoseconds
        and not cycles; `ExecutionInfo` with a row a node.

    Raises:
        FormatError: There is no such table, or a cell holds no number.
    """
    rows = parse_session_table(_text(path), source=path)
    summary = {
        "name": [row.name for row in rows],
        "node_id": pa.array([row.node_id for row in rows], pa.int64()),
        "executor": [row.executor for row in rows],
        "nd_idx": pa.array([row.device_idx for row in rows], pa.int64()),
        "nc_idx": pa.array([row.core_idx for row in rows], pa.int64()),
        "exec_time_ns": pa.array([row.exec_time_ns for row in rows], pa.int64()),
        "total_time": pa.array([_seconds(row) for row in rows], pa.float64()),
        "total_time_ps": pa.array([row.ticks for row in rows], pa.int64()),
        "trace_count": pa.array([row.trace_count for row in rows], pa.int64()),
        "event_count": pa.array([row.event_count for row in rows], pa.int64()),
        "error_count": pa.array([row.error_count for row in rows], pa.int64()),
    }
    notes = ["CYCLES counts picoseconds, not cycles of the core; read as total_time"]
    if any(row.exec_time_ns == 0 for row in rows):
        notes.append("EXEC TIME is 0: the tool did not tell it")
    nodes = dict.fromkeys(row.node_id for row in rows)
    executions = {
        "execution_index": list(range(len(nodes))),
        "num_subgraphs": [sum(row.node_id == node for row in rows) for node in nodes],
    }
    first = {"neuron_device_idx": rows[0].device_idx, "neuroncore_idx": rows[0].core_idx}
    metadata = {"is_simulation": False, "source_format": "show-session", "source_path": str(path), **first}
    made = {"VendorSummary": pa.table(summary), "ExecutionInfo": executions, "Metadata": one_row(metadata)}
    return make_profile(made, source=str(path), notes=notes)


def _seconds(row: SessionRow) -> float | None:
    return None if row.ticks is None else row.ticks / _PS_PER_S


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise FormatError(path, expected="a show-session table", found="no such file")
        if path.stat().st_size > MAX_BYTES:
            raise FormatError(path, expected=f"a table of at most {MAX_BYTES} bytes", found="a larger file")
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise FormatError(path, expected="a readable file", found=error.strerror or str(error)) from error


def inspect_show_session(path: Path) -> Inspection:
    """What a show-session table tells, a row a core.

    Raises:
        FormatError: See `read_show_session`.
    """
    profile = read_show_session(path)
    rows = profile.tables["VendorSummary"].to_pylist()
    title = f"show-session table, {len(rows)} core{'s' if len(rows) != 1 else ''}"
    nodes = profile.rows("ExecutionInfo")
    facts = {"size_bytes": path.stat().st_size, "nodes": nodes, "cores": len(rows)}
    return Inspection("show-session", str(path), title, facts, {"Cores": rows}, profile.notes)
