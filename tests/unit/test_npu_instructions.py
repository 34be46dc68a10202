"""NPU instructions: the header of mlir-aie's transactions, binary and hexadecimal, and for which array they are."""

import struct

import numpy as np
import pytest

from npuscope.errors import FormatError
from npuscope.formats.npu_instructions import parse_instructions, read_instructions

# The header of a design for four columns of npu1 that mlir-aie built in 2025, with its 32 operations left out but for the count.
HEADER = struct.pack("<4I", 0x0603_0100, 0x0000_0104, 0x20, 0x480)
REAL = HEADER + bytes(0x480 - 16)


def words(first=0x0603_0100, second=0x0000_0104, operations=1, size=None, body=(128, 16)):
    return struct.pack(
        f"<{4 + len(body)}I", first, second, operations, 16 + 4 * len(body) if size is None else size, *body
    )


def parse(data):
    return parse_instructions(data, source="insts.bin")


def test_every_field_of_a_header_that_mlir_aie_wrote():
    read = parse(REAL)
    assert (read.version, read.generation, read.rows, read.columns) == ((0, 1), 3, 6, 4)
    assert (read.memory_tile_rows, read.operations, read.words.nbytes) == (1, 32, 1152)


def test_hexadecimal_words_are_the_same_instructions():
    text = "\n".join(f"{word:08X}" for word in np.frombuffer(REAL, "<u4"))
    assert np.array_equal(parse(text.encode()).words, parse(REAL).words)
    assert parse(text.lower().encode() + b"\r\n").columns == 4


@pytest.mark.parametrize(
    ("first", "array"), [(0x0603_0100, "npu1"), (0x0604_0100, "npu2"), (0x0605_0100, None), (0x0602_0100, None)]
)
def test_the_generation_tells_the_array(first, array):
    read = parse(words(first))
    assert read.array == array
    assert [read.is_for(name) for name in ("npu1", "npu2")] == [array == "npu1", array == "npu2"]


def test_old_instructions_rule_no_array_out():
    """Version 1.0 was written with generation 3 for every device."""
    old = parse(words(0x0603_0001))
    assert old.version == (1, 0)
    assert old.is_for("npu1")
    assert old.is_for("npu2")


@pytest.mark.parametrize("size", [0, 23, 6, 25, 1 << 31])
def test_a_size_that_contradicts_the_file_is_refused(size):
    with pytest.raises(FormatError, match="word 3: expected the size of the instructions, 24 bytes"):
        parse(words(size=size))


def test_more_operations_than_words_are_refused():
    with pytest.raises(FormatError, match="word 2"):
        parse(words(operations=3))


@pytest.mark.parametrize("cut", range(16))
def test_a_header_that_is_cut_is_refused_at_its_end(cut):
    with pytest.raises(FormatError, match=f"byte {cut}"):
        parse(REAL[:cut])


def test_a_word_that_is_cut_is_refused():
    with pytest.raises(FormatError, match="byte 1150: expected whole words"):
        parse(REAL[:-2])


def test_hexadecimal_words_of_another_length_are_refused():
    with pytest.raises(FormatError, match="eight hexadecimal digits"):
        parse(b"06030100\n00000104\n00000001\n00000018\n00000080\n10\n")


def test_no_file_is_refused(tmp_path):
    with pytest.raises(FormatError, match="found no file"):
        read_instructions(tmp_path / "insts.bin")
    with pytest.raises(FormatError, match="found no regular file"):
        read_instructions(tmp_path)
    (tmp_path / "insts.txt").write_bytes(REAL)
    assert read_instructions(tmp_path / "insts.txt").operations == 32
