"""A child process that answers requests, one JSON document a line, each under a time limit.

The two have pipes of their own: what the child or a user's code in it prints is kept for its last words and disturbs nothing.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final

from npuscope.backends.processes import Ended, end_group, end_of, module_words
from npuscope.errors import MeasurementError, NpuscopeError, UnavailableError, UsageError

_MAX_ANSWER: Final = 1 << 28
"""Bytes of one answer: samples, never arrays."""
_KINDS: Final = {"usage": UsageError, "measurement": MeasurementError}


class Conversation:
    """A child that runs `serve` in the main function of one of our modules."""

    def __init__(self, module: str, name: str, *, env: Mapping[str, str] | None = None) -> None:
        """Start it.

        Args:
            module: Its `main` is called with the two descriptors as texts.
            name: What to call it in errors.
            env: Its whole environment; None is ours.
        """
        self._name = name
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the child
        theirs_in, self._requests = os.pipe()
        self._answers, theirs_out = os.pipe()
        self._buffer = b""
        try:
            self._child = subprocess.Popen(
                module_words(module, str(theirs_in), str(theirs_out)),
                env=dict(os.environ if env is None else env),
                pass_fds=(theirs_in, theirs_out),
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that it can be ended with what a user's code started
            )
        finally:
            os.close(theirs_in)
            os.close(theirs_out)

    def ask(self, request: Mapping[str, Any], *, timeout_s: float, doing: str = "") -> dict[str, Any]:
        """One request and its answer.

        Args:
            request: In JSON's types.
            timeout_s: Most time for the answer.
            doing: What it is asked to do, for an error: `to compile`.

        Raises:
            MeasurementError: It took longer than `timeout_s`, ended instead, or answered that it cannot; it is ended for the
                first two.
            UsageError, UnavailableError: As it answered.
        """
        try:
            _write_all(self._requests, json.dumps(request).encode() + b"\n")
            line = self._line(time.monotonic() + timeout_s)
        except TimeoutError:
            words = Ended(0, end_of(self._said)).last_words()  # before it is told to end, which many tell of
            end_group(self._child)
            raise MeasurementError(
                f"{self._name} took longer than {timeout_s:g} s{f' {doing}' if doing else ''} and was ended; allow more with"
                f" --time-limit; its last words: {words}"
            ) from None
        except (EOFError, BrokenPipeError):
            raise MeasurementError(self._how_it_ended()) from None
        answer = _parsed(line)
        if answer is None:  # a user's code found the pipe
            end_group(self._child)
            raise MeasurementError(f"{self._name} answered what is no answer, and was ended")
        if "error" in answer:
            _raise(answer)
        return answer

    def _line(self, deadline: float) -> bytes:
        """The next line.

        Raises:
            TimeoutError: None came in time.
            EOFError: The child is gone.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                part = os.read(self._answers, 1 << 16)
                if not part or len(self._buffer) > _MAX_ANSWER:
                    raise EOFError
                self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _how_it_ended(self) -> str:
        try:
            status = self._child.wait(5)
        except subprocess.TimeoutExpired:  # it closed its pipe and lives on
            end_group(self._child)
            return f"{self._name} stopped answering; its last words: {Ended(0, end_of(self._said)).last_words()}"
        ended = Ended(status, end_of(self._said))
        return f"{self._name} {ended.told()}; its last words: {ended.last_words()}"

    def close(self) -> None:
        """End the child: by the end of its requests, and else by force."""
        for descriptor in (self._requests, self._answers):
            if descriptor >= 0:
                os.close(descriptor)
        self._requests = self._answers = -1
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            pass
        finally:
            end_group(self._child)
            self._said.close()

    def __enter__(self) -> Conversation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def serve(arguments: list[str], answer: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """The child's side: answer requests until there are no more.

    Args:
        arguments: The two descriptors, as texts.
        answer: An error of npuscope that it raises is told to the other side; any other ends the child.
    """
    requests, answers = map(int, arguments)
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            try:
                document = answer(json.loads(line))
            except UnavailableError as error:
                document = {"error": str(error), "missing": error.missing, "remedy": error.remedy}
            except NpuscopeError as error:
                kind = "usage" if isinstance(error, UsageError) else "measurement"
                document = {"error": str(error), "kind": kind}
            _write_all(answers, json.dumps(document).encode() + b"\n")
    return 0


def _parsed(line: bytes) -> dict[str, Any] | None:
    """An answer of `serve`; None where the line is something else."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict):
        return None
    is_told = answer.get("kind") in _KINDS or ("missing" in answer and "remedy" in answer)
    return answer if "error" not in answer or is_told else None


def _raise(answer: Mapping[str, Any]) -> None:
    if "missing" in answer:
        text = str(answer["error"])
        what = text.partition(" is not available: ")[0]
        raise UnavailableError(what, missing=str(answer["missing"]), remedy=str(answer["remedy"]))
    raise _KINDS[str(answer["kind"])](str(answer["error"]))


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
