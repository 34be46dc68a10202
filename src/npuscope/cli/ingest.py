"""`npuscope ingest`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from npuscope.cli.output import JsonFlag, print_json, progress, remark, say
from npuscope.errors import NpuscopeError, UsageError


def ingest(
    paths: Annotated[
        list[Path], typer.Argument(help="Captures, profiles, traces, compiled graphs, or folders of them.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write: Parquet tables.")],
    force: Annotated[bool, typer.Option(help="Replace a Profile that the folder holds already.")] = False,
    json: JsonFlag = False,
) -> None:
    """Turn any artifact into a Profile: a folder of Parquet tables in the vendor's schema.

    Captures are paired with the compiled graphs among PATHS by their UUID. One artifact is written into the folder
    itself, several into one folder each below it.
    """
    from npuscope.formats.ingest import plan_ingest
    from npuscope.profile.folder import write_profile

    plan = plan_ingest(paths)
    if not plan:
        raise UsageError("none of these paths holds a profile; npuscope inspect shows what they are")
    written: list[dict[str, Any]] = []
    failures: list[NpuscopeError] = []
    with progress() as show:
        for name, item in _named(plan):
            folder = out / name if len(plan) > 1 else out
            show(f"reading {item.path}")
            try:
                profile = item.read()
                write_profile(profile, folder, overwrite=force)
            except NpuscopeError as error:
                if len(plan) == 1:
                    raise
                failures.append(error)
                continue
            tables = {table: rows.num_rows for table, rows in sorted(profile.tables.items())}
            written.append(
                {"source": str(item.path), "folder": str(folder), "tables": tables, "notes": list(profile.notes)}
            )
    _tell(written, as_json=json)
    if failures:
        for failure in failures[1:]:
            remark(f"npuscope: {failure}")
        raise failures[0]


def _named(plan: list[Any]) -> Iterator[tuple[str, Any]]:
    """A folder name for each artifact: its stem, and a number where two share one."""
    taken: set[str] = set()
    for item in plan:
        stem = item.path.name.partition(".")[0] or "profile"
        name, count = stem, 1
        while name in taken:
            count += 1
            name = f"{stem}-{count}"
        taken.add(name)
        yield name, item


def _tell(written: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json({"profiles": written})
        return
    for item in written:
        rows = ", ".join(f"{name} {count:,}" for name, count in item["tables"].items())
        say(f"{item['source']} -> {item['folder']}")
        say(f"  rows: {rows}")
        for note in item["notes"]:
            say(f"  note: {note}")
    if written:
        say(f"next: npuscope analyze {written[0]['folder']}")
