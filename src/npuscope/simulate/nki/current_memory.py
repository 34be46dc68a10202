"""Tensors that a kernel of the current dialect creates, with or without an address of its own.

Tiles without an address are placed by the compiler, which spills what does not fit (AWS Neuron documentation, "NKI
memory hierarchy"), so only a tile that is too large by itself is an error. An address is `(partition, byte)`. Tiles of
one address and size are the same memory, so that an instruction waits for those that use it under another name; to read
a tile after another one has been written over it is an error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

from npuscope.simulate.neuroncore.program import Space
from npuscope.simulate.nki.classic_compiler import PARTITIONS, PSUM_BANK_BYTES, PSUM_BANKS, SBUF_USABLE_BYTES
from npuscope.simulate.nki.current_registers import address_of
from npuscope.simulate.nki.current_tensor import SPACES, MemoryRegion, NkiTensor, as_nki, mark_shared
from npuscope.simulate.nki.dtypes import Dtype, as_dtype
from npuscope.simulate.nki.storage import Storage
from npuscope.simulate.nki.tensors import Tensor, hbm_tensor, new_tile
from npuscope.simulate.nki.trace import KernelError, current, current_line

PSUM_BYTES: Final = PSUM_BANKS * PSUM_BANK_BYTES
"""Per partition."""
_PLACED: Final = "current.placed"
"""Key of `Trace.state`: the memory that the kernel gave addresses in."""


def sbuf_bytes() -> int:
    """SBUF that a kernel may use, per partition."""
    return int(getattr(current().device, "sbuf_usable_bytes", SBUF_USABLE_BYTES))


@dataclass(eq=False, slots=True)
class _Region:
    """A piece of memory with an address."""

    space: Space
    partitions: tuple[int, int]
    """Start and stop."""
    bytes: tuple[int, int]
    """Start and stop within a partition."""
    tile: int = -1
    """Number of the logical tile that all allocations here share."""
    owner: Storage | None = None
    """The allocation that was written last."""
    neighbours: list[_Region] = field(default_factory=list)
    """Regions that overlap this one."""

    def overlaps(self, other: _Region) -> bool:
        """Whether both have memory in common."""
        return (
            self.space is other.space
            and self.partitions[0] < other.partitions[1]
            and other.partitions[0] < self.partitions[1]
            and self.bytes[0] < other.bytes[1]
            and other.bytes[0] < self.bytes[1]
        )


@dataclass(slots=True)
class _Placed:
    """All memory that has addresses."""

    regions: dict[tuple[Any, ...], _Region] = field(default_factory=dict)
    of_storage: dict[Storage, _Region] = field(default_factory=dict)


def note_read(opcode: str, tensor: Tensor) -> None:
    """Check that a tile with an address still holds its own values.

    Raises:
        KernelError: Another tile was written over it.
    """
    placed = current().state.get(_PLACED)
    if placed is None:
        return
    region = placed.of_storage.get(tensor.storage.root)
    if region is not None and region.owner is not None and region.owner is not tensor.storage.root:
        raise KernelError(
            f"{opcode}: tile {tensor.name!r} at partition {region.partitions[0]}, byte {region.bytes[0]:,} is read"
            f" after {region.owner.name!r} was written over it"
        )


def note_write(tensor: Tensor) -> None:
    """Remember which tile was written last where addresses overlap."""
    placed = current().state.get(_PLACED)
    if placed is None:
        return
    root = tensor.storage.root
    region = placed.of_storage.get(root)
    if region is not None:
        region.owner = root
        for other in region.neighbours:
            other.owner = root


def _place(space: Space, address: Any, rows: int, row_bytes: int) -> _Region:
    """The region at an address.

    Raises:
        KernelError: It leaves the memory, or begins in the middle of a PSUM bank.
    """
    if not isinstance(address, (tuple, list)) or len(address) != 2:
        raise KernelError(f"ndarray: address={address!r} is no (partition, byte)")
    partition, start = address_of(address[0]), address_of(address[1])
    name, limit = ("SBUF", sbuf_bytes()) if space is Space.SBUF else ("PSUM", PSUM_BYTES)
    if partition < 0 or partition + rows > PARTITIONS:
        raise KernelError(
            f"ndarray: tile takes partitions {partition} to {partition + rows}; there are {PARTITIONS}",
        )
    if start < 0 or start + row_bytes > limit:
        raise KernelError(
            f"ndarray: tile takes bytes {start:,} to {start + row_bytes:,} of each {name} partition;"
            f" kernels may use {limit:,}"
        )
    if space is Space.PSUM and start % PSUM_BANK_BYTES:
        raise KernelError(f"ndarray: byte {start:,} of PSUM is not the start of a bank of {PSUM_BANK_BYTES:,}")
    placed = current().state.setdefault(_PLACED, _Placed())
    key = (space, partition, start, rows, row_bytes)
    region: _Region | None = placed.regions.get(key)
    if region is None:
        region = _Region(space, (partition, partition + rows), (start, start + row_bytes))
        for other in placed.regions.values():
            if region.overlaps(other):
                region.neighbours.append(other)
                other.neighbours.append(region)
        placed.regions[key] = region
    return region


def _sizes(function: str, shape: Any) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    found = tuple([size if type(size) is int else address_of(size) for size in sizes])
    if not found or min(found) < 1:
        raise KernelError(f"{function}: shape {list(found)} has an empty dimension")
    return found


def _on_chip(shape: tuple[int, ...], dtype: Dtype, space: Space, name: str, address: Any) -> NkiTensor:
    rows, row_bytes = shape[0], math.prod(shape[1:]) * dtype.itemsize
    if rows > PARTITIONS:
        raise KernelError(f"ndarray: tile has {rows} partitions, at most {PARTITIONS}")
    if space is Space.PSUM and row_bytes > PSUM_BYTES:
        raise KernelError(f"ndarray: tile has {row_bytes:,} bytes per partition; PSUM has {PSUM_BYTES:,}")
    if space is Space.SBUF and row_bytes > sbuf_bytes():
        raise KernelError(f"ndarray: tile has {row_bytes:,} bytes per partition; kernels may use {sbuf_bytes():,}")
    region = None if address is None else _place(space, address, rows, row_bytes)
    line = current_line()
    tile = new_tile(shape, dtype, space, name=name or line, site=(line, shape), is_zeroed=space is Space.PSUM)
    if region is not None:
        root = tile.storage.root
        if region.tile < 0:
            region.tile = root.tile(0)
        root.tiles[0] = region.tile
        current().state[_PLACED].of_storage[root] = region
    found: NkiTensor = as_nki(tile)
    return found


def _in_hbm(shape: tuple[int, ...], dtype: Dtype, name: str, *, is_shared: bool) -> NkiTensor:
    """A tensor in HBM; a shared one is the same for both cores."""
    trace = current()
    number = trace.allocated
    if is_shared and number < len(trace.shared):
        tensor: Tensor = trace.shared[number]
        if tensor.shape != shape or tensor.dtype != dtype:
            raise KernelError("the cores create different shared_hbm tensors")
    else:
        tensor = hbm_tensor(shape, dtype, name or current_line(), is_external=is_shared)
        if is_shared:
            trace.shared.append(tensor)
    if is_shared:
        trace.allocated += 1
        mark_shared(tensor.storage)
    found: NkiTensor = as_nki(tensor)
    return found


def ndarray(shape: Any, dtype: Any, buffer: Any = MemoryRegion.sbuf, name: str = "", address: Any = None) -> NkiTensor:
    """A new tensor without values.

    Args:
        shape: Its sizes; on the chip the partitions first.
        dtype: Element type.
        buffer: `nl.sbuf`, `nl.psum`, `nl.private_hbm` or `nl.shared_hbm`.
        name: For messages and the timeline.
        address: `(partition, byte)` on the chip; by default the compiler chooses.

    Raises:
        KernelError: It does not fit its memory.
    """
    sizes, element = _sizes("ndarray", shape), as_dtype(dtype)
    space = SPACES.get(buffer) if isinstance(buffer, MemoryRegion) else None
    if space is None:
        raise KernelError(f"ndarray: buffer={buffer!r} is no memory; use nl.sbuf, nl.psum or nl.shared_hbm")
    if space is Space.HBM:
        if address is not None:
            raise KernelError("ndarray: a tensor in HBM takes no address")
        return _in_hbm(sizes, element, name, is_shared=buffer is MemoryRegion.shared_hbm)
    return _on_chip(sizes, element, space, name, address)


def empty_like(x: NkiTensor, dtype: Any = None, buffer: Any = None, name: str = "") -> NkiTensor:
    """A new tensor of the shape, and by default the type and memory, of another."""
    return ndarray(x.shape, x.dtype if dtype is None else dtype, x.buffer if buffer is None else buffer, name)


def is_hbm(buffer: Any) -> bool:
    """Whether a memory region is HBM, private or shared."""
    return buffer in (MemoryRegion.private_hbm, MemoryRegion.shared_hbm)


def is_psum(buffer: Any) -> bool:
    """Whether a memory region is PSUM."""
    return buffer is MemoryRegion.psum


def is_sbuf(buffer: Any) -> bool:
    """Whether a memory region is SBUF."""
    return buffer is MemoryRegion.sbuf


def is_on_chip(buffer: Any) -> bool:
    """Whether a memory region is SBUF or PSUM."""
    return is_sbuf(buffer) or is_psum(buffer)
