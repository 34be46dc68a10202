"""NEFF files: the documented header, an archive that cannot harm, what its files say."""

import gzip
import hashlib
import io
import json
import tarfile
import tracemalloc

import numpy as np
import pytest

from npuscope.errors import FormatError
from npuscope.formats.neff import looks_like_neff, neff_tables, parse_header, read_neff
from npuscope.formats.neff_inspection import inspect_neff
from npuscope.profile.tables import make_profile
from tests.writers import neff as writer


@pytest.fixture
def put(tmp_path):
    def put(data, name="graph.neff"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return put


def refused(put, payload, match, **fields):
    path = put(writer.pack(payload, **fields))
    with pytest.raises(FormatError, match=match) as error:
        read_neff(path)
    assert str(path) in str(error.value)


def test_every_field_of_the_header_stands_at_its_documented_offset():
    data = bytearray(
        writer.header_bytes(data_size=1, lnc_size=2, features=1 << 40 | 1, cores=3, requested=4, build=b"build")
    )
    header = parse_header(bytes(data), size_bytes=1025, source="x")
    assert (header.package_version, header.header_bytes, header.data_bytes) == (2, 1024, 1)
    assert (header.major_version, header.minor_version, header.build_version) == (2, 0, "build")
    assert (header.neuroncore_count, header.requested_neuroncore_count, header.lnc_size) == (3, 4, 2)
    assert header.uuid == writer.UUID
    assert header.network_name == "/tmp/matmul/graph.neff"
    assert header.feature_bits == 1 << 40 | 1
    assert header.neuroncores_per_node == b"\x01" + bytes(63)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"header_size": 1023}, "byte 8"),
        ({"header_size": 1 << 40}, "byte 8"),
        ({"data_size": 1 << 40}, "byte 16"),
        ({"data_size": 0}, "byte 16"),
    ],
)
def test_a_size_that_contradicts_the_file_is_refused_at_its_byte(put, change, place):
    refused(put, gzip.compress(writer.tar_bytes({"a": b""})), place, **change)


def test_a_file_shorter_than_the_header_is_refused(put):
    with pytest.raises(FormatError, match="byte 100: expected a 1024-byte NEFF header, found 100 bytes"):
        read_neff(put(bytes(100)))


@pytest.mark.parametrize("compressed", [True, False])
def test_a_neff_tells_its_tensors_engines_and_queues(put, compressed):
    neff = read_neff(put(writer.neff_bytes(writer.matmul_members(128, 128, 512, matmuls=5), compressed=compressed)))
    assert neff.archive.compression == ("gzip" if compressed else "none")
    found = {t.name: (t.type, t.shape, t.dtype, t.size_bytes) for t in neff.contents.tensors}
    assert found == {
        "input0": ("IN", (128, 128), "float16", 32768),
        "input1": ("IN", (128, 512), "float16", 131072),
        "output0": ("OUT", (128, 512), "float16", 131072),
        "identity_56": ("WEIGHT", (128, 128), "float16", 32768),
    }
    images = {image.engine: image for image in neff.contents.images}
    assert images["Tensor"].opcodes == {"LDWEIGHTS": 5, "MATMUL": 5, "OP_0x95": 1}
    assert images["Scalar"].instructions == 5
    assert images["Vector"].instructions == 0
    assert {(q.name, q.type, q.hardware_queues) for q in neff.contents.queues} == {
        ("qSyncIO0", "in", 16),
        ("qActOut0", "out", 1),
    }
    assert [(d.engine, d.descriptors, d.moved_bytes) for d in neff.contents.static_dma] == [("Sync", 1, 2 * 128 * 128)]
    assert neff.contents.subgraphs == ("sg00",)
    assert neff.contents.manifest == ("info.json", "kelf-0.json", "neff.json")
    assert neff.contents.compiler_version == "2.22.12471.0+b4a00d10"
    assert neff.contents.debug_bytes == 100
    assert neff.notes == ()


def test_padding_behind_the_gzip_stream_is_counted(put):
    payload = gzip.compress(writer.tar_bytes(writer.matmul_members()), mtime=0)
    neff = read_neff(put(writer.pack(payload, padding=10_240)))
    assert neff.header.data_bytes == 10_240
    assert neff.archive.padding_bytes == 10_240 - len(payload)
    assert neff.archive.digests["unpadded_sha256"] == hashlib.sha256(payload).hexdigest()


def test_the_hash_is_checked_and_the_verdict_says_against_what(put):
    payload = gzip.compress(writer.tar_bytes(writer.matmul_members()), mtime=0)
    assert read_neff(put(writer.pack(payload, hash_name="md5"))).hash_check.startswith("matches: md5 of the payload")
    assert read_neff(put(writer.pack(payload, hash_name="sha256"))).hash_check.startswith("matches: sha256")
    unpadded = writer.pack(payload, padding=10_240, digest=hashlib.md5(payload).digest())
    assert read_neff(put(unpadded)).hash_check == "matches: md5 of the payload without its padding"
    assert read_neff(put(writer.pack(payload, digest=b"\x01" * 16))).hash_check.startswith("differs")
    assert read_neff(put(writer.pack(payload))).hash_check.startswith("not checkable")


def test_shapes_are_unknown_without_a_tensor_map(put):
    members = {k: v for k, v in writer.matmul_members(debug=False).items() if "tensor_map" not in k}
    inspection = inspect_neff(put(writer.neff_bytes(members)))
    assert {row["shape"] for row in inspection.tables["tensors"] if row["type"] != "WEIGHT"} == {"?"}
    assert any("no debug information" in note for note in inspection.notes)


def test_the_tables_fit_a_profile(put):
    neff = read_neff(put(writer.neff_bytes(hash_name="md5", features=5)))
    profile = make_profile(neff_tables(neff), source="x")
    header = profile.first("NeffHeader")
    assert header["uuid"] == writer.UUID.hex()
    assert header["enabled_features"] == "bit 0, bit 2"
    assert header["data_size"] == neff.header.data_bytes
    assert len(header["hash"]) == 32
    assert profile.table("TensorInfo").column("shape").to_pylist() == ["128 128", "128 512", "128 512", "128 128"]
    assert profile.numbers("TensorInfo", "size").tolist() == [32768, 131072, 131072, 32768]


def test_header_numbers_of_64_bits_fit_a_profile(put):
    neff = read_neff(put(writer.neff_bytes(major=2**64 - 1, minor=2**64 - 1, package_version=2**64 - 1)))
    assert make_profile(neff_tables(neff), source="x").first("NeffHeader")["major_version"] == 2**63 - 1


def test_inspection_rows_of_one_table_have_the_same_keys(put):
    inspection = inspect_neff(put(writer.neff_bytes()))
    assert inspection.kind == "neff"
    assert {"tensors", "engines", "files", "queues"} <= inspection.tables.keys()
    for rows in inspection.tables.values():
        assert len({tuple(row) for row in rows}) == 1
    assert next(iter(inspection.tables["files"]))["file"] == "sg00/identity_56.npy"


@pytest.mark.parametrize(
    "name", ["../evil", "sg00/../../evil", "/etc/passwd", "..", "C:/x", "\\\\server\\x", "a\\..\\b"]
)
def test_a_name_that_leaves_the_archive_is_refused(put, tmp_path, name):
    before = set(tmp_path.rglob("*"))
    refused(put, gzip.compress(writer.tar_bytes({name: b"x"})), "names inside the archive")
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "graph.neff"}


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_device_is_refused(put, kind):
    refused(put, gzip.compress(writer.tar_bytes({}, entries=[writer.entry("dev", kind)])), "files and folders")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_is_left_out_with_a_note(put, kind):
    payload = writer.tar_bytes(writer.matmul_members(), entries=[writer.entry("link", kind, link="/etc/passwd")])
    neff = read_neff(put(writer.pack(gzip.compress(payload))))
    assert any("link 'link' is left out" in note or "link link is left out" in note for note in neff.notes)
    assert "link" not in {member.name for member in neff.archive.members}


def test_two_files_of_one_name_are_refused_also_when_written_differently(put):
    entries = [writer.entry("./kelf-0.json", data=b"{}")]
    refused(put, gzip.compress(writer.tar_bytes(writer.matmul_members(), entries=entries)), "one file of each name")


def test_a_name_beyond_the_limit_is_refused(put):
    payload = writer.tar_bytes({"a/" * 600 + "b": b"x"}, layout=tarfile.GNU_FORMAT)
    refused(put, gzip.compress(payload), "a name of at most 1024 bytes")


@pytest.mark.parametrize("layout", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_are_read_in_every_tar_dialect(put, layout):
    name = "sg00/" + "x" * 90 + "/" + "y" * 90
    neff = read_neff(put(writer.pack(gzip.compress(writer.tar_bytes({name: b"abc"}, layout=layout)))))
    assert [(m.name, m.size_bytes, m.sha256) for m in neff.archive.members] == [
        (name, 3, hashlib.sha256(b"abc").hexdigest())
    ]


def bomb_of_zeros(size):
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as handle:
        handle.write(writer.raw_entry("sg00/PE.bin", size))
        chunk = bytes(1 << 20)
        for _ in range(size >> 20):
            handle.write(chunk)
    return out.getvalue()


@pytest.mark.parametrize(
    "payload",
    [
        gzip.compress(writer.raw_entry("sg00/PE.bin", 10 << 30)),
        writer.raw_entry("sg00/PE.bin", 10 << 30) + bytes(9 << 10),
        gzip.compress(writer.raw_entry("sg00/def.json", 10 << 30) + bytes(9 << 20)),
        gzip.compress(writer.raw_entry("PE.bin", 1 << 40, b"x")),
        gzip.compress(writer.raw_entry("PE.bin", 10 << 30, b"S")),
        gzip.compress(gzip.compress(bytes(64 << 20))),
    ],
    ids=["gzip", "plain", "json", "pax", "sparse", "nested gzip"],
)
def test_ten_gigabytes_in_ten_kilobytes_are_refused_in_little_memory(put, payload):
    assert len(payload) < 12_000
    path = put(writer.pack(payload))
    tracemalloc.start()
    with pytest.raises(FormatError):
        read_neff(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20


def test_an_archive_of_many_entries_is_refused_by_their_number(put):
    block = writer.raw_entry("d", 0, b"5")
    refused(put, gzip.compress(block * 20_001), "at most 20000 entries")


def test_zeros_that_shrink_a_thousandfold_are_read_within_the_limit(put):
    neff = read_neff(put(writer.pack(bomb_of_zeros(32 << 20) + b"")))
    assert neff.contents.images[0].instructions == (32 << 20) // 64
    assert any("does not look like 64-byte instructions" in note for note in neff.notes)


def test_a_truncated_gzip_stream_is_refused(put):
    payload = gzip.compress(writer.tar_bytes(writer.matmul_members()))
    for keep in (0.2, 0.9):
        refused(
            put, payload[: int(keep * len(payload))], "the end of the gzip stream|512-byte tar header|bytes of data"
        )
    refused(put, payload[:-4], "the end of the gzip stream")


def test_a_damaged_gzip_checksum_is_refused(put):
    payload = bytearray(gzip.compress(writer.tar_bytes(writer.matmul_members())))
    payload[-8] ^= 1
    refused(put, bytes(payload), "a gzip stream")


def test_a_truncated_plain_archive_is_refused(put):
    payload = writer.tar_bytes({"a.bin": bytes(4096)})
    refused(put, payload[:2048], "a whole archive")


def test_a_payload_that_is_no_archive_is_refused(put):
    refused(put, b"\x7fELF" + bytes(2000), "a gzip or tar archive")


def test_hostile_json_is_a_note_and_not_an_error(put):
    members = writer.matmul_members()
    members["sg00/def.json"] = b"[" * 100_000
    members["info.json"] = b'{"tool_version": ' + b"9" * 5000 + b"}"
    members["sg00/tensor_map.json"] = b'{"input0": {"kind": "input", "tf_shape": [1e400, -1, "x"], "dtype": []}}'
    members["sg00/SP.json"] = json.dumps({"dma": [{"desc": [{"to_sizes": [2**62] * 16}, 5]}, None]}).encode()
    members["sg00/identity_56.npy"] = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    neff = read_neff(put(writer.neff_bytes(members)))
    assert sum("sg00/def.json" in note for note in neff.notes) == 1
    assert neff.contents.static_dma[0].moved_bytes == 2**63 - 1
    make_profile(neff_tables(neff), source="x")


def test_an_object_array_is_described_and_never_unpickled(put):
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    members = writer.matmul_members() | {"sg00/x.npy": out.getvalue()}
    constant = next(c for c in read_neff(put(writer.neff_bytes(members))).contents.constants if c.name == "sg00/x.npy")
    assert constant.dtype == "object"


def test_a_neff_is_told_from_other_files():
    data = writer.neff_bytes()
    assert looks_like_neff(data[:4096], len(data))
    assert not looks_like_neff(b"\x00" * 4096, 4096)
    assert not looks_like_neff(data[:512], 512)
    assert not looks_like_neff(gzip.compress(b"x" * 5000), 5000)
    text = b"M,K,N,latency_ms\n" * 100
    assert not looks_like_neff(text, len(text))


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing.neff", "a\0b"):
        with pytest.raises(FormatError):
            read_neff(path)


def test_names_that_steer_a_terminal_or_cannot_be_encoded_are_made_printable(put):
    members = writer.matmul_members()
    var = (
        '{"var": {"\\ud800\\u001b[31m": {"type": "input", "size": 4}}, "dma_queue": {"\\udfff": {"type": "in\\u0007"}}}'
    )
    members["sg00/def.json"] = var.encode()
    members["sg00/tensor_map.json"] = b'{"\\ud801": {"kind": "output", "tf_shape": [1], "dtype": "\\ud802"}}'
    path = put(writer.neff_bytes(members, name=b"\x1b[2J\xff"))
    profile = make_profile(neff_tables(read_neff(path)), source="x")
    names = [*profile.texts("TensorInfo", "variable_name"), *profile.texts("NeffHeader", "network_name")]
    assert all(name.isprintable() for name in names)
    inspection = inspect_neff(path)
    assert inspection.title.isprintable()
    assert "ud800" not in json.dumps(inspection.tables)


def test_many_large_documents_are_parsed_one_at_a_time_and_not_without_end(put):
    body = b"[" + b"{}," * 330_000 + b"1]"
    path = put(writer.neff_bytes({f"sg{index:02d}/def.json": body for index in range(12)}))
    tracemalloc.start()
    neff = read_neff(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20
    assert any("sg07/def.json and what follows it is not read" in note for note in neff.notes)
