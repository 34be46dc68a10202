"""`npuscope cache ls`, `du` and `prune`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from npuscope.cli.output import JsonFlag, console, note, print_json, remark, say
from npuscope.errors import FormatError, UsageError

if TYPE_CHECKING:
    from npuscope.analysis.cache_selection import Selection, Wanted
    from npuscope.formats.cache_listing import Listing, StoredEntry

_SHAPES_READ = 200
"""Entries whose program is read for its shapes."""
_SHAPE_BYTES = 8 << 20
FolderArgument = Annotated[
    str | None,
    typer.Argument(
        help="A Neuron, vLLM or JAX cache; default: --cache_dir of NEURON_CC_FLAGS, NEURON_COMPILE_CACHE_URL, "
        "JAX_COMPILATION_CACHE_DIR, /var/tmp/neuron-compile-cache, the first that is set.",
        show_default=False,
    ),
]


def ls(folder: FolderArgument = None, json: JsonFlag = False) -> None:
    """The entries of a compile cache: key, state, compiler, shapes, size, age; the last used first."""
    from npuscope.report.recompile_tables import listing_table

    listing = _listed(folder)
    entries = sorted(listing.entries, key=lambda entry: -entry.used_s)
    shapes = {entry.key: _shape(entry) for entry in entries[:_SHAPES_READ]}
    if json:
        rows = [_entry_document(entry, listing, shapes.get(entry.key, entry.shape)) for entry in entries]
        print_json({"folder": listing.root, "size_bytes": listing.size_bytes, "entries": rows, "notes": listing.notes})
        return
    console().print(listing_table(listing, entries, shapes))
    _tell_notes(listing)


def du(folder: FolderArgument = None, json: JsonFlag = False) -> None:
    """How much a compile cache takes, by compiler and state."""
    from npuscope.report.recompile_tables import usage_table

    listing = _listed(folder)
    if json:
        groups: dict[tuple[str, str, str], list[StoredEntry]] = {}
        for entry in listing.entries:
            groups.setdefault((entry.compiler, entry.layout, entry.status), []).append(entry)
        rows = [
            {
                "compiler": compiler,
                "layout": layout,
                "status": status,
                "entries": len(group),
                "size_bytes": sum(entry.size_bytes for entry in group),
            }
            for (compiler, layout, status), group in sorted(groups.items())
        ]
        total = {"entries": len(listing.entries), "size_bytes": listing.size_bytes}
        print_json({"folder": listing.root, **total, "groups": rows, "notes": listing.notes})
        return
    console().print(usage_table(listing))
    _tell_notes(listing)


def prune(
    folder: FolderArgument = None,
    failed: Annotated[bool, typer.Option("--failed", help="Entries whose compilation failed.")] = False,
    incomplete: Annotated[
        bool,
        typer.Option(
            "--incomplete",
            help="Half-written entries, locked ones that never finished, those whose NEFF cannot be read.",
        ),
    ] = False,
    older_than: Annotated[
        str | None,
        typer.Option(
            help="Not used for so long: 30d, 12h, 90m; narrows what the options above and the compilers name, alone it names all such."
        ),
    ] = None,
    compiler: Annotated[
        str, typer.Option(help="Entries of one version of the compiler; OTHER-THAN-NEWEST: of all but the newest.")
    ] = "",
    keep_compiler: Annotated[str, typer.Option(help="Entries of all versions but this one.")] = "",
    max_size: Annotated[
        str | None,
        typer.Option(help="What the entries of caches may keep after that: 10G, 500M; the longest unused go first."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete; without it, what would be deleted is only shown.")
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Show which entries of a compile cache can go, and delete them with --yes. Only files that a cache itself wrote are deleted.

    --failed, --incomplete, --compiler and --keep-compiler name entries that are any of these. --older-than narrows them where one
    of those is given, and names entries by their age alone where none is. --max-size comes last, for what is left.
    """
    from npuscope.analysis.cache_selection import select
    from npuscope.formats.cache_deletion import check_root, delete_entries, resolve_root

    wanted = _wanted(failed, incomplete, older_than, compiler, keep_compiler, max_size)
    place, named_by = _place(folder)
    if not place.exists():
        raise _nothing_there(place, named_by)
    root = check_root(place) if yes else resolve_root(place)
    listing = _list(root, named_by)
    selection = select(listing, wanted)
    if not json:
        _show_selection(listing, selection, is_deleted=yes)
    deleted = list(delete_entries(root, [one.entry for one in selection.chosen])) if yes else []
    failures = [one for one in deleted if one.error]
    if json:
        print_json(_prune_document(listing, selection, deleted, is_deleted=yes))
    elif yes:
        _show_deleted(deleted)
    return int(bool(failures))


def _wanted(
    failed: bool, incomplete: bool, older_than: str | None, compiler: str, keep_compiler: str, max_size: str | None
) -> Wanted:
    """The options as what is to go.

    Raises:
        UsageError: Nothing is asked for, or something that cannot be read.
    """
    from npuscope.analysis.cache_selection import Wanted, parse_age, parse_size

    age_s = None if older_than is None else parse_age(older_than)
    size = None if max_size is None else parse_size(max_size)
    wanted = Wanted(failed, incomplete, age_s, compiler, keep_compiler, size)
    if wanted.is_empty:
        raise UsageError(
            "say which entries: --failed, --incomplete, --older-than, --compiler, --keep-compiler or --max-size"
        )
    if compiler and keep_compiler:
        raise UsageError("--compiler and --keep-compiler exclude each other")
    return wanted


def _place(folder: str | None) -> tuple[Path, str]:
    from npuscope.formats.cache_places import default_cache, local_folder

    if folder is not None:
        return local_folder(folder, "FOLDER"), ""
    place = default_cache(os.environ)
    return place.folder, place.named_by


def _nothing_there(place: Path, named_by: str) -> FormatError:
    source = f"{place} ({named_by})" if named_by else str(place)
    return FormatError(
        source, expected="the folder of a compile cache", found="nothing there", remedy="name the folder"
    )


def _listed(folder: str | None) -> Listing:
    place, named_by = _place(folder)
    if not place.exists():
        raise _nothing_there(place, named_by)
    return _list(place, named_by)


def _list(place: Path, named_by: str) -> Listing:
    """List a cache; an empty folder is an empty cache, one with other things is none.

    Raises:
        FormatError: It is no cache.
    """
    from npuscope.formats.cache_listing import list_cache

    if named_by:
        remark(f"cache: {place} ({named_by})")
    listing = list_cache(place)
    if not listing.entries and any(place.iterdir()):
        raise FormatError(place, expected="a compile cache", found="no entry of a Neuron, vLLM or JAX cache in it")
    return listing


def _shape(entry: StoredEntry) -> str:
    """The program's name in JAX's cache; the shapes of its parameters and results where its HLO is there."""
    from npuscope.formats.hlo_reader import read_hlo

    if entry.name or entry.shape or entry.hlo is None:
        return entry.name or entry.shape
    try:
        if entry.hlo.stat().st_size > _SHAPE_BYTES:
            return ""
        main = read_hlo(entry.hlo).entry_computation
    except (FormatError, OSError):
        return ""
    shapes = [str(main.ops[place].shape) for place in main.parameters]
    shown = ", ".join(shapes[:3]) + (f", {len(shapes) - 3} more" if len(shapes) > 3 else "")
    return f"{shown} -> {main.ops[main.root].shape}"


def _entry_document(entry: StoredEntry, listing: Listing, shape: str) -> dict[str, Any]:
    return {
        "key": entry.key,
        "status": entry.status,
        "layout": entry.layout,
        "compiler": entry.compiler,
        "hlo_hash": entry.hlo_hash,
        "flags_hash": entry.flags_hash,
        "flags": entry.flags,
        "shape": shape,
        "size_bytes": entry.size_bytes,
        "age_s": max(0.0, listing.read_s - entry.used_s),
        "lock_age_s": None if entry.lock_s is None else max(0.0, listing.read_s - entry.lock_s),
        "is_prunable": entry.is_prunable,
        "files": [file.name for file in entry.files],
        "foreign_files": entry.foreign,
    }


def _tell_notes(listing: Listing) -> None:
    from npuscope.analysis.recompile import counted_words

    if not listing.entries:
        note("the folder is empty")
    by_hand = sum(not entry.is_prunable for entry in listing.entries)
    if by_hand:
        others = counted_words(by_hand, "entry")
        note(f"{others} not for sure a cache's alone: npuscope cache prune leaves such alone")
    for text in listing.notes:
        note(text)


def _show_selection(listing: Listing, selection: Selection, *, is_deleted: bool) -> None:
    from npuscope.analysis.recompile import counted_words
    from npuscope.formats.cache_deletion import holds_current_folder
    from npuscope.report.recompile_tables import selection_table
    from npuscope.units import format_bytes

    if selection.chosen:
        console().print(selection_table(selection, listing.read_s))
        say("")
    total = (
        f"{len(selection.chosen):,} of {selection.prunable:,} entries, "
        f"{format_bytes(selection.size_bytes)} of {format_bytes(selection.prunable_bytes)}"
    )
    say(f"{'to delete' if is_deleted else 'would be deleted'} in {listing.root}: {total}")
    for one in selection.kept:
        say(f"stays: {one.entry.key}: {one.reason}")
    if selection.others:
        others = f"{counted_words(selection.others, 'entry')}, {format_bytes(selection.other_bytes)}"
        say(f"stays in any case: {others}, not for sure a cache's alone")
    if selection.chosen and not is_deleted:
        elsewhere = "from a folder outside of it " if holds_current_folder(listing.root) else ""
        say(f"nothing is deleted yet: {elsewhere}add --yes")


def _show_deleted(deleted: list[Any]) -> None:
    from npuscope.analysis.recompile import counted_words
    from npuscope.units import format_bytes

    gone = [one for one in deleted if not one.error]
    say(f"deleted: {counted_words(len(gone), 'entry')}, {format_bytes(sum(one.freed_bytes for one in deleted))}")
    for one in deleted:
        if one.error:
            remark(f"npuscope: {one.key} cannot be deleted: {one.error}")
        elif one.note:
            note(f"{one.key}: {one.note}")


def _prune_document(listing: Listing, selection: Selection, deleted: list[Any], *, is_deleted: bool) -> dict[str, Any]:
    return {
        "folder": listing.root,
        "is_deleted": is_deleted,
        "entries": [
            {"key": one.entry.key, "status": one.entry.status, "size_bytes": one.entry.size_bytes, "reason": one.reason}
            for one in selection.chosen
        ],
        "size_bytes": selection.size_bytes,
        "others": {"entries": selection.others, "size_bytes": selection.other_bytes},
        "kept": [{"key": one.entry.key, "reason": one.reason} for one in selection.kept],
        "freed_bytes": sum(one.freed_bytes for one in deleted),
        "failures": [{"key": one.key, "error": one.error} for one in deleted if one.error],
        "notes": [*listing.notes, *(f"{one.key}: {one.note}" for one in deleted if one.note)],
    }
