"""The driver: one session per device, opened once; kernels, buffers and runs made once and used again.

It speaks pyxrt (XRT, src/python/pybind11/src/pyxrt.cpp) and cannot tell a real module from the emulated one. A command that does not
end as completed leaves old data in its result buffer (Triton-XDNA issue 92), so that every wait checks the state and raises.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.backends.xdna.counting import CountedRuntime, DispatchCount
from npuscope.errors import FormatError, MeasurementError, UnavailableError, shorten
from npuscope.formats.npu_instructions import read_instructions
from npuscope.formats.xdna_manifest import KernelManifest
from npuscope.hardware.model import XdnaArray
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.units import format_bytes
from npuscope.workloads.dtypes import numpy_dtype

OPCODE: Final = 3
"""Of a command that runs NPU instructions (XRT, and mlir-aie's host runtime)."""
COMMAND_TIMEOUT_MS: Final = 10_000
"""How long a wait lasts at most; the driver kills a hung command after two seconds by itself."""
_INSTRUCTIONS, _COUNT, _FIRST_BUFFER = 1, 2, 3
REFUSALS: Final = (RuntimeError, IndexError, ValueError, TypeError, MemoryError, OSError, AttributeError)
"""What C++ exceptions become in Python (std::out_of_range, invalid_argument, bad_alloc, system_error), and what a binding lacks."""


class DispatchError(MeasurementError):
    """A command failed: the device is lost, it timed out, or it ended in another state than completed."""


@dataclass(frozen=True, slots=True)
class BufferSet:
    """Buffers of one dispatch in flight, with a run whose arguments are set."""

    run: Any
    a: Any
    b: Any
    c: Any
    a_view: npt.NDArray[Any]
    """[batch, M, K], the host's memory of the buffer of A."""
    b_view: npt.NDArray[Any]
    """[batch, K, N], or [batch, N, K] where B is column-major."""
    c_view: npt.NDArray[Any]
    """[batch, M, N]."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """How an operand lies in its buffer."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    size_bytes: int
    group: int
    """Memory group of the kernel's argument."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A kernel of an xclbin in its context."""

    context: Any
    kernel: Any
    buffers: int
    """How many buffers the xclbin says that it takes."""


class LoadedKernel:
    """One built kernel on one device: xclbin, context and instructions, ready for any number of buffers."""

    def __init__(self, session: XdnaSession, manifest: KernelManifest, opened: _Opened) -> None:
        self._session = session
        self.manifest = manifest
        self.context = opened.context
        self._kernel = kernel = opened.kernel
        runtime = session.runtime
        words = read_instructions(manifest.instructions_path).words
        self._instruction_count = words.nbytes if manifest.instruction_count_unit == "bytes" else len(words)
        with session.guarded(f"the instructions of {manifest.name}"):
            if opened.buffers < len(manifest.argument_order):  # one buffer more than declared crashes XRT
                raise DispatchError(
                    f"kernel {manifest.kernel_name} of {manifest.xclbin_path.name} takes {opened.buffers} buffers, and {manifest.name} names"
                    f" {len(manifest.argument_order)}: it is another kernel"
                )
            self._instructions = runtime.bo(
                session.device, words.nbytes, runtime.bo.cacheable, kernel.group_id(_INSTRUCTIONS)
            )
            self._instructions.write(words.view(np.uint8), 0)
            self._instructions.sync(session.to_device)

        with session.guarded(f"the arguments of {manifest.kernel_name}"):
            self._layouts = {operand: self._layout(operand) for operand in manifest.argument_order}

    def _layout(self, operand: str) -> _Layout:
        design = self.design
        batch, M, K, N = design.batch, design.M, design.K, design.N
        b_shape = (batch, N, K) if design.b_column_major else (batch, K, N)
        shape = {"a": (batch, M, K), "b": b_shape, "c": (batch, M, N)}[operand]
        size = {"a": design.a_bytes, "b": design.b_bytes, "c": design.c_bytes}[operand]
        dtype = numpy_dtype(design.out_dtype if operand == "c" else design.dtype)
        return _Layout(shape, dtype, size, self._kernel.group_id(self._position(operand)))

    def _position(self, operand: str) -> int:
        """Index of an operand among the kernel's arguments."""
        return _FIRST_BUFFER + self.manifest.argument_order.index(operand)

    @property
    def design(self) -> XdnaDesign:
        """What a dispatch of it computes."""
        return self.manifest.design

    def new_buffer(self, operand: str) -> tuple[Any, npt.NDArray[Any]]:
        """A buffer object for operand `a`, `b` or `c` with the host's view of it.

        Raises:
            DispatchError: The device has no memory for it.
        """
        layout = self._layouts[operand]
        runtime = self._session.runtime
        try:
            buffer = runtime.bo(self._session.device, layout.size_bytes, runtime.bo.host_only, layout.group)
            view = np.frombuffer(buffer.map(), layout.dtype).reshape(layout.shape)
        except REFUSALS as error:
            size = format_bytes(layout.size_bytes)
            raise self._session.refused(f"a buffer of {size} for {operand.upper()}", error) from error
        return buffer, view

    def new_run(self) -> Any:
        """A run with the instructions set; its buffers come by `set_buffer`."""
        try:
            run = self._session.runtime.run(self._kernel)
            run.set_arg(0, OPCODE)
            run.set_arg(_INSTRUCTIONS, self._instructions)
            run.set_arg(_COUNT, self._instruction_count)
        except REFUSALS as error:
            raise self._session.refused("a run", error) from error
        return run

    def set_buffer(self, run: Any, operand: str, buffer: Any) -> None:
        """Give a run the buffer of an operand."""
        try:
            run.set_arg(self._position(operand), buffer)
        except REFUSALS as error:
            raise self._session.refused(f"the buffer of {operand.upper()}", error) from error

    def buffer_set(self, b: tuple[Any, npt.NDArray[Any]] | None = None) -> BufferSet:
        """Buffers for one dispatch in flight.

        Args:
            b: A buffer of B with its view that this set shares with others; its own when None.
        """
        a, a_view = self.new_buffer("a")
        shared_b, b_view = self.new_buffer("b") if b is None else b
        c, c_view = self.new_buffer("c")
        run = self.new_run()
        for operand, buffer in (("a", a), ("b", shared_b), ("c", c)):
            self.set_buffer(run, operand, buffer)
        return BufferSet(run, a, shared_b, c, a_view, b_view, c_view)


class XdnaSession:
    """One opened device. Use it as a context manager: on leaving, everything that it holds is released."""

    def __init__(self, runtime: Any, array: XdnaArray, name: str, index: int = 0) -> None:
        """Open a device.

        Args:
            runtime: The module `pyxrt`, or an emulated one.
            array: Facts of the array, for limits.
            name: What to call the device in errors.
            index: Of the device.

        Raises:
            UnavailableError: There is no such device.
        """
        counted = CountedRuntime(runtime, array.run_list_commands)
        self.runtime: Any = counted
        self.count: DispatchCount = counted.count
        self.array = array
        self.name = name
        try:
            self.device = runtime.device(index)
        except REFUSALS as error:
            raise UnavailableError(
                name, missing=f"XRT opens no device {index} ({shorten(str(error))})", remedy="see xrt-smi examine"
            ) from error
        self.to_device = runtime.xclBOSyncDirection.XCL_BO_SYNC_BO_TO_DEVICE
        self.from_device = runtime.xclBOSyncDirection.XCL_BO_SYNC_BO_FROM_DEVICE
        self._completed = runtime.ert_cmd_state.ERT_CMD_STATE_COMPLETED
        self._contexts: dict[tuple[Path, str], _Opened] = {}
        self._kernels: dict[Path, LoadedKernel] = {}

    def load(self, manifest: KernelManifest) -> LoadedKernel:
        """The kernel of a manifest; kernels of one xclbin share a context.

        Raises:
            FormatError: The xclbin or the instruction file is missing or broken.
            DispatchError: The device takes no further context, or not this xclbin.
        """
        held = self._kernels.get(manifest.path)
        if held is None:
            held = self._kernels[manifest.path] = LoadedKernel(self, manifest, self._open(manifest))
        return held

    def _open(self, manifest: KernelManifest) -> _Opened:
        key = (manifest.xclbin_path, manifest.kernel_name)
        if key in self._contexts:
            self._contexts[key] = self._contexts.pop(key)  # the last in line to go
            return self._contexts[key]
        for path in (manifest.xclbin_path, manifest.instructions_path):
            if not path.is_file():
                raise FormatError(
                    manifest.path,
                    where=path.name,
                    expected="a file beside the manifest",
                    found="none",
                    remedy="build it again",
                )
        runtime = self.runtime
        with self.guarded(f"{manifest.xclbin_path.name}"):
            xclbin = runtime.xclbin(str(manifest.xclbin_path))
            declared = {item.get_name().split(":")[0]: item.get_num_args() for item in xclbin.get_kernels()}
            if manifest.kernel_name not in declared:
                known = ", ".join(declared) or "none"
                raise DispatchError(
                    f"{manifest.xclbin_path.name} has no kernel {manifest.kernel_name!r}; it has {known}"
                )
            self.device.register_xclbin(xclbin)
        self._make_room()
        with self.guarded(f"a hardware context for {manifest.xclbin_path.name}"):
            context = runtime.hw_context(self.device, xclbin.get_uuid())
            kernel = runtime.kernel(context, manifest.kernel_name)
        opened = self._contexts[key] = _Opened(context, kernel, declared[manifest.kernel_name] - _FIRST_BUFFER)
        return opened

    def _make_room(self) -> None:
        """Let go of the kernels that were loaded longest ago, where the device has no context left.

        A context goes when nobody holds its buffers or runs any more; until then the device refuses another, and says so.
        """
        while len(self._contexts) >= self.array.hardware_contexts:
            oldest = next(iter(self._contexts))
            for path, kernel in list(self._kernels.items()):
                if (kernel.manifest.xclbin_path, kernel.manifest.kernel_name) == oldest:
                    del self._kernels[path]
            del self._contexts[oldest]

    def start(self, run: Any) -> None:
        """Submit one command.

        Raises:
            DispatchError: The device is lost.
        """
        try:
            run.start()
        except REFUSALS as error:
            raise self._failed("start", error) from error

    def wait(self, run: Any) -> None:
        """Return when a command has completed, and raise when it ended in any other way.

        Raises:
            DispatchError: Its result buffer holds old data.
        """
        try:
            state = run.wait(COMMAND_TIMEOUT_MS)
        except REFUSALS as error:
            raise self._failed("wait", error) from error
        if state != self._completed:
            raise DispatchError(
                f"dispatch {self.count.dispatches} on {self.name} ended as {_state_name(state)}, not COMPLETED; its result buffer holds old data and is"
                " discarded"
            )

    def new_list(self, kernel: LoadedKernel, runs: Sequence[Any]) -> Any:
        """A run list that can be executed any number of times; its runs cannot be started singly any more."""
        with self.guarded(f"a list of {len(runs)} runs"):
            chain = self.runtime.runlist(kernel.context)
            for run in runs:
                chain.add(run)
        return chain

    def execute(self, chain: Any) -> None:
        """Submit a run list.

        Raises:
            DispatchError: The device is lost.
        """
        try:
            chain.execute()
        except REFUSALS as error:
            raise self._failed("a list of runs", error) from error

    def wait_for_list(self, chain: Any, runs: Sequence[Any]) -> None:
        """Return when all commands of a list have completed.

        Without a time limit: `runlist.wait(timedelta)` returns a C++ enumeration that pyxrt does not register, so that Python gets
        a TypeError in place of the answer. A hung command is killed by the driver, which ends this wait. The runs' own states say
        nothing: only the chain has one, and XRT raises unless it has completed (xrt_kernel.h, on runlist::add).

        Raises:
            DispatchError: A command failed; XRT aborts those behind it.
        """
        try:
            chain.wait()
        except REFUSALS as error:
            raise self._failed(f"a list of {len(runs)} runs", error) from error

    def sync_to(self, buffer: Any) -> None:
        """Hand a buffer to the device."""
        try:
            buffer.sync(self.to_device)
        except REFUSALS as error:
            raise self._failed("sync to the device", error) from error

    def sync_from(self, buffer: Any) -> None:
        """Take a buffer back from the device."""
        try:
            buffer.sync(self.from_device)
        except REFUSALS as error:
            raise self._failed("sync from the device", error) from error

    def _failed(self, what: str, error: Exception) -> DispatchError:
        return DispatchError(
            f"{self.name} failed at {what}, dispatch {self.count.dispatches}: {shorten(str(error), 160)}; results so far are discarded"
        )

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        """What pyxrt raises, as one line that says what was being made."""
        try:
            yield
        except MeasurementError:
            raise
        except REFUSALS as error:
            raise self.refused(what, error) from error

    def refused(self, what: str, error: Exception) -> DispatchError:
        """What pyxrt refused, in one line."""
        return DispatchError(f"{self.name} refuses {what}: {shorten(str(error), 160)}")

    def close(self) -> None:
        """Release kernels, contexts and the device, in this order."""
        self._kernels.clear()
        self._contexts.clear()
        self.device = None

    def __enter__(self) -> XdnaSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _state_name(state: Any) -> str:
    return str(getattr(state, "name", state)).removeprefix("ERT_CMD_STATE_")
