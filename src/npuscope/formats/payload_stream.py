"""Bytes of a file, expanded on the way if they are gzip, with limits that a small file cannot escape."""

from __future__ import annotations

import hashlib
import zlib
from typing import BinaryIO, Final

from npuscope.errors import FormatError

EXPANSION_RATIO: Final = 50
"""Weights hardly shrink, the compiler's JSON about twentyfold."""
EXPANSION_FLOOR: Final = 256 << 20
"""Bytes that any payload may expand to."""
EXPANSION_LIMIT: Final = 64 << 30
_GZIP_MAGIC: Final = b"\x1f\x8b"
_TAR_BLOCK: Final = 512
_CHUNK: Final = 1 << 18
_TAIL_LIMIT: Final = 64 << 20
"""Expanded bytes behind the end of the archive that are still read, for the checksum of the gzip stream."""


class PayloadStream:
    """The expanded payload, read once from front to back."""

    def __init__(self, handle: BinaryIO, offset: int, length: int, source: str) -> None:
        """Start at `offset` of a file and end `length` bytes on.

        Raises:
            FormatError: What stands there is neither gzip nor a tar archive.
        """
        self.source = source
        self.offset = offset
        self.length = length
        self.position = 0
        """Expanded bytes handed out."""
        self.expanded_bytes = 0
        self.notes: list[str] = []
        self._handle = handle
        self._left = length
        self._md5, self._sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        self._unpadded: dict[str, str] = {}
        self._ready = bytearray()
        self._pending = b""
        self._limit = min(EXPANSION_LIMIT, max(EXPANSION_FLOOR, EXPANSION_RATIO * length))
        handle.seek(offset)
        magic = handle.read(min(length, _TAR_BLOCK))
        handle.seek(offset)
        self.compression = self._recognised(magic)
        self._inflate = zlib.decompressobj(31) if self.compression == "gzip" else None

    def _recognised(self, head: bytes) -> str:
        if head.startswith(_GZIP_MAGIC):
            return "gzip"
        if len(head) == _TAR_BLOCK and (head[257:262] == b"ustar" or head.count(0) == _TAR_BLOCK):
            return "none"
        raise FormatError(
            self.source,
            where=f"byte {self.offset}",
            expected="a gzip or tar archive",
            found=f"bytes {head[:8].hex(' ')}",
        )

    def require(self, size: int, at: int) -> None:
        """Refuse a file that cannot fit, before any of it is read.

        Raises:
            FormatError: With it the archive would expand beyond its limit, or beyond what is there.
        """
        if self.position + size > self._limit:
            raise self._too_large(f"expanded byte {at}", f"an entry of {size} bytes")
        if self._inflate is None and self.position + size > self.length:
            found = f"an entry of {size} bytes in an archive of {self.length}"
            raise FormatError(self.source, where=f"expanded byte {at}", expected="a whole archive", found=found)

    def _too_large(self, where: str, found: str) -> FormatError:
        expected = f"a payload of {self.length} bytes to expand to at most {self._limit}"
        return FormatError(self.source, where=where, expected=expected, found=found)

    def read(self, count: int) -> bytes:
        """The next `count` expanded bytes; fewer at the end.

        Raises:
            FormatError: The gzip stream is damaged or cut off, or expands beyond the limit.
        """
        while len(self._ready) < count and self._fill():
            pass
        out = bytes(self._ready[:count])
        del self._ready[:count]
        self.position += len(out)
        return out

    def _take(self) -> bytes:
        """The next bytes of the file, hashed unless they are behind the gzip stream."""
        chunk = self._handle.read(min(self._left, _CHUNK))
        if not chunk and self._left:
            place = f"byte {self.offset + self.length - self._left}"
            raise FormatError(
                self.source, where=place, expected=f"{self._left} bytes more", found="the end of the file"
            )
        self._left -= len(chunk)
        return chunk

    def _hash(self, data: bytes) -> None:
        self._md5.update(data)
        self._sha256.update(data)

    def _fill(self) -> bool:
        """Make more expanded bytes ready; False at the end."""
        if self._inflate is None:
            data = self._take()
            self._hash(data)
        elif self._inflate.eof:
            return False
        else:
            data = self._expand(self._inflate)
        self._ready += data
        self.expanded_bytes += len(data)
        if self.expanded_bytes > self._limit:
            raise self._too_large(f"byte {self.offset + self.length - self._left}", "more")
        return bool(data)

    def _expand(self, inflate: zlib._Decompress) -> bytes:
        """The next expanded bytes of the gzip stream; none only at its end."""
        while True:
            if not self._pending:
                self._pending = self._take()
                if not self._pending:
                    raise FormatError(
                        self.source,
                        where=f"byte {self.offset + self.length}",
                        expected="the end of the gzip stream",
                        found="the end of the payload",
                        remedy="the file is cut off; copy it again",
                    )
            before = self._pending
            try:
                data = inflate.decompress(before, _CHUNK)
            except zlib.error as error:
                place = f"byte {self.offset + self.length - self._left - len(before)} or behind it"
                raise FormatError(self.source, where=place, expected="a gzip stream", found=str(error)) from None
            tail = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            self._hash(before[: len(before) - len(tail)])
            self._pending = tail
            if data or inflate.eof:
                return data

    def finish(self) -> int:
        """Read what is behind the archive.

        Returns:
            How many bytes of padding the payload ends with.

        Raises:
            FormatError: See `read`; a gzip stream is followed to its checksum.
        """
        behind, strange = 0, False
        while behind < _TAIL_LIMIT and (data := self.read(_CHUNK)):
            behind += len(data)
            strange = strange or data.count(0) != len(data)
        if behind >= _TAIL_LIMIT:
            self.notes.append(f"what is more than {_TAIL_LIMIT} bytes behind the end of the archive is not looked at")
        elif self._inflate is not None:
            self._unpadded = {"unpadded_md5": self._md5.hexdigest(), "unpadded_sha256": self._sha256.hexdigest()}
        if self._inflate is not None:
            behind = 0
        while data := self._pending or self._take():
            self._pending = b""
            self._hash(data)
            behind += len(data)
            strange = strange or data.count(0) != len(data)
        if strange:
            self.notes.append("there are bytes other than zero behind the end of the archive")
        return behind

    def digests(self) -> dict[str, str]:
        """Digests as hexadecimal text, after `finish`."""
        return {"md5": self._md5.hexdigest(), "sha256": self._sha256.hexdigest(), **self._unpadded}
