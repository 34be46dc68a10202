"""Dependencies of a Profile as flows between slices."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from npuscope.profile.tables import Profile
from npuscope.profile.timeline_sources import SLICES

Ticks = npt.NDArray[np.int64]


def flow_edges(profile: Profile, slices: pa.Table, notes: list[str]) -> pa.Table:
    """`Flow` by ids of slices: slice_out, the earlier one, and slice_in.

    A flow of a trace runs forward in time, so an edge whose `in` row starts later is turned round. An edge that names
    a row that is not drawn is left out and counted.
    """
    count = profile.rows("Flow")
    out, into = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
    for end, found in (("in", out), ("out", into)):
        names = np.array([_plain(name) for name in profile.texts("Flow", f"{end}_table")], object)
        ids = profile.numbers("Flow", f"{end}_id")
        for index, source in enumerate(SLICES):
            own = np.isin(names, [_plain(source.table), *_OTHER_NAMES.get(source.table, ())])
            if own.any():
                found[own] = _slices_of(profile, slices, index, ids[own])
    drawn = (out >= 0) & (into >= 0) & (out != into)
    if not drawn.all():
        notes.append(f"Flow: {int((~drawn).sum())} edges name a row that is not drawn, or one row twice")
    first, second = np.minimum(out[drawn], into[drawn]), np.maximum(out[drawn], into[drawn])
    order = np.lexsort((first, second))
    return pa.table({"slice_out": first[order], "slice_in": second[order]})


_OTHER_NAMES = {"DmaPacket": ("dma", "dmapackets"), "Instruction": ("instructions",)}


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _slices_of(profile: Profile, slices: pa.Table, source: int, wanted: Ticks) -> Ticks:
    """The slice whose row has each wanted id; -1 where none has. Of rows of one id, the first drawn."""
    key = "op_id" if SLICES[source].table == "CcOp" else "id"
    members = np.flatnonzero(np.asarray(slices.column("source").to_numpy()) == source)
    rows = np.asarray(slices.column("row").to_numpy())[members]
    if not rows.size or not profile.has(SLICES[source].table, key):
        return np.full(wanted.size, -1, np.int64)
    ids = profile.numbers(SLICES[source].table, key)[rows]
    order = np.argsort(ids, kind="stable")
    place = np.minimum(np.searchsorted(ids[order], wanted), ids.size - 1)
    found = order[place]
    return np.where(ids[found] == wanted, members[found], -1)
