"""Whether calls are compiled again, how often, at what cost, and why: from what a framework counted in one or more processes.

A program is compared with all earlier ones of its function, and the nearest of them tells the cause. Arguments come first,
then the programs themselves: what a call was given says more than what became of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from npuscope.analysis.hlo_diff import HloDiff, diff_modules
from npuscope.analysis.recompile_causes import CAUSES
from npuscope.measure.watching import Argument, Compile, WatchedRun

EVIDENCE_SHOWN: Final = 3
"""Of one finding; every one of them is counted."""
_SURE: Final = 2
"""Programs that one line compiles for a function that is not the user's, beside the first, from which on it recompiles."""
_COMPARED: Final = 24
"""Earlier programs that one is compared with: the first of its function and the last."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause, with what it costs and shows."""

    cause: str
    """A name of `CAUSES`."""
    count: int
    """Compilations, or entries of a cache, that it explains."""
    cost_ms: float | None
    """Of those, as the framework or the log timed them; None where nobody did."""
    evidence: tuple[str, ...]
    functions: tuple[str, ...] = ()
    is_recompile: bool = field(default=False, kw_only=True)
    """Something was compiled again; else it is a fault of the cache, or an advice."""

    @property
    def fix(self) -> str:
        """What to do."""
        return CAUSES[self.cause].fix


@dataclass(frozen=True, slots=True)
class FunctionRow:
    """One function, over all processes."""

    name: str
    defined: str
    """`train.py:12`; of JAX's own functions the user's line that calls it."""
    is_own: bool
    """Of the framework."""
    calls: int | None
    """None where several functions have its name, or calls were not counted."""
    compiles: int
    disk_hits: int
    recompiles: int
    """Compilations but the first."""
    compile_ms: float
    """Of all its compilations, with tracing and lowering."""
    cause: str
    """Of most of its recompilations; `none` without any."""


@dataclass(frozen=True, slots=True)
class CompileRow:
    """One compilation, in the order of the program."""

    process: int
    """From 0."""
    function: str
    call: int | None
    """Number of the call that it belongs to, from 0; None where that was not seen."""
    site: str
    """The user's line."""
    arguments: tuple[str, ...] | None
    key: str
    """In the persistent cache."""
    is_hit: bool
    """It came from there."""
    cost_ms: float
    cause: str
    """Why again; `none` of what had not been compiled before."""
    evidence: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the doctor says."""

    targets: tuple[str, ...]
    framework: str
    calls: int | None
    """Of the user's jitted functions, or of the function that was asked for; see `counted`."""
    compiles: int
    """Programs that the compiler worked on."""
    cache_hits: int | None
    """Calls that needed no compiler: what they run was in memory, or in the persistent cache."""
    disk_hits: int | None
    """Programs that came from the persistent cache."""
    recompiles: int | None
    """Compilations of a function or graph that had been compiled before; None where nothing tells."""
    recompile_ms: float | None
    cause: str
    fix: str
    summary: str
    counted: str
    """What `calls` and `compiles` are counts of, and by whom."""
    findings: tuple[Finding, ...]
    functions: tuple[FunctionRow, ...]
    status: str
    """`ok`, or `failed`: the program ended with an error; the counts go up to there."""
    notes: tuple[str, ...] = ()
    calls_detail: tuple[Mapping[str, float], ...] = ()
    """Of a function that was asked for: programs and time of each call."""
    compilations: tuple[CompileRow, ...] = ()
    """Call by call, of the functions that are counted."""
    sequence: tuple[str, ...] = ()
    """Of a log: request by request."""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recompile:
    """One compilation that an earlier one of its function came before."""

    group: str
    compile: Compile
    cause: str
    evidence: str


def functions_of(run: WatchedRun) -> dict[str, list[Compile]]:
    """Compilations by function: by where its code stands and what of JAX is around it.

    JAX's own functions, and those of which the code is not known, go by the user's line that calls them.
    """
    groups: dict[str, list[Compile]] = {}
    for one in run.compiles:
        is_known = one.code and not one.is_own
        key = "|".join((one.code, *one.via)) if is_known else f"{one.name}@{one.site}"
        groups.setdefault(key, []).append(one)
    return groups


def recompiles_of(group: str, compiles: Sequence[Compile]) -> list[Recompile]:
    """Which compilations of one function came after another one, and why.

    One line can use a function of JAX for several things: other programs, or a second one, are not taken for the same again.
    """
    found = []
    for at, one in enumerate(compiles):
        if at and not one.is_hit:
            head = compiles[: min(at, _COMPARED // 2)]
            tail = compiles[max(len(head), at - _COMPARED // 2) : at]
            found.append(Recompile(group, one, *_nearest([*head, *tail], one)))
    if compiles[0].code and not compiles[0].is_own:
        return found
    sure = [one for one in found if one.cause not in ("program-change", "unexplained")]
    return sure if len(sure) >= _SURE else []


def _nearest(earlier: Sequence[Compile], one: Compile) -> tuple[str, str]:
    """Cause and evidence from the earlier compilation that differs least; of equal ones the last."""
    told = [explain_pair(before, one) for before in earlier]
    rank = {name: at for at, name in enumerate(_NEAREST_FIRST)}
    cause, evidence = min(reversed(told), key=lambda pair: rank[pair[0]])
    return cause, evidence


_NEAREST_FIRST: Final = (
    "cache-not-kept", "new-function", "unstable-names", "flags-differ", "placement-change", "static-argument",
    "constant-embedded", "dtype-change", "shape-change", "structure-change", "program-change", "unexplained",
)  # fmt: skip


def explain_pair(before: Compile, after: Compile) -> tuple[str, str]:
    """Why the second of two compilations of one function was needed.

    Args:
        before: The earlier one.
        after: The later one.

    Returns:
        A name of `CAUSES`, and the evidence.
    """
    diff = diff_modules(before.program, after.program) if before.program and after.program else None
    told = _by_arguments(before, after)
    if told is not None:
        return told
    if diff is not None and diff.kind in ("identical", "names"):
        return _of_equal_programs(before, after, diff)
    settings = _changed_settings(before.settings, after.settings)
    if settings and (diff is None or diff.kind == "ops"):
        return "flags-differ", settings
    if diff is not None:
        return _by_program(diff, after)
    if before.key and before.key == after.key:
        return _of_equal_programs(before, after, None)
    return "unexplained", "the compiled programs are not here to compare"


def _by_arguments(before: Compile, after: Compile) -> tuple[str, str] | None:
    """What differs in the arguments; None where nothing does, or they are not known."""
    if before.arguments is None or after.arguments is None:
        return None
    old, new = ({one.path: one for one in side.arguments or ()} for side in (before, after))
    if set(old) != set(new):
        extra = sorted(set(new) - set(old)), sorted(set(old) - set(new))
        words = [f"{word} argument {names[0]}" for word, names in zip(("new", "missing"), extra, strict=True) if names]
        return "structure-change", " and ".join(words)
    changed = [
        (old[path], one) for path, one in new.items() if (old[path].kind, old[path].text) != (one.kind, one.text)
    ]
    if not changed:
        moved = [
            (old[path], one)
            for path, one in new.items()
            if old[path].placement and one.placement and old[path].placement != one.placement
        ]
        if moved:
            return "placement-change", _argument_text(*moved[0], place=True)
        return None
    causes = [_argument_cause(was, now) for was, now in changed]
    cause = next(name for name in ("shape-change", "dtype-change", "static-argument") if name in causes)
    return cause, _argument_text(*changed[causes.index(cause)], more=len(changed) - 1)


def _argument_cause(before: Argument, after: Argument) -> str:
    if "static" in (before.kind, after.kind):
        return "static-argument"
    shapes = [one.text.partition("[")[2] if one.kind == "array" else "]" for one in (before, after)]
    return "shape-change" if shapes[0] != shapes[1] else "dtype-change"


def _argument_text(before: Argument, after: Argument, *, more: int = 0, place: bool = False) -> str:
    texts = (before.placement, after.placement) if place else (before.text, after.text)
    return f"argument {after.path}: {texts[0]} -> {texts[1]}" + (f", and {more} more" if more else "")


def _of_equal_programs(before: Compile, after: Compile, diff: HloDiff | None) -> tuple[str, str]:
    """The program is the same: what else made the caches miss it."""
    parts = _changed_parts(before, after)
    settings = _changed_settings(before.settings, after.settings)
    if settings or parts:
        return "flags-differ", settings or f"of the key in the persistent cache differs: {', '.join(parts)}"
    if diff is not None and diff.names and not (before.key and before.key == after.key):
        return "unstable-names", f"the same program is called {diff.names[0]} and then {diff.names[1]}"
    if before.function is not None and after.function is not None and before.function != after.function:
        return "new-function", f"the same program, from another function object of {after.name} ({after.code})"
    key = f" under the key {after.key[:40]}" if after.key else ""
    return "cache-not-kept", f"the same program of the same function was compiled before{key}"


def _by_program(diff: HloDiff, after: Compile) -> tuple[str, str]:
    has_arguments = after.arguments is not None and not after.is_own
    is_sure = bool(after.code) and not after.is_own  # that the two are the same function
    cause = "program-change"
    if diff.kind == "constants":
        cause = "constant-embedded"
    elif diff.kind == "shapes":
        # Shapes that follow from no argument are written into the program, as those of a closure are.
        cause = "constant-embedded" if has_arguments and not diff.parameters else "shape-change"
    elif diff.kind in ("types", "shapes and types"):
        cause = "dtype-change" if diff.kind == "types" else "shape-change"
    elif diff.parameters and not has_arguments and is_sure:
        texts = [(change.before.partition("[")[2], change.after.partition("[")[2]) for change in diff.parameters]
        cause = "shape-change" if any(was != now for was, now in texts) else "dtype-change"
    return cause, diff.told() + _source(diff)


def _source(diff: HloDiff) -> str:
    source = next((change.source for change in diff.ops if change.source), "")
    return f" ({source})" if source else ""


def _changed_settings(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    return ", ".join(f"{name}: {before.get(name, 'unset')} -> {after.get(name, 'unset')}" for name in names)


def _changed_parts(before: Compile, after: Compile) -> list[str]:
    """Parts of the key that differ although the program is the same; the program's own part covers its names."""
    shared = set(before.key_parts) & set(after.key_parts) - {"program"}
    return sorted(name for name in shared if before.key_parts[name] != after.key_parts[name])


def summed(items: Iterable[tuple[str, str, str, float | None]], *, is_recompile: bool) -> list[Finding]:
    """Findings from (cause, evidence, function, cost), the costliest first; equal evidence is shown once."""
    groups: dict[str, list[tuple[str, str, float | None]]] = {}
    for cause, evidence, function, cost in items:
        groups.setdefault(cause, []).append((evidence, function, cost))
    found = []
    for cause, group in groups.items():
        costs = [cost for _, _, cost in group if cost is not None]
        shown = Counter(evidence for evidence, _, _ in group if evidence)
        texts = [f"{text} ({count} times)" if count > 1 else text for text, count in shown.items()]
        if len(texts) > EVIDENCE_SHOWN:
            texts = [*texts[:EVIDENCE_SHOWN], f"and {len(texts) - EVIDENCE_SHOWN} more like these"]
        functions = tuple(dict.fromkeys(function for _, function, _ in group if function))
        found.append(
            Finding(
                cause, len(group), sum(costs) if costs else None, tuple(texts), functions, is_recompile=is_recompile
            )
        )
    return sorted(found, key=lambda finding: (-(finding.cost_ms or 0.0), -finding.count))


def counted_words(count: int, noun: str) -> str:
    """`1 call`, `2,000 calls`, `3 entries`, `4 processes`."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else many}"


def title_of(one: Compile) -> str:
    """`loss`, or `grad(loss)` with what of JAX is around it."""
    return "".join(f"{name}(" for name in one.via) + one.name + ")" * len(one.via)
