"""The timing model of XDNA designs: bytes that can be counted by hand, bounds that must hold, one formula for one and for many."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npuscope.errors import UsageError
from npuscope.hardware.model import load_hardware
from npuscope.tiling.xdna_design import OUT_TYPES, XdnaDesign
from npuscope.tiling.xdna_time import (
    BOUNDS,
    calibration_for,
    dispatch_time,
    dram_bytes,
    power_mode_clock_ghz,
    submission_us,
    times,
)

NPU1, NPU2 = load_hardware("xdna1"), load_hardware("xdna2")
ARRAYS = {"npu1": NPU1, "npu2": NPU2}
STOCK, TUNED = calibration_for("npu1", "stock"), calibration_for("npu1", "tuned")
WHOLE = XdnaDesign(3072, 512, 512, 64, 64, 64, 4, 4)
CASES = [(array, name) for array in ARRAYS for name in ("stock", "tuned")]
SIZES = ("M", "K", "N", "tile_m", "tile_k", "tile_n", "rows", "columns")


@st.composite
def designs(draw, columns=(1, 2, 4)):
    m, k, n = (draw(st.sampled_from([16, 32, 64, 96])) for _ in range(3))
    rows, cols = draw(st.sampled_from([(1, 1), *((4, count) for count in columns)]))
    counts = [draw(st.integers(1, 12)) for _ in range(3)]
    dtype = draw(st.sampled_from(sorted(OUT_TYPES)))
    return XdnaDesign(
        m * rows * counts[0],
        k * counts[1],
        n * cols * counts[2],
        m,
        k,
        n,
        rows,
        cols,
        dtype=dtype,
        out_dtype=draw(st.sampled_from(OUT_TYPES[dtype])),
        batch=draw(st.integers(1, 3)),
        buffers_c=draw(st.sampled_from([1, 2])),
    )


def test_a_whole_array_reads_a_twice_and_b_twelve_times_and_writes_c_once():
    a, b, c = dram_bytes(WHOLE)
    assert (a, b, c) == (2 * WHOLE.a_bytes, 12 * WHOLE.b_bytes, WHOLE.c_bytes)
    assert a + b + c == pytest.approx(15.7e6, rel=2e-3)


def test_those_bytes_take_094_ms_at_1675_gb_s():
    time = dispatch_time(WHOLE, NPU1, replace(TUNED, dram_gb_s=16.75))
    assert time.dram_us == pytest.approx(940, rel=2e-3)
    assert time.bound == "dram"


def test_one_core_reads_a_once_for_each_tile_column_of_c_and_b_once_for_each_tile_row():
    one = XdnaDesign(128, 64, 192, 64, 64, 64)
    assert dram_bytes(one) == (3 * one.a_bytes, 2 * one.b_bytes, one.c_bytes)


def test_a_single_tile_moves_each_operand_once_and_each_product_of_a_batch_its_own():
    tile = XdnaDesign(64, 64, 64, 64, 64, 64)
    assert dram_bytes(tile) == (8192, 8192, 8192)
    assert dram_bytes(replace(tile, batch=5)) == (5 * 8192, 5 * 8192, 5 * 8192)


def test_compute_is_multiplications_over_rate_cores_and_clock():
    design = XdnaDesign(4032, 4032, 4032, 112, 112, 112, 4, 4, dtype="int8", out_dtype="int8", buffers_c=1)
    time = dispatch_time(design, NPU1, TUNED)
    assert time.macs_per_cycle == pytest.approx(212.5, rel=0.01)  # arXiv:2512.13282, table 2
    assert time.compute_us == pytest.approx(4032**3 / (time.macs_per_cycle * 16 * 1.0e3))


def test_a_small_kernel_takes_microseconds_and_its_dispatch_is_the_bound():
    time = dispatch_time(XdnaDesign(64, 64, 64, 64, 64, 64), NPU1, STOCK)
    assert 3 < time.compute_us < 7
    assert time.bound == "dispatch"


def test_a_design_of_one_column_gets_a_quarter_of_the_dram_rate_and_is_bound_by_it():
    one = dispatch_time(XdnaDesign(2048, 2048, 2048, 64, 64, 64, 4, 1), NPU1, STOCK)
    assert one.bound == "dram"
    assert one.dram_us == pytest.approx(one.dram_bytes / (STOCK.dram_gb_s / 4) / 1e3)
    assert one.total_us == pytest.approx(82_820, rel=0.03)  # amd/IRON, phoenix/extensive/latest.csv; no fit saw it


def test_a_core_waits_for_a_stream_that_is_slower_than_its_kernel():
    flat = XdnaDesign(8, 512, 256, 8, 64, 256, 1, 1, dtype="int8", out_dtype="int8")
    time = dispatch_time(flat, NPU1, replace(TUNED, dram_gb_s=1e6))
    assert time.stream_us > time.compute_us
    assert time.bound == "dispatch"
    assert time.total_us == pytest.approx(time.overhead_us + time.stream_us)


def test_only_a_single_buffer_of_c_makes_its_core_wait_for_the_way_out():
    twice = XdnaDesign(4224, 4032, 4224, 96, 56, 96, 4, 4)
    once = replace(twice, buffers_c=1)
    assert dispatch_time(twice, NPU1, TUNED).drain_us == 0
    tiles_of_a_core = (4224 // 96) ** 2 / 16
    assert dispatch_time(once, NPU1, TUNED).drain_us == pytest.approx(tiles_of_a_core * 96 * 96 * 2 / 4 / 1e3)


def test_runs_below_128_bytes_slow_stock_designs_and_not_tuned_ones():
    short, long = (XdnaDesign(2048, 2048, 2048, 64, k, 64, 4, 4) for k in (32, 64))
    moved = dram_bytes(short)
    expected = (2 * moved[0] + moved[1] + moved[2]) / sum(moved)
    assert dispatch_time(short, NPU1, STOCK).dram_us / dispatch_time(long, NPU1, STOCK).dram_us == pytest.approx(
        expected
    )
    assert dispatch_time(short, NPU1, TUNED).dram_us == pytest.approx(dispatch_time(long, NPU1, TUNED).dram_us)


def test_a_serial_calibration_adds_what_an_overlapped_one_hides():
    time = dispatch_time(WHOLE, NPU1, STOCK)
    serial = dispatch_time(WHOLE, NPU1, replace(STOCK, overlapped=False))
    assert serial.total_us - time.total_us == pytest.approx(min(time.compute_us, time.dram_us))


@pytest.mark.parametrize(("array", "name"), CASES)
@given(data=st.data())
def test_many_at_once_are_what_each_is_alone(array, name, data):
    calibration, facts = calibration_for(array, name), ARRAYS[array]
    first = data.draw(designs())
    others = [replace(first, M=first.M * factor, K=first.K * (factor + 1)) for factor in (1, 2, 3)]
    columns = {size: np.array([getattr(other, size) for other in others]) for size in SIZES}
    same = (
        "batch",
        "buffers_a",
        "buffers_b",
        "buffers_c",
        "dtype",
        "out_dtype",
        "itemsize",
        "out_itemsize",
        "multiplication",
    )
    found = times(SimpleNamespace(**columns, **{key: getattr(first, key) for key in same}), facts, calibration)
    for index, other in enumerate(others):
        alone = dispatch_time(other, facts, calibration)
        for field in ("compute_us", "dram_us", "stream_us", "drain_us", "total_us"):
            assert getattr(found, field)[index] == pytest.approx(getattr(alone, field), rel=1e-12)


def test_more_designs_than_one_block_are_timed_in_order():
    count = 20_000
    columns = {size: np.full(count, getattr(WHOLE, size)) for size in SIZES}
    columns["M"] = 256 * np.arange(1, count + 1)
    same = {
        key: getattr(WHOLE, key)
        for key in ("batch", "buffers_a", "buffers_b", "buffers_c", "dtype", "out_dtype", "itemsize", "out_itemsize")
    }
    found = times(SimpleNamespace(**columns, **same, multiplication="native"), NPU1, STOCK).total_us
    assert found.shape == (count,)
    assert (np.diff(found) > 0).all()
    assert found[11] == pytest.approx(dispatch_time(WHOLE, NPU1, STOCK).total_us)


@pytest.mark.parametrize(("array", "name"), CASES)
@given(design=designs())
def test_more_work_never_takes_less_time(array, name, design):
    calibration, facts = calibration_for(array, name), ARRAYS[array]
    base = dispatch_time(design, facts, calibration).total_us
    for axis in ("M", "K", "N", "batch"):
        assert dispatch_time(replace(design, **{axis: 2 * getattr(design, axis)}), facts, calibration).total_us >= base


@given(design=designs(), clock=st.floats(0.4, 3))
def test_a_faster_clock_never_takes_more_time_and_no_kernel_beats_its_peak(design, clock):
    slow, fast = (dispatch_time(design, NPU1, STOCK, value) for value in (clock, 1.5 * clock))
    assert fast.total_us <= slow.total_us
    assert slow.bound in BOUNDS
    peak = {"int8": 256, "int16": 64, "bfloat16": 128}[design.dtype]
    assert slow.macs_per_cycle <= peak * (1 + 1e-12)


@pytest.mark.parametrize(("array", "name"), CASES)
def test_a_list_of_one_command_costs_what_the_command_costs_alone(array, name):
    facts, calibration = ARRAYS[array], calibration_for(array, name)
    alone = dispatch_time(WHOLE, facts, calibration)
    listed = dispatch_time(WHOLE, facts, calibration, in_list=True)
    assert listed.total_us + submission_us(facts, calibration) == pytest.approx(alone.total_us)
    assert listed.total_us < alone.total_us


def test_the_cost_of_a_listed_command_is_the_published_throughput():
    assert 1e6 / calibration_for("npu1", "stock").command_us == pytest.approx(24_058, rel=2e-3)
    assert 1e6 / calibration_for("npu2", "stock").command_us == pytest.approx(78_771, rel=2e-3)


def test_dram_gives_about_four_bytes_per_column_and_cycle_on_both_generations():
    for array, facts in ARRAYS.items():
        found = calibration_for(array, "tuned")
        assert found.dram_gb_s / facts.core_columns / found.clock_ghz == pytest.approx(4, rel=0.06)


def test_power_modes_are_levels_of_the_drivers_table():
    assert [power_mode_clock_ghz(NPU1, mode) for mode in ("turbo", "performance", "default")] == [1.6] * 3
    assert power_mode_clock_ghz(NPU1, "balanced") == 1.024
    assert power_mode_clock_ghz(NPU1, "powersaver") == 0.8
    assert (power_mode_clock_ghz(NPU2, "balanced"), power_mode_clock_ghz(NPU2, "powersaver")) == (1.267, 0.792)
    with pytest.raises(UsageError, match="power mode"):
        power_mode_clock_ghz(NPU1, "eco")


@pytest.mark.parametrize(("array", "name"), CASES)
def test_every_kernel_of_a_calibration_names_its_source_and_guesses_say_so(array, name):
    calibration = calibration_for(array, name)
    for kernel in calibration.kernels.values():
        assert kernel.source
        assert (kernel.points == 0) == kernel.source.startswith("not measured: ")
    assert calibration.sources
    assert 0 < calibration.error_mean <= calibration.error_max


def test_unknown_names_of_calibrations_and_kernels_are_told():
    with pytest.raises(UsageError, match="npu3"):
        calibration_for("npu3")
    with pytest.raises(UsageError, match="kernel set"):
        calibration_for("npu1", "best")
    with pytest.raises(UsageError, match="bfp16"):
        STOCK.kernel("bfloat16", "bfloat16", "bfp16")


def test_with_one_buffer_a_core_waits_for_its_operands():
    both = dispatch_time(WHOLE, NPU1, STOCK)
    single = dispatch_time(replace(WHOLE, buffers_a=1, buffers_b=1), NPU1, STOCK)
    inside = single.compute_us + single.stream_us
    assert inside > both.dram_us
    assert single.total_us - single.overhead_us == pytest.approx(inside)
    assert single.total_us > both.total_us
