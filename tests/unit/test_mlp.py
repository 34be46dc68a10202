"""The gated MLP as a workload: sizes, inputs, and which results are right."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.errors import UsageError
from npuscope.workloads.mlp import (
    DEFAULT_CONFIGS,
    MLP_DTYPES,
    MlpConfig,
    check_mlp,
    expect_mlp,
    inputs_sha256,
    make_inputs,
    other_inputs,
    parse_mlp_config,
    reference,
)

SMALL = MlpConfig(2, 3, 128, 64)


def computed(config, inputs, *, rounded):
    """The MLP in float32, with every intermediate rounded to the type or none."""
    kind = inputs[0].dtype
    hidden, gate, up, down = (array.astype(np.float32) for array in inputs)
    keep = (lambda array: array.astype(kind).astype(np.float32)) if rounded else (lambda array: array)
    gated, raised = keep(hidden @ gate), keep(hidden @ up)
    active = keep(keep(gated / (1 + np.exp(-gated))) * raised)
    return (active @ down).astype(kind)


class TestConfig:
    def test_text_in_any_order_and_spacing_is_read(self):
        wanted = MlpConfig(1, 128, 1024, 512)
        assert parse_mlp_config("b=1,s=128,h=1024,i=512") == wanted
        assert parse_mlp_config(" i=512, h=1024,  s=128,b=1 ") == wanted
        assert parse_mlp_config("b=1,s=128,h=1024,i=512,dtype=fp32") == MlpConfig(1, 128, 1024, 512, "float32")

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("", "lacks batch, sequence, hidden, intermediate"),
            ("b=1,s=128,h=1024", "lacks intermediate"),
            ("b=1,b=2,s=1,h=1,i=1", "batch is there twice"),
            ("b=0,s=128,h=1024,i=512", "batch = 0"),
            ("b=-1,s=128,h=1024,i=512", "batch is '-1'"),
            ("b=1,s=128,h=1024,k=512", "'k=512' is no size"),
            ("b=1,s=128,h=1024,i", "'i' is no size"),
            ("b=1,s=128,h=1024,i=512,dtype=int8", "dtype"),
            ("b=1,s=1,h=99999999999,i=1", "too large"),
            ("b=9999999999,s=1,h=9999999999,i=1", "too large"),
        ],
    )
    def test_other_text_is_refused_with_what_is_wrong(self, text, told):
        with pytest.raises(UsageError, match=r".") as caught:
            parse_mlp_config(text)
        assert told in str(caught.value)

    def test_defaults_are_the_two_sizes_of_the_public_comparison(self):
        assert [config.text for config in DEFAULT_CONFIGS] == [
            "b=1, s=128, h=1024, i=512",
            "b=1, s=256, h=2048, i=1024",
        ]
        assert {config.dtype for config in DEFAULT_CONFIGS} == {"bfloat16"}

    def test_model_flops_are_those_of_three_matmuls(self):
        assert MlpConfig(1, 128, 1024, 512).model_flops == 2 * 128 * 1024 * 512 * 3


class TestInputs:
    def test_weights_are_scaled_and_hidden_states_are_not(self):
        hidden, *weights = make_inputs(MlpConfig(1, 128, 1024, 512), 0)
        assert np.std(hidden.astype(np.float64)) == pytest.approx(1, rel=0.02)
        for weight in weights:
            assert np.std(weight.astype(np.float64)) == pytest.approx(0.02, rel=0.02)

    def test_hash_tells_seeds_types_and_single_bits_apart(self):
        inputs = make_inputs(SMALL, 0)
        assert inputs_sha256(inputs) == inputs_sha256(make_inputs(SMALL, 0))
        changed = tuple(array.copy() for array in inputs)
        changed[3].reshape(-1).view(np.uint8)[0] ^= 1
        others = [make_inputs(SMALL, 1), changed, make_inputs(MlpConfig(2, 3, 128, 64, "float32"), 0)]
        assert len({inputs_sha256(each) for each in (inputs, *others)}) == 4


class TestCheck:
    @pytest.mark.parametrize("dtype", MLP_DTYPES)
    @pytest.mark.parametrize("rounded", [False, True])
    @given(sizes=st.tuples(*[st.integers(1, limit) for limit in (3, 9, 200, 150)]), seed=st.integers(0, 1000))
    @settings(max_examples=25, deadline=None)
    def test_right_results_pass_whether_or_not_intermediates_are_rounded(self, dtype, rounded, sizes, seed):
        config = MlpConfig(*sizes, dtype)
        inputs = make_inputs(config, seed)
        check = check_mlp(config, inputs, computed(config, inputs, rounded=rounded))
        assert check.passed, check.reason
        assert check.reason == ""

    @pytest.mark.parametrize("dtype", MLP_DTYPES)
    def test_a_lost_column_of_the_intermediate_is_found(self, dtype):
        config = MlpConfig(1, 128, 1024, 512, dtype)
        hidden, gate, up, down = make_inputs(config, 0)
        less = computed(config, (hidden, gate[:, :-1], up[:, :-1], down[:-1]), rounded=False)
        assert not check_mlp(config, (hidden, gate, up, down), less).passed

    @pytest.mark.parametrize("dtype", MLP_DTYPES)
    def test_gate_and_up_taken_for_each_other_are_found(self, dtype):
        config = MlpConfig(1, 16, 256, 128, dtype)
        hidden, gate, up, down = make_inputs(config, 0)
        assert not check_mlp(
            config, (hidden, gate, up, down), computed(config, (hidden, up, gate, down), rounded=False)
        ).passed

    def test_float32_that_was_multiplied_in_bfloat16_is_wrong_unless_it_says_so(self):
        config = MlpConfig(1, 16, 256, 128, "float32")
        inputs = make_inputs(config, 0)
        short = tuple(array.astype(ml_dtypes.bfloat16) for array in inputs)
        coarse = computed(config, short, rounded=True).astype(np.float32)
        assert not check_mlp(config, inputs, coarse).passed
        assert check_mlp(config, inputs, coarse, compute_dtype="bfloat16").passed

    @pytest.mark.parametrize("config", DEFAULT_CONFIGS, ids=str)
    def test_an_error_in_one_token_is_found(self, config):
        hidden, *weights = make_inputs(config, 0)
        expected = expect_mlp(config, (hidden, *weights))
        right = computed(config, (hidden, *weights), rounded=True)
        assert expected.check(right).passed
        short = hidden.copy()
        short[0, -1, -8:] = 0
        zeroed = right.copy()
        zeroed[0, -1, -1] = 0
        gated = hidden.astype(np.float32) @ weights[0].astype(np.float32)
        curve = gated / (1 + np.exp(-gated))
        curve[0, -1] = gated[0, -1] * np.clip(gated[0, -1] / 6 + 0.5, 0, 1)  # another activation
        active = curve * (hidden.astype(np.float32) @ weights[1].astype(np.float32))
        other = (active @ weights[2].astype(np.float32)).astype(hidden.dtype)
        for wrong in (computed(config, (short, *weights), rounded=True), zeroed, other):
            assert not expected.check(wrong).passed

    def test_many_errors_that_each_are_allowed_are_too_many(self):
        config = MlpConfig(1, 16, 256, 128)
        expected = expect_mlp(config, make_inputs(config, 0))
        each = np.minimum(0.9 * expected.allowed, 3 * expected.typical)
        check = expected.check((expected.value + each).astype(make_inputs(config, 0)[0].dtype))
        assert check.error_over_allowed < 1 < check.rms_over_allowed
        assert not check.passed
        assert "independent roundings" in check.reason

    def test_a_gate_of_fewer_bits_than_the_type_has_is_found(self):
        config = MlpConfig(1, 16, 256, 128)
        hidden, *_ = inputs = make_inputs(config, 0)
        wide = [array.astype(np.float32) for array in inputs]
        gated = (wide[0] @ wide[1]) * (1 + 2**-5)
        result = (gated / (1 + np.exp(-gated)) * (wide[0] @ wide[2])) @ wide[3]
        assert not check_mlp(config, inputs, result.astype(hidden.dtype)).passed

    def test_other_inputs_have_another_result(self):
        for config in (SMALL, MlpConfig(1, 1, 128, 64)):
            inputs = make_inputs(config, 0)
            result = computed(config, inputs, rounded=True)
            assert not expect_mlp(config, other_inputs(inputs)).check(result).passed

    def test_one_wrong_element_is_found(self):
        inputs = make_inputs(SMALL, 0)
        result = computed(SMALL, inputs, rounded=True)
        result[1, 2, 17] = result[1, 2, 17] + result.dtype.type(0.05)
        check = check_mlp(SMALL, inputs, result)
        assert not check.passed
        assert "times what rounding may come to" in check.reason

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_a_value_that_is_no_number_is_infinitely_wrong(self, value):
        inputs = make_inputs(SMALL, 0)
        result = computed(SMALL, inputs, rounded=True)
        result[0, 0, 0] = value
        check = check_mlp(SMALL, inputs, result)
        assert not check.passed
        assert check.max_abs_error == float("inf")
        assert check.reason == "1 values are NaN or infinite"

    def test_another_shape_or_type_is_refused(self):
        inputs = make_inputs(SMALL, 0)
        result = computed(SMALL, inputs, rounded=True)
        assert "shape" in check_mlp(SMALL, inputs, result[0]).reason
        assert "type float32" in check_mlp(SMALL, inputs, result.astype(np.float32)).reason
        assert not check_mlp(SMALL, inputs, None).passed

    def test_the_reference_is_the_definition(self):
        config = MlpConfig(1, 1, 2, 1, "float32")
        inputs = tuple(np.array(each, np.float32) for each in ([[[1, 2]]], [[3], [4]], [[5], [6]], [[7, 8]]))
        gated, raised = 11.0, 17.0
        active = gated / (1 + np.exp(-gated)) * raised
        np.testing.assert_allclose(reference(inputs), [[[7 * active, 8 * active]]])
        assert config.output_shape == reference(inputs).shape
