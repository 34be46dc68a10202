"""Loops and the launch grid of `neuronxcc.nki.language`.

A kernel runs as ordinary Python, so all three ranges yield integers in order; what differs on hardware is how the
compiler treats the loop, which the model of the compiler decides for itself. The loops that run are kept in a list, so
that `loop_reduce` can tell where a reduction starts.
"""
# ruff: noqa: ARG001 - keywords that the documented signatures have and that change nothing here

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from npuscope.simulate.nki.trace import KernelError, check_iterations, current

_LOOPS = "classic.loops"
"""Key of `Trace.state`: the loops that run now, outermost first."""


class Loop:
    """One run of a loop, from its first index to its last."""

    __slots__ = ("first", "value")

    def __init__(self, first: int) -> None:
        self.first = first
        """The index of the first iteration."""
        self.value = first
        """The index of the iteration that runs now."""


def running_loops() -> list[Loop]:
    """The loops that run now, outermost first."""
    loops: list[Loop] = current().state.setdefault(_LOOPS, [])
    return loops


def in_first_iterations() -> bool:
    """Whether every loop that runs is in its first iteration: NKI itself traces the body of a loop only once."""
    return all(loop.value == loop.first for loop in running_loops())


def _run(indices: range, *, unrolled: bool = False) -> Iterator[int]:
    loops = running_loops()
    builder = current().builder
    loop = Loop(indices.start)
    depth = len(loops)
    loops.append(loop)
    try:
        for value in indices:
            loop.value = value
            # The model of the compiler moves out of a loop what its iterations repeat; an unrolled loop is none.
            builder.iteration += not unrolled
            yield value
    finally:
        builder.iteration += not unrolled
        del loops[depth:]


def _steps(name: str, bounds: tuple[Any, ...]) -> range:
    try:
        return check_iterations(name, range(*[bound.__index__() for bound in bounds]))
    except (AttributeError, TypeError):
        raise KernelError(f"{name}: takes one to three integers, not {bounds}") from None
    except ValueError as error:
        raise KernelError(f"{name}: {error}") from None


def affine_range(*args: Any, **kwargs: Any) -> Iterator[int]:
    """Indices of a loop without dependences between iterations, other than reductions.

    Args:
        *args: The arguments of `range`.
        **kwargs: Directives for the compiler; ignored.
    """
    return _run(_steps("affine_range", args))


def sequential_range(*args: Any, **kwargs: Any) -> Iterator[int]:
    """Indices of a loop whose iterations depend on each other; arguments as of `affine_range`."""
    return _run(_steps("sequential_range", args))


def static_range(*args: Any, **kwargs: Any) -> Iterator[int]:
    """Indices of a loop that the compiler unrolls; arguments as of `affine_range`."""
    return _run(_steps("static_range", args), unrolled=True)


@dataclass(frozen=True, slots=True)
class GridDimension:
    """An axis of a launch grid that says how its programs are spread over physical cores."""

    size: int
    """Programs along the axis."""
    cores: int = 1
    """Physical cores that they are spread over."""
    is_core_inner: bool = False
    """Consecutive programs run on different cores; otherwise each core gets one stretch of them."""

    def __mul__(self, other: Any) -> GridDimension:
        """`nc(2) * 4`: each core runs four programs in a row."""
        return GridDimension(self.size * _axis_size(other), self.cores)

    def __rmul__(self, other: Any) -> GridDimension:
        """`4 * nc(2)`: programs alternate between cores."""
        return GridDimension(self.size * _axis_size(other), self.cores, is_core_inner=True)

    def __index__(self) -> int:
        return self.size

    def core_of(self, program: int) -> int:
        """The physical core that runs program number `program` of this axis."""
        return program % self.cores if self.is_core_inner else program // (self.size // self.cores)


def _axis_size(value: Any) -> int:
    return value.size if isinstance(value, GridDimension) else int(value)


def nc(size: int) -> GridDimension:
    """An axis of a launch grid with one program per physical core, on `size` cores."""
    return GridDimension(int(size), int(size))


def spmd_dim(*dimensions: Any) -> GridDimension:
    """An axis of a launch grid made of several: `spmd_dim(nc(2), 4)` or `spmd_dim(4, nc(2))`, outermost first."""
    size = math.prod(_axis_size(dimension) for dimension in dimensions)
    cores = math.prod(d.cores for d in dimensions if isinstance(d, GridDimension))
    inner = len(dimensions) > 1 and isinstance(dimensions[-1], GridDimension) and dimensions[-1].cores > 1
    return GridDimension(size, cores, is_core_inner=inner)


def program_id(axis: int) -> int:
    """Number of the program that runs now along an axis of the launch grid.

    Raises:
        KernelError: The kernel was launched on a grid without that axis.
    """
    trace = current()
    if not trace.program_id and axis == 0:
        return 0
    if not 0 <= axis < len(trace.program_id):
        raise KernelError(f"program_id: the launch grid {trace.grid} has no axis {axis}")
    return trace.program_id[axis]


def num_programs(axes: Any = None) -> int:
    """Programs along one axis or several of the launch grid; by default all programs."""
    grid = current().grid
    if axes is None:
        return math.prod(grid)
    wanted = axes if isinstance(axes, (tuple, list)) else (axes,)
    if not grid and all(axis == 0 for axis in wanted):
        return 1
    if not all(0 <= axis < len(grid) for axis in wanted):
        raise KernelError(f"num_programs: the launch grid {grid} has no axis {axes}")
    return math.prod(grid[axis] for axis in wanted)


def program_ndim() -> int:
    """Axes of the launch grid."""
    return len(current().grid)
