"""Memory of a kernel's tensors: one allocation in HBM, SBUF or PSUM, and the logical tiles that it stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.hardware.host import available_memory_bytes
from npuscope.simulate.neuroncore.program import Box
from npuscope.simulate.nki import trace as tracing
from npuscope.simulate.nki.geometry import Geometry
from npuscope.simulate.nki.trace import KernelError
from npuscope.units import format_bytes

NOTHING = -2
"""Writer of a fresh tile whose mask left no instruction to run."""


_MAX_ELEMENTS = 1 << 46
"""Of a tensor in HBM, far more than any device has."""
_SMALL_BYTES = 1 << 28
"""Up to this size it is not worth asking how much memory there is."""


def check_size(geometry: Geometry) -> None:
    """Refuse a tensor in HBM that no device holds, or whose values this machine cannot.

    Raises:
        KernelError: It is too large.
    """
    if geometry.size > _MAX_ELEMENTS:
        raise KernelError(f"a tensor of {list(geometry.shape)} has {geometry.size:,} elements, at most 2^46")
    size = geometry.size * geometry.dtype.itemsize
    if size > _SMALL_BYTES and tracing.is_tracing() and tracing.current().compute:
        available = available_memory_bytes()
        if size > available:
            raise KernelError(
                f"a tensor of {list(geometry.shape)} takes {format_bytes(size)}, and {format_bytes(available)} of memory"
                " are free; --no-compute needs none"
            )


class Storage:
    """Memory of one allocation: all blocks of a tensor."""

    __slots__ = (
        "alias",
        "blocks",
        "data",
        "dtype",
        "geometry",
        "is_external",
        "is_stored",
        "mask",
        "name",
        "owner",
        "par",
        "row_elements",
        "rows",
        "shape",
        "site",
        "space",
        "summed",
        "tiles",
        "writer",
    )

    def __init__(
        self,
        geometry: Geometry,
        name: str,
        site: Any,
        owner: Storage | None = None,
    ) -> None:
        """Allocate memory; a tile of the program stands for each block from its first use on.

        Args:
            geometry: Of all of it.
            name: For messages and the timeline.
            site: Any hashable that stands for the place of allocation in the kernel.
            owner: The storage that this is another type's look at.
        """
        self.geometry = geometry
        self.shape = geometry.shape
        self.dtype = geometry.dtype
        self.space = geometry.space
        self.par = geometry.par
        self.blocks = geometry.blocks
        self.rows = geometry.rows
        self.row_elements = geometry.row_elements
        self.name = name
        self.site = site
        self.data: npt.NDArray[np.uint8] | None = None
        self.owner = owner
        """The storage that has memory and tiles, where this is another type's look at it; else None."""
        self.tiles: dict[int, int] = {}
        """Number of the logical tile of each block that was used."""
        self.writer = -1
        """The instruction that wrote all of it, as long as nothing has read it."""
        self.mask: Any = None
        """Where the writer wrote, if not everywhere."""
        self.alias: tuple[Box, ...] | None = None
        """Memory that the writer was made to write instead."""
        self.summed: set[tuple[Any, ...]] | None = None
        """Views that were added to since PSUM was zeroed; None where it was not."""
        self.is_external = False
        self.is_stored = False
        """HBM: the kernel has written to it."""

    @property
    def root(self) -> Storage:
        """The storage that owns memory and tiles, where this one is another type's look at it; else itself."""
        return self.owner or self

    def tile(self, block: int) -> int:
        """Number of the logical tile of `block`, which exists from its first use on."""
        root = self.owner or self
        number = root.tiles.get(block)
        if number is None:
            row_bytes = root.row_elements * root.dtype.itemsize
            number = root.tiles[block] = tracing.current().builder.tile(
                root.space, root.rows, row_bytes, name=root.name, site=root.site, is_external=root.is_external
            )
        return number

    def bytes(self) -> npt.NDArray[np.uint8]:
        """The memory itself; zeros before anything is written."""
        root = self.root
        if root.data is None:
            size = root.blocks * root.rows * root.row_elements * root.dtype.itemsize
            root.data = np.zeros(size, np.uint8)
        return root.data

    def forget_program(self) -> None:
        """Leave the program that was recorded so far: another one names its own tiles."""
        self.tiles.clear()
        self.writer = -1
        self.alias = None
