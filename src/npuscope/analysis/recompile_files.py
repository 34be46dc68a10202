"""The diagnosis of files: logs, cache folders and results of npuscope, alone or beside a program that was run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from npuscope.analysis.recompile import Diagnosis, Finding, counted_words
from npuscope.analysis.recompile_cache import CacheReport, examine_cache
from npuscope.analysis.recompile_causes import CAUSES
from npuscope.analysis.recompile_log import LogReport, examine_log
from npuscope.analysis.recompile_results import COMPILED, Workload, findings_of, read_workloads
from npuscope.errors import FormatError
from npuscope.formats.cache_listing import is_jax_cache, list_cache
from npuscope.formats.compile_cache import looks_like_cache
from npuscope.formats.kernel_folder import MANIFEST_NAME
from npuscope.formats.neuron_log import read_neuron_log
from npuscope.formats.results import CSV_NAME, PARQUET_NAME
from npuscope.units import format_ns

_BLOCKING: Final = ("failed-compile-cached", "cache-not-writable")
"""Faults that keep a program from running, or everything from being kept."""


@dataclass(frozen=True, slots=True)
class Files:
    """What was given, by kind."""

    logs: tuple[Path, ...] = ()
    caches: tuple[Path, ...] = ()
    results: tuple[Path, ...] = ()


def kind_of(path: Path) -> str:
    """`log`, `cache` or `results`.

    Raises:
        FormatError: It is none of them.
    """
    from npuscope.formats.artifact import identify

    if path.is_dir() and any((path / name).exists() for name in (MANIFEST_NAME, PARQUET_NAME, CSV_NAME)):
        return "results"
    if path.is_dir() and (is_jax_cache(path) or looks_like_cache(path)):
        return "cache"
    found = identify(path)
    kind = {"neuron-log": "log", "results": "results"}.get(found.name)
    if kind is None:
        expected = "a script (SCRIPT.py, MODULE:FUNCTION), a compiler's log, a cache folder or a results folder"
        raise FormatError(path, expected=expected, found=found.words)
    return kind


def diagnose_files(files: Files) -> Diagnosis:
    """What logs, caches and results tell together: costs from the logs, reasons from the programs in the caches.

    Raises:
        FormatError: A file is damaged, or is not what it was taken for.
    """
    results = [read_workloads(path) for path in files.results]
    workloads = [one for found in results for one in found.workloads]
    files = replace(
        files,
        logs=(*files.logs, *(path for found in results for path in found.logs)),
        caches=(*files.caches, *(path for found in results for path in found.caches)),
    )
    logs = [examine_log(read_neuron_log(path)) for path in files.logs]
    costs = {module: cost for log in logs for module, cost in log.costs_ms.items()}
    compiled = frozenset().union(*(log.modules for log in logs)) or None
    listings = [list_cache(path) for path in files.caches]
    caches = [examine_cache(listing, costs, compiled) for listing in listings]
    # The programs themselves tell what the log alone does not.
    is_named = compiled is not None and not any(log.unnamed for log in logs)
    is_compared = is_named and (compiled or frozenset()) <= frozenset().union(*(cache.names for cache in caches))
    of_logs = [[one for one in log.findings if not (is_compared and one.cause == "unexplained")] for log in logs]
    findings = _merged([_added([one.findings for one in caches]), findings_of(workloads), _added(of_logs)])
    again = [one for one in findings if one.is_recompile]
    faults = [one for one in findings if not one.is_recompile]
    cause = (again or faults)[0].cause if findings else "none"
    has_counts = bool(logs or workloads)
    hits = sum(log.cache_hits for log in logs) + sum(one.compile_cache == "hit" for one in workloads)
    is_blind = not has_counts and not any(cache.programs for cache in caches)
    unknown = not again and (is_blind or (any(one.recompiles is None for one in logs) and not is_compared))
    costs_known = [one.cost_ms for one in again if one.cost_ms is not None]
    diagnosis = Diagnosis(
        targets=tuple(map(str, (*files.logs, *files.caches, *files.results))),
        framework="",
        calls=sum(log.calls for log in logs) + sum(bool(one.compile_cache) for one in workloads)
        if has_counts
        else None,
        compiles=_compiles(logs, workloads) if has_counts else sum(len(listing.entries) for listing in listings),
        cache_hits=hits if has_counts else None,
        disk_hits=hits if has_counts else None,
        recompiles=None if unknown else sum(one.count for one in again),
        recompile_ms=sum(costs_known) if costs_known else None if again or unknown else 0.0,
        cause=cause,
        fix=CAUSES[cause].fix,
        summary="",
        counted=_counted(files),
        findings=(*again, *faults),
        functions=(),
        status="ok",
        notes=tuple(
            dict.fromkeys([note for log in logs for note in log.notes] + [note for one in caches for note in one.notes])
        ),
        sequence=tuple(word for log in logs for word in log.sequence),
    )
    return replace(diagnosis, summary=_summary(diagnosis, logs, caches))


def joined(run: Diagnosis, files: Diagnosis) -> Diagnosis:
    """A program's diagnosis with what files add to it: counts stay those of the run."""
    findings = _merged([run.findings, files.findings])
    again = [one for one in findings if one.is_recompile]
    top = run.cause
    if top == "unexplained":  # a run that recompiles and does not tell why; else the folder may be of other runs
        top = next((one.cause for one in again if one.cause != "unexplained"), top)
    return replace(
        run,
        targets=(*run.targets, *files.targets),
        findings=tuple(findings),
        cause=top,
        fix=CAUSES[top].fix,
        notes=(*run.notes, f"beside it: {files.summary}", *files.notes),
        sequence=files.sequence,
    )


def _added(reports: Sequence[Sequence[Finding]]) -> list[Finding]:
    """Findings of several folders or logs, those of one cause and kind as one."""
    found: dict[tuple[str, bool], Finding] = {}
    for one in (finding for report in reports for finding in report):
        key = one.cause, one.is_recompile
        if key not in found:
            found[key] = one
            continue
        first = found[key]
        costs = [cost for cost in (first.cost_ms, one.cost_ms) if cost is not None]
        found[key] = replace(
            first,
            count=first.count + one.count,
            cost_ms=sum(costs) if costs else None,
            evidence=(*first.evidence, *one.evidence),
            functions=tuple(dict.fromkeys((*first.functions, *one.functions))),
        )
    return list(found.values())


def _merged(reports: Sequence[Sequence[Finding]]) -> list[Finding]:
    """Findings of all, each cause from the first that has it; recompilations and what costs most come first."""
    found: dict[str, Finding] = {}
    for report in reports:
        for one in report:
            found.setdefault(one.cause, one)

    def rank(one: Finding) -> tuple[bool, float, bool, int]:
        return not one.is_recompile, -(one.cost_ms or 0.0), one.cause not in _BLOCKING, -one.count

    return sorted(found.values(), key=rank)


def _compiles(logs: Sequence[LogReport], workloads: Sequence[Workload]) -> int:
    return sum(log.compiles for log in logs) + sum(one.compile_cache in COMPILED for one in workloads)


def _counted(files: Files) -> str:
    words = []
    if files.logs:
        words.append("requests to the compiler's cache, as lines of the log tell them")
    if files.results:
        words.append("workloads, as the framework counted while they were measured")
    if files.caches and not words:
        words.append("entries of the cache; how often each was used it does not tell")
    return "; ".join(words)


def _summary(diagnosis: Diagnosis, logs: Sequence[LogReport], caches: Sequence[CacheReport]) -> str:
    if diagnosis.calls is None:
        entries = counted_words(diagnosis.compiles, "entry")
        programs = sum(one.programs for one in caches)
        if diagnosis.recompiles is None:
            is_any = any(one.complete for one in caches)
            return f"{entries}, and none {'keeps the program that it was compiled from' if is_any else 'is complete'}"
        if not diagnosis.recompiles:
            alone = f"{entries}, of which one is complete and keeps its program: there is none to compare it with"
            return f"{entries}, {programs:,} of their programs compared: no two are alike" if programs > 1 else alone
        entries += f", {programs:,} of their programs compared"
        verb = "was" if diagnosis.recompiles == 1 else "were"
        return f"{entries}: {diagnosis.recompiles:,} {verb} compiled beside another one that differs in one thing alone"
    took = "" if diagnosis.recompile_ms is None else f", which took {format_ns(1e6 * diagnosis.recompile_ms)}"
    counts = (
        (diagnosis.calls, "request"),
        (diagnosis.compiles, "compilation"),
        (diagnosis.cache_hits or 0, "cache hit"),
    )
    head = ", ".join(counted_words(count, noun) for count, noun in counts)
    times = [log.compile_ms for log in logs if log.compile_ms is not None]
    spent = f" (compiling took {format_ns(1e6 * sum(times))})" if times else ""
    if diagnosis.recompiles is None:
        return f"{head}{spent}: the lines do not tell whether a program was compiled twice"
    if not diagnosis.recompiles:
        return f"{head}{spent}: nothing was compiled twice"
    return f"{head}{spent}: {diagnosis.recompiles:,} of the compilations again{took}"
