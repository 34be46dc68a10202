"""XLA programs told from their first bytes: serialized HLO, which we read, and text or MLIR bytecode, which JAX parses."""

from __future__ import annotations

import re
from typing import Final

_HEAD_BYTES: Final = 1 << 16
_NAME_LIMIT: Final = 4_096
_WRAPPERS: Final = 3
"""A snapshot wraps an HloProto, which wraps a module."""
_NAME, _ENTRY_NAME, _COMPUTATION = 0x0A, 0x12, 0x1A
"""Tags of a module's first three fields: numbers 1 to 3, of bytes."""
_BYTECODE: Final = b"ML\xefR"
_HLO: Final = re.compile(rb"^HloModule\s", re.MULTILINE)
_MODULE: Final = rb"(builtin\.)?module\s+(@|\{|attributes\b)"
_MLIR: Final = re.compile(rb"^[ \t]*" + _MODULE + rb"|\bstablehlo\.|\bfunc\.func\b|^#loc", re.MULTILINE)
_BEGINNING: Final = re.compile(rb"\s*(//[^\n]*\n\s*)*(HloModule\s|#loc|func\.func\b|" + _MODULE + rb")")


def looks_like_hlo(head: bytes) -> bool:
    """Whether a file begins like a serialized HLO module, or like an HloProto or a snapshot that wraps one.

    A module begins with its name, the name of its entry computation and a computation. A Perfetto trace, which also
    begins with field 1, repeats that field instead.
    """
    at = 0
    for _ in range(_WRAPPERS):
        if _is_module(head, at):
            return True
        if head[at : at + 1] != bytes([_NAME]):
            return False
        _, at = _length(head, at + 1)
    return False


def _is_module(head: bytes, at: int) -> bool:
    for tag in (_NAME, _ENTRY_NAME):
        if head[at : at + 1] != bytes([tag]):
            return False
        length, start = _length(head, at + 1)
        at = start + length
        name = head[start:at]
        if not 0 < length <= _NAME_LIMIT or len(name) < length or not _is_text(name):
            return False
    return head[at : at + 1] == bytes([_COMPUTATION])


def _is_text(name: bytes) -> bool:
    return not any(byte < 0x20 or byte == 0x7F for byte in name)


def _length(head: bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends."""
    value = 0
    for shift in range(0, 35, 7):
        byte = head[at] if at < len(head) else 0
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return value, at


def begins_as_text_program(head: bytes) -> bool:
    """Whether the very first words are those of a program, so that no log can be meant that quotes one."""
    return head.startswith(_BYTECODE) or bool(_BEGINNING.match(head))


def looks_like_text_program(head: bytes) -> bool:
    """Whether a file begins like HLO text, MLIR text or MLIR bytecode."""
    if head.startswith(_BYTECODE):
        return True
    return b"\0" not in head[:4096] and bool(_HLO.search(head) or _MLIR.search(head))


def is_text_program(data: bytes) -> bool:
    """Whether the bytes of a file, unpacked, are an XLA program that is no serialized HLO module."""
    head = data[:_HEAD_BYTES]
    return not looks_like_hlo(head) and looks_like_text_program(head)
