"""Device names: what is known, what is here, and which one `auto` takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

from npuscope.backends.base import Backend, BackendOptions, DeviceInfo
from npuscope.errors import UnavailableError, UsageError, unknown_name

_BACKENDS = {
    "cpu": ("npuscope.backends.cpu", "NumpyBackend"),
    "jax": ("npuscope.backends.jax", "JaxBackend"),
    "openvino": ("npuscope.backends.openvino", "OpenvinoBackend"),
    "torch": ("npuscope.backends.torch", "TorchBackend"),
    "neuron": ("npuscope.backends.neuron", "NeuronBackend"),
    "xdna": ("npuscope.backends.xdna.backend", "XdnaBackend"),
    "sim": ("npuscope.backends.xdna.backend", "XdnaBackend"),
}
DEVICES = (
    "cpu",
    "jax:cpu",
    "jax:neuron",
    "openvino:cpu",
    "openvino:npu",
    "torch:cpu",
    "torch:cuda",
    "neuron",
    "neuron:xla",
    "xdna",
    "sim:npu1",
    "sim:npu2",
)
"""Device names that `doctor` checks; `jax:PLATFORM` takes any other platform of JAX too."""


def default_dtype(device: str) -> str:
    """The operand type that is measured where none is asked for: float32, and bfloat16 on devices without it."""
    return "bfloat16" if device.strip().lower() in {"xdna", "sim:npu1", "sim:npu2"} else "float32"


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether one device can be had here."""

    device: str
    available: bool
    info: DeviceInfo | None
    missing: str
    """What it lacks; empty when available."""
    remedy: str
    """How to get it; empty when available."""


@dataclass(frozen=True, slots=True)
class NpuNode:
    """An NPU that the kernel shows, whether or not its SDK is installed."""

    path: str
    device: str
    """The npuscope device that drives it."""
    kind: str


def check_device_name(name: str) -> str:
    """Return `name` in the form that `open_device` takes.

    Raises:
        UsageError: No such device; the message has the nearest name.
    """
    lowered = name.strip().lower()
    if lowered in DEVICES or (lowered.startswith("jax:") and lowered[4:].isalnum()):
        return lowered
    raise unknown_name("device", name, ["auto", *DEVICES])


def open_device(name: str, options: BackendOptions | None = None) -> Backend:
    """Open one device by name, never another in its place.

    Raises:
        UsageError: No such device, or an option that it does not take.
        UnavailableError: The device cannot be had here.
    """
    device = check_device_name(name)
    chosen = options or BackendOptions()
    if chosen.compiler_log is not None and device != "neuron":
        raise UsageError(f"--compiler-log is for device neuron; {device} has no compiler whose log could be kept")
    if chosen.compile_cache is not None and device.partition(":")[0] not in {"jax", "openvino"}:
        raise UsageError(f"--compile-cache is for jax and openvino devices; {device} keeps no compiled programs there")
    module, attribute = _BACKENDS[device.partition(":")[0]]
    factory = cast("Callable[[str, BackendOptions], Backend]", getattr(import_module(module), attribute))
    return factory(device, chosen)


def open_auto(options: BackendOptions | None = None, nodes: list[NpuNode] | None = None) -> tuple[Backend, str]:
    """The first real NPU, else `cpu`, and one line that says which and why.

    An NPU whose SDK is missing is not passed over in silence: the line names it.
    """
    skipped = []
    for node in find_npu_nodes() if nodes is None else nodes:
        try:
            backend = open_device(node.device, options)
        except UnavailableError as error:
            skipped.append(f"{node.kind} at {node.path} ({error.missing})")
            continue
        return backend, f"auto: {backend.name}, {node.kind} at {node.path}"
    reason = f"unusable: {'; '.join(skipped)}" if skipped else "no NPU found"
    return open_device("cpu", options), f"auto: cpu ({reason})"


def find_npu_nodes(dev: Path = Path("/dev"), sys: Path = Path("/sys")) -> list[NpuNode]:
    """NPUs that the kernel shows: /dev/neuron* and /dev/accel/* by driver name."""
    nodes = [
        NpuNode(str(path), "neuron", "AWS Neuron device")
        for path in sorted(dev.glob("neuron[0-9]*"))
        if path.name[6:].isdigit()
    ]
    for path in sorted(dev.glob("accel/accel[0-9]*")):
        driver = sys / "class" / "accel" / path.name / "device" / "driver"
        if driver.exists() and driver.resolve().name == "intel_vpu":
            nodes.append(NpuNode(str(path), "openvino:npu", "Intel NPU"))
        if driver.exists() and driver.resolve().name == "amdxdna":
            nodes.append(NpuNode(str(path), "xdna", "AMD XDNA NPU"))
    return nodes


def check_device(name: str) -> Availability:
    """Open a device to see whether it can be had; used by `doctor`."""
    try:
        info = open_device(name).describe()
    except UnavailableError as error:
        return Availability(name, available=False, info=None, missing=error.missing, remedy=error.remedy)
    return Availability(name, available=True, info=info, missing="", remedy="")
