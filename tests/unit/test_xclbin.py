"""xclbin files: the struct of XRT, sections that lie inside the file, kernels by name, what `inspect` says."""

import re

import pytest

from npuscope.backends.xdna.emulated import build_emulated
from npuscope.errors import FormatError
from npuscope.formats.artifact import identify
from npuscope.formats.xclbin import SECTION_KINDS, inspect_xclbin, parse_xclbin, read_xclbin
from npuscope.tiling.xdna_design import XdnaDesign
from tests.writers import xclbin as writer


def parse(*arguments, **fields):
    return parse_xclbin(writer.xclbin_bytes(*arguments, **fields), source="design.xclbin")


def kernels(*sections):
    return [(kernel.name, kernel.arguments) for kernel in parse([(kind, b"", data) for kind, data in sections]).kernels]


def test_every_field_of_the_header_stands_where_xrt_has_it():
    xclbin = parse()
    assert xclbin.length == len(writer.xclbin_bytes())
    assert xclbin.uuid == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert (xclbin.timestamp_s, xclbin.version, xclbin.platform) == (1_700_000_000, "2.16.204", "xilinx:npu:base:1.0")


def test_a_section_is_told_with_kind_name_place_and_size():
    data = writer.xclbin_bytes()
    partition = parse().sections[1]
    assert (partition.kind, partition.name, partition.size) == ("AIE_PARTITION", "QoS", 184)
    assert data[partition.offset : partition.offset + partition.size] == writer.aie_partition()


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (0, "BITSTREAM"),
        (2, "EMBEDDED_METADATA"),
        (8, "IP_LAYOUT"),
        (16, "USER_METADATA"),
        (18, "PDI"),
        (25, "AIE_METADATA"),
        (32, "AIE_PARTITION"),
        (36, "DTBO"),
    ],
)
def test_kinds_of_sections_have_the_numbers_of_xrts_enumeration(number, kind):
    assert SECTION_KINDS[number] == kind


def test_a_kind_that_nobody_knows_is_told_by_its_number():
    assert parse([(4711, b"new", b"x")]).sections[0].kind == "kind 4711"


def test_columns_are_those_of_the_array_partition():
    assert parse([(writer.AIE_PARTITION, b"", writer.aie_partition(columns=3))]).partition_columns == 3
    assert not parse([]).has_array_partition
    assert parse([]).partition_columns is None


def test_a_partition_that_is_cut_tells_no_columns():
    xclbin = parse([(writer.AIE_PARTITION, b"", writer.aie_partition()[:40])])
    assert (xclbin.has_array_partition, xclbin.partition_columns) == (True, None)


class TestKernels:
    def test_a_kernel_has_its_name_once_and_its_arguments_by_the_xml(self):
        assert [(kernel.name, kernel.arguments) for kernel in parse().kernels] == [("MLIR_AIE", 4)]

    def test_without_xml_the_number_of_arguments_is_not_known(self):
        assert kernels((writer.IP_LAYOUT, writer.ip_layout(b"MLIR_AIE:MLIRAIE"))) == [("MLIR_AIE", None)]

    def test_a_memory_controller_is_no_kernel(self):
        assert kernels((writer.IP_LAYOUT, writer.ip_layout(b"ddr", kind=3))) == []

    @pytest.mark.parametrize("count", [-1, 2, 1 << 30])
    def test_more_instances_than_fit_are_refused_at_their_section(self, count):
        with pytest.raises(FormatError, match="byte 496, IP_LAYOUT"):
            kernels((writer.IP_LAYOUT, writer.ip_layout(b"k", count=count)))

    def test_arguments_count_for_the_kernel_around_them(self):
        xml = b'<arg/><kernel name="a"><arg id="0"/></kernel><arg/><kernel name="b"/><arg/><kernel name=\'c\'><arg/><arg/>'
        assert kernels((writer.EMBEDDED_METADATA, xml)) == [("a", 1), ("b", 0), ("c", 2)]

    def test_what_only_begins_like_a_kernel_is_none(self):
        assert kernels((writer.EMBEDDED_METADATA, b'<kernelClocks name="a"/><args/><kernel rename="b"/>')) == []

    def test_an_entity_is_not_expanded(self):
        xml = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;">]><kernel name="&b;"></kernel>'
        assert kernels((writer.EMBEDDED_METADATA, xml)) == [("&b;", 0)]

    @pytest.mark.parametrize("piece", [b'<kernel name="k">', b'<kernel name="k" ', b"<kernel " + b'name="" ' * 250])
    def test_hostile_metadata_take_one_pass(self, piece):
        """Quadratic searching would take hours over these 8 MB."""
        kernels((writer.EMBEDDED_METADATA, piece * (8_000_000 // len(piece))))

    def test_a_name_does_not_steer_the_terminal(self):
        assert kernels((writer.IP_LAYOUT, writer.ip_layout(b"a\x1b[2Jb:i"))) == [("a?[2Jb", None)]


class TestRefused:
    def test_another_file_at_its_first_byte(self):
        with pytest.raises(FormatError, match="byte 0: expected b'xclbin2"):
            parse_xclbin(b"\x7fELF" + bytes(600), source="x")

    @pytest.mark.parametrize("size", [8, 100, 455])
    def test_a_header_that_is_cut(self, size):
        with pytest.raises(FormatError, match=f"byte {size}: expected a header of 456 bytes"):
            parse_xclbin(writer.xclbin_bytes()[:size], source="x")

    @pytest.mark.parametrize("length", [0, 455, 1 << 40, (1 << 64) - 1])
    def test_a_length_that_contradicts_the_file(self, length):
        with pytest.raises(FormatError, match="byte 304"):
            parse(length=length)

    @pytest.mark.parametrize("count", [5, 1000, 0x10001, 0xFFFFFFFF])
    def test_more_sections_than_the_file_can_hold(self, count):
        with pytest.raises(FormatError, match="byte 448") if count > 20 else pytest.raises(FormatError):
            parse(count=count)

    @pytest.mark.parametrize("place", [(0, 8), (456, 8), (495, 1), (1 << 63, 8), (496, 1 << 63), (504, 1)])
    def test_a_section_outside_the_file_or_in_the_table(self, place):
        with pytest.raises(FormatError, match=re.escape("byte 456, section 0: expected a section between")):
            parse([(0, b"", bytes(8))], places=[place])

    def test_two_sections_that_share_a_byte(self):
        with pytest.raises(FormatError, match="byte 496, section 1: expected a section behind section 0"):
            parse([(2, b"", bytes(16)), (2, b"", bytes(16))], places=[(536, 16), (551, 16)])

    def test_sections_in_any_order_and_empty_ones_are_fine(self):
        xclbin = parse([(0, b"", bytes(16)), (1, b"", bytes(16)), (3, b"", b"")], places=[(592, 16), (576, 16), (0, 0)])
        assert [section.offset for section in xclbin.sections] == [592, 576, 0]

    def test_a_signature_behind_the_length_is_no_error(self):
        assert parse_xclbin(writer.xclbin_bytes() + b"signature", source="x") == parse()

    def test_no_file_and_a_folder(self, tmp_path):
        with pytest.raises(FormatError, match="found no file"):
            read_xclbin(tmp_path / "none.xclbin")
        with pytest.raises(FormatError, match="found no regular file"):
            read_xclbin(tmp_path)


class TestInspection:
    def test_a_file_is_recognised_by_its_content(self, tmp_path):
        path = tmp_path / "kernel.bin"
        path.write_bytes(writer.xclbin_bytes())
        assert identify(path).name == "xclbin"

    def test_what_is_in_it_is_told(self, tmp_path):
        path = tmp_path / "kernel.xclbin"
        path.write_bytes(writer.xclbin_bytes())
        told = inspect_xclbin(path)
        assert told.title == "design for 4 columns of AI engines: MLIR_AIE, 4 sections"
        assert told.facts["built"] == "2023-11-14T22:13:20+00:00"
        assert told.tables["kernels"] == [{"kernel": "MLIR_AIE", "arguments": 4}]
        assert not told.notes

    @pytest.mark.parametrize("timestamp_s", [0, (1 << 64) - 1])
    def test_a_date_that_is_none_is_not_told(self, tmp_path, timestamp_s):
        path = tmp_path / "kernel.xclbin"
        path.write_bytes(writer.xclbin_bytes(timestamp_s=timestamp_s))
        assert inspect_xclbin(path).facts["built"] is None

    def test_without_a_kernel_a_note_says_so(self, tmp_path):
        path = tmp_path / "kernel.xclbin"
        path.write_bytes(writer.xclbin_bytes([]))
        assert inspect_xclbin(path).notes == ("no section names a kernel",)

    def test_an_emulated_kernel_is_told_as_one(self, tmp_path):
        built = build_emulated(XdnaDesign(64, 64, 64, 64, 64, 64, columns=4, rows=4), "npu1", tmp_path, "k")
        told = inspect_xclbin(built.xclbin)
        assert told.title.startswith("design for 4 columns of AI engines: MLIR_AIE")
        assert told.notes == ("made for npuscope's emulator: no device runs it",)
        assert told.tables["kernels"] == [{"kernel": "MLIR_AIE", "arguments": 6}]
