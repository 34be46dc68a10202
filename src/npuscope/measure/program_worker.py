"""Measures programs and writes what it saw to a file: one child process of `program_runs`."""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from npuscope.backends.base import BackendOptions
from npuscope.backends.programs import open_program_device
from npuscope.errors import NpuscopeError, UnavailableError
from npuscope.measure.programs import ProgramMeasurement, measure_programs
from npuscope.measure.settings import Settings
from npuscope.workloads.patterns import PatternConfig


def main(arguments: list[str]) -> int:
    """Read the request, measure, write the answer; 1 where the device cannot be had, with the reason in the answer."""
    request = json.loads(Path(arguments[0]).read_text("utf-8"))
    answer = Path(arguments[1])
    try:
        document: dict[str, Any] = {"programs": [_told(result) for result in _measure(request)]}
        status = 0
    except UnavailableError as error:
        document, status = {"missing": error.missing, "remedy": error.remedy}, 1
    except NpuscopeError as error:
        document, status = {"error": str(error)}, 1
    answer.write_text(json.dumps(document), "utf-8")
    return status


def _measure(request: dict[str, Any]) -> tuple[ProgramMeasurement, ...]:
    cache = request["compile_cache"]
    backend = open_program_device(request["device"], BackendOptions(compile_cache=Path(cache) if cache else None))
    traces = request["traces_folder"]
    return measure_programs(
        backend,
        [PatternConfig(**config) for config in request["configs"]],
        Settings(**request["settings"]),
        _say,
        traces_folder=Path(traces) if traces else None,
    )


def _say(text: str) -> None:
    """The last line is what is told of a process that never ends."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _told(result: ProgramMeasurement) -> dict[str, Any]:
    return {
        "status": result.status,
        "error": result.error,
        "compile_ms": result.compile_ms,
        "cache": result.cache.value,
        "first_run_ms": result.first_run_ms,
        "warmup_runs": result.warmup_runs,
        "warmup_steady": result.warmup_steady,
        "dispatch_floor_ms": result.dispatch_floor_ms,
        "samples_ns": result.samples_ns,
        "check": asdict(result.check) if result.check is not None else None,
        "compiles_while_timed": result.compiles_while_timed,
        "hlo": base64.b64encode(result.hlo).decode("ascii") if result.hlo is not None else None,
        "dispatches": result.dispatches,
        "trace": str(result.trace) if result.trace is not None else None,
        "traced_runs": result.traced_runs,
        "warnings": result.warnings,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
