"""How long one dispatch of a matmul design takes on an XDNA array: closed forms over one design or many at once.

Compute, the cores' streams and DRAM run side by side, and the longest counts; a dispatch costs a fixed time more. Bytes and
compute are equations 1 to 10 of arXiv:2512.13282. What a design of few columns gets of the DRAM's rate is our inference: the
rate of the whole array comes to about four bytes per column and cycle on both generations, and one-column designs reach that.
`npuscope.simulate.xdna` compares all of it with published measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from npuscope.errors import unknown_name
from npuscope.hardware.model import XdnaArray
from npuscope.tiling.xdna_calibration import Calibration, Kernel, calibration_for
from npuscope.tiling.xdna_design import XdnaDesign

__all__ = [
    "BOUNDS",
    "Calibration",
    "Clock",
    "Designs",
    "DispatchTime",
    "Kernel",
    "Times",
    "calibration_for",
    "dispatch_time",
    "power_mode_clock_ghz",
    "submission_us",
    "times",
]

Clock = float | None
"""GHz; None for that of the calibration."""
Floats = npt.NDArray[np.float64]
BOUNDS: Final = ("compute", "stream", "dram", "dispatch")
_SIZES: Final = ("M", "K", "N", "tile_m", "tile_k", "tile_n", "rows", "columns")
_BLOCK: Final = 8192
"""Designs that are timed together: their columns fit in a core's cache."""
POWER_MODES: Final = ("turbo", "performance", "balanced", "powersaver", "default")


class Designs(Protocol):
    """Attributes of an `XdnaDesign`: sizes and cores, each one number or a column of numbers; the rest is the same for all."""

    M: Any
    K: Any
    N: Any
    tile_m: Any
    tile_k: Any
    tile_n: Any
    rows: Any
    columns: Any
    batch: int
    buffers_a: int
    buffers_b: int
    buffers_c: int
    dtype: str
    out_dtype: str
    itemsize: int
    out_itemsize: int
    multiplication: str


@dataclass(frozen=True, slots=True)
class Times:
    """`DispatchTime` of many designs, a column for each field."""

    compute_us: Floats
    dram_us: Floats
    stream_us: Floats
    drain_us: Floats
    overhead_us: float
    total_us: Floats
    dram_bytes: Floats


@dataclass(frozen=True, slots=True)
class DispatchTime:
    """What one dispatch takes, in microseconds; simulated."""

    compute_us: float
    """Calls of the kernel on one core, one after another."""
    dram_us: float
    """All bytes of A, B and C between DRAM and the array."""
    stream_us: float
    """The busiest of a core's streams for A, B and C."""
    drain_us: float
    """What a core waits for its finished C to leave, where C has a single buffer."""
    overhead_us: float
    """To send and to await the command."""
    total_us: float
    bound: str
    """The longest of the four: one of `BOUNDS`."""
    dram_bytes: int
    macs_per_cycle: float
    """Of one core, in its kernel."""


def times(
    designs: Any,
    array: XdnaArray,
    calibration: Calibration,
    clock_ghz: Clock = None,
    *,
    in_list: bool = False,
) -> Times:
    """Time many designs at once; see `Designs` for what they carry.

    Args:
        designs: Columns of sizes; M, K and N are whole multiples of what the cores take at a time.
        array: The device.
        calibration: How fast its kernels and its memory are.
        clock_ghz: Of the array; that of the calibration when None.
        in_list: The command is one of a run list, which is sent once for all: `submission_us` is the rest.
    """
    clock = calibration.clock_ghz if clock_ghz is None else clock_ghz
    overhead_us = calibration.command_us if in_list else calibration.dispatch_us
    sizes = np.broadcast_arrays(*(getattr(designs, name) for name in _SIZES))
    if sizes[0].ndim == 0:
        found = _evaluate(designs, sizes, array, calibration, clock, overhead_us)
    else:
        found = np.empty((6, len(sizes[0])))
        for start in range(0, len(sizes[0]), _BLOCK):
            part = [size[start : start + _BLOCK] for size in sizes]
            found[:, start : start + _BLOCK] = _evaluate(designs, part, array, calibration, clock, overhead_us)
    compute_us, dram_us, stream_us, drain_us, total_us, moved = found
    return Times(compute_us, dram_us, stream_us, drain_us, overhead_us, total_us, moved)


def _evaluate(
    designs: Any, sizes: Sequence[Any], array: XdnaArray, calibration: Calibration, clock: float, overhead_us: float
) -> Any:
    """Compute, DRAM, stream, drain and total in us, and DRAM bytes: the formulas themselves."""
    M, K, N, m, k, n, rows, columns = (np.asarray(size, np.float64) for size in sizes)
    m_n = m * n
    tiles = designs.batch * (M * N) / (m_n * (rows * columns))  # of C, one after another in a core
    calls = tiles * (K / k)
    compute_us = calls * _call_cycles(designs, array, calibration, m_n, k) * (1e-3 / clock)
    # A and B come in once a call, C goes out once a tile; each has channels of its own.
    us_per_byte = 1e-3 / (clock * array.stream_bytes_per_cycle)
    c_out_us = tiles * m_n * (designs.out_itemsize * us_per_byte)
    stream_us = np.maximum(calls * np.maximum(m, n) * k * (designs.itemsize * us_per_byte), c_out_us)
    # A single buffer of C must be empty before the next tile of C begins, so its way out is not hidden.
    drain_us = c_out_us if designs.buffers_c == 1 else np.zeros_like(c_out_us)
    parts = _dram_bytes(designs, (M, K, N), m * rows, n * columns)
    share = np.minimum(columns, array.core_columns) * (clock / calibration.clock_ghz / array.core_columns)
    moved = sum(parts) if not calibration.full_run_bytes else _slowed(designs, parts, k, n, calibration.full_run_bytes)
    dram_us = moved * (1e-3 / calibration.dram_gb_s) / share
    fills_first = 1 in (designs.buffers_a, designs.buffers_b)  # and then computes: nothing moves meanwhile
    inside = drain_us + (compute_us + stream_us if fills_first else np.maximum(compute_us, stream_us))
    total_us = overhead_us + (np.maximum(inside, dram_us) if calibration.overlapped else inside + dram_us)
    return np.stack((compute_us, dram_us, stream_us, drain_us, total_us, sum(parts)))


def dispatch_time(
    design: XdnaDesign,
    array: XdnaArray,
    calibration: Calibration,
    clock_ghz: Clock = None,
    *,
    in_list: bool = False,
) -> DispatchTime:
    """Time one design: `times` of one."""
    found = times(design, array, calibration, clock_ghz, in_list=in_list)
    parts = [float(part) for part in (found.compute_us, found.stream_us, found.dram_us, found.overhead_us)]
    cycles = float(_call_cycles(design, array, calibration, design.tile_m * design.tile_n, design.tile_k))
    return DispatchTime(
        compute_us=parts[0],
        dram_us=parts[2],
        stream_us=parts[1],
        drain_us=float(found.drain_us),
        overhead_us=parts[3],
        total_us=float(found.total_us),
        bound=BOUNDS[int(np.argmax(parts))],
        dram_bytes=round(float(found.dram_bytes)),
        macs_per_cycle=design.tile_m * design.tile_k * design.tile_n / cycles,
    )


def dram_bytes(designs: Any) -> tuple[Any, Any, Any]:
    """Bytes of A, B and C that cross between DRAM and the array in one dispatch.

    All of A passes once for each of N / (n * columns) strips of C, all of B once for each of M / (m * rows).
    Source: arXiv:2512.13282, equations 4 to 6.
    """
    M, K, N, m, _, n, rows, columns = (np.asarray(getattr(designs, name), np.float64) for name in _SIZES)
    return _dram_bytes(designs, (M, K, N), m * rows, n * columns)


def submission_us(array: XdnaArray, calibration: Calibration) -> float:
    """What a run list costs once: with one command in it, as much as that command sent alone."""
    del array  # so far no calibration differs within a generation
    return max(0.0, calibration.dispatch_us - calibration.command_us)


def power_mode_clock_ghz(array: XdnaArray, mode: str) -> float:
    """Clock of the array in a power mode, GHz, as the Linux driver sets it.

    Turbo and performance take the highest level, powersaver the lowest, balanced the fourth of eight. `default` follows what
    the open contexts asked for, and is the highest where one asked for nothing. Source: amd/xdna-driver @856409c,
    src/driver/amdxdna/aie2_pm.c and aie2_ctx.c.
    A Phoenix computes at about 1.0 GHz whatever the driver sets: see `docs/validation.md`.

    Raises:
        UsageError: No such mode.
    """
    if mode not in POWER_MODES:
        raise unknown_name("power mode", mode, POWER_MODES)
    if mode == "powersaver":
        return array.clocks_ghz[0]
    return array.balanced_clock_ghz if mode == "balanced" else array.clocks_ghz[-1]


def _dram_bytes(designs: Any, shape: Sequence[Any], rows_at_once: Any, columns_at_once: Any) -> tuple[Any, Any, Any]:
    M, K, N = shape
    m_n = designs.batch * (M * N)
    operand = m_n * K * designs.itemsize
    return operand / columns_at_once, operand / rows_at_once, m_n * designs.out_itemsize


def _slowed(designs: Any, parts: Sequence[Any], k: Any, n: Any, full_run_bytes: int) -> Any:
    """Bytes as they count where a row of a tile is shorter in DRAM than a full run: a run takes the time of a full one."""
    b_edge = k if getattr(designs, "b_column_major", False) else n
    least_in, least_out = full_run_bytes / designs.itemsize, full_run_bytes / designs.out_itemsize
    edges = ((k, least_in), (b_edge, least_in), (n, least_out))
    return sum(part * np.maximum(1.0, least / edge) for part, (edge, least) in zip(parts, edges, strict=True))


def _call_cycles(designs: Any, array: XdnaArray, calibration: Calibration, m_n: Any, k: Any) -> Any:
    """Cycles of one call of the kernel; never faster than the core's peak."""
    kernel = calibration.kernel(designs.dtype, designs.out_dtype, designs.multiplication)
    cycles = m_n * (kernel.per_mac * k + kernel.per_element) + kernel.per_call
    return np.maximum(cycles, m_n * k * (1 / _peak(designs.dtype, designs.multiplication, array)))


def _peak(dtype: str, multiplication: str, array: XdnaArray) -> int:
    if multiplication == "bfp16":
        return array.int8_macs_per_cycle
    peaks = {
        "int8": array.int8_macs_per_cycle,
        "int16": array.int16_macs_per_cycle,
        "bfloat16": array.bf16_macs_per_cycle,
    }
    return peaks[dtype]
