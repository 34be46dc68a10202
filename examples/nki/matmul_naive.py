"""Matrix multiplication, step 1 of 4: every 128x128x512 product loads both of its operands.

The structure of the first kernel of the public NKI matmul tutorial, whose published time on trn1 for bfloat16
[4096, 8192] @ [8192, 8192] is 51.80 ms: the DMA engines are asked for each tile of `lhsT` once per column tile and for
each tile of `rhs` once per row tile.
"""

import ml_dtypes
import neuronxcc.nki as nki
import neuronxcc.nki.language as nl
import numpy as np


@nki.jit
def kernel(lhsT, rhs):
    """Multiply lhsT.T [M, K] by rhs [K, N]; M and K are multiples of 128, N of 512."""
    K, M = lhsT.shape
    N = rhs.shape[1]
    rows, depth, columns = nl.tile_size.gemm_stationary_fmax, nl.tile_size.pmax, nl.tile_size.gemm_moving_fmax
    assert M % rows == 0 and K % depth == 0 and N % columns == 0, "M, K, N are no multiples of 128, 128, 512"
    product = nl.ndarray((M, N), dtype=lhsT.dtype, buffer=nl.shared_hbm)

    for row_tile in nl.affine_range(M // rows):
        for column_tile in nl.affine_range(N // columns):
            total = nl.zeros((rows, columns), nl.float32, buffer=nl.psum)
            for k in nl.affine_range(K // depth):
                left = nl.load(lhsT[nl.ds(k * depth, depth), nl.ds(row_tile * rows, rows)])
                right = nl.load(rhs[nl.ds(k * depth, depth), nl.ds(column_tile * columns, columns)])
                total += nl.matmul(left, right, transpose_x=True)
            nl.store(
                product[nl.ds(row_tile * rows, rows), nl.ds(column_tile * columns, columns)],
                value=nl.copy(total, dtype=product.dtype),
            )
    return product


def reference(lhsT, rhs):
    """What `kernel` should return, in float32 throughout."""
    return (lhsT.astype(np.float32).T @ rhs.astype(np.float32)).astype(lhsT.dtype)


def inputs(M=256, K=256, N=1024):
    """Seeded bfloat16 operands."""
    generator = np.random.default_rng(0)
    return [generator.standard_normal(shape).astype(ml_dtypes.bfloat16) for shape in ((K, M), (K, N))]
