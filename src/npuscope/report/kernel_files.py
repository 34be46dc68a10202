"""A study of kernels as files: results.json, results.csv, comparisons.csv, comparison.txt, report.html, run.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from npuscope._files import write_text_atomically
from npuscope.analysis.kernel_study import KernelStudy
from npuscope.report.document import to_json
from npuscope.report.kernel_page import kernel_page
from npuscope.report.kernel_tables import comparison_lines, comparisons_csv, csv_text, sheets

RESULTS_NAME: Final = "results.json"
TEXT_WIDTH: Final = 200


FILES: Final = {
    "results": RESULTS_NAME,
    "table": "results.csv",
    "comparisons": "comparisons.csv",
    "text": "comparison.txt",
    "page": "report.html",
    "provenance": "run.json",
}
"""What is written beside `captures` and `profiles`, by what it is."""


def write_kernel_study(
    study: KernelStudy, document: Mapping[str, Any], provenance: dict[str, Any], out: Path
) -> dict[str, str]:
    """Write everything; returns the files by what they are, relative to the folder.

    Raises:
        OutputError: The folder cannot be written to.
    """
    rows = [run.row for run in study.runs]
    named = dict(FILES)
    lines: list[str] = []
    for sheet in sheets(rows):
        lines += [text for text, _ in sheet.grid().lines(TEXT_WIDTH)] + [""]
    lines += [*comparison_lines(study.comparisons), *(f"note: {note}" for note in study.notes)]
    write_text_atomically(out / named["table"], csv_text(rows))
    write_text_atomically(out / named["comparisons"], comparisons_csv(study.comparisons))
    write_text_atomically(out / named["text"], "\n".join(lines) + "\n")
    write_text_atomically(out / named["page"], kernel_page(study, provenance))
    write_text_atomically(out / named["provenance"], to_json({"command": "mlp", "sessions": [provenance]}) + "\n")
    write_text_atomically(out / RESULTS_NAME, to_json({**document, "files": named, "provenance": provenance}) + "\n")
    return named
