"""Enumerations of `nki.isa` that both dialects share, with the documented numbers."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

import numpy as np

from npuscope.simulate.neuroncore.program import Engine as CoreEngine


class engine(IntEnum):  # noqa: N801 - the name that kernels use
    """Engines of a NeuronCore."""

    unknown = 0
    tensor = 1
    scalar = 2
    gpsimd = 3
    dma = 4
    vector = 5
    sync = 6


class nc_version(IntEnum):  # noqa: N801
    """Generations of the NeuronCore: Trn1 and Inf2, Trn2, Trn3."""

    gen2 = 2
    gen3 = 3
    gen4 = 4


class reduce_cmd(IntEnum):  # noqa: N801
    """What an instruction does with its engine's accumulator registers."""

    idle = 0
    reset = 1
    reduce = 2
    reset_reduce = 3
    load_reduce = 4


class oob_mode(IntEnum):  # noqa: N801
    """What an indirect DMA does with an index out of bounds."""

    error = 0
    skip = 1


class dge_mode(IntEnum):  # noqa: N801
    """Who makes the descriptors of a DMA."""

    none = 0
    swdge = 1
    hwdge = 2
    unknown = 3


FP32_MIN: Final = float(np.finfo(np.float32).min)

CORE_ENGINES: Final[dict[Any, CoreEngine | None]] = {
    engine.unknown: None,
    engine.tensor: CoreEngine.TENSOR,
    engine.vector: CoreEngine.VECTOR,
    engine.scalar: CoreEngine.SCALAR,
    engine.gpsimd: CoreEngine.GPSIMD,
    engine.dma: CoreEngine.DMA,
    engine.sync: CoreEngine.SYNC,
    None: None,
}
"""The queue behind each engine; None where the compiler may choose."""
