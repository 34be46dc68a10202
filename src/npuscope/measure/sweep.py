"""Measure many workloads: prepared in blocks, sampled in interleaved rounds, each in seeded random order.

Interleaving makes a drift of the machine hit every workload of a block alike, so that it cannot pass for an effect of
the shape. The dispatch floor, a 1x1x1 matmul on the same path, is one more workload of each round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from npuscope.backends.base import Backend, CompileReport, DeviceInfo, Executable
from npuscope.errors import MeasurementError, OutputError
from npuscope.formats.results import ResultRow
from npuscope.hardware.host import available_memory_bytes
from npuscope.measure.diagnose import diagnose
from npuscope.measure.load import cores_of_others, mark_load
from npuscope.measure.numerics import BLOCK_ELEMENTS, NumericalCheck, check_result, make_inputs
from npuscope.measure.provenance import now
from npuscope.measure.rounds import (
    FIRST_SLICE_NS,
    FLOOR_CHUNK,
    MIN_ROUNDS,
    SLICE_GROWTH,
    chunk_size,
    describe_failure,
    is_done,
    sample_chunk,
)
from npuscope.measure.sampling import Step, make_step, sample, warm_up
from npuscope.measure.session import Session, Taken
from npuscope.measure.settings import Settings
from npuscope.measure.simulated import SimulatedBackend, simulated_rows
from npuscope.measure.statistics import Statistics, summarise
from npuscope.tiling.model import tile_model
from npuscope.tiling.work import plan as plan_work
from npuscope.tiling.work import tile_matmul
from npuscope.units import format_bytes
from npuscope.workloads.matmul import MatmulConfig

BLOCK_SIZE = 16
_BLOCK_MEMORY_SHARE = 0.5
_REFERENCE_ARRAYS = 8  # of a block: both operands, their absolute values, product, mass, error, allowance
_COPIES = 2  # a device that lives in host memory holds its own copy of the operands

_SMALLEST = MatmulConfig(1, 1, 1)

Progress = Callable[[str], None]


@dataclass(slots=True)
class _Measured:
    """One workload while it is measured."""

    index: int
    config: MatmulConfig
    compiled: CompileReport
    step: Step
    recheck: Callable[[], NumericalCheck]
    """Run once more and check that result too."""
    first_run_ns: int
    warmup_ns: list[int]
    steady: bool | None
    check: NumericalCheck
    estimate_ns: float
    samples_ns: list[int] = field(default_factory=list)
    sample_round: list[int] = field(default_factory=list)
    spent_ns: int = 0
    rewarm_runs: int = 0
    other_cores_busy: float = 0.0
    next_check: int = MIN_ROUNDS
    compiles_while_timed: int = 0
    sessions: int = 1
    done: bool = False
    failure: str = ""

    def statistics(self, *, resamples: int, seed: int) -> Statistics:
        return summarise(np.array(self.samples_ns), np.array(self.sample_round), resamples=resamples, seed=seed)


def run_sweep(backend: Backend, session: Session, progress: Progress) -> Iterator[ResultRow]:
    """Measure what the session's plan still lacks; yield each row once it is on disk."""
    info = backend.describe()
    if info.is_simulated:
        yield from _run_simulated(cast("SimulatedBackend", backend), info, session, progress)
        return
    blocks = list(_blocks(session.remaining, session.plan.configs))
    total, finished = len(session.plan.configs), len(session.rows)
    for number, block in enumerate(blocks):
        for index, row in _measure_block(backend, info, session, block, number, progress):
            session.finish_row(index, row)
            finished += 1
            progress(f"[{finished}/{total}] {row.M}x{row.K}x{row.N} {row.dtype}")
            yield row


def _run_simulated(
    backend: SimulatedBackend, info: DeviceInfo, session: Session, progress: Progress
) -> Iterator[ResultRow]:
    total = len(session.plan.configs)
    rows = simulated_rows(backend, info, session, columns=common_columns, check=_check, require_memory=_require_memory)
    for index, row in rows:
        session.finish_row(index, row)
        progress(f"[{len(session.rows)}/{total}] {row.M}x{row.K}x{row.N} {row.dtype}")
        yield row


def bytes_needed(config: MatmulConfig) -> int:
    """Host memory that measuring a workload takes, at most.

    Operands and result, a device's copies of them, operands that a library widens to four bytes, and the float64 blocks
    of the reference.
    """
    widened = 0 if config.dtype == "float32" else 4 * (config.M * config.K + config.K * config.N)
    return _COPIES * config.operand_bytes + widened + _REFERENCE_ARRAYS * 8 * max(BLOCK_ELEMENTS, config.K)


def _measure_block(
    backend: Backend, info: DeviceInfo, session: Session, block: Sequence[int], number: int, progress: Progress
) -> Iterator[tuple[int, ResultRow]]:
    settings = session.plan.settings
    prepared: list[_Measured] = []
    for index in block:
        config = session.plan.configs[index]
        progress(f"preparing {config.shape_text} {config.dtype}")
        try:
            prepared.append(_prepare(backend, index, config, settings, session))
        except OutputError:
            raise
        except Exception as error:  # noqa: BLE001  # SDKs raise what they like; each means that this row failed
            yield index, _failed_row(info, config, settings, describe_failure(error))
    floors = _prepare_floors(backend, prepared, settings)
    before = mark_load()
    _sample_rounds(
        backend, session, prepared, list(floors.values()), np.random.default_rng([settings.seed, number]), progress
    )
    others = cores_of_others(before, mark_load())
    for item in prepared:
        item.other_cores_busy = others
        _recheck(item)
        floor = floors.get(item.config.dtype)
        usable = floor if floor is not None and floor.samples_ns and not floor.failure else None
        yield item.index, _row(info, item, usable, settings)


def _prepare(
    backend: Backend, index: int, config: MatmulConfig, settings: Settings, session: Session | None
) -> _Measured:
    """Compile, place, run once, check the result, warm up.

    Raises:
        MeasurementError: Too large for the memory, refused by the device, or wrong.
    """
    _require_memory(config)
    executable = backend.compile(config)
    a, b = make_inputs(config, settings.seed)
    step = make_step(executable, executable.place(a, b))
    output: list[object] = []
    (first_run_ns,) = sample(lambda: output.append(step()), 1)
    report = executable.report
    check = _check(executable, output[0], a, b, config, settings)
    warm = warm_up(step, first_run_ns=first_run_ns, max_seconds=settings.max_seconds, runs=settings.warmup)
    estimate_ns = float(np.median(warm.samples_ns[-10:])) if warm.samples_ns else float(first_run_ns)

    def recheck() -> NumericalCheck:
        return _check(executable, step(), a, b, config, settings)

    item = _Measured(
        index, config, report, step, recheck, first_run_ns, list(warm.samples_ns), warm.steady, check, estimate_ns
    )
    if session is not None:
        session.record(
            {
                "event": "prepared",
                "index": index,
                "compile_ns": report.duration_ns,
                "cache": report.cache.value,
                "first_run_ns": first_run_ns,
                "warmup_ns": item.warmup_ns,
                "steady": warm.steady,
            }
        )
        _restore(item, session.taken.get(index))
    return item


def _check(
    executable: Executable,
    output: object,
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    config: MatmulConfig,
    settings: Settings,
) -> NumericalCheck:
    """Fetch a result and compare it with the reference.

    Raises:
        MeasurementError: It is wrong, or of another type than the executable said.
    """
    report = executable.report
    result = executable.fetch(output)
    if result.dtype.name != report.out_dtype:
        raise MeasurementError(
            f"wrong result: its type is {result.dtype.name}, not {report.out_dtype} as the device said"
        )
    check = check_result(result, a, b, compute_dtype=report.compute_dtype, in_dtype=config.dtype, seed=settings.seed)
    if not check.passed:
        raise MeasurementError(f"wrong result: {check.reason}")
    return check


def _recheck(item: _Measured) -> None:
    """Check a result from after the last sample: a device may go wrong once it is warm."""
    if item.failure:
        return
    try:
        last = item.recheck()
    except Exception as error:  # noqa: BLE001  # SDKs raise what they like; each means that this row failed
        item.failure = f"after {len(item.samples_ns)} samples: {describe_failure(error)}"
        return
    item.check = max(item.check, last, key=lambda check: check.error_over_mass)


def _restore(item: _Measured, taken: Taken | None) -> None:
    """Take over what an earlier, killed process measured; its compile and first run are the ones that were cold."""
    if taken is None or not taken.prepared:
        return
    item.samples_ns, item.sample_round = list(taken.samples_ns), list(taken.sample_round)
    item.first_run_ns = taken.prepared["first_run_ns"]
    item.compiled = CompileReport(
        taken.prepared["compile_ns"],
        type(item.compiled.cache)(taken.prepared["cache"]),
        item.compiled.compute_dtype,
        item.compiled.out_dtype,
    )
    item.sessions = taken.sessions + 1
    item.spent_ns = sum(taken.samples_ns)


def _prepare_floors(backend: Backend, prepared: Sequence[_Measured], settings: Settings) -> dict[str, _Measured]:
    """A 1x1x1 matmul per dtype in the block; a device that cannot run one has no floor."""
    floors = {}
    for dtype in dict.fromkeys(item.config.dtype for item in prepared):
        try:
            floors[dtype] = _prepare(backend, -1, MatmulConfig(1, 1, 1, dtype), settings, None)
        except Exception:  # noqa: BLE001, S112  # rows without a floor say so by an empty column
            continue
    return floors


def _sample_rounds(
    backend: Backend,
    session: Session,
    prepared: Sequence[_Measured],
    floors: Sequence[_Measured],
    rng: np.random.Generator,
    progress: Progress,
) -> None:
    settings = session.plan.settings
    slice_ns = float(FIRST_SLICE_NS)
    for rounds_done in range(1_000_000):
        active = [item for item in prepared if not item.done]
        if not active:
            return
        round_number = session.next_round
        session.next_round += 1
        progress(f"round {rounds_done + 1}, {len(active)} of {len(prepared)} open")
        for position in rng.permutation(len(active) + len(floors)):
            if position < len(active):
                item = active[position]
                sample_chunk(
                    backend.compile_count, item, round_number, chunk_size(item, settings, rounds_done, slice_ns)
                )
                session.record(
                    {
                        "event": "chunk",
                        "index": item.index,
                        "round": round_number,
                        "samples_ns": item.samples_ns[-_taken_in(item, round_number) :]
                        if _taken_in(item, round_number)
                        else [],
                    }
                )
                item.done = bool(item.failure) or is_done(item, settings)
            else:
                sample_chunk(backend.compile_count, floors[position - len(active)], round_number, FLOOR_CHUNK)
        slice_ns *= SLICE_GROWTH


def _taken_in(item: _Measured, round_number: int) -> int:
    return item.sample_round.count(round_number)


def _row(info: DeviceInfo, item: _Measured, floor: _Measured | None, settings: Settings) -> ResultRow:
    if item.failure:
        return _failed_row(info, item.config, settings, item.failure)
    statistics = item.statistics(resamples=1000, seed=settings.seed)
    floor_statistics = floor.statistics(resamples=200, seed=settings.seed) if floor is not None else None
    warnings = diagnose(
        item.config,
        info.name,
        np.array(item.samples_ns),
        np.array(item.sample_round),
        statistics,
        precision=settings.precision,
        max_seconds=settings.max_seconds,
        floor=floor_statistics,
        compiles_while_timed=item.compiles_while_timed,
        steady=item.steady is not False,
        other_cores_busy=item.other_cores_busy,
    )
    compiled = item.compiled
    return ResultRow(
        **common_columns(info, item.config, settings),
        status="ok",
        latency_ms=statistics.median_ns / 1e6,
        compute_dtype=compiled.compute_dtype,
        out_dtype=compiled.out_dtype,
        latency_ci_low_ms=_finite(statistics.ci_low_ns),
        latency_ci_high_ms=_finite(statistics.ci_high_ns),
        latency_mean_ms=statistics.mean_ns / 1e6,
        latency_stdev_ms=statistics.stdev_ns / 1e6,
        latency_min_ms=statistics.min_ns / 1e6,
        latency_p05_ms=statistics.p05_ns / 1e6,
        latency_p25_ms=statistics.p25_ns / 1e6,
        latency_p75_ms=statistics.p75_ns / 1e6,
        latency_p95_ms=statistics.p95_ns / 1e6,
        latency_p99_ms=statistics.p99_ns / 1e6,
        latency_max_ms=statistics.max_ns / 1e6,
        samples=statistics.samples,
        rounds=statistics.rounds,
        compile_ms=compiled.duration_ns / 1e6 if compiled.duration_ns else None,
        compile_cache=compiled.cache.value,
        first_run_ms=item.first_run_ns / 1e6,
        warmup_runs=len(item.warmup_ns),
        warmup_steady=item.steady,
        rewarm_runs=item.rewarm_runs,
        other_cores_busy=item.other_cores_busy,
        dispatch_floor_ms=floor_statistics.median_ns / 1e6 if floor_statistics else None,
        dispatch_share=min(1.0, floor_statistics.median_ns / statistics.median_ns) if floor_statistics else None,
        includes_transfers=info.includes_transfers,
        gflop_per_s=item.config.model_flops / statistics.median_ns,
        max_abs_error=item.check.max_abs_error,
        error_over_mass=item.check.error_over_mass,
        tolerance_over_mass=item.check.tolerance_over_mass,
        check_method=item.check.method,
        warnings=";".join(warning.code for warning in warnings),
        warning_details=" | ".join(f"{warning.message}; next: {warning.next_command}" for warning in warnings),
        sessions=item.sessions,
        samples_ns=tuple(item.samples_ns),
        sample_round=tuple(item.sample_round),
        warmup_ns=tuple(item.warmup_ns),
        floor_samples_ns=tuple(floor.samples_ns) if floor is not None else (),
    )


def _failed_row(info: DeviceInfo, config: MatmulConfig, settings: Settings, error: str) -> ResultRow:
    return ResultRow(**common_columns(info, config, settings), status="failed", latency_ms=None, error=error)


def common_columns(info: DeviceInfo, config: MatmulConfig, settings: Settings) -> dict[str, Any]:
    """What a row says of its workload and device, whether or not anything was measured."""
    model = tile_model(settings.tile_model)
    tiling = tile_matmul(config, model)
    work = plan_work([config], model)
    return {
        "M": config.M,
        "K": config.K,
        "N": config.N,
        "num_tiles_M": tiling.num_tiles_M,
        "num_tiles_K": tiling.num_tiles_K,
        "num_tiles_N": tiling.num_tiles_N,
        "total_tiles": tiling.total_tiles,
        "device": info.name,
        "is_simulated": info.is_simulated,
        "dtype": config.dtype,
        "name": config.name,
        "model_flops": config.model_flops,
        "operand_bytes": config.operand_bytes,
        "tile_model": model.name,
        "tile_array_utilisation": float(work["array_utilisation"][0]),
        "seed": settings.seed,
        "measured_at": now(),
    }


def _blocks(indices: Sequence[int], configs: Sequence[MatmulConfig]) -> Iterator[list[int]]:
    """Neighbours together, at most `BLOCK_SIZE` at a time, and never more than half of the free memory."""
    limit = _BLOCK_MEMORY_SHARE * available_memory_bytes()
    block: list[int] = []
    held = 0
    for index in indices:
        needed = bytes_needed(configs[index]) - bytes_needed(_SMALLEST)
        if block and (len(block) == BLOCK_SIZE or held + needed > limit):
            yield block
            block, held = [], 0
        block.append(index)
        held += needed
    if block:
        yield block


def _require_memory(config: MatmulConfig) -> None:
    needed, available = bytes_needed(config), available_memory_bytes()
    if needed > available:
        raise MeasurementError(
            f"{config.shape_text} {config.dtype} needs {needed} bytes ({format_bytes(needed)}) of memory and "
            f"{available} ({format_bytes(available)}) are available; choose a smaller shape"
        )


def _finite(value_ns: float) -> float | None:
    return value_ns / 1e6 if np.isfinite(value_ns) else None
