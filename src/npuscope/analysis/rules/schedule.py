"""Rules about time in which too little happens: gaps, launch, overlap, starved engines, throttling, collectives."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from npuscope.analysis.bound import BARRIER, awaited_text
from npuscope.analysis.constants import is_v2
from npuscope.analysis.findings import Evidence, Facts, Rule
from npuscope.analysis.overlap import idle_gaps
from npuscope.analysis.timeline import PS_PER_NS, WAIT_OPCODE, spans, to_ns, wait_ps
from npuscope.profile.intervals import Ticks, covered, merge
from npuscope.units import format_ns, format_percent

_PERMANENT_LIMIT: Final = 7 / 8
"""NeuronCore-v2 shows this limit in every capture of an inf2, whatever the kernel: nothing a kernel can change."""


def idle_time(facts: Facts) -> Evidence | None:
    """Nothing at all is active for a good part of the kernel's window."""
    kernel = facts.kernel
    start, end = idle_gaps(facts.resources, kernel)
    idle_ns = to_ns((end - start).sum())
    if not kernel.window_ns or idle_ns / kernel.window_ns <= facts.thresholds.idle_share:
        return None
    longest = int((end - start).argmax())
    opening_ns = _first_load_ns(facts, start, end)
    numbers = {
        "idle_ns": idle_ns,
        "before_first_data_ns": opening_ns,
        "idle_share_of_window": idle_ns / kernel.window_ns,
        "gaps": int(start.size),
        "longest_gap_ns": to_ns(end[longest] - start[longest]),
        "longest_gap_start_ns": to_ns(start[longest]),
    }
    if not facts.has_engines:
        return _idle_tracks(numbers)
    if idle_ns - opening_ns <= facts.thresholds.idle_share * kernel.window_ns:
        return _first_load(numbers, opening_ns)
    causes = facts.bound.dependency_ns
    cause, cause_ns = next(iter(causes.items()), ("", 0))
    told = f"; {format_ns(cause_ns)} of it ended with: {cause}" if cause else ""
    for_dma_ns = sum(spent for what, spent in causes.items() if "DMA" in what)
    waits_for_dma = for_dma_ns > max((spent for what, spent in causes.items() if "DMA" not in what), default=0.0)
    return Evidence(
        numbers={**numbers, "ended_by_ns": dict(causes)},
        cause=f"no engine and no DMA is active for {format_percent(numbers['idle_share_of_window'])} of the window{told}",
        action="issue the next load before the current tile is computed (double buffering), and make each DMA larger: its "
        "latency is paid per DMA, not per byte"
        if waits_for_dma
        else "let independent work run in between: split tiles so that engines work on different ones",
        gain_ns=idle_ns - opening_ns,
        gain_basis="idle time of the window after the first data came; dependent work cannot use all of it",
    )


def _first_load_ns(facts: Facts, start: Ticks, end: Ticks) -> float:
    """Idle time before the first packet of data: the latency of the first load, which nothing can hide."""
    if not facts.profile.rows("DmaPacket") or not start.size:
        return 0.0
    first = int(spans(facts.profile, "DmaPacket")[0].min())
    return to_ns((end - start)[end <= first].sum())


def _first_load(numbers: dict[str, Any], opening_ns: float) -> Evidence:
    """A kernel so short that the latency of its first load is a fair part of it: double buffering is no remedy."""
    return Evidence(
        numbers=numbers,
        cause=f"nothing is active until the first load has brought data, {format_ns(opening_ns)}; after it hardly anything idles",
        action="give one launch more work, so that this latency, paid once, weighs less; nothing can be loaded before it",
        gain_ns=None,
        gain_basis="none within this kernel",
        severity="low",
    )


def _idle_tracks(numbers: dict[str, Any]) -> Evidence:
    """Of a trace without engines: whether its gaps are a loss is not known."""
    share, longest = format_percent(numbers["idle_share_of_window"]), format_ns(numbers["longest_gap_ns"])
    return Evidence(
        numbers=numbers,
        cause=f"no track has a slice for {share} of the trace, {longest} at the longest; what was waited for is not recorded",
        action="see which slices end before the longest gap and which begin after it",
        gain_ns=None,
        gain_basis="no estimate: a trace without slices at a time may be idle, or may not have recorded what ran",
        severity="low",
    )


def launch_dominated(facts: Facts) -> Evidence | None:
    """What surrounds the kernel takes longer than the kernel can."""
    kernel, limits = facts.kernel, facts.thresholds
    if not facts.profile.rows("Instruction"):
        return None
    overhead = _around_ns(facts)
    rest = kernel.total_ns - kernel.startup_ns
    share = overhead / rest if rest > 0 and (kernel.program_instructions or facts.profile.is_simulation) else 0.0
    of_call = limits.launch_floor_ns / (limits.launch_floor_ns + kernel.ns) if kernel.ns else 0.0
    if share < limits.launch_share and of_call < limits.launch_share:
        return None
    simulated = facts.profile.is_simulation
    if simulated:
        spent = f"the launch that the model assumes is {format_ns(overhead)} of the {format_ns(kernel.ns)} predicted"
    else:
        spent = f"the runtime's own barriers and clean-up take {format_ns(overhead)} around a kernel of {format_ns(kernel.ns)}"
    return Evidence(
        numbers={
            "kernel_time_ns": kernel.ns,
            "runtime_overhead_ns": overhead,
            "runtime_overhead_share": share,
            "assumed_launch_floor_ns": limits.launch_floor_ns,
            "assumed_launch_share_of_call": of_call,
        },
        cause=f"{spent}, "
        f"and a call from the host takes about {format_ns(limits.launch_floor_ns)} whatever the kernel (published, "
        f"torch-neuronx on inf2; not in this {'simulation' if simulated else 'capture'})",
        action="give one launch more work: batch calls, fuse neighbouring operations into one graph, loop on the device",
        gain_ns=None,
        gain_basis=f"none within the kernel; each launch avoided saves {format_ns(overhead)} on the device and the host's part",
        severity="medium",
    )


def _around_ns(facts: Facts) -> float:
    """Time of the execution outside of the kernel's window and of start-up; a simulation states its total in `Metadata`."""
    kernel = facts.kernel
    stated = facts.profile.metadata.get("total_time_ps") if facts.profile.is_simulation else None
    total_ns = kernel.total_ns if not stated else to_ns(stated)
    return max(0.0, total_ns - kernel.window_ns - kernel.startup_ns)


def low_overlap(facts: Facts) -> Evidence | None:
    """Engines and DMA take turns."""
    overlap, limits = facts.overlap, facts.thresholds
    busiest = max(facts.bound.busy.items(), key=lambda item: item[1], default=("", 0.0))
    working = sum(1 for share in facts.bound.busy.values() if share > 0.02)
    if not facts.has_engines or working < 2:
        return None
    if overlap.overlapped_share >= limits.overlap_share or busiest[1] >= limits.overlap_busy:
        return None
    window = overlap.window_ns
    active = sum(overlap.concurrency_ns[1:])
    return Evidence(
        numbers={
            "overlapped_share_of_active": overlap.overlapped_share,
            "active_ns": active,
            "one_resource_active_ns": overlap.concurrency_ns[1],
            "busiest": busiest[0],
            "busiest_share_of_window": busiest[1],
        },
        cause=f"two or more of engines and DMA are active in {format_percent(overlap.overlapped_share)} of the active time: "
        "load, compute and store follow one another",
        action="double-buffer tiles in SBUF so that the next load and the last store run under the current matmul",
        gain_ns=max(0.0, active - busiest[1] * window),
        gain_basis=f"active time beyond that of the busiest resource ({busiest[0]}), if all else hid behind it",
    )


def starved_engine(facts: Facts) -> Evidence | None:
    """The TensorEngine, or else the engine with the most work, waits on semaphores for most of the window."""
    engines = [use for use in facts.engines if use.kind == "engine" and use.name != "Sync"]
    most = max(
        engines,
        key=lambda use: (use.name == "Tensor" and use.active_in_kernel_ns > 0, use.active_in_kernel_ns),
        default=None,
    )
    window = facts.kernel.window_ns
    if most is None or not window or not most.active_in_kernel_ns:
        return None
    limiter = facts.limiter
    if limiter is not None and limiter.name != most.name and limiter.share_of_kernel >= facts.thresholds.overlap_busy:
        return None  # it waits for a resource that is busy nearly all the time: nothing can come earlier
    awaited = _awaited(facts, most.name)
    summed = sum(awaited.values())
    wait_ns = min(summed, most.wait_in_kernel_ns)  # once where it is told of several cores, or overlaps with work
    awaited = {what: spent * wait_ns / summed for what, spent in awaited.items()} if summed else {}
    if wait_ns / window < facts.thresholds.starved_share or wait_ns <= most.active_in_kernel_ns:
        return None
    first = next(iter(awaited), "other engines")
    return Evidence(
        numbers={
            "engine": most.name,
            "active_ns": most.active_in_kernel_ns,
            "wait_ns": wait_ns,
            "wait_share_of_window": wait_ns / window,
            "waited_for_ns": awaited,
        },
        cause=f"{most.name} works {format_ns(most.active_in_kernel_ns)} and waits {format_ns(wait_ns)}, most for {first}",
        action="start what it waits for earlier: prefetch the next tile, and shorten the chain of dependent instructions",
        gain_ns=wait_ns,
        gain_basis="its waiting time within the window; the chain may not allow all of it",
    )


def _awaited(facts: Facts, engine: str) -> dict[str, float]:
    """What an engine waited for within the window, ns by semaphore, most first; the runtime's barriers are left out.

    A simulation has no semaphores: there it is the operands of a source line.
    """
    codes, names = facts.profile.codes("Instruction", "engine")
    if engine not in names or not facts.profile.has("Instruction", "operands"):
        return {}
    start, end = spans(facts.profile, "Instruction")
    semaphore = facts.profile.equals("Instruction", "opcode", WAIT_OPCODE)
    inside = covered(facts.kernel.window, start - wait_ps(facts.profile), np.where(semaphore, end, start))
    mine = np.flatnonzero((codes == names.index(engine)) & (inside > 0))
    mine = mine[np.argsort(-inside[mine], kind="stable")][:100]
    texts = facts.profile.tables["Instruction"].column("operands").take(mine).to_pylist()
    lines = facts.profile.texts("Instruction", facts.origin_column) if facts.profile.is_simulation else None
    found: dict[str, int] = {}
    for row, text in zip(mine.tolist(), texts, strict=True):
        own = "its own order" if lines is None else f"operands of {lines[row] or 'no line'}"
        what = awaited_text(text or "") or own
        if what != BARRIER:
            found[what] = found.get(what, 0) + int(inside[row])
    return {what: to_ns(spent) for what, spent in sorted(found.items(), key=lambda item: -item[1])}


def throttling(facts: Facts) -> Evidence | None:
    """The clock of the TensorEngine was limited while the kernel ran."""
    limited = _limits(facts)
    window = facts.kernel.window_ns
    if limited is None or not window or limited["throttled_ns"] / window < facts.thresholds.throttle_share:
        return None
    tensor = facts.use("Tensor")
    lost = limited["tensor_active_throttled_ns"] * (1 - limited["average_limit"])
    return Evidence(
        numbers={**limited, "throttled_share_of_window": limited["throttled_ns"] / window},
        cause=f"power management limited the rate to {format_percent(limited['average_limit'])} on average for "
        f"{format_percent(limited['throttled_ns'] / window)} of the window",
        action="keep the TensorEngine evenly busy: bursts after idle time are throttled most; compare with a longer run",
        gain_ns=float(lost) if tensor else None,
        gain_basis="TensorEngine active time under the limit, times what the limit took",
        severity="medium" if lost > 0.05 * facts.kernel.ns else "low",
    )


def _limits(facts: Facts) -> dict[str, Any] | None:
    """Throttled time within the window, and the mean limit over it weighted by time."""
    profile = facts.profile
    k, n = profile.numbers("Throttle", "k"), profile.numbers("Throttle", "n")
    begin = profile.numbers("Throttle", "timestamp").astype(np.int64) * PS_PER_NS
    limiting = (n > 0) & (k < n)
    if is_v2(facts.profile.metadata):
        limiting &= k / np.maximum(n, 1) < _PERMANENT_LIMIT
    if not limiting.any():
        return None
    lasted = profile.numbers("Throttle", "duration").astype(np.int64) * PS_PER_NS
    begin, until = begin[limiting], (begin + lasted)[limiting]
    inside = covered(facts.kernel.window, begin, until)
    total = int(inside.sum())
    if total == 0:
        return None
    limit = float((inside * (k[limiting] / n[limiting])).sum() / total)
    union = merge(begin, until)
    tensor = next((resource for resource in facts.resources if resource.name == "Tensor"), None)
    active = int(covered(union, *tensor.busy).sum()) if tensor is not None else 0
    return {"throttled_ns": to_ns(total), "average_limit": limit, "tensor_active_throttled_ns": to_ns(active)}


def collective_outliers(facts: Facts) -> Evidence | None:
    """A collective took far longer than others of its kind and size."""
    table = facts.profile.tables.get("CcOp")
    if table is None or table.num_rows < 3:
        return None
    start, end = spans(facts.profile, "CcOp")
    duration = (end - start) / PS_PER_NS
    operations = facts.profile.texts("CcOp", "operation").tolist()
    elements = facts.profile.numbers("CcOp", "num_elements").tolist()
    groups: dict[tuple[str, int], list[int]] = {}
    for row, key in enumerate(zip(operations, elements, strict=True)):
        groups.setdefault(key, []).append(row)
    outliers: list[tuple[float, str, int, float, float]] = []
    for (operation, count), rows in groups.items():
        median = float(np.median(duration[rows]))
        if len(rows) >= 3 and median > 0:
            outliers += [
                (float(duration[row]) - median, operation, count, float(duration[row]), median)
                for row in rows
                if duration[row] > facts.thresholds.collective_factor * median
            ]
    if not outliers:
        return None
    _, operation, count, worst, median = max(outliers)
    return Evidence(
        numbers={
            "outliers": len(outliers),
            "collectives": table.num_rows,
            "worst_operation": operation,
            "worst_elements": count,
            "worst_duration_ns": worst,
            "group_median_ns": median,
        },
        cause=f"{len(outliers)} collectives took more than {facts.thresholds.collective_factor:g} times the median of their group",
        action="look for instructions or DMA that overlap with them, and for a rank that arrives late",
        gain_ns=float(sum(outlier[0] for outlier in outliers)),
        gain_basis="their time beyond the median of their group, if nothing hides it",
    )


RULES: Final = (
    Rule("idle-gaps", "high", "share of the window with nothing active", ("idle_share",), idle_time),
    Rule(
        "launch-dominated",
        "medium",
        "the runtime's part of the execution, or a kernel far below the time of a call from the host",
        ("launch_share", "launch_floor_ns"),
        launch_dominated,
    ),
    Rule(
        "low-overlap",
        "medium",
        "share of active time with two or more active, unless one resource is nearly always busy",
        ("overlap_share", "overlap_busy"),
        low_overlap,
    ),
    Rule(
        "starved-engine",
        "medium",
        "the TensorEngine, or else the engine with the most work, waits for DMA or other engines longer than it works",
        ("starved_share", "overlap_busy"),
        starved_engine,
    ),
    Rule(
        "throttling",
        "medium",
        "share of the window with a limit k/n below 1, and below the 7/8 that NeuronCore-v2 always has",
        ("throttle_share",),
        throttling,
        vendor=True,
        resource="Tensor",
    ),
    Rule(
        "collective-outliers",
        "medium",
        "duration over the median of the same operation and size, of at least three",
        ("collective_factor",),
        collective_outliers,
        vendor=True,
    ),
)
