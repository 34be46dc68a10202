"""Loop-invariant code motion, as the compiler does it: what an innermost loop computes anew each time is done once.

neuronx-cc reports passes LICM, NeuronLICM and NeuronValueNumbering in its log. The model drops an instruction whose
place in the loop body did exactly the same in the iteration before: same work, same operands, none of them written
since, into a tile that is written once, as a whole or in pieces all of which repeat. Loads from HBM are moved by the same
rule.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope._compiled import compiled
from npuscope.simulate.neuroncore.program import ACCUMULATES, Program, Space, Transfer

_RANDOM = frozenset({"dropout", "rand2", "rng", "rand", "rand_get_state", "rand_set_state", "set_rng_seed"})


def without_invariants(program: Program) -> Program:
    """The program without what its innermost loops repeat; readers get the result of the first time."""
    if not len(program) or program.iteration[0] == program.iteration[-1]:
        return program
    movable = np.array([_is_movable(work) for work in program.signatures], np.bool_)[program.signature]
    movable &= (program.flags & ACCUMULATES) == 0
    keep, alias = _repeated(
        program.signature,
        _places(program.line, program.iteration),
        program.access_start,
        program.access,
        movable,
        _own_tiles(program),
    )
    if keep.all():
        return program
    lengths = np.diff(program.access_start)
    access = program.access[np.repeat(keep, lengths)]
    access[:, 0] = alias[access[:, 0]]
    return replace(
        program,
        signature=program.signature[keep],
        engines=program.engines[keep],
        flags=program.flags[keep],
        line=program.line[keep],
        iteration=program.iteration[keep],
        access_start=np.concatenate([[0], np.cumsum(lengths[keep])]),
        access=access,
    )


def _is_movable(work: Any) -> bool:
    if isinstance(work, Transfer):
        return work.source is Space.HBM and work.destination is Space.SBUF and not work.is_indirect
    return work.opcode not in _RANDOM and work.destination is not Space.REGISTER


def _places(line: npt.NDArray[np.int32], iteration: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A number per place in the loop bodies: the source line, and the how-manieth of that line in its iteration."""
    order = np.lexsort((np.arange(len(line)), iteration, line))
    opens = (np.diff(line[order], prepend=-1) != 0) | (np.diff(iteration[order], prepend=-1) != 0)
    first = np.maximum.accumulate(np.where(opens, np.arange(len(line)), 0))
    rank = np.empty(len(line), np.int64)
    rank[order] = np.arange(len(line)) - first
    places: npt.NDArray[np.int64] = np.unique(line * (rank.max() + 1) + rank, return_inverse=True)[1]
    return places.astype(np.int64)


def _own_tiles(program: Program) -> npt.NDArray[np.int64]:
    """Writes of each on-chip tile of which every byte is written exactly once; 0 for other tiles."""
    table = program.tile_table
    writes = program.access[program.access[:, 5] == 1]
    count = np.bincount(writes[:, 0], minlength=len(table))
    area = np.zeros(len(table), np.int64)
    np.add.at(area, writes[:, 0], (writes[:, 2] - writes[:, 1]) * (writes[:, 4] - writes[:, 3]))
    is_own = (table[:, 0] != Space.HBM) & (area == table[:, 1] * table[:, 2])
    return np.where(is_own, count, 0).astype(np.int64)


@compiled
def _repeated(
    signature: Any, place: Any, access_start: Any, access: Any, movable: Any, own: Any
) -> Any:  # pragma: no cover - compiled
    """Which instructions stay, and for each tile the one to read instead."""
    count, tiles = signature.shape[0], own.shape[0]
    repeats = np.full(count, -1, np.int64)  # the tile that a repeated instruction writes
    alias = np.arange(tiles)
    partner, matched = np.full(tiles, -1, np.int64), np.zeros(tiles, np.int64)
    last_write = np.full(tiles, -1, np.int64)
    before = np.full(count, -1, np.int64)
    for i in range(count):
        j = before[place[i]]
        length = access_start[i + 1] - access_start[i]
        same = movable[i] and j >= 0 and signature[i] == signature[j]
        same = same and length > 0 and length == access_start[j + 1] - access_start[j]
        writes = 0
        result, other = -1, -1
        for k in range(length):
            if not same:
                break
            a, b = access_start[i] + k, access_start[j] + k
            for column in range(1, 6):
                same = same and access[a, column] == access[b, column]
            if access[a, 5] == 1:
                writes += 1
                result, other = access[a, 0], access[b, 0]
                same = same and own[result] > 0 and own[result] == own[other] and result != other
                same = same and (partner[result] < 0 or partner[result] == other)
            else:
                source = alias[access[a, 0]]
                same = same and source == alias[access[b, 0]] and last_write[source] < j
        if same and writes == 1:
            repeats[i], partner[result] = result, other
            matched[result] += 1
            if matched[result] == own[result]:  # its last piece: all of it is there already
                alias[result] = alias[other]
            continue
        before[place[i]] = i
        for a in range(access_start[i], access_start[i + 1]):
            if access[a, 5] == 1:
                last_write[alias[access[a, 0]]] = i
    keep = np.ones(count, np.bool_)
    for i in range(count):
        keep[i] = repeats[i] < 0 or matched[repeats[i]] < own[repeats[i]]
    return keep, alias
