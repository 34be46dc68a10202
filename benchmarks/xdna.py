"""Planning and emulating XDNA matmuls: the time of a plan, and of 3001x512x512 executed by each strategy.

Run as `python -m benchmarks.xdna [--repeats N]`.
"""

from __future__ import annotations

import itertools
from statistics import median
from time import perf_counter

import numpy as np

from benchmarks.common import Figure, at_most, run_with_repeats, spread_text
from npuscope.backends.xdna.execution import Execution
from npuscope.backends.xdna.phases import PhaseTimer
from npuscope.backends.xdna.platform import Platform, open_platform
from npuscope.backends.xdna.session import XdnaSession
from npuscope.backends.xdna.strategies import STRATEGIES
from npuscope.tiling.xdna_candidates import PlanRequest
from npuscope.tiling.xdna_legality import violations
from npuscope.tiling.xdna_plan import plan_matmul

PLAN_TARGET_MS = 200
EMULATION_TARGET_S = 1
SHAPES = (
    (3001, 512, 512),
    (1, 1, 1),
    (1, 4096, 4096),
    (4096, 4096, 4096),
    (4224, 4032, 4224),
    (65_536, 65_536, 65_536),
    (7, 50_257, 768),
)
CASE = (3001, 512, 512)


def measure_planning(repeats: int) -> list[Figure]:
    """ms of a plan: the slowest of several shapes, types and devices, beside judging designs one by one."""
    slowest: tuple[float, str, list[float]] = (0.0, "", [])
    for name in ("sim:npu1", "sim:npu2"):
        platform = open_platform(name)
        for shape, dtype in itertools.product(SHAPES, ("bfloat16", "int8", "int16")):
            out = {"bfloat16": "bfloat16"}.get(dtype, "int32")
            request = PlanRequest(*shape, dtype=dtype, out_dtype=out)
            taken = []
            for _ in range(repeats):
                start = perf_counter()
                plan_matmul(request, platform.array, platform.calibration)
                taken.append(1e3 * (perf_counter() - start))
            if median(taken) > slowest[0]:
                slowest = median(taken), f"{'x'.join(map(str, shape))} {dtype} on {name}", taken
    platform = open_platform("sim:npu1")
    request = PlanRequest(*CASE)
    found = plan_matmul(request, platform.array, platform.calibration)
    one_by_one_ms = _one_by_one_ms(platform)
    return [
        at_most(f"planning, slowest: {slowest[1]}", slowest[0], PLAN_TARGET_MS, "ms", spread_text(slowest[2])),
        Figure("designs tried for 3001x512x512 bfloat16", found.candidates, "designs"),
        Figure("the same designs judged one by one (extrapolated from 2,000)", one_by_one_ms * found.candidates, "ms"),
    ]


def _one_by_one_ms(platform: Platform, count: int = 2000) -> float:
    """ms to judge one design by itself."""
    from npuscope.tiling.xdna_design import XdnaDesign

    design = XdnaDesign(3072, 512, 512, 64, 64, 64, 4, 4)
    start = perf_counter()
    for _ in range(count):
        violations(design, platform.array)
    return 1e3 * (perf_counter() - start) / count


def measure_emulation(repeats: int) -> list[Figure]:
    """Seconds of one warm pass of each strategy over that case, emulation included, beside NumPy's float32 product."""
    platform = open_platform("sim:npu1")
    rng = np.random.default_rng(0)
    M, K, N = CASE
    a, b = rng.standard_normal((M, K), np.float32), rng.standard_normal((K, N), np.float32)
    figures = []
    for strategy in STRATEGIES.values():
        tiling = strategy.tile(PlanRequest(M, K, N), platform, 0)
        with XdnaSession(platform.runtime, platform.array, platform.name) as session:
            kernel = session.load(platform.kernel_for(tiling.design))
            execution = Execution(session, kernel, tiling, PhaseTimer(platform.host_ns))
            execution.multiply(a, b)
            taken = []
            for _ in range(repeats):
                start = perf_counter()
                execution.multiply(a, b)
                taken.append(perf_counter() - start)
        name = f"emulated 3001x512x512, {strategy.name} ({tiling.calls:,} tiles or calls)"
        figures.append(at_most(name, median(taken), EMULATION_TARGET_S, "s", spread_text(taken)))
    start = perf_counter()
    for _ in range(repeats):
        np.matmul(a, b)
    figures.append(Figure("NumPy's float32 product of the same", (perf_counter() - start) / repeats, "s"))
    return figures


def measure(repeats: int = 5) -> list[Figure]:
    """All of the above."""
    return [*measure_planning(repeats), *measure_emulation(repeats)]


if __name__ == "__main__":
    run_with_repeats("XDNA planning and emulation", measure, __doc__, repeats=5)
