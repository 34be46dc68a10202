"""The program of an NTFF: its images decoded once, and where a trace record's 16-bit pc finds its instruction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from npuscope.formats.ntff import ENGINES, Edit, SubGraph
from npuscope.formats.ntff_isa import INSTRUCTION_BYTES, Decoded, SemaphoreNames, mark_transposes, name_semaphores
from npuscope.formats.ntff_operands import decode
from npuscope.formats.ntff_records import Int64s, Spans


@dataclass(frozen=True, slots=True)
class Program:
    """All instructions of a sub-graph, and where a trace record's 16-bit pc finds its own."""

    instructions: tuple[Decoded, ...]
    lookup: dict[int, Int64s]
    """Engine to 65,536 indices into `instructions`; -1 where no image has that pc."""
    compiler_pc: Int64s
    """Per instruction; -1 for code of the runtime."""
    names: SemaphoreNames


def read_program(graph: SubGraph) -> Program:
    """Decode every image, name its semaphores, guess the transposes."""
    code = {image.engine: bytes(image.code) for image in graph.images}
    static = sorted({queue.name for queue in graph.queues if queue.type and not queue.is_dynamic})
    names = name_semaphores(code, static)
    by_engine: dict[int, list[Decoded]] = {}
    for image in graph.images:
        count = len(image.code) // INSTRUCTION_BYTES
        words = (code[image.engine][at * INSTRUCTION_BYTES :][:INSTRUCTION_BYTES] for at in range(count))
        by_engine[image.engine] = [decode(image.engine, pc, word, names) for pc, word in enumerate(words)]
    tensor = ENGINES.index("Tensor")
    others = [item for engine, items in by_engine.items() if engine != tensor for item in items]
    by_engine[tensor] = mark_transposes(by_engine.get(tensor, []), others)
    instructions: list[Decoded] = []
    compiler: list[int] = []
    lookup: dict[int, Int64s] = {}
    for image in graph.images:
        items = by_engine[image.engine]
        table = lookup.setdefault(image.engine, np.full(1 << 16, -1, np.int64))
        pcs = ((image.address >> 6) + np.arange(len(items))) & 0xFFFF
        table[pcs] = len(instructions) + np.arange(len(items))
        compiler += _compiler_pcs(len(items), image.edits)
        instructions += items
    return Program(tuple(instructions), lookup, np.array(compiler, np.int64), names)


def _compiler_pcs(count: int, edits: tuple[Edit, ...]) -> list[int]:
    """Undo the runtime's insertions and removals; -1 for what it inserted."""
    made = []
    for pc in range(count):
        value = pc
        for edit in edits:
            if pc < edit.start:
                continue
            if edit.kind == 0 and pc < edit.start + edit.count:
                value = -1
                break
            value += edit.count if edit.kind == 2 else -edit.count if edit.kind == 0 else 0
        made.append(value)
    return made


def program_rows(program: Program, spans: Spans) -> Int64s:
    """Index of each executed instruction in `program.instructions`; -1 where no image holds it."""
    rows = np.full(spans.engine.size, -1, np.int64)
    for engine, table in program.lookup.items():
        mine = spans.engine == engine
        rows[mine] = table[spans.key[mine]]
    return rows
