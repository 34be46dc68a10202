"""Copies and transposes by DMA of `neuronxcc.nki.isa`.

Names, defaults and limits: AWS Neuron documentation of SDK 2.26, `nki.isa`.
"""
# ruff: noqa: ARG001 - keywords that the documented signatures have and that change nothing here

from __future__ import annotations

from typing import Any

import numpy as np

from npuscope.simulate.neuroncore.program import Space
from npuscope.simulate.nki.access import as_mask
from npuscope.simulate.nki.emit import fresh, transfer
from npuscope.simulate.nki.isa_enums import dge_mode as dge_modes
from npuscope.simulate.nki.isa_enums import oob_mode as oob_modes
from npuscope.simulate.nki.isa_operands import alu_op, result_dtype
from npuscope.simulate.nki.numerics import Array, cast_to, to_float32
from npuscope.simulate.nki.tensors import Tensor
from npuscope.simulate.nki.trace import KernelError, current, current_line

_PERMUTATIONS = {2: (1, 0), 3: (2, 1, 0), 4: (3, 1, 2, 0)}
"""How a transpose permutes axes, by their number."""


def dma_copy(
    *,
    dst: Any,
    src: Any,
    mask: Any = None,
    dst_rmw_op: Any = None,
    oob_mode: Any = oob_modes.error,
    dge_mode: Any = dge_modes.unknown,
    **kwargs: Any,
) -> None:
    """Copy between any two memories; with `dst_rmw_op` add to what is there."""
    for name, tensor in (("dst", dst), ("src", src)):
        if not isinstance(tensor, Tensor):
            raise KernelError(f"dma_copy: {name} must be a tensor, not {type(tensor).__name__}")
    if dst.size != src.size:
        raise KernelError(f"dma_copy: dst has shape {list(dst.shape)}, src {list(src.shape)}")
    if dge_mode == dge_modes.hwdge and current().nc_version < 3:
        raise KernelError("dma_copy: hardware DGE needs NeuronCore-v3 or later (trn2)")
    if dst_rmw_op is not None:
        if alu_op("dma_copy", dst_rmw_op).name != "add":
            raise KernelError("dma_copy: dst_rmw_op can only be np.add")
        if oob_mode != oob_modes.error:
            raise KernelError("dma_copy: dst_rmw_op needs oob_mode.error")
    source, target = _masked(dst, src, mask)
    transfer(target, source, adds=dst_rmw_op is not None)
    dst.storage.root.is_stored = True
    if current().compute and source.size:
        copy_values(target, source, adds=dst_rmw_op is not None, skips=oob_mode == oob_modes.skip)


def _masked(dst: Tensor, src: Tensor, mask: Any) -> tuple[Tensor, Tensor]:
    """Source and destination, restricted to a mask that must fill a box."""
    if mask is None:
        return src, dst
    if not as_mask(mask).fills_box():
        raise KernelError("dma_copy: the mask must leave a rectangle")
    return src.masked(mask), dst.masked(mask)


def copy_values(dst: Tensor, src: Tensor, *, adds: bool, skips: bool) -> None:
    """Move the values of a DMA.

    Args:
        dst: Where they go.
        src: Where they come from.
        adds: Add to what is there.
        skips: Leave out elements whose index is out of bounds on either side.
    """
    if skips:
        from_inside, source = inside(src)
        to_inside, target = inside(dst)
        values = source.value().reshape(dst.shape)
        old = target.value()
        kept = from_inside.reshape(dst.shape) & to_inside
        # Skipped elements of a scatter point at position 0, which a kept one may own: those are written last.
        target.assign(np.where(kept, cast_to(values, dst.dtype), old), kept if target.terms else None)
        return
    values = src.value().reshape(dst.shape)
    if adds:
        values = to_float32(dst.value()) + to_float32(values)
    dst.assign(cast_to(values, dst.dtype))


def inside(view: Tensor) -> tuple[Array, Tensor]:
    """Where an indirect access stays inside its tensor, and the access with all other indices at 0.

    Returns:
        Booleans of the view's shape, and a view that can be read.
    """
    holds = np.ones(view.shape, np.bool_)
    terms = []
    for term in view.terms:
        index = np.asarray(term.index.value() if isinstance(term.index, Tensor) else term.index).astype(np.int64)
        valid = (index >= 0) & (index < term.size)
        rank = len(view.shape) - term.position
        holds &= valid.reshape(term.shape + (1,) * (rank - len(term.shape)))
        terms.append(term._replace(index=np.where(valid, index, 0)))
    safe = Tensor(view.storage, view.dtype, view.shape, view.strides, view.offset, view.par, tuple(terms), view.bounds)
    return holds, safe


def dma_transpose(src: Any, *, axes: Any = None, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Tensor:
    """Transpose a tensor of two to four axes into a fresh tile in SBUF."""
    if not isinstance(src, Tensor):
        raise KernelError(f"dma_transpose: src must be a tensor, not {type(src).__name__}")
    order = transpose_order(src.ndim, axes)
    source = src.masked(mask) if mask is not None else src
    line = current_line()
    shape = tuple([src.shape[axis] for axis in order])
    result = fresh(shape, result_dtype(dtype, src.dtype), Space.SBUF, line, "dma_transpose")
    part = result if source is src else result[tuple(slice(0, source.shape[axis]) for axis in order)]
    transfer(part, source, line=line, is_transpose=True, is_fresh=part.size == result.size)
    if current().compute and source.size:
        part.assign(cast_to(source.value().transpose(order), result.dtype))
    return result


def transpose_order(rank: int, axes: Any) -> tuple[int, ...]:
    """The documented permutation for `rank` axes.

    Raises:
        KernelError: There is none, or the kernel asks for another one.
    """
    order = _PERMUTATIONS.get(rank)
    if order is None:
        raise KernelError(f"dma_transpose: src has {rank} axes, expected 2 to 4")
    if axes is not None and tuple(axes) != order:
        raise KernelError(f"dma_transpose: axes {tuple(axes)} are not supported, only {order} for {rank} axes")
    return order
