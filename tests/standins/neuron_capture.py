"""Executables that stand in for a program on the Neuron runtime and for AWS's profiler.

Both refuse what the documented interfaces do not have. What they write is made by the tests' writers. What the profiler does is
in `profiler`.

Sources: Neuron Explorer Environment Variables (2.33.0), Neuron Profiler User Guide (2.28.1), NKI profiling guide.
"""

import json
import os
import sys
from pathlib import Path

from npuscope.formats.perfetto_writer import write_perfetto
from tests.profiles import instruction, small_profile
from tests.writers.neff import UUID, header_bytes, neff_bytes
from tests.writers.neuron_json import write_document
from tests.writers.neuron_parquet import vendor_tables, write_folder
from tests.writers.ntff import integer, payload, small_capture

_ROOT = Path(__file__).parents[2]
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

_PROFILER = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.standins.profiler import main
main(sys.argv[1:], interface={name!r}, shelf=Path({shelf!r}), mode={mode!r}, version={version!r})
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


def add_views(shelf: Path) -> Path:
    """What the profiler's `view` gives, by format: made-up rows in the documented forms."""
    views = shelf / "views"
    views.mkdir()
    write_folder(views / "parquet", vendor_tables())
    write_document(views / "json", instructions=20, packets=10)
    write_perfetto(small_profile([instruction("Tensor", "MATMUL", 10, 20)]), views / "perfetto")
    (views / "summary-json").write_text(json.dumps({"graph": {"total_time": 1.5e-05, "event_count": 12}}))
    (views / "summary-text").write_text("event_count   12\ntotal_time    1.5e-05\n")
    return views


def install_profiler(
    folder: Path, shelf: Path, name: str = "neuron-explorer", mode: str = "exec", version: str = "2.33.38.0"
) -> Path:
    """The profiler, as an executable of `folder`.

    MODE: exec, rank and verbatim name the capture; quiet does not tell the outputs that it saves; litter leaves another file.
    fail, hang and silent write nothing, killed a half of it; damaged fails on one graph; partial, garbage and empty write what
    is no capture; other captures the wrong execution; lost-rank leaves one out, short-output a byte; elsewhere and twice put tables elsewhere.
    """
    text = _PROFILER.format(root=str(_ROOT), shelf=str(shelf), name=name, mode=mode, version=version)
    return _executable(folder / name, text)


def _executable(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{text}", encoding="utf-8")
    path.chmod(0o755)
    return path


def path_with(folder: Path) -> str:
    """PATH with the stand-ins before all others."""
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
