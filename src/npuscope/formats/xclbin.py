"""xclbin: the container of a compiled XDNA design. A header, a table of sections, the sections; little-endian.

Source: Xilinx/XRT @963c58e, src/runtime_src/core/include/xrt/detail/xclbin.h (structs axlf, axlf_header, axlf_section_header,
ip_layout, aie_partition). An NPU's xclbin has the array's configuration in AIE_PARTITION, its kernel's name and instance in IP_LAYOUT,
and name and arguments as XML in EMBEDDED_METADATA, from which alone XRT takes them.
"""

from __future__ import annotations

import re
import struct
import uuid as uuids
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Final

from npuscope.errors import FormatError
from npuscope.formats.inspection import Inspection
from npuscope.formats.whole_file import read_whole
from npuscope.units import printable

MAGIC: Final = b"xclbin2\0"
HEADER_BYTES: Final = 456
SECTION_HEADER_BYTES: Final = 40
MOST_SECTIONS: Final = 0x10000
"""XRT's own limit."""
MOST_BYTES: Final = 1 << 30
_LENGTH_AT, _TIMESTAMP_AT, _VERSION_AT, _PLATFORM_AT, _UUID_AT, _COUNT_AT = 304, 312, 328, 352, 416, 448
SECTION_KINDS: Final = MappingProxyType(
    dict(
        enumerate(
            (
                "BITSTREAM",
                "CLEARING_BITSTREAM",
                "EMBEDDED_METADATA",
                "FIRMWARE",
                "DEBUG_DATA",
                "SCHED_FIRMWARE",
                "MEM_TOPOLOGY",
                "CONNECTIVITY",
                "IP_LAYOUT",
                "DEBUG_IP_LAYOUT",
                "DESIGN_CHECK_POINT",
                "CLOCK_FREQ_TOPOLOGY",
                "MCS",
                "BMC",
                "BUILD_METADATA",
                "KEYVALUE_METADATA",
                "USER_METADATA",
                "DNA_CERTIFICATE",
                "PDI",
                "BITSTREAM_PARTIAL_PDI",
                "PARTITION_METADATA",
                "EMULATION_DATA",
                "SYSTEM_METADATA",
                "SOFT_KERNEL",
                "ASK_FLASH",
                "AIE_METADATA",
                "ASK_GROUP_TOPOLOGY",
                "ASK_GROUP_CONNECTIVITY",
                "SMARTNIC",
                "AIE_RESOURCES",
                "OVERLAY",
                "VENDER_METADATA",
                "AIE_PARTITION",
                "IP_METADATA",
                "AIE_RESOURCES_BIN",
                "AIE_TRACE_METADATA",
                "DTBO",
            )
        )
    )
)
"""enum axlf_section_kind."""
_YEAR_10000_S: Final = 253_402_300_800
_IP_BYTES: Final = 80
_IP_NAME_AT: Final = 16
_IP_KERNELS: Final = {1, 7}  # IP_KERNEL, IP_PS_KERNEL
PARTITION_BYTES: Final = 184
_PARTITION_COLUMNS_AT: Final = 32
_ELEMENT: Final = re.compile(rb"<(/?kernel|arg)(?=[\s/>])([^<>]{0,4096})>")
_NAME: Final = re.compile(rb"""(?:^|\s)name\s{0,8}=\s{0,8}["']([^"'<>]{1,256})["']""")


@dataclass(frozen=True, slots=True)
class Section:
    """One entry of the section table."""

    kind: str
    """As `SECTION_KINDS` names it; `kind N` for one that it does not know."""
    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class XclbinKernel:
    """A kernel as the xclbin declares it."""

    name: str
    arguments: int | None
    """How many arguments it takes: opcode, instructions, their count, then buffers; None where no metadata tells."""


@dataclass(frozen=True, slots=True)
class Xclbin:
    """What an xclbin says of itself."""

    length: int
    """Bytes in all, by its header."""
    uuid: str
    timestamp_s: int
    """When it was made, in seconds since 1970; 0 where nobody noted it."""
    version: str
    platform: str
    """Vendor, board, name and version of what it was built for (VBNV)."""
    sections: tuple[Section, ...]
    kernels: tuple[XclbinKernel, ...]
    partition_columns: int | None
    """Columns of the array that the design takes; None without an array partition."""

    @property
    def has_array_partition(self) -> bool:
        """It configures AI engines: it is a design for an NPU."""
        return any(section.kind == "AIE_PARTITION" for section in self.sections)


def read_xclbin(path: Path) -> Xclbin:
    """Read an xclbin.

    Raises:
        FormatError: Unreadable, no xclbin, or broken; the message has the byte.
    """
    return parse_xclbin(read_bytes(path), source=str(path))


def read_bytes(path: Path) -> bytes:
    """The file, whole.

    Raises:
        FormatError: Unreadable, no file, or larger than any xclbin.
    """
    return read_whole(path, what="an xclbin file", limit=MOST_BYTES)


def parse_xclbin(data: bytes, *, source: str) -> Xclbin:
    """Decode header, section table and kernel names.

    Raises:
        FormatError: The data is no xclbin, too short, or a section lies outside it.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise FormatError(source, where="byte 0", expected=f"{MAGIC!r}", found=repr(data[: len(MAGIC)]))
    if len(data) < HEADER_BYTES:
        raise FormatError(
            source, where=f"byte {len(data)}", expected=f"a header of {HEADER_BYTES} bytes", found="the end"
        )
    (length,) = struct.unpack_from("<Q", data, _LENGTH_AT)
    if not HEADER_BYTES <= length <= len(data):
        raise FormatError(
            source,
            where=f"byte {_LENGTH_AT}",
            expected=f"a length of at most {len(data)}, what the file has",
            found=str(length),
        )
    (count,) = struct.unpack_from("<I", data, _COUNT_AT)
    if count > MOST_SECTIONS or HEADER_BYTES + count * SECTION_HEADER_BYTES > length:
        raise FormatError(source, where=f"byte {_COUNT_AT}", expected="as many sections as fit", found=str(count))
    patch, major, minor = struct.unpack_from("<HBB", data, _VERSION_AT)
    sections = _sections(data, count, length, source)
    return Xclbin(
        length=length,
        uuid=str(uuids.UUID(bytes=data[_UUID_AT : _UUID_AT + 16])),
        timestamp_s=struct.unpack_from("<Q", data, _TIMESTAMP_AT)[0],
        version=f"{major}.{minor}.{patch}",
        platform=_text(data[_PLATFORM_AT : _PLATFORM_AT + 64]),
        sections=sections,
        kernels=_kernels(data, sections, source),
        partition_columns=_partition_columns(data, sections),
    )


def section_bytes(data: bytes, xclbin: Xclbin, kind: str) -> bytes | None:
    """The first section of a kind; None where there is none."""
    for section in xclbin.sections:
        if section.kind == kind:
            return data[section.offset : section.offset + section.size]
    return None


def _sections(data: bytes, count: int, length: int, source: str) -> tuple[Section, ...]:
    """The table; no byte belongs to two sections, so that reading them all reads the file at most once."""
    first = HEADER_BYTES + count * SECTION_HEADER_BYTES
    sections = tuple(_section(data, index, first, length, source) for index in range(count))
    end, before = first, None
    for index in sorted(range(count), key=lambda index: sections[index].offset):
        section = sections[index]
        if not section.size:
            continue
        if section.offset < end:
            raise FormatError(
                source,
                where=f"byte {HEADER_BYTES + index * SECTION_HEADER_BYTES}, section {index}",
                expected=f"a section behind section {before}, which ends at byte {end}",
                found=f"{section.size} bytes at {section.offset}",
            )
        end, before = section.offset + section.size, index
    return sections


def _section(data: bytes, index: int, first: int, length: int, source: str) -> Section:
    at = HEADER_BYTES + index * SECTION_HEADER_BYTES
    kind, name, offset, size = struct.unpack_from("<I16s4xQQ", data, at)
    if size and (offset < first or offset + size > length):
        raise FormatError(
            source,
            where=f"byte {at}, section {index}",
            expected=f"a section between byte {first} and {length}",
            found=f"{size} bytes at {offset}",
        )
    return Section(SECTION_KINDS.get(kind, f"kind {kind}"), _text(name), offset, size)


def _kernels(data: bytes, sections: tuple[Section, ...], source: str) -> tuple[XclbinKernel, ...]:
    """Names by IP_LAYOUT (`NAME:INSTANCE`) with arguments by EMBEDDED_METADATA; names by the latter where it alone has them."""
    declared: dict[str, int] = {}
    names: list[str] = []
    for section in sections:
        if section.kind in {"EMBEDDED_METADATA", "IP_LAYOUT"}:
            part = data[section.offset : section.offset + section.size]
            if section.kind == "IP_LAYOUT":
                names += _laid_out(part, section.offset, source)
            else:
                declared.update(_described(part))
    return tuple(XclbinKernel(name, declared.get(name)) for name in dict.fromkeys([*names, *declared]))


def _laid_out(part: bytes, offset: int, source: str) -> list[str]:
    count = struct.unpack_from("<i", part)[0] if len(part) >= 4 else -1
    if count < 0 or 8 + count * _IP_BYTES > len(part):
        raise FormatError(
            source, where=f"byte {offset}, IP_LAYOUT", expected="as many IPs as fit the section", found=str(count)
        )
    names = []
    for index in range(count):
        at = 8 + index * _IP_BYTES
        if struct.unpack_from("<I", part, at)[0] in _IP_KERNELS:
            names.append(_text(part[at + _IP_NAME_AT : at + _IP_BYTES]).split(":")[0])
    return names


def _described(part: bytes) -> dict[str, int]:
    """Kernels and their numbers of arguments in the XML; searched, not parsed: an entity must not be able to expand."""
    found: dict[str, int] = {}
    inside = ""
    for element in _ELEMENT.finditer(part):
        tag, attributes = element.groups()
        if tag == b"arg":
            if inside:
                found[inside] += 1
        elif tag == b"kernel" and (named := _NAME.search(attributes)):
            inside = _text(named.group(1))
            found[inside] = 0
            if attributes.endswith(b"/"):
                inside = ""
        else:
            inside = ""
    return found


def _partition_columns(data: bytes, sections: tuple[Section, ...]) -> int | None:
    for section in sections:
        if section.kind == "AIE_PARTITION" and section.size >= PARTITION_BYTES:
            return int(struct.unpack_from("<H", data, section.offset + _PARTITION_COLUMNS_AT)[0])
    return None


def _text(data: bytes) -> str:
    return printable(data.split(b"\0", 1)[0].decode("utf-8", "replace"))


def inspect_xclbin(path: Path) -> Inspection:
    """Tell what an xclbin holds.

    Raises:
        FormatError: See `read_xclbin`.
    """
    xclbin = read_xclbin(path)
    names = ", ".join(kernel.name for kernel in xclbin.kernels) or "no kernel"
    kind = "design for AI engines" if xclbin.has_array_partition else "xclbin without AI engines"
    if xclbin.partition_columns:
        columns = "a column" if xclbin.partition_columns == 1 else f"{xclbin.partition_columns} columns"
        kind = f"design for {columns} of AI engines"
    notes = [] if xclbin.kernels else ["no section names a kernel"]
    if xclbin.platform.startswith("npuscope:emulated"):
        notes.append("made for npuscope's emulator: no device runs it")
    return Inspection(
        "xclbin",
        str(path),
        f"{kind}: {names}, {len(xclbin.sections)} sections",
        {
            "size_bytes": xclbin.length,
            "uuid": xclbin.uuid,
            "built": _date(xclbin.timestamp_s),
            "xclbin_version": xclbin.version,
            "platform": xclbin.platform,
        },
        {
            "kernels": [{"kernel": kernel.name, "arguments": kernel.arguments} for kernel in xclbin.kernels],
            "sections": [
                {"kind": section.kind, "name": section.name, "offset": section.offset, "size_bytes": section.size}
                for section in xclbin.sections
            ],
        },
        tuple(notes),
    )


def _date(timestamp_s: int) -> str | None:
    """In UTC; None where no year of four digits would be right."""
    if not 0 < timestamp_s < _YEAR_10000_S:
        return None
    return datetime.fromtimestamp(timestamp_s, timezone.utc).isoformat()
