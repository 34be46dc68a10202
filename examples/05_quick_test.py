"""Does this device work, and are its results right?

Usage: python 05_quick_test.py [DEVICE]
"""

import sys

from npuscope import MatmulProfiler, Settings, load_suite

profiler = MatmulProfiler(sys.argv[1] if len(sys.argv) > 1 else "cpu")
results = profiler.profile(load_suite("quick").configs(["float32"]), Settings(max_seconds=0.3))
for result in results:
    outcome = f"{result.latency_ms:.4f} ms" if result.status == "ok" else result.error
    print(f"{result.M} x {result.K} x {result.N}: {result.status}, {outcome}")
sys.exit(any(result.status != "ok" for result in results))
