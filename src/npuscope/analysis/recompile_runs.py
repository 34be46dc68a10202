"""The diagnosis of a program that was run and watched: within each process, and from one process to the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from npuscope.analysis.recompile import (
    CompileRow,
    Diagnosis,
    Finding,
    Recompile,
    counted_words,
    explain_pair,
    functions_of,
    recompiles_of,
    summed,
    title_of,
)
from npuscope.analysis.recompile_causes import CAUSES
from npuscope.analysis.recompile_counts import calls_of, hits_of, hits_of_targets, rows_of
from npuscope.measure.watching import Compile, WatchedRun
from npuscope.units import format_ns

_SAME_PROGRAM: Final = ("cache-not-kept", "new-function")
"""Causes that say that a program is the same: from one process to the next, the cache is then what differs."""
_EAGER_COUNT: Final = 20
_EAGER_MS: Final = 1_000.0
"""Programs of JAX's own, and what they take, from which on an advice is worth it where functions are jitted, too."""
_VARIANTS: Final = (
    "shape-change", "dtype-change", "structure-change", "static-argument", "constant-embedded", "program-change",
)  # fmt: skip
"""Causes of which a program can do with a few: each is another program that may be used again."""
_SETTLED: Final = 2
"""Calls without another compilation, for each program that a function has, from which on it has all that it needs."""
_JAX_COUNTS: Final = "calls in JAX's host trace, compilations by jax.monitoring"


def diagnose_runs(target: str, runs: Sequence[WatchedRun]) -> Diagnosis:
    """What one or more processes of a program tell.

    Args:
        target: What was run.
        runs: Its processes, in their order.
    """
    last = runs[-1]
    if last.framework == "torch_xla":
        return _of_counters(target, runs)
    compiles = [one for run in runs for one in run.compiles]
    has_users = any(not one.is_own for one in compiles)
    counted = [one for one in compiles if one.is_own != has_users]
    again, settled = _within_processes(runs)
    between = _between_processes(runs, {id(one.compile) for one in again})
    mine = [one for one in (*again, *between) if one.compile.is_own != has_users]
    findings = _findings(mine)
    processes = sum(run.processes for run in runs)
    is_blind = bool(processes) and not has_users and not mine
    faults = _faults(runs, counted, findings, has_users=has_users)
    if is_blind:
        faults = [_unseen(processes), *faults]
    top = findings[0].cause if findings else _fault_on_top(faults, has_users=has_users)
    calls, why_not = calls_of(runs, has_users=has_users)
    is_asked = bool(last.target_calls)
    hits = hits_of_targets(runs, counted) if is_asked else hits_of(calls, runs, counted)
    is_told = not is_blind and bool(compiles or (last.framework and not last.status))
    diagnosis = Diagnosis(
        targets=(target,),
        framework=last.framework,
        calls=sum(len(run.target_calls) for run in runs) if is_asked else calls,
        compiles=sum(not one.is_hit for one in counted),
        cache_hits=hits,
        disk_hits=sum(one.is_hit for one in counted),
        recompiles=len(mine) if is_told else None,
        recompile_ms=sum(one.compile.cost_ms for one in mine) if mine else 0.0 if counted and is_told else None,
        cause=top,
        fix=CAUSES[top].fix,
        summary="",
        counted=_counted_words(has_users=has_users, is_asked=is_asked) if compiles else "",
        findings=(*findings, *faults),
        functions=tuple(rows_of(runs, [*again, *between])),
        status="failed" if last.status else "ok",
        notes=(*_notes(target, runs, why_not, own=_own_words(runs, faults)), *settled),
        calls_detail=tuple(
            {"compiles": call.compiles, "duration_ms": call.duration_ms} for run in runs for call in run.target_calls
        ),
        versions=last.versions,
        compilations=tuple(_compile_rows(runs, {id(one) for one in counted}, mine)),
    )
    return replace(diagnosis, summary=_summary(diagnosis, runs))


def _within_processes(runs: Sequence[WatchedRun]) -> tuple[list[Recompile], list[str]]:
    """Recompilations, and a note of each function that has a few programs and has gone on with them.

    Padding to three shapes, or a program for training and one for evaluating, compiles as often and then no more: such
    compilations were not needless.
    """
    again, notes = [], []
    for run in runs:
        for group, items in functions_of(run).items():
            found = recompiles_of(group, items)
            last = _last_of_settled(run, items) if found else None
            if last is not None and all(one.cause in _VARIANTS for one in found):
                causes = ", ".join(dict.fromkeys(one.cause for one in found))
                notes.append(
                    f"{_called(items[0])} has {counted_words(len(items), 'program')} ({causes}), the last compiled in call"
                    f" {last[0]:,} of {last[1]:,}: the calls after that needed no other, so that it does not count as recompiling"
                )
            else:
                again += found
    return again, notes


def _last_of_settled(run: WatchedRun, items: Sequence[Compile]) -> tuple[int, int] | None:
    """The call that compiled last, and all calls, from 1; None where calls did not go on for long, or are not known."""
    callers = {one.caller for one in items}
    mine = {id(one) for one in items}
    others = {one.caller for one in run.compiles if id(one) not in mine}
    if run.calls is None or len(callers) != 1 or "" in callers or callers & others:
        return None
    calls = [one.call for one in items if one.call is not None]
    total = run.calls.get(callers.pop(), 0)
    if len(calls) < len(items) or total - 1 - max(calls) < _SETTLED * len(items):
        return None
    return max(calls) + 1, total


def _faults(
    runs: Sequence[WatchedRun], counted: Sequence[Compile], findings: Sequence[Finding], *, has_users: bool
) -> list[Finding]:
    """What is no recompilation but worth a word: a cache that takes nothing, and operations outside of any function."""
    told = {finding.cause for finding in findings}
    faults = [one for one in _cache_faults(runs, counted) if one.cause not in told]
    own = [one for run in runs for one in run.compiles if one.is_own]
    is_many = len(own) >= _EAGER_COUNT or sum(one.cost_ms for one in own) >= _EAGER_MS
    is_all = not has_users and not findings and not any(run.processes for run in runs)
    if own and (is_all or (is_many and (has_users or not findings))):
        faults.append(_eager(own))
    return faults


def _compile_rows(runs: Sequence[WatchedRun], counted: set[int], recompiles: Sequence[Recompile]) -> list[CompileRow]:
    why = {id(one.compile): (one.cause, one.evidence) for one in recompiles}
    return [
        CompileRow(
            process=number,
            function=_called(one),
            call=one.call,
            site=one.site,
            arguments=None if one.arguments is None else tuple(f"{each.path}: {each.text}" for each in one.arguments),
            key=one.key,
            is_hit=one.is_hit,
            cost_ms=one.cost_ms,
            cause=why.get(id(one), ("none", ""))[0],
            evidence=why.get(id(one), ("none", ""))[1],
        )
        for number, run in enumerate(runs)
        for one in run.compiles
        if id(one) in counted
    ]


def _findings(recompiles: Sequence[Recompile]) -> list[Finding]:
    items = [(one.cause, one.evidence, _called(one.compile), one.compile.cost_ms) for one in recompiles]
    return summed(items, is_recompile=True)


def _called(one: Compile) -> str:
    place = one.site if one.is_own or not one.code else one.code
    return f"{title_of(one)} ({place})" if place else title_of(one)


# -- from one process to the next


def _between_processes(runs: Sequence[WatchedRun], known: set[int]) -> list[Recompile]:
    """What a later process compiled that an earlier one had, or would have had but for a difference."""
    earlier: dict[str, list[tuple[WatchedRun, Compile]]] = {}
    found = []
    for run in runs:
        groups = functions_of(run)
        for group, compiles in groups.items():
            for one in compiles:
                if group in earlier and not one.is_hit and id(one) not in known:
                    found.append(Recompile(group, one, *_since(earlier[group], run, one)))
        for group, compiles in groups.items():
            earlier.setdefault(group, []).extend((run, one) for one in compiles)
    return found


def _since(earlier: Sequence[tuple[WatchedRun, Compile]], run: WatchedRun, one: Compile) -> tuple[str, str]:
    told = []
    for before_run, before in earlier[:32]:
        cause, evidence = explain_pair(replace(before, function=None), replace(one, function=None))
        # JAX writes the folder into the compile options, so that another folder is another key, too.
        is_elsewhere = before_run.cache.get("folder") != run.cache.get("folder") and before.settings == one.settings
        if cause in _SAME_PROGRAM or (cause == "flags-differ" and is_elsewhere):
            return _cache_cause(before_run, before, run, one)
        told.append((cause, evidence))
    cause, evidence = told[-1]
    return cause, f"in another process: {evidence}"


def _cache_cause(before_run: WatchedRun, before: Compile, run: WatchedRun, one: Compile) -> tuple[str, str]:
    """Why a process did not find what an earlier one had compiled: what its own settings and the files say."""
    folders = [each.cache.get("folder") for each in (before_run, run)]
    if not all(folders) or not run.cache.get("is_enabled", True):
        return "cache-off", f"{one.name} was compiled in each process, and no persistent cache is set"
    if folders[0] != folders[1]:
        return "cache-not-shared", f"the processes used {folders[0]} and {folders[1]}"
    if before.not_written is not None and before.not_written[0] in ("too fast", "too small"):
        return "too-fast-to-cache", _not_written(before)
    if before.is_stored is False and before.not_written is None:
        return "cache-not-writable", f"{before.name} should be in {folders[0]}, and is not"
    return "cache-not-kept", _not_written(
        before
    ) or f"{one.name} was in {folders[0]} and is gone, or another key is asked for"


def _not_written(one: Compile) -> str:
    if one.not_written is None:
        return ""
    reason, detail = one.not_written
    return {
        "too fast": f"{one.name} took {one.compile_ms / 1e3:.2f} s to compile, and below {detail} s nothing is kept",
        "too small": f"{one.name} is smaller than {detail} bytes, below which nothing is kept",
        "callbacks": f"{one.name} uses host callbacks (jax.debug.print, pure_callback), and is never kept",
    }.get(reason, f"{one.name} is not kept: {reason}")


def _cache_faults(runs: Sequence[WatchedRun], counted: Sequence[Compile]) -> list[Finding]:
    """A cache that is set and takes nothing, as seen within a process."""
    folder = runs[-1].cache.get("folder")
    if not folder or not runs[-1].cache.get("is_enabled", True):
        return []
    lost = [one for one in counted if one.is_stored is False and one.not_written is None and not one.is_hit]
    items = [
        ("cache-not-writable", f"{one.name} should be in {folder}, and is not", one.name, one.cost_ms) for one in lost
    ]
    return summed(items, is_recompile=False)


# -- words


def _counted_words(*, has_users: bool, is_asked: bool) -> str:
    whose = "your jitted functions" if has_users else "JAX's own functions, as none of yours is jitted"
    if is_asked:
        return f"calls of the function that was asked for; compilations of {whose}, by jax.monitoring"
    return f"of {whose}: {_JAX_COUNTS}"


def _eager(own: Sequence[Compile]) -> Finding:
    compiled = [one for one in own if not one.is_hit]
    names = Counter(one.name for one in compiled)
    shown = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in names.most_common(4))
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    sites = tuple(dict.fromkeys(one.site for one in compiled if one.site))[:6]
    cost = sum(one.cost_ms for one in compiled)
    return Finding("eager", len(compiled), cost, (f"JAX's own {shown}{more}",), sites)


def _own_words(runs: Sequence[WatchedRun], faults: Sequence[Finding]) -> str:
    """What JAX compiled of its own, where that is no finding."""
    own = [one for run in runs for one in run.compiles if one.is_own]
    if not own or any(fault.cause == "eager" for fault in faults):
        return ""
    took = format_ns(1e6 * sum(one.cost_ms for one in own))
    return f"{counted_words(len(own), 'program')} of JAX's own for what runs outside of jax.jit, which took {took}: once each process"


def _unseen(processes: int) -> Finding:
    return Finding("not-seen", processes, None, (_processes_words(processes),))


def _processes_words(count: int) -> str:
    return f"{counted_words(count, 'process')} of its own ran, what {'they compile' if count > 1 else 'it compiles'} is not counted"


def _fault_on_top(faults: Sequence[Finding], *, has_users: bool) -> str:
    told = [fault.cause for fault in faults if fault.cause != "eager" or not has_users]
    return told[0] if told else "none"


def _notes(target: str, runs: Sequence[WatchedRun], why_not: str, *, own: str) -> list[str]:
    last = runs[-1]
    notes = []
    processes = sum(run.processes for run in runs)
    if last.status:
        notes.append(
            f"{target} did not end well ({last.error or 'status ' + str(last.status)}): the counts go up to there"
        )
    if processes:
        notes.append(_processes_words(processes))
    if why_not and not last.target_calls:
        notes.append(f"calls are not counted: {why_not}")
    if own:
        notes.append(own)
    if len(runs) == 1 and last.compiles and not last.status:
        notes.append(_cache_words(last))
    return [*notes, *dict.fromkeys(note for run in runs for note in run.notes)]


def _cache_words(run: WatchedRun) -> str:
    """What the next process will find, as far as one process tells."""
    folder = run.cache.get("folder")
    if not folder or not run.cache.get("is_enabled", True):
        return "no persistent cache is set (jax_compilation_cache_dir): each process compiles everything once; --runs 2 shows it"
    slow = sum(one.not_written is not None and one.not_written[0] in ("too fast", "too small") for one in run.compiles)
    kept = sum(one.is_stored is True for one in run.compiles)
    told = f"persistent cache {folder}: {kept} of {len(run.compiles)} programs are in it"
    least = run.cache.get("min_compile_s")
    return told + (
        f"; {slow} compile in less than {least:g} s or are too small to be kept" if slow and least is not None else ""
    )


def _summary(diagnosis: Diagnosis, runs: Sequence[WatchedRun]) -> str:
    unseen = next((one.evidence[0] for one in diagnosis.findings if one.cause == "not-seen"), "")
    if not any(run.compiles for run in runs):
        return _summary_of_nothing(diagnosis, runs[-1], unseen)
    processes = f" in {len(runs)} processes" if len(runs) > 1 else ""
    calls = "calls (not counted)" if diagnosis.calls is None else counted_words(diagnosis.calls, "call")
    head = f"{calls}, {counted_words(diagnosis.compiles, 'compilation')}{processes}"
    if diagnosis.disk_hits:
        head += f", {counted_words(diagnosis.disk_hits, 'program')} from the persistent cache"
    if unseen:
        return f"{unseen}; in the process that was watched: {head}"
    if not diagnosis.recompiles:
        said = {"cache-not-writable": "; what was compiled is not kept", "eager": "; no function is jitted"}
        return head + ": nothing was compiled twice" + said.get(diagnosis.cause, "")
    took = format_ns(1e6 * (diagnosis.recompile_ms or 0.0))
    return f"{head}, {diagnosis.recompiles:,} of them again, which took {took}"


def _summary_of_nothing(diagnosis: Diagnosis, last: WatchedRun, unseen: str) -> str:
    """Nothing was compiled in the process that was watched: why that may be."""
    if last.status:
        before = "anything was compiled" if diagnosis.framework else "it imported jax or torch_xla"
        error = last.error or f"status {last.status}"
        return f"the program ended with {error}, before {before}" + (f"; {unseen}" if unseen else "")
    if unseen:
        return unseen
    if not diagnosis.framework:
        return "the program imported neither jax nor torch_xla, so that there is nothing to count"
    return "nothing was compiled"


def _of_counters(target: str, runs: Sequence[WatchedRun]) -> Diagnosis:
    """What torch_xla's counters tell: how often, and what it took; not why."""
    last = runs[-1]
    compiles = sum(run.counters["UncachedCompile"] for run in runs)
    cached = sum(run.counters["CachedCompile"] for run in runs)
    disk = sum(run.counters["PersistentCacheHit"] for run in runs)
    times = [run.counters["CompileTime"] for run in runs if run.counters["CompileTime"]]
    took_ms = sum(time["sum_ns"] for time in times) / 1e6 if times else None
    # A graph that is needed is compiled once; which of several are, the counters tell only where one function is called often.
    busy = [call.compiles for run in runs for call in run.target_calls]
    again = sum(busy[1:]) if busy else None if compiles > 1 else 0
    processes = sum(run.processes for run in runs)
    is_blind = bool(processes) and not compiles
    if is_blind:
        again = None
    evidence = f"torch_xla compiled {again} graphs in calls after the first" if again else ""
    findings = [Finding("unexplained", again, None, (evidence,), is_recompile=True)] if again else []
    if is_blind:
        findings = [_unseen(processes)]
    cause = "not-seen" if is_blind else "none" if again == 0 else "unexplained"
    took = "" if took_ms is None else f" in {format_ns(1e6 * took_ms)}"
    summary = f"{compiles + cached:,} graphs looked up, {compiles:,} compiled{took}, {cached:,} found in the process"
    notes = [
        "torch_xla's counters tell how often, not why: give the log and the cache folder of the same run, too, or name a function"
        " (SCRIPT.py:FUNCTION) that is then called several times",
        "a graph that AWS's wrapper takes from the NEFF cache counts as compiled here",
    ]
    if processes:
        summary = f"{_processes_words(processes)}; in the process that was watched: {summary}" if is_blind else summary
        notes.insert(0, _processes_words(processes))
    if last.status:
        notes.insert(0, f"{target} did not end well ({last.error}): the counts go up to there")
    return Diagnosis(
        targets=(target,),
        framework="torch_xla",
        calls=sum(len(run.target_calls) for run in runs) or compiles + cached,
        compiles=compiles,
        cache_hits=sum(not count for count in busy) if busy else cached,
        disk_hits=disk,
        recompiles=again,
        recompile_ms=0.0 if again == 0 else None,
        cause=cause,
        fix=CAUSES[cause].fix,
        summary=summary,
        counted="graphs, by torch_xla's UncachedCompile and CachedCompile",
        findings=tuple(findings),
        functions=(),
        status="failed" if last.status else "ok",
        notes=(*notes, *last.notes),
        calls_detail=tuple(
            {"compiles": call.compiles, "duration_ms": call.duration_ms} for run in runs for call in run.target_calls
        ),
        versions=last.versions,
    )
