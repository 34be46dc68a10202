"""What a log of the Neuron compiler and its cache wrapper tells of recompilation: keys in sequence, hits, failures, seconds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from npuscope.analysis.recompile import Finding, summed
from npuscope.formats.neuron_log import Compilation, LogEvent, NeuronLog

_KEY: Final = re.compile(
    r"(?P<compiler>neuronx?cc-[^/\s]{1,80})?/?(?P<module>MODULE_(?P<hlo>[0-9A-Za-z_]{1,120}?)(?:\+(?P<flags>[0-9a-f]{1,32}))?)(?![0-9A-Za-z_+])"
)
_ASKED_AGAIN: Final = 0.9
"""Of several programs that were compiled once each; with fewer that are asked for again, some may be one that is never the same.

torch_xla asks its own cache first and prints nothing of that, so that a program which is not asked for again proves nothing.
"""


@dataclass(frozen=True, slots=True)
class LogReport:
    """What was found in a log."""

    calls: int
    """Requests for a compiled program: hits, compilations, and failures that the cache kept."""
    compiles: int
    cache_hits: int
    recompiles: int | None
    """None where lines do not name the programs, or do not show that most are asked for again."""
    compile_ms: float | None
    costs_ms: dict[str, float]
    """By `MODULE_<hlo>+<flags>`, the last time that each was compiled."""
    findings: tuple[Finding, ...]
    sequence: tuple[str, ...]
    """Request by request: `hit MODULE_...`, `compiled MODULE_...`."""
    modules: frozenset[str]
    """What was compiled, as far as lines name it (see `unnamed`), with `<compiler>/` before it where they name that, too."""
    unnamed: int
    """Compilations of which no line names the program."""
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Key:
    module: str
    hlo: str
    flags: str
    compiler: str


def examine_log(log: NeuronLog) -> LogReport:
    """Compare the requests of a log with each other, in their order."""
    keys = [_key_of(event) for event in log.events]
    compiled = [(run, _key_in(f"{run.module} {run.command}")) for run in log.compilations]
    ended = log.counts["pass"] + log.counts["fail"]
    compiles = max(len(compiled), ended)
    hits = log.counts["hit"]
    items = _again(compiled)
    costs = {key.module: 1e3 * run.seconds for run, key in compiled if key and run.seconds is not None}
    named = sum(key is not None for _, key in compiled)
    findings = [*summed(items, is_recompile=True), *_of_cache(log)]
    recompiles: int | None = len(items)
    unnamed = compiles - named
    if compiles > 1 and unnamed > 0:
        recompiles = None
        text = f"{unnamed} compilations of which no line names the program"
        findings.append(Finding("unexplained", unnamed, _total(compiled), (text,)))
    unclear = "" if items else _unclear(log, keys, compiled)
    if unclear:
        recompiles = None
        findings.append(Finding("unexplained", named, _total(compiled), (unclear,)))
    return LogReport(
        calls=hits + compiles + log.counts["cached-failure"],
        compiles=compiles,
        cache_hits=hits,
        recompiles=recompiles,
        compile_ms=_total(compiled),
        costs_ms=costs,
        findings=tuple(findings),
        sequence=tuple(_sequence(log.events, keys)),
        modules=frozenset(f"{key.compiler}/{key.module}" if key.compiler else key.module for _, key in compiled if key),
        unnamed=max(0, unnamed),
        notes=log.notes,
    )


def _unclear(log: NeuronLog, keys: Sequence[_Key | None], compiled: Sequence[tuple[Compilation, _Key | None]]) -> str:
    """What makes programs that were compiled once each doubtful; '' where nearly all of them are asked for again later."""
    lines: dict[str, int] = {}
    for run, key in compiled:
        if key is not None:
            lines.setdefault(key.module, run.line)
    found = {
        key.module
        for event, key in zip(log.events, keys, strict=True)
        if event.kind == "hit" and key is not None and event.line > lines.get(key.module, event.line)
    }
    if len(lines) < 2 or len(found) >= _ASKED_AGAIN * len(lines):
        return ""
    rest = [module for module in lines if module not in found]
    shown = ("not " if found else "") + ", ".join(rest[:3]) + (", ..." if len(rest) > 3 else "")
    asked = "none was" if not found else f"only {len(found)} {'was' if len(found) == 1 else 'were'}"
    return (
        f"{len(lines)} programs were compiled once each and {asked} asked for again ({shown}): parts of one model, or one step"
        " that is never the same"
    )


def _total(compiled: Sequence[tuple[Compilation, _Key | None]]) -> float | None:
    seconds = [run.seconds for run, _ in compiled if run.seconds is not None]
    return 1e3 * sum(seconds) if seconds else None


def _key_of(event: LogEvent) -> _Key | None:
    return _key_in(f"{event.path} {event.command} {event.module}")


def _key_in(text: str) -> _Key | None:
    """The first key that a text names with most of its parts."""
    found = list(_KEY.finditer(text))
    if not found:
        return None
    best = max(found, key=lambda match: (bool(match["flags"]), bool(match["compiler"])))
    return _Key(best["module"], best["hlo"], best["flags"] or "", best["compiler"] or "")


def _again(compiled: Sequence[tuple[Compilation, _Key | None]]) -> list[tuple[str, str, str, float | None]]:
    """Compilations of a graph that had been compiled before, with what differs in the key."""
    items = []
    seen: dict[str, list[tuple[Compilation, _Key]]] = {}
    for run, key in compiled:
        if key is None:
            continue
        before = seen.setdefault(key.hlo, [])
        cost = None if run.seconds is None else 1e3 * run.seconds
        if before:
            cause, text = _differs(before, run, key)
            items.append((cause, text, key.module, cost))
        before.append((run, key))
    return items


def _differs(before: Sequence[tuple[Compilation, _Key]], run: Compilation, key: _Key) -> tuple[str, str]:
    same = next((one for one in reversed(before) if one[1] == key), None)
    if same is not None:
        if same[0].result == "fail":
            return (
                "failed-compile-cached",
                f"{key.module} failed in line {same[0].line} and was tried again in line {run.line}",
            )
        return "cache-not-kept", f"{key.module} was compiled in line {same[0].line} and again in line {run.line}"
    first = before[0][1]
    if first.compiler != key.compiler:
        return (
            "compiler-version-differs",
            f"graph {key.hlo}: {first.compiler or 'unknown'} and {key.compiler or 'unknown'}",
        )
    if first.flags != key.flags:
        return "flags-differ", f"graph {key.hlo}: keys +{first.flags or 'none'} and +{key.flags or 'none'}"
    return "cache-not-kept", f"graph {key.hlo} was compiled again in line {run.line}"


def _of_cache(log: NeuronLog) -> list[Finding]:
    """What the wrapper says of its cache itself."""
    findings = []
    failed = [event for event in log.events if event.kind == "cached-failure"]
    if failed:
        lines = ", ".join(str(event.line) for event in failed[:6])
        text = f"got a cached failed NEFF in line {lines}" + (" and later" if len(failed) > 6 else "")
        modules = tuple(dict.fromkeys(event.module for event in failed if event.module))
        findings.append(Finding("failed-compile-cached", log.counts["cached-failure"], None, (text,), modules))
    places = Counter(event.path.rstrip("/") for event in log.events if event.kind == "cache-path" and event.path)
    if len(places) > 1:
        text = f"{len(places)} cache folders are named: {', '.join(list(places)[:3])}"
        findings.append(Finding("cache-not-shared", len(places) - 1, None, (text,)))
    uncached = sum("--no_cache" in run.command for run in log.compilations)
    if uncached:
        findings.append(Finding("cache-off", uncached, None, ("--no_cache is among the compiler's flags",)))
    return findings


def _sequence(events: Sequence[LogEvent], keys: Sequence[_Key | None]) -> list[str]:
    words = {"hit": "hit", "compile": "compiled", "cached-failure": "failed before"}
    return [
        f"{words[event.kind]} {key.module if key else '(not named)'}"
        for event, key in zip(events, keys, strict=True)
        if event.kind in words
    ]
