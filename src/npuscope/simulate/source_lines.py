"""Which line of a kernel keeps which engine busy: the instructions of a run, gathered by their source line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from npuscope.simulate.neuroncore.program import ENGINE_NAMES, Engine, Transfer, Work

if TYPE_CHECKING:
    from npuscope.simulate.neuroncore.machine import Run

DMA: Final = "DMA"


@dataclass(frozen=True, slots=True)
class LineUse:
    """One source line on one engine."""

    line: str
    """`file.py:12`; "" for what the compiler model added."""
    engine: str
    """`Tensor`, `Vector`, `Scalar`, `GpSimd`, `Sync` or `DMA`."""
    opcodes: tuple[str, ...]
    """What it runs there, the longest first."""
    instruction_count: int
    busy_ns: float
    """Sum of the durations; of DMA, of its transfers, which may run at once."""
    share_of_engine: float
    """Of the same sum over all lines of the engine; a fraction."""


def line_uses(runs: Sequence[Run]) -> tuple[LineUse, ...]:
    """Every line on every engine it keeps busy, the longest first; cores of one kernel count together."""
    busy: dict[tuple[str, str], dict[str, list[float]]] = {}
    for run in runs:
        for line, engine, opcode, count, spent_ns in _of_run(run):
            kinds = busy.setdefault((line, engine), {})
            entry = kinds.setdefault(opcode, [0, 0.0])
            entry[0] += count
            entry[1] += spent_ns
    totals: dict[str, float] = {}
    for (_, engine), kinds in busy.items():
        totals[engine] = totals.get(engine, 0.0) + sum(spent for _, spent in kinds.values())
    uses = []
    for (line, engine), kinds in busy.items():
        spent_ns = sum(spent for _, spent in kinds.values())
        ranked = tuple(sorted(kinds, key=lambda opcode: (-kinds[opcode][1], opcode)))
        count = int(sum(number for number, _ in kinds.values()))
        share = spent_ns / totals[engine] if totals[engine] else 0.0
        uses.append(LineUse(line, engine, ranked, count, spent_ns, share))
    return tuple(sorted(uses, key=lambda use: (-use.busy_ns, use.line, use.engine)))


def _of_run(run: Run) -> Iterator[tuple[str, str, str, int, float]]:
    """Line, engine, opcode, instructions and nanoseconds of every combination that occurs."""
    program = run.program
    if not len(program):
        return
    engine = np.minimum(run.engine, Engine.DMA)
    keys = np.stack([program.line.astype(np.int64), engine, program.signature.astype(np.int64)])
    found, place = np.unique(keys, axis=1, return_inverse=True)
    counts = np.bincount(place.reshape(-1), minlength=found.shape[1])
    spent = np.bincount(
        place.reshape(-1), weights=run.schedule.end_ps - run.schedule.start_ps, minlength=found.shape[1]
    )
    for (line, queue, signature), count, spent_ps in zip(
        found.T.tolist(), counts.tolist(), spent.tolist(), strict=True
    ):
        name = ENGINE_NAMES[queue] if queue < Engine.DMA else DMA
        yield program.lines[line], name, _opcode(program.signatures[signature]), count, spent_ps / 1000


def _opcode(work: Work | Transfer) -> str:
    """An instruction's name, or which way a transfer goes."""
    if isinstance(work, Work):
        return "nc_transpose" if work.is_transpose else work.opcode
    kind = "DMA transpose" if work.is_transpose else "indirect DMA" if work.is_indirect else "DMA"
    return f"{kind} {work.source.name} to {work.destination.name}"
