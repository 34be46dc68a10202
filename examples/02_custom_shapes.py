"""Which of my shapes is fastest per FLOP? The shapes are measured interleaved, so that none has the quieter moment.

Usage: python 02_custom_shapes.py [DEVICE]
"""

import sys
from pathlib import Path

from npuscope import MatmulConfig, MatmulProfiler, Settings

SHAPES = [(1, 1024, 1024), (8, 1024, 1024), (256, 1024, 1024), (256, 1024, 4096)]

profiler = MatmulProfiler(sys.argv[1] if len(sys.argv) > 1 else "cpu")
results = profiler.profile([MatmulConfig(*shape) for shape in SHAPES], Settings(max_seconds=0.5))
for result in sorted(results, key=lambda row: -(row.gflop_per_s or 0)):
    warnings = f"  [{result.warnings}]" if result.warnings else ""
    print(
        f"{result.M:>5} x {result.K} x {result.N:<5} {result.latency_ms:9.4f} ms {result.gflop_per_s:8.1f} GFLOP/s{warnings}"
    )

path = Path("results") / "custom_results.csv"
profiler.save_results_to_csv(results, path)
print(f"saved: {path}")
