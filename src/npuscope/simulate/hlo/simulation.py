"""The predicted time of an XLA program on a NeuronCore: from a file, or from a JAX function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from npuscope.errors import UsageError
from npuscope.formats.hlo import HloModule
from npuscope.formats.hlo_inspection import has_fusions
from npuscope.formats.hlo_reader import parse_hlo, read_hlo_bytes
from npuscope.formats.hlo_text import is_text_program
from npuscope.profile.tables import Profile, conform
from npuscope.simulate.hlo.lowering import DEFAULT_MAX_INSTRUCTIONS, Loop, Lowered, lower_module
from npuscope.simulate.neuroncore.devices import MODEL_NAME, load_device
from npuscope.simulate.neuroncore.machine import run_program
from npuscope.simulate.neuroncore.options import ModelOptions
from npuscope.simulate.neuroncore.profile import predicted_total_ns, run_profile
from npuscope.simulate.neuroncore.program import Program
from npuscope.simulate.source_lines import LineUse, line_uses

Tell = Callable[[str], None]
HLO_MODEL = f"{MODEL_NAME}+hlo-2"
"""Names the timing model and the lowering; changes when either does."""
LOWERING_CAVEAT = (
    "the instructions are npuscope's lowering of the XLA program; the vendor's compiler fuses, tiles and schedules by rules of "
    "its own, which no source publishes, so that errors are larger than those of kernels"
)
OPTIMISED = (
    "the program has fusions: XLA optimised it for another device, and what it merged or reordered is not what a NeuronCore's "
    "compiler would be given; simulate the program as the framework lowered it"
)


@dataclass(frozen=True, slots=True)
class UnloweredOp:
    """An op that npuscope has no lowering for: GpSimd stands for it at a conservative cost."""

    op: str
    opcode: str
    source_line: str
    busy_ns: float
    share_of_time: float
    """Busy time over the predicted time of the program; a fraction."""


@dataclass(frozen=True, slots=True)
class HloSimulation:
    """What an XLA program is predicted to do on a device; nothing of it was measured."""

    program: str
    """Name of the module."""
    source: str
    device: str
    """`sim:trn2`."""
    model: str
    options: ModelOptions
    total_time_ns: float
    """From the first instruction to the last result in HBM, with the launch."""
    op_count: int
    """Ops of the module, all computations together."""
    executed_op_count: int
    """Ops that were looked at, those of called and repeated computations each time."""
    hlo_bytes: int
    instruction_count: int
    """Device instructions, DMAs among them, without what the memory model inserted."""
    ops: tuple[LineUse, ...]
    """Which op keeps which engine busy, the longest first; `line` is the op's name."""
    source_lines: MappingProxyType[str, str]
    """Op to the user's line, `model.py:12`, where the program tells."""
    loops: tuple[Loop, ...]
    unlowered: tuple[UnloweredOp, ...]
    profile: Profile
    """The simulated capture, with `Metadata.is_simulation` set."""
    programs: tuple[Program, ...]
    is_optimised: bool = False
    """XLA has fused it for another device."""
    notes: tuple[str, ...] = ()

    @property
    def is_simulated(self) -> bool:
        """True: no device ran this."""
        return True

    @property
    def unlowered_share(self) -> float:
        """Of the predicted time, what conservative costs stand for; a fraction."""
        return min(1.0, sum(item.share_of_time for item in self.unlowered))


def read_program(path: Path) -> HloModule:
    """An HLO module from a file, gzip or not: serialized, or as text, which takes JAX.

    Raises:
        FormatError: The file is damaged, or no XLA program.
        UnavailableError: It is text, and JAX is not installed.
    """
    data = read_hlo_bytes(path)
    if not is_text_program(data):
        return parse_hlo(data, source=str(path))
    from npuscope.backends.jax_programs import module_from_text

    return parse_hlo(module_from_text(data, str(path)), source=str(path))


def predict(
    function: Callable[..., Any],
    *example_args: Any,
    device: str = "trn2",
    options: ModelOptions | None = None,
    trip_count: int = 1,
    max_instructions: int = DEFAULT_MAX_INSTRUCTIONS,
) -> HloSimulation:
    """Predict how long a JAX function takes on a NeuronCore that need not be there. Traces the function, runs nothing.

    Args:
        function: Anything that `jax.jit` takes.
        *example_args: Arrays, or `jax.ShapeDtypeStruct`s: only shapes and types count.
        device: `trn1`, `inf2`, `trn2` or `trn3`; `sim:` may stand before it.
        options: What the model assumes of the compiler.
        trip_count: Assumed of loops whose trip count is not known before they run.
        max_instructions: A program that needs more is refused.

    Raises:
        UsageError: An unknown device, or the function does not trace for these arguments.
        UnavailableError: JAX is not installed.
        InstructionLimitError: The program has more instructions than `max_instructions`.
    """
    from npuscope.backends.jax_programs import module_from_function

    load_device(device)
    name = getattr(function, "__name__", type(function).__name__)
    module = parse_hlo(module_from_function(function, *example_args), source=name)
    return simulate_module(
        module, device=device, options=options, trip_count=trip_count, max_instructions=max_instructions
    )


def simulate_module(
    module: HloModule,
    *,
    device: str = "trn2",
    options: ModelOptions | None = None,
    trip_count: int = 1,
    max_instructions: int = DEFAULT_MAX_INSTRUCTIONS,
    tell: Tell = lambda _: None,
) -> HloSimulation:
    """Predict the time of an HLO module on one NeuronCore.

    Args:
        module: From `read_program`.
        device: `trn1`, `inf2`, `trn2` or `trn3`; `sim:` may stand before it.
        options: What the model assumes of the compiler.
        trip_count: Assumed of loops whose trip count the program does not tell.
        max_instructions: A program that needs more is refused.
        tell: Is called with a line about what is done now.

    Raises:
        UsageError: An unknown device, or a value out of range.
        InstructionLimitError: The program has more instructions than `max_instructions`.
        NpuscopeError: It is too large for the device or the simulator.
    """
    core = load_device(device)
    if trip_count < 0:
        raise UsageError(f"--trip-count {trip_count}: at least 0")
    if max_instructions < 1:
        raise UsageError(f"--max-instructions {max_instructions}: at least 1")
    options = options or ModelOptions()
    tell(f"lowering {module.op_count:,} ops of {module.name}")
    lowered = lower_module(
        module,
        nc_version=core.nc_version,
        sbuf_usable_bytes=core.sbuf_usable_bytes,
        assumed_trip_count=trip_count,
        max_instructions=max_instructions,
    )
    tell(f"scheduling {lowered.instruction_count:,} instructions of {module.name}")
    run = run_program(lowered.program, core, options)
    is_optimised = has_fusions(module)
    total_ns = predicted_total_ns([run])
    uses = line_uses([run])
    origins = _origins(module, lowered.program.lines)
    profile = run_profile([run], kernel=module.name, source_path=module.source, labels=_labels(lowered, origins))
    return HloSimulation(
        program=module.name,
        source=module.source,
        device=core.name,
        model=HLO_MODEL,
        options=options,
        total_time_ns=total_ns,
        op_count=module.op_count,
        executed_op_count=lowered.executed_op_count,
        hlo_bytes=module.size_bytes,
        instruction_count=lowered.instruction_count,
        ops=uses,
        source_lines=MappingProxyType({name: line for name, (line, _) in origins.items() if line}),
        loops=lowered.loops,
        unlowered=_unlowered(lowered, uses, total_ns, origins),
        profile=_with_tensors(profile, module),
        programs=(lowered.program,),
        is_optimised=is_optimised,
        notes=(LOWERING_CAVEAT, *((OPTIMISED,) if is_optimised else ()), *lowered.notes),
    )


def _origins(module: HloModule, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Op to the user's line and the framework's name of it, for the ops that made instructions."""
    wanted = set(names)
    found: dict[str, tuple[str, str]] = {}
    for computation in module.computations:
        for op in computation.ops:
            if op.name in wanted:
                layer = op.details.metadata.op_name.decode("utf-8", "replace")
                found[op.name] = module.source_line(op), layer
    return found


def _labels(lowered: Lowered, origins: dict[str, tuple[str, str]]) -> dict[str, list[str]]:
    """Columns of the instruction table that name the op, by the program's lines."""
    lines = lowered.program.lines
    return {
        "hlo_name": list(lines),
        "layer": [origins.get(name, ("", ""))[1] for name in lines],
        "bir_debug_info_source_location": [origins.get(name, ("", ""))[0] for name in lines],
    }


def _unlowered(
    lowered: Lowered, uses: Sequence[LineUse], total_ns: float, origins: dict[str, tuple[str, str]]
) -> tuple[UnloweredOp, ...]:
    busy: dict[str, float] = {}
    for use in uses:
        if use.line in lowered.unlowered and "unlowered" in use.opcodes:
            busy[use.line] = busy.get(use.line, 0.0) + use.busy_ns
    found = [
        UnloweredOp(name, opcode, origins.get(name, ("", ""))[0], busy.get(name, 0.0), busy.get(name, 0.0) / total_ns)
        for name, opcode in lowered.unlowered.items()
    ]
    return tuple(sorted(found, key=lambda item: -item.busy_ns))


def _with_tensors(profile: Profile, module: HloModule) -> Profile:
    """The profile with the program's parameters and results, by which a comparison tells that the work is the same."""
    entry = module.entry_computation
    inputs = [entry.ops[place].shape for place in entry.parameters]
    result = entry.ops[entry.root].shape
    outputs = result.parts or (result,)
    tensors = [("IN", shape) for shape in inputs] + [("OUT", shape) for shape in outputs]
    if not tensors:
        return profile
    rows = {
        "variable_name": [f"{kind.lower()}{index}" for index, (kind, _) in enumerate(tensors)],
        "type": [kind for kind, _ in tensors],
        "format": [shape.element_type for _, shape in tensors],
        "shape": [str(list(shape.dimensions)) for _, shape in tensors],
        "size": [shape.bytes for _, shape in tensors],
    }
    table = conform("TensorInfo", rows, source=profile.source)
    return replace(profile, tables=MappingProxyType({**profile.tables, "TensorInfo": table}))
