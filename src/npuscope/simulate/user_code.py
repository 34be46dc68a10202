"""Running functions of a user's file beside the kernel: the reference, and the one that makes inputs.

What they and the kernel print goes to standard error; what they raise becomes one line.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.errors import shorten
from npuscope.simulate.checking import is_floating
from npuscope.simulate.nki.decorators import plain_function
from npuscope.simulate.nki.kernel_file import call_user, function_of, load_file, split_specification
from npuscope.simulate.nki.running import one_at_a_time
from npuscope.simulate.nki.trace import KernelError, file_name


@contextlib.contextmanager
def printing_to_stderr() -> Iterator[None]:
    """Send whatever is written to standard output in the block to standard error, by this process or its children.

    Standard output belongs to the result: a kernel that prints must not spoil a JSON document. It belongs to the process,
    too: other threads that run user code wait.
    """
    with one_at_a_time:
        yield from _redirected()


def _redirected() -> Iterator[None]:
    kept = sys.stdout
    _flush()
    try:
        descriptor = os.dup(1)
        os.dup2(2, 1)
    except OSError:  # one of them is closed; then nothing can be written there either
        descriptor = -1
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        _flush()
        sys.stdout = kept
        if kept is sys.__stdout__:
            _flush()  # what was written to the stream by its other name
        if descriptor >= 0:
            os.dup2(descriptor, 1)
            os.close(descriptor)


def _flush() -> None:
    for stream in (sys.stdout, sys.__stdout__):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()  # type: ignore[union-attr]


def load_functions(*specifications: str) -> list[Callable[..., Any]]:
    """The functions that `FILE.py:NAME` name each; a file is run once, and a plain `NAME` is of the first one's file.

    Raises:
        UsageError: No such file, or no such function in it.
        KernelError: A file cannot be run.
    """
    modules: dict[str, Any] = {}
    functions: list[Callable[..., Any]] = []
    first = ""
    for text in specifications:
        path, name = split_specification(text if ":" in text or not first else f"{first}:{text}")
        first = first or str(path)
        key = str(path.resolve())
        if key not in modules:
            with printing_to_stderr():
                modules[key] = load_file(path)
        functions.append(function_of(modules[key], name, path))
    return functions


def function_name(function: Callable[..., Any]) -> str:
    """`softmax.py:softmax`, or the bare name where the file is not known."""
    plain = plain_function(function)
    name = str(getattr(plain, "__name__", type(plain).__name__))
    code = getattr(plain, "__code__", None)
    file = file_name(code) if code is not None else ""
    return f"{file}:{name}" if file else name


def is_jax_only(function: Callable[..., Any]) -> bool:
    """Whether the file of a function uses JAX and nothing of NKI: then the function is hardly a kernel."""
    values = getattr(plain_function(function), "__globals__", {}).values()
    homes = {
        str(getattr(value, "__module__", None) or getattr(value, "__name__", "")).partition(".")[0] for value in values
    }
    return "jax" in homes and not homes & {"nki", "neuronxcc"}


def source_path(function: Callable[..., Any]) -> str:
    """The file that a function was written in; "" where it is not known."""
    code = getattr(plain_function(function), "__code__", None)
    return "" if code is None or code.co_filename.startswith("<") else str(code.co_filename)


def call_reference(
    reference: Callable[..., Any], positional: Sequence[Any], named: Mapping[str, Any]
) -> tuple[npt.NDArray[Any], ...]:
    """What the reference makes of the kernel's arguments, as arrays; it is given copies.

    Raises:
        KernelError: It raised something, or returned what is no array.
    """
    name = function_name(reference)
    with printing_to_stderr():
        result = call_user(reference, *map(_copy, positional), **{key: _copy(value) for key, value in named.items()})
    results = result if isinstance(result, tuple | list) else (result,)
    arrays = []
    for index, value in enumerate(results):
        try:
            array = np.asarray(value)
        except (TypeError, ValueError) as error:
            raise KernelError(f"reference, output {index}: {shorten(str(error))}", name) from error
        if array.dtype.kind not in "iub" and not is_floating(array.dtype):
            kind = type(value).__name__
            raise KernelError(f"reference, output {index}: expected an array of numbers, found {kind}", name)
        arrays.append(array)
    return tuple(arrays)


def call_inputs(function: Callable[..., Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that a function makes: a list or tuple in the kernel's order, or a dict by name.

    Raises:
        KernelError: It raised something, or returned neither.
    """
    with printing_to_stderr():
        result = call_user(function)
    if isinstance(result, dict) and all(isinstance(name, str) for name in result):
        return (), result
    if isinstance(result, tuple | list):
        return tuple(result), {}
    found = type(result).__name__
    raise KernelError(
        f"--inputs: expected a list of the kernel's arguments, or a dict by name, found {found}",
        function_name(function),
    )


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value
