"""Predicted columns of a sweep, for a terminal: headings that say predicted, and what the figures are of."""

from __future__ import annotations

from npuscope.formats.results import PREDICTED, PredictedColumns
from npuscope.units import format_ns, format_percent

_MODEL = "_model"


def predicted_devices(predicted: PredictedColumns) -> list[str]:
    """The devices that were predicted for, in the order of their columns."""
    return [name[len(PREDICTED) : -len(_MODEL)] for name in predicted if name.endswith(_MODEL)]


def prediction_headings(predicted: PredictedColumns) -> list[str]:
    """Three headings per device; `<` starts one of text, as in `report.grid.table`."""
    return [
        heading
        for device in predicted_devices(predicted)
        for heading in (
            f"predicted {device} device time",
            f"<predicted {device} bound",
            f"predicted {device} utilisation",
        )
    ]


def prediction_cells(predicted: PredictedColumns, index: int) -> list[str]:
    """The cells of one row under `prediction_headings`."""
    cells = []
    for device in predicted_devices(predicted):
        start = f"{PREDICTED}{device}_"
        cells += [
            format_ns(1e6 * float(predicted[f"{start}device_time_ms"][index])),
            str(predicted[f"{start}bound"][index]),
            format_percent(float(predicted[f"{start}utilisation"][index])),
        ]
    return cells


def prediction_notes(predicted: PredictedColumns) -> list[str]:
    """What the predicted columns are, and what they leave out; empty where nothing was predicted."""
    models: dict[str, list[str]] = {}
    for device in predicted_devices(predicted):
        for model in dict.fromkeys(map(str, predicted[f"{PREDICTED}{device}{_MODEL}"])):
            models.setdefault(model, []).append(device)
    if not models:
        return []
    named = "; ".join(f"{model} ({', '.join(devices)})" for model, devices in models.items())
    return [
        f"predicted columns are computed, not measured; model: {named}",
        "a predicted time is device time on one core, from the first instruction to the last byte stored; "
        "measured latency is wall clock and holds the framework's dispatch too",
        "how far the model was from published measurements: docs/validation.md",
    ]
