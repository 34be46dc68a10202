"""What `npuscope inspect` says of a compiler or cache log."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from npuscope.errors import shorten
from npuscope.formats.inspection import Inspection
from npuscope.formats.neuron_log import NeuronLog, read_neuron_log

_SHOWN_ROWS = 40
_SHOWN_PASSES = 15
_MESSAGE_LIMIT = 320
_STAMP = r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d{1,9})?Z?:?"
_LEVEL = r"(?:(?:\d{1,10}\s+)?(?:WARNING|ERROR|CRITICAL|FATAL|INFO|[IWEF])\s+(?:\d{1,10}\s+)?|\[[A-Z]{4,8}\]:?\s*)"
_LEAD = re.compile(rf"^\s{{0,8}}(?:{_STAMP}\s+){{0,3}}(?:{_LEVEL})?")


def inspect_neuron_log(path: Path | str) -> Inspection:
    """Tell what a log says: hits, misses, compilations, the compiler's passes, tiles, warnings.

    Raises:
        FormatError: The path is no readable file.
    """
    log = read_neuron_log(path)
    counts = log.counts
    title = (
        f"log of {log.lines} lines: {len(log.compilations)} compilation(s), {counts['pass']} passed, "
        f"{counts['fail']} failed; {counts['hit']} cache hit(s), {counts['cached-failure']} cached failure(s)"
    )
    tables = {
        "compilations": [_compilation_row(log, index) for index in range(min(len(log.compilations), _SHOWN_ROWS))],
        "events": _event_rows(log),
        "modules": _module_rows(log)[:_SHOWN_ROWS],
        "tiles": [
            {"macro": name, "instructions": count} for name, count in sorted(log.tiles.items(), key=lambda i: -i[1])
        ],
        "compiler passes": _pass_rows(log),
        "reported figures": _figure_rows(log)[:_SHOWN_ROWS],
        "warnings and errors": [
            {"line": r.line, "level": r.level, "text": shorten(message_of(r.text), _MESSAGE_LIMIT)}
            for r in log.remarks[:_SHOWN_ROWS]
        ],
    }
    kept = {name: rows for name, rows in tables.items() if rows}
    return Inspection("neuron-log", log.source, title, _facts(log), kept, log.notes)


def _facts(log: NeuronLog) -> Mapping[str, Any]:
    timed = [run.seconds for run in log.compilations if run.seconds is not None]
    times = [event.time_s for event in log.events if event.time_s is not None]
    facts: dict[str, Any] = {"lines": log.lines, "compiler_version": log.compiler_version}
    facts |= {f"{kind.replace('-', '_')}_lines": count for kind, count in log.counts.items() if count}
    if timed:
        facts["compile_s"] = round(sum(timed), 3)
        facts["compilations_timed"] = f"{len(timed)} of {len(log.compilations)}"
    if times:
        facts["first_event"] = clock_text(min(times))
        facts["last_event"] = clock_text(max(times))
    facts |= {f"{level.lower()}_lines": count for level, count in sorted(log.levels.items())}
    return {key: value for key, value in facts.items() if value != ""}


def clock_text(time_s: float) -> str:
    """Seconds since 1970 as the log would print them."""
    return datetime.fromtimestamp(time_s, tz=timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def message_of(line: str) -> str:
    """A line of a log without what leads it: times, process, level; the level has a column of its own."""
    return _LEAD.sub("", line, count=1).strip() or line


def _figure_rows(log: NeuronLog) -> list[dict[str, Any]]:
    """Figures by name; the compiler reports utilisations in percent, which become `*_percent` as fractions."""
    return [
        {"figure": f"{name}_percent", "value": value / 100}
        if name.endswith("_utilization")
        else {"figure": name, "value": value}
        for name, value in log.figures.items()
    ]


def _compilation_row(log: NeuronLog, index: int) -> dict[str, Any]:
    run = log.compilations[index]
    seconds = None if run.seconds is None else round(run.seconds, 3)
    return {
        "line": run.line,
        "module": run.module,
        "result": run.result,
        "compile_s": seconds,
        "is_upper_bound": run.at_most,
        "command": shorten(run.command, _MESSAGE_LIMIT),
    }


def _event_rows(log: NeuronLog) -> list[dict[str, Any]]:
    """All events that are no compilation of their own; the first of them."""
    rows = [event for event in log.events if event.kind not in ("compile", "pass")]
    return [
        {
            "line": event.line,
            "event": event.kind,
            "time": "" if event.time_s is None else clock_text(event.time_s),
            "module": event.module,
            "path": shorten(event.path, 120),
        }
        for event in rows[:_SHOWN_ROWS]
    ]


def _module_rows(log: NeuronLog) -> list[dict[str, Any]]:
    """Events by module, the busiest first: what was compiled more than once shows here."""
    rows: dict[str, dict[str, Any]] = {}
    for event in log.events:
        if event.module:
            row = rows.setdefault(event.module, {"module": event.module, "hits": 0, "compiled": 0, "failed": 0})
            key = {"hit": "hits", "compile": "compiled", "fail": "failed", "cached-failure": "failed"}.get(event.kind)
            if key:
                row[key] += 1
    return sorted(rows.values(), key=lambda row: (-row["compiled"], -row["hits"], row["module"]))


def _pass_rows(log: NeuronLog) -> list[dict[str, Any]]:
    passes = list(log.pass_seconds.items())[:_SHOWN_PASSES]
    return [{"pass": name, "total_s": round(seconds, 3)} for name, seconds in passes if seconds > 0]
