"""Build implementations of a kernel for comparison: inputs once, then each implementation compiled, all of it hashed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from npuscope.analysis.kernel_row import DEVICE, SIMULATED, WALL_CLOCK, KernelRow
from npuscope.backends.kernels import HOST_DEVICES, KernelRequest
from npuscope.backends.neuron_build import (
    DEFAULT_TIMEOUT_S,
    TARGETS,
    NeffBuild,
    build_framework_debug,
    build_klir,
)
from npuscope.backends.neuron_kernels import FRAMEWORK_DEBUG, METHODS, neuron_kernel
from npuscope.backends.registry import check_device_name, open_device
from npuscope.errors import MeasurementError, UnavailableError, UsageError, unknown_name
from npuscope.formats.file_hash import file_sha256
from npuscope.formats.kernel_folder import (
    Built,
    HostRun,
    InputSet,
    KernelManifest,
    file_stem,
    hashed_files,
    withdraw_inputs,
    write_inputs,
    write_manifest,
)
from npuscope.measure.kernel_runs import DEFAULT_TIME_LIMIT_S, compile_kernel
from npuscope.measure.statistics import Estimate
from npuscope.simulate.kernel_worker import kernel_source
from npuscope.simulate.neuroncore.devices import load_device
from npuscope.workloads.kernels import Implementation, KernelEntry
from npuscope.workloads.mlp import INPUT_NAMES, MlpConfig, inputs_sha256, make_inputs

Tell = Callable[[str], None]
SIM: Final = "sim:"
NEURON: Final = "neuron"
_FIRST_WITH_JOINED_CORES: Final = 3
"""NeuronCore-v3 joins two physical cores to a logical one."""


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build."""

    implementations: tuple[Implementation, ...]
    configs: tuple[MlpConfig, ...]
    method: str = FRAMEWORK_DEBUG
    """Way to a NEFF on Neuron."""
    target: str = "trn2"
    """Instance family to compile for on Neuron."""
    lnc: int = 1
    """Physical cores of a logical one, on `neuron` and `sim:*`."""
    seed: int = 0
    time_limit_s: float | None = None
    compile_cache: Path | None = None

    @property
    def host_limit_s(self) -> float:
        """Most time for a host's framework to compile."""
        return self.time_limit_s or DEFAULT_TIME_LIMIT_S


def check_device(name: str) -> str:
    """A device name in the form that implementations are chosen by.

    Raises:
        UsageError: No such device.
    """
    lowered = name.strip().lower()
    return load_device(lowered).name if lowered.startswith(SIM) else check_device_name(lowered)


def is_host(device: str) -> bool:
    """Whether implementations on a device are timed by the host's clock."""
    return any(fnmatchcase(device, pattern) for pattern in HOST_DEVICES)


def check_request(request: BuildRequest) -> None:
    """Refuse, before anything is written, what cannot be built.

    Raises:
        UsageError: A device, method, target or number of cores that cannot be used.
        UnavailableError: A device cannot be had; no other is ever taken instead.
    """
    if request.method not in METHODS:
        raise unknown_name("--method", request.method, METHODS)
    if request.target not in TARGETS:
        raise unknown_name("--target", request.target, TARGETS)
    stems = [file_stem(item.name, item.device) for item in request.implementations]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise UsageError(f"two implementations would share the file name {twice}; rename one of the functions")
    for device in dict.fromkeys(item.device for item in request.implementations):
        if device.startswith(SIM):
            most = 2 if load_device(device).nc_version >= _FIRST_WITH_JOINED_CORES else 1
            if not 1 <= request.lnc <= most:
                raise UsageError(f"--lnc {request.lnc}: a logical core of {device} has at most {most}")
        elif is_host(device):
            open_device(device)
        elif device != NEURON:
            raise UsageError(f"device {device} runs no kernels yet; npuscope kernels list tells which do")


def build(request: BuildRequest, root: Path, provenance: dict[str, Any], tell: Tell = lambda _: None) -> KernelManifest:
    """Build everything into a folder; one that fails is told in the manifest and does not stop the others.

    Args:
        request: What `check_request` let pass.
        root: An empty folder.
        provenance: Goes into the manifest.
        tell: Is called with a line about what is done now.

    Raises:
        UsageError: The first function does not exist; nothing is left then.
        UnavailableError: An SDK or a compiler is missing; likewise.
        OutputError: The folder cannot be written to.
    """
    sets: list[InputSet] = []
    builds: list[Built] = []
    for config in request.configs:
        arrays = make_inputs(config, request.seed)
        sets.append(write_inputs(root, config, arrays, inputs_sha256(arrays)))
        # Whether an SDK is there shows when it is asked to compile: first, so that nothing else was built in vain.
        for item in sorted(request.implementations, key=lambda item: item.device != NEURON):
            tell(f"building {item.name} on {item.device} for {config.text}")
            folder = root / "artifacts" / f"{file_stem(item.name, item.device)}_{config.stem}"
            plain = Built(
                name=item.name,
                device=item.device,
                target=_absolute(item.entry),
                config=config,
                is_user_code=item.entry.is_user_code,
                flat_tokens=item.entry.flat_tokens,
                status="built",
                lnc=1 if is_host(item.device) else request.lnc,
                source_sha256=_source_sha256(item.entry.target),
            )
            try:
                built = _build_one(plain, request, folder, dict(zip(INPUT_NAMES, arrays, strict=True)))
            except (MeasurementError, UnavailableError, UsageError) as error:
                if not builds and not isinstance(error, MeasurementError):
                    withdraw_inputs(root, sets, folder)  # nothing could be built, so that nothing is left
                    raise
                built = replace(plain, status="failed", error=str(error))
            if folder.is_dir():
                files = hashed_files(folder)
                built = replace(built, folder=str(folder.relative_to(root)), files=files)
            builds.append(built)
    order = [item.name for item in request.implementations]
    builds.sort(key=lambda built: (request.configs.index(built.config), order.index(built.name)))
    manifest = KernelManifest("mlp", request.seed, tuple(sets), tuple(builds), provenance=provenance)
    write_manifest(root, manifest)
    return manifest


def _absolute(entry: KernelEntry) -> str:
    """A target that holds in any current folder."""
    place, _, function = entry.target.rpartition(":")
    return f"{Path(place).resolve()}:{function}" if entry.is_user_code and place.endswith(".py") else entry.target


def _source_sha256(target: str) -> str:
    """Of the file of a target; '' for a module."""
    place = kernel_source(target).rpartition(":")[0]
    return file_sha256(Path(place)) if place.endswith(".py") else ""


def _build_one(built: Built, request: BuildRequest, folder: Path, arrays: dict[str, Any]) -> Built:
    if built.device.startswith(SIM):
        return replace(built, compile_cache="not-compiled")
    if is_host(built.device):
        return _build_on_host(built, request, folder)
    return _build_neff(built, request, folder, arrays)


def host_request(built: Built, compile_cache: Path | None) -> KernelRequest:
    """How a built implementation is opened on the host."""
    return KernelRequest(built.target, built.device, built.config, built.is_user_code, built.flat_tokens, compile_cache)


def _build_on_host(built: Built, request: BuildRequest, folder: Path) -> Built:
    folder.mkdir(parents=True)
    try:
        compiled = compile_kernel(
            built.name,
            host_request(built, request.compile_cache),
            save_to=folder,
            time_limit_s=request.host_limit_s,
        )
    finally:
        if not any(folder.iterdir()):
            folder.rmdir()  # nothing is compiled, so that nothing is kept
    hlo = folder / "graph.hlo"
    return replace(
        built,
        compile_ms=compiled.compile_ms,
        compile_cache=compiled.cache.value,
        compiler_version=", ".join(f"{name} {version}" for name, version in compiled.versions.items()),
        compute_dtype=compiled.compute_dtype,
        device_description=compiled.description,
        hlo=hlo.name if hlo.is_file() else "",
        notes=compiled.notes,
    )


def _build_neff(built: Built, request: BuildRequest, folder: Path, arrays: dict[str, Any]) -> Built:
    kernel = neuron_kernel(kernel_source(built.target), built.name)
    given = built.config.arrange(list(arrays.values()), flat_tokens=built.flat_tokens)
    arrays = dict(zip(arrays, given, strict=True))
    compile_one = build_klir if request.method == "klir" else build_framework_debug
    limit_s = request.time_limit_s or DEFAULT_TIMEOUT_S
    made: NeffBuild = compile_one(kernel, arrays, folder, target=request.target, lnc=request.lnc, timeout_s=limit_s)
    run = made.torch_run
    told = None
    if run is not None:
        told = HostRun(
            samples_ns=run.samples_ns,
            first_call_ms=run.first_call_ms,
            recompilations_per_call=run.recompiles_per_call,
            output=str(run.output.relative_to(folder)),
        )
    return replace(
        built,
        method=made.method,
        compile_ms=made.compile_ms,
        compile_cache="uncounted",  # each build has a cache of its own, or none
        compiler_command=made.command,
        compiler_version=made.compiler_version,
        device_description=run.device if run is not None else "",
        neff=str(made.neff.relative_to(folder)),
        hlo=str(made.hlo.relative_to(folder)) if made.hlo is not None else "",
        bindings=dict(made.bindings),
        host_run=told,
        notes=made.notes,
    )


def steady_figures(steady: Estimate, medians_ns: Sequence[float]) -> dict[str, Any]:
    """Fields of a row from the medians of its rounds."""
    has_interval = math.isfinite(steady.low)
    return {
        "steady_ms": steady.value / 1e6,
        "steady_ci_low_ms": steady.low / 1e6 if has_interval else None,
        "steady_ci_high_ms": steady.high / 1e6 if has_interval else None,
        "rounds": steady.rounds,
        "round_medians_ms": tuple(median / 1e6 for median in medians_ns),
    }


def row_of(built: Built, **figures: Any) -> KernelRow:
    """The row of what was built, with what is known of it by now."""
    config = built.config
    is_simulated = built.device.startswith(SIM)
    row = KernelRow(
        implementation=built.name,
        device=built.device,
        is_simulated=is_simulated,
        method=SIMULATED if is_simulated else WALL_CLOCK if is_host(built.device) else DEVICE,
        config=config.text,
        batch=config.batch,
        sequence=config.sequence,
        hidden=config.hidden,
        intermediate=config.intermediate,
        dtype=config.dtype,
        status="ok",
        compile_ms=built.compile_ms,
        compile_cache=built.compile_cache,
        compute_dtype=built.compute_dtype,
        lnc=built.lnc,
        device_description=built.device_description,
        compiler_version=built.compiler_version,
    )
    return replace(row, **figures)
