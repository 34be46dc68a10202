"""A Profile on disk: one folder, one Parquet file a table, and `profile.json`, which says whether it is whole.

`profile.json` is written first, with `complete` false, and again last: a folder of which the writer was killed or ran
out of disk is refused by the reader, and never mixed with the tables of an earlier Profile.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from npuscope._files import replaced_atomically, write_text_atomically
from npuscope.errors import FormatError, OutputError, shorten
from npuscope.profile.tables import Profile

MANIFEST_NAME = "profile.json"
_MAX_MANIFEST_BYTES = 1 << 22
_TABLE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `profile.json` says of its folder."""

    complete: bool
    tables: tuple[str, ...]
    """The tables that were written, or were about to be."""
    notes: tuple[str, ...]


def write_profile(profile: Profile, folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write every table as `<Table>.parquet` into `folder`, which is made.

    Args:
        profile: What to write.
        folder: Where; must not hold Parquet files yet unless `overwrite`.
        overwrite: Replace an earlier Profile of ours. Files that we did not write are never touched.

    Returns:
        The tables' files, in the order of their names.

    Raises:
        OutputError: The folder holds tables already, or cannot be written.
    """
    for name in profile.tables:
        if not _TABLE_NAME.fullmatch(name):
            raise OutputError(f"table {shorten(name)!r} cannot be a file name; letters, digits and _ can")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        old = _earlier(folder, overwrite=overwrite)
        names = sorted(profile.tables)
        _write_manifest(folder, sorted({*names, *old}), profile.notes, complete=False)
        for name in set(old) - set(names):
            (folder / f"{name}.parquet").unlink(missing_ok=True)
        for name in names:
            with replaced_atomically(folder / f"{name}.parquet") as file:
                pq.write_table(profile.tables[name], file, compression="zstd")
        _write_manifest(folder, names, profile.notes, complete=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write the profile to {shorten(str(folder), 200)}: {reason}") from error
    return [folder / f"{name}.parquet" for name in names]


def _earlier(folder: Path, *, overwrite: bool) -> tuple[str, ...]:
    """Tables of the Profile that is to be replaced; () where there is none."""
    present = sorted(path.name for path in folder.glob("*.parquet"))
    try:
        manifest = read_manifest(folder)
    except FormatError as error:
        raise OutputError(f"{error}; choose another folder") from error
    if (present or manifest) and not overwrite:
        shown = present[0] if present else MANIFEST_NAME
        raise OutputError(f"{folder} already holds {shown}; choose another folder or pass --force")
    ours = {f"{name}.parquet" for name in manifest.tables} if manifest else set()
    foreign = [name for name in present if name not in ours]
    if foreign:
        raise OutputError(f"{folder} holds {foreign[0]}, which npuscope did not write there; choose another folder")
    return manifest.tables if manifest else ()


def _write_manifest(folder: Path, tables: Sequence[str], notes: Sequence[str], *, complete: bool) -> None:
    document = {"npuscope_profile": 1, "complete": complete, "tables": list(tables), "notes": list(notes)}
    write_text_atomically(folder / MANIFEST_NAME, json.dumps(document, indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """What the folder's `profile.json` says; None where there is none.

    Raises:
        FormatError: It is damaged or of another kind.
    """
    path = folder / MANIFEST_NAME
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise FormatError(path, expected=f"at most {_MAX_MANIFEST_BYTES} bytes", found=f"{path.stat().st_size}")
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except FormatError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(path, expected="the manifest of a profile", found=str(error)) from error
    complete = document.get("complete") if isinstance(document, dict) else None
    tables, notes = (
        (_texts(document.get(key)) for key in ("tables", "notes")) if isinstance(document, dict) else (None, None)
    )
    if not isinstance(complete, bool) or tables is None or notes is None:
        raise FormatError(path, expected="the manifest of a profile", found=shorten(str(document)))
    return Manifest(complete, tuple(name for name in tables if _TABLE_NAME.fullmatch(name)), tuple(notes))


def _texts(value: Any) -> list[str] | None:
    """The value if it is a list of texts."""
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None
