"""Reads XLA programs from files: `HloModuleProto`, or an `HloProto` or a snapshot around it, packed with gzip or not."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, Final

from npuscope.errors import FormatError
from npuscope.formats.hlo import HloModule, collection_paused, name_of, text_of
from npuscope.formats.hlo_envelope import module_message
from npuscope.formats.hlo_ops import decode_computations
from npuscope.units import format_bytes

SIZE_LIMIT: Final = 1 << 31
"""Of a serialized message; protobuf has no larger ones."""
_EXPANSION_FLOOR: Final = 64 << 20
_EXPANSION: Final = 32
"""A gzip file may unpack to 64 MiB, or to this many times its size where that is more: modules pack about 10 times, and a
hostile one takes up to 40 times its unpacked size of memory."""


def read_hlo(path: Path) -> HloModule:
    """Read a serialized HLO module, packed with gzip or not.

    Raises:
        FormatError: It is truncated or damaged, no HLO module, or contradicts itself.
    """
    return parse_hlo(read_hlo_bytes(path), source=str(path))


def read_hlo_bytes(path: Path) -> bytes:
    """The bytes of a file, unpacked where it is gzip.

    Raises:
        FormatError: It cannot be read, or is larger than any message.
    """
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT)
    except OSError as error:
        raise FormatError(path, expected="a readable file", found=error.strerror or str(error)) from error
    if data[:2] == b"\x1f\x8b":
        data = _unpack(data, path)
    if len(data) >= SIZE_LIMIT:
        raise FormatError(path, expected=f"less than {format_bytes(SIZE_LIMIT)}", found="more")
    return data


def _unpack(packed: bytes, path: Path) -> bytes:
    limit = min(max(_EXPANSION_FLOOR, _EXPANSION * len(packed)), SIZE_LIMIT)
    unpacker = zlib.decompressobj(31)
    try:
        data = unpacker.decompress(packed, limit)
    except zlib.error as error:
        raise FormatError(path, expected="gzip data", found=str(error), remedy="copy the file again") from error
    if len(data) >= limit:
        expected = f"gzip data that unpack to less than {format_bytes(limit)}"
        raise FormatError(path, expected=expected, found="more", remedy="unpack it yourself if you trust it")
    if not unpacker.eof:
        found = f"it is cut off after {format_bytes(len(data))}"
        raise FormatError(path, expected="a whole gzip file", found=found, remedy="copy the file again")
    return data


def parse_hlo(data: bytes, *, source: str) -> HloModule:
    """Decode a serialized `HloModuleProto`, or the one within an `HloProto` or a snapshot.

    Args:
        data: The message.
        source: What to call it in an error.

    Raises:
        FormatError: It is truncated or damaged, no HLO module, or contradicts itself.
    """
    message = module_message(data, source)
    order = {computation.id: place for place, computation in enumerate(message.computations)}
    if len(order) != len(message.computations):
        raise FormatError(source, where="computations", expected="one id each", found="two with the same id")
    entry = _entry(message, order, source)
    with collection_paused():
        computations = decode_computations(message.computations, order, source)
    return HloModule(source, text_of(message.name), computations, entry, message, len(data))


def _entry(message: Any, order: dict[int, int], source: str) -> int:
    """Place of the entry computation, whose id stands behind all computations: what is cut off lacks it.

    Id 0 is what a missing field reads as, so that the name at the head of the file has to agree.
    """
    place = order.get(message.entry_computation_id, -1)
    name = name_of(message.entry_computation_name)
    if place < 0 or (message.entry_computation_name not in (b"", message.computations[place].name)):
        found = f"none with id {message.entry_computation_id}" if place < 0 else "another name under its id"
        where = f"entry computation {name}" if name else "entry computation"
        remedy = "if the file is cut off, copy it again"
        raise FormatError(source, where=where, expected="it among the computations", found=found, remedy=remedy)
    return place
