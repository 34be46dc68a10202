"""Who holds a Neuron device, by made-up processes in the form that Linux shows them in."""

import os
from pathlib import Path

import pytest

from npuscope.backends.neuron_devices import DeviceHolder, device_holders, require_free_devices
from npuscope.errors import UnavailableError


@pytest.fixture
def proc(tmp_path):
    """A folder with two processes that hold nothing of interest, and things that are no processes."""
    folder = tmp_path / "proc"
    add(folder, 1, "init", "/dev/null")
    add(folder, 20, "editor", "/dev/neuron0.txt", "/dev/neuron", "/home/me/dev/neuron0", "socket:[7]")
    (folder / "self").symlink_to(folder / "20")
    (folder / "meminfo").write_text("")
    return folder


def add(folder, pid, command, *targets):
    process = folder / str(pid)
    (process / "fd").mkdir(parents=True)
    (process / "cmdline").write_bytes(b"\0".join(word.encode() for word in command.split()) + b"\0")
    for number, target in enumerate(targets):
        (process / "fd" / str(number)).symlink_to(target)


def test_files_of_other_names_are_no_devices(proc):
    use = device_holders(proc)
    assert (use.holders, use.hidden_processes, use.notes) == ((), 0, ())
    assert require_free_devices(proc, {}) == ()


def test_holders_are_told_by_number_with_their_devices_in_order(proc):
    add(proc, 300, "python train.py --steps 9", "/dev/neuron10", "/dev/neuron2", "/dev/neuron2", "/dev/null")
    add(proc, 31, "server", "/dev/neuron0")
    assert device_holders(proc).holders == (
        DeviceHolder(31, "server", ("/dev/neuron0",)),
        DeviceHolder(300, "python train.py --steps 9", ("/dev/neuron2", "/dev/neuron10")),
    )


def test_a_held_device_is_one_line_that_says_who_and_what_to_do(proc):
    add(proc, 300, "python train.py\nx", "/dev/neuron0", "/dev/neuron1")
    with pytest.raises(UnavailableError) as raised:
        require_free_devices(proc, {})
    assert str(raised.value) == (
        "exclusive use of the Neuron devices is not available: process 300 (python train.py x) holds /dev/neuron0, /dev/neuron1;"
        " end it, wait for it, or choose cores that it does not use with NEURON_RT_VISIBLE_CORES"
    )


def test_our_own_process_and_many_others_are_told_as_such(proc):
    for pid in range(7001, 7006):
        add(proc, pid, "", "/dev/neuron0")
    add(proc, os.getpid(), "pytest", "/dev/neuron1")
    with pytest.raises(UnavailableError, match="this very process" if os.getpid() < 7003 else "and 3 more processes"):
        require_free_devices(proc, {})


def test_chosen_cores_make_a_note_of_it_as_they_may_be_others(proc):
    add(proc, 300, "python train.py", "/dev/neuron0")
    (note,) = require_free_devices(proc, {"NEURON_RT_VISIBLE_CORES": "4-7"})
    assert note == (
        "process 300 (python train.py) holds /dev/neuron0: going on with NEURON_RT_VISIBLE_CORES=4-7,"
        " which must leave out their cores"
    )
    with pytest.raises(UnavailableError):
        require_free_devices(proc, {"NEURON_RT_VISIBLE_CORES": ""})


def test_processes_that_may_not_be_read_are_a_note(proc, monkeypatch):
    add(proc, 40, "theirs", "/dev/neuron0")
    real = os.listdir

    def listdir(path):
        if Path(path).parent.name == "40":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    use = device_holders(proc)
    assert (use.holders, use.hidden_processes) == ((), 1)
    assert require_free_devices(proc, {}) == (
        "1 processes of other users could not be checked for open Neuron devices",
    )


def test_a_process_that_ends_meanwhile_is_passed_over(proc):
    (proc / "77").mkdir()  # without fd: gone
    assert device_holders(proc).holders == ()
    assert device_holders(proc / "nothing").holders == ()


def test_this_machine_can_be_asked():
    assert device_holders().hidden_processes >= 0
