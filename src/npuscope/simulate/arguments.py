"""A kernel's arguments as a command line gives them: `float32[128,512]`, `1e-6`, `weights.npy`, `eps=1e-6`."""

from __future__ import annotations

import ast
import contextlib
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npuscope.errors import FormatError, NpuscopeError, UsageError, shorten, unknown_name
from npuscope.hardware.host import available_memory_bytes
from npuscope.simulate.nki.dtypes import as_dtype
from npuscope.simulate.nki.loader import TensorSpec
from npuscope.units import format_bytes
from npuscope.workloads.dtypes import ALIASES
from npuscope.workloads.random_values import random_array

TENSOR_TYPES = (
    "float32",
    "bfloat16",
    "float16",
    "float8_e4m3",
    "float8_e5m2",
    "int32",
    "int16",
    "int8",
    "int64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
)
DEVIATION = 0.5
"""Of random values: a product of two matrices with K = 4096 then stays far below float16's 65,504."""
INTEGERS = (-8, 8)
"""Range of random integers, its end not included."""
_MAX_AXES = 8
_MAX_ELEMENTS = 1 << 46
_MAX_LITERAL = 1000
_NAMED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)", re.DOTALL)
_TENSOR = re.compile(r"([A-Za-z][A-Za-z0-9_]*)\s*\[(.*)\]", re.DOTALL)
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,99}")
_CONSTANTS = {"true": True, "false": False, "none": None}


@dataclass(frozen=True, slots=True)
class RandomTensor:
    """A tensor of seeded random values."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * as_dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument as given, not made yet."""

    text: str
    name: str
    """The parameter that it is for; "" for the next one in order."""
    value: RandomTensor | Path | Any
    """A tensor to make, a .npy file to read, or the value itself."""


def parse_argument(text: str) -> Argument:
    """One `--arg`.

    Args:
        text: `dtype[shape]`, a number, `True`, `False`, `None`, a word, a Python tuple, list or quoted text, or a .npy
            file; with `name=` before it for a parameter by name.

    Raises:
        UsageError: It is none of these.
    """
    named = _NAMED.fullmatch(text.strip())
    name, body = (named.group(1), named.group(2)) if named else ("", text.strip())
    return Argument(text, name, _parse_value(body, text))


def _parse_value(body: str, text: str) -> Any:
    lower = body.lower()
    if lower.endswith(".npz"):
        raise UsageError(f"--arg {shorten(text)!r} is an archive; give one .npy file per argument, or --inputs")
    if lower.endswith(".npy"):
        return Path(body)
    tensor = _TENSOR.fullmatch(body)
    if tensor:
        return _parse_tensor(tensor.group(1), tensor.group(2), text)
    if lower in _CONSTANTS:
        return _CONSTANTS[lower]
    for kind in (int, float):
        try:
            return kind(body)
        except ValueError:  # also a whole number of more digits than Python reads
            continue
    if body[:1] in {"(", "[", "'", '"'} and len(body) <= _MAX_LITERAL:
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError), warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of a backslash that escapes nothing
            return ast.literal_eval(body)
    if _WORD.fullmatch(body):
        return body
    raise UsageError(
        f"--arg {shorten(text)!r} is no argument; write float32[128,512], a number, a word or FILE.npy, with NAME= before it if need be"
    )


def _parse_tensor(kind: str, inside: str, text: str) -> RandomTensor:
    dtype = ALIASES.get(kind.lower(), kind.lower())
    if dtype not in TENSOR_TYPES:
        raise unknown_name("dtype", kind, TENSOR_TYPES)
    sizes = [part.strip() for part in re.split(r"[,xX×]", inside.strip().rstrip(","))]
    if not all(re.fullmatch(r"[0-9]{1,15}", size, re.ASCII) and int(size) > 0 for size in sizes):
        raise UsageError(f"--arg {shorten(text)!r}: a shape is positive whole numbers, as in {dtype}[128,512]")
    shape = tuple(map(int, sizes))
    if len(shape) > _MAX_AXES or math.prod(shape) > _MAX_ELEMENTS:
        raise UsageError(f"--arg {shorten(text)!r} is too large: at most {_MAX_AXES} axes and 2^46 elements")
    return RandomTensor(dtype, shape)


def make_values(
    arguments: Sequence[Argument], *, seed: int = 0, compute: bool = True
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The values of arguments in order, and of those by name; random ones are seeded by `seed` and their place.

    Args:
        arguments: As `parse_argument` returns them.
        seed: Of random tensors.
        compute: Whether values matter; else a random tensor is its shape and type alone.

    Raises:
        UsageError: A name is given twice, a value follows a named one, or all together do not fit into memory.
        FormatError: A .npy file cannot be read.
    """
    _check_memory(arguments, compute=compute)
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for index, argument in enumerate(arguments):
        value = _make(argument.value, np.random.default_rng([seed, index]), compute=compute)
        if argument.name in named:
            raise UsageError(f"--arg {argument.name} is given twice")
        if argument.name:
            named[argument.name] = value
        elif named:
            raise UsageError(f"--arg {shorten(argument.text)!r} has no name and follows one that has")
        else:
            positional.append(value)
    return tuple(positional), named


def _make(value: Any, rng: np.random.Generator, *, compute: bool) -> Any:
    if isinstance(value, Path):
        return read_npy(value)
    if not isinstance(value, RandomTensor):
        return value
    dtype = as_dtype(value.dtype)
    if not compute:
        return TensorSpec(value.shape, dtype)
    return random_array(rng, value.shape, dtype, deviation=DEVIATION, integers=INTEGERS)


def _check_memory(arguments: Sequence[Argument], *, compute: bool) -> None:
    """Refuse what cannot be held twice: as the argument, and as the kernel's own copy."""
    if not compute:
        return
    needed = 2 * sum(argument.value.size_bytes for argument in arguments if isinstance(argument.value, RandomTensor))
    available = available_memory_bytes()
    if needed > available:
        raise UsageError(
            f"the arguments and the kernel's copy of them take {format_bytes(needed)}, and {format_bytes(available)} of"
            " memory are free; give smaller tensors, or --no-compute"
        )


def read_npy(path: Path) -> np.ndarray[Any, np.dtype[Any]]:
    """The array of a .npy file, mapped first so that its header is believed only as far as the file goes.

    Raises:
        FormatError: No such file, not a .npy file, pickled objects, or more than memory holds.
    """
    try:
        if not path.is_file():
            raise FormatError(path, expected="a .npy file", found="no such file" if not path.exists() else "no file")
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.ndarray) or mapped.dtype.kind not in "fiub":
            raise FormatError(
                path,
                expected="numbers of a type that NumPy has",
                found=f"type {getattr(mapped, 'dtype', type(mapped).__name__)}",
                remedy="make other types in a function: --inputs FILE.py:FUNC",
            )
        if 2 * mapped.nbytes > available_memory_bytes():
            raise FormatError(path, expected="an array that fits into memory twice", found=format_bytes(mapped.nbytes))
        return np.array(mapped)
    except NpuscopeError:
        raise
    except Exception as error:  # whatever a damaged header makes NumPy raise
        found = f"{type(error).__name__}: {error}"
        raise FormatError(path, expected="a .npy file of numbers", found=found) from error
