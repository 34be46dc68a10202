"""How long does one matmul take, and how sure is that?

Usage: python 01_single_matmul.py [DEVICE]
"""

import sys

from npuscope import MatmulConfig, MatmulProfiler

profiler = MatmulProfiler(sys.argv[1] if len(sys.argv) > 1 else "cpu")
result = profiler.profile_single_matmul(MatmulConfig(M=256, K=512, N=512), warmup=5, iterations=20)

print(f"device: {result.device}")
print(f"latency: {result.latency_ms:.4f} ms, 95 %: {result.latency_ci_low_ms:.4f} to {result.latency_ci_high_ms:.4f}")
print(f"first run: {result.first_run_ms:.4f} ms; dispatch floor: {result.dispatch_floor_ms:.4f} ms")
print(f"total tiles: {result.total_tiles} = {result.num_tiles_M} x {result.num_tiles_K} x {result.num_tiles_N}")
print(f"error over |A||B|: {result.error_over_mass:.1e} (at most {result.tolerance_over_mass:.1e})")
