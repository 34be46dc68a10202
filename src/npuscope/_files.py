"""Files of which a reader finds the old or the new one, never a part."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from npuscope.errors import OutputError, shorten


@contextmanager
def replaced_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write beside `path`, which it replaces once it is whole and on the disk.

    A link is written through, not replaced; the file beside has a name that nobody can foresee.

    Raises:
        OutputError: The folder is read-only, full or gone, or the path is no regular file.
    """
    try:
        target = path.resolve()
        _refuse_special(target)
        partial = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.partial")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(partial, flags, 0o666)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links, in Python before 3.13
        raise _refused(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise _refused(path, error) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _refused(path: Path, error: BaseException) -> OutputError:
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"{shorten(str(path), 200)} cannot be written: {reason}")


def _refuse_special(path: Path) -> None:
    if path.exists() and not path.is_file():
        kind = "a folder; name a file" if path.is_dir() else "no regular file; choose another name"
        raise OutputError(f"{shorten(str(path), 200)} is {kind}")


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file as UTF-8, whole or not at all.

    Raises:
        OutputError: The folder is read-only, full or gone.
    """
    with replaced_atomically(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def refuse_overwriting(path: Path, *, force: bool) -> None:
    """Check that a path is free, or a regular file that may be replaced.

    Raises:
        OutputError: Something is there and `force` is not set, or it is a folder, a device or a pipe.
    """
    try:
        _refuse_special(path)
        if path.exists() and not force:
            raise OutputError(f"{path} exists; choose another name or pass --force")
        if not path.parent.is_dir():
            raise OutputError(f"{path} cannot be written: {path.parent} is no folder")
    except (OSError, ValueError) as error:
        raise _refused(path, error) from error
