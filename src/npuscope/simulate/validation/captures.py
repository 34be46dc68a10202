"""Durations of single instructions in captures of inf2, if a folder of such captures is at hand.

They are read when a report is made; none of them is stored. `NPUSCOPE_SAMPLES` names the folder.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from npuscope.errors import NpuscopeError
from npuscope.formats.neuron_json import read_neuron_json
from npuscope.simulate.neuroncore.costs import cost_of
from npuscope.simulate.neuroncore.devices import load_device
from npuscope.simulate.neuroncore.program import Engine, Space, Work
from npuscope.simulate.validation.points import Point, role_of

_DEVICE = "sim:inf2"
_FOLDER = "inf2-matmul"
_SHAPE = re.compile(r"src=fp(?:16|32)@[^\[]*\[[^\]]*\]\[(\d+),1,1\]")
"""Columns in an operand text such as `src=fp16@0x2fa00[1,0,0][512,1,1]`: strides, then sizes."""
_NOTE = "the median over captures of a first execution, of instructions that found their engine idle"


class InstructionKind(NamedTuple):
    """An instruction as captures name it, and what it is for the model."""

    family: str
    engine: Engine
    work: Work


_KINDS = {
    "MATMUL": InstructionKind(
        "instruction-matmul",
        Engine.TENSOR,
        Work("nc_matmul", 0, 128, "float16", "float32", (Space.SBUF, Space.SBUF), Space.PSUM, columns=128),
    ),
    "ACTIVATE": InstructionKind(
        "instruction-activate",
        Engine.SCALAR,
        Work("activation", 0, 128, "float32", "float32", (Space.PSUM,), Space.SBUF, function="copy"),
    ),
}


def samples_folder() -> Path | None:
    """The folder of captures, if there is one."""
    root = os.environ.get("NPUSCOPE_SAMPLES")
    folder = Path(root) / _FOLDER if root else None
    return folder if folder is not None and folder.is_dir() else None


def captured_durations(folder: Path) -> dict[tuple[str, int], float]:
    """Median duration in ns of each kind of instruction and number of columns, over all captures of a folder."""
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        try:
            for opcode, columns, duration_ns in _instructions(path):
                found[opcode, columns].append(duration_ns)
        except NpuscopeError:
            continue  # another kind of JSON in the folder
    return {key: float(median(values)) for key, values in sorted(found.items())}


def _instructions(path: Path) -> Iterator[tuple[str, int, int]]:
    """Opcode, columns and duration in ns of the instructions that found their engine idle.

    Behind another one, whose pipeline still drains, an instruction shows a shorter duration.
    """
    columns = ["opcode", "operands", "start_ts", "duration_ns"]
    rows = read_neuron_json(path).tables["Instruction"].select(columns).to_pylist()
    free_at: dict[str, int] = {}
    for row in sorted(rows, key=lambda row: row["start_ts"]):
        opcode, start, duration_ns = row["opcode"], row["start_ts"], row["duration_ns"]
        shape = _SHAPE.search(row["operands"] or "") if opcode in _KINDS else None
        if shape:
            if start >= free_at.get(opcode, start):
                yield opcode, int(shape.group(1)), duration_ns
            free_at[opcode] = start + duration_ns


def captured_points(folder: Path) -> list[tuple[Point, float]]:
    """Captured durations as points, each with its predicted value in ns."""
    device = load_device(_DEVICE)
    durations = captured_durations(folder)
    result = []
    for opcode, kind in _KINDS.items():
        sizes = [columns for name, columns in durations if name == opcode]
        for index, columns in enumerate(sizes):
            cost = cost_of(kind.work._replace(elements=columns), kind.engine, device)
            published = durations[opcode, columns]
            point = Point(
                family=kind.family,
                name=f"{columns} columns",
                device=_DEVICE,
                bucket="instruction",
                quantity="instruction_ns",
                low=published,
                high=published,
                # Latency and rate of TensorE were read off these captures; those of ScalarE come from the documentation.
                role=role_of(index, len(sizes), check_only=False, chose_structure=opcode == "MATMUL"),
                source="captures of float16 128x128xN on inf2, folder $NPUSCOPE_SAMPLES",
                note=_NOTE,
                kernel="",
                arguments=(),
                shape=(),
                grid=(),
                lnc=1,
                relative_to=(),
            )
            result.append((point, cost.occupancy_ns + cost.latency_ns))
    return result
