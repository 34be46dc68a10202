"""Softmax over the rows of a matrix, safe for large values: the row's maximum is subtracted first."""

import neuronxcc.nki as nki
import neuronxcc.nki.isa as nisa
import neuronxcc.nki.language as nl
import numpy as np


@nki.jit
def kernel(x):
    """Softmax of each row of x [rows, columns]. Any number of rows."""
    rows, columns = x.shape
    result = nl.ndarray((rows, columns), dtype=x.dtype, buffer=nl.shared_hbm)
    part = nl.tile_size.pmax
    row = nl.arange(part)[:, None]
    column = nl.arange(columns)[None, :]

    for tile in nl.affine_range((rows + part - 1) // part):
        inside = tile * part + row < rows
        values = nl.load(x[tile * part + row, column], mask=inside)
        lowered = nisa.tensor_reduce(np.max, data=values, axis=[1], negate=True, mask=inside)
        powers = nisa.activation(op=np.exp, data=values, bias=lowered, mask=inside)
        inverse = nisa.reciprocal(nl.sum(powers, axis=[1], mask=inside), mask=inside)
        shares = nisa.tensor_scalar(powers, op0=np.multiply, operand0=inverse, mask=inside)
        nl.store(result[tile * part + row, column], value=shares, mask=inside)
    return result


def reference(x):
    """What `kernel` should return."""
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def inputs(rows=300, columns=512):
    """Seeded rows, the last tile not full."""
    return [4 * np.random.default_rng(0).standard_normal((rows, columns), dtype=np.float32)]
