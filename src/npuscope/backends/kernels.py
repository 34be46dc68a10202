"""The Protocol between measuring an implementation of a kernel and a host device, and how an entry becomes an executable.

What npuscope brings is built by a function of its own for each framework. A user's function is called with the tensors as
positional arguments, in the order of the entry's inputs: NumPy arrays on `cpu`, traced arrays on `jax:*`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from npuscope.backends.base import BackendOptions, CacheStatus, CompileReport, already_finished
from npuscope.errors import MeasurementError, UsageError, shorten, unknown_name
from npuscope.workloads.mlp import MlpConfig

Array = npt.NDArray[Any]
HOST_DEVICES: Final = ("cpu", "jax:*", "openvino:*")
"""Patterns of devices whose implementations are timed by the host's clock."""


class KernelExecutable(Protocol):
    """A compiled implementation."""

    @property
    def report(self) -> CompileReport:
        """How the compilation went."""
        ...

    def place(self, inputs: Sequence[Array]) -> Any:
        """Put the inputs on the device; outside every timed region."""
        ...

    def run(self, placed: Any) -> Any:
        """Start one execution; it may still be running on return."""
        ...

    def synchronise(self, output: Any) -> None:
        """Return only when the device has finished `output`."""
        ...

    def fetch(self, output: Any) -> Array:
        """Copy the result to the host."""
        ...

    def save(self, folder: Path) -> None:
        """Write what was compiled, if there is anything to keep: HLO, a model."""
        ...


@dataclass(frozen=True, slots=True)
class KernelRequest:
    """What to open: an implementation on a device, for sizes."""

    target: str
    """`package.module:NAME` or `FILE.py:NAME`."""
    device: str
    config: MlpConfig
    is_user_code: bool = False
    flat_tokens: bool = False
    compile_cache: Path | None = None

    @property
    def options(self) -> BackendOptions:
        """As its backend takes them."""
        return BackendOptions(compile_cache=self.compile_cache)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the inputs, as the implementation takes them."""
        return self.config.shapes_for(flat_tokens=self.flat_tokens)

    def arrange(self, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """The inputs in those shapes."""
        return self.config.arrange(inputs, flat_tokens=self.flat_tokens)

    def result(self, output: Array) -> Array:
        """A result in the shape of the kernel's."""
        return self.config.result_of(output, flat_tokens=self.flat_tokens)


def open_kernel(request: KernelRequest) -> KernelExecutable:
    """Import an implementation and compile it; a user's code runs here.

    Raises:
        UsageError: There is no such function.
        UnavailableError: The device or its framework cannot be had.
        MeasurementError: It cannot be compiled, or what it says when it is imported is an exception.
    """
    if not request.is_user_code:
        build: Callable[[KernelRequest], KernelExecutable] = load_function(request.target)
        return build(request)
    function = load_function(request.target)
    if request.device == "cpu":
        return HostFunction(function, request)
    from npuscope.backends.mlp_jax import JaxKernel

    return JaxKernel([function], request)


class HostFunction:
    """A function of NumPy arrays."""

    synchronise = staticmethod(already_finished)

    def __init__(
        self,
        function: Callable[..., Any],
        request: KernelRequest,
        *,
        prepare: Callable[[Sequence[Array]], Sequence[Array]] = tuple,
        compute_dtype: str = "",
    ) -> None:
        """Take it as it is.

        Args:
            function: Takes the inputs as positional arguments.
            request: For which sizes.
            prepare: Is applied to the inputs once, before anything is timed.
            compute_dtype: What it multiplies in; '' is the inputs' type.
        """
        self._function, self._request, self._prepare = function, request, prepare
        dtype = request.config.dtype
        self.report = CompileReport(0, CacheStatus.NOT_COMPILED, compute_dtype or dtype, dtype)

    def place(self, inputs: Sequence[Array]) -> Any:
        """Copies that cannot be written to: a function that changes its arguments would compute something else each time."""
        copies = tuple(np.array(array) for array in self._prepare(self._request.arrange(inputs)))
        for array in copies:
            array.flags.writeable = False
        return copies

    def run(self, placed: Any) -> Any:
        """Call it, and return when its result is an array: one that is computed later, or elsewhere, is waited for."""
        try:
            result = self._function(*placed)
            array = result if type(result) is np.ndarray else np.asarray(only_item(result))
        except Exception as error:
            raise MeasurementError(told_of_user(error, self._request.target)) from error
        if array.dtype == object:
            raise MeasurementError(f"{self._request.target} returned no array but {type(result).__name__}")
        return array

    def overwrite(self, placed: Sequence[Array], inputs: Sequence[Array]) -> None:
        """Put other values into the same arrays: what remembers results by its arguments returns a wrong one then."""
        for array, other in zip(placed, self._prepare(self._request.arrange(inputs)), strict=True):
            array.flags.writeable = True
            array[...] = other
            array.flags.writeable = False

    def fetch(self, output: Any) -> Array:
        """A copy, since a function may return the same array again."""
        return self._request.result(as_result(output, self._request.target))

    def save(self, folder: Path) -> None:
        """Nothing is compiled."""


def only_item(output: Any) -> Any:
    """What a tuple or list of one thing holds; anything else as it is."""
    return output[0] if isinstance(output, tuple | list) and len(output) == 1 else output


def as_result(output: Any, target: str) -> Array:
    """One array, also where it is the only item of a tuple or list.

    Raises:
        MeasurementError: It is something else.
    """
    try:
        array = np.array(only_item(output), copy=True)
    except Exception as error:
        raise MeasurementError(f"{target} returned no array: {shorten(str(error))}") from error
    if array.dtype.kind not in "biufcV" or (array.dtype.kind == "V" and array.dtype.fields is not None):
        raise MeasurementError(f"{target} returned no array but {type(output).__name__}")
    return array


def load_function(target: str) -> Callable[..., Any]:
    """The function that `FILE.py:NAME` or `package.module:NAME` names; its file or module is run for it.

    Raises:
        UsageError: There is none.
        MeasurementError: It cannot be imported, or an exception ends it.
    """
    place, _, name = target.rpartition(":")
    try:
        module = _module_of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ModuleNotFoundError as error:
        missing = shorten(error.name or place)
        raise MeasurementError(f"{target} cannot be imported: there is no module {missing!r}") from error
    except SystemExit as error:
        raise MeasurementError(f"{target} ends Python when it is imported: SystemExit({error.code!r})") from error
    except Exception as error:
        raise MeasurementError(told_of_user(error, target)) from error
    found = getattr(module, name, None)
    if found is None:
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown_name(f"function of {place}", name, functions or ["none"])
    if not callable(found):
        raise UsageError(f"{target} is no function but {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _module_of_file(path: Path) -> Any:
    """Run a file as a module; what lies beside it can be imported by it."""
    sys.path.insert(0, str(path.resolve().parent))
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise UsageError(f"{path} cannot be read as Python")
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module  # as an import would, for dataclasses and pickles in it
    specification.loader.exec_module(module)
    return module


def told_of_user(error: BaseException, target: str) -> str:
    """What a user's code raised, with its own innermost line."""
    file = Path(target.rpartition(":")[0])
    line = _innermost(error.__traceback__, file)
    said = ": ".join(filter(None, (type(error).__name__, shorten(_text(error), 200))))
    return f"{target} raised {said}" + (f" ({line})" if line else "")


def _text(error: BaseException) -> str:
    """What an exception says; a user's own need not be able to."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001  # whatever the user's own code does
        return ""


def _innermost(traceback: TracebackType | None, file: Path) -> str:
    found = ""
    while traceback is not None:
        if Path(traceback.tb_frame.f_code.co_filename).name == file.name:
            found = f"{file.name}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found
