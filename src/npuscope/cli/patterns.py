"""`npuscope patterns`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from npuscope.cli.output import JsonFlag, console, print_json, progress, say, tell
from npuscope.errors import UnavailableError, UsageError, shorten

if TYPE_CHECKING:
    from npuscope.analysis.pattern_study import Study
    from npuscope.workloads.patterns import PatternConfig


def patterns(
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="jax:cpu (default), any jax:PLATFORM, neuron, neuron:xla, sim:inf2|trn1|trn2|trn3; repeatable."
        ),
    ] = None,
    pattern: Annotated[str, typer.Option(help="Which, with commas: vmap, scan, loop, nested-vmap.")] = "vmap,scan,loop",
    iterations: Annotated[int, typer.Option(help="Items that every pattern processes, besides those of --sizes.")] = 3,
    batch: Annotated[int, typer.Option(help="Rows of an item.")] = 32,
    features: Annotated[int, typer.Option(help="Columns of an item.")] = 128,
    sizes: Annotated[
        str,
        typer.Option(
            help="Loop lengths, with commas: small (3), medium (10), large (30), or numbers; '' for --iterations alone."
        ),
    ] = "small,medium,large",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    as_published: Annotated[
        bool, typer.Option("--as-published", help="The three different computations of the public study; not compared.")
    ] = False,
    same_work: Annotated[
        bool, typer.Option("--same-work", help="All patterns compute one function, checked against float64 (default).")
    ] = False,
    max_seconds: Annotated[float, typer.Option(help="Most time spent on the samples of one program.")] = 1.0,
    processes: Annotated[
        int, typer.Option(help="Fresh processes that measure every program, one after another; at least 3.")
    ] = 5,
    precision: Annotated[str, typer.Option(help="Wanted half of the 95 % interval over the median.")] = "1%",
    time_limit: Annotated[float, typer.Option(help="Seconds for a compiler that may hang.")] = 60.0,
    compile_cache: Annotated[
        Path | None, typer.Option(help="Keep compiled programs of jax devices here, and count hits and misses.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of inputs, order and bootstrap.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Results folder; default results/<time>-patterns.")] = None,
    from_folder: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Compare the traces of a folder instead: ours, or one with a mapping of the public study."
        ),
    ] = None,
    json: JsonFlag = False,
) -> int:
    """One computation as vmap, scan and Python loop: measured, predicted on NeuronCores, explained and compared."""
    if from_folder is not None:
        if device or out:
            raise UsageError(f"--from compares what a folder holds: it takes no {'--device' if device else '--out'}")
        return _from_folder(from_folder, pattern, as_json=json)
    if same_work and as_published:
        raise UsageError("--same-work and --as-published exclude each other")
    from npuscope.analysis.pattern_study import StudyRequest, check_devices, document, run_study
    from npuscope.cli.simulate import check_folder
    from npuscope.measure.program_runs import check_processes
    from npuscope.measure.provenance import collect
    from npuscope.measure.settings import Settings
    from npuscope.report.pattern_files import write_study
    from npuscope.units import parse_fraction

    if not 0 < time_limit <= 86_400:
        raise UsageError(f"--time-limit {time_limit} must lie between 0 and 86400 seconds")
    check_processes(processes)
    settings = Settings(precision=parse_fraction(precision, "--precision"), max_seconds=max_seconds, seed=seed)
    request = StudyRequest(
        devices=check_devices(device or ["jax:cpu"]),
        configs=_configs(pattern, iterations, batch, features, sizes, dtype, as_published=as_published),
        settings=settings,
        time_limit_s=time_limit,
        compile_cache=compile_cache,
        processes=processes,
    )
    folder = out or _default_folder()
    check_folder(folder)
    provenance = collect()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with progress() as update:
            study = run_study(request, folder / "traces", update)
            told = document(study)
            files = write_study(study, told, provenance, folder)
    except UnavailableError:
        with suppress(OSError):
            folder.rmdir()  # where nothing was measured nothing is left; a folder with anything in it stays
        raise
    if json:
        print_json({**told, "out": folder, "files": files})
    else:
        _show(study, folder)
    return 1 if all(row.status != "ok" for row in study.rows) else 0


def _default_folder() -> Path:
    from datetime import datetime

    return Path("results") / f"{datetime.now().strftime('%Y%m%d-%H%M%S')}-patterns"


def _configs(
    pattern: str, iterations: int, batch: int, features: int, sizes: str, dtype: str, *, as_published: bool
) -> tuple[tuple[str, PatternConfig], ...]:
    """Every pattern at every length, lengths in ascending order.

    Raises:
        UsageError: An unknown name, or a number that is no length.
    """
    from npuscope.workloads.patterns import SIZES, PatternConfig

    names = list(dict.fromkeys(word.strip() for word in pattern.split(",") if word.strip()))
    if not names:
        raise UsageError("--pattern names none; take vmap,scan,loop")
    lengths: dict[int, str] = {}
    for word in (part.strip() for part in sizes.split(",")):
        if word in SIZES:
            lengths.setdefault(SIZES[word], word)
        elif word.isascii() and word.isdigit() and len(word) < 10 and int(word):
            lengths.setdefault(
                int(word), next((name for name, length in SIZES.items() if length == int(word)), f"n{int(word)}")
            )
        elif word:
            raise UsageError(
                f"--sizes {shorten(word)!r} is no length; {', '.join(SIZES)}, or whole numbers of at least 1"
            )
    if iterations not in lengths:
        lengths[iterations] = next((name for name, length in SIZES.items() if length == iterations), f"n{iterations}")
    return tuple(
        (lengths[length], PatternConfig(name, length, batch, features, dtype, as_published=as_published))
        for length in sorted(lengths)
        for name in names
    )


def _show(study: Study, folder: Path) -> None:
    from npuscope.report import pattern_tables

    screen = console()
    request = study.request
    config = request.configs[0][1]
    what = (
        "AS PUBLISHED: the patterns compute different functions and are not compared"
        if config.as_published
        else "same work: every pattern computes one function, checked against float64"
    )
    tell([f"{config.batch} rows x {config.features} columns of {config.dtype} per item; {what}"])
    say("")
    screen.print(pattern_tables.result_table([_result(row) for row in study.rows]))
    for comparison in study.comparisons:
        say("")
        screen.print(pattern_tables.comparison_table(comparison))
        tell(pattern_tables.insight_lines(comparison))
    if study.scaling is not None and study.scaling.series:
        made = pattern_tables.scaling_table(study.scaling)
        if made is not None:
            say("")
            screen.print(made)
        told = {f"note: {note}" for comparison in study.comparisons for note in comparison.notes}
        tell(line for line in pattern_tables.scaling_lines(study.scaling) if line not in told)
    if study.bottlenecks is not None:
        made = pattern_tables.bottleneck_table(study.bottlenecks)
        if made is not None:
            say("")
            screen.print(made)
    say("")
    tell(f"warning: {row.device} {row.pattern} {row.iterations}: {text}" for row in study.rows for text in row.warnings)
    tell(f"note: {note}" for note in study.notes)
    tell(
        [
            f"results: {folder}; report.json, a .pftrace per program for ui.perfetto.dev, npuscope analyze {folder}/profiles/NAME"
        ]
    )


def _result(row: Any) -> Any:
    from npuscope.report.pattern_tables import PatternResult

    return PatternResult(
        device=row.device,
        is_simulated=row.is_simulated,
        pattern=row.pattern,
        iterations=row.iterations,
        compile_ms=row.compile_ms,
        first_run_ms=row.first_run_ms,
        steady_ms=row.steady_ms,
        steady_low_ms=row.steady_ci_low_ms,
        steady_high_ms=row.steady_ci_high_ms,
        total_slices=row.total_slices,
        bound=row.bound or None,
        max_abs_error=row.max_abs_error,
        failure=row.error,
    )


def _from_folder(folder: Path, pattern: str, *, as_json: bool) -> int:
    """The traces of a folder: explained each, and compared as far as that means something."""
    from npuscope.analysis.pattern_folder import study_folder
    from npuscope.report import pattern_tables

    names = None if pattern == "vmap,scan,loop" else [word.strip() for word in pattern.split(",") if word.strip()]
    with progress() as update:
        found = study_folder(folder, names, update)
    if as_json:
        print_json(found.document())
        return 0
    tell(f"{trace.pattern}: {trace.path} ({how})" for trace, how in zip(found.traces, found.found_by, strict=True))
    screen = console()
    for comparison in found.comparisons:
        say("")
        screen.print(pattern_tables.comparison_table(comparison))
        tell(pattern_tables.finding_lines(comparison))
        tell(pattern_tables.insight_lines(comparison))
    say("")
    screen.print(pattern_tables.occupation_table(found.bottlenecks))
    made = pattern_tables.bottleneck_table(found.bottlenecks)
    if made is not None:
        say("")
        screen.print(made)
    tell(f"note: {note}" for note in found.notes)
    return 0
