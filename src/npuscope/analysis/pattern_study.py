"""One computation written in several ways, on several devices: measured, simulated, explained, compared, written down.

The study of the public analyser that this follows compared three different computations. Here all patterns compute the same
function unless asked otherwise, and what is different work is shown and never ranked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from npuscope.analysis import pattern_scaling
from npuscope.analysis.pattern_comparison import PatternComparison, compare_groups
from npuscope.analysis.pattern_scaling import ScalingStudy
from npuscope.analysis.pattern_trace import Latency, PatternTrace, TraceAnalysis
from npuscope.analysis.questions import Bottlenecks, analyze, bottlenecks
from npuscope.backends.programs import (
    PROGRAM_DEVICES,
    RUN_ANNOTATION,
    ProgramBackend,
    check_program_device,
    open_program_device,
)
from npuscope.errors import NpuscopeError, UsageError, unknown_name
from npuscope.formats.hlo_reader import parse_hlo
from npuscope.measure.program_runs import DEFAULT_PROCESSES, measure_in_processes
from npuscope.measure.programs import ProbeResult, ProgramMeasurement, probe_compile
from npuscope.measure.settings import Settings
from npuscope.profile.tables import Profile
from npuscope.simulate.hlo.simulation import HloSimulation, simulate_module
from npuscope.simulate.neuroncore.devices import SIMULATED_CHIPS, load_device
from npuscope.simulate.neuroncore.options import ModelOptions
from npuscope.workloads.patterns import PatternConfig, check_outputs, make_inputs, work_key

Tell = Callable[[str], None]
RISKY: Final = frozenset({"nested-vmap"})
"""Patterns that compilers have been seen to fail or hang on: compiled first in a process of their own."""
SIM: Final = "sim:"
_HOST: Final = "jax:cpu"
"""Where programs for a simulated device are traced, and run once to see what they compute."""


@dataclass(frozen=True, slots=True)
class StudyRequest:
    """What to study."""

    devices: tuple[str, ...]
    configs: tuple[tuple[str, PatternConfig], ...]
    """Name of the length (`small`), and the program."""
    settings: Settings
    options: ModelOptions = field(default_factory=ModelOptions)
    time_limit_s: float = 60.0
    """Of a compiler, for programs that it may hang on."""
    compile_cache: Path | None = None
    processes: int = DEFAULT_PROCESSES
    """In which each real device is measured, one after another."""


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One program on one device."""

    device: str
    is_simulated: bool
    pattern: str
    size: str
    iterations: int
    batch: int
    features: int
    dtype: str
    same_work: bool
    """Whether all programs of the study with this length compute the same function; what is not the same is not compared."""
    work: str
    status: str
    """`ok` or `failed`."""
    error: str = ""
    compile_ms: float | None = None
    """None where nothing was compiled for the device, as for a simulated one."""
    compile_cache: str = ""
    """`hit`, `miss`, `disabled`, ...: as the framework counted."""
    first_run_ms: float | None = None
    steady_ms: float | None = None
    """Median of the steady state; of a simulated device the predicted time of one execution on it, without the host."""
    steady_ci_low_ms: float | None = None
    steady_ci_high_ms: float | None = None
    samples: int = 0
    rounds: int = 0
    dispatch_floor_ms: float | None = None
    dispatches: float | None = None
    """Executions of compiled programs per run, as counted; None where nobody counted them."""
    dispatch_basis: str = ""
    hlo_ops: int | None = None
    hlo_bytes: int | None = None
    instruction_count: int | None = None
    """Of a simulated device."""
    unlowered_share: float | None = None
    max_abs_error: float | None = None
    error_basis: str = ""
    """What the error is of."""
    bound: str = ""
    engines: dict[str, float] = field(default_factory=dict)
    """Engine, DMA or track to its active share of the kernel's window, or of the trace."""
    total_slices: int | None = None
    """Of the whole trace."""
    traced_runs: int = 0
    """Runs that the trace holds; 0 where there is no trace."""
    findings: tuple[str, ...] = ()
    """Rules that apply; the analysis file has them in full."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Studied:
    """A row with everything behind it."""

    row: StudyRow
    config: PatternConfig
    trace: PatternTrace | None
    analysis: TraceAnalysis | None
    hlo: bytes | None
    profile: Profile | None

    @property
    def stem(self) -> str:
        """Of the names of its files: `sim-trn2_scan_small`."""
        return f"{self.row.device.replace(':', '-')}_{self.row.pattern}_{self.row.size}"


@dataclass(frozen=True, slots=True)
class Study:
    """The answer to everything that was asked."""

    request: StudyRequest
    programs: tuple[Studied, ...]
    comparisons: tuple[PatternComparison, ...]
    scaling: ScalingStudy | None
    bottlenecks: Bottlenecks | None
    notes: tuple[str, ...]

    @property
    def rows(self) -> tuple[StudyRow, ...]:
        """One per device, pattern and length."""
        return tuple(item.row for item in self.programs)


def check_devices(names: Sequence[str]) -> tuple[str, ...]:
    """Device names in the form that a study takes, each once.

    Raises:
        UsageError: No such device, or it runs no programs.
    """
    checked = []
    for name in names:
        lowered = name.strip().lower()
        if lowered.startswith(SIM):
            checked.append(load_device(lowered).name)
        elif lowered in PROGRAM_DEVICES or lowered.startswith("jax:"):
            checked.append(check_program_device(lowered))
        else:
            raise unknown_name(
                "device for programs", name, [*PROGRAM_DEVICES, *(f"sim:{chip}" for chip in SIMULATED_CHIPS)]
            )
    return tuple(dict.fromkeys(checked))


def run_study(request: StudyRequest, traces_folder: Path | None = None, tell: Tell = lambda _: None) -> Study:
    """Measure and simulate every program on every device, then explain and compare.

    A program that fails is a row with its reason, and the others go on.

    Args:
        request: What to study.
        traces_folder: Where devices that have a profiler may put their traces; None traces nothing.
        tell: Is called with a line about what is done now.

    Raises:
        UsageError: A device that is none, or runs no programs.
        UnavailableError: A device that cannot be had here; another is never taken instead.
    """
    # What is simulated needs JAX to lower its programs: that it is there is known before anything takes time.
    host = open_program_device(_HOST) if any(device.startswith(SIM) for device in request.devices) else None
    programs: list[Studied] = []
    for device in request.devices:
        refused = _probe(device, request, tell)
        if device.startswith(SIM) and host is not None:
            programs += _simulated(device, host, request, refused, tell)
        else:
            folder = None if traces_folder is None else traces_folder / device.replace(":", "-")
            programs += _measured(device, request, refused, folder, tell)
    tell("comparing")
    return _concluded(request, programs)


def _probe(device: str, request: StudyRequest, tell: Tell) -> dict[PatternConfig, str]:
    """Programs that the device's compiler cannot do, with its own last words."""
    refused = {}
    for _, config in request.configs:
        if config.pattern in RISKY:
            tell(f"{device}: trying to compile {config.name}")
            probe: ProbeResult = probe_compile(
                _HOST if device.startswith(SIM) else device, config, request.time_limit_s
            )
            if not probe.ok:
                refused[config] = probe.message
    return refused


def _row(device: str, size: str, config: PatternConfig, request: StudyRequest) -> StudyRow:
    same = len({work_key(other) for _, other in request.configs if other.iterations == config.iterations}) == 1
    return StudyRow(
        device=device,
        is_simulated=device.startswith(SIM),
        pattern=config.pattern,
        size=size,
        iterations=config.iterations,
        batch=config.batch,
        features=config.features,
        dtype=config.dtype,
        same_work=same,
        work=work_key(config),
        status="ok",
    )


def _failed(row: StudyRow, config: PatternConfig, error: str, hlo: bytes | None = None) -> Studied:
    return Studied(replace(row, status="failed", error=error), config, None, None, hlo, None)


def _simulated(
    device: str, host: ProgramBackend, request: StudyRequest, refused: dict[PatternConfig, str], tell: Tell
) -> list[Studied]:
    """Predictions: JAX lowers each program, the simulator takes its HLO, the host runs it once."""
    programs = []
    for size, config in request.configs:
        row = _row(device, size, config, request)
        tell(f"{device}: {config.name}")
        if config in refused:
            programs.append(_failed(row, config, refused[config]))
            continue
        hlo = None
        try:
            executable = host.compile_program(config)
            hlo = executable.hlo
            if hlo is None:
                raise UsageError(f"{host.name} does not tell the HLO of its programs")
            inputs = make_inputs(config, request.settings.seed)
            output = executable.run(executable.place(inputs))
            executable.synchronise(output)
            check = check_outputs(config, inputs, executable.fetch(output))
            simulation = simulate_module(parse_hlo(hlo, source=config.name), device=device, options=request.options)
        except NpuscopeError as error:
            programs.append(_failed(row, config, str(error), hlo))
            continue
        programs.append(_predicted(row, config, simulation, hlo, check.max_abs_error, check.passed, host.name))
    return programs


def _predicted(
    row: StudyRow,
    config: PatternConfig,
    simulation: HloSimulation,
    hlo: bytes,
    max_abs_error: float,
    is_right: bool,
    host: str,
) -> Studied:
    trace = PatternTrace(
        pattern=config.pattern,
        size=row.size,
        iterations=config.iterations,
        device=row.device,
        is_simulated=True,
        work=row.work,
        profile=simulation.profile,
        latency=Latency(simulation.total_time_ns),
    )
    analysis = analyze(trace)
    row = replace(
        _explained(row, analysis),
        status="ok" if is_right else "failed",
        error="" if is_right else f"wrong result on {host}: the program does not compute what it should",
        steady_ms=simulation.total_time_ns / 1e6,
        dispatch_basis="not counted: the model takes one launch for granted",
        hlo_ops=simulation.op_count,
        hlo_bytes=simulation.hlo_bytes,
        instruction_count=simulation.instruction_count,
        unlowered_share=simulation.unlowered_share,
        max_abs_error=max_abs_error,
        error_basis=f"the same program run by {host}: the simulator predicts times and computes nothing",
        compile_cache="not-compiled",
        traced_runs=int(is_right),
    )
    if not is_right:
        return Studied(row, config, None, None, hlo, None)
    return Studied(row, config, trace, analysis, hlo, simulation.profile)


def _measured(
    device: str,
    request: StudyRequest,
    refused: dict[PatternConfig, str],
    folder: Path | None,
    tell: Tell,
) -> list[Studied]:
    """Measurements, and what the device's own profiler saw of some runs after them."""
    able = [config for _, config in request.configs if config not in refused]
    found = {
        result.config: result
        for result in measure_in_processes(
            device,
            able,
            request.settings,
            lambda text: tell(f"{device}: {text}"),
            processes=request.processes,
            time_limit_s=request.time_limit_s,
            compile_cache=request.compile_cache if device.startswith("jax:") else None,
            traces_folder=folder,
        )
    }
    programs = []
    for size, config in request.configs:
        row = _row(device, size, config, request)
        if config in refused:
            programs.append(_failed(row, config, refused[config]))
        else:
            programs.append(_told(row, config, found[config]))
    return programs


def _told(row: StudyRow, config: PatternConfig, result: ProgramMeasurement) -> Studied:
    if result.status != "ok" or result.statistics is None:
        return _failed(row, config, result.error, result.hlo)
    statistics = result.statistics
    profile = _profile_of(result)
    has_interval = math.isfinite(statistics.ci_low_ns)
    trace = PatternTrace(
        pattern=config.pattern,
        size=row.size,
        iterations=config.iterations,
        device=row.device,
        is_simulated=False,
        work=row.work,
        profile=profile,
        latency=Latency(
            statistics.median_ns,
            statistics.ci_low_ns if has_interval else None,
            statistics.ci_high_ns if has_interval else None,
        ),
        compile_ms=result.compile_ms,
        samples_ns=result.samples_ns,
        sample_round=result.sample_round,
        path=str(result.trace or ""),
        runs=max(1, result.traced_runs),
    )
    analysis = analyze(trace)
    floor = result.dispatch_floor_ms
    row = replace(
        _explained(row, analysis),
        compile_ms=result.compile_ms,
        compile_cache=result.cache.value,
        first_run_ms=result.first_run_ms,
        steady_ms=statistics.median_ns / 1e6,
        steady_ci_low_ms=statistics.ci_low_ns / 1e6 if has_interval else None,
        steady_ci_high_ms=statistics.ci_high_ns / 1e6 if has_interval else None,
        samples=statistics.samples,
        rounds=statistics.rounds,
        dispatch_floor_ms=floor,
        dispatches=result.dispatches,
        dispatch_basis=_dispatch_basis(result),
        max_abs_error=result.max_abs_error,
        error_basis="the device's result against float64",
        traced_runs=result.traced_runs,
        bound=_host_bound(analysis, statistics.median_ns / 1e6, floor),
        warnings=result.warnings,
    )
    if result.hlo is not None:
        module = parse_hlo(result.hlo, source=config.name)
        row = replace(row, hlo_ops=module.op_count, hlo_bytes=module.size_bytes)
    return Studied(row, config, trace, analysis, result.hlo, profile)


def _dispatch_basis(result: ProgramMeasurement) -> str:
    if result.dispatches is None:
        return "the device does not tell"
    return "counted in a trace of the device's profiler" if result.trace is not None else "counted by the framework"


def _profile_of(result: ProgramMeasurement) -> Profile | None:
    if result.trace is None:
        return None
    from npuscope.formats.artifact import read_profile

    return read_profile(result.trace)


_DISPATCH_BOUND: Final = 0.5
"""Share of a latency that an empty program takes too, from which on dispatch is what limits it."""


def _host_bound(analysis: TraceAnalysis, steady_ms: float, floor_ms: float | None) -> str:
    """What limits a measured latency: an NPU's profile tells; else whether an empty program takes as long."""
    if analysis.bound and analysis.bound != "unknown":
        return analysis.bound
    if floor_ms is None:
        return "unknown"
    return "dispatch" if floor_ms >= _DISPATCH_BOUND * steady_ms else "execution"


def _explained(row: StudyRow, analysis: TraceAnalysis) -> StudyRow:
    """What the trace shows; the host's thread that only waits for our runs is no engine."""
    ours = {use.track for use in analysis.operations if use.name == RUN_ANNOTATION}
    return replace(
        row,
        bound=analysis.bound,
        engines={name: share for name, share in analysis.engine_shares.items() if name not in ours},
        total_slices=analysis.total_slices,
        findings=tuple(finding.rule for finding in analysis.findings),
    )


def _concluded(request: StudyRequest, programs: Sequence[Studied]) -> Study:
    """Compare, fit, and gather what to act on."""
    explained = [item for item in programs if item.trace is not None and item.analysis is not None]
    traces = [item.trace for item in explained if item.trace is not None]
    analyses = [item.analysis for item in explained if item.analysis is not None]
    seed = request.settings.seed
    comparisons = compare_groups(traces, seed=seed, analyses=analyses) if len(traces) > 1 else ()
    notes = []
    if any(item.row.is_simulated for item in programs):
        notes.append(
            "sim: figures are predictions of device time; nothing was measured on such a device, and the host is left out"
        )
    if not all(item.row.same_work for item in programs):
        notes.append(
            "the patterns compute different functions (--as-published): figures stand side by side and are not compared"
        )
    return Study(
        request,
        tuple(programs),
        tuple(comparisons),
        pattern_scaling.scaling(traces, analyses=analyses) if traces else None,
        bottlenecks(traces, analyses=analyses) if traces else None,
        tuple(notes),
    )


def document(study: Study) -> dict[str, Any]:
    """For JSON, with the keys that scripts rely on first."""
    request = study.request
    return {
        "results": [_row_document(row) for row in study.rows],
        "same_work": all(row.same_work for row in study.rows),
        "comparisons": [comparison.document() for comparison in study.comparisons],
        "scaling": study.scaling.document() if study.scaling is not None else None,
        "bottlenecks": study.bottlenecks.document() if study.bottlenecks is not None else None,
        "conditions": {
            "devices": request.devices,
            "patterns": list(dict.fromkeys(config.pattern for _, config in request.configs)),
            "lengths": {size: config.iterations for size, config in request.configs},
            "batch": request.configs[0][1].batch,
            "features": request.configs[0][1].features,
            "dtype": request.configs[0][1].dtype,
            "as_published": request.configs[0][1].as_published,
            "seed": request.settings.seed,
        },
        "notes": study.notes,
    }


def _row_document(row: StudyRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}
