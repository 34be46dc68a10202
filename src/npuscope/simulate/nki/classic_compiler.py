"""`neuronxcc.nki.compiler`: memory that the kernel places itself, and switches of the compiler that change no result.

A buffer with a placement is checked as the documentation states the rules (alignment, partition starts, one PSUM bank
per tile, SBUF that is free for kernels). The model of the compiler still gives tiles their memory from first write to
last use: see `place`.
"""
# ruff: noqa: ARG001 - keywords that the documented signatures have and that change nothing here

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from npuscope.simulate.neuroncore.program import Space
from npuscope.simulate.nki.trace import KernelError, current

Placement = Callable[..., tuple[int, ...]]

PARTITIONS: Final = 128
PSUM_BANKS: Final = 8
PSUM_BANK_BYTES: Final = 2048
"""Per partition (AWS Neuron documentation, `nki.compiler.psum.alloc`)."""
SBUF_USABLE_BYTES: Final = (192 - 16) * 1024
"""Per partition of NeuronCore-v2 (same, `nki.compiler.sbuf.alloc`); for where no device is given."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """What `buffer=` takes: a memory, and where in it the kernel wants its tiles."""

    space: Space
    name: str
    is_shared: bool = False
    """HBM that all programs of a launch grid see."""
    placement: Placement | None = None
    """Gives the physical place of each block; None leaves it to the compiler."""

    def auto_alloc(self) -> Buffer:
        """The compiler places the tiles."""
        return Buffer(self.space, self.name)

    def alloc(self, func: Placement) -> Buffer:
        """The kernel places each block itself.

        Args:
            func: Called as `func(idx, pdim_size, fdim_size)` with the block's index, its partitions and its bytes per
                partition; returns `(start_partition, byte_addr)` in SBUF, `(bank, start_partition, byte_addr)` in PSUM.
        """
        return Buffer(self.space, self.name, placement=func)

    def mod_alloc(
        self,
        *,
        base_bank: int = 0,
        base_addr: int = 0,
        base_partition: int = 0,
        num_bank_tiles: Sequence[int] = (),
        num_par_tiles: Sequence[int] = (),
        num_free_tiles: Sequence[int] = (),
    ) -> Buffer:
        """Blocks take turns in a few physical tiles: block i sits where block i modulo their number does.

        Args:
            base_bank: PSUM: first bank.
            base_addr: First byte within a partition.
            base_partition: First partition.
            num_bank_tiles: PSUM: banks per block dimension.
            num_par_tiles: Physical tiles along the partitions, per block dimension.
            num_free_tiles: Physical tiles along the free dimension, per block dimension.
        """

        def place(idx: tuple[int, ...], pdim_size: int, fdim_size: int) -> tuple[int, ...]:
            partition = base_partition + _turn(idx, num_par_tiles) * pdim_size
            address = base_addr + _turn(idx, num_free_tiles) * fdim_size
            if self.space is Space.PSUM:
                return base_bank + _turn(idx, num_bank_tiles), partition, address
            return partition, address

        return Buffer(self.space, self.name, placement=place)


def _turn(idx: Sequence[int], counts: Sequence[int]) -> int:
    """Number of the physical tile that block `idx` gets, of `counts` per dimension."""
    number = 0
    for position, count in zip(idx, counts or (1,) * len(idx), strict=False):
        number = number * count + position % count
    return number


sbuf: Final = Buffer(Space.SBUF, "sbuf")
psum: Final = Buffer(Space.PSUM, "psum")


def place(buffer: Buffer, blocks: Sequence[int], partitions: int, partition_bytes: int) -> None:
    """Ask a buffer's placement for every block and hold it against the documented rules.

    Args:
        buffer: Of SBUF or PSUM; nothing to do if it has no placement.
        blocks: Size of each block dimension.
        partitions: Partitions of a block.
        partition_bytes: Bytes per partition of a block.

    Raises:
        KernelError: A block does not fit where it was placed.
    """
    function = buffer.placement
    if function is None:
        return
    for idx in itertools.product(*(range(size) for size in blocks)):
        found = function(idx=idx, pdim_size=partitions, fdim_size=partition_bytes)
        bank, start, address = (0, *found) if buffer.space is Space.SBUF else found
        _check_partition(start, partitions)
        if buffer.space is Space.PSUM:
            if not 0 <= bank < PSUM_BANKS:
                raise KernelError(f"psum: block {idx} is placed in bank {bank}; there are banks 0 to {PSUM_BANKS - 1}")
            if address + partition_bytes > PSUM_BANK_BYTES:
                raise KernelError(
                    f"psum: block {idx} ends at byte {address + partition_bytes:,} of its bank,"
                    f" which has {PSUM_BANK_BYTES:,} per partition"
                )
        else:
            # A kernel that places its tiles itself may use all of a partition, as the vendor's own do.
            core = getattr(current().device, "core", None)
            usable = core.sbuf_bytes // core.partitions if core is not None else SBUF_USABLE_BYTES
            if address < 0 or address + partition_bytes > usable:
                raise KernelError(
                    f"sbuf: block {idx} takes bytes {address:,} to {address + partition_bytes:,} of each partition;"
                    f" kernels may use {usable:,}"
                )


def _check_partition(start: int, partitions: int) -> None:
    """A tile of more than 64 partitions starts at 0, of more than 32 at 0 or 64, smaller ones at a multiple of 32."""
    step = PARTITIONS if partitions > 64 else 64 if partitions > 32 else 32
    if start % step or not 0 <= start <= PARTITIONS - min(partitions, PARTITIONS):
        raise KernelError(f"a tile of {partitions} partitions cannot start at partition {start}")


def _switch(func: Any) -> Any:
    """A decorator that leaves the kernel as it is, with or without arguments."""
    return func if func is not None else _switch


def enable_stack_allocator(func: Any = None, log_level: int = 50) -> Any:
    """Leaves the kernel as it is: the model of the compiler has one way to place tiles."""
    return _switch(func)


def force_auto_alloc(func: Any = None) -> Any:
    """Leaves the kernel as it is: placements of the kernel are checked, not followed."""
    return _switch(func)


def skip_middle_end_transformations(func: Any = None) -> Any:
    """Leaves the kernel as it is: the model of the compiler transforms no loop."""
    return _switch(func)


@contextmanager
def allocation_scope(*arguments: Any, **options: Any) -> Iterator[None]:
    """A block whose tiles the compiler would place together; no effect here."""
    yield


class Directive:
    """A wish about a loop, given as `directives=`; kept for its name only. Also works as a `with` block."""

    def __init__(self, name: str, factor: int = 1) -> None:
        self.name = name
        self.factor = factor

    def __enter__(self) -> Directive:
        return self

    def __exit__(self, *error: object) -> None:
        return None


def multi_buffer(factor: int = 2) -> Directive:
    """Asks for `factor` buffers; how many there are is an option of the simulation (`--buffers`)."""
    return Directive("multi_buffer", factor)


def no_reorder() -> Directive:
    """Asks for program order; how far instructions move is an option of the simulation (`--window`)."""
    return Directive("no_reorder")


def partition_bytes(shape: Sequence[int], axis: int, itemsize: int) -> int:
    """Bytes per partition of a tile whose partition axis is `axis`."""
    return math.prod(shape[axis + 1 :]) * itemsize


__all__ = [
    "allocation_scope",
    "enable_stack_allocator",
    "force_auto_alloc",
    "multi_buffer",
    "no_reorder",
    "psum",
    "sbuf",
    "skip_middle_end_transformations",
]
