"""What the simulator makes of the documented interface: one entry per name of each module, found by looking.

Which names there are is a fact of the vendor's documentation (`data/nki_api.toml`); whether one is there is read off the
modules that a kernel imports. Only what cannot be seen from outside is written down (`data/nki_coverage.toml`): what an
implementation lacks, and which instructions it becomes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.resources import files
from inspect import getattr_static
from types import ModuleType
from typing import Any

from npuscope._toml import tomllib
from npuscope.errors import FormatError
from npuscope.simulate.nki.tensors import Tensor

CLASSIC_TENSOR = "neuronxcc.nki.tensor"
"""A class that kernels only meet through its objects."""


class Support(Enum):
    """How far the simulator follows a documented name."""

    FULL = "yes"
    PART = "partly"
    NONE = "no"


@dataclass(frozen=True, slots=True)
class ApiModule:
    """A module, or a class with documented members, as the documentation lists it."""

    name: str
    """As a kernel would write it, such as `nki.isa`."""
    dialect: str
    """`classic` for `neuronxcc.nki`, `current` for `nki`."""
    source: str
    """Where the list of names stands."""
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One documented name and what becomes of it."""

    name: str
    support: Support
    lowering: str
    """The instructions that a call becomes, and their engines; empty for a constant."""
    lacks: str
    """What a `partly` supported name does not do."""


@cache
def api_modules() -> tuple[ApiModule, ...]:
    """All documented modules of both dialects, as listed in `data/nki_api.toml`."""
    return tuple(
        ApiModule(item["name"], item["dialect"], item["source"], tuple(item["names"]))
        for item in _read("nki_api.toml")["module"]
    )


def coverage(module: ApiModule, modules: Mapping[str, Any]) -> tuple[Entry, ...]:
    """What becomes of each name of `module`.

    Args:
        module: The documented module.
        modules: The modules that a kernel imports, by name, as the loader provides them.
    """
    notes = _notes()
    place = find(module.name, modules)
    entries = []
    for name in module.names:
        note = notes.get((module.name, name), {})
        lacks = note.get("lacks", "")
        is_there = _works(place, name) and not note.get("is_missing", False)
        support = Support.NONE if not is_there else Support.PART if lacks else Support.FULL
        entries.append(Entry(name, support, note.get("lowering", ""), lacks))
    return tuple(entries)


def undocumented(module: ApiModule, modules: Mapping[str, Any]) -> tuple[str, ...]:
    """Public names of a module that neither the documentation lists nor a note of ours; none for a class."""
    place = find(module.name, modules)
    if not isinstance(place, ModuleType):
        return ()
    listed = {*module.names, *_extras().get(module.name, ())}
    return tuple(sorted(name for name in place.__all__ if name not in listed))


def find(name: str, modules: Mapping[str, Any]) -> Any:
    """The module, class or object called `name`; None if there is none."""
    if name == CLASSIC_TENSOR:
        return Tensor
    if name in modules:
        return modules[name]
    owner, _, member = name.rpartition(".")
    return getattr(find(owner, modules), member, None) if owner else None


def coverage_page(modules: Mapping[str, Any]) -> str:
    """The page of the documentation: a table per module, and how much of each dialect is there."""
    parts = [
        "# Coverage of the kernel interface",
        "",
        "Made from the simulator's modules by `make docs`. `neuronxcc.nki` is the classic dialect, `nki` the current",
        "one. A call of what is not supported ends in one line with its name and the kernel's file and line.",
    ]
    tables = [(module, coverage(module, modules)) for module in api_modules()]
    parts += ["", "| module | names | supported | partly | not |", "|---|---:|---:|---:|---:|"]
    for module, entries in tables:
        counts = [sum(entry.support is support for entry in entries) for support in Support]
        parts.append(f"| `{module.name}` | {len(entries)} | {counts[0]} | {counts[1]} | {counts[2]} |")
    for module, entries in tables:
        parts += ["", f"## {module.name}", "", f"Names after: {module.source}.", ""]
        parts += ["| name | supported | becomes | lacks |", "|---|---|---|---|"]
        parts += [
            f"| `{entry.name}` | {entry.support.value} | {entry.lowering or '–'} | {entry.lacks or '–'} |"
            for entry in entries
        ]
    return "\n".join(parts) + "\n"


def _works(place: Any, name: str) -> bool:
    """Whether `place` has `name` and it is no stand-in that only says that it is not supported."""
    found = getattr_static(place, name, None)
    return found is not None and not getattr(found, "is_unsupported", False)


@cache
def _notes() -> dict[tuple[str, str], dict[str, Any]]:
    """What is written down about a name: `lowering`, `lacks` and `is_missing` (it is there but only says no)."""
    notes: dict[tuple[str, str], dict[str, Any]] = {}
    known = {(module.name, name) for module in api_modules() for name in module.names}
    for item in _read("nki_coverage.toml")["note"]:
        texts = {key: item[key] for key in ("lowering", "lacks", "is_missing") if key in item}
        for module in item["modules"]:
            for name in item["names"]:
                if (module, name) not in known:
                    where = f"note on {module}.{name}"
                    raise FormatError("nki_coverage.toml", where=where, expected="a documented name", found=name)
                notes[(module, name)] = notes.get((module, name), {}) | texts
    return notes


@cache
def _extras() -> dict[str, tuple[str, ...]]:
    """Names that kernels in the field use although the documentation lists them no more, by module."""
    return {item["module"]: tuple(item["names"]) for item in _read("nki_coverage.toml").get("extra", [])}


@cache
def _read(name: str) -> dict[str, Any]:
    text = files("npuscope.simulate.nki").joinpath("data").joinpath(name).read_text(encoding="utf-8")
    document: dict[str, Any] = tomllib.loads(text)
    return document
