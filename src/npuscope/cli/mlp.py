"""`npuscope mlp build`, `profile` and `run`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from npuscope.cli.output import JsonFlag, console, print_json, progress, remark, say, tell
from npuscope.errors import UsageError

if TYPE_CHECKING:
    from npuscope.analysis.kernel_build import BuildRequest
    from npuscope.analysis.kernel_study import KernelStudy, StudyRequest
    from npuscope.formats.kernel_folder import KernelManifest

mlp = typer.Typer(
    name="mlp",
    help="Implementations of a gated MLP, compared fairly: built, measured or captured by one method, checked, explained.",
    rich_markup_mode=None,
)
_IMPL_HELP = (
    "NAME of npuscope kernels list, PATH.py:FUNC or package.module:FUNC of your own; @DEVICE behind it; repeatable."
)
Impl = Annotated[list[str] | None, typer.Option("--impl", help=_IMPL_HELP)]
Config = Annotated[
    list[str] | None,
    typer.Option("--config", help="b=1,s=128,h=1024,i=512; repeatable; default: the two of the public comparison."),
]
Dtype = Annotated[str, typer.Option(help="bfloat16 or float32, where --config names none.")]
Device = Annotated[
    list[str] | None,
    typer.Option(help="Where to run: each implementation takes the first that it is written for; repeatable."),
]
FlatTokens = Annotated[
    bool, typer.Option("--flat-tokens", help="Your own functions take hidden states as [batch * sequence, hidden].")
]
Method = Annotated[str, typer.Option(help="Way to a NEFF on Neuron: framework-debug or klir.")]
Target = Annotated[str, typer.Option(help="Instance family that a NEFF is compiled for: inf2, trn1, trn1n, trn2.")]
Lnc = Annotated[int, typer.Option(help="Physical cores of a logical one, on neuron and sim: devices: 1 or 2.")]
Seed = Annotated[int, typer.Option(help="Of inputs, order and bootstrap.")]
TimeLimit = Annotated[
    float | None,
    typer.Option(
        help="Most seconds for one compilation, simulation, capture, or step of a measurement; default 120 on hosts."
    ),
]
CompileCache = Annotated[Path | None, typer.Option(help="Keep compiled programs of jax and openvino devices here.")]
Rounds = Annotated[
    int, typer.Option(help="Fresh processes on hosts, captures on Neuron; a comparison needs at least 5.")
]
MaxSeconds = Annotated[float, typer.Option(help="Most time spent on the samples of one implementation.")]
Iterations = Annotated[
    int | None, typer.Option(help="Exactly so many samples on hosts; default: as --max-seconds allows.")
]
NthExec = Annotated[
    int, typer.Option("--nth-exec", "--profile-nth-exec", help="Which execution a capture is of; 1 has start-up in it.")
]


@mlp.command()
def build(
    impl: Impl = None,
    config: Config = None,
    dtype: Dtype = "bfloat16",
    device: Device = None,
    flat_tokens: FlatTokens = False,
    method: Method = "framework-debug",
    target: Target = "trn2",
    lnc: Lnc = 1,
    seed: Seed = 0,
    time_limit: TimeLimit = None,
    compile_cache: CompileCache = None,
    out: Annotated[Path | None, typer.Option(help="Empty folder; default results/TIME-mlp.")] = None,
    json: JsonFlag = False,
) -> int:
    """Step 1: write the inputs and compile each implementation; NEFF, HLO, a manifest with hashes. Runs your own code."""
    request = _build_request(
        impl, config, dtype, device, method, target, lnc, seed, time_limit, compile_cache, flat_tokens=flat_tokens
    )
    folder = _folder(out)
    manifest = _build(request, folder)
    if json:
        print_json({**_build_document(manifest), "out": folder})
    else:
        _show_build(manifest, folder)
    return int(any(item.status != "built" for item in manifest.builds))


@mlp.command()
def profile(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What npuscope mlp build made.")],
    rounds: Rounds = 5,
    max_seconds: MaxSeconds = 2.0,
    iterations: Iterations = None,
    nth_exec: NthExec = 2,
    time_limit: TimeLimit = None,
    compile_cache: CompileCache = None,
    out: Annotated[Path | None, typer.Option(help="Where results go; default DIR itself.")] = None,
    json: JsonFlag = False,
) -> int:
    """Step 2: measure, capture or simulate what was built, and compare. Runs the kernels that the manifest names."""
    from npuscope.cli.simulate import check_folder
    from npuscope.formats.kernel_folder import read_manifest
    from npuscope.report.kernel_files import FILES

    manifest = read_manifest(folder)
    results = out or folder
    if results == folder:
        names = (*FILES.values(), "captures", "profiles")
        there = next((folder / name for name in names if os.path.lexists(folder / name)), None)
        if there is not None:
            raise UsageError(f"{there} is there already; choose another folder for the results with --out")
    else:
        check_folder(results)
    request = _study_request(manifest.seed, rounds, max_seconds, iterations, nth_exec, time_limit, compile_cache)
    return _profile(folder, manifest, request, results, as_json=json)


@mlp.command()
def run(
    impl: Impl = None,
    config: Config = None,
    dtype: Dtype = "bfloat16",
    device: Device = None,
    flat_tokens: FlatTokens = False,
    rounds: Rounds = 5,
    max_seconds: MaxSeconds = 2.0,
    iterations: Iterations = None,
    method: Method = "framework-debug",
    target: Target = "trn2",
    lnc: Lnc = 1,
    nth_exec: NthExec = 2,
    seed: Seed = 0,
    time_limit: TimeLimit = None,
    compile_cache: CompileCache = None,
    out: Annotated[Path | None, typer.Option(help="Empty folder; default results/TIME-mlp.")] = None,
    json: JsonFlag = False,
) -> int:
    """Both steps: build, profile, compare. Runs your own code."""
    build_request = _build_request(
        impl, config, dtype, device, method, target, lnc, seed, time_limit, compile_cache, flat_tokens=flat_tokens
    )
    request = _study_request(seed, rounds, max_seconds, iterations, nth_exec, time_limit, compile_cache)
    folder = _folder(out)
    manifest = _build(build_request, folder)
    return _profile(folder, manifest, request, folder, as_json=json)


def _build_request(
    impl: list[str] | None,
    config: list[str] | None,
    dtype: str,
    device: list[str] | None,
    method: str,
    target: str,
    lnc: int,
    seed: int,
    time_limit: float | None,
    compile_cache: Path | None,
    *,
    flat_tokens: bool,
) -> BuildRequest:
    """What to build, checked as far as can be before anything is written."""
    from dataclasses import replace

    from npuscope.analysis.kernel_build import BuildRequest, check_device, check_request
    from npuscope.measure.settings import Settings
    from npuscope.workloads.kernels import choose
    from npuscope.workloads.mlp import DEFAULT_CONFIGS, parse_mlp_config

    devices = [check_device(name) for name in device or []]
    configs = [parse_mlp_config(text, dtype) for text in config or []]
    if not configs:
        configs = [replace(item, dtype=dtype) for item in DEFAULT_CONFIGS]
    Settings(seed=seed)  # refuses a seed that cannot be used
    request = BuildRequest(
        implementations=choose(impl or _default_names(devices), devices, flat_tokens=flat_tokens),
        configs=tuple(dict.fromkeys(configs)),
        method=method,
        target=target,
        lnc=lnc,
        seed=seed,
        time_limit_s=_checked_limit(time_limit),
        compile_cache=compile_cache,
    )
    for item in request.implementations:
        check_device(item.device)
    check_request(request)
    return request


def _default_names(devices: Sequence[str]) -> list[str]:
    """Everything of npuscope's own for the devices that were named; without any, what runs on every machine."""
    from npuscope.workloads.kernels import ENTRIES

    if not devices:
        return ["numpy", "jax"]
    return [entry.name for entry in ENTRIES if any(entry.runs_on(device) for device in devices)]


def _checked_limit(time_limit: float | None) -> float | None:
    if time_limit is not None and not 0 < time_limit <= 86_400:
        raise UsageError(f"--time-limit {time_limit:g} must lie between 0 and 86400 seconds")
    return time_limit


def _study_request(
    seed: int,
    rounds: int,
    max_seconds: float,
    iterations: int | None,
    nth_exec: int,
    time_limit: float | None,
    compile_cache: Path | None,
) -> StudyRequest:
    from npuscope.analysis.kernel_study import StudyRequest
    from npuscope.backends.neff_capture import MAX_EXECUTION
    from npuscope.measure.kernel_runs import check_rounds
    from npuscope.measure.settings import Settings

    check_rounds(rounds)
    if not 1 <= nth_exec <= MAX_EXECUTION:
        raise UsageError(f"--nth-exec {nth_exec} must lie between 1 and {MAX_EXECUTION:,}")
    return StudyRequest(
        settings=Settings(max_seconds=max_seconds, iterations=iterations, seed=seed),
        rounds=rounds,
        nth_execution=nth_exec,
        time_limit_s=_checked_limit(time_limit),
        compile_cache=compile_cache,
    )


def _folder(out: Path | None) -> Path:
    """The folder for everything, empty; made only once there is something to write."""
    from npuscope.cli.simulate import check_folder

    folder = out or Path("results") / f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-mlp"
    check_folder(folder)
    return folder


def _build(request: BuildRequest, folder: Path) -> KernelManifest:
    from npuscope.analysis.kernel_build import build
    from npuscope.measure.provenance import collect

    folder.mkdir(parents=True, exist_ok=True)
    with progress() as update:
        return build(request, folder, collect(), update)


def _profile(folder: Path, manifest: KernelManifest, request: StudyRequest, out: Path, *, as_json: bool) -> int:
    from npuscope.analysis.kernel_study import run_study
    from npuscope.measure.provenance import collect
    from npuscope.report.kernel_files import write_kernel_study

    provenance = collect()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with progress() as update:
            study = run_study(folder, manifest, request, out, update)
    except KeyboardInterrupt:
        remark(
            f"npuscope: interrupted; what was built is in {folder}; go on with: npuscope mlp profile {folder} --out NEW"
        )
        raise
    document = study.document()
    files = write_kernel_study(study, document, provenance, out)
    if as_json:
        print_json({**document, "out": out, "files": files})
    else:
        _show(study, out)
    return int(any(run.row.status != "ok" for run in study.runs))


def _show(study: KernelStudy, out: Path) -> None:
    from npuscope.report.kernel_tables import comparison_lines, sheets

    rows = [run.row for run in study.runs]
    screen = console()
    for sheet in sheets(rows):
        screen.print(sheet.grid())
        say("")
    tell(comparison_lines(study.comparisons))
    tell(f"warning: {row.implementation}, {row.config}: {text}" for row in rows for text in row.warnings)
    tell(f"note: {row.implementation}, {row.config}: {text}" for row in rows for text in row.notes)
    tell(dict.fromkeys(row.model_error for row in rows if row.model_error))
    tell(f"note: {note}" for note in study.notes)
    able = next((row for row in rows if row.profile), None)
    more = f"; npuscope analyze {out / able.profile}" if able is not None else ""
    tell([f"results: {out}; report.html, comparison.txt, results.csv, results.json{more}"])


def _build_document(manifest: KernelManifest) -> dict[str, Any]:
    return {"builds": manifest.builds, "inputs": manifest.inputs, "seed": manifest.seed}


def _show_build(manifest: KernelManifest, folder: Path) -> None:
    from npuscope.report.grid import table
    from npuscope.units import format_ns

    rows = [
        [
            item.name,
            f"{item.config.text}, {item.config.dtype}",
            item.device,
            item.status,
            format_ns(1e6 * item.compile_ms) if item.compile_ms is not None else "-",
            item.neff or ", ".join(item.files) or "nothing to compile",
            item.error,
        ]
        for item in manifest.builds
    ]
    failed = any(item.error for item in manifest.builds)
    headings = ["<kernel", "<config", "<device", "<status", "compile", "<kept", *(["<why"] if failed else [])]
    console().print(table(headings, [row if failed else row[:-1] for row in rows], title=f"built in {folder}"))
    tell(f"note: {item.name}: {note}" for item in manifest.builds for note in item.notes)
    say(f"next: npuscope mlp profile {folder}")
