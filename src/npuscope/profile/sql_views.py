"""The tables that a query over a Profile sees: the vendor's, complete, and Perfetto's, made from the timeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from npuscope.profile.schema import columns_of
from npuscope.profile.schema import tables as schema_tables
from npuscope.profile.tables import Profile
from npuscope.profile.timeline import Timeline
from npuscope.profile.timeline_sources import ARGUMENT_PREFIX, SLICES

PERFETTO_VIEWS: Mapping[str, str] = {
    "slice": "every instruction, DMA packet, throttling and host event: ts and dur in ns",
    "thread": "engines, DMA queues and host threads",
    "process": "physical cores and host processes",
    "thread_track": "tracks of threads; overlapping slices of one thread lie on several",
    "process_track": "tracks of processes; always empty",
    "track": "all tracks",
    "counter": "samples of counters",
    "counter_track": "tracks of counters",
    "args": "arguments of slices: the columns of their table that are not null",
    "slice_flow": "dependencies: slice_out runs before slice_in (Perfetto's view flow; Flow is the vendor's table)",
    "slice_row": "the table and row of each slice",
}
_NOTHING = {"int": pa.int64(), "text": pa.string()}
_ARGS = """SELECT arg_set_id * 1000 + {index} AS id, arg_set_id, '{key}' AS flat_key, '{key}' AS key,
{whole} AS int_value, {text} AS string_value, {real} AS real_value, '{kind}' AS value_type,
CAST("{column}" AS VARCHAR) AS display_value FROM "{table}" WHERE "{column}" IS NOT NULL"""
_ARGS_COLUMNS = """SELECT NULL::BIGINT AS id, NULL::BIGINT AS arg_set_id, NULL::VARCHAR AS flat_key,
NULL::VARCHAR AS key, NULL::BIGINT AS int_value, NULL::VARCHAR AS string_value, NULL::DOUBLE AS real_value,
NULL::VARCHAR AS value_type, NULL::VARCHAR AS display_value WHERE false"""


def table_names(profile: Profile) -> list[str]:
    """Every table of the schema, and those of the Profile that the schema does not know, as a query names them."""
    return sorted({*schema_tables(), *profile.tables})


def table_named(profile: Profile, name: str) -> pa.Table:
    """The rows of a table with all columns of its schema."""
    table = profile.table(name)
    known = list(columns_of(name))
    return table.select([*known, *(column for column in table.column_names if column not in columns_of(name))])


def perfetto_tables(timeline: Timeline) -> dict[str, pa.Table]:
    """The Perfetto-shaped tables, `args` apart, with the columns and the ids of Perfetto's trace processor.

    One thing differs on purpose: the first track of a thread has the thread's name, where Perfetto's has none.
    """
    return {
        "slice": _slice(timeline),
        "thread": _thread(timeline),
        "process": _process(timeline),
        **_tracks(timeline),
        "counter": _counter(timeline),
        "slice_flow": timeline.flows.add_column(0, "id", _numbers(timeline.flows)),
        "slice_row": pa.table(
            {
                "slice_id": timeline.slices.column("id"),
                "table_name": pa.array([source.table for source in SLICES]).take(
                    timeline.slices.column("source").combine_chunks()
                ),
                "row_number": timeline.slices.column("row"),
            }
        ),
    }


def args_tables(timeline: Timeline) -> tuple[dict[str, pa.Table], str]:
    """What the view `args` reads, and its definition: rows are only made where a query asks for them."""
    found: dict[str, pa.Table] = {}
    selects = [_ARGS_COLUMNS]
    for name, table in timeline.arguments().items():
        hidden = f"_args_{name}"
        found[hidden] = table.rename_columns(["arg_set_id", *table.column_names[1:]])
        for index, column in enumerate(table.column_names[1:]):
            selects.append(_args_select(hidden, index, column, table.schema.field(column).type))
    return found, "\nUNION ALL\n".join(selects)


def argument_macros(hidden: Mapping[str, pa.Table]) -> dict[str, str]:
    """Key of an argument to the macro that gives it with its type; other keys are given as text."""
    found = {}
    for table in hidden.values():
        for field in table.schema:
            if pa.types.is_integer(field.type) or pa.types.is_boolean(field.type):
                found[ARGUMENT_PREFIX + field.name] = "_extract_int"
            elif pa.types.is_floating(field.type):
                found[ARGUMENT_PREFIX + field.name] = "_extract_real"
    return found


def _args_select(table: str, index: int, column: str, type_: pa.DataType) -> str:
    quoted = column.replace('"', '""')
    values = {"whole": "NULL::BIGINT", "text": "NULL::VARCHAR", "real": "NULL::DOUBLE"}
    if pa.types.is_string(type_):
        kind, slot, value = "string", "text", f'"{quoted}"'
    elif pa.types.is_floating(type_):
        kind, slot, value = "real", "real", f'CAST("{quoted}" AS DOUBLE)'
    else:
        kind, slot, value = "bool" if pa.types.is_boolean(type_) else "int", "whole", f'CAST("{quoted}" AS BIGINT)'
    key = (ARGUMENT_PREFIX + column).replace("'", "''")
    return _ARGS.format(index=index, key=key, kind=kind, column=quoted, table=table, **(values | {slot: value}))


def _numbers(table: pa.Table) -> pa.Array:
    return pa.array(np.arange(table.num_rows, dtype=np.int64))


def _shaped(count: int, columns: Mapping[str, Any]) -> pa.Table:
    """A table of `count` rows; a column given as `int` or `text` is null throughout."""
    return pa.table(
        {
            name: pa.nulls(count, _NOTHING[values]) if isinstance(values, str) else values
            for name, values in columns.items()
        }
    )


def _slice(timeline: Timeline) -> pa.Table:
    slices = timeline.slices
    category = slices.column("category").cast(pa.string())
    return _shaped(
        slices.num_rows,
        {
            "id": slices.column("id"),
            "ts": slices.column("ts"),
            "dur": slices.column("dur"),
            "track_id": slices.column("track_id"),
            "category": category,
            "name": slices.column("name").cast(pa.string()),
            "depth": slices.column("depth"),
            "stack_id": "int",
            "parent_stack_id": "int",
            "parent_id": slices.column("parent_id"),
            "arg_set_id": slices.column("arg_set_id"),
            "thread_ts": "int",
            "thread_dur": "int",
            "thread_instruction_count": "int",
            "thread_instruction_delta": "int",
            "cat": category,
            "slice_id": slices.column("id"),
        },
    )


def _thread(timeline: Timeline) -> pa.Table:
    threads, processes = timeline.threads, timeline.processes
    pid = dict(zip(processes.column("upid").to_pylist(), processes.column("pid").to_pylist(), strict=True))
    upids, tids = threads.column("upid").to_pylist(), threads.column("tid").to_pylist()
    main = [int(pid[upid] == tid) for upid, tid in zip(upids, tids, strict=True)]
    return _shaped(
        threads.num_rows,
        {
            "utid": threads.column("utid"),
            "id": threads.column("utid"),
            "tid": threads.column("tid"),
            "name": threads.column("name"),
            "start_ts": "int",
            "end_ts": "int",
            "upid": threads.column("upid"),
            "is_main_thread": pa.array(main, pa.int64()),
            "is_idle": pa.array(np.zeros(threads.num_rows, np.int64)),
            "machine_id": "int",
        },
    )


def _process(timeline: Timeline) -> pa.Table:
    processes = timeline.processes
    return _shaped(
        processes.num_rows,
        {
            "upid": processes.column("upid"),
            "id": processes.column("upid"),
            "pid": processes.column("pid"),
            "name": processes.column("name"),
            "start_ts": "int",
            "end_ts": "int",
            "parent_upid": "int",
            "uid": "int",
            "cmdline": "text",
            "arg_set_id": "int",
            "machine_id": "int",
        },
    )


def _tracks(timeline: Timeline) -> dict[str, pa.Table]:
    tracks = timeline.tracks
    of_thread = pc.is_valid(tracks.column("utid"))
    first = pc.fill_null(pc.equal(tracks.column("lane"), 0), False)  # noqa: FBT003
    kinds = pc.if_else(
        of_thread,
        pc.if_else(first, "thread_execution", "thread_merged_track_event"),
        "process_counter_track_event",
    )
    shared = {"id": tracks.column("id"), "name": tracks.column("name"), "type": kinds, "parent_id": "int"}
    every = _shaped(tracks.num_rows, {**shared, "source_arg_set_id": "int", "machine_id": "int"})
    by_thread = every.append_column("utid", tracks.column("utid")).filter(of_thread)
    counters = _shaped(
        tracks.num_rows, {**shared, "machine_id": "int", "unit": tracks.column("unit"), "description": "text"}
    )
    return {
        "track": every,
        "thread_track": by_thread,
        "process_track": every.append_column("upid", tracks.column("upid")).slice(0, 0),
        "counter_track": counters.filter(pc.invert(of_thread)),
    }


def _counter(timeline: Timeline) -> pa.Table:
    counters = timeline.counters.take(
        pa.array(np.argsort(np.asarray(timeline.counters.column("ts").to_numpy()), kind="stable"))
    )
    return _shaped(
        counters.num_rows,
        {
            "id": _numbers(counters),
            "ts": counters.column("ts"),
            "track_id": counters.column("track_id"),
            "value": counters.column("value"),
            "arg_set_id": "int",
        },
    )
