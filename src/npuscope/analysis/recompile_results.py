"""What results of npuscope tell of compilations: rows of `npuscope matmul`, and of `npuscope mlp` with the logs and caches beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from npuscope.analysis.recompile import Finding
from npuscope.backends.neuron_torch_run import LOG_NAME
from npuscope.errors import FormatError
from npuscope.formats.compile_cache import looks_like_cache
from npuscope.formats.kernel_folder import MANIFEST_NAME, read_manifest
from npuscope.formats.results import PARQUET_NAME, UNMEASURED, read_parquet

_TIMED: Final = re.compile(r"(\d+) compilation\(s\) happened inside the timed region")
COMPILED: Final = ("miss", "disabled", "uncounted")
"""Values of `compile_cache` of workloads that a compiler worked for."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One workload of a results folder."""

    told: str
    """What was compiled, and for which device: equal texts are the same."""
    compile_cache: str
    """As in results; '' where a log beside it tells its requests."""
    compile_ms: float | None
    compiled_while_timed: int
    """Compilations within the timed calls."""
    is_each_call: bool = False
    """As many as there were calls, or more."""


@dataclass(frozen=True, slots=True)
class ResultFiles:
    """What a results folder holds for the doctor."""

    workloads: tuple[Workload, ...]
    logs: tuple[Path, ...] = ()
    caches: tuple[Path, ...] = ()


def read_workloads(folder: Path) -> ResultFiles:
    """The workloads of a results folder; of a build of `npuscope mlp` the logs and compile caches of its NEFFs, too.

    Raises:
        FormatError: The folder is damaged, or not finished.
    """
    if (folder / MANIFEST_NAME).is_file():
        return _of_kernels(folder)
    path = folder / PARQUET_NAME if folder.is_dir() else folder
    if not path.is_file():
        raise FormatError(
            folder,
            expected=f"a finished results folder with {PARQUET_NAME}",
            found="none",
            remedy="npuscope matmul --resume",
        )
    rows = [row for row in read_parquet(path) if row.status != UNMEASURED]
    return ResultFiles(
        tuple(
            Workload(
                told=f"{row.M}x{row.K}x{row.N} {row.dtype} on {row.device}",
                compile_cache=row.compile_cache,
                compile_ms=row.compile_ms,
                compiled_while_timed=sum(int(found) for found in _TIMED.findall(row.warning_details)),
            )
            for row in rows
        )
    )


def _of_kernels(folder: Path) -> ResultFiles:
    workloads, logs, caches = [], [], []
    for built in read_manifest(folder).builds:
        run, place = built.host_run, folder / built.folder
        is_logged = bool(built.folder) and (place / LOG_NAME).is_file()
        again = round(run.recompilations_per_call * len(run.samples_ns)) if run else 0
        workloads.append(
            Workload(
                told=f"{built.name} for {built.config.text} {built.config.dtype} on {built.device}",
                compile_cache="" if is_logged else built.compile_cache,
                compile_ms=built.compile_ms,
                compiled_while_timed=again,
                is_each_call=run is not None and again >= len(run.samples_ns) > 0,
            )
        )
        if is_logged:
            logs.append(place / LOG_NAME)
            if looks_like_cache(place):
                caches.append(place)
    return ResultFiles(tuple(workloads), tuple(logs), tuple(caches))


def findings_of(workloads: Sequence[Workload]) -> list[Finding]:
    """Workloads that were compiled in several results, and compilations within timed calls."""
    findings = []
    seen: set[str] = set()
    again: list[Workload] = []
    for one in workloads:
        if one.told in seen and one.compile_cache in COMPILED:
            again.append(one)
        seen.add(one.told)
    if again:
        cause = "cache-off" if all(one.compile_cache == "disabled" for one in again) else "cache-not-kept"
        costs = [one.compile_ms for one in again if one.compile_ms is not None]
        text = f"{again[0].told} was compiled in several results"
        findings.append(Finding(cause, len(again), sum(costs) if costs else None, (text,), is_recompile=True))
    timed = [one for one in workloads if one.compiled_while_timed]
    if timed:
        texts = tuple(
            f"{one.told}: {one.compiled_while_timed} compilations while it was timed"
            + (", at each call" if one.is_each_call else "")
            for one in timed
        )
        count = sum(one.compiled_while_timed for one in timed)
        findings.append(Finding("unexplained", count, None, texts, is_recompile=True))
    return findings
