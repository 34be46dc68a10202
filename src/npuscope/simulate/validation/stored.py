"""The errors of the shipped model, as last validated: every simulated figure is shown with those of its kind."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from npuscope.simulate.neuroncore.devices import MODEL_NAME
from npuscope.simulate.validation.points import CHECK, FIT, digest
from npuscope.simulate.validation.report import Errors, Report

_NAME = "errors.json"
_BUCKETS = {"tensor": "pe-bound", "dma": "dma-bound", "vector": "vector-bound", "scalar": "vector-bound"}
"""Kind of bound of an analysis, to the bucket of points that is most like it; others are latency-bound."""


def store_errors(report: Report, folder: Path) -> None:
    """Write the errors of a full validation where `stored_errors` finds them in a checkout."""
    rows = [{name: getattr(line, name) for name in Errors.__slots__} for line in report.errors]
    text = json.dumps({"model": report.model, "digest": report.digest, "errors": rows}, indent=1)
    (folder / _NAME).write_text(text + "\n", encoding="utf-8")


def stored_errors() -> tuple[Errors, ...]:
    """The errors of the last full validation; () where they belong to other constants or points."""
    document = json.loads(files("npuscope.simulate.validation").joinpath(f"data/{_NAME}").read_text(encoding="utf-8"))
    return tuple(Errors(**row) for row in document["errors"]) if document["digest"] == digest() else ()


def error_statement(bound: str) -> str:
    """How far the model was off on published measurements of the same kind.

    Args:
        bound: Kind of bound of the analysis, such as `tensor` or `dma`.
    """
    bucket = _BUCKETS.get(bound, "latency-bound")
    known = {(line.role, line.bucket): line for line in stored_errors()}
    parts = [
        f"{count} {what}: median error {line.median_percent:.0f} %, largest {line.max_percent:.0f} %"
        for role, what in ((CHECK, "only checked"), (FIT, "used for fitting"))
        if (line := known.get((role, bucket))) is not None and (count := line.count)
    ]
    if not parts:
        return f"model {MODEL_NAME} has not been validated with these constants: npuscope simulate --validate"
    return f"model {MODEL_NAME} on {bucket} published figures, {'; '.join(parts)} (npuscope simulate --validate)"
