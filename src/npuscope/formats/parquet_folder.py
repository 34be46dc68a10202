"""Which folder is a profile: the Parquet files of one run, wherever below a path they lie."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from npuscope.errors import FormatError
from npuscope.profile.folder import Manifest, read_manifest
from npuscope.profile.schema import tables

MAX_FILES = 4096
MAX_DEPTH = 8
MAX_ENTRIES = 50_000
"""Files and folders that the search looks at."""
_FILE = re.compile(r"([A-Za-z][A-Za-z0-9_]{0,80}?)(?:_(\d{1,6}))?\.parquet")


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of one profile."""

    path: Path
    tables: Mapping[str, list[Path]]
    """Table to its files, split tables in the order of their numbers."""
    is_file: bool = False
    """One file was named: the rest of its folder does not count."""


def find_profile_folder(path: Path) -> Folder:
    """The profile at a path: a folder of tables, the only such folder below it, or one file.

    Raises:
        FormatError: There is none, there are several, or the path cannot be read.
    """
    try:
        if path.is_file():
            name = _table_of(path.name)
            if name is None:
                expected = "a file named after its table, such as Instruction.parquet"
                raise FormatError(path, expected=expected, found=path.name)
            return Folder(path, {name: [path]}, is_file=True)
        if not path.is_dir():
            raise FormatError(path, expected="a folder of Parquet tables", found="nothing there")
        here = _tables_in(path)
        if here:
            return Folder(path, here)
        found = list(_below(path))
    except OSError as error:
        raise FormatError(path, expected="a readable folder", found=error.strerror or str(error)) from error
    if not found:
        raise FormatError(path, expected="Parquet tables such as Instruction.parquet", found="none in this folder")
    if len(found) > 1:
        names = ", ".join(sorted(str(each.relative_to(path)) for each in found)[:6])
        remedy = "name one of them"
        raise FormatError(path, expected="one profile", found=f"{len(found)} profiles: {names}", remedy=remedy)
    return Folder(found[0], _tables_in(found[0]))


def _table_of(name: str) -> str | None:
    """`Instruction_3.parquet` holds rows of `Instruction`; a table whose own name ends so wins."""
    match = _FILE.fullmatch(name)
    if match is None:
        return None
    whole = name.removesuffix(".parquet")
    return whole if whole in tables() else match.group(1)


def _tables_in(folder: Path) -> dict[str, list[Path]]:
    """Table to files; {} for a folder in which no table of the schema lies."""
    found: dict[str, list[tuple[int, Path]]] = {}
    names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".parquet") and entry.is_file())
    if len(names) > MAX_FILES:
        raise FormatError(folder, expected=f"at most {MAX_FILES} Parquet files", found=f"{len(names)}")
    for name in names:
        table = _table_of(name)
        match = _FILE.fullmatch(name)
        if table is not None and match is not None:
            number = int(match.group(2)) if match.group(2) and table == match.group(1) else -1
            found.setdefault(table, []).append((number, folder / name))
    if not set(found) & set(tables()):
        return {}
    return {table: [path for _, path in sorted(parts)] for table, parts in sorted(found.items())}


def _below(folder: Path) -> Iterator[Path]:
    """Folders of tables below a folder, each once however many links lead to it; none inside another."""
    seen: set[Path] = {folder.resolve()}
    level = [folder]
    count = 0
    for _ in range(MAX_DEPTH):
        deeper: list[Path] = []
        for parent in level:
            entries = sorted(os.scandir(parent), key=lambda entry: (not entry.name.endswith("@latest"), entry.name))
            count += len(entries)
            if count > MAX_ENTRIES:
                raise FormatError(folder, expected=f"a profile within {MAX_ENTRIES} files", found="a larger tree")
            for entry in entries:
                place = Path(entry.path)
                if not entry.is_dir() or place.resolve() in seen:
                    continue
                seen.add(place.resolve())
                if _tables_in(place):
                    yield place
                else:
                    deeper.append(place)
        level = deeper


def manifest_of(folder: Folder) -> Manifest | None:
    """What npuscope wrote of a folder of its own; None for a folder of another writer.

    Raises:
        FormatError: The manifest is damaged, says that the writer did not finish, or names a table that is missing.
    """
    manifest = read_manifest(folder.path.parent if folder.is_file else folder.path)
    if manifest is None or folder.is_file:
        return manifest
    remedy = "ingest the artifact again"
    if not manifest.complete:
        found = "one whose writer was stopped before its end"
        raise FormatError(folder.path, expected="a whole profile", found=found, remedy=remedy)
    missing = [name for name in manifest.tables if not (folder.path / f"{name}.parquet").is_file()]
    if missing:
        raise FormatError(folder.path, expected=f"{missing[0]}.parquet", found="no such file", remedy=remedy)
    return manifest
