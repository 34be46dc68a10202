"""Kernel files: how they are loaded, launched, and what becomes of their errors."""

from __future__ import annotations

import gc
import inspect
import re
import signal
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npuscope.errors import UsageError
from npuscope.simulate.neuroncore.program import InstructionLimitError
from npuscope.simulate.nki import loader, running, trace
from npuscope.simulate.nki.decorators import simulate_kernel
from npuscope.simulate.nki.kernel_file import call_user
from npuscope.simulate.nki.loader import TensorSpec, Traced, load_kernel, trace_kernel
from npuscope.simulate.nki.trace import KernelError

HEADER = """\
from neuronxcc import nki
import neuronxcc.nki.language as nl
import neuronxcc.nki.isa as nisa
"""
ADD = """
@nki.jit
def add(a, b):
    result = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
    nl.store(result, nl.load(a) + nl.load(b))
    return result
"""
ONES = np.ones((128, 64), np.float32)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(body: str, name: str = "kernel.py", header: str = HEADER) -> Path:
        path = tmp_path / name
        path.write_text(header + textwrap.dedent(body))
        return path

    return write_file


def run(path: Path, name: str, *args: Any, **options: Any) -> Traced:
    return trace_kernel(load_kernel(f"{path}:{name}"), args, **options)


def test_a_kernel_file_runs_and_returns_what_it_computes(write: Write) -> None:
    traced = run(write(ADD), "add", ONES, 2 * ONES)

    assert np.array_equal(traced.outputs[0], 3 * ONES)  # type: ignore[arg-type]
    assert (traced.name, traced.instruction_count, traced.has_returned) == ("add", 4, True)
    assert [tile.name for tile in traced.programs[0].tiles if tile.is_external][:2] == ["a", "b"]


def test_without_values_a_result_has_shape_and_type(write: Write) -> None:
    spec = TensorSpec((128, 64), np.dtype("float16"))

    traced = run(write(ADD), "add", spec, spec, compute=False)

    assert traced.outputs == (spec,)


def test_nothing_of_a_kernel_file_stays_behind(write: Write) -> None:
    path = write(ADD + "\nimport helper_beside\nimport neuronxcc.nki.kernels.anything\n")
    write("SIZE = 64", "helper_beside.py", header="")
    modules, places, finders = set(sys.modules), list(sys.path), list(sys.meta_path)

    run(path, "add", ONES, ONES)

    assert not {name for name in set(sys.modules) - modules if not name.startswith("npuscope.")}
    assert (sys.path, sys.meta_path) == (places, finders)
    assert not list(path.parent.rglob("__pycache__"))


def test_nothing_stays_behind_after_an_error(write: Write) -> None:
    path = write("import helper_beside\nraise RuntimeError('on purpose')")
    write("SIZE = 64", "helper_beside.py", header="")
    modules, places = set(sys.modules), list(sys.path)

    with pytest.raises(KernelError, match=r"^kernel\.py:5: RuntimeError: on purpose$"):
        load_kernel(f"{path}:add")

    assert "helper_beside" not in set(sys.modules) - modules
    assert sys.path == places


def test_a_module_beside_the_kernel_wins_over_one_that_is_loaded(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    other = type(sys)("kernel_utils")
    monkeypatch.setitem(sys.modules, "kernel_utils", other)
    write("FACTOR = 5.0", "kernel_utils.py", header="")
    path = write("""
        from kernel_utils import FACTOR
        def scale(a):
            import kernel_utils as late
            assert late.FACTOR == FACTOR
            nl.store(a, nl.load(a) * FACTOR)
    """)

    assert np.array_equal(run(path, "scale", ONES).outputs[0], 5 * ONES)  # type: ignore[arg-type]
    assert sys.modules["kernel_utils"] is other


def test_a_dataclass_in_a_kernel_file_works(write: Write) -> None:
    path = write(
        """
        from dataclasses import dataclass, field
        @dataclass(frozen=True)
        class Options:
            factor: "float" = 2.0
        def scale(a):
            nl.store(a, nl.load(a) * Options().factor)
        """,
        header="from __future__ import annotations\n" + HEADER,
    )

    assert np.array_equal(run(path, "scale", ONES).outputs[0], 2 * ONES)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "decorator",
    [
        "@nki.jit",
        "@nki.jit(mode='baremetal', platform_target='trn1', debug_kernel=True)",
        "@nki.benchmark(warmup=10, iters=100)",
        "@nki.baremetal",
        "@nki.profile(working_directory='x', save_neff_name='file.neff')",
        "@nki.trace",
        "@nki.benchmark\n@nki.jit",
        "",
    ],
)
def test_every_decorator_leaves_a_kernel(write: Write, decorator: str) -> None:
    path = write(f"{decorator}\ndef twice(a):\n    nl.store(a, nl.load(a) * 2)\n")

    assert np.array_equal(run(path, "twice", ONES).outputs[0], 2 * ONES)  # type: ignore[arg-type]


def test_arguments_that_were_stored_to_are_the_outputs_where_none_is_returned(write: Write) -> None:
    path = write("""
        def both(a, out, unused, also):
            tile = nl.load(a)
            nl.store(also, tile * 3)
            nl.store(out, tile * 2)
    """)

    traced = run(path, "both", ONES, 0 * ONES, ONES, 0 * ONES)

    assert not traced.has_returned
    assert [float(np.asarray(output)[0, 0]) for output in traced.outputs] == [2.0, 3.0]


def test_the_arrays_of_the_caller_are_not_written_to(write: Write) -> None:
    path = write("def clear(a):\n    nl.store(a, nl.load(a) * 0)\n")
    array = ONES.copy()

    run(path, "clear", array)

    assert (array == 1).all()


def test_simulate_kernel_updates_the_arrays_of_the_caller(write: Write) -> None:
    kernel = load_kernel(f"{write('def clear(a): nl.store(a, nl.load(a) * 0)')}:clear")
    array = ONES.copy()

    assert simulate_kernel(kernel, array) is None
    assert not array.any()


def test_a_kernel_called_in_a_kernel_runs_as_part_of_it(write: Write) -> None:
    path = write(
        ADD
        + """
@nki.jit
def outer(a, b):
    return add(add(a, b), b)
"""
    )

    traced = run(path, "outer", ONES, ONES)

    assert np.array_equal(traced.outputs[0], 3 * ONES)  # type: ignore[arg-type]
    assert traced.instruction_count == 8


GRID = """
@nki.jit
def rows(a):
    out = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)
    i = nl.program_id(0)
    assert nl.num_programs(0) == 4
    tile = nl.load(a[i * 32:(i + 1) * 32])
    nl.store(out[i * 32:(i + 1) * 32], tile * (i + 1))
    return out

@nki.jit
def launches(a):
    return rows[4](a)
"""


@pytest.mark.parametrize(("lnc", "counts"), [(1, [12]), (2, [6, 6])])
def test_programs_of_a_grid_share_results_and_are_divided_among_cores(
    write: Write, lnc: int, counts: list[int]
) -> None:
    traced = run(write(GRID), "rows", ONES, grid=(4,), lnc=lnc)

    assert [len(program) for program in traced.programs] == counts
    assert np.asarray(traced.outputs[0])[::32, 0].tolist() == [1, 2, 3, 4]
    assert len(traced.outputs) == 1


def test_a_grid_may_come_from_the_kernel_file(write: Write) -> None:
    path = write(GRID + "\nlaunched = rows[4]\n")

    assert run(path, "launched", ONES).grid == (4,)
    assert run(path, "launches", ONES).instruction_count == 12


@pytest.mark.parametrize(
    ("axis", "firsts"),
    [("nl.nc(2) * 2", [0, 64]), ("2 * nl.nc(2)", [0, 32]), ("nl.spmd_dim(nl.nc(2), 2)", [0, 64])],
)
def test_an_axis_says_which_core_runs_which_program(write: Write, axis: str, firsts: list[int]) -> None:
    path = write(GRID + f"\nlaunched = rows[{axis}]\n")

    traced = run(path, "launched", ONES, lnc=2)

    starts = [int(program.access[0, 1]) for program in traced.programs]
    assert starts == firsts


def test_a_grid_over_more_cores_than_there_are_is_an_error(write: Write) -> None:
    path = write(GRID + "\nlaunched = rows[nl.nc(2) * 2]\n")

    with pytest.raises(UsageError, match="run it with --lnc 2"):
        run(path, "launched", ONES)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def k(a):\n    nisa.frobnicate(a)\n", "kernel.py:5: nki.isa.frobnicate is not supported by the simulator"),
        (
            "from neuronxcc.nki.isa import frobnicate\ndef k(a):\n    frobnicate(a)\n",
            "kernel.py:6: nki.isa.frobnicate is not supported by the simulator",
        ),
        (
            "from neuronxcc.nki.kernels.some import thing\ndef k(a):\n    return thing(a)\n",
            "kernel.py:6: nki.kernels.some.thing is not supported by the simulator",
        ),
        ("def k(a):\n    return [][2]\n", "kernel.py:5: IndexError: list index out of range"),
        ("def k(a):\n    assert a.shape == (1,), 'one\\nonly'\n", "kernel.py:5: AssertionError: one only"),
        ("def k(a):\n    k(a)\n", "kernel.py:5: RecursionError: "),
        ("def k(a):\n    raise SystemExit(3)\n", "kernel.py:5: the kernel file ends Python: SystemExit(3)"),
        ("def k(a):\n    sorted([1, 'x'])\n", "kernel.py:5: TypeError: "),
        ("def k(a):\n    return 3\n", "kernel.py:4: the kernel returns int; a result must be a tensor in HBM"),
        ("def k(a):\n    return nl.load(a)\n", "kernel.py:4: the kernel returns a tile in SBUF"),
        ("def k(a):\n    import nowhere_to_be_found\n", "kernel.py:5: ModuleNotFoundError: No module named"),
    ],
)
def test_what_goes_wrong_in_a_kernel_is_one_line_with_its_place(write: Write, body: str, message: str) -> None:
    path = write(body)

    with pytest.raises(KernelError) as caught:
        run(path, "k", ONES)

    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_the_original_exception_is_kept_as_the_cause(write: Write) -> None:
    with pytest.raises(KernelError) as caught:
        run(write("def k(a):\n    {}['x']\n"), "k", ONES)

    assert isinstance(caught.value.__cause__, KeyError)


def test_an_error_in_a_helper_beside_the_kernel_names_the_helper(write: Write) -> None:
    write("def help():\n    return 1 / 0\n", "helper_beside.py", header="")
    path = write("import helper_beside\ndef k(a):\n    helper_beside.help()\n")

    with pytest.raises(KernelError, match=r"^helper_beside\.py:2: ZeroDivisionError"):
        run(path, "k", ONES)


def test_an_interrupt_by_the_user_passes_through(write: Write) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(write("def k(a):\n    raise KeyboardInterrupt\n"), "k", ONES)


def test_an_unsupported_name_is_not_there_for_hasattr(write: Write) -> None:
    path = write("""
        def k(a):
            assert not hasattr(nisa, "frobnicate")
            assert hasattr(nl, "load")
            assert getattr(nl, "frobnicate", None) is None
    """)

    assert run(path, "k", ONES).outputs == ()


def test_an_endless_loop_ends_at_the_limit_of_instructions(write: Write) -> None:
    path = write("def k(a):\n    while True:\n        nl.load(a)\n")

    with pytest.raises(InstructionLimitError, match=r"^kernel\.py:6: .* more than 1,000 instructions"):
        run(path, "k", ONES, max_instructions=1000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def k(:\n", r"^kernel\.py:1: syntax error: "),
        ("x = 'a\x00b'\n", r"^kernel\.py:1: "),
        ("def k(a):\n\treturn 1\n        return 2\n", r"^kernel\.py:3: syntax error: "),
    ],
)
def test_a_file_that_is_not_python_is_one_line(write: Write, text: str, message: str) -> None:
    path = write("", header="")
    path.write_text(text)

    with pytest.raises(KernelError, match=message):
        load_kernel(f"{path}:k")


def test_a_file_in_no_encoding_is_one_line(write: Write) -> None:
    path = write("")
    path.write_bytes(b"x = '\xff\xfe'\n")

    with pytest.raises(KernelError, match=r"^kernel\.py:1: "):
        load_kernel(f"{path}:k")


@pytest.mark.parametrize(
    ("name", "message"),
    [(":ad", "did you mean 'add'"), (":SIZE", "is not a function but int"), ("", "expected FILE.py:NAME")],
)
def test_a_name_that_is_no_kernel_is_an_error(write: Write, name: str, message: str) -> None:
    path = write(ADD + "\nSIZE = 3\n")

    with pytest.raises(UsageError, match=message):
        load_kernel(f"{path}{name}")


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no kernel file"):
        load_kernel(f"{tmp_path / 'missing.py'}:k")


def test_a_wrong_number_of_arguments_is_told_with_the_signature(write: Write) -> None:
    with pytest.raises(UsageError, match=r"add takes \(a, b\): missing a required argument: 'b'"):
        run(write(ADD), "add", ONES)


def test_scalars_and_nested_arguments_reach_the_kernel(write: Write) -> None:
    path = write("""
        def k(tensors, factor, options, flag=False):
            assert flag and options["name"] == "x"
            nl.store(tensors[1], nl.load(tensors[0]) * factor + nl.load(options["bias"]))
    """)

    traced = run(path, "k", [ONES, 0 * ONES], np.float32(2), {"name": "x", "bias": ONES}, kwargs={"flag": True})

    assert np.array_equal(traced.outputs[0], 3 * ONES)  # type: ignore[arg-type]
    assert "tensors[1]" in {tile.name for tile in traced.programs[0].tiles}


def test_a_function_beside_the_kernel_is_called_with_its_imports_at_hand(write: Write) -> None:
    write("import numpy as np\ndef ones():\n    return np.ones(3)\n", "helper_beside.py", header="")
    path = write("def inputs():\n    import helper_beside\n    return [helper_beside.ones()]\n")

    assert call_user(load_kernel(f"{path}:inputs"))[0].tolist() == [1, 1, 1]


def test_early_kernels_come_with_another_decorator(write: Write) -> None:
    path = write(
        "@nki_jit\ndef twice(a, out):\n    nl.store(out, nl.load(a) * 2)\n",
        header="from torch_neuronx import nki_jit\nimport neuronxcc.nki.language as nl\n",
    )

    assert np.array_equal(run(path, "twice", ONES, 0 * ONES).outputs[0], 2 * ONES)  # type: ignore[arg-type]


ENDLESS = """
def spin(a):
    while True:
        pass

def allocate(a):
    while True:
        nl.ndarray((128, 512), dtype=nl.float32, buffer=nl.sbuf)

def long_loop(a):
    for _ in nl.affine_range(10**12):
        pass

def backwards(a):
    for _ in nl.sequential_range(10**12, 0, -1):
        pass
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no interval timers")
@pytest.mark.parametrize(("name", "line"), [("spin", "[67]"), ("allocate", "1[01]")])
def test_an_endless_loop_without_instructions_ends_in_one_line(
    write: Write, monkeypatch: pytest.MonkeyPatch, name: str, line: str
) -> None:
    monkeypatch.setattr(running, "STALL_LIMIT_S", 0.2)
    handler = signal.getsignal(signal.SIGALRM)

    with pytest.raises(KernelError, match=r"no instruction was recorded for 0\.2 s") as caught:
        run(write(ENDLESS), name, ONES)

    assert re.match(rf"kernel\.py:{line}: ", str(caught.value))
    assert signal.getsignal(signal.SIGALRM) is handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.skipif(sys.platform == "win32", reason="no interval timers")
def test_an_endless_loop_is_told_once_so_that_cleaning_up_is_not_interrupted(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "STALL_LIMIT_S", 0.2)
    path = write("""
        import time

        def slow_to_end(a):
            try:
                while True:
                    pass
            finally:
                end = time.monotonic() + 0.05
                while time.monotonic() < end:
                    pass
                raise ValueError("cleaned up") from None
        """)

    with pytest.raises(KernelError, match="ValueError: cleaned up"):
        run(path, "slow_to_end", ONES)


@pytest.mark.skipif(sys.platform == "win32", reason="no interval timers")
def test_an_alarm_of_the_caller_is_left_alone(write: Write) -> None:
    signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        run(write(ADD), "add", ONES, ONES)
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 900
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.parametrize("name", ["long_loop", "backwards"])
def test_a_loop_longer_than_any_kernel_is_refused_before_it_runs(write: Write, name: str) -> None:
    with pytest.raises(KernelError, match=r"kernel\.py:\d+: .*_range: 1,000,000,000,000 iterations, more than the"):
        run(write(ENDLESS), name, ONES)


def test_threads_trace_one_after_the_other(write: Write) -> None:
    path, found = write(ADD), []

    def trace(scale: int) -> None:
        for _ in range(5):
            traced = run(path, "add", scale * ONES, ONES)
            found.append(traced.instruction_count == 4 and np.array_equal(traced.outputs[0], (scale + 1) * ONES))  # type: ignore[arg-type]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=trace, args=(scale,)) for scale in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)

    assert found == [True] * 20
    assert not any(name.split(".")[0] == "neuronxcc" for name in sys.modules)


RAISING = """
from npuscope.errors import UsageError

class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")

def mute(a):
    raise Mute

def leaving(a):
    raise GeneratorExit

def pretending(a):
    raise UsageError("pretended\\x1b[2J\\nusage")

def cleaned(a):
    import npuscope.simulate.nki.trace as trace
    raise trace.KernelError("own\\x1b[31m words")

def iterating(a):
    for row in nl.load(a):
        pass
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mute", "kernel.py:12: Mute"),
        ("leaving", "kernel.py:15: GeneratorExit"),
        ("pretending", "kernel.py:18: UsageError: pretended [2J usage"),
        ("cleaned", "kernel.py:22: own [31m words"),
        ("iterating", "kernel.py:25: a tensor cannot be iterated over; "),
    ],
)
def test_whatever_ends_a_kernel_is_one_clean_line(write: Write, name: str, message: str) -> None:
    with pytest.raises(KernelError) as caught:
        run(write(RAISING), name, ONES)

    assert str(caught.value).startswith(message)
    assert str(caught.value).isprintable()
    assert caught.value.exit_code == 3


def test_a_grid_of_too_many_programs_is_refused_and_one_of_many_is_not_listed(write: Write) -> None:
    with pytest.raises(UsageError, match=r"has 1,000,000,000 programs, at most 1,000,000"):
        run(write(ADD), "add", ONES, ONES, grid=(1000, 1000, 1000))
    assert next(next(loader._programs_of_cores((1000, 1000), 1))) == (0, 0)


def test_caches_of_a_trace_are_empty_after_it(write: Write) -> None:
    run(write(ADD), "add", ONES, ONES)

    assert trace._caches
    assert not any(trace._caches)


def test_the_limit_of_instructions_is_one_number() -> None:
    from npuscope.simulate.simulation import simulate_kernel as simulate

    limits = {inspect.signature(f).parameters["max_instructions"].default for f in (trace_kernel, simulate)}
    assert limits == {5_000_000}


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((128, 4), [("a", "f4")]),
        np.zeros((128, 4), np.complex64),
        np.full((128, 4), "a"),
        np.zeros((128, 4), "M8[s]"),
        np.full((128, 4), None),
        np.array(1j),
        *([np.ones((128, 4), np.longdouble)] if np.dtype(np.longdouble).itemsize > 8 else []),
    ],
    ids=lambda array: str(array.dtype),
)
def test_an_array_of_a_type_that_no_tensor_has_is_refused(write: Write, array: Any) -> None:
    with pytest.raises(UsageError, match=r"argument a has elements of type .*float32, bfloat16") as caught:
        run(write(ADD), "add", array, ONES)
    assert "\n" not in str(caught.value)


def test_float64_is_cast_to_float32_with_a_note_and_other_types_stay(write: Write) -> None:
    traced = run(write(ADD), "add", ONES.astype(np.float64), ONES)
    assert traced.outputs[0].dtype == np.float32
    assert traced.notes == ("argument a is float64, which no engine has: cast to float32",)

    traced = run(write(ADD), "add", ONES.astype(np.int64), ONES.astype(np.int64))
    assert (traced.outputs[0].dtype, traced.notes) == (np.dtype(np.int64), ())


def test_bytes_of_the_other_order_are_read_as_the_same_numbers(write: Write) -> None:
    traced = run(write(ADD), "add", ONES.astype(">f4"), ONES)

    assert np.array_equal(traced.outputs[0], 2 * ONES)  # type: ignore[arg-type]
    assert traced.notes == ()


DOING_LITTLE = """
def huge(a):
    return nl.ndarray((10**9, 10**9), dtype=a.dtype, buffer=nl.shared_hbm)

def large(a):
    return nl.ndarray((2**22, 2**22), dtype=a.dtype, buffer=nl.shared_hbm)

def idle(a):
    return nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm)

def unwritten(a):
    result = nl.ndarray(a.shape, dtype=a.dtype, buffer=nl.shared_hbm, name="result")
    nl.load(a)
    return result

def silent(a):
    nl.load(a)
"""


@pytest.mark.parametrize(("name", "reason"), [("huge", "at most 2^46"), ("large", "takes 64.0 TiB")])
def test_a_tensor_too_large_for_hbm_or_memory_is_an_error_of_its_line(write: Write, name: str, reason: str) -> None:
    with pytest.raises(KernelError) as caught:
        run(write(DOING_LITTLE), name, ONES)

    assert re.match(r"kernel\.py:(6|9): a tensor of ", str(caught.value))
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("idle", "the kernel issues no instruction"),
        ("unwritten", "result result was never written"),
        ("silent", "the kernel returns nothing and stores to none of its arguments"),
    ],
)
def test_a_kernel_that_does_less_than_it_seems_to_gets_a_note(write: Write, name: str, note: str) -> None:
    (found,) = run(write(DOING_LITTLE), name, ONES).notes
    assert found.startswith(note)
    assert run(write(ADD), "add", ONES, ONES).notes == ()


def test_a_coroutine_is_no_result_and_leaves_no_warning(write: Write) -> None:
    with pytest.raises(KernelError, match="the kernel returns coroutine"):
        run(write("async def later(a):\n    return a\n"), "later", ONES)
    gc.collect()


def test_a_specification_may_name_its_type(tmp_path: Path) -> None:
    path = tmp_path / "kernel.py"
    path.write_text(
        "import neuronxcc.nki.language as nl\n"
        "def copy(x):\n"
        "    out = nl.ndarray(x.shape, dtype=x.dtype, buffer=nl.shared_hbm)\n"
        "    nl.store(out, nl.load(x))\n"
        "    return out\n"
    )
    traced = trace_kernel(load_kernel(f"{path}:copy"), [TensorSpec((128, 64), "bfloat16")], compute=False)  # type: ignore[arg-type]
    assert traced.instruction_count == 2
