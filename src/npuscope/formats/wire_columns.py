"""The fields of many protobuf messages at once: all messages go ahead field by field together, as columns.

A message per op of a program, each of some ten fields, is too many for a loop in Python; the loop here is over the fields of
the longest message. Source: Protocol Buffers documentation, "Encoding".
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LINE_FEED: Final = 10
_CUT: Final = "damaged data"
_VARINT_LIMIT: Final = 10
_TAG_LIMIT: Final = 5
_SIZES: Final = np.array([0, 8, 0, -1, -1, 4, -1, -1])
"""Bytes of each wire type where they are fixed; -1 for what is no field."""


MOST_FIELDS: Final = 10_000
"""Of one message; an op has some ten. All messages wait for the longest one."""


class DamagedMessageError(ValueError):
    """A message ends within a field, holds what is no field, or too many; `args[0]` is its number, `args[1]` what is wrong."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Fields of many messages: for each message in the order in which it has them, but messages are mixed.

    All arrays are as long as there are fields.
    """

    data: Bytes
    """All messages, one after the other, and one byte more."""
    starts: Integers
    """Where each message begins; and, last, where they end."""
    message: Integers
    """Number of the message that a field belongs to."""
    number: Integers
    wire: Integers
    """How the value is encoded: 0 as a number, 1 and 5 as 8 and 4 bytes, 2 as a length and bytes."""
    tag_start: Integers
    start: Integers
    """Of the value: of a number, the bytes that encode it."""
    stop: Integers

    def _of(self, number: int, *wires: int) -> Integers:
        """Fields of a number; one that is encoded in another way is another field, and skipped as those that nobody knows."""
        places = np.flatnonzero(self.number == number)
        return places[np.isin(self.wire[places], wires)]

    def texts(self, number: int) -> list[str]:
        """A text in each message: the last one, as protobuf has it; '' where there is none. What is not UTF-8 is replaced."""
        places = self._of(number, _BYTES)
        count = len(self.starts) - 1
        if len(places) == count and np.array_equal(np.sort(self.message[places]), np.arange(count)):
            # Taken out of the data together, each with a line feed behind it, instead of one by one.
            data = self.data.copy()
            data[self.stop[places]] = _LINE_FEED
            joined: bytes = data[self._mask(self.start[places], self.stop[places] + 1)].tobytes()
            if joined.isascii() and joined.count(b"\n") == count:
                return joined.decode("ascii").split("\n")[:count]
        spans = np.zeros((2, count), np.int64)
        spans[:, self.message[places]] = self.start[places], self.stop[places]
        whole = self.data.tobytes()
        return [whole[start:stop].decode("utf-8", "replace") for start, stop in spans.T.tolist()]

    def without(self, numbers: frozenset[int]) -> list[bytes]:
        """Each message without the fields of some numbers."""
        wanted = np.flatnonzero(~np.isin(self.number, sorted(numbers)))
        start, stop = self.tag_start[wanted], self.stop[wanted]
        joined = self.data[self._mask(start, stop)].tobytes()
        lengths = np.bincount(self.message[wanted], stop - start, minlength=len(self.starts) - 1).astype(np.int64)
        ends = np.cumsum(lengths)
        return [joined[start:end] for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True)]

    def _mask(self, start: Integers, stop: Integers) -> npt.NDArray[np.bool_]:
        """The bytes of some spans, which do not overlap."""
        order = np.argsort(start)
        edges = np.zeros(2 * len(start) + 2, np.int64)
        edges[1:-1:2], edges[2:-1:2], edges[-1] = start[order], stop[order], len(self.data)
        is_inside = np.zeros(len(edges) - 1, np.bool_)
        is_inside[1::2] = True
        return np.repeat(is_inside, np.diff(edges))

    def integers(self, number: int) -> Integers:
        """A number in each message: the last one; 0 where there is none.

        Raises:
            DamagedMessageError: One has more than 10 bytes.
        """
        values, per_message = self._integers(self._of(number, _VARINT))
        found = np.zeros(len(per_message), np.int64)
        has = per_message > 0
        found[has] = values[np.cumsum(per_message)[has] - 1]
        return found

    def repeated_integers(self, number: int) -> tuple[Integers, Integers]:
        """The numbers of a repeated field, packed or not: those of all messages in turn, and how many each message has.

        Raises:
            DamagedMessageError: A packed field ends within a number.
        """
        return self._integers(self._of(number, _VARINT, _BYTES))

    def _integers(self, places: Integers) -> tuple[Integers, Integers]:
        places = places[np.argsort(self.message[places], kind="stable")]
        places = places[self.stop[places] > self.start[places]]
        messages, start, stop = self.message[places], self.start[places], self.stop[places]
        cut = self.data[stop - 1] >= 0x80
        if cut.any():
            raise DamagedMessageError(int(messages[np.flatnonzero(cut)[0]]), _CUT)
        encoded = self.data[ranges(start, stop)]
        ends = np.flatnonzero(encoded < 0x80)
        # A number belongs to the message whose span its last byte lies in.
        span = np.searchsorted(np.cumsum(stop - start), ends, side="right")
        values, is_long = _decoded(encoded, ends)
        if is_long.any():
            raise DamagedMessageError(int(messages[span[np.flatnonzero(is_long)[0]]]), _CUT)
        return values, np.bincount(messages[span], minlength=len(self.starts) - 1)


def split_messages(messages: list[bytes]) -> Fields:
    """Split messages into their fields.

    Raises:
        DamagedMessageError: One ends within a field, or holds what is no field.
    """
    data = np.frombuffer(b"".join([*messages, b"\n"]), np.uint8)
    starts = np.fromiter(accumulate(map(len, messages), initial=0), np.int64, count=len(messages) + 1)
    columns: list[tuple[Integers, ...]] = []
    message = np.arange(len(messages))
    at, end = starts[:-1], starts[1:]
    while True:
        ahead = at < end
        if not ahead.all():
            message, at, end = message[ahead], at[ahead], end[ahead]
        if not len(message):
            break
        if len(columns) >= MOST_FIELDS:
            raise DamagedMessageError(int(message[0]), f"more than {MOST_FIELDS:,} fields")
        tag_start = at
        tag, at = _varints(data, at, end, message, _TAG_LIMIT)
        wire = tag & 7
        size = _SIZES[wire]
        start = at
        if (wire == _BYTES).all():
            size, start = _varints(data, at, end, message, _VARINT_LIMIT)
        else:
            start = at.copy()
            for kind in (_VARINT, _BYTES):
                of_kind = np.flatnonzero(wire == kind)
                value, after = _varints(data, at[of_kind], end[of_kind], message[of_kind], _VARINT_LIMIT)
                if kind == _BYTES:
                    size[of_kind], start[of_kind] = value, after
                else:
                    size[of_kind] = after - at[of_kind]
        wrong = (size < 0) | (size > end - start) | (tag < 8)
        if wrong.any():
            raise DamagedMessageError(int(message[np.flatnonzero(wrong)[0]]), _CUT)
        at = start + size
        columns.append((message, tag >> 3, wire, tag_start, start, at))
    joined = [np.concatenate(column) for column in zip(*columns, strict=True)] or [np.zeros(0, np.int64)] * 6
    return Fields(data, starts, *joined)


def ranges(start: Integers, stop: Integers) -> Integers:
    """start[0] ... stop[0] - 1, start[1] ... stop[1] - 1, and so on."""
    lengths = stop - start
    before = np.cumsum(lengths) - lengths
    return np.repeat(start - before, lengths) + np.arange(int(lengths.sum()))


def _varints(data: Bytes, at: Integers, end: Integers, message: Integers, limit: int) -> tuple[Integers, Integers]:
    """The numbers that begin at `at`, and where each ends.

    Raises:
        DamagedMessageError: One goes on beyond its message, or beyond `limit` bytes.
    """
    if (at >= end).any():
        raise DamagedMessageError(int(message[np.flatnonzero(at >= end)[0]]), _CUT)
    byte = data[at]
    value, after = (byte & 0x7F).astype(np.int64), at + 1
    places = np.flatnonzero(byte >= 0x80)
    for index in range(1, limit):
        if not len(places):
            break
        here = after[places]
        cut = here >= end[places]
        if cut.any():
            raise DamagedMessageError(int(message[places[np.flatnonzero(cut)[0]]]), _CUT)
        byte = data[here]
        value[places] |= (byte & 0x7F).astype(np.int64) << (7 * index)
        after[places] = here + 1
        places = places[byte >= 0x80]
    if len(places):
        raise DamagedMessageError(int(message[places[0]]), _CUT)
    return value, after


def _decoded(encoded: Bytes, ends: Integers) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Numbers that follow one another, by where each ends; and which of them have too many bytes."""
    if not len(ends):
        return np.zeros(0, np.int64), np.zeros(0, bool)
    starts = np.append(0, ends[:-1] + 1)
    place = np.arange(len(encoded)) - np.repeat(starts, ends + 1 - starts)
    parts = (encoded.astype(np.int64) & 0x7F) << np.minimum(7 * place, 63)
    return np.bitwise_or.reduceat(parts, starts), ends - starts >= _VARINT_LIMIT
