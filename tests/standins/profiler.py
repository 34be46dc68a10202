"""What AWS's profilers do, as far as they are documented; run by the executables that `neuron_capture.install_profiler` makes.

Only Python's own library is used, and nothing of npuscope, so that the graph is read by other code than the one under test.
Every argument is checked; what the documents do not have is refused.

Sources: those of `npuscope.backends.neff_capture` and `npuscope.backends.neuron_view`.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tarfile
import time
from pathlib import Path

EXPLORER, PROFILE = "neuron-explorer", "neuron-profile"
SUMMARIES = ("summary-json", "summary-text")
FORMATS = {EXPLORER: ("parquet", "json", "perfetto", *SUMMARIES), PROFILE: ("db", "json", "perfetto", *SUMMARIES)}
SESSION = """\
level=info msg="reading the session"
+---------+----------------+-----------+------+-------+---------+--------+--------+
| NODE ID | EXEC TIME (NS) | EXECUTOR  | NAME | TRACE | CYCLES  | EVENTS | ERRORS |
+---------+----------------+-----------+------+-------+---------+--------+--------+
|       0 |              0 | ND 0 NC 0 | sg00 |   321 | 7654321 |     12 |      0 |
|         |                | ND 0 NC 1 | sg01 |   322 | 7000500 |     13 |      0 |
+---------+----------------+-----------+------+-------+---------+--------+--------+
"""


def main(words, *, interface, shelf, mode, version):
    if words == ["--version"] and interface == EXPLORER:
        print(f"Neuron Explorer version {version}")
        return
    commands = {"capture": capture, "view": view} | ({"show-session": show_session} if interface == PROFILE else {})
    if words[:1] == [] or words[0] not in commands:
        sys.exit(f"unknown command {words[:1]}")
    if any(name.startswith("NEURON_RT_INSPECT_") for name in os.environ):
        sys.exit("another profiler is on")
    if words[0] == "capture":
        with (shelf / "calls.jsonl").open("a") as file:
            file.write(json.dumps(words) + "\n")
    commands[words[0]](words[1:], interface, shelf, mode, version)


def parser(name):
    return argparse.ArgumentParser(prog=name, allow_abbrev=False, add_help=False)


def tensors(neff):
    """Sizes of the inputs and outputs that a NEFF declares, by kind and name."""
    found = {"input": {}, "output": {}}
    with neff.open("rb") as file:
        file.seek(1024)
        with tarfile.open(fileobj=file, mode="r:*") as archive:
            for member in archive:
                if member.name.endswith("def.json"):
                    for name, body in json.load(archive.extractfile(member))["var"].items():
                        if body["type"] in found:
                            found[body["type"]][name] = body["size"]
    return found


def capture(words, interface, shelf, mode, version):
    options = parser("capture")
    options.add_argument("-n", "--neff", required=True, type=Path)
    options.add_argument("-s", "--session-file", default="profile.ntff", type=Path)
    options.add_argument("--num-exec", type=int, default=1)
    options.add_argument("--profile-nth-exec", type=int, default=1)
    for flag in ("--save-output", "--ignore-exec-errors", "--enable-dge-notifs"):
        options.add_argument(flag, action="store_true")
    options.add_argument("-r", "--collectives-workers-per-node", type=int, default=1)
    options.add_argument("--collectives-worker-count", type=int)
    options.add_argument("--collectives-worker-start-id", type=int, default=0)
    options.add_argument("-i", "--collectives-profile-id", default="all")
    options.add_argument("inputs", nargs="*")
    given = options.parse_args(words)
    print("loading the model\n", flush=True)
    if mode == "hang":
        time.sleep(600)
    uuid = given.neff.read_bytes()[204:220]
    if mode == "fail" or (mode == "damaged" and uuid != (shelf / "graph.neff").read_bytes()[204:220]):
        sys.exit('level=fatal msg="nrt_init failed: NRT_UNINITIALIZED"')
    if not given.session_file.parent.is_dir():
        sys.exit("no such folder")
    declared = tensors(given.neff)
    check_inputs(given.inputs, declared["input"])
    if mode == "silent" or not 1 <= given.profile_nth_exec <= given.num_exec:
        return
    write_captures(given, shelf, mode, uuid)
    if given.save_output:
        short = 1 if mode == "short-output" else 0
        result = shelf / "result.bin"  # what the graph computes, where a test has put it there
        known = result.read_bytes() if result.is_file() and is_assigned(given.inputs, shelf) else b""
        save_outputs(declared["output"], given.num_exec, given.profile_nth_exec, short, known, is_told=mode != "quiet")


def is_assigned(words, shelf):
    """Whether each input was given the file that the graph computes right with, where a test has said which."""
    order = shelf / "order.json"
    wanted = json.loads(order.read_text()) if order.is_file() else {}
    given = {name: Path(file).stem for name, file in zip(words[::2], words[1::2], strict=True)}
    return all(given[name] == stem for name, stem in wanted.items())


def check_inputs(words, declared):
    if len(words) % 2:
        sys.exit("inputs must be pairs of a name and a file")
    names = words[::2]
    if words and sorted(names) != sorted(declared):
        sys.exit(f"inputs {names} are not {list(declared)}")
    for name, file in zip(names, words[1::2], strict=True):
        if not Path(file).is_file():
            sys.exit(f"input {name}: no file {file}")
        if Path(file).stat().st_size != declared[name]:
            sys.exit(f"input {name}: {Path(file).stat().st_size} bytes, not {declared[name]}")


def write_captures(given, shelf, mode, uuid):
    first = (shelf / "graph.neff").read_bytes()[204:220]
    data = (shelf / "graph.ntff").read_bytes().replace(first, uuid)
    nth, here = given.profile_nth_exec, given.collectives_workers_per_node
    session = given.session_file
    ranks = range(given.collectives_worker_start_id, given.collectives_worker_start_id + here)
    if given.collectives_profile_id != "all":
        ranks = [rank for rank in ranks if rank == int(given.collectives_profile_id)]
    if mode == "lost-rank":
        ranks = list(ranks)[:-1]
    for rank in ranks:
        ranked = f"_rank_{rank}" if here > 1 or mode == "rank" else ""
        suffix = "" if nth == 1 else f"_exec_{nth + 1 if mode == 'other' else nth}"
        name = f"{session.stem}{'' if mode == 'verbatim' else ranked + suffix}.ntff"
        target = session.with_name(name)
        if mode == "killed":
            target.write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        target.write_bytes({"partial": data[: len(data) // 2], "garbage": b"\xff" * 999, "empty": b""}.get(mode, data))
    if mode in {"replaced", "removed"}:
        work = Path.cwd()
        os.chdir("/")
        shutil.rmtree(work)
        if mode == "replaced":
            work.symlink_to(shelf)
    if mode == "litter":
        Path("ucode.log").write_text("a file that nobody asked for")


def save_outputs(declared, executions, nth, short, known, *, is_told):
    """The result is that of the captured execution: others have another."""
    for number in range(1, executions + 1):
        for name, size in declared.items():
            file = name if number == 1 else f"{name}.{number}"
            Path(file).write_bytes(known if len(known) == size and number == nth else bytes([number]) * (size - short))
            if is_told:
                print(f'level=info msg="saved output "{name}" as "{file}""')


def view(words, interface, shelf, mode, version):
    options = parser("view")
    options.add_argument("-n", "--neff-path", required=True, type=Path)
    options.add_argument("-s", "--session-file", required=True, type=Path)
    default = FORMATS[interface][0]
    options.add_argument("--output-format", default=default, choices=FORMATS[interface])
    options.add_argument("--output-file", type=Path)
    options.add_argument("--ingest-only", action="store_true")
    if interface == EXPLORER:
        options.add_argument("--data-path", type=Path)
        options.add_argument("--display-name")
    given = options.parse_args(words)
    if mode == "hang":
        time.sleep(600)
    if mode == "fail":
        sys.exit('level=fatal msg="unsupported NTFF version"')
    if given.neff_path.read_bytes()[204:220] not in given.session_file.read_bytes():
        sys.exit("the NTFF is of another NEFF")
    print("level=info processing", file=sys.stderr, flush=True)
    if given.output_format in SUMMARIES:
        if given.output_file is not None and interface == EXPLORER:
            sys.exit("--output-file is not supported for this format")
        text = {"garbage": "\0\1", "silent": ""}.get(mode) or (shelf / "views" / given.output_format).read_text()
        if mode == "killed":
            print(text[: len(text) // 2], flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        print("" if mode == "silent" else text)
    elif given.output_format == "parquet":
        write_tables(given, shelf, mode)
    elif given.output_format == "db":
        sys.exit("no database")
    else:
        write_file(given, interface, shelf, mode, tuple(map(int, version.split(".")[:2])))


def write_tables(given, shelf, mode):
    if given.ingest_only and not given.display_name:
        sys.exit("--ingest-only needs --display-name")
    if given.data_path is None or given.output_file is not None:
        sys.exit("the stand-in knows the layout below --data-path only")
    folder = given.data_path / "profiles" / "global" / f"{given.display_name}@latest"
    if mode == "elsewhere":
        folder = given.data_path / "tables"
    if mode == "killed":
        folder.mkdir(parents=True)
        (folder / "Summary.parquet").write_bytes(b"PAR1")
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "garbage":
        folder.mkdir(parents=True)
        (folder / "notes").write_text("no tables")
    elif mode != "silent":
        shutil.copytree(shelf / "views" / "parquet", folder)
    if mode == "twice":
        shutil.copytree(shelf / "views" / "parquet", given.data_path / "a")
        shutil.rmtree(folder)
        shutil.copytree(shelf / "views" / "parquet", given.data_path / "b")
    if not given.ingest_only:
        time.sleep(600)  # it serves a page


def write_file(given, interface, shelf, mode, release):
    if given.output_format == "json":
        if interface == EXPLORER and release > (2, 33):
            sys.exit("unknown output format json")
        target = given.output_file or Path("ntff.json")
    else:
        target = Path("ntff.pftrace" if interface == PROFILE else "device_profile_model_1.pftrace")
    data = (shelf / "views" / given.output_format).read_bytes()
    if mode == "killed":
        target.write_bytes(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    if mode != "silent":
        target.write_bytes(b"\0garbage" if mode == "garbage" else data)


def show_session(words, interface, shelf, mode, version):
    options = parser("show-session")
    options.add_argument("-s", "--session-file", required=True, type=Path)
    given = options.parse_args(words)
    if mode == "hang":
        time.sleep(600)
    if mode == "fail" or given.session_file.read_bytes()[0] not in range(1, 7):
        sys.exit('level=fatal msg="unsupported trace format version"')
    print({"garbage": "| NODE ID | EXEC TIME (NS) |\n| x | y |", "silent": ""}.get(mode, SESSION))
