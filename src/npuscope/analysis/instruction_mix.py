"""The 70 % rule of an older public analyser: memory or compute bound by counting instruction names.

Kept beside the classification by time, so that its users find their number, with what it gets wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from npuscope.profile.tables import Profile

LIMIT: Final = 0.70
_MEMORY: Final = ("load", "store", "dma", "copy")
_COMPUTE: Final = ("matmul", "add", "mul", "conv")
WHY_MISLEADING: Final = (
    "it counts instruction names, whatever they cost: an LDWEIGHTS of 80 ns, which feeds the TensorEngine, and one DMA "
    "instruction that moves 256 KB each count as one memory operation, and what is not named so (ACTIVATE, "
    "TENSOR_TENSOR) counts as nothing; see `bound` for time"
)


@dataclass(frozen=True, slots=True)
class InstructionMix:
    """Counts by name, and the verdict of the 70 % rule."""

    memory_operations: int
    """Opcodes whose name holds load, store, dma or copy."""
    compute_operations: int
    """Opcodes whose name holds matmul, add, mul or conv; a name may count as both."""
    other_operations: int
    memory_bound_score: float | None
    compute_bound_score: float | None
    verdict: str
    """`memory bound`, `compute bound`, `balanced`, or `unknown` without such names."""
    agrees_with_bound: bool | None
    """Whether the classification by time comes to the same; None where either is open."""
    misleading_because: str


def instruction_mix(profile: Profile, kind: str) -> InstructionMix | None:
    """Apply the rule; None for a profile without instructions.

    Args:
        profile: Its `Instruction.opcode` is counted, of the whole capture as the older tool did.
        kind: `BoundKind.kind`, to compare with.
    """
    if not profile.rows("Instruction"):
        return None
    codes, names = profile.codes("Instruction", "opcode")
    count = np.bincount(codes, minlength=len(names)).tolist()
    memory = sum(n for n, name in zip(count, names, strict=True) if any(part in name.lower() for part in _MEMORY))
    compute = sum(n for n, name in zip(count, names, strict=True) if any(part in name.lower() for part in _COMPUTE))
    other = sum(
        n
        for n, name in zip(count, names, strict=True)
        if not any(part in name.lower() for part in (*_MEMORY, *_COMPUTE))
    )
    named = memory + compute
    score = memory / named if named else None
    verdict = "unknown" if score is None else "balanced"
    if score is not None and score > LIMIT:
        verdict = "memory bound"
    elif score is not None and 1 - score > LIMIT:
        verdict = "compute bound"
    by_time = {"dma": "memory bound", "tensor": "compute bound"}.get(kind, "neither")
    return InstructionMix(
        memory_operations=memory,
        compute_operations=compute,
        other_operations=other,
        memory_bound_score=score,
        compute_bound_score=None if score is None else 1 - score,
        verdict=verdict,
        agrees_with_bound=None if verdict == "unknown" or kind == "unknown" else verdict == by_time,
        misleading_because=WHY_MISLEADING,
    )
