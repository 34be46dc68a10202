"""What do prefill and decode of a model cost, projection by projection?

Usage: python 04_llm_scenarios.py [DEVICE [MODEL]]
"""

import sys

from npuscope import MatmulProfiler, Settings
from npuscope.workloads.llm import llm_scenarios, model_dims

model = sys.argv[2] if len(sys.argv) > 2 else "qwen3-0.6b"
profiler = MatmulProfiler(sys.argv[1] if len(sys.argv) > 1 else "cpu")
configs = llm_scenarios(model_dims(model), batches=[1], sequences=[128], dtypes=["float32"])
for result in profiler.profile(configs, Settings(max_seconds=0.3)):
    print(f"{model} {result.name:<28} {result.M:>4} x {result.K} x {result.N:<5} {result.latency_ms:9.4f} ms")
