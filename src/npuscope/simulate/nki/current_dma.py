"""DMA instructions and scalar registers of the current `nki.isa`.

Semantics and limits: AWS Neuron documentation of NKI 0.6, `nki.isa`.
"""
# ruff: noqa: ARG001 - keywords that the documented signatures have and that change nothing here

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from npuscope.simulate.neuroncore.program import Space
from npuscope.simulate.nki import classic_isa as classic
from npuscope.simulate.nki import emit, mx
from npuscope.simulate.nki.classic_isa_dma import transpose_order
from npuscope.simulate.nki.current_memory import note_write
from npuscope.simulate.nki.current_operands import ISSUED, NkiInstruction, issue, needs_generation, reads
from npuscope.simulate.nki.current_registers import VirtualRegister, address_of
from npuscope.simulate.nki.isa_enums import dge_mode as dge_modes
from npuscope.simulate.nki.isa_enums import engine as engines
from npuscope.simulate.nki.isa_enums import oob_mode as oob_modes
from npuscope.simulate.nki.isa_operands import alu_op
from npuscope.simulate.nki.numerics import cast_to, to_float32
from npuscope.simulate.nki.tensors import Tensor
from npuscope.simulate.nki.trace import KernelError, current

_MAX_SOURCES = 16
_MAX_TRANSPOSED_ROWS = 128


def _needs_tensors(opcode: str, **operands: Any) -> None:
    for label, operand in operands.items():
        if not isinstance(operand, Tensor):
            raise KernelError(f"{opcode}: {label} must be a tensor, not {type(operand).__name__}")
        if operand.space is Space.PSUM:
            raise KernelError(f"{opcode}: {label} is in PSUM; copy it to SBUF with nisa.tensor_copy first")


def dma_copy(
    dst: Tensor,
    src: Tensor,
    priority: int | None = None,
    oob_mode: Any = oob_modes.error,
    dge_mode: Any = dge_modes.unknown,
    engine: Any = engines.unknown,
    name: Any = None,
) -> NkiInstruction:
    """Copy between HBM and SBUF, in any direction, by DMA."""
    _needs_tensors("dma_copy", dst=dst, src=src)
    if dst.dtype != src.dtype:
        if mx.is_packed(dst.dtype) or mx.is_packed(src.dtype):
            raise KernelError(f"dma_copy: {emit.name_of(src.dtype)} cannot be converted to {emit.name_of(dst.dtype)}")
        if dge_mode == dge_modes.hwdge:
            raise KernelError("dma_copy: dge_mode.hwdge converts no types; use .view() or another mode")
    reads("dma_copy", src)
    classic.dma_copy(dst=dst, src=src, oob_mode=oob_mode, dge_mode=dge_mode)
    note_write(dst)
    return ISSUED


def dma_transpose(
    dst: Tensor,
    src: Tensor,
    axes: Any = None,
    priority: int | None = None,
    dge_mode: Any = dge_modes.unknown,
    oob_mode: Any = oob_modes.error,
    name: Any = None,
) -> NkiInstruction:
    """Transpose a tensor of two to four axes on its way, by DMA."""
    opcode = "dma_transpose"
    _needs_tensors(opcode, dst=dst, src=src)
    order = transpose_order(src.ndim, axes)
    if dst.shape != tuple([src.shape[axis] for axis in order]):
        raise KernelError(f"{opcode}: dst has shape {list(dst.shape)}, src {list(src.shape)} with axes {order} not")
    if dst.dtype != src.dtype:
        raise KernelError(f"{opcode}: dst is {emit.name_of(dst.dtype)}, src {emit.name_of(src.dtype)}")
    if src.terms:
        needs_generation(f"{opcode} with an indirect source", 3)
    if (src.terms or dge_mode == dge_modes.hwdge) and (src.itemsize != 2 or src.shape[-1] > _MAX_TRANSPOSED_ROWS):
        raise KernelError(f"{opcode}: src must have elements of 2 bytes and at most {_MAX_TRANSPOSED_ROWS} columns")
    reads(opcode, src)
    emit.transfer(dst, src, is_transpose=True)
    note_write(dst)
    if current().compute:
        dst.assign(src.value().transpose(order))
    return ISSUED


def dma_compute(
    dst: Tensor,
    srcs: Sequence[Tensor],
    reduce_op: Any,
    scales: Any = None,
    unique_indices: bool = True,
    oob_mode: Any = oob_modes.error,
    name: Any = None,
) -> NkiInstruction:
    """Add tensors up inside the DMA engines.

    The sources that are not `dst` itself are moved one after the other, the first over `dst` unless that is a source.
    """
    opcode = "dma_compute"
    _needs_tensors(opcode, dst=dst, **{f"source {number + 1}": src for number, src in enumerate(srcs)})
    if alu_op(opcode, reduce_op).name != "add" or any(float(scale) != 1.0 for scale in scales or ()):
        raise KernelError(f"{opcode}: only nl.add with scales of 1.0 is supported")
    if not unique_indices or oob_mode != oob_modes.error:
        raise KernelError(f"{opcode}: only unique indices and oob_mode.error are supported by the simulator")
    if not 1 <= len(srcs) <= _MAX_SOURCES or any(src.size != dst.size for src in srcs):
        raise KernelError(f"{opcode}: takes 1 to {_MAX_SOURCES} sources of as many elements as dst")
    reads(opcode, *srcs)
    moved = [src for src in srcs if not _is_same_place(src, dst)]
    adds = len(moved) < len(srcs)
    for src in moved:
        emit.transfer(dst, src, adds=adds)
        adds = True
    note_write(dst)
    dst.storage.root.is_stored = True
    if current().compute:
        total = sum(to_float32(src.value()).reshape(dst.shape) for src in srcs)
        dst.assign(cast_to(np.asarray(total, np.float32), dst.dtype))
    return ISSUED


def _is_same_place(left: Tensor, right: Tensor) -> bool:
    """Whether two views are the same elements, their dynamic indices included."""
    return (
        left.storage.root is right.storage.root
        and (left.offset, left.shape, left.strides) == (right.offset, right.shape, right.strides)
        and [(term.index.storage.root, term.index.offset) for term in left.terms]
        == [(term.index.storage.root, term.index.offset) for term in right.terms]
    )


def register_alloc(x: Any = None) -> VirtualRegister:
    """A new register, with a value or without."""
    return VirtualRegister(None if x is None else address_of(x))


def register_move(dst: VirtualRegister, src: Any) -> None:
    """Copy an integer or another register into a register."""
    _needs_register("register_move", dst).value = src.value if isinstance(src, VirtualRegister) else address_of(src)


def register_load(dst: VirtualRegister, src: Tensor) -> None:
    """Load a tensor of one element into a register; costs nothing in the model."""
    register = _needs_register("register_load", dst)
    _needs_tensors("register_load", src=src)
    if src.size != 1:
        raise KernelError(f"register_load: src has shape {list(src.shape)}; it must have one element")
    reads("register_load", src)
    register.value = int(src.value().reshape(())[()]) if current().compute else None


def register_store(dst: Tensor, src: VirtualRegister) -> None:
    """Store a register into a tensor of one element: an instruction of GpSimd; into HBM it costs nothing."""
    register = _needs_register("register_store", src)
    _needs_tensors("register_store", dst=dst)
    if dst.size != 1:
        raise KernelError(f"register_store: dst has shape {list(dst.shape)}; it must have one element")
    if dst.space is Space.HBM:
        if current().compute:
            dst.assign(register.known())
        return
    issue("register_store", emit.GPSIMD, (), dst, lambda: np.full(dst.shape, register.known(), np.int64))


def _needs_register(opcode: str, register: Any) -> VirtualRegister:
    if not isinstance(register, VirtualRegister):
        raise KernelError(f"{opcode}: takes a register of nisa.register_alloc, not {type(register).__name__}")
    return register
