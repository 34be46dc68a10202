"""SiLU: x * sigmoid(x), the shortest kernel here. It waits for DMA, not for an engine."""

import neuronxcc.nki as nki
import neuronxcc.nki.language as nl
import numpy as np


@nki.jit
def kernel(x):
    """Element-wise over x [rows, columns]; rows are a multiple of 128."""
    rows, columns = x.shape
    part = nl.tile_size.pmax
    assert rows % part == 0, "rows are no multiple of 128"
    result = nl.ndarray((rows, columns), dtype=x.dtype, buffer=nl.shared_hbm)
    for tile in nl.affine_range(rows // part):
        values = nl.load(x[nl.ds(tile * part, part), :])
        nl.store(result[nl.ds(tile * part, part), :], value=nl.silu(values))
    return result


def reference(x):
    """What `kernel` should return."""
    return x / (1 + np.exp(-x))


def inputs(rows=512, columns=1024):
    """Seeded rows."""
    return [np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)]
