"""Whether a kernel's results are right: each output against that of a reference, within what its types allow.

Allowed per element is `tolerance * (|reference| + rms(reference))`: the second part is for elements that cancellation
brings near zero, where a relative error says nothing. Integers and truth values must be equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from npuscope.errors import FormatError

_ROUNDINGS = 8.0
"""Roundings to the type that may add up on the way to a result."""
_LEAST = 1e-5
"""Sums of thousands of float32 products in another order differ by so much of their root mean square."""


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """How far one output lies from its reference."""

    index: int
    shape: tuple[int, ...]
    dtype: str
    max_abs_error: float
    """Infinite where only one of the two is NaN or infinite."""
    max_relative_error: float
    """Largest error over |reference| + rms(reference), which is what `tolerance` bounds."""
    tolerance: float
    wrong_elements: int
    passed: bool


def tolerance_of(dtypes: Sequence[np.dtype[Any]]) -> float:
    """What the coarsest floating-point type among `dtypes` allows, as a fraction; 0 where all are integers."""
    rounding = [float(ml_dtypes.finfo(dtype).eps) / 2 for dtype in dtypes if is_floating(dtype)]
    return max(_LEAST, _ROUNDINGS * max(rounding)) if rounding else 0.0


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether a type is a floating-point type, of NumPy or of ml_dtypes."""
    if dtype.kind in "iub":
        return False
    try:
        ml_dtypes.finfo(dtype)
    except ValueError:
        return False
    return True


def check_outputs(
    outputs: Sequence[npt.NDArray[Any]],
    reference: Sequence[npt.NDArray[Any]],
    *,
    inputs: Sequence[np.dtype[Any]],
    source: str,
    tolerance: float | None = None,
) -> tuple[OutputCheck, ...]:
    """Compare every output with its reference.

    Args:
        outputs: What the kernel returned or wrote.
        reference: As many arrays of the same shapes.
        inputs: Types of the kernel's tensor arguments; results are no better than these.
        source: What to call the reference in an error.
        tolerance: Instead of what the types allow.

    Raises:
        FormatError: Another number of arrays, or another shape.
    """
    if len(reference) != len(outputs):
        raise FormatError(source, expected=_counted(len(outputs)), found=_counted(len(reference)))
    checks = []
    for index, (output, wanted) in enumerate(zip(outputs, reference, strict=True)):
        if output.shape != wanted.shape:
            where = f"output {index}"
            raise FormatError(
                source, where=where, expected=f"shape {list(output.shape)}", found=f"shape {list(wanted.shape)}"
            )
        exact = not is_floating(output.dtype)
        allowed = 0.0 if exact else tolerance_of([output.dtype, *inputs]) if tolerance is None else tolerance
        checks.append(_check(index, output, wanted, allowed))
    return tuple(checks)


def _counted(count: int) -> str:
    return "1 array" if count == 1 else f"{count} arrays"


def _check(index: int, output: npt.NDArray[Any], wanted: npt.NDArray[Any], tolerance: float) -> OutputCheck:
    found, right = output.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(all="ignore"):
        same = (found == right) | (np.isnan(found) & np.isnan(right))
        error = np.where(same, 0.0, np.abs(found - right))
        error[np.isnan(error)] = np.inf
        finite = right[np.isfinite(right)]
        rms = float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0
        scale = np.where(np.isfinite(right), np.abs(right), 0.0) + rms
        wrong = error > tolerance * scale
        relative = np.where(error == 0, 0.0, error / scale)
    return OutputCheck(
        index=index,
        shape=tuple(output.shape),
        dtype=str(output.dtype.name),
        max_abs_error=float(error.max(initial=0.0)),
        max_relative_error=float(relative.max(initial=0.0)),
        tolerance=tolerance,
        wrong_elements=int(np.count_nonzero(wrong)),
        passed=not bool(wrong.any()),
    )
