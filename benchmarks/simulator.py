"""The timing simulator: instructions scheduled per second, a large kernel end to end, and a GEMM beside SCALE-Sim.

Run as `python -m benchmarks.simulator`. SCALE-Sim 3.0.0 needs its own environment (`pip install scalesim==3.0.0
'numpy<2'`), named by NPUSCOPE_SCALESIM_PYTHON; without it its figures are left out. Both simulate a 1024x1024x1024 GEMM on a
128x128 array: SCALE-Sim cycle by cycle with its traces of memory accesses, ours instruction by instruction. They answer
the same question by different means; the ratio is one of waiting.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.common import Figure, at_most, run_with_repeats, spread_text
from npuscope.simulate.neuroncore.devices import load_device
from npuscope.simulate.neuroncore.machine import run_program
from npuscope.simulate.neuroncore.matmul_program import matmul_program
from npuscope.workloads.matmul import MatmulConfig

RATE_TARGET = 1e6
KERNEL_TARGET_S = 5.0
RATIO_TARGET = 500.0
_KERNEL = Path(__file__).with_name("kernels") / "tiled_matmul.py"
_LARGE = (4096, 12288, 5120)
_GEMM = (1024, 1024, 1024)
_SCALESIM_PYTHON = "NPUSCOPE_SCALESIM_PYTHON"
_MEMORY = {"IfmapSramSzkB": 8192, "FilterSramSzkB": 8192, "OfmapSramSzkB": 2048}
_LAYOUT_COLUMNS = 24


def measure_rate(repeats: int) -> list[Figure]:
    """Instructions per second of the scheduler, on a recorded program of 30,720 matmuls and the transposes."""
    device = load_device("trn1")
    program = matmul_program(MatmulConfig(*_LARGE, "bfloat16"), device.sbuf_usable_bytes)
    taken = _seconds(lambda: run_program(program, device), repeats)
    rates = [len(program) / seconds for seconds in taken]
    name = f"{len(program):,} instructions scheduled, dependences and memory included"
    target = f">= {RATE_TARGET:g}"
    return [Figure(name, median(rates), "1/s", target, median(rates) >= RATE_TARGET, spread_text(rates))]


def measure_kernel(repeats: int) -> list[Figure]:
    """A classic NKI kernel of 30,720 matmuls through the command line, with the start of the process."""
    rows, depth, columns = _LARGE
    command = [sys.executable, "-m", "npuscope", "simulate", f"{_KERNEL}:tiled_matmul", "--device", "sim:trn1"]
    command += ["--arg", f"float32[{depth},{rows}]", "--arg", f"float32[{depth},{columns}]", "--no-compute", "--json"]
    taken = _seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL), repeats)
    name = f"kernel of {rows // 128 * (depth // 128) * (columns // 512):,} matmuls, whole process"
    return [at_most(name, median(taken), KERNEL_TARGET_S, "s", spread_text(taken))]


def measure_gemm(repeats: int) -> list[Figure]:
    """One GEMM: recorded and scheduled here, and by SCALE-Sim where it is installed."""
    device = load_device("trn1")

    def ours() -> None:
        run_program(matmul_program(MatmulConfig(*_GEMM, "bfloat16"), device.sbuf_usable_bytes), device)

    taken = _seconds(ours, max(repeats, 3))
    name = "x".join(map(str, _GEMM))
    figures = [Figure(f"GEMM {name}, recorded and scheduled", median(taken), "s", spread=spread_text(taken))]
    python = os.environ.get(_SCALESIM_PYTHON)
    if not python:
        print(f"  SCALE-Sim is left out: {_SCALESIM_PYTHON} names no interpreter that has scalesim 3.0.0")
        return figures
    theirs = scalesim_seconds(python)
    ratio = theirs / median(taken)
    return [
        *figures,
        Figure(f"GEMM {name}, SCALE-Sim 3.0.0, whole process", theirs, "s", spread="one run"),
        Figure("SCALE-Sim over ours", ratio, "x", f">= {RATIO_TARGET:g}", ratio >= RATIO_TARGET),
    ]


def scalesim_seconds(python: str) -> float:
    """Seconds that SCALE-Sim takes for the GEMM, weight-stationary on 128x128."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, topology, layout = folder / "array.cfg", folder / "gemm.csv", folder / "layout.csv"
        config.write_text(_scalesim_config(), encoding="utf-8")
        M, K, N = _GEMM
        topology.write_text(f"Layer,M,N,K,\ngemm,{M},{N},{K},\n", encoding="utf-8")
        header = ",".join(f"c{number}" for number in range(_LAYOUT_COLUMNS))
        layout.write_text(f"Layer,{header},\ngemm,{'1,' * _LAYOUT_COLUMNS}\n", encoding="utf-8")
        command: Sequence[str] = [python, "-m", "scalesim.scale", "-c", str(config), "-t", str(topology)]
        command = [*command, "-i", "gemm", "-p", name, "-l", str(layout)]
        start = perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return perf_counter() - start


def _scalesim_config() -> str:
    layout = {"CustomLayout": False, "SRAMBankBandwidth": 10, "SRAMBankNum": 10, "SRAMBankPort": 2}
    sections: dict[str, dict[str, object]] = {
        "general": {"run_name": "gemm"},
        "architecture_presets": {
            "ArrayHeight": 128,
            "ArrayWidth": 128,
            **_MEMORY,
            "IfmapOffset": 0,
            "FilterOffset": 10_000_000,
            "OfmapOffset": 20_000_000,
            "Dataflow": "ws",
            "Bandwidth": 10,
            "MemoryBanks": 1,
            "ReadRequestBuffer": 32,
            "WriteRequestBuffer": 32,
        },
        "layout": {f"{side}{key}": value for side in ("Ifmap", "Filter") for key, value in layout.items()},
        "sparsity": {
            "SparsitySupport": "false",
            "SparseRep": "ellpack_block",
            "OptimizedMapping": "false",
            "BlockSize": 8,
            "RandomNumberGeneratorSeed": 40,
        },
        "run_presets": {"InterfaceBandwidth": "CALC", "UseRamulatorTrace": False},
    }
    return "\n".join(
        line for name, keys in sections.items() for line in (f"[{name}]", *(f"{k}: {v}" for k, v in keys.items()))
    )


def _seconds(call: Callable[[], object], repeats: int) -> list[float]:
    """Wall clock of each of `repeats` calls, after one that is not counted: it may compile."""
    call()
    taken = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        taken.append(perf_counter() - start)
    return taken


def measure(repeats: int = 5) -> list[Figure]:
    """All of the above."""
    return [*measure_rate(repeats), *measure_kernel(max(1, repeats // 2)), *measure_gemm(repeats)]


if __name__ == "__main__":
    run_with_repeats("Simulator", measure, __doc__, repeats=5)
