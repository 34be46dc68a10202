"""How often a `while` of HLO runs, where the module tells.

The loop is followed as `lax.scan` and `lax.fori_loop` write it, and as XLA's optimiser leaves it: the condition compares two
integers, each of them a constant, or a linear function of an element of the state that begins with a constant and that
every iteration changes by a constant. All arithmetic is exact; a counter that would leave the range of its type makes the
loop unknown, as do data-dependent conditions and bounds.

Where that does not tell, XLA's own answer is taken if the module carries it (`known_trip_count` in the configuration of
an optimised `while`; it also knows counters that are floats). It comes second since it can be wrong: JAX 0.10.2 writes 1 for
a loop of 40 iterations whose counter is a uint8 from 200 down to 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from npuscope.errors import FormatError
from npuscope.formats.hlo import Computation, HloModule, Op, literal_values
from npuscope.formats.limited_json import as_count, as_object, parse_limited_json

_STEPS_LIMIT: Final = 1_024
"""Ops that are followed for one loop; those of real programs need some dozens."""
_DEPTH_LIMIT: Final = 96
_RANGES: Final = {
    "pred": (0, 1),
    **{f"s{bits}": (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) for bits in (2, 4, 8, 16, 32, 64)},
    **{f"u{bits}": (0, (1 << bits) - 1) for bits in (2, 4, 8, 16, 32, 64)},
}
_FORWARD: Final = frozenset({"copy", "opt-barrier", "domain", "add-dependency"})
"""Ops whose result is their first operand, tuples included."""
_RESHAPING: Final = frozenset({"bitcast", "reshape", "broadcast", "transpose", "convert"})
"""Ops that keep the one element that they have; a bitcast of one element keeps its type, too, or it is not followed."""
_CALLS: Final = frozenset({"call", "fusion"})
_UNBOUNDED: Final = 1 << 128
_NEGATED: Final = {"LT": "GE", "GE": "LT", "GT": "LE", "LE": "GT", "EQ": "NE", "NE": "EQ"}


@dataclass(frozen=True, slots=True)
class _Integer:
    """A whole number: a constant (`offset`), or `scale` times an element of a loop's state plus a constant."""

    path: tuple[int, ...] | None
    """Which element of the state at the beginning of an iteration; None for a constant."""
    offset: int
    low: int = -_UNBOUNDED
    high: int = _UNBOUNDED
    """Between which the element must lie so that no type on the way wraps."""
    scale: int = 1


@dataclass(frozen=True, slots=True)
class _Comparison:
    """What a condition decides."""

    direction: str
    left: _Integer
    right: _Integer


_Value = _Integer | _Comparison | None


@dataclass(frozen=True, slots=True)
class _Progression:
    """A number that every iteration changes by the same step."""

    start: int
    """The element of the state at the first test."""
    pace: int
    """What each iteration adds to it."""
    test: _Integer
    """As the condition takes it from the state."""
    following: _Integer
    """As the body makes the next one."""

    @property
    def first(self) -> int:
        """The number itself, at the first test."""
        return self.test.scale * self.start + self.test.offset

    @property
    def step(self) -> int:
        """What each iteration adds to the number."""
        return self.test.scale * self.pace

    def holds(self, count: int) -> bool:
        """Whether no type wraps in `count` iterations and one test more."""
        if self.test.path is None:
            return True
        tested, last = self.start + count * self.pace, self.start + (count - 1) * self.pace
        in_tests = all(self.test.low <= value <= self.test.high for value in (self.start, tested))
        in_body = all(self.following.low <= value <= self.following.high for value in (self.start, last))
        return in_tests and (in_body or not count)


@dataclass(frozen=True, slots=True)
class _Frame:
    """One view of a computation: what its parameters stand for."""

    computation: int
    caller: _Frame | None = None
    """Where its arguments are found; None where it is seen from outside, see `_Walk.outside`."""
    call: int = -1
    is_state: bool = False
    """The function of a loop: its parameter is the state."""


def trip_count(module: HloModule, computation: Computation, op: Op) -> int | None:
    """How often the body of a `while` runs; None where the module does not tell.

    Args:
        module: The program.
        computation: The one of its computations that holds the loop.
        op: The `while`.

    Returns:
        Exactly how often, 0 included. None for a condition or bound that depends on data, for a loop that would not end
        or whose counter would wrap, and for what is too intricate to follow.
    """
    derived = _Walk(module).trips(_Frame(module.place_of(computation)), op)
    return derived if derived is not None else _known_trip_count(op)


def _known_trip_count(op: Op) -> int | None:
    """`{"known_trip_count":{"n":"4"}}`, as XLA's optimiser leaves it; a configuration may be anything else, too."""
    config = op.attributes.backend_config
    if b"known_trip_count" not in config:
        return None
    try:
        document = as_object(parse_limited_json(config, "backend_config"))
    except FormatError:
        return None
    return as_count(as_object(document.get("known_trip_count")).get("n"))


class _Walk:
    """Follows values backwards through one module, for a bounded number of steps."""

    def __init__(self, module: HloModule) -> None:
        self.module = module
        self.steps = 0

    def trips(self, frame: _Frame, op: Op) -> int | None:
        body, condition = op.called
        verdict = self.value(_Frame(condition, is_state=True), self._root(condition), (), 0)
        if isinstance(verdict, _Integer):  # a constant condition: never, or for ever
            return 0 if verdict.path is None and verdict.offset == 0 else None
        if verdict is None:
            return None
        left, right = (self._progression(frame, op, body, side) for side in (verdict.left, verdict.right))
        if left is None or right is None:
            return None
        count = iterations(verdict.direction, left.first - right.first, left.step - right.step)
        return count if count is not None and left.holds(count) and right.holds(count) else None

    def _progression(self, frame: _Frame, op: Op, body: int, side: _Integer) -> _Progression | None:
        """What one side of the comparison goes through."""
        if side.path is None:
            return _Progression(0, 0, side, side)
        following = self.value(_Frame(body, is_state=True), self._root(body), side.path, 0)
        first = self.value(frame, op.operands[0], side.path, 0)
        if not isinstance(following, _Integer) or following.path != side.path or following.scale != 1:
            return None
        if not isinstance(first, _Integer) or first.path is not None:
            return None
        return _Progression(first.offset, following.offset, side, following)

    def _root(self, computation: int) -> int:
        return self.module.computations[computation].root

    def value(self, frame: _Frame, place: int, path: tuple[int, ...], depth: int) -> _Value:
        """What an op, or an element of the tuple that it makes, stands for.

        Args:
            frame: The computation, and what its parameters stand for.
            place: Of the op.
            path: Which element, from the outermost tuple inwards; () for the value itself.
            depth: Of this recursion.
        """
        self.steps += 1
        if self.steps > _STEPS_LIMIT or depth > _DEPTH_LIMIT:
            return None
        op = self.module.computations[frame.computation].ops[place]
        depth += 1
        if op.opcode == "get-tuple-element":
            return self.value(frame, op.operands[0], (op.attributes.tuple_index, *path), depth)
        if op.opcode == "tuple":
            inside = path and 0 <= path[0] < len(op.operands)
            return self.value(frame, op.operands[path[0]], path[1:], depth) if inside else None
        if op.opcode == "parameter":
            return self._parameter(frame, op, path, depth)
        if op.opcode in _CALLS:
            callee = op.called[0]
            return self.value(_Frame(callee, frame, place), self._root(callee), path, depth)
        if op.opcode in _FORWARD and op.operands:
            return _narrowed(self.value(frame, op.operands[0], path, depth), op)
        if op.opcode == "while":
            return self._kept(frame, op, path, depth)
        if path or op.shape.elements != 1:
            return None
        return self._scalar(frame, op, depth)

    def _scalar(self, frame: _Frame, op: Op, depth: int) -> _Value:
        if op.opcode == "constant":
            return _constant(op)
        if op.opcode in _RESHAPING:
            source = self.module.computations[frame.computation].ops[op.operands[0]].shape
            if source.elements != 1 or (op.opcode == "bitcast" and source.element_type != op.shape.element_type):
                return None
            return _narrowed(self.value(frame, op.operands[0], (), depth), op)
        if op.opcode == "not":
            inner = self.value(frame, op.operands[0], (), depth)
            if not isinstance(inner, _Comparison) or inner.direction not in _NEGATED:
                return None
            return replace(inner, direction=_NEGATED[inner.direction])
        if op.opcode != "compare" and op.opcode not in _ARITHMETIC:
            return None
        ops = self.module.computations[frame.computation].ops
        left, right = (_narrowed(self.value(frame, one, (), depth), ops[one]) for one in op.operands)
        if not isinstance(left, _Integer) or not isinstance(right, _Integer):
            return None
        if op.opcode == "compare":
            return _Comparison(op.attributes.comparison_direction.decode("ascii", "replace"), left, right)
        return _wrapped(_ARITHMETIC[op.opcode](left, right), op)

    def _parameter(self, frame: _Frame, op: Op, path: tuple[int, ...], depth: int) -> _Value:
        if frame.is_state:
            return _Integer(path, 0)
        number = op.attributes.parameter_number
        if frame.caller is not None:
            call = self.module.computations[frame.caller.computation].ops[frame.call]
            return self.value(frame.caller, call.operands[number], path, depth)
        return self._outside(frame.computation, number, path, depth)

    def _outside(self, computation: int, number: int, path: tuple[int, ...], depth: int) -> _Value:
        """What a parameter stands for if all calls agree; a loop's state where no iteration changes it."""
        found: set[_Value] = set()
        for place, index in self.module.callers[computation]:
            op = self.module.computations[place].ops[index]
            if op.opcode in _CALLS:
                found.add(self.value(_Frame(place), op.operands[number], path, depth))
            else:
                found.add(self._kept(_Frame(place), op, path, depth) if op.opcode == "while" else None)
            if len(found) > 1 or None in found:
                return None
        return found.pop() if found else None

    def _kept(self, frame: _Frame, op: Op, path: tuple[int, ...], depth: int) -> _Value:
        """The element of a loop's state that no iteration changes."""
        body = op.called[0]
        after = self.value(_Frame(body, is_state=True), self._root(body), path, depth)
        if not isinstance(after, _Integer) or after.path != path or after.offset or after.scale != 1:
            return None
        before = self.value(frame, op.operands[0], path, depth)
        return _within(before, after.low, after.high) if isinstance(before, _Integer) else None


def iterations(direction: str, difference: int, step: int) -> int | None:
    """How often a loop runs whose condition compares `difference`, which grows by `step`, with 0; None for no end.

    Args:
        direction: `LT`, `LE`, `GT`, `GE`, `EQ` or `NE`.
        difference: Left side minus right side, at the first test.
        step: What each iteration adds to it, of either sign.
    """
    if direction in ("GT", "GE"):
        direction, difference, step = "LT" if direction == "GT" else "LE", -difference, -step
    if direction == "LE":
        direction, difference = "LT", difference - 1
    if direction == "LT":
        if difference >= 0:
            return 0
        return -(difference // step) if step > 0 else None
    if direction == "NE":
        if difference == 0:
            return 0
        return -difference // step if step and difference % step == 0 and -difference // step > 0 else None
    if direction == "EQ":
        return 0 if difference else 1 if step else None
    return None


def _constant(op: Op) -> _Integer | None:
    element_type = op.shape.element_type
    values = literal_values(op.attributes.literal, element_type) if element_type in _RANGES else ()
    return _Integer(None, int(values[0])) if len(values) == 1 else None


def _narrowed(value: _Value, op: Op) -> _Value:
    """A number that also has to fit the type of one more op; None for a type that is not whole."""
    if not isinstance(value, _Integer) or op.shape.element_type == "tuple":
        return value
    bounds = _RANGES.get(op.shape.element_type)
    return _within(value, *bounds) if bounds else None


def _within(value: _Integer, low: int, high: int) -> _Integer | None:
    """A number that has to lie in a range; None for a constant that does not, since it would wrap."""
    if value.path is None:
        return value if low <= value.offset <= high else None
    ends = (low - value.offset, high - value.offset) if value.scale > 0 else (value.offset - high, value.offset - low)
    scale = abs(value.scale)
    return replace(value, low=max(value.low, -(-ends[0] // scale)), high=min(value.high, ends[1] // scale))


def _wrapped(value: _Integer | None, op: Op) -> _Integer | None:
    """A result in its type: constants wrap as they do on a machine; what is added to a state is the nearer way round.

    251 added to a uint8 subtracts 5: the same number as long as neither wraps, which `_within` makes sure of.
    """
    bounds = _RANGES.get(op.shape.element_type)
    if value is None or bounds is None:
        return None
    low, high = bounds
    size = high - low + 1
    if value.path is None:
        return replace(value, offset=(value.offset - low) % size + low)
    return _within(replace(value, offset=(value.offset + size // 2) % size - size // 2), low, high)


def _sum(left: _Integer, right: _Integer) -> _Integer | None:
    if left.path is None:
        left, right = right, left
    if right.path is None:
        return replace(left, offset=left.offset + right.offset)
    return None


def _difference(left: _Integer, right: _Integer) -> _Integer | None:
    return _sum(left, _times(right, -1))


def _product(left: _Integer, right: _Integer) -> _Integer | None:
    if left.path is None:
        left, right = right, left
    return _times(left, right.offset) if right.path is None and right.offset else None


def _times(value: _Integer, factor: int) -> _Integer:
    scale = value.scale * factor if value.path is not None else 1
    return replace(value, offset=value.offset * factor, scale=scale)


_ARITHMETIC: Final[dict[str, Callable[[_Integer, _Integer], _Integer | None]]] = {
    "add": _sum,
    "subtract": _difference,
    "multiply": _product,
}
