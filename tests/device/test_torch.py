"""`torch:cpu` and, where there is one, `torch:cuda`."""

import pytest

from npuscope import MatmulProfiler, open_device
from npuscope.errors import UnavailableError, UsageError
from npuscope.hardware.host import detect_host_cpu
from tests.device import QUICK, WORST_ERROR, config, multiply

torch = pytest.importorskip("torch")

DTYPES = ("float32", "float16", "bfloat16")
DEVICES = (
    "torch:cpu",
    pytest.param(
        "torch:cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
    ),
)


@pytest.fixture(autouse=True)
def restored_precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", DEVICES)
def test_result_is_right(device, dtype):
    workload = config(dtype)
    assert multiply(open_device(device).compile(workload), workload) <= WORST_ERROR[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", DEVICES)
def test_row_says_what_ran(device, dtype):
    (row,) = MatmulProfiler(device).profile([config(dtype)], QUICK)
    assert (row.status, row.error, row.device, row.dtype) == ("ok", "", device, dtype)
    assert (row.compute_dtype, row.out_dtype) == (dtype, dtype)
    assert (row.compile_ms, row.compile_cache) == (None, "not-compiled")
    assert row.samples == 5
    assert row.latency_ms > 0


def test_float32_is_multiplied_in_float32_whatever_was_set_before():
    torch.set_float32_matmul_precision("medium")
    open_device("torch:cpu").compile(config())
    assert torch.get_float32_matmul_precision() == "highest"


def test_int8_is_refused_with_the_types_that_there_are():
    with pytest.raises(UsageError, match=r"torch:cpu has no int8 matmul; it has float32, float16, bfloat16"):
        open_device("torch:cpu").compile(config("int8"))


def test_fetched_result_survives_the_next_run():
    executable = open_device("torch:cpu").compile(config(shape=(2, 2, 2)))
    inputs = executable.place(*(torch.eye(2).numpy() for _ in range(2)))
    kept = executable.fetch(executable.run(inputs))
    inputs[0].zero_()
    executable.run(inputs)
    assert kept.tolist() == [[1, 0], [0, 1]]


def test_description_names_the_processor_and_torch():
    info = open_device("torch:cpu").describe()
    assert info.description == detect_host_cpu().model
    assert info.versions["torch"] == torch.__version__


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(UnavailableError, match=r"torch:cuda is not available: torch.cuda.is_available\(\) is False"):
        open_device("torch:cuda")
