"""What is in a compile cache, of the compiled programs the header alone: entries with their files, state, size and age.

Beside the layouts of `compile_cache`, JAX's persistent cache: `<module>-<64 hex digits>-cache` in one folder, each with
`...-atime`, whose time is that of the last use.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from npuscope.errors import FormatError
from npuscope.formats.cache_layouts import maker_of, names_of
from npuscope.formats.cache_walk import ENTRY_LIMIT, File, Found, find_entries
from npuscope.formats.compile_cache import STALE_LOCK_S, flags_of, key_of, lock_of, status_of
from npuscope.formats.neff import HEADER_BYTES, parse_header

_JAX_FILE: Final = re.compile(r"(?P<key>(?P<name>.{1,200})-[0-9a-f]{64})(?P<ending>-cache|-atime)")
_HLO_FILES: Final = ("model.hlo_module.pb.gz", "model.hlo_module.pb", "model.hlo.pb", "model.hlo.pb.gz", "graph.hlo")
UNFINISHED: Final = ("incomplete", "locked", "unreadable")
"""States in which an entry is of no use, and no failure is kept."""
_DAMAGED_SHOWN: Final = 3
_JAX_SCAN_LIMIT: Final = 2_000
"""Files of a folder of which one must be named as JAX names them."""


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One entry of a cache, as its files tell."""

    key: str
    """Its folder relative to the cache, or the name of its file without the ending."""
    layout: str
    """`neuron`, `vllm`, `jax`; `matmul` and `other` are folders that a person made, which nothing here deletes."""
    status: str
    """`complete`, `failed`, `locked`, `incomplete`, or `unreadable`: the header of its NEFF is none."""
    compiler: str
    hlo_hash: str
    flags_hash: str
    flags: tuple[str, ...] | None
    name: str
    """Of the program, where the key has it."""
    shape: str
    folder: str
    """That holds its files, relative to the cache; '' is the cache itself."""
    files: tuple[File, ...]
    """Those of the cache's own; all of its folder where no cache made it for sure."""
    foreign: tuple[str, ...]
    """Names of other files in its folder."""
    hlo: Path | None
    """The program that was compiled."""
    size_bytes: int
    """Of its own files."""
    used_s: float
    """When it was last written, or used where the cache notes it, seconds since 1970."""
    lock_s: float | None
    made_by: str
    """The cache that made it for sure: `neuron`, `vllm`, `jax`; '' in doubt, whatever its layout looks like."""

    @property
    def is_prunable(self) -> bool:
        """Whether a cache made all of it that matters, and makes it again."""
        is_mixed = any(name.endswith(".neff") for name in self.foreign)
        return bool(self.made_by) and bool(self.files) and not is_mixed

    def is_busy(self, now_s: float) -> bool:
        """Whether its lock is so fresh that something may be compiling it."""
        return self.lock_s is not None and now_s - self.lock_s < STALE_LOCK_S


@dataclass(frozen=True, slots=True)
class Listing:
    """A cache, listed."""

    root: Path
    entries: tuple[StoredEntry, ...]
    read_s: float
    notes: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Of all entries."""
        return sum(entry.size_bytes for entry in self.entries)


def list_cache(folder: Path) -> Listing:
    """List a cache; a folder in which nothing is an entry has none.

    Raises:
        FormatError: It is no readable folder.
    """
    if not folder.is_dir():
        lacking = "a file" if folder.exists() else "nothing there"
        raise FormatError(folder, expected="the folder of a compile cache", found=lacking)
    found, notes = find_entries(folder)
    root_name = Path(os.path.realpath(folder)).name
    damaged: list[str] = []
    entries = [_entry(one, root_name, notes, damaged) for one in found]
    notes += damaged[:_DAMAGED_SHOWN]
    if len(damaged) > _DAMAGED_SHOWN:
        notes.append(f"{len(damaged) - _DAMAGED_SHOWN} more entries have a NEFF that cannot be read")
    entries += _jax_entries(folder, notes)
    return Listing(
        folder, tuple(sorted(entries, key=lambda entry: entry.key)), time.time(), tuple(dict.fromkeys(notes))
    )


def is_jax_cache(folder: Path) -> bool:
    """Whether a folder holds a file that is named as JAX's persistent cache names its own, among the first ones."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry, _ in zip(entries, range(_JAX_SCAN_LIMIT), strict=False)]
    except OSError:
        return False
    return any(_JAX_FILE.fullmatch(name) for name in names)


def _entry(found: Found, root_name: str, notes: list[str], damaged: list[str]) -> StoredEntry:
    key, lock = key_of(found), lock_of(found)
    neff = next((file for file in found.files if file.name.endswith(".neff")), None)
    made_by = maker_of(root_name, found.key, [file.name for file in found.files]) if found.is_whole else ""
    names = names_of(made_by, found.key)
    own = tuple(file for file in found.files if not made_by or file.name in names)
    hlo = next((found.path / name for name in _HLO_FILES if found.file(name)), None)
    return StoredEntry(
        key=found.key,
        layout=key.layout if found.key != "." else "other",
        status=_status(found, neff, key.layout, lock, damaged),
        compiler=key.compiler,
        hlo_hash=key.hlo_hash,
        flags_hash=key.flags_hash,
        flags=flags_of(found, notes),
        name="",
        shape=key.shape,
        folder=found.key,
        files=own,
        foreign=tuple(file.name for file in found.files if made_by and file.name not in names),
        hlo=hlo
        if hlo is not None or not (found.path / "model" / "graph.hlo").is_file()
        else found.path / "model" / "graph.hlo",
        size_bytes=sum(file.size_bytes for file in own),
        used_s=max(file.modified_s for file in own or found.files),
        lock_s=lock.modified_s if lock else None,
        made_by=made_by,
    )


def _status(found: Found, neff: File | None, layout: str, lock: File | None, damaged: list[str]) -> str:
    """As `status_of`, of entries whose NEFF begins as one; what lies behind its header is not read."""
    status = status_of(found, neff, layout, lock)
    if status != "complete" or neff is None:
        return status
    try:
        with (found.path / neff.name).open("rb") as file:
            parse_header(file.read(HEADER_BYTES), size_bytes=neff.size_bytes, source=f"{found.key}/{neff.name}")
    except FormatError as error:
        damaged.append(str(error))
        return "unreadable"
    except OSError:
        return status  # gone meanwhile, or not ours to read
    return status


def _jax_entries(folder: Path, notes: list[str]) -> list[StoredEntry]:
    """Pairs of files of JAX's persistent cache; an empty program file is half-written."""
    pairs: dict[str, list[File]] = {}
    names: dict[str, str] = {}
    is_whole = True
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count >= ENTRY_LIMIT:
                notes.append(f"only the first {ENTRY_LIMIT} files are read")
                is_whole = False
                break
            told = _JAX_FILE.fullmatch(entry.name)
            try:
                if told is None or not entry.is_file(follow_symlinks=False):
                    continue
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # gone meanwhile
            pairs.setdefault(told["key"], []).append(File(entry.name, status.st_size, status.st_mtime))
            names[told["key"]] = told["name"]
    return [_jax_entry(key, names[key], files, is_whole or len(files) > 1) for key, files in pairs.items()]


def _jax_entry(key: str, name: str, files: list[File], is_whole: bool) -> StoredEntry:
    program = next((file for file in files if file.name.endswith("-cache")), None)
    return StoredEntry(
        key=key,
        layout="jax",
        status="complete" if program is not None and program.size_bytes else "incomplete",
        compiler="",
        hlo_hash="",
        flags_hash="",
        flags=None,
        name=name,
        shape="",
        folder="",
        files=tuple(files),
        foreign=(),
        hlo=None,
        size_bytes=sum(file.size_bytes for file in files),
        used_s=max(file.modified_s for file in files),
        lock_s=None,
        made_by="jax" if program is not None and is_whole else "",
    )
