"""Deletes entries of a compile cache: their own files only, by folder handles, so that no link can lead elsewhere."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from npuscope.errors import UsageError, shorten
from npuscope.formats.cache_layouts import COMPILER_FOLDER, DONE_MARKS, names_of
from npuscope.formats.cache_listing import StoredEntry

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_SYSTEM: Final = (
    "bin", "boot", "dev", "etc", "home", "lib", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr", "var", "var/tmp",
)  # fmt: skip
_FORBIDDEN: Final = {"/", *(f"/{name}" for name in _SYSTEM)}


@dataclass(frozen=True, slots=True)
class Deleted:
    """What became of one entry."""

    key: str
    freed_bytes: int
    error: str
    """Why it is still there; '' where it is gone."""
    note: str = ""
    """What stays in its folder that no cache made."""


def resolve_root(folder: Path) -> Path:
    """The folder that a name stands for, if it may be a cache.

    Raises:
        UsageError: It holds everything or a home, or is no folder.
    """
    try:
        real = folder.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"{shorten(str(folder), 200)} is no cache folder: {getattr(error, 'strerror', None) or error}"
        ) from None
    if not real.is_dir():
        raise UsageError(f"{shorten(str(folder), 200)} is no folder")
    home = Path.home().resolve()
    if str(real) in _FORBIDDEN or real == home or real in home.parents:
        raise UsageError(f"{real} is no cache folder: nothing is deleted in a home, a system folder or above one")
    return real


def holds_current_folder(root: Path) -> bool:
    """Whether a folder from `resolve_root` is the current one, or above it."""
    here = Path.cwd().resolve()
    return root == here or root in here.parents


def check_root(folder: Path) -> Path:
    """The folder that a name stands for, if entries may be deleted in it.

    Raises:
        UsageError: It holds everything, a home or the current folder, or is no folder.
    """
    real = resolve_root(folder)
    if holds_current_folder(real):
        raise UsageError(
            f"{real} holds the current folder: nothing is deleted there; go elsewhere first if it is a cache"
        )
    return real


def delete_entries(root: Path, entries: Iterable[StoredEntry]) -> Iterator[Deleted]:
    """Delete the files of some entries, and their folders where nothing else is in them.

    Args:
        root: From `check_root`.
        entries: From a listing of it; one that no cache made for sure, or that changed since, is left alone.
    """
    for entry in entries:
        freed, note = 0, ""
        if not entry.is_prunable:
            yield Deleted(entry.key, 0, "it is not for sure a cache's alone")
            continue
        try:
            with _opened(root, entry.folder) as folder, _unlocked(folder, entry):
                _check_unchanged(folder, entry)
                # The mark that it is whole goes first: whoever reads meanwhile finds a half-written entry.
                for file in sorted(entry.files, key=lambda one: one.name not in DONE_MARKS):
                    freed += _delete_file(folder, file.name)
            error, note = "", _delete_folders(root, entry)
        except FileNotFoundError:
            error = ""  # another process was faster
        except _BusyError:
            error = "something holds its lock"
        except _ChangedError:
            error = "it changed since it was listed"
        except OSError as failure:
            error = failure.strerror or str(failure)
        yield Deleted(entry.key, freed, error, note)


class _BusyError(Exception):
    """The lock of an entry is held."""


class _ChangedError(Exception):
    """An entry is not what was listed any more."""


@contextmanager
def _opened(root: Path, folder: str) -> Iterator[int]:
    """A handle of a folder below the root, opened part by part without following links."""
    handle = os.open(root, _FOLDER)
    try:
        for part in [part for part in folder.split("/") if part not in ("", ".")]:
            if part == "..":
                raise OSError(errno.EPERM, "it would lead out of the cache")
            below = os.open(part, _FOLDER, dir_fd=handle)
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _unlocked(folder: int, entry: StoredEntry) -> Iterator[None]:
    """Hold the entry's lock meanwhile, as its compiler would."""
    held: list[int] = []
    try:
        for name in [*(file.name for file in entry.files), *entry.foreign]:
            if name == "lock" or name.endswith(".lock"):
                with suppress(FileNotFoundError):
                    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
                    held.append(handle)
                    try:
                        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        raise _BusyError from None
        yield
    finally:
        for handle in held:
            os.close(handle)


def _check_unchanged(folder: int, entry: StoredEntry) -> None:
    """Find the files of an entry as they were listed, those that are still there, and no new ones of the cache.

    Raises:
        _ChangedError: Something wrote, replaced or added one.
    """
    for file in entry.files:
        with suppress(FileNotFoundError):
            status = os.stat(file.name, dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode) or (status.st_size, status.st_mtime) != (
                file.size_bytes,
                file.modified_s,
            ):
                raise _ChangedError
    names = names_of(entry.made_by, entry.key)
    if names and names.intersection(os.listdir(folder)) - {file.name for file in entry.files}:
        raise _ChangedError


def _delete_file(folder: int, name: str) -> int:
    """Delete one file and tell its bytes; 0 where it is gone already, or is no regular file any more."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            return 0
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return 0
    return status.st_size


def _delete_folders(root: Path, entry: StoredEntry) -> str:
    """Remove the entry's folder, and the one of its compiler if that is empty now; what is left in it stays."""
    parts = [part for part in entry.folder.split("/") if part not in ("", ".")]
    for depth in range(len(parts), 0, -1):
        if depth < len(parts) and not COMPILER_FOLDER.fullmatch(parts[depth - 1]):
            break
        try:
            with _opened(root, "/".join(parts[: depth - 1])) as parent:
                os.rmdir(parts[depth - 1], dir_fd=parent)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if depth == len(parts):
                return f"its folder stays, with {', '.join(entry.foreign[:3]) or 'files'} that no cache made"
            break
    return ""
