"""A Profile: what a device did, as Arrow tables named and typed like the vendor's Parquet output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from npuscope.errors import FormatError
from npuscope.profile.schema import OPEN_TABLES, arrow_schema, columns_of

_REFUSALS = (pa.ArrowException, TypeError, ValueError, OverflowError)
_PLAIN: Mapping[Any, frozenset[type]] = MappingProxyType(
    {
        pa.int64(): frozenset({int, type(None)}),
        pa.int32(): frozenset({int, type(None)}),
        pa.float64(): frozenset({float, type(None)}),
        pa.string(): frozenset({str, type(None)}),
        pa.bool_(): frozenset({bool, type(None)}),
    }
)
Columns = Mapping[str, Any]
"""Column name to values: a list, a NumPy array or an Arrow array, all of one length."""


@dataclass(frozen=True, slots=True)
class Profile:
    """One capture, trace or simulation. Build it with `make_profile`, which conforms the tables to the schema."""

    tables: Mapping[str, pa.Table]
    """Table name to rows; a table that has no rows may be missing."""
    source: str
    """The file or folder it was read from, as the user named it."""
    notes: tuple[str, ...] = field(default=())
    """What a reader could not use, place or verify: one sentence each, for the user."""

    def table(self, name: str) -> pa.Table:
        """The rows of a table with all columns of its schema; a missing column is null, a missing table empty."""
        found = self.tables.get(name)
        schema = arrow_schema(name)
        if found is None:
            return schema.empty_table()
        for column in schema:
            if column.name not in found.column_names:
                found = found.append_column(column, pa.nulls(found.num_rows, column.type))
        return found

    def rows(self, name: str) -> int:
        """How many rows a table has; 0 where it is missing."""
        found = self.tables.get(name)
        return 0 if found is None else int(found.num_rows)

    def numbers(self, table: str, column: str) -> npt.NDArray[Any]:
        """A numeric column as int64 or float64; null and missing values are 0."""
        found = self.tables.get(table)
        if found is None:
            return np.zeros(0, np.int64)
        if column not in found.column_names:
            return np.zeros(found.num_rows, np.int64)
        values = found.column(column)
        floating = pa.types.is_floating(values.type)
        filled = pc.fill_null(values.cast(pa.float64() if floating else pa.int64()), 0)
        return np.asarray(filled.to_numpy())

    def has(self, table: str, column: str) -> bool:
        """Whether a column is there and holds at least one value."""
        found = self.tables.get(table)
        return found is not None and column in found.column_names and found.column(column).null_count < found.num_rows

    def texts(self, table: str, column: str) -> npt.NDArray[np.object_]:
        """A text column as Python strings; null and missing values are ''."""
        found = self.tables.get(table)
        if found is None or column not in found.column_names:
            return np.full(self.rows(table), "", object)
        return np.asarray(pc.fill_null(found.column(column).cast(pa.string()), "").to_numpy(), dtype=object)

    def equals(self, table: str, column: str, wanted: str) -> npt.NDArray[np.bool_]:
        """Which rows hold one text; no Python string is made of any."""
        found = self.tables.get(table)
        if found is None or column not in found.column_names:
            return np.zeros(self.rows(table), bool)
        equal = pc.equal(found.column(column).cast(pa.string()), wanted)
        return np.asarray(pc.fill_null(equal, False).to_numpy())  # noqa: FBT003

    def codes(self, table: str, column: str) -> tuple[npt.NDArray[np.int64], list[str]]:
        """A text column as small integers and the texts that they stand for; null and missing values are ''."""
        found = self.tables.get(table)
        if found is None or column not in found.column_names:
            return np.zeros(self.rows(table), np.int64), [""]
        encoded = pc.fill_null(found.column(column).cast(pa.string()), "").combine_chunks().dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        return np.asarray(encoded.indices.to_numpy()).astype(np.int64), encoded.dictionary.to_pylist()

    def first(self, table: str) -> dict[str, Any]:
        """The first row of a table without its nulls; {} where there is none."""
        found = self.tables.get(table)
        if found is None or found.num_rows == 0:
            return {}
        return {key: value for key, value in found.slice(0, 1).to_pylist()[0].items() if value is not None}

    @property
    def metadata(self) -> dict[str, Any]:
        """The one row of `Metadata`."""
        return self.first("Metadata")

    @property
    def summary(self) -> dict[str, Any]:
        """The one row of `Summary`, recomputed from the events: seconds, bytes, fractions."""
        return self.first("Summary")

    @property
    def vendor_summary(self) -> dict[str, Any]:
        """What the vendor's tool wrote as its summary; {} where there is none."""
        return self.first("VendorSummary")

    @property
    def is_simulation(self) -> bool:
        """Whether a model made it and no device."""
        return bool(self.metadata.get("is_simulation", False))

    @property
    def device(self) -> str:
        """What ran it, as far as the source tells."""
        known = self.metadata
        return str(known.get("device") or known.get("instance_type") or "unknown device")


def conform(name: str, data: Columns | pa.Table, *, source: str, strict: bool = True) -> pa.Table:
    """Rows as a table of the schema: known columns first and in its types, others after them as they are.

    Args:
        name: The table, such as `Instruction`.
        data: Columns by name, or a table.
        source: What to call the file in an error.
        strict: Raise when a column cannot be cast; else the column keeps the type it came in.

    Raises:
        FormatError: A column cannot be cast to the type of the schema, or the columns differ in length.
    """
    given = {key: data.column(key) for key in data.column_names} if isinstance(data, pa.Table) else dict(data)
    arrays: dict[str, Any] = {}
    known = columns_of(name)
    for key in (*(key for key in known if key in given), *(key for key in given if key not in known)):
        wanted = known[key].type if key in known else None
        arrays[key] = _cast(given[key], wanted, source=source, where=f"{name}.{key}", strict=strict)
    try:
        return pa.table(arrays)
    except (pa.ArrowInvalid, ValueError) as error:
        lengths = sorted({len(values) for values in arrays.values()})
        raise FormatError(source, where=name, expected="columns of one length", found=f"lengths {lengths}") from error


def _cast(values: Any, wanted: pa.DataType | None, *, source: str, where: str, strict: bool) -> Any:
    """Values as an Arrow array of the wanted type, without rounding or guessing.

    A list whose members all have the type's own Python type is taken as it is: Arrow would look for pandas to infer
    one, which costs more than the rest. All else is inferred first, because Arrow cuts 1.5 to a wanted integer.
    """
    if not isinstance(values, pa.Array | pa.ChunkedArray):
        plain = isinstance(values, list) and set(map(type, values)) <= _PLAIN.get(wanted, frozenset())
        for kind in (wanted,) if plain else (None,):
            try:
                values = pa.array(values, type=kind, from_pandas=False)
                break
            except _REFUSALS as error:
                refused: Exception = error
        else:
            expected = f"{wanted} values" if wanted is not None else "values of one type"
            raise FormatError(source, where=where, expected=expected, found=str(refused)) from refused
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if wanted is None or values.type == wanted:
        return values
    try:
        return values.cast(wanted)
    except pa.ArrowException as error:
        if strict:
            raise FormatError(source, where=where, expected=f"{wanted} values", found=str(error)) from error
        return values


def make_profile(
    tables: Mapping[str, Columns | pa.Table], *, source: str, notes: Sequence[str] = (), strict: bool = True
) -> Profile:
    """Conform tables to the schema; tables without rows are left out, but for `Metadata`.

    Raises:
        FormatError: See `conform`.
    """
    made = {name: conform(name, data, source=source, strict=strict) for name, data in tables.items()}
    kept = {name: table for name, table in made.items() if table.num_rows or name == "Metadata"}
    return Profile(MappingProxyType(kept), source, tuple(notes))


def one_row(values: Mapping[str, Any]) -> pa.Table:
    """Named figures as a table of one row, without those that are None."""
    row = pa.array([{key: _fitting(value) for key, value in values.items() if value is not None}])
    return pa.Table.from_arrays(row.flatten(), names=[item.name for item in row.type])


def _fitting(value: Any) -> Any:
    """A sum beyond int64 as a float: Arrow has no longer integers, and the schema refuses it in words."""
    return float(value) if type(value) is int and not -(1 << 63) <= value < 1 << 63 else value


def unknown_columns(profile: Profile) -> dict[str, list[str]]:
    """Per table, the columns that the schema does not know; open tables are left out."""
    extra = {
        name: [key for key in table.column_names if key not in columns_of(name)]
        for name, table in profile.tables.items()
        if name not in OPEN_TABLES
    }
    return {name: keys for name, keys in extra.items() if keys}
