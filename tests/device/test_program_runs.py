"""Programs measured in processes of their own: what a measurement holds, and what is told of a process that fails."""

import json
import os
import sys
from pathlib import Path

import pytest

from npuscope.backends.jax_programs import JaxProgramBackend
from npuscope.backends.processes import Ended
from npuscope.errors import MeasurementError, UnavailableError, UsageError
from npuscope.formats.hlo_reader import parse_hlo
from npuscope.measure import program_probe, program_runs, program_worker
from npuscope.measure.programs import TRACED_RUNS, probe_compile
from npuscope.measure.settings import Settings
from npuscope.workloads.patterns import PatternConfig

pytest.importorskip("jax")

QUICK = Settings(max_seconds=0.1)
CONFIGS = tuple(PatternConfig(pattern, 2, 3, 4) for pattern in ("vmap", "loop"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Two programs in three processes, with traces."""
    folder = tmp_path_factory.mktemp("traces")
    return program_runs.measure_in_processes("jax:cpu", CONFIGS, QUICK, processes=3, traces_folder=folder)


@pytest.fixture
def in_this_process(monkeypatch):
    """The worker in this process, where a test can reach it; returns the requests that it got."""
    requests = []

    def run(words, **_):
        requests.append(json.loads(Path(words[3]).read_text()))
        requests[-1]["compile_cache"] = None  # JAX's settings of this process are not the worker's to change
        Path(words[3]).write_text(json.dumps(requests[-1]))
        return Ended(program_worker.main(list(words[3:])), "")

    monkeypatch.setattr(program_runs, "run_child", run)
    return requests


@pytest.fixture
def interpreter(monkeypatch, tmp_path):
    """Put a shell script in Python's place: children run it, whatever they should."""

    def replace(script):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return replace


class TestMeasurement:
    def test_there_is_one_per_program_in_their_order(self, measured):
        assert [result.config for result in measured] == list(CONFIGS)
        assert [(result.status, result.error, result.device) for result in measured] == [("ok", "", "jax:cpu")] * 2

    def test_samples_are_from_every_process_with_an_interval(self, measured):
        for result in measured:
            assert set(result.sample_round) == {0, 1, 2}
            assert len(result.samples_ns) == len(result.sample_round) == result.statistics.samples
            assert result.statistics.rounds == 3
            assert result.statistics.ci_low_ns <= result.statistics.median_ns <= result.statistics.ci_high_ns

    def test_first_run_compile_time_and_steady_state_are_kept_apart(self, measured):
        for result in measured:
            assert result.compile_ms > 0
            assert result.first_run_ms > 0
            assert result.dispatch_floor_ms > 0
            assert result.warmup_runs > 0
            assert result.compiles_while_timed == 0
            assert result.cache.value == "disabled" or "JAX_COMPILATION_CACHE_DIR" in os.environ

    def test_results_are_checked_against_float64(self, measured):
        for result in measured:
            assert result.check.passed
            assert 0 <= result.max_abs_error < 1e-5

    def test_runs_are_traced_and_dispatches_counted(self, measured):
        for result in measured:
            assert (result.dispatches, result.traced_runs) == (1.0, TRACED_RUNS)
            assert result.trace.is_file()
            assert result.config.name in str(result.trace)

    def test_the_program_comes_along(self, measured):
        assert [parse_hlo(result.hlo, source="x").name for result in measured] == ["jit_vmap_2", "jit_loop_2"]

    def test_of_nothing_there_is_none(self):
        assert program_runs.measure_in_processes("jax:cpu", (), QUICK) == ()

    @pytest.mark.parametrize("count", [-1, 1, 2, 51])
    def test_too_few_or_too_many_processes_are_refused(self, count):
        with pytest.raises(UsageError, match=f"--processes {count}: from 3"):
            program_runs.measure_in_processes("jax:cpu", CONFIGS, QUICK, processes=count)


class TestFailure:
    def test_of_a_program_is_its_own(self, in_this_process, monkeypatch):
        compile_program = JaxProgramBackend.compile_program

        def refuse(self, config):
            if config.pattern == "loop":
                raise MeasurementError("jax:cpu cannot compile loop_2: [TEN404] Internal tensorizer error")
            return compile_program(self, config)

        monkeypatch.setattr(JaxProgramBackend, "compile_program", refuse)
        right, wrong = program_runs.measure_in_processes("jax:cpu", CONFIGS, QUICK, processes=3)
        assert (right.status, right.statistics.rounds) == ("ok", 3)
        assert (wrong.status, wrong.statistics) == ("failed", None)
        assert wrong.error == "jax:cpu cannot compile loop_2: [TEN404] Internal tensorizer error"

    def test_in_a_later_process_leaves_no_figure(self, in_this_process, monkeypatch):
        compile_program, seen = JaxProgramBackend.compile_program, []

        def refuse(self, config):
            seen.append(config.pattern)
            if seen.count("loop") == 2 and config.pattern == "loop":
                raise RuntimeError("out of cores")
            return compile_program(self, config)

        monkeypatch.setattr(JaxProgramBackend, "compile_program", refuse)
        right, wrong = program_runs.measure_in_processes("jax:cpu", CONFIGS, QUICK, processes=3)
        assert right.status == "ok"
        assert (wrong.status, wrong.samples_ns) == ("failed", ())
        assert wrong.error == "in process 2 of 3: RuntimeError: out of cores"

    def test_a_wrong_result_is_one(self, in_this_process, monkeypatch):
        from npuscope.backends.jax_programs import JaxProgram

        fetch = JaxProgram.fetch

        def spoilt(self, output):
            outputs = fetch(self, output)
            return tuple(2 * value for value in outputs)

        monkeypatch.setattr(JaxProgram, "fetch", spoilt)
        (result,) = program_runs.measure_in_processes("jax:cpu", CONFIGS[:1], QUICK, processes=3)
        assert result.status == "failed"
        assert result.error.startswith("wrong result: ")

    def test_a_device_that_cannot_be_had_is_refused_and_not_replaced(self, in_this_process):
        with pytest.raises(UnavailableError, match="jax:nowhere is not available"):
            program_runs.measure_in_processes("jax:nowhere", CONFIGS, QUICK, processes=3)
        assert len(in_this_process) == 1

    def test_a_killed_worker_is_told_with_its_last_words(self, interpreter):
        interpreter("echo compiling vmap_2 >&2; kill -9 $$")
        results = program_runs.measure_in_processes("jax:cpu", CONFIGS, QUICK, processes=3)
        told = "the measuring process was killed by SIGKILL; its last words: compiling vmap_2"
        assert [(result.status, result.error) for result in results] == [("failed", told)] * 2

    def test_a_worker_that_never_ends_is_ended_and_told(self, interpreter, monkeypatch):
        interpreter("echo round 1 >&2; exec sleep 60")
        monkeypatch.setattr(program_runs, "_START_S", 0.2)
        results = program_runs.measure_in_processes(
            "jax:cpu", CONFIGS[:1], Settings(max_seconds=0.001), processes=3, time_limit_s=0.01
        )
        assert "was ended" in results[0].error
        assert "round 1" in results[0].error


class TestRequest:
    def test_the_time_is_shared_out_and_only_the_first_process_traces(self, in_this_process, tmp_path):
        program_runs.measure_in_processes("jax:cpu", CONFIGS[:1], QUICK, processes=3, traces_folder=tmp_path)
        assert [request["settings"]["max_seconds"] for request in in_this_process] == pytest.approx([0.1 / 3] * 3)
        assert [request["traces_folder"] for request in in_this_process] == [str(tmp_path), None, None]


class TestProbe:
    def test_what_compiles_is_ok(self):
        result = probe_compile("jax:cpu", PatternConfig("nested-vmap", 2, 3, 4), 120)
        assert (result.ok, result.message) == (True, "")

    def test_what_takes_longer_is_ended_and_told(self):
        result = probe_compile("jax:cpu", PatternConfig("nested-vmap", 2, 3, 4), 0.2)
        assert not result.ok
        assert "nested-vmap_2" in result.message
        assert "--time-limit" in result.message

    def test_a_refusal_comes_with_the_compilers_words(self, monkeypatch, capsys):
        def refuse(self, config):
            raise MeasurementError(f"jax:cpu cannot compile {config.name}: [TEN404] Internal tensorizer error")

        monkeypatch.setattr(JaxProgramBackend, "compile_program", refuse)
        status = program_probe.main(["jax:cpu", "nested-vmap", "2", "3", "4", "float32", "0"])
        assert status == program_probe.REFUSED
        assert capsys.readouterr().err == "jax:cpu cannot compile nested-vmap_2: [TEN404] Internal tensorizer error\n"

    def test_a_refusal_is_told_as_it_was(self, interpreter):
        interpreter(f"echo noise; echo 'cannot compile: [TEN404]' >&2; exit {program_probe.REFUSED}")
        result = probe_compile("jax:cpu", CONFIGS[0], 60)
        assert (result.ok, result.message) == (False, "cannot compile: [TEN404]")

    def test_a_compiler_that_crashes_is_told(self, interpreter):
        interpreter("echo Check failed >&2; kill -ABRT $$")
        result = probe_compile("jax:cpu", CONFIGS[0], 60)
        assert not result.ok
        assert "was killed by SIGABRT; its last words: Check failed" in result.message

    def test_a_device_that_cannot_be_had_is_no_fault_of_the_program(self):
        with pytest.raises(UnavailableError, match="jax:nowhere is not available: JAX says: "):
            probe_compile("jax:nowhere", CONFIGS[0], 120)
