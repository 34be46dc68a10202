"""What AWS's profiler prints and what lies in a folder of inputs: any of it ends in a value or in one FormatError."""

import io
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from npuscope.backends.neff_inputs import check_inputs, layout_inputs
from npuscope.errors import FormatError
from npuscope.formats.neff import read_neff
from npuscope.formats.session_table import parse_session_table
from tests.standins.profiler import SESSION
from tests.writers.neff import matmul_members, neff_bytes

COLUMNS = ("NODE ID", "EXEC TIME (NS)", "EXECUTOR", "NAME", "TRACE", "CYCLES", "EVENTS", "ERRORS")
counts = st.integers(0, (1 << 63) - 1)
cells = st.one_of(counts.map(str), st.sampled_from(["", "-1", "1,000", "x", "9" * 30, "ND 0 NC 4", "²", "NaN", "1.5"]))
SMALL = {"input0": (2, 3), "input1": (3, 4)}


@given(st.lists(st.lists(cells, min_size=7, max_size=9), max_size=5), st.permutations(COLUMNS), st.text(max_size=30))
def test_any_table_is_rows_or_one_error(rows, columns, before):
    text = "\n".join([before, "|".join(["", *columns, ""]), *("|".join(["", *row, ""]) for row in rows)])
    with suppress(FormatError):
        for row in parse_session_table(text, source="x"):
            assert row.duration_ns is None or row.duration_ns == row.ticks / 1000
            assert row.ticks is None or 0 <= row.ticks < 1 << 63


@given(st.lists(st.tuples(counts, counts, st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=20))
def test_a_table_that_the_tool_draws_is_read_as_it_is(rows):
    lines = [
        f"| {node} | 0 | ND {device} NC {core} | sg00 | 5 | {ticks} | 6 | 0 |" for node, ticks, device, core in rows
    ]
    made = parse_session_table("\n".join(["|" + "|".join(COLUMNS) + "|", "+---+", *lines]), source="x")
    assert [(row.node_id, row.ticks, row.device_idx, row.core_idx) for row in made] == rows


@given(st.integers(0, len(SESSION)), st.integers(0, 40), st.text(max_size=5))
def test_a_table_that_is_cut_or_changed_is_rows_or_one_error(at, length, put):
    with suppress(FormatError):
        assert parse_session_table(SESSION[:at] + put + SESSION[at + length :], source="x")


def small_neff():
    """A graph with two small inputs."""
    made = matmul_members()
    for name, shape in SMALL.items():
        size = str(2 * shape[0] * shape[1]).encode()
        old = {"input0": b"32768", "input1": b"131072"}[name]
        made["sg00/def.json"] = made["sg00/def.json"].replace(b'"size": ' + old, b'"size": ' + size, 1)
    made["sg00/tensor_map.json"] = b"{}"
    return neff_bytes(made)


def npy(shape, dtype="<f2"):
    out = io.BytesIO()
    np.save(out, np.zeros(shape, dtype))
    return out.getvalue()


ARRAY = npy((2, 3))
headers = st.builds(
    lambda descr, order, shape: npy_with(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"),
    st.sampled_from(
        ["'<f2'", "'|V2'", "'|O'", "'<f1'", "[('a', '<u1'), ('b', '<u1')]", "('<f2', (3,))", "'<M8[s]'", "'|S6'", "None", "''", "7"]
    ),
    st.sampled_from(["False", "True", "None", "1"]),
    st.sampled_from(["(2, 3)", "(6,)", "()", "(0,)", "(-2, -3)", "(2**62,)", "(9223372036854775807, 4)", "6", "(True, 6)", "'23'", "(1,) * 99"]),
)  # fmt: skip


def npy_with(header, data=bytes(12)):
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


mutated = st.builds(
    lambda at, put: ARRAY[:at] + put + ARRAY[at + len(put) :], st.integers(0, len(ARRAY)), st.binary(max_size=4)
)
contents = st.one_of(
    st.just(ARRAY),
    st.just(npy((3, 4))),
    headers,
    mutated,
    st.binary(max_size=40),
    st.sampled_from(
        [bytes(12), bytes(24), ARRAY[:-1], b"\x93NUMPY", b"\x93NUMPY\x03\x00\xff\xff\xff\xff", b"PK\x03\x04"]
    ),
)
file_names = st.sampled_from(
    ["input0.npy", "input0.bin", "input1.npy", "input1.bin", "inp-input0-000.bin", "inp-input1-000.bin", "inp-input1-001.bin",
     "input2.npy", "notes.txt", ".npy", "INPUT0.npy"]
)  # fmt: skip


@pytest.fixture(scope="module")
def neff(tmp_path_factory):
    path = tmp_path_factory.mktemp("neff") / "graph.neff"
    path.write_bytes(small_neff())
    assert [tensor.size_bytes for tensor in read_neff(path).contents.tensors][:2] == [12, 24]
    return path


def outcome(neff, folder, raw):
    """The inputs, or the error in words."""
    try:
        return layout_inputs(neff, folder, raw_dir=raw), ""
    except FormatError as error:
        return (), str(error)


@settings(max_examples=150)
@given(files=st.dictionaries(file_names, contents, max_size=4))
@example(files={"input0.npy": ARRAY, "input1.npy": npy((3, 4))})
@example(
    files={
        "input0.npy": npy_with("{'descr': '<f2', 'fortran_order': False, 'shape': (2**40,)}"),
        "input1.bin": bytes(24),
    }
)
@example(files={"input0.npy": npy_with("(" * 5000), "input1.bin": bytes(24)})
@example(files={"input0.npy": npy_with("{" * 9000), "input1.bin": bytes(24)})
def test_any_folder_of_inputs_fits_or_is_one_error_and_stays_as_it_is(files, neff):
    with tempfile.TemporaryDirectory() as place:
        folder, raw = Path(place) / "in", Path(place) / "raw"
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        made, told = outcome(neff, folder, raw)
        assert "\n" not in told
        if told:
            assert not raw.exists()
        else:
            assert [item.path.stat().st_size for item in made] == [12, 24]
            check_inputs(read_neff(neff), made)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_the_fuzzed_inputs_can_fit(neff, tmp_path):
    """Else the test above could not tell a reader that refuses everything."""
    (tmp_path / "input0.npy").write_bytes(ARRAY)
    (tmp_path / "input1.bin").write_bytes(bytes(24))
    assert len(layout_inputs(neff, tmp_path, raw_dir=tmp_path / "raw")) == 2
