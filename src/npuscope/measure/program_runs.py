"""Programs measured in several processes, one after another: what differs between processes is part of the noise.

Within one process the ratio of two programs can repeat to a few percent and be another one in the next, by where code, buffers
and threads happen to lie. A process is therefore what a round is elsewhere: intervals come from the spread between them.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from npuscope.backends.base import CacheStatus
from npuscope.backends.processes import module_words, run_child
from npuscope.errors import MeasurementError, UnavailableError, UsageError
from npuscope.measure.programs import ProgramMeasurement, timing_warnings
from npuscope.measure.settings import Settings
from npuscope.measure.statistics import MIN_INTERVAL_ROUNDS, summarise
from npuscope.workloads.patterns import OutputCheck, PatternConfig

Progress = Callable[[str], None]
DEFAULT_PROCESSES: Final = 5
_MOST_PROCESSES: Final = 50
_START_S: Final = 120.0
"""For a process to start, beside what its programs take."""
_OVERTIME: Final = 8.0
"""Times the sampling budget, for warm-up, checks and traces."""


def measure_in_processes(
    device: str,
    configs: Sequence[PatternConfig],
    settings: Settings,
    progress: Progress = lambda _: None,
    *,
    processes: int = DEFAULT_PROCESSES,
    time_limit_s: float = 60.0,
    compile_cache: Path | None = None,
    traces_folder: Path | None = None,
) -> tuple[ProgramMeasurement, ...]:
    """Measure programs in fresh processes, together in each of them.

    Compile time, cache and first run are those of the first process, which also takes the traces. Later ones of a JAX device
    may take compiled programs from a cache of this call, which the second one fills: the first knows of none, so that what it
    tells of compiling is what the user's own settings make of it.

    Args:
        device: One that `open_program_device` takes.
        configs: What to measure.
        settings: Precision, time and seed; the time is shared out among the processes.
        progress: Is called with a line about what is done now.
        processes: How many, at least 3.
        time_limit_s: Of a compiler, per program.
        compile_cache: The user's own cache, used by all processes.
        traces_folder: Where the device's profiler may write; None traces nothing.

    Returns:
        One per config, in their order; the rounds of its samples are the processes.

    Raises:
        UnavailableError: The device cannot be had.
        UsageError: Fewer than 3 processes.
    """
    check_processes(processes)
    if not configs:
        return ()
    share = replace(settings, max_seconds=settings.max_seconds / processes)
    limit_s = _START_S + len(configs) * (time_limit_s + _OVERTIME * settings.max_seconds)
    runs: list[list[dict[str, Any]]] = []
    with tempfile.TemporaryDirectory(prefix="npuscope-programs-") as scratch:
        for number in range(processes):
            progress(f"process {number + 1} of {processes}, {len(configs)} programs")
            own_cache = Path(scratch) / "cache" if number and device.startswith("jax:") else None
            request = {
                "device": device,
                "configs": [asdict(config) for config in configs],
                "settings": asdict(replace(share, seed=settings.seed)),
                "compile_cache": _text(compile_cache or own_cache),
                "traces_folder": _text(traces_folder) if number == 0 else None,
            }
            answer = _run(request, Path(scratch), limit_s)
            if isinstance(answer, str):
                return tuple(ProgramMeasurement(config, device, "failed", answer) for config in configs)
            runs.append(answer)
    return tuple(_merged(device, config, [run[at] for run in runs], settings) for at, config in enumerate(configs))


def check_processes(count: int) -> None:
    """Refuse, before the work, a number of processes that cannot be used.

    Raises:
        UsageError: Fewer than an interval needs, or beyond any use.
    """
    if not MIN_INTERVAL_ROUNDS <= count <= _MOST_PROCESSES:
        raise UsageError(
            f"--processes {count}: from {MIN_INTERVAL_ROUNDS}, since fewer have no interval, to {_MOST_PROCESSES}"
        )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def _run(request: dict[str, Any], scratch: Path, limit_s: float) -> list[dict[str, Any]] | str:
    """One process; its programs, or why there are none.

    Raises:
        UnavailableError: The device cannot be had.
    """
    asked, told = scratch / "request.json", scratch / "answer.json"
    asked.write_text(json.dumps(request), "utf-8")
    told.unlink(missing_ok=True)
    words = module_words("npuscope.measure.program_worker", str(asked), str(told))
    try:
        ended = run_child(words, env=os.environ, timeout_s=limit_s)
    except MeasurementError as error:
        return f"the measuring process was ended: {error}"
    if not told.exists():
        return f"the measuring process {ended.told()}; its last words: {ended.last_words()}"
    document = json.loads(told.read_text("utf-8"))
    if "missing" in document:
        raise UnavailableError(request["device"], missing=document["missing"], remedy=document["remedy"])
    if "error" in document:
        return str(document["error"])
    programs: list[dict[str, Any]] = document["programs"]
    return programs


def _merged(
    device: str, config: PatternConfig, runs: Sequence[dict[str, Any]], settings: Settings
) -> ProgramMeasurement:
    """One program from all processes; one that failed in any of them has no figure."""
    first = runs[0]
    hlo = base64.b64decode(first["hlo"]) if first["hlo"] is not None else None
    for number, run in enumerate(runs, 1):
        if run["status"] != "ok":
            where = "" if number == 1 else f"in process {number} of {len(runs)}: "
            return ProgramMeasurement(config, device, "failed", f"{where}{run['error']}", hlo=hlo)
    samples = [sample for run in runs for sample in run["samples_ns"]]
    process = [number for number, run in enumerate(runs) for _ in run["samples_ns"]]
    statistics = summarise(np.array(samples), np.array(process), seed=settings.seed)
    floors = [run["dispatch_floor_ms"] for run in runs if run["dispatch_floor_ms"] is not None]
    floor_ms = median(floors) if floors else None
    checks = [OutputCheck(**run["check"]) for run in runs if run["check"] is not None]
    compiles = sum(run["compiles_while_timed"] for run in runs)
    steady = None if any(run["warmup_steady"] is None for run in runs) else all(run["warmup_steady"] for run in runs)
    remarks = [text for text in first["warnings"] if text.startswith(("no trace", "recording"))]
    return ProgramMeasurement(
        config=config,
        device=device,
        status="ok",
        compile_ms=first["compile_ms"],
        cache=CacheStatus(first["cache"]),
        first_run_ms=first["first_run_ms"],
        warmup_runs=sum(run["warmup_runs"] for run in runs),
        warmup_steady=steady,
        statistics=statistics,
        dispatch_floor_ms=floor_ms,
        samples_ns=tuple(samples),
        sample_round=tuple(process),
        check=max(checks, key=lambda check: check.error_over_mass, default=None),
        compiles_while_timed=compiles,
        hlo=hlo,
        dispatches=first["dispatches"],
        trace=Path(first["trace"]) if first["trace"] is not None else None,
        traced_runs=first["traced_runs"],
        warnings=(*timing_warnings(statistics, floor_ms, compiles_while_timed=compiles, steady=steady), *remarks),
    )
