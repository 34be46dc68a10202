"""The footer of a Parquet file, decoded here: Thrift's compact protocol, as far as counts and names need it.

pyarrow ends the process when it is asked for the column chunks of some damaged footers, so nothing is asked of it
before this has read them. Source: apache/parquet-format, `parquet.thrift`; apache/thrift, `thrift-compact-protocol.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npuscope.errors import FormatError

MAX_FOOTER_BYTES = 8 << 20
_MAGIC = b"PAR1"
_TAIL = 8
_MAX_DEPTH = 16
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)
_UUID_BYTES = 16
BYTE_ARRAY = 6
_WIDTHS = {0: 1, 1: 4, 2: 8, 3: 8, 4: 4, 5: 8, BYTE_ARRAY: 4}
"""Bytes of a value in Arrow by physical type; a text counts with its place in a dictionary."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One column of values; a nested column has several."""

    path: str
    """Names from the top, joined by dots."""
    physical_type: int
    width: int
    """Bytes of one value, see `_WIDTHS`."""


@dataclass(frozen=True, slots=True)
class Footer:
    """What a Parquet file says of itself."""

    rows: int
    columns: tuple[str, ...]
    leaves: tuple[Leaf, ...]
    decoded_bytes: int
    """Lower bound of what its values take in memory."""
    created_by: str


class _Thrift:
    """A cursor over bytes in the compact protocol; structs become dictionaries of field number to value."""

    def __init__(self, data: bytes, base: int, source: Path) -> None:
        self.data = data
        self.at = 0
        self.base = base
        self.source = source

    def error(self, expected: str, found: str) -> FormatError:
        return FormatError(self.source, where=f"byte {self.base + self.at}", expected=expected, found=found)

    def byte(self) -> int:
        if self.at >= len(self.data):
            raise self.error("more of the footer", "its end")
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        value = shift = 0
        while True:
            part = self.byte()
            value |= (part & 0x7F) << shift
            if part < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise self.error("an integer of 64 bits", "a longer one")

    def integer(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def binary(self) -> bytes:
        length = self.varint()
        self.at += length
        if self.at > len(self.data):
            self.at -= length
            raise self.error(f"{length} bytes of text", f"{len(self.data) - self.at}")
        return self.data[self.at - length : self.at]

    def value(self, kind: int, depth: int) -> Any:
        if kind in _INTEGERS:
            return self.integer()
        if kind in (_TRUE, _FALSE):  # in a list; a field holds its truth value in its kind
            return self.byte() == _TRUE
        if kind == _BYTE:
            return self.byte()
        if kind == _BINARY:
            return self.binary()
        if kind in (_LIST, _SET):
            return self.list(depth)
        if kind == _STRUCT:
            return self.struct(depth)
        if kind == _DOUBLE or kind == 13:
            self.at += 8 if kind == _DOUBLE else _UUID_BYTES
            return None
        raise self.error("a type of the compact protocol", f"{kind}")

    def list(self, depth: int) -> list[Any]:
        head = self.byte()
        size, kind = head >> 4, head & 0x0F
        size = self.varint() if size == 15 else size
        if size > len(self.data) - self.at:
            raise self.error(f"{size} elements", f"{len(self.data) - self.at} bytes")
        return [self.value(kind, depth + 1) for _ in range(size)]

    def struct(self, depth: int = 0) -> dict[int, Any]:
        if depth > _MAX_DEPTH:
            raise self.error(f"up to {_MAX_DEPTH} levels", "more")
        found: dict[int, Any] = {}
        number = 0
        while head := self.byte():
            step, kind = head >> 4, head & 0x0F
            number = number + step if step else self.integer()
            if number in found:
                raise self.error("each field once", f"field {number} again")
            found[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self.value(kind, depth + 1)
        return found


def parse_footer(path: Path) -> Footer:
    """Decode the footer of a Parquet file and check that its counts agree.

    Raises:
        FormatError: It is no Parquet file, or its footer is damaged; with the byte.
        OSError: It cannot be read.
    """
    if not path.is_file():
        raise FormatError(path, expected="a Parquet file", found="a folder" if path.is_dir() else "no such file")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(len(_MAGIC))
        if head != _MAGIC:
            found = "an empty file" if size == 0 else repr(head)
            raise FormatError(path, where="byte 0", expected="a Parquet file (PAR1)", found=found)
        file.seek(max(size - _TAIL, 0))
        tail = file.read(_TAIL)
        if len(tail) < _TAIL or tail[4:] != _MAGIC:
            place = f"byte {max(size - len(_MAGIC), 0)}"
            raise FormatError(path, where=place, expected="PAR1 at the end", found=repr(tail[4:]) + " (a cut file?)")
        length = int.from_bytes(tail[:4], "little")
        if not 0 < length <= min(size - _TAIL - len(_MAGIC), MAX_FOOTER_BYTES):
            place, expected = f"byte {size - _TAIL}", f"a footer within {min(size, MAX_FOOTER_BYTES)} bytes"
            raise FormatError(path, where=place, expected=expected, found=f"{length}")
        base = size - _TAIL - length
        file.seek(base)
        return _footer(_Thrift(file.read(length), base, path), data_bytes=base)


def _footer(thrift: _Thrift, data_bytes: int) -> Footer:
    meta = thrift.struct()
    thrift.at = 0
    try:
        elements = [_element(element) for element in meta[2]]
        rows, groups = int(meta[3]), meta[4]
        leaves = tuple(_leaves(elements))
        columns = tuple(_top_names(elements))
        decoded, total = 0, 0
        for group in groups:
            chunks, count = group[1], int(group[3])
            if len(chunks) != len(leaves) or count < 0:
                raise thrift.error(f"{len(leaves)} columns in a row group of {count} rows", f"{len(chunks)}")
            total += count
            decoded += sum(
                _chunk_bytes(thrift, chunk[3], leaf, data_bytes) for chunk, leaf in zip(chunks, leaves, strict=True)
            )
        created_by = meta.get(6, b"").decode("utf-8", "replace")
    except FormatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise thrift.error("a Parquet footer with schema and row groups", f"{type(error).__name__} {error}") from error
    if total != rows or rows < 0:
        raise thrift.error(f"{rows} rows", f"{total} in the row groups")
    return Footer(rows, columns, leaves, max(decoded, rows), created_by)


def _element(element: dict[int, Any]) -> tuple[str, int, int | None, int]:
    """Name, children, physical type, length of a fixed-size value."""
    return element[4].decode("utf-8"), int(element.get(5, 0)), element.get(1), int(element.get(2, 0))


def _top_names(elements: list[tuple[str, int, int | None, int]]) -> Iterator[str]:
    at = 1
    for _ in range(elements[0][1]):
        yield elements[at][0]
        at = _after(elements, at, 0)


def _after(elements: list[tuple[str, int, int | None, int]], at: int, depth: int) -> int:
    """The place behind an element and all below it."""
    _, children, kind, _ = elements[at]
    if depth > _MAX_DEPTH or children < 0 or (children > 0) == (kind is not None):
        raise ValueError("a schema that is no tree")
    at += 1
    for _ in range(children):
        at = _after(elements, at, depth + 1)
    return at


def _leaves(elements: list[tuple[str, int, int | None, int]]) -> Iterator[Leaf]:
    """The columns of values in the order of the schema."""
    if _after(elements, 0, 0) != len(elements) if elements[0][1] else len(elements) != 1:
        raise ValueError("schema elements left over")
    open_groups: list[tuple[str, int]] = []
    for name, children, kind, length in elements[1:]:
        if children:
            open_groups.append((name, children))
            continue
        if kind is None:
            raise ValueError("a column without a type")
        width = max(length, 0) if kind not in _WIDTHS else _WIDTHS[kind]
        yield Leaf(".".join([*(group for group, _ in open_groups), name]), int(kind), width)
        while open_groups:
            group, left = open_groups.pop()
            if left > 1:
                open_groups.append((group, left - 1))
                break


def _chunk_bytes(thrift: _Thrift, chunk: dict[int, Any], leaf: Leaf, data_bytes: int) -> int:
    """What a column chunk takes in memory at least.

    Raises:
        FormatError: It lies outside the file, or a count is negative.
    """
    values, packed, start = int(chunk[5]), int(chunk[7]), int(chunk[9])
    first = min(start, int(chunk[11])) if chunk.get(11) else start
    if values < 0 or packed < 0 or int(chunk[6]) < 0 or int(chunk[1]) != leaf.physical_type:
        raise thrift.error(f"a column chunk of {leaf.path}", f"{values} values in {packed} bytes")
    if first < 0 or first + packed > data_bytes:
        raise thrift.error(f"pages of {leaf.path} within {data_bytes} bytes", f"bytes {first} to {first + packed}")
    return values * leaf.width
