"""One Parquet file as an Arrow table, with its promises checked in the footer before a page is decoded.

A page that repeats one value costs a few bytes a billion rows, so what a file would decode to is judged by the values
that the footer counts, not by its size. Texts are read as dictionaries and their full length is counted before they
are written out. Nothing here trusts that a text is UTF-8, that columns have different names, or that counts agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from npuscope.errors import FormatError
from npuscope.formats.parquet_footer import BYTE_ARRAY, Footer, parse_footer

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


def read_footer(path: Path, limits: Limits | None = None) -> Footer:
    """Check what a Parquet file promises, without reading its pages.

    Raises:
        FormatError: It is no Parquet file, its counts contradict each other, or it promises more than `limits` allow.
    """
    limits = Limits() if limits is None else limits
    try:
        footer = parse_footer(path)
        allowed = limits.decoded_bytes(path.stat().st_size)
    except OSError as error:
        raise FormatError(path, expected="a readable file", found=error.strerror or str(error)) from error
    names = footer.columns
    if max(len(footer.leaves), len(names)) > limits.columns:
        raise FormatError(path, expected=f"at most {limits.columns} columns", found=f"{len(footer.leaves)}")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise FormatError(path, where=f"column {twice}", expected="columns of different names", found="the name twice")
    if footer.decoded_bytes > allowed:
        found = f"{footer.rows} rows that decode to {footer.decoded_bytes} bytes or more"
        raise FormatError(path, expected=f"at most {allowed} bytes when decoded", found=found)
    return footer


def read_parquet(path: Path, limits: Limits | None = None) -> pa.Table:
    """All rows of a Parquet file; dictionary columns as their values, texts proven to be UTF-8.

    Raises:
        FormatError: See `read_footer`; or a page is damaged.
    """
    import pyarrow.parquet as pq

    limits = Limits() if limits is None else limits
    footer = read_footer(path, limits)
    texts = [leaf.path for leaf in footer.leaves if leaf.physical_type == BYTE_ARRAY]
    try:
        with pq.ParquetFile(path, read_dictionary=texts, page_checksum_verification=True) as file:
            table = file.read()
        return _written_out(table, pq.read_schema(path), path, limits.decoded_bytes(path.stat().st_size))
    except FormatError:
        raise
    except _ERRORS as error:
        raise FormatError(path, expected="readable Parquet pages", found=_reason(error)) from error


def _reason(error: BaseException) -> str:
    return str(error).split("\n", 1)[0] or type(error).__name__


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
