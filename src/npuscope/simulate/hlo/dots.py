"""Matmuls: `dot` and `convolution` as tiles on TensorE, like `neuroncore.matmul_program`, for operands that may be on the chip.

    for each batch, for each block of columns of the moving operand that SBUF holds:
        for each 128 rows:                      # stationary: [128 of K, 128]
            for each 512 columns:               # one PSUM bank
                accumulate over K, 128 at a time; PSUM -> SBUF

An operand that has its contracted dimension last lies with K along the free axis, and is turned by matmuls with an identity,
four blocks to a PSUM bank, once; one that has it first goes as it is. Where a batch is smaller than 128 rows, several share
a row tile; that TensorE takes operands only from partitions 0, 32, 64 and 96 on is not modelled.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from npuscope.formats.hlo import Op, Shape
from npuscope.simulate.hlo.layout import PARTITIONS, PIECE_COLUMNS, grid_of
from npuscope.simulate.hlo.movement import move, reshape, turning
from npuscope.simulate.hlo.recorder import PSUM_COLUMNS, TENSOR, VECTOR_SCALAR, Recorder
from npuscope.simulate.hlo.values import Value
from npuscope.simulate.neuroncore.matmul_program import STREAM_TILES_M, TURNED_PER_BANK, choose_blocking
from npuscope.simulate.neuroncore.program import Box, Space

_STREAMS = (Space.SBUF, Space.SBUF)
_LONG_K = 8192
"""Columns of an operand from which on it is turned load by load."""
_BLOCKS_PER_LOAD = PIECE_COLUMNS // PARTITIONS
_MOST_BLOCKS = 1 << 40


class Sizes(NamedTuple):
    """A matmul as XLA states it, its dimensions gathered."""

    batch: int
    M: int
    K: int
    N: int

    @property
    def flops(self) -> int:
        """2 B M K N."""
        return 2 * self.batch * self.M * self.K * self.N


def dot_sizes(op: Op, left: Shape, right: Shape) -> Sizes:
    """Batch, rows, contracted and columns of a dot."""
    numbers = op.attributes.dot
    batch = math.prod([left.dimensions[one] for one in numbers.lhs_batch])
    K = math.prod([left.dimensions[one] for one in numbers.lhs_contracting])
    return Sizes(batch, left.elements // max(1, batch * K), K, right.elements // max(1, batch * K))


def dot(rec: Recorder, op: Op, left: Value, right: Value) -> Value:
    """Record a dot."""
    sizes = dot_sizes(op, left.shape, right.shape)
    if left.is_uniform and right.is_uniform:
        return reshape(rec, op.shape, left)
    numbers = op.attributes.dot
    stationary = _operand(rec, left, (list(numbers.lhs_contracting), list(numbers.lhs_batch)), sizes, sizes.M)
    moving = _operand(rec, right, (list(numbers.rhs_contracting), list(numbers.rhs_batch)), sizes, sizes.N)
    return multiply(rec, op, sizes, stationary, moving)


class Operand(NamedTuple):
    """One side of a matmul."""

    value: Value
    is_turned: bool
    """Its contracted dimension lies along the partitions once it has been turned."""


def _operand(rec: Recorder, value: Value, dimensions: tuple[list[int], list[int]], sizes: Sizes, width: int) -> Operand:
    """Through a transpose that need not be worked out: it only says along which dimensions to contract.

    Args:
        rec: The program.
        value: Left or right.
        dimensions: Contracted ones, and those of the batch.
        sizes: Of the matmul.
        width: M of the left, N of the right operand.
    """
    contracting, batch = dimensions
    if value.view == "transpose" and value.base is not None:
        contracting, batch = ([value.dimensions[one] for one in some] for some in (contracting, batch))
        value = value.base
    extents = value.shape.dimensions
    is_turned = len(extents) > 1 and len(extents) - 1 in contracting
    if is_turned:
        operand = Operand(rec.regrid(value, grid_of(sizes.batch * width, sizes.K)), is_turned=True)
        rows = [one for one in range(len(extents)) if one not in contracting and one not in batch]
    else:
        operand = Operand(rec.natural(value), is_turned=False)
        rows = contracting
    if operand.value.tiles is None:
        # The last dimension whose elements lie on partitions; what comes after it goes to the same partition.
        operand.value.row_run_elements = math.prod(extents[max(rows) + 1 :]) if rows else 1
    return operand


def multiply(rec: Recorder, op: Op, sizes: Sizes, left: Operand, right: Operand) -> Value:
    """Record the tiles of a matmul whose operands are known.

    Where the moving operand stays in SBUF, 128 rows of the result follow from 128 rows of the other one: then a matmul is one
    more op of a row-wise chain, so that what is before and after it need not be on the chip as a whole.
    """
    batch, M, K, N = sizes
    if not batch * M * N or not K:
        result = rec.new(op.shape)
        result.is_uniform = True
        return result
    width, keeps_left = _blocks(sizes, left.value.itemsize, rec.sbuf_usable_bytes)
    if not width:
        return _streamed(rec, op, sizes, (left, right))
    if width < N:
        return _in_blocks(rec, op, sizes, (left, right), width, keeps_left=keeps_left)
    result = rec.on_chip(op.shape, grid_of(batch * M, N))
    if batch > 1 and M % PARTITIONS:
        rec.flush()
        for b in range(batch):
            for m in range(0, M, PARTITIONS):
                _rows(rec, result, sizes, (left, right), (b, m, b * M + m), range(0, N, PSUM_COLUMNS))
        return result
    if right.value.pending or (left.value.pending and not left.is_turned):
        rec.flush()
    per_batch = -(-M // PARTITIONS)

    def emit(first: int, last: int) -> None:
        for row_tile in range(first, last):
            b, at = divmod(row_tile, per_batch)
            _rows(
                rec,
                result,
                sizes,
                (left, right),
                (b, at * PARTITIONS, row_tile * PARTITIONS),
                range(0, N, PSUM_COLUMNS),
            )

    rec.by_rows(result, emit, (left.value,) if left.is_turned else ())
    return result


def _in_blocks(
    rec: Recorder, op: Op, sizes: Sizes, operands: tuple[Operand, Operand], width: int, *, keeps_left: bool
) -> Value:
    """A moving operand that SBUF does not hold: some columns of it at a time, with all rows going by, results to HBM.

    The other operand is loaded and turned again for each block of columns where it does not fit beside it.
    """
    batch, M, _, N = sizes
    rec.flush()
    result = rec.hbm(op.shape, "product")
    operands = _apart(operands)
    for b in range(batch):
        for block in range(0, N, width):
            columns = min(width, N - block)
            for m in range(0, M, PARTITIONS):
                rows = min(PARTITIONS, M - m)
                part = rec.on_chip(Shape(op.shape.element_type, (rows, columns), (), rows * columns, 0))
                _rows(rec, part, sizes, operands, (b, m, 0), range(block, block + columns, PSUM_COLUMNS))
                rec.store(part, result, run_elements=columns)
                if not keeps_left:
                    _forget(operands[0].value)
    return result


def _streamed(rec: Recorder, op: Op, sizes: Sizes, operands: tuple[Operand, Operand]) -> Value:
    """K so long that neither operand stays: 3 row tiles by 1,024 columns accumulate while K goes by, as 6 of 8 PSUM banks."""
    batch, M, K, N = sizes
    rec.flush()
    result = rec.hbm(op.shape, "product")
    operands = _apart(operands)
    for b in range(batch):
        for n in range(0, N, PIECE_COLUMNS):
            columns = min(PIECE_COLUMNS, N - n)
            for first in range(0, M, STREAM_TILES_M * PARTITIONS):
                tiles = range(first, min(first + STREAM_TILES_M * PARTITIONS, M), PARTITIONS)
                banks = {
                    (m, start): rec.tile(
                        Space.PSUM, min(PARTITIONS, M - m), min(PSUM_COLUMNS, n + columns - start) * 4, "sum"
                    )
                    for m in tiles
                    for start in range(n, n + columns, PSUM_COLUMNS)
                }
                for k in range(-(-K // PARTITIONS)):
                    for (m, start), bank in banks.items():
                        _accumulate(
                            rec, sizes, operands, (b, m, k), (start, min(PSUM_COLUMNS, n + columns - start)), bank
                        )
                for m in tiles:
                    rows = min(PARTITIONS, M - m)
                    part = rec.on_chip(Shape(op.shape.element_type, (rows, columns), (), rows * columns, 0))
                    for start in range(n, n + columns, PSUM_COLUMNS):
                        width = min(PSUM_COLUMNS, n + columns - start)
                        _evacuate(rec, part, Box(banks[m, start], 0, rows, 0, width * 4), 0, rows, start - n, width)
                    rec.store(part, result, run_elements=columns)
                for operand in operands:
                    _forget(operand.value)
    return result


def _apart(operands: tuple[Operand, Operand]) -> tuple[Operand, Operand]:
    """Both sides by themselves, also of an array that is multiplied with itself: one of them is forgotten and loaded again."""
    left, right = operands
    if left.value is not right.value or left.value.hbm is None:
        return operands
    value = left.value
    copy = Value(value.shape, value.grid, value.dtype, value.itemsize)
    copy.hbm, copy.addresses, copy.row_run_elements = value.hbm, value.addresses, value.row_run_elements
    return Operand(copy, left.is_turned), right


def _forget(value: Value) -> None:
    """Let a value in HBM be loaded again: its copy on the chip has made room."""
    if value.hbm is not None:
        value.turned, value.tiles, value.whole = None, None, None


def _rows(
    rec: Recorder,
    result: Value,
    sizes: Sizes,
    operands: tuple[Operand, Operand],
    place: tuple[int, int, int],
    starts: range,
) -> None:
    """128 rows of the result, 512 columns from each of `starts`, accumulated over K.

    Args:
        rec: The program.
        result: On the chip; its first column is the first of `starts`.
        sizes: Of the whole matmul.
        operands: Both sides.
        place: Batch, first row in the batch, and first row in the result.
        starts: Columns in steps of 512.
    """
    b, m, row = place
    _, M, K, _ = sizes
    rows = min(PARTITIONS, M - m)
    for n in starts:
        columns = min(starts.step, starts.stop - n)
        bank = rec.tile(Space.PSUM, rows, columns * 4, "sum")
        for k in range(-(-K // PARTITIONS)):
            _accumulate(rec, sizes, operands, (b, m, k), (n, columns), bank)
        _evacuate(rec, result, Box(bank, 0, rows, 0, columns * 4), row, rows, n - starts.start, columns)


def _accumulate(
    rec: Recorder,
    sizes: Sizes,
    operands: tuple[Operand, Operand],
    place: tuple[int, int, int],
    columns: tuple[int, int],
    bank: int,
) -> None:
    """One matmul instruction: 128 rows of K of batch `b`, from row m on, for some columns (first, count)."""
    b, m, k = place
    n, count = columns
    batch, M, K, N = sizes
    left, right = operands
    rows, depth = min(PARTITIONS, M - m), min(PARTITIONS, K - k * PARTITIONS)
    reads = _part(rec, left, batch, b, K, M, k, m, rows)
    reads += _part(rec, right, batch, b, K, N, k, n, count)
    dtype = _matmul_type(left.value, right.value)
    work = rec.work("nc_matmul", count, depth, dtype, "float32", _STREAMS, Space.PSUM, "", rows)
    rec.emit(work, TENSOR, reads, [Box(bank, 0, rows, 0, count * 4)], accumulates=k > 0)


def _matmul_type(left: Value, right: Value) -> str:
    """The wider operand's type; whole numbers are multiplied as float32, since TensorE has no integers."""
    wide = left if left.itemsize >= right.itemsize else right
    return wide.dtype if wide.dtype.startswith(("float", "bfloat")) else "float32"


@lru_cache(4096)
def _blocks(sizes: Sizes, itemsize: int, sbuf_usable_bytes: int) -> tuple[int, bool]:
    """Columns of the moving operand that stay in SBUF while all rows go by, and whether the other one stays, too.

    0 columns: not even 512 of them fit for all of K, and both operands stream.
    """
    blocking = choose_blocking(np.array([[sizes.M, sizes.K, sizes.N]]), itemsize, sbuf_usable_bytes)
    width = int(blocking.block_tiles_n[0]) * PSUM_COLUMNS
    return (width, bool(blocking.keeps_a[0])) if width < sizes.N else (max(sizes.N, PSUM_COLUMNS), True)


def _part(
    rec: Recorder, operand: Operand, batches: int, b: int, K: int, width: int, k: int, at: int, count: int
) -> list[Box]:
    """[128 of K, `count` columns from `at`] of one batch, on the chip: what it reads."""
    value = operand.value
    item = value.itemsize
    depth = min(PARTITIONS, K - k * PARTITIONS)
    if operand.is_turned:
        # Rows of the value are (batch, column); turned tiles hold [K, 128 rows] side by side.
        boxes = []
        row = b * width + at
        while count > 0:
            row_tile, inside = divmod(row, PARTITIONS)
            taken = min(count, PARTITIONS - inside)
            tile, in_tile, first_block = _turned(rec, value, row_tile, k)
            start = ((k - first_block) * in_tile + inside) * item
            boxes.append(Box(tile, 0, depth, start, start + taken * item))
            row += taken
            count -= taken
        return boxes
    grid = value.grid
    if grid.rows != batches * K or grid.columns != width:
        # Contracted dimensions in the middle, or several: an access pattern over all of it.
        row_tile = min(grid.row_tiles - 1, (b * K + k * PARTITIONS) * grid.row_tiles // max(1, batches * K))
        return [rec.box(value, row_tile, row_tile + 1, min(grid.pieces - 1, at // PIECE_COLUMNS))]
    first, inside = divmod(b * K + k * PARTITIONS, PARTITIONS)
    boxes = []
    while depth > 0:
        taken = min(depth, PARTITIONS - inside)
        column = at
        while column < at + count:
            piece, offset = divmod(column, PIECE_COLUMNS)
            span = min(at + count - column, PIECE_COLUMNS - offset)
            whole = rec.box(value, first, first + 1, piece)
            start = whole.byte_start + offset * item
            boxes.append(Box(whole.tile, inside, inside + taken, start, start + span * item))
            column += span
        depth -= taken
        first, inside = first + 1, 0
    return boxes


def _turned(rec: Recorder, value: Value, row_tile: int, k: int) -> tuple[int, int, int]:
    """The tile with block k of a row tile turned, made at its first use; its rows, and its first block.

    It is [128 of K, blocks of K x rows], for all of K, or where that is long for as much as one load brings.
    """
    grid = value.grid
    rows = grid.partitions(row_tile)
    if value.turned is None:
        value.turned = {}
    blocks = -(-grid.columns // PARTITIONS)
    first_block = 0
    if grid.columns > _LONG_K:
        first_block = k - k % _BLOCKS_PER_LOAD
        blocks = min(_BLOCKS_PER_LOAD, blocks - first_block)
    key = row_tile * _MOST_BLOCKS + first_block
    tile = value.turned.get(key, -1)
    if tile >= 0:
        return tile, rows, first_block
    item = value.itemsize
    is_float = value.dtype.startswith(("float", "bfloat"))
    dtype = value.dtype if is_float else "float32"
    identity = rec.constant_tile("identity", dtype)
    tile = rec.tile(Space.SBUF, PARTITIONS, blocks * rows * item, "turned")
    for start in range(0, blocks, TURNED_PER_BANK):
        group = range(start, min(start + TURNED_PER_BANK, blocks))
        bank = rec.tile(Space.PSUM, PARTITIONS, len(group) * rows * 4, "turning")
        deepest = 0
        for slot, block in enumerate(group):
            column = (first_block + block) * PARTITIONS
            depth = min(PARTITIONS, grid.columns - column)
            deepest = max(deepest, depth)
            piece, offset = divmod(column, PIECE_COLUMNS)
            whole = rec.box(value, row_tile, row_tile + 1, piece)
            byte = whole.byte_start + offset * item
            rec.emit(
                turning(rows, depth, dtype),
                TENSOR,
                [Box(whole.tile, 0, rows, byte, byte + depth * item), Box(identity, 0, rows, 0, 1)],
                [Box(bank, 0, depth, slot * rows * 4, (slot + 1) * rows * 4)],
            )
        columns = len(group) * rows
        copy = rec.work("tensor_copy", columns, deepest, "float32", value.dtype, (Space.PSUM,))
        target = Box(tile, 0, deepest, start * rows * item, (start * rows + columns) * item)
        rec.emit(copy, VECTOR_SCALAR, [Box(bank, 0, deepest, 0, columns * 4)], [target])
    value.turned[key] = tile
    return tile, rows, first_block


def _evacuate(rec: Recorder, result: Value, bank: Box, row: int, rows: int, column: int, columns: int) -> None:
    """From PSUM to where the rows lie in the result."""
    item = result.itemsize
    grid = result.grid
    done = 0
    while done < columns:
        piece, offset = divmod(column + done, PIECE_COLUMNS)
        span = min(columns - done, PIECE_COLUMNS - offset)
        row_tile, inside = divmod(row, PARTITIONS)
        whole = rec.write_box(result, row_tile, row_tile + 1, piece)
        start = whole.byte_start + offset * item
        last = min(PARTITIONS, inside + rows)
        writes = [Box(whole.tile, inside, last, start, start + span * item)]
        if inside + rows > PARTITIONS and row_tile + 1 < grid.row_tiles:
            rest = rec.write_box(result, row_tile + 1, row_tile + 2, piece)
            start = rest.byte_start + offset * item
            writes.append(Box(rest.tile, 0, inside + rows - PARTITIONS, start, start + span * item))
        copy = rec.work("tensor_copy", span, rows, "float32", result.dtype, (Space.PSUM,))
        rec.emit(copy, VECTOR_SCALAR, [Box(bank.tile, 0, rows, done * 4, (done + span) * 4)], writes)
        done += span


def convolution(rec: Recorder, op: Op, left: Value, right: Value) -> Value:
    """A convolution as a matmul over windows: K is the window times the input features of a group.

    The windows are read by access patterns; moving them to partitions is counted as one DMA pass over what the windows
    read, no more than once per element of the window.
    """
    numbers = op.attributes.convolution
    features = op.shape.dimensions[numbers.output_feature]
    kernel = right.shape.dimensions
    K = max(1, right.shape.elements // max(1, kernel[numbers.kernel_output_feature]))
    places = op.shape.elements // max(1, features)
    image = rec.ready(left) if not left.is_uniform else left
    weights = rec.ready(right)
    gathered = rec.on_chip(Shape(left.shape.element_type, (K, max(1, places)), (), K * places, 0))
    rec.flush()
    if image.is_uniform:
        gathered.is_uniform = True
    else:
        move(rec, gathered, image)
    table = rec.regrid(weights, grid_of(K, features))
    sizes = Sizes(1, places, K, features)
    return multiply(rec, op, sizes, Operand(gathered, is_turned=False), Operand(table, is_turned=False))
