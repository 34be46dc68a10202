"""A tiled matmul in classic NKI: many instructions, nothing clever. The timing of the simulator is what it is for."""

from typing import Any

import neuronxcc.nki as nki
import neuronxcc.nki.language as nl


@nki.jit
def tiled_matmul(lhs_t: Any, rhs: Any) -> Any:
    """[K, M].T @ [K, N] in tiles of 128 x 128 x 512, each loaded when it is needed."""
    depth, rows = lhs_t.shape
    columns = rhs.shape[1]
    result = nl.ndarray((rows, columns), dtype=lhs_t.dtype, buffer=nl.shared_hbm)
    for m in nl.affine_range(rows // 128):
        for n in nl.affine_range(columns // 512):
            total = nl.zeros((128, 512), nl.float32, buffer=nl.psum)
            for k in nl.affine_range(depth // 128):
                stationary = nl.load(lhs_t[nl.ds(k * 128, 128), nl.ds(m * 128, 128)])
                moving = nl.load(rhs[nl.ds(k * 128, 128), nl.ds(n * 512, 512)])
                total += nl.matmul(stationary, moving, transpose_x=True)
            nl.store(result[nl.ds(m * 128, 128), nl.ds(n * 512, 512)], value=nl.copy(total, dtype=result.dtype))
    return result
