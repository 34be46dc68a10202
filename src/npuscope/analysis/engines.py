"""How busy each engine, the DMA engines and each track were: active, waiting, idle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from npuscope.analysis.kernel_time import KernelTime
from npuscope.analysis.timeline import Resource, to_ns
from npuscope.profile.intervals import covered, intersection_length, merge


@dataclass(frozen=True, slots=True)
class EngineUse:
    """One engine, the DMA engines together, or one track."""

    name: str
    kind: str
    """`engine`, `dma`, `collective` or `track`."""
    instruction_count: int
    """Instructions, DMA packets, operations or slices."""
    instruction_time_ns: float
    """Sum of their durations without semaphore waits; more than the active time where they overlap. Of slices of a
    track, which nest, the union."""
    active_ns: float
    """Union of their intervals over the whole capture."""
    active_share_of_total: float
    """Of total_time; a fraction."""
    active_in_kernel_ns: float
    """Union of their intervals within the kernel's window."""
    share_of_kernel: float
    """Of the kernel's window; a fraction."""
    wait_in_kernel_ns: float
    """Waiting on a semaphore or event within the window and not active; at most what a 16-bit counter holds per wait."""
    idle_in_kernel_ns: float
    """Neither active nor waiting within the window."""
    basis: str
    """Where the active time comes from: the vendor's ActiveTime table, or our union of the events."""


def engine_uses(resources: tuple[Resource, ...], kernel: KernelTime | None) -> tuple[EngineUse, ...]:
    """One row per resource, in the order of `resources`."""
    return () if kernel is None else tuple(_use(resource, kernel) for resource in resources)


def _use(resource: Resource, kernel: KernelTime) -> EngineUse:
    active = int((resource.busy[1] - resource.busy[0]).sum())
    inside = intersection_length(resource.busy, kernel.window)
    wait = _only_waiting(resource, kernel)
    return EngineUse(
        name=resource.name,
        kind=resource.kind,
        instruction_count=resource.count,
        instruction_time_ns=to_ns(resource.summed_ps),
        active_ns=to_ns(active),
        active_share_of_total=active / kernel.total_ps if kernel.total_ps else 0.0,
        active_in_kernel_ns=to_ns(inside),
        share_of_kernel=inside / kernel.window_ps if kernel.window_ps else 0.0,
        wait_in_kernel_ns=to_ns(wait),
        idle_in_kernel_ns=to_ns(max(0, kernel.window_ps - inside - wait)),
        basis=resource.basis,
    )


def _only_waiting(resource: Resource, kernel: KernelTime) -> int:
    """Waiting within the window, without the time in which it was also active, ps."""
    if resource.wait[0].size == 0:
        return 0
    start, end = (np.concatenate([resource.busy[side], resource.wait[side]]) for side in (0, 1))
    either = merge(start, end)
    both = int(covered(either, *kernel.window).sum())
    return both - intersection_length(resource.busy, kernel.window)
