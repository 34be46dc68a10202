"""Assumptions of the model about the compiler, and the effects that can be switched off to see what each is worth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from npuscope.errors import UsageError, unknown_name

EFFECTS = {
    "reorder": "the compiler moves instructions of one engine past others within a window",
    "copy-elimination": "a repeated row that fits a PSUM bank is read there, and not copied to SBUF first",
    "renaming": "a tile that is filled anew gets another buffer, instead of waiting for the readers of its old contents",
    "buffers": "several instances of a tile are alive at once, so that loads run ahead of their use",
    "psum-banks": "accumulators wait for one of the 8 PSUM banks",
    "sbuf-capacity": "tiles wait for space in SBUF, and are spilled to HBM where more is alive than fits",
    "dependency-latency": "a result can be read only after the engine's pipeline has drained",
    "dma-start": "a DMA takes a fixed time from its trigger to its first byte, and occupies each engine a little longer than its bytes",
    "dma-rows": "each contiguous run of a DMA costs a descriptor, however short it is",
    "weight-load": "weights of the next matmul are loaded behind the current one",
    "port-sharing": "engines that share a memory port take turns (NeuronCore-v2)",
    "power-limit": "TensorE runs at 7/8 of its rate (v2), or at half rate for its first 3 us of activity (v3, v4)",
    "loop-invariants": "what an innermost loop loads or computes anew without change is moved out of it",
    "engine-choice": "the compiler gives work to the least busy of the engines that can do it",
}


_MOST = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What the model assumes where classic NKI leaves the choice to the compiler."""

    window: int = 64
    """Instructions of one engine's queue among which the compiler may change the order; 1 is program order."""
    buffers: int = 0
    """Most instances of one allocation site that are alive at once; 0 leaves it to the capacity of the memory."""
    disabled: frozenset[str] = frozenset()
    """Names in `EFFECTS` that are switched off."""

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if not 1 <= self.window <= _MOST:
            raise UsageError(f"--window {self.window}: from 1 (program order) to {_MOST:,}")
        if not 0 <= self.buffers <= _MOST:
            raise UsageError(
                f"--buffers {self.buffers}: at least 1, or 0 for as many as the memory holds; at most {_MOST:,}"
            )
        for name in self.disabled:
            if name not in EFFECTS:
                raise unknown_name("effect", name, EFFECTS)

    def has(self, effect: str) -> bool:
        """Whether an effect is modelled."""
        return effect not in self.disabled

    def without(self, effects: Iterable[str]) -> ModelOptions:
        """These options with more effects switched off."""
        return ModelOptions(self.window, self.buffers, self.disabled | frozenset(effects))
