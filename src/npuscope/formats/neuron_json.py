"""The vendor's profile JSON (data_version 8): `view --output-format json`, one object of some twenty arrays of rows.

Read in one pass and in bounded memory: each block of rows becomes Arrow columns at once. What goes where stands in
`neuron_json_maps`; units in `neuron_units`. Source: 28 real files; see docs/formats/neuron-json.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from npuscope.errors import FormatError, shorten
from npuscope.formats.inspection import Inspection
from npuscope.formats.json_columns import ColumnBuilder, typed_array, value_text
from npuscope.formats.json_stream import iterate_document
from npuscope.formats.neuron_json_maps import (
    DATA_VERSION,
    EXPECTED_KEYS,
    HBM_COLUMNS,
    MAPS,
    METADATA_COLUMNS,
    OTHER_CLOCKS,
    SUMMARY_METADATA,
    UI_KEYS,
    USAGE_COLUMNS,
    USAGE_TABLES,
    KeyMap,
)
from npuscope.formats.neuron_json_tables import finish_tables
from npuscope.formats.neuron_units import normalise_summary
from npuscope.profile.schema import arrow_schema, columns_of, tables
from npuscope.profile.summary import with_summary
from npuscope.profile.tables import Profile, make_profile

MAX_SINGLE_ROWS = 4096
"""Rows that `summary`, `metadata` and `profile_info` may have: one a core."""
MAX_EXTRA_TABLES = 64
"""Top-level arrays that no map knows and that are kept nevertheless."""
BLOCK_BYTES = 1 << 20
"""How much text to hold as Python objects at once: they take ten times the space of the text."""
_SINGLES = ("summary", "metadata", "profile_info")
_OTHER_FORMATS = {
    "traceEvents": "a Chrome trace (traceEvents)",
    "trace_events": "a system profile (trace_events)",
    "mem_usage": "a system profile (mem_usage)",
    "cpu_util": "a system profile (cpu_util)",
}
_DMA_AGGREGATED = KeyMap("DmaPacketAggregated", MAPS["dma"].columns, MAPS["dma"].skipped)
_TIME_UNITS = frozenset({"nanoseconds"})


class _AnyKey(Mapping[str, Any]):
    """Element types for `iterate_document`: rows where the key is known, anything else where it is not."""

    def __getitem__(self, key: str) -> Any:
        return dict[str, Any] if key in MAPS or key in _SINGLES or key == "instruction_usage" else Any

    def __contains__(self, key: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(MAPS)

    def __len__(self) -> int:
        return len(MAPS)


@dataclass(slots=True)
class RawProfile:
    """What a pass over the file collected."""

    source: object
    """What to call the file in an error."""
    builders: dict[str, ColumnBuilder] = field(default_factory=dict)
    """Table to its columns."""
    counts: dict[str, int] = field(default_factory=dict)
    """Top-level key to its number of rows."""
    singles: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The rows of `summary`, `metadata`, `profile_info`."""
    edges: list[pa.Table] = field(default_factory=list)
    """`in_id`, `out_id`, `dependency_type`: the predecessors of instructions."""
    notes: list[str] = field(default_factory=list)


def read_neuron_json(path: Path) -> Profile:
    """Read a profile that the vendor's tool wrote as JSON.

    Returns:
        All rows of the file; times in ns from the start of the profile.

    Raises:
        FormatError: It is no JSON, no profile, or a value is not of its type; with the byte or the key and row.
    """
    raw = collect_json(path)
    metadata = _metadata(raw, path)
    summary, notes = normalise_summary(raw.singles.get("summary", []), _profile_seconds(metadata))
    made, more = finish_tables(raw.builders, raw.edges, summary, metadata, source=path)
    if summary:
        made["VendorSummary"] = summary_table(summary, source=path)
    made["Metadata"] = _metadata_table(metadata, path)
    return with_summary(make_profile(made, source=str(path), notes=(*raw.notes, *notes, *more), strict=False))


def collect_json(path: Path) -> RawProfile:
    """One pass over the file: rows to columns, key by key.

    Raises:
        FormatError: See `read_neuron_json`.
    """
    raw = RawProfile(path)
    open_key = ""
    for key, value in iterate_document(path, _AnyKey(), block_bytes=BLOCK_BYTES):
        if key in raw.counts and key != open_key:
            raise FormatError(path, where=f"key {shorten(key)}", expected="each key once", found="the key again")
        _refuse_other_formats(raw, key, value)
        open_key = key
        count = raw.counts.get(key, 0)
        if not isinstance(value, list):
            if key in MAPS or key in _SINGLES:
                raise FormatError(path, where=f"key {key}", expected="an array of rows", found=value_text(value))
            value = [value] if isinstance(value, dict) and key not in UI_KEYS else []
            raw.notes.append(f"key {shorten(key)} holds no rows")
        _take(raw, key, value, count)
        raw.counts[key] = count + len(value)
    if not any(key in raw.counts for key in EXPECTED_KEYS):
        found = "keys " + ", ".join(list(raw.counts)[:6]) if raw.counts else "no keys"
        raise FormatError(path, expected="the vendor's profile JSON (keys summary, metadata, instruction)", found=found)
    _note_left_out(raw)
    return raw


def _refuse_other_formats(raw: RawProfile, key: str, value: Any) -> None:
    """Stop at once at what is another kind of file, however large."""
    found = _OTHER_FORMATS.get(key, "")
    if key == "" and not raw.counts:
        kind = type(value[0]).__name__ if isinstance(value, list) and value else "nothing"
        found = f"an array of {kind}" if isinstance(value, list) else f"{value_text(value)}"
    if found and not any(name in raw.counts for name in EXPECTED_KEYS):
        raise FormatError(raw.source, expected="the vendor's profile JSON, an object of arrays", found=found)


def _take(raw: RawProfile, key: str, rows: list[Any], first: int) -> None:
    numbers = range(first, first + len(rows))
    if key in UI_KEYS:
        return
    if key in _SINGLES:
        raw.singles.setdefault(key, []).extend(rows)
        if len(raw.singles[key]) > MAX_SINGLE_ROWS:
            raise FormatError(raw.source, where=f"key {key}", expected=f"up to {MAX_SINGLE_ROWS} rows", found="more")
    elif key == "dma":
        packets = [row.get("aggregated") not in ("yes", True) for row in rows]
        _add_some(raw, MAPS[key], key, rows, [n for n, packet in enumerate(packets) if packet], first)
        _add_some(raw, _DMA_AGGREGATED, key, rows, [n for n, packet in enumerate(packets) if not packet], first)
    elif key == "instruction_usage":
        _take_usage(raw, rows, first)
    elif key in MAPS:
        if key == "instruction":
            _take_edges(raw, rows, first)
        _builder(raw, MAPS[key], key).add(rows, numbers=numbers)
        if key == "dma_throughput":
            hbm = [{name: row.get(name) for name in ("timestamp", *MAPS[key].skipped)} for row in rows]
            _builder(raw, KeyMap("HbmUsage", HBM_COLUMNS), key).add(hbm, numbers=numbers)
    else:
        _take_unknown(raw, key, rows)


def _add_some(raw: RawProfile, where: KeyMap, key: str, rows: list[Any], chosen: list[int], first: int) -> None:
    if chosen:
        _builder(raw, where, key).add([rows[n] for n in chosen], numbers=[first + n for n in chosen])


def _take_usage(raw: RawProfile, rows: list[Any], first: int) -> None:
    """`instruction_usage` holds SBUF and PSUM samples; a third kind would be kept under its own name."""
    kinds = dict.fromkeys(str(row.get("type")) for row in rows)
    for kind in kinds:
        table = USAGE_TABLES.get(kind)
        where = KeyMap(table, USAGE_COLUMNS, frozenset({"type"})) if table else KeyMap("instruction_usage")
        chosen = [n for n, row in enumerate(rows) if str(row.get("type")) == kind]
        _add_some(raw, where, "instruction_usage", rows, chosen, first)
        if table is None:
            note = f"instruction_usage has rows of unknown type {shorten(kind, 20)}; kept in table instruction_usage"
            raw.notes += [] if note in raw.notes or len(raw.notes) > MAX_EXTRA_TABLES else [note]


def _take_edges(raw: RawProfile, rows: list[Any], first: int) -> None:
    """`predecessors` of an instruction: one edge each, from the predecessor to the instruction."""
    edges = []
    for number, row in enumerate(rows, first):
        framework = row.get("raw_framework_id")
        if isinstance(framework, list) and len(framework) != 1:
            row["raw_framework_ids"] = row.pop("raw_framework_id")
        found = row.get("predecessors")
        if found is None:
            continue
        if not isinstance(found, list) or not all(isinstance(edge, dict) for edge in found):
            place = f"key instruction[{number}].predecessors"
            raise FormatError(raw.source, where=place, expected="a list of objects", found=value_text(found))
        edges += [(number, edge.get("id"), row.get("id"), edge.get("type")) for edge in found]
    if not edges:
        return
    numbers, before, after, kinds = zip(*edges, strict=True)
    place = "key instruction[{}].predecessors.id"
    columns = {
        "in_id": typed_array(before, pa.int64(), source=raw.source, where=place, numbers=numbers),
        "out_id": typed_array(after, pa.int64(), source=raw.source, where="key instruction[{}].id", numbers=numbers),
        "dependency_type": typed_array(kinds, pa.string(), source=raw.source, where=place, numbers=numbers),
    }
    raw.edges.append(pa.table(columns))


def _take_unknown(raw: RawProfile, key: str, rows: list[Any]) -> None:
    name = re.sub(r"[^A-Za-z0-9_]", "_", key)[:64] or "unnamed"
    name = f"{name}_json" if name in tables() or name.lower() in {known.lower() for known in tables()} else name
    kept = [row for row in rows if isinstance(row, dict)]
    unknown = [known for known in raw.builders if known not in tables()]
    if kept and (name in unknown or len(unknown) < MAX_EXTRA_TABLES):
        _builder(raw, KeyMap(name), key).add(kept)
        note = f"key {shorten(key, 40)} is unknown to this version; kept as table {name}"
    else:
        note = f"key {shorten(key, 40)} is unknown to this version and left out"
    if note not in raw.notes and len(raw.notes) <= 2 * MAX_EXTRA_TABLES:
        raw.notes.append(note)


def _builder(raw: RawProfile, where: KeyMap, key: str) -> ColumnBuilder:
    if where.table not in raw.builders:
        known = columns_of(where.table)
        times = {name for name, column in known.items() if column.unit in _TIME_UNITS or name.startswith("dma_trigger")}
        raw.builders[where.table] = ColumnBuilder(
            source=raw.source,
            key=key,
            schema={name: column.type for name, column in known.items()},
            names=where.columns,
            skipped=where.skipped,
            flexible=frozenset(times | ({"trigger", "completion"} & set(known))),
        )
    return raw.builders[where.table]


def _note_left_out(raw: RawProfile) -> None:
    for name, builder in raw.builders.items():
        if builder.left_out:
            raw.notes.append(f"{name}: {len(builder.left_out)} or more unknown keys were left out")
    raw.notes += [f"key {key} is missing" for key in ("metadata", "summary", "instruction") if key not in raw.counts]


def _metadata(raw: RawProfile, path: Path) -> dict[str, Any]:
    """One row of `Metadata`, from four arrays of the JSON."""
    found: dict[str, Any] = {}
    summary = raw.singles.get("summary", [{}])[:1]
    parts = [{key: row.get(key) for key in SUMMARY_METADATA} for row in summary]
    for key in ("profile_info", "metadata"):
        rows = raw.singles.get(key, [])
        parts += rows[:1]
        if len(rows) > 1:
            raw.notes.append(f"{key} has {len(rows)} rows; the first is used")
    for part in parts:
        found |= {METADATA_COLUMNS.get(key, key): value for key, value in part.items() if value is not None}
    version = found.get("data_version")
    if version != DATA_VERSION:
        told = "no data_version" if version is None else f"data_version {shorten(value_text(version), 20)}"
        raw.notes.append(f"{told}; this reader was verified on data_version {DATA_VERSION}")
    if "neuroncore_clock_freq" in found:
        found |= {name: found.get(name, found["neuroncore_clock_freq"]) for name in OTHER_CLOCKS}
    header = raw.builders.get("NeffHeader")
    if "neff_path" in found and header is None:
        _builder(raw, MAPS["neff_header"], "profile_info").add([{"neff_path": found["neff_path"]}])
    found |= {"source_format": "neuron-json", "source_path": str(path)}
    found.setdefault("is_simulation", False)
    if found.get("instance_type"):
        found["device"] = found["instance_type"]
    return found


def _metadata_table(metadata: Mapping[str, Any], path: Path) -> pa.Table:
    builder = ColumnBuilder(path, "metadata", {field.name: field.type for field in arrow_schema("Metadata")})
    builder.add([metadata])
    return builder.table()


def _profile_seconds(metadata: Mapping[str, Any]) -> float | None:
    first, last = metadata.get("first_hw_timestamp", 0), metadata.get("last_hw_timestamp")
    if isinstance(first, int) and isinstance(last, int) and last > first:
        return (last - first) / 1e9
    return None


def summary_table(rows: list[dict[str, Any]], *, source: object) -> pa.Table:
    """Summary rows as `VendorSummary`: known figures as numbers, integers where the schema has them and they are whole.

    Raises:
        FormatError: A known figure is no number.
    """
    schema = {field.name: field.type for field in arrow_schema("VendorSummary")}
    builder = ColumnBuilder(source, "summary", schema, flexible=frozenset(schema))
    builder.add(rows)
    return builder.table()


def inspect_neuron_json(path: Path) -> Inspection:
    """What a profile JSON is and holds.

    Raises:
        FormatError: See `read_neuron_json`.
    """
    raw = collect_json(path)
    metadata = _metadata(raw, path)
    header = raw.builders["NeffHeader"].table().to_pylist()[0] if "NeffHeader" in raw.builders else {}
    facts = {
        "size_bytes": path.stat().st_size,
        "data_version": metadata.get("data_version"),
        "ntff_version": metadata.get("ntff_version"),
        "instance_type": metadata.get("instance_type"),
        "profiler_version": metadata.get("explorer_version"),
        "compiler_version": metadata.get("compiler_version"),
        "neff_uuid": header.get("uuid"),
        "neff_path": metadata.get("neff_path"),
        "ntff_path": metadata.get("ntff_path"),
        "is_simulation": metadata.get("is_simulation"),
    }
    known = {key: value for key, value in facts.items() if value is not None}
    rows = [{"key": key, "rows": count, "goes_to": _target(key)} for key, count in sorted(raw.counts.items())]
    events = raw.counts.get("instruction", 0)
    title = f"vendor profile JSON, {events} instructions and {raw.counts.get('dma', 0)} DMA rows"
    return Inspection("neuron-json", str(path), title, known, {"Keys": rows}, tuple(raw.notes))


def _target(key: str) -> str:
    if key in UI_KEYS:
        return "dropped: texts of the user interface"
    special = {
        "summary": "VendorSummary",
        "metadata": "Metadata",
        "profile_info": "Metadata",
        "instruction_usage": "SbufUsage, PsumUsage",
        "dma": "DmaPacket, DmaPacketAggregated",
        "dma_throughput": "DmaUsage, HbmUsage",
        "instruction": "Instruction, Flow",
    }
    return special.get(key) or (MAPS[key].table if key in MAPS else f"{key} (unknown)")
