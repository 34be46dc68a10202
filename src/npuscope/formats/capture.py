"""NTFF captures with their NEFFs: paired by UUID, never by name or order."""

from __future__ import annotations

import filecmp
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from npuscope.errors import FormatError, UsageError
from npuscope.formats.inspection import Inspection
from npuscope.formats.neff import HEADER_BYTES, NeffHeader, neff_tables, parse_header, read_neff
from npuscope.formats.neff_uuid import match_uuid
from npuscope.formats.ntff import ENGINES, RECORD_BYTES, Ntff, SubGraph, load_ntff
from npuscope.formats.ntff_isa import INSTRUCTION_BYTES
from npuscope.formats.ntff_profile import ntff_profile
from npuscope.profile.summary import with_summary
from npuscope.profile.tables import Profile, make_profile, one_row

_SIBLINGS = 1000
"""Most NEFFs looked at beside a capture; of each only the header is read."""
_BLOCK_NAMES = {0: "instruction starts and ends", 1: "semaphores and events", 4: "DMA", 5: "throttling"}


@dataclass(frozen=True, slots=True)
class Pairing:
    """Which compiled graph a capture is of."""

    neff: Path | None
    verdict: str
    """`match`, `mismatch` (all NEFFs are of other graphs), `undecidable`, or `none` where there is no NEFF."""
    remark: str
    """One sentence for the user; '' for a plain match."""
    other: Path | None = None
    """The only NEFF there is, where that is of another graph."""


def read_neff_header(path: Path) -> NeffHeader:
    """The header of a NEFF, without its payload.

    Raises:
        FormatError: It cannot be read, or is no NEFF.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
        return parse_header(head, size_bytes=path.stat().st_size, source=str(path))
    except OSError as error:
        raise FormatError(path, expected="a readable NEFF file", found=error.strerror or str(error)) from error


def pair(capture: Ntff, neffs: Iterable[Path]) -> Pairing:
    """The one NEFF whose UUID agrees with the capture's.

    Args:
        capture: A parsed capture.
        neffs: Candidates; damaged ones are passed over and told.
    """
    found: dict[str, list[Path]] = {"match": [], "undecidable": [], "mismatch": []}
    damaged = 0
    for path in neffs:
        try:
            header = read_neff_header(path)
        except FormatError:
            damaged += 1
            continue
        found[match_uuid(header.uuid, capture.uuid)].append(path)
    broken = f"; {damaged} NEFFs could not be read" if damaged else ""
    if found["match"] and _all_equal(found["match"]):
        copies = f"{len(found['match'])} copies of one NEFF have the capture's UUID{broken}"
        return Pairing(found["match"][0], "match", copies if found["match"][1:] else broken.removeprefix("; "))
    if found["match"]:
        names = ", ".join(str(path) for path in found["match"][:3])
        return Pairing(None, "undecidable", f"{len(found['match'])} NEFFs have the capture's UUID: {names}{broken}")
    if found["undecidable"]:
        remark = f"too few bytes of the UUID to tell whether {found['undecidable'][0]} is the capture's NEFF{broken}"
        return Pairing(None, "undecidable", remark)
    if found["mismatch"]:
        count = len(found["mismatch"])
        one = found["mismatch"][0] if count == 1 else None
        shown = (
            f"{one} is of another graph than the capture" if one else f"none of {count} NEFFs is of the capture's graph"
        )
        return Pairing(None, "mismatch", f"{shown}: its UUID differs{broken}" if one else f"{shown}{broken}", other=one)
    return Pairing(None, "none", broken.removeprefix("; "))


def _all_equal(paths: Sequence[Path]) -> bool:
    """Whether files are byte for byte the same, as a cache entry and the work folder's copy of it are."""
    return all(filecmp.cmp(paths[0], other, shallow=False) for other in paths[1:])


def read_capture(path: Path, neffs: Sequence[Path] | None = None) -> Profile:
    """One NTFF as a Profile, with the tensors of its NEFF where that is at hand.

    Args:
        path: The capture.
        neffs: Candidates for its NEFF; None looks at those beside it.

    Raises:
        FormatError: No NTFF of version 5, or damaged.
    """
    capture = load_ntff(path)
    candidates = list(neffs) if neffs is not None else _beside(path)
    return _with_neff(ntff_profile(capture), pair(capture, candidates))


def _beside(path: Path) -> list[Path]:
    try:
        return sorted(found for found in path.parent.iterdir() if found.suffix == ".neff")[:_SIBLINGS]
    except OSError:
        return []


def _with_neff(profile: Profile, pairing: Pairing) -> Profile:
    """Add the NEFF's tables; of the only NEFF there is, if it is another graph's, its header as evidence."""
    notes = (*profile.notes, pairing.remark) if pairing.remark else profile.notes
    if pairing.other is not None:
        header = read_neff_header(pairing.other)
        evidence = make_profile(
            {
                "NeffHeader": one_row(
                    {"network_name": header.network_name, "uuid": header.uuid.hex(), "neff_path": str(pairing.other)}
                )
            },
            source=str(pairing.other),
        ).tables
        return replace(profile, tables=MappingProxyType({**profile.tables, **evidence}), notes=notes)
    if pairing.neff is None:
        return replace(profile, notes=notes)
    try:
        found = neff_tables(read_neff(pairing.neff))
    except FormatError as error:
        return replace(profile, notes=(*notes, f"the capture's NEFF could not be read: {error}"))
    added = make_profile(found, source=str(pairing.neff)).tables
    kept = {name: table for name, table in added.items() if name != "Metadata"}
    merged = MappingProxyType({**profile.tables, **kept})
    return with_summary(replace(profile, tables=merged, notes=(*notes, f"paired by UUID with {pairing.neff}")))


def captures_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """NTFFs and NEFFs of a folder and those below it, sorted; links are not followed."""
    files = [path for path in folder.rglob("*") if path.suffix in {".ntff", ".neff"} and not path.is_symlink()]
    return (
        sorted(path for path in files if path.suffix == ".ntff"),
        sorted(path for path in files if path.suffix == ".neff")[:_SIBLINGS],
    )


def read_capture_folder(folder: Path) -> Profile:
    """The one capture of a folder.

    Raises:
        UsageError: The folder holds several.
        FormatError: It holds none, or a damaged one.
    """
    ntffs, neffs = captures_below(folder)
    if not ntffs:
        raise FormatError(folder, expected="an NTFF capture", found="none")
    if len(ntffs) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in ntffs[:3])
        more = ", …" if len(ntffs) > 3 else ""
        raise UsageError(f"{folder} holds {len(ntffs)} captures ({names}{more}); name one of them")
    return read_capture(ntffs[0], neffs)


def inspect_capture(path: Path) -> Inspection:
    """What a capture holds: versions, UUID, engines, trace blocks, queues, memory; and its NEFF if beside."""
    capture = load_ntff(path)
    pairing = pair(capture, _beside(path))
    facts: dict[str, Any] = {
        "size_bytes": capture.size_bytes,
        "ntff_version": capture.version,
        "instance_type": capture.instance_type,
        "runtime_version": capture.runtime_version,
        "driver_version": capture.driver_version,
        "collectives_version": capture.collectives_version,
        "neff_path": capture.neff_path,
        "neff_uuid": f"{_uuid_text(capture.uuid)} (up to the first zero byte, maybe junk after it)",
        "neff": f"{pairing.neff}" if pairing.neff else pairing.verdict,
        "subgraphs": len(capture.subgraphs),
        "total_time_ns": max(graph.total_time_ps for graph in capture.subgraphs) / 1000,
    }
    tables: dict[str, list[dict[str, Any]]] = {}
    for graph in capture.subgraphs:
        for title, rows in _graph_tables(graph).items():
            tables.setdefault(title, []).extend(rows)
    title = f"NTFF version {capture.version}, a capture on {capture.instance_type or 'an unnamed instance'}"
    notes = tuple(note for note in (*capture.notes, pairing.remark) if note)
    return Inspection("ntff", str(path), title, facts, tables, notes)


def _graph_tables(graph: SubGraph) -> dict[str, list[dict[str, Any]]]:
    """What one sub-graph's metadata list: nothing is decoded for it."""
    names = dict.fromkeys(queue.name for queue in graph.queues)
    return {
        "Instruction images": [
            {
                "subgraph": graph.name,
                "engine": ENGINES[image.engine],
                "instructions": len(image.code) // INSTRUCTION_BYTES,
                "device_address": f"{image.address:#x}",
            }
            for image in graph.images
        ],
        "Trace blocks": [
            {
                "subgraph": graph.name,
                "kind": _BLOCK_NAMES.get(block.kind, f"unknown {block.kind}"),
                "records": block.length // RECORD_BYTES,
            }
            for block in graph.blocks
            if block.length
        ],
        "DMA queues": [
            {
                "subgraph": graph.name,
                "queue": name,
                "dma_engines": len({queue.engine for queue in graph.queues if queue.name == name}),
                "kind": "dynamic" if name.endswith("Dynamic") else "static",
            }
            for name in names
        ],
        "Device memory": [{"use": label, "size_bytes": size} for label, size in graph.memory if size],
    }


def _uuid_text(uuid: bytes) -> str:
    return uuid[:16].hex() or "none"


def inspect_capture_folder(folder: Path) -> Inspection:
    """The captures of a folder, each with its NEFF."""
    ntffs, neffs = captures_below(folder)
    rows, notes = [], []
    for path in ntffs:
        try:
            capture = load_ntff(path)
        except FormatError as error:
            notes.append(str(error))
            continue
        pairing = pair(capture, neffs)
        rows.append(
            {
                "capture": str(path.relative_to(folder)),
                "size_bytes": capture.size_bytes,
                "instance_type": capture.instance_type,
                "neff": str(pairing.neff.relative_to(folder)) if pairing.neff else pairing.verdict,
                "graph": capture.neff_path,
            }
        )
        if pairing.remark:
            notes.append(f"{path.relative_to(folder)}: {pairing.remark}")
    facts = {"captures": len(ntffs), "neffs": len(neffs)}
    title = f"{len(ntffs)} captures and {len(neffs)} compiled graphs"
    return Inspection("captures", str(folder), title, facts, {"Captures": rows}, tuple(notes))
