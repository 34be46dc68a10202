"""Operands of the 64-byte instructions: how each opcode lays out its bytes, and what the vendor prints of them.

Offsets and layouts: docs/formats/ntff.md. A string such as `compute_op=NONE` never varied in the captures at hand and
is a constant here, not decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from npuscope.formats.ntff_isa import (
    INCREMENT,
    OPCODES,
    WAIT_EVENT,
    WAIT_SEMAPHORE,
    Decoded,
    Pattern,
    SemaphoreNames,
    opcode_name,
)

_DTYPES = {7: ("fp16", 2), 9: ("uint32", 4), 10: ("fp32", 4)}
_UPDATES = {0x13: "++", 0x15: "+={value}", 0x19: "={value}"}


def decode(engine: int, pc: int, word: bytes, names: SemaphoreNames) -> Decoded:
    """One instruction from its 64 bytes."""
    opcode = opcode_name(word[0])
    made = Decoded(engine, pc, opcode)
    reader = _READERS.get(opcode)
    if reader is None:
        return replace(made, operands=_sync(word, names)) if word[0] in OPCODES else made
    return reader(made, word, names)


def _sync(word: bytes, names: SemaphoreNames) -> str:
    """The header that every instruction may carry: wait before, update after."""
    parts = []
    if word[4] == WAIT_SEMAPHORE:
        parts.append(f"{names.text(word[5], '$')}>={_u32(word, 8)}")
    elif word[4] == WAIT_EVENT:
        parts.append(f"$E[{word[5]}]==1-")
    elif word[4]:
        parts.append(f"wait_mode={word[4]} id={word[5]} value={_u32(word, 8)}")
    if word[6] == INCREMENT:
        parts.append(f"{names.text(word[7], '$')}++@complete")
    elif word[6]:
        parts.append(f"update_mode={word[6]:#x} id={word[7]}")
    return " ".join(parts)


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _pattern(word: bytes, address: int, steps: int, counts: int, dtype: int) -> Pattern:
    name, size = _DTYPES.get(dtype, (f"dtype_{dtype}", 0))
    first, second, third = struct.unpack_from("<3h", word, steps)
    one, two, three = struct.unpack_from("<3H", word, counts)
    return Pattern(name, size, _u32(word, address), (first, second, third), (one, two, three))


def _dtype(code: int) -> str:
    return _DTYPES.get(code, (f"dtype_{code}", 0))[0]


def _ldweights(made: Decoded, word: bytes, names: SemaphoreNames) -> Decoded:
    source = _pattern(word, 16, 20, 26, word[32])
    return replace(
        made,
        operands=_join(_sync(word, names), f"src={source} {word[38]}*{word[39]}"),
        sbuf_read_bytes=source.bytes,
        source=source,
        unknown_dtype=source.element_bytes == 0,
    )


def _matmul(made: Decoded, word: bytes, names: SemaphoreNames) -> Decoded:
    source = _pattern(word, 16, 20, 26, word[32])
    target = _pattern(word, 48, 52, 58, word[32])
    rows, columns = word[38], word[39]
    place = "dst=" + str(target).partition("@")[2]
    return replace(
        made,
        operands=_join(_sync(word, names), f"acc_flags={word[43]} src={source} {place} {rows}*{columns}"),
        elements=rows * columns * source.elements,
        sbuf_read_bytes=source.bytes,
        psum_write_bytes=target.bytes,
        source=source,
        target=target,
        unknown_dtype=source.element_bytes == 0,
    )


def _activate(made: Decoded, word: bytes, names: SemaphoreNames) -> Decoded:
    source = _pattern(word, 16, 20, 26, word[32] & 0xF)
    target = _pattern(word, 48, 52, 58, word[33])
    scale = struct.unpack_from("<f", word, 36)[0]
    text = (
        f"COPY bias_imm=0.000000 src={source} dst={target} channels={word[34]} scale={scale:.6f} "
        "imm=[0x0] accumulator_cmd=IDLE"
    )
    from_psum, to_psum = source.in_psum, target.in_psum
    return replace(
        made,
        operands=_join(_sync(word, names), text),
        activation_fn="COPY",
        psum_read_bytes=source.bytes if from_psum else 0,
        sbuf_read_bytes=0 if from_psum else source.bytes,
        sbuf_write_bytes=0 if to_psum else target.bytes,
        psum_write_bytes=target.bytes if to_psum else 0,
        psum_read_sbuf_write_bytes=target.bytes if from_psum and not to_psum else 0,
        source=source,
        target=target,
        unknown_dtype=0 in (source.element_bytes, target.element_bytes),
    )


def _event_semaphore(made: Decoded, word: bytes, names: SemaphoreNames) -> Decoded:
    test = f"{names.text(word[33], '$')}=={_u32(word, 36)}" if word[32] == 1 else ""
    if word[32] > 1:
        test = f"test_mode={word[32]} id={word[33]} value={_u32(word, 36)}"
    update = _UPDATES.get(word[34], f" update_mode={word[34]:#x} value={{value}}" if word[34] else "")
    change = f"{names.text(word[35], '$')}{update.format(value=_u32(word, 40))}@complete" if update else ""
    return replace(made, operands=_join(_sync(word, names), "setter=0", test, change))


def _nop(made: Decoded, word: bytes, names: SemaphoreNames) -> Decoded:
    return replace(made, operands=_join(_sync(word, names), f"cycle={word[12]}"))


def _write(made: Decoded, word: bytes, names: SemaphoreNames) -> Decoded:
    count = 2 if word[13] else 1
    targets = ",".join(f"{_u64(word, 16 + 8 * index):#x}" for index in range(count))
    values = ",".join(f"{_u64(word, 32 + 8 * index):#x}" for index in range(count))
    sizes = ",".join(str(word[12 + index]) for index in range(count))
    text = f"data={values} size={sizes} dst={targets}"
    return replace(made, operands=_join(_sync(word, names), text), write_data=_u64(word, 32))


def _notify(made: Decoded, word: bytes, names: SemaphoreNames) -> Decoded:
    text = f"hint={word[36]} notification=EXPLICIT trace=START"
    return replace(made, operands=_join(_sync(word, names), text), notify_hint=word[36])


def _compare_branch(made: Decoded, word: bytes, names: SemaphoreNames) -> Decoded:
    label = f"label_id={_u32(word, 48)} debugHint={word[3]}"
    if word[12] == 0:
        text = f"cmp_op=ALWAYS {label}"
    else:
        operation = "EQ" if word[12] == 3 else f"op_{word[12]}"
        dtype = _dtype(word[13])
        text = f"cmp_op={operation} dtype={dtype} cmp0=$R[{word[32]}] cmp1={_u32(word, 36):#x} {label}"
    return replace(made, operands=_join(_sync(word, names), text))


def _tensor_move(made: Decoded, word: bytes, names: SemaphoreNames) -> Decoded:
    count = word[14]
    dtype = _dtype(word[12])
    registers = ",".join(f"$R[{word[32 + index]}]" for index in range(min(max(count, 1), 8)))
    text = f"addr={dtype}@{_u64(word, 16):#x}[{_u32(word, 24)},0][{count},{word[15]}] data={registers}"
    return replace(made, operands=_join(_sync(word, names), text))


def _range_clear(made: Decoded, word: bytes, names: SemaphoreNames) -> Decoded:
    text = f"mode=SEMAPHORE_ZERO first={word[13]} last={word[14]}"
    return replace(made, operands=_join(_sync(word, names), text))


def _ordering(made: Decoded, word: bytes, names: SemaphoreNames) -> Decoded:
    mode = {0: "relaxed", 1: "strict"}.get(word[12], str(word[12]))
    return replace(made, operands=_join(_sync(word, names), f"ordering_mode={mode}"))


def _table_load(made: Decoded, word: bytes, names: SemaphoreNames) -> Decoded:
    return replace(made, operands=_join(_sync(word, names), f"table_sel={word[12]}"))


def _dma_direct2d(made: Decoded, word: bytes, names: SemaphoreNames) -> Decoded:
    source, source_in_hbm, source_bytes = _dma_side(word, 16, 36, "src")
    target, target_in_hbm, target_bytes = _dma_side(word, 40, 60, "dst")
    head = f"semaphore={word[13]} sem_increment={word[14]}"
    sizes = f"src_elem_size={_u16(word, 36)} dst_elem_size={_u16(word, 60)}"
    patterns = " ".join(
        f"{name}_pattern=[{_u32(word, at)},{_u16(word, at + 4)}][{_u16(word, at + 8)},{_u16(word, at + 10)}]"
        for name, at in (("src", 24), ("dst", 48))
    )
    cast = "" if word[62] == word[63] else f"in_dtype={_dtype(word[62])} out_dtype={_dtype(word[63])}"
    return replace(
        made,
        operands=_join(_sync(word, names), head, sizes, patterns, source, target, cast, "compute_op=NONE"),
        hbm_read_bytes=source_bytes if source_in_hbm else 0,
        sbuf_read_bytes=0 if source_in_hbm else source_bytes,
        hbm_write_bytes=target_bytes if target_in_hbm else 0,
        sbuf_write_bytes=0 if target_in_hbm else target_bytes,
    )


def _dma_side(word: bytes, at: int, element: int, name: str) -> tuple[str, bool, int]:
    """One side of a DMA: its text, whether a table (HBM) holds the address, and its bytes."""
    moved = _u16(word, element) * _u16(word, at + 16)
    if word[at + 7] == 0x20:
        place = f"{name}_table_offset_imm={_u32(word, at):#x} {name}_table_index={_u16(word, at + 4)}"
        return f"{place} {name}_shape_reg=0", True, moved
    return f"{name}_addr_imm={_u64(word, at):#x} {name}_shape_reg=0", False, moved


def _u16(word: bytes, at: int) -> int:
    return int.from_bytes(word[at : at + 2], "little")


def _u32(word: bytes, at: int) -> int:
    return int.from_bytes(word[at : at + 4], "little")


def _u64(word: bytes, at: int) -> int:
    return int.from_bytes(word[at : at + 8], "little")


_READERS: Mapping[str, Callable[[Decoded, bytes, SemaphoreNames], Decoded]] = MappingProxyType(
    {
        "LDWEIGHTS": _ldweights,
        "MATMUL": _matmul,
        "ACTIVATE": _activate,
        "ACT_TABLE_LOAD": _table_load,
        "EVENT_SEMAPHORE": _event_semaphore,
        "NOP": _nop,
        "WRITE": _write,
        "NOTIFY": _notify,
        "COMPARE_BRANCH": _compare_branch,
        "TENSOR_LOAD": _tensor_move,
        "TENSOR_STORE": _tensor_move,
        "EVENT_SEMAPHORE_RANGE_CLEAR": _range_clear,
        "SET_ORDERING_MODE": _ordering,
        "DMA_DIRECT2D": _dma_direct2d,
    }
)
