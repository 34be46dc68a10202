"""Protocol Buffers' wire format, without a schema: what is needed to read a message that nobody documents.

Source: Protocol Buffers documentation, "Encoding". Bytes fields are views; nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from npuscope.errors import FormatError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_VARINT_LIMIT = 10
_FIELD_LIMIT = 1_000_000
"""Fields of one message; real captures hold some hundred."""


@dataclass(frozen=True, slots=True)
class Message:
    """The fields of one message by number, in file order."""

    integers: dict[int, list[int]]
    """Varints as unsigned 64-bit numbers; fixed-width fields are in `payloads`."""
    payloads: dict[int, list[tuple[int, memoryview]]]
    """Byte fields with their offset in the file."""
    offset: int
    source: str

    def integer(self, number: int, default: int = 0) -> int:
        """The last varint of that number; protobuf leaves out a field that is 0."""
        values = self.integers.get(number)
        return values[-1] if values else default

    def bytes(self, number: int) -> bytes:
        """The last byte field of that number; b'' where it is missing."""
        values = self.payloads.get(number)
        return bytes(values[-1][1]) if values else b""

    def text(self, number: int) -> str:
        """The last byte field as text; what is not UTF-8 is replaced."""
        return self.bytes(number).decode("utf-8", "replace")

    def messages(self, number: int) -> list[Message]:
        """Every byte field of that number, parsed.

        Raises:
            FormatError: One of them is no message.
        """
        return [parse_message(view, self.source, offset) for offset, view in self.payloads.get(number, [])]

    def message(self, number: int) -> Message:
        """The last byte field of that number, parsed; an empty message where it is missing."""
        found = self.payloads.get(number)
        if not found:
            return Message({}, {}, self.offset, self.source)
        return parse_message(found[-1][1], self.source, found[-1][0])


def parse_message(data: memoryview, source: str, offset: int = 0) -> Message:
    """Split a message into its fields.

    Args:
        data: The message.
        source: What to call the file in an error.
        offset: Where `data` begins in the file.

    Raises:
        FormatError: It ends within a field, or holds a wire type that does not exist.
    """
    integers: dict[int, list[int]] = {}
    payloads: dict[int, list[tuple[int, memoryview]]] = {}
    for count, (number, value, at) in enumerate(_fields(data, source, offset)):
        if count >= _FIELD_LIMIT:
            raise FormatError(source, where=f"byte {at}", expected=f"at most {_FIELD_LIMIT} fields", found="more")
        if isinstance(value, int):
            integers.setdefault(number, []).append(value)
        else:
            payloads.setdefault(number, []).append((at, value))
    return Message(integers, payloads, offset, source)


def _fields(data: memoryview, source: str, offset: int) -> Iterator[tuple[int, int | memoryview, int]]:
    position, size = 0, len(data)
    while position < size:
        start = position
        key, position = _varint(data, position, source, offset)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise FormatError(source, where=f"byte {offset + start}", expected="a field number", found="0")
        if wire == _VARINT:
            value, position = _varint(data, position, source, offset)
            yield number, value, offset + start
            continue
        if wire == _BYTES:
            length, position = _varint(data, position, source, offset)
        elif wire in _FIXED_SIZES:
            length = _FIXED_SIZES[wire]
        else:
            found = f"wire type {wire} of field {number}"
            raise FormatError(source, where=f"byte {offset + start}", expected="a protobuf field", found=found)
        if length > size - position:
            found = f"{size - position} of {length} bytes of field {number}"
            raise FormatError(source, where=f"byte {offset + position}", expected="a whole field", found=found)
        yield number, data[position : position + length], offset + position
        position += length


def _varint(data: memoryview, position: int, source: str, offset: int) -> tuple[int, int]:
    value = 0
    for index in range(_VARINT_LIMIT):
        if position + index >= len(data):
            where = f"byte {offset + len(data)}"
            raise FormatError(source, where=where, expected="the rest of a number", found="the end of its message")
        byte = data[position + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position + index + 1
    raise FormatError(
        source, where=f"byte {offset + position}", expected=f"a number of at most {_VARINT_LIMIT} bytes", found="more"
    )
