"""Reductions: along the free axis on VectorE; over partitions on TensorE, or by turning for what is no sum.

- Last dimensions: one `tensor_reduce` per chunk.
- Leading dimensions with more than one kept after them: slices are combined on VectorE, row tile by row tile.
- Leading dimensions else: sums are a matmul with ones, K being the rows; for other operators blocks are turned on TensorE,
  and reduced along the free axis there.
- All of it: the free axis first, then the partitions.
"""

from __future__ import annotations

import math

from npuscope.formats.hlo import HloModule, Op, Shape
from npuscope.simulate.hlo.dots import Operand, Sizes, multiply
from npuscope.simulate.hlo.layout import PARTITIONS, PIECE_COLUMNS, grid_of, row_dimensions
from npuscope.simulate.hlo.movement import reshape, turning
from npuscope.simulate.hlo.recorder import TENSOR, VECTOR, VECTOR_GPSIMD, Recorder
from npuscope.simulate.hlo.values import HbmView, Value, in_hbm, view_of
from npuscope.simulate.neuroncore.program import Box, Space, Work

_FUNCTIONS = {
    "add": "add",
    "maximum": "max",
    "minimum": "min",
    "multiply": "multiply",
    "and": "bitwise_and",
    "or": "bitwise_or",
}
_TWO = (Space.SBUF, Space.SBUF)
_FEW_ROWS = 64
"""Fewer rows than that leave most partitions idle: then the dimensions are reduced one after the other."""
_ARGUMENT_PASSES = 3
"""A reduction of pairs (argmax): the best value, where it is, and the first such place."""


def reducer(module: HloModule, op: Op) -> str:
    """The operator of a reduction; '' for a computation of several ops, such as that of argmax."""
    if not op.called:
        return ""
    computation = module.computations[op.called[0]]
    if len(computation.ops) > 4:
        return ""
    return _FUNCTIONS.get(computation.ops[computation.root].opcode, "")


def reduce(rec: Recorder, module: HloModule, op: Op, operands: list[Value]) -> Value:
    """Record a reduction of one array."""
    value = operands[0]
    function = reducer(module, op)
    shape = op.shape
    if value.is_uniform:
        return reshape(rec, op.shape, value)
    rank = len(value.shape.dimensions)
    reduced = sorted(set(op.attributes.dimensions))
    if math.prod([value.shape.dimensions[one] for one in reduced]) == 1:
        return reshape(rec, op.shape, value)
    passes = 1 if function else _ARGUMENT_PASSES
    trailing = [one for one in reduced if all(other in reduced for other in range(one, rank))]
    leading = [one for one in reduced if one not in trailing]
    if trailing:
        dimensions = value.shape.dimensions[: trailing[0]]
        value = _along_free(rec, value, len(trailing), function, shape.element_type, passes)
        if not leading and tuple(dimensions) == tuple(shape.dimensions):
            return value
    if leading:
        value = _leading(rec, op, value, leading, function, passes)
    return value if value.shape.dimensions == shape.dimensions else reshape(rec, op.shape, value)


def _leading(rec: Recorder, op: Op, value: Value, leading: list[int], function: str, passes: int) -> Value:
    """Dimensions with kept ones after them: [groups, reduced, rows, columns] to [groups, rows, columns]."""
    extents = value.shape.dimensions
    groups = math.prod(extents[: leading[0]])
    count = math.prod([extents[one] for one in leading])
    rows = value.shape.elements // max(1, groups * count * extents[-1])
    if rows <= 1:
        return _over_partitions_of(rec, value, groups, op.shape.dimensions, function or "max", passes)
    source = rec.natural(value)
    rec.flush()
    shape = Shape(op.shape.element_type, op.shape.dimensions, (), groups * rows * extents[-1], 0)
    result = rec.on_chip(shape, grid_of(groups * rows, extents[-1]))
    grid = result.grid
    for row_tile in range(grid.row_tiles):
        group, row = divmod(row_tile * PARTITIONS, rows)
        for piece in range(grid.pieces):
            write = rec.write_box(result, row_tile, row_tile + 1, piece)
            width = grid.piece_width(piece) if grid.pieces > 1 else grid.columns
            for k in range(1, count):
                there = [((group * count + index) * rows + row) // PARTITIONS for index in (k - 1, k)]
                there = [min(one, source.grid.row_tiles - 1) for one in there]
                second = rec.box(source, there[1], there[1] + 1, piece)
                first = rec.box(source, there[0], there[0] + 1, piece) if k == 1 else write
                work = rec.work(
                    "tensor_tensor", width, write.row_stop, source.dtype, result.dtype, _TWO, function=function or "max"
                )
                for _ in range(passes):
                    rec.emit(work, VECTOR_GPSIMD, [first, second], [write])
    return result


def _along_free(rec: Recorder, value: Value, count: int, function: str, element_type: str, passes: int) -> Value:
    """The last `count` dimensions: at once where they can be loaded as one, else the last one and then the others."""
    value = rec.ready(value)
    dimensions = value.shape.dimensions
    groups = math.prod(dimensions[: len(dimensions) - count])
    split = row_dimensions(dimensions, value.grid) if value.tiles is not None else None
    if split is not None and len(dimensions) - count <= split < len(dimensions) - 1:
        # On the chip with several of these dimensions along the free axis: they are one.
        source = value
        dimensions, count = (*dimensions[:split], value.grid.columns), count - (len(dimensions) - split) + 1
    elif count > 1 and value.hbm is not None and value.tiles is None and groups >= _FEW_ROWS:
        source = rec.regrid(value, grid_of(groups, value.shape.elements // groups))
        dimensions, count = (*dimensions[:-count], value.shape.elements // groups), 1
    else:
        source = value if len(dimensions) == 1 and value.grid.columns == 1 else rec.natural(value)
    if len(dimensions) == 1:
        return _column_total(rec, source, function, element_type, passes)
    first = Shape(element_type, dimensions[:-1], (), math.prod(dimensions[:-1]), 0)
    grid = source.grid
    result = rec.on_chip(first, grid_of(grid.rows, 1))

    def emit(start: int, stop: int) -> None:
        write = rec.write_box(result, start, stop)
        target = write
        if grid.pieces > 1:
            partial = rec.tile(Space.SBUF, PARTITIONS, grid.pieces * result.itemsize, "partial")
        for piece in range(grid.pieces):
            read = rec.box(source, start, stop, piece)
            elements = (read.byte_stop - read.byte_start) // source.itemsize
            if grid.pieces > 1:
                target = Box(partial, 0, read.row_stop, piece * result.itemsize, (piece + 1) * result.itemsize)
            for _ in range(passes):
                rec.emit(
                    _reducing(rec, elements, read.row_stop, source.dtype, result.dtype, function),
                    VECTOR_GPSIMD,
                    [read],
                    [target],
                )
        if grid.pieces > 1:
            whole = Box(partial, 0, write.row_stop, 0, grid.pieces * result.itemsize)
            rec.emit(
                _reducing(rec, grid.pieces, write.row_stop, result.dtype, result.dtype, function),
                VECTOR_GPSIMD,
                [whole],
                [write],
            )

    rec.by_rows(result, emit, (source,))
    if count == 1:
        return result
    kept = dimensions[: len(dimensions) - count]
    if groups == 1 or (groups <= PARTITIONS and function == "add" and result.dtype.startswith(("float", "bfloat"))):
        return _over_partitions_of(rec, result, groups, kept, function or "max", passes)
    rest = result.shape.elements // max(1, groups)
    flat = reshape(rec, Shape(element_type, (groups, rest), (), groups * rest, 0), result)
    return reshape(
        rec, Shape(element_type, kept, (), groups, 0), _along_free(rec, flat, 1, function, element_type, passes)
    )


def _reducing(rec: Recorder, elements: int, partitions: int, dtype: str, out_dtype: str, function: str) -> Work:
    return rec.work("tensor_reduce", elements, partitions, dtype, out_dtype, function=function or "max")


def _column_total(rec: Recorder, source: Value, function: str, element_type: str, passes: int) -> Value:
    """An array of one dimension to one number: along the free axis, then over the partitions."""
    grid = source.grid
    value = source
    if grid.row_tiles > 1:
        count = min(PARTITIONS, grid.rows)
        value = rec.on_chip(Shape(element_type, (count,), (), count, 0))
        rec.flush()
        for start in range(0, grid.row_tiles, grid.tiles_per_chunk):
            stop = min(start + grid.tiles_per_chunk, grid.row_tiles)
            read = rec.box(source, start, stop)
            write = rec.write_box(value, 0, 1)
            for _ in range(passes):
                work = _reducing(rec, stop - start, count, source.dtype, value.dtype, function)
                rec.emit(work, VECTOR_GPSIMD, [read] if start == 0 else [read, write], [write])
    return _over_partitions_of(rec, value, 1, (), function or "max", passes)


def _over_partitions_of(
    rec: Recorder, value: Value, groups: int, dimensions: tuple[int, ...], function: str, passes: int
) -> Value:
    """Rows of each group become one row (or, for one group of a column, one number)."""
    source = rec.ready(value)
    rec.flush()
    elements = math.prod(dimensions)
    shape = Shape(source.shape.element_type, tuple(dimensions), (), elements, 0)
    is_sum = function == "add" and source.dtype.startswith(("float", "bfloat"))
    if is_sum and source.grid.columns == 1 and 1 < elements <= PARTITIONS and source.grid.rows > 1:
        return _summed_by_mask(rec, source, shape)
    source = source if source.grid.columns == 1 and elements == 1 else rec.natural(source)
    grid = source.grid
    if is_sum:
        return _summed_by_matmul(rec, source, groups, shape)
    result = rec.on_chip(shape)
    into = result.grid
    dtype = source.dtype if source.dtype.startswith(("float", "bfloat")) else "float32"
    identity = rec.constant_tile("identity", dtype)
    for row_tile in range(grid.row_tiles):
        rows = grid.partitions(row_tile)
        for column in range(0, grid.columns, PARTITIONS):
            width = min(PARTITIONS, grid.columns - column)
            bank = rec.tile(Space.PSUM, PARTITIONS, rows * 4, "turning")
            whole = rec.box(source, row_tile, row_tile + 1, column // PIECE_COLUMNS)
            offset = whole.byte_start + column % PIECE_COLUMNS * source.itemsize
            read = Box(whole.tile, 0, rows, offset, offset + width * source.itemsize)
            turned = Box(bank, 0, width, 0, rows * 4)
            rec.emit(turning(rows, width, dtype), TENSOR, [read, Box(identity, 0, rows, 0, 1)], [turned])
            place = min(into.row_tiles - 1, column // PARTITIONS if into.columns == 1 else 0)
            write = rec.write_box(result, place, place + 1, 0)
            for _ in range(passes):
                work = rec.work("tensor_reduce", rows, width, "float32", result.dtype, (Space.PSUM,), function=function)
                reads = [turned] if row_tile == 0 else [turned, write]
                rec.emit(work, VECTOR, reads, [write])
    return result


def _summed_by_mask(rec: Recorder, source: Value, shape: Shape) -> Value:
    """A column whose rows belong to several sums: a matmul with a mask of zeros and ones, a constant of the program."""
    rows, sums = source.grid.rows, shape.elements
    mask = in_hbm(Shape(source.shape.element_type, (rows, sums), (), rows * sums, 0), -1, rows * sums, is_input=True)
    tile = rec.tile(Space.HBM, rows, sums * mask.itemsize, "mask")
    mask.hbm = HbmView(tile, rows * sums, is_input=True)
    sizes = Sizes(1, sums, rows, 1)
    return _product(rec, sizes, Operand(mask, is_turned=False), Operand(source, is_turned=False), shape)


def _summed_by_matmul(rec: Recorder, source: Value, groups: int, shape: Shape) -> Value:
    """Sum over rows: the array is stationary and ones move where one column results, else ones are stationary."""
    grid = source.grid
    rows_per_group = grid.rows // max(1, groups)
    ones, data = _ones(rec, source, grid.rows, 1), Operand(source, is_turned=False)
    if groups == 1:  # out[columns, 1] = source[K, columns].T @ ones[K, 1]
        return _product(rec, Sizes(1, grid.columns, grid.rows, 1), data, ones, shape)
    return _product(rec, Sizes(groups, 1, rows_per_group, grid.columns), ones, data, shape)


def _ones(rec: Recorder, like: Value, rows: int, columns: int) -> Operand:
    """Ones with as many rows as there are to sum: one tile serves them all."""
    value = rec.new(Shape(like.shape.element_type, (rows, columns), (), rows * columns, 0))
    tile = rec.constant_tile("ones", like.dtype)
    value.tiles = [tile] * (value.grid.chunks * value.grid.pieces)
    return Operand(value, is_turned=False)


def _product(rec: Recorder, sizes: Sizes, left: Operand, right: Operand, shape: Shape) -> Value:
    op = Op("", "dot", shape, (), (), None, b"")
    return multiply(rec, op, sizes, left, right)


def reduce_window(rec: Recorder, module: HloModule, op: Op, operands: list[Value]) -> Value:
    """Pooling, and cumulative sums: a window of a whole dimension is a scan, others take a pass per element of the window."""
    from npuscope.simulate.hlo.elementwise import one_operand

    value = operands[0]
    if value.is_uniform:
        return reshape(rec, op.shape, value)
    source = rec.ready(value)
    window = [dimension.size for dimension in op.attributes.window.dimensions]
    last = len(window) - 1
    size = math.prod(window)
    if (
        source.shape.dimensions == op.shape.dimensions
        and size == window[last] == source.shape.dimensions[last]
        and last > 0
    ):
        return one_operand(rec, op.shape, source, "tensor_tensor_scan", reducer(module, op) or "add")
    axis = next((place for place, extent in enumerate(window) if extent > 1), last)
    if source.shape.dimensions == op.shape.dimensions and 1 < size == window[axis] == source.shape.dimensions[axis]:
        return _scanned_along(rec, op, source, axis, reducer(module, op) or "add")
    source = rec.natural(source)
    result = rec.on_chip(op.shape)
    rec.flush()
    reads = [rec.box(source, *part) for part in source.grid.parts()]
    for number, part in enumerate(result.grid.parts()):
        write = rec.write_box(result, *part)
        elements = (write.byte_stop - write.byte_start) // result.itemsize * size
        work = _reducing(rec, max(1, elements), write.row_stop, source.dtype, result.dtype, reducer(module, op))
        rec.emit(work, VECTOR_GPSIMD, [reads[min(number, len(reads) - 1)]], [write])
    return result


def _scanned_along(rec: Recorder, op: Op, source: Value, axis: int, function: str) -> Value:
    """A running sum along another dimension than the last: turned, so that it runs along the free axis, and turned back."""
    from npuscope.simulate.hlo.elementwise import one_operand

    rank = len(op.shape.dimensions)
    order = (*(place for place in range(rank) if place != axis), axis)
    back = tuple(order.index(place) for place in range(rank))
    dimensions = tuple(op.shape.dimensions[place] for place in order)
    turned = Shape(op.shape.element_type, dimensions, (), op.shape.elements, op.shape.bytes)
    scanned = one_operand(rec, turned, view_of(turned, source, "transpose", order), "tensor_tensor_scan", function)
    return view_of(op.shape, scanned, "transpose", back)
