"""Entries of kernels, and which device each implementation gets."""

from pathlib import Path

import pytest

from npuscope.errors import UsageError
from npuscope.workloads.kernels import ENTRIES, choose, find_entry

USERS = Path(__file__).parents[1] / "kernels_of_users" / "implementations.py"


@pytest.fixture
def write(tmp_path):
    def written(text, name="mine.py"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return written


def test_every_entry_runs_on_its_default_device_and_names_a_function():
    for entry in ENTRIES:
        assert entry.runs_on(entry.default_device)
        assert entry.target.rpartition(":")[2].isidentifier()
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("import numpy\ndef f(): ...", "cpu"),
        ("import jax.numpy as jnp\ndef f(): ...", "jax:cpu"),
        ("from jax import jit\ndef f(): ...", "jax:cpu"),
        ("import neuronxcc.nki.language as nl\ndef f(): ...", "sim:trn2"),
        ("import nki, jax\ndef f(): ...", "sim:trn2"),
    ],
)
def test_imports_of_a_users_file_tell_the_device(write, text, device):
    (item,) = choose([f"{write(text)}:f"], [])
    assert item.device == device
    assert item.entry.is_user_code


def test_a_users_file_is_not_run_to_find_that_out(write):
    path = write("raise SystemExit\ndef f(): ...")
    with pytest.raises(SystemExit):
        exec(path.read_text())
    assert choose([f"{path}:f"], [])[0].device == "cpu"


def test_a_device_that_was_named_overrides_the_imports(write):
    path = write("def f(): ...")
    assert choose([f"{path}:f@jax:cpu"], [])[0].device == "jax:cpu"
    with pytest.raises(UsageError, match="not on openvino:cpu"):
        choose([f"{path}:f@openvino:cpu"], [])


def test_implementations_take_the_first_named_device_that_they_are_written_for():
    items = choose(["numpy", "nki-tokens", "nki-columns"], ["sim:trn2", "cpu", "sim:trn1"][:2])
    assert [item.device for item in items] == ["cpu", "sim:trn2", "sim:trn2"]


@pytest.mark.parametrize(
    ("names", "devices", "told"),
    [
        (["numpy"], ["sim:trn2"], "runs on cpu, not on sim:trn2"),
        (["numpy"], ["cpu", "sim:trn2"], "no implementation was given for it"),
        (["numpy", "numpy"], [], "there twice"),
        (["numpi"], [], "did you mean 'numpy'"),
        (["numpy@jax:cpu"], [], "not on jax:cpu"),
        (["no.such/module:f"], [], "neither PATH.py:FUNC nor package.module:FUNC"),
        (["some.module:f"], [], "nothing tells its device"),
        (["gone.py:f"], [], "there is no file"),
        (["gone.py"], [], "no function of it"),
    ],
)
def test_what_does_not_fit_is_refused(names, devices, told):
    with pytest.raises(UsageError) as caught:
        choose(names, devices)
    assert told in str(caught.value)


def test_one_implementation_on_two_devices_has_two_names():
    items = choose(["nki-tokens@sim:trn1", "nki-tokens@sim:trn2"], [])
    assert [item.name for item in items] == ["nki-tokens@sim:trn1", "nki-tokens@sim:trn2"]


def test_a_missing_function_is_told_before_anything_runs(write):
    with pytest.raises(UsageError, match="did you mean 'right'"):
        find_entry(f"{USERS}:rihgt")
    assert find_entry(f"{write('if True: f = len')}:f").name == "mine:f"  # what a statement binds is known when it runs
    assert find_entry(f"{write('from os.path import *')}:join").name == "mine:join"
    assert find_entry(f"{write('f = g = len')}:g").name == "mine:g"


@pytest.mark.parametrize("data", [b"def f(:\n", b"\xff\xfe\x00", b"f = 1\0", b"(" * 5000])
def test_a_file_that_is_no_python_is_one_line(tmp_path, data):
    path = tmp_path / "broken.py"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"broken\.py"):
        find_entry(f"{path}:f")
