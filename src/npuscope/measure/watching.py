"""A user's program run in a child process, with what its framework counted: calls, compilations, and what was compiled.

The program runs as it would by itself: its files, its standard input, its side effects. What it prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from npuscope.backends.processes import module_words, run_child
from npuscope.errors import FormatError, MeasurementError, UnavailableError, UsageError, shorten
from npuscope.formats.hlo import HloModule

DEFAULT_CALLS: Final = 5
DEFAULT_TIME_LIMIT_S: Final = 600.0
_MOST_CALLS: Final = 100_000
_MOST_RUNS: Final = 20
_MODULE_NAME: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_PROGRAMS_READ: Final = 300
"""Compiled programs that are read and compared, the first ones of each function before others."""
_PROGRAM_LIMIT: Final = 64 << 20
"""Bytes of text of one program; parsing a larger one takes minutes."""


@dataclass(frozen=True, slots=True)
class Target:
    """What to run."""

    name: str
    """A file, or a module as it is imported."""
    function: str
    """Called without arguments; '' runs the file as a program."""
    is_file: bool = field(default=True, kw_only=True)

    def __str__(self) -> str:
        return f"{self.name}:{self.function}" if self.function else self.name


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a compiled call, as JAX's cache sees it."""

    path: str
    """Its position or name, and the way to it within a tree."""
    kind: str
    """`array`, `scalar` (a Python number, of a weak type) or `static`."""
    text: str
    """`float32[8]`, `Python float`, or the value where it is static."""
    placement: str


@dataclass(frozen=True, slots=True)
class Compile:
    """One program that a framework had compiled, or took from its persistent cache."""

    number: int
    name: str
    """Of the function, as the framework calls it."""
    code: str
    """`train.py:12`, where the function is defined; '' where that is not known."""
    via: tuple[str, ...]
    """Functions of JAX around it, the outermost first: `grad`, `vmap`."""
    site: str
    """`train.py:30`, the user's line that made the call."""
    is_own: bool
    """The function is the framework's own, such as `broadcast_in_dim`."""
    function: int | None
    """Which function object; two calls with one number had the same."""
    arguments: tuple[Argument, ...] | None
    trace_ms: float
    lower_ms: float
    compile_ms: float
    is_hit: bool
    """It came from the persistent cache."""
    key: str
    """In the persistent cache; '' where it is not known."""
    key_parts: Mapping[str, str]
    """What the key is made of, hashed."""
    settings: Mapping[str, str]
    """Of the framework and the compiler, while it was compiled."""
    not_written: tuple[str, str] | None
    """Why the persistent cache did not keep it: a reason and its detail."""
    is_stored: bool | None
    """The persistent cache had it afterwards; None where that cannot be seen."""
    call: int | None
    """Number of the call that it belongs to, among those of its outermost function, from 0."""
    program: HloModule | None
    caller: str = ""
    """Outermost function of that call, as calls are counted; '' where no call is seen around it."""

    @property
    def ahead_name(self) -> str:
        """The name under which calls of it are counted where it was compiled ahead of time, outside of any call."""
        return f"jit({self.name})"

    @property
    def call_names(self) -> frozenset[str]:
        """Names under which calls that may use its program are counted; JAX uses one that it has for the function, too."""
        return frozenset({self.caller} if self.caller else {self.name, self.ahead_name})

    @property
    def cost_ms(self) -> float:
        """Tracing, lowering and compiling, as the framework timed them."""
        return self.trace_ms + self.lower_ms + self.compile_ms


@dataclass(frozen=True, slots=True)
class TargetCall:
    """One call of the function that was asked for."""

    compiles: int
    """Programs compiled, or taken from a persistent cache, during it."""
    first: int
    """Number of the first of them."""
    duration_ms: float


@dataclass(frozen=True, slots=True)
class WatchedRun:
    """One process, from its start to its end."""

    framework: str
    """`jax`, `torch_xla`, or '' where the program imported neither."""
    status: int
    """Its exit status; not 0 where it failed."""
    error: str
    compiles: tuple[Compile, ...]
    calls: Mapping[str, int] | None
    """Calls by the name of the function; None where they could not be counted."""
    calls_missing: str
    """Why not."""
    target_calls: tuple[TargetCall, ...]
    cache: Mapping[str, Any]
    """Settings of the persistent cache."""
    versions: Mapping[str, str]
    counters: Mapping[str, Any] = field(default_factory=dict)
    """torch_xla's own."""
    notes: tuple[str, ...] = ()
    processes: int = 0
    """That it started of its own; what they compile is not seen."""


def parse_target(text: str) -> Target | None:
    """`SCRIPT.py`, `SCRIPT.py:FUNCTION` or `package.module:FUNCTION`; None where it is none of them.

    Raises:
        UsageError: It names a script that is not there.
    """
    place, colon, function = text.rpartition(":")
    if not colon or not _MODULE_NAME.fullmatch(function):
        place, function = text, ""
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise UsageError(f"there is no script {shorten(place, 200)}")
        return Target(place, function)
    if function and _MODULE_NAME.fullmatch(place) and not Path(text).exists():
        return Target(place, function, is_file=False)
    return None


def watch_target(
    target: Target,
    arguments: Sequence[str] = (),
    *,
    calls: int = DEFAULT_CALLS,
    runs: int = 1,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[WatchedRun, ...]:
    """Run a program in one fresh process after another, and tell what was compiled.

    Args:
        target: What to run.
        arguments: Of the program, in `sys.argv`.
        calls: How often to call the target's function.
        runs: Processes; a second one shows what a persistent cache keeps from one to the next.
        time_limit_s: Of each process; what it counted until then is told.
        progress: Is called with a line about what is done now.

    Returns:
        One per process; after one that failed there is no other.

    Raises:
        UsageError: A number is out of range, or there is no such function.
        MeasurementError: A process ended without telling anything.
    """
    if not 1 <= calls <= _MOST_CALLS:
        raise UsageError(f"--calls {calls} must lie between 1 and {_MOST_CALLS:,}")
    if not 1 <= runs <= _MOST_RUNS:
        raise UsageError(f"--runs {runs} must lie between 1 and {_MOST_RUNS}")
    if not 0 < time_limit_s < float("inf"):
        raise UsageError(f"--time-limit {time_limit_s:g} must be a number of seconds above 0")
    found: list[WatchedRun] = []
    for number in range(runs):
        progress(f"running {target}" + (f", process {number + 1} of {runs}" if runs > 1 else ""))
        with tempfile.TemporaryDirectory(prefix="npuscope-doctor-", ignore_cleanup_errors=True) as scratch:
            record = _run(target, arguments, calls, time_limit_s, Path(scratch))
            progress("reading what was compiled")
            found.append(_read(record, Path(scratch) / "programs", is_alone=runs == 1))
        if found[-1].status:
            break
    return tuple(found)


def _run(target: Target, arguments: Sequence[str], calls: int, limit_s: float, scratch: Path) -> dict[str, Any]:
    asked, told = scratch / "request.json", scratch / "record.json"
    request = {
        "target": target.name,
        "is_file": target.is_file,
        "function": target.function,
        "calls": calls,
        "arguments": list(arguments),
        "folder": str(scratch),
        "record": str(told),
    }
    asked.write_text(json.dumps(request), "utf-8")
    late = ""
    ended = None
    try:
        ended = run_child(
            module_words("npuscope.backends.watched_process", str(asked)),
            env=os.environ,
            timeout_s=limit_s,
            is_shown=True,
        )
    except MeasurementError:
        late = f"it took longer than {limit_s:g} s and was ended; allow more with --time-limit"
    try:
        record: dict[str, Any] = json.loads(told.read_text("utf-8"))
    except (OSError, ValueError):
        why = late or f"it {ended.told() if ended else 'ended'}"
        raise MeasurementError(f"{target} left no record of its run: {why}") from None
    if record.get("is_wrong_use"):
        raise UsageError(record["error"])
    if late:
        record |= {"status": record["status"] or 1, "error": late}
    elif ended is not None and ended.status and not record["status"]:
        record |= {"status": ended.status, "error": f"it {ended.told()} after its end"}
    return record


def _read(record: dict[str, Any], programs: Path, *, is_alone: bool) -> WatchedRun:
    jax, torch_xla = record["jax"], record["torch_xla"]
    # torch_xla uses JAX for some of its operations.
    framework = "torch_xla" if torch_xla and not (jax and jax["compiles"]) else "jax" if jax else ""
    told = jax or {"compiles": [], "calls": {"missing": "", "by_name": None, "of_compile": {}}, "settings": {}}
    places = told["calls"]["of_compile"]
    notes = list(told.get("notes", ()))
    wanted = _wanted(told["compiles"], is_alone=is_alone)
    modules = {number: _module(programs, told["compiles"][number], notes) for number in wanted}
    if len(wanted) < len(told["compiles"]) and len(wanted) == _PROGRAMS_READ:
        notes.append(f"only {_PROGRAMS_READ} of {len(told['compiles'])} compiled programs are compared")
    return WatchedRun(
        framework=framework,
        status=int(record["status"]),
        error=shorten(record["error"], 300),
        compiles=tuple(_compile(one, places, modules) for one in told["compiles"]),
        calls=told["calls"]["by_name"],
        calls_missing=told["calls"]["missing"],
        target_calls=tuple(_target_call(one) for one in record["calls"]),
        cache=told["settings"],
        versions={"torch_xla": torch_xla["version"]} if framework == "torch_xla" else told.get("versions", {}),
        counters=torch_xla or {},
        notes=tuple(dict.fromkeys(notes)),
        processes=int(record["processes"]),
    )


def _wanted(compiles: Sequence[Mapping[str, Any]], *, is_alone: bool) -> set[int]:
    """Programs to compare: of functions that were compiled more than once, or all where there are other processes."""
    groups: dict[Any, list[int]] = {}
    for one in compiles:
        groups.setdefault(one.get("code") or one["name"], []).append(one["number"])
    numbers = [number for group in groups.values() if len(group) > 1 or not is_alone for number in group]
    return set(sorted(numbers)[:_PROGRAMS_READ])


def _module(programs: Path, told: Mapping[str, Any], notes: list[str]) -> HloModule | None:
    from npuscope.backends.jax_programs import module_from_text
    from npuscope.formats.hlo_reader import parse_hlo

    name = told.get("program") or ""
    path = programs / name
    try:
        if not name or path.stat().st_size > _PROGRAM_LIMIT:
            return None
        return parse_hlo(module_from_text(path.read_text("utf-8"), name), source=name)
    except UnavailableError as error:
        notes.append(f"compiled programs are not compared: {error}")
    except (FormatError, OSError, UnicodeDecodeError) as error:
        notes.append(f"a compiled program is not compared: {shorten(str(error), 200)}")
    return None


def _compile(told: Mapping[str, Any], places: Mapping[str, Any], modules: Mapping[int, HloModule | None]) -> Compile:
    number = told["number"]
    arguments = told.get("arguments")
    not_written = told.get("not_written")
    place = places.get(str(number))
    return Compile(
        number=number,
        name=told["name"],
        code=told.get("code") or "",
        via=tuple(told.get("via", ())),
        site=told.get("site") or "",
        is_own=bool(told.get("is_own")),
        function=told.get("function"),
        arguments=None
        if arguments is None
        else tuple(Argument(*map(str, one), *[""] * (4 - len(one))) for one in arguments),
        trace_ms=told.get("trace_ms", 0.0),
        lower_ms=told.get("lower_ms", 0.0),
        compile_ms=told["compile_ms"],
        is_hit=told["is_hit"],
        key=told.get("key") or "",
        key_parts=told.get("key_parts", {}),
        settings={
            **told.get("settings", {}),
            **{f"option {key}": text for key, text in told.get("options", {}).items()},
        },
        not_written=(not_written[0], not_written[1]) if not_written else None,
        is_stored=told["is_stored"],
        call=place[1] if place else None,
        program=modules.get(number),
        caller=place[0] if place else "",
    )


def _target_call(told: Mapping[str, Any]) -> TargetCall:
    compiles = told["end"] - told["first"] if told["torch_xla"] is None else told["torch_xla"]
    return TargetCall(compiles, told["first"], told["duration_ns"] / 1e6)
