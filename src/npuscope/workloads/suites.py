"""The named lists of shapes: `quick`, `boundary`, `sweep`, `tiling`, `llm`.

The dimension lists are those of the public matmul profiler that users have old CSVs from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product

from npuscope.errors import unknown_name
from npuscope.workloads.matmul import MatmulConfig

Shape = tuple[int, int, int]

LLM_BATCHES = (1, 2, 4, 8, 16, 32)
LLM_SEQUENCES = (1, 64, 128, 256, 512, 1024, 2048)
LLM_HIDDEN = (768, 1024, 2048, 4096, 8192)
SWEEP_M = (64, 128, 256, 512, 1024, 2048, 4096)
SWEEP_K = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
SWEEP_N = (64, 128, 256, 512, 1024, 2048, 4096)
TILING_MULTIPLIERS = (1, 2, 3, 4)
TILING_OFFSETS = (-32, -16, 0, 16, 32)
TILING_BASE = (128, 512, 128)
AROUND_128 = (120, 128, 136, 248, 256, 264)
AROUND_512 = (480, 512, 520, 1000, 1024, 1040)
BOUNDARY_LLM_ROWS = (1, 8, 32, 128, 512, 1024)


@dataclass(frozen=True, slots=True)
class Suite:
    """A list of distinct shapes in the order of the source."""

    name: str
    shapes: tuple[Shape, ...]
    removed: int
    """Duplicates that were dropped."""

    def configs(self, dtypes: Iterable[str]) -> list[MatmulConfig]:
        """Every shape in every dtype, shapes outermost so that a shape's dtypes are measured together."""
        types = tuple(dtypes)
        return [MatmulConfig(*shape, dtype=dtype) for shape in self.shapes for dtype in types]


def load_suite(name: str) -> Suite:
    """A suite by name, without its duplicates.

    Raises:
        UsageError: No such suite.
    """
    if name not in SUITES:
        raise unknown_name("suite", name, SUITES)
    return distinct(name, SUITES[name]())


def distinct(name: str, shapes: Iterable[Shape]) -> Suite:
    """A suite from shapes, first occurrences kept."""
    listed = list(shapes)
    kept = tuple(dict.fromkeys(listed))
    return Suite(name, kept, len(listed) - len(kept))


def _quick() -> list[Shape]:
    return [(64, 128, 128), (128, 128, 128), (128, 256, 256), (256, 512, 512)]


def _boundary() -> list[Shape]:
    """Around the steps of 128 in M and K and of 512 in K and N, then six LLM projections of 4096 to 4096."""
    rows = [(M, 512, 512) for M in AROUND_128]
    contraction = [(128, K, 128) for K in (*AROUND_128, *AROUND_512)]
    columns = [(128, 128, N) for N in AROUND_512]
    return [*rows, *contraction, *columns, *((M, 4096, 4096) for M in BOUNDARY_LLM_ROWS)]


def _sweep() -> list[Shape]:
    return list(product(SWEEP_M, SWEEP_K, SWEEP_N))


def _tiling() -> list[Shape]:
    bases = product(TILING_MULTIPLIERS, repeat=3)
    return [
        (TILING_BASE[0] * m + dm, TILING_BASE[1] * k + dk, TILING_BASE[2] * n + dn)
        for (m, k, n), (dm, dk, dn) in product(bases, list(product(TILING_OFFSETS, repeat=3)))
    ]


def _llm() -> list[Shape]:
    """Prefill with M = batch x sequence, then decode with M = batch: projection, FFN up, FFN down."""
    prefill_rows = [batch * sequence for batch, sequence in product(LLM_BATCHES, LLM_SEQUENCES)]
    return [
        shape
        for M, h in (*product(prefill_rows, LLM_HIDDEN), *product(LLM_BATCHES, LLM_HIDDEN))
        for shape in ((M, h, h), (M, h, 4 * h), (M, 4 * h, h))
    ]


SUITES: dict[str, Callable[[], list[Shape]]] = {
    "quick": _quick,
    "boundary": _boundary,
    "sweep": _sweep,
    "tiling": _tiling,
    "llm": _llm,
}
