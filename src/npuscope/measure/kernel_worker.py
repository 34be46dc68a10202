"""One implementation of a kernel in a process of its own: the child of `kernel_runs`, which asks for one step after another."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from npuscope.backends.conversation import serve
from npuscope.backends.kernels import KernelExecutable, KernelRequest, open_kernel
from npuscope.backends.registry import open_device
from npuscope.errors import MeasurementError, NpuscopeError
from npuscope.formats.kernel_folder import load_inputs
from npuscope.measure.rounds import describe_failure
from npuscope.measure.sampling import Step, make_step, sample, warm_up
from npuscope.workloads.matmul import MatmulConfig
from npuscope.workloads.mlp import ExpectedMlp, MlpConfig, expect_mlp, inputs_sha256, other_inputs

_TRACED_RUNS: Final = 3
_REWARM_NS: Final = 1_000_000
"""Before each chunk: caches and clocks are another process's."""
_FLOOR_SHAPE: Final = (1, 1, 1)


def main(arguments: list[str]) -> int:
    """Answer until the other side has no more to ask."""
    return serve(arguments, _Worker().answer)


class _Worker:
    """What is compiled, and what was placed on the device."""

    def __init__(self) -> None:
        self._request: KernelRequest | None = None
        self._executable: KernelExecutable | None = None
        self._inputs: tuple[Any, ...] = ()
        self._placed: Any = None
        self._expected: ExpectedMlp | None = None
        self._step: Step | None = None
        self._estimate_ns = 1.0

    def answer(self, document: dict[str, Any]) -> dict[str, Any]:
        """One step.

        Raises:
            NpuscopeError: It cannot be done.
        """
        steps: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "compile": self._compile,
            "prepare": self._prepare,
            "sample": self._sample,
            "floor": self._floor,
            "finish": self._finish,
        }
        try:
            return steps[document["step"]](document)
        except NpuscopeError:
            raise
        except Exception as error:
            raise MeasurementError(describe_failure(error)) from error

    def _compile(self, document: dict[str, Any]) -> dict[str, Any]:
        """Import and compile; the framework is started first, so that its start is no part of the compilation."""
        asked = dict(document["kernel"])
        cache = asked.pop("compile_cache")
        config = MlpConfig(**asked.pop("config"))
        request = KernelRequest(config=config, compile_cache=Path(cache) if cache else None, **asked)
        backend = open_device(request.device, request.options)
        info = backend.describe()
        backend.compile(
            MatmulConfig(*_FLOOR_SHAPE, dtype=config.dtype)
        )  # what a framework loads upon its first compilation
        self._request, self._executable = request, open_kernel(request)
        if document.get("save_to"):
            self._executable.save(Path(document["save_to"]))
        report = self._executable.report
        return {
            "compile_ns": report.duration_ns,
            "cache": report.cache.value,
            "compute_dtype": report.compute_dtype,
            "description": info.description,
            "versions": info.versions,
            "notes": info.notes,
        }

    def _prepare(self, document: dict[str, Any]) -> dict[str, Any]:
        """Read and place the inputs, run once, check, warm up."""
        request, executable = self._opened()
        self._inputs = load_inputs(Path(document["inputs"]), request.config)
        self._expected = self._expect(self._inputs)
        self._placed = executable.place(self._inputs)
        step = make_step(executable, self._placed)
        output: list[object] = []
        (first_ns,) = sample(lambda: output.append(step()), 1)
        check = self._check(output[0], self._expected)
        warm = warm_up(step, first_run_ns=first_ns, max_seconds=document["max_seconds"], runs=document["warmup"])
        recent = sorted(warm.samples_ns[-10:]) or [first_ns]
        self._step, self._estimate_ns = step, float(recent[len(recent) // 2])
        return {
            "first_ns": first_ns,
            "check": check,
            "warmup_runs": len(warm.samples_ns),
            "warmup_steady": warm.steady,
            "estimate_ns": self._estimate_ns,
            "inputs_sha256": inputs_sha256(self._inputs),
        }

    def _expect(self, inputs: Sequence[Any]) -> ExpectedMlp:
        request, executable = self._opened()
        return expect_mlp(request.config, inputs, compute_dtype=executable.report.compute_dtype)

    def _check(self, output: object, expected: ExpectedMlp | None) -> dict[str, Any]:
        """Compare with float64.

        Raises:
            MeasurementError: The result is wrong.
        """
        _, executable = self._opened()
        if expected is None:
            raise MeasurementError("nothing was prepared")
        check = expected.check(executable.fetch(output))
        if not check.passed:
            raise MeasurementError(f"wrong result: {check.reason}")
        return asdict(check)

    def _check_other(self) -> None:
        """Whether it computes on each call: other inputs must give another result.

        Raises:
            MeasurementError: They give a wrong one.
        """
        _, executable = self._opened()
        others = other_inputs(self._inputs)
        expected = self._expect(others)
        overwrite = getattr(executable, "overwrite", None)
        if overwrite is not None:
            overwrite(self._placed, others)
            step = self._stepped()
        else:
            step = make_step(executable, executable.place(others))
        try:
            self._check(step(), expected)
        except MeasurementError as error:
            raise MeasurementError(
                f"{error}; for other inputs than it was timed with: does it keep an earlier result?"
            ) from error

    def _sample(self, document: dict[str, Any]) -> dict[str, Any]:
        step = self._stepped()
        sample(step, max(1, min(20, int(_REWARM_NS / self._estimate_ns))))
        return {"samples_ns": sample(step, document["count"])}

    def _floor(self, document: dict[str, Any]) -> dict[str, Any]:
        """A 1x1x1 matmul on the same path."""
        from npuscope.measure.numerics import make_inputs

        request, _ = self._opened()
        config = MatmulConfig(*_FLOOR_SHAPE, dtype=request.config.dtype)
        executable = open_device(request.device, request.options).compile(config)
        step = make_step(executable, executable.place(*make_inputs(config, 0)))
        sample(step, document["count"])
        return {"samples_ns": sample(step, document["count"])}

    def _finish(self, document: dict[str, Any]) -> dict[str, Any]:
        """Check once more, now that it is warm; count the programs that a run dispatches where a trace tells."""
        _, executable = self._opened()
        step = self._stepped()
        check = self._check(step(), self._expected)
        backend = getattr(executable, "backend", None)
        dispatches = None
        if document["trace"] and backend is not None:
            with tempfile.TemporaryDirectory(prefix="npuscope-trace-") as folder:
                try:
                    trace = backend.trace(step, Path(folder), _TRACED_RUNS)
                    counted = None if trace is None else backend.execution_count(trace)
                except NpuscopeError:
                    counted = None  # a trace is no part of the measurement
            dispatches = None if counted is None else counted / _TRACED_RUNS
        self._check_other()  # last: some executables stay bound to what was placed last
        return {"check": check, "dispatches": dispatches}

    def _opened(self) -> tuple[KernelRequest, KernelExecutable]:
        if self._request is None or self._executable is None:
            raise MeasurementError("nothing was compiled")
        return self._request, self._executable

    def _stepped(self) -> Step:
        if self._step is None:
            raise MeasurementError("nothing was prepared")
        return self._step


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
