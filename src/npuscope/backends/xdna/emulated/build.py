"""Kernels for the emulator: an xclbin and an instruction file that are well formed, and that no device can run.

As with real ones, the xclbin has the tile, the cores and the types, and the instructions have M, K and N of a dispatch: several
instruction files can share an xclbin. The design lies in USER_METADATA as JSON; the platform's name says that it is emulated.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.errors import FormatError
from npuscope.formats.npu_instructions import GENERATIONS, HEADER_WORDS
from npuscope.formats.xclbin import (
    HEADER_BYTES,
    MAGIC,
    PARTITION_BYTES,
    SECTION_HEADER_BYTES,
    SECTION_KINDS,
    parse_xclbin,
    section_bytes,
)
from npuscope.tiling.xdna_design import XdnaDesign

KERNEL_NAME: Final = "MLIR_AIE"
_PLATFORM: Final = b"npuscope:emulated:"
_OF_A_DISPATCH: Final = ("M", "K", "N", "batch")
_OPERATION: Final = 0x4E50_5530  # private: no controller knows it
_ARGUMENTS: Final = (
    ("opcode", 0, "uint64_t"),
    ("instr", 1, "char *"),
    ("ninstr", 0, "uint32_t"),
    ("bo0", 1, "void*"),
    ("bo1", 1, "void*"),
    ("bo2", 1, "void*"),
)
"""Name, address qualifier (0: a scalar, 1: a buffer) and type of a kernel's arguments, as aiecc of mlir-aie declares them."""


@dataclass(frozen=True, slots=True)
class EmulatedBuild:
    """The files of one kernel."""

    xclbin: Path
    instructions: Path


def build_emulated(design: XdnaDesign, array: str, folder: Path, name: str) -> EmulatedBuild:
    """Write an xclbin and an instruction file.

    Args:
        design: What a dispatch computes.
        array: `npu1` or `npu2`.
        folder: Where; it exists.
        name: Of the instruction file; the xclbin is named after what is in it, and shared by kernels that differ in M, K and N alone.
    """
    data = xclbin_bytes(design, array)
    build = EmulatedBuild(folder / f"{hashlib.sha256(data).hexdigest()[:16]}.xclbin", folder / f"{name}.insts.bin")
    build.xclbin.write_bytes(data)
    build.instructions.write_bytes(instruction_words(design, array).tobytes())
    return build


def xclbin_bytes(design: XdnaDesign, array: str) -> bytes:
    """The container with the design's tile, cores and types."""
    built = {key: value for key, value in asdict(design).items() if key not in _OF_A_DISPATCH}
    metadata = json.dumps({"array": array, "design": built}, sort_keys=True).encode()
    ip = struct.pack("<IIQ64s", 7, 0, 0, f"{KERNEL_NAME}:MLIRAIE".encode())
    sections = (
        ("EMBEDDED_METADATA", _described()),
        ("IP_LAYOUT", struct.pack("<i4x", 1) + ip),
        ("AIE_PARTITION", _partition(design.columns)),
        ("USER_METADATA", metadata),
    )
    numbers = {kind: number for number, kind in SECTION_KINDS.items()}
    at = HEADER_BYTES + len(sections) * SECTION_HEADER_BYTES
    table, body = b"", b""
    for kind, data in sections:
        table += struct.pack("<I16s4xQQ", numbers[kind], kind.lower().encode()[:15], at + len(body), len(data))
        body += data + b"\0" * (-len(data) % 8)
    identity = hashlib.sha256(metadata).digest()[:16]
    header = struct.pack(
        "<QQQHBBHH16s64s16s16sI4x",
        at + len(body),
        0,
        0,
        0,
        2,
        1,
        0,
        0,
        b"\0" * 16,
        _PLATFORM + array.encode(),
        identity,
        b"",
        len(sections),
    )
    start = MAGIC + struct.pack("<i", -1) + b"\xff" * 28 + b"\xff" * 256 + struct.pack("<Q", 0)
    return start + header + table + body


def _described() -> bytes:
    """The kernel and its arguments, at the place in the XML where XRT looks for them (core/common/xclbin_parser.cpp)."""
    arguments = "".join(
        f'<arg name="{name}" addressQualifier="{qualifier}" id="{index}" size="0x8" offset="{8 * index:#x}" hostOffset="0x0"'
        f' hostSize="0x8" type="{kind}"/>'
        for index, (name, qualifier, kind) in enumerate(_ARGUMENTS)
    )
    kernel = f'<kernel name="{KERNEL_NAME}" language="c" type="dpu">{arguments}</kernel>'
    return f'<project name=""><platform><device><core>{kernel}</core></device></platform></project>'.encode()


def _partition(columns: int) -> bytes:
    """An aie_partition (XRT, xclbin.h) of so many columns from column 1, without a program for any core."""
    name, starts = b"npuscope\0", struct.pack("<H", 1)
    at_starts = PARTITION_BYTES + len(name) + len(name) % 2
    head = struct.pack("<B3xII4xQQ", 0, PARTITION_BYTES, 0, 0, 0)
    info = struct.pack("<H6xII72x", columns, 1, at_starts)
    rest = struct.pack("<III52x", 0, at_starts, PARTITION_BYTES + len(name) - 1)
    return (head + info + rest + name).ljust(at_starts, b"\0") + starts


def instruction_words(design: XdnaDesign, array: str) -> npt.NDArray[np.uint32]:
    """A transaction of one private operation: M, K, N and batch."""
    generation = {name: number for number, name in GENERATIONS.items()}[array]
    columns = 5 if array == "npu1" else 8
    body = [_OPERATION, *(getattr(design, key) for key in _OF_A_DISPATCH)]
    size = 4 * (HEADER_WORDS + len(body))
    header = [6 << 24 | generation << 16 | 1 << 8, 1 << 8 | columns, 1, size]
    return np.array(header + body, np.uint32)


def built_design(data: bytes, source: str) -> tuple[str, dict[str, Any]]:
    """Array and design of an emulated xclbin.

    Raises:
        FormatError: It was built for a device, or is broken.
    """
    xclbin = parse_xclbin(data, source=source)
    metadata = section_bytes(data, xclbin, "USER_METADATA")
    if not xclbin.platform.startswith(_PLATFORM.decode()) or metadata is None:
        raise FormatError(
            source,
            expected="a kernel built for the emulator",
            found=f"one for {xclbin.platform or 'a device'}, whose cores it cannot run",
        )
    try:
        document = json.loads(metadata)
        return str(document["array"]), dict(document["design"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(
            source, where="USER_METADATA", expected="the design of an emulated kernel", found=str(error)
        ) from error


def dispatched(words: npt.NDArray[np.uint32]) -> dict[str, int] | None:
    """M, K, N and batch of an emulated kernel's instructions; None where they are others."""
    if len(words) != HEADER_WORDS + 1 + len(_OF_A_DISPATCH) or int(words[HEADER_WORDS]) != _OPERATION:
        return None
    return {key: int(word) for key, word in zip(_OF_A_DISPATCH, words[HEADER_WORDS + 1 :], strict=True)}
