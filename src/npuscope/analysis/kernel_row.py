"""What is told of one implementation for one set of sizes: where its figures are from, and everything that was kept behind them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from npuscope.formats.hlo import HloModule
from npuscope.profile.tables import Profile

WALL_CLOCK: Final = "wall-clock"
"""The host's clock around each execution: dispatch and everything else that the host does is in it."""
DEVICE: Final = "device"
"""The device's own clock, in captures of steady executions."""
SIMULATED: Final = "simulated"
"""Predicted; no device ran it."""


@dataclass(frozen=True, slots=True)
class KernelRow:
    """One row of the results. Times of `steady_ms` are of `method`, and rows of different methods are not compared."""

    implementation: str
    device: str
    is_simulated: bool
    method: str
    """`wall-clock`, `device` or `simulated`."""
    config: str
    """`b=1, s=128, h=1024, i=512`."""
    batch: int
    sequence: int
    hidden: int
    intermediate: int
    dtype: str
    status: str
    """`ok` or `failed`."""
    error: str = ""
    compile_ms: float | None = None
    """Of the compiler alone, as it was built; None where nothing is compiled, or nothing tells it apart."""
    compile_cache: str = ""
    first_ms: float | None = None
    """The first execution after compiling, by the host's clock; None where no host ran it."""
    steady_ms: float | None = None
    """Median of the rounds' medians, by `method`."""
    steady_ci_low_ms: float | None = None
    """95 % interval of the median over rounds; None of a prediction."""
    steady_ci_high_ms: float | None = None
    samples: int = 0
    rounds: int = 0
    """Fresh processes, or captures."""
    round_medians_ms: tuple[float, ...] = ()
    """Of each round, in order: what the interval, and the ratios, are from."""
    dispatch_floor_ms: float | None = None
    """Median of an empty program on the same path, where the host's clock is the method."""
    dispatches: float | None = None
    """Compiled programs that an execution runs, counted in a trace; None where none was taken."""
    host_ms: float | None = None
    """Median of a call through the framework by the host's clock, where the method is another; dispatch is in it."""
    host_recompilations: float | None = None
    """Compilations per such call, by the framework's own counter; more than 0 is what makes it take seconds."""
    tensor_us: float | None = None
    """Active time of the engine within the kernel; None where there is no profile."""
    vector_us: float | None = None
    scalar_us: float | None = None
    gpsimd_us: float | None = None
    sync_us: float | None = None
    dma_us: float | None = None
    mfu: float | None = None
    """Model FLOPs over what TensorE could do in the kernel's time; a fraction."""
    bound: str = ""
    max_abs_error: float | None = None
    """Of any element, against float64; None where no result could be had."""
    error_over_mass: float | None = None
    is_checked: bool = False
    """The result was compared with float64, and is right."""
    check_of: str = ""
    """Which result was compared, in words."""
    compute_dtype: str = ""
    lnc: int = 1
    inputs_sha256: str = ""
    device_description: str = ""
    compiler_version: str = ""
    model_error: str = ""
    """Of a prediction: how far the model was off on published figures."""
    profile: str = ""
    """Folder of its Profile, relative to the results."""
    warnings: tuple[str, ...] = ()
    """What makes a figure mean less than it seems to."""
    notes: tuple[str, ...] = ()
    """What else should be known of how it came about."""


@dataclass(frozen=True, slots=True)
class KernelRun:
    """A row with everything behind it."""

    row: KernelRow
    program: HloModule | None = field(default=None, repr=False)
    """What a framework of the host compiled, where it is one XLA program."""
    profile: Profile | None = field(default=None, repr=False)
    """The prediction's, or of the captures the one with the median time."""
    captures: tuple[dict[str, Any], ...] = ()
    """Of each capture: file, round, execution, time."""

    @property
    def hardware(self) -> str:
        """What executes it: names of one processor's frameworks are one."""
        on_host = self.row.device == "cpu" or self.row.device.endswith(":cpu")
        return f"this host ({self.row.device_description})" if on_host else self.row.device
