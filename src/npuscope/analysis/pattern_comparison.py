"""Patterns side by side: one table, fastest first, with findings and insights that show how each number came about.

Ranked is only what does the same work, on one device, with times of one kind; all else is refused with the reason, and the
numbers stand without a rank. Rank 1 is the fastest. What is said of one trace alone holds without a comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from npuscope.analysis.pattern_ranking import (
    NOISE_SHARE,
    WITHIN_ERROR,
    WITHIN_NOISE,
    PairRatio,
    has_interval,
    judge_pair,
    rank_groups,
)
from npuscope.analysis.pattern_trace import PatternTrace, TraceAnalysis, explain_trace, time_of
from npuscope.analysis.pattern_wording import trace_findings, trace_insights, unknown_range, working
from npuscope.errors import ComparisonError, UsageError, shorten
from npuscope.units import format_ns

NOT_COMPARABLE = "not comparable"
_MS = 1e6


@dataclass(frozen=True, slots=True)
class PatternRow:
    """One line of the table."""

    name: str
    pattern: str
    size: str
    iterations: int
    device: str
    is_simulated: bool
    method: str
    work: str
    total_slices: int | None
    """Of the whole trace."""
    traced_runs: int
    """Runs that the trace holds; the times are of one."""
    tensor_matrix_ms: float | None
    """None where the trace has no such engine, such as a CPU's."""
    other_ms: float | None
    time_ms: float | None
    """Of one run; what the rank follows."""
    time_low_ms: float | None
    """95 % interval of a measured median."""
    time_high_ms: float | None
    rank: int | None
    """1 is the fastest; equal where programs cannot be told apart, None where there is no rank."""
    remark: str
    """Why there is no rank, or with which others it is shared."""


@dataclass(frozen=True, slots=True)
class PatternComparison:
    """Traces compared, or the reason why not."""

    device: str
    """One, or several with commas where that is why the comparison is refused."""
    method: str
    """`measured`, `simulated` or `captured`; several where that is the reason."""
    iterations: tuple[int, ...]
    refused: str
    """'' where the traces are comparable; else why they are not."""
    rows: tuple[PatternRow, ...]
    """Fastest first where they are comparable; else in the order given."""
    pairs: tuple[PairRatio, ...]
    """Every two of the rows with a rank, the faster one first."""
    findings: tuple[str, ...]
    """What each trace shows, in words; no comparison."""
    insights: tuple[str, ...]
    """What follows, with the calculation."""
    notes: tuple[str, ...]

    @property
    def is_comparable(self) -> bool:
        """Whether the rows are ranked against one another."""
        return not self.refused

    def document(self) -> dict[str, Any]:
        """For JSON."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {"is_comparable": self.is_comparable, **fields}


def compare_patterns(
    traces: Sequence[PatternTrace], *, seed: int = 0, analyses: Sequence[TraceAnalysis] | None = None
) -> PatternComparison:
    """Compare traces: a table, findings and insights; ranks only where all of them are comparable.

    Measured ones are ranked by their medians, with a bootstrap over interleaved rounds; predicted ones by their times;
    captures of one execution each are put in order and not ranked. See `rank_groups` for ties.

    Args:
        traces: Two or more.
        seed: Of the bootstrap.
        analyses: Of the traces, where they are at hand.

    Raises:
        UsageError: Fewer than two traces, or two of one program, device and work.
    """
    if len(traces) < 2:
        raise UsageError("a comparison of patterns needs two traces or more")
    _refuse_duplicates(traces)
    explained = list(analyses) if analyses is not None else [explain_trace(trace) for trace in traces]
    refused = why_not_comparable(traces, explained)
    times = [found.time_ns for found in explained]
    order = list(range(len(traces)))
    if not refused:
        order.sort(key=lambda at: (times[at] is None, times[at] or 0.0))
    pairs, ranks = ([], {}) if refused else _ranked(traces, times, order, seed)
    rows = tuple(_row(traces[at], explained[at], ranks.get(at), refused, ranks, traces) for at in order)
    findings = [line for at in order for line in trace_findings(explained[at])]
    insights = [f"{NOT_COMPARABLE}: {refused}; no pattern is called faster"] if refused else _insights(rows, pairs)
    return PatternComparison(
        device=", ".join(dict.fromkeys(trace.device for trace in traces)),
        method=", ".join(dict.fromkeys(trace.method for trace in traces)),
        iterations=tuple(sorted({trace.iterations for trace in traces})),
        refused=refused,
        rows=rows,
        pairs=tuple(pairs),
        findings=(*findings, *unknown_range([explained[at] for at in order])),
        insights=(*insights, *(line for at in order for line in trace_insights(explained[at]))),
        notes=tuple(dict.fromkeys(_notes(rows))),
    )


def compare_groups(
    traces: Sequence[PatternTrace], *, seed: int = 0, analyses: Sequence[TraceAnalysis] | None = None
) -> tuple[PatternComparison, ...]:
    """One comparison per device, kind of time and loop length, of all groups with two traces or more.

    Traces of a group that do different work are not split any further: their comparison is there, and refused.
    """
    explained = list(analyses) if analyses is not None else [explain_trace(trace) for trace in traces]
    groups: dict[tuple[str, str, int], list[int]] = {}
    for at, trace in enumerate(traces):
        groups.setdefault((trace.device, trace.method, trace.iterations), []).append(at)
    return tuple(
        compare_patterns([traces[at] for at in group], seed=seed, analyses=[explained[at] for at in group])
        for group in groups.values()
        if len(group) > 1
    )


def compare_two(first: PatternTrace, second: PatternTrace, *, seed: int = 0) -> PairRatio:
    """The second trace against the first.

    Raises:
        ComparisonError: They are not comparable, with the reason.
    """
    explained = [explain_trace(trace) for trace in (first, second)]
    refused = why_not_comparable([first, second], explained)
    if refused:
        raise ComparisonError(f"{first.name} and {second.name} are {NOT_COMPARABLE}: {refused}")
    times = [time_of(trace, found.analysis)[0] for trace, found in zip((first, second), explained, strict=True)]
    if times[0] is None or times[1] is None:
        untimed = first.name if times[0] is None else second.name
        raise ComparisonError(f"{first.name} and {second.name} are {NOT_COMPARABLE}: {untimed} has no time of one run")
    return judge_pair(first, second, (times[0], times[1]), seed=seed)


def why_not_comparable(traces: Sequence[PatternTrace], explained: Sequence[TraceAnalysis]) -> str:
    """The reason why traces may not be compared, or ''; a trace without any time does not count against the others."""
    for what, attribute in (("different devices", "device"), ("times of different kinds", "method")):
        values = {getattr(trace, attribute): trace.name for trace in traces if trace.method != "none"}
        if len(values) > 1:
            return f"{what}: " + ", ".join(f"{name} is of {value}" for value, name in list(values.items())[:4])
    if len({trace.work for trace in traces}) > 1:
        shown = ", ".join(f"{trace.name} computes {shorten(trace.work, 60)}" for trace in traces[:4])
        return f"different work: {shown}" + (", …" if len(traces) > 4 else "")
    captured = [found for found in explained if found.method == "captured" and found.time_ns is not None]
    cold = [found.name for found in captured if found.is_cold]
    if cold and len(cold) < len(captured):
        return f"{', '.join(cold)}: cold captures, the others are not; capture again with --profile-nth-exec 2"
    return ""


def _refuse_duplicates(traces: Sequence[PatternTrace]) -> None:
    seen = set()
    for trace in traces:
        key = (trace.name, trace.device, trace.work, trace.path)
        if key in seen:
            raise UsageError(f"{trace.name} on {trace.device} is given twice; a comparison takes each program once")
        seen.add(key)


def _ranked(
    traces: Sequence[PatternTrace], times: Sequence[float | None], order: Sequence[int], seed: int
) -> tuple[list[PairRatio], dict[int, int]]:
    """Pairs of the traces whose noise is known, and the rank of each of these by its place in `traces`."""
    judged = [(at, time) for at in order if (time := times[at]) is not None and has_interval(traces[at])]
    pairs, linked = [], []
    for slow in range(len(judged)):
        for fast in range(slow):
            (one, first), (other, second) = judged[fast], judged[slow]
            pair = judge_pair(traces[one], traces[other], (first, second), seed=seed)
            pairs.append(pair)
            linked.append((fast, slow, pair.is_told_apart))
    if len(judged) < 2:
        return [], {}
    ranks = rank_groups(len(judged), linked)
    return pairs, {at: rank for (at, _), rank in zip(judged, ranks, strict=True)}


def _row(
    trace: PatternTrace,
    found: TraceAnalysis,
    rank: int | None,
    refused: str,
    ranks: dict[int, int],
    traces: Sequence[PatternTrace],
) -> PatternRow:
    ties = [traces[at].name for at, other in ranks.items() if other == rank and traces[at] is not trace]
    if refused:
        remark = f"{NOT_COMPARABLE}: {refused.partition(':')[0]}"
    elif rank is not None:
        same = WITHIN_ERROR if trace.is_simulated else WITHIN_NOISE
        remark = f"{same}: {', '.join(ties)}" if ties else ""
    elif found.time_ns is None:
        remark = f"no rank: no time of one run ({found.time_basis})"
    elif trace.method == "captured":
        remark = "not judged: one execution, no interval"
    else:
        remark = "not judged: " + (
            "too few rounds for an interval" if not has_interval(trace) else "nothing to rank with"
        )
    known = trace.latency

    def milliseconds(value_ns: float | None) -> float | None:
        return None if value_ns is None else value_ns / _MS

    def per_run(value_ns: float | None) -> float | None:
        return None if value_ns is None else milliseconds(value_ns / found.runs)

    return PatternRow(
        name=trace.name,
        pattern=trace.pattern,
        size=trace.size,
        iterations=trace.iterations,
        device=trace.device,
        is_simulated=trace.is_simulated,
        method=trace.method,
        work=trace.work,
        total_slices=found.total_slices,
        traced_runs=found.runs,
        tensor_matrix_ms=per_run(found.tensor_matrix_ns),
        other_ms=per_run(found.other_ns),
        time_ms=milliseconds(found.time_ns),
        time_low_ms=milliseconds(known.ci_low_ns) if known else None,
        time_high_ms=milliseconds(known.ci_high_ns) if known else None,
        rank=rank,
        remark=remark,
    )


def _insights(rows: Sequence[PatternRow], pairs: Sequence[PairRatio]) -> list[str]:
    """What the ranks say, with the calculation; of captures, which have none, only their order."""
    timed = [row for row in rows if row.time_ms is not None]
    if len(timed) < 2:
        return ["fewer than two patterns have a time: nothing is compared"]
    how = {"simulated": "predicted", "captured": "one execution of each, not judged"}.get(timed[0].method, "median")
    lengths = ", ".join(str(count) for count in sorted({row.iterations for row in rows}))
    lines = [f"Condition: the same work on {rows[0].device}, {lengths} iterations; {how}"]
    ranked = [row for row in timed if row.rank is not None]
    if not ranked:
        first, last = timed[0], timed[-1]
        fast, slow = 1e6 * (first.time_ms or 0.0), 1e6 * (last.time_ms or 0.0)
        return [
            *lines,
            f"Shortest: {first.name} ({format_ns(fast)}); longest: {last.name} ({format_ns(slow)}); not judged",
        ]
    best, worst = ([row for row in ranked if row.rank == rank] for rank in (1, ranked[-1].rank))
    if len(best) == len(ranked):
        apart = (
            "within the model's error of one another"
            if ranked[0].method == "simulated"
            else "within noise of one another"
        )
        lines.append(f"No fastest pattern: {_listed(ranked)} are {apart}")
    else:
        lines.append(_led("Fastest pattern", best))
        lines.append(_led("Slowest pattern", worst))
    for pair in pairs:
        if pair.first == ranked[0].name:
            lines.append(f"{pair.second} against {pair.first}: {_difference(pair)}")
    return lines


def _led(what: str, rows: Sequence[PatternRow]) -> str:
    told = _listed(rows)
    return f"{what}: {told}" if len(rows) == 1 else f"{what}s, not told apart: {told}"


def _listed(rows: Sequence[PatternRow]) -> str:
    return ", ".join(f"{row.name} ({format_ns(1e6 * (row.time_ms or 0.0))})" for row in rows)


def _difference(pair: PairRatio) -> str:
    """Difference and ratio with their calculations, and what they are worth."""
    scale, unit = working(pair.second_ns)
    fast, slow = f"{pair.first_ns / scale:.6g}", f"{pair.second_ns / scale:.6g}"
    text = (
        f"time difference {(pair.second_ns - pair.first_ns) / scale:.4g} {unit} (calculation: {slow} - {fast}), "
        f"ratio {pair.ratio:.4g}x (calculation: {slow} / {fast}"
    )
    if pair.ratio_low == pair.ratio_low:  # not NaN
        text += f"; 95 % interval {pair.ratio_low:.4g} to {pair.ratio_high:.4g}"
    noise = f", which has to be beyond {1 + NOISE_SHARE:g}" if pair.ratio_low == pair.ratio_low else ""
    return f"{text}{noise}): {pair.verdict}"


def _notes(rows: Sequence[PatternRow]) -> list[str]:
    notes = []
    if any(row.is_simulated for row in rows):
        notes.append("simulated: no device ran this; times are predictions of a model")
    if any(row.method == "measured" for row in rows):
        notes.append(
            f"measured: medians on the host; two are told apart where the 95 % interval of their ratio lies wholly beyond "
            f"{100 * NOISE_SHARE:.0f} %, which processes differ by"
        )
    if any(row.traced_runs > 1 for row in rows):
        notes.append("total slices are those of the whole trace, with all of its runs; every time is of one run")
    if any(row.tensor_matrix_ms is None and row.total_slices is not None for row in rows):
        notes.append(
            "a trace without engines, such as a CPU's, has no TensorMatrix time; its other time is that of its tracks, with what "
            "the profiler itself did on them"
        )
    return notes
