"""Copies out of PSUM that the front end inserted, and that the compiler leaves out (its log names tensor_copy_elim).

Repeating one partition over many is a matmul with ones into PSUM and a copy to SBUF. Where the repeated row fits one
PSUM bank and only Vector and Scalar instructions read it, they read it from PSUM, which is also faster for a
tensor_tensor.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from npuscope._compiled import compiled
from npuscope.simulate.neuroncore.program import IS_INSERTED_COPY, Engine, Program, Space, Work

_READERS = (1 << Engine.VECTOR) | (1 << Engine.SCALAR)


def without_inserted_copies(program: Program) -> Program:
    """The program whose inserted copies are dropped where every reader can read PSUM instead."""
    marked = (program.flags & IS_INSERTED_COPY) != 0
    if not marked.any():
        return program
    takes_psum = np.array([isinstance(work, Work) and Space.PSUM not in work.sources for work in program.signatures])
    takes_psum = takes_psum[program.signature] & ((program.engines & _READERS) != 0)
    keep, alias, reads = _dropped(program.access_start, program.access, marked, takes_psum, len(program.tiles))
    if keep.all():
        return program
    signatures = list(program.signatures)
    known = {work: number for number, work in enumerate(signatures)}
    signature = program.signature.copy()
    changed: dict[int, int] = {}
    for old in np.unique(signature[reads]).tolist():
        work = signatures[old]
        if isinstance(work, Work) and Space.SBUF in work.sources:
            at = work.sources.index(Space.SBUF)
            sources = (*work.sources[:at], Space.PSUM, *work.sources[at + 1 :])
            new = known.setdefault(work._replace(sources=sources), len(signatures))
            if new == len(signatures):
                signatures.append(work._replace(sources=sources))
            changed[old] = new
    rows = np.flatnonzero(reads)
    signature[rows] = [changed.get(number, number) for number in signature[rows].tolist()]
    engines = np.where(reads, program.engines & _READERS, program.engines).astype(np.int8)
    lengths = np.diff(program.access_start)
    access = program.access[np.repeat(keep, lengths)]
    access[:, 0] = alias[access[:, 0]]
    return replace(
        program,
        signatures=tuple(signatures),
        signature=signature[keep],
        engines=engines[keep],
        flags=program.flags[keep],
        line=program.line[keep],
        iteration=program.iteration[keep],
        access_start=np.concatenate([[0], np.cumsum(lengths[keep])]),
        access=access,
    )


@compiled
def _dropped(
    access_start: Any, access: Any, marked: Any, takes_psum: Any, tiles: int
) -> Any:  # pragma: no cover - compiled
    """Which instructions stay, the tile to read instead of each tile, and which instructions read PSUM from now on."""
    count = marked.shape[0]
    source = np.full(tiles, -1, np.int64)  # of an inserted copy, by its target
    written = np.zeros(tiles, np.int64)
    for i in range(count):
        for a in range(access_start[i], access_start[i + 1]):
            written[access[a, 0]] += access[a, 5]
        if marked[i] and access_start[i + 1] - access_start[i] == 2:
            first, second = access_start[i], access_start[i] + 1
            same = access[first, 1] == access[second, 1] and access[first, 2] == access[second, 2]
            # Types may differ in size: only float32 in both keeps the boxes equal.
            same = same and access[first, 3] == access[second, 3] and access[first, 4] == access[second, 4]
            if same and access[first, 5] == 0 and access[second, 5] == 1:
                source[access[second, 0]] = access[first, 0]
    for tile in range(tiles):
        if source[tile] >= 0 and (written[tile] != 1 or written[source[tile]] != 1):
            source[tile] = -1
    for i in range(count):
        reading = 0
        for a in range(access_start[i], access_start[i + 1]):
            tile = access[a, 0]
            if access[a, 5] == 0 and source[tile] >= 0:
                reading += 1
                if not takes_psum[i] or reading > 1:
                    source[tile] = -1
    keep = np.ones(count, np.bool_)
    reads = np.zeros(count, np.bool_)
    alias = np.arange(tiles)
    for tile in range(tiles):
        if source[tile] >= 0:
            alias[tile] = source[tile]
    for i in range(count):
        for a in range(access_start[i], access_start[i + 1]):
            if source[access[a, 0]] >= 0:
                if access[a, 5] == 1:
                    keep[i] = False
                else:
                    reads[i] = True
    return keep, alias, reads
