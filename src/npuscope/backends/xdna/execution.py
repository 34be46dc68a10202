"""A tiling, executed: dispatches in order, each packed while the one before it runs.

The device computes between `start` and `wait`; in that time the next dispatch is packed and the last result unpacked. Threads
would not help: pyxrt holds Python's lock in `start`, `wait` and `sync` (XRT, src/python/pybind11/src/pyxrt.cpp).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from npuscope.backends.xdna.packing import crop, pack_tiles, pad_into
from npuscope.backends.xdna.phases import PhaseTimer
from npuscope.backends.xdna.rounding import from_bfloat16, to_bfloat16
from npuscope.backends.xdna.session import BufferSet, LoadedKernel, XdnaSession
from npuscope.backends.xdna.strategies import Tiling
from npuscope.errors import UsageError
from npuscope.tiling.xdna_design import XdnaDesign
from npuscope.workloads.dtypes import numpy_dtype

Array = npt.NDArray[Any]
Block = tuple[int, int, int]
"""Place of a dispatch in the grid: along M, K and N."""
BFLOAT16: Final = numpy_dtype("bfloat16")


def result_dtype(design: XdnaDesign) -> np.dtype[Any]:
    """Of what `Execution.multiply` returns: float32, in which partial results are added, or the integers of the kernel's result."""
    return np.dtype(np.float32) if design.dtype == "bfloat16" else numpy_dtype(design.out_dtype)


def check_inputs(a: Array, b: Array, dtype: str) -> None:
    """Refuse what no kernel can multiply rightly.

    Raises:
        UsageError: Shapes that do not match, values that are not finite, or integers beyond the operands' type.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or 0 in (*a.shape, *b.shape):
        raise UsageError(f"A {a.shape} and B {b.shape} cannot be multiplied")
    for name, values in (("A", a), ("B", b)):
        if dtype == "bfloat16":
            finite = np.isfinite(values)
            if not finite.all():
                row, column = (int(index[0]) for index in np.nonzero(~finite))
                raise UsageError(
                    f"{name}[{row}, {column}] is {values[row, column]}: a tile with it would spoil whole rows of the result; clean the data"
                )
        else:
            limits = np.iinfo(numpy_dtype(dtype))
            if values.dtype.kind not in "iu" or values.min() < limits.min or values.max() > limits.max:
                raise UsageError(f"{name} does not hold {dtype}: convert it first, no value is cut here")


@dataclass(frozen=True, slots=True)
class _Operands:
    """A and B in the kernel's type, padded to whole dispatches."""

    a: Array
    b: Array


def part_of_a(values: Array, design: XdnaDesign, block: Block, depth: int = 1) -> Array:
    """What a dispatch multiplies of A, without padding; of `depth` dispatches along K where they are packed together."""
    rows = slice(block[0] * design.M, (block[0] + 1) * design.M)
    return values[rows, block[1] * design.K : (block[1] + depth) * design.K]


def part_of_b(values: Array, design: XdnaDesign, block: Block, depth: int = 1) -> Array:
    """What a dispatch multiplies of B, as `part_of_a`; turned where the kernel takes B column-major."""
    columns = slice(block[2] * design.N, (block[2] + 1) * design.N)
    part = values[block[1] * design.K : (block[1] + depth) * design.K, columns]
    return part.T if design.b_column_major else part


def add_result(out: Array, result: Array, design: XdnaDesign, block: Block) -> None:
    """Put a result in its place, added to the partial ones along K that are there: the first is written."""
    place = out[block[0] * design.M : (block[0] + 1) * design.M, block[2] * design.N : (block[2] + 1) * design.N]
    values = from_bfloat16(result) if result.dtype == BFLOAT16 else result
    if block[1]:
        np.add(place, values, out=place)
    else:
        np.copyto(place, values)


class Execution:
    """One tiling on one loaded kernel: buffers made on the first pass, and used again by later ones."""

    def __init__(self, session: XdnaSession, kernel: LoadedKernel, tiling: Tiling, timer: PhaseTimer) -> None:
        self._session = session
        self._kernel = kernel
        self._tiling = tiling
        self._timer = timer
        self._sets: list[BufferSet] = []
        self._blocks_of_b: dict[tuple[int, int], tuple[Any, Array]] = {}
        self._filled_b: set[tuple[int, int]] = set()
        self._chains: dict[int, tuple[Any, list[Any]]] = {}

    def multiply(self, a: Array, b: Array) -> Array:
        """C [M, N] = A [M, K] @ B [K, N] as the device computes it: float32, or integers of the result type, which wrap as the kernel's do.

        Raises:
            DispatchError: A command failed; nothing is returned.
            UsageError: The inputs cannot be multiplied.
        """
        design = self._tiling.design
        self._timer.skip()
        check_inputs(a, b, design.dtype)
        self._filled_b.clear()  # B may be another one
        operands = _Operands(self._convert(a), self._convert(b))
        self._timer.lap("convert")
        M, _, N = self._tiling.padded
        out = np.empty((M, N), result_dtype(design))  # every place is written once before it is added to
        self._timer.lap("unpack")
        if self._tiling.list_length:
            self._run_lists(operands, out)
        elif design.batch > 1:
            self._run_packed(operands, out)
        elif self._tiling.keeps_buffers:
            self._run_overlapped(operands, out)
        else:
            self._run_afresh(operands, out)
        result = crop(out, a.shape[0], b.shape[1])
        self._timer.lap("unpack")
        return result

    def forget_results(self) -> None:
        """Overwrite every result buffer, on the host and on the device: what a pass returns is then its own."""
        for buffers in self._sets:
            buffers.c_view.reshape(-1).view(np.uint8).fill(0xFF)  # not a number in bfloat16 and float32
            self._session.sync_to(buffers.c)

    def _convert(self, values: Array) -> Array:
        dtype = numpy_dtype(self._tiling.design.dtype)
        if values.dtype == dtype:
            return np.ascontiguousarray(values)
        if self._tiling.design.dtype == "bfloat16":
            return to_bfloat16(np.ascontiguousarray(values, np.float32), "even")
        return values.astype(dtype)

    def _grid(self) -> Iterator[Block]:
        """Places of dispatches; along K innermost, so that partial results of a place follow one another."""
        along_m, along_k, along_n = self._tiling.grid
        return ((i, k, j) for i in range(along_m) for j in range(along_n) for k in range(along_k))

    def _new_set(self, b: tuple[Any, Array] | None = None) -> BufferSet:
        made = self._kernel.buffer_set(b)
        self._timer.lap("allocate")
        return made

    def _b_of(self, operands: _Operands, block: Block) -> Any:
        """The buffer of a block of B, filled and handed over once per pass."""
        key = block[1:]
        if key not in self._blocks_of_b:
            self._blocks_of_b[key] = self._kernel.new_buffer("b")
            self._timer.lap("allocate")
        buffer, view = self._blocks_of_b[key]
        if key not in self._filled_b:
            pad_into(view[0], part_of_b(operands.b, self._tiling.design, block))
            self._timer.lap("pack")
            self._session.sync_to(buffer)
            self._timer.lap("sync_to")
            self._filled_b.add(key)
        return buffer

    def _fill(self, buffers: BufferSet, operands: _Operands, block: Block) -> None:
        """Pack a dispatch's operands and hand them to the device."""
        design = self._tiling.design
        pad_into(buffers.a_view[0], part_of_a(operands.a, design, block))
        if not self._tiling.resident_b:
            pad_into(buffers.b_view[0], part_of_b(operands.b, design, block))
        self._timer.lap("pack")
        self._session.sync_to(buffers.a)
        if not self._tiling.resident_b:
            self._session.sync_to(buffers.b)
        self._timer.lap("sync_to")
        if self._tiling.resident_b:
            self._kernel.set_buffer(buffers.run, "b", self._b_of(operands, block))
            self._timer.lap("pack")

    def _drain(self, buffers: BufferSet, out: Array, block: Block) -> None:
        """Take a finished dispatch's result back, and add it."""
        self._session.sync_from(buffers.c)
        self._timer.lap("sync_from")
        add_result(out, buffers.c_view[0], self._tiling.design, block)
        self._timer.lap("unpack")

    def _two_sets(self, operands: _Operands) -> list[BufferSet]:
        while len(self._sets) < min(2, self._tiling.calls):
            if self._tiling.resident_b:
                self._b_of(operands, (0, 0, 0))
                self._sets.append(self._new_set(self._blocks_of_b[0, 0]))
            else:
                self._sets.append(self._new_set())
        return self._sets

    def _run_overlapped(self, operands: _Operands, out: Array) -> None:
        """Start one, pack the next while it runs, wait, start that, unpack the first."""
        sets = self._two_sets(operands)
        running: tuple[BufferSet, Block] | None = None
        for index, block in enumerate(self._grid()):
            buffers = sets[index % len(sets)]
            self._fill(buffers, operands, block)
            if running is not None:
                self._session.wait(running[0].run)
            self._session.start(buffers.run)
            self._timer.lap("run")
            if running is not None:
                self._drain(running[0], out, running[1])
            running = buffers, block
        if running is not None:
            self._session.wait(running[0].run)
            self._timer.lap("run")
            self._drain(running[0], out, running[1])

    def _run_afresh(self, operands: _Operands, out: Array) -> None:
        """Buffers made for every call, nothing overlapped. The batch of columns changes the order on the host, and no count."""
        for block in self._grid():
            buffers = self._new_set()
            self._fill(buffers, operands, block)
            self._session.start(buffers.run)
            self._session.wait(buffers.run)
            self._timer.lap("run")
            self._drain(buffers, out, block)

    def _run_packed(self, operands: _Operands, out: Array) -> None:
        """Many tiles, one after another in one buffer, per dispatch."""
        if not self._sets:
            self._sets += [self._new_set() for _ in range(min(2, self._tiling.claimed_dispatches))]
        design = self._tiling.design
        running: tuple[BufferSet, list[Block]] | None = None
        for index, blocks in enumerate(_groups(self._grid(), design.batch)):
            buffers = self._sets[index % len(self._sets)]
            for at, run in _runs_of_k(blocks):
                tiles = slice(at, at + len(run))
                pack_tiles(buffers.a_view[tiles], part_of_a(operands.a, design, run[0], len(run)))
                pack_tiles(buffers.b_view[tiles], part_of_b(operands.b, design, run[0], len(run)))
            buffers.a_view[len(blocks) :] = 0  # the last dispatch is not full
            buffers.b_view[len(blocks) :] = 0
            self._timer.lap("pack")
            self._session.sync_to(buffers.a)
            self._session.sync_to(buffers.b)
            self._timer.lap("sync_to")
            if running is not None:
                self._session.wait(running[0].run)
            self._session.start(buffers.run)
            self._timer.lap("run")
            if running is not None:
                self._drain_packed(running[0], out, running[1])
            running = buffers, blocks
        if running is not None:
            self._session.wait(running[0].run)
            self._timer.lap("run")
            self._drain_packed(running[0], out, running[1])

    def _drain_packed(self, buffers: BufferSet, out: Array, blocks: list[Block]) -> None:
        self._session.sync_from(buffers.c)
        self._timer.lap("sync_from")
        design = self._tiling.design
        for at, run in _runs_of_k(blocks):
            results = buffers.c_view[at : at + len(run)]
            wide = from_bfloat16(results) if design.out_dtype == "bfloat16" else results
            add_result(out, np.add.reduce(wide, axis=0, dtype=wide.dtype), design, run[0])
        self._timer.lap("unpack")

    def _run_lists(self, operands: _Operands, out: Array) -> None:
        """Commands chained into one submission: packed, executed and unpacked list by list."""
        length = min(self._tiling.list_length, self._tiling.calls)
        while len(self._sets) < length:
            self._sets.append(self._new_set())
        for blocks in _groups(self._grid(), length):
            for buffers, block in zip(self._sets, blocks, strict=False):
                self._fill(buffers, operands, block)
            chain, runs = self._list_of(len(blocks))
            self._timer.lap("allocate")
            self._session.execute(chain)
            self._session.wait_for_list(chain, runs)
            self._timer.lap("run")
            for buffers, block in zip(self._sets, blocks, strict=False):
                self._drain(buffers, out, block)

    def _list_of(self, count: int) -> tuple[Any, list[Any]]:
        """The run list of so many commands: made once. A run belongs to one list, so that a shorter last list has runs of its own."""
        if count not in self._chains:
            runs = []
            for buffers in self._sets[:count]:
                run = self._kernel.new_run()
                for operand, buffer in (("a", buffers.a), ("b", buffers.b), ("c", buffers.c)):
                    self._kernel.set_buffer(run, operand, buffer)
                runs.append(run)
            self._chains[count] = self._session.new_list(self._kernel, runs), runs
        return self._chains[count]


def _runs_of_k(blocks: list[Block]) -> Iterator[tuple[int, list[Block]]]:
    """Blocks of one place that follow one another along K, each with its position: they are packed and added at once."""
    start = 0
    for index in range(1, len(blocks) + 1):
        if index == len(blocks) or blocks[index][0] != blocks[start][0] or blocks[index][2] != blocks[start][2]:
            yield start, blocks[start:index]
            start = index


def _groups(blocks: Iterator[Block], size: int) -> Iterator[list[Block]]:
    held: list[Block] = []
    for block in blocks:
        held.append(block)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held
