"""Compile caches: which graphs are compiled, under which keys, and which of them are the same.

Layouts: `neuron-compile-cache` (`neuronxcc-<version>/MODULE_<hlo>+<flags>/`), vLLM's (`<md5>/`), folders named
`matmul_MxKxN[_dtype]`, and any tree with NEFF files. Names and log lines are as the AWS Neuron documentation and public
issues show them; the marks of a failed entry are inferred from them.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from npuscope.errors import FormatError
from npuscope.formats.cache_walk import File, Found, find_entries
from npuscope.formats.compiler_workdir import split_command
from npuscope.formats.file_hash import file_sha256
from npuscope.formats.limited_json import as_list, as_text, parse_limited_json
from npuscope.formats.neff import Neff, read_neff
from npuscope.units import printable

EMPTY_FLAGS: Final = hashlib.md5(b"", usedforsecurity=False).hexdigest()[:8]
"""`d41d8cd9`: the key of an entry that was compiled without flags."""
STALE_LOCK_S: Final = 3600
READ_LIMIT: Final = 2_000
"""NEFF files that are read whole; of more, only the size is known."""
BYTES_LIMIT: Final = 20 << 30
_MODULE = re.compile(r"MODULE_(?P<hlo>[0-9A-Za-z]{1,64})(?:\+(?P<flags>[0-9a-f]{1,64}))?")
_MATMUL = re.compile(r"(?:neuron_)?matmul_(?P<shape>\d{1,9}x\d{1,9}x\d{1,9})(?:_(?P<dtype>[a-z]+\d+\w{0,8}))?")
_COMPILER = re.compile(r"(?:USER_)?(?P<version>neuron(?:x)?cc-[^/]{1,80})")
_MD5_NAME = re.compile(r"[0-9a-f]{32}")
_FLAGS_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class NeffDigest:
    """What of a NEFF tells it from another."""

    uuid: str
    network_name: str
    payload_bytes: int
    padding_bytes: int
    payload_sha256: str
    members: Mapping[str, tuple[int, str]]
    """File in the archive to its size and SHA-256."""
    instructions: Mapping[str, int]
    """`<sub-graph>/<engine>` to instructions."""
    tensors: Mapping[str, tuple[str, int]]
    """Input or output to its shape (`?` where it is unknown) and bytes."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One compilation of the cache."""

    key: str
    """The folder, relative to the cache; with the file where a folder holds several NEFFs."""
    layout: str
    """`neuron`, `vllm`, `matmul` or `other`."""
    compiler: str
    hlo_hash: str
    flags_hash: str
    shape: str
    """`128x128x512`, or the shapes of inputs and outputs; '' where neither is known."""
    dtype: str
    flags: tuple[str, ...] | None
    """From `compile_flags.json`; None where it is missing."""
    status: str
    """`complete`, `failed`, `locked`, `incomplete`, or `unreadable`: its NEFF is damaged."""
    neff: Path | None
    size_bytes: int
    """Of the NEFF; 0 where there is none."""
    sha256: str
    """Of the NEFF; '' where it was not read."""
    digest: NeffDigest | None
    modified_s: float
    """Newest file, seconds since 1970."""
    lock_s: float | None
    """When its lock was made; None where there is none."""


@dataclass(frozen=True, slots=True)
class CompileCache:
    """A cache, listed."""

    source: str
    entries: tuple[CacheEntry, ...]
    read_s: float
    """When it was listed, seconds since 1970."""
    notes: tuple[str, ...]


def read_cache(folder: Path | str) -> CompileCache:
    """List a cache, and read its NEFFs.

    Raises:
        FormatError: It is no readable folder, or holds no entry.
    """
    source, root = str(folder), Path(folder)
    found, notes = find_entries(root)
    if not found:
        raise FormatError(source, expected="a compile cache", found="no NEFF file and no mark of a compilation")
    entries: list[CacheEntry] = []
    budget = _Budget()
    for one in found:
        neffs = [file for file in one.files if file.name.endswith(".neff")]
        for neff in neffs if len(neffs) > 1 else [neffs[0] if neffs else None]:
            entries.append(_entry(one, neff, len(neffs) > 1, budget, notes))
    if budget.skipped:
        notes.append(f"{budget.skipped} NEFF file(s) beyond {READ_LIMIT} files or {BYTES_LIMIT} bytes are not read")
    return CompileCache(source, tuple(entries), time.time(), tuple(notes))


def looks_like_cache(folder: Path) -> bool:
    """Whether a folder tree holds a NEFF or the mark of a compilation among its first 5,000 files and folders."""
    try:
        return bool(find_entries(folder, 5_000)[0])
    except FormatError:
        return False


@dataclass(slots=True)
class _Budget:
    """What is still read."""

    files: int = READ_LIMIT
    size_bytes: int = BYTES_LIMIT
    skipped: int = 0

    def allows(self, size: int) -> bool:
        """Take a file from the budget, or count it as skipped."""
        if self.files <= 0 or size > self.size_bytes:
            self.skipped += 1
            return False
        self.files -= 1
        self.size_bytes -= size
        return True


def _entry(found: Found, neff: File | None, named: bool, budget: _Budget, notes: list[str]) -> CacheEntry:
    known = key_of(found)
    path = found.path / neff.name if neff else None
    digest, sha256, damaged = None, "", False
    if path is not None and neff is not None and neff.size_bytes and budget.allows(neff.size_bytes):
        try:
            digest, sha256 = _digest(read_neff(path)), file_sha256(path)
        except (FormatError, OSError) as error:
            notes.append(str(error))
            damaged = True
    lock = lock_of(found)
    return CacheEntry(
        key=f"{found.key}/{neff.name}" if named and neff else found.key,
        layout=known.layout,
        compiler=known.compiler,
        hlo_hash=known.hlo_hash,
        flags_hash=known.flags_hash,
        shape=known.shape or _shapes(digest),
        dtype=known.dtype,
        flags=flags_of(found, notes),
        status="unreadable" if damaged else status_of(found, neff, known.layout, lock),
        neff=path,
        size_bytes=neff.size_bytes if neff else 0,
        sha256=sha256,
        digest=digest,
        modified_s=max(file.modified_s for file in found.files),
        lock_s=lock.modified_s if lock else None,
    )


@dataclass(frozen=True, slots=True)
class Key:
    """What the path of an entry tells."""

    layout: str
    compiler: str
    hlo_hash: str
    flags_hash: str
    shape: str
    """`128x128x512` where the folder is named so; else ''."""
    dtype: str


def key_of(found: Found) -> Key:
    """Layout, compiler and hashes of an entry, from its path."""
    module, matmul = _MODULE.search(found.key), _MATMUL.fullmatch(found.path.name)
    is_vllm = _MD5_NAME.fullmatch(found.path.name)
    compiler = _COMPILER.search(found.key)
    return Key(
        layout="neuron" if module else "matmul" if matmul else "vllm" if is_vllm else "other",
        compiler=compiler["version"] if compiler else "",
        hlo_hash=module["hlo"] if module else "",
        flags_hash=(module["flags"] or "") if module else "",
        shape=matmul["shape"] if matmul else "",
        dtype=(matmul["dtype"] or "") if matmul else "",
    )


def lock_of(found: Found) -> File | None:
    """The lock of an entry."""
    return next((file for file in found.files if file.name == "lock" or file.name.endswith(".lock")), None)


def status_of(found: Found, neff: File | None, layout: str, lock: File | None) -> str:
    """Complete with a NEFF and, where the layout has one, its mark; failed with a log and no NEFF."""
    mark = {"neuron": "model.done", "vllm": ".compilation_complete"}.get(layout)
    has_neff = neff is not None and neff.size_bytes > 0
    if has_neff and (mark is None or found.file(mark)):
        return "complete"
    if found.file("model.log") and not has_neff:
        return "failed"
    return "locked" if lock else "incomplete"


def _digest(neff: Neff) -> NeffDigest:
    tensors = [tensor for tensor in neff.contents.tensors if tensor.type in ("IN", "OUT")]
    return NeffDigest(
        neff.header.uuid.hex(),
        neff.header.network_name,
        neff.header.data_bytes,
        neff.archive.padding_bytes,
        neff.archive.digests["sha256"],
        {member.name: (member.size_bytes, member.sha256) for member in neff.archive.members},
        {f"{image.subgraph}/{image.engine}": image.instructions for image in neff.contents.images},
        {t.name: ("x".join(map(str, t.shape)) if t.shape is not None else "?", t.size_bytes) for t in tensors},
    )


def _shapes(digest: NeffDigest | None) -> str:
    """The shapes of the first inputs and outputs; '' where the NEFF does not tell any."""
    shapes = [f"{name} {shape}" for name, (shape, _) in (digest.tensors if digest else {}).items() if shape != "?"]
    return ", ".join(shapes[:4]) + (", ..." if len(shapes) > 4 else "")


def flags_of(found: Found, notes: list[str]) -> tuple[str, ...] | None:
    """The list of `compile_flags.json`, or the options of `command.txt`; a text in JSON is one flag."""
    file = found.file("compile_flags.json") or found.file("command.txt")
    if file is None or file.size_bytes > _FLAGS_BYTES:
        return None
    try:
        data = (found.path / file.name).read_bytes()[:_FLAGS_BYTES]
        if file.name == "command.txt":
            command = split_command(data.decode("utf-8", "replace"))
            return command[next((at for at, part in enumerate(command) if part.startswith("-")), len(command)) :][:200]
        value = parse_limited_json(data, found.path / file.name)
    except (FormatError, OSError) as error:
        notes.append(str(error))
        return None
    return tuple(printable(as_text(flag))[:400] for flag in (as_list(value) or [value]) if as_text(flag))[:200]


def entry_order(entry: CacheEntry) -> tuple[str, list[int], str]:
    """By layout, then by shape as numbers, then by key."""
    edges = entry.shape.split("x") if entry.layout == "matmul" else []
    return entry.layout, [int(edge) for edge in edges], entry.key


def groups_of(entries: Iterable[CacheEntry], field: str) -> dict[str, list[CacheEntry]]:
    """Entries by the text of one field, of those that have it; groups of one are left out."""
    groups: dict[str, list[CacheEntry]] = defaultdict(list)
    for entry in entries:
        value = getattr(entry, field)
        if value:
            groups[str(value)].append(entry)
    return {value: group for value, group in groups.items() if len(group) > 1}


def findings(cache: CompileCache) -> Sequence[str]:
    """What a user should know of a cache: duplicates, failures, locks, recompilations because of flags."""
    notes = []
    entries = cache.entries
    complete = [entry for entry in entries if entry.digest is not None]
    for group in _by_payload(complete):
        names = ", ".join(entry.key for entry in group[:3]) + (", ..." if len(group) > 3 else "")
        wasted = sum(entry.size_bytes for entry in group[1:])
        notes.append(f"one payload under {len(group)} keys ({names}): {wasted} bytes are copies")
    for group in groups_of(entries, "hlo_hash").values():
        flags = {entry.flags_hash for entry in group}
        if len(flags) > 1:
            notes.append(f"graph {group[0].hlo_hash} is compiled {len(group)} times, for {len(flags)} sets of flags")
    for status, text in (
        ("failed", "a failed compilation, which is not tried again without --retry_failed_compilation"),
        ("incomplete", "no NEFF, or no mark that the compilation ended"),
        ("unreadable", "a NEFF that cannot be read: delete it"),
    ):
        keys = [entry.key for entry in entries if entry.status == status]
        if keys:
            notes.append(
                f"{text}: {len(keys)} of {len(entries)} entries ({', '.join(keys[:3])}"
                + (", ...)" if len(keys) > 3 else ")")
            )
    for entry in entries:
        if entry.status == "locked" and entry.lock_s is not None:
            age = cache.read_s - entry.lock_s
            if age > STALE_LOCK_S:
                notes.append(f"{entry.key} has been locked for {age / 3600:.0f} h: its compiler has probably died")
    empty = sum(entry.flags_hash == EMPTY_FLAGS for entry in entries)
    if empty:
        notes.append(f"compiled without flags: {empty} of {len(entries)} entries (their keys end in +{EMPTY_FLAGS})")
    versions = {entry.compiler for entry in entries if entry.compiler}
    if len(versions) > 1:
        notes.append(f"{len(versions)} versions of the compiler; entries of another version than yours are never used")
    return notes


def _by_payload(entries: Iterable[CacheEntry]) -> list[list[CacheEntry]]:
    groups: dict[str, list[CacheEntry]] = defaultdict(list)
    for entry in entries:
        if entry.digest is not None:
            groups[entry.digest.payload_sha256].append(entry)
    return [group for group in groups.values() if len(group) > 1]
