"""`bir.json`, the compiler's program before engines are assigned: instructions, tiles, and what they move.

Not documented; read off one real file (version 2, arch sunda): an access pattern `ap` is a list of [step, count],
the first of which is the partition dimension; `access_shape` gives the tile, partitions first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from npuscope.formats.compiler_facts import DTYPE_BYTES
from npuscope.formats.limited_json import as_list, as_object, as_shape, as_text


@dataclass(frozen=True, slots=True)
class Operation:
    """One opcode on one tile shape."""

    opcode: str
    tile: str
    """`128x128x512` of a Matmult (contraction, stationary, moving), else the shape of the first output."""
    dtype: str
    """Of the first input."""
    instructions: int
    """How many such instructions stand in the file; a loop runs each of them more than once."""
    looped: int
    """How many of these stand in a loop."""
    moved_bytes: int
    """Output bytes of one run of each."""


@dataclass(frozen=True, slots=True)
class Program:
    """One `bir.json`."""

    source: str
    arch: str
    functions: int
    instructions: int
    operations: tuple[Operation, ...]
    """Most frequent first."""
    allocated_bytes: dict[str, int]
    """Kind of memory (DRAM, SB, PSUM) to bytes of all locations; reuse is not known."""


def read_bir(document: Any, source: str) -> Program:
    """Count instructions by opcode and tile; what has another form is left out."""
    root = as_object(document)
    functions = [as_object(function) for function in as_list(root.get("functions"))]
    counts: Counter[tuple[str, str, str]] = Counter()
    looped: Counter[tuple[str, str, str]] = Counter()
    moved: Counter[tuple[str, str, str]] = Counter()
    total = 0
    for instruction in (i for function in functions for i in _instructions(function)):
        opcode = as_text(instruction.get("opcode")) or "?"
        inputs, outputs = as_list(instruction.get("ins")), as_list(instruction.get("outs"))
        key = (opcode, _tile(opcode, inputs, outputs), as_text(as_object(inputs[0]).get("dtype")) if inputs else "")
        total += 1
        counts[key] += 1
        looped[key] += bool(as_list(instruction.get("loopnest")))
        moved[key] += sum(_bytes(as_object(output)) for output in outputs)
    operations = tuple(
        Operation(*key, count, looped[key], min(moved[key], (1 << 63) - 1)) for key, count in counts.most_common()
    )
    return Program(source, as_text(root.get("arch")), len(functions), total, operations, _allocations(functions))


def _instructions(function: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for block in as_list(function.get("blocks")):
        for instruction in as_list(as_object(block).get("instructions")):
            if isinstance(instruction, dict):
                yield instruction


def _tile(opcode: str, inputs: list[Any], outputs: list[Any]) -> str:
    """A Matmult's inputs are the moving and the stationary tile, each [contraction, free]."""
    if opcode == "Matmult" and len(inputs) >= 2:
        moving, stationary = (as_shape(as_object(one).get("access_shape")) for one in inputs[:2])
        if moving and stationary and len(moving) >= 2 and len(stationary) >= 2:
            return f"{moving[0]}x{math.prod(stationary[1:])}x{math.prod(moving[1:])}"
    shape = as_shape(as_object(outputs[0]).get("access_shape")) if outputs else None
    return "x".join(map(str, shape)) if shape else ""


def _bytes(operand: dict[str, Any]) -> int:
    shape = as_shape(operand.get("access_shape"))
    return math.prod(shape) * DTYPE_BYTES.get(as_text(operand.get("dtype")), 0) if shape else 0


def _allocations(functions: list[dict[str, Any]]) -> dict[str, int]:
    """`dims` of a memory location are partitions and bytes of each."""
    sizes: Counter[str] = Counter()
    for function in functions:
        for allocation in as_list(function.get("allocations")):
            for location in as_list(as_object(allocation).get("memorylocations")):
                fields = as_object(location)
                dims = as_shape(fields.get("dims"))
                if dims:
                    sizes[as_text(fields.get("type")) or "?"] += math.prod(dims)
    return {kind: min(size, (1 << 63) - 1) for kind, size in sorted(sizes.items())}
