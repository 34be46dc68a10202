"""How to measure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from npuscope.errors import UsageError
from npuscope.tiling.model import TENSOR_ENGINE, tile_model


@dataclass(frozen=True, slots=True)
class Settings:
    """The rules of a sweep.

    Raises:
        UsageError: A value out of range.
    """

    warmup: int | None = None
    """Exactly so many warm-up runs; None: until latency is steady."""
    iterations: int | None = None
    """Exactly so many samples; None: until `precision` is reached or `max_seconds` are spent."""
    precision: float = 0.01
    """Wanted half of the 95 % interval over the median."""
    max_seconds: float = 2.0
    """Most time spent on the samples of one workload."""
    seed: int = 0
    """Of the inputs, of the order within a round, and of the bootstrap."""
    tile_model: str = TENSOR_ENGINE.name

    def __post_init__(self) -> None:
        whole = (self.warmup or 0, self.iterations or 1, self.seed)
        if not all(type(value) is int for value in whole) or not isinstance(self.tile_model, str):
            raise UsageError("--warmup, --iterations and --seed must be whole numbers, --tile a name")
        if self.warmup is not None and not 0 <= self.warmup <= 1_000_000:
            raise UsageError(f"--warmup {self.warmup} must lie between 0 and 1000000")
        if self.iterations is not None and not 1 <= self.iterations <= 1_000_000:
            raise UsageError(f"--iterations {self.iterations} must lie between 1 and 1000000")
        if not 0 < self.precision < 1:
            raise UsageError(f"--precision {self.precision} must lie between 0 and 1 (100 %)")
        if not (math.isfinite(self.max_seconds) and 0 < self.max_seconds <= 86_400):
            raise UsageError(f"--max-seconds {self.max_seconds} must lie between 0 and 86400")
        if not 0 <= self.seed < 1 << 63:
            raise UsageError(f"--seed {self.seed} must lie between 0 and 2^63")
        tile_model(self.tile_model)
