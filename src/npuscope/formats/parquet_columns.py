"""Columns of a Parquet file in the types of the schema: integers of any width, times, dictionaries, long texts."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from npuscope.errors import FormatError
from npuscope.profile.schema import columns_of


def as_schema(
    name: str, table: pa.Table, *, source: object, tolerant: bool = False, notes: list[str] | None = None
) -> pa.Table:
    """A table with the columns that the schema knows in its types, the others as they are.

    Args:
        name: The table as the schema names it.
        table: What a file holds.
        source: What to call the file in an error.
        tolerant: Keep a column that cannot be cast as `<column>_as_written` instead of raising.
        notes: Where a remark on such a column goes.

    Raises:
        FormatError: A column cannot be what its name means.
    """
    known = columns_of(name)
    arrays = {}
    for column in table.column_names:
        values = table.column(column)
        wanted = known[column].type if column in known else None
        if wanted is None or values.type == wanted:
            arrays[column] = values
            continue
        try:
            arrays[column] = _cast(values, wanted)
        except (pa.ArrowException, ValueError, OverflowError) as error:
            if not tolerant:
                place, found = f"column {name}.{column}", f"{values.type}: {error}"
                raise FormatError(source, where=place, expected=f"{wanted} values", found=found) from error
            arrays[f"{column}_as_written"] = values
            if notes is not None:
                notes.append(f"{name}.{column} is {values.type} and not {wanted}; kept as {column}_as_written")
    return pa.table(arrays) if arrays else table


def _cast(values: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    kind = values.type
    if pa.types.is_timestamp(kind) and pa.types.is_integer(wanted):
        return values.cast(pa.timestamp("ns", tz=kind.tz)).cast(pa.int64()).cast(wanted)
    if pa.types.is_duration(kind) and pa.types.is_integer(wanted):
        return values.cast(pa.duration("ns")).cast(pa.int64()).cast(wanted)
    if pa.types.is_boolean(kind) and not pa.types.is_boolean(wanted) and not pa.types.is_string(wanted):
        raise ValueError("truth values")
    return values.cast(wanted)


def joined(name: str, parts: Sequence[pa.Table], *, source: object) -> pa.Table | None:
    """The parts of a split table as one; None for no parts. A column that a part lacks is null there.

    Raises:
        FormatError: A column has types in two parts that nothing holds both of.
    """
    if not parts:
        return None
    if len(parts) == 1:
        return parts[0]
    try:
        return pa.concat_tables(parts, promote_options="permissive")
    except (pa.ArrowException, ValueError) as error:
        raise FormatError(source, where=f"table {name}", expected="parts of one schema", found=str(error)) from error
