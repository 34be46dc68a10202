"""`openvino:cpu` for real; `openvino:npu` where it is missing."""

import subprocess
import sys

import numpy as np
import pytest

from npuscope import MatmulProfiler, open_device
from npuscope.errors import UnavailableError, UsageError
from tests.device import QUICK, WORST_ERROR, config, multiply

sys.modules.setdefault("openvino_telemetry", None)  # the import below would report itself to Google Analytics
ov = pytest.importorskip("openvino")

DTYPES = ("float32", "float16", "bfloat16")
FULL_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
AVAILABLE = ov.Core().available_devices
EMULATED_BFLOAT16 = pytest.mark.skipif(
    "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="OpenVINO's bfloat16 on a processor without it: results up to one step off the nearest, which is reported as wrong",
)
ROUNDED_TO_NEAREST = ("float32", "float16", pytest.param("bfloat16", marks=EMULATED_BFLOAT16))


def has(plugin):
    return any(name.split(".")[0] == plugin for name in AVAILABLE)


if not has("CPU"):
    pytest.skip("this OpenVINO has no CPU plugin", allow_module_level=True)


def runtime_precision(dtype):
    """The type in which OpenVINO's own graph multiplies, asked of a model that is built here."""
    kind = {full: short for short, full in FULL_NAMES.items()}[dtype]
    a, b = (ov.opset13.parameter(shape, getattr(ov.Type, kind)) for shape in ([17, 33], [33, 9]))
    model = ov.Model([ov.opset13.matmul(a, b, False, False)], [a, b])
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": kind})
    precisions = {}
    for op in compiled.get_runtime_model().get_ops():
        info = op.get_rt_info()
        precisions[str(info["layerType"].astype(str))] = str(info["runtimePrecision"].astype(str))
    (product,) = precisions.keys() & {"MatMul", "FullyConnected"}
    return FULL_NAMES[precisions[product]]


def worst_error(executable, dtype):
    """Of the type that is multiplied in, where that is the coarser one: processors without float16 may take bfloat16."""
    computed_in = WORST_ERROR[executable.report.compute_dtype]
    return WORST_ERROR[dtype] + (
        2 * computed_in if computed_in > WORST_ERROR[dtype] else 0
    )  # both operands are rounded


def cached(backend, folder):
    """The backend with OpenVINO's model cache; npuscope has no option for it."""
    backend._core.set_property({"CACHE_DIR": str(folder)})
    return backend


@pytest.mark.parametrize("dtype", DTYPES)
def test_result_is_right(dtype):
    workload = config(dtype)
    executable = open_device("openvino:cpu").compile(workload)
    assert multiply(executable, workload) <= worst_error(executable, dtype)


@pytest.mark.parametrize("dtype", ROUNDED_TO_NEAREST)
def test_row_says_what_ran(dtype):
    (row,) = MatmulProfiler("openvino:cpu").profile([config(dtype)], QUICK)
    assert (row.status, row.error, row.device, row.dtype) == ("ok", "", "openvino:cpu", dtype)
    assert row.out_dtype == dtype
    assert row.compile_ms > 0
    assert row.compile_cache == "disabled"
    assert row.samples == 5
    assert row.latency_ms > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_compute_type_is_what_the_executed_graph_uses(dtype):
    assert open_device("openvino:cpu").compile(config(dtype)).report.compute_dtype == runtime_precision(dtype)


@pytest.mark.skipif("FP16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"), reason="a CPU with float16")
def test_float16_on_a_processor_without_it_is_reported_as_another_type():
    report = open_device("openvino:cpu").compile(config("float16")).report
    assert report.compute_dtype in {"float32", "bfloat16"}
    assert report.out_dtype == "float16"


@pytest.mark.parametrize("dtype", ROUNDED_TO_NEAREST)
def test_operands_of_different_shapes_in_turn_are_multiplied_right(dtype):
    backend = open_device("openvino:cpu")
    workloads = [config(dtype, shape) for shape in ((5, 64, 3), (5, 64, 3), (1, 1, 1), (64, 2, 31))]
    executables = [backend.compile(workload) for workload in workloads]
    for seed, (executable, workload) in enumerate(zip(executables, workloads, strict=True)):
        assert multiply(executable, workload, seed) <= worst_error(executable, dtype)


def test_fetched_result_survives_the_next_run():
    workload = config()
    executable = open_device("openvino:cpu").compile(workload)
    tensors = executable.place(np.ones((17, 33), np.float32), np.full((33, 9), 2, np.float32))
    kept = executable.fetch(executable.run(tensors))
    tensors[0].data[:] = 0
    executable.run(tensors)
    assert np.all(kept == 66)


def test_int8_is_refused_with_the_types_that_there_are():
    with pytest.raises(UsageError, match="openvino:cpu has no int8 matmul; it has float32, float16, bfloat16"):
        open_device("openvino:cpu").compile(config("int8"))


def test_int8_fails_its_row_and_the_others_are_measured():
    rows = MatmulProfiler("openvino:cpu").profile([config("int8"), config()], QUICK)
    assert [row.status for row in rows] == ["failed", "ok"]
    assert rows[0].latency_ms is None


def test_model_cache_misses_on_an_empty_folder(tmp_path):
    backend = cached(open_device("openvino:cpu"), tmp_path)
    assert backend.compile(config()).report.cache.value == "miss"
    assert list(tmp_path.glob("*.blob"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_model_cache_hits_on_the_second_compilation(dtype, tmp_path):
    backend = cached(open_device("openvino:cpu"), tmp_path)
    backend.compile(config(dtype))
    assert backend.compile(config(dtype)).report.cache.value == "hit"


def test_compilations_are_not_counted():
    assert open_device("openvino:cpu").compile_count() is None


def test_description_names_the_device_and_openvino():
    info = open_device("openvino:cpu").describe()
    assert info.description == ov.Core().get_property("CPU", "FULL_DEVICE_NAME")
    assert info.versions == {"openvino": ov.__version__}
    assert info.dtypes == DTYPES


@pytest.mark.skipif(has("NPU"), reason="an Intel NPU is here")
def test_npu_is_refused_where_there_is_none():
    with pytest.raises(UnavailableError, match="openvino:npu is not available: OpenVINO finds no NPU device") as caught:
        open_device("openvino:npu")
    assert caught.value.exit_code == 4
    assert "driver" in caught.value.remedy


def test_opening_a_device_sends_no_telemetry():
    code = (
        "import sys; from npuscope import open_device; open_device('openvino:cpu'); "
        "sys.exit(sys.modules.get('openvino_telemetry') is not None)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
