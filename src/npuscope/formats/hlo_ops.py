"""The ops of an XLA program from their messages, all at once: numbers as columns, and each distinct kind of op decoded once.

A program repeats few kinds of op: opcode, shape and attributes are decoded once for all ops in which they read the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, Final

import numpy as np

from npuscope.errors import FormatError, shorten
from npuscope.formats.hlo import Computation, Op, Shape, name_of, text_of
from npuscope.formats.hlo_arity import arity_misfit, call_misfit
from npuscope.formats.hlo_schema import ELEMENT_TYPES, field_numbers, message_class
from npuscope.formats.wire_columns import DamagedMessageError, Fields, Integers, split_messages
from npuscope.units import printable

ELEMENTS_LIMIT: Final = 1 << 44
"""Of one array: 16 Ti elements are more than any machine holds, and keep all arithmetic within int64."""
_RANK_LIMIT: Final = 64
_DEPTH_LIMIT: Final = 64
"""Of nested tuples."""
_NAME, _ID, _OPERANDS, _CALLED, _METADATA = field_numbers(
    "Instruction", "name", "id", "operand_ids", "called_computation_ids", "metadata"
)
_CONTROL, _SHARDING, _FRONTEND, _STATISTICS = 37, 40, 68, 82
_OF_ONE_OP: Final = frozenset({_NAME, _ID, _OPERANDS, _CALLED, _METADATA, _CONTROL, _SHARDING, _FRONTEND, _STATISTICS})
"""Fields that do not say what an op does, but which one it is, and notes on it. All others do, also those that nobody reads
here, such as the precision of a dot: what differs in one of them is not equal."""
_MOST_OPERANDS: Final = 100_000
"""Of one op, and functions: a hostile file takes a byte for each."""
_MOST_OPERANDS_OF_ALL: Final = 20_000_000
_MOST_PARTS: Final = 1_000_000
"""Of all tuple shapes together."""


def decode_computations(outlines: Sequence[Any], order: dict[int, int], source: str) -> tuple[Computation, ...]:
    """The computations of a module, callees before callers.

    Args:
        outlines: `ComputationOutline` messages, in the order of the file.
        order: Place of each by its id.
        source: What to call the file in an error.

    Raises:
        FormatError: An op is damaged, or ops contradict each other.
    """
    return _Decoder(outlines, order, source).computations()


class _Decoder:
    def __init__(self, outlines: Sequence[Any], order: dict[int, int], source: str) -> None:
        self.outlines = outlines
        self.order = order
        self.source = source
        self.messages = [message for outline in outlines for message in outline.instructions]
        counts = [len(outline.instructions) for outline in outlines]
        self.first = np.cumsum([0, *counts])
        """Number of the first op of each computation, ops being numbered through the module."""
        self.computation = np.repeat(np.arange(len(counts)), counts)
        """That each op belongs to."""
        self.parts = 0
        """Of tuple shapes so far."""

    def computations(self) -> tuple[Computation, ...]:
        """All of them, checked."""
        try:
            fields = split_messages(self.messages)
            self.names = fields.texts(_NAME)
            self.ids = fields.integers(_ID)
            operands = fields.repeated_integers(_OPERANDS)
            called = fields.repeated_integers(_CALLED)
        except DamagedMessageError as error:
            raise self._error(error.args[0], "a whole op", error.args[1]) from None
        for what, counts in (("operands", operands[1]), ("functions", called[1])):
            self._refuse_many(what, counts)
        kinds = self._kinds(fields)
        opcodes = [kind[0] for kind in kinds]
        places, roots = self._places(*operands)
        columns = (
            self.names,
            opcodes,
            [kind[1] for kind in kinds],
            _in_tuples(places, operands[1]),
            self._called(*called),
            [kind[2] for kind in kinds],
            self.messages,
        )
        # Without the detour of a named tuple's own constructor.
        ops: list[Op] = list(map(tuple.__new__, repeat(Op), zip(*columns, strict=True)))
        self._check_arity(opcodes, operands[1].tolist(), called[1].tolist())
        parameters = self._parameters(opcodes, ops)
        first = self.first.tolist()
        found = tuple(
            [
                Computation(
                    text_of(outline.name), tuple(ops[first[place] : first[place + 1]]), roots[place], parameters[place]
                )
                for place, outline in enumerate(self.outlines)
            ]
        )
        for number in np.flatnonzero(called[1]).tolist():
            misfit = call_misfit(ops[number], found[self.computation[number]], found)
            if misfit:
                raise self._error(number, *misfit, name=f"{opcodes[number]} {self._name(number)}")
        return found

    def _refuse_many(self, what: str, counts: Integers) -> None:
        """Refuse so many operands that only a hostile file has them."""
        most = int(counts.max(initial=0))
        if most > _MOST_OPERANDS:
            raise self._error(int(counts.argmax()), f"at most {_MOST_OPERANDS:,} {what}", f"{most:,}")
        total = int(counts.sum())
        if total > _MOST_OPERANDS_OF_ALL:
            expected = f"at most {_MOST_OPERANDS_OF_ALL:,} {what} of all ops"
            raise FormatError(self.source, where="computations", expected=expected, found=f"{total:,}")

    # -- what ops do

    def _kinds(self, fields: Fields) -> list[tuple[str, Shape, Any]]:
        """Opcode, shape and attributes of each op; equal ones are one object."""
        encoded = fields.without(_OF_ONE_OP)
        shapes: dict[bytes, Shape] = {}
        equal: dict[Shape, Shape] = {}
        decoded: dict[bytes, tuple[str, Shape, Any]] = {}
        for raw in dict.fromkeys(encoded):
            message = self._kind(raw, encoded)
            shape = shapes.get(message.shape)
            if shape is None:
                shape = self._shape(message.shape, raw, encoded)
                shape = shapes[message.shape] = equal.setdefault(shape, shape)
            decoded[raw] = _opcode(message.opcode), shape, message
        return [decoded[raw] for raw in encoded]

    def _kind(self, raw: bytes, encoded: list[bytes]) -> Any:
        from google.protobuf.message import DecodeError

        try:
            return message_class("Instruction").FromString(raw)
        except DecodeError as error:
            raise self._error(encoded.index(raw), "a whole op", shorten(str(error))) from None

    def _shape(self, data: bytes, raw: bytes, encoded: list[bytes]) -> Shape:
        from google.protobuf.message import DecodeError

        try:
            return self._shape_of(message_class("Shape").FromString(data))
        except DecodeError as error:
            raise self._error(encoded.index(raw), "a shape", shorten(str(error))) from None
        except _ShapeError as error:
            raise self._error(encoded.index(raw), *error.args) from None

    def _shape_of(self, proto: Any, depth: int = 0) -> Shape:
        known = ELEMENT_TYPES.get(proto.element_type)
        element_type, size = known or (f"unknown({proto.element_type})", 4)
        if element_type == "tuple":
            if depth >= _DEPTH_LIMIT:
                raise _ShapeError(f"at most {_DEPTH_LIMIT} tuples in one another", "more")
            self.parts += len(proto.tuple_shapes)
            if self.parts > _MOST_PARTS:
                raise _ShapeError(f"at most {_MOST_PARTS:,} parts of tuples", "more")
            parts = tuple([self._shape_of(part, depth + 1) for part in proto.tuple_shapes])
            return Shape("tuple", (), parts, 0, sum(part.bytes for part in parts))
        if len(proto.dimensions) > _RANK_LIMIT:
            raise _ShapeError(f"at most {_RANK_LIMIT} dimensions", f"{len(proto.dimensions)}")
        dimensions = tuple(proto.dimensions)
        elements = 1 if size else 0
        for extent in dimensions:
            elements *= extent
            if extent < 0 or extent > ELEMENTS_LIMIT or elements > ELEMENTS_LIMIT:
                found = f"{element_type}[{','.join(map(str, dimensions))}]"
                raise _ShapeError(f"a static shape of at most {ELEMENTS_LIMIT:,} elements", found)
        return Shape(element_type, dimensions, (), elements, -int(-elements * size // 1))

    # -- how they hang together

    def _places(self, operand_ids: Integers, counts: Integers) -> tuple[Integers, list[int]]:
        """Places of all operands in their computations, and of each computation's root.

        Raises:
            FormatError: Two ops of a computation have one id, or an operand is not among the ops before.
        """
        distinct, rank = np.unique(self.ids, return_inverse=True)
        key = self.computation * len(distinct) + rank
        order = np.argsort(key, kind="stable")
        ordered = key[order]
        twice = np.flatnonzero(ordered[1:] == ordered[:-1])
        if len(twice):
            where = self._computation_name(int(self.computation[order[twice[0]]]))
            raise FormatError(self.source, where=where, expected="one id per op", found="two with the same id")

        def numbers(ids: Integers, computations: Integers) -> Integers:
            """Numbers of ops by id and computation; -1 where there is none."""
            ranks = np.minimum(np.searchsorted(distinct, ids), len(distinct) - 1)
            wanted = computations * len(distinct) + ranks
            at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
            return np.where((distinct[ranks] == ids) & (ordered[at] == wanted), order[at], -1)

        user = np.repeat(np.arange(len(self.messages)), counts)
        operands = numbers(operand_ids, self.computation[user])
        wrong = np.flatnonzero((operands < 0) | (operands >= user))
        if len(wrong):
            first = int(wrong[0])
            found = (
                f"no op with id {operand_ids[first]}"
                if operands[first] < 0
                else "one that comes after it: the ops form a cycle, or are out of order"
            )
            raise self._error(int(user[first]), "operands before it", found)
        root_ids = np.array([outline.root_id for outline in self.outlines], np.int64)
        roots = numbers(root_ids, np.arange(len(self.outlines)))
        lacking = np.flatnonzero(roots < 0)
        if len(lacking):
            where, found = (
                self._computation_name(int(lacking[0])),
                f"no op with id {root_ids[lacking[0]]}; is the file cut off?",
            )
            raise FormatError(self.source, where=where, expected="its root", found=found)
        return operands - self.first[self.computation[user]], (roots - self.first[:-1]).tolist()

    def _called(self, ids: Integers, counts: Integers) -> list[tuple[int, ...]]:
        """Places of the computations that each op calls, which come before its own."""
        places = [self.order.get(one, -1) for one in ids.tolist()]
        caller = np.repeat(np.arange(len(self.messages)), counts)
        own = self.computation[caller]
        for number, identity, place, limit in zip(caller.tolist(), ids.tolist(), places, own.tolist(), strict=True):
            if not 0 <= place < limit:
                found = (
                    f"no computation with id {identity}" if place < 0 else "one that comes after it: they form a cycle"
                )
                raise self._error(number, "computations before its own", found)
        return _in_tuples(np.array(places, np.int64), counts)

    def _check_arity(self, opcodes: list[str], operands: list[int], called: list[int]) -> None:
        """Refuse an op with too few or too many operands or functions; each distinct combination is looked at once."""
        combinations = list(zip(opcodes, operands, called, strict=True))
        for combination in dict.fromkeys(combinations):
            misfit = arity_misfit(*combination)
            if misfit:
                number = combinations.index(combination)
                raise self._error(number, *misfit, name=f"{combination[0]} {self._name(number)}")

    def _parameters(self, opcodes: list[str], ops: list[Op]) -> list[tuple[int, ...]]:
        """Places of the parameters of each computation, by their number."""
        found: list[dict[int, int]] = [{} for _ in self.outlines]
        numbers = [number for number, opcode in enumerate(opcodes) if opcode == "parameter"]
        computations = self.computation[numbers]
        places = np.array(numbers, np.int64) - self.first[computations]
        for number, computation, place in zip(numbers, computations.tolist(), places.tolist(), strict=True):
            parameter = ops[number].attributes.parameter_number
            if parameter in found[computation]:
                where, twice = self._computation_name(computation), f"two with number {parameter}"
                raise FormatError(self.source, where=where, expected="one of each parameter", found=twice)
            found[computation][parameter] = place
        for place, parameters in enumerate(found):
            if sorted(parameters) != list(range(len(parameters))):
                where = self._computation_name(place)
                raise FormatError(self.source, where=where, expected="parameters 0, 1, 2, ...", found="a gap")
        return [tuple([parameters[index] for index in range(len(parameters))]) for parameters in found]

    # -- errors

    def _error(self, number: int, expected: str, found: str, *, name: str = "") -> FormatError:
        place = int(self.computation[number])
        named = name or f"op {self._name(number)}"
        where = f"{named} of {name_of(self.outlines[place].name)}"
        return FormatError(self.source, where=where, expected=expected, found=found)

    def _name(self, number: int) -> str:
        """As far as names have been read."""
        names = getattr(self, "names", None)
        if names is None:
            return f"number {number - int(self.first[self.computation[number]])}"
        return shorten(printable(names[number][:200]), 60)

    def _computation_name(self, place: int) -> str:
        return f"computation {name_of(self.outlines[place].name)}"


def _in_tuples(values: Integers, counts: Integers) -> list[tuple[int, ...]]:
    """Numbers of all ops in turn, by op: those with equally many at once."""
    found = np.empty(len(counts), object)
    starts = np.cumsum(counts) - counts
    for count in np.unique(counts).tolist():
        members = np.flatnonzero(counts == count)
        if count > len(members):  # a few long ones
            for member in members.tolist():
                found[member] = tuple(values[starts[member] : starts[member] + count].tolist())
            continue
        columns = [values[starts[members] + index].tolist() for index in range(count)]
        tuples: Iterable[tuple[int, ...]] = zip(*columns, strict=True) if count else repeat((), len(members))
        found[members] = np.fromiter(tuples, object, count=len(members))
    result: list[tuple[int, ...]] = found.tolist()
    return result


class _ShapeError(ValueError):
    """`args`: what was expected, and what was found."""


_OPCODES: Final[dict[bytes, str]] = {}
"""Texts of opcodes that were seen: a program repeats a few, and one object for each is quick to compare."""


def _opcode(raw: bytes) -> str:
    text = _OPCODES.get(raw)
    if text is None:
        text = printable(shorten(raw.decode("utf-8", "replace"), 60)) or "(none)"
        if len(_OPCODES) < 1024:
            _OPCODES[raw] = text
    return text
