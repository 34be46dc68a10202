"""The command line as its users meet it: a process, its exit code, and what it wrote."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from npuscope.cli import main

QUICK = ("--device", "cpu", "--iterations", "5", "--warmup", "1")
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}  # threads on busy cores wait for each other


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "npuscope", *map(str, arguments)]


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    return {**os.environ, **_ENVIRONMENT, **(extra or {})}


def _limited(limit: str, size: int, *arguments: object) -> list[str]:
    """As `command`, in a process with a resource limit: writing or allocating more fails, as where there is no more."""
    code = (
        f"import resource, runpy; resource.setrlimit(resource.{limit}, ({size}, {size})); "
        "runpy.run_module('npuscope', run_name='__main__')"
    )
    return [sys.executable, "-c", code, *map(str, arguments)]


def strict_json(text: str) -> Any:
    """Parse what every JSON parser takes: NaN and Infinity are no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def run_cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `npuscope ARGUMENTS` in a process of its own, in the test's folder, and wait for it."""

    def run(
        *arguments: object,
        timeout: float = 60,
        env: dict[str, str] | None = None,
        stdout: Any = subprocess.PIPE,
        largest_file: int | None = None,
        largest_memory: int | None = None,
    ) -> subprocess.CompletedProcess[str]:
        words = command(*arguments)
        if largest_file is not None:
            words = _limited("RLIMIT_FSIZE", largest_file, *arguments)
        if largest_memory is not None:
            words = _limited("RLIMIT_AS", largest_memory, *arguments)
        return subprocess.run(
            words,
            cwd=tmp_path,
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def call_cli(tmp_path: Path, monkeypatch, capsys) -> Callable[..., subprocess.CompletedProcess[str]]:
    """As `run_cli`, but in this process: for long tables of arguments. An exception is the test's failure."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        words = list(map(str, arguments))
        capsys.readouterr()
        code = main(words)
        written = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, written.out, written.err)

    return call


@pytest.fixture
def assert_one_line_error() -> Callable[..., str]:
    """Check that a command told its error in one line, printed nothing else, and left with `code`."""

    def check(result: subprocess.CompletedProcess[str], code: int, *texts: str) -> str:
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("npuscope: error: ")
        assert not result.stdout
        for text in texts:
            assert text in lines[0]
        assert result.returncode == code, result.stderr
        return lines[0]

    return check


@dataclass(frozen=True)
class Cost:
    """What a process took."""

    code: int
    stderr: str
    seconds: float
    peak_bytes: int


@pytest.fixture
def weigh_cli(tmp_path: Path) -> Callable[..., Cost]:
    """Run `npuscope ARGUMENTS` and tell its time and its peak memory."""

    weighed = (
        "import atexit, pathlib, runpy, sys; out = pathlib.Path(sys.argv.pop(1)); "
        "atexit.register(lambda: out.write_text(pathlib.Path('/proc/self/status').read_text())); "
        "runpy.run_module('npuscope', run_name='__main__')"
    )

    def run(*arguments: object) -> Cost:
        status = tmp_path / "status.txt"
        started = time.monotonic()
        answer = subprocess.run(
            [sys.executable, "-c", weighed, status, *map(str, arguments)],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        seconds = time.monotonic() - started
        fields = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return Cost(answer.returncode, answer.stderr, seconds, 1024 * int(fields["VmHWM"].removesuffix("kB")))

    return run


@pytest.fixture
def start_cli(tmp_path: Path):
    """Start `npuscope ARGUMENTS` and return the running process; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command(*arguments),
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished results folder of two shapes; copy it before changing it."""
    folder = tmp_path_factory.mktemp("measured") / "run"
    shapes = ("--shape", "128x128x1024", "--shape", "129x128x512")
    answer = subprocess.run(
        command("matmul", *shapes, "--dtype", "float32", *QUICK, "--out", folder),
        cwd=folder.parent,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return folder


@pytest.fixture
def copied(measured: Path, tmp_path: Path) -> Path:
    """A copy of the finished results folder, for a test to spoil."""
    return Path(shutil.copytree(measured, tmp_path / "copied"))


@pytest.fixture
def sweep_csv(tmp_path: Path) -> Path:
    """A foreign file of latencies: 0.25 ms of dispatch and 1 TFLOP/s."""
    shapes = [(m, k, n) for m in (64, 128, 129, 512) for k in (128, 1024) for n in (128, 512, 513, 4096)]
    lines = [f"{m},{k},{n},{0.25 + 2 * m * k * n / 1e9!r}" for m, k, n in shapes]
    path = tmp_path / "sweep.csv"
    path.write_text("M,K,N,latency_ms\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def is_share(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value) and 0 <= value <= 1
