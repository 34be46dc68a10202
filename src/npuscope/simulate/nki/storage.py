"""Memory of a kernel's tensors: one allocation in HBM, SBUF or PSUM, and the logical tiles that it stands for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from npuscope.simulate.neuroncore.program import Box, Space
from npuscope.simulate.nki import trace as tracing
from npuscope.simulate.nki.dtypes import Dtype

NOTHING = -2
"""Writer of a fresh tile whose mask left no instruction to run."""


class Storage:
    """Memory of one allocation: all blocks of a tensor."""

    __slots__ = (
        "_owner",
        "alias",
        "blocks",
        "data",
        "dtype",
        "is_external",
        "is_stored",
        "mask",
        "name",
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
        shape: tuple[int, ...],
        dtype: Dtype,
        space: Space,
        par: int,
        name: str,
        site: Any,
        owner: Storage | None = None,
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.space = space
        self.par = par
        self.name = name
        self.site = site
        if space is Space.HBM:
            self.blocks = 1
            self.rows = math.prod(shape[:-1])
            self.row_elements = shape[-1] if shape else 1
        else:
            self.blocks = math.prod(shape[:par])
            self.rows = shape[par]
            self.row_elements = math.prod(shape[par + 1 :])
        self.data: npt.NDArray[np.uint8] | None = None
        self._owner = owner
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
        return self if self._owner is None else self._owner

    def tile(self, block: int) -> int:
        """Number of the logical tile of `block`, which exists from its first use on."""
        root = self.root
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
