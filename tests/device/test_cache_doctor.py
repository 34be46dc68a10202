"""The recompilation doctor on programs that recompile for a known reason, counted by JAX and by a stand-in for torch_xla."""

import importlib.util
import sys
from pathlib import Path

import pytest

from npuscope.analysis.recompile_runs import diagnose_runs
from npuscope.errors import MeasurementError, UsageError
from npuscope.measure.watching import parse_target, watch_target

PLANTED = Path(__file__).parent.parent / "recompiling"
STAND_IN = Path(__file__).parent.parent / "standins" / "torch_xla_counts"
needs_jax = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="JAX is not installed: pip install 'npuscope[jax]'"
)
_VARIABLES = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "JAX_DUMP_IR_TO", "XLA_FLAGS")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def diagnosed(name, *arguments, **options):
    target = parse_target(str(PLANTED / name))
    return diagnose_runs(name, watch_target(target, arguments, **{"time_limit_s": 120.0, **options}))


@needs_jax
@pytest.mark.parametrize(
    ("script", "cause", "calls", "compiles", "evidence"),
    [
        ("stable", "none", 5, 1, ""),
        ("few_shapes", "none", 30, 3, ""),
        ("shape_change", "shape-change", 4, 4, "argument 0: float32[8,8] -> float32[9,8]"),
        ("dtype_change", "dtype-change", 4, 2, "argument 0: float32[8] -> bfloat16[8]"),
        ("weak_type", "dtype-change", 4, 2, "argument 1: float32[] -> Python float"),
        ("constant_embedded", "constant-embedded", 4, 4, "f32[] 0.5 -> f32[] 0.25"),
        ("new_function", "new-function", 4, 4, "another function object of <lambda>"),
        ("static_argument", "static-argument", 4, 4, "argument position: 0 -> 1"),
        ("static_default", "shape-change", 4, 4, "argument 0: float32[8] -> float32[9]"),
        ("unstable_names", "unstable-names", 4, 4, "is called jit_step_0 and then jit_step_1"),
        ("structure_change", "structure-change", 3, 3, "new argument 0['mask']"),
        ("placement_change", "placement-change", 3, 3, "CpuDevice(id=1)"),
        ("flags_differ", "flags-differ", 3, 3, "jax_default_matmul_precision: float32 -> bfloat16"),
        ("cache_not_kept", "cache-not-kept", 4, 4, "the same program of the same function was compiled before"),
        ("program_change", "program-change", 3, 3, "1 more sine f32[8] (program_change.py:10)"),
        ("eager", "eager", 11, 5, "JAX's own convert_element_type"),
    ],
)
def test_a_planted_cause_is_found_and_counted(script, cause, calls, compiles, evidence):
    diagnosis = diagnosed(f"{script}.py")
    assert (diagnosis.cause, diagnosis.calls, diagnosis.compiles) == (cause, calls, compiles)
    assert diagnosis.cache_hits == calls - compiles
    again = 0 if cause in ("none", "eager") else compiles - 1
    assert (diagnosis.recompiles, diagnosis.status) == (again, "ok")
    if evidence:
        assert evidence in diagnosis.findings[0].evidence[0]
    if again:
        assert diagnosis.findings[0].cost_ms == pytest.approx(diagnosis.recompile_ms)
        assert diagnosis.functions[0].cause == cause
        assert f"{script}.py:" in diagnosis.functions[0].defined


HEAD = "import functools, sys, threading\nimport jax\nimport numpy as np\nx = np.ones(8, 'float32')\n"
LOSS = "def loss(scale, x):\n    return (x * scale).sum()\n"
AHEAD = "program = jax.jit(f).lower(x).compile()\nfor _ in range(5):\n    program(x)\n"


@needs_jax
@pytest.mark.parametrize(
    ("body", "calls", "compiles", "cause"),
    [
        (LOSS + "f = jax.jit(functools.partial(loss, 1.0))\n[f(x) for _ in range(10)]\n", 10, 1, "none"),
        (LOSS + "[jax.jit(functools.partial(loss, 1.0))(x) for _ in range(4)]\n", 4, 4, "new-function"),
        ("class N:\n    def __call__(self, x):\n        return x * 2\nf = jax.jit(N())\n[f(x) for _ in range(10)]\n", 10, 1, "none"),
        ("class N:\n    def go(self, x):\n        return x * 2\nf = jax.jit(N().go)\n[f(x) for _ in range(3)]\n", 3, 1, "none"),
        ("def f(x):\n    return x * 3\n" + AHEAD, 5, 1, "none"),
        ("def f(x):\n    return x * 3\n" + AHEAD + "g = jax.jit(f)\n[g(x) for _ in range(3)]\n", 8, 1, "none"),
        ("def f(x):\n    jax.debug.callback(lambda: None)\n    return x * 3\n" + AHEAD, None, 1, "none"),
    ],
)  # fmt: skip
def test_calls_are_counted_from_the_first_on_whatever_is_jitted(tmp_path, body, calls, compiles, cause):
    (tmp_path / "script.py").write_text(HEAD + body)
    diagnosis = diagnosed(tmp_path / "script.py")
    assert diagnosis.status == "ok"
    assert (diagnosis.calls, diagnosis.compiles, diagnosis.cause) == (calls, compiles, cause)
    ahead = body.count(".lower(")
    assert diagnosis.cache_hits == (None if calls is None else calls - compiles + ahead)
    assert any("ahead of time" in note for note in diagnosis.notes) == (calls is None)


@needs_jax
def test_calls_of_several_threads_are_all_counted(tmp_path):
    (tmp_path / "script.py").write_text(
        HEAD + "f = jax.jit(lambda x: x @ x)\n"
        "threads = [threading.Thread(target=lambda: [f(x) for _ in range(50)]) for _ in range(4)]\n"
        "[one.start() for one in threads]\n[one.join() for one in threads]\n"
    )
    diagnosis = diagnosed(tmp_path / "script.py")
    assert (diagnosis.calls, diagnosis.cache_hits) == (200, 200 - diagnosis.compiles)


KIDS = (
    "import multiprocessing, os, subprocess, sys\n"
    "def work():\n    pass\n"
    "if __name__ == '__main__':\n"
    "    kind = sys.argv[1]\n"
    "    if kind == 'subprocess':\n"
    "        [subprocess.run([sys.executable, '-c', '']) for _ in range(2)]\n"
    "    elif kind == 'shell':\n"
    "        [os.system(sys.executable + ' -c 1') for _ in range(2)]\n"
    "    elif kind == 'os.fork':\n"
    "        for _ in range(2):\n"
    "            if not os.fork():\n                os._exit(0)\n            os.wait()\n"
    "    elif kind == 'tools':\n"
    "        import ctypes.util, platform\n"
    "        platform.processor(); ctypes.util.find_library('c'); subprocess.run('uname -a; true', shell=True)\n"
    "    elif kind == 'unheard':\n"
    "        from multiprocessing.util import spawnv_passfds\n"
    "        spawnv_passfds(os.fsencode(sys.executable), [b'python', b'-c', b'import time; time.sleep(60)'], [])\n"
    "    else:\n"
    "        each = [multiprocessing.get_context(kind).Process(target=work) for _ in range(2)]\n"
    "        [one.start() for one in each]\n"
    "        [one.join() for one in each]\n"
)


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("fork", 2),
        ("spawn", 2),
        ("forkserver", 2),
        ("subprocess", 2),
        ("shell", 2),
        ("os.fork", 2),
        ("tools", 0),
        ("unheard", 1),
    ],
)
def test_processes_of_the_programs_own_are_counted_however_they_are_started(tmp_path, kind, count):
    (tmp_path / "script.py").write_text(KIDS)
    (run,) = watch_target(parse_target(str(tmp_path / "script.py")), [kind], time_limit_s=120.0)
    assert (run.status, run.processes) == (0, count)


@needs_jax
@pytest.mark.parametrize(("kind", "processes"), [("none", 0), ("spawn", 2), ("fork", 2), ("subprocess", 1)])
def test_what_child_processes_compile_is_said_not_to_be_counted(kind, processes):
    diagnosis = diagnosed("in_processes.py", kind)
    assert diagnosis.status == "ok"
    words = f"{processes} process{'es' * (processes > 1)} of its own ran"
    assert any(note.startswith(words) for note in diagnosis.notes) == bool(processes)
    if processes:
        assert (diagnosis.recompiles, diagnosis.cause, diagnosis.compiles) == (None, "not-seen", 0)
        assert diagnosis.summary.startswith(words)
    else:
        assert (diagnosis.recompiles, diagnosis.cause, diagnosis.compiles) == (0, "none", 1)


@needs_jax
def test_without_a_persistent_cache_each_process_compiles_again():
    diagnosis = diagnosed("persistent.py", runs=2)
    assert (diagnosis.cause, diagnosis.recompiles, diagnosis.compiles, diagnosis.disk_hits) == ("cache-off", 1, 2, 0)


@needs_jax
@pytest.mark.parametrize(
    ("folder", "least_s", "cause", "disk_hits"),
    [("cache", "0", "none", 1), ("cache", "1", "too-fast-to-cache", 0), ("file/cache", "0", "cache-not-writable", 0)],
)
def test_what_a_second_process_finds_is_up_to_the_cache(tmp_path, monkeypatch, folder, least_s, cause, disk_hits):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / folder))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", least_s)
    diagnosis = diagnosed("persistent.py", runs=2)
    assert (diagnosis.cause, diagnosis.disk_hits, diagnosis.recompiles) == (cause, disk_hits, 1 - disk_hits)


@needs_jax
def test_a_cache_of_each_process_is_told_as_not_shared(tmp_path):
    diagnosis = diagnosed("cache_not_shared.py", str(tmp_path), runs=2)
    assert diagnosis.cause == "cache-not-shared"
    assert str(tmp_path) in diagnosis.findings[0].evidence[0]


@needs_jax
@pytest.mark.parametrize(
    ("function", "each", "cause"), [("steady", [1, 0, 0], "none"), ("growing", [1, 1, 1], "shape-change")]
)
def test_a_function_is_called_often_and_each_call_is_told(function, each, cause):
    diagnosis = diagnosed(f"functions.py:{function}", calls=3)
    assert [call["compiles"] for call in diagnosis.calls_detail] == each
    assert (diagnosis.calls, diagnosis.compiles, diagnosis.cache_hits) == (3, sum(each), each.count(0))
    assert diagnosis.cause == cause


@needs_jax
def test_a_program_that_fails_is_told_with_the_counts_until_then(capfd):
    diagnosis = diagnosed("failing.py")
    assert (diagnosis.status, diagnosis.cause, diagnosis.compiles) == ("failed", "shape-change", 2)
    assert "ValueError: no such batch" in diagnosis.notes[0]
    assert capfd.readouterr().out == ""


@needs_jax
def test_a_program_that_is_interrupted_is_told_with_the_counts_until_then():
    diagnosis = diagnosed("interrupted.py")
    assert (diagnosis.status, diagnosis.compiles, diagnosis.calls) == ("failed", 1, 1)
    assert "KeyboardInterrupt" in diagnosis.notes[0]


def test_a_program_that_hangs_is_ended(tmp_path):
    script = tmp_path / "hanging.py"
    script.write_text("import time\ntime.sleep(3600)\n")
    (run,) = watch_target(parse_target(str(script)), time_limit_s=4.0)
    assert run.status != 0
    assert "took longer than 4 s" in run.error


def test_a_program_that_ends_its_process_leaves_no_record(tmp_path):
    script = tmp_path / "leaving.py"
    script.write_text("import os\nos._exit(7)\n")
    with pytest.raises(MeasurementError, match="ended with status 7"):
        watch_target(parse_target(str(script)))


@needs_jax
def test_what_the_program_sees_is_not_changed(tmp_path, capfd):
    script = tmp_path / "looking.py"
    script.write_text(
        "import sys\n"
        "assert 'jax' not in sys.modules and 'numpy' not in sys.modules\n"
        "import logging, os\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "import jax\n"
        "jax.config.update('jax_platforms', 'cpu')\n"  # refused once a platform is initialised
        "assert jax.__spec__.loader is jax.__loader__ and type(jax.__loader__).__name__ == 'SourceFileLoader'\n"
        "@jax.jit\n"
        "def step(x):\n"
        "    return x * 2\n"
        "assert type(step) is type(jax.jit(lambda x: x)) and step.__name__ == 'step'\n"
        "step(1.0)\n"
        "jax.profiler.start_trace(sys.argv[1])\n"
        "step(1.0)\n"
        "jax.profiler.stop_trace()\n"
        "assert __name__ == '__main__' and sys.modules['__main__'].step is step\n"
        "assert sys.argv[2:] == ['--check', 'x'] and not os.environ.get('JAX_DUMP_IR_TO')\n"
    )
    target = parse_target(str(script))
    (run,) = watch_target(target, [str(tmp_path / "trace"), "--check", "x"])
    told = capfd.readouterr().err
    assert (run.status, run.error) == (0, ""), told
    assert "hash of serialized" not in told
    assert run.calls is None
    assert "profile of its own" in run.calls_missing
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


@needs_jax
def test_a_program_that_removes_our_listeners_is_told(tmp_path):
    script = tmp_path / "clearing.py"
    script.write_text(
        "import jax\njax.jit(lambda x: x)(1.0)\n"
        "from jax._src import monitoring\nmonitoring.clear_event_listeners()\njax.jit(lambda x: x + 1)(1.0)\n"
    )
    (run,) = watch_target(parse_target(str(script)))
    assert len(run.compiles) == 1
    assert "removed JAX's listeners" in run.notes[0]


@needs_jax
def test_transformations_of_one_function_are_kept_apart(tmp_path):
    script = tmp_path / "transforming.py"
    script.write_text(
        "import jax, numpy as np\n"
        "@jax.jit\ndef loss(w, x):\n    return (w * x).sum()\n"
        "slope = jax.jit(jax.grad(loss))\n"
        "w = np.ones(4, 'float32')\n"
        "for _ in range(3):\n    loss(w, w); slope(w, w); jax.grad(loss)(w, w); jax.vmap(loss)(w[None], w[None])\n"
    )
    diagnosis = diagnose_runs("t", watch_target(parse_target(str(script))))
    assert (diagnosis.recompiles, diagnosis.status) == (0, "ok")
    names = {row.name for row in diagnosis.functions if not row.is_own}
    assert {"loss", "grad(loss)"} <= names
    assert len(names) >= 3  # what jax.grad and jax.vmap compile when they run at once


def test_graphs_of_torch_xla_are_counted_by_its_own_counters(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))
    script = tmp_path / "train.py"
    script.write_text(
        "import torch_xla\n"
        "shapes = iter(range(100))\n"
        "def same():\n    torch_xla.execute('a')\n"
        "def growing():\n    torch_xla.execute(next(shapes))\n"
        "if __name__ == '__main__':\n    [same() for _ in range(4)]\n"
    )

    def diagnosed_function(text):
        return diagnose_runs("t", watch_target(parse_target(text), calls=4))

    script_run = diagnosed_function(str(script))
    assert (script_run.framework, script_run.calls, script_run.compiles, script_run.cache_hits) == (
        "torch_xla",
        4,
        1,
        3,
    )
    assert (script_run.cause, script_run.recompiles) == ("none", 0)
    growing = diagnosed_function(f"{script}:growing")
    assert (growing.compiles, growing.recompiles, growing.cause, growing.cache_hits) == (4, 3, "unexplained", 0)
    assert "4 compiled in 16 s" in growing.summary
    assert diagnosed_function(f"{script}:same").recompiles == 0


def test_a_program_without_a_framework_has_nothing_to_count(tmp_path):
    (tmp_path / "plain.py").write_text("print('hello')\n")
    (run,) = watch_target(parse_target(str(tmp_path / "plain.py")))
    assert (run.framework, run.compiles, run.status) == ("", (), 0)
    diagnosis = diagnose_runs("plain.py", [run])
    assert (diagnosis.calls, diagnosis.compiles, diagnosis.recompiles) == (0, 0, None)
    assert "neither jax nor torch_xla" in diagnosis.summary


@pytest.mark.parametrize("text", ["functions.py:nope", "functions.py:lengths"])
@needs_jax
def test_a_function_that_is_not_there_is_wrong_use(text):
    with pytest.raises(UsageError, match=text.rpartition(":")[2]):
        watch_target(parse_target(str(PLANTED / text)))


def test_a_module_that_is_not_there_is_wrong_use():
    with pytest.raises(UsageError, match="no module npuscope_nothing"):
        watch_target(parse_target("npuscope_nothing.train:step"))


@pytest.mark.parametrize(
    ("option", "value"), [("calls", 0), ("runs", 0), ("time_limit_s", 0.0), ("time_limit_s", float("nan"))]
)
def test_numbers_out_of_range_are_refused_before_anything_runs(option, value):
    with pytest.raises(UsageError):
        watch_target(parse_target(f"{sys.__name__}:exit"), **{option: value})
