"""Logs of the Neuron compiler and of the wrapper that keeps its cache: what was compiled, found, failed, and how long.

Lines are as the AWS Neuron documentation, public issues and one real `log-neuron-cc.txt` show them, 2022 to 2026:
`INFO ||NCC_WRAPPER||:`, `INFO ||NEURON_CC_WRAPPER||:`, `||NEURON_CACHE||`, and since 2026 `[INFO]:`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

from npuscope.errors import FormatError
from npuscope.formats.compiler_report import CompilerReport
from npuscope.units import printable

LINE_LIMIT: Final = 64 << 10
"""Bytes of one line that are looked at; the rest of it is skipped."""
EVENT_LIMIT: Final = 20_000
REMARK_LIMIT: Final = 1_000
"""Warnings and errors that are kept; more are only counted."""
_TEXT_LIMIT: Final = 4_096
"""Characters of a line in which a time is looked for, and that a remark keeps."""
KINDS: Final = ("hit", "miss", "compile", "pass", "fail", "cached-failure", "cache-path", "extract")
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?Z?")
_WRAPPER = re.compile(r"\|\|[A-Z_]+\|\|:|\[(?:INFO|WARNING|ERROR)\]:")
_MODULE = re.compile(r"MODULE_[0-9A-Za-z_]{1,120}(?:\+[0-9a-f]{1,32})?")
_PATTERNS: Final = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("cached-failure", r"Got a cached failed neff at (?P<path>\S+?)[.:]?(?:\s|$)"),
        ("hit", r"Using a cached neff at (?P<path>\S+?)\.?(?:\s|$)"),
        ("miss", r"No candidate found under (?P<path>\S+?)\.?(?:\s|$)"),
        ("miss", r"(?<!\S)(?P<path>\S{1,600}) not found in \S{1,300}: the corresponding graph will be recompiled"),
        ("extract", r"Extracting graphs \((?P<path>[^\s)]+)\)"),
        ("cache-path", r"Compile cache path: (?P<path>\S+)"),
        ("compile", r"Call compiler with cmd: (?P<command>.+)"),
        ("compile", r"INFO \d+ \[root\]: (?P<command>\S*neuronx?-cc compile .+)"),
        ("fail", r"Failed compilation with (?P<command>.+)"),
        ("fail-echo", r"Compilation failed for (?P<path>\S+)"),
        ("fail", r"Compiler status (?:ERROR|FAIL)\w*"),
        ("fail", r"neuronx?-cc (?:compilation )?failed with (?P<command>-?\d+)"),
        ("fail", r"Subcommand returned with exitcode=(?!0\b)(?P<command>-?\d+)"),
        ("pass", r"Compiler status PASS"),
        ("pass-echo", r"Compilation Successfully Completed for (?P<path>\S+)"),
        ("pass", r"Subcommand returned with exitcode=0\b"),
    )
)
"""An echo says again, with the module, what another line said just before; alone it counts as what it echoes."""
_EVENT_WORDS: Final = (
    "cached",
    "andidate",
    "not found in",
    "Extracting",
    "cache path",
    "cmd: ",
    "-cc ",
    "ompilation",
    "status",
    "exitcode",
)
_LEVEL_WORDS: Final = ("WARNING", "ERROR", "error: ", "CRITICAL", "FATAL")
_MARKS: Final = (
    b"||NEURON_CC_WRAPPER||",
    b"||NCC_WRAPPER||",
    b"||NEURON_CACHE||",
    b"NeuronX Compiler version",
    b"neuronx-cc compile",
    b"Compiler status PASS",
    b"Compilation Successfully Completed for model.MODULE_",
)
_LEVEL = re.compile(
    r"\s(WARNING|ERROR|CRITICAL|FATAL)\s+(?:\d+\s+\[|\|\|)|\[(WARNING|ERROR|CRITICAL|FATAL)\]|\]: (error): "
)
_PASS_TIME = re.compile(r"\]: (\S+) finished after (\d+(?:\.\d+)?) seconds")
_VERSION = re.compile(r"NeuronX Compiler version (\S+)")


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One line that says what happened to a graph."""

    line: int
    """Counted from 1."""
    kind: str
    """One of `KINDS`."""
    time_s: float | None
    """Seconds since 1970 by the clock of the log, taken as UTC; None where the line has no time."""
    module: str
    """`MODULE_<hash>+<flags>` where the line names one."""
    path: str
    command: str
    """The compiler's command line, or its exit code."""


@dataclass(frozen=True, slots=True)
class Remark:
    """A warning or an error of the compiler."""

    line: int
    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Compilation:
    """One run of the compiler, from its command to its end."""

    line: int
    module: str
    command: str
    result: str
    """`pass`, `fail` or `unknown`: no end was found."""
    seconds: float | None
    """From the time of its command to that of its end; None where the log does not tell."""
    at_most: bool
    """The line of its end has no time: `seconds` goes to the next line that has one."""


@dataclass(frozen=True, slots=True)
class NeuronLog:
    """What a log says, counted line by line."""

    source: str
    lines: int
    events: tuple[LogEvent, ...]
    counts: Mapping[str, int]
    """Kind to number of lines, of all of `KINDS`."""
    compilations: tuple[Compilation, ...]
    pass_seconds: Mapping[str, float]
    """Compiler pass to the seconds of all its runs, as the log states them; a pass that runs others contains them."""
    remarks: tuple[Remark, ...]
    levels: Mapping[str, int]
    compiler_version: str
    tiles: Mapping[str, int]
    """Macro such as `matmul_128x128x512` to its number of instructions, as last reported."""
    figures: Mapping[str, float]
    """Named figures of the compiler's reports, as last reported."""
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Run:
    """A compilation that may still be open."""

    line: int
    module: str
    command: str
    start_s: float | None
    result: str = "unknown"
    end_s: float | None = None
    at_most: bool = False


@dataclass(slots=True)
class _State:
    """What is known while lines go by."""

    lines: int = 0
    events: list[LogEvent] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    passes: dict[str, float] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)
    levels: Counter[str] = field(default_factory=Counter)
    version: str = ""
    report: CompilerReport = field(default_factory=CompilerReport)
    runs: list[_Run] = field(default_factory=list)
    open: list[_Run] = field(default_factory=list)
    untimed: _Run | None = None
    """The compilation that just ended on a line without a time."""
    unsaid_passes: int = 0
    """Passes that named no module and may be said again by an echo."""
    failed: set[str] = field(default_factory=set)
    """Modules whose failure may be said again by an echo."""
    unplaced: int = 0
    """Ends that belong to one of several open compilations."""
    cut_lines: int = 0


def looks_like_neuron_log(head: bytes) -> bool:
    """Whether the beginning of a file holds a line of the Neuron compiler or of its cache wrapper."""
    return any(mark in head for mark in _MARKS)


def read_neuron_log(path: Path | str) -> NeuronLog:
    """Read a log line by line; bytes that are not UTF-8 are replaced.

    Raises:
        FormatError: The path is no readable file.
    """
    source = str(path)
    state = _State()
    try:
        if not Path(path).is_file():
            raise FormatError(
                source, expected="a log file", found="a folder" if Path(path).is_dir() else "no such file"
            )
        with Path(path).open("rb") as handle:
            for line in _lines(handle, state):
                _read_line(line, state)
    except OSError as error:
        raise FormatError(source, expected="a readable file", found=error.strerror or str(error)) from None
    return _finished(source, state)


def _lines(handle: BinaryIO, state: _State) -> Iterator[str]:
    """Lines as text, each at most `LINE_LIMIT` bytes; the carriage return of a progress bar does not end one."""
    while line := handle.readline(LINE_LIMIT):
        state.lines += 1
        rest = line
        state.cut_lines += len(line) == LINE_LIMIT
        while len(rest) == LINE_LIMIT and not rest.endswith(b"\n"):
            rest = handle.readline(LINE_LIMIT)
        yield line.decode("utf-8", "replace").rstrip("\r\n")


def _read_line(line: str, state: _State) -> None:
    if state.untimed is not None and (time_s := log_time(line)) is not None:
        state.untimed.end_s, state.untimed = time_s, None
    if "finished after" in line and (found := _PASS_TIME.search(line)):
        if len(state.passes) < REMARK_LIMIT or found[1] in state.passes:
            state.passes[found[1]] = state.passes.get(found[1], 0.0) + float(found[2])
        return
    level = _LEVEL.search(line, 0, 200) if _any_in(_LEVEL_WORDS, line) else None
    if level:
        name = next(group for group in level.groups() if group).upper()
        state.levels[name] += 1
        if len(state.remarks) < REMARK_LIMIT:
            state.remarks.append(Remark(state.lines, name, printable(line[:_TEXT_LIMIT])))
    if _any_in(_EVENT_WORDS, line):
        _event(line, state)
    state.report.read(line)
    if not state.version and (version := _VERSION.search(line)):
        state.version = version[1]


def _any_in(words: tuple[str, ...], line: str) -> bool:
    """Whether a line holds one of some words: a loop is several times faster than the pattern that says the same."""
    for word in words:  # noqa: SIM110
        if word in line:
            return True
    return False


def log_time(line: str) -> float | None:
    """The first time in a line as seconds since 1970, taken as UTC.

    The cache wrapper prints milliseconds with six digits (`21:51:36.000433` is 433 ms: its documented lines never
    exceed 000999); the compiler's own lines hold microseconds.
    """
    found = _STAMP.search(line, 0, _TEXT_LIMIT)
    if found is None:
        return None
    day, clock, fraction = found.groups()
    try:
        seconds = datetime.fromisoformat(f"{day}T{clock}+00:00").timestamp()
    except ValueError:
        return None
    if not fraction:
        return seconds
    milliseconds = len(fraction) == 6 and fraction.startswith("000") and _WRAPPER.search(line, found.end(), _TEXT_LIMIT)
    return seconds + (int(fraction) / 1e3 if milliseconds else int(fraction) / 10 ** len(fraction))


def _event(line: str, state: _State) -> None:
    """Record what a line says, under the first pattern that it matches."""
    for kind, pattern in _PATTERNS:
        found = pattern.search(line)
        if found is None:
            continue
        groups = found.groupdict()
        module = _MODULE.search(line)
        event = LogEvent(
            state.lines,
            kind.removesuffix("-echo"),
            log_time(line),
            module[0] if module else "",
            printable((groups.get("path") or "")[:_TEXT_LIMIT]),
            printable((groups.get("command") or "").strip()[:_TEXT_LIMIT]),
        )
        if not _is_echo(kind, event.module, state):
            state.counts[event.kind] += 1
            if len(state.events) < EVENT_LIMIT:
                state.events.append(event)
        _follow(event, state)
        return


def _is_echo(kind: str, module: str, state: _State) -> bool:
    """Whether a line says again what was counted already."""
    if kind == "pass-echo" and state.unsaid_passes:
        state.unsaid_passes -= 1
        return True
    if kind == "pass" and not module:
        state.unsaid_passes += 1
    if module and module in state.failed and kind in ("fail", "fail-echo"):
        if kind == "fail-echo":
            state.failed.discard(module)
        return True
    if module and kind in ("fail", "cached-failure") and len(state.failed) < REMARK_LIMIT:
        state.failed.add(module)
    return False


def _follow(event: LogEvent, state: _State) -> None:
    """Open a compilation at its command, and close one at its end."""
    if event.kind == "compile" and len(state.runs) < EVENT_LIMIT:
        state.runs.append(_Run(event.line, event.module, event.command, event.time_s))
        state.open = [*state.open[-255:], state.runs[-1]]
        state.failed.discard(event.module)
    if event.kind not in ("pass", "fail"):
        return
    if event.module:
        ended = [run for run in state.open if run.module == event.module]
    else:
        ended = state.open if len(state.open) == 1 else []
        state.unplaced += len(state.open) > 1
    if ended:
        run = ended[-1]
        run.result, run.end_s, run.at_most = event.kind, event.time_s, event.time_s is None
        state.untimed = run if run.at_most else None
        state.open = [other for other in state.open if other is not run]
    elif state.untimed is not None and event.time_s is None:
        state.untimed.result = event.kind


def _finished(source: str, state: _State) -> NeuronLog:
    notes = []
    if state.open:
        unknown = (
            f"{len(state.open)} of {len(state.runs)} compilations have no end in the log that is theirs for certain"
        )
        notes.append(unknown + (f"; {state.unplaced} ends name no module" if state.unplaced else ""))
    if len(state.runs) > 1 and (state.report.tiles or state.report.figures):
        notes.append("tiles and figures are those of the last compilation that reported them")
    if state.cut_lines:
        notes.append(f"of lines longer than {LINE_LIMIT} bytes only the beginning is read")
    if len(state.events) == EVENT_LIMIT:
        notes.append(f"only the first {EVENT_LIMIT} events are kept; the counts are of all")
    return NeuronLog(
        source=source,
        lines=state.lines,
        events=tuple(state.events),
        counts={kind: state.counts[kind] for kind in KINDS},
        compilations=tuple(_compilation(run) for run in state.runs),
        pass_seconds=dict(sorted(state.passes.items(), key=lambda item: -item[1])),
        remarks=tuple(state.remarks),
        levels=dict(state.levels),
        compiler_version=state.version,
        tiles=state.report.tiles,
        figures=state.report.figures,
        notes=tuple(notes),
    )


def _compilation(run: _Run) -> Compilation:
    known = run.start_s is not None and run.end_s is not None
    seconds = max(0.0, (run.end_s or 0.0) - (run.start_s or 0.0)) if known else None
    return Compilation(run.line, run.module, run.command, run.result, seconds, run.at_most)
