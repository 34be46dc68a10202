"""`neuronxcc.nki.language`: its whole public surface, and what the operators of a tile call."""

from __future__ import annotations

from typing import Any

from npuscope.simulate.nki import tensors
from npuscope.simulate.nki.classic_buffers import (
    bfloat16,
    bfp16,
    bool_,
    empty_like,
    finfo,
    float8_e4m3,
    float8_e5m2,
    float16,
    float32,
    fp32,
    full,
    gemm_grid,
    gemm_stationary_grid,
    hbm,
    int8,
    int16,
    int32,
    ndarray,
    ones,
    par_dim,
    private_hbm,
    psum,
    sbuf,
    shared_constant,
    shared_hbm,
    shared_identity_matrix,
    sizeinbytes,
    static_cast,
    tfloat32,
    tile_size,
    uint8,
    uint16,
    uint32,
    zeros,
    zeros_like,
)
from npuscope.simulate.nki.classic_composites import (
    all_reduce,
    dropout,
    matmul,
    rand,
    random_seed,
    rms_norm,
    softmax,
    transpose,
    where,
)
from npuscope.simulate.nki.classic_loops import (
    affine_range,
    nc,
    num_programs,
    program_id,
    program_ndim,
    sequential_range,
    spmd_dim,
    static_range,
)
from npuscope.simulate.nki.classic_math import (
    abs,
    add,
    all,
    arctan,
    bitwise_and,
    bitwise_or,
    bitwise_xor,
    ceil,
    cos,
    divide,
    equal,
    erf,
    erf_dx,
    exp,
    floor,
    fmod,
    gelu,
    gelu_apprx_sigmoid,
    gelu_apprx_tanh,
    gelu_dx,
    greater,
    greater_equal,
    invert,
    left_shift,
    less,
    less_equal,
    log,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    max,
    maximum,
    mean,
    min,
    minimum,
    mish,
    mod,
    multiply,
    negative,
    not_equal,
    power,
    prod,
    reciprocal,
    relu,
    right_shift,
    rsqrt,
    sigmoid,
    sign,
    silu,
    silu_dx,
    sin,
    softplus,
    sqrt,
    square,
    subtract,
    sum,
    tan,
    tanh,
    trunc,
    var,
)
from npuscope.simulate.nki.classic_memory import (
    astype,
    atomic_rmw,
    broadcast_to,
    copy,
    copy_into,
    device_print,
    expand_dims,
    fill,
    gather_flattened,
    load,
    load_transpose2d,
    spread_to,
    store,
)
from npuscope.simulate.nki.classic_reduction import loop_reduce
from npuscope.simulate.nki.index import arange, ds, mgrid
from npuscope.simulate.nki.tensors import Tensor


class constants:  # noqa: N801 - the name that kernels use
    """`nl.constants`, of early releases."""

    sbuf_min_align = tile_size.sbuf_min_align
    psum_min_align = tile_size.psum_min_align
    sizeinbytes = staticmethod(sizeinbytes)


def _floor_divide(x: Any, y: Any) -> Any:
    return floor(divide(x, y))


def _operator_functions() -> dict[str, Any]:
    """What Python's operators on a tile do, by the names that `tensors.operations` uses."""
    binaries = (
        *(add, subtract, multiply, divide, mod, power, bitwise_and, bitwise_or, bitwise_xor, left_shift, right_shift),
        *(less, less_equal, greater, greater_equal, equal, not_equal, matmul, negative, abs, invert, astype, fill),
    )
    functions: dict[str, Any] = {function.__name__: function for function in binaries}
    return {**functions, "floor_divide": _floor_divide, "copy": copy_into, "spread": spread_to}


tensors.operations.update(_operator_functions())

__all__ = [
    name
    for name, value in list(globals().items())
    if not name.startswith("_") and name not in ("annotations", "Any", "tensors", "copy_into", "fill", "spread_to")
]
