"""`npuscope capture`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from npuscope.cli.output import JsonFlag, console, print_json, remark, say
from npuscope.errors import FormatError, MeasurementError, UnavailableError, UsageError, shorten, unknown_name

if TYPE_CHECKING:
    from npuscope.backends.neff_capture import NeffCapture
    from npuscope.backends.neuron_capture import CapturedRun, CaptureFiles
    from npuscope.backends.neuron_tools import Profiler

RECORD_NAME = "capture.json"
"""What was run and found, beside the captures."""
_MAX_EXECUTION = 1_000_000


def capture(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="-- COMMAND ARGS...", help="What to run, as on a command line.")
    ] = None,
    neff: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Instead of a command: one compiled graph, run by AWS's profiler."),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="With --neff: a folder with NAME.npy, NAME.bin or inp-NAME-000.bin for each input; default zeros.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the captures; default results/TIME-capture.")] = None,
    nth_exec: Annotated[
        int,
        typer.Option(
            "--nth-exec",
            "--profile-nth-exec",
            help="Which execution of each compiled graph; 1 is the first, with start-up in it.",
        ),
    ] = 2,
    num_exec: Annotated[
        int | None, typer.Option(help="With --neff: how often it is executed; default up to the one captured.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="inspect: the runtime captures. neff: AWS's profiler then runs each compiled graph again, on zeros."
        ),
    ] = "inspect",
    save_output: Annotated[
        bool, typer.Option("--save-output", help="With --neff: keep the outputs, as raw bytes.")
    ] = False,
    ranks: Annotated[
        int | None, typer.Option(help="With --neff: on how many cores a graph with collectives runs.")
    ] = None,
    profile_rank: Annotated[
        int | None, typer.Option(help="With --ranks: the one that is captured; default all.")
    ] = None,
    ignore_exec_errors: Annotated[
        bool,
        typer.Option("--ignore-exec-errors", help="With --neff: go on after numerical errors, which zeros may cause."),
    ] = False,
    enable_dge_notifs: Annotated[
        bool,
        typer.Option("--enable-dge-notifs", help="With --neff: capture the DMAs that the device itself makes, too."),
    ] = False,
    view: Annotated[
        str | None,
        typer.Option(
            help="With --neff: have the profiler write parquet, json or perfetto, too, for versions we cannot read."
        ),
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Most seconds for the command, and for each run of the profiler.")
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Capture what AWS NeuronCores do while a command runs, or one compiled graph. Their output goes to standard error."""
    from npuscope.backends.neuron_capture import METHODS

    if method not in METHODS:
        raise unknown_name("--method", method, METHODS)
    if not 1 <= nth_exec <= _MAX_EXECUTION:
        raise UsageError(f"--nth-exec {nth_exec} must lie between 1 and {_MAX_EXECUTION:,}")
    if time_limit is not None and not 0 < time_limit < float("inf"):
        raise UsageError(f"--time-limit {time_limit:g} must be a number of seconds above 0")
    if (not command) == (neff is None):
        raise UsageError(
            "give either a command, after --, or a compiled graph, with --neff; see npuscope capture --help"
        )
    if neff is not None:
        from npuscope.cli.capture_neff import NeffRequest, capture_one

        return capture_one(
            NeffRequest(
                neff=neff,
                inputs=inputs,
                folder=out or _default_folder(),
                nth_exec=nth_exec,
                num_exec=num_exec,
                save_output=save_output,
                ranks=ranks,
                profile_rank=profile_rank,
                ignore_exec_errors=ignore_exec_errors,
                enable_dge_notifs=enable_dge_notifs,
                view=view,
                time_limit=time_limit,
            ),
            as_json=json,
        )
    of_neff = {
        "--inputs": inputs, "--num-exec": num_exec, "--save-output": save_output or None, "--ranks": ranks,
        "--profile-rank": profile_rank, "--ignore-exec-errors": ignore_exec_errors or None,
        "--enable-dge-notifs": enable_dge_notifs or None, "--view": view,
    }  # fmt: skip
    given = next((name for name, value in of_neff.items() if value is not None), None)
    if given is not None:
        raise UsageError(f"{given} is for one compiled graph; give it with --neff, or leave {given} out")
    return _capture_command(command or [], out or _default_folder(), nth_exec, method, time_limit, as_json=json)


def _default_folder() -> Path:
    return Path("results") / f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-capture"


def _capture_command(
    command: Sequence[str], folder: Path, nth_exec: int, method: str, time_limit: float | None, *, as_json: bool
) -> int:
    """Run a command and have what it does captured."""
    from npuscope.backends.neuron_capture import prepare_output_dir
    from npuscope.backends.neuron_tools import find_profiler

    if shutil.which(command[0]) is None:
        raise UsageError(f"there is no command {shorten(command[0])!r} to run; give it as on a command line, after --")
    tool = find_profiler() if method == "neff" else None  # missing: told before a long run, not after it
    prepare_output_dir(folder)
    request = _Request(tuple(command), folder, nth_exec, method, time_limit, tool)
    if sys.stderr.isatty() and not _has_device():  # who watches can stop a long run in vain; a script gets one line
        remark("note: there is no /dev/neuron* here: nothing is captured unless the command reaches a device elsewhere")
    try:
        result = _run(request)
    except (MeasurementError, UnavailableError):
        with suppress(OSError):
            folder.rmdir()  # where nothing was left there is no folder either
        raise
    except KeyboardInterrupt:
        remark(f"npuscope: interrupted; {_name(request)} was ended, what it left is in {folder}")
        raise
    document = _document(request, result)
    write_record(document, folder)
    if as_json:
        print_json(document)
    else:
        _show(request, result)
    return 0 if result.is_complete else 1


@dataclass(frozen=True)
class _Request:
    """What to run, as the options say."""

    command: tuple[str, ...]
    folder: Path
    nth_exec: int
    method: str
    time_limit: float | None
    tool: Profiler | None

    @property
    def warmup_executions(self) -> int:
        return self.nth_exec - 1 if self.method == "inspect" else 0


@dataclass(frozen=True)
class _Result:
    """What came of it."""

    environment: dict[str, str]
    runs: tuple[CapturedRun, ...]
    files: CaptureFiles
    notes: tuple[str, ...]
    is_complete: bool
    """Every compiled graph, or every capture, is of the execution that was asked for, as far as that can be told."""


def _run(request: _Request) -> _Result:
    """Run the command in an environment of its own, then the profiler if asked to, and collect."""
    from npuscope.backends.neuron_capture import capture_environment, collect_captures, list_files, sort_files
    from npuscope.backends.processes import run_child

    warmup = request.warmup_executions
    environment = capture_environment(request.folder, method=request.method, warmup_executions=warmup)
    ended = run_child(request.command, env={**os.environ, **environment}, timeout_s=request.time_limit, is_shown=True)
    files = sort_files(list_files(request.folder))
    if ended.status != 0:
        made = f"; it left {len(files.ntffs)} captures in {request.folder}" if files.ntffs else ""
        raise MeasurementError(f"{_name(request)} {ended.told()}; what it said stands above{made}")
    if not (files.ntffs if request.method == "inspect" else files.neffs):
        raise _nothing_captured(request, files)
    again, failures = _profile_again(request, files.neffs) if request.method == "neff" else ([], [])
    told = {item.ntff.resolve(): item.execution for item in again}
    runs = []
    for run in collect_captures(request.folder, warmup_executions=warmup):
        place = run.ntff.resolve()
        known = told.get(place)
        runs.append(
            replace(run, execution=known, execution_source="profiler" if known else "") if place in told else run
        )
    read = [run for run in runs if run.verdict != "unreadable"]
    late = [run for run in read if run.execution is None or run.execution >= request.nth_exec]
    seen = dict.fromkeys(note for item in again for note in item.notes)
    notes = [
        *failures,
        *seen,
        *(f"{run.ntff.name}: {run.remark}" for run in runs if run.remark),
        *_notes(request, runs),
    ]
    is_complete = bool(late) and not failures and (request.method == "neff" or len(late) == len(runs))
    return _Result(environment, tuple(runs), sort_files(list_files(request.folder)), tuple(notes), is_complete)


def _profile_again(request: _Request, neffs: Sequence[Path]) -> tuple[list[NeffCapture], list[str]]:
    """Have the profiler run each compiled graph; what fails does not keep it from the others.

    Raises:
        NpuscopeError: Every one failed; of the first.
    """
    from npuscope.backends.neff_capture import capture_neff
    from npuscope.backends.neuron_tools import DEFAULT_TIMEOUT_S
    from npuscope.formats.capture import read_neff_header

    made: list[NeffCapture] = []
    failures: list[MeasurementError | FormatError] = []
    graphs: set[bytes] = set()
    for neff in neffs:
        try:
            uuid = read_neff_header(neff).uuid
            if uuid in graphs:
                continue  # the copy of another core or process
            graphs.add(uuid)
            remark(f"capturing execution {request.nth_exec} of {neff}")
            limit = request.time_limit or DEFAULT_TIMEOUT_S
            made.append(
                capture_neff(
                    neff, neff.parent, nth_execution=request.nth_exec, tool=request.tool, timeout_s=limit
                )  # beside its NEFF, where readers look for it
            )
        except (MeasurementError, FormatError) as error:
            failures.append(error)
    if not made:
        raise failures[0]
    return made, [str(error) for error in failures]


def _has_device() -> bool:
    from npuscope.backends.registry import find_npu_nodes

    return any(node.device == "neuron" for node in find_npu_nodes())


def _nothing_captured(request: _Request, files: CaptureFiles) -> MeasurementError | UnavailableError:
    """Why there may be nothing, by what can be seen from here."""
    times = f"{request.nth_exec} times" if request.nth_exec > 1 else "once"
    if files.neffs:
        return MeasurementError(
            f"{_name(request)} left {len(files.neffs)} compiled graphs in {request.folder} but no capture: check that it runs"
            f" each of them at least {times}; or have them run again with --method neff"
        )
    if not _has_device():
        return UnavailableError(
            "AWS Neuron",
            missing=f"{_name(request)} made no capture, and there is no /dev/neuron* here",
            remedy="run it on a Neuron instance (inf2, trn1, trn2, trn3); npuscope simulate and matmul --predict need none",
        )
    return MeasurementError(
        f"{_name(request)} made no capture in {request.folder}: check that it loads the Neuron runtime in a process that keeps"
        f" its environment, runs each compiled graph at least {times}, and uses neither torch.profiler nor jax.profiler"
    )


def _notes(request: _Request, runs: Sequence[CapturedRun]) -> list[str]:
    """What the executions that were captured mean for the figures."""
    if request.nth_exec == 1:
        return ["first executions were asked for: start-up is in them, and they are not steady state"]
    early = [run for run in runs if run.execution is not None and run.execution < request.nth_exec]
    notes = []
    if early and request.method == "inspect":
        notes.append(
            f"{len(early)} of {len(runs)} captures are of a first execution, with start-up in them, not of number"
            f" {request.nth_exec}: runtimes before 2.35 (SDK 2.33) skip none; capture later ones with --method neff"
        )
    elif early:
        notes.append(
            f"{len(early)} captures are the runtime's own of first executions: made for their NEFFs, not to be used"
        )
    if any(run.execution is None for run in runs):
        notes.append(
            "of a capture without an execution nothing tells which one it holds; npuscope analyze finds start-up"
        )
    return notes


def _name(request: _Request) -> str:
    return shorten(shlex.join(request.command), 60)


def _next(request: _Request, runs: Sequence[CapturedRun]) -> str:
    """The command to go on with: the first capture that can be read, late and paired ones before others."""
    readable = [run for run in runs if run.verdict != "unreadable"]
    if not readable:
        return f"npuscope inspect {shlex.quote(str(runs[0].ntff.parent))}"
    best = min(readable, key=lambda run: ((run.execution or 0) < request.nth_exec, run.neff is None))
    return f"npuscope analyze {shlex.quote(str(best.ntff))}"


def _document(request: _Request, result: _Result) -> dict[str, Any]:
    """For JSON, with the keys that scripts rely on first."""
    return {
        "captures": result.runs,
        "is_complete": result.is_complete,
        "is_simulated": False,
        "nth_execution": request.nth_exec,
        "method": request.method,
        "command": request.command,
        "out": request.folder,
        "environment": result.environment,
        "profiler": request.tool.path if request.tool else None,
        "profiler_version": request.tool.version if request.tool else None,
        "neffs": result.files.neffs,
        "hlos": result.files.hlos,
        "other_files": result.files.others,
        "notes": result.notes,
        "next": _next(request, result.runs),
    }


def write_record(document: dict[str, Any], folder: Path) -> None:
    """Write what was run and found beside the captures, with the provenance of this session."""
    from npuscope._files import write_text_atomically
    from npuscope.measure.provenance import collect
    from npuscope.report.document import to_json

    write_text_atomically(folder / RECORD_NAME, to_json({**document, "sessions": [collect()]}) + "\n")


def _show(request: _Request, result: _Result) -> None:
    from npuscope.report.grid import table
    from npuscope.report.notes import telling

    console().print(
        table(*capture_rows(result.runs, request.folder), title=f"{len(result.runs)} captures in {request.folder}")
    )
    for note in telling(result.notes):
        remark(f"note: {note}")
    say(f"next: {_next(request, result.runs)}")


def capture_rows(runs: Sequence[CapturedRun], folder: Path) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a table of captures."""
    from npuscope.units import format_bytes

    rows = []
    for run in runs:
        execution = "unknown" if run.execution is None else f"{run.execution} ({run.execution_source})"
        neff = _below(run.neff, folder) if run.neff is not None else run.verdict
        rows.append([_below(run.ntff, folder), neff, execution, run.instance_type, format_bytes(run.size_bytes)])
    return ["<capture", "<NEFF with its UUID", "<execution", "<instance", "size"], rows


def _below(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
