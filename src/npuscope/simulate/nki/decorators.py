"""`nki.jit`, `nki.benchmark` and the other decorators of kernels, in both dialects."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

from npuscope.simulate.nki import trace as tracing
from npuscope.simulate.nki.classic_typing import tensor as tensor


class Kernel:
    """A decorated kernel: called inside another kernel it runs as part of it, elsewhere it is simulated.

    Subscripted with a launch grid it is the kernel on that grid.
    """

    def __init__(
        self, function: Callable[..., Any], options: dict[str, Any] | None = None, grid: tuple[Any, ...] = ()
    ) -> None:
        """Wrap a kernel.

        Args:
            function: What was decorated.
            options: Arguments of the decorator, which change nothing here.
            grid: Programs per axis.
        """
        functools.update_wrapper(self, function)
        self.function = plain_function(function)
        self.options = options or {}
        self.grid = grid or launch_grid(function)

    def __getitem__(self, grid: Any) -> Kernel:
        return Kernel(self.function, self.options, grid if isinstance(grid, tuple) else (grid,))

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if tracing.is_tracing():
            return self._inline(args, kwargs)
        return simulate_kernel(self, *args, **kwargs)

    def _inline(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run as part of the kernel that calls it, once per program of a grid of its own."""
        if not self.grid:
            return self.function(*args, **kwargs)
        trace = tracing.current()
        saved = trace.grid, trace.program_id, trace.shared, trace.allocated
        trace.grid = tuple(int(getattr(axis, "size", axis)) for axis in self.grid)
        trace.shared = []
        result = None
        try:
            for program in itertools.product(*map(range, trace.grid)):
                trace.program_id, trace.allocated = program, 0
                result = self.function(*args, **kwargs)
        finally:
            trace.grid, trace.program_id, trace.shared, trace.allocated = saved
        return result


def plain_function(kernel: Any) -> Any:
    """The function as written, below all decorators of NKI."""
    while isinstance(kernel, Kernel):
        kernel = kernel.function
    return kernel


def launch_grid(kernel: Any) -> tuple[Any, ...]:
    """The grid that a kernel carries; empty where it was not subscripted."""
    return kernel.grid if isinstance(kernel, Kernel) else ()


def jit(func: Any = None, mode: str = "auto", **kwargs: Any) -> Any:
    """`nki.jit`, with arguments or without."""
    return _decorate(func, {"mode": mode, **kwargs})


def benchmark(kernel: Any = None, **kwargs: Any) -> Any:
    """`nki.benchmark`: nothing is measured; the kernel stays a kernel."""
    return _decorate(kernel, kwargs)


def baremetal(kernel: Any = None, **kwargs: Any) -> Any:
    """`nki.baremetal`."""
    return _decorate(kernel, kwargs)


def profile(func: Any = None, **kwargs: Any) -> Any:
    """`nki.profile`: no file is written."""
    return _decorate(func, kwargs)


def trace(func: Any = None, **kwargs: Any) -> Any:
    """`nki.trace`, of early releases."""
    return _decorate(func, kwargs)


def nki_jit(func: Any = None, **kwargs: Any) -> Any:
    """`torch_neuronx.nki_jit`, of early releases."""
    return _decorate(func, kwargs)


def _decorate(function: Any, options: dict[str, Any]) -> Any:
    if function is None:
        return lambda decorated: Kernel(decorated, options)
    return Kernel(function, options)


def simulate_kernel(kernel: Any, *args: Any, **kwargs: Any) -> Any:
    """`nki.simulate_kernel`: the kernel's results for NumPy arguments; arrays that it stores to are updated."""
    from npuscope.simulate.nki.loader import trace_kernel

    traced = trace_kernel(kernel, args, kwargs=kwargs, updates_arguments=True)
    if not traced.has_returned:
        return None
    return traced.outputs[0] if len(traced.outputs) == 1 else traced.outputs


def simulate(kernel: Any) -> Any:
    """`nki.simulate` of the current dialect: a callable that gives the kernel's results."""
    return kernel if isinstance(kernel, Kernel) else Kernel(kernel)


__all__ = ["baremetal", "benchmark", "jit", "nki_jit", "profile", "simulate_kernel", "trace"]
