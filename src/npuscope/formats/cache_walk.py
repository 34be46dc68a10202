"""Finds the entries of a compile cache: folders that hold a NEFF or the marks of a compilation.

Bounded in entries and depth; symbolic links are counted and never followed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from npuscope.errors import FormatError

ENTRY_LIMIT: Final = 200_000
"""Files and folders that are looked at."""
DEPTH_LIMIT: Final = 16
_MARK = re.compile(
    r"(?:model\.(?:done|log|hlo\.pb|hlo_module\.pb)|compile_flags\.json|\.compilation_complete|.*\.lock|lock)(?:\.gz)?"
)


@dataclass(frozen=True, slots=True)
class File:
    """A regular file in an entry's folder."""

    name: str
    size_bytes: int
    modified_s: float
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Found:
    """A folder that is an entry."""

    path: Path
    key: str
    """Relative to the cache, with `/`; `.` for the cache itself."""
    files: tuple[File, ...]
    """Its own files by name, without those of folders in it."""
    is_whole: bool
    """Whether all of them were read, and none of the folder's files is a link."""

    def file(self, name: str) -> File | None:
        """The file of that name."""
        return next((file for file in self.files if file.name == name), None)


def find_entries(root: Path, limit: int = ENTRY_LIMIT) -> tuple[list[Found], list[str]]:
    """Walk a folder tree.

    Args:
        root: Where to start.
        limit: Files and folders that are looked at.

    Returns:
        The entries by key, and what was left out.

    Raises:
        FormatError: `root` is no readable folder.
    """
    found: list[Found] = []
    notes: list[str] = []
    waiting = [(root, 0)]
    seen = links = unreadable = 0
    while waiting and seen <= limit:
        folder, depth = waiting.pop()
        try:
            files, folders, skipped = _list(folder, limit - seen)
        except (OSError, ValueError) as error:
            if folder is root:
                raise FormatError(root, expected="a readable folder", found=str(error)) from None
            unreadable += 1
            continue
        seen += len(files) + len(folders) + skipped
        links += skipped
        if any(file.name.endswith(".neff") or _MARK.fullmatch(file.name) for file in files):
            key, ordered = folder.relative_to(root).as_posix(), tuple(sorted(files, key=lambda f: f.name))
            found.append(Found(folder, key, ordered, is_whole=seen <= limit and not skipped))
        if depth < DEPTH_LIMIT:
            waiting += [(path, depth + 1) for path in folders]
        elif folders:
            notes.append(f"folders deeper than {DEPTH_LIMIT} levels are not read")
    if seen > limit:
        notes.append(f"only the first {limit} files and folders are read")
    notes += [f"{links} symbolic link(s) are not followed"] * bool(links)
    notes += [f"{unreadable} folder(s) cannot be read"] * bool(unreadable)
    return sorted(found, key=lambda entry: entry.key), list(dict.fromkeys(notes))


def _list(folder: Path, limit: int) -> tuple[list[File], list[Path], int]:
    """Regular files, folders, and the number of links; at most one more than `limit` of all."""
    files: list[File] = []
    folders: list[Path] = []
    links = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if len(files) + len(folders) + links > limit:
                break
            try:
                if entry.is_symlink():
                    links += 1
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    files.append(File(entry.name, status.st_size, status.st_mtime))
            except OSError:
                continue
    return files, folders, links
