"""Why NEFF files of one size are, or are not, one NEFF: the question that equal sizes for every shape raise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from npuscope.formats.compile_cache import CacheEntry, NeffDigest, entry_order

ARCHIVE_BLOCKS: Final = (10_240, 512)
"""What tar and libarchive round an archive up to by default, and the block of a tar archive."""
_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which a NEFF differs from the first of its group."""

    size_bytes: int
    first: str
    other: str
    what: str
    in_first: str
    in_other: str


@dataclass(frozen=True, slots=True)
class SizeGroup:
    """NEFF files of one size."""

    size_bytes: int
    keys: tuple[str, ...]
    payloads: int
    """How many different payloads they hold."""
    verdict: str
    """One sentence: one NEFF reused, or different ones and why their sizes agree."""
    differs_in: str
    differences: tuple[Difference, ...]


def size_groups(entries: Iterable[CacheEntry]) -> list[SizeGroup]:
    """Group NEFFs by size and say what differs within a group; the largest group first."""
    by_size: dict[int, list[CacheEntry]] = defaultdict(list)
    for entry in sorted(entries, key=entry_order):
        if entry.digest is not None:
            by_size[entry.size_bytes].append(entry)
    groups = [_group(size, same) for size, same in by_size.items() if len(same) > 1]
    return sorted(groups, key=lambda group: (-len(group.keys), group.size_bytes))


def _group(size: int, entries: list[CacheEntry]) -> SizeGroup:
    digests = [entry.digest for entry in entries if entry.digest is not None]
    payloads = {digest.payload_sha256 for digest in digests}
    first = entries[0]
    distinct = {e.digest.payload_sha256: e for e in reversed(entries[1:]) if e.digest is not None}
    others = list(distinct.values())[::-1][:_SHOWN]
    differences = tuple(d for other in others for d in _differences(size, first, other))
    return SizeGroup(
        size,
        tuple(entry.key for entry in entries),
        len(payloads),
        _verdict(digests, len(payloads)),
        ", ".join(dict.fromkeys(difference.what for difference in differences)),
        differences,
    )


def _verdict(digests: list[NeffDigest], payloads: int) -> str:
    if payloads == 1:
        if len({digest.uuid for digest in digests}) == 1:
            return "one NEFF, copied: payload and UUID are the same"
        return "one payload under different headers: the graph is the same, compiled or packed again"
    kinds = "different NEFFs" if payloads == len(digests) else f"{payloads} different NEFFs, some of them copied"
    used = [digest.payload_bytes - digest.padding_bytes for digest in digests]
    block = next((b for b in ARCHIVE_BLOCKS if all(digest.payload_bytes % b == 0 for digest in digests)), None)
    if block and any(digest.padding_bytes for digest in digests):
        span = f"{min(used)}" if min(used) == max(used) else f"{min(used)} to {max(used)}"
        return (
            f"{kinds}: payloads of {span} bytes are padded with zeros to a multiple of {block}, which hides their sizes"
        )
    if len(set(used)) == 1:
        return f"{kinds}: their payloads are equally long without padding"
    return f"{kinds} whose sizes agree"


def _differences(size: int, first: CacheEntry, other: CacheEntry) -> list[Difference]:
    a, b = first.digest, other.digest
    if a is None or b is None:
        return []
    values: list[tuple[str, object, object]] = [
        ("header UUID", a.uuid, b.uuid),
        ("network name", a.network_name, b.network_name),
        ("payload bytes without padding", a.payload_bytes - a.padding_bytes, b.payload_bytes - b.padding_bytes),
        *(("tensors", *pair) for pair in _changed(a.tensors, b.tensors)),
        *(("instructions", *pair) for pair in _changed(a.instructions, b.instructions)),
    ]
    found = [Difference(size, first.key, other.key, what, str(x), str(y)) for what, x, y in values if x != y]
    names = sorted(name for name in {*a.members, *b.members} if a.members.get(name) != b.members.get(name))
    if names:
        texts = (_files(names, members) for members in (a.members, b.members))
        found.append(Difference(size, first.key, other.key, "files in the archive", *texts))
    return found


def _files(names: list[str], members: Mapping[str, tuple[int, str]]) -> str:
    """Sizes of the files that differ; equal sizes mean that their bytes differ."""
    shown = [f"{name} {members[name][0]} B" if name in members else f"no {name}" for name in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _changed(mine: Mapping[str, object], theirs: Mapping[str, object]) -> list[tuple[str, str]]:
    """Values of one mapping beside the other's, of the names in which they differ."""
    names = [name for name in sorted({*mine, *theirs}) if mine.get(name) != theirs.get(name)][:_SHOWN]
    return [(f"{name}: {_value(mine.get(name))}", f"{name}: {_value(theirs.get(name))}") for name in names]


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return f"{value[0]}, {value[1]} B"
    return "none" if value is None else str(value)
