"""A folder of traces, one per pattern: which file is of which, in `perfetto_pattern_mapping.json` or found by its name.

The mapping has four keys: `pattern_execution_order` (pairs of pattern and capture, in the order of the runs),
`pattern_profile_mapping` (capture to pattern), `perfetto_files` and `generated_timestamp`. A public script writes it with
absolute paths, such as those below `/tmp`; in a folder that was moved since, such a file is looked for by its name. Nothing
outside of the folder is opened on behalf of a mapping.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Final

from npuscope._files import write_text_atomically
from npuscope.errors import FormatError, UsageError, shorten
from npuscope.formats.artifact import read_profile
from npuscope.formats.capture import captures_below, read_capture
from npuscope.formats.limited_json import BYTES_LIMIT, as_text, parse_limited_json
from npuscope.profile.tables import Profile

MAPPING_NAME: Final = "perfetto_pattern_mapping.json"
BY_ORDER: Final = "the latest entry of the execution order"
BY_MAPPING: Final = "the mapping of files to patterns"
BY_NAME: Final = "the file's name"
_ENDINGS: Final = ((".ntff",), (".pftrace", ".perfetto-trace"), (".trace.json.gz", ".trace.json"))
"""What the search by name takes: captures before what is made of them."""
_FILES_LIMIT: Final = 20_000
"""Most files of a folder that are looked at."""
_SHOWN: Final = 4
_Index = dict[str, list[tuple[tuple[str, ...], Path]]]
"""Files by their names: parts of the path below the folder, and the path."""


@dataclass(frozen=True, slots=True)
class PatternMapping:
    """What a mapping says; paths are text as they stand in it, and nothing says that they exist."""

    execution_order: tuple[tuple[str, str], ...]
    """Pattern and capture of each run."""
    profiles: Mapping[str, str]
    """Capture to pattern."""
    perfetto_files: tuple[str, ...]
    generated: str
    """When it was made; '' where it does not say."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """Every pattern once, in the order of the runs."""
        return tuple(dict.fromkeys([*(name for name, _ in self.execution_order), *self.profiles.values()]))


def write_mapping(
    folder: Path,
    execution_order: Sequence[tuple[str, Path]],
    perfetto_files: Sequence[Path],
    *,
    generated: datetime | None = None,
) -> Path:
    """Write the mapping of a folder, with paths relative to it so that it can be moved.

    Args:
        folder: Where the files are.
        execution_order: Pattern and its profile, in the order of the runs.
        perfetto_files: The traces for a viewer.
        generated: When; None is now.

    Returns:
        The file that was written.

    Raises:
        UsageError: A file is not in the folder.
        OutputError: The folder cannot be written to.
    """
    order = [[pattern, _relative(folder, file)] for pattern, file in execution_order]
    document = {
        "pattern_execution_order": order,
        "pattern_profile_mapping": {file: pattern for pattern, file in order},
        "perfetto_files": [_relative(folder, file) for file in perfetto_files],
        "generated_timestamp": (generated or datetime.now(timezone.utc)).isoformat(timespec="seconds"),
    }
    path = folder / MAPPING_NAME
    write_text_atomically(path, json.dumps(document, indent=1) + "\n")
    return path


def read_mapping(path: Path) -> PatternMapping:
    """Read a mapping; keys that are missing are empty, keys that are unknown are passed over.

    Args:
        path: The file, or the folder that it is in.

    Raises:
        FormatError: It cannot be read, is no JSON object of this shape, or too large.
    """
    if path.is_dir():
        path = path / MAPPING_NAME
    document = parse_limited_json(_bytes(path), path)
    if not isinstance(document, dict):
        raise FormatError(path, expected="an object with pattern_execution_order", found=type(document).__name__)
    order = _of_type(document, "pattern_execution_order", list, path)
    profiles = _of_type(document, "pattern_profile_mapping", dict, path)
    files = _of_type(document, "perfetto_files", list, path)
    generated = document.get("generated_timestamp", "")
    if isinstance(generated, bool) or not isinstance(generated, str | int | float):
        raise FormatError(path, where="generated_timestamp", expected="a time", found=shorten(repr(generated)))
    return PatternMapping(
        execution_order=tuple(_pair(entry, f"pattern_execution_order[{at}]", path) for at, entry in enumerate(order)),
        profiles=MappingProxyType(
            {as_text(file): _text(name, "pattern_profile_mapping", path) for file, name in profiles.items()}
        ),
        perfetto_files=tuple(_text(file, f"perfetto_files[{at}]", path) for at, file in enumerate(files)),
        generated=as_text(str(generated)),
    )


def find_profile(folder: Path, pattern: str) -> tuple[Path, str]:
    """The profile of a pattern in a folder, and which of three steps found it.

    First the latest entry of the execution order whose file is there, then the mapping of files to patterns, then a file
    whose name contains the pattern. Of several such names those that begin with the pattern as a word go first, then those
    that hold it as a word; a pattern that is still in several names is refused, and none is picked.

    Args:
        folder: With or without a mapping.
        pattern: Such as `vmap` or `for_loop_hardware_small`.

    Raises:
        FormatError: The mapping is damaged.
        UsageError: The folder is none, or no file, or several, are of the pattern.
    """
    if not folder.is_dir():
        raise UsageError(f"{shorten(str(folder), 200)} is no folder; name the folder with the traces")
    if not pattern:
        raise UsageError("the name of a pattern is empty; name one, such as vmap")
    files = list(_files(folder))
    known = read_mapping(folder) if (folder / MAPPING_NAME).exists() else None
    if known is not None:
        index = _by_last_part(folder, files)
        for name, told in reversed(known.execution_order):
            if name == pattern and (found := _inside(told, index)) is not None:
                return found, BY_ORDER
        for told, name in known.profiles.items():
            if name == pattern and (found := _inside(told, index)) is not None:
                return found, BY_MAPPING
    by_name = _named(files, pattern)
    if len(by_name) == 1:
        return by_name[0], BY_NAME
    if by_name:
        raise UsageError(f"several files of {folder} are named like {pattern!r}: {_shown(by_name)}; name one of them")
    hint = (
        f"its mapping knows {', '.join(known.patterns[:_SHOWN])}" if known and known.patterns else "it has no mapping"
    )
    raise UsageError(f"{folder} holds no profile of pattern {shorten(pattern)!r}; {hint}")


def read_pattern(folder: Path, pattern: str) -> tuple[Profile, str]:
    """The Profile of a pattern, and which step found its file; a capture comes with its NEFF, paired by UUID.

    Raises:
        FormatError: The mapping or the profile is damaged.
        UsageError: See `find_profile`.
    """
    path, how = find_profile(folder, pattern)
    if path.suffix == ".ntff":  # never the folder's first NEFF: each pattern has its own
        return read_capture(path, captures_below(folder)[1]), how
    return read_profile(path), how


def _relative(folder: Path, file: Path) -> str:
    try:
        return file.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError:
        raise UsageError(f"{file} is not in {folder}; a mapping only names files of its own folder") from None


def _bytes(path: Path) -> bytes:
    """The file, and no more of it than a mapping may have."""
    try:
        if not path.is_file():
            raise FormatError(path, expected="a regular file", found="none" if not path.exists() else "something else")
        with path.open("rb") as file:
            return file.read(BYTES_LIMIT + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, FormatError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise FormatError(path, expected="a readable file", found=reason) from error


def _of_type(document: dict[str, Any], key: str, kind: type[Any], path: Path) -> Any:
    value = document.get(key, kind())
    if not isinstance(value, kind):
        expected = "an array" if kind is list else "an object"
        raise FormatError(path, where=key, expected=expected, found=shorten(repr(value)))
    return value


def _text(value: Any, where: str, path: Path) -> str:
    if not isinstance(value, str):
        raise FormatError(path, where=where, expected="text", found=shorten(repr(value)))
    return as_text(value)


def _pair(entry: Any, where: str, path: Path) -> tuple[str, str]:
    if not isinstance(entry, list) or len(entry) != 2:
        raise FormatError(path, where=where, expected="a pair of pattern and file", found=shorten(repr(entry)))
    return _text(entry[0], where, path), _text(entry[1], where, path)


def _files(folder: Path) -> Iterator[Path]:
    """Regular files of a folder and those below it, sorted in each; links are not followed."""
    count = 0
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders.sort()
        for name in sorted(names):
            count += 1
            if count > _FILES_LIMIT:
                return
            path = Path(parent) / name
            if path.is_file() and not path.is_symlink():
                yield path


def _by_last_part(folder: Path, files: Sequence[Path]) -> _Index:
    found: dict[str, list[tuple[tuple[str, ...], Path]]] = {}
    for path in files:
        parts = path.relative_to(folder).parts
        found.setdefault(parts[-1], []).append((parts, path))
    return found


def _inside(told: str, index: _Index) -> Path | None:
    """The file of the folder that a mapping means; None where it has none, or where a path leads out of the folder.

    An absolute path was written before the folder moved: of the files of its name that one is meant with which it shares
    the most folders; where several share as many, none is.
    """
    parts = PurePosixPath(told.replace("\\", "/")).parts
    if not parts or ".." in parts:
        return None
    candidates = index.get(parts[-1], [])
    if parts[0] != "/" and not re.fullmatch(r"[A-Za-z]:", parts[0]):
        return next((path for own, path in candidates if own == parts), None)
    most = max((_common_tail(own, parts) for own, _ in candidates), default=0)
    best = [path for own, path in candidates if _common_tail(own, parts) == most]
    return best[0] if len(best) == 1 else None


def _common_tail(left: Sequence[str], right: Sequence[str]) -> int:
    """How many last parts of two paths are equal."""
    shared = 0
    for one, other in zip(reversed(left), reversed(right), strict=False):
        if one != other:
            break
        shared += 1
    return shared


def _named(files: Sequence[Path], pattern: str) -> list[Path]:
    """Files of the first kind, and in the strictest sense, whose names contain a pattern."""
    wanted = re.escape(pattern.lower())
    senses = (rf"{wanted}(?![0-9a-z]).*", rf"(?:.*[^0-9a-z])?{wanted}(?![0-9a-z]).*", rf".*{wanted}.*")
    for endings in _ENDINGS:
        mine = [path for path in files if path.name.lower().endswith(endings)]
        for sense in senses:
            found = [path for path in mine if re.fullmatch(sense, path.name.lower(), re.DOTALL)]
            if found:
                return found
    return []


def _shown(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:_SHOWN]) + (", …" if len(paths) > _SHOWN else "")
