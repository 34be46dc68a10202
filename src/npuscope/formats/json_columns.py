"""Columns from the rows of a JSON array, batch by batch: typed by the schema, exact, with the row of what is wrong.

Vendors' JSON writes the same figure as `5`, `5.0` or `"5"` from one version to the next; all three are the integer 5.
What cannot be the wanted type is an error with its row; a key that the schema does not know becomes a column of the
narrowest type that holds all its values, text as the last resort.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from npuscope.errors import FormatError

MAX_EXTRA_COLUMNS = 256
"""Keys outside the schema that are kept per table; the rest are counted."""
_REMEMBERED = 1 << 12
_POOL = pa.system_memory_pool()
"""Grows arrays in place; the default pool keeps what growth leaves behind, half as much again on a large file."""
_WORDS = {"yes": True, "true": True, "no": False, "false": False}
_WORD_TEXTS, _WORD_VALUES = pa.array(list(_WORDS)), pa.array(list(_WORDS.values()))
_ARROW_ERRORS = (pa.ArrowException, TypeError, ValueError, OverflowError)


def value_text(value: Any) -> str:
    """A JSON value as the vendor's Parquet writes it in a text column: `[SB]`, `[[256, 128]]`, `true`."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(value_text(part) for part in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {value_text(part)}" for key, part in value.items()) + "}"
    return "null" if value is None else str(value)


def value_integer(value: Any) -> int:
    """A JSON value as an integer: `5`, `5.0`, `"5"`, `[5]`.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        value = int(value, 10) if len(value) <= 20 and value.lstrip("-").isdecimal() else float(value[:40])
    if isinstance(value, bool) or not isinstance(value, int | float) or value != math.floor(value):
        raise ValueError("not a whole number")
    return int(value)


def value_number(value: Any) -> float:
    """A JSON value as a finite number: `0`, `0.5`, `"0.5"`.

    Raises:
        ValueError: It is none.
    """
    number = float(value[:40]) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError("not a finite number")
    return float(number)


def value_truth(value: Any) -> bool:
    """A JSON value as true or false: `true`, `"yes"`, `"false"`.

    Raises:
        ValueError: It is neither.
    """
    known = _WORDS.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(known, bool):
        raise ValueError("neither true nor false")
    return known


def typed_array(
    values: Sequence[Any], wanted: pa.DataType, *, source: object, where: str, numbers: Sequence[int] | None = None
) -> pa.Array:
    """Values as an Arrow array of one type; None stays null.

    Args:
        values: What stood in the rows.
        wanted: A type of the schema.
        source: What to call the file in an error.
        where: `table[{}].key` with a place for the row.
        numbers: The row of each value in the file; 0, 1, ... if None.

    Raises:
        FormatError: A value is not of the type, or does not fit it.
    """
    cast = _at_once(values, wanted)
    if cast is not None:
        return cast
    convert, expected = _converter(wanted)
    if convert is value_text:
        convert = _remembering(value_text)
    made: list[Any] = []
    rows = range(len(values)) if numbers is None else numbers
    for row, value in zip(rows, values, strict=True):
        try:
            made.append(None if value is None else convert(value))
        except (ValueError, TypeError, OverflowError):
            raise FormatError(source, where=where.format(row), expected=expected, found=value_text(value)) from None
    try:
        return pa.array(made, type=wanted, memory_pool=_POOL)
    except _ARROW_ERRORS:
        bits = wanted.bit_width if pa.types.is_integer(wanted) else 64
        at = next((at for at, value in enumerate(made) if _too_wide(value, bits)), 0)
        place, found = where.format(rows[at]), value_text(values[at])
        raise FormatError(source, where=place, expected=f"{expected} of {bits} bits", found=found) from None


def _at_once(values: Sequence[Any], wanted: pa.DataType) -> pa.Array | None:
    """All values as one array of the type; None where they have to be looked at one by one.

    Arrow infers a type three times slower than it takes one, and each time looks for pandas; but given one, it cuts
    1.5 to 1. So the type is given where all values are of the very type.
    """
    found = set(map(type, values)) - {type(None)}
    if found & {list, dict}:
        return None
    given = None
    if found <= {str}:
        given = pa.string()
    elif (found <= {int} and pa.types.is_integer(wanted)) or (found <= {int, float} and pa.types.is_floating(wanted)):
        given = wanted
    try:
        return _cast(pa.array(values, type=given, memory_pool=_POOL), wanted)
    except _ARROW_ERRORS:
        return None


def _remembering(convert: Callable[[Any], str]) -> Callable[[Any], str]:
    """The same function, faster where few values occur many times."""
    known: dict[str, str] = {}

    def remembered(value: Any) -> str:
        key = repr(value)
        found = known.get(key)
        if found is None:
            found = convert(value)
            if len(known) < _REMEMBERED:
                known[key] = found
        return found

    return remembered


def _cast(array: pa.Array, wanted: pa.DataType) -> pa.Array | None:
    """The array in the wanted type, None where its values have to be looked at one by one."""
    if pa.types.is_boolean(wanted) and pa.types.is_string(array.type):
        return _words(array)
    if pa.types.is_boolean(array.type) is not pa.types.is_boolean(wanted) or pa.types.is_nested(array.type):
        return None
    if array.type == wanted and not pa.types.is_floating(wanted):
        return array
    try:
        cast = array.cast(wanted)
    except _ARROW_ERRORS:
        return None
    finite = not pa.types.is_floating(wanted) or pc.all(pc.is_finite(cast), min_count=0).as_py()
    return cast if finite else None


def _words(array: pa.Array) -> pa.Array | None:
    """Texts such as `yes` as truth values; None where one is another word."""
    place = pc.index_in(pc.utf8_lower(array), value_set=_WORD_TEXTS)
    return _WORD_VALUES.take(place) if place.null_count == array.null_count else None


def _too_wide(value: Any, bits: int) -> bool:
    return isinstance(value, int) and not -(1 << (bits - 1)) <= value < 1 << (bits - 1)


def _converter(wanted: pa.DataType) -> tuple[Any, str]:
    if pa.types.is_integer(wanted):
        return value_integer, "a whole number"
    if pa.types.is_floating(wanted):
        return value_number, "a number"
    if pa.types.is_boolean(wanted):
        return value_truth, "true or false"
    if pa.types.is_list(wanted):
        inner = _converter(wanted.value_type)[0]
        return (lambda value: [inner(part) for part in value]), "a list"
    return value_text, "a text"


def narrowest_array(values: Sequence[Any]) -> pa.Array:
    """Values of a key that no schema knows: bool, int64, float64 or text, whichever is the narrowest that holds them."""
    try:
        array = pa.array(values)
        if not pa.types.is_nested(array.type):
            return array
    except _ARROW_ERRORS:
        pass
    return pa.array([None if value is None else value_text(value) for value in values], type=pa.string())


@dataclass(slots=True)
class ColumnBuilder:
    """The columns of one table, grown batch by batch."""

    source: object
    """What to call the file in an error."""
    key: str
    """What to call the array of rows in an error."""
    schema: Mapping[str, pa.DataType]
    """The type of each column that is known."""
    names: Mapping[str, str] = field(default_factory=dict)
    """JSON key to column, where they differ."""
    skipped: frozenset[str] = frozenset()
    """JSON keys that somebody else reads."""
    flexible: frozenset[str] = frozenset()
    """Columns that stay float64 where a value is no whole number: times in a unit that is not known yet."""
    rows: int = 0
    left_out: set[str] = field(default_factory=set)
    """Unknown keys beyond `MAX_EXTRA_COLUMNS`."""
    _parts: list[tuple[int, dict[str, pa.Array]]] = field(default_factory=list)
    _extra: set[str] = field(default_factory=set)

    def add(self, batch: Sequence[Mapping[str, Any]], *, numbers: Sequence[int] | None = None) -> None:
        """Append rows.

        Args:
            batch: One mapping a row; a key that is absent is null.
            numbers: The number of each row in the file, where the file has rows that are not given here.

        Raises:
            FormatError: A value is not of its column's type.
        """
        keys = sorted(set().union(*batch))
        wanted = [key for key in keys if key not in self.skipped and self._kept(key)]
        rows = range(self.rows, self.rows + len(batch)) if numbers is None else numbers
        arrays: dict[str, pa.Array] = {}
        for key in wanted:
            column = self.names.get(key, key)
            if column in self.schema:
                array = self._typed(key, column, _values(batch, key), rows)
                known = arrays.get(column)
                arrays[column] = array if known is None else pc.coalesce(known, array)
            else:
                arrays[column] = narrowest_array(_values(batch, key))
        self._parts.append((len(batch), arrays))
        self.rows += len(batch)

    def _kept(self, key: str) -> bool:
        """Whether a key has a column, or gets one."""
        column = self.names.get(key, key)
        if column in self.schema or column in self._extra:
            return True
        if len(self._extra) < MAX_EXTRA_COLUMNS:
            self._extra.add(column)
            return True
        if len(self.left_out) < MAX_EXTRA_COLUMNS:
            self.left_out.add(key)
        return False

    def _typed(self, key: str, column: str, values: Sequence[Any], rows: Sequence[int]) -> pa.Array:
        where = (
            f"key {self.key}[{{}}].{key}".replace("{}", "\0").replace("{", "{{").replace("}", "}}").replace("\0", "{}")
        )
        try:
            return typed_array(values, self.schema[column], source=self.source, where=where, numbers=rows)
        except FormatError:
            if column not in self.flexible:
                raise
            return typed_array(values, pa.float64(), source=self.source, where=where, numbers=rows)

    def table(self) -> pa.Table:
        """All rows; a column that a batch lacked is null there."""
        columns = dict.fromkeys(name for _, arrays in self._parts for name in arrays)
        return pa.table({name: self._column(name) for name in columns})

    def _column(self, name: str) -> pa.ChunkedArray:
        wanted = None if name in self.flexible else self.schema.get(name)
        wanted = wanted or _common_type([arrays[name].type for _, arrays in self._parts if name in arrays])
        chunks = [_as_type(arrays.get(name), count, wanted) for count, arrays in self._parts]
        return pa.chunked_array(chunks, type=wanted)


def _values(batch: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    try:
        return list(map(itemgetter(key), batch))
    except KeyError:
        return [row.get(key) for row in batch]


def _as_type(array: pa.Array | None, count: int, wanted: pa.DataType) -> pa.Array:
    if array is None:
        return pa.nulls(count, wanted)
    if array.type == wanted:
        return array
    if pa.types.is_string(wanted):
        return pa.array([None if value is None else value_text(value) for value in array.to_pylist()], type=wanted)
    return array.cast(wanted, safe=False)


def _common_type(types: Sequence[pa.DataType]) -> pa.DataType:
    kinds = {kind for kind in types if not pa.types.is_null(kind)}
    if len(kinds) == 1:
        return kinds.pop()
    return pa.float64() if kinds == {pa.int64(), pa.float64()} else pa.string()
