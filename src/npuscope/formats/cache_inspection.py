"""What `npuscope inspect` says of a compile cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from npuscope.formats.cache_compare import SizeGroup, size_groups
from npuscope.formats.compile_cache import CacheEntry, CompileCache, entry_order, findings, read_cache
from npuscope.formats.inspection import Inspection

_SHOWN_ROWS = 200
_SHOWN_NOTES = 40
_SHOWN_HASH = 12


def inspect_cache(folder: Path | str) -> Inspection:
    """List the entries of a cache, say which NEFFs are equal, and why NEFFs of one size are or are not.

    Raises:
        FormatError: See `read_cache`.
    """
    cache = read_cache(folder)
    groups = size_groups(cache.entries)
    states = Counter(entry.status for entry in cache.entries)
    shown = ", ".join(f"{count} {status}" for status, count in states.most_common())
    rows = [_entry_row(entry, cache.read_s) for entry in sorted(cache.entries, key=entry_order)]
    tables = {
        "entries": rows[:_SHOWN_ROWS],
        "equal sizes": [_group_row(group) for group in groups],
        "what differs": [row for group in groups for row in _difference_rows(group)][:_SHOWN_ROWS],
    }
    notes = [*findings(cache), *cache.notes]
    if len(rows) > _SHOWN_ROWS:
        notes.insert(0, f"{len(rows) - _SHOWN_ROWS} more entries are not shown")
    if len(notes) > _SHOWN_NOTES:
        notes = [*notes[:_SHOWN_NOTES], f"{len(notes) - _SHOWN_NOTES} more notes are not shown"]
    kept = {name: table for name, table in tables.items() if table}
    title = f"compile cache of {len(cache.entries)} entries: {shown}"
    return Inspection("compile-cache", cache.source, title, _facts(cache, groups), kept, tuple(notes))


def _facts(cache: CompileCache, groups: list[SizeGroup]) -> Mapping[str, Any]:
    read = [entry for entry in cache.entries if entry.digest is not None]
    facts: dict[str, Any] = {
        "entries": len(cache.entries),
        "layouts": ", ".join(sorted({entry.layout for entry in cache.entries})),
        "compilers": ", ".join(sorted({entry.compiler for entry in cache.entries if entry.compiler})),
        "neff_files": sum(entry.neff is not None for entry in cache.entries),
        "neff_bytes": sum(entry.size_bytes for entry in cache.entries),
        "distinct_payloads": len({entry.digest.payload_sha256 for entry in read if entry.digest}),
        "distinct_sizes": len({entry.size_bytes for entry in read}),
        "equal_size_groups": len(groups),
    }
    return {key: value for key, value in facts.items() if value != ""}


def _entry_row(entry: CacheEntry, read_s: float) -> dict[str, Any]:
    return {
        "key": entry.key,
        "status": entry.status,
        "shape": entry.shape,
        "dtype": entry.dtype,
        "size_bytes": entry.size_bytes,
        "sha256": entry.sha256[:_SHOWN_HASH],
        "payload_sha256": entry.digest.payload_sha256[:_SHOWN_HASH] if entry.digest else "",
        "flags": "?" if entry.flags is None else " ".join(entry.flags),
        "age_h": round(max(0.0, read_s - entry.modified_s) / 3600, 1),
    }


def _group_row(group: SizeGroup) -> dict[str, Any]:
    return {
        "size_bytes": group.size_bytes,
        "neffs": len(group.keys),
        "distinct_payloads": group.payloads,
        "verdict": group.verdict,
        "differs_in": group.differs_in,
    }


def _difference_rows(group: SizeGroup) -> list[dict[str, Any]]:
    return [
        {
            "size_bytes": one.size_bytes,
            "first": one.first,
            "other": one.other,
            "what": one.what,
            "in_first": one.in_first,
            "in_other": one.in_other,
        }
        for one in group.differences
    ]
