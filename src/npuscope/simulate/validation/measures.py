"""What is read off a simulated run, under the name and in the unit in which it was published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from npuscope.profile.intervals import union_length
from npuscope.simulate.neuroncore.machine import Run
from npuscope.simulate.neuroncore.profile import predicted_total_ns
from npuscope.simulate.neuroncore.program import Engine, Space, Transfer, Work
from npuscope.simulate.neuroncore.schedule import LOADS

Runs = Sequence[Run]
"""One per physical core."""
_PS_PER_NS = 1000


class Measure(NamedTuple):
    """A quantity that can be published of a run."""

    label: str
    unit: str
    read: Callable[[Runs], float]


def _flops(runs: Runs) -> int:
    return sum(_sum(run, lambda work: work.array_flops if isinstance(work, Work) else 0) for run in runs)


def _hbm_read_bytes(runs: Runs) -> int:
    return sum(
        _sum(run, lambda work: work.read_bytes if isinstance(work, Transfer) and work.source is Space.HBM else 0)
        for run in runs
    )


def _hbm_write_bytes(runs: Runs) -> int:
    return sum(
        _sum(run, lambda work: work.write_bytes if isinstance(work, Transfer) and work.destination is Space.HBM else 0)
        for run in runs
    )


def _matmul_count(runs: Runs) -> int:
    return sum(int(np.count_nonzero(run.engine == Engine.TENSOR)) for run in runs)


def _sum(run: Run, amount: Callable[[Work | Transfer], int]) -> int:
    per_signature = np.array([amount(work) for work in run.program.signatures], np.int64)
    return int(per_signature[run.program.signature].sum()) if len(per_signature) else 0


def _tflops(runs: Runs) -> float:
    return _flops(runs) / predicted_total_ns(runs) / 1000


def _is_transpose(work: Work) -> bool:
    return work.is_transpose or work.opcode == "nc_transpose"


def _mfu_percent(runs: Runs) -> float:
    """Model FLOPs, those of transposes left out, against the peak of the clock."""
    core = runs[0].device.core
    peak = 2 * core.partitions**2 * core.tensor_clock_ghz / 1000
    turned = sum(
        _sum(run, lambda work: work.array_flops if isinstance(work, Work) and _is_transpose(work) else 0)
        for run in runs
    )
    return 100 * (_flops(runs) - turned) / predicted_total_ns(runs) / 1000 / peak


def _busy_ns(runs: Runs, engine: Engine) -> float:
    """Time in which at least one instruction of an engine runs, its pipeline's drain included: the mean of the cores."""
    busy = []
    for run in runs:
        own = run.engine == engine
        busy.append(union_length(run.schedule.start_ps[own], run.schedule.done_ps[own]) / _PS_PER_NS)
    return sum(busy) / len(busy)


def _dma_busy_ns(runs: Runs) -> float:
    """Time in which at least one DMA engine moves data: the mean of the cores."""
    busy = [union_length(run.schedule.packet_start_ps, run.schedule.packet_end_ps) / _PS_PER_NS for run in runs]
    return sum(busy) / len(busy)


def _vector_busy_percent(runs: Runs) -> float:
    """Of the time from the first instruction of a compute engine to the end of the last."""
    run = runs[0]
    compute = run.engine < LOADS
    span = int(run.schedule.done_ps[compute].max() - run.schedule.start_ps[compute].min()) / _PS_PER_NS
    return 100 * _busy_ns(runs[:1], Engine.VECTOR) / span


def _scalar_interval_ns(runs: Runs) -> float:
    """Median time from start to start of instructions of the ScalarE."""
    starts = np.sort(runs[0].schedule.start_ps[runs[0].engine == Engine.SCALAR])
    return float(np.median(np.diff(starts))) / _PS_PER_NS


def _packet_ns(runs: Runs) -> float:
    """The longest share of one DMA engine in one transfer."""
    schedule = runs[0].schedule
    return float((schedule.packet_end_ps - schedule.packet_start_ps).max()) / _PS_PER_NS


def _stream_gb_s(runs: Runs) -> float:
    """Bytes over the time in which data moves."""
    return (_hbm_read_bytes(runs) + _hbm_write_bytes(runs)) / _dma_busy_ns(runs)


MEASURES = MappingProxyType(
    {
        "total_ms": Measure("time", "ms", lambda runs: predicted_total_ns(runs) / 1e6),
        "total_us": Measure("time", "µs", lambda runs: predicted_total_ns(runs) / 1e3),
        "tflops": Measure("rate", "TFLOPS", _tflops),
        "mfu_percent": Measure("MFU", "%", _mfu_percent),
        "tensor_busy_us": Measure("TensorE busy", "µs", lambda runs: _busy_ns(runs, Engine.TENSOR) / 1e3),
        "vector_busy_ms": Measure("VectorE busy", "ms", lambda runs: _busy_ns(runs, Engine.VECTOR) / 1e6),
        "vector_busy_percent": Measure("VectorE busy", "%", _vector_busy_percent),
        "dma_busy_us": Measure("DMA busy", "µs", lambda runs: _dma_busy_ns(runs) / 1e3),
        "scalar_interval_ns": Measure("start to start", "ns", _scalar_interval_ns),
        "packet_ns": Measure("time on one DMA engine", "ns", _packet_ns),
        "stream_gb_s": Measure("rate", "GB/s", _stream_gb_s),
        "matmul_count": Measure("count", "", _matmul_count),
        "hardware_flops": Measure("count", "", _flops),
        "hbm_read_bytes": Measure("bytes", "B", _hbm_read_bytes),
        "hbm_write_bytes": Measure("bytes", "B", _hbm_write_bytes),
    }
)
