"""A run through torch_xla as its log tells it: whose compilation took how long, and what was compiled while calls were timed."""

from pathlib import Path

import pytest

from npuscope.backends.neuron_torch_run import CALLS_DONE, FIRST_CALL, LOG_NAME, TIMED_CALLS, read_run

NUMBERS = 7_180_866_674_807_936_198, 9_214_541_117_211_669_183
WRAPPER = "4818  INFO ||NEURON_CC_WRAPPER||:"
ANSWER = {
    "samples_ns": [10, 20],
    "warmup": 1,
    "first_call_ns": 2_500_000,
    "counted": {"UncachedCompile": 0, "CachedCompile": 2},
    "device": "xla:0",
    "versions": {"torch": "2.9.0"},
    "output_dtype": "bfloat16",
}


def module(number):
    return f"MODULE_{number}+d41d8cd9"


def started(number, second, command=None):
    words = command or ["neuronx-cc", "compile", f"/tmp/model.{module(number)}.hlo_module.pb"]
    return f"2026-03-01 10:00:{second:02}.000250:  {WRAPPER} Call compiler with cmd: {words}"


def done(number, second):
    return f"2026-03-01 10:00:{second:02}.000750:  {WRAPPER} Compilation Successfully Completed for model.{module(number)}.hlo_module.pb"


def hit(number, second):
    return f"2026-03-01 10:00:{second:02}.000750:  {WRAPPER} Using a cached neff at /cache/{module(number)}/model.neff"


def read(folder, lines, neff=f"MODULE_0_SyncTensorsGraph.209_{NUMBERS[0]}.neff", answer=ANSWER):
    (folder / LOG_NAME).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return read_run(answer, folder, folder / neff)


PASS = "Compiler status PASS"


def test_a_compilation_ends_with_the_line_that_names_its_module(tmp_path):
    told = read(tmp_path, [FIRST_CALL, started(NUMBERS[0], 1), PASS, done(NUMBERS[0], 3), TIMED_CALLS, CALLS_DONE])
    assert told.compile_ms == pytest.approx(2500.0)
    assert told.command == ("neuronx-cc", "compile", f"/tmp/model.{module(NUMBERS[0])}.hlo_module.pb")


@pytest.mark.parametrize(
    "later", [done(NUMBERS[1], 9), hit(NUMBERS[0], 9), "2026-03-01 10:00:09.000750:  1  INFO something"]
)
def test_a_later_line_with_a_time_is_no_end_of_it(tmp_path, later):
    told = read(tmp_path, [FIRST_CALL, started(NUMBERS[0], 1), PASS, TIMED_CALLS, later, CALLS_DONE])
    assert told.compile_ms is None
    assert "does not tell how long the compiler took" in told.notes[0]


def test_one_without_an_end_has_no_time_but_a_command(tmp_path):
    told = read(tmp_path, [FIRST_CALL, started(NUMBERS[0], 1), TIMED_CALLS, CALLS_DONE])
    assert (told.compile_ms, told.command[:1]) == (None, ("neuronx-cc",))


def test_of_two_compilations_the_one_whose_hash_the_neff_has_counts(tmp_path):
    lines = [
        *(FIRST_CALL, started(NUMBERS[1], 1), PASS, done(NUMBERS[1], 2)),
        *(started(NUMBERS[0], 3), PASS, done(NUMBERS[0], 7), TIMED_CALLS, CALLS_DONE),
    ]
    assert read(tmp_path, lines).compile_ms == pytest.approx(4500.0)
    assert read(tmp_path, lines, "MODULE_9_Graph.neff").compile_ms is None  # nothing tells which


def test_the_only_one_of_the_first_call_counts_whatever_the_neff_is_called(tmp_path):
    lines = [
        *(started(NUMBERS[1], 1), PASS, done(NUMBERS[1], 2), FIRST_CALL),
        *(started(NUMBERS[0], 3), PASS, done(NUMBERS[0], 7), TIMED_CALLS),
        *(started(NUMBERS[1], 10), PASS, done(NUMBERS[1], 20), CALLS_DONE),
    ]
    assert read(tmp_path, lines, "graph.neff").compile_ms == pytest.approx(4500.0)


def test_only_what_happens_between_the_marks_counts_as_of_the_timed_calls(tmp_path):
    lines = [
        *(FIRST_CALL, started(NUMBERS[0], 1), PASS, done(NUMBERS[0], 2), hit(NUMBERS[0], 3), TIMED_CALLS),
        *(hit(NUMBERS[0], 4), hit(NUMBERS[0], 5), started(NUMBERS[1], 6), PASS, done(NUMBERS[1], 7), CALLS_DONE),
        hit(NUMBERS[0], 8),
    ]
    run = read(tmp_path, lines, answer={**ANSWER, "counted": {"UncachedCompile": 3, "CachedCompile": 0}}).run
    assert (run.compiler_starts, run.cache_hits, run.uncached_compiles) == (1, 2, 3)
    assert run.recompiles_per_call == 1.5


def test_a_recompilation_is_noted_with_what_the_log_says_of_it(tmp_path):
    answer = {**ANSWER, "counted": {"UncachedCompile": 2, "CachedCompile": 0}}
    told = read(tmp_path, [FIRST_CALL, TIMED_CALLS, hit(NUMBERS[0], 1), hit(NUMBERS[0], 2), CALLS_DONE], answer=answer)
    assert told.notes[0].startswith("2 graphs were compiled again in 2 timed calls")
    assert "started 0 times, 2 NEFFs came from the cache" in told.notes[0]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("neuronx-cc compile 'a b.pb'", ("neuronx-cc", "compile", "a b.pb")),
        ("neuronx-cc compile 'a b.pb", ("neuronx-cc compile 'a b.pb",)),
        ("[1, 2]", ("[1,", "2]")),
    ],
)
def test_a_command_is_read_as_the_log_has_it(tmp_path, command, words):
    assert read(tmp_path, [FIRST_CALL, started(NUMBERS[0], 1, command), TIMED_CALLS]).command == words


def test_what_the_process_counted_is_kept(tmp_path):
    run = read(tmp_path, ["anything", FIRST_CALL, TIMED_CALLS, CALLS_DONE]).run
    assert (run.samples_ns, run.warmup_calls, run.first_call_ms) == ((10, 20), 1, 2.5)
    assert (run.device, run.versions, run.output_dtype) == ("xla:0", (("torch", "2.9.0"),), "bfloat16")
    assert run.output == Path(tmp_path, "output.npy")
