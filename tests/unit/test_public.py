"""The public names, the public matmul profiler's few lines, and the registry of devices."""

import csv
import sys

import pytest

import npuscope
from npuscope.backends.registry import NpuNode, find_npu_nodes, open_auto, open_device
from npuscope.errors import MeasurementError, UnavailableError, UsageError
from npuscope.measure.settings import Settings


def test_every_public_name_is_there():
    assert all(getattr(npuscope, name) is not None for name in npuscope.__all__)


def test_importing_the_package_imports_no_numpy():
    import subprocess

    code = "import npuscope, sys; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_public_matmul_profilers_lines_work(tmp_path):
    from npuscope import MatmulConfig, NPUMatmulProfiler

    profiler = NPUMatmulProfiler(use_neuron=False)
    assert profiler.device == "cpu"
    result = profiler.profile_single_matmul(MatmulConfig(M=256, K=512, N=512), warmup=2, iterations=5)
    assert result.latency_ms > 0
    assert (result.total_tiles, result.num_tiles_M, result.num_tiles_K, result.num_tiles_N) == (8, 2, 4, 1)
    profiler.save_results_to_csv([result], tmp_path / "new" / "results.csv")
    read = next(csv.DictReader((tmp_path / "new" / "results.csv").open()))
    assert float(read["latency_ms"]) == result.latency_ms


def test_use_neuron_never_falls_back():
    with pytest.raises(UnavailableError):
        npuscope.MatmulProfiler(use_neuron=True)


def test_a_shape_that_cannot_be_measured_raises():
    with pytest.raises(MeasurementError, match="bytes"):
        npuscope.MatmulProfiler("cpu").profile_single_matmul(npuscope.MatmulConfig(1 << 18, 1 << 18, 1 << 18))


def test_counts_are_kept_to_and_every_sample_is_stored():
    profiler = npuscope.MatmulProfiler("cpu")
    (row,) = profiler.profile([npuscope.MatmulConfig(8, 8, 8)], Settings(warmup=3, iterations=12))
    assert row.samples == len(row.samples_ns) == 12
    assert row.rounds == 5
    assert row.warmup_runs == len(row.warmup_ns) == 3
    assert row.warmup_steady is None
    assert row.floor_samples_ns


def test_small_shapes_are_said_to_time_dispatch():
    profiler = npuscope.MatmulProfiler("cpu")
    (row,) = profiler.profile([npuscope.MatmulConfig(2, 2, 2)], Settings(max_seconds=0.2))
    assert "dispatch-floor" in row.warnings
    assert row.dispatch_share > 0.5


@pytest.mark.parametrize("name", ["cpuu", "neuronn", "openvino:gpux", "jax:", "jax:c pu", "", "xdna:0", "sim:trn2"])
def test_unknown_devices_are_refused(name):
    with pytest.raises(UsageError, match="unknown device"):
        open_device(name)


def test_auto_takes_the_cpu_where_no_npu_is_and_says_so():
    backend, line = open_auto(nodes=[])
    assert backend.name == "cpu"
    assert line == "auto: cpu (no NPU found)"


def test_auto_says_that_an_npu_is_there_whose_sdk_is_missing():
    if "torch_neuronx" in sys.modules:
        pytest.skip("the SDK is here")
    backend, line = open_auto(nodes=[NpuNode("/dev/neuron0", "neuron", "AWS Neuron device")])
    assert backend.name == "cpu"
    assert "AWS Neuron device at /dev/neuron0" in line


def test_npus_are_found_by_their_device_nodes(tmp_path):
    (tmp_path / "dev/accel").mkdir(parents=True)
    for name in ("neuron0", "neuron1", "neuron_x", "accel/accel0", "accel/accel1"):
        (tmp_path / "dev" / name).touch()
    drivers = tmp_path / "sys/bus/drivers"
    for index, driver in enumerate(("intel_vpu", "amdxdna")):
        (drivers / driver).mkdir(parents=True)
        device = tmp_path / f"sys/class/accel/accel{index}/device"
        device.mkdir(parents=True)
        (device / "driver").symlink_to(drivers / driver)
    found = find_npu_nodes(tmp_path / "dev", tmp_path / "sys")
    assert [(node.device, node.path.rsplit("/", 1)[1]) for node in found] == [
        ("neuron", "neuron0"),
        ("neuron", "neuron1"),
        ("openvino:npu", "accel0"),
        ("xdna", "accel1"),
    ]


def test_the_compiler_log_is_for_the_device_that_has_one(tmp_path):
    from npuscope.backends.base import BackendOptions

    with pytest.raises(UsageError, match="--compiler-log"):
        open_device("cpu", BackendOptions(compiler_log=tmp_path))


def test_memory_is_refused_by_what_measuring_takes_in_all():
    """A column of B is widened to float64 for the reference, however long it is."""
    from npuscope.measure.sweep import bytes_needed

    assert bytes_needed(npuscope.MatmulConfig(1, 100_000_000, 1, "int8")) > 3 * 2**30
