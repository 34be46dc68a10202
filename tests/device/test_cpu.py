"""The host processor through NumPy, and what becomes of a device that lies."""

from dataclasses import replace

import numpy as np
import pytest

from npuscope import MatmulProfiler, open_device
from npuscope.backends.base import BackendOptions
from npuscope.backends.cpu import NumpyBackend
from npuscope.errors import MeasurementError, UsageError
from npuscope.hardware.host import detect_host_cpu
from tests.device import QUICK, SHAPE, WORST_ERROR, config, measure, multiply

DTYPES = ("float32", "float16", "bfloat16", "int8")
COMPUTES_IN = {"float32": "float32", "float16": "float16", "bfloat16": "float32", "int8": "int8"}
RETURNS = {"float32": "float32", "float16": "float16", "bfloat16": "float32", "int8": "int32"}


class SpoiledMatmul:
    """A matmul whose results are tampered with on their way back."""

    def __init__(self, inner, spoil):
        self._inner, self._spoil = inner, spoil
        self.report, self.place, self.run, self.synchronise = inner.report, inner.place, inner.run, inner.synchronise

    def fetch(self, output):
        return self._spoil(self._inner.fetch(output))


class LyingBackend(NumpyBackend):
    """The `cpu` device with spoiled results."""

    name = "liar"

    def __init__(self, spoil):
        super().__init__("cpu", BackendOptions())
        self._spoil = spoil

    def describe(self):
        return replace(super().describe(), name="liar")

    def compile(self, config):
        return SpoiledMatmul(super().compile(config), self._spoil)


class PickyBackend(NumpyBackend):
    """The `cpu` device, refusing one shape as an SDK does."""

    def __init__(self, refused, error):
        super().__init__("cpu", BackendOptions())
        self._refused, self._error = refused, error

    def compile(self, config):
        if config.shape == self._refused:
            raise self._error
        return super().compile(config)


class DyingBackend(NumpyBackend):
    """The `cpu` device, whose executions fail from a certain one on."""

    def __init__(self, healthy_runs):
        super().__init__("cpu", BackendOptions())
        self._left = healthy_runs

    def compile(self, config):
        executable = super().compile(config)
        healthy = executable.run

        def run(inputs):
            self._left -= 1
            if self._left < 0:
                raise OSError("device lost")
            return healthy(inputs)

        executable.run = run
        return executable


def rows_reversed(result):
    return np.ascontiguousarray(result[::-1])


def one_element_off(result):
    result[3, 5] += 1
    return result


def with_a_nan(result):
    result[-1, -1] = np.nan
    return result


@pytest.mark.parametrize("dtype", DTYPES)
def test_result_is_right(dtype):
    workload = config(dtype)
    assert multiply(open_device("cpu").compile(workload), workload) <= WORST_ERROR[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_row_says_what_ran(dtype):
    (row,) = MatmulProfiler("cpu").profile([config(dtype)], QUICK)
    assert (row.status, row.error, row.device, row.is_simulated) == ("ok", "", "cpu", False)
    assert (row.M, row.K, row.N, row.dtype) == (*SHAPE, dtype)
    assert (row.compute_dtype, row.out_dtype) == (COMPUTES_IN[dtype], RETURNS[dtype])
    assert row.samples == 5
    assert row.latency_ms > 0
    assert not row.includes_transfers


def test_nothing_is_compiled():
    (row,) = MatmulProfiler("cpu").profile([config()], QUICK)
    assert row.compile_ms is None
    assert row.compile_cache == "not-compiled"
    assert open_device("cpu").compile_count() == 0


def test_fetched_result_survives_the_next_run():
    workload = config()
    executable = open_device("cpu").compile(workload)
    ones, twos = np.ones((17, 33), np.float32), np.full((33, 9), 2, np.float32)
    inputs = executable.place(ones, twos)
    kept = executable.fetch(executable.run(inputs))
    inputs[0][:] = 0
    executable.run(inputs)
    assert np.all(kept == 66)


def test_description_names_the_processor_and_numpy():
    info = open_device("cpu").describe()
    assert info.description == detect_host_cpu().model
    assert info.versions["numpy"] == np.__version__
    assert info.dtypes == DTYPES


def test_compiler_log_is_refused_where_no_compiler_runs(tmp_path):
    with pytest.raises(UsageError, match="cpu has no compiler"):
        MatmulProfiler("cpu", compiler_log=tmp_path)


@pytest.mark.parametrize("spoil", [rows_reversed, one_element_off, with_a_nan])
def test_wrong_result_fails_the_row_and_leaves_no_latency(spoil, tmp_path):
    (row,) = measure(LyingBackend(spoil), tmp_path, config())
    assert row.status == "failed"
    assert row.error.startswith("wrong result: error of ")
    assert (row.latency_ms, row.gflop_per_s, row.samples, row.samples_ns) == (None, None, 0, ())


def test_nan_is_reported_as_an_infinite_error(tmp_path):
    (row,) = measure(LyingBackend(with_a_nan), tmp_path, config())
    assert "error of inf " in row.error


@pytest.mark.parametrize("spoil", [np.transpose, np.ravel, lambda result: result[:-1]])
def test_result_of_another_shape_fails_the_row(spoil, tmp_path):
    (row,) = measure(LyingBackend(spoil), tmp_path, config())
    assert row.status == "failed"
    assert row.error.startswith("wrong result: shape (")
    assert "is not (17, 9)" in row.error
    assert row.latency_ms is None


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_one_wrong_element_is_found_in_every_type(dtype, tmp_path):
    (row,) = measure(LyingBackend(one_element_off), tmp_path, config(dtype))
    assert row.status == "failed"


def test_result_in_a_shorter_type_than_reported_fails_the_row(tmp_path):
    (row,) = measure(LyingBackend(lambda result: result.astype(np.float16)), tmp_path, config())
    assert row.status == "failed"


@pytest.mark.parametrize("error", [MeasurementError("no such tile"), RuntimeError("SDK says no"), KeyError("tile")])
def test_refused_shape_fails_its_row_and_the_others_are_measured(error, tmp_path):
    shapes = ((4, 5, 6), (7, 8, 9), (10, 11, 12))
    rows = measure(PickyBackend((7, 8, 9), error), tmp_path, *(config(shape=shape) for shape in shapes))
    assert [row.status for row in rows] == ["ok", "failed", "ok"]
    assert str(error) in rows[1].error
    assert [row.latency_ms is None for row in rows] == [False, True, False]


def test_a_device_without_a_1x1x1_matmul_has_no_dispatch_floor(tmp_path):
    (row,) = measure(PickyBackend((1, 1, 1), RuntimeError("too small")), tmp_path, config())
    assert row.status == "ok"
    assert (row.dispatch_floor_ms, row.dispatch_share, row.floor_samples_ns) == (None, None, ())


def test_an_execution_that_fails_while_sampled_fails_the_row(tmp_path):
    (row,) = measure(DyingBackend(healthy_runs=50), tmp_path, config())
    assert row.status == "failed"
    assert row.error == "OSError: device lost"
    assert row.latency_ms is None
