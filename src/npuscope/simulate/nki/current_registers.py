"""Scalar registers of the current dialect, and the loops that they bound.

A kernel is traced with values, so a register holds its number and a dynamic loop runs as often as it would on the
device; where values are not computed, what depends on a register loaded from memory cannot be traced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import index as as_index
from typing import Any

from npuscope.simulate.nki.trace import KernelError, check_iterations, current


class VirtualRegister:
    """A scalar register, which holds its value while the kernel is traced."""

    __slots__ = ("value",)

    def __init__(self, value: int | None = None) -> None:
        self.value = value
        """None where it was never written, or loaded from memory while no values are computed."""

    def known(self) -> int:
        """The value, for Python control flow.

        Raises:
            KernelError: It is not known.
        """
        if self.value is None:
            missing = "it was never written" if current().compute else "values are not computed (--no-compute)"
            raise KernelError(f"the value of a register decides what runs next, but {missing}")
        return self.value

    def __bool__(self) -> bool:
        return bool(self.known())

    def __index__(self) -> int:
        return self.known()

    def __repr__(self) -> str:
        return f"VirtualRegister({self.value})"


def address_of(register: Any) -> int:
    """The number that a register or an integer adds to an address; 0 where it is not known."""
    if isinstance(register, VirtualRegister):
        return 0 if register.value is None and not current().compute else register.known()
    try:
        return as_index(register)
    except TypeError:
        raise KernelError(f"expected a register or an integer, not {type(register).__name__}") from None


def _steps(name: str, start: Any, stop: Any, step: Any) -> range:
    if stop is None:
        start, stop = 0, start
    if isinstance(step, VirtualRegister) or as_index(step) < 1:
        raise KernelError(f"{name}: the step must be a positive integer known before the kernel runs")
    try:
        return check_iterations(name, range(as_index(start), as_index(stop), as_index(step)))
    except TypeError:
        raise KernelError(f"{name}: bounds must be integers or registers, not {start!r} and {stop!r}") from None


def affine_range(start: int, stop: int | None = None, step: int = 1) -> range:
    """`range`: the loop is unrolled."""
    return _steps("affine_range", start, stop, step)


def sequential_range(start: int, stop: int | None = None, step: int = 1) -> range:
    """`range`: the loop is unrolled."""
    return _steps("sequential_range", start, stop, step)


def static_range(start: int, stop: int | None = None, step: int = 1) -> range:
    """`range`: the loop is unrolled."""
    return _steps("static_range", start, stop, step)


def dynamic_range(start: Any, stop: Any = None, step: int = 1) -> Iterator[VirtualRegister]:
    """The indices of a loop that runs on the device, each as a register.

    Args:
        start: First value; the end where `stop` is None. An integer or a register.
        stop: End, excluded.
        step: A positive integer.
    """
    for value in _steps("dynamic_range", start, stop, step):
        yield VirtualRegister(value)


def fori_loop(lower: Any, upper: Any, body_fun: Callable[[VirtualRegister], Any], step: int = 1) -> None:
    """Call `body_fun` with each index from `lower` to `upper`, which are integers or registers."""
    for index in dynamic_range(lower, upper, step):
        body_fun(index)


def while_loop(init: VirtualRegister, body_fun: Callable[[VirtualRegister], VirtualRegister]) -> None:
    """Call `body_fun` with the condition, and take its result for the next, until that is 0."""
    condition = init
    while condition.known():
        condition = body_fun(VirtualRegister(condition.known()))
        if not isinstance(condition, VirtualRegister):
            raise KernelError(f"while_loop: the body returns a {type(condition).__name__}, not a register")
