"""The operators of tensors: Python's symbols, by the nl functions that a dialect registers for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from npuscope.simulate.nki.trace import KernelError

operations: dict[str, Callable[..., Any]] = {}
"""What the operators of a tensor call, by the name of the nl function: `add(left, right)`, `copy(target, value)`..."""

_ARITHMETIC: Final = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "divide",
    "floordiv": "floor_divide",
    "mod": "mod",
    "pow": "power",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "left_shift",
    "rshift": "right_shift",
    "matmul": "matmul",
}
_COMPARISONS: Final = {
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "eq": "equal",
    "ne": "not_equal",
}
_UNARY: Final = {"neg": "negative", "abs": "abs", "invert": "invert"}


def operate(name: str, *operands: Any) -> Any:
    """Call the registered operation `name`.

    Raises:
        KernelError: No dialect has registered it.
    """
    function = operations.get(name)
    if function is None:
        raise KernelError(f"operator {name} on a tensor is not supported by the simulator")
    return function(*operands)


def add_operators(kind: type, store: Callable[[Any, Any], None], accumulate: Callable[[Any, Any], Any]) -> None:
    """Give a class of tensors its operators.

    Args:
        kind: The class.
        store: Assigns a value to a tensor.
        accumulate: `target += value`, which may happen inside PSUM.
    """
    for operator, name in _ARITHMETIC.items():
        setattr(kind, f"__{operator}__", _binary(name))
        setattr(kind, f"__r{operator}__", _reflected(name))
        setattr(kind, f"__i{operator}__", accumulate if operator == "add" else _in_place(name, store))
    for operator, name in (_COMPARISONS | _UNARY).items():
        setattr(kind, f"__{operator}__", _unary(name) if operator in _UNARY else _binary(name))


def _unary(name: str) -> Callable[[Any], Any]:
    return lambda self: operate(name, self)


def _binary(name: str) -> Callable[[Any, Any], Any]:
    return lambda self, other: operate(name, self, other)


def _reflected(name: str) -> Callable[[Any, Any], Any]:
    return lambda self, other: operate(name, other, self)


def _in_place(name: str, store: Callable[[Any, Any], None]) -> Callable[[Any, Any], Any]:
    def run(self: Any, other: Any) -> Any:
        store(self, operate(name, self, other))
        return self

    return run
