"""A stand-in for the Neuron compiler: an executable that refuses arguments that its reference guide does not have.

What it compiles is what the stand-ins of `neuron_build` write as `penguin.py`. Settings come as JSON in the variable
`SETTINGS_VARIABLE`.

Sources: AWS Neuron documentation, Neuron Compiler CLI Reference Guide (2.32), error codes EARG001 and EVRF066.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from tests.writers.neff import neff_bytes

SETTINGS_VARIABLE = "NPUSCOPE_STANDIN"
VERSION = "2.22.12471.0+b4a00d10"
ROOT = Path(__file__).parents[2]

_COMPILER = """
import sys
sys.path.insert(0, {root!r})
from tests.standins.neuronx_cc import main
sys.exit(main(sys.argv[1:]))
"""


def install(commands):
    """Write it to a folder, as an executable."""
    compiler = commands / "neuronx-cc"
    compiler.write_text(f"#!{sys.executable}\n{_COMPILER.format(root=str(ROOT))}", encoding="utf-8")
    compiler.chmod(0o755)


def settings():
    """`mode` is of the compiler or the plugin, `kernel` of the kernels, `devices` and `hardware` of the device."""
    return json.loads(os.environ.get(SETTINGS_VARIABLE, "{}"))


def neff_of(inputs, output, uuid):
    """A NEFF that declares tensors: name to (shape, dtype name), and the one result."""
    declared = {**{name: ("input", *told) for name, told in inputs.items()}, "output0": ("output", *output)}
    variables, tensor_map = {}, {}
    for number, (name, (kind, shape, dtype)) in enumerate(declared.items()):
        size = int(np.prod(shape)) * (2 if dtype == "bfloat16" else np.dtype(dtype).itemsize)
        variables[name] = {"type": kind, "var_id": number, "size": size}
        tensor_map[name] = {"is_const": False, "tf_format": "NC", "dtype": dtype, "tf_shape": list(shape), "kind": kind}
    documents = {
        "kelf-0.json": {"graphs": [{"definition": "sg00/def.json", "name": "sg00"}], "version": "0.5"},
        "neff.json": {},
        "info.json": {"tool_version": VERSION},
        "sg00/def.json": {"name": "definition", "var": variables, "dma_queue": {}},
        "sg00/tensor_map.json": tensor_map,
    }
    members = {name: json.dumps(document).encode() for name, document in documents.items()}
    return neff_bytes(members, uuid=hashlib.md5(uuid.encode()).digest())


def main(arguments):
    """`neuronx-cc`: every argument as the reference guide has it, no other.

    Modes: fails, hangs, garbage, killed, silent (writes nothing), two (writes another NEFF beside), other (takes other inputs).
    """
    mode = settings().get("mode")
    if arguments == ["--version"]:
        sys.stderr.write(f"NeuronX Compiler version {VERSION}\n\nPython version 3.11.7\nNumPy version 2.4.6\n")
        return 0
    if arguments[:1] != ["compile"]:
        sys.exit("usage: neuronx-cc <command> [parameters]")
    options = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    options.add_argument("model", nargs=1)
    options.add_argument("--framework", required=True, choices=("XLA",))
    options.add_argument("--target", required=True, choices=("inf2", "trn1", "trn1n", "trn2"))
    options.add_argument("--lnc", "--logical-nc-config", "-lnc", type=int, choices=(1, 2))
    options.add_argument("--output", default="file.neff")
    given = options.parse_args(arguments[1:])
    traced = json.loads(Path(given.model[0]).read_text("utf-8"))
    if (given.target, given.lnc) != (traced["target"], traced["lnc"]):
        sys.exit("[NCC_EVRF066] NKI kernel 'mlp' is configured with another LNC than neuronx-cc")
    Path("log-neuron-cc.txt").write_text("INFO [root]: neuronx-cc compile\n", encoding="utf-8")
    print("Compiling", flush=True)
    if mode == "fails":
        print("2026-03-01T10:00:00Z [NCC_ITEN404] Internal tensorizer error: mlp", file=sys.stderr)
        return 70
    if mode == "hangs":
        time.sleep(600)
    if mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "garbage":
        sys.stdout.buffer.write(bytes(range(256)) * 300)
        Path(given.output).write_bytes(bytes(5000))
        return 0
    inputs = traced["inputs"]
    if mode == "other":
        inputs = {"x": ((7,), "float32")}
    if mode == "two":
        Path("other.neff").write_bytes(neff_of(inputs, traced["output"], "other"))
    if mode != "silent":
        Path(given.output).write_bytes(neff_of(inputs, traced["output"], "klir"))
    print("Compiler status PASS")
    return 0
