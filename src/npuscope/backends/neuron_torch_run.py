"""What a run through torch_xla was like, from what its process counted and from its log.

Source: the counters of torch_xla 2.9; the log's lines as `formats.neuron_log` has them. It has not met the hardware.
"""

from __future__ import annotations

import ast
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from npuscope.formats.neuron_log import Compilation, NeuronLog, log_time, read_neuron_log

LOG_NAME: Final = "build-log.txt"
OUTPUT_NAME: Final = "output.npy"
FIRST_CALL: Final = "npuscope: first call"
TIMED_CALLS: Final = "npuscope: timed calls"
CALLS_DONE: Final = "npuscope: calls done"
"""Lines that divide the log."""
_DONE: Final = "Compilation Successfully Completed"


@dataclass(frozen=True, slots=True)
class TorchRun:
    """Calls of a kernel through torch_xla; each one's time includes that the host records its graph anew."""

    samples_ns: tuple[int, ...]
    """Wall clock of each timed call, from before it to when the device had finished."""
    warmup_calls: int
    first_call_ms: float
    """Recording, compiling, loading and the first execution together."""
    uncached_compiles: int
    """Graphs that torch_xla compiled within the timed calls, by its own counter."""
    cached_compiles: int
    """Graphs that it found in its in-process cache within the timed calls."""
    compiler_starts: int
    """Lines within the timed calls that say that the compiler was started."""
    cache_hits: int
    """Lines within the timed calls that say that a NEFF was taken from the persistent cache."""
    device: str
    versions: tuple[tuple[str, str], ...]
    output: Path
    """The result of the last call as `.npy`, always as float32, which holds bfloat16 exactly."""
    output_dtype: str
    """The type that it had on the device."""

    @property
    def recompiles_per_call(self) -> float:
        """Graphs that torch_xla compiled again for each timed call; 0 is what it should be."""
        return self.uncached_compiles / len(self.samples_ns)


@dataclass(frozen=True, slots=True)
class ReadRun:
    """A run with the compilation of the kernel in it."""

    run: TorchRun
    compile_ms: float | None
    """By the log's clock, from the line of the compiler's command to that of its end; None where it does not tell."""
    command: tuple[str, ...]
    """Empty where the log does not tell."""
    notes: tuple[str, ...]


def read_run(answer: Mapping[str, Any], folder: Path, neff: Path) -> ReadRun:
    """Put together what the process counted and what its log says.

    Args:
        answer: Of the worker.
        folder: Where its log and result are.
        neff: The kernel's.

    Raises:
        FormatError: The log cannot be read.
    """
    path = folder / LOG_NAME
    log, marks = read_neuron_log(path), _marks(path)
    run = _torch_run(answer, log, marks, folder)
    compilation = _compilation_of(neff, log, marks)
    notes = list(_recompilation_notes(run))
    compile_ms = _compile_ms(path, compilation)
    if compile_ms is None:
        notes.append("the run's log does not tell how long the compiler took; the first call's time includes it")
    else:
        notes.append("the compile time is by the clock of the run's log, to the millisecond")
    return ReadRun(run, compile_ms, _command_words(compilation.command) if compilation else (), tuple(notes))


def _compile_ms(path: Path, compilation: Compilation | None) -> float | None:
    """From the line of the compiler's command to the line that says of the same module that it is done.

    The line `Compiler status PASS` has no time; what is written next may be anything, later calls among it.
    """
    if compilation is None or compilation.seconds is None:
        return None
    if compilation.at_most:
        lines = path.read_text("utf-8", "replace").splitlines()[compilation.line :]
        timed = next((line for line in lines if log_time(line) is not None), "")
        if _DONE not in timed or not compilation.module or compilation.module not in timed:
            return None
    return compilation.seconds * 1e3


def _marks(log: Path) -> dict[str, int]:
    """Line numbers of what divides the log; the last of each counts."""
    lines = log.read_text("utf-8", "replace").splitlines()
    return {line: number for number, line in enumerate(lines, 1) if line in (FIRST_CALL, TIMED_CALLS, CALLS_DONE)}


def _compilation_of(neff: Path, log: NeuronLog, marks: Mapping[str, int]) -> Compilation | None:
    """The compiler's run that made a NEFF: the one whose module's hash its name has, else the only one of the first call."""
    first, last = marks.get(FIRST_CALL, 0), marks.get(TIMED_CALLS, log.lines + 1)
    made = [each for each in log.compilations if first < each.line < last and each.result != "fail"]
    for each in made:
        number = each.module.removeprefix("MODULE_").partition("+")[0]
        if number and number in str(neff):
            return each
    return made[0] if len(made) == 1 else None


def _command_words(text: str) -> tuple[str, ...]:
    """A command as a log has it: a Python list, or words."""
    try:
        words = ast.literal_eval(text)
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return tuple(words)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        pass
    try:
        return tuple(shlex.split(text))
    except ValueError:
        return (text,)


def _torch_run(answer: Mapping[str, Any], log: NeuronLog, marks: Mapping[str, int], folder: Path) -> TorchRun:
    first, last = marks.get(TIMED_CALLS, log.lines), marks.get(CALLS_DONE, log.lines)
    timed = [event.kind for event in log.events if first < event.line < last]
    return TorchRun(
        samples_ns=tuple(answer["samples_ns"]),
        warmup_calls=answer["warmup"],
        first_call_ms=answer["first_call_ns"] / 1e6,
        uncached_compiles=answer["counted"]["UncachedCompile"],
        cached_compiles=answer["counted"]["CachedCompile"],
        compiler_starts=timed.count("compile"),
        cache_hits=timed.count("hit"),
        device=answer["device"],
        versions=tuple(answer["versions"].items()),
        output=folder / OUTPUT_NAME,
        output_dtype=answer["output_dtype"],
    )


def _recompilation_notes(run: TorchRun) -> tuple[str, ...]:
    if not (run.uncached_compiles or run.compiler_starts):
        return ()
    count = len(run.samples_ns)
    return (
        f"{run.uncached_compiles} graphs were compiled again in {count} timed calls (by torch_xla's counter; the compiler was"
        f" started {run.compiler_starts} times, {run.cache_hits} NEFFs came from the cache): their times are no kernel's times",
    )
