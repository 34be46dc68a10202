"""Cost formulas as data: arithmetic over named numbers, parsed once and nothing else allowed."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any, Final

from npuscope.errors import FormatError

_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {"max": max, "min": min, "ceil": math.ceil}
_ALLOWED: Final = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.IfExp,
    ast.Call,
    ast.Name,
    ast.Load,
    ast.Constant,
    ast.Tuple,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
)


class Formula:
    """One expression such as `max(min_ii, 2 * n)`."""

    __slots__ = ("_code", "names", "text")

    def __init__(self, text: str, *, source: str) -> None:
        """Parse `text`.

        Raises:
            FormatError: It is not an expression of numbers, names, max, min and ceil.
        """
        try:
            tree = ast.parse(text, mode="eval")
        except SyntaxError as error:
            raise FormatError(source, expected="a formula", found=text) from error
        for node in ast.walk(tree):
            call_of_another = isinstance(node, ast.Call) and not (
                isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
            )
            if not isinstance(node, _ALLOWED) or call_of_another:
                raise FormatError(source, expected="numbers, names, max, min and ceil", found=text)
        self.text = text
        self.names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - set(_FUNCTIONS)
        self._code: CodeType = compile(tree, source, "eval")

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """The value of the formula where its names have `values`."""
        # The tree was checked above: no attribute, no call but the three functions, no other syntax.
        return eval(self._code, {"__builtins__": {}, **_FUNCTIONS}, values)  # noqa: S307  # type: ignore[arg-type]
