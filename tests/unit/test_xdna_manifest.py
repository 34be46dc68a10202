"""Manifests of built XDNA kernels: read as written, refused by the key that is wrong, and never a way out of their folder."""

import os
from dataclasses import replace

import pytest

from npuscope.errors import FormatError
from npuscope.formats.xdna_manifest import manifest_text, read_manifest, scan_manifests
from npuscope.tiling.xdna_design import XdnaDesign

DESIGN = XdnaDesign(64, 96, 128, 16, 32, 64, 2, 2)
TEXT = manifest_text(DESIGN, "k.xclbin", "k.insts.bin", array="npu1")


def read(folder, text=TEXT, name="k.toml"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(path)


def changed(old, new):
    assert TEXT.count(old) == 1
    return TEXT.replace(old, new)


@pytest.mark.parametrize(
    "design",
    [
        DESIGN,
        replace(DESIGN, batch=3, buffers_a=1, buffers_b=2, buffers_c=1),
        replace(DESIGN, b_column_major=True, rounding="even", multiplication="bfp16", out_dtype="float32"),
        replace(DESIGN, dtype="int8", out_dtype="int16"),
    ],
)
def test_a_manifest_says_what_was_written(tmp_path, design):
    text = manifest_text(design, "a/b.xclbin", "c.txt", array="npu2", emulated=True, instruction_count="words")
    manifest = read(tmp_path, text)
    assert manifest.design == design
    assert (manifest.array, manifest.emulated, manifest.instruction_count_unit) == ("npu2", True, "words")
    assert manifest.xclbin_path == tmp_path / "a" / "b.xclbin"
    assert manifest.instructions_path == tmp_path / "c.txt"
    assert manifest.path == tmp_path / "k.toml"


@pytest.mark.parametrize("name", ['a "quoted" name', "back\\slash", "größer", "tilde ~ {}[]#=", "#", "'''", "a=b"])
def test_any_printable_name_survives(tmp_path, name):
    assert read(tmp_path, manifest_text(DESIGN, "x", "i", array="npu1", name=name, built_with=name)).name == name


def test_what_is_left_out_is_as_mlir_aie_has_it(tmp_path):
    manifest = read(
        tmp_path,
        'name = "k"\narray = "npu1"\nxclbin = "x"\ninstructions = "i"\n'
        "[dispatch]\nM = 64\nK = 64\nN = 64\n[tile]\nm = 64\nk = 64\nn = 64\n",
    )
    assert manifest.design == XdnaDesign(64, 64, 64, 64, 64, 64)
    assert manifest.kernel_name == "MLIR_AIE"
    assert manifest.argument_order == ("a", "b", "c")
    assert manifest.instruction_count_unit == "bytes"
    assert manifest.emulated is False


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('array = "npu1"', 'array = "npu3"', "array"),
        ('array = "npu1"\n', "", "array"),
        ('array = "npu1"', 'array = "npu1"\ntile_size = 3', "tile_size"),
        ("M = 64", "M = 64.0", "dispatch.M"),
        ("M = 64", 'M = "64"', "dispatch.M"),
        ("M = 64", "M = true", "dispatch.M"),
        ("M = 64", "M = 0", "dispatch.M"),
        ("M = 64", "M = -64", "dispatch.M"),
        ("M = 64", "M = 2147483648", "dispatch.M"),
        ("M = 64\n", "", "`M`"),
        ("rows = 2", "rows = 0", "tile.rows"),
        ("buffers_a = 2", "buffers_a = 3", "one or two buffers"),
        ('rounding = "floor"', 'rounding = "up"', "rounding"),
        ('multiplication = "native"', 'multiplication = "fp8"', "multiplication"),
        ('\ndtype = "bfloat16"', '\ndtype = "float64"', "dtype"),
        ('out_dtype = "bfloat16"', 'out_dtype = "int32"', "result type of bfloat16"),
        ('instruction_count = "bytes"', 'instruction_count = "kilobytes"', "instruction_count"),
        ('["a", "b", "c"]', '["a", "b"]', "argument_order"),
        ('["a", "b", "c"]', '["a", "b", "b"]', "argument_order"),
        ('["a", "b", "c"]', '["a", "b", "c", "d"]', "argument_order"),
        ('kernel_name = "MLIR_AIE"', 'kernel_name = "a\\u001b[2Jb"', "kernel_name"),
        ('built_with = ""', 'built_with = "a\\nb"', "built_with"),
        ("[tile]", "[tiles]", "tile"),
        ("[dispatch]", "[dispatch", "TOML"),
        ("M = 64", "M = 64\nM = 64", "TOML"),
        ("emulated = false", "emulated = 0", "emulated"),
        ("[dispatch]", "surprise = 1\n[dispatch]", "surprise"),
        ("[tile]", "unknown = 1\n[tile]", "unknown"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, says):
    with pytest.raises(FormatError) as caught:
        read(tmp_path, changed(old, new))
    line = str(caught.value)
    assert line.startswith(str(tmp_path / "k.toml"))
    assert says in line
    assert line.isprintable()


@pytest.mark.parametrize("key", ["name", "array", "xclbin", "instructions", "M", "K", "N", "m", "k", "n"])
def test_a_key_that_is_missing_is_named(tmp_path, key):
    lines = [line for line in TEXT.splitlines() if not line.startswith(f"{key} = ")]
    assert len(lines) == len(TEXT.splitlines()) - 1
    with pytest.raises(FormatError, match=f"`{key}`"):
        read(tmp_path, "\n".join(lines))


@pytest.mark.parametrize("key", ["xclbin", "instructions"])
@pytest.mark.parametrize("name", ["/etc/passwd", "../k", "a/../../k", "", "a\\u0000b"])
def test_no_file_outside_of_the_folder_is_named(tmp_path, key, name):
    old = {"xclbin": '"k.xclbin"', "instructions": '"k.insts.bin"'}[key]
    with pytest.raises(FormatError, match=f"{key}: expected a file in the manifest's folder"):
        read(tmp_path, changed(old, f'"{name}"'))


def test_no_link_leads_outside_of_the_folder(tmp_path):
    folder, outside = tmp_path / "kernels", tmp_path / "secret"
    folder.mkdir()
    outside.write_text("x")
    (folder / "k.xclbin").symlink_to(outside)
    with pytest.raises(FormatError, match="a file in the manifest's folder"):
        read(folder)
    (folder / "k.xclbin").unlink()
    (folder / "k.xclbin").symlink_to(folder / "k.xclbin")
    with pytest.raises(FormatError, match="a file in the manifest's folder"):
        read(folder)


def test_a_link_within_the_folder_is_followed(tmp_path):
    (tmp_path / "real.xclbin").write_text("x")
    (tmp_path / "k.xclbin").symlink_to("real.xclbin")
    assert read(tmp_path).xclbin_path.read_text() == "x"


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe", b"[" * 5000, b"a = " + b"[" * 5000, b"#" * ((1 << 20) + 1), b"a = 1" * 3]
)
def test_what_is_no_manifest_is_refused(tmp_path, data):
    with pytest.raises(FormatError, match="expected"):
        read(tmp_path, data)


def test_no_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(FormatError, match="a kernel manifest"):
            read_manifest(path)


def test_a_folder_gives_its_manifests_by_name_and_says_what_is_wrong_with_others(tmp_path):
    read(tmp_path, name="b.toml")
    read(tmp_path, name="a.toml")
    (tmp_path / "broken.toml").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "folder.toml").mkdir()
    found, refused = scan_manifests(tmp_path)
    assert [manifest.path.name for manifest in found] == ["a.toml", "b.toml"]
    assert [name in line for name, line in zip(("broken.toml", "folder.toml"), refused, strict=True)] == [True, True]


def test_a_folder_of_too_many_manifests_is_refused(tmp_path):
    for index in range(10_001):
        (tmp_path / f"{index}.toml").touch()
    with pytest.raises(FormatError, match="expected at most 10000 manifests, found 10001"):
        scan_manifests(tmp_path)


def test_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(FormatError, match="a folder of kernel manifests"):
            scan_manifests(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    pipe = tmp_path / "kernel.toml"
    os.mkfifo(pipe)
    with pytest.raises(FormatError, match="no regular file"):
        read_manifest(pipe)
