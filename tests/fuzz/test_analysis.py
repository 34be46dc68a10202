"""Any table that a reader may make of a file is explained, and the explanation is strict JSON."""

import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.analysis.analyze import analyze
from npuscope.analysis.compare import compare_profiles
from npuscope.errors import ComparisonError
from npuscope.profile.tables import make_profile
from npuscope.report.document import to_json
from tests.profiles import columns

TIMES = st.none() | st.integers(-10, 10_000) | st.integers(0, 10**13)
TEXTS = st.none() | st.sampled_from(["", "Tensor", "DMA", "Sync", "MATMUL", "EVENT_SEMAPHORE", "TRANSPOSE", "x" * 40])
OPERANDS = st.none() | st.sampled_from(
    ["", "S[5] (Tensor)>=1", "src=fp32@0x1[1][512] 128*128", " 0*0", "9999*9999", "\0$S[2]=="]
)
INSTRUCTION = st.fixed_dictionaries(
    {
        "start_ts": TIMES,
        "duration_ns": TIMES,
        "engine": TEXTS,
        "opcode": TEXTS,
        "operands": OPERANDS,
        "evt_wait_time_ns": TIMES,
        "compiler_pc": st.none() | st.integers(0, 5),
        "tensor_elements": TIMES,
        "tensor_instruction_type": TEXTS,
    }
)
PACKET = st.fixed_dictionaries(
    {
        "start_ts": TIMES,
        "duration_ns": TIMES,
        "transfer_bytes": TIMES,
        "engine_idx": TIMES,
        "queue_name": TEXTS,
        "queue_type": TEXTS,
    }
)
EVENT = st.fixed_dictionaries({"start_ts": TIMES, "duration_ns": TIMES, "thread_name": TEXTS, "thread_id": TIMES})
THROTTLE = st.fixed_dictionaries(
    {"timestamp": TIMES, "duration": TIMES, "k": st.integers(-1, 9), "n": st.integers(-1, 9)}
)
SUMMARY = st.dictionaries(
    st.sampled_from(
        ["total_time", "model_flops", "hardware_flops", "transpose_flops", "hbm_read_bytes", "spill_reload_bytes"]
    ),
    st.none() | st.integers(0, 10**15),
)


@st.composite
def profiles(draw):
    rows = {
        "Instruction": st.lists(INSTRUCTION, max_size=8),
        "DmaPacket": st.lists(PACKET, max_size=6),
        "SystemProfileEvents": st.lists(EVENT, max_size=20),
        "Throttle": st.lists(THROTTLE, max_size=3),
        "Summary": SUMMARY.map(lambda row: [row] if row else []),
        "VendorSummary": SUMMARY.map(lambda row: [row] if row else []),
    }
    tables = {name: columns(made) for name, strategy in rows.items() if (made := draw(strategy))}
    device = draw(st.sampled_from([None, "inf2.xlarge", "trn2", "\x1b[2J"]))
    tables["Metadata"] = {"is_simulation": [draw(st.booleans())], "device": [device]}
    return make_profile(tables, source="fuzz", strict=False)


@settings(max_examples=80, deadline=None)
@given(profiles())
def test_any_tables_are_explained_in_strict_json(profile):
    found = analyze(profile)
    document = json.loads(to_json(found.document()))
    assert document["is_simulated"] is profile.is_simulation
    shares = document["bound"]["shares"].values()
    if document["kernel_time"] and document["kernel_time"]["window_ns"]:
        assert math.isclose(sum(shares), 1, abs_tol=1e-9)
        window_ns = document["kernel_time"]["window_ns"]
        assert math.isclose(sum(document["overlap"]["concurrency_ns"]), window_ns, rel_tol=1e-9)


@settings(max_examples=40, deadline=None)
@given(profiles(), profiles())
def test_any_two_profiles_are_compared_or_refused(left, right):
    try:
        found = compare_profiles([left, right], different_work=True, across_devices=True)
    except ComparisonError:
        return
    json.loads(to_json(found))
