"""Ways to tile a matmul onto a kernel of fixed size: which design, how many dispatches, what each one carries.

From one dispatch per 64x64x64 tile to one dispatch in all. Each names what it claims;
what is sent is counted elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Protocol

from npuscope.errors import MeasurementError, UsageError, unknown_name
from npuscope.hardware.model import XdnaArray
from npuscope.tiling.xdna_candidates import PlanRequest
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.tiling.xdna_plan import plan_matmul
from npuscope.tiling.xdna_time import Calibration
from npuscope.workloads.dtypes import ELEMENT_TYPES

EDGE: Final = 64
"""Of the tile that these strategies are about: mlir-aie's usual one."""
PACKED_TILES: Final = 64
"""Tiles of one packed dispatch, unless asked otherwise."""
ROWS_PER_CALL: Final = 256
"""Rows of one dispatch that takes several rows of tiles."""
LOOP_BATCH: Final = 8
_REPEATS: Final = 64  # of a descriptor, on both arrays


class Planned(Protocol):
    """What cutting a problem needs to know of a device."""

    @property
    def array(self) -> XdnaArray:
        """Facts of the array."""
        ...

    @property
    def calibration(self) -> Calibration:
        """Of its kernels, by which the best design is chosen."""
        ...

    @property
    def clock_ghz(self) -> float | None:
        """Of the array; the calibration's when None."""
        ...


@dataclass(frozen=True, slots=True)
class Tiling:
    """A problem cut into dispatches."""

    strategy: str
    design: XdnaDesign
    """Of one dispatch."""
    grid: tuple[int, int, int]
    """Dispatches, or packed tiles, along M, K and N; partial results along K are added on the host."""
    claimed_dispatches: int
    """What the strategy says it sends."""
    list_length: int = 0
    """Commands of a run list; 0 where runs are started one by one."""
    keeps_buffers: bool = True
    """Buffers are made once and used again; the batched loop makes three for every call."""
    resident_b: bool = True
    """Each block of B has a buffer of its own that is filled once; else B is packed again for every dispatch."""

    @property
    def padded(self) -> tuple[int, int, int]:
        """M, K and N that the dispatches cover."""
        steps = (self.design.M, self.design.K, self.design.N)
        return (self.grid[0] * steps[0], self.grid[1] * steps[1], self.grid[2] * steps[2])

    @property
    def calls(self) -> int:
        """Dispatches, or packed tiles, in all."""
        return self.grid[0] * self.grid[1] * self.grid[2]


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way."""

    name: str
    title: str
    """In a few words, for tables."""
    tile: Callable[[PlanRequest, Planned, int], Tiling]
    """From a problem, a device and a batch (0: the usual one)."""
    stock_design: bool = True
    """A design of mlir-aie's examples does it; else one would have to be written."""


def _single(problem: PlanRequest, call: tuple[int, int, int], batch: int = 1) -> XdnaDesign:
    """A design of one core with tiles of 64."""
    itemsize, out_itemsize = (ELEMENT_TYPES[name].itemsize for name in (problem.dtype, problem.out_dtype))
    # Two buffers each of 64x64 two-byte operands and four-byte results are all of a core's memory: half of k then.
    k = EDGE // 2 if (itemsize, out_itemsize) == (2, 4) else EDGE
    return XdnaDesign(
        *call,
        EDGE,
        k,
        EDGE,
        dtype=problem.dtype,
        out_dtype=problem.out_dtype,
        batch=batch,
        multiplication=problem.multiplication,
        rounding=problem.rounding,
    )


def _ceil(size: int, step: int) -> int:
    return -(-size // step)


def _grid(problem: PlanRequest, design: XdnaDesign) -> tuple[int, int, int]:
    return _ceil(problem.M, design.M), _ceil(problem.K, design.K), _ceil(problem.N, design.N)


def _per_call(
    name: str, problem: PlanRequest, design: XdnaDesign, *, resident_b: bool = True, keeps_buffers: bool = True
) -> Tiling:
    grid = _grid(problem, design)
    claimed = grid[0] * grid[1] * grid[2]
    return Tiling(name, design, grid, claimed, resident_b=resident_b, keeps_buffers=keeps_buffers)


_TILE: Final = (EDGE, EDGE, EDGE)


def _per_tile(problem: PlanRequest, _platform: Planned, _batch: int) -> Tiling:
    return _per_call("per-tile", problem, _single(problem, _TILE), resident_b=False)


def _batched_loop(problem: PlanRequest, _platform: Planned, batch: int) -> Tiling:
    design = _single(problem, _TILE)
    grid = _grid(problem, design)
    claimed = grid[0] * _ceil(grid[2], batch or LOOP_BATCH) * grid[1]  # as quick_benchmark.count_calls computes it
    return Tiling("batched-loop", design, grid, claimed, keeps_buffers=False, resident_b=False)


def _whole_n(problem: PlanRequest) -> int:
    """All of N, or as much as a shim's descriptor repeats its tiles."""
    return min(_ceil(problem.N, EDGE), _REPEATS) * EDGE


def _row(problem: PlanRequest, _platform: Planned, _batch: int) -> Tiling:
    return _per_call("row", problem, _single(problem, (EDGE, EDGE, _whole_n(problem))))


def _k_on_device(problem: PlanRequest, _platform: Planned, _batch: int) -> Tiling:
    call = (EDGE, _ceil(problem.K, EDGE) * EDGE, _whole_n(problem))
    return _per_call("k-on-device", problem, _single(problem, call))


def planned_design(problem: PlanRequest, platform: Planned) -> XdnaDesign:
    """The design of the best plan for a problem.

    Raises:
        MeasurementError: No design is legal.
    """
    plans = plan_matmul(problem, platform.array, platform.calibration, platform.clock_ghz, top=1).plans
    if not plans:
        raise MeasurementError(
            f"no design for {problem.M}x{problem.K}x{problem.N} {problem.dtype} is legal; see npuscope xdna plan"
        )
    return plans[0].design(problem)


def _several_rows(problem: PlanRequest, platform: Planned, _batch: int) -> Tiling:
    part = replace(problem, M=min(problem.M, ROWS_PER_CALL))
    return _per_call("several-rows", problem, planned_design(part, platform))


def _packed(problem: PlanRequest, _platform: Planned, batch: int) -> Tiling:
    calls = _grid(problem, _single(problem, _TILE))
    total = calls[0] * calls[1] * calls[2]
    tiles = min(batch or PACKED_TILES, total)
    return Tiling("packed", _single(problem, _TILE, tiles), calls, _ceil(total, tiles), resident_b=False)


def _run_list(problem: PlanRequest, platform: Planned, _batch: int) -> Tiling:
    design = _single(problem, _TILE)
    grid = _grid(problem, design)
    length = platform.array.run_list_commands
    claimed = _ceil(grid[0] * grid[1] * grid[2], length)
    return Tiling("run-list", design, grid, claimed, list_length=length, resident_b=False)


def _whole_array(problem: PlanRequest, platform: Planned, _batch: int) -> Tiling:
    return _per_call("whole-array", problem, planned_design(problem, platform))


STRATEGIES: Final = MappingProxyType(
    {
        strategy.name: strategy
        for strategy in (
            Strategy("per-tile", "one dispatch per 64x64x64 tile", _per_tile),
            Strategy("batched-loop", "a loop over batches of columns", _batched_loop),
            Strategy("row", "64 rows x all of N, K on the host", _row),
            Strategy("k-on-device", "64 rows x all of K and N", _k_on_device),
            Strategy("several-rows", "256 rows x all of K and N, all cores", _several_rows),
            Strategy("packed", "tiles packed into one buffer", _packed, stock_design=False),
            Strategy("run-list", "tiles in run lists of 24", _run_list),
            Strategy("whole-array", "everything at once, all cores", _whole_array),
        )
    }
)


def choose_strategies(names: list[str]) -> list[Strategy]:
    """Strategies by name; `all` is every one, in this order.

    Raises:
        UsageError: No such strategy.
    """
    wanted = [part.strip() for text in names for part in text.split(",")]
    for name in wanted:
        if name != "all" and name not in STRATEGIES:
            raise unknown_name("strategy", name, ["all", *STRATEGIES])
    if not wanted:
        raise UsageError("--strategy names none")
    return [item for name, item in STRATEGIES.items() if "all" in wanted or name in wanted]
