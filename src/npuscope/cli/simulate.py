"""`npuscope simulate`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from npuscope.cli import predictions
from npuscope.cli.output import JsonFlag, console, print_json, progress, say, tell
from npuscope.errors import NpuscopeError, OutputError, UsageError, shorten
from npuscope.units import parse_fraction

if TYPE_CHECKING:
    from collections.abc import Callable

    from npuscope.analysis.analyze import Analysis
    from npuscope.simulate.neuroncore.options import ModelOptions
    from npuscope.simulate.simulation import EffectWorth, Simulation


_MAX_AXES = 3
"""Of a launch grid."""


def simulate(
    kernel: Annotated[
        str | None,
        typer.Argument(
            help="FILE.py:KERNEL, whose file's code is run, all of it; or an XLA program: HLO or StableHLO, packed with gzip or not."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="sim:inf2, sim:trn1, sim:trn2 or sim:trn3.")] = "sim:trn2",
    arg: Annotated[
        list[str] | None,
        typer.Option(
            help="In the kernel's order, or NAME=VALUE: float32[128,512] (seeded random values), a number, a word, or FILE.npy."
        ),
    ] = None,
    inputs: Annotated[
        str | None, typer.Option(help="FILE.py:FUNC that returns the list of arguments instead, or a dict by name.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="FILE.py:FUNC (or FUNC of the kernel's file) that returns what the kernel should."),
    ] = None,
    tolerance: Annotated[
        str | None, typer.Option(help="Allowed error, such as 1%; default: what the element types allow.")
    ] = None,
    grid: Annotated[str | None, typer.Option(help="Launch grid: programs per axis, such as 2,4.")] = None,
    lnc: Annotated[int, typer.Option(help="Physical cores per logical core; 2 on trn2 and trn3.")] = 1,
    seed: Annotated[int, typer.Option(help="Of random tensors.")] = 0,
    no_compute: Annotated[bool, typer.Option("--no-compute", help="Predict time only, no results: faster.")] = False,
    max_instructions: Annotated[
        int | None, typer.Option(help="Stop a kernel that issues more; default 5,000,000.")
    ] = None,
    buffers: Annotated[
        int, typer.Option(help="Assume that the compiler keeps at most so many buffers per tile; 0: what memory holds.")
    ] = 0,
    window: Annotated[
        int | None, typer.Option(help="Assume that it reorders within so many instructions; 1: program order.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option(help="Switch an effect of the model off; repeatable; `list` shows all.")
    ] = None,
    jax: Annotated[
        bool, typer.Option("--jax", help="FILE.py:FUNC is a JAX function: predict the XLA program that it traces to.")
    ] = False,
    trip_count: Annotated[
        int, typer.Option(help="XLA programs: iterations of loops whose count is not known before they run.")
    ] = 1,
    effects: Annotated[bool, typer.Option("--effects", help="Show what each effect of the model is worth.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Write run.json and the profile here; read it with analyze, query, export.")
    ] = None,
    validate: Annotated[
        bool, typer.Option("--validate", help="Compare the model with published measurements; needs no kernel.")
    ] = False,
    json: JsonFlag = False,
    debug: Annotated[  # noqa: ARG001 (taken out of the arguments before they are parsed: it is every command's)
        bool, typer.Option("--debug", help="Show the traceback of an error; the exit code stays.")
    ] = False,
) -> int:
    """Predict the time of a NeuronCore kernel or an XLA program without the hardware. A kernel's file is run: trust it first."""
    from npuscope.simulate.neuroncore.options import EFFECTS, ModelOptions

    if without == ["list"]:
        return _list_effects(EFFECTS, as_json=json)
    if validate:
        if kernel is not None:
            raise UsageError("--validate simulates kernels of its own; leave out the kernel")
        return _validate(as_json=json)
    if kernel is None:
        raise UsageError("no kernel given; npuscope simulate FILE.py:KERNEL --arg float32[128,512], or --validate")
    if no_compute and reference is not None:
        raise UsageError("--reference needs results to compare with; leave out --no-compute")
    if inputs is not None and arg:
        raise UsageError("--inputs makes all arguments; leave out --arg")
    from npuscope.cli import simulate_hlo

    is_program = jax or simulate_hlo.is_program_file(kernel)
    model = ModelOptions(window=ModelOptions().window if window is None else window, buffers=buffers)
    if is_program:
        kernels_only: dict[str, object] = {
            "--inputs": inputs, "--reference": reference, "--tolerance": tolerance, "--grid": grid, "--no-compute": no_compute,
            "--lnc": lnc != 1, "--arg": bool(arg) and not jax,
        }  # fmt: skip
        simulate_hlo.refuse_kernel_options(kernels_only)
        check_folder(out)
        program = simulate_hlo.ProgramRequest(
            target=kernel,
            is_function=jax,
            arguments=tuple(arg or ()),
            seed=_checked_seed(seed),
            device=device,
            trip_count=trip_count,
            max_instructions=max_instructions,
            options=model.without(without or ()),
            effects=effects,
        )
        return simulate_hlo.simulate_program(program, out, as_json=json)
    if trip_count != 1:
        raise UsageError("--trip-count is for XLA programs; a kernel's loops are traced")
    request = _Request(
        kernel=kernel,
        device=device,
        arguments=tuple(arg or ()),
        inputs=inputs,
        reference=reference,
        tolerance=None if tolerance is None else parse_fraction(tolerance, "--tolerance"),
        grid=_parse_grid(grid),
        lnc=lnc,
        seed=_checked_seed(seed),
        compute=not no_compute,
        max_instructions=max_instructions,
        options=model.without(without or ()),
        effects=effects,
    )
    check_folder(out)
    with progress() as update:
        simulation, worth = _run(request, update)
    return _finish(simulation, worth, request, out, as_json=json)


@dataclass(frozen=True)
class _Request:
    """What to simulate, as the options say."""

    kernel: str
    device: str
    arguments: tuple[str, ...]
    inputs: str | None
    reference: str | None
    tolerance: float | None
    grid: tuple[int, ...]
    lnc: int
    seed: int
    compute: bool
    max_instructions: int | None
    options: ModelOptions
    effects: bool


def _parse_grid(text: str | None) -> tuple[int, ...]:
    parts = [] if text is None else [part.strip() for part in re.split("[,x]", text)]
    if not all(re.fullmatch(r"[0-9]{1,9}", part, re.ASCII) and int(part) for part in parts) or len(parts) > _MAX_AXES:
        raise UsageError(f"--grid {shorten(text or '')!r} is no launch grid; write programs per axis, as in 2,4")
    return tuple(map(int, parts))


def _checked_seed(seed: int) -> int:
    if not 0 <= seed < 1 << 63:
        raise UsageError(f"--seed {seed} must lie between 0 and 2^63")
    return seed


def check_folder(out: Path | None) -> None:
    """Refuse, before the work, a folder that the results cannot go to."""
    if out is None:
        return
    try:
        occupied = next(out.iterdir(), None) if out.is_dir() else out.exists()
    except OSError as error:
        raise OutputError(f"{out} cannot be used for results: {error.strerror}") from error
    if occupied:
        reason = "is not empty" if out.is_dir() else "is a file, not a folder"
        raise UsageError(f"{out} {reason}; choose another --out")
    nearest = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not nearest.is_dir():
        raise OutputError(f"{out} cannot be made: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"{out} cannot be made: {nearest} cannot be written to")


def _run(request: _Request, update: Callable[[str], None]) -> tuple[Simulation, tuple[EffectWorth, ...]]:
    """Load, make arguments, simulate."""
    from npuscope.simulate.arguments import make_values, parse_argument
    from npuscope.simulate.neuroncore.devices import load_device
    from npuscope.simulate.nki.loader import DEFAULT_MAX_INSTRUCTIONS
    from npuscope.simulate.simulation import compare_effects, simulate_kernel
    from npuscope.simulate.user_code import call_inputs, is_jax_only, load_functions

    load_device(request.device)
    given = [parse_argument(text) for text in request.arguments]
    update(f"loading {request.kernel}")
    named = [text for text in (request.inputs, request.reference) if text is not None]
    kernel, *others = load_functions(request.kernel, *named)
    if request.inputs is not None:
        positional, keywords = call_inputs(others.pop(0))
    else:
        positional, keywords = make_values(given, seed=request.seed, compute=request.compute)
    try:
        simulation = simulate_kernel(
            kernel,
            *positional,
            keywords=keywords,
            device=request.device,
            grid=request.grid,
            lnc=request.lnc,
            compute=request.compute,
            reference=others[0] if others else None,
            tolerance=request.tolerance,
            options=request.options,
            max_instructions=DEFAULT_MAX_INSTRUCTIONS if request.max_instructions is None else request.max_instructions,
            tell=update,
        )
    except NpuscopeError as error:
        if not is_jax_only(kernel):
            raise
        raise UsageError(f"{error}; its file uses JAX and nothing of NKI: predict a JAX function with --jax") from error
    return simulation, compare_effects(simulation, update) if request.effects else ()


def _finish(
    simulation: Simulation, worth: tuple[EffectWorth, ...], request: _Request, out: Path | None, *, as_json: bool
) -> int:
    """Explain, write and show; 1 where a result is wrong."""
    from npuscope.analysis.analyze import analyze

    analysis = analyze(simulation.profile)
    own = {
        "max_abs_error": simulation.max_abs_error,
        "is_right": simulation.is_right if simulation.checks else None,
        "checks": simulation.checks,
        "grid": simulation.grid,
        "lnc": simulation.lnc,
        "seed": request.seed,
        "arguments": request.arguments,
        "lines": simulation.lines,
    }
    told = predictions.document(simulation, analysis, worth, out, {"kernel": simulation.kernel}, own)
    if out is not None:
        predictions.write(simulation, told, out)
    if as_json:
        print_json(told)
    else:
        _show(simulation, analysis, worth, request, out)
    return 0 if simulation.is_right else 1


def _show(
    simulation: Simulation,
    analysis: Analysis,
    worth: tuple[EffectWorth, ...],
    request: _Request,
    out: Path | None,
) -> None:
    from npuscope.report import simulation_tables

    bounding = simulation_tables.bounding_engine(analysis)
    predictions.show(
        simulation,
        analysis,
        worth,
        out,
        headline=simulation_tables.headline(simulation, analysis),
        head=simulation_tables.check_lines(simulation, request.reference or ""),
        tables=[simulation_tables.lines_table(simulation.lines, bounding)],
        foot=_core_lines(simulation),
    )


def _core_lines(simulation: Simulation) -> list[str]:
    """Of several physical cores: which part of the time is their launch, and whether one has nothing to do."""
    from npuscope.report.simulation_tables import core_lines
    from npuscope.simulate.neuroncore.devices import load_device
    from npuscope.simulate.neuroncore.profile import launch_ns

    launch = launch_ns(load_device(simulation.device), len(simulation.programs))
    return core_lines(simulation.lnc, [len(program) for program in simulation.programs], launch)


def _validate(*, as_json: bool) -> int:
    """Published measurements against predictions."""
    from npuscope.report.validation_tables import errors_table, points_table, validation_lines
    from npuscope.simulate.validation import validate

    with progress() as update:
        report = validate(tell=update)
    if as_json:
        print_json(report.document())
        return 0
    tell(validation_lines(report))
    for made in (errors_table(report), points_table(report)):
        say("")
        console().print(made)
    return 0


def _list_effects(effects: dict[str, str], *, as_json: bool) -> int:
    if as_json:
        print_json(effects)
        return 0
    width = max(map(len, effects))
    tell(f"{name:<{width}}  {text}" for name, text in effects.items())
    return 0
