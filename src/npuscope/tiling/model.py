"""Tile models: how a matmul is cut into what the device multiplies at once.

The default, `tensor-engine`, is the NeuronCore TensorEngine: contraction K on at most 128 partitions,
M as the columns of the stationary operand (at most 128), N as the columns of the moving operand (at most 512).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from npuscope.errors import UsageError, unknown_name
from npuscope.units import parse_integers
from npuscope.workloads.matmul import LARGEST_TILE_EDGE


@dataclass(frozen=True, slots=True)
class TileModel:
    """A tile shape, and what is known about it."""

    name: str
    tile_m: int
    tile_k: int
    tile_n: int
    evidence: str
    """Where the shape comes from, and how far it is confirmed; shown wherever its counts are."""
    moving_n: bool = False
    """N streams through the array: a partial tile in N costs its own columns, not a whole tile."""
    min_moving_columns: int = 1
    """Fewest columns that a streamed tile costs."""

    @property
    def edges(self) -> tuple[int, int, int]:
        """(tile_m, tile_k, tile_n)."""
        return self.tile_m, self.tile_k, self.tile_n

    @property
    def shape_text(self) -> str:
        """`128x128x512`: M, K and N of one tile."""
        return f"{self.tile_m}x{self.tile_k}x{self.tile_n}"


TENSOR_ENGINE = TileModel(
    "tensor-engine",
    tile_m=128,
    tile_k=128,
    tile_n=512,
    evidence=(
        "NeuronCore TensorEngine; confirmed by instruction counts of 117 inf2 captures for M = K = 128, "
        "and by the vendor's documentation for other M and K"
    ),
    moving_n=True,
    min_moving_columns=64,
)
LEGACY = TileModel(
    "legacy",
    tile_m=128,
    tile_k=512,
    tile_n=128,
    evidence=(
        "the counts of npu_matmul_profiler.py (PE_M 128, MAX_TENSOR_K 512, PE_N 128); contradicted by hardware: "
        "128x128x1024 is 8 tiles here, and the device issued 2 matmuls and a transpose"
    ),
)
TILE_MODELS = {model.name: model for model in (TENSOR_ENGINE, LEGACY)}


def tile_model(text: str) -> TileModel:
    """A tile model by name, or a custom one from `MxKxN`.

    Raises:
        UsageError: Neither a known name nor three positive whole numbers.
    """
    if text in TILE_MODELS:
        return TILE_MODELS[text]
    if not text[:1].isdigit():
        raise unknown_name("tile model", text, [*TILE_MODELS, "MxKxN"])
    m, k, n = parse_integers(text, "tile", 3)
    if not all(0 < edge <= LARGEST_TILE_EDGE for edge in (m, k, n)):
        raise UsageError(f"tile {text!r} must have edges from 1 to {LARGEST_TILE_EDGE}")
    return replace(LEGACY, name=f"custom-{m}x{k}x{n}", tile_m=m, tile_k=k, tile_n=n, evidence="given by the user")
