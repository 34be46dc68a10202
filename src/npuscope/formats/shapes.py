"""Lists of shapes from a CSV (`M,K,N` and, if wanted, `dtype`, `name`) or a TOML file of `[[shape]]` tables."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from npuscope._toml import tomllib
from npuscope.errors import FormatError, UsageError
from npuscope.formats.text_table import MAX_ROWS, read_text_table
from npuscope.workloads.matmul import MatmulConfig

_MAX_TOML_BYTES = 16 << 20


def read_shapes(path: Path, dtypes: list[str]) -> list[MatmulConfig]:
    """Shapes from a file; a shape without a dtype of its own is measured in each of `dtypes`.

    Raises:
        FormatError: Unreadable, without M, K, N, or with a dimension or dtype that no matmul has.
    """
    entries = _from_toml(path) if path.suffix.lower() == ".toml" else _from_csv(path)
    configs = []
    for where, entry in entries:
        missing = [axis for axis in ("M", "K", "N") if axis not in entry]
        unknown = sorted(set(entry) - {"M", "K", "N", "dtype", "name"})
        if missing or unknown:
            found = f"no {', '.join(missing)}" if missing else f"unknown {', '.join(unknown)}"
            raise FormatError(path, where=where, expected="M, K, N and perhaps dtype, name", found=found)
        for dtype in [str(entry["dtype"])] if entry.get("dtype") else dtypes:
            try:
                M, K, N = (cast("int", entry[axis]) for axis in ("M", "K", "N"))  # MatmulConfig checks what they are
                config = MatmulConfig(M, K, N, dtype, str(entry.get("name", "")))
            except UsageError as error:
                raise FormatError(path, where=where, expected="a shape and a dtype", found=str(error)) from error
            configs.append(config)
    return configs


def _from_csv(path: Path) -> list[tuple[str, dict[str, object]]]:
    table = read_text_table(path)
    table.require("M", "K", "N")
    columns: dict[str, list[object]] = {axis: list(table.integers(axis, minimum=1)) for axis in ("M", "K", "N")}
    columns.update({name: list(table.text(name)) for name in ("dtype", "name") if name in table.columns})
    return [
        (f"row {number}", dict(zip(columns, cells, strict=True)))
        for number, cells in enumerate(zip(*columns.values(), strict=True), 2)
    ]


def _from_toml(path: Path) -> list[tuple[str, dict[str, object]]]:
    try:
        if path.stat().st_size > _MAX_TOML_BYTES:
            raise FormatError(path, expected=f"at most {_MAX_TOML_BYTES} bytes", found=f"{path.stat().st_size}")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FormatError(path, expected="a readable file", found=error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:  # ValueError: also numbers of thousands of digits
        raise FormatError(path, expected="TOML", found=str(error)) from error
    entries = document.get("shape")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise FormatError(
            path, where="key shape", expected="[[shape]] tables with M, K, N", found=str(sorted(document))
        )
    if len(entries) > MAX_ROWS:
        raise FormatError(path, where="key shape", expected=f"at most {MAX_ROWS} shapes", found=str(len(entries)))
    return [(f"shape {number}", entry) for number, entry in enumerate(entries, 1)]
