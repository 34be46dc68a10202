"""`nl.loop_reduce`: a reduction over iterations of a loop, one `tensor_tensor` per iteration.

The documentation defines `b[...] = nl.loop_reduce(x, op, loop_indices=[k])` as `b = op(b, x)` in every iteration. A
destination that nothing has written to, or that is created with `lazy_initialization`, has no value to begin with: there
the first iteration copies `x`. A result that is only bound to a name is reduced over the iterations as well.
"""
# ruff: noqa: ARG001 - keywords that the documented signatures have and that change nothing here

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from npuscope.simulate.neuroncore.program import Box, Space
from npuscope.simulate.nki import classic_isa as isa
from npuscope.simulate.nki import emit
from npuscope.simulate.nki.classic_buffers import was_filled
from npuscope.simulate.nki.classic_loops import Loop, running_loops
from npuscope.simulate.nki.classic_math import binary
from npuscope.simulate.nki.dtypes import as_dtype
from npuscope.simulate.nki.numerics import apply_op, canonical_op, cast_to
from npuscope.simulate.nki.storage import NOTHING
from npuscope.simulate.nki.tensors import Tensor, new_tile, store, take_over
from npuscope.simulate.nki.trace import KernelError, current, current_line

_SITES = "classic.reductions"
"""Key of `Trace.state`: what is known of each call of `loop_reduce` in the kernel, by its place."""


class _Visit(NamedTuple):
    """The last time that one destination was reduced into."""

    loops: tuple[Loop, ...]
    """Loops that ran, outermost first."""
    values: tuple[int, ...]
    """Their indices."""
    result: Tensor | None
    """Sum so far, of a result that is bound to a name."""


class _Site:
    """One call of `loop_reduce` in the kernel's source."""

    __slots__ = ("candidates", "named", "pending", "stored")

    def __init__(self) -> None:
        self.pending: Reduction | None = None
        """The last result, as long as nobody has asked for it: in the next iteration it is known to have no
        destination."""
        self.candidates: list[set[int]] | None = None
        """For each of the loop indices, the loops (by depth) whose index has equalled it in all calls so far."""
        self.stored: dict[Box, _Visit] = {}
        self.named: list[_Visit] = []

    def learn(self, indices: tuple[int, ...], loops: list[Loop]) -> set[int]:
        """Depths of the loops that the reduction runs over, as far as the calls so far tell them apart."""
        matching = [{depth for depth, loop in enumerate(loops) if loop.value == index} for index in indices]
        if self.candidates is None:
            self.candidates = matching
        else:
            self.candidates = [old & new or new for old, new in zip(self.candidates, matching, strict=True)]
        return {max(depths) for depths in self.candidates if depths}


def _goes_on(visit: _Visit, loops: tuple[Loop, ...], reduced: set[int]) -> bool:
    """Whether the reduction that `visit` was part of still runs: its outermost loop has not been left."""
    if not reduced:
        return True
    outermost = min(reduced)
    return len(visit.loops) > outermost and visit.loops[outermost] is loops[outermost]


class Reduction(Tensor):
    """The result of one call: waits until it is known where it goes."""

    __slots__ = ("loops", "made", "op", "site", "source", "values", "x")

    def __init__(self, site: _Site, source: Tensor, op: str, dtype: Any) -> None:
        line = current_line()
        tile = new_tile(source.shape, dtype, Space.SBUF, name=line, site=(line, "loop_reduce", source.shape))
        super().__init__(tile.storage, tile.dtype, tile.shape, tile.strides)
        self.site, self.source, self.op = site, source, op
        self.made: Tensor | None = None
        self.loops = tuple(running_loops())
        self.values = tuple([loop.value for loop in self.loops])
        self.x = source.value().copy() if current().compute else None
        """Values of `source` in this iteration."""
        site.pending = self

    def settle(self, target: Tensor) -> None:
        """`target[...] = result`: reduce into `target`."""
        if self.made is not None:
            store(target, self.made)
            return
        self.site.pending = None
        box = target.boxes()[0]
        visit = self.site.stored.get(box)
        reduced = {max(depths) for depths in self.site.candidates or () if depths}
        if was_filled(box.tile) or (visit is not None and _goes_on(visit, self.loops, reduced)):
            result = binary(self.op, target, self._fitted(target), target.dtype)
        else:
            result = isa.tensor_copy(self._fitted(target), dtype=target.dtype)
        if not take_over(target, result):
            raise KernelError("loop_reduce: the destination must be one tile in SBUF or PSUM")
        self.site.stored[box] = _Visit(self.loops, self.values, None)

    def _fitted(self, target: Tensor) -> Tensor:
        return self.source if self.source.shape == target.shape else self.source.reshape(target.shape)

    def tile(self) -> Tensor:
        """The reduction so far as a tile of its own."""
        if self.made is not None:
            return self.made
        loops, values = self.loops, self.values
        self.site.pending = None
        reduced = {max(depths) for depths in self.site.candidates or () if depths}
        before = None
        for visit in self.site.named:
            same = len(visit.values) == len(values) and all(
                depth in reduced or visit.values[depth] == value for depth, value in enumerate(values)
            )
            if same and _goes_on(visit, loops, reduced):
                before = visit
        plain = Tensor(self.storage, self.dtype, self.shape, self.strides)
        if before is None or before.result is None:
            result = isa.tensor_copy(self.source, dtype=self.dtype)
        else:
            result = binary(self.op, before.result, self.source, self.dtype)
            self.site.named.remove(before)
        store(plain, result)
        if self.x is not None:
            # The source may have been overwritten by the iteration in which the destination turned out to be a name.
            total = (
                self.x
                if before is None or before.result is None
                else apply_op(canonical_op(self.op), before.result.value(), self.x)
            )
            plain.assign(cast_to(total, self.dtype))
        self.site.named.append(_Visit(tuple(loops), values, plain))
        self.made = plain
        return plain

    def boxes(self) -> tuple[Box, ...]:
        """See `Tensor.boxes`."""
        return self.tile().boxes()

    def value(self, mask: Any = None) -> Any:
        """See `Tensor.value`."""
        return self.tile().value(mask)

    def masked(self, mask: Any) -> Tensor:
        """See `Tensor.masked`."""
        return self.tile().masked(mask)

    def __getitem__(self, key: Any) -> Tensor:
        return self.tile()[key]

    def reshape(self, *shape: Any) -> Tensor:
        """See `Tensor.reshape`."""
        return self.tile().reshape(*shape)

    def broadcast_to(self, *shape: Any) -> Tensor:
        """See `Tensor.broadcast_to`."""
        return self.tile().broadcast_to(*shape)


def loop_reduce(x: Tensor, op: Any, loop_indices: Any, *, dtype: Any = None, mask: Any = None, **kwargs: Any) -> Tensor:
    """Reduce a tile over the iterations of loops; see the module for what a destination starts with.

    Args:
        x: Tile of this iteration.
        op: Operator of the ALU, such as `np.add`.
        loop_indices: Index, or indices, of the loops that the reduction runs over.
        dtype: Of the result; by default that of `x`.
        mask: True or False for the whole tile: a reduction that is masked out changes nothing.
        **kwargs: Hints for the compiler; ignored.
    """
    emit.on_chip("loop_reduce", x=x)
    if isinstance(op, str):
        name = op
    else:
        try:
            name = canonical_op(op).name
        except (KeyError, TypeError):
            raise KernelError(f"loop_reduce: {getattr(op, '__name__', op)} is not an operator of the ALU") from None
    indices = tuple(loop_indices) if isinstance(loop_indices, (tuple, list)) else (loop_indices,)
    frame = sys._getframe(1)
    sites: dict[Any, _Site] = current().state.setdefault(_SITES, {})
    site = sites.setdefault((frame.f_code, frame.f_lasti), _Site())
    if site.pending is not None:
        site.pending.tile()
    site.learn(tuple(int(index) for index in indices), running_loops())
    source = x
    if mask is not None:
        source = isa.tensor_copy(x, dtype=dtype, mask=mask)
        if source.writer == NOTHING:
            return source
    return Reduction(site, source, name, x.dtype if dtype is None else as_dtype(dtype))
