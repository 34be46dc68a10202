"""XLA programs as text (HLO, StableHLO) or MLIR bytecode, told from their first bytes; JAX parses them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from npuscope.errors import FormatError

_HEAD_BYTES: Final = 1 << 16
_BYTECODE: Final = b"ML\xefR"
_HLO: Final = re.compile(rb"^HloModule\s", re.MULTILINE)
_MLIR: Final = re.compile(rb"^\s*(builtin\.)?module\b|\bstablehlo\.|\bfunc\.func\b|^#loc", re.MULTILINE)


def looks_like_text_program(head: bytes) -> bool:
    """Whether a file begins like HLO text, MLIR text or MLIR bytecode."""
    if head.startswith(_BYTECODE):
        return True
    return b"\0" not in head[:4096] and bool(_HLO.search(head) or _MLIR.search(head))


def is_text_program(path: Path) -> bool:
    """Whether a file holds an XLA program that is no serialized HLO module.

    Raises:
        FormatError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return looks_like_text_program(file.read(_HEAD_BYTES))
    except OSError as error:
        raise FormatError(path, expected="a readable file", found=error.strerror or str(error)) from error
