"""Folders of Parquet tables: Neuron Explorer's output (schema 7.4.0 and what still matches of newer ones), and ours.

A file `Table.parquet` or `Table_0.parquet`, `Table_1.parquet`, ... holds a table; columns are matched by name, any
subset of tables will do. What the schema does not know is kept as it is and named in a note. Source: aws-neuron/
aws-neuron-sdk @81ce03ae, tools/neuron-explorer; no real folder is public, so this is verified on synthetic ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa

from npuscope.errors import FormatError, shorten
from npuscope.formats.inspection import Inspection
from npuscope.formats.neuron_json import summary_table
from npuscope.formats.neuron_units import normalise_summary
from npuscope.formats.parquet_columns import as_schema, joined
from npuscope.formats.parquet_file import read_footer, read_parquet
from npuscope.formats.parquet_folder import Folder, find_profile_folder, manifest_of
from npuscope.formats.parquet_units import Declared, declared_units, percent_of_device, scaled, unit_scale
from npuscope.formats.system_profile import shift_to_start
from npuscope.profile.folder import Manifest
from npuscope.profile.schema import OPEN_TABLES, SCHEMA_VERSION, columns_of, tables
from npuscope.profile.summary import with_summary
from npuscope.profile.tables import Profile, make_profile

_SHOWN = 8


def read_neuron_parquet(path: Path) -> Profile:
    """Read a folder of Parquet tables, a folder above exactly one such, or one file of one.

    A folder that npuscope wrote (it has a `profile.json`) is read back as it is.

    Raises:
        FormatError: No table, several profiles, a damaged file, or a column that cannot be what its name means.
    """
    folder = find_profile_folder(path)
    manifest = manifest_of(folder)
    if manifest is not None:
        return _read_ours(folder, manifest)
    raw = {name: [read_parquet(part) for part in parts] for name, parts in folder.tables.items()}
    version = _version(raw)
    newer = _major(version) > _major(SCHEMA_VERSION)
    notes: list[str] = []
    made: dict[str, pa.Table] = {}
    declared = declared_units(joined("SchemaFields", raw.get("SchemaFields", []), source=folder.path))
    percent = percent_of_device(joined("Summary", raw.get("Summary", []), source=folder.path))
    for name in list(raw):
        parts = [_in_units(name, part, declared, percent, notes, folder.path) for part in raw.pop(name)]
        parts = [as_schema(name, part, source=folder.path, tolerant=newer, notes=notes) for part in parts]
        table = joined(name, parts, source=folder.path)
        if table is not None:
            made[name] = table
    notes += _mismatches(made, version)
    made = _vendor_summary(made, notes, folder.path)
    made, start = shift_to_start(made, source=folder.path)
    made["Metadata"] = _metadata(made.get("Metadata"), start, path, notes)
    unique = tuple(dict.fromkeys(notes))
    return with_summary(make_profile(made, source=str(path), notes=unique, strict=not newer))


def read_profile_folder(folder: Path) -> Profile:
    """Read what `profile.folder.write_profile` wrote: the same tables and notes.

    Raises:
        FormatError: No table, a damaged file, or a folder of another writer.
    """
    found = find_profile_folder(folder)
    manifest = manifest_of(found)
    if manifest is None:
        raise FormatError(folder, expected="a profile that npuscope wrote", found="a folder without profile.json")
    return _read_ours(found, manifest)


def _read_ours(folder: Folder, manifest: Manifest) -> Profile:
    made: dict[str, pa.Table] = {}
    whole = {name: [folder.path / f"{name}.parquet"] for name in manifest.tables}
    for name, files in (folder.tables if folder.is_file else whole).items():
        table = joined(name, [read_parquet(file) for file in files], source=folder.path)
        if table is not None:
            made[name] = as_schema(name, table, source=folder.path)
    profile = make_profile(made, source=str(folder.path), notes=manifest.notes)
    return profile if profile.rows("Summary") or folder.is_file else with_summary(profile)


def _version(raw: Mapping[str, list[pa.Table]]) -> str:
    for part in raw.get("Metadata", []):
        if "profile_schema_version" in part.column_names and part.num_rows:
            return str(part.column("profile_schema_version")[0].as_py() or "")
    return ""


def _major(version: str) -> int:
    head = version.split(".", 1)[0]
    return int(head) if head.isascii() and head.isdecimal() and len(head) < 6 else 0


def _in_units(
    name: str, table: pa.Table, declared: Declared, percent: Fraction, notes: list[str], source: Path
) -> pa.Table:
    """Columns in the units that their names mean here; `Summary` has its own evidence."""
    if name == "Summary":
        return table
    for column in table.column_names:
        scale, remark = unit_scale(name, column, declared, percent)
        notes += [remark] if remark else []
        values = table.column(column)
        if scale == 1 or not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
            continue
        known = columns_of(name).get(column)
        wanted = known.type if known is not None else pa.float64()
        product = scaled(values, scale, wanted, source=source, where=f"column {name}.{column}")
        table = table.set_column(table.column_names.index(column), column, product)
        unit = declared.get((name, column), ("", None))[0]
        what = f"declared in {shorten(unit, 20)}" if unit and unit != "percent" else "a percentage up to 100"
        notes.append(f"{name}.{column} is {what}; multiplied by {scale}")
    return table


def _mismatches(made: Mapping[str, pa.Table], version: str) -> list[str]:
    """What does not match the schema that this version of npuscope knows, in a sentence a table."""
    notes = []
    if not version:
        notes.append(f"the profile names no schema version; read by the column names of {SCHEMA_VERSION}")
    elif _major(version) != _major(SCHEMA_VERSION):
        told = shorten(version, 20)
        notes.append(
            f"profile schema {told} is not {SCHEMA_VERSION}; what has the same name was read, the rest kept as it is"
        )
    unknown = [name for name in made if name not in tables()]
    if unknown:
        notes.append(f"tables outside schema {SCHEMA_VERSION}: {_listed(unknown)}")
    for name, table in made.items():
        known = columns_of(name)
        extra = [column for column in table.column_names if column not in known]
        if known and extra and name not in OPEN_TABLES:
            notes.append(f"{name} has columns outside schema {SCHEMA_VERSION}: {_listed(extra)}")
        lacking = [
            column.name for column in known.values() if column.required and column.name not in table.column_names
        ]
        if lacking:
            notes.append(f"{name} lacks columns that schema {SCHEMA_VERSION} requires: {_listed(lacking)}")
    return notes


def _listed(names: list[str]) -> str:
    shown = ", ".join(shorten(name, 40) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _vendor_summary(made: dict[str, pa.Table], notes: list[str], source: Path) -> dict[str, pa.Table]:
    """The vendor's `Summary` as `VendorSummary`: ours is recomputed."""
    if "Summary" not in made:
        return made
    rest = {name: table for name, table in made.items() if name != "Summary"}
    rows = [{key: value for key, value in row.items() if value is not None} for row in made["Summary"].to_pylist()]
    normal, remarks = normalise_summary(rows)
    notes += remarks
    rest["VendorSummary"] = summary_table(normal, source=source) if remarks else made["Summary"]
    return rest


def _metadata(found: pa.Table | None, start: int | None, path: Path, notes: list[str]) -> pa.Table:
    if found is None or found.num_rows == 0:
        found = pa.table({"source_format": pa.array(["neuron-parquet"])})
    elif found.num_rows > 1:
        notes.append(f"Metadata has {found.num_rows} rows; the first is used")
    row = {key: value for key, value in found.slice(0, 1).to_pylist()[0].items() if value is not None}
    values: dict[str, Any] = {
        "is_simulation": False,
        **row,
        "source_format": "neuron-parquet",
        "source_path": str(path),
    }
    values |= {"device": row["instance_type"]} if row.get("instance_type") else {}
    values |= {} if start is None else {"start_unix_ns": start}
    columns = columns_of("Metadata")
    arrays = {}
    for key, value in values.items():
        kind = columns[key].type if key in columns else found.schema.field(key).type
        arrays[key] = pa.array([value], kind)
    return pa.table(arrays)


def inspect_neuron_parquet(path: Path) -> Inspection:
    """Which tables a folder holds, told from the footers; only `Metadata` is read.

    Raises:
        FormatError: See `read_neuron_parquet`.
    """
    folder = find_profile_folder(path)
    rows = []
    for name, parts in sorted(folder.tables.items()):
        footers = [read_footer(part) for part in parts]
        known = columns_of(name)
        columns = {column for footer in footers for column in footer.columns}
        unknown = [] if name in OPEN_TABLES else sorted(columns - set(known))
        rows.append(
            {
                "table": name,
                "rows": sum(footer.rows for footer in footers),
                "columns": len(columns),
                "files": len(parts),
                "size_bytes": sum(part.stat().st_size for part in parts),
                "outside_schema": _listed(unknown) if known else "table",
            }
        )
    manifest = manifest_of(folder)
    kind = "neuron-parquet" if manifest is None else "profile"
    metadata = [read_parquet(part) for part in folder.tables.get("Metadata", [])]
    first = metadata[0].slice(0, 1).to_pylist() if metadata else []
    facts = {key: value for row in first for key, value in row.items() if value is not None}
    facts["size_bytes"] = sum(int(str(row["size_bytes"])) for row in rows)
    title = f"{'profile that npuscope wrote' if kind == 'profile' else 'Neuron Explorer profile'}, {len(rows)} tables"
    return Inspection(kind, str(folder.path), title, facts, {"Tables": rows}, manifest.notes if manifest else ())
