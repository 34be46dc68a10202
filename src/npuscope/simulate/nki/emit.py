"""From tensors to instructions: what an engine or a DMA has to do, and the memory that it touches.

The hot path of a trace. Values are computed by the caller; nothing here looks at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from npuscope.simulate.neuroncore.program import Box, Engine, Space, Transfer, Work
from npuscope.simulate.nki import trace as tracing
from npuscope.simulate.nki.dtypes import Dtype, dtype_name
from npuscope.simulate.nki.geometry import Geometry, whole_of
from npuscope.simulate.nki.index import Mask
from npuscope.simulate.nki.isa_enums import CORE_ENGINES
from npuscope.simulate.nki.storage import NOTHING, Storage
from npuscope.simulate.nki.tensors import Tensor, view_at
from npuscope.simulate.nki.trace import KernelError, current_line, of_one_trace

TENSOR: Final = (Engine.TENSOR,)
VECTOR: Final = (Engine.VECTOR,)
SCALAR: Final = (Engine.SCALAR,)
GPSIMD: Final = (Engine.GPSIMD,)
DMA: Final = (Engine.DMA,)
VECTOR_SCALAR: Final = (Engine.VECTOR, Engine.SCALAR)
VECTOR_GPSIMD: Final = (Engine.VECTOR, Engine.GPSIMD)
VECTOR_SCALAR_GPSIMD: Final = (Engine.VECTOR, Engine.SCALAR, Engine.GPSIMD)

MAX_PARTITIONS: Final = 128
_ROW_TRANSPOSE_BYTES: Final = 2
"""Element size that DMA engines transpose by rows, from v3 on."""
DOUBLE_ROW: Final = "double_row"
"""Function of a matmul that contracts two rows per partition."""

_new_box = tuple.__new__
"""Without the detour of a named tuple's own constructor."""


def name_of(dtype: Dtype) -> str:
    """The name that costs are kept by."""
    return dtype_name(dtype)


def fresh(shape: tuple[int, ...], dtype: Dtype, space: Space, line: str, opcode: str, par: int = 0) -> Tensor:
    """A tile for the result of one instruction.

    Raises:
        KernelError: It would have more than 128 partitions.
    """
    if shape[par] > MAX_PARTITIONS:
        raise KernelError(f"{opcode}: the result has {shape[par]} partitions, at most {MAX_PARTITIONS}", line)
    return fresh_of(whole_of(shape, dtype, space, par), line, opcode)


def fresh_of(geometry: Geometry, line: str, opcode: str) -> Tensor:
    """A tile for the result of one instruction, of a geometry that is known to be right."""
    return view_at(Storage(geometry, line, (line, opcode, geometry.shape)), geometry, 0)


def _fresh_boxes(tile: Tensor) -> tuple[Box, ...]:
    """`boxes` of a tile of one block that nothing has touched yet."""
    storage, geometry = tile.storage, tile.geometry
    pieces = geometry.pieces.get(0) or geometry.find_pieces(0)
    if len(pieces) != 1:
        return tile.boxes()
    ((_, row, rows, byte, row_bytes),) = pieces
    number = storage.tiles[0] = tracing.current().builder.tile(
        geometry.space, rows, row_bytes, name=storage.name, site=storage.site
    )
    return (_new_box(Box, (number, row, rows, byte, row_bytes)),)


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
        found += tile.boxes()
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
        if not is_whole or (isinstance(mask, Mask) and not mask.fills_box()):
            dst.storage.mask = mask
    return number


_works: dict[tuple[Any, ...], Work] = of_one_trace({})
"""By what an instruction looks like."""


def _work(opcode: str, function: str, elements: int, columns: int, target: Tensor, streams: Sequence[Tensor]) -> Work:
    """What an instruction does, which is the same for all tiles of these shapes, strides and types."""
    key = (opcode, function, elements, columns, target.geometry, *[tile.geometry for tile in streams])
    found = _works.get(key)
    if found is not None:
        return found
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
    _works[key] = work
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
    key = (stationary.geometry, moving.geometry, dst.geometry, is_transpose, function)
    work = _matmuls.get(key)
    if work is None:
        work = _matmul_work(stationary, moving, dst.dtype, is_transpose=is_transpose, function=function)
        _matmuls[key] = work
    reads = stationary.boxes() + moving.boxes()
    if stationary.terms or moving.terms:
        reads = tuple(reads_of((stationary, moving)))
    writes = _fresh_boxes(dst) if not dst.storage.tiles else dst.boxes()
    number = tracing.current().builder.instruction(work, TENSOR, reads, writes, line)
    dst.storage.writer = number
    return number


_matmuls: dict[tuple[Any, ...], Work] = of_one_trace({})


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


def _runs(dst: Tensor, src: Tensor) -> tuple[int, int]:
    """Descriptors of a DMA, and bytes of each on the narrower side: what is contiguous on both sides is one piece."""
    if src.storage.space is Space.HBM:
        near, far = dst, src
    else:
        near, far = src, dst
    near_bytes = near.runs()[1]
    count, piece = far.runs(near_bytes // near.dtype.itemsize * far.dtype.itemsize)
    return count, piece // far.dtype.itemsize * min(near.dtype.itemsize, far.dtype.itemsize)


_transfers: dict[tuple[Any, ...], Transfer] = of_one_trace({})
"""By the geometry of both sides, where no indices decide."""


def transfer_work(
    dst: Tensor, src: Tensor, *, is_transpose: bool = False, adds: bool = False, by_rows: bool = False
) -> Transfer:
    """What a DMA has to do.

    Args:
        dst: Where it writes; as many elements as `src`.
        src: What it reads.
        is_transpose: Axes change places on the way.
        adds: It reads the destination and adds to it.
        by_rows: The DMA engines can transpose rows of 16-bit elements.
    """
    size, narrow = src.size, min(src.dtype.itemsize, dst.dtype.itemsize)
    if is_transpose:
        runs, run_bytes = src.runs() if by_rows and narrow == _ROW_TRANSPOSE_BYTES else (size, narrow)
    else:
        runs, run_bytes = _runs(dst, src)
    written = size * dst.dtype.itemsize
    return Transfer(
        runs,
        run_bytes,
        size * src.dtype.itemsize + (written if adds else 0),
        written,
        src.storage.space,
        dst.storage.space,
        is_transpose,
        bool(src.is_indirect or dst.is_indirect),
    )


def fetch(src: Tensor, geometry: Geometry, work: Transfer, line: str) -> Tensor:
    """Record the DMA of a load into a fresh tile, both of a kind that was loaded before.

    Args:
        src: In HBM, without indirect indices.
        geometry: Of the tile.
        work: What the DMA has to do.
        line: The kernel's line.
    """
    tile = fresh_of(geometry, line, "load")
    builder = tracing.current().builder
    tile.storage.writer = builder.instruction(work, DMA, src.boxes(), _fresh_boxes(tile), line)
    return tile


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
    if not src.geometry.size:
        return -1
    trace = tracing.current()
    by_rows = is_transpose and trace.nc_version >= 3
    is_dense = not src.terms and not dst.terms
    key = (dst.geometry, src.geometry, is_transpose, adds, by_rows)
    work = _transfers.get(key) if is_dense else None
    if work is None:
        work = transfer_work(dst, src, is_transpose=is_transpose, adds=adds, by_rows=by_rows)
        if is_dense:
            _transfers[key] = work
    reads: Sequence[Box] = src.boxes() if is_dense else reads_of((src,))
    if dst.terms:
        reads = [*reads, *(box for index in dst.indices for box in index.boxes())]
    writes = dst.boxes()
    if adds:
        reads = [*reads, *writes]
    number = trace.builder.instruction(work, DMA, reads, writes, line or current_line())
    if is_fresh:
        dst.storage.writer = number
    return number
