"""Files of which a reader finds the old or the new one, never a part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from npuscope.errors import OutputError


@contextmanager
def replaced_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write beside `path`, which it replaces once it is whole and on the disk.

    Raises:
        OutputError: The folder is read-only, full or gone.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all.

    Raises:
        OutputError: The folder is read-only, full or gone.
    """
    with replaced_atomically(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def refuse_overwriting(path: Path, *, force: bool) -> None:
    """Check that a path is free.

    Raises:
        OutputError: Something is there and `force` is not set, or it is a folder.
    """
    try:
        if path.is_dir():
            raise OutputError(f"{path} is a folder; name a file")
        if path.exists() and not force:
            raise OutputError(f"{path} exists; choose another name or pass --force")
        if not path.parent.is_dir():
            raise OutputError(f"{path} cannot be written: {path.parent} is no folder")
    except (OSError, ValueError) as error:
        raise OutputError(f"{path!s} cannot be written: {getattr(error, 'strerror', None) or error}") from error
