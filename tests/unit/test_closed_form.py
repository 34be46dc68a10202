"""The closed form says of matmuls what the simulator says, for many at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npuscope.errors import UsageError
from npuscope.simulate.neuroncore.closed_form import CLOSED_FORM, predict_matmuls, predicted_columns
from npuscope.simulate.neuroncore.devices import MODEL_NAME, SIMULATED_CHIPS, load_device
from npuscope.simulate.neuroncore.machine import run_program
from npuscope.simulate.neuroncore.matmul_program import matmul_program
from npuscope.workloads.matmul import MatmulConfig
from npuscope.workloads.suites import load_suite

TYPES = ("float32", "float16", "bfloat16")


def simulated_ns(shape: tuple[int, int, int], dtype: str, chip: str) -> float:
    device = load_device(chip)
    return run_program(matmul_program(MatmulConfig(*shape, dtype), device.sbuf_usable_bytes), device).total_ps / 1e3


@pytest.mark.parametrize("chip", SIMULATED_CHIPS)
@pytest.mark.parametrize("dtype", TYPES)
def test_the_quick_suite_agrees_with_the_simulator_within_10_percent(chip: str, dtype: str) -> None:
    shapes = load_suite("quick").shapes
    predicted = predict_matmuls(shapes, dtype, load_device(chip)).device_time_ns
    assert predicted == pytest.approx([simulated_ns(shape, dtype, chip) for shape in shapes], rel=0.1)


@pytest.mark.parametrize("chip", ["trn1", "trn2", "trn3"])
def test_the_median_shape_of_the_sweep_agrees_within_5_percent(chip: str) -> None:
    shapes = [shape for shape in load_suite("sweep").shapes[::17] if np.prod(shape) <= 1 << 30]
    predicted = predict_matmuls(shapes, "bfloat16", load_device(chip)).device_time_ns
    errors = np.abs(predicted / [simulated_ns(shape, "bfloat16", chip) for shape in shapes] - 1)
    assert np.median(errors) < 0.05
    assert errors.max() < 0.25


def test_many_at_once_are_what_each_is_alone() -> None:
    device = load_device("trn2")
    shapes = load_suite("boundary").shapes
    together = predict_matmuls(shapes, "float32", device)
    alone = [predict_matmuls([shape], "float32", device) for shape in shapes]
    assert together.device_time_ns.tolist() == [each.device_time_ns[0] for each in alone]
    assert together.bound == tuple(each.bound[0] for each in alone)
    assert together.busy_ns.T.tolist() == [each.busy_ns[:, 0].tolist() for each in alone]


@given(
    shape=st.tuples(st.integers(1, 5000), st.integers(1, 9000), st.integers(1, 5000)),
    more=st.integers(1, 20),
    chip=st.sampled_from(["trn1", "trn2", "trn3"]),
    dtype=st.sampled_from(TYPES),
)
@settings(max_examples=30, deadline=None)
def test_more_whole_row_tiles_take_longer(shape: tuple[int, int, int], more: int, chip: str, dtype: str) -> None:
    M, K, N = shape
    less, greater = predict_matmuls([shape, (M + 128 * more, K, N)], dtype, load_device(chip)).device_time_ns
    assert greater > less


@given(shape=st.tuples(st.integers(1, 5000), st.integers(1, 9000), st.integers(1, 5000)), dtype=st.sampled_from(TYPES))
@settings(max_examples=30, deadline=None)
def test_nothing_is_faster_than_the_peak_or_than_what_is_busiest(shape: tuple[int, int, int], dtype: str) -> None:
    found = predict_matmuls([shape], dtype, load_device("trn1"))
    assert 0 < found.utilisation[0] <= 1
    assert found.busy_ns.max() <= found.device_time_ns[0] * (1 + 1e-9)


@pytest.mark.parametrize(
    ("shape", "bound"),
    [((64, 64, 64), "dependency"), ((4096, 4096, 4096), "tensor"), ((1, 8192, 8192), "dma")],
)
def test_the_bound_is_what_is_busiest_or_waiting(shape: tuple[int, int, int], bound: str) -> None:
    assert predict_matmuls([shape], "bfloat16", load_device("trn2")).bound == (bound,)


def test_columns_name_device_model_and_unit_once_per_device() -> None:
    configs = [MatmulConfig(128, 128, 512, dtype) for dtype in ("float32", "bfloat16")]
    columns = predicted_columns(configs, ["trn2", "sim:TRN2", "inf2"])
    parts = ("model", "device_time_ms", "bound", "utilisation")
    assert list(columns) == [f"predicted_{device}_{part}" for device in ("trn2", "inf2") for part in parts]
    assert columns["predicted_trn2_model"] == [CLOSED_FORM] * 2
    assert MODEL_NAME in CLOSED_FORM
    single = predict_matmuls([(128, 128, 512)], "bfloat16", load_device("trn2"))
    assert columns["predicted_trn2_device_time_ms"][1] == single.device_time_ns[0] / 1e6


def test_an_unknown_device_and_a_type_it_does_not_multiply_are_refused() -> None:
    with pytest.raises(UsageError, match="sim:trn2"):
        predicted_columns([MatmulConfig(1, 1, 1)], ["trn22"])
    with pytest.raises(UsageError, match="int8"):
        predicted_columns([MatmulConfig(1, 1, 1, "int8")], ["trn2"])
