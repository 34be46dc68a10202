"""The vendor's system profile: what the host did (runtime and framework events, memory, CPU), as JSON.

`view -d FOLDER --output-format json` writes `system_profile.json`: an object of three arrays, times in Unix ns.
Source: aws-neuron/aws-neuron-sdk, archive/profiler/neuron-profiler-2-0-beta-user-guide.rst; no real file is public.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from npuscope.errors import FormatError, shorten
from npuscope.formats.inspection import Inspection
from npuscope.formats.json_columns import ColumnBuilder, value_text
from npuscope.formats.json_stream import iterate_document
from npuscope.profile.schema import columns_of
from npuscope.profile.summary import with_summary
from npuscope.profile.tables import Profile, make_profile, one_row

UNIX_NS = 10**17
"""Times at or above this (March 1973) count from 1970, smaller ones from the start of a profile."""
SYSTEM_TABLES = ("SystemProfileEvents", "CpuUsage", "HostMemUsage", "SystemProfileHbmUsage")
"""Tables whose times run on the host's clock."""
_BLOCK_BYTES = 1 << 20
_PERCENT = 0.01
_CORE = re.compile(r"nrt-nc-(\d{1,6})")
_EVENT_NAMES = {"timestamp": "start_ts", "duration": "duration_ns", "lnc_idx": "nc_idx"}
_KEYS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "trace_events": ("SystemProfileEvents", _EVENT_NAMES),
    "mem_usage": ("HostMemUsage", {"usage": "used_bytes", "percent_usage": "used_percent"}),
    "cpu_util": ("CpuUsage", {"util": "util_percent"}),
}
"""Top-level key to table and renamed columns. `*_percent` run from 0 to 100 there."""


def read_system_profile(path: Path) -> Profile:
    """Read `system_profile.json`.

    Returns:
        `SystemProfileEvents`, `HostMemUsage`, `CpuUsage`; times from the earliest of them, which
        `Metadata.start_unix_ns` holds; percentages as fractions.

    Raises:
        FormatError: It is no JSON, no system profile, or a value is not of its type.
    """
    builders, notes = _collect(path)
    tables = {name: _finished(name, builder.table(), path) for name, builder in builders.items() if builder.rows}
    tables, start = shift_to_start(tables, source=path)
    metadata: dict[str, Any] = {
        "is_simulation": False,
        "source_format": "neuron-json",
        "source_path": str(path),
        "profile_type": "system",
        "start_unix_ns": start,
    }
    return with_summary(make_profile({**tables, "Metadata": one_row(metadata)}, source=str(path), notes=notes))


def _collect(path: Path) -> tuple[dict[str, ColumnBuilder], list[str]]:
    builders: dict[str, ColumnBuilder] = {}
    seen: dict[str, int] = {}
    notes: list[str] = []
    element_types = dict.fromkeys(_KEYS, dict[str, Any])
    for key, value in iterate_document(path, element_types, block_bytes=_BLOCK_BYTES):
        if key not in _KEYS:
            notes += [f"key {shorten(key, 40)} is unknown to this version and left out"] if len(notes) < 64 else []
            continue
        if not isinstance(value, list):
            raise FormatError(path, where=f"key {key}", expected="an array of rows", found=value_text(value))
        table, names = _KEYS[key]
        if table not in builders:
            schema = {name: column.type for name, column in columns_of(table).items()}
            builders[table] = ColumnBuilder(path, key, schema, names)
        builders[table].add([_row(row) for row in value] if key == "trace_events" else value)
        seen[key] = seen.get(key, 0) + len(value)
    if not seen:
        expected = "a system profile (keys trace_events, mem_usage, cpu_util)"
        raise FormatError(path, expected=expected, found="none of these keys")
    return builders, notes


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """One event: what the schema has no column for goes to `extra_attributes_json`."""
    known = columns_of("SystemProfileEvents")
    made = {key: value for key, value in row.items() if _EVENT_NAMES.get(key, key) in known}
    extra = {key: value for key, value in row.items() if key not in made}
    group = row.get("group")
    if isinstance(group, str):
        made["trace_event_source"] = "framework" if group.startswith("framework") else "neuron_rt"
        made.setdefault("thread_name", group)
        core = _CORE.match(group)
        if core and made.get("lnc_idx") is None and "nc_idx" not in made:
            made["nc_idx"] = int(core.group(1))
    if extra:
        made["extra_attributes_json"] = json.dumps(extra, sort_keys=True)
    return made


def _finished(name: str, table: pa.Table, path: Path) -> pa.Table:
    """End times, fractions, and an error where a row has no time."""
    start = "start_ts" if name == "SystemProfileEvents" else "timestamp"
    missing = table.num_rows if start not in table.column_names else table.column(start).null_count
    if missing:
        raise FormatError(path, where=name, expected="a timestamp in every row", found=f"{missing} rows without")
    for column in ("used_percent", "util_percent"):
        if column in table.column_names:
            fraction = pc.multiply(table.column(column), _PERCENT)
            table = table.set_column(table.column_names.index(column), column, fraction)
    if name == "SystemProfileEvents" and "duration_ns" in table.column_names:
        try:
            end = pc.add_checked(table.column("start_ts"), pc.fill_null(table.column("duration_ns"), 0))
        except pa.ArrowInvalid:
            raise FormatError(path, where=name, expected="an end that int64 holds", found="a later one") from None
        table = table.append_column("end_ts", end)
    return table.take(pc.sort_indices(table, sort_keys=[(start, "ascending")]))


def shift_to_start(tables: Mapping[str, pa.Table], *, source: object) -> tuple[dict[str, pa.Table], int | None]:
    """Host tables with times from the earliest of them on, and that time in Unix ns; None where they are relative.

    Raises:
        FormatError: The times span more than int64.
    """
    starts = []
    for name in SYSTEM_TABLES:
        for column in ("start_ts", "timestamp"):
            if name in tables and column in tables[name].column_names:
                first = pc.min(tables[name].column(column)).as_py()
                starts += [] if first is None else [first]
    origin = min(starts, default=0)
    if origin < UNIX_NS:
        return dict(tables), None
    made = dict(tables)
    for name in set(SYSTEM_TABLES) & set(tables):
        table = made[name]
        for column in {"start_ts", "end_ts", "timestamp"} & set(table.column_names):
            try:
                shifted = pc.subtract_checked(table.column(column), pa.scalar(origin, pa.int64()))
            except pa.ArrowInvalid:
                place = f"{name}.{column}"
                raise FormatError(
                    source, where=place, expected="times that int64 holds", found="a wider span"
                ) from None
            table = table.set_column(table.column_names.index(column), column, shifted)
        made[name] = table
    return made, int(origin)


def inspect_system_profile(path: Path) -> Inspection:
    """What a system profile holds.

    Raises:
        FormatError: See `read_system_profile`.
    """
    profile = read_system_profile(path)
    rows: Sequence[Mapping[str, Any]] = [
        {"table": name, "rows": profile.rows(name)} for name in SYSTEM_TABLES if profile.rows(name)
    ]
    facts = {"size_bytes": path.stat().st_size, "start_unix_ns": profile.metadata.get("start_unix_ns")}
    known = {key: value for key, value in facts.items() if value is not None}
    title = f"system profile, {profile.rows('SystemProfileEvents')} events of the host"
    return Inspection("system-profile", str(path), title, known, {"Tables": rows}, profile.notes)
