"""Calls of jitted functions, counted in the host trace that JAX's own profiler writes.

Every call of a function of `jax.jit` is an event `PjitFunction(NAME)` (JAX 0.4 to 0.10; `PmapFunction`, with or without `Jax`
before it, of `jax.pmap`), and every call of a program that was compiled beforehand (`.lower().compile()`) one that is named
`jit(NAME)`, unless it calls back into Python. One that lies within another is the call of a function while that other is traced,
which runs nothing: the outermost count. The recording starts when JAX has been imported, through the session that
`jax.profiler.start_trace` makes, not through that function: it would initialise a platform that the program may still want to choose.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_CALL: Final = re.compile(r"(?:Pjit|Pmap|JaxPmap)Function\((?P<name>.*)\)")
_MARK: Final = "npuscope.compile#"
_STARTS: Final = ("PjitFunction(", "PmapFunction(", "JaxPmapFunction(", _MARK)
_TRACES: Final = "plugins/profile/*/*.xplane.pb"
_JSON_TRACES: Final = "plugins/profile/*/*.trace.json.gz"
_JSON_LIMIT: Final = 1_000_000
Event = tuple[int, str, float, float]
"""Thread, name, start and end."""


class CallTrace:
    """Records host events from the import of JAX to the end of the program."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._jax: Any = None
        self._session: Any = None
        self._recorded: list[Any] = []
        self._missing = "JAX was not imported"
        """Why there is no count; '' where there is one."""

    def begin(self, jax: Any) -> None:
        """JAX is there; a profile that the program itself starts ends ours, since JAX has one at a time."""
        self._jax = jax
        inner = getattr(getattr(jax, "_src", None), "profiler", None)
        self._missing = self._start(inner)
        for place in (jax.profiler, inner):
            if place is not None and hasattr(place, "start_trace"):
                place.start_trace = self._giving_way(place.start_trace)

    def mark(self, number: int) -> None:
        """A compilation ended: put a mark into the trace, within the event of the call that it belongs to."""
        if self._session is not None:
            with suppress(Exception), self._jax.profiler.TraceAnnotation(f"{_MARK}{number}"):
                pass

    def end(self) -> dict[str, Any]:
        """Calls by the name of the function, and the call that each compilation belongs to."""
        self._stop()
        if self._missing:
            return {"missing": self._missing, "by_name": None, "of_compile": {}}
        try:
            events = list(self._events())
        except Exception as error:  # noqa: BLE001 - of a private format; the count is then missing, and said to be
            return {"missing": f"JAX's trace cannot be read: {error}", "by_name": None, "of_compile": {}}
        calls, places = count_calls(events)
        return {"missing": "", "by_name": dict(calls), "of_compile": {str(key): place for key, place in places.items()}}

    def _start(self, inner: Any) -> str:
        """Start to record; why not, where that fails."""
        module: Any = getattr(inner, "_profiler", None) or getattr(getattr(inner, "xla_client", None), "profiler", None)
        make = getattr(module, "ProfilerSession", None)
        if make is None or not hasattr(self._jax.profiler, "ProfileOptions"):
            return f"JAX {self._jax.__version__} has no session of a profiler to record calls alone with"
        options = self._jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        options.host_tracer_level = 1
        with suppress(AttributeError):
            options.device_tracer_level = 0
        try:
            self._session = make(options)
        except Exception as error:  # noqa: BLE001 - whatever the profiler has against it, the program goes on
            return f"JAX's profiler does not start: {error}"
        return ""

    def _stop(self) -> None:
        session, self._session = self._session, None
        if session is None:
            return
        read = getattr(getattr(self._jax.profiler, "ProfileData", None), "from_serialized_xspace", None)
        try:
            if read is None:  # this JAX reads what it exported, which takes 200 us a call
                session.stop_and_export(str(self._folder))
            else:
                self._recorded.append(read(session.stop()))
        except Exception as error:  # noqa: BLE001 - likewise
            self._missing = f"JAX's profiler does not stop: {error}"

    def _giving_way(self, start: Any) -> Any:
        def start_trace(*arguments: Any, **options: Any) -> Any:
            self._stop()
            self._missing = "the program records a profile of its own, and JAX has one at a time"
            return start(*arguments, **options)

        return start_trace

    def _events(self) -> Iterable[Event]:
        """The events that matter."""
        read = getattr(getattr(self._jax.profiler, "ProfileData", None), "from_file", None)
        if read is None:
            for path in self._folder.glob(_JSON_TRACES):
                yield from _json_events(path)
            return
        for data in [*self._recorded, *(read(str(path)) for path in self._folder.glob(_TRACES))]:
            threads = (line for plane in data.planes for line in plane.lines)
            for thread, line in enumerate(threads):
                for event in line.events:
                    name = event.name
                    if name.startswith(_STARTS):
                        yield thread, name, event.start_ns, event.start_ns + event.duration_ns


def _json_events(path: Path) -> Iterable[Event]:
    """The same from the trace that JAX before 0.7 exports, which has no more than a million events."""
    with gzip.open(path) as file:
        events = json.load(file)["traceEvents"]
    if len(events) >= _JSON_LIMIT:
        raise ValueError("it has a million events, beyond which XLA drops others")
    for event in events:
        if event.get("ph") == "X" and event["name"].startswith(_STARTS):
            start = 1e3 * event["ts"]
            yield event["tid"], event["name"], start, start + 1e3 * event.get("dur", 0.0)


def count_calls(events: Iterable[Event]) -> tuple[Counter[str], dict[int, list[Any]]]:
    """Outermost calls by function, and for each compilation the function and number of the call around it.

    Args:
        events: In any order.
    """
    calls: Counter[str] = Counter()
    places: dict[int, list[Any]] = {}
    open_until: dict[int, float] = {}
    current: dict[int, list[Any]] = {}
    for thread, name, start, end in sorted(events, key=lambda event: (event[2], -event[3])):
        is_within = start < open_until.get(thread, float("-inf"))
        if name.startswith(_MARK):
            if is_within:
                places[int(name[len(_MARK) :])] = current[thread]
            continue
        found = _CALL.fullmatch(name)
        if found is None or is_within:
            continue
        open_until[thread] = end
        current[thread] = [found["name"], calls[found["name"]]]
        calls[found["name"]] += 1
    return calls, places
