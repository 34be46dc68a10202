"""A study of patterns as files: a trace, an analysis and a Profile per program, the comparison, and which file is of which."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from npuscope._files import write_text_atomically
from npuscope.analysis.pattern_study import Studied, Study
from npuscope.formats.pattern_folder import write_mapping
from npuscope.formats.perfetto_writer import write_perfetto
from npuscope.profile.folder import write_profile
from npuscope.report.document import to_document, to_json

_COMPARED: Final = (
    "pattern", "iterations", "traced_runs", "total_slices", "tensor_matrix_ms", "other_ms", "time_ms", "time_low_ms", "time_high_ms", "rank",
    "remark",
)  # fmt: skip


def write_study(study: Study, document: Mapping[str, Any], provenance: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Write everything; returns the files by what they are, relative to the folder.

    `report.json`: the whole document. `run.json`: provenance. `comparison.csv`: ranks. Per program and device `NAME.pftrace`,
    `NAME_analysis.json`, `NAME.hlo` and `profiles/NAME/` of Parquet tables. `perfetto_pattern_mapping.json`: which trace is of
    which pattern, in the order of the runs.

    Raises:
        OutputError: The folder cannot be written to.
    """
    order: list[tuple[str, Path]] = []
    traces: list[Path] = []
    files: dict[str, dict[str, str]] = {}
    for item in study.programs:
        files[item.stem] = _write_program(item, out, order, traces)
    mapping = write_mapping(out, order, traces)
    write_text_atomically(out / "comparison.csv", comparison_csv(study))
    named = {
        "report": "report.json",
        "comparison": "comparison.csv",
        "mapping": mapping.name,
        "programs": files,
    }
    write_text_atomically(out / "report.json", to_json({**document, "files": named, "provenance": provenance}) + "\n")
    write_text_atomically(out / "run.json", to_json({"command": "patterns", "sessions": [provenance]}) + "\n")
    return named


def _write_program(item: Studied, out: Path, order: list[tuple[str, Path]], traces: list[Path]) -> dict[str, str]:
    made: dict[str, str] = {}
    if item.hlo is not None:
        # A program is the same for all devices that one framework lowers it for, and small.
        path = out / f"{item.stem}.hlo"
        path.write_bytes(item.hlo)
        made["hlo"] = path.name
    if item.profile is not None:
        trace = out / f"{item.stem}.pftrace"
        write_perfetto(item.profile, trace)
        write_profile(item.profile, out / "profiles" / item.stem)
        order.append((item.stem, trace))
        traces.append(trace)
        made |= {"perfetto": trace.name, "profile": f"profiles/{item.stem}"}
    if item.analysis is not None:
        path = out / f"{item.stem}_analysis.json"
        write_text_atomically(path, to_json({"result": asdict(item.row), **item.analysis.document()}) + "\n")
        made["analysis"] = path.name
    return made


def comparison_csv(study: Study) -> str:
    """Every row of every comparison, with the device and whether it is simulated."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["device", "is_simulated", *_COMPARED, "refused"])
    for comparison in study.comparisons:
        for row in comparison.rows:
            fields = to_document(row)
            values = [fields.get(name) for name in _COMPARED]
            writer.writerow(
                [
                    comparison.device,
                    row.is_simulated,
                    *["" if value is None else value for value in values],
                    comparison.refused,
                ]
            )
    return text.getvalue()
