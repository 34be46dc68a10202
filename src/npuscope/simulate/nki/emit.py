"""From tensors to instructions: what an engine or a DMA has to do, and the memory that it touches.

The hot path of a trace. Values are computed by the caller; nothing here looks at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from npuscope.simulate.neuroncore.program import Box, Engine, Space, Transfer, Work
from npuscope.simulate.nki import trace as tracing
from npuscope.simulate.nki.access import row_major
from npuscope.simulate.nki.dtypes import Dtype, dtype_name
from npuscope.simulate.nki.isa_enums import CORE_ENGINES
from npuscope.simulate.nki.storage import NOTHING, Storage
from npuscope.simulate.nki.tensors import Tensor
from npuscope.simulate.nki.trace import KernelError, current_line

TENSOR: Final = (Engine.TENSOR,)
VECTOR: Final = (Engine.VECTOR,)
SCALAR: Final = (Engine.SCALAR,)
GPSIMD: Final = (Engine.GPSIMD,)
DMA: Final = (Engine.DMA,)
VECTOR_SCALAR: Final = (Engine.VECTOR, Engine.SCALAR)
VECTOR_GPSIMD: Final = (Engine.VECTOR, Engine.GPSIMD)
VECTOR_SCALAR_GPSIMD: Final = (Engine.VECTOR, Engine.SCALAR, Engine.GPSIMD)

MAX_PARTITIONS: Final = 128
DOUBLE_ROW: Final = "double_row"
"""Function of a matmul that contracts two rows per partition."""

_names: dict[Dtype, str] = {}


def name_of(dtype: Dtype) -> str:
    """`dtype_name`, remembered: NumPy composes a name anew at every call."""
    if dtype.metadata:
        return dtype_name(dtype)
    name = _names.get(dtype)
    if name is None:
        name = _names[dtype] = dtype_name(dtype)
    return name


def fresh(shape: tuple[int, ...], dtype: Dtype, space: Space, line: str, opcode: str, par: int = 0) -> Tensor:
    """A tile for the result of one instruction.

    Raises:
        KernelError: It would have more than 128 partitions.
    """
    if shape[par] > MAX_PARTITIONS:
        raise KernelError(f"{opcode}: the result has {shape[par]} partitions, at most {MAX_PARTITIONS}", line)
    storage = Storage(shape, dtype, space, par, line, (line, opcode, shape))
    return Tensor(storage, dtype, shape, row_major(shape), 0, par)


def _fresh_boxes(tile: Tensor) -> tuple[Box, ...]:
    """`boxes` of a tile of one block that nothing has touched yet."""
    storage = tile.storage
    if storage.blocks != 1:
        return tile.boxes()
    row_bytes = storage.row_elements * storage.dtype.itemsize
    number = storage.tiles[0] = tracing.current().builder.tile(
        storage.space, storage.rows, row_bytes, name=storage.name, site=storage.site
    )
    return (Box(number, 0, storage.rows, 0, row_bytes),)


def on_chip(opcode: str, **operands: Any) -> None:
    """Check that operands are tiles in SBUF or PSUM with at most 128 partitions.

    Raises:
        KernelError: One is not; the message names it.
    """
    for name, operand in operands.items():
        if not isinstance(operand, Tensor):
            raise KernelError(f"{opcode}: {name} must be a tile, not {type(operand).__name__}")
        if operand.storage.space is Space.HBM:
            raise KernelError(f"{opcode}: {name} is in HBM; load it into SBUF first")
        if operand.partitions > MAX_PARTITIONS:
            raise KernelError(f"{opcode}: {name} has {operand.partitions} partitions, at most {MAX_PARTITIONS}")


def pick(chosen: Any, allowed: tuple[Engine, ...], opcode: str, *tiles: Tensor) -> tuple[Engine, ...]:
    """The engines that may run an instruction.

    Args:
        chosen: The kernel's `engine=`; unknown leaves the choice to the compiler.
        allowed: Those that know the operation.
        opcode: For the message.
        tiles: All that the instruction touches: GpSimd cannot access PSUM.

    Raises:
        KernelError: The chosen engine cannot run it.
    """
    number = CORE_ENGINES.get(chosen)
    if number is None:
        if Engine.GPSIMD in allowed and len(allowed) > 1 and any(t.storage.space is Space.PSUM for t in tiles):
            return tuple([one for one in allowed if one is not Engine.GPSIMD])
        return allowed
    if number not in allowed:
        names = " or ".join(one.name.capitalize() for one in allowed)
        raise KernelError(f"{opcode}: engine {number.name.lower()} cannot run it; {names} can")
    if number is Engine.GPSIMD and any(t.storage.space is Space.PSUM for t in tiles):
        raise KernelError(f"{opcode}: engine gpsimd cannot access PSUM")
    return (number,)


def reads_of(tiles: Sequence[Tensor]) -> list[Box]:
    """Boxes that reading `tiles` touches, with those of the tiles that hold their addresses."""
    found: list[Box] = []
    for tile in tiles:
        found.extend(tile.boxes())
        if tile.terms:
            for index in tile.indices:
                found.extend(index.boxes())
    return found


def instruction(
    opcode: str,
    engines: tuple[Engine, ...],
    streams: Sequence[Tensor],
    dst: Tensor,
    *,
    scalars: Sequence[Tensor] = (),
    function: str = "",
    elements: int = 0,
    columns: int = 0,
    also_writes: Sequence[Tensor] = (),
    mask: Any = None,
    line: str = "",
    is_fresh: bool = False,
) -> int:
    """Record one instruction of a compute engine.

    Args:
        opcode: As `nki.isa` calls it.
        engines: Those that may run it.
        streams: Tiles that are read element by element; the first sets the size.
        dst: Where the result goes.
        scalars: Tiles of one element per partition, and tiles that are not streamed.
        function: ALU or activation function, for the cost.
        elements: Elements per partition, where it is not that of the first stream.
        columns: A second size, for costs that know one.
        also_writes: Further results, such as a reduction beside the elementwise one.
        mask: Only the smallest box around it is touched; an empty one skips the instruction.
        line: The kernel's line, where the caller has it already.
        is_fresh: `dst` was made for this result, so that storing it elsewhere costs no copy.

    Returns:
        Number of the instruction; -1 where the mask is empty.
    """
    if mask is not None:
        sources = [tile.masked(mask) for tile in streams]
        target = dst.masked(mask) if not streams or dst.shape == streams[0].shape else dst
        if any(not tile.size for tile in (*sources, target)):
            if is_fresh:
                dst.storage.writer, dst.storage.mask = NOTHING, mask
            return -1
        scalars = [_scalar_rows(tile, sources[0] if sources else target, mask) for tile in scalars]
        streams, is_whole = sources, target.size == dst.size
    else:
        target, is_whole = dst, True
    work = _work(opcode, function, elements, columns, target, streams)
    reads = reads_of(streams)
    if scalars:
        reads += reads_of(scalars)
    writes: list[Box] = []
    for other in also_writes:
        writes.extend(other.boxes())
    writes.extend(_fresh_boxes(dst) if is_fresh and target is dst else target.boxes())
    if target.terms:
        reads += [box for index in target.indices for box in index.boxes()]
    number = tracing.current().builder.instruction(work, engines, reads, writes, line or current_line())
    if is_fresh:
        dst.storage.writer = number
        if not is_whole:
            dst.storage.mask = mask
    return number


_works: dict[tuple[Any, ...], tuple[Work, Any]] = {}
"""By what an instruction looks like; the types are kept, so that no other takes their identity."""


def _work(opcode: str, function: str, elements: int, columns: int, target: Tensor, streams: Sequence[Tensor]) -> Work:
    """What an instruction does, which is the same for all tiles of these shapes, strides and types."""
    key: tuple[Any, ...] = (opcode, function, elements, columns, target.storage.space)
    key += (target.shape, target.strides, id(target.dtype))
    for tile in streams:
        key += (tile.shape, tile.strides, id(tile.dtype), tile.storage.space, tile.par)
    found = _works.get(key)
    if found is not None:
        return found[0]
    first = streams[0] if streams else target
    widest = max([tile.dtype for tile in streams] or [target.dtype], key=lambda dtype: dtype.itemsize)
    work = Work(
        opcode,
        elements or first.elements,
        first.partitions,
        name_of(widest),
        name_of(target.dtype),
        tuple([tile.storage.space for tile in streams]),
        target.storage.space,
        all(tile.contiguous for tile in (target, *streams)),
        function,
        columns,
    )
    _works[key] = work, [target.dtype, *[tile.dtype for tile in streams]]
    return work


def _scalar_rows(tile: Tensor, first: Tensor, mask: Any) -> Tensor:
    """The partitions of a tile of one element per partition that a masked instruction reads."""
    if tile.bounds:
        return tile.masked(mask)
    return tile[: first.partitions] if tile.ndim and tile.shape[0] > first.partitions else tile


def matmul(
    stationary: Tensor, moving: Tensor, dst: Tensor, *, is_transpose: bool, line: str, function: str = ""
) -> int:
    """Record one nc_matmul into a fresh tile in PSUM.

    Args:
        stationary: [K, M] in SBUF.
        moving: [K, N] in SBUF.
        dst: [M, N] in PSUM.
        is_transpose: The moving tile is an identity.
        line: The kernel's line.
        function: `onezero` where the kernel promises that an operand has only ones and zeros; `DOUBLE_ROW` for tiles of
            shape [K, 2, M] and [K, 2, N], contracted along both.
    """
    key = (
        stationary.shape,
        stationary.strides,
        id(stationary.dtype),
        moving.shape,
        moving.strides,
        id(moving.dtype),
        id(dst.dtype),
        is_transpose,
        function,
    )
    found = _matmuls.get(key)
    if found is None:
        work = _matmul_work(stationary, moving, dst.dtype, is_transpose=is_transpose, function=function)
        found = _matmuls[key] = work, (stationary.dtype, moving.dtype, dst.dtype)
    reads = stationary.boxes() + moving.boxes()
    if stationary.terms or moving.terms:
        reads = tuple(reads_of((stationary, moving)))
    writes = _fresh_boxes(dst) if not dst.storage.tiles else dst.boxes()
    number = tracing.current().builder.instruction(found[0], TENSOR, reads, writes, line)
    dst.storage.writer = number
    return number


_matmuls: dict[tuple[Any, ...], tuple[Work, Any]] = {}


def _matmul_work(stationary: Tensor, moving: Tensor, out: Dtype, *, is_transpose: bool, function: str) -> Work:
    k, m, n = stationary.shape[0], stationary.elements, moving.elements
    pair = 2 if function == DOUBLE_ROW else 1
    m, n = m // pair, n // pair
    wide = stationary.dtype if stationary.dtype.itemsize >= moving.dtype.itemsize else moving.dtype
    return Work(
        "nc_matmul",
        n,
        k,
        name_of(wide),
        name_of(out),
        (stationary.storage.space, moving.storage.space),
        Space.PSUM,
        stationary.contiguous and moving.contiguous,
        function,
        m,
        is_transpose,
        2 * pair * k * m * n,
    )


_pieces: dict[tuple[Any, ...], tuple[int, int]] = {}


def _runs(dst: Tensor, src: Tensor) -> tuple[int, int]:
    """Descriptors of a DMA, and bytes of each on the narrower side: what is contiguous on both sides is one piece."""
    key = (dst.shape, dst.strides, dst.dtype.itemsize, dst.storage.space, src.shape, src.strides, src.dtype.itemsize)
    if not dst.terms and not src.terms:
        found = _pieces.get(key)
        if found is not None:
            return found
    if src.storage.space is Space.HBM:
        near, far = dst, src
    else:
        near, far = src, dst
    near_bytes = near.runs()[1]
    count, piece = far.runs(near_bytes // near.dtype.itemsize * far.dtype.itemsize)
    pieces = count, piece // far.dtype.itemsize * min(near.dtype.itemsize, far.dtype.itemsize)
    if not dst.terms and not src.terms:
        _pieces[key] = pieces
    return pieces


def transfer(
    dst: Tensor,
    src: Tensor,
    *,
    line: str = "",
    is_transpose: bool = False,
    adds: bool = False,
    is_fresh: bool = False,
) -> int:
    """Record one DMA between any two memories; the type may change on the way.

    A transpose moves element by element, except 16-bit types from v3 on, whose DMA engines transpose rows (assumed).

    Args:
        dst: Where it writes; as many elements as `src`.
        src: What it reads.
        line: The kernel's line, where the caller has it already.
        is_transpose: Axes change places on the way.
        adds: It reads the destination and adds to it.
        is_fresh: `dst` was made for this result.

    Returns:
        Number of the instruction; -1 where there is nothing to move.
    """
    size = src.size
    if not size:
        return -1
    narrow = min(src.dtype.itemsize, dst.dtype.itemsize)
    trace = tracing.current()
    if is_transpose:
        by_rows = narrow == 2 and trace.nc_version >= 3
        runs, run_bytes = src.runs() if by_rows else (size, narrow)
    else:
        runs, run_bytes = _runs(dst, src)
    written = size * dst.dtype.itemsize
    work = Transfer(
        runs,
        run_bytes,
        size * src.dtype.itemsize + (written if adds else 0),
        written,
        src.storage.space,
        dst.storage.space,
        is_transpose,
        src.is_indirect or dst.is_indirect,
    )
    reads = reads_of((src,))
    if dst.terms:
        reads += [box for index in dst.indices for box in index.boxes()]
    writes = dst.boxes()
    if adds:
        reads += writes
    number = trace.builder.instruction(work, DMA, reads, writes, line or current_line())
    if is_fresh:
        dst.storage.writer = number
    return number
