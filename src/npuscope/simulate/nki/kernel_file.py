"""Kernel files: loading a function of one, and turning what goes wrong in it into one line.

Loading a file runs it. Nothing of it stays behind in `sys.modules` or `sys.path`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NoReturn

from npuscope.errors import UsageError, shorten, unknown_name
from npuscope.simulate.neuroncore.program import InstructionLimitError
from npuscope.simulate.nki.decorators import Kernel, plain_function
from npuscope.simulate.nki.modules import kernel_modules
from npuscope.simulate.nki.running import one_at_a_time
from npuscope.simulate.nki.trace import KernelError, file_name

_SIBLINGS = "__npuscope_siblings__"
"""Global of a kernel file: modules beside it that it has imported, by name."""
_MESSAGE_LENGTH = 300


def load_kernel(specification: str) -> Callable[..., Any]:
    """The function that `FILE.py:NAME` names; the file is run for it.

    Raises:
        UsageError: No such file, or no such function in it.
        KernelError: The file cannot be run.
    """
    path, name = split_specification(specification)
    module = load_file(path)
    return function_of(module, name, path)


def split_specification(specification: str) -> tuple[Path, str]:
    """File and name of `FILE.py:NAME`.

    Raises:
        UsageError: It is not of that form, or there is no such file.
    """
    file, separator, name = specification.rpartition(":")
    if not separator or not name.isidentifier() or not file:
        raise UsageError(f"{shorten(specification)!r} names no function of a file: expected FILE.py:NAME")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"no kernel file {shorten(file)!r}")
    return path, name


def load_file(path: Path) -> ModuleType:
    """Run a kernel file as a module of its own.

    Raises:
        KernelError: It cannot be read as Python, or an exception ends it.
    """
    path = path.resolve()
    siblings: dict[str, ModuleType] = {}
    try:
        code = compile(importlib.util.decode_source(path.read_bytes()), str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise KernelError(f"syntax error: {error.msg}", f"{path.name}:{error.lineno or 1}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise KernelError(f"cannot be read as Python: {error}", f"{path.name}:1") from error
    except OSError as error:
        raise UsageError(f"cannot read {path.name}: {error.strerror}") from error
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    module.__dict__[_SIBLINGS] = siblings
    siblings[path.stem] = module
    with one_at_a_time, kernel_modules(path.parent, siblings):
        try:
            exec(code, module.__dict__)  # noqa: S102 (running the file is what was asked for)
        except BaseException as error:  # noqa: BLE001 (SystemExit, too, has to become one line)
            raise_as_kernel_error(error, path.parent, path.name)
    return module


def function_of(module: ModuleType, name: str, path: Path) -> Callable[..., Any]:
    """The function `name` of a kernel file.

    Raises:
        UsageError: There is none, or it cannot be called.
    """
    found = module.__dict__.get(name)
    if found is None:
        functions = [
            key
            for key, value in module.__dict__.items()
            if (isinstance(value, Kernel) or callable(value)) and getattr(value, "__module__", "") == module.__name__
        ]
        if not functions:
            raise UsageError(f"{path.name} defines no function {shorten(name)!r}, nor any other")
        raise unknown_name(f"function of {path.name}", name, functions)
    if not callable(found):
        raise UsageError(f"{name} of {path.name} is not a function but {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def call_user(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function of a kernel file, such as one that makes inputs, with its imports at hand.

    Raises:
        KernelError: An exception ends it.
    """
    names = getattr(plain_function(function), "__globals__", {})
    siblings = names.get(_SIBLINGS)
    folder = Path(names["__file__"]).parent if siblings is not None else None
    with one_at_a_time, kernel_modules(folder, {} if siblings is None else siblings):
        try:
            return function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 (SystemExit, too, has to become one line)
            raise_as_kernel_error(error, folder, getattr(function, "__name__", "kernel"))


def dialect_of(function: Callable[..., Any]) -> str:
    """`current` for a kernel of a file that imports `nki`, else `classic`."""
    names = getattr(plain_function(function), "__globals__", {})
    modules = names.get(_SIBLINGS, {})
    return "current" if "nki" in modules and "neuronxcc" not in modules else "classic"


def raise_as_kernel_error(error: BaseException, folder: Path | None, name: str) -> NoReturn:
    """Raise what ended a kernel as one line that names the kernel's own line.

    Args:
        error: What says its line already and an interrupt by the user are raised as they are.
        folder: Where the kernel file lies.
        name: What to call the place where no line of the kernel is known.
    """
    if isinstance(error, (KernelError, InstructionLimitError, KeyboardInterrupt)) and _text(error).isprintable():
        raise error
    if isinstance(error, SystemExit):
        message = f"the kernel file ends Python: SystemExit({error.code!r})"
    elif isinstance(error, SyntaxError) and error.filename:
        raise KernelError(f"syntax error: {error.msg}", f"{Path(error.filename).name}:{error.lineno or 1}") from error
    else:
        message = ": ".join(filter(None, (type(error).__name__, _text(error))))
    raise KernelError(shorten(message, _MESSAGE_LENGTH), _innermost(error.__traceback__, folder) or name) from error


def _text(error: BaseException) -> str:
    """What an exception says; a kernel's own need not be able to."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 (whatever the kernel's own code does)
        return ""


def _innermost(traceback: TracebackType | None, folder: Path | None) -> str:
    """The innermost line of the kernel's own files, else of any file that is not ours."""
    own = other = ""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if file_name(code):
            other = f"{file_name(code)}:{traceback.tb_lineno}"
            if folder is not None and Path(code.co_filename).is_relative_to(folder):
                own = other
        traceback = traceback.tb_next
    return own or other
