"""One NKI implementation of a kernel on a simulated device, in a process of its own: a kernel that hangs takes only that along."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from npuscope.errors import NpuscopeError, UsageError
from npuscope.formats.kernel_folder import load_inputs
from npuscope.profile.folder import write_profile
from npuscope.simulate.simulation import simulate_kernel
from npuscope.simulate.validation.report import KERNEL_FOLDERS
from npuscope.workloads.kernels import EXAMPLES
from npuscope.workloads.mlp import MlpConfig, check_mlp, inputs_sha256

MODULE: Final = "npuscope.simulate.kernel_worker"


def main(arguments: list[str]) -> int:
    """Read the request, simulate, write the profile and the answer; 1 where it cannot be, with the reason in the answer."""
    request = json.loads(Path(arguments[0]).read_text("utf-8"))
    answer = Path(arguments[1])
    try:
        document = _simulated(request)
    except NpuscopeError as error:
        document = {"error": str(error)}
    answer.write_text(json.dumps(document), "utf-8")
    return int("error" in document)


def kernel_source(target: str) -> str:
    """`FILE.py:NAME` of a kernel: as it is, or where the package keeps its examples.

    Raises:
        UsageError: An installation without its examples.
    """
    if not target.startswith(EXAMPLES):
        return target
    file, _, name = target.removeprefix(EXAMPLES).partition(":")
    found = next((folder / file for folder in KERNEL_FOLDERS if (folder / file).is_file()), None)
    if found is None:
        raise UsageError(f"this installation lacks {target}; install npuscope again")
    return f"{found}:{name}"


def _simulated(request: Mapping[str, Any]) -> dict[str, Any]:
    config, lnc = MlpConfig(**request["config"]), request["lnc"]
    flat_tokens = request["flat_tokens"]
    inputs = load_inputs(Path(request["inputs"]), config)
    simulation = simulate_kernel(
        kernel_source(request["target"]),
        *config.arrange(inputs, flat_tokens=flat_tokens),
        device=request["device"],
        grid=(lnc,) if lnc > 1 else (),
        lnc=lnc,
    )
    write_profile(simulation.profile, Path(request["profile"]))
    output = config.result_of(simulation.outputs[0], flat_tokens=flat_tokens) if simulation.outputs else None
    return {
        "total_time_ns": simulation.total_time_ns,
        "instruction_count": simulation.instruction_count,
        "model": simulation.model,
        "check": asdict(check_mlp(config, inputs, output)),
        "inputs_sha256": inputs_sha256(inputs),
        "notes": simulation.notes,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
