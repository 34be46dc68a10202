"""An XDNA bench as files: bench.json, strategies.csv, run.json."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from npuscope._files import write_text_atomically
from npuscope.report.document import to_json

if TYPE_CHECKING:
    from npuscope.measure.xdna_bench import StrategyRow

FILES: Final = {"results": "bench.json", "table": "strategies.csv", "provenance": "run.json"}


def write_bench(
    rows: Sequence[StrategyRow], document: Mapping[str, Any], provenance: Mapping[str, Any], out: Path
) -> dict[str, str]:
    """Write everything; returns the files by what they are, relative to the folder.

    Raises:
        OutputError: The folder cannot be written to.
    """
    write_text_atomically(out / FILES["table"], csv_text(rows))
    write_text_atomically(
        out / FILES["provenance"], to_json({"command": "xdna bench", "sessions": [provenance]}) + "\n"
    )
    write_text_atomically(
        out / FILES["results"], to_json({**document, "files": FILES, "provenance": provenance}) + "\n"
    )
    return dict(FILES)


def csv_text(rows: Sequence[StrategyRow]) -> str:
    """One line a strategy; phases are columns of their own, `host_pack_us` and so on."""
    flat = [_flat(asdict(row)) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return buffer.getvalue()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            stem = name.removesuffix("_us").removesuffix("_us_by_part")
            found |= {f"{stem}_{part}_us": each for part, each in value.items()}
        elif isinstance(value, tuple):
            found[name] = " ".join(map(str, value))
        else:
            found[name] = "" if value is None else value
    return found
