"""How many operands and functions an op has, and that a call fits what it calls: checked once, relied on by all.

Source: XLA's Operation Semantics. An opcode that is not listed may have any number. The check sees each distinct
combination of a computation once, so that it costs next to nothing per op.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from npuscope.errors import shorten

if TYPE_CHECKING:
    from npuscope.formats.hlo import Computation, Op

_ANY: Final = 1 << 31
_UNARY: Final = (
    "abs", "acos", "acosh", "asin", "asinh", "atanh", "bitcast", "bitcast-convert", "broadcast", "cbrt", "ceil", "cholesky",
    "convert", "copy", "copy-done", "copy-start", "cosh", "cosine", "count-leading-zeros", "erf", "exponential",
    "exponential-minus-one", "fft", "floor", "get-dimension-size", "get-tuple-element", "imag", "is-finite", "log",
    "log-plus-one", "logistic", "negate", "not", "opt-barrier", "popcnt", "real", "reduce-precision", "reshape",
    "reverse", "rng-bit-generator", "round-nearest-afz", "round-nearest-even", "rsqrt", "sign", "sine", "sinh", "slice",
    "sqrt", "tan", "tanh", "topk", "transpose",
)  # fmt: skip
_BINARY: Final = (
    "add", "and", "atan2", "compare", "complex", "convolution", "divide", "gather", "maximum", "minimum", "multiply",
    "or", "pad", "power", "remainder", "set-dimension-size", "shift-left", "shift-right-arithmetic",
    "shift-right-logical", "stochastic-convert", "subtract", "triangular-solve", "xor",
)  # fmt: skip

OPERANDS: Final[dict[str, tuple[int, int]]] = {
    **dict.fromkeys(
        ("constant", "iota", "parameter", "partition-id", "replica-id", "rng-get-and-update-state"), (0, 0)
    ),
    **dict.fromkeys(_UNARY, (1, 1)),
    **dict.fromkeys(_BINARY, (2, 2)),
    **dict.fromkeys(("batch-norm-grad", "batch-norm-inference"), (5, 5)),
    **dict.fromkeys(("batch-norm-training", "clamp", "select", "select-and-scatter"), (3, 3)),
    "concatenate": (1, _ANY),
    "conditional": (2, _ANY),
    "dot": (2, 4),
    "dynamic-slice": (1, _ANY),
    "dynamic-update-slice": (2, _ANY),
    "map": (1, _ANY),
    "reduce": (2, _ANY),
    "reduce-window": (2, _ANY),
    "scatter": (3, _ANY),
    "sort": (1, _ANY),
    "while": (1, 1),
}
"""Opcode to the least and the most operands; a sparse dot has one or two of metadata."""

CALLED: Final[dict[str, tuple[int, int]]] = {
    **dict.fromkeys(("call", "fusion", "map", "reduce", "reduce-window", "scatter", "sort"), (1, 1)),
    **dict.fromkeys(("select-and-scatter", "while"), (2, 2)),
    "async-start": (1, 1),
    "conditional": (1, _ANY),
}
"""Opcode to the least and the most functions; others may have any number."""

_PAIRED: Final = {"reduce": 0, "reduce-window": 0, "scatter": 1}
"""Opcodes with as many inputs as initial values (or updates): the remainder of their operands by 2."""
_BOUND: Final = frozenset({"call", "fusion", "conditional", "while"})


def arity_misfit(opcode: str, operands: int, called: int) -> tuple[str, str] | None:
    """What an op with so many operands and functions should have, and what it has; None where that is as it should be."""
    for count, bounds, noun in ((operands, OPERANDS, "operands"), (called, CALLED, "functions")):
        least, most = bounds.get(opcode, (0, _ANY))
        if not least <= count <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}" if most < _ANY else f"at least {least}"
            return f"{wanted} {noun}", f"{count}"
    if opcode in _PAIRED and operands % 2 != _PAIRED[opcode]:
        return "as many initial values or updates as inputs", f"{operands} operands"
    return None


def call_misfit(op: Op, caller: Computation, computations: Sequence[Computation]) -> tuple[str, str] | None:
    """What a call should have whose operands are not as many as the parameters of what it calls, and what it has.

    The same for a loop of another type than its functions, and for one whose condition is no truth value.
    """
    if op.opcode not in _BOUND:
        return None
    callees = [computations[place] for place in op.called]
    if op.opcode == "conditional" and len(op.operands) != len(callees) + 1:
        return "a selector and an operand for each branch", f"{len(op.operands)} operands"
    wanted = len(op.operands) if op.opcode in ("call", "fusion") else 1
    for callee in callees:
        if len(callee.parameters) != wanted:
            return f"{wanted} parameters of {shorten(callee.name, 60)}", f"{len(callee.parameters)}"
    return _loop_misfit(op, caller, callees) if op.opcode == "while" else None


def _loop_misfit(op: Op, caller: Computation, callees: Sequence[Computation]) -> tuple[str, str] | None:
    body, condition = callees
    state = op.shape
    for what, shape in (
        ("its operand", caller.ops[op.operands[0]].shape),
        ("what its body takes", body.ops[body.parameters[0]].shape),
        ("what its body returns", body.ops[body.root].shape),
        ("what its condition takes", condition.ops[condition.parameters[0]].shape),
    ):
        if shape != state:
            return f"{what} to be {shorten(str(state))}", f"{shape}"
    truth = condition.ops[condition.root].shape
    if (truth.element_type, truth.elements) != ("pred", 1):
        return "a condition that is pred[]", f"{truth}"
    return None
