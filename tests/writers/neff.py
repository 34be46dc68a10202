"""NEFF files for tests, from the documented struct: valid ones, and ones that no compiler would write."""

import gzip
import hashlib
import io
import json
import struct
import tarfile

import numpy as np

UUID = bytes.fromhex("7097954499bb475e9f8266a2fbf587d9")


def header_bytes(
    *,
    package_version=2,
    header_size=1024,
    data_size=0,
    major=2,
    minor=0,
    build=b"",
    cores=1,
    digest=b"",
    uuid=UUID,
    name=b"/tmp/matmul/graph.neff",
    requested=1,
    per_node=b"\x01",
    features=0,
    lnc_size=1,
):
    """The struct field by field at its documented offset, not by the reader's own layout."""
    out = bytearray(1024)
    struct.pack_into("<5Q", out, 0, package_version, header_size, data_size, major, minor)
    out[40 : 40 + len(build)] = build
    struct.pack_into("<I", out, 168, cores)
    out[172 : 172 + len(digest)] = digest
    out[204:220] = uuid
    out[220 : 220 + len(name)] = name
    struct.pack_into("<I", out, 476, requested)
    out[480 : 480 + len(per_node)] = per_node
    struct.pack_into("<Q", out, 544, features)
    struct.pack_into("<I", out, 552, lnc_size)
    return bytes(out)


def tar_bytes(members, *, entries=(), layout=tarfile.USTAR_FORMAT):
    """An uncompressed archive of `members` (name to bytes) and of ready `TarInfo` entries with their data."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=layout) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def pack(payload, *, padding=0, hash_name="", **fields):
    """Header and payload; `padding` rounds the payload up to a multiple with zero bytes."""
    if padding:
        payload += bytes(-len(payload) % padding)
    digest = hashlib.new(hash_name, payload).digest() if hash_name else b""
    return header_bytes(**{"data_size": len(payload), "digest": digest, **fields}) + payload


def slot(opcode):
    return bytes([opcode, 0x10]) + bytes(62)


def npy(array):
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def matmul_members(M=128, K=128, N=512, *, matmuls=1, salt=0, debug=True):
    """The files of one fp16 matmul, as the documentation names them."""
    size = {"input0": 2 * M * K, "input1": 2 * K * N, "output0": 2 * M * N}
    shape = {"input0": [M, K], "input1": [K, N], "output0": [M, N]}
    var = {name: {"type": name.rstrip("01"), "var_id": i, "size": size[name]} for i, name in enumerate(size)}
    var["identity_56"] = {"type": "file", "var_id": 3, "size": 32768, "file_name": "identity_56.npy"}
    var["scratch"] = {"type": "virtual", "var_id": 4, "size": 4096, "backing_variable_off": 0, "ops": []}
    queues = {"qSyncIO0": {"type": "in", "num_queues": 16, "owner": "sp"}, "qActOut0": {"type": "out", "owner": "act"}}
    tensor_map = {
        name: {
            "is_const": False,
            "tf_format": "NC",
            "dtype": "float16",
            "tf_shape": shape[name],
            "kind": var[name]["type"],
        }
        for name in size
    }
    dma = [{"id": 1, "queue": "qSyncIO0", "desc": {"from": "input0", "to": "SB", "to_sizes": [2 * K, M]}}]
    members = {
        "kelf-0.json": json.dumps(
            {"graphs": [{"definition": "sg00/def.json", "name": "sg00"}], "version": "0.5"}
        ).encode(),
        "neff.json": b"{}",
        "info.json": json.dumps({"tool_version": "2.22.12471.0+b4a00d10", "salt": salt}).encode(),
        "sg00/def.json": json.dumps({"name": "definition", "var": var, "dma_queue": queues}).encode(),
        "sg00/tensor_map.json": json.dumps(tensor_map).encode(),
        "sg00/PE.json": json.dumps({"dma": []}).encode(),
        "sg00/SP.json": json.dumps({"dma": dma}).encode(),
        "sg00/PE.bin": (slot(0x01) + slot(0x02)) * matmuls + slot(0x95),
        "sg00/Activation.bin": slot(0x21) * matmuls,
        "sg00/DVE.bin": b"",
        "sg00/identity_56.npy": npy(np.eye(128, dtype=np.float16)),
    }
    if debug:
        members["debug_info/PE.dbg"] = bytes(100)
    return members


def neff_bytes(members=None, *, compressed=True, padding=10_240, **fields):
    """A whole NEFF."""
    payload = tar_bytes(matmul_members() if members is None else members)
    return pack(gzip.compress(payload, mtime=0) if compressed else payload, padding=padding, **fields)


def entry(name, kind=tarfile.REGTYPE, *, data=b"", link="", size=None):
    """A tar entry of any kind, with a size that may lie."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(data) if size is None else size
    return info, data


def raw_entry(name, size, kind=b"0"):
    """A ustar header by hand, for sizes and kinds that `tarfile` refuses to write."""
    block = bytearray(512)
    block[: len(name)] = name.encode()
    block[100:108] = b"0000644\0"
    field = b"%011o\0" % size if size < 8**11 else (size | 0x80 << 88).to_bytes(12, "big")
    block[124:136] = field
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)
