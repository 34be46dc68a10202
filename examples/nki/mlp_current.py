"""SwiGLU MLP, variant 1 in the current dialect: buffers are explicit, and each instruction names its destination."""

import ml_dtypes
import nki
import nki.isa as nisa
import nki.language as nl
import numpy as np

PART = 128
WIDE = 512


@nki.jit
def kernel(x, gate, up, down):
    """SwiGLU of x [tokens, hidden], tokens at most 128; gate and up are [hidden, inner], down is [inner, hidden]."""
    tokens, hidden = x.shape
    inner = gate.shape[1]
    assert tokens <= PART, "more than 128 tokens"
    assert hidden % PART == 0 and inner % PART == 0, "hidden or inner is no multiple of 128"
    result = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=nl.shared_hbm)

    rows = nl.ndarray((tokens, hidden), dtype=x.dtype, buffer=nl.sbuf)
    nisa.dma_copy(dst=rows, src=x)
    gates = load_rows(gate)
    ups = load_rows(up)
    downs = load_rows(down)
    turned = turn(rows, tokens)

    active = nl.ndarray((tokens, inner), dtype=x.dtype, buffer=nl.sbuf)
    for start in range(0, inner, WIDE):
        stop = min(start + WIDE, inner)
        gated = multiply(turned, gates, tokens, start, stop)
        raised = multiply(turned, ups, tokens, start, stop)
        curved = nl.ndarray((tokens, stop - start), dtype=nl.float32, buffer=nl.sbuf)
        nisa.activation(dst=curved, op=nl.silu, data=gated)
        nisa.tensor_tensor(dst=active[:, start:stop], data1=curved, data2=raised, op=nl.multiply)
    active_turned = turn(active, tokens)

    for start in range(0, hidden, WIDE):
        stop = min(start + WIDE, hidden)
        total = multiply(active_turned, downs, tokens, start, stop)
        rounded = nl.ndarray((tokens, stop - start), dtype=x.dtype, buffer=nl.sbuf)
        nisa.tensor_copy(dst=rounded, src=total)
        nisa.dma_copy(dst=result[:, start:stop], src=rounded)
    return result


def load_rows(matrix):
    """Whole rows of a matrix in HBM, 128 at a time."""
    tiles = []
    for start in range(0, matrix.shape[0], PART):
        tile = nl.ndarray((PART, matrix.shape[1]), dtype=matrix.dtype, buffer=nl.sbuf)
        nisa.dma_copy(dst=tile, src=matrix[start : start + PART, :])
        tiles.append(tile)
    return tiles


def turn(matrix, rows):
    """Transpose [rows, columns] on the PE, 128 columns at a time."""
    turned = []
    for start in range(0, matrix.shape[1], PART):
        square = nl.ndarray((PART, rows), dtype=matrix.dtype, buffer=nl.psum)
        nisa.nc_transpose(dst=square, data=matrix[:, start : start + PART], engine=nisa.engine.tensor)
        tile = nl.ndarray((PART, rows), dtype=matrix.dtype, buffer=nl.sbuf)
        nisa.tensor_copy(dst=tile, src=square)
        turned.append(tile)
    return turned


def multiply(turned, weights, rows, start, stop):
    """Sum turned.T @ weights over all blocks, for columns `start` to `stop` of the weights."""
    total = nl.ndarray((rows, stop - start), dtype=nl.float32, buffer=nl.psum)
    for block in range(len(turned)):
        nisa.nc_matmul(dst=total, stationary=turned[block], moving=weights[block][:, start:stop], accumulate=block > 0)
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
