"""Values get buffers of their own: a tile that is written again for new contents does not wait for the old ones.

Classic NKI leaves buffers to the compiler, whose log names the passes vn_splitter and address_rotation_sb: what a
kernel declares once and fills anew in each iteration rotates through as many buffers as memory holds. The model splits
each on-chip tile into webs: the writes whose data some read sees together, with their readers. Each web becomes a tile
of its own. What is updated in place stays in place, and accumulators in PSUM stay where the kernel declared them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from npuscope._compiled import compiled
from npuscope.simulate.neuroncore.dependences import grown, split
from npuscope.simulate.neuroncore.program import Program, Space, TileInfo


def renamed(program: Program) -> Program:
    """The program with one tile per web; see the module."""
    table = program.tile_table
    writes = np.bincount(program.access[program.access[:, 5] == 1, 0], minlength=len(table))
    candidates = (table[:, 0] == Space.SBUF) & (writes > 1)
    if not candidates.any():
        return program
    web = _webs(program.access_start, program.access, program.flags, candidates)
    mine = np.flatnonzero(web >= 0)
    roots, which = np.unique(web[mine], return_inverse=True)
    access = program.access.copy()
    low = np.full(len(roots), np.iinfo(np.int64).max)
    high = np.zeros(len(roots), np.int64)
    np.minimum.at(low, which, access[mine, 3])
    np.maximum.at(high, which, access[mine, 4])
    origin = np.zeros(len(roots), np.int64)
    origin[which] = access[mine, 0]
    access[mine, 0] = len(table) + which
    access[mine, 3] -= low[which]
    access[mine, 4] -= low[which]
    added = table[origin]
    added[:, 2] = high - low
    tiles = [
        TileInfo(info.space, info.rows, size, info.name, info.site)
        for info, size in zip((program.tiles[tile] for tile in origin.tolist()), added[:, 2].tolist(), strict=True)
    ]
    return replace(program, access=access, tiles=(*program.tiles, *tiles), tile_table=np.concatenate([table, added]))


@compiled
def _root(parent: Any, node: int) -> int:  # pragma: no cover - compiled
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@compiled
def _webs(access_start: Any, access: Any, flags: Any, candidates: Any) -> Any:  # pragma: no cover - compiled
    """Per access of a candidate tile, the number of its web; -1 for others.

    Nodes are accesses; a segment's writer column holds the access that wrote it.
    """
    count = access.shape[0]
    parent = np.arange(count)
    taken = np.zeros(count, np.bool_)
    head = np.full(candidates.shape[0], -1, np.int64)
    segments, segment_count = np.empty((1024, 7), np.int64), 0
    for i in range(access_start.shape[0] - 1):
        for a in range(access_start[i], access_start[i + 1]):
            tile = access[a, 0]
            if not candidates[tile]:
                continue
            taken[a] = True
            is_write = access[a, 5] == 1
            r0, r1, b0, b1 = access[a, 1], access[a, 2], access[a, 3], access[a, 4]
            stays = is_write and (flags[i] & 1) == 1
            if is_write:  # what is updated in place stays in place
                for o in range(access_start[i], access_start[i + 1]):
                    same_tile = access[o, 0] == tile and access[o, 5] == 0
                    overlap = access[o, 1] < r1 and r0 < access[o, 2] and access[o, 3] < b1 and b0 < access[o, 4]
                    stays = stays or (same_tile and overlap)
            overlapped = False
            previous, s = -1, head[tile]
            while s >= 0:
                inside = segments[s, 0] < r1 and r0 < segments[s, 1] and segments[s, 2] < b1 and b0 < segments[s, 3]
                if not inside:
                    previous, s = s, segments[s, 6]
                    continue
                overlapped = True
                if not is_write or stays:
                    parent[_root(parent, a)] = _root(parent, segments[s, 4])
                after = segments[s, 6]
                if is_write:
                    segments, segment_count = split(segments, segment_count, s, r0, r1, b0, b1)
                    if previous < 0:
                        head[tile] = segments[s, 6]
                    else:
                        segments[previous, 6] = segments[s, 6]
                else:
                    previous = s
                s = segments[s, 6]
                while s != after:
                    previous, s = s, segments[s, 6]
            if is_write or not overlapped:
                segments = grown(segments, segment_count)
                segments[segment_count, 0], segments[segment_count, 1] = r0, r1
                segments[segment_count, 2], segments[segment_count, 3] = b0, b1
                segments[segment_count, 4], segments[segment_count, 5] = a, -1
                segments[segment_count, 6] = head[tile]
                head[tile] = segment_count
                segment_count += 1
    web = np.full(count, -1, np.int64)
    for a in range(count):
        if taken[a]:
            web[a] = _root(parent, a)
    return web
