"""Index patterns, gathers, searches and shuffles of `neuronxcc.nki.isa`.

Names, defaults and limits: AWS Neuron documentation of SDK 2.26, `nki.isa`.
"""
# ruff: noqa: ARG001 - keywords that the documented signatures have and that change nothing here

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from npuscope.simulate.neuroncore.program import Space
from npuscope.simulate.nki import instruction_math as im
from npuscope.simulate.nki.access import as_mask
from npuscope.simulate.nki.classic_isa_vector import tensor_copy
from npuscope.simulate.nki.dtypes import as_dtype, dtype_name
from npuscope.simulate.nki.emit import GPSIMD, VECTOR, fresh, instruction, on_chip, pick
from npuscope.simulate.nki.index import Index
from npuscope.simulate.nki.isa_enums import engine as engines
from npuscope.simulate.nki.isa_operands import flat_value, reduced, result_dtype, write
from npuscope.simulate.nki.numerics import to_float32
from npuscope.simulate.nki.tensors import Tensor
from npuscope.simulate.nki.trace import KernelError, current, current_line

SEARCHED_VALUES = 8
MAX_SEARCHED_ELEMENTS = 16_384
ELEMENTS_PER_INDEX = (1, 2, 4, 8, 16, 32)
MAX_GATHER_INDICES = 4096


def iota(expr: Any, dtype: Any, *, mask: Any = None, **kwargs: Any) -> Tensor:
    """The values of an index expression as a tile, made by GpSimd in 32-bit integers."""
    shape = tuple(getattr(expr, "shape", ()))
    if not shape or not isinstance(expr, (Index, np.ndarray)):
        raise KernelError(f"iota: expr must be an expression of nl.arange, not {type(expr).__name__}")
    if len(shape) == 1:
        raise KernelError(f"iota: expr has shape {list(shape)}; it needs a partition and a free axis")
    line = current_line()
    result = fresh(shape, as_dtype(dtype), Space.SBUF, line, "iota")
    instruction("iota", GPSIMD, (), result, mask=mask, line=line, is_fresh=True)
    if current().compute:
        values = expr.array() if isinstance(expr, Index) else expr
        write(result, np.asarray(values).astype(np.int32), mask)
    return result


def affine_select(
    pred: Any, on_true_tile: Any, on_false_value: Any, *, mask: Any = None, dtype: Any = None, **kwargs: Any
) -> Tensor:
    """`on_true_tile` where an affine predicate holds, elsewhere a constant, on GpSimd."""
    opcode = "affine_select"
    on_chip(opcode, on_true_tile=on_true_tile)
    if isinstance(on_false_value, Tensor):
        raise KernelError(f"{opcode}: on_false_value must be a number")
    if on_true_tile.dtype.kind in "iu" and on_true_tile.dtype.itemsize == 4:
        raise KernelError(f"{opcode}: on_true_tile is {dtype_name(on_true_tile.dtype)}, which GpSimd does not select")
    line = current_line()
    if on_true_tile.storage.space is Space.PSUM:
        # GpSimd cannot reach PSUM; published kernels leave the copy to the compiler.
        on_true_tile = tensor_copy(on_true_tile, mask=mask)
    result = fresh(on_true_tile.shape, result_dtype(dtype, on_true_tile.dtype), Space.SBUF, line, opcode)
    chosen = pick(engines.gpsimd, GPSIMD, opcode, on_true_tile)
    instruction(opcode, chosen, (on_true_tile,), result, mask=mask, line=line, is_fresh=True)
    if current().compute:
        holds = as_mask(pred).array(on_true_tile.shape)
        values = np.where(holds, to_float32(on_true_tile.value(mask)), np.float32(on_false_value))
        write(result, values, mask)
    return result


def local_gather(
    src_buffer: Any, index: Any, num_elem_per_idx: int = 1, num_valid_indices: int | None = None, *, mask: Any = None
) -> Tensor:
    """Gather along the free axis by indices of each 16 partitions, on GpSimd: [P, indices, elements per index]."""
    opcode = "local_gather"
    on_chip(opcode, src_buffer=src_buffer, index=index)
    valid = check_gather(src_buffer, index, num_elem_per_idx, num_valid_indices)
    line = current_line()
    group = im.GPSIMD_CORE_PARTITIONS
    steps, rest = divmod(valid, group)
    # All 16 indices of a column of `index` follow each other.
    middle = (valid,) if rest or index.ndim != 2 else (steps, group)
    shape = (src_buffer.shape[0], *middle, num_elem_per_idx)
    result = fresh(shape, src_buffer.dtype, Space.SBUF, line, opcode)
    chosen = pick(engines.gpsimd, GPSIMD, opcode, src_buffer, index)
    elements = valid * num_elem_per_idx
    instruction(opcode, chosen, (src_buffer,), result, scalars=(index,), elements=elements, line=line, is_fresh=True)
    if current().compute:
        source = flat_value(src_buffer, mask)
        write(result, im.local_gather(source, flat_value(index), num_elem_per_idx, valid))
    return result


def check_gather(source: Tensor, index: Tensor, elements_per_index: int, valid: int | None) -> int:
    """Check the operands of a gather; returns how many indices each 16 partitions use.

    Raises:
        KernelError: Sizes or types are not as documented.
    """
    rows, group = source.shape[0], im.GPSIMD_CORE_PARTITIONS
    if rows != index.shape[0] or rows % group:
        raise KernelError(
            f"local_gather: src_buffer has {rows} partitions and index {index.shape[0]}; expected the same multiple"
            f" of {group}"
        )
    if dtype_name(index.dtype) != "uint16":
        raise KernelError(f"local_gather: index is {dtype_name(index.dtype)}, expected uint16")
    if elements_per_index not in ELEMENTS_PER_INDEX:
        known = ", ".join(map(str, ELEMENTS_PER_INDEX))
        raise KernelError(f"local_gather: num_elem_per_idx is {elements_per_index}, expected one of {known}")
    available = index.elements * group
    used = available if valid is None else int(valid)
    if not 0 < used <= min(available, MAX_GATHER_INDICES):
        limit = min(available, MAX_GATHER_INDICES)
        raise KernelError(f"local_gather: {used} indices per 16 partitions, expected 1 to {limit}")
    return used


def _check_search(opcode: str, data: Tensor, vals: Tensor | None, least: int) -> None:
    if not least <= data.elements <= MAX_SEARCHED_ELEMENTS:
        raise KernelError(
            f"{opcode}: {data.elements} elements per partition, expected {least} to {MAX_SEARCHED_ELEMENTS}"
        )
    if vals is not None:
        if vals.elements != SEARCHED_VALUES:
            raise KernelError(f"{opcode}: vals has {vals.elements} elements per partition, expected 8")
        if vals.shape[0] != data.shape[0]:
            raise KernelError(f"{opcode}: data has {data.shape[0]} partitions, vals {vals.shape[0]}")


def max8(*, src: Any, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Tensor:
    """The eight largest elements of each partition, descending, on Vector."""
    on_chip("max8", src=src)
    _check_search("max8", src, None, SEARCHED_VALUES)
    line = current_line()
    result = fresh((src.shape[0], 8), result_dtype(dtype, src.dtype), Space.SBUF, line, "max8")
    instruction("max8", VECTOR, (src,), result, mask=mask, line=line, is_fresh=True)
    if current().compute:
        rows, values = reduced(
            src, src.value(mask), mask, lambda part: im.max8(part.reshape(part.shape[0], -1)), -np.inf
        )
        write(result[rows], values)
    return result


def nc_find_index8(*, data: Any, vals: Any, mask: Any = None, dtype: Any = None, **kwargs: Any) -> Tensor:
    """Positions of eight values per partition, on Vector: uint32, or uint16 where asked for."""
    opcode = "nc_find_index8"
    on_chip(opcode, data=data, vals=vals)
    _check_search(opcode, data, vals, SEARCHED_VALUES)
    wanted = result_dtype(dtype, np.dtype(np.uint32))
    if wanted.name not in ("uint16", "uint32"):
        raise KernelError(f"{opcode}: dtype is {dtype_name(wanted)}, expected uint16 or uint32")
    line = current_line()
    result = fresh((data.shape[0], 8), wanted, Space.SBUF, line, opcode)
    instruction(opcode, VECTOR, (data,), result, scalars=(vals,), mask=mask, line=line, is_fresh=True)
    if current().compute:
        write(result, im.find_index8(_searched(data, mask), flat_value(vals)))
    return result


def _searched(data: Tensor, mask: Any) -> Any:
    """Values as float32 [P, F]; masked ones equal nothing."""
    values = to_float32(data.value(mask))
    if mask is not None:
        values = np.where(as_mask(mask).array(data.shape), values, np.float32(np.nan))
    return values.reshape(data.shape[0], -1)


def nc_match_replace8(
    *, data: Any, vals: Any, imm: Any, dst_idx: Any = None, mask: Any = None, dtype: Any = None, **kwargs: Any
) -> Tensor:
    """Replace the first occurrence of each of eight values by `imm`, on Vector; positions go to `dst_idx`."""
    opcode = "nc_match_replace8"
    on_chip(opcode, data=data, vals=vals)
    _check_search(opcode, data, vals, 1)
    line = current_line()
    result = fresh(data.shape, result_dtype(dtype, data.dtype), Space.SBUF, line, opcode, data.par)
    also = () if dst_idx is None else (dst_idx,)
    instruction(opcode, VECTOR, (data,), result, scalars=(vals,), also_writes=also, mask=mask, line=line, is_fresh=True)
    if current().compute:
        values, places = im.match_replace8(_searched(data, mask), flat_value(vals), float(imm))
        write(result, values.reshape(data.shape), mask)
        if dst_idx is not None:
            write(dst_idx, places)
    return result


def nc_stream_shuffle(
    src: Any, dst: Any, shuffle_mask: Sequence[int], *, dtype: Any = None, mask: Any = None, **kwargs: Any
) -> None:
    """Move partitions within each quadrant of 32, on Vector; `dst` may be `src`."""
    opcode = "nc_stream_shuffle"
    on_chip(opcode, src=src, dst=dst)
    quadrant = im.QUADRANT_PARTITIONS
    if len(shuffle_mask) != quadrant:
        raise KernelError(f"{opcode}: shuffle_mask has {len(shuffle_mask)} elements, expected {quadrant}")
    if any(not 0 <= int(one) < quadrant and int(one) != im.UNMODIFIED for one in shuffle_mask):
        raise KernelError(f"{opcode}: shuffle_mask must hold numbers from 0 to 31, or 255")
    if src.dtype != dst.dtype:
        raise KernelError(f"{opcode}: src is {dtype_name(src.dtype)}, dst is {dtype_name(dst.dtype)}")
    if src.elements != dst.elements:
        raise KernelError(f"{opcode}: src has {src.elements} elements per partition, dst {dst.elements}")
    instruction(opcode, VECTOR, (src,), dst, mask=mask if src.shape == dst.shape else None)
    if current().compute:
        source, old = flat_value(src), flat_value(dst)
        used = {int(shuffle_mask[row]) for row in range(min(quadrant, len(old)))} - {im.UNMODIFIED}
        if used and max(used) >= min(quadrant, len(source)):
            # Partitions beyond the view are read as they lie; their content is not the kernel's to know.
            missing = max(used) + 1 - len(source)
            source = np.concatenate([source, np.zeros((missing, source.shape[1]), source.dtype)])
        write(dst, im.stream_shuffle(source, old, [int(one) for one in shuffle_mask]), mask)


def sequence_bounds(*, segment_ids: Any, dtype: Any = None) -> Tensor:
    """Start and end of each element's segment, on GpSimd: [1, n] gives [1, 2, n]."""
    opcode = "sequence_bounds"
    on_chip(opcode, segment_ids=segment_ids)
    if segment_ids.shape[0] != 1:
        raise KernelError(f"{opcode}: segment_ids has {segment_ids.shape[0]} partitions, expected 1")
    wanted = result_dtype(dtype, segment_ids.dtype)
    for name in (dtype_name(segment_ids.dtype), dtype_name(wanted)):
        if name not in ("float32", "int32"):
            raise KernelError(f"{opcode}: {name} is not supported, expected float32 or int32")
    line = current_line()
    result = fresh((1, 2, segment_ids.elements), wanted, Space.SBUF, line, opcode)
    chosen = pick(engines.gpsimd, GPSIMD, opcode, segment_ids)
    instruction(opcode, chosen, (segment_ids,), result, line=line, is_fresh=True)
    if current().compute:
        write(result, im.sequence_bounds(flat_value(segment_ids)))
    return result
