"""A Profile on disk: one folder, one Parquet file a table, `notes.json` where a reader had remarks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq

from npuscope.errors import OutputError, shorten
from npuscope.profile.tables import Profile

NOTES_NAME = "notes.json"
_TABLE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")


def write_profile(profile: Profile, folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write every table as `<Table>.parquet` into `folder`, which is made.

    Args:
        profile: What to write.
        folder: Where; must not hold Parquet files yet unless `overwrite`.
        overwrite: Replace tables of an earlier Profile, and remove those that this one lacks.

    Returns:
        The files, in the order of their names.

    Raises:
        OutputError: The folder holds tables already, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = sorted(folder.glob("*.parquet"))
        if present and not overwrite:
            raise OutputError(f"{folder} already holds {present[0].name}; choose another folder or pass --force")
        written = [_write_table(profile, name, folder) for name in sorted(profile.tables)]
        for old in set(present) - set(written):
            old.unlink()
        notes = folder / NOTES_NAME
        if profile.notes:
            notes.write_text(json.dumps(list(profile.notes), indent=1) + "\n", encoding="utf-8")
        elif overwrite:
            notes.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write the profile to {folder}: {error.strerror or error}") from error
    return written


def _write_table(profile: Profile, name: str, folder: Path) -> Path:
    """Write beside, then rename, so that a killed run leaves no half table."""
    if not _TABLE_NAME.fullmatch(name):
        raise OutputError(f"table {shorten(name)!r} cannot be a file name; letters, digits and _ can")
    target = folder / f"{name}.parquet"
    partial = folder / f".{name}.parquet.partial"
    pq.write_table(profile.tables[name], partial, compression="zstd")
    partial.replace(target)
    return target
