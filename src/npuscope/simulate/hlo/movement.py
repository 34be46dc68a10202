"""Ops that move data to places that are known: broadcasts, reshapes, transposes, slices.

What keeps rows and columns is free. Rows that go to other partitions take a DMA, since engines compute within a partition;
a transpose of the last two dimensions takes TensorE, 128 x 128 at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from npuscope.formats.hlo import Op, Shape
from npuscope.simulate.hlo.layout import PARTITIONS, PIECE_COLUMNS, Grid, grid_of, row_dimensions
from npuscope.simulate.hlo.recorder import (
    DMA,
    PSUM_COLUMNS,
    TENSOR,
    VECTOR_GPSIMD,
    VECTOR_SCALAR,
    VECTOR_SCALAR_GPSIMD,
    Recorder,
)
from npuscope.simulate.hlo.values import HbmView, Value, view_of
from npuscope.simulate.neuroncore.program import Box, Space, Work

_ON_SBUF = (Space.SBUF,)
_NEAR_STRIDE = 16
"""Elements that lie so close are picked out on the chip, from whole rows: a descriptor for each would take longer."""
_SMALL_RUN_BYTES = 512
"""Runs that are shorter keep a DMA from its rate (see `docs/validation.md`, DMA efficiency)."""
_BANK_BYTES = 4 * PSUM_COLUMNS


def reshape(rec: Recorder, shape: Shape, value: Value) -> Value:
    """The same elements in another shape: free, since the elements stay in row-major order."""
    result = rec.new(shape)
    if value.base is not None:
        result.base, result.view = value, "reshape"
        return result
    _share(rec, result, value)
    return result


def _share(rec: Recorder, result: Value, value: Value) -> None:
    """Let a value be where another one is."""
    result.hbm, result.is_uniform, result.is_register = value.hbm, value.is_uniform, value.is_register
    result.is_shared, result.addresses = value.is_shared, value.addresses
    if value.tiles is not None:
        result.grid, result.tiles, result.whole = value.grid, value.tiles, value.whole
    result.spread = value.spread if value.spread >= 0 else -1
    if value.pending:
        rec.joins_group(result)


def broadcast(rec: Recorder, op: Op, value: Value) -> Value:
    """Repeated along new dimensions: worked out by whoever needs more than an access pattern."""
    dimensions = tuple(op.attributes.dimensions)
    if value.is_uniform or (value.shape.elements == op.shape.elements and list(dimensions) == sorted(dimensions)):
        return reshape(rec, op.shape, value)
    return view_of(op.shape, value, "broadcast", dimensions)


def transpose(rec: Recorder, op: Op, value: Value) -> Value:
    """Another order of dimensions."""
    order = tuple(op.attributes.dimensions)
    moved = [dimension for dimension in order if value.shape.dimensions[dimension] != 1]
    if value.is_uniform or moved == sorted(moved):  # only dimensions of one element change places
        return reshape(rec, op.shape, value)
    if value.view == "transpose" and value.base is not None:
        order = tuple(value.dimensions[one] for one in order)
        value = value.base
    return view_of(op.shape, value, "transpose", order)


def materialise(rec: Recorder, value: Value) -> None:
    """Work out a view, so that it lies on the chip as its shape says."""
    base, view = value.base, value.view
    assert base is not None  # noqa: S101  # a view has one
    if view == "reshape":  # moves nothing, so that the group which works out the base may stay open
        value.base, value.view = None, ""
        _share(rec, value, rec.ready(base))
        return
    rec.flush()
    value.base, value.view = None, ""
    value.tiles = rec.empty_tiles(value.grid)
    if not value.shape.elements:
        return
    if view == "broadcast":
        _repeat(rec, value, base)
    elif view == "transpose" and value.dimensions[-1] != len(value.dimensions) - 1:
        _turn(rec, value, rec.natural(base))
    else:
        move(rec, value, rec.natural(base))


def _repeat(rec: Recorder, value: Value, base: Value) -> None:
    """A broadcast that somebody needs in full: copied through an access pattern, in whatever grid has one, else moved."""
    from npuscope.simulate.hlo.broadcasts import access, friendly_grid, has_pattern

    repeated = view_of(value.shape, base, "broadcast", value.dimensions)
    grid = friendly_grid(value.shape, [repeated], value.grid)
    if not has_pattern(repeated, grid):
        move(rec, value, rec.ready(base))
        return
    value.grid, value.tiles = grid, rec.empty_tiles(grid)
    operand = access(rec, repeated, value)
    rec.flush()
    for start, stop, piece in grid.parts():
        for low in range(start, stop, operand.most_tiles):
            high = min(low + operand.most_tiles, stop)
            write = rec.write_box(value, low, high, piece)
            elements = (write.byte_stop - write.byte_start) // value.itemsize
            work = rec.work("tensor_copy", elements, write.row_stop, base.dtype, value.dtype, _ON_SBUF)
            rec.emit(work, VECTOR_SCALAR_GPSIMD, [operand.read(low, high, piece)], [write])


def sources_of(rec: Recorder, value: Value) -> list[Box]:
    """Every part of a value on the chip, or where it lies in HBM."""
    if value.hbm is not None and value.tiles is None:
        return [rec.hbm_box(value), *value.addresses]
    return [rec.box(value, *part) for part in value.grid.parts()]


def move(rec: Recorder, value: Value, source: Value) -> None:
    """To other partitions by DMA, one per chunk; a run is as long as elements stay together in both."""
    together = source.hbm.run_elements if source.hbm is not None and source.tiles is None else _run_elements(source)
    run_elements = max(1, min(together, _run_elements(value)))
    space = Space.HBM if source.hbm is not None and source.tiles is None else Space.SBUF
    reads = sources_of(rec, source)
    grid = value.grid
    share = max(1, len(reads) // max(1, grid.chunks * grid.pieces))
    at = 0
    for start, stop, piece in grid.parts():
        write = rec.write_box(value, start, stop, piece)
        moved = write.row_stop * (write.byte_stop - write.byte_start)
        run = max(1, min(run_elements * value.itemsize, moved))
        mine = reads[at % max(1, len(reads)) :][:share]
        at += share
        rec.emit(rec.transfer(-(-moved // run), run, space, Space.SBUF), DMA, list(mine), [write])


def _run_elements(value: Value) -> int:
    """Elements of a partition that follow each other in the array."""
    grid = value.grid
    if grid.columns == 1:
        return max(1, -(-grid.rows // PARTITIONS))
    return max(1, min(grid.columns, PIECE_COLUMNS))


def _turn(rec: Recorder, value: Value, source: Value) -> None:
    """Last two dimensions exchanged on TensorE: blocks of 128 x 128, four to a PSUM bank, copied from there."""
    grid = source.grid
    is_float = source.dtype.startswith(("float", "bfloat"))
    dtype = source.dtype if is_float else "float32"
    identity = rec.constant_tile("identity", dtype)
    blocks = [(row_tile, column) for row_tile in range(grid.row_tiles) for column in range(0, grid.columns, PARTITIONS)]
    writes = [rec.write_box(value, *part) for part in value.grid.parts()]
    per_write = max(1, -(-len(blocks) // len(writes)))
    for number, first in enumerate(range(0, len(blocks), 4)):
        group = blocks[first : first + 4]
        bank = rec.tile(Space.PSUM, PARTITIONS, _BANK_BYTES, "turning")
        used = 0
        depth = 1
        for row_tile, column in group:
            rows, width = grid.partitions(row_tile), min(PARTITIONS, grid.columns - column)
            whole = rec.box(source, row_tile, row_tile + 1, column // PIECE_COLUMNS)
            offset = whole.byte_start + column % PIECE_COLUMNS * source.itemsize
            read = Box(whole.tile, 0, rows, offset, offset + width * source.itemsize)
            rec.emit(
                turning(rows, width, dtype),
                TENSOR,
                [read, Box(identity, 0, rows, 0, 1)],
                [Box(bank, 0, width, used * 4, (used + rows) * 4)],
            )
            used += rows
            depth = max(depth, width)
        target = writes[min(first // per_write, len(writes) - 1)]
        copy = rec.work("tensor_copy", used, depth, "float32", value.dtype, (Space.PSUM,))
        start = target.byte_start + (number * 4 * PARTITIONS * value.itemsize) % max(
            1, target.byte_stop - target.byte_start
        )
        stop = min(target.byte_stop, start + used * value.itemsize)
        rec.emit(
            copy,
            VECTOR_SCALAR,
            [Box(bank, 0, depth, 0, used * 4)],
            [Box(target.tile, 0, depth, start, max(stop, start + 1))],
        )


def turning(rows: int, columns: int, dtype: str) -> Work:
    """Turn [rows, columns], each at most 128, on TensorE."""
    from npuscope.simulate.neuroncore.matmul_program import transpose_work

    return transpose_work(rows, columns, dtype)


def spread_over_partitions(rec: Recorder, value: Value) -> int:
    """A row vector or a scalar on all partitions: by a DMA that reads it once per partition, or by a matmul with ones.

    A column on the chip first becomes a diagonal, which a matmul with ones sums into a row on every partition.
    """
    value = rec.ready(value)
    count = value.shape.elements
    if value.hbm is not None and value.tiles is None:
        tile = rec.tile(Space.SBUF, PARTITIONS, count * value.itemsize, "spread")
        run = max(1, min(count, value.hbm.run_elements)) * value.itemsize
        transfer = rec.transfer(PARTITIONS * -(-count * value.itemsize // run), run, Space.HBM, Space.SBUF)
        rec.emit(
            transfer,
            DMA,
            [rec.hbm_box(value), *value.addresses],
            [Box(tile, 0, PARTITIONS, 0, count * value.itemsize)],
        )
        return tile
    tile = rec.tile(Space.SBUF, PARTITIONS, count * value.itemsize, "spread")
    if value.is_register or value.is_uniform:
        reads = [rec.box(value, 0, 1)] if value.is_register else []
        work = rec.work("memset", 1, PARTITIONS, value.dtype, value.dtype, ())
        rec.emit(work, VECTOR_GPSIMD, reads, [Box(tile, 0, PARTITIONS, 0, value.itemsize)])
        return tile
    ones = rec.constant_tile("ones", "float32")
    grid = value.grid
    if grid.rows > 1 and grid.columns > 1:
        value = rec.regrid(value, grid_of(count, 1))
        grid = value.grid
    is_column = grid.columns == 1 and count > 1
    for start in range(0, count, PSUM_COLUMNS):
        columns = min(PSUM_COLUMNS, count - start)
        bank = rec.tile(Space.PSUM, PARTITIONS, columns * 4, "spread")
        target = Box(bank, 0, PARTITIONS, 0, columns * 4)
        if is_column:
            for number, row_tile in enumerate(range(start // PARTITIONS, -(-(start + columns) // PARTITIONS))):
                rows = grid.partitions(row_tile)
                diagonal = rec.tile(Space.SBUF, PARTITIONS, PARTITIONS * 4, "diagonal")
                identity = rec.constant_tile("identity", "float32")
                work = rec.work("tensor_scalar", rows, rows, "float32", "float32", _ON_SBUF, function="multiply")
                reads = [Box(identity, 0, rows, 0, rows * 4), rec.box(value, row_tile, row_tile + 1)]
                made = Box(diagonal, 0, rows, 0, rows * 4)
                rec.emit(work, VECTOR_GPSIMD, reads, [made])
                work = rec.work(
                    "nc_matmul", rows, rows, "float32", "float32", (Space.SBUF, Space.SBUF), Space.PSUM, "", PARTITIONS
                )
                left = number * PARTITIONS * 4
                rec.emit(
                    work, TENSOR, [Box(ones, 0, rows, 0, 1), made], [Box(bank, 0, PARTITIONS, left, left + rows * 4)]
                )
        else:
            whole = rec.box(value, 0, 1, start // PIECE_COLUMNS)
            offset = whole.byte_start + start % PIECE_COLUMNS * value.itemsize
            work = rec.work(
                "nc_matmul", columns, 1, value.dtype, "float32", (Space.SBUF, Space.SBUF), Space.PSUM, "", PARTITIONS
            )
            read = Box(whole.tile, 0, 1, offset, offset + columns * value.itemsize)
            rec.emit(work, TENSOR, [Box(ones, 0, 1, 0, 1), read], [target])
        copy = rec.work("tensor_copy", columns, PARTITIONS, "float32", value.dtype, (Space.PSUM,))
        rec.emit(
            copy,
            VECTOR_SCALAR,
            [target],
            [Box(tile, 0, PARTITIONS, start * value.itemsize, (start + columns) * value.itemsize)],
        )
    return tile


def slice_of(rec: Recorder, op: Op, value: Value) -> Value:
    """A fixed part of an array: a view where it lies in HBM, else a copy."""
    if value.is_uniform:
        return reshape(rec, op.shape, value)
    if value.view == "reshape":
        value = rec.ready(value)
    if value.hbm is not None and not _is_picked_on_chip(op, value):
        result = rec.new(op.shape)
        run = run_of_part(value, op.shape.dimensions, op)
        result.hbm = HbmView(value.hbm.tile, run, value.hbm.is_input, is_whole=False)
        value.is_shared = result.is_shared = True  # neither may be overwritten while the other is needed
        result.addresses = value.addresses
        return result
    source = rec.ready(value)
    split = row_dimensions(source.shape.dimensions, source.grid) if source.tiles is not None else None
    if split is None or op.shape.dimensions[:split] != source.shape.dimensions[:split]:
        source = rec.natural(source)
        return _copied(rec, source, rec.on_chip(op.shape))
    # All rows, and some columns of each: they stay in their partitions.
    columns = math.prod(op.shape.dimensions[split:])
    return _copied(rec, source, rec.on_chip(op.shape, grid_of(source.grid.rows, columns)))


def _is_picked_on_chip(op: Op, value: Value) -> bool:
    """Whether to load whole rows and pick from them: small pieces would take a descriptor each."""
    strides = [item.stride for item in op.attributes.slices]
    if strides and 1 < strides[-1] <= _NEAR_STRIDE:
        return True
    extents, part = value.shape.dimensions, op.shape.dimensions
    if len(part) < 2 or extents[:-1] != part[:-1] or max(strides, default=1) > 1:
        return False
    return part[-1] * value.itemsize < _SMALL_RUN_BYTES and _NEAR_STRIDE * part[-1] >= extents[-1]


def run_of_part(value: Value, part: tuple[int, ...], op: Op | None = None) -> int:
    """Elements of a part of an array that lie together: the last dimensions that it takes whole, and one more."""
    assert value.hbm is not None  # noqa: S101
    strides = [item.stride for item in op.attributes.slices] if op is not None else []
    run = 1
    for place in range(len(part) - 1, -1, -1):
        if place < len(strides) and strides[place] > 1:
            break
        run *= part[place]
        if value.shape.dimensions[place] != part[place]:
            break
    return max(1, min(run, value.hbm.run_elements))


def _copied(rec: Recorder, source: Value, result: Value) -> Value:
    """A copy within partitions where rows stay, by DMA where they move."""
    rec.flush()
    if result.grid.rows != source.grid.rows:
        move(rec, result, source)
        return result
    grid = result.grid
    reads = sources_of(rec, source)
    for start, stop, piece in grid.parts():
        write = rec.write_box(result, start, stop, piece)
        elements = (write.byte_stop - write.byte_start) // result.itemsize
        work = rec.work("tensor_copy", elements, write.row_stop, source.dtype, result.dtype, _ON_SBUF)
        # Where the source has more pieces, what is wanted of a row may lie in several of them.
        at = start * source.grid.pieces // source.grid.tiles_per_chunk + piece * source.grid.pieces // grid.pieces
        at = min(at, len(reads) - 1)
        rec.emit(work, VECTOR_SCALAR_GPSIMD, reads[at : at + -(-source.grid.pieces // grid.pieces)], [write])
    return result


def concatenate(rec: Recorder, op: Op, operands: list[Value]) -> Value:
    """Joined along the last dimension within partitions; along others through HBM, a DMA per part."""
    if all(value.is_uniform for value in operands):
        return reshape(rec, op.shape, operands[0])
    axis = op.attributes.dimensions[0] if op.attributes.dimensions else 0
    grid = _grid_to_join(op.shape.dimensions, axis, operands)
    if grid is not None:
        return _joined_in_rows(rec, op, operands, grid)
    result = rec.hbm(op.shape, "joined")
    for value in operands:
        run = 1
        for extent in value.shape.dimensions[axis:]:
            run *= extent
        rec.store(value, result, run_elements=max(1, run))
    return result


def _grid_to_join(dimensions: tuple[int, ...], axis: int, operands: Sequence[Value]) -> Grid | None:
    """The grid in which operands that are joined along an axis keep their rows; None where there is none.

    That of the operands on the chip, if the axis is one of its columns; else the natural one.
    """
    for value in operands:
        if value.tiles is not None and not value.is_uniform:
            split = row_dimensions(value.shape.dimensions, value.grid)
            if split is not None and 0 < split <= axis:
                return grid_of(value.grid.rows, math.prod(dimensions[split:]))
    if axis == len(dimensions) - 1 and len(dimensions) > 1:
        return grid_of(math.prod(dimensions[:-1]), dimensions[-1])
    return None


def _joined_in_rows(rec: Recorder, op: Op, operands: list[Value], grid: Grid) -> Value:
    """Each operand to its columns of all rows, by copies within partitions."""
    result = rec.on_chip(op.shape, grid)
    columns = [value.shape.elements // max(1, grid.rows) for value in operands]
    readies = [rec.regrid(value, grid_of(grid.rows, own)) for value, own in zip(operands, columns, strict=True)]
    rec.flush()
    for start, stop, piece in grid.parts():
        whole = rec.write_box(result, start, stop, piece)
        size = whole.byte_stop - whole.byte_start
        before = 0
        for value, own in zip(readies, columns, strict=True):
            left, before = before, before + own
            low, high = (whole.byte_start + size * edge // grid.columns for edge in (left, before))
            write = Box(whole.tile, 0, whole.row_stop, low, max(high, low + 1))
            read = rec.box(value, start, stop, piece * value.grid.pieces // grid.pieces)
            elements = max(1, (high - low) // result.itemsize)
            work = rec.work("tensor_copy", elements, write.row_stop, value.dtype, result.dtype, _ON_SBUF)
            rec.emit(work, VECTOR_SCALAR_GPSIMD, [read], [write])
    return result


def pad(rec: Recorder, op: Op, operands: list[Value]) -> Value:
    """A filled array, and a copy into it."""
    value = operands[0]
    if value.is_uniform and operands[1].is_uniform:
        return reshape(rec, op.shape, value)
    result = rec.on_chip(op.shape)
    source = rec.natural(value)
    rec.flush()
    grid = result.grid
    writes = []
    for start, stop, piece in grid.parts():
        write = rec.write_box(result, start, stop, piece)
        elements = (write.byte_stop - write.byte_start) // result.itemsize
        rec.emit(
            rec.work("memset", elements, write.row_stop, result.dtype, result.dtype, ()), VECTOR_GPSIMD, [], [write]
        )
        writes.append(write)
    same_rows = source.grid.rows == grid.rows
    for number, read in enumerate(sources_of(rec, source)):
        write = writes[min(number, len(writes) - 1)]
        if same_rows and source.tiles is not None:
            elements = (read.byte_stop - read.byte_start) // source.itemsize
            work = rec.work("tensor_copy", elements, read.row_stop, source.dtype, result.dtype, _ON_SBUF)
            rec.emit(work, VECTOR_SCALAR_GPSIMD, [read], [write])
        else:
            in_memory = source.tiles is None
            run = min(_run_elements(source), PIECE_COLUMNS) * source.itemsize
            moved = source.bytes if in_memory else read.row_stop * (read.byte_stop - read.byte_start)
            space = Space.HBM if in_memory else Space.SBUF
            rec.emit(rec.transfer(max(1, -(-moved // run)), run, space, Space.SBUF), DMA, [read], [write])
    return result


def reverse(rec: Recorder, op: Op, value: Value) -> Value:
    """Backwards along some dimensions: an access pattern of a copy; rows that move take a DMA."""
    if value.is_uniform:
        return value
    source = rec.natural(value)
    last = len(op.shape.dimensions) - 1
    if all(dimension == last for dimension in op.attributes.dimensions):
        return _copied(rec, source, rec.on_chip(op.shape))
    result = rec.on_chip(op.shape)
    rec.flush()
    move(rec, result, source)
    return result
