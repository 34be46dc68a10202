"""A program for one NeuronCore as recorded from a kernel: instructions, the boxes of memory they touch, and tiles.

The recorder is written for speed: a kernel of fifty thousand matmuls goes through it in a second or two. An instruction
is described once per *signature* (`Work`, `Transfer`), and repeated by number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from npuscope.errors import NpuscopeError
from npuscope.simulate.neuroncore.repeats import ROW_COLUMNS, Integers, Templates


class Engine(IntEnum):
    """A queue that instructions are issued from, in order."""

    TENSOR = 0
    VECTOR = 1
    SCALAR = 2
    GPSIMD = 3
    SYNC = 4
    DMA = 5
    """All DMA engines of the core together; the schedule divides a transfer among them."""


ENGINE_NAMES = ("Tensor", "Vector", "Scalar", "GpSimd", "Sync")


class Space(IntEnum):
    """Where a tile lives."""

    HBM = 0
    SBUF = 1
    PSUM = 2
    REGISTER = 3
    """Accumulators and scalar registers of an engine: no capacity is counted."""


class Box(NamedTuple):
    """A rectangle of one tile's memory that an instruction reads or writes; the unit of data dependence.

    Rows are partitions on the chip and rows of the last dimension in HBM; columns are bytes within a row. A strided
    access is given as the smallest box around it.
    """

    tile: int
    row_start: int
    row_stop: int
    byte_start: int
    byte_stop: int


class Work(NamedTuple):
    """What an instruction of a compute engine has to do: everything that its cost may depend on."""

    opcode: str
    """Key of a table in `data/costs.toml`, such as `tensor_tensor`."""
    elements: int
    """N of the cost formulas: elements per partition that the engine streams (matmul: columns of the moving tile)."""
    partitions: int
    """Partitions that take part (matmul: K, the contraction rows)."""
    dtype: str
    """The widest input's type, such as `bfloat16`."""
    out_dtype: str
    sources: tuple[Space, ...] = (Space.SBUF,)
    """Memory of each tile that is streamed; scalars and one-element vectors are left out."""
    destination: Space = Space.SBUF
    contiguous: bool = True
    """Innermost stride is one element for every streamed tile."""
    function: str = ""
    """The ALU or activation function: `add`, `exp`; two joined by `+` for a fused pair."""
    columns: int = 0
    """Matmul: columns of the stationary tile, which become partitions of the result."""
    is_transpose: bool = False
    flops: int = 0
    """Matmul: 2 K M N of this instruction; 0 elsewhere."""

    @property
    def array_flops(self) -> int:
        """FLOPs with which TensorE is credited if it runs this: a transpose of [p, n] multiplies with a p x p identity."""
        return 2 * self.partitions**2 * self.elements if self.opcode == "nc_transpose" else self.flops


class Transfer(NamedTuple):
    """What a DMA has to do."""

    runs: int
    """Contiguous pieces that are moved one by one: at least one per partition, one per element where it is strided."""
    run_bytes: int
    """Bytes of each piece, on the narrower side where the type changes on the way."""
    read_bytes: int
    write_bytes: int
    source: Space
    destination: Space
    is_transpose: bool = False
    is_indirect: bool = False
    """Addresses come from a tile: descriptors are generated while it runs."""


@dataclass(frozen=True, slots=True)
class TileInfo:
    """A logical tile: one instance of an allocation. The compiler gives it memory from first write to last use."""

    space: Space
    rows: int
    """Partitions, or rows in HBM."""
    row_bytes: int
    """Bytes per partition, or per row in HBM."""
    name: str
    site: int
    """Allocation site: instances of one site rotate through the same buffers."""
    is_external: bool = False
    """An argument or a result of the kernel, in HBM."""


class InstructionLimitError(NpuscopeError):
    """The kernel recorded more instructions than `--max-instructions` allows."""

    exit_code = 3


ACCUMULATES = 1
"""Flag: adds to its destination inside PSUM; no wait for the instruction before it in its accumulation group."""
IS_SPILL = 2
"""Flag: a DMA that the memory model inserted."""
IS_RELOAD = 4
IS_INSERTED_COPY = 16
"""Flag: a copy from PSUM to SBUF that the kernel did not ask for; the model of the compiler may leave it out."""


@dataclass(frozen=True, slots=True)
class Program:
    """A recorded kernel, columnar. Instructions are in program order."""

    signatures: tuple[Work | Transfer, ...]
    signature: npt.NDArray[np.int32]
    """Index into `signatures` per instruction."""
    engines: npt.NDArray[np.int8]
    """Bit set of the engines that may run the instruction: 1 << Engine."""
    flags: npt.NDArray[np.int8]
    line: npt.NDArray[np.int32]
    """Index into `lines`: the kernel's source line."""
    lines: tuple[str, ...]
    """`file.py:12`."""
    iteration: npt.NDArray[np.int64]
    """Counts the iterations of the kernel's loops; instructions of one iteration of an innermost loop share a number."""
    access_start: npt.NDArray[np.int64]
    """Accesses of instruction i are rows access_start[i] to access_start[i + 1]."""
    access: npt.NDArray[np.int64]
    """Shape [accesses, 6]: tile, row_start, row_stop, byte_start, byte_stop, is_write."""
    tiles: tuple[TileInfo, ...]
    tile_table: npt.NDArray[np.int64]
    """Shape [tiles, 4]: space, rows, row_bytes, site of each tile, for the loops over them."""

    def __len__(self) -> int:
        return len(self.signature)


_MOST_SEEN: Final = 65536
_ENGINES: Final = 1
_FLAGS: Final = 2
_LINE: Final = 3
_WRITES: Final = 5
_END: Final = 6
"""Columns of the rows that a builder keeps."""
_GPSIMD: Final = 1 << Engine.GPSIMD


class Mark(NamedTuple):
    """How much of a program there is."""

    rows: int
    boxes: int
    tiles: int


class Template(NamedTuple):
    """Instructions that may be repeated with other tiles."""

    number: int
    instructions: int
    made: list[TileInfo]
    """Tiles that they make."""
    slots: dict[int, int]
    """Tile to its place among those that a repetition names, then those that it makes; -1 - tile for one that is shared."""


class ProgramBuilder:
    """Collects a program, instruction by instruction, in program order."""

    def __init__(self, *, max_instructions: int = 5_000_000) -> None:
        self.max_instructions = max_instructions
        self.iteration = 0
        """Loops of the kernel add 1 at the start of each iteration, and at their end; unrolled loops do not."""
        self._signatures: dict[Work | Transfer, int] = {}
        self._works: list[Work | Transfer] = []
        self._seen: dict[int, tuple[int, Work | Transfer]] = {}
        """Numbers of signatures by the identity of the object, which is kept; to hash one takes longer."""
        self._masks: dict[int, tuple[int, tuple[Engine, ...]]] = {}
        """Bit sets by the identity of the tuple, which is kept; members of an enumeration are slow to hash."""
        self._count = 0
        self._rows: list[int] = []
        """Per instruction: signature, engines, flags, line, iteration, first of its writes and end of its boxes."""
        self._boxes: list[Box] = []
        self._lines: dict[str, int] = {}
        self._tiles: list[TileInfo] = []
        """Instances of one site share one description."""
        self._infos: list[TileInfo] = []
        """Each description once."""
        self._latest: dict[object, TileInfo] = {}
        """That of the latest instance, by site."""
        self._templates = Templates()
        self._repeatable: list[Template] = []
        self._events: tuple[Integers, Integers] | None = None
        """How they were repeated, see `Templates.expanded`."""

    def __len__(self) -> int:
        return self._count

    @property
    def tile_count(self) -> int:
        """Number of the next tile."""
        return len(self._tiles)

    @property
    def position(self) -> int:
        """What comes next comes behind so many instructions, repeated ones left out."""
        return len(self._rows) // ROW_COLUMNS

    def tile(
        self, space: Space, rows: int, row_bytes: int, *, name: str = "", site: object = None, is_external: bool = False
    ) -> int:
        """A new logical tile; returns its number.

        Args:
            space: Its memory.
            rows: Partitions (1 to 128), or rows in HBM.
            row_bytes: Bytes per partition, or per row in HBM.
            name: As the kernel calls it, for messages and the timeline.
            site: Any hashable that stands for the place of allocation in the kernel, such as its source line and shape:
                equal sites rotate through the same buffers.
            is_external: An argument or result of the kernel.
        """
        number = len(self._tiles)
        info = None if site is None else self._latest.get(site)
        if (
            info is None
            or info.row_bytes != row_bytes
            or info.rows != rows
            or info.name != name
            or info.space != space
            or info.is_external != is_external
        ):
            info = TileInfo(space, rows, row_bytes, name, number if info is None else info.site, is_external)
            self._infos.append(info)
            if site is not None:
                self._latest[site] = info
        self._tiles.append(info)
        return number

    def another(self, like: int) -> int:
        """One more instance of the site of tile `like`; returns its number. The quick way where a front end knows it."""
        tiles = self._tiles
        tiles.append(tiles[like])
        return len(tiles) - 1

    def instruction(
        self,
        work: Work | Transfer,
        engines: Iterable[Engine],
        reads: Sequence[Box],
        writes: Sequence[Box],
        line: str,
        *,
        accumulates: bool = False,
    ) -> int:
        """Record one instruction; returns its number, by which it can be changed.

        Args:
            work: What it does. Equal works share one cost.
            engines: Those that may run it; more than one leaves the choice to the model of the compiler.
            reads: Memory that it reads; an accumulating matmul names its destination in `writes` only.
            writes: Memory that it writes.
            line: `file.py:12`, the kernel's own line.
            accumulates: It adds to its destination within PSUM.

        Raises:
            InstructionLimitError: The program is longer than `max_instructions`.
        """
        if self._count >= self.max_instructions:
            raise self.too_many(line)
        seen = self._seen.get(id(work))
        signature = seen[0] if seen is not None else self._number_of(work)
        masked = self._masks.get(id(engines))
        mask = masked[0] if masked is not None else self._mask_of(engines)
        place = self._lines.get(line)
        if place is None:
            place = self._lines[line] = len(self._lines)
        boxes, rows = self._boxes, self._rows
        number = len(rows) // ROW_COLUMNS
        boxes += reads
        writes_from = len(boxes)
        boxes += writes
        flags = ACCUMULATES if accumulates else 0
        rows += (signature, mask, flags, place, self.iteration, writes_from, len(boxes))
        self._count += 1
        return number

    def too_many(self, line: str) -> InstructionLimitError:
        """What to raise where the program has become too long."""
        return InstructionLimitError(
            f"{line}: here the program has more than {self.max_instructions:,} instructions; raise --max-instructions if it is"
            " meant to"
        )

    def mark(self) -> Mark:
        """Where the program stands, for `template`."""
        return Mark(len(self._rows), len(self._boxes), len(self._tiles))

    def template(self, since: Mark, bound: Sequence[int], shared: Iterable[int]) -> Template | None:
        """What was recorded since a mark, one instruction by one, to be repeated with other tiles.

        Args:
            since: From `mark`.
            bound: Tiles, each another one, instead of which a repetition names others.
            shared: Tiles that repetitions touch as well.

        Returns:
            None where other tiles are touched, or instructions belong to several lines.
        """
        rows, boxes = self._rows[since.rows :], self._boxes[since.boxes :]
        if len(set(rows[_LINE::ROW_COLUMNS])) > 1:
            return None
        made = self._tiles[since.tiles :]
        slots = {tile: -1 - tile for tile in shared}
        slots.update({tile: slot for slot, tile in enumerate(bound)})
        slots.update({since.tiles + index: len(bound) + index for index in range(len(made))})
        number = self._templates.add(rows, boxes, since.boxes, slots, len(bound))
        if number is None:
            return None
        self._repeatable.append(Template(number, len(rows) // ROW_COLUMNS, made, slots))
        return self._repeatable[-1]

    def repeated(self, templates: Iterable[int]) -> None:
        """Note that templates were repeated, one after the other: each makes its tiles. `repetitions` says with which others."""
        repeatable, tiles = self._repeatable, self._tiles
        for number in templates:
            _, instructions, made, _ = repeatable[number]
            self._count += instructions
            tiles += made

    def repetitions(self, events: Integers, bound: Integers, lines: Sequence[str]) -> None:
        """Say how all templates were repeated.

        Args:
            events: Shape [repetitions, 5]: template, `position` at the time, line, iteration, and first tile that it makes.
            bound: Tiles of all repetitions in turn, instead of those that the template was recorded with.
            lines: By their numbers in `events`.
        """
        used, places = np.unique(events[:, 2], return_inverse=True)
        known = self._lines
        numbers = [known.setdefault(lines[number], len(known)) for number in used.tolist()]
        events = events.copy()
        events[:, 2] = np.array(numbers, np.int64)[places]
        self._events = events, bound

    def mark_inserted_copy(self, number: int) -> None:
        """Note that an instruction copies PSUM to SBUF without the kernel having asked for it."""
        self._rows[number * ROW_COLUMNS + _FLAGS] |= IS_INSERTED_COPY

    def _number_of(self, work: Work | Transfer) -> int:
        number = self._signatures.get(work)
        if number is None:
            number = self._signatures[work] = len(self._works)
            self._works.append(work)
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen[id(work)] = number, work
        return number

    def _mask_of(self, engines: Iterable[Engine]) -> int:
        mask = 0
        for engine in engines:
            mask |= 1 << engine
        if type(engines) is tuple and len(self._masks) < _MOST_SEEN:
            self._masks[id(engines)] = mask, engines
        return mask

    def retarget(self, number: int, box: Box, *, accumulates: bool = False, out_dtype: str = "") -> None:
        """Let an instruction write somewhere else: `a[...] = op(...)` costs no copy.

        Args:
            number: An instruction that writes one box, as `instruction` returned it.
            box: What it writes instead.
            accumulates: It adds to `box` within PSUM.
            out_dtype: The type it writes, where the new place has another one.
        """
        rows, row = self._rows, number * ROW_COLUMNS
        self._boxes[rows[row + _END] - 1] = box
        if accumulates:
            rows[row + _FLAGS] |= ACCUMULATES
        work = self._works[rows[row]]
        if type(work) is Work:
            destination = self._tiles[box.tile].space
            if destination is Space.PSUM:
                # GpSimd cannot access PSUM; where it was the only engine, the front end has said so already.
                rows[row + _ENGINES] = rows[row + _ENGINES] & ~_GPSIMD or rows[row + _ENGINES]
            if destination != work.destination or (out_dtype and out_dtype != work.out_dtype):
                changed = work._replace(out_dtype=out_dtype or work.out_dtype, destination=destination)
                rows[row] = self._number_of(changed)

    def build(self) -> Program:
        """The program so far."""
        rows = np.array(self._rows, dtype=np.int64).reshape(-1, ROW_COLUMNS)
        numbers = np.fromiter(chain.from_iterable(self._boxes), np.int64, count=5 * len(self._boxes))
        boxes = numbers.reshape(-1, 5)
        if self._events is not None:
            rows, boxes = self._templates.expanded(rows, boxes, *self._events)
        access_start = np.concatenate([[0], rows[:, _END]])
        access = np.empty((len(boxes), 6), np.int64)
        access[:, :5] = boxes
        # Reads come first: an access is a write from its instruction's first write on.
        access[:, 5] = np.arange(len(access)) >= np.repeat(rows[:, _WRITES], np.diff(access_start))
        infos = [(info.space, info.rows, info.row_bytes, info.site) for info in self._infos]
        places = {id(info): place for place, info in enumerate(self._infos)}
        place_of_tile = np.fromiter(map(places.__getitem__, map(id, self._tiles)), np.int64, count=len(self._tiles))
        return Program(
            signatures=tuple(self._works),
            signature=rows[:, 0].astype(np.int32),
            engines=rows[:, _ENGINES].astype(np.int8),
            flags=rows[:, _FLAGS].astype(np.int8),
            line=rows[:, 3].astype(np.int32),
            lines=tuple(self._lines),
            iteration=np.ascontiguousarray(rows[:, 4]),
            access_start=access_start,
            access=access,
            tiles=tuple(self._tiles),
            tile_table=np.array(infos, np.int64).reshape(-1, 4)[place_of_tile],
        )
