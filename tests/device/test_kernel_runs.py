"""Implementations of the gated MLP on devices that are here, and users' own that go wrong in every way."""

from dataclasses import replace
from pathlib import Path

import pytest

from npuscope.backends.base import CacheStatus
from npuscope.backends.kernels import KernelRequest
from npuscope.errors import UnavailableError, UsageError
from npuscope.formats.kernel_folder import write_inputs
from npuscope.measure.kernel_runs import _measurement, _Running, compile_kernel, measure_kernels
from npuscope.measure.settings import Settings
from npuscope.workloads.mlp import MlpCheck, MlpConfig, inputs_sha256, make_inputs

USERS = Path(__file__).parents[1] / "kernels_of_users" / "implementations.py"
CONFIG = MlpConfig(2, 8, 128, 64)
QUICK = Settings(max_seconds=0.05)
NUMPY = KernelRequest("npuscope.backends.mlp_numpy:mlp", "cpu", CONFIG)


def inputs_in(folder, config=CONFIG):
    arrays = make_inputs(config, 0)
    return folder / write_inputs(folder, config, arrays, inputs_sha256(arrays)).folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return inputs_in(tmp_path_factory.mktemp("inputs"))


def users(*names):
    return [(name, replace(NUMPY, target=f"{USERS}:{name}", is_user_code=True)) for name in names]


@pytest.fixture(scope="module")
def measured(inputs):
    names = (
        "right",
        "raises",
        "other_shape",
        "not_a_number",
        "nothing",
        "swapped",
        "crashes",
        "leaves",
        "tires",
        "writes_into_its_inputs",
        "remembers",
        "remembers_by_identity",
        "writes_to_every_pipe",
    )
    requests = [("numpy", NUMPY), *users(*names)]
    return {item.name: item for item in measure_kernels(requests, inputs, QUICK, rounds=3, time_limit_s=60)}


class TestUsersOwn:
    def test_those_that_are_right_are_measured_beside_those_that_are_not(self, measured):
        assert [name for name, item in measured.items() if item.status == "ok"] == ["numpy", "right"]

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("raises", "raised ValueError: no such luck (implementations.py:"),
            ("other_shape", "wrong result: shape (8, 128) is not (2, 8, 128)"),
            ("not_a_number", "values are NaN or infinite"),
            ("nothing", "returned no array but NoneType"),
            ("swapped", "times what rounding may come to"),
            ("crashes", "was killed by SIGABRT; its last words: about to crash"),
            ("leaves", "ended with status 3"),
            ("tires", "raised RuntimeError: enough"),
            ("writes_into_its_inputs", "read-only"),
            ("remembers", "does it keep an earlier result?"),
            ("remembers_by_identity", "does it keep an earlier result?"),
            ("writes_to_every_pipe", "answered what is no answer"),
        ],
    )
    def test_each_failure_is_one_line_of_its_own(self, measured, name, told):
        error = measured[name].error
        assert told in error
        assert "\n" not in error
        assert measured[name].steady is None

    def test_all_took_the_same_inputs(self, measured, inputs):
        assert {measured[name].inputs_sha256 for name in ("numpy", "right")} == {inputs_sha256(make_inputs(CONFIG, 0))}

    def test_rounds_are_fresh_processes_that_both_share(self, measured):
        for name in ("numpy", "right"):
            item = measured[name]
            assert sorted(set(item.sample_round)) == [0, 1, 2]
            assert len(item.samples_ns) == len(item.sample_round)
            assert item.steady.low <= item.steady.value <= item.steady.high
            assert len(item.round_medians_ns) == item.steady.rounds == 3
            assert item.dispatch_floor_ms > 0

    def test_a_result_that_is_computed_later_is_waited_for(self, inputs):
        (item,) = measure_kernels(users("lazy"), inputs, Settings(iterations=3, warmup=1), rounds=3)
        assert item.status == "ok", item.error
        assert min(item.samples_ns) >= 20_000_000

    def test_the_first_run_is_that_of_the_first_process_and_inputs_may_not_change(self):
        answer = {"first_ns": 5_000_000, "inputs_sha256": "x", "warmup_steady": True, "warmup_runs": 1, "compile_ns": 0, "cache": "not-compiled", "compute_dtype": "", "description": "", "versions": {}, "notes": []}  # fmt: skip
        later = {**answer, "first_ns": 9_000_000}
        check = MlpCheck(True, 0.0, 0.0, 0.0, 0.0, "")
        running = _Running("a", NUMPY, [answer, later, later], [1, 2, 3], [0, 1, 2], [1], [check])
        assert _measurement(running, QUICK).first_ms == 5.0
        changed = replace(running, answers=[answer, later, {**later, "inputs_sha256": "y"}])
        assert "inputs changed" in _measurement(changed, QUICK).error

    def test_one_that_hangs_is_ended_and_the_others_go_on(self, inputs):
        requests = [*users("hangs"), ("numpy", NUMPY)]
        hung, numpy = measure_kernels(requests, inputs, QUICK, rounds=3, time_limit_s=4)
        assert "took longer than 4" in hung.error
        assert "to run for the first time" in hung.error
        assert "--time-limit" in hung.error
        assert numpy.status == "ok"

    def test_a_fixed_count_of_samples_is_kept(self, inputs):
        (item,) = measure_kernels([("numpy", NUMPY)], inputs, Settings(iterations=10), rounds=5)
        assert len(item.samples_ns) == 10

    def test_a_changed_input_is_an_error_of_the_measurement(self, tmp_path):
        folder = inputs_in(tmp_path)
        (folder / "up_proj_weights_tensor.bin").write_bytes(b"short")
        (item,) = measure_kernels([("numpy", NUMPY)], folder, QUICK, rounds=3)
        assert "up_proj_weights_tensor.bin" in item.error

    @pytest.mark.parametrize("rounds", [2, 51])
    def test_rounds_that_cannot_be_used_are_refused(self, inputs, rounds):
        with pytest.raises(UsageError, match="--rounds"):
            measure_kernels([("numpy", NUMPY)], inputs, QUICK, rounds=rounds)

    def test_a_function_that_does_not_exist_stops_before_anything_is_measured(self, inputs):
        with pytest.raises(UsageError, match="did you mean 'right'"):
            measure_kernels(users("rihgt"), inputs, QUICK, rounds=3)


class TestFrameworks:
    def test_jax_dispatches_one_program_when_fused_and_five_when_not(self, inputs):
        pytest.importorskip("jax")
        requests = [
            (name, replace(NUMPY, target=f"npuscope.backends.mlp_jax:{name}", device="jax:cpu"))
            for name in ("fused", "naive")
        ]
        fused, naive = measure_kernels(requests, inputs, QUICK, rounds=3)
        assert (fused.status, naive.status) == ("ok", "ok"), (fused.error, naive.error)
        assert (fused.dispatches, naive.dispatches) == (1.0, 5.0)
        assert fused.compiled.compile_ms > 0
        assert fused.check.max_abs_error < 0.01

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_openvino_computes_the_same(self, tmp_path, dtype):
        pytest.importorskip("openvino")
        config = replace(CONFIG, dtype=dtype)
        request = KernelRequest("npuscope.backends.mlp_openvino:model", "openvino:cpu", config)
        (item,) = measure_kernels([("openvino", request)], inputs_in(tmp_path, config), QUICK, rounds=3)
        assert item.status == "ok", item.error

    def test_flat_tokens_give_the_same_result(self, inputs):
        pytest.importorskip("jax")
        request = replace(NUMPY, target="npuscope.backends.mlp_jax:fused", device="jax:cpu", flat_tokens=True)
        (item,) = measure_kernels([("jax", request)], inputs, QUICK, rounds=3)
        assert item.status == "ok", item.error

    def test_what_was_compiled_is_kept(self, tmp_path):
        pytest.importorskip("jax")
        request = replace(NUMPY, target="npuscope.backends.mlp_jax:naive", device="jax:cpu")
        compiled = compile_kernel("naive", request, save_to=tmp_path, time_limit_s=60)
        assert compiled.cache is CacheStatus.DISABLED
        assert len(list(tmp_path.glob("*.hlo"))) == 4

    def test_a_compile_cache_is_used_from_the_second_process_on(self, tmp_path):
        pytest.importorskip("jax")
        request = replace(NUMPY, target="npuscope.backends.mlp_jax:fused", device="jax:cpu", compile_cache=tmp_path)
        statuses = [compile_kernel("jax", request, save_to=None, time_limit_s=60).cache for _ in range(2)]
        assert statuses == [CacheStatus.MISS, CacheStatus.HIT]

    def test_a_device_that_is_not_here_is_no_other(self):
        pytest.importorskip("jax")
        request = replace(NUMPY, target="npuscope.backends.mlp_jax:fused", device="jax:nowhere")
        with pytest.raises(UnavailableError, match="jax:nowhere is not available"):
            compile_kernel("jax", request, save_to=None, time_limit_s=60)
