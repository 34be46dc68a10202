"""Compile caches: entries of every layout, their state, duplicates, and why NEFFs of one size differ."""

import gzip
import os

import pytest

from npuscope.errors import FormatError
from npuscope.formats.cache_compare import size_groups
from npuscope.formats.cache_inspection import inspect_cache
from npuscope.formats.compile_cache import EMPTY_FLAGS, findings, looks_like_cache, read_cache
from tests.writers import compile_cache as writer
from tests.writers import neff


def by_key(cache):
    return {entry.key.rsplit("/", 1)[-1]: entry for entry in cache.entries}


def test_the_hash_of_no_flags_is_the_one_that_real_caches_show():
    assert EMPTY_FLAGS == "d41d8cd9"


def test_an_entry_of_the_neuron_cache_tells_its_key_flags_and_state(tmp_path):
    data = neff.neff_bytes()
    writer.neuron_entry(tmp_path, "123", "abcdef01", data=data, flags=["-O1", "--auto-cast=none"])
    entry = read_cache(tmp_path).entries[0]
    assert (entry.layout, entry.status, entry.hlo_hash, entry.flags_hash) == ("neuron", "complete", "123", "abcdef01")
    assert entry.compiler == writer.COMPILER
    assert entry.flags == ("-O1", "--auto-cast=none")
    assert entry.size_bytes == len(data)
    assert entry.shape == "input0 128x128, input1 128x512, output0 128x512"
    assert len(entry.sha256) == 64


def test_states_are_told_apart(tmp_path):
    data = neff.neff_bytes()
    writer.neuron_entry(tmp_path, "1", data=data)
    writer.neuron_entry(tmp_path, "2", done=False, log="error")
    writer.neuron_entry(tmp_path, "3", done=False, lock_age_s=10)
    writer.neuron_entry(tmp_path, "4", done=False, lock_age_s=9000)
    writer.neuron_entry(tmp_path, "5", done=False)
    writer.neuron_entry(tmp_path, "6", data=data, done=False)
    writer.neuron_entry(tmp_path, "7", data=data[:3000])
    writer.neuron_entry(tmp_path, "8", data=b"", log="error")
    cache = read_cache(tmp_path)
    states = {key.split("_")[1].split("+")[0]: entry.status for key, entry in by_key(cache).items()}
    assert states == {
        "1": "complete",
        "2": "failed",
        "3": "locked",
        "4": "locked",
        "5": "incomplete",
        "6": "incomplete",
        "7": "unreadable",
        "8": "failed",
    }
    notes = findings(cache)
    assert [note for note in notes if "has been locked for" in note] == [
        note for note in notes if "MODULE_4+" in note and "locked for" in note
    ]
    assert any(note.startswith("a failed compilation") and "2 of 8" in note for note in notes)
    assert any(note.startswith("a NEFF that cannot be read") for note in notes)
    assert any("byte 16" in note for note in cache.notes)


def test_vllm_entries_need_their_mark(tmp_path):
    writer.vllm_entry(tmp_path, "a" * 32, neff.neff_bytes())
    writer.vllm_entry(tmp_path, "b" * 32, neff.neff_bytes(), complete=False)
    found = by_key(read_cache(tmp_path))
    assert {key[0]: (e.layout, e.status) for key, e in found.items()} == {
        "a": ("vllm", "complete"),
        "b": ("vllm", "incomplete"),
    }


def test_a_matmul_folder_tells_shape_and_dtype_by_its_name_and_flags_by_its_command(tmp_path):
    writer.matmul_entry(tmp_path, 256, 128, 512, dtype="bfloat16")
    entry = read_cache(tmp_path).entries[0]
    assert (entry.layout, entry.shape, entry.dtype, entry.status) == ("matmul", "256x128x512", "bfloat16", "complete")
    assert entry.flags[:2] == ("--framework", "XLA")


def test_equal_sizes_for_every_shape_are_different_neffs_hidden_by_padding(tmp_path):
    for M in (128, 256, 512, 1024):
        writer.matmul_entry(tmp_path, M, 128, 128)
    groups = size_groups(read_cache(tmp_path).entries)
    assert [(len(group.keys), group.payloads) for group in groups] == [(4, 4)]
    assert groups[0].verdict.startswith("different NEFFs")
    assert "multiple of 10240" in groups[0].verdict
    whats = {(d.other.split("_")[1], d.what) for d in groups[0].differences}
    for M in ("256x128x128", "512x128x128", "1024x128x128"):
        assert {(M, "header UUID"), (M, "tensors"), (M, "instructions"), (M, "files in the archive")} <= whats
    assert groups[0].keys[0] == "matmul_128x128x128_float16"


def test_one_neff_under_two_keys_is_called_a_copy(tmp_path):
    data = neff.neff_bytes()
    writer.neuron_entry(tmp_path, "1", data=data)
    writer.neuron_entry(tmp_path, "2", data=data)
    cache = read_cache(tmp_path)
    assert size_groups(cache.entries)[0].verdict.startswith("one NEFF, copied")
    assert size_groups(cache.entries)[0].differences == ()
    assert any(note.startswith("one payload under 2 keys") and str(len(data)) in note for note in findings(cache))


def test_one_payload_under_two_headers_is_told_from_a_copy(tmp_path):
    writer.neuron_entry(tmp_path, "1", data=neff.neff_bytes())
    writer.neuron_entry(tmp_path, "2", data=neff.neff_bytes(uuid=bytes(range(16))))
    assert size_groups(read_cache(tmp_path).entries)[0].verdict.startswith("one payload under different headers")


def test_a_constant_of_other_values_is_a_difference_of_its_file_alone(tmp_path):
    members = neff.matmul_members()
    changed = members | {"sg00/identity_56.npy": members["sg00/identity_56.npy"][:-1] + b"\x7f"}
    for name, one in (("1", members), ("2", changed)):
        writer.neuron_entry(tmp_path, name, data=neff.neff_bytes(one, compressed=False))
    group = size_groups(read_cache(tmp_path).entries)[0]
    assert [(d.what, d.in_first) for d in group.differences] == [
        ("files in the archive", "sg00/identity_56.npy 32896 B")
    ]


def test_neffs_of_different_sizes_are_in_no_group(tmp_path):
    writer.neuron_entry(tmp_path, "1", data=neff.neff_bytes(padding=0))
    writer.neuron_entry(tmp_path, "2", data=neff.neff_bytes(neff.matmul_members(salt=2**64), padding=0))
    assert size_groups(read_cache(tmp_path).entries) == []


def test_one_graph_under_two_sets_of_flags_is_reported(tmp_path):
    writer.neuron_entry(tmp_path, "1", data=neff.neff_bytes())
    writer.neuron_entry(tmp_path, "1", "00000001", data=neff.neff_bytes(), flags=["-O1"])
    writer.neuron_entry(tmp_path, "2", "00000001", data=neff.neff_bytes(), flags=["-O1"])
    notes = findings(read_cache(tmp_path))
    assert [note for note in notes if note.startswith("graph ")] == ["graph 1 is compiled 2 times, for 2 sets of flags"]
    assert any("compiled without flags: 1 of 3" in note for note in notes)


def test_a_healthy_cache_of_different_graphs_has_no_findings(tmp_path):
    for index in range(3):
        members = neff.matmul_members(salt=index)
        writer.neuron_entry(tmp_path, str(index), "00000001", data=neff.neff_bytes(members), flags=["-O1"])
    assert findings(read_cache(tmp_path)) == []


def test_two_compilers_are_reported(tmp_path):
    writer.neuron_entry(tmp_path, "1", "0a", data=neff.neff_bytes())
    writer.neuron_entry(
        tmp_path, "2", "0a", data=neff.neff_bytes(neff.matmul_members(salt=2)), compiler="neuronxcc-2.8.0.25+a3"
    )
    assert any(note.startswith("2 versions of the compiler") for note in findings(read_cache(tmp_path)))


def test_links_are_not_followed_and_unreadable_flags_are_a_note(tmp_path):
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    folder = writer.neuron_entry(cache, "1", data=neff.neff_bytes())
    writer.neuron_entry(outside, "2", data=neff.neff_bytes())
    (cache / "link").symlink_to(outside)
    (folder / "self").symlink_to(folder)
    (folder / "compile_flags.json").write_bytes(b"{")
    read = read_cache(cache)
    assert [entry.hlo_hash for entry in read.entries] == ["1"]
    assert read.entries[0].flags is None
    assert any("2 symbolic link(s)" in note for note in read.notes)


def test_a_folder_that_cannot_be_listed_is_a_note(tmp_path):
    writer.neuron_entry(tmp_path, "1", data=neff.neff_bytes())
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0)
    if os.access(closed, os.R_OK):
        pytest.skip("this user may list every folder")
    try:
        assert any("cannot be read" in note for note in read_cache(tmp_path).notes)
    finally:
        closed.chmod(0o700)


def test_several_neffs_in_one_folder_are_entries_of_their_own(tmp_path):
    for name in ("a.neff", "b.neff"):
        (tmp_path / name).write_bytes(neff.neff_bytes())
    assert [entry.key for entry in read_cache(tmp_path).entries] == ["./a.neff", "./b.neff"]


def test_an_inspection_is_sorted_by_shape_and_keeps_one_set_of_keys_a_table(tmp_path):
    for M in (1024, 128, 256):
        writer.matmul_entry(tmp_path, M, 128, 128)
    inspection = inspect_cache(tmp_path)
    assert inspection.kind == "compile-cache"
    assert [row["shape"] for row in inspection.tables["entries"]] == ["128x128x128", "256x128x128", "1024x128x128"]
    assert inspection.facts["distinct_payloads"] == 3
    assert inspection.facts["distinct_sizes"] == 1
    for rows in inspection.tables.values():
        assert len({tuple(row) for row in rows}) == 1


def test_a_folder_without_entries_and_a_file_are_refused(tmp_path):
    with pytest.raises(FormatError, match="no NEFF file"):
        read_cache(tmp_path)
    file = tmp_path / "x"
    file.write_bytes(gzip.compress(b"x"))
    with pytest.raises(FormatError, match="a readable folder"):
        read_cache(file)


def test_a_cache_is_told_from_another_folder(tmp_path):
    assert not looks_like_cache(tmp_path)
    assert not looks_like_cache(tmp_path / "missing")
    writer.vllm_entry(tmp_path / "deep" / "er", "a" * 32, neff.neff_bytes())
    assert looks_like_cache(tmp_path)
