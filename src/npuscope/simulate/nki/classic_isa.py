"""`neuronxcc.nki.isa`: every instruction and enumeration that the documentation of SDK 2.26 lists.

Instructions return fresh tiles in the classic style, or write their `dst` where the documentation has one. Undocumented
keywords of older kernels, such as `name=` or `lazy_initialization=`, are accepted wherever `**kwargs` is documented.
"""

from __future__ import annotations

from typing import Any

from npuscope.simulate.nki.classic_isa_activation import (
    activation,
    activation_reduce,
    range_select,
    select_reduce,
    tensor_copy_predicated,
)
from npuscope.simulate.nki.classic_isa_dma import dma_copy, dma_transpose
from npuscope.simulate.nki.classic_isa_matmul import nc_matmul, nc_transpose
from npuscope.simulate.nki.classic_isa_reduce import (
    bn_aggr,
    bn_stats,
    tensor_partition_reduce,
    tensor_reduce,
    tensor_scalar_reduce,
    tensor_tensor_scan,
)
from npuscope.simulate.nki.classic_isa_select import (
    affine_select,
    iota,
    local_gather,
    max8,
    nc_find_index8,
    nc_match_replace8,
    nc_stream_shuffle,
    sequence_bounds,
)
from npuscope.simulate.nki.classic_isa_vector import (
    dropout,
    memset,
    reciprocal,
    scalar_tensor_tensor,
    tensor_copy,
    tensor_copy_dynamic_dst,
    tensor_copy_dynamic_src,
    tensor_scalar,
    tensor_tensor,
)
from npuscope.simulate.nki.isa_enums import FP32_MIN, dge_mode, engine, nc_version, oob_mode, reduce_cmd
from npuscope.simulate.nki.trace import KernelError, current

tensor_engine = engine.tensor
vector_engine = engine.vector
scalar_engine = engine.scalar
gpsimd_engine = engine.gpsimd
unknown_engine = engine.unknown
dma_engine = engine.dma


class fp32:  # noqa: N801 - the name that kernels use
    """Constants of float32."""

    min = FP32_MIN
    """The lowest finite value."""


class constants:  # noqa: N801
    """`nki.isa.constants`, which older kernels take the engines from."""

    engine = engine


def get_nc_version() -> nc_version:
    """The generation of the device that the kernel is simulated for."""
    return nc_version(current().nc_version)


def builtin_custom_op(*args: Any, **kwargs: Any) -> Any:  # noqa: ARG001
    """Runs a compiled library on GpSimd: there is no library here.

    Raises:
        KernelError: Always.
    """
    raise KernelError("nki.isa.builtin_custom_op is not supported by the simulator")


__all__ = [
    "activation",
    "activation_reduce",
    "affine_select",
    "bn_aggr",
    "bn_stats",
    "builtin_custom_op",
    "constants",
    "dge_mode",
    "dma_copy",
    "dma_engine",
    "dma_transpose",
    "dropout",
    "engine",
    "fp32",
    "get_nc_version",
    "gpsimd_engine",
    "iota",
    "local_gather",
    "max8",
    "memset",
    "nc_find_index8",
    "nc_match_replace8",
    "nc_matmul",
    "nc_stream_shuffle",
    "nc_transpose",
    "nc_version",
    "oob_mode",
    "range_select",
    "reciprocal",
    "reduce_cmd",
    "scalar_engine",
    "scalar_tensor_tensor",
    "select_reduce",
    "sequence_bounds",
    "tensor_copy",
    "tensor_copy_dynamic_dst",
    "tensor_copy_dynamic_src",
    "tensor_copy_predicated",
    "tensor_engine",
    "tensor_partition_reduce",
    "tensor_reduce",
    "tensor_scalar",
    "tensor_scalar_reduce",
    "tensor_tensor",
    "tensor_tensor_scan",
    "unknown_engine",
    "vector_engine",
]
