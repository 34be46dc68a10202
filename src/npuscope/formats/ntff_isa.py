"""The 64-byte instructions of a NeuronCore as NTFF version 5 images hold them: opcode, operands, bytes moved.

Worked out from captures beside the vendor's decoding; docs/formats/ntff.md says on how many files each rule holds.
Byte counts follow the vendor's convention: of SBUF and PSUM they are per partition, of HBM they are whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from npuscope.formats.ntff import ENGINES

INSTRUCTION_BYTES = 64
PSUM_BASE = 0x2000000
"""Addresses from here on lie in PSUM, below it in SBUF."""
NOTIFY_BEGIN, NOTIFY_END = 2, 3
"""Hints of the NOTIFY instructions that bracket one execution."""
OPCODES: Mapping[int, str] = MappingProxyType(
    {
        0x01: "LDWEIGHTS",
        0x02: "MATMUL",
        0x21: "ACTIVATE",
        0x23: "ACT_TABLE_LOAD",
        0xA0: "EVENT_SEMAPHORE",
        0xA2: "DRAIN",
        0xA4: "NOP",
        0xA5: "WRITE",
        0xA6: "NOTIFY",
        0xA9: "COMPARE_BRANCH",
        0xAA: "TENSOR_LOAD",
        0xAB: "TENSOR_STORE",
        0xB0: "EVENT_SEMAPHORE_RANGE_CLEAR",
        0xB1: "SET_ORDERING_MODE",
        0xB8: "DMA_DIRECT2D",
    }
)
_ENGINE_SEMAPHORES = {3: "GpSimd", 4: "Scalar", 5: "Tensor", 6: "Vector"}
WAIT_SEMAPHORE, WAIT_EVENT, INCREMENT = 5, 7, 0x13
"""Codes of the header that every instruction may carry: wait modes, and the update that adds one."""
_QUEUE_SEMAPHORES = 16
_FIRST_QUEUE_SEMAPHORE = 8


@dataclass(frozen=True, slots=True)
class Pattern:
    """Where an operand lies in one partition: a start and three (step, count) pairs, in elements."""

    dtype: str
    element_bytes: int
    """0 where the dtype is unknown."""
    address: int
    steps: tuple[int, int, int]
    counts: tuple[int, int, int]

    @property
    def elements(self) -> int:
        """Elements in one partition."""
        return self.counts[0] * self.counts[1] * self.counts[2]

    @property
    def bytes(self) -> int:
        """Bytes in one partition."""
        return self.elements * self.element_bytes

    @property
    def in_psum(self) -> bool:
        """Whether it lies in PSUM."""
        return self.address >= PSUM_BASE

    @property
    def extent(self) -> tuple[int, int]:
        """First byte and end of what it covers."""
        reach = [step * (count - 1) for step, count in zip(self.steps, self.counts, strict=True)]
        low = sum(min(part, 0) for part in reach) * self.element_bytes
        high = sum(max(part, 0) for part in reach) * self.element_bytes
        return self.address + low, self.address + high + self.element_bytes

    def __str__(self) -> str:
        steps, counts = (",".join(map(str, values)) for values in (self.steps, self.counts))
        return f"{self.dtype}@{self.address:#x}[{steps}][{counts}]"


@dataclass(frozen=True, slots=True)
class Decoded:
    """One instruction of an image; figures that its opcode does not have are 0."""

    engine: int
    pc: int
    opcode: str
    operands: str = ""
    elements: int = 0
    """Rows x columns x moving columns of a MATMUL; two FLOPs each."""
    hbm_read_bytes: int = 0
    hbm_write_bytes: int = 0
    sbuf_read_bytes: int = 0
    sbuf_write_bytes: int = 0
    psum_read_bytes: int = 0
    psum_write_bytes: int = 0
    psum_read_sbuf_write_bytes: int = 0
    activation_fn: str = ""
    notify_hint: int = 0
    write_data: int = 0
    source: Pattern | None = None
    target: Pattern | None = None
    is_transpose: bool = False
    """A guess, see `mark_transposes`."""
    unknown_dtype: bool = False


@dataclass(frozen=True, slots=True)
class SemaphoreNames:
    """Names of semaphores by id; what is missing has none."""

    names: Mapping[int, str] = field(default_factory=dict)

    def text(self, index: int, dollar: str = "") -> str:
        """As the vendor prints a semaphore."""
        name = self.names.get(index)
        return f"S[{index}] ({name})" if name else f"{dollar}S[{index}]"

    def identity(self, index: int) -> str:
        """As the vendor's semaphore rows call it: the number alone where it has no name."""
        name = self.names.get(index)
        return f"S[{index}] ({name})" if name else str(index)


def opcode_name(code: int) -> str:
    """The vendor's name of byte 0, or `OP_0xNN`."""
    return OPCODES.get(code, f"OP_0x{code:02x}")


def name_semaphores(programs: Mapping[int, bytes], static_queues: list[str]) -> SemaphoreNames:
    """Who owns which semaphore.

    From the instructions: a DMA_DIRECT2D's belongs to its engine's dynamic queue, one that an engine increments to
    that engine, one that is only waited on to the static queue if there is just one. Guesses that fit every capture
    at hand: a queue owns 16 ids in a row from 8 on, and 3 to 6 belong to GpSimd, Scalar, Tensor, Vector.
    """
    updated: dict[int, str] = {}
    queues: dict[int, str] = {}
    waited: set[int] = set()
    for engine, code in programs.items():
        name = ENGINES[engine] if engine < len(ENGINES) else f"engine {engine}"
        for offset in range(0, len(code) - INSTRUCTION_BYTES + 1, INSTRUCTION_BYTES):
            word = code[offset : offset + INSTRUCTION_BYTES]
            if OPCODES.get(word[0]) == "DMA_DIRECT2D":
                queues[word[13]] = f"q{name}Dynamic"
            if word[6] == INCREMENT:
                updated.setdefault(word[7], name)
            if word[4] == WAIT_SEMAPHORE:
                waited.add(word[5])
    names = {**updated, **queues}
    if len(static_queues) == 1:
        names.update(dict.fromkeys(waited - set(names), static_queues[0]))
    for index, owner in list(names.items()):
        if owner.startswith("q") and index >= _FIRST_QUEUE_SEMAPHORE:
            first = index - (index - _FIRST_QUEUE_SEMAPHORE) % _QUEUE_SEMAPHORES
            for other in range(first, first + _QUEUE_SEMAPHORES):
                names.setdefault(other, owner)
    return SemaphoreNames({**_ENGINE_SEMAPHORES, **names})


def mark_transposes(tensor_program: list[Decoded], others: list[Decoded]) -> list[Decoded]:
    """Guess which MATMULs, with the LDWEIGHTS before them, are transposes.

    No bit of the instruction tells. A MATMUL counts as one if it has at most 128 result columns, an instruction of
    another engine copies its PSUM result to SBUF, and a later LDWEIGHTS loads from there.
    """
    loads = [
        (index, item.source.extent)
        for index, item in enumerate(tensor_program)
        if item.opcode == "LDWEIGHTS" and item.source
    ]
    copies = [(i.source.extent, i.target.extent) for i in others if i.source and i.target and i.source.in_psum]
    marked = list(tensor_program)
    last_load = -1
    for index, item in enumerate(tensor_program):
        if item.opcode == "LDWEIGHTS":
            last_load = index
        if item.opcode != "MATMUL" or item.target is None or item.target.elements > 128:
            continue
        results = [target for source, target in copies if _overlap(source, item.target.extent)]
        if any(at > index and _overlap(extent, result) for at, extent in loads for result in results):
            marked[index] = replace(item, is_transpose=True)
            if last_load >= 0:
                marked[last_load] = replace(marked[last_load], is_transpose=True)
    return marked


def _overlap(left: tuple[int, int], right: tuple[int, int]) -> bool:
    return left[0] < right[1] and right[0] < left[1]
