"""`npuscope export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from npuscope.cli.output import JsonFlag, print_json, remark, say
from npuscope.errors import UsageError


def export(
    path: Annotated[Path, typer.Argument(help="Any artifact that holds a profile: NTFF, JSON, Parquet, trace.")],
    perfetto: Annotated[Path | None, typer.Option(help="Write a Perfetto trace, for ui.perfetto.dev.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write every table as Parquet into this folder.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write every table as CSV into this folder.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    json: JsonFlag = False,
) -> None:
    """Write a profile in another format: a Perfetto trace, Parquet or CSV tables."""
    from npuscope._files import refuse_overwriting
    from npuscope.formats.artifact import read_profile
    from npuscope.formats.perfetto_writer import write_perfetto
    from npuscope.formats.profile_csv import write_profile_csv
    from npuscope.profile.folder import write_profile
    from npuscope.report.notes import telling

    if perfetto is None and parquet is None and csv is None:
        raise UsageError("nothing to write; give --perfetto FILE, --parquet DIR or --csv DIR")
    if perfetto is not None:
        refuse_overwriting(perfetto, force=force)
    profile = read_profile(path)
    document: dict[str, Any] = {"source": profile.source, "device": profile.device}
    document["is_simulated"] = profile.is_simulation
    notes = list(profile.notes)
    if perfetto is not None:
        written = write_perfetto(profile, perfetto)
        notes += written.notes
        document["perfetto"] = {
            "path": perfetto,
            "size_bytes": written.size_bytes,
            "slices": written.slices,
            "counter_samples": written.counters,
            "flows": written.flows,
            "tracks": written.tracks,
        }
    if parquet is not None:
        document["parquet"] = {"files": write_profile(profile, parquet, overwrite=force)}
    if csv is not None:
        document["csv"] = {"files": write_profile_csv(profile, csv, overwrite=force)}
    document["notes"] = notes
    if json:
        print_json(document)
        return
    for note in telling(notes):
        remark(f"note: {note}")
    if perfetto is not None:
        counts = ", ".join(f"{document['perfetto'][key]:,} {key.replace('_', ' ')}" for key in ("slices", "counter_samples", "flows", "tracks"))  # fmt: skip
        say(f"{perfetto}: {counts}, {document['perfetto']['size_bytes']:,} bytes; open it at https://ui.perfetto.dev")
    for name in ("parquet", "csv"):
        if name in document:
            say(f"{parquet if name == 'parquet' else csv}: {len(document[name]['files'])} tables")
