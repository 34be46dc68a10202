"""The events of a Chrome trace as columns: JSON streamed in, arrays out, begins matched with ends.

Source: "Trace Event Format", Google. Times there are microseconds with a fraction. They become nanoseconds to the
nearest: exactly as written up to 2^43 us (101 days), where a float64 still tells nanoseconds apart; a file with greater
numbers is read a second time, as decimals.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from itertools import count
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from npuscope.errors import FormatError
from npuscope.formats.json_stream import iterate_document

Ticks = npt.NDArray[np.int64]
Text = str | int | float | None
EVENT_KEYS = ("traceEvents", "")
"""Where events stand: under this key, or at the top level."""
_EXACT_US = float(1 << 43)
_MAX_NS = 1 << 62
_PLAIN = frozenset("XBEiIR")
"""Slices and instants that need nothing but their columns."""
_ASYNC = frozenset("benSF")
"""Asynchronous begins, ends and instants, which an id pairs; S and F are their older form."""
_BLOCK_BYTES = 1 << 20
"""Small, so that the decoded events of a block stay in the processor's cache."""
_kind = attrgetter("ph", "cat", "name", "pid", "tid")
_ts, _dur = attrgetter("ts"), attrgetter("dur")
_NO_VALUE = msgspec.Raw(b"")


class Event(msgspec.Struct, gc=False):
    """One event with what every phase may have."""

    ph: str = ""
    name: Text = None
    cat: Text = None
    pid: Text = None
    tid: Text = None
    ts: float | str | None = None
    dur: float | str | None = None
    id: Text = None
    id2: dict[str, Text] | None = None
    args: msgspec.Raw = _NO_VALUE


class ExactEvent(Event, gc=False):
    """The same with times as they are written."""

    ts: Decimal | None = None  # type: ignore[assignment]
    dur: Decimal | None = None  # type: ignore[assignment]


class _TooGreatError(Exception):
    """A time for which float64 is too coarse."""


@dataclass(slots=True)
class Events:
    """What a file holds; slices are in file order until they are matched."""

    kinds: list[tuple[str, Text, Text, Text, Text]] = field(default_factory=list)
    """Phase, category, name, process and thread of each distinct event."""
    kind: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """Index into `kinds` of each slice event."""
    time_ns: Ticks = field(default_factory=lambda: np.zeros(0, np.int64))
    duration_ns: Ticks = field(default_factory=lambda: np.zeros(0, np.int64))
    ordinal: Ticks = field(default_factory=lambda: np.zeros(0, np.int64))
    """Which event of the file each is, from 0."""
    arguments: list[bytes] | None = None
    """The arguments of each slice event as JSON, where they were asked for."""
    async_key: dict[int, Any] = field(default_factory=dict)
    """Ordinal of an asynchronous event to what matches begin and end."""
    samples: list[tuple[Text, str, int, float]] = field(default_factory=list)
    """Counters: process, name, time in ns, value."""
    metadata: list[tuple[str, Text, Text, dict[str, Any]]] = field(default_factory=list)
    """Name, process, thread, arguments."""
    phases: Counter[str] = field(default_factory=Counter)
    values: dict[str, Any] = field(default_factory=dict)
    """What stands beside the events at the top level."""
    problems: Counter[str] = field(default_factory=Counter)


def read_events(path: Path, *, with_args: bool = False) -> Events:
    """Read all events of a Chrome trace.

    Args:
        path: `.json` or `.json.gz`.
        with_args: Keep the arguments of slices, as JSON text.

    Raises:
        FormatError: It is no JSON, no trace, or holds an event of another shape.
    """
    try:
        return _read(path, Event, with_args=with_args)
    except _TooGreatError:
        return _read(path, ExactEvent, with_args=with_args)


def stream_events(path: Path, event_type: type[Event]) -> Iterator[tuple[str, Any]]:
    """The document, its events as `event_type`."""
    return iterate_document(path, dict.fromkeys(EVENT_KEYS, event_type), block_bytes=_BLOCK_BYTES)


def _read(path: Path, event_type: type[Event], *, with_args: bool) -> Events:
    events = Events(arguments=[] if with_args else None)
    index: defaultdict[Any, int] = defaultdict(count().__next__)
    columns: list[tuple[Any, ...]] = []
    special = np.zeros(0, bool)
    total, found = 0, False
    for key, value in stream_events(path, event_type):
        if key not in EVENT_KEYS or not isinstance(value, list):
            events.values[key] = value
            continue
        found = True
        kind = np.fromiter(map(index.__getitem__, map(_kind, value)), np.int32, len(value))
        if len(index) > special.size:
            new = list(index)[special.size :]
            events.kinds += new
            special = np.append(special, [phase not in _PLAIN for phase, *_ in new])
        columns.append(_Batch(events, path, value, total).take(kind, special))
        total += len(value)
    if not found:
        keys_found = ", ".join(sorted(events.values)[:8]) or "no keys"
        raise FormatError(path, where="key traceEvents", expected="an array of events", found=keys_found)
    if columns:
        events.kind, events.time_ns, events.duration_ns, events.ordinal = (
            np.concatenate(parts) for parts in zip(*columns, strict=True)
        )
    phases = np.array([kind[0] for kind in events.kinds], object)
    used = np.bincount(events.kind, minlength=len(events.kinds))
    for phase, times in zip(phases.tolist(), used.tolist(), strict=True):
        if times:
            events.phases[phase] += times
    return events


class _Batch:
    """One block of events on its way into the columns."""

    def __init__(self, events: Events, path: Path, batch: list[Any], first: int) -> None:
        self._events, self._path, self._batch, self._first = events, path, batch, first

    def take(self, kind: npt.NDArray[np.int32], special: npt.NDArray[np.bool_]) -> tuple[Any, ...]:
        """The slice events of the block as columns; the others go where they belong."""
        batch, events = self._batch, self._events
        time, has_time = self._nanoseconds(list(map(_ts, batch)), "ts")
        duration, has_duration = self._nanoseconds(list(map(_dur, batch)), "dur")
        kept = np.ones(len(batch), bool)
        for at in np.flatnonzero(special[kind]).tolist():
            kept[at] = self._special(at, batch[at], int(time[at]), timed=bool(has_time[at]))
        untimed = kept & ~has_time
        if untimed.any():
            events.problems["have no time"] += int(untimed.sum())
        complete = np.array([key[0] == "X" for key in events.kinds], bool)[kind]
        negative = kept & has_duration & (duration < 0)
        if negative.any():
            events.problems["have a negative duration"] += int(negative.sum())
        unfinished = kept & complete & ~has_duration & has_time
        if unfinished.any():
            events.problems["are complete events without a duration"] += int(unfinished.sum())
        kept &= has_time & ~negative & ~unfinished
        if events.arguments is not None:
            events.arguments += [bytes(batch[at].args) for at in np.flatnonzero(kept).tolist()]
        ordinal = np.flatnonzero(kept)
        return kind[kept], time[kept], np.where(has_duration, duration, 0)[kept], ordinal + self._first

    def _special(self, at: int, event: Any, time_ns: int, *, timed: bool) -> bool:
        """Metadata, counters and asynchronous events; whether the event is a slice event."""
        events, phase = self._events, event.ph
        if phase == "M":
            events.metadata.append((str(event.name), event.pid, event.tid, self._arguments(at, event)))
        elif phase == "C" and timed:
            for name, value in self._arguments(at, event).items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    label = str(event.name) if name in ("value", str(event.name)) else f"{event.name} {name}"
                    events.samples.append((event.pid, label, time_ns, float(value)))
                else:
                    events.problems["are samples that are no number"] += 1
        elif phase in _ASYNC:
            key = event.id if event.id2 is None else next(iter(event.id2.values()), None)
            shared = event.id2 is not None and "global" in event.id2
            legacy = event.name if phase in "SF" else None
            events.async_key[self._first + at] = (None if shared else event.pid, event.cat, key, legacy)
            return True
        if phase or event.name is not None:
            events.phases[phase] += 1
        return False

    def _arguments(self, at: int, event: Any) -> dict[str, Any]:
        if not bytes(event.args):
            return {}
        try:
            found = msgspec.json.decode(event.args)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            where = f"traceEvents[{self._first + at}].args"
            raise FormatError(self._path, where=where, expected="valid JSON", found=str(error)) from error
        return found if isinstance(found, dict) else {}

    def _nanoseconds(self, values: list[Any], what: str) -> tuple[Ticks, npt.NDArray[np.bool_]]:
        """Microseconds to nanoseconds, and where there is a value at all."""
        column = np.array(values)
        if column.dtype != np.float64:
            return self._slow_nanoseconds(values, what)
        if not (np.abs(column) < _EXACT_US).all():
            raise _TooGreatError
        whole = np.floor(column)
        time = whole.astype(np.int64) * 1000 + np.rint((column - whole) * 1000).astype(np.int64)
        return time, np.ones(len(values), bool)

    def _slow_nanoseconds(self, values: list[Any], what: str) -> tuple[Ticks, npt.NDArray[np.bool_]]:
        """The same where some are missing, are text or decimals."""
        present = np.array([value is not None for value in values], bool)
        kept = [value for value in values if value is not None]
        if all(isinstance(value, float) for value in kept) and kept:
            time = np.zeros(len(values), np.int64)
            time[present] = self._nanoseconds(kept, what)[0]
            return time, present
        return np.array([self._exact(at, value, what) for at, value in enumerate(values)], np.int64), present

    def _exact(self, at: int, value: Any, what: str) -> int:
        if value is None:
            return 0
        try:
            number = value if isinstance(value, Decimal) else Decimal(str(value).strip())
            if number.is_finite() and abs(number) * 1000 < _MAX_NS:
                return int((number * 1000).to_integral_value())
        except (InvalidOperation, ValueError):
            pass
        where = f"traceEvents[{self._first + at}].{what}"
        raise FormatError(self._path, where=where, expected="microseconds within 146 years of 0", found=str(value))
