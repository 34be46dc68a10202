"""NEFF, the executable of the Neuron compiler: a header of 1,024 bytes, little-endian, and a tar archive.

Source: AWS Neuron documentation, "Work with NEFF Files" (C struct, natural alignment). There is no magic number.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from npuscope.errors import FormatError, shorten
from npuscope.formats.neff_archive import Archive, read_archive
from npuscope.formats.neff_contents import Contents, read_contents
from npuscope.profile.tables import Columns
from npuscope.units import printable

HEADER_BYTES: Final = 1024
_HEADER: Final = struct.Struct("<5Q128sI32s16s256sI64sQI468s")
_HEADER_LIMIT: Final = 1 << 20
"""Larger headers have not been seen and would be a sign of another format."""
_MD5_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class NeffHeader:
    """The fields of the header, under names that say what they count."""

    package_version: int
    """Of the packager; 2 in every header that is known."""
    header_bytes: int
    data_bytes: int
    """Bytes of payload behind the header."""
    major_version: int
    minor_version: int
    build_version: str
    neuroncore_count: int
    """Cores for efficient execution (`num_tpb`)."""
    hash: bytes
    """32 bytes; an MD5 fills the first 16."""
    uuid: bytes
    """16 bytes; an NTFF carries them up to the first zero byte: see `neff_uuid`."""
    network_name: str
    """As a rule the path that the compiler wrote to."""
    requested_neuroncore_count: int
    neuroncores_per_node: bytes
    """One byte a node of the graph, 64 of them."""
    feature_bits: int
    lnc_size: int
    """Physical cores per logical NeuronCore."""


@dataclass(frozen=True, slots=True)
class Neff:
    """A compiled graph."""

    source: str
    size_bytes: int
    header: NeffHeader
    archive: Archive
    contents: Contents
    hash_check: str
    """`matches` with the digest it matches, `differs`, or `not checkable` with the reason."""
    notes: tuple[str, ...]


def parse_header(data: bytes, *, size_bytes: int, source: str) -> NeffHeader:
    """Decode the first 1,024 bytes of a NEFF.

    Args:
        data: The start of the file; more than the header is ignored.
        size_bytes: The size of the file.
        source: What to call it in an error.

    Raises:
        FormatError: `data` is too short, or a size contradicts the file.
    """
    if len(data) < HEADER_BYTES:
        raise _error(source, len(data), f"a {HEADER_BYTES}-byte NEFF header", f"{len(data)} bytes")
    package, header_bytes, data_bytes, major, minor, build, cores, *rest = _HEADER.unpack_from(data)
    digest, uuid, name, requested, per_node, features, lnc_size, _ = rest
    if not HEADER_BYTES <= header_bytes <= min(size_bytes, _HEADER_LIMIT):
        raise _error(
            source, 8, f"header_size from {HEADER_BYTES} to {min(size_bytes, _HEADER_LIMIT)}", str(header_bytes)
        )
    if data_bytes > size_bytes - header_bytes:
        found = f"{data_bytes} in a file of {size_bytes} bytes"
        expected = f"data_size of at most {size_bytes - header_bytes}"
        raise _error(source, 16, expected, found, "the file is cut off, or no NEFF")
    if not data_bytes:
        raise _error(source, 16, "a payload", "data_size 0")
    return NeffHeader(
        package_version=package,
        header_bytes=header_bytes,
        data_bytes=data_bytes,
        major_version=major,
        minor_version=minor,
        build_version=_text(build),
        neuroncore_count=cores,
        hash=digest,
        uuid=uuid,
        network_name=_text(name),
        requested_neuroncore_count=requested,
        neuroncores_per_node=per_node,
        feature_bits=features,
        lnc_size=lnc_size,
    )


def _text(field: bytes) -> str:
    return printable(field.split(b"\0", 1)[0].decode("utf-8", "backslashreplace"))


def _error(source: str, at: int, expected: str, found: str, remedy: str = "") -> FormatError:
    return FormatError(source, where=f"byte {at}", expected=expected, found=found, remedy=remedy)


def looks_like_neff(head: bytes, size_bytes: int) -> bool:
    """Whether a file may be a NEFF: its header fits its size, and an archive begins behind it.

    Args:
        head: At least the first 1,536 bytes, or the whole file.
        size_bytes: The size of the file.
    """
    try:
        header = parse_header(head, size_bytes=size_bytes, source="")
    except FormatError:
        return False
    payload = head[header.header_bytes :]
    return payload.startswith(b"\x1f\x8b") or payload[257:262] == b"ustar" or header.header_bytes + 512 > len(head)


def read_neff(path: Path | str) -> Neff:
    """Read a NEFF in memory; nothing of it is extracted or executed.

    Memory does not grow with the file; the time does, at the speed of inflating and hashing it.

    Raises:
        FormatError: The file is no NEFF, is damaged or cut off, or its archive is not one that a compiler writes.
    """
    source = str(path)
    path = Path(path)
    try:
        if not path.is_file():
            raise FormatError(source, expected="a file", found="a folder" if path.is_dir() else "no such file")
        with path.open("rb") as handle:
            size = path.stat().st_size
            header = parse_header(handle.read(HEADER_BYTES), size_bytes=size, source=source)
            archive = read_archive(handle, header.header_bytes, header.data_bytes, source)
    except OSError as error:
        raise FormatError(source, expected="a readable file", found=error.strerror or str(error)) from None
    except ValueError as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(shorten(source), expected="a path", found=str(error)) from None
    if not archive.members:
        raise _error(source, header.header_bytes, "files in the archive", "none")
    contents = read_contents(archive, source)
    behind = size - header.header_bytes - header.data_bytes
    trailing = [f"{behind} bytes behind the payload are not read"] if behind else []
    check = _check_hash(header, archive)
    return Neff(source, size, header, archive, contents, check, (*trailing, *archive.notes, *contents.notes))


def _check_hash(header: NeffHeader, archive: Archive) -> str:
    """Compare the hash with digests of the payload; what exactly the packager hashes is not documented."""
    if not any(header.hash):
        return "not checkable: the header holds no hash"
    name, digest = ("sha256", header.hash) if any(header.hash[_MD5_BYTES:]) else ("md5", header.hash[:_MD5_BYTES])
    for key, what in ((name, "payload"), (f"unpadded_{name}", "payload without its padding")):
        if archive.digests.get(key) == digest.hex():
            return f"matches: {name} of the {what}"
    return f"differs: not the {name} of the payload; what the packager hashes is not documented"


def hash_text(header: NeffHeader) -> str:
    """The hash as the vendor's tools print it: 32 digits for an MD5, else 64."""
    return (header.hash if any(header.hash[_MD5_BYTES:]) else header.hash[:_MD5_BYTES]).hex()


def feature_text(header: NeffHeader) -> str:
    """The numbers of the feature bits that are set; the names of the bits are not documented."""
    return ", ".join(f"bit {bit}" for bit in range(64) if header.feature_bits >> bit & 1)


def neff_tables(neff: Neff) -> Mapping[str, Columns]:
    """`NeffHeader` and `TensorInfo` as tables of a Profile."""
    header, tensors = neff.header, neff.contents.tensors
    row = {
        "network_name": header.network_name,
        "uuid": header.uuid.hex(),
        "hash": hash_text(header),
        "enabled_features": feature_text(header),
        "header_size": header.header_bytes,
        "data_size": header.data_bytes,
        "major_version": min(header.major_version, (1 << 63) - 1),
        "minor_version": min(header.minor_version, (1 << 63) - 1),
        "package_version": str(header.package_version),
        "build_version": header.build_version,
        "neuroncore_count": header.neuroncore_count,
        "pcore_count_per_lnc": header.lnc_size,
        "neff_path": neff.source,
    }
    return {
        "NeffHeader": {key: [value] for key, value in row.items()},
        "TensorInfo": {
            "variable_name": [tensor.name for tensor in tensors],
            "type": [tensor.type for tensor in tensors],
            "format": [tensor.format for tensor in tensors],
            "shape": ["" if tensor.shape is None else " ".join(map(str, tensor.shape)) for tensor in tensors],
            "size": [tensor.size_bytes for tensor in tensors],
            "subgraph": [tensor.subgraph for tensor in tensors],
        },
    }
