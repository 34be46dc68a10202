"""Two or more profiles side by side: what a change in the kernel's time is made of.

The kernel's time is split into parts that sum to it, the same way in each profile: resources in the order of how busy
they are in both, and within a resource its opcodes (or queues, or tracks) likewise. An instant belongs to the first part
active at it, so that what hides behind a busier resource counts for nothing; what is left is time with nothing active,
by what ended it, and the launch. The change of a part is its contribution to the change in time; contributions sum to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from npuscope.analysis.analyze import Analysis, analyze
from npuscope.analysis.bound import IDLE, dependency_causes
from npuscope.analysis.comparability import require_comparable, same_work, work_of
from npuscope.analysis.kernel_time import KernelTime
from npuscope.analysis.timeline import DMA, PS_PER_NS, WAIT_OPCODE, Resource, is_trace, read_resources, spans, to_ns
from npuscope.errors import ComparisonError, UsageError
from npuscope.profile.intervals import Intervals, intersection_length, merge
from npuscope.profile.tables import Profile

Parts = dict[tuple[str, str], Intervals]
NO_CHANGE: Final = "no change: the kernel's time and each of its parts are equal"


@dataclass(frozen=True, slots=True)
class Side:
    """One profile of a comparison."""

    source: str
    device: str
    is_simulated: bool
    is_cold: bool
    kernel_time_ns: float
    kernel_time_basis: str
    total_ns: float
    ratio: float
    """Kernel time over the baseline's."""
    bound: str
    figures: dict[str, float | None]
    """MFU, MBU, bytes and FLOPs by name."""


@dataclass(frozen=True, slots=True)
class Change:
    """One part of the kernel's time in the baseline and in another profile."""

    resource: str
    """An engine, DMA, a track, `dependency` or `launch`."""
    part: str
    """Opcode, queue or what was waited for."""
    before_ns: float
    after_ns: float
    change_ns: float
    share_of_change: float | None
    """Of the change in kernel time; None where there is none."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Another profile against the baseline."""

    source: str
    baseline: str
    change_ns: float
    ratio: float
    verdict: str
    """`no change` where the kernel's time and all of its parts are equal; else `not judged`: one execution each has no
    interval."""
    same_work: bool | None
    remarks: tuple[str, ...]
    changes: tuple[Change, ...]
    """Largest contribution first; parts that did not change are left out."""
    explained_ns: float
    unexplained_ns: float
    """Change in kernel time less the sum of contributions."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The first profile is the baseline."""

    kind: str
    profiles: tuple[Side, ...]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


def compare_profiles(
    profiles: Sequence[Profile], *, different_work: bool = False, across_devices: bool = False
) -> Comparison:
    """Compare profiles with the first of them.

    Args:
        profiles: Two or more.
        different_work: Compare although the work differs or is unknown; the result says so.
        across_devices: Compare although the devices differ; the result says so.

    Raises:
        ComparisonError: They are not comparable, with the reason.
        UsageError: Fewer than two.
    """
    if len(profiles) < 2:
        raise UsageError("a comparison needs two profiles or more")
    analyses = [analyze(profile, rules=()) for profile in profiles]
    works = [work_of(profile) for profile in profiles]
    remarks = [
        require_comparable(
            analyses[0], analysis, (works[0], work), different_work=different_work, across_devices=across_devices
        )
        for analysis, work in zip(analyses[1:], works[1:], strict=True)
    ]
    differences = tuple(
        _difference(profiles[0], profile, analyses[0], analysis, same_work(works[0], work)[0], told)
        for profile, analysis, work, told in zip(profiles[1:], analyses[1:], works[1:], remarks, strict=True)
    )
    notes = ("one execution each: no interval; a small difference may be one between runs of the same program",)
    return Comparison("profiles", tuple(_side(a, analyses[0]) for a in analyses), differences, notes)


def _side(analysis: Analysis, baseline: Analysis) -> Side:
    kernel, first = _kernel(analysis), _kernel(baseline)
    known = analysis.summary
    names = (
        "model_flops",
        "hardware_flops",
        "transpose_flops",
        "hbm_read_bytes",
        "hbm_write_bytes",
        "spill_reload_bytes",
    )
    figures: dict[str, float | None] = {
        "mfu": analysis.roofline.mfu,
        "hfu": analysis.roofline.hfu,
        "mbu": analysis.roofline.mbu,
        **{name: known.get(name) for name in names},
        "instructions": sum(use.instruction_count for use in analysis.engines if use.kind == "engine"),
        "data_packets": analysis.dma.data_packets if analysis.dma else None,
    }
    return Side(
        source=analysis.source,
        device=analysis.device,
        is_simulated=analysis.is_simulated,
        is_cold=kernel.is_cold,
        kernel_time_ns=kernel.ns,
        kernel_time_basis=kernel.basis,
        total_ns=kernel.total_ns,
        ratio=kernel.ns / first.ns if first.ns else 1.0,
        bound=analysis.bound.kind,
        figures=figures,
    )


def _kernel(analysis: Analysis) -> KernelTime:
    """The kernel's time.

    Raises:
        ComparisonError: The profile holds no events.
    """
    if analysis.kernel_time is None:
        raise ComparisonError(f"{analysis.source} holds no events: there is no time to compare")
    return analysis.kernel_time


def _difference(
    before: Profile, after: Profile, first: Analysis, other: Analysis, same: bool | None, remarks: list[str]
) -> Difference:
    left, right = _kernel(first), _kernel(other)
    parts = parts_of(before), parts_of(after)
    order = _order(parts, (left, right))
    spent = [
        _attribute(profile, part, kernel, order)
        for profile, part, kernel in zip((before, after), parts, (left, right), strict=True)
    ]
    change = right.ps - left.ps
    changes = [
        Change(resource, part, to_ns(a), to_ns(b), to_ns(b - a), (b - a) / change if change else None)
        for resource, part in dict.fromkeys([*spent[0], *spent[1]])
        if (a := spent[0].get((resource, part), 0)) != (b := spent[1].get((resource, part), 0))
    ]
    explained = sum(spent[1].values()) - sum(spent[0].values())
    return Difference(
        source=other.source,
        baseline=first.source,
        change_ns=to_ns(change),
        ratio=right.ns / left.ns if left.ns else 1.0,
        verdict="not judged: one execution each" if change or changes else NO_CHANGE,
        same_work=same,
        remarks=tuple(remarks),
        changes=tuple(sorted(changes, key=lambda change: -abs(change.change_ns))),
        explained_ns=to_ns(explained),
        unexplained_ns=to_ns(change - explained),
    )


def parts_of(profile: Profile) -> Parts:
    """Merged intervals by resource and opcode, queue or track; what a resource did beyond these comes as `other`."""
    found: Parts = {}
    if profile.rows("Instruction"):
        engines, engine_names = profile.codes("Instruction", "engine")
        opcodes, opcode_names = profile.codes("Instruction", "opcode")
        working = ~profile.equals("Instruction", "opcode", WAIT_OPCODE)
        _split(found, spans(profile, "Instruction"), working, (engines, engine_names), (opcodes, opcode_names))
    if profile.rows("DmaPacket"):
        kinds, kind_names = profile.codes("DmaPacket", "queue_type")
        every = np.ones(kinds.size, bool)
        one = np.zeros(kinds.size, np.int64), [DMA]
        _split(found, spans(profile, "DmaPacket"), every, one, (kinds, [name or "packets" for name in kind_names]))
    for resource in read_resources(profile):
        found[resource.name, "" if resource.kind == "track" else "other"] = resource.busy
    return found


def _split(
    found: Parts, times: Intervals, chosen: Any, outer: tuple[Any, list[str]], inner: tuple[Any, list[str]]
) -> None:
    """Merged intervals of each pair of codes that occurs."""
    width = len(inner[1])
    keys = outer[0] * width + inner[0]
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(keys[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(keys[rows], prepend=-1))
    for group in np.split(rows, starts[1:]) if rows.size else []:
        key = int(keys[group[0]])
        found[outer[1][key // width], inner[1][key % width]] = merge(times[0][group], times[1][group])


def _order(parts: tuple[Parts, Parts], kernels: tuple[KernelTime, KernelTime]) -> list[tuple[str, str]]:
    """Parts by how busy their resource is in both windows, then by how busy they are; `other` and Sync last."""
    busy: dict[tuple[str, str], int] = {}
    for found, kernel in zip(parts, kernels, strict=True):
        for key, intervals in found.items():
            busy[key] = busy.get(key, 0) + intersection_length(intervals, kernel.window)
    whole = {resource: spent for (resource, part), spent in busy.items() if part in {"", "other"}}
    return sorted(
        busy, key=lambda key: (key[0] == "Sync", -whole.get(key[0], 0), key[0], key[1] == "other", -busy[key], key[1])
    )


def _attribute(
    profile: Profile, parts: Parts, kernel: KernelTime, order: list[tuple[str, str]]
) -> dict[tuple[str, str], int]:
    """The kernel's time by part, ps: each instant goes to the first active part; sums to the kernel's time."""
    window = kernel.window
    spent: dict[tuple[str, str], int] = {}
    union: Intervals = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    before = 0
    for key in order:
        if key not in parts:
            continue
        union = merge(*(np.concatenate([union[side], parts[key][side]]) for side in (0, 1)))
        after = intersection_length(union, window)
        if after > before:
            spent[key] = after - before
        before = after
    resources: tuple[Resource, ...] = read_resources(profile)
    causes = dependency_causes(profile, resources, kernel)
    idle = {cause: round(spent_ns * PS_PER_NS) for cause, spent_ns in causes.items()}
    for cause, length in idle.items():
        spent["dependency", cause] = length
    rest = kernel.window_ps - before - sum(idle.values())
    if rest:
        spent[IDLE if is_trace(resources) else "dependency", "nothing active"] = rest
    if kernel.outside_ps:
        spent["launch", "outside of the kernel's own instructions"] = kernel.outside_ps
    return spent
