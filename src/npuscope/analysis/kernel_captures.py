"""Rounds of captures of NEFFs on Neuron, interleaved, each of a steady execution on the same inputs. It has not met the hardware."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from npuscope.analysis.analyze import analyze
from npuscope.analysis.kernel_build import row_of, steady_figures
from npuscope.analysis.kernel_neff import Array, KernelNeff
from npuscope.analysis.kernel_row import KernelRow, KernelRun
from npuscope.backends.neff_capture import NeffCapture
from npuscope.backends.neuron_tools import DEFAULT_TIMEOUT_S, PROFILE, find_profiler
from npuscope.backends.neuron_view import VIEW_TIMEOUT_S, show_session, view_capture, view_name
from npuscope.errors import FormatError, MeasurementError, NpuscopeError
from npuscope.formats.artifact import read_profile
from npuscope.formats.capture import read_capture
from npuscope.formats.kernel_folder import Built, InputSet, read_inputs
from npuscope.measure.statistics import median_of_rounds
from npuscope.profile.folder import write_profile
from npuscope.profile.tables import Profile
from npuscope.workloads.dtypes import numpy_dtype
from npuscope.workloads.mlp import MlpCheck, check_mlp

Tell = Callable[[str], None]
Figures = Callable[[KernelRow, Profile], KernelRow]
_FIRST_ROUND: Final = 1
"""Saves the outputs: a result is checked once, what a NEFF computes does not depend on the round."""


@dataclass(slots=True)
class _Captured:
    """A NEFF while it is captured."""

    built: Built
    neff: KernelNeff
    profiles: list[Profile] = field(default_factory=list)
    times_ns: list[float] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    check: MlpCheck | None = None
    check_of: str = ""
    failure: str = ""

    def attempt(self, step: Callable[..., None], *arguments: object) -> None:
        """A failure is the NEFF's own, and ends its part."""
        if self.failure:
            return
        try:
            step(self, *arguments)
        except (MeasurementError, FormatError) as error:
            self.failure = str(error)


def capture_rounds(
    root: Path,
    builds: Sequence[Built],
    inputs: InputSet,
    out: Path,
    figures: Figures,
    tell: Tell,
    *,
    rounds: int,
    nth_execution: int,
    time_limit_s: float | None,
    seed: int,
) -> dict[str, KernelRun]:
    """Capture each NEFF once a round, in seeded random order; what comes of it by the stem of the build.

    Args:
        root: The build folder.
        builds: With a NEFF each, of the same sizes.
        inputs: Of these sizes.
        out: Captures go to `captures/NAME`, the Profile of the median one to `profiles/NAME`.
        figures: Adds to a row what a Profile tells.
        tell: Is called with a line about what is done now.
        rounds: How many captures of each.
        nth_execution: Which execution each capture is of.
        time_limit_s: Most time for one run of the profiler.
        seed: Of the order.

    Raises:
        UnavailableError: No profiler, or another process holds the device.
        FormatError: An input has changed.
    """
    profiler = find_profiler()
    arrays = read_inputs(root, inputs)
    limit_s = time_limit_s or DEFAULT_TIMEOUT_S
    everyone = [
        _Captured(
            built,
            KernelNeff(root, built, inputs, out / "captures" / built.stem, nth_execution, profiler, limit_s),
        )
        for built in builds
    ]
    for item in everyone:
        tell(f"{inputs.config.text}: finding which input of {item.built.name} is which")
        item.attempt(_settle, arrays)
    rng = np.random.default_rng(seed)
    for number in range(1, rounds + 1):
        for at in rng.permutation(len(everyone)):
            item = everyone[at]
            tell(f"{inputs.config.text}: capture {number} of {rounds} of {item.built.name}")
            item.attempt(_capture, arrays, out, number)
    return {item.built.stem: _run(root, item, inputs, arrays, out, figures, seed) for item in everyone}


def _settle(item: _Captured, arrays: Sequence[Array]) -> None:
    item.notes += item.neff.settle_bindings(arrays)


def _capture(item: _Captured, arrays: Sequence[Array], out: Path, number: int) -> None:
    """One capture, read; of the first round the result is checked."""
    built = item.built
    made = item.neff.capture(f"-round{number}", save_output=number == _FIRST_ROUND)
    profile = _profile(made, item.neff.folder)
    kernel = analyze(profile, rules=()).kernel_time
    if kernel is None:
        raise MeasurementError(f"{made.ntff} holds no events: there is no time of the kernel in it")
    if kernel.is_cold:
        later = item.neff.nth_execution + 1
        raise MeasurementError(
            f"{made.ntff} holds the start-up of a first execution; capture a later one with --nth-exec {later}"
        )
    item.profiles.append(profile)
    item.times_ns.append(kernel.ns)
    item.records.append(
        {
            "implementation": built.name,
            "config": built.config.text,
            "round": number,
            "ntff": str(made.ntff.relative_to(out)),
            "execution": made.execution,
            "kernel_time_ns": kernel.ns,
            "kernel_time_basis": kernel.basis,
            "session_duration_ns": _session_ns(made),
            "command": made.command,
        }
    )
    item.notes += [note for note in made.notes if note not in item.notes]
    if number == _FIRST_ROUND:
        _check_output(item, made, arrays)


def _profile(made: NeffCapture, folder: Path) -> Profile:
    """The Profile of a capture with its NEFF: by our reader, else by the vendor's `view` where ours does not know the version.

    Raises:
        FormatError: Neither can read it; the message is our reader's.
    """
    try:
        return read_capture(made.ntff, [made.neff])
    except FormatError as error:
        viewed = folder / view_name(made.ntff.stem, "parquet")
        try:
            view_capture(
                made.neff,
                made.ntff,
                viewed,
                output_format="parquet",
                tool=made.profiler,
                timeout_s=VIEW_TIMEOUT_S,
            )
            return read_profile(viewed)
        except NpuscopeError:
            raise error from None


def _session_ns(made: NeffCapture) -> float | None:
    """What the vendor's `show-session` says that the execution took, on its slowest core; None of a tool that has no such command.

    It stands beside our own reading of the capture, and is no figure of a comparison.
    """
    if made.profiler.interface != PROFILE:
        return None
    try:
        rows = show_session(made.ntff, tool=made.profiler, timeout_s=VIEW_TIMEOUT_S)
    except NpuscopeError:
        return None
    return max((row.duration_ns for row in rows if row.duration_ns is not None), default=None)


def _check_output(item: _Captured, made: NeffCapture, arrays: Sequence[Array]) -> None:
    """Compare the saved result with float64, where one of the right size was saved."""
    saved = item.neff.saved_result(made)
    if saved is None:
        item.notes.append("the profiler saved no output of the result's size: the results of the captures are unknown")
        return
    path, result = saved
    item.check = check_mlp(item.built.config, arrays, result)
    item.check_of = f"{path.name}, saved by the profiler"
    if not item.check.passed:
        raise MeasurementError(f"wrong result: {item.check.reason} ({path})")


def _run(
    root: Path,
    item: _Captured,
    inputs: InputSet,
    arrays: Sequence[Array],
    out: Path,
    figures: Figures,
    seed: int,
) -> KernelRun:
    """The row, from all captures; its engines from the one with the median time."""
    built = item.built
    row = _row(built, inputs)
    failure = item.failure or _check_host_run(root, item, arrays)
    if failure:
        return KernelRun(replace(row, status="failed", error=failure), captures=tuple(item.records))
    steady = median_of_rounds(item.times_ns, seed=seed)
    profile = item.profiles[int(np.argsort(item.times_ns, kind="stable")[len(item.times_ns) // 2])]
    write_profile(profile, out / "profiles" / built.stem)
    row = replace(
        row,
        **steady_figures(steady, item.times_ns),
        samples=steady.rounds,
        max_abs_error=item.check.max_abs_error if item.check else None,
        error_over_mass=item.check.error_over_mass if item.check else None,
        is_checked=item.check is not None,
        check_of=item.check_of,
        profile=f"profiles/{built.stem}",
        device_description=profile.device,
        notes=tuple(item.notes),
    )
    return KernelRun(figures(row, profile), profile=profile, captures=tuple(item.records))


def _row(built: Built, inputs: InputSet) -> KernelRow:
    run = built.host_run
    return row_of(
        built,
        first_ms=run.first_call_ms if run else None,
        host_ms=median(run.samples_ns) / 1e6 if run and run.samples_ns else None,
        host_recompilations=run.recompilations_per_call if run else None,
        inputs_sha256=inputs.sha256,
    )


def _check_host_run(root: Path, item: _Captured, arrays: Sequence[Array]) -> str:
    """Compare the result of the call through the framework, where no capture saved one; '' where it is right or there is none."""
    built = item.built
    if item.check is not None or built.host_run is None or not built.host_run.output:
        return ""
    path = root / built.folder / built.host_run.output
    try:
        wide = np.load(path, allow_pickle=False)
        result = np.asarray(wide).astype(numpy_dtype(built.config.dtype))
    except (OSError, ValueError, EOFError) as error:
        return f"{path} cannot be read: {error}"
    result = built.config.result_of(result, flat_tokens=built.flat_tokens)
    item.check = check_mlp(built.config, arrays, result)
    item.check_of = f"{path.name}, of the last call through the framework"
    return "" if item.check.passed else f"wrong result: {item.check.reason} ({path})"
