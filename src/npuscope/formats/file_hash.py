"""The SHA-256 of a file, by which files are told from others."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from npuscope.errors import FormatError

_CHUNK: Final = 1 << 22


def file_sha256(path: Path) -> str:
    """As hexadecimal text.

    Raises:
        FormatError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        if path.exists() and not path.is_file():  # a pipe or a device may never end
            raise FormatError(path, expected="a regular file", found="something else, such as a folder or a pipe")
        with path.open("rb") as file:
            while part := file.read(_CHUNK):
                digest.update(part)
    except OSError as error:
        raise FormatError(path, expected="a readable file", found=error.strerror or str(error)) from error
    return digest.hexdigest()
