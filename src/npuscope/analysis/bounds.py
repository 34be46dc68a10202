"""Lower bounds on the kernel's time, utilisation, and the position on the roofline.

The bounds are those of the vendor's performance-bounds guide (aws-neuron/neuron-agentic-development), the ratios those of
the vendor's profile summary, over the kernel's time as well as over total_time. docs/analyze.md has the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from npuscope.analysis.constants import Constants
from npuscope.analysis.dma import DmaUse
from npuscope.analysis.engines import EngineUse
from npuscope.analysis.kernel_time import KernelTime
from npuscope.analysis.timeline import DMA
from npuscope.profile.tables import Profile


@dataclass(frozen=True, slots=True)
class Bound:
    """The kernel cannot be faster than this while one thing stays as it is."""

    name: str
    total_ns: float | None
    """Over the whole capture; None where a constant or a count is missing."""
    window_ns: float | None
    """Within the kernel's window."""
    share_of_kernel: float | None
    """Window time over the kernel's window: how near the kernel is to this bound; a fraction."""
    formula: str


@dataclass(frozen=True, slots=True)
class EngineBound:
    """What work on one engine could give; both figures are upper limits."""

    engine: str
    active_ns: float
    """Within the window."""
    speedup: float | None
    """Window / max(what its work takes at peak, the busiest other resource): it is made ideal and all else overlaps."""
    speedup_alone: float | None
    """Window / (window - its active time): it takes no time, and nothing else moves."""


@dataclass(frozen=True, slots=True)
class Roofline:
    """Utilisation over the kernel's time, and where that lies under the roof; fractions of the peak."""

    mfu: float | None
    """Model FLOPs / (peak x time)."""
    mfu_inst: float | None
    """(Hardware - transpose) FLOPs / (peak x time)."""
    hfu: float | None
    """Hardware FLOPs / (peak x time)."""
    mbu: float | None
    """HBM bytes / (HBM bandwidth x time)."""
    arithmetic_intensity_flop_per_byte: float | None
    """(Hardware - transpose) FLOPs / HBM bytes."""
    ridge_flop_per_byte: float | None
    achieved_flops_per_s: float | None
    attainable_flops_per_s: float | None
    """min(peak, arithmetic intensity x HBM bandwidth)."""
    position: float | None
    """Achieved over attainable; a fraction."""
    side: str
    """`memory` left of the ridge, `compute` right of it, '' where unknown."""
    peak_flops_per_s: float | None
    hbm_bytes_per_s: float | None
    is_estimated: bool
    """Which instructions are transposes is estimated, and with it every figure but HFU and MBU."""
    over_ns: float
    """The time that the rates are taken over."""


def roofline(profile: Profile, kernel: KernelTime | None, constants: Constants) -> Roofline:
    """Utilisation and roofline position over the kernel's time."""
    known = profile.summary
    time_s = kernel.ns / 1e9 if kernel and kernel.ns else None
    peak, width = constants.tensor_flops_per_s, constants.hbm_bytes_per_s
    hardware, transposes = known.get("hardware_flops"), known.get("transpose_flops")
    useful = None if hardware is None else hardware - (transposes or 0)
    moved = None
    if known.get("hbm_read_bytes") is not None or known.get("hbm_write_bytes") is not None:
        moved = (known.get("hbm_read_bytes") or 0) + (known.get("hbm_write_bytes") or 0)
    intensity = _over(useful, moved)
    ridge = constants.ridge_flop_per_byte
    achieved = _over(useful, time_s)
    attainable = None if peak is None or width is None or intensity is None else min(peak, intensity * width)
    return Roofline(
        mfu=_over(_over(known.get("model_flops"), time_s), peak),
        mfu_inst=_over(achieved, peak),
        hfu=_over(_over(hardware, time_s), peak),
        mbu=_over(_over(moved, time_s), width),
        arithmetic_intensity_flop_per_byte=intensity,
        ridge_flop_per_byte=ridge,
        achieved_flops_per_s=achieved,
        attainable_flops_per_s=attainable,
        position=_over(achieved, attainable),
        side="" if intensity is None or ridge is None else "memory" if intensity < ridge else "compute",
        peak_flops_per_s=peak,
        hbm_bytes_per_s=width,
        is_estimated=flops_are_estimated(profile),
        over_ns=kernel.ns if kernel else 0.0,
    )


def flops_are_estimated(profile: Profile) -> bool:
    """Whether a reader marked instruction rows as resting on a guess."""
    found = profile.tables.get("Instruction")
    if found is None or "is_estimated" not in found.column_names:
        return False
    import pyarrow.compute as pc

    return bool(pc.any(found.column("is_estimated")).as_py())


def bounds_of(
    profile: Profile,
    kernel: KernelTime | None,
    engines: tuple[EngineUse, ...],
    dma: DmaUse | None,
    constants: Constants,
) -> tuple[tuple[Bound, ...], tuple[EngineBound, ...]]:
    """Every bound that the profile allows, and what each engine could give."""
    if kernel is None:
        return (), ()
    known = profile.summary
    hardware, transposes = known.get("hardware_flops"), known.get("transpose_flops") or 0
    adjusted = known.get("adjusted_hardware_flops") or hardware
    io_bytes = known.get("inputs_outputs_weights_size_bytes")
    moved = (known.get("hbm_read_bytes") or 0) + (known.get("hbm_write_bytes") or 0)
    peak, dma_rate, hbm_rate = constants.tensor_flops_per_s, constants.dma_bytes_per_s, constants.hbm_bytes_per_s
    data_bytes = dma.data_bytes if dma else None
    units = [use for use in engines if use.kind in {"engine", "dma", "collective"}]
    tensor = next((use for use in units if use.name == "Tensor"), None)
    slowest = max(units, key=lambda use: use.active_in_kernel_ns, default=None)
    total_slowest = max((use.active_ns for use in units), default=None)
    rows: list[tuple[str, Any, Any, str]] = [
        ("memory", dma and dma.active_ns, dma and dma.active_in_kernel_ns, "union of DMA packets"),
        ("memory ideal", *_twice(data_bytes, dma_rate), "DMA data bytes / DMA peak"),
        ("memory without reloads", *_twice(io_bytes, dma_rate), "inputs, outputs and weights once / DMA peak"),
        ("HBM ideal", *_twice(moved or None, hbm_rate), "HBM bytes read and written / HBM bandwidth"),
        ("compute", tensor and tensor.active_ns, tensor and tensor.active_in_kernel_ns, "TensorEngine active"),
        ("compute ideal", *_twice(adjusted, peak), "hardware FLOPs / peak"),
        (
            "compute useful",
            *_twice(None if hardware is None else hardware - transposes, peak),
            "FLOPs without transposes / peak",
        ),
        (
            "perfect pipeline",
            total_slowest,
            slowest and slowest.active_in_kernel_ns,
            "the busiest engine or DMA, all else hidden behind it",
        ),
    ]
    bounds = tuple(
        Bound(name, total, window, _over(window, kernel.window_ns), formula)
        for name, total, window, formula in rows
        if total is not None or window is not None
    )
    ideal = {"Tensor": _twice(adjusted, peak)[0], DMA: _twice(data_bytes, dma_rate)[0]}
    return bounds, tuple(_engine_bound(use, units, kernel, ideal.get(use.name) or 0.0) for use in units)


def _engine_bound(use: EngineUse, units: list[EngineUse], kernel: KernelTime, ideal_ns: float) -> EngineBound:
    others = max((other.active_in_kernel_ns for other in units if other is not use), default=0)
    limit = max(others, ideal_ns)
    alone = kernel.window_ns - use.active_in_kernel_ns
    return EngineBound(
        use.name, use.active_in_kernel_ns, _over(kernel.window_ns, limit), _over(kernel.window_ns, alone)
    )


def _twice(amount: float | None, rate: float | None) -> tuple[float | None, float | None]:
    """An amount at a rate takes the same ns over the capture and over the window."""
    time_ns = None if amount is None or not rate else 1e9 * amount / rate
    return time_ns, time_ns


def _over(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
