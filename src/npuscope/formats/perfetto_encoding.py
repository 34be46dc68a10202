"""Many protobuf messages at once: fields as columns, sizes first, then every byte by NumPy.

Source of the wire format: Protocol Buffers documentation, "Encoding". A message type is a list of fields; a field knows
how many bytes it takes in each of n messages and writes them at given positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bytes = npt.NDArray[np.uint8]
Sizes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_LIMITS = np.array([1 << (7 * count) for count in range(1, 10)], np.uint64)


class Field(Protocol):
    """One field of n messages."""

    def sizes(self) -> Sizes:
        """Bytes in each message [n]; 0 where the field is absent."""

    def write(self, out: Bytes, at: Sizes) -> None:
        """Write the field of each message to `out` at its position."""


def varint_sizes(values: npt.NDArray[np.uint64]) -> Sizes:
    """Bytes that each number takes, 1 to 10."""
    return np.asarray(np.searchsorted(_LIMITS, values, side="right") + 1, np.int64)


def write_varints(out: Bytes, at: Sizes, values: npt.NDArray[np.uint64], sizes: Sizes) -> None:
    """Write numbers in base 128, low digits first, the high bit set in all bytes but the last."""
    longest, shortest = int(sizes.max(initial=0)), int(sizes.min(initial=0))
    for index in range(longest):
        digits = ((values >> np.uint64(7 * index)) & np.uint64(0x7F)).astype(np.uint8)
        if index + 1 < shortest:
            out[at + index] = digits | 0x80
            continue
        digits |= (sizes > index + 1).astype(np.uint8) << 7
        if index < shortest:
            out[at + index] = digits
        else:
            longer = sizes > index
            out[at[longer] + index] = digits[longer]


def varint(value: int) -> bytes:
    """One number as a varint; a negative one as 64-bit two's complement, as int64 fields have it."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def tag(number: int, wire: int) -> bytes:
    """The key of a field: its number and its wire type (0 varint, 1 eight bytes, 2 length and bytes)."""
    return varint(number << 3 | wire)


def message(number: int, *parts: bytes) -> bytes:
    """A field that holds bytes, text or a message."""
    data = b"".join(parts)
    return tag(number, 2) + varint(len(data)) + data


def integer(number: int, value: int) -> bytes:
    """A field that holds a whole number."""
    return tag(number, 0) + varint(value)


def text(number: int, value: str) -> bytes:
    """A field that holds text; a lone surrogate, which UTF-8 does not know, becomes `?`."""
    return message(number, value.encode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class Constant:
    """The same bytes in every message."""

    data: bytes
    count: int
    """How many messages."""

    def sizes(self) -> Sizes:
        """See `Field`."""
        return np.full(self.count, len(self.data), np.int64)

    def write(self, out: Bytes, at: Sizes) -> None:
        """See `Field`."""
        for index, byte in enumerate(self.data):
            out[at + index] = byte


class Varint:
    """A whole number in every message."""

    def __init__(self, key: bytes, values: npt.NDArray[np.uint64]) -> None:
        self._key = key
        self._values = values
        self._widths = varint_sizes(values)

    def sizes(self) -> Sizes:
        """See `Field`."""
        return self._widths + len(self._key)

    def write(self, out: Bytes, at: Sizes) -> None:
        """See `Field`."""
        for index, byte in enumerate(self._key):
            out[at + index] = byte
        write_varints(out, at + len(self._key), self._values, self._widths)


@dataclass(frozen=True, slots=True)
class Fixed64:
    """A float64 in every message."""

    key: bytes
    values: npt.NDArray[np.float64]

    def sizes(self) -> Sizes:
        """See `Field`."""
        return np.full(self.values.size, len(self.key) + 8, np.int64)

    def write(self, out: Bytes, at: Sizes) -> None:
        """See `Field`."""
        for index, byte in enumerate(self.key):
            out[at + index] = byte
        data = np.ascontiguousarray(self.values, "<f8").view(np.uint8).reshape(-1, 8)
        out[at[:, None] + np.arange(len(self.key), len(self.key) + 8)] = data


@dataclass(frozen=True, slots=True)
class Repeated:
    """Several rows of bytes of one length in a message: the k-th row belongs to message `owner[k]`, ascending."""

    rows: Bytes
    """Shape [m, length]."""
    owner: Sizes
    count: int

    def sizes(self) -> Sizes:
        """See `Field`."""
        return np.asarray(np.bincount(self.owner, minlength=self.count).astype(np.int64) * self.rows.shape[1])

    def write(self, out: Bytes, at: Sizes) -> None:
        """See `Field`."""
        counts = np.bincount(self.owner, minlength=self.count)
        rank = np.arange(self.owner.size) - (np.cumsum(counts) - counts)[self.owner]
        start = at[self.owner] + rank * self.rows.shape[1]
        out[start[:, None] + np.arange(self.rows.shape[1])] = self.rows


class Nested:
    """A message within each message: key, length, fields."""

    def __init__(self, key: bytes, fields: Sequence[Field]) -> None:
        self._key = key
        self._fields = fields
        self._field_sizes = [field.sizes() for field in fields]
        self._inner = np.asarray(np.sum(self._field_sizes, axis=0), np.int64)
        self._length_sizes = varint_sizes(self._inner.view(np.uint64))

    def sizes(self) -> Sizes:
        """See `Field`."""
        return self._inner + self._length_sizes + len(self._key)

    def write(self, out: Bytes, at: Sizes) -> None:
        """See `Field`."""
        for index, byte in enumerate(self._key):
            out[at + index] = byte
        write_varints(out, at + len(self._key), self._inner.view(np.uint64), self._length_sizes)
        position = at + len(self._key) + self._length_sizes
        for field, widths in zip(self._fields, self._field_sizes, strict=True):
            field.write(out, position)
            position = position + widths


def encode(fields: Sequence[Field]) -> bytes:
    """The fields of message after message as one string of bytes."""
    widths = [field.sizes() for field in fields]
    total = np.sum(widths, axis=0, dtype=np.int64)
    at = np.cumsum(total) - total
    out = np.empty(int(total.sum()), np.uint8)
    for field, width in zip(fields, widths, strict=True):
        field.write(out, at)
        at = at + width
    return out.tobytes()


class Text:
    """Text in every message."""

    def __init__(self, key: bytes, values: pa.StringArray) -> None:
        self._key = key
        _, offsets, data = values.buffers()
        self._offsets = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1].astype(
            np.int64
        )
        self._data = np.frombuffer(data or b"", np.uint8)
        self._lengths: Sizes = np.diff(self._offsets)
        self._length_sizes = varint_sizes(np.asarray(self._lengths, np.uint64))

    def sizes(self) -> Sizes:
        """See `Field`."""
        return self._lengths + self._length_sizes + len(self._key)

    def write(self, out: Bytes, at: Sizes) -> None:
        """See `Field`."""
        for index, byte in enumerate(self._key):
            out[at + index] = byte
        write_varints(out, at + len(self._key), np.asarray(self._lengths, np.uint64), self._length_sizes)
        first = int(self._offsets[0])
        start = at + len(self._key) + self._length_sizes - (self._offsets[:-1] - first)
        count = int(self._offsets[-1]) - first
        out[np.repeat(start, self._lengths) + np.arange(count)] = self._data[first : first + count]
