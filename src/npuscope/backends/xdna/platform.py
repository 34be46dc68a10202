"""An XDNA device by name: the pyxrt that drives it, its clocks, and where its built kernels are.

`xdna` is the real one: pyxrt is imported here and nowhere else, and only when the device is asked for. `sim:npu1` and `sim:npu2` are
emulated: the same driver runs against `npuscope.backends.xdna.emulated`, kernels run in NumPy, and time is that of the timing model.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from npuscope.backends.xdna.session import REFUSALS
from npuscope.errors import MeasurementError, UnavailableError, UsageError, shorten, unknown_name
from npuscope.formats.xdna_manifest import KernelManifest, manifest_text, read_manifest, scan_manifests
from npuscope.hardware.model import XDNA_ARRAYS, XdnaArray, load_xdna
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.tiling.xdna_time import Calibration, calibration_for, dispatch_time, submission_us

KERNELS_VARIABLE: Final = "NPUSCOPE_XDNA_KERNELS"
"""Folder of kernel manifests for device `xdna`."""
SIMULATED: Final = MappingProxyType({f"sim:{name}": name for name in XDNA_ARRAYS})
"""Name of the array by simulated device."""
_NAMES: Final = (
    (re.compile(r"\b(npu1|phoenix|hawk)\b", re.IGNORECASE), "npu1"),
    (re.compile(r"\b(npu[456]|strix|krackan|gorgon)\b", re.IGNORECASE), "npu2"),
)
"""Words of the name that XRT gives a device, and its array (amd/xdna-driver)."""
_BINDING: Final = (
    "bo",
    "device",
    "ert_cmd_state",
    "hw_context",
    "kernel",
    "run",
    "runlist",
    "xclBOSyncDirection",
    "xclbin",
    "xrt_info_device",
)
"""What the driver takes from pyxrt."""


@dataclass(frozen=True, slots=True)
class Platform:
    """A device, real or emulated, as far as measuring needs it."""

    name: str
    description: str
    is_simulated: bool
    array_name: str
    """`npu1` or `npu2`, as mlir-aie calls it."""
    array: XdnaArray
    calibration: Calibration
    clock_ghz: float | None
    runtime: Any
    """The module `pyxrt`, or the emulated one."""
    host_ns: Callable[[], int]
    """The host's time; without what the emulator itself takes."""
    elapsed_ns: Callable[[], int]
    """The time in which a user would wait: the host's, with the simulated device's where one is emulated."""
    busy_ns: Callable[[], int] | None
    """Simulated time in which the device worked on commands; None on a real one, which does not tell."""
    waking_ns: Callable[[], int] | None
    """Simulated time that commands waited for the device to wake."""
    sleep: Callable[[float], None]
    kernel_for: Callable[[XdnaDesign], KernelManifest]
    """The built kernel of a design."""
    kernels: tuple[KernelManifest, ...]
    """Built kernels that were found."""
    refused: tuple[str, ...]
    """Manifests that could not be read, and why."""
    versions: dict[str, str]

    def usable_kernels(self) -> tuple[KernelManifest, ...]:
        """Built kernels for this very device."""
        return tuple(one for one in self.kernels if one.array == self.array_name and one.emulated == self.is_simulated)


def open_platform(
    name: str,
    *,
    kernels: Path | None = None,
    kernel_set: str = "stock",
    clock_ghz: float | None = None,
) -> Platform:
    """A device by name.

    Args:
        name: `xdna`, `sim:npu1` or `sim:npu2`.
        kernels: Folder of kernel manifests; the environment's when None.
        kernel_set: Which kernels the timing model is calibrated for: `stock` or `tuned`.
        clock_ghz: Of the emulated array.

    Raises:
        UsageError: No such device.
        UnavailableError: It cannot be had.
    """
    folder = kernels or (Path(os.environ[KERNELS_VARIABLE]) if os.environ.get(KERNELS_VARIABLE) else None)
    if name in SIMULATED:
        if kernels is not None:
            raise UsageError(f"--kernels is for device xdna; {name} runs emulated builds of its own")
        return _emulated(name, kernel_set, clock_ghz)
    if name == "xdna":
        if clock_ghz is not None:
            raise UsageError(
                "--clock-ghz is for sim:npu1 and sim:npu2; a real array runs at its own clock (xrt-smi configure --pmode)"
            )
        return _real(folder, kernel_set)
    raise unknown_name("XDNA device", name, ["xdna", *SIMULATED])


def _emulated(name: str, kernel_set: str, clock_ghz: float | None) -> Platform:
    from npuscope.backends.xdna.emulated import EmulatedRuntime, build_emulated

    array_name = SIMULATED[name]
    array = load_xdna(array_name)
    calibration = calibration_for(array_name, kernel_set)

    def command_ns(design: XdnaDesign, *, in_list: bool = False) -> int:
        return round(1e3 * dispatch_time(design, array, calibration, clock_ghz, in_list=in_list).total_us)

    runtime = EmulatedRuntime(
        array_name, command_ns=command_ns, submission_ns=round(1e3 * submission_us(array, calibration))
    )
    scratch = Path(tempfile.mkdtemp(prefix="npuscope-xdna-"))
    weakref.finalize(runtime, shutil.rmtree, scratch, ignore_errors=True)
    built: dict[XdnaDesign, KernelManifest] = {}

    def kernel_for(design: XdnaDesign) -> KernelManifest:
        if design not in built:
            build = build_emulated(design, array_name, scratch, f"kernel{len(built)}")
            path = scratch / f"kernel{len(built)}.toml"
            text = manifest_text(design, build.xclbin.name, build.instructions.name, array=array_name, emulated=True)
            path.write_text(text, encoding="utf-8")
            built[design] = read_manifest(path)
        return built[design]

    clock = runtime.clock
    return Platform(
        name=name,
        description=f"emulated {array.name}: kernels run in NumPy, times are predicted ({calibration.name})",
        is_simulated=True,
        array_name=array_name,
        array=array,
        calibration=calibration,
        clock_ghz=clock_ghz,
        runtime=runtime,
        host_ns=lambda: time.perf_counter_ns() - clock.emulation_ns,
        elapsed_ns=clock.current_ns,
        busy_ns=lambda: clock.busy_ns,
        waking_ns=lambda: clock.waking_ns,
        sleep=clock.sleep,
        kernel_for=kernel_for,
        kernels=(),
        refused=(),
        versions={"calibration": calibration.name},
    )


def _real(folder: Path | None, kernel_set: str) -> Platform:
    runtime = import_pyxrt()
    try:
        device = runtime.device(0)
        reported = str(device.get_info(runtime.xrt_info_device.name))
    except REFUSALS as error:
        raise UnavailableError(
            "xdna",
            missing=f"XRT opens no device ({shorten(str(error), 120)})",
            remedy="load the amdxdna driver, raise the memlock limit, and see xrt-smi examine",
        ) from None
    array_name = next((array_name for words, array_name in _NAMES if words.search(reported)), None)
    if array_name is None:
        raise UnavailableError(
            "xdna",
            missing=f"device 0 calls itself {shorten(reported)!r}, which is no XDNA NPU that npuscope knows",
            remedy="report its name, and what xrt-smi examine prints",
        )
    found, refused = scan_manifests(folder) if folder is not None else ((), ())

    def kernel_for(design: XdnaDesign) -> KernelManifest:
        for manifest in found:
            if manifest.array == array_name and not manifest.emulated and _same_call(manifest.design, design):
                return manifest
        where = f"in {folder}" if folder is not None else f"(no --kernels folder, and {KERNELS_VARIABLE} is not set)"
        raise MeasurementError(
            f"no built kernel of {design.call_text} {design.dtype} to {design.out_dtype} with tile {design.tile_text} on {design.cores} cores"
            f" {where}; build it: {build_hint(design)}"
        )

    return Platform(
        name="xdna",
        description=reported,
        is_simulated=False,
        array_name=array_name,
        array=load_xdna(array_name),
        calibration=calibration_for(array_name, kernel_set),
        clock_ghz=None,
        runtime=runtime,
        host_ns=time.perf_counter_ns,
        elapsed_ns=time.perf_counter_ns,
        busy_ns=None,
        waking_ns=None,
        sleep=time.sleep,
        kernel_for=kernel_for,
        kernels=found,
        refused=refused,
        versions={"pyxrt": str(getattr(runtime, "__version__", "unknown"))},
    )


def build_hint(design: XdnaDesign) -> str:
    """The command that prints how to build a kernel; what to say where no stock design computes it."""
    if design.batch > 1:
        return "no stock design of mlir-aie packs tiles, its program would have to be written"
    types = (
        ""
        if (design.dtype, design.out_dtype) == ("bfloat16", "bfloat16")
        else f" --dtype {design.dtype} --out-dtype {design.out_dtype}"
    )
    return f"npuscope xdna kernels --build {design.M}x{design.K}x{design.N} --tile {design.tile_text}@{design.cores}{types}"


def _same_call(built: XdnaDesign, wanted: XdnaDesign) -> bool:
    """Whether a built kernel computes the dispatch that is wanted, however its core rounds or buffers."""

    def core(design: XdnaDesign) -> XdnaDesign:
        return replace(design, buffers_a=2, buffers_b=2, buffers_c=2, rounding="floor", b_column_major=False)

    return core(built) == core(wanted)


def import_pyxrt() -> Any:
    """The module `pyxrt` of XRT.

    Raises:
        UnavailableError: It is not installed, or another package of that name is.
    """
    try:
        module = importlib.import_module("pyxrt")
    except (Exception, SystemExit) as error:  # noqa: BLE001  # another module of that name may raise what it likes
        raise UnavailableError(
            "xdna",
            missing=f"pyxrt cannot be imported ({shorten(str(error))})",
            remedy="install XRT with its Python binding (libxrt-npu2 and python3-xrt of Ubuntu, or AMD's xdna-driver); PyPI has no pyxrt",
        ) from None
    lacking = [name for name in _BINDING if not hasattr(module, name)]
    if lacking:
        raise UnavailableError(
            "xdna",
            missing=f"the module pyxrt that is installed has no {', '.join(lacking)}",
            remedy="install XRT 2.21 or newer with its Python binding",
        )
    return module
