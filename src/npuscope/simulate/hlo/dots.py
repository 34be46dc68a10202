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
from npuscope.simulate.neuroncore.matmul_program import TURNED_PER_BANK, choose_blocking
from npuscope.simulate.neuroncore.program import Box, Space

_STREAMS = (Space.SBUF, Space.SBUF)


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
    stationary = _operand(rec, left, list(numbers.lhs_contracting), sizes, sizes.M)
    moving = _operand(rec, right, list(numbers.rhs_contracting), sizes, sizes.N)
    return multiply(rec, op, sizes, stationary, moving)


class Operand(NamedTuple):
    """One side of a matmul."""

    value: Value
    is_turned: bool
    """Its contracted dimension lies along the partitions once it has been turned."""


def _operand(rec: Recorder, value: Value, contracting: list[int], sizes: Sizes, width: int) -> Operand:
    """Through a transpose that need not be worked out: it only says along which dimension to contract."""
    if value.view == "transpose" and value.base is not None:
        contracting = [value.dimensions[one] for one in contracting]
        value = value.base
    rank = len(value.shape.dimensions)
    if rank > 1 and rank - 1 in contracting:
        operand = Operand(rec.regrid(value, grid_of(sizes.batch * width, sizes.K)), is_turned=True)
    else:
        operand = Operand(rec.natural(value), is_turned=False)
    if operand.value.tiles is None:
        operand.value.has_row_order = True
    return operand


def multiply(rec: Recorder, op: Op, sizes: Sizes, left: Operand, right: Operand) -> Value:
    """Record the tiles of a matmul whose operands are known."""
    batch, M, K, N = sizes
    rec.flush()
    if not batch * M * N or not K:
        result = rec.new(op.shape)
        result.is_uniform = True
        return result
    result = rec.on_chip(op.shape, grid_of(batch * M, N))
    dtype = _matmul_type(left.value, right.value)
    blocks_k = -(-K // PARTITIONS)
    width = _block_columns(sizes, left.value.itemsize, rec.sbuf_usable_bytes)
    for b in range(batch):
        for block in range(0, N, width):
            for m in range(0, M, PARTITIONS):
                rows = min(PARTITIONS, M - m)
                for n in range(block, min(block + width, N), PSUM_COLUMNS):
                    columns = min(PSUM_COLUMNS, min(block + width, N) - n)
                    bank = rec.tile(Space.PSUM, rows, columns * 4, "sum")
                    target = Box(bank, 0, rows, 0, columns * 4)
                    for k in range(blocks_k):
                        depth = min(PARTITIONS, K - k * PARTITIONS)
                        reads = _part(rec, left, sizes.batch, b, K, M, k, m, rows)
                        reads += _part(rec, right, sizes.batch, b, K, N, k, n, columns)
                        work = rec.work("nc_matmul", columns, depth, dtype, "float32", _STREAMS, Space.PSUM, "", rows)
                        rec.emit(work, TENSOR, reads, [target], accumulates=k > 0)
                    _evacuate(rec, result, target, b * M + m, rows, n, columns)
    return result


def _matmul_type(left: Value, right: Value) -> str:
    """The wider operand's type; whole numbers are multiplied as float32, since TensorE has no integers."""
    wide = left if left.itemsize >= right.itemsize else right
    return wide.dtype if wide.dtype.startswith(("float", "bfloat")) else "float32"


@lru_cache(4096)
def _block_columns(sizes: Sizes, itemsize: int, sbuf_usable_bytes: int) -> int:
    """Columns of the moving operand that stay in SBUF while all rows go by; all of them where they fit."""
    blocking = choose_blocking(np.array([[sizes.M, sizes.K, sizes.N]]), itemsize, sbuf_usable_bytes)
    tiles = int(blocking.block_tiles_n[0])
    return max(1, tiles) * PSUM_COLUMNS if tiles * PSUM_COLUMNS < sizes.N else max(sizes.N, PSUM_COLUMNS)


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
            tile, in_tile = _turned(rec, value, row_tile)
            start = (k * in_tile + inside) * item
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


def _turned(rec: Recorder, value: Value, row_tile: int) -> tuple[int, int]:
    """The tile with a row tile of a value turned: [128 of K, blocks of K x rows]; made at its first use."""
    grid = value.grid
    rows = grid.partitions(row_tile)
    if value.turned is None:
        value.turned = {}
    tile = value.turned.get(row_tile, -1)
    if tile >= 0:
        return tile, rows
    item = value.itemsize
    is_float = value.dtype.startswith(("float", "bfloat"))
    dtype = value.dtype if is_float else "float32"
    identity = rec.constant_tile("identity", dtype)
    blocks = -(-grid.columns // PARTITIONS)
    tile = rec.tile(Space.SBUF, PARTITIONS, blocks * rows * item, "turned")
    for start in range(0, blocks, TURNED_PER_BANK):
        group = range(start, min(start + TURNED_PER_BANK, blocks))
        bank = rec.tile(Space.PSUM, PARTITIONS, len(group) * rows * 4, "turning")
        deepest = 0
        for slot, k in enumerate(group):
            depth = min(PARTITIONS, grid.columns - k * PARTITIONS)
            deepest = max(deepest, depth)
            piece, offset = divmod(k * PARTITIONS, PIECE_COLUMNS)
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
    value.turned[row_tile] = tile
    return tile, rows


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
