"""What a cache folder tells of recompilation: the same program under several keys, failures, what is half-written."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from npuscope.analysis.hlo_diff import diff_modules, structure_of
from npuscope.analysis.recompile import Finding, counted_words, summed
from npuscope.errors import FormatError
from npuscope.formats.cache_listing import UNFINISHED, Listing, StoredEntry
from npuscope.formats.hlo import HloModule
from npuscope.formats.hlo_reader import read_hlo

PROGRAMS_LIMIT: Final = 400
"""Programs that are read and compared, the last used first."""
BYTES_LIMIT: Final = 32 << 20
"""Of one of them; a larger one takes long to read."""
ALL_BYTES_LIMIT: Final = 512 << 20
"""Of all of them."""
_LEVELS: Final = (
    ("names", "unstable-names"),
    ("constants", "constant-embedded"),
    ("shapes", "shape-change"),
    ("types", "dtype-change"),
    ("shapes and types", "shape-change"),
)
"""What two programs differ in alone, from the least, and the cause that it stands for."""
_MANY_KEYS: Final = 3
"""Programs of one name in JAX's cache, from which on it is worth a word."""
Item = tuple[str, str, str, float | None]
"""Cause, evidence, program and cost."""


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What was found in a folder."""

    findings: tuple[Finding, ...]
    programs: int
    """Entries whose programs were compared."""
    complete: int
    """Entries that are complete, the only ones that are compared."""
    names: frozenset[str]
    """Of these, as a log calls them."""
    notes: tuple[str, ...]


def examine_cache(
    listing: Listing, costs_ms: Mapping[str, float] | None = None, compiled: Collection[str] | None = None
) -> CacheReport:
    """Compare the entries of a cache with each other.

    Args:
        listing: From `list_cache`.
        costs_ms: What compiling took by `MODULE_<hlo>+<flags>`, where a log of the same runs tells.
        compiled: Only these are compared, those that a log says were compiled: by the same names, with `<compiler>/` before
            them where the log names it. None compares all.
    """
    costs = costs_ms or {}
    complete = [entry for entry in listing.entries if entry.status == "complete"]
    compared = [entry for entry in complete if compiled is None or _names(entry) & set(compiled)]

    def cost(entry: StoredEntry) -> float | None:
        return costs.get(entry.key.rpartition("/")[2])

    again, besides = _same_hashes(compared, cost)
    modules, notes = _programs(compared)
    again += _same_structure(modules, cost)
    told = {item[0] for item in again}
    others = len(listing.entries) - len(complete)
    if others:
        notes.insert(
            0,
            f"{counted_words(others, 'entry')} that {'is' if others == 1 else 'are'} not complete: not compared with others",
        )
    findings = [
        *summed(again, is_recompile=True),
        *summed([item for item in besides if item[0] not in told], is_recompile=False),
        *_states(listing),
        *_jax_names(listing.entries),
        *_not_writable(listing),
    ]
    return CacheReport(
        tuple(findings),
        len(modules),
        len(complete),
        frozenset(name for entry, _ in modules for name in _names(entry)),
        (*listing.notes, *notes),
    )


def _same_hashes(
    entries: Sequence[StoredEntry], cost: Callable[[StoredEntry], float | None]
) -> tuple[list[Item], list[Item]]:
    """One graph, by its own hash, under several compilers or sets of flags; beside them flags that differ, too.

    An entry is compared with the nearest of those that were there before it: one of the same compiler, else of the same flags.
    """
    items: list[Item] = []
    besides: list[Item] = []
    groups: dict[str, list[StoredEntry]] = {}
    for entry in sorted(entries, key=lambda one: one.used_s):
        if entry.hlo_hash:
            groups.setdefault(entry.hlo_hash, []).append(entry)
    for graph, group in groups.items():
        for at, entry in enumerate(group[1:], 1):
            before = max(
                reversed(group[:at]),
                key=lambda one: (one.compiler == entry.compiler, one.flags_hash == entry.flags_hash),
            )
            flags = "" if before.flags_hash == entry.flags_hash else _flags_text(before, entry)
            if before.compiler == entry.compiler:
                if flags:
                    items.append(("flags-differ", f"graph {graph}: {flags}", graph, cost(entry)))
                continue
            versions = f"graph {graph}: {before.compiler or 'unknown'} and {entry.compiler or 'unknown'}"
            text = versions + (f", and their flags differ: {flags}" if flags else "")
            items.append(("compiler-version-differs", text, graph, cost(entry)))
            if flags:
                besides.append(("flags-differ", f"{versions}, and also {flags}", graph, None))
    return items, besides


def _flags_text(first: StoredEntry, entry: StoredEntry) -> str:
    if first.flags is None or entry.flags is None or first.flags == entry.flags:
        return f"keys +{first.flags_hash} and +{entry.flags_hash}"
    only = [
        [flag for flag in one.flags or () if flag not in (other.flags or ())]
        for one, other in ((first, entry), (entry, first))
    ]
    return " against ".join(" ".join(flags[:4]) or "without" for flags in only)


def _programs(entries: Sequence[StoredEntry]) -> tuple[list[tuple[StoredEntry, HloModule]], list[str]]:
    """Programs of the entries, oldest first."""
    named = sorted((entry for entry in entries if entry.hlo is not None), key=lambda entry: -entry.used_s)
    notes: list[str] = []
    found: list[tuple[StoredEntry, HloModule]] = []
    damaged = skipped = size_bytes = 0
    for entry in named:
        path = entry.hlo
        if path is None:
            continue
        try:
            size = path.stat().st_size
            if len(found) >= PROGRAMS_LIMIT or size > BYTES_LIMIT or size_bytes + size > ALL_BYTES_LIMIT:
                skipped += 1
                continue
            size_bytes += size
            found.append((entry, read_hlo(path)))
        except FormatError as error:
            damaged += 1
            if damaged == 1:
                notes.append(f"not compared: {error}")
        except OSError:
            continue  # gone meanwhile
    if damaged > 1:
        notes.append(f"{damaged} programs cannot be read, and are not compared")
    if skipped:
        notes.append(f"{skipped} of {len(named)} programs are too large or too many, and are not compared")
    return found[::-1], notes


def _same_structure(
    modules: Sequence[tuple[StoredEntry, HloModule]], cost: Callable[[StoredEntry], float | None]
) -> list[Item]:
    """Programs that differ in one thing alone, within one compiler and one set of flags: the least one is the cause."""
    items: list[Item] = []
    graphs: dict[tuple[str, str, str], tuple[StoredEntry, HloModule]] = {}
    for entry, module in modules:  # other flags and compilers of one graph are told by their hashes
        graphs.setdefault((entry.compiler, entry.flags_hash, entry.hlo_hash or entry.key), (entry, module))
    left = list(graphs.values())
    for level, cause in _LEVELS:
        groups: dict[tuple[str, str, bytes], list[tuple[StoredEntry, HloModule]]] = {}
        for entry, module in left:
            groups.setdefault((entry.compiler, entry.flags_hash, structure_of(module, level)), []).append(
                (entry, module)
            )
        left = [group[0] for group in groups.values()]
        for group in groups.values():
            first, before = group[0]
            for entry, module in group[1:]:
                told = diff_modules(before, module).told()
                text = f"{_short(first)} and {_short(entry)}: {told}"
                items.append((cause, text, module.name, cost(entry)))
    return items


def _short(entry: StoredEntry) -> str:
    return entry.key.rpartition("/")[2]


def _names(entry: StoredEntry) -> set[str]:
    """As a log may call it."""
    return {_short(entry), f"{entry.compiler}/{_short(entry)}"}


def _states(listing: Listing) -> list[Finding]:
    """Failed, half-written and damaged entries."""
    failed = [entry for entry in listing.entries if entry.status == "failed"]
    half = [entry for entry in listing.entries if entry.status in UNFINISHED and not entry.is_busy(listing.read_s)]
    findings = []
    for cause, entries in (("failed-compile-cached", failed), ("entry-incomplete", half)):
        if entries:
            shown = ", ".join(entry.key for entry in entries[:3]) + (
                f" and {len(entries) - 3} more" if len(entries) > 3 else ""
            )
            findings.append(Finding(cause, len(entries), None, (shown,)))
    return findings


def _jax_names(entries: Sequence[StoredEntry]) -> list[Finding]:
    """Names with many programs in JAX's cache, which keeps no program that could be compared."""
    names: dict[str, int] = {}
    for entry in entries:
        if entry.layout == "jax":
            names[entry.name] = names.get(entry.name, 0) + 1
    many = sorted((name for name, count in names.items() if count >= _MANY_KEYS), key=lambda name: -names[name])
    if not many:
        return []
    text = ", ".join(f"{name} has {names[name]} programs" for name in many[:4])
    count = sum(names[name] - 1 for name in many)
    advice = f"{text}: JAX keeps what was compiled, not from what; run the doctor on the script for the reason"
    return [Finding("unexplained", count, None, (advice,), tuple(many[:6]))]


def _not_writable(listing: Listing) -> list[Finding]:
    if os.access(listing.root, os.W_OK | os.X_OK):
        return []
    return [Finding("cache-not-writable", len(listing.entries), None, (f"{listing.root} may not be written to",))]
