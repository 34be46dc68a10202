"""Children that answer requests: what they say comes back, and every way to fail is one line within its time."""

import os
import time
from pathlib import Path

import pytest

from npuscope.backends.conversation import Conversation
from npuscope.errors import MeasurementError, UnavailableError, UsageError

ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def child():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")])}
    with Conversation("tests.standins.talker", "the child", env=environment) as conversation:
        yield conversation


def test_answers_come_back_whatever_the_child_prints(child):
    long = "x" * 300_000
    for value in (1, [None, True], long):
        assert child.ask({"echo": value}, timeout_s=30) == {"echo": value}


def test_errors_that_are_foreseen_come_back_as_themselves_and_the_child_lives_on(child):
    with pytest.raises(UsageError, match=r"^wrong use$"):
        child.ask({"usage": 0}, timeout_s=30)
    with pytest.raises(MeasurementError, match=r"^cannot be measured$"):
        child.ask({"measurement": 0}, timeout_s=30)
    with pytest.raises(UnavailableError, match="device x is not available: it lacks a part; buy one") as caught:
        child.ask({"missing": 0}, timeout_s=30)
    assert (caught.value.missing, caught.value.remedy) == ("it lacks a part", "buy one")
    assert child.ask({"echo": 1}, timeout_s=30) == {"echo": 1}


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("die", "the child ended with status 7"),
        ("abort", "the child was killed by SIGABRT; its last words: last words"),
        ("raise", "its last words: RuntimeError: not foreseen"),
    ],
)
def test_a_child_that_ends_is_told_with_its_last_words(child, word, told):
    with pytest.raises(MeasurementError) as caught:
        child.ask({word: 0}, timeout_s=30)
    assert told in str(caught.value)
    with pytest.raises(MeasurementError):
        child.ask({"echo": 1}, timeout_s=30)


def test_a_child_that_hangs_is_ended_in_time(child):
    child.ask({"echo": 0}, timeout_s=30)
    before = time.monotonic()
    with pytest.raises(MeasurementError, match=r"took longer than 0\.5 s and was ended; allow more with --time-limit"):
        child.ask({"hang": 0}, timeout_s=0.5)
    assert time.monotonic() - before < 30
    assert child._child.poll() is not None


def test_a_child_that_closes_its_pipe_is_ended(child):
    with pytest.raises(MeasurementError, match="stopped answering"):
        child.ask({"close": 0}, timeout_s=30)
    assert child._child.poll() is not None


def test_closing_ends_the_child_and_leaves_no_descriptor_open():
    before = len(list(Path("/proc/self/fd").iterdir()))
    environment = {**os.environ, "PYTHONPATH": ROOT}
    with Conversation("tests.standins.talker", "the child", env=environment) as conversation:
        assert conversation.ask({"echo": 1}, timeout_s=30) == {"echo": 1}
    assert conversation._child.returncode == 0
    assert len(list(Path("/proc/self/fd").iterdir())) == before
