"""Write a synthetic NTFF capture to try the readers on.

    python examples/synthetic_capture.py demo.ntff

It holds two matmuls, their copies and a few DMA packets, with made-up times. Its instance type is `inf2.synthetic`, which
stands in every heading, so that nobody takes it for a measurement.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.writers.ntff import small_capture

if __name__ == "__main__":
    capture = small_capture()
    capture.instance_type = "inf2.synthetic"
    capture.clock = (1024, 1024 * 5000)  # 5 ns a tick
    capture.total_time_ps = 10_000_000
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "demo.ntff")
    target.write_bytes(capture.data())
    print(f"{target}: next, npuscope analyze {target}")
