"""Captures of one compiled graph (NEFF) by AWS's profiler. None of this has met the hardware; tested against stand-ins.

`neuron-explorer capture` and, up to SDK 2.29, `neuron-profile capture` execute a NEFF, on named inputs or on zeros, and write
the capture of one execution. They name the file after the rank and the execution (`profile_rank_0_exec_2.ntff`), not as `-s`
says. The tool works in a new folder of its own, and what it made is moved out of there once it ended well: so nothing that was
there is overwritten, and no older file passes for a new one.

Source: AWS Neuron documentation, Neuron Profiler User Guide (2.28.1: `-n`, `-s`, inputs, `--ignore-exec-errors`,
`--enable-dge-notifs`, the flags of several workers, `profile_rank_5.ntff`), the NKI profiling guide (`--profile-nth-exec=2`
writes `profile_exec_2.ntff`); the test framework of AWS's nki-library, for both tools (`--num-exec`, `--save-output`, the name
without a suffix for execution 1, outputs named OUT, OUT.2, ... and told as `saved output "OUT" as "FILE"`); public scripts of
users, for `_rank_0_exec_2` and for an exit status of 0 without a file.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final

from npuscope.backends.neff_inputs import NamedInput, check_inputs
from npuscope.backends.neuron_devices import require_free_devices
from npuscope.backends.neuron_tools import DEFAULT_TIMEOUT_S, Profiler, as_profiler, make_folder, move_new, run_tool
from npuscope.backends.processes import Ended
from npuscope.errors import MeasurementError, OutputError, UsageError, shorten
from npuscope.formats.capture import read_neff_header
from npuscope.formats.neff import Neff, read_neff

MAX_EXECUTION: Final = 1_000_000
_MAX_WORKERS: Final = 1_000_000
_TAG: Final = re.compile(r"[A-Za-z0-9._-]{0,100}")
_SAVED: Final = re.compile(r'saved output "([^"]+)" as "([^"]+)"')
_SUFFIX: Final = re.compile(r"(.+)\.([0-9]{1,9})", re.S)


@dataclass(frozen=True, slots=True)
class RankOptions:
    """How a graph with collectives is executed on several cores."""

    workers_per_node: int
    """On this machine."""
    profile_id: int | None = None
    """The rank that is captured; None captures all of this machine."""
    worker_count: int | None = None
    """On all machines; None leaves it to the tool."""
    first_rank: int = 0
    """Of the workers on this machine."""

    @property
    def captured(self) -> tuple[int, ...]:
        """The ranks of which a capture is to be expected here."""
        here = range(self.first_rank, self.first_rank + self.workers_per_node)
        return tuple(here) if self.profile_id is None else tuple(rank for rank in here if rank == self.profile_id)

    def words(self) -> tuple[str, ...]:
        """The tool's flags.

        Raises:
            UsageError: Numbers that contradict each other.
        """
        total = self.first_rank + self.workers_per_node if self.worker_count is None else self.worker_count
        if not 1 <= self.workers_per_node <= _MAX_WORKERS or self.first_rank < 0:
            raise UsageError(
                f"{self.workers_per_node} ranks from rank {self.first_rank} on cannot be executed; give 1 or more"
            )
        if not self.first_rank + self.workers_per_node <= total <= _MAX_WORKERS:
            last = self.first_rank + self.workers_per_node - 1
            raise UsageError(f"ranks up to {last} need a worker count above {last}, not {total}")
        if self.profile_id is not None and not 0 <= self.profile_id < total:
            raise UsageError(f"rank {self.profile_id} cannot be captured: there are ranks 0 to {total - 1}")
        profiled = "all" if self.profile_id is None else str(self.profile_id)
        words = [f"--collectives-workers-per-node={self.workers_per_node}"]
        words += [f"--collectives-worker-count={self.worker_count}"] if self.worker_count is not None else []
        words += [f"--collectives-worker-start-id={self.first_rank}"] if self.first_rank else []
        return (*words, f"--collectives-profile-id={profiled}")


@dataclass(frozen=True, slots=True)
class RankCapture:
    """One NTFF."""

    path: Path
    rank: int | None
    """None where the file's name tells none, as it does for one worker."""
    execution: int | None
    """None where several were executed and the file's name does not tell which it holds."""


@dataclass(frozen=True, slots=True)
class SavedOutput:
    """The raw bytes of an output of one execution."""

    path: Path
    tensor: str
    """Its name in the NEFF's table; '' where neither the tool nor the file's name tells it."""
    execution: int | None
    """By the number behind the name; None where the tensor is not known."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class NeffCapture:
    """What the profiler wrote for one NEFF in one run."""

    neff: Path
    ntffs: tuple[RankCapture, ...]
    """By rank, then by execution; at least one."""
    outputs: tuple[SavedOutput, ...]
    """Empty unless they were to be saved."""
    other_files: tuple[Path, ...]
    command: tuple[str, ...]
    """As it was run; the file behind `-s` has been moved since."""
    profiler: Profiler
    notes: tuple[str, ...]

    @property
    def ntff(self) -> Path:
        """The capture of the first rank."""
        return self.ntffs[0].path

    @property
    def execution(self) -> int | None:
        """That of `ntff`."""
        return self.ntffs[0].execution


def capture_neff(
    neff: Path,
    output_dir: Path,
    *,
    inputs: Sequence[NamedInput] = (),
    num_executions: int | None = None,
    nth_execution: int = 2,
    save_output: bool = False,
    ranks: RankOptions | None = None,
    ignore_errors: bool = False,
    dge_notifications: bool = False,
    tool: Profiler | str | PathLike[str] | None = None,
    timeout_s: float | None = DEFAULT_TIMEOUT_S,
    tag: str = "",
    check_devices: bool = True,
) -> NeffCapture:
    """Execute a NEFF on the device and capture its Nth execution.

    Args:
        neff: The compiled graph.
        output_dir: Where the capture goes; made if missing.
        inputs: All of its inputs, as `neff_inputs.layout_inputs` finds them; none executes it on zeros.
        num_executions: How often it is executed; None is `nth_execution` times.
        nth_execution: Which execution is captured; 1 is the first, with start-up in it.
        save_output: The outputs of each execution go to the folder `NEFF-TAG_outputs`.
        ranks: For a graph with collectives; None executes it on one core.
        ignore_errors: Numerical errors, which zeros may cause, do not end the run.
        dge_notifications: Capture the DMAs that the device itself makes, too; AWS warns of timeouts of large graphs.
        tool: The profiler, or its path; None finds it.
        timeout_s: Most time for the tool; None is any.
        tag: What the names of the captures have behind that of the NEFF, to tell captures of one NEFF apart.
        check_devices: Refuse where another process holds a Neuron device.

    Raises:
        UsageError: No such execution, or a capture of that name is there already.
        FormatError: The file is no NEFF, or the inputs do not fit it.
        UnavailableError: No profiler is installed, or a device is held by another process.
        OutputError: The folder cannot be made or written to.
        MeasurementError: The tool failed, took too long, or wrote no capture; what it left, if anything, is kept and named.
    """
    executions = _checked_executions(nth_execution, num_executions)
    base = _base_name(neff, tag)
    read_neff_header(neff)
    graph = read_neff(neff) if inputs or save_output else None
    if graph is not None and inputs:
        check_inputs(graph, inputs)
    rank_words = ranks.words() if ranks else ()
    profiler = as_profiler(tool)
    _refuse_existing(output_dir, base)
    notes = list(require_free_devices()) if check_devices else []
    with _own_folder(output_dir, base) as work:
        words = [
            *("capture", "-n", str(neff.absolute()), "-s", str(work / f"{base}.ntff")),
            *(["--save-output"] if save_output else []),
            *(["--ignore-exec-errors"] if ignore_errors else []),
            *(["--enable-dge-notifs"] if dge_notifications else []),
            *rank_words,
            *(f"--num-exec={executions}", f"--profile-nth-exec={nth_execution}"),
            *(word for item in inputs for word in (item.name, str(item.path.absolute()))),
        ]
        before = work.lstat()
        ended = run_tool(profiler, words, what=f"capture of {neff}", cwd=work, timeout_s=timeout_s)
        _require_same(work, before, profiler)
        files = sorted(path for path in work.iterdir() if path.is_file() and not path.is_symlink())
        found = _captures(files, base, nth_execution)
        _check_captures(found, work, nth_execution, ended, f"{profiler.interface} capture of {neff}")
        notes += _rank_notes(found, ranks)
        ntffs = tuple(_moved(item, output_dir) for item in found)
        others = [path for path in files if path not in {item.path for item in found}]
        outputs, other_files = _sort_others(others, output_dir / f"{base}_outputs", graph, save_output, ended)
        notes += _output_notes(outputs, graph) if save_output else []
    return NeffCapture(neff, ntffs, outputs, other_files, (profiler.path, *words), profiler, tuple(notes))


def _require_same(work: Path, before: os.stat_result, profiler: Profiler) -> None:
    """A tool that removed its folder, or put another in its place, has left nothing that could be taken for its own."""
    try:
        now = work.lstat()
        # A number that is free again may be given to a link at once.
        is_same = stat.S_ISDIR(now.st_mode) and (now.st_dev, now.st_ino) == (before.st_dev, before.st_ino)
    except OSError:
        is_same = False
    if not is_same:
        raise MeasurementError(
            f"{profiler.interface} replaced the folder that it was given, {work}: nothing of it is used"
        )


def _checked_executions(nth: int, count: int | None) -> int:
    if not 1 <= nth <= MAX_EXECUTION:
        raise UsageError(f"execution {nth} must lie between 1 and {MAX_EXECUTION:,}")
    if count is not None and not nth <= count <= MAX_EXECUTION:
        raise UsageError(f"{count} executions must be between the one to capture, {nth}, and {MAX_EXECUTION:,}")
    return nth if count is None else count


def _base_name(neff: Path, tag: str) -> str:
    """What the names of the captures begin with."""
    if not _TAG.fullmatch(tag) or "_exec_" in tag or "_rank_" in tag:
        raise UsageError(
            f"tag {shorten(tag)!r} must be letters, digits, '.', '-' and '_', without '_exec_' and '_rank_'"
        )
    return f"{neff.stem}{tag}"


def _name_pattern(base: str) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(base)}(?:_rank_([0-9]{{1,9}}))?(?:_exec_([0-9]{{1,9}}))?\.ntff")


def _refuse_existing(folder: Path, base: str) -> None:
    pattern = _name_pattern(base)
    make_folder(folder)
    try:
        there = sorted(
            path for path in folder.iterdir() if pattern.fullmatch(path.name) or path.name == f"{base}_outputs"
        )
    except OSError as error:
        raise OutputError(f"{folder} cannot be used for captures: {error.strerror}") from error
    if there:
        raise UsageError(f"{there[0]} exists; choose another folder or tag for the capture")


@contextmanager
def _own_folder(parent: Path, base: str) -> Iterator[Path]:
    """A new folder for the tool. It goes when it is empty; what a failed run left in it stays, and the error names it."""
    try:
        work = Path(tempfile.mkdtemp(prefix=f"{base[:100]}.unfinished-", dir=parent.absolute()))
    except OSError as error:
        raise OutputError(f"{parent} cannot be used for captures: {error.strerror}") from error
    try:
        yield work
    except MeasurementError as error:
        is_empty = True
        with suppress(OSError):
            is_empty = work.is_symlink() or not any(work.iterdir())
        if not is_empty:
            raise MeasurementError(f"{error}; what it left is in {parent / work.name}") from error
        raise
    finally:
        with suppress(OSError):
            work.rmdir()


def _captures(files: Sequence[Path], base: str, nth: int) -> list[RankCapture]:
    """The NTFFs among new files, by what their names tell."""
    pattern, found = _name_pattern(base), []
    for path in files:
        named = pattern.fullmatch(path.name)
        if named is None:
            continue
        rank, execution = (None if text is None else int(text) for text in named.groups())
        if execution is None and nth == 1:
            execution = 1  # the first execution's name has no suffix
        found.append(RankCapture(path, rank, execution))
    return sorted(found, key=lambda item: (-1 if item.rank is None else item.rank, item.execution or 0))


def _check_captures(found: Sequence[RankCapture], work: Path, nth: int, ended: Ended, name: str) -> None:
    """Refuse a run that ended well without what was asked for."""
    name = shorten(name, 200)
    if not found:
        names = sorted(path.name for path in work.iterdir())
        wrote = f"only {shorten(', '.join(names))}" if names else "no file"
        raise MeasurementError(f"{name} ended well but wrote no capture, {wrote}: {ended.last_words()}")
    empty = next((item.path.name for item in found if item.path.stat().st_size == 0), None)
    if empty is not None:
        raise MeasurementError(f"{name} ended well but {empty} is empty: {ended.last_words()}")
    other = next((item for item in found if item.execution not in {None, nth}), None)
    if other is not None:
        raise MeasurementError(
            f"{name} captured execution {other.execution} where {nth} was asked for: {other.path.name}"
        )


def _rank_notes(found: Sequence[RankCapture], ranks: RankOptions | None) -> list[str]:
    if ranks is None or ranks.workers_per_node == 1:
        return []
    missing = sorted(set(ranks.captured) - {item.rank for item in found})
    if not missing:
        return []
    told = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
    return [f"there is no capture of {'rank' if len(missing) == 1 else 'ranks'} {told}"]


def _moved(capture: RankCapture, folder: Path) -> RankCapture:
    target = folder / capture.path.name
    move_new(capture.path, target)
    return RankCapture(target, capture.rank, capture.execution)


def _sort_others(
    files: Sequence[Path], folder: Path, graph: Neff | None, is_saved: bool, ended: Ended
) -> tuple[tuple[SavedOutput, ...], tuple[Path, ...]]:
    """Move what is no capture to a folder of its own: outputs where they were to be saved, else of unknown use."""
    if not files:
        return (), ()
    make_folder(folder)
    sizes = (
        {tensor.name: tensor.size_bytes for tensor in graph.contents.tensors if tensor.type == "OUT"} if graph else {}
    )
    told = {Path(file).name: tensor for tensor, file in _SAVED.findall(ended.output)}
    outputs, others = [], []
    for path in files:
        target = folder / path.name
        move_new(path, target)
        if is_saved:
            tensor, execution = _output_name(path.name, sizes, told)
            outputs.append(SavedOutput(target, tensor, execution, target.stat().st_size))
        else:
            others.append(target)
    order = list(sizes)
    outputs.sort(
        key=lambda item: (item.execution or 0, order.index(item.tensor) if item.tensor in order else len(order))
    )
    return tuple(outputs), tuple(others)


def _output_notes(outputs: Sequence[SavedOutput], graph: Neff | None) -> list[str]:
    if not outputs:
        return ["outputs were to be saved, and the profiler saved none"]
    sizes = {tensor.name: tensor.size_bytes for tensor in graph.contents.tensors} if graph else {}
    return [
        f"output {item.path.name} has {item.size_bytes:,} bytes, where the NEFF's table has {sizes[item.tensor]:,}"
        for item in outputs
        if sizes.get(item.tensor, item.size_bytes) != item.size_bytes
    ]


def _output_name(file: str, sizes: Mapping[str, int], told: Mapping[str, str]) -> tuple[str, int | None]:
    """Which tensor a file holds, of which execution: as the tool said, else by the names in the NEFF's table.

    `out.2` is the second execution's `out`, or a tensor of that name: where both are outputs, only the tool can tell.
    """
    numbered = _SUFFIX.fullmatch(file)
    candidates = [(file, 1)] if file in sizes else []
    if numbered and numbered[1] in sizes:
        candidates.append((numbered[1], int(numbered[2])))
    if file in told:
        tensor = told[file]
        known = [number for name, number in candidates if name == tensor]
        return tensor, known[0] if known else None
    return candidates[0] if len(candidates) == 1 else ("", None)
