"""Rounds of captures of NEFFs on Neuron, interleaved, each of a steady execution on the same inputs. It has not met the hardware."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.analysis.analyze import analyze
from npuscope.analysis.kernel_row import DEVICE, KernelRow, KernelRun
from npuscope.backends.neff_capture import NeffCapture, capture_neff
from npuscope.backends.neff_inputs import NamedInput, input_tensors
from npuscope.backends.neuron_tools import DEFAULT_TIMEOUT_S, Profiler, find_profiler
from npuscope.backends.neuron_view import VIEW_TIMEOUT_S, view_capture, view_name
from npuscope.errors import FormatError, MeasurementError, NpuscopeError
from npuscope.formats.artifact import read_profile
from npuscope.formats.capture import read_capture
from npuscope.formats.kernel_folder import Built, InputSet, read_inputs
from npuscope.formats.neff import read_neff
from npuscope.formats.tensor_files import read_tensor
from npuscope.measure.statistics import summarise
from npuscope.profile.folder import write_profile
from npuscope.profile.tables import Profile
from npuscope.workloads.dtypes import numpy_dtype
from npuscope.workloads.mlp import INPUT_NAMES, MlpCheck, MlpConfig, check_mlp

Tell = Callable[[str], None]
Figures = Callable[[KernelRow, Profile], KernelRow]
_FIRST_ROUND: Final = 1
"""Saves the outputs: a result is checked once, what a NEFF computes does not depend on the round."""


@dataclass(slots=True)
class _Captured:
    """A NEFF while it is captured."""

    built: Built
    profiles: list[Profile] = field(default_factory=list)
    times_ns: list[float] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    check: MlpCheck | None = None
    check_of: str = ""
    failure: str = ""


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
    everyone = [_Captured(built) for built in builds]
    rng = np.random.default_rng(seed)
    for number in range(1, rounds + 1):
        for at in rng.permutation(len(everyone)):
            item = everyone[at]
            if item.failure:
                continue
            tell(f"{inputs.config.text}: capture {number} of {rounds} of {item.built.name}")
            try:
                _capture(root, item, inputs, arrays, out, number, nth_execution, profiler, time_limit_s)
            except (MeasurementError, FormatError) as error:
                item.failure = str(error)
    return {item.built.stem: _run(root, item, inputs, arrays, out, figures, seed) for item in everyone}


def _capture(
    root: Path,
    item: _Captured,
    inputs: InputSet,
    arrays: Sequence[npt.NDArray[Any]],
    out: Path,
    number: int,
    nth: int,
    profiler: Profiler,
    limit_s: float | None,
) -> None:
    """One capture, read."""
    built = item.built
    neff = root / built.folder / built.neff
    folder = out / "captures" / built.stem
    made = capture_neff(
        neff,
        folder,
        inputs=_named_inputs(root, built, inputs, folder),
        nth_execution=nth,
        save_output=number == _FIRST_ROUND,
        tool=profiler,
        timeout_s=limit_s or DEFAULT_TIMEOUT_S,
        tag=f"-round{number}",
    )
    profile = _profile(made, folder, limit_s)
    kernel = analyze(profile, rules=()).kernel_time
    if kernel is None:
        raise MeasurementError(f"{made.ntff} holds no events: there is no time of the kernel in it")
    if kernel.is_cold:
        raise MeasurementError(
            f"{made.ntff} holds the start-up of a first execution; capture a later one with --nth-exec {nth + 1}"
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
            "command": made.command,
        }
    )
    item.notes += [note for note in made.notes if note not in item.notes]
    if number == _FIRST_ROUND:
        _check_output(item, made, arrays, nth)


def _profile(made: NeffCapture, folder: Path, limit_s: float | None) -> Profile:
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
                timeout_s=limit_s or VIEW_TIMEOUT_S,
            )
            return read_profile(viewed)
        except NpuscopeError:
            raise error from None


def _named_inputs(root: Path, built: Built, inputs: InputSet, folder: Path) -> tuple[NamedInput, ...]:
    """The raw inputs under the names that the NEFF gives them, in its order; others of its inputs are zeros in files of their own.

    Raises:
        FormatError: An input of the kernel has no name in the NEFF.
    """
    names = {theirs: ours for ours, theirs in built.bindings.items()}
    tensors = input_tensors(read_neff(root / built.folder / built.neff))
    missing = [name for name in INPUT_NAMES if name not in built.bindings]
    if missing:
        raise FormatError(
            root / built.folder / built.neff,
            expected=f"inputs for {', '.join(missing)}",
            found=f"{', '.join(tensor.name for tensor in tensors)}, of which names and sizes do not tell which they are",
        )
    named = []
    for tensor in tensors:
        if tensor.name in names:
            named.append(NamedInput(tensor.name, root / inputs.folder / f"{names[tensor.name]}.bin"))
            continue
        zeros = (
            folder / f"zeros-{len(named)}.bin"
        )  # what the kernel's caller allocates: a result to write into, a norm's weights
        folder.mkdir(parents=True, exist_ok=True)
        if not zeros.exists():
            zeros.write_bytes(bytes(tensor.size_bytes))
        named.append(NamedInput(tensor.name, zeros))
    return tuple(named)


def _check_output(item: _Captured, made: NeffCapture, arrays: Sequence[npt.NDArray[Any]], nth: int) -> None:
    """Compare the saved result with float64, where one of the right size was saved."""
    config = item.built.config
    size = numpy_dtype(config.dtype).itemsize * config.tokens * config.hidden
    fitting = [output for output in made.outputs if output.size_bytes == size]
    chosen = next((output for output in fitting if output.execution == nth), fitting[-1] if fitting else None)
    if chosen is None:
        item.notes.append(
            f"the profiler saved no output of {size:,} bytes: the captured executions' results are unknown"
        )
        return
    result = read_tensor(chosen.path, config.dtype, config.output_shape)
    item.check = check_mlp(config, arrays, result)
    item.check_of = f"{chosen.path.name}, saved by the profiler"
    if not item.check.passed:
        raise MeasurementError(f"wrong result: {item.check.reason} ({chosen.path})")


def _run(
    root: Path,
    item: _Captured,
    inputs: InputSet,
    arrays: Sequence[npt.NDArray[Any]],
    out: Path,
    figures: Figures,
    seed: int,
) -> KernelRun:
    built = item.built
    row = _row(built, inputs)
    failure = item.failure or _check_host_run(root, item, arrays)
    if failure:
        return KernelRun(replace(row, status="failed", error=failure), captures=tuple(item.records))
    times = np.rint(np.array(item.times_ns)).astype(np.int64)
    numbers = np.arange(len(times), dtype=np.int64)
    statistics = summarise(times, numbers, seed=seed)
    profile = item.profiles[int(np.argsort(times, kind="stable")[len(times) // 2])]
    write_profile(profile, out / "profiles" / built.stem)
    has_interval = bool(np.isfinite(statistics.ci_low_ns))
    row = replace(
        row,
        steady_ms=statistics.median_ns / 1e6,
        steady_ci_low_ms=statistics.ci_low_ns / 1e6 if has_interval else None,
        steady_ci_high_ms=statistics.ci_high_ns / 1e6 if has_interval else None,
        samples=len(times),
        rounds=len(times),
        max_abs_error=item.check.max_abs_error if item.check else None,
        error_over_mass=item.check.error_over_mass if item.check else None,
        is_checked=item.check is not None,
        check_of=item.check_of,
        profile=f"profiles/{built.stem}",
        device_description=profile.device,
        warnings=tuple(item.notes),
    )
    return KernelRun(
        figures(row, profile), tuple(times.tolist()), tuple(numbers.tolist()), profile, tuple(item.records)
    )


def _row(built: Built, inputs: InputSet) -> KernelRow:
    config: MlpConfig = built.config
    run = built.host_run
    return KernelRow(
        implementation=built.name,
        device=built.device,
        is_simulated=False,
        method=DEVICE,
        config=config.text,
        batch=config.batch,
        sequence=config.sequence,
        hidden=config.hidden,
        intermediate=config.intermediate,
        dtype=config.dtype,
        status="ok",
        compile_ms=built.compile_ms,
        compile_cache=built.compile_cache,
        first_ms=run.first_call_ms if run else None,
        host_ms=median(run.samples_ns) / 1e6 if run and run.samples_ns else None,
        host_recompilations=run.recompilations_per_call if run else None,
        lnc=built.lnc,
        inputs_sha256=inputs.sha256,
        device_description=built.device_description,
        compiler_version=built.compiler_version,
    )


def _check_host_run(root: Path, item: _Captured, arrays: Sequence[npt.NDArray[Any]]) -> str:
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
    if built.flat_tokens and result.shape == (built.config.tokens, built.config.hidden):
        result = result.reshape(built.config.output_shape)
    item.check = check_mlp(built.config, arrays, result)
    item.check_of = f"{path.name}, of the last call through the framework"
    return "" if item.check.passed else f"wrong result: {item.check.reason} ({path})"
