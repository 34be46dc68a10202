"""Device captures of a program on AWS NeuronCores, made by the Neuron runtime itself. None of this has met the hardware.

The runtime captures where environment variables ask for it, and reads them once, when it is initialised. By default it
captures the first execution of each compiled graph, which is start-up, not steady state: loading the GpSimd library alone
takes about a millisecond (AWS staff, aws-neuron-sdk issue 994). From SDK 2.33 on (runtime 2.35) a variable skips executions
first; an older runtime passes over it in silence. `collect_captures` tells which it was from the runtime's version in the
capture, and `neff_capture.capture_neff` is the way to a later execution there.

Do not capture so and use `torch.profiler` or `jax.profiler.trace` in one run: the two conflict.

Source: AWS Neuron documentation, Neuron Explorer Environment Variables (2.31, 2.33.0 and 2.33.1), Capture profiles with
Neuron Explorer (2.33.1), Component Release Notes for Neuron Runtime (2.33.0).
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from npuscope.errors import FormatError, OutputError, UsageError, shorten, unknown_name
from npuscope.formats.capture import pair
from npuscope.formats.ntff import load_ntff

METHODS: Final = ("inspect", "neff")
"""`inspect`: the runtime captures. `neff`: it saves the compiled graphs, which the vendor's tool then runs again."""
SKIPPING_RUNTIME: Final = (2, 35)
"""The first runtime that skips executions before it captures: SDK 2.33.0 documents the variable and, in the runtime's release
notes, its C function; the page of SDK 2.31 has neither."""
_RUNTIME_MODULES: Final = ("torch_neuronx", "libneuronxla", "jax_neuronx", "torch_xla")
"""Packages that initialise the runtime, most of them upon the first use of a device."""
_EXECUTION: Final = re.compile(r"_exec_([0-9]{1,9})(?![0-9A-Za-z])")
_HLO: Final = re.compile(r"graph\.hlo|.+\.hlo(?:_module)?\.pb(?:\.gz)?")
_one_at_a_time = threading.Lock()
"""The environment is the process's: two captures in it would undo each other, in one thread or in two."""


def capture_environment(output_dir: Path, *, method: str = "inspect", warmup_executions: int = 1) -> dict[str, str]:
    """The variables that make the Neuron runtime capture a program, by name.

    Args:
        output_dir: Where the runtime writes; made absolute, as the program may change its folder.
        method: `inspect` for captures of the execution after the warm-up. `neff` for the compiled graphs, to be captured by
            `neff_capture.capture_neff`: nothing is skipped then, so that a graph that runs once is saved, too.
        warmup_executions: Executions to skip per graph; 0 captures the first one, start-up included.

    Raises:
        UsageError: An unknown method, or fewer than no executions.
    """
    if method not in METHODS:
        raise unknown_name("capture method", method, METHODS)
    if warmup_executions < 0:
        raise UsageError(f"warmup_executions {warmup_executions} must be 0 or more")
    return {
        "NEURON_RT_INSPECT_ENABLE": "1",
        "NEURON_RT_INSPECT_OUTPUT_DIR": str(output_dir.absolute()),
        "NEURON_RT_INSPECT_SYSTEM_PROFILE": "1",
        "NEURON_RT_INSPECT_DEVICE_PROFILE": "1",  # one execution per graph; skipping is documented for this mode only
        "NEURON_RT_INSPECT_DEVICE_PROFILE_NUM_WARMUP": str(warmup_executions if method == "inspect" else 0),
        # Read by the compiler, for the names of layers and source lines: a cached NEFF keeps those that it has.
        "NEURON_FRAMEWORK_DEBUG": "1",
        "XLA_IR_DEBUG": "1",
        "XLA_HLO_DEBUG": "1",
    }


@dataclass(frozen=True, slots=True)
class CaptureFiles:
    """The files of a run by kind, each sorted."""

    ntffs: tuple[Path, ...]
    neffs: tuple[Path, ...]
    hlos: tuple[Path, ...]
    """`graph.hlo`, `*.hlo_module.pb` and their older and packed forms."""
    others: tuple[Path, ...]
    """Among them the system profile: `ntrace.pb`, `trace_info.pb`, `cpu_util.pb`, `host_mem.pb`."""


def sort_files(paths: Iterable[Path]) -> CaptureFiles:
    """Put files under their kinds, by name."""
    kinds: dict[str, list[Path]] = {"ntff": [], "neff": [], "hlo": [], "": []}
    for path in sorted(paths):
        kind = path.suffix[1:] if path.suffix in {".ntff", ".neff"} else "hlo" if _HLO.fullmatch(path.name) else ""
        kinds[kind].append(path)
    return CaptureFiles(*(tuple(found) for found in kinds.values()))


def list_files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Regular files of a folder and below it, with the time of their last change (ns) and size; links are not followed."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            try:
                status = path.lstat()
            except OSError:
                continue  # gone since: a compiler's temporary file
            if path.is_file() and not path.is_symlink():
                found[path] = (status.st_mtime_ns, status.st_size)
    return found


def prepare_output_dir(folder: Path) -> None:
    """Make a folder for a capture, or take one that is empty: files of another run must not pass for this one's.

    Raises:
        UsageError: It holds something already.
        OutputError: It cannot be made or written to.
    """
    try:
        str(folder).encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"{shorten(str(folder))} is no text; choose a name in UTF-8") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = next(folder.iterdir(), None)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{shorten(str(folder), 200)} cannot be used for captures: {reason}") from error
    if occupied is not None:
        raise UsageError(f"{folder} is not empty; choose another folder for the capture")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} cannot be used for captures: it cannot be written to")


class NeuronCapture:
    """What `neuron_capture` gives: its settings at once, its files once it is over."""

    __slots__ = ("_files", "environment", "notes", "output_dir")

    def __init__(self, output_dir: Path, environment: Mapping[str, str], notes: tuple[str, ...]) -> None:
        self.output_dir = output_dir
        self.environment = environment
        """What was set."""
        self.notes = notes
        """Why the capture may stay empty."""
        self._files: CaptureFiles | None = None

    @property
    def files(self) -> CaptureFiles:
        """The files that the run made or changed.

        Raises:
            UsageError: The run is not over.
        """
        if self._files is None:
            raise UsageError("the capture is not over; its files are known after the `with` block")
        return self._files


@contextmanager
def neuron_capture(
    output_dir: Path, *, method: str = "inspect", warmup_executions: int = 1, watch: Sequence[Path] = ()
) -> Iterator[NeuronCapture]:
    """Have the Neuron runtime capture what this process runs inside the block; enter it before the runtime is initialised.

    The runtime reads the variables once: in a process that has opened a device already they change nothing, so that is
    refused. Afterwards the environment is as it was before, but the runtime goes on as it was told to until the process ends,
    and may write the system profile only then. `npuscope capture` avoids both, by a process of its own.

    Args:
        output_dir: Made if missing; must be empty.
        method: As for `capture_environment`.
        warmup_executions: As for `capture_environment`.
        watch: Further folders, such as a compile cache, of which new and changed files count as the run's.

    Raises:
        UsageError: Another capture is running in this process, the runtime is initialised already, or the folder is not empty.
        OutputError: The folder cannot be made or written to.
    """
    environment = capture_environment(output_dir, method=method, warmup_executions=warmup_executions)
    notes = _notes_on_runtime()
    if not _one_at_a_time.acquire(blocking=False):
        raise UsageError("another capture is running in this process; end it first, captures cannot be nested")
    try:
        prepare_output_dir(output_dir)
        folders = (output_dir, *watch)
        before = _snapshot(folders)
        capture = NeuronCapture(output_dir, environment, notes)
        saved = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            yield capture
        finally:
            for name, value in saved.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            after = _snapshot(folders)
            capture._files = sort_files(path for path, state in after.items() if before.get(path) != state)
    finally:
        _one_at_a_time.release()


def _snapshot(folders: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    return {path: state for folder in folders for path, state in list_files(folder).items()}


def _notes_on_runtime(proc: Path = Path("/proc/self")) -> tuple[str, ...]:
    """Whether the runtime could be initialised already.

    Args:
        proc: What Linux tells of this process.

    Raises:
        UsageError: It is: this process holds a Neuron device open.
    """
    for descriptor in _entries(proc / "fd"):
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue  # closed since
        if re.match(r"/dev/neuron[0-9]", target):
            raise UsageError(
                f"the Neuron runtime is initialised already ({target} is open), so nothing would be captured;"
                " enter the capture before the first use of a device"
            )
    loaded = [name for name in _RUNTIME_MODULES if name in sys.modules]
    if not loaded:
        return ()
    return (
        f"{', '.join(loaded)} was imported before the capture; if the runtime is initialised by now, nothing is captured:"
        " enter the capture first",
    )


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


@dataclass(frozen=True, slots=True)
class CapturedRun:
    """One NTFF with the compiled graph that it is of."""

    ntff: Path
    neff: Path | None
    verdict: str
    """As `formats.capture.Pairing.verdict`; `unreadable` where the NTFF is damaged or of a version that nobody here reads."""
    size_bytes: int
    execution: int | None
    """Which execution of the graph it holds, from 1; None where nothing tells. Not counted: see `execution_source`."""
    execution_source: str
    """What tells so: `file name`, `asked for` or `runtime 2.29.40 skips none`; '' where nothing does."""
    runtime_version: str
    instance_type: str
    remark: str
    """One sentence for the user; '' where all is plain."""


def collect_captures(folder: Path, *, warmup_executions: int | None = None) -> tuple[CapturedRun, ...]:
    """The captures of a folder and those below it, each paired with its NEFF by UUID.

    Args:
        folder: The output folder of a capture.
        warmup_executions: What `capture_environment` was told, if its runtime wrote the folder. It tells the execution of
            captures whose name does not. Without it only names tell: a capture of a whole session is of no one execution.
    """
    files = sort_files(list_files(folder))
    return tuple(_captured_run(path, files.neffs, warmup_executions) for path in files.ntffs)


def _captured_run(path: Path, neffs: Sequence[Path], warmup_executions: int | None) -> CapturedRun:
    try:
        capture = load_ntff(path)
    except FormatError as error:
        execution, source = _execution(path, "", None)
        return CapturedRun(path, None, "unreadable", path.stat().st_size, execution, source, "", "", str(error))
    pairing = pair(capture, neffs)
    execution, source = _execution(path, capture.runtime_version, warmup_executions)
    return CapturedRun(
        path,
        pairing.neff,
        pairing.verdict,
        capture.size_bytes,
        execution,
        source,
        capture.runtime_version,
        capture.instance_type,
        pairing.remark,
    )


def _execution(path: Path, runtime_version: str, warmup_executions: int | None) -> tuple[int | None, str]:
    """Which execution a capture holds, and what tells so: its name, or the version of the runtime that wrote it."""
    named = _EXECUTION.findall(path.stem)
    if named:
        return int(named[-1]), "file name"  # the last: the name of the graph may hold such words, too
    version = re.match(r"([0-9]{1,4})\.([0-9]{1,4})", runtime_version)
    if warmup_executions is None or version is None:
        return None, ""
    if (int(version.group(1)), int(version.group(2))) < SKIPPING_RUNTIME:
        return 1, f"runtime {runtime_version} skips none"
    return warmup_executions + 1, "asked for"
