"""xclbin files for tests, from the structs in XRT's xclbin.h: valid ones, and ones that no tool would write."""

import struct

UUID = bytes(range(16))
EMBEDDED_METADATA, MEM_TOPOLOGY, IP_LAYOUT, AIE_PARTITION = 2, 6, 8, 32
XML = (
    b'<?xml version="1.0"?>\n<project name="design"><platform><device><core><kernelClocks/>'
    b'<kernel name="MLIR_AIE" language="c" type="dpu"><extended-data subtype="DPU"/>'
    b'<arg name="opcode" addressQualifier="0" id="0"/><arg name="instr" addressQualifier="1" id="1"/>'
    b'<arg name="ninstr" addressQualifier="0" id="2"/><arg name="bo0" addressQualifier="1" id="3"/>'
    b'<instance name="MLIRAIE"/></kernel></core></device></platform></project>'
)


def ip_layout(*names, kind=7, count=None):
    """Instances by name; `kind` 7 is a kernel of a processor, as an NPU's are declared."""
    ips = b"".join(struct.pack("<IIQ64s", kind, 0, 0, name) for name in names)
    return struct.pack("<i4x", len(names) if count is None else count) + ips


def aie_partition(columns=4):
    """The fixed part of the struct, 184 bytes."""
    out = bytearray(184)
    struct.pack_into("<H", out, 32, columns)
    return bytes(out)


def matmul_sections():
    """What the tools of mlir-aie put together, without the programs."""
    return [
        (MEM_TOPOLOGY, b"", struct.pack("<i4x", 0)),
        (AIE_PARTITION, b"QoS", aie_partition()),
        (EMBEDDED_METADATA, b"", XML),
        (IP_LAYOUT, b"", ip_layout(b"MLIR_AIE:MLIRAIE")),
    ]


def xclbin_bytes(
    sections=None,
    *,
    length=None,
    count=None,
    places=None,
    timestamp_s=1_700_000_000,
    version=(2, 16, 204),
    platform=b"xilinx:npu:base:1.0",
    uuid=UUID,
):
    """A file field by field at its offset; `places` are offset and size of each section where they are to lie."""
    sections = matmul_sections() if sections is None else sections
    first = 456 + 40 * len(sections)
    table, body, holds = b"", b"", []
    for kind, name, data in sections:
        holds.append((kind, name, first + len(body), len(data)))
        body += data + b"\0" * (-len(data) % 8)
    for index, (kind, name, offset, size) in enumerate(holds):
        at = (offset, size) if places is None else places[index]
        table += struct.pack("<I", kind) + name.ljust(16, b"\0") + b"\0" * 4 + struct.pack("<QQ", *at)
    out = bytearray(456)
    out[:8] = b"xclbin2\0"
    struct.pack_into("<i", out, 8, -1)
    out[12:296] = b"\xff" * 284
    struct.pack_into("<Q", out, 304, first + len(body) if length is None else length)
    struct.pack_into("<Q", out, 312, timestamp_s)
    major, minor, patch = version
    struct.pack_into("<HBB", out, 328, patch, major, minor)
    out[352 : 352 + len(platform)] = platform
    out[416:432] = uuid
    struct.pack_into("<I", out, 448, len(sections) if count is None else count)
    return bytes(out) + table + body
