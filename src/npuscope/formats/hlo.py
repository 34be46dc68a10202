"""XLA programs as HLO: a serialized `HloModuleProto`, as compilers take it and frameworks dump it.

`graph.hlo` (torch-neuronx), `model.hlo_module.pb[.gz]` (compile caches), JAX's and XLA's dumps (`HloProto`, which wraps a
module), and snapshots. A module is computations; a computation is ops in dependency order, of which one is the root.
HLO carries no version number: what a reader does not know it must survive, so that unknown opcodes are kept by name.
"""

from __future__ import annotations

import gc
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from npuscope.errors import FormatError, shorten
from npuscope.formats.hlo_arity import check_arity, check_calls
from npuscope.formats.hlo_envelope import module_message
from npuscope.formats.hlo_schema import ELEMENT_TYPES, message_class
from npuscope.units import format_bytes, printable

SIZE_LIMIT: Final = 1 << 31
"""Of a serialized message; protobuf has no larger ones."""
_EXPANSION_FLOOR: Final = 64 << 20
_EXPANSION: Final = 32
"""A gzip file may unpack to 64 MiB, or to this many times its size where that is more: modules pack about 10 times, and a
hostile one takes up to 40 times its unpacked size of memory."""
ELEMENTS_LIMIT: Final = 1 << 44
"""Of one array: 16 Ti elements are more than any machine holds, and keep all arithmetic within int64."""
_RANK_LIMIT: Final = 64
_DEPTH_LIMIT: Final = 64
"""Of nested tuples."""


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
    """The message itself, for what only some opcodes have: see `hlo_schema`."""


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
        names = [_text(name) for name in index.file_names]
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
        metadata = op.attributes.metadata
        file, line = _text(metadata.source_file), metadata.source_line
        if not file and 0 < metadata.stack_frame_id <= len(self._frames):
            file, line = self._frames[metadata.stack_frame_id - 1]
        return f"{PurePosixPath(file).name}:{line}" if file else ""


def read_hlo(path: Path) -> HloModule:
    """Read a serialized HLO module, packed with gzip or not.

    Raises:
        FormatError: It is truncated or damaged, no HLO module, or contradicts itself.
    """
    return parse_hlo(read_hlo_bytes(path), source=str(path))


def read_hlo_bytes(path: Path) -> bytes:
    """The bytes of a file, unpacked where it is gzip.

    Raises:
        FormatError: It cannot be read, or is larger than any message.
    """
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT)
    except OSError as error:
        raise FormatError(path, expected="a readable file", found=error.strerror or str(error)) from error
    if data[:2] == b"\x1f\x8b":
        data = _unpack(data, path)
    if len(data) >= SIZE_LIMIT:
        raise FormatError(path, expected=f"less than {format_bytes(SIZE_LIMIT)}", found="more")
    return data


def _unpack(packed: bytes, path: Path) -> bytes:
    limit = min(max(_EXPANSION_FLOOR, _EXPANSION * len(packed)), SIZE_LIMIT)
    unpacker = zlib.decompressobj(31)
    try:
        data = unpacker.decompress(packed, limit)
    except zlib.error as error:
        raise FormatError(path, expected="gzip data", found=str(error), remedy="copy the file again") from error
    if len(data) >= limit:
        expected = f"gzip data that unpack to less than {format_bytes(limit)}"
        raise FormatError(path, expected=expected, found="more", remedy="unpack it yourself if you trust it")
    if not unpacker.eof:
        found = f"it is cut off after {format_bytes(len(data))}"
        raise FormatError(path, expected="a whole gzip file", found=found, remedy="copy the file again")
    return data


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


def parse_hlo(data: bytes, *, source: str) -> HloModule:
    """Decode a serialized `HloModuleProto`, or the one within an `HloProto` or a snapshot.

    Args:
        data: The message.
        source: What to call it in an error.

    Raises:
        FormatError: It is truncated or damaged, no HLO module, or contradicts itself.
    """
    message = module_message(data, source)
    order = {computation.id: place for place, computation in enumerate(message.computations)}
    if len(order) != len(message.computations):
        raise FormatError(source, where="computations", expected="one id each", found="two with the same id")
    entry = _entry(message, order, source)
    shapes: dict[bytes, Shape] = {}
    with collection_paused():
        computations = tuple(
            [_computation(proto, place, order, shapes, source) for place, proto in enumerate(message.computations)]
        )
    for computation in computations:
        check_calls(computation, computations, source)
    return HloModule(source, _text(message.name), computations, entry, message, len(data))


def _entry(message: Any, order: dict[int, int], source: str) -> int:
    """Place of the entry computation, whose id stands behind all computations: what is cut off lacks it.

    Id 0 is what a missing field reads as, so that the name at the head of the file has to agree.
    """
    place = order.get(message.entry_computation_id, -1)
    name = _place(message.entry_computation_name)
    if place < 0 or (message.entry_computation_name not in (b"", message.computations[place].name)):
        found = f"none with id {message.entry_computation_id}" if place < 0 else "another name under its id"
        where = f"entry computation {name}" if name else "entry computation"
        remedy = "if the file is cut off, copy it again"
        raise FormatError(source, where=where, expected="it among the computations", found=found, remedy=remedy)
    return place


def _computation(proto: Any, place: int, order: dict[int, int], shapes: dict[bytes, Shape], source: str) -> Computation:
    """The hot loop of the reader: some microseconds per op."""
    name = _place(proto.name)
    places: dict[int, int] = {}
    ops: list[Op] = []
    parameters: dict[int, int] = {}
    for number, item in enumerate(proto.instructions):
        raw = item.opcode
        opcode = _OPCODES.get(raw) or _opcode(raw)
        raw = item.shape
        shape = shapes.get(raw)
        if shape is None:
            shape = shapes[raw] = _parse_shape(raw, f"op {_place(item.name)} of {name}", source)
        try:
            operands = tuple([places[one] for one in item.operand_ids[:]])
        except KeyError as error:
            raise _dangling(source, name, item, proto, int(error.args[0])) from None
        called: tuple[int, ...] = ()
        if item.called_computation_ids:
            called = tuple([order.get(one, place) for one in item.called_computation_ids])
            if max(called) >= place:
                missing = [one for one in item.called_computation_ids if one not in order]
                found = (
                    f"no computation with id {missing[0]}" if missing else "one that comes after it: they form a cycle"
                )
                where = f"op {_place(item.name)} of {name}"
                raise FormatError(source, where=where, expected="computations before its own", found=found)
        if opcode == "parameter":
            if item.parameter_number in parameters:
                found = f"two with number {item.parameter_number}"
                raise FormatError(source, where=f"computation {name}", expected="one of each parameter", found=found)
            parameters[item.parameter_number] = number
        places[item.id] = number
        ops.append(_new_op(Op, (item.name.decode("utf-8", "replace"), opcode, shape, operands, called, item)))
    if len(places) != len(ops):
        raise FormatError(source, where=f"computation {name}", expected="one id per op", found="two with the same id")
    root = places.get(proto.root_id, -1)
    if root < 0:
        found = f"no op with id {proto.root_id}; is the file cut off?"
        raise FormatError(source, where=f"computation {name}", expected="its root", found=found)
    if sorted(parameters) != list(range(len(parameters))):
        raise FormatError(source, where=f"computation {name}", expected="parameters 0, 1, 2, ...", found="a gap")
    check_arity(ops, name, source)
    return Computation(
        _text(proto.name), tuple(ops), root, tuple([parameters[index] for index in range(len(parameters))])
    )


_new_op: Final = tuple.__new__
"""Without the detour of a named tuple's own constructor."""


def _dangling(source: str, name: str, item: Any, proto: Any, wanted: int) -> FormatError:
    """An operand that is not among the ops before."""
    later = any(other.id == wanted for other in proto.instructions)
    found = "one that comes after it: the ops form a cycle, or are out of order" if later else f"no op with id {wanted}"
    return FormatError(source, where=f"op {_place(item.name)} of {name}", expected="operands before it", found=found)


def _parse_shape(data: bytes, where: str, source: str) -> Shape:
    from google.protobuf.message import DecodeError

    try:
        return _shape(message_class("Shape").FromString(data), where, source)
    except DecodeError as error:
        raise FormatError(source, where=where, expected="a shape", found=shorten(str(error))) from None


def _shape(proto: Any, where: str, source: str, depth: int = 0) -> Shape:
    known = ELEMENT_TYPES.get(proto.element_type)
    element_type, size = known or (f"unknown({proto.element_type})", 4)
    if element_type == "tuple":
        if depth >= _DEPTH_LIMIT:
            raise FormatError(
                source, where=where, expected=f"at most {_DEPTH_LIMIT} tuples in one another", found="more"
            )
        parts = tuple([_shape(part, where, source, depth + 1) for part in proto.tuple_shapes])
        return Shape("tuple", (), parts, 0, sum(part.bytes for part in parts))
    if len(proto.dimensions) > _RANK_LIMIT:
        found = f"{len(proto.dimensions)}"
        raise FormatError(source, where=where, expected=f"at most {_RANK_LIMIT} dimensions", found=found)
    dimensions = tuple(proto.dimensions)
    elements = 1 if size else 0
    for extent in dimensions:
        elements *= extent
        if extent < 0 or extent > ELEMENTS_LIMIT or elements > ELEMENTS_LIMIT:
            expected = f"a static shape of at most {ELEMENTS_LIMIT:,} elements"
            found = f"{element_type}[{','.join(map(str, dimensions))}]"
            raise FormatError(source, where=where, expected=expected, found=found)
    return Shape(element_type, dimensions, (), elements, -int(-elements * size // 1))


_OPCODES: Final[dict[bytes, str]] = {}
"""Texts of opcodes that were seen: a program repeats a few."""


def _opcode(raw: bytes) -> str:
    text = printable(shorten(raw.decode("utf-8", "replace"), 60)) or "(none)"
    if len(_OPCODES) < 1024:
        _OPCODES[raw] = text
    return text


def _text(raw: bytes) -> str:
    return printable(raw.decode("utf-8", "replace"))


def _place(raw: bytes) -> str:
    """A name for an error: of one line, whatever its length in the file."""
    return shorten(_text(raw[:200]), 60)


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
