"""One Parquet file as an Arrow table, with its promises checked in the footer before a page is decoded.

A page that repeats one value costs a few bytes a billion rows, so what a file would decode to is judged by the values
that the footer counts, not by its size. Texts are read as dictionaries and their full length is counted before they
are written out. Nothing here trusts that a text is UTF-8, that columns have different names, or that counts agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from npuscope.errors import FormatError

_FREE_BYTES = 256 << 20
_MAX_EXPANSION = 1000
_ERRORS = (
    pa.ArrowException,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    MemoryError,
    RuntimeError,
)
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 8, "BYTE_ARRAY": 4}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file may promise."""

    columns: int = 4096
    table_bytes: int = 64 << 30
    """Bytes of one decoded table, whatever the size of its file."""
    free_bytes: int = _FREE_BYTES
    """Bytes that any file may decode to."""
    expansion: int = _MAX_EXPANSION
    """Bytes that each byte of the file may decode to beyond that."""

    def decoded_bytes(self, file_bytes: int) -> int:
        """What a file of this size may decode to."""
        return min(self.table_bytes, max(self.free_bytes, self.expansion * file_bytes))


@dataclass(frozen=True, slots=True)
class Footer:
    """What a Parquet file says of itself."""

    rows: int
    columns: tuple[str, ...]
    decoded_bytes: int
    """Lower bound of what its values take in memory; texts by their place in the dictionary."""
    created_by: str


def read_footer(path: Path, limits: Limits | None = None) -> Footer:
    """Check what a Parquet file promises, without reading its pages.

    Raises:
        FormatError: It is no Parquet file, its counts contradict each other, or it promises more than `limits` allow.
    """
    limits = Limits() if limits is None else limits
    return _checked(path, _open(path), limits)


def read_parquet(path: Path, limits: Limits | None = None) -> pa.Table:
    """All rows of a Parquet file; dictionary columns as their values, texts proven to be UTF-8.

    Raises:
        FormatError: See `read_footer`; or a page is damaged.
    """
    import pyarrow.parquet as pq

    limits = Limits() if limits is None else limits
    _checked(path, _open(path), limits)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as plain:
            schema = plain.schema_arrow
            texts = _text_columns(plain)
        with pq.ParquetFile(path, read_dictionary=texts, page_checksum_verification=True) as file:
            table = file.read()
        return _written_out(table, schema, path, limits.decoded_bytes(path.stat().st_size))
    except FormatError:
        raise
    except _ERRORS as error:
        raise FormatError(path, expected="readable Parquet pages", found=_reason(error)) from error


def _open(path: Path) -> Any:
    """The metadata of the footer."""
    import pyarrow.parquet as pq

    try:
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no such file"
            raise FormatError(path, expected="a Parquet file", found=found)
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(4)
        if head != b"PAR1":
            found = "an empty file" if size == 0 else f"bytes {head!r}"
            raise FormatError(path, where="byte 0", expected="a Parquet file (PAR1)", found=found)
        return pq.read_metadata(path)
    except FormatError:
        raise
    except _ERRORS as error:
        place = f"byte {max(path.stat().st_size - 8, 0)}"
        raise FormatError(path, where=place, expected="a Parquet footer", found=_reason(error)) from error


def _reason(error: BaseException) -> str:
    return str(error).split("\n", 1)[0] or type(error).__name__


def _checked(path: Path, metadata: Any, limits: Limits) -> Footer:
    if metadata.num_columns > limits.columns:
        raise FormatError(path, expected=f"at most {limits.columns} columns", found=f"{metadata.num_columns}")
    try:
        names = tuple(metadata.schema.to_arrow_schema().names)
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        rows = sum(group.num_rows for group in groups)
        decoded = sum(_chunk_bytes(group.column(at)) for group in groups for at in range(metadata.num_columns))
        smallest = min((group.num_rows for group in groups), default=0)
    except _ERRORS as error:
        raise FormatError(path, expected="a Parquet footer with a schema", found=_reason(error)) from error
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FormatError(path, where=f"column {twice}", expected="columns of different names", found="the name twice")
    if metadata.num_rows != rows or smallest < 0 or decoded < 0:
        raise FormatError(path, expected=f"{metadata.num_rows} rows as the footer says", found=f"{rows} in row groups")
    allowed = limits.decoded_bytes(path.stat().st_size)
    decoded = max(decoded, rows)
    if decoded > allowed:
        found = f"{rows} rows that decode to {decoded} bytes or more"
        raise FormatError(path, expected=f"at most {allowed} bytes when decoded", found=found)
    return Footer(rows, names, decoded, str(metadata.created_by or ""))


def _chunk_bytes(chunk: Any) -> int:
    """What a column chunk takes in memory at least; -1e18 for counts that cannot be."""
    values, size = int(chunk.num_values), int(chunk.total_uncompressed_size)
    if values < 0 or size < 0 or int(chunk.total_compressed_size) < 0:
        return -(10**18)
    return max(values * _WIDTHS.get(str(chunk.physical_type), 8), 0)


def _text_columns(file: Any) -> list[str]:
    """The leaves that hold bytes, by their paths."""
    leaves = [file.schema.column(index) for index in range(len(file.schema))]
    return [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]


def _written_out(table: pa.Table, schema: pa.Schema, path: Path, allowed: int) -> pa.Table:
    """Dictionaries as their values; the length of all texts is counted first."""
    total = sum(_text_bytes(chunk) for column in table.columns for chunk in column.chunks)
    if total > allowed:
        raise FormatError(path, expected=f"at most {allowed} bytes of text", found=f"{total} bytes")
    made = {}
    for name in table.column_names:
        wanted = schema.field(name).type
        wanted = wanted.value_type if pa.types.is_dictionary(wanted) else wanted
        wanted = wanted.storage_type if isinstance(wanted, pa.BaseExtensionType) else wanted
        column = table.column(name)
        made[name] = column if column.type == wanted else column.cast(wanted)
    plain = pa.table(made) if made else table
    plain.validate(full=True)
    return plain.replace_schema_metadata(None)


def _text_bytes(array: pa.Array) -> int:
    """Bytes of the texts of a dictionary array, or of the dictionary arrays in lists and structs."""
    if pa.types.is_dictionary(array.type):
        lengths = pc.binary_length(array.dictionary) if _is_text(array.type.value_type) else None
        return 0 if lengths is None else int(pc.sum(lengths.cast(pa.int64()).take(array.indices)).as_py() or 0)
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_map(array.type):
        return _text_bytes(array.values) if not pa.types.is_map(array.type) else _text_bytes(array.items)
    if pa.types.is_struct(array.type):
        return sum(_text_bytes(array.field(index)) for index in range(array.type.num_fields))
    return 0


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )
