"""Programs measured on `jax:cpu`, and compiled in a child process first where a compiler may hang or crash."""

import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from npuscope.backends import processes
from npuscope.backends.programs import open_program_device
from npuscope.errors import MeasurementError, UnavailableError
from npuscope.measure import program_probe
from npuscope.measure.programs import TRACED_RUNS, measure_programs, probe_compile
from npuscope.measure.rounds import MIN_ROUNDS
from npuscope.measure.settings import Settings
from npuscope.workloads.patterns import PatternConfig

pytest.importorskip("jax")

QUICK = Settings(iterations=MIN_ROUNDS, warmup=1)


def program(pattern="scan", iterations=2, dtype="float32"):
    return PatternConfig(pattern, iterations, batch=3, features=4, dtype=dtype)


@pytest.fixture(scope="module")
def backend():
    return open_program_device("jax:cpu")


class Altered:
    """The backend, with one thing done otherwise."""

    def __init__(self, backend, **methods):
        self._backend, self._methods = backend, methods

    def __getattr__(self, name):
        return self._methods.get(name) or getattr(self._backend, name)


def spoiled(backend, pattern, *, after):
    """The backend, whose results of one pattern are wrong from the fetch number `after` on."""

    def compile_program(config):
        executable = backend.compile_program(config)
        fetches = []

        def fetch(output):
            fetches.append(1)
            wrong = config.pattern == pattern and len(fetches) > after
            return tuple(result + np.float32(wrong) for result in executable.fetch(output))

        return SimpleNamespace(
            report=executable.report,
            hlo=executable.hlo,
            place=executable.place,
            run=executable.run,
            synchronise=executable.synchronise,
            fetch=fetch,
            recording_ns=executable.recording_ns,
        )

    return Altered(backend, compile_program=compile_program)


@pytest.fixture(scope="module")
def measured(backend, tmp_path_factory):
    """Three programs, and what was measured of them."""
    configs = [program("vmap"), program("scan"), program("loop")]
    return configs, measure_programs(backend, configs, QUICK, traces_folder=tmp_path_factory.mktemp("traces"))


class TestMeasurements:
    def test_are_one_per_program_in_order(self, measured):
        configs, results = measured
        assert [result.config for result in results] == configs
        assert {(result.status, result.error, result.device) for result in results} == {("ok", "", "jax:cpu")}

    def test_keep_compilation_first_run_floor_and_steady_state_apart(self, measured):
        for result in measured[1]:
            assert result.compile_ms > 0
            assert result.first_run_ms > 0
            assert result.dispatch_floor_ms > 0
            assert result.statistics.samples == len(result.samples_ns) == MIN_ROUNDS
            assert result.compiles_while_timed == 0

    def test_share_their_rounds(self, measured):
        assert {result.sample_round for result in measured[1]} == {tuple(range(MIN_ROUNDS))}

    def test_are_checked(self, measured):
        for result in measured[1]:
            assert result.check.passed
            assert result.max_abs_error == result.check.max_abs_error < 1e-5

    def test_count_one_dispatch_per_run_in_a_trace_of_their_own(self, measured):
        assert [result.dispatches for result in measured[1]] == [1.0, 1.0, 1.0]
        assert len({result.trace for result in measured[1]}) == 3
        assert {result.traced_runs for result in measured[1]} == {TRACED_RUNS}

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_of_narrow_types_have_a_floor_too(self, backend, dtype):
        (result,) = measure_programs(backend, [program(dtype=dtype)], QUICK)
        assert result.status == "ok"
        assert result.dispatch_floor_ms > 0

    def test_without_a_folder_have_no_trace_and_no_count(self, backend):
        (result,) = measure_programs(backend, [program()], QUICK)
        assert (result.trace, result.traced_runs, result.dispatches) == (None, 0, None)


class TestRecording:
    """A device that records each run anew, as torch_xla does, is timed with its framework."""

    @staticmethod
    def recorded_in(backend, recording_ns):
        def compile_program(config):
            executable = backend.compile_program(config)
            kept = {
                name: getattr(executable, name) for name in ("report", "hlo", "place", "run", "synchronise", "fetch")
            }
            return SimpleNamespace(**kept, recording_ns=lambda placed: recording_ns)

        return Altered(backend, compile_program=compile_program)

    def test_that_takes_most_of_a_run_is_told(self, backend):
        (result,) = measure_programs(self.recorded_in(backend, 10**9), [program()], QUICK)
        assert any(text.startswith("recording a run on the host takes 1 s of the ") for text in result.warnings)

    @pytest.mark.parametrize("recording_ns", [1, None])
    def test_that_takes_little_or_is_none_is_not(self, backend, recording_ns):
        (result,) = measure_programs(self.recorded_in(backend, recording_ns), [program()], QUICK)
        assert not any(text.startswith("recording") for text in result.warnings)


class TestFailures:
    def test_of_one_compilation_stop_no_other_program(self, backend):
        def compile_program(config):
            if config.pattern == "scan":
                raise MeasurementError("jax:cpu cannot compile scan_2 float32: [TEN404] Internal tensorizer error")
            return backend.compile_program(config)

        altered = Altered(backend, compile_program=compile_program)
        results = measure_programs(altered, [program("vmap"), program("scan"), program("loop")], QUICK)
        assert [result.status for result in results] == ["ok", "failed", "ok"]
        assert "TEN404" in results[1].error
        assert results[1].statistics is None

    def test_include_a_wrong_first_result(self, backend):
        first, other = measure_programs(spoiled(backend, "scan", after=0), [program("scan"), program("vmap")], QUICK)
        assert first.status == "failed"
        assert first.error.startswith("wrong result: error of ")
        assert (first.statistics, first.samples_ns) == (None, ())
        assert other.status == "ok"

    def test_include_a_result_that_goes_wrong_once_the_device_is_warm(self, backend):
        (result,) = measure_programs(spoiled(backend, "scan", after=1), [program("scan")], QUICK)
        assert result.status == "failed"
        assert result.error.startswith(f"after {MIN_ROUNDS} samples: wrong result: ")

    def test_of_the_profiler_are_a_remark_and_no_failure(self, backend, tmp_path):
        def trace(step, folder, runs):
            raise MeasurementError("jax:cpu cannot be traced: busy")

        (result,) = measure_programs(Altered(backend, trace=trace), [program()], QUICK, traces_folder=tmp_path)
        assert (result.status, result.trace, result.dispatches) == ("ok", None, None)
        assert "no trace: jax:cpu cannot be traced: busy" in result.warnings

    def test_of_the_floor_leave_it_empty(self, backend):
        def compile_floor(dtype):
            raise MeasurementError("no")

        (result,) = measure_programs(Altered(backend, compile_floor=compile_floor), [program()], QUICK)
        assert (result.status, result.dispatch_floor_ms) == ("ok", None)


class TestProbe:
    @pytest.fixture
    def child(self, monkeypatch, tmp_path):
        """Run other code as the child process."""

        def become(code="", shell=None):
            script = tmp_path / "child"
            script.write_text(
                f"#!{sys.executable}\nimport os, signal, sys\n{code}\n" if shell is None else shell, "utf-8"
            )
            script.chmod(0o755)
            monkeypatch.setattr(processes.sys, "executable", str(script))

        return become

    def test_of_a_program_that_compiles_is_ok(self):
        probe = probe_compile("jax:cpu", program("nested-vmap"), 120)
        assert (probe.ok, probe.message) == (True, "")

    def test_that_takes_too_long_is_ended_and_says_so(self, child, tmp_path):
        child(shell=f"#!/bin/sh\necho $$ > '{tmp_path / 'pid'}'\nexec sleep 600\n")
        probe = probe_compile("jax:cpu", program("nested-vmap"), 1.0)
        assert not probe.ok
        assert probe.message == (
            "jax:cpu took longer than 1 s to compile nested-vmap_2 and was ended; allow more with --time-limit"
        )
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)

    def test_of_a_compiler_that_crashes_names_the_signal_and_its_last_words(self, child):
        child("print('F tensorizer.cc:1 Check failed', flush=True)\nos.kill(os.getpid(), signal.SIGSEGV)")
        probe = probe_compile("neuron", program(), 60)
        assert not probe.ok
        assert probe.message == (
            "neuron cannot compile scan_2: the compiler was killed by SIGSEGV; its last words: F tensorizer.cc:1 Check failed"
        )

    def test_of_a_compiler_that_refuses_is_the_error_of_the_device(self, child):
        child(f"sys.stderr.write('log\\nneuron cannot compile scan_2: [TEN404]\\n')\nsys.exit({program_probe.REFUSED})")
        assert probe_compile("neuron", program(), 60).message == "neuron cannot compile scan_2: [TEN404]"

    def test_of_a_child_that_fails_otherwise_tells_its_status(self, child):
        child("sys.exit('ImportError: broken')")
        assert probe_compile("neuron", program(), 60).message == (
            "neuron cannot compile scan_2: the compiler ended with status 1; its last words: ImportError: broken"
        )

    def test_of_a_device_that_is_not_here_blames_no_program(self, child):
        child(f"sys.stderr.write('no such device\\nget one\\n')\nsys.exit({program_probe.UNAVAILABLE})")
        with pytest.raises(UnavailableError, match="neuron is not available: no such device; get one") as caught:
            probe_compile("neuron", program(), 60)
        assert (caught.value.missing, caught.value.remedy) == ("no such device", "get one")

    def test_child_compiles_the_program_that_was_asked_for(self, monkeypatch):
        compiled = []

        def open_it(device):
            return SimpleNamespace(compile_program=lambda config: compiled.append((device, config)))

        monkeypatch.setattr(program_probe, "open_program_device", open_it)
        assert program_probe.main(["jax:cpu", "loop", "3", "4", "5", "bfloat16", "1"]) == 0
        assert compiled == [("jax:cpu", PatternConfig("loop", 3, 4, 5, "bfloat16", as_published=True))]

    def test_child_tells_an_error_in_one_line(self, monkeypatch, capsys):
        def refuse(config):
            raise MeasurementError(f"jax:cpu cannot compile {config.name}: [TEN404] too complex")

        monkeypatch.setattr(program_probe, "open_program_device", lambda _: SimpleNamespace(compile_program=refuse))
        status = program_probe.main(["jax:cpu", "loop", "3", "4", "5", "float32", "0"])
        assert (status, capsys.readouterr().err) == (
            program_probe.REFUSED,
            "jax:cpu cannot compile loop_3: [TEN404] too complex\n",
        )
