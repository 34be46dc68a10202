"""NPU instructions: the transaction that one dispatch sends to the array's controller, as mlir-aie writes it (`insts.bin` or `.txt`).

32-bit words, little-endian, or hexadecimal, a word a line. Four words of header: version, device generation and rows; columns and rows of
memory tiles; operations; bytes in all. Source: Xilinx/mlir-aie, lib/Targets/AIETargetNPU.cpp, AIETranslateNpuToBinary. Older versions wrote
version 1.0 and generation 3 for every device.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.errors import FormatError
from npuscope.formats.whole_file import read_whole

HEADER_WORDS: Final = 4
GENERATIONS: Final = MappingProxyType({3: "npu1", 4: "npu2"})
"""Device generation in the header, and the array."""
_FIRST_GENERATION: Final = 3
_MOST_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class NpuInstructions:
    """One instruction file."""

    words: npt.NDArray[np.uint32]
    """All words, header included."""
    version: tuple[int, int]
    generation: int
    rows: int
    columns: int
    memory_tile_rows: int
    operations: int

    @property
    def array(self) -> str | None:
        """`npu1` or `npu2`, by the generation; None for one that is not known."""
        return GENERATIONS.get(self.generation)

    def is_for(self, array: str) -> bool:
        """Whether an array takes them. Version 1.0 has generation 3 whatever the device, so that it rules nothing out."""
        return self.array == array or (self.version == (1, 0) and self.generation == _FIRST_GENERATION)


def read_instructions(path: Path) -> NpuInstructions:
    """Read an instruction file, binary or hexadecimal.

    Raises:
        FormatError: Missing, unreadable, too short, or of another size than its header says.
    """
    data = read_whole(path, what="an instruction file", limit=_MOST_BYTES)
    return parse_instructions(data, source=str(path))


def parse_instructions(data: bytes, *, source: str) -> NpuInstructions:
    """Decode an instruction file.

    Raises:
        FormatError: As `read_instructions`.
    """
    words = _words(data, source)
    if len(words) < HEADER_WORDS:
        raise FormatError(
            source,
            where=f"byte {len(data)}",
            expected=f"a header of {HEADER_WORDS} words",
            found=f"the end after {len(words)} words",
        )
    first, second, operations, size = (int(word) for word in words[:HEADER_WORDS])
    if size != words.nbytes:
        raise FormatError(
            source,
            where="word 3",
            expected=f"the size of the instructions, {words.nbytes} bytes",
            found=str(size),
            remedy="build it again",
        )
    if operations > len(words) - HEADER_WORDS:
        raise FormatError(
            source,
            where="word 2",
            expected=f"at most as many operations as the {len(words) - HEADER_WORDS} words behind the header",
            found=str(operations),
        )
    return NpuInstructions(
        words=words,
        version=(first & 0xFF, first >> 8 & 0xFF),
        generation=first >> 16 & 0xFF,
        rows=first >> 24,
        columns=second & 0xFF,
        memory_tile_rows=second >> 8 & 0xFF,
        operations=operations,
    )


def _words(data: bytes, source: str) -> npt.NDArray[Any]:
    text = data.split()
    if (
        text
        and all(len(word) == 8 for word in text[:HEADER_WORDS])
        and not set(data) - set(b"0123456789abcdefABCDEF \t\r\n")
    ):
        if any(len(word) != 8 for word in text):
            raise FormatError(source, expected="words of eight hexadecimal digits", found="another length")
        return np.array([int(word, 16) for word in text], np.uint32)
    if len(data) % 4:
        raise FormatError(
            source, where=f"byte {len(data)}", expected="whole words of four bytes", found=f"{len(data)} bytes"
        )
    return np.frombuffer(data, "<u4").astype(np.uint32)
