"""Tiles, FLOPs and bytes in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npuscope.errors import UsageError
from npuscope.tiling.model import LEGACY, TENSOR_ENGINE, tile_model
from npuscope.tiling.work import plan, tensor_engine_work, tile_matmul, work_columns
from npuscope.workloads.matmul import MatmulConfig
from npuscope.workloads.suites import load_suite

sizes = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("shape", "tiles"),
    [
        ((128, 128, 1024), (1, 1, 2)),
        ((129, 128, 512), (2, 1, 1)),
        ((128, 129, 512), (1, 2, 1)),
        ((128, 128, 513), (1, 1, 2)),
        ((1, 1, 1), (1, 1, 1)),
    ],
)
def test_the_tensor_engine_steps_by_128_in_m_and_k_and_by_512_in_n(shape, tiles):
    found = tile_matmul(MatmulConfig(*shape))
    assert (found.num_tiles_M, found.num_tiles_K, found.num_tiles_N) == tiles
    assert found.total_tiles == np.prod(tiles)


def test_the_legacy_model_steps_by_512_in_k_and_by_128_in_n():
    found = tile_matmul(MatmulConfig(128, 513, 129), LEGACY)
    assert (found.num_tiles_M, found.num_tiles_K, found.num_tiles_N) == (1, 2, 2)


def test_the_legacy_model_says_that_hardware_contradicts_it():
    assert "contradicted by hardware" in LEGACY.evidence


@given(M=sizes, K=sizes, N=sizes)
def test_many_shapes_at_once_count_as_one_by_one(M, K, N):
    columns = work_columns([(M, K, N), (1, 1, 1)], 4)
    one = tile_matmul(MatmulConfig(M, K, N))
    assert [columns[f"num_tiles_{axis}"][0] for axis in "MKN"] == [one.num_tiles_M, one.num_tiles_K, one.num_tiles_N]
    assert columns["model_flops"][0] == 2 * M * K * N


@given(M=sizes, K=sizes, N=sizes)
def test_utilisation_lies_between_0_and_1_and_is_1_only_on_full_tiles(M, K, N):
    used = float(work_columns([(M, K, N)], 2)["array_utilisation"][0])
    full = M % 128 == 0 and K % 128 == 0 and (N % 512 >= 64 or N % 512 == 0)
    assert 0 < used <= 1
    assert (used == 1) == full


def test_a_partial_moving_tile_costs_its_own_columns_but_at_least_64():
    columns = work_columns([(128, 128, 16), (128, 128, 100), (128, 128, 612)], 2)
    assert columns["array_utilisation"].tolist() == [16 / 64, 1.0, 1.0]


def test_float32_takes_four_passes_and_twice_the_bytes_of_float16():
    half, single = (tensor_engine_work(MatmulConfig(128, 128, 512, dtype)) for dtype in ("float16", "float32"))
    assert (half.tensor_engine_passes, single.tensor_engine_passes) == (1, 4)
    assert single.hbm_read_bytes == 2 * half.hbm_read_bytes


def test_there_is_one_transpose_per_stationary_block():
    assert tensor_engine_work(MatmulConfig(256, 384, 512)).transpose_instruction_count == 6


def test_int8_results_count_as_int32():
    assert MatmulConfig(2, 3, 5, "int8").operand_bytes == 6 + 15 + 40
    assert plan([MatmulConfig(2, 3, 5, "int8")])["operand_bytes"].tolist() == [61]


def test_planning_agrees_with_the_configs_of_every_suite():
    configs = load_suite("boundary").configs(["float32", "int8"])
    columns = plan(configs)
    assert columns["operand_bytes"].tolist() == [config.operand_bytes for config in configs]
    assert columns["model_flops"].tolist() == [config.model_flops for config in configs]


@pytest.mark.parametrize("text", ["", "tensor", "0x1x1", "1x2", "128x128x9999", "-1x1x1", "1e3x1x1"])
def test_a_tile_that_is_none_is_refused(text):
    with pytest.raises(UsageError):
        tile_model(text)


def test_any_tile_shape_can_be_given():
    found = tile_matmul(MatmulConfig(100, 100, 100), tile_model("64x32x10"))
    assert (found.num_tiles_M, found.num_tiles_K, found.num_tiles_N) == (2, 4, 10)


def test_the_default_says_how_far_it_is_confirmed():
    assert "117 inf2 captures for M = K = 128" in TENSOR_ENGINE.evidence
    assert "documentation" in TENSOR_ENGINE.evidence
