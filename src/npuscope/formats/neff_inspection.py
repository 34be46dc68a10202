"""What `npuscope inspect` says of a NEFF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from npuscope.formats.inspection import Inspection
from npuscope.formats.neff import Neff, feature_text, hash_text, read_neff

_SHOWN_OPCODES = 6
_SHOWN_ROWS = 40


def inspect_neff(path: Path | str) -> Inspection:
    """Tell what a NEFF holds.

    Raises:
        FormatError: See `read_neff`.
    """
    neff = read_neff(path)
    contents = neff.contents
    tensors = [t for t in contents.tensors if t.type in ("IN", "OUT")]
    shown = ", ".join(f"{t.name} {shape_text(t.shape)}" for t in tensors[:4])
    title = f"compiled graph of {len(contents.subgraphs)} sub-graph(s), {len(tensors)} input(s) and output(s)"
    tables = {
        "tensors": _tensor_rows(neff),
        "engines": _engine_rows(neff),
        "files": _file_rows(neff),
        "variables by type": _variable_rows(neff),
        "queues": [
            {
                "subgraph": q.subgraph,
                "queue": q.name,
                "type": q.type,
                "hardware_queues": q.hardware_queues,
                "owner": q.owner,
            }
            for q in contents.queues
        ],
    }
    notes = [*neff.notes]
    if not contents.debug_bytes:
        notes.append("no debug information: source lines and tensor shapes may be missing in profiles of it")
    kept = {name: rows[:_SHOWN_ROWS] for name, rows in tables.items() if rows}
    notes += [
        f"{name}: {len(tables[name]) - _SHOWN_ROWS} more rows are not shown"
        for name in kept
        if len(tables[name]) > _SHOWN_ROWS
    ]
    return Inspection("neff", neff.source, f"{title}: {shown}" if shown else title, _facts(neff), kept, tuple(notes))


def _facts(neff: Neff) -> Mapping[str, Any]:
    header, archive, contents = neff.header, neff.archive, neff.contents
    facts = {
        "size_bytes": neff.size_bytes,
        "network_name": header.network_name,
        "uuid": header.uuid.hex(),
        "hash": hash_text(header),
        "hash_check": neff.hash_check,
        "neff_version": f"{header.major_version}.{header.minor_version}",
        "package_version": header.package_version,
        "build_version": header.build_version,
        "compiler_version": contents.compiler_version,
        "features": feature_text(header),
        "neuroncores": header.neuroncore_count,
        "physical_cores_per_logical_core": header.lnc_size,
        "compression": archive.compression,
        "payload_bytes": header.data_bytes,
        "padding_bytes": archive.padding_bytes,
        "expanded_bytes": archive.expanded_bytes,
        "files": len(archive.members),
        "debug_information_bytes": contents.debug_bytes,
        "manifest": ", ".join(contents.manifest),
    }
    return {key: value for key, value in facts.items() if value != ""}


def _tensor_rows(neff: Neff) -> list[dict[str, Any]]:
    order = {"IN": 0, "OUT": 1, "WEIGHT": 2}
    return [
        {
            "subgraph": t.subgraph,
            "tensor": t.name,
            "type": t.type,
            "shape": shape_text(t.shape),
            "dtype": t.dtype,
            "size_bytes": t.size_bytes,
        }
        for t in sorted(neff.contents.tensors, key=lambda t: (order[t.type], t.subgraph, t.name))
    ]


def _engine_rows(neff: Neff) -> list[dict[str, Any]]:
    """One row an engine of a sub-graph that has instructions or static DMA."""
    images = {(image.subgraph, image.engine): image for image in neff.contents.images}
    moved = {(dma.subgraph, dma.engine): dma for dma in neff.contents.static_dma}
    rows = []
    for key in sorted({*images, *moved}):
        image, dma = images.get(key), moved.get(key)
        opcodes = [f"{name} {count}" for name, count in image.opcodes.items()] if image else []
        more = [f"and {len(opcodes) - _SHOWN_OPCODES} more"] if len(opcodes) > _SHOWN_OPCODES else []
        rows.append(
            {
                "subgraph": key[0],
                "engine": key[1],
                "instructions": image.instructions if image else 0,
                "size_bytes": image.size_bytes if image else 0,
                "opcodes": ", ".join([*opcodes[:_SHOWN_OPCODES], *more]),
                "static_dma_descriptors": dma.descriptors if dma else 0,
                "static_dma_bytes": dma.moved_bytes if dma else 0,
            }
        )
    return rows


def _file_rows(neff: Neff) -> list[dict[str, Any]]:
    """Largest first: what the file spends its bytes on."""
    constants = {c.name: f"{shape_text(c.shape)} {c.dtype}" for c in neff.contents.constants}
    members = sorted(neff.archive.members, key=lambda m: (-m.size_bytes, m.name))
    return [{"file": m.name, "size_bytes": m.size_bytes, "array": constants.get(m.name, "")} for m in members]


def _variable_rows(neff: Neff) -> Sequence[dict[str, Any]]:
    groups: dict[tuple[str, str], list[int]] = {}
    for variable in neff.contents.variables:
        groups.setdefault((variable.subgraph, variable.type), []).append(variable.size_bytes)
    return [
        {"subgraph": graph, "type": kind, "variables": len(sizes), "size_bytes": sum(sizes)}
        for (graph, kind), sizes in sorted(groups.items())
    ]


def shape_text(shape: tuple[int, ...] | None) -> str:
    """`128x512`; `?` where it is not known, `scalar` for no edges."""
    if shape is None:
        return "?"
    return "x".join(map(str, shape)) or "scalar"
