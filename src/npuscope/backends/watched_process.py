"""The child process in which `npuscope cache doctor` runs a user's program, watched by its framework's own counters.

It imports the standard library only: what the program finds set up when it starts, above all its framework, is what it sets
up itself. A framework is watched from the moment that the program has imported it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from npuscope.backends.jax_watch import JaxWatch
from npuscope.backends.own_processes import ProcessWatch
from npuscope.backends.torch_xla_watch import TorchXlaWatch


class _Loader:
    """A loader that tells when its module is there."""

    def __init__(self, loader: Any, then: Callable[[], None]) -> None:
        self._loader = loader
        self._then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, with its own loader in its place, then what was asked for."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._then()


class _Finder:
    """Finds modules as without it, and has something done after the import of some."""

    def __init__(self, hooks: dict[str, Callable[[], None]]) -> None:
        self._hooks = hooks

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The module's own specification with a loader around its own; None for all other modules."""
        then = self._hooks.pop(name, None)
        if then is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, then)  # type: ignore[assignment]
        return spec


class _WrongUseError(Exception):
    """What was asked for is not there."""


class _Watch:
    """What is watched, and what is told of it in the end."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.owner = os.getpid()
        self.jax = JaxWatch(Path(request["folder"]))
        self.torch_xla = TorchXlaWatch()
        self.processes = ProcessWatch()
        self.calls: list[dict[str, Any]] = []
        self.ended: dict[str, Any] = {"status": 0, "error": ""}
        hooks = {"jax": self.jax.begin, "torch_xla": self.torch_xla.begin}
        for name in [name for name in hooks if name in sys.modules]:
            hooks.pop(name)()  # imported by this Python itself, before any program
        sys.meta_path.insert(0, _Finder(hooks))

    def call(self, function: Callable[[], Any]) -> None:
        """Call the user's function once, and note what was compiled during the call."""
        before = self.jax.count, self.torch_xla.count()
        start_ns = time.perf_counter_ns()
        function()
        duration_ns = time.perf_counter_ns() - start_ns
        after = self.jax.count, self.torch_xla.count()
        changed = None if after[1] is None else after[1] - (before[1] or 0)
        self.calls.append({"first": before[0], "end": after[0], "torch_xla": changed, "duration_ns": duration_ns})

    def write(self) -> None:
        """Write the record; a fork of the program has none."""
        if os.getpid() != self.owner:
            return
        record = {
            **self.ended,
            "calls": self.calls,
            "jax": self.jax.end(),
            "torch_xla": self.torch_xla.end(),
            "processes": self.processes.end(),
        }
        Path(self.request["record"]).write_text(json.dumps(record), "utf-8")


def main(arguments: list[str]) -> int:
    """Run what the request names; the record is written also when that fails or is interrupted."""
    request = json.loads(Path(arguments[0]).read_text("utf-8"))
    watch = _Watch(request)
    try:
        _run(request, watch)
    except _WrongUseError as error:
        watch.ended = {"status": 2, "error": str(error), "is_wrong_use": True}
    except SystemExit as error:
        code = error.code
        status = 0 if code is None else code if isinstance(code, int) else 1
        if not (code is None or isinstance(code, int)):
            sys.stderr.write(f"{code}\n")
        watch.ended = {"status": status, "error": f"SystemExit: {code}" if status else ""}
    except BaseException as error:  # noqa: BLE001 - also an interrupt: what was seen until then is told
        watch.ended = {"status": 1, "error": f"{type(error).__name__}: {error}"}
        _print_traceback(error)
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        watch.write()
    return int(watch.ended["status"]) & 0xFF


def _run(request: dict[str, Any], watch: _Watch) -> None:
    name, is_file = request["target"], request["is_file"]
    sys.argv = [name, *request["arguments"]]
    if not is_file:
        sys.path.insert(0, str(Path.cwd()))
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # one that it imports itself
            raise _WrongUseError(f"there is no module {error.name} to import for {name}") from None
        _call_often(module, request, watch)
        return
    path = Path(name)
    sys.path.insert(0, str(path.resolve().parent))
    module = ModuleType("__main__" if not request["function"] else path.stem)
    module.__file__ = name
    module.__dict__["__builtins__"] = __builtins__
    sys.modules[module.__name__] = module
    exec(compile(path.read_bytes(), name, "exec", dont_inherit=True), module.__dict__)  # noqa: S102
    if request["function"]:
        _call_often(module, request, watch)


def _call_often(module: ModuleType, request: dict[str, Any], watch: _Watch) -> None:
    function: Any = module
    for part in request["function"].split("."):
        if not hasattr(function, part):
            raise _WrongUseError(f"{request['target']} has no {request['function']}")
        function = getattr(function, part)
    if not callable(function):
        raise _WrongUseError(f"{request['function']} of {request['target']} cannot be called")
    for _ in range(request["calls"]):
        watch.call(function)


def _print_traceback(error: BaseException) -> None:
    """As Python does, from the user's first line on."""
    place = error.__traceback__
    while place is not None and place.tb_frame.f_code.co_filename == __file__:
        place = place.tb_next
    traceback.print_exception(type(error), error, place)
