"""Rows of a sweep on a simulated device: its clock is the timing model's, so that one warm run tells all.

Nothing is sampled: repeating a prediction would only make a claim of precision. The first run, which loads the design into the
array, is kept apart from the warm one, as on a real device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from npuscope.backends.base import Backend, CompileReport, DeviceInfo, Executable
from npuscope.errors import OutputError
from npuscope.formats.results import ResultRow
from npuscope.measure.numerics import NumericalCheck, make_inputs
from npuscope.measure.rounds import describe_failure
from npuscope.measure.session import Session
from npuscope.measure.settings import Settings
from npuscope.workloads.matmul import MatmulConfig

Check = Callable[[Executable, object, Any, Any, MatmulConfig, Settings], NumericalCheck]


class SimulatedBackend(Backend, Protocol):
    """A backend whose device keeps its own time."""

    def clock_ns(self) -> int:
        """Simulated time in which the device worked, so far."""
        ...


def simulated_rows(
    backend: SimulatedBackend,
    info: DeviceInfo,
    session: Session,
    *,
    columns: Callable[[DeviceInfo, MatmulConfig, Settings], dict[str, Any]],
    check: Check,
    require_memory: Callable[[MatmulConfig], None],
) -> Iterator[tuple[int, ResultRow]]:
    """Predict what the session's plan still lacks.

    Args:
        backend: The simulated device.
        info: Its description.
        session: The sweep.
        columns: What a row says of its workload and device.
        check: Fetch a result and hold it against the reference; raises where it is wrong.
        require_memory: Raises where a workload does not fit this machine.
    """
    settings = session.plan.settings
    floors: dict[str, float] = {}
    for index in session.remaining:
        config = session.plan.configs[index]
        shared = columns(info, config, settings)
        try:
            require_memory(config)
            if config.dtype not in floors:
                floors[config.dtype] = _times(backend, MatmulConfig(1, 1, 1, config.dtype), settings, check)[1]
            first_ns, warm_ns, numerical, report = _times(backend, config, settings, check)
        except OutputError:
            raise
        except Exception as error:  # noqa: BLE001  # as with every device: one workload's failure is its row's
            yield (
                index,
                ResultRow(**shared, status="failed", latency_ms=None, error=describe_failure(error)),
            )
            continue
        floor_ns = floors[config.dtype]
        yield (
            index,
            ResultRow(
                **shared,
                status="ok",
                latency_ms=warm_ns / 1e6,
                compute_dtype=report.compute_dtype,
                out_dtype=report.out_dtype,
                samples=1,
                rounds=1,
                compile_cache=report.cache.value,
                first_run_ms=first_ns / 1e6,
                warmup_runs=1,
                dispatch_floor_ms=floor_ns / 1e6,
                dispatch_share=min(1.0, floor_ns / warm_ns),
                gflop_per_s=config.model_flops / warm_ns,
                max_abs_error=numerical.max_abs_error,
                error_over_mass=numerical.error_over_mass,
                tolerance_over_mass=numerical.tolerance_over_mass,
                check_method=numerical.method,
                samples_ns=(warm_ns,),
                sample_round=(0,),
                warmup_ns=(first_ns,),
            ),
        )


def _times(
    backend: SimulatedBackend, config: MatmulConfig, settings: Settings, check: Check
) -> tuple[int, int, NumericalCheck, CompileReport]:
    """Simulated time of the first and of a warm run, with the worse of their checks."""
    executable = backend.compile(config)
    a, b = make_inputs(config, settings.seed)
    placed = executable.place(a, b)
    times, checks = [], []
    for _ in range(2):
        start_ns = backend.clock_ns()
        output = executable.run(placed)
        executable.synchronise(output)
        times.append(backend.clock_ns() - start_ns)
        checks.append(check(executable, output, a, b, config, settings))
    return times[0], times[1], max(checks, key=lambda item: item.error_over_mass), executable.report
