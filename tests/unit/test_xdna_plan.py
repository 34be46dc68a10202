"""The search for a design: exhaustive, legal, explained."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.hardware.model import load_hardware
from npuscope.tiling.xdna_candidates import PlanRequest, candidate_edges
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.tiling.xdna_legality import mappings, unit, violations
from npuscope.tiling.xdna_plan import Plan, Rejected, judge, plan_matmul
from npuscope.tiling.xdna_time import calibration_for, dispatch_time

ARRAYS = {"npu1": load_hardware("xdna1"), "npu2": load_hardware("xdna2")}
OUT = {"bfloat16": "bfloat16", "int8": "int32", "int16": "int32"}


def planned(M, K, N, dtype="bfloat16", array="npu1", kernel_set="stock", **options):
    request = PlanRequest(M, K, N, dtype=dtype, out_dtype=OUT[dtype], **options)
    return request, plan_matmul(request, ARRAYS[array], calibration_for(array, kernel_set))


def design_of(plan, request):
    return XdnaDesign(
        plan.call_M,
        plan.call_K,
        plan.call_N,
        plan.tile_m,
        plan.tile_k,
        plan.tile_n,
        plan.rows,
        plan.columns,
        dtype=request.dtype,
        out_dtype=request.out_dtype,
        multiplication=request.multiplication,
        buffers_a=request.buffers[0],
        buffers_b=request.buffers[1],
        buffers_c=request.buffers[2],
    )


def test_the_seeds_matmul_needs_one_dispatch():
    _, found = planned(3001, 512, 512)
    best = found.plans[0]
    assert best.dispatches == found.fewest_dispatches == 1
    assert best.cores == 16
    assert (best.call_K, best.call_N) >= (512, 512)
    assert found.why_fewest.startswith("1 dispatch: K runs through on the device")


def test_the_seeds_tiles_are_rejected_with_their_bytes():
    _, found = planned(3001, 512, 512)
    by_tile = {(item.tile_m, item.tile_k, item.tile_n, item.cores): item for item in found.rejected}
    first, second = by_tile[64, 64, 512, 1], by_tile[128, 64, 512, 1]
    assert first.needed == (2 * (8 + 64 + 64)) * 1024 + 3328  # as planned: two buffers of each, and the stack
    assert first.limit == 65536
    assert "136 KB of 64 KB" in first.reason
    assert "on 8 cores (64 columns each) 40 KB" in first.reason
    assert "208 KB of 64 KB" in second.reason


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.one_of(st.integers(1, 300), st.integers(1, 70_000))] * 3),
    dtype=st.sampled_from(["bfloat16", "int8", "int16"]),
    array=st.sampled_from(["npu1", "npu2"]),
    kernel_set=st.sampled_from(["stock", "tuned"]),
)
def test_every_plan_is_legal_covers_the_problem_and_ends_before_the_driver_kills_it(shape, dtype, array, kernel_set):
    request, found = planned(*shape, dtype, array, kernel_set)
    assert found.plans
    best_us = min(plan.predicted_us for plan in found.plans)
    assert found.plans[0].predicted_us <= 1.05 * best_us * (1 + 1e-9)
    for plan in found.plans:
        assert violations(design_of(plan, request), ARRAYS[array]) == ()
        calls = [-(-size // call) for size, call in zip(shape, (plan.call_M, plan.call_K, plan.call_N), strict=True)]
        assert np.prod(calls) == plan.dispatches
        assert plan.predicted_us / plan.dispatches < 1e3 * ARRAYS[array].job_timeout_ms
        assert plan.padding >= 0


def test_no_legal_design_of_a_small_problem_is_faster_than_the_best_plan():
    """Against trying all of them one by one."""
    request, found = planned(48, 40, 100)
    array, calibration = ARRAYS["npu1"], calibration_for("npu1")
    of = unit(array, "bfloat16")
    best, legal = float("inf"), 0
    for (rows, columns), m, k, n in product(
        mappings(array), range(of.m, 513, of.m), range(of.k, 513, of.k), range(of.n, 513, of.n)
    ):
        call = (-(-48 // (m * rows)) * m * rows, -(-40 // k) * k, -(-100 // (n * columns)) * n * columns)
        design = XdnaDesign(*call, m, k, n, rows, columns)
        if not violations(design, array):
            legal += 1
            best = min(best, dispatch_time(design, array, calibration).total_us)
    everything = plan_matmul(request, array, calibration, top=found.legal).plans
    assert min(plan.predicted_us for plan in everything) == pytest.approx(best, rel=1e-9)
    assert len(everything) == found.legal
    assert everything[0].predicted_us <= 1.05 * best
    alike = [plan for plan in everything if plan.predicted_us < 1.05 * best]
    assert everything[0].padding == min(plan.padding for plan in alike)
    assert legal >= found.legal  # edges beyond what the problem can use are not tried
    assert request.M == 48


def test_the_front_is_what_nothing_beats_in_all_three():
    _, found = planned(3001, 512, 512)
    values = [(plan.predicted_us, plan.dispatches, plan.l1_bytes) for plan in found.pareto]
    assert len(values) > 3
    for mine, other in product(values, values):
        assert mine == other or not all(theirs <= ours for theirs, ours in zip(other, mine, strict=True))
    assert found.plans[0].pareto


def test_a_matrix_too_wide_for_a_descriptor_is_cut_and_the_reason_says_so():
    _, found = planned(4096, 64, 65_536)
    assert found.fewest_dispatches > 1
    assert "N in parts of" in found.why_fewest
    assert "descriptor" in found.why_fewest


def test_a_command_that_would_be_taken_for_hung_is_cut_in_rows():
    _, found = planned(65_536, 65_536, 4096)
    assert "M in parts of" in found.why_fewest
    assert "2,000 ms" in found.why_fewest


def test_the_whole_array_is_faster_than_one_core_and_more_clock_than_less():
    _, whole = planned(3001, 512, 512)
    _, single = planned(3001, 512, 512, cores=1)
    assert {plan.cores for plan in single.plans} == {1}
    assert whole.plans[0].predicted_us < single.plans[0].predicted_us / 4
    request = PlanRequest(3001, 512, 512)
    slow, fast = (plan_matmul(request, ARRAYS["npu1"], calibration_for("npu1"), clock) for clock in (0.8, 1.6))
    assert fast.plans[0].predicted_us < slow.plans[0].predicted_us


def test_a_tile_that_is_asked_about_gets_its_plan_or_its_reason():
    request = PlanRequest(3001, 512, 512)
    array, calibration = ARRAYS["npu1"], calibration_for("npu1")
    refused = judge((64, 64, 512), (1, 1), request, array, calibration)
    taken = judge((64, 64, 64), (4, 4), request, array, calibration)
    assert isinstance(refused, Rejected)
    assert refused.constraint == "core-memory"
    assert isinstance(taken, Plan)
    assert (taken.dispatches, taken.call_M) == (1, 3072)
    assert isinstance(judge((40, 64, 64), (4, 4), request, array, calibration), Rejected)


def test_single_buffers_let_larger_tiles_in():
    _, double = planned(3001, 512, 512)
    _, single = planned(3001, 512, 512, buffers=(1, 1, 1))
    largest = [max(plan.tile_m * plan.tile_k * plan.tile_n for plan in found.plans) for found in (double, single)]
    assert single.legal > double.legal
    assert largest[1] > largest[0]


def test_rejected_designs_are_rejected_by_the_rule_that_they_name():
    request, found = planned(4096, 4096, 4096)
    for item in found.rejected:
        step_m, step_n = item.tile_m * item.rows, item.tile_n * item.columns
        design = XdnaDesign(
            -(-4096 // step_m) * step_m,
            -(-4096 // item.tile_k) * item.tile_k,
            -(-4096 // step_n) * step_n,
            item.tile_m,
            item.tile_k,
            item.tile_n,
            item.rows,
            item.columns,
        )
        assert item.constraint in [one.constraint for one in violations(design, ARRAYS["npu1"])]
        assert item.needed > item.limit
    assert request.dtype == "bfloat16"


def test_designs_reported_to_overflow_program_memory_are_no_plans():
    request = PlanRequest(1280, 1280, 1280)
    array, calibration = ARRAYS["npu2"], calibration_for("npu2")
    assert isinstance(judge((64, 64, 64), (4, 4), request, array, calibration), Rejected)
    plans = plan_matmul(request, array, calibration, top=3000).plans
    assert (64, 64, 64, 4, 4) not in {(p.tile_m, p.tile_k, p.tile_n, p.rows, p.columns) for p in plans}


def test_edges_tried_are_all_multiples_of_the_unit_up_to_the_problem():
    request = PlanRequest(20, 9, 17)
    (m, k, n), mapping, count = candidate_edges(request, ARRAYS["npu1"])
    assert set(m.tolist()) == {16, 32}
    assert set(k.tolist()) == {8, 16}
    assert set(n.tolist()) == {16, 32}
    assert count == len(m) == len(mapping)
    assert replace(request, cores=4).cores == 4
