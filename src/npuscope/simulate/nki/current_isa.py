"""`nki.isa` of the current dialect: every instruction that the simulator has, each with its destination passed in."""

from __future__ import annotations

from enum import IntEnum

from npuscope.simulate.nki.current_accumulate import (
    activate2,
    activation,
    activation_reduce,
    exponential,
    range_select,
    tensor_scalar_cumulative,
    tensor_scalar_reduce,
)
from npuscope.simulate.nki.current_dma import (
    dma_compute,
    dma_copy,
    dma_transpose,
    register_alloc,
    register_load,
    register_move,
    register_store,
)
from npuscope.simulate.nki.current_matmul import matmul_perf_mode, nc_matmul, nc_matmul_mx, nc_transpose, quantize_mx
from npuscope.simulate.nki.current_operands import NkiInstruction
from npuscope.simulate.nki.current_registers import VirtualRegister
from npuscope.simulate.nki.current_select import (
    affine_select,
    iota,
    local_gather,
    max8,
    nc_find_index8,
    nc_match_replace8,
    nc_n_gather,
    nc_stream_shuffle,
    nonzero_with_count,
    rand2,
    rand_get_state,
    rand_set_state,
    rng,
    select_reduce,
    sequence_bounds,
    set_rng_seed,
    topk,
)
from npuscope.simulate.nki.current_vector import (
    bn_aggr,
    bn_stats,
    dropout,
    memset,
    reciprocal,
    scalar_tensor_tensor,
    tensor_copy,
    tensor_copy_predicated,
    tensor_partition_reduce,
    tensor_reduce,
    tensor_scalar,
    tensor_tensor,
    tensor_tensor_scan,
)
from npuscope.simulate.nki.isa_enums import dge_mode, engine, nc_version, oob_mode, reduce_cmd
from npuscope.simulate.nki.trace import KernelError as NkiValidationError
from npuscope.simulate.nki.trace import current

tensor_engine = engine.tensor
vector_engine = engine.vector
scalar_engine = engine.scalar
gpsimd_engine = engine.gpsimd
unknown_engine = engine.unknown


class dma_engine(IntEnum):  # noqa: N801 - the name that kernels use
    """Which DMA engines move data between the cores of a logical core."""

    dma = 1
    gpsimd_dma = 2


def get_nc_version() -> nc_version:
    """The generation of the simulated NeuronCore."""
    return nc_version(current().nc_version)


def get_nc_sub_version() -> int:
    """The revision of the simulated NeuronCore: the first."""
    return 0


__all__ = [
    "NkiInstruction",
    "NkiValidationError",
    "VirtualRegister",
    "activate2",
    "activation",
    "activation_reduce",
    "affine_select",
    "bn_aggr",
    "bn_stats",
    "dge_mode",
    "dma_compute",
    "dma_copy",
    "dma_engine",
    "dma_transpose",
    "dropout",
    "engine",
    "exponential",
    "get_nc_sub_version",
    "get_nc_version",
    "gpsimd_engine",
    "iota",
    "local_gather",
    "matmul_perf_mode",
    "max8",
    "memset",
    "nc_find_index8",
    "nc_match_replace8",
    "nc_matmul",
    "nc_matmul_mx",
    "nc_n_gather",
    "nc_stream_shuffle",
    "nc_transpose",
    "nc_version",
    "nonzero_with_count",
    "oob_mode",
    "quantize_mx",
    "rand2",
    "rand_get_state",
    "rand_set_state",
    "range_select",
    "reciprocal",
    "reduce_cmd",
    "register_alloc",
    "register_load",
    "register_move",
    "register_store",
    "rng",
    "scalar_engine",
    "scalar_tensor_tensor",
    "select_reduce",
    "sequence_bounds",
    "set_rng_seed",
    "tensor_copy",
    "tensor_copy_predicated",
    "tensor_engine",
    "tensor_partition_reduce",
    "tensor_reduce",
    "tensor_scalar",
    "tensor_scalar_cumulative",
    "tensor_scalar_reduce",
    "tensor_tensor",
    "tensor_tensor_scan",
    "topk",
    "unknown_engine",
    "vector_engine",
]
