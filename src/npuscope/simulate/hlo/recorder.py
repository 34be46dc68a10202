"""Records the instructions of an HLO program: operands to where they are needed, row-wise ops in groups, device loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from npuscope.errors import NpuscopeError
from npuscope.formats.hlo import Shape
from npuscope.simulate.hlo.layout import PARTITIONS, Grid, device_type, natural_grid
from npuscope.simulate.hlo.values import Value, in_hbm
from npuscope.simulate.neuroncore.program import Box, Engine, ProgramBuilder, Space, Transfer, Work

TENSOR: Final = (Engine.TENSOR,)
VECTOR: Final = (Engine.VECTOR,)
SCALAR: Final = (Engine.SCALAR,)
GPSIMD: Final = (Engine.GPSIMD,)
SYNC: Final = (Engine.SYNC,)
DMA: Final = (Engine.DMA,)
VECTOR_SCALAR: Final = (Engine.VECTOR, Engine.SCALAR)
VECTOR_GPSIMD: Final = (Engine.VECTOR, Engine.GPSIMD)
VECTOR_SCALAR_GPSIMD: Final = (Engine.VECTOR, Engine.SCALAR, Engine.GPSIMD)
PSUM_COLUMNS: Final = 512
"""float32 columns of one PSUM bank: most that one matmul writes."""
_TWO_STREAMS: Final = frozenset({"tensor_tensor", "scalar_tensor_tensor"})
_SCALAR_ALU_FROM: Final = 3
"""NeuronCore version from which ScalarE runs `tensor_scalar`."""
Emit = Callable[[int, int], None]
"""Records the instructions of some row tiles: from, to."""

_new_box = tuple.__new__
"""Without the detour of a named tuple's own constructor."""


class ProgramTooLargeError(NpuscopeError):
    """The program runs more ops than the limit, as one whose computations call each other many times over does."""

    exit_code = 3


class Recorder:
    """A program in the making."""

    def __init__(self, nc_version: int, sbuf_usable_bytes: int, *, max_instructions: int) -> None:
        self.builder = ProgramBuilder(max_instructions=max_instructions)
        self.nc_version = nc_version
        self.scalar_engines = VECTOR_GPSIMD if nc_version < _SCALAR_ALU_FROM else VECTOR_SCALAR_GPSIMD
        """Engines that have `tensor_scalar`: on NeuronCore-v2 ScalarE has none."""
        self.sbuf_usable_bytes = sbuf_usable_bytes
        self.op = ""
        """Name of the HLO op whose instructions are recorded."""
        self.notes: dict[str, None] = {}
        """In order of appearance."""
        self.unlowered: dict[str, str] = {}
        """Ops that are counted by a conservative cost: name to opcode."""
        self.loops: list[int] = []
        """Register tiles that stand for the iteration of each device loop that is open."""
        self.group: list[tuple[str, Emit]] = []
        """Row-wise ops that are not recorded yet."""
        self._grouped: list[Value] = []
        self._group_rows = 0
        self._group_step = 0
        self._works: dict[tuple[object, ...], Work] = {}
        self._transfers: dict[tuple[object, ...], Transfer] = {}
        self._tiles: dict[tuple[object, ...], int] = {}
        self._kept_grids: list[Grid] = []
        self._plans: dict[tuple[object, ...], tuple[Work, int, int, int]] = {}
        self._layouts: dict[int, tuple[Shape, Grid, str, int]] = {}
        self._identity: dict[str, int] = {}
        self._ones: dict[str, int] = {}

    # -- values

    def new(self, shape: Shape) -> Value:
        """A value that is nowhere yet."""
        layout = self._layouts.get(id(shape))
        if layout is None:
            layout = self._layouts[id(shape)] = (shape, natural_grid(shape), *device_type(shape.element_type))
        return Value(*layout)

    def on_chip(self, shape: Shape, grid: Grid | None = None) -> Value:
        """A value whose tiles are about to be written; in another than its natural grid if one is given."""
        value = self.new(shape)
        if grid is None:
            grid = value.grid
        else:
            value.grid = grid
        value.tiles = self.empty_tiles(grid)
        return value

    # -- instructions

    def emit(
        self,
        work: Work | Transfer,
        engines: tuple[Engine, ...],
        reads: list[Box],
        writes: list[Box],
        *,
        accumulates: bool = False,
    ) -> int:
        """Record one instruction of the current op; within a device loop it waits for the iteration to begin."""
        if self.loops:
            reads.append(Box(self.loops[-1], 0, 1, 0, 1))
        return self.builder.instruction(work, engines, reads, writes, self.op, accumulates=accumulates)

    def work(
        self,
        opcode: str,
        elements: int,
        partitions: int,
        dtype: str,
        out_dtype: str,
        sources: tuple[Space, ...] = (Space.SBUF,),
        destination: Space = Space.SBUF,
        function: str = "",
        columns: int = 0,
    ) -> Work:
        """What an instruction does, made once."""
        key = (opcode, elements, partitions, dtype, out_dtype, sources, destination, function, columns)
        found = self._works.get(key)
        if found is None:
            flops = 2 * partitions * columns * elements if opcode == "nc_matmul" else 0
            found = self._works[key] = Work(
                opcode,
                elements,
                partitions,
                dtype,
                out_dtype,
                sources,
                destination,
                function=function,
                columns=columns,
                flops=flops,
            )
        return found

    def transfer(
        self, runs: int, run_bytes: int, source: Space, destination: Space, *, is_indirect: bool = False
    ) -> Transfer:
        """What a DMA does, made once."""
        key = (runs, run_bytes, source, destination, is_indirect)
        found = self._transfers.get(key)
        if found is None:
            moved = runs * run_bytes
            found = self._transfers[key] = Transfer(
                runs, run_bytes, moved, moved, source, destination, is_transpose=False, is_indirect=is_indirect
            )
        return found

    def tile(self, space: Space, rows: int, row_bytes: int, name: str, *, is_external: bool = False) -> int:
        """A tile; those of one size and name rotate through the same buffers."""
        key = (space, rows, row_bytes, name)
        like = self._tiles.get(key)
        if like is not None and not is_external:
            return self.builder.another(like)
        number = self.builder.tile(space, rows, max(1, row_bytes), name=name, site=key, is_external=is_external)
        if not is_external:
            self._tiles[key] = number
        return number

    def whole(
        self,
        opcode: str,
        function: str,
        result: Value,
        grid: Grid,
        sources: list[Box],
        dtype: str,
        engines: tuple[Engine, ...],
    ) -> Value:
        """Record an elementwise instruction whose operands and result are one tile each: the common case, made quick."""
        # Grids of one size are one object, kept by their cache or by `_kept_grids`; to hash one takes longer than all else.
        key = (opcode, function, id(grid), dtype, result.dtype, len(sources))
        plan = self._plans.get(key)
        if plan is None:
            partitions = min(PARTITIONS, grid.rows)
            elements = grid.row_tiles * grid.columns
            streams = (Space.SBUF,) * (2 if opcode in _TWO_STREAMS else 1)
            work = self.work(opcode, elements, partitions, dtype, result.dtype, streams, Space.SBUF, function)
            like = self.tile(Space.SBUF, partitions, elements * result.itemsize, "")
            plan = self._plans[key] = work, like, partitions, elements * result.itemsize
            self._kept_grids.append(grid)
        work, like, partitions, size = plan
        number = self.builder.another(like)
        box = _new_box(Box, (number, 0, partitions, 0, size))
        result.grid, result.tiles, result.whole = grid, [number], box
        if self.loops:
            sources = [*sources, Box(self.loops[-1], 0, 1, 0, 1)]
        self.builder.instruction(work, engines, sources, (box,), self.op)
        return result

    # -- memory

    def hbm(self, shape: Shape, name: str, *, is_external: bool = False) -> Value:
        """A new array in HBM that the program writes."""
        grid = natural_grid(shape)
        _, itemsize = device_type(shape.element_type)
        tile = self.tile(Space.HBM, max(1, grid.rows), grid.columns * itemsize, name, is_external=is_external)
        return in_hbm(shape, tile, shape.elements, is_input=False)

    def box(self, value: Value, first: int, last: int, piece: int = 0) -> Box:
        """Row tiles `first` to `last` (of one chunk) of a piece of a value, loaded if it lies in HBM only."""
        grid = value.grid
        tiles = value.tiles
        if value.pending:
            self.flush()
        chunk, inner = divmod(first, grid.tiles_per_chunk)
        at = chunk * grid.pieces + piece
        if tiles is None:
            tiles = value.tiles = self.empty_tiles(grid)
        tile = tiles[at]
        if tile < 0:
            tile = tiles[at] = self._load(value, chunk, piece)
            if len(tiles) == 1:
                size = grid.row_tiles * grid.columns * value.itemsize
                value.whole = _new_box(Box, (tile, 0, min(PARTITIONS, grid.rows), 0, size))
        rows = min(PARTITIONS, grid.rows - first * PARTITIONS)
        width = (grid.columns if grid.pieces == 1 else grid.piece_width(piece)) * value.itemsize
        start = inner * width
        return _new_box(Box, (tile, 0, rows, start, start + (last - first) * width))

    def write_box(self, value: Value, first: int, last: int, piece: int = 0) -> Box:
        """As `box`, of a value that is being made."""
        grid = value.grid
        chunk, inner = divmod(first, grid.tiles_per_chunk)
        at = chunk * grid.pieces + piece
        assert value.tiles is not None  # noqa: S101  # made by `on_chip`
        tile = value.tiles[at]
        rows = min(PARTITIONS, grid.rows - first * PARTITIONS)
        width = (grid.columns if grid.pieces == 1 else grid.piece_width(piece)) * value.itemsize
        if tile < 0:
            held = min(grid.tiles_per_chunk, grid.row_tiles - chunk * grid.tiles_per_chunk)
            tile = value.tiles[at] = self.tile(Space.SBUF, min(PARTITIONS, grid.rows), held * width, "")
        start = inner * width
        return _new_box(Box, (tile, 0, rows, start, start + (last - first) * width))

    def _load(self, value: Value, chunk: int, piece: int) -> int:
        """Bring one chunk of a value in HBM to the chip; constants are written there."""
        grid = value.grid
        first = chunk * grid.tiles_per_chunk
        held = min(grid.tiles_per_chunk, grid.row_tiles - first)
        partitions = min(PARTITIONS, grid.rows - first * PARTITIONS)
        width = (grid.columns if grid.pieces == 1 else grid.piece_width(piece)) * value.itemsize
        tile = self.tile(Space.SBUF, partitions, held * width, "")
        target = Box(tile, 0, partitions, 0, held * width)
        if value.is_uniform:
            work = self.work(
                "memset", held * width // value.itemsize, partitions, value.dtype, value.dtype, (), function="zero"
            )
            self.emit(work, VECTOR_GPSIMD, [], [target])
            return tile
        assert value.hbm is not None  # noqa: S101  # `ready` has made it so
        rows = min(held * PARTITIONS, grid.rows - first * PARTITIONS)
        runs, run_bytes = self._runs(value, rows, partitions, width)
        transfer = self.transfer(runs, run_bytes, Space.HBM, Space.SBUF, is_indirect=bool(value.addresses))
        self.emit(transfer, DMA, [self.hbm_box(value), *value.addresses], [target])
        return tile

    def _runs(self, value: Value, rows: int, partitions: int, width_bytes: int) -> tuple[int, int]:
        """How many pieces of memory some rows are, and the bytes of each: consecutive rows may share a partition."""
        assert value.hbm is not None  # noqa: S101
        together = value.hbm.run_elements * value.itemsize
        moved = rows * width_bytes
        run = width_bytes if value.grid.pieces > 1 else -(-moved // partitions)
        if value.row_run_elements:
            run = min(run, max(width_bytes, value.row_run_elements * value.itemsize))
        run = max(1, min(run, together))
        return -(-moved // run), run

    def hbm_box(self, value: Value) -> Box:
        """What reading or writing an array in HBM depends on: all of it, as addresses are not followed."""
        assert value.hbm is not None  # noqa: S101
        return Box(value.hbm.tile, 0, 1, 0, 1)

    def empty_tiles(self, grid: Grid) -> list[int]:
        """A place for each on-chip tile of a grid.

        Raises:
            ProgramTooLargeError: More tiles than the program may have instructions.
        """
        count = grid.chunks * grid.pieces
        if count > self.builder.max_instructions:
            raise ProgramTooLargeError(
                f"{self.op}: an array of {grid.rows:,} x {grid.columns:,} elements takes {count:,} tiles, more than the"
                f" {self.builder.max_instructions:,} instructions of --max-instructions"
            )
        return [-1] * count

    def store(
        self,
        value: Value,
        target: Value,
        *,
        is_indirect: bool = False,
        run_elements: int = 0,
        addresses: Sequence[Box] = (),
    ) -> None:
        """Copy a value to an array in HBM, or to a part of one.

        Args:
            value: Anywhere, in any grid.
            target: From `hbm`; several stores to one may run at once only if nothing reads it between them.
            is_indirect: The address is computed while the program runs.
            run_elements: What lies together in the target; 0 where all does.
            addresses: Registers and tiles that hold the address.
        """
        assert target.hbm is not None  # noqa: S101
        value = self.ready(value)
        target_box = Box(target.hbm.tile, 0, 1, 0, 1)
        together = (run_elements or target.shape.elements) * target.itemsize
        if value.hbm is not None and value.tiles is None:
            run = max(1, min(value.hbm.run_elements * value.itemsize, together, 32768))
            runs = max(1, -(-value.bytes // run))
            run = max(1, -(-value.bytes // runs))
            transfer = self.transfer(runs, run, Space.HBM, Space.HBM, is_indirect=is_indirect)
            self.emit(transfer, DMA, [self.hbm_box(value), *value.addresses, *addresses], [target_box])
            return
        grid = value.grid

        def emit(first: int, last: int) -> None:
            for piece in range(grid.pieces):
                source = self.box(value, first, last, piece)
                width = source.byte_stop - source.byte_start
                run = max(1, min(width, together))
                runs = -(-source.row_stop * width // run)
                transfer = self.transfer(runs, run, Space.SBUF, Space.HBM, is_indirect=is_indirect)
                self.emit(transfer, DMA, [source, *addresses], [target_box])

        if (
            value.pending
        ):  # some rows at a time with the ops that make them, or all of it would have to stay on the chip
            self.group.append((self.op, emit))
            return
        for first in range(0, grid.row_tiles, grid.tiles_per_chunk):
            emit(first, min(first + grid.tiles_per_chunk, grid.row_tiles))

    # -- views

    def natural(self, value: Value) -> Value:
        """The value with its last dimension along the columns, moved there if it lies otherwise."""
        return self.regrid(value, self.new(value.shape).grid)

    def regrid(self, value: Value, grid: Grid) -> Value:
        """The value in a grid: loaded so where it lies in HBM only, else moved there by DMA."""
        value = self.ready(value)
        if value.grid == grid:
            return value
        if value.elsewhere is None:
            value.elsewhere = {}
        other = value.elsewhere.get(grid)
        if other is None:
            other = value.elsewhere[grid] = self.new(value.shape)
            other.grid = grid
            if value.hbm is not None or value.is_uniform:
                other.hbm, other.is_uniform, other.addresses = value.hbm, value.is_uniform, value.addresses
            else:
                from npuscope.simulate.hlo.movement import move

                self.flush()
                other.tiles = self.empty_tiles(grid)
                move(self, other, value)
        return other

    def joins_group(self, value: Value) -> None:
        """Let another name of a value of the open group be known as such."""
        value.pending = True
        self._grouped.append(value)

    def ready(self, value: Value) -> Value:
        """The value where instructions can read it: views are worked out, once."""
        if value.whole is not None:
            return value
        if value.deferred:
            from npuscope.simulate.hlo.elementwise import apply_deferred

            apply_deferred(self, value)
        elif value.base is not None:
            from npuscope.simulate.hlo.movement import materialise

            materialise(self, value)
        elif value.is_register and value.tiles is None:
            value.tiles = [self.tile(Space.REGISTER, 1, 4, "")]
        return value

    def spread(self, value: Value) -> int:
        """Tile with a row vector (one row, or an array of one dimension), or a scalar, on all 128 partitions."""
        if value.spread < 0:
            from npuscope.simulate.hlo.movement import spread_over_partitions

            self.flush()
            value.spread = spread_over_partitions(self, value)
        return value.spread

    def constant_tile(self, kind: str, dtype: str) -> int:
        """An identity matrix [128, 128] or ones [128, 128] on the chip, made once: loaded, as compiled programs do."""
        known = self._identity if kind == "identity" else self._ones
        if dtype not in known:
            _, itemsize = 0, 4 if dtype in ("float32", "int32", "uint32") else 2
            tile = self.tile(Space.SBUF, PARTITIONS, PARTITIONS * itemsize, kind)
            target = [Box(tile, 0, PARTITIONS, 0, PARTITIONS * itemsize)]
            if kind == "identity":
                source = self.tile(Space.HBM, PARTITIONS, PARTITIONS * itemsize, kind)
                transfer = self.transfer(PARTITIONS, PARTITIONS * itemsize, Space.HBM, Space.SBUF)
                self.emit(transfer, DMA, [Box(source, 0, PARTITIONS, 0, PARTITIONS * itemsize)], target)
            else:
                work = self.work("memset", PARTITIONS, PARTITIONS, dtype, dtype, ())
                self.emit(work, VECTOR_GPSIMD, [], target)
            known[dtype] = tile
        return known[dtype]

    def constant_tiles(self) -> list[int]:
        """Those that `constant_tile` has made so far."""
        return [*self._identity.values(), *self._ones.values()]

    def surroundings(self) -> tuple[int, ...]:
        """What else than its operands an op may have changed: how many constant tiles and conservative costs there are."""
        return len(self._identity), len(self._ones), len(self.unlowered), self.builder.iteration

    # -- row-wise groups

    def by_rows(self, result: Value, emit: Emit, operands: Sequence[Value] = ()) -> None:
        """Record a row-wise op: at once where all of it is one chunk, else with its neighbours, some rows at a time.

        A compiler runs a chain of row-wise ops tile by tile, so that what is between them never leaves the chip.

        Args:
            result: Made by the op.
            emit: Records it for some row tiles, which lie in one chunk of the result and of each operand.
            operands: Values of as many rows that `emit` reads.
        """
        grid = result.grid
        step = grid.tiles_per_chunk
        joins = False
        for operand in operands:
            joins = joins or operand.pending
            step = min(step, operand.grid.tiles_per_chunk)
        if not joins and grid.row_tiles <= step:
            if grid.row_tiles:
                emit(0, grid.row_tiles)
                if result.tiles is not None and len(result.tiles) == 1:
                    result.whole = self.box(result, 0, grid.row_tiles)
            return
        if self.group and self._group_rows != grid.rows:
            self.flush()
        self._group_step = min(self._group_step, step) if self.group else step
        self._group_rows = grid.rows
        self.group.append((self.op, emit))
        self._grouped.append(result)
        result.pending = True

    def flush(self) -> None:
        """Record the open group."""
        if not self.group:
            return
        group, step, rows, op = self.group, self._group_step, self._group_rows, self.op
        self.group = []
        for value in self._grouped:
            value.pending = False
        self._grouped = []
        row_tiles = -(-rows // PARTITIONS)
        for first in range(0, row_tiles, step):
            last = min(first + step, row_tiles)
            for name, emit in group:
                self.op = name
                emit(first, last)
        self.op = op

    # -- device loops

    def enter_loop(self) -> None:
        """Begin a device loop: what follows is its body."""
        self.flush()
        counter = self.tile(Space.REGISTER, 1, 1, "loop")
        self._branch(counter)
        self.loops.append(counter)
        self.builder.iteration += 1

    def next_iteration(self) -> None:
        """The branch back: every engine has ended the iteration before the next one begins."""
        self.flush()
        counter = self.loops.pop()
        self._branch(counter)
        self.loops.append(counter)
        self.builder.iteration += 1

    def leave_loop(self) -> None:
        """End a device loop: all of it ends before what follows begins."""
        self.flush()
        counter = self.loops.pop()
        self._branch(counter)
        self.builder.iteration += 1

    def _branch(self, counter: int) -> None:
        work = self.work("loop_branch", 1, 1, "int32", "int32", (Space.REGISTER,), Space.REGISTER)
        self.emit(work, SYNC, [], [Box(counter, 0, 1, 0, 1)])
