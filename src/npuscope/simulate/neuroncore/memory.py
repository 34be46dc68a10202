"""On-chip memory: lifetimes of tiles, and the spills and reloads where more is alive than SBUF holds.

The compiler plans memory in program order: a tile is alive from its first use to its last. Where the living tiles
exceed SBUF, the one whose next use lies furthest ahead goes to HBM (Belady's rule, a fair assumption about a compiler
that knows the whole program), and comes back before that use.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from npuscope._compiled import compiled
from npuscope.errors import NpuscopeError
from npuscope.simulate.neuroncore.program import (
    IS_RELOAD,
    IS_SPILL,
    Engine,
    Program,
    Space,
    TileInfo,
    Transfer,
)

Integers = npt.NDArray[np.int64]


class MemoryOverflowError(NpuscopeError):
    """One instruction alone needs more on-chip memory than there is."""

    exit_code = 3


class Uses(NamedTuple):
    """Which instruction touches which on-chip tile, once per pair, in program order."""

    start: Integers
    """Uses of instruction i are entries start[i] to start[i + 1]."""
    tile: Integers
    """Numbers of the program's tiles."""
    writes: npt.NDArray[np.bool_]
    """The instruction writes the tile."""

    def lifetimes(self, tile_count: int) -> tuple[Integers, Integers]:
        """First and last instruction that touches each tile; -1 where none does."""
        instruction = np.repeat(np.arange(len(self.start) - 1), np.diff(self.start))
        first = np.full(tile_count, -1, np.int64)
        last = np.full(tile_count, -1, np.int64)
        first[self.tile[::-1]] = instruction[::-1]
        last[self.tile] = instruction
        return first, last


def tile_uses(program: Program) -> Uses:
    """The on-chip tiles that each instruction touches."""
    space = program.tile_table[:, 0]
    on_chip = (space == Space.SBUF) | (space == Space.PSUM)
    instruction = np.repeat(np.arange(len(program)), np.diff(program.access_start))
    keep = on_chip[program.access[:, 0]] if len(program.tiles) else np.zeros(0, np.bool_)
    tiles = max(1, len(program.tiles))
    pair = instruction[keep] * tiles + program.access[keep, 0]
    ordered = np.sort(2 * pair + program.access[keep, 5])  # of equal pairs the last is a write, if any is
    ordered = ordered[np.append(np.diff(ordered >> 1) != 0, True)[: len(ordered)]]
    unique = ordered >> 1
    start = np.searchsorted(unique // tiles, np.arange(len(program) + 1))
    return Uses(start.astype(np.int64), unique % tiles, (ordered & 1).astype(np.bool_))


def peak_live(first: Integers, last: Integers, size: Integers, group: Integers) -> dict[int, int]:
    """The most that is alive at once in program order, per group; tiles that are never used are left out."""
    used = first >= 0
    if not used.any():
        return {}
    times = np.concatenate([first[used], last[used] + 1])
    change = np.concatenate([size[used], -size[used]])
    groups = np.concatenate([group[used], group[used]])
    order = np.lexsort((change, times, groups))
    level = np.cumsum(change[order])
    starts = np.flatnonzero(np.diff(groups[order], prepend=groups[order][0] - 1))
    return dict(zip(groups[order][starts].tolist(), np.maximum.reduceat(level, starts).tolist(), strict=True))


def with_spills(program: Program, capacity_bytes: int, uses: Uses | None = None) -> Program:
    """The program with spills to HBM and reloads, where its tiles exceed `capacity_bytes` per partition of SBUF.

    Args:
        program: As the kernel recorded it.
        capacity_bytes: Per partition.
        uses: `tile_uses(program)`, where the caller has it.

    Raises:
        MemoryOverflowError: The operands of one instruction do not fit.
    """
    uses = uses or tile_uses(program)
    first, last = uses.lifetimes(len(program.tiles))
    in_sbuf = program.tile_table[:, 0] == Space.SBUF
    size = np.ascontiguousarray(program.tile_table[:, 2])
    first[~in_sbuf] = -1
    peak = peak_live(first, last, size, np.zeros(len(size), np.int64)).get(0, 0)
    if peak <= capacity_bytes:
        return program
    before, kind, tile, failed = _plan(
        uses.start, uses.tile, uses.writes, in_sbuf, size, _next_uses(uses), capacity_bytes
    )
    if failed >= 0:
        line = program.lines[program.line[failed]]
        raise MemoryOverflowError(
            f"{line}: the operands of this instruction need more than the {capacity_bytes:,} bytes per partition of"
            " SBUF; use smaller tiles"
        )
    return _insert(program, before, kind, tile)


def _next_uses(uses: Uses) -> Integers:
    """For each use, the instruction of the tile's next one; a very large number after its last."""
    instruction = np.repeat(np.arange(len(uses.start) - 1), np.diff(uses.start))
    order = np.lexsort((instruction, uses.tile))
    following = np.full(len(order), np.iinfo(np.int64).max)
    same = uses.tile[order][1:] == uses.tile[order][:-1]
    following[:-1][same] = instruction[order][1:][same]
    result = np.empty_like(following)
    result[order] = following
    return result


@compiled
def _plan(
    use_start: Any, use_tile: Any, use_writes: Any, in_sbuf: Any, size: Any, next_use: Any, capacity: int
) -> Any:  # pragma: no cover - compiled
    never = np.iinfo(np.int64).max
    tiles = size.shape[0]
    slot = np.full(tiles, -1, np.int64)  # place in `resident`
    resident = np.empty(tiles, np.int64)
    resident_count = 0
    upcoming = np.full(tiles, never, np.int64)
    dirty, known = np.zeros(tiles, np.bool_), np.zeros(tiles, np.bool_)
    pinned = np.full(tiles, -1, np.int64)
    used = 0
    before, kind, moved = [0], [0], [0]
    for i in range(use_start.shape[0] - 1):
        for u in range(use_start[i], use_start[i + 1]):
            pinned[use_tile[u]] = i
        for u in range(use_start[i], use_start[i + 1]):
            tile = use_tile[u]
            if not in_sbuf[tile]:
                continue
            if slot[tile] < 0:
                while used + size[tile] > capacity:
                    victim, furthest = -1, -1
                    for r in range(resident_count):
                        candidate = resident[r]
                        if pinned[candidate] != i and upcoming[candidate] > furthest:
                            victim, furthest = candidate, upcoming[candidate]
                    if victim < 0:
                        return np.array(before[1:]), np.array(kind[1:]), np.array(moved[1:]), i
                    if dirty[victim]:
                        before.append(i)
                        kind.append(0)
                        moved.append(victim)
                        dirty[victim] = False
                    used -= size[victim]
                    resident_count -= 1
                    other = resident[resident_count]
                    resident[slot[victim]] = other
                    slot[other] = slot[victim]
                    slot[victim] = -1
                if known[tile]:
                    before.append(i)
                    kind.append(1)
                    moved.append(tile)
                known[tile] = True
                slot[tile] = resident_count
                resident[resident_count] = tile
                resident_count += 1
                used += size[tile]
            if use_writes[u]:
                dirty[tile] = True
            upcoming[tile] = next_use[u]
        for u in range(use_start[i], use_start[i + 1]):
            tile = use_tile[u]
            if in_sbuf[tile] and slot[tile] >= 0 and upcoming[tile] == never:
                used -= size[tile]
                resident_count -= 1
                other = resident[resident_count]
                resident[slot[tile]] = other
                slot[other] = slot[tile]
                slot[tile] = -1
    return np.array(before[1:]), np.array(kind[1:]), np.array(moved[1:]), -1


def _insert(program: Program, before: Integers, kind: Integers, tile: Integers) -> Program:
    """Insert a spill (kind 0) or reload (kind 1) of `tile` ahead of each instruction in `before`."""
    count = len(program)
    tiles = list(program.tiles)
    signatures = list(program.signatures)
    known = {signature: number for number, signature in enumerate(signatures)}
    home: dict[int, int] = {}
    version: dict[int, int] = {}
    reloads: dict[int, list[tuple[int, int]]] = {}
    rows: list[tuple[int, list[int], list[int]]] = []  # signature, read access, write access
    for at, is_reload, number in zip(before.tolist(), kind.tolist(), tile.tolist(), strict=True):
        info = program.tiles[number]
        box = [0, info.rows, 0, info.row_bytes]
        if number not in home:
            home[number] = len(tiles)
            tiles.append(TileInfo(Space.HBM, info.rows, info.row_bytes, f"spill of {info.name}", home[number]))
        if is_reload:
            version[number] = len(tiles)
            reloads.setdefault(number, []).append((at, version[number]))
            tiles.append(info)
        moved = info.rows * info.row_bytes
        ends = (Space.HBM, Space.SBUF) if is_reload else (Space.SBUF, Space.HBM)
        transfer = Transfer(info.rows, info.row_bytes, moved, moved, *ends)
        on_chip = version.get(number, number)
        source, target = (home[number], on_chip) if is_reload else (on_chip, home[number])
        signature = known.setdefault(transfer, len(signatures))
        if signature == len(signatures):
            signatures.append(transfer)
        rows.append((signature, [source, *box, 0], [target, *box, 1]))
    access = program.access.copy()
    instruction = np.repeat(np.arange(count), np.diff(program.access_start))
    for number, versions in reloads.items():
        mine = np.flatnonzero(access[:, 0] == number)
        starts = np.array([at for at, _ in versions])
        which = np.searchsorted(starts, instruction[mine], side="right")
        names = np.array([number, *(name for _, name in versions)])
        access[mine, 0] = names[which]
    order = np.argsort(np.concatenate([np.arange(count), before - 0.5]), kind="stable")
    inserted = np.array([[read, write] for _, read, write in rows], dtype=np.int64).reshape(-1, 6)
    lengths = np.concatenate([np.diff(program.access_start), np.full(len(rows), 2)])
    offsets = np.concatenate([program.access_start[:-1], len(access) + 2 * np.arange(len(rows))])
    every = np.concatenate([access, inserted])
    new_start = np.concatenate([[0], np.cumsum(lengths[order])])
    pick = np.repeat(offsets[order] - new_start[:-1], lengths[order]) + np.arange(new_start[-1])
    dma = np.int8(1 << Engine.DMA)
    return replace(
        program,
        signatures=tuple(signatures),
        signature=np.concatenate([program.signature, [s for s, _, _ in rows]]).astype(np.int32)[order],
        engines=np.concatenate([program.engines, np.full(len(rows), dma)]).astype(np.int8)[order],
        flags=np.concatenate([program.flags, np.where(kind == 1, IS_RELOAD, IS_SPILL)]).astype(np.int8)[order],
        line=np.concatenate([program.line, program.line[before]]).astype(np.int32)[order],
        iteration=np.concatenate([program.iteration, program.iteration[before]])[order],
        access_start=new_start,
        access=every[pick],
        tiles=tuple(tiles),
        tile_table=np.array([(t.space, t.rows, t.row_bytes, t.site) for t in tiles], dtype=np.int64).reshape(-1, 4),
    )
