"""Whatever an xclbin, an instruction file or a manifest holds, it is read or refused by one error of npuscope."""

import contextlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npuscope.backends.xdna.emulated import EmulatedRuntime
from npuscope.backends.xdna.emulated.build import instruction_words, xclbin_bytes
from npuscope.errors import FormatError
from npuscope.formats.npu_instructions import parse_instructions
from npuscope.formats.xclbin import inspect_xclbin, parse_xclbin
from npuscope.formats.xdna_manifest import manifest_text, read_manifest, scan_manifests
from npuscope.tiling.xdna_design import XdnaDesign
from tests.strategies import mutations
from tests.writers import xclbin as writer

fuzz = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
DESIGN = XdnaDesign(64, 64, 64, 64, 64, 64)
VALID = writer.xclbin_bytes()
EMULATED = xclbin_bytes(DESIGN, "npu1")
INSTRUCTIONS = instruction_words(DESIGN, "npu1").tobytes()
MANIFEST = manifest_text(DESIGN, "k.xclbin", "k.insts.bin", array="npu1")
LINES = MANIFEST.splitlines()
values = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=12).map(json.dumps),
    st.sampled_from(
        [
            "true",
            "[]",
            "{}",
            "{a = 1}",
            "2024-01-01",
            '["a", "b", "c"]',
            '"/"',
            '"."',
            '""',
            "9" * 5000,
            '"a\\u0000"',
            "''",
        ]
    ),
)
numbers = st.sampled_from(
    [0, 1, 2, 7, 8, 40, 455, 456, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 63]
) | st.integers(0, 4000)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def read_or_refuse(data):
    with contextlib.suppress(FormatError):
        xclbin = parse_xclbin(data, source="fuzz")
        assert sum(section.size for section in xclbin.sections) <= len(data)
        assert all(section.offset + section.size <= xclbin.length for section in xclbin.sections if section.size)


@fuzz
@given(data=st.binary(max_size=600) | st.binary(max_size=600).map(lambda rest: b"xclbin2\0" + rest))
def test_any_bytes_are_read_or_refused(data):
    read_or_refuse(data)


@fuzz
@given(data=st.one_of(mutations(VALID), mutations(EMULATED)))
def test_a_mutated_xclbin_is_read_or_refused(data):
    read_or_refuse(data)


@fuzz
@given(at=st.sampled_from([304, 448, *range(456, 616, 8), *range(476, 616, 40)]), value=numbers)
def test_any_number_in_header_or_table_is_read_or_refused(at, value):
    data = bytearray(VALID)
    data[at : at + 8] = value.to_bytes(8, "little")
    read_or_refuse(bytes(data))


@fuzz
@given(
    xml=st.lists(
        st.sampled_from([b"<kernel ", b'name="k"', b">", b"</kernel>", b"<arg", b"/>", b"<", b'"', b" ", b"&x;"]),
        max_size=40,
    )
)
def test_any_metadata_end_in_kernels(xml):
    parsed = parse_xclbin(writer.xclbin_bytes([(writer.EMBEDDED_METADATA, b"", b"".join(xml))]), source="fuzz")
    assert all(kernel.name == "k" and 0 <= kernel.arguments <= xml.count(b"<arg") for kernel in parsed.kernels)


@fuzz
@given(data=mutations(EMULATED))
def test_a_mutated_kernel_is_inspected_and_loaded_or_refused(folder, data):
    path = folder / "kernel.xclbin"
    path.write_bytes(data)
    with contextlib.suppress(FormatError):
        json.dumps(inspect_xclbin(path).tables)
    runtime = EmulatedRuntime("npu1")
    with contextlib.suppress(RuntimeError):
        context = runtime.hw_context(runtime.device(0), runtime.xclbin(str(path)))
        runtime.kernel(context, "MLIR_AIE")


@fuzz
@given(data=st.one_of(st.binary(max_size=80), mutations(INSTRUCTIONS), mutations(INSTRUCTIONS.hex("\n", 4).encode())))
def test_any_instructions_are_read_or_refused(data):
    with contextlib.suppress(FormatError):
        read = parse_instructions(data, source="fuzz")
        assert read.words.dtype == np.uint32
        assert read.operations <= len(read.words)


def manifest_or_refusal(folder, data):
    path = folder / "kernel.toml"
    path.write_bytes(data)
    found, refused = scan_manifests(folder)
    assert len(found) + len(refused) == 1
    assert all(line.isprintable() for line in refused)
    for manifest in found:
        assert manifest.xclbin_path.resolve().is_relative_to(folder.resolve())
        assert manifest.instructions_path.resolve().is_relative_to(folder.resolve())
        assert manifest.design.a_bytes > 0


@fuzz
@given(data=st.one_of(st.binary(max_size=200), mutations(MANIFEST.encode())))
def test_any_manifest_is_read_or_refused(folder, data):
    manifest_or_refusal(folder, data)


@fuzz
@given(changes=st.dictionaries(st.integers(0, len(LINES) - 1), values | st.none(), min_size=1, max_size=4))
def test_any_value_in_a_manifest_is_read_or_refused(folder, changes):
    lines = []
    for index, line in enumerate(LINES):
        value = changes.get(index, "")
        if value is not None:  # else the line is left out
            lines.append(f"{line.split(' = ')[0]} = {value}" if value and " = " in line else line)
    manifest_or_refusal(folder, "\n".join(lines).encode("utf-8", "surrogatepass"))


@fuzz
@given(name=st.text(st.characters(categories=["L", "N", "P", "S"], include_characters=" "), min_size=1, max_size=40))
def test_a_manifest_that_is_written_is_read_again(folder, name):
    path = folder / "kernel.toml"
    path.write_text(manifest_text(DESIGN, "k.xclbin", "i", array="npu1", name=name, built_with=name), encoding="utf-8")
    manifest = read_manifest(path)
    assert manifest.design == DESIGN
    assert manifest.built_with == manifest.name == name
