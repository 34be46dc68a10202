"""Inputs of a NEFF by its own table: what fits is laid out, all else is one error that names the tensor."""

import json
import os

import ml_dtypes
import numpy as np
import pytest

from npuscope.backends.neff_inputs import NamedInput, check_inputs, input_tensors, layout_inputs
from npuscope.errors import FormatError, OutputError
from npuscope.formats.file_hash import file_sha256
from npuscope.formats.neff import read_neff
from tests.writers.neff import matmul_members, neff_bytes

A = np.arange(128 * 128, dtype=np.float16).reshape(128, 128)
B = np.arange(128 * 512, dtype=np.float16).reshape(128, 512)


def members(*, dtype="float16", shape=True, renamed=None):
    """The files of a matmul, its inputs of another type, without shapes, or with another name for `input0`."""
    made = matmul_members()
    table = json.loads(made["sg00/tensor_map.json"])
    for entry in table.values():
        entry["dtype"] = dtype
    made["sg00/tensor_map.json"] = json.dumps(table if shape else {}).encode()
    if renamed is not None:
        made = {name: data.replace(b'"input0"', json.dumps(renamed).encode()) for name, data in made.items()}
    return made


@pytest.fixture
def neff(tmp_path):
    return write_neff(tmp_path)


def write_neff(tmp_path, **options):
    path = tmp_path / "graph.neff"
    path.write_bytes(neff_bytes(members(**options)))
    return path


@pytest.fixture
def folder(tmp_path):
    """A folder with inputs that fit: one as an array, one as raw bytes."""
    made = tmp_path / "inputs"
    made.mkdir()
    np.save(made / "input0.npy", A)
    (made / "input1.bin").write_bytes(B.tobytes())
    return made


def test_arrays_become_raw_bytes_and_raw_bytes_are_taken_as_they_are(neff, folder, tmp_path):
    first, second = layout_inputs(neff, folder, raw_dir=tmp_path / "raw")
    assert first == NamedInput("input0", tmp_path / "raw" / "inp-input0-000.bin", folder / "input0.npy")
    assert first.path.read_bytes() == A.tobytes()
    assert second == NamedInput("input1", folder / "input1.bin")
    check_inputs(read_neff(neff), (first, second))


def test_the_order_is_that_of_the_table_and_the_seeds_names_are_known(neff, folder, tmp_path):
    (folder / "input1.bin").rename(folder / "inp-input1-000.bin")
    (folder / "notes.txt").write_text("mine")
    made = layout_inputs(neff, folder, raw_dir=tmp_path / "raw")
    assert (
        [item.name for item in made]
        == [tensor.name for tensor in input_tensors(read_neff(neff))]
        == ["input0", "input1"]
    )
    assert made[1].path == folder / "inp-input1-000.bin"


@pytest.mark.parametrize(
    "array", [np.asfortranarray(A), A.astype(">f2"), A[::-1, ::-1]], ids=["fortran", "big-endian", "reversed"]
)
def test_raw_bytes_are_in_the_order_of_c_and_little_endian(array, neff, folder, tmp_path):
    np.save(folder / "input0.npy", array)
    first, _ = layout_inputs(neff, folder, raw_dir=tmp_path / "raw")
    assert first.path.read_bytes() == np.ascontiguousarray(array).astype("<f2").tobytes()


def test_bfloat16_which_numpy_knows_as_void_fits_bfloat16_alone(folder, tmp_path):
    values = A.astype(ml_dtypes.bfloat16)
    np.save(folder / "input0.npy", values)
    (folder / "input1.bin").write_bytes(B.tobytes())
    first, _ = layout_inputs(write_neff(tmp_path, dtype="bfloat16"), folder, raw_dir=tmp_path / "raw")
    assert first.path.read_bytes() == values.tobytes()
    with pytest.raises(
        FormatError, match=r"input input0: expected 32,768 bytes, shape 128×128, float16, found .*void16"
    ):
        layout_inputs(write_neff(tmp_path), folder, raw_dir=tmp_path / "raw2")
    np.save(folder / "input0.npy", A)
    with pytest.raises(FormatError, match=r"bfloat16, found .*float16.*save its raw bytes as input0\.bin"):
        layout_inputs(write_neff(tmp_path, dtype="bfloat16"), folder, raw_dir=tmp_path / "raw3")


def test_without_shape_and_type_in_the_table_the_size_alone_is_checked(folder, tmp_path):
    np.save(folder / "input0.npy", A.view(np.int32).reshape(-1))
    first, _ = layout_inputs(write_neff(tmp_path, shape=False), folder, raw_dir=tmp_path / "raw")
    assert first.path.read_bytes() == A.tobytes()


def test_a_temporary_folder_is_made_where_none_is_given(neff, folder):
    first, _ = layout_inputs(neff, folder)
    assert first.path.parent.name.startswith("npuscope-inputs-")
    assert first.path.read_bytes() == A.tobytes()
    first.path.unlink()
    first.path.parent.rmdir()


def spoil_missing(folder):
    (folder / "input1.bin").unlink()


def spoil_ambiguous(folder):
    np.save(folder / "input1.npy", B)


def spoil_extra(folder):
    np.save(folder / "weights.npy", B)


def spoil_rank(folder):
    (folder / "inp-input1-001.bin").write_bytes(B.tobytes())


def spoil_size(folder):
    (folder / "input1.bin").write_bytes(B.tobytes()[:-1])


def spoil_directory(folder):
    (folder / "input1.bin").unlink()
    (folder / "input1.bin").mkdir()


def spoil_shape(folder):
    np.save(folder / "input0.npy", A.reshape(64, 256))


def spoil_array_size(folder):
    np.save(folder / "input0.npy", A[:64])


def spoil_type(folder):
    np.save(folder / "input0.npy", A.astype(np.int16))


def spoil_width(folder):
    np.save(folder / "input0.npy", A.astype(np.float32))


def spoil_structured(folder):
    np.save(folder / "input0.npy", A.view([("a", "<u1"), ("b", "<u1")]))


def spoil_pickle(folder):
    np.save(folder / "input0.npy", np.array([{}], dtype=object), allow_pickle=True)


def spoil_zip(folder):
    np.savez(folder / "input0.npz", A)
    (folder / "input0.npz").rename(folder / "input0.npy")


def spoil_cut(folder):
    data = (folder / "input0.npy").read_bytes()
    (folder / "input0.npy").write_bytes(data[:-2])


def spoil_header(folder):
    data = (folder / "input0.npy").read_bytes()
    (folder / "input0.npy").write_bytes(data.replace(b"(128, 128)", b"(9**9,128)"))


def spoil_lying_size(folder):
    """A header that tells of 2^60 elements: nothing of that size may be allocated."""
    data = (folder / "input0.npy").read_bytes()
    (folder / "input0.npy").write_bytes(data.replace(b"(128, 128), }        ", b"(1152921504606846976,)}"))


def spoil_float8(folder):
    """ml_dtypes writes this type so that NumPy cannot read it."""
    np.save(folder / "input0.npy", np.zeros((128, 256), ml_dtypes.float8_e5m2))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            spoil_missing,
            r"inputs, input input1: expected one file of 131,072 bytes, shape 128×512, float16, found none; add input1",
        ),
        (spoil_ambiguous, r"input input1: expected one file .*, found input1\.npy, input1\.bin; leave one of them"),
        (
            spoil_extra,
            r"inputs, weights\.npy: expected one of the inputs input0, input1, found a file for none of them; take it",
        ),
        (spoil_rank, r"inp-input1-001\.bin: expected one of the inputs input0, input1"),
        (
            spoil_size,
            r"input1\.bin, input input1: expected raw bytes: 131,072 bytes.*, found 131,071 bytes; write the tensor",
        ),
        (spoil_directory, r"input1\.bin, input input1: expected raw bytes: .*, found no regular file"),
        (
            spoil_shape,
            r"input0\.npy, input input0: expected 32,768 bytes, shape 128×128, float16, found .*64×256.*; reshape it",
        ),
        (
            spoil_array_size,
            r"input0: expected 32,768 bytes.*, found 16,384 bytes, .*; give an array of 16,384 elements",
        ),
        (spoil_type, r"input0: expected .*float16, found .*int16; convert it"),
        (spoil_width, r"input0: expected .*float16, found 65,536 bytes, .*float32; convert it to that type and shape$"),
        (spoil_structured, r"input0: expected .*float16, found .*a structured type; convert it"),
        (spoil_pickle, r"input0: expected a \.npy file of .*; save it with numpy\.save"),
        (spoil_zip, r"input0: expected a \.npy file of .*, found a file that does not begin as one"),
        (spoil_cut, r"input0: expected a \.npy file of .*, found mmap length"),
        (spoil_header, r"input0: expected a \.npy file of .*; save it"),
        (spoil_lying_size, r"input0: expected a \.npy file of .*; save it"),
        (
            spoil_float8,
            r"input0: expected a \.npy file of .*; save it with numpy\.save, or its raw bytes as input0\.bin",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(spoil, told, neff, folder, tmp_path):
    spoil(folder)
    with pytest.raises(FormatError, match=told) as raised:
        layout_inputs(neff, folder, raw_dir=tmp_path / "raw")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "raw").exists()


def test_a_folder_that_is_none_and_a_graph_without_inputs_are_told(neff, folder, tmp_path):
    with pytest.raises(FormatError, match="expected a folder with a file for each input, found No such file"):
        layout_inputs(neff, tmp_path / "nothing")
    made = matmul_members()
    made["sg00/def.json"], made["sg00/tensor_map.json"] = b'{"var": {}}', b"{}"
    neff.write_bytes(neff_bytes(made))
    with pytest.raises(FormatError, match="expected inputs in its table of tensors, found none; capture without"):
        layout_inputs(neff, folder)


def test_a_file_that_may_be_of_two_inputs_is_ambiguous(folder, tmp_path):
    """`inp-input1-000` is a name that an input may have, too."""
    (folder / "input1.bin").unlink()
    (folder / "input0.npy").unlink()
    (folder / "inp-input1-000.bin").write_bytes(B.tobytes())
    with pytest.raises(FormatError, match=r"found inp-input1-000\.bin, which may be of another input, too"):
        layout_inputs(write_neff(tmp_path, renamed="inp-input1-000"), folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "", "."])
def test_a_name_never_leads_out_of_the_folder(name, folder, tmp_path):
    (tmp_path / "secret.bin").write_bytes(A.tobytes())
    (folder / "a").mkdir()
    (folder / "a" / "b.bin").write_bytes(A.tobytes())
    (folder / "input0.npy").unlink()
    with pytest.raises(FormatError, match=r"expected one file of 32,768 bytes.*, found none"):
        layout_inputs(write_neff(tmp_path, renamed=name), folder, raw_dir=tmp_path / "raw")


def two_subgraphs(size):
    made = matmul_members()
    definition = json.loads(made["sg00/def.json"])
    definition["var"]["input0"]["size"] = size
    return {**made, "sg01/def.json": json.dumps(definition).encode()}


def test_an_input_that_both_cores_of_a_logical_one_declare_is_one(neff, folder, tmp_path):
    neff.write_bytes(neff_bytes(two_subgraphs(32768)))
    assert [item.name for item in layout_inputs(neff, folder, raw_dir=tmp_path / "raw")] == ["input0", "input1"]
    neff.write_bytes(neff_bytes(two_subgraphs(16384)))
    with pytest.raises(FormatError, match="input input0: expected one size in all sub-graphs, found 32,768 and 16,384"):
        layout_inputs(neff, folder)
    neff.write_bytes(neff_bytes({**two_subgraphs(0), "sg00/def.json": b"{}"}))
    with pytest.raises(FormatError, match="input input0: expected its size in bytes, found none"):
        layout_inputs(neff, folder)


def test_raw_bytes_never_replace_what_is_there(neff, folder, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "inp-input0-000.bin").write_bytes(b"mine")
    with pytest.raises(OutputError, match="File exists"):
        layout_inputs(neff, folder, raw_dir=tmp_path / "raw")
    assert (tmp_path / "raw" / "inp-input0-000.bin").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("input0",), "input input1: expected a file of 131,072 bytes.*, found none; give all inputs or none"),
        (
            ("input0", "input1", "input2"),
            "input input2: expected one of the inputs input0, input1, found a file for it",
        ),
        (("input0", "input1", "input1"), "input input1: expected one file, found 2"),
        (("input1", "input0"), r"0\.raw, input input1: expected raw bytes: 131,072 bytes.*, found 32,768 bytes"),
    ],
)
def test_named_files_are_checked_against_the_table(names, told, neff, tmp_path):
    given = []
    for at, name in enumerate(names):
        (tmp_path / f"{at}.raw").write_bytes((A.tobytes(), B.tobytes(), b"")[at])
        given.append(NamedInput(name, tmp_path / f"{at}.raw"))
    with pytest.raises(FormatError, match=told):
        check_inputs(read_neff(neff), given)


def test_a_file_that_has_gone_and_a_name_that_is_an_option_are_refused(tmp_path):
    neff = read_neff(write_neff(tmp_path, renamed="--disable-profile"))
    (tmp_path / "b").write_bytes(B.tobytes())
    given = [NamedInput("--disable-profile", tmp_path / "a"), NamedInput("input1", tmp_path / "b")]
    with pytest.raises(FormatError, match="expected a name that can be given on a command line"):
        check_inputs(neff, given)
    neff = read_neff(write_neff(tmp_path))
    with pytest.raises(FormatError, match="found no regular file"):
        check_inputs(neff, [NamedInput("input0", tmp_path / "a"), given[1]])


def test_a_hash_is_that_of_the_whole_file(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(FormatError, match="expected a readable file"):
        file_sha256(tmp_path / "none")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_a_pipe_is_no_input_and_is_not_waited_for(neff, folder):
    (folder / "input0.npy").unlink()
    os.mkfifo(folder / "input0.npy")
    with pytest.raises(FormatError, match="found no regular file"):
        layout_inputs(neff, folder)
