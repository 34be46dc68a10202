"""Where JSON text can be cut: brackets and commas outside strings, and their depth, by NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]

_QUOTE, _BACKSLASH, _COMMA = 0x22, 0x5C, 0x2C
_CLASS = np.zeros(256, np.uint8)
_CLASS[[*b'",[]{}']] = 1
_MARKS = _CLASS.tobytes()
_STEP = np.zeros(256, np.int8)
_STEP[[*b"[{"]] = 1
_STEP[[*b"]}"]] = -1
_FIRST_SCAN = 1 << 9
_BRACES = np.isin(np.arange(256), [*b"{}"]).astype(np.uint8).tobytes()


@dataclass(frozen=True, slots=True)
class Cut:
    """What a scan from inside an array or object found."""

    commas: Positions
    """Offsets of the commas between its own elements, up to `end`."""
    end: int
    """Offset of the bracket that closes it; -1 when the text ends before."""


def scan(text: bytes, start: int, stop: int) -> Cut:
    """Find the element boundaries of the array or object whose opening bracket stands just before `start`.

    Brackets are counted, not matched: `[}` passes here and fails in the decoder, which sees every element.
    """
    reach = min(start + _FIRST_SCAN, stop)
    while True:
        found = _scan(text, start, reach)
        if found.end >= 0 or reach == stop:
            return found
        reach = min(start + 8 * (reach - start), stop)


def guess_cut(text: bytes, start: int, stop: int) -> int:
    """The end of the last object that seems to be an element of the array whose content `start` begins; -1 for none.

    Only braces are counted, so a lone brace in a string misleads it, as does the end of the array: a guess, ten times
    as fast as `scan`. A decoder that accepts the text from `start` up to it proves it right: the text begins at an
    element, and what follows complete elements cannot lie inside one.
    """
    part = text[start:stop]
    places = np.flatnonzero(np.frombuffer(part.translate(_BRACES), np.bool_))
    depth = np.cumsum(_STEP[np.frombuffer(part, np.uint8)[places]], dtype=np.int64)
    ends = np.flatnonzero(depth == 0)
    return start + int(places[ends[-1]]) + 1 if ends.size else -1


def _scan(text: bytes, start: int, stop: int) -> Cut:
    part = text[start:stop]
    data = np.frombuffer(part, np.uint8)
    places = np.flatnonzero(np.frombuffer(part.translate(_MARKS), np.bool_))
    kinds = data[places]
    quotes = kinds == _QUOTE
    if b"\\" in part:
        quotes[quotes] = ~_escaped(data, places[quotes])
    outside = (np.cumsum(quotes) & 1) == 0
    outside &= kinds != _QUOTE
    places, kinds = places[outside], kinds[outside]
    depth = np.cumsum(_STEP[kinds], dtype=np.int64)
    closing = np.flatnonzero(depth < 0)
    end = int(places[closing[0]]) if closing.size else -1
    last = int(closing[0]) if closing.size else places.size
    own = (kinds[:last] == _COMMA) & (depth[:last] == 0)
    return Cut(places[:last][own] + start, end + start if end >= 0 else -1)


def _escaped(data: npt.NDArray[np.uint8], quotes: Positions) -> npt.NDArray[np.bool_]:
    """Which quotes follow an odd number of backslashes; text starts outside a string, so no run began before it."""
    slashes = np.flatnonzero(data == _BACKSLASH)
    begins = np.ones(slashes.size, bool)
    begins[1:] = np.diff(slashes) != 1
    run_start = slashes[np.maximum.accumulate(np.where(begins, np.arange(slashes.size), 0))]
    before = np.searchsorted(slashes, quotes) - 1
    index = np.maximum(before, 0)
    follows = (before >= 0) & (slashes[index] == quotes - 1)
    return np.asarray(follows & ((quotes - run_start[index]) % 2 == 1))
