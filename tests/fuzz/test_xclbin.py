"""Whatever an xclbin or an instruction file holds, it is read or refused by one error of npuscope."""

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
from npuscope.tiling.xdna_design import XdnaDesign
from tests.strategies import mutations
from tests.writers import xclbin as writer

fuzz = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
DESIGN = XdnaDesign(64, 64, 64, 64, 64, 64)
VALID = writer.xclbin_bytes()
EMULATED = xclbin_bytes(DESIGN, "npu1")
INSTRUCTIONS = instruction_words(DESIGN, "npu1").tobytes()
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
