"""`npuscope capture --neff`: one compiled graph, executed and captured by AWS's profiler."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npuscope.cli.capture import capture_rows, write_record
from npuscope.cli.output import console, print_json, remark, say
from npuscope.errors import NpuscopeError, OutputError, UsageError, unknown_name

if TYPE_CHECKING:
    from npuscope.backends.neff_capture import NeffCapture, RankOptions
    from npuscope.backends.neff_inputs import NamedInput
    from npuscope.backends.neuron_capture import CapturedRun
    from npuscope.backends.neuron_tools import Profiler

_VIEWS = ("parquet", "json", "perfetto")


@dataclass(frozen=True, slots=True, kw_only=True)
class NeffRequest:
    """What to capture, as the options say."""

    neff: Path
    inputs: Path | None
    folder: Path
    nth_exec: int
    num_exec: int | None
    save_output: bool
    ranks: int | None
    profile_rank: int | None
    ignore_exec_errors: bool
    enable_dge_notifs: bool
    view: str | None
    time_limit: float | None


@dataclass(frozen=True, slots=True)
class _Found:
    """What came of it."""

    capture: NeffCapture
    inputs: tuple[NamedInput, ...]
    declared: int
    """Inputs that the NEFF's table names."""
    runs: tuple[CapturedRun, ...]
    view: Path | None
    notes: tuple[str, ...]
    is_complete: bool
    """Every capture can be read or was viewed, is of this graph, and is there for each rank that was asked for."""


def capture_one(request: NeffRequest, *, as_json: bool) -> int:
    """Capture, record and show one compiled graph.

    Raises:
        NpuscopeError: As `capture_neff`, `layout_inputs` and `find_profiler`; nothing is captured then.
    """
    from npuscope.backends.neuron_capture import prepare_output_dir
    from npuscope.backends.neuron_devices import require_free_devices
    from npuscope.backends.neuron_tools import find_profiler
    from npuscope.formats.capture import read_neff_header

    if request.view is not None and request.view not in _VIEWS:
        raise unknown_name("--view", request.view, _VIEWS)
    if request.num_exec is not None and request.num_exec < request.nth_exec:
        raise UsageError(f"--num-exec {request.num_exec} must be at least the execution to capture, {request.nth_exec}")
    ranks = _rank_options(request)
    read_neff_header(request.neff)
    tool = find_profiler()
    notes = require_free_devices()  # told before anything is made
    was_there = request.folder.exists()
    prepare_output_dir(request.folder)
    try:
        found = _capture(request, ranks, tool, notes)
    except KeyboardInterrupt:
        remark(f"npuscope: interrupted; {tool.interface} was ended, what it left is in {request.folder}")
        raise
    except NpuscopeError:
        if not was_there:
            with suppress(OSError):
                request.folder.rmdir()  # unless something is in it
        raise
    document = _document(request, found)
    write_record(document, request.folder)
    if as_json:
        print_json(document)
    else:
        _show(request, found)
    return 0 if found.is_complete else 1


def _rank_options(request: NeffRequest) -> RankOptions | None:
    from npuscope.backends.neff_capture import RankOptions

    if request.ranks is None:
        if request.profile_rank is not None:
            raise UsageError("--profile-rank names one of several ranks; give their number with --ranks")
        return None
    options = RankOptions(request.ranks, request.profile_rank)
    options.words()  # refuses numbers that contradict each other
    return options


def _capture(request: NeffRequest, ranks: RankOptions | None, tool: Profiler, notes: Sequence[str]) -> _Found:
    """Lay out the inputs, have the graph executed from the folder's own copy, and collect."""
    from npuscope.backends.neff_capture import capture_neff
    from npuscope.backends.neff_inputs import input_tensors, layout_inputs
    from npuscope.backends.neuron_capture import collect_captures
    from npuscope.backends.neuron_tools import DEFAULT_TIMEOUT_S
    from npuscope.formats.neff import read_neff

    declared = len(input_tensors(read_neff(request.neff))) if request.inputs is None else 0
    inputs = layout_inputs(request.neff, request.inputs, raw_dir=request.folder / "inputs") if request.inputs else ()
    remark(f"capturing execution {request.nth_exec} of {request.neff}")
    capture = capture_neff(
        _copied(request.neff, request.folder),
        request.folder,
        inputs=inputs,
        num_executions=request.num_exec,
        nth_execution=request.nth_exec,
        save_output=request.save_output,
        ranks=ranks,
        ignore_errors=request.ignore_exec_errors,
        dge_notifications=request.enable_dge_notifs,
        tool=tool,
        timeout_s=request.time_limit or DEFAULT_TIMEOUT_S,
        check_devices=False,
    )
    told = {item.path.resolve(): item for item in capture.ntffs}
    runs = tuple(_with_execution(run, told) for run in collect_captures(request.folder) if run.ntff.resolve() in told)
    view, view_notes = _viewed(request, capture)
    remarks = [f"{run.ntff.name}: {run.remark}" for run in runs if run.remark]
    found = _Found(capture, inputs, declared, runs, view, (), is_complete=False)
    all_notes = (*notes, *capture.notes, *view_notes, *remarks, *_notes(request, found))
    is_read = all(run.verdict == "match" or (run.verdict == "unreadable" and view is not None) for run in runs)
    is_complete = is_read and not capture.notes and not view_notes
    return replace(found, notes=all_notes, is_complete=is_complete)


def _copied(neff: Path, folder: Path) -> Path:
    """The graph beside its capture, where readers look for it: what is executed is what is kept."""
    copy = folder / f"{neff.stem}.neff"
    try:
        shutil.copyfile(neff, copy)
    except OSError as error:
        raise OutputError(f"{copy} cannot be written: {error.strerror}") from error
    return copy


def _with_execution(run: CapturedRun, told: dict[Path, Any]) -> CapturedRun:
    execution = told[run.ntff.resolve()].execution
    return replace(run, execution=execution, execution_source="" if execution is None else "profiler")


def _viewed(request: NeffRequest, capture: NeffCapture) -> tuple[Path | None, list[str]]:
    """The profiler's own view of the first capture, if it is wanted; without it, the capture is still there."""
    from npuscope.backends.neuron_view import VIEW_TIMEOUT_S, view_capture, view_name

    if request.view is None:
        return None, []
    output = request.folder / view_name(f"{capture.ntff.stem}_view", request.view)
    limit = request.time_limit or VIEW_TIMEOUT_S
    try:
        made = view_capture(
            capture.neff, capture.ntff, output, output_format=request.view, tool=capture.profiler, timeout_s=limit
        )
    except NpuscopeError as error:
        return None, [str(error)]
    return made, []


def _notes(request: NeffRequest, found: _Found) -> list[str]:
    """What the figures of these captures are of."""
    notes = []
    if not found.inputs:
        which = f" ({found.declared} of them)" if found.declared else ""
        notes.append(
            f"the inputs{which} are zeros, which may take other paths, or cause infinities, where values matter"
        )
    if request.nth_exec == 1:
        notes.append("first executions were asked for: start-up is in them, and they are not steady state")
    if any(run.execution is None for run in found.runs):
        notes.append(
            "of a capture without an execution nothing tells which one it holds; npuscope analyze finds start-up"
        )
    if found.view is None and any(run.verdict == "unreadable" for run in found.runs):
        notes.append("captures that npuscope cannot read are read by the profiler: --view parquet")
    return notes


def _next(found: _Found) -> str:
    """The command to go on with: what can be read, the capture before the profiler's view of it."""
    readable = [run for run in found.runs if run.verdict != "unreadable"]
    if readable:
        return f"npuscope analyze {shlex.quote(str(readable[0].ntff))}"
    if found.view is not None:
        return f"npuscope analyze {shlex.quote(str(found.view))}"
    return f"npuscope inspect {shlex.quote(str(found.capture.ntff.parent))}"


def _document(request: NeffRequest, found: _Found) -> dict[str, Any]:
    """For JSON, with the keys that scripts rely on first, as a captured command has them."""
    from npuscope.formats.file_hash import file_sha256

    capture = found.capture
    return {
        "captures": found.runs,
        "is_complete": found.is_complete,
        "is_simulated": False,
        "nth_execution": request.nth_exec,
        "num_executions": request.num_exec or request.nth_exec,
        "method": "neff",
        "command": None,
        "neff": {"path": capture.neff, "source": request.neff, "sha256": file_sha256(capture.neff)},
        "is_zero_filled": not found.inputs,
        "inputs": [
            {
                "name": item.name,
                "path": item.path,
                "source": item.source or item.path,
                "size_bytes": item.path.stat().st_size,
                "sha256": file_sha256(item.path),
            }
            for item in found.inputs
        ],
        "ranks": request.ranks,
        "ranks_captured": capture.ntffs,
        "outputs": capture.outputs,
        "other_files": capture.other_files,
        "view": found.view,
        "out": request.folder,
        "profiler": capture.profiler.path,
        "profiler_version": capture.profiler.version,
        "profiler_command": capture.command,
        "notes": found.notes,
        "next": _next(found),
    }


def _show(request: NeffRequest, found: _Found) -> None:
    from npuscope.report.grid import table
    from npuscope.report.notes import telling

    title = f"{len(found.runs)} captures in {request.folder}, by {found.capture.profiler.told}"
    console().print(table(*capture_rows(found.runs, request.folder), title=title))
    if found.capture.outputs:
        say(f"{len(found.capture.outputs)} outputs in {found.capture.outputs[0].path.parent}")
    if found.view is not None:
        say(f"the profiler's own view: {found.view}")
    for note in telling(found.notes):
        remark(f"note: {note}")
    say(f"next: {_next(found)}")
