"""The modules that a kernel imports: `neuronxcc.nki` and `nki`, as long as the kernel is loaded or runs.

They forward to the modules of this folder. Whatever else was installed under these names is out of sight meanwhile.
"""

from __future__ import annotations

import dis
import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from npuscope.simulate.nki.trace import KernelError

_HERE: Final = "npuscope.simulate.nki."
_TARGETS: Final = {
    "neuronxcc.nki": "decorators",
    "neuronxcc.nki.language": "classic_language",
    "neuronxcc.nki.isa": "classic_isa",
    "neuronxcc.nki.typing": "classic_typing",
    "neuronxcc.nki.compiler": "classic_compiler",
    "nki": "current_nki",
    "nki.language": "current_language",
    "nki.isa": "current_isa",
    "nki.typing": "classic_typing",
    "nki.collectives": "current_collectives",
    "torch_neuronx": "decorators",
}
_ROOTS: Final = ("neuronxcc", "nki", "torch_neuronx")
_LEAVES: Final = ("language", "isa", "typing", "collectives")
_IMPORT_FROM: Final = dis.opmap["IMPORT_FROM"]


class UnsupportedError(KernelError, AttributeError):
    """A kernel names an operation that the simulator lacks; `hasattr` of it is false."""


class Unsupported:
    """What `from neuronxcc.nki.isa import foo` binds where there is no `foo`: an error as soon as it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Raise: what the simulator lacks was used."""
        raise _unsupported(self._name)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        raise _unsupported(f"{self._name}.{attribute}")

    def __repr__(self) -> str:
        return f"<{self._name}, not supported>"


def _unsupported(name: str) -> UnsupportedError:
    return UnsupportedError(f"{name.removeprefix('neuronxcc.')} is not supported by the simulator")


class _Forwarding(ModuleType):
    """A module whose attributes are those of a module of this folder."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        target = _target(self.__name__)
        if target is not None and not name.startswith("_") and hasattr(target, name):
            value = getattr(target, name)
            if not isinstance(value, ModuleType):
                self.__dict__[name] = value
                return value
        child = f"{self.__name__}.{name}"
        if child in _TARGETS:
            # NKI's own package imports its modules: `nki.compiler` needs no import in the kernel.
            return importlib.import_module(child)
        frame = sys._getframe(1)
        if frame.f_lasti >= 0 and frame.f_code.co_code[frame.f_lasti] == _IMPORT_FROM:
            return Unsupported(f"{self.__name__}.{name}")
        raise _unsupported(f"{self.__name__}.{name}")

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        raise _unsupported(self.__name__)


def _target(name: str) -> ModuleType | None:
    """The module of this folder that stands behind `name`."""
    short = _TARGETS.get(name)
    if short is None:
        return None
    try:
        return importlib.import_module(_HERE + short)
    except ModuleNotFoundError as error:
        if error.name == _HERE + short:
            return None
        raise


def simulated_modules() -> dict[str, ModuleType]:
    """The modules of this folder by the names that a kernel imports; a name that nothing stands behind is left out."""
    return {name: found for name in _TARGETS if (found := _target(name)) is not None}


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module below the roots, known or not."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        root, _, rest = fullname.partition(".")
        if root not in _ROOTS:
            return None
        is_leaf = fullname in _TARGETS and rest.rpartition(".")[2] in _LEAVES
        return importlib.machinery.ModuleSpec(fullname, self, is_package=not is_leaf)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Forwarding(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: attributes are looked up as they are used."""


_FINDER: Final = _Finder()
_KEPT: Final = frozenset({"numpy", "ml_dtypes", "npuscope"})
"""Packages that are ours or our own needs, wherever they lie: never a module beside a kernel."""


@contextmanager
def kernel_modules(folder: Path | None, siblings: dict[str, ModuleType]) -> Iterator[None]:
    """Make the NKI modules, and modules beside the kernel file, importable inside the block.

    Args:
        folder: Where the kernel file lies; None for a function that was not loaded from a file.
        siblings: Modules of that folder from earlier blocks, by name; takes those that the block adds.
    """
    hidden = {name: sys.modules[name] for name in list(sys.modules) if _is_hidden(name, folder)}
    for name in hidden:
        del sys.modules[name]
    before = set(sys.modules)
    path, writes_bytecode = list(sys.path), sys.dont_write_bytecode
    sys.modules.update(siblings)
    sys.meta_path.insert(0, _FINDER)
    sys.dont_write_bytecode = True
    if folder is not None:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.meta_path.remove(_FINDER)
        sys.path[:] = path
        sys.dont_write_bytecode = writes_bytecode
        for name in set(sys.modules) - before:
            root = name.partition(".")[0]
            is_sibling = folder is not None and root not in _KEPT and _lies_in(sys.modules[name], folder)
            if name in siblings or is_sibling or root in _ROOTS:
                siblings[name] = sys.modules.pop(name)
        sys.modules.update(hidden)


def _is_hidden(name: str, folder: Path | None) -> bool:
    """Whether a module that is loaded already stands in the way of what the kernel means by its name."""
    root = name.partition(".")[0]
    if root in _ROOTS:
        return True
    if folder is None or root in sys.stdlib_module_names or root in _KEPT:
        return False
    if not (folder / f"{root}.py").is_file() and not (folder / root / "__init__.py").is_file():
        return False
    return root in sys.modules and not _lies_in(sys.modules[root], folder)


def _lies_in(module: ModuleType, folder: Path) -> bool:
    """Whether a module's file is one of the user's in `folder`, and not of an environment that lies there."""
    origin = getattr(module, "__file__", None)
    if not isinstance(origin, str) or not Path(origin).is_relative_to(folder):
        return False
    return "site-packages" not in Path(origin).relative_to(folder).parts
