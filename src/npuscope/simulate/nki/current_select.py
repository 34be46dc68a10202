"""Patterns, selection, search, shuffles and random numbers of the current `nki.isa`.

Semantics: AWS Neuron documentation of NKI 0.6, `nki.isa`.
"""
# ruff: noqa: ARG001 - keywords that the documented signatures have and that change nothing here

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from npuscope.simulate.neuroncore.program import Space
from npuscope.simulate.nki import classic_isa as classic
from npuscope.simulate.nki import current_math, emit
from npuscope.simulate.nki.current_math import SEARCHED_VALUES
from npuscope.simulate.nki.current_operands import (
    ISSUED,
    NkiInstruction,
    into,
    issue,
    needs_dtype,
    needs_generation,
    needs_space,
    reads,
)
from npuscope.simulate.nki.instruction_math import GPSIMD_CORE_PARTITIONS
from npuscope.simulate.nki.isa_enums import engine as engines
from npuscope.simulate.nki.isa_enums import reduce_cmd as commands
from npuscope.simulate.nki.isa_operands import alu_op, flat_value, same_size, scalar_tiles, scalar_value, write
from npuscope.simulate.nki.numerics import Array, to_float32
from npuscope.simulate.nki.tensors import Tensor
from npuscope.simulate.nki.trace import KernelError, current

_RANDOM: Final = "isa.random"
"""Key of `Trace.state`: where both dialects take random numbers from."""
_SEEDS: Final = "current.seeds"
_MAX_SEARCHED: Final = 16_384
_MAX_TOPK: Final = 65_536


def _pattern(opcode: str, dst: Tensor, pattern: Any) -> list[tuple[int, int]]:
    """Steps and counts of an affine pattern.

    Raises:
        KernelError: It has more than four loops, or other elements per partition than `dst`.
    """
    loops = [(int(step), int(count)) for step, count in pattern]
    if not 1 <= len(loops) <= 4:
        raise KernelError(f"{opcode}: a pattern has one to four loops, not {len(loops)}")
    total = math.prod(count for _, count in loops)
    if total != dst.elements:
        raise KernelError(f"{opcode}: the pattern gives {total} elements, dst has {dst.elements} per partition")
    return loops


def iota(dst: Tensor, pattern: Any, offset: int = 0, channel_multiplier: int = 0, name: Any = None) -> NkiInstruction:
    """An affine pattern of integers, on GpSimd."""
    emit.on_chip("iota", dst=dst)
    needs_space("iota", "dst", dst, Space.SBUF)
    loops = _pattern("iota", dst, pattern)

    def compute() -> Array:
        return current_math.pattern_values(loops, int(offset), int(channel_multiplier), dst.partitions)

    return issue("iota", emit.GPSIMD, (), dst, compute)


def affine_select(
    dst: Tensor,
    pattern: Any,
    channel_multiplier: int,
    on_true_tile: Tensor,
    on_false_value: float,
    cmp_op: Any = "equal",
    offset: int = 0,
    name: Any = None,
) -> NkiInstruction:
    """Keep elements where an affine expression compares true with 0, on GpSimd."""
    opcode = "affine_select"
    emit.on_chip(opcode, dst=dst, on_true_tile=on_true_tile)
    same_size(opcode, dst=dst, on_true_tile=on_true_tile)
    for label, tile in (("dst", dst), ("on_true_tile", on_true_tile)):
        needs_space(opcode, label, tile, Space.SBUF)
    loops = _pattern(opcode, dst, pattern)
    comparison = alu_op(opcode, cmp_op)

    def compute() -> Array:
        affine = current_math.pattern_values(loops, int(offset), int(channel_multiplier), dst.partitions)
        holds = comparison.apply(affine.astype(np.float32), np.float32(0)) != 0
        return np.where(holds, to_float32(flat_value(on_true_tile)), np.float32(on_false_value))

    return issue(opcode, emit.GPSIMD, (on_true_tile,), dst, compute, function=comparison.name)


def select_reduce(
    dst: Tensor,
    predicate: Tensor,
    on_true: Tensor,
    on_false: Any,
    reduce_res: Tensor | None = None,
    reduce_cmd: Any = commands.idle,
    reduce_op: Any = "maximum",
    reverse_pred: bool = False,
    name: Any = None,
) -> NkiInstruction:
    """`on_true` or `on_false` by `predicate`, and where asked for the maximum, on Vector."""
    reads("select_reduce", predicate, on_true, on_false)
    classic.select_reduce(
        dst=dst,
        predicate=predicate,
        on_true=on_true,
        on_false=on_false,
        reduce_res=reduce_res,
        reduce_cmd=reduce_cmd,
        reduce_op=reduce_op,
        reverse_pred=reverse_pred,
    )
    return ISSUED


def local_gather(
    dst: Tensor,
    src_buffer: Tensor,
    index: Tensor,
    num_elem_per_idx: int = 1,
    num_valid_indices: int | None = None,
    name: Any = None,
) -> NkiInstruction:
    """Gather with indices shared by 16 partitions, on GpSimd."""
    reads("local_gather", src_buffer, index)
    return into("local_gather", dst, classic.local_gather(src_buffer, index, num_elem_per_idx, num_valid_indices))


def nc_n_gather(dst: Tensor, data: Tensor, indices: Tensor, name: Any = None) -> NkiInstruction:
    """Gather within each partition by flat index, on GpSimd."""
    opcode = "nc_n_gather"
    emit.on_chip(opcode, dst=dst, data=data, indices=indices)
    same_size(opcode, dst=dst, indices=indices)
    needs_dtype(opcode, "indices", indices, "uint32")
    for label, tile in (("dst", dst), ("data", data), ("indices", indices)):
        needs_space(opcode, label, tile, Space.SBUF)
    if dst.dtype != data.dtype or data.partitions != indices.partitions:
        raise KernelError(f"{opcode}: dst, data and indices must agree in partitions, dst and data in their type")

    def compute() -> Array:
        wanted = flat_value(indices)
        if wanted.size and int(wanted.max()) >= data.elements:
            raise KernelError(f"{opcode}: index {int(wanted.max())} is out of range of {data.elements} elements")
        return current_math.gather(flat_value(data), wanted)

    return issue(opcode, emit.GPSIMD, (indices,), dst, compute, scalars=(data,))


def max8(dst: Tensor, src: Tensor, name: Any = None) -> NkiInstruction:
    """The eight largest elements of each partition, descending, on Vector."""
    reads("max8", src)
    return into("max8", dst, classic.max8(src=src, dtype=dst.dtype))


def _needs_eight(opcode: str, data: Tensor, **tiles: Tensor) -> None:
    if not SEARCHED_VALUES <= data.elements <= _MAX_SEARCHED:
        raise KernelError(f"{opcode}: data has {data.elements} elements per partition; expected 8 to {_MAX_SEARCHED:,}")
    for label, tile in tiles.items():
        if tile.elements != SEARCHED_VALUES or tile.partitions != data.partitions:
            raise KernelError(f"{opcode}: {label} has shape {list(tile.shape)}; expected [{data.partitions}, 8]")


def nc_find_index8(dst: Tensor, data: Tensor, vals: Tensor, name: Any = None) -> NkiInstruction:
    """Positions of eight values per partition, all ones where there is none, on Vector."""
    opcode = "nc_find_index8"
    emit.on_chip(opcode, dst=dst, data=data, vals=vals)
    _needs_eight(opcode, data, dst=dst, vals=vals)
    needs_dtype(opcode, "dst", dst, "uint16", "uint32")

    def compute() -> Array:
        return current_math.find_index8(flat_value(data), flat_value(vals), dst.dtype)

    return issue(opcode, emit.VECTOR, (data,), dst, compute, scalars=(vals,))


def nc_match_replace8(
    dst: Tensor, data: Tensor, vals: Tensor, imm: float, dst_idx: Tensor | None = None, name: Any = None
) -> NkiInstruction:
    """Replace the first occurrence of each of eight values per partition, on Vector."""
    opcode = "nc_match_replace8"
    emit.on_chip(opcode, dst=dst, data=data, vals=vals)
    same_size(opcode, dst=dst, data=data)
    _needs_eight(opcode, data, vals=vals, **({} if dst_idx is None else {"dst_idx": dst_idx}))

    def compute() -> Array:
        replaced, places = current_math.match_replace8(flat_value(data), flat_value(vals), float(imm))
        if dst_idx is not None:
            write(dst_idx, places)
        return replaced

    also = () if dst_idx is None else (dst_idx,)
    return issue(opcode, emit.VECTOR, (data,), dst, compute, scalars=(vals,), also_writes=also)


def sequence_bounds(dst: Tensor, segment_ids: Tensor, name: Any = None) -> NkiInstruction:
    """Where the segment of each element begins and ends, on GpSimd."""
    reads("sequence_bounds", segment_ids)
    return into("sequence_bounds", dst, classic.sequence_bounds(segment_ids=segment_ids, dtype=dst.dtype))


def nc_stream_shuffle(dst: Tensor, src: Tensor, shuffle_mask: Any, name: Any = None) -> NkiInstruction:
    """Move partitions within each 32, on Vector."""
    reads("nc_stream_shuffle", src)
    classic.nc_stream_shuffle(src, dst, shuffle_mask)
    return ISSUED


def nonzero_with_count(
    dst: Tensor, src: Tensor, index_offset: int = 0, padding_val: int = -1, name: Any = None
) -> NkiInstruction:
    """Positions and number of elements that are not zero, in every 16th partition, on GpSimd of v3 and later."""
    opcode = "nonzero_with_count"
    needs_generation(opcode, 3)
    emit.on_chip(opcode, dst=dst, src=src)
    needs_dtype(opcode, "src", src, "float32", "int32")
    needs_dtype(opcode, "dst", dst, "int32")
    if dst.partitions != src.partitions or dst.elements != src.elements + 1:
        raise KernelError(
            f"{opcode}: dst has shape {list(dst.shape)}; it needs one element more than {list(src.shape)}"
        )

    def compute() -> Array:
        return current_math.nonzero_with_count(flat_value(src), flat_value(dst), int(index_offset), int(padding_val))

    return issue(opcode, emit.GPSIMD, (src,), dst, compute, scalars=(dst,))


def topk(val_dst: Tensor, idx_dst: Tensor, src: Tensor, n: int, name: Any = None) -> NkiInstruction:
    """The largest of `n` elements that lie across 16 partitions, ascending, on GpSimd."""
    emit.on_chip("topk", val_dst=val_dst, idx_dst=idx_dst, src=src)
    same_size("topk", val_dst=val_dst, idx_dst=idx_dst)
    needs_dtype("topk", "src", src, "bfloat16")
    needs_dtype("topk", "val_dst", val_dst, "bfloat16")
    needs_dtype("topk", "idx_dst", idx_dst, "uint32")
    size, count, group = val_dst.elements, int(n), GPSIMD_CORE_PARTITIONS
    if src.partitions % group or val_dst.partitions != src.partitions:
        raise KernelError(f"topk: src has {src.partitions} partitions; expected a multiple of {group}, as in val_dst")
    if not 8 <= count < _MAX_TOPK or not size <= count or src.elements < -(-count // group):
        raise KernelError(f"topk: {size} of n={count} elements cannot be taken from {src.elements} per partition")

    def compute() -> Array:
        values, places = current_math.topk(flat_value(src), count, size)
        write(idx_dst, places)
        return values

    return issue("topk", emit.GPSIMD, (src,), val_dst, compute, elements=count, columns=size, also_writes=(idx_dst,))


def _generator() -> np.random.Generator:
    found: np.random.Generator = current().state.setdefault(_RANDOM, np.random.default_rng(0))
    return found


def set_rng_seed(src_seeds: Tensor, name: Any = None) -> NkiInstruction:
    """Seed the random numbers of the Vector engine."""
    emit.on_chip("set_rng_seed", src_seeds=src_seeds)
    if src_seeds.size != 1 or src_seeds.itemsize != 4:
        raise KernelError(f"set_rng_seed: src_seeds has shape {list(src_seeds.shape)}; expected [1, 1] of 32 bits")
    return _seed("set_rng_seed", src_seeds, emit.VECTOR)


def rand_set_state(src_seeds: Tensor, engine: Any = engines.gpsimd, name: Any = None) -> NkiInstruction:
    """Seed the random numbers of an engine, each partition for itself, on v3 and later."""
    needs_generation("rand_set_state", 4 if engine == engines.vector else 3)
    emit.on_chip("rand_set_state", src_seeds=src_seeds)
    needs_dtype("rand_set_state", "src_seeds", src_seeds, "uint32")
    chosen = emit.pick(engine, emit.VECTOR_GPSIMD, "rand_set_state", src_seeds)
    return _seed("rand_set_state", src_seeds, chosen)


def _seed(opcode: str, seeds: Tensor, engine: Any) -> NkiInstruction:
    reads(opcode, seeds)
    target = emit.fresh(seeds.shape, seeds.dtype, Space.REGISTER, "", opcode)
    emit.instruction(opcode, engine, (seeds,), target)
    if current().compute:
        values = flat_value(seeds).copy()
        current().state[_SEEDS] = values
        current().state[_RANDOM] = np.random.default_rng(values.reshape(-1).view(np.uint32))
    return ISSUED


def rand_get_state(dst: Tensor, engine: Any = engines.gpsimd, name: Any = None) -> NkiInstruction:
    """The state of an engine's random numbers, on v3 and later: the seeds that were set, whatever was drawn since."""
    needs_generation("rand_get_state", 4 if engine == engines.vector else 3)
    emit.on_chip("rand_get_state", dst=dst)
    needs_dtype("rand_get_state", "dst", dst, "uint32")
    chosen = emit.pick(engine, emit.VECTOR_GPSIMD, "rand_get_state", dst)

    def compute() -> Array:
        seeds: Array = current().state.get(_SEEDS, np.zeros((1, 1), np.uint32))
        return np.resize(seeds, (dst.partitions, dst.elements))

    return issue("rand_get_state", chosen, (), dst, compute)


def rng(dst: Tensor, engine: Any = engines.vector, name: Any = None) -> NkiInstruction:
    """Random bits, on Vector or, on v3 and later, GpSimd."""
    emit.on_chip("rng", dst=dst)
    if dst.dtype.kind not in "iu":
        raise KernelError(f"rng: dst is {dst.dtype.name}; it must be an integer type")
    if engine == engines.gpsimd:
        needs_generation("rng", 3)
    chosen = emit.pick(engine, emit.VECTOR_GPSIMD, "rng", dst)
    bits = np.dtype(f"u{dst.itemsize}")
    return issue(
        "rng",
        chosen,
        (),
        dst,
        lambda: _generator().integers(0, 2 ** (8 * dst.itemsize), dst.shape, dtype=bits).view(dst.dtype),
    )


def rand2(dst: Tensor, min: Any, max: Any, name: Any = None) -> NkiInstruction:  # noqa: A002 - the documented names
    """Uniform random numbers between `min` and `max`, on the Vector engine of v4."""
    needs_generation("rand2", 4)
    emit.on_chip("rand2", dst=dst)
    scalars = scalar_tiles("rand2", dst, min=min, max=max)

    def compute() -> Array:
        low, high = (np.asarray(scalar_value(bound, dst), np.float32) for bound in (min, max))
        drawn: Array = low + _generator().random(dst.shape, dtype=np.float32) * (high - low)
        return drawn

    return issue("rand2", emit.VECTOR, (), dst, compute, scalars=scalars)
