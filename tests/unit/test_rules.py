"""Every rule on a profile that it applies to and on one that it does not."""

from dataclasses import fields

import pytest

from npuscope.analysis.analyze import analyze
from npuscope.analysis.findings import SEVERITIES, SHARES, Thresholds
from npuscope.analysis.rules import RULES, choose_rules
from npuscope.errors import UsageError
from npuscope.formats.artifact import read_profile
from npuscope.profile.tables import Profile
from tests.profiles import instruction, packet, small_profile
from tests.writers.neff import matmul_members, neff_bytes
from tests.writers.ntff import small_capture

UUID = "7097954499bb475e9f8266a2fbf587d9"
FULL_TILE = "src=fp16@0x2f730[1,0,0][512,1,1] dst=0x2000000[1,0,0][512,1,1] 128*128"


def matmul(start, duration, rows=128, columns=128, moving=512, dtype="fp16", **more):
    operands = (
        f"S[5] (Tensor)++@complete acc_flags=3 src={dtype}@0x2f730[1,0,0][{moving},1,1] dst=0x2000000 {rows}*{columns}"
    )
    return instruction(
        "Tensor", "MATMUL", start, duration, operands=operands, tensor_elements=rows * columns * moving, **more
    )


def busy(total_ns=1_000_000, extra=(), summary=None, packets=None, **tables):
    """One long matmul after another: nothing to complain about."""
    tiles = [matmul(start, 10_000) for start in range(0, total_ns, 10_000)]
    figures = {"total_time": total_ns / 1e9, **(summary or {})}
    moved = (
        packets
        if packets is not None
        else [
            packet(start, 9_000, 65536, engine_idx=start // 10_000 % 16, variable="a")
            for start in range(0, total_ns, 10_000)
        ]
    )
    return small_profile([*tiles, *extra], moved, summary=figures, **tables)


def waiting():
    """Tensor waits 6 of 10 µs for a DMA that is on its way."""
    return small_profile(
        [
            instruction("GpSimd", "DMA_DIRECT2D", 0, 10),
            matmul(6_000, 2_000, evt_wait_time_ns=6_000) | {"operands": f"S[24] (qGpSimdDynamic)>=16 {FULL_TILE}"},
            instruction("Scalar", "ACTIVATE", 8_000, 2_000),
        ],
        [packet(4_000, 1_000, variable="a")],
        summary={"total_time": 10e-6},
    )


def cold():
    return small_profile(
        [instruction("Tensor", "DRAIN", 0, 100), matmul(1_900_000, 9_000)], summary={"total_time": 1.909e-3}
    )


def spilling(reloaded):
    return busy(summary={"hbm_read_bytes": 1000, "spill_reload_bytes": reloaded, "spill_save_bytes": reloaded})


def transposing(turned, estimated=False):
    rows = [matmul(0, 1_000, tensor_instruction_type="TRANSPOSE", is_estimated=estimated), matmul(1_000, 9_000)]
    return small_profile(rows, summary={"total_time": 1e-5, "hardware_flops": 100, "transpose_flops": turned})


def throttled(k, n=8):
    return busy(Throttle=[{"timestamp": 0, "duration": 500_000, "k": k, "n": n, "type": "activity_0"}])


def paired(uuid):
    profile = busy(NeffHeader=[{"uuid": uuid}])
    tables = {**profile.tables, "Metadata": small_profile(metadata={"capture_uuid": UUID}).tables["Metadata"]}
    return Profile(tables, "paired")


def located(share):
    rows = [matmul(100 * i, 100, nki_source_location="k.py:7" if i < share * 100 else None) for i in range(100)]
    return small_profile(rows)


def collectives(durations):
    row = {"operation": "all_reduce", "algorithm": "ring", "num_elements": 64, "dtype": "bf16"}
    rows = [
        {**row, "start_ts": 20_000 * i, "duration_ns": d, "end_ts": 20_000 * i + d} for i, d in enumerate(durations)
    ]
    return busy(CcOp=rows)


def spread(sizes):
    return busy(packets=[packet(100 * i, 90, size, engine_idx=i, variable="a") for i, size in enumerate(sizes)])


def model_flops(share):
    return busy(summary={"model_flops": int(share * 2 * 128 * 128 * 2.8e9 * 1e-3)})


def warned(text):
    return busy(Warning=[{"category": "Missing Data", "message": text}])


def simulated(instructions, packets, read, inputs, **more):
    return small_profile(
        instructions,
        packets,
        metadata={"is_simulation": True, "source_format": "simulation", "device": "sim:trn1", **more},
        summary={"total_time": 1e-4, "hbm_read_bytes": read},
        TensorInfo=[{"type": "IN", "size": inputs}, {"type": "OUT", "size": 1 << 20}],
    )


def loading(times=4, run_bytes=256, moved_bytes=65536, **more):
    """DMA is busy 97 of 100 µs and moves 100 pieces of a size; 40 of them in line 7."""
    issues = [
        instruction(
            "Sync",
            "DMA_DIRECT2D",
            i * 1_000,
            1,
            operands=f"{1 + moved_bytes // run_bytes} x {run_bytes} B HBM -> SBUF",
            hbm_read_bytes=moved_bytes,
            nki_source_location=f"k.py:{7 if i < 60 else 8}",
        )
        for i in range(100)
    ]
    moved = [packet(i * 1_000, 970, moved_bytes, engine_idx=i % 16) for i in range(100)]
    return simulated([*issues, matmul(99_000, 1_000)], moved, 100 * moved_bytes, 100 * moved_bytes // times, **more)


def vector_bound(opcode="TENSOR_TENSOR", elements=512, dtype="bfloat16", share=0.9):
    rows = [
        instruction(
            "Vector",
            opcode,
            i * 1_000,
            round(1_000 * share),
            operands=f"128x{elements} {dtype} -> {dtype}",
            nki_source_location="k.py:9",
        )
        for i in range(100)
    ]
    return simulated([*rows, instruction("Scalar", "ACTIVATE", 0, 20_000)], [packet(0, 30_000)], 4096, 4096)


CASES = {
    "reloaded-inputs": (loading(), loading(times=1)),
    "short-dma-runs": (loading(moved_bytes=65536), loading(run_bytes=4096)),
    "engine-bound": (vector_bound(), vector_bound(share=0.5)),
    "at-limit": (loading(times=1, dma_ddr_bandwidth=68e9), loading(dma_ddr_bandwidth=68e9)),
    "cold-capture": (cold(), busy()),
    "neff-mismatch": (paired("11" * 16), paired(UUID)),
    "missing-notifications": (
        warned("Missing additional dynamic DMA metadata, try --enable-dge-notifs"),
        warned("Current NEFF is missing compiler metrics"),
    ),
    "idle-gaps": (waiting(), busy()),
    "launch-dominated": (busy(10_000), busy()),
    "low-overlap": (waiting(), busy()),
    "starved-engine": (waiting(), busy()),
    "throttling": (throttled(4), throttled(7)),
    "collective-outliers": (collectives([100, 110, 90, 900]), collectives([100, 110, 90, 120])),
    "transposes": (transposing(11), transposing(10)),
    "partial-tiles": (busy(10_000, [matmul(10_000, 90_000, rows=64)]), busy()),
    "fp32-matmul": (busy(10_000, [matmul(10_000, 9_000, dtype="fp32")]), busy()),
    "low-model-flops": (model_flops(0.49), model_flops(0.51)),
    "nki-coverage": (located(0.4), located(0.6)),
    "small-dma": (spread([128] * 4 + [4096] * 4), spread([4096] * 16)),
    "spills": (spilling(251), spilling(250)),
    "unbalanced-queues": (spread([65536, 4096, 4096, 4096]), spread([4096] * 4)),
}


def test_every_rule_has_a_case():
    assert set(CASES) == {rule.name for rule in RULES}
    assert len({rule.name for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("name", CASES)
def test_a_rule_applies_where_it_should_and_only_there(name):
    applies, does_not = CASES[name]
    (rule,) = choose_rules(name)
    found = analyze(applies, rules=[rule]).findings
    assert [finding.rule for finding in found] == [name]
    assert found[0].severity in SEVERITIES
    assert found[0].evidence
    assert found[0].cause
    assert found[0].action
    assert found[0].gain.basis
    assert found[0].gain.ns is None or found[0].gain.ns >= 0
    assert analyze(does_not, rules=[rule]).findings == ()


def test_inputs_read_again_name_their_lines_and_gain_what_the_next_resource_leaves():
    (found,) = analyze(loading(), rules=choose_rules("reloaded-inputs")).findings
    assert found.is_on_limiter
    assert found.evidence["times_read"] == 4
    assert list(found.evidence["hbm_read_bytes_by_line"]) == ["k.py:7", "k.py:8"]
    assert found.gain.ns == pytest.approx(0.75 * 97_000)


@pytest.mark.parametrize(("device", "limit", "count"), [("trn1", 7, 0), ("trn1", 6, 1), ("trn2", 7, 1)])
def test_the_permanent_limit_of_neuroncore_v2_is_no_finding(device, limit, count):
    profile = throttled(limit)
    tables = {**profile.tables, "Metadata": small_profile(metadata={"instance_type": device}).tables["Metadata"]}
    assert len(analyze(Profile(tables, "limited"), rules=choose_rules("throttling")).findings) == count


def test_a_simulations_launch_is_its_stated_total_without_the_window():
    rows = [instruction("Vector", "TENSOR_COPY", 0, 4_000)]
    profile = small_profile(rows, metadata={"is_simulation": True, "total_time_ps": 10_000_000})
    (finding,) = analyze(profile, rules=choose_rules("launch-dominated")).findings
    assert finding.evidence["runtime_overhead_ns"] == 6_000
    assert "capture" not in finding.cause


def test_no_gain_exceeds_what_the_busiest_other_resource_leaves():
    tiles = [matmul(i * 1_000, 800, dtype="fp32") for i in range(100)]
    profile = small_profile(tiles, [packet(i * 1_000, 900) for i in range(100)], summary={"total_time": 1e-4})
    (finding,) = analyze(profile, rules=choose_rules("fp32-matmul")).findings
    assert finding.gain.ns == pytest.approx(99_900 - 90_000)
    assert "no more than the busiest other resource leaves" in finding.gain.basis
    assert not finding.is_on_limiter


@pytest.mark.parametrize(
    ("profile", "advice"),
    [
        (vector_bound(), "scalar_tensor_tensor"),
        (vector_bound("TENSOR_COPY"), "move copies to Scalar"),
        (vector_bound(elements=16), "more elements per partition"),
        (vector_bound("TENSOR_REDUCE"), "fewer or larger instructions"),
    ],
)
def test_advice_for_a_busy_vector_engine_follows_what_it_runs(profile, advice):
    finding = analyze(profile).findings[0]
    assert finding.rule == "engine-bound"
    assert advice in finding.action
    assert finding.evidence["share_by_line"] == {"k.py:9": 1.0}
    assert finding.gain.ns is not None
    assert 0 < finding.gain.ns <= 99_900 - 30_000


def test_the_latency_of_the_first_load_is_not_to_be_hidden_by_double_buffering():
    rows = [
        instruction("Sync", "DMA_DIRECT2D", 0, 1),
        instruction("GpSimd", "MEMSET", 100, 100),
        instruction("Vector", "TENSOR_COPY", 6_000, 4_000),
    ]
    profile = small_profile(rows, [packet(4_000, 2_000)], summary={"total_time": 1e-5})
    (finding,) = analyze(profile, rules=choose_rules("idle-gaps")).findings
    assert finding.severity == "low"
    assert finding.gain.ns is None
    assert "first load" in finding.cause
    assert "double" not in finding.action


def test_an_engine_that_waits_for_busy_dma_is_not_told_to_prefetch():
    rows = [matmul(1_000 * i, 100, evt_wait_time_ns=900) for i in range(1, 100)]
    profile = small_profile(rows, [packet(i * 1_000, 950, 65536) for i in range(100)], summary={"total_time": 1e-4})
    assert analyze(profile, rules=choose_rules("starved-engine")).findings == ()


def test_a_starved_engine_waits_as_long_as_the_table_of_engines_says():
    explained = analyze(waiting(), rules=choose_rules("starved-engine"))
    (finding,) = explained.findings
    (tensor,) = [use for use in explained.engines if use.name == "Tensor"]
    assert finding.evidence["wait_ns"] <= tensor.wait_in_kernel_ns
    assert sum(finding.evidence["waited_for_ns"].values()) == pytest.approx(finding.evidence["wait_ns"])


def test_simulated_matmuls_of_part_of_the_array_and_of_fp32_are_found():
    tile = matmul(0, 90_000) | {"operands": "64x512 float32 -> float32", "tensor_elements": 64 * 128 * 512}
    found = {finding.rule: finding for finding in analyze(simulated([tile], [], 0, 0)).findings}
    assert found["partial-tiles"].evidence["array_fill"] == 0.5
    assert found["fp32-matmul"].evidence["fp32_share_of_matmul_time"] == 1


def test_the_six_rules_of_the_vendors_summary_page_are_marked():
    assert {rule.name for rule in RULES if rule.vendor} == {
        "low-model-flops",
        "nki-coverage",
        "throttling",
        "transposes",
        "collective-outliers",
        "spills",
    }


def test_of_a_steady_kernel_nothing_is_said_but_that_it_is_at_the_engines_limit():
    (finding,) = analyze(busy(summary={"model_flops": int(0.9 * 91.75e9)})).findings
    assert finding.rule == "at-limit"
    assert "at the limit of Tensor" in finding.cause
    assert finding.gain.ns is None


def test_findings_come_most_severe_first_and_the_captures_worth_before_its_advice():
    found = analyze(cold()).findings
    ranks = [SEVERITIES.index(finding.severity) for finding in found]
    assert ranks == sorted(ranks)
    assert found[0].rule == "cold-capture"


def test_an_estimated_transpose_is_marked_as_one():
    (rule,) = choose_rules("transposes")
    (finding,) = analyze(transposing(50, estimated=True), rules=[rule]).findings
    assert finding.evidence["is_estimate"] is True
    assert "estimated" in finding.cause
    (finding,) = analyze(transposing(50), rules=[rule]).findings
    assert finding.evidence["is_estimate"] is False


def test_an_estimated_gain_is_told_in_time_and_as_a_share_of_the_kernel():
    (rule,) = choose_rules("fp32-matmul")
    (finding,) = analyze(CASES["fp32-matmul"][0], rules=[rule]).findings
    assert finding.evidence["fp32_matmul_time_ns"] == 9_000
    assert finding.gain.ns == 6_750
    assert finding.gain.share_of_kernel == pytest.approx(6_750 / 10_000)


def test_a_cut_uuid_in_the_capture_is_no_mismatch():
    uuid = "70979544" + "00" + "bb475e9f8266a2fbf587d9"
    profile = busy(NeffHeader=[{"uuid": uuid}])
    tables = {**profile.tables, "Metadata": small_profile(metadata={"capture_uuid": "70979544"}).tables["Metadata"]}
    assert analyze(Profile(tables, "cut"), rules=choose_rules("neff-mismatch")).findings == ()


def test_short_moving_tiles_that_cost_nothing_are_no_finding():
    (rule,) = choose_rules("partial-tiles")
    assert analyze(busy(10_000, [matmul(10_000, 90_000, moving=160)]), rules=[rule]).findings == ()
    (finding,) = analyze(busy(10_000, [matmul(10_000, 90_000, moving=32)]), rules=[rule]).findings
    assert finding.severity == "low"
    assert finding.gain.ns == pytest.approx(45_000)


@pytest.mark.parametrize(
    ("given", "uuid", "found"),
    [
        (bytes.fromhex(UUID), bytes.fromhex(UUID), []),
        (b"\x11" * 16, bytes.fromhex(UUID), ["neff-mismatch"]),
        (b"\x70\x00" + b"\x11" * 14, b"\x70", []),  # undecidable: one byte to compare
        (b"\x70\x97\x95\x44\x11\x00" + b"\x22" * 10, b"\x70\x97\x95\x44\x11junk", []),
    ],
)
def test_a_capture_beside_the_neff_of_another_graph_is_a_finding(tmp_path, given, uuid, found):
    capture = small_capture()
    capture.uuid = uuid
    (tmp_path / "a.ntff").write_bytes(capture.data())
    (tmp_path / "a.neff").write_bytes(neff_bytes(matmul_members(), uuid=given))
    explained = analyze(read_profile(tmp_path / "a.ntff"), rules=choose_rules("neff-mismatch"))
    assert [finding.rule for finding in explained.findings] == found
    if found:
        assert explained.findings[0].severity == "high"
        assert explained.findings[0].evidence == {"capture_uuid": uuid.hex(), "neff_uuid": given.hex()}


# thresholds


@pytest.mark.parametrize("name", [rule.name for rule in RULES if rule.thresholds])
def test_a_rules_thresholds_are_fields_that_exist(name):
    (rule,) = choose_rules(name)
    for threshold in rule.thresholds:
        assert getattr(Thresholds(), threshold) >= 0


@pytest.mark.parametrize(
    ("name", "assignment"),
    [
        ("transposes", "transpose_share=12%"),
        ("spills", "spill_reload_share=0.3"),
        ("idle-gaps", "idle_share=0.9"),
        ("cold-capture", "cold_gap_ns=5e6"),
        ("unbalanced-queues", "dma_imbalance=10"),
        ("small-dma", "small_dma_bytes=64"),
        ("nki-coverage", "nki_coverage=0.3"),
        ("throttling", "throttle_share=0.9"),
        ("collective-outliers", "collective_factor=20"),
        ("low-model-flops", "model_to_active_flops=0.1"),
        ("fp32-matmul", "fp32_share=0.99"),
        ("starved-engine", "starved_share=0.9"),
        ("low-overlap", "overlap_share=0"),
    ],
)
def test_a_threshold_changes_when_its_rule_applies(name, assignment):
    limits = Thresholds().with_values([assignment])
    assert analyze(CASES[name][0], limits, choose_rules(name)).findings == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nonsense=1", "unknown threshold"),
        ("idle_share", "name=value"),
        ("idle_share=", "1% or 0.01"),
        ("idle_share=-1", "between 0 and 1"),
        ("idle_share=nan", "between 0 and 1"),
        ("transpose_share=30", "transpose_share '30' must lie between 0 and 1"),
        ("tile_fill=101%", "between 0 and 1"),
        ("nki_coverage=2", "between 0 and 1"),
        ("cold_gap_ns=10%", "at least 0"),
        ("dma_imbalance=-1", "at least 0"),
        ("small_dma_bytes=inf", "at least 0"),
    ],
)
def test_a_threshold_that_cannot_be_used_is_refused(text, told):
    with pytest.raises(UsageError, match=told):
        Thresholds().with_values([text])


def test_a_share_is_given_as_percent_or_as_a_fraction_ends_included():
    given = ["transpose_share=30%", "idle_share=0.3", "overlap_share=0", "tile_fill=100%", "dma_imbalance=3"]
    made = Thresholds().with_values(given)
    assert (made.transpose_share, made.idle_share, made.overlap_share) == (0.3, 0.3, 0)
    assert (made.tile_fill, made.dma_imbalance) == (1, 3)


def test_every_default_is_a_value_that_may_be_given():
    names = [item.name for item in fields(Thresholds)]
    assert Thresholds().with_values([f"{name}={getattr(Thresholds(), name)}" for name in names]) == Thresholds()
    assert {name for name in names if getattr(Thresholds(), name) < 1} == SHARES


def test_an_unknown_rule_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match="cold-capture"):
        choose_rules("cold-captures")
