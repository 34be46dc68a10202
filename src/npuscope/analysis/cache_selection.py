"""Which entries of a compile cache to delete: by state, age, compiler and size. Nothing is deleted here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from npuscope.errors import UsageError, shorten
from npuscope.formats.cache_listing import UNFINISHED, Listing, StoredEntry

OTHERS: Final = "OTHER-THAN-NEWEST"
_AGE: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([smhdw])", re.ASCII)
_AGE_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SIZE: Final = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([KMGT]?)(?:i?B)?", re.ASCII | re.IGNORECASE)
_SIZE_BYTES: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a user asked to be deleted.

    States and compilers choose entries of any of them. An age narrows these, and chooses by itself where there are none. A size
    comes last, for what is left.
    """

    failed: bool = False
    incomplete: bool = False
    older_than_s: float | None = None
    compiler: str = ""
    """A version, or `OTHERS`: all but the newest."""
    keep_compiler: str = ""
    max_bytes: int | None = None
    """What may be left of the entries that can go; the longest unused go first."""

    @property
    def is_narrowed(self) -> bool:
        """A state or a compiler is named, of which an age is a further condition."""
        return bool(self.failed or self.incomplete or self.compiler or self.keep_compiler)

    @property
    def is_empty(self) -> bool:
        """Nothing was asked for."""
        return self == Wanted()


@dataclass(frozen=True, slots=True)
class Chosen:
    """An entry to delete, and why."""

    entry: StoredEntry
    reason: str


@dataclass(frozen=True, slots=True)
class Selection:
    """What would be deleted, and what would have been but stays."""

    chosen: tuple[Chosen, ...]
    kept: tuple[Chosen, ...]
    """Entries that were asked for and are left, with the reason."""
    prunable: int
    """Entries that a cache made for sure: those that could be asked for."""
    prunable_bytes: int
    others: int
    """Entries that stay whatever is asked for."""
    other_bytes: int

    @property
    def size_bytes(self) -> int:
        """That deleting them frees."""
        return sum(one.entry.size_bytes for one in self.chosen)


def parse_age(text: str) -> float:
    """`30d`, `12h`, `90m`, `2w` as seconds.

    Raises:
        UsageError: It is none of these.
    """
    found = _AGE.fullmatch(text.strip().lower())
    if found is None:
        raise UsageError(f"--older-than {shorten(text)!r} is no age; write it as 30d, 12h or 90m")
    return float(found[1]) * _AGE_S[found[2]]


def parse_size(text: str) -> int:
    """`10G`, `500M`, `1.5GiB` as bytes, in units of 1,024.

    Raises:
        UsageError: It is none of these.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"--max-size {shorten(text)!r} is no size; write it as 10G or 500M")
    return int(float(found[1]) * _SIZE_BYTES[found[2].upper()])


def select(listing: Listing, wanted: Wanted) -> Selection:
    """Choose entries as `Wanted` says, those that are too much last, the longest unused of them first.

    Raises:
        UsageError: A compiler is named that no entry is of.
    """
    own = [entry for entry in listing.entries if entry.is_prunable]
    compilers = _targets(own, wanted)
    reasons = {entry.key: reason for entry in own if (reason := _reason(entry, wanted, listing.read_s, compilers))}
    if wanted.max_bytes is not None:
        reasons |= _oldest(own, reasons, listing.read_s, wanted.max_bytes)
    chosen: list[Chosen] = []
    kept: list[Chosen] = []
    by_key = {entry.key: entry for entry in own}
    for key, reason in reasons.items():
        entry = by_key[key]
        busy = entry.is_busy(listing.read_s)
        (kept if busy else chosen).append(
            Chosen(entry, "its lock is fresh: something may be compiling it" if busy else reason)
        )
    others = [entry.size_bytes for entry in listing.entries if not entry.is_prunable]
    return Selection(
        tuple(chosen), tuple(kept), len(own), sum(entry.size_bytes for entry in own), len(others), sum(others)
    )


def newest_compiler(entries: Iterable[StoredEntry]) -> str:
    """The highest version among the entries; '' where none tells its compiler."""
    versions = {entry.compiler for entry in entries if entry.compiler}
    return max(versions, key=_version, default="")


def _version(text: str) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d{1,9}", text.partition("+")[0])], text


def _targets(entries: Sequence[StoredEntry], wanted: Wanted) -> set[str]:
    """The compilers whose entries go."""
    versions = {entry.compiler for entry in entries if entry.compiler}
    for asked in (wanted.compiler, wanted.keep_compiler):
        if asked and asked != OTHERS and not _matching(versions, asked):
            known = ", ".join(sorted(versions)) or "none of its entries tells one"
            raise UsageError(f"no entry is of compiler {shorten(asked)!r}; in this cache: {known}")
    if wanted.compiler == OTHERS:
        return versions - {newest_compiler(entries)}
    if wanted.keep_compiler:
        return versions - _matching(versions, wanted.keep_compiler)
    return _matching(versions, wanted.compiler) if wanted.compiler else set()


def _matching(versions: Iterable[str], asked: str) -> set[str]:
    """Versions by their whole name, or by their number without the package and the hash."""
    names = {
        version: (version, version.partition("+")[0], version.partition("-")[2].partition("+")[0])
        for version in versions
    }
    return {version for version, forms in names.items() if asked in forms}


def _reason(entry: StoredEntry, wanted: Wanted, now_s: float, compilers: set[str]) -> str:
    """Why an entry goes; '' of one that stays."""
    age_s, age = now_s - entry.used_s, ""
    if wanted.older_than_s is not None:
        if age_s <= wanted.older_than_s:
            return ""
        age = f"not used for {age_s / 86_400:.0f} days" if age_s >= 86_400 else f"not used for {age_s / 3600:.1f} h"
    if not wanted.is_narrowed:
        return age
    reason = _kind_reason(entry, wanted, compilers)
    return f"{reason}, {age}" if reason and age else reason


def _kind_reason(entry: StoredEntry, wanted: Wanted, compilers: set[str]) -> str:
    """Which of the states and compilers that were asked for an entry is of."""
    if wanted.failed and entry.status == "failed":
        return "its compilation failed"
    if wanted.incomplete and entry.status in UNFINISHED:
        words = {"incomplete": "half-written", "locked": "locked and never finished"}
        return words.get(entry.status, "its NEFF cannot be read")
    if entry.compiler and entry.compiler in compilers:
        return "of another compiler" if wanted.compiler == OTHERS or wanted.keep_compiler else "of this compiler"
    return ""


def _oldest(entries: Sequence[StoredEntry], reasons: dict[str, str], now_s: float, most: int) -> dict[str, str]:
    """The longest unused of the rest, until what is left is small enough."""
    left = sum(entry.size_bytes for entry in entries if entry.key not in reasons or entry.is_busy(now_s))
    found = {}
    for entry in sorted(entries, key=lambda one: one.used_s):
        if left <= most:
            break
        if entry.key not in reasons and not entry.is_busy(now_s):
            found[entry.key] = "longest unused"
            left -= entry.size_bytes
    return found
