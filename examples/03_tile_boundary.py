"""What does one row more than a full tile cost, and is that more than noise?

Usage: python 03_tile_boundary.py [DEVICE]
"""

import sys

from npuscope import MatmulConfig, MatmulProfiler, Settings, boundary_study

profiler = MatmulProfiler(sys.argv[1] if len(sys.argv) > 1 else "cpu")
configs = [MatmulConfig(M, 512, 512) for M in (120, 128, 136, 248, 256, 264)]
results = profiler.profile(configs, Settings(max_seconds=0.5))
for result in results:
    print(f"M={result.M:<4} tiles {result.num_tiles_M}  {result.latency_ms:.4f} ms")
for effect in boundary_study(results):
    print(effect.sentence)
