"""`nki` of the current dialect: decorators whose kernels see `NkiTensor`s."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from npuscope.simulate.nki import decorators
from npuscope.simulate.nki.current_tensor import as_nki
from npuscope.simulate.nki.decorators import Kernel


def _current(function: Any) -> Any:
    """`function` with tensors of the current dialect for arguments; kernels are left as they are."""
    if function is None or isinstance(function, Kernel) or not callable(function):
        return function

    @functools.wraps(function)
    def kernel(*args: Any, **kwargs: Any) -> Any:
        return function(*as_nki(args), **as_nki(kwargs))

    return kernel


def _decorator(classic: Callable[..., Any], summary: str) -> Callable[..., Any]:
    def decorate(fn: Any = None, **kwargs: Any) -> Any:
        if fn is None:
            return lambda function: decorate(function, **kwargs)
        return classic(_current(fn), **kwargs)

    decorate.__name__ = decorate.__qualname__ = classic.__name__
    decorate.__doc__ = summary
    return decorate


jit = _decorator(decorators.jit, "`nki.jit`, with arguments or without; `kernel[2]` runs on two cores.")
baremetal = _decorator(decorators.baremetal, "`nki.baremetal`, of early releases.")
benchmark = _decorator(decorators.benchmark, "`nki.benchmark`, of early releases: nothing is measured.")
profile = _decorator(decorators.profile, "`nki.profile`, of early releases: no file is written.")


def simulate(kernel: Any) -> Any:
    """`nki.simulate`: a callable that gives the kernel's results."""
    return decorators.simulate(_current(kernel))


__all__ = ["baremetal", "benchmark", "jit", "profile", "simulate"]
