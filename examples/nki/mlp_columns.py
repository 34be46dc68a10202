"""SwiGLU MLP, variant 2: inner columns lie along the partitions, so that silu(x @ gate) * (x @ up) needs no transpose.

Gate and up are the stationary side of their matmuls: more and smaller matmuls than in variant 1, of as many columns as
there are tokens, but their result is already turned the way that the last matmul wants it.
"""

import ml_dtypes
import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl
import numpy as np


@nki.jit
def kernel(x, gate, up, down):
    """SwiGLU of x [tokens, hidden], tokens at most 128; gate and up are [hidden, inner], down is [inner, hidden]."""
    tokens, hidden = x.shape
    inner = gate.shape[1]
    part, wide = nl.tile_size.pmax, nl.tile_size.gemm_moving_fmax
    assert tokens <= part, "more than 128 tokens"
    assert hidden % part == 0 and inner % part == 0, "hidden or inner is no multiple of 128"
    result = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=nl.shared_hbm)

    rows = nl.load(x)
    turned = nl.ndarray((hidden // part, nl.par_dim(part), tokens), dtype=x.dtype, buffer=nl.sbuf)
    for block in nl.affine_range(hidden // part):
        square = nisa.nc_transpose(rows[:, nl.ds(block * part, part)], engine=nisa.tensor_engine)
        turned[block] = nisa.tensor_copy(square)
    gates = nl.ndarray((hidden // part, nl.par_dim(part), inner), dtype=x.dtype, buffer=nl.sbuf)
    ups = nl.ndarray((hidden // part, nl.par_dim(part), inner), dtype=x.dtype, buffer=nl.sbuf)
    for block in nl.affine_range(hidden // part):
        gates[block] = nl.load(gate[nl.ds(block * part, part), :])
        ups[block] = nl.load(up[nl.ds(block * part, part), :])

    active = nl.ndarray((inner // part, nl.par_dim(part), tokens), dtype=x.dtype, buffer=nl.sbuf)
    downs = nl.ndarray((inner // part, nl.par_dim(part), hidden), dtype=x.dtype, buffer=nl.sbuf)
    for column in nl.affine_range(inner // part):
        downs[column] = nl.load(down[nl.ds(column * part, part), :])
        gated = nl.zeros((part, tokens), dtype=nl.float32, buffer=nl.psum)
        raised = nl.zeros((part, tokens), dtype=nl.float32, buffer=nl.psum)
        for block in nl.affine_range(hidden // part):
            gated += nisa.nc_matmul(gates[block, :, nl.ds(column * part, part)], turned[block])
            raised += nisa.nc_matmul(ups[block, :, nl.ds(column * part, part)], turned[block])
        curved = nisa.activation(op=nl.silu, data=gated)
        active[column] = nisa.tensor_tensor(curved, raised, op=nl.multiply)

    for start in range(0, hidden, wide):
        columns = min(wide, hidden - start)
        total = nl.zeros((tokens, columns), dtype=nl.float32, buffer=nl.psum)
        for column in nl.affine_range(inner // part):
            total += nisa.nc_matmul(active[column], downs[column, :, nl.ds(start, columns)])
        nl.store(result[:, nl.ds(start, columns)], value=nl.copy(total, dtype=x.dtype))
    return result


def reference(x, gate, up, down):
    """What `kernel` should return, in float32 throughout."""
    x, gate, up, down = (array.astype(np.float32) for array in (x, gate, up, down))
    gated = x @ gate
    return (gated / (1 + np.exp(-gated)) * (x @ up)) @ down


def inputs(tokens=128, hidden=1024, inner=512):
    """Seeded bfloat16 tokens and weights, scaled so that results are near 1."""
    generator = np.random.default_rng(0)
    shapes = ((tokens, hidden), (hidden, inner), (hidden, inner), (inner, hidden))
    scales = (1, hidden**-0.5, hidden**-0.5, inner**-0.5)
    arrays = [scale * generator.standard_normal(shape) for shape, scale in zip(shapes, scales, strict=True)]
    return [array.astype(ml_dtypes.bfloat16) for array in arrays]
