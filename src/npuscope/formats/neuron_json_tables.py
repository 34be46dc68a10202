"""The second step of reading a profile JSON: rows of the file become rows of the schema.

End times, one unit of time, edges with their gaps, names of throttle types, shapes without brackets, time order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from npuscope.errors import FormatError
from npuscope.formats.json_columns import ColumnBuilder
from npuscope.formats.neuron_json_maps import THROTTLE_TYPES
from npuscope.formats.neuron_units import event_time_unit
from npuscope.profile.schema import columns_of

_SPAN_TABLES = ("Instruction", "DmaPacket")
_TRACKS = {"TensorMatrix": "Tensor"}
_INT64_MAX = (1 << 63) - 1


def finish_tables(
    builders: dict[str, ColumnBuilder],
    edges: Sequence[pa.Table],
    summary: Sequence[Mapping[str, Any]],
    metadata: dict[str, Any],
    *,
    source: object,
) -> tuple[dict[str, pa.Table], list[str]]:
    """Tables of a Profile from the columns that a pass over the file built.

    Args:
        builders: Table to columns; emptied on the way, to free memory.
        edges: Instruction dependencies without gaps.
        summary: The vendor's summary in seconds, as evidence for the unit of event times.
        metadata: The row of `Metadata`, as evidence likewise.
        source: What to call the file in an error.

    Returns:
        The tables, and notes.

    Raises:
        FormatError: An event has no time, or a time overflows.
    """
    notes: list[str] = []
    made = {name: builders.pop(name).table() for name in list(builders)}
    unit, scale = event_time_unit(
        _span(made), [*(row.get("total_time") for row in summary), _metadata_seconds(metadata)]
    )
    if scale != 1:
        notes.append(f"event times are {unit} here, judged by the total time; converted to nanoseconds")
    for name in list(made):
        made[name] = _timed(name, made[name], scale, source)
    if "Instruction" in made:
        made["Instruction"] = _with_engine(made["Instruction"])
    if "Throttle" in made:
        made["Throttle"] = _with_throttle_names(made["Throttle"])
    if "TensorInfo" in made and "shape" in made["TensorInfo"].column_names:
        bare = pc.utf8_trim(made["TensorInfo"].column("shape"), characters="[]")
        made["TensorInfo"] = _replace(made["TensorInfo"], "shape", bare)
    if "NeffHeader" in made and metadata.get("neff_path") and "neff_path" not in made["NeffHeader"].column_names:
        paths = pa.array([str(metadata["neff_path"])] * made["NeffHeader"].num_rows, pa.string())
        made["NeffHeader"] = made["NeffHeader"].append_column("neff_path", paths)
    if "NeffHeader" in made and "uuid" in made["NeffHeader"].column_names and made["NeffHeader"].num_rows:
        metadata.setdefault("capture_uuid", made["NeffHeader"].column("uuid")[0].as_py())
    metadata.pop("neff_path", None)
    if edges:
        made["Flow"], lost = flow_table(pa.concat_tables(edges), made["Instruction"])
        notes += [f"{lost} instruction dependencies name an instruction that is not in the file"] if lost else []
    return made, notes


def _metadata_seconds(metadata: Mapping[str, Any]) -> float | None:
    last = metadata.get("last_hw_timestamp")
    return last / 1e9 if isinstance(last, int) and not isinstance(last, bool) else None


def _span(made: Mapping[str, pa.Table]) -> float:
    """The last end of an instruction or packet, in the unit of the file."""
    ends = [0.0]
    for name in _SPAN_TABLES:
        table = made.get(name)
        if table is None or "start_ts" not in table.column_names or not table.num_rows:
            continue
        start = table.column("start_ts").cast(pa.float64(), safe=False)
        end = start
        if "duration_ns" in table.column_names:
            end = pc.add(start, pc.fill_null(table.column("duration_ns").cast(pa.float64(), safe=False), 0.0))
        ends.append(pc.max(end).as_py() or 0.0)
    return max(ends)


def _replace(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def _timed(name: str, table: pa.Table, scale: float, source: object) -> pa.Table:
    """Times as int64 ns, `end_ts` where it is missing, rows in the order of time."""
    known = columns_of(name)
    for column in table.column_names:
        unit = known[column].unit if column in known else ""
        trigger = column in ("dma_trigger_start_ts", "dma_trigger_end_ts", "trigger", "completion") and column in known
        if unit == "nanoseconds" or trigger:
            table = _replace(table, column, _nanoseconds(table.column(column), scale, f"{name}.{column}", source))
    start = "start_ts" if "start_ts" in table.column_names else "timestamp"
    required = "start_ts" if "start_ts" in known and known["start_ts"].required else "timestamp"
    if required in known and known[required].required:
        missing = table.num_rows if required not in table.column_names else table.column(required).null_count
        if missing:
            place = f"table {name}"
            raise FormatError(source, where=place, expected="a timestamp in every row", found=f"{missing} rows without")
    if start not in table.column_names:
        return table
    if "end_ts" in known and "end_ts" not in table.column_names and "duration_ns" in table.column_names:
        try:
            end = pc.add_checked(table.column("start_ts"), pc.fill_null(table.column("duration_ns"), 0))
        except pa.ArrowInvalid:
            raise FormatError(source, where=f"table {name}", expected="an end that int64 holds", found="more") from None
        table = table.append_column("end_ts", end)
    times = table.column(start).to_numpy()
    if start in known and table.num_rows > 1 and bool((np.diff(times) < 0).any()):
        table = table.take(pa.array(np.argsort(times, kind="stable")))
    return table


def _nanoseconds(values: pa.ChunkedArray, scale: float, where: str, source: object) -> pa.ChunkedArray:
    if scale == 1 and pa.types.is_int64(values.type):
        return values
    scaled = pc.round(pc.multiply(values.cast(pa.float64(), safe=False), scale))
    try:
        return scaled.cast(pa.int64())
    except pa.ArrowInvalid:
        raise FormatError(
            source, where=f"column {where}", expected="nanoseconds that int64 holds", found="more"
        ) from None


def _with_engine(table: pa.Table) -> pa.Table:
    """`engine` from the track where the file has tracks only."""
    if "engine" in table.column_names or "timeline_track" not in table.column_names:
        return table
    tracks = table.column("timeline_track").to_pylist()
    engines = [None if track is None else _TRACKS.get(track, track) for track in tracks]
    return table.append_column("engine", pa.array(engines, pa.string()))


def _with_throttle_names(table: pa.Table) -> pa.Table:
    """Numbers of throttle types as the names of the schema; an unknown number N becomes `type_N`."""
    if "type" not in table.column_names:
        return table
    names = [None if kind is None else _throttle_name(kind) for kind in table.column("type").to_pylist()]
    return _replace(table, "type", pa.array(names, pa.string()))


def _throttle_name(kind: str) -> str:
    if not (kind.isascii() and kind.isdecimal() and len(kind) < 10):
        return kind
    return THROTTLE_TYPES.get(int(kind), f"type_{int(kind)}")


def flow_table(edges: pa.Table, instructions: pa.Table) -> tuple[pa.Table, int]:
    """Dependencies between instructions with the gap from the end of the first to the start of the second.

    Returns:
        The rows of `Flow`, and how many edges name an id that no instruction has (their gap is null).
    """
    if "id" not in instructions.column_names or "end_ts" not in instructions.column_names:
        return edges, edges.num_rows
    ids = _filled(instructions.column("id"))
    order = np.argsort(ids, kind="stable")
    before, known_before = _lookup(ids, order, _filled(edges.column("in_id")))
    after, known_after = _lookup(ids, order, _filled(edges.column("out_id")))
    end, start = _filled(instructions.column("end_ts")), _filled(instructions.column("start_ts"))
    known = known_before & known_after
    gap = pa.array(start[after] - end[before], pa.int64(), mask=~known)
    names = pa.array(["instruction"] * edges.num_rows, pa.string())
    table = edges.append_column("in_table", names).append_column("out_table", names).append_column("gap_time", gap)
    return table, int((~known).sum())


def _filled(values: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return np.asarray(pc.fill_null(values, -1).to_numpy(), np.int64)


def _lookup(
    ids: npt.NDArray[np.int64], order: npt.NDArray[np.intp], wanted: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """For each wanted id the row that has it (any row where none has), and whether one has."""
    place = np.minimum(np.searchsorted(ids[order], wanted), ids.size - 1)
    rows = order[place]
    return rows, ids[rows] == wanted
