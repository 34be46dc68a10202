"""What `npuscope mlp build` leaves in a folder: inputs, artifacts, and `manifest.json`, which says what each file is and its hash.

    manifest.json
    inputs/b1_s128_h1024_i512_bfloat16/hidden_tensor.bin, .npy, ...
    artifacts/numpy_cpu_b1_s128_h1024_i512_bfloat16/...

Paths in the manifest are relative to the folder and never lead out of it. A file that changed since is an error, not an input.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy.typing as npt

from npuscope._files import write_text_atomically
from npuscope.errors import FormatError, UsageError, shorten
from npuscope.formats.file_hash import file_sha256
from npuscope.formats.tensor_files import read_tensor, write_tensor
from npuscope.workloads.kernels import MLP
from npuscope.workloads.mlp import INPUT_NAMES, MlpConfig, inputs_sha256

MANIFEST_NAME: Final = "manifest.json"
FORMAT: Final = "npuscope kernel build 1"
_MAX_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class InputSet:
    """The inputs for one set of sizes, as raw files and as `.npy`."""

    config: MlpConfig
    folder: str
    sha256: str
    """Of all of them together: `workloads.mlp.inputs_sha256`."""
    files: dict[str, str]
    """File to its SHA-256."""


@dataclass(frozen=True, slots=True)
class HostRun:
    """Calls of an implementation through its framework, where the device's time is captured apart from it."""

    samples_ns: tuple[int, ...]
    first_call_ms: float
    recompilations_per_call: float
    output: str
    """File of the result; '' where there is none."""


@dataclass(frozen=True, slots=True)
class Built:
    """One implementation for one set of sizes."""

    name: str
    device: str
    target: str
    config: MlpConfig
    is_user_code: bool
    flat_tokens: bool
    status: str
    """`built` or `failed`."""
    error: str = ""
    method: str = ""
    """`klir` or `framework-debug` on Neuron."""
    lnc: int = 1
    """Physical cores of a logical NeuronCore."""
    source_sha256: str = ""
    """Of the user's file, or of the example's; '' where the target is a module."""
    compile_ms: float | None = None
    """Of the compiler alone; None where nothing is compiled, or nothing tells it apart."""
    compile_cache: str = ""
    """`hit` or `miss` as the framework counted, `disabled`, `uncounted` or `not-compiled`."""
    compiler_command: tuple[str, ...] = ()
    compiler_version: str = ""
    compute_dtype: str = ""
    device_description: str = ""
    folder: str = ""
    files: dict[str, str] = field(default_factory=dict)
    """File to its SHA-256."""
    neff: str = ""
    hlo: str = ""
    bindings: dict[str, str] = field(default_factory=dict)
    """Kernel's input to the NEFF's."""
    host_run: HostRun | None = None
    notes: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """Of the names of its files."""
        return f"{file_stem(self.name, self.device)}_{self.config.stem}"


@dataclass(frozen=True, slots=True)
class KernelManifest:
    """What a build folder holds."""

    family: str
    seed: int
    inputs: tuple[InputSet, ...]
    builds: tuple[Built, ...]
    format: str = FORMAT
    provenance: dict[str, Any] = field(default_factory=dict)

    def inputs_of(self, config: MlpConfig) -> InputSet:
        """The inputs for these sizes.

        Raises:
            FormatError: There are none.
        """
        found = next((item for item in self.inputs if item.config == config), None)
        if found is None:
            raise FormatError(MANIFEST_NAME, where="inputs", expected=f"inputs for {config.stem}", found="none")
        return found


def file_stem(name: str, device: str) -> str:
    """`numpy@cpu` as `numpy_cpu`: letters, digits, `-` and `_` alone."""
    letters = "".join(each if each.isascii() and (each.isalnum() or each in "-_") else "-" for each in name)
    return f"{letters[:80]}_{device.replace(':', '-')}"


def write_inputs(root: Path, config: MlpConfig, arrays: Iterable[npt.NDArray[Any]], sha256: str) -> InputSet:
    """Write the inputs for one set of sizes.

    Raises:
        OutputError: The folder cannot be written to.
    """
    folder = root / "inputs" / config.stem
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, array in zip(INPUT_NAMES, arrays, strict=True):
        for path in write_tensor(folder, name, array):
            files[path.name] = file_sha256(path)
    return InputSet(config, str(folder.relative_to(root)), sha256, files)


def withdraw_inputs(root: Path, written: Iterable[InputSet], artifact: Path) -> None:
    """Take back what `write_inputs` wrote, and what is empty then: folders up to the root, and that of an artifact."""
    folders = {root, root / "inputs", artifact, artifact.parent}
    for inputs in written:
        folders.add(root / inputs.folder)
        for name in inputs.files:
            (root / inputs.folder / name).unlink(missing_ok=True)
    for folder in sorted(folders, key=lambda path: -len(path.parts)):
        with suppress(OSError):
            folder.rmdir()


def read_inputs(root: Path, inputs: InputSet) -> tuple[npt.NDArray[Any], ...]:
    """The inputs as arrays, after `check_files`.

    Raises:
        FormatError: A file is missing, changed, or of another size.
    """
    check_files(root, inputs.folder, inputs.files)
    arrays = load_inputs(root / inputs.folder, inputs.config)
    if inputs_sha256(arrays) != inputs.sha256:
        raise FormatError(root / MANIFEST_NAME, where="inputs", expected="the hash of the inputs", found=inputs.sha256)
    return arrays


def load_inputs(folder: Path, config: MlpConfig) -> tuple[npt.NDArray[Any], ...]:
    """The raw inputs of one set of sizes, in their order, without a look at their hashes.

    Raises:
        FormatError: A file is missing, or of another size.
    """
    return tuple(
        read_tensor(folder / f"{name}.bin", config.dtype, shape)
        for name, shape in zip(INPUT_NAMES, config.input_shapes, strict=True)
    )


def hashed_files(folder: Path) -> dict[str, str]:
    """Every regular file below a folder with its hash; links are left out."""
    return {
        str(path.relative_to(folder)): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def check_files(root: Path, folder: str, files: dict[str, str]) -> None:
    """Check that the files of a folder are as they were when the manifest was written.

    Raises:
        FormatError: One is missing or changed.
    """
    for name, wanted in files.items():
        path = root / folder / name
        if not path.resolve().is_relative_to(root.resolve()):
            raise FormatError(path, expected="a file within the folder", found="a link out of it")
        found = file_sha256(path)
        if found != wanted:
            raise FormatError(
                path, expected="the file that was built", found="another content", remedy="build it again"
            )


def write_manifest(root: Path, manifest: KernelManifest) -> Path:
    """Write `manifest.json`, whole or not at all.

    Raises:
        OutputError: The folder cannot be written to.
    """
    path = root / MANIFEST_NAME
    data = msgspec.json.format(msgspec.json.encode(manifest, enc_hook=str), indent=1)
    write_text_atomically(path, data.decode() + "\n")
    return path


def read_manifest(root: Path) -> KernelManifest:
    """The manifest of a build folder, with every path checked.

    Raises:
        UsageError: The folder has none.
        FormatError: It is damaged, of another version, or names a path outside of the folder.
    """
    path = root / MANIFEST_NAME
    if not path.is_file():
        raise UsageError(
            f"{shorten(str(root), 200)} holds no {MANIFEST_NAME}; make one with npuscope mlp build --out DIR"
        )
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise FormatError(path, expected=f"at most {_MAX_BYTES:,} bytes", found=f"{path.stat().st_size:,}")
        manifest = msgspec.json.decode(path.read_bytes(), type=KernelManifest)
    except OSError as error:
        raise FormatError(path, expected="a readable manifest", found=error.strerror or str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, UsageError) as error:
        raise FormatError(path, expected="the manifest of a build", found=shorten(str(error), 160)) from error
    if manifest.format != FORMAT:
        raise FormatError(path, where="format", expected=FORMAT, found=manifest.format, remedy="build it again")
    _check_contents(path, manifest)
    for inputs in manifest.inputs:
        _refuse_outside(path, [inputs.folder, *inputs.files])
    for built in manifest.builds:
        _refuse_outside(path, [built.folder, *built.files])
        output = built.host_run.output if built.host_run else ""
        _refuse_outside(path, [built.neff, built.hlo, output, built.stem])
    return manifest


def _check_contents(path: Path, manifest: KernelManifest) -> None:
    """Refuse what no build writes: values that would be used without another check."""

    def refuse(where: str, expected: str, found: str) -> FormatError:
        return FormatError(path, where=where, expected=expected, found=found, remedy="build it again")

    if manifest.family != MLP or not manifest.builds:
        raise refuse("family, builds", f"builds of the family {MLP}", f"{len(manifest.builds)} of {manifest.family}")
    for inputs in manifest.inputs:
        missing = [name for name in INPUT_NAMES if f"{name}.bin" not in inputs.files]
        if missing:
            raise refuse(f"inputs, {inputs.folder}", f"a hash of {missing[0]}.bin", "none")
    stems = [built.stem for built in manifest.builds]
    for number, built in enumerate(manifest.builds):
        where = f"builds, {number}"
        if stems.count(built.stem) > 1:
            raise refuse(where, "each implementation once for each set of sizes", f"{built.name} twice")
        if built.lnc not in (1, 2):
            raise refuse(where, "lnc 1 or 2", str(built.lnc))
        if not built.name.isprintable() or not built.device.isprintable():
            raise refuse(where, "a name without control characters", repr(built.name))
        if built.is_user_code and built.target.rpartition(":")[0].endswith(".py") and not built.source_sha256:
            raise refuse(where, f"a hash of {built.target}", "none")


def _refuse_outside(path: Path, names: Iterable[str]) -> None:
    for name in filter(None, names):
        parts = Path(name).parts
        if Path(name).is_absolute() or ".." in parts or "\0" in name:
            raise FormatError(path, where="a path", expected="one within the folder", found=name)
