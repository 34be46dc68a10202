"""`npuscope cache doctor`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from npuscope.cli.output import JsonFlag, console, note, print_json, remark, say, tell
from npuscope.errors import UsageError, shorten

if TYPE_CHECKING:
    from npuscope.analysis.recompile import Diagnosis
    from npuscope.measure.watching import Target

_PROGRAM_ARGUMENTS = "npuscope.program_arguments"


class ProgramCommand(TyperCommand):
    """A command whose words after `--` are another program's, not more of its own arguments."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what stands before `--`, and keep the rest."""
        end = args.index("--") if "--" in args else len(args)
        ctx.meta[_PROGRAM_ARGUMENTS] = args[end + 1 :]
        rest: list[str] = super().parse_args(ctx, args[:end])
        return rest


def doctor(
    context: typer.Context,
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...",
            help="SCRIPT.py, SCRIPT.py:FUNCTION or package.module:FUNCTION, which is run; a compiler's log, a cache folder, a"
            " results folder. Several are read together. The script's own arguments follow --.",
        ),
    ],
    calls: Annotated[int, typer.Option(help="How often to call FUNCTION, which takes no arguments.")] = 5,
    runs: Annotated[
        int,
        typer.Option(help="Processes to run the script in; a second one shows whether the persistent cache serves it."),
    ] = 1,
    time_limit: Annotated[
        float, typer.Option(help="Most seconds of each process; the counts until then are told.")
    ] = 600.0,
    check: Annotated[
        bool, typer.Option("--check", help="Exit code 1 if calls recompile, or if nothing tells.")
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Whether calls recompile, how often, at what cost, why, and what to do. A script that is given is run: its code, files and side effects are its own."""
    from npuscope.analysis.recompile_files import diagnose_files, joined
    from npuscope.analysis.recompile_runs import diagnose_runs
    from npuscope.measure.watching import watch_target

    arguments: list[str] = context.meta.get(_PROGRAM_ARGUMENTS, [])
    program, files = _sorted_targets(targets)
    if arguments and program is None:
        raise UsageError("words after -- are a script's own, and none of the targets is a script")
    told = diagnose_files(files) if files is not None else None
    diagnosis = told
    if program is not None:
        # A line each: a status that is drawn again and again would be mixed with what the program prints.
        show = remark if sys.stderr.isatty() else (lambda _: None)
        watched = watch_target(program, arguments, calls=calls, runs=runs, time_limit_s=time_limit, progress=show)
        diagnosis = diagnose_runs(str(program), watched)
        if told is not None:
            diagnosis = joined(diagnosis, told)
    assert diagnosis is not None  # noqa: S101 - at least one target is given
    if json:
        print_json(_document(diagnosis))
    else:
        _show(diagnosis)
    if diagnosis.status != "ok":
        return 1
    return int(check and diagnosis.recompiles != 0)


def _sorted_targets(texts: list[str]) -> tuple[Target | None, Any]:
    """The program, and the files by kind; None for what was not given."""
    from npuscope.analysis.recompile_files import Files, kind_of
    from npuscope.formats.cache_places import local_folder
    from npuscope.measure.watching import parse_target

    programs: list[Target] = []
    found: dict[str, list[Path]] = {"log": [], "cache": [], "results": []}
    for text in texts:
        target = parse_target(text)
        if target is not None:
            programs.append(target)
            continue
        path = local_folder(text, "a target")
        if not path.exists():
            raise UsageError(
                f"there is no {shorten(text, 200)!r}; give SCRIPT.py, package.module:FUNCTION, a log, a cache folder or a results folder"
            )
        found[kind_of(path)].append(path)
    if len(programs) > 1:
        raise UsageError(f"{len(programs)} programs are given; run the doctor once for each")
    if not any(found.values()):
        return programs[0], None
    files = Files(tuple(found["log"]), tuple(found["cache"]), tuple(found["results"]))
    return programs[0] if programs else None, files


def _document(diagnosis: Diagnosis) -> dict[str, Any]:
    """For JSON: the keys that scripts rely on first, each cause with its fix."""
    from dataclasses import asdict

    document = asdict(diagnosis)
    document["findings"] = [{**asdict(one), "fix": one.fix} for one in diagnosis.findings]
    first = ("calls", "compiles", "cache_hits", "cause", "fix")
    return {**{key: document[key] for key in first}, "is_simulated": False, **document}


def _show(diagnosis: Diagnosis) -> None:
    from npuscope.report.recompile_tables import calls_table, cause_lines, functions_table, verdict_lines

    tell(verdict_lines(diagnosis))
    for grid in (calls_table(diagnosis), functions_table(diagnosis)):
        if grid is not None:
            say("")
            console().print(grid)
    tell(cause_lines(diagnosis))
    for text in diagnosis.notes:
        note(text)
