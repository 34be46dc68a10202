"""Ops that become the same instructions as one before them: replayed with other tiles instead of lowered again.

Models repeat themselves: layer after layer does the same with arrays of the same shapes. What an op becomes follows from the
op itself and from how its operands lie: shape, grid, on the chip or in HBM, turned or spread already. All of that but the
numbers of the tiles is the *kind* of a value. Where an op meets the kinds that one like it has met, its instructions differ in
their tiles only. An op is lowered when it is first seen, recorded as a template when it is seen again, and replayed from then
on, by a compiled loop (`replay_loop`).

Values of no kind (of several tiles, in an open group, at computed addresses) make their ops be lowered each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from npuscope.simulate.hlo import replay_loop as loop
from npuscope.simulate.hlo.columns import ModuleColumns
from npuscope.simulate.hlo.recorder import Recorder
from npuscope.simulate.hlo.values import HbmView, Value
from npuscope.simulate.neuroncore.program import Box, Template

_MOST_TURNED: Final = 8
"""Turned row tiles of a value that has a kind."""
_MOST_TRIES: Final = 3
"""Of recording a template; then ops like it are always lowered."""
_CONSTANT: Final = (
    "shape", "grid", "dtype", "itemsize", "is_uniform", "is_register", "view", "dimensions", "deferred", "row_run_elements",
)  # fmt: skip
"""Fields of a value that hold neither tiles nor values."""
_ROOM: Final = 2 * loop.MOST_TILES
"""Rows that an array has left when the loop begins, at the least: more than one op takes."""


class _Kind(NamedTuple):
    """All of a value but its tiles and its base."""

    constants: dict[str, Any]
    whole: Box | None
    """With a tile that stands for another one; `hbm`, too. Tiles of a value are in the order of these fields."""
    is_held: bool
    hbm: HbmView | None
    is_spread: bool
    turned: tuple[int, ...]
    """Keys of `Value.turned`."""
    is_shared: bool


class Reuse:
    """The values of one program by number (their handles), and what its ops become."""

    def __init__(self, rec: Recorder, module: ModuleColumns, most_ops: int) -> None:
        self.rec = rec
        self.columns = module.columns
        size = len(module.ops)
        numbers = np.zeros(loop.COUNTERS, np.int64)
        numbers[[loop.MOST_OPS, loop.MOST_INSTRUCTIONS, loop.DEPTH]] = most_ops, rec.builder.max_instructions, -1
        self.counters = numbers.data
        """See `replay_loop`. Single numbers of a view are read and written faster than those of an array; so in the next ones."""
        self.state = loop.State(
            counters=numbers,
            values=np.full(size, -1, np.int64),
            stack=_rows(64, 2),
            handles=_rows(size + 2 * _ROOM, 4),
            tiles=_rows(2 * size + 2 * _ROOM),
            kinds=_rows(256, 2),
            known=_rows(size + 2 * _ROOM, 5),
            known_index=_rows(1 << (2 * size + 4 * _ROOM).bit_length()),
            keys=_rows(256, loop.KEY_COLUMNS),
            key_index=_rows(1024),
            replays=_rows(256, loop.REPLAY_COLUMNS),
            numbers=_rows(1024),
            events=_rows(size + 2 * _ROOM, 5),
            bound=_rows(3 * size + 2 * _ROOM),
        )
        self._handles, self._values = self.state.handles.data, self.state.values.data
        self._operands, self._first_operand = self.columns.operands.data, self.columns.first_operand.data
        self._objects: dict[int, Value] = {}
        """Values that are more than a handle, and what their handle said when they were last the same."""
        self._agreed: dict[int, tuple[int, int]] = {}
        self._kinds: list[_Kind | None] = [None]
        """By number; 0 is that of a value whose kind has to be told anew. They keep what keys name by identity."""
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._tries: dict[tuple[int, ...], int] = {}
        self._left: list[tuple[int, int]] = []
        """Where to go on when the computation of a loop has ended."""

    # -- values

    def handle(self, value: Value) -> int:
        """The handle of a value: always the same one."""
        if value.handle < 0:
            handle = value.handle = self.counters[loop.HANDLES]
            if handle + 1 >= len(self._handles):
                self._make_room()
            self.counters[loop.HANDLES] = handle + 1
            handles = self._handles
            handles[handle, 0], handles[handle, 1], handles[handle, 3] = 0, -1, value.is_shared
            self._objects[handle] = value
        return value.handle

    def released(self, handle: int) -> Value:
        """The value of a handle, for someone who may change it and what belongs to it."""
        handles = self._handles
        kind = handles[handle, 0]
        value = self._objects.get(handle)
        if kind:
            if kind > 0 and (value is None or self._agreed.get(handle) != (kind, handles[handle, 2])):
                value = self._made(handle)
            self._handles[handle, 0] = 0
        assert value is not None  # noqa: S101  # what has no kind is an object
        if self._handles[handle, 3]:
            value.is_shared = True
        if value.base is not None:
            self.released(self.handle(value.base))
        if value.parts:
            for part in value.parts:
                self.released(self.handle(part))
        if value.elsewhere:
            for copy in value.elsewhere.values():
                self.released(self.handle(copy))
        return value

    def share(self, handle: int) -> None:
        """Note that several ops read a value."""
        loop.share(self.state.handles, self.state.kinds, handle)

    def _made(self, handle: int) -> Value:
        """Let an object be what its handle says."""
        number, base, first, _ = self.state.handles[handle].tolist()
        kind = self._kinds[number]
        assert kind is not None  # noqa: S101  # numbers from 1 on have one
        value = self._objects.get(handle)
        if value is None:
            value = self._objects[handle] = Value.__new__(Value)
        fields = vars(value)
        fields.clear()
        fields.update(kind.constants)
        tiles = iter(self.state.tiles[first : first + self.state.kinds[number, 0]].tolist())
        if kind.whole is not None:
            value.whole = kind.whole._replace(tile=next(tiles))
            value.tiles = [value.whole.tile]
        elif kind.is_held:
            value.tiles = [next(tiles)]
        if kind.hbm is not None:
            value.hbm = kind.hbm._replace(tile=next(tiles))
        if kind.is_spread:
            value.spread = next(tiles)
        if kind.turned:
            value.turned = dict(zip(kind.turned, tiles, strict=True))
        if base >= 0:
            value.base = self.released(base)
        value.is_shared, value.handle = kind.is_shared, handle
        self._agreed[handle] = number, first
        return value

    def _describe(self, handle: int) -> int:
        """Tell the kind of a value anew."""
        value = self._objects[handle]
        handles, counters = self._handles, self.counters
        whole, hbm, turned = value.whole, value.hbm, value.turned
        is_held = whole is None and value.tiles is not None
        handles[handle, 0] = loop.NO_KIND
        if (
            value.pending
            or value.addresses
            or value.elsewhere is not None
            or value.stored is not None
            or value.parts is not None
            or (is_held and not value.is_register)
            or (value.tiles is not None and len(value.tiles) != 1)
            or (turned is not None and len(turned) > _MOST_TURNED)
        ):
            return loop.NO_KIND
        tiles = list(value.tiles or ())
        if hbm is not None:
            tiles.append(hbm.tile)
        if value.spread >= 0:
            tiles.append(value.spread)
        if turned:
            tiles += turned.values()
        # Whether it is shared only matters to those that would overwrite it in HBM.
        is_shared = hbm is not None and bool(value.is_shared or handles[handle, 3])
        number = self._number_of(value, is_shared=is_shared)
        if hbm is not None and not is_shared:
            self.state.kinds[number, 1] = self._number_of(value, is_shared=True)
        base = -1 if value.base is None else self.handle(value.base)
        first = counters[loop.TILES]
        if first + len(tiles) >= len(self.state.tiles):
            self._make_room()
        for tile in tiles:
            self.state.tiles[counters[loop.TILES]] = tile
            counters[loop.TILES] += 1
        handles = self._handles
        handles[handle, 0], handles[handle, 1], handles[handle, 2] = number, base, first
        self._agreed[handle] = number, first
        return number

    def _number_of(self, value: Value, *, is_shared: bool) -> int:
        whole, hbm = value.whole, value.hbm
        is_held, is_spread, turned = (
            whole is None and value.tiles is not None,
            value.spread >= 0,
            tuple(value.turned or ()),
        )
        key = (
            id(value.shape), id(value.grid), whole and whole[1:], hbm and hbm[1:], is_held, is_spread, turned, is_shared,
            value.is_uniform, value.is_register, value.view if value.base is not None else "", value.dimensions, value.deferred,
            value.row_run_elements,
        )  # fmt: skip
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._kinds)
            constants = {name: content for name, content in vars(value).items() if name in _CONSTANT}
            self._kinds.append(_Kind(constants, whole, is_held, hbm, is_spread, turned, is_shared))
            if number >= len(self.state.kinds):
                self.state = self.state._replace(kinds=_doubled(self.state.kinds))
            tiles = (value.tiles is not None) + (hbm is not None) + is_spread + len(turned)
            self.state.kinds[number] = tiles, number
        return number

    # -- the loop

    def enter(self, place: int, arguments: Sequence[int]) -> None:
        """Go on with a computation."""
        counters, columns = self.counters, self.columns
        self._left.append((counters[loop.AT], counters[loop.BASE]))
        counters[loop.OPS] += int(columns.needed[place])
        depth = counters[loop.DEPTH] + 1
        if depth >= len(self.state.stack):
            self.state = self.state._replace(stack=_doubled(self.state.stack))
        counters[loop.DEPTH] = counters[loop.BASE] = depth
        counters[loop.AT] = int(columns.first_op[place])
        self.state.stack[depth] = place, -1
        first = columns.first_parameter[place]
        for parameter, argument in zip(
            columns.parameters[first : first + len(arguments)].tolist(), arguments, strict=True
        ):
            self.put(parameter, argument)

    def leave(self, place: int) -> int:
        """The value of a computation that has ended; what called it goes on."""
        self.counters[loop.DEPTH] -= 1
        self.counters[loop.AT], self.counters[loop.BASE] = self._left.pop()
        return int(self.state.values[self.columns.root[place]])

    def put(self, number: int, handle: int) -> None:
        """Let an op have a value."""
        self._values[number] = handle
        if self.columns.is_shared[number]:
            self.share(handle)

    def operands(self, number: int) -> list[int]:
        """Handles of the operands of an op."""
        values, first = self._values, self._first_operand
        return [values[place] for place in self._operands[first[number] : first[number + 1]]]

    def run(self) -> int:
        """Go on until an op has to be lowered; returns why, see `replay_loop`."""
        rec, counters, builder = self.rec, self.counters, self.rec.builder
        while True:
            counters[loop.NEXT_TILE], counters[loop.INSTRUCTIONS] = builder.tile_count, len(builder)
            counters[loop.LOOP_TILE] = rec.loops[-1] if rec.loops else -1
            counters[loop.HAS_GROUP] = bool(rec.group)
            counters[loop.POSITION], counters[loop.ITERATION] = builder.position, builder.iteration
            first = counters[loop.EVENTS]
            reason: int = loop.replay_ops(self.columns, self.state)
            last = counters[loop.EVENTS]
            if last > first:
                builder.repeated(self.state.events[first:last, 0].tolist())
            if reason == loop.STALE:
                if self._describe(counters[loop.STALE_HANDLE]) < 0:
                    return loop.MISSING
            elif reason == loop.FULL:
                self._make_room(double=True)
            else:
                return reason

    def _make_room(self, *, double: bool = False) -> None:
        """Let arrays that are about to be full grow."""
        counters, state = self.counters, self.state
        for name, counter in (
            ("handles", loop.HANDLES), ("tiles", loop.TILES), ("known", loop.KNOWN), ("keys", loop.REPLAYS),
            ("replays", loop.REPLAYS), ("numbers", loop.NUMBERS), ("events", loop.EVENTS), ("bound", loop.BOUND),
        ):  # fmt: skip
            array = getattr(state, name)
            if counters[counter] + _ROOM > len(array):
                state = state._replace(**{name: _doubled(array)})
        if double and counters[loop.DEPTH] + 2 > len(state.stack):
            state = state._replace(stack=_doubled(state.stack))
        if 2 * (counters[loop.KNOWN] + _ROOM) > len(state.known_index):
            state = state._replace(known_index=_rows(2 * len(state.known_index)))
            counters[loop.INDEXED_KNOWN] = 0
        if 2 * (counters[loop.REPLAYS] + _ROOM) > len(state.key_index):
            state = state._replace(key_index=_rows(2 * len(state.key_index)))
            counters[loop.INDEXED_REPLAYS] = 0
        self.state = state
        self._handles = state.handles.data

    # -- ops

    def lowered(self, number: int, lower: Callable[[list[Value]], Value]) -> int:
        """The value of an op that follows from nothing but the op and its operands, and that is not known yet.

        Args:
            number: Of the op.
            lower: Lowers it, given its operands.
        """
        operands = self.operands(number)
        key, tiles, handles = self._key(number, operands)
        if key is None:
            value = self.anew(operands, lower)
        elif self._tries.get(key, -1) in (-1, _MOST_TRIES):
            self._tries.setdefault(key, 0)
            value = self.anew(operands, lower)
        else:
            self._tries[key] += 1
            value = self._recorded(key, tiles, handles, lambda: self.anew(operands, lower))
        row = self.counters[loop.KNOWN]
        if row + 1 >= len(self.state.known):
            self._make_room()
        self.state.known[row] = (self.columns.head[number], *[*operands, -1, -1, -1][: loop.MOST_OPERANDS], value)
        self.counters[loop.KNOWN] += 1
        return value

    def anew(self, operands: Sequence[int], lower: Callable[[list[Value]], Value]) -> int:
        """Lower an op whatever is known."""
        return self.handle(lower([self.released(operand) for operand in operands]))

    def _key(self, number: int, operands: Sequence[int]) -> tuple[tuple[int, ...] | None, list[int], list[int]]:
        """What the instructions of an op follow from, as the loop has it; the tiles and the values that it meets."""
        loops = self.rec.loops
        tiles = loops[-1:]
        key = [int(2 * self.columns.head[number] + self.columns.is_only_use[number]), len(tiles)]
        met: list[int] = []
        if self.rec.group:
            return None, tiles, met
        for operand in operands:
            handle = operand
            while handle >= 0:
                if handle in met:
                    key.append(-1 - met.index(handle))
                    break
                kind = self._handles[handle, 0] or self._describe(handle)
                if kind < 0 or len(met) == loop.MOST_KINDS:
                    return None, tiles, met
                key.append(kind)
                met.append(handle)
                tiles = [*tiles, *self._tiles(handle)]
                handle = self._handles[handle, 1]
        return (len(key) + 1, *key), tiles, met

    def _tiles(self, handle: int) -> list[int]:
        kind, _, first, _ = self.state.handles[handle].tolist()
        found: list[int] = self.state.tiles[first : first + self.state.kinds[kind, 0]].tolist()
        return found

    def _recorded(self, key: tuple[int, ...], tiles: list[int], handles: list[int], lower: Callable[[], int]) -> int:
        """Lower an op and keep what it became, if that can be told in full."""
        rec = self.rec
        before = [self._now(handle) for handle in handles]
        surroundings = rec.surroundings()
        mark = rec.builder.mark()
        result = lower()
        if len(set(tiles)) < len(tiles) or rec.group or rec.surroundings() != surroundings:
            return result
        template = rec.builder.template(mark, tiles, rec.constant_tiles())
        if template is None:
            return result
        effects: list[int] = []
        changed = 0
        for place, (handle, old) in enumerate(zip(handles, before, strict=True)):
            told = self._told(handle, template, handles)
            if told is None:
                return result
            if self._now(handle) != old:
                changed += 1
                effects += (place, told[0], told[1], len(told) - 2, *told[2:])
        value: tuple[int, ...] | None = (0, -1)
        place = handles.index(result) if result in handles else -1
        if place < 0:
            value = self._told(result, template, handles)
        if value is not None:
            self._keep(key, template, place, value, effects, changed)
        return result

    def _now(self, handle: int) -> tuple[int, int, list[int]]:
        kind, base, _, _ = self.state.handles[handle].tolist()
        return kind, base, self._tiles(handle) if kind > 0 else []

    def _told(self, handle: int, template: Template, handles: Sequence[int]) -> tuple[int, ...] | None:
        """Kind, base and tiles of a value by number; None where others than those of the op are among them."""
        kind = self._handles[handle, 0] or self._describe(handle)
        if kind < 0:
            return None
        base = self._handles[handle, 1]
        places = [template.slots.get(tile, -1) for tile in self._tiles(handle)]
        if min(places, default=0) < 0 or not (base < 0 or base in handles):
            return None
        return kind, -1 if base < 0 else handles.index(base), *places

    def _keep(
        self,
        key: tuple[int, ...],
        template: Template,
        place: int,
        value: Sequence[int],
        effects: list[int],
        changed: int,
    ) -> None:
        counters = self.counters
        first = counters[loop.NUMBERS]
        numbers = [*value[2:], *effects]
        while first + len(numbers) + _ROOM > len(self.state.numbers):
            self.state = self.state._replace(numbers=_doubled(self.state.numbers))
        self._make_room()
        self.state.numbers[first : first + len(numbers)] = numbers
        counters[loop.NUMBERS] += len(numbers)
        row = counters[loop.REPLAYS]
        self.state.keys[row, : len(key)] = key
        self.state.replays[row] = (
            template.number, template.instructions, len(template.made), place, value[0], value[1], first, len(value) - 2,
            first + len(value) - 2, changed,
        )  # fmt: skip
        counters[loop.REPLAYS] += 1


def _rows(count: int, *columns: int) -> loop.Integers:
    return np.zeros((count, *columns), np.int64)


def _doubled(array: loop.Integers) -> loop.Integers:
    return np.concatenate([array, np.zeros_like(array)])
