"""XLA programs as HLO: a serialized `HloModuleProto`, as compilers take it and frameworks dump it.

`graph.hlo` (torch-neuronx), `model.hlo_module.pb[.gz]` (compile caches), JAX's and XLA's dumps (`HloProto`, which wraps a
module), and snapshots. A module is computations; a computation is ops in dependency order, of which one is the root.
HLO carries no version number: what a reader does not know it must survive, so that unknown opcodes are kept by name.
"""

from __future__ import annotations

import gc
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple

from npuscope.errors import shorten
from npuscope.formats.hlo_schema import message_class
from npuscope.units import printable


class Shape(NamedTuple):
    """The type of a value."""

    element_type: str
    """`f32`, `bf16`, `s32`, `pred`, ...; `tuple`, `token`, `opaque`; `unknown(N)` for a number that is not known."""
    dimensions: tuple[int, ...]
    parts: tuple[Shape, ...]
    """Of a tuple."""
    elements: int
    """0 for what is no array."""
    bytes: int
    """Of a tuple, that of its parts."""

    def __str__(self) -> str:
        """As HLO text has it: `f32[32,128]`."""
        if self.element_type == "tuple":
            return f"({', '.join(map(str, self.parts))})"
        return f"{self.element_type}[{','.join(map(str, self.dimensions))}]"


class Op(NamedTuple):
    """One instruction of a computation; HLO's own name for it would collide with a device's instructions."""

    name: str
    """As the file has it: see `units.printable`."""
    opcode: str
    """As HLO text has it: `dot`, `dynamic-update-slice`."""
    shape: Shape
    operands: tuple[int, ...]
    """Places in the computation's `ops`, each before this op's own."""
    called: tuple[int, ...]
    """Places in the module's `computations`, each before this op's own computation."""
    attributes: Any
    """What it does: an `Instruction` of `hlo_schema` without what says which op it is. Equal ones are one object."""
    message: bytes
    """As the file has it, for what is seldom asked: see `details`."""

    @property
    def details(self) -> Any:
        """The `Instruction` of `hlo_schema`; empty where a part that nobody relied on so far is damaged."""
        from google.protobuf.message import DecodeError

        try:
            return message_class("Instruction").FromString(self.message)
        except DecodeError:
            return message_class("Instruction")()


class Computation(NamedTuple):
    """A function of HLO."""

    name: str
    ops: tuple[Op, ...]
    root: int
    """Place of the op whose value is the result."""
    parameters: tuple[int, ...]
    """Places of the parameters, by their number."""


class HloModule:
    """An XLA program.

    Attributes:
        source: What it was read from.
        name: As the framework called it.
        computations: Callees before callers.
        entry: Place of the entry computation.
        size_bytes: Of the serialized message.
    """

    __slots__ = ("__dict__", "computations", "entry", "message", "name", "size_bytes", "source")

    def __init__(
        self, source: str, name: str, computations: tuple[Computation, ...], entry: int, message: Any, size_bytes: int
    ) -> None:
        self.source = source
        self.name = name
        self.computations = computations
        self.entry = entry
        self.message = message
        self.size_bytes = size_bytes

    @property
    def entry_computation(self) -> Computation:
        """Where execution begins."""
        return self.computations[self.entry]

    @property
    def op_count(self) -> int:
        """Ops of all computations, parameters and constants among them."""
        return sum(len(computation.ops) for computation in self.computations)

    def place_of(self, computation: Computation) -> int:
        """Where one of its own computations stands in `computations`."""
        return self._places[id(computation)]

    @cached_property
    def _places(self) -> dict[int, int]:
        return {id(computation): place for place, computation in enumerate(self.computations)}

    @cached_property
    def callers(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each computation the places (computation, op) of the ops that call it."""
        found: list[list[tuple[int, int]]] = [[] for _ in self.computations]
        for place, computation in enumerate(self.computations):
            for number, op in enumerate(computation.ops):
                for callee in op.called:
                    found[callee].append((place, number))
        return tuple(map(tuple, found))

    @cached_property
    def _frames(self) -> tuple[tuple[str, int], ...]:
        """File and line of each stack frame."""
        index = self.message.stack_frames
        names = [text_of(name) for name in index.file_names]
        locations = [
            (names[place.file_name_id - 1] if 0 < place.file_name_id <= len(names) else "", place.line)
            for place in index.file_locations
        ]
        return tuple(
            locations[frame.file_location_id - 1] if 0 < frame.file_location_id <= len(locations) else ("", 0)
            for frame in index.stack_frames
        )

    def source_line(self, op: Op) -> str:
        """`model.py:12`, the user's line that an op comes from; '' where the module does not tell."""
        metadata = op.details.metadata
        file, line = text_of(metadata.source_file), metadata.source_line
        if not file and 0 < metadata.stack_frame_id <= len(self._frames):
            file, line = self._frames[metadata.stack_frame_id - 1]
        return f"{PurePosixPath(file).name}:{line}" if file else ""


def text_of(raw: bytes) -> str:
    """A text of the file, on one line and without what a terminal would obey."""
    return printable(raw.decode("utf-8", "replace"))


@contextmanager
def collection_paused() -> Iterator[None]:
    """Hold the garbage collector back while many small objects are made that all stay: it would double the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if not gc.get_freeze_count():
                # What was made is old at once, and not looked through by the next collection of young objects.
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def name_of(raw: bytes) -> str:
    """A name for an error: of one line, whatever its length in the file."""
    return shorten(text_of(raw[:200]), 60)


def literal_values(literal: Any, element_type: str) -> Sequence[float]:
    """The numbers of a constant of a type that has plain ones, truth values among them; () for others."""
    field = _FIELDS.get(element_type)
    if field:
        return tuple(getattr(literal, field))
    packed = _PACKED.get(element_type)
    if packed is None:
        return ()
    data = getattr(literal, packed[0])
    count = len(data) // struct.calcsize(packed[1])
    return struct.unpack_from(f"<{count}{packed[1]}", data)


_FIELDS: Final = {
    "pred": "preds",
    "s32": "s32s",
    "s64": "s64s",
    "u32": "u32s",
    "u64": "u64s",
    "f32": "f32s",
    "f64": "f64s",
}
_PACKED: Final = {"s8": ("s8s", "b"), "u8": ("u8s", "B"), "s16": ("s16s", "h"), "u16": ("u16s", "H")}
"""Types whose numbers stand in a byte field, little-endian."""
