"""SwiGLU MLP, variant 2: inner columns lie along the partitions, so that silu(x @ gate) * (x @ up) needs no transpose.

Gate and up are the stationary side of their matmuls: more and smaller matmuls than in variant 1, of as many columns as
there are tokens (512 at most), but their result is already turned the way that the last matmul wants it. Launched on a grid
of two (`--grid 2 --lnc 2`), each core takes half of the tokens and reads all weights.
"""

import ml_dtypes
import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl
import numpy as np


@nki.jit
def kernel(x, gate, up, down):
    """SwiGLU of x [tokens, hidden]; gate and up are [hidden, inner], down is [inner, hidden]."""
    tokens, hidden = x.shape
    inner = gate.shape[1]
    part, wide = nl.tile_size.pmax, nl.tile_size.gemm_moving_fmax
    shards = nl.num_programs() if nl.program_ndim() else 1
    shard = nl.program_id(0) if nl.program_ndim() else 0
    share = tokens // shards
    rows = min(share, part)
    group = share if share <= wide else wide if share % wide == 0 else part  # moved through gate and up at once
    assert tokens % shards == 0 and share % group == 0 and group % rows == 0, "tokens are not divided evenly"
    assert hidden % part == 0 and inner % part == 0, "hidden or inner is no multiple of 128"
    result = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=nl.shared_hbm)

    for first in range(shard * share, (shard + 1) * share, group):
        turned = _load_turned(x, first, group, rows, part)
        if first == shard * share:  # weights are read once, after the first tokens are on their way
            gates = _load_rows(gate, part)
            ups = _load_rows(up, part)
            downs = _load_rows(down, part)
        active = nl.ndarray((inner // part, nl.par_dim(part), group), dtype=x.dtype, buffer=nl.sbuf)
        for column in nl.affine_range(inner // part):
            gated = nl.zeros((part, group), dtype=nl.float32, buffer=nl.psum)
            raised = nl.zeros((part, group), dtype=nl.float32, buffer=nl.psum)
            for block in nl.affine_range(hidden // part):
                gated += nisa.nc_matmul(gates[block, :, nl.ds(column * part, part)], turned[block])
                raised += nisa.nc_matmul(ups[block, :, nl.ds(column * part, part)], turned[block])
            curved = nisa.activation(op=nl.silu, data=gated)
            active[column] = nisa.tensor_tensor(curved, raised, op=nl.multiply)
        for row in range(0, group, rows):
            for start in range(0, hidden, wide):
                columns = min(wide, hidden - start)
                total = nl.zeros((rows, columns), dtype=nl.float32, buffer=nl.psum)
                for column in nl.affine_range(inner // part):
                    total += nisa.nc_matmul(
                        active[column, :, nl.ds(row, rows)], downs[column, :, nl.ds(start, columns)]
                    )
                place = nl.ds(first + row, rows), nl.ds(start, columns)
                nl.store(result[place], value=nl.copy(total, dtype=x.dtype))
    return result


def _load_turned(x, first, group, rows, part):
    """`group` tokens, turned on the PE to [hidden blocks, 128, group]."""
    blocks = x.shape[1] // part
    turned = nl.ndarray((blocks, nl.par_dim(part), group), dtype=x.dtype, buffer=nl.sbuf)
    for row in range(0, group, rows):
        tile = nl.load(x[nl.ds(first + row, rows), :])
        for block in nl.affine_range(blocks):
            square = nisa.nc_transpose(tile[:, nl.ds(block * part, part)], engine=nisa.tensor_engine)
            turned[block, :, nl.ds(row, rows)] = nisa.tensor_copy(square)
    return turned


def _load_rows(matrix, part):
    """Whole rows of a matrix in HBM, 128 at a time: [blocks, 128, columns]."""
    blocks, columns = matrix.shape[0] // part, matrix.shape[1]
    tiles = nl.ndarray((blocks, nl.par_dim(part), columns), dtype=matrix.dtype, buffer=nl.sbuf)
    for block in nl.affine_range(blocks):
        tiles[block] = nl.load(matrix[nl.ds(block * part, part), :])
    return tiles


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
