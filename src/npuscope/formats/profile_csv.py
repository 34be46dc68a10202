"""A Profile as a folder of CSV files, one a table."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from npuscope._files import refuse_overwriting, replaced_atomically
from npuscope.errors import OutputError
from npuscope.formats.results import format_csv_line
from npuscope.profile.tables import Profile

_BATCH_ROWS = 1 << 14


def write_profile_csv(profile: Profile, folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write every table as `<Table>.csv` into `folder`, which is made; null is empty.

    Raises:
        OutputError: The folder holds such files already, or cannot be written.
    """
    targets = {name: folder / f"{name}.csv" for name in sorted(profile.tables)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write the profile to {folder}: {error.strerror or error}") from error
    for target in targets.values():
        refuse_overwriting(target, force=overwrite)
    try:
        for name, target in targets.items():
            _write_table(profile.tables[name], target)
    except OutputError:
        for target in targets.values():  # half an export must not be taken for a whole one
            target.unlink(missing_ok=True)
        raise
    return list(targets.values())


def _write_table(table: pa.Table, target: Path) -> None:
    with replaced_atomically(target) as file:
        file.write(format_csv_line(table.column_names).encode("utf-8", "backslashreplace"))
        for batch in table.to_batches(_BATCH_ROWS):
            rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            file.writelines(format_csv_line(row).encode("utf-8", "backslashreplace") for row in rows)
