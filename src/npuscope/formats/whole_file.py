"""A small file, whole: refused where it is none, cannot be read, or is larger than any of its kind."""

from __future__ import annotations

from pathlib import Path

from npuscope.errors import FormatError


def read_whole(path: Path, *, what: str, limit: int) -> bytes:
    """The bytes of a regular file; a pipe or a device, whose reading may never end, is not opened.

    Args:
        path: Of the file.
        what: It should be, for the error.
        limit: Most bytes.

    Raises:
        FormatError: There is none, it is something else, cannot be read, or is larger.
    """
    try:
        if not path.is_file():
            raise FormatError(path, expected=what, found="no regular file" if path.exists() else "no file")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise FormatError(path, expected=what, found=error.strerror or str(error)) from error
    if len(data) > limit:
        raise FormatError(path, expected=f"{what} of at most {limit} bytes", found="more")
    return data
