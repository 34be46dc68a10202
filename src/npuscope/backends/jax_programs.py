"""Programs on `jax:PLATFORM`, and XLA modules from JAX functions and from text.

A program is traced and compiled once, ahead of time; the HLO that is kept is JAX's lowering, before XLA optimises it. Traces
are JAX's own profiler's, without its Python tracer, which would slow down what it watches.

What stands for one execution in a trace was found by tracing functions that dispatch one and five programs on `jax:cpu` with
JAX 0.10; other platforms' names are from the source of XLA's PJRT clients (openxla/xla, `TraceMe` in `Execute`).
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.backends.base import CompileReport, require_dtype
from npuscope.backends.jax import JaxBackend
from npuscope.backends.programs import RUN_ANNOTATION
from npuscope.errors import FormatError, MeasurementError, UnavailableError, UsageError, shorten
from npuscope.formats.chrome_trace import read_chrome_trace
from npuscope.workloads.patterns import OFFSET, PATTERN_DTYPES, PatternConfig

_TRACE_FILES: Final = "plugins/profile/*/*.trace.json.gz"
_EXECUTION: Final = re.compile(r"Executable::ExecuteHelper|^PjRtCApiLoadedExecutable::Execute(Sharded|Portable)?$")
"""Events of a host thread that stand for one execution; where one contains another, the most frequent name counts."""
_TRACE_LIMIT: Final = 1_000_000
"""Events that XLA writes into a JSON trace; it drops others unseen (xplane_to_trace_container)."""
_HLO_PARSERS: Final = ("jaxlib._hlo", "jaxlib._jax", "jaxlib.xla_extension")
"""Modules that hold `hlo_module_from_text`, in the order of jaxlib's versions, newest first."""
_MLIR_CONVERTERS: Final = ("jaxlib._jax", "jaxlib.xla_extension")
_BYTECODE: Final = b"ML\xefR"
_IS_HLO: Final = re.compile(r"^\s*HloModule\s", re.MULTILINE)
_INSTALL: Final = "pip install 'npuscope[jax]'"
_PLACED: Final = re.compile(r"(?P<line>\d+):(?P<column>\d+): error: (?P<words>.+)")
"""How XLA's and MLIR's parsers tell the first fault."""


class JaxProgram:
    """A program that was lowered and compiled ahead of time."""

    def __init__(self, compiled: Any, device: Any, report: CompileReport, hlo: bytes | None) -> None:
        self._compiled = compiled
        self._device = device
        self.report = report
        self.hlo = hlo

    def call(self, *placed: Any) -> Any:
        """Dispatch with arrays that lie on the device, and return what the function does."""
        return self._compiled(*placed)

    def place(self, inputs: Sequence[npt.NDArray[Any]]) -> Any:
        """Copy the inputs to the device and wait for the copy."""
        import jax

        return jax.block_until_ready(tuple(jax.device_put(array, self._device) for array in inputs))

    def run(self, placed: Any) -> Any:
        """Dispatch; JAX returns before the device has finished."""
        return self._compiled(*placed)

    def synchronise(self, output: Any) -> None:
        """Wait for every result."""
        for result in output:
            result.block_until_ready()

    def fetch(self, output: Any) -> tuple[npt.NDArray[Any], ...]:
        """Copy to the host."""
        return tuple(np.asarray(result) for result in output)

    def recording_ns(self, placed: Any) -> int | None:
        """None: the program was traced before."""
        return None


class JaxProgramBackend(JaxBackend):
    """The first device of one JAX platform, for programs as for matmuls."""

    def compile_program(self, config: PatternConfig) -> JaxProgram:
        """Trace, lower and compile one pattern; the whole of it is timed.

        Raises:
            MeasurementError: JAX cannot trace it, or XLA refuses it.
        """
        require_dtype(self.name, config.dtype, PATTERN_DTYPES)
        return self.compile_function(pattern_function(config), [config.input_shape], config.dtype, config.name)

    def compile_floor(self, dtype: str) -> JaxProgram:
        """x + 1 on one element."""
        return self.compile_function(lambda x: (x + 1,), [(1,)], dtype, "the dispatch floor")

    def compile_function(
        self, function: Callable[..., Any], shapes: Sequence[tuple[int, ...]], dtype: str, described: str
    ) -> JaxProgram:
        """Trace, lower and compile a function of arrays of one type; the whole of it is timed.

        Args:
            function: Takes an array per shape.
            shapes: Of its arguments.
            dtype: Of all of them.
            described: What to call it in an error.

        Raises:
            MeasurementError: It does not trace, or XLA refuses it.
        """
        import jax.numpy as jnp

        ahead = self.compile_ahead(function, shapes, jnp.dtype(dtype), f"{described} {dtype}")
        report = CompileReport(ahead.duration_ns, ahead.cache, dtype, dtype)
        lowering = ahead.lowered.compiler_ir("hlo")  # None where the plugin does not give it
        hlo = bytes(lowering.as_serialized_hlo_module_proto()) if lowering is not None else None
        return JaxProgram(ahead.compiled, self._device, report, hlo)

    def device_executions(self) -> int | None:
        """None: JAX counts none; its trace tells them."""
        return None

    def trace(self, step: Callable[[], object], folder: Path, runs: int) -> Path | None:
        """Run under `jax.profiler.trace`, each run in an annotation of its own.

        Raises:
            MeasurementError: Another profiler is running, or JAX wrote no trace.
        """
        import jax

        options = {}
        if hasattr(jax.profiler, "ProfileOptions"):
            options["profiler_options"] = jax.profiler.ProfileOptions()
            options["profiler_options"].python_tracer_level = 0
        before = {path: path.stat().st_mtime_ns for path in folder.glob(_TRACE_FILES)}
        try:
            with jax.profiler.trace(str(folder), **options):
                for number in range(runs):
                    with jax.profiler.StepTraceAnnotation(RUN_ANNOTATION, step_num=number):
                        step()
        except RuntimeError as error:
            raise MeasurementError(f"{self.name} cannot be traced: {shorten(str(error), 160)}") from error
        new = [path for path in folder.glob(_TRACE_FILES) if path.stat().st_mtime_ns != before.get(path)]
        if not new:
            raise MeasurementError(f"{self.name} cannot be traced: JAX's profiler wrote no {_TRACE_FILES} in {folder}")
        return max(new, key=lambda path: path.stat().st_mtime_ns)

    def execution_count(self, path: Path) -> int | None:
        """Executions within the annotated runs; None where the trace names none, or was cut by XLA's own limit.

        Raises:
            FormatError: The trace is damaged.
        """
        events = read_chrome_trace(path).tables.get("SystemProfileEvents")
        if events is None or events.num_rows >= _TRACE_LIMIT:
            return None
        names = events.column("name").to_pylist()
        starts, ends = (events.column(name).to_pylist() for name in ("start_ts", "end_ts"))
        runs = [(start, end) for name, start, end in zip(names, starts, ends, strict=True) if name == RUN_ANNOTATION]
        counted = Counter(
            name
            for name, start in zip(names, starts, strict=True)
            if name and _EXECUTION.search(name) and any(first <= start <= last for first, last in runs)
        )
        return max(counted.values(), default=None)


def pattern_function(config: PatternConfig) -> Callable[[Any], tuple[Any, ...]]:
    """The JAX function of a pattern: its one input to a tuple of its results, as `workloads.patterns` defines them."""
    function = (_published if config.as_published else _same_work)(config)
    function.__name__ = config.name.replace("-", "_")  # XLA names the module after it
    return function


def _same_work(config: PatternConfig) -> Callable[[Any], tuple[Any, ...]]:
    import jax
    import jax.numpy as jnp

    def step(x: Any) -> Any:
        products = jnp.matmul(x, x.T, precision="highest")
        return jnp.maximum(jnp.sum(x * x, axis=-1), 0) + OFFSET + jnp.sum(products, axis=-1)

    def row_step(row: Any, x: Any) -> Any:
        products = jnp.matmul(x, row, precision="highest")
        return jnp.maximum(jnp.sum(row * row), 0) + OFFSET + jnp.sum(products)

    def body(carry: Any, x: Any) -> tuple[Any, Any]:
        y = step(x)
        return carry + y, y

    def vmap(xs: Any) -> tuple[Any, ...]:
        ys = jax.vmap(step)(xs)
        return ys, jnp.sum(ys, axis=0)

    def scan(xs: Any) -> tuple[Any, ...]:
        total, ys = jax.lax.scan(body, jnp.zeros(config.batch, xs.dtype), xs)
        return ys, total

    def loop(xs: Any) -> tuple[Any, ...]:
        total, ys = jnp.zeros(config.batch, xs.dtype), []
        for index in range(config.iterations):
            total, y = body(total, xs[index])
            ys.append(y)
        return jnp.stack(ys), total

    def nested_vmap(xs: Any) -> tuple[Any, ...]:
        ys = jax.vmap(lambda x: jax.vmap(row_step, in_axes=(0, None))(x, x))(xs)
        return ys, jnp.sum(ys, axis=0)

    return {"vmap": vmap, "scan": scan, "loop": loop, "nested-vmap": nested_vmap}[config.pattern]


def _published(config: PatternConfig) -> Callable[[Any], tuple[Any, ...]]:
    import jax
    import jax.numpy as jnp

    def vmap(data: Any) -> tuple[Any, ...]:
        repeated = jnp.tile(data[None], (config.iterations, 1, 1))
        return (jax.vmap(lambda x: jnp.maximum(jnp.sum(x * x, axis=-1), 0) + OFFSET)(repeated),)

    def body(carry: Any, x: Any) -> tuple[Any, Any]:
        carry = carry + jnp.sum(x)
        return carry, carry + jnp.sum(jnp.matmul(x, x.T, precision="highest"))

    def scan(data: Any) -> tuple[Any, ...]:
        repeated = jnp.tile(data[None], (config.iterations, 1, 1))
        return tuple(jax.lax.scan(body, jnp.zeros((), data.dtype), repeated))

    def loop(data: Any) -> tuple[Any, ...]:
        result = jnp.zeros(config.features, data.dtype)
        for index in range(config.iterations):
            result = result + jnp.mean(data[index % config.batch])
        return (result,)

    return {"vmap": vmap, "scan": scan, "loop": loop}[config.pattern]


def module_from_function(function: Callable[..., Any], *example_args: Any, name: str = "") -> bytes:
    """The lowering of a JAX function as a serialized HloModuleProto; nothing is run.

    Args:
        function: Anything that `jax.jit` takes, or what it returned.
        *example_args: Arrays, `jax.ShapeDtypeStruct`s, or anything else with a shape and a dtype.
        name: What to call it in an error; its own name where this is empty.

    Raises:
        UsageError: It does not trace for these arguments.
        UnavailableError: JAX is not installed.
    """
    jax = _jax("an XLA module from a JAX function")
    told = name or getattr(function, "__name__", type(function).__name__)
    if not callable(function):
        raise UsageError(f"{shorten(repr(function))} is no function that JAX could trace")
    try:
        jitted = function if hasattr(function, "lower") else jax.jit(function)
        described = [_described(jax, value) for value in example_args]
        lowering = jitted.lower(*described).compiler_ir("hlo")
    except Exception as error:
        text = _first_line(error)
        raise UsageError(f"{told} does not trace with these arguments: {type(error).__name__}: {text}") from error
    if lowering is None:
        raise UsageError(
            f"{told} has no lowering to HLO on JAX platform {jax.default_backend()}; use JAX_PLATFORMS=cpu"
        )
    return bytes(lowering.as_serialized_hlo_module_proto())


def _described(jax: Any, value: Any) -> Any:
    """A shape and a type by themselves, which JAX takes as its own class only; other values as they are."""
    is_described = isinstance(getattr(value, "shape", None), tuple) and hasattr(value, "dtype")
    known = (np.ndarray, np.generic, jax.Array, jax.ShapeDtypeStruct)
    return jax.ShapeDtypeStruct(value.shape, value.dtype) if is_described and not isinstance(value, known) else value


_MOST_NESTED: Final = 200
"""Brackets in one another of a text: the parsers recurse, and end the process where that is too deep."""


def _refuse_nesting(text: bytes, source: str) -> None:
    codes = np.frombuffer(text.replace(b"->", b"  "), np.uint8)
    step = np.zeros(256, np.int32)
    step[list(b"([{<")], step[list(b")]}>")] = 1, -1
    depth = np.cumsum(step[codes], dtype=np.int64)
    lowest = np.minimum.accumulate(np.minimum(depth, 0)) if depth.size else depth
    if depth.size and int((depth - lowest).max()) > _MOST_NESTED:
        at = int(np.argmax(depth - lowest > _MOST_NESTED))
        raise FormatError(
            source, where=f"byte {at}", expected=f"at most {_MOST_NESTED} brackets in one another", found="more"
        )


def module_from_text(text: str | bytes, source: str) -> bytes:
    """HLO text, StableHLO text or MLIR bytecode as a serialized HloModuleProto, by the parsers of the installed jaxlib.

    Args:
        text: Of the whole program.
        source: What to call it in an error.

    Raises:
        FormatError: The parser refuses it; with its own first line.
        UnavailableError: JAX is not installed, or its jaxlib has no parser for this.
    """
    _jax(f"a parser for the text of {source}")
    if isinstance(text, bytes) and text.startswith(_BYTECODE):
        return _from_mlir(text, source)
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            found = f"byte {text[error.start]:#04x}"
            raise FormatError(
                source, where=f"byte {error.start}", expected="HLO or MLIR as UTF-8 text", found=found
            ) from error
    if "\0" in text:
        raise FormatError(source, where=f"character {text.index(chr(0))}", expected="HLO or MLIR text", found="a NUL")
    encoded = text.encode()
    _refuse_nesting(encoded, source)
    if not _IS_HLO.search(text):
        return _from_mlir(encoded, source)
    parse = _from_jaxlib(_HLO_PARSERS, "hlo_module_from_text", f"a parser for the HLO text of {source}")
    try:
        return bytes(parse(text).as_serialized_hlo_module_proto())
    except Exception as error:
        raise _refused_text(source, "HLO text", error) from error


def _from_mlir(module: bytes, source: str) -> bytes:
    mlir = _from_jaxlib(_MLIR_CONVERTERS, "mlir", f"a parser for the MLIR of {source}")
    try:
        computation = mlir.mlir_module_to_xla_computation(module, use_tuple_args=False, return_tuple=False)
        return bytes(computation.as_serialized_hlo_module_proto())
    except Exception as error:
        raise _refused_text(source, "a StableHLO module with a main function", error) from error


def _jax(what: str) -> Any:
    try:
        return importlib.import_module("jax")
    except (ImportError, OSError) as error:
        missing = f"JAX cannot be imported ({shorten(str(error))})"
        raise UnavailableError(what, missing=missing, remedy=_INSTALL) from None


def _from_jaxlib(modules: Sequence[str], attribute: str, what: str) -> Any:
    """The first of these modules' attribute: jaxlib has moved them, and promises none of them."""
    for name in modules:
        try:
            return getattr(importlib.import_module(name), attribute)
        except (ImportError, AttributeError):
            continue
    missing = f"the installed jaxlib has no {attribute}"
    raise UnavailableError(what, missing=missing, remedy="pip install --upgrade 'npuscope[jax]'")


def _refused_text(source: str, expected: str, error: Exception) -> FormatError:
    """What a parser says is wrong, with the place that it names."""
    told = _PLACED.search(str(error))
    if told is None:
        return FormatError(source, expected=expected, found=_first_line(error))
    line, column = int(told["line"]), int(told["column"])
    where = f"line {line}, column {column}" if line else ""  # a fault of the whole module is told of line 0
    return FormatError(source, where=where, expected=expected, found=told["words"])


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return shorten(lines[0], 200) if lines else "no message"
