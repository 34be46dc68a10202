"""A file as blocks of bytes, unpacked on the way where it is gzip: bounded memory, bounded expansion."""

from __future__ import annotations

import gzip
import zlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

from npuscope.errors import FormatError

BLOCK_BYTES = 4 << 20
MAX_EXPANSION = 100
"""How many bytes a gzip file may unpack to, per byte; traces reach 10 to 40, a bomb 1,000."""
_FREE_BYTES = 64 << 20
"""What a gzip file may always unpack to."""
_GZIP_MAGIC = b"\x1f\x8b"


class ByteStream:
    """The bytes of a file in order, read once. A context manager.

    Raises:
        FormatError: On opening, when the path is no readable file.
    """

    def __init__(self, path: Path, *, source: object = None) -> None:
        self.source = path if source is None else source
        self.is_gzip = False
        self.offset = 0
        """Bytes given out so far; of the unpacked text where the file is gzip."""
        try:
            if not path.is_file():
                found = "a folder" if path.is_dir() else "no such file"
                raise FormatError(self.source, expected="a file", found=found)
            self._file: BinaryIO = path.open("rb")
            self.size_bytes = path.stat().st_size
            self.is_gzip = self._file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            self._file.seek(0)
        except OSError as error:
            raise FormatError(self.source, expected="a readable file", found=error.strerror or str(error)) from error
        self._reader = cast(BinaryIO, gzip.GzipFile(fileobj=self._file)) if self.is_gzip else self._file
        self._limit = max(_FREE_BYTES, MAX_EXPANSION * self.size_bytes)

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError, ValueError):
            self._reader.close()
        self._file.close()

    def read(self, count: int = BLOCK_BYTES) -> bytes:
        """At most `count` more bytes; b'' at the end.

        Raises:
            FormatError: The file cannot be read, is broken gzip, or unpacks to too much.
        """
        try:
            data = self._reader.read(count)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise FormatError(
                self.source, where=f"unpacked byte {self.offset}", expected="gzip data", found=str(error)
            ) from error
        except OSError as error:
            raise FormatError(self.source, expected="a readable file", found=error.strerror or str(error)) from error
        self.offset += len(data)
        if self.is_gzip and self.offset > self._limit:
            raise FormatError(
                self.source,
                where=f"unpacked byte {self.offset}",
                expected=f"gzip that unpacks to at most {MAX_EXPANSION} times its size",
                found=f"{self.size_bytes} bytes that unpack to more than {self._limit}",
            )
        return data
