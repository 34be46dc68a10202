"""`jax:cpu` for real, and what is refused in its place."""

import importlib.util

import pytest

from npuscope import MatmulProfiler, open_device
from npuscope.errors import UnavailableError, UsageError
from npuscope.hardware.host import detect_host_cpu
from tests.device import QUICK, WORST_ERROR, config, multiply

jax = pytest.importorskip("jax")

DTYPES = ("float32", "float16", "bfloat16", "int8")
HERE = {device.platform for device in jax.devices()} | {"cpu"}
CACHE_SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture
def cache_folder(tmp_path):
    """JAX's persistent cache in an empty folder, with JAX's own thresholds."""
    from jax.experimental.compilation_cache import compilation_cache

    before = {name: getattr(jax.config, name) for name in CACHE_SETTINGS}
    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    jax.clear_caches()


@pytest.fixture
def cache_of_everything(cache_folder):
    """The same, keeping programs however fast they compile and however small they are."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return cache_folder


@pytest.mark.parametrize("dtype", DTYPES)
def test_result_is_right(dtype):
    workload = config(dtype)
    assert multiply(open_device("jax:cpu").compile(workload), workload) <= WORST_ERROR[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_row_says_what_ran(dtype):
    (row,) = MatmulProfiler("jax:cpu").profile([config(dtype)], QUICK)
    assert (row.status, row.error, row.device, row.dtype) == ("ok", "", "jax:cpu", dtype)
    assert (row.compute_dtype, row.out_dtype) == (dtype, "int32" if dtype == "int8" else dtype)
    assert row.compile_ms > 0
    assert row.samples == 5
    assert row.latency_ms > 0
    assert "compile-in-timed-region" not in row.warnings


def test_compiling_takes_longer_than_running():
    (row,) = MatmulProfiler("jax:cpu").profile([config()], QUICK)
    assert row.compile_ms > 10 * row.latency_ms


def test_every_compilation_is_counted_once():
    backend = open_device("jax:cpu")
    before = backend.compile_count()
    executables = [backend.compile(config(shape=(size, 3, 4))) for size in (2, 5)]
    assert backend.compile_count() == before + 2
    for executable in executables:
        workload = config(shape=(2, 3, 4) if executable is executables[0] else (5, 3, 4))
        multiply(executable, workload)
    assert backend.compile_count() == before + 2


def test_a_second_backend_does_not_count_twice():
    first, second = open_device("jax:cpu"), open_device("jax:cpu")
    before = first.compile_count()
    second.compile(config())
    assert first.compile_count() == second.compile_count() == before + 1


def test_cache_is_disabled_where_none_is_set_up():
    if jax.config.jax_compilation_cache_dir:
        pytest.skip("this environment sets up a JAX cache")
    assert open_device("jax:cpu").compile(config()).report.cache.value == "disabled"


def test_persistent_cache_misses_first_and_hits_then(cache_of_everything):
    statuses = []
    for _ in range(2):
        jax.clear_caches()
        (row,) = MatmulProfiler("jax:cpu").profile([config()], QUICK)
        assert row.status == "ok"
        statuses.append(row.compile_cache)
    assert statuses == ["miss", "hit"]
    assert any(cache_of_everything.iterdir())


def test_a_program_from_the_cache_multiplies_right(cache_of_everything):
    workload = config("bfloat16")
    for _ in range(2):
        jax.clear_caches()
        executable = open_device("jax:cpu").compile(workload)
    assert executable.report.cache.value == "hit"
    assert multiply(executable, workload) <= WORST_ERROR["bfloat16"]


def test_program_too_quick_to_be_kept_is_a_miss_of_the_cache(cache_folder):
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 3600)
    assert open_device("jax:cpu").compile(config()).report.cache.value == "miss"


def test_operands_of_another_shape_are_refused_by_the_compiled_program():
    executable = open_device("jax:cpu").compile(config(shape=(4, 5, 6)))
    with pytest.raises(TypeError):
        multiply(executable, config(shape=(4, 7, 6)))


def test_description_names_the_processor_and_jax():
    info = open_device("jax:cpu").describe()
    assert info.description == detect_host_cpu().model
    assert info.versions["jax"] == jax.__version__
    assert info.dtypes == DTYPES


@pytest.mark.skipif("neuron" in HERE, reason="a NeuronCore is here")
def test_neuron_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.delenv("NEURON_RUN_TRIVIAL_COMPUTATION_ON_CPU", raising=False)
    with pytest.raises(UnavailableError, match=r"jax:neuron is not available: JAX says: .*neuron") as caught:
        open_device("jax:neuron")
    assert caught.value.exit_code == 4
    assert "jax-neuronx" in caught.value.remedy


@pytest.mark.parametrize("value", ["1", "true"])
def test_neuron_that_would_multiply_on_the_host_is_refused_for_that_reason(value, monkeypatch):
    monkeypatch.setenv("NEURON_RUN_TRIVIAL_COMPUTATION_ON_CPU", value)
    with pytest.raises(UnavailableError, match="run matmuls on the host") as caught:
        open_device("jax:neuron")
    assert caught.value.remedy == "unset NEURON_RUN_TRIVIAL_COMPUTATION_ON_CPU"


def test_host_variable_of_neuron_does_not_concern_other_platforms(monkeypatch):
    monkeypatch.setenv("NEURON_RUN_TRIVIAL_COMPUTATION_ON_CPU", "1")
    assert open_device("jax:cpu").name == "jax:cpu"


@pytest.mark.skipif("tpu" in HERE or importlib.util.find_spec("libtpu") is not None, reason="a TPU may be here")
def test_other_platform_is_refused_and_never_replaced_by_the_host():
    with pytest.raises(UnavailableError, match="jax:tpu is not available"):
        open_device("jax:tpu")


def test_platform_that_is_no_word_is_a_usage_error():
    with pytest.raises(UsageError, match="unknown device"):
        open_device("jax:")
