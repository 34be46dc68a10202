"""Executables that stand in for a program on the Neuron runtime and for AWS's profiler.

Both refuse what the documented interfaces do not have. What they write is made by the tests' writers.

Sources: Neuron Explorer Environment Variables (2.33.0), Neuron Profiler User Guide (2.28.1), NKI profiling guide.
"""

import os
import sys
from pathlib import Path

from tests.writers.neff import UUID, header_bytes, neff_bytes
from tests.writers.ntff import integer, payload, small_capture

HASH = "395760075800974"
OTHER_UUID = bytes(range(101, 117))

# A program whose runtime captures as the variables say: PROGRAM RUNTIME_MINOR EXECUTIONS [NEFF ...]
_PROGRAM = """
import os, sys
from pathlib import Path
shelf = Path({shelf!r})
flag = lambda name: os.environ.get(name, "0")
if flag("NEURON_RT_INSPECT_ENABLE") != "1":
    sys.exit(0)
for name in ("NEURON_FRAMEWORK_DEBUG", "XLA_IR_DEBUG", "XLA_HLO_DEBUG", "NEURON_RT_INSPECT_SYSTEM_PROFILE"):
    if flag(name) != "1":
        sys.exit(f"{{name}} is not set")
print("hello from the program")
minor, executions, names = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or ["graph"]
folder = Path(os.environ.get("NEURON_RT_INSPECT_OUTPUT_DIR", "./output")) / f"i-0ade06f0_pid_{{os.getpid()}}"
folder.mkdir(parents=True)
(folder / "ntrace.pb").write_bytes(b"trace")
if flag("NEURON_RT_INSPECT_DEVICE_PROFILE") not in ("1", "model"):
    sys.exit(0)
skipped = int(flag("NEURON_RT_INSPECT_DEVICE_PROFILE_NUM_WARMUP")) if minor >= 35 else 0
for count, name in enumerate(names):
    number = {hash} + count
    (folder / f"neff_{{number}}.neff").write_bytes((shelf / f"{{name}}.neff").read_bytes())
    if executions > skipped:
        capture = (shelf / f"{{name}}.ntff").read_bytes().replace((shelf / "2.29").read_bytes(), (shelf / f"2.{{minor}}").read_bytes())
        (folder / f"{{number}}_instid_0_vnc_0.ntff").write_bytes(capture)
"""

# MODE: exec, rank or verbatim name the output; fail, silent and hang do not write one; damaged fails on one graph.
_PROFILER = """
import argparse, json, os, sys, time
from pathlib import Path
shelf, mode = Path({shelf!r}), {mode!r}
if sys.argv[1:2] != ["capture"]:
    sys.exit("unknown command")
if any(name.startswith("NEURON_RT_INSPECT_") for name in os.environ):
    sys.exit("another profiler is on")
options = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=True)
options.add_argument("-n", "--neff", required=True)
options.add_argument("-s", "--session-file", default="profile.ntff")
options.add_argument("--num-exec", type=int, default=1)
options.add_argument("--profile-nth-exec", type=int, default=1)
options.add_argument("inputs", nargs="*")
given = options.parse_args(sys.argv[2:])
with open(shelf / "calls.jsonl", "a") as file:
    file.write(json.dumps([*sys.argv[1:]]) + "\\n")
print("loading the model\\n")
if mode == "hang":
    time.sleep(600)
uuid = Path(given.neff).read_bytes()[204:220]
if mode == "fail" or (mode == "damaged" and uuid != Path(shelf / "graph.neff").read_bytes()[204:220]):
    sys.exit("level=fatal msg=\\"nrt_init failed: NRT_UNINITIALIZED\\"")
if mode == "silent" or not 1 <= given.profile_nth_exec <= given.num_exec:
    sys.exit(0)
nth = given.profile_nth_exec
session = Path(given.session_file)
suffix = "" if nth == 1 or mode == "verbatim" else f"_rank_0_exec_{{nth}}" if mode == "rank" else f"_exec_{{nth}}"
first = Path(shelf / "graph.neff").read_bytes()[204:220]
session.with_name(f"{{session.stem}}{{suffix}}.ntff").write_bytes((shelf / "graph.ntff").read_bytes().replace(first, uuid))
"""


def runtime_version(minor: int) -> bytes:
    """The field of an NTFF that holds the runtime's version, 2.MINOR.40."""
    return payload(8, integer(1, 2) + integer(2, minor) + integer(3, 40) + payload(5, b"0123456789"))


def ntff(uuid: bytes = UUID, minor: int = 29) -> bytes:
    """A capture of the graph with that UUID, by that runtime."""
    made = small_capture()
    made.uuid = uuid
    data = made.data()
    assert data.count(runtime_version(29)) == 1
    return data.replace(runtime_version(29), runtime_version(minor))


def make_shelf(shelf: Path) -> Path:
    """What the stand-ins write: two graphs and a capture of each."""
    shelf.mkdir()
    for name, uuid in (("graph", UUID), ("other", OTHER_UUID)):
        (shelf / f"{name}.neff").write_bytes(neff_bytes(uuid=uuid))
        (shelf / f"{name}.ntff").write_bytes(ntff(uuid))
    (shelf / "damaged.neff").write_bytes(header_bytes()[:100])
    (shelf / "damaged.ntff").write_bytes(b"\x07" + ntff()[1:])
    for minor in (29, 35):
        (shelf / f"2.{minor}").write_bytes(runtime_version(minor))
    return shelf


def install_program(folder: Path, shelf: Path) -> Path:
    """The program, as an executable of `folder`."""
    return _executable(folder / "program", _PROGRAM.format(shelf=str(shelf), hash=HASH))


def install_profiler(folder: Path, shelf: Path, name: str = "neuron-explorer", mode: str = "exec") -> Path:
    """The profiler, as an executable of `folder`."""
    return _executable(folder / name, _PROFILER.format(shelf=str(shelf), mode=mode))


def _executable(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{text}", encoding="utf-8")
    path.chmod(0o755)
    return path


def path_with(folder: Path) -> str:
    """PATH with the stand-ins before all others."""
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
