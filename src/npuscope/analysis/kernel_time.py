"""When the kernel ran: its part of a capture, without start-up.

A capture of a first execution holds one or more long gaps in which engines only wait on semaphores: on an Inferentia2
1.86 ms of 1.88 ms, whatever the kernel (28 of 28 captures), while the runtime loads libraries. `total_time` then says
nothing of the kernel. The kernel's program is what the compiler emitted: instructions that have a `compiler_pc`; without
that column every instruction counts. The kernel's window runs from the start of the first of these to the end of the
last, or of the last DMA packet, and leaves out start-up gaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from npuscope.analysis.timeline import PS_PER_NS, WAIT_OPCODE, Resource, spans, to_ns
from npuscope.profile.intervals import Intervals, gaps, intersection_length, merge
from npuscope.profile.tables import Profile

COLD_GAP_NS: Final = 200_000
"""A shorter gap is no start-up: public figures are 1 ms (aws-neuron-sdk issue 994), 1.86 ms (28 captures), 2.08 ms."""
COLD_GAP_SHARE: Final = 0.10
"""Of the capture; below it, start-up does not change what the figures say."""
_BEFORE: Final = 0.5  # start-up comes before most of the kernel's work


@dataclass(frozen=True, slots=True)
class KernelTime:
    """The kernel's time and the window it was taken over."""

    ns: float
    """The window where the capture is cold, else the whole execution."""
    basis: str
    is_cold: bool
    """The capture holds the start-up of a first execution."""
    total_ns: float
    """What the vendor calls total_time, or the span of all events where there is none."""
    active_ns: float
    """Any resource busy, anywhere in the capture."""
    window_ns: float
    segments: tuple[tuple[float, float], ...]
    """The window in ns, in parts where a start-up gap is left out of it."""
    startup_ns: float
    """The gaps left out."""
    longest_gap_ns: float
    """Longest time in the capture in which nothing was busy."""
    longest_gap_start_ns: float
    program_instructions: int
    """Instructions with a compiler_pc; 0 where the source does not tell, and all of them count."""

    @property
    def window(self) -> Intervals:
        """The segments as merged intervals, ps."""
        edges = np.rint(np.array(self.segments, np.float64).reshape(-1, 2) * PS_PER_NS).astype(np.int64)
        return edges[:, 0], edges[:, 1]

    @property
    def window_ps(self) -> int:
        """Length of the window; what shares of it are taken of."""
        begin, end = self.window
        return int((end - begin).sum())

    @property
    def total_ps(self) -> int:
        """`total_ns` in ps."""
        return round(self.total_ns * PS_PER_NS)

    @property
    def ps(self) -> int:
        """`ns` in ps."""
        return round(self.ns * PS_PER_NS)

    @property
    def outside_ps(self) -> int:
        """Of a warm execution, what lies outside of the window; of a cold one nothing, whose time is the window."""
        return 0 if self.is_cold else max(0, self.total_ps - self.window_ps)


def kernel_time(
    profile: Profile,
    resources: tuple[Resource, ...],
    *,
    cold_gap_ns: float = COLD_GAP_NS,
    cold_gap_share: float = COLD_GAP_SHARE,
) -> KernelTime | None:
    """Find the kernel's window; None where the profile holds no events."""
    starts, ends = (
        np.concatenate([np.zeros(0, np.int64), *(each.busy[side] for each in resources)]) for side in (0, 1)
    )
    activity = merge(starts, ends)
    if activity[0].size == 0:
        return None
    active = int((activity[1] - activity[0]).sum())
    activity = _with_marks(profile, activity)
    first, last, program = _program(profile, activity)
    begin, end = int(activity[0][0]), int(activity[1][-1])
    total_s = profile.summary.get("total_time")
    total = round(1e12 * total_s) if total_s else end - begin
    idle = gaps(activity, min(begin, first), max(end, last))
    lengths = idle[1] - idle[0]
    longest = int(lengths.argmax()) if lengths.size else -1
    startup = _startup(profile, activity, (first, last), total, cold_gap_ns, cold_gap_share)
    window = gaps(merge(*startup), first, last)
    skipped = int((startup[1] - startup[0]).sum())
    is_cold = skipped > 0
    window_ns, total_ns = to_ns((window[1] - window[0]).sum()), to_ns(total)
    return KernelTime(
        ns=window_ns if is_cold else total_ns,
        basis=_basis(profile, is_cold, bool(program), bool(total_s)),
        is_cold=is_cold,
        total_ns=total_ns,
        active_ns=to_ns(active),
        window_ns=window_ns,
        segments=tuple((to_ns(start), to_ns(stop)) for start, stop in zip(*window, strict=True)),
        startup_ns=to_ns(skipped),
        longest_gap_ns=to_ns(lengths[longest]) if longest >= 0 else 0.0,
        longest_gap_start_ns=to_ns(idle[0][longest]) if longest >= 0 else 0.0,
        program_instructions=program,
    )


def _with_marks(profile: Profile, activity: Intervals) -> Intervals:
    """Activity with instructions of no recorded length, such as DMA_DIRECT2D, as 1 ns: they end a gap, too."""
    if not profile.rows("Instruction"):
        return activity
    start, end = spans(profile, "Instruction")
    marks = start[(end - start < PS_PER_NS) & ~profile.equals("Instruction", "opcode", WAIT_OPCODE)]
    return merge(np.concatenate([activity[0], marks]), np.concatenate([activity[1], marks + PS_PER_NS]))


def _program(profile: Profile, activity: Intervals) -> tuple[int, int, int]:
    """First start, last end and number of the kernel's own instructions; DMA after the first extends the end."""
    if not profile.has("Instruction", "compiler_pc"):
        return int(activity[0][0]), int(activity[1][-1]), 0
    start, end = spans(profile, "Instruction")
    mine = np.asarray(profile.tables["Instruction"].column("compiler_pc").is_valid().to_numpy())
    mine &= ~profile.equals("Instruction", "opcode", WAIT_OPCODE)
    if not mine.any():
        return int(activity[0][0]), int(activity[1][-1]), 0
    first, last = int(start[mine].min()), int(np.maximum(end, start + PS_PER_NS)[mine].max())
    packet_start, packet_end = spans(profile, "DmaPacket")
    own = (packet_start >= first) & ~profile.equals("DmaPacket", "queue_type", "instruction")
    return first, int(np.max(packet_end, initial=last, where=own)), int(mine.sum())


def _startup(
    profile: Profile, activity: Intervals, program: tuple[int, int], total_ps: int, gap_ns: float, gap_share: float
) -> Intervals:
    """Gaps that are start-up: long, a fair part of the capture, and before most of the kernel's work."""
    nothing = np.zeros(0, np.int64), np.zeros(0, np.int64)
    if profile.is_simulation or not profile.rows("Instruction"):
        return nothing
    start, end = gaps(activity, *program)
    kept = (end - start >= gap_ns * PS_PER_NS) & (end - start >= gap_share * total_ps)
    one = np.array([program[0]]), np.array([program[1]])
    work = intersection_length(activity, one)
    early = [
        intersection_length(activity, (one[0], np.array([begin]))) <= _BEFORE * work if begin > program[0] else True
        for begin in start[kept].tolist()
    ]
    return start[kept][early], end[kept][early]


def _basis(profile: Profile, is_cold: bool, has_program: bool, has_total: bool) -> str:
    if is_cold:
        what = "instructions with a compiler_pc and their DMA" if has_program else "all instructions and DMA"
        return f"active window: first to last of {what}, without the start-up gap of a cold capture"
    if has_total and profile.rows("Instruction"):
        return "total_time: first to last notification of the execution"
    return "span of all events"
