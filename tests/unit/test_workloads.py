"""Shapes, suites, element types and LLM scenarios."""

import numpy as np
import pytest

from npuscope.errors import UsageError
from npuscope.workloads.dtypes import ELEMENT_TYPES, numpy_dtype, operand_type
from npuscope.workloads.llm import llm_scenarios, model_dims, model_presets, parse_model_dims
from npuscope.workloads.matmul import MatmulConfig, parse_shape
from npuscope.workloads.suites import SUITES, load_suite


@pytest.mark.parametrize(
    ("name", "kept", "removed"),
    [("quick", 4, 0), ("sweep", 392, 0), ("tiling", 8000, 0)],
)
def test_suites_have_the_published_sizes(name, kept, removed):
    suite = load_suite(name)
    assert (len(suite.shapes), suite.removed) == (kept, removed)


def test_the_llm_suite_is_720_shapes_before_its_duplicates_go():
    suite = load_suite("llm")
    assert len(suite.shapes) + suite.removed == 720
    assert len(set(suite.shapes)) == len(suite.shapes)
    assert suite.removed > 300  # batch x sequence collides, and sequence 1 repeats decode


def test_the_boundary_suite_straddles_every_edge_of_the_tensor_engine_in_all_three_dimensions():
    shapes = set(load_suite("boundary").shapes)
    for before, after in (
        ((128, 512, 512), (136, 512, 512)),
        ((128, 128, 128), (128, 136, 128)),
        ((128, 512, 128), (128, 520, 128)),
        ((128, 128, 512), (128, 128, 520)),
        ((128, 128, 1024), (128, 128, 1040)),
    ):
        assert {before, after} <= shapes


def test_the_tiling_suite_lies_around_multiples_of_its_base():
    shapes = load_suite("tiling").shapes
    assert (96, 480, 96) in shapes
    assert (544, 2080, 544) in shapes


def test_an_unknown_suite_is_told_with_the_nearest_name():
    with pytest.raises(UsageError, match="did you mean 'sweep'"):
        load_suite("swep")


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_gives_valid_configs(name):
    assert all(config.dtype == "bfloat16" for config in load_suite(name).configs(["bfloat16"]))


@pytest.mark.parametrize(
    "text", ["128x128", "128x128x128x1", "axbxc", "1.5x1x1", "0x1x1", "-1x1x1", "1x1x0", "", "x", "1e3x1x1"]
)
def test_a_shape_that_is_none_is_refused(text):
    with pytest.raises(UsageError):
        parse_shape(text)


def test_a_shape_whose_operations_leave_63_bits_is_refused_and_the_largest_below_is_not():
    with pytest.raises(UsageError, match="63 bits"):
        MatmulConfig(1 << 21, 1 << 20, 1 << 20)
    assert MatmulConfig(1 << 20, 1 << 20, 1 << 19).model_flops == 1 << 60


@pytest.mark.parametrize("value", [1.5, "128", None, True, np.float64(2)])
def test_a_dimension_must_be_a_whole_number(value):
    with pytest.raises(UsageError):
        MatmulConfig(value, 1, 1)


def test_numpy_integers_are_dimensions():
    assert MatmulConfig(np.int64(3), 1, 1).M == 3


def test_short_names_of_types_are_known():
    assert [operand_type(name) for name in ("bf16", "FP32", "half")] == ["bfloat16", "float32", "float16"]


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_the_unit_roundoff_is_half_of_the_types_epsilon(name):
    import ml_dtypes

    assert ELEMENT_TYPES[name].unit_roundoff == float(ml_dtypes.finfo(numpy_dtype(name)).eps) / 2


def test_scenarios_of_a_grouped_query_model_have_the_projections_shapes():
    configs = llm_scenarios(model_dims("llama-3.1-8b"), batches=[1], sequences=[512], dtypes=["bfloat16"])
    shapes = {config.name: config.shape for config in configs}
    assert shapes["prefill b1 s512 attention-q"] == (512, 4096, 4096)
    assert shapes["prefill b1 s512 attention-kv"] == (512, 4096, 2048)
    assert shapes["prefill b1 s512 ffn-up"] == (512, 4096, 28672)
    assert shapes["decode b1 ffn-down"] == (1, 14336, 4096)


def test_the_head_width_need_not_be_hidden_over_heads():
    configs = llm_scenarios(model_dims("qwen3-0.6b"), batches=[1], sequences=[1], dtypes=["float32"])
    assert next(config for config in configs if config.name.endswith("attention-out")).shape == (1, 2048, 1024)


def test_model_dims_fill_in_what_is_left_out():
    assert parse_model_dims("hidden=1024,heads=8") == parse_model_dims(
        "hidden=1024,ffn=4096,heads=8,kv_heads=8,head_dim=128"
    )


@pytest.mark.parametrize(
    "text",
    ["", "ffn=1", "hidden=0", "hidden=x", "hidden=-5", "hiden=5", "hidden=8,heads=3,kv_heads=2", "hidden=8,heads=0"],
)
def test_model_dims_that_make_no_model_are_refused(text):
    with pytest.raises(UsageError):
        parse_model_dims(text)


def test_every_preset_is_a_layer():
    for dims in model_presets().values():
        assert dims.heads % dims.kv_heads == 0
        assert min(dims.hidden, dims.ffn, dims.head_dim) > 0
