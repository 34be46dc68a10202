"""What the files in a NEFF say: sub-graphs, variables, queues, instruction images, constants, debug information.

`def.json`, the engine files and their fields are as the AWS Neuron documentation has them ("Work with NEFF Files").
Not documented, and so read only where present: `tensor_map.json`, which a compiler's work folder shows, and `info.json`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np

from npuscope.errors import FormatError
from npuscope.formats.compiler_facts import MappedTensor, read_tensor_map
from npuscope.formats.limited_json import (
    as_count,
    as_list,
    as_object,
    as_shape,
    as_text,
    count_values,
    parse_limited_json,
)
from npuscope.formats.neff_archive import SLOT_BYTES, Archive, Slots
from npuscope.formats.ntff_isa import OPCODES
from npuscope.units import printable

ENGINE_NAMES: Final = {
    "pe": "Tensor",
    "act": "Scalar",
    "activation": "Scalar",
    "pool": "GpSimd",
    "dve": "Vector",
    "sp": "Sync",
}
"""The compiler's names of the engines in lower case, to those of `Instruction.engine`."""
ROWS_LIMIT: Final = 100_000
"""Variables, queues and mapped tensors that are kept of one NEFF."""
VALUES_LIMIT: Final = 5_000_000
"""JSON values that are parsed of one NEFF; the engines' lists of descriptors come last."""
Row = TypeVar("Row")
_ENGINE_FILE = re.compile(r"(?:(?P<graph>.*)/)?(?P<engine>pe|act|activation|pool|dve|sp)\d*\.(?P<kind>bin|json)", re.I)
_SUBGRAPH = re.compile(r"(?:.*/)?sg\d+")
_NPY_HEADER = re.compile(rb"\x93NUMPY[\x01-\x03]")
_NPY_DTYPE = re.compile(rb"'descr':\s*'([<>|=]?[a-zA-Z]\d{0,4})'")
_NPY_SHAPE = re.compile(rb"'shape':\s*\(([0-9, ]{0,400})\)")
_NUMPY_KINDS = {"f": "float", "i": "int", "u": "uint", "b": "bool", "V": "bytes", "c": "complex", "O": "object"}
_MARKED_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Image:
    """The instructions of one engine in one sub-graph."""

    subgraph: str
    engine: str
    file: str
    size_bytes: int
    instructions: int
    """Slots of 64 bytes, which is how captures show the same images in memory."""
    opcodes: Mapping[str, int]
    """Opcode to count, most frequent first; `OP_0xNN` where the name is not known."""
    looks_like_instructions: bool
    """At least 90 % of the slots carry the second byte that every instruction of real captures carries."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A buffer that a sub-graph declares in its `def.json`."""

    subgraph: str
    name: str
    type: str
    """`input`, `output`, `file`, `tmp-buf`, `virtual`, `state-buffer`, `pointer`, `dge-table`."""
    size_bytes: int
    file: str
    """The constant it is loaded from; '' for none."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A `.npy` file, of which only the header is read."""

    name: str
    size_bytes: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Queue:
    """A set of DMA queues that a sub-graph declares."""

    subgraph: str
    name: str
    type: str
    hardware_queues: int
    owner: str


@dataclass(frozen=True, slots=True)
class StaticDma:
    """What the descriptors of one engine's JSON file move."""

    subgraph: str
    engine: str
    descriptors: int
    moved_bytes: int
    """Product of the sizes of every descriptor's destination; loops, if any, are not counted."""


@dataclass(frozen=True, slots=True)
class NeffTensor:
    """An input, output or weight of the graph."""

    subgraph: str
    name: str
    type: str
    """`IN`, `OUT` or `WEIGHT`."""
    size_bytes: int
    shape: tuple[int, ...] | None
    """Where the archive tells it."""
    dtype: str
    format: str


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of a NEFF, read."""

    subgraphs: tuple[str, ...]
    images: tuple[Image, ...]
    variables: tuple[Variable, ...]
    queues: tuple[Queue, ...]
    static_dma: tuple[StaticDma, ...]
    constants: tuple[Constant, ...]
    tensors: tuple[NeffTensor, ...]
    manifest: tuple[str, ...]
    """JSON files beside the sub-graphs: `neff.json`, `kelf-0.json`, `info.json`, ..."""
    compiler_version: str
    """From `info.json`; '' where it is missing."""
    debug_bytes: int
    """Bytes of debug information; 0 for none."""
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Documents:
    """What the JSON files say, collected one at a time so that only one of them is in memory."""

    definitions: int = 0
    variables: list[Variable] = field(default_factory=list)
    queues: list[Queue] = field(default_factory=list)
    static_dma: list[StaticDma] = field(default_factory=list)
    mapped: dict[str, MappedTensor] = field(default_factory=dict)
    version: str = ""
    dropped: int = 0

    def take(self, name: str, document: Any) -> None:
        """Keep what one file says."""
        base = name.rsplit("/", 1)[-1]
        if base == "def.json":
            definition = as_object(document)
            self.definitions += 1
            self._extend(self.variables, _variables(_folder(name), definition))
            self._extend(self.queues, _queues(_folder(name), definition))
        elif base == "tensor_map.json":
            for tensor in read_tensor_map(document):
                if len(self.mapped) < ROWS_LIMIT:
                    self.mapped[tensor.name] = tensor
        elif name == "info.json":
            self.version = as_text(as_object(document).get("tool_version"))
        elif (dma := _static_dma(name, document)) is not None:
            self.static_dma.append(dma)

    def _extend(self, rows: list[Row], more: Iterator[Row]) -> None:
        for row in more:
            if len(rows) < ROWS_LIMIT:
                rows.append(row)
            else:
                self.dropped += 1


def read_contents(archive: Archive, source: str) -> Contents:
    """Interpret what was kept of an archive; what cannot be read is a note, not an error.

    Args:
        archive: The payload.
        source: What to call the file in a note.
    """
    notes: list[str] = []
    found = _Documents()
    names = [name for name in archive.kept if name.endswith(".json") and "debug_info" not in name]
    left = VALUES_LIMIT
    for name in sorted(names, key=lambda name: (_engine(name) != "", name)):
        left -= count_values(archive.kept[name])
        if left < 0:
            notes.append(f"{printable(name)} and what follows it is not read: more than {VALUES_LIMIT} values in all")
            break
        try:
            found.take(name, parse_limited_json(archive.kept[name], source, name))
        except FormatError as error:
            notes.append(str(error))
    sizes = {member.name: member.size_bytes for member in archive.members}
    folders = {_folder(name) for name in sizes}
    constants = tuple(_constants(archive, sizes, notes))
    images = tuple(_image(name, sizes[name], slots, notes) for name, slots in archive.slots.items() if _engine(name))
    if not found.definitions:
        notes.append("no def.json: variables and queues are not known")
    if found.dropped:
        notes.append(f"{found.dropped} variables or queues beyond {ROWS_LIMIT} are left out")
    return Contents(
        tuple(sorted(folder for folder in folders if _SUBGRAPH.fullmatch(folder))),
        tuple(sorted(images, key=lambda image: (image.subgraph, image.engine))),
        tuple(found.variables),
        tuple(found.queues),
        tuple(found.static_dma),
        constants,
        tuple(_tensors(found.variables, constants, found.mapped)),
        tuple(sorted(name for name in sizes if "/" not in name and name.endswith(".json"))),
        found.version,
        sum(size for name, size in sizes.items() if "debug_info" in name or name.endswith(".dbg")),
        tuple(notes),
    )


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _engine(name: str) -> str:
    """The engine whose file it is; '' for another file."""
    found = _ENGINE_FILE.fullmatch(name)
    return ENGINE_NAMES[found["engine"].lower()] if found else ""


def _image(name: str, size: int, slots: Slots, notes: list[str]) -> Image:
    counts = slots.first_byte
    order = np.argsort(-counts, kind="stable")
    opcodes = {OPCODES.get(int(code), f"OP_0x{code:02x}"): int(counts[code]) for code in order if counts[code]}
    total = size // SLOT_BYTES
    usual = slots.marked >= _MARKED_SHARE * total
    if size % SLOT_BYTES or not usual:
        notes.append(
            f"{printable(name)} does not look like 64-byte instructions; its counts of opcodes may mean nothing"
        )
    return Image(_folder(name), _engine(name), name, size, total, opcodes, usual and size % SLOT_BYTES == 0)


def _variables(graph: str, definition: Mapping[str, Any]) -> Iterator[Variable]:
    for name, body in as_object(definition.get("var")).items():
        fields = as_object(body)
        size = as_count(fields.get("size")) or 0
        file = as_text(fields.get("file_name"))
        yield Variable(graph, as_text(name), as_text(fields.get("type")), size, file)


def _queues(graph: str, definition: Mapping[str, Any]) -> Iterator[Queue]:
    for name, body in sorted(as_object(definition.get("dma_queue")).items()):
        fields = as_object(body)
        count = as_count(fields.get("num_queues"))
        yield Queue(
            graph,
            as_text(name),
            as_text(fields.get("type")),
            1 if count is None else count,
            as_text(fields.get("owner")),
        )


def _static_dma(name: str, document: Any) -> StaticDma | None:
    """Sum the descriptors of an engine's JSON file; `desc` is one descriptor or a list of them."""
    engine = _engine(name)
    if not engine:
        return None
    count = moved = 0
    for group in as_list(as_object(document).get("dma")):
        desc = as_object(group).get("desc")
        for one in desc if isinstance(desc, list) else [desc]:
            sizes = as_shape(as_object(one).get("to_sizes"))
            count += 1
            moved += math.prod(sizes) if sizes else 0
    return StaticDma(_folder(name), engine, count, min(moved, (1 << 63) - 1)) if count else None


def _constants(archive: Archive, sizes: Mapping[str, int], notes: list[str]) -> Iterator[Constant]:
    """Headers of `.npy` files, by pattern: nothing is evaluated or unpickled."""
    for name, head in archive.kept.items():
        if not name.endswith(".npy"):
            continue
        dtype, shape = _NPY_DTYPE.search(head), _NPY_SHAPE.search(head)
        edges = as_shape(shape[1].decode()) if shape else None
        if not _NPY_HEADER.match(head) or dtype is None or edges is None:
            notes.append(f"{printable(name)} has no header that NumPy would write")
            continue
        yield Constant(name, sizes[name], _dtype_name(dtype[1].decode()), edges)


def _dtype_name(code: str) -> str:
    """`<f2` as `float16`; `|V2`, which is how NumPy writes bfloat16, as `bytes2`."""
    kind, size = code.lstrip("<>|=")[0], code.lstrip("<>|=")[1:]
    name = _NUMPY_KINDS.get(kind)
    if name is None:
        return code
    return name + (size if kind in "VO" or not size else str(8 * int(size))) if kind != "b" else "bool"


def _tensors(
    variables: Sequence[Variable], constants: tuple[Constant, ...], mapped: Mapping[str, MappedTensor]
) -> Iterator[NeffTensor]:
    """Inputs, outputs and weights; shape and dtype from the tensor map, else from the constant's header."""
    kinds = {"input": "IN", "output": "OUT", "file": "WEIGHT"}
    stored = {constant.name: constant for constant in constants}
    seen = set()
    for variable in variables:
        if variable.type not in kinds:
            continue
        seen.add(variable.name)
        known, constant = mapped.get(variable.name), stored.get(f"{variable.subgraph}/{variable.file}")
        shape = known.shape if known else constant.shape if constant else None
        dtype = known.dtype if known else constant.dtype if constant else ""
        kind = kinds[variable.type]
        layout = known.format if known else ""
        yield NeffTensor(variable.subgraph, variable.name, kind, variable.size_bytes, shape, dtype, layout)
    for name, known in mapped.items():
        if name not in seen and known.kind in kinds:
            size = known.size_bytes or 0
            yield NeffTensor("", name, kinds[known.kind], size, known.shape, known.dtype, known.format)
