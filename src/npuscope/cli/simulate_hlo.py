"""`npuscope simulate` of XLA programs: an HLO or StableHLO file, or a JAX function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npuscope.cli import predictions
from npuscope.cli.output import print_json, progress
from npuscope.errors import UsageError, shorten

if TYPE_CHECKING:
    from npuscope.analysis.analyze import Analysis
    from npuscope.simulate.hlo.simulation import HloSimulation
    from npuscope.simulate.neuroncore.options import ModelOptions
    from npuscope.simulate.simulation import EffectWorth


@dataclass(frozen=True)
class ProgramRequest:
    """What to predict, as the options say."""

    target: str
    """A file, or `FILE.py:FUNC` of a JAX function."""
    is_function: bool
    arguments: tuple[str, ...]
    seed: int
    device: str
    trip_count: int
    max_instructions: int | None
    options: ModelOptions
    effects: bool


_PROGRAM_ENDINGS = (".hlo", ".pb", ".gz", ".mlir", ".txt")


def is_program_file(target: str) -> bool:
    """Whether a target names a file as a whole, not a function in one.

    Raises:
        UsageError: It is named like a program and is not there.
    """
    try:
        if Path(target).is_file():
            return not target.endswith(".py")
    except (OSError, ValueError):  # no name that a file could have
        return False
    if target.endswith(_PROGRAM_ENDINGS):
        raise UsageError(f"no file {shorten(target, 200)!r} with an XLA program")
    if Path(target).exists() and ":" not in target and not target.endswith(".py"):
        raise UsageError(
            f"{shorten(target, 200)!r} is no regular file; simulate takes a file with an XLA program, or FILE.py:NAME"
        )
    return False


def refuse_kernel_options(given: dict[str, object]) -> None:
    """Options that only kernels take.

    Raises:
        UsageError: One was given.
    """
    for name, value in given.items():
        if value:
            raise UsageError(
                f"{name} is for kernels; an XLA program takes --device, --trip-count and options of the model"
            )


def simulate_program(request: ProgramRequest, out: Path | None, *, as_json: bool) -> int:
    """Predict, explain, write and show."""
    from npuscope.analysis.analyze import analyze

    with progress() as update:
        simulation = _run(request, update)
        worth = _worth(simulation, update) if request.effects else ()
    analysis = analyze(simulation.profile)
    own = {
        "hlo_ops": simulation.op_count,
        "hlo_bytes": simulation.hlo_bytes,
        "executed_ops": simulation.executed_op_count,
        "loops": simulation.loops,
        "unlowered": simulation.unlowered,
        "unlowered_share": simulation.unlowered_share,
        "trip_count": request.trip_count,
        "ops": [{**_fields(use), "source_line": simulation.source_lines.get(use.line, "")} for use in simulation.ops],
    }
    subject = {"program": simulation.program, "source": simulation.source}
    told = predictions.document(simulation, analysis, worth, out, subject, own)
    if out is not None:
        predictions.write(simulation, told, out)
    if as_json:
        print_json(told)
    else:
        _show(simulation, analysis, worth, out)
    return 0


def _run(request: ProgramRequest, update: Callable[[str], None]) -> HloSimulation:
    from npuscope.simulate.hlo.lowering import DEFAULT_MAX_INSTRUCTIONS
    from npuscope.simulate.hlo.simulation import predict, read_program, simulate_module
    from npuscope.simulate.neuroncore.devices import load_device

    load_device(request.device)
    limit = DEFAULT_MAX_INSTRUCTIONS if request.max_instructions is None else request.max_instructions
    if not request.is_function:
        update(f"reading {request.target}")
        return simulate_module(
            read_program(Path(request.target)),
            device=request.device,
            options=request.options,
            trip_count=request.trip_count,
            max_instructions=limit,
            tell=update,
        )
    import numpy as np

    from npuscope.simulate.arguments import make_values, parse_argument
    from npuscope.simulate.nki.loader import TensorSpec
    from npuscope.simulate.user_code import load_functions

    given = [parse_argument(text) for text in request.arguments]
    update(f"loading {request.target}")
    (function,) = load_functions(request.target)
    positional, keywords = make_values(given, seed=request.seed, compute=False)
    update(f"tracing {request.target}")

    # Arrays by name are parameters of the program too: as values that the function closes over they would be constants of it.
    names = [name for name, value in keywords.items() if isinstance(value, np.ndarray | TensorSpec)]

    def call(*args: Any) -> Any:
        named = dict(zip(names, args[len(positional) :], strict=True))
        return function(*args[: len(positional)], **{**keywords, **named})

    call.__name__ = getattr(function, "__name__", "function")
    return predict(
        call,
        *positional,
        *(keywords[name] for name in names),
        device=request.device,
        options=request.options,
        trip_count=request.trip_count,
        max_instructions=limit,
    )


def _worth(simulation: HloSimulation, update: Callable[[str], None]) -> tuple[EffectWorth, ...]:
    from npuscope.simulate.simulation import worth_of_effects

    return worth_of_effects(simulation.programs, simulation.device, simulation.options, update)


def _fields(use: Any) -> dict[str, Any]:
    from dataclasses import fields

    made = {item.name: getattr(use, item.name) for item in fields(use)}
    return {"op": made.pop("line"), **made}


def _show(simulation: HloSimulation, analysis: Analysis, worth: tuple[EffectWorth, ...], out: Path | None) -> None:
    from npuscope.report import hlo_tables, simulation_tables

    bounding = simulation_tables.bounding_engine(analysis)
    predictions.show(
        simulation,
        analysis,
        worth,
        out,
        headline=hlo_tables.headline(simulation, analysis),
        head=hlo_tables.program_lines(simulation),
        tables=[hlo_tables.ops_table(simulation, bounding), hlo_tables.unlowered_table(simulation)],
        told=hlo_tables.caveats(simulation),
        is_advised=not simulation.is_optimised,  # what XLA did for another device is not the user's to mend
    )
