"""NEFFs of kernels: the two ways of a public comparison of MLP kernels on trn2. Neither has met the hardware.

`klir` traces a kernel to KLIR, writes it as `penguin.py` and has `neuronx-cc` compile that; it needs no device.
`framework-debug` runs the kernel once through torch_xla on a NeuronCore, under the variables that make the Neuron plugin save
each compiled graph to the current folder, and times further calls.

Either way a child process does it, in a folder that it finds empty, so that a kernel or compiler that hangs or crashes ends in
one line. Only what lies in that folder afterwards is collected; nothing is deleted, and no cache of others is read.

Source: AWS Neuron documentation of 2026-08-21: Neuron Compiler CLI Reference Guide, error codes EARG001 (`--lnc`), nki.jit
(NEURON_PLATFORM_TARGET_OVERRIDE), Profile a NKI Kernel (NEURON_FRAMEWORK_DEBUG saves the NEFF to the current folder), Neuron
Persistent Cache. For KLIR the comparison itself is the source; `neuron_build_worker` says what of it is elsewhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from npuscope.backends.neuron_build_child import (
    COMPILER,
    INSTALL,
    Deadline,
    build_environment,
    compile_penguin,
    compiler_version,
    framework_environment,
    run_worker,
)
from npuscope.backends.neuron_capture import list_files
from npuscope.backends.neuron_kernels import FRAMEWORK_DEBUG, KLIR, NeuronKernel, check_kernel, extra_input_sizes
from npuscope.backends.neuron_neffs import ChosenNeff, choose_neff
from npuscope.backends.neuron_torch_run import TorchRun, read_run
from npuscope.errors import MeasurementError, UnavailableError, UsageError, unknown_name

TARGETS: Final = ("inf2", "trn1", "trn1n", "trn2")
"""As the compiler's reference guide lists them."""
LNC_TARGETS: Final = ("trn2",)
"""Those that can join two physical cores to a logical one."""
DEFAULT_TIMEOUT_S: Final = 1800.0
_NEFF_NAME: Final = "file.neff"

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class NeffBuild:
    """What one build made."""

    neff: Path
    hlo: Path | None
    """The XLA program that the NEFF was compiled from; None where there is none."""
    compile_ms: float | None
    """Wall clock of the compiler alone; None where nothing tells it apart from the run."""
    command: tuple[str, ...]
    """The compiler's command line; empty where nothing tells it."""
    compiler_version: str
    method: str
    files: tuple[Path, ...]
    """Everything that the build wrote, the NEFF among it."""
    input_names: tuple[str, ...]
    """As the NEFF has them, in its order; empty where nothing of it tells."""
    bindings: tuple[tuple[str, str], ...]
    """Kernel's input to NEFF's input, where names or sizes leave no doubt."""
    torch_run: TorchRun | None
    """Of `framework-debug`."""
    notes: tuple[str, ...]


def build_klir(
    kernel: NeuronKernel,
    inputs: Arrays,
    folder: Path,
    *,
    target: str = "trn2",
    lnc: int = 2,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> NeffBuild:
    """Trace a kernel to KLIR and compile it.

    Args:
        kernel: Pure Python, as `neuron_kernel` describes it.
        inputs: By the names of `kernel`, in its order.
        folder: Where everything goes; made if missing, must be empty. Paths of the result begin with it.
        target: Instance family to compile for.
        lnc: Physical cores of a logical one.
        timeout_s: Most time for tracing and compiling together.

    Raises:
        UsageError: A target, method, input or folder that cannot be used.
        UnavailableError: The compiler or a package is not installed; nothing has been written then.
        MeasurementError: The kernel or the compiler failed, took too long, or wrote no NEFF of it.
    """
    _check(kernel, inputs, KLIR, target, lnc)
    compiler = shutil.which(COMPILER)
    if compiler is None:
        raise UnavailableError(f"--method {KLIR}", missing=f"{COMPILER} is not on PATH", remedy=INSTALL)
    compiler = str(Path(compiler).absolute())  # it is started in another folder
    deadline = Deadline.after(timeout_s)
    environment = {**build_environment(), "NEURON_PLATFORM_TARGET_OVERRIDE": target}
    answer = run_worker(kernel, inputs, folder, KLIR, {"target": target, "lnc": lnc}, environment, deadline)
    what = f"--method {KLIR} of kernel {kernel.name}"
    notes = list(answer["notes"])
    if answer["compile_ms"] is None:
        words: tuple[str, ...] = (
            *(compiler, "compile", "--framework", "XLA", "penguin.py"),
            *("--target", target, "--lnc", str(lnc), "--output", _NEFF_NAME),
        )
        version = compiler_version(compiler, environment, folder, deadline, what)
        compile_ms = compile_penguin(words, environment, folder, deadline, what)
    else:
        words, version, compile_ms = tuple(answer["command"]), answer["version"], float(answer["compile_ms"])
    neff = folder / _NEFF_NAME
    if not neff.is_file():
        raise MeasurementError(f"{what}: the compiler ended well but wrote no {_NEFF_NAME} in {folder}")
    files = tuple(sorted(list_files(folder)))
    wanted = dict(zip(answer["keywords"], (array.nbytes for array in inputs.values()), strict=True))
    chosen = choose_neff([neff], wanted, output_dir=folder, what=what)
    others = [path for path in files if path.suffix == ".neff" and path != neff]
    if others:
        notes.append(f"the compiler wrote {len(others)} more NEFFs than the one that it was asked for")
    return NeffBuild(
        neff=neff,
        hlo=None,
        compile_ms=compile_ms,
        command=words,
        compiler_version=version,
        method=KLIR,
        files=files,
        input_names=chosen.input_names,
        bindings=_renamed(chosen, dict(zip(answer["keywords"], inputs, strict=True))),
        torch_run=None,
        notes=(*notes, *chosen.notes, *_version_note(version, chosen)),
    )


def build_framework_debug(
    kernel: NeuronKernel,
    inputs: Arrays,
    folder: Path,
    *,
    target: str = "trn2",
    lnc: int = 2,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    executions: int = 10,
    warmup: int = 3,
) -> NeffBuild:
    """Run a kernel on a NeuronCore through torch_xla, collect the NEFF that the run saved, and time further calls.

    Args:
        kernel: Any that torch_xla can call.
        inputs: By the names of `kernel`, in its order.
        folder: Where everything goes, the run's compile cache too; made if missing, must be empty.
        target: What the device is.
        lnc: Physical cores of a logical one.
        timeout_s: Most time for all of it.
        executions: Timed calls.
        warmup: Calls between the first one and the timed ones.

    Raises:
        UsageError: A target, method, input or folder that cannot be used.
        UnavailableError: A package or the device cannot be had; nothing has been written then.
        MeasurementError: The kernel failed, took too long, or no one NEFF is certainly its.
    """
    _check(kernel, inputs, FRAMEWORK_DEBUG, target, lnc)
    if executions < 1 or warmup < 0:
        raise UsageError(f"{executions} timed calls after {warmup}: expected at least 1 after 0 or more")
    settings = {"target": target, "lnc": lnc, "executions": executions, "warmup": warmup}
    environment = framework_environment(folder, target, lnc)
    deadline = Deadline.after(timeout_s)
    answer = run_worker(kernel, inputs, folder, FRAMEWORK_DEBUG, settings, environment, deadline)
    what = f"--method {FRAMEWORK_DEBUG} of kernel {kernel.name}"
    files = tuple(sorted(list_files(folder)))
    saved = [folder / name for name in answer["saved"]]
    neffs = [path for path in saved if path.suffix == ".neff"] or [path for path in files if path.suffix == ".neff"]
    chosen = choose_neff(
        sorted(neffs, key=lambda path: (len(path.parts), path)),
        {name: array.nbytes for name, array in inputs.items()},
        extra_bytes=extra_input_sizes(kernel, inputs),
        output_dir=folder,
        what=what,
    )
    told = read_run(answer, folder, chosen.path)
    return NeffBuild(
        neff=chosen.path,
        hlo=_hlo_of(chosen.path, files),
        compile_ms=told.compile_ms,
        command=told.command,
        compiler_version=answer["version"],
        method=FRAMEWORK_DEBUG,
        files=files,
        input_names=chosen.input_names,
        bindings=chosen.bindings,
        torch_run=told.run,
        notes=(*answer["notes"], *told.notes, *chosen.notes, *_version_note(answer["version"], chosen)),
    )


def _check(kernel: NeuronKernel, inputs: Arrays, method: str, target: str, lnc: int) -> None:
    if target not in TARGETS:
        raise unknown_name("target", target, TARGETS)
    if lnc not in (1, 2) or (lnc == 2 and target not in LNC_TARGETS):
        raise UsageError(f"lnc {lnc} cannot be had on {target}: 1 or, on {', '.join(LNC_TARGETS)}, 2")
    check_kernel(kernel, inputs, method)


def _renamed(chosen: ChosenNeff, names: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Bindings by the names of the inputs, where the kernel's parameters have others."""
    return tuple((names[keyword], name) for keyword, name in chosen.bindings)


def _version_note(version: str, chosen: ChosenNeff) -> tuple[str, ...]:
    if not chosen.compiler_version or chosen.compiler_version == version:
        return ()
    return (f"the NEFF says that {chosen.compiler_version} compiled it",)


def _hlo_of(neff: Path, files: tuple[Path, ...]) -> Path | None:
    """The HLO that was saved beside a NEFF."""
    for name in (f"{neff.stem}.hlo.pb", f"{neff.stem}.hlo_module.pb", f"{neff.stem}.hlo_module.pb.gz"):
        if neff.with_name(name) in files:
            return neff.with_name(name)
    return None
