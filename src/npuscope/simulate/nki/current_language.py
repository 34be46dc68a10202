"""`nki.language` of the current dialect: types, memories, tensors, loops and functions."""
# ruff: noqa: A004 - the documented names

from __future__ import annotations

from typing import Any, Final

import numpy as np

from npuscope.simulate.nki.classic_compiler import PARTITIONS, PSUM_BANK_BYTES, PSUM_BANKS
from npuscope.simulate.nki.classic_loops import program_ndim
from npuscope.simulate.nki.current_functions import (
    abs_max,
    abs_min,
    all,
    average,
    broadcast_to,
    bypass,
    device_print,
    elementwise,
    expand_dims,
    full,
    gelu_apprx_sigmoid_dx,
    load,
    matmul,
    no_reorder,
    num_programs,
    ones,
    prelu,
    program_id,
    rand,
    rms_norm,
    shared_constant,
    shared_identity_matrix,
    store,
    transpose,
    where,
    zeros,
    zeros_like,
)
from npuscope.simulate.nki.current_memory import (
    empty_like,
    is_hbm,
    is_on_chip,
    is_psum,
    is_sbuf,
    ndarray,
    sbuf_bytes,
)
from npuscope.simulate.nki.current_registers import (
    affine_range,
    dynamic_range,
    fori_loop,
    sequential_range,
    static_range,
    while_loop,
)
from npuscope.simulate.nki.current_tensor import MemoryRegion, NkiTensor
from npuscope.simulate.nki.dtypes import TFLOAT32, as_dtype
from npuscope.simulate.nki.index import ds
from npuscope.simulate.nki.mx import FLOAT4_E2M1FN_X4, FLOAT8_E4M3FN_X4, FLOAT8_E5M2_X4

bool_ = as_dtype(np.bool_)
int8, int16, int32 = as_dtype(np.int8), as_dtype(np.int16), as_dtype(np.int32)
uint8, uint16, uint32 = as_dtype(np.uint8), as_dtype(np.uint16), as_dtype(np.uint32)
float16, float32 = as_dtype(np.float16), as_dtype(np.float32)
bfloat16, tfloat32 = as_dtype("bfloat16"), TFLOAT32
float8_e4m3, float8_e4m3fn = as_dtype("float8_e4m3"), as_dtype("float8_e4m3fn")
float8_e5m2, float8_e8m0fnu = as_dtype("float8_e5m2"), as_dtype("float8_e8m0fnu")
float8_e5m2_x4, float8_e4m3fn_x4 = FLOAT8_E5M2_X4, FLOAT8_E4M3FN_X4
float4_e2m1fn_x4 = FLOAT4_E2M1FN_X4

sbuf = MemoryRegion.sbuf
psum = MemoryRegion.psum
private_hbm = MemoryRegion.private_hbm
hbm = private_hbm
shared_hbm = MemoryRegion.shared_hbm


class NKIObject:
    """Base of a kernel's own classes of settings."""

    def __init__(self, **kwargs: Any) -> None:
        for name, value in kwargs.items():
            setattr(self, name, value)


class _TileSize:
    """`nl.tile_size`: limits of a tile (AWS Neuron documentation, `nki.language.tile_size`)."""

    pmax: Final = PARTITIONS
    psum_bank_fmax: Final = PSUM_BANK_BYTES // 4
    """float32 elements per partition."""
    psum_fmax: Final = psum_bank_fmax
    psum_bank_fmax_bytes: Final = PSUM_BANK_BYTES
    gemm_stationary_fmax: Final = 128
    gemm_moving_fmax: Final = 512
    bn_stats_fmax: Final = 512
    psum_min_align: Final = 4
    """Bytes."""
    sbuf_min_align: Final = 1
    """Bytes."""
    psum_num_banks: Final = PSUM_BANKS

    @property
    def sbuf_fmax_bytes(self) -> int:
        """SBUF that a kernel may use, per partition."""
        return sbuf_bytes()

    @property
    def sbuf_fmax(self) -> int:
        """float32 elements of SBUF that a kernel may use, per partition."""
        return sbuf_bytes() // 4

    @property
    def sbuf_size_bytes(self) -> int:
        """SBUF that a kernel may use, all partitions together."""
        return sbuf_bytes() * PARTITIONS

    @property
    def total_available_sbuf_size(self) -> int:
        """Another name of `sbuf_fmax_bytes`."""
        return sbuf_bytes()


tile_size: Final = _TileSize()

globals().update(elementwise())

__all__ = [
    "MemoryRegion",
    "NKIObject",
    "NkiTensor",
    "abs_max",
    "abs_min",
    "affine_range",
    "all",
    "average",
    "bfloat16",
    "bool_",
    "broadcast_to",
    "bypass",
    "device_print",
    "ds",
    "dynamic_range",
    "empty_like",
    "expand_dims",
    "float4_e2m1fn_x4",
    "float8_e4m3",
    "float8_e4m3fn",
    "float8_e4m3fn_x4",
    "float8_e5m2",
    "float8_e5m2_x4",
    "float8_e8m0fnu",
    "float16",
    "float32",
    "fori_loop",
    "full",
    "gelu_apprx_sigmoid_dx",
    "hbm",
    "int8",
    "int16",
    "int32",
    "is_hbm",
    "is_on_chip",
    "is_psum",
    "is_sbuf",
    "load",
    "matmul",
    "ndarray",
    "no_reorder",
    "num_programs",
    "ones",
    "prelu",
    "private_hbm",
    "program_id",
    "program_ndim",
    "psum",
    "rand",
    "rms_norm",
    "sbuf",
    "sequential_range",
    "shared_constant",
    "shared_hbm",
    "shared_identity_matrix",
    "static_range",
    "store",
    "tfloat32",
    "tile_size",
    "transpose",
    "uint8",
    "uint16",
    "uint32",
    "where",
    "while_loop",
    "zeros",
    "zeros_like",
    *elementwise(),
]
