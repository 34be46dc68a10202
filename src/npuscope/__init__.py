"""npuscope measures, predicts and explains how fast a computation runs on a neural processing unit."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from npuscope._version import __version__

if TYPE_CHECKING:
    from npuscope.analysis.boundary import boundary_study
    from npuscope.analysis.buckets import plan_buckets
    from npuscope.analysis.tiling_study import tiling_study
    from npuscope.backends.registry import open_device
    from npuscope.errors import NpuscopeError
    from npuscope.formats.results import ResultRow
    from npuscope.hardware.model import load_hardware
    from npuscope.measure.profiler import MatmulProfiler, NPUMatmulProfiler
    from npuscope.measure.settings import Settings
    from npuscope.simulate.hlo.simulation import HloSimulation, predict
    from npuscope.simulate.simulation import Simulation, simulate_kernel
    from npuscope.tiling.work import tensor_engine_work, tile_matmul
    from npuscope.workloads.matmul import MatmulConfig
    from npuscope.workloads.suites import load_suite

_HOMES = {
    "HloSimulation": "npuscope.simulate.hlo.simulation",
    "MatmulConfig": "npuscope.workloads.matmul",
    "MatmulProfiler": "npuscope.measure.profiler",
    "NPUMatmulProfiler": "npuscope.measure.profiler",
    "NpuscopeError": "npuscope.errors",
    "ResultRow": "npuscope.formats.results",
    "Settings": "npuscope.measure.settings",
    "Simulation": "npuscope.simulate.simulation",
    "boundary_study": "npuscope.analysis.boundary",
    "load_hardware": "npuscope.hardware.model",
    "load_suite": "npuscope.workloads.suites",
    "open_device": "npuscope.backends.registry",
    "plan_buckets": "npuscope.analysis.buckets",
    "predict": "npuscope.simulate.hlo.simulation",
    "simulate_kernel": "npuscope.simulate.simulation",
    "tensor_engine_work": "npuscope.tiling.work",
    "tile_matmul": "npuscope.tiling.work",
    "tiling_study": "npuscope.analysis.tiling_study",
}

__all__ = [
    "HloSimulation",
    "MatmulConfig",
    "MatmulProfiler",
    "NPUMatmulProfiler",
    "NpuscopeError",
    "ResultRow",
    "Settings",
    "Simulation",
    "__version__",
    "boundary_study",
    "load_hardware",
    "load_suite",
    "open_device",
    "plan_buckets",
    "predict",
    "simulate_kernel",
    "tensor_engine_work",
    "tile_matmul",
    "tiling_study",
]


def __getattr__(name: str) -> Any:
    """Import a public name upon its first use, so that `import npuscope` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'npuscope' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
