"""Programs measured on a device: compiled, checked, warmed up, sampled in interleaved rounds, and traced after that.

What may hang or crash a compiler is first compiled in a child process, under a time limit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from npuscope.backends.base import CacheStatus, CompileReport
from npuscope.backends.processes import module_words, run_child
from npuscope.backends.programs import ProgramBackend, ProgramExecutable
from npuscope.errors import MeasurementError, NpuscopeError, UnavailableError
from npuscope.measure.program_probe import REFUSED, UNAVAILABLE
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
from npuscope.measure.settings import Settings
from npuscope.measure.statistics import Statistics, summarise
from npuscope.units import format_ns, format_percent
from npuscope.workloads.dtypes import numpy_dtype
from npuscope.workloads.patterns import OutputCheck, PatternConfig, check_outputs, make_inputs

Progress = Callable[[str], None]
TRACED_RUNS = 3
"""Runs under the profiler, after the timed ones."""
_DISPATCH_SHARE = 0.8
"""Of a latency that an empty program takes too, from which on the figure says little of the program."""
_RECORDING_SHARE = 0.5
"""Of a latency that goes to recording on the host, from which on it says little of the device."""
_NO_PRECISION = 0.05
"""Half of the interval over the median that deserves a warning."""


@dataclass(frozen=True, slots=True)
class ProgramMeasurement:
    """One program on one device, as the host saw it."""

    config: PatternConfig
    device: str
    status: str
    """`ok` or `failed`."""
    error: str = ""
    compile_ms: float | None = None
    cache: CacheStatus = CacheStatus.UNCOUNTED
    first_run_ms: float | None = None
    warmup_runs: int = 0
    warmup_steady: bool | None = None
    statistics: Statistics | None = None
    """Of the steady state."""
    dispatch_floor_ms: float | None = None
    """Median of an empty program on the same path, in the same rounds."""
    samples_ns: tuple[int, ...] = ()
    sample_round: tuple[int, ...] = ()
    check: OutputCheck | None = None
    """The worse of the checks of the first run and of one after the last sample."""
    compiles_while_timed: int = 0
    hlo: bytes | None = None
    """Serialized HloModuleProto as the framework lowered it."""
    dispatches: float | None = None
    """Executions of compiled programs per run, counted in the trace; None where the device does not tell."""
    trace: Path | None = None
    traced_runs: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def max_abs_error(self) -> float | None:
        """Of any element of any result."""
        return None if self.check is None else self.check.max_abs_error


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Whether a compiler gets through a program."""

    ok: bool
    message: str
    """'' where it does; else what happened, with the compiler's last words."""


@dataclass(slots=True)
class _Measured:
    """A program while it is measured."""

    config: PatternConfig | None
    report: CompileReport
    step: Step
    recheck: Callable[[], OutputCheck] | None
    first_run_ns: int
    warmup_runs: int
    steady: bool | None
    check: OutputCheck | None
    estimate_ns: float
    hlo: bytes | None = None
    record: Callable[[], int | None] | None = None
    """Host time of recording one run, where each run is recorded anew."""
    samples_ns: list[int] = field(default_factory=list)
    sample_round: list[int] = field(default_factory=list)
    spent_ns: int = 0
    rewarm_runs: int = 0
    next_check: int = MIN_ROUNDS
    compiles_while_timed: int = 0
    done: bool = False
    failure: str = ""

    def statistics(self, *, resamples: int, seed: int) -> Statistics:
        return summarise(np.array(self.samples_ns), np.array(self.sample_round), resamples=resamples, seed=seed)


def measure_programs(
    backend: ProgramBackend,
    configs: Sequence[PatternConfig],
    settings: Settings,
    progress: Progress = lambda _: None,
    *,
    traces_folder: Path | None = None,
) -> tuple[ProgramMeasurement, ...]:
    """Measure programs together, so that they can be compared.

    Args:
        backend: The device.
        configs: What to measure; a program that fails does not stop the others.
        settings: Precision, time and seed.
        progress: Is called with a line about what is done now.
        traces_folder: Where the device's profiler may write; None traces nothing.

    Returns:
        One per config, in their order.
    """
    failed: dict[PatternConfig, ProgramMeasurement] = {}
    prepared: list[_Measured] = []
    floor = _prepare_floor(backend, configs, settings)  # first: it also takes the start of the framework
    for config in configs:
        progress(f"compiling {config.name}")
        try:
            prepared.append(_prepare(backend, config, settings))
        except Exception as error:  # noqa: BLE001  # SDKs raise what they like; each means that this program failed
            failed[config] = ProgramMeasurement(config, backend.name, "failed", describe_failure(error))
    _sample(backend, prepared, floor, settings, progress)
    found = dict(failed)
    for item in prepared:
        if item.config is not None:
            progress(f"tracing {item.config.name}")
            found[item.config] = _finish(backend, item, floor, settings, traces_folder)
    return tuple(found[config] for config in configs)


def _prepare(backend: ProgramBackend, config: PatternConfig, settings: Settings) -> _Measured:
    """Compile, place, run once, check, warm up.

    Raises:
        MeasurementError: The device refuses the program, or its result is wrong.
    """
    executable = backend.compile_program(config)
    inputs = make_inputs(config, settings.seed)
    placed = executable.place(inputs)
    step = make_step(executable, placed)
    output: list[object] = []
    (first_run_ns,) = sample(lambda: output.append(step()), 1)
    check = _checked(config, inputs, executable, output[0])

    def recheck() -> OutputCheck:
        return _checked(config, inputs, executable, step())

    item = _warmed(config, executable, step, recheck, first_run_ns, check, settings)
    item.record = lambda: executable.recording_ns(placed)
    return item


def _checked(
    config: PatternConfig, inputs: Sequence[np.ndarray], executable: ProgramExecutable, output: object
) -> OutputCheck:
    check = check_outputs(config, inputs, executable.fetch(output))
    if not check.passed:
        raise MeasurementError(f"wrong result: {check.reason}")
    return check


def _warmed(
    config: PatternConfig | None,
    executable: ProgramExecutable,
    step: Step,
    recheck: Callable[[], OutputCheck] | None,
    first_run_ns: int,
    check: OutputCheck | None,
    settings: Settings,
) -> _Measured:
    warm = warm_up(step, first_run_ns=first_run_ns, max_seconds=settings.max_seconds, runs=settings.warmup)
    estimate = float(np.median(warm.samples_ns[-10:])) if warm.samples_ns else float(first_run_ns)
    return _Measured(
        config,
        executable.report,
        step,
        recheck,
        first_run_ns,
        len(warm.samples_ns),
        warm.steady,
        check,
        estimate,
        executable.hlo,
    )


def _prepare_floor(backend: ProgramBackend, configs: Sequence[PatternConfig], settings: Settings) -> _Measured | None:
    """An empty program; a device that cannot run one has no floor, and its rows say so by an empty column."""
    dtype = next((config.dtype for config in configs), None)
    if dtype is None:
        return None
    try:
        executable = backend.compile_floor(dtype)
        step = make_step(executable, executable.place((np.ones(1, numpy_dtype(dtype)),)))
        (first_run_ns,) = sample(step, 1)
        return _warmed(None, executable, step, None, first_run_ns, None, settings)
    except Exception:  # noqa: BLE001
        return None


def _sample(
    backend: ProgramBackend,
    prepared: Sequence[_Measured],
    floor: _Measured | None,
    settings: Settings,
    progress: Progress,
) -> None:
    """Rounds in which every program that is not done is sampled once, in seeded random order.

    All go on until all are done: programs are compared by the rounds that they share.
    """
    rng = np.random.default_rng(settings.seed)
    slice_ns = float(FIRST_SLICE_NS)
    everyone = [*prepared, *([floor] if floor is not None else [])]
    for number in range(1_000_000):
        active = [item for item in prepared if not item.failure]
        if not active or all(item.done for item in active):
            return
        progress(f"round {number + 1} of {len(active)} programs")
        for position in rng.permutation(len(everyone)):
            item = everyone[position]
            count = FLOOR_CHUNK if item is floor else chunk_size(item, settings, number, slice_ns)
            sample_chunk(backend.compile_count, item, number, count)
            item.done = item.done or bool(item.failure) or (item is not floor and is_done(item, settings))
        slice_ns *= SLICE_GROWTH


def _finish(
    backend: ProgramBackend,
    item: _Measured,
    floor: _Measured | None,
    settings: Settings,
    traces_folder: Path | None,
) -> ProgramMeasurement:
    config = item.config
    assert config is not None  # noqa: S101  # only the floor has none
    if not item.failure and item.recheck is not None and item.check is not None:
        try:
            item.check = max(item.check, item.recheck(), key=lambda check: check.error_over_mass)
        except Exception as error:  # noqa: BLE001  # a device may go wrong once it is warm
            item.failure = f"after {len(item.samples_ns)} samples: {describe_failure(error)}"
    if item.failure:
        return ProgramMeasurement(config, backend.name, "failed", item.failure, hlo=item.hlo)
    statistics = item.statistics(resamples=1000, seed=settings.seed)
    floor_ms = None
    if floor is not None and floor.samples_ns and not floor.failure:
        floor_ms = float(np.median(floor.samples_ns)) / 1e6
    trace, dispatches, remarks = _traced(backend, item, config, traces_folder)
    if dispatches is None:
        dispatches = _counted(backend, item.step)
    return ProgramMeasurement(
        config=config,
        device=backend.name,
        status="ok",
        compile_ms=item.report.duration_ns / 1e6 if item.report.duration_ns else None,
        cache=item.report.cache,
        first_run_ms=item.first_run_ns / 1e6,
        warmup_runs=item.warmup_runs,
        warmup_steady=item.steady,
        statistics=statistics,
        dispatch_floor_ms=floor_ms,
        samples_ns=tuple(item.samples_ns),
        sample_round=tuple(item.sample_round),
        check=item.check,
        compiles_while_timed=item.compiles_while_timed,
        hlo=item.hlo,
        dispatches=dispatches,
        trace=trace,
        traced_runs=TRACED_RUNS if trace is not None else 0,
        warnings=(
            *timing_warnings(statistics, floor_ms, compiles_while_timed=item.compiles_while_timed, steady=item.steady),
            *_recording_warnings(item, statistics),
            *remarks,
        ),
    )


def _traced(
    backend: ProgramBackend, item: _Measured, config: PatternConfig, folder: Path | None
) -> tuple[Path | None, float | None, tuple[str, ...]]:
    """Some more runs under the profiler; what goes wrong with it fails no measurement."""
    if folder is None:
        return None, None, ()
    own = folder / config.name
    try:
        own.mkdir(parents=True, exist_ok=True)
        trace = backend.trace(item.step, own, TRACED_RUNS)
        counted = None if trace is None else backend.execution_count(trace)
    except (NpuscopeError, OSError) as error:
        return None, None, (f"no trace: {error}",)
    return trace, None if counted is None else counted / TRACED_RUNS, ()


def _counted(backend: ProgramBackend, step: Step) -> float | None:
    """Executions per run by the framework's own counter, over some more runs."""
    before = backend.device_executions()
    if before is None:
        return None
    sample(step, TRACED_RUNS)
    after = backend.device_executions()
    return None if after is None else (after - before) / TRACED_RUNS


def _recording_warnings(item: _Measured, statistics: Statistics) -> tuple[str, ...]:
    """A run whose time is little more than that of recording it tells of the host."""
    taken = [one for one in (item.record() for _ in range(TRACED_RUNS)) if one is not None] if item.record else []
    if not taken or min(taken) < _RECORDING_SHARE * statistics.median_ns:
        return ()
    return (
        f"recording a run on the host takes {format_ns(min(taken))} of the {format_ns(statistics.median_ns)}: this is the"
        " framework, not the device; capture it with npuscope capture for the device's time",
    )


def timing_warnings(
    statistics: Statistics,
    floor_ms: float | None,
    *,
    compiles_while_timed: int,
    steady: bool | None,
    more: str = "--processes 20",
) -> tuple[str, ...]:
    """What makes a latency mean less than it seems to, each with what to do; `more` is the option for more rounds."""
    found = []
    if compiles_while_timed:
        found.append(f"{compiles_while_timed} compilations while it was timed: the samples are no steady state")
    if steady is False:
        found.append("latency was still changing when the warm-up ended; give it --max-seconds 5")
    if math.isfinite(statistics.precision) and statistics.precision > _NO_PRECISION:
        found.append(
            f"the interval is {format_percent(2 * statistics.precision)} of the median wide; quiet the machine, or {more}"
        )
    if floor_ms is not None and floor_ms >= _DISPATCH_SHARE * statistics.median_ns / 1e6:
        found.append(
            f"an empty program takes {format_ns(1e6 * floor_ms)} of the {format_ns(statistics.median_ns)}:"
            " this is dispatch, not the program"
        )
    return tuple(found)


def probe_compile(device: str, config: PatternConfig, time_limit_s: float) -> ProbeResult:
    """Compile one program in a child process under a time limit.

    Args:
        device: One that `open_program_device` takes.
        config: The program.
        time_limit_s: Seconds, the start of the child included.

    Raises:
        UnavailableError: The device cannot be had.
    """
    words = module_words(
        "npuscope.measure.program_probe",
        device,
        config.pattern,
        str(config.iterations),
        str(config.batch),
        str(config.features),
        config.dtype,
        str(int(config.as_published)),
    )
    try:
        ended = run_child(words, env=os.environ, timeout_s=time_limit_s)
    except MeasurementError:
        return ProbeResult(
            ok=False,
            message=f"{device} took longer than {time_limit_s:g} s to compile {config.name} and was ended; "
            "allow more with --time-limit",
        )
    if ended.status == 0:
        return ProbeResult(ok=True, message="")
    if ended.status == UNAVAILABLE and len(lines := ended.output.splitlines()) > 1:
        raise UnavailableError(device, missing=lines[-2], remedy=lines[-1])
    if ended.status == REFUSED:  # the last line is npuscope's own, with the compiler's words in it
        return ProbeResult(ok=False, message=ended.last_words())
    return ProbeResult(
        ok=False,
        message=f"{device} cannot compile {config.name}: the compiler {ended.told()}; its last words: {ended.last_words()}",
    )
