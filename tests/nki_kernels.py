"""Running small kernels of the classic dialect in tests: results, and how often each instruction was issued."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from npuscope.simulate.neuroncore.program import Engine, Program
from npuscope.simulate.nki.loader import Traced, trace_kernel


class Device:
    """Stands in for a simulated device: only its generation matters here."""

    def __init__(self, nc_version: int = 2, sbuf_usable_bytes: int = 180_224) -> None:
        self.nc_version = nc_version
        self.sbuf_usable_bytes = sbuf_usable_bytes


def run(kernel: Callable[..., Any], *args: Any, **options: Any) -> Traced:
    """Trace a kernel with its values, for NeuronCore-v2."""
    return trace_kernel(kernel, args, device=Device(), **options)


def result(kernel: Callable[..., Any], *args: Any, **options: Any) -> np.ndarray:
    """The only result of a kernel."""
    (output,) = run(kernel, *args, **options).outputs
    return np.asarray(output)


def opcodes(traced: Traced) -> Counter[str]:
    """How often each instruction was issued; a DMA counts as `dma`."""
    program = only_program(traced)
    return Counter(getattr(program.signatures[number], "opcode", "dma") for number in program.signature)


def engines(traced: Traced, opcode: str) -> set[Engine]:
    """The engines that may run the instructions of that name."""
    program = only_program(traced)
    found: set[Engine] = set()
    for number, mask in zip(program.signature, program.engines, strict=True):
        if getattr(program.signatures[number], "opcode", "dma") == opcode:
            found |= {engine for engine in Engine if int(mask) >> engine & 1}
    return found


def only_program(traced: Traced) -> Program:
    """The program of the only core."""
    (program,) = traced.programs
    return program
