"""A kernel from its file to its predicted time: load, call with values, trace, schedule, compare with a reference.

Running a kernel is running its file's code: Python, with all that Python may do. Nothing else in npuscope does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.errors import UsageError
from npuscope.profile.tables import Profile, conform
from npuscope.simulate.checking import OutputCheck, check_outputs, is_floating
from npuscope.simulate.neuroncore.devices import MODEL_NAME, SimDevice, load_device
from npuscope.simulate.neuroncore.machine import Run, run_program
from npuscope.simulate.neuroncore.options import EFFECTS, ModelOptions
from npuscope.simulate.neuroncore.profile import predicted_total_ns, run_profile
from npuscope.simulate.neuroncore.program import Program
from npuscope.simulate.nki.argument_types import check_types
from npuscope.simulate.nki.loader import DEFAULT_MAX_INSTRUCTIONS, TensorSpec, trace_kernel
from npuscope.simulate.source_lines import LineUse, line_uses
from npuscope.simulate.user_code import (
    call_reference,
    function_name,
    load_functions,
    printing_to_stderr,
    source_path,
)

_LAST_SINGLE = 2
"""NeuronCore-v2 and before are not joined."""
_MOST_CORES = 2
"""Physical cores per logical core, from NeuronCore-v3 on (NEURON_LOGICAL_NC_CONFIG)."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a kernel is predicted to do on a device; nothing of it was measured."""

    kernel: str
    """`softmax.py:softmax`."""
    device: str
    """`sim:trn1`."""
    model: str
    """Structure and constants of the timing model, by name."""
    grid: tuple[int, ...]
    """Programs per axis of the launch grid; () without one."""
    lnc: int
    """Physical cores per logical core."""
    options: ModelOptions
    total_time_ns: float
    """From the first instruction to the last result in HBM, on the core that ends last."""
    instruction_count: int
    """Of all cores, DMAs among them, without what the model inserted."""
    lines: tuple[LineUse, ...]
    """Which source line keeps which engine busy, the longest first."""
    checks: tuple[OutputCheck, ...]
    """Each output against the reference; () without one."""
    computed: bool
    """Results were computed, not only times."""
    outputs: tuple[npt.NDArray[Any], ...]
    """What the kernel returned or wrote; () where it was not computed."""
    profile: Profile
    """The simulated capture, with `Metadata.is_simulation` set."""
    programs: tuple[Program, ...]
    """What was recorded, one per physical core."""
    notes: tuple[str, ...] = ()
    """What makes the results or the time mean less than they seem to, such as a result that was never written."""

    @property
    def is_simulated(self) -> bool:
        """True: no device ran this."""
        return True

    @property
    def max_abs_error(self) -> float | None:
        """The largest error of any output; None without a reference."""
        return max((check.max_abs_error for check in self.checks), default=None)

    @property
    def is_right(self) -> bool:
        """No output is farther from its reference than its types allow."""
        return all(check.passed for check in self.checks)


@dataclass(frozen=True, slots=True)
class EffectWorth:
    """The time that a kernel would take if one effect did not exist."""

    effect: str
    description: str
    total_time_ns: float


def simulate_kernel(
    kernel: str | Path | Callable[..., Any],
    *args: Any,
    keywords: Mapping[str, Any] | None = None,
    device: str = "trn2",
    grid: Sequence[int] = (),
    lnc: int = 1,
    compute: bool = True,
    reference: Callable[..., Any] | None = None,
    tolerance: float | None = None,
    options: ModelOptions | None = None,
    max_instructions: int = DEFAULT_MAX_INSTRUCTIONS,
    tell: Tell = lambda _: None,
) -> Simulation:
    """Predict how long a kernel takes on a device that need not be there. Runs the kernel's code.

    Args:
        kernel: A function, decorated or not, or `FILE.py:NAME`.
        *args: NumPy arrays and plain values, in the kernel's order.
        keywords: Arguments by name.
        device: `trn1`, `inf2`, `trn2` or `trn3`; `sim:` may stand before it.
        grid: Programs per axis, as in `kernel[2, 4](...)`.
        lnc: 2 runs a grid on two physical cores that share HBM (trn2, trn3).
        compute: Compute results as well; without them only times are predicted, faster.
        reference: Takes the same arguments and returns what the kernel should.
        tolerance: Allowed error of each element over |reference| + rms(reference); by default what the types allow.
        options: What the model assumes of the compiler.
        max_instructions: A kernel that issues more is stopped.
        tell: Is called with a line about what is done now.

    Raises:
        UsageError: An unknown device, or arguments that the kernel does not take.
        KernelError: The kernel does what the hardware, NKI or the simulator does not allow, or raises something.
        FormatError: The reference returns other shapes.
    """
    if reference is not None and not compute:
        raise UsageError("a reference needs results to compare with; leave out --no-compute or --reference")
    core = load_device(device)
    options = options or ModelOptions()
    _check_launch(core, lnc, max_instructions)
    function = kernel if callable(kernel) else load_functions(str(kernel))[0]
    named = dict(keywords or {})
    name = function_name(function)
    check_types(args, named)
    expected = None
    if reference is not None:
        tell(f"computing the reference {function_name(reference)}")
        expected = call_reference(reference, args, named)
    tell(f"tracing {name}")
    with printing_to_stderr():
        traced = trace_kernel(
            function,
            args,
            kwargs=named,
            device=core,
            grid=tuple(grid),
            lnc=lnc,
            compute=compute,
            max_instructions=max_instructions,
        )
    outputs = tuple(output for output in traced.outputs if isinstance(output, np.ndarray))
    checks: tuple[OutputCheck, ...] = ()
    if expected is not None and reference is not None:
        arrays = [value.dtype for value in (*args, *named.values()) if isinstance(value, np.ndarray)]
        floating = [dtype for dtype in arrays if is_floating(dtype)]
        checks = check_outputs(outputs, expected, inputs=floating, source=function_name(reference), tolerance=tolerance)
    tell(f"scheduling {traced.instruction_count:,} instructions of {name}")
    runs = _run(traced.programs, core, options)
    return Simulation(
        kernel=name,
        device=core.name,
        model=MODEL_NAME,
        grid=traced.grid,
        lnc=lnc,
        options=options,
        total_time_ns=predicted_total_ns(runs),
        instruction_count=traced.instruction_count,
        lines=line_uses(runs),
        checks=checks,
        computed=compute,
        outputs=outputs,
        profile=_with_tensors(
            run_profile(runs, kernel=name, source_path=source_path(function)), [*args, *named.values()], traced.outputs
        ),
        programs=traced.programs,
        notes=traced.notes,
    )


def _with_tensors(profile: Profile, inputs: Sequence[Any], outputs: Sequence[Any]) -> Profile:
    """The profile with the kernel's inputs and outputs, by which a comparison tells that the work is the same."""
    tensors = [("IN", value) for value in inputs if isinstance(value, np.ndarray | TensorSpec)]
    tensors += [("OUT", value) for value in outputs]
    rows = {
        "variable_name": [f"{kind.lower()}{index}" for index, (kind, _) in enumerate(tensors)],
        "type": [kind for kind, _ in tensors],
        "format": [value.dtype.name for _, value in tensors],
        "shape": [str(list(value.shape)) for _, value in tensors],
        "size": [math.prod(value.shape) * value.dtype.itemsize for _, value in tensors],
    }
    if not tensors:
        return profile
    table = conform("TensorInfo", rows, source=profile.source)
    return replace(profile, tables=MappingProxyType({**profile.tables, "TensorInfo": table}))


def _run(programs: Sequence[Program], core: SimDevice, options: ModelOptions) -> list[Run]:
    return [run_program(program, core, options) for program in programs]


def _check_launch(core: SimDevice, lnc: int, max_instructions: int) -> None:
    most = _MOST_CORES if core.nc_version > _LAST_SINGLE else 1
    if not 1 <= lnc <= most:
        raise UsageError(
            f"--lnc {lnc}: a logical core of {core.name} has {most} physical core{'s' * (most > 1)} at most"
        )
    if max_instructions < 1:
        raise UsageError(f"--max-instructions {max_instructions}: at least 1")


def compare_effects(simulation: Simulation, tell: Tell = lambda _: None) -> tuple[EffectWorth, ...]:
    """What each effect of the model is worth: the kernel scheduled again with one of them switched off at a time.

    Raises:
        NpuscopeError: The program cannot run without one of them.
    """
    return worth_of_effects(simulation.programs, simulation.device, simulation.options, tell)


def worth_of_effects(
    programs: Sequence[Program], device: str, options: ModelOptions, tell: Tell = lambda _: None
) -> tuple[EffectWorth, ...]:
    """As `compare_effects`, of recorded programs, one per physical core."""
    core = load_device(device)
    worth = []
    for effect, description in EFFECTS.items():
        if options.has(effect):
            tell(f"scheduling without {effect}")
            runs = _run(programs, core, options.without([effect]))
            worth.append(EffectWorth(effect, description, predicted_total_ns(runs)))
    return tuple(worth)
