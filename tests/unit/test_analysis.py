"""Where time goes: windows, engines, overlap, bounds and what limits a kernel, on profiles small enough to check by hand."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.analysis.analyze import analyze
from npuscope.analysis.bound import KINDS, awaited_text
from npuscope.analysis.constants import chip_name, constants_of
from npuscope.analysis.instruction_mix import instruction_mix
from npuscope.analysis.kernel_time import kernel_time
from npuscope.analysis.timeline import busy_sets, read_resources
from npuscope.profile.intervals import merge
from npuscope.report.document import to_json
from tests.profiles import instruction, packet, small_profile


def pipeline():
    """10 µs: DMA for 8, Tensor for 4 of which 3 under the DMA, Scalar for 1 alone, and 0.5 in which nothing is active."""
    return small_profile(
        [
            instruction("Tensor", "MATMUL", 5_000, 4_000),
            instruction("Scalar", "ACTIVATE", 9_000, 500, operands="S[5] (Tensor)>=1 COPY"),
            instruction("Scalar", "ACTIVATE", 9_500, 500),
            instruction("Sync", "EVENT_SEMAPHORE", 0, 10_000),
        ],
        [packet(0, 3_000), packet(3_000, 5_000)],
        summary={"total_time": 10e-6},
    )


def cold(gap_ns=1_860_000, before=1_000, after=6_000):
    start = before + gap_ns
    return small_profile(
        [
            instruction("Tensor", "DRAIN", 0, before, compiler_pc=1),
            instruction("Vector", "EVENT_SEMAPHORE", 0, start, compiler_pc=1),
            instruction("Tensor", "MATMUL", start, after, compiler_pc=2),
            instruction("Tensor", "DRAIN", start + after + 500, 300),
        ],
        summary={"total_time": (start + after + 800) / 1e9},
    )


# the kernel's window


def test_a_cold_capture_reports_its_active_window_and_not_total_time():
    kernel = analyze(cold()).kernel_time
    assert kernel.is_cold
    assert kernel.segments == ((0, 1_000), (1_861_000, 1_867_000))
    assert (kernel.ns, kernel.startup_ns, kernel.total_ns) == (7_000, 1_860_000, 1_867_800)
    assert "cold" in kernel.basis


def test_a_warm_execution_reports_total_time():
    kernel = analyze(pipeline()).kernel_time
    assert not kernel.is_cold
    assert (kernel.ns, kernel.window_ns) == (10_000, 10_000)


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        (cold(gap_ns=150_000), "shorter than any start-up"),
        (cold(before=40_000, after=6_000), "after most of the work"),
        (cold(after=40_000_000), "a small part of the capture"),
    ],
)
def test_a_gap_is_no_start_up_when_it_is(profile, why):
    assert not analyze(profile).kernel_time.is_cold


def test_a_simulation_is_never_cold():
    profile = cold()
    tables = {**profile.tables, "Metadata": small_profile(metadata={"is_simulation": True}).tables["Metadata"]}
    simulated = type(profile)(tables, "sim")
    found = analyze(simulated)
    assert found.is_simulated
    assert not found.kernel_time.is_cold


def test_an_instruction_of_no_length_ends_the_gap():
    profile = small_profile(
        [
            instruction("GpSimd", "DRAIN", 0, 100),
            instruction("GpSimd", "DMA_DIRECT2D", 2_000_000, 0),
            instruction("Tensor", "MATMUL", 2_000_300, 5_000),
        ]
    )
    assert analyze(profile).kernel_time.segments[-1] == (2_000_000, 2_005_300)


def test_the_window_leaves_out_the_runtimes_instructions_where_the_artifact_tells_them_apart():
    profile = small_profile(
        [
            instruction("Sync", "DRAIN", 0, 900),
            instruction("Tensor", "MATMUL", 1_000, 500, compiler_pc=3),
            instruction("Sync", "DRAIN", 1_500, 500),
        ],
        [packet(900, 50, queue_type="instruction"), packet(1_200, 600)],
    )
    kernel = kernel_time(profile, read_resources(profile))
    assert kernel.segments == ((1_000, 1_800),)
    assert kernel.program_instructions == 1


def test_a_profile_without_events_is_explained_as_one():
    found = analyze(small_profile())
    assert found.kernel_time is None
    assert found.bound.kind == "unknown"
    assert found.findings == ()
    assert json.loads(to_json(found.document()))["engines"] == []


# engines


def test_semaphore_waits_are_no_activity_and_overlapping_instructions_count_once():
    profile = small_profile(
        [
            instruction("Tensor", "LDWEIGHTS", 0, 100),
            instruction("Tensor", "MATMUL", 50, 150),
            instruction("Tensor", "EVENT_SEMAPHORE", 200, 300),
            instruction("Scalar", "ACTIVATE", 500, 100, evt_wait_time_ns=200),
        ]
    )
    tensor, scalar = analyze(profile).engines
    assert (tensor.active_ns, tensor.instruction_time_ns, tensor.instruction_count) == (200, 250, 3)
    assert (tensor.wait_in_kernel_ns, tensor.idle_in_kernel_ns) == (300, 100)
    assert (scalar.wait_in_kernel_ns, scalar.idle_in_kernel_ns) == (200, 300)


def test_the_vendors_active_time_is_used_where_it_is_there():
    rows = [{"start_ts": 10, "end_ts": 70, "duration_ns": 60, "engine": "tensor", "pcore_idx": 0}]
    profile = small_profile([instruction("Tensor", "MATMUL", 0, 100)], ActiveTime=rows)
    (tensor,) = analyze(profile).engines
    assert (tensor.active_ns, tensor.basis) == (60, "ActiveTime")


def test_picoseconds_are_used_where_they_exist_and_never_mixed_with_nanoseconds():
    exact = [
        instruction("Tensor", "MATMUL", 0, 10, start_ps=900, duration_ps=10_800, end_ts=11),
        instruction("Tensor", "MATMUL", 11, 10, start_ps=11_700, duration_ps=10_800, end_ts=22),
    ]
    packets = [packet(30, 4, start_ps=30_250, duration_ps=4_500)]
    rows = [
        {"start_ts": 0, "end_ts": 22, "duration_ns": 21, "engine": "tensor", "start_ps": 900, "duration_ps": 21_600}
    ]
    for tables in ({}, {"ActiveTime": rows}):
        tensor, dma = analyze(small_profile(exact, packets, **tables)).engines
        assert (tensor.active_ns, tensor.instruction_time_ns, dma.active_ns) == (21.6, 21.6, 4.5)
    kernel = analyze(small_profile(exact, packets)).kernel_time
    assert kernel.segments == ((0.9, 34.75),)


def test_times_of_the_vendors_json_which_rounds_down_are_taken_without_bias():
    rows = [instruction("Tensor", "MATMUL", 0, 10), instruction("Tensor", "MATMUL", 20, 9)]
    stated = [
        {"start_ts": 0, "end_ts": 11, "duration_ns": 10, "engine": "tensor"},
        {"start_ts": 20, "end_ts": 29, "duration_ns": 9, "engine": "tensor"},
    ]
    source = {"source_format": "neuron-json"}
    (alone,) = analyze(small_profile(rows, metadata=source)).engines
    assert (alone.active_ns, alone.instruction_time_ns) == (20, 20)  # 10.5 + 9.5
    (told,) = analyze(small_profile(rows, metadata=source, ActiveTime=stated)).engines
    assert (told.active_ns, told.instruction_time_ns) == (20, 20)
    (plain,) = analyze(small_profile(rows, ActiveTime=stated)).engines
    assert plain.instruction_time_ns == 19


def trace(slices, **more):
    rows = [
        {
            "id": i,
            "name": "k",
            "start_ts": s,
            "duration_ns": d,
            "end_ts": s + d,
            "process_id": p,
            "thread_id": t,
            **more,
        }
        for i, (p, t, s, d) in enumerate(slices)
    ]
    return small_profile(SystemProfileEvents=rows, metadata={"device": "gpu", "instance_type": None})


def test_what_limits_a_trace_without_engines_is_not_told():
    found = analyze(trace([(1, 7, 0, 100), (1, 8, 900, 100)]))
    assert (found.bound.kind, found.bound.capture_kind, found.bound.confidence) == ("unknown", "unknown", "none")
    assert found.bound.shares == {"pid 1 / tid 7": 0.1, "pid 1 / tid 8": 0.1, "idle": 0.8}
    assert found.bound.statement.startswith("busiest track: pid 1 / tid 7, 10.0 % of the time")
    assert (found.bounds, found.engine_bounds, found.dma, found.instruction_mix) == ((), (), None, None)
    (idle,) = found.findings
    assert (idle.rule, idle.severity, idle.gain.ns) == ("idle-gaps", "low", None)
    assert not any(word in idle.cause + idle.action for word in ("engine", "DMA", "SBUF", "tile", "kernel"))


def test_slices_within_slices_of_one_track_count_once():
    nested = [(1, 7, 0, 100), (1, 7, 10, 50), (1, 7, 20, 10), (1, 7, 90, 20), (1, 8, 0, 105)]
    found = analyze(trace(nested))
    use = found.engines[0]
    assert (use.name, use.active_ns, use.instruction_time_ns, use.instruction_count) == ("pid 1 / tid 7", 110, 110, 4)


def test_the_busiest_tracks_are_kept_apart_by_the_time_that_they_cover():
    nested = [(1, 99, 0, 100)] * 50
    flat = [(1, tid, 200 + 300 * tid, 250) for tid in range(60)]
    found = analyze(trace([*nested, *flat]))
    assert len(found.engines) == 40
    assert found.engines[-1].name == "22 other tracks"
    assert "pid 1 / tid 99" not in {use.name for use in found.engines}
    assert sum(use.instruction_count for use in found.engines) == 110


def test_tracks_of_one_name_are_told_apart():
    found = analyze(trace([(1, 7, 0, 10), (2, 7, 0, 10), (2, 8, 0, 10)], process_name="p", thread_name="t"))
    assert [use.name for use in found.engines] == ["p / t (1:7)", "p / t (2:7)", "p / t (2:8)"]


def test_a_trace_without_engines_is_explained_by_track():
    found = analyze(trace([(1, 7, 0, 100), (1, 8, 50, 100), (1, 7, 150, 100)]))
    assert {use.name: use.active_ns for use in found.engines} == {"pid 1 / tid 7": 200, "pid 1 / tid 8": 100}
    assert found.overlap.concurrency_ns == (0, 200, 50)
    assert sum(found.bound.shares.values()) == pytest.approx(1)


# overlap


def test_overlap_is_time_and_concurrency_sums_to_the_window():
    overlap = analyze(pipeline()).overlap
    pairs = {(pair.first, pair.second): pair.overlap_ns for pair in overlap.pairs}
    assert pairs["Tensor", "DMA"] == 3_000
    assert pairs["Scalar", "DMA"] == 0
    assert overlap.concurrency_ns == (0, 7_000, 3_000)
    assert sum(overlap.concurrency_ns) == overlap.window_ns == 10_000
    assert overlap.alone_ns["DMA"] == 5_000


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60)), max_size=12), min_size=1, max_size=5))
def test_busy_sets_count_every_nanosecond_as_a_grid_does(rows):
    sets = []
    grid = np.zeros(400, np.int64)
    for bit, spans in enumerate(rows):
        start = np.array([s for s, _ in spans], np.int64)
        end = np.array([s + d for s, d in spans], np.int64)
        sets.append(merge(start, end))
        on = np.zeros(400, bool)
        for s, d in spans:
            on[s : s + d] = True
        grid |= on.astype(np.int64) << bit
    masks, lengths = busy_sets(sets)
    ours = {mask: length for mask, length in zip(masks.tolist(), lengths.tolist(), strict=True) if mask}
    counted = {mask: int((grid == mask).sum()) for mask in np.unique(grid).tolist() if mask}
    assert ours == counted


# what limits the kernel


def test_what_hides_behind_a_busier_resource_does_not_limit():
    bound = analyze(pipeline()).bound
    assert bound.shares["dma"] == pytest.approx(0.8)
    assert bound.shares["tensor"] == pytest.approx(0.1)
    assert bound.shares["scalar"] == pytest.approx(0.1)
    assert (bound.kind, bound.runner_up, bound.confidence) == ("dma", "tensor", "high")
    assert set(bound.shares) == set(KINDS)
    assert sum(bound.shares.values()) == pytest.approx(1)


def test_time_with_nothing_active_is_a_dependency_told_by_what_ended_it():
    profile = small_profile(
        [
            instruction("Tensor", "MATMUL", 0, 100),
            instruction("Scalar", "ACTIVATE", 300, 50, operands="S[5] (Tensor)>=1 COPY"),
            instruction("GpSimd", "DMA_DIRECT2D", 350, 0),
            instruction("Tensor", "MATMUL", 1_000, 50, operands="S[24] (qGpSimdDynamic)>=16 src=fp16"),
        ],
        [packet(600, 100)],
    )
    bound = analyze(profile).bound
    assert bound.kind == "dependency"
    assert bound.dependency_ns == {
        "completion of a DMA on qGpSimdDynamic": 300,
        "DMA on its way: until its first packet": 250,
        "result of Tensor": 200,
    }
    assert bound.shares["dependency"] == pytest.approx(750 / 1050)


def test_a_cold_capture_is_limited_by_launch_as_a_whole_and_by_its_work_within_the_window():
    bound = analyze(cold()).bound
    assert bound.capture_kind == "launch"
    assert bound.kind == "tensor"
    assert sum(bound.capture_shares.values()) == pytest.approx(1)


def test_an_instruction_of_no_length_divides_the_time_in_which_nothing_is_active():
    profile = small_profile(
        [
            instruction("Scalar", "ACTIVATE", 0, 100),
            instruction("GpSimd", "DMA_DIRECT2D", 400, 0, operands="S[4] (Scalar)>=1"),
            instruction("GpSimd", "EVENT_SEMAPHORE", 300, 0, operands="S[9] (Vector)>=1"),
        ],
        [packet(900, 100)],
    )
    assert analyze(profile).bound.dependency_ns == {
        "DMA on its way: until its first packet": 500,
        "result of Scalar": 300,
    }


@pytest.mark.parametrize(
    ("operands", "what"),
    [
        ("S[24] (qGpSimdDynamic)>=16 src=fp16@0x1", "completion of a DMA on qGpSimdDynamic"),
        ("S[5] (Tensor)>=2 S[4] (Scalar)++@complete", "result of Tensor"),
        ("setter=0 $S[2]==3 $S[2]++@complete", "a barrier of the runtime"),
        ("COPY bias_imm=0", ""),
    ],
)
def test_what_an_instruction_waits_for_is_read_from_its_operands(operands, what):
    assert awaited_text(operands) == what


# bounds, roofline, constants


def test_roofline_is_taken_over_the_kernels_time():
    summary = {
        "total_time": 10e-6,
        "model_flops": 2 * 128**3,
        "hardware_flops": 4 * 128**3,
        "transpose_flops": 2 * 128**3,
        "hbm_read_bytes": 65536,
        "hbm_write_bytes": 32768,
    }
    profile = small_profile([instruction("Tensor", "MATMUL", 0, 10_000)], summary=summary)
    roof = analyze(profile).roofline
    peak = 2 * 128 * 128 * 2.8e9
    assert roof.hfu == pytest.approx(4 * 128**3 / (peak * 10e-6))
    assert roof.mfu == pytest.approx(roof.hfu / 2)
    assert roof.mbu == pytest.approx(98304 / 10e-6 / 410e9)
    assert roof.arithmetic_intensity_flop_per_byte == pytest.approx(2 * 128**3 / 98304)
    assert roof.ridge_flop_per_byte == pytest.approx(peak / 410e9)
    assert roof.side == "memory"
    assert roof.position == pytest.approx(roof.mbu)


def test_bounds_follow_the_documented_formulas():
    bounds = {bound.name: bound for bound in analyze(pipeline()).bounds}
    assert bounds["memory"].window_ns == 8_000
    assert bounds["memory ideal"].window_ns == pytest.approx(8192 / 435e9 * 1e9)
    assert bounds["compute"].window_ns == 4_000
    assert bounds["perfect pipeline"].share_of_kernel == pytest.approx(0.8)


def test_constants_come_from_metadata_and_else_from_the_hardware_facts():
    told = constants_of(small_profile())
    assert told.sources["hbm_bytes_per_s"] == "Metadata"
    bare = small_profile(metadata=dict.fromkeys(("hbm_ddr_bandwidth", "dma_ddr_bandwidth", "tensor_engine_clock_freq")))
    facts = constants_of(bare)
    assert facts.sources["hbm_bytes_per_s"] == "hardware facts of inf2"
    assert facts.hbm_bytes_per_s == 410e9
    assert facts.tensor_flops_per_s == told.tensor_flops_per_s


def test_the_peaks_that_the_reader_of_an_ntff_put_into_metadata_are_told_as_hardware_facts():
    found = constants_of(small_profile(metadata={"source_format": "ntff"}))
    assert set(found.sources.values()) == {"hardware facts of inf2"}
    assert found.hbm_bytes_per_s == 410e9
    told = constants_of(small_profile(metadata={"source_format": "neuron-parquet"}))
    assert set(told.sources.values()) == {"Metadata"}


@pytest.mark.parametrize(
    ("device", "chip"), [("inf2.xlarge", "inf2"), ("trn1n.32xlarge", "trn1"), ("sim:trn2", "trn2"), ("NVIDIA H200", "")]
)
def test_a_device_name_leads_to_its_chip(device, chip):
    assert chip_name(device) == chip


# the older rule, the vendor's summary


def test_the_older_rule_counts_names_and_is_told_beside_the_classification_by_time():
    names = ["LDWEIGHTS", "TENSOR_LOAD", "DMA_DIRECT2D", "TENSOR_STORE", "MATMUL", "DRAIN"]
    profile = small_profile([instruction("Tensor", name, 100 * i, 10) for i, name in enumerate(names)])
    mix = instruction_mix(profile, "tensor")
    assert (mix.memory_operations, mix.compute_operations, mix.other_operations) == (3, 1, 2)
    assert mix.memory_bound_score == 0.75
    assert (mix.verdict, mix.agrees_with_bound) == ("memory bound", False)


def test_figures_that_differ_from_the_vendors_are_listed():
    profile = small_profile(
        [instruction("Tensor", "MATMUL", 0, 1_000)],
        summary={"total_time": 1e-6, "hardware_flops": 100, "tensor_engine_active_time": 1.0e-6},
        VendorSummary=[{"total_time": 1.004e-6, "hardware_flops": 200, "tensor_engine_active_time": 1.001e-6}],
    )
    found = analyze(profile).vendor_difference
    assert [(item.field, item.relative) for item in found] == [("hardware_flops", -0.5)]
    assert analyze(pipeline()).vendor_difference is None


def test_the_document_begins_with_the_keys_that_scripts_rely_on():
    document = json.loads(to_json(analyze(pipeline()).document()))
    for key in ("device", "is_simulated", "summary", "bound", "engines", "overlap", "findings"):
        assert key in document
    for finding in document["findings"]:
        assert set(finding) == {"rule", "severity", "evidence", "cause", "action", "gain", "is_on_limiter"}
