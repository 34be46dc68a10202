"""All benchmarks, one after another. Run as `python -m benchmarks.run [--save] [--quick]`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from benchmarks import (
    against_pyperf,
    chrome_traces,
    harness_overhead,
    hlo_lowering,
    neuron_json,
    ntff_reading,
    overlap,
    perfetto_export,
    planning,
    simulator,
    xdna,
    xdna_numerics,
)
from benchmarks.common import Figure, LoadWatch, as_document, print_figures
from npuscope.measure.provenance import collect

_RESULTS = Path(__file__).with_name("results")


def run_all(*, quick: bool) -> dict[str, object]:
    """Run and print each benchmark.

    Returns:
        The JSON document: provenance, then figures and load by benchmark.
    """
    benchmarks: dict[str, Callable[[], Sequence[Figure]]] = {
        "Overhead of the timed loop": lambda: harness_overhead.measure(repeats=300 if quick else 1000),
        "Planning and start": lambda: planning.measure(5 if quick else 15),
        "Overlap of engines": lambda: overlap.measure(3 if quick else 7),
        "Reading an NTFF": lambda: ntff_reading.measure(1 if quick else 3),
        "Reading a Chrome trace": lambda: chrome_traces.measure(),
        "Reading vendor JSON": lambda: neuron_json.measure(1 if quick else 3),
        "Writing a Perfetto trace": lambda: perfetto_export.measure(1 if quick else 3),
        "Simulator": lambda: simulator.measure(2 if quick else 5),
        "HLO to instructions": lambda: hlo_lowering.measure(2 if quick else 5),
        "XDNA planning and emulation": lambda: xdna.measure(2 if quick else 5),
        "XDNA numerics": lambda: xdna_numerics.measure(3 if quick else 15),
        "Against pyperf": lambda: against_pyperf.measure(
            1 if quick else 3, against_pyperf.SHAPES[:2] if quick else against_pyperf.SHAPES
        ),
    }
    document: dict[str, object] = {"provenance": collect()}
    for title, measure in benchmarks.items():
        watch = LoadWatch()
        figures = measure()
        load = watch.load()
        print_figures(title, figures, load)
        document[title] = as_document(figures, load)
    return document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/DATE.json")
    parser.add_argument("--quick", action="store_true", help="fewer repeats and two shapes against pyperf")
    arguments = parser.parse_args()
    document = run_all(quick=arguments.quick)
    if arguments.save:
        _RESULTS.mkdir(exist_ok=True)
        path = _RESULTS / f"{datetime.now().astimezone():%Y-%m-%d}.json"
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"\nsaved to {path}")


if __name__ == "__main__":
    main()
