"""AWS's command-line profiler, run on one compiled graph (NEFF). It has not met the hardware; tested against stand-ins.

`neuron-explorer capture` and, up to SDK 2.29, `neuron-profile capture` execute a NEFF on zero-filled inputs and write the
capture of one execution. Both name the file after the execution (`profile_exec_2.ntff`), not as `-s` says.

Source: AWS Neuron documentation, Neuron Profiler User Guide (2.28.1) and the NKI profiling guide (`--profile-nth-exec=2` writes
`profile_exec_2.ntff`); public scripts of users, for `_rank_0_exec_2` and for an exit status of 0 without a file.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from npuscope.backends.processes import run_child
from npuscope.errors import MeasurementError, OutputError, UnavailableError, UsageError
from npuscope.formats.capture import read_neff_header

PROFILERS: Final = ("neuron-explorer", "neuron-profile")
"""The newer first; SDK 2.30 ceased to ship the older."""
TOOL_FOLDER: Final = "/opt/aws/neuron/bin"
"""Where aws-neuronx-tools installs them (Neuron Profiler User Guide); login shells have it on PATH, services may not."""
DEFAULT_TIMEOUT_S: Final = 600.0
_MAX_EXECUTION: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class NeffCapture:
    """What the profiler wrote for one NEFF."""

    neff: Path
    ntff: Path
    execution: int | None
    """None where several were executed and the file's name does not tell which it holds."""
    command: tuple[str, ...]


def find_profiler() -> str:
    """The path of the newest profiler that is installed.

    Raises:
        UnavailableError: None is.
    """
    for name in PROFILERS:
        found = shutil.which(name) or shutil.which(name, path=TOOL_FOLDER)
        if found is not None:
            return found
    raise UnavailableError(
        "capture of a NEFF",
        missing=f"neither {' nor '.join(PROFILERS)} is on PATH or in {TOOL_FOLDER}",
        remedy="install aws-neuronx-tools on a Neuron instance",
    )


def profile_neff(
    neff: Path,
    output_dir: Path,
    *,
    nth_execution: int = 2,
    tool: str | None = None,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
) -> NeffCapture:
    """Execute a NEFF on the device and capture its Nth execution.

    Args:
        neff: The compiled graph.
        output_dir: Where the capture goes; made if missing.
        nth_execution: Which execution; 1 is the first, with start-up in it.
        tool: The profiler's path; None finds it.
        timeout_s: Most time for the tool; None is any.

    Raises:
        UsageError: No execution of that number, or the capture is there already.
        FormatError: The file is no NEFF.
        UnavailableError: No profiler is installed.
        OutputError: The folder cannot be made.
        MeasurementError: The tool failed, took too long, or wrote no capture.
    """
    if not 1 <= nth_execution <= _MAX_EXECUTION:
        raise UsageError(f"execution {nth_execution} must lie between 1 and {_MAX_EXECUTION:,}")
    read_neff_header(neff)
    profiler = tool or find_profiler()
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{output_dir} cannot be used for captures: {error.strerror}") from error
    wanted = output_dir.absolute() / f"{neff.stem}.ntff"
    there = _written(wanted, nth_execution)
    if there is not None:
        raise UsageError(f"{there} exists; choose another folder for the capture")
    words = (
        *(profiler, "capture", "-n", str(neff.absolute()), "-s", str(wanted)),
        *(f"--num-exec={nth_execution}", f"--profile-nth-exec={nth_execution}"),
    )
    # Beside the capture, because the tool may leave files in its folder.
    ended = run_child(words, env=_tool_environment(), cwd=output_dir, timeout_s=timeout_s)
    name = f"{Path(profiler).name} capture of {neff}"
    if ended.status != 0:
        raise MeasurementError(f"{name} {ended.told()}: {ended.last_words()}")
    found = _written(wanted, nth_execution)
    if found is None:
        raise MeasurementError(f"{name} ended well but wrote no capture as {wanted}: {ended.last_words()}")
    is_told = found != wanted or nth_execution == 1  # where only one was executed, no name need tell which
    return NeffCapture(neff, found, nth_execution if is_told else None, words)


def _written(wanted: Path, execution: int) -> Path | None:
    """The capture under the names that the tool is known to use; the name that it was given is the last of them."""
    names = (f"_exec_{execution}", f"_rank_0_exec_{execution}", "_rank_0" if execution == 1 else "", "")
    paths = (wanted.with_name(f"{wanted.stem}{name}.ntff") for name in names)
    return next((path for path in paths if path.is_file()), None)


def _tool_environment() -> dict[str, str]:
    """Ours without the runtime's own capturing, which would be a second profiler on the same execution."""
    return {name: value for name, value in os.environ.items() if not name.startswith("NEURON_RT_INSPECT_")}
