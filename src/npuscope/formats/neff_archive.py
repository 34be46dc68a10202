"""The payload of a NEFF: a tar archive, gzip-compressed or not, read as a stream and never written anywhere.

What is kept of a member is bounded: JSON files, the first bytes of `.npy` files, and of `.bin` files the counts of the
first byte of every 64. Everything else is hashed and dropped, so that memory does not grow with the archive.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

from npuscope.errors import FormatError
from npuscope.formats import limited_json
from npuscope.formats.payload_stream import PayloadStream
from npuscope.units import printable

BLOCK: Final = 512
SLOT_BYTES: Final = 64
"""Bytes of one instruction of an engine."""
ENTRY_LIMIT: Final = 20_000
NAME_LIMIT: Final = 1_024
_EXTENSION_LIMIT: Final = 64 << 10
_KEPT_LIMIT: Final = 64 << 20
"""Bytes of JSON kept from one archive."""
_HEAD_BYTES: Final = 4_096
"""Bytes of a `.npy` file that are kept: its header."""
_CHUNK: Final = 1 << 20
_REGULAR, _FOLDER = b"0\x007", b"5"
_LINKS = MappingProxyType({b"1": "hard link", b"2": "symbolic link"})
_DEVICES = MappingProxyType({b"3": "character device", b"4": "block device", b"6": "FIFO", b"S": "sparse file"})
_PAX_RECORD = re.compile(rb"(\d{1,6}) ([^=\n]{1,256})=")

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the archive."""

    name: str
    """With `/`; a leading `./` is left out."""
    size_bytes: int
    sha256: str
    """Of its bytes, as hexadecimal text."""


@dataclass(frozen=True, slots=True)
class Slots:
    """What the 64-byte slots of a `.bin` file look like."""

    first_byte: Counts
    """[256]: how many slots begin with each value."""
    marked: int
    """Slots whose second byte is 0x10, as it is in every instruction of real captures."""


@dataclass(frozen=True, slots=True)
class Archive:
    """What was found in a payload."""

    compression: str
    """`gzip` or `none`."""
    expanded_bytes: int
    padding_bytes: int
    """Zero bytes behind the gzip stream, or behind the end mark of a plain archive."""
    digests: MappingProxyType[str, str]
    """`md5`, `sha256` of the payload; `unpadded_md5`, `unpadded_sha256` of the gzip stream alone."""
    members: tuple[Member, ...]
    """In archive order."""
    kept: MappingProxyType[str, bytes]
    """Whole JSON files and heads of `.npy` files by name."""
    slots: MappingProxyType[str, Slots]
    """For every `.bin` file."""
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Reading:
    """What is known so far."""

    source: str
    members: list[Member] = field(default_factory=list)
    kept: dict[str, bytes] = field(default_factory=dict)
    slots: dict[str, Slots] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    entries: int = 0
    kept_bytes: int = 0

    def error(self, offset: int, expected: str, found: str) -> FormatError:
        where = f"expanded byte {offset}"
        return FormatError(self.source, where=where, expected=expected, found=found)


def read_archive(handle: BinaryIO, offset: int, length: int, source: str) -> Archive:
    """Read `length` bytes of payload at `offset` of a file.

    Raises:
        FormatError: It is no such archive, is cut off, expands beyond the limits, or holds what no compiler writes:
            names that leave the archive, devices, sparse files, two files of one name.
    """
    stream = PayloadStream(handle, offset, length, source)
    reading = _Reading(source)
    while _next_entry(stream, reading):
        pass
    padding = stream.finish()
    notes = (*reading.notes, *stream.notes)
    return Archive(
        stream.compression,
        stream.expanded_bytes,
        padding,
        MappingProxyType(stream.digests()),
        tuple(reading.members),
        MappingProxyType(reading.kept),
        MappingProxyType(reading.slots),
        notes,
    )


def _next_entry(stream: PayloadStream, reading: _Reading) -> bool:
    """Read one entry with the extension headers before it; False at the end of the archive."""
    renamed, resized = b"", None
    for _ in range(16):
        at = stream.position
        block = stream.read(BLOCK)
        if not block:
            reading.notes.append("the archive has no end mark: its last blocks may be missing")
            return False
        if len(block) < BLOCK:
            raise reading.error(at, "a 512-byte tar header", f"{len(block)} bytes")
        if block.count(0) == BLOCK:
            return False
        kind, size = block[156:157], _checked_size(block, at, reading)
        if kind not in (b"x", b"g", b"L", b"K"):
            name = renamed or _header_name(block)
            _entry(stream, reading, at, name, kind, size if resized is None else resized)
            return True
        if size > _EXTENSION_LIMIT:
            raise reading.error(at, f"an extension header of at most {_EXTENSION_LIMIT} bytes", str(size))
        body = _body(stream, reading, at, size)
        if kind == b"L":
            renamed = body.split(b"\0", 1)[0]
        elif kind == b"x":
            path, resized = _pax(body, at, reading)
            renamed = path or renamed
    raise reading.error(stream.position, "an entry behind its extension headers", "16 extension headers in a row")


def _checked_size(block: bytes, at: int, reading: _Reading) -> int:
    """The size in a tar header whose checksum is right."""
    stated = _octal(block[148:156])
    if stated != sum(block) - sum(block[148:156]) + 8 * 0x20:
        raise reading.error(at, "a tar header", "a block whose checksum is wrong")
    field_ = block[124:136]
    size = int.from_bytes(field_, "big") & ~(0x80 << 88) if field_[0] & 0x80 else _octal(field_)
    if size is None or size >= 1 << 63:
        raise reading.error(at, "a size in a tar header", repr(field_))
    return size


def _octal(text: bytes) -> int | None:
    digits = text.strip(b" \0")
    return int(digits or b"0", 8) if re.fullmatch(rb"[0-7]*", digits) else None


def _header_name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:262] == b"ustar" and block[263:265] == b"00" else b""
    return prefix + b"/" + name if prefix else name


def _pax(body: bytes, at: int, reading: _Reading) -> tuple[bytes, int | None]:
    """Path and size of a pax extension header."""
    path, size, start = b"", None, 0
    while start < len(body):
        record = _PAX_RECORD.match(body, start)
        length = int(record[1]) if record else 0
        if record is None or length <= record.end() - start or start + length > len(body):
            raise reading.error(at, "a pax record", repr(body[start : start + 20]))
        key, value = record[2], body[record.end() : start + length - 1]
        if key.startswith(b"GNU.sparse"):
            raise reading.error(at, "files and folders", "a sparse file")
        if key == b"path":
            path = value
        elif key == b"size":
            if not re.fullmatch(rb"\d{1,18}", value):
                raise reading.error(at, "a size in a pax record", repr(value))
            size = int(value)
        start += length
    return path, size


def _body(stream: PayloadStream, reading: _Reading, at: int, size: int) -> bytes:
    """The data of an entry, at most an extension's, with the padding behind it consumed."""
    body = stream.read(size)
    stream.read(-size % BLOCK)
    if len(body) < size:
        raise reading.error(at, f"{size} bytes behind the header", f"{len(body)} bytes")
    return body


def _entry(stream: PayloadStream, reading: _Reading, at: int, raw: bytes, kind: bytes, size: int) -> None:
    reading.entries += 1
    if reading.entries > ENTRY_LIMIT:
        raise reading.error(at, f"at most {ENTRY_LIMIT} entries", "more")
    name = _safe_name(raw, at, reading)
    if kind in _DEVICES:
        raise reading.error(at, "files and folders", f"a {_DEVICES[kind]} {name!r}")
    stream.require(size, at)
    if kind in _LINKS or kind == _FOLDER:
        if kind in _LINKS:
            reading.notes.append(f"{_LINKS[kind]} {printable(name)!r} is left out: nothing is followed")
        _copy(stream, reading, at, size, lambda _: None)
        return
    if kind not in _REGULAR:
        raise reading.error(at, "files and folders", f"an entry of type {kind!r}")
    if name in reading.names:
        raise reading.error(at, "one file of each name", f"a second {name!r}")
    reading.names.add(name)
    _file(stream, reading, at, name, size)


def _safe_name(raw: bytes, at: int, reading: _Reading) -> str:
    """The name without a leading `./`; one that would leave the archive is refused."""
    if len(raw) > NAME_LIMIT:
        raise reading.error(at, f"a name of at most {NAME_LIMIT} bytes", f"{len(raw)} bytes")
    name = raw.decode("utf-8", "backslashreplace")
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or (len(parts[0]) == 2 and parts[0][1] == ":"):
        raise reading.error(at, "names inside the archive", f"{name!r}")
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _file(stream: PayloadStream, reading: _Reading, at: int, name: str, size: int) -> None:
    """Hash a file, and keep of it what its name calls for."""
    digest = hashlib.sha256()
    whole = name.endswith(".json")
    wanted = size if whole else min(size, _HEAD_BYTES) if name.endswith(".npy") else 0
    if whole and (size > limited_json.BYTES_LIMIT or reading.kept_bytes + size > _KEPT_LIMIT):
        reading.notes.append(f"{printable(name)} has {size} bytes and is not read")
        wanted = 0
    kept = bytearray()
    counts, marked = np.zeros(256, np.int64), 0
    is_binary = name.endswith(".bin")

    def take(chunk: bytes) -> None:
        nonlocal counts, marked
        digest.update(chunk)
        if len(kept) < wanted:
            kept.extend(chunk[: wanted - len(kept)])
        if is_binary:
            slots = np.frombuffer(chunk, np.uint8, len(chunk) // SLOT_BYTES * SLOT_BYTES).reshape(-1, SLOT_BYTES)
            counts += np.bincount(slots[:, 0], minlength=256)
            marked += int((slots[:, 1] == 0x10).sum())

    _copy(stream, reading, at, size, take)
    reading.members.append(Member(name, size, digest.hexdigest()))
    if wanted or (whole and not size):
        reading.kept[name] = bytes(kept)
        reading.kept_bytes += len(kept)
    if is_binary:
        reading.slots[name] = Slots(counts, marked)


def _copy(stream: PayloadStream, reading: _Reading, at: int, size: int, take: Callable[[bytes], None]) -> None:
    """Hand over the data of an entry in chunks of whole slots, and consume the padding behind it."""
    left = size
    while left:
        chunk = stream.read(min(left, _CHUNK))
        if not chunk:
            raise reading.error(at, f"{size} bytes of data in the archive", f"{size - left} bytes")
        take(chunk)
        left -= len(chunk)
    stream.read(-size % BLOCK)
