"""Measure, capture and simulate what was built, by one method for each kind of device, and compare.

Host devices are timed by the host's clock in interleaved rounds of fresh processes. On Neuron each round captures every NEFF once
with the vendor's profiler, on the same inputs. On `sim:*` the Profile comes from the simulator.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from npuscope.analysis.analyze import Analysis, analyze
from npuscope.analysis.kernel_build import SIM, check_device, host_request, is_host, row_of, steady_figures
from npuscope.analysis.kernel_captures import capture_rounds
from npuscope.analysis.kernel_comparison import KernelComparison, compare_runs
from npuscope.analysis.kernel_row import KernelRow, KernelRun
from npuscope.backends.processes import module_words, run_child
from npuscope.errors import FormatError, MeasurementError, UsageError
from npuscope.formats.artifact import read_profile
from npuscope.formats.file_hash import file_sha256
from npuscope.formats.hlo import HloModule
from npuscope.formats.hlo_reader import read_hlo
from npuscope.formats.kernel_folder import (
    MANIFEST_NAME,
    Built,
    InputSet,
    KernelManifest,
    check_files,
    read_inputs,
)
from npuscope.measure.kernel_runs import DEFAULT_ROUNDS, DEFAULT_TIME_LIMIT_S, KernelMeasurement, measure_kernels
from npuscope.measure.settings import Settings
from npuscope.profile.tables import Profile
from npuscope.simulate.kernel_worker import MODULE as SIMULATOR
from npuscope.simulate.kernel_worker import kernel_source
from npuscope.simulate.validation.stored import error_statement

Tell = Callable[[str], None]
_ENGINES: Final = {
    "Tensor": "tensor",
    "Vector": "vector",
    "Scalar": "scalar",
    "GpSimd": "gpsimd",
    "Sync": "sync",
    "DMA": "dma",
}


@dataclass(frozen=True, slots=True)
class StudyRequest:
    """How to profile what a build folder holds."""

    settings: Settings
    rounds: int = DEFAULT_ROUNDS
    """Fresh processes on hosts, captures on Neuron."""
    nth_execution: int = 2
    """Which execution a capture is of."""
    time_limit_s: float | None = None
    compile_cache: Path | None = None

    @property
    def host_limit_s(self) -> float:
        """Most time for one answer of a host's process, or for a simulation."""
        return self.time_limit_s or DEFAULT_TIME_LIMIT_S


@dataclass(frozen=True, slots=True)
class KernelStudy:
    """Everything that was found."""

    runs: tuple[KernelRun, ...]
    comparisons: tuple[KernelComparison, ...]
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """For JSON, with the keys that scripts rely on first."""
        told = [asdict(item) for item in self.comparisons]
        return {
            "results": [asdict(run.row) for run in self.runs],
            "comparison": told[0] if told else None,
            "comparisons": told,
            "captures": [capture for run in self.runs for capture in run.captures],
            "notes": self.notes,
        }


def run_study(
    root: Path, manifest: KernelManifest, request: StudyRequest, out: Path, tell: Tell = lambda _: None
) -> KernelStudy:
    """Profile everything that was built.

    Args:
        root: The build folder.
        manifest: Its own.
        request: How.
        out: Where captures and Profiles go: `captures/NAME`, `profiles/NAME`.
        tell: Is called with a line about what is done now.

    Raises:
        FormatError: A file of the build is missing or has changed.
        UnavailableError: A device or the profiler cannot be had, or another process holds the device.
    """
    check_build(root, manifest)
    runs: dict[str, KernelRun] = {
        built.stem: KernelRun(row_of(built, status="failed", error=built.error))
        for built in manifest.builds
        if built.status != "built"
    }
    for config in dict.fromkeys(built.config for built in manifest.builds):
        able = [built for built in manifest.builds if built.config == config and built.status == "built"]
        inputs = manifest.inputs_of(config)
        runs |= _on_hosts(root, [built for built in able if is_host(built.device)], inputs, request, tell)
        for built in able:
            if built.device.startswith(SIM):
                tell(f"simulating {built.name} for {config.text}")
                runs[built.stem] = _simulated(root, built, inputs, request, out)
        captured = [built for built in able if not is_host(built.device) and not built.device.startswith(SIM)]
        if captured:
            runs |= capture_rounds(
                root,
                captured,
                inputs,
                out,
                _with_figures,
                tell,
                rounds=request.rounds,
                nth_execution=request.nth_execution,
                time_limit_s=request.time_limit_s,
                seed=request.settings.seed,
            )
    ordered = [runs[built.stem] for built in manifest.builds]
    comparisons = compare_runs(ordered, seed=request.settings.seed)
    return KernelStudy(tuple(ordered), comparisons, _notes(ordered))


def check_build(root: Path, manifest: KernelManifest) -> None:
    """Check that what was built, and the sources of it, are as they were.

    Raises:
        FormatError: A file is missing or has changed.
    """
    for inputs in manifest.inputs:
        read_inputs(root, inputs)
    for built in manifest.builds:
        _check_device(root, built)
        check_files(root, built.folder, built.files)
        place = kernel_source(built.target).rpartition(":")[0]
        if built.status == "built" and built.source_sha256 and file_sha256(Path(place)) != built.source_sha256:
            raise FormatError(
                place, expected=f"the source that {built.name} was built from", found="another", remedy="build it again"
            )


def _check_device(root: Path, built: Built) -> None:
    try:
        is_known = check_device(built.device) == built.device
    except UsageError:
        is_known = False
    if not is_known:
        raise FormatError(
            root / MANIFEST_NAME, where=f"builds, {built.name}", expected="a device of npuscope", found=built.device
        )


def _on_hosts(
    root: Path, builds: Sequence[Built], inputs: InputSet, request: StudyRequest, tell: Tell
) -> dict[str, KernelRun]:
    """All of them together, so that they share rounds; by stem."""
    if not builds:
        return {}
    measured = measure_kernels(
        [(built.name, host_request(built, request.compile_cache)) for built in builds],
        root / inputs.folder,
        request.settings,
        lambda text: tell(f"{inputs.config.text}: {text}"),
        rounds=request.rounds,
        time_limit_s=request.host_limit_s,
    )
    return {
        built.stem: replace(_measured(built, result), program=_program(root, built))
        for built, result in zip(builds, measured, strict=True)
    }


def _program(root: Path, built: Built) -> HloModule | None:
    return read_hlo(root / built.folder / built.hlo) if built.hlo else None


def _measured(built: Built, result: KernelMeasurement) -> KernelRun:
    steady, check = result.steady, result.check
    if result.status != "ok" or steady is None or check is None:
        return KernelRun(row_of(built, status="failed", error=result.error))
    row = row_of(
        built,
        first_ms=result.first_ms,
        **steady_figures(steady, result.round_medians_ns),
        samples=len(result.samples_ns),
        dispatch_floor_ms=result.dispatch_floor_ms,
        dispatches=result.dispatches,
        max_abs_error=check.max_abs_error,
        error_over_mass=check.error_over_mass,
        is_checked=True,
        check_of="the first result and one after the last sample, of every round",
        inputs_sha256=result.inputs_sha256,
        bound=_host_bound(steady.value / 1e6, result),
        warnings=result.warnings,
    )
    return KernelRun(row)


def _host_bound(steady_ms: float, result: KernelMeasurement) -> str:
    floor_ms = (result.dispatch_floor_ms or 0.0) * (result.dispatches or 1.0)
    return "dispatch" if floor_ms >= 0.5 * steady_ms else "execution"


def _simulated(root: Path, built: Built, inputs: InputSet, request: StudyRequest, out: Path) -> KernelRun:
    """A prediction, in a child process: a kernel may hang."""
    folder = out / "profiles" / built.stem
    asked = {
        "target": built.target,
        "device": built.device,
        "lnc": built.lnc,
        "config": asdict(built.config),
        "inputs": str((root / inputs.folder).resolve()),
        "flat_tokens": built.flat_tokens,
        "profile": str(folder.resolve()),
    }
    try:
        answer = _ask_simulator(asked, request.host_limit_s)
    except MeasurementError as error:
        return KernelRun(row_of(built, status="failed", error=str(error)))
    if not answer["check"]["passed"]:
        return KernelRun(row_of(built, status="failed", error=f"wrong result: {answer['check']['reason']}"))
    profile = read_profile(folder)
    row = row_of(
        built,
        steady_ms=answer["total_time_ns"] / 1e6,
        samples=1,
        rounds=1,
        max_abs_error=answer["check"]["max_abs_error"],
        error_over_mass=answer["check"]["error_over_mass"],
        is_checked=True,
        check_of="the simulated kernel's result",
        inputs_sha256=answer["inputs_sha256"],
        profile=f"profiles/{built.stem}",
        compiler_version=answer["model"],
        warnings=tuple(answer["notes"]),
    )
    row = _with_figures(row, profile)
    return KernelRun(replace(row, model_error=error_statement(row.bound)), profile=profile)


def _ask_simulator(asked: dict[str, Any], limit_s: float) -> dict[str, Any]:
    """What the child says.

    Raises:
        MeasurementError: The kernel cannot be simulated, or not in time.
    """
    with tempfile.TemporaryDirectory(prefix="npuscope-simulate-") as scratch:
        question, told = Path(scratch) / "request.json", Path(scratch) / "answer.json"
        question.write_text(json.dumps(asked), "utf-8")
        words = module_words(SIMULATOR, str(question), str(told))
        try:
            ended = run_child(words, env=os.environ, timeout_s=limit_s)
        except MeasurementError:
            raise MeasurementError(
                f"its simulation took longer than {limit_s:g} s and was ended; allow more with --time-limit"
            ) from None
        if not told.is_file():
            raise MeasurementError(f"its simulation {ended.told()}; its last words: {ended.last_words()}")
        answer: dict[str, Any] = json.loads(told.read_text("utf-8"))
    if "error" in answer:
        is_unpacked = "unpack" in str(answer["error"]) and not asked["flat_tokens"]
        hint = "; a kernel that takes hidden states as [b * s, h] needs --flat-tokens" if is_unpacked else ""
        raise MeasurementError(f"{answer['error']}{hint}")
    return answer


def _with_figures(row: KernelRow, profile: Profile) -> KernelRow:
    """A row with what its Profile tells: engines, MFU, bound."""
    analysis: Analysis = analyze(profile, rules=())
    figures: dict[str, Any] = {
        f"{_ENGINES[use.name]}_us": use.active_in_kernel_ns / 1e3 for use in analysis.engines if use.name in _ENGINES
    }
    return replace(row, bound=analysis.bound.kind, mfu=analysis.roofline.mfu, **figures)


def _notes(runs: Sequence[KernelRun]) -> tuple[str, ...]:
    rows = [run.row for run in runs]
    notes = []
    if any(row.is_simulated for row in rows):
        notes.append("sim: figures are predictions of device time; no device ran them, and the host is left out")
    slow = sorted({row.implementation for row in rows if row.host_recompilations})
    if slow:
        notes.append(
            f"calls of {', '.join(slow)} compile again every time: that is what the host waits for; npuscope cache doctor says why"
        )
    floors = [row.dispatch_floor_ms for row in rows if row.dispatch_floor_ms is not None and row.bound == "dispatch"]
    if floors:
        notes.append(f"dispatch alone takes up to {1e3 * median(floors):.1f} µs: larger sizes tell more of the kernels")
    return tuple(notes)
