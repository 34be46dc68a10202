"""What JAX itself tells of its compilations, heard in the process of a user's program.

| what | from | public |
|---|---|---|
| compilations, their time, hits of the persistent cache | `jax.monitoring` | yes |
| calls of jitted functions | `PjitFunction(NAME)` in the host trace of `jax.profiler` | yes; the name of the event is not |
| the program of a compilation | `jax_dump_ir_to` | yes |
| function, arguments and settings of a compilation | the frame of `cache_miss` in JAX's own code | no |
| key in the persistent cache and its parts, why an entry was not written | log messages of JAX | no |

What is not public may be missing in another version of JAX: it is None or empty then, and nothing is put in its place.
Nothing is set but where JAX dumps programs, and the levels of three loggers, whose additional messages nobody else sees.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final

from npuscope.backends.jax_calls import CallTrace
from npuscope.backends.jax_logs import LogWatch

COMPILED: Final = "/jax/core/compile/backend_compile_duration"
"""Fires also where the persistent cache had the program."""
TRACED: Final = "/jax/core/compile/jaxpr_trace_duration"
LOWERED: Final = "/jax/core/compile/jaxpr_to_mlir_module_duration"
HIT: Final = "/jax/compilation_cache/cache_hits"
SETTINGS: Final = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_debug_nans",
    "jax_threefry_partitionable",
    "jax_default_device",
)
"""Settings that are part of what is compiled; read when something is."""
_VARIABLES: Final = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NEURON_CC_FLAGS")
_DUMP_LIMIT: Final = 1 << 30
"""Bytes of dumped programs; a program with large constants is as large."""
_COMPILE_LIMIT: Final = 20_000
_DEPTH_LIMIT: Final = 20
"""Functions around one another."""
_LEAF_LIMIT: Final = 200
_TEXT_LIMIT: Final = 120


class JaxWatch:
    """Hears JAX from its import to the end of the program."""

    def __init__(self, folder: Path) -> None:
        self._programs = folder / "programs"
        self._jax: Any = None
        self._root = ""
        self._compiles: list[dict[str, Any]] = []
        self._pending: dict[int, dict[str, Any]] = {}
        self._functions: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._function_count = 0
        self._lock = threading.RLock()
        self._seen: set[str] = set()
        self._dumped_bytes = 0
        self._is_dumping = False
        self._calls = CallTrace(folder / "trace")
        self._logs = LogWatch()
        self._notes: list[str] = []
        self._is_over = False

    @property
    def count(self) -> int:
        """Compilations so far, those that the persistent cache had among them."""
        return len(self._compiles)

    def begin(self) -> None:
        """Start to listen; the program has just imported JAX, and not used it yet."""
        import jax

        self._jax = jax
        self._root = str(Path(jax.__file__).resolve().parent) + os.sep
        jax.monitoring.register_event_listener(self._heard)
        jax.monitoring.register_event_duration_secs_listener(self._timed)
        self._logs.begin()
        self._calls.begin(jax)
        if os.environ.get("JAX_DUMP_IR_TO"):
            self._notes.append("JAX_DUMP_IR_TO is set for the program's own use: what was compiled is not compared")
            return
        try:
            jax.config.update("jax_dump_ir_to", str(self._programs))
            self._is_dumping = True
        except AttributeError:
            self._notes.append(f"JAX {jax.__version__} has no jax_dump_ir_to: what was compiled is not compared")

    def end(self) -> dict[str, Any] | None:
        """Everything that was heard; None where the program did not import JAX."""
        if self._jax is None:
            return None
        self._is_over = True
        calls = self._calls.end()
        if not self._is_heard():
            self._notes.append("the program removed JAX's listeners: what was compiled after that is not counted")
        return {
            "compiles": self._compiles,
            "calls": calls,
            "settings": self._cache_settings(),
            "versions": self._versions(),
            "notes": self._notes,
        }

    def _is_heard(self) -> bool:
        """Whether the program left our listeners in place; where JAX does not tell, they are taken to be there."""
        listeners = getattr(
            getattr(getattr(self._jax, "_src", None), "monitoring", None), "get_event_duration_listeners", None
        )
        return listeners is None or self._timed in listeners()

    # -- listening

    def _heard(self, event: str, **_: Any) -> None:
        if event == HIT and not self._is_over:
            self._of_thread()["hit"] = True

    def _timed(self, event: str, duration_s: float, **details: Any) -> None:
        if self._is_over or event not in (COMPILED, TRACED, LOWERED):
            return
        pending = self._of_thread()
        if event != COMPILED:
            key = "trace_ms" if event == TRACED else "lower_ms"
            pending[key] = pending.get(key, 0.0) + 1e3 * duration_s
            return
        with self._lock:
            self._pending.pop(threading.get_ident(), None)
            if len(self._compiles) >= _COMPILE_LIMIT:
                self._notes.append(f"only the first {_COMPILE_LIMIT:,} compilations are counted")
                return
            number = len(self._compiles)
            with suppress(Exception):  # of what is private: a watcher must not break what it watches
                pending |= self._call_of(sys._getframe(1))
            told = str(details.get("fun_name") or pending.get("name") or "")
            name = re.sub(r"^jit\((.*)\)$|^jit_(.*)$", lambda found: found[1] or found[2], told)
            if name.startswith("<unnamed") and pending.get("name"):
                name = pending["name"]  # the class of a callable object
            logs = self._logs.take()
            self._compiles.append(
                {
                    **pending,
                    "number": number,
                    "name": name,
                    "compile_ms": 1e3 * duration_s,
                    "is_hit": bool(pending.pop("hit", False)),
                    "program": self._program(),
                    "settings": self._settings(),
                    **logs,
                    "is_stored": self._is_stored(logs.get("key")),
                }
            )
            self._calls.mark(number)

    def _of_thread(self) -> dict[str, Any]:
        with self._lock:
            return self._pending.setdefault(threading.get_ident(), {})

    # -- what is compiled, for whom

    def _call_of(self, frame: FrameType) -> dict[str, Any]:
        """Function, arguments and place in the user's code, from the frames of the call that compiles."""
        found: dict[str, Any] = {}
        for each in _callers(frame):
            name = each.f_code.co_filename
            if not name.startswith(self._root):
                if "site" not in found and not name.startswith(("<frozen", os.path.dirname(__file__) + os.sep)):  # noqa: PTH120
                    found["site"] = f"{name}:{each.f_lineno}"
                continue
            if each.f_code.co_name != "cache_miss" or "fun" not in each.f_locals:
                continue
            values = each.f_locals
            if "function" not in found:
                found |= self._function(values["fun"])
                found["arguments"] = self._arguments(values)
                kinds = self._tracers(values)
                if kinds:  # called by a transformation that runs at once: its programs are not the function's own
                    found |= {"via": [*kinds, *found["via"]], "code": "", "arguments": None}
                options = getattr(values.get("jit_info"), "compiler_options_kvs", None)
                found["options"] = {str(key): str(value) for key, value in options or ()}
        return found

    def _function(self, function: Any) -> dict[str, Any]:
        """Which function object it is, where its code stands, and whether it is one of JAX's own."""
        inner = function
        via: list[str] = []
        while len(via) < _DEPTH_LIMIT and (deeper := self._wrapped(inner)) is not None:
            via.append(_wrapper_name(inner))
            inner = deeper
        code = getattr(inner, "__code__", None) or getattr(type(inner).__call__, "__code__", None)
        module = getattr(inner, "__module__", None) or type(inner).__module__
        told = {
            "name": getattr(inner, "__name__", type(inner).__name__),
            "code": f"{code.co_filename}:{code.co_firstlineno}" if code else "",
            "via": [name for name in via if name],
            "is_own": module == "jax" or module.startswith("jax."),
            "function": None,
        }
        with suppress(TypeError):  # neither hashable nor weakly referable: not told apart
            if function not in self._functions:
                self._function_count += 1  # not the size of the dictionary: functions leave it when they are gone
                self._functions[function] = self._function_count
            told["function"] = self._functions[function]
        return told

    def _wrapped(self, function: Any) -> Any:
        """What a function of JAX's own, such as that of `jax.grad`, or a partial one stands around; None for any other."""
        code = getattr(function, "__code__", None)
        if code is not None and not code.co_filename.startswith(self._root):
            return None
        return getattr(function, "__wrapped__", None) or (getattr(function, "func", None) if code is None else None)

    def _arguments(self, values: dict[str, Any]) -> list[list[str]]:
        """Path, kind and text of each argument as JAX's cache sees it."""
        args, kwargs = values.get("args", ()), values.get("kwargs", {})
        info = values.get("jit_info")
        # Of the signature: an argument that was left to its default has a number, too, and no place among these.
        numbers = {number + len(args) if number < 0 else number for number in getattr(info, "static_argnums", ()) or ()}
        names = set(getattr(info, "static_argnames", ()) or ())
        told: list[list[str]] = []
        for key, value in [*enumerate(args), *kwargs.items()]:
            if key in numbers or key in names:
                told.append([str(key), "static", _shown(value)])
                continue
            leaves = self._jax.tree_util.tree_flatten_with_path(value)[0]
            told += [[f"{key}{self._jax.tree_util.keystr(path)}", *_described(leaf)] for path, leaf in leaves]
            if len(told) > _LEAF_LIMIT:
                break
        return told[:_LEAF_LIMIT]

    def _tracers(self, values: dict[str, Any]) -> list[str]:
        """Transformations that the arguments are in the middle of: `jvp`, `batch`."""
        leaves = self._jax.tree_util.tree_leaves((values.get("args", ()), values.get("kwargs", {})))
        names = {type(leaf).__name__ for leaf in leaves if isinstance(leaf, self._jax.core.Tracer)}
        return sorted(name.removesuffix("Tracer").lower() for name in names)

    def _program(self) -> str:
        """The file of the program that was compiled last; '' where JAX dumped none, or it is not sure which."""
        if not self._is_dumping:
            return ""
        try:
            new = sorted({entry.name for entry in os.scandir(self._programs)} - self._seen)
        except OSError:
            return ""
        self._seen.update(new)
        with suppress(OSError):
            self._dumped_bytes += sum((self._programs / name).stat().st_size for name in new)
        if self._dumped_bytes > _DUMP_LIMIT:
            self._is_dumping = False
            self._jax.config.update("jax_dump_ir_to", "")
            self._notes.append("the compiled programs are larger than 1 GiB together: later ones are not compared")
        return new[0] if len(new) == 1 else ""

    # -- settings

    def _settings(self) -> dict[str, str]:
        told = {name: str(getattr(self._jax.config, name)) for name in SETTINGS if hasattr(self._jax.config, name)}
        return told | {name: os.environ[name] for name in _VARIABLES if name in os.environ}

    def _cache_settings(self) -> dict[str, Any]:
        config = self._jax.config
        names = {
            "folder": "jax_compilation_cache_dir",
            "is_enabled": "jax_enable_compilation_cache",
            "min_compile_s": "jax_persistent_cache_min_compile_time_secs",
            "min_entry_bytes": "jax_persistent_cache_min_entry_size_bytes",
        }
        return {key: getattr(config, name, None) for key, name in names.items()}

    def _is_stored(self, key: str | None) -> bool | None:
        """Whether the persistent cache has the entry now; None without a key or a local folder."""
        folder = getattr(self._jax.config, "jax_compilation_cache_dir", None)
        if not key or not folder or "://" in str(folder):
            return None
        return any((Path(folder) / f"{key}{ending}").exists() for ending in ("-cache", ""))

    def _versions(self) -> dict[str, str]:
        import jaxlib

        told = {"jax": self._jax.__version__, "jaxlib": jaxlib.__version__}
        if self._compiles:  # else asking would start a platform that the program never used
            with suppress(Exception):
                device = self._jax.devices()[0]
                told |= {"platform": device.platform, "compiler": str(device.client.platform_version)}
        return told


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _wrapper_name(function: Any) -> str:
    """`grad` of a function that `jax.grad` returned; '' of one that only shortens tracebacks."""
    code = getattr(function, "__code__", None)
    if code is None:
        return ""
    if "traceback" in code.co_name:
        inside = dict(zip(code.co_freevars, function.__closure__ or (), strict=False)).get("fun")
        code = getattr(getattr(inside, "cell_contents", None), "__code__", code)
    name = str(code.co_name)
    return "" if "traceback" in name else name.removesuffix("_f")


def _described(leaf: Any) -> list[str]:
    """Kind, and type with shape, of an argument that is traced; where it lies, if JAX knows."""
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    if shape is None or dtype is None:
        return ["scalar", f"Python {type(leaf).__name__}", ""]
    weak = "weak " if getattr(leaf, "weak_type", False) else ""
    text = f"{weak}{dtype}[{','.join(map(str, shape))}]"
    return ["array", text, _short(str(getattr(leaf, "sharding", "")))]


def _shown(value: Any) -> str:
    try:
        return _short(repr(value))
    except Exception:  # noqa: BLE001 - of the user's own class
        return f"a {type(value).__name__}"


def _short(text: str) -> str:
    return text if len(text) <= _TEXT_LIMIT else text[: _TEXT_LIMIT - 1] + "…"
