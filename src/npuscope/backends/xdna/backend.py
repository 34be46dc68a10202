"""`xdna`, `sim:npu1`, `sim:npu2` as devices of `npuscope matmul`: the best planned, or built, kernel for each shape.

An execution is every dispatch of the shape: start, wait, checked. A and B are converted, packed and handed over before it, C is taken
back after it, as with the other devices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.backends.base import (
    BackendOptions,
    CacheStatus,
    CompileReport,
    DeviceInfo,
    already_finished,
    require_dtype,
)
from npuscope.backends.xdna.execution import Block, add_result, part_of_a, part_of_b
from npuscope.backends.xdna.packing import crop, pad_into
from npuscope.backends.xdna.platform import KERNELS_VARIABLE, Platform, open_platform
from npuscope.backends.xdna.session import BufferSet, LoadedKernel, XdnaSession
from npuscope.backends.xdna.strategies import planned_design
from npuscope.errors import MeasurementError, UnavailableError
from npuscope.tiling.xdna_candidates import PlanRequest
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.workloads.matmul import MatmulConfig

DTYPES = ("bfloat16", "int8")
_OUT = {"bfloat16": "float32", "int8": "int32"}
"""Results that lose nothing where the kernel writes them back, so that the matmul is checked as on any device."""


class XdnaMatmul:
    """All dispatches of one matmul, on buffers that stay."""

    synchronise = staticmethod(already_finished)

    def __init__(self, session: XdnaSession, kernel: LoadedKernel, config: MatmulConfig) -> None:
        self._session = session
        self._kernel = kernel
        self._config = config
        design = kernel.design
        self._grid = tuple(
            -(-size // step) for size, step in zip(config.shape, (design.M, design.K, design.N), strict=True)
        )
        self.report = CompileReport(0, CacheStatus.NOT_COMPILED, config.dtype, _OUT[config.dtype])

    def place(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> list[tuple[BufferSet, Block]]:
        """Every dispatch with its buffers filled and handed to the device."""
        design = self._kernel.design
        placed = []
        blocks_of_b: dict[tuple[int, int], tuple[Any, npt.NDArray[Any]]] = {}
        for i in range(self._grid[0]):
            for j in range(self._grid[2]):
                for k in range(self._grid[1]):
                    block = i, k, j
                    if (k, j) not in blocks_of_b:
                        buffer, view = blocks_of_b[k, j] = self._kernel.new_buffer("b")
                        pad_into(view[0], part_of_b(b, design, block))
                        self._session.sync_to(buffer)
                    buffers = self._kernel.buffer_set(blocks_of_b[k, j])
                    pad_into(buffers.a_view[0], part_of_a(a, design, block))
                    self._session.sync_to(buffers.a)
                    placed.append((buffers, block))
        return placed

    def run(self, inputs: list[tuple[BufferSet, Block]]) -> list[tuple[BufferSet, Block]]:
        """Every dispatch, one after another, each waited for and checked."""
        for buffers, _ in inputs:
            self._session.start(buffers.run)
            self._session.wait(buffers.run)
        return inputs

    def fetch(self, output: list[tuple[BufferSet, Block]]) -> npt.NDArray[Any]:
        """C [M, N], partial results added."""
        design = self._kernel.design
        dtype = np.dtype(_OUT[self._config.dtype])
        out = np.empty((self._grid[0] * design.M, self._grid[2] * design.N), dtype)
        for buffers, block in output:
            self._session.sync_from(buffers.c)
            add_result(out, buffers.c_view[0], design, block)
        return np.ascontiguousarray(crop(out, self._config.M, self._config.N))


class XdnaBackend:
    """One XDNA NPU, real or emulated."""

    def __init__(self, device: str, options: BackendOptions) -> None:
        self.name = device
        self.platform: Platform = open_platform(device)
        if not self.platform.is_simulated and not self.platform.kernels:
            raise UnavailableError(
                device,
                missing=f"no built kernels: {KERNELS_VARIABLE} names no folder with manifests",
                remedy="npuscope xdna kernels --build MxKxN prints how to build one",
            )
        self._session = XdnaSession(self.platform.runtime, self.platform.array, device)

    def describe(self) -> DeviceInfo:
        """The array, and how its times come about."""
        platform = self.platform
        notes: tuple[str, ...] = ()
        if platform.is_simulated:
            low, high = platform.calibration.error_mean, platform.calibration.error_max
            notes = (
                f"simulated: one warm execution by the timing model, whose error on published measurements is {100 * low:.0f} % on average and"
                f" {100 * high:.0f} % at most ({platform.calibration.name}); the kernel is the best that npuscope xdna plan finds",
            )
        return DeviceInfo(
            self.name,
            platform.description,
            is_simulated=platform.is_simulated,
            dtypes=DTYPES,
            versions=platform.versions,
            notes=notes,
        )

    def compile(self, config: MatmulConfig) -> XdnaMatmul:
        """Choose a kernel: the best planned one on an emulated array, the best built one on a real one.

        Raises:
            MeasurementError: No kernel is legal, or none is built.
        """
        require_dtype(self.name, config.dtype, DTYPES)
        kernel = self._session.load(self.platform.kernel_for(self._design(config)))
        return XdnaMatmul(self._session, kernel, config)

    def _design(self, config: MatmulConfig) -> XdnaDesign:
        if not self.platform.is_simulated:
            return self._built(config)
        problem = PlanRequest(*config.shape, dtype=config.dtype, out_dtype=_OUT[config.dtype])
        return planned_design(problem, self.platform)

    def _built(self, config: MatmulConfig) -> XdnaDesign:
        """The built kernel that takes the shape in the fewest multiplications, padding and all."""
        usable = [
            manifest.design
            for manifest in self.platform.usable_kernels()
            if (manifest.design.dtype, manifest.design.out_dtype) == (config.dtype, _OUT[config.dtype])
            and manifest.design.batch == 1
        ]
        if not usable:
            raise MeasurementError(
                f"no built kernel multiplies {config.dtype} into {_OUT[config.dtype]}, which npuscope matmul needs to check results as on any"
                f" device; npuscope xdna kernels --build {config.shape_text} --dtype {config.dtype} --out-dtype {_OUT[config.dtype]} prints how to build one"
            )

        def cost(design: XdnaDesign) -> tuple[int, int]:
            calls = 1
            for size, step in zip(config.shape, (design.M, design.K, design.N), strict=True):
                calls *= -(-size // step)
            return calls * design.macs, calls

        return min(usable, key=cost)

    def compile_count(self) -> int | None:
        """Always 0: kernels are built beforehand."""
        return 0

    def clock_ns(self) -> int:
        """Simulated time in which the device worked.

        Raises:
            MeasurementError: The device is a real one, and the host's clock times it.
        """
        if self.platform.busy_ns is None:
            raise MeasurementError(f"{self.name} is no simulated device")
        return self.platform.busy_ns()
