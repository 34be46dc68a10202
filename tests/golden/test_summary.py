"""The summary recomputed from the events of the vendor's JSON, field by field against what the vendor wrote in it."""

import json
from functools import cache
from pathlib import Path

import pytest

from npuscope.formats.neuron_json import read_neuron_json
from tests.conftest import samples_folder

FORMULAS = [
    "activate_instruction_count",
    "cc_cores_instruction_active_time",
    "cc_cores_instruction_active_time_percent",
    "cc_cores_instruction_count",
    "cc_cores_instruction_time",
    "cc_op_active_time",
    "cc_op_active_time_percent",
    "cc_op_count",
    "cc_op_time",
    "dma_queue_count",
    "dma_transfer_average_bytes",
    "dma_transfer_count",
    "dma_transfer_total_bytes",
    "dynamic_dma_packet_percent",
    "dynamic_dma_size_percent",
    "event_count",
    "gpsimd_engine_instruction_count",
    "hardware_dynamic_dma_active_time_percent",
    "hardware_dynamic_dma_packet_percent",
    "hardware_dynamic_dma_size_percent",
    "hardware_flops",
    "hbm_read_bytes",
    "hbm_write_bytes",
    "hfu_estimated_percent",
    "input_queue_bytes",
    "inputs_and_weights_size_bytes",
    "inputs_outputs_weights_size_bytes",
    "matmul_instruction_count",
    "mbu_estimated_percent",
    "mbu_min_read_util_percent",
    "mfu_estimated_percent",
    "mfu_hlo_estimated_percent",
    "mfu_hlo_max_achievable_estimated_percent",
    "mfu_inst_estimated_percent",
    "mfu_inst_max_achievable_estimated_percent",
    "mfu_max_achievable_estimated_percent",
    "mm_arithmetic_intensity",
    "model_flops",
    "nc_idx",
    "nd_idx",
    "neuroncore_cycle_count",
    "output_queue_bytes",
    "peak_flops_bandwidth_ratio",
    "psum_read_bytes",
    "psum_read_sbuf_write_bytes",
    "psum_read_sbuf_write_count",
    "psum_write_bytes",
    "sbuf_read_bytes",
    "sbuf_write_bytes",
    "scalar_engine_instruction_count",
    "software_dynamic_dma_packet_count",
    "software_dynamic_dma_packet_percent",
    "software_dynamic_dma_size",
    "software_dynamic_dma_size_percent",
    "spill_reload_bytes",
    "spill_save_bytes",
    "static_dma_packet_count",
    "static_dma_packet_percent",
    "static_dma_size",
    "static_dma_size_percent",
    "sync_engine_instruction_count",
    "tensor_engine_instruction_count",
    "throttle_active_nc0_time_ns",
    "throttle_activity_0_active_time_nc0_percent",
    "throttle_activity_0_avg_util_limit_nc0_percent",
    "throttle_avg_util_limit_nc0_percent",
    "throttle_unknown_active_time_nc0_percent",
    "throttle_unknown_avg_util_limit_nc0_percent",
    "trace_count",
    "transpose_flops",
    "vector_engine_instruction_count",
    "weight_queue_bytes",
    "weight_size_bytes",
]
"""To 1e-6."""
UNIONS = [
    "activate_instruction_time",
    "dma_active_cycles",
    "dma_active_time",
    "dma_active_time_percent",
    "dma_packet_time",
    "dma_transfer_time",
    "dynamic_dma_active_time_percent",
    "gpsimd_engine_active_time",
    "gpsimd_engine_active_time_percent",
    "gpsimd_engine_instruction_time",
    "scalar_engine_active_time",
    "scalar_engine_active_time_percent",
    "scalar_engine_instruction_time",
    "software_dynamic_dma_active_time",
    "software_dynamic_dma_active_time_percent",
    "static_dma_active_time",
    "static_dma_active_time_percent",
    "sync_engine_active_time",
    "sync_engine_active_time_percent",
    "sync_engine_instruction_time",
    "tensor_engine_active_time",
    "tensor_engine_active_time_percent",
    "tensor_engine_instruction_time",
    "total_active_time",
    "total_active_time_percent",
    "vector_engine_active_time",
    "vector_engine_active_time_percent",
    "vector_engine_instruction_time",
]
"""Sums and unions of times that the JSON holds in whole nanoseconds: to 1 %."""
TAKEN_OVER = {"total_time", "instance_type", "runtime_version", "driver_version", "collectives_version"} | {
    "compiler_version",
    "profiler_version",
}
"""Not recomputable from the events: the marker from which total time counts comes before the first of them."""


def captures():
    folder = samples_folder()
    return (sorted((folder / "inf2-matmul").glob("*.json")) if folder else []) or [None]


@cache
def summaries(path: Path):
    return read_neuron_json(path).summary, json.loads(path.read_text())["summary"][0]


@pytest.mark.parametrize("field", FORMULAS)
def test_a_formula_gives_the_vendors_figure(field, samples):
    compared = 0
    for path in captures():
        ours, vendor = summaries(path)
        if field in vendor:
            compared += 1
            assert ours[field] == pytest.approx(vendor[field], rel=1e-6, abs=0), path.name
    assert compared >= 27  # one capture has no throttle record of type unknown


@pytest.mark.parametrize("field", UNIONS)
def test_a_union_of_intervals_gives_the_vendors_time(field, samples):
    for path in captures():
        ours, vendor = summaries(path)
        assert ours[field] == pytest.approx(vendor[field], rel=0.01, abs=0), path.name


def test_no_field_of_the_vendor_is_left_uncompared(samples):
    for path in captures():
        assert set(summaries(path)[1]) <= {*FORMULAS, *UNIONS, *TAKEN_OVER}
    assert len({*FORMULAS, *UNIONS, *TAKEN_OVER}) == 108
