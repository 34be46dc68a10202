"""In what two XLA programs differ: nothing, names, values of constants, shapes, types, or what they do.

A program is compared as a graph: an op is what it does, with what, in which functions; not what it is called, which number it
has or where it stands in the file. Each kind of difference is looked for by leaving that kind out of the comparison: programs
that are then equal differ in it alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from zlib import crc32

from npuscope.errors import shorten
from npuscope.formats.hlo import Computation, HloModule, Op, Shape, literal_values

KINDS: Final = ("identical", "names", "constants", "shapes", "types", "shapes and types", "ops")
"""From none to all, as `HloDiff.kind` has them."""
SHOWN: Final = 6
"""Differences of each sort that are kept as evidence."""
_SHAPED: Final = (
    "shape", "window", "slices", "dynamic_slice_sizes", "gather_slice_sizes", "padding", "fft_length", "literal",
)  # fmt: skip
"""Fields of an op that follow from the extents of its arrays, or hold as many numbers."""
_VALUES_SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class OpChange:
    """One op, or parameter, that is not what it was."""

    what: str
    """`parameter 0`, or its opcode with its name in the second program."""
    before: str
    """'' where it was not there."""
    after: str
    source: str
    """`model.py:12`, the user's line; '' where the program does not tell."""

    def __str__(self) -> str:
        """`parameter 0: f32[8] -> f32[9]`; of what only one program has, that alone."""
        if self.before and self.after:
            return f"{self.what}: {self.before} -> {self.after}"
        return f"{self.what} {self.before or self.after}"


@dataclass(frozen=True, slots=True)
class HloDiff:
    """The difference of two programs, with the first of its evidence."""

    kind: str
    """One of `KINDS`."""
    parameters: tuple[OpChange, ...]
    """Of the entry, with other shapes or types, or more of them or fewer."""
    ops: tuple[OpChange, ...]
    """Constants, shapes or types that changed; ops that one program has and the other lacks."""
    changed_ops: int
    """All of the latter, of which `ops` has the first."""
    names: tuple[str, str] | None
    """What the programs are called, where that differs."""

    def told(self) -> str:
        """One sentence."""
        first = self.parameters[0] if self.parameters else self.ops[0] if self.ops else None
        place = f": {first}" if first else ""
        if self.kind == "identical":
            return "the programs are the same"
        if self.kind == "names":
            named = f": {shorten(self.names[0])} -> {shorten(self.names[1])}" if self.names else ", numbers or order"
            return f"the programs differ in names only{named}"
        words = {"constants": "the values of constants", "ops": "what they do"}.get(self.kind, self.kind)
        return f"the programs differ in {words}{place}"


def diff_modules(before: HloModule, after: HloModule) -> HloDiff:
    """Compare two programs.

    Args:
        before: The earlier one.
        after: The later one.
    """
    kind = next((kind for kind in KINDS[1:-1] if _same(before, after, kind)), "ops")
    names = (before.name, after.name) if before.name != after.name else None
    if kind == "names":
        kind = "identical" if _labels(before) == _labels(after) else "names"
        return HloDiff(kind, (), (), 0, names)
    parameters = _parameters(before, after)
    changed = list(_surplus(before, after) if kind == "ops" else _paired(before, after))
    return HloDiff(kind, parameters[:SHOWN], tuple(changed[:SHOWN]), len(changed), names)


def structure_of(module: HloModule, ignored: str = "names") -> bytes:
    """A digest that programs share which differ in nothing else.

    Args:
        module: The program.
        ignored: One of `KINDS` between the ends: `names` covers numbers, notes and order, too, and later ones the former.
    """
    from hashlib import sha256

    known: dict[Hashable, bytes] = {}

    def digest(key: Hashable) -> bytes:
        found = known.get(key)
        if found is None:
            found = known[key] = sha256(repr(key).encode()).digest()
        return found

    return bytes(digest(_signature(module, ignored, digest)))


def _same(before: HloModule, after: HloModule, ignored: str) -> bool:
    """Whether two programs are equal but for one kind of difference, and the kinds that it includes."""
    numbers: dict[Hashable, int] = {}

    def number(key: Hashable) -> int:
        return numbers.setdefault(key, len(numbers))

    return bool(_signature(before, ignored, number) == _signature(after, ignored, number))


def _signature(module: HloModule, ignored: str, intern: Any) -> Any:
    """What a program does, as one value; equal parts of it are worked out once."""
    functions: list[Any] = []
    attributes: dict[int, bytes] = {}
    for computation in module.computations:
        values: list[Any] = []
        used = [False] * len(computation.ops)
        for op in computation.ops:
            for operand in op.operands:
                used[operand] = True
            told = attributes.get(id(op.attributes))
            if told is None:
                told = attributes[id(op.attributes)] = _attributes(op, ignored)
            key = (
                op.opcode,
                told,
                _shape(op.shape, ignored),
                tuple([values[operand] for operand in op.operands]),
                tuple([functions[callee] for callee in op.called]),
            )
            values.append(intern(key))
        root = computation.root
        # Ops that nothing uses can have effects, and unused parameters are part of the interface.
        loose = sorted(
            value for at, (value, is_used) in enumerate(zip(values, used, strict=True)) if not is_used and at != root
        )
        functions.append(intern(("function", values[root], tuple(loose))))
    return functions[module.entry]


def _attributes(op: Op, ignored: str) -> bytes:
    """What an op does, as bytes, without what is ignored; the type of its value stands in its shape."""
    message = type(op.attributes)()
    message.CopyFrom(op.attributes)
    message.ClearField("shape")
    if ignored != "names":
        message.ClearField("literal")
    if "shapes" in ignored:
        for name in _SHAPED:
            message.ClearField(name)
    return bytes(message.SerializeToString(deterministic=True))


@lru_cache(maxsize=4096)
def _shape(shape: Shape, ignored: str) -> Hashable:
    if shape.element_type == "tuple":
        return tuple([_shape(part, ignored) for part in shape.parts])
    type_name = "" if "types" in ignored else shape.element_type
    return type_name, () if "shapes" in ignored else shape.dimensions


def _labels(module: HloModule) -> Any:
    """Names and places: what may differ between programs that do the same."""
    return (
        module.name,
        module.entry,
        [(one.name, one.root, [(op.name, op.operands, op.called) for op in one.ops]) for one in module.computations],
    )


def _parameters(before: HloModule, after: HloModule) -> tuple[OpChange, ...]:
    """Parameters of the entry that are not what they were, by number."""

    def shapes(module: HloModule) -> list[Op]:
        entry = module.entry_computation
        return [entry.ops[place] for place in entry.parameters]

    old, new = shapes(before), shapes(after)
    changes = []
    for number in range(max(len(old), len(new))):
        was = old[number] if number < len(old) else None
        now = new[number] if number < len(new) else None
        texts = [str(op.shape) if op else "" for op in (was, now)]
        if texts[0] != texts[1]:
            name = (now or was or new[0]).name
            changes.append(OpChange(f"parameter {number} ({shorten(name, 40)})", texts[0], texts[1], ""))
    return tuple(changes)


def _walk(module: HloModule) -> Iterator[tuple[Computation, Op]]:
    """All ops that the entry reaches, operands in their order before their users: the same order in equal graphs."""
    seen: set[int] = set()
    functions = [module.entry]
    while functions:
        place = functions.pop()
        if place in seen:
            continue
        seen.add(place)
        computation = module.computations[place]
        visited = [False] * len(computation.ops)
        waiting = [computation.root]
        while waiting:
            at = waiting[-1]
            if visited[at]:
                waiting.pop()
                continue
            missing = [operand for operand in computation.ops[at].operands if not visited[operand]]
            if missing:
                waiting += reversed(missing)
                continue
            visited[waiting.pop()] = True
            yield computation, computation.ops[at]
            functions += reversed(computation.ops[at].called)


def _paired(before: HloModule, after: HloModule) -> Iterator[OpChange]:
    """Ops of programs of one structure whose value or type is another."""
    for (_, old), (_, new) in zip(_walk(before), _walk(after), strict=False):
        if old.opcode != new.opcode:
            return  # the one shares a part that the other has twice: what follows is no pair
        texts = _told(old), _told(new)
        if old.opcode != "parameter" and texts[0] != texts[1]:
            yield OpChange(_called(new), *texts, after.source_line(new))


def _called(op: Op) -> str:
    """Its opcode and name, of which the latter often begins with the former."""
    name = shorten(op.name, 40)
    return name if name.startswith(op.opcode) else f"{op.opcode} {name}"


def _told(op: Op) -> str:
    if op.opcode != "constant":
        return str(op.shape)
    values = literal_values(op.attributes.literal, op.shape.element_type)
    if not values and op.attributes.literal.ByteSize() > 0:
        data = op.attributes.literal.SerializeToString(deterministic=True)
        return f"{op.shape} #{crc32(data):08x}"
    shown = ", ".join(f"{value:.9g}" for value in values[:_VALUES_SHOWN])
    return f"{op.shape} {shown}" + (", ..." if len(values) > _VALUES_SHOWN else "")


def _surplus(before: HloModule, after: HloModule) -> Iterator[OpChange]:
    """Ops that only one of two programs has, counted by opcode and shape: opcodes that it has more of come first."""
    old, new = ([op for one in module.computations for op in one.ops] for module in (before, after))
    opcodes = Counter(op.opcode for op in new)
    opcodes.subtract(op.opcode for op in old)
    by_opcode = {opcode: count for opcode, count in opcodes.items() if count}
    if by_opcode:
        yield from _counted(old, new, after, by_opcode)
        return
    kinds = Counter((op.opcode, str(op.shape)) for op in new)
    kinds.subtract((op.opcode, str(op.shape)) for op in old)
    for (opcode, shape), count in kinds.items():
        if count:
            yield OpChange(opcode, shape if count < 0 else "", shape if count > 0 else "", "")


def _counted(old: Iterable[Op], new: Iterable[Op], module: HloModule, more: dict[str, int]) -> Iterator[OpChange]:
    for opcode, count in sorted(more.items(), key=lambda item: -abs(item[1])):
        if count > 0:
            last = [op for op in new if op.opcode == opcode][-1]
            yield OpChange(f"{count} more {opcode}", "", str(last.shape), module.source_line(last))
        else:
            last = [op for op in old if op.opcode == opcode][-1]
            yield OpChange(f"{-count} fewer {opcode}", str(last.shape), "", "")
