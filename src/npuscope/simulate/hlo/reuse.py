"""Ops that become the same instructions as one before them: replayed with other tiles instead of lowered again.

Models repeat themselves: layer after layer does the same with arrays of the same shapes. What an op becomes follows from the
op itself and from how its operands lie: shape, grid, on the chip or in HBM, turned or spread already. All of that but the
numbers of the tiles is the *kind* of a value. Where an op meets the kinds that one like it has met, its instructions differ in
their tiles only. An op is lowered when it is first seen, recorded as a template when it is seen again, and replayed from then
on, so that programs that repeat nothing pay next to nothing.

Values of no kind (of several tiles, in an open group, at computed addresses) make their ops be lowered each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from npuscope.formats.hlo import Op
from npuscope.simulate.hlo.recorder import Recorder
from npuscope.simulate.hlo.values import HbmView, Value
from npuscope.simulate.neuroncore.program import Box, Template

Lowering = Callable[[Any, Op, list[Value], bool], Value]
_STALE: Final = 0
_NO_KIND: Final = -1
_MOST_TRIES: Final = 3
"""Of recording a template; then ops like it are always lowered."""
_CONSTANT: Final = (
    "shape", "grid", "dtype", "itemsize", "is_uniform", "is_register", "view", "dimensions", "deferred", "row_run_elements",
)  # fmt: skip
"""Fields of a value that hold neither tiles nor values."""


class Handle:
    """A value by its kind and its tiles; the `Value` is made of them when a lowering needs it."""

    __slots__ = ("base", "is_shared", "kind", "tiles", "value")

    def __init__(self, kind: int, tiles: tuple[int, ...], base: Handle | None, value: Value | None = None) -> None:
        self.kind = kind
        self.tiles = tiles
        self.base = base
        """What it is a view of."""
        self.value = value
        self.is_shared = False


class _Kind(NamedTuple):
    """All of a value but its tiles and its base."""

    constants: dict[str, Any]
    whole: Box | None
    hbm: HbmView | None
    """With tiles that stand for another one; as of the others, in the order of the tiles of a handle."""
    is_held: bool
    is_spread: bool
    is_turned: bool
    is_shared: bool


class _Replay(NamedTuple):
    """What an op becomes; tiles are numbered through those of its operands and then those that it makes."""

    template: Template
    result: int
    """Number of the operand (or view's base) that is the result; -1 for a new value."""
    kind: int
    tiles: tuple[int, ...]
    base: int
    """Of the new value: number among the operands, -1 for none."""
    effects: tuple[tuple[int, int, tuple[int, ...], int], ...]
    """What becomes of operands: number, and then their kind, tiles and base."""


class Reuse:
    """Knows the ops of one program."""

    def __init__(self, rec: Recorder) -> None:
        self.rec = rec
        self._replays: dict[tuple[Any, ...], _Replay | int] = {}
        """By what the instructions follow from; a number is that of tries so far."""
        self._plain: dict[tuple[tuple[bool, int, object], int, int], tuple[Template, int]] = {}
        """Those of two operands that are no views, outside of loops, which leave a new value in the first tile and nothing else."""
        self._repeat = rec.builder.repeat
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._kinds: list[_Kind | None] = [None]
        """By number; 0 is `_STALE`. They keep the shapes and grids that keys name by identity."""

    # -- values

    def handle(self, value: Value) -> Handle:
        """The handle of a value: always the same one."""
        known: Handle | None = value.handle
        if known is None:
            known = value.handle = Handle(_STALE, (), None, value)
            known.is_shared = value.is_shared
        return known

    def released(self, handle: Handle) -> Value:
        """The value of a handle, for someone who may change it and what belongs to it."""
        found = handle.value or self._made(handle)
        handle.kind = _STALE
        if found.base is not None:
            self.released(self.handle(found.base))
        for part in found.parts or ():
            self.released(self.handle(part))
        for copy in (found.elsewhere or {}).values():
            self.released(self.handle(copy))
        return found

    def share(self, handle: Handle) -> None:
        """Note that several ops read a value."""
        if handle.is_shared:
            return
        handle.is_shared = True
        kind = self._kinds[handle.kind] if handle.kind > 0 else None
        if kind is not None and kind.hbm is not None:
            self.released(handle)
        if handle.value is not None:
            handle.value.is_shared = True

    def _made(self, handle: Handle) -> Value:
        value = handle.value = Value.__new__(Value)
        self._fill(value, handle)
        return value

    def _fill(self, value: Value, handle: Handle) -> None:
        """Let a value be what its handle says."""
        kind = self._kinds[handle.kind]
        assert kind is not None  # noqa: S101  # a handle without a kind has its value
        fields = vars(value)
        fields.clear()
        fields.update(kind.constants)
        tiles = iter(handle.tiles)
        if kind.whole is not None:
            value.whole = kind.whole._replace(tile=next(tiles))
            value.tiles = [value.whole.tile]
        elif kind.is_held:
            value.tiles = [next(tiles)]
        if kind.hbm is not None:
            value.hbm = kind.hbm._replace(tile=next(tiles))
        if kind.is_spread:
            value.spread = next(tiles)
        if kind.is_turned:
            value.turned = {0: next(tiles)}
        if handle.base is not None:
            value.base = handle.base.value or self._made(handle.base)
        value.is_shared = handle.is_shared or kind.is_shared
        value.handle = handle

    def _describe(self, handle: Handle) -> int:
        """Tell the kind of a value anew."""
        value = handle.value
        assert value is not None  # noqa: S101  # only a handle with a value is stale
        whole, hbm, turned = value.whole, value.hbm, value.turned
        is_held = whole is None and value.tiles is not None
        handle.kind = _NO_KIND
        if (
            value.pending
            or value.addresses
            or value.elsewhere is not None
            or value.stored is not None
            or value.parts is not None
            or (is_held and not value.is_register)
            or (value.tiles is not None and len(value.tiles) != 1)
            or (turned and (len(turned) != 1 or 0 not in turned))
        ):
            return _NO_KIND
        tiles = []
        if value.tiles is not None:
            tiles.append(value.tiles[0])
        if hbm is not None:
            tiles.append(hbm.tile)
        if value.spread >= 0:
            tiles.append(value.spread)
        if turned:
            tiles.append(turned[0])
        # Whether it is shared only matters to those that would overwrite it in HBM.
        is_shared = hbm is not None and (value.is_shared or handle.is_shared)
        key = (
            id(value.shape), id(value.grid), whole and whole[1:], hbm and hbm[1:], is_held, value.spread >= 0, bool(turned),
            is_shared, value.is_uniform, value.is_register, value.view if value.base is not None else "",
            value.dimensions, value.deferred, value.row_run_elements,
        )  # fmt: skip
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._kinds)
            constants = {name: content for name, content in vars(value).items() if name in _CONSTANT}
            self._kinds.append(_Kind(constants, whole, hbm, is_held, value.spread >= 0, bool(turned), is_shared))
        handle.kind = number
        handle.tiles = tuple(tiles)
        handle.base = None if value.base is None else self.handle(value.base)
        return number

    # -- ops

    def lowered(
        self, lowering: Lowering, lowerer: Any, op: Op, operands: list[Handle], head: tuple[bool, int, object]
    ) -> Handle:
        """The value of an op that follows from nothing but the op and its operands: replayed where it is known, else lowered.

        Args:
            lowering: Lowers it.
            lowerer: Handed on to it.
            op: The op.
            operands: Its operands.
            head: All that its instructions follow from but for its operands: whether its value is used once, the identity of
                its attributes (which hold opcode and shape, too), and which functions it calls.
        """
        rec = self.rec
        if rec.group:
            return self._anew(lowering, lowerer, op, operands, head[0])
        if len(operands) == 2 and not rec.loops:  # the common case, made quick
            left, right = operands
            if left.kind > 0 and right.kind > 0 and left.base is right.base is None and left is not right:
                quick = self._plain.get((head, left.kind, right.kind))
                if quick is not None:
                    return Handle(quick[1], (self._repeat(quick[0], left.tiles + right.tiles, op.name),), None)
        tiles: tuple[int, ...] = (rec.loops[-1],) if rec.loops else ()
        key: list[Any] = [head, len(tiles)]
        handles: list[Handle] = []
        for operand in operands:
            one: Handle | None = operand
            while one is not None:
                if one in handles:
                    key.append(-1 - handles.index(one))
                    break
                kind = one.kind or self._describe(one)
                if kind < 0:
                    return self._anew(lowering, lowerer, op, operands, head[0])
                key.append(kind)
                handles.append(one)
                tiles += one.tiles
                one = one.base
        known = tuple(key)
        replay = self._replays.get(known)
        if isinstance(replay, _Replay):
            return self._replayed(replay, tiles, handles, op.name)
        if replay is None:
            self._replays[known] = 0
        elif replay < _MOST_TRIES:
            self._replays[known] = replay + 1
            return self._recorded(known, tiles, handles, lambda: self._anew(lowering, lowerer, op, operands, head[0]))
        return self._anew(lowering, lowerer, op, operands, head[0])

    def _anew(self, lowering: Lowering, lowerer: Any, op: Op, operands: list[Handle], is_only_use: bool) -> Handle:
        return self.handle(lowering(lowerer, op, [self.released(operand) for operand in operands], is_only_use))

    def _replayed(self, replay: _Replay, tiles: tuple[int, ...], handles: list[Handle], name: str) -> Handle:
        template, result, kind, places, base, effects = replay
        first = self._repeat(template, tiles, name)
        tiles = (*tiles, *range(first, first + len(template.made)))
        for number, new_kind, new_places, new_base in effects:
            handle = handles[number]
            handle.kind = new_kind
            handle.tiles = tuple([tiles[place] for place in new_places])
            handle.base = handles[new_base] if new_base >= 0 else None
            if handle.value is not None:
                self._fill(handle.value, handle)
        if result >= 0:
            return handles[result]
        return Handle(kind, tuple([tiles[place] for place in places]), handles[base] if base >= 0 else None)

    def _recorded(
        self, key: tuple[Any, ...], tiles: tuple[int, ...], handles: list[Handle], lower: Callable[[], Handle]
    ) -> Handle:
        """Lower an op and keep what it became, if that can be told in full."""
        rec = self.rec
        before = [(handle.kind, handle.tiles, handle.base) for handle in handles]
        surroundings = rec.surroundings()
        mark = rec.builder.mark()
        result = lower()
        if len(set(tiles)) < len(tiles) or rec.group or rec.surroundings() != surroundings:
            return result
        template = rec.builder.template(mark, tiles, rec.constant_tiles())
        if template is None:
            return result
        told = [self._told(handle, template, handles) for handle in (result, *handles)]
        effects = []
        for number, (handle, old) in enumerate(zip(handles, before, strict=True)):
            now = told[number + 1]
            if now is None:
                return result
            if (handle.kind, handle.tiles, handle.base) != old:
                effects.append((number, *now))
        place = handles.index(result) if result in handles else -1
        if told[0] is not None:
            kind, places, base = told[0]
            self._replays[key] = _Replay(template, place, kind, places, base, tuple(effects))
            head, loops, *kinds = key
            are_apart = len(handles) == len(kinds) == 2 and not any(handle.base for handle in handles)
            if are_apart and not loops and place < 0 and places == (len(tiles),) and base < 0 and not effects:
                self._plain[head, kinds[0], kinds[1]] = template, kind
        return result

    def _told(
        self, handle: Handle, template: Template, handles: Sequence[Handle]
    ) -> tuple[int, tuple[int, ...], int] | None:
        """Kind of a value, and its tiles and its base by number; None where others than those of the op are among them."""
        kind = handle.kind or self._describe(handle)
        places = tuple([template.slots.get(tile, -1) for tile in handle.tiles])
        base = handle.base
        if kind < 0 or min(places, default=0) < 0 or not (base is None or base in handles):
            return None
        return kind, places, -1 if base is None else handles.index(base)
