"""The framing of a native Perfetto trace: is every packet whole?

A trace is one protobuf message: packets in field 1, each with its length. Perfetto's trace processor reads a file that
was cut off without a word, so the lengths are followed here, those inside compressed packets too.

Sources: trace.proto and trace_packet.proto of Perfetto (`Trace.packet` = 1, `TracePacket.compressed_packets` = 50).
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from npuscope.errors import FormatError
from npuscope.formats.byte_stream import BLOCK_BYTES, ByteStream

MAX_PACKET_BYTES = 512 << 20
_PACKET_TAG = 0x0A
_COMPRESSED_TAG = b"\x92\x03"
"""Field 50, bytes."""
_INFLATED_LIMIT = 1 << 30
_INFLATED_CHUNK = 1 << 20
_MAX_VARINT = 10
_FIXED = {1: 8, 5: 4}
_ENDED = "cut off here, or copied while it was written: record or copy it again"


@dataclass(slots=True)
class Packets:
    """What the framing of a trace tells."""

    count: int = 0
    """Packets, those within compressed ones included."""
    compressed: int = 0
    size_bytes: int = 0
    """Of the file, unpacked where it is gzip."""
    is_gzip: bool = False
    other_fields: Counter[int] = field(default_factory=Counter)


def check_packets(path: Path) -> Packets:
    """Follow the lengths of all packets to the end of the file.

    Args:
        path: `.pftrace`, or gzip of it.

    Raises:
        FormatError: The file ends within a packet, is no native Perfetto trace, or a compressed packet is damaged.
    """
    found = Packets()
    with ByteStream(path) as stream:
        found.is_gzip = stream.is_gzip
        walk = _Walk(path, stream.is_gzip)
        while data := stream.read(BLOCK_BYTES):
            walk.feed(data, found)
        walk.finish(found)
        found.size_bytes = stream.offset
    if not found.count:
        raise FormatError(path, where="byte 0", expected="a Perfetto trace", found="no packet")
    return found


class _Walk:
    """Top-level fields of a trace, block by block; a packet that is still incomplete waits for more."""

    def __init__(self, path: Path, is_gzip: bool) -> None:
        self._path, self._gzip = path, is_gzip
        self._rest = b""
        self._offset = 0
        """Where `_rest` begins."""
        self._skip = 0
        """Bytes of a packet that need not be looked at."""

    def feed(self, data: bytes, found: Packets) -> None:
        if self._skip >= len(data):
            self._skip -= len(data)
            self._offset += len(data)
            return
        self._offset += self._skip
        self._rest += data[self._skip :] if self._skip else data
        self._skip = 0
        position, size = 0, len(self._rest)
        rest = self._rest
        while position < size:
            position, whole = _pass_small_packets(rest, position)
            found.count += whole
            if position == size:
                break
            header = _header(rest, position, size)
            if header is None:
                if size - position >= 2 * _MAX_VARINT:
                    raise self._error(
                        position, "the tag and length of a packet", f"bytes {rest[position : position + 8].hex(' ')}"
                    )
                break
            number, wire, length, begin = header
            if wire not in (0, 1, 2, 5) or number == 0 or length > MAX_PACKET_BYTES:
                raise self._error(
                    position, "a packet of a Perfetto trace", f"field {number} of wire type {wire}, {length} bytes"
                )
            end = begin + length
            is_packet = number == 1 and wire == 2
            if is_packet and begin + 3 > size and end > size:
                break
            compressed = is_packet and length > 1 and rest[begin : begin + 2] == _COMPRESSED_TAG
            if end > size:
                if compressed:
                    break
                self._skip = end - size
            if is_packet:
                found.count += 1
                if compressed:
                    found.compressed += 1
                    found.count += self._inside(rest[begin:end], self._offset + begin) - 1
            else:
                found.other_fields[number] += 1
            position = min(end, size)
        self._offset += position
        self._rest = rest[position:]

    def finish(self, found: Packets) -> None:
        """Raise if the file ended within a packet."""
        if self._skip or self._rest:
            at = self._offset + len(self._rest)
            missing = f"{self._skip} bytes more of packet {found.count}" if self._skip else "the rest of a packet"
            raise FormatError(
                self._path, where=self._place(at), expected=missing, found="the end of the file", remedy=_ENDED
            )

    def _inside(self, packet: bytes, offset: int) -> int:
        """Packets within a compressed one: zlib, then the framing of a trace again."""
        header = _header(packet, 0, len(packet))
        if header is None or header[3] + header[2] > len(packet):
            raise self._error_at(offset, "a whole compressed packet", "one that is cut off")
        inflate = zlib.decompressobj()
        inner = Packets()
        walk = _Walk(self._path, self._gzip)
        pending, total = packet[header[3] : header[3] + header[2]], 0
        try:
            while pending and not inflate.eof:
                data = inflate.decompress(pending, _INFLATED_CHUNK)
                pending, total = inflate.unconsumed_tail, total + len(data)
                if total > _INFLATED_LIMIT:
                    raise self._error_at(offset, f"packets that inflate to at most {_INFLATED_LIMIT} bytes", "more")
                walk.feed(data, inner)
        except zlib.error as error:
            raise self._error_at(offset, "a compressed packet", str(error)) from error
        if not inflate.eof or walk._skip or walk._rest:
            raise self._error_at(offset, "whole packets in a compressed one", "its end")
        return inner.count

    def _place(self, at: int) -> str:
        return f"unpacked byte {at}" if self._gzip else f"byte {at}"

    def _error(self, position: int, expected: str, found: str) -> FormatError:
        return self._error_at(self._offset + position, expected, found)

    def _error_at(self, at: int, expected: str, found: str) -> FormatError:
        return FormatError(self._path, where=self._place(at), expected=expected, found=found)


def _pass_small_packets(data: bytes, position: int) -> tuple[int, int]:
    """Go on while whole packets of less than 16 KiB follow, which most are; where that ends, and how many there were."""
    count = 0
    last = len(data) - _MAX_VARINT
    while position < last and data[position] == _PACKET_TAG:
        length = data[position + 1]
        begin = position + 2
        if length >= 0x80:
            high = data[begin]
            if high >= 0x80:
                break
            length += (high << 7) - 0x80
            begin += 1
        end = begin + length
        if end > len(data) or (data[begin] == _COMPRESSED_TAG[0] and data[begin + 1] == _COMPRESSED_TAG[1]):
            break
        position = end
        count += 1
    return position, count


def _header(data: bytes, position: int, size: int) -> tuple[int, int, int, int] | None:
    """Field number, wire type, length of the value and where it begins; None where the text ends before."""
    if data[position] == _PACKET_TAG and position + 1 < size and data[position + 1] < 0x80:
        return 1, 2, data[position + 1], position + 2
    tag = _varint(data, position, size)
    if tag is None:
        return None
    key, begin = tag
    number, wire = key >> 3, key & 7
    if wire in _FIXED:
        return number, wire, _FIXED[wire], begin
    value = _varint(data, begin, size)
    if wire == 0:
        return None if value is None else (number, wire, value[1] - begin, begin)
    if wire != 2:
        return number, wire, 0, begin
    return None if value is None else (number, wire, value[0], value[1])


def _varint(data: bytes, position: int, size: int) -> tuple[int, int] | None:
    value, shift = 0, 0
    while position < size and shift < 7 * _MAX_VARINT:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    return None
