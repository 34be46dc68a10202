"""Reading NTFF: what each record becomes, on captures written for the purpose."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.errors import FormatError
from npuscope.formats.ntff import Clock, parse_ntff
from npuscope.formats.ntff_profile import profile_of_bytes
from npuscope.formats.ntff_records import RECORD, Leftover, _pair, to_ps
from tests.writers.ntff import (
    DRAIN,
    SCALAR,
    TENSOR,
    Capture,
    activate,
    instruction,
    ldweights,
    matmul,
    small_capture,
)


def read(capture: Capture, **changes):
    for name, value in changes.items():
        setattr(capture, name, value)
    return profile_of_bytes(capture.data(), source="made.ntff")


def rows(profile, table, *names):
    return [tuple(row[name] for name in names) for row in profile.table(table).to_pylist()]


def test_instructions_start_at_the_end_of_the_begin_marker_and_what_is_before_is_told():
    profile = read(small_capture())
    assert rows(profile, "Instruction", "engine", "pc", "opcode", "start_ts", "duration_ns")[:3] == [
        ("Sync", 0, "EVENT_SEMAPHORE", 5, 40),
        ("Tensor", 1, "LDWEIGHTS", 50, 30),
        ("Tensor", 2, "MATMUL", 82, 68),
    ]
    assert any(note.startswith("2 instructions before the begin marker") for note in profile.notes)


def test_an_unknown_opcode_is_named_by_its_number():
    assert ("OP_0x7f", 875) in rows(read(small_capture()), "Instruction", "opcode", "start_ts")


def test_an_instruction_outside_every_image_keeps_its_time():
    capture = small_capture()
    capture.run(SCALAR, 500, 1000, 1100)
    profile = read(capture)
    assert ("Scalar", "Scalar", "OP_UNKNOWN", 450, 50) in rows(
        profile, "Instruction", "engine", "timeline_track", "opcode", "start_ts", "duration_ns"
    )
    assert any("outside the images" in note for note in profile.notes)


def test_the_wait_is_counted_at_1_4_cycles_a_nanosecond():
    assert set(rows(read(small_capture()), "Instruction", "opcode", "evt_wait_time_ns")) >= {
        ("MATMUL", 10),
        ("ACTIVATE", 0),
    }


def test_a_matmul_whose_result_is_loaded_as_weights_is_guessed_to_transpose():
    found = rows(read(small_capture()), "Instruction", "opcode", "pc", "tensor_instruction_type", "is_estimated")
    assert [row for row in found if row[0] in {"MATMUL", "LDWEIGHTS"}] == [
        ("LDWEIGHTS", 1, "TRANSPOSE", True),
        ("MATMUL", 2, "TRANSPOSE", True),
        ("LDWEIGHTS", 3, "REGULAR", True),
        ("MATMUL", 4, "REGULAR", True),
    ]


def test_a_wide_result_that_is_loaded_as_weights_is_no_transpose():
    capture = small_capture()
    capture.images[TENSOR][2] = matmul(0x2000, 0x2000000, 512)
    kinds = rows(read(capture), "Instruction", "opcode", "tensor_instruction_type")
    assert ("MATMUL", "TRANSPOSE") not in kinds


def test_summary_counts_flops_of_transposes_apart():
    summary = read(small_capture()).summary
    assert (summary["hardware_flops"], summary["transpose_flops"]) == (2 * 128 * 128 * 640, 2 * 128**3)
    assert summary["matmul_instruction_count"] == 2
    assert summary["total_time"] == pytest.approx(1e-6)


def test_queue_types_follow_from_how_a_ring_is_listed():
    assert rows(read(small_capture()), "DmaPacket", "queue_name", "queue_type", "duration_ns", "transfer_bytes") == [
        ("qSyncSpillReload0-Q1-E0", "data", 30, 2048),
        ("qSyncSpillReload0-Q1-E1", "data", 22, 2048),
        ("qSyncSpillReload0-Q1-E0", "data", 28, 4),
        ("Q14-E3", "instruction", 5, 64),
        ("Q0-E0", "software_dynamic", 45, 65536),
    ]


def test_a_static_queues_transfer_spans_its_packets_and_counts_those_that_carry_data():
    assert rows(read(small_capture()), "DmaPacketAggregated", "start_ts", "duration_ns", "transfer_bytes") == [
        (10, 33, 4096)
    ]


def test_events_are_counted_and_only_semaphores_become_rows():
    profile = read(small_capture())
    assert rows(profile, "SemaphoreUpdate", "timestamp", "id", "value") == [(25, "2", 1), (100, "S[5] (Tensor)", 1)]
    assert profile.summary["event_count"] == 3


def test_the_last_throttle_limit_holds_until_the_last_instruction_ends():
    assert rows(read(small_capture()), "Throttle", "timestamp", "duration", "k", "n", "type") == [
        (2, 197, 1, 1, "unknown"),
        (200, 705, 7, 8, "activity_0"),
    ]


def test_runtime_instructions_have_no_compiler_pc_and_removed_ones_shift_the_others():
    capture = small_capture()
    capture.edits = {TENSOR: [(0, 2, 0), (3, 1, 2)]}
    found = dict(
        row[1:] for row in rows(read(capture), "Instruction", "engine", "pc", "compiler_pc") if row[0] == "Tensor"
    )
    assert found == {1: None, 2: 0, 3: 2, 4: 3, 5: 4}


def test_without_a_begin_marker_everything_counts_and_that_is_told():
    capture = small_capture()
    capture.images[TENSOR][0] = instruction(DRAIN)
    profile = read(capture)
    assert len(rows(profile, "Instruction", "pc")) == 11
    assert any("no begin marker" in note for note in profile.notes)


def test_orphans_of_every_kind_are_counted():
    capture = small_capture()
    capture._add(0, 1, 2, 0, 0x84, 0, 700)  # a start without an end
    capture._add(0, 3, 2, 0, 0x85, 0, 700)  # an end without a start
    capture._add(0, 3, 2, 0, 0x86, 0, 700)  # no known stream
    capture._add(4, 0, 0, 0, 0x80, 3, 700)  # no known DMA step
    capture._add(4, 0, 0, 0, 0x90, 1, 700)  # no such DMA engine
    capture._add(2, 0, 0, 0, 0x90, 1, 700)
    told = sorted(note for note in read(capture).notes if "left over" in note)
    assert told == sorted(
        f"1 trace records were left over: {reason}"
        for reason in (
            "starts of Tensor instructions without an end",
            "ends of Tensor instructions without a start",
            "instruction records of unknown streams",
            "DMA records of unknown steps",
            "DMA records of unknown streams",
            "in blocks of unknown kind 2",
        )
    )


def test_an_unknown_instance_type_gives_no_utilisation_and_says_so():
    profile = read(small_capture(), instance_type="trn9.huge")
    assert "mfu_estimated_percent" not in profile.summary
    assert "hardware_flops" in profile.summary
    assert any("trn9.huge" in note for note in profile.notes)


@pytest.mark.parametrize(
    ("change", "where", "words"),
    [
        (lambda d: b"", "", "empty file"),
        (lambda d: d[:50], "byte 50", "128-byte header"),
        (lambda d: b"\x07" + d[1:], "byte 0", "version 7"),
        (lambda d: b"\x81" + d[1:], "byte 0", "version 129"),
        (lambda d: d[:1] + struct.pack("<Q", 1 << 60) + d[9:], "byte 1", "truncated"),
        (lambda d: d[:-1], "byte", "truncated"),
        (lambda d: d[:128] + b"\x0b" + d[129:], "byte 128", "wire type 3"),
    ],
)
def test_damage_is_one_error_with_the_byte(change, where, words):
    data = small_capture().data()
    with pytest.raises(FormatError) as caught:
        parse_ntff(change(data), source="made.ntff")
    assert "made.ntff" in str(caught.value)
    assert where in str(caught.value)
    assert words in str(caught.value)


def test_a_clock_that_divides_by_zero_is_refused():
    with pytest.raises(FormatError, match="clock ratio"):
        read(small_capture(), clock=(0, 5))


def test_a_missing_clock_is_refused():
    capture = parse_ntff(small_capture().data(), source="x")
    capture.subgraphs[0].clocks.pop(6)
    from npuscope.formats.ntff_profile import ntff_profile

    with pytest.raises(FormatError, match="clock entry 6"):
        ntff_profile(capture)


@given(
    ticks=st.lists(st.integers(0, (1 << 40) - 1), max_size=20),
    base=st.integers(0, 1 << 40),
    p=st.integers(1, (1 << 31) - 1),
    q=st.integers(1, (1 << 31) - 1),
)
@settings(max_examples=200, deadline=None)
def test_ticks_become_the_picoseconds_of_exact_integer_arithmetic(ticks, base, p, q):
    exact = [(tick - base) * q // p for tick in ticks]
    if any(abs(value) > 1 << 61 for value in exact):
        return
    assert to_ps(np.array(ticks, np.uint64), Clock(base, p, q), "x").tolist() == exact


def test_a_time_53_days_off_is_damage():
    with pytest.raises(FormatError, match="near the base"):
        to_ps(np.array([1 << 63], np.uint64), Clock(0, 1024, 731408), "x")


def naive_pairs(keys, opens):
    """First in first out, one record at a time."""
    waiting, pairs, orphans = {}, [], 0
    for index, (key, is_start) in enumerate(zip(keys, opens, strict=True)):
        if is_start:
            waiting.setdefault(key, []).append(index)
        elif waiting.get(key):
            pairs.append((waiting[key].pop(0), index))
        else:
            orphans += 1
    return sorted(pairs), sum(map(len, waiting.values())), orphans


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60))
@settings(max_examples=300, deadline=None)
def test_pairs_are_those_of_a_queue_per_key(records):
    keys, opens = [key for key, _ in records], [is_start for _, is_start in records]
    leftover = Leftover()
    first, last = _pair((np.array(keys, np.uint16),), np.array(opens, bool), ["of x"], leftover)
    pairs, starts, ends = naive_pairs(keys, opens)
    assert sorted(zip(first.tolist(), last.tolist(), strict=True)) == pairs
    assert leftover.counts.get("starts of x without an end", 0) == starts
    assert leftover.counts.get("ends of x without a start", 0) == ends


def test_pairs_of_a_key_in_two_parts_stay_within_both():
    low, high = np.array([1, 1, 1, 1], np.uint16), np.array([0, 1, 1, 0], np.uint8)
    first, last = _pair((low, high), np.array([True, True, False, False]), ["of x", "of y"], Leftover())
    assert list(zip(first.tolist(), last.tolist(), strict=True)) == [(0, 3), (1, 2)]


def test_a_record_has_16_bytes():
    assert RECORD.itemsize == 16


def test_an_unknown_dtype_has_no_bytes_and_says_its_code():
    capture = Capture(images={TENSOR: [ldweights(0, dtype=3)], SCALAR: [activate(0x2000000, 0, 4, (3, 7))]})
    capture.run(TENSOR, 0, 1, 2)
    capture.run(SCALAR, 0, 1, 2)
    found = rows(read(capture), "Instruction", "operands", "sbuf_read_bytes", "psum_read_bytes")
    assert all("dtype_3@" in text for text, _, _ in found)
    assert {row[1:] for row in found} == {(0, 0)}


def test_sub_graphs_share_one_time_axis_and_their_utilisation_is_withheld():
    first, second = small_capture(), small_capture()
    second.records = {
        kind: [(*row[:5], row[5] + 5000) for row in rows] for kind, rows in second.records.items()
    }  # 2.5 µs later
    profile = profile_of_bytes(first.data(others=(second,)), source="two.ntff")
    alone = read(small_capture())
    starts = sorted(profile.numbers("Instruction", "start_ts").tolist())
    once = sorted(alone.numbers("Instruction", "start_ts").tolist())
    assert starts == sorted([*once, *(start + 2500 for start in once)])
    assert sorted(profile.numbers("Instruction", "id").tolist()) == list(range(18))
    assert set(profile.numbers("Instruction", "pcore_idx").tolist()) == {0, 1}
    busy = alone.summary["tensor_engine_active_time"]
    assert profile.summary["tensor_engine_active_time"] == pytest.approx(2 * busy)
    assert profile.summary["total_time"] == pytest.approx((1900 - 90 + 5000) * 0.5e-9)
    assert "mfu_estimated_percent" not in profile.summary
    assert any("2 sub-graphs" in note for note in profile.notes)
