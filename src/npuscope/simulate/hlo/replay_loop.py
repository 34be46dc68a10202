"""The loop over the ops of a program that are replayed: compiled, since a program has a hundred thousand of them.

It goes through ops as `columns.ModuleColumns` lists them. An op whose operands are those of an earlier equal op has its value;
one that meets the kinds of operands that an op like it has met repeats that one's template. It stops at any other op, which
`reuse.Reuse` lowers, and goes on behind it.

Importing this module imports numba.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from npuscope._compiled import compiled

Integers = npt.NDArray[np.int64]

SKIPPED, REPLAYED, CALLED, LOWERED = range(4)
"""Classes of ops: nobody needs it, or a parameter; follows from its operands; a call; anything else."""
DONE, MISSING, STOPPED, STALE, FULL, TOO_MANY_OPS, TOO_MANY_INSTRUCTIONS = range(7)
"""Why the loop stopped: at its end; an op is not known; an op is not replayed at all; a value has to be described; an array
is full; limits."""
NO_KIND: Final = -1
MOST_OPERANDS: Final = 3
"""Of an op that is replayed."""
MOST_KINDS: Final = 8
"""Of the operands of an op, with what they are views of."""
MOST_TILES: Final = 128
"""That an op names, and more than what becomes of its operands and its value takes."""
KEY_COLUMNS: Final = MOST_KINDS + 6
"""Length, op, loops, and per operand kinds or places of an earlier one."""


(
    AT, DEPTH, BASE, HANDLES, TILES, KNOWN, INDEXED_KNOWN, REPLAYS, INDEXED_REPLAYS, NUMBERS, EVENTS, BOUND,
    NEXT_TILE, INSTRUCTIONS, MOST_INSTRUCTIONS, OPS, MOST_OPS, LOOP_TILE, HAS_GROUP, POSITION, ITERATION, STALE_HANDLE, COUNTERS,
) = range(23)  # fmt: skip
"""Places in `State.counters`. Where the loop goes on: op, depth of its computation, and of the one that it was called for. How
much there is of each array, and of what is indexed. The program: its next tile, its instructions and the most of them, ops
looked at and the most of them. Where instructions are recorded: register of the iteration (-1 outside of loops), whether a
group is open, what repetitions come behind, and their iteration. The value that is to be described."""


class ProgramColumns(NamedTuple):
    """The ops of a module, numbered through; and its computations."""

    op_class: Integers
    head: Integers
    """The same for equal ops."""
    is_only_use: Integers
    is_shared: Integers
    """Whether several ops may read the value."""
    first_operand: Integers
    """Operands of op i are first_operand[i] to first_operand[i + 1]."""
    operands: Integers
    called: Integers
    """Computation that a call calls."""
    first_op: Integers
    """Of each computation, and behind the last."""
    needed: Integers
    """Ops of each computation that count."""
    root: Integers
    first_parameter: Integers
    parameters: Integers


class State(NamedTuple):
    """What is known so far; as much of each array counts as `counters` says."""

    counters: Integers
    values: Integers
    """Handle of each op's value."""
    stack: Integers
    """Per open call: computation, and op to go on behind."""
    handles: Integers
    """Of each value kind, base (-1 for none), first of its tiles, and whether several ops read it."""
    tiles: Integers
    kinds: Integers
    """Number of tiles, and kind of the same value once it is shared."""
    known: Integers
    """Head, operands and value of ops."""
    known_index: Integers
    keys: Integers
    """Of replays, see `KEY_COLUMNS`."""
    key_index: Integers
    replays: Integers
    """Template, instructions, tiles made, number of the operand that is the result, and else kind, base and tiles of the new
    value; effects."""
    numbers: Integers
    """Lists that replays name by their start: tiles by number; effects as operand, kind, base, number of tiles, tiles."""
    events: Integers
    """Template, position, op, iteration, first tile made."""
    bound: Integers
    """Tiles that the events name."""


(
    TEMPLATE, TEMPLATE_INSTRUCTIONS, TEMPLATE_MADE, RESULT, RESULT_KIND, RESULT_BASE, FIRST_TILE, TILE_COUNT, FIRST_EFFECT,
    EFFECT_COUNT, REPLAY_COLUMNS,
) = range(11)  # fmt: skip
"""Columns of `State.replays`, and their number."""


@compiled
def _mixed(hashed: int, number: int) -> int:
    hashed = (hashed ^ number) * 0x9E3779B97F4A7C1
    return hashed ^ (hashed >> 29)


@compiled
def _known_slot(known: Integers, index: Integers, head: int, a: int, b: int, c: int) -> int:
    """Where the value of an equal op is noted, or is to be."""
    mask = len(index) - 1
    slot = _mixed(_mixed(_mixed(_mixed(7, head), a), b), c) & mask
    while index[slot]:
        row = index[slot] - 1
        if known[row, 0] == head and known[row, 1] == a and known[row, 2] == b and known[row, 3] == c:
            break
        slot = (slot + 1) & mask
    return slot


@compiled
def _key_slot(keys: Integers, index: Integers, key: Integers) -> int:
    """Where the replay of a key is noted, or is to be."""
    mask = len(index) - 1
    length = key[0]
    hashed = 11
    for place in range(length):
        hashed = _mixed(hashed, key[place])
    slot = hashed & mask
    while index[slot]:
        row = index[slot] - 1
        is_same = True
        for place in range(length):
            if keys[row, place] != key[place]:
                is_same = False
                break
        if is_same:
            break
        slot = (slot + 1) & mask
    return slot


@compiled
def share(handles: Integers, kinds: Integers, handle: int) -> None:
    """Note that several ops read a value, where that makes it another kind."""
    kind = handles[handle, 0]
    handles[handle, 3] = 1
    if kind > 0:
        handles[handle, 0] = kinds[kind, 1]


@compiled
def replay_ops(columns: ProgramColumns, state: State) -> int:
    """Go on at the op that the counters name; returns why it stopped, and where in the counters."""
    counters, values, stack, handles, tiles = state.counters, state.values, state.stack, state.handles, state.tiles
    kinds, known, known_index, keys, key_index = (
        state.kinds,
        state.known,
        state.known_index,
        state.keys,
        state.key_index,
    )
    replays, numbers, events, bound = state.replays, state.numbers, state.events, state.bound
    while counters[INDEXED_KNOWN] < counters[KNOWN]:
        row = counters[INDEXED_KNOWN]
        slot = _known_slot(known, known_index, known[row, 0], known[row, 1], known[row, 2], known[row, 3])
        known_index[slot] = row + 1
        counters[INDEXED_KNOWN] += 1
    while counters[INDEXED_REPLAYS] < counters[REPLAYS]:
        row = counters[INDEXED_REPLAYS]
        key_index[_key_slot(keys, key_index, keys[row])] = row + 1
        counters[INDEXED_REPLAYS] += 1
    key = np.empty(KEY_COLUMNS, np.int64)
    met = np.empty(MOST_KINDS, np.int64)
    operand = np.empty(MOST_OPERANDS, np.int64)
    at, depth = counters[AT], counters[DEPTH]
    reason = -1
    while True:
        computation = stack[depth, 0]
        if at == columns.first_op[computation + 1]:
            if depth == counters[BASE]:
                reason = DONE
                break
            at = stack[depth, 1]
            depth -= 1
            values[at] = values[columns.root[computation]]
            if columns.is_shared[at]:
                share(handles, kinds, values[at])
            at += 1
            continue
        op_class = columns.op_class[at]
        if op_class == SKIPPED:
            at += 1
            continue
        if op_class == LOWERED:
            reason = STOPPED
            break
        first, last = columns.first_operand[at], columns.first_operand[at + 1]
        if op_class == CALLED:
            callee = columns.called[at]
            counters[OPS] += columns.needed[callee]
            if counters[OPS] > counters[MOST_OPS]:
                reason = TOO_MANY_OPS
                break
            if depth + 1 >= len(stack):
                counters[OPS] -= columns.needed[callee]
                reason = FULL
                break
            for index in range(last - first):
                parameter = columns.parameters[columns.first_parameter[callee] + index]
                values[parameter] = values[columns.operands[first + index]]
                if columns.is_shared[parameter]:
                    share(handles, kinds, values[parameter])
            depth += 1
            stack[depth, 0] = callee
            stack[depth, 1] = at
            at = columns.first_op[callee]
            continue
        for index in range(MOST_OPERANDS):
            operand[index] = values[columns.operands[first + index]] if index < last - first else -1
        head = columns.head[at]
        slot = _known_slot(known, known_index, head, operand[0], operand[1], operand[2])
        if known_index[slot]:
            values[at] = known[known_index[slot] - 1, 4]
            if columns.is_shared[at]:
                share(handles, kinds, values[at])
            at += 1
            continue
        if counters[HAS_GROUP]:
            reason = MISSING
            break

        # The kinds that it meets, and the values that have them.
        key[1] = 2 * head + columns.is_only_use[at]
        key[2] = counters[LOOP_TILE] >= 0
        length, count = 3, 0
        for index in range(last - first):
            handle = operand[index]
            while handle >= 0:
                place = -1
                for other in range(count):
                    if met[other] == handle:
                        place = other
                if place >= 0:
                    key[length] = -1 - place
                    length += 1
                    break
                kind = handles[handle, 0]
                if kind == 0:
                    counters[STALE_HANDLE] = handle
                    reason = STALE
                    break
                if kind < 0 or count == MOST_KINDS:
                    reason = MISSING
                    break
                key[length] = kind
                length += 1
                met[count] = handle
                count += 1
                handle = handles[handle, 1]
            if reason >= 0:
                break
        if reason >= 0:
            break
        key[0] = length
        slot_of_key = _key_slot(keys, key_index, key)
        if not key_index[slot_of_key]:
            reason = MISSING
            break
        replay = replays[key_index[slot_of_key] - 1]
        if counters[INSTRUCTIONS] + replay[TEMPLATE_INSTRUCTIONS] > counters[MOST_INSTRUCTIONS]:
            reason = TOO_MANY_INSTRUCTIONS
            break
        if (
            counters[EVENTS] >= len(events)
            or counters[HANDLES] >= len(handles)
            or 2 * counters[KNOWN] + 2 > len(known_index)
            or counters[KNOWN] >= len(known)
            or counters[BOUND] + MOST_TILES > len(bound)
            or counters[TILES] + MOST_TILES > len(tiles)
        ):
            reason = FULL
            break

        # Its tiles, and the event.
        named = counters[BOUND]
        if counters[LOOP_TILE] >= 0:
            bound[named] = counters[LOOP_TILE]
            named += 1
        for index in range(count):
            start = handles[met[index], 2]
            for tile in range(kinds[handles[met[index], 0], 0]):
                bound[named] = tiles[start + tile]
                named += 1
        bound_start, bound_count = counters[BOUND], named - counters[BOUND]
        made = counters[NEXT_TILE]
        event = events[counters[EVENTS]]
        event[0] = replay[TEMPLATE]
        event[1] = counters[POSITION]
        event[2] = at
        event[3] = counters[ITERATION]
        event[4] = made
        counters[EVENTS] += 1
        counters[BOUND] = named
        counters[NEXT_TILE] += replay[TEMPLATE_MADE]
        counters[INSTRUCTIONS] += replay[TEMPLATE_INSTRUCTIONS]

        # What becomes of its operands.
        step = replay[FIRST_EFFECT]
        for _ in range(replay[EFFECT_COUNT]):
            handle = met[numbers[step]]
            handles[handle, 0] = numbers[step + 1]
            handles[handle, 1] = met[numbers[step + 2]] if numbers[step + 2] >= 0 else -1
            handles[handle, 2] = counters[TILES]
            for index in range(numbers[step + 3]):
                number = numbers[step + 4 + index]
                tile = bound[bound_start + number] if number < bound_count else made + number - bound_count
                tiles[counters[TILES]] = tile
                counters[TILES] += 1
            step += 4 + numbers[step + 3]

        # Its value.
        if replay[RESULT] >= 0:
            value = met[replay[RESULT]]
        else:
            value = counters[HANDLES]
            counters[HANDLES] += 1
            handles[value, 0] = replay[RESULT_KIND]
            handles[value, 1] = met[replay[RESULT_BASE]] if replay[RESULT_BASE] >= 0 else -1
            handles[value, 2] = counters[TILES]
            handles[value, 3] = 0
            for index in range(replay[TILE_COUNT]):
                number = numbers[replay[FIRST_TILE] + index]
                tile = bound[bound_start + number] if number < bound_count else made + number - bound_count
                tiles[counters[TILES]] = tile
                counters[TILES] += 1
        row = counters[KNOWN]
        known[row, 0] = head
        known[row, 1] = operand[0]
        known[row, 2] = operand[1]
        known[row, 3] = operand[2]
        known[row, 4] = value
        known_index[slot] = row + 1
        counters[KNOWN] += 1
        counters[INDEXED_KNOWN] += 1
        values[at] = value
        if columns.is_shared[at]:
            share(handles, kinds, value)
        at += 1
    counters[AT], counters[DEPTH] = at, depth
    return reason
