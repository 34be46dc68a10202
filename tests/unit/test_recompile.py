"""Why a compilation was needed: pairs of compilations, processes, and the table of causes."""

from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from npuscope.analysis import recompile, recompile_cache, recompile_files, recompile_log, recompile_runs
from npuscope.analysis.recompile import explain_pair
from npuscope.analysis.recompile_causes import CAUSES
from npuscope.analysis.recompile_files import Files, diagnose_files, joined, kind_of
from npuscope.analysis.recompile_runs import diagnose_runs
from npuscope.backends.jax_calls import count_calls
from npuscope.formats.hlo_reader import parse_hlo
from npuscope.formats.kernel_folder import Built, HostRun, KernelManifest, write_manifest
from npuscope.formats.results import PARQUET_NAME, ResultRow, write_parquet
from npuscope.measure.watching import Argument, Compile, TargetCall, WatchedRun, parse_target
from npuscope.workloads.mlp import MlpConfig
from tests.unit.test_cache_folders import entry
from tests.writers import hlo as writer
from tests.writers.hlo import Function, shape

X = Argument("0", "array", "float32[8]", "device 0")


def program(scale=1.0, size=8, name="jit_step"):
    main = Function("main")
    main.op("multiply", shape("f32", size), main.parameter(shape("f32", size)), main.constant("f32", scale))
    return parse_hlo(writer.module_bytes(main, name=name), source=name)


STEP = Compile(
    number=0,
    name="step",
    code="train.py:3",
    via=(),
    site="train.py:9",
    is_own=False,
    function=1,
    arguments=(X,),
    trace_ms=1.0,
    lower_ms=2.0,
    compile_ms=40.0,
    is_hit=False,
    key="jit_step-aa",
    key_parts={"program": "1", "compile options": "2"},
    settings={"jax_enable_x64": "False"},
    not_written=None,
    is_stored=None,
    call=0,
    program=program(),
    caller="step",
)


def run(*compiles, calls=None, cache=None, **fields):
    numbered = [replace(one, number=at) for at, one in enumerate(compiles)]
    values = {"status": 0, "error": "", "calls_missing": "", "target_calls": (), "versions": {}, **fields}
    return WatchedRun("jax", compiles=tuple(numbered), calls=calls, cache=cache or {}, **values)


def given(*texts, kind="array"):
    return tuple(Argument(str(at), kind, text, "device 0") for at, text in enumerate(texts))


@pytest.mark.parametrize(
    ("cause", "changes"),
    [
        ("cache-not-kept", {}),
        ("new-function", {"function": 2}),
        ("unstable-names", {"function": 2, "program": program(name="jit_other"), "key": "jit_other-bb"}),
        ("constant-embedded", {"function": 2, "program": program(2.0), "key": "jit_step-bb"}),
        ("shape-change", {"arguments": given("float32[9]"), "program": program(size=9)}),
        ("dtype-change", {"arguments": given("bfloat16[8]")}),
        ("dtype-change", {"arguments": given("weak float32[8]")}),
        ("shape-change", {"arguments": given("Python float", kind="scalar")}),
        ("structure-change", {"arguments": given("float32[8]", "float32[8]")}),
        ("placement-change", {"arguments": (replace(X, placement="device 1"),)}),
        ("static-argument", {"arguments": given("3", kind="static")}),
        ("flags-differ", {"settings": {"jax_enable_x64": "True"}}),
        ("flags-differ", {"key": "jit_step-bb", "key_parts": {"program": "1", "compile options": "3"}}),
        ("shape-change", {"arguments": None, "program": program(size=9)}),
        ("cache-not-kept", {"arguments": None, "program": None}),
        ("unexplained", {"arguments": None, "program": None, "key": ""}),
    ],
)
def test_what_differs_between_two_compilations_is_the_cause(cause, changes):
    before = replace(STEP, arguments=None) if changes.get("arguments", ()) is None else STEP
    found, evidence = explain_pair(before, replace(STEP, **changes))
    assert found == cause
    assert evidence
    assert found in CAUSES


def test_the_scalar_of_an_array_of_no_dimension_is_a_change_of_type():
    before = replace(STEP, arguments=given("float32[]"))
    assert explain_pair(before, replace(STEP, arguments=given("Python float", kind="scalar")))[0] == "dtype-change"


def test_every_cause_that_is_told_is_in_the_table_with_a_fix():
    told = set()
    for module in (recompile, recompile_cache, recompile_files, recompile_log, recompile_runs):
        source = Path(module.__file__).read_text(encoding="utf-8")
        told |= {name for name in CAUSES if f'"{name}"' in source}
    assert told | {"none"} == set(CAUSES)
    assert all(cause.fix and cause.meaning and cause.recognised for cause in CAUSES.values())


def test_the_nearest_of_all_earlier_compilations_tells_the_cause():
    first = STEP
    second = replace(STEP, arguments=given("float32[9]"), program=program(size=9))
    back = replace(STEP, function=2)
    diagnosis = diagnose_runs("train.py", [run(first, second, back, calls={"step": 3})])
    assert {one.cause: one.count for one in diagnosis.findings} == {"shape-change": 1, "new-function": 1}
    assert (diagnosis.calls, diagnosis.compiles, diagnosis.recompiles) == (3, 3, 2)


def test_the_costliest_cause_is_on_top():
    cheap = replace(STEP, function=2, compile_ms=1.0)
    dear = replace(STEP, arguments=given("float32[9]"), program=program(size=9), compile_ms=900.0)
    diagnosis = diagnose_runs("train.py", [run(STEP, cheap, dear)])
    assert [one.cause for one in diagnosis.findings] == ["shape-change", "new-function"]
    assert (diagnosis.cause, diagnosis.fix) == ("shape-change", CAUSES["shape-change"].fix)
    assert diagnosis.findings[0].cost_ms == pytest.approx(903.0)


def test_calls_that_were_not_counted_are_none_and_so_are_hits():
    diagnosis = diagnose_runs("train.py", [run(STEP, calls=None, calls_missing="no trace")])
    assert (diagnosis.calls, diagnosis.cache_hits, diagnosis.compiles) == (None, None, 1)
    assert "calls are not counted: no trace" in diagnosis.notes


def test_calls_are_counted_under_the_name_of_the_call_around_a_compilation():
    """JAX names the call of a callable object otherwise than the program that it compiles."""
    one = replace(STEP, name="Model", caller="<unnamed function>")
    diagnosis = diagnose_runs("t.py", [run(one, calls={"<unnamed function>": 10})])
    assert (diagnosis.calls, diagnosis.cache_hits, diagnosis.functions[0].calls) == (10, 9, 10)


def test_calls_of_a_program_that_was_compiled_ahead_of_time_are_counted_or_not_told():
    ahead = replace(STEP, caller="", call=None, code="")
    seen = diagnose_runs("t.py", [run(ahead, calls={"jit(step)": 5})])
    assert (seen.calls, seen.cache_hits, seen.compiles) == (5, 5, 1)
    unseen = diagnose_runs("t.py", [run(ahead, replace(STEP, name="other", caller="other"), calls={"other": 3})])
    assert (unseen.calls, unseen.cache_hits, unseen.compiles) == (None, None, 2)
    assert any("step was compiled outside of any call (ahead of time" in note for note in unseen.notes)
    assert [row.calls for row in sorted(unseen.functions, key=lambda row: row.name)] == [3, None]


def test_what_jax_compiles_within_a_call_of_the_users_is_no_call_of_its_own():
    own = replace(STEP, name="broadcast", is_own=True)  # within a call of step
    diagnosis = diagnose_runs("t.py", [run(own, STEP, calls={"step": 5})])
    assert (diagnosis.calls, diagnosis.cache_hits) == (5, 4)


@hypothesis.given(
    names=st.lists(st.sampled_from(["f", "g", "jit(h)"]), max_size=8),
    compiled=st.lists(st.tuples(st.sampled_from(["f", "g", "h", ""]), st.booleans()), max_size=5),
)
def test_no_count_is_impossible(names, compiled):
    """Whatever was recorded: as many calls as there are with a compilation in them, or more."""
    calls, places = count_calls([(0, f"PjitFunction({name})", 2.0 * at, 2.0 * at + 1) for at, name in enumerate(names)])
    assert not places
    told = []
    for name, is_own in compiled:
        call = calls[name] - 1 if calls[name] else None
        caller = name if call is not None else ""
        told.append(replace(STEP, name=name or "x", caller=caller, call=call, is_own=is_own))
    diagnosis = diagnose_runs("t.py", [run(*told, calls=dict(calls))])
    if diagnosis.calls is not None:
        busy = {(one.caller, one.call) for one in told if one.call is not None and not one.is_own}
        assert diagnosis.calls >= len(busy) or all(one.is_own for one in told)
        assert 0 <= (diagnosis.cache_hits or 0) <= diagnosis.calls


def test_processes_of_a_program_that_compiles_nothing_itself_leave_it_unknown():
    diagnosis = diagnose_runs("t.py", [run(processes=2)])
    assert (diagnosis.recompiles, diagnosis.recompile_ms, diagnosis.cause) == (None, None, "not-seen")
    assert diagnosis.summary == "2 processes of its own ran, what they compile is not counted"
    assert diagnosis.summary in diagnosis.notes
    own = replace(STEP, name="ones", caller="ones", is_own=True)
    diagnosis = diagnose_runs("t.py", [run(own, processes=1, calls={"ones": 1})])
    assert (diagnosis.recompiles, diagnosis.cause) == (None, "not-seen")


def test_processes_beside_functions_of_the_users_are_a_note():
    diagnosis = diagnose_runs("t.py", [run(STEP, processes=2, calls={"step": 5})])
    assert (diagnosis.recompiles, diagnosis.cause, diagnosis.calls) == (0, "none", 5)
    assert "2 processes of its own ran, what they compile is not counted" in diagnosis.notes


@pytest.mark.parametrize(
    ("count", "cost_ms", "is_advice"), [(2, 40.0, False), (2, 900.0, True), (19, 40.0, False), (20, 40.0, True)]
)
def test_jax_s_own_programs_are_an_advice_only_where_they_matter(count, cost_ms, is_advice):
    own = replace(STEP, name="ones", caller="ones", is_own=True, compile_ms=cost_ms)
    diagnosis = diagnose_runs("t.py", [run(STEP, *[own] * count, calls={"step": 5, "ones": count})])
    assert [one.cause for one in diagnosis.findings] == ["eager"] * is_advice
    assert any("programs of JAX's own" in note for note in diagnosis.notes) != is_advice


@pytest.mark.parametrize("framework", ["", "jax"])
def test_a_program_that_ends_before_it_compiles_is_told_by_its_error(framework):
    failed = replace(run(status=1, error="ValueError: no config"), framework=framework)
    summary = diagnose_runs("t.py", [failed]).summary
    assert summary.startswith("the program ended with ValueError: no config, before ")
    assert "imported neither" not in summary


def test_calls_of_a_name_that_jax_has_too_are_not_told():
    own = replace(STEP, is_own=True, site="train.py:1")
    diagnosis = diagnose_runs("train.py", [run(STEP, own, calls={"step": 7})])
    assert diagnosis.calls is None
    assert [row.calls for row in diagnosis.functions] == [None, None]


def test_two_functions_of_one_name_are_no_recompilation():
    diagnosis = diagnose_runs("train.py", [run(STEP, replace(STEP, code="model.py:7"), calls={"step": 9})])
    assert (diagnosis.recompiles, diagnosis.cause, diagnosis.calls) == (0, "none", 9)


def test_a_function_and_its_gradient_are_no_recompilation_of_each_other():
    diagnosis = diagnose_runs(
        "t.py", [run(STEP, replace(STEP, via=("grad",), program=program(2.0)), calls={"step": 9})]
    )
    assert (diagnosis.recompiles, diagnosis.cause) == (0, "none")
    assert {row.name for row in diagnosis.functions} == {"step", "grad(step)"}


def test_one_line_may_use_an_unknown_function_for_two_things_and_recompiles_from_the_third_on():
    unknown = [replace(STEP, code="", function=None, arguments=None, program=program(size=n)) for n in (4, 5, 6)]
    assert diagnose_runs("t.py", [run(*unknown[:2])]).recompiles == 0
    assert diagnose_runs("t.py", [run(*unknown)]).cause == "shape-change"
    others = [replace(one, site=f"train.py:{at}") for at, one in enumerate(unknown)]
    assert diagnose_runs("t.py", [run(*others)]).recompiles == 0


def test_jax_s_own_functions_do_not_drown_the_users():
    own = [
        replace(STEP, name="broadcast", caller="broadcast", is_own=True, arguments=given(f"float32[{n}]"))
        for n in range(24)
    ]
    diagnosis = diagnose_runs("train.py", [run(STEP, *own, calls={"step": 5, "broadcast": 90})])
    assert (diagnosis.calls, diagnosis.compiles, diagnosis.cache_hits, diagnosis.cause) == (5, 1, 4, "none")
    assert diagnosis.functions[0].name == "step"
    assert [one.cause for one in diagnosis.findings] == ["eager"]


SHARED = {"folder": "cache", "is_enabled": True, "min_compile_s": 1.0}


@pytest.mark.parametrize(
    ("cause", "caches", "changes"),
    [
        ("cache-off", ({}, {}), {}),
        ("cache-off", ({**SHARED, "is_enabled": False}, {**SHARED, "is_enabled": False}), {}),
        ("cache-not-shared", (SHARED, {**SHARED, "folder": "elsewhere"}), {}),
        ("too-fast-to-cache", (SHARED, SHARED), {"not_written": ("too fast", "1.00")}),
        ("too-fast-to-cache", (SHARED, SHARED), {"not_written": ("too small", "4096")}),
        ("cache-not-writable", (SHARED, SHARED), {"is_stored": False}),
        ("cache-not-kept", (SHARED, SHARED), {"is_stored": True}),
        ("cache-not-kept", (SHARED, SHARED), {"not_written": ("callbacks", "callbacks")}),
    ],
)
def test_what_a_second_process_compiles_again_is_the_caches_fault(cause, caches, changes):
    one = replace(STEP, **changes)
    diagnosis = diagnose_runs("train.py", [run(one, cache=cache) for cache in caches])
    assert (diagnosis.cause, diagnosis.recompiles, diagnosis.compiles) == (cause, 1, 2)


def test_what_a_second_process_takes_from_the_cache_is_no_recompilation():
    diagnosis = diagnose_runs("t", [run(STEP, calls={"step": 1}), run(replace(STEP, is_hit=True), calls={"step": 1})])
    assert (diagnosis.recompiles, diagnosis.compiles, diagnosis.disk_hits, diagnosis.cache_hits) == (0, 1, 1, 1)


def test_a_constant_that_differs_from_process_to_process_is_found():
    runs = [run(STEP, cache=SHARED), run(replace(STEP, program=program(2.0)), cache=SHARED)]
    diagnosis = diagnose_runs("train.py", runs)
    assert diagnosis.cause == "constant-embedded"
    assert diagnosis.findings[0].evidence[0].startswith("in another process: ")


def test_calls_of_a_function_that_was_asked_for_are_counted_by_us():
    calls = (TargetCall(2, 0, 100.0), TargetCall(0, 2, 1.0), TargetCall(0, 2, 1.0))
    own = replace(STEP, name="sin", caller="sin", is_own=True)
    diagnosis = diagnose_runs("t.py:f", [run(STEP, own, target_calls=calls)])
    assert (diagnosis.calls, diagnosis.compiles, diagnosis.cache_hits) == (3, 1, 2)
    assert [call["compiles"] for call in diagnosis.calls_detail] == [2, 0, 0]


def test_a_program_that_failed_before_it_compiled_tells_nothing():
    diagnosis = diagnose_runs("t.py", [run(status=1, error="ValueError: no")])
    assert (diagnosis.recompiles, diagnosis.status) == (None, "failed")
    assert "ValueError: no" in diagnosis.notes[0]


def test_targets_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    (tmp_path / "json.loads").mkdir()
    found = {text: parse_target(text) for text in ("train.py", "train.py:step", "pkg.train:step", "cache", "a/b:c")}
    assert [target and (target.name, target.function, target.is_file) for target in found.values()] == [
        ("train.py", "", True),
        ("train.py", "step", True),
        ("pkg.train", "step", False),
        None,
        None,
    ]


def result(cache, *, compile_ms=30.0, details="", **fields):
    tiles = {"num_tiles_M": 1, "num_tiles_K": 1, "num_tiles_N": 1, "total_tiles": 1}
    values = {"M": 8, "K": 8, "N": 8, "latency_ms": 1.0, **tiles, "device": "jax:cpu", "is_simulated": False, **fields}
    return ResultRow(
        **values, status="ok", dtype="float32", compile_cache=cache, compile_ms=compile_ms, warning_details=details
    )


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([result("miss"), result("miss", M=9)], {}),
        ([result("disabled"), result("disabled")], {"cache-off": (1, 30.0)}),
        ([result("miss"), result("miss"), result("hit")], {"cache-not-kept": (1, 30.0)}),
        (
            [result("miss", details="3 compilation(s) happened inside the timed region: npuscope")],
            {"unexplained": (3, None)},
        ),
    ],
)
def test_results_of_npuscope_tell_what_was_compiled_again(tmp_path, rows, found):
    folders = []
    for number, row in enumerate(rows):
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        write_parquet(folders[-1] / PARQUET_NAME, [row])
    diagnosis = diagnose_files(Files(results=tuple(folders)))
    assert {one.cause: (one.count, one.cost_ms) for one in diagnosis.findings} == found
    assert diagnosis.calls == len(rows)
    assert diagnosis.cache_hits == sum(row.compile_cache == "hit" for row in rows)


def test_a_build_of_kernels_is_told_by_its_manifest(tmp_path):
    config = MlpConfig(1, 2, 128, 128)
    plain = Built("jax", "jax:cpu", "m:f", config, False, False, "built", compile_cache="disabled", compile_ms=30.0)
    run = HostRun((1, 2, 3), 4.0, 1.0, "")
    each = Built("nkilib", "neuron", "m:g", config, False, False, "built", compile_cache="miss", host_run=run)
    write_manifest(tmp_path, KernelManifest("mlp", 0, (), (plain, each)))
    assert kind_of(tmp_path) == "results"
    told = diagnose_files(Files(results=(tmp_path,)))
    assert (told.calls, told.compiles, told.cause, told.recompiles) == (2, 2, "unexplained", 3)
    assert "3 compilations while it was timed, at each call" in told.findings[0].evidence[0]


def test_what_files_add_to_a_run_does_not_change_its_counts(tmp_path):
    folder = tmp_path / "cache"
    for name in ("1", "2"):
        entry(folder, name, module=f"graph.{name}")
    files = diagnose_files(Files(caches=(folder,)))
    healthy = joined(diagnose_runs("train.py", [run(STEP, calls={"step": 5})]), files)
    assert (healthy.cause, healthy.recompiles, healthy.calls) == ("none", 0, 5)
    assert [one.cause for one in healthy.findings] == ["unstable-names"]
    blind = [replace(STEP, arguments=None, program=None, key="") for _ in range(3)]
    unclear = joined(diagnose_runs("train.py", [run(*blind)]), files)
    assert (unclear.cause, unclear.recompiles) == ("unstable-names", 2)
    assert unclear.targets == ("train.py", str(folder))
