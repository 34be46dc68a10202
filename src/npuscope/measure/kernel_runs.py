"""Implementations of a kernel, measured so that they can be compared: in rounds of fresh processes, sampled in turns.

Each implementation has a process of its own, so that neither the threads of another framework nor a user's code can disturb the
others, and what hangs or crashes takes only itself along. In a round all of them are started, prepared, and then sampled one
after another, in turns; the next round begins with new processes, since a ratio repeats to a few percent within a process and
differs between them. A round is therefore what intervals are made of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from npuscope.backends.base import CacheStatus
from npuscope.backends.conversation import Conversation
from npuscope.backends.kernels import KernelRequest
from npuscope.backends.processes import interrupted_by_termination
from npuscope.errors import MeasurementError, UsageError
from npuscope.measure.settings import Settings
from npuscope.measure.statistics import MIN_INTERVAL_ROUNDS, Estimate, median_of_rounds, round_medians
from npuscope.units import format_ns, format_percent
from npuscope.workloads.mlp import MlpCheck

Progress = Callable[[str], None]
DEFAULT_ROUNDS: Final = 5
MAX_ROUNDS: Final = 50
MANY_ROUNDS: Final = 20
"""What to try where an interval is wide."""
DEFAULT_TIME_LIMIT_S: Final = 120.0
_TURNS: Final = 3
"""Times that each implementation is sampled in a round."""
_PAUSE_S: Final = 0.05
"""Between one process and the next: threads of some libraries spin for a while after their work."""
_MAX_CHUNK: Final = 500
_FLOOR_SAMPLES: Final = 100
_WIDE: Final = 0.1
"""Width of the interval over the median that deserves a warning."""
_DISPATCH_SHARE: Final = 0.8
"""Of a time that empty programs take too, from which on it says little of the kernel."""
_MODULE: Final = "npuscope.measure.kernel_worker"


@dataclass(frozen=True, slots=True)
class Compiled:
    """What compiling an implementation gave."""

    compile_ms: float | None
    """None where nothing is compiled."""
    cache: CacheStatus
    compute_dtype: str
    description: str
    """The device, as its framework names it."""
    versions: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KernelMeasurement:
    """One implementation on one device, as the host saw it."""

    name: str
    device: str
    status: str
    """`ok` or `failed`."""
    error: str = ""
    compiled: Compiled | None = None
    first_ms: float | None = None
    """The first execution after compiling, of the first process."""
    warmup_runs: int = 0
    warmup_steady: bool | None = None
    steady: Estimate | None = None
    """ns, over the rounds' medians."""
    round_medians_ns: tuple[float, ...] = ()
    """In the order of the rounds."""
    samples_ns: tuple[int, ...] = ()
    sample_round: tuple[int, ...] = ()
    check: MlpCheck | None = None
    """The worst of all rounds."""
    dispatch_floor_ms: float | None = None
    """Median of a 1x1x1 matmul on the same path."""
    dispatches: float | None = None
    """Compiled programs that an execution runs, counted in a trace; None where none was taken."""
    inputs_sha256: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Running:
    """An implementation while it is measured."""

    name: str
    request: KernelRequest
    answers: list[dict[str, Any]] = field(default_factory=list)
    """Of compiling and preparing, a round each."""
    samples_ns: list[int] = field(default_factory=list)
    sample_round: list[int] = field(default_factory=list)
    floor_ns: list[int] = field(default_factory=list)
    checks: list[MlpCheck] = field(default_factory=list)
    dispatches: float | None = None
    failure: str = ""
    process: Conversation | None = None

    def close(self) -> None:
        if self.process is not None:
            self.process.close()
            self.process = None


def compile_kernel(name: str, request: KernelRequest, *, save_to: Path | None, time_limit_s: float) -> Compiled:
    """Compile one implementation in a process of its own, and keep what it was compiled from.

    Args:
        name: What to call it in errors.
        request: What to compile.
        save_to: A folder for HLO or model; None keeps nothing.
        time_limit_s: Most time, the start of the process included.

    Raises:
        MeasurementError: It cannot be compiled, or not in time.
        UsageError: There is no such function.
        UnavailableError: The device cannot be had.
    """
    with interrupted_by_termination(), Conversation(_MODULE, name) as process:
        asked = {"step": "compile", "kernel": _kernel(request), "save_to": str(save_to) if save_to else None}
        return _compiled(process.ask(asked, timeout_s=time_limit_s, doing="to compile"))


def measure_kernels(
    requests: Sequence[tuple[str, KernelRequest]],
    inputs: Path,
    settings: Settings,
    tell: Progress = lambda _: None,
    *,
    rounds: int = DEFAULT_ROUNDS,
    time_limit_s: float = DEFAULT_TIME_LIMIT_S,
) -> tuple[KernelMeasurement, ...]:
    """Measure implementations of one kernel at one size together.

    Args:
        requests: Names and implementations; one that fails does not stop the others.
        inputs: The folder of the raw input files, which all of them read.
        settings: Time, warm-up, a fixed count of samples, and seed; the time is shared out among the rounds.
        tell: Is called with a line about what is done now.
        rounds: How many.
        time_limit_s: Most time for an implementation to be compiled and run for the first time, and for each later answer beyond
            what its samples take.

    Returns:
        One per request, in their order.

    Raises:
        UnavailableError: A device cannot be had.
        UsageError: A function does not exist, or a number of rounds that cannot be used.
    """
    check_rounds(rounds)
    everyone = [_Running(name, request) for name, request in requests]
    rng = np.random.default_rng(settings.seed)
    with interrupted_by_termination():
        for number in range(rounds):
            try:
                _round(everyone, number, rounds, inputs, settings, rng, tell, time_limit_s)
            finally:
                for item in everyone:
                    item.close()
    return tuple(_measurement(item, settings) for item in everyone)


def check_rounds(rounds: int) -> None:
    """Refuse, before the work, a number of rounds that cannot be used.

    Raises:
        UsageError: Fewer than an interval needs, or beyond any use.
    """
    if not MIN_INTERVAL_ROUNDS <= rounds <= MAX_ROUNDS:
        raise UsageError(
            f"--rounds {rounds}: from {MIN_INTERVAL_ROUNDS}, since fewer have no interval, to {MAX_ROUNDS}"
        )


def _round(
    everyone: Sequence[_Running],
    number: int,
    rounds: int,
    inputs: Path,
    settings: Settings,
    rng: np.random.Generator,
    tell: Progress,
    limit_s: float,
) -> None:
    """Start and prepare all, sample them in turns, check them again."""
    share = replace(settings, max_seconds=settings.max_seconds / rounds)
    for at in rng.permutation(len(everyone)):
        item = everyone[at]
        tell(f"round {number + 1} of {rounds}: preparing {item.name}")
        _attempt(_start, item, inputs, share, limit_s)
    for turn in range(_TURNS):
        for at in rng.permutation(len(everyone)):
            item = everyone[at]
            tell(f"round {number + 1} of {rounds}: sampling {item.name}")
            _attempt(_chunk, item, number, turn, rounds, share, limit_s)
    for item in everyone:
        _attempt(_end, item, number, limit_s)


def _attempt(step: Callable[..., None], item: _Running, *arguments: object) -> None:
    """A failure is the implementation's own; that its device or function does not exist stops everything.

    Raises:
        UnavailableError, UsageError: As the step does.
    """
    if item.failure:
        return
    try:
        step(item, *arguments)
    except MeasurementError as error:
        item.failure = str(error)
        item.close()


def _start(item: _Running, inputs: Path, settings: Settings, limit_s: float) -> None:
    item.process = Conversation(_MODULE, item.name)
    compiled = item.process.ask(
        {"step": "compile", "kernel": _kernel(item.request)}, timeout_s=limit_s, doing="to compile"
    )
    prepare = {
        "step": "prepare",
        "inputs": str(inputs.resolve()),
        "max_seconds": settings.max_seconds,
        "warmup": settings.warmup,
    }
    prepared = item.process.ask(
        prepare, timeout_s=limit_s + settings.max_seconds, doing="to run for the first time, be checked and warm up"
    )
    item.answers.append({**compiled, **prepared})
    item.checks.append(MlpCheck(**prepared["check"]))


def _chunk(item: _Running, number: int, turn: int, rounds: int, settings: Settings, limit_s: float) -> None:
    """Samples of one turn: as many as the time allows; a slow implementation is sampled in the first turns only."""
    if item.process is None:
        return
    estimate_ns = max(1.0, item.answers[-1]["estimate_ns"])
    if settings.iterations is not None:
        left = -(-settings.iterations // rounds) - item.sample_round.count(number)
        count = -(-left // (_TURNS - turn))
    else:
        spent_ns = sum(sample for sample, of in zip(item.samples_ns, item.sample_round, strict=True) if of == number)
        left_ns = settings.max_seconds * 1e9 - spent_ns
        count = min(_MAX_CHUNK, int(left_ns / (_TURNS - turn) / estimate_ns))
        count = max(count, 1 if turn == 0 else 0)
    if count <= 0:
        return
    time.sleep(_PAUSE_S)
    timeout_s = limit_s + 10 * count * estimate_ns / 1e9
    taken = item.process.ask({"step": "sample", "count": count}, timeout_s=timeout_s, doing=f"for {count} executions")[
        "samples_ns"
    ]
    item.samples_ns += taken
    item.sample_round += [number] * len(taken)


def _end(item: _Running, number: int, limit_s: float) -> None:
    """Check again, and in the first round what an empty program takes and how many programs a run dispatches."""
    if item.process is None:
        return
    finished = item.process.ask(
        {"step": "finish", "trace": number == 0}, timeout_s=limit_s, doing="to be checked again"
    )
    item.checks.append(MlpCheck(**finished["check"]))
    item.dispatches = finished["dispatches"] if number == 0 else item.dispatches
    time.sleep(_PAUSE_S)
    item.floor_ns += item.process.ask({"step": "floor", "count": _FLOOR_SAMPLES}, timeout_s=limit_s)["samples_ns"]
    item.close()


def _measurement(item: _Running, settings: Settings) -> KernelMeasurement:
    name, device = item.name, item.request.device
    compiled = _compiled(item.answers[0]) if item.answers else None
    if item.failure:
        return KernelMeasurement(name, device, "failed", item.failure, compiled)
    hashes = {answer["inputs_sha256"] for answer in item.answers}
    if len(hashes) != 1:
        return KernelMeasurement(name, device, "failed", "its inputs changed from one round to the next", compiled)
    medians = round_medians(np.array(item.samples_ns, np.int64), np.array(item.sample_round, np.int64))
    steady = median_of_rounds(list(medians.values()), seed=settings.seed)
    floor_ms = median(item.floor_ns) / 1e6 if item.floor_ns else None
    settled = [answer["warmup_steady"] for answer in item.answers]
    is_steady = None if None in settled else all(settled)
    return KernelMeasurement(
        name=name,
        device=device,
        status="ok",
        compiled=compiled,
        first_ms=item.answers[0]["first_ns"] / 1e6,
        warmup_runs=sum(answer["warmup_runs"] for answer in item.answers),
        warmup_steady=is_steady,
        steady=steady,
        round_medians_ns=tuple(medians.values()),
        samples_ns=tuple(item.samples_ns),
        sample_round=tuple(item.sample_round),
        check=max(item.checks, key=lambda check: check.error_over_allowed),
        dispatch_floor_ms=floor_ms,
        dispatches=item.dispatches,
        inputs_sha256=hashes.pop(),
        warnings=_warnings(steady, floor_ms, item.dispatches, is_steady=is_steady),
    )


def _warnings(
    steady: Estimate, floor_ms: float | None, dispatches: float | None, *, is_steady: bool | None
) -> tuple[str, ...]:
    """What makes the figure mean less than it seems to, each with what to do."""
    found = []
    if is_steady is False:
        found.append("latency was still changing when a warm-up ended; give it a larger --max-seconds")
    width = (steady.high - steady.low) / steady.value
    if width > _WIDE:
        told = f"{width:.1f} times" if width > 1 else f"{format_percent(width)} of"
        found.append(f"the interval is {told} the median wide; quiet the machine, or --rounds {MANY_ROUNDS}")
    floor = (floor_ms or 0.0) * (dispatches or 1.0)
    if floor >= _DISPATCH_SHARE * steady.value / 1e6:
        found.append(
            f"starting an empty program as often takes {format_ns(1e6 * floor)} of the {format_ns(steady.value)}: this is"
            " dispatch, not the kernel"
        )
    return tuple(found)


def _kernel(request: KernelRequest) -> dict[str, Any]:
    document = asdict(request)
    document["compile_cache"] = str(request.compile_cache.resolve()) if request.compile_cache else None
    return document


def _compiled(answer: dict[str, Any]) -> Compiled:
    cache = CacheStatus(answer["cache"])
    is_compiled = cache is not CacheStatus.NOT_COMPILED
    return Compiled(
        compile_ms=answer["compile_ns"] / 1e6 if is_compiled else None,
        cache=cache,
        compute_dtype=answer["compute_dtype"],
        description=answer["description"],
        versions=dict(answer["versions"]),
        notes=tuple(answer["notes"]),
    )
