"""The child processes of a build: the worker in its own folder, and the compiler. They have not met the hardware."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.backends.neuron_capture import prepare_output_dir
from npuscope.backends.neuron_kernels import NeuronKernel
from npuscope.backends.neuron_torch_run import LOG_NAME
from npuscope.backends.processes import Ended, module_words, run_child
from npuscope.errors import MeasurementError, OutputError, UnavailableError

COMPILER: Final = "neuronx-cc"
INSTALL: Final = "pip install neuronx-cc --extra-index-url https://pip.repos.neuron.amazonaws.com"
_WORKER: Final = "npuscope.backends.neuron_build_worker"
_VERSION: Final = re.compile(r"NeuronX Compiler version (\S+)")
_CACHE_NAME: Final = "neuron-compile-cache"
_LAST_BYTES: Final = 1 << 16
_INTERRUPTED: Final = "KeyboardInterrupt"

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a build has to be over; its children share the time."""

    timeout_s: float
    ends_s: float
    """By the monotonic clock."""

    @classmethod
    def after(cls, timeout_s: float) -> Deadline:
        """From now on."""
        return cls(timeout_s, time.monotonic() + timeout_s)

    @property
    def left_s(self) -> float:
        """What is left, and never nothing: a child that is given no time would not be told from one that takes any."""
        return max(0.001, self.ends_s - time.monotonic())

    def passed(self, what: str) -> MeasurementError:
        """The error of a child that was ended."""
        return MeasurementError(f"{what} took longer than {self.timeout_s:g} s and was ended; allow more time")


def run_worker(
    kernel: NeuronKernel,
    inputs: Arrays,
    folder: Path,
    method: str,
    settings: Mapping[str, Any],
    environment: Mapping[str, str],
    deadline: Deadline,
) -> dict[str, Any]:
    """Run the worker in the folder, which is made; its log is put there at the end, but not where something is not installed.

    Args:
        kernel: The kernel.
        inputs: By name.
        folder: The worker's current folder.
        method: `klir` or `framework-debug`.
        settings: What else the worker has to know.
        environment: Its whole environment.
        deadline: When it has to be over.

    Returns:
        Its answer.

    Raises:
        UsageError: The folder is not empty.
        UnavailableError: What the worker needs is not installed.
        MeasurementError: It failed, took too long, or vanished.
    """
    prepare_output_dir(folder)
    what = f"--method {method} of kernel {kernel.name}"
    with tempfile.TemporaryDirectory(prefix="npuscope-build-") as scratch_name:
        scratch = Path(scratch_name)
        request, answer, log = scratch / "request.json", scratch / "answer.json", scratch / LOG_NAME
        listed = []
        for index, (name, array) in enumerate(inputs.items()):
            (scratch / f"{index}.bin").write_bytes(np.ascontiguousarray(array).tobytes())
            listed.append({"name": name, "dtype": array.dtype.name, "shape": array.shape})
        document = {"method": method, "kernel": asdict(kernel), "inputs": listed, "log": str(log), **settings}
        request.write_text(json.dumps(document), "utf-8")
        words = module_words(_WORKER, str(request), str(answer))
        try:
            ended = run_child(words, env=environment, cwd=folder, timeout_s=deadline.left_s)
        except MeasurementError:
            _keep_log(log, folder)
            raise MeasurementError(
                f"{deadline.passed(what)}; its last words: {_last_words(log)}{_see(folder)}"
            ) from None
        told = json.loads(answer.read_text("utf-8")) if answer.is_file() else {}
        if "missing" in told:
            raise UnavailableError(told["what"], missing=told["missing"], remedy=told["remedy"])
        _keep_log(log, folder)
        if "error" in told:
            raise MeasurementError(f"{what}: {told['error']}{_see(folder)}")
        if not told:
            words_of_it = ended.last_words() if ended.output.strip() else _last_words(log)
            raise MeasurementError(
                f"{what} {ended.told()} and left no result; its last words: {words_of_it}{_see(folder)}"
            )
    return dict(told)


def _keep_log(log: Path, folder: Path) -> None:
    if not log.is_file():
        return
    try:
        shutil.copyfile(log, folder / LOG_NAME)
    except OSError as error:
        raise OutputError(f"{folder / LOG_NAME} cannot be written: {error.strerror}") from error


def _last_words(log: Path) -> str:
    """The last line of the log, shortened."""
    try:
        text = log.read_bytes()[-_LAST_BYTES:].decode("utf-8", "replace")
    except OSError:
        text = ""
    lines = text.splitlines()
    if lines and lines[-1].strip() == _INTERRUPTED:  # we ended it; what it said before that is what it was about
        text = text.rpartition("Traceback (most recent call last)")[0]
    return Ended(0, text).last_words()


def _see(folder: Path) -> str:
    return f"; see {folder / LOG_NAME}"


def build_environment() -> dict[str, str]:
    """Ours without the runtime's own capturing, and without bytecode being left beside a user's file."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NEURON_RT_INSPECT_")}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1"}


def framework_environment(folder: Path, target: str, lnc: int) -> dict[str, str]:
    """What makes the Neuron plugin save graphs and compile them here; a cache of before would hide the compilation."""
    environment = build_environment()
    flags, dropped = [], False
    for word in shlex.split(environment.get("NEURON_CC_FLAGS", "")):
        if word == "--cache_dir":  # it would come before NEURON_COMPILE_CACHE_URL (Neuron Persistent Cache)
            dropped = True
        elif dropped:
            dropped = False
        elif not word.startswith("--cache_dir="):
            flags.append(word)
    if flags:
        environment["NEURON_CC_FLAGS"] = shlex.join(flags)
    else:
        environment.pop("NEURON_CC_FLAGS", None)
    return {
        **environment,
        "NEURON_FRAMEWORK_DEBUG": "1",
        "XLA_IR_DEBUG": "1",
        "XLA_HLO_DEBUG": "1",
        "NEURON_COMPILE_CACHE_URL": str(folder.absolute() / _CACHE_NAME),
        "NEURON_PLATFORM_TARGET_OVERRIDE": target,
        "NEURON_LOGICAL_NC_CONFIG": str(lnc),  # the kernel's, the compiler's and the runtime's have to agree (EVRF066)
    }


def compiler_version(compiler: str, environment: Mapping[str, str], folder: Path, deadline: Deadline, what: str) -> str:
    """What `neuronx-cc --version` says; `unknown` where it does not.

    Raises:
        MeasurementError: It took too long.
    """
    try:
        ended = run_child([compiler, "--version"], env=environment, cwd=folder, timeout_s=deadline.left_s)
    except MeasurementError:
        raise deadline.passed(f"{what}: {COMPILER} --version") from None
    found = _VERSION.search(ended.output)
    return found.group(1) if found and ended.status == 0 else "unknown"


def compile_penguin(
    words: Sequence[str], environment: Mapping[str, str], folder: Path, deadline: Deadline, what: str
) -> float:
    """Run the compiler, with its output behind the log; its wall clock in milliseconds.

    Raises:
        MeasurementError: It failed or took too long.
    """
    start_ns = time.perf_counter_ns()
    try:
        ended = run_child(words, env=environment, cwd=folder, timeout_s=deadline.left_s)
    except MeasurementError as error:
        said = str(error).rpartition("; its last words: ")[2]
        words_of_it = "" if _INTERRUPTED in said else f"; its last words: {said}"
        raise MeasurementError(f"{deadline.passed(f'{what}: {COMPILER}')}{words_of_it}") from None
    duration_ms = (time.perf_counter_ns() - start_ns) / 1e6
    with (folder / LOG_NAME).open("a", encoding="utf-8", errors="replace") as log:
        log.write(f"{shlex.join(words)}\n{ended.output}")
    if ended.status != 0:
        raise MeasurementError(f"{what}: {COMPILER} compile {ended.told()}: {ended.last_words()}{_see(folder)}")
    return duration_ms
