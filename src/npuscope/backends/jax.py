"""`jax:PLATFORM`: XLA through JAX. `jax:cpu` is tested here; `jax:neuron` uses the same calls on AWS's PJRT plugin."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.backends.base import BackendOptions, CacheStatus, CompileReport, DeviceInfo, require_dtype
from npuscope.errors import MeasurementError, UnavailableError, shorten
from npuscope.hardware.host import detect_host_cpu
from npuscope.workloads.matmul import MatmulConfig

DTYPES = ("float32", "float16", "bfloat16", "int8")
_NEURON_DTYPES = ("float32", "float16", "bfloat16")  # "Dot operations on int dtypes are not supported" (jax-neuronx)
_NEURON_ON_CPU = "NEURON_RUN_TRIVIAL_COMPUTATION_ON_CPU"  # runs programs without collectives on the host (jax-neuronx)
_COMPILED = "/jax/core/compile/backend_compile_duration"  # fires on a cache hit too
_HIT = "/jax/compilation_cache/cache_hits"
_MISS = "/jax/compilation_cache/cache_misses"
_counted: Counter[str] = Counter()
_listening = threading.Lock()
_REMEDIES = {
    "neuron": "on a Neuron instance: pip install jax-neuronx --extra-index-url https://pip.repos.neuron.amazonaws.com",
    "cuda": "pip install 'jax[cuda12]'",
}


class JaxMatmul:
    """A matmul that was lowered and compiled ahead of time."""

    def __init__(self, compiled: Any, device: Any, report: CompileReport) -> None:
        self._compiled = compiled
        self._device = device
        self.report = report

    def place(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Any:
        """Copy both operands to the device and wait for the copy."""
        import jax

        return jax.block_until_ready((jax.device_put(a, self._device), jax.device_put(b, self._device)))

    def run(self, inputs: Any) -> Any:
        """Dispatch; JAX returns before the device has finished."""
        return self._compiled(*inputs)

    def synchronise(self, output: Any) -> None:
        """Wait for the device."""
        output.block_until_ready()

    def fetch(self, output: Any) -> npt.NDArray[Any]:
        """Copy to the host."""
        return np.asarray(output)


@dataclass(frozen=True, slots=True)
class CompiledAhead:
    """A function that was lowered and compiled ahead of time."""

    lowered: Any
    """`jax.stages.Lowered`: before the device's compiler."""
    compiled: Any
    """`jax.stages.Compiled`."""
    duration_ns: int
    cache: CacheStatus


class JaxBackend:
    """The first device of one JAX platform."""

    def __init__(self, device: str, options: BackendOptions) -> None:
        self.name = device
        platform = device.partition(":")[2]
        if platform == "neuron" and os.environ.get(_NEURON_ON_CPU, "0") not in {"", "0"}:
            remedy = f"unset {_NEURON_ON_CPU}"
            raise UnavailableError(
                device, missing=f"{_NEURON_ON_CPU} makes the plugin run matmuls on the host", remedy=remedy
            )
        self._dtypes = _NEURON_DTYPES if platform == "neuron" else DTYPES
        try:
            import jax
        except (ImportError, OSError) as error:
            raise UnavailableError(
                device, missing=f"JAX cannot be imported ({shorten(str(error))})", remedy="pip install 'npuscope[jax]'"
            ) from None
        try:
            self._device = jax.devices(platform)[0]
        except RuntimeError as error:
            remedy = _REMEDIES.get(platform, f"install the JAX plugin for {platform}")
            raise UnavailableError(device, missing=f"JAX says: {shorten(str(error), 160)}", remedy=remedy) from None
        _listen(jax)
        if options.compile_cache is not None:
            jax.config.update("jax_compilation_cache_dir", str(options.compile_cache.resolve()))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

    def describe(self) -> DeviceInfo:
        """The device as JAX names it."""
        import jax
        import jaxlib

        kind = self._device.device_kind
        description = detect_host_cpu().model if self._device.platform == "cpu" else kind
        versions = {
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "platform": str(self._device.client.platform_version),
        }
        return DeviceInfo(self.name, description, is_simulated=False, dtypes=self._dtypes, versions=versions)

    def compile(self, config: MatmulConfig) -> JaxMatmul:
        """Compile one matmul.

        Full operand precision is asked for, so that no platform multiplies float32 in a shorter type unseen.
        """
        import jax.numpy as jnp

        require_dtype(self.name, config.dtype, self._dtypes)
        dtype = jnp.dtype(config.dtype)
        out_dtype = "int32" if config.dtype == "int8" else config.dtype

        def matmul(a: Any, b: Any) -> Any:
            return jnp.matmul(a, b, precision="highest", preferred_element_type=jnp.dtype(out_dtype))

        shapes = ((config.M, config.K), (config.K, config.N))
        ahead = self.compile_ahead(matmul, shapes, dtype, f"{config.shape_text} {config.dtype}")
        report = CompileReport(ahead.duration_ns, ahead.cache, config.dtype, out_dtype)
        return JaxMatmul(ahead.compiled, self._device, report)

    def compile_ahead(
        self, function: Callable[..., Any], shapes: Sequence[tuple[int, ...]], dtype: Any, described: str
    ) -> CompiledAhead:
        """Trace, lower and compile a function for this device; the whole of it is timed.

        Args:
            function: Takes an array per shape.
            shapes: Of its arguments.
            dtype: Of all of them.
            described: What to call it in an error.

        Raises:
            MeasurementError: It does not trace, or the compiler refuses it.
        """
        import jax

        placement = jax.sharding.SingleDeviceSharding(self._device)
        arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=placement) for shape in shapes]
        before = dict(_counted)
        start_ns = time.perf_counter_ns()
        try:
            lowered = jax.jit(function).lower(*arguments)
            compiled = lowered.compile()
        except Exception as error:  # XLA raises many types; each means that this shape failed
            raise MeasurementError(f"{self.name} cannot compile {described}: {shorten(str(error), 160)}") from error
        duration_ns = time.perf_counter_ns() - start_ns
        return CompiledAhead(lowered, compiled, duration_ns, _cache_status(jax, before))

    def compile_count(self) -> int | None:
        """Backend compilations that JAX's own monitoring reported."""
        return _counted[_COMPILED]


def _listen(jax: Any) -> None:
    """Count JAX's monitoring events, once per process."""
    if not _listening.acquire(blocking=False):
        return  # held for good by the first caller
    jax.monitoring.register_event_listener(lambda event, **_: _counted.update((event,)))
    jax.monitoring.register_event_duration_secs_listener(lambda event, _duration, **__: _counted.update((event,)))


def _cache_status(jax: Any, before: dict[str, int]) -> CacheStatus:
    """Hit or miss as JAX counted; JAX counts a miss only when it writes the entry, which it may judge not worth it."""
    if _counted[_HIT] > before.get(_HIT, 0):
        return CacheStatus.HIT
    if _counted[_MISS] > before.get(_MISS, 0):
        return CacheStatus.MISS
    set_up = jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir
    return CacheStatus.MISS if set_up else CacheStatus.DISABLED
