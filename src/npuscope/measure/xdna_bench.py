"""Strategies for one matmul, each executed and counted: what it claims to send beside what it sent, time by phase, error.

Host time is measured, by phase, and on an emulated device without what the emulator itself takes. Device time is simulated there, and
is not told apart from waiting on a real one. A first pass in a session of its own is kept apart from warm ones, and from the first
dispatch after the device has gone to sleep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median, pstdev
from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.backends.xdna.execution import Execution
from npuscope.backends.xdna.phases import OPEN, PHASES, PhaseTimer
from npuscope.backends.xdna.platform import Platform
from npuscope.backends.xdna.session import XdnaSession
from npuscope.backends.xdna.strategies import Strategy, Tiling
from npuscope.errors import MeasurementError, NpuscopeError, UnavailableError, UsageError
from npuscope.hardware.host import available_memory_bytes
from npuscope.measure.rounds import describe_failure
from npuscope.measure.xdna_bound import DesignCheck, check_design_result, fixed_tolerance
from npuscope.tiling.xdna_candidates import PlanRequest
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.tiling.xdna_legality import core_memory_bytes, violations
from npuscope.tiling.xdna_time import dispatch_time, submission_us
from npuscope.units import format_bytes

FIXED_TOLERANCE = 0.004
"""A largest error whatever the data's scale, as the batched-tiling scripts asked for: reported, and no criterion here."""
_WAKE_SECONDS = 1.2  # of the driver's autosuspend delay


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What is to be compared."""

    problem: PlanRequest
    strategies: tuple[Strategy, ...]
    batches: tuple[int, ...] = (0,)
    """Of the strategies that have one; 0 is their usual."""
    runs: int = 3
    """Warm passes; the batched-tiling script takes as many."""
    seed: int = 0
    scale: float = 1.0
    """Standard deviation of B; A has 1."""


@dataclass(frozen=True, slots=True)
class StrategyRow:
    """One strategy on one device."""

    strategy: str
    title: str
    batch: int
    """Columns of a batch, or tiles of a packed dispatch; 0 where it has none."""
    M: int
    K: int
    N: int
    dtype: str
    out_dtype: str
    device: str
    is_simulated: bool
    status: str
    """`ok` or `failed`."""
    claimed_dispatches: int
    counted_dispatches: int | None = None
    """Submissions of one warm pass, counted at pyxrt's own calls."""
    counted_commands: int | None = None
    """Commands in them: a run list carries several."""
    device_us: float | None = None
    """Device time of one warm pass, simulated; None on a real device, which does not tell it apart from waiting."""
    device_us_by_part: dict[str, float] | None = None
    """What the timing model makes of it: `dispatch`, and `compute`, `dram` and `stream`, of which the longest hides others."""
    host_us: dict[str, float] | None = None
    """Host time of one warm pass by phase, the median of the passes."""
    elapsed_us: float | None = None
    """Of one warm pass, as a user waits: on an emulated device measured host time and simulated device time in one."""
    elapsed_low_us: float | None = None
    elapsed_high_us: float | None = None
    elapsed_stdev_us: float | None = None
    cold_open_us: float | None = None
    """Opening device, xclbin and context before the first pass."""
    cold_host_us: dict[str, float] | None = None
    """Host time of the first pass by phase."""
    cold_device_us: float | None = None
    """Device time of the first pass: the array is configured in it."""
    cold_elapsed_us: float | None = None
    """Of the first pass, opening included."""
    idle_wake_us: float | None = None
    """What the first dispatch waits after the device went to sleep: on a real device, that pass less a warm one."""
    speedup: float | None = None
    """Elapsed time of the first strategy over this one's."""
    max_abs_error: float | None = None
    error_over_mass: float | None = None
    bound_over_mass: float | None = None
    bias_over_mass: float | None = None
    """Mean signed error over mass: floor and truncation lean to one side."""
    within_bound: bool | None = None
    """Never where the allowance exceeds the result itself, so that zeros would pass."""
    error_over_result: float | None = None
    """Root mean square of the error over that of the exact result."""
    meets_fixed_tolerance: bool | None = None
    """max_abs_error is below 0.004."""
    fixed_tolerance_scale: float | None = None
    """Standard deviation of B at which a right result's largest error is expected to be that, A's being 1."""
    tile: tuple[int, int, int] | None = None
    call: tuple[int, int, int] | None = None
    """M, K and N of one dispatch."""
    cores: int | None = None
    l1_bytes: int | None = None
    synced_to_bytes: int | None = None
    synced_from_bytes: int | None = None
    rounding: str = ""
    notes: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Pass:
    """One pass over all dispatches."""

    host_us: dict[str, float]
    elapsed_us: float
    device_us: float | None
    dispatches: int
    commands: int
    result: npt.NDArray[Any]


def run_bench(
    request: BenchRequest, platform: Platform, progress: Callable[[str], None] = lambda _: None
) -> list[StrategyRow]:
    """Execute each strategy, check its result, and count its dispatches.

    Raises:
        UsageError: The problem does not fit this machine.
    """
    a, b = make_operands(request)
    rows: list[StrategyRow] = []
    for strategy in request.strategies:
        for batch in request.batches if strategy.name in {"batched-loop", "packed"} else (0,):
            progress(f"{strategy.name}: {strategy.title}")
            rows.append(_row(request, strategy, batch, platform, a, b))
    first = next((row.elapsed_us for row in rows if row.elapsed_us), None)
    return [_with_speedup(row, first) for row in rows]


def make_operands(request: BenchRequest) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """A [M, K] and B [K, N] from the seed: normal float32, or uniform integers of the operands' type.

    Raises:
        UsageError: They, the result and the reference would not fit this machine's memory.
    """
    problem = request.problem
    elements = problem.M * problem.K + problem.K * problem.N
    results = problem.M * problem.N
    needed = (
        4 * 3 * elements + 8 * 4 * results
    )  # as given, converted, in buffers; result, partial sums, reference, mass
    available = available_memory_bytes()
    if needed > available:
        raise UsageError(
            f"{problem.M}x{problem.K}x{problem.N} would take about {format_bytes(needed)} of memory and {format_bytes(available)} are"
            " free; npuscope xdna plan predicts it without running it"
        )
    rng = np.random.default_rng([request.seed, problem.M, problem.K, problem.N])
    if problem.dtype == "bfloat16":
        a = rng.standard_normal((problem.M, problem.K), np.float32)
        return a, (request.scale * rng.standard_normal((problem.K, problem.N), np.float32)).astype(np.float32)
    # Sums that fit the result's type, as those of a quantised layer do: of any int16 they leave int32 after a few terms.
    largest = np.iinfo(problem.out_dtype).max
    limit = max(1, int(min(np.iinfo(problem.dtype).max, (largest / problem.K) ** 0.5)))
    dtype = np.dtype(problem.dtype)
    return (
        rng.integers(-limit, limit + 1, (problem.M, problem.K), dtype),
        rng.integers(-limit, limit + 1, (problem.K, problem.N), dtype),
    )


def _row(
    request: BenchRequest,
    strategy: Strategy,
    batch: int,
    platform: Platform,
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
) -> StrategyRow:
    problem = request.problem
    tiling = _on_built_kernel(strategy.tile(problem, platform, batch), problem, platform)
    shared: dict[str, Any] = {
        "strategy": strategy.name,
        "title": strategy.title,
        "batch": batch or _usual_batch(tiling),
        "M": problem.M,
        "K": problem.K,
        "N": problem.N,
        "dtype": problem.dtype,
        "out_dtype": problem.out_dtype,
        "device": platform.name,
        "is_simulated": platform.is_simulated,
        "claimed_dispatches": tiling.claimed_dispatches,
        "tile": (tiling.design.tile_m, tiling.design.tile_k, tiling.design.tile_n),
        "call": (tiling.design.M, tiling.design.K, tiling.design.N),
        "cores": tiling.design.cores,
        "l1_bytes": int(core_memory_bytes(tiling.design, platform.array.core_stack_bytes)),
    }
    try:
        return StrategyRow(**shared, status="ok", **_measured(request, tiling, platform, a, b, strategy))
    except (UsageError, UnavailableError):
        raise
    except NpuscopeError as error:
        return StrategyRow(**shared, status="failed", error=describe_failure(error))


def _on_built_kernel(tiling: Tiling, problem: PlanRequest, platform: Platform) -> Tiling:
    """The whole-array strategy on a real device: with whatever built kernel takes the problem at once, if there is one."""
    if platform.is_simulated or tiling.strategy != "whole-array":
        return tiling
    fitting = [
        manifest.design
        for manifest in platform.usable_kernels()
        if (manifest.design.dtype, manifest.design.out_dtype) == (problem.dtype, problem.out_dtype)
        and manifest.design.batch == 1
        and manifest.design.M >= problem.M
        and manifest.design.K >= problem.K
        and manifest.design.N >= problem.N
    ]
    if not fitting:
        return tiling
    return replace(tiling, design=min(fitting, key=lambda design: design.macs), grid=(1, 1, 1), claimed_dispatches=1)


def _usual_batch(tiling: Tiling) -> int:
    if tiling.strategy == "packed":
        return tiling.design.batch
    return 0 if tiling.strategy != "batched-loop" else 8


def _measured(
    request: BenchRequest,
    tiling: Tiling,
    platform: Platform,
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    strategy: Strategy,
) -> dict[str, Any]:
    """Cold pass, warm passes, one after idling; counts, times, and the check of the last warm result."""
    broken = violations(tiling.design, platform.array)
    if broken:
        raise MeasurementError(f"{strategy.name} has no legal kernel for this problem: {broken[0].reason}")
    start_ns, timer = platform.elapsed_ns(), PhaseTimer(platform.host_ns)
    manifest = platform.kernel_for(tiling.design)
    timer.skip()
    start_ns = platform.elapsed_ns()
    with XdnaSession(platform.runtime, platform.array, platform.name) as session:
        kernel = session.load(manifest)
        timer.lap(OPEN)
        open_us = (platform.elapsed_ns() - start_ns) / 1e3
        execution = Execution(session, kernel, tiling, timer)
        cold = _pass(execution, session, platform, timer, a, b)
        warm = [_pass(execution, session, platform, timer, a, b) for _ in range(request.runs)]
        before = warm[-1].result
        waking_ns = platform.waking_ns() if platform.waking_ns is not None else 0
        platform.sleep(_WAKE_SECONDS * platform.array.autosuspend_ms / 1e3)
        woken = _pass(execution, session, platform, timer, a, b)
        wake_us = (platform.waking_ns() - waking_ns) / 1e3 if platform.waking_ns is not None else None
    if not all(np.array_equal(before, each.result, equal_nan=True) for each in (cold, *warm, woken)):
        raise MeasurementError(
            "two passes over the same inputs gave different results; the device is not to be trusted"
        )
    counts = {(each.dispatches, each.commands) for each in (*warm, woken)}
    if len(counts) != 1:
        raise MeasurementError(f"passes sent different numbers of dispatches: {sorted(counts)}")
    check = check_design_result(before, a, b, manifest.design)
    elapsed = [each.elapsed_us for each in warm]
    typical = median(elapsed)
    host_us = {phase: median(each.host_us[phase] for each in warm) for phase in PHASES}
    return {
        "counted_dispatches": warm[-1].dispatches,
        "counted_commands": warm[-1].commands,
        "device_us": warm[-1].device_us,
        "device_us_by_part": _parts(tiling, platform) if platform.is_simulated else None,
        "host_us": host_us,
        "elapsed_us": typical,
        "elapsed_low_us": min(elapsed),
        "elapsed_high_us": max(elapsed),
        "elapsed_stdev_us": pstdev(elapsed),
        "cold_open_us": open_us,
        "cold_host_us": cold.host_us,
        "cold_device_us": cold.device_us,
        "cold_elapsed_us": open_us + cold.elapsed_us,
        # On a real device a difference of two passes: nothing is seen where it is not above 0.
        "idle_wake_us": (max(0.0, woken.elapsed_us - typical) or None) if wake_us is None else wake_us,
        "max_abs_error": check.max_abs_error,
        "error_over_mass": check.error_over_mass,
        "bound_over_mass": check.bound_over_mass,
        "bias_over_mass": check.bias_over_mass,
        "within_bound": check.within_bound,
        "error_over_result": check.error_over_result,
        "meets_fixed_tolerance": check.max_abs_error < FIXED_TOLERANCE,
        "fixed_tolerance_scale": _tolerable_scale(request, manifest.design),
        "synced_to_bytes": _synced_to(tiling),
        "synced_from_bytes": tiling.design.c_bytes // tiling.design.batch * tiling.calls,
        "rounding": manifest.design.rounding if problem_rounds(tiling) else "",
        "notes": _notes(strategy, tiling, check),
    }


def _tolerable_scale(request: BenchRequest, design: XdnaDesign) -> float | None:
    """Deviation of B at which the fixed tolerance is what to expect; None for integers, which are exact at any."""
    problem = request.problem
    scale = fixed_tolerance(design, problem.M, problem.K, problem.N, FIXED_TOLERANCE).largest_scale
    return scale if np.isfinite(scale) else None


def _notes(strategy: Strategy, tiling: Tiling, check: DesignCheck) -> tuple[str, ...]:
    notes = []
    if not strategy.stock_design:
        notes.append("no stock design of mlir-aie does this: its kernel would have to be written")
    if not check.can_tell:
        times = -(-tiling.design.K // tiling.design.tile_k)
        notes.append(
            f"C is rounded to {tiling.design.out_dtype} {times:,} times ({tiling.design.rounding}), which may lose as much as the result is: no check"
            " can tell it from a wrong one; --rounding even or --out-dtype float32"
        )
    return tuple(notes)


def problem_rounds(tiling: Tiling) -> bool:
    """Whether the kernel rounds what it writes back."""
    return tiling.design.out_dtype == "bfloat16"


def _pass(
    execution: Execution,
    session: XdnaSession,
    platform: Platform,
    timer: PhaseTimer,
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
) -> _Pass:
    execution.forget_results()
    counted, spent = session.count.copy(), dict(timer.spent_ns)
    busy_ns = platform.busy_ns() if platform.busy_ns is not None else 0
    start_ns = platform.elapsed_ns()
    result = execution.multiply(a, b)
    elapsed_us = (platform.elapsed_ns() - start_ns) / 1e3
    sent = session.count.since(counted)
    return _Pass(
        {phase: (timer.spent_ns[phase] - spent[phase]) / 1e3 for phase in PHASES},
        elapsed_us,
        (platform.busy_ns() - busy_ns) / 1e3 if platform.busy_ns is not None else None,
        sent.dispatches,
        sent.commands,
        result,
    )


def _parts(tiling: Tiling, platform: Platform) -> dict[str, float]:
    """What the model makes of a pass: all dispatches together."""
    in_list = tiling.list_length > 0
    time = dispatch_time(tiling.design, platform.array, platform.calibration, platform.clock_ghz, in_list=in_list)
    calls = tiling.calls if tiling.design.batch == 1 else tiling.claimed_dispatches
    submissions = tiling.claimed_dispatches * submission_us(platform.array, platform.calibration) if in_list else 0.0
    return {
        "dispatch": calls * time.overhead_us + submissions,
        "compute": calls * time.compute_us,
        "dram": calls * time.dram_us,
        "stream": calls * time.stream_us,
    }


def _synced_to(tiling: Tiling) -> int:
    """Bytes of A and B handed to the device in one pass."""
    design, grid = tiling.design, tiling.grid
    if design.batch > 1:
        return tiling.claimed_dispatches * (design.a_bytes + design.b_bytes)
    blocks_of_b = grid[1] * grid[2] if tiling.resident_b else tiling.calls
    return tiling.calls * design.a_bytes + blocks_of_b * design.b_bytes


def _with_speedup(row: StrategyRow, first_us: float | None) -> StrategyRow:
    if not first_us or not row.elapsed_us:
        return row
    return replace(row, speedup=first_us / row.elapsed_us)


def batched_tables(rows: Sequence[StrategyRow]) -> list[dict[str, float | int | str]]:
    """The lines of the two batched-tiling scripts, with what was counted beside what they claim.

    `quick_benchmark.py` shows batch, calls and time per call, where calls are computed by its own formula;
    `benchmark_batched_tiling.py` average, deviation, least time, time per call and error of each size and batch.
    """
    lines: list[dict[str, float | int | str]] = []
    first_us: dict[str, float] = {}
    for row in rows:
        if row.strategy != "batched-loop" or row.elapsed_us is None or not row.counted_dispatches:
            continue
        size = f"{row.M}x{row.K}x{row.N}"
        lines.append(
            {
                "size": size,
                "batch": row.batch,
                "claimed_calls": row.claimed_dispatches,
                "counted_calls": row.counted_dispatches,
                "average_us": row.elapsed_us,
                "stdev_us": row.elapsed_stdev_us or 0.0,
                "min_us": row.elapsed_low_us or 0.0,
                "per_claimed_call_us": row.elapsed_us / row.claimed_dispatches,
                "per_counted_call_us": row.elapsed_us / row.counted_dispatches,
                "speedup": first_us.setdefault(size, row.elapsed_us) / row.elapsed_us,
                "max_abs_error": row.max_abs_error or 0.0,
            }
        )
    return lines
