"""Time to plan the 8,000-shape `tiling` suite, to import the command line, and to plan buckets for 10,000 lengths.

Run as `python -m benchmarks.planning`. Each fast path runs beside the straightforward one and must give its answer.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from benchmarks.common import Figure, at_most, run_with_repeats, spread_text
from npuscope.analysis.buckets import (
    BucketPlan,
    Floats,
    LatencyCurve,
    LengthHistogram,
    evaluate_buckets,
    plan_buckets,
)
from npuscope.tiling.model import TENSOR_ENGINE
from npuscope.tiling.work import plan, plan_suite, tile_matmul
from npuscope.workloads.matmul import MatmulConfig
from npuscope.workloads.suites import load_suite

PLAN_TARGET_MS = 50.0
IMPORT_TARGET_MS = 300.0
BUCKETS_TARGET_S = 1.0
_LENGTHS = 10_000
_LONGEST = 1 << 17
_COST_MS = 0.01
_MAX_BUCKETS = 16


def measure_suite(repeats: int = 15) -> list[Figure]:
    """Suite to columns, ms: all at once, and shape by shape."""
    configs = load_suite("tiling").configs(["float32"])
    columns, rows = plan(configs), plan_one_by_one(configs)
    for name in rows[0]:
        if columns[name].tolist() != [row[name] for row in rows]:
            raise AssertionError(f"the two ways disagree on {name}")
    whole = _milliseconds(lambda: plan_suite(load_suite("tiling"), "float32"), repeats)
    one_by_one = _milliseconds(lambda: plan_one_by_one(load_suite("tiling").configs(["float32"])), repeats)
    only_plan = _milliseconds(lambda: plan(configs), repeats)
    only_rows = _milliseconds(lambda: plan_one_by_one(configs), repeats)
    count = f"{len(configs):,} shapes"
    return [
        at_most(f"{count}: suite to columns", median(whole), PLAN_TARGET_MS, "ms", spread_text(whole)),
        Figure("the same, one shape at a time", median(one_by_one), "ms", spread=spread_text(one_by_one)),
        Figure("of these, planning alone: columns", median(only_plan), "ms", spread=spread_text(only_plan)),
        Figure("planning alone: one shape at a time", median(only_rows), "ms", spread=spread_text(only_rows)),
        Figure("planning alone: how much faster in columns", median(only_rows) / median(only_plan), "x"),
    ]


def plan_one_by_one(configs: list[MatmulConfig]) -> list[dict[str, float]]:
    """The same figures by a Python loop over the shapes."""
    model = TENSOR_ENGINE
    rows: list[dict[str, float]] = []
    for config in configs:
        tiling = tile_matmul(config, model)
        padded_n = tiling.num_tiles_N * model.tile_n
        if model.moving_n:
            last = config.N - (tiling.num_tiles_N - 1) * model.tile_n
            padded_n = (tiling.num_tiles_N - 1) * model.tile_n + max(last, model.min_moving_columns)
        padded = 2 * tiling.num_tiles_M * model.tile_m * tiling.num_tiles_K * model.tile_k * padded_n
        rows.append(
            {
                "M": config.M,
                "K": config.K,
                "N": config.N,
                "num_tiles_M": tiling.num_tiles_M,
                "num_tiles_K": tiling.num_tiles_K,
                "num_tiles_N": tiling.num_tiles_N,
                "total_tiles": tiling.total_tiles,
                "model_flops": config.model_flops,
                "padded_flops": padded,
                "array_utilisation": config.model_flops / padded,
                "operand_bytes": config.operand_bytes,
            }
        )
    return rows


def measure_start(repeats: int = 15) -> list[Figure]:
    """Start of the command line in fresh processes, ms: with and without npuscope in turn."""
    script = Path(sys.executable).with_name("npuscope")
    commands = {
        "pass": [sys.executable, "-c", "pass"],
        "import": [sys.executable, "-c", "import npuscope.cli.app"],
        "help": [str(script), "--help"] if script.exists() else [sys.executable, "-m", "npuscope", "--help"],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for repeat in range(repeats + 1):
        for name, command in commands.items():
            start = perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if repeat:  # the first may compile bytecode and read from disk
                taken[name].append(1e3 * (perf_counter() - start))
    added = [slow - fast for slow, fast in zip(taken["import"], taken["pass"], strict=True)]
    return [
        at_most("import of the command line", median(added), IMPORT_TARGET_MS, "ms", spread_text(added)),
        at_most(
            "npuscope --help as a whole", median(taken["help"]), IMPORT_TARGET_MS, "ms", spread_text(taken["help"])
        ),
        Figure("python -c pass", median(taken["pass"]), "ms", spread=spread_text(taken["pass"])),
    ]


def measure_buckets(repeats: int = 3) -> list[Figure]:
    """The exact bucket planner on 10,000 distinct lengths, s, beside the quadratic dynamic program."""
    histogram, curve = bucket_problem()
    figures = []
    for label, limit in (("no limit", None), (f"at most {_MAX_BUCKETS}", _MAX_BUCKETS)):

        def ours(limit: int | None = limit) -> BucketPlan:
            return plan_buckets(histogram, curve, compile_cost_ms=_COST_MS, max_buckets=limit)

        def theirs(limit: int | None = limit) -> BucketPlan:
            return plan_quadratically(histogram, curve, _COST_MS, limit)

        fast, slow = ours(), theirs()
        if not math.isclose(fast.expected_cost_ms, slow.expected_cost_ms, rel_tol=1e-12):
            raise AssertionError(f"{label}: {fast.expected_cost_ms} is not {slow.expected_cost_ms}")
        fast_s = [milliseconds / 1e3 for milliseconds in _milliseconds(ours, repeats)]
        slow_s = [milliseconds / 1e3 for milliseconds in _milliseconds(theirs, repeats)]
        name = f"{len(histogram.lengths):,} lengths, {label} ({len(fast.buckets)} buckets)"
        figures += [
            at_most(f"{name}: plan_buckets", median(fast_s), BUCKETS_TARGET_S, "s", spread_text(fast_s)),
            Figure(f"{name}: quadratic in numpy", median(slow_s), "s", spread=spread_text(slow_s)),
            Figure(f"{name}: how much faster", median(slow_s) / median(fast_s), "x"),
        ]
    return figures


def bucket_problem() -> tuple[LengthHistogram, LatencyCurve]:
    """10,000 distinct lengths up to 2^17 with lognormal weights, on a latency that grows faster than linearly."""
    rng = np.random.default_rng(0)
    lengths = np.sort(rng.choice(np.arange(1, _LONGEST + 1), _LENGTHS, replace=False))
    weights = np.exp(-0.5 * np.log(lengths / 8192) ** 2) / lengths
    points = np.append(1, np.arange(1, 129) * (_LONGEST // 128))
    latency = 0.05 + points / 4e3 + (points / 3e4) ** 2
    return LengthHistogram(lengths, weights), LatencyCurve(points, latency, "modelled: a benchmark")


def plan_quadratically(histogram: LengthHistogram, curve: LatencyCurve, cost: float, limit: int | None) -> BucketPlan:
    """The cheapest set by f(j) = min over all i < j of f(i) + (P_j - P_i) t_j + cost, vectorised over i.

    Complete here, where latency grows with length and every length may be a bucket.
    """
    latency = curve.at(histogram.lengths)
    prefix = np.append(0.0, np.cumsum(histogram.weights / histogram.weights.sum()))
    start = np.append(0.0, np.full(len(latency), math.inf))
    if limit is None:
        _, parents = _quadratic_layer(prefix, latency, cost, None)
        chosen, j = [], len(latency)
        while j:
            chosen.append(j - 1)
            j = parents[j]
    else:
        totals, layers, best = start, [], (math.inf, 0)
        for number in range(1, limit + 1):
            totals, parents = _quadratic_layer(prefix, latency, cost, totals)
            layers.append(parents)
            best = min(best, (float(totals[-1]), number))
        chosen, j = [], len(latency)
        for parents in layers[: best[1]][::-1]:
            chosen.append(j - 1)
            j = parents[j]
    return evaluate_buckets("quadratic", [int(histogram.lengths[i]) for i in chosen], histogram, curve, cost)


def _quadratic_layer(prefix: Floats, latency: Floats, cost: float, previous: Floats | None) -> tuple[Floats, list[int]]:
    count = len(latency)
    totals = np.append(0.0, np.full(count, math.inf))
    base = totals if previous is None else previous
    parents = [0] * (count + 1)
    for j in range(1, count + 1):
        options = base[:j] - prefix[:j] * latency[j - 1]
        parents[j] = int(options.argmin())
        totals[j] = options[parents[j]] + prefix[j] * latency[j - 1] + cost
    return totals, parents


def _milliseconds(call: Callable[[], object], repeats: int) -> list[float]:
    """Wall clock of each of `repeats` calls, after one that is not counted."""
    call()
    taken = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        taken.append(1e3 * (perf_counter() - start))
    return taken


def measure(repeats: int = 15) -> list[Figure]:
    """All of the above."""
    return [*measure_suite(repeats), *measure_start(repeats), *measure_buckets(max(1, repeats // 5))]


if __name__ == "__main__":
    run_with_repeats("Planning and start", measure, __doc__, repeats=15)
