"""A Profile as a folder of CSV files, one a table."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from npuscope.errors import OutputError
from npuscope.formats.atomic_file import replaced_atomically
from npuscope.formats.results import format_csv_line
from npuscope.profile.tables import Profile

_BATCH_ROWS = 1 << 14


def write_profile_csv(profile: Profile, folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write every table as `<Table>.csv` into `folder`, which is made; null is empty.

    Raises:
        OutputError: The folder holds such files already, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = sorted(folder.glob("*.csv"))
    except OSError as error:
        raise OutputError(f"cannot write the profile to {folder}: {error.strerror or error}") from error
    if present and not overwrite:
        raise OutputError(f"{folder} already holds {present[0].name}; choose another folder or pass --force")
    written = []
    for name in sorted(profile.tables):
        target = folder / f"{name}.csv"
        with replaced_atomically(target) as file:
            table: pa.Table = profile.tables[name]
            file.write(format_csv_line(table.column_names).encode("utf-8", "backslashreplace"))
            for batch in table.to_batches(_BATCH_ROWS):
                rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                file.writelines(format_csv_line(row).encode("utf-8", "backslashreplace") for row in rows)
        written.append(target)
    return written
