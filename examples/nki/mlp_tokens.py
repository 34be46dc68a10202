"""SwiGLU MLP, variant 1: tokens lie along the partitions, (silu(x @ gate) * (x @ up)) @ down.

    turn x on the PE: [tokens, hidden] -> [hidden, tokens]
    gate, up: tokens x 512 results per PSUM bank, summed over hidden
    silu(gate) * up, turned on the PE: [tokens, inner] -> [inner, tokens]
    down: tokens x 512 results per PSUM bank, summed over inner

Launched on a grid of two (`--grid 2 --lnc 2`), each core takes half of the tokens and reads all weights. For 128 tokens,
1,024 hidden and 512 inner in bfloat16 that is, over both cores, 24 transposes and 48 other matmuls, 427,819,008 FLOPs,
6,553,600 bytes read from HBM and 262,144 written: the counts of a published profile of such a kernel on trn2.
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
    assert tokens % shards == 0 and share % rows == 0, "tokens are not divided evenly"
    assert hidden % part == 0 and inner % part == 0, "hidden or inner is no multiple of 128"
    result = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=nl.shared_hbm)

    for tile in nl.static_range(share // rows):
        first = shard * share + tile * rows
        tokens_tile = nl.load(x[nl.ds(first, rows), :])
        if tile == 0:  # weights are read once, after the first tokens are on their way
            gates = _load_rows(gate, part)
            ups = _load_rows(up, part)
            downs = _load_rows(down, part)
        turned = _turn(tokens_tile, hidden // part, rows, part)

        active = nl.ndarray((rows, inner), dtype=x.dtype, buffer=nl.sbuf)
        for start in range(0, inner, wide):
            columns = min(wide, inner - start)
            gated = _multiply(turned, gates, rows, start, columns)
            raised = _multiply(turned, ups, rows, start, columns)
            curved = nisa.activation(op=nl.silu, data=gated)
            active[:, nl.ds(start, columns)] = nisa.tensor_tensor(curved, raised, op=nl.multiply)
        active_turned = _turn(active, inner // part, rows, part)

        for start in range(0, hidden, wide):
            columns = min(wide, hidden - start)
            total = _multiply(active_turned, downs, rows, start, columns)
            nl.store(result[nl.ds(first, rows), nl.ds(start, columns)], value=nl.copy(total, dtype=x.dtype))
    return result


def _load_rows(matrix, part):
    """Whole rows of a matrix in HBM, 128 at a time: [blocks, 128, columns]."""
    blocks, columns = matrix.shape[0] // part, matrix.shape[1]
    tiles = nl.ndarray((blocks, nl.par_dim(part), columns), dtype=matrix.dtype, buffer=nl.sbuf)
    for block in nl.affine_range(blocks):
        tiles[block] = nl.load(matrix[nl.ds(block * part, part), :])
    return tiles


def _turn(matrix, blocks, rows, part):
    """Transpose [rows, blocks * 128] on the PE to [blocks, 128, rows]."""
    turned = nl.ndarray((blocks, nl.par_dim(part), rows), dtype=matrix.dtype, buffer=nl.sbuf)
    for block in nl.affine_range(blocks):
        square = nisa.nc_transpose(matrix[:, nl.ds(block * part, part)], engine=nisa.tensor_engine)
        turned[block] = nisa.tensor_copy(square)
    return turned


def _multiply(turned, weights, rows, start, columns):
    """Sum turned.T @ weights over all blocks, for `columns` columns of the weights."""
    total = nl.zeros((rows, columns), dtype=nl.float32, buffer=nl.psum)
    for block in nl.affine_range(weights.shape[0]):
        total += nisa.nc_matmul(turned[block], weights[block, :, nl.ds(start, columns)])
    return total


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
