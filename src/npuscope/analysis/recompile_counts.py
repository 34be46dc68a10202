"""Counts of a program that was run: calls, those that needed no compiler, and both function by function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from npuscope.analysis.recompile import FunctionRow, Recompile, functions_of, title_of
from npuscope.measure.watching import Compile, WatchedRun


def calls_of(runs: Sequence[WatchedRun], *, has_users: bool) -> tuple[int | None, str]:
    """Calls of the user's functions, or of JAX's own where the user has none.

    Args:
        runs: Of one program.
        has_users: It has functions of its own that are jitted.

    Returns:
        None where they were not all counted, and why.
    """
    total = 0
    for run in runs:
        if run.calls is None:
            if run.compiles:
                return None, run.calls_missing
            continue
        counted = [one for one in run.compiles if one.is_own != has_users]
        names = _names(counted)
        if has_users and names & _names(one for one in run.compiles if one.is_own and one.caller in ("", one.name)):
            return None, "one of your functions has the name of one of JAX's own"
        unseen = _unseen(run, counted)
        if unseen:
            return None, (
                f"{unseen[0].name} was compiled outside of any call (ahead of time, by .lower().compile()), and calls of what came of it"
                " are not seen"
            )
        total += sum(run.calls.get(name, 0) for name in names)
    return total, ""


def hits_of(calls: int | None, runs: Sequence[WatchedRun], counted: Sequence[Compile]) -> int | None:
    """Calls that needed no compiler: all but those that a compilation belongs to."""
    if calls is None:
        return None
    mine = {id(one) for one in counted}
    busy = {
        (number, one.caller, one.call)
        for number, run in enumerate(runs)
        for one in run.compiles
        if id(one) in mine and one.call is not None and not one.is_hit
    }
    return calls - len(busy)


def hits_of_targets(runs: Sequence[WatchedRun], counted: Sequence[Compile]) -> int:
    """The same of calls of the function that was asked for."""
    mine = {id(one) for one in counted if not one.is_hit}
    hits = 0
    for run in runs:
        for call in run.target_calls:
            within = run.compiles[call.first : call.first + call.compiles]
            hits += not any(id(one) in mine for one in within)
    return hits


def _names(compiles: Iterable[Compile]) -> set[str]:
    return {name for one in compiles for name in one.call_names}


def _row_names(compiles: Iterable[Compile]) -> set[str]:
    """Names of calls of functions themselves; one of JAX's own may be compiled within a call of the user's."""
    names: set[str] = set()
    for one in compiles:
        names |= {one.name} if one.is_own and one.caller else one.call_names
    return names


def _unseen(run: WatchedRun, compiles: Iterable[Compile]) -> list[Compile]:
    """Programs that no call is known to belong to, neither the one that compiled it nor one that uses it."""
    return [one for one in compiles if not one.caller and one.ahead_name not in (run.calls or {})]


def rows_of(runs: Sequence[WatchedRun], recompiles: Sequence[Recompile]) -> list[FunctionRow]:
    """One row a function, the user's and the costliest first."""
    groups: dict[str, list[Compile]] = {}
    for run in runs:
        for group, compiles in functions_of(run).items():
            groups.setdefault(group, []).extend(compiles)
    shared = Counter(name for items in groups.values() for name in _row_names(items))
    causes: dict[str, Counter[str]] = {}
    for one in recompiles:
        causes.setdefault(one.group, Counter())[one.cause] += 1
    is_counted = all(run.calls is not None or not run.compiles for run in runs)
    unseen = {id(one) for run in runs for one in _unseen(run, run.compiles)}
    rows = []
    for group, items in groups.items():
        names = {one.name for one in items}
        counted_as = _row_names(items)
        is_alone = all(shared[name] == 1 for name in counted_as)
        is_seen = not any(id(one) in unseen for one in items)
        calls = sum((run.calls or {}).get(name, 0) for run in runs for name in counted_as)
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        compiled = [one for one in items if not one.is_hit]
        told = causes.get(group)
        rows.append(
            FunctionRow(
                name=title_of(items[0]) + more,
                defined=items[0].site if items[0].is_own or not items[0].code else items[0].code,
                is_own=items[0].is_own,
                calls=calls if is_counted and is_alone and is_seen else None,
                compiles=len(compiled),
                disk_hits=len(items) - len(compiled),
                recompiles=sum(told.values()) if told else 0,
                compile_ms=sum(one.cost_ms for one in compiled),
                cause=told.most_common(1)[0][0] if told else "none",
            )
        )
    return sorted(rows, key=lambda row: (row.is_own, -row.recompiles, -row.compile_ms))
